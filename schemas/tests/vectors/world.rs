//! An account with one device, and keys for more, all from fixed seeds.

use hearth_schemas::keys::{DeviceKeys, Phrase, Root};
use hearth_schemas::log::{Account, Body, Caps, Entry, Signer};

/// An account with one device, from fixed seeds.
pub(crate) struct World {
    pub(crate) root: Root,
    pub(crate) device: DeviceKeys,
    pub(crate) account: Account,
}

impl World {
    pub(crate) fn new() -> Self {
        let root = Phrase::random(&mut |bytes| bytes.fill(0x10)).root();
        let genesis = Account::genesis_entry(root.sign_public(), root.kem_public(), 1_700_000_000_000);
        let mut account = Account::verify(root.account(), &[genesis.sign(&root.sign)]).expect("a genesis");
        let device = keys(0x20);
        let entry = account.next_entry(add(&device, Caps::ALL), Signer::Root, 1_700_000_000_000).sign(&root.sign);
        account.extend(&[entry]).expect("a good entry");
        Self { root, device, account }
    }

    pub(crate) fn sign(&self, entry: &Entry) -> Vec<u8> {
        match entry.signer {
            Signer::Root => entry.sign(&self.root.sign),
            Signer::Device(_) => entry.sign(&self.device.sign),
        }
    }
}

/// A device's keys.
pub(crate) fn keys(seed: u8) -> DeviceKeys {
    DeviceKeys::random(&mut |bytes| {
        for (key, value) in bytes.chunks_mut(32).zip(seed..) {
            key.fill(value);
        }
    })
}

/// What lets a device in.
pub(crate) fn add(device: &DeviceKeys, caps: Caps) -> Body {
    Body::AddDevice { keys: device.public(), name: sealed_name(), caps }
}

/// A name's bytes are opaque to the log; only their length is looked at.
fn sealed_name() -> Vec<u8> {
    vec![8; hearth_schemas::log::SEALED_NAME]
}
