//! `log.txt`: device log entries of every type, and logs made of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use hearth_schemas::ids::AccountId;
use hearth_schemas::keys::Root;
use hearth_schemas::log::{Account, Body, Caps, Entry, Refused, Signer};

use crate::file::{hex, lines, same_as_file};
use crate::world::{World, add, keys};

#[test]
fn log_entries_are_written_as_ever() {
    same_as_file("log.txt", &log_vectors());
}

#[test]
fn logs_have_the_outcome_that_is_written() {
    let mut entries: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut logs = 0;
    for line in lines("log.txt") {
        match line.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["entry", name, bytes] => {
                entries.insert((*name).to_owned(), hex(bytes));
            }
            ["log", account, wanted, names @ ..] => {
                let account = AccountId::parse(account).expect("an account id");
                let log: Vec<Vec<u8>> = names.iter().map(|name| entries[*name].clone()).collect();
                assert_eq!(outcome(account, &log), *wanted, "{names:?}");
                logs += 1;
            }
            other => panic!("unknown line {other:?}"),
        }
    }
    assert!(logs > 15, "{logs}");
}

fn log_vectors() -> String {
    let world = World::new();
    let mut out = String::from(
        "# entry NAME BYTES\n\
         # log ACCOUNT OUTCOME ENTRY…   outcome: the newest entry's hash, or what is refused and why\n",
    );
    let mut account = world.account.clone();
    let mut named: Vec<(&str, Vec<u8>)> = vec![("genesis", account.entries()[0].clone())];
    named.push(("add-laptop", account.entries()[1].clone()));
    let device = world.device.id();
    let by_device = Signer::Device(device);
    let other = keys(0x40);
    let bodies = [
        ("epoch-1", Body::NewEpoch { number: 1, commitment: [1; 32], set: [2; 32] }, by_device),
        ("add-limited", add(&other, Caps::LIMITED), by_device),
        ("rename", Body::Rename { device, name: vec![9; 104] }, by_device),
        ("rotate", Body::RotateDeviceKey { tls: keys(0x50).public().tls, kem: keys(0x50).public().kem }, by_device),
        ("grant", Body::Grant { to: other.id(), scope: vec![3; 40], until_ms: 1 << 40 }, by_device),
        ("revoke-grant", Body::RevokeGrant { grant: 6 }, by_device),
        ("config", Body::Config { hash: [4; 32] }, by_device),
        ("revoke", Body::RevokeDevice { device: other.id() }, by_device),
        ("reset", Body::RootReset { keep: 2 }, Signer::Root),
    ];
    for (name, body, signer) in bodies {
        let entry = world.sign(&account.next_entry(body, signer, 1_700_000_000_000 + account.head.seq));
        account.extend(std::slice::from_ref(&entry)).expect("a good entry");
        named.push((name, entry));
    }
    let good: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
    let mut logs: Vec<Vec<&str>> = (1..=good.len()).map(|len| good[..len].to_vec()).collect();
    logs.extend([vec!["add-laptop"], vec!["genesis", "epoch-1"], vec!["genesis", "add-laptop", "add-laptop"]]);

    // Third entries that do not stand there, each for one reason.
    let next = |body, signer| world.account.next_entry(body, signer, 7);
    let config = || next(Body::Config { hash: [5; 32] }, by_device);
    let changed = |change: &dyn Fn(&mut Entry)| {
        let mut entry = config();
        change(&mut entry);
        world.sign(&entry)
    };
    let mut flipped = world.sign(&config());
    *flipped.last_mut().expect("not empty") ^= 1;
    let mut longer = world.sign(&config());
    longer.insert(longer.len() - 64, 0);
    let bad = [
        ("bad-context", changed(&|entry| entry.context = "hearth relay login v1".to_owned())),
        ("bad-version", changed(&|entry| entry.version = 2)),
        ("bad-account", changed(&|entry| entry.account = AccountId([0; 32]))),
        ("bad-position", changed(&|entry| entry.seq = 3)),
        ("bad-chain", changed(&|entry| entry.prev = [0; 32])),
        ("bad-signature", flipped),
        ("bad-encoding", longer),
        ("too-long", vec![0; 4097]),
        ("ghost", next(add(&other, Caps::ALL), Signer::Device(other.id())).sign(&other.sign)),
        ("forged-root", next(add(&other, Caps::ALL), Signer::Root).sign(&other.sign)),
        ("reset-by-device", world.sign(&next(Body::RootReset { keep: 0 }, by_device))),
        ("second-genesis", world.sign(&next(genesis_body(&world.root), Signer::Root))),
        ("taken-key", world.sign(&next(add(&world.device, Caps::ALL), by_device))),
        ("epoch-2", world.sign(&next(Body::NewEpoch { number: 2, commitment: [1; 32], set: [2; 32] }, by_device))),
    ];
    logs.extend(bad.iter().map(|(name, _)| vec!["genesis", "add-laptop", *name]));
    named.extend(bad);

    for (name, bytes) in &named {
        writeln!(out, "entry {name} {}", HEXLOWER.encode(bytes)).expect("memory");
    }
    let by_name: BTreeMap<_, _> = named.iter().cloned().collect();
    for log in logs {
        let bytes: Vec<Vec<u8>> = log.iter().map(|name| by_name[name].clone()).collect();
        let outcome = outcome(world.account.id, &bytes);
        writeln!(out, "log {} {outcome} {}", world.account.id, log.join(" ")).expect("memory");
    }
    out
}

fn outcome(account: AccountId, log: &[Vec<u8>]) -> String {
    match Account::verify(account, log) {
        Ok(account) => HEXLOWER.encode(&account.head.hash),
        Err(error) => {
            let reason = match error.reason {
                Refused::Malformed(_) => "Malformed".to_owned(),
                other => format!("{other:?}"),
            };
            format!("{}:{reason}", error.seq)
        }
    }
}

fn genesis_body(root: &Root) -> Body {
    Body::Genesis { root: root.sign_public(), root_kem: root.kem_public() }
}
