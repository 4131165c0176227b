//! The network edge against the relay itself, on the loopback: two devices meet, lose each other, find each other.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_schemas::address::RelayAddress;
use hearth_schemas::ids::Slot;
use hearth_schemas::keys::{DeviceKeys, Phrase};
use hearth_schemas::log::{Account, Caps};
use hearth_schemas::relay::{Refusal, Reply, Request};
use quinn::{Connection, ConnectionError};
use relay_server::admission::Admission;
use relay_server::listen::{Options, Server};
use syncd::blobs::Blobs;
use syncd::config::Ways;
use syncd::net::{Identity, NetEvent, Network, PathInfo};
use syncd::paths::SignalKey;
use syncd::relay::{Anonymous, RelayError};
use syncd_core::account::{self, Change, Newcomer};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

#[path = "net/tunnels.rs"]
mod tunnels;

/// Longer than anything here takes, on a busy machine.
const LONG: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn two_devices_meet_and_a_stream_arrives_whole() {
    let world = World::new().await;
    let (mut one, mut two) = (world.start(0), world.start(1));
    let (there, here) = tokio::join!(one.peer(), two.peer());
    assert_eq!((there.slot, there.opener, here.slot, here.opener), (two.slot, true, one.slot, false));
    send_and_compare(&there.connection, &here.connection, 2 << 20).await;
    send_and_compare(&here.connection, &there.connection, 1 << 20).await;

    let path = one.network.path(two.slot);
    assert!(path.kind.is_some() && path.online, "{path:?}");
    assert_eq!(one.network.path(Slot(999)), PathInfo::default());
    assert!(matches!(
        one.network.request(Request::FetchLog { from: 0 }).await,
        Ok(Reply::Log { head, .. }) if head == world.account.head
    ));
    let unknown = one.network.request(Request::FetchBlob { hash: [1; 32] }).await;
    assert_eq!(unknown, Err(RelayError::Refused(Refusal::NotFound)));

    two.network.shutdown().await;
    one.until(|event| matches!(event, NetEvent::PeerDown { .. })).await;
    assert_eq!(one.network.path(two.slot).kind, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_is_cut_off_within_a_second_and_stays_out() {
    let world = World::new().await;
    let (mut one, mut two) = (world.start(0), world.start(1));
    let (there, here) = tokio::join!(one.peer(), two.peer());
    let change = &world.change;
    let out = world.keys[1].id();
    let changed = account::revoke(&change.account, &change.secrets, &world.keys[0], out, 1, &mut fill);
    let before = Instant::now();
    one.account.send_replace(Arc::new(changed.expect("a revocation").account));
    here.connection.closed().await;
    one.until(|event| matches!(event, NetEvent::PeerDown { .. })).await;
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    drop(there);

    two.until(|event| matches!(event, NetEvent::PeerDown { .. })).await;
    let again = timeout(Duration::from_secs(4), two.peer()).await;
    assert!(again.is_err(), "the device that was shut out is back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_knows_more_of_the_log_is_told_of_and_one_that_contradicts_it_is_not_let_in() {
    let world = World::new().await;
    let ahead = world.renamed("ahead");
    let (mut one, mut two) = (world.start(0), world.start_knowing(1, ahead.clone()));
    let told = one.until(|event| matches!(event, NetEvent::PeerAhead { .. })).await;
    assert!(matches!(told, NetEvent::PeerAhead { slot, head } if slot == two.slot && head == ahead.head));
    tokio::join!(one.peer(), two.peer());
    two.network.shutdown().await;
    one.network.shutdown().await;

    let other = world.renamed("other");
    let (mut one, mut two) = (world.start_knowing(0, other.clone()), world.start_knowing(1, ahead.clone()));
    let first = one.until(|event| matches!(event, NetEvent::PeerForked { .. } | NetEvent::PeerUp { .. })).await;
    assert!(
        matches!(first, NetEvent::PeerForked { slot, head } if slot == two.slot && head == ahead.head),
        "{first:?}"
    );
    let first = two.until(|event| matches!(event, NetEvent::PeerForked { .. } | NetEvent::PeerUp { .. })).await;
    assert!(
        matches!(first, NetEvent::PeerForked { slot, head } if slot == one.slot && head == other.head),
        "{first:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_a_relay_that_is_killed_and_started_again() {
    let mut world = World::new().await;
    let (mut one, mut two) = (world.start(0), world.start(1));
    let (there, here) = tokio::join!(one.peer(), two.peer());
    world.relay.kill();
    let sending = tokio::spawn(async move {
        // Something to send makes the loss known at once.
        send_and_compare(&there.connection, &here.connection, 4 << 20).await;
        (there, here)
    });
    one.until(|event| matches!(event, NetEvent::RelayDown { .. })).await;
    assert_eq!(one.network.request(Request::PairOpen).await, Err(RelayError::Offline));
    world.relay.restart();
    let back = Instant::now();
    one.until(|event| matches!(event, NetEvent::RelayUp { .. })).await;
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    let (there, _here) = timeout(LONG, sending).await.expect("data flows again").expect("no panic");
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
    assert!(there.connection.close_reason().is_none());
    two.until(|event| matches!(event, NetEvent::RelayUp { .. })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_relays_one_may_die_while_data_flows_and_come_back() {
    let mut world = World::new().await;
    world.ways = Ways { direct: false, ..Ways::default() };
    let mut second = Relay::start();
    let (mut one, mut two) = (world.start(0), world.start(1));
    let (there, here) = tokio::join!(one.peer(), two.peer());
    // Neither relay knows of the other. The second is told of the account by the first device that comes.
    let both = vec![world.relay.address.clone(), second.address.clone()];
    for machine in [&mut one, &mut two] {
        machine.relays.send_replace(both.clone());
        machine.until(|event| matches!(event, NetEvent::RelayUp { relay: 1, .. })).await;
        assert!(machine.network.relays().iter().all(|relay| relay.online));
    }
    send_and_compare(&there.connection, &here.connection, 1 << 20).await;
    assert_eq!((one.network.path(two.slot).relay, two.network.path(one.slot).relay), (Some(0), Some(0)));

    for _ in 0..2 {
        world.relay.kill();
        let killed = Instant::now();
        send_and_compare(&there.connection, &here.connection, 4 << 20).await;
        assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
        let killed = Instant::now();
        send_and_compare(&here.connection, &there.connection, 4 << 20).await;
        assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
        one.until(|event| matches!(event, NetEvent::RelayDown { relay: 0, .. })).await;
        assert_eq!((one.network.path(two.slot).relay, one.network.path(two.slot).online), (Some(1), true));
        world.relay.restart();
        for machine in [&mut one, &mut two] {
            machine.until(|event| matches!(event, NetEvent::RelayUp { relay: 0, .. })).await;
        }
        // It is as near as the other and before it in the account's order: once that is measured, it is used again.
        let back = Instant::now();
        while (one.network.path(two.slot).relay, two.network.path(one.slot).relay) != (Some(0), Some(0)) {
            assert!(back.elapsed() < LONG, "{:?}", one.network.relays());
            send_and_compare(&there.connection, &here.connection, 1 << 10).await;
        }
    }
    // The one that is not used may die unnoticed by those who send.
    second.kill();
    send_and_compare(&there.connection, &here.connection, 1 << 20).await;
    assert!(there.connection.close_reason().is_none() && here.connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_has_lost_its_memory_is_told_of_the_account() {
    let mut world = World::new().await;
    world.relay.kill();
    world.relay.forget();
    world.relay.restart();
    let (mut one, mut two) = (world.start(0), world.start(1));
    tokio::join!(one.peer(), two.peer());
    let visit = Anonymous::connect(&world.relay.address, false).await.expect("connected");
    let head = visit.login_root(&world.phrase.root().sign).await;
    assert_eq!(head, Ok(Some(world.account.head)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_starts_again_is_met_again_at_once() {
    let world = World::new().await;
    let mut one = world.start(0);
    // Dies without a word: its runtime goes, and with it its tasks and its socket.
    let doomed = Runtime::new().expect("a runtime");
    let guard = doomed.enter();
    let mut two = world.start(1);
    drop(guard);
    tokio::join!(one.peer(), two.peer());
    doomed.shutdown_background();
    let mut two = world.start(1);
    let before = Instant::now();
    one.until(|event| matches!(event, NetEvent::PeerDown { .. })).await;
    tokio::join!(one.peer(), two.peer());
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_says_so_to_its_peers_before_the_relay_forwards_no_more() {
    let mut world = World::new().await;
    world.ways = Ways { direct: false, nearby: false, ask_router: false };
    let mut one = world.start(0);
    for turn in 0..10 {
        let mut two = world.start(1);
        let (there, _) = tokio::join!(one.peer(), two.peer());
        two.network.shutdown().await;
        let ended = there.connection.closed().await;
        assert!(matches!(ended, ConnectionError::ApplicationClosed(_)), "{turn}: {ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_with_another_key_than_the_pinned_one_is_refused() {
    let world = World::new().await;
    let wrong = RelayAddress { key: Some([3; 32]), ..world.relay.address.clone() };
    assert!(matches!(Anonymous::connect(&wrong, false).await, Err(RelayError::WrongKey { .. })));
    let (_account, account) = watch::channel(Arc::new(world.account.clone()));
    let (_relays, relays) = only(&wrong);
    let (network, mut events) =
        Network::start(relays, nothing(), world.identity(0), account, world.key(), Ways::default(), 0)
            .expect("started");
    let first = timeout(LONG, events.recv()).await.expect("in time");
    assert!(matches!(first, Some(NetEvent::RelayDown { .. })), "{first:?}");
    assert!(!network.is_relay_up());

    let keyless = RelayAddress { key: None, ..world.relay.address.clone() };
    assert!(Anonymous::connect(&keyless, false).await.is_err());
    let joining = Anonymous::connect(&keyless, true).await.expect("a code will authenticate it");
    assert_eq!(joining.relay_key(), world.relay.address.key);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_logs_in_with_the_phrase_and_a_stranger_does_not() {
    let world = World::new().await;
    let visit = Anonymous::connect(&world.relay.address, false).await.expect("connected");
    let head = visit.login_root(&world.phrase.root().sign).await;
    assert_eq!(head, Ok(Some(world.account.head)));
    visit.close().await;

    let stranger = Identity { sign: world.keys[1].sign.clone(), ..world.identity(0) };
    let (_account, account) = watch::channel(Arc::new(world.account.clone()));
    let (_relays, relays) = only(&world.relay.address);
    let (_network, mut events) =
        Network::start(relays, nothing(), stranger, account, world.key(), Ways::default(), 0).expect("started");
    let Some(NetEvent::RelayDown { reason, .. }) = timeout(LONG, events.recv()).await.expect("in time") else {
        panic!("let in");
    };
    assert!(reason.contains("does not know this device"), "{reason}");
}

/// A relay that has an account of two devices.
struct World {
    relay: Relay,
    phrase: Phrase,
    keys: [DeviceKeys; 2],
    change: Change,
    account: Account,
    ways: Ways,
}

impl World {
    async fn new() -> Self {
        let relay = Relay::start();
        let phrase = Phrase::random(&mut fill);
        let keys = [DeviceKeys::random(&mut fill), DeviceKeys::random(&mut fill)];
        let first = account::create(&phrase, &keys[0], "one", 0, &mut fill).expect("an account");
        let public = keys[1].public();
        let newcomer = Newcomer { keys: &public, wish: "two", caps: Caps::ALL };
        let change = account::add_device(&first.account, &first.secrets, &keys[0], &newcomer, 0, &mut fill)
            .expect("a second device");
        let visit = Anonymous::connect(&relay.address, false).await.expect("connected");
        let create = Request::CreateAccount {
            entries: [first.entries, change.entries.clone()].concat(),
            blobs: [first.blobs, change.blobs.clone()].concat(),
            invite: None,
        };
        assert_eq!(visit.request(create).await, Ok(Reply::Done));
        visit.close().await;
        Self { relay, phrase, keys, account: change.account.clone(), change, ways: Ways::default() }
    }

    fn identity(&self, which: usize) -> Identity {
        let keys = &self.keys[which];
        let device = self.account.active(&keys.id()).expect("listed");
        Identity {
            account: self.account.id,
            device: device.id,
            slot: device.slot,
            sign: keys.sign.clone(),
            tls: keys.tls.clone(),
        }
    }

    /// The account as it is after one more entry.
    fn renamed(&self, name: &str) -> Account {
        let change = &self.change;
        let by = &self.keys[0];
        let renamed = account::rename(&change.account, &change.secrets, by, by.id(), name, 1, &mut fill);
        renamed.expect("a name").account
    }

    fn key(&self) -> watch::Receiver<Arc<SignalKey>> {
        watch::channel(Arc::new(SignalKey::newest(&self.change.secrets))).1
    }

    fn start(&self, which: usize) -> Machine {
        self.start_knowing(which, self.account.clone())
    }

    fn start_knowing(&self, which: usize, account: Account) -> Machine {
        let (account, watched) = watch::channel(Arc::new(account));
        let identity = self.identity(which);
        let slot = identity.slot;
        let (relays, used) = only(&self.relay.address);
        let (network, events) =
            Network::start(used, nothing(), identity, watched, self.key(), self.ways, 0).expect("started");
        Machine { slot, network, events, account, relays }
    }
}

/// One device.
struct Machine {
    slot: Slot,
    network: Network,
    events: mpsc::Receiver<NetEvent>,
    account: watch::Sender<Arc<Account>>,
    relays: watch::Sender<Vec<RelayAddress>>,
}

/// The relays of an account that has one.
fn only(relay: &RelayAddress) -> (watch::Sender<Vec<RelayAddress>>, watch::Receiver<Vec<RelayAddress>>) {
    watch::channel(vec![relay.clone()])
}

/// No blobs of the account, and no place for any.
fn nothing() -> Arc<Blobs> {
    Arc::new(Blobs::at("/nonexistent".into()))
}

struct Peer {
    slot: Slot,
    connection: Connection,
    opener: bool,
}

impl Machine {
    async fn until(&mut self, wanted: impl Fn(&NetEvent) -> bool) -> NetEvent {
        let search = async {
            loop {
                let event = self.events.recv().await.expect("the network runs");
                if wanted(&event) {
                    return event;
                }
            }
        };
        timeout(LONG, search).await.expect("in time")
    }

    async fn peer(&mut self) -> Peer {
        match self.until(|event| matches!(event, NetEvent::PeerUp { .. })).await {
            NetEvent::PeerUp { slot, connection, opener, .. } => Peer { slot, connection, opener },
            other => panic!("{other:?}"),
        }
    }
}

/// A relay on a runtime of its own, which can be taken away from under it.
struct Relay {
    runtime: Option<Runtime>,
    options: Options,
    address: RelayAddress,
    _data: tempfile::TempDir,
}

impl Relay {
    fn start() -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let options = Options {
            data: data.path().to_owned(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tcp: None,
            host: None,
            admission: Admission::Open,
            metrics: None,
        };
        let (runtime, address) = Self::run(&options);
        Self { runtime: Some(runtime), options, address, _data: data }
    }

    fn run(options: &Options) -> (Runtime, RelayAddress) {
        let runtime = Runtime::new().expect("a runtime");
        let guard = runtime.enter();
        let server = Server::start(options).expect("a relay");
        drop(guard);
        let address = server.address().clone();
        runtime.spawn(server.run(std::future::pending()));
        (runtime, address)
    }

    /// Takes its tasks and its socket away; nobody is told goodbye.
    fn kill(&mut self) {
        let runtime = self.runtime.take().expect("it runs");
        let gone = std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(5)));
        gone.join().expect("no panic");
    }

    /// Loses its database, but not its key.
    fn forget(&mut self) {
        self.options.listen.set_port(self.address.port);
        std::fs::remove_file(self.options.data.join("relay.sqlite")).expect("there was one");
        for beside in ["relay.sqlite-wal", "relay.sqlite-shm"] {
            // Not there if it was closed well.
            let _ = std::fs::remove_file(self.options.data.join(beside));
        }
    }

    fn restart(&mut self) {
        let (runtime, address) = Self::run(&self.options);
        assert_eq!(address, self.address);
        self.runtime = Some(runtime);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Sends bytes that depend on their place, and compares their hashes at both ends.
async fn send_and_compare(from: &Connection, to: &Connection, len: usize) {
    let mut sent = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut sent);
    let wanted = blake3::hash(&sent);
    let sending = async {
        let mut stream = from.open_uni().await.expect("a stream");
        stream.write_all(&sent).await.expect("sent");
        stream.finish().expect("open");
    };
    let receiving = async {
        let mut stream = to.accept_uni().await.expect("a stream");
        stream.read_to_end(len).await.expect("received")
    };
    let ((), received) = tokio::join!(sending, receiving);
    assert!(blake3::hash(&received) == wanted, "the bytes differ");
}

fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("random bytes");
}
