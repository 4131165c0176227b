//! The one UDP socket of the daemon, as QUIC sees it: peers have constant made-up addresses, and what carries their
//! packets is decided below QUIC.
//!
//! Each peer has a [`Lane`]. A packet for it goes straight to an address of the peer's, as it is, or to the relay behind
//! a [`Header`], one per segment, so that segmentation offload still sends a burst with one system call; what comes back
//! is stripped in place. A packet for a relay's own made-up address goes to it as it is: that is the login connection,
//! made by [`crate::relay`], which also tells this module which relays and sessions to use. Of several relays
//! [`syncd_core::relays`] chooses, packet by packet. What carries datagrams to a
//! relay, UDP or a tunnel, is [`crate::carrier`]'s. Taken in is what comes from those relays, forwarded datagrams only with
//! that session's token; QUIC packets from addresses that a peer's probe came from; and probes, for [`crate::paths`] to
//! look at, which decides the lanes.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hearth_schemas::ids::Slot;
use hearth_schemas::probe;
use hearth_schemas::relay::{self, HEADER, Header, Kind};
use hearth_schemas::tunnel::Datagrams;
use quinn::{AsyncUdpSocket, UdpPoller};
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use syncd_core::paths::Route;
use syncd_core::relays::{self, Choice, Nearest, SILENCE_MS, Seen};
use tokio::io::Interest;
use tokio::sync::{mpsc, watch};
use tracing::{debug, trace};

use crate::carrier::number_of;
use crate::tunnel::Queue;

mod lane;
mod leg;

pub use lane::Lane;
pub(crate) use leg::RELAYS;
pub use leg::RelayLeg;
use leg::{Leg, Place};

/// Kernel buffers asked for, in bytes, largest first. Without privilege the kernel gives what its limit allows.
const BUFFERS: [usize; 2] = [8 << 20, 4 << 20];
/// Batches of packets taken in with one call. QUIC offers 32 buffers of 94 kB, and what was once used stays in memory.
const AT_ONCE: usize = 8;
/// Packets kept for the next call because their batch belonged to somebody else.
const MAX_HELD: usize = 1024;
/// How often it is told that data is sent to a peer, in milliseconds.
const BUSY_EVERY_MS: u64 = 250;
/// News that wait to be looked at; what comes beyond is lost, as datagrams may be.
const MAX_NEWS: usize = 256;
/// Addresses of peers that are known at once.
const MAX_SOURCES: usize = 1024;
/// A burst of more than this many bytes is somebody's data, not QUIC keeping itself alive.
const DATA: usize = 200;

thread_local! {
    /// Where headers and packets are put together. One per thread, as many connections send at once.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The address that stands for a peer in QUIC's eyes.
pub fn peer_address(slot: Slot) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::new(0xfd15, 0x7000, 0, 0, 0, 0, 0, slot.0).into(), 1)
}

/// The peer that an address stands for, if it is such an address.
pub fn slot_of(address: SocketAddr) -> Option<Slot> {
    let IpAddr::V6(ip) = address.ip() else { return None };
    match (ip.segments(), address.port()) {
        ([0xfd15, 0x7000, 0, 0, 0, 0, 0, slot], 1) => Some(Slot(slot)),
        _ => None,
    }
}

/// What the relay's answers to BINDs say, as long as they say the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bound {
    /// This device's address as the relay saw it; unspecified where a tunnel hides it.
    pub seen: SocketAddr,
    /// Which change of session or of what carries it this is an answer after. Another number: another way.
    pub way: u64,
}

/// What [`crate::paths`] is told.
#[derive(Debug)]
pub enum News {
    /// A datagram that may be a probe.
    Probe {
        /// Where from.
        source: SocketAddr,
        /// All of it.
        datagram: Vec<u8>,
    },
    /// Data is sent to a peer; told every quarter of a second at most.
    Busy(Slot),
    /// A packet for a peer was refused by the kernel on its direct way; it went by the relay.
    SendFailed(Slot),
}

/// A packet that waits for the next receive call.
struct Held {
    packet: Vec<u8>,
    meta: RecvMeta,
}

/// The socket. Made once for the life of the daemon.
pub struct PathSocket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    v6: bool,
    legs: [Leg; RELAYS],
    /// The legs in order of how near their relays are, and the places that follow from it.
    nearest: Mutex<Nearest>,
    ranks: [AtomicUsize; RELAYS],
    /// This device's number, once it has one.
    own: OnceLock<Slot>,
    lanes: RwLock<BTreeMap<Slot, Arc<Lane>>>,
    /// Addresses that probes of a peer came from.
    sources: RwLock<BTreeMap<SocketAddr, Slot>>,
    news: mpsc::Sender<News>,
    held: Mutex<VecDeque<Held>>,
    /// What the nearest relay that has answered says.
    bound: watch::Sender<Option<Bound>>,
    /// The address seen at the second port of the nearest relay.
    looked: watch::Sender<Option<SocketAddr>>,
    started: Instant,
}

impl fmt::Debug for PathSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathSocket").field("io", &self.io).finish_non_exhaustive()
    }
}

impl PathSocket {
    /// Opens the socket on every address of both families, or of IPv4 where there is no IPv6. A port that is taken
    /// gives way to any free one. Gives what there is to tell as well.
    pub fn open(port: u16) -> io::Result<(Self, mpsc::Receiver<News>)> {
        match Self::open_on(port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && port != 0 => {
                debug!("UDP port {port} is taken; using any other");
                Self::open_on(0)
            }
            result => result,
        }
    }

    /// The way to a peer.
    pub fn lane(&self, slot: Slot) -> Arc<Lane> {
        if let Some(lane) = self.lanes.read().unwrap_or_else(PoisonError::into_inner).get(&slot) {
            return Arc::clone(lane);
        }
        Arc::clone(self.lanes.write().unwrap_or_else(PoisonError::into_inner).entry(slot).or_default())
    }

    /// Takes packets from this address for a peer's from now on.
    pub fn know(&self, source: SocketAddr, slot: Slot) {
        let source = canonical(source);
        if self.sources.read().unwrap_or_else(PoisonError::into_inner).get(&source) == Some(&slot) {
            return;
        }
        let mut sources = self.sources.write().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= MAX_SOURCES {
            // Those in use are known again with their next probe, which is a moment away.
            sources.clear();
        }
        sources.insert(source, slot);
    }

    /// Sends a probe. It may get lost, as any datagram.
    pub fn send_probe(&self, to: SocketAddr, datagram: &[u8]) {
        let transmit = Transmit { destination: to, ecn: None, contents: datagram, segment_size: None, src_ip: None };
        if let Err(error) = self.send(&transmit) {
            trace!("a probe was not sent: {error}");
        }
    }

    /// Has the relays asked for a sign of life now.
    pub fn doubt(&self) {
        self.legs.iter().for_each(|leg| leg.doubt.notify_one());
    }

    /// Tells which device this is.
    pub(crate) fn belongs_to(&self, own: Slot) {
        self.own.get_or_init(|| own);
    }

    /// Notes which devices are there, as a relay says.
    pub(crate) fn see(&self, relay: usize, slot: Slot, there: bool) {
        self.lane(slot).see(relay, there);
    }

    /// The relay that a peer's packets go by, if they go by one.
    pub(crate) fn relay_of(&self, slot: Slot) -> Option<usize> {
        self.choose(slot, &self.lane(slot)).first
    }

    /// How long a relay takes to answer, smoothed; `None` if it is not there.
    pub(crate) fn round_trip(&self, relay: usize) -> Option<Duration> {
        self.nearest().round_trip_us(relay).map(Duration::from_micros)
    }

    /// The relays' numbers, nearest first.
    pub(crate) fn by_distance(&self) -> [usize; RELAYS] {
        let mut order = std::array::from_fn(|number| number);
        order.sort_by_key(|number: &usize| self.ranks[*number].load(Ordering::Relaxed));
        order
    }

    /// Takes in what a tunnel has brought.
    pub(crate) fn take_from_tunnel(&self, relay: usize, datagrams: Datagrams<'_>) {
        let leg = &self.legs[relay];
        let place = leg.place();
        leg.heard_ms.store(self.now_ms(), Ordering::Relaxed);
        let outer = RecvMeta { addr: leg.address(), len: 0, stride: 0, ecn: None, dst_ip: None };
        let mut heard = None;
        for datagram in datagrams {
            if datagram.len() > DATA {
                leg.data_ms.store(self.now_ms(), Ordering::Relaxed);
            }
            if let Some(parsed) = self.parse(leg, &place, datagram, &outer) {
                let from = slot_of(parsed.meta.addr);
                if from != heard {
                    heard = from;
                    self.note_heard(relay, from);
                }
                self.hold(&datagram[parsed.skip..], parsed.meta);
            }
        }
        leg.carrier.arrivals.wake();
    }

    /// Notes that a tunnel is over. If it was in use, the relay is asked over UDP for a sign of life at once.
    pub(crate) fn tunnel_ended(&self, relay: usize, queue: &Arc<Queue>) {
        let leg = &self.legs[relay];
        if leg.carrier.tunnel_ended(queue) {
            self.unbound(leg);
            leg.doubt.notify_one();
        }
    }

    /// What the newest answer to a BIND says that came from the nearest relay which has answered; and its changes.
    pub fn bound(&self) -> watch::Receiver<Option<Bound>> {
        self.bound.subscribe()
    }

    fn unbound(&self, leg: &Leg) {
        leg.asked_ms.store(0, Ordering::Relaxed);
        leg.bound.send_replace(None);
        leg.answered.send_replace(0);
        self.compare_bound();
    }

    fn measured(&self, relay: usize, round_trip: Duration) {
        self.reorder(|nearest| nearest.measured(relay, u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX)));
    }

    fn lost(&self, relay: usize) {
        self.reorder(|nearest| nearest.lost(relay));
    }

    fn reorder(&self, change: impl FnOnce(&mut Nearest)) {
        let mut nearest = self.nearest();
        change(&mut nearest);
        for (number, rank) in self.ranks.iter().enumerate() {
            rank.store(nearest.rank(number), Ordering::Relaxed);
        }
        drop(nearest);
        self.compare_bound();
    }

    /// Asks the second port of the nearest relay that has answered at which address this machine is seen. Gives what it
    /// says from now on.
    pub(crate) fn look(&self, counter: u64) -> watch::Receiver<Option<SocketAddr>> {
        self.looked.send_replace(None);
        let nearest = self.by_distance().into_iter().find(|number| self.legs[*number].bound.borrow().is_some());
        if let Some(number) = nearest
            && let Place { relay: Some(at), session: Some(session), .. } = self.legs[number].place()
            && let Some(destination) = second_port(at)
        {
            let contents = relay::bind_datagram(session.token, &relay::look_key(&session.mac_key), counter);
            let transmit = Transmit { destination, ecn: None, contents: &contents, segment_size: None, src_ip: None };
            if let Err(error) = self.send(&transmit) {
                trace!("the relay was not asked at its second port: {error}");
            }
        }
        self.looked.subscribe()
    }

    fn compare_bound(&self) {
        let answers = self.by_distance().into_iter().filter_map(|number| *self.legs[number].bound.borrow());
        let now = answers.into_iter().next();
        self.bound.send_if_modified(|known| std::mem::replace(known, now) != now);
    }

    fn nearest(&self) -> MutexGuard<'_, Nearest> {
        self.nearest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_on(port: u16) -> io::Result<(Self, mpsc::Receiver<News>)> {
        let (fd, v6) = match bind(AddressFamily::INET6, Ipv6Addr::UNSPECIFIED.into(), port) {
            Ok(fd) => (fd, true),
            Err(error) if error == rustix::io::Errno::ADDRINUSE => return Err(error.into()),
            Err(_) => (bind(AddressFamily::INET, Ipv4Addr::UNSPECIFIED.into(), port)?, false),
        };
        widen_buffers(&fd);
        let socket = std::net::UdpSocket::from(fd);
        let state = UdpSocketState::new((&socket).into())?;
        let (bound, _) = watch::channel(None);
        let (looked, _) = watch::channel(None);
        let (news, told) = mpsc::channel(MAX_NEWS);
        let socket = Self {
            io: tokio::net::UdpSocket::from_std(socket)?,
            state,
            v6,
            legs: std::array::from_fn(Leg::new),
            nearest: Mutex::default(),
            ranks: std::array::from_fn(AtomicUsize::new),
            own: OnceLock::new(),
            lanes: RwLock::default(),
            sources: RwLock::default(),
            news,
            held: Mutex::default(),
            bound,
            looked,
            started: Instant::now(),
        };
        Ok((socket, told))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn since(&self, moment_ms: &AtomicU64) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(moment_ms.load(Ordering::Relaxed)))
    }

    /// Sends to a real address. Fails only when the kernel's buffer is full.
    fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.try_to_send(transmit) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                trace!("a packet was not sent: {error}");
                Ok(())
            }
            result => result,
        }
    }

    /// Sends to a relay by what carries datagrams there.
    fn send_to_relay(&self, leg: &Leg, transmit: &Transmit<'_>) -> io::Result<()> {
        if leg.carrier.send(transmit.contents, transmit.segment_size) {
            return Ok(());
        }
        let Some(relay) = leg.place().relay else { return Ok(()) };
        self.send(&Transmit { destination: relay, ..transmit.clone() })
    }

    fn try_to_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let native = Transmit { destination: native(transmit.destination, self.v6), ..transmit.clone() };
        self.io.try_io(Interest::WRITABLE, || self.state.try_send((&self.io).into(), &native))
    }

    /// Sends to a peer, whichever way its packets take now.
    fn send_to_peer(&self, slot: Slot, transmit: &Transmit<'_>) -> io::Result<()> {
        let lane = self.lane(slot);
        if lane.is_news(self.now_ms(), BUSY_EVERY_MS) {
            self.tell(News::Busy(slot));
        }
        match lane.route() {
            Route::Relay => match lane.spoke_from().filter(|_| self.bound.borrow().is_none()) {
                // A peer that has found this device calls at once: before it is known here that answers get there, and
                // before any relay carries them. Without this one it would wait for QUIC's first timer.
                Some(to) => self.send_straight(slot, to, transmit).map(drop),
                None => self.forward(slot, &lane, transmit),
            },
            Route::Direct(to, _) => {
                if self.send_straight(slot, to, transmit)? {
                    Ok(())
                } else {
                    self.forward(slot, &lane, transmit)
                }
            }
            Route::Both(to, _) => {
                self.send_straight(slot, to, transmit)?;
                self.forward(slot, &lane, transmit)
            }
        }
    }

    /// Sends to an address of a peer's; false if the kernel knows no way there.
    fn send_straight(&self, slot: Slot, to: SocketAddr, transmit: &Transmit<'_>) -> io::Result<bool> {
        match self.try_to_send(&Transmit { destination: to, ..transmit.clone() }) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            // QUIC tries how long packets may be, and learns it from those that are lost.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => Ok(true),
            Err(error) => {
                trace!("a packet was not sent straight: {error}");
                self.tell(News::SendFailed(slot));
                Ok(false)
            }
        }
    }

    fn tell(&self, news: News) {
        if let Err(lost) = self.news.try_send(news) {
            trace!("not told: {lost}");
        }
    }

    /// Sends to a peer through a relay; through two while the one in use is in doubt.
    fn forward(&self, slot: Slot, lane: &Lane, transmit: &Transmit<'_>) -> io::Result<()> {
        let Choice { first, second } = self.choose(slot, lane);
        let Some(first) = first else { return Ok(()) };
        if lane.go_by(first) {
            debug!("packets for slot {} go by relay {first}", slot.0);
        }
        let sent = self.forward_by(&self.legs[first], slot, transmit);
        if let Some(second) = second {
            // What the second cannot take now went by the first.
            let _full = self.forward_by(&self.legs[second], slot, transmit);
        }
        sent
    }

    fn choose(&self, slot: Slot, lane: &Lane) -> Choice {
        let now_ms = self.now_ms();
        let seen: [Seen; RELAYS] = std::array::from_fn(|number| {
            let leg = &self.legs[number];
            let session = leg.place().session.is_some();
            Seen {
                session,
                bound: session && leg.bound.borrow().is_some(),
                there: lane.is_there(number),
                rank: self.ranks[number].load(Ordering::Relaxed),
                silent_ms: now_ms.saturating_sub(leg.heard_ms.load(Ordering::Relaxed)),
                owed_ms: match leg.asked_ms.load(Ordering::Relaxed) {
                    0 => 0,
                    asked_ms => now_ms.saturating_sub(asked_ms),
                },
                round_trip_ms: leg.round_trip_ms.load(Ordering::Relaxed),
                peer_ms: lane.heard_ms(number).map(|heard_ms| now_ms.saturating_sub(heard_ms)),
            }
        });
        relays::choose(&seen, self.own.get().is_some_and(|own| slot < *own))
    }

    fn forward_by(&self, leg: &Leg, slot: Slot, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(session) = leg.place().session else { return Ok(()) };
        if self.since(&leg.heard_ms) > Duration::from_millis(SILENCE_MS) {
            leg.doubt.notify_one();
        }
        if transmit.contents.len() > DATA {
            leg.data_ms.store(self.now_ms(), Ordering::Relaxed);
        }
        let header =
            Header { kind: Kind::Data, ecn: transmit.ecn.map_or(0, |ecn| ecn as u8), slot, token: session.token };
        let header = header.to_bytes();
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            for packet in transmit.contents.chunks(segment) {
                scratch.extend_from_slice(&header);
                scratch.extend_from_slice(packet);
            }
            // The relay carries a mark of either leg on in the header.
            let transmit = Transmit {
                destination: leg.address(),
                ecn: transmit.ecn,
                contents: scratch,
                segment_size: transmit.segment_size.map(|size| size + HEADER),
                src_ip: None,
            };
            self.send_to_relay(leg, &transmit)
        })
    }

    /// Turns a received batch into what QUIC is to see: one connection's kind of packets at the front of the buffer,
    /// those of others held for the next call, and nothing of what is not QUIC's.
    fn take_in(&self, places: &[Place; RELAYS], buffer: &mut [u8], meta: &mut RecvMeta) {
        let source = canonical(meta.addr);
        let Some(number) = places.iter().position(|place| place.relay == Some(source)) else {
            return self.take_straight(buffer, meta);
        };
        let (leg, place) = (&self.legs[number], &places[number]);
        let length = std::mem::take(&mut meta.len);
        let stride = meta.stride.max(1);
        leg.carrier.note_udp();
        if !leg.carrier.by_tunnel() {
            leg.heard_ms.store(self.now_ms(), Ordering::Relaxed);
        }
        if length > DATA {
            leg.data_ms.store(self.now_ms(), Ordering::Relaxed);
        }
        let outer = RecvMeta { addr: leg.address(), ..*meta };
        let mut first: Option<Parsed> = None;
        let mut start = 0;
        while start < length {
            let end = length.min(start + stride);
            let segment = start..end;
            start = end;
            let Some(parsed) = self.parse(leg, place, &buffer[segment.clone()], &outer) else { continue };
            let packet = segment.start + parsed.skip..segment.end;
            let Some(lead) = first.as_mut() else {
                self.note_heard(number, slot_of(parsed.meta.addr));
                *meta = RecvMeta { len: packet.len(), stride: stride - parsed.skip, ..parsed.meta };
                buffer.copy_within(packet, 0);
                first = Some(parsed);
                continue;
            };
            if lead.meta.addr == parsed.meta.addr {
                if parsed.meta.ecn == Some(EcnCodepoint::Ce) {
                    meta.ecn = parsed.meta.ecn;
                }
                let len = packet.len();
                if parsed.skip != 0 || meta.len != packet.start {
                    buffer.copy_within(packet, meta.len);
                }
                meta.len += len;
            } else {
                self.note_heard(number, slot_of(parsed.meta.addr));
                self.hold(&buffer[packet], parsed.meta);
            }
        }
    }

    /// Notes that a peer's packet came by a relay.
    fn note_heard(&self, relay: usize, from: Option<Slot>) {
        if let Some(slot) = from {
            self.lane(slot).note_heard(relay, self.now_ms());
        }
    }

    /// The same for a batch that did not come from the relay: a peer's packets stay, probes are told of.
    fn take_straight(&self, buffer: &mut [u8], meta: &mut RecvMeta) {
        let source = canonical(meta.addr);
        let length = std::mem::take(&mut meta.len);
        let stride = meta.stride.max(1);
        let peer = self.sources.read().unwrap_or_else(PoisonError::into_inner).get(&source).copied();
        let mut start = 0;
        while start < length {
            let end = length.min(start + stride);
            if peer.is_some() && Header::is_quic(&buffer[start..end]) {
                if meta.len != start {
                    buffer.copy_within(start..end, meta.len);
                }
                meta.len += end - start;
            } else if probe::sender(&buffer[start..end]).is_some() {
                self.tell(News::Probe { source, datagram: buffer[start..end].to_vec() });
            } else {
                self.take_look(source, &buffer[start..end]);
            }
            start = end;
        }
        if let Some(slot) = peer {
            if meta.len > 0 {
                self.lane(slot).speaks_from(source);
            }
            meta.addr = peer_address(slot);
            meta.dst_ip = None;
        }
    }

    /// Notes what the relay's second port says.
    fn take_look(&self, source: SocketAddr, datagram: &[u8]) {
        for place in self.legs.iter().map(Leg::place) {
            if let Place { relay: Some(at), session: Some(session), .. } = place
                && second_port(at) == Some(source)
                && let Some((_, seen)) = relay::open_bound(datagram, &relay::look_key(&session.mac_key))
            {
                self.looked.send_replace(Some(seen));
            }
        }
    }

    /// Looks at one datagram from the relay. `None` if QUIC is not to see it.
    fn parse(&self, leg: &Leg, place: &Place, datagram: &[u8], outer: &RecvMeta) -> Option<Parsed> {
        if Header::is_quic(datagram) {
            return (!leg.carrier.is_answer(datagram)).then_some(Parsed { skip: 0, meta: *outer });
        }
        let session = place.session.as_ref()?;
        let header = Header::parse(datagram).filter(|header| header.token == session.token)?;
        match header.kind {
            Kind::Data if Header::is_quic(&datagram[HEADER..]) => {
                let congested = outer.ecn == Some(EcnCodepoint::Ce);
                let ecn = if congested { outer.ecn } else { EcnCodepoint::from_bits(header.ecn) };
                let meta = RecvMeta { addr: peer_address(header.slot), ecn, dst_ip: None, ..*outer };
                Some(Parsed { skip: HEADER, meta })
            }
            Kind::Bound => {
                if let Some((counter, seen)) = relay::open_bound(datagram, &session.mac_key) {
                    let now = Some(Bound { seen, way: leg.way() });
                    if leg.bound.send_if_modified(|known| std::mem::replace(known, now) != now) {
                        self.compare_bound();
                    }
                    leg.asked_ms.store(0, Ordering::Relaxed);
                    leg.answered.send_replace(counter);
                }
                None
            }
            Kind::Offline => {
                trace!("the relay could not reach slot {}", header.slot.0);
                None
            }
            Kind::Data | Kind::Bind => None,
        }
    }

    fn hold(&self, packet: &[u8], meta: RecvMeta) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() < MAX_HELD {
            let meta = RecvMeta { len: packet.len(), stride: packet.len(), ..meta };
            held.push_back(Held { packet: packet.to_vec(), meta });
        }
    }

    /// Gives out held packets, as many as there are buffers.
    fn release(&self, buffers: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let Some(next) = held.pop_front() else { break };
            buffer[..next.packet.len()].copy_from_slice(&next.packet);
            *meta = next.meta;
            count += 1;
        }
        count
    }
}

/// Where a relay says at which address it sees who asks.
fn second_port(relay: SocketAddr) -> Option<SocketAddr> {
    Some(SocketAddr::new(relay.ip(), relay.port().checked_add(1)?))
}

/// What QUIC is to make of one datagram: where its packet starts, and from whom it is.
struct Parsed {
    skip: usize,
    meta: RecvMeta,
}

impl AsyncUdpSocket for PathSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match slot_of(transmit.destination) {
            Some(slot) => self.send_to_peer(slot, transmit),
            None => match number_of(transmit.destination) {
                Some(relay) => self.send_to_relay(&self.legs[relay], transmit),
                None => self.send(transmit),
            },
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // Before the look: what a tunnel brings after it wakes this task.
        self.legs.iter().for_each(|leg| leg.carrier.arrivals.register(cx.waker()));
        let released = self.release(buffers, metas);
        if released > 0 {
            return Poll::Ready(Ok(released));
        }
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let some = buffers.len().min(metas.len()).min(AT_ONCE);
            let (buffers, metas) = (&mut buffers[..some], &mut metas[..some]);
            let received = self.io.try_io(Interest::READABLE, || self.state.recv((&self.io).into(), buffers, metas));
            // An error here is some other address's trouble, told late: the socket goes on.
            let Ok(count) = received else { continue };
            let places = std::array::from_fn(|number| self.legs[number].place());
            for (buffer, meta) in buffers.iter_mut().zip(metas.iter_mut()).take(count) {
                self.take_in(&places, buffer, meta);
            }
            return Poll::Ready(Ok(count));
        }
    }

    /// The local port, always in the form of an IPv6 address: QUIC then takes peers' addresses on any socket.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(mapped(self.io.local_addr()?))
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

type Writable = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// Waits for room in the socket's send buffer, on behalf of one connection.
struct Poller {
    socket: Arc<PathSocket>,
    waiting: Option<Writable>,
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").finish_non_exhaustive()
    }
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.socket.clone();
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(async move { socket.io.writable().await }));
        let result = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(result)
    }
}

fn bind(family: AddressFamily, ip: IpAddr, port: u16) -> rustix::io::Result<rustix::fd::OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    if family == AddressFamily::INET6 {
        sockopt::set_ipv6_v6only(&fd, false)?;
    }
    rustix::net::bind(&fd, &SocketAddr::new(ip, port))?;
    Ok(fd)
}

/// Asks for large buffers, past the system's limit where that is permitted.
fn widen_buffers(fd: &rustix::fd::OwnedFd) {
    let receive = |size| {
        sockopt::set_socket_recv_buffer_size_force(fd, size).or_else(|_| sockopt::set_socket_recv_buffer_size(fd, size))
    };
    let send = |size| sockopt::set_socket_send_buffer_size(fd, size);
    if !BUFFERS.iter().any(|size| receive(*size).is_ok()) || !BUFFERS.iter().any(|size| send(*size).is_ok()) {
        debug!("the kernel keeps its small socket buffers");
    }
}

/// An address in the one form in which addresses are compared.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// An address in the form of an IPv6 address, which is how QUIC knows it.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
        SocketAddr::V6(_) => address,
    }
}

/// An address in the form that the kernel wants for the socket's family.
fn native(address: SocketAddr, v6: bool) -> SocketAddr {
    if v6 {
        return mapped(address);
    }
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(_) => canonical(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::carrier::relay_address;

    const TOKEN: [u8; 8] = [7; 8];
    const KEY: [u8; 32] = [8; 32];

    #[test]
    fn a_peers_address_names_its_slot_and_no_other_address_does() {
        for slot in [0, 1, 513, u16::MAX] {
            assert_eq!(slot_of(peer_address(Slot(slot))), Some(Slot(slot)));
        }
        for other in ["[fd15:7000::1]:2", "[fd15:7001::1]:1", "[fd15:7000::1:1]:1", "127.0.0.1:1"] {
            assert_eq!(slot_of(other.parse().expect("an address")), None, "{other}");
        }
    }

    #[tokio::test]
    async fn a_batch_from_one_peer_is_stripped_in_place() {
        let (socket, _) = socket();
        let (mut buffer, mut meta) = batch(&[data(3, 0, b"@aaaa"), data(3, 2, b"@bbbb"), data(3, 0, b"@c")]);
        take_in(&socket, &mut buffer, &mut meta);
        assert_eq!(given(&buffer, &meta), [b"@aaaa".as_slice(), b"@bbbb", b"@c"]);
        assert_eq!((meta.addr, meta.ecn), (peer_address(Slot(3)), None));
    }

    #[tokio::test]
    async fn congestion_seen_by_any_packet_of_a_batch_is_told() {
        let (socket, _) = socket();
        let (mut buffer, mut meta) = batch(&[data(3, 2, b"@aaaa"), data(3, 3, b"@bbbb"), data(3, 2, b"@cccc")]);
        take_in(&socket, &mut buffer, &mut meta);
        assert_eq!(meta.ecn, Some(EcnCodepoint::Ce));
    }

    #[tokio::test]
    async fn packets_of_others_in_a_batch_come_with_the_next_call() {
        let (socket, _) = socket();
        let quic = b"@a packet of the login".to_vec();
        let bound = bound_of(quic.len());
        let (mut buffer, mut meta) =
            batch(&[data(3, 0, b"@aaaaaaaaa"), quic.clone(), bound, data(4, 2, b"@bbbbbbbbb"), data(3, 0, b"@c")]);
        take_in(&socket, &mut buffer, &mut meta);
        assert_eq!(given(&buffer, &meta), [b"@aaaaaaaaa".as_slice(), b"@c"]);

        let mut space = [[0; 64]; 4];
        let mut buffers: Vec<IoSliceMut<'_>> = space.iter_mut().map(|space| IoSliceMut::new(space)).collect();
        let mut metas = [RecvMeta::default(); 4];
        assert_eq!(socket.release(&mut buffers, &mut metas), 2);
        assert_eq!((given(&buffers[0], &metas[0]), metas[0].addr), (vec![quic.as_slice()], relay_address(0)));
        assert_eq!(given(&buffers[1], &metas[1]), [b"@bbbbbbbbb"]);
        assert_eq!((metas[1].addr, metas[1].ecn), (peer_address(Slot(4)), Some(EcnCodepoint::Ect0)));
        assert_eq!(socket.release(&mut buffers, &mut metas), 0);
    }

    #[tokio::test]
    async fn what_is_not_the_relays_or_not_this_sessions_is_dropped() {
        let (socket, leg) = socket();
        let mut other_token = data(3, 0, b"@a");
        other_token[4] ^= 1;
        let mut bad_ecn = data(3, 0, b"@a");
        bad_ecn[1] = 4;
        let table = [other_token, bad_ecn, data(3, 0, b""), data(3, 0, b"\x01not quic"), vec![1, 0, 3], vec![]];
        for datagram in table {
            let (mut buffer, mut meta) = batch(std::slice::from_ref(&datagram));
            take_in(&socket, &mut buffer, &mut meta);
            assert_eq!(meta.len, 0, "{datagram:?}");
        }
        let (mut buffer, mut meta) = batch(&[data(3, 0, b"@a")]);
        meta.addr = "192.0.2.1:2".parse().expect("an address");
        take_in(&socket, &mut buffer, &mut meta);
        assert_eq!(meta.len, 0, "from another port");
        leg.end_session();
        let (mut buffer, mut meta) = batch(&[data(3, 0, b"@a")]);
        take_in(&socket, &mut buffer, &mut meta);
        assert_eq!(meta.len, 0, "without a session");
    }

    #[tokio::test]
    async fn packets_straight_from_a_peer_are_taken_once_its_address_is_known() {
        let (socket, mut news) = PathSocket::open(0).expect("a socket");
        let source: SocketAddr = "192.0.2.9:3".parse().expect("an address");
        let straight = |datagrams: &[Vec<u8>]| {
            let (buffer, meta) = batch(datagrams);
            (buffer, RecvMeta { addr: mapped(source), ..meta })
        };
        let short = vec![5; probe::SHORT];
        let quic = vec![b'@'; probe::SHORT];
        let junk = vec![9; probe::SHORT];
        let (mut buffer, mut meta) = straight(&[quic.clone(), short.clone(), junk.clone()]);
        take_in(&socket, &mut buffer, &mut meta);
        assert_eq!(meta.len, 0, "from nobody known");
        let told = news.try_recv().expect("a probe");
        assert!(matches!(told, News::Probe { source: from, datagram } if from == source && datagram == short));

        socket.know(source, Slot(3));
        let (mut buffer, mut meta) = straight(&[short, quic.clone(), junk, quic.clone(), b"@tail".to_vec()]);
        take_in(&socket, &mut buffer, &mut meta);
        assert_eq!(given(&buffer, &meta), [quic.as_slice(), &quic, b"@tail"]);
        assert_eq!(meta.addr, peer_address(Slot(3)));
        assert!(matches!(news.try_recv(), Ok(News::Probe { .. })));
        assert!(news.try_recv().is_err(), "junk is nothing");
    }

    #[tokio::test]
    async fn packets_go_the_way_of_their_lane() {
        let (socket, mut news) = PathSocket::open(0).expect("a socket");
        let [there, relay] = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        let [to, via] = [&there, &relay].map(|socket| socket.local_addr().expect("an address"));
        let socket = Arc::new(socket);
        let leg = RelayLeg::of(socket.clone(), 0);
        leg.use_relay(Some(via));
        leg.start_session(TOKEN, KEY);
        let send = |contents: &[u8]| {
            let (destination, ecn, segment_size, src_ip) = (peer_address(Slot(3)), None, None, None);
            let transmit = Transmit { destination, ecn, contents, segment_size, src_ip };
            socket.try_send(&transmit).expect("sent");
        };
        let heard = |at: &std::net::UdpSocket| {
            let mut space = [0; 64];
            let length = at.recv(&mut space).expect("a datagram");
            space[..length].to_vec()
        };
        socket.io.writable().await.expect("writable");
        send(b"@1");
        assert_eq!(heard(&relay), data(3, 0, b"@1"));
        assert!(matches!(news.try_recv(), Ok(News::Busy(Slot(3)))));
        socket.lane(Slot(3)).set(Route::Direct(to, syncd_core::paths::PathKind::Lan));
        send(b"@2");
        assert_eq!(heard(&there), b"@2");
        socket.lane(Slot(3)).set(Route::Both(to, syncd_core::paths::PathKind::Lan));
        send(b"@3");
        assert_eq!((heard(&there), heard(&relay)), (b"@3".to_vec(), data(3, 0, b"@3")));
        // Nobody can be reached there: what the kernel refuses goes by the relay, and that is told.
        let nowhere = "255.255.255.255:1".parse().expect("an address");
        socket.lane(Slot(3)).set(Route::Direct(nowhere, syncd_core::paths::PathKind::Lan));
        send(b"@4");
        assert_eq!(heard(&relay), data(3, 0, b"@4"));
        assert!(matches!(news.try_recv(), Ok(News::SendFailed(Slot(3)))));
    }

    #[tokio::test]
    async fn a_peer_that_calls_straight_is_answered_there_while_no_relay_carries() {
        let (socket, _) = PathSocket::open(0).expect("a socket");
        let socket = Arc::new(socket);
        let [there, relay] = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        there.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
        relay.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
        let [source, via] = [&there, &relay].map(|socket| socket.local_addr().expect("an address"));
        let send = |contents: &[u8]| {
            let (destination, ecn, segment_size, src_ip) = (peer_address(Slot(3)), None, None, None);
            let transmit = Transmit { destination, ecn, contents, segment_size, src_ip };
            socket.try_send(&transmit).expect("sent");
        };
        let heard = |at: &std::net::UdpSocket| {
            let mut space = [0; 64];
            let length = at.recv(&mut space).expect("a datagram");
            space[..length].to_vec()
        };
        let call = || {
            let (mut buffer, meta) = batch(&[b"@call".to_vec()]);
            take_in(&socket, &mut buffer, &mut RecvMeta { addr: mapped(source), ..meta });
        };
        socket.io.writable().await.expect("writable");
        call();
        send(b"@to a stranger");
        socket.know(source, Slot(3));
        send(b"@before it calls");
        call();
        send(b"@answer");
        assert_eq!(heard(&there), b"@answer");

        let leg = RelayLeg::of(socket.clone(), 0);
        leg.use_relay(Some(via));
        leg.start_session(TOKEN, KEY);
        socket.see(0, Slot(3), true);
        let (mut buffer, mut meta) = batch(&[relay::bound_datagram(TOKEN, &KEY, 1, source).to_vec()]);
        meta.addr = mapped(via);
        take_in(&socket, &mut buffer, &mut meta);
        send(b"@by the relay");
        assert_eq!(heard(&relay), data(3, 0, b"@by the relay"));
    }

    #[tokio::test]
    async fn of_two_relays_the_nearer_carries_and_the_other_as_well_while_it_is_silent() {
        let (socket, _) = PathSocket::open(0).expect("a socket");
        let socket = Arc::new(socket);
        socket.belongs_to(Slot(1));
        let relays = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        let tokens = [TOKEN, [9; 8]];
        let legs = [0, 1].map(|number| {
            let leg = RelayLeg::of(socket.clone(), number);
            leg.use_relay(Some(relays[number].local_addr().expect("an address")));
            leg.start_session(tokens[number], KEY);
            socket.see(number, Slot(3), true);
            leg
        });
        // Each answers a BIND, the second sooner.
        let answer = |number: usize, counter: u64| {
            let seen = "203.0.113.7:9".parse().expect("an address");
            let bound = relay::bound_datagram(tokens[number], &KEY, counter, seen);
            let (mut buffer, meta) = batch(&[bound.to_vec()]);
            let addr = mapped(relays[number].local_addr().expect("an address"));
            take_in(&socket, &mut buffer, &mut RecvMeta { addr, ..meta });
        };
        for (number, ms) in [(0, 40), (1, 10)] {
            answer(number, 1);
            legs[number].measured(Duration::from_millis(ms));
        }
        let send = |contents: &[u8]| {
            let (destination, ecn, segment_size, src_ip) = (peer_address(Slot(3)), None, None, None);
            let transmit = Transmit { destination, ecn, contents, segment_size, src_ip };
            socket.try_send(&transmit).expect("sent");
        };
        let heard = |number: usize| {
            let mut space = [0; 64];
            let length = relays[number].recv(&mut space).expect("a datagram");
            (space[4..12].to_vec(), space[HEADER..length].to_vec())
        };
        socket.io.writable().await.expect("writable");
        send(b"@1");
        assert_eq!((heard(1), socket.relay_of(Slot(3))), ((tokens[1].to_vec(), b"@1".to_vec()), Some(1)));
        assert_eq!(socket.lane(Slot(3)).way(), relay_address(1));
        // Silence is a matter of the clock; here the relay was heard so long ago.
        while socket.since(&socket.legs[1].heard_ms) <= Duration::from_millis(SILENCE_MS) {
            tokio::task::yield_now().await;
        }
        send(b"@2");
        assert_eq!([heard(1).1, heard(0).1], [b"@2", b"@2"]);
        legs[1].end_session();
        send(b"@3");
        assert_eq!((heard(0).1, socket.relay_of(Slot(3))), (b"@3".to_vec(), Some(0)));
        assert_eq!(socket.lane(Slot(3)).way(), relay_address(0));
        // What comes by either is the same peer's.
        legs[1].start_session(tokens[1], KEY);
        for number in [0, 1] {
            let mut datagram = data(3, 0, b"@a");
            datagram[4..12].copy_from_slice(&tokens[number]);
            let (mut buffer, meta) = batch(&[datagram]);
            let addr = mapped(relays[number].local_addr().expect("an address"));
            let mut meta = RecvMeta { addr, ..meta };
            take_in(&socket, &mut buffer, &mut meta);
            assert_eq!((given(&buffer, &meta), meta.addr), (vec![b"@a".as_slice()], peer_address(Slot(3))));
        }
    }

    #[tokio::test]
    async fn only_an_authentic_answer_binds() {
        let (socket, leg) = socket();
        let seen: SocketAddr = "203.0.113.7:9".parse().expect("an address");
        let forged = relay::bound_datagram(TOKEN, &[9; 32], 5, seen).to_vec();
        let authentic = relay::bound_datagram(TOKEN, &KEY, 5, seen).to_vec();
        for (datagram, wanted) in [(forged, None), (authentic, Some((5, seen)))] {
            let (mut buffer, mut meta) = batch(&[datagram]);
            take_in(&socket, &mut buffer, &mut meta);
            let bound = socket.bound().borrow().map(|bound| (*leg.answered().borrow(), bound.seen));
            assert_eq!((meta.len, bound), (0, wanted));
        }
        leg.end_session();
        assert_eq!((*socket.bound().borrow(), *leg.answered().borrow()), (None, 0));
    }

    #[tokio::test]
    async fn what_a_tunnel_brings_is_taken_as_what_the_relay_sends() {
        let (socket, _) = socket();
        let mut message = Vec::new();
        let quic = b"@a packet of the login".as_slice();
        let mut other_token = data(3, 0, b"@a");
        other_token[4] ^= 1;
        for datagram in [&data(3, 3, b"@aaaa"), quic, &other_token, &data(3, 0, b"")] {
            assert!(hearth_schemas::tunnel::put(&mut message, datagram));
        }
        socket.take_from_tunnel(0, hearth_schemas::tunnel::split(&message).expect("well-formed"));
        let mut space = [[0; 64]; 4];
        let mut buffers: Vec<IoSliceMut<'_>> = space.iter_mut().map(|space| IoSliceMut::new(space)).collect();
        let mut metas = [RecvMeta::default(); 4];
        let received = std::future::poll_fn(|cx| socket.poll_recv(cx, &mut buffers, &mut metas)).await;
        assert_eq!(received.expect("received"), 2);
        assert_eq!((given(&buffers[0], &metas[0]), metas[0].addr), (vec![b"@aaaa".as_slice()], peer_address(Slot(3))));
        assert_eq!(metas[0].ecn, Some(EcnCodepoint::Ce));
        assert_eq!((given(&buffers[1], &metas[1]), metas[1].addr), (vec![quic], relay_address(0)));
    }

    #[tokio::test]
    async fn an_answer_that_says_nothing_else_wakes_only_who_asked() {
        let (socket, leg) = socket();
        let (mut bound, mut answered) = (socket.bound(), leg.answered());
        let mut changes = Vec::new();
        for (counter, port) in [(1, 9), (2, 9), (3, 9), (4, 10)] {
            let seen = SocketAddr::from(([203, 0, 113, 7], port));
            let (mut buffer, mut meta) = batch(&[relay::bound_datagram(TOKEN, &KEY, counter, seen).to_vec()]);
            take_in(&socket, &mut buffer, &mut meta);
            changes.push((bound.has_changed().expect("open"), answered.has_changed().expect("open")));
            bound.mark_unchanged();
            answered.mark_unchanged();
        }
        assert_eq!(changes, [(true, true), (false, true), (false, true), (true, true)]);
    }

    #[tokio::test]
    async fn another_way_is_told_with_the_next_answer() {
        let (socket, leg) = socket();
        let seen: SocketAddr = "203.0.113.7:9".parse().expect("an address");
        let mut ways = Vec::new();
        for counter in 1..4 {
            let (mut buffer, mut meta) = batch(&[relay::bound_datagram(TOKEN, &KEY, counter, seen).to_vec()]);
            take_in(&socket, &mut buffer, &mut meta);
            ways.push(socket.bound().borrow().expect("bound").way);
            if counter == 2 {
                leg.use_udp();
            }
        }
        assert!(ways[0] == ways[1] && ways[1] != ways[2], "{ways:?}");
    }

    fn socket() -> (Arc<PathSocket>, RelayLeg) {
        let (socket, _) = PathSocket::open(0).expect("a socket");
        let socket = Arc::new(socket);
        let leg = RelayLeg::of(socket.clone(), 0);
        leg.use_relay(Some(relay()));
        leg.start_session(TOKEN, KEY);
        (socket, leg)
    }

    fn take_in(socket: &PathSocket, buffer: &mut [u8], meta: &mut RecvMeta) {
        let places = std::array::from_fn(|number| socket.legs[number].place());
        socket.take_in(&places, buffer, meta);
    }

    fn relay() -> SocketAddr {
        "192.0.2.1:1".parse().expect("an address")
    }

    fn data(slot: u16, ecn: u8, packet: &[u8]) -> Vec<u8> {
        let mut header = Header { kind: Kind::Data, ecn: 0, slot: Slot(slot), token: TOKEN }.to_bytes();
        header[1] = ecn;
        [header.as_slice(), packet].concat()
    }

    /// A datagram of ours, of any length, that QUIC is not to see.
    fn bound_of(len: usize) -> Vec<u8> {
        let header = Header { kind: Kind::Bound, ecn: 0, slot: Slot(0), token: TOKEN }.to_bytes();
        [header.as_slice(), &vec![0; len - HEADER]].concat()
    }

    /// Datagrams as the kernel hands over those that it received as one.
    fn batch(datagrams: &[Vec<u8>]) -> (Vec<u8>, RecvMeta) {
        let buffer = datagrams.concat();
        let meta = RecvMeta {
            addr: mapped(relay()),
            len: buffer.len(),
            stride: datagrams.first().map_or(0, Vec::len),
            ecn: None,
            dst_ip: None,
        };
        (buffer, meta)
    }

    fn given<'a>(buffer: &'a [u8], meta: &RecvMeta) -> Vec<&'a [u8]> {
        buffer[..meta.len].chunks(meta.stride).collect()
    }
}
