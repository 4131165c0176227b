//! Databases of the simulated world: a file of two pages, and the log that a program writes its commits to.
//!
//! ```text
//! store      magic, two pages                       what is committed is the pages of the file,
//! store-wal  log magic, one record for each page    and over them those of the log, in their order
//! store-shm  there as long as a program has it open
//! ```
//! A program that copies the log into the file does so page by page, so the file's own bytes may be what nobody ever
//! committed. What acts on these is [`super::disk`]'s; so is the daemon's view of them.

/// First bytes of a database.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// First bytes of a log.
const WAL_MAGIC: [u8; 4] = [0x37, 0x7f, 0x06, 0x82];
/// What is in the file of shared memory.
pub(super) const SHM: &[u8] = &[0x18, 0xe2, 0x2d, 0];
/// Bytes of a page.
const PAGE: usize = 256;
/// Pages of a database.
pub const PAGES: usize = 2;
/// Bytes of a record in the log: which page, and the page.
const RECORD: usize = 1 + PAGE;

/// A database that holds nothing but this in each of its pages.
pub(super) fn database(text: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; PAGES * PAGE];
    (0..PAGES).for_each(|page| put(&mut bytes, page, &page_of(page, text)));
    bytes
}

/// Whether these are the bytes of a database.
pub(super) fn is_database(bytes: &[u8]) -> bool {
    bytes.len() == PAGES * PAGE && bytes.starts_with(MAGIC)
}

/// Whether these are bytes of what belongs to a database.
pub(super) fn is_of_companion(bytes: &[u8]) -> bool {
    bytes.starts_with(&WAL_MAGIC) || bytes == SHM
}

/// What is committed: a database, and its log if it has one.
pub(super) fn committed(own: &[u8], log: Option<&[u8]>) -> Vec<u8> {
    copied(own, log.unwrap_or_default(), usize::MAX)
}

/// A database with so many records of its log copied into it.
pub(super) fn copied(own: &[u8], log: &[u8], records: usize) -> Vec<u8> {
    let mut bytes = own.to_vec();
    let all = log.get(WAL_MAGIC.len()..).unwrap_or_default().chunks_exact(RECORD);
    all.take(records).for_each(|record| put(&mut bytes, usize::from(record[0]), &record[1..]));
    bytes
}

/// A log with this commit after what it holds: some pages, each with this text.
pub(super) fn logged(log: Option<&[u8]>, pages: &[usize], text: &[u8]) -> Vec<u8> {
    let mut log = log.filter(|log| !log.is_empty()).map_or_else(|| WAL_MAGIC.to_vec(), <[u8]>::to_vec);
    for &page in pages {
        log.push(u8::try_from(page).expect("few pages"));
        log.extend(page_of(page, text));
    }
    log
}

fn page_of(page: usize, text: &[u8]) -> Vec<u8> {
    let mut bytes = if page == 0 { MAGIC.to_vec() } else { Vec::new() };
    bytes.extend_from_slice(&text[..text.len().min(PAGE - MAGIC.len())]);
    bytes.resize(PAGE, 0);
    bytes
}

fn put(bytes: &mut [u8], page: usize, with: &[u8]) {
    if let Some(at) = bytes.get_mut(page * PAGE..(page + 1) * PAGE) {
        at.copy_from_slice(with);
    }
}
