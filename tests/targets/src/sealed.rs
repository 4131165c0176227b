//! Sealed bytes from the relay and from disk: pieces, names, epoch sets. Nothing opens that was not sealed for this place.

use std::sync::LazyLock;

use hearth_schemas::codec;
use hearth_schemas::ids::{AccountId, DeviceId, Slot};
use hearth_schemas::keys::epoch::{Recipient, commitment, open_set};
use hearth_schemas::keys::{AccountSecret, EpochKey, Secret, name};
use hearth_schemas::log::Epoch;
use hearth_schemas::seal::{self, SealedTo};

use crate::{counting, decodes};

const KEY: [u8; 32] = [7; 32];
const ACCOUNT: AccountId = AccountId([1; 32]);
const DEVICE: DeviceId = DeviceId([2; 32]);

static RECIPIENT: LazyLock<Vec<u8>> = LazyLock::new(|| seal::kem_public(&KEY));

/// The first byte chooses what is opened, and whether the bytes are sealed first, so that what is behind the seal is met.
pub fn run(bytes: &[u8]) {
    let Some((format, bytes)) = bytes.split_first() else { return };
    match format % 6 {
        0 => assert!(seal::open(&KEY, b"place", bytes).is_err(), "opens without having been sealed"),
        1 => sealed(bytes),
        2 => {
            let sealed = decodes::<SealedTo>(bytes, 64 << 10);
            assert!(sealed.is_none_or(|sealed| seal::open_with(&KEY, b"info", b"place", &sealed).is_err()));
            let _ = seal::is_kem_key(bytes);
        }
        3 => sealed_to(bytes),
        4 => device_name(bytes),
        _ => epoch_set(bytes),
    }
}

fn sealed(bytes: &[u8]) {
    let Some((change, plain)) = bytes.split_first_chunk::<3>() else { return };
    let mut sealed = seal::seal(&KEY, b"place", plain, &mut counting());
    assert_eq!(sealed.len(), plain.len() + seal::OVERHEAD);
    assert_eq!(seal::open(&KEY, b"place", &sealed).expect("unchanged").as_slice(), plain);
    changed(&mut sealed, change);
    assert!(seal::open(&KEY, b"place", &sealed).is_err(), "opens though it was changed");
}

fn sealed_to(bytes: &[u8]) {
    let Some((change, plain)) = bytes.split_first_chunk::<3>() else { return };
    let made = seal::seal_to(&RECIPIENT, b"info", b"place", plain, &mut counting());
    let mut sealed = made.expect("the recipient is a key");
    assert_eq!(seal::open_with(&KEY, b"info", b"place", &sealed).expect("unchanged").as_slice(), plain);
    if change[2] & 0x80 == 0 {
        changed(&mut sealed.bytes, change)
    } else {
        changed(&mut sealed.key, change)
    }
    assert!(seal::open_with(&KEY, b"info", b"place", &sealed).is_err(), "opens though it was changed");
}

/// Flips a bit.
fn changed(bytes: &mut [u8], [low, high, bit]: &[u8; 3]) {
    let at = usize::from(u16::from_le_bytes([*low, *high])) % bytes.len();
    bytes[at] ^= 1 << (bit % 8);
}

/// What a member of the account could have sealed as a name: it opens only where it is one.
fn device_name(bytes: &[u8]) {
    let secret = AccountSecret(Secret::from_bytes(KEY));
    assert!(name::open_name(&secret, ACCOUNT, DEVICE, bytes).is_err());
    let place = codec::encode(&(hearth_schemas::label::DEVICE_NAME, ACCOUNT, DEVICE));
    let sealed = seal::seal(secret.names().bytes(), &place, bytes, &mut counting());
    if let Ok(name) = name::open_name(&secret, ACCOUNT, DEVICE, &sealed) {
        assert_eq!(name::check(&name), Ok(()));
        let again = name::seal_name(&secret, ACCOUNT, DEVICE, &name, &mut counting()).expect("it was checked");
        assert_eq!(name::open_name(&secret, ACCOUNT, DEVICE, &again).as_ref(), Ok(&name));
    }
}

/// A set whose hash is in the log, from a member that seals anything.
fn epoch_set(bytes: &[u8]) {
    let (key, secret) = (EpochKey(Secret::from_bytes([3; 32])), AccountSecret(Secret::from_bytes(KEY)));
    let mut epoch = Epoch {
        number: 1,
        seq: 1,
        commitment: commitment(ACCOUNT, 1, &key, &secret),
        set: *blake3::hash(bytes).as_bytes(),
        time_ms: 0,
    };
    let seed = Secret::from_bytes(KEY);
    for recipient in [|seed| Recipient::Root(seed), |seed| Recipient::Device(Slot(1), seed)] {
        if let Ok((opened, account)) = open_set(ACCOUNT, &epoch, bytes, recipient(&seed)) {
            assert!(opened.0 == key.0 && account.0 == secret.0, "other keys than the log commits to");
        }
    }
    epoch.set[0] ^= 1;
    assert!(open_set(ACCOUNT, &epoch, bytes, Recipient::Root(&seed)).is_err(), "another set than that of the log");
}
