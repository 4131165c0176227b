//! Brings two contents of a file together before one of them is shown as a conflict sibling.
//!
//! What [`crate::merge`] makes of two versions that were edited from the same content becomes a version of its own that has
//! seen both, with that base. It depends on the three contents and the path alone, so devices that merge at the same
//! time agree. A content that does not lie on this disk goes into history here, as the one that does will when it is
//! replaced. Where anything is missing, or the two clash, nothing happens, and the view shows the sibling.

use std::collections::BTreeSet;

use hearth_schemas::ids::{ContentHash, NodeId};
use hearth_schemas::item::{Class, Content, Dot, Flag, Value};

use super::{Effect, Engine};
use crate::apply::{Happened, Sources, stage_name};
use crate::disk::{Disk, RelPath, Source, join};
use crate::merge::{MAX_BYTES, may_merge, merge};
use crate::row;
use crate::state::Now;
use crate::store::{BaseState, Kept, Store, StoreError, StoreResult, Text};
use crate::text;

/// A merge of merges of merges is left to a person.
const MAX_DEPTH: u8 = 3;

/// One of two contents, with the numbers of the versions that are it.
#[derive(Clone)]
struct Side {
    dots: Vec<Dot>,
    content: Content,
    hash: ContentHash,
    size: u64,
}

/// Two contents of a node that may be merged, and the one that both were edited from.
struct Pair {
    node: NodeId,
    path: RelPath,
    base: ContentHash,
    base_bytes: Vec<u8>,
    sides: [Side; 2],
}

/// What became of a node.
enum Merging {
    /// Two contents were merged.
    Done,
    /// A content has to come first.
    Waits,
    /// Nothing can be merged.
    Nothing,
}

impl<S: Store> Engine<S> {
    /// Merges what can be merged, of these nodes. Gives those that wait for a content: what becomes of them, and whether
    /// there will be a sibling of them, cannot be said before.
    pub(super) fn merge_contents<D: Disk>(
        &mut self,
        disk: &mut D,
        nodes: &[NodeId],
        sources: &Sources,
        now: &mut Now,
    ) -> StoreResult<BTreeSet<NodeId>> {
        let mut waiting = BTreeSet::new();
        let displaced = self.displaced.len();
        for &node in nodes {
            loop {
                match self.merge_one(disk, node, sources, now)? {
                    Merging::Done => {}
                    Merging::Waits => {
                        waiting.insert(node);
                        break;
                    }
                    Merging::Nothing => break,
                }
            }
        }
        if self.displaced.len() > displaced {
            let failed = |error| StoreError::Failed(format!("making what was merged durable: {error}"));
            disk.flush_staged().map_err(failed)?;
        }
        Ok(waiting)
    }

    /// Merges two contents of a node, if any two can be.
    fn merge_one<D: Disk>(
        &mut self,
        disk: &mut D,
        node: NodeId,
        sources: &Sources,
        now: &mut Now,
    ) -> StoreResult<Merging> {
        let pairs = self.pairs_of(node)?;
        for pair in &pairs {
            let [x, y] = &pair.sides;
            let (ours, theirs) = (self.bytes(disk, x, sources)?, self.bytes(disk, y, sources)?);
            let (Some(ours), Some(theirs)) = (&ours, &theirs) else {
                for side in pairs.iter().flat_map(|pair| &pair.sides) {
                    let (hash, size) = (side.hash, side.size);
                    match self.bytes(disk, side, sources)? {
                        // What has come for this alone does not come again, and is needed until every two were tried.
                        Some(bytes) => text::keep(&mut self.state, node, Text { hash, size, stood: false }, &bytes)?,
                        None => self.fetch.want(hash, size, node, None),
                    }
                }
                return Ok(Merging::Waits);
            };
            if let Some(merged) = merge(&pair.path, &pair.base_bytes, ours, theirs)
                && self.keep_side(disk, pair, x, ours, now)?
                && self.keep_side(disk, pair, y, theirs, now)?
            {
                let hash = disk.hash_of(&merged);
                self.write_merged(pair, hash, &merged, now)?;
                return Ok(Merging::Done);
            }
        }
        Ok(Merging::Nothing)
    }

    /// Whether a content may be one of two that are merged.
    pub(super) fn may_merge_from(&self, node: NodeId, hash: ContentHash) -> StoreResult<bool> {
        Ok(self.pairs_of(node)?.iter().flat_map(|pair| &pair.sides).any(|side| side.hash == hash))
    }

    /// The contents of a node that may be merged, by twos.
    fn pairs_of(&self, node: NodeId) -> StoreResult<Vec<Pair>> {
        let mut pairs = Vec::new();
        let Some(row) = self.state.store.row(node)?.filter(|row| row.class == Class::Leaf && row.content.len() > 1)
        else {
            return Ok(pairs);
        };
        let Some((dir, name)) = self.state.view().registered(&row) else { return Ok(pairs) };
        if !self.state.store.base_of(node)?.is_some_and(|base| base.state == BaseState::Live) {
            return Ok(pairs);
        }
        let path = join(&self.state.tree.shape().path(dir), &name);
        let mut sides: Vec<Side> = Vec::new();
        for (dots, content) in row::content_groups(&row) {
            let Value::File { hash, size } = content.value else { continue };
            if content.flag == Flag::Live && content.depth < MAX_DEPTH && may_merge(&path, size) {
                sides.push(Side { dots, content: content.clone(), hash, size });
            }
        }
        for (at, x) in sides.iter().enumerate() {
            for y in &sides[at + 1..] {
                let bases = [x, y].map(|side| (side.hash, side.content.base));
                let Some(base) = text::common_base(&self.state, node, bases)? else { continue };
                if let Some(base_bytes) = self.state.store.text(base)? {
                    let (path, sides) = (path.clone(), [x.clone(), y.clone()]);
                    pairs.push(Pair { node, path, base, base_bytes, sides });
                }
            }
        }
        Ok(pairs)
    }

    /// The bytes of a content, if they are here.
    fn bytes<D: Disk>(&self, disk: &mut D, side: &Side, sources: &Sources) -> StoreResult<Option<Vec<u8>>> {
        if side.size == 0 {
            return Ok(Some(Vec::new()));
        }
        if let Some(bytes) = self.state.store.text(side.hash)? {
            return Ok(Some(bytes));
        }
        let places = sources.get(&side.hash).cloned().into_iter().chain(self.locate(side.hash)?);
        for source in places {
            let bytes = disk.read(&source, MAX_BYTES as u64);
            if let Ok(bytes) = bytes
                && disk.hash_of(&bytes) == side.hash
            {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Puts a content that is to be merged into history, unless it lies on this disk, and gets there when it is replaced.
    /// Gives whether it could be.
    fn keep_side<D: Disk>(
        &mut self,
        disk: &mut D,
        pair: &Pair,
        side: &Side,
        bytes: &[u8],
        now: &mut Now,
    ) -> StoreResult<bool> {
        let holding = self.state.store.base_holding(side.hash)?;
        let shows_it = |node: NodeId, origin: Option<NodeId>| node == pair.node || origin == Some(pair.node);
        let is_shown = holding
            .iter()
            .any(|base| base.state == BaseState::Live && base.members.iter().any(|m| shows_it(m.node, m.origin)));
        if bytes.is_empty() || is_shown || self.state.store.kept_holding(side.hash)?.is_some() {
            return Ok(true);
        }
        let name = stage_name(pair.node, now);
        if disk.stage(&name, &Source::Bytes(bytes.to_vec()), &side.content.born).is_err() {
            // For want of room, as a rule. Both are shown, or what is in the way of that is told.
            return Ok(false);
        }
        let stamp = side.content.stamp;
        self.state.store.put_kept(&Kept {
            name: name.0.clone(),
            path: pair.path.clone(),
            time_ms: now.wall_ms,
            device: self.state.view().birth_name(stamp.replica)?,
            value: side.content.value.clone(),
            attributes: side.content.born.clone(),
            cause: "merged".to_owned(),
        })?;
        self.displaced.push(name);
        Ok(true)
    }

    fn write_merged(&mut self, pair: &Pair, hash: ContentHash, bytes: &[u8], now: &mut Now) -> StoreResult<()> {
        let Some(mut row) = self.state.store.row(pair.node)? else { return Ok(()) };
        let [x, y] = &pair.sides;
        let size = bytes.len() as u64;
        let value = Value::File { hash, size };
        let born = x.content.born.clone();
        let stamp = self.state.stamp(now);
        let content = Content {
            base: Some(pair.base),
            depth: 1 + x.content.depth.max(y.content.depth),
            ..self.state.content(value, None, born, stamp, now)
        };
        let seen: Vec<Dot> = x.dots.iter().chain(&y.dots).copied().collect();
        self.state.write_content(&mut row, &seen, content);
        self.state.put(&row)?;
        text::keep(&mut self.state, pair.node, Text { hash, size, stood: false }, bytes)?;
        let others: BTreeSet<_> = [x, y].map(|side| side.content.stamp.replica).into();
        let by = others.into_iter().find(|replica| *replica != self.state.replica).unwrap_or(self.state.replica);
        let by = self.state.view().birth_name(by)?;
        self.effects.push_back(Effect::Did(pair.path.clone(), Happened::Merged, by));
        Ok(())
    }
}
