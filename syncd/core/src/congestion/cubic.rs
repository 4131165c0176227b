//! The window that most of the Internet would use (RFC 9438), to hold one's ground against it.

/// What is left of the window after a loss, in parts of one.
const BETA: f64 = 0.7;
/// How fast it grows back, in packets over seconds cubed.
const GROWTH: f64 = 0.4;

/// The window.
#[derive(Clone, Debug)]
pub(super) struct Cubic {
    window: f64,
    /// The window before the last loss.
    before: f64,
    since_us: Option<u64>,
    lost_us: Option<u64>,
}

impl Cubic {
    pub(super) fn new(window: u64) -> Self {
        Self { window: window as f64, before: window as f64, since_us: None, lost_us: None }
    }

    pub(super) fn window(&self) -> u64 {
        self.window as u64
    }

    pub(super) fn acked(&mut self, now_us: u64, bytes: u64, mtu: u64) {
        let since_us = *self.since_us.get_or_insert(now_us);
        let (packet, seconds) = (mtu as f64, now_us.saturating_sub(since_us) as f64 / 1e6);
        let plateau = (self.before.max(self.window) * (1.0 - BETA) / packet / GROWTH).cbrt();
        let target = if self.lost_us.is_some() {
            GROWTH * (seconds - plateau).powi(3) * packet + self.before
        } else {
            // Nothing was lost yet: from where it began.
            GROWTH * seconds.powi(3) * packet + self.before
        };
        // As Reno would, at the least: a bit more than half a packet a round trip.
        let linear = 0.53 * packet * bytes as f64 / self.window;
        let cubic = (target - self.window) * bytes as f64 / self.window;
        self.window += cubic.min(bytes as f64 / 2.0).max(linear);
    }

    pub(super) fn lost(&mut self, now_us: u64, sent_us: u64, least: u64) {
        // What was sent before the last loss was known is lost by the same fullness.
        if self.lost_us.is_some_and(|lost_us| sent_us <= lost_us) {
            return;
        }
        self.before = self.window;
        self.window = (self.window * BETA).max(least as f64);
        (self.since_us, self.lost_us) = (Some(now_us), Some(now_us));
    }
}
