//! The tunnels that are open: whose datagrams wait to go into them, and which packets came out of them for QUIC.
//!
//! A tunnel is a made-up source address ([`hearth_schemas::tunnel::address`]) with a queue behind it. `socket` hands over
//! what is sent to such an address and takes what came for QUIC; `web` moves messages between the queue and TCP. A
//! tunnel that is of no use to a device for as long as a stranger may stay is closed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Instant;

use hearth_schemas::tunnel::{Waiting, address, number_of};
use quinn::udp::RecvMeta;
use tokio::sync::Notify;

use crate::admission::Origin;

/// Most bytes that wait for all tunnels together.
const MOST_WAITING: usize = 256 << 20;
/// Most packets of one tunnel that QUIC has not taken yet.
const MOST_ARRIVED: usize = 64;

/// All tunnels.
pub(crate) struct Tunnels {
    most: usize,
    started: Instant,
    open: Mutex<Open>,
    /// Bytes in all queues.
    waiting: AtomicUsize,
    arrived: Mutex<Arrived>,
}

#[derive(Default)]
struct Open {
    last: u64,
    tunnels: BTreeMap<u64, Arc<Tunnel>>,
}

/// Packets for QUIC, and who waits for them.
#[derive(Default)]
struct Arrived {
    packets: VecDeque<(Arc<Tunnel>, Box<[u8]>)>,
    waker: Option<Waker>,
}

/// One tunnel.
pub(crate) struct Tunnel {
    number: u64,
    /// Where its TCP connection comes from.
    origin: Origin,
    /// `None` once it is closed.
    queue: Mutex<Option<Waiting>>,
    /// Told when something waits.
    pub(crate) ready: Notify,
    /// QUIC connections that came through it and are open.
    users: AtomicUsize,
    /// When a session was last bound to it; before, when it was opened.
    useful_ms: AtomicU64,
    /// How many of its packets QUIC has not taken yet.
    arrived: AtomicUsize,
}

impl Tunnels {
    /// None are open; at most so many will be.
    pub(crate) fn new(most: usize, started: Instant) -> Self {
        Self { most, started, open: Mutex::default(), waiting: AtomicUsize::new(0), arrived: Mutex::default() }
    }

    /// Opens a tunnel under a number that no other had; `None` if there are too many.
    pub(crate) fn open(self: &Arc<Self>, origin: Origin) -> Option<Opened> {
        let mut open = self.lock_open();
        if open.tunnels.len() >= self.most {
            return None;
        }
        open.last += 1;
        let tunnel = Arc::new(Tunnel {
            number: open.last,
            origin,
            queue: Mutex::new(Some(Waiting::default())),
            ready: Notify::new(),
            users: AtomicUsize::new(0),
            useful_ms: AtomicU64::new(self.now_ms()),
            arrived: AtomicUsize::new(0),
        });
        open.tunnels.insert(tunnel.number, tunnel.clone());
        Some(Opened { tunnels: self.clone(), tunnel })
    }

    /// How many are open, and how many bytes wait for all of them.
    pub(crate) fn standing(&self) -> (u64, u64) {
        (self.lock_open().tunnels.len() as u64, self.waiting.load(Ordering::Relaxed) as u64)
    }

    /// Whether one more can be opened.
    pub(crate) fn have_room(&self) -> bool {
        self.lock_open().tunnels.len() < self.most
    }

    /// The tunnel of a made-up address, if it is open.
    pub(crate) fn at(&self, number: u64) -> Option<Arc<Tunnel>> {
        self.lock_open().tunnels.get(&number).cloned()
    }

    /// Queues datagrams, all of one length but the last. To a tunnel that is closed they are lost, as on any network.
    pub(crate) fn send(&self, number: u64, contents: &[u8], segment: Option<usize>) {
        let Some(tunnel) = self.at(number) else { return };
        let now_ms = self.now_ms();
        {
            let mut queue = tunnel.queue();
            let Some(queue) = queue.as_mut() else { return };
            let before = queue.bytes();
            for datagram in contents.chunks(segment.unwrap_or(contents.len()).max(1)) {
                if self.waiting.load(Ordering::Relaxed) < MOST_WAITING {
                    queue.push(datagram, now_ms);
                }
            }
            self.count(before, queue.bytes());
        }
        tunnel.ready.notify_one();
    }

    /// Notes that a session was bound to an address, if that is a tunnel's.
    pub(crate) fn note_bound(&self, number: u64) {
        if let Some(tunnel) = self.at(number) {
            tunnel.useful_ms.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    /// Takes in a packet for QUIC. It is lost if QUIC has not taken many earlier ones.
    pub(crate) fn arrive(&self, tunnel: &Arc<Tunnel>, packet: &[u8]) {
        if tunnel.arrived.fetch_add(1, Ordering::Relaxed) >= MOST_ARRIVED {
            tunnel.arrived.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let waker = {
            let mut arrived = self.lock_arrived();
            arrived.packets.push_back((tunnel.clone(), packet.into()));
            arrived.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Gives QUIC what arrived, one packet a buffer, and says how many. Wakes the caller later if there was none.
    pub(crate) fn release(
        &self,
        cx: &Context<'_>,
        buffers: &mut [std::io::IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> usize {
        let mut arrived = self.lock_arrived();
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let Some((tunnel, packet)) = arrived.packets.pop_front() else { break };
            tunnel.arrived.fetch_sub(1, Ordering::Relaxed);
            let len = packet.len().min(buffer.len());
            buffer[..len].copy_from_slice(&packet[..len]);
            *meta = RecvMeta { addr: address(tunnel.number), len, stride: len, ecn: None, dst_ip: None };
            count += 1;
        }
        if count == 0 {
            arrived.waker = Some(cx.waker().clone());
        }
        count
    }

    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Counts what a queue held before and holds now.
    fn count(&self, before: usize, after: usize) {
        if after >= before {
            self.waiting.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.waiting.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    fn lock_open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_arrived(&self) -> MutexGuard<'_, Arrived> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tunnel {
    /// What stands for it as the source of a datagram.
    pub(crate) fn source(&self, len: usize, stride: usize) -> RecvMeta {
        RecvMeta { addr: address(self.number), len, stride, ecn: None, dst_ip: None }
    }

    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    fn queue(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tunnel as long as its TCP connection lasts.
pub(crate) struct Opened {
    tunnels: Arc<Tunnels>,
    pub(crate) tunnel: Arc<Tunnel>,
}

impl Opened {
    /// The next message to send; `None` if nothing waits.
    pub(crate) fn next_message(&self) -> Option<Vec<u8>> {
        let mut queue = self.tunnel.queue();
        let queue = queue.as_mut()?;
        let before = queue.bytes();
        let message = queue.next_message(self.tunnels.now_ms());
        self.tunnels.count(before, queue.bytes());
        message
    }

    /// Whether nobody has had any use of it for so long.
    pub(crate) fn is_idle(&self, limit_ms: u64) -> bool {
        let idle_ms = self.tunnels.now_ms().saturating_sub(self.tunnel.useful_ms.load(Ordering::Relaxed));
        self.tunnel.users.load(Ordering::Relaxed) == 0 && idle_ms >= limit_ms
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.tunnels.lock_open().tunnels.remove(&self.tunnel.number);
        let waited = self.tunnel.queue().take().map_or(0, |queue| queue.bytes());
        self.tunnels.count(waited, 0);
    }
}

/// A QUIC connection that came through a tunnel, as long as it is open.
pub(crate) struct User(Arc<Tunnel>);

impl User {
    pub(crate) fn new(tunnel: Arc<Tunnel>) -> Self {
        tunnel.users.fetch_add(1, Ordering::Relaxed);
        Self(tunnel)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a source address is one that no datagram on the wire can have.
pub(crate) fn is_made_up(source: std::net::SocketAddr) -> bool {
    number_of(source).is_some()
}

#[cfg(test)]
mod tests {
    use std::io::IoSliceMut;
    use std::task::Wake;

    use super::*;

    #[test]
    fn packets_of_a_tunnel_reach_quic_under_its_address_and_are_bounded() {
        let tunnels = Arc::new(Tunnels::new(2, Instant::now()));
        let (one, two) = (tunnels.open(Origin(1)).expect("room"), tunnels.open(Origin(2)).expect("room"));
        assert!(tunnels.open(Origin(3)).is_none() && !tunnels.have_room());
        for _ in 0..1000 {
            tunnels.arrive(&one.tunnel, &[0xc0; 9]);
        }
        tunnels.arrive(&two.tunnel, &[0xc1; 7]);
        let mut given = Vec::new();
        loop {
            let taken = release(&tunnels);
            if taken.is_empty() {
                break;
            }
            given.extend(taken);
        }
        assert_eq!(given.len(), MOST_ARRIVED + 1);
        assert_eq!(given[0], (address(1), vec![0xc0; 9]));
        assert_eq!(given[MOST_ARRIVED], (address(2), vec![0xc1; 7]));
    }

    #[test]
    fn a_closed_tunnel_leaves_nothing_behind() {
        let tunnels = Arc::new(Tunnels::new(9, Instant::now()));
        let opened = tunnels.open(Origin(1)).expect("room");
        tunnels.send(1, &[1; 3000], Some(1000));
        assert_eq!(tunnels.waiting.load(Ordering::Relaxed), 3000);
        drop(opened);
        tunnels.send(1, &[1; 3000], Some(1000));
        assert_eq!(tunnels.waiting.load(Ordering::Relaxed), 0);
        assert!(tunnels.at(1).is_none());
        let next = tunnels.open(Origin(1)).expect("room");
        assert_eq!(next.tunnel.number, 2, "a number is never used again");
    }

    #[test]
    fn what_is_sent_to_a_tunnel_comes_out_of_it() {
        let tunnels = Arc::new(Tunnels::new(9, Instant::now()));
        let opened = tunnels.open(Origin(1)).expect("room");
        tunnels.send(1, &[1, 1, 1, 2, 2], Some(3));
        let message = opened.next_message().expect("something waits");
        let datagrams: Vec<&[u8]> = hearth_schemas::tunnel::split(&message).expect("well-formed").collect();
        assert_eq!(datagrams, [[1; 3].as_slice(), &[2; 2]]);
        assert_eq!((opened.next_message(), tunnels.waiting.load(Ordering::Relaxed)), (None, 0));
    }

    #[test]
    fn a_tunnel_is_idle_until_somebody_uses_it() {
        let tunnels = Arc::new(Tunnels::new(9, Instant::now()));
        let opened = tunnels.open(Origin(1)).expect("room");
        assert!(opened.is_idle(0) && !opened.is_idle(60_000));
        let user = User::new(opened.tunnel.clone());
        assert!(!opened.is_idle(0));
        drop(user);
        assert!(opened.is_idle(0));
    }

    fn release(tunnels: &Tunnels) -> Vec<(std::net::SocketAddr, Vec<u8>)> {
        struct Nobody;
        impl Wake for Nobody {
            fn wake(self: Arc<Self>) {}
        }
        let waker = Waker::from(Arc::new(Nobody));
        let mut space = [[0; 64]; 32];
        let mut buffers: Vec<IoSliceMut<'_>> = space.iter_mut().map(|space| IoSliceMut::new(space)).collect();
        let mut metas = [RecvMeta::default(); 32];
        let count = tunnels.release(&Context::from_waker(&waker), &mut buffers, &mut metas);
        let given = buffers.iter().zip(&metas).take(count);
        given.map(|(buffer, meta)| (meta.addr, buffer[..meta.len].to_vec())).collect()
    }
}
