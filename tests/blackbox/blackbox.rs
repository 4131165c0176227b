//! Whole machines treated roughly, by their command line alone.
//!
//! ```text
//!  World (a seed) ── House: machines, relay, network ── accidents: kills, pulled cables, a relay that goes
//!     └ Person, several in each home ── Desk: the home under their hands ── what is owed to them
//!                                                        └ verdict: all alike, nothing lost, quiet
//! ```
//! The programs are the real ones and so is the time they take: a seed brings back what people meant to do, not to the
//! millisecond when. What did happen is in the [`Journal`], which a failure prints.

mod desk;
mod house;
mod journal;
mod person;
mod verdict;

pub use self::desk::Desk;
pub use self::journal::Journal;
pub use self::verdict::Ending;

use std::sync::Arc;

use anyhow::{Error, Result};

use self::house::House;
use crate::scratch::Scratch;
use crate::sim::chance::Chance;

/// What a seed stands for.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// From which all choices follow.
    pub seed: u64,
    /// How often people act until everything is mended and judged.
    pub rounds: usize,
    /// How many machines there are.
    pub machines: usize,
    /// How many people write in each home at the same time.
    pub people: usize,
    /// What each of them does in a round.
    pub acts: usize,
    /// Daemons are killed.
    pub kills: bool,
    /// Cables are pulled, the relay goes, daemons stay away for a while.
    pub partings: bool,
    /// Daemons are killed all the time, on all machines, preferably in the middle of applying something.
    pub storm: bool,
}

impl World {
    /// Returns the world of a seed: without and with accidents of either kind, in two homes or three.
    pub fn of(seed: u64, rounds: usize) -> Self {
        let mut chance = Chance::new(seed);
        Self {
            seed,
            rounds,
            machines: 2 + usize::from(chance.percent(35)),
            people: 1 + chance.below(3),
            acts: 15 + chance.below(50),
            kills: seed & 1 == 1,
            partings: seed & 2 == 2,
            storm: false,
        }
    }

    /// Returns the world of a seed in which daemons are killed all the time.
    pub fn stormy(seed: u64, rounds: usize) -> Self {
        let world = Self::of(seed, rounds);
        Self { people: 2, acts: 60, kills: true, partings: false, storm: true, ..world }
    }
}

/// How a world went.
#[derive(Clone, Copy, Debug)]
pub struct Played {
    /// How it ended.
    pub ending: Ending,
    /// How often a daemon was killed.
    pub kills: usize,
    /// How often somebody claimed to be in sync where that could be checked, with nobody's hand on anything.
    pub claims: usize,
}

/// Plays a world; an error names the seed and tells everything that happened.
pub fn play(world: World) -> Result<Played> {
    let scratch = Scratch::new()?;
    let journal = Arc::new(Journal::begin());
    let played = House::furnish(world, &scratch, &journal).and_then(House::live);
    played.map_err(|error| failed(world, &scratch, &journal, &error))
}

fn failed(world: World, scratch: &Scratch, journal: &Journal, error: &Error) -> Error {
    let kept = match std::env::var_os("HEARTH_KEEP") {
        Some(_) => format!("homes and logs are in {}", scratch.path().display()),
        None => "HEARTH_KEEP=1 keeps homes and logs".to_owned(),
    };
    anyhow::anyhow!("{world:?} failed: {error:#}\n--- what happened:\n{}---\n{kept}", journal.text())
}
