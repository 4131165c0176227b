//! At which rate data comes out at the other end.
//!
//! For each burst it is kept how much had arrived when it was sent. When it is answered, what has arrived since, over the time that
//! passed, is a rate; what was sent in less time than it took to arrive arrived no faster for it (draft-cheng-iccrg-delivery-rate-estimation).

use std::collections::VecDeque;

/// Bursts that are kept.
const MAX_BURSTS: usize = 2048;

/// For how long beyond a few round trips they are kept, in microseconds.
const LATE_US: u64 = 1_000_000;

/// A burst of packets, all sent at one time.
#[derive(Clone, Copy, Debug)]
struct Burst {
    sent_us: u64,
    /// What had arrived by then, and when that was known.
    arrived: u64,
    arrived_us: u64,
    /// When the burst was sent that the newest answer by then was for.
    first_us: u64,
    /// Whether there was too little to send to say anything about the line.
    idle: bool,
}

/// What an answer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct News {
    /// What it was the answer to, in bytes.
    pub(super) acked: u64,
    /// Bytes a second, or 0 where it cannot be told.
    pub(super) rate: u64,
    /// Whether there was too little to send for the rate to be the line's.
    pub(super) idle: bool,
    /// Since the newest of what it answers was sent.
    pub(super) rtt_us: u64,
    /// Whether all is answered that was on its way when the last round ended.
    pub(super) round: bool,
}

/// Measures the rate.
#[derive(Clone, Default, Debug)]
pub(super) struct Rate {
    arrived: u64,
    arrived_us: u64,
    first_us: u64,
    /// What was sent up to when so much had arrived was all there was.
    idle_until: Option<u64>,
    round_ends: u64,
    /// Oldest first.
    bursts: VecDeque<Burst>,
    newest: Option<Burst>,
    acked: u64,
    quiet: bool,
}

impl Rate {
    pub(super) fn sent(&mut self, now_us: u64) {
        if self.bursts.back().is_some_and(|last| last.sent_us >= now_us) {
            return;
        }
        if self.quiet || self.bursts.is_empty() {
            (self.first_us, self.arrived_us, self.quiet) = (now_us, now_us, false);
        }
        if self.bursts.len() == MAX_BURSTS {
            self.bursts.pop_front();
        }
        let Self { arrived, arrived_us, first_us, idle_until, .. } = *self;
        self.bursts.push_back(Burst {
            sent_us: now_us,
            arrived,
            arrived_us,
            first_us,
            idle: idle_until.is_some_and(|until| arrived <= until),
        });
    }

    pub(super) fn acked(&mut self, sent_us: u64, bytes: u64) {
        self.arrived += bytes;
        self.acked += bytes;
        let Ok(found) = self.bursts.binary_search_by_key(&sent_us, |burst| burst.sent_us) else { return };
        let burst = self.bursts[found];
        if self.newest.is_none_or(|newest| newest.sent_us < burst.sent_us) {
            self.newest = Some(burst);
        }
    }

    /// What all the packets say that have arrived; `None` if nothing is known of when they were sent.
    pub(super) fn round_up(&mut self, now_us: u64, in_flight: u64, idle: bool) -> Option<News> {
        self.arrived_us = now_us;
        let acked = std::mem::take(&mut self.acked);
        self.quiet = in_flight == 0;
        if idle {
            self.idle_until = Some(self.arrived + in_flight);
        }
        let newest = self.newest.take()?;
        self.first_us = newest.sent_us;
        // What is answered far later says nothing.
        let rtt_us = now_us.saturating_sub(newest.sent_us);
        while self.bursts.front().is_some_and(|first| first.sent_us + LATE_US + 4 * rtt_us < now_us) {
            self.bursts.pop_front();
        }
        let answered_us = now_us.saturating_sub(newest.arrived_us);
        let took_us = answered_us.max(newest.sent_us.saturating_sub(newest.first_us));
        let arrived = self.arrived - newest.arrived;
        let rate = u128::from(arrived) * 1_000_000 / u128::from(took_us.max(1));
        let round = newest.arrived >= self.round_ends;
        if round {
            self.round_ends = self.arrived;
        }
        Some(News {
            acked,
            rate: if took_us == 0 { 0 } else { u64::try_from(rate).unwrap_or(u64::MAX) },
            idle: newest.idle,
            rtt_us,
            round,
        })
    }
}
