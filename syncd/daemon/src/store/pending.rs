//! What a transaction has read and written so far, ahead of SQLite.
//!
//! Rows and base entries that were written wait here until they are flushed, each once however often it was written:
//! rows in the order of their changes, base entries directory by directory, as SQLite keeps them. What was read stays for a while, for the core asks for the same few things again and
//! again. An answer is what waits, joined with what SQLite has of the things that do not wait. Knows no SQL.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hearth_schemas::ids::NodeId;
use hearth_schemas::item::{Name, Row, UNNUMBERED};
use syncd_core::disk::Handle;
use syncd_core::store::{Base, StoreResult};

/// A name in a directory.
pub(super) type At = (NodeId, Name);

/// Something that is kept under its id, as it is now.
pub(super) struct Cell<T, U> {
    /// `None`: there is no such thing.
    pub(super) value: Option<T>,
    /// What SQLite has it under beside its id; `None` if SQLite does not have it.
    pub(super) stored: Option<U>,
    /// Whether SQLite has yet to follow.
    pub(super) waits: bool,
}

impl<T, U> Cell<T, U> {
    /// As SQLite has it.
    pub(super) fn read(value: Option<T>, under: impl FnOnce(&T) -> U) -> Self {
        let stored = value.as_ref().map(under);
        Self { value, stored, waits: false }
    }
}

/// Rows by id, with their places beside it.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) cells: HashMap<NodeId, Cell<Row, Vec<At>>>,
    /// Those that wait, in the order of their last change.
    pub(super) order: BTreeMap<u64, NodeId>,
    seqs: BTreeMap<NodeId, u64>,
    /// Where those that wait are placed.
    pub(super) placed: BTreeMap<At, BTreeSet<NodeId>>,
    /// What SQLite has at a name.
    pub(super) stored_at: BTreeMap<At, Vec<NodeId>>,
}

/// Base entries by id, with their further members beside it.
#[derive(Default)]
pub(super) struct Bases {
    pub(super) cells: HashMap<NodeId, Cell<Base, Stored>>,
    pub(super) waiting: BTreeSet<NodeId>,
    /// Where those that wait are.
    pub(super) at: BTreeMap<At, BTreeSet<NodeId>>,
    /// Which of those that wait has an inode.
    pub(super) with: BTreeMap<Handle, BTreeSet<NodeId>>,
    /// Which of those that wait a node is shown as.
    pub(super) of: HashMap<NodeId, NodeId>,
    /// What SQLite has at a name.
    pub(super) stored_at: BTreeMap<At, Vec<NodeId>>,
    /// Which entry, other than that of its own id, SQLite has a node shown as.
    pub(super) stored_of: HashMap<NodeId, Option<NodeId>>,
}

/// What SQLite has a base entry under.
pub(super) struct Stored {
    at: At,
    members: Vec<NodeId>,
}

/// What SQLite is to have a base entry under.
pub(super) fn stored(base: &Base) -> Stored {
    Stored { at: (base.parent, base.name.clone()), members: further_members(base) }
}

/// The names that a row is placed under.
pub(super) fn places(row: &Row) -> Vec<At> {
    row.place.values().map(|place| (place.parent, place.name.clone())).collect()
}

/// The nodes that are shown as an entry, without that of its own id.
pub(super) fn further_members(base: &Base) -> Vec<NodeId> {
    base.members.iter().map(|member| member.node).filter(|node| *node != base.id).collect()
}

impl Rows {
    /// Whether a row waits, so that what SQLite has of it does not count.
    pub(super) fn waits(&self, id: NodeId) -> bool {
        self.cells.get(&id).is_some_and(|cell| cell.waits)
    }

    /// How many things are in memory.
    pub(super) fn size(&self) -> usize {
        self.cells.len() + self.stored_at.len()
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.order.len()
    }

    /// Those that wait.
    pub(super) fn written(&self) -> impl Iterator<Item = &Row> {
        self.order.values().filter_map(|id| self.cells[id].value.as_ref())
    }

    /// Writes a row, which is in `cells` already.
    pub(super) fn put(&mut self, row: &Row, seq: u64) {
        let cell = self.cells.get_mut(&row.id).expect("it was read before it is written");
        for at in cell.value.iter().filter(|_| cell.waits).flat_map(places) {
            leave(&mut self.placed, &at, row.id);
        }
        cell.value = Some(row.clone());
        cell.waits = true;
        for at in places(row) {
            self.placed.entry(at).or_default().insert(row.id);
        }
        if let Some(earlier) = self.seqs.insert(row.id, seq) {
            self.order.remove(&earlier);
        }
        self.order.insert(seq, row.id);
    }

    /// Nodes in the order of their unnumbered changes, of those that wait.
    pub(super) fn unnumbered(&self) -> BTreeSet<(u64, NodeId)> {
        self.written().filter_map(|row| Some((*row.ctx.get(&UNNUMBERED)?, row.id))).collect()
    }

    /// Has everything that waits written, in the order of its last change: position, row, and the places that SQLite has, if it has the row.
    /// After an error nothing here is to be relied on.
    pub(super) fn flush(
        &mut self,
        mut write: impl FnMut(u64, &Row, Option<&[At]>) -> StoreResult<()>,
    ) -> StoreResult<()> {
        self.seqs.clear();
        for (seq, id) in std::mem::take(&mut self.order) {
            let cell = self.cells.get_mut(&id).expect("what waits is there");
            let Some(row) = &cell.value else { continue };
            write(seq, row, cell.stored.as_deref())?;
            cell.waits = false;
            let now = places(row);
            for at in cell.stored.iter().flatten().chain(&now) {
                self.stored_at.remove(at);
            }
            cell.stored = Some(now);
        }
        self.placed.clear();
        Ok(())
    }
}

impl Bases {
    /// Whether an entry waits, so that what SQLite has of it does not count.
    pub(super) fn waits(&self, id: NodeId) -> bool {
        self.waiting.contains(&id)
    }

    /// How many things are in memory.
    pub(super) fn size(&self) -> usize {
        self.cells.len() + self.stored_at.len() + self.stored_of.len()
    }

    /// Those that wait and are not removed.
    pub(super) fn written(&self) -> impl Iterator<Item = &Base> {
        self.waiting.iter().filter_map(|id| self.cells[id].value.as_ref())
    }

    /// Writes or removes an entry, which is in `cells` already. Gives what it was.
    pub(super) fn put(&mut self, id: NodeId, base: Option<&Base>) -> Option<Base> {
        let cell = self.cells.get_mut(&id).expect("it was read before it is written");
        if let Some(old) = cell.value.as_ref().filter(|_| cell.waits) {
            leave(&mut self.at, &(old.parent, old.name.clone()), id);
            leave(&mut self.with, &old.stat.handle, id);
            for member in &old.members {
                if self.of.get(&member.node) == Some(&id) {
                    self.of.remove(&member.node);
                }
            }
        }
        let old = std::mem::replace(&mut cell.value, base.cloned());
        cell.waits = true;
        self.waiting.insert(id);
        if let Some(base) = base {
            self.at.entry((base.parent, base.name.clone())).or_default().insert(id);
            self.with.entry(base.stat.handle).or_default().insert(id);
            self.of.extend(base.members.iter().map(|member| (member.node, id)));
        }
        old
    }

    /// How many more entries there are than SQLite has.
    pub(super) fn surplus(&self) -> i64 {
        let change = |id| {
            let cell = &self.cells[id];
            i64::from(cell.value.is_some()) - i64::from(cell.stored.is_some())
        };
        self.waiting.iter().map(change).sum()
    }

    /// Has everything that waits written, directory by directory, and what is removed before: id, entry if it is not removed, and the further members that SQLite
    /// has, if it has the entry. After an error nothing here is to be relied on.
    pub(super) fn flush(
        &mut self,
        mut write: impl FnMut(NodeId, Option<&Base>, Option<&[NodeId]>) -> StoreResult<()>,
    ) -> StoreResult<()> {
        let standing: Vec<NodeId> = std::mem::take(&mut self.at).into_values().flatten().collect();
        let removed = self.waiting.iter().copied().filter(|id| self.cells[id].value.is_none());
        let all: Vec<NodeId> = removed.chain(standing).collect();
        self.waiting.clear();
        for id in all {
            let cell = self.cells.get_mut(&id).expect("what waits is there");
            write(id, cell.value.as_ref(), cell.stored.as_ref().map(|stored| &stored.members[..]))?;
            cell.waits = false;
            let now = cell.value.as_ref().map(stored);
            for stored in cell.stored.iter().chain(&now) {
                self.stored_at.remove(&stored.at);
                for node in &stored.members {
                    self.stored_of.remove(node);
                }
            }
            cell.stored = now;
        }
        self.with.clear();
        self.of.clear();
        Ok(())
    }
}

fn leave<K: Ord>(index: &mut BTreeMap<K, BTreeSet<NodeId>>, key: &K, id: NodeId) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(&id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}
