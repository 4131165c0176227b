//! One entry of the device log: its fields, its exact bytes, its signature.
//!
//! The bytes of an entry are the canonical encoding of [`Entry`], which begins with a context string, followed by
//! an Ed25519 signature over just those bytes. Whether an entry may stand where it stands is decided by
//! [`super::Account`].

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::ids::{AccountId, DeviceId};
use crate::label;

use super::Refused;

/// Longest entry, in bytes.
pub const MAX_ENTRY: usize = 4 << 10;
/// Version of the entry format; there is no other.
pub const VERSION: u8 = 1;
/// Length of a sealed device name, in bytes: names are padded, so that length tells nothing.
pub const SEALED_NAME: usize = 24 + 64 + 16;
/// Longest sealed scope of a grant, in bytes.
pub const MAX_SCOPE: usize = 512;

const SIGNATURE: usize = 64;

/// What one entry says, without its signature.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Always [`label::LOG_ENTRY`].
    pub context: String,
    /// Always [`VERSION`].
    pub version: u8,
    /// The account whose log this is.
    pub account: AccountId,
    /// Position, from 0 at genesis.
    pub seq: u64,
    /// BLAKE3 of the exact bytes of the entry before; zeros at genesis.
    pub prev: [u8; 32],
    /// What happens.
    pub body: Body,
    /// Whose key signs.
    pub signer: Signer,
    /// When, as the signer claims: milliseconds since 1970. Shown to a person; decides nothing but expiry.
    pub time_ms: u64,
}

/// Whose key signs an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Signer {
    /// The root key, which comes from the recovery phrase.
    Root,
    /// A device of the account.
    Device(DeviceId),
}

/// What an entry does. The order of the variants is the wire format.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Body {
    /// Begins the log.
    Genesis {
        /// Root signing key; the account id is derived from it.
        root: [u8; 32],
        /// Root KEM key, a recipient of every epoch key.
        root_kem: Vec<u8>,
    },
    /// Enrols a device.
    AddDevice {
        /// Its keys.
        keys: PublicKeys,
        /// Its name, sealed under the account's names key.
        name: Vec<u8>,
        /// What it may sign.
        caps: Caps,
    },
    /// Shuts a device out for ever.
    RevokeDevice {
        /// Which.
        device: DeviceId,
    },
    /// Replaces the signer's own TLS and KEM keys.
    RotateDeviceKey {
        /// TLS key from here on.
        tls: [u8; 32],
        /// KEM key from here on.
        kem: Vec<u8>,
    },
    /// Begins an epoch.
    NewEpoch {
        /// One more than any number before.
        number: u32,
        /// Commitment to the epoch key and the account secret.
        commitment: [u8; 32],
        /// BLAKE3 of the sealed set.
        set: [u8; 32],
    },
    /// Lets another device reach the signer.
    Grant {
        /// Which device.
        to: DeviceId,
        /// What it may do, sealed: the relay has no business with it.
        scope: Vec<u8>,
        /// When it ends: milliseconds since 1970.
        until_ms: u64,
    },
    /// Ends a grant early.
    RevokeGrant {
        /// Position of the grant's entry.
        grant: u64,
    },
    /// Sets the account's configuration: relays, storage, guarded devices.
    Config {
        /// BLAKE3 of the sealed configuration.
        hash: [u8; 32],
    },
    /// Discards the effect of every entry after a position. Only the root may.
    RootReset {
        /// Last position whose effect is kept.
        keep: u64,
    },
    /// Gives a device another name.
    Rename {
        /// Which.
        device: DeviceId,
        /// Its name, sealed under the account's names key.
        name: Vec<u8>,
    },
}

/// The public keys of a device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PublicKeys {
    /// Ed25519: signs log entries, manifests, signals. The device id is derived from it.
    pub sign: [u8; 32],
    /// Ed25519: the raw public key of its TLS connections.
    pub tls: [u8; 32],
    /// X-Wing: receives sealed epoch keys.
    pub kem: Vec<u8>,
}

/// What a device may sign.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Caps {
    /// Take part in the sync.
    pub sync: bool,
    /// Add devices, rename them, set the configuration.
    pub enrol: bool,
    /// Revoke devices and begin epochs.
    pub revoke: bool,
    /// Let other devices reach this one.
    pub grant: bool,
}

impl Caps {
    /// One of the person's own machines.
    pub const ALL: Self = Self { sync: true, enrol: true, revoke: true, grant: true };
    /// A machine added with `--limited`.
    pub const LIMITED: Self = Self { sync: true, enrol: false, revoke: true, grant: false };

    /// Whether everything here is also in `other`.
    pub fn within(self, other: Self) -> bool {
        (!self.sync || other.sync)
            && (!self.enrol || other.enrol)
            && (!self.revoke || other.revoke)
            && (!self.grant || other.grant)
    }
}

impl Entry {
    /// Signs the entry and gives its exact bytes.
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        let mut bytes = codec::encode(self);
        let signature = key.sign(&bytes);
        bytes.extend_from_slice(&signature.to_bytes());
        bytes
    }

    /// Reads an entry's fields; says nothing about its signature.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        if bytes.len() > MAX_ENTRY {
            return Err(Refused::TooLong);
        }
        let (signed, _) = split(bytes)?;
        let entry: Self = codec::decode(signed, MAX_ENTRY).map_err(Refused::Malformed)?;
        if entry.context != label::LOG_ENTRY {
            return Err(Refused::OtherType);
        }
        if entry.version != VERSION {
            return Err(Refused::OtherVersion);
        }
        Ok(entry)
    }
}

/// Checks the signature of an entry's exact bytes.
pub(super) fn check_signature(bytes: &[u8], key: &[u8; 32]) -> Result<(), Refused> {
    let (signed, signature) = split(bytes)?;
    let key = VerifyingKey::from_bytes(key).map_err(|_| Refused::BadKey)?;
    key.verify_strict(signed, &Signature::from_bytes(signature)).map_err(|_| Refused::BadSignature)
}

/// BLAKE3 of an entry's exact bytes: what the next entry and every head name.
pub fn entry_hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

fn split(bytes: &[u8]) -> Result<(&[u8], &[u8; SIGNATURE]), Refused> {
    bytes.split_last_chunk().ok_or(Refused::Malformed(codec::DecodeError::Malformed))
}
