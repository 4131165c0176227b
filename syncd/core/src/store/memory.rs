//! An index in maps: what the simulator and the property tests run on. A crash is a [`MemoryStore::rollback`], a power
//! cut a [`MemoryStore::cut`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hearth_schemas::ids::{ContentHash, NodeId, Slot};
use hearth_schemas::item::{Class, Name, Row, UNNUMBERED, Value};
use hearth_schemas::wire::{Cursor, KnownMap};

use super::{Base, Kept, Store, StoreError, StoreResult, Text};
use crate::disk::Handle;
use crate::fingerprint::Fingerprint;
use crate::path::is_at_or_below;
use crate::row;

/// The index as maps; cloned at `begin`, so that a rollback is exact.
#[derive(Clone, Default)]
pub struct MemoryStore {
    tables: Tables,
    saved: Option<Box<Tables>>,
    /// As it was at the last sync and at each commit since.
    earlier: Vec<Tables>,
    dead: Arc<AtomicBool>,
    /// How many of the next commits fail.
    failing: u32,
}

impl MemoryStore {
    /// From when this is set, nothing more becomes lasting: the process that uses the index has died.
    pub fn dies_with(&mut self, dead: Arc<AtomicBool>) {
        self.dead = dead;
    }

    /// So many of the next commits fail, as where the disk is full.
    pub fn fail(&mut self, commits: u32) {
        self.failing = commits;
    }

    /// The power fails: goes back to one of the commits since the last sync, or to that.
    pub fn cut(&mut self, choose: impl FnOnce(usize) -> usize) {
        self.rollback();
        let mut earlier = std::mem::take(&mut self.earlier);
        earlier.push(std::mem::take(&mut self.tables));
        let kept = choose(earlier.len());
        self.tables = earlier.swap_remove(kept);
    }
}

#[derive(Clone, PartialEq, Default)]
struct Tables {
    rows: BTreeMap<NodeId, (u64, Row)>,
    order: BTreeMap<u64, NodeId>,
    places: BTreeMap<NodeId, BTreeSet<(Name, NodeId)>>,
    last_seq: u64,
    digest: u64,
    known: KnownMap,
    cursors: BTreeMap<Slot, Cursor>,
    bases: BTreeMap<NodeId, Base>,
    members: BTreeMap<NodeId, NodeId>,
    names: BTreeMap<NodeId, BTreeMap<Name, NodeId>>,
    handles: BTreeMap<Handle, BTreeSet<NodeId>>,
    marks: BTreeSet<NodeId>,
    kept: Vec<Kept>,
    texts: Vec<(NodeId, Text, Vec<u8>)>,
    values: BTreeMap<String, Vec<u8>>,
}

impl Store for MemoryStore {
    fn begin(&mut self) -> StoreResult<()> {
        self.saved = Some(Box::new(self.tables.clone()));
        Ok(())
    }

    fn commit(&mut self) -> StoreResult<()> {
        if let Some(left) = self.failing.checked_sub(1) {
            self.failing = left;
            return Err(StoreError::Failed("the disk is full".to_owned()));
        }
        if self.dead.load(Ordering::Relaxed) {
            self.rollback();
        }
        if let Some(saved) = self.saved.take().filter(|saved| **saved != self.tables) {
            self.earlier.push(*saved);
        }
        Ok(())
    }

    fn sync(&mut self) -> StoreResult<()> {
        if !self.dead.load(Ordering::Relaxed) {
            self.earlier.clear();
        }
        Ok(())
    }

    fn rest(&mut self) {}

    fn rollback(&mut self) {
        if let Some(saved) = self.saved.take() {
            self.tables = *saved;
        }
    }

    fn row(&self, id: NodeId) -> StoreResult<Option<Row>> {
        Ok(self.tables.rows.get(&id).map(|(_, row)| row.clone()))
    }

    fn put_row(&mut self, row: &Row) -> StoreResult<()> {
        let t = &mut self.tables;
        if let Some((seq, old)) = t.rows.get(&row.id) {
            t.order.remove(seq);
            t.digest = t.digest.wrapping_sub(row::digest(old));
            for place in old.place.values() {
                if let Some(entries) = t.places.get_mut(&place.parent) {
                    entries.remove(&(place.name.clone(), row.id));
                }
            }
        }
        t.last_seq += 1;
        t.order.insert(t.last_seq, row.id);
        t.digest = t.digest.wrapping_add(row::digest(row));
        for place in row.place.values() {
            t.places.entry(place.parent).or_default().insert((place.name.clone(), row.id));
        }
        t.rows.insert(row.id, (t.last_seq, row.clone()));
        Ok(())
    }

    fn directories(&self) -> StoreResult<Vec<Row>> {
        self.rows_of(Class::Dir)
    }

    fn placed_at(&self, parent: NodeId, name: &Name) -> StoreResult<Vec<NodeId>> {
        let Some(entries) = self.tables.places.get(&parent) else { return Ok(Vec::new()) };
        let from = (name.clone(), NodeId([0; 16]));
        Ok(entries.range(from..).take_while(|(other, _)| other == name).map(|(_, id)| *id).collect())
    }

    fn names_from(&self, parent: NodeId, prefix: &[u8]) -> StoreResult<Vec<Name>> {
        let Some(entries) = self.tables.places.get(&parent) else { return Ok(Vec::new()) };
        let Some(first) = Name::new(prefix) else { return Ok(Vec::new()) };
        let from = entries.range((first, NodeId([0; 16]))..).map(|(name, _)| name);
        let mut names: Vec<Name> = from.take_while(|name| name.as_bytes().starts_with(prefix)).cloned().collect();
        names.dedup();
        Ok(names)
    }

    fn placed_in(&self, parent: NodeId) -> StoreResult<Vec<NodeId>> {
        let Some(entries) = self.tables.places.get(&parent) else { return Ok(Vec::new()) };
        Ok(entries.iter().map(|(_, id)| *id).collect::<BTreeSet<_>>().into_iter().collect())
    }

    fn rows_after(&self, seq: u64, limit: usize) -> StoreResult<Vec<(u64, Row)>> {
        let after = self.tables.order.range(seq + 1..).take(limit);
        Ok(after.map(|(&seq, id)| (seq, self.tables.rows[id].1.clone())).collect())
    }

    fn last_seq(&self) -> StoreResult<u64> {
        Ok(self.tables.last_seq)
    }

    fn unnumbered(&self) -> StoreResult<Vec<NodeId>> {
        let open = self.tables.rows.values().filter_map(|(_, row)| row.ctx.get(&UNNUMBERED).map(|seq| (*seq, row.id)));
        let mut open: Vec<_> = open.collect();
        open.sort_unstable();
        Ok(open.into_iter().map(|(_, id)| id).collect())
    }

    fn count_unnumbered(&self) -> u64 {
        self.tables.rows.values().filter(|(_, row)| row.ctx.contains_key(&UNNUMBERED)).count() as u64
    }

    fn digest(&self) -> u64 {
        self.tables.digest
    }

    fn rows_of(&self, class: Class) -> StoreResult<Vec<Row>> {
        Ok(self.tables.rows.values().filter(|(_, row)| row.class == class).map(|(_, row)| row.clone()).collect())
    }

    fn known(&self) -> &KnownMap {
        &self.tables.known
    }

    fn set_known(&mut self, known: KnownMap) -> StoreResult<()> {
        self.tables.known = known;
        Ok(())
    }

    fn cursor(&self, peer: Slot) -> StoreResult<Option<Cursor>> {
        Ok(self.tables.cursors.get(&peer).copied())
    }

    fn set_cursor(&mut self, peer: Slot, cursor: Cursor) -> StoreResult<()> {
        self.tables.cursors.insert(peer, cursor);
        Ok(())
    }

    fn base(&self, id: NodeId) -> StoreResult<Option<Base>> {
        Ok(self.tables.bases.get(&id).cloned())
    }

    fn base_of(&self, node: NodeId) -> StoreResult<Option<Base>> {
        Ok(self.tables.members.get(&node).and_then(|id| self.tables.bases.get(id)).cloned())
    }

    fn base_at(&self, parent: NodeId, name: &Name) -> StoreResult<Option<Base>> {
        let id = self.tables.names.get(&parent).and_then(|names| names.get(name));
        Ok(id.and_then(|id| self.tables.bases.get(id)).cloned())
    }

    fn base_in(&self, parent: NodeId) -> StoreResult<Vec<Base>> {
        let Some(names) = self.tables.names.get(&parent) else { return Ok(Vec::new()) };
        Ok(names.values().filter_map(|id| self.tables.bases.get(id)).cloned().collect())
    }

    fn fingerprint(&self, parent: NodeId) -> StoreResult<Fingerprint> {
        let mut sum = Fingerprint::default();
        self.base_in(parent)?.iter().for_each(|base| sum.add(Fingerprint::of_base(base)));
        Ok(sum)
    }

    fn base_dirs_in(&self, parent: NodeId) -> StoreResult<Vec<Base>> {
        let mut found = self.base_in(parent)?;
        found.retain(|base| base.class == Class::Dir);
        Ok(found)
    }

    fn bases_with(&self, handle: Handle) -> StoreResult<Vec<Base>> {
        let ids = self.tables.handles.get(&handle).into_iter().flatten();
        Ok(ids.filter_map(|id| self.tables.bases.get(id)).cloned().collect())
    }

    fn base_holding(&self, hash: ContentHash) -> StoreResult<Vec<Base>> {
        let holds = |base: &&Base| matches!(&base.value, Value::File { hash: other, .. } if *other == hash);
        Ok(self.tables.bases.values().filter(holds).take(4).cloned().collect())
    }

    fn siblings(&self) -> StoreResult<Vec<Base>> {
        let sibling = |base: &&Base| crate::conflict::may_be_sibling(&base.name);
        Ok(self.tables.bases.values().filter(sibling).cloned().collect())
    }

    fn put_base(&mut self, base: &Base) -> StoreResult<()> {
        self.remove_base(base.id)?;
        let t = &mut self.tables;
        t.names.entry(base.parent).or_default().insert(base.name.clone(), base.id);
        t.handles.entry(base.stat.handle).or_default().insert(base.id);
        for member in &base.members {
            t.members.insert(member.node, base.id);
        }
        t.bases.insert(base.id, base.clone());
        Ok(())
    }

    fn remove_base(&mut self, id: NodeId) -> StoreResult<()> {
        let t = &mut self.tables;
        let Some(old) = t.bases.remove(&id) else { return Ok(()) };
        if let Some(names) = t.names.get_mut(&old.parent)
            && names.get(&old.name) == Some(&id)
        {
            names.remove(&old.name);
        }
        if let Some(ids) = t.handles.get_mut(&old.stat.handle) {
            ids.remove(&id);
        }
        for member in &old.members {
            if t.members.get(&member.node) == Some(&id) {
                t.members.remove(&member.node);
            }
        }
        Ok(())
    }

    fn count_base(&self) -> StoreResult<u64> {
        Ok(self.tables.bases.len() as u64)
    }

    fn mark(&mut self, node: NodeId) -> StoreResult<()> {
        self.tables.marks.insert(node);
        Ok(())
    }

    fn marked(&self, after: Option<NodeId>, limit: usize) -> StoreResult<Vec<NodeId>> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        Ok(self.tables.marks.range((from, std::ops::Bound::Unbounded)).take(limit).copied().collect())
    }

    fn unmark(&mut self, node: NodeId) -> StoreResult<()> {
        self.tables.marks.remove(&node);
        Ok(())
    }

    fn count_marked(&self) -> StoreResult<u64> {
        Ok(self.tables.marks.len() as u64)
    }

    fn nothing_marked(&self) -> StoreResult<bool> {
        Ok(self.tables.marks.is_empty())
    }

    fn put_kept(&mut self, kept: &Kept) -> StoreResult<()> {
        match self.tables.kept.iter_mut().find(|other| other.name == kept.name) {
            Some(other) => other.clone_from(kept),
            None => self.tables.kept.push(kept.clone()),
        }
        Ok(())
    }

    fn remove_kept(&mut self, name: &str) -> StoreResult<()> {
        self.tables.kept.retain(|kept| kept.name != name);
        Ok(())
    }

    fn kept(&self, name: &str) -> StoreResult<Option<Kept>> {
        Ok(self.tables.kept.iter().find(|kept| kept.name == name).cloned())
    }

    fn kept_at(&self, path: Option<&[u8]>, limit: usize) -> StoreResult<Vec<Kept>> {
        let below = |kept: &&Kept| match path {
            None => true,
            Some(path) => is_at_or_below(&kept.path, path),
        };
        Ok(self.tables.kept.iter().rev().filter(below).take(limit).cloned().collect())
    }

    fn kept_holding(&self, hash: ContentHash) -> StoreResult<Option<Kept>> {
        let holds = |kept: &&Kept| matches!(&kept.value, Value::File { hash: other, .. } if *other == hash);
        Ok(self.tables.kept.iter().find(holds).cloned())
    }

    fn text(&self, hash: ContentHash) -> StoreResult<Option<Vec<u8>>> {
        let mut texts = self.tables.texts.iter();
        Ok(texts.find(|(_, text, _)| text.hash == hash).map(|(_, _, bytes)| bytes.clone()))
    }

    fn put_text(&mut self, node: NodeId, text: Text, bytes: &[u8]) -> StoreResult<()> {
        let texts = &mut self.tables.texts;
        match texts.iter_mut().find(|(of, known, _)| *of == node && known.hash == text.hash) {
            Some((_, known, _)) => known.stood |= text.stood,
            None => texts.push((node, text, bytes.to_vec())),
        }
        Ok(())
    }

    fn texts_of(&self, node: NodeId) -> StoreResult<Vec<Text>> {
        let texts = self.tables.texts.iter().filter(|(of, ..)| *of == node);
        Ok(texts.map(|(_, text, _)| *text).collect())
    }

    fn nodes_with_texts(&self) -> StoreResult<BTreeSet<NodeId>> {
        Ok(self.tables.texts.iter().map(|(node, ..)| *node).collect())
    }

    fn remove_text(&mut self, node: NodeId, hash: ContentHash) -> StoreResult<()> {
        self.tables.texts.retain(|(of, text, _)| *of != node || text.hash != hash);
        Ok(())
    }

    fn value(&self, key: &str) -> StoreResult<Option<Vec<u8>>> {
        Ok(self.tables.values.get(key).cloned())
    }

    fn set_value(&mut self, key: &str, value: &[u8]) -> StoreResult<()> {
        self.tables.values.insert(key.to_owned(), value.to_vec());
        Ok(())
    }

    fn remove_value(&mut self, key: &str) -> StoreResult<()> {
        self.tables.values.remove(key);
        Ok(())
    }

    fn values(&self, prefix: &str) -> StoreResult<Vec<(String, Vec<u8>)>> {
        let from = self.tables.values.range(prefix.to_owned()..);
        Ok(from.take_while(|(key, _)| key.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect())
    }
}
