//! The one UDP socket: QUIC packets go up to quinn, our datagrams are answered or forwarded on the spot.
//!
//! A receive call gives up to 32 buffers, each of one or (GRO) many datagrams from one source. Datagrams in a row that
//! go the same way get their headers rewritten in place and leave in one call (GSO). Nothing is queued: when the
//! socket's buffer is full a datagram is lost, and the QUIC inside recovers. Where to is decided by [`Forwarder`].
//!
//! What came through a tunnel is handled as if it had come from the tunnel's made-up address, and what is sent to such
//! an address goes to [`Tunnels`]. On the wire no datagram has such a source; one that claims to is dropped.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use hearth_schemas::relay::{HEADER, Header, Kind};
use hearth_schemas::tunnel::{Malformed, number_of, split};
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::io::Interest;

use crate::forward::{Bound, Forwarder, Verdict};
use crate::metrics::{Dropped, Leg, Metrics};
use crate::tunnel::{Tunnel, Tunnels, is_made_up};

/// Wished size of the kernel's buffers, in bytes; the system may give less.
const BUFFER: usize = 8 << 20;
/// Longest segment that is sent many in one call: what fits every Ethernet path, so that the call is not refused.
const LONGEST_SEGMENT: usize = 1440;
/// Most bytes of one call.
const LONGEST_CALL: usize = 65_000;
/// Most segments of one call.
const MOST_SEGMENTS: usize = 64;

/// Callers over TCP that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// The relay's socket.
pub(crate) struct RelaySocket {
    io: tokio::net::UdpSocket,
    /// Of quinn's own packets.
    quic: UdpSocketState,
    /// Of forwarded ones; apart, because one path that refuses a long call turns such calls off in the whole state.
    leg: Mutex<UdpSocketState>,
    forwarder: Arc<Mutex<Forwarder>>,
    tunnels: Arc<Tunnels>,
    metrics: Arc<Metrics>,
    /// Whether QUIC gets what tunnels brought before what the wire brings; each in turn.
    tunnels_first: AtomicBool,
}

/// Opens the socket. An IPv6 wildcard takes IPv4 as well.
pub(crate) fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = unbound(address, SocketType::DGRAM)?;
    if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, BUFFER)?;
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, BUFFER).is_err() {
        sockopt::set_socket_send_buffer_size(&socket, BUFFER)?;
    }
    rustix::net::bind(&socket, &address)?;
    Ok(UdpSocket::from(socket))
}

/// Listens for TCP on the same terms.
pub(crate) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = unbound(address, SocketType::STREAM)?;
    // Connections of an earlier run that the kernel has not forgotten yet do not stand in the way.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn unbound(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
    }
    Ok(socket)
}

impl RelaySocket {
    pub(crate) fn new(
        socket: UdpSocket,
        forwarder: Arc<Mutex<Forwarder>>,
        tunnels: Arc<Tunnels>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let quic = UdpSocketState::new((&socket).into())?;
        let leg = Mutex::new(UdpSocketState::new((&socket).into())?);
        let io = tokio::net::UdpSocket::from_std(socket)?;
        Ok(Self { io, quic, leg, forwarder, tunnels, metrics, tunnels_first: AtomicBool::new(false) })
    }

    /// Handles the datagrams of a tunnel's message; those of QUIC wait until it asks for them.
    pub(crate) fn arrive(&self, tunnel: &Arc<Tunnel>, message: &[u8]) -> Result<(), Malformed> {
        let mut batch: Vec<u8> = Vec::with_capacity(message.len());
        let mut stride = 0;
        for datagram in split(message)? {
            // Datagrams of one length, of which the last may be shorter, are a batch as the kernel makes them.
            if !batch.is_empty() && (datagram.len() > stride || !batch.len().is_multiple_of(stride)) {
                self.arrive_batch(tunnel, &mut batch, stride);
            }
            if batch.is_empty() {
                stride = datagram.len();
            }
            batch.extend_from_slice(datagram);
        }
        self.arrive_batch(tunnel, &mut batch, stride);
        Ok(())
    }

    fn arrive_batch(&self, tunnel: &Arc<Tunnel>, batch: &mut Vec<u8>, stride: usize) {
        let mut meta = tunnel.source(batch.len(), stride);
        self.take_ours(batch, &mut meta);
        for packet in batch[..meta.len].chunks(stride.max(1)) {
            self.tunnels.arrive(tunnel, packet);
        }
        batch.clear();
    }

    /// Handles what the wire brought, and leaves only QUIC's packets in the buffer.
    fn take_received(&self, buffer: &mut [u8], meta: &mut RecvMeta) {
        if is_made_up(meta.addr) {
            tracing::debug!("a datagram claims to come from a tunnel");
            meta.len = 0;
            return;
        }
        self.take_ours(buffer, meta);
    }

    /// Handles our datagrams among what was received, and leaves only QUIC's in the buffer.
    fn take_ours(&self, buffer: &mut [u8], meta: &mut RecvMeta) {
        let stride = meta.stride.max(1);
        let received = &mut buffer[..meta.len];
        if received.chunks(stride).all(Header::is_quic) {
            return;
        }
        let now_ms = self.tunnels.now_ms();
        let mut kept = 0;
        let mut at = 0;
        while at < received.len() {
            let end = (at + stride).min(received.len());
            if Header::is_quic(&received[at..end]) {
                received.copy_within(at..end, kept);
                kept += end - at;
                at = end;
                continue;
            }
            at = match Header::parse(&received[at..end]) {
                Some(header) if header.kind == Kind::Data => {
                    let run = run_of(received, at, stride, header);
                    self.forward(&mut received[run.clone()], header, meta, now_ms);
                    run.end
                }
                Some(header) if header.kind == Kind::Bind => {
                    self.bind(&received[at..end], meta, now_ms);
                    end
                }
                Some(_) | None => end,
            };
        }
        meta.len = kept;
    }

    fn bind(&self, datagram: &[u8], meta: &RecvMeta, now_ms: u64) {
        let (answer, early) = {
            let mut forwarder = self.forwarder();
            let answer = forwarder.bind(datagram, meta.addr, meta.dst_ip, now_ms);
            let token = Header::parse(datagram).filter(|_| answer.is_some()).map(|header| header.token);
            (answer, token.map(|token| forwarder.take_early(token, now_ms)).unwrap_or_default())
        };
        self.metrics.bound(answer.is_some());
        if let Some(answer) = answer {
            if let Some(number) = number_of(meta.addr) {
                self.tunnels.note_bound(number);
            }
            let _lost_if_full = self.send(&self.leg(), meta.addr, meta.dst_ip, None, &answer, None);
        }
        for datagram in early {
            let by = if number_of(meta.addr).is_some() { Leg::Tcp } else { Leg::Udp };
            match self.send(&self.leg(), meta.addr, meta.dst_ip, None, &datagram, None) {
                Ok(()) => self.metrics.forwarded(by, 1, datagram.len()),
                Err(_) => self.metrics.dropped(Dropped::Full, 1),
            }
        }
    }

    /// Sends on datagrams, all of one length but the last, that bear the same session and destination.
    fn forward(&self, run: &mut [u8], header: Header, meta: &RecvMeta, now_ms: u64) {
        let verdict = self.forwarder().route(header, meta.addr, now_ms);
        let datagrams = run.len().div_ceil(meta.stride.max(1));
        match verdict {
            Verdict::Drop => self.metrics.dropped(Dropped::Refused, datagrams),
            Verdict::Offline(header) => {
                self.metrics.dropped(Dropped::Offline, datagrams);
                let _lost_if_full = self.send(&self.leg(), meta.addr, meta.dst_ip, None, &header.to_bytes(), None);
            }
            Verdict::Early(header) => {
                for datagram in run.chunks_mut(meta.stride.max(1)) {
                    rewrite(datagram, header, meta.ecn);
                    if !self.forwarder().hold(header.token, datagram) {
                        self.metrics.dropped(Dropped::Offline, 1);
                    }
                }
            }
            Verdict::Forward(header, bound) => {
                for datagram in run.chunks_mut(meta.stride.max(1)) {
                    rewrite(datagram, header, meta.ecn);
                }
                self.send_run(run, header, bound, meta);
            }
        }
    }

    fn send_run(&self, run: &[u8], header: Header, bound: Bound, meta: &RecvMeta) {
        let stride = meta.stride.max(1);
        let mut leg = self.leg();
        let many = !bound.one_by_one && stride <= LONGEST_SEGMENT && leg.max_gso_segments() > 1;
        let call = if many { stride * (LONGEST_CALL / stride).clamp(1, MOST_SEGMENTS) } else { stride };
        for part in run.chunks(call) {
            let segment = (part.len() > stride).then_some(stride);
            let sent = self.send(&leg, bound.address, bound.local, meta.ecn, part, segment);
            let datagrams = part.len().div_ceil(stride);
            if sent.is_ok() {
                let by = if number_of(bound.address).is_some() { Leg::Tcp } else { Leg::Udp };
                self.metrics.forwarded(by, datagrams, part.len());
            }
            if segment.is_none() || !was_refused(&sent) {
                if sent.is_err() {
                    self.metrics.dropped(Dropped::Full, datagrams);
                }
                continue;
            }
            // The path does not take long calls. The state has noted that for all paths; a fresh one has not.
            self.forwarder().one_by_one(header.token);
            if let Ok(fresh) = UdpSocketState::new((&self.io).into()) {
                *leg = fresh;
            }
            for datagram in part.chunks(stride) {
                match self.send(&leg, bound.address, bound.local, meta.ecn, datagram, None) {
                    Ok(()) => self.metrics.forwarded(Leg::Udp, 1, datagram.len()),
                    Err(_) => self.metrics.dropped(Dropped::Full, 1),
                }
            }
        }
    }

    fn send(
        &self,
        state: &UdpSocketState,
        destination: SocketAddr,
        src_ip: Option<IpAddr>,
        ecn: Option<EcnCodepoint>,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<()> {
        if let Some(number) = number_of(destination) {
            self.tunnels.send(number, contents, segment_size);
            return Ok(());
        }
        let transmit = Transmit { destination, ecn, contents, segment_size, src_ip };
        self.io.try_io(Interest::WRITABLE, || state.try_send((&self.io).into(), &transmit))
    }

    fn poll_wire(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = self.io.try_io(Interest::READABLE, || self.quic.recv((&self.io).into(), buffers, metas));
            let Ok(count) = received else { continue };
            for (buffer, meta) in buffers.iter_mut().zip(metas.iter_mut()).take(count) {
                self.take_received(buffer, meta);
            }
            return Poll::Ready(Ok(count));
        }
    }

    fn forwarder(&self) -> MutexGuard<'_, Forwarder> {
        self.forwarder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leg(&self) -> MutexGuard<'_, UdpSocketState> {
        self.leg.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a call failed for another reason than a full buffer.
fn was_refused(sent: &io::Result<()>) -> bool {
    sent.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
}

/// From `at` on, the datagrams that go the same way as the one there.
fn run_of(received: &[u8], at: usize, stride: usize, header: Header) -> Range<usize> {
    let goes_along = |datagram: &&[u8]| {
        Header::parse(datagram)
            .is_some_and(|other| (other.kind, other.slot, other.token) == (header.kind, header.slot, header.token))
    };
    let length: usize = received[at..].chunks(stride).take_while(goes_along).map(<[u8]>::len).sum();
    at..at + length
}

/// Puts the header towards the destination in place of the one from the source. A mark of congestion that the first
/// leg got is handed on to the inner packet.
fn rewrite(datagram: &mut [u8], header: Header, outer: Option<EcnCodepoint>) {
    let Some(place) = datagram.get_mut(..HEADER) else { return };
    let inner = place[1] & 3;
    let ecn = if inner != 0 && outer == Some(EcnCodepoint::Ce) { EcnCodepoint::Ce as u8 } else { inner };
    place.copy_from_slice(&Header { ecn, ..header }.to_bytes());
}

impl AsyncUdpSocket for RelaySocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self, waiting: None })
    }

    /// Sends QUIC's packets. Errors of one path stay with it: only a full buffer is told to quinn.
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if let Some(number) = number_of(transmit.destination) {
            self.tunnels.send(number, transmit.contents, transmit.segment_size);
            return Ok(());
        }
        let sent = self.io.try_io(Interest::WRITABLE, || self.quic.try_send((&self.io).into(), transmit));
        match sent {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                tracing::debug!(%error, "a packet could not be sent");
                Ok(())
            }
            sent => sent,
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if self.tunnels_first.fetch_not(Ordering::Relaxed) {
            let released = self.tunnels.release(cx, buffers, metas);
            if released > 0 {
                return Poll::Ready(Ok(released));
            }
        }
        if let Poll::Ready(received) = self.poll_wire(cx, buffers, metas) {
            return Poll::Ready(received);
        }
        match self.tunnels.release(cx, buffers, metas) {
            0 => Poll::Pending,
            released => Poll::Ready(Ok(released)),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.quic.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.quic.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.quic.may_fragment()
    }
}

impl fmt::Debug for RelaySocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelaySocket").finish_non_exhaustive()
    }
}

/// Waits for room in the socket's buffer; each of these has its own waker.
struct Writable {
    socket: Arc<RelaySocket>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let waiting = this.waiting.get_or_insert_with(|| {
            let socket = this.socket.clone();
            Box::pin(async move { socket.io.writable().await })
        });
        let result = ready!(waiting.as_mut().poll(cx));
        this.waiting = None;
        Poll::Ready(result)
    }
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Instant;

    use hearth_schemas::ids::{AccountId, Slot};
    use hearth_schemas::relay::bind_datagram;
    use hearth_schemas::tunnel::{address, put};

    use super::*;
    use crate::admission::Origin;

    const TOKEN: [u8; 8] = [1; 8];
    const KEY: [u8; 32] = [2; 32];

    #[tokio::test]
    async fn a_datagram_on_the_wire_cannot_claim_to_come_through_a_tunnel() {
        let (socket, tunnels) = socket();
        let opened = tunnels.open(Origin(1)).expect("room");
        let mut datagrams = [bind_datagram(TOKEN, &KEY, 1).to_vec(), vec![0xc3; 1200]];
        for datagram in &mut datagrams {
            let mut meta = opened.tunnel.source(datagram.len(), datagram.len());
            socket.take_received(datagram, &mut meta);
            assert_eq!((meta.len, opened.next_message()), (0, None));
        }
        let mut message = Vec::new();
        assert!(put(&mut message, &bind_datagram(TOKEN, &KEY, 1)));
        assert_eq!(socket.arrive(&opened.tunnel, &message), Ok(()));
        assert!(opened.next_message().is_some(), "what did come through the tunnel is answered into it");
    }

    #[tokio::test]
    async fn a_message_of_mixed_datagrams_is_handled_one_by_one() {
        let (socket, tunnels) = socket();
        let opened = tunnels.open(Origin(1)).expect("room");
        let quic = |len: usize| vec![0xc3; len];
        let bind = |counter| bind_datagram(TOKEN, &KEY, counter).to_vec();
        let mut message = Vec::new();
        for datagram in [quic(64), bind(1), quic(64), quic(30), bind(2), quic(1200), vec![0; 70], quic(64)] {
            assert!(put(&mut message, &datagram));
        }
        assert_eq!(socket.arrive(&opened.tunnel, &message), Ok(()));
        let answers = opened.next_message().expect("answers");
        assert_eq!(split(&answers).expect("well-formed").count(), 2);
        let mut space = vec![[0; 1500]; 16];
        let mut buffers: Vec<IoSliceMut<'_>> = space.iter_mut().map(|space| IoSliceMut::new(space)).collect();
        let mut metas = [RecvMeta::default(); 16];
        let received = std::future::poll_fn(|cx| socket.poll_recv(cx, &mut buffers, &mut metas)).await;
        let lengths: Vec<usize> = metas.iter().take(received.expect("received")).map(|meta| meta.len).collect();
        assert_eq!(lengths, [64, 64, 30, 1200, 64]);
        assert!(metas[..5].iter().all(|meta| meta.addr == address(1)));
        assert_eq!(socket.arrive(&opened.tunnel, b"nonsense"), Err(Malformed));
    }

    fn socket() -> (RelaySocket, Arc<Tunnels>) {
        let mut forwarder = Forwarder::default();
        forwarder.admit(TOKEN, KEY, AccountId([3; 32]), Slot(1), 0);
        let tunnels = Arc::new(Tunnels::new(9, Instant::now()));
        let socket = open((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
        let socket = RelaySocket::new(socket, Arc::new(Mutex::new(forwarder)), tunnels.clone(), Arc::default());
        (socket.expect("registered"), tunnels)
    }
}
