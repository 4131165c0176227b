//! What a path can carry at all: two devices without a daemon, and one QUIC stream between them.
//!
//! Uses the daemon's own network edge, so path, encryption and congestion control are the same; nothing is read from
//! or written to a disk.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use hearth_schemas::address::RelayAddress;
use hearth_schemas::ids::Slot;
use hearth_schemas::keys::{DeviceKeys, Phrase, Secret};
use hearth_schemas::log::{Account, Caps};
use hearth_schemas::relay::{Reply, Request};
use quinn::Connection;
use syncd::blobs::Blobs;
use syncd::config::Ways;
use syncd::net::{Identity, NetEvent, Network, PathKind};
use syncd::paths::SignalKey;
use syncd::relay::Anonymous;
use syncd_core::account::{self, Newcomer};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

const CONNECT_LIMIT: Duration = Duration::from_secs(60);
const PIECE_BYTES: usize = 256 << 10;
const ECHO_BYTES: usize = 64;
const BETWEEN_ECHOES: Duration = Duration::from_millis(20);
/// How long the two are left alone before anything is measured.
const CALM: Duration = Duration::from_secs(2);

/// Returns how long this many bytes take from one device to another by the relay.
pub(crate) fn stream(relay: &str, bytes: u64) -> Result<Duration> {
    let relay = RelayAddress::parse(relay).map_err(|error| anyhow!("the relay's address: {error}"))?;
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    threads.context("starting threads")?.block_on(measure(relay, bytes))
}

/// What came of a stream between two places, and of the echoes before it and beside it.
pub(crate) struct Carried {
    /// From the first byte to the last acknowledgement.
    pub(crate) took: Duration,
    /// What echoes took while nothing else was sent.
    pub(crate) idle: Vec<Duration>,
    /// What they took beside the stream.
    pub(crate) busy: Vec<Duration>,
    /// Packets of the sender, and those of them that it held for lost.
    pub(crate) packets: (u64, u64),
}

/// Sends so many bytes from one network namespace to another, straight if there is a way, with small echoes on a stream beside.
pub(crate) fn between(relay: &str, from: &Path, to: &Path, bytes: u64, direct: bool) -> Result<Carried> {
    let (near, far) = sides(relay, from, direct)?;
    let answering = inside(to, async move {
        let (network, mut events, _account) = far()?;
        answer(peer(&mut events).await?.1).await?;
        network.shutdown().await;
        Ok(())
    })?;
    let asking = inside(from, async move {
        let (network, mut events, _account) = near()?;
        let (_, connection) = peer(&mut events).await?;
        let carried = ask(&connection, bytes).await?;
        network.shutdown().await;
        Ok(carried)
    })?;
    let carried = asking.join().map_err(|_| anyhow!("sending"))??;
    answering.join().map_err(|_| anyhow!("receiving"))??;
    Ok(carried)
}

/// Returns the longest time between two echoes, of one every 20 ms, from when something happens to the network until so
/// much later. It happens once the way between the places is of this kind.
pub(crate) fn silence(
    relay: &str,
    [from, to]: [&Path; 2],
    path: PathKind,
    time: Duration,
    happen: impl FnOnce() -> Result<()>,
) -> Result<Duration> {
    let (near, far) = sides(relay, from, true)?;
    let (stop, stopped) = watch::channel(false);
    let answering = inside(to, async move {
        let (_network, mut events, _account) = far()?;
        let (_, connection) = peer(&mut events).await?;
        let (mut send, mut recv) = connection.accept_bi().await.context("accepting a stream")?;
        let mut message = [0; ECHO_BYTES];
        while recv.read_exact(&mut message).await.is_ok() && send.write_all(&message).await.is_ok() {}
        Ok(())
    })?;
    let (ready, begin) = std::sync::mpsc::channel();
    let asking = inside(from, async move {
        let (network, mut events, _account) = near()?;
        let (there, connection) = peer(&mut events).await?;
        let is_there = || network.path(there).kind == Some(path) && ready.send(()).is_ok();
        let longest = echo_until(&connection, stopped, is_there).await?;
        network.shutdown().await;
        Ok(longest)
    })?;
    begin.recv_timeout(CONNECT_LIMIT).context("there is no such way between the two")?;
    happen()?;
    thread::sleep(time);
    stop.send_replace(true);
    let longest = asking.join().map_err(|_| anyhow!("asking"))??;
    answering.join().map_err(|_| anyhow!("answering"))??;
    Ok(longest)
}

/// Sends an echo every 20 ms until it is stopped. Returns the longest time between two answers since `is_begun`.
async fn echo_until(
    connection: &Connection,
    mut stopped: watch::Receiver<bool>,
    is_begun: impl Fn() -> bool,
) -> Result<Duration> {
    let (mut send, mut recv) = connection.open_bi().await.context("opening a stream")?;
    let sending = async {
        let mut turns = tokio::time::interval(BETWEEN_ECHOES);
        loop {
            turns.tick().await;
            send.write_all(&[7; ECHO_BYTES]).await.context("calling")?;
        }
    };
    let mut longest = Duration::ZERO;
    let hearing = async {
        let (mut last, mut begun) = (Instant::now(), false);
        loop {
            let mut message = [0; ECHO_BYTES];
            recv.read_exact(&mut message).await.context("hearing an echo")?;
            if begun {
                longest = longest.max(last.elapsed());
            }
            begun = begun || is_begun();
            last = Instant::now();
        }
    };
    let ended: Result<()> = tokio::select! {
        ended = sending => ended,
        ended = hearing => ended,
        _ = stopped.wait_for(|stopped| *stopped) => Ok(()),
    };
    ended.map(|()| longest)
}

/// A device that runs, and what keeps its account and its relays known.
type Running = (Network, mpsc::Receiver<NetEvent>, (watch::Sender<Arc<Account>>, watch::Sender<Vec<RelayAddress>>));
/// What starts one.
type Side = Box<dyn FnOnce() -> Result<Running> + Send>;

/// Makes an account, from a network namespace, and gives what starts each of its two devices.
fn sides(relay: &str, from: &Path, direct: bool) -> Result<(Side, Side)> {
    let relay = RelayAddress::parse(relay).map_err(|error| anyhow!("the relay's address: {error}"))?;
    let keys = Arc::new([DeviceKeys::random(&mut fill), DeviceKeys::random(&mut fill)]);
    let account = inside(from, {
        let (relay, keys) = (relay.clone(), Arc::clone(&keys));
        async move { enrol(&relay, &Phrase::random(&mut fill), &keys).await }
    })?;
    let account = account.join().map_err(|_| anyhow!("enrolling"))??;
    let ways = Ways { direct, nearby: false, ask_router: false };
    let key = Arc::new(SignalKey { epoch: 0, key: Secret::random(&mut fill) });
    let side = |number: usize| -> Side {
        let (relay, keys, account, key) = (relay.clone(), Arc::clone(&keys), account.clone(), Arc::clone(&key));
        Box::new(move || {
            let identity = identity(&account, &keys[number])?;
            let (known, watched) = watch::channel(Arc::new(account));
            let (relays, listed) = watch::channel(vec![relay]);
            let key = watch::channel(key).1;
            let (network, events) = Network::start(listed, nothing(), identity, watched, key, ways, 0)?;
            Ok((network, events, (known, relays)))
        })
    };
    Ok((side(0), side(1)))
}

/// Runs in a network namespace, on threads of its own.
fn inside<R: Send + 'static>(
    namespace: &Path,
    work: impl Future<Output = Result<R>> + Send + 'static,
) -> Result<thread::JoinHandle<Result<R>>> {
    let namespace = File::open(namespace).context("opening a network namespace")?;
    Ok(thread::spawn(move || {
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(rustix::thread::LinkNameSpaceType::Network))
            .context("entering a network namespace")?;
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        threads.context("starting threads")?.block_on(work)
    }))
}

async fn ask(connection: &Connection, bytes: u64) -> Result<Carried> {
    let (mut send, mut recv) = connection.open_bi().await.context("opening a stream")?;
    send.set_priority(1).context("preferring a stream")?;
    let mut echo = async || -> Result<Duration> {
        let (begun, mut message) = (Instant::now(), [7; ECHO_BYTES]);
        send.write_all(&message).await.context("calling")?;
        recv.read_exact(&mut message).await.context("hearing an echo")?;
        tokio::time::sleep(BETWEEN_ECHOES).await;
        Ok(begun.elapsed().saturating_sub(BETWEEN_ECHOES))
    };
    // The path is found, and its packets' length, while the first go.
    tokio::time::sleep(CALM).await;
    let (mut idle, mut busy) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        idle.push(echo().await?);
    }
    let before = connection.stats().path;
    let (begun, sending) = (Instant::now(), connection.clone());
    let mut sending = tokio::spawn(async move {
        send_all(&sending, bytes).await?;
        Ok::<_, anyhow::Error>(begun.elapsed())
    });
    let took = loop {
        tokio::select! {
            took = &mut sending => break took.context("sending")??,
            echoed = echo() => busy.push(echoed?),
        }
    };
    let after = connection.stats().path;
    let packets = (after.sent_packets - before.sent_packets, after.lost_packets - before.lost_packets);
    Ok(Carried { took, idle, busy, packets })
}

/// Takes in one stream, and echoes another, until the connection ends.
async fn answer(connection: Connection) -> Result<()> {
    let taking = tokio::spawn(receive(connection.clone()));
    let (mut send, mut recv) = connection.accept_bi().await.context("accepting a stream")?;
    let mut message = [0; ECHO_BYTES];
    while recv.read_exact(&mut message).await.is_ok() && send.write_all(&message).await.is_ok() {}
    taking.await.context("receiving")?.map(drop)
}

async fn measure(relay: RelayAddress, bytes: u64) -> Result<Duration> {
    let phrase = Phrase::random(&mut fill);
    let keys = [DeviceKeys::random(&mut fill), DeviceKeys::random(&mut fill)];
    let account = enrol(&relay, &phrase, &keys).await?;
    let (_known, watched) = watch::channel(Arc::new(account.clone()));
    let ways = Ways { direct: false, ..Ways::default() };
    let (_relays, relays) = watch::channel(vec![relay]);
    let start = |keys: &DeviceKeys| -> Result<(Network, mpsc::Receiver<NetEvent>)> {
        let key = watch::channel(Arc::new(SignalKey { epoch: 0, key: Secret::random(&mut fill) })).1;
        Network::start(relays.clone(), nothing(), identity(&account, keys)?, watched.clone(), key, ways, 0)
    };
    let ((one, mut of_one), (two, mut of_two)) = (start(&keys[0])?, start(&keys[1])?);
    let ((_, from), (_, to)) = tokio::try_join!(peer(&mut of_one), peer(&mut of_two))?;

    let begun = Instant::now();
    let receiving = tokio::spawn(receive(to));
    send_all(&from, bytes).await?;
    let received = receiving.await.context("receiving")??;
    let took = begun.elapsed();
    ensure!(received == bytes, "{received} of {bytes} bytes arrived");
    tokio::join!(one.shutdown(), two.shutdown());
    Ok(took)
}

/// No blobs of an account, and no place for any.
fn nothing() -> Arc<Blobs> {
    Arc::new(Blobs::at("/nonexistent".into()))
}

/// Makes an account of two devices at the relay.
async fn enrol(relay: &RelayAddress, phrase: &Phrase, keys: &[DeviceKeys; 2]) -> Result<Account> {
    let first = account::create(phrase, &keys[0], "one", 0, &mut fill).map_err(|error| anyhow!("{error}"))?;
    let public = keys[1].public();
    let newcomer = Newcomer { keys: &public, wish: "two", caps: Caps::ALL };
    let second = account::add_device(&first.account, &first.secrets, &keys[0], &newcomer, 0, &mut fill)
        .map_err(|error| anyhow!("{error}"))?;
    let visit = Anonymous::connect(relay, false).await.map_err(|error| anyhow!("{error}"))?;
    let create = Request::CreateAccount {
        entries: [first.entries, second.entries].concat(),
        blobs: [first.blobs, second.blobs].concat(),
        invite: None,
    };
    let reply = visit.request(create).await.map_err(|error| anyhow!("{error}"))?;
    ensure!(reply == Reply::Done, "the relay answered with {reply:?}");
    visit.close().await;
    Ok(second.account)
}

fn identity(account: &Account, keys: &DeviceKeys) -> Result<Identity> {
    let device = account.active(&keys.id()).context("the device is in its account")?;
    let (sign, tls) = (keys.sign.clone(), keys.tls.clone());
    Ok(Identity { account: account.id, device: device.id, slot: device.slot, sign, tls })
}

async fn peer(events: &mut mpsc::Receiver<NetEvent>) -> Result<(Slot, Connection)> {
    let meeting = async {
        while let Some(event) = events.recv().await {
            if let NetEvent::PeerUp { slot, connection, .. } = event {
                return Ok((slot, connection));
            }
        }
        bail!("the network ended")
    };
    timeout(CONNECT_LIMIT, meeting).await.context("the two devices did not meet")?
}

async fn send_all(connection: &Connection, bytes: u64) -> Result<()> {
    let mut stream = connection.open_uni().await.context("opening a stream")?;
    let piece = Bytes::from(hearth_tests::tree::noise(1, PIECE_BYTES));
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        stream.write_chunk(piece.slice(..length)).await.context("sending")?;
        left -= length as u64;
    }
    stream.finish().context("ending the stream")?;
    stream.stopped().await.context("waiting for the last acknowledgement").map(drop)
}

async fn receive(connection: Connection) -> Result<u64> {
    let mut stream = connection.accept_uni().await.context("accepting a stream")?;
    let mut pieces: [Bytes; 32] = Default::default();
    let mut received = 0;
    while let Some(count) = stream.read_chunks(&mut pieces).await.context("receiving")? {
        received += pieces[..count].iter().map(|piece| piece.len() as u64).sum::<u64>();
    }
    Ok(received)
}

fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the kernel gives random bytes");
}
