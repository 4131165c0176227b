//! The one UDP socket of the daemon, as QUIC sees it: peers have constant made-up addresses, and what carries their
//! packets is decided below QUIC.
//!
//! Each peer has a [`Lane`]. A packet for it goes straight to an address of the peer's, as it is, or to the relay behind
//! a [`Header`], one per segment, so that segmentation offload still sends a burst with one system call; what comes back
//! is stripped in place. A packet for the relay's own made-up address goes to it as it is: that is the login connection,
//! made by [`crate::relay`], which also tells this module which relay and session to use. What carries datagrams to the
//! relay, UDP or a tunnel, is [`crate::carrier`]'s. Taken in is what comes from that relay, forwarded datagrams only with
//! that session's token; QUIC packets from addresses that a peer's probe came from; and probes, for [`crate::paths`] to
//! look at, which decides the lanes.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
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
use tokio::io::Interest;
use tokio::sync::{Notify, mpsc, watch};
use tracing::{debug, trace};

use crate::carrier::{Carrier, RELAY};
use crate::tunnel::{self, Dialled, Queue};

mod lane;

pub use lane::Lane;

/// Kernel buffers asked for, in bytes, largest first. Without privilege the kernel gives what its limit allows.
const BUFFERS: [usize; 2] = [8 << 20, 4 << 20];
/// Batches of packets taken in with one call. QUIC offers 32 buffers of 94 kB, and what was once used stays in memory.
const AT_ONCE: usize = 8;
/// Packets kept for the next call because their batch belonged to somebody else.
const MAX_HELD: usize = 1024;
/// A packet sent after hearing nothing for this long asks for a sign of life from the relay.
const SILENCE: Duration = Duration::from_millis(400);
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

/// A session's part in the UDP leg.
#[derive(Clone, Copy)]
struct Session {
    token: [u8; 8],
    mac_key: [u8; 32],
}

/// The relay in use, and the session there once logged in.
#[derive(Clone, Copy, Default)]
struct Leg {
    relay: Option<SocketAddr>,
    session: Option<Session>,
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
    leg: RwLock<Leg>,
    carrier: Carrier,
    sessions: AtomicU64,
    lanes: RwLock<BTreeMap<Slot, Arc<Lane>>>,
    /// Addresses that probes of a peer came from.
    sources: RwLock<BTreeMap<SocketAddr, Slot>>,
    news: mpsc::Sender<News>,
    held: Mutex<VecDeque<Held>>,
    bound: watch::Sender<Option<Bound>>,
    /// The counter of the newest BIND that was answered, apart from what the answer says: each wakes nobody but who asked.
    answered: watch::Sender<u64>,
    /// The address seen at the relay's second port.
    looked: watch::Sender<Option<SocketAddr>>,
    started: Instant,
    heard_ms: AtomicU64,
    data_ms: AtomicU64,
    doubt: Notify,
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

    /// Has the relay asked for a sign of life now.
    pub fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// Sets the relay that is being dialled or used; nothing from elsewhere is taken in. Ends any session.
    /// `None` is a relay that has no address here, and can be reached through a proxy alone.
    pub fn use_relay(&self, relay: Option<SocketAddr>) {
        self.carrier.start_over();
        self.set_leg(Leg { relay: relay.map(canonical), session: None });
    }

    /// What carries datagrams to the relay.
    pub(crate) fn carrier(&self) -> &Carrier {
        &self.carrier
    }

    /// Goes over to a tunnel to the relay in use.
    pub(crate) fn attach(self: &Arc<Self>, dialled: Dialled) {
        let queue = Arc::new(Queue::new());
        let task = tokio::spawn(tunnel::carry(dialled.web, queue.clone(), Arc::downgrade(self)));
        self.carrier.attach(queue, dialled.proxy, task.abort_handle());
        self.unbound();
    }

    /// Goes over to UDP.
    pub(crate) fn use_udp(&self) {
        self.carrier.use_udp();
        self.unbound();
    }

    /// Asks over UDP whether the relay is there, without a consequence for the session.
    pub(crate) fn probe_udp(&self) {
        let (Some(relay), Some(contents)) = (self.leg().relay, self.carrier.probe()) else { return };
        let transmit =
            Transmit { destination: relay, ecn: None, contents: &contents, segment_size: None, src_ip: None };
        if let Err(error) = self.send(&transmit) {
            trace!("the relay was not asked over UDP: {error}");
        }
    }

    /// Takes in what a tunnel has brought.
    pub(crate) fn take_from_tunnel(&self, datagrams: Datagrams<'_>) {
        let leg = self.leg();
        self.heard_ms.store(self.now_ms(), Ordering::Relaxed);
        let outer = RecvMeta { addr: RELAY, len: 0, stride: 0, ecn: None, dst_ip: None };
        for datagram in datagrams {
            if datagram.len() > DATA {
                self.data_ms.store(self.now_ms(), Ordering::Relaxed);
            }
            if let Some(parsed) = self.parse(&leg, datagram, &outer) {
                self.hold(&datagram[parsed.skip..], parsed.meta);
            }
        }
        self.carrier.arrivals.wake();
    }

    /// Notes that a tunnel is over. If it was in use, the relay is asked over UDP for a sign of life at once.
    pub(crate) fn tunnel_ended(&self, queue: &Arc<Queue>) {
        if self.carrier.tunnel_ended(queue) {
            self.unbound();
            self.doubt.notify_one();
        }
    }

    /// Starts forwarding under a session of the relay in use.
    pub fn start_session(&self, token: [u8; 8], mac_key: [u8; 32]) {
        let relay = self.leg().relay;
        self.set_leg(Leg { relay, session: Some(Session { token, mac_key }) });
    }

    /// Stops forwarding. Peers' packets are lost from here on, as on any network that is away.
    pub fn end_session(&self) {
        let relay = self.leg().relay;
        self.set_leg(Leg { relay, session: None });
    }

    /// What the newest answer to a BIND of the current session says, and its changes.
    pub fn bound(&self) -> watch::Receiver<Option<Bound>> {
        self.bound.subscribe()
    }

    /// The counter of the newest BIND of the current session that was answered.
    pub fn answered(&self) -> watch::Receiver<u64> {
        self.answered.subscribe()
    }

    fn unbound(&self) {
        self.bound.send_replace(None);
        self.answered.send_replace(0);
    }

    /// Sends a BIND of the current session, if there is one. It may get lost, as any datagram.
    pub fn send_bind(&self, counter: u64) {
        let Some(session) = self.leg().session else { return };
        let datagram = relay::bind_datagram(session.token, &session.mac_key, counter);
        let sent = self.send_to_relay(&Transmit {
            destination: RELAY,
            ecn: None,
            contents: &datagram,
            segment_size: None,
            src_ip: None,
        });
        if let Err(error) = sent {
            trace!("BIND was not sent: {error}");
        }
    }

    /// Asks the relay's second port at which address this machine is seen. Gives what it says from now on.
    pub(crate) fn look(&self, counter: u64) -> watch::Receiver<Option<SocketAddr>> {
        self.looked.send_replace(None);
        if let Leg { relay: Some(at), session: Some(session) } = self.leg()
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

    /// Waits until a peer's packet is sent although the relay has been silent for a second.
    pub async fn doubted(&self) {
        self.doubt.notified().await;
    }

    /// How long ago anything came from the relay.
    pub fn silent_for(&self) -> Duration {
        self.since(&self.heard_ms)
    }

    /// How long ago peers' data went either way.
    pub fn idle_for(&self) -> Duration {
        self.since(&self.data_ms)
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
        let (answered, _) = watch::channel(0);
        let (looked, _) = watch::channel(None);
        let (news, told) = mpsc::channel(MAX_NEWS);
        let socket = Self {
            io: tokio::net::UdpSocket::from_std(socket)?,
            state,
            v6,
            leg: RwLock::default(),
            carrier: Carrier::default(),
            sessions: AtomicU64::new(0),
            lanes: RwLock::default(),
            sources: RwLock::default(),
            news,
            held: Mutex::default(),
            bound,
            answered,
            looked,
            started: Instant::now(),
            heard_ms: AtomicU64::new(0),
            data_ms: AtomicU64::new(0),
            doubt: Notify::new(),
        };
        Ok((socket, told))
    }

    fn leg(&self) -> Leg {
        *self.leg.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_leg(&self, leg: Leg) {
        *self.leg.write().unwrap_or_else(PoisonError::into_inner) = leg;
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.unbound();
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

    /// Sends to the relay by what carries datagrams there.
    fn send_to_relay(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.carrier.send(transmit.contents, transmit.segment_size) {
            return Ok(());
        }
        let Some(relay) = self.leg().relay else { return Ok(()) };
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
            Route::Relay => self.forward(slot, transmit),
            Route::Direct(to, _) => {
                if self.send_straight(slot, to, transmit)? {
                    Ok(())
                } else {
                    self.forward(slot, transmit)
                }
            }
            Route::Both(to, _) => {
                self.send_straight(slot, to, transmit)?;
                self.forward(slot, transmit)
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

    /// Sends to a peer through the relay.
    fn forward(&self, slot: Slot, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(session) = self.leg().session else { return Ok(()) };
        if self.silent_for() > SILENCE {
            self.doubt.notify_one();
        }
        if transmit.contents.len() > DATA {
            self.data_ms.store(self.now_ms(), Ordering::Relaxed);
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
            self.send_to_relay(&Transmit {
                destination: RELAY,
                ecn: transmit.ecn,
                contents: scratch,
                segment_size: transmit.segment_size.map(|size| size + HEADER),
                src_ip: None,
            })
        })
    }

    /// Turns a received batch into what QUIC is to see: one connection's kind of packets at the front of the buffer,
    /// those of others held for the next call, and nothing of what is not QUIC's.
    fn take_in(&self, leg: &Leg, buffer: &mut [u8], meta: &mut RecvMeta) {
        if leg.relay != Some(canonical(meta.addr)) {
            return self.take_straight(buffer, meta);
        }
        let length = std::mem::take(&mut meta.len);
        let stride = meta.stride.max(1);
        self.carrier.note_udp();
        if !self.carrier.by_tunnel() {
            self.heard_ms.store(self.now_ms(), Ordering::Relaxed);
        }
        if length > DATA {
            self.data_ms.store(self.now_ms(), Ordering::Relaxed);
        }
        let outer = RecvMeta { addr: RELAY, ..*meta };
        let mut first: Option<Parsed> = None;
        let mut start = 0;
        while start < length {
            let end = length.min(start + stride);
            let segment = start..end;
            start = end;
            let Some(parsed) = self.parse(leg, &buffer[segment.clone()], &outer) else { continue };
            let packet = segment.start + parsed.skip..segment.end;
            let Some(lead) = first.as_mut() else {
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
                self.hold(&buffer[packet], parsed.meta);
            }
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
            meta.addr = peer_address(slot);
            meta.dst_ip = None;
        }
    }

    /// Notes what the relay's second port says.
    fn take_look(&self, source: SocketAddr, datagram: &[u8]) {
        if let Leg { relay: Some(at), session: Some(session) } = self.leg()
            && second_port(at) == Some(source)
            && let Some((_, seen)) = relay::open_bound(datagram, &relay::look_key(&session.mac_key))
        {
            self.looked.send_replace(Some(seen));
        }
    }

    /// Looks at one datagram from the relay. `None` if QUIC is not to see it.
    fn parse(&self, leg: &Leg, datagram: &[u8], outer: &RecvMeta) -> Option<Parsed> {
        if Header::is_quic(datagram) {
            return (!self.carrier.is_answer(datagram)).then_some(Parsed { skip: 0, meta: *outer });
        }
        let session = leg.session.as_ref()?;
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
                    let way = self.sessions.load(Ordering::Relaxed) + self.carrier.changes();
                    let now = Some(Bound { seen, way });
                    self.bound.send_if_modified(|known| std::mem::replace(known, now) != now);
                    self.answered.send_replace(counter);
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
            None if transmit.destination == RELAY => self.send_to_relay(transmit),
            None => self.send(transmit),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // Before the look: what a tunnel brings after it wakes this task.
        self.carrier.arrivals.register(cx.waker());
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
            let leg = self.leg();
            for (buffer, meta) in buffers.iter_mut().zip(metas.iter_mut()).take(count) {
                self.take_in(&leg, buffer, meta);
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
        let (socket, leg) = socket();
        let (mut buffer, mut meta) = batch(&[data(3, 0, b"@aaaa"), data(3, 2, b"@bbbb"), data(3, 0, b"@c")]);
        socket.take_in(&leg, &mut buffer, &mut meta);
        assert_eq!(given(&buffer, &meta), [b"@aaaa".as_slice(), b"@bbbb", b"@c"]);
        assert_eq!((meta.addr, meta.ecn), (peer_address(Slot(3)), None));
    }

    #[tokio::test]
    async fn congestion_seen_by_any_packet_of_a_batch_is_told() {
        let (socket, leg) = socket();
        let (mut buffer, mut meta) = batch(&[data(3, 2, b"@aaaa"), data(3, 3, b"@bbbb"), data(3, 2, b"@cccc")]);
        socket.take_in(&leg, &mut buffer, &mut meta);
        assert_eq!(meta.ecn, Some(EcnCodepoint::Ce));
    }

    #[tokio::test]
    async fn packets_of_others_in_a_batch_come_with_the_next_call() {
        let (socket, leg) = socket();
        let quic = b"@a packet of the login".to_vec();
        let bound = bound_of(quic.len());
        let (mut buffer, mut meta) =
            batch(&[data(3, 0, b"@aaaaaaaaa"), quic.clone(), bound, data(4, 2, b"@bbbbbbbbb"), data(3, 0, b"@c")]);
        socket.take_in(&leg, &mut buffer, &mut meta);
        assert_eq!(given(&buffer, &meta), [b"@aaaaaaaaa".as_slice(), b"@c"]);

        let mut space = [[0; 64]; 4];
        let mut buffers: Vec<IoSliceMut<'_>> = space.iter_mut().map(|space| IoSliceMut::new(space)).collect();
        let mut metas = [RecvMeta::default(); 4];
        assert_eq!(socket.release(&mut buffers, &mut metas), 2);
        assert_eq!((given(&buffers[0], &metas[0]), metas[0].addr), (vec![quic.as_slice()], RELAY));
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
            socket.take_in(&leg, &mut buffer, &mut meta);
            assert_eq!(meta.len, 0, "{datagram:?}");
        }
        let (mut buffer, mut meta) = batch(&[data(3, 0, b"@a")]);
        meta.addr = "192.0.2.1:2".parse().expect("an address");
        socket.take_in(&leg, &mut buffer, &mut meta);
        assert_eq!(meta.len, 0, "from another port");
        let nobody = Leg { session: None, ..leg };
        let (mut buffer, mut meta) = batch(&[data(3, 0, b"@a")]);
        socket.take_in(&nobody, &mut buffer, &mut meta);
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
        socket.take_in(&Leg::default(), &mut buffer, &mut meta);
        assert_eq!(meta.len, 0, "from nobody known");
        let told = news.try_recv().expect("a probe");
        assert!(matches!(told, News::Probe { source: from, datagram } if from == source && datagram == short));

        socket.know(source, Slot(3));
        let (mut buffer, mut meta) = straight(&[short, quic.clone(), junk, quic.clone(), b"@tail".to_vec()]);
        socket.take_in(&Leg::default(), &mut buffer, &mut meta);
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
        socket.use_relay(Some(via));
        socket.start_session(TOKEN, KEY);
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
    async fn only_an_authentic_answer_binds() {
        let (socket, leg) = socket();
        let seen: SocketAddr = "203.0.113.7:9".parse().expect("an address");
        let forged = relay::bound_datagram(TOKEN, &[9; 32], 5, seen).to_vec();
        let authentic = relay::bound_datagram(TOKEN, &KEY, 5, seen).to_vec();
        for (datagram, wanted) in [(forged, None), (authentic, Some((5, seen)))] {
            let (mut buffer, mut meta) = batch(&[datagram]);
            socket.take_in(&leg, &mut buffer, &mut meta);
            let bound = socket.bound().borrow().map(|bound| (*socket.answered().borrow(), bound.seen));
            assert_eq!((meta.len, bound), (0, wanted));
        }
        socket.end_session();
        assert_eq!((*socket.bound().borrow(), *socket.answered().borrow()), (None, 0));
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
        socket.take_from_tunnel(hearth_schemas::tunnel::split(&message).expect("well-formed"));
        let mut space = [[0; 64]; 4];
        let mut buffers: Vec<IoSliceMut<'_>> = space.iter_mut().map(|space| IoSliceMut::new(space)).collect();
        let mut metas = [RecvMeta::default(); 4];
        let received = std::future::poll_fn(|cx| socket.poll_recv(cx, &mut buffers, &mut metas)).await;
        assert_eq!(received.expect("received"), 2);
        assert_eq!((given(&buffers[0], &metas[0]), metas[0].addr), (vec![b"@aaaa".as_slice()], peer_address(Slot(3))));
        assert_eq!(metas[0].ecn, Some(EcnCodepoint::Ce));
        assert_eq!((given(&buffers[1], &metas[1]), metas[1].addr), (vec![quic], RELAY));
    }

    #[tokio::test]
    async fn an_answer_that_says_nothing_else_wakes_only_who_asked() {
        let (socket, leg) = socket();
        let (mut bound, mut answered) = (socket.bound(), socket.answered());
        let mut changes = Vec::new();
        for (counter, port) in [(1, 9), (2, 9), (3, 9), (4, 10)] {
            let seen = SocketAddr::from(([203, 0, 113, 7], port));
            let (mut buffer, mut meta) = batch(&[relay::bound_datagram(TOKEN, &KEY, counter, seen).to_vec()]);
            socket.take_in(&leg, &mut buffer, &mut meta);
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
            socket.take_in(&leg, &mut buffer, &mut meta);
            ways.push(socket.bound().borrow().expect("bound").way);
            if counter == 2 {
                socket.use_udp();
            }
        }
        assert!(ways[0] == ways[1] && ways[1] != ways[2], "{ways:?}");
    }

    fn socket() -> (PathSocket, Leg) {
        let (socket, _) = PathSocket::open(0).expect("a socket");
        socket.use_relay(Some(relay()));
        socket.start_session(TOKEN, KEY);
        let leg = socket.leg();
        (socket, leg)
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
