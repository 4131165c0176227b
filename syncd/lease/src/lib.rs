//! Leases on files (`F_SETLEASE`): whether other programs have a file open, and a moment in which none can open it.
//!
//! A lease is granted where nobody has the file open in the way that it excludes, memory mappings included. Whoever
//! opens the file so afterwards waits until the lease ends: with its descriptor, or after the kernel's patience
//! (`/proc/sys/fs/lease-break-time`). The kernel tells the holder by a signal that somebody waits. Its default, `SIGIO`,
//! would end the process, so another one is asked for, which everybody ignores who did not ask for it. Whether somebody
//! waits is asked by [`Lease::is_awaited`] instead. Beside leases, [`lock`] has the locks that programs agree on.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use libc::{F_GETLEASE, F_RDLCK, F_SETLEASE, F_UNLCK, F_WRLCK, c_int};

pub mod lock;

/// `F_SETSIG` of Linux, which not every libc has a name for.
const F_SETSIG: c_int = 10;
/// Ignored by default.
const HARMLESS: c_int = libc::SIGURG;

/// Whom a lease excludes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Excluded {
    /// Who has the file open for writing, or mapped so.
    Writers,
    /// Everybody else who has it open at all.
    Everybody,
}

/// What became of asking for a lease.
#[derive(Debug)]
pub enum Answer {
    /// Nobody whom it excludes has the file open, and nobody gets it open before the lease is dropped.
    Granted(Lease),
    /// Somebody whom it excludes has the file open.
    InUse,
    /// The file system has no leases, or the file belongs to another user.
    Untold,
}

/// A lease; it ends when it is dropped.
#[derive(Debug)]
pub struct Lease {
    file: File,
    kind: c_int,
}

impl Lease {
    /// Asks for a lease on a file that is open for reading alone. The descriptor is given up, whatever the answer.
    ///
    /// # Errors
    /// When the descriptor is not one that can be asked about.
    pub fn take(file: File, excluded: Excluded) -> io::Result<Answer> {
        let kind = match excluded {
            Excluded::Writers => F_RDLCK,
            Excluded::Everybody => F_WRLCK,
        };
        // Before there is a lease that could be broken.
        match control(&file, F_SETSIG, HARMLESS).and_then(|_| control(&file, F_SETLEASE, kind)) {
            Ok(_) => Ok(Answer::Granted(Self { file, kind })),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => Ok(Answer::InUse),
                Some(libc::EINVAL | libc::ENOLCK | libc::EOPNOTSUPP | libc::EACCES | libc::EPERM) => Ok(Answer::Untold),
                _ => Err(error),
            },
        }
    }

    /// Whether somebody waits to open the file. Where that cannot be told, somebody may.
    pub fn is_awaited(&self) -> bool {
        control(&self.file, F_GETLEASE, 0).map_or(true, |kind| kind != self.kind)
    }
}

/// Whether some program has a file open for writing, or mapped so, by a descriptor of it that is open for reading alone.
/// Not where that cannot be told.
pub fn is_written(file: &File) -> bool {
    let asked = control(file, F_SETSIG, HARMLESS).and_then(|_| control(file, F_SETLEASE, F_RDLCK));
    match asked {
        Ok(_) => {
            // Cannot fail: the lease is there. If it did, it would end with the descriptor.
            let _ = control(file, F_SETLEASE, F_UNLCK);
            false
        }
        Err(error) => error.raw_os_error() == Some(libc::EAGAIN),
    }
}

#[expect(unsafe_code, reason = "leases have no safe interface")]
fn control(file: &File, command: c_int, argument: c_int) -> io::Result<c_int> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and none of these commands takes a pointer.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::{ErrorKind, Write};
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn a_lease_is_granted_where_nobody_has_the_file_open() {
        let (_dir, path) = some_file();
        for excluded in [Excluded::Writers, Excluded::Everybody] {
            assert!(matches!(take(&path, excluded), Answer::Granted(_)), "{excluded:?}");
        }
    }

    #[test]
    fn a_writer_excludes_both_and_a_reader_only_one() {
        let (_dir, path) = some_file();
        let reader = File::open(&path).expect("a file");
        assert!(matches!(take(&path, Excluded::Writers), Answer::Granted(_)));
        assert!(matches!(take(&path, Excluded::Everybody), Answer::InUse));
        assert!(!is_written(&reader));
        let writer = OpenOptions::new().append(true).open(&path).expect("a file");
        assert!(matches!(take(&path, Excluded::Writers), Answer::InUse));
        assert!(matches!(take(&path, Excluded::Everybody), Answer::InUse));
        assert!(is_written(&reader));
        drop((reader, writer));
        assert!(matches!(take(&path, Excluded::Everybody), Answer::Granted(_)));
    }

    #[test]
    fn a_mapping_that_is_written_to_counts_after_its_descriptor_is_closed() {
        let (_dir, path) = some_file();
        let file = OpenOptions::new().read(true).write(true).open(&path).expect("a file");
        let mapped = map(&file);
        drop(file);
        assert!(matches!(take(&path, Excluded::Writers), Answer::InUse));
        unmap(mapped);
        assert!(matches!(take(&path, Excluded::Writers), Answer::Granted(_)));
    }

    #[test]
    fn who_opens_the_file_waits_is_known_to_wait_and_harms_nobody() {
        let (_dir, path) = some_file();
        let Answer::Granted(lease) = take(&path, Excluded::Writers) else { panic!("nobody has it open") };
        assert!(!lease.is_awaited());
        File::open(&path).expect("a reader is not excluded");
        assert!(!lease.is_awaited());
        // This breaks the lease, and with it comes the signal.
        let refused = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path);
        assert_eq!(refused.expect_err("the lease is there").kind(), ErrorKind::WouldBlock);
        assert!(lease.is_awaited());
        let writer = std::thread::spawn({
            let path = path.clone();
            move || OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write_all(b"later"))
        });
        drop(lease);
        writer.join().expect("it ends").expect("the lease has ended");
        assert_eq!(std::fs::read(&path).expect("a file"), b"somethinglater");
    }

    #[test]
    fn what_has_no_leases_is_not_told() {
        let file = File::open("/proc/self/status").expect("a file");
        assert!(!is_written(&file));
        assert!(matches!(Lease::take(file, Excluded::Writers), Ok(Answer::Untold | Answer::Granted(_))));
        let dir = File::open("/").expect("a directory");
        assert!(matches!(Lease::take(dir, Excluded::Writers), Ok(Answer::Untold)));
    }

    fn some_file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, "something").expect("written");
        (dir, path)
    }

    fn take(path: &Path, excluded: Excluded) -> Answer {
        Lease::take(File::open(path).expect("a file"), excluded).expect("told")
    }

    #[expect(unsafe_code, reason = "a mapping has no safe interface either")]
    fn map(file: &File) -> usize {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a mapping at an address of the kernel's choice, that nothing is read from.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), 9, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert_ne!(at, libc::MAP_FAILED);
        at as usize
    }

    #[expect(unsafe_code, reason = "a mapping has no safe interface either")]
    fn unmap(at: usize) {
        // SAFETY: the address is that of a mapping of this length, and nobody uses it.
        assert_eq!(unsafe { libc::munmap(at as *mut libc::c_void, 9) }, 0);
    }
}
