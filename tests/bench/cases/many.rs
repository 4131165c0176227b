//! 100,000 files: two copies that have to agree when they first meet, a restart with one change, and an idle minute.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hearth_tests::process::succeed;
use hearth_tests::scratch::Scratch;
use hearth_tests::tree::write_noise;
use hearth_tests::watch::until_file;

use super::{LIMIT, assert_alike};
use crate::ground::Ground;
use crate::report::Report;
use crate::tools::{On, Tool, Which, cpu_exactly, memory};

const FILES: u64 = 100_000;
const FOLDERS: u64 = 1_000;
/// Before the minute begins, whatever still cools down may.
const CALM: Duration = Duration::from_secs(20);
const MINUTE: Duration = Duration::from_secs(60);

/// The files, 5 kB each on average, in a scratch folder of their own.
pub(crate) struct Many(Scratch);

impl Many {
    pub(crate) fn make() -> Result<Self> {
        let many = Self(Scratch::new()?);
        let folder = |number: u64| many.path().join(format!("{}/{number}", number % 30));
        for number in 0..FOLDERS {
            fs::create_dir_all(folder(number)).context("making a folder")?;
        }
        for number in 0..FILES {
            let path = folder(number % FOLDERS).join(format!("{number}.dat"));
            write_noise(&path, number, 500 + number * 7919 % 9_000)?;
        }
        Ok(many)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("many")
    }
}

/// Both sides have the same files already when they are started for the first time; then one change while both are down;
/// then nothing.
pub(crate) fn measure(many: &Many, which: Which, report: &mut Report) -> Result<()> {
    let mut tool = which.set_up(None)?;
    let tool = tool.as_mut();
    for on in [On::Laptop, On::Desktop] {
        copy(&many.path(), &tool.tree(on).join("many"))?;
    }
    Ground::flush()?;
    let wire = tool.ground().wire()?;
    let begun = Instant::now();
    tool.start()?;
    tool.settle()?;
    report.sample("100,000 equal files: agreed", which, begun.elapsed().as_secs_f64(), "s");
    let wire = (tool.ground().wire()? - wire) as f64 / 1e6;
    report.sample("100,000 equal files: wire", which, wire, "MB");
    assert_alike(tool)?;
    restart(tool, which, report)?;
    if tool.watch()? {
        idle(tool, which, report)?;
    }
    tool.stop()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    succeed(Command::new("cp").args(["--archive", "--"]).arg(from).arg(to), LIMIT).map(drop)
}

fn restart(tool: &mut dyn Tool, which: Which, report: &mut Report) -> Result<()> {
    tool.stop()?;
    let path = Path::new("many/7/7/7.dat");
    fs::write(tool.tree(On::Laptop).join(path), "changed while nobody looked").context("changing a file")?;
    Ground::flush()?;
    let begun = Instant::now();
    tool.start()?;
    if !tool.is_live() {
        tool.settle()?;
    }
    let seen = until_file(&tool.tree(On::Desktop).join(path), LIMIT, |path| {
        fs::metadata(path).ok().filter(|data| data.len() == 27).map(|_| Instant::now())
    })?;
    report.sample("restart with 100,000: change seen", which, seen.duration_since(begun).as_secs_f64(), "s");
    if tool.is_live() {
        tool.settle()?;
    }
    // What was spent before the start was another process's.
    report.sample("restart with 100,000: CPU of both sides", which, tool.cpu()?, "s");
    Ok(())
}

fn idle(tool: &mut dyn Tool, which: Which, report: &mut Report) -> Result<()> {
    // Nothing happens for a minute: there is no event to wait for.
    thread::sleep(CALM);
    let before = cpu_exactly(tool)?;
    thread::sleep(MINUTE);
    let after = cpu_exactly(tool)?;
    let spent = before.into_iter().flatten().zip(after.into_iter().flatten()).map(|(before, after)| after - before);
    for (side, spent) in ["laptop", "desktop"].into_iter().zip(spent) {
        report.sample(&format!("idle with 100,000: CPU of the {side}"), which, spent * 1000.0, "ms/min");
    }
    for (side, own) in ["laptop", "desktop"].into_iter().zip(memory(tool, "RssAnon")?.into_iter().flatten()) {
        report.sample(&format!("idle with 100,000: memory of the {side}"), which, own, "MB");
    }
    Ok(())
}
