//! `make bench`: how fast Hearth is, beside rsync, Unison, Syncthing, iroh and iperf3 in the same run.
//!
//! usage: `bench [CASE...] [--tools TOOL,...] [--rounds N] [--networks NAME,...]`, everything and three rounds by default. Prints a table, then
//! the same as JSON on the last line. Seconds depend on the computer; ratios do so far less. Each tool has two network
//! namespaces and fresh ext4 file systems for each round, since files made soon after many deletions cost more. Their
//! images lie under `TMPDIR`, which should be on a disk: about 10 GB. Needs root.

mod bare;
mod cases;
#[expect(dead_code, reason = "shared with the relay's own tests, which ask more of a client")]
#[path = "../../relay-server/tests/support/client.rs"]
mod client;
mod crowd;
mod ends;
mod ground;
#[expect(dead_code, reason = "shared with the relay's own tests, which ask more of a household")]
#[path = "../../relay-server/tests/support/household.rs"]
mod household;
mod report;
mod source;
#[path = "../../relay-server/tests/support/takers.rs"]
mod takers;
mod tools;
mod world;

use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use hearth_tests::link::Line;
use hearth_tests::scratch::Scratch;
use hearth_tests::tree::write_noise;

use crate::cases::first::Material;
use crate::cases::many::Many;
use crate::cases::{connect, edits, fidelity, first, line, many, races, relay, stalls, stream};
use crate::report::Report;
use crate::source::Source;
use crate::tools::Which;

const CASES: [&str; 13] = [
    "first-sync",
    "edits",
    "big-file",
    "far",
    "large-edits",
    "many",
    "fidelity",
    "races",
    "stream",
    "connect",
    "stalls",
    "line",
    "relay",
];
/// Files of the first sync over a long line.
const FAR_FILES: usize = 2_000;

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a stderr the exit code has to do.
            let hint = format!(
                "hint: bench [{}] [--tools hearth,rsync,unison,syncthing,iroh,iperf3] [--rounds N] [--networks easy,…]",
                CASES.join("|")
            );
            let _ = writeln!(io::stderr(), "error: {error:#}\n{hint}");
            ExitCode::FAILURE
        }
    }
}

/// What is to be measured.
struct Wanted {
    cases: Vec<String>,
    tools: Vec<Which>,
    rounds: usize,
    /// Networks of the NAT lab; all if there is none.
    networks: Vec<String>,
}

impl Wanted {
    fn parse(arguments: Vec<String>) -> Result<Self> {
        let mut wanted = Self { cases: Vec::new(), tools: Which::ALL.to_vec(), rounds: 3, networks: Vec::new() };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--tools" => {
                    let names = value()?;
                    let named = |name: &str| Which::ALL.into_iter().find(|which| which.name() == name);
                    let tools =
                        names.split(',').map(|name| named(name).with_context(|| format!("there is no tool {name}")));
                    wanted.tools = tools.collect::<Result<_>>()?;
                }
                "--networks" => wanted.networks = value()?.split(',').map(str::to_owned).collect(),
                "--rounds" => wanted.rounds = value()?.parse().context("rounds are a number")?,
                case if CASES.contains(&case) => wanted.cases.push(argument),
                _ => bail!("there is no case {argument}"),
            }
        }
        ensure!(wanted.rounds > 0, "at least one round is needed");
        Ok(wanted)
    }

    fn has(&self, case: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|other| other == case)
    }
}

fn run(arguments: Vec<String>) -> Result<()> {
    if let Some(("end", words)) = arguments.split_first().map(|(first, words)| (first.as_str(), words)) {
        return bare::end(words);
    }
    let wanted = Wanted::parse(arguments)?;
    let mut report = Report::default();
    measure(&wanted, &mut report)?;
    let mut out = io::stdout().lock();
    write!(out, "{}\n{}\n", report.table(), report.json()).context("printing the report")
}

fn measure(wanted: &Wanted, report: &mut Report) -> Result<()> {
    let (all, rounds) = (&wanted.tools, wanted.rounds);
    let tools: &Vec<Which> = &all.iter().copied().filter(|which| which.syncs()).collect();
    if wanted.has("first-sync") || wanted.has("edits") {
        let source = Source::collect()?;
        let material = Material { name: "first sync of 20,000 files", from: &source.path(), line: None };
        let rounds = if wanted.has("first-sync") { rounds } else { 1 };
        for (which, mut tool) in first::measure(&material, tools, rounds, report)? {
            if wanted.has("edits") {
                edits::checkout(which, tool.as_mut(), report)?;
                edits::rename_and_delete(which, tool.as_mut(), report)?;
                edits::save(which, tool.as_mut(), "near", report)?;
            }
            tool.stop()?;
        }
    }
    if wanted.has("big-file") {
        let scratch = Scratch::new()?;
        let folder = scratch.path().join("film");
        fs::create_dir(&folder).context("making a folder")?;
        write_noise(&folder.join("film.bin"), 1, 1 << 30)?;
        let material = Material { name: "first sync of 1 GiB", from: &folder, line: None };
        for (_, mut tool) in first::measure(&material, tools, rounds, report)? {
            tool.stop()?;
        }
    }
    if wanted.has("far") {
        let source = Source::collect_some(FAR_FILES)?;
        for (how, lost_ppm) in [("far", 0), ("far and lossy", 10_000)] {
            let line = Some(Line { delay_ms: 20, lost_ppm, kbit: 100_000 });
            let name = format!("{how}, first sync of 2,000 files");
            let material = Material { name: &name, from: &source.path(), line };
            for (which, mut tool) in first::measure(&material, tools, rounds, report)? {
                edits::save(which, tool.as_mut(), how, report)?;
                tool.stop()?;
            }
        }
    }
    if wanted.has("large-edits") {
        for _ in 0..rounds {
            tools.iter().try_for_each(|which| edits::large(*which, report))?;
        }
    }
    if wanted.has("many") {
        let files = Many::make()?;
        for _ in 0..rounds {
            tools.iter().try_for_each(|which| many::measure(&files, *which, report))?;
        }
    }
    if wanted.has("fidelity") {
        tools.iter().try_for_each(|which| fidelity::measure(*which, report))?;
    }
    if wanted.has("races") {
        let both_ways = tools.iter().filter(|which| **which != Which::Rsync);
        both_ways.copied().try_for_each(|which| races::measure(which, report))?;
    }
    if wanted.has("stream") {
        stream::measure(report)?;
    }
    let connects = ["connect", "stalls", "line"];
    if all.contains(&Which::Iroh) && connects.iter().any(|case| wanted.has(case)) {
        // Somebody may wonder what takes so long.
        let _ =
            writeln!(io::stderr(), "building iroh's ends (tests/bench/iroh-peer), which takes minutes the first time");
        ends::build_iroh()?;
    }
    if wanted.has("connect") {
        connect::measure(all, &wanted.networks, rounds, report)?;
    }
    if wanted.has("stalls") {
        stalls::measure(all, rounds, report)?;
    }
    if wanted.has("line") {
        line::measure(all, rounds, report)?;
    }
    if wanted.has("relay") {
        relay::measure(report)?;
    }
    Ok(())
}
