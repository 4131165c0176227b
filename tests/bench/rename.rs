//! A renamed directory of 5,000 files: the time until it is seen, and the bytes through the other machine's interface.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hearth_tests::pair::Pair;
use hearth_tests::tree;

use crate::report::{Goal, Report};

const FILES: u64 = 5_000;
const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(300);

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let pair = Pair::joined_with(|laptop, _| {
        (0..FILES)
            .try_for_each(|number| laptop.write(format!("0/{}/{number}.txt", number % 50), tree::noise(number, 2_000)))
    })?;
    let (mut seen, mut agreed, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (old, new) = (round.to_string(), (round + 1).to_string());
        let before = pair.lab.traffic("desktop")?.total();
        let begun = Instant::now();
        fs::rename(pair.laptop.path(old), pair.laptop.path(&new)).context("renaming the folder")?;
        let arrived = pair.desktop.until_there(format!("{new}/49/4999.txt"), true, LIMIT)?;
        seen.push(arrived.duration_since(begun).as_secs_f64());
        pair.settle(LIMIT)?;
        agreed.push(begun.elapsed().as_secs_f64());
        bytes.push((pair.lab.traffic("desktop")?.total() - before) as f64 / 1000.0);
    }
    pair.assert_alike()?;
    report.median("rename of a folder with 5,000 files: seen", &seen, "s", Some(Goal::AtMost(1.0)));
    report.median("rename of a folder with 5,000 files: agreed", &agreed, "s", None);
    report.median("rename of a folder with 5,000 files: on the wire", &bytes, "kB", Some(Goal::AtMost(100.0)));
    Ok(())
}
