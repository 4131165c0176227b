//! Identities: account, device, replica, node. Each is a type of its own, so that one is never taken for another.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Reads the lower-case hex form that [`fmt::Display`] writes.
            pub fn parse(text: &str) -> Option<Self> {
                let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?;
                Some(Self(bytes.try_into().ok()?))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), data_encoding::HEXLOWER.encode(&self.0[$len - 4..]))
            }
        }
    };
}

hex_id!(
    /// An account: BLAKE3 of a context string and the root signing key.
    AccountId,
    32
);
hex_id!(
    /// A device: BLAKE3 of a context string and its signing key.
    DeviceId,
    32
);
hex_id!(
    /// A file, directory, symlink or setting, for as long as it lives, wherever it is moved.
    NodeId,
    16
);
hex_id!(
    /// Keyed BLAKE3 of some content under the account's content key.
    ContentHash,
    32
);

impl NodeId {
    /// The home directory itself, the same on every machine.
    pub const ROOT: Self = Self([0; 16]);
}

/// One life of one device's index: those of its changes that were numbered between two starts of its daemon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaId(pub u64);

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{:x}", self.0)
    }
}

/// One run of a daemon on its index, named so that a place in the order of its changes can be told from the same place
/// after the index went back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RunId(pub u64);

/// The number of a device within its account: the position of its AddDevice entry in the device log.
/// Every device and the relay know it, and it is never given to another device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Slot(pub u16);
