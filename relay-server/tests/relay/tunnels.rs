//! Over TCP: what a tunnel carries, and what becomes of those who come without good intentions.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::SinkExt;
use hearth_schemas::relay::{Header, Kind, Reply, Request, Session, bind_datagram, open_bound};
use hearth_schemas::tunnel::{HEALTH_PATH, MAX_HEAD, MAX_MESSAGE, PATH};
use rustls::crypto::aws_lc_rs::kx_group;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{Client, Leg, relay_address, within};
use crate::household::Household;
use crate::process::Relay;
use crate::tunnel::{Tunnel, ask, tls, tls_offering, upgrade};
use crate::{start, two_bound};

/// A packet of a QUIC version that nobody speaks, which every server answers.
const STRANGE_QUIC: [u8; 1200] = {
    let mut packet = [0; 1200];
    packet[0] = 0xc0;
    packet[1] = 0x1a;
    packet[2] = 0x2a;
    packet[3] = 0x3a;
    packet[4] = 0x4a;
    packet
};

#[tokio::test]
async fn a_session_goes_on_in_a_tunnel_and_datagrams_pass_both_ways() {
    let (_data, relay) = start().await;
    let home = Household::new(1, 2);
    let [(_laptop, laptop), (_desktop, desktop)] = two_bound(&relay, &home).await;
    let mut tunnel = Tunnel::open(&relay.address).await.expect("open");
    let seen = bind(&mut tunnel, &desktop.session, 2).await;
    assert!(seen.ip().is_unspecified() && seen.port() == 0, "{seen} says nothing that others could send to");

    laptop.send_raw(&laptop.data(home.slot(1), 2, b"there"), None).await;
    let there = Header { kind: Kind::Data, ecn: 2, slot: home.slot(0), token: desktop.session.token };
    assert_eq!(tunnel.receive().await, [there.to_bytes().as_slice(), b"there"].concat());
    let (one, two) = (desktop.data(home.slot(0), 1, b"and back"), desktop.data(home.slot(0), 0, b"again"));
    // The shorter one first: those of one length may come in one piece.
    tunnel.send(&[&two, &one]).await.expect("sent");
    assert_eq!(laptop.data_from().await, (home.slot(1), 0, b"again".to_vec()));
    assert_eq!(laptop.data_from().await, (home.slot(1), 1, b"and back".to_vec()));

    // From its old address the session says nothing any longer, until it is bound there again.
    desktop.send(home.slot(0), b"from the old address").await;
    desktop.send_raw(&bind_datagram(desktop.session.token, &desktop.session.mac_key, 3), None).await;
    assert!(open_bound(&desktop.receive().await, &desktop.session.mac_key).is_some());
    desktop.send(home.slot(0), b"from the new one").await;
    assert_eq!(laptop.data_from().await, (home.slot(1), 0, b"from the new one".to_vec()));
}

#[tokio::test]
async fn bursts_pass_between_two_tunnels_whole_and_in_order() {
    let (_data, relay) = start().await;
    let home = Household::new(1, 2);
    let [(_laptop, laptop), (_desktop, desktop)] = two_bound(&relay, &home).await;
    let (mut here, mut there) =
        (Tunnel::open(&relay.address).await.expect("open"), Tunnel::open(&relay.address).await.expect("open"));
    bind(&mut here, &laptop.session, 2).await;
    bind(&mut there, &desktop.session, 2).await;
    for number in 0..200u8 {
        let datagrams: Vec<Vec<u8>> =
            (0..5usize).map(|part| laptop.data(home.slot(1), 0, &vec![number; 1400 - part / 4])).collect();
        let datagrams: Vec<&[u8]> = datagrams.iter().map(Vec::as_slice).collect();
        here.send(&datagrams).await.expect("sent");
        for datagram in datagrams {
            let received = there.receive().await;
            assert_eq!(received[12..], datagram[12..], "message {number}");
        }
    }
}

#[tokio::test]
async fn quic_in_a_tunnel_is_answered_into_it() {
    let (_data, relay) = start().await;
    let mut tunnel = Tunnel::open(&relay.address).await.expect("open");
    for _ in 0..100 {
        tunnel.send(&[&STRANGE_QUIC]).await.expect("sent");
        let answer = tunnel.receive().await;
        assert!(answer[0] & 0x80 != 0 && answer[1..5] == [0; 4], "a list of versions: {answer:?}");
    }
}

#[tokio::test]
async fn requests_that_open_no_tunnel_are_answered_and_nothing_follows() {
    let (_data, relay) = start().await;
    let health = ask(&relay.address, &format!("GET {HEALTH_PATH} HTTP/1.1\r\nHost: relay\r\n\r\n")).await;
    assert!(health.starts_with("HTTP/1.1 200 ") && health.ends_with("\r\n\r\nok\n"), "{health}");
    let table = [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "404"),
        (format!("GET {PATH} HTTP/1.1\r\n\r\n"), "426"),
        ("CONNECT 127.0.0.1:22 HTTP/1.1\r\n\r\n".to_owned(), "405"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
    ];
    for (request, wanted) in table {
        let answer = ask(&relay.address, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {wanted} ")), "{request}: {answer}");
    }
    let mut endless = tls(&relay.address).await.expect("TLS");
    let head = format!("GET {PATH} HTTP/1.1\r\nX: {}", "a".repeat(2 * MAX_HEAD));
    within(endless.write_all(head.as_bytes())).await.expect("sent");
    let mut answer = Vec::new();
    let _cut_off = within(endless.read_to_end(&mut answer)).await;
    assert_eq!(answer, b"");
    assert!(tls_offering(&relay.address, kx_group::X25519).await.is_err(), "a key exchange that can be broken later");
}

#[tokio::test]
async fn nonsense_in_a_tunnel_ends_it_and_no_other() {
    let (_data, relay) = start().await;
    let mut good = Tunnel::open(&relay.address).await.expect("open");
    let nonsense = [
        Message::text("text"),
        Message::binary(vec![]),
        Message::binary(vec![0, 0]),
        Message::binary(vec![9, 0, 1]),
        Message::binary(vec![1; MAX_MESSAGE + 1]),
    ];
    for message in nonsense {
        let mut bad = Tunnel::open(&relay.address).await.expect("open");
        let _refused_while_sent = within(bad.web.send(message)).await;
        bad.closed().await;
    }
    let mut unmasked = tls(&relay.address).await.expect("TLS");
    within(unmasked.write_all(&[upgrade().as_bytes(), &[0x82, 3, 1, 0, 9]].concat())).await.expect("sent");
    let mut rest = Vec::new();
    let _cut_off = within(unmasked.read_to_end(&mut rest)).await;
    assert!(rest.starts_with(b"HTTP/1.1 101 "));
    good.send(&[&STRANGE_QUIC]).await.expect("sent");
    assert!(!good.receive().await.is_empty());
}

#[tokio::test]
async fn who_does_not_finish_a_handshake_is_cut_off() {
    let (_data, relay) = start().await;
    let mut silent = within(TcpStream::connect(relay_address(&relay.address))).await.expect("connected");
    let mut slow = tls(&relay.address).await.expect("TLS");
    let begun = Instant::now();
    let dripping = async {
        let request = upgrade();
        for byte in request.as_bytes() {
            if slow.write_all(&[*byte]).await.is_err() || slow.flush().await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    let mut nothing = Vec::new();
    let (_, read) = tokio::join!(within(dripping), within(silent.read_to_end(&mut nothing)));
    assert!(read.is_err() || nothing.is_empty());
    assert!(begun.elapsed() < Duration::from_secs(18), "{:?}", begun.elapsed());
    let mut good = Tunnel::open(&relay.address).await.expect("open");
    good.send(&[&STRANGE_QUIC]).await.expect("sent");
    assert!(!good.receive().await.is_empty());
}

#[tokio::test]
async fn a_flood_of_callers_is_turned_away_before_tls_and_harms_nobody() {
    let (_data, relay) = start().await;
    let home = Household::new(1, 1);
    Client::create(&relay.address, &home).await;
    let (mut device, _) = Client::device(&relay.address, &home, 0).await;
    let begun = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let address = relay.address.clone();
        calls.spawn(async move { tls(&address).await.ok() });
    }
    let mut let_in = Vec::new();
    while let Some(call) = within(calls.join_next()).await {
        let_in.extend(call.expect("no panic"));
        assert!(matches!(device.ask(Request::FetchLog { from: 0 }).await, Reply::Log { .. }));
    }
    let most = 50 + begun.elapsed().as_millis() / 100 + 1;
    assert!(let_in.len() as u128 <= most && !let_in.is_empty(), "{} were let in", let_in.len());
    // After a pause there is room again.
    within(async { while Tunnel::open(&relay.address).await.is_err() {} }).await;
}

#[tokio::test]
async fn a_device_that_does_not_read_is_cut_off_and_the_others_go_on() {
    let (_data, relay) = start().await;
    let home = Household::new(1, 3);
    let [(_laptop, laptop), (_desktop, desktop)] = two_bound(&relay, &home).await;
    let (_phone, session) = Client::device(&relay.address, &home, 2).await;
    let phone = Leg::bound(&relay.address, &session).await;
    let mut stuck = Tunnel::open(&relay.address).await.expect("open");
    bind(&mut stuck, &desktop.session, 2).await;
    let to_stuck = laptop.data(home.slot(1), 0, &[7; 1400]);
    // It reads nothing; what it says is heard until it has been cut off.
    let flooding = async {
        while stuck.send(&[b"\0"]).await.is_ok() {
            for _ in 0..50 {
                laptop.send_raw(&to_stuck, None).await;
            }
            laptop.send(home.slot(2), b"meanwhile").await;
            assert_eq!(phone.data_from().await.0, home.slot(0));
        }
    };
    within(flooding).await;
}

#[tokio::test]
async fn the_tcp_port_is_the_udp_port_or_the_one_that_is_asked_for() {
    let (data, relay) = start().await;
    let address = relay.address.clone();
    let tunnel = Tunnel::open(&address).await.expect("open");
    relay.kill().await;
    tunnel.closed().await;
    let relay = Relay::start(data.path()).await;
    assert_eq!(relay.address, address);
    let tunnel = Tunnel::open(&address).await.expect("open");
    let (code, _) = relay.terminate().await;
    assert_eq!(code, Some(0));
    tunnel.closed().await;

    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let data = tempfile::tempdir().expect("a directory");
    let mut relay = Relay::start_with(data.path(), &["--tcp", &free.to_string()]).await;
    relay.address.port = free.port();
    Tunnel::open(&relay.address).await.expect("open");
}

/// Binds a session to a tunnel, and gives the address that the relay says it saw.
async fn bind(tunnel: &mut Tunnel, session: &Session, counter: u64) -> SocketAddr {
    tunnel.send(&[&bind_datagram(session.token, &session.mac_key, counter)]).await.expect("sent");
    let (answered, seen) = open_bound(&tunnel.receive().await, &session.mac_key).expect("a BOUND");
    assert_eq!(answered, counter);
    seen
}
