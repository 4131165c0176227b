//! The device log: the signed chain of entries that says which devices an account has.
//!
//! [`Account`] is what a log amounts to. Every device, and the relay too, makes it from the exact bytes of the
//! entries, from genesis on, and takes keys from nowhere else. Reading and signing one entry is [`entry`]'s business;
//! making useful entries and keeping the log is left to those who use this.

pub mod entry;

use std::collections::BTreeMap;

use ed25519_dalek::VerifyingKey;

pub use entry::{Body, Caps, Entry, MAX_ENTRY, MAX_SCOPE, PublicKeys, SEALED_NAME, Signer, entry_hash};

use crate::codec::DecodeError;
use crate::ids::{AccountId, DeviceId, Slot};
use crate::label;
use crate::relay::Head;
use crate::seal;

/// Most entries of a log.
pub const MAX_ENTRIES: usize = 10_000;
/// Most devices at one time, so that a sealed epoch set stays within the relay's blob limit.
pub const MAX_DEVICES: usize = 128;
/// Most root resets of a log: each replays it.
pub const MAX_RESETS: usize = 8;

/// What a verified device log amounts to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// The account.
    pub id: AccountId,
    /// Its newest entry.
    pub head: Head,
    /// Root signing key.
    pub root: [u8; 32],
    /// Root KEM key.
    pub root_kem: Vec<u8>,
    /// Every device that was ever enrolled and not discarded by a root reset, revoked ones included.
    pub devices: BTreeMap<DeviceId, Device>,
    /// Its epochs, oldest first.
    pub epochs: Vec<Epoch>,
    /// Grants that were not revoked, by the position of their entry. Whether one has run out is not looked at.
    pub grants: BTreeMap<u64, Grant>,
    /// BLAKE3 of the sealed configuration, if one was set.
    pub config: Option<[u8; 32]>,
    /// The latest time that an entry claims: milliseconds since 1970.
    pub time_ms: u64,
    /// Who signed the newest entry, and when as claimed.
    pub last_change: (Signer, u64),
    /// Exact bytes of every entry.
    entries: Vec<Vec<u8>>,
    /// Positions whose effect stands, rising.
    standing: Vec<u64>,
    /// Position of the latest revocation or root reset that stands.
    last_revocation: Option<u64>,
    /// Highest epoch number ever given; a root reset does not free numbers.
    last_epoch: u32,
    resets: usize,
}

/// A device as the log knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// Its number in the account.
    pub slot: Slot,
    /// Ed25519 key of its signatures.
    pub sign: [u8; 32],
    /// Ed25519 key of its TLS connections.
    pub tls: [u8; 32],
    /// X-Wing key that epoch keys are sealed to.
    pub kem: Vec<u8>,
    /// Its sealed name.
    pub name: Vec<u8>,
    /// What it may sign.
    pub caps: Caps,
    /// Shut out for ever.
    pub revoked: bool,
    /// When it was added, as its entry claims: milliseconds since 1970.
    pub added_ms: u64,
}

/// An epoch of an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Epoch {
    /// Its number, from 1.
    pub number: u32,
    /// Position of its entry.
    pub seq: u64,
    /// Commitment to its key and the account secret.
    pub commitment: [u8; 32],
    /// BLAKE3 of its sealed set.
    pub set: [u8; 32],
    /// When it began, as its entry claims: milliseconds since 1970.
    pub time_ms: u64,
}

/// Leave for one device to reach another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// The device that is reached, and signed.
    pub by: DeviceId,
    /// The device that may reach it.
    pub to: DeviceId,
    /// What it may do, sealed.
    pub scope: Vec<u8>,
    /// When it ends: milliseconds since 1970.
    pub until_ms: u64,
}

/// How somebody else's head stands to one's own log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The same.
    Same,
    /// An earlier entry of one's own log: they are behind, or hide something.
    Older,
    /// Beyond one's own log: there is something to fetch and verify.
    Newer,
    /// Same position, other entry: two logs exist. Freeze and alarm.
    Forked,
}

/// Which entry is refused, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("entry {seq} of the device log: {reason}")]
pub struct LogError {
    /// Its position.
    pub seq: u64,
    /// Why.
    #[source]
    pub reason: Refused,
}

/// Why an entry is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Longer than an entry may be.
    #[error("longer than an entry may be")]
    TooLong,
    /// Not the canonical encoding of an entry.
    #[error("not an entry")]
    Malformed(#[source] DecodeError),
    /// Signed as something other than an entry.
    #[error("not a device log entry but another signed thing")]
    OtherType,
    /// Another version of the format.
    #[error("another version of the format")]
    OtherVersion,
    /// Of another account.
    #[error("belongs to another account")]
    OtherAccount,
    /// The log does not begin with genesis, or has a second one.
    #[error("genesis stands first, once, and nowhere else")]
    Genesis,
    /// Not the position that follows.
    #[error("out of order")]
    WrongPosition,
    /// Does not name the entry before it.
    #[error("does not follow the entry before it")]
    BrokenChain,
    /// The signer is no device of the account.
    #[error("signed by a key that is not in the log")]
    KeyNotInLog,
    /// The signer was revoked.
    #[error("signed by a revoked device")]
    Revoked,
    /// The signature is wrong.
    #[error("wrong signature")]
    BadSignature,
    /// The signer may not do this.
    #[error("the signer may not do this")]
    NotAllowed,
    /// A public key is none, or is weak.
    #[error("a public key is malformed")]
    BadKey,
    /// A key is in the log already.
    #[error("a key is in the log already")]
    KeyTaken,
    /// The device that it is about is not an active one.
    #[error("about a device that is not in the account")]
    NoSuchDevice,
    /// The grant that it is about does not exist.
    #[error("about a grant that does not exist")]
    NoSuchGrant,
    /// A sealed name or scope has an impossible length.
    #[error("a sealed text has the wrong length")]
    BadText,
    /// An epoch number was left out or used twice.
    #[error("epoch numbers rise by one")]
    WrongEpoch,
    /// The position to keep is not one that stands.
    #[error("resets to a position that does not stand")]
    BadReset,
    /// More entries, devices or resets than a log may have.
    #[error("more than a log may hold")]
    TooMany,
    /// The log leads elsewhere and no root reset explains it.
    #[error("two logs exist for one account")]
    Forked,
}

/// The account id of a root signing key.
pub fn account_id(root: &[u8; 32]) -> AccountId {
    AccountId(labelled_hash(label::ACCOUNT_ID, root))
}

/// The device id of a device's signing key.
pub fn device_id(sign: &[u8; 32]) -> DeviceId {
    DeviceId(labelled_hash(label::DEVICE_ID, sign))
}

impl Account {
    /// Verifies a log from genesis.
    pub fn verify(id: AccountId, entries: &[Vec<u8>]) -> Result<Self, LogError> {
        let genesis = entries.first().ok_or(LogError { seq: 0, reason: Refused::Genesis })?;
        let mut account = Self::begin(id, genesis).map_err(|reason| LogError { seq: 0, reason })?;
        account.append(&entries[1..])?;
        Ok(account)
    }

    /// Verifies entries that follow this log and takes them in: all, or none if one is refused.
    pub fn extend(&mut self, entries: &[Vec<u8>]) -> Result<(), LogError> {
        let mut longer = self.clone();
        longer.append(entries)?;
        *self = longer;
        Ok(())
    }

    /// A device that is enrolled and not revoked.
    pub fn active(&self, device: &DeviceId) -> Option<&Device> {
        self.devices.get(device).filter(|device| !device.revoked)
    }

    /// The active device with this number.
    pub fn active_slot(&self, slot: Slot) -> Option<&Device> {
        self.active_devices().find(|device| device.slot == slot)
    }

    /// The active device with this TLS key.
    pub fn active_tls(&self, tls: &[u8; 32]) -> Option<&Device> {
        self.active_devices().find(|device| device.tls == *tls)
    }

    /// Every active device, by id.
    pub fn active_devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.values().filter(|device| !device.revoked)
    }

    /// The epoch whose keys are to be used, if one began.
    pub fn epoch(&self) -> Option<&Epoch> {
        self.epochs.last()
    }

    /// Whether a device that was revoked or discarded still holds the newest epoch's key, so that another is owed.
    pub fn epoch_is_owed(&self) -> bool {
        self.last_revocation.is_some_and(|revoked| self.epoch().is_none_or(|epoch| epoch.seq < revoked))
    }

    /// The number that the next epoch must have.
    pub fn next_epoch(&self) -> u32 {
        self.last_epoch + 1
    }

    /// Exact bytes of every entry, from genesis.
    pub fn entries(&self) -> &[Vec<u8>] {
        &self.entries
    }

    /// How somebody else's head stands to this log.
    pub fn judge(&self, head: &Head) -> Standing {
        if head.seq > self.head.seq {
            return Standing::Newer;
        }
        let own = usize::try_from(head.seq).ok().and_then(|seq| self.entries.get(seq));
        match own {
            Some(entry) if entry_hash(entry) != head.hash => Standing::Forked,
            Some(_) if head.seq == self.head.seq => Standing::Same,
            Some(_) | None => Standing::Older,
        }
    }

    /// Takes another log of the same account in place of this one, if the root resolved the fork in its favour: it
    /// holds a root reset that discards everything since the two parted, and this one holds no root reset since.
    pub fn resolve(&self, entries: &[Vec<u8>]) -> Result<Self, LogError> {
        let other = Self::verify(self.id, entries)?;
        let common = self.entries.iter().zip(&other.entries).take_while(|(own, theirs)| own == theirs).count();
        if common == self.entries.len() {
            return Ok(other);
        }
        let keeps =
            |log: &Self| -> Vec<u64> { log.entries[common..].iter().filter_map(|entry| reset(entry)).collect() };
        let discards_the_fork = |keep: &u64| usize::try_from(*keep).is_ok_and(|keep| keep < common);
        if keeps(self).is_empty() && keeps(&other).iter().any(discards_the_fork) {
            return Ok(other);
        }
        Err(LogError { seq: common as u64, reason: Refused::Forked })
    }

    /// An entry that would follow this log, ready to be signed.
    pub fn next_entry(&self, body: Body, signer: Signer, time_ms: u64) -> Entry {
        Entry {
            context: label::LOG_ENTRY.to_owned(),
            version: entry::VERSION,
            account: self.id,
            seq: self.head.seq + 1,
            prev: self.head.hash,
            body,
            signer,
            time_ms,
        }
    }

    /// The first entry of an account, ready to be signed by its root key.
    pub fn genesis_entry(root: [u8; 32], root_kem: Vec<u8>, time_ms: u64) -> Entry {
        Entry {
            context: label::LOG_ENTRY.to_owned(),
            version: entry::VERSION,
            account: account_id(&root),
            seq: 0,
            prev: [0; 32],
            body: Body::Genesis { root, root_kem },
            signer: Signer::Root,
            time_ms,
        }
    }

    fn begin(id: AccountId, bytes: &[u8]) -> Result<Self, Refused> {
        let entry = Entry::parse(bytes)?;
        let Body::Genesis { root, root_kem } = entry.body else { return Err(Refused::Genesis) };
        if entry.account != id || account_id(&root) != id {
            return Err(Refused::OtherAccount);
        }
        if entry.seq != 0 {
            return Err(Refused::WrongPosition);
        }
        if entry.prev != [0; 32] {
            return Err(Refused::BrokenChain);
        }
        if entry.signer != Signer::Root {
            return Err(Refused::NotAllowed);
        }
        if !is_signing_key(&root) || !seal::is_kem_key(&root_kem) {
            return Err(Refused::BadKey);
        }
        entry::check_signature(bytes, &root)?;
        Ok(Self {
            id,
            head: Head { seq: 0, hash: entry_hash(bytes) },
            root,
            root_kem,
            devices: BTreeMap::new(),
            epochs: Vec::new(),
            grants: BTreeMap::new(),
            config: None,
            time_ms: entry.time_ms,
            last_change: (Signer::Root, entry.time_ms),
            entries: vec![bytes.to_vec()],
            standing: vec![0],
            last_revocation: None,
            last_epoch: 0,
            resets: 0,
        })
    }

    fn append(&mut self, entries: &[Vec<u8>]) -> Result<(), LogError> {
        for bytes in entries {
            let seq = self.head.seq + 1;
            self.append_one(bytes).map_err(|reason| LogError { seq, reason })?;
        }
        Ok(())
    }

    fn append_one(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        if self.entries.len() >= MAX_ENTRIES {
            return Err(Refused::TooMany);
        }
        let entry = Entry::parse(bytes)?;
        if entry.account != self.id {
            return Err(Refused::OtherAccount);
        }
        if entry.seq != self.head.seq + 1 {
            return Err(Refused::WrongPosition);
        }
        if entry.prev != self.head.hash {
            return Err(Refused::BrokenChain);
        }
        entry::check_signature(bytes, self.signing_key(entry.signer)?)?;
        self.check_allowed(&entry)?;
        self.apply(&entry)?;
        self.entries.push(bytes.to_vec());
        self.standing.push(entry.seq);
        self.head = Head { seq: entry.seq, hash: entry_hash(bytes) };
        Ok(())
    }

    fn signing_key(&self, signer: Signer) -> Result<&[u8; 32], Refused> {
        match signer {
            Signer::Root => Ok(&self.root),
            Signer::Device(id) => match self.devices.get(&id) {
                None => Err(Refused::KeyNotInLog),
                Some(device) if device.revoked => Err(Refused::Revoked),
                Some(device) => Ok(&device.sign),
            },
        }
    }

    /// Decides whether the signer may do what the entry does. The root may do everything but speak for a device.
    fn check_allowed(&self, entry: &Entry) -> Result<(), Refused> {
        let signer = match entry.signer {
            Signer::Root => None,
            Signer::Device(id) => Some(self.active(&id).ok_or(Refused::KeyNotInLog)?),
        };
        let allowed = match &entry.body {
            Body::Genesis { .. } => return Err(Refused::Genesis),
            Body::AddDevice { caps, .. } => signer.is_none_or(|by| by.caps.enrol && caps.within(by.caps)),
            Body::RevokeDevice { .. } | Body::NewEpoch { .. } => signer.is_none_or(|by| by.caps.revoke),
            Body::Config { .. } => signer.is_none_or(|by| by.caps.enrol),
            Body::Rename { device, .. } => signer.is_none_or(|by| by.caps.enrol || by.id == *device),
            Body::RotateDeviceKey { .. } => signer.is_some(),
            Body::Grant { .. } => signer.is_some_and(|by| by.caps.grant),
            Body::RevokeGrant { grant } => {
                let owner = self.grants.get(grant).ok_or(Refused::NoSuchGrant)?.by;
                signer.is_none_or(|by| by.caps.revoke || by.id == owner)
            }
            Body::RootReset { .. } => signer.is_none(),
        };
        if allowed { Ok(()) } else { Err(Refused::NotAllowed) }
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), Refused> {
        match &entry.body {
            Body::Genesis { .. } => return Err(Refused::Genesis),
            Body::AddDevice { keys, name, caps } => self.add_device(entry, keys, name, *caps)?,
            Body::RevokeDevice { device } => {
                self.active_mut(device)?.revoked = true;
                self.grants.retain(|_, grant| grant.by != *device && grant.to != *device);
                self.last_revocation = Some(entry.seq);
            }
            Body::RotateDeviceKey { tls, kem } => {
                let Signer::Device(id) = entry.signer else { return Err(Refused::NotAllowed) };
                self.check_new_keys(&[tls], kem)?;
                let device = self.active_mut(&id)?;
                device.tls = *tls;
                device.kem.clone_from(kem);
            }
            Body::NewEpoch { number, commitment, set } => {
                if *number != self.next_epoch() {
                    return Err(Refused::WrongEpoch);
                }
                self.last_epoch = *number;
                self.push_epoch(entry, *number, *commitment, *set);
            }
            Body::Grant { to, scope, until_ms } => {
                let Signer::Device(by) = entry.signer else { return Err(Refused::NotAllowed) };
                if scope.len() > MAX_SCOPE {
                    return Err(Refused::BadText);
                }
                if by == *to || self.active(to).is_none() {
                    return Err(Refused::NoSuchDevice);
                }
                let grant = Grant { by, to: *to, scope: scope.clone(), until_ms: *until_ms };
                self.grants.insert(entry.seq, grant);
            }
            Body::RevokeGrant { grant } => {
                self.grants.remove(grant).ok_or(Refused::NoSuchGrant)?;
            }
            Body::Config { hash } => self.config = Some(*hash),
            Body::RootReset { keep } => {
                self.reset(*keep)?;
                self.last_revocation = Some(entry.seq);
            }
            Body::Rename { device, name } => {
                check_name(name)?;
                self.active_mut(device)?.name.clone_from(name);
            }
        }
        self.time_ms = self.time_ms.max(entry.time_ms);
        self.last_change = (entry.signer, entry.time_ms);
        Ok(())
    }

    fn add_device(&mut self, entry: &Entry, keys: &PublicKeys, name: &[u8], caps: Caps) -> Result<(), Refused> {
        check_name(name)?;
        self.check_new_keys(&[&keys.sign, &keys.tls], &keys.kem)?;
        if self.active_devices().count() >= MAX_DEVICES {
            return Err(Refused::TooMany);
        }
        let id = device_id(&keys.sign);
        let device = Device {
            id,
            slot: Slot(u16::try_from(entry.seq).expect("a log has at most MAX_ENTRIES entries")),
            sign: keys.sign,
            tls: keys.tls,
            kem: keys.kem.clone(),
            name: name.to_vec(),
            caps,
            revoked: false,
            added_ms: entry.time_ms,
        };
        self.devices.insert(id, device);
        Ok(())
    }

    fn push_epoch(&mut self, entry: &Entry, number: u32, commitment: [u8; 32], set: [u8; 32]) {
        self.epochs.push(Epoch { number, seq: entry.seq, commitment, set, time_ms: entry.time_ms });
    }

    /// Makes the state what it was after `keep` by replaying what stood then. The entries stay in the chain, and
    /// their positions and epoch numbers are not given out again.
    fn reset(&mut self, keep: u64) -> Result<(), Refused> {
        let kept = self.standing.binary_search(&keep).map_err(|_| Refused::BadReset)? + 1;
        self.resets += 1;
        if self.resets > MAX_RESETS {
            return Err(Refused::TooMany);
        }
        self.standing.truncate(kept);
        self.devices.clear();
        self.epochs.clear();
        self.grants.clear();
        self.config = None;
        self.time_ms = 0;
        self.last_revocation = None;
        for seq in self.standing.clone() {
            let bytes = usize::try_from(seq).ok().and_then(|seq| self.entries.get(seq));
            let entry = Entry::parse(bytes.expect("what stands is in the log")).expect("it was parsed before");
            match &entry.body {
                Body::Genesis { .. } => self.time_ms = entry.time_ms,
                Body::RootReset { .. } => self.last_revocation = Some(seq),
                Body::NewEpoch { number, commitment, set } => self.push_epoch(&entry, *number, *commitment, *set),
                Body::AddDevice { .. }
                | Body::RevokeDevice { .. }
                | Body::RotateDeviceKey { .. }
                | Body::Grant { .. }
                | Body::RevokeGrant { .. }
                | Body::Config { .. }
                | Body::Rename { .. } => self.apply(&entry)?,
            }
        }
        Ok(())
    }

    /// A key serves one purpose of one device, revoked ones included.
    fn check_new_keys(&self, keys: &[&[u8; 32]], kem: &[u8]) -> Result<(), Refused> {
        if !keys.iter().all(|key| is_signing_key(key)) || !seal::is_kem_key(kem) {
            return Err(Refused::BadKey);
        }
        let taken = |key: &[u8; 32]| {
            *key == self.root || self.devices.values().any(|device| device.sign == *key || device.tls == *key)
        };
        let twice = keys.len() == 2 && keys[0] == keys[1];
        let kem_taken = kem == self.root_kem || self.devices.values().any(|device| device.kem == kem);
        if twice || kem_taken || keys.iter().any(|key| taken(key)) {
            return Err(Refused::KeyTaken);
        }
        Ok(())
    }

    fn active_mut(&mut self, device: &DeviceId) -> Result<&mut Device, Refused> {
        self.devices.get_mut(device).filter(|device| !device.revoked).ok_or(Refused::NoSuchDevice)
    }
}

fn check_name(name: &[u8]) -> Result<(), Refused> {
    if name.len() == SEALED_NAME { Ok(()) } else { Err(Refused::BadText) }
}

/// A key has one encoding here, so that it cannot come twice under two ids.
fn is_signing_key(bytes: &[u8; 32]) -> bool {
    VerifyingKey::from_bytes(bytes).is_ok_and(|key| !key.is_weak() && key.to_edwards().compress().to_bytes() == *bytes)
}

/// The position that an entry resets to, if it is a root reset.
fn reset(bytes: &[u8]) -> Option<u64> {
    match Entry::parse(bytes).ok()?.body {
        Body::RootReset { keep } => Some(keep),
        Body::Genesis { .. }
        | Body::AddDevice { .. }
        | Body::RevokeDevice { .. }
        | Body::RotateDeviceKey { .. }
        | Body::NewEpoch { .. }
        | Body::Grant { .. }
        | Body::RevokeGrant { .. }
        | Body::Config { .. }
        | Body::Rename { .. } => None,
    }
}

fn labelled_hash(label: &str, key: &[u8; 32]) -> [u8; 32] {
    *blake3::Hasher::new().update(label.as_bytes()).update(key).finalize().as_bytes()
}

#[cfg(test)]
mod tests;
