//! A large content while it is put together in staging: hashed as it comes, so that the last byte finds it verified,
//! and gone on with after a break.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::thread::JoinHandle;

use hearth_schemas::ids::ContentHash;
use rustix::fs::{Mode, OFlags};
use syncd_core::disk::{Disk, StageName};

use super::{PART, RealDisk};

/// Bytes that wait to be made durable, at most, before it is begun with.
const DURABLE_STEP: u64 = 64 << 20;

/// A content of which parts are still to come.
pub struct Unfinished {
    disk: RealDisk,
    hash: ContentHash,
    file: File,
    /// Of everything before `in_order`.
    hasher: blake3::Hasher,
    /// Bytes that are there from the beginning without a gap.
    in_order: u64,
    /// Where the last byte ends that was written so far.
    end: u64,
    /// Bytes written since the last flush was begun.
    unflushed: u64,
    flushing: Option<JoinHandle<io::Result<()>>>,
}

impl Unfinished {
    /// Begins, or goes on from what an earlier try has left.
    pub(super) fn open(disk: RealDisk, hash: ContentHash) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = format!("{PART}{hash}");
        let mut file: File = rustix::fs::openat(&disk.0.staging, &name, flags, Mode::from_raw_mode(0o600))?.into();
        let mut hasher = disk.new_hasher();
        let in_order = disk.pour(&mut file, &mut hasher, None)?;
        Ok(Self { disk, hash, file, hasher, in_order, end: in_order, unflushed: 0, flushing: None })
    }

    /// Bytes that are there from the beginning without a gap.
    pub fn in_order(&self) -> u64 {
        self.in_order
    }

    /// Forgets all that is there.
    pub fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.hasher.reset();
        (self.in_order, self.end) = (0, 0);
        Ok(())
    }

    /// Writes a piece to its place.
    pub fn write(&mut self, piece: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(piece, at)?;
        if at == self.in_order {
            self.hasher.update(piece);
            self.in_order += piece.len() as u64;
        }
        self.end = self.end.max(at + piece.len() as u64);
        self.unflushed += piece.len() as u64;
        if self.unflushed >= DURABLE_STEP && self.flushing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.flushed()?;
            let file = self.file.try_clone()?;
            self.flushing = Some(std::thread::spawn(move || file.sync_data()));
            self.unflushed = 0;
        }
        Ok(())
    }

    /// Verifies the content and makes it durable; gives its name in staging, `None` if it is not what it is called.
    pub fn finish(mut self, size: u64) -> io::Result<Option<StageName>> {
        self.file.set_len(size)?;
        if self.in_order != size {
            self.hasher.reset();
            io::Seek::rewind(&mut self.file)?;
            self.in_order = self.disk.pour(&mut self.file, &mut self.hasher, None)?;
        }
        let name = StageName(format!("{PART}{}", self.hash));
        if self.hasher.finalize() != self.hash.0 {
            self.disk.discard(&name)?;
            return Ok(None);
        }
        self.flushed()?;
        self.file.sync_data()?;
        Ok(Some(name))
    }

    /// Waits for the flush that was begun. The file tells of an error once, and to it.
    fn flushed(&mut self) -> io::Result<()> {
        match self.flushing.take() {
            Some(flushing) => flushing.join().unwrap_or_else(|_| Err(io::Error::other("the flush ended early"))),
            None => Ok(()),
        }
    }
}

impl Drop for Unfinished {
    /// A length that has holes before it would not say how much is there.
    fn drop(&mut self) {
        if self.end > self.in_order {
            // What cannot be cut off is found out by its hash, and brought again.
            let _ = self.file.set_len(self.in_order);
        }
    }
}
