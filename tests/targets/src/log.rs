//! The device log: entries as bytes, and logs that grow by entries which are rightly signed and may be nonsense.

use std::sync::LazyLock;

use arbitrary::{Result, Unstructured};
use hearth_schemas::codec;
use hearth_schemas::keys::{DEVICE_KEYS, DeviceKeys, Phrase, Root};
use hearth_schemas::log::{
    Account, Body, Caps, Entry, MAX_DEVICES, MAX_ENTRY, PublicKeys, SEALED_NAME, Signer, Standing,
};
use hearth_schemas::relay::Head;

use crate::counting;

/// Most entries of a log here.
const ENTRIES: usize = 16;

struct World {
    root: Root,
    devices: Vec<(DeviceKeys, PublicKeys)>,
    genesis: Vec<u8>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let root = Phrase::random(&mut counting()).root();
    let devices = (1..=5).map(|number| DeviceKeys::from_bytes(&[number; DEVICE_KEYS]));
    let devices = devices.map(|keys| (keys.clone(), keys.public())).collect();
    let genesis = Account::genesis_entry(root.sign_public(), root.kem_public(), 0).sign(&root.sign);
    World { root, devices, genesis }
});

/// The first byte chooses: one entry's bytes, or a log.
pub fn run(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    if kind % 4 == 0 {
        return one(bytes);
    }
    let mut u = Unstructured::new(bytes);
    let mut account =
        Account::verify(WORLD.root.account(), std::slice::from_ref(&WORLD.genesis)).expect("it begins with genesis");
    let _ = grows(&mut u, &mut account);
    let again = Account::verify(account.id, account.entries());
    assert_eq!(again.as_ref(), Ok(&account), "what was taken entry by entry is not what is verified at once");
}

fn one(bytes: &[u8]) {
    if let Ok(entry) = Entry::parse(bytes) {
        assert!(bytes.len() <= MAX_ENTRY);
        assert_eq!(codec::encode(&entry), bytes[..bytes.len() - 64]);
    }
    let log = [bytes.to_vec()];
    assert!(Account::verify(WORLD.root.account(), &log).is_err() || log[0] == WORLD.genesis, "a genesis from nowhere");
}

fn grows(u: &mut Unstructured<'_>, account: &mut Account) -> Result<()> {
    while account.entries().len() < ENTRIES && !u.is_empty() {
        let before = account.clone();
        let (entry, by) = entry(u, account)?;
        let mut bytes = match by {
            None => entry.sign(&WORLD.root.sign),
            Some(device) => entry.sign(&WORLD.devices[device].0.sign),
        };
        let flipped = u.ratio(1, 16)?;
        if flipped {
            let at = u.choose_index(bytes.len())?;
            bytes[at] ^= 1 << u.int_in_range(0..=7)?;
        }
        let taken = account.extend(std::slice::from_ref(&bytes));
        let Ok(()) = taken else {
            assert_eq!(*account, before, "a refused entry has an effect");
            continue;
        };
        assert!(!flipped, "a changed entry is taken");
        holds(account, &before, &entry, &bytes);
    }
    Ok(())
}

/// What is true of every log, and of every entry that was taken.
fn holds(account: &Account, before: &Account, entry: &Entry, bytes: &[u8]) {
    assert_eq!((entry.seq, entry.prev), (before.head.seq + 1, before.head.hash), "an entry out of its place");
    assert_eq!(account.entries().last().map(Vec::as_slice), Some(bytes));
    match entry.signer {
        Signer::Root => {}
        Signer::Device(id) => {
            let by = before.active(&id).expect("signed by a device that was in the account");
            let allowed = match &entry.body {
                Body::AddDevice { caps, .. } => by.caps.enrol && caps.within(by.caps),
                Body::RevokeDevice { .. } | Body::NewEpoch { .. } => by.caps.revoke,
                Body::Genesis { .. } | Body::RootReset { .. } => false,
                Body::RotateDeviceKey { .. }
                | Body::Grant { .. }
                | Body::RevokeGrant { .. }
                | Body::Config { .. }
                | Body::Rename { .. } => true,
            };
            assert!(allowed, "{:?} may not do this", by.caps);
        }
    }
    assert!(account.active_devices().count() <= MAX_DEVICES);
    for device in account.active_devices() {
        assert_eq!(
            account.active_slot(device.slot).map(|found| found.id),
            Some(device.id),
            "two devices with one slot"
        );
        assert_eq!(account.active_tls(&device.tls).map(|found| found.id), Some(device.id), "two devices with one key");
    }
    assert!(account.epochs.windows(2).all(|pair| pair[0].number < pair[1].number));
    assert_eq!(account.judge(&account.head), Standing::Same);
    assert_eq!(account.judge(&before.head), Standing::Older);
    assert_eq!(before.judge(&account.head), Standing::Newer);
    let other = Head { hash: [0; 32], ..before.head };
    assert_eq!(account.judge(&other), Standing::Forked);
    assert_eq!(before.resolve(account.entries()).as_ref(), Ok(account));
}

/// An entry that follows the log, or nearly; with whose key it is signed.
fn entry(u: &mut Unstructured<'_>, account: &Account) -> Result<(Entry, Option<usize>)> {
    let by = if u.ratio(1, 4)? { None } else { Some(u.choose_index(WORLD.devices.len())?) };
    let signer = by.map_or(Signer::Root, |device| Signer::Device(WORLD.devices[device].0.id()));
    let mut entry = account.next_entry(body(u, account)?, signer, u.int_in_range(0..=9)?);
    match u.int_in_range(0..=31u8)? {
        0 => entry.seq = u.int_in_range(0..=9)?,
        1 => entry.prev[0] ^= 1,
        2 => entry.version = u.arbitrary()?,
        3 => entry.context = "hearth relay login v1".to_owned(),
        4 => entry.account.0[0] ^= 1,
        5 => entry.signer = Signer::Root,
        6 => entry.time_ms = u64::MAX,
        _ => {}
    }
    Ok((entry, by))
}

fn body(u: &mut Unstructured<'_>, account: &Account) -> Result<Body> {
    let keys = |u: &mut Unstructured<'_>| -> Result<PublicKeys> { Ok(WORLD.devices[u.choose_index(5)?].1.clone()) };
    let device = WORLD.devices[u.choose_index(5)?].0.id();
    let name = vec![1; if u.ratio(15, 16)? { SEALED_NAME } else { u.int_in_range(0..=600)? }];
    Ok(match u.int_in_range(0..=12u8)? {
        0..=3 => {
            let mut keys = keys(u)?;
            match u.int_in_range(0..=9u8)? {
                0 => keys.tls = u.arbitrary()?,
                1 => keys.sign = u.arbitrary()?,
                2 => keys.kem.truncate(u.int_in_range(0..=1216)?),
                3 => keys.tls = keys.sign,
                _ => {}
            }
            let bits: u8 = u.arbitrary()?;
            let caps = Caps { sync: bits & 1 == 0, enrol: bits & 2 == 0, revoke: bits & 4 == 0, grant: bits & 8 == 0 };
            Body::AddDevice { keys, name, caps }
        }
        4 | 5 => Body::RevokeDevice { device },
        6 => {
            let other = keys(u)?;
            Body::RotateDeviceKey { tls: if u.arbitrary()? { u.arbitrary()? } else { other.tls }, kem: other.kem }
        }
        7 | 8 => {
            let off = u.int_in_range(0..=8u32)?;
            let number = if off < 7 { account.next_epoch() } else { off };
            Body::NewEpoch { number, commitment: [1; 32], set: [2; 32] }
        }
        9 => Body::Grant { to: device, scope: vec![3; u.int_in_range(0..=600)?], until_ms: u.arbitrary()? },
        10 => Body::RevokeGrant { grant: u.int_in_range(0..=ENTRIES as u64)? },
        11 => match u.arbitrary()? {
            true => Body::Config { hash: u.arbitrary()? },
            false => Body::Rename { device, name },
        },
        _ => Body::RootReset { keep: u.int_in_range(0..=ENTRIES as u64)? },
    })
}
