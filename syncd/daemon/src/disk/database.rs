//! Images of SQLite databases that are in use.
//!
//! The person's files are only read, and never through SQLite, which takes locks, makes files beside a database, and
//! removes them when it closes. Instead the database and its log are copied into staging, in an order in which the copy
//! holds together, and SQLite does its usual recovery on the copy: what is committed in the log goes into the
//! database, what was not committed goes out of it. So the image has the very bytes that the database itself will
//! have when its last user closes it.

use std::fs::File;
use std::io::{self, ErrorKind, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use rusqlite::{Connection, OpenFlags};
use rustix::fs::{AtFlags, Mode, OFlags};
use syncd_core::database::{COMPANIONS, VITAL, image_name, may_be, with_log};
use syncd_core::disk::{Content, Kind, StageName, Stat};

use super::{RealDisk, statx};
use syncd_lease::is_written;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// First bytes of a rollback journal that is to be rolled back.
const HOT: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// Bytes of a log's header, which is another one each time that the log begins anew.
const WAL_HEADER: usize = 32;
/// Prefix of images in the making.
pub(super) const MAKING: &str = "image-new-";

/// What a database holds that is in use; `None` where a file's own bytes are what it holds.
pub(super) fn content(disk: &RealDisk, path: &[u8], file: &mut File) -> io::Result<Option<Content>> {
    let mut head = [0; MAGIC.len()];
    if !may_be(file.metadata()?.len()) || file.read_exact_at(&mut head, 0).is_err() || head != *MAGIC {
        return Ok(None);
    }
    let (dir, name) = disk.parent(path)?;
    let mut wal = beside(&dir, name, COMPANIONS[0])?;
    let mut journal = beside(&dir, name, COMPANIONS[1])?.filter(is_hot);
    if wal.is_none() && journal.is_none() && !is_written(file) {
        return Ok(None);
    }
    let number = disk.0.brought.fetch_add(1, Ordering::Relaxed);
    let making = StageName(format!("{MAKING}{number}"));
    let made = make(disk, &making, file, wal.as_mut(), journal.as_mut());
    let content = match made {
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

/// Copies a database with what belongs to it, and brings the copy in order. Gives whether it is a database at all.
fn make(
    disk: &RealDisk,
    making: &StageName,
    file: &mut File,
    wal: Option<&mut File>,
    journal: Option<&mut File>,
) -> io::Result<bool> {
    if let Some(wal) = wal {
        // What a checkpoint writes into the database while it is copied is in the log as well, as long as that is the same
        // log: the log comes second, and what it holds covers what the copy may have half of.
        let before = wal_header(wal);
        copy(disk, file, &making.0)?;
        copy(disk, wal, &format!("{}{}", making.0, COMPANIONS[0]))?;
        if before.is_none() || before != wal_header(wal) {
            return Err(ErrorKind::ResourceBusy.into());
        }
    } else if let Some(journal) = journal {
        // The database is written in place, and the journal goes when that is through: neither may have changed.
        let before = (stat(disk, file)?, stat(disk, journal)?);
        copy(disk, file, &making.0)?;
        copy(disk, journal, &format!("{}{}", making.0, COMPANIONS[1]))?;
        if before != (stat(disk, file)?, stat(disk, journal)?) {
            return Err(ErrorKind::ResourceBusy.into());
        }
    } else {
        // Its next commit may be nearer than the peer who asks for it.
        let before = stat(disk, file)?;
        copy(disk, file, &making.0)?;
        if before != stat(disk, file)? {
            return Err(ErrorKind::ResourceBusy.into());
        }
    }
    Ok(recover(disk, making).is_ok())
}

/// Lets SQLite recover a copy, as whoever opens the database next would.
fn recover(disk: &RealDisk, making: &StageName) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(disk.0.staging_path.join(&making.0), flags)?;
    // Nobody else knows of the copy, so its log needs no shared memory.
    database.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    database.pragma_query_value(None, "schema_version", |row| row.get::<_, i64>(0))?;
    database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    database.close().map_err(|(_, error)| error)
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

/// A file that belongs to a database and holds something.
fn beside(dir: &OwnedFd, name: &[u8], ending: &str) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let name = [name, ending.as_bytes()].concat();
    match rustix::fs::openat(dir, name, flags, Mode::empty()).map(File::from) {
        Ok(file) => Ok(Some(file).filter(|file| file.metadata().is_ok_and(|stat| stat.is_file() && stat.len() > 0))),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_hot(journal: &File) -> bool {
    let mut head = [0; HOT.len()];
    journal.read_exact_at(&mut head, 0).is_ok() && head == HOT
}

fn wal_header(wal: &File) -> Option<[u8; WAL_HEADER]> {
    let mut header = [0; WAL_HEADER];
    wal.read_exact_at(&mut header, 0).ok().map(|()| header)
}

fn stat(disk: &RealDisk, file: &File) -> io::Result<Stat> {
    Ok(disk.stat_of(&statx(file.as_fd(), b"")?))
}

/// Copies a whole file into staging, by reference where the file system can.
fn copy(disk: &RealDisk, from: &mut File, name: &str) -> io::Result<()> {
    let mut into = disk.new_staged(&StageName(name.to_owned()))?;
    if rustix::fs::ioctl_ficlone(&into, &*from).is_err() {
        from.rewind()?;
        disk.digest(from, Some(&mut into))?;
    }
    Ok(())
}

impl RealDisk {
    /// Counts among the changes of a database those of the logs that it is not whole without.
    pub(super) fn with_logs(&self, dir: &OwnedFd, name: &[u8], mut own: Stat) -> Stat {
        if own.kind == Kind::File && may_be(own.size) {
            for ending in &COMPANIONS[..VITAL] {
                if let Ok(log) = self.stat_at(dir, &[name, ending.as_bytes()].concat())
                    && log.size > 0
                {
                    own.ctime = with_log(own.ctime, log.ctime);
                }
            }
        }
        own
    }
}
