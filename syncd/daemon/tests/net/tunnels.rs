//! What becomes of devices when UDP does not get out: between them and the relay stands a gate that can be shut.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hearth_schemas::address::RelayAddress;
use hearth_schemas::relay::{Reply, Request};
use syncd::config::Ways;
use syncd::net::{NetEvent, PathKind};
use syncd::relay::{Anonymous, RelayError};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::{LONG, World, send_and_compare};

#[tokio::test(flavor = "multi_thread")]
async fn two_devices_whose_udp_does_not_get_out_meet_over_tcp() {
    let mut world = relayed().await;
    let gate = Gate::before(&mut world.relay.address, false).await;
    let begun = Instant::now();
    let (mut one, mut two) = (world.start(0), world.start(1));
    let (there, here) = tokio::join!(one.peer(), two.peer());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    send_and_compare(&there.connection, &here.connection, 2 << 20).await;
    send_and_compare(&here.connection, &there.connection, 1 << 20).await;
    assert_eq!(one.network.path(two.slot).kind, Some(PathKind::RelayTcp));
    assert_eq!(one.network.relay_over_tcp(), Some(None));

    let visit = Anonymous::connect(&world.relay.address, false).await.expect("over TCP as well");
    assert!(visit.login_root(&world.phrase.root().sign).await.is_ok());
    visit.close().await;
    two.network.shutdown().await;
    one.until(|event| matches!(event, NetEvent::PeerDown { .. })).await;
    drop(gate);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_outlive_the_loss_of_udp_and_its_return() {
    let mut world = relayed().await;
    let gate = Gate::before(&mut world.relay.address, true).await;
    let (mut one, mut two) = (world.start(0), world.start(1));
    let (there, here) = tokio::join!(one.peer(), two.peer());
    assert_eq!(one.network.relay_over_tcp(), None);

    gate.let_udp_through(false);
    let shut = Instant::now();
    send_and_compare(&there.connection, &here.connection, 1 << 20).await;
    assert!(shut.elapsed() < Duration::from_secs(10), "{:?}", shut.elapsed());
    send_and_compare(&here.connection, &there.connection, 1 << 20).await;
    assert_eq!((one.network.relay_over_tcp(), two.network.relay_over_tcp()), (Some(None), Some(None)));
    // The login has come along.
    for machine in [&one, &two] {
        assert!(matches!(machine.network.request(Request::FetchLog { from: 0 }).await, Ok(Reply::Log { .. })));
    }

    gate.let_udp_through(true);
    let back = async {
        while one.network.relay_over_tcp().is_some() || two.network.relay_over_tcp().is_some() {
            send_and_compare(&there.connection, &here.connection, 1000).await;
        }
    };
    timeout(LONG, back).await.expect("back over UDP");
    send_and_compare(&here.connection, &there.connection, 1 << 20).await;
    for machine in [&one, &two] {
        assert!(matches!(machine.network.request(Request::FetchLog { from: 0 }).await, Ok(Reply::Log { .. })));
    }
    assert!(there.connection.close_reason().is_none() && here.connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_over_tcp_outlives_the_loss_of_its_tcp_connection() {
    let mut world = relayed().await;
    let gate = Gate::before(&mut world.relay.address, false).await;
    let (mut one, mut two) = (world.start(0), world.start(1));
    let (there, here) = tokio::join!(one.peer(), two.peer());
    for _ in 0..3 {
        gate.hang_up();
        let cut = Instant::now();
        send_and_compare(&there.connection, &here.connection, 1 << 20).await;
        assert!(cut.elapsed() < Duration::from_secs(10), "{:?}", cut.elapsed());
    }
    assert!(there.connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_behind_the_address_is_known_over_tcp_too() {
    let mut world = relayed().await;
    let _gate = Gate::before(&mut world.relay.address, false).await;
    let wrong = RelayAddress { key: Some([3; 32]), ..world.relay.address.clone() };
    assert!(matches!(Anonymous::connect(&wrong, false).await, Err(RelayError::WrongKey { .. })));
    let keyless = RelayAddress { key: None, ..world.relay.address.clone() };
    let joining = Anonymous::connect(&keyless, true).await.expect("a code will authenticate it");
    assert_eq!(joining.relay_key(), world.relay.address.key);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_gets_out_both_ways_are_named() {
    let blackhole = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = blackhole.local_addr().expect("an address").port();
    let nobody = RelayAddress { host: "127.0.0.1".to_owned(), port, key: Some([3; 32]) };
    let Err(RelayError::Unreachable(reason)) = Anonymous::connect(&nobody, false).await else { panic!("reached") };
    assert!(reason.contains("no answer over UDP") && reason.contains("over TCP"), "{reason}");
}

/// A world whose devices have no way to each other but the relay.
async fn relayed() -> World {
    let ways = Ways { direct: false, nearby: false, ask_router: false };
    World { ways, ..World::new().await }
}

/// Stands before a relay on a port of its own, for UDP and TCP.
struct Gate {
    open: Arc<AtomicBool>,
    calls: Arc<tokio::sync::Notify>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Gate {
    /// Puts a gate before a relay, and its port into the address. TCP gets through; UDP does if it is open.
    async fn before(relay: &mut RelayAddress, open: bool) -> Self {
        let behind = SocketAddr::from((Ipv4Addr::LOCALHOST, relay.port));
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("an address")).await {
                break (udp, tcp);
            }
        };
        relay.port = tcp.local_addr().expect("an address").port();
        let (open, calls) = (Arc::new(AtomicBool::new(open)), Arc::<tokio::sync::Notify>::default());
        let tasks = [
            tokio::spawn(pass_udp(Arc::new(udp), behind, open.clone())),
            tokio::spawn(pass_tcp(tcp, behind, calls.clone())),
        ];
        Self { open, calls, tasks }
    }

    fn let_udp_through(&self, open: bool) {
        self.open.store(open, Ordering::SeqCst);
    }

    /// Ends every TCP connection that is open.
    fn hang_up(&self) {
        self.calls.notify_waiters();
    }
}

async fn pass_udp(udp: Arc<UdpSocket>, behind: SocketAddr, open: Arc<AtomicBool>) {
    let mut ways: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let (length, from) = udp.recv_from(&mut buffer).await.expect("received");
        if !open.load(Ordering::SeqCst) {
            continue;
        }
        if let Some(way) = ways.get(&from) {
            let _lost = way.send(&buffer[..length]).await;
            continue;
        }
        let way = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port"));
        way.connect(behind).await.expect("connected");
        let _lost = way.send(&buffer[..length]).await;
        ways.insert(from, way.clone());
        let (udp, open) = (udp.clone(), open.clone());
        tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            while let Ok(length) = way.recv(&mut buffer).await {
                if open.load(Ordering::SeqCst) {
                    let _lost = udp.send_to(&buffer[..length], from).await;
                }
            }
        });
    }
}

async fn pass_tcp(tcp: TcpListener, behind: SocketAddr, calls: Arc<tokio::sync::Notify>) {
    loop {
        let (mut near, _) = tcp.accept().await.expect("accepted");
        let calls = calls.clone();
        tokio::spawn(async move {
            let Ok(mut far) = TcpStream::connect(behind).await else { return };
            tokio::select! {
                _ = copy_bidirectional(&mut near, &mut far) => {}
                () = calls.notified() => {}
            }
        });
    }
}
