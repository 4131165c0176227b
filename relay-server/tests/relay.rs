//! The real relay on loopback, spoken to as devices speak to it.

#[path = "support/client.rs"]
mod client;
#[path = "relay/floods.rs"]
mod floods;
#[path = "support/household.rs"]
mod household;
#[path = "relay/metrics.rs"]
mod metrics;
#[path = "support/process.rs"]
mod process;
#[path = "support/takers.rs"]
mod takers;
#[path = "support/tunnel.rs"]
mod tunnel;
#[path = "relay/tunnels.rs"]
mod tunnels;

use client::{Client, Leg, within};
use hearth_schemas::ids::Slot;
use hearth_schemas::relay::{CloseCode, Event, HEADER, Header, Kind, MAX_FRAME, Refusal, Reply, Request};
use household::{BLOB, Household};
use process::Relay;
use rustls::crypto::aws_lc_rs::kx_group;

#[tokio::test]
async fn devices_of_an_account_find_each_other_and_keep_one_log() {
    let (_data, relay) = start().await;
    let mut home = Household::new(1, 2);
    Client::create(&relay.address, &home).await;
    let (mut laptop, _) = Client::device(&relay.address, &home, 0).await;
    let (mut desktop, session) = Client::device(&relay.address, &home, 1).await;
    assert_eq!(session.online, [home.slot(0)]);
    assert_eq!(laptop.event().await, Event::Presence { slot: home.slot(1), online: true });

    let signal = Request::Signal { to: home.slot(1), payload: b"hello".to_vec() };
    assert_eq!(laptop.ask(signal).await, Reply::Done);
    assert_eq!(desktop.event().await, Event::Signal { from: home.slot(0), payload: b"hello".to_vec() });

    let stale = Request::Append { after: home.head(), entries: vec![home.epoch(2, b"x")], blobs: vec![b"x".to_vec()] };
    let entry = home.epoch(2, b"y");
    assert_eq!(laptop.ask(home.append(entry)).await, Reply::Done);
    assert_eq!(desktop.event().await, Event::LogChanged { head: home.head() });
    assert_eq!(desktop.ask(stale).await, Reply::Refused(Refusal::BadLog));
    let log = Reply::Log { entries: home.account.entries().to_vec(), head: home.head() };
    assert_eq!(desktop.ask(Request::FetchLog { from: 0 }).await, log);
    let blob = desktop.ask(Request::FetchBlob { hash: *blake3::hash(BLOB).as_bytes() }).await;
    assert_eq!(blob, Reply::Blob { bytes: BLOB.to_vec() });

    drop(laptop);
    assert_eq!(desktop.event().await, Event::Presence { slot: home.slot(0), online: false });
}

#[tokio::test]
async fn a_device_that_logs_in_again_replaces_its_older_connection() {
    let (_data, relay) = start().await;
    let home = Household::new(1, 1);
    Client::create(&relay.address, &home).await;
    let (older, _) = Client::device(&relay.address, &home, 0).await;
    let (mut newer, _) = Client::device(&relay.address, &home, 0).await;
    assert_eq!(older.closed().await, CloseCode::Replaced);
    assert!(matches!(newer.ask(Request::FetchLog { from: 0 }).await, Reply::Log { .. }));
}

#[tokio::test]
async fn the_root_reads_the_log_and_revokes() {
    let (_data, relay) = start().await;
    let mut home = Household::new(1, 2);
    Client::create(&relay.address, &home).await;
    let (stolen, _) = Client::device(&relay.address, &home, 1).await;
    let mut root = Client::connect(&relay.address).await;
    let login = home.root_login(&root.exporter);
    assert_eq!(root.ask(login).await, Reply::Root { head: Some(home.head()) });
    assert!(matches!(root.ask(Request::FetchLog { from: 0 }).await, Reply::Log { .. }));
    assert_eq!(root.ask(home.revoke(1)).await, Reply::Done);
    assert_eq!(stolen.closed().await, CloseCode::Revoked);
}

#[tokio::test]
async fn a_pairing_code_is_good_for_three_tries() {
    let (_data, relay) = start().await;
    let home = Household::new(1, 1);
    Client::create(&relay.address, &home).await;
    let (mut opener, _) = Client::device(&relay.address, &home, 0).await;
    let Reply::Room { number } = opener.ask(Request::PairOpen).await else { panic!("no room") };
    for tries_left in [2, 1, 0] {
        let mut joiner = Client::connect(&relay.address).await;
        assert_eq!(joiner.ask(Request::PairJoin { number }).await, Reply::Done);
        assert_eq!(opener.event().await, Event::PairJoined);
        assert_eq!(joiner.ask(Request::PairSend { message: vec![1; 1000] }).await, Reply::Done);
        assert_eq!(opener.event().await, Event::PairMessage { message: vec![1; 1000] });
        assert_eq!(opener.ask(Request::PairSend { message: vec![2] }).await, Reply::Done);
        assert_eq!(joiner.event().await, Event::PairMessage { message: vec![2] });
        drop(joiner);
        assert_eq!(opener.event().await, Event::PairLeft { tries_left });
    }
    let mut late = Client::connect(&relay.address).await;
    assert_eq!(late.ask(Request::PairJoin { number }).await, Reply::Refused(Refusal::NoRoom));
    assert_eq!(opener.ask(Request::PairOpen).await, Reply::Refused(Refusal::Limit));
}

#[tokio::test]
async fn datagrams_pass_both_ways_between_devices() {
    let (_data, relay) = start().await;
    let home = Household::new(1, 2);
    let [(_laptop, laptop), (_desktop, desktop)] = two_bound(&relay, &home).await;
    laptop.send_raw(&laptop.data(home.slot(1), 2, b"there"), None).await;
    assert_eq!(desktop.data_from().await, (home.slot(0), 2, b"there".to_vec()));
    desktop.send(home.slot(0), b"and back").await;
    assert_eq!(laptop.data_from().await, (home.slot(1), 0, b"and back".to_vec()));
    laptop.send(home.slot(1), b"").await;
    assert_eq!(desktop.data_from().await, (home.slot(0), 0, vec![]));
}

/// The others hear of a device before its BIND has come, and their first packet is not to be lost for that: QUIC would
/// wait for 300 ms until it sends another.
#[tokio::test]
async fn what_overtakes_a_devices_first_bind_reaches_it() {
    let (_data, relay) = start().await;
    let home = Household::new(1, 2);
    Client::create(&relay.address, &home).await;
    let (mut laptop, session) = Client::device(&relay.address, &home, 0).await;
    let leg = Leg::bound(&relay.address, &session).await;
    let (_desktop, session) = Client::device(&relay.address, &home, 1).await;
    assert_eq!(laptop.event().await, Event::Presence { slot: home.slot(1), online: true });
    leg.send(home.slot(1), b"hello, who is there?").await;
    leg.send(home.slot(1), b"hello?").await;
    let desktop = Leg::bound(&relay.address, &session).await;
    assert_eq!(desktop.data_from().await, (home.slot(0), 0, b"hello, who is there?".to_vec()));
    assert_eq!(desktop.data_from().await, (home.slot(0), 0, b"hello?".to_vec()));
}

#[tokio::test]
async fn bursts_pass_whole_and_in_order() {
    let (_data, relay) = start().await;
    let home = Household::new(1, 2);
    let [(_laptop, laptop), (_desktop, desktop)] = two_bound(&relay, &home).await;
    for length in [1200, 1420, 1460] {
        let bodies: Vec<Vec<u8>> = (0..40).map(|number| vec![number; length]).collect();
        let mut burst: Vec<u8> = bodies.iter().flat_map(|body| laptop.data(home.slot(1), 1, body)).collect();
        burst.truncate(burst.len() - 700);
        laptop.send_raw(&burst, Some(HEADER + length)).await;
        let received = receive(&desktop, 40, HEADER + length).await;
        for (number, datagram) in (0..).zip(&received) {
            let header = Header::parse(datagram).expect("a header");
            assert_eq!((header.kind, header.slot, header.ecn), (Kind::Data, home.slot(0), 1));
            let wanted = if number == 39 { length - 700 } else { length };
            assert_eq!(datagram[HEADER..], vec![number; wanted], "datagram {number} of length {length}");
        }
    }
}

#[tokio::test]
async fn a_burst_of_mixed_datagrams_is_taken_apart() {
    let (_data, relay) = start().await;
    let home = Household::new(1, 3);
    let [(_laptop, laptop), (_desktop, desktop)] = two_bound(&relay, &home).await;
    let (_phone, session) = Client::device(&relay.address, &home, 2).await;
    let phone = Leg::bound(&relay.address, &session).await;
    let to = |slot, number: u8| laptop.data(slot, 0, &[number; 500]);
    let mut stray_quic = vec![0x40; 512];
    stray_quic[1..].fill(9);
    let burst = [
        to(home.slot(1), 1),
        stray_quic,
        to(home.slot(2), 2),
        to(home.slot(2), 3),
        vec![0; 512],
        to(home.slot(1), 4),
        to(home.slot(2), 5)[..100].to_vec(),
    ];
    laptop.send_raw(&burst.concat(), Some(512)).await;
    let numbers = |datagrams: Vec<Vec<u8>>| datagrams.iter().map(|it| it[HEADER]).collect::<Vec<u8>>();
    assert_eq!(numbers(receive(&desktop, 2, 512).await), [1, 4]);
    assert_eq!(numbers(receive(&phone, 3, 512).await), [2, 3, 5]);
}

#[tokio::test]
async fn nothing_passes_between_accounts_or_from_an_unbound_address() {
    let (_data, relay) = start().await;
    let (home, other) = (Household::new(1, 2), Household::new(2, 3));
    let [(mut laptop_client, laptop), (_desktop, desktop)] = two_bound(&relay, &home).await;
    Client::create(&relay.address, &other).await;
    let (_theirs, session) = Client::device(&relay.address, &other, 2).await;
    let theirs = Leg::bound(&relay.address, &session).await;
    let (_friend, friend) = Client::device(&relay.address, &other, 0).await;
    let friend = Leg::bound(&relay.address, &friend).await;

    laptop.send(other.slot(2), b"across").await;
    let offline = Header::parse(&laptop.receive().await).expect("a header");
    assert_eq!((offline.kind, offline.slot), (Kind::Offline, other.slot(2)));
    friend.send(other.slot(2), b"first").await;
    assert_eq!(theirs.data_from().await, (other.slot(0), 0, b"first".to_vec()));
    let signal = Request::Signal { to: other.slot(2), payload: vec![] };
    assert_eq!(laptop_client.ask(signal).await, Reply::Refused(Refusal::Offline));

    let thief = Leg::unbound(&relay.address, &laptop.session).await;
    thief.send(home.slot(1), b"stolen token").await;
    laptop.send(home.slot(1), b"honest").await;
    assert_eq!(desktop.data_from().await, (home.slot(0), 0, b"honest".to_vec()));
}

#[tokio::test]
async fn a_revoked_device_is_cut_off_at_once() {
    let (_data, relay) = start().await;
    let mut home = Household::new(1, 2);
    let [(mut laptop_client, laptop), (desktop_client, desktop)] = two_bound(&relay, &home).await;
    assert_eq!(laptop_client.ask(home.revoke(1)).await, Reply::Done);
    laptop.send(home.slot(1), b"too late").await;
    let offline = Header::parse(&laptop.receive().await).expect("a header");
    assert_eq!((offline.kind, offline.slot), (Kind::Offline, home.slot(1)));
    desktop.send(home.slot(0), b"from outside").await;
    assert_eq!(desktop_client.closed().await, CloseCode::Revoked);
    laptop.send(Slot(99), b"marker").await;
    let next = Header::parse(&laptop.receive().await).expect("a header");
    assert_eq!((next.kind, next.slot), (Kind::Offline, Slot(99)), "nothing came from the revoked device");
    let mut again = Client::connect(&relay.address).await;
    let login = home.login(1, &again.exporter);
    assert_eq!(again.ask(login).await, Reply::Refused(Refusal::NotAuthorised));
}

#[tokio::test]
async fn nonsense_ends_its_own_connection_and_no_other() {
    let (_data, relay) = start().await;
    let home = Household::new(1, 1);
    Client::create(&relay.address, &home).await;
    let (mut good, session) = Client::device(&relay.address, &home, 0).await;
    let too_long = u32::try_from(MAX_FRAME + 1).expect("small").to_le_bytes().to_vec();
    let frames = [
        too_long,
        vec![0xff; 4],
        vec![0, 0, 0, 0],
        vec![3, 0, 0, 0, 0xff, 0xff, 0xff],
        vec![2, 0, 0, 0, 1, 99],
        vec![8, 0, 0, 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0],
        // PairClose with a byte too many.
        vec![3, 0, 0, 0, 1, 9, 0],
    ];
    for frame in frames {
        let mut bad = Client::connect(&relay.address).await;
        within(bad.send.write_all(&frame)).await.expect("sent");
        assert_eq!(bad.closed().await, CloseCode::Malformed, "{frame:?}");
    }
    let leg = Leg::bound(&relay.address, &session).await;
    for length in 0..100 {
        leg.send_raw(&vec![1; length], None).await;
        leg.send_raw(&vec![2; length], None).await;
        leg.send_raw(&vec![0xc3; length], None).await;
    }
    assert!(matches!(good.ask(Request::FetchLog { from: 0 }).await, Reply::Log { .. }));
}

#[tokio::test]
async fn a_relay_that_was_killed_comes_back_with_its_address_and_accounts() {
    let (data, relay) = start().await;
    let address = relay.address.clone();
    let home = Household::new(1, 1);
    Client::create(&address, &home).await;
    relay.kill().await;
    let relay = Relay::start(data.path()).await;
    assert_eq!(relay.address, address);
    let (client, session) = Client::device(&relay.address, &home, 0).await;
    assert_eq!(session.head, home.head());
    let (code, printed) = relay.terminate().await;
    assert_eq!((code, printed), (Some(0), vec![]));
    assert_eq!(client.closed().await, CloseCode::Shutdown);
}

#[tokio::test]
async fn a_directory_serves_one_relay_at_a_time() {
    let (data, _relay) = start().await;
    assert!(process::complaint(data.path()).await.contains("another relay is running"));
}

#[tokio::test]
async fn an_invitation_admits_an_account() {
    let data = tempfile::tempdir().expect("a directory");
    let relay = Relay::start_with(data.path(), &["--admission", "invite"]).await;
    let home = Household::new(1, 1);
    let mut client = Client::connect(&relay.address).await;
    assert_eq!(client.ask(home.creation()).await, Reply::Refused(Refusal::NotAdmitted));
    let code = process::invitation(data.path()).await;
    let Request::CreateAccount { entries, blobs, .. } = home.creation() else { unreachable!() };
    assert_eq!(client.ask(Request::CreateAccount { entries, blobs, invite: Some(code) }).await, Reply::Done);
}

#[tokio::test]
async fn a_key_exchange_that_a_quantum_computer_breaks_is_refused() {
    let (_data, relay) = start().await;
    assert!(Client::connect_offering(&relay.address, kx_group::X25519).await.is_err());
}

#[tokio::test]
async fn the_host_in_the_address_can_be_given() {
    let data = tempfile::tempdir().expect("a directory");
    let relay = Relay::start_with(data.path(), &["--host", "relay.example"]).await;
    assert_eq!(relay.address.host, "relay.example");
}

async fn start() -> (tempfile::TempDir, Relay) {
    let data = tempfile::tempdir().expect("a directory");
    let relay = Relay::start(data.path()).await;
    (data, relay)
}

/// The account's first two devices, logged in and bound.
async fn two_bound(relay: &Relay, home: &Household) -> [(Client, Leg); 2] {
    Client::create(&relay.address, home).await;
    let (laptop, session) = Client::device(&relay.address, home, 0).await;
    let laptop = (laptop, Leg::bound(&relay.address, &session).await);
    let (desktop, session) = Client::device(&relay.address, home, 1).await;
    [laptop, (desktop, Leg::bound(&relay.address, &session).await)]
}

/// So many datagrams, taken apart where the kernel handed several over in one piece.
async fn receive(leg: &Leg, count: usize, length: usize) -> Vec<Vec<u8>> {
    let mut received = Vec::new();
    while received.len() < count {
        received.extend(leg.receive().await.chunks(length).map(<[u8]>::to_vec));
    }
    received
}
