//! `make bench`: how fast Hearth is, beside what it is compared with in the same run.
//!
//! usage: `bench [first-sync] [save] [rename] [edits] [big-file] [idle]`, everything by default. Prints a table, then the same
//! as JSON on the last line. Seconds depend on the computer; ratios do so far less, and only they are goals. Files lie
//! under `TMPDIR`, which should be on a disk: about 6 GB, deleted only at the end, since files made soon after many
//! deletions cost more on ext4.

mod bare;
mod big_file;
mod edits;
mod first_sync;
mod idle;
mod rename;
mod report;
mod save;
mod source;
mod world;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::report::Report;
use crate::source::Source;

const CASES: [&str; 6] = ["first-sync", "save", "rename", "edits", "big-file", "idle"];

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a stderr the exit code has to do.
            let _ = writeln!(io::stderr(), "error: {error:#}\nhint: `bench {}` runs everything", CASES.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn run(wanted: Vec<String>) -> Result<()> {
    if let Some(unknown) = wanted.iter().find(|case| !CASES.contains(&case.as_str())) {
        bail!("there is no case {unknown}");
    }
    let chosen = |case: &str| wanted.is_empty() || wanted.iter().any(|name| name == case);
    let mut report = Report::default();
    // One world with 20,000 files serves the first sync's last round, the saves and the idle minute.
    let mut worlds = Vec::new();
    if chosen("first-sync") || chosen("save") || chosen("idle") {
        let source = Source::collect()?;
        let rounds = if chosen("first-sync") { first_sync::ROUNDS } else { 1 };
        worlds = first_sync::measure(&source, rounds, &mut report)?;
    }
    if let Some(world) = worlds.last_mut() {
        if chosen("save") {
            save::measure(world, &mut report)?;
        }
        if chosen("idle") {
            idle::measure(world, &mut report)?;
        }
    }
    if chosen("rename") {
        rename::measure(&mut report)?;
    }
    if chosen("edits") {
        edits::measure(&mut report)?;
    }
    if chosen("big-file") {
        big_file::measure(&mut report)?;
    }
    let mut out = io::stdout().lock();
    write!(out, "{}\n{}\n", report.table(), report.json()).context("printing the report")
}
