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
/// Most contents offered in one message.
pub const MAX_OFFERED: usize = 8;
/// Longest content that is offered unasked, in bytes.
pub const OFFER_LIMIT: usize = 4 << 10;
/// Contents up to this size travel in packs; larger ones on a stream each. In bytes.
pub const PACK_LIMIT: u64 = 256 << 10;
/// Most bytes of content in one pack.
pub const PACK_BYTES: usize = 1 << 20;
/// Most chunks in one chunk list.
pub const MAX_CHUNKS: usize = 1 << 20;
/// Most groups of a content.
pub const MAX_GROUPS: usize = 1025;
/// Most blocks in one signature.
pub const MAX_BLOCKS: usize = 1 << 15;
/// Least and greatest length of a signature's blocks, in bytes.
pub const BLOCK_SIZES: (u32, u32) = (64, 1 << 20);
/// Most bytes that one compressed run becomes.
pub const MAX_PACKED: u64 = 256 << 10;

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
    /// Contents of at most [`OFFER_LIMIT`] bytes each that the rows which follow tell of: nobody need ask for them.
    Offer {
        /// Each with its hash.
        contents: Vec<(ContentHash, ByteBuf)>,
    },
}

/// Head of a content stream, after its 4-byte length.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Carrier {
    /// Two-way, opened once by the dialling side: frames of [`Message`]s.
    Control,
    /// One-way: frames as on the control stream, each holding a [`Pack`].
    Packs,
    /// Two-way: asks how a content is cut; the answer is a [`ChunkList`].
    Chunks {
        /// Which content.
        hash: ContentHash,
        /// Its length in bytes; no more than that is cut of what the file may have become.
        length: u64,
    },
    /// Two-way: asks for parts of a content, each with a frame that holds a [`Wanted`]. Each is answered in turn: with the
    /// number of bytes in it that are no holes, a little-endian u64, [`NOT_HERE`] where the content is not here; then with
    /// [`Run`]s until the part is covered.
    Ranges {
        /// Which content.
        hash: ContentHash,
    },
    /// Two-way: asks for small contents of which older versions are at hand, in frames that each hold a [`Compare`]. The
    /// answers are frames that each hold a [`Pack`], with the [`Run`]s of a content in its place; none where it is not here.
    Edits,
    /// Two-way: asks what the groups of a content are called; the answer is a [`GroupList`].
    Groups {
        /// Which content.
        hash: ContentHash,
        /// Its length in bytes.
        length: u64,
    },
}

/// Stands in place of a number of bytes for a content that is not here.
pub const NOT_HERE: u64 = u64::MAX;

/// Some contents.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pack {
    /// Each with its hash.
    pub contents: Vec<(ContentHash, ByteBuf)>,
}

/// How a content is cut.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChunkList {
    /// Length in bytes and the beginning of the keyed hash of each chunk, in order; empty if the content is not here.
    pub chunks: Vec<(u32, [u8; 8])>,
}

/// A content in groups of equal length.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupList {
    /// The beginning of what stands for each group in the tree of the content's hash, in order; empty if the content is not
    /// here.
    pub groups: Vec<[u8; 8]>,
}

/// A part of a content that is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Wanted {
    /// Offset in the content, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// What lies in its place in an older version; runs may copy from there.
    pub older: Option<Signature>,
}

/// Contents that are asked for, with what is at hand in place of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Compare {
    /// Each with its hash.
    pub contents: Vec<(ContentHash, Signature)>,
}

/// What bytes look like, block by block, so that somebody who does not have them can tell what they still hold.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Signature {
    /// Length of each block in bytes. What is left at the end is in no block.
    pub block: u32,
    /// For each block its rolling hash, little-endian, and the beginning of its keyed hash, 4 bytes each.
    pub blocks: Vec<[u8; 8]>,
}

impl Signature {
    fn fits(&self) -> bool {
        self.blocks.len() <= MAX_BLOCKS && (BLOCK_SIZES.0..=BLOCK_SIZES.1).contains(&self.block)
    }
}

impl Wanted {
    /// Decodes and checks what is asked for.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let wanted: Self = codec::decode(bytes, MAX_MESSAGE)?;
        let ends = wanted.length > 0 && wanted.offset.checked_add(wanted.length).is_some();
        if ends && wanted.older.as_ref().is_none_or(Signature::fits) { Ok(wanted) } else { Err(WireError::Limit) }
    }
}

impl Compare {
    /// Decodes and checks what is asked for.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let compare: Self = codec::decode(bytes, MAX_MESSAGE)?;
        let fits = compare.contents.len() <= MAX_WANTS && compare.contents.iter().all(|(_, older)| older.fits());
        if fits { Ok(compare) } else { Err(WireError::Limit) }
    }
}

/// How the next bytes of a part come about. A run lies within the part that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Run {
    /// So many bytes, which follow.
    Data(u64),
    /// So many zeros, which do not.
    Zeros(u64),
    /// So many bytes, which follow as one zstd frame.
    Packed {
        /// Bytes that they become, at most [`MAX_PACKED`].
        len: u64,
        /// Bytes that follow, fewer than they become.
        packed: u64,
    },
    /// Bytes that the older version holds.
    Older {
        /// Offset in what the signature is of, in bytes.
        from: u64,
        /// How many.
        len: u64,
    },
}

impl Run {
    /// Bytes that an encoded run begins with.
    pub const BYTES: usize = 8;

    /// A word of four times the length and a number for the kind; for two of the kinds a second word; little-endian.
    pub fn encode(self) -> Vec<u8> {
        let (kind, second) = match self {
            Self::Data(_) => (0, None),
            Self::Zeros(_) => (1, None),
            Self::Packed { packed, .. } => (2, Some(packed)),
            Self::Older { from, .. } => (3, Some(from)),
        };
        let mut bytes = (self.len() << 2 | kind).to_le_bytes().to_vec();
        bytes.extend(second.into_iter().flat_map(u64::to_le_bytes));
        bytes
    }

    /// Whether a run that begins with this has a second word.
    pub fn is_long(first: [u8; Self::BYTES]) -> bool {
        first[0] & 2 != 0
    }

    /// Reads a run; `None` where it cannot be. The second word is 0 where there is none.
    pub fn decode(first: [u8; Self::BYTES], second: [u8; Self::BYTES]) -> Option<Self> {
        let (word, second) = (u64::from_le_bytes(first), u64::from_le_bytes(second));
        let run = match (word >> 2, word & 3) {
            (0, _) => return None,
            (len, 0) => Self::Data(len),
            (len, 1) => Self::Zeros(len),
            (len, 2) if len <= MAX_PACKED && (1..len).contains(&second) => Self::Packed { len, packed: second },
            (len, 3) if second.checked_add(len).is_some() => Self::Older { from: second, len },
            _ => return None,
        };
        Some(run)
    }

    /// Number of bytes that it becomes, never 0.
    #[expect(clippy::len_without_is_empty, reason = "no run is empty")]
    pub fn len(self) -> u64 {
        match self {
            Self::Data(len) | Self::Zeros(len) | Self::Packed { len, .. } | Self::Older { len, .. } => len,
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
            Self::Offer { contents } => {
                contents.len() <= MAX_OFFERED && contents.iter().all(|(_, bytes)| bytes.len() <= OFFER_LIMIT)
            }
        };
        if fits { Ok(()) } else { Err(WireError::Limit) }
    }
}
