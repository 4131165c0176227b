//! How much may be on its way to a peer at a time, on one way.
//!
//! A model of the way decides, not each lost packet: radio lines lose packets without being full. The model is the rate
//! at which data comes out ([`rate`]) and the round trip of an empty line; what fills the line, and no queue, is their product. For a
//! round now and then more is sent, to see whether more comes out. Losses count when they are many in one round. A round trip that
//! stays long has one of three reasons: the line has become slower, or longer, or others fill its queue. To find out which, less is sent
//! for a moment. Against others who fill the queue, this takes part by their rules, as long as they do ([`cubic`]).
//!
//! Pure: times are microseconds since any moment, rates bytes a second. The sender spreads a window over somewhat less
//! than a round trip (RFC 9002 section 7.7), so that the window is all there is to decide. After BBR (draft-ietf-ccwg-bbr),
//! with the loss threshold of its third version and Copa's way of seeing whose the queue is.

mod cubic;
mod rate;

use std::collections::VecDeque;

use cubic::Cubic;
use rate::Rate;

/// Packets that may be on their way before anything is known (RFC 9002 says 10; they are spread over a round trip: 12 Mbit/s where
/// that is 40 ms).
const INITIAL_PACKETS: u64 = 48;
/// Packets that always may be on their way.
const LEAST_PACKETS: u64 = 4;
/// What is sent when more is tried, in percent of what fills the line.
const PROBE: u64 = 125;
/// What is sent until the queue of a try has gone, in percent.
const DRAIN: u64 = 80;
/// What is sent to see the empty line's round trip, in percent.
const LOOK: u64 = 50;
/// The most that is sent while the rate still grows, in percent. The rate is that of a round trip before.
const STARTUP: u64 = 250;
/// What is added to the window then for each byte that arrives.
const STARTUP_ADDS: u64 = 2;
/// What a rate has to grow by in a round to count as growing, in percent.
const GROWTH: u64 = 125;
/// The same for a try, in percent.
const GAIN: u64 = 108;
/// Rounds without growth after which the line counts as full.
const FLAT_ROUNDS: u32 = 3;
/// Rounds between tries, and as many after tries that lost too much.
const CRUISE_ROUNDS: (u32, u32) = (6, 24);
/// Rounds of which the highest rate counts.
const RATE_ROUNDS: usize = 10;
/// Lost packets in a thousand that are too many, where there is a queue, and where none is to be seen.
const LOSS: (u64, u64) = (50, 100);
/// Packets that say how many are lost.
const LOSS_PACKETS: u64 = 128;
/// What is left of the window after too many losses, at most and at least, in percent.
const CUT: (u64, u64) = (85, 50);
/// For how long a round trip counts as the empty line's, in microseconds.
const ROUND_TRIP_AGE_US: u64 = 10_000_000;
/// The least round trip that the line is filled for, in microseconds: below, the machines themselves are slower.
const LEAST_RTT_US: u64 = 5_000;
/// How much longer than usual a round trip has to be to say that there is a queue, in microseconds.
const QUEUE_US: u64 = 25_000;
/// How much longer it may be and say nothing, in microseconds: peers wait for up to 10 ms before they answer.
const NEAR_US: u64 = 15_000;
/// Rounds with a queue until it is looked into.
const QUEUED_ROUNDS: u32 = 3;
/// How much data may arrive at once, beyond what the rate brings, in microseconds of it.
const BUNCH_US: u64 = 20_000;
/// How much is taken to, in any case: peers answer every tenth packet, and after 10 ms.
const BUNCH_PACKETS: (u64, u64) = (3, 12);
const BUNCH_LEAST_US: u64 = 15_000;

/// What is being done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The rate still grows.
    Startup,
    /// What is too much is to drain away.
    Drain,
    /// The line is kept full; for so many rounds more.
    Cruise(u32),
    /// More is tried; so much came out before.
    Probe { before: u64 },
    /// Little is sent, to see the round trip of the empty line.
    Look { drained: bool, shortest_us: u64 },
}

/// How much may be on its way.
#[derive(Clone, Debug)]
pub struct Congestion {
    mtu: u64,
    /// What was sent before is not counted.
    begun_us: u64,
    phase: Phase,
    rate: Rate,
    /// The highest rates of the rounds before, newest first.
    rates: VecDeque<u64>,
    /// The highest rate of this round.
    current: u64,
    /// The window while the rate still grows.
    startup: u64,
    pause_rounds: u32,
    /// Rounds since the last try, and whether it lost too much.
    probed_rounds: u32,
    probe_failed: bool,
    flat_rounds: u32,
    full_rate: u64,
    /// The empty line's round trip, and when it was seen last.
    rtt_us: Option<u64>,
    rtt_at_us: u64,
    /// The shortest round trip of this round.
    round_rtt_us: u64,
    queued_rounds: u32,
    /// What the round trip was before others began to fill the queue.
    alone_rtt_us: Option<u64>,
    /// The window by the rules of those who fill the queue.
    cubic: Option<Cubic>,
    /// The most that the line takes without losing too much.
    ceiling: Option<u64>,
    acked: u64,
    lost: u64,
    marked: bool,
    /// The most that was on its way in this round.
    most: u64,
    bunch: Bunch,
}

impl Congestion {
    /// Of a way of which nothing is known.
    pub fn new(mtu: u16) -> Self {
        let mtu = u64::from(mtu);
        Self {
            mtu,
            begun_us: 0,
            phase: Phase::Startup,
            rate: Rate::default(),
            rates: VecDeque::new(),
            current: 0,
            startup: INITIAL_PACKETS * mtu,
            pause_rounds: CRUISE_ROUNDS.0,
            probed_rounds: u32::MAX,
            probe_failed: false,
            flat_rounds: 0,
            full_rate: 0,
            rtt_us: None,
            rtt_at_us: 0,
            round_rtt_us: u64::MAX,
            queued_rounds: 0,
            alone_rtt_us: None,
            cubic: None,
            ceiling: None,
            acked: 0,
            lost: 0,
            marked: false,
            most: 0,
            bunch: Bunch::default(),
        }
    }

    /// Bytes that may be on their way.
    pub fn window(&self) -> u64 {
        let model = match self.phase {
            Phase::Startup => self.startup,
            Phase::Drain => self.filling(DRAIN),
            Phase::Cruise(_) => self.filling(100) + self.slack(),
            Phase::Probe { .. } => self.filling(PROBE) + self.slack(),
            Phase::Look { .. } => return self.filling(LOOK).max(self.least()),
        };
        let model = model.min(self.ceiling.unwrap_or(u64::MAX));
        model.max(self.cubic.as_ref().map_or(0, Cubic::window)).max(self.least())
    }

    /// Packets have been sent.
    pub fn sent(&mut self, now_us: u64) {
        self.rate.sent(now_us);
    }

    /// A packet has arrived at the peer. [`Self::round_up`] follows once all have been told that one answer names.
    pub fn acked(&mut self, sent_us: u64, bytes: u64) {
        self.rate.acked(sent_us, bytes);
        self.acked += bytes;
    }

    /// All has been told that an answer names. `in_flight` is what is on its way still; `idle` tells that there was less
    /// to send than there might have been.
    pub fn round_up(&mut self, now_us: u64, in_flight: u64, idle: bool) {
        let Some(news) = self.rate.round_up(now_us, in_flight, idle) else { return };
        self.most = self.most.max(in_flight + news.acked);
        self.note_rtt(now_us, news.rtt_us);
        if news.rate > self.highest() {
            self.current = news.rate;
            self.bunch.begin(now_us);
        } else if !news.idle {
            self.current = self.current.max(news.rate);
        }
        self.bunch.note(now_us, news.acked, self.highest());
        if self.phase == Phase::Startup {
            let most = self.filling(STARTUP) + self.slack();
            self.startup = (self.startup + STARTUP_ADDS * news.acked).min(most).max(self.startup);
        }
        if let Some(cubic) = self.cubic.as_mut().filter(|_| !idle) {
            cubic.acked(now_us, news.acked, self.mtu);
        }
        if let Phase::Look { drained, shortest_us } = self.phase {
            self.phase = Phase::Look { drained, shortest_us: shortest_us.min(news.rtt_us) };
        }
        if news.round {
            self.end_round(now_us, in_flight, news.idle);
        } else if self.phase == Phase::Drain && in_flight <= self.filling(100) {
            self.phase = Phase::Cruise(self.pause_rounds);
        }
    }

    /// Packets are lost; `sent_us` is when the last of them was sent.
    pub fn lost(&mut self, now_us: u64, sent_us: u64, bytes: u64) {
        if sent_us < self.begun_us {
            return;
        }
        self.lost += bytes;
        let least = self.least();
        if let Some(cubic) = &mut self.cubic {
            cubic.lost(now_us, sent_us, least);
        }
    }

    /// A queue on the way says that it is getting long (RFC 3168).
    pub fn marked(&mut self, now_us: u64, sent_us: u64) {
        self.marked = true;
        let least = self.least();
        if let Some(cubic) = &mut self.cubic {
            cubic.lost(now_us, sent_us, least);
        }
    }

    /// Nothing has arrived for long: what was known of the way is void.
    pub fn broken(&mut self, now_us: u64) {
        let mtu = u16::try_from(self.mtu).unwrap_or(u16::MAX);
        let rate = std::mem::take(&mut self.rate);
        *self = Self { rate, startup: self.least(), begun_us: now_us, ..Self::new(mtu) };
    }

    /// Packets may be so long.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.mtu = u64::from(mtu);
    }

    /// The highest rate of late.
    fn highest(&self) -> u64 {
        self.rates.iter().copied().max().unwrap_or(0).max(self.current)
    }

    /// So many percent of what fills the line; without knowledge, what may be sent without it.
    fn filling(&self, percent: u64) -> u64 {
        let (rate, Some(rtt_us)) = (self.highest(), self.rtt_us) else { return self.startup };
        if rate == 0 {
            return self.startup;
        }
        product(rate, rtt_us.max(LEAST_RTT_US)).saturating_mul(percent) / 100
    }

    /// What is on its way beyond that because it arrives, or is answered, in bunches.
    fn slack(&self) -> u64 {
        let rate = self.highest();
        let least = product(rate, BUNCH_LEAST_US).clamp(BUNCH_PACKETS.0 * self.mtu, BUNCH_PACKETS.1 * self.mtu);
        let most = product(rate, BUNCH_US.max(self.rtt_us.unwrap_or(0) / 2));
        self.bunch.most().min(most).max(least)
    }

    fn least(&self) -> u64 {
        LEAST_PACKETS * self.mtu
    }

    /// Whether a round trip says that there is a queue.
    fn is_queue(&self, rtt_us: u64) -> bool {
        self.rtt_us.is_some_and(|empty| rtt_us > empty + empty / 2 + QUEUE_US)
    }

    fn note_rtt(&mut self, now_us: u64, rtt_us: u64) {
        self.round_rtt_us = self.round_rtt_us.min(rtt_us);
        if self.rtt_us.is_none_or(|empty| rtt_us <= empty + empty / 16) {
            self.rtt_at_us = now_us;
        }
        self.rtt_us = Some(self.rtt_us.map_or(rtt_us, |empty| empty.min(rtt_us)));
        if self.alone_rtt_us.is_some_and(|alone| is_near(rtt_us, alone)) {
            self.alone_rtt_us = None;
            self.cubic = None;
        }
    }

    fn end_round(&mut self, now_us: u64, in_flight: u64, idle: bool) {
        let queue = self.is_queue(self.round_rtt_us);
        self.queued_rounds = if queue { self.queued_rounds + 1 } else { 0 };
        let (full, latest) = (self.is_full(idle), self.current);
        if self.current > 0 {
            self.rates.push_front(std::mem::take(&mut self.current));
            self.rates.truncate(RATE_ROUNDS);
        }
        let too_much = self.weigh_losses(queue);
        self.probed_rounds = self.probed_rounds.saturating_add(1);
        let filling = self.filling(100);
        if let Some(ceiling) = self.ceiling.filter(|ceiling| !too_much && *ceiling < filling) {
            self.ceiling = Some(ceiling * PROBE / 100);
        }
        self.phase = match self.phase {
            Phase::Startup if full || too_much => Phase::Drain,
            Phase::Drain if in_flight <= self.filling(100) => Phase::Cruise(self.pause_rounds),
            Phase::Cruise(0) if !idle && !too_much => self.probe(),
            Phase::Cruise(rounds) => Phase::Cruise(rounds.saturating_sub(1)),
            Phase::Probe { before } if !too_much && !queue && self.highest() * 100 > before * GAIN => self.probe(),
            Phase::Probe { .. } => Phase::Drain,
            Phase::Look { drained: false, .. } => {
                Phase::Look { drained: in_flight <= self.window() + self.least(), shortest_us: u64::MAX }
            }
            Phase::Look { drained: true, shortest_us } => {
                self.looked(now_us, shortest_us);
                Phase::Cruise(self.pause_rounds)
            }
            other @ (Phase::Startup | Phase::Drain) => other,
        };
        let is_old = now_us.saturating_sub(self.rtt_at_us) > ROUND_TRIP_AGE_US;
        let is_wondering = self.queued_rounds >= QUEUED_ROUNDS;
        if !idle && (is_old || is_wondering) && !matches!(self.phase, Phase::Startup | Phase::Look { .. }) {
            if is_wondering && latest > 0 {
                // What came out before the queue was there may be what made it.
                self.rates = VecDeque::from([latest]);
                self.bunch = Bunch::default();
            }
            self.phase = Phase::Look { drained: false, shortest_us: u64::MAX };
            self.queued_rounds = 0;
        }
        self.bunch.end_round();
        (self.round_rtt_us, self.most) = (u64::MAX, 0);
    }

    /// Tries more, also where too much was lost before.
    fn probe(&mut self) -> Phase {
        self.pause_rounds =
            if self.probe_failed { (2 * self.pause_rounds).min(CRUISE_ROUNDS.1) } else { CRUISE_ROUNDS.0 };
        (self.probed_rounds, self.probe_failed) = (0, false);
        // What was too much long ago is none.
        let most = self.filling(2 * PROBE) + self.slack();
        self.ceiling = self.ceiling.map(|ceiling| ceiling * PROBE / 100).filter(|ceiling| *ceiling < most);
        Phase::Probe { before: self.highest() }
    }

    /// Whether the rate does not grow any more.
    fn is_full(&mut self, idle: bool) -> bool {
        if idle {
            return false;
        }
        if self.highest() * 100 >= self.full_rate * GROWTH {
            (self.full_rate, self.flat_rounds) = (self.highest(), 0);
            return false;
        }
        self.flat_rounds += 1;
        self.flat_rounds >= FLAT_ROUNDS
    }

    /// Whether too much was lost since this was asked last, or a queue complained; then less may be sent.
    fn weigh_losses(&mut self, queue: bool) -> bool {
        let all = self.acked + self.lost;
        let lost = self.lost * 1000 / all.max(1);
        let allowed = if queue { LOSS.0 } else { LOSS.1 };
        let enough = all >= LOSS_PACKETS * self.mtu;
        let too_much = (enough && lost > allowed) || self.marked;
        if too_much {
            let left = (1000 - lost) / 10;
            let cut = self.most.min(self.window()) * left.clamp(CUT.1, CUT.0) / 100;
            // What a try sends is found lost in the round after it.
            let probed = self.probed_rounds < 3;
            self.probe_failed |= probed;
            self.ceiling = Some(match self.ceiling {
                // As it was before the try.
                Some(ceiling) if probed => cut.max(ceiling * 100 / PROBE),
                _ => cut,
            });
        }
        if enough || too_much {
            (self.acked, self.lost, self.marked) = (0, 0, false);
        }
        too_much
    }

    /// Little was sent for a round. A round trip that stayed long is not this sender's doing.
    fn looked(&mut self, now_us: u64, shortest_us: u64) {
        let last = self.rtt_us.replace(shortest_us).unwrap_or(shortest_us);
        self.rtt_at_us = now_us;
        let alone = self.alone_rtt_us.unwrap_or(last);
        // The queue of others grows and shrinks; what is the same twice is the line.
        let is_longer = self.alone_rtt_us.is_some() && shortest_us.abs_diff(last) <= last / 16;
        if is_near(shortest_us, alone) || is_longer {
            (self.alone_rtt_us, self.cubic) = (None, None);
        } else {
            self.alone_rtt_us = Some(alone);
            let filling = self.filling(100);
            self.cubic.get_or_insert_with(|| Cubic::new(filling));
        }
    }
}

/// Whether a round trip is about the empty line's.
fn is_near(rtt_us: u64, empty_us: u64) -> bool {
    rtt_us <= empty_us + empty_us / 4 + NEAR_US
}

/// Bytes that a rate brings in a time.
fn product(rate: u64, time_us: u64) -> u64 {
    u64::try_from(u128::from(rate) * u128::from(time_us) / 1_000_000).unwrap_or(u64::MAX)
}

/// How much more arrives at once than the rate brings.
#[derive(Clone, Default, Debug)]
struct Bunch {
    since_us: u64,
    acked: u64,
    current: u64,
    rounds: VecDeque<u64>,
}

impl Bunch {
    fn begin(&mut self, now_us: u64) {
        (self.since_us, self.acked) = (now_us, 0);
    }

    fn note(&mut self, now_us: u64, acked: u64, rate: u64) {
        self.acked += acked;
        let expected = product(rate, now_us.saturating_sub(self.since_us));
        if self.acked <= expected {
            self.begin(now_us);
        } else {
            self.current = self.current.max(self.acked - expected);
        }
    }

    fn end_round(&mut self) {
        self.rounds.push_front(std::mem::take(&mut self.current));
        self.rounds.truncate(RATE_ROUNDS);
    }

    fn most(&self) -> u64 {
        self.rounds.iter().copied().max().unwrap_or(0).max(self.current)
    }
}

#[cfg(test)]
mod tests;
