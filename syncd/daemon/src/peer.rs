//! Connections to the account's other devices: one each, authorised by both sides, renewed for as long as the other
//! is there.
//!
//! The device with the lower number dials. A connection counts once both sides have said [`Ready`] on it; then it is
//! handed to whoever syncs, as an event. Who may connect is asked of the device log at each step, and a device that
//! leaves the log is cut off at once. Presence comes from [`crate::relay`], and the ways beside the relay from
//! [`crate::paths`]: a device that has one is there, whatever the relay says. How packets travel is [`crate::socket`]'s
//! business.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use hearth_schemas::codec;
use hearth_schemas::ids::{DeviceId, Slot};
use hearth_schemas::log::{Account, Standing};
use hearth_schemas::ready::{MAX_READY, Ready, VERSION};
use hearth_schemas::relay::Head;
use quinn::{
    AckFrequencyConfig, Connection, ConnectionError, Endpoint, Incoming, MtuDiscoveryConfig, TransportConfig, VarInt,
};
use syncd_core::paths::Route;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::congestion::PathControlConfig;
use crate::net::{Identity, NetEvent, View, jitter, view};
use crate::prefixed::{self, PrefixedError};
use crate::relay::Presence;
use crate::socket::{Bound, Lane, PathSocket, RELAYS, peer_address, slot_of};
use crate::tls;

/// How long a connection may take to be authorised by both sides.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a peer whose log contradicts this device's has to hear so.
const PARTING: Duration = Duration::from_secs(3);
/// Handshakes under way at once, of both directions.
const MAX_HANDSHAKES: usize = 64;
/// A connection that lasted this long was a good one: the next is dialled without growing pauses.
const GOOD: Duration = Duration::from_secs(10);
/// After this many failures in a row the pauses between dials grow, up to `MAX_PAUSE_MS`.
const PATIENCE: u32 = 10;
const MAX_PAUSE_MS: u64 = 30_000;

/// Largest packet that is tried, in bytes: with headers of relay, UDP and IPv6 it fits a PPPoE line.
const MAX_PACKET: u16 = 1420;
/// Data on its way in one stream, in one connection, and held for sending, in bytes. A gigabit line with a round trip
/// of 60 ms needs this much; a peer can make this device hold the second of them and no more.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const SEND_WINDOW: u64 = 8 << 20;
const MAX_STREAMS: u32 = 64;
/// The relay knows sooner that a device is gone; an idle connection costs nothing meanwhile.
const IDLE_MS: u32 = 300_000;
const KEEP_ALIVE: Duration = Duration::from_secs(120);
/// How long a device that has lost its way to the relay may take to find it again, and go on with its connection.
const MAY_COME_BACK: Duration = Duration::from_secs(5);
/// The same for all others when this device has lost its own way to the relay.
const MAY_BE_HEARD_AGAIN: Duration = Duration::from_secs(60);

/// A datagram that wants one back, and the one that it gets.
const KICK: &[u8] = &[0];
const KICK_BACK: &[u8] = &[1];

/// Why a connection was closed, as told to the other side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Close {
    /// The device is going away.
    Leaving,
    /// A newer connection took its place.
    Replaced,
    /// The device log does not list the other device, or lists it elsewhere.
    NotListed,
    /// The first frame was not what it must be.
    BadReady,
    /// The two device logs contradict each other.
    Forked,
}

impl Close {
    /// The QUIC application error code. Numbers are never reused.
    pub(crate) fn code(self) -> VarInt {
        VarInt::from_u32(match self {
            Self::Leaving => 0,
            Self::Replaced => 1,
            Self::NotListed => 2,
            Self::BadReady => 3,
            Self::Forked => 4,
        })
    }
}

/// Settings for accepting peers.
pub(crate) fn server_config(
    identity: &Identity,
    account: watch::Receiver<Arc<Account>>,
) -> anyhow::Result<quinn::ServerConfig> {
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls::peer_server(&identity.tls, account)?));
    config.migration(false).max_incoming(MAX_HANDSHAKES);
    Ok(config)
}

/// What the task that holds the connections is given.
pub(crate) struct Surroundings {
    pub(crate) endpoint: Endpoint,
    pub(crate) socket: Arc<PathSocket>,
    pub(crate) server: quinn::ServerConfig,
    pub(crate) identity: Arc<Identity>,
    pub(crate) account: watch::Receiver<Arc<Account>>,
    pub(crate) presence: mpsc::Receiver<(usize, Presence)>,
    /// Who is there, as any relay says, for [`crate::paths`].
    pub(crate) online: watch::Sender<BTreeSet<Slot>>,
    /// The ways beside the relay.
    pub(crate) routes: watch::Receiver<BTreeMap<Slot, Route>>,
    /// Peers whose connections are to send something at once.
    pub(crate) kicks: mpsc::Receiver<Slot>,
    pub(crate) events: mpsc::Sender<NetEvent>,
    pub(crate) view: Arc<Mutex<View>>,
}

/// The task that holds the connections.
pub(crate) struct Peers {
    around: Surroundings,
    bound: watch::Receiver<Option<Bound>>,
    /// Events on their way out. Waiting for the daemon must not delay cutting a device off.
    outbox: VecDeque<NetEvent>,
    /// Devices that are there, as each relay says.
    present: [BTreeSet<Slot>; RELAYS],
    /// Devices that have a way beside the relay.
    reached: BTreeSet<Slot>,
    up: BTreeMap<Slot, Up>,
    /// Devices that the relay has said are gone, or has fallen silent about, and until when they may come back to their connection.
    gone: BTreeMap<Slot, Instant>,
    dials: BTreeMap<Slot, Dial>,
    tasks: JoinSet<Outcome>,
    handshakes: usize,
}

/// An authorised connection.
struct Up {
    device: DeviceId,
    tls: [u8; 32],
    connection: Connection,
    since: Instant,
    /// The device has come to a relay since: it may have started again, and this be over.
    came_again: bool,
}

/// What is known about dialling one device.
#[derive(Clone, Copy)]
struct Dial {
    under_way: bool,
    failures: u32,
    next: Instant,
}

/// What a task ended with.
enum Outcome {
    Shaken { slot: Slot, opener: bool, result: anyhow::Result<Shaken> },
    Closed { slot: Slot, id: usize },
}

/// A connection on which both sides have said [`Ready`].
struct Shaken {
    connection: Connection,
    tls: [u8; 32],
    head: Head,
}

impl Peers {
    pub(crate) fn new(around: Surroundings) -> Self {
        Self {
            bound: around.socket.bound(),
            around,
            outbox: VecDeque::new(),
            present: Default::default(),
            reached: BTreeSet::new(),
            up: BTreeMap::new(),
            gone: BTreeMap::new(),
            dials: BTreeMap::new(),
            tasks: JoinSet::new(),
            handshakes: 0,
        }
    }

    /// Runs until nobody listens to its events or the account's owner is gone.
    pub(crate) async fn run(mut self) {
        let endpoint = self.around.endpoint.clone();
        let events = self.around.events.clone();
        let mut bound_way = None;
        loop {
            let next_dial = self.dial_due();
            let next = next_dial.into_iter().chain(self.let_go_of_gone()).min();
            tokio::select! {
                permit = events.reserve(), if !self.outbox.is_empty() => {
                    let Ok(permit) = permit else { return };
                    if let Some(event) = self.outbox.pop_front() {
                        permit.send(event);
                    }
                }
                changed = self.around.account.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.cut_off();
                }
                change = self.around.presence.recv() => {
                    let Some((relay, change)) = change else { return };
                    self.handle_presence(relay, change);
                }
                changed = self.bound.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let way = self.bound.borrow_and_update().map(|bound| bound.way);
                    if way.is_some() && way != bound_way {
                        self.up.values().for_each(kick);
                    }
                    bound_way = way;
                }
                changed = self.around.routes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow_routes();
                }
                Some(slot) = self.around.kicks.recv() => {
                    if let Some(up) = self.up.get(&slot) {
                        kick(up);
                    }
                }
                incoming = endpoint.accept() => {
                    let Some(incoming) = incoming else { return };
                    self.handle_incoming(incoming);
                }
                Some(outcome) = self.tasks.join_next() => match outcome {
                    Ok(Outcome::Shaken { slot, opener, result }) => self.handle_shaken(slot, opener, result),
                    Ok(Outcome::Closed { slot, id }) => self.handle_closed(slot, id),
                    Err(error) => warn!("a connection's task failed: {error}"),
                },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// Takes in what a relay says of who is there. Who is at another relay has not gone.
    fn handle_presence(&mut self, relay: usize, change: Presence) {
        let lost_sight = matches!(change, Presence::All(_));
        let before = self.present[relay].clone();
        let present = &mut self.present[relay];
        let arrived: Vec<Slot> = match change {
            Presence::All(online) => {
                present.clone_from(&online);
                online.into_iter().collect()
            }
            Presence::Online(slot) => {
                present.insert(slot);
                vec![slot]
            }
            Presence::Offline(slot) => {
                present.remove(&slot);
                vec![]
            }
        };
        for slot in before.symmetric_difference(&self.present[relay]) {
            self.around.socket.see(relay, *slot, self.present[relay].contains(slot));
        }
        let online: BTreeSet<Slot> = self.present.iter().flatten().copied().collect();
        let until = Instant::now() + if lost_sight { MAY_BE_HEARD_AGAIN } else { MAY_COME_BACK };
        for slot in before.difference(&self.present[relay]) {
            if online.contains(slot) {
                // Its packets take another way from here on.
                self.up.get(slot).inspect(|up| kick(up));
            } else if lost_sight {
                self.gone.entry(*slot).or_insert(until);
            } else {
                self.gone.insert(*slot, until);
            }
        }
        if lost_sight {
            for slot in self.up.keys().filter(|slot| !online.contains(slot)) {
                self.gone.entry(*slot).or_insert(until);
            }
        }
        self.around.online.send_if_modified(|known| std::mem::replace(known, online.clone()) != online);
        for slot in arrived {
            self.gone.remove(&slot);
            if let Some(dial) = self.dials.get_mut(&slot) {
                dial.failures = 0;
                dial.next = Instant::now();
            }
            // If it came back from a restart, it answers this with a reset, and the dial follows at once.
            if let Some(up) = self.up.get_mut(&slot) {
                up.came_again = true;
                kick(up);
            }
        }
    }

    /// Takes note of ways that have come or gone.
    fn follow_routes(&mut self) {
        let routes = self.around.routes.borrow_and_update().clone();
        let reached: BTreeSet<Slot> = routes.into_keys().collect();
        let before = std::mem::replace(&mut self.reached, reached);
        let until = Instant::now() + MAY_COME_BACK;
        for slot in before.difference(&self.reached) {
            self.gone.entry(*slot).and_modify(|gone| *gone = until.max(*gone));
        }
        for slot in self.reached.difference(&before) {
            if let Some(dial) = self.dials.get_mut(slot) {
                dial.next = Instant::now();
            }
        }
    }

    /// Ends the connections of devices that have stayed away: what they said last may have been lost along with them.
    /// A device that has a way beside the relay has not gone. Gives the time of the next.
    fn let_go_of_gone(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let is_over = |slot: &Slot, until: &mut Instant| *until <= now && !self.reached.contains(slot);
        for (slot, _) in self.gone.extract_if(.., is_over).collect::<Vec<_>>() {
            if let Some(up) = self.take_down(slot) {
                info!("slot {} has left", slot.0);
                up.connection.close(Close::Leaving.code(), b"");
            }
        }
        self.gone.iter().filter(|(slot, _)| !self.reached.contains(slot)).map(|(_, until)| *until).min()
    }

    /// Starts the dials whose time has come. Gives the time of the next.
    fn dial_due(&mut self) -> Option<Instant> {
        let is_bound = self.bound.borrow().is_some();
        let mut wanted = self.reached.clone();
        if is_bound {
            wanted.extend(&*self.around.online.borrow());
        }
        let now = Instant::now();
        let account = self.around.account.borrow().clone();
        account.active(&self.around.identity.device)?;
        let mut next: Option<Instant> = None;
        let wanted = wanted.into_iter().filter(|slot| *slot > self.around.identity.slot);
        for slot in wanted.filter(|slot| !self.up.contains_key(slot)) {
            let Some(device) = account.active_slot(slot) else { continue };
            let dial = self.dials.entry(slot).or_insert(Dial { under_way: false, failures: 0, next: now });
            if dial.under_way || self.handshakes >= MAX_HANDSHAKES {
                continue;
            }
            if dial.next > now {
                next = Some(next.map_or(dial.next, |next| next.min(dial.next)));
                continue;
            }
            dial.under_way = true;
            self.handshakes += 1;
            let work = dial_peer(
                self.around.endpoint.clone(),
                self.around.identity.clone(),
                self.around.account.clone(),
                self.around.socket.lane(slot),
                slot,
                device.tls,
            );
            self.tasks.spawn(async move {
                let result = timeout(HANDSHAKE, work).await.unwrap_or_else(|_| Err(anyhow!("no answer")));
                Outcome::Shaken { slot, opener: true, result }
            });
        }
        next
    }

    fn handle_incoming(&mut self, incoming: Incoming) {
        let Some(slot) = slot_of(incoming.remote_address()) else { return incoming.ignore() };
        let listed = self.around.account.borrow().active_slot(slot).is_some();
        if slot >= self.around.identity.slot || !listed || self.handshakes >= MAX_HANDSHAKES {
            debug!("refused a connection from slot {}", slot.0);
            return incoming.refuse();
        }
        self.handshakes += 1;
        let mut server = self.around.server.clone();
        server.transport_config(Arc::new(transport(self.around.socket.lane(slot))));
        let work = accept_peer(incoming, server, self.around.identity.clone(), self.around.account.clone());
        self.tasks.spawn(async move {
            let result = timeout(HANDSHAKE, work).await.unwrap_or_else(|_| Err(anyhow!("no answer")));
            Outcome::Shaken { slot, opener: false, result }
        });
    }

    fn handle_shaken(&mut self, slot: Slot, opener: bool, result: anyhow::Result<Shaken>) {
        self.handshakes -= 1;
        let shaken = match result {
            Ok(shaken) => shaken,
            Err(error) => {
                // A device that is just leaving is no news; one that is there and refuses is, at first.
                let failures = self.note_failure(slot, opener);
                if failures == 3 {
                    warn!("slot {} is online but cannot be reached: {error:#}", slot.0);
                } else {
                    debug!("no connection with slot {}: {error:#}", slot.0);
                }
                return;
            }
        };
        let account = self.around.account.borrow().clone();
        let listed = account.active_tls(&shaken.tls).filter(|device| device.slot == slot);
        let Some(device) = listed.filter(|_| account.active(&self.around.identity.device).is_some()) else {
            shaken.connection.close(Close::NotListed.code(), b"");
            self.note_failure(slot, opener);
            return;
        };
        match account.judge(&shaken.head) {
            Standing::Same | Standing::Older => {}
            Standing::Newer => self.outbox.push_back(NetEvent::PeerAhead { slot, head: shaken.head }),
            Standing::Forked => {
                warn!("the device log of slot {} contradicts this device's", slot.0);
                tokio::spawn(part(shaken.connection, opener));
                self.note_failure(slot, opener);
                self.outbox.push_back(NetEvent::PeerForked { slot, head: shaken.head });
                return;
            }
        }
        if let Some(old) = self.take_down(slot) {
            old.connection.close(Close::Replaced.code(), b"");
        }
        if let Some(dial) = self.dials.get_mut(&slot) {
            dial.under_way = false;
        }
        info!("connected with slot {}", slot.0);
        let connection = shaken.connection;
        let watched = connection.clone();
        self.tasks.spawn(async move {
            let reason = answer_kicks(&watched).await;
            debug!("the connection with slot {} ended: {reason}", slot.0);
            Outcome::Closed { slot, id: watched.stable_id() }
        });
        view(&self.around.view).up.insert(slot, connection.clone());
        self.outbox.push_back(NetEvent::PeerUp { slot, device: device.id, connection: connection.clone(), opener });
        self.up.insert(
            slot,
            Up { device: device.id, tls: shaken.tls, connection, since: Instant::now(), came_again: false },
        );
    }

    fn handle_closed(&mut self, slot: Slot, id: usize) {
        if self.up.get(&slot).is_none_or(|up| up.connection.stable_id() != id) {
            return;
        }
        let Some(up) = self.take_down(slot) else { return };
        info!("disconnected from slot {}", slot.0);
        let Some(dial) = self.dials.get_mut(&slot) else { return };
        if up.came_again {
            *dial = Dial { under_way: false, failures: 0, next: Instant::now() };
        } else if up.since.elapsed() > GOOD {
            *dial = Dial { under_way: false, failures: 0, next: Instant::now() + jitter(50, 300) };
        } else {
            self.note_failure(slot, true);
        }
    }

    /// Closes the connections of devices that the account does not list any longer, or lists with another key.
    fn cut_off(&mut self) {
        let account = self.around.account.borrow_and_update().clone();
        let in_account = account.active(&self.around.identity.device).is_some();
        let out: Vec<Slot> = self
            .up
            .iter()
            .filter(|(_, up)| !in_account || account.active(&up.device).is_none_or(|device| device.tls != up.tls))
            .map(|(slot, _)| *slot)
            .collect();
        for slot in out {
            if let Some(up) = self.take_down(slot) {
                info!("cut off slot {}, which the account does not list", slot.0);
                up.connection.close(Close::NotListed.code(), b"");
            }
        }
    }

    fn take_down(&mut self, slot: Slot) -> Option<Up> {
        let up = self.up.remove(&slot)?;
        view(&self.around.view).up.remove(&slot);
        self.outbox.push_back(NetEvent::PeerDown { slot });
        Some(up)
    }

    /// Puts off the next dial. Gives the number of failures in a row.
    fn note_failure(&mut self, slot: Slot, opener: bool) -> u32 {
        let Some(dial) = self.dials.get_mut(&slot).filter(|_| opener) else { return 0 };
        dial.under_way = false;
        dial.failures = dial.failures.saturating_add(1);
        let least_ms = (1000u64 << dial.failures.saturating_sub(PATIENCE).min(5)).min(MAX_PAUSE_MS / 2);
        dial.next = Instant::now() + jitter(least_ms, 2 * least_ms);
        dial.failures
    }
}

/// Closes a connection over contradicting logs. The side that spoke last waits for the other to have heard it.
async fn part(connection: Connection, opener: bool) {
    if !opener {
        timeout(PARTING, connection.closed()).await.ok();
    }
    connection.close(Close::Forked.code(), b"");
}

/// Makes QUIC at both ends send a packet at once: after an outage each would wait for its own timer, which has grown
/// by then.
fn kick(up: &Up) {
    send_kick(&up.connection, KICK);
}

/// Answers kicks until the connection ends. Datagrams carry nothing else.
async fn answer_kicks(connection: &Connection) -> ConnectionError {
    loop {
        match connection.read_datagram().await {
            Ok(datagram) if datagram == KICK => send_kick(connection, KICK_BACK),
            Ok(_) => {}
            Err(reason) => return reason,
        }
    }
}

fn send_kick(connection: &Connection, kick: &'static [u8]) {
    if let Err(error) = connection.send_datagram(Bytes::from_static(kick)) {
        debug!("no kick: {error}");
    }
}

async fn dial_peer(
    endpoint: Endpoint,
    identity: Arc<Identity>,
    account: watch::Receiver<Arc<Account>>,
    lane: Arc<Lane>,
    slot: Slot,
    key: [u8; 32],
) -> anyhow::Result<Shaken> {
    let mut config = quinn::ClientConfig::new(Arc::new(tls::peer_client(&identity.tls, key, account.clone())?));
    config.transport_config(Arc::new(transport(lane)));
    let connection = endpoint.connect_with(config, peer_address(slot), tls::NAME)?.await?;
    let (mut send, mut recv) = connection.open_bi().await?;
    prefixed::write(&mut send, &codec::encode(&own_ready(&identity, &account))).await?;
    let head = hear_ready(&connection, &mut recv, &identity).await?;
    send.finish()?;
    Ok(Shaken { connection, tls: key, head })
}

async fn accept_peer(
    incoming: Incoming,
    server: quinn::ServerConfig,
    identity: Arc<Identity>,
    account: watch::Receiver<Arc<Account>>,
) -> anyhow::Result<Shaken> {
    let connection = incoming.accept_with(Arc::new(server))?.await?;
    let tls = tls::peer_key(&connection).context("the peer showed no key")?;
    let slot = slot_of(connection.remote_address());
    if account.borrow().active_tls(&tls).map(|device| device.slot) != slot {
        connection.close(Close::NotListed.code(), b"");
        bail!("the peer's key belongs to another device");
    }
    let (mut send, mut recv) = connection.accept_bi().await?;
    let head = hear_ready(&connection, &mut recv, &identity).await?;
    prefixed::write(&mut send, &codec::encode(&own_ready(&identity, &account))).await?;
    send.finish()?;
    Ok(Shaken { connection, tls, head })
}

fn own_ready(identity: &Identity, account: &watch::Receiver<Arc<Account>>) -> Ready {
    Ready { version: VERSION, account: identity.account, head: account.borrow().head }
}

async fn hear_ready(
    connection: &Connection,
    recv: &mut quinn::RecvStream,
    identity: &Identity,
) -> anyhow::Result<Head> {
    let body = prefixed::read(recv, MAX_READY).await;
    if let Err(error @ PrefixedError::Ended(_)) = body {
        return Err(error.into());
    }
    let ready = body.map_err(anyhow::Error::from).and_then(|body| Ok(Ready::decode(&body)?));
    let problem = match ready {
        Ok(ready) if ready.version != VERSION => anyhow!("version {} of the protocol", ready.version),
        Ok(ready) if ready.account != identity.account => anyhow!("another account"),
        Ok(ready) => return Ok(ready.head),
        Err(error) => error,
    };
    warn!("closing a peer's connection for its first frame: {problem:#}");
    connection.close(Close::BadReady.code(), b"");
    Err(problem)
}

/// Settings of a connection whose packets take this lane.
fn transport(lane: Arc<Lane>) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MAX_PACKET);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(10)).max_ack_delay(Some(Duration::from_millis(10)));
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_STREAMS))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(Some(1024))
        .datagram_send_buffer_size(1024)
        .initial_rtt(Duration::from_millis(100))
        .initial_mtu(1200)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acks))
        .congestion_controller_factory(Arc::new(PathControlConfig { lane }))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_MS).into()));
    transport
}
