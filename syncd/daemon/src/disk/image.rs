//! Images in staging: copies of files that are written all the time, as the contents of versions.
//!
//! A copy is taken by reference where the file system can, which is one moment of the file. Elsewhere it is read from the
//! beginning to where the file ended when that began: of a file that only grows, what it was at that moment.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::Ordering;
use std::time::Instant;

use hearth_schemas::wire::Run;
use rustix::fs::{AtFlags, Mode, OFlags};
use syncd_core::database::{COMPANIONS, image_name};
use syncd_core::disk::{Content, StageName};

use super::{BLOCK, BLOCK_BUFFER, RealDisk, database};
use crate::runs::runs_of;

/// Prefix of images in the making.
pub(super) const MAKING: &str = "image-new-";
/// Bytes of one file in a unit of what it takes on the disk, as the system tells it.
const UNIT: u64 = 512;

/// What a file holds that is written without pause.
pub(super) fn copied(disk: &RealDisk, path: &[u8]) -> io::Result<Content> {
    let (mut file, size) = disk.open_file(path)?;
    if let Some(content) = database::committed(disk, path, (&mut file, size))? {
        return Ok(content);
    }
    let made = make(disk, |making| copy(disk, &file, &making.0, None).map(|()| true))?;
    made.ok_or_else(|| ErrorKind::ResourceBusy.into())
}

/// Makes an image, and gives it its name; `None` where `fill` finds that there is none to make.
pub(super) fn make(disk: &RealDisk, fill: impl FnOnce(&StageName) -> io::Result<bool>) -> io::Result<Option<Content>> {
    let number = disk.0.brought.fetch_add(1, Ordering::Relaxed);
    let making = StageName(format!("{MAKING}{number}"));
    let content = match fill(&making) {
        Ok(true) => keep(disk, &making).map(Some),
        Ok(false) => Ok(None),
        Err(error) => Err(error),
    };
    for ending in ["", COMPANIONS[0], COMPANIONS[1], COMPANIONS[2]] {
        // What is left over is cleared at the next start.
        let _ = rustix::fs::unlinkat(&disk.0.staging, format!("{}{ending}", making.0), AtFlags::empty());
    }
    content
}

/// Hashes an image, makes it durable, and gives it its name.
fn keep(disk: &RealDisk, making: &StageName) -> io::Result<Content> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut image: File = rustix::fs::openat(&disk.0.staging, &making.0, flags, Mode::empty())?.into();
    let (hash, size) = disk.digest(&mut image, None)?;
    image.sync_all()?;
    rustix::fs::renameat(&disk.0.staging, &making.0, &disk.0.staging, &image_name(hash).0)?;
    rustix::fs::fsync(&disk.0.staging)?;
    Ok(Content { hash, size, written: false, image: true })
}

/// Copies a file into staging as it stands, holes as holes. Fails with `ResourceBusy` where that takes longer than until
/// the `deadline`.
pub(super) fn copy(disk: &RealDisk, from: &File, name: &str, deadline: Option<Instant>) -> io::Result<()> {
    let into = disk.new_staged(&StageName(name.to_owned()))?;
    if rustix::fs::ioctl_ficlone(&into, from).is_ok() {
        return Ok(());
    }
    let stat = from.metadata()?;
    if stat.len().min(stat.blocks().saturating_mul(UNIT)) > disk.room()? {
        return Err(ErrorKind::StorageFull.into());
    }
    let mut at = 0;
    BLOCK_BUFFER.with_borrow_mut(|block| {
        for run in runs_of(from, 0, stat.len())? {
            let Run::Data(len) = run else {
                at += run.len();
                continue;
            };
            let end = at + len;
            while at < end {
                if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                    return Err(ErrorKind::ResourceBusy.into());
                }
                let most = usize::try_from(end - at).unwrap_or(BLOCK).min(BLOCK);
                match from.read_at(&mut block[..most], at) {
                    // It has become shorter meanwhile.
                    Ok(0) => return into.set_len(at),
                    Ok(read) => {
                        into.write_all_at(&block[..read], at)?;
                        at += read as u64;
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        into.set_len(at)
    })
}
