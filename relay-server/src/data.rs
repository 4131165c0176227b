//! The relay's directory: `key` (its TLS key), `relay.sqlite` (see [`crate::store`]) and `lock`.
//!
//! Makes what is missing, so that a first start needs no preparation, and a start after a crash no cleaning up: the
//! lock is the kernel's and goes with the process.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Another relay runs on it.
    #[error("another relay is running on {0}")]
    InUse(PathBuf),
    /// The key file holds something else.
    #[error("{0} is not a relay's key")]
    Key(PathBuf),
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        /// On what.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
    /// The operating system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// The directory, opened.
pub struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// Opens the directory and makes it if it is missing.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Where the database is. Makes an empty one that nobody else can read; SQLite's other files follow its mode.
    pub fn database(&self) -> Result<PathBuf, DataError> {
        let path = self.path.join("relay.sqlite");
        private().append(true).create(true).open(&path).map_err(at(&path))?;
        Ok(path)
    }

    /// Claims the directory for as long as the file is open.
    pub fn lock(&self) -> Result<File, DataError> {
        let path = self.path.join("lock");
        let file = private().write(true).create(true).truncate(false).open(&path).map_err(at(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(DataError::InUse(self.path.clone())),
            Err(TryLockError::Error(source)) => Err(DataError::Io { path, source }),
        }
    }

    /// The relay's Ed25519 secret key; made on first use.
    pub fn key(&self) -> Result<Zeroizing<[u8; 32]>, DataError> {
        let path = self.path.join("key");
        match File::open(&path) {
            Ok(file) => read_key(file, &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make_key(&path),
            Err(source) => Err(DataError::Io { path, source }),
        }
    }

    /// Writes a key so that a crash leaves either none or a whole one.
    fn make_key(&self, path: &Path) -> Result<Zeroizing<[u8; 32]>, DataError> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *key)?;
        let beside = self.path.join("key.part");
        let mut file = private().write(true).create(true).truncate(true).open(&beside).map_err(at(&beside))?;
        file.write_all(&*key).and_then(|()| file.sync_all()).map_err(at(&beside))?;
        std::fs::rename(&beside, path).map_err(at(path))?;
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(at(&self.path))?;
        Ok(key)
    }
}

fn read_key(file: File, path: &Path) -> Result<Zeroizing<[u8; 32]>, DataError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(64));
    file.take(33).read_to_end(&mut bytes).map_err(at(path))?;
    let key: [u8; 32] = bytes.as_slice().try_into().map_err(|_| DataError::Key(path.to_owned()))?;
    Ok(Zeroizing::new(key))
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DataError + '_ {
    move |source| DataError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_stays_the_same_and_nobody_else_can_read_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep/data");
        let data = DataDir::open(&path).expect("made");
        let key = data.key().expect("made");
        assert_eq!(DataDir::open(&path).expect("there").key().expect("there"), key);
        let mode = |name: &str| std::fs::metadata(path.join(name)).expect("there").permissions().mode() & 0o777;
        data.database().expect("made");
        assert_eq!((mode("key"), mode("relay.sqlite"), mode(".")), (0o600, 0o600, 0o700));
    }

    #[test]
    fn a_damaged_key_is_not_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("key"), [1; 31]).expect("written");
        let data = DataDir::open(dir.path()).expect("there");
        assert!(matches!(data.key(), Err(DataError::Key(_))));
    }

    #[test]
    fn two_relays_cannot_share_a_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = DataDir::open(dir.path()).expect("there");
        let lock = data.lock().expect("free");
        assert!(matches!(data.lock(), Err(DataError::InUse(_))));
        drop(lock);
        assert!(data.lock().is_ok());
    }
}
