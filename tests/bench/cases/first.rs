//! First syncs: a tree appears on the laptop while both sides run, and ends when the desktop has all of it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_tests::link::Line;
use hearth_tests::process::succeed;

use super::{Cost, LIMIT, assert_alike, change};
use crate::ground::Ground;
use crate::report::Report;
use crate::tools::{On, Tool, Which, memory};

const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// What is copied.
pub(crate) struct Material<'a> {
    /// As the report calls it.
    pub(crate) name: &'a str,
    pub(crate) from: &'a Path,
    /// What lies between the two machines, if they are far from each other.
    pub(crate) line: Option<Line>,
}

/// Measures each tool in turn, so many rounds; returns those of the last round, still running.
pub(crate) fn measure(
    material: &Material<'_>,
    tools: &[Which],
    rounds: usize,
    report: &mut Report,
) -> Result<Vec<(Which, Box<dyn Tool>)>> {
    let mut last = Vec::new();
    let mut costs: Vec<(Which, Cost)> = Vec::new();
    for round in 0..rounds {
        for which in tools {
            let mut tool = which.set_up(material.line)?;
            costs.push((*which, first(tool.as_mut(), material)?));
            if let Some([laptop, desktop]) = memory(tool.as_ref(), "VmHWM")? {
                let peak = laptop.max(desktop);
                report.sample(&format!("{}: peak memory", material.name), *which, peak, "MB");
            }
            if round + 1 == rounds {
                last.push((*which, tool));
            } else {
                tool.stop()?;
            }
        }
    }
    for (which, cost) in costs {
        report.cost(material.name, which, cost);
    }
    Ok(last)
}

fn first(tool: &mut dyn Tool, material: &Material<'_>) -> Result<Cost> {
    let waiting = tool.tree(On::Laptop).with_file_name(".cache");
    fs::create_dir_all(&waiting).context("making a folder that nobody syncs")?;
    let waiting = waiting.join("waiting");
    succeed(Command::new("cp").args(["--archive", "--"]).arg(material.from).arg(&waiting), LIMIT)?;
    let expected = count(&waiting)?;
    tool.start()?;
    tool.settle()?;
    Ground::flush()?;
    let cost = change(
        tool,
        |tree| fs::rename(&waiting, tree.join("first")).context("putting the tree where it is synced"),
        |tool| until_all(tool, expected),
    )?;
    assert_alike(tool)?;
    Ok(cost)
}

/// Asks the tool first: to look at the desktop's tree again and again would cost more than some of what is measured.
fn until_all(tool: &mut dyn Tool, expected: usize) -> Result<Instant> {
    let begun = Instant::now();
    loop {
        if tool.is_live() {
            tool.settle()?;
        }
        let seen = Instant::now();
        if count(&tool.tree(On::Desktop))? >= expected {
            return Ok(seen);
        }
        ensure!(begun.elapsed() < LIMIT, "the desktop does not have everything");
        thread::sleep(BETWEEN_LOOKS);
    }
}

/// How many files a tree has.
pub(super) fn count(tree: &Path) -> Result<usize> {
    let listed = succeed(Command::new("find").arg(tree).args(["-type", "f", "-printf", "."]), LIMIT)?;
    Ok(listed.len())
}
