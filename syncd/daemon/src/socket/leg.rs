//! The socket's side of one relay: which it is, the session there, what carries datagrams to it, and what is heard of it.
//!
//! [`RelayLeg`] is what [`crate::relay`] holds of it. The socket keeps one [`Leg`] for each relay that an account may
//! have; those that are not in use have no address and no session.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hearth_schemas::keys::config::MAX_RELAYS;
use hearth_schemas::relay;
use quinn_udp::Transmit;
use tokio::sync::{Notify, watch};
use tracing::trace;

use super::{Bound, PathSocket, canonical};
use crate::carrier::{Carrier, relay_address};
use crate::tunnel::{self, Dialled, Queue};

/// Most relays at once.
pub(crate) const RELAYS: usize = MAX_RELAYS;
/// What a way over TCP counts as farther, in the comparison of relays.
const BY_TUNNEL: Duration = Duration::from_millis(200);

/// A session's part in the UDP leg.
#[derive(Clone, Copy)]
pub(super) struct Session {
    pub(super) token: [u8; 8],
    pub(super) mac_key: [u8; 32],
}

/// A relay, and the session there once logged in.
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    pub(super) relay: Option<SocketAddr>,
    pub(super) session: Option<Session>,
}

/// What is known of one relay.
pub(super) struct Leg {
    pub(super) number: usize,
    place: RwLock<Place>,
    pub(super) carrier: Carrier,
    sessions: AtomicU64,
    pub(super) bound: watch::Sender<Option<Bound>>,
    /// The counter of the newest BIND that was answered, apart from what the answer says: each wakes nobody but who asked.
    pub(super) answered: watch::Sender<u64>,
    pub(super) heard_ms: AtomicU64,
    pub(super) data_ms: AtomicU64,
    /// When the oldest BIND was sent that is not answered; 0 if none is.
    pub(super) asked_ms: AtomicU64,
    pub(super) round_trip_ms: AtomicU64,
    pub(super) doubt: Notify,
}

impl Leg {
    pub(super) fn new(number: usize) -> Self {
        Self {
            number,
            place: RwLock::default(),
            carrier: Carrier::default(),
            sessions: AtomicU64::new(0),
            bound: watch::channel(None).0,
            answered: watch::channel(0).0,
            heard_ms: AtomicU64::new(0),
            data_ms: AtomicU64::new(0),
            asked_ms: AtomicU64::new(0),
            round_trip_ms: AtomicU64::new(0),
            doubt: Notify::new(),
        }
    }

    pub(super) fn place(&self) -> Place {
        *self.place.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address that stands for it in QUIC's eyes.
    pub(super) fn address(&self) -> SocketAddr {
        relay_address(self.number)
    }

    /// Which change of session or of what carries it this is; no two relays have one in common.
    pub(super) fn way(&self) -> u64 {
        let changes = self.sessions.load(Ordering::Relaxed) + self.carrier.changes();
        changes * RELAYS as u64 + self.number as u64
    }

    fn set_place(&self, place: Place) {
        *self.place.write().unwrap_or_else(PoisonError::into_inner) = place;
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }
}

/// One relay of the socket's, for whoever keeps the session there.
#[derive(Clone)]
pub struct RelayLeg {
    socket: Arc<PathSocket>,
    number: usize,
}

impl RelayLeg {
    /// The relay with a number below [`RELAYS`].
    pub(crate) fn of(socket: Arc<PathSocket>, number: usize) -> Self {
        assert!(number < RELAYS, "a socket has {RELAYS} relays");
        Self { socket, number }
    }

    /// Its number.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Sets the relay that is being dialled or used; nothing from elsewhere is taken in. Ends any session.
    /// `None` is a relay that has no address here, and can be reached through a proxy alone.
    pub(crate) fn use_relay(&self, relay: Option<SocketAddr>) {
        self.leg().carrier.start_over();
        self.set_place(Place { relay: relay.map(canonical), session: None });
    }

    /// What carries datagrams to the relay.
    pub(crate) fn carrier(&self) -> &Carrier {
        &self.leg().carrier
    }

    /// Goes over to a tunnel to the relay in use.
    pub(crate) fn attach(&self, dialled: Dialled) {
        let queue = Arc::new(Queue::new());
        let task = tokio::spawn(tunnel::carry(dialled.web, queue.clone(), Arc::downgrade(&self.socket), self.number));
        self.leg().carrier.attach(queue, dialled.proxy, task.abort_handle());
        self.socket.unbound(self.leg());
    }

    /// Goes over to UDP.
    pub(crate) fn use_udp(&self) {
        self.leg().carrier.use_udp();
        self.socket.unbound(self.leg());
    }

    /// Asks over UDP whether the relay is there, without a consequence for the session.
    pub(crate) fn probe_udp(&self) {
        let leg = self.leg();
        let (Some(relay), Some(contents)) = (leg.place().relay, leg.carrier.probe()) else { return };
        let transmit =
            Transmit { destination: relay, ecn: None, contents: &contents, segment_size: None, src_ip: None };
        if let Err(error) = self.socket.send(&transmit) {
            trace!("the relay was not asked over UDP: {error}");
        }
    }

    /// Starts forwarding under a session of the relay in use.
    pub(crate) fn start_session(&self, token: [u8; 8], mac_key: [u8; 32]) {
        let relay = self.leg().place().relay;
        self.set_place(Place { relay, session: Some(Session { token, mac_key }) });
    }

    /// Stops forwarding. Peers' packets go by another relay from here on, or are lost as on any network that is away.
    pub(crate) fn end_session(&self) {
        let relay = self.leg().place().relay;
        self.set_place(Place { relay, session: None });
    }

    /// What the newest answer to a BIND of the current session says, and its changes.
    pub(crate) fn bound(&self) -> watch::Receiver<Option<Bound>> {
        self.leg().bound.subscribe()
    }

    /// The counter of the newest BIND of the current session that was answered.
    pub(crate) fn answered(&self) -> watch::Receiver<u64> {
        self.leg().answered.subscribe()
    }

    /// Sends a BIND of the current session, if there is one. It may get lost, as any datagram.
    pub(crate) fn send_bind(&self, counter: u64) {
        let leg = self.leg();
        let Some(session) = leg.place().session else { return };
        // Where one waits already, it goes on counting from there.
        let now_ms = self.socket.now_ms().max(1);
        let _waits = leg.asked_ms.compare_exchange(0, now_ms, Ordering::Relaxed, Ordering::Relaxed);
        let datagram = relay::bind_datagram(session.token, &session.mac_key, counter);
        let destination = leg.address();
        let transmit = Transmit { destination, ecn: None, contents: &datagram, segment_size: None, src_ip: None };
        if let Err(error) = self.socket.send_to_relay(leg, &transmit) {
            trace!("BIND was not sent: {error}");
        }
    }

    /// Notes how long the relay took to answer.
    pub(crate) fn measured(&self, round_trip: Duration) {
        let farther = if self.carrier().by_tunnel() { BY_TUNNEL } else { Duration::ZERO };
        let round_trip_ms = u64::try_from(round_trip.as_millis()).unwrap_or(u64::MAX);
        self.leg().round_trip_ms.store(round_trip_ms, Ordering::Relaxed);
        self.socket.measured(self.number, round_trip + farther);
    }

    /// Waits until a peer's packet is sent although the relay has been silent for a while.
    pub(crate) async fn doubted(&self) {
        self.leg().doubt.notified().await;
    }

    /// How long ago anything came from the relay.
    pub(crate) fn silent_for(&self) -> Duration {
        self.socket.since(&self.leg().heard_ms)
    }

    /// How long ago peers' data went either way.
    pub(crate) fn idle_for(&self) -> Duration {
        self.socket.since(&self.leg().data_ms)
    }

    fn leg(&self) -> &Leg {
        &self.socket.legs[self.number]
    }

    fn set_place(&self, place: Place) {
        let leg = self.leg();
        leg.set_place(place);
        if place.session.is_none() {
            self.socket.lost(self.number);
        }
        self.socket.unbound(leg);
    }
}
