//! A file system in memory: inodes, names, times, permissions, and what a person does to them.
//!
//! Follows Linux where the core can tell the difference: inode numbers are used again with another birth time, a
//! change of an inode moves its status change time, renames keep the inode, directories carry the time of their last
//! change. Watching and faults are [`super::disk`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;

use hearth_schemas::item::{FileTime, Xattrs};
use syncd_core::disk::{Handle, Kind, Raised, RelPath, Stat};

/// Inode number of the root directory.
pub const ROOT: u64 = 2;

/// What an inode is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// A regular file.
    File(Arc<Vec<u8>>),
    /// A directory.
    Dir(BTreeMap<Vec<u8>, u64>),
    /// A symlink.
    Link(Vec<u8>),
    /// A socket.
    Socket,
}

/// One inode.
#[derive(Clone, Debug)]
pub struct Inode {
    /// What it is.
    pub body: Body,
    /// Permission bits.
    pub mode: u16,
    /// Modification time.
    pub mtime: FileTime,
    /// Status change time.
    pub ctime: FileTime,
    /// Birth time in nanoseconds.
    pub born: i64,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Names it has.
    pub links: u64,
    /// Its bytes were written by the daemon and not made durable since.
    pub unflushed: bool,
}

/// The file system of one machine: the synced root, staging and history.
#[derive(Clone, Debug)]
pub struct Tree {
    inodes: BTreeMap<u64, Inode>,
    /// Files of the daemon's staging directory.
    pub staging: BTreeMap<String, u64>,
    /// Files of its history.
    pub history: BTreeMap<String, u64>,
    /// Clock of the file system, in nanoseconds since 1970; every change moves it on.
    pub clock_ns: i64,
    /// Files that programs have open for writing: they last without a name, too.
    open: Vec<u64>,
    /// Those of them whose last name a person took away.
    abandoned: BTreeSet<u64>,
}

impl Tree {
    /// An empty root.
    pub fn new(clock_ns: i64) -> Self {
        let mut tree = Self {
            inodes: BTreeMap::new(),
            staging: BTreeMap::new(),
            history: BTreeMap::new(),
            clock_ns,
            open: Vec::new(),
            abandoned: BTreeSet::new(),
        };
        let root = tree.inode(Body::Dir(BTreeMap::new()), 0o755);
        tree.inodes.insert(ROOT, root);
        tree
    }

    /// An inode by its number.
    pub fn get(&self, ino: u64) -> &Inode {
        self.inodes.get(&ino).expect("a name points to an inode that exists")
    }

    fn get_mut(&mut self, ino: u64) -> &mut Inode {
        self.inodes.get_mut(&ino).expect("a name points to an inode that exists")
    }

    /// The inode at a path, or why there is none.
    pub fn resolve(&self, path: &[u8]) -> Result<u64> {
        let mut at = ROOT;
        for part in path.split(|&byte| byte == b'/').filter(|part| !part.is_empty()) {
            at = *self.entries(at)?.get(part).ok_or(ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    /// Names in a directory.
    pub fn entries(&self, dir: u64) -> Result<&BTreeMap<Vec<u8>, u64>> {
        match &self.get(dir).body {
            Body::Dir(entries) => Ok(entries),
            Body::File(_) | Body::Link(_) | Body::Socket => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn entries_mut(&mut self, dir: u64) -> Result<&mut BTreeMap<Vec<u8>, u64>> {
        match &mut self.get_mut(dir).body {
            Body::Dir(entries) => Ok(entries),
            Body::File(_) | Body::Link(_) | Body::Socket => Err(ErrorKind::NotADirectory.into()),
        }
    }

    /// The directory a path is in, and its last component.
    pub fn parent<'a>(&self, path: &'a [u8]) -> Result<(u64, &'a [u8])> {
        let (dir, name) = split(path);
        if name.is_empty() {
            return Err(ErrorKind::InvalidInput.into());
        }
        let dir = self.resolve(dir)?;
        self.entries(dir)?;
        Ok((dir, name))
    }

    /// What stands at a path.
    pub fn look(&self, path: &[u8]) -> Result<Option<u64>> {
        let (dir, name) = self.parent(path)?;
        Ok(self.entries(dir)?.get(name).copied())
    }

    /// What `statx` tells of an inode.
    pub fn stat(&self, ino: u64) -> Stat {
        let inode = self.get(ino);
        let (kind, size) = match &inode.body {
            Body::File(bytes) => (Kind::File, bytes.len() as u64),
            Body::Dir(_) => (Kind::Dir, 0),
            Body::Link(target) => (Kind::Link, target.len() as u64),
            Body::Socket => (Kind::Other, 0),
        };
        Stat {
            kind,
            handle: Handle { inode: ino, born: inode.born },
            size,
            mode: inode.mode & 0o777,
            mtime: inode.mtime,
            ctime: inode.ctime,
            links: if kind == Kind::Dir { 1 } else { inode.links },
            raised: Raised(kind == Kind::File && inode.mode & 0o6000 != 0),
        }
    }

    /// The bytes of a file.
    pub fn bytes(&self, ino: u64) -> Result<Arc<Vec<u8>>> {
        match &self.get(ino).body {
            Body::File(bytes) => Ok(Arc::clone(bytes)),
            Body::Dir(_) | Body::Link(_) | Body::Socket => Err(Error::other("not a regular file")),
        }
    }

    /// Every path below the root with its inode, in order.
    pub fn walk(&self) -> Vec<(RelPath, u64)> {
        let mut out = Vec::new();
        self.walk_below(ROOT, &[], &mut out);
        out
    }

    fn walk_below(&self, dir: u64, path: &[u8], out: &mut Vec<(RelPath, u64)>) {
        for (name, &ino) in self.entries(dir).into_iter().flatten() {
            let below = below(path, name);
            out.push((below.clone(), ino));
            if matches!(self.get(ino).body, Body::Dir(_)) {
                self.walk_below(ino, &below, out);
            }
        }
    }

    fn tick(&mut self) -> FileTime {
        self.clock_ns += 1;
        let (secs, nanos) = (self.clock_ns.div_euclid(1_000_000_000), self.clock_ns.rem_euclid(1_000_000_000));
        FileTime { secs, nanos: u32::try_from(nanos).expect("below a second") }
    }

    fn inode(&mut self, body: Body, mode: u16) -> Inode {
        let now = self.tick();
        Inode {
            body,
            mode,
            mtime: now,
            ctime: now,
            born: self.clock_ns,
            xattrs: Xattrs::new(),
            links: 1,
            unflushed: false,
        }
    }

    /// A free inode number: the lowest, so that numbers are used again.
    fn free(&self) -> u64 {
        let mut ino = ROOT + 1;
        for &used in self.inodes.keys().filter(|&&used| used > ROOT) {
            if used != ino {
                break;
            }
            ino += 1;
        }
        ino
    }

    /// Makes an inode without a name.
    pub fn create(&mut self, body: Body, mode: u16) -> u64 {
        let mode = if matches!(body, Body::Link(_)) { 0o777 } else { mode };
        let inode = self.inode(body, mode);
        let ino = self.free();
        self.inodes.insert(ino, inode);
        ino
    }

    /// Puts a name on an inode; the name must be free.
    pub fn attach(&mut self, dir: u64, name: &[u8], ino: u64) -> Result<()> {
        let now = self.tick();
        if self.entries_mut(dir)?.insert(name.to_vec(), ino).is_some() {
            return Err(Error::other("the name was taken"));
        }
        self.touch_dir(dir, now);
        self.get_mut(ino).ctime = now;
        Ok(())
    }

    /// Takes a name off its inode, which stays.
    pub fn detach(&mut self, dir: u64, name: &[u8]) -> Result<u64> {
        let now = self.tick();
        let ino = self.entries_mut(dir)?.remove(name).ok_or(ErrorKind::NotFound)?;
        self.touch_dir(dir, now);
        self.get_mut(ino).ctime = now;
        Ok(ino)
    }

    fn touch_dir(&mut self, dir: u64, now: FileTime) {
        let dir = self.get_mut(dir);
        dir.mtime = now;
        dir.ctime = now;
    }

    /// Counts a further name of an inode.
    pub fn add_link(&mut self, ino: u64) {
        let now = self.tick();
        let inode = self.get_mut(ino);
        inode.links += 1;
        inode.ctime = now;
    }

    /// Lets go of one name of an inode; without a name it is gone.
    pub fn release(&mut self, ino: u64) {
        let now = self.tick();
        let inode = self.get_mut(ino);
        inode.links -= 1;
        inode.ctime = now;
        if inode.links == 0 && !self.is_open(ino) {
            self.inodes.remove(&ino);
        }
    }

    /// A program opens a file for writing.
    pub fn open(&mut self, ino: u64) {
        self.open.push(ino);
    }

    /// One of the files that are open, counted round.
    pub fn opened(&self, which: usize) -> Option<u64> {
        self.open.get(which.checked_rem(self.open.len())?).copied()
    }

    /// Whether a program has a file open for writing.
    pub fn is_open(&self, ino: u64) -> bool {
        self.open.contains(&ino)
    }

    /// A program closes a file.
    pub fn close(&mut self, ino: u64) {
        if let Some(at) = self.open.iter().position(|open| *open == ino) {
            self.open.remove(at);
        }
        if !self.is_open(ino) {
            self.abandoned.remove(&ino);
            if self.inodes.get(&ino).is_some_and(|inode| inode.links == 0) {
                self.inodes.remove(&ino);
            }
        }
    }

    /// All programs end.
    pub fn close_all(&mut self) {
        while let Some(ino) = self.opened(0) {
            self.close(ino);
        }
    }

    /// A person did away with these contents: what holds one of them and has no name is none of anybody's by now.
    pub fn abandon(&mut self, destroyed: &[Arc<Vec<u8>>]) {
        let is_gone =
            |inode: &Inode| matches!(&inode.body, Body::File(bytes) if inode.links == 0 && destroyed.contains(bytes));
        let gone: Vec<u64> = self.open.iter().copied().filter(|ino| is_gone(self.get(*ino))).collect();
        self.abandoned.extend(gone);
    }

    /// Whether a file has lost its last name by a person's doing.
    pub fn is_abandoned(&self, ino: u64) -> bool {
        self.abandoned.contains(&ino)
    }

    /// Replaces a file's bytes in place.
    pub fn set_bytes(&mut self, ino: u64, bytes: &[u8]) -> Result<()> {
        let now = self.tick();
        let inode = self.get_mut(ino);
        let Body::File(old) = &mut inode.body else { return Err(ErrorKind::IsADirectory.into()) };
        *old = Arc::new(bytes.to_vec());
        inode.mtime = now;
        inode.ctime = now;
        inode.unflushed = false;
        Ok(())
    }

    /// Sets permission bits and, where given, the modification time.
    pub fn set_attributes(&mut self, ino: u64, mode: Option<u16>, mtime: Option<FileTime>) {
        let now = self.tick();
        let inode = self.get_mut(ino);
        if let Some(mode) = mode
            && !matches!(inode.body, Body::Link(_))
        {
            inode.mode = mode;
        }
        inode.mtime = mtime.unwrap_or(inode.mtime);
        inode.ctime = now;
    }

    /// Sets the extended attributes.
    pub fn set_xattrs(&mut self, ino: u64, xattrs: Xattrs) {
        let now = self.tick();
        let inode = self.get_mut(ino);
        if inode.xattrs != xattrs {
            inode.xattrs = xattrs;
            inode.ctime = now;
        }
    }

    /// Marks a file's bytes as not durable, or everything as durable.
    pub fn set_unflushed(&mut self, ino: u64) {
        self.get_mut(ino).unflushed = true;
    }

    /// Everything written so far is durable.
    pub fn flush(&mut self) {
        self.inodes.values_mut().for_each(|inode| inode.unflushed = false);
    }

    /// A power cut: files that were not durable lose their bytes.
    pub fn lose_unflushed(&mut self) {
        for inode in self.inodes.values_mut().filter(|inode| inode.unflushed) {
            if let Body::File(bytes) = &mut inode.body {
                *bytes = Arc::new(Vec::new());
            }
        }
    }

    /// Moves a name. A leaf at the new name is replaced, as `rename(2)` does it, or refused.
    pub fn rename(&mut self, from: &[u8], to: &[u8], replace: bool) -> Result<()> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        let ino = *self.entries(from_dir)?.get(from_name).ok_or(ErrorKind::NotFound)?;
        if from == to {
            return Ok(());
        }
        if matches!(self.get(ino).body, Body::Dir(_)) && (to == from || to.starts_with(&below(from, b""))) {
            return Err(ErrorKind::InvalidInput.into());
        }
        if let Some(&old) = self.entries(to_dir)?.get(to_name) {
            let is_dir = matches!(self.get(old).body, Body::Dir(_));
            if !replace || is_dir || matches!(self.get(ino).body, Body::Dir(_)) {
                return Err(ErrorKind::AlreadyExists.into());
            }
            self.detach(to_dir, to_name)?;
            self.release(old);
        }
        let (from_name, to_name) = (from_name.to_vec(), to_name.to_vec());
        self.detach(from_dir, &from_name)?;
        self.attach(to_dir, &to_name, ino)
    }

    /// Removes a name and everything below it.
    pub fn remove_all(&mut self, path: &[u8]) -> Result<()> {
        let ino = self.look(path)?.ok_or(ErrorKind::NotFound)?;
        if let Body::Dir(entries) = &self.get(ino).body {
            for name in entries.keys().cloned().collect::<Vec<_>>() {
                self.remove_all(&below(path, &name))?;
            }
        }
        let (dir, name) = self.parent(path)?;
        let name = name.to_vec();
        self.detach(dir, &name)?;
        self.release(ino);
        Ok(())
    }
}

/// Directory and last component of a path.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&path[..0], path),
    }
}

/// A path below another; with an empty name, the prefix of everything below.
pub fn below(dir: &[u8], name: &[u8]) -> RelPath {
    let mut path = dir.to_vec();
    if !dir.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}
