//! Takes in contents that peers send: verifies each, writes it into staging, and makes many durable with one flush.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::Ordering;

use hearth_schemas::ids::ContentHash;
use syncd_core::disk::{Disk, StageName};

use super::{FEW, RealDisk, WHOLE};

/// Contents that lie in staging and are not durable yet. What is dropped unfinished leaves nothing there.
pub struct Bringing {
    disk: RealDisk,
    brought: Vec<(ContentHash, io::Result<Option<StageName>>)>,
    bytes: usize,
    /// Bytes that there is room for, as far as that is known.
    room: Option<u64>,
    /// The first few, to be made durable one by one if no more come.
    files: Vec<File>,
}

impl Bringing {
    pub(super) fn new(disk: RealDisk) -> Self {
        Self { disk, brought: Vec::new(), bytes: 0, room: None, files: Vec::new() }
    }

    /// Number and bytes of the contents so far.
    pub fn size(&self) -> (usize, usize) {
        (self.brought.len(), self.bytes)
    }

    /// Puts a content into staging, if it is what it is called.
    pub fn add(&mut self, hash: ContentHash, bytes: &[u8]) {
        let result = self.write(hash, bytes);
        self.bytes += bytes.len();
        self.brought.push((hash, result));
    }

    /// Makes all durable; gives the name of each in staging, `None` for what is not what it is called.
    pub fn finish(mut self) -> Vec<(ContentHash, io::Result<Option<StageName>>)> {
        let few = self.brought.len() <= FEW;
        let durable = if few { self.files.iter().try_for_each(File::sync_data) } else { self.disk.flush_together() };
        if let Err(error) = durable {
            self.discard();
            for (_, result) in &mut self.brought {
                *result = Err(error.kind().into());
            }
        }
        std::mem::take(&mut self.brought)
    }

    fn write(&mut self, hash: ContentHash, bytes: &[u8]) -> io::Result<Option<StageName>> {
        if blake3::keyed_hash(&self.disk.0.content_key, bytes) != hash.0 {
            return Ok(None);
        }
        let room = match self.room {
            Some(room) => room,
            None => self.disk.room()?,
        };
        let left = room.checked_sub(bytes.len() as u64);
        self.room = Some(left.unwrap_or(room));
        if left.is_none() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let number = self.disk.0.brought.fetch_add(1, Ordering::Relaxed);
        let name = StageName(format!("{WHOLE}{number}-{hash}"));
        let mut file = self.disk.new_staged(&name)?;
        if let Err(error) = file.write_all(bytes) {
            // What could not be finished only takes room.
            let _ = self.disk.discard(&name);
            return Err(error);
        }
        if self.brought.len() < FEW {
            self.files.push(file);
        }
        Ok(Some(name))
    }

    fn discard(&mut self) {
        for (_, result) in &self.brought {
            if let Ok(Some(name)) = result {
                // What is not durable must not be put in place, and else only takes room.
                let _ = self.disk.discard(name);
            }
        }
    }
}

impl Drop for Bringing {
    fn drop(&mut self) {
        self.discard();
    }
}
