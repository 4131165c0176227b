//! `epoch.txt`: the sealed set of an epoch, and what is derived from what it opens to.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use hearth_schemas::ids::{AccountId, Slot};
use hearth_schemas::keys::epoch::{self, Recipient};
use hearth_schemas::keys::{AccountSecret, EpochKey, Secret};

use crate::file::{hex, lines, same_as_file};
use crate::world::World;

#[test]
fn epoch_sets_are_sealed_as_ever() {
    same_as_file("epoch.txt", &epoch_vectors());
}

#[test]
fn epoch_sets_open_to_the_keys_that_are_written() {
    let mut values: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for line in lines("epoch.txt") {
        let [name, value] = line.as_slice() else { panic!("unknown line {line:?}") };
        values.insert(name.clone(), hex(value));
    }
    let array = |name: &str| -> [u8; 32] { values[name].as_slice().try_into().expect("32 bytes") };
    let (root, device) = (Secret::from_bytes(array("root-kem")), Secret::from_bytes(array("device-kem")));
    let set = &values["set"];
    let epoch = hearth_schemas::log::Epoch {
        number: 1,
        seq: 2,
        commitment: array("commitment"),
        set: *blake3::hash(set).as_bytes(),
        time_ms: 0,
    };
    for recipient in [Recipient::Root(&root), Recipient::Device(Slot(1), &device)] {
        let opened = epoch::open_set(AccountId(array("account")), &epoch, set, recipient);
        let Ok((key, secret)) = opened else { panic!("does not open") };
        assert_eq!((key.0.bytes(), secret.0.bytes()), (&array("epoch-key"), &array("account-secret")));
        for (name, derived) in derived(&key, &secret) {
            assert_eq!(derived.bytes(), &array(name), "{name}");
        }
    }
}

fn epoch_vectors() -> String {
    let world = World::new();
    let (key, secret) = (EpochKey(Secret::from_bytes([0x55; 32])), AccountSecret(Secret::from_bytes([0x66; 32])));
    let set = epoch::seal_set(&world.account, 1, &key, &secret, &mut |bytes| bytes.fill(0x77));
    let mut out = String::from("# An epoch's sealed set, what opens it, and what it opens to: NAME BYTES\n");
    let mut line = |name: &str, bytes: &[u8]| writeln!(out, "{name} {}", HEXLOWER.encode(bytes)).expect("memory");
    line("account", &world.account.id.0);
    line("root-kem", world.root.kem.bytes());
    line("device-kem", world.device.kem.bytes());
    line("commitment", &epoch::commitment(world.account.id, 1, &key, &secret));
    line("epoch-key", key.0.bytes());
    line("account-secret", secret.0.bytes());
    for (name, derived) in derived(&key, &secret) {
        line(name, derived.bytes());
    }
    line("set", &set);
    out
}

fn derived(key: &EpochKey, secret: &AccountSecret) -> [(&'static str, Secret); 6] {
    [
        ("store", key.store()),
        ("signal", key.signal()),
        ("wrap", key.wrap()),
        ("content", secret.content()),
        ("tag", secret.tag()),
        ("names", secret.names()),
    ]
}
