//! One home, one daemon: sees that another machine works on the same home, as over NFS, and stands back.
//!
//! A file beside the index says who works here. Where several machines may see the file system, its time is renewed every half
//! minute: who finds another machine's name in it, renewed not long ago, leaves the home alone. Times are compared by the
//! clock of that file system. On one machine a lock decides, so that a daemon that was killed is followed at once; and on
//! a file system that no other machine sees, nothing else is needed, and nothing is written while all is calm.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Timespec, Timestamps};
use tokio::task::AbortHandle;

/// How often the time is renewed.
const RENEWED: Duration = Duration::from_secs(30);
/// Whoever has not renewed it for so long is gone.
const GONE: Duration = Duration::from_secs(100);
/// The longest such file, in bytes.
const MAX_BYTES: u64 = 4096;

/// Why a home cannot be worked on.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Another machine is at it.
    #[error("{0} works on this home")]
    Elsewhere(String),
    /// Another daemon of this machine is.
    #[error("another daemon of this machine works on this home")]
    Here,
    /// It cannot be found out.
    #[error("{}: {source}", path.display())]
    Unknown {
        /// The file that says so.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// The right to work on a home, for as long as this lives.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    _locked: File,
    renewing: Option<AbortHandle>,
}

impl Claim {
    /// Takes the home whose state lies here. Ends the process if another machine takes it in spite of that.
    pub fn take(state: &Path) -> Result<Self, Refused> {
        let own = identity();
        let shared = is_shared(state).map_err(|source| Refused::Unknown { path: state.to_owned(), source })?;
        let mut claim = Self::take_as(state, &own, shared)?;
        if !shared {
            return Ok(claim);
        }
        let path = claim.path.clone();
        let renewing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(RENEWED).await;
                if let Err(error) = renew(&path, &own) {
                    tracing::error!("{error}; this daemon ends, so that only one works on the home");
                    std::process::exit(1);
                }
            }
        });
        claim.renewing = Some(renewing.abort_handle());
        Ok(claim)
    }

    fn take_as(state: &Path, own: &str, shared: bool) -> Result<Self, Refused> {
        let path = state.join("in-use");
        let unknown = |source| Refused::Unknown { path: path.clone(), source };
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = opened.map_err(unknown)?;
        let holder = read(&mut file).map_err(unknown)?;
        if shared && !holder.is_empty() && holder != own && !is_gone(&file, state).map_err(unknown)? {
            return Err(Refused::Elsewhere(name_of(&holder)));
        }
        if let Err(error) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            let taken = error == rustix::io::Errno::WOULDBLOCK;
            return Err(if taken { Refused::Here } else { unknown(error.into()) });
        }
        file.set_len(0).and_then(|()| io::Seek::rewind(&mut file)).map_err(unknown)?;
        file.write_all(own.as_bytes()).and_then(|()| file.sync_all()).map_err(unknown)?;
        Ok(Self { path, _locked: file, renewing: None })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(renewing) = &self.renewing {
            renewing.abort();
        }
        // What stays is taken for gone after a while.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether another machine may see the file system: all but those that are known to be this machine's own may be seen.
fn is_shared(state: &Path) -> io::Result<bool> {
    /// ext2 to ext4, Btrfs, XFS, F2FS, ZFS, bcachefs, tmpfs, overlayfs: magic numbers of statfs(2).
    const OWN: [u64; 8] =
        [0xef53, 0x9123_683e, 0x5846_5342, 0xf2f5_2010, 0x2fc1_2fc1, 0xca45_1a4e, 0x0102_1994, 0x794c_7630];
    let kind = rustix::fs::statfs(state)?.f_type;
    Ok(!OWN.iter().any(|own| u64::try_from(kind).is_ok_and(|kind| kind & 0xffff_ffff == *own)))
}

/// This machine, as others are told of it: the name comes last.
fn identity() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{} {} {name}", read("/etc/machine-id"), read("/proc/sys/kernel/random/boot_id"))
}

fn name_of(holder: &str) -> String {
    let name: String = holder.rsplit(' ').next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
    if name.is_empty() { "another machine".to_owned() } else { name }
}

fn read(file: &mut File) -> io::Result<String> {
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Whether a claim was not renewed for long, by the clock of the file system that it lies on.
fn is_gone(claim: &File, state: &Path) -> io::Result<bool> {
    let clock = state.join("in-use.now");
    let now = File::create(&clock)?;
    now.sync_all()?;
    let now = now.metadata()?.modified()?;
    fs::remove_file(&clock)?;
    Ok(now.duration_since(claim.metadata()?.modified()?).is_ok_and(|since| since > GONE))
}

/// Says that this daemon still works here; an error if another one does by now.
fn renew(path: &Path, own: &str) -> Result<(), Refused> {
    let unknown = |source| Refused::Unknown { path: path.to_owned(), source };
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) => {
            // A home that cannot be reached for a while is still this one's.
            tracing::debug!(%error, "the claim on the home could not be renewed");
            return Ok(());
        }
    };
    let holder = read(&mut file).map_err(unknown)?;
    if holder != own {
        return Err(Refused::Elsewhere(name_of(&holder)));
    }
    // The file system's own clock, which another machine's daemon compares with.
    let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let _ = rustix::fs::futimens(&file, &Timestamps { last_access: now, last_modification: now });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_home_that_another_machine_works_on_is_left_alone_until_it_is_gone() {
        let state = tempfile::tempdir().expect("a directory");
        let path = state.path().join("in-use");
        fs::write(&path, "m1 b1 tower").expect("written");
        let refused = Claim::take_as(state.path(), "m2 b2 laptop", true).expect_err("in use");
        assert_eq!(refused.to_string(), "tower works on this home");
        assert_eq!(fs::read_to_string(&path).expect("read"), "m1 b1 tower");

        let long_ago = SystemTime::now() - GONE - Duration::from_secs(5);
        let file = OpenOptions::new().write(true).open(&path).expect("opened");
        file.set_times(FileTimes::new().set_modified(long_ago)).expect("set");
        let claim = Claim::take_as(state.path(), "m2 b2 laptop", true).expect("free");
        renew(&path, "m2 b2 laptop").expect("still its own");
        assert!(
            matches!(Claim::take_as(state.path(), "m1 b1 tower", true), Err(Refused::Elsewhere(name)) if name == "laptop")
        );
        assert!(matches!(Claim::take_as(state.path(), "m2 b2 laptop", true), Err(Refused::Here)));
        fs::write(&path, "m1 b1 tower").expect("written over");
        assert!(matches!(renew(&path, "m2 b2 laptop"), Err(Refused::Elsewhere(name)) if name == "tower"));
        drop(claim);
        drop(Claim::take_as(state.path(), "m1 b1 tower", true).expect("free"));
    }

    #[test]
    fn on_a_disk_that_no_other_machine_sees_a_lock_is_enough() {
        let state = tempfile::tempdir().expect("a directory");
        fs::write(state.path().join("in-use"), "m1 b1 tower").expect("written");
        let claim = Claim::take_as(state.path(), "m2 b2 laptop", false).expect("the disk was moved here");
        assert!(matches!(Claim::take_as(state.path(), "m3 b3 other", false), Err(Refused::Here)));
        drop(claim);
    }
}
