//! The daemon's network as the rest of it sees it: a handle to ask the relays, and events of peers that come and go.
//!
//! Starts the socket and the tasks behind it, [`crate::relay`], [`crate::nearby`], [`crate::mapping`], [`crate::paths`]
//! and [`crate::peer`]; decides nothing itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use ed25519_dalek::SigningKey;
use hearth_schemas::address::RelayAddress;
use hearth_schemas::ids::{AccountId, DeviceId, Slot};
use hearth_schemas::log::Account;
use hearth_schemas::relay::{Event, Head, Reply, Request, Session};
use hearth_schemas::{keys, label};
use quinn::{AsyncUdpSocket, Endpoint};
use syncd_core::paths::{self, Route, Tried};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep, timeout};

use crate::blobs::Blobs;
use crate::config::Ways;
use crate::mapping::Mapper;
use crate::nat::Looker;
use crate::nearby::Nearby;
use crate::paths::{Pathfinder, SignalKey};
use crate::peer::{self, Peers, Surroundings};
use crate::relay::{self, Common, Controls, Links, RelayError};
use crate::socket::{PathSocket, RELAYS, RelayLeg};

/// Events that wait for the daemon before the relay's connection is held up.
const MAX_EVENTS: usize = 256;
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// And for the first packet of it to be on its way to the peers.
const FAREWELL: Duration = Duration::from_millis(100);

/// Who this device is.
pub struct Identity {
    /// Its account.
    pub account: AccountId,
    /// Its id, which follows from its signing key.
    pub device: DeviceId,
    /// Its number in the account.
    pub slot: Slot,
    /// Signs logins.
    pub sign: SigningKey,
    /// Proves it to peers.
    pub tls: SigningKey,
}

/// What happened.
#[derive(Debug)]
pub enum NetEvent {
    /// Logged in to a relay.
    RelayUp {
        /// Its place among the account's relays.
        relay: usize,
        /// The session, with the account's head and who is online.
        session: Session,
    },
    /// Not logged in, and why. Repeated only when the reason changes.
    RelayDown {
        /// Its place.
        relay: usize,
        /// For people.
        reason: String,
    },
    /// A relay is not one of the account's any more, or another has its place.
    RelayGone {
        /// Its place.
        relay: usize,
    },
    /// A relay tells something. Presence is included.
    Relay {
        /// Its place.
        relay: usize,
        /// What it tells.
        event: Event,
    },
    /// A peer is connected, authorised by both sides.
    PeerUp {
        /// Its number.
        slot: Slot,
        /// Its id.
        device: DeviceId,
        /// Streams are opened and accepted on it by whoever syncs.
        connection: quinn::Connection,
        /// Whether this side dialled.
        opener: bool,
    },
    /// A peer's connection has ended. Another may follow at once.
    PeerDown {
        /// Its number.
        slot: Slot,
    },
    /// A peer has verified more of the device log than this device: there is something to fetch.
    PeerAhead {
        /// Its number.
        slot: Slot,
        /// Its newest entry.
        head: Head,
    },
    /// A peer's device log contradicts this device's. The peer was not let in.
    PeerForked {
        /// Its number.
        slot: Slot,
        /// Its newest entry.
        head: Head,
    },
}

/// What carries a peer's packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathKind {
    /// A network that both devices are in.
    Lan,
    /// None but the network's.
    Direct,
    /// The relay's forwarding, over UDP.
    RelayUdp,
    /// The relay's forwarding, over TCP: UDP does not get out of this network.
    RelayTcp,
}

/// How a peer is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PathInfo {
    /// The path in use; `None` while not connected.
    pub kind: Option<PathKind>,
    /// Round trip to the peer, in milliseconds; `None` while not connected.
    pub rtt_ms: Option<u32>,
    /// Whether a relay says that the peer is there, or it is reached without.
    pub online: bool,
    /// Which of the account's relays carries the packets; `None` if none does.
    pub relay: Option<usize>,
}

/// One of the account's relays.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelayInfo {
    /// Where it is.
    pub address: RelayAddress,
    /// Whether this device is logged in there.
    pub online: bool,
    /// Whether datagrams get there over TCP alone.
    pub by_tunnel: bool,
    /// How long it takes to answer, in milliseconds; `None` if that is not known now.
    pub rtt_ms: Option<u32>,
}

/// Tells of changes in who is there and by which ways.
#[derive(Clone)]
pub struct Reached {
    /// Who is there, as the relays say.
    online: watch::Receiver<BTreeSet<Slot>>,
    /// The ways beside the relay.
    routes: watch::Receiver<BTreeMap<Slot, Route>>,
}

impl Reached {
    /// Returns once what [`Network::path`] says of some device may be another; false if it never will be any more.
    pub async fn changed(&mut self) -> bool {
        tokio::select! {
            changed = self.online.changed() => changed.is_ok(),
            changed = self.routes.changed() => changed.is_ok(),
        }
    }
}

/// What status questions are answered from; [`crate::peer`] keeps it up to date.
#[derive(Default)]
pub(crate) struct View {
    pub(crate) up: BTreeMap<Slot, quinn::Connection>,
    pub(crate) around: Around,
}

/// What there is to say of this network, and of the tries to reach peers without the relay.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Around {
    /// Whether there is to be no way but the relay.
    pub off: bool,
    /// Whether a router gives this machine another address; `None` while that is not known.
    pub behind_router: Option<bool>,
    /// The port at which that router passes on to this machine, if it does.
    pub mapped_port: Option<u16>,
    /// Whether that router shows the same port of its own to all destinations; `None` while that is not known.
    pub one_port: Option<bool>,
    /// What was tried to reach each peer.
    pub tried: BTreeMap<Slot, Tried>,
}

/// A handle to the network. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    socket: Arc<PathSocket>,
    relays: watch::Receiver<Vec<RelayAddress>>,
    controls: watch::Receiver<Controls>,
    view: Arc<Mutex<View>>,
    reached: Reached,
    tasks: Vec<AbortHandle>,
    /// Ends by itself, once nobody wants to know any more, and gives back what it was given.
    mapper: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.endpoint.close(peer::Close::Leaving.code(), b"");
    }
}

impl Network {
    /// Opens the socket on `udp_port` (0 for any; any other if it is taken) and starts connecting: to all of the relays,
    /// and to every device of the account that is at one of them. Must be called within a tokio runtime.
    pub fn start(
        relays: watch::Receiver<Vec<RelayAddress>>,
        blobs: Arc<Blobs>,
        identity: Identity,
        account: watch::Receiver<Arc<Account>>,
        key: watch::Receiver<Arc<SignalKey>>,
        ways: Ways,
        udp_port: u16,
    ) -> anyhow::Result<(Self, mpsc::Receiver<NetEvent>)> {
        let (socket, news) = PathSocket::open(udp_port).context("opening the UDP socket")?;
        let (socket, identity) = (Arc::new(socket), Arc::new(identity));
        socket.belongs_to(identity.slot);
        let server = peer::server_config(&identity, account.clone())?;
        let endpoint = Endpoint::new_with_abstract_socket(
            endpoint_config(&identity),
            Some(server.clone()),
            socket.clone(),
            Arc::new(quinn::TokioRuntime),
        )
        .context("starting QUIC")?;

        let (events, incoming) = mpsc::channel(MAX_EVENTS);
        let (presence, present) = mpsc::channel(MAX_EVENTS);
        let (controls, controlled) = watch::channel(Controls::default());
        let view = Arc::new(Mutex::default());
        let (signals, signalled) = mpsc::channel(MAX_EVENTS);
        let (online, there) = watch::channel(BTreeSet::new());
        let (routes, routed) = watch::channel(BTreeMap::new());
        let (kicks, kicked) = mpsc::channel(MAX_EVENTS);
        let port = socket.local_addr().context("reading the socket's port")?.port();
        let peers = Peers::new(Surroundings {
            endpoint: endpoint.clone(),
            socket: socket.clone(),
            server,
            identity: identity.clone(),
            account: account.clone(),
            presence: present,
            online,
            routes: routed.clone(),
            kicks: kicked,
            events: events.clone(),
            view: Arc::clone(&view),
        });
        let (place, placed) = watch::channel((Vec::new(), port));
        let (found, nearby) = mpsc::channel(MAX_EVENTS);
        let near = Nearby {
            identity: identity.clone(),
            account: account.clone(),
            key: key.clone(),
            place: placed.clone(),
            found,
        };
        let (mapped, mapping) = watch::channel(None);
        let mapper = Mapper { place: placed, bound: socket.bound(), mapped };
        let pathfinder = Pathfinder {
            socket: socket.clone(),
            identity: identity.clone(),
            account: account.clone(),
            key,
            direct: ways.direct,
            controls: controlled.clone(),
            online: there.clone(),
            news,
            signals: signalled,
            nearby,
            mapped: mapping,
            place,
            routes,
            kicks,
            events: events.clone(),
            view: Arc::clone(&view),
        };
        let common = Common {
            endpoint: endpoint.clone(),
            socket: socket.clone(),
            identity,
            account,
            blobs,
            controls,
            presence,
            signals,
            events,
        };
        let looker = Looker { socket: socket.clone(), bound: socket.bound(), view: Arc::clone(&view) };
        let links = Links { relays: relays.clone(), common };
        let mut tasks = vec![tokio::spawn(links.run()), tokio::spawn(peers.run()), tokio::spawn(pathfinder.run())];
        tasks.push(tokio::spawn(looker.run()));
        if ways.direct && ways.nearby {
            tasks.push(tokio::spawn(near.run()));
        }
        let asks = ways.direct && ways.ask_router;
        let mapper = Mutex::new(asks.then(|| tokio::spawn(mapper.run())));
        let tasks = tasks.iter().map(JoinHandle::abort_handle).collect();
        let reached = Reached { online: there, routes: routed };
        let inner = Inner { endpoint, socket, relays, controls: controlled, view, reached, tasks, mapper };
        Ok((Self(Arc::new(inner)), incoming))
    }

    /// Asks the first of the account's relays, at which the account is changed. A refusal is an error.
    pub async fn request(&self, request: Request) -> Result<Reply, RelayError> {
        match self.request_at(0, request).await {
            Err(RelayError::Offline | RelayError::Closed(_) | RelayError::TimedOut)
                if self.0.controls.borrow().iter().skip(1).any(Option::is_some) =>
            {
                let place = self.0.relays.borrow().first().map(RelayAddress::place).unwrap_or_default();
                Err(RelayError::FirstAway { place })
            }
            result => result,
        }
    }

    /// Asks the relay that has this place among the account's.
    pub async fn request_at(&self, relay: usize, request: Request) -> Result<Reply, RelayError> {
        let control = self.0.controls.borrow().get(relay).cloned().flatten().ok_or(RelayError::Offline)?;
        control.request(request).await
    }

    /// Waits until this device is logged in at the first of the account's relays, at most for a while.
    pub async fn first_relay_up(&self, limit: Duration) {
        let mut controls = self.0.controls.clone();
        // Whoever asks next is told why, if it was in vain.
        let _in_time = timeout(limit, controls.wait_for(|controls| controls[0].is_some())).await;
    }

    /// Whether this device is logged in to any relay.
    pub fn is_relay_up(&self) -> bool {
        self.0.controls.borrow().iter().any(Option::is_some)
    }

    /// The account's relays, in its order.
    pub fn relays(&self) -> Vec<RelayInfo> {
        let controls = self.0.controls.borrow().clone();
        let info = |(number, address): (usize, &RelayAddress)| RelayInfo {
            address: address.clone(),
            online: controls[number].is_some(),
            by_tunnel: self.leg(number).carrier().by_tunnel(),
            rtt_ms: self.0.socket.round_trip(number).map(|trip| u32::try_from(trip.as_millis()).unwrap_or(u32::MAX)),
        };
        self.0.relays.borrow().iter().take(RELAYS).enumerate().map(info).collect()
    }

    /// Whether the nearest relay is reached over TCP, as UDP does not get out; then through which proxy, as host and port,
    /// if through one.
    pub fn relay_over_tcp(&self) -> Option<Option<String>> {
        self.leg(self.0.socket.by_distance()[0]).carrier().proxy()
    }

    fn leg(&self, relay: usize) -> RelayLeg {
        RelayLeg::of(self.0.socket.clone(), relay)
    }

    /// How a peer is reached at this moment.
    pub fn path(&self, slot: Slot) -> PathInfo {
        let connection = view(&self.0.view).up.get(&slot).cloned();
        let route = self.0.socket.lane(slot).route();
        let relay = self.0.socket.relay_of(slot);
        let by_tunnel = relay.is_some_and(|relay| self.leg(relay).carrier().by_tunnel());
        let kind = match route {
            Route::Direct(_, paths::PathKind::Lan) => PathKind::Lan,
            Route::Direct(_, paths::PathKind::DirectV4 | paths::PathKind::DirectV6) => PathKind::Direct,
            // What is on trial or in doubt is not what a person can count on.
            Route::Both(..) | Route::Relay if by_tunnel => PathKind::RelayTcp,
            Route::Both(..) | Route::Relay => PathKind::RelayUdp,
        };
        let connected = connection.is_some();
        PathInfo {
            kind: connection.as_ref().map(|_| kind),
            rtt_ms: connection.map(|connection| u32::try_from(connection.rtt().as_millis()).unwrap_or(u32::MAX)),
            online: self.0.reached.online.borrow().contains(&slot) || route.direct().is_some(),
            relay: relay.filter(|_| connected && !matches!(route, Route::Direct(..))),
        }
    }

    /// Whether packets for a peer go straight to it, be it beside the relay.
    pub fn goes_straight(&self, slot: Slot) -> bool {
        self.0.socket.lane(slot).route().direct().is_some()
    }

    /// Tells when a device comes, goes, or is reached by another way.
    pub fn reached(&self) -> Reached {
        self.0.reached.clone()
    }

    /// What is known of this network.
    pub fn around(&self) -> Around {
        view(&self.0.view).around.clone()
    }

    /// The UDP port in use, to be asked for again at the next start.
    pub fn udp_port(&self) -> Option<u16> {
        self.0.socket.local_addr().ok().map(|address| address.port())
    }

    /// Ends every connection, and waits a moment for the other sides and the router to be told.
    pub async fn shutdown(self) {
        self.take_leave().await;
        self.0.tasks.iter().for_each(AbortHandle::abort);
        self.0.endpoint.close(peer::Close::Leaving.code(), b"");
        let mapper = self.0.mapper.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mapped = async {
            if let Some(mapper) = mapper {
                mapper.await.ok();
            }
        };
        timeout(GOODBYE, async { tokio::join!(self.0.endpoint.wait_idle(), mapped) }).await.ok();
    }

    /// Tells the peers before the relay: it forwards nothing any more for a device that has left it.
    async fn take_leave(&self) {
        let peers: Vec<quinn::Connection> = view(&self.0.view).up.values().cloned().collect();
        peers.iter().for_each(|peer| peer.close(peer::Close::Leaving.code(), b""));
        let is_said = |peer: &quinn::Connection| peer.stats().frame_tx.connection_close > 0;
        let said = async {
            while !peers.iter().all(is_said) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(FAREWELL, said).await.ok();
    }
}

pub(crate) fn view(view: &Mutex<View>) -> MutexGuard<'_, View> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A duration drawn evenly from a range of milliseconds.
pub(crate) fn jitter(least_ms: u64, most_ms: u64) -> Duration {
    let span = most_ms.saturating_sub(least_ms) + 1;
    Duration::from_millis(least_ms + getrandom::u64().unwrap_or_default() % span)
}

/// Settings of the daemon's endpoint. What tells a peer that its connection is gone is the same after a restart, so
/// that the peer learns of the restart with the first packet that it sends.
fn endpoint_config(identity: &Identity) -> quinn::EndpointConfig {
    let key = keys::derive(&identity.account.0, identity.tls.as_bytes(), label::RESET);
    let mut config = relay::endpoint_config();
    config.reset_key(Arc::new(aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key.bytes())));
    let (cid_key, _) = key.bytes().split_first_chunk::<8>().expect("a key has 32 bytes");
    let cid_key = u64::from_le_bytes(*blake3::hash(cid_key).as_bytes().first_chunk().expect("a hash has 32 bytes"));
    config.cid_generator(move || Box::new(quinn_proto::HashedConnectionIdGenerator::from_key(cid_key)));
    config
}
