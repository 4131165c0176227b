//! One file of a GiB, beside a bare QUIC stream over the same relay path.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hearth_tests::tree;

use crate::bare;
use crate::report::Report;
use crate::tools::Which;
use crate::world::World;

const BYTES: u64 = 1 << 30;
const ROUNDS: u64 = 3;
const LIMIT: Duration = Duration::from_secs(1800);

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let world = World::new()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        theirs.push(speed(bare::stream(world.relay.address(), BYTES)?));
        let name = format!("film {round}.bin");
        let waiting = world.scratch.path().join(&name);
        tree::write_noise(&waiting, round, BYTES)?;
        fs::File::open(&waiting).and_then(|file| file.sync_all()).context("writing the file out")?;
        let begun = Instant::now();
        fs::rename(&waiting, world.laptop.path(&name)).context("putting the file into the home")?;
        let seen = world.desktop.until_there(&name, true, LIMIT)?;
        ours.push(speed(seen.duration_since(begun)));
        world.laptop.settle(LIMIT)?;
    }
    tree::assert_equal(&world.laptop.home(), &world.desktop.home(), &tree::OWN)?;
    for (ours, theirs) in ours.iter().zip(&theirs) {
        report.sample("one file of 1 GiB: a bare stream by the relay", Which::Hearth, *theirs, "MB/s");
        report.sample("one file of 1 GiB: hearth", Which::Hearth, *ours, "MB/s");
        report.sample("one file of 1 GiB: hearth ÷ bare stream", Which::Hearth, ours / theirs, "×");
    }
    Ok(())
}

fn speed(took: Duration) -> f64 {
    BYTES as f64 / 1e6 / took.as_secs_f64()
}
