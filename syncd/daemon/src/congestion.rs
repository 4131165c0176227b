//! Congestion control of a connection whose way changes below QUIC.
//!
//! How much may be on its way is the core's to say ([`Congestion`]); here it is told what QUIC sees. What was learned of one way
//! says nothing of another. When a peer's packets take another, it begins afresh,
//! or goes on where it was when it used that way last, if that is not long ago. Packets that were sent the old way
//! and are found lost afterwards are no sign of congestion of the new one.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory};
use syncd_core::congestion::Congestion;

use crate::socket::Lane;

/// For how long what was learned of a way holds.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Makes controllers for connections with one peer.
pub(crate) struct PathControlConfig {
    /// Tells which way the peer's packets take.
    pub(crate) lane: Arc<Lane>,
}

impl ControllerFactory for PathControlConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let way = self.lane.way();
        Box::new(PathControl {
            lane: Arc::clone(&self.lane),
            changes: self.lane.changes(),
            way,
            started: now,
            current: Congestion::new(current_mtu),
            parked: None,
            switched: now,
            mtu: current_mtu,
        })
    }
}

/// What is known of each way; of one it is in use.
#[derive(Clone)]
struct PathControl {
    lane: Arc<Lane>,
    /// How often the way had changed when it was looked at last.
    changes: u64,
    /// The address in use.
    way: SocketAddr,
    /// Times are told from here on.
    started: Instant,
    current: Congestion,
    parked: Option<Parked>,
    switched: Instant,
    mtu: u16,
}

#[derive(Clone)]
struct Parked {
    way: SocketAddr,
    congestion: Congestion,
    since: Instant,
}

impl PathControl {
    /// Follows the packets to another way.
    fn follow(&mut self, now: Instant) {
        let changes = self.lane.changes();
        if changes == self.changes {
            return;
        }
        self.changes = changes;
        let way = self.lane.way();
        if way == self.way {
            return;
        }
        let known = self.parked.take_if(|parked| parked.way == way && now.duration_since(parked.since) < REMEMBERED);
        let mut next = known.map_or_else(|| Congestion::new(self.mtu), |parked| parked.congestion);
        next.set_mtu(self.mtu);
        let congestion = std::mem::replace(&mut self.current, next);
        self.parked = Some(Parked { way: self.way, congestion, since: now });
        self.way = way;
        self.switched = now;
    }

    fn us(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.started).as_micros()).unwrap_or(u64::MAX)
    }
}

impl Controller for PathControl {
    fn on_sent(&mut self, now: Instant, _bytes: u64, _last_packet_number: u64) {
        self.follow(now);
        self.current.sent(self.us(now));
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _app_limited: bool, _rtt: &RttEstimator) {
        self.follow(now);
        if sent >= self.switched {
            self.current.acked(self.us(sent), bytes);
        }
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _largest_acked: Option<u64>) {
        self.current.round_up(self.us(now), in_flight, app_limited);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        self.follow(now);
        if sent < self.switched {
            return;
        }
        let (now_us, sent_us) = (self.us(now), self.us(sent));
        if is_persistent_congestion {
            self.current.broken(now_us);
        } else if lost_bytes == 0 {
            self.current.marked(now_us, sent_us);
        } else {
            self.current.lost(now_us, sent_us, lost_bytes);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.current.set_mtu(new_mtu);
    }

    fn window(&self) -> u64 {
        self.current.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        Congestion::new(self.mtu).window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use syncd_core::paths::{PathKind, Route};

    use super::*;

    const MTU: u16 = 1200;

    #[test]
    fn another_way_begins_afresh_and_the_old_ones_losses_do_not_slow_it() {
        let lane = Arc::new(Lane::default());
        let start = Instant::now();
        let mut control = Arc::new(PathControlConfig { lane: Arc::clone(&lane) }).build(start, MTU);
        let first = control.window();
        let at = |ms| start + Duration::from_millis(ms);
        control.on_sent(start, 1200, 1);
        control.on_congestion_event(at(10), start, true, 1200);
        let slowed = control.window();
        assert!(slowed < first);

        lane.set(Route::Both(address(1), PathKind::DirectV4));
        control.on_sent(at(20), 1200, 2);
        assert_eq!(control.window(), first, "a new way");
        control.on_congestion_event(at(30), at(5), true, 1200);
        assert_eq!(control.window(), first, "a loss on the old way");
        lane.set(Route::Direct(address(1), PathKind::DirectV4));
        control.on_sent(at(40), 1200, 3);
        control.on_congestion_event(at(50), at(40), true, 1200);
        let direct = control.window();
        assert!(direct < first, "a loss on this way, no longer on trial");

        lane.set(Route::Relay);
        control.on_sent(at(60), 1200, 4);
        assert_eq!(control.window(), slowed, "the way before is remembered");
        lane.set(Route::Direct(address(2), PathKind::DirectV4));
        control.on_sent(at(70), 1200, 5);
        assert_eq!(control.window(), first, "a third way");
        lane.set(Route::Relay);
        control.on_sent(at(70_000), 1200, 6);
        assert_eq!(control.window(), first, "too long ago");
    }

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 1))
    }
}
