//! Random worlds: crashes, full disks, lost links, and people who act at the wrong moment.
//!
//! The number of worlds is in `HEARTH_SEEDS`; the first of them in `HEARTH_FIRST_SEED`. Half as many follow in which a
//! person is asked about every few losses, half as many in which files are merged, half as many in which they have
//! extended attributes and second names, half as many in which programs keep files open and write to them later, half as
//! many in which directories are marked, and half as many in which programs have databases. Seeds that once failed are in
//! `seeds.txt` and always played. `cargo replay SEED` tells the story of one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use hearth_tests::sim::random::{BRAKED, MARKED, MERGED, NAMED, OFFERED, STORED, WRITTEN, play};

/// Worlds that are played where nobody says how many.
const USUAL: u64 = 80;

#[test]
fn random_worlds_lose_nothing_and_become_alike() {
    let number = |name: &str, usual: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(usual);
    let (first, count) = (number("HEARTH_FIRST_SEED", 0), number("HEARTH_SEEDS", USUAL));
    let half = |from: u64| from + first..from + first + count / 2;
    let others = [BRAKED, MERGED, NAMED, WRITTEN, MARKED, STORED, OFFERED].into_iter().flat_map(half);
    let failed = failures((first..first + count).chain(others));
    assert!(failed.is_empty(), "{} of these worlds failed: {failed:?}; `cargo replay SEED` tells more", failed.len());
}

#[test]
fn worlds_that_once_failed_do_not_fail_again() {
    let seeds = include_str!("seeds.txt").lines().filter_map(|line| line.split('#').next()?.trim().parse().ok());
    assert_eq!(failures(seeds), Vec::<u64>::new());
}

fn failures(seeds: impl Iterator<Item = u64>) -> Vec<u64> {
    seeds.filter(|&seed| catch_unwind(AssertUnwindSafe(|| play(seed, false))).is_err()).collect()
}
