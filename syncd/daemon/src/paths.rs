//! Finds ways to peers beside the relay: carries out what [`syncd_core::paths`] decides.
//!
//! Brings it probes from the socket, signals from the relay, changes of this machine's interfaces and the time; seals
//! and sends its probes and signals, sets the socket's lanes, and shows the routes to [`crate::peer`]. Probes and signals
//! count only if they open under the account's signalling key, and signals only if the device log knows who signed.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hearth_schemas::ids::Slot;
use hearth_schemas::keys::Secret;
use hearth_schemas::log::{Account, Standing};
use hearth_schemas::probe::{self, Probe};
use hearth_schemas::relay::{Head, Request};
use hearth_schemas::signal::{Between, Signal};
use syncd_core::account::Secrets;
use syncd_core::paths::{Effect, Event, Interface, Paths, Route};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;
use tracing::{debug, info};

use crate::driver::wall_ms;
use crate::interfaces;
use crate::membership::entropy;
use crate::nearby::Near;
use crate::net::{Around, Identity, NetEvent, View, view};
use crate::relay::Controls;
use crate::socket::{Bound, News, PathSocket};

/// The key of an epoch under which devices signal and probe.
pub struct SignalKey {
    /// Which epoch's.
    pub epoch: u32,
    /// The key.
    pub key: Secret,
}

impl SignalKey {
    /// That of the newest epoch that this device knows. Without any the key is one that nobody else has.
    pub fn newest(secrets: &Secrets) -> Self {
        match secrets.epochs.last_key_value() {
            Some((epoch, key)) => Self { epoch: *epoch, key: key.signal() },
            None => Self { epoch: 0, key: Secret::random(&mut entropy) },
        }
    }
}

/// A signal as it came through the relay.
pub(crate) struct Sealed {
    pub(crate) from: Slot,
    pub(crate) payload: Vec<u8>,
}

/// What the task is given.
pub(crate) struct Pathfinder {
    pub(crate) socket: Arc<PathSocket>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) account: watch::Receiver<Arc<Account>>,
    pub(crate) key: watch::Receiver<Arc<SignalKey>>,
    /// Whether there may be any way but the relay. If not, nobody is told where this device is.
    pub(crate) direct: bool,
    pub(crate) controls: watch::Receiver<Controls>,
    /// Devices that the relay says are there.
    pub(crate) online: watch::Receiver<BTreeSet<Slot>>,
    pub(crate) news: mpsc::Receiver<News>,
    pub(crate) signals: mpsc::Receiver<Sealed>,
    /// Devices that seem to be on a network that this machine is in.
    pub(crate) nearby: mpsc::Receiver<Near>,
    /// An address at which the router of this network passes on to this machine.
    pub(crate) mapped: watch::Receiver<Option<SocketAddr>>,
    /// Where this machine is, for [`crate::nearby`] and [`crate::mapping`].
    pub(crate) place: watch::Sender<(Vec<Interface>, u16)>,
    /// The ways to all peers that have one beside the relay.
    pub(crate) routes: watch::Sender<BTreeMap<Slot, Route>>,
    pub(crate) kicks: mpsc::Sender<Slot>,
    pub(crate) events: mpsc::Sender<NetEvent>,
    pub(crate) view: Arc<Mutex<View>>,
}

/// What is kept between two events.
struct Known {
    direct: bool,
    paths: Paths,
    started: Instant,
    online: BTreeSet<Slot>,
    /// Keys of probes, derived when they are needed first.
    pair_keys: BTreeMap<Slot, Secret>,
    /// The counter of this device's last signal, and of the last that each peer sent.
    sent: u64,
    heard: BTreeMap<Slot, u64>,
}

impl Pathfinder {
    /// Runs until the socket is gone.
    pub(crate) async fn run(mut self) {
        let mut known = Known {
            direct: self.direct,
            paths: Paths::new(self.identity.slot, getrandom::u64().unwrap_or_default()),
            started: Instant::now(),
            online: BTreeSet::new(),
            pair_keys: BTreeMap::new(),
            sent: 0,
            heard: BTreeMap::new(),
        };
        let mut bound = self.socket.bound();
        let mut changes = interfaces::Changes::watch();
        self.look_around(&mut known);
        loop {
            self.carry_out(&mut known);
            self.show(&known);
            let wake = known.paths.poll_timeout().map(|at_ms| known.started + Duration::from_millis(at_ms));
            tokio::select! {
                news = self.news.recv() => {
                    let Some(news) = news else { return };
                    self.hear(&mut known, news);
                }
                Some(sealed) = self.signals.recv() => self.hear_signal(&mut known, &sealed),
                Some(Near { slot, addresses }) = self.nearby.recv() => known.handle(Event::Found(slot, addresses)),
                Ok(()) = bound.changed() => {
                    // Where a tunnel hides it there is nothing that a peer could send to.
                    let seen = bound.borrow_and_update().map(|Bound { seen, .. }| seen);
                    let seen = seen.filter(|seen| !seen.ip().is_unspecified());
                    known.handle(Event::Seen(seen));
                }
                Ok(()) = self.mapped.changed() => {
                    let mapped = *self.mapped.borrow_and_update();
                    known.handle(Event::Mapped(mapped));
                }
                Ok(()) = self.online.changed() => self.follow_online(&mut known),
                Ok(()) = self.key.changed() => known.pair_keys.clear(),
                Ok(()) = self.account.changed() => self.forget_gone(&mut known),
                () = changes.next() => {
                    if self.look_around(&mut known) {
                        debug!("the network of this machine has changed");
                        self.socket.doubt();
                    }
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => known.handle(Event::Tick),
            }
        }
    }

    /// Sees where this machine is; false if it is where it was. The kernel tells of much that is no such change.
    fn look_around(&self, known: &mut Known) -> bool {
        let interfaces = interfaces::list();
        let moved = self.place.send_if_modified(|place| {
            let moved = place.0 != interfaces;
            place.0.clone_from(&interfaces);
            moved
        });
        if moved {
            known.handle(Event::Local(interfaces, self.place.borrow().1));
        }
        moved
    }

    fn hear(&self, known: &mut Known, news: News) {
        match news {
            News::Probe { source, datagram } => {
                let Some((from, probe)) = self.open_probe(known, &datagram) else { return };
                self.socket.know(source, from);
                known.handle(Event::Probe { from, source, probe });
            }
            News::Busy(slot) => known.handle(Event::Busy(slot)),
            News::SendFailed(slot) => known.handle(Event::SendFailed(slot)),
        }
    }

    fn open_probe(&self, known: &mut Known, datagram: &[u8]) -> Option<(Slot, Probe)> {
        let (from, epoch) = probe::sender(datagram)?;
        if epoch != self.key.borrow().epoch.to_le_bytes()[0] {
            return None;
        }
        let probe = Probe::open(datagram, self.pair_key(known, from)?)?;
        Some((from, probe))
    }

    /// The key of probes between this device and another; `None` if the account has no such device.
    fn pair_key<'a>(&self, known: &'a mut Known, peer: Slot) -> Option<&'a Secret> {
        if peer == self.identity.slot {
            return None;
        }
        match known.pair_keys.entry(peer) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(unknown) => {
                let device = self.account.borrow().active_slot(peer)?.id;
                let key = probe::pair_key(&self.key.borrow().key, self.identity.device, device);
                Some(unknown.insert(key))
            }
        }
    }

    fn hear_signal(&self, known: &mut Known, sealed: &Sealed) {
        let account = self.account.borrow().clone();
        let Some(device) = account.active_slot(sealed.from) else { return };
        let key = self.key.borrow().clone();
        let between = self.between(key.epoch, sealed.from, self.identity.slot);
        let signal = match Signal::open(&sealed.payload, &between, &key.key, &device.sign) {
            Ok(signal) => signal,
            Err(error) => return debug!("a signal of slot {} is not taken: {error}", sealed.from.0),
        };
        let last = known.heard.entry(sealed.from).or_insert(0);
        if signal.counter <= *last {
            return debug!("a signal of slot {} came again", sealed.from.0);
        }
        *last = signal.counter;
        self.compare_heads(sealed.from, signal.head, &account);
        known.handle(Event::Signal { from: sealed.from, reply: signal.reply, candidates: signal.candidates });
    }

    fn compare_heads(&self, slot: Slot, head: Head, account: &Account) {
        if account.judge(&head) == Standing::Newer {
            // The relay tells of it as well, and so does the peer's first frame.
            let _full = self.events.try_send(NetEvent::PeerAhead { slot, head });
        }
    }

    fn follow_online(&mut self, known: &mut Known) {
        let online = self.online.borrow_and_update().clone();
        let was = std::mem::replace(&mut known.online, online.clone());
        for slot in online.difference(&was) {
            // It may have been restarted, with a clock that was set back: what it said before is not repeated to it.
            known.heard.remove(slot);
            known.handle(Event::There(*slot, true));
        }
        for slot in was.difference(&online) {
            known.handle(Event::There(*slot, false));
        }
    }

    /// Drops what is known of devices that have left the account.
    fn forget_gone(&mut self, known: &mut Known) {
        let account = self.account.borrow_and_update().clone();
        let gone: Vec<Slot> =
            known.pair_keys.keys().filter(|slot| account.active_slot(**slot).is_none()).copied().collect();
        for slot in gone {
            known.pair_keys.remove(&slot);
            known.handle(Event::Forget(slot));
        }
    }

    fn between(&self, epoch: u32, from: Slot, to: Slot) -> Between {
        Between { account: self.identity.account, epoch, from, to }
    }

    fn carry_out(&self, known: &mut Known) {
        while let Some(effect) = known.paths.poll_effect() {
            match effect {
                Effect::Probe { peer, to, probe } => {
                    let epoch = self.key.borrow().epoch;
                    let Some(key) = self.pair_key(known, peer) else { continue };
                    self.socket.send_probe(to, &probe.seal(self.identity.slot, epoch, key, &mut entropy));
                }
                Effect::Signal { to, reply, candidates } => self.send_signal(known, to, reply, candidates),
                Effect::Route { peer, route } => {
                    info!("packets for slot {} go {}", peer.0, Shown(route));
                    self.socket.lane(peer).set(route);
                    self.routes.send_modify(|routes| match route {
                        Route::Relay => drop(routes.remove(&peer)),
                        Route::Direct(..) | Route::Both(..) => drop(routes.insert(peer, route)),
                    });
                }
                // Who has many kicks waiting is about to give some.
                Effect::Kick(peer) => drop(self.kicks.try_send(peer)),
            }
        }
    }

    /// Keeps what people may ask for.
    fn show(&self, known: &Known) {
        let place = known.paths.place();
        let mut view = view(&self.view);
        let around = Around {
            one_port: view.around.one_port,
            off: !self.direct,
            behind_router: place.is_behind_router(),
            mapped_port: place.mapped.map(|mapped| mapped.port()),
            tried: known.paths.tried().collect(),
        };
        if view.around != around {
            view.around = around;
        }
    }

    fn send_signal(&self, known: &mut Known, to: Slot, reply: bool, candidates: Vec<SocketAddr>) {
        let controls = self.controls.borrow().clone();
        let nearest = self.socket.by_distance();
        let key = self.key.borrow().clone();
        // Above all that was sent before, by an earlier run as well.
        known.sent = wall_ms().max(known.sent + 1);
        let head = self.account.borrow().head;
        let signal = Signal { counter: known.sent, head, reply, candidates };
        let between = self.between(key.epoch, self.identity.slot, to);
        let payload = signal.seal(&between, &key.key, &self.identity.sign, &mut entropy);
        tokio::spawn(async move {
            for control in nearest.iter().filter_map(|relay| controls[*relay].as_ref()) {
                let payload = payload.clone();
                match control.request(Request::Signal { to, payload }).await {
                    Ok(_) => return,
                    Err(error) => debug!("slot {} was not told where this device is: {error}", to.0),
                }
            }
        });
    }
}

impl Known {
    fn handle(&mut self, event: Event) {
        if !self.direct {
            return;
        }
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.paths.handle(event, now_ms);
    }
}

/// A route, for the log.
struct Shown(Route);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Route::Relay => f.write_str("by the relay"),
            Route::Direct(to, kind) => write!(f, "straight to {to} ({kind:?})"),
            Route::Both(to, kind) => write!(f, "by the relay and to {to} ({kind:?})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use hearth_schemas::keys::{DeviceKeys, Phrase};
    use hearth_schemas::log::Caps;
    use syncd_core::account::{self, Newcomer};

    use super::*;

    #[tokio::test]
    async fn a_signal_counts_once_and_only_from_whom_the_account_knows() {
        let mut world = World::new();
        let two = &world.keys[1];
        let good = world.signal(5, two);
        assert!(world.probes(&good) > 0, "a signal is followed");
        for _ in 0..10 {
            assert_eq!(world.probes(&good), 0, "a replay is not");
        }
        let (two, stranger) = (&world.keys[1], &world.keys[2]);
        let older = world.signal(4, two);
        let forged = world.signal(6, stranger);
        let mut garbled = world.signal(7, two);
        garbled.payload[60] ^= 1;
        let from_nobody = Sealed { from: Slot(900), payload: world.signal(8, two).payload };
        for bad in [older, forged, garbled, from_nobody] {
            assert_eq!(world.probes(&bad), 0);
        }
        let newer = world.signal(9, &world.keys[1]);
        assert!(world.probes(&newer) > 0, "the device itself is heard again");
    }

    #[tokio::test]
    async fn a_probe_of_another_epoch_or_pair_is_nothing() {
        let mut world = World::new();
        let probe = Probe { pong: false, number: 7, full: false };
        let key = world.pathfinder.key.borrow().clone();
        let [one, two, stranger] = [0, 1, 2].map(|which: usize| world.keys[which].id());
        let pair = |one, other| probe::pair_key(&key.key, one, other);
        let from = world.slot;
        let opens = |world: &mut World, datagram: &[u8]| world.pathfinder.open_probe(&mut world.known, datagram);
        let good = probe.seal(from, key.epoch, &pair(one, two), &mut entropy);
        assert_eq!(opens(&mut world, &good), Some((from, probe)));
        for bad in [
            probe.seal(from, key.epoch + 1, &pair(one, two), &mut entropy),
            probe.seal(from, key.epoch, &pair(stranger, two), &mut entropy),
            probe.seal(Slot(900), key.epoch, &pair(one, two), &mut entropy),
            probe.seal(world.pathfinder.identity.slot, key.epoch, &pair(one, two), &mut entropy),
        ] {
            assert_eq!(opens(&mut world, &bad), None);
        }
    }

    /// The first device of an account of two, and a third that is a stranger.
    struct World {
        keys: [DeviceKeys; 3],
        /// The second device.
        slot: Slot,
        pathfinder: Pathfinder,
        known: Known,
    }

    impl World {
        fn new() -> Self {
            let keys = [(); 3].map(|()| DeviceKeys::random(&mut entropy));
            let first = account::create(&Phrase::random(&mut entropy), &keys[0], "one", 0, &mut entropy);
            let first = first.expect("an account");
            let public = keys[1].public();
            let newcomer = Newcomer { keys: &public, wish: "two", caps: Caps::ALL };
            let change = account::add_device(&first.account, &first.secrets, &keys[0], &newcomer, 0, &mut entropy)
                .expect("a second device");
            let slot_of = |keys: &DeviceKeys| change.account.active(&keys.id()).expect("listed").slot;
            let identity = Identity {
                account: change.account.id,
                device: keys[0].id(),
                slot: slot_of(&keys[0]),
                sign: keys[0].sign.clone(),
                tls: keys[0].tls.clone(),
            };
            let slot = slot_of(&keys[1]);
            let known = Known {
                direct: true,
                paths: Paths::new(identity.slot, 1),
                started: Instant::now(),
                online: BTreeSet::new(),
                pair_keys: BTreeMap::new(),
                sent: 0,
                heard: BTreeMap::new(),
            };
            let (socket, news) = PathSocket::open(0).expect("a socket");
            let pathfinder = Pathfinder {
                socket: Arc::new(socket),
                identity: Arc::new(identity),
                key: watch::channel(Arc::new(SignalKey::newest(&change.secrets))).1,
                account: watch::channel(Arc::new(change.account)).1,
                direct: true,
                controls: watch::channel(Controls::default()).1,
                online: watch::channel(BTreeSet::new()).1,
                news,
                signals: mpsc::channel(1).1,
                nearby: mpsc::channel(1).1,
                mapped: watch::channel(None).1,
                place: watch::channel((Vec::new(), 1)).0,
                routes: watch::channel(BTreeMap::new()).0,
                kicks: mpsc::channel(1).0,
                events: mpsc::channel(1).0,
                view: Arc::default(),
            };
            Self { keys, slot, pathfinder, known }
        }

        /// A signal that says it is the second device's, signed by some device.
        fn signal(&self, counter: u64, by: &DeviceKeys) -> Sealed {
            let key = self.pathfinder.key.borrow().clone();
            let between = self.pathfinder.between(key.epoch, self.slot, self.pathfinder.identity.slot);
            let head = self.pathfinder.account.borrow().head;
            // Another address each time: what was probed is not probed again at once.
            let candidates = vec![SocketAddr::from(([198, 18, 0, u8::try_from(counter).expect("small")], 9))];
            let signal = Signal { counter, head, reply: true, candidates };
            Sealed { from: self.slot, payload: signal.seal(&between, &key.key, &by.sign, &mut entropy) }
        }

        /// How many probes a signal leads to at once.
        fn probes(&mut self, sealed: &Sealed) -> usize {
            self.pathfinder.hear_signal(&mut self.known, sealed);
            std::iter::from_fn(|| self.known.paths.poll_effect())
                .filter(|effect| matches!(effect, Effect::Probe { .. }))
                .count()
        }
    }
}
