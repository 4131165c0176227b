//! What stays on this machine for what it is: sockets, pipes, devices and mount points. And files that lose something on
//! their way: those with a setuid or setgid bit, which travel without it.
//!
//! That is as it should be, and no problem. A person can see it in `status` and ask `why`.

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use crate::disk::{Kind, RelPath};
use crate::observe::{Looked, Spot};
use crate::path::{above, split};
use crate::store::{Store, StoreResult};

/// So many are remembered, at most.
const MOST: usize = 10_000;

/// What was seen of such entries.
#[derive(Default)]
pub(super) struct Staying(BTreeMap<RelPath, Kind>);

impl<S: Store> Engine<S> {
    /// The entries that stay here, or travel without their setuid or setgid bit: those are files.
    pub fn staying(&self) -> &BTreeMap<RelPath, Kind> {
        &self.staying.0
    }

    /// Takes in what was seen by looking at spots.
    pub(super) fn note_staying(&mut self, spots: &[Spot], looked: &mut Looked) -> StoreResult<()> {
        let staying = std::mem::take(&mut looked.staying);
        if !self.staying.0.is_empty() {
            for spot in spots {
                if let Some(path) = self.path_of_spot(spot)? {
                    self.staying.0.remove(&path);
                }
            }
            let listed: BTreeSet<&[u8]> = looked.listed.iter().map(Vec::as_slice).collect();
            let gone = looked.gone.iter().chain(looked.moved.iter().map(|(from, _)| from));
            let gone: BTreeSet<&[u8]> = gone.map(Vec::as_slice).collect();
            self.staying.0.retain(|path, _| {
                !listed.contains(split(path).0)
                    && !gone.contains(&path[..])
                    && !above(path).any(|dir| gone.contains(dir))
            });
        }
        for (path, kind) in staying {
            if self.staying.0.len() < MOST {
                self.staying.0.insert(path, kind);
            }
        }
        Ok(())
    }
}
