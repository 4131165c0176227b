//! A large content while it is put together in staging: hashed as it comes, so that the last byte finds it verified,
//! and gone on with after a break.
//!
//! It is written around the page cache where the file system can: what a person was just working with stays in
//! memory, copying costs nothing, and little is left to wait for when it is made durable.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use hearth_schemas::ids::ContentHash;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use syncd_core::disk::{Disk, StageName};

use super::{PART, RealDisk};

/// Bytes written in one go.
const BLOCK: usize = 1 << 20;
/// Bytes that are written before it is asked again whether there is room for more.
const UNASKED: u64 = 64 << 20;
/// What offsets, lengths and addresses of direct writes are multiples of, in bytes: the largest block of common disks.
const ALIGNMENT: usize = 4096;

/// The name in staging of a large content.
pub(super) fn part_name(hash: ContentHash) -> StageName {
    StageName(format!("{PART}{hash}"))
}

/// A content of which parts are still to come.
pub struct Unfinished {
    disk: RealDisk,
    hash: ContentHash,
    file: File,
    /// Of everything before `in_order`.
    hasher: blake3::Hasher,
    /// Bytes that came from the beginning without a gap.
    in_order: u64,
    /// The hasher has seen what was erased later.
    misled: bool,
    /// Where the last byte ends that came so far.
    end: u64,
    block: Block,
}

impl Unfinished {
    /// Begins, or goes on from what an earlier try has left.
    pub(super) fn open(disk: RealDisk, hash: ContentHash) -> io::Result<Self> {
        let StageName(name) = part_name(hash);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file: File = rustix::fs::openat(&disk.0.staging, &name, flags, Mode::from_raw_mode(0o600))?.into();
        let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let direct = rustix::fs::openat(&disk.0.staging, &name, flags, Mode::empty()).ok().map(File::from);
        let mut hasher = disk.new_hasher();
        let in_order = disk.pour(&mut file, &mut hasher, None)?;
        Ok(Self { disk, hash, file, hasher, in_order, misled: false, end: in_order, block: Block::new(direct) })
    }

    /// Bytes that are there from the beginning without a gap.
    pub fn in_order(&self) -> u64 {
        self.in_order
    }

    /// Forgets all that is there.
    pub fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.hasher.reset();
        self.block.filled = 0;
        (self.in_order, self.end, self.misled) = (0, 0, false);
        Ok(())
    }

    /// Takes away what was written to a part, which is to come again.
    pub fn erase(&mut self, at: u64, len: u64) -> io::Result<()> {
        self.block.spill(&self.file)?;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(&self.file, punch, at, len).is_err() {
            let zeros = vec![0; BLOCK];
            let mut done = 0;
            while done < len {
                let step = (len - done).min(BLOCK as u64);
                self.file.write_all_at(&zeros[..usize::try_from(step).expect("at most a block")], at + done)?;
                done += step;
            }
        }
        if at < self.in_order {
            (self.in_order, self.misled) = (at, true);
        }
        Ok(())
    }

    /// Fails with `StorageFull` where there is no room for so many bytes more.
    pub fn expect(&self, bytes: u64) -> io::Result<()> {
        if bytes <= self.disk.room()? { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    /// Leaves a hole.
    pub fn skip(&mut self, len: u64, at: u64) -> io::Result<()> {
        let end = at.checked_add(len).ok_or(io::ErrorKind::FileTooLarge)?;
        if at == self.in_order && !self.misled {
            let zeros = [0; 64 << 10];
            let mut left = len;
            while left > 0 {
                let step = left.min(zeros.len() as u64);
                self.hasher.update(&zeros[..usize::try_from(step).expect("less than a block")]);
                left -= step;
            }
            self.in_order = end;
        }
        self.end = self.end.max(end);
        Ok(())
    }

    /// Writes a piece to its place.
    pub fn write(&mut self, piece: &[u8], at: u64) -> io::Result<()> {
        if self.block.unasked >= UNASKED {
            self.expect(UNASKED)?;
            self.block.unasked = 0;
        }
        self.block.write(&self.file, piece, at)?;
        if at == self.in_order && !self.misled {
            self.hasher.update(piece);
            self.in_order += piece.len() as u64;
        }
        self.end = self.end.max(at + piece.len() as u64);
        Ok(())
    }

    /// Verifies the content and makes it durable; gives its name in staging, `None` if it is not what it is called.
    pub fn finish(mut self, size: u64) -> io::Result<Option<StageName>> {
        self.block.spill(&self.file)?;
        // What is whole already may be on its way to its place, with its own time.
        if self.file.metadata()?.len() != size {
            self.file.set_len(size)?;
        }
        if self.in_order != size {
            self.hasher.reset();
            io::Seek::rewind(&mut self.file)?;
            self.in_order = self.disk.pour(&mut self.file, &mut self.hasher, None)?;
        }
        let name = part_name(self.hash);
        if self.hasher.finalize() != self.hash.0 {
            self.disk.discard(&name)?;
            return Ok(None);
        }
        self.file.sync_data()?;
        Ok(Some(name))
    }
}

impl Drop for Unfinished {
    /// Leaves what is there without a gap, for a length with holes before it would not say how much that is.
    fn drop(&mut self) {
        let written = self.block.spill(&self.file).is_ok();
        let there = if written { self.in_order } else { self.in_order.min(self.block.at) };
        if self.file.metadata().is_ok_and(|stat| stat.len() != there) {
            // What cannot be cut off is found out by its hash, and brought again.
            let _ = self.file.set_len(there);
        }
    }
}

/// Bytes that wait to be written together.
struct Block {
    /// The file, opened to be written around the page cache; `None` where that cannot be.
    direct: Option<File>,
    /// Has the block in it, at the first aligned address.
    room: Vec<u8>,
    /// Where the block begins in the file.
    at: u64,
    filled: usize,
    /// Bytes written since it was asked whether there is room.
    unasked: u64,
}

impl Block {
    fn new(direct: Option<File>) -> Self {
        Self { direct, room: vec![0; BLOCK + ALIGNMENT], at: 0, filled: 0, unasked: 0 }
    }

    fn write(&mut self, file: &File, mut piece: &[u8], at: u64) -> io::Result<()> {
        if at != self.at + self.filled as u64 {
            self.spill(file)?;
            self.at = at;
        }
        while !piece.is_empty() {
            // The first block is shorter, and ends where an aligned one can begin.
            let off = usize::try_from(self.at % ALIGNMENT as u64).expect("less than a block");
            let (start, limit) = (self.room.as_ptr().align_offset(ALIGNMENT), BLOCK - off);
            let (now, later) = piece.split_at(piece.len().min(limit - self.filled));
            self.room[start + self.filled..][..now.len()].copy_from_slice(now);
            self.filled += now.len();
            piece = later;
            if self.filled == limit {
                self.spill(file)?;
            }
        }
        Ok(())
    }

    /// Writes what there is. Zeros are left out: nothing was ever written where they belong, and the length is set in the
    /// end.
    fn spill(&mut self, file: &File) -> io::Result<()> {
        let start = self.room.as_ptr().align_offset(ALIGNMENT);
        let block = &self.room[start..][..self.filled];
        if block.iter().all(|&byte| byte == 0) {
            self.at += self.filled as u64;
            self.filled = 0;
            return Ok(());
        }
        self.unasked += self.filled as u64;
        let aligned = self.filled == BLOCK && self.at.is_multiple_of(ALIGNMENT as u64);
        if let Some(direct) = self.direct.as_ref().filter(|_| aligned)
            && direct.write_all_at(block, self.at).is_err()
        {
            // A file system that cannot do this after all; what else is wrong shows at once.
            self.direct = None;
        }
        if self.direct.is_none() || !aligned {
            file.write_all_at(block, self.at)?;
        }
        self.at += self.filled as u64;
        self.filled = 0;
        Ok(())
    }
}
