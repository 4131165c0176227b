//! The one UDP socket: QUIC packets go up to quinn, our datagrams are answered or forwarded on the spot.
//!
//! A receive call gives up to 32 buffers, each of one or (GRO) many datagrams from one source. Datagrams in a row that
//! go the same way get their headers rewritten in place and leave in one call (GSO). Nothing is queued: when the
//! socket's buffer is full a datagram is lost, and the QUIC inside recovers. Where to is decided by [`Forwarder`].

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use hearth_schemas::relay::{HEADER, Header, Kind};
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::io::Interest;

use crate::forward::{Bound, Forwarder, Verdict};

/// Wished size of the kernel's buffers, in bytes; the system may give less.
const BUFFER: usize = 8 << 20;
/// Longest segment that is sent many in one call: what fits every Ethernet path, so that the call is not refused.
const LONGEST_SEGMENT: usize = 1440;
/// Most bytes of one call.
const LONGEST_CALL: usize = 65_000;
/// Most segments of one call.
const MOST_SEGMENTS: usize = 64;

/// The relay's socket.
pub(crate) struct RelaySocket {
    io: tokio::net::UdpSocket,
    /// Of quinn's own packets.
    quic: UdpSocketState,
    /// Of forwarded ones; apart, because one path that refuses a long call turns such calls off in the whole state.
    leg: Mutex<UdpSocketState>,
    forwarder: Arc<Mutex<Forwarder>>,
    started: Instant,
}

/// Opens the socket. An IPv6 wildcard takes IPv4 as well.
pub(crate) fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
    }
    if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, BUFFER)?;
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, BUFFER).is_err() {
        sockopt::set_socket_send_buffer_size(&socket, BUFFER)?;
    }
    rustix::net::bind(&socket, &address)?;
    Ok(UdpSocket::from(socket))
}

impl RelaySocket {
    pub(crate) fn new(socket: UdpSocket, forwarder: Arc<Mutex<Forwarder>>, started: Instant) -> io::Result<Self> {
        let quic = UdpSocketState::new((&socket).into())?;
        let leg = Mutex::new(UdpSocketState::new((&socket).into())?);
        Ok(Self { io: tokio::net::UdpSocket::from_std(socket)?, quic, leg, forwarder, started })
    }

    /// Handles our datagrams among what was received, and leaves only QUIC's in the buffer.
    fn take_ours(&self, buffer: &mut [u8], meta: &mut RecvMeta) {
        let stride = meta.stride.max(1);
        let received = &mut buffer[..meta.len];
        if received.chunks(stride).all(Header::is_quic) {
            return;
        }
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
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
        let answer = self.forwarder().bind(datagram, meta.addr, meta.dst_ip, now_ms);
        if let Some(answer) = answer {
            let _lost_if_full = self.send(&self.leg(), meta.addr, meta.dst_ip, None, &answer, None);
        }
    }

    /// Sends on datagrams, all of one length but the last, that bear the same session and destination.
    fn forward(&self, run: &mut [u8], header: Header, meta: &RecvMeta, now_ms: u64) {
        let verdict = self.forwarder().route(header, meta.addr, now_ms);
        match verdict {
            Verdict::Drop => {}
            Verdict::Offline(header) => {
                let _lost_if_full = self.send(&self.leg(), meta.addr, meta.dst_ip, None, &header.to_bytes(), None);
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
            if segment.is_none() || !was_refused(&sent) {
                continue;
            }
            // The path does not take long calls. The state has noted that for all paths; a fresh one has not.
            self.forwarder().one_by_one(header.token);
            if let Ok(fresh) = UdpSocketState::new((&self.io).into()) {
                *leg = fresh;
            }
            for datagram in part.chunks(stride) {
                let _lost_if_full = self.send(&leg, bound.address, bound.local, meta.ecn, datagram, None);
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
        let transmit = Transmit { destination, ecn, contents, segment_size, src_ip };
        self.io.try_io(Interest::WRITABLE, || state.try_send((&self.io).into(), &transmit))
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
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = self.io.try_io(Interest::READABLE, || self.quic.recv((&self.io).into(), buffers, metas));
            let Ok(count) = received else { continue };
            for (buffer, meta) in buffers.iter_mut().zip(metas.iter_mut()).take(count) {
                self.take_ours(buffer, meta);
            }
            return Poll::Ready(Ok(count));
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
