//! Which contents are missing here, whom they were asked of, and which have come.
//!
//! Keeps the window of what is on its way bounded, so that neither memory nor staging grows with the home. The driver moves the
//! bytes; where they end up is told by [`Fetch::arrived`]. What needs them is [`crate::plan`]'s to say.

use std::collections::{BTreeMap, BTreeSet};

use hearth_schemas::ids::{ContentHash, NodeId, Slot};
use hearth_schemas::wire::{MAX_WANTS, PACK_LIMIT};

use crate::apply::Sources;
use crate::disk::{RelPath, Source};

/// Large contents on their way at a time; they wait on disk, not in memory.
const LARGE_AT_A_TIME: usize = 4;
/// How long a content that a peer did not have is not asked of it again, in milliseconds.
const RETRY_MS: u64 = 2000;

/// A content to be brought here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Want {
    /// Its size in bytes.
    pub size: u64,
    /// The nodes that wait for it.
    pub nodes: BTreeSet<NodeId>,
    /// Where an older version lies, to take what is the same from.
    pub older: Option<RelPath>,
    asked: Option<Slot>,
    refused: BTreeMap<Slot, u64>,
}

/// A small content of which an older version lies here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edit {
    /// Which.
    pub hash: ContentHash,
    /// Its size in bytes.
    pub size: u64,
    /// Where the older version lies.
    pub older: RelPath,
}

/// What to ask a peer for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Small contents, in packs.
    Packs(Slot, Vec<ContentHash>),
    /// Small contents of which older versions lie here.
    Edits(Slot, Vec<Edit>),
    /// A large one, on a stream of its own.
    Large {
        /// Of whom.
        peer: Slot,
        /// Which.
        hash: ContentHash,
        /// Its size in bytes.
        size: u64,
        /// Where an older version lies.
        older: Option<RelPath>,
    },
}

/// The contents on their way.
#[derive(Default, Debug)]
pub struct Fetch {
    wants: BTreeMap<ContentHash, Want>,
    /// What each node waits for: it may need several contents, for its siblings.
    awaited: BTreeMap<NodeId, BTreeSet<ContentHash>>,
    arrived: Sources,
    arrived_bytes: u64,
    /// Small contents that have come, by number and bytes.
    here: (usize, u64),
    /// Small contents asked for or about to be.
    small: (usize, u64),
    /// Large contents asked for.
    large: usize,
}

impl Want {
    fn is_small(&self) -> bool {
        self.size <= PACK_LIMIT
    }

    /// Whether every peer that was asked does not have it: it waits for better days, and takes no room.
    fn is_resting(&self) -> bool {
        self.asked.is_none() && !self.refused.is_empty()
    }
}

impl Fetch {
    /// Whether more contents may be wanted, given how many, and how many bytes, may be here or on their way.
    pub fn has_room(&self, (files, bytes): (usize, u64)) -> bool {
        self.small.1 + self.here.1 < bytes && self.small.0 + self.here.0 < files
    }

    /// Whether nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.small.0 == 0 && self.large == 0
    }

    /// Whether no small content is on its way.
    pub fn is_small_idle(&self) -> bool {
        self.small.0 == 0
    }

    /// Number and bytes of contents that wait to be applied.
    pub fn waiting(&self) -> (usize, u64) {
        (self.arrived.len(), self.arrived_bytes)
    }

    /// Whether a content is wanted.
    pub fn wants(&self, hash: &ContentHash) -> bool {
        self.wants.contains_key(hash)
    }

    /// Whether a content was asked of a peer that has yet to answer.
    pub fn is_asked(&self, hash: &ContentHash) -> bool {
        self.wants.get(hash).is_some_and(|want| want.asked.is_some())
    }

    /// Whether a node waits for a content.
    pub fn awaits(&self, node: &NodeId) -> bool {
        self.awaited.contains_key(node)
    }

    /// The nodes that wait for a content.
    pub fn waiting_nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.awaited.keys()
    }

    /// A content that has come.
    pub fn source(&self, hash: &ContentHash) -> Option<&Source> {
        self.arrived.get(hash)
    }

    /// Notes that a node needs a content.
    pub fn want(&mut self, hash: ContentHash, size: u64, node: NodeId, older: Option<RelPath>) {
        self.awaited.entry(node).or_default().insert(hash);
        if let Some(want) = self.wants.get_mut(&hash) {
            want.nodes.insert(node);
            return;
        }
        let want = Want { size, nodes: BTreeSet::from([node]), older, asked: None, refused: BTreeMap::new() };
        if want.is_small() {
            self.small = (self.small.0 + 1, self.small.1 + size);
        }
        self.wants.insert(hash, want);
    }

    /// What to ask, of the peers that are here.
    pub fn ask(&mut self, peers: &[Slot], now_ms: u64) -> Vec<Ask> {
        let mut packs: BTreeMap<Slot, Vec<ContentHash>> = BTreeMap::new();
        let mut edits: BTreeMap<Slot, Vec<Edit>> = BTreeMap::new();
        let mut asks = Vec::new();
        for (hash, want) in &mut self.wants {
            if want.asked.is_some() || (!want.is_small() && self.large >= LARGE_AT_A_TIME) {
                continue;
            }
            let willing = |peer: &&Slot| want.refused.get(peer).is_none_or(|&since| since + RETRY_MS <= now_ms);
            let Some(&peer) = peers.iter().find(willing) else { continue };
            if want.is_small() {
                if want.is_resting() {
                    self.small = (self.small.0 + 1, self.small.1 + want.size);
                }
                match want.older.clone() {
                    Some(older) => edits.entry(peer).or_default().push(Edit { hash: *hash, size: want.size, older }),
                    None => packs.entry(peer).or_default().push(*hash),
                }
            } else {
                self.large += 1;
                asks.push(Ask::Large { peer, hash: *hash, size: want.size, older: want.older.clone() });
            }
            want.asked = Some(peer);
        }
        for (peer, hashes) in packs {
            asks.extend(hashes.chunks(MAX_WANTS).map(|part| Ask::Packs(peer, part.to_vec())));
        }
        asks.extend(edits.into_iter().map(|(peer, edits)| Ask::Edits(peer, edits)));
        asks
    }

    /// When something that was refused may be asked for again, of the peers that are here.
    pub fn retry_at(&self, peers: &[Slot]) -> Option<u64> {
        let open = self.wants.values().filter(|want| want.asked.is_none());
        let refused = open.flat_map(|want| peers.iter().filter_map(|peer| want.refused.get(peer)));
        refused.min().map(|since| since + RETRY_MS)
    }

    /// A content has come. Gives the nodes that waited for it; none if nobody did.
    pub fn arrived(&mut self, hash: ContentHash, source: Source) -> BTreeSet<NodeId> {
        let Some(want) = self.wants.remove(&hash) else { return BTreeSet::new() };
        self.lighten(&want);
        self.release(&hash, &want);
        self.arrived_bytes += want.size;
        if want.is_small() {
            self.here = (self.here.0 + 1, self.here.1 + want.size);
        }
        self.arrived.insert(hash, source);
        want.nodes
    }

    /// A peer does not have a content.
    pub fn refused(&mut self, hash: ContentHash, peer: Slot, now_ms: u64) {
        let Some(mut want) = self.wants.remove(&hash) else { return };
        if want.asked == Some(peer) {
            self.lighten(&want);
            want.asked = None;
            want.refused.insert(peer, now_ms);
        }
        self.wants.insert(hash, want);
    }

    /// A content cannot be taken in. Gives the nodes that waited for it.
    pub fn give_up(&mut self, hash: &ContentHash) -> BTreeSet<NodeId> {
        let Some(want) = self.wants.remove(hash) else { return BTreeSet::new() };
        self.lighten(&want);
        self.release(hash, &want);
        want.nodes
    }

    /// A peer is gone: what was asked of it is to be asked again.
    pub fn lost(&mut self, peer: Slot) {
        for want in self.wants.values_mut() {
            let was_resting = want.is_resting();
            want.refused.remove(&peer);
            if want.asked == Some(peer) {
                want.asked = None;
                if !want.is_small() {
                    self.large -= 1;
                } else if want.is_resting() {
                    self.small = (self.small.0 - 1, self.small.1 - want.size);
                }
            } else if was_resting && !want.is_resting() && want.is_small() {
                self.small = (self.small.0 + 1, self.small.1 + want.size);
            }
        }
    }

    /// Nobody waits for this node's contents any more.
    pub fn forget(&mut self, node: NodeId) {
        for hash in self.awaited.remove(&node).unwrap_or_default() {
            let mut want = self.wants.remove(&hash).expect("what a node waits for is wanted");
            want.nodes.remove(&node);
            if want.nodes.is_empty() {
                self.lighten(&want);
            } else {
                self.wants.insert(hash, want);
            }
        }
    }

    /// The nodes of a want do not wait for it any more.
    fn release(&mut self, hash: &ContentHash, want: &Want) {
        for node in &want.nodes {
            if let Some(hashes) = self.awaited.get_mut(node) {
                hashes.remove(hash);
                if hashes.is_empty() {
                    self.awaited.remove(node);
                }
            }
        }
    }

    /// A want that took room takes none any more.
    fn lighten(&mut self, want: &Want) {
        if !want.is_small() {
            self.large -= usize::from(want.asked.is_some());
        } else if !want.is_resting() {
            self.small = (self.small.0 - 1, self.small.1 - want.size);
        }
    }

    /// The nodes whose contents none of these peers has, if this content is one of those.
    pub fn hopeless(&self, hash: &ContentHash, peers: &[Slot]) -> BTreeSet<NodeId> {
        let hopeless = |want: &&Want| want.is_resting() && peers.iter().all(|peer| want.refused.contains_key(peer));
        self.wants.get(hash).filter(hopeless).map(|want| want.nodes.clone()).unwrap_or_default()
    }

    /// Takes all contents that have come, to be applied.
    pub fn take(&mut self) -> Sources {
        self.arrived_bytes = 0;
        self.here = (0, 0);
        std::mem::take(&mut self.arrived)
    }
}

#[cfg(test)]
mod tests;
