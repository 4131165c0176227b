//! Marked directories of this disk, over time: marks are kept in the index, follow what is moved, and end when their marker
//! has been gone for a while; what was passed over for one is taken up again (docs/decisions/0027, 0045).

use std::collections::BTreeSet;

use hearth_schemas::ids::NodeId;
use hearth_schemas::item::{Class, Name, Row};

use super::{Effect, Engine};
use crate::disk::{Disk, RelPath};
use crate::marks::Marks;
use crate::observe::{Spot, base_path};
use crate::path::{depth, split};
use crate::row;
use crate::store::{BaseState, Store, StoreResult};

/// The value in the index that keeps the marks.
const MARKS: &str = "marks";

impl<S: Store> Engine<S> {
    /// Takes in the marks that the index knows of, at the start, so that the end of one is seen though nobody looked; and
    /// tells them by the files that the rules in force look for.
    pub(super) fn recall_marks(&mut self) -> StoreResult<()> {
        let probes = self.select.probes();
        let known = match &self.probes {
            Some((known, _)) if known == probes => return Ok(()),
            Some((known, _)) => Some(self.marks.encode(known)),
            None => self.state.store.value(MARKS)?,
        };
        self.marks = known.map_or(Marks::NONE, |known| Marks::decode(&known, probes));
        self.probes = Some((probes.to_vec(), u64::MAX));
        Ok(())
    }

    pub(super) fn keep_marks(&mut self) -> StoreResult<()> {
        let Some((probes, kept)) = &mut self.probes else { return Ok(()) };
        if *kept == self.marks.changes() {
            return Ok(());
        }
        *kept = self.marks.changes();
        match self.marks.is_empty() {
            true => self.state.store.remove_value(MARKS),
            false => self.state.store.set_value(MARKS, &self.marks.encode(probes)),
        }
    }

    /// A marker has gone from a directory, and that was not the beginning of the directory's end.
    pub(super) fn believe_unmarked<D: Disk>(&mut self, disk: &mut D, now_ms: u64) -> StoreResult<()> {
        let due: Vec<RelPath> =
            self.unmarked.extract_if(.., |_, (at, _)| *at <= now_ms).map(|(path, _)| path).collect();
        for dir in due {
            let known = self.marks.of(&dir);
            let probes = self.select.probes();
            // What cannot be read is as it was.
            let stands = |index: &usize| probes[*index].stands(disk, &dir).unwrap_or(true);
            let held: BTreeSet<usize> = known.iter().copied().filter(stands).collect();
            if held == known {
                continue;
            }
            self.marks.set(&dir, held);
        }
        self.take_up_unmarked()
    }

    /// Wherever a mark has left a path, because its marker has gone or its directory has, what stands there is looked at as a
    /// whole, and what the account has there is planned: both were passed over, and leave no other trace. To be called before
    /// the marks are kept, so that none ends in the index without that.
    pub(super) fn take_up_unmarked(&mut self) -> StoreResult<()> {
        let left = self.marks.take_left();
        if left.is_empty() {
            return Ok(());
        }
        self.state.refresh()?;
        for dir in left {
            let mut nodes = self.directory_shown_at(&dir);
            nodes.extend(self.at(&dir)?.iter().flat_map(|base| &base.members).map(|member| member.node));
            for &node in &nodes {
                self.state.mark(node)?;
            }
            self.state.mark_below(nodes)?;
            let (above, name) = split(&dir);
            if let Some((above, name)) = self.directory_at(above)?.zip(Name::new(name)) {
                self.queue.push_back(Spot::Entry(above, name));
            }
            if let Some(dir) = self.directory_at(&dir)? {
                self.queue.push_back(Spot::Deep(dir));
            }
        }
        self.effects.push_back(Effect::StatusChanged);
        Ok(())
    }

    /// The nodes of the directory that the account has at a path.
    fn directory_shown_at(&self, path: &[u8]) -> Vec<NodeId> {
        let shape = self.state.tree.shape();
        shape.at(path).map_or_else(Vec::new, |dir| shape.members(dir).to_vec())
    }

    /// A directory has another place, and this disk did not have it where it was: if that is excluded here, what is in it
    /// was passed over.
    pub(super) fn note_moved_out(&mut self, before: Option<&Row>, node: NodeId) -> StoreResult<()> {
        let Some(before) = before.filter(|before| before.class == Class::Dir) else { return Ok(()) };
        let place = |row: &Row| row::winner(&row.place).map(|(_, place)| (place.parent, place.name.clone()));
        let row = self.state.store.row(node)?;
        if row.is_some_and(|row| place(&row) != place(before)) && !self.stands_at(node, place(before))? {
            self.state.mark_below(vec![node])?;
        }
        Ok(())
    }

    /// Whether this disk has a node in play at that name of that directory.
    fn stands_at(&self, node: NodeId, place: Option<(NodeId, Name)>) -> StoreResult<bool> {
        let Some((dir, name)) = place else { return Ok(false) };
        let Some(base) = self.state.store.base_of(node)?.filter(|base| base.state == BaseState::Live) else {
            return Ok(false);
        };
        let dir = match dir {
            NodeId::ROOT => Some(NodeId::ROOT),
            dir => self.state.store.base_of(dir)?.map(|base| base.id),
        };
        Ok(dir == Some(base.parent) && base.name == name)
    }

    /// Marks follow the directories that were moved and end with those that were made anew. Where any is concerned, the
    /// directory is looked at.
    pub(super) fn marks_follow(&mut self, made: &[RelPath], moved: &[(RelPath, NodeId)]) -> StoreResult<()> {
        if self.marks.is_empty() {
            return Ok(());
        }
        for path in made {
            self.marks.take(path);
        }
        let mut moves: Vec<&(RelPath, NodeId)> = moved.iter().collect();
        // What was parked on its way has moved twice; what was in it has gone along from where it was first.
        moves.sort_by_key(|(from, _)| std::cmp::Reverse(depth(from)));
        let mut taken = Vec::new();
        for (from, dir) in moves {
            let marks = self.marks.take(from);
            if !marks.is_empty() {
                taken.push((marks, *dir));
            }
        }
        for (marks, dir) in taken {
            let Some(base) = self.state.store.base(dir)? else { continue };
            self.marks.put(&base_path(&self.state.store, &base)?, marks);
            self.queue.push_back(Spot::Deep(dir));
        }
        self.take_up_unmarked()
    }
}
