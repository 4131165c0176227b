//! The way that one peer's packets take, shared by who decides it, who sends and who controls congestion.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use syncd_core::paths::Route;

use super::RELAYS;
use crate::carrier::relay_address;

/// The way to one peer.
#[derive(Debug)]
pub struct Lane {
    route: RwLock<Route>,
    changes: AtomicU64,
    /// When it was last told that data is sent, in the socket's milliseconds.
    told_ms: AtomicU64,
    /// The relay that packets went by last.
    relay: AtomicUsize,
    /// Whether each relay says that the peer is there.
    there: [AtomicBool; RELAYS],
    /// When a packet of the peer's came by each relay last, in the socket's milliseconds; 0 for never.
    heard_ms: [AtomicU64; RELAYS],
    /// Where a packet of the peer's that came by no relay came from last.
    spoke_from: RwLock<Option<SocketAddr>>,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            route: RwLock::new(Route::Relay),
            changes: AtomicU64::new(0),
            told_ms: AtomicU64::new(0),
            relay: AtomicUsize::new(0),
            there: Default::default(),
            heard_ms: Default::default(),
            spoke_from: RwLock::default(),
        }
    }
}

impl Lane {
    /// Where packets go now.
    pub fn route(&self) -> Route {
        *self.route.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends packets another way from now on.
    pub fn set(&self, route: Route) {
        *self.route.write().unwrap_or_else(PoisonError::into_inner) = route;
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// The address that packets go to: the peer's, or the one that stands for a relay.
    pub fn way(&self) -> SocketAddr {
        self.route().direct().map_or_else(|| relay_address(self.relay.load(Ordering::Relaxed)), |(to, _)| to)
    }

    /// Notes by which relay packets go; true if it is another than before.
    pub(super) fn go_by(&self, relay: usize) -> bool {
        // Most packets go by the same as the one before: looking is cheaper than writing.
        if self.relay.load(Ordering::Relaxed) == relay {
            return false;
        }
        self.relay.store(relay, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Release);
        true
    }

    /// Notes whether a relay says that the peer is there.
    pub(super) fn see(&self, relay: usize, there: bool) {
        self.there[relay].store(there, Ordering::Relaxed);
    }

    /// Whether a relay says that the peer is there.
    pub(super) fn is_there(&self, relay: usize) -> bool {
        self.there[relay].load(Ordering::Relaxed)
    }

    /// Notes that a packet of the peer's came by a relay.
    pub(super) fn note_heard(&self, relay: usize, now_ms: u64) {
        self.heard_ms[relay].store(now_ms.max(1), Ordering::Relaxed);
    }

    /// When a packet of the peer's came by a relay last.
    pub(super) fn heard_ms(&self, relay: usize) -> Option<u64> {
        Some(self.heard_ms[relay].load(Ordering::Relaxed)).filter(|heard_ms| *heard_ms != 0)
    }

    /// Notes that a packet of the peer's came straight from this address.
    pub(super) fn speaks_from(&self, source: SocketAddr) {
        // Most come from where the one before came from.
        if self.spoke_from() != Some(source) {
            *self.spoke_from.write().unwrap_or_else(PoisonError::into_inner) = Some(source);
        }
    }

    /// Where a packet of the peer's that came by no relay came from last.
    pub(super) fn spoke_from(&self) -> Option<SocketAddr> {
        *self.spoke_from.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts how often the way has changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Notes that data is sent; true if that is to be told, which is at most once in so many milliseconds.
    pub(super) fn is_news(&self, now_ms: u64, every_ms: u64) -> bool {
        let told_ms = self.told_ms.load(Ordering::Relaxed);
        if told_ms != 0 && now_ms.saturating_sub(told_ms) < every_ms {
            return false;
        }
        self.told_ms.compare_exchange(told_ms, now_ms.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
