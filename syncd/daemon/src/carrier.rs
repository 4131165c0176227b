//! What carries datagrams between this device and a relay: UDP, or a tunnel where UDP does not get out.
//!
//! To QUIC a relay has one made-up address ([`relay_address`]), so that its connections, the login as well as the peers',
//! outlive a change of what carries them: the relay sees their packets come from another address, and follows. The
//! choice is [`crate::relay`]'s; [`crate::socket`] asks here where to send.
//!
//! Whether UDP gets out again is found out without touching the session: a packet of a QUIC version that nobody speaks
//! is answered by every relay, with the versions that it does speak (RFC 9000 section 6), and changes nothing there.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::socket::RELAYS;
use crate::tunnel::Queue;

/// How long a tunnel that was left goes on bringing what is under way in it.
const LEAVING: Duration = Duration::from_secs(2);
/// Length of the packet that asks: the shortest that is answered (RFC 9000 section 6.1).
const PROBE: usize = 1200;
/// A version that is reserved for making sure that unknown ones are answered (RFC 9000 section 15).
const NO_VERSION: [u8; 4] = [0x1a, 0x2a, 0x3a, 0x4a];

/// The address that stands for a relay in QUIC's eyes.
pub(crate) fn relay_address(number: usize) -> SocketAddr {
    let number = u16::try_from(number).unwrap_or(u16::MAX);
    SocketAddr::new(Ipv6Addr::new(0xfd15, 0x7002, 0, 0, 0, 0, 0, number).into(), 1)
}

/// The relay that an address stands for, if it is such an address.
pub(crate) fn number_of(address: SocketAddr) -> Option<usize> {
    let IpAddr::V6(ip) = address.ip() else { return None };
    match (ip.segments(), address.port()) {
        ([0xfd15, 0x7002, 0, 0, 0, 0, 0, number], 1) => Some(usize::from(number)).filter(|number| *number < RELAYS),
        _ => None,
    }
}

/// A tunnel in use, or one that was until just now.
#[derive(Debug)]
struct Attached {
    queue: Arc<Queue>,
    proxy: Option<String>,
    task: AbortHandle,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What carries datagrams to the relay.
#[derive(Debug, Default)]
pub(crate) struct Carrier {
    tunnel: RwLock<Option<Arc<Attached>>>,
    by_tunnel: AtomicBool,
    /// How often it has changed.
    changes: AtomicU64,
    /// Whether the relay has been heard over UDP since it was chosen.
    udp_heard: AtomicBool,
    /// The two connection ids of the packet that asks whether UDP gets out.
    asked: Mutex<Option<[u8; 16]>>,
    answered: Notify,
    /// Woken when a tunnel has brought something.
    pub(crate) arrivals: AtomicWaker,
}

impl Carrier {
    /// Forgets what is known of the relay before, with any tunnel to it.
    pub(crate) fn start_over(&self) {
        self.set(None);
        self.udp_heard.store(false, Ordering::Relaxed);
    }

    /// Goes over to a tunnel, which ends with its task.
    pub(crate) fn attach(&self, queue: Arc<Queue>, proxy: Option<String>, task: AbortHandle) {
        self.leave(Some(Arc::new(Attached { queue, proxy, task })));
    }

    /// Goes over to UDP.
    pub(crate) fn use_udp(&self) {
        self.leave(None);
    }

    /// Goes over to UDP if this tunnel was in use; true if it was.
    pub(crate) fn tunnel_ended(&self, queue: &Arc<Queue>) -> bool {
        let ended = self.tunnel().is_some_and(|attached| Arc::ptr_eq(&attached.queue, queue));
        if ended {
            self.set(None);
        }
        ended
    }

    /// Whether a tunnel is in use.
    pub(crate) fn by_tunnel(&self) -> bool {
        self.by_tunnel.load(Ordering::Relaxed)
    }

    /// The proxy that the tunnel in use goes through; `None` within if it goes through none.
    pub(crate) fn proxy(&self) -> Option<Option<String>> {
        self.tunnel().map(|attached| attached.proxy.clone())
    }

    /// Puts datagrams, all of one length but the last, into the tunnel; false if none is in use.
    pub(crate) fn send(&self, contents: &[u8], segment: Option<usize>) -> bool {
        if !self.by_tunnel() {
            return false;
        }
        let Some(attached) = self.tunnel() else { return false };
        attached.queue.send(contents, segment);
        true
    }

    /// How often what carries datagrams has changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Notes that the relay was heard over UDP.
    pub(crate) fn note_udp(&self) {
        self.udp_heard.store(true, Ordering::Relaxed);
    }

    /// Whether the relay has been heard over UDP since it was chosen.
    pub(crate) fn udp_heard(&self) -> bool {
        self.udp_heard.load(Ordering::Relaxed)
    }

    /// Makes a packet that asks whether UDP gets out. An answer to an earlier one does not count from here on.
    pub(crate) fn probe(&self) -> Option<Vec<u8>> {
        let mut ids = [0; 16];
        getrandom::fill(&mut ids).ok()?;
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        *asked = Some(ids);
        let _of_an_earlier_one = self.answered.notified().now_or_never();
        let mut packet = vec![0; PROBE];
        packet[0] = 0xc0;
        packet[1..5].copy_from_slice(&NO_VERSION);
        packet[5] = 8;
        packet[6..14].copy_from_slice(&ids[..8]);
        packet[14] = 8;
        packet[15..23].copy_from_slice(&ids[8..]);
        Some(packet)
    }

    /// Whether a datagram is the answer to the packet that asks; QUIC is not to see it then.
    pub(crate) fn is_answer(&self, datagram: &[u8]) -> bool {
        // A long header with version 0, and the ids the other way round.
        if datagram.first().is_none_or(|byte| byte & 0x80 == 0) || datagram.get(1..5) != Some(&[0; 4]) {
            return false;
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ids) = *asked else { return false };
        let wanted = [[8].as_slice(), &ids[8..], &[8], &ids[..8]].concat();
        if datagram.get(5..23) != Some(wanted.as_slice()) {
            return false;
        }
        *asked = None;
        self.answered.notify_one();
        true
    }

    /// Waits for the answer.
    pub(crate) async fn answered(&self) {
        self.answered.notified().await;
    }

    /// Changes to another tunnel or none; the one that was in use brings for a while what is under way in it.
    fn leave(&self, to: Option<Arc<Attached>>) {
        if let Some(left) = self.set(to) {
            tokio::spawn(async move {
                sleep(LEAVING).await;
                drop(left);
            });
        }
    }

    fn set(&self, tunnel: Option<Arc<Attached>>) -> Option<Arc<Attached>> {
        let mut place = self.tunnel.write().unwrap_or_else(PoisonError::into_inner);
        self.by_tunnel.store(tunnel.is_some(), Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
        std::mem::replace(&mut place, tunnel)
    }

    fn tunnel(&self) -> Option<Arc<Attached>> {
        self.tunnel.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relays_address_is_of_no_tunnel_and_of_no_peer() {
        for number in 0..RELAYS {
            let address = relay_address(number);
            assert_eq!(hearth_schemas::tunnel::number_of(address), None);
            assert_eq!(crate::socket::slot_of(address), None);
            assert_eq!(number_of(address), Some(number));
        }
        assert_eq!(number_of(relay_address(RELAYS)), None);
        assert_eq!(number_of(crate::socket::peer_address(hearth_schemas::ids::Slot(0))), None);
    }

    #[test]
    fn the_answer_to_a_probe_is_known_by_its_ids_and_counts_once() {
        let carrier = Carrier::default();
        let earlier = answer(&carrier.probe().expect("random numbers"));
        let probe = carrier.probe().expect("random numbers");
        assert!(probe.len() >= 1200 && probe[0] & 0x40 != 0);
        let good = answer(&probe);
        for at in [0, 1, 5, 6, 14, 22] {
            let mut changed = good.clone();
            changed[at] ^= 0x80;
            assert!(!carrier.is_answer(&changed), "byte {at}");
        }
        assert!(!carrier.is_answer(&earlier) && !carrier.is_answer(&good[..22]) && !carrier.is_answer(&[]));
        assert!(carrier.is_answer(&good));
        assert!(!carrier.is_answer(&good), "a second time");
    }

    #[tokio::test]
    async fn datagrams_go_into_the_tunnel_while_one_is_in_use() {
        let carrier = Carrier::default();
        assert!(!carrier.send(b"datagram", None) && carrier.proxy().is_none());
        let queue = Arc::new(Queue::new());
        let task = tokio::spawn(std::future::pending::<()>());
        carrier.attach(queue.clone(), Some("proxy:1".to_owned()), task.abort_handle());
        assert!(carrier.send(b"datagram", None));
        assert_eq!((carrier.proxy(), carrier.changes()), (Some(Some("proxy:1".to_owned())), 1));
        assert!(!carrier.tunnel_ended(&Arc::new(Queue::new())), "another tunnel");
        assert!(carrier.by_tunnel() && carrier.tunnel_ended(&queue) && !carrier.by_tunnel());
        assert!(task.await.expect_err("ended").is_cancelled());
    }

    /// What a relay answers to a probe (RFC 9000 section 17.2.1).
    fn answer(probe: &[u8]) -> Vec<u8> {
        [&[0xda, 0, 0, 0, 0, 8], &probe[15..23], &[8], &probe[6..14], &[0, 0, 0, 1]].concat()
    }
}
