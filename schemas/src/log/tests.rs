//! The log accepts what its rules allow and nothing else.

use ed25519_dalek::SigningKey;

use super::*;
use crate::keys::{DeviceKeys, Phrase, Root};

const NAME: [u8; SEALED_NAME] = [7; SEALED_NAME];

#[test]
fn a_log_gives_its_devices_epochs_and_head() {
    let world = World::new();
    let account = world.verified();
    assert_eq!(account.id, world.root.account());
    assert_eq!(account.head, Head { seq: 3, hash: entry_hash(&world.account.entries()[3]) });
    let laptop = account.active(&world.laptop.id()).expect("added");
    assert_eq!((laptop.slot, laptop.tls), (Slot(1), world.laptop.public().tls));
    assert_eq!(account.active_slot(Slot(3)).map(|device| device.id), Some(world.desktop.id()));
    assert_eq!(account.active_tls(&world.desktop.public().tls).map(|device| device.slot), Some(Slot(3)));
    assert_eq!(account.epoch().map(|epoch| epoch.number), Some(1));
    assert_eq!(account.last_change, (Signer::Device(world.laptop.id()), 3));
}

#[test]
fn every_flipped_byte_is_refused() {
    let world = World::new();
    for position in 0..4 {
        let len = world.account.entries()[position].len();
        // The KEM keys make up most of an entry: a few of their bytes stand for the rest.
        for byte in (0..len).filter(|byte| *byte < 200 || len - byte < 200 || byte % 37 == 0) {
            for bit in [0x01, 0x80] {
                let mut entries = world.account.entries().to_vec();
                entries[position][byte] ^= bit;
                assert!(Account::verify(world.account.id, &entries).is_err(), "entry {position} byte {byte}");
            }
        }
    }
}

#[test]
fn every_cut_or_lengthened_entry_is_refused() {
    let world = World::new();
    let entries = world.account.entries().to_vec();
    for len in 0..entries[3].len() {
        let mut cut = entries.clone();
        cut[3].truncate(len);
        assert!(Account::verify(world.account.id, &cut).is_err(), "{len}");
    }
    let mut longer = entries.clone();
    longer[3].push(0);
    assert!(Account::verify(world.account.id, &longer).is_err());
    longer[3].resize(MAX_ENTRY + 1, 0);
    assert_eq!(refused(world.account.id, &longer), (3, Refused::TooLong));
}

#[test]
fn inserted_left_out_and_reordered_entries_are_refused() {
    let world = World::new();
    let entries = world.account.entries().to_vec();
    let without = |position: usize| {
        let mut entries = entries.clone();
        entries.remove(position);
        entries
    };
    assert_eq!(refused(world.account.id, &without(0)), (0, Refused::Genesis));
    assert_eq!(refused(world.account.id, &without(1)), (1, Refused::WrongPosition));
    assert_eq!(refused(world.account.id, &without(2)), (2, Refused::WrongPosition));
    let mut twice = entries.clone();
    twice.insert(2, entries[2].clone());
    assert_eq!(refused(world.account.id, &twice), (3, Refused::WrongPosition));
    for (one, other) in [(0, 1), (1, 2), (2, 3), (1, 3)] {
        let mut swapped = entries.clone();
        swapped.swap(one, other);
        assert!(Account::verify(world.account.id, &swapped).is_err(), "{one} and {other}");
    }
    assert_eq!(refused(world.account.id, &[]), (0, Refused::Genesis));
}

#[test]
fn an_entry_that_was_signed_for_another_branch_is_refused() {
    let mut world = World::new();
    let other = world.laptop_says(Body::Config { hash: [1; 32] });
    world.push(world.laptop_says(Body::Config { hash: [2; 32] }));
    let mut entry = Entry::parse(&other).expect("an entry");
    entry.seq += 1;
    assert_eq!(world.try_push(entry.sign(&world.laptop.sign)), Err(Refused::BrokenChain));
}

#[test]
fn entries_of_another_account_are_refused() {
    let world = World::new();
    let stranger = World::seeded(100);
    assert_eq!(refused(world.account.id, stranger.account.entries()), (0, Refused::OtherAccount));
    let mut mixed = world.account.entries().to_vec();
    mixed[3].clone_from(&stranger.account.entries()[3]);
    assert_eq!(refused(world.account.id, &mixed), (3, Refused::OtherAccount));
    let mut entry = world.account.next_entry(Body::Config { hash: [1; 32] }, Signer::Root, 9);
    entry.account = stranger.account.id;
    assert_eq!(world.clone().try_push(entry.sign(&world.root.sign)), Err(Refused::OtherAccount));
}

#[test]
fn a_genesis_of_ones_own_does_not_take_over_an_account() {
    let world = World::new();
    let thief = World::seeded(100);
    let mut genesis = Entry::parse(&thief.account.entries()[0]).expect("an entry");
    genesis.account = world.account.id;
    let forged = vec![genesis.sign(&thief.root.sign)];
    assert_eq!(refused(world.account.id, &forged), (0, Refused::OtherAccount));
    let again = Account::genesis_entry(world.root.sign_public(), world.root.kem_public(), 9);
    let mut second = world.account.next_entry(again.body, Signer::Root, 9);
    assert_eq!(world.clone().try_push(second.sign(&world.root.sign)), Err(Refused::Genesis));
    second.seq = 0;
    second.prev = [0; 32];
    assert_eq!(refused(world.account.id, &[second.sign(&thief.root.sign)]), (0, Refused::BadSignature));
}

#[test]
fn ghost_devices_are_refused() {
    let world = World::new();
    let ghost = keys(50);
    let body = || Body::AddDevice { keys: ghost.public(), name: NAME.to_vec(), caps: Caps::ALL };
    // Signed by its own key, as itself.
    let itself = world.account.next_entry(body(), Signer::Device(ghost.id()), 9);
    assert_eq!(world.clone().try_push(itself.sign(&ghost.sign)), Err(Refused::KeyNotInLog));
    // Signed by its own key, in the name of others.
    for signer in [Signer::Root, Signer::Device(world.laptop.id())] {
        let entry = world.account.next_entry(body(), signer, 9);
        assert_eq!(world.clone().try_push(entry.sign(&ghost.sign)), Err(Refused::BadSignature));
    }
    // A good entry, signed again by another device of the account.
    let entry = world.account.next_entry(body(), Signer::Device(world.laptop.id()), 9);
    assert_eq!(world.clone().try_push(entry.sign(&world.desktop.sign)), Err(Refused::BadSignature));
    assert_eq!(world.clone().try_push(entry.sign(&world.laptop.sign)), Ok(()));
}

#[test]
fn other_signed_things_are_never_entries() {
    let world = World::new();
    let login = crate::relay::login_message(world.account.id, "device", &[1; 32]);
    let signature = crate::keys::sign(&world.laptop.sign, &login);
    let offered = [login, signature].concat();
    assert!(matches!(world.clone().try_push(offered), Err(Refused::Malformed(_))));
    let mut entry = world.account.next_entry(Body::Config { hash: [1; 32] }, Signer::Root, 9);
    crate::label::DEVICE_NAME.clone_into(&mut entry.context);
    assert_eq!(world.clone().try_push(entry.sign(&world.root.sign)), Err(Refused::OtherType));
}

#[test]
fn every_other_version_is_refused() {
    let world = World::new();
    for version in (0..=u8::MAX).filter(|version| *version != entry::VERSION) {
        let mut entry = world.account.next_entry(Body::Config { hash: [1; 32] }, Signer::Root, 9);
        entry.version = version;
        assert_eq!(world.clone().try_push(entry.sign(&world.root.sign)), Err(Refused::OtherVersion));
    }
}

#[test]
fn a_revoked_device_signs_nothing_and_never_returns() {
    let mut world = World::new();
    world.push(world.laptop_says(Body::RevokeDevice { device: world.desktop.id() }));
    assert!(world.account.active(&world.desktop.id()).is_none());
    assert!(world.account.active_slot(Slot(3)).is_none());
    assert!(world.account.epoch_is_owed());
    assert_eq!(world.try_push(world.desktop_says(Body::Config { hash: [1; 32] })), Err(Refused::Revoked));
    assert_eq!(world.try_push(world.laptop_says(added(&world.desktop))), Err(Refused::KeyTaken));
    let again = Body::RevokeDevice { device: world.desktop.id() };
    assert_eq!(world.try_push(world.laptop_says(again)), Err(Refused::NoSuchDevice));
    world.push(world.laptop_says(epoch(2)));
    assert!(!world.account.epoch_is_owed());
}

#[test]
fn a_limited_device_revokes_but_adds_and_grants_nothing() {
    let mut world = World::new();
    let limited = keys(50);
    let add = Body::AddDevice { keys: limited.public(), name: NAME.to_vec(), caps: Caps::LIMITED };
    world.push(world.laptop_says(add));
    let says =
        |world: &World, body| world.account.next_entry(body, Signer::Device(limited.id()), 9).sign(&limited.sign);
    let grant = Body::Grant { to: world.laptop.id(), scope: vec![1], until_ms: 99 };
    let rename_other = Body::Rename { device: world.laptop.id(), name: NAME.to_vec() };
    for body in [added(&keys(51)), Body::Config { hash: [1; 32] }, grant, rename_other, Body::RootReset { keep: 0 }] {
        let entry = says(&world, body.clone());
        assert_eq!(world.try_push(entry), Err(Refused::NotAllowed), "{body:?}");
    }
    for body in [
        Body::Rename { device: limited.id(), name: vec![8; SEALED_NAME] },
        Body::RevokeDevice { device: world.desktop.id() },
        epoch(2),
    ] {
        let entry = says(&world, body);
        world.push(entry);
    }
    assert_eq!(world.account.active(&limited.id()).map(|device| device.name[0]), Some(8));
}

#[test]
fn nobody_gives_what_they_do_not_have() {
    let mut world = World::new();
    let clerk = keys(50);
    let caps = Caps { sync: true, enrol: true, revoke: false, grant: false };
    world.push(world.laptop_says(Body::AddDevice { keys: clerk.public(), name: NAME.to_vec(), caps }));
    let entry = world.account.next_entry(added(&keys(51)), Signer::Device(clerk.id()), 9);
    assert_eq!(world.try_push(entry.sign(&clerk.sign)), Err(Refused::NotAllowed));
    let body = Body::AddDevice { keys: keys(51).public(), name: NAME.to_vec(), caps };
    let entry = world.account.next_entry(body, Signer::Device(clerk.id()), 9);
    assert_eq!(world.try_push(entry.sign(&clerk.sign)), Ok(()));
    let entry = world.account.next_entry(epoch(2), Signer::Device(clerk.id()), 9);
    assert_eq!(world.try_push(entry.sign(&clerk.sign)), Err(Refused::NotAllowed));
}

#[test]
fn a_key_serves_one_device_and_one_purpose() {
    let world = World::new();
    let fresh = keys(50).public();
    let table = [
        PublicKeys { tls: fresh.sign, ..fresh.clone() },
        PublicKeys { tls: world.laptop.public().tls, ..fresh.clone() },
        PublicKeys { tls: world.laptop.public().sign, ..fresh.clone() },
        PublicKeys { sign: world.laptop.public().tls, ..fresh.clone() },
        PublicKeys { kem: world.laptop.public().kem, ..fresh.clone() },
        PublicKeys { sign: world.root.sign_public(), ..fresh.clone() },
    ];
    for keys in table {
        let body = Body::AddDevice { keys, name: NAME.to_vec(), caps: Caps::ALL };
        assert_eq!(world.clone().try_push(world.laptop_says(body)), Err(Refused::KeyTaken));
    }
    let mut identity_point = [0; 32];
    identity_point[0] = 1;
    for keys in [
        PublicKeys { sign: [0xff; 32], ..fresh.clone() },
        PublicKeys { sign: identity_point, ..fresh.clone() },
        PublicKeys { tls: identity_point, ..fresh.clone() },
        PublicKeys { kem: vec![0xff; seal::KEM_KEY], ..fresh.clone() },
        PublicKeys { kem: Vec::new(), ..fresh },
    ] {
        let body = Body::AddDevice { keys, name: NAME.to_vec(), caps: Caps::ALL };
        assert_eq!(world.clone().try_push(world.laptop_says(body)), Err(Refused::BadKey));
    }
}

#[test]
fn a_device_rotates_its_own_keys_only() {
    let mut world = World::new();
    let next = keys(50).public();
    let body = Body::RotateDeviceKey { tls: next.tls, kem: next.kem.clone() };
    assert_eq!(world.try_push(world.root_says(body.clone())), Err(Refused::NotAllowed));
    world.push(world.laptop_says(body.clone()));
    assert_eq!(world.account.active(&world.laptop.id()).map(|device| device.tls), Some(next.tls));
    assert_eq!(world.try_push(world.desktop_says(body)), Err(Refused::KeyTaken));
}

#[test]
fn grants_come_from_their_target_and_end_with_either_device() {
    let mut world = World::new();
    let grant = |to: &DeviceKeys| Body::Grant { to: to.id(), scope: vec![1; 40], until_ms: 99 };
    assert_eq!(world.try_push(world.root_says(grant(&world.laptop))), Err(Refused::NotAllowed));
    assert_eq!(world.try_push(world.laptop_says(grant(&world.laptop))), Err(Refused::NoSuchDevice));
    let long = Body::Grant { to: world.laptop.id(), scope: vec![1; MAX_SCOPE + 1], until_ms: 99 };
    assert_eq!(world.try_push(world.desktop_says(long)), Err(Refused::BadText));
    world.push(world.desktop_says(grant(&world.laptop)));
    world.push(world.desktop_says(grant(&world.laptop)));
    assert_eq!(world.account.grants.keys().copied().collect::<Vec<_>>(), [4, 5]);
    assert_eq!(world.try_push(world.laptop_says(Body::RevokeGrant { grant: 3 })), Err(Refused::NoSuchGrant));
    world.push(world.laptop_says(Body::RevokeGrant { grant: 4 }));
    assert_eq!(world.account.grants.len(), 1);
    world.push(world.root_says(Body::RevokeDevice { device: world.laptop.id() }));
    assert!(world.account.grants.is_empty());
}

#[test]
fn epoch_numbers_rise_by_one() {
    let mut world = World::new();
    for number in [0, 1, 3, u32::MAX] {
        assert_eq!(world.try_push(world.laptop_says(epoch(number))), Err(Refused::WrongEpoch));
    }
    world.push(world.laptop_says(epoch(2)));
    assert_eq!(world.account.epoch().map(|epoch| epoch.seq), Some(4));
}

#[test]
fn a_root_reset_undoes_what_a_thief_signed() {
    let mut world = World::new();
    let (thief, before) = (keys(50), world.account.clone());
    world.push(world.laptop_says(added(&thief)));
    world.push(world.laptop_says(Body::RevokeDevice { device: world.desktop.id() }));
    world.push(world.laptop_says(epoch(2)));
    assert_eq!(world.try_push(world.laptop_says(Body::RootReset { keep: 3 })), Err(Refused::NotAllowed));
    for keep in [7, 8, u64::MAX] {
        assert_eq!(world.try_push(world.root_says(Body::RootReset { keep })), Err(Refused::BadReset));
    }
    world.push(world.root_says(Body::RootReset { keep: 3 }));
    assert_eq!(world.account.devices, before.devices);
    assert_eq!(world.account.epochs, before.epochs);
    assert!(world.account.epoch_is_owed(), "the discarded device knows the epoch key");
    let entry = world.account.next_entry(Body::Config { hash: [1; 32] }, Signer::Device(thief.id()), 9);
    assert_eq!(world.try_push(entry.sign(&thief.sign)), Err(Refused::KeyNotInLog));
    assert_eq!(world.try_push(world.desktop_says(epoch(2))), Err(Refused::WrongEpoch), "numbers are not reused");
    world.push(world.desktop_says(epoch(3)));
    assert_eq!(world.verified(), world.account);
    // What was discarded does not come back by a second reset, but what stands can be cut further.
    assert_eq!(world.try_push(world.root_says(Body::RootReset { keep: 5 })), Err(Refused::BadReset));
    world.push(world.root_says(Body::RootReset { keep: 1 }));
    assert_eq!(world.account.active_devices().map(|device| device.slot).collect::<Vec<_>>(), [Slot(1)]);
    assert_eq!(world.verified(), world.account);
}

#[test]
fn a_log_has_a_limited_number_of_resets() {
    let mut world = World::new();
    for _ in 0..MAX_RESETS {
        world.push(world.root_says(Body::RootReset { keep: 0 }));
    }
    assert_eq!(world.try_push(world.root_says(Body::RootReset { keep: 0 })), Err(Refused::TooMany));
}

#[test]
fn a_log_has_a_limited_number_of_entries() {
    let mut world = World::new();
    while world.account.entries.len() < MAX_ENTRIES {
        // Stands in for signing ten thousand entries: only their number matters here.
        world.account.entries.push(Vec::new());
    }
    assert_eq!(world.try_push(world.laptop_says(Body::Config { hash: [1; 32] })), Err(Refused::TooMany));
}

#[test]
fn extending_takes_all_entries_or_none() {
    let world = World::new();
    let mut ahead = world.clone();
    ahead.push(ahead.laptop_says(Body::Config { hash: [1; 32] }));
    ahead.push(ahead.laptop_says(Body::Config { hash: [2; 32] }));
    let new = &ahead.account.entries()[4..];
    let mut bad = new.to_vec();
    bad[1][10] ^= 1;
    let mut account = world.account.clone();
    assert_eq!(account.extend(&bad).map_err(|error| error.seq), Err(5));
    assert_eq!(account, world.account);
    assert_eq!(account.extend(new), Ok(()));
    assert_eq!(account, ahead.account);
}

#[test]
fn heads_are_told_apart() {
    let mut world = World::new();
    let old = world.account.clone();
    let mut fork = world.clone();
    fork.push(fork.laptop_says(Body::Config { hash: [9; 32] }));
    world.push(world.laptop_says(Body::Config { hash: [1; 32] }));
    assert_eq!(world.account.judge(&world.account.head), Standing::Same);
    assert_eq!(world.account.judge(&old.head), Standing::Older);
    assert_eq!(old.judge(&world.account.head), Standing::Newer);
    assert_eq!(world.account.judge(&fork.account.head), Standing::Forked);
    world.push(world.laptop_says(Body::Config { hash: [2; 32] }));
    assert_eq!(world.account.judge(&fork.account.head), Standing::Forked);
}

#[test]
fn only_the_root_resolves_a_fork() {
    let common = World::new();
    let (mut mine, mut theirs) = (common.clone(), common.clone());
    mine.push(mine.laptop_says(Body::Config { hash: [1; 32] }));
    theirs.push(theirs.laptop_says(Body::Config { hash: [2; 32] }));
    theirs.push(theirs.laptop_says(Body::Config { hash: [3; 32] }));
    let resolved = |mine: &World, theirs: &World| {
        mine.account.resolve(theirs.account.entries()).map_err(|error| (error.seq, error.reason))
    };
    assert_eq!(resolved(&mine, &theirs), Err((4, Refused::Forked)));
    let mut late = theirs.clone();
    late.push(late.root_says(Body::RootReset { keep: 4 }));
    assert_eq!(resolved(&mine, &late), Err((4, Refused::Forked)), "it keeps an entry of the fork");
    theirs.push(theirs.root_says(Body::RootReset { keep: 3 }));
    assert_eq!(resolved(&mine, &theirs), Ok(theirs.account.clone()));
    mine.push(mine.root_says(Body::RootReset { keep: 3 }));
    assert_eq!(resolved(&mine, &theirs), Err((4, Refused::Forked)), "the root spoke on both sides");
    assert_eq!(resolved(&common, &mine), Ok(mine.account.clone()));
}

/// An account with a laptop (entry 1), an epoch (2) and a desktop (3), and the keys of all.
#[derive(Clone)]
struct World {
    root: Root,
    laptop: DeviceKeys,
    desktop: DeviceKeys,
    account: Account,
}

impl World {
    fn new() -> Self {
        Self::seeded(1)
    }

    fn seeded(seed: u8) -> Self {
        let root = Phrase::random(&mut |bytes| bytes.fill(seed)).root();
        let genesis = Account::genesis_entry(root.sign_public(), root.kem_public(), 0).sign(&root.sign);
        let account = Account::verify(root.account(), &[genesis]).expect("a genesis");
        let mut world = Self { root, laptop: keys(seed + 1), desktop: keys(seed + 2), account };
        let add = world.account.next_entry(added(&world.laptop), Signer::Root, 1).sign(&world.root.sign);
        world.push(add);
        world.push(world.root_says(epoch(1)));
        world.push(world.laptop_says(added(&world.desktop)));
        world
    }

    fn verified(&self) -> Account {
        Account::verify(self.root.account(), self.account.entries()).expect("a good log")
    }

    fn root_says(&self, body: Body) -> Vec<u8> {
        self.says(body, Signer::Root, &self.root.sign)
    }

    fn laptop_says(&self, body: Body) -> Vec<u8> {
        self.says(body, Signer::Device(self.laptop.id()), &self.laptop.sign)
    }

    fn desktop_says(&self, body: Body) -> Vec<u8> {
        self.says(body, Signer::Device(self.desktop.id()), &self.desktop.sign)
    }

    fn says(&self, body: Body, signer: Signer, key: &SigningKey) -> Vec<u8> {
        self.account.next_entry(body, signer, self.account.head.seq + 1).sign(key)
    }

    fn push(&mut self, entry: Vec<u8>) {
        self.try_push(entry).expect("a good entry");
    }

    fn try_push(&mut self, entry: Vec<u8>) -> Result<(), Refused> {
        self.account.extend(&[entry]).map_err(|error| error.reason)
    }
}

fn keys(seed: u8) -> DeviceKeys {
    let mut next = seed;
    DeviceKeys::random(&mut |bytes| {
        for chunk in bytes.chunks_mut(32) {
            chunk.fill(next);
            next = next.wrapping_add(77);
        }
    })
}

fn added(device: &DeviceKeys) -> Body {
    Body::AddDevice { keys: device.public(), name: NAME.to_vec(), caps: Caps::ALL }
}

fn epoch(number: u32) -> Body {
    Body::NewEpoch { number, commitment: [1; 32], set: [2; 32] }
}

fn refused(id: AccountId, entries: &[Vec<u8>]) -> (u64, Refused) {
    let error = Account::verify(id, entries).expect_err("a bad log");
    (error.seq, error.reason)
}
