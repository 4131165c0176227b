//! `relay.txt`: frames between device and relay, and the bytes that a login signs.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use hearth_schemas::codec;
use hearth_schemas::ids::{AccountId, DeviceId, Slot};
use hearth_schemas::relay::{
    ClientFrame, Event, Head, MAX_FRAME, Refusal, Reply, Request, ServerFrame, Session, decode_client, decode_server,
    login_message,
};

use crate::file::{Case, again, bytes, cases, changed, cut, lines, longer, read_case, same_as_file};

const ACCOUNT: AccountId = AccountId([0x22; 32]);
const HEAD: Head = Head { seq: 300, hash: [0x33; 32] };

#[test]
fn frames_are_written_as_ever() {
    same_as_file("relay.txt", &relay_vectors());
}

#[test]
fn frames_have_the_outcome_that_is_written() {
    for line in lines("relay.txt") {
        if let [format, kind, account, exporter, signed] = line.as_slice()
            && format == "login"
        {
            let account = AccountId::parse(account).expect("an account id");
            let exporter = bytes(std::slice::from_ref(exporter)).try_into().expect("32 bytes");
            assert_eq!(login_message(account, kind, &exporter), bytes(std::slice::from_ref(signed)), "{kind}");
        } else {
            read_case(&line, read);
        }
    }
}

fn read(format: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
    match format {
        "client" => again(decode_client(bytes)),
        "server" => again(decode_server(bytes)),
        other => panic!("unknown format {other}"),
    }
}

fn relay_vectors() -> String {
    let comment = "client|server NAME OUTCOME BYTES…   outcome: good, or why it is refused\n\
                   # login KIND ACCOUNT EXPORTER BYTES   what a login signs";
    let requests = requests()
        .into_iter()
        .zip(5..)
        .map(|((name, request), id)| Case::good("client", name, &ClientFrame { id, request }));
    let replies = replies()
        .into_iter()
        .zip(5..)
        .map(|((name, reply), id)| Case::good("server", name, &ServerFrame::Reply { id, reply }));
    let events = events().into_iter().map(|(name, event)| Case::good("server", name, &ServerFrame::Event(event)));
    let all: Vec<Case> = requests.chain(replies).chain(events).chain(refused()).collect();
    let mut out = cases(comment, &all);
    let exporter = [0x44; 32];
    for kind in ["device", "root"] {
        let signed = HEXLOWER.encode(&login_message(ACCOUNT, kind, &exporter));
        writeln!(out, "login {kind} {ACCOUNT} {} {signed}", HEXLOWER.encode(&exporter)).expect("memory");
    }
    out
}

fn requests() -> Vec<(&'static str, Request)> {
    let (entries, blobs) = (vec![vec![1, 2], Vec::new()], vec![vec![3]]);
    let invite = Some("köln".to_owned());
    vec![
        ("create-account", Request::CreateAccount { entries: entries.clone(), blobs: blobs.clone(), invite }),
        ("create-account-uninvited", Request::CreateAccount { entries: Vec::new(), blobs: Vec::new(), invite: None }),
        ("login", Request::Login { account: ACCOUNT, device: DeviceId([0x55; 32]), signature: vec![0x66; 64] }),
        ("login-root", Request::LoginRoot { root: [0x77; 32], signature: vec![0x66; 64] }),
        ("pair-join", Request::PairJoin { number: u32::MAX }),
        ("pair-send", Request::PairSend { message: vec![4, 5, 6] }),
        ("fetch-log", Request::FetchLog { from: u64::MAX }),
        ("append", Request::Append { after: HEAD, entries, blobs }),
        ("fetch-blob", Request::FetchBlob { hash: [0x88; 32] }),
        ("pair-open", Request::PairOpen),
        ("pair-close", Request::PairClose),
        ("signal", Request::Signal { to: Slot(513), payload: vec![7] }),
    ]
}

fn replies() -> Vec<(&'static str, Reply)> {
    let session = |online| Session { slot: Slot(1), token: [0x99; 8], mac_key: [0xaa; 32], head: HEAD, online };
    vec![
        ("done", Reply::Done),
        ("session", Reply::Session(session(vec![Slot(2), Slot(u16::MAX)]))),
        ("session-alone", Reply::Session(session(Vec::new()))),
        ("root", Reply::Root { head: Some(HEAD) }),
        ("root-unknown", Reply::Root { head: None }),
        ("log", Reply::Log { entries: vec![vec![1, 2], Vec::new()], head: HEAD }),
        ("blob", Reply::Blob { bytes: vec![3; 4] }),
        ("room", Reply::Room { number: 7 }),
        ("not-authorised", Reply::Refused(Refusal::NotAuthorised)),
        ("not-admitted", Reply::Refused(Refusal::NotAdmitted)),
        ("bad-log", Reply::Refused(Refusal::BadLog)),
        ("no-room", Reply::Refused(Refusal::NoRoom)),
        ("not-found", Reply::Refused(Refusal::NotFound)),
        ("limit", Reply::Refused(Refusal::Limit)),
        ("unexpected", Reply::Refused(Refusal::Unexpected)),
        ("offline", Reply::Refused(Refusal::Offline)),
        ("trouble", Reply::Refused(Refusal::Trouble)),
    ]
}

fn events() -> Vec<(&'static str, Event)> {
    vec![
        ("came", Event::Presence { slot: Slot(2), online: true }),
        ("went", Event::Presence { slot: Slot(2), online: false }),
        ("log-changed", Event::LogChanged { head: HEAD }),
        ("pair-joined", Event::PairJoined),
        ("pair-message", Event::PairMessage { message: vec![4, 5, 6] }),
        ("pair-left", Event::PairLeft { tries_left: 2 }),
        ("signalled", Event::Signal { from: Slot(513), payload: vec![7] }),
    ]
}

fn refused() -> Vec<Case> {
    let client = |name, why, bytes: Vec<u8>| Case::bad("client", name, why, bytes);
    let server = |name, why, bytes: Vec<u8>| Case::bad("server", name, why, bytes);
    let asked = codec::encode(&ClientFrame { id: 5, request: Request::FetchLog { from: 6 } });
    let told = codec::encode(&ServerFrame::Event(Event::Presence { slot: Slot(2), online: true }));
    let (last_of_told, reply) = (told.len() - 1, (0u8, 5u32));
    vec![
        client("nothing", "Malformed", Vec::new()),
        client("cut", "Malformed", cut(asked.clone())),
        client("longer", "NotCanonical", longer(asked.clone())),
        client("unknown-request", "Malformed", changed(asked, 1, 11)),
        client("padded-id", "NotCanonical", vec![0x85, 0x00, 8]),
        client("id-over-32-bits", "Malformed", vec![0xff, 0xff, 0xff, 0xff, 0x1f, 8]),
        client("slot-over-16-bits", "Malformed", codec::encode(&(5u32, 10u8, 1u32 << 16, 0u8))),
        client("invite-not-text", "Malformed", vec![5, 0, 0, 0, 1, 2, 0xc3, 0x28]),
        client("short-root", "Malformed", codec::encode(&(5u32, 2u8, [0x77u8; 31], vec![0x66u8; 64]))),
        client("endless-entries", "Malformed", codec::encode(&(5u32, 0u8, u64::MAX))),
        client("endless-message", "Malformed", codec::encode(&(5u32, 4u8, u64::MAX))),
        client("too-long", "TooLong", vec![0; MAX_FRAME + 1]),
        server("nothing", "Malformed", Vec::new()),
        server("cut", "Malformed", cut(told.clone())),
        server("longer", "NotCanonical", longer(told.clone())),
        server("unknown-frame", "Malformed", changed(told.clone(), 0, 2)),
        server("unknown-event", "Malformed", changed(told.clone(), 1, 6)),
        server("neither-true-nor-false", "Malformed", changed(told, last_of_told, 2)),
        server("unknown-reply", "Malformed", codec::encode(&(reply, 7u8))),
        server("unknown-refusal", "Malformed", codec::encode(&(reply, 6u8, 9u8))),
        server("neither-some-nor-none", "Malformed", codec::encode(&(reply, 2u8, 2u8))),
        server("endless-blob", "Malformed", codec::encode(&(reply, 4u8, u64::MAX))),
        server("too-long", "TooLong", vec![0; MAX_FRAME + 1]),
    ]
}
