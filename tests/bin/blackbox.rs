//! Plays worlds of the black-box tests for as long as one likes: `HEARTH_SEED=7 cargo blackbox`, or `7..50`.
//!
//! `HEARTH_ROUNDS` says how many rounds each has. All worlds are played, whichever of them fail. With the argument `storm`
//! daemons are killed all the time, on all machines, and mostly while they apply something.

use std::env::var;
use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use hearth_tests::blackbox::{Played, World, play};

const USUAL_ROUNDS: usize = 4;

#[expect(clippy::print_stderr, reason = "a program for people")]
fn main() -> ExitCode {
    let seeds = var("HEARTH_SEED").map_or(Some(0..1), |text| range(&text));
    let rounds = var("HEARTH_ROUNDS").map_or(Ok(USUAL_ROUNDS), |text| text.parse());
    let (Some(seeds), Ok(rounds)) = (seeds, rounds) else {
        eprintln!("usage: HEARTH_SEED=SEED|FROM..TO HEARTH_ROUNDS=NUMBER cargo blackbox [storm]");
        return ExitCode::from(2);
    };
    let storm = std::env::args().nth(1).is_some_and(|argument| argument == "storm");
    let mut failed = 0;
    for seed in seeds {
        let begun = Instant::now();
        match play(if storm { World::stormy(seed, rounds) } else { World::of(seed, rounds) }) {
            Ok(Played { ending, kills, claims }) => {
                let seconds = begun.elapsed().as_secs_f64();
                eprintln!(
                    "seed {seed}: all in order, {ending:?} after {seconds:.1} s; {kills} kills, {claims} claims checked"
                );
            }
            Err(error) => {
                failed += 1;
                eprintln!("seed {seed}: {error:#}");
            }
        }
    }
    eprintln!("{failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn range(text: &str) -> Option<Range<u64>> {
    let (from, to) = text.split_once("..").unwrap_or((text, ""));
    let from = from.parse().ok()?;
    let to = if to.is_empty() { from + 1 } else { to.parse().ok()? };
    Some(from..to)
}
