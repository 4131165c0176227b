//! Locks on parts of a file (`F_OFD_SETLK`), as programs take them that share it by a protocol of their own.
//!
//! Such a lock belongs to the descriptor that it was taken by, and ends with it at the latest. Those of POSIX belong to the process: closing any other descriptor of the
//! file would end them. Both kinds respect each other.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use libc::{F_OFD_GETLK, F_OFD_SETLK, F_RDLCK, F_UNLCK, F_WRLCK, c_int};

/// Shares some bytes of a file with everybody who only reads them. Gives `false` where somebody has them alone.
///
/// # Errors
/// When the descriptor is not open for reading, or the file system has no locks.
pub fn share(file: &File, bytes: Range<i64>) -> io::Result<bool> {
    match control(file, F_OFD_SETLK, F_RDLCK, bytes) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives some bytes of a file up again.
///
/// # Errors
/// When the descriptor is not one that can be asked about.
pub fn give_up(file: &File, bytes: Range<i64>) -> io::Result<()> {
    control(file, F_OFD_SETLK, F_UNLCK, bytes).map(|_| ())
}

/// Whether somebody else has a lock of any kind on some bytes of a file.
///
/// # Errors
/// When the descriptor is not one that can be asked about.
pub fn is_taken(file: &File, bytes: Range<i64>) -> io::Result<bool> {
    Ok(c_int::from(control(file, F_OFD_GETLK, F_WRLCK, bytes)?) != F_UNLCK)
}

/// Gives the kind of lock that was answered.
#[expect(unsafe_code, reason = "locks on parts of a file have no safe interface")]
fn control(file: &File, command: c_int, kind: c_int, bytes: Range<i64>) -> io::Result<i16> {
    let kind = i16::try_from(kind).map_err(io::Error::other)?;
    let whence = i16::try_from(libc::SEEK_SET).map_err(io::Error::other)?;
    let mut lock =
        libc::flock { l_type: kind, l_whence: whence, l_start: bytes.start, l_len: bytes.end - bytes.start, l_pid: 0 };
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and these commands read and write one `flock`,
    // which lives until after the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(&mut lock)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(lock.l_type) }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn what_one_has_alone_no_other_shares() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, "something").expect("written");
        let (one, other) = (File::open(&path).expect("a file"), File::open(&path).expect("a file"));
        assert!(share(&one, 0..10).expect("told"));
        assert!(share(&other, 5..10).expect("told"), "readers share");
        assert!(is_taken(&other, 0..1).expect("told"));
        assert!(!is_taken(&other, 10..11).expect("told"));
        give_up(&one, 0..10).expect("given up");
        assert!(!is_taken(&other, 0..10).expect("told"));

        let writer = OpenOptions::new().write(true).open(&path).expect("a file");
        control(&writer, F_OFD_SETLK, F_WRLCK, 0..4).expect("locked");
        assert!(!share(&one, 0..10).expect("told"), "the writer has them alone");
        assert!(share(&one, 4..10).expect("told"));
        drop(writer);
        assert!(share(&one, 0..10).expect("told"), "the lock has ended with its descriptor");
    }
}
