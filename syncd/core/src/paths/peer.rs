//! One peer: the addresses it may have, the path in use, and whether that still holds.
//!
//! A path lives by the answers to this device's own probes and by nothing else: what arrives from the peer says only
//! that its packets find the way here. While data is sent the path is asked every quarter of a second. An answer that is
//! late makes the path doubtful: every packet then goes by the relay as well. One that does not come ends the path.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use hearth_schemas::ids::Slot;
use hearth_schemas::probe::Probe;
use hearth_schemas::signal::MAX_CANDIDATES;

use super::addresses::{Place, may_probe};
use super::{Effect, Out, PathKind, Route, Tried};

/// Least time between two probes to one address, and between those of one punch at first and later.
const SPACING_MS: u64 = 100;
const LATE_SPACING_MS: u64 = 400;
/// How often an address may be asked sooner than that: a probe of its own has come, so its firewall is open now.
const ASK_BACK_MS: u64 = 1_000;
/// Probes of one punch to one address with the first spacing, and in all.
const EARLY: u32 = 20;
const ALL: u32 = 25;
/// Pauses between punches that found nothing; while there is data the last, else `SELDOM_MS`.
const PAUSES_MS: [u64; 5] = [5_000, 10_000, 20_000, 40_000, 60_000];
const SELDOM_MS: u64 = 600_000;
/// Data within this time means that a better path would be of use.
const IN_USE_MS: u64 = 60_000;
/// How often a path is asked while data is sent, or while it is doubted.
const ASK_MS: u64 = 250;
/// An answer is late after this, or after three round trips and a little.
const LATE_MS: u64 = 300;
const LATE_EXTRA_MS: u64 = 25;
/// A path ends when nothing has been answered for this long.
const DEAD_MS: u64 = 1_200;
/// How often a quiet path is asked at first, and later, when it has been there for as long: firewalls forget what is quiet,
/// few of them within half a minute.
const KEEP_YOUNG_MS: u64 = 5_000;
const KEEP_MS: u64 = 25_000;
/// For how long an answer says that an address can be used.
const FRESH_MS: u64 = 5_000;
/// Pauses between full-length probes, and how many are sent; then the path is too narrow, and left alone for a while.
const FULL_EVERY_MS: u64 = 200;
const FULL_TRIES: u32 = 5;
const NARROW_MS: u64 = 60_000;
/// Probes of a peer that are answered: one in 10 ms, and some at once.
const ANSWERS: Allowance = Allowance::new(10, 100);
/// Signals of a peer that are believed: one in two seconds, and some at once.
const SIGNALS: Allowance = Allowance::new(2_000, 8);
/// Addresses that the peer did not tell but sent probes from.
const MAX_REFLEXIVE: usize = 4;
/// Unanswered probes that are remembered for each address.
const MAX_ASKED: usize = 32;
/// Signals to the peer: one in 200 ms, and two at once, as the address that the relay sees is often known a moment late.
const SIGNALLING: Allowance = Allowance::new(200, 2);

/// A token bucket.
#[derive(Debug)]
struct Allowance {
    left: u64,
    burst: u64,
    /// Milliseconds for one more.
    each_ms: u64,
    since_ms: u64,
}

impl Allowance {
    const fn new(each_ms: u64, burst: u64) -> Self {
        Self { left: burst, burst, each_ms, since_ms: 0 }
    }

    /// When there is one again.
    fn next_ms(&self) -> u64 {
        if self.left > 0 { 0 } else { self.since_ms + self.each_ms }
    }

    fn take(&mut self, now_ms: u64) -> bool {
        let more = now_ms.saturating_sub(self.since_ms) / self.each_ms;
        self.since_ms += more * self.each_ms;
        self.left = self.left.saturating_add(more).min(self.burst);
        let taken = self.left > 0;
        self.left -= u64::from(taken);
        taken
    }
}

/// A probe that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Asked {
    number: u64,
    at_ms: u64,
}

/// Whether an address takes packets of full length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Full {
    /// Not known; so many times asked, last at this time.
    Asking { tries: u32, at_ms: u64 },
    /// It does.
    Fits,
}

/// An address that has been probed.
#[derive(Debug)]
struct Path {
    kind: PathKind,
    asked: VecDeque<Asked>,
    asked_ms: Option<u64>,
    asked_back_ms: Option<u64>,
    answered_ms: Option<u64>,
    rtt_ms: u64,
    full: Full,
}

impl Path {
    fn new(kind: PathKind) -> Self {
        let full = Full::Asking { tries: 0, at_ms: 0 };
        Self { kind, asked: VecDeque::new(), asked_ms: None, asked_back_ms: None, answered_ms: None, rtt_ms: 0, full }
    }

    fn is_awaited(&self, now_ms: u64) -> bool {
        self.asked_ms.is_some_and(|at| now_ms.saturating_sub(at) < DEAD_MS)
    }

    fn is_fresh(&self, now_ms: u64) -> bool {
        self.answered_ms.is_some_and(|at| now_ms.saturating_sub(at) < FRESH_MS)
    }

    /// When the oldest probe that has had no answer was sent.
    fn waiting_since(&self) -> Option<u64> {
        self.asked.front().map(|asked| asked.at_ms)
    }

    fn may_ask(&self, now_ms: u64) -> bool {
        self.asked_ms.is_none_or(|at| now_ms.saturating_sub(at) >= SPACING_MS)
    }

    fn may_ask_back(&self, now_ms: u64) -> bool {
        self.may_ask(now_ms) || self.asked_back_ms.is_none_or(|at| now_ms.saturating_sub(at) >= ASK_BACK_MS)
    }

    fn late_ms(&self) -> u64 {
        LATE_MS.max(3 * self.rtt_ms + LATE_EXTRA_MS)
    }
}

/// The path in use.
#[derive(Clone, Copy, Debug)]
struct Active {
    to: SocketAddr,
    since_ms: u64,
    doubted: bool,
}

/// Probes to all addresses, again and again for some seconds.
#[derive(Clone, Copy, Debug)]
struct Punch {
    sent: u32,
    next_ms: u64,
}

/// What is known of one peer.
#[derive(Debug)]
pub(super) struct Peer {
    slot: Slot,
    /// This device tells its addresses first, and keeps a quiet path open.
    leads: bool,
    there: bool,
    /// Addresses that the peer told, or that it was found at.
    told: Vec<SocketAddr>,
    /// They have had their probes: unless they are told again, they get no more.
    exhausted: bool,
    /// Whether a probe of its has come since it told its addresses last.
    heard: bool,
    /// Addresses that it sent probes from.
    reflexive: Vec<SocketAddr>,
    paths: BTreeMap<SocketAddr, Path>,
    /// Addresses that take no packets of full length, and until when they are left alone.
    narrow: BTreeMap<SocketAddr, u64>,
    active: Option<Active>,
    route: Route,
    punch: Option<Punch>,
    /// When to tell the peer this device's addresses and probe its own.
    retry_ms: Option<u64>,
    failures: usize,
    signalled_ms: Option<u64>,
    busy_ms: Option<u64>,
    kicked_ms: Option<u64>,
    answers: Allowance,
    signals: Allowance,
    signalling: Allowance,
}

impl Peer {
    pub(super) fn new(slot: Slot, leads: bool) -> Self {
        Self {
            slot,
            leads,
            there: false,
            told: Vec::new(),
            exhausted: false,
            heard: false,
            reflexive: Vec::new(),
            paths: BTreeMap::new(),
            narrow: BTreeMap::new(),
            active: None,
            route: Route::Relay,
            punch: None,
            retry_ms: None,
            failures: 0,
            signalled_ms: None,
            busy_ms: None,
            kicked_ms: None,
            answers: ANSWERS,
            signals: SIGNALS,
            signalling: SIGNALLING,
        }
    }

    pub(super) fn tried(&self) -> Tried {
        Tried { told: self.told.len(), heard: self.heard }
    }

    /// Signals reach the peer, or do no longer. Then a path to it has to answer at once, or ends.
    pub(super) fn set_there(&mut self, there: bool, now_ms: u64, out: &mut Out) {
        if self.there && !there {
            self.doubt_at_once(now_ms, out);
        }
        self.there = there;
        self.failures = 0;
        if there && (self.leads || self.active.is_none() && !self.told.is_empty()) {
            self.retry_ms = Some(now_ms);
        }
    }

    /// This device's addresses are others now: what holds is to be seen.
    pub(super) fn moved(&mut self, place: &Place, now_ms: u64, out: &mut Out) {
        for (address, path) in &mut self.paths {
            path.kind = place.kind_of(*address);
        }
        self.doubt_at_once(now_ms, out);
        self.exhausted = false;
        self.failures = 0;
        self.retry_ms = Some(now_ms);
    }

    /// This device has another address to tell.
    pub(super) fn tell_again(&mut self, now_ms: u64) {
        if self.there && (self.leads || self.signalled_ms.is_some()) {
            self.retry_ms = Some(now_ms);
        }
    }

    /// The peer told its addresses.
    pub(super) fn told(&mut self, reply: bool, candidates: &[SocketAddr], place: &Place, now_ms: u64, out: &mut Out) {
        if !self.signals.take(now_ms) {
            return;
        }
        self.told = probed(candidates, place);
        (self.exhausted, self.heard) = (false, false);
        self.forget_stale(now_ms);
        if !reply {
            self.signal(true, place, now_ms, out);
        }
        self.begin_punch(now_ms);
    }

    /// The peer was found near.
    pub(super) fn found(&mut self, addresses: &[SocketAddr], place: &Place, now_ms: u64) {
        let mut all = probed(addresses, place);
        let known = self.told.iter().filter(|address| !all.contains(address)).copied().collect::<Vec<_>>();
        if all.iter().all(|address| self.told.contains(address)) && self.active.is_some() {
            return;
        }
        all.extend(known);
        all.truncate(MAX_CANDIDATES);
        self.told = all;
        self.exhausted = false;
        self.begin_punch(now_ms);
    }

    /// Answers a probe, and asks back.
    pub(super) fn pinged(&mut self, source: SocketAddr, probe: Probe, place: &Place, now_ms: u64, out: &mut Out) {
        if !may_probe(source) || place.is_own(source) || !self.answers.take(now_ms) {
            return;
        }
        self.heard = true;
        out.effects.push_back(Effect::Probe { peer: self.slot, to: source, probe: Probe { pong: true, ..probe } });
        if !self.told.contains(&source) && !self.reflexive.contains(&source) {
            if self.reflexive.len() == MAX_REFLEXIVE {
                let oldest = self.reflexive.remove(0);
                if self.active.is_none_or(|active| active.to != oldest) {
                    self.paths.remove(&oldest);
                }
            }
            self.reflexive.push(source);
        }
        let current = self.active.and_then(|active| self.paths.get(&active.to)).map(|path| path.kind);
        let path = self.paths.entry(source).or_insert_with(|| Path::new(place.kind_of(source)));
        let is_better = current.is_none_or(|kind| path.kind < kind);
        if is_better && !path.is_fresh(now_ms) && path.may_ask_back(now_ms) && !self.narrow.contains_key(&source) {
            path.asked_back_ms = Some(now_ms);
            self.ask(source, false, now_ms, out);
        }
    }

    /// An address has answered.
    pub(super) fn ponged(&mut self, source: SocketAddr, probe: Probe, now_ms: u64, out: &mut Out) {
        let Some(path) = self.paths.get_mut(&source) else { return };
        let Some(asked) = path.asked.iter().find(|asked| asked.number == probe.number).copied() else { return };
        path.rtt_ms = now_ms.saturating_sub(asked.at_ms);
        path.answered_ms = Some(now_ms);
        // Those sent before have been overtaken or lost. Those sent after may still come.
        path.asked.retain(|other| other.at_ms > asked.at_ms);
        if probe.full {
            path.full = Full::Fits;
        }
        if let Some(active) = self.active.as_mut().filter(|active| active.to == source) {
            active.doubted = false;
        }
        self.choose(now_ms, out);
        self.set_route(out);
    }

    /// Data is being sent.
    pub(super) fn busy(&mut self, now_ms: u64, out: &mut Out) {
        self.busy_ms = Some(now_ms);
        if let Some(active) = self.active {
            let due = self.paths.get(&active.to).and_then(|path| path.asked_ms).is_none_or(|at| now_ms >= at + ASK_MS);
            if due {
                self.ask(active.to, false, now_ms, out);
            }
        } else if let Some(retry) = self.retry_ms {
            // It was put off because nothing went on.
            let last = self.signalled_ms.unwrap_or(0);
            self.retry_ms = Some(retry.min(now_ms.max(last + PAUSES_MS[PAUSES_MS.len() - 1])));
        }
    }

    /// Something is wrong with the path in use: all that is sent goes by the relay as well until it has answered.
    pub(super) fn doubt_at_once(&mut self, now_ms: u64, out: &mut Out) {
        let Some(active) = &mut self.active else { return };
        if active.doubted {
            return;
        }
        active.doubted = true;
        let to = active.to;
        self.ask(to, false, now_ms, out);
        self.set_route(out);
        self.kick(now_ms, out);
    }

    /// The peer is gone for good.
    pub(super) fn give_up(&mut self, out: &mut Out) {
        self.active = None;
        self.set_route(out);
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, place: &Place, now_ms: u64, out: &mut Out) {
        self.narrow.retain(|_, until| *until > now_ms);
        self.mind_active(now_ms, out);
        if self.retry_ms.is_some_and(|at| at <= now_ms) {
            self.retry(place, now_ms, out);
        }
        self.mind_punch(place, now_ms, out);
    }

    /// When something is due next.
    pub(super) fn timeout(&self) -> Option<u64> {
        let punch = self.punch.map(|punch| punch.next_ms);
        let path = self.active.and_then(|active| Some((active, self.paths.get(&active.to)?)));
        let active = path.map(|(active, path)| {
            let asked = path.asked_ms.unwrap_or(0);
            let mut next = asked + if active.doubted { ASK_MS } else { self.keep_ms(active, asked) };
            if let Some(since) = path.waiting_since() {
                next = next.min(since + if active.doubted { DEAD_MS } else { path.late_ms() });
            }
            if let Full::Asking { at_ms, .. } = path.full {
                next = next.min(at_ms + FULL_EVERY_MS);
            }
            next
        });
        [punch, active, self.retry_ms].into_iter().flatten().min()
    }

    /// After which silence this device asks on a path that is in order.
    fn keep_ms(&self, active: Active, asked_ms: u64) -> u64 {
        if self.leads {
            asked_ms.saturating_sub(active.since_ms).clamp(KEEP_YOUNG_MS, KEEP_MS)
        } else {
            // The other side asks; this device only makes sure that it is there at all.
            4 * KEEP_MS
        }
    }

    fn mind_active(&mut self, now_ms: u64, out: &mut Out) {
        let Some(active) = self.active else { return };
        let Some(path) = self.paths.get(&active.to) else { return };
        let waited_ms = path.waiting_since().map_or(0, |since| now_ms.saturating_sub(since));
        let asked_ms = path.asked_ms.unwrap_or(0);
        if active.doubted && waited_ms >= DEAD_MS {
            return self.bury(active.to, now_ms, out);
        }
        if let Full::Asking { tries, at_ms } = path.full
            && now_ms >= at_ms + FULL_EVERY_MS
        {
            if tries >= FULL_TRIES {
                self.narrow.insert(active.to, now_ms + NARROW_MS);
                return self.bury(active.to, now_ms, out);
            }
            self.ask(active.to, true, now_ms, out);
        }
        if !active.doubted && self.paths.get(&active.to).is_some_and(|path| waited_ms >= path.late_ms()) {
            return self.doubt_at_once(now_ms, out);
        }
        if now_ms >= asked_ms + if active.doubted { ASK_MS } else { self.keep_ms(active, asked_ms) } {
            self.ask(active.to, false, now_ms, out);
            if active.doubted {
                self.kick(now_ms, out);
            }
        }
    }

    /// Ends a path; the next best that has answered takes its place, or the relay.
    fn bury(&mut self, address: SocketAddr, now_ms: u64, out: &mut Out) {
        self.paths.remove(&address);
        self.reflexive.retain(|other| *other != address);
        self.active = None;
        self.choose(now_ms, out);
        self.set_route(out);
        self.kicked_ms = None;
        self.kick(now_ms, out);
        self.failures = 0;
        self.retry_ms = Some(now_ms);
    }

    fn retry(&mut self, place: &Place, now_ms: u64, out: &mut Out) {
        if self.there && self.signalling.next_ms() > now_ms {
            self.retry_ms = Some(self.signalling.next_ms());
            return;
        }
        self.retry_ms = None;
        if self.there {
            self.signal(false, place, now_ms, out);
        }
        // Who is there tells its addresses in answer. Without a relay the old ones are all there is.
        if !self.there || !self.exhausted {
            self.begin_punch(now_ms);
        } else if self.punch.is_none() {
            self.end_punch(now_ms);
        }
    }

    fn signal(&mut self, reply: bool, place: &Place, now_ms: u64, out: &mut Out) {
        self.signalled_ms = Some(now_ms);
        // An answer is owed whatever it costs; how often it is asked for is the allowance of the other's signals.
        self.signalling.take(now_ms);
        out.effects.push_back(Effect::Signal { to: self.slot, reply, candidates: place.candidates() });
    }

    fn begin_punch(&mut self, now_ms: u64) {
        self.punch = Some(Punch { sent: 0, next_ms: now_ms });
    }

    fn mind_punch(&mut self, place: &Place, now_ms: u64, out: &mut Out) {
        let Some(Punch { sent, next_ms }) = self.punch.filter(|punch| punch.next_ms <= now_ms) else { return };
        let open = self.worth_probing(place, now_ms);
        if sent >= ALL || open.is_empty() {
            self.punch = None;
            self.end_punch(now_ms);
            return;
        }
        for address in open {
            let path = self.paths.entry(address).or_insert_with(|| Path::new(place.kind_of(address)));
            if path.may_ask(now_ms) {
                self.ask(address, false, now_ms, out);
            }
        }
        let spacing_ms = if sent + 1 < EARLY { SPACING_MS } else { LATE_SPACING_MS };
        self.punch = Some(Punch { sent: sent + 1, next_ms: next_ms.max(now_ms) + spacing_ms });
    }

    /// Addresses that have not answered just now and would be better than what there is.
    fn worth_probing(&self, place: &Place, now_ms: u64) -> Vec<SocketAddr> {
        let current = self.active.and_then(|active| self.paths.get(&active.to)).map(|path| path.kind);
        let is_worth = |address: &SocketAddr| {
            let fresh = self.paths.get(address).is_some_and(|path| path.is_fresh(now_ms));
            let better = current.is_none_or(|kind| place.kind_of(*address) < kind);
            !fresh && better && !self.narrow.contains_key(address)
        };
        self.told.iter().chain(&self.reflexive).filter(|address| is_worth(address)).copied().collect()
    }

    /// Nothing more is to be had from this punch: the next comes later, if one is needed.
    fn end_punch(&mut self, now_ms: u64) {
        self.exhausted = true;
        self.forget_stale(now_ms);
        if self.active.is_some() {
            return;
        }
        let pause_ms = PAUSES_MS[self.failures.min(PAUSES_MS.len() - 1)];
        self.failures += 1;
        let in_use = self.busy_ms.is_some_and(|at| now_ms.saturating_sub(at) < IN_USE_MS);
        let eager = in_use || self.failures < PAUSES_MS.len();
        self.retry_ms.get_or_insert(now_ms + if eager { pause_ms } else { SELDOM_MS });
    }

    /// Drops what is known of addresses that neither the peer names nor anybody answers at.
    fn forget_stale(&mut self, now_ms: u64) {
        let active = self.active.map(|active| active.to);
        self.reflexive.retain(|address| {
            // What was asked just now may answer yet: what the peer says by the relay often overtakes it.
            let may_be_good = |path: &Path| path.is_fresh(now_ms) || path.is_awaited(now_ms);
            Some(*address) == active || self.paths.get(address).is_some_and(may_be_good)
        });
        let Self { told, reflexive, paths, .. } = self;
        paths.retain(|address, _| Some(*address) == active || told.contains(address) || reflexive.contains(address));
    }

    /// Takes the best address that has answered, if it is better than what is used now.
    fn choose(&mut self, now_ms: u64, out: &mut Out) {
        let usable = |(address, path): (&SocketAddr, &Path)| {
            (path.is_fresh(now_ms) && !self.narrow.contains_key(address)).then_some((path.kind, path.rtt_ms, *address))
        };
        let Some((kind, _, to)) = self.paths.iter().filter_map(usable).min() else { return };
        let current = self.active.and_then(|active| self.paths.get(&active.to)).map(|path| path.kind);
        if current.is_some_and(|current| current <= kind) {
            return;
        }
        self.active = Some(Active { to, since_ms: now_ms, doubted: false });
        self.failures = 0;
        self.retry_ms = None;
        if self.paths.get(&to).is_some_and(|path| path.full != Full::Fits) {
            self.ask(to, true, now_ms, out);
        }
        self.set_route(out);
        self.kicked_ms = None;
        self.kick(now_ms, out);
    }

    fn set_route(&mut self, out: &mut Out) {
        let active = self.active.and_then(|active| Some((active, self.paths.get(&active.to)?)));
        let route = match active {
            None => Route::Relay,
            Some((Active { to, doubted: false, .. }, path)) if path.full == Full::Fits => Route::Direct(to, path.kind),
            Some((Active { to, .. }, path)) => Route::Both(to, path.kind),
        };
        if route != self.route {
            self.route = route;
            out.effects.push_back(Effect::Route { peer: self.slot, route });
        }
    }

    /// Wakes QUIC, if it has anything to be woken for.
    fn kick(&mut self, now_ms: u64, out: &mut Out) {
        let in_use = self.busy_ms.is_some_and(|at| now_ms.saturating_sub(at) < FRESH_MS);
        if in_use && self.kicked_ms.is_none_or(|at| now_ms.saturating_sub(at) >= LATE_MS) {
            self.kicked_ms = Some(now_ms);
            out.effects.push_back(Effect::Kick(self.slot));
        }
    }

    fn ask(&mut self, address: SocketAddr, full: bool, now_ms: u64, out: &mut Out) {
        let Some(path) = self.paths.get_mut(&address) else { return };
        let number = out.number();
        if path.asked.len() == MAX_ASKED {
            path.asked.pop_front();
        }
        path.asked.push_back(Asked { number, at_ms: now_ms });
        path.asked_ms = Some(now_ms);
        if let (true, Full::Asking { tries, .. }) = (full, path.full) {
            path.full = Full::Asking { tries: tries + 1, at_ms: now_ms };
        }
        let probe = Probe { pong: false, number, full };
        out.effects.push_back(Effect::Probe { peer: self.slot, to: address, probe });
    }
}

/// The addresses that may be probed, each once.
fn probed(candidates: &[SocketAddr], place: &Place) -> Vec<SocketAddr> {
    let mut probed: Vec<SocketAddr> = Vec::new();
    for address in candidates {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        if probed.len() < MAX_CANDIDATES && may_probe(address) && !place.is_own(address) && !probed.contains(&address) {
            probed.push(address);
        }
    }
    probed
}
