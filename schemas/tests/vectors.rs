//! The golden bytes in `vectors/`: they are what the code writes, and they are read as they say.
//!
//! Each file is checked twice. The code makes it again from fixed seeds and must find the same bytes; and its lines
//! are read one by one and must have the outcome that stands beside them. After a change of format on purpose,
//! `HEARTH_BLESS=1 cargo test -p hearth-schemas --test vectors` writes the files; read the difference.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use hearth_schemas::ids::{AccountId, DeviceId, Slot};
use hearth_schemas::keys::epoch::{self, Recipient};
use hearth_schemas::keys::{AccountSecret, DeviceKeys, EpochKey, Phrase, Root, Secret, name};
use hearth_schemas::log::{Account, Body, Caps, Entry, Refused, Signer};
use hearth_schemas::pairing::{Code, Message, decode_message, encode_message};

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

#[test]
fn names_are_sealed_as_ever() {
    same_as_file("name.txt", &name_vectors());
}

#[test]
fn sealed_names_have_the_outcome_that_is_written() {
    for line in lines("name.txt") {
        let [secret, account, device, wanted, sealed] = line.as_slice() else { panic!("unknown line {line:?}") };
        let secret = AccountSecret(Secret::from_bytes(hex(secret).try_into().expect("32 bytes")));
        let account = AccountId::parse(account).expect("an account id");
        let device = DeviceId::parse(device).expect("a device id");
        let opened = name::open_name(&secret, account, device, &hex(sealed));
        assert_eq!(opened.as_deref().unwrap_or("refused"), wanted);
    }
}

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

#[test]
fn pairing_messages_are_written_as_ever() {
    same_as_file("pairing.txt", &pairing_vectors());
}

#[test]
fn pairing_codes_and_messages_have_the_outcome_that_is_written() {
    for line in lines("pairing.txt") {
        match line.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["code", wanted, typed @ ..] => {
                let read = Code::parse(&typed.join(" ")).map(|code| code.to_string());
                assert_eq!(read.as_deref().unwrap_or("refused"), *wanted, "{typed:?}");
            }
            ["message", wanted, bytes] => assert_eq!(kind(&hex(bytes)), *wanted, "{bytes}"),
            other => panic!("unknown line {other:?}"),
        }
    }
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

fn name_vectors() -> String {
    let mut out = String::from("# ACCOUNT-SECRET ACCOUNT DEVICE NAME BYTES   or `refused` for the name\n");
    let secret = AccountSecret(Secret::from_bytes([0x11; 32]));
    let (account, device) = (AccountId([0x22; 32]), DeviceId([0x33; 32]));
    let mut line = |account: AccountId, device: DeviceId, wanted: &str, sealed: &[u8]| {
        let secret = HEXLOWER.encode(&[0x11; 32]);
        writeln!(out, "{secret} {account} {device} {wanted} {}", HEXLOWER.encode(sealed)).expect("memory");
    };
    for text in ["laptop", "büro", &"x".repeat(63)] {
        let sealed = name::seal_name(&secret, account, device, text, &mut |bytes| bytes.fill(0x44)).expect("a name");
        line(account, device, text, &sealed);
        line(AccountId([0; 32]), device, "refused", &sealed);
        line(account, DeviceId([0; 32]), "refused", &sealed);
        line(account, device, "refused", &sealed[..sealed.len() - 1]);
    }
    out
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

fn pairing_vectors() -> String {
    let mut out = String::from(
        "# code OUTCOME TYPED…   outcome: the code as it is shown, or `refused`\n\
         # message OUTCOME BYTES   outcome: the kind of message, or `refused`\n",
    );
    for typed in [
        "7-abandon-ability-zoo",
        "7 Abandon ABILITY zoo",
        "007-abandon-ability-zoo",
        "4294967295-zoo-zoo-zoo",
        "4294967296-zoo-zoo-zoo",
        "abandon-ability-zoo",
        "7-abandon-ability",
        "7-abandon-ability-zoo-zoo",
        "7-abandon-hearth-zoo",
        "-7x-abandon-ability-zoo",
    ] {
        let read = Code::parse(typed).map(|code| code.to_string());
        writeln!(out, "code {} {typed}", read.as_deref().unwrap_or("refused")).expect("memory");
    }
    let mut messages: Vec<Vec<u8>> = [
        Message::Hello { version: 1, exchange: vec![0x41; 33] },
        Message::Answer { exchange: vec![0x42; 33] },
        Message::Confirm { mac: [0x43; 32] },
        Message::Sealed { bytes: vec![0x44; 48] },
        Message::Refused,
    ]
    .iter()
    .map(encode_message)
    .collect();
    let trailing = [messages[4].as_slice(), &[0]].concat();
    let cut = messages[0][..10].to_vec();
    messages.extend([trailing, cut, vec![5]]);
    for bytes in messages {
        writeln!(out, "message {} {}", kind(&bytes), HEXLOWER.encode(&bytes)).expect("memory");
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

fn kind(bytes: &[u8]) -> &'static str {
    match decode_message(bytes) {
        Ok(Message::Hello { .. }) => "hello",
        Ok(Message::Answer { .. }) => "answer",
        Ok(Message::Confirm { .. }) => "confirm",
        Ok(Message::Sealed { .. }) => "sealed",
        Ok(Message::Refused) => "refusal",
        Err(_) => "refused",
    }
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

/// An account with one device, from fixed seeds.
struct World {
    root: Root,
    device: DeviceKeys,
    account: Account,
}

impl World {
    fn new() -> Self {
        let root = Phrase::random(&mut |bytes| bytes.fill(0x10)).root();
        let genesis = Account::genesis_entry(root.sign_public(), root.kem_public(), 1_700_000_000_000);
        let mut account = Account::verify(root.account(), &[genesis.sign(&root.sign)]).expect("a genesis");
        let device = keys(0x20);
        let entry = account.next_entry(add(&device, Caps::ALL), Signer::Root, 1_700_000_000_000).sign(&root.sign);
        account.extend(&[entry]).expect("a good entry");
        Self { root, device, account }
    }

    fn sign(&self, entry: &Entry) -> Vec<u8> {
        match entry.signer {
            Signer::Root => entry.sign(&self.root.sign),
            Signer::Device(_) => entry.sign(&self.device.sign),
        }
    }
}

fn keys(seed: u8) -> DeviceKeys {
    DeviceKeys::random(&mut |bytes| {
        for (key, value) in bytes.chunks_mut(32).zip(seed..) {
            key.fill(value);
        }
    })
}

fn add(device: &DeviceKeys, caps: Caps) -> Body {
    Body::AddDevice { keys: device.public(), name: sealed_name(), caps }
}

/// A name's bytes are opaque to the log; only their length is looked at.
fn sealed_name() -> Vec<u8> {
    vec![8; hearth_schemas::log::SEALED_NAME]
}

fn genesis_body(root: &Root) -> Body {
    Body::Genesis { root: root.sign_public(), root_kem: root.kem_public() }
}

fn same_as_file(name: &str, made: &str) {
    let path = file(name);
    if std::env::var_os("HEARTH_BLESS").is_some() {
        std::fs::write(&path, made).expect("the vectors can be written");
    }
    let kept = std::fs::read_to_string(&path).expect("the vectors can be read");
    assert!(kept == made, "{name} is not what the code writes; see the head of this file");
}

fn lines(name: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(file(name)).expect("the vectors can be read");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name)
}

fn hex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).expect("lower-case hex")
}
