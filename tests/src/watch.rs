//! Waits for things to become true, without guessing how long they take.
//!
//! [`until`] asks a question again whenever there is a reason to: an inotify event, or the end of a process. A slow
//! tick stands behind both, for what neither can tell.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use crate::process::{Process, readable};

/// How long a change may go unnoticed that wakes nobody.
const TICK: Duration = Duration::from_millis(50);

/// What wakes a waiting test.
#[derive(Debug)]
pub enum Wake {
    /// Something happened in one of the watched folders.
    Folders(OwnedFd),
    /// The process ended, which makes waiting on pointless.
    Ended(OwnedFd),
}

impl Wake {
    /// Watches one folder, or its nearest ancestor that exists.
    pub fn on(folder: &Path) -> Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).context("starting inotify")?;
        let wake = Self::Folders(fd);
        wake.add(&nearest(folder))?;
        Ok(wake)
    }

    /// Wakes when a process ends.
    pub fn when_ended(process: &Process) -> Result<Self> {
        Ok(Self::Ended(process.ending()?))
    }

    /// Watches one more folder.
    pub fn add(&self, folder: &Path) -> Result<()> {
        let Self::Folders(fd) = self else { return Ok(()) };
        let what = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE;
        match inotify::add_watch(fd, folder, what) {
            // A folder that has just gone is found again by the next question.
            Ok(_) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("watching {}", folder.display())),
        }
    }

    /// Waits until something happens, at most until the deadline. Returns whether it is worth asking again.
    fn pause(&self, deadline: Instant) -> Result<bool> {
        let deadline = deadline.min(Instant::now() + TICK);
        match self {
            Self::Ended(fd) => Ok(!readable(fd, deadline)?),
            Self::Folders(fd) => {
                if readable(fd, deadline)? {
                    self.drain()?;
                }
                Ok(true)
            }
        }
    }

    fn drain(&self) -> Result<()> {
        let Self::Folders(fd) = self else { return Ok(()) };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(fd, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {}
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error).context("reading inotify"),
            }
        }
    }
}

/// Asks `check` until it answers; an error naming `what` when `limit` is over or the watched process has ended.
pub fn until<T>(what: &str, limit: Duration, wake: &Wake, mut check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut awake = true;
    loop {
        if let Some(answer) = check()? {
            return Ok(answer);
        }
        if !awake {
            bail!("waited for {what}, but the process has ended");
        }
        if Instant::now() >= deadline {
            bail!("waited for {what} for {limit:?} in vain");
        }
        awake = wake.pause(deadline)?;
    }
}

/// Waits for a file: `check` is asked about its folder's every change until it answers.
pub fn until_file<T>(path: &Path, limit: Duration, mut check: impl FnMut(&Path) -> Option<T>) -> Result<T> {
    let folder = path.parent().context("a file lies in a folder")?;
    let wake = Wake::on(folder)?;
    until(&path.display().to_string(), limit, &wake, || {
        if let Some(answer) = check(path) {
            return Ok(Some(answer));
        }
        // The folders above may have appeared since; watching one twice changes nothing.
        wake.add(&nearest(folder))?;
        Ok(check(path))
    })
}

/// Waits until a file has exactly this content.
pub fn until_content(path: &Path, content: &[u8], limit: Duration) -> Result<Instant> {
    until_file(path, limit, |path| {
        let same_size = fs::metadata(path).is_ok_and(|data| data.len() == content.len() as u64);
        Some(Instant::now()).filter(|_| same_size && fs::read(path).is_ok_and(|found| found == content))
    })
}

/// Waits until a path exists, or is gone; symlinks are not followed.
pub fn until_there(path: &Path, there: bool, limit: Duration) -> Result<Instant> {
    until_file(path, limit, |path| Some(Instant::now()).filter(|_| fs::symlink_metadata(path).is_ok() == there))
}

fn nearest(folder: &Path) -> PathBuf {
    folder.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_a_folder_to_come_is_seen() {
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("a/b/c.txt");
        let writer = std::thread::spawn({
            let path = path.clone();
            move || {
                std::fs::create_dir_all(path.parent().expect("has one")).expect("made");
                std::fs::write(path, "here").expect("written");
            }
        });
        let text = until_file(&path, Duration::from_secs(10), |path| {
            std::fs::read_to_string(path).ok().filter(|text| !text.is_empty())
        });
        writer.join().expect("written");
        assert_eq!(text.expect("seen"), "here");
    }

    #[test]
    fn waiting_in_vain_says_for_what() {
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("never");
        let error = until_file(&path, Duration::from_millis(20), |_| None::<()>).expect_err("never came");
        assert!(error.to_string().contains("never"), "{error}");
    }
}
