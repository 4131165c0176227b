//! Reads large files a piece at a time, so that nobody who asks the engine something waits until one is through; and
//! with several threads, as the hash of a file can be put together from those of its groups.
//!
//! What was read so far of a file is remembered by its path, and counts for as long as its stat is the same. Holes are
//! not read: that they are zeros is known. What the groups of the last few files are called is remembered as well: who
//! has an older version asks for it next.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hearth_schemas::ids::ContentHash;
use hearth_schemas::wire::Run;
use syncd_core::disk::{RelPath, Stat};
use syncd_core::groups::{GROUPED, Group, GroupHasher, GroupName, group_count, group_length, hash_of_groups};

use super::{BLOCK, BLOCK_BUFFER, RealDisk, locked, statx};
use crate::runs::runs_of;

/// From this size on a file is read in pieces, in bytes.
pub(super) const LARGE: u64 = GROUPED;
/// How long is read at a time.
const PIECE: Duration = Duration::from_millis(250);
/// So many files are read at once, at most; another one is read in one go.
const MOST: usize = 64;
/// So many threads read a file, at most.
const THREADS: usize = 4;
/// The groups of so many files are remembered.
const REMEMBERED: usize = 4;

/// What is known of large files.
#[derive(Default)]
pub(super) struct Reading {
    /// Those of which a part was read.
    begun: BTreeMap<RelPath, Part>,
    /// What the groups are called of those that were read to the end.
    groups: VecDeque<(ContentHash, Vec<GroupName>)>,
}

/// What was read of a large file, from its beginning.
struct Part {
    stat: Stat,
    groups: Vec<Group>,
}

/// Hash and length of a file; fails with `WouldBlock` after a piece, to be called again, and with `ResourceBusy` where the
/// file is another by then.
pub(super) fn read(disk: &RealDisk, path: &[u8], file: &File) -> io::Result<(ContentHash, u64)> {
    let stat = disk.stat_of(&statx(file.as_fd(), b"")?);
    let known = locked(&disk.0.reading).begun.remove(path);
    if known.as_ref().is_some_and(|part| part.stat != stat) {
        return Err(ErrorKind::ResourceBusy.into());
    }
    let mut part = known.unwrap_or_else(|| Part { stat, groups: Vec::new() });
    let until = (locked(&disk.0.reading).begun.len() < MOST).then(|| Instant::now() + PIECE);
    let (size, key) = (part.stat.size, &disk.0.content_key);
    part.groups.extend(read_groups(file, key, size, part.groups.len() as u64, until)?);
    if (part.groups.len() as u64) < group_count(size) {
        locked(&disk.0.reading).begun.insert(path.to_vec(), part);
        return Err(ErrorKind::WouldBlock.into());
    }
    let hash = hash_of_groups(&part.groups, key)?;
    let mut reading = locked(&disk.0.reading);
    reading.groups.retain(|(known, _)| *known != hash);
    reading.groups.truncate(REMEMBERED - 1);
    reading.groups.push_front((hash, part.groups.iter().map(Group::name).collect()));
    Ok((hash, size))
}

impl RealDisk {
    /// What the groups of a content of this length are called, if they are remembered.
    pub fn known_groups(&self, hash: ContentHash, length: u64) -> Option<Vec<GroupName>> {
        let reading = locked(&self.0.reading);
        let (_, names) = reading.groups.iter().find(|(known, _)| *known == hash)?;
        (names.len() as u64 == group_count(length)).then(|| names.clone())
    }

    /// What the groups of a file are called, of what it has of the first `length` bytes, cut as a content of that length.
    pub fn groups_of(&self, file: &File, length: u64) -> io::Result<Vec<GroupName>> {
        let there = file.metadata()?.len().min(length);
        let whole = there.div_ceil(group_length(length));
        let read = Groups { file, key: &self.0.content_key, length, there };
        Ok(read.all(0, whole, None)?.iter().map(Group::name).collect())
    }
}

/// Groups of a file of this length, from one on, until time is up.
fn read_groups(file: &File, key: &[u8; 32], length: u64, from: u64, until: Option<Instant>) -> io::Result<Vec<Group>> {
    Groups { file, key, length, there: length }.all(from, group_count(length), until)
}

/// A file to be read in groups.
struct Groups<'a> {
    file: &'a File,
    key: &'a [u8; 32],
    /// The groups are those of a content of this length.
    length: u64,
    /// So much of that is there.
    there: u64,
}

impl Groups<'_> {
    /// One group after the other, by several threads, until time is up: at least one, if there is one.
    fn all(&self, from: u64, end: u64, until: Option<Instant>) -> io::Result<Vec<Group>> {
        let next = AtomicU64::new(from);
        let work = || {
            let mut read = Vec::new();
            while read.is_empty() || until.is_none_or(|until| Instant::now() < until) {
                // Taken in order: what was read when time is up has no gap.
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= end {
                    break;
                }
                read.push((index, self.one(index)?));
            }
            io::Result::Ok(read)
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
        let helpers = threads.min(usize::try_from(end.saturating_sub(from)).unwrap_or(threads)).saturating_sub(1);
        let mut read = std::thread::scope(|scope| {
            let helpers: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
            let mut read = work()?;
            for helper in helpers {
                read.extend(helper.join().map_err(|_| io::Error::other("a reading thread ended"))??);
            }
            io::Result::Ok(read)
        })?;
        read.sort_unstable_by_key(|(index, _)| *index);
        Ok(read.into_iter().map(|(_, group)| group).collect())
    }

    /// Fails with `ResourceBusy` where the file has become shorter meanwhile.
    fn one(&self, index: u64) -> io::Result<Group> {
        let step = group_length(self.length);
        let mut at = index * step;
        let len = step.min(self.there.saturating_sub(at));
        let mut hasher = GroupHasher::new(self.key, at);
        for run in runs_of(self.file, at, len)? {
            let end = at + run.len();
            while at < end {
                let most = usize::try_from(end - at).unwrap_or(BLOCK).min(BLOCK);
                let read = match run {
                    Run::Zeros(_) => {
                        hasher.update(&ZEROS[..most]);
                        most
                    }
                    Run::Data(_) | Run::Packed { .. } | Run::Older { .. } => self.take_in(&mut hasher, at, most)?,
                };
                if read == 0 {
                    return Err(ErrorKind::ResourceBusy.into());
                }
                at += read as u64;
            }
        }
        hasher.finish().ok_or_else(|| ErrorKind::ResourceBusy.into())
    }

    fn take_in(&self, hasher: &mut GroupHasher, at: u64, most: usize) -> io::Result<usize> {
        BLOCK_BUFFER.with_borrow_mut(|block| {
            loop {
                match self.file.read_at(&mut block[..most], at) {
                    Ok(read) => {
                        hasher.update(&block[..read]);
                        return Ok(read);
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        })
    }
}

static ZEROS: [u8; BLOCK] = [0; BLOCK];
