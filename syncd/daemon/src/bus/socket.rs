//! The private socket: one per machine, for the same user only, and never two daemons behind it.
//!
//! A lock on a file beside the socket says that a daemon lives; the kernel lets go of it however the daemon ends, so
//! that a socket file left by a killed one is known to be stale and is replaced. Gives accepted streams to
//! [`super::Bus`].

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::net::{UnixListener, UnixStream};

use super::caller::Caller;

/// A pause after an accept that failed, for instance for want of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// The listening socket, held together with the lock that makes it ours.
#[derive(Debug)]
pub struct PrivateSocket {
    listener: UnixListener,
    path: PathBuf,
    _lock: File,
}

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon has the lock.
    #[error("another syncd is running for this home (it serves {})", .0.display())]
    Taken(PathBuf),
    /// The directory belongs to somebody else, or is no directory.
    #[error("{} is not a directory of this user", .0.display())]
    Foreign(PathBuf),
    /// The system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl PrivateSocket {
    /// Takes the lock and listens; the directory is made, or put to mode 0700. Wants a tokio runtime around it.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let directory = path.parent().filter(|parent| parent.is_absolute()).expect("the socket's path is absolute");
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| SocketError::Io { doing, path, source }
        };
        own(directory)?;
        let lock_path = path.with_extension("lock");
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed("open", &lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(SocketError::Taken(path.to_owned())),
            Err(error) => return Err(failed("lock", &lock_path)(error.into())),
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replace", path)(error)),
            _ => {}
        }
        let listener = bind_in(directory, path).map_err(failed("listen on", path))?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed("protect", path))?;
        Ok(Self { listener, path: path.to_owned(), _lock: lock })
    }

    /// Waits for the next client of our own user; others are turned away without a word.
    pub(super) async fn accept(&self) -> (UnixStream, Caller) {
        loop {
            let credentials = match self.listener.accept().await {
                Ok((stream, _)) => stream.peer_cred().map(|credentials| (stream, credentials)),
                Err(error) => Err(error),
            };
            match credentials {
                Ok((stream, credentials)) if credentials.uid() == rustix::process::geteuid().as_raw() => {
                    return (stream, Caller::on_socket(credentials.pid()));
                }
                Ok((_, credentials)) => tracing::warn!(uid = credentials.uid(), "refused a client of another user"),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

impl Drop for PrivateSocket {
    fn drop(&mut self) {
        // Still under the lock: nobody else's socket can be there.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Makes the directory ours alone.
fn own(directory: &Path) -> Result<(), SocketError> {
    let io = |doing| move |source| SocketError::Io { doing, path: directory.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io("create"))?;
    let metadata = directory.symlink_metadata().map_err(io("look at"))?;
    if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(SocketError::Foreign(directory.to_owned()));
    }
    if metadata.mode() & 0o777 != 0o700 {
        std::fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(io("protect"))?;
    }
    Ok(())
}

/// A socket address holds some 107 bytes; a longer path is reached through the directory's descriptor.
fn bind_in(directory: &Path, path: &Path) -> io::Result<UnixListener> {
    if path.as_os_str().len() <= 100 {
        return UnixListener::bind(path);
    }
    let open = File::open(directory)?;
    let name = path.file_name().expect("the socket has a name");
    UnixListener::bind(Path::new("/proc/self/fd").join(open.as_raw_fd().to_string()).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_this_user_alone() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("hearth/bus");
        std::fs::create_dir(place.path().join("hearth")).expect("empty");
        let _socket = PrivateSocket::bind(&path).expect("bound");
        let mode = |path: &Path| path.symlink_metadata().expect("there").mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().expect("has one")), 0o700);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_second_daemon_refused() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("hearth/bus");
        std::fs::create_dir(place.path().join("hearth")).expect("empty");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("left by a killed daemon"));

        let first = PrivateSocket::bind(&path).expect("replaces it");
        let second = PrivateSocket::bind(&path).expect_err("the first one lives");
        assert!(matches!(second, SocketError::Taken(_)), "{second}");
        drop(first);
        assert!(!path.exists());
        PrivateSocket::bind(&path).expect("the place is free");
    }

    #[tokio::test]
    async fn a_path_too_long_for_a_socket_address_is_served() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("long".repeat(30)).join("hearth/bus");
        let _socket = PrivateSocket::bind(&path).expect("bound");
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_link_in_the_place_of_the_directory_is_not_followed() {
        let place = tempfile::tempdir().expect("a temporary directory");
        std::os::unix::fs::symlink("/tmp", place.path().join("hearth")).expect("a link");
        let refused = PrivateSocket::bind(&place.path().join("hearth/bus")).expect_err("a link");
        assert!(matches!(refused, SocketError::Foreign(_)), "{refused}");
    }
}
