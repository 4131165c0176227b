//! What a SQLite database is by its first bytes, and which files beside it belong to it.
//!
//! A database in use is more than its file: what was committed last may stand in `NAME-wal` alone, and what was not
//! committed in `NAME` and `NAME-journal`. These never travel. The [`Disk`] reads such a database as one image of what is
//! committed; that is the content of its version. Decision 25 says what is done with this, and why.

use hearth_schemas::ids::ContentHash;
use hearth_schemas::item::FileTime;

use crate::disk::{Disk, Handle, Kind, Source, StageName, Stat};

/// First bytes of a database.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// First bytes of a write-ahead log, but for the last bit.
const WAL_MAGIC: [u8; 4] = [0x37, 0x7f, 0x06, 0x82];
/// First bytes of a rollback journal.
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// First bytes of the shared memory of a write-ahead log, in the order of this machine.
const SHM_MAGIC: [u8; 4] = 3_007_000u32.to_ne_bytes();
/// Endings of the names of files that belong to a database, those without which it is not whole first.
pub const COMPANIONS: [&str; 3] = ["-wal", "-journal", "-shm"];
/// How many of them a database is not whole without.
pub const VITAL: usize = 2;
/// Prefix of the names of images in staging.
const IMAGE: &str = "image-";

/// Whether a file of this size may be a database: those consist of pages.
pub fn may_be(size: u64) -> bool {
    size > 0 && size.is_multiple_of(512)
}

/// Whether a file begins as a database does.
pub fn is_database<D: Disk>(disk: &mut D, source: &Source, size: u64) -> bool {
    may_be(size) && disk.head(source, MAGIC.len()).is_ok_and(|head| head == MAGIC)
}

/// The path of the database that a file belongs to by its name.
pub fn owner_of(path: &[u8]) -> Option<&[u8]> {
    let owner = COMPANIONS.iter().find_map(|ending| path.strip_suffix(ending.as_bytes()))?;
    (owner.last().is_some_and(|&last| last != b'/')).then_some(owner)
}

/// Whether a file belongs to a database that stands beside it, or to one that is about to be made, is gone, or has left its
/// name to something else.
pub fn is_companion<D: Disk>(disk: &mut D, path: &[u8], stat: &Stat) -> bool {
    let Some(owner) = owner_of(path).filter(|_| stat.kind == Kind::File) else { return false };
    if let Ok(Some(owner_stat)) = disk.stat(owner)
        && owner_stat.kind == Kind::File
        && (owner_stat.size == 0 || is_database(disk, &Source::Copy(owner.to_vec()), owner_stat.size))
    {
        return true;
    }
    let head = disk.head(&Source::Copy(path.to_vec()), JOURNAL_MAGIC.len()).unwrap_or_default();
    let mut wal = head.clone();
    wal.truncate(WAL_MAGIC.len());
    if let Some(last) = wal.last_mut() {
        *last &= 0xfe;
    }
    head == JOURNAL_MAGIC || wal == WAL_MAGIC || head.starts_with(&SHM_MAGIC)
}

/// Whether a database at a path is not whole without what stands beside it.
pub fn has_log<D: Disk>(disk: &mut D, path: &[u8]) -> std::io::Result<bool> {
    for ending in &COMPANIONS[..VITAL] {
        if disk.stat(&[path, ending.as_bytes()].concat())?.is_some_and(|stat| stat.size > 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The status change time of a database, in which that of a log counts as well, whichever of the two is later: clocks are
/// set back. It is told from any other, and says nothing of when.
pub fn with_log(database: FileTime, log: FileTime) -> FileTime {
    let nanos = (database.nanos + log.nanos) % 1_000_000_000;
    FileTime { secs: database.secs.wrapping_add(log.secs), nanos }
}

/// The name in staging of the image that is a content.
pub fn image_name(hash: ContentHash) -> StageName {
    StageName(format!("{IMAGE}{hash}"))
}

/// The content that an image in staging is, by its name.
pub fn image_of(name: &str) -> Option<ContentHash> {
    name.strip_prefix(IMAGE).and_then(ContentHash::parse)
}

/// Whether a name in staging is that of an image, or of one in the making.
pub fn is_image(name: &str) -> bool {
    name.starts_with(IMAGE)
}

/// The name in staging of what belongs to a database that is displaced under `name`. It tells whose it is, so that it finds
/// its way back if the database was not displaced after all.
pub fn aside_name(name: &StageName, database: Handle, ending: &str) -> StageName {
    StageName(format!("{}.{:x}.{:x}{ending}", name.0, database.inode, database.born))
}

/// The database that something was set aside for, and its ending.
pub fn set_aside_for(name: &StageName) -> Option<(Handle, &'static str)> {
    let ending = COMPANIONS.into_iter().find(|ending| name.0.ends_with(ending))?;
    let mut parts = name.0.strip_suffix(ending)?.split('.').skip(1);
    let inode = u64::from_str_radix(parts.next()?, 16).ok()?;
    let born = i64::from_str_radix(parts.next()?, 16).ok()?;
    Some((Handle { inode, born }, ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_database_is_known_by_its_name() {
        let cases: [(&[u8], Option<&[u8]>); 6] = [
            (b"dir/x.db-wal", Some(b"dir/x.db")),
            (b"x-shm", Some(b"x")),
            (b"x.db-journal", Some(b"x.db")),
            (b"dir/-wal", None),
            (b"x.db", None),
            (b"x.db-wal2", None),
        ];
        for (path, owner) in cases {
            assert_eq!(owner_of(path), owner, "{}", path.escape_ascii());
        }
    }

    #[test]
    fn what_was_set_aside_names_its_database() {
        let name = StageName("18c-0123456789ab-00000001".into());
        let handle = Handle { inode: 77, born: 1_700_000_000_123_456_789 };
        for ending in COMPANIONS {
            assert_eq!(set_aside_for(&aside_name(&name, handle, ending)), Some((handle, ending)));
        }
        assert_eq!(set_aside_for(&name), None);
        assert_eq!(set_aside_for(&StageName("recovered-wal".into())), None);
    }
}
