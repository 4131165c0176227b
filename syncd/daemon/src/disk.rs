//! The real file system, beneath one root and through descriptors alone.
//!
//! Every path is resolved by `openat2` with `RESOLVE_BENEATH` and no symlinks, then the last component is acted on at
//! the directory's descriptor: whatever is swapped for a symlink meanwhile, nothing outside the home is touched.
//! What lies in another file system or mount cannot be asked about at all: it must never look like something missing.
//! Staging and history lie on the root's own file system, so that putting a file in place and moving it into history
//! are renames. Decides nothing: order and checks are [`syncd_core::apply`]'s.

mod bring;
mod database;
mod image;
mod reading;
mod unfinished;
mod xattr;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_schemas::ids::ContentHash;
use hearth_schemas::item::{Attributes, FileTime, Name, Value, Xattrs};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, RawMode, RenameFlags, ResolveFlags, Statx, StatxFlags, Timespec,
    Timestamps, UTIME_OMIT,
};
use syncd_core::database::{COMPANIONS, VITAL, image_of, is_image, may_be, owner_of};
use syncd_core::disk::{Content, Disk, Handle, Kind, Others, Raised, Reading, RelPath, Source, StageName, Stat};
use syncd_core::path::split;
use syncd_lease::{Answer, Excluded, Lease, is_written};

use crate::watch::Watcher;

/// Bytes read or written in one go.
const BLOCK: usize = 128 << 10;
/// Up to so many files are made durable one by one; more by a flush of the file system.
const FEW: usize = 16;
/// Prefix of the names of large contents, which an interrupted daemon goes on with.
const PART: &str = "part-";
/// How long a content that is only half there is kept, should it be gone on with.
const UNFINISHED: Duration = Duration::from_secs(14 * 24 * 3600);
/// Prefix of contents in staging that are whole and verified, for as long as this daemon runs.
const WHOLE: &str = "whole-";
/// Longest path that is given to the system in one call, in bytes; it takes 4,095.
const LONGEST_PATH: usize = 4000;
/// Bytes of directory entries read in one go.
const LISTING: usize = 16 << 10;
/// Where staging and history are if the data directory is not beside the home.
pub(crate) const NEAR: &str = ".hearth-data";

thread_local! {
    /// One block a thread: a home has many small files, and memory for each would cost more than reading it.
    static BLOCK_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; BLOCK]);
}

pub use bring::Bringing;
pub use unfinished::Unfinished;
use unfinished::part_name;

/// The real disk. Clones share it.
#[derive(Clone)]
pub struct RealDisk(Arc<Inner>);

struct Inner {
    root: OwnedFd,
    root_path: std::path::PathBuf,
    root_identity: Handle,
    region: Region,
    staging: OwnedFd,
    staging_path: std::path::PathBuf,
    history: OwnedFd,
    content_key: [u8; 32],
    /// Staged contents.
    contents: Mutex<Unflushed>,
    /// Files whose contents are durable, but not what else they are.
    attributes: Mutex<Unflushed>,
    brought: AtomicU64,
    /// Who asked for a flush, and the first of them that has not had it.
    tickets: AtomicU64,
    flushed: Mutex<u64>,
    /// Bytes and percent of the file system that are left free.
    keep_free: Mutex<(u64, u64)>,
    /// The file that is held.
    held: Mutex<Option<Lease>>,
    /// Who watches the home, once somebody does.
    watcher: OnceLock<Watcher>,
    /// What is known of large files.
    reading: Mutex<reading::Reading>,
}

#[derive(Default)]
struct Unflushed {
    files: Vec<File>,
    many: bool,
}

impl RealDisk {
    /// Opens the home. Staging and history are in `data`, or, where that is on another file system, in
    /// `.hearth-data` of the home. `state` remembers which directory the home is.
    pub fn open(home: &Path, data: &Path, state: &Path, content_key: [u8; 32]) -> io::Result<Self> {
        let root = rustix::fs::open(home, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let stat = statx(root.as_fd(), b"")?;
        let region = Region::of(&stat);
        let root_identity = handle_of(&stat);
        check_identity(state, root_identity)?;
        let data_region = Region::of(&rustix::fs::statx(CWD, data, AtFlags::empty(), ASKED)?);
        let base = if data_region == region { data.to_owned() } else { home.join(NEAR) };
        let inner = Inner {
            root,
            root_path: home.to_owned(),
            root_identity,
            region,
            staging: private_dir(&base, "staging")?,
            staging_path: base.join("staging"),
            history: private_dir(&base, "history")?,
            content_key,
            contents: Mutex::default(),
            attributes: Mutex::default(),
            brought: AtomicU64::new(0),
            tickets: AtomicU64::new(0),
            flushed: Mutex::new(0),
            keep_free: Mutex::default(),
            held: Mutex::default(),
            watcher: OnceLock::new(),
            reading: Mutex::default(),
        };
        let disk = Self(Arc::new(inner));
        disk.tidy()?;
        Ok(disk)
    }

    /// Has directories watched by this from here on. Only the first to be named counts.
    pub fn watched_by(&self, watcher: Watcher) {
        let _ = self.0.watcher.set(watcher);
    }

    /// Opens a content for reading: a regular file of the tree, of staging or of history, or bytes in memory.
    pub fn open_source(&self, source: &Source) -> io::Result<File> {
        match source {
            Source::Copy(path) => self.open_file(path).map(|(file, _)| file),
            Source::Kept(name) | Source::Brought(name) => self.open_kept(name),
            Source::Bytes(bytes) => in_memory(bytes),
            Source::Link(_) => Err(ErrorKind::InvalidInput.into()),
        }
    }

    /// Removes a content from history.
    pub fn forget_kept(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0.history, name, AtFlags::empty()).map_err(io::Error::from) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Size of the file system that history lies on, in bytes.
    pub fn history_room(&self) -> io::Result<u64> {
        let room = rustix::fs::fstatvfs(&self.0.history)?;
        Ok(room.f_blocks.saturating_mul(room.f_frsize))
    }

    /// Begins to put a large content together, or goes on with it.
    pub fn open_part(&self, hash: ContentHash) -> io::Result<Unfinished> {
        Unfinished::open(self.clone(), hash)
    }

    /// Begins to take in contents as they come.
    pub fn bringing(&self) -> Bringing {
        Bringing::new(self.clone())
    }

    /// Flushes the file system once for all who ask at the same time.
    fn flush_together(&self) -> io::Result<()> {
        let ticket = self.0.tickets.fetch_add(1, Ordering::SeqCst);
        let mut flushed = locked(&self.0.flushed);
        if *flushed <= ticket {
            let upto = self.0.tickets.load(Ordering::SeqCst);
            self.flush_all()?;
            *flushed = upto;
        }
        Ok(())
    }

    /// Clears staging of what an earlier run had brought there, and of what nobody has gone on with for long.
    fn tidy(&self) -> io::Result<()> {
        let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(UNFINISHED);
        let begun = i64::try_from(begun.as_secs()).unwrap_or(i64::MAX);
        for name in self.staged_names()? {
            let is_old = || Ok::<_, io::Error>(self.stat_at(&self.0.staging, name.as_bytes())?.mtime.secs < begun);
            if name.starts_with(WHOLE) || name.starts_with(image::MAKING) || (name.starts_with(PART) && is_old()?) {
                rustix::fs::unlinkat(&self.0.staging, &name, AtFlags::empty())?;
            }
        }
        Ok(())
    }

    fn staged_names(&self) -> io::Result<Vec<String>> {
        names_in(&self.0.staging)
    }

    /// The names of all that lies in history, whether the index knows of it or not.
    pub fn history_names(&self) -> io::Result<Vec<String>> {
        names_in(&self.0.history)
    }

    /// What a leaf in history holds, and its stat.
    pub fn read_kept(&self, name: &str) -> io::Result<(Value, Stat)> {
        Ok((self.leaf_in(&self.0.history, name)?, self.stat_at(&self.0.history, name.as_bytes())?))
    }

    fn leaf_in(&self, dir: &OwnedFd, name: &str) -> io::Result<Value> {
        if self.stat_at(dir, name.as_bytes())?.kind == Kind::Link {
            let target = rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes();
            return Ok(Value::Link { target });
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file: File = rustix::fs::openat(dir, name, flags, Mode::empty())?.into();
        let (hash, size) = self.digest(&mut file, None)?;
        Ok(Value::File { hash, size })
    }

    /// Gives up what was put together of a content.
    pub fn drop_part(&self, hash: ContentHash) -> io::Result<()> {
        self.clone().discard(&part_name(hash))
    }

    /// How many bytes may still be brought to the home's file system, so that everybody else has room left.
    pub fn room(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.0.staging)?;
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let (least, percent) = *locked(&self.0.keep_free);
        // A very small disk could otherwise take nothing at all.
        let reserve = least.max(total / 100 * percent.min(100)).min(total / 10);
        Ok(if total == 0 { u64::MAX } else { free.saturating_sub(reserve) })
    }

    /// What is brought from elsewhere leaves so many bytes, or percent if that is more, of the home's file system free.
    pub fn keep_free(&self, bytes: u64, percent: u64) {
        *locked(&self.0.keep_free) = (bytes, percent);
    }

    /// Opens a regular file for reading; gives its length in bytes beside it.
    fn open_file(&self, path: &[u8]) -> io::Result<(File, u64)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = self.open_beneath(path, flags)?.into();
        let found = file.metadata()?;
        if found.is_file() { Ok((file, found.len())) } else { Err(io::Error::other("not a regular file")) }
    }

    fn open_kept(&self, name: &StageName) -> io::Result<File> {
        if name.0.contains('/') || name.0.starts_with('.') {
            return Err(ErrorKind::InvalidInput.into());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |dir: &OwnedFd| rustix::fs::openat(dir, &name.0, flags, Mode::empty());
        Ok(open(&self.0.history).or_else(|_| open(&self.0.staging))?.into())
    }

    /// The descriptor of the directory that a path is in, and the path's last component.
    fn parent<'a>(&self, path: &'a [u8]) -> io::Result<(OwnedFd, &'a [u8])> {
        let (dir, name) = split(path);
        if name.is_empty() {
            return Err(ErrorKind::InvalidInput.into());
        }
        Ok((self.dir(dir, OFlags::PATH)?, name))
    }

    fn dir(&self, path: &[u8], access: OFlags) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        self.open_beneath(path, access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC)
    }

    /// A path that leads over a link does not exist for us: where a directory or a file was, somebody put a link.
    fn open_beneath(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        open_beneath(&self.0.root, path, flags)
    }

    /// Refuses a directory that belongs to another file system, as a subvolume does without being a mount.
    fn check_ours(&self, dir: &OwnedFd) -> io::Result<()> {
        let ours = Region::of(&statx(dir.as_fd(), b"")?) == self.0.region;
        if ours { Ok(()) } else { Err(ErrorKind::CrossesDevices.into()) }
    }

    fn stat_of(&self, stat: &Statx) -> Stat {
        let foreign = Region::of(stat) != self.0.region;
        let kind = match FileType::from_raw_mode(RawMode::from(stat.stx_mode)) {
            _ if foreign => Kind::Other,
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Link,
            _ => Kind::Other,
        };
        Stat {
            kind,
            handle: handle_of(stat),
            size: if kind == Kind::Dir { 0 } else { stat.stx_size },
            mode: stat.stx_mode & 0o777,
            mtime: FileTime { secs: stat.stx_mtime.tv_sec, nanos: stat.stx_mtime.tv_nsec },
            ctime: FileTime { secs: stat.stx_ctime.tv_sec, nanos: stat.stx_ctime.tv_nsec },
            links: if kind == Kind::Dir { 1 } else { u64::from(stat.stx_nlink) },
            raised: Raised(kind == Kind::File && stat.stx_mode & 0o6000 != 0),
        }
    }

    fn stat_at(&self, dir: &OwnedFd, name: &[u8]) -> io::Result<Stat> {
        Ok(self.stat_of(&statx(dir.as_fd(), name)?))
    }

    fn new_hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.0.content_key)
    }

    /// Reads the rest of a file through a hash, writing it on where asked; gives its length in bytes.
    fn pour(&self, from: &mut File, hasher: &mut blake3::Hasher, mut into: Option<&mut File>) -> io::Result<u64> {
        let mut size = 0;
        BLOCK_BUFFER.with_borrow_mut(|block| {
            loop {
                let read = match from.read(block) {
                    Ok(0) => break,
                    Ok(read) => read,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                hasher.update(&block[..read]);
                size += read as u64;
                match &mut into {
                    // A hole stays one.
                    Some(into) if read == BLOCK && block.iter().all(|&byte| byte == 0) => {
                        into.seek(SeekFrom::Current(read as i64))?;
                    }
                    Some(into) => into.write_all(&block[..read])?,
                    None => {}
                }
            }
            if let Some(into) = into.filter(|_| size >= BLOCK as u64) {
                into.set_len(size)?;
            }
            Ok(size)
        })
    }

    /// Hash and length of the rest of a file, which is written on where asked.
    fn digest(&self, from: &mut File, into: Option<&mut File>) -> io::Result<(ContentHash, u64)> {
        let mut hasher = self.new_hasher();
        let size = self.pour(from, &mut hasher, into)?;
        Ok((ContentHash(*hasher.finalize().as_bytes()), size))
    }

    fn new_staged(&self, name: &StageName) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.0.staging, &name.0, flags, Mode::from_raw_mode(0o600))?.into())
    }

    fn stage_file(&self, name: &StageName, source: &Source) -> io::Result<(File, ContentHash, u64)> {
        match source {
            Source::Bytes(bytes) => {
                let mut file = self.new_staged(name)?;
                file.write_all(bytes)?;
                Ok((file, self.hash_of(bytes), bytes.len() as u64))
            }
            Source::Brought(whole) => {
                let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file: File = rustix::fs::openat(&self.0.staging, &whole.0, flags, Mode::empty())?.into();
                let hash = whole.0.rsplit('-').next().and_then(ContentHash::parse).ok_or(ErrorKind::InvalidInput)?;
                let size = file.metadata()?.len();
                if name != whole {
                    rustix::fs::renameat(&self.0.staging, &whole.0, &self.0.staging, &name.0)?;
                }
                Ok((file, hash, size))
            }
            Source::Copy(_) | Source::Kept(_) => {
                let mut from = self.open_source(source)?;
                let mut file = self.new_staged(name)?;
                // What is hashed is what is staged: the source may be written to between the cloning and the reading.
                let (hash, size) = match rustix::fs::ioctl_ficlone(&file, &from) {
                    Ok(()) => self.digest(&mut file, None)?,
                    Err(_) => self.digest(&mut from, Some(&mut file))?,
                };
                Ok((file, hash, size))
            }
            Source::Link(_) => Err(ErrorKind::InvalidInput.into()),
        }
    }

    fn flush_all(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0.staging)?)
    }
}

impl Unflushed {
    fn add(&mut self, file: File) {
        if self.files.len() < FEW && !self.many {
            self.files.push(file);
        } else {
            self.many = true;
            self.files.clear();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk for RealDisk {
    fn watch(&mut self, dir: &[u8]) {
        if let Some(watcher) = self.0.watcher.get() {
            watcher.watch_now(dir.to_vec());
        }
    }

    fn list(&mut self, dir: &[u8]) -> io::Result<Vec<(Name, Stat)>> {
        let fd = self.dir(dir, OFlags::RDONLY)?;
        self.check_ours(&fd)?;
        let mut buffer = [MaybeUninit::uninit(); LISTING];
        let mut listing = RawDir::new(&fd, &mut buffer);
        let mut entries = Vec::new();
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let Some(name) = Name::new(entry.file_name().to_bytes()) else { continue };
            match self.stat_at(&fd, name.as_bytes()) {
                Ok(stat) => entries.push((name, stat)),
                // Gone between the listing and the look.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        // Among many names, only those that belong to a log are asked about again.
        let is_log =
            |(name, _): &(Name, Stat)| COMPANIONS[..VITAL].iter().any(|e| name.as_bytes().ends_with(e.as_bytes()));
        let logged: Vec<Vec<u8>> = entries
            .iter()
            .filter(|e| is_log(e))
            .filter_map(|(name, _)| Some(owner_of(name.as_bytes())?.to_vec()))
            .collect();
        for (name, stat) in entries.iter_mut().filter(|(name, _)| logged.iter().any(|log| log == name.as_bytes())) {
            *stat = self.with_logs(&fd, name.as_bytes(), stat.clone());
        }
        Ok(entries)
    }

    fn stat(&mut self, path: &[u8]) -> io::Result<Option<Stat>> {
        let (dir, name) = self.parent(path)?;
        match self.stat_at(&dir, name) {
            Ok(stat) => Ok(Some(self.with_logs(&dir, name, stat))),
            Err(error) if error.kind() == ErrorKind::NotFound => self.check_ours(&dir).map(|()| None),
            Err(error) => Err(error),
        }
    }

    fn read_link(&mut self, path: &[u8]) -> io::Result<Vec<u8>> {
        let (dir, name) = self.parent(path)?;
        Ok(rustix::fs::readlinkat(&dir, name, Vec::new())?.into_bytes())
    }

    fn xattrs(&mut self, path: &[u8]) -> Option<Xattrs> {
        let (dir, name) = self.parent(path).ok()?;
        let entry = entry_of(&dir, name).ok()?;
        xattr::read(&through(&entry)).ok().flatten()
    }

    fn hash(&mut self, path: &[u8]) -> io::Result<(ContentHash, u64)> {
        let (mut file, _) = self.open_file(path)?;
        self.digest(&mut file, None)
    }

    fn head(&mut self, source: &Source, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_source(source)?.take(len as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn images(&mut self) -> io::Result<Vec<ContentHash>> {
        Ok(self.staged_names()?.iter().filter_map(|name| image_of(name)).collect())
    }

    fn content(&mut self, path: &[u8]) -> io::Result<Reading> {
        let (mut file, size) = self.open_file(path)?;
        let xattrs = xattr::read_open(&file).ok().flatten();
        if let Some(content) = database::content(self, path, (&mut file, size))? {
            return Ok(Reading { content, after: self.stat(path).ok().flatten(), xattrs });
        }
        let (hash, read) = match size {
            reading::LARGE.. => reading::read(self, path, &file)?,
            _ => self.digest(&mut file, None)?,
        };
        // Asked last: who had it open before and has written has changed its times.
        let content = Content { hash, size: read, written: is_written(&file), image: false };
        // Logs beside it are found by its name.
        let after = if may_be(size) { self.stat(path)? } else { Some(self.stat_of(&statx(file.as_fd(), b"")?)) };
        Ok(Reading { content, after, xattrs })
    }

    fn copy(&mut self, path: &[u8]) -> io::Result<Content> {
        image::copied(self, path)
    }

    fn read(&mut self, source: &Source, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_source(source)?.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit { Err(ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
    }

    fn begins(&mut self, path: &[u8], with: &[u8]) -> io::Result<bool> {
        match self.stat(path)? {
            Some(stat) if stat.kind == Kind::File && stat.size >= with.len() as u64 => {}
            Some(_) | None => return Ok(false),
        }
        let mut bytes = Vec::with_capacity(with.len());
        self.open_file(path)?.0.take(with.len() as u64).read_to_end(&mut bytes)?;
        Ok(bytes == with)
    }

    fn hash_of(&self, bytes: &[u8]) -> ContentHash {
        ContentHash(*blake3::keyed_hash(&self.0.content_key, bytes).as_bytes())
    }

    fn root_holds(&mut self) -> bool {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let stat = rustix::fs::open(&self.0.root_path, flags, Mode::empty()).map_err(io::Error::from);
        let stat = stat.and_then(|root| statx(root.as_fd(), b""));
        stat.is_ok_and(|stat| handle_of(&stat) == self.0.root_identity && Region::of(&stat) == self.0.region)
    }

    fn mkdir(&mut self, path: &[u8]) -> io::Result<Stat> {
        let (dir, name) = self.parent(path)?;
        rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o700))?;
        self.stat_at(&dir, name)
    }

    fn stage(
        &mut self,
        name: &StageName,
        source: &Source,
        attributes: &Attributes,
    ) -> io::Result<(Stat, ContentHash, u64)> {
        if let Source::Link(target) = source {
            rustix::fs::symlinkat(target.as_slice(), &self.0.staging, &name.0)?;
            let times = times_of(attributes);
            rustix::fs::utimensat(&self.0.staging, &name.0, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            let hash = ContentHash(*blake3::keyed_hash(&self.0.content_key, target).as_bytes());
            return Ok((self.stat_at(&self.0.staging, name.0.as_bytes())?, hash, target.len() as u64));
        }
        let staged = self.stage_file(name, source).and_then(|(file, hash, size)| {
            if !attributes.xattrs.is_empty() {
                xattr::write(&through(&file), &attributes.xattrs)?;
            }
            rustix::fs::fchmod(&file, Mode::from_raw_mode(RawMode::from(attributes.mode & 0o777)))?;
            rustix::fs::futimens(&file, &times_of(attributes))?;
            let stat = self.stat_of(&statx(file.as_fd(), b"")?);
            let durable = matches!(source, Source::Brought(_));
            locked(if durable { &self.0.attributes } else { &self.0.contents }).add(file);
            Ok((stat, hash, size))
        });
        if staged.is_err() {
            // What could not be finished only takes room.
            let _ = self.discard(name);
        }
        staged
    }

    fn stage_link(&mut self, name: &StageName, of: &Source) -> io::Result<Stat> {
        let staging = &self.0.staging;
        match of {
            Source::Copy(path) => {
                let (dir, from) = self.parent(path)?;
                rustix::fs::linkat(&dir, from, staging, &name.0, AtFlags::empty())?;
            }
            Source::Kept(from) | Source::Brought(from) => {
                rustix::fs::linkat(staging, &from.0, staging, &name.0, AtFlags::empty())?;
            }
            Source::Bytes(_) | Source::Link(_) => return Err(ErrorKind::InvalidInput.into()),
        }
        self.stat_at(staging, name.0.as_bytes())
    }

    fn flush_staged(&mut self) -> io::Result<()> {
        let Unflushed { files, many } = std::mem::take(&mut *locked(&self.0.contents));
        if many { self.flush_all() } else { files.iter().try_for_each(File::sync_all) }
    }

    fn flush(&mut self, dirs: &[RelPath]) -> io::Result<()> {
        self.flush_staged()?;
        let Unflushed { files, many } = std::mem::take(&mut *locked(&self.0.attributes));
        if many || dirs.len() > FEW {
            return self.flush_all();
        }
        files.iter().try_for_each(File::sync_all)?;
        for dir in dirs {
            match self.dir(dir, OFlags::RDONLY) {
                Ok(fd) => rustix::fs::fsync(&fd)?,
                // Removed: its own directory is flushed as well. Unreadable or elsewhere by now: what was done in it
                // cannot be flushed by its path.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(_) => return self.flush_all(),
            }
        }
        Ok(rustix::fs::fsync(&self.0.history)?)
    }

    fn hold(&mut self, path: &[u8], handle: Handle, others: Others) -> io::Result<bool> {
        let file = match self.open_file(path) {
            Ok((file, _)) => file,
            // What we may not read we cannot ask about.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(false),
            Err(error) => return Err(error),
        };
        if handle_of(&statx(file.as_fd(), b"")?) != handle {
            return Err(ErrorKind::NotFound.into());
        }
        let excluded = match others {
            Others::Readers => Excluded::Writers,
            Others::Nobody => Excluded::Everybody,
        };
        let lease = match Lease::take(file, excluded)? {
            Answer::Granted(lease) => Some(lease),
            Answer::InUse => return Err(ErrorKind::ResourceBusy.into()),
            Answer::Untold => None,
        };
        let guarded = lease.is_some();
        *locked(&self.0.held) = lease;
        Ok(guarded)
    }

    fn is_awaited(&mut self) -> bool {
        locked(&self.0.held).as_ref().is_some_and(Lease::is_awaited)
    }

    fn let_go(&mut self) {
        *locked(&self.0.held) = None;
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) -> io::Result<()> {
        let ((from_dir, from_name), (to_dir, to_name)) = (self.parent(from)?, self.parent(to)?);
        Ok(rustix::fs::renameat_with(&from_dir, from_name, &to_dir, to_name, RenameFlags::NOREPLACE)?)
    }

    fn unstage(&mut self, name: &StageName, to: &[u8]) -> io::Result<Stat> {
        let (dir, target) = self.parent(to)?;
        // Somebody may rename it the moment that it stands there: it is asked for itself, not for its name.
        let entry = entry_of(&self.0.staging, name.0.as_bytes())?;
        rustix::fs::renameat_with(&self.0.staging, &name.0, &dir, target, RenameFlags::NOREPLACE)?;
        self.stat_at(&entry, b"")
    }

    fn exchange(&mut self, name: &StageName, path: &[u8]) -> io::Result<(Stat, Stat)> {
        let (dir, target) = self.parent(path)?;
        // As above; and what came out must be told of in any case.
        let entry = entry_of(&self.0.staging, name.0.as_bytes())?;
        rustix::fs::renameat_with(&self.0.staging, &name.0, &dir, target, RenameFlags::EXCHANGE)?;
        Ok((
            self.with_logs(&dir, target, self.stat_at(&entry, b"")?),
            self.stat_at(&self.0.staging, name.0.as_bytes())?,
        ))
    }

    fn take(&mut self, path: &[u8], name: &StageName) -> io::Result<Stat> {
        let (dir, target) = self.parent(path)?;
        rustix::fs::renameat_with(&dir, target, &self.0.staging, &name.0, RenameFlags::NOREPLACE)?;
        self.stat_at(&self.0.staging, name.0.as_bytes())
    }

    fn keep(&mut self, name: &StageName) -> io::Result<()> {
        let (staging, history) = (&self.0.staging, &self.0.history);
        Ok(rustix::fs::renameat_with(staging, &name.0, history, &name.0, RenameFlags::NOREPLACE)?)
    }

    fn discard(&mut self, name: &StageName) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0.staging, &name.0, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn rmdir(&mut self, path: &[u8]) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        Ok(rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR)?)
    }

    fn set_attributes(&mut self, path: &[u8], handle: Handle, attributes: &Attributes) -> io::Result<Stat> {
        let (dir, name) = self.parent(path)?;
        let entry = entry_of(&dir, name)?;
        let before = self.stat_of(&statx(entry.as_fd(), b"")?);
        if before.handle != handle {
            return Err(io::ErrorKind::NotFound.into());
        }
        let times = times_of(attributes);
        if before.kind == Kind::Link {
            rustix::fs::utimensat(&dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        } else {
            // A name could be given to something else meanwhile; the descriptor cannot.
            let own = through(&entry);
            let mut mode = before.mode;
            if xattr::read(&own)?.is_some_and(|found| found != attributes.xattrs) {
                if mode & 0o600 != 0o600 {
                    // Only who may write to a file may set its extended attributes.
                    mode |= 0o600;
                    rustix::fs::chmod(&own, Mode::from_raw_mode(RawMode::from(mode)))?;
                }
                xattr::write(&own, &attributes.xattrs)?;
            }
            if mode != attributes.mode & 0o777 {
                rustix::fs::chmod(&own, Mode::from_raw_mode(RawMode::from(attributes.mode & 0o777)))?;
            }
            rustix::fs::utimensat(rustix::fs::CWD, &own, &times, AtFlags::empty())?;
        }
        Ok(self.stat_of(&statx(entry.as_fd(), b"")?))
    }

    fn staged(&mut self) -> io::Result<Vec<(StageName, Stat)>> {
        let mut found = Vec::new();
        for name in self.staged_names()? {
            if !name.starts_with(PART) && !name.starts_with(WHOLE) && !is_image(&name) {
                let stat = self.stat_at(&self.0.staging, name.as_bytes())?;
                found.push((StageName(name), stat));
            }
        }
        Ok(found)
    }

    fn stat_kept(&mut self, name: &StageName) -> io::Result<Stat> {
        self.stat_at(&self.0.history, name.0.as_bytes())
    }

    fn read_staged(&mut self, name: &StageName) -> io::Result<Value> {
        match self.leaf_in(&self.0.staging, &name.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => self.leaf_in(&self.0.history, &name.0),
            read => read,
        }
    }
}

/// The file system and the mount that an entry is in: names can be moved within one region alone.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Region {
    device: (u32, u32),
    /// `None` where the kernel does not tell.
    mount: Option<u64>,
}

impl Region {
    fn of(stat: &Statx) -> Self {
        let told = stat.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        Self { device: (stat.stx_dev_major, stat.stx_dev_minor), mount: told.then_some(stat.stx_mnt_id) }
    }
}

/// An entry of a directory as a descriptor that nothing can be read by.
fn entry_of(dir: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// The path of what a descriptor is open on, whatever became of its names.
fn through(entry: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", entry.as_raw_fd())
}

/// Opens what is at a path beneath a directory, however long, following no symlink on the way.
pub(crate) fn open_beneath(root: &OwnedFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let mut stage: Option<OwnedFd> = None;
    let mut rest = path;
    // The system takes no longer path in one call; each stage begins at a directory that the last one led to.
    while rest.len() > LONGEST_PATH {
        let slash = rest[..LONGEST_PATH].iter().rposition(|&byte| byte == b'/').ok_or(ErrorKind::InvalidFilename)?;
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        stage = Some(open_below(stage.as_ref().unwrap_or(root), &rest[..slash], step)?);
        rest = &rest[slash + 1..];
    }
    open_below(stage.as_ref().unwrap_or(root), rest, flags)
}

/// Opens what is at a path beneath a directory that the system takes in one call.
fn open_below(dir: &OwnedFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    rustix::fs::openat2(dir, path, flags, Mode::empty(), beneath()).map_err(|error| match error {
        rustix::io::Errno::LOOP => ErrorKind::NotADirectory.into(),
        other => other.into(),
    })
}

/// What is asked of `statx`.
const ASKED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME).union(StatxFlags::MNT_ID);

fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV
}

fn statx(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Statx> {
    let flags = if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW };
    Ok(rustix::fs::statx(dir, name, flags, ASKED)?)
}

fn handle_of(stat: &Statx) -> Handle {
    let known = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    let born = &stat.stx_btime;
    let born = born.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(born.tv_nsec));
    Handle { inode: stat.stx_ino, born: if known { born } else { 0 } }
}

fn times_of(attributes: &Attributes) -> Timestamps {
    let FileTime { secs, nanos } = attributes.mtime;
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: secs, tv_nsec: i64::from(nanos) },
    }
}

fn private_dir(base: &Path, name: &str) -> io::Result<OwnedFd> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let path = base.join(name);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))?;
    Ok(rustix::fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Refuses a home that is another directory than the one that the index was made for.
fn check_identity(state: &Path, found: Handle) -> io::Result<()> {
    let file = state.join("root-id");
    let identity = format!("{} {}\n", found.inode, found.born);
    match std::fs::read_to_string(&file) {
        Ok(known) if known == identity => Ok(()),
        Ok(_) => Err(io::Error::other(format!(
            "the home is not the directory that it was; if that is meant, remove {} and start again",
            file.display()
        ))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // Whole or not at all: half an identity would keep the daemon from ever starting again.
            let part = state.join("root-id.part");
            std::fs::write(&part, identity)?;
            File::open(&part)?.sync_all()?;
            std::fs::rename(&part, &file)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;

/// Bytes as a file that has no name.
fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("hearth", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// The names in one of our own directories.
fn names_in(dir: &OwnedFd) -> io::Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, ".", flags, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); LISTING];
    let mut listing = RawDir::new(&fd, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = listing.next() {
        if let Ok(name) = entry?.file_name().to_str().map(str::to_owned) {
            names.push(name);
        }
    }
    names.retain(|name| name != "." && name != "..");
    Ok(names)
}
