//! What an operator counts: right, and nothing in it that names anybody.

use std::path::Path;

use hearth_schemas::ids::Slot;
use hearth_schemas::relay::{Refusal, Reply, Request};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::client::{Client, Leg, within};
use crate::household::Household;
use crate::process::Relay;
use crate::tunnel::Tunnel;

#[tokio::test]
async fn what_devices_do_is_counted_and_nobody_is_named() {
    let data = tempfile::tempdir().expect("a directory");
    let socket = data.path().join("metrics");
    let relay = serve(data.path(), socket.to_str().expect("text")).await;
    let before = read(&socket).await;
    for (name, value) in [("devices", 0), ("bound{leg=\"udp\"}", 0), ("logins_total", 0), ("tunnels", 0)] {
        assert_eq!(number(&before, name), value, "{name} in {before}");
    }

    let (home, other) = (Household::new(1, 2), Household::new(2, 1));
    Client::create(&relay.address, &home).await;
    Client::create(&relay.address, &other).await;
    let (mut laptop, session) = Client::device(&relay.address, &home, 0).await;
    let (_desktop, at_desktop) = Client::device(&relay.address, &home, 1).await;
    let (_stranger, _) = Client::device(&relay.address, &other, 0).await;
    let (here, there) = (Leg::bound(&relay.address, &session).await, Leg::bound(&relay.address, &at_desktop).await);
    for body in [b"@one".as_slice(), b"@two", b"@three"] {
        here.send(home.slot(1), body).await;
        assert_eq!(there.data_from().await.2, body);
    }
    here.send(Slot(900), b"@nobody").await;
    here.receive().await;
    assert_eq!(laptop.ask(Request::FetchBlob { hash: [0; 32] }).await, Reply::Refused(Refusal::NotFound));
    let tunnel = Tunnel::open(&relay.address).await.expect("a tunnel");

    let text = read(&socket).await;
    let bytes = u64::try_from(3 * 12 + b"@one@two@three".len()).expect("small");
    for (name, value) in [
        ("accounts", 2),
        ("devices", 3),
        ("bound{leg=\"udp\"}", 2),
        ("bound{leg=\"tcp\"}", 0),
        ("tunnels", 1),
        ("logins_total", 3),
        ("refused_total{reason=\"not_found\"}", 1),
        ("refused_total{reason=\"not_authorised\"}", 0),
        ("binds_total{result=\"answered\"}", 2),
        ("forwarded_datagrams_total{leg=\"udp\"}", 3),
        ("forwarded_bytes_total{leg=\"udp\"}", bytes),
        ("forwarded_bytes_total{leg=\"tcp\"}", 0),
        ("dropped_datagrams_total{reason=\"offline\"}", 1),
        ("dropped_datagrams_total{reason=\"refused\"}", 0),
    ] {
        assert_eq!(number(&text, name), value, "{name} in {text}");
    }
    assert!(number(&text, "connections") >= 3, "{text}");
    let lower = text.to_lowercase();
    for secret in [home.id().to_string(), other.id().to_string(), "127.0.0.1".to_owned(), "::1".to_owned()] {
        assert!(!lower.contains(&secret), "{secret} in {text}");
        assert!(!lower.contains(&secret[..secret.len().min(8)]), "{secret} in {text}");
    }
    drop(tunnel);

    // What stays of a relay that was killed is in nobody's way.
    relay.kill().await;
    let relay = serve(data.path(), socket.to_str().expect("text")).await;
    assert_eq!(number(&read(&socket).await, "logins_total"), 0);
    relay.terminate().await;
}

#[tokio::test]
async fn metrics_are_read_on_a_loopback_port_as_well() {
    let data = tempfile::tempdir().expect("a directory");
    let _relay = serve(data.path(), "127.77.1.1:9464").await;
    for _ in 0..20 {
        // One that asks nothing takes no more than its turn.
        drop(TcpStream::connect("127.77.1.1:9464").await.expect("connected"));
    }
    let text = ask(TcpStream::connect("127.77.1.1:9464").await.expect("connected")).await;
    assert_eq!(number(&text, "devices"), 0);
}

async fn serve(data: &Path, metrics: &str) -> Relay {
    Relay::start_with(data, &["--metrics", metrics]).await
}

async fn read(socket: &Path) -> String {
    ask(UnixStream::connect(socket).await.expect("connected")).await
}

/// Asks as Prometheus does, and checks the form of the answer.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: relay\r\n\r\n").await.expect("asked");
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    let mut families = Vec::new();
    for line in body.lines() {
        let (name, rest) = line.split_once(' ').expect("two words");
        match name {
            "#" => families.extend(rest.strip_prefix("TYPE ").and_then(|rest| rest.split(' ').next())),
            _ => {
                assert!(rest.parse::<u64>().is_ok(), "{line}");
                assert_eq!(families.last().copied(), name.split('{').next(), "{line} is not of the family above it");
            }
        }
    }
    body.to_owned()
}

fn number(text: &str, name: &str) -> u64 {
    let wanted = format!("hearth_relay_{name} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&wanted));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
}
