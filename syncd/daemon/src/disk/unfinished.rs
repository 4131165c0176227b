//! A large content while it is put together in staging: hashed as it comes, so that the last byte finds it verified,
//! and gone on with after a break.
//!
//! It is written around the page cache where the file system can: what a person was just working with stays in
//! memory, copying costs nothing, and little is left to wait for when it is made durable. A thread of its own waits for
//! the disk, while the next block is read, verified and hashed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, channel};

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
        // Whatever becomes of what is under way, it is cut off.
        let _ = self.block.wait(&self.file);
        self.file.set_len(0)?;
        self.hasher.reset();
        (self.block.filled, self.block.lost) = (0, None);
        (self.in_order, self.end, self.misled) = (0, 0, false);
        Ok(())
    }

    /// Takes away what was written to a part, which is to come again.
    pub fn erase(&mut self, at: u64, len: u64) -> io::Result<()> {
        self.block.settle(&self.file)?;
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
        self.block.settle(&self.file)?;
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
        let written = self.block.settle(&self.file).is_ok();
        let there = if written { self.in_order } else { self.in_order.min(self.block.written_upto()) };
        if self.file.metadata().is_ok_and(|stat| stat.len() != there) {
            // What cannot be cut off is found out by its hash, and brought again.
            let _ = self.file.set_len(there);
        }
    }
}

/// Bytes that wait to be written together.
struct Block {
    /// The file, opened to be written around the page cache, until it is known that there is so much to write.
    direct: Option<File>,
    /// Who writes to it then; `None` where that cannot be.
    writer: Option<Writer>,
    /// Has the block in it, at the first aligned address.
    room: Vec<u8>,
    /// Where the block begins in the file.
    at: u64,
    filled: usize,
    /// Bytes written since it was asked whether there is room.
    unasked: u64,
    /// Where the first block begins that could not be written.
    lost: Option<u64>,
}

impl Block {
    fn new(direct: Option<File>) -> Self {
        Self { direct, writer: None, room: new_room(), at: 0, filled: 0, unasked: 0, lost: None }
    }

    fn write(&mut self, file: &File, mut piece: &[u8], at: u64) -> io::Result<()> {
        if at != self.at + self.filled as u64 {
            self.spill(file)?;
            self.at = at;
        }
        while !piece.is_empty() {
            // The first block is shorter, and ends where an aligned one can begin.
            let off = usize::try_from(self.at % ALIGNMENT as u64).expect("less than a block");
            let (start, limit) = (start_of(&self.room), BLOCK - off);
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

    /// Writes what there is, or has it written. Zeros are left out: nothing was ever written where they belong, and the
    /// length is set in the end.
    fn spill(&mut self, file: &File) -> io::Result<()> {
        let (at, filled) = (self.at, std::mem::take(&mut self.filled));
        self.at += filled as u64;
        let start = start_of(&self.room);
        if self.room[start..][..filled].iter().all(|&byte| byte == 0) {
            return Ok(());
        }
        self.unasked += filled as u64;
        self.wait(file)?;
        if filled == BLOCK && at.is_multiple_of(ALIGNMENT as u64) {
            if let Some(direct) = self.direct.take() {
                self.writer = Writer::begin(direct);
            }
            if let Some(writer) = &mut self.writer {
                self.room = writer.write(std::mem::take(&mut self.room), at);
                return Ok(());
            }
        }
        self.through_cache(file, start, filled, at)
    }

    /// Waits for what is being written.
    fn wait(&mut self, file: &File) -> io::Result<()> {
        match self.writer.as_mut().and_then(Writer::wait) {
            None => Ok(()),
            Some(Unwritten { block: Some(block), at }) => {
                // A file system that cannot do this after all; what else is wrong shows at once.
                self.writer = None;
                let open = std::mem::replace(&mut self.room, block);
                let written = self.through_cache(file, start_of(&self.room), BLOCK, at);
                self.room = open;
                written
            }
            Some(Unwritten { block: None, at }) => {
                self.writer = None;
                self.lost.get_or_insert(at);
                Err(io::Error::other("a writing thread ended"))
            }
        }
    }

    fn through_cache(&mut self, file: &File, start: usize, len: usize, at: u64) -> io::Result<()> {
        let written = file.write_all_at(&self.room[start..][..len], at);
        if written.is_err() {
            self.lost.get_or_insert(at);
        }
        written
    }

    /// Writes all that there is, and waits until that is done.
    fn settle(&mut self, file: &File) -> io::Result<()> {
        self.spill(file)?;
        self.wait(file)
    }

    /// Up to where all was written that came before the block.
    fn written_upto(&self) -> u64 {
        self.lost.map_or(self.at, |lost| lost.min(self.at))
    }
}

fn new_room() -> Vec<u8> {
    vec![0; BLOCK + ALIGNMENT]
}

/// Where a block begins in its room.
fn start_of(room: &[u8]) -> usize {
    room.as_ptr().align_offset(ALIGNMENT)
}

/// Writes whole blocks around the page cache, one at a time, on a thread of its own.
struct Writer {
    blocks: Sender<(Vec<u8>, u64)>,
    written: Receiver<(Vec<u8>, io::Result<()>)>,
    /// Where the block belongs that is being written.
    busy: Option<u64>,
    spare: Option<Vec<u8>>,
}

/// A block that was not written; `None` if it is lost with its thread.
struct Unwritten {
    block: Option<Vec<u8>>,
    at: u64,
}

impl Writer {
    /// `None` where there is no thread to be had.
    fn begin(file: File) -> Option<Self> {
        let (blocks, to_write) = channel::<(Vec<u8>, u64)>();
        let (done, written) = channel();
        let run = move || {
            for (room, at) in to_write {
                let result = file.write_all_at(&room[start_of(&room)..][..BLOCK], at);
                if done.send((room, result)).is_err() {
                    break;
                }
            }
        };
        std::thread::Builder::new().name("writer".to_owned()).spawn(run).ok()?;
        Some(Self { blocks, written, busy: None, spare: None })
    }

    /// Has a block written, none of which may be under way; gives room for the next one.
    fn write(&mut self, room: Vec<u8>, at: u64) -> Vec<u8> {
        self.busy = Some(at);
        // If nobody takes it, nobody answers for it either.
        let _ = self.blocks.send((room, at));
        self.spare.take().unwrap_or_else(new_room)
    }

    /// Waits until the block is written; gives it if it could not be.
    fn wait(&mut self) -> Option<Unwritten> {
        let at = self.busy.take()?;
        match self.written.recv() {
            Ok((room, Ok(()))) => {
                self.spare = Some(room);
                None
            }
            Ok((room, Err(_))) => Some(Unwritten { block: Some(room), at }),
            Err(_) => Some(Unwritten { block: None, at }),
        }
    }
}
