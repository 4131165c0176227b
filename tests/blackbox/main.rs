//! Real machines, random people, all at once: short worlds for every run of the tests.
//!
//! `HEARTH_SEED=3 HEARTH_ROUNDS=20 cargo blackbox` plays a longer one; `tests/blackbox/blackbox.rs` says what is asked.

use anyhow::{Result, bail};
use hearth_tests::blackbox::{Ending, World, play};

const QUIET: World = World { seed: 0, rounds: 2, machines: 2, people: 2, acts: 25, kills: false, partings: false };
/// Worlds that are begun at most until one of them is played to its end.
const TRIES: u64 = 3;

#[test]
fn several_people_in_each_of_two_homes_lose_nothing_and_have_the_same() -> Result<()> {
    to_the_end(QUIET)
}

#[test]
fn nor_do_they_when_daemons_are_killed_under_their_hands() -> Result<()> {
    to_the_end(World { seed: 1000, kills: true, ..QUIET })
}

#[test]
fn nor_when_three_machines_part_and_meet_again() -> Result<()> {
    to_the_end(World { seed: 2000, machines: 3, people: 1, partings: true, ..QUIET })
}

fn to_the_end(world: World) -> Result<()> {
    for seed in world.seed..world.seed + TRIES {
        if play(World { seed, ..world })? == Ending::Agreed {
            return Ok(());
        }
    }
    bail!("in each of {TRIES} worlds a content was told of and then nowhere")
}
