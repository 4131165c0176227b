//! An account with its secret keys, for tests: makes logs, entries and login signatures.

use hearth_schemas::ids::{AccountId, Slot};
use hearth_schemas::keys::{self, DeviceKeys, Phrase, Root};
use hearth_schemas::log::{Account, Body, Caps, SEALED_NAME, Signer};
use hearth_schemas::relay::{Head, Request, login_message};

/// The sealed epoch set that every household's log names.
pub(crate) const BLOB: &[u8] = b"a sealed epoch set";

/// An account, its root and its devices.
pub(crate) struct Household {
    pub(crate) root: Root,
    pub(crate) devices: Vec<DeviceKeys>,
    pub(crate) account: Account,
}

impl Household {
    /// Makes an account with so many devices and one epoch; another seed is another account.
    pub(crate) fn new(seed: u8, devices: u8) -> Self {
        let root = Phrase::random(&mut |bytes| bytes.fill(seed)).root();
        let genesis = Account::genesis_entry(root.sign_public(), root.kem_public(), 0).sign(&root.sign);
        let account = Account::verify(root.account(), &[genesis]).expect("a genesis");
        let mut household = Self { root, devices: Vec::new(), account };
        for device in 0..devices {
            let entry = household.adding(&device_keys(seed, device));
            household.account.extend(&[entry]).expect("a good entry");
            household.devices.push(device_keys(seed, device));
        }
        let entry = household.epoch(1, BLOB);
        household.account.extend(&[entry]).expect("a good entry");
        household
    }

    pub(crate) fn id(&self) -> AccountId {
        self.account.id
    }

    pub(crate) fn head(&self) -> Head {
        self.account.head
    }

    pub(crate) fn slot(&self, device: usize) -> Slot {
        self.account.devices[&self.devices[device].id()].slot
    }

    pub(crate) fn creation(&self) -> Request {
        Request::CreateAccount { entries: self.account.entries().to_vec(), blobs: vec![BLOB.to_vec()], invite: None }
    }

    pub(crate) fn login(&self, device: usize, exporter: &[u8; 32]) -> Request {
        let message = login_message(self.id(), "device", exporter);
        let keys = &self.devices[device];
        Request::Login { account: self.id(), device: keys.id(), signature: keys::sign(&keys.sign, &message) }
    }

    pub(crate) fn root_login(&self, exporter: &[u8; 32]) -> Request {
        let message = login_message(self.id(), "root", exporter);
        Request::LoginRoot { root: self.root.sign_public(), signature: keys::sign(&self.root.sign, &message) }
    }

    /// An append of one entry that revokes a device, and the log with it.
    pub(crate) fn revoke(&mut self, device: usize) -> Request {
        let entry = self.root_says(Body::RevokeDevice { device: self.devices[device].id() });
        self.append(entry)
    }

    /// An append of one entry, and the log with it.
    pub(crate) fn append(&mut self, entry: Vec<u8>) -> Request {
        let after = self.head();
        self.account.extend(std::slice::from_ref(&entry)).expect("a good entry");
        Request::Append { after, entries: vec![entry], blobs: Vec::new() }
    }

    pub(crate) fn epoch(&self, number: u32, set: &[u8]) -> Vec<u8> {
        self.root_says(Body::NewEpoch { number, commitment: [1; 32], set: *blake3::hash(set).as_bytes() })
    }

    pub(crate) fn adding(&self, device: &DeviceKeys) -> Vec<u8> {
        self.root_says(Body::AddDevice { keys: device.public(), name: vec![7; SEALED_NAME], caps: Caps::ALL })
    }

    fn root_says(&self, body: Body) -> Vec<u8> {
        self.account.next_entry(body, Signer::Root, 0).sign(&self.root.sign)
    }
}

/// The keys of a device, the same for the same numbers.
pub(crate) fn device_keys(household: u8, device: u8) -> DeviceKeys {
    let mut key = 0;
    DeviceKeys::random(&mut |bytes| {
        for chunk in bytes.chunks_mut(32) {
            key += 1;
            chunk.copy_from_slice(blake3::hash(&[household, device, key]).as_bytes());
        }
    })
}
