//! One simulated machine: the core on a simulated disk, driven as the daemon drives it.
//!
//! Holds what survives a crash (disk, committed index) apart from what does not (the engine). What the engine wants
//! done beyond this machine is handed to [`super::world`] as effects.

use std::collections::BTreeSet;

use hearth_schemas::ids::{ContentHash, DeviceId, Slot};
use syncd_core::brake::Limits;
use syncd_core::disk::Source;
use syncd_core::engine::{Effect, Engine, Event, Portions};
use syncd_core::marks::{Marks, Probe};
use syncd_core::select::Select;
use syncd_core::state::{Now, State};
use syncd_core::store::{MemoryStore, Store, StoreResult};

use super::chance::Chance;
use super::disk::{Crash, SimDisk};

/// How long the daemon rests after its index could not be written, in milliseconds.
const REST_MS: u64 = 3000;
/// Slices of work without an end: the engine runs in circles.
const ENDLESS: u32 = 5000;

/// A machine.
pub struct SimMachine {
    /// Its name.
    pub name: String,
    /// Its number in the account.
    pub slot: Slot,
    /// Its disk.
    pub disk: SimDisk,
    /// How far its clock is off, in milliseconds.
    pub skew_ms: i64,
    /// In so many cases of a hundred, the watcher loses sight instead of telling.
    pub sightless: usize,
    /// Paths that are not synced here.
    pub excluded: BTreeSet<Vec<u8>>,
    /// How much it does at a time, from its next start.
    pub portions: Portions,
    /// What it holds back, from its next start.
    pub limits: Limits,
    /// Down until then; `None` while it is up.
    pub down_until: Option<u64>,
    /// Whether records of its history were lost with its index.
    pub forgot_history: bool,
    engine: Option<Engine<MemoryStore>>,
    /// The other machines of the account.
    others: BTreeSet<Slot>,
    rules: Option<BTreeSet<Vec<u8>>>,
    store: MemoryStore,
    first: bool,
    how: Crash,
    /// Whether something happened since the engine said that there is no more to do.
    stirred: bool,
    rest_until: u64,
    chance: Chance,
}

/// Rules of a machine: everything but some subtrees, and what is marked.
struct Excluding {
    out: BTreeSet<Vec<u8>>,
    probes: Vec<Probe>,
}

/// Marks the directory that it stands in.
pub const INSIDE: &str = ".nobackup";
/// Marks the directory that it stands next to, of the name [`MARKED`].
pub const BESIDE: &str = "Cargo.toml";
/// What such a directory is called.
pub const MARKED: &str = "target";

impl Excluding {
    fn new(out: &BTreeSet<Vec<u8>>) -> Box<Self> {
        let probe = |name: &str| Probe { name: name.into(), magic: Vec::new() };
        Box::new(Self { out: out.clone(), probes: vec![probe(INSIDE), probe(BESIDE)] })
    }
}

impl Select for Excluding {
    fn travels(&self, path: &[u8], is_dir: bool, marks: &Marks) -> bool {
        let out = |out: &Vec<u8>| path == out || path.starts_with(&super::tree::below(out, b""));
        let parts: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
        let marked = (1..=parts.len()).filter(|&count| count < parts.len() || is_dir).any(|count| {
            let build = parts[count - 1] == MARKED.as_bytes() && marks.holds(&parts[..count - 1].join(&b'/'), 1);
            build || marks.holds(&parts[..count].join(&b'/'), 0)
        });
        path.is_empty() || (!marked && !self.out.iter().any(out))
    }

    fn probes(&self) -> &[Probe] {
        &self.probes
    }

    fn probes_inside(&self, _dir: &[u8]) -> Vec<usize> {
        vec![0]
    }
}

impl SimMachine {
    /// A machine with an empty disk, down.
    pub fn new(name: &str, slot: Slot, first: bool, now_ms: u64, mut chance: Chance) -> Self {
        let clock_ns = i64::try_from(now_ms * 1_000_000).expect("the year is a usual one");
        let disk = SimDisk::new(clock_ns, chance.fork());
        Self {
            name: name.to_owned(),
            slot,
            disk,
            skew_ms: 0,
            sightless: 0,
            excluded: BTreeSet::new(),
            // So that contents are asked for, by those who tell of few files, too.
            portions: Portions { offers: 0, ..Portions::default() },
            limits: Limits::default(),
            down_until: Some(u64::MAX),
            forgot_history: false,
            engine: None,
            others: BTreeSet::new(),
            rules: None,
            store: MemoryStore::default(),
            first,
            how: Crash::Kill,
            stirred: false,
            rest_until: 0,
            chance,
        }
    }

    /// The engine of a machine that is up.
    pub fn engine(&self) -> &Engine<MemoryStore> {
        self.engine.as_ref().expect("the machine is up")
    }

    /// Whether its daemon runs.
    pub fn is_up(&self) -> bool {
        self.engine.is_some()
    }

    /// Its wall clock.
    pub fn wall_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add_signed(self.skew_ms)
    }

    /// When it wants to go on though nothing happens, on the world's clock.
    pub fn wakes_at(&self, now_ms: u64) -> Option<u64> {
        if self.engine.is_none() {
            return self.down_until.filter(|&until| until != u64::MAX);
        }
        if self.rest_until > now_ms {
            return Some(self.rest_until);
        }
        let timeout = self.engine().poll_timeout()?;
        Some(timeout.saturating_add_signed(-self.skew_ms).max(now_ms + 1))
    }

    /// Tells it who is in the account.
    pub fn enrol(&mut self, all: &BTreeSet<Slot>, now_ms: u64) {
        self.others = all.iter().copied().filter(|slot| *slot != self.slot).collect();
        self.handle(Event::Others(self.others.clone()), now_ms);
    }

    /// Takes that rule away again.
    pub fn include(&mut self, path: &str, now_ms: u64) {
        self.excluded.remove(path.as_bytes());
        self.rules = Some(self.excluded.clone());
        let engine = self.engine.as_mut().expect("a machine that is up");
        engine.select = Excluding::new(&self.excluded);
        self.handle(Event::RulesChanged, now_ms);
    }

    /// Gives the running daemon a rule that excludes a path.
    pub fn exclude(&mut self, path: &str, now_ms: u64) {
        self.excluded.insert(path.into());
        self.rules = Some(self.excluded.clone());
        let engine = self.engine.as_mut().expect("a machine that is up");
        engine.select = Excluding::new(&self.excluded);
        self.handle(Event::RulesChanged, now_ms);
    }

    /// The device that it is to the account.
    pub fn device(&self) -> DeviceId {
        DeviceId([u8::try_from(self.slot.0 & 0xff).expect("a byte"); 32])
    }

    /// Starts the daemon.
    pub fn start(&mut self, now_ms: u64) {
        self.set_clock(now_ms);
        let mut store = std::mem::take(&mut self.store);
        store.dies_with(self.disk.death());
        let device = self.device();
        let (wall_ms, chance) = (self.wall_ms(now_ms), &mut self.chance);
        let mut random = || chance.bits();
        let mut now = Now { wall_ms, random: &mut random };
        let state = State::open(store, device, &self.name, self.first, &mut now).expect("an index in memory");
        self.disk.tidy();
        let mut engine = Engine::new(state, Excluding::new(&self.excluded));
        if self.rules.as_ref().is_some_and(|rules| *rules != self.excluded) {
            engine.handle(Event::RulesChanged, &mut now).expect("an index in memory");
        }
        engine.portions = self.portions;
        engine.set_limits(self.limits);
        engine.handle(Event::Others(self.others.clone()), &mut now).expect("an index in memory");
        self.rules = Some(self.excluded.clone());
        self.engine = Some(engine);
        self.stirred = true;
        self.down_until = None;
        self.rest_until = 0;
    }

    /// The daemon dies at its `calls`th changing call to the disk, or is stopped before.
    pub fn arm(&mut self, calls: u32, how: Crash) {
        self.disk.arm(calls);
        self.how = how;
    }

    /// The daemon dies between two calls.
    pub fn crash(&mut self, how: Crash, until: u64) {
        if let Some(engine) = self.engine.take() {
            self.store = engine.state.store;
            self.store.rollback();
        }
        if how == Crash::PowerCut {
            let chance = &mut self.chance;
            self.store.cut(|commits| chance.below(commits));
        }
        self.disk.crash(how);
        self.down_until = Some(until);
    }

    /// The index is lost while the daemon is down.
    pub fn lose_index(&mut self) {
        assert!(self.engine.is_none(), "the daemon is down");
        self.store = MemoryStore::default();
        self.first = false;
        self.forgot_history = true;
    }

    /// The running daemon cannot write to its index for so many transactions.
    pub fn fail_index(&mut self, commits: u32) {
        self.engine.as_mut().expect("a machine that is up").state.store.fail(commits);
    }

    /// A copy of the index, as a backup has it. The daemon is down.
    pub fn index(&self) -> MemoryStore {
        assert!(self.engine.is_none(), "the daemon is down");
        self.store.clone()
    }

    /// Whether the index can name a displaced content, so that a person finds it.
    pub fn knows_kept(&self, name: &str) -> bool {
        let store = self.engine.as_ref().map_or(&self.store, |engine| &engine.state.store);
        self.forgot_history || store.kept(name).is_ok_and(|kept| kept.is_some())
    }

    /// Puts a copy of the index back.
    pub fn restore_index(&mut self, store: MemoryStore) {
        assert!(self.engine.is_none(), "the daemon is down");
        self.store = store;
        self.forgot_history = true;
    }

    /// Takes in a content that a peer sent, as the daemon does: into staging first.
    pub fn take_in(&mut self, hash: ContentHash, bytes: Vec<u8>, now_ms: u64) {
        if self.engine.is_some() {
            let event = match self.disk.bring(hash, bytes) {
                Ok(name) => Event::Arrived(hash, Source::Brought(name)),
                Err(_) => Event::NoRoom(hash),
            };
            self.handle(event, now_ms);
        }
    }

    /// Tells the engine what happened.
    pub fn handle(&mut self, event: Event, now_ms: u64) {
        self.stirred = true;
        self.call(now_ms, |engine, _, now| engine.handle(event, now).map(|()| false));
    }

    /// Works until nothing is left to do, if something happened or it is time. Gives the effects that concern others.
    pub fn work(&mut self, now_ms: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        let due = self.engine.as_ref().and_then(Engine::poll_timeout).is_some_and(|at| at <= self.wall_ms(now_ms));
        if !self.stirred && !due && self.disk.stirred.is_empty() {
            return effects;
        }
        self.set_clock(now_ms);
        for round in 0.. {
            assert!(round < ENDLESS, "{} works in circles: {}", self.name, self.engine().waits());
            if self.engine.is_none() || self.rest_until > now_ms {
                break;
            }
            self.tell_stirred(now_ms);
            self.stirred = self.call(now_ms, Engine::work);
            effects.extend(self.effects(now_ms));
            if !self.stirred && self.disk.stirred.is_empty() {
                break;
            }
        }
        effects
    }

    /// Tells what the watcher saw, or that it saw too little.
    pub fn tell_stirred(&mut self, now_ms: u64) -> bool {
        let stirred = std::mem::take(&mut self.disk.stirred);
        if stirred.is_empty() || self.engine.is_none() {
            return false;
        }
        let lost = self.sightless > 0 && self.chance.percent(self.sightless);
        self.handle(if lost { Event::Overflowed } else { Event::Stirred(stirred) }, now_ms);
        true
    }

    fn effects(&mut self, now_ms: u64) -> Vec<Effect> {
        let mut out = Vec::new();
        while let Some(effect) = self.engine.as_mut().and_then(Engine::poll_effect) {
            match effect {
                Effect::Watch(mut dirs) => {
                    dirs.retain(|dir| self.disk.set_watch(dir));
                    self.handle(Event::Watched(dirs), now_ms);
                }
                Effect::Drain(peer, token) => {
                    self.tell_stirred(now_ms);
                    self.handle(Event::Drained(peer, token), now_ms);
                }
                Effect::StatusChanged | Effect::Did(..) => {}
                Effect::Send(..)
                | Effect::End(..)
                | Effect::Fetch { .. }
                | Effect::Compare(..)
                | Effect::Serve(..)
                | Effect::Setting { .. } => {
                    out.push(effect);
                }
            }
        }
        out
    }

    fn call(
        &mut self,
        now_ms: u64,
        call: impl FnOnce(&mut Engine<MemoryStore>, &mut SimDisk, &mut Now) -> StoreResult<bool>,
    ) -> bool {
        let (wall_ms, chance) = (self.wall_ms(now_ms), &mut self.chance);
        let Some(engine) = &mut self.engine else { return false };
        let mut random = || chance.bits();
        let result = call(engine, &mut self.disk, &mut Now { wall_ms, random: &mut random });
        if self.disk.is_dead() {
            let until = now_ms + 500 + self.chance.bits() % 5000;
            self.crash(self.how, until);
            return false;
        }
        result.unwrap_or_else(|_| {
            self.rest_until = now_ms + REST_MS;
            true
        })
    }

    fn set_clock(&mut self, now_ms: u64) {
        let wall_ns = i64::try_from(self.wall_ms(now_ms) * 1_000_000).expect("the year is a usual one");
        let clock = &mut self.disk.tree.clock_ns;
        let jumped = wall_ns < *clock - 60_000_000_000;
        if jumped || wall_ns > *clock {
            *clock = wall_ns;
        }
    }
}
