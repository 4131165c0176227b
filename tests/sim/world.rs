//! Machines and the network between them, on one clock.
//!
//! [`World::run_until_quiet`] delivers letters and moves the clock until nothing is left to do. Letters between two
//! machines keep their order on each of the two channels (messages, contents); otherwise everything is shuffled by
//! the seed. A broken link loses what was on its way and comes up again by itself where it is allowed to.

use std::collections::{BTreeMap, BTreeSet};

use hearth_schemas::ids::{ContentHash, Slot};
use hearth_schemas::wire::Message;
use syncd_core::disk::Source;
use syncd_core::engine::{Effect, Event};

use super::chance::Chance;
use super::disk::{Act, Crash, hash_of};
use super::machine::SimMachine;
use super::oracle::Oracle;
use super::tree::Body;

/// The world begins in autumn 2026.
const BEGINNING_MS: u64 = 1_790_000_000_000;
/// The longest that a world may take to become quiet, in milliseconds.
const PATIENCE_MS: u64 = 30 * 60_000;
/// How long it takes for a link to come up again, in milliseconds.
const REDIAL_MS: u64 = 1500;

/// A machine of a world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Here(pub usize);

/// Everything there is.
pub struct World {
    /// The machines.
    pub machines: Vec<SimMachine>,
    /// The clock, in milliseconds since 1970.
    pub now_ms: u64,
    /// What must be somewhere.
    pub oracle: Oracle,
    /// What has crossed the network.
    pub sent: Sent,
    /// The world's chance.
    pub chance: Chance,
    /// The longest that a letter takes, in milliseconds.
    pub slowest_ms: u64,
    /// In so many cases of a hundred, machines work between two letters that come at the same moment.
    pub eager: usize,
    links: BTreeMap<(Here, Here), Link>,
    letters: BTreeMap<(u64, u64), Letter>,
    next_letter: u64,
}

/// Counts of what has crossed the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// Frames with rows in them.
    pub rows: u64,
    /// Contents.
    pub contents: u64,
    /// Content that was asked for.
    pub wants: u64,
    /// Content that was sent unasked.
    pub offers: u64,
}

#[derive(Default)]
struct Link {
    allowed: bool,
    up: bool,
    redial_at: u64,
    era: u64,
    last_due: BTreeMap<(Here, bool), u64>,
}

struct Letter {
    from: Here,
    to: Here,
    era: u64,
    body: Post,
}

enum Post {
    Message(Message),
    Content(ContentHash, Vec<u8>),
    Fetch(ContentHash),
    Refused(ContentHash),
}

impl World {
    /// An empty world.
    pub fn new(seed: u64) -> Self {
        Self {
            machines: Vec::new(),
            now_ms: BEGINNING_MS,
            oracle: Oracle::default(),
            sent: Sent::default(),
            chance: Chance::new(seed),
            slowest_ms: 40,
            eager: 50,
            links: BTreeMap::new(),
            letters: BTreeMap::new(),
            next_letter: 0,
        }
    }

    /// Machines of one account, all connected, with nothing in them; the account began on the first.
    pub fn paired<const N: usize>(&mut self, names: [&str; N]) -> [Here; N] {
        let all = names.map(|name| self.add(name));
        self.connect_all();
        self.run_until_quiet();
        all
    }

    /// A machine of the account, up, connected to nobody. The account begins on the first that is added.
    pub fn add(&mut self, name: &str) -> Here {
        let here = self.add_down(name);
        self.start(here);
        here
    }

    /// A machine of the account whose daemon does not run yet.
    pub fn add_down(&mut self, name: &str) -> Here {
        let here = Here(self.machines.len());
        let slot = Slot(u16::try_from(here.0 + 1).expect("few machines"));
        let chance = self.chance.fork();
        self.machines.push(SimMachine::new(name, slot, here.0 == 0, self.now_ms, chance));
        let all: BTreeSet<Slot> = self.machines.iter().map(|machine| machine.slot).collect();
        for machine in &mut self.machines {
            machine.enrol(&all, self.now_ms);
        }
        here
    }

    // ---- the network ----

    /// Lets every pair of machines connect.
    pub fn connect_all(&mut self) {
        let all: Vec<Here> = (0..self.machines.len()).map(Here).collect();
        for &a in &all {
            for &b in all.iter().filter(|&&b| b > a) {
                self.connect(a, b);
            }
        }
    }

    /// Lets two machines connect.
    pub fn connect(&mut self, a: Here, b: Here) {
        let link = self.links.entry((a.min(b), a.max(b))).or_default();
        link.allowed = true;
        link.redial_at = link.redial_at.max(self.now_ms);
    }

    /// Parts two machines until [`World::connect`].
    pub fn part(&mut self, a: Here, b: Here) {
        self.links.entry((a.min(b), a.max(b))).or_default().allowed = false;
        self.break_link(a, b);
    }

    /// Takes a machine off the network.
    pub fn go_offline(&mut self, here: Here) {
        for other in (0..self.machines.len()).map(Here).filter(|&other| other != here) {
            self.part(here, other);
        }
    }

    /// Brings a machine back to the network.
    pub fn go_online(&mut self, here: Here) {
        for other in (0..self.machines.len()).map(Here).filter(|&other| other != here) {
            self.connect(here, other);
        }
    }

    /// Breaks the connection of two machines; it comes up again by itself.
    pub fn break_link(&mut self, a: Here, b: Here) {
        let Some(link) = self.links.get_mut(&(a.min(b), a.max(b))).filter(|link| link.up) else { return };
        link.up = false;
        link.era += 1;
        link.redial_at = self.now_ms + REDIAL_MS;
        link.last_due.clear();
        let now_ms = self.now_ms;
        for (one, other) in [(a, b), (b, a)] {
            let slot = self.machines[other.0].slot;
            self.machines[one.0].handle(Event::PeerDown(slot), now_ms);
        }
    }

    fn dial(&mut self) {
        let due: Vec<(Here, Here)> = self
            .links
            .iter()
            .filter(|(_, link)| link.allowed && !link.up && link.redial_at <= self.now_ms)
            .map(|(pair, _)| *pair)
            .filter(|(a, b)| self.machines[a.0].is_up() && self.machines[b.0].is_up())
            .collect();
        for (a, b) in due {
            self.links.get_mut(&(a, b)).expect("just listed").up = true;
            for (one, other) in [(a, b), (b, a)] {
                let (slot, device) = (self.machines[other.0].slot, self.machines[other.0].device());
                self.machines[one.0].handle(Event::PeerUp(slot, device), self.now_ms);
            }
        }
    }

    fn post(&mut self, from: Here, to: Here, body: Post) {
        let delay = 1 + self.chance.bits() % self.slowest_ms.max(1);
        let Some(link) = self.links.get_mut(&(from.min(to), from.max(to))).filter(|link| link.up) else { return };
        let channel = (from, matches!(body, Post::Message(_)));
        let due = (self.now_ms + delay).max(link.last_due.get(&channel).copied().unwrap_or(0));
        link.last_due.insert(channel, due);
        self.next_letter += 1;
        self.letters.insert((due, self.next_letter), Letter { from, to, era: link.era, body });
    }

    // ---- machines ----

    /// Starts a daemon.
    pub fn start(&mut self, here: Here) {
        self.machines[here.0].start(self.now_ms);
    }

    /// A daemon dies, and stays down until [`World::start`].
    pub fn crash(&mut self, here: Here, how: Crash) {
        self.machines[here.0].crash(how, u64::MAX);
        self.drop_links(here);
    }

    fn drop_links(&mut self, here: Here) {
        for other in (0..self.machines.len()).map(Here).filter(|&other| other != here) {
            self.break_link(here, other);
        }
    }

    fn work(&mut self, here: Here) {
        let was_up = self.machines[here.0].is_up();
        let effects = self.machines[here.0].work(self.now_ms);
        let deeds = std::mem::take(&mut self.machines[here.0].disk.deeds);
        for deed in deeds {
            self.oracle.note(&self.machines, here, &deed);
        }
        if was_up && !self.machines[here.0].is_up() {
            self.drop_links(here);
            return;
        }
        for effect in effects {
            self.carry_out(here, effect);
        }
    }

    fn carry_out(&mut self, here: Here, effect: Effect) {
        match effect {
            Effect::Send(peer, message) => {
                match &message {
                    Message::Rows { rows, .. } if !rows.is_empty() => self.sent.rows += 1,
                    Message::Get { wants } => self.sent.wants += wants.len() as u64,
                    Message::Hello { .. }
                    | Message::Rows { .. }
                    | Message::State { .. }
                    | Message::Flush { .. }
                    | Message::Missing { .. } => {}
                    Message::Offer { contents } => self.sent.offers += contents.len() as u64,
                }
                self.post(here, at(peer), Post::Message(message));
            }
            Effect::End(peer, _) => self.break_link(here, at(peer)),
            Effect::Fetch { peer, hash, .. } => {
                self.sent.wants += 1;
                self.post(here, at(peer), Post::Fetch(hash));
            }
            // What an edit is made from is the daemon's: here the whole of it comes.
            Effect::Compare(peer, edits) => {
                for edit in edits {
                    self.sent.wants += 1;
                    self.post(here, at(peer), Post::Fetch(edit.hash));
                }
            }
            Effect::Serve(peer, found) => {
                for (hash, source) in found {
                    self.serve(here, at(peer), hash, source);
                }
            }
            Effect::Setting { .. } => self.machines[here.0].handle(Event::SettingTold, self.now_ms),
            Effect::Watch(_) | Effect::Drain(..) | Effect::Did(..) | Effect::StatusChanged => {
                unreachable!("a machine sees to these itself")
            }
        }
    }

    fn serve(&mut self, here: Here, to: Here, hash: ContentHash, source: Option<Source>) {
        let bytes = source.and_then(|source| self.machines[here.0].disk.serve(&source));
        match bytes.filter(|bytes| hash_of(bytes) == hash) {
            Some(bytes) => {
                self.oracle.may_travel(&bytes);
                self.sent.contents += 1;
                self.post(here, to, Post::Content(hash, bytes.to_vec()));
            }
            None => self.post(here, to, Post::Refused(hash)),
        }
    }

    fn deliver(&mut self, letter: Letter) {
        let Letter { from, to, era, body } = letter;
        let pair = (from.min(to), from.max(to));
        if self.links.get(&pair).is_none_or(|link| !link.up || link.era != era) {
            return;
        }
        let (sender, now_ms) = (self.machines[from.0].slot, self.now_ms);
        let receiver = &mut self.machines[to.0];
        match body {
            Post::Message(message) => {
                let rows = matches!(message, Message::Rows { .. });
                // Through the codec, so that what cannot be said is found here.
                let bytes = hearth_schemas::codec::encode(&message);
                let message = Message::decode(&bytes).expect("the core sends what the format allows");
                receiver.handle(Event::Said(sender, message), now_ms);
                if rows {
                    let peer = self.machines[to.0].slot;
                    self.machines[from.0].handle(Event::Sent(peer), now_ms);
                }
            }
            Post::Content(hash, bytes) => receiver.take_in(hash, bytes, now_ms),
            Post::Refused(hash) => receiver.handle(Event::Refused(sender, hash), now_ms),
            Post::Fetch(hash) => {
                let source = receiver.engine().locate(hash).expect("an index in memory");
                self.serve(to, from, hash, source);
            }
        }
    }

    // ---- time ----

    /// Does what is to be done at this moment, then moves the clock to the next. Gives whether there is one.
    pub fn step(&mut self, until_ms: u64) -> bool {
        for here in 0..self.machines.len() {
            if self.machines[here].down_until.is_some_and(|until| until <= self.now_ms) {
                self.start(Here(here));
            }
        }
        self.dial();
        let first = self.chance.below(self.machines.len());
        for i in 0..self.machines.len() {
            self.work(Here((first + i) % self.machines.len()));
        }
        while let Some(entry) = self.letters.first_entry().filter(|entry| entry.key().0 <= self.now_ms) {
            let letter = entry.remove();
            self.deliver(letter);
            // An engine that is busy takes in several events before it works again.
            let more = self.letters.first_key_value().is_some_and(|(due, _)| due.0 <= self.now_ms);
            if !more || self.chance.percent(self.eager) {
                (0..self.machines.len()).for_each(|here| self.work(Here(here)));
            }
        }
        match self.next_moment() {
            Some(next) if next <= until_ms => {
                self.now_ms = next.max(self.now_ms + 1);
                true
            }
            _ => false,
        }
    }

    fn next_moment(&self) -> Option<u64> {
        let letter = self.letters.keys().next().map(|(due, _)| *due);
        let wakes = self.machines.iter().filter_map(|machine| machine.wakes_at(self.now_ms));
        let dials = self.links.iter().filter(|((a, b), link)| {
            link.allowed && !link.up && self.machines[a.0].is_up() && self.machines[b.0].is_up()
        });
        letter.into_iter().chain(wakes).chain(dials.map(|(_, link)| link.redial_at)).min()
    }

    /// Lets time pass.
    pub fn run_for(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while self.step(until) {}
        self.now_ms = until;
    }

    /// Lets time pass until nothing is left to do, and nobody tells anybody how things stand any more.
    pub fn run_until_quiet(&mut self) {
        let until = self.now_ms + PATIENCE_MS;
        let mut steps = 0u32;
        while self.step(until) {
            steps += 1;
            assert!(steps < 200_000, "the world finds no rest; at {} ms\n{}", self.now_ms, self.describe());
        }
        let talk = self.letters.values().find_map(|letter| match &letter.body {
            Post::Message(message @ (Message::Rows { .. } | Message::State { .. })) => Some(message),
            Post::Message(_) | Post::Content(..) | Post::Fetch(_) | Post::Refused(_) => None,
        });
        // What was changed while it is held, or was marked before anybody had it, is asked for now and then.
        let held = |machine: &SimMachine| {
            machine.is_up()
                && (machine.engine().holds().next().is_some() || machine.engine().problems().next().is_some())
        };
        let held = self.machines.iter().any(held);
        assert!(talk.is_none() || held, "the talk finds no end: {talk:?}\n{}", self.describe());
    }

    // ---- people ----

    /// A person acts on a machine. Fails where a person's program would.
    pub fn act(&mut self, here: Here, act: &Act) -> std::io::Result<()> {
        let now_ms = self.now_ms;
        let machine = &mut self.machines[here.0];
        let wall_ns = i64::try_from(machine.wall_ms(now_ms) * 1_000_000).expect("the year is a usual one");
        machine.disk.tree.clock_ns = machine.disk.tree.clock_ns.max(wall_ns);
        let deed = machine.disk.act(act)?;
        self.oracle.note(&self.machines, here, &deed);
        Ok(())
    }

    /// Writes a file, with the directories that it needs.
    pub fn write(&mut self, here: Here, path: &str, text: &str) {
        self.directories_of(here, path);
        self.must(here, Act::Write(path.into(), text.into()));
    }

    /// Saves a file as most editors do: a temporary one renamed over the name.
    pub fn save(&mut self, here: Here, path: &str, text: &str) {
        self.must(here, Act::Save(path.into(), text.into()));
    }

    /// Makes a directory, with the directories that it needs.
    pub fn mkdir(&mut self, here: Here, path: &str) {
        self.directories_of(here, path);
        self.must(here, Act::Mkdir(path.into()));
    }

    /// Moves an entry.
    pub fn rename(&mut self, here: Here, from: &str, to: &str) {
        self.must(here, Act::Move(from.into(), to.into()));
    }

    /// Removes an entry and what is below it.
    pub fn remove(&mut self, here: Here, path: &str) {
        self.must(here, Act::Remove(path.into()));
    }

    /// Does what must be possible in this story.
    pub fn must(&mut self, here: Here, act: Act) {
        self.act(here, &act).unwrap_or_else(|error| panic!("{act:?}: {error}"));
    }

    fn directories_of(&mut self, here: Here, path: &str) {
        for (at, _) in path.match_indices('/') {
            let dir = &path.as_bytes()[..at];
            if !matches!(self.machines[here.0].disk.tree.look(dir), Ok(Some(_))) {
                self.must(here, Act::Mkdir(dir.to_vec()));
            }
        }
    }

    // ---- looking ----

    /// What stands on a disk, as a person sees it: a line for each path.
    pub fn listing(&self, here: Here) -> BTreeMap<String, String> {
        let tree = &self.machines[here.0].disk.tree;
        tree.walk()
            .into_iter()
            .map(|(path, ino)| {
                let what = match &tree.get(ino).body {
                    Body::File(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                    Body::Dir(_) => "/".to_owned(),
                    Body::Link(target) => format!("-> {}", String::from_utf8_lossy(target)),
                    Body::Socket => "=".to_owned(),
                };
                (String::from_utf8_lossy(&path).into_owned(), what)
            })
            .collect()
    }

    /// The paths on a disk.
    pub fn paths(&self, here: Here) -> Vec<String> {
        self.listing(here).into_keys().collect()
    }

    /// The content at a path.
    pub fn read(&self, here: Here, path: &str) -> Option<String> {
        self.listing(here).remove(path)
    }

    /// Everything about every machine, for the failed test's reader.
    pub fn describe(&self) -> String {
        let mut out = String::new();
        for (i, machine) in self.machines.iter().enumerate() {
            out += &format!("== {} (up: {})\n", machine.name, machine.is_up());
            out += &super::oracle::describe(machine);
            for (path, ino) in machine.disk.tree.walk() {
                let stat = machine.disk.tree.stat(ino);
                let listing = self.listing(Here(i));
                let text = listing.get(&*String::from_utf8_lossy(&path)).cloned().unwrap_or_default();
                out += &format!(
                    "   {:40} {:?} i{} {:o} {}.{:09} {:.40}\n",
                    String::from_utf8_lossy(&path),
                    stat.kind,
                    ino,
                    stat.mode,
                    stat.mtime.secs,
                    stat.mtime.nanos,
                    text
                );
            }
        }
        out
    }

    /// Asserts that all machines hold this text at this path.
    pub fn assert_same_everywhere(&self, path: &str, text: &str) {
        for i in 0..self.machines.len() {
            let found = self.read(Here(i), path);
            assert_eq!(found.as_deref(), Some(text), "{path} on {}\n{}", self.machines[i].name, self.describe());
        }
    }

    /// Asserts that all machines hold exactly these paths.
    pub fn assert_paths_everywhere(&self, paths: &[&str]) {
        for i in 0..self.machines.len() {
            assert_eq!(self.paths(Here(i)), paths, "on {}\n{}", self.machines[i].name, self.describe());
        }
    }

    /// Asserts for two minutes that a machine tells of a problem, and that no content goes anywhere for it.
    pub fn assert_told_and_not_brought_again(&mut self, here: Here) {
        let contents = self.sent.contents;
        let until = self.now_ms + 120_000;
        while self.now_ms < until && self.step(until) {
            assert!(self.machines[here.0].engine().problems().next().is_some(), "{}", self.describe());
        }
        assert_eq!(self.sent.contents, contents);
    }

    /// Asserts everything that must hold when all are connected and nothing is left to do.
    pub fn assert_in_order(&mut self) {
        super::oracle::assert_in_order(self);
    }

    /// Runs until quiet, then asserts everything that must hold.
    pub fn settle(&mut self) {
        self.run_until_quiet();
        self.assert_in_order();
    }
}

fn at(slot: Slot) -> Here {
    Here(usize::from(slot.0) - 1)
}
