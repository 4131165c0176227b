//! Items as they are stored and sent: rows, each a join of versions (docs/sync-model.md sections 1 and 2).
//!
//! Data only. Joining, writing and viewing rows is `syncd-core`'s business; [`Row::check`] is the one rule that
//! belongs to the format: what may stand in a row at all.

use std::fmt;

use litemap::LiteMap;
use serde::{Deserialize, Serialize};

use crate::flat;
use crate::ids::{ContentHash, DeviceId, NodeId, ReplicaId};

/// Longest name of a directory entry, in bytes.
pub const MAX_NAME: usize = 255;
/// Longest name of a device, in bytes.
pub const MAX_DEVICE_NAME: usize = 64;
/// Longest symlink target, in bytes.
pub const MAX_TARGET: usize = 4095;
/// Longest value of a setting, in bytes.
pub const MAX_SETTING: usize = 1 << 20;
/// Longest dconf path, in bytes.
pub const MAX_KEY: usize = 1024;
/// Most versions in one store of a row.
pub const MAX_VERSIONS: usize = 256;
/// Most replicas in one context.
pub const MAX_REPLICAS: usize = 4096;
/// Longest name of an extended attribute, in bytes.
pub const MAX_XATTR_NAME: usize = 255;
/// Most bytes of the names and values of all extended attributes of a file; the largest value that Linux has.
pub const MAX_XATTRS: usize = 64 << 10;
/// What the names of extended attributes begin with that belong to the person, and so travel.
pub const USER_XATTR: &[u8] = b"user.";
/// Largest stamp: the end of the year 9999.
pub const MAX_HLC: u64 = 253_402_300_800_000 << 16;
/// The replica of local changes that have no number yet; never on the wire.
pub const UNNUMBERED: ReplicaId = ReplicaId(0);

/// One numbered change of one replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// Who made it.
    pub replica: ReplicaId,
    /// Its number there, from 1, gapless.
    pub seq: u64,
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}.{}", self.replica, self.seq)
    }
}

/// Hybrid logical clock: milliseconds since 1970 times 65,536 plus a counter; orders concurrent versions only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Stamp {
    /// The clock; 0 for what a joining machine brought along.
    pub hlc: u64,
    /// Breaks ties, and names the author of the version.
    pub replica: ReplicaId,
}

/// What has been seen: for each replica the highest number.
pub type Context = LiteMap<ReplicaId, u64>;

/// The versions of one part of a row, by the change that made each.
pub type Versions<V> = LiteMap<Dot, V>;

/// The name of a directory entry: bytes, one component, never empty, `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name(#[serde(with = "serde_bytes")] Vec<u8>);

impl Name {
    /// Takes bytes as a name; `None` if no directory entry can have it.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Option<Self> {
        let bytes = bytes.into();
        let valid = !bytes.is_empty()
            && bytes.len() <= MAX_NAME
            && bytes != b"."
            && bytes != b".."
            && !bytes.iter().any(|&byte| byte == b'/' || byte == 0);
        valid.then_some(Self(bytes))
    }

    /// The bytes as they are on disk.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// What a row is about. It never changes; file and symlink are two contents of a leaf.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Class {
    /// A directory.
    Dir,
    /// A file or symlink.
    Leaf,
    /// A GNOME setting: content alone.
    Setting,
    /// A replica introduces itself: content alone, written once.
    Replica,
}

/// Whether a version is deleted. It only grows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Flag {
    /// Not deleted.
    #[default]
    Live,
    /// Deleted along with its directory.
    WithDirectory,
    /// Deleted itself.
    Itself,
}

/// Where a directory or leaf is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Place {
    /// The directory it is in.
    pub parent: NodeId,
    /// Its name there.
    pub name: Name,
    /// The directory it was in before.
    pub was: NodeId,
    /// When, among concurrent versions.
    pub stamp: Stamp,
    /// Deleted or not.
    pub flag: Flag,
}

/// A point in time of a file, as the file system keeps it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct FileTime {
    /// Seconds since 1970.
    pub secs: i64,
    /// Nanoseconds, 0..1_000_000_000.
    pub nanos: u32,
}

/// The content of a row.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Value {
    /// A directory has no content but its being there.
    Dir,
    /// The bytes of a file.
    File {
        /// Their keyed hash.
        hash: ContentHash,
        /// Their number.
        size: u64,
    },
    /// The target of a symlink.
    Link {
        /// As `readlink` gives it.
        target: Vec<u8>,
    },
    /// A setting.
    Setting {
        /// Its dconf path.
        key: String,
        /// The device it belongs to, for values that are kept per device.
        device: Option<DeviceId>,
        /// Type and value; `None` is "unset", a value of its own.
        value: Option<SettingValue>,
    },
    /// A replica.
    Replica {
        /// Its id.
        replica: ReplicaId,
        /// The device it lives on.
        device: DeviceId,
        /// The device's name at its birth; conflict names use it.
        name: String,
        /// The life before it in the same index, and the last change of that one which this index knew.
        former: Option<Dot>,
    },
}

/// A GVariant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SettingValue {
    /// Type string.
    pub kind: String,
    /// Little-endian normal form.
    pub bytes: Vec<u8>,
}

/// Content of one version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Content {
    /// What it is.
    pub value: Value,
    /// The content that it was edited from.
    pub base: Option<ContentHash>,
    /// How many automatic merges stand behind it.
    pub depth: u8,
    /// Mode and modification time that it was made with; a conflict sibling has these.
    pub born: Attributes,
    /// When, among concurrent versions.
    pub stamp: Stamp,
    /// Wall clock of the author in milliseconds since 1970, for display alone.
    pub wall_ms: u64,
    /// Deleted or not.
    pub flag: Flag,
}

/// Extended attributes of the person: by name, `user.` included.
pub type Xattrs = LiteMap<Vec<u8>, Vec<u8>>;

/// What the file system keeps beside the content.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Attributes {
    /// Permission bits, 0..=0o777.
    pub mode: u16,
    /// Modification time.
    pub mtime: FileTime,
    /// Extended attributes.
    #[serde(with = "flat")]
    pub xattrs: Xattrs,
    /// Hard-link group, where there is one.
    pub group: Option<NodeId>,
}

/// Attributes of one version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Meta {
    /// What they are.
    pub attributes: Attributes,
    /// When, among concurrent versions.
    pub stamp: Stamp,
}

/// Everything known of one node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Which node.
    pub id: NodeId,
    /// What it is.
    pub class: Class,
    /// All changes of this node that were ever seen.
    #[serde(with = "flat")]
    pub ctx: Context,
    /// Where it is; empty for settings and replicas.
    #[serde(with = "flat")]
    pub place: Versions<Place>,
    /// What it holds.
    #[serde(with = "flat")]
    pub content: Versions<Content>,
    /// Its attributes; empty for settings and replicas.
    #[serde(with = "flat")]
    pub meta: Versions<Meta>,
}

/// Why a row cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// A version's dot is not in the context, or a number is 0.
    #[error("a version stands outside its row's context")]
    OutsideContext,
    /// A name that no directory entry, or no device, can have.
    #[error("a name that cannot be")]
    BadName,
    /// A stamp past the year 9999.
    #[error("a stamp past the year 9999")]
    Stamp,
    /// Content or place that the class does not have.
    #[error("content that does not fit the class")]
    WrongClass,
    /// A symlink's target that is empty, or with a zero byte.
    #[error("a symlink's target that cannot be")]
    BadTarget,
    /// A field over its limit.
    #[error("a field over its limit")]
    TooLong,
    /// [`UNNUMBERED`], where a replica is named.
    #[error("the replica of changes without a number")]
    Unnumbered,
    /// A replica that comes before itself.
    #[error("a replica that comes before itself")]
    OwnFormer,
    /// The root directory itself.
    #[error("the root directory has no row")]
    Root,
    /// Permission bits beyond 0o777, nanoseconds beyond a second, or extended attributes that are not a person's.
    #[error("attributes that cannot be")]
    Attributes,
}

impl Row {
    /// A row with nothing in it.
    pub fn empty(id: NodeId, class: Class) -> Self {
        Self { id, class, ctx: Context::new(), place: Versions::new(), content: Versions::new(), meta: Versions::new() }
    }

    /// Checks what a peer sent.
    pub fn check(&self) -> Result<(), RowError> {
        if self.id == NodeId::ROOT {
            return Err(RowError::Root);
        }
        if self.ctx.len() > MAX_REPLICAS
            || [self.place.len(), self.content.len(), self.meta.len()].iter().any(|&len| len > MAX_VERSIONS)
        {
            return Err(RowError::TooLong);
        }
        if self.ctx.contains_key(&UNNUMBERED) {
            return Err(RowError::Unnumbered);
        }
        let mut dots = self.place.keys().chain(self.content.keys()).chain(self.meta.keys());
        let inside = |dot: &Dot| dot.seq > 0 && self.ctx.get(&dot.replica) >= Some(&dot.seq);
        if self.ctx.values().any(|&seq| seq == 0) || !dots.all(inside) {
            return Err(RowError::OutsideContext);
        }
        let stamps = self.place.values().map(|v| v.stamp).chain(self.content.values().map(|v| v.stamp));
        for stamp in stamps.chain(self.meta.values().map(|v| v.stamp)) {
            stamp.check()?;
        }
        let tree = matches!(self.class, Class::Dir | Class::Leaf);
        let without_tree = self.place.is_empty() && self.meta.is_empty();
        if !(tree || without_tree) {
            return Err(RowError::WrongClass);
        }
        for place in self.place.values() {
            // A name is checked again: serde builds the inner bytes without asking `Name::new`.
            if Name::new(place.name.as_bytes()).is_none() {
                return Err(RowError::BadName);
            }
        }
        for meta in self.meta.values() {
            meta.attributes.check()?;
        }
        for content in self.content.values() {
            content.born.check()?;
            content.check(self.class)?;
        }
        Ok(())
    }
}

impl Stamp {
    fn check(&self) -> Result<(), RowError> {
        if self.hlc > MAX_HLC {
            return Err(RowError::Stamp);
        }
        if self.replica == UNNUMBERED {
            return Err(RowError::Unnumbered);
        }
        Ok(())
    }
}

impl Attributes {
    fn check(&self) -> Result<(), RowError> {
        if self.mode > 0o777 || self.mtime.nanos >= 1_000_000_000 {
            return Err(RowError::Attributes);
        }
        let names_a_users =
            |name: &Vec<u8>| name.len() > USER_XATTR.len() && name.starts_with(USER_XATTR) && !name.contains(&0);
        if !self.xattrs.keys().all(names_a_users) {
            return Err(RowError::Attributes);
        }
        let bytes: usize = self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > MAX_XATTRS || self.xattrs.keys().any(|name| name.len() > MAX_XATTR_NAME) {
            return Err(RowError::TooLong);
        }
        Ok(())
    }
}

impl Content {
    fn check(&self, class: Class) -> Result<(), RowError> {
        let fits = match (&self.value, class) {
            (Value::Dir, Class::Dir) | (Value::File { .. }, Class::Leaf) => true,
            (Value::Link { target }, Class::Leaf) => {
                if target.len() > MAX_TARGET {
                    return Err(RowError::TooLong);
                }
                if target.is_empty() || target.contains(&0) {
                    return Err(RowError::BadTarget);
                }
                true
            }
            (Value::Setting { key, value, .. }, Class::Setting) => {
                let long = value.as_ref().is_some_and(|v| v.bytes.len() > MAX_SETTING || v.kind.len() > 255);
                if key.len() > MAX_KEY || long {
                    return Err(RowError::TooLong);
                }
                true
            }
            (Value::Replica { name, replica, former, .. }, Class::Replica) => {
                if name.is_empty() {
                    return Err(RowError::BadName);
                }
                if name.len() > MAX_DEVICE_NAME {
                    return Err(RowError::TooLong);
                }
                let former = former.map(|former| former.replica);
                if *replica == UNNUMBERED || former == Some(UNNUMBERED) {
                    return Err(RowError::Unnumbered);
                }
                if former == Some(*replica) {
                    return Err(RowError::OwnFormer);
                }
                true
            }
            _ => false,
        };
        if fits { Ok(()) } else { Err(RowError::WrongClass) }
    }
}
