//! Copies of what the device log names by its hash: sealed epoch sets and configurations.
//!
//! Relays keep them for devices that join. A device keeps them as well, so that a relay which has none of them, or has lost
//! them, can be given them by any device. They are sealed, and what is read is compared with its name.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use hearth_schemas::log::Account;
use hearth_schemas::relay::MAX_BLOB;
use tracing::warn;

/// A directory of blobs, each under its hash. Made when the first is kept.
pub struct Blobs {
    folder: PathBuf,
}

impl Blobs {
    /// Uses a directory.
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The blobs that a log names: the sets of its epochs, and its configuration.
    pub fn named(account: &Account) -> BTreeSet<[u8; 32]> {
        account.epochs.iter().map(|epoch| epoch.set).chain(account.config).collect()
    }

    /// A blob; `None` if it is not here, or is not what its name says.
    pub fn get(&self, hash: &[u8; 32]) -> Option<Vec<u8>> {
        let bytes = fs::read(self.path(hash)).ok()?;
        (bytes.len() <= MAX_BLOB && blake3::hash(&bytes) == *hash).then_some(bytes)
    }

    /// Keeps a blob. One that cannot be kept is told in the log: relays have it, too.
    pub fn put(&self, bytes: &[u8]) {
        let hash = *blake3::hash(bytes).as_bytes();
        if self.get(&hash).is_some() {
            return;
        }
        let path = self.path(&hash);
        let aside = path.with_extension("new");
        let written = fs::create_dir_all(&self.folder)
            .and_then(|()| fs::write(&aside, bytes))
            .and_then(|()| fs::File::open(&aside)?.sync_all())
            .and_then(|()| fs::rename(&aside, &path));
        if let Err(error) = written {
            warn!(%error, "a sealed part of the account could not be kept");
        }
    }

    /// Forgets what the log does not name any more.
    pub fn keep_only(&self, account: &Account) {
        let named: BTreeSet<String> = Self::named(account).iter().map(|hash| HEXLOWER.encode(hash)).collect();
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => return warn!(%error, "the sealed parts of the account cannot be listed"),
        };
        for entry in entries.flatten() {
            if entry.file_name().to_str().is_none_or(|name| !named.contains(name)) {
                forget(&entry.path());
            }
        }
    }

    fn path(&self, hash: &[u8; 32]) -> PathBuf {
        self.folder.join(HEXLOWER.encode(hash))
    }
}

fn forget(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        warn!(%error, "a sealed part of the account that is not needed stays");
    }
}

#[cfg(test)]
mod tests {
    use hearth_schemas::keys::{DeviceKeys, Phrase};

    use super::*;
    use crate::membership::entropy;

    #[test]
    fn a_blob_is_kept_while_the_log_names_it_and_comes_back_as_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::at(folder.path().join("blobs"));
        let keys = DeviceKeys::random(&mut entropy);
        let phrase = Phrase::random(&mut entropy);
        let made = syncd_core::account::create(&phrase, &keys, "laptop", 1, &mut entropy).expect("an account");
        let hash = *blake3::hash(&made.blobs[0]).as_bytes();
        assert_eq!(Blobs::named(&made.account), BTreeSet::from([hash]));
        assert_eq!(blobs.get(&hash), None);
        blobs.keep_only(&made.account);
        blobs.put(&made.blobs[0]);
        blobs.put(b"something else");
        let other = *blake3::hash(b"something else").as_bytes();
        assert_eq!(blobs.get(&other).as_deref(), Some(b"something else".as_slice()));
        blobs.keep_only(&made.account);
        assert_eq!((blobs.get(&hash).as_ref(), blobs.get(&other)), (Some(&made.blobs[0]), None));

        fs::write(blobs.path(&hash), b"damaged").expect("written");
        assert_eq!(blobs.get(&hash), None);
        blobs.put(&made.blobs[0]);
        assert_eq!(blobs.get(&hash).as_ref(), Some(&made.blobs[0]));
    }
}
