//! Crowds that come to do harm: those who take nothing of what they asked for, and those who knock and go away.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_schemas::codec;
use hearth_schemas::ids::Slot;
use hearth_schemas::relay::{ALPN, ClientFrame, EXPORTER_LABEL, Reply, Request};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, TransportConfig, VarInt};
use rustls::crypto::aws_lc_rs::kx_group;
use tokio::net::UdpSocket;
use tokio::time::{interval, timeout};

use crate::client::{Client, Leg, relay_address, tls_config, within};
use crate::household::Household;
use crate::process::Relay;
use crate::{start, two_bound};

/// How many take nothing.
const SLOW: usize = 1000;
/// How many of them come from one address.
const EACH: usize = 40;
/// How many questions each of them asks.
const QUESTIONS: usize = 100;
/// What the relay may take in memory for all of them, in KiB: their connections, and what waits for them.
const MOST_KIB: u64 = 160 << 10;
/// How many first packets of handshakes come.
const INITIALS: usize = 50_000;
/// How many of them are different.
const DIFFERENT: usize = 500;
/// How long a datagram through the relay may take meanwhile, in most cases and on a busy computer.
const PROMPT: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_who_take_nothing_of_what_they_ask_for_are_put_out_and_take_little_memory() {
    let (_data, relay) = start().await;
    let home = Household::new(1, 2);
    let [(mut laptop, leg), (_desktop, desktop)] = two_bound(&relay, &home).await;
    let mut endpoints = Vec::new();
    let mut slow = Vec::new();
    for number in 0..SLOW {
        if number % EACH == 0 {
            let own = Ipv4Addr::new(127, 0, 9, u8::try_from(number / EACH + 1).expect("few addresses"));
            endpoints.push(Endpoint::client((own, 0).into()).expect("a socket"));
        }
        let endpoint = endpoints.last().expect("opened just now");
        slow.push(ask_and_take_nothing(endpoint, &relay, &home).await);
    }
    for connection in &slow {
        assert!(within(connection.closed()).await.to_string().contains("closed by peer"));
    }
    let most_kib = relay.most_memory_kib();
    assert!(most_kib < MOST_KIB, "the relay took {most_kib} KiB");
    assert!(matches!(laptop.ask(Request::FetchLog { from: 0 }).await, Reply::Log { .. }), "others are served");
    leg.send(home.slot(1), b"still there").await;
    assert_eq!(desktop.data_from().await.2, b"still there");
}

/// Logs in as the root and asks for its log again and again, with room for 16 bytes of an answer.
async fn ask_and_take_nothing(endpoint: &Endpoint, relay: &Relay, home: &Household) -> Connection {
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(16));
    let connection = within(connecting(endpoint, relay_address(&relay.address), relay, transport)).await;
    let connection = connection.expect("connected");
    let mut exporter = [0; 32];
    connection.export_keying_material(&mut exporter, EXPORTER_LABEL, &[]).expect("32 bytes are not too many");
    let (mut send, recv) = within(connection.open_bi()).await.expect("a stream");
    let first = ClientFrame { id: 0, request: home.root_login(&exporter) };
    let others = (1..=QUESTIONS).map(|id| ClientFrame { id: id as u32, request: Request::FetchLog { from: 0 } });
    let mut bytes = Vec::new();
    for frame in std::iter::once(first).chain(others) {
        let frame = codec::encode(&frame);
        bytes.extend(u32::try_from(frame.len()).expect("a short frame").to_le_bytes());
        bytes.extend(frame);
    }
    // Who is put out before it has asked everything has been put out.
    let _put_out = timeout(Duration::from_secs(20), send.write_all(&bytes)).await;
    tokio::spawn(async move {
        // Neither end of the stream is closed.
        let _open = (send, recv);
        std::future::pending::<()>().await;
    });
    connection
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_there_hardly_notices_fifty_thousand_who_knock_and_go_away() {
    let (_data, relay) = start().await;
    let home = Household::new(1, 2);
    let [(_laptop, leg), (_desktop, desktop)] = two_bound(&relay, &home).await;
    let before = round_trips(&leg, home.slot(1), &desktop, 300).await;
    let packets = first_packets(&relay).await;
    let to = relay_address(&relay.address);
    let flood = tokio::spawn(async move {
        let mut sockets = Vec::new();
        for number in 1..=5 {
            sockets.push(UdpSocket::bind((Ipv4Addr::new(127, 0, 8, number), 0)).await.expect("a socket"));
        }
        let (mut sent, mut answered) = (0, 0);
        let mut buffer = [0; 2048];
        let mut turns = interval(Duration::from_millis(10));
        for number in 0..INITIALS {
            if number % 100 == 0 {
                turns.tick().await;
            }
            let socket = &sockets[number % sockets.len()];
            sent += socket.send_to(&packets[number % packets.len()], to).await.unwrap_or(0);
            while let Ok(length) = socket.try_recv(&mut buffer) {
                answered += length;
            }
        }
        (sent, answered)
    });
    let during = round_trips(&leg, home.slot(1), &desktop, 300).await;
    let (newcomer, _session) = Client::device(&relay.address, &home, 0).await;
    let (sent, answered) = within(flood).await.expect("flooded");
    assert!(during <= PROMPT.max(2 * before), "99 of 100 took {during:?}, and {before:?} before");
    assert!(answered > 0, "somebody was asked to prove its address");
    assert!(answered <= 3 * sent, "{answered} bytes answered {sent}");
    drop(newcomer);
}

/// First packets of handshakes with this relay, caught on their way.
async fn first_packets(relay: &Relay) -> Vec<Vec<u8>> {
    let trap = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    let at = trap.local_addr().expect("bound");
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
    let mut packets = Vec::new();
    let mut buffer = [0; 2048];
    while packets.len() < DIFFERENT {
        let attempt = connecting(&endpoint, at, relay, TransportConfig::default());
        tokio::select! {
            _ = attempt => panic!("nobody answers here"),
            length = trap.recv(&mut buffer) => packets.push(buffer[..length.expect("received")].to_vec()),
        }
    }
    packets
}

async fn connecting(
    endpoint: &Endpoint,
    at: SocketAddr,
    relay: &Relay,
    transport: TransportConfig,
) -> Result<Connection, quinn::ConnectionError> {
    let tls = tls_config(relay.address.key.expect("a pinned relay"), kx_group::X25519MLKEM768, ALPN);
    let tls = QuicClientConfig::try_from(tls).expect("QUIC's suite is there");
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    endpoint.connect_with(config, at, "relay.invalid").expect("a good address").await
}

/// How long it takes at most, in 99 of 100 cases, until a datagram has come through the relay. One that is lost is sent again.
async fn round_trips(from: &Leg, slot: Slot, to: &Leg, count: usize) -> Duration {
    let mut took = Vec::new();
    for number in 0..count {
        let body = number.to_le_bytes();
        let begun = Instant::now();
        from.send(slot, &body).await;
        loop {
            match timeout(Duration::from_millis(100), to.data_from()).await {
                Ok((.., received)) if received == body => break,
                Ok(_sent_twice) => {}
                Err(_lost) => from.send(slot, &body).await,
            }
        }
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    took[count * 99 / 100]
}
