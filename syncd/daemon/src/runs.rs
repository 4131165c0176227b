//! Parts of a file as runs of bytes and of zeros: what is a hole here becomes one there, and goes over no wire.

use std::fs::File;
use std::io;

use hearth_schemas::wire::Run;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// What stands in a part of a file, by its offset and length in bytes. Moves the file's own offset.
pub fn runs_of(file: &File, offset: u64, len: u64) -> io::Result<Vec<Run>> {
    let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
    let mut runs = Vec::new();
    let mut at = offset;
    while at < end {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(end),
            // Nothing but a hole is left, or the file has become shorter, which its hash will tell.
            Err(Errno::NXIO) => end,
            // A file system that does not tell holes.
            Err(_) => at,
        };
        if data > at {
            runs.push(Run::Zeros(data - at));
        }
        if data == end {
            break;
        }
        let hole = seek(file, SeekFrom::Hole(data)).unwrap_or(end).clamp(data + 1, end);
        runs.push(Run::Data(hole - data));
        at = hole;
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn the_runs_of_a_part_cover_it_and_holes_are_zeros() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[7; 64 << 10]).expect("written");
        file.set_len(8 << 20).expect("longer");
        file.write_all_at(&[8; 4096], 4 << 20).expect("written");
        let runs = runs_of(&file, 0, 8 << 20).expect("told");
        assert_eq!(runs.iter().map(|run| run.len()).sum::<u64>(), 8 << 20);
        let zeros: u64 = runs.iter().map(|run| if let Run::Zeros(len) = run { *len } else { 0 }).sum();
        assert!(zeros > 7 << 20, "{runs:?}");
        assert!(runs_of(&file, u64::MAX, 2).is_err());
        assert_eq!(runs_of(&file, 9 << 20, 5).expect("told"), [Run::Zeros(5)]);
    }
}
