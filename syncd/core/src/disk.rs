//! The few calls that the core makes to a file system, as a trait: the real one in the daemon, a simulated one
//! in the tests.
//!
//! Paths are relative to the synced root, bytes, components joined by `/`; the empty path is the root. An
//! implementation resolves every path beneath the root without following a symlink. Nothing here decides.

use std::io;

use hearth_schemas::ids::ContentHash;
use hearth_schemas::item::{Attributes, FileTime, Name, Value, Xattrs};
use serde::{Deserialize, Serialize};

pub use crate::path::{RelPath, join};

/// What kind of thing stands at a name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symlink.
    Link,
    /// A socket, FIFO or device, a mount point, or a directory of another file system.
    Other,
}

/// Tells an inode from every other, also from a later one that reuses its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Handle {
    /// Inode number.
    pub inode: u64,
    /// Birth time in nanoseconds since 1970; 0 where the file system keeps none.
    pub born: i64,
}

/// What `statx` tells of an entry; equal change keys mean unchanged content. The status change time of a database at its
/// path is that of the logs beside it, where theirs is later.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stat {
    /// Kind of the entry.
    pub kind: Kind,
    /// Its inode.
    pub handle: Handle,
    /// Size in bytes.
    pub size: u64,
    /// Permission bits (0o777).
    pub mode: u16,
    /// Modification time.
    pub mtime: FileTime,
    /// Status change time.
    pub ctime: FileTime,
    /// Number of names that the inode has.
    pub links: u64,
    /// Whether it runs with the rights of its owner or group.
    #[serde(skip)]
    pub raised: Raised,
}

/// Whether a file has its setuid or setgid bit. No such bit travels or is ever set, and nothing is decided by it: a
/// person is told. So any two are equal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raised(pub bool);

impl PartialEq for Raised {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Raised {}

impl Stat {
    /// The stat to remember of a file that some program has open for writing: equal to none that the disk gives, since a
    /// mapped file may be written to without any trace.
    #[must_use]
    pub fn unsure(self) -> Self {
        Self { ctime: FileTime::default(), ..self }
    }

    /// Whether it is one that equals no other.
    pub fn is_unsure(&self) -> bool {
        self.ctime == FileTime::default()
    }
}

/// What a file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content {
    /// Keyed hash of its bytes.
    pub hash: ContentHash,
    /// Their number.
    pub size: u64,
    /// Whether some program has the file open for writing, as far as the system tells.
    pub written: bool,
    /// The bytes are not those of the file, but of an image of it in staging ([`crate::database::image_name`]).
    pub image: bool,
}

/// What was read of a file, and what it was once that had been read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reading {
    /// What it holds.
    pub content: Content,
    /// Its stat after that: another one than before tells that it has changed meanwhile. `None` where it has gone.
    pub after: Option<Stat>,
    /// Its extended attributes, as [`Disk::xattrs`] has them.
    pub xattrs: Option<Xattrs>,
}

/// Which other programs may have a file open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Others {
    /// Those that only read it.
    Readers,
    /// None at all.
    Nobody,
}

/// What staging a content needs to know.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Source {
    /// A file of the synced tree: copied (reflinked where possible), and hashed on the way.
    Copy(RelPath),
    /// A file of the history or of staging by its name there.
    Kept(StageName),
    /// A content that was brought into staging for this, whole and verified: it is moved, not copied.
    Brought(StageName),
    /// These bytes.
    Bytes(Vec<u8>),
    /// A symlink with this target.
    Link(Vec<u8>),
}

/// Names a file in our own staging directory, which lies on the root's file system.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct StageName(pub String);

/// A file system with one synced root and one private staging directory.
pub trait Disk {
    /// Has the changes in a directory told from here on. What cannot be watched is looked at from time to time instead.
    fn watch(&mut self, dir: &[u8]);
    /// Entries of a directory, without `.` and `..`, and without names that no item can have.
    fn list(&mut self, dir: &[u8]) -> io::Result<Vec<(Name, Stat)>>;
    /// One entry; `None` if nothing is there. Fails where a parent is missing or cannot be searched.
    fn stat(&mut self, path: &[u8]) -> io::Result<Option<Stat>>;
    /// Target of a symlink.
    fn read_link(&mut self, path: &[u8]) -> io::Result<Vec<u8>>;
    /// The extended attributes of a file or directory; `None` where that cannot be told, as on a file system that keeps
    /// none. What is more than a row can hold is left out.
    fn xattrs(&mut self, path: &[u8]) -> Option<Xattrs>;
    /// Keyed hash and length of a file's bytes.
    fn hash(&mut self, path: &[u8]) -> io::Result<(ContentHash, u64)>;
    /// The first bytes of a source, so many if it has them.
    fn head(&mut self, source: &Source, len: usize) -> io::Result<Vec<u8>>;
    /// The contents that images of are in staging.
    fn images(&mut self) -> io::Result<Vec<ContentHash>>;
    /// What a file holds, and whether it is being written. Of a database that is in use, an image is made of what is
    /// committed, and left in staging. Fails with `ResourceBusy` where that cannot be told at this moment, and with
    /// `WouldBlock` where a large file was read in part: the next call goes on with it.
    fn content(&mut self, path: &[u8]) -> io::Result<Reading>;
    /// What a file holds that is written without pause: a copy of it is left in staging as an image. Of a file that only grows
    /// it is a part from the beginning, of a database what is committed. Fails with `StorageFull` where there is no room
    /// for it, and with `ResourceBusy` where none can be had at this moment.
    fn copy(&mut self, path: &[u8]) -> io::Result<Content>;
    /// The bytes of a source; fails with `FileTooLarge` where there are more than `limit`.
    fn read(&mut self, source: &Source, limit: u64) -> io::Result<Vec<u8>>;
    /// Whether a regular file stands at a path and begins with these bytes.
    fn begins(&mut self, path: &[u8], with: &[u8]) -> io::Result<bool>;
    /// Keyed hash of bytes, as [`Disk::hash`] has it of a file's.
    fn hash_of(&self, bytes: &[u8]) -> ContentHash;
    /// Whether the root is the directory that it was: its identity file and file system are in place.
    fn root_holds(&mut self) -> bool;

    /// Makes a directory; `AlreadyExists` if the name is taken. Gives its stat.
    fn mkdir(&mut self, path: &[u8]) -> io::Result<Stat>;
    /// Puts a content into staging under `name`, with attributes, and gives its stat and hash.
    fn stage(
        &mut self,
        name: &StageName,
        source: &Source,
        attributes: &Attributes,
    ) -> io::Result<(Stat, ContentHash, u64)>;
    /// Gives a file of the tree or of staging a further name, in staging. Gives its stat after it.
    fn stage_link(&mut self, name: &StageName, of: &Source) -> io::Result<Stat>;
    /// Makes the contents of everything staged so far durable, so that it may be put in place.
    fn flush_staged(&mut self) -> io::Result<()>;
    /// Makes everything done so far durable, what was done in these directories among it.
    fn flush(&mut self, dirs: &[RelPath]) -> io::Result<()>;
    /// Sees to it that until [`Disk::let_go`] nobody but these `others` has this file open, and that whoever opens it
    /// otherwise waits. Gives whether that could be seen to: not every file system can. Fails with `ResourceBusy` where
    /// somebody has it open, with `NotFound` where another file is at the path.
    fn hold(&mut self, path: &[u8], handle: Handle, others: Others) -> io::Result<bool>;
    /// Whether somebody waits for the file that is held.
    fn is_awaited(&mut self) -> bool;
    /// Lets others have the file that is held.
    fn let_go(&mut self);
    /// Moves an entry to a free name; `AlreadyExists` if it is taken (`RENAME_NOREPLACE`).
    fn rename(&mut self, from: &[u8], to: &[u8]) -> io::Result<()>;
    /// Moves a staged entry to a free name; `AlreadyExists` if it is taken. Gives the stat after the move.
    fn unstage(&mut self, name: &StageName, to: &[u8]) -> io::Result<Stat>;
    /// Swaps a staged leaf with the leaf at `path` (`RENAME_EXCHANGE`): gives the stat of what stands at the
    /// path after it and of what came out into staging under `name`.
    fn exchange(&mut self, name: &StageName, path: &[u8]) -> io::Result<(Stat, Stat)>;
    /// Moves an entry of the tree into staging under `name`. Gives the stat after the move.
    fn take(&mut self, path: &[u8], name: &StageName) -> io::Result<Stat>;
    /// Moves a staged leaf into the history store under the same name.
    fn keep(&mut self, name: &StageName) -> io::Result<()>;
    /// Removes a file of staging.
    fn discard(&mut self, name: &StageName) -> io::Result<()>;
    /// Removes an empty directory of the tree.
    fn rmdir(&mut self, path: &[u8]) -> io::Result<()>;
    /// Sets permission bits, extended attributes and modification time of this inode; gives the stat after it. Follows no symlink. Fails with
    /// `NotFound` where another inode is at the path.
    fn set_attributes(&mut self, path: &[u8], handle: Handle, attributes: &Attributes) -> io::Result<Stat>;
    /// What lies in staging: name, stat.
    fn staged(&mut self) -> io::Result<Vec<(StageName, Stat)>>;
    /// Stat of a leaf in history.
    fn stat_kept(&mut self, name: &StageName) -> io::Result<Stat>;
    /// What a leaf in staging or history holds: a file or a symlink.
    fn read_staged(&mut self, name: &StageName) -> io::Result<Value>;
}
