//! The way that one peer's packets take, shared by who decides it, who sends and who controls congestion.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use syncd_core::paths::Route;

/// The way to one peer.
#[derive(Debug)]
pub struct Lane {
    route: RwLock<Route>,
    changes: AtomicU64,
    /// When it was last told that data is sent, in the socket's milliseconds.
    told_ms: AtomicU64,
}

impl Default for Lane {
    fn default() -> Self {
        Self { route: RwLock::new(Route::Relay), changes: AtomicU64::new(0), told_ms: AtomicU64::new(0) }
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

    /// The address that packets go to; `None` for the relay.
    pub fn way(&self) -> Option<SocketAddr> {
        self.route().direct().map(|(to, _)| to)
    }

    /// Counts how often [`Self::set`] was called.
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
