//! The first sync of 20,000 files, beside rsync copying the same tree on the same disk.
//!
//! Ours begins when the tree appears in the home of a machine that is enrolled and idle, and ends when both machines
//! say that they agree: settling, indexing, encryption, the relay and durability are in it. Rsync reads and writes.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hearth_tests::process::succeed;
use hearth_tests::tree;

use crate::report::{Goal, Report};
use crate::source::{FILES, Source};
use crate::world::World;

pub(crate) const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(1800);

/// Measures, and returns the worlds of all rounds: the last goes on, the files of the others are deleted with them.
pub(crate) fn measure(source: &Source, rounds: usize, report: &mut Report) -> Result<Vec<World>> {
    let (mut ours, mut theirs, mut worlds) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let world = World::new()?;
        theirs.push(rsync(source, &world)?);
        ours.push(hearth(source, &world)?);
        tree::assert_equal(&world.laptop.home(), &world.desktop.home(), &tree::OWN)?;
        worlds.push(world);
    }
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
    report.median("first sync of 20,000 files: rsync", &theirs, "s", None);
    report.median("first sync of 20,000 files: hearth", &ours, "s", None);
    report.median("first sync of 20,000 files: hearth ÷ rsync", &ratios, "×", Some(Goal::AtMost(2.4)));
    let (last, earlier) = worlds.split_last_mut().context("there was a round")?;
    for machine in [&last.laptop, &last.desktop] {
        let peak = crate::idle::memory(machine, "VmHWM")?;
        report.add(&format!("first sync: peak memory of the {}", machine.name()), peak, "MB", None);
    }
    for world in earlier {
        world.laptop.stop()?;
        world.desktop.stop()?;
        world.relay.stop()?;
    }
    Ok(worlds)
}

fn rsync(source: &Source, world: &World) -> Result<f64> {
    let target = world.scratch.path().join("rsync");
    fs::create_dir(&target).context("making a folder for rsync")?;
    flush()?;
    let begun = Instant::now();
    let mut from = source.path().into_os_string();
    from.push("/");
    succeed(Command::new("rsync").arg("--archive").arg(from).arg(&target), LIMIT)?;
    Ok(begun.elapsed().as_secs_f64())
}

fn hearth(source: &Source, world: &World) -> Result<f64> {
    let waiting = world.scratch.path().join("waiting");
    succeed(Command::new("cp").args(["--archive", "--"]).arg(source.path()).arg(&waiting), LIMIT)?;
    flush()?;
    let begun = Instant::now();
    fs::rename(&waiting, world.laptop.path("source")).context("putting the tree into the home")?;
    world.laptop.settle(LIMIT)?;
    world.desktop.settle(LIMIT)?;
    let took = begun.elapsed().as_secs_f64();
    let arrived = tree::read(&world.desktop.path("source"), &[])?;
    let files = arrived.values().filter(|entry| matches!(entry, tree::Entry::File { .. })).count();
    anyhow::ensure!(files == FILES, "{files} of {FILES} files arrived");
    Ok(took)
}

/// Everyone begins with nothing left to write.
fn flush() -> Result<()> {
    succeed(&mut Command::new("sync"), LIMIT).map(drop)
}
