//! Device ↔ device messages of the sync session.
//!
//! Every stream begins with a [`Carrier`]: a 4-byte little-endian length and its canonical encoding. On the control
//! stream both sides write frames: a 4-byte little-endian length of what follows, a 4-byte little-endian length of the
//! body before compression (0 where it is not compressed), the body: the canonical encoding of a [`Message`], as one
//! zstd frame where it is compressed. Content travels on streams of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::codec::{self, DecodeError};
use crate::ids::{ContentHash, ReplicaId, RunId};
use crate::item::{Row, RowError, UNNUMBERED};

/// Longest message, in bytes, before and after decompression.
pub const MAX_MESSAGE: usize = 4 << 20;
/// Most rows in one frame.
pub const MAX_ROWS: usize = 1000;
/// Most contents asked for in one message.
pub const MAX_WANTS: usize = 1000;
/// Contents up to this size travel in packs; larger ones on a stream each. In bytes.
pub const PACK_LIMIT: u64 = 256 << 10;
/// Most bytes of content in one pack.
pub const PACK_BYTES: usize = 1 << 20;
/// Most chunks in one chunk list.
pub const MAX_CHUNKS: usize = 1 << 20;

/// How far one replica is known: its highest number, and the random mark of the frame that ended with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Known {
    /// Highest number.
    pub seq: u64,
    /// Mark of the frame that ended there; two marks for one number mean two lives under one id.
    pub nonce: u64,
}

/// For each replica, how far it is known. Those that ended, and are known to their end, are left out.
pub type KnownMap = BTreeMap<ReplicaId, Known>;

/// A place in the order of an index's changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cursor {
    /// The run of its daemon in which the place was told.
    pub run: RunId,
    /// The place.
    pub seq: u64,
}

/// What the two sides of a session say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Message {
    /// The first message of each side.
    Hello {
        /// The sender's present life.
        replica: ReplicaId,
        /// The present run of its daemon; cursors into its index that begin now are of this run.
        run: RunId,
        /// What the sender knows of the receiver's lives.
        yours: KnownMap,
        /// Up to which row the sender has the receiver's rows.
        cursor: Option<Cursor>,
    },
    /// Rows after the receiver's cursor.
    Rows {
        /// The rows, in the sender's numbering.
        rows: Vec<Row>,
        /// The cursor after these rows.
        upto: u64,
        /// Whether these are all for the moment.
        end: bool,
        /// What the sender knew when no row was left behind the cursor.
        known: Option<KnownMap>,
    },
    /// How the sender stands.
    State {
        /// What it knows.
        known: KnownMap,
        /// Sum over its live rows.
        digest: u64,
        /// Whether its disk and settings embody all of that, with nothing unsettled, held or failed.
        clean: bool,
        /// Whether what keeps it from being clean will not go away by itself.
        stuck: bool,
        /// The highest `Flush` that this answers.
        flushed: u64,
    },
    /// Asks to look at everything changed so far, and then to say how it stands.
    Flush {
        /// Rises with each.
        token: u64,
    },
    /// Asks for contents of at most [`PACK_LIMIT`] bytes each; they come in packs.
    Get {
        /// Which.
        wants: Vec<ContentHash>,
    },
    /// Contents that were asked for and are not here.
    Missing {
        /// Which.
        hashes: Vec<ContentHash>,
    },
}

/// Head of a content stream, after its 4-byte length.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Carrier {
    /// Two-way, opened once by the dialling side: frames of [`Message`]s.
    Control,
    /// One-way: frames as on the control stream, each holding a [`Pack`].
    Packs,
    /// Two-way: asks for the chunk list of a content; the answer is a [`ChunkList`].
    Chunks {
        /// Which content.
        hash: ContentHash,
    },
    /// Two-way: asks for parts of a content. The answer is a byte, 0 where it is not here, else 1; the number of bytes in
    /// all runs of data, a little-endian u64; then, part by part, a [`Run`] and its bytes, until the part is covered.
    Ranges {
        /// Which content.
        hash: ContentHash,
        /// Offset and length of each part, in bytes.
        ranges: Vec<(u64, u64)>,
    },
}

/// Some contents.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pack {
    /// Each with its hash.
    pub contents: Vec<(ContentHash, ByteBuf)>,
}

/// How a content is cut.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChunkList {
    /// Length in bytes and keyed hash of each chunk, in order; empty if the content is not here.
    pub chunks: Vec<(u32, ContentHash)>,
}

/// Bytes that follow, or a hole in their place. A run lies within one of the parts that were asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Run {
    /// So many bytes, which follow.
    Data(u64),
    /// So many zeros, which do not.
    Zeros(u64),
}

impl Run {
    /// Bytes of an encoded run.
    pub const BYTES: usize = 8;

    /// Twice the length, which is below 2^63, and one more for zeros, little-endian.
    pub fn encode(self) -> [u8; Self::BYTES] {
        match self {
            Self::Data(len) => len << 1,
            Self::Zeros(len) => len << 1 | 1,
        }
        .to_le_bytes()
    }

    /// Reads a run; `None` where it has no length.
    pub fn decode(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let word = u64::from_le_bytes(bytes);
        match (word >> 1, word & 1) {
            (0, _) => None,
            (len, 0) => Some(Self::Data(len)),
            (len, _) => Some(Self::Zeros(len)),
        }
    }

    /// Its length in bytes, never 0.
    #[expect(clippy::len_without_is_empty, reason = "no run is empty")]
    pub fn len(self) -> u64 {
        match self {
            Self::Data(len) | Self::Zeros(len) => len,
        }
    }
}

/// Why a message was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not a message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A row that cannot be.
    #[error(transparent)]
    Row(#[from] RowError),
    /// More elements than allowed, or a replica that cannot be.
    #[error("a message over its limits")]
    Limit,
}

impl Message {
    /// Decodes and checks a message.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let message: Self = codec::decode(bytes, MAX_MESSAGE)?;
        message.check()?;
        Ok(message)
    }

    fn check(&self) -> Result<(), WireError> {
        let known_fits =
            |known: &KnownMap| known.len() <= crate::item::MAX_REPLICAS && !known.contains_key(&UNNUMBERED);
        let fits = match self {
            Self::Hello { replica, yours, .. } => *replica != UNNUMBERED && known_fits(yours),
            Self::Rows { rows, known, .. } => {
                for row in rows {
                    row.check()?;
                }
                rows.len() <= MAX_ROWS && known.as_ref().is_none_or(known_fits)
            }
            Self::State { known, .. } => known_fits(known),
            Self::Flush { .. } => true,
            Self::Get { wants: list } | Self::Missing { hashes: list } => list.len() <= MAX_WANTS,
        };
        if fits { Ok(()) } else { Err(WireError::Limit) }
    }
}
