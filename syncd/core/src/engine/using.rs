//! Files that programs have open: what was to become of them is tried again, and what was displaced is looked at again.
//!
//! [`crate::apply`] takes no file from its name that a program is writing. Such a node stays marked, and is tried again
//! ever more seldom; after a while a person is told. Where the file system cannot say who has a file open, it is displaced
//! all the same, and the history is looked at again for what a program has written since.

use std::collections::{BTreeMap, BTreeSet};

use hearth_schemas::ids::NodeId;

use super::{Effect, Engine};
use crate::apply::is_in_use;
use crate::disk::{Disk, RelPath, StageName, Stat};
use crate::observe::Spot;
use crate::plan::{Change, Placed};
use crate::state::Now;
use crate::store::{Kept, Problem, Store, StoreResult};

/// The shortest and the longest pause until a file that is in use is tried again, in milliseconds.
const PAUSE_MS: (u64, u64) = (200, 10_000);
/// From when on a person is told that a file is in use, in milliseconds.
const LONG_MS: u64 = 10_000;
/// After which times what was displaced is looked at again, in milliseconds; from the beginning where it was written to.
const LOOKS_MS: [u64; 3] = [1000, 10_000, 60_000];
/// So many displaced files are looked at again, at most.
const MAX_LOOKS: usize = 4096;

/// What waits for programs.
#[derive(Default)]
pub(super) struct Using {
    /// Since when nodes wait for a file that is in use.
    since: BTreeMap<NodeId, u64>,
    /// What lies in history and may be written to.
    displaced: BTreeMap<StageName, Displaced>,
}

struct Displaced {
    stat: Stat,
    looks: usize,
    at_ms: u64,
}

impl Using {
    /// When displaced files are to be looked at next.
    pub(super) fn look_at(&self) -> Option<u64> {
        self.displaced.values().map(|displaced| displaced.at_ms).min()
    }

    /// A node does not wait for any program.
    pub(super) fn is_free(&mut self, node: NodeId) {
        self.since.remove(&node);
    }
}

impl<S: Store> Engine<S> {
    /// A file that was to change its content or place is in use.
    pub(super) fn wait_for_program(&mut self, nodes: BTreeSet<NodeId>, path: RelPath, now_ms: u64) -> StoreResult<()> {
        for node in nodes {
            let since = *self.using.since.entry(node).or_insert(now_ms);
            let waited = now_ms.saturating_sub(since);
            self.state.store.mark(node)?;
            self.blocked.insert(node, now_ms + (waited / 2).clamp(PAUSE_MS.0, PAUSE_MS.1));
            if waited >= LONG_MS {
                let what = "in use by a program, and changed on another machine".to_owned();
                let hint = "close it there, and the change comes through by itself".to_owned();
                self.troubles
                    .insert(node, Problem { path: path.clone(), what, hint, transient: true, copied_ms: None });
                self.effects.push_back(Effect::StatusChanged);
            }
        }
        Ok(())
    }

    /// Whether any of these nodes waits for a program.
    pub(super) fn waits_for_program(&self, nodes: &BTreeSet<NodeId>) -> bool {
        nodes.iter().any(|node| self.using.since.contains_key(node))
    }

    /// Whether a program still has the file that nodes wait for and that is to go, move or change; then they go on waiting.
    pub(super) fn is_still_in_use<D: Disk>(
        &mut self,
        disk: &mut D,
        change: &Change,
        nodes: &BTreeSet<NodeId>,
        now_ms: u64,
    ) -> StoreResult<bool> {
        let Some((base, path)) = change.base.as_ref().filter(|_| self.waits_for_program(nodes)) else {
            return Ok(false);
        };
        let place = |placed: &Placed| (placed.parent, placed.target.name.clone());
        let moves = change.placed.as_ref().is_some_and(|placed| place(placed) != (base.parent, base.name.clone()));
        let replaces = change.placed.as_ref().is_none_or(|Placed { target, .. }| {
            target.value != base.value || target.attributes.group != base.attributes.group
        });
        if !(moves || replaces) || (!self.unrest.is_restless(base) && !is_in_use(disk, base, path, moves)) {
            return Ok(false);
        }
        self.wait_for_program(nodes.clone(), path.clone(), now_ms)?;
        Ok(true)
    }

    /// Something stirred: a program that has closed a file is heard of in this way.
    pub(super) fn program_may_be_through(&mut self, spot: &Spot, now_ms: u64) -> StoreResult<()> {
        let Spot::Entry(dir, name) = spot else { return Ok(()) };
        if self.using.since.is_empty() {
            return Ok(());
        }
        for member in self.state.store.base_at(*dir, name)?.iter().flat_map(|base| &base.members) {
            if self.using.since.contains_key(&member.node) {
                self.blocked.insert(member.node, now_ms + PAUSE_MS.0);
            }
        }
        Ok(())
    }

    /// Takes note of what was displaced while a program may have had it open.
    pub(super) fn watch_displaced(&mut self, unguarded: Vec<(StageName, Stat)>, now_ms: u64) {
        for (name, stat) in unguarded {
            if self.using.displaced.len() < MAX_LOOKS {
                self.using.displaced.insert(name, Displaced { stat, looks: 0, at_ms: now_ms + LOOKS_MS[0] });
            }
        }
    }

    /// Looks at displaced files: what a program has written to one since is what a person gets back of it.
    pub(super) fn look_at_displaced<D: Disk>(&mut self, disk: &mut D, now: &Now) -> StoreResult<()> {
        let due = self.using.displaced.extract_if(.., |_, displaced| displaced.at_ms <= now.wall_ms);
        for (name, mut displaced) in due.collect::<Vec<_>>() {
            let Ok(stat) = disk.stat_kept(&name) else { continue };
            let same = (stat.handle, stat.size, stat.mtime)
                == (displaced.stat.handle, displaced.stat.size, displaced.stat.mtime);
            if !same {
                if let (Ok(value), Some(kept)) = (disk.read_staged(&name), self.state.store.kept(&name.0)?) {
                    let mut attributes = kept.attributes.clone();
                    attributes.mtime = stat.mtime;
                    self.state.store.put_kept(&Kept { value, attributes, ..kept })?;
                }
                displaced.looks = 0;
            } else {
                displaced.looks += 1;
            }
            if let Some(pause) = LOOKS_MS.get(displaced.looks) {
                let at_ms = now.wall_ms + pause;
                self.using.displaced.insert(name, Displaced { stat, at_ms, ..displaced });
            }
        }
        Ok(())
    }
}
