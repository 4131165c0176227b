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

/// Takes runs apart as they come, in pieces of any length.
#[derive(Default)]
pub struct Runs {
    head: Vec<u8>,
    /// Bytes of the open run of data that are still to come.
    left: u64,
}

/// A part of what came.
#[derive(PartialEq, Eq, Debug)]
pub enum Came {
    /// So many bytes of the piece are data.
    Data(usize),
    /// A hole begins, so many bytes long.
    Zeros(u64),
    /// More has to come first.
    Nothing,
    /// No peer of ours says this.
    Nonsense,
}

impl Runs {
    /// Looks at a piece: gives how many of its first bytes are dealt with, and what comes after those. Data is not
    /// dealt with by that: the caller takes it off the piece.
    pub fn take(&mut self, piece: &[u8]) -> (usize, Came) {
        let mut used = 0;
        if self.left == 0 {
            used = piece.len().min(Run::BYTES - self.head.len());
            self.head.extend_from_slice(&piece[..used]);
            let Ok(head) = <[u8; Run::BYTES]>::try_from(self.head.as_slice()) else { return (used, Came::Nothing) };
            self.head.clear();
            match Run::decode(head) {
                Some(Run::Data(len)) => self.left = len,
                Some(Run::Zeros(len)) => return (used, Came::Zeros(len)),
                None => return (used, Came::Nonsense),
            }
        }
        let data = (piece.len() - used).min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= data as u64;
        (used, if data == 0 { Came::Nothing } else { Came::Data(data) })
    }
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

    #[test]
    fn runs_are_taken_apart_wherever_they_are_cut() {
        let wire =
            [&Run::Data(3).encode()[..], b"abc", &Run::Zeros(5).encode(), &Run::Data(2).encode(), b"de"].concat();
        for step in 1..=wire.len() {
            let (mut runs, mut out) = (Runs::default(), Vec::new());
            for mut piece in wire.chunks(step) {
                while !piece.is_empty() {
                    let (used, came) = runs.take(piece);
                    piece = &piece[used..];
                    match came {
                        Came::Data(len) => {
                            out.extend_from_slice(&piece[..len]);
                            piece = &piece[len..];
                        }
                        Came::Zeros(len) => out.extend(std::iter::repeat_n(0, usize::try_from(len).expect("few"))),
                        Came::Nothing => {}
                        Came::Nonsense => panic!("sense"),
                    }
                }
            }
            assert_eq!(out, b"abc\0\0\0\0\0de");
        }
        assert_eq!(Runs::default().take(&[0; 8]), (8, Came::Nonsense));
    }
}
