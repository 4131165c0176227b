//! Two devices, the routers before them and a relay between, in simulated time.
//!
//! A router translates addresses by endpoint-independent or endpoint-dependent mapping, and lets in what its filtering
//! lets in (RFC 4787). Between the homes a packet takes 20 ms, on a LAN 1 ms. Data is sent all the time, unless a test
//! says otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::*;

/// Milliseconds from home to home, and back as well.
const ONE_WAY: u64 = 20;
const RTT: u64 = 2 * ONE_WAY;
const NEAR: u64 = 1;
const PORT: u16 = 4000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Router {
    /// None: the host has a public address.
    None,
    /// One port for all destinations; in comes only what answers.
    Easy,
    /// One port for all; in comes everything that is sent to it.
    Cone,
    /// A port for each destination; in comes only what answers.
    Hard,
}

#[derive(Debug)]
struct Home {
    router: Router,
    inside: IpAddr,
    outside: IpAddr,
    /// Port outside → where it leads, and whom it lets in.
    mappings: BTreeMap<u16, Mapping>,
    next_port: u16,
    /// Lets no datagram in, or none out.
    blocks_in: bool,
    blocks_out: bool,
    /// Longer probes than the short ones are lost.
    narrow: bool,
}

#[derive(Debug)]
struct Mapping {
    only_to: Option<SocketAddr>,
    lets_in: BTreeSet<SocketAddr>,
}

impl Home {
    fn new(router: Router, number: u8) -> Self {
        let outside = IpAddr::from([203, 0, 113, number]);
        let inside = if router == Router::None { outside } else { IpAddr::from([192, 168, number, 2]) };
        Self {
            router,
            inside,
            outside,
            mappings: BTreeMap::new(),
            next_port: 10_000,
            blocks_in: false,
            blocks_out: false,
            narrow: false,
        }
    }

    /// The source that the world sees.
    fn outward(&mut self, to: SocketAddr) -> SocketAddr {
        if self.router == Router::None {
            return SocketAddr::new(self.outside, PORT);
        }
        let only_to = (self.router == Router::Hard).then_some(to);
        let known = self.mappings.iter().find(|(_, mapping)| mapping.only_to == only_to).map(|(port, _)| *port);
        let port = known.unwrap_or_else(|| {
            self.next_port += 1;
            self.mappings.insert(self.next_port, Mapping { only_to, lets_in: BTreeSet::new() });
            self.next_port
        });
        if let Some(mapping) = self.mappings.get_mut(&port) {
            mapping.lets_in.insert(to);
        }
        SocketAddr::new(self.outside, port)
    }

    fn lets_in(&self, from: SocketAddr, to: SocketAddr) -> bool {
        match self.router {
            Router::None => to == SocketAddr::new(self.outside, PORT),
            Router::Cone => self.mappings.contains_key(&to.port()),
            Router::Easy | Router::Hard => {
                self.mappings.get(&to.port()).is_some_and(|mapping| mapping.lets_in.contains(&from))
            }
        }
    }
}

#[derive(Debug)]
enum Flight {
    Probe { from: usize, to: SocketAddr, probe: Probe },
    Signal { to: usize, reply: bool, candidates: Vec<SocketAddr> },
}

struct World {
    now: u64,
    homes: [Home; 2],
    paths: [Paths; 2],
    /// Both are in the first one's LAN.
    one_lan: bool,
    in_flight: BTreeMap<(u64, u64), Flight>,
    order: u64,
    chance: u64,
    loss_percent: u64,
    busy: bool,
    /// When each device's route was what, newest last.
    routes: [Vec<(u64, Route)>; 2],
    probes: BTreeMap<SocketAddr, Vec<u64>>,
    kicks: usize,
}

impl World {
    fn new(one: Router, other: Router) -> Self {
        let mut world = Self {
            now: 1_000,
            homes: [Home::new(one, 1), Home::new(other, 2)],
            paths: [Paths::new(Slot(1), 100), Paths::new(Slot(2), 900)],
            one_lan: false,
            in_flight: BTreeMap::new(),
            order: 0,
            chance: 1,
            loss_percent: 0,
            busy: true,
            routes: [vec![(0, Route::Relay)], vec![(0, Route::Relay)]],
            probes: BTreeMap::new(),
            kicks: 0,
        };
        for which in 0..2 {
            world.arrive(which);
        }
        world
    }

    fn same_lan() -> Self {
        let mut world = Self::new(Router::Easy, Router::Easy);
        world.one_lan = true;
        world.homes[1].inside = IpAddr::from([192, 168, 1, 3]);
        world.arrive(1);
        world
    }

    /// A device sees its interfaces, and its relay sees it.
    fn arrive(&mut self, which: usize) {
        self.look(which);
        self.rebind(which);
    }

    fn look(&mut self, which: usize) {
        let ip = self.homes[which].inside;
        let interfaces = vec![Interface { name: "eth0".to_owned(), ip, prefix: 24 }];
        self.tell(which, Event::Local(interfaces, PORT));
    }

    fn rebind(&mut self, which: usize) {
        let relay = "203.0.113.200:443".parse().expect("an address");
        let seen = self.homes[which].outward(relay);
        self.tell(which, Event::Seen(Some(seen)));
    }

    fn meet(&mut self) {
        self.tell(1, Event::There(Slot(1), true));
        self.tell(0, Event::There(Slot(2), true));
    }

    fn random(&mut self, below: u64) -> u64 {
        // SplitMix64.
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn tell(&mut self, which: usize, event: Event) {
        self.paths[which].handle(event, self.now);
        while let Some(effect) = self.paths[which].poll_effect() {
            match effect {
                Effect::Probe { to, probe, .. } => {
                    if !probe.pong {
                        self.probes.entry(to).or_default().push(self.now);
                    }
                    self.launch(which, to, probe);
                }
                Effect::Signal { reply, candidates, .. } => {
                    self.fly(ONE_WAY, Flight::Signal { to: 1 - which, reply, candidates });
                }
                Effect::Route { route, .. } => self.routes[which].push((self.now, route)),
                Effect::Kick(_) => self.kicks += 1,
            }
        }
    }

    fn fly(&mut self, after: u64, flight: Flight) {
        self.order += 1;
        self.in_flight.insert((self.now + after, self.order), flight);
    }

    /// Sends a probe through the sender's router; the receiver's looks at it when it arrives.
    fn launch(&mut self, which: usize, to: SocketAddr, probe: Probe) {
        if self.one_lan && to == SocketAddr::new(self.homes[1 - which].inside, PORT) {
            return self.fly(NEAR, Flight::Probe { from: which, to, probe });
        }
        let lost = self.random(100) < self.loss_percent;
        if self.homes[which].blocks_out || lost || probe.full && self.homes.iter().any(|home| home.narrow) {
            return;
        }
        self.homes[which].outward(to);
        self.fly(ONE_WAY, Flight::Probe { from: which, to, probe });
    }

    fn land(&mut self, flight: Flight) {
        match flight {
            Flight::Signal { to, reply, candidates } => {
                let from = self.slot(1 - to);
                self.tell(to, Event::Signal { from, reply, candidates });
            }
            Flight::Probe { from, to, probe } => {
                let there = 1 - from;
                let inside = SocketAddr::new(self.homes[there].inside, PORT);
                let near = self.one_lan && to == inside;
                let source = if near {
                    SocketAddr::new(self.homes[from].inside, PORT)
                } else {
                    let source = self.homes[from].outward(to);
                    let home = &self.homes[there];
                    if to.ip() != home.outside || home.blocks_in || !home.lets_in(source, to) {
                        return;
                    }
                    source
                };
                let peer = self.slot(from);
                self.tell(there, Event::Probe { from: peer, source, probe });
            }
        }
    }

    fn slot(&self, which: usize) -> Slot {
        Slot(u16::try_from(which + 1).expect("two devices"))
    }

    /// Lets time pass.
    fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.now = self.next_event().clamp(self.now + 1, end);
            while let Some(entry) = self.in_flight.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let flight = entry.remove();
                self.land(flight);
            }
            for which in 0..2 {
                if self.busy && self.now.is_multiple_of(50) {
                    let peer = self.slot(1 - which);
                    self.tell(which, Event::Busy(peer));
                }
                let due = self.paths[which].poll_timeout();
                if due.is_some_and(|due| due <= self.now) {
                    self.tell(which, Event::Tick);
                    let next = self.paths[which].poll_timeout();
                    assert!(next.is_none_or(|next| next > self.now), "busy waiting at {}: {next:?}", self.now);
                }
            }
        }
    }

    /// When something happens next.
    fn next_event(&self) -> u64 {
        let flight = self.in_flight.first_key_value().map(|((at, _), _)| *at);
        let due = self.paths.iter().filter_map(Paths::poll_timeout);
        let data = self.busy.then(|| self.now / 50 * 50 + 50);
        due.chain(flight).chain(data).min().unwrap_or(u64::MAX)
    }

    fn route(&self, which: usize) -> Route {
        self.routes[which].last().expect("the first is by the relay").1
    }

    /// When a device began to use a direct path, since it met the other.
    fn direct_since(&self, which: usize, met: u64) -> Option<u64> {
        let first = self.routes[which].iter().find(|(_, route)| route.direct().is_some())?;
        Some(first.0 - met)
    }

    fn both_direct(&self) -> bool {
        (0..2).all(|which| matches!(self.route(which), Route::Direct(..)))
    }

    /// Whether what a device sends straight to the other arrives now.
    fn arrives(&mut self, which: usize) -> bool {
        let Some((to, _)) = self.route(which).direct() else { return true };
        if self.one_lan && to == SocketAddr::new(self.homes[1 - which].inside, PORT) {
            return true;
        }
        let source = self.homes[which].outward(to);
        let home = &self.homes[1 - which];
        let open = !self.homes[which].blocks_out && !home.blocks_in;
        open && to.ip() == home.outside && home.lets_in(source, to)
    }
}

#[test]
fn every_pair_of_routers_that_lets_a_direct_path_through_has_one_in_time() {
    use Router::{Cone, Easy, Hard, None};
    // In quarters of a round trip, until both send directly.
    let table = [
        (None, None, Some(8)),
        (Easy, Easy, Some(8)),
        (None, Easy, Some(8)),
        (Cone, Easy, Some(8)),
        (Cone, Cone, Some(8)),
        (None, Hard, Some(12)),
        (Cone, Hard, Some(12)),
        (Hard, Cone, Some(12)),
        (Hard, Easy, Option::None),
        (Easy, Hard, Option::None),
        (Hard, Hard, Option::None),
    ];
    for (one, other, wanted) in table {
        let mut world = World::new(one, other);
        let met = world.now;
        world.meet();
        world.run(10_000);
        let took = (0..2).map(|which| world.direct_since(which, met)).max().expect("two");
        match wanted {
            Some(quarters) => {
                let took = took.expect("a direct path");
                assert!(took <= quarters * RTT / 4, "{one:?} {other:?}: {took} ms");
                assert!(world.both_direct(), "{one:?} {other:?}");
                assert!(world.arrives(0) && world.arrives(1));
            }
            Option::None => assert_eq!((world.route(0), world.route(1)), (Route::Relay, Route::Relay)),
        }
    }
}

#[test]
fn an_address_that_is_known_just_after_the_answer_is_told_at_once() {
    for late in 1..=20 {
        let mut world = World::new(Router::Easy, Router::Easy);
        world.paths[1] = Paths::new(Slot(2), 900);
        world.look(1);
        let met = world.now;
        world.meet();
        world.run(ONE_WAY + late);
        world.rebind(1);
        world.run(1_000);
        let took = [0, 1].map(|which| world.direct_since(which, met).expect("a direct path"));
        assert!(took[0] <= 2 * RTT + late && took[1] <= 3 * RTT, "{late} ms late: {took:?} ms");
    }
}

#[test]
fn devices_on_one_lan_use_it_and_nothing_else() {
    let mut world = World::same_lan();
    world.meet();
    world.run(5_000);
    for which in 0..2 {
        assert!(matches!(world.route(which), Route::Direct(_, PathKind::Lan)), "{:?}", world.route(which));
    }
}

#[test]
fn without_a_relay_a_peer_found_near_is_reached() {
    let mut world = World::same_lan();
    let near = SocketAddr::new(world.homes[1].inside, PORT);
    world.tell(0, Event::Found(Slot(2), vec![near]));
    world.run(50);
    assert!(world.both_direct(), "{:?} {:?}", world.route(0), world.route(1));
}

#[test]
fn a_path_that_dies_without_a_word_is_doubled_soon_and_left_in_two_seconds_and_comes_back() {
    for one_way in [false, true] {
        let mut world = World::new(Router::Easy, Router::Easy);
        world.meet();
        world.run(3_000);
        assert!(world.both_direct());
        world.homes[0].blocks_in = true;
        world.homes[0].blocks_out = !one_way;
        let died = world.now;
        world.run(700);
        for which in 0..2 {
            assert!(!matches!(world.route(which), Route::Direct(..)), "{which} after {} ms", world.now - died);
        }
        world.run(1_300);
        assert_eq!((world.route(0), world.route(1)), (Route::Relay, Route::Relay));
        assert!(world.kicks >= 2);
        world.run(120_000);
        world.homes[0].blocks_in = false;
        world.homes[0].blocks_out = false;
        world.run(66_000);
        assert!(world.both_direct(), "it did not come back");
    }
}

#[test]
fn a_quiet_path_to_a_peer_that_has_left_the_relay_has_to_answer_at_once() {
    for answers in [true, false] {
        let mut world = World::new(Router::Easy, Router::Easy);
        world.meet();
        world.busy = false;
        world.run(120_000);
        assert!(world.both_direct());
        world.homes[1].blocks_in = !answers;
        world.homes[1].blocks_out = !answers;
        for which in 0..2 {
            world.tell(which, Event::There(world.slot(1 - which), false));
        }
        world.run(1_500);
        assert_eq!(world.both_direct(), answers, "{:?}", world.route(0));
        assert!(answers || world.route(0) == Route::Relay);
    }
}

#[test]
fn a_quiet_path_is_kept_with_little_and_its_death_is_seen_with_the_first_data() {
    let mut world = World::new(Router::Easy, Router::Easy);
    world.meet();
    world.busy = false;
    world.run(120_000);
    assert!(world.both_direct());
    world.probes.clear();
    world.run(60_000);
    let probes: usize = world.probes.values().map(Vec::len).sum();
    assert!(probes <= 4, "{probes} in a quiet minute");
    world.homes[1].mappings.clear();
    world.homes[0].mappings.clear();
    world.rebind(0);
    world.homes[1].next_port += 50;
    world.busy = true;
    world.run(1_000);
    assert!(!matches!(world.route(0), Route::Direct(..)) || world.arrives(0));
    assert!(!matches!(world.route(1), Route::Direct(..)) || world.arrives(1));
}

#[test]
fn another_public_address_costs_no_second() {
    let mut world = World::new(Router::Easy, Router::Easy);
    world.meet();
    world.run(5_000);
    world.homes[0].outside = IpAddr::from([203, 0, 113, 77]);
    world.homes[0].mappings.clear();
    world.run(700);
    for which in 0..2 {
        assert!(!matches!(world.route(which), Route::Direct(..)), "its packets go nowhere");
    }
    world.rebind(0);
    world.run(6_000);
    assert!(world.both_direct() && world.arrives(0) && world.arrives(1));
}

#[test]
fn a_machine_that_moves_goes_by_the_relay_at_once_and_finds_a_new_path() {
    let mut world = World::same_lan();
    world.meet();
    world.run(5_000);
    world.one_lan = false;
    world.homes[0] = Home::new(Router::Easy, 9);
    world.arrive(0);
    assert!(matches!(world.route(0), Route::Both(..)), "{:?}", world.route(0));
    world.run(700);
    assert!(!matches!(world.route(1), Route::Direct(..)), "{:?}", world.route(1));
    world.run(6_000);
    assert!(world.both_direct() && world.arrives(0) && world.arrives(1));
}

#[test]
fn a_path_too_narrow_for_quic_is_not_used() {
    let mut world = World::new(Router::Easy, Router::Easy);
    world.homes[0].narrow = true;
    world.meet();
    world.run(20_000);
    for which in 0..2 {
        let direct = world.routes[which].iter().any(|(_, route)| matches!(route, Route::Direct(..)));
        assert!(!direct, "it was on trial at most");
        assert_eq!(world.route(which), Route::Relay);
    }
}

#[test]
fn a_peer_cannot_make_this_device_flood_somebody() {
    let mut world = World::new(Router::None, Router::None);
    world.probes.clear();
    let victims: Vec<SocketAddr> =
        (0..1000u32).map(|n| SocketAddr::from(([198, 18, (n / 250) as u8, (n % 250) as u8], 53))).collect();
    world.busy = false;
    world.tell(0, Event::There(Slot(2), true));
    world.in_flight.clear();
    world.tell(0, Event::Signal { from: Slot(2), reply: true, candidates: victims.clone() });
    world.run(60_000);
    world.probes.retain(|address, _| victims.contains(address));
    assert_eq!(world.probes.len(), 10, "of one signal with a thousand addresses");
    let bytes: usize = world.probes.values().map(|at| at.len() * (hearth_schemas::probe::SHORT + 28)).sum();
    assert!(bytes <= 25_000, "{bytes}");

    world.probes.clear();
    for ten in victims.chunks(10) {
        world.tell(0, Event::Signal { from: Slot(2), reply: true, candidates: ten.to_vec() });
        world.run(20);
    }
    world.run(60_000);
    world.probes.retain(|address, _| victims.contains(address));
    assert!(world.probes.len() <= 100, "{} of a hundred signals", world.probes.len());
    for (victim, at) in &world.probes {
        for second in at.windows(11) {
            assert!(second[10] - second[0] >= 1_000, "{victim}: more than ten in a second");
        }
    }
}

#[test]
fn an_address_that_was_just_asked_back_is_not_forgotten_because_the_peer_tells_others() {
    let (ours, theirs, unheard_of) = ("192.168.1.5:7", "203.0.113.9:7", "203.0.113.9:55555");
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let mut paths = Paths::new(Slot(1), 100);
    let interface = Interface { name: "eth0".to_owned(), ip: address(ours).ip(), prefix: 24 };
    paths.handle(Event::Local(vec![interface], 7), 0);
    paths.handle(Event::There(Slot(2), true), 0);
    let ping = Probe { pong: false, number: 1, full: false };
    paths.handle(Event::Probe { from: Slot(2), source: address(unheard_of), probe: ping }, 10);
    let effects = std::iter::from_fn(|| paths.poll_effect());
    let asked = effects.into_iter().find_map(|effect| match effect {
        Effect::Probe { to, probe, .. } if to == address(unheard_of) && !probe.pong => Some(probe),
        _ => None,
    });
    let asked = asked.expect("it is asked back");
    // What the peer says by the relay overtakes the answer.
    paths.handle(Event::Signal { from: Slot(2), reply: true, candidates: vec![address(theirs)] }, 20);
    while paths.poll_effect().is_some() {}
    let source = address(unheard_of);
    paths.handle(Event::Probe { from: Slot(2), source, probe: Probe { pong: true, ..asked } }, 30);
    let effects: Vec<Effect> = std::iter::from_fn(|| paths.poll_effect()).collect();
    let taken = |effect: &Effect| matches!(effect, Effect::Route { route, .. } if route.direct().is_some_and(|(to, _)| to == source));
    assert!(effects.iter().any(taken), "{effects:?}");
}

#[test]
fn what_comes_from_nowhere_is_not_asked_back() {
    let mut world = World::new(Router::None, Router::None);
    world.probes.clear();
    let probe = Probe { pong: false, number: 1, full: false };
    for source in ["127.0.0.1:9", "169.254.169.254:80", "[::1]:9", "203.0.113.1:4000"] {
        let source = source.parse().expect("an address");
        world.tell(0, Event::Probe { from: Slot(2), source, probe });
    }
    assert_eq!(world.probes.len(), 0, "{:?}", world.probes);
    let stray = Probe { pong: true, number: 77, full: true };
    let source = "198.18.0.1:9".parse().expect("an address");
    world.tell(0, Event::Probe { from: Slot(2), source, probe: stray });
    assert_eq!(world.route(0), Route::Relay, "an answer to nothing");
}

/// As many worlds as `HEARTH_SEEDS` says, or some.
#[test]
fn in_random_worlds_no_dead_path_is_kept_and_every_living_one_is_found() {
    let count = std::env::var("HEARTH_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    for seed in 0..count {
        random_world(seed);
    }
}

/// Routers, losses and accidents drawn at random. Data never goes only to where nobody hears it for more than a second;
/// and when all has come to rest, two devices that can have a direct path have one.
fn random_world(seed: u64) {
    let mut world = World::new(Router::None, Router::None);
    world.chance = seed;
    let routers = [Router::None, Router::Easy, Router::Cone, Router::Hard];
    for which in 0..2 {
        let router = routers[usize::try_from(world.random(4)).expect("small")];
        world.homes[which] = Home::new(router, u8::try_from(which + 1).expect("small"));
        world.arrive(which);
    }
    world.loss_percent = [0, 0, 2, 10][usize::try_from(world.random(4)).expect("small")];
    world.meet();
    let mut deaf_since: [Option<u64>; 2] = [None; 2];
    for _ in 0..12 {
        let which = usize::try_from(world.random(2)).expect("small");
        match world.random(8) {
            0 => {
                world.homes[which].mappings.clear();
                world.rebind(which);
            }
            1 => {
                let number = u8::try_from(20 + world.random(100)).expect("small");
                let router = routers[usize::try_from(world.random(4)).expect("small")];
                world.homes[which] = Home::new(router, number);
                world.arrive(which);
            }
            2 => world.homes[which].blocks_in = !world.homes[which].blocks_in,
            3 => world.homes[which].blocks_out = !world.homes[which].blocks_out,
            4 => {
                let peer = world.slot(1 - which);
                let there = world.random(2) == 0;
                world.tell(which, Event::There(peer, there));
            }
            // A path that has once carried what QUIC needs at least does so for good.
            5 => world.homes[which].narrow = !world.both_direct(),
            _ => {}
        }
        let steps = 1 + world.random(200);
        for _ in 0..steps {
            world.run(50);
            for (which, deaf_since) in deaf_since.iter_mut().enumerate() {
                if matches!(world.route(which), Route::Direct(..)) && !world.arrives(which) {
                    let since = *deaf_since.get_or_insert(world.now);
                    assert!(world.now - since <= 1_000, "world {seed}: {which} talks to nobody at {}", world.now);
                } else {
                    *deaf_since = None;
                }
            }
        }
    }
    for home in &mut world.homes {
        (home.blocks_in, home.blocks_out, home.narrow) = (false, false, false);
    }
    world.loss_percent = 0;
    world.meet();
    world.run(130_000);
    let [one, other] = [world.homes[0].router, world.homes[1].router];
    let impossible = matches!((one, other), (Router::Hard, Router::Easy | Router::Hard) | (Router::Easy, Router::Hard));
    assert_eq!(
        world.both_direct(),
        !impossible,
        "world {seed}: {one:?} {other:?}: {:?} {:?}",
        world.route(0),
        world.route(1)
    );
    assert!(world.arrives(0) && world.arrives(1), "world {seed}");
}
