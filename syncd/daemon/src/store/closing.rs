//! A note beside the index that it was closed in order, so that it need not be checked when it is opened.
//!
//! The note tells the file by its inode, size and times: whatever has written to it since has changed them. It is gone, durably, before
//! anything is written to the index, and a process that ends in any other way leaves none. Where there is no such note, or
//! the last check was long ago, all of the index is checked. Another note says that it was found damaged at work.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::with_ending;

/// For so long a note stands for a check, in seconds: nothing else finds what a disk has forgotten by itself.
const GOOD: u64 = 7 * 24 * 3600;
/// What is noted of an index that was found damaged.
const DAMAGED: &str = "damaged";

/// What is known of an index before it is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// It is as it was closed in order, and was checked then, in seconds since 1970.
    Closed(u64),
    /// Nothing.
    Unknown,
    /// It was found damaged.
    Damaged,
}

/// Notes that the index was closed in order, when this is dropped after it.
pub(super) struct Closing {
    index: PathBuf,
    /// When all of it was checked, in seconds since 1970.
    checked: u64,
}

impl Found {
    /// Reads the note of an index, and takes it away.
    pub(super) fn take(index: &Path) -> io::Result<Self> {
        let note = note_of(index);
        let text = match std::fs::read_to_string(&note) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::Unknown),
            Err(error) => return Err(error),
        };
        if text == DAMAGED {
            // It stays until the index has been moved away.
            return Ok(Self::Damaged);
        }
        std::fs::remove_file(&note)?;
        flush_dir(index)?;
        let unfinished = with_ending(index, "-wal").exists();
        let (is, checked) = text.split_once(' ').unwrap_or_default();
        let same = std::fs::metadata(index).is_ok_and(|found| key_of(&found) == is);
        let checked = checked.parse().ok().filter(|checked| same && !unfinished && is_recent(*checked));
        Ok(checked.map_or(Self::Unknown, Self::Closed))
    }

    /// The note is dealt with: the index that was found damaged has gone.
    pub(super) fn forget(index: &Path) -> io::Result<()> {
        match std::fs::remove_file(note_of(index)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Notes that an index was found damaged, so that it is moved aside and begun anew when it is opened next.
pub fn distrust(index: &Path) -> io::Result<()> {
    std::fs::write(note_of(index), DAMAGED)?;
    flush_dir(index)
}

impl Closing {
    /// Of an index that is open and was checked then, or is checked at this moment.
    pub(super) fn new(index: &Path, checked: Option<u64>) -> Self {
        Self { index: index.to_owned(), checked: checked.unwrap_or_else(now) }
    }

    /// As [`distrust`].
    pub(super) fn distrust(&self) -> io::Result<()> {
        distrust(&self.index)
    }

    fn note(&self) -> io::Result<()> {
        if with_ending(&self.index, "-wal").exists() || note_of(&self.index).exists() {
            return Ok(());
        }
        let key = key_of(&std::fs::metadata(&self.index)?);
        // Should it not last, the index is checked.
        std::fs::write(note_of(&self.index), format!("{key} {}", self.checked))
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Err(error) = self.note() {
            tracing::debug!(%error, "the index will be checked at the next start");
        }
    }
}

fn note_of(index: &Path) -> PathBuf {
    with_ending(index, "-closed")
}

/// All that changes when anybody writes to a file.
fn key_of(found: &Metadata) -> String {
    let (inode, size) = (found.ino(), found.len());
    let modified = (found.mtime(), found.mtime_nsec());
    let changed = (found.ctime(), found.ctime_nsec());
    format!("{inode}:{size}:{}.{:09}:{}.{:09}", modified.0, modified.1, changed.0, changed.1)
}

fn is_recent(checked: u64) -> bool {
    now().checked_sub(checked).is_some_and(|age| age < GOOD)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn flush_dir(index: &Path) -> io::Result<()> {
    File::open(index.parent().unwrap_or(Path::new(".")))?.sync_all()
}
