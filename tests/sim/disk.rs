//! The simulated disk: [`Disk`] over a [`Tree`], with watching, permissions, crashes, failing calls, and a person who
//! may act between any two calls.
//!
//! A crash lets the disk refuse every call from the chosen one on. After `kill -9` all that was done stands; after a
//! power cut, a chosen prefix of what the daemon did since its last flush stands, and bytes that were not flushed
//! may be gone. What a person did is always durable.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hearth_schemas::ids::ContentHash;
use hearth_schemas::item::{Attributes, FileTime, Name, Value, Xattrs};
use syncd_core::database::{COMPANIONS, VITAL, image_name, image_of, is_image, owner_of, with_log};
use syncd_core::disk::{Content, Disk, Handle, Others, Reading, RelPath, Source, StageName, Stat};

use super::chance::Chance;
use super::database::{self, SHM, committed, copied, is_database};
use super::tree::{Body, ROOT, Tree, below, split};

/// The key of every content hash in a simulated account.
const CONTENT_KEY: [u8; 32] = [7; 32];
/// Prefix of contents in staging that one run has brought there.
const BROUGHT: &str = "whole-";
const READ: u16 = 0o400;
const WRITE: u16 = 0o200;
pub(super) const SEARCH: u16 = 0o100;

/// How a machine goes down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// `kill -9`: what reached the kernel stands.
    Kill,
    /// The power fails: what was not flushed may be gone.
    PowerCut,
}

/// Something that a person does.
#[derive(Clone, PartialEq, Eq)]
pub enum Act {
    /// Writes into a file in place, or makes it.
    Write(RelPath, Vec<u8>),
    /// Writes a temporary file and renames it over the name, as most editors do.
    Save(RelPath, Vec<u8>),
    /// Makes a directory.
    Mkdir(RelPath),
    /// Moves an entry; a leaf at the new name is replaced.
    Move(RelPath, RelPath),
    /// Swaps two entries.
    Swap(RelPath, RelPath),
    /// Removes an entry and everything below it.
    Remove(RelPath),
    /// Makes a symlink, in place of a leaf that is there.
    Link(RelPath, Vec<u8>),
    /// Gives a file a second name.
    HardLink(RelPath, RelPath),
    /// Sets permission bits.
    Chmod(RelPath, u16),
    /// Sets the modification time, in seconds since 1970.
    Touch(RelPath, i64),
    /// Sets an extended attribute, or removes it.
    Setfattr(RelPath, Vec<u8>, Option<Vec<u8>>),
    /// Makes a socket.
    Socket(RelPath),
    /// Opens a file for writing, and keeps it open.
    Open(RelPath),
    /// Writes into one of the files that are kept open, counted round, wherever it is by now.
    WriteOpen(usize, Vec<u8>),
    /// Closes one of the files that are kept open, counted round.
    Close(usize),
    /// A program opens a database, or makes one with this text in it.
    Begin(RelPath, Vec<u8>),
    /// Commits this text to some pages of one of the databases that are open, counted round.
    Commit(usize, Vec<usize>, Vec<u8>),
    /// Copies so many records of its log into it; with all of them, the log begins anew.
    Checkpoint(usize, usize),
    /// Its program ends, and tidies up first or not.
    End(usize, bool),
}

/// What a person's act did to contents: which they wrote, and which they replaced or removed.
#[derive(Clone, Default, Debug)]
pub struct Deed {
    /// Contents that came about.
    pub written: Vec<Arc<Vec<u8>>>,
    /// Contents that the person did away with.
    pub destroyed: Vec<Arc<Vec<u8>>>,
}

/// A file that nobody can open for writing, and who waits for it.
struct Held {
    ino: u64,
    /// Waits to have it open.
    opens: usize,
    /// What waits to be written.
    writes: Vec<Vec<u8>>,
}

/// The disk of one machine.
pub struct SimDisk {
    /// What is on it.
    pub tree: Tree,
    /// Paths that stirred and were watched.
    pub stirred: Vec<RelPath>,
    /// What was done behind the daemon's back, between two calls.
    pub deeds: Vec<Deed>,
    /// No space is left.
    pub full: bool,
    /// Every look at it fails, as on a disk that breaks or with too many files open.
    pub unreadable: bool,
    /// In so many cases of a hundred, a changing call fails.
    pub failing: usize,
    /// A call has failed.
    pub has_failed: bool,
    /// The root is not the directory that it was.
    pub root_lost: bool,
    /// Number of changing calls that the daemon made.
    pub changes: u64,
    /// How many times it listed a directory.
    pub lists: u64,
    /// The file system tells who has a file open.
    pub leases: bool,
    /// In how many pieces a file is read; what changes meanwhile is not.
    pub pieces: usize,
    begun: BTreeMap<RelPath, (Stat, usize)>,
    /// The longest name that it takes, in bytes.
    pub longest_name: usize,
    held: Option<Held>,
    brought: u64,
    watches: BTreeMap<u64, RelPath>,
    fuse: Option<u32>,
    dead: Arc<AtomicBool>,
    ambush: Vec<(u32, Act)>,
    journal: Option<Vec<Tree>>,
    chance: Chance,
}

impl SimDisk {
    /// An empty disk.
    pub fn new(clock_ns: i64, chance: Chance) -> Self {
        Self {
            tree: Tree::new(clock_ns),
            stirred: Vec::new(),
            deeds: Vec::new(),
            full: false,
            unreadable: false,
            failing: 0,
            has_failed: false,
            root_lost: false,
            changes: 0,
            lists: 0,
            leases: true,
            pieces: 1,
            begun: BTreeMap::new(),
            longest_name: 255,
            held: None,
            brought: 0,
            watches: BTreeMap::new(),
            fuse: None,
            dead: Arc::default(),
            ambush: Vec::new(),
            journal: None,
            chance,
        }
    }

    /// The daemon will crash at its `calls`th changing call.
    pub fn arm(&mut self, calls: u32) {
        self.fuse = Some(calls);
        self.journal = Some(Vec::new());
    }

    /// Whether a crash is still to come.
    pub fn is_armed(&self) -> bool {
        self.fuse.is_some()
    }

    /// Whether the crash that was armed has come.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Set from when the crash that was armed has come.
    pub fn death(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.dead)
    }

    /// Whether all that the daemon did would outlive a power cut.
    pub fn is_durable(&self) -> bool {
        self.journal.as_ref().is_none_or(Vec::is_empty)
    }

    /// A person will act just before the daemon's `calls`th call.
    pub fn ambush(&mut self, calls: u32, act: Act) {
        self.ambush.push((calls, act));
    }

    /// Nobody acts behind the daemon's back any more.
    pub fn call_off(&mut self) {
        self.ambush.clear();
    }

    /// What is left of the disk when the machine comes up again.
    pub fn crash(&mut self, crash: Crash) {
        let journal = self.journal.take().unwrap_or_default();
        self.let_go();
        if crash == Crash::PowerCut {
            self.tree.close_all();
            let keep = self.chance.below(journal.len() + 1);
            if let Some(earlier) = journal.into_iter().nth(keep) {
                let clock_ns = self.tree.clock_ns;
                self.tree = earlier;
                self.tree.clock_ns = clock_ns;
                self.tree.close_all();
            }
            if self.chance.percent(50) {
                self.tree.lose_unflushed();
            }
        }
        self.watches.clear();
        self.stirred.clear();
        self.ambush.clear();
        self.fuse = None;
        self.dead.store(false, Ordering::Relaxed);
    }

    /// Watches a directory, under its path of this moment. Gives whether it was not watched before.
    pub fn set_watch(&mut self, path: &[u8]) -> bool {
        match self.tree.resolve(path) {
            Ok(ino) if self.tree.entries(ino).is_ok() => self.watches.insert(ino, path.to_vec()).is_none(),
            _ => false,
        }
    }

    /// Lets a person act.
    pub fn act(&mut self, act: &Act) -> Result<Deed> {
        let mut deed = Deed::default();
        if act.displaces().into_iter().any(|path| self.is_in_use(path)) {
            // People leave alone what their programs are at.
            return Err(ErrorKind::ResourceBusy.into());
        }
        match act {
            Act::Write(path, bytes) => match self.tree.look(path)? {
                Some(ino) if self.held.as_ref().is_some_and(|held| held.ino == ino) => {
                    self.tree.bytes(ino)?;
                    self.held.iter_mut().for_each(|held| held.writes.push(bytes.clone()));
                }
                Some(ino) => {
                    deed.destroyed.push(self.tree.bytes(ino)?);
                    self.tree.set_bytes(ino, bytes)?;
                    deed.written.push(Arc::new(bytes.clone()));
                }
                None => self.make(path, Body::File(Arc::new(bytes.clone())), 0o644, &mut deed)?,
            },
            Act::Save(path, bytes) => {
                let (dir, name) = split(path);
                let temporary = below(dir, &[b".", name, b".swp"].concat());
                let mode = match self.tree.look(path)? {
                    Some(ino) => {
                        deed.destroyed.push(self.tree.bytes(ino)?);
                        self.tree.get(ino).mode
                    }
                    None => 0o644,
                };
                if name.len() > 250 || self.tree.look(&temporary)?.is_some() {
                    return Err(ErrorKind::AlreadyExists.into());
                }
                self.make(&temporary, Body::File(Arc::new(bytes.clone())), mode, &mut deed)?;
                self.tree.rename(&temporary, path, true)?;
                self.stir(&temporary);
            }
            Act::Mkdir(path) => self.make(path, Body::Dir(BTreeMap::new()), 0o755, &mut deed)?,
            Act::Link(path, target) => {
                if let Some(ino) = self.tree.look(path)? {
                    if matches!(self.tree.get(ino).body, Body::Dir(_)) {
                        return Err(ErrorKind::IsADirectory.into());
                    }
                    deed.destroyed.extend(self.tree.bytes(ino));
                    self.tree.remove_all(path)?;
                }
                self.make(path, Body::Link(target.clone()), 0o777, &mut deed)?;
            }
            Act::Socket(path) => self.make(path, Body::Socket, 0o755, &mut deed)?,
            Act::Move(from, to) => {
                let replaced = match self.tree.look(to)? {
                    Some(ino) => self.tree.bytes(ino).ok(),
                    None => None,
                };
                self.tree.rename(from, to, true)?;
                deed.destroyed.extend(replaced);
                self.stir(from);
                self.stir(to);
            }
            Act::Swap(a, b) => self.swap(a, b)?,
            Act::Remove(path) => {
                let gone: Vec<(RelPath, u64)> = self.tree.walk();
                let prefix = below(path, b"");
                for (gone, ino) in gone.into_iter().filter(|(p, _)| p == path || p.starts_with(&prefix)) {
                    deed.destroyed.extend(self.tree.bytes(ino));
                    self.stir(&gone);
                    self.watches.remove(&ino);
                }
                self.tree.remove_all(path)?;
            }
            Act::HardLink(from, to) => {
                let ino = self.tree.look(from)?.ok_or(ErrorKind::NotFound)?;
                let bytes = self.tree.bytes(ino)?;
                if self.tree.look(to)?.is_some() {
                    return Err(ErrorKind::AlreadyExists.into());
                }
                let (dir, name) = self.tree.parent(to)?;
                self.tree.attach(dir, name, ino)?;
                self.tree.add_link(ino);
                deed.written.push(bytes);
            }
            Act::Chmod(path, mode) => {
                let ino = self.tree.look(path)?.ok_or(ErrorKind::NotFound)?;
                self.tree.set_attributes(ino, Some(*mode), None);
            }
            Act::Setfattr(path, name, value) => {
                let ino = self.tree.look(path)?.ok_or(ErrorKind::NotFound)?;
                let mut xattrs = self.tree.get(ino).xattrs.clone();
                match (value, &self.tree.get(ino).body) {
                    (_, Body::Link(_) | Body::Socket) => return Err(ErrorKind::PermissionDenied.into()),
                    (Some(value), _) => xattrs.insert(name.clone(), value.clone()),
                    (None, _) => xattrs.remove(name),
                };
                self.tree.set_xattrs(ino, xattrs);
            }
            Act::Open(path) => {
                let ino = self.tree.look(path)?.ok_or(ErrorKind::NotFound)?;
                self.tree.bytes(ino)?;
                match self.held.as_mut().filter(|held| held.ino == ino) {
                    Some(held) => held.opens += 1,
                    None => self.tree.open(ino),
                }
            }
            Act::WriteOpen(which, bytes) => {
                let ino = self.tree.opened(*which).ok_or(ErrorKind::NotFound)?;
                self.write_open(ino, bytes, &mut deed)?;
            }
            Act::Close(which) => {
                let ino = self.tree.opened(*which).ok_or(ErrorKind::NotFound)?;
                self.tree.close(ino);
                self.stir_inode(ino);
            }
            Act::Begin(path, text) => self.begin(path, text, &mut deed)?,
            Act::Commit(which, pages, text) => {
                let (path, ino) = self.database(*which)?;
                let log_path = beside(&path, COMPANIONS[0]);
                let (own, log) = (self.tree.bytes(ino)?, self.log_of(&path));
                let later = database::logged(log.as_deref().map(Vec::as_slice), pages, text);
                deed.destroyed.push(Arc::new(committed(&own, log.as_deref().map(Vec::as_slice))));
                deed.written.push(Arc::new(committed(&own, Some(&later))));
                self.set(&log_path, &later)?;
            }
            Act::Checkpoint(which, records) => {
                let (path, ino) = self.database(*which)?;
                let (own, log) = (self.tree.bytes(ino)?, self.log_of(&path).ok_or(ErrorKind::NotFound)?);
                self.tree.set_bytes(ino, &copied(&own, &log, *records))?;
                self.stir(&path);
                if *records == usize::MAX {
                    self.set(&beside(&path, COMPANIONS[0]), &[])?;
                }
            }
            Act::End(which, tidily) => {
                let (path, ino) = self.database(*which)?;
                if *tidily {
                    self.recover(&path, ino)?;
                    let _ = self.tree.remove_all(&beside(&path, COMPANIONS[2]));
                    self.stir(&beside(&path, COMPANIONS[2]));
                }
                self.tree.close(ino);
                self.stir(&path);
            }
            Act::Touch(path, secs) => {
                let ino = self.tree.look(path)?.ok_or(ErrorKind::NotFound)?;
                self.tree.set_attributes(ino, None, Some(FileTime { secs: *secs, nanos: 0 }));
            }
        }
        self.tree.abandon(&deed.destroyed);
        for path in act.paths() {
            self.stir(path);
        }
        if let Some(journal) = &mut self.journal {
            journal.clear();
        }
        Ok(deed)
    }

    /// A program opens a database, which recovers what an earlier one has left, or makes one.
    fn begin(&mut self, path: &[u8], text: &[u8], deed: &mut Deed) -> Result<()> {
        let ino = match self.tree.look(path)? {
            Some(ino) if self.held.as_ref().is_some_and(|held| held.ino == ino) => {
                return Err(ErrorKind::WouldBlock.into());
            }
            Some(ino) if is_database(&self.tree.bytes(ino)?) && !self.tree.is_open(ino) => {
                self.recover(path, ino)?;
                ino
            }
            Some(_) => return Err(ErrorKind::AlreadyExists.into()),
            None if self.is_in_use(path) => return Err(ErrorKind::AlreadyExists.into()),
            None => {
                self.make(path, Body::File(Arc::new(database::database(text))), 0o644, deed)?;
                self.tree.resolve(path)?
            }
        };
        self.tree.open(ino);
        self.set(&beside(path, COMPANIONS[2]), SHM)
    }

    /// What the log of a database holds goes into it, and the log goes.
    fn recover(&mut self, path: &[u8], ino: u64) -> Result<()> {
        if let Some(log) = self.log_of(path) {
            let (own, whole) = (self.tree.bytes(ino)?, committed(&self.tree.bytes(ino)?, Some(&log)));
            if *own != whole {
                self.tree.set_bytes(ino, &whole)?;
            }
            self.tree.remove_all(&beside(path, COMPANIONS[0]))?;
            self.stir(&beside(path, COMPANIONS[0]));
        }
        self.stir(path);
        Ok(())
    }

    /// One of the databases that programs have open, counted round, with its path.
    fn database(&self, which: usize) -> Result<(RelPath, u64)> {
        let mut open: Vec<(RelPath, u64)> = self.tree.walk();
        let is_open = |ino| self.tree.is_open(ino) && self.tree.bytes(ino).is_ok_and(|bytes| is_database(&bytes));
        open.retain(|(_, ino)| is_open(*ino));
        let at = which.checked_rem(open.len()).ok_or(ErrorKind::NotFound)?;
        Ok(open.swap_remove(at))
    }

    /// The log of a database.
    fn log_of(&self, path: &[u8]) -> Option<Arc<Vec<u8>>> {
        let ino = self.tree.look(&beside(path, COMPANIONS[0])).ok().flatten()?;
        self.tree.bytes(ino).ok()
    }

    /// What is committed to the database at a path; `None` if there is none.
    pub fn committed_at(&self, path: &[u8]) -> Option<Vec<u8>> {
        let own = self.tree.bytes(self.tree.look(path).ok().flatten()?).ok()?;
        is_database(&own).then(|| committed(&own, self.log_of(path).as_deref().map(Vec::as_slice)))
    }

    /// Whether a file belongs to a database.
    pub fn is_companion(&self, path: &[u8], ino: u64) -> bool {
        owner_of(path).is_some() && self.tree.bytes(ino).is_ok_and(|b| b.is_empty() || database::is_of_companion(&b))
    }

    /// Whether a path is that of a database which a program has open or has not tidied up, or of what belongs to one; or
    /// of a directory with such in it.
    pub fn is_in_use(&self, path: &[u8]) -> bool {
        let stands = |path: &[u8]| matches!(self.tree.look(path), Ok(Some(_)));
        let prefix = below(path, b"");
        let below = self.tree.walk().into_iter().filter(|(at, _)| at == path || at.starts_with(&prefix));
        COMPANIONS.iter().any(|ending| stands(&beside(path, ending)))
            || below.into_iter().any(|(at, ino)| self.is_companion(&at, ino))
    }

    /// Writes a file that belongs to a database.
    fn set(&mut self, path: &[u8], bytes: &[u8]) -> Result<()> {
        match self.tree.look(path)? {
            Some(ino) => self.tree.set_bytes(ino, bytes)?,
            None => self.make(path, Body::File(Arc::new(bytes.to_vec())), 0o644, &mut Deed::default())?,
        }
        self.stir(path);
        Ok(())
    }

    /// The stat of an entry, with what the daemon's disk counts among the changes of a database: those of its log.
    fn stat_with_log(&self, dir: u64, name: &[u8], ino: u64) -> Stat {
        let mut stat = self.tree.stat(ino);
        for ending in &COMPANIONS[..VITAL] {
            let log = self.tree.entries(dir).ok().and_then(|entries| entries.get(&beside(name, ending)).copied());
            let log = log.map(|log| self.tree.stat(log)).filter(|log| log.size > 0);
            if let Some(log) = log.filter(|_| syncd_core::database::may_be(stat.size)) {
                stat.ctime = with_log(stat.ctime, log.ctime);
            }
        }
        stat
    }

    /// What a file holds; of a database that is in use, the image that is made of it.
    fn held(&mut self, path: &[u8]) -> Result<Content> {
        let (hash, size) = self.hash(path)?;
        let ino = self.at(path)?;
        if let Some(image) = self.image(path, ino)? {
            return Ok(image);
        }
        let stat = self.tree.stat(ino);
        let pieces = match self.begun.remove(path) {
            Some((before, _)) if before != stat => return Err(ErrorKind::ResourceBusy.into()),
            Some((_, pieces)) => pieces + 1,
            None => 1,
        };
        if pieces < self.pieces {
            self.begun.insert(path.to_vec(), (stat, pieces));
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(Content { hash, size, written: self.leases && self.tree.is_open(ino), image: false })
    }

    /// Makes an image of what is committed to the database at a path, if it is in use.
    fn image(&mut self, path: &[u8], ino: u64) -> Result<Option<Content>> {
        let Some(bytes) = self.committed_at(path) else { return Ok(None) };
        if self.log_of(path).is_none_or(|log| log.is_empty()) && !self.tree.is_open(ino) {
            return Ok(None);
        }
        if self.full {
            return Err(ErrorKind::StorageFull.into());
        }
        let (hash, size) = (hash_of(&bytes), bytes.len() as u64);
        let bytes = Arc::new(bytes);
        // It is durable at once, whatever else is.
        for tree in self.journal.iter_mut().flatten().chain([&mut self.tree]) {
            let ino = tree.create(Body::File(Arc::clone(&bytes)), 0o600);
            if let Some(old) = tree.staging.insert(image_name(hash).0, ino) {
                tree.release(old);
            }
        }
        Ok(Some(Content { hash, size, written: false, image: true }))
    }

    /// A program writes to a file that it has open. What has no name any more by a person's doing goes with it.
    fn write_open(&mut self, ino: u64, bytes: &[u8], deed: &mut Deed) -> Result<()> {
        deed.destroyed.push(self.tree.bytes(ino)?);
        self.tree.set_bytes(ino, bytes)?;
        if !self.tree.is_abandoned(ino) {
            deed.written.push(Arc::new(bytes.to_vec()));
        }
        self.stir_inode(ino);
        Ok(())
    }

    /// What inotify would tell of a file by any of its names.
    fn stir_inode(&mut self, ino: u64) {
        for (path, _) in self.tree.walk().into_iter().filter(|(_, found)| *found == ino) {
            self.stir(&path);
        }
    }

    fn make(&mut self, path: &[u8], body: Body, mode: u16, deed: &mut Deed) -> Result<()> {
        if self.tree.look(path)?.is_some() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        if let Body::File(bytes) = &body {
            deed.written.push(Arc::clone(bytes));
        }
        let (dir, name) = self.tree.parent(path)?;
        let ino = self.tree.create(body, mode);
        self.tree.attach(dir, name, ino)?;
        self.stir(path);
        Ok(())
    }

    fn swap(&mut self, a: &[u8], b: &[u8]) -> Result<()> {
        let inside = |x: &[u8], y: &[u8]| x == y || x.starts_with(&below(y, b""));
        if inside(a, b) || inside(b, a) {
            return Err(ErrorKind::InvalidInput.into());
        }
        let (a_dir, a_name) = self.tree.parent(a)?;
        let (b_dir, b_name) = self.tree.parent(b)?;
        if self.tree.look(a)?.is_none() || self.tree.look(b)?.is_none() {
            return Err(ErrorKind::NotFound.into());
        }
        let x = self.tree.detach(a_dir, a_name)?;
        let y = self.tree.detach(b_dir, b_name)?;
        self.tree.attach(a_dir, a_name, y)?;
        self.tree.attach(b_dir, b_name, x)
    }

    /// What inotify would tell of a name.
    fn stir(&mut self, path: &[u8]) {
        let (dir, name) = split(path);
        if let Ok(ino) = self.tree.resolve(dir)
            && let Some(watched) = self.watches.get(&ino)
        {
            self.stirred.push(below(watched, name));
        }
    }

    fn give(&mut self, ino: u64, attributes: &Attributes) {
        if !matches!(self.tree.get(ino).body, Body::Link(_)) {
            self.tree.set_xattrs(ino, attributes.xattrs.clone());
        }
        self.tree.set_attributes(ino, Some(attributes.mode), Some(attributes.mtime));
    }

    // ---- what stands between the daemon and its calls ----

    /// Before any call.
    fn before(&mut self) -> Result<()> {
        if self.is_dead() {
            return Err(Error::other("crashed"));
        }
        for at in (0..self.ambush.len()).rev() {
            if self.ambush[at].0 > 0 {
                self.ambush[at].0 -= 1;
                continue;
            }
            let (_, act) = self.ambush.remove(at);
            // The person may have come too late for it.
            if let Ok(deed) = self.act(&act) {
                self.deeds.push(deed);
            }
        }
        Ok(())
    }

    /// Before a call that changes something.
    fn before_look(&mut self) -> Result<()> {
        self.before()?;
        if self.unreadable { Err(Error::other("input/output error")) } else { Ok(()) }
    }

    fn before_change(&mut self) -> Result<()> {
        self.before()?;
        if let Some(left) = &mut self.fuse {
            if *left == 0 {
                self.dead.store(true, Ordering::Relaxed);
                return Err(Error::other("crashed"));
            }
            *left -= 1;
        }
        if self.failing > 0 && self.chance.percent(self.failing) {
            self.has_failed = true;
            let kind = *self.chance.pick(&[ErrorKind::Other, ErrorKind::StorageFull]).expect("two kinds");
            return Err(kind.into());
        }
        if let Some(journal) = &mut self.journal {
            journal.push(self.tree.clone());
        }
        self.changes += 1;
        Ok(())
    }

    /// A database leaves its name only while no program has it open. Without leases what a program keeps beside it tells
    /// of that: another of its names may go, and takes nothing from the program.
    fn assert_not_open(&self, ino: u64, path: &[u8]) {
        let is_database = self.tree.bytes(ino).is_ok_and(|bytes| is_database(&bytes));
        let is_other_name = || {
            let beside = [path, COMPANIONS[2].as_bytes()].concat();
            !self.leases && self.tree.stat(ino).links > 1 && self.at(&beside).is_err()
        };
        let is_in_use = is_database && self.tree.is_open(ino) && !is_other_name();
        assert!(!is_in_use, "{} is open, and was taken away", path.escape_ascii());
    }

    fn need(&self, ino: u64, bits: u16) -> Result<()> {
        if self.tree.get(ino).mode & bits == bits { Ok(()) } else { Err(ErrorKind::PermissionDenied.into()) }
    }

    /// The inode at a path, if every directory on the way may be searched.
    fn resolve(&self, path: &[u8]) -> Result<u64> {
        let mut at = ROOT;
        for part in path.split(|&byte| byte == b'/').filter(|part| !part.is_empty()) {
            let entries = self.tree.entries(at)?;
            self.need(at, SEARCH)?;
            at = *entries.get(part).ok_or(ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    fn parent<'a>(&self, path: &'a [u8], bits: u16) -> Result<(u64, &'a [u8])> {
        let (dir, name) = split(path);
        if name.is_empty() {
            return Err(ErrorKind::InvalidInput.into());
        }
        if path.split(|&byte| byte == b'/').any(|part| part.len() > self.longest_name) {
            return Err(ErrorKind::InvalidFilename.into());
        }
        let dir = self.resolve(dir)?;
        self.tree.entries(dir)?;
        self.need(dir, bits | SEARCH)?;
        Ok((dir, name))
    }

    fn at(&self, path: &[u8]) -> Result<u64> {
        let (dir, name) = self.parent(path, 0)?;
        Ok(*self.tree.entries(dir)?.get(name).ok_or(ErrorKind::NotFound)?)
    }

    fn bytes_of(&self, source: &Source) -> Result<Arc<Vec<u8>>> {
        match source {
            Source::Copy(path) => {
                let ino = self.at(path)?;
                self.need(ino, READ)?;
                self.tree.bytes(ino)
            }
            Source::Kept(name) | Source::Brought(name) => {
                let ino = self.tree.history.get(&name.0).or(self.tree.staging.get(&name.0));
                self.tree.bytes(*ino.ok_or(ErrorKind::NotFound)?)
            }
            Source::Bytes(bytes) => Ok(Arc::new(bytes.clone())),
            Source::Link(_) => Err(ErrorKind::InvalidInput.into()),
        }
    }

    /// Puts a content that came into staging, as the daemon does beside the engine.
    pub fn bring(&mut self, hash: ContentHash, bytes: Vec<u8>) -> Result<StageName> {
        if self.full {
            return Err(ErrorKind::StorageFull.into());
        }
        self.brought += 1;
        let name = format!("{BROUGHT}{}-{hash}", self.brought);
        let ino = self.tree.create(Body::File(Arc::new(bytes)), 0o600);
        self.tree.staging.insert(name.clone(), ino);
        Ok(StageName(name))
    }

    /// What is in history, or lies in staging and may go there. What was brought goes with the run that brought it, and
    /// images with what they are of.
    pub fn displaced(&self) -> impl Iterator<Item = (&str, u64)> {
        let staged = self.tree.staging.iter().filter(|(name, _)| !name.starts_with(BROUGHT) && !is_image(name));
        self.tree.history.iter().chain(staged).map(|(name, ino)| (name.as_str(), *ino))
    }

    /// What was brought belongs to one run.
    pub fn tidy(&mut self) {
        self.tree.staging.retain(|name, _| !name.starts_with(BROUGHT));
    }

    /// The bytes that a source stands for, for a peer.
    pub fn serve(&self, source: &Source) -> Option<Arc<Vec<u8>>> {
        self.bytes_of(source).ok()
    }
}

impl std::fmt::Debug for Act {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        match self {
            Self::Write(path, bytes) => write!(f, "writes {:?} into {:?}", text(bytes), text(path)),
            Self::Save(path, bytes) => write!(f, "saves {:?} as {:?}", text(bytes), text(path)),
            Self::Mkdir(path) => write!(f, "makes directory {:?}", text(path)),
            Self::Move(from, to) => write!(f, "moves {:?} to {:?}", text(from), text(to)),
            Self::Swap(a, b) => write!(f, "swaps {:?} and {:?}", text(a), text(b)),
            Self::Remove(path) => write!(f, "removes {:?}", text(path)),
            Self::Link(path, target) => write!(f, "links {:?} to {:?}", text(path), text(target)),
            Self::HardLink(from, to) => write!(f, "gives {:?} the other name {:?}", text(from), text(to)),
            Self::Chmod(path, mode) => write!(f, "sets the mode of {:?} to {mode:o}", text(path)),
            Self::Touch(path, secs) => write!(f, "touches {:?} at {secs}", text(path)),
            Self::Setfattr(path, name, value) => {
                let value = value.as_ref().map(|value| text(value));
                write!(f, "sets {:?} of {:?} to {value:?}", text(name), text(path))
            }
            Self::Socket(path) => write!(f, "makes socket {:?}", text(path)),
            Self::Open(path) => write!(f, "opens {:?}", text(path)),
            Self::WriteOpen(which, bytes) => write!(f, "writes {:?} into open file {which}", text(bytes)),
            Self::Close(which) => write!(f, "closes open file {which}"),
            Self::Begin(path, bytes) => write!(f, "opens database {:?} or makes it with {:?}", text(path), text(bytes)),
            Self::Commit(which, pages, bytes) => {
                write!(f, "commits {:?} to {pages:?} of open database {which}", text(bytes))
            }
            Self::Checkpoint(which, records) => write!(f, "copies {records} of its log into open database {which}"),
            Self::End(which, tidily) => write!(f, "ends the program of database {which}, tidily {tidily}"),
        }
    }
}

impl Act {
    /// The names that it touches.
    pub fn paths(&self) -> Vec<&RelPath> {
        match self {
            Self::Write(path, _)
            | Self::Save(path, _)
            | Self::Link(path, _)
            | Self::Chmod(path, _)
            | Self::Setfattr(path, _, _)
            | Self::Touch(path, _) => vec![path],
            Self::Swap(a, b) => vec![a, b],
            Self::HardLink(_, path) => vec![path],
            // These tell of themselves while they are at it.
            Self::Mkdir(_)
            | Self::Socket(_)
            | Self::Move(..)
            | Self::Remove(_)
            | Self::Open(_)
            | Self::WriteOpen(..)
            | Self::Close(_)
            | Self::Begin(..)
            | Self::Commit(..)
            | Self::Checkpoint(..)
            | Self::End(..) => Vec::new(),
        }
    }

    /// The names under which it leaves another file, or none.
    fn displaces(&self) -> Vec<&RelPath> {
        match self {
            Self::Write(path, _)
            | Self::Save(path, _)
            | Self::Link(path, _)
            | Self::Remove(path)
            | Self::Open(path) => vec![path],
            Self::Move(a, b) | Self::Swap(a, b) | Self::HardLink(a, b) => vec![a, b],
            Self::Mkdir(_)
            | Self::Chmod(..)
            | Self::Touch(..)
            | Self::Setfattr(..)
            | Self::Socket(_)
            | Self::WriteOpen(..)
            | Self::Close(_)
            | Self::Begin(..)
            | Self::Commit(..)
            | Self::Checkpoint(..)
            | Self::End(..) => Vec::new(),
        }
    }
}

fn beside(path: &[u8], ending: &str) -> RelPath {
    [path, ending.as_bytes()].concat()
}

/// The content hash of some bytes in a simulated account.
pub fn hash_of(bytes: &[u8]) -> ContentHash {
    ContentHash(*blake3::keyed_hash(&CONTENT_KEY, bytes).as_bytes())
}

impl Disk for SimDisk {
    fn watch(&mut self, dir: &[u8]) {
        // Somebody may act before, and somebody between it and what follows.
        if self.before().is_ok() {
            self.set_watch(dir);
        }
    }

    fn list(&mut self, dir: &[u8]) -> Result<Vec<(Name, Stat)>> {
        self.before_look()?;
        self.lists += 1;
        let ino = self.resolve(dir)?;
        let entries = self.tree.entries(ino)?;
        self.need(ino, READ | SEARCH)?;
        let stat = |name: &[u8], of| self.stat_with_log(ino, name, of);
        Ok(entries.iter().filter_map(|(name, &of)| Some((Name::new(name.clone())?, stat(name, of)))).collect())
    }

    fn stat(&mut self, path: &[u8]) -> Result<Option<Stat>> {
        self.before_look()?;
        let (dir, name) = self.parent(path, 0)?;
        Ok(self.tree.entries(dir)?.get(name).map(|&ino| self.stat_with_log(dir, name, ino)))
    }

    fn read_link(&mut self, path: &[u8]) -> Result<Vec<u8>> {
        self.before_look()?;
        match &self.tree.get(self.at(path)?).body {
            Body::Link(target) => Ok(target.clone()),
            Body::File(_) | Body::Dir(_) | Body::Socket => Err(ErrorKind::InvalidInput.into()),
        }
    }

    fn xattrs(&mut self, path: &[u8]) -> Option<Xattrs> {
        self.before().ok()?;
        self.at(path).ok().map(|ino| self.tree.get(ino).xattrs.clone())
    }

    fn hash(&mut self, path: &[u8]) -> Result<(ContentHash, u64)> {
        self.before_look()?;
        let bytes = self.bytes_of(&Source::Copy(path.to_vec()))?;
        Ok((hash_of(&bytes), bytes.len() as u64))
    }

    fn head(&mut self, source: &Source, len: usize) -> Result<Vec<u8>> {
        self.before_look()?;
        let bytes = self.bytes_of(source)?;
        Ok(bytes[..bytes.len().min(len)].to_vec())
    }

    fn images(&mut self) -> Result<Vec<ContentHash>> {
        self.before()?;
        Ok(self.tree.staging.keys().filter_map(|name| image_of(name)).collect())
    }

    fn copy(&mut self, path: &[u8]) -> Result<Content> {
        self.before_change()?;
        if self.full {
            return Err(ErrorKind::StorageFull.into());
        }
        let bytes = self.bytes_of(&Source::Copy(path.to_vec()))?;
        let (hash, size) = (hash_of(&bytes), bytes.len() as u64);
        let ino = self.tree.create(Body::File(bytes), 0o600);
        if let Some(before) = self.tree.staging.insert(image_name(hash).0, ino) {
            self.tree.release(before);
        }
        // It is durable at once.
        self.journal.iter_mut().for_each(Vec::clear);
        Ok(Content { hash, size, written: true, image: true })
    }

    fn content(&mut self, path: &[u8]) -> Result<Reading> {
        let content = self.held(path)?;
        let after = if content.image { self.stat(path).ok().flatten() } else { self.stat(path)? };
        Ok(Reading { content, after, xattrs: self.xattrs(path) })
    }

    fn read(&mut self, source: &Source, limit: u64) -> Result<Vec<u8>> {
        self.before_look()?;
        let bytes = self.bytes_of(source)?;
        if bytes.len() as u64 > limit { Err(ErrorKind::FileTooLarge.into()) } else { Ok(bytes.to_vec()) }
    }

    fn begins(&mut self, path: &[u8], with: &[u8]) -> Result<bool> {
        self.before_look()?;
        let (dir, name) = self.parent(path, 0)?;
        let Some(&ino) = self.tree.entries(dir)?.get(name) else { return Ok(false) };
        Ok(matches!(&self.tree.get(ino).body, Body::File(bytes) if bytes.starts_with(with)))
    }

    fn hash_of(&self, bytes: &[u8]) -> ContentHash {
        hash_of(bytes)
    }

    fn root_holds(&mut self) -> bool {
        !self.root_lost
    }

    fn mkdir(&mut self, path: &[u8]) -> Result<Stat> {
        self.before_change()?;
        let (dir, name) = self.parent(path, WRITE)?;
        if self.tree.entries(dir)?.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        if self.full {
            return Err(ErrorKind::StorageFull.into());
        }
        let ino = self.tree.create(Body::Dir(BTreeMap::new()), 0o700);
        self.tree.attach(dir, name, ino)?;
        self.stir(path);
        Ok(self.tree.stat(ino))
    }

    fn stage(
        &mut self,
        name: &StageName,
        source: &Source,
        attributes: &Attributes,
    ) -> Result<(Stat, ContentHash, u64)> {
        self.before_change()?;
        if self.full {
            return Err(ErrorKind::StorageFull.into());
        }
        let stays = matches!(source, Source::Brought(brought) if brought == name);
        if self.tree.staging.contains_key(&name.0) && !stays {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let (body, bytes) = match source {
            Source::Link(target) => (Body::Link(target.clone()), Arc::new(target.clone())),
            Source::Copy(_) | Source::Kept(_) | Source::Brought(_) | Source::Bytes(_) => {
                let bytes = self.bytes_of(source)?;
                (Body::File(Arc::clone(&bytes)), bytes)
            }
        };
        if let Source::Brought(brought) = source {
            self.tree.staging.remove(&brought.0);
        }
        let ino = self.tree.create(body, 0o600);
        self.tree.set_unflushed(ino);
        self.tree.staging.insert(name.0.clone(), ino);
        self.give(ino, attributes);
        Ok((self.tree.stat(ino), hash_of(&bytes), bytes.len() as u64))
    }

    fn stage_link(&mut self, name: &StageName, of: &Source) -> Result<Stat> {
        self.before_change()?;
        let ino = match of {
            Source::Copy(path) => self.at(path)?,
            Source::Kept(from) | Source::Brought(from) => *self.tree.staging.get(&from.0).ok_or(ErrorKind::NotFound)?,
            Source::Bytes(_) | Source::Link(_) => return Err(ErrorKind::InvalidInput.into()),
        };
        if self.full {
            return Err(ErrorKind::StorageFull.into());
        }
        if self.tree.staging.contains_key(&name.0) || !matches!(self.tree.get(ino).body, Body::File(_)) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        self.tree.add_link(ino);
        self.tree.staging.insert(name.0.clone(), ino);
        Ok(self.tree.stat(ino))
    }

    fn flush_staged(&mut self) -> Result<()> {
        self.before_change()?;
        self.tree.flush();
        // The names are not durable yet, whatever they were given to.
        if let Some(journal) = &mut self.journal {
            journal.iter_mut().for_each(Tree::flush);
        }
        Ok(())
    }

    fn flush(&mut self, _dirs: &[RelPath]) -> Result<()> {
        self.before_change()?;
        self.tree.flush();
        if let Some(journal) = &mut self.journal {
            journal.clear();
        }
        Ok(())
    }

    fn hold(&mut self, path: &[u8], handle: Handle, _others: Others) -> Result<bool> {
        self.before()?;
        let ino = self.at(path)?;
        if self.tree.stat(ino).handle != handle {
            return Err(ErrorKind::NotFound.into());
        }
        if !self.leases {
            return Ok(false);
        }
        if self.tree.is_open(ino) {
            return Err(ErrorKind::ResourceBusy.into());
        }
        self.held = Some(Held { ino, opens: 0, writes: Vec::new() });
        Ok(true)
    }

    fn is_awaited(&mut self) -> bool {
        self.held.as_ref().is_some_and(|held| held.opens > 0 || !held.writes.is_empty())
    }

    fn let_go(&mut self) {
        let Some(Held { ino, opens, writes }) = self.held.take() else { return };
        for _ in 0..opens {
            self.tree.open(ino);
        }
        for bytes in writes {
            let mut deed = Deed::default();
            if self.write_open(ino, &bytes, &mut deed).is_ok() {
                self.deeds.push(deed);
                self.journal.iter_mut().for_each(Vec::clear);
            }
        }
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) -> Result<()> {
        self.before_change()?;
        let (from_dir, from_name) = self.parent(from, WRITE)?;
        let (to_dir, _) = self.parent(to, WRITE)?;
        let ino = *self.tree.entries(from_dir)?.get(from_name).ok_or(ErrorKind::NotFound)?;
        if from_dir != to_dir && matches!(self.tree.get(ino).body, Body::Dir(_)) {
            self.need(ino, WRITE)?;
        }
        self.assert_not_open(ino, from);
        self.tree.rename(from, to, false)?;
        self.stir(from);
        self.stir(to);
        Ok(())
    }

    fn unstage(&mut self, name: &StageName, to: &[u8]) -> Result<Stat> {
        self.before_change()?;
        let (dir, to_name) = self.parent(to, WRITE)?;
        let ino = *self.tree.staging.get(&name.0).ok_or(ErrorKind::NotFound)?;
        if self.tree.entries(dir)?.contains_key(to_name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        self.tree.attach(dir, to_name, ino)?;
        self.tree.staging.remove(&name.0);
        self.stir(to);
        Ok(self.tree.stat(ino))
    }

    fn exchange(&mut self, name: &StageName, path: &[u8]) -> Result<(Stat, Stat)> {
        self.before_change()?;
        let (dir, to_name) = self.parent(path, WRITE)?;
        let coming = *self.tree.staging.get(&name.0).ok_or(ErrorKind::NotFound)?;
        let going = *self.tree.entries(dir)?.get(to_name).ok_or(ErrorKind::NotFound)?;
        self.tree.detach(dir, to_name)?;
        self.tree.attach(dir, to_name, coming)?;
        self.assert_not_open(going, path);
        self.tree.staging.insert(name.0.clone(), going);
        self.stir(path);
        Ok((self.stat_with_log(dir, to_name, coming), self.tree.stat(going)))
    }

    fn take(&mut self, path: &[u8], name: &StageName) -> Result<Stat> {
        self.before_change()?;
        let (dir, from_name) = self.parent(path, WRITE)?;
        if self.tree.staging.contains_key(&name.0) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let ino = self.tree.detach(dir, from_name)?;
        self.assert_not_open(ino, path);
        self.tree.staging.insert(name.0.clone(), ino);
        self.stir(path);
        Ok(self.tree.stat(ino))
    }

    fn keep(&mut self, name: &StageName) -> Result<()> {
        self.before_change()?;
        if self.tree.history.contains_key(&name.0) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let ino = self.tree.staging.remove(&name.0).ok_or(ErrorKind::NotFound)?;
        self.tree.history.insert(name.0.clone(), ino);
        Ok(())
    }

    fn discard(&mut self, name: &StageName) -> Result<()> {
        self.before_change()?;
        if let Some(ino) = self.tree.staging.remove(&name.0) {
            self.tree.release(ino);
        }
        Ok(())
    }

    fn rmdir(&mut self, path: &[u8]) -> Result<()> {
        self.before_change()?;
        let (dir, name) = self.parent(path, WRITE)?;
        let ino = *self.tree.entries(dir)?.get(name).ok_or(ErrorKind::NotFound)?;
        if !self.tree.entries(ino)?.is_empty() {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        self.tree.detach(dir, name)?;
        self.tree.release(ino);
        self.watches.remove(&ino);
        self.stir(path);
        Ok(())
    }

    fn set_attributes(&mut self, path: &[u8], handle: Handle, attributes: &Attributes) -> Result<Stat> {
        self.before_change()?;
        let ino = self.at(path)?;
        if self.tree.stat(ino).handle != handle {
            return Err(ErrorKind::NotFound.into());
        }
        self.give(ino, attributes);
        self.stir(path);
        Ok(self.tree.stat(ino))
    }

    fn staged(&mut self) -> Result<Vec<(StageName, Stat)>> {
        self.before()?;
        let staged = self.tree.staging.iter().filter(|(name, _)| !name.starts_with(BROUGHT) && !is_image(name));
        Ok(staged.map(|(name, &ino)| (StageName(name.clone()), self.tree.stat(ino))).collect())
    }

    fn stat_kept(&mut self, name: &StageName) -> Result<Stat> {
        self.before()?;
        let ino = *self.tree.history.get(&name.0).ok_or(ErrorKind::NotFound)?;
        Ok(self.tree.stat(ino))
    }

    fn read_staged(&mut self, name: &StageName) -> Result<Value> {
        self.before()?;
        let ino = self.tree.staging.get(&name.0).or(self.tree.history.get(&name.0));
        let ino = *ino.ok_or(ErrorKind::NotFound)?;
        match &self.tree.get(ino).body {
            Body::File(bytes) => Ok(Value::File { hash: hash_of(bytes), size: bytes.len() as u64 }),
            Body::Link(target) => Ok(Value::Link { target: target.clone() }),
            Body::Dir(_) | Body::Socket => Err(Error::other("not a leaf")),
        }
    }
}
