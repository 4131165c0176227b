//! Reads large files a piece at a time, so that nobody who asks the engine something waits until one is through.
//!
//! What was read so far of a file is remembered by its path, and counts for as long as its stat is the same. Holes are
//! not read: that they are zeros is known.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use hearth_schemas::ids::ContentHash;
use hearth_schemas::wire::Run;
use syncd_core::disk::{RelPath, Stat};

use super::{BLOCK, BLOCK_BUFFER, RealDisk, locked, statx};
use crate::runs::runs_of;

/// From this size on a file is read in pieces, in bytes.
pub(super) const LARGE: u64 = 64 << 20;
/// How long is read at a time.
const PIECE: Duration = Duration::from_millis(250);
/// Bytes whose holes are asked for at a time.
const STRETCH: u64 = 1 << 30;
/// So many files are read at once, at most; another one is read in one go.
const MOST: usize = 64;

/// The large files of which a part was read.
pub(super) type Begun = BTreeMap<RelPath, Part>;

/// What was read of a large file.
pub(super) struct Part {
    stat: Stat,
    hasher: blake3::Hasher,
    at: u64,
}

/// Hash and length of a file; fails with `WouldBlock` after a piece, to be called again, and with `ResourceBusy` where the
/// file is another by then.
pub(super) fn read(disk: &RealDisk, path: &[u8], file: &File) -> io::Result<(ContentHash, u64)> {
    let stat = disk.stat_of(&statx(file.as_fd(), b"")?);
    let known = locked(&disk.0.begun).remove(path);
    if known.as_ref().is_some_and(|part| part.stat != stat) {
        return Err(ErrorKind::ResourceBusy.into());
    }
    let mut part = known.unwrap_or_else(|| Part { stat, hasher: disk.new_hasher(), at: 0 });
    let until = (locked(&disk.0.begun).len() < MOST).then(|| Instant::now() + PIECE);
    if part.go_on(file, until)? {
        return Ok((ContentHash(*part.hasher.finalize().as_bytes()), part.at));
    }
    locked(&disk.0.begun).insert(path.to_vec(), part);
    Err(ErrorKind::WouldBlock.into())
}

impl Part {
    /// Reads on; gives whether it has come to the end.
    fn go_on(&mut self, file: &File, until: Option<Instant>) -> io::Result<bool> {
        while self.at < self.stat.size {
            let stretch = (self.stat.size - self.at).min(STRETCH);
            for run in runs_of(file, self.at, stretch)? {
                let end = self.at + run.len();
                while self.at < end {
                    if until.is_some_and(|until| Instant::now() > until) {
                        return Ok(false);
                    }
                    let most = usize::try_from(end - self.at).unwrap_or(BLOCK).min(BLOCK);
                    let read = match run {
                        Run::Zeros(_) => {
                            self.hasher.update(&ZEROS[..most]);
                            most
                        }
                        Run::Data(_) | Run::Packed { .. } | Run::Older { .. } => self.take_in(file, most)?,
                    };
                    if read == 0 {
                        // It has become shorter meanwhile, which the next look tells.
                        return Ok(true);
                    }
                    self.at += read as u64;
                }
            }
        }
        Ok(true)
    }

    fn take_in(&mut self, file: &File, most: usize) -> io::Result<usize> {
        BLOCK_BUFFER.with_borrow_mut(|block| {
            loop {
                match file.read_at(&mut block[..most], self.at) {
                    Ok(read) => {
                        self.hasher.update(&block[..read]);
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
