//! Files that are written without pause: when a copy of one is taken all the same, and what a person is told of it.
//!
//! A file is looked at when it has been left alone for a moment. One that is never left alone has no such moment, and is
//! *restless* after [`PATIENCE_MS`]. Then its version is a copy in staging, an image as that of a database, and the next
//! one is taken after a pause that grows with its size. Until it has rested and been looked at as any other, it is a
//! problem that a person can see: what was written last is not captured. Decision 30 says more.

use std::collections::{BTreeMap, BTreeSet};

use super::{Effect, Engine};
use crate::disk::{RelPath, join};
use crate::observe::{Imaged, Spot, Way, base_or_root, base_path};
use crate::store::{Base, Problem, Store, StoreResult};

/// How long a file may be written without pause before a copy of it is taken, in milliseconds.
pub(super) const PATIENCE_MS: u64 = 10_000;
/// How long a restless file must be left alone to be looked at as any other, in milliseconds.
const REST_MS: u64 = 2000;
/// The shortest pause between two copies of one file, in milliseconds.
const PAUSE_MS: u64 = 60_000;
/// Bytes that are copied in a millisecond, at most, in the long run.
const RATE: u64 = 4 << 10;
/// How long until a copy that could not be taken is tried again, in milliseconds.
const AGAIN_MS: u64 = 10_000;

/// The files that find no rest.
#[derive(Default)]
pub(super) struct Unrest {
    files: BTreeMap<Spot, Restless>,
    /// Since when spots that are to be looked at have been stirring.
    since: BTreeMap<Spot, u64>,
}

struct Restless {
    problem: Problem,
    /// How long to wait after a copy.
    pause: u64,
    /// When the next copy may be taken.
    next: u64,
    /// When it has rested, if nothing stirs until then.
    rest_at: u64,
    /// What it is being looked at for.
    look: Option<Way>,
    /// Somebody waits to hear whether it is still being written.
    asked: bool,
}

impl Unrest {
    /// When the next of them is to be looked at.
    pub(super) fn look_at(&self) -> Option<u64> {
        let idle = self.files.values().filter(|file| file.look.is_none());
        idle.map(|file| file.rest_at.min(file.next)).min()
    }

    /// Whether a file is one of them.
    pub(super) fn is_restless(&self, base: &Base) -> bool {
        !self.files.is_empty() && self.files.contains_key(&Spot::Entry(base.parent, base.name.clone()))
    }

    /// Whether it is yet to be found out of one of them whether it is still being written, or what it holds.
    pub(super) fn is_looking(&self) -> bool {
        self.files.values().any(|file| file.asked || file.look.is_some())
    }

    /// What a person is told.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.files.values().map(|file| &file.problem)
    }

    /// Something stirred at a spot. Gives whether that is a restless file.
    pub(super) fn stirs(&mut self, spot: &Spot, now_ms: u64) -> bool {
        let Some(file) = self.files.get_mut(spot) else { return false };
        file.rest_at = now_ms + REST_MS;
        if std::mem::take(&mut file.asked) && file.pause == PAUSE_MS {
            file.asked = true;
            file.next = now_ms;
        }
        true
    }

    /// Somebody waits for what was written so far.
    pub(super) fn hurry(&mut self) {
        self.files.values_mut().for_each(|file| file.asked = true);
    }

    /// A spot that has been stirring since a moment is about to be looked at.
    pub(super) fn looked_for(&mut self, spot: &Spot, since: u64) {
        self.since.insert(spot.clone(), since);
    }

    /// How each of them is to be looked at.
    pub(super) fn ways(&self) -> BTreeMap<Spot, Way> {
        self.files.iter().map(|(spot, file)| (spot.clone(), file.look.unwrap_or(Way::Later))).collect()
    }
}

impl<S: Store> Engine<S> {
    /// Has restless files looked at whose time has come.
    pub(super) fn look_at_restless(&mut self, now_ms: u64) {
        for (spot, file) in &mut self.unrest.files {
            if file.look.is_none() && file.rest_at.min(file.next) <= now_ms {
                file.look = Some(if file.rest_at <= now_ms { Way::Plain } else { Way::Copy });
                self.queue.push_back(spot.clone());
            }
        }
    }

    /// Takes in what came of looking at spots: which of them hold images, which were being written, and which are looked at
    /// once more, as large files are that were read in part.
    pub(super) fn found_rest(
        &mut self,
        spots: &[Spot],
        imaged: &[Imaged],
        busy: Vec<Spot>,
        more: &[Spot],
        now_ms: u64,
    ) -> StoreResult<()> {
        let more: BTreeSet<&Spot> = more.iter().collect();
        let busy: BTreeSet<Spot> = busy.into_iter().collect();
        let images: BTreeMap<&Spot, &Imaged> = imaged.iter().map(|image| (&image.spot, image)).collect();
        for spot in spots.iter().filter(|spot| !more.contains(spot)) {
            let Some(file) = self.unrest.files.get_mut(spot) else { continue };
            let Some(way) = file.look.take() else { continue };
            file.asked = false;
            match (way, images.get(spot)) {
                (Way::Copy, Some(image)) => {
                    file.problem.copied_ms = Some(now_ms);
                    file.pause = (image.size / RATE).max(PAUSE_MS);
                    file.next = now_ms + file.pause;
                }
                (Way::Copy, None) if busy.contains(spot) => file.next = now_ms + AGAIN_MS,
                (Way::Plain, _) if busy.contains(spot) => file.rest_at = now_ms + REST_MS,
                (Way::Plain | Way::Copy | Way::Later, _) => {
                    self.unrest.files.remove(spot);
                }
            }
            self.effects.push_back(Effect::StatusChanged);
        }
        for spot in busy {
            if self.unrest.files.contains_key(&spot) {
                continue;
            }
            // Whatever has an image is paced by that.
            let known = self.unrest.since.get(&spot).filter(|_| !images.contains_key(&spot));
            let since = known.copied().unwrap_or(now_ms);
            if now_ms >= since + PATIENCE_MS {
                self.begin_unrest(spot, now_ms)?;
            } else {
                let at = (now_ms + 2 * super::SETTLE_MS).max(self.databases.not_before(&spot));
                self.open.entry(spot).or_insert((at, since));
            }
        }
        for spot in spots.iter().filter(|spot| !more.contains(spot)) {
            self.unrest.since.remove(spot);
        }
        Ok(())
    }

    /// A file is restless from here on, and a copy of it is taken as soon as can be.
    pub(super) fn begin_unrest(&mut self, spot: Spot, now_ms: u64) -> StoreResult<()> {
        let Some(path) = self.path_of_spot(&spot)? else { return Ok(()) };
        let problem = Problem {
            path,
            what: "still being written".to_owned(),
            hint: "a copy is taken now and then; the rest follows when the program is through".to_owned(),
            transient: true,
            copied_ms: None,
        };
        let rest_at = now_ms + REST_MS;
        let file = Restless { problem, pause: PAUSE_MS, next: now_ms, rest_at, look: None, asked: false };
        self.unrest.files.insert(spot, file);
        self.effects.push_back(Effect::StatusChanged);
        Ok(())
    }

    /// The path of a name in a directory; `None` for what is no name.
    pub(super) fn path_of_spot(&self, spot: &Spot) -> StoreResult<Option<RelPath>> {
        let Spot::Entry(dir, name) = spot else { return Ok(None) };
        match base_or_root(&self.state.store, *dir)? {
            Some(dir) => Ok(Some(join(&base_path(&self.state.store, &dir)?, name))),
            None => Ok(None),
        }
    }
}
