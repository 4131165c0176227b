//! Images of SQLite databases that are in use.
//!
//! The person's files are only read, and never through SQLite, which makes files beside a database, and removes them when
//! it closes. Instead the database and its log are copied into staging, in an order in which the copy
//! holds together, and SQLite does its usual recovery on the copy: what is committed in the log goes into the
//! database, what was not committed goes out of it. So the image has the very bytes that the database itself will
//! have when its last user closes it. Where that order does not help, as a journal is written without pause, those who
//! write are kept waiting for as long as the copy takes, by the locks that SQLite itself uses.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use rustix::fs::{Mode, OFlags};
use syncd_core::database::{COMPANIONS, VITAL, may_be, with_log};
use syncd_core::disk::{Content, Kind, StageName, Stat};
use syncd_lease::{is_written, lock};

use super::{RealDisk, image, statx};

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// First bytes of a rollback journal that is to be rolled back.
const HOT: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// Bytes of a log's header, which is another one each time that the log begins anew.
const WAL_HEADER: usize = 32;
/// The bytes by which those who have a database open agree: who waits to write there, who is about to, and who reads.
const PENDING: Range<i64> = 0x4000_0000..0x4000_0001;
const RESERVED: Range<i64> = 0x4000_0001..0x4000_0002;
const SHARED: Range<i64> = 0x4000_0002..0x4000_0200;
/// How long to wait for a moment in which nobody is writing.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long until asking again.
const BETWEEN: Duration = Duration::from_millis(1);
/// The longest that those who write are kept waiting.
const LONGEST: Duration = Duration::from_secs(1);

/// What a database holds that is in use; `None` where a file's own bytes are what it holds.
pub(super) fn content(disk: &RealDisk, path: &[u8], (file, size): (&mut File, u64)) -> io::Result<Option<Content>> {
    if !is_database(file, size) {
        return Ok(None);
    }
    let (dir, name) = disk.parent(path)?;
    let mut wal = beside(&dir, name, COMPANIONS[0])?;
    let mut journal = beside(&dir, name, COMPANIONS[1])?.filter(is_hot);
    if wal.is_none() && journal.is_none() && !is_written(file) {
        return Ok(None);
    }
    image::make(disk, |making| make(disk, making, file, wal.as_mut(), journal.as_mut()))
}

/// What a database holds at this moment, though its journal never rests; `None` for what is none. Those who write to it
/// are kept waiting while it is copied, as by any program that reads it.
pub(super) fn committed(disk: &RealDisk, path: &[u8], (file, size): (&mut File, u64)) -> io::Result<Option<Content>> {
    if !is_database(file, size) {
        return Ok(None);
    }
    let (dir, name) = disk.parent(path)?;
    if beside(&dir, name, COMPANIONS[0])?.is_some() {
        return content(disk, path, (file, size));
    }
    let patience = Instant::now() + PATIENCE;
    while !shared(file)? {
        if Instant::now() > patience {
            return Err(ErrorKind::ResourceBusy.into());
        }
        std::thread::sleep(BETWEEN);
    }
    // The journal of one who is about to write has nothing in it that the database lacks: to write there, they need it
    // alone. A journal that nobody claims was left by a program that was killed.
    let claimed = lock::is_taken(file, RESERVED)?;
    let journal = beside(&dir, name, COMPANIONS[1])?.filter(|journal| is_hot(journal) && !claimed);
    let deadline = Some(Instant::now() + LONGEST);
    image::make(disk, |making| {
        image::copy(disk, file, &making.0, deadline)?;
        if let Some(journal) = &journal {
            image::copy(disk, journal, &format!("{}{}", making.0, COMPANIONS[1]), deadline)?;
        }
        lock::give_up(file, SHARED)?;
        Ok(recover(disk, making).is_ok())
    })
}

/// Takes the lock of one who reads a database. Gives whether nobody was writing.
fn shared(file: &File) -> io::Result<bool> {
    if !lock::share(file, PENDING)? {
        return Ok(false);
    }
    let shared = lock::share(file, SHARED);
    lock::give_up(file, PENDING)?;
    shared
}

fn is_database(file: &File, size: u64) -> bool {
    let mut head = [0; MAGIC.len()];
    may_be(size) && file.read_exact_at(&mut head, 0).is_ok() && head == *MAGIC
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
        image::copy(disk, file, &making.0, None)?;
        image::copy(disk, wal, &format!("{}{}", making.0, COMPANIONS[0]), None)?;
        if before.is_none() || before != wal_header(wal) {
            return Err(ErrorKind::ResourceBusy.into());
        }
    } else if let Some(journal) = journal {
        // The database is written in place, and the journal goes when that is through: neither may have changed.
        let before = (stat(disk, file)?, stat(disk, journal)?);
        image::copy(disk, file, &making.0, None)?;
        image::copy(disk, journal, &format!("{}{}", making.0, COMPANIONS[1]), None)?;
        if before != (stat(disk, file)?, stat(disk, journal)?) {
            return Err(ErrorKind::ResourceBusy.into());
        }
    } else {
        // Its next commit may be nearer than the peer who asks for it.
        let before = stat(disk, file)?;
        image::copy(disk, file, &making.0, None)?;
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
