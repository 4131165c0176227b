//! The sealed set of an epoch: how its key and the account secret reach every device, and the root.
//!
//! The epoch key is sealed to the KEM key of each active device and of the root; the account secret is wrapped under
//! the epoch's "wrap" key beside them. The log commits to both secrets and to the set's bytes, so that whoever
//! keeps the set can neither exchange a key nor the set. The relay holds these bytes and opens none of them.

use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError};
use crate::ids::{AccountId, Slot};
use crate::label;
use crate::log::{Account, Epoch};
use crate::relay::MAX_BLOB;
use crate::seal::{self, Entropy, NotOpened, SealedTo};

use super::{AccountSecret, EpochKey, Secret};

const VERSION: u8 = 1;

/// Why a sealed set gives no keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EpochError {
    /// Not the set that the log names.
    #[error("not the sealed set that the device log names")]
    OtherSet,
    /// Not a sealed set.
    #[error("not a sealed set")]
    Malformed(#[source] DecodeError),
    /// It is not sealed to this recipient.
    #[error("the epoch key is not sealed to this device")]
    NotForUs,
    /// It does not open.
    #[error(transparent)]
    NotOpened(#[from] NotOpened),
    /// It holds other keys than the log commits to.
    #[error("the sealed set holds other keys than the device log commits to")]
    OtherKeys,
}

/// Who opens a sealed set.
#[derive(Clone, Copy)]
pub enum Recipient<'a> {
    /// An active device, with its KEM seed.
    Device(Slot, &'a Secret),
    /// The root, with its KEM seed.
    Root(&'a Secret),
}

#[derive(Serialize, Deserialize)]
struct EpochSet {
    version: u8,
    account: AccountId,
    number: u32,
    root: SealedTo,
    devices: Vec<(Slot, SealedTo)>,
    secret: Vec<u8>,
}

/// What the log holds of an epoch's secrets: a hash that tells nothing of them and fits no others.
pub fn commitment(account: AccountId, number: u32, key: &EpochKey, secret: &AccountSecret) -> [u8; 32] {
    *blake3::Hasher::new()
        .update(label::EPOCH_COMMITMENT.as_bytes())
        .update(&account.0)
        .update(&number.to_le_bytes())
        .update(key.0.bytes())
        .update(secret.0.bytes())
        .finalize()
        .as_bytes()
}

/// Seals an epoch's key and the account secret to every active device of the account and to its root.
pub fn seal_set(
    account: &Account,
    number: u32,
    key: &EpochKey,
    secret: &AccountSecret,
    entropy: Entropy<'_>,
) -> Vec<u8> {
    let mut to = |kem: &[u8], slot: Option<Slot>| {
        let place = place(account.id, number, slot);
        seal::seal_to(kem, label::EPOCH_SET.as_bytes(), &place, key.0.bytes(), &mut *entropy)
            .expect("the log holds well-formed KEM keys only")
    };
    let root = to(&account.root_kem, None);
    let mut devices: Vec<_> =
        account.active_devices().map(|device| (device.slot, to(&device.kem, Some(device.slot)))).collect();
    devices.sort_by_key(|(slot, _)| *slot);
    let secret = seal::seal(key.wrap().bytes(), &secret_place(account.id, number), secret.0.bytes(), entropy);
    codec::encode(&EpochSet { version: VERSION, account: account.id, number, root, devices, secret })
}

/// Opens a sealed set that was fetched by the hash in the log, and holds it against the log's commitments.
pub fn open_set(
    account: AccountId,
    epoch: &Epoch,
    bytes: &[u8],
    recipient: Recipient<'_>,
) -> Result<(EpochKey, AccountSecret), EpochError> {
    if *blake3::hash(bytes).as_bytes() != epoch.set {
        return Err(EpochError::OtherSet);
    }
    let set: EpochSet = codec::decode(bytes, MAX_BLOB).map_err(EpochError::Malformed)?;
    if set.version != VERSION || set.account != account || set.number != epoch.number {
        return Err(EpochError::OtherSet);
    }
    let (sealed, slot, seed) = match recipient {
        Recipient::Root(seed) => (&set.root, None, seed),
        Recipient::Device(slot, seed) => {
            let found = set.devices.iter().find(|(to, _)| *to == slot).ok_or(EpochError::NotForUs)?;
            (&found.1, Some(slot), seed)
        }
    };
    let place = place(account, epoch.number, slot);
    let key = seal::open_with(seed.bytes(), label::EPOCH_SET.as_bytes(), &place, sealed)?;
    let key = EpochKey(secret_of(&key)?);
    let secret = seal::open(key.wrap().bytes(), &secret_place(account, epoch.number), &set.secret)?;
    let secret = AccountSecret(secret_of(&secret)?);
    if commitment(account, epoch.number, &key, &secret) != epoch.commitment {
        return Err(EpochError::OtherKeys);
    }
    Ok((key, secret))
}

fn secret_of(bytes: &[u8]) -> Result<Secret, NotOpened> {
    Ok(Secret::from_bytes(bytes.try_into().map_err(|_| NotOpened)?))
}

fn place(account: AccountId, number: u32, slot: Option<Slot>) -> Vec<u8> {
    codec::encode(&(label::EPOCH_SET, account, number, slot))
}

fn secret_place(account: AccountId, number: u32) -> Vec<u8> {
    codec::encode(&(label::ACCOUNT_SECRET, account, number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{DeviceKeys, Phrase, Root};
    use crate::log::{Body, Caps, SEALED_NAME, Signer};

    #[test]
    fn the_root_and_every_device_open_the_set() {
        let world = World::new();
        for recipient in [Recipient::Device(Slot(1), &world.device.kem), Recipient::Root(&world.root.kem)] {
            let (key, secret) = world.open(&world.set, recipient).expect("sealed to it");
            assert!(key == world.key && secret == world.secret);
        }
        let stranger = Secret::from_bytes([9; 32]);
        assert_eq!(world.refused(Recipient::Device(Slot(1), &stranger)), Some(EpochError::NotOpened(NotOpened)));
        assert_eq!(world.refused(Recipient::Root(&world.device.kem)), Some(EpochError::NotOpened(NotOpened)));
        assert_eq!(world.refused(Recipient::Device(Slot(2), &world.device.kem)), Some(EpochError::NotForUs));
    }

    #[test]
    fn no_changed_byte_is_accepted() {
        let world = World::new();
        let to_root = Recipient::Root(&world.root.kem);
        for byte in 0..world.set.len() {
            let mut changed = world.set.clone();
            changed[byte] ^= 1;
            assert_eq!(world.open(&changed, to_root).err(), Some(EpochError::OtherSet), "byte {byte}");
        }
    }

    #[test]
    fn a_set_that_fits_the_log_but_not_its_commitment_is_refused() {
        let mut world = World::new();
        world.epoch.commitment[0] ^= 1;
        assert_eq!(world.refused(Recipient::Root(&world.root.kem)), Some(EpochError::OtherKeys));
        // Another epoch's set, signed into this place.
        world.set = seal_set(&world.account, 2, &world.key, &world.secret, &mut |bytes| bytes.fill(3));
        world.epoch.set = *blake3::hash(&world.set).as_bytes();
        assert_eq!(world.refused(Recipient::Root(&world.root.kem)), Some(EpochError::OtherSet));
    }

    #[test]
    fn a_revoked_device_is_no_recipient() {
        let mut world = World::new();
        let revoke = Body::RevokeDevice { device: world.device.id() };
        let entry = world.account.next_entry(revoke, Signer::Root, 0).sign(&world.root.sign);
        world.account.extend(&[entry]).expect("a good entry");
        world.set = seal_set(&world.account, 1, &world.key, &world.secret, &mut |bytes| bytes.fill(3));
        world.epoch.set = *blake3::hash(&world.set).as_bytes();
        assert_eq!(world.refused(Recipient::Device(Slot(1), &world.device.kem)), Some(EpochError::NotForUs));
        assert_eq!(world.refused(Recipient::Root(&world.root.kem)), None);
    }

    /// An account with one device and the sealed set of its first epoch.
    struct World {
        root: Root,
        device: DeviceKeys,
        account: Account,
        key: EpochKey,
        secret: AccountSecret,
        set: Vec<u8>,
        epoch: Epoch,
    }

    impl World {
        fn new() -> Self {
            let root = Phrase::random(&mut |bytes| bytes.fill(1)).root();
            let genesis = Account::genesis_entry(root.sign_public(), root.kem_public(), 0).sign(&root.sign);
            let mut account = Account::verify(root.account(), &[genesis]).expect("a genesis");
            let mut keys = [2; crate::keys::DEVICE_KEYS];
            keys[40] = 3;
            let device = DeviceKeys::from_bytes(&keys);
            let add = Body::AddDevice { keys: device.public(), name: vec![0; SEALED_NAME], caps: Caps::ALL };
            account.extend(&[account.next_entry(add, Signer::Root, 0).sign(&root.sign)]).expect("a good entry");
            let (key, secret) = (EpochKey(Secret::from_bytes([4; 32])), AccountSecret(Secret::from_bytes([5; 32])));
            let set = seal_set(&account, 1, &key, &secret, &mut |bytes| bytes.fill(3));
            let epoch = Epoch {
                number: 1,
                seq: 2,
                commitment: commitment(account.id, 1, &key, &secret),
                set: *blake3::hash(&set).as_bytes(),
                time_ms: 0,
            };
            Self { root, device, account, key, secret, set, epoch }
        }

        fn open(&self, set: &[u8], recipient: Recipient<'_>) -> Result<(EpochKey, AccountSecret), EpochError> {
            open_set(self.account.id, &self.epoch, set, recipient)
        }

        fn refused(&self, recipient: Recipient<'_>) -> Option<EpochError> {
            self.open(&self.set, recipient).err()
        }
    }
}
