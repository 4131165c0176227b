//! Keeps the bytes of files that are merged ([`crate::merge`]), for the day that two devices have changed one.
//!
//! What a person edits in place is gone from the disk, and a merge must look back on it. So the index keeps what such a
//! file held: of each node what its versions hold and were edited from, what its base entry has, and the last few of what
//! stood here before, within [`MAX_KEPT`]. Without the bytes nothing is lost: both sides are kept.

use std::collections::BTreeSet;

use hearth_schemas::ids::{ContentHash, NodeId};
use hearth_schemas::item::{Row, Value};

use crate::disk::{Disk, Source};
use crate::merge::{MAX_BYTES, may_merge};
use crate::observe::base_path;
use crate::state::State;
use crate::store::{Base, Store, StoreResult, Text};

/// What is kept of a node beside what its versions need: so many contents, so many bytes.
const MAX_KEPT: (usize, u64) = (16, 1 << 20);

/// Keeps what the file of a base entry holds, if it is one that is merged and the disk is as base says.
pub fn remember<S: Store, D: Disk>(state: &mut State<S>, disk: &mut D, base: &Base) -> StoreResult<()> {
    let Value::File { hash, size } = base.value else { return Ok(()) };
    let Some(member) = base.members.first().filter(|member| member.origin.is_none()) else { return Ok(()) };
    let path = base_path(&state.store, base)?;
    let is_known = |text: &Text| text.hash == hash && text.stood;
    if !may_merge(&path, size) || state.store.texts_of(member.node)?.iter().any(is_known) {
        return Ok(());
    }
    let Ok(bytes) = disk.read(&Source::Copy(path), MAX_BYTES as u64) else { return Ok(()) };
    if disk.hash_of(&bytes) == hash {
        keep(state, member.node, Text { hash, size, stood: true }, &bytes)?;
    }
    Ok(())
}

/// Keeps the bytes of a content of a node, and lets go of what no merge may look back on any more.
pub fn keep<S: Store>(state: &mut State<S>, node: NodeId, text: Text, bytes: &[u8]) -> StoreResult<()> {
    state.store.put_text(node, text, bytes)?;
    let mut wanted = match state.store.row(node)? {
        Some(row) => bearing_on(&row),
        None => BTreeSet::new(),
    };
    wanted.insert(text.hash);
    if let Some(Value::File { hash, .. }) = state.store.base_of(node)?.map(|base| base.value) {
        wanted.insert(hash);
    }
    let (mut count, mut sum) = (0, 0);
    for old in state.store.texts_of(node)?.into_iter().rev().filter(|old| !wanted.contains(&old.hash)) {
        count += 1;
        sum += old.size;
        if !old.stood || count > MAX_KEPT.0 || sum > MAX_KEPT.1 {
            state.store.remove_text(node, old.hash)?;
        }
    }
    Ok(())
}

/// The content that both of two were edited from, as far as this device knows: what both say, or what one says and stood
/// here before the other did. Each is given with what it was edited from.
pub fn common_base<S: Store>(
    state: &State<S>,
    node: NodeId,
    [x, y]: [(ContentHash, Option<ContentHash>); 2],
) -> StoreResult<Option<ContentHash>> {
    if x.1.is_some() && x.1 == y.1 {
        return Ok(x.1);
    }
    let mut stood = state.store.texts_of(node)?;
    stood.retain(|text| text.stood);
    let at = |hash: ContentHash| stood.iter().position(|text| text.hash == hash);
    let stood_before = |base: Option<ContentHash>, later: ContentHash| {
        base.filter(|base| at(*base).zip(at(later)).is_some_and(|(base, later)| base <= later))
    };
    Ok(stood_before(x.1, y.0).or_else(|| stood_before(y.1, x.0)))
}

/// Forgets the bytes of what is not on this disk any more.
pub fn tidy<S: Store>(state: &mut State<S>) -> StoreResult<()> {
    for node in state.store.nodes_with_texts()? {
        if state.store.base_of(node)?.is_none() {
            for text in state.store.texts_of(node)? {
                state.store.remove_text(node, text.hash)?;
            }
        }
    }
    Ok(())
}

/// The contents of a node's versions, and those that they were edited from.
fn bearing_on(row: &Row) -> BTreeSet<ContentHash> {
    let of_value = |value: &Value| match value {
        Value::File { hash, .. } => Some(*hash),
        Value::Dir | Value::Link { .. } | Value::Setting { .. } | Value::Replica { .. } => None,
    };
    row.content.values().flat_map(|content| content.base.into_iter().chain(of_value(&content.value))).collect()
}
