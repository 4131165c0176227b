//! Which of the account's relays carries a packet.
//!
//! A device is logged in at all of them. [`Nearest`] orders them by round trip; [`choose`] says, for one packet, which of
//! them it goes by, and by which it goes as well while the first is in doubt. Both are asked by the daemon, which knows
//! what came from where and when; neither keeps a clock or sends anything.
//!
//! Two devices must not double their packets for good because each prefers another relay. So one of them decides, the one
//! with the lower number, and the other sends by where it hears it from.

use std::cmp::Reverse;

/// A relay that has been silent for this long, in milliseconds, is in doubt: a packet goes by another one, too.
pub const SILENCE_MS: u64 = 400;
/// So is one that has owed an answer for this long, in milliseconds, and for so many times as long as it usually takes.
const OWED_MS: u64 = 500;
const OWED_TRIPS: u64 = 3;
/// For how long, in milliseconds, what a peer sent by a relay says that it is reached by that relay.
const FOLLOWED_MS: u64 = 2_000;
/// What was heard by two relays within this time, in milliseconds, was heard at the same time.
const TOGETHER_MS: u64 = 300;
/// A peer that is heard by another relay, and not by the one that was chosen for this long, in milliseconds, may not be
/// reached by it.
const UNHEARD_MS: u64 = 1_000;
/// How much nearer a relay must be to take the place of one that comes before it, in microseconds and as a part of 5.
const NEARER_US: u64 = 5_000;
const NEARER_FIFTHS: u64 = 4;
/// How little farther a relay may be to get its place back from one that comes after it, in microseconds.
const AS_NEAR_US: u64 = 2_500;

/// What is known of one relay when a packet is to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// This device has a session there.
    pub session: bool,
    /// The relay has answered that it forwards what this device sends.
    pub bound: bool,
    /// The relay says that the peer is there.
    pub there: bool,
    /// Its place in the order of [`Nearest`].
    pub rank: usize,
    /// For how long nothing came from it, in milliseconds.
    pub silent_ms: u64,
    /// For how long it has owed an answer, in milliseconds: what comes from it says nothing of what gets there.
    pub owed_ms: u64,
    /// How long its answers usually take, in milliseconds; 0 if that is not known.
    pub round_trip_ms: u64,
    /// How long ago a packet of the peer's came by it, in milliseconds.
    pub peer_ms: Option<u64>,
}

/// By which relays a packet goes, named by their place in what was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Choice {
    /// The relay in use.
    pub first: Option<usize>,
    /// The one that is asked as well, while the first is in doubt.
    pub second: Option<usize>,
}

/// Decides about one packet; `follows` if the peer's number is the lower one.
pub fn choose(relays: &[Seen], follows: bool) -> Choice {
    let best = |but: Option<usize>| {
        let usable = relays.iter().enumerate().filter(|(at, relay)| relay.session && Some(*at) != but);
        usable.max_by_key(|(_, relay)| (relay.bound, relay.there, Reverse(relay.rank))).map(|(at, _)| at)
    };
    let heard = |but: Option<usize>| {
        let usable = relays.iter().enumerate().filter(|(at, relay)| relay.session && Some(*at) != but);
        let heard = usable.filter_map(|(at, relay)| Some((at, relay, relay.peer_ms?)));
        let lately = heard.clone().map(|(.., ms)| ms).min().filter(|ms| *ms <= FOLLOWED_MS)?;
        let together = heard.filter(|(.., ms)| *ms <= lately + TOGETHER_MS);
        together.min_by_key(|(_, relay, _)| relay.rank).map(|(at, _, ms)| (at, ms))
    };
    let followed = heard(None).filter(|_| follows).map(|(at, _)| at);
    let Some(first) = followed.or_else(|| best(None)) else { return Choice::default() };
    let elsewhere =
        heard(Some(first)).filter(|(_, ms)| relays[first].peer_ms.is_none_or(|here| here > ms + UNHEARD_MS));
    let second = match elsewhere {
        Some((at, _)) => Some(at),
        None if relays[first].is_in_doubt() => best(Some(first)),
        None => None,
    };
    Choice { first: Some(first), second }
}

impl Seen {
    fn is_in_doubt(&self) -> bool {
        self.silent_ms > SILENCE_MS || self.owed_ms > OWED_MS.max(OWED_TRIPS * self.round_trip_ms)
    }
}

/// The order of the relays, nearest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Nearest {
    /// Smoothed round trips, in microseconds, in the account's order; `None` for who is not there.
    round_trips_us: Vec<Option<u64>>,
    /// The one in front.
    front: Option<usize>,
}

impl Nearest {
    /// Notes a round trip to a relay, in microseconds.
    pub fn measured(&mut self, relay: usize, round_trip_us: u64) {
        if self.round_trips_us.len() <= relay {
            self.round_trips_us.resize(relay + 1, None);
        }
        let place = &mut self.round_trips_us[relay];
        *place =
            Some(place.map_or(round_trip_us, |before| (before.saturating_mul(3).saturating_add(round_trip_us)) / 4));
        self.compare();
    }

    /// Notes that a relay is not there.
    pub fn lost(&mut self, relay: usize) {
        if let Some(place) = self.round_trips_us.get_mut(relay) {
            *place = None;
        }
        self.compare();
    }

    /// The place of a relay: 0 for the one in front, then the others by their round trip, those that are not there last.
    pub fn rank(&self, relay: usize) -> usize {
        let key = |other: usize| {
            let round_trip = self.round_trips_us.get(other).copied().flatten();
            (self.front != Some(other), round_trip.is_none(), round_trip, other)
        };
        let known = self.round_trips_us.len().max(relay + 1);
        (0..known).filter(|other| key(*other) < key(relay)).count()
    }

    /// The smoothed round trip to a relay, in microseconds; `None` if it is not there.
    pub fn round_trip_us(&self, relay: usize) -> Option<u64> {
        self.round_trips_us.get(relay).copied().flatten()
    }

    /// Puts another relay in front if it is much nearer, or as near and before it in the account's order: which all devices
    /// have in common.
    fn compare(&mut self) {
        let there = || self.round_trips_us.iter().enumerate().filter_map(|(at, it)| Some((at, (*it)?)));
        let mut front = self.front.and_then(|at| Some((at, self.round_trip_us(at)?))).or_else(|| there().next());
        for (at, round_trip) in there() {
            let Some((first, nearest)) = front else { break };
            let wins = if at < first {
                round_trip <= nearest + AS_NEAR_US
            } else {
                round_trip + NEARER_US < nearest && round_trip * 5 < nearest * NEARER_FIFTHS
            };
            if wins {
                front = Some((at, round_trip));
            }
        }
        self.front = front.map(|(at, _)| at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Seen = Seen {
        session: true,
        bound: true,
        there: true,
        rank: 0,
        silent_ms: 10,
        owed_ms: 0,
        round_trip_ms: 40,
        peer_ms: Some(10),
    };
    const FAR: Seen = Seen { rank: 1, peer_ms: None, ..NEAR };

    #[test]
    fn a_packet_goes_by_the_nearest_relay_at_which_both_are() {
        let one = |first| Choice { first: Some(first), second: None };
        let table = [
            ("both good", [NEAR, FAR], one(0)),
            ("the peer is not at the nearer", [Seen { there: false, peer_ms: None, ..NEAR }, FAR], one(1)),
            ("no session at the nearer", [Seen { session: false, ..NEAR }, FAR], one(1)),
            ("not bound yet at the nearer", [Seen { bound: false, peer_ms: None, ..NEAR }, FAR], one(1)),
            ("the peer is nowhere", [Seen { there: false, ..NEAR }, Seen { there: false, ..FAR }], one(0)),
            ("nowhere at all", [Seen::default(), Seen::default()], Choice::default()),
        ];
        for (what, relays, wanted) in table {
            assert_eq!(choose(&relays, false), wanted, "{what}");
        }
    }

    #[test]
    fn while_the_relay_in_use_is_silent_packets_go_by_the_next_as_well() {
        let silent = Seen { silent_ms: SILENCE_MS + 1, peer_ms: Some(SILENCE_MS + 1), ..NEAR };
        for follows in [false, true] {
            assert_eq!(choose(&[silent, FAR], follows), Choice { first: Some(0), second: Some(1) });
            assert_eq!(choose(&[silent], follows), Choice { first: Some(0), second: None });
            let none = Seen { session: false, ..FAR };
            assert_eq!(choose(&[silent, none], follows), Choice { first: Some(0), second: None });
        }
    }

    #[test]
    fn a_relay_that_is_heard_and_does_not_answer_is_in_doubt_as_well() {
        let both = Choice { first: Some(0), second: Some(1) };
        let one = Choice { first: Some(0), second: None };
        let slow = Seen { round_trip_ms: 600, ..NEAR };
        for (relay, owed_ms, wanted) in
            [(NEAR, OWED_MS, one), (NEAR, OWED_MS + 1, both), (slow, 1_800, one), (slow, 1_801, both)]
        {
            assert_eq!(choose(&[Seen { owed_ms, ..relay }, FAR], false), wanted, "{owed_ms} ms");
        }
    }

    #[test]
    fn who_follows_sends_by_where_the_peer_is_heard() {
        let heard = Seen { peer_ms: Some(50), ..FAR };
        let unheard = Seen { peer_ms: None, ..NEAR };
        assert_eq!(choose(&[unheard, heard], true), Choice { first: Some(1), second: None });
        // It went over a moment ago.
        let before = Seen { peer_ms: Some(500), ..NEAR };
        assert_eq!(choose(&[before, heard], true), Choice { first: Some(1), second: None });
        // It sends by both.
        let both = Seen { peer_ms: Some(60), ..NEAR };
        assert_eq!(choose(&[both, heard], true), Choice { first: Some(0), second: None });
        // Long ago says nothing.
        let long_ago = Seen { peer_ms: Some(FOLLOWED_MS + 1), ..FAR };
        assert_eq!(choose(&[unheard, long_ago], true), Choice { first: Some(0), second: None });
    }

    #[test]
    fn a_peer_that_only_answers_by_another_relay_gets_packets_by_both() {
        let deaf = Seen { peer_ms: Some(5_000), ..NEAR };
        let heard = Seen { peer_ms: Some(50), ..FAR };
        assert_eq!(choose(&[deaf, heard], false), Choice { first: Some(0), second: Some(1) });
        let only_just = Seen { peer_ms: Some(900), ..NEAR };
        assert_eq!(choose(&[only_just, heard], false), Choice { first: Some(0), second: None });
    }

    #[test]
    fn the_nearest_is_in_front_and_stays_there_until_another_is_much_nearer() {
        let mut nearest = Nearest::default();
        assert_eq!([0, 1, 2].map(|relay| nearest.rank(relay)), [0, 1, 2]);
        nearest.measured(1, 40_000);
        assert_eq!([0, 1].map(|relay| nearest.rank(relay)), [1, 0], "the other is not there");
        nearest.measured(0, 41_000);
        assert_eq!([0, 1].map(|relay| nearest.rank(relay)), [0, 1], "as near, and before it");
        nearest.measured(2, 38_000);
        assert_eq!([0, 1, 2].map(|relay| nearest.rank(relay)), [0, 2, 1], "not much nearer");
        for _ in 0..20 {
            nearest.measured(2, 20_000);
        }
        assert_eq!([0, 1, 2].map(|relay| nearest.rank(relay)), [2, 1, 0]);
        nearest.lost(2);
        assert_eq!([0, 1, 2].map(|relay| nearest.rank(relay)), [0, 1, 2]);
        nearest.measured(2, 20_000);
        assert_eq!(nearest.rank(2), 0, "back, and the nearest again");
        assert_eq!(nearest.round_trip_us(2), Some(20_000));
    }

    #[test]
    fn round_trips_that_waver_change_nothing() {
        let mut nearest = Nearest::default();
        for round in 0..200 {
            let waver = (round * 7919 % 13) * 300;
            nearest.measured(0, 30_000 + waver);
            nearest.measured(1, 28_000 + 3_600 - waver);
            assert_eq!(nearest.rank(0), 0, "round {round}");
        }
    }
}
