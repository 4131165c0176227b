//! What the core asks of the index: rows, base, dirty nodes, history, a few single values.
//!
//! The daemon answers from SQLite, tests from maps ([`MemoryStore`]). All writes between [`Store::begin`] and
//! [`Store::commit`] hold together or not at all; after a power cut the index may be as it was at an earlier commit,
//! but not earlier than the last [`Store::sync`].

use std::collections::BTreeSet;

use hearth_schemas::ids::{ContentHash, NodeId, Slot};
use hearth_schemas::item::{Attributes, Class, Dot, Name, Row, Value};
use hearth_schemas::wire::{Cursor, KnownMap};
use serde::{Deserialize, Serialize};

use crate::disk::{Handle, Stat};
use crate::fingerprint::Fingerprint;

mod memory;
pub use memory::MemoryStore;

/// The index could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk is full.
    #[error("no space left for the index")]
    Full,
    /// It is not what was written: it has to be begun anew.
    #[error("the index is damaged: {0}")]
    Damaged(String),
    /// Anything else, as the database told it.
    #[error("index: {0}")]
    Failed(String),
}

/// Result of asking the index.
pub type StoreResult<T> = Result<T, StoreError>;

/// The versions of a node that this disk embodies.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Dots {
    /// Of its place.
    pub place: Vec<Dot>,
    /// Of its content.
    pub content: Vec<Dot>,
    /// Of its attributes.
    pub meta: Vec<Dot>,
}

/// A node that is shown as an entry of this disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// The node, or the id of a derived sibling.
    pub node: NodeId,
    /// What of it is embodied. Of a derived sibling: the content dots of the node that it derives from.
    pub dots: Dots,
    /// The node that a derived sibling derives from.
    pub origin: Option<NodeId>,
}

/// Whether a base entry is in play.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BaseState {
    /// As usual.
    Live,
    /// Excluded or hidden here; its dots are kept for the day it is seen again.
    Dormant,
}

/// One entry as this disk last embodied it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Base {
    /// Local key of the entry, stable while it lives on this disk; of a directory also its children's `parent`.
    pub id: NodeId,
    /// Local key of the directory it is in.
    pub parent: NodeId,
    /// Its name on this disk.
    pub name: Name,
    /// Directory or leaf.
    pub class: Class,
    /// The nodes shown as this entry, the first one leading.
    pub members: Vec<Member>,
    /// Its content.
    pub value: Value,
    /// Its attributes.
    pub attributes: Attributes,
    /// Inode and change key.
    pub stat: Stat,
    /// In play or not.
    pub state: BaseState,
}

/// Something displaced that can be brought back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// Its name in the history store: the version that a person restores by.
    pub name: String,
    /// Where it was, relative to the root.
    pub path: Vec<u8>,
    /// When it was displaced, in milliseconds since 1970.
    pub time_ms: u64,
    /// The device whose change displaced it.
    pub device: String,
    /// What it held.
    pub value: Value,
    /// Its attributes.
    pub attributes: Attributes,
    /// Why: `replaced`, `deleted`, `conflict`, `recovered`.
    pub cause: String,
}

/// A content whose bytes are kept for merges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Text {
    /// Which.
    pub hash: ContentHash,
    /// Its size in bytes.
    pub size: u64,
    /// Whether the file here has held it, and what came before it was edited to this or replaced by it.
    pub stood: bool,
}

/// A file that could not be synced, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// Relative to the root.
    pub path: Vec<u8>,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: String,
    /// Whether it goes away by itself when its cause does.
    pub transient: bool,
    /// Of a file that is being written all the time: when a copy of it was taken last, in milliseconds since 1970.
    pub copied_ms: Option<u64>,
}

/// The index.
pub trait Store {
    /// Starts a transaction.
    fn begin(&mut self) -> StoreResult<()>;
    /// Ends the transaction.
    fn commit(&mut self) -> StoreResult<()>;
    /// Makes durable what was committed.
    fn sync(&mut self) -> StoreResult<()>;
    /// There is nothing to do for now: what is in memory for speed alone may go. Not within a transaction.
    fn rest(&mut self);
    /// Undoes the transaction.
    fn rollback(&mut self);

    /// A row.
    fn row(&self, id: NodeId) -> StoreResult<Option<Row>>;
    /// Writes a row: it gets the next place in the order of [`Store::rows_after`], and the digest follows.
    fn put_row(&mut self, row: &Row) -> StoreResult<()>;
    /// Every directory's row.
    fn directories(&self) -> StoreResult<Vec<Row>>;
    /// Nodes that have any version of their place under this name of this directory.
    fn placed_at(&self, parent: NodeId, name: &Name) -> StoreResult<Vec<NodeId>>;
    /// Names that begin with this and that nodes have any version of their place under, in this directory.
    fn names_from(&self, parent: NodeId, prefix: &[u8]) -> StoreResult<Vec<Name>>;
    /// Nodes that have any version of their place in this directory.
    fn placed_in(&self, parent: NodeId) -> StoreResult<Vec<NodeId>>;
    /// Up to `limit` rows in the order of their last change after `seq`, each with its position.
    fn rows_after(&self, seq: u64, limit: usize) -> StoreResult<Vec<(u64, Row)>>;
    /// Position of the last change.
    fn last_seq(&self) -> StoreResult<u64>;
    /// Rows that hold unnumbered changes, in the order they were made.
    fn unnumbered(&self) -> StoreResult<Vec<NodeId>>;
    /// How many they are; asked all the time, so it must cost nothing.
    fn count_unnumbered(&self) -> u64;
    /// Sum of the digests of all rows.
    fn digest(&self) -> u64;
    /// Rows of this class.
    fn rows_of(&self, class: Class) -> StoreResult<Vec<Row>>;

    /// How far each replica is known.
    fn known(&self) -> &KnownMap;
    /// Replaces that.
    fn set_known(&mut self, known: KnownMap) -> StoreResult<()>;
    /// Up to which of a peer's rows ours are current.
    fn cursor(&self, peer: Slot) -> StoreResult<Option<Cursor>>;
    /// Sets a peer's cursor.
    fn set_cursor(&mut self, peer: Slot, cursor: Cursor) -> StoreResult<()>;

    /// A base entry by its key.
    fn base(&self, id: NodeId) -> StoreResult<Option<Base>>;
    /// The base entry that a node is a member of.
    fn base_of(&self, node: NodeId) -> StoreResult<Option<Base>>;
    /// The base entry at a name of this disk.
    fn base_at(&self, parent: NodeId, name: &Name) -> StoreResult<Option<Base>>;
    /// Entries of a directory of this disk.
    fn base_in(&self, parent: NodeId) -> StoreResult<Vec<Base>>;
    /// The sum of [`Fingerprint::of_base`] over the entries of a directory of this disk; asked for each directory at the
    /// start, so it must not cost reading them.
    fn fingerprint(&self, parent: NodeId) -> StoreResult<Fingerprint>;
    /// The base entries of directories in a directory, in the order of their names.
    fn base_dirs_in(&self, parent: NodeId) -> StoreResult<Vec<Base>>;
    /// The base entries with this inode: several where it has several names.
    fn bases_with(&self, handle: Handle) -> StoreResult<Vec<Base>>;
    /// Some base entries with this content.
    fn base_holding(&self, hash: ContentHash) -> StoreResult<Vec<Base>>;
    /// Base entries under the name of a conflict sibling.
    fn siblings(&self) -> StoreResult<Vec<Base>>;
    /// Writes a base entry.
    fn put_base(&mut self, base: &Base) -> StoreResult<()>;
    /// Forgets a base entry.
    fn remove_base(&mut self, id: NodeId) -> StoreResult<()>;
    /// Number of base entries.
    fn count_base(&self) -> StoreResult<u64>;

    /// Marks a node as one whose disk may differ from the view.
    fn mark(&mut self, node: NodeId) -> StoreResult<()>;
    /// Up to `limit` marked nodes greater than `after`, in order.
    fn marked(&self, after: Option<NodeId>, limit: usize) -> StoreResult<Vec<NodeId>>;
    /// Removes a mark.
    fn unmark(&mut self, node: NodeId) -> StoreResult<()>;
    /// How many nodes are marked.
    fn count_marked(&self) -> StoreResult<u64>;
    /// Whether no node is marked.
    fn nothing_marked(&self) -> StoreResult<bool>;

    /// Records something displaced.
    fn put_kept(&mut self, kept: &Kept) -> StoreResult<()>;
    /// Removes the record of something displaced that is not there any more.
    fn remove_kept(&mut self, name: &str) -> StoreResult<()>;
    /// A displaced content by its name.
    fn kept(&self, name: &str) -> StoreResult<Option<Kept>>;
    /// Displaced contents, newest first: of this path and everything below it, or of all.
    fn kept_at(&self, path: Option<&[u8]>, limit: usize) -> StoreResult<Vec<Kept>>;
    /// A displaced file with this content.
    fn kept_holding(&self, hash: ContentHash) -> StoreResult<Option<Kept>>;

    /// Bytes that some node has, or had, as its content; as kept for merges ([`crate::text`]).
    fn text(&self, hash: ContentHash) -> StoreResult<Option<Vec<u8>>>;
    /// Keeps the bytes of a content of a node. What is kept already keeps its place in the order of [`Store::texts_of`].
    fn put_text(&mut self, node: NodeId, text: Text, bytes: &[u8]) -> StoreResult<()>;
    /// What is kept of a node, in the order in which it came.
    fn texts_of(&self, node: NodeId) -> StoreResult<Vec<Text>>;
    /// The nodes that something is kept of.
    fn nodes_with_texts(&self) -> StoreResult<BTreeSet<NodeId>>;
    /// Forgets the bytes of a content of a node.
    fn remove_text(&mut self, node: NodeId, hash: ContentHash) -> StoreResult<()>;

    /// A single value.
    fn value(&self, key: &str) -> StoreResult<Option<Vec<u8>>>;
    /// Writes a single value.
    fn set_value(&mut self, key: &str, value: &[u8]) -> StoreResult<()>;
    /// Removes a single value.
    fn remove_value(&mut self, key: &str) -> StoreResult<()>;
    /// Values whose keys begin with this, in order.
    fn values(&self, prefix: &str) -> StoreResult<Vec<(String, Vec<u8>)>>;
}
