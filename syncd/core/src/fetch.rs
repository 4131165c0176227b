//! Which contents are missing here, whom they were asked of, and which have come.
//!
//! Keeps the window of what is on its way bounded, so that memory does not grow with the home. The driver moves the
//! bytes; where they end up is told by [`Fetch::arrived`]. What needs them is [`crate::plan`]'s to say.

use std::collections::{BTreeMap, BTreeSet};

use hearth_schemas::ids::{ContentHash, NodeId, Slot};
use hearth_schemas::wire::{MAX_WANTS, PACK_LIMIT};

use crate::apply::Sources;
use crate::disk::{RelPath, Source};

/// Most bytes on their way or waiting to be applied.
const WINDOW_BYTES: u64 = 12 << 20;
/// Most contents on their way or waiting to be applied.
const WINDOW_FILES: usize = 2000;
/// What a large content counts for in the window: it goes to the disk, not to memory. In bytes.
const LARGE_COUNTS: u64 = 1 << 20;
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

/// What to ask a peer for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Small contents, in packs.
    Packs(Slot, Vec<ContentHash>),
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
    arrived: Sources,
    arrived_bytes: u64,
    asked_bytes: u64,
}

impl Fetch {
    /// Whether more contents may be wanted.
    pub fn has_room(&self) -> bool {
        self.asked_bytes + self.arrived_bytes < WINDOW_BYTES && self.wants.len() + self.arrived.len() < WINDOW_FILES
    }

    /// Whether nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.wants.is_empty()
    }

    /// Number and bytes of contents that wait to be applied.
    pub fn waiting(&self) -> (usize, u64) {
        (self.arrived.len(), self.arrived_bytes)
    }

    /// Whether a content is wanted.
    pub fn wants(&self, hash: &ContentHash) -> bool {
        self.wants.contains_key(hash)
    }

    /// A content that has come.
    pub fn source(&self, hash: &ContentHash) -> Option<&Source> {
        self.arrived.get(hash)
    }

    /// Notes that a node needs a content.
    pub fn want(&mut self, hash: ContentHash, size: u64, node: NodeId, older: Option<RelPath>) {
        if !self.wants.contains_key(&hash) {
            self.asked_bytes += weight(size);
        }
        let want = self.wants.entry(hash).or_insert_with(|| Want {
            size,
            nodes: BTreeSet::new(),
            older,
            asked: None,
            refused: BTreeMap::new(),
        });
        want.nodes.insert(node);
    }

    /// What to ask, of the peers that are here.
    pub fn ask(&mut self, peers: &[Slot], now_ms: u64) -> Vec<Ask> {
        let mut small: BTreeMap<Slot, Vec<ContentHash>> = BTreeMap::new();
        let mut asks = Vec::new();
        for (hash, want) in &mut self.wants {
            if want.asked.is_some() {
                continue;
            }
            let willing = |peer: &&Slot| want.refused.get(peer).is_none_or(|&since| since + RETRY_MS <= now_ms);
            let Some(&peer) = peers.iter().find(willing) else { continue };
            want.asked = Some(peer);
            if want.size <= PACK_LIMIT {
                small.entry(peer).or_default().push(*hash);
            } else {
                asks.push(Ask::Large { peer, hash: *hash, size: want.size, older: want.older.clone() });
            }
        }
        for (peer, hashes) in small {
            asks.extend(hashes.chunks(MAX_WANTS).map(|part| Ask::Packs(peer, part.to_vec())));
        }
        asks
    }

    /// When something that was refused may be asked for again.
    pub fn retry_at(&self) -> Option<u64> {
        let open = self.wants.values().filter(|want| want.asked.is_none());
        open.flat_map(|want| want.refused.values()).min().map(|since| since + RETRY_MS)
    }

    /// A content has come. Gives the nodes that waited for it; none if nobody did.
    pub fn arrived(&mut self, hash: ContentHash, source: Source) -> BTreeSet<NodeId> {
        let Some(want) = self.wants.remove(&hash) else { return BTreeSet::new() };
        self.asked_bytes -= weight(want.size);
        self.arrived_bytes += weight(want.size);
        self.arrived.insert(hash, source);
        want.nodes
    }

    /// A peer does not have a content.
    pub fn refused(&mut self, hash: ContentHash, peer: Slot, now_ms: u64) {
        if let Some(want) = self.wants.get_mut(&hash)
            && want.asked == Some(peer)
        {
            want.asked = None;
            want.refused.insert(peer, now_ms);
        }
    }

    /// A content cannot be brought here. Gives the nodes that waited for it.
    pub fn given_up(&mut self, hash: ContentHash) -> BTreeSet<NodeId> {
        let Some(want) = self.wants.remove(&hash) else { return BTreeSet::new() };
        self.asked_bytes -= weight(want.size);
        want.nodes
    }

    /// A peer is gone: what was asked of it is to be asked again.
    pub fn lost(&mut self, peer: Slot) {
        for want in self.wants.values_mut().filter(|want| want.asked == Some(peer)) {
            want.asked = None;
        }
    }

    /// Nobody waits for these nodes' contents any more. Gives contents that came and are not needed.
    pub fn forget(&mut self, node: NodeId) {
        let mut gone = 0;
        self.wants.retain(|_, want| {
            want.nodes.remove(&node);
            if want.nodes.is_empty() {
                gone += weight(want.size);
            }
            !want.nodes.is_empty()
        });
        self.asked_bytes -= gone;
    }

    /// Takes all contents that have come, to be applied.
    pub fn take(&mut self) -> Sources {
        self.arrived_bytes = 0;
        std::mem::take(&mut self.arrived)
    }
}

fn weight(size: u64) -> u64 {
    if size > PACK_LIMIT { LARGE_COUNTS } else { size }
}
