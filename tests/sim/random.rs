//! Random people, networks and accidents: a whole world from one number.
//!
//! A world has rounds. In each, people act on their machines while links break and machines crash; then everything
//! is mended, and when the world is quiet all that the oracle asks must hold.

use std::collections::BTreeSet;

use syncd_core::brake::{Limits, Share, Verdict};
use syncd_core::disk::RelPath;
use syncd_core::engine::{Event, Portions};

use super::chance::Chance;
use super::disk::{Act, Crash, SEARCH};
use super::machine::{BESIDE, INSIDE, MARKED as TARGET};
use super::tree::{Body, below};
use super::world::{Here, World};

/// Names that people choose from: few, so that they meet.
const NAMES: [&str; 7] = ["a", "b", "c.txt", "d.txt", "dir", "sub", "x (conflict, m0, abcdef).txt"];
/// The same, where most of what they name is merged when two have changed it.
const DOTTED: [&str; 7] = [".bashrc", ".profile", ".d", "a", "c.txt", "dir", "x (conflict, m0, abcdef).txt"];
/// What databases are called.
const STORES: [&str; 2] = ["store", "c.txt"];
/// So many lines such a file has, of which a person changes one at a time.
const LINES: usize = 9;
const MACHINES: [&str; 4] = ["m0", "m1", "m2", "m3"];

/// What may go wrong in a world.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hardships {
    /// Links break and machines part.
    pub network: bool,
    /// Watchers lose sight.
    pub sightless: bool,
    /// Daemons are killed, machines lose power.
    pub crashes: bool,
    /// People act between two calls of the daemon.
    pub ambushes: bool,
    /// Calls to the disk fail; disks are full.
    pub disk: bool,
    /// Indexes are lost or restored from a backup.
    pub index: bool,
    /// Clocks are off by years.
    pub clocks: bool,
    /// Machines bring files along when they join.
    pub joins: bool,
    /// Files get second names.
    pub links: bool,
    /// A few removals or replacements are too many: they are held, and people say whether they were meant.
    pub brakes: bool,
    /// People change lines of files that are merged.
    pub merges: bool,
    /// People set extended attributes and give files second names all the time.
    pub attributes: bool,
    /// People mark directories as not to be synced, and take the marks away again.
    pub marks: bool,
    /// Programs keep files open and write to them later.
    pub writers: bool,
    /// Programs commit to databases that they have open.
    pub databases: bool,
}

/// The first of the seeds whose worlds have brakes.
pub const BRAKED: u64 = 1 << 40;
/// The first of the seeds in whose worlds files are merged.
pub const MERGED: u64 = 1 << 41;

/// The first of the seeds in whose worlds files have extended attributes and second names.
pub const NAMED: u64 = 1 << 42;
/// The first of the seeds in whose worlds programs keep files open.
pub const WRITTEN: u64 = 1 << 43;

/// The first of the seeds in whose worlds directories are marked.
pub const MARKED: u64 = 1 << 44;
/// In worlds with this bit small contents go along with the rows that tell of them.
pub const OFFERED: u64 = 1 << 46;

/// The first of the seeds in whose worlds programs have databases.
pub const STORED: u64 = 1 << 45;

/// What is too much there.
const LIMITS: Limits = Limits {
    removes: Share { items: 1, percent: 10 },
    bytes: u64::MAX,
    replaces: Share { items: 2, percent: 10 },
    window_ms: 600_000,
};

impl Hardships {
    /// The hardships of a seed: each alone, then all kinds of mixtures.
    pub fn of(seed: u64) -> Self {
        let mask = match seed % 20 {
            0 => 0,
            alone @ 1..=9 => 1 << (alone - 1),
            _ => Chance::new(seed).bits(),
        };
        let has = |bit: u32| mask >> bit & 1 == 1;
        Self {
            network: has(0),
            sightless: has(1),
            crashes: has(2),
            ambushes: has(3),
            disk: has(4),
            index: has(5),
            clocks: has(6),
            joins: has(7),
            links: has(8) || seed & NAMED != 0,
            brakes: seed & BRAKED != 0,
            merges: seed & MERGED != 0,
            attributes: seed & NAMED != 0,
            marks: seed & MARKED != 0,
            writers: seed & WRITTEN != 0,
            databases: seed & STORED != 0,
        }
    }
}

/// Plays the world of a seed, printing what happens if `tell` says so. Panics where something does not hold.
pub fn play(seed: u64, tell: bool) {
    let mut chance = Chance::new(seed ^ 0x5eed);
    let hardships = Hardships::of(seed);
    let mut world = World::new(seed);
    world.slowest_ms = *chance.pick(&[5, 50, 400]).expect("three speeds");
    world.eager = *chance.pick(&[0, 50, 100]).expect("three tempers");
    let count = 2 + chance.below(MACHINES.len() - 1);
    let mut player = Player { chance, hardships, tell, next_text: 0, backups: vec![None; count] };
    player.begin(&mut world, count, portions_of(seed));
    let rounds = 2 + player.chance.below(3);
    for round in 0..rounds {
        player.say(&world, || format!("-- round {round} --"));
        player.round(&mut world);
        player.mend(&mut world);
        world.run_until_quiet();
        if player.open_closed(&mut world) {
            world.run_until_quiet();
        }
        while player.judge(&mut world) {
            world.run_until_quiet();
        }
        world.assert_in_order();
        let frees = hardships.marks || hardships.databases;
        if frees && (round + 1 == rounds || player.chance.percent(50)) {
            match hardships.marks {
                true => player.unmark(&mut world),
                false => (0..count).for_each(|here| player.tidy_up(&mut world, Here(here))),
            }
            world.run_until_quiet();
            if player.open_closed(&mut world) {
                world.run_until_quiet();
            }
            world.assert_in_order();
        }
    }
}

/// How much the machines of a seed do at a time: in half of the worlds little, so that a few files fill many portions.
fn portions_of(seed: u64) -> Portions {
    let mut chance = Chance::new(seed ^ 0x9027);
    let mut few = |most| 1 + chance.below(most);
    let offers = if seed & OFFERED != 0 { 8 } else { 0 };
    if few(2) == 1 {
        return Portions { offers, ..Portions::default() };
    }
    let bytes = few(200) as u64;
    let usual = Portions::default();
    let found = if seed & OFFERED != 0 { 1 + (seed % 4) as usize } else { usual.found };
    let (spots, nodes, rows) = (few(6), few(8), few(5));
    Portions { spots, found, nodes, rows, apply: (few(4), bytes), fetch: (few(6), 4 * bytes), offers }
}

struct Player {
    chance: Chance,
    hardships: Hardships,
    tell: bool,
    next_text: u32,
    backups: Vec<Option<syncd_core::store::MemoryStore>>,
}

impl Player {
    #[expect(clippy::print_stderr, reason = "the replay program tells what happens")]
    fn say(&self, world: &World, what: impl FnOnce() -> String) {
        if self.tell {
            eprintln!("{:>9} {}", world.now_ms % 1_000_000_000, what());
        }
    }

    fn begin(&mut self, world: &mut World, count: usize, portions: Portions) {
        let all: Vec<Here> = MACHINES.iter().take(count).map(|name| world.add_down(name)).collect();
        if self.hardships.clocks {
            let years = 365 * 86_400_000;
            for machine in &mut world.machines {
                machine.skew_ms = (self.chance.bits() % 20) as i64 * years - 10 * years;
            }
        }
        if self.hardships.joins {
            for &here in &all {
                for _ in 0..self.chance.below(8) {
                    self.act(world, here);
                }
            }
        }
        for &here in &all {
            world.machines[here.0].portions = portions;
            if self.hardships.writers || self.hardships.databases {
                world.machines[here.0].disk.leases = self.chance.percent(70);
            }
            if self.hardships.brakes {
                world.machines[here.0].limits = LIMITS;
            }
            world.start(here);
        }
        world.connect_all();
        self.close_files(world);
        world.settle();
    }

    fn round(&mut self, world: &mut World) {
        let all: Vec<Here> = (0..world.machines.len()).map(Here).collect();
        if self.hardships.network && self.chance.percent(60) {
            for &here in &all {
                if self.chance.percent(50) {
                    self.say(world, || format!("{here:?} goes offline"));
                    world.go_offline(here);
                }
            }
        }
        if self.hardships.sightless {
            world.machines.iter_mut().for_each(|machine| machine.sightless = 20);
        }
        for _ in 0..3 + self.chance.below(25) {
            let here = all[self.chance.below(all.len())];
            match self.chance.below(10) {
                0..=5 => self.act(world, here),
                6 if self.hardships.brakes && self.chance.percent(20) => {
                    self.judge(world);
                }
                6 | 7 => {
                    let ms = [0, 30, 150, 700, 3000][self.chance.below(5)];
                    self.say(world, || format!("{ms} ms pass"));
                    world.run_for(ms);
                }
                _ => self.accident(world, here),
            }
        }
        let ms = self.chance.bits() % 400;
        world.run_for(ms);
    }

    fn accident(&mut self, world: &mut World, here: Here) {
        let all = world.machines.len();
        let other = Here((here.0 + 1 + self.chance.below(all - 1)) % all);
        match self.chance.below(7) {
            0 if self.hardships.network => {
                self.say(world, || format!("the link of {here:?} and {other:?} breaks"));
                world.break_link(here, other);
            }
            1 if self.hardships.network => {
                self.say(world, || format!("{here:?} and {other:?} part"));
                world.part(here, other);
            }
            2 if self.hardships.network => world.connect(here, other),
            3 if self.hardships.crashes && world.machines[here.0].is_up() => {
                let how = if self.chance.percent(50) { Crash::Kill } else { Crash::PowerCut };
                let calls = self.chance.below(25) as u32;
                self.say(world, || format!("{here:?} will crash in {calls} calls: {how:?}"));
                world.machines[here.0].arm(calls, how);
            }
            4 if self.hardships.ambushes => {
                if let Some(act) = self.choose(world, here) {
                    let calls = self.chance.below(30) as u32;
                    self.say(world, || format!("{here:?} will in {calls} calls {act:?}"));
                    world.machines[here.0].disk.ambush(calls, act);
                }
            }
            5 if self.hardships.disk => {
                let disk = &mut world.machines[here.0].disk;
                disk.full = self.chance.percent(30);
                disk.failing = if self.chance.percent(50) { 10 } else { 0 };
                let (full, failing) = (disk.full, disk.failing);
                self.say(world, || format!("the disk of {here:?}: full {full}, failing {failing} %"));
            }
            6 if self.hardships.index => self.lose_index(world, here),
            _ => {}
        }
    }

    fn lose_index(&mut self, world: &mut World, here: Here) {
        world.crash(here, Crash::Kill);
        let backup = self.backups[here.0].take();
        match backup {
            Some(store) if self.chance.percent(50) => {
                self.say(world, || format!("{here:?} gets its index back from a backup"));
                world.machines[here.0].restore_index(store);
            }
            _ if self.chance.percent(50) => {
                self.say(world, || format!("the index of {here:?} is lost"));
                world.machines[here.0].lose_index();
            }
            _ => {
                self.say(world, || format!("the index of {here:?} is backed up"));
                self.backups[here.0] = Some(world.machines[here.0].index());
            }
        }
        world.start(here);
    }

    /// Everything works again.
    fn mend(&mut self, world: &mut World) {
        for machine in &mut world.machines {
            machine.disk.full = false;
            machine.disk.failing = 0;
            machine.sightless = 0;
            machine.disk.call_off();
        }
        self.close_files(world);
        for here in (0..world.machines.len()).map(Here) {
            if world.machines[here.0].disk.is_armed() {
                if world.machines[here.0].is_up() {
                    world.crash(here, Crash::Kill);
                }
                world.start(here);
            } else if !world.machines[here.0].is_up() {
                world.start(here);
            }
            if self.hardships.sightless || self.hardships.ambushes || self.hardships.links {
                let now_ms = world.now_ms;
                world.machines[here.0].handle(Event::Overflowed, now_ms);
            }
        }
        world.connect_all();
    }

    /// Every program closes what it has open. One with a database may be killed instead; where nobody but what it leaves
    /// tells that it had it open, another one tidies up after it.
    fn close_files(&mut self, world: &mut World) {
        let all = if self.hardships.databases { world.machines.len() } else { 0 };
        for here in (0..all).map(Here) {
            if !world.machines[here.0].disk.leases {
                self.tidy_up(world, here);
            }
            loop {
                let tidily = self.chance.percent(50);
                if world.act(here, &Act::End(0, tidily)).is_err() {
                    break;
                }
                self.say(world, || format!("{here:?} ends a program with a database, tidily {tidily}"));
            }
        }
        for here in (0..world.machines.len()).map(Here) {
            while world.act(here, &Act::Close(0)).is_ok() {
                self.say(world, || format!("{here:?} closes a file"));
            }
        }
    }

    /// Programs open every database, and close it again.
    fn tidy_up(&mut self, world: &mut World, here: Here) {
        for (path, _) in world.machines[here.0].disk.tree.walk() {
            if world.machines[here.0].disk.committed_at(&path).is_some() {
                // It may be open already.
                let _ = world.act(here, &Act::Begin(path, Vec::new()));
            }
        }
        self.say(world, || format!("{here:?} tidies up its databases"));
        while world.act(here, &Act::End(0, true)).is_ok() {}
    }

    /// An ambush may have given a directory the mode that a file was to get, so that nobody can look into it: a person
    /// who is told so opens it. Gives whether there was one.
    fn open_closed(&mut self, world: &mut World) -> bool {
        let mut opened = false;
        for here in (0..world.machines.len()).map(Here) {
            let tree = &world.machines[here.0].disk.tree;
            let is_closed = |ino| matches!(tree.get(ino).body, Body::Dir(_)) && tree.get(ino).mode & SEARCH == 0;
            let closed: Vec<RelPath> =
                tree.walk().into_iter().filter(|(_, ino)| is_closed(*ino)).map(|(p, _)| p).collect();
            for path in closed {
                let act = Act::Chmod(path, 0o755);
                self.say(world, || format!("{here:?} {act:?}"));
                world.act(here, &act).expect("a directory that stands there");
                opened = true;
            }
        }
        opened
    }

    /// Somebody says of a hold that they see whether it was meant. Gives whether there was one.
    fn judge(&mut self, world: &mut World) -> bool {
        let mut seen: Vec<(Here, String)> = Vec::new();
        for here in (0..world.machines.len()).map(Here).filter(|here| world.machines[here.0].is_up()) {
            let holds = world.machines[here.0].engine().holds();
            seen.extend(holds.map(|(id, _)| (here, id.to_owned())));
        }
        let Some((here, id)) = self.chance.pick(&seen).cloned() else { return false };
        let verdict = if self.chance.percent(50) { Verdict::Release } else { Verdict::Undo };
        self.say(world, || format!("{here:?} says of {id}: {verdict:?}"));
        let now_ms = world.now_ms;
        world.machines[here.0].handle(Event::Judged(id, verdict), now_ms);
        true
    }

    fn act(&mut self, world: &mut World, here: Here) {
        let Some(act) = self.choose(world, here) else { return };
        let text = self.tell.then(|| format!("{here:?} {act:?}"));
        if world.act(here, &act).is_ok() {
            self.say(world, || text.unwrap_or_default());
        }
    }

    /// People take away every mark on every machine.
    fn unmark(&mut self, world: &mut World) {
        for here in (0..world.machines.len()).map(Here) {
            let paths: Vec<RelPath> =
                world.machines[here.0].disk.tree.walk().into_iter().map(|(path, _)| path).collect();
            let is_marker = |path: &&RelPath| {
                let name = path.rsplit(|&byte| byte == b'/').next();
                name == Some(INSIDE.as_bytes()) || name == Some(BESIDE.as_bytes())
            };
            for path in paths.iter().filter(is_marker) {
                self.say(world, || format!("{here:?} takes {} away", String::from_utf8_lossy(path)));
                // It may be in a directory that is one.
                let _ = world.act(here, &Act::Remove(path.clone()));
            }
        }
    }

    /// Something that a person could do on this machine.
    fn choose(&mut self, world: &World, here: Here) -> Option<Act> {
        let tree = &world.machines[here.0].disk.tree;
        let mut dirs: Vec<RelPath> = vec![RelPath::new()];
        let mut leaves: Vec<RelPath> = Vec::new();
        for (path, ino) in tree.walk() {
            match tree.get(ino).body {
                Body::Dir(_) => dirs.push(path),
                Body::File(_) | Body::Link(_) => leaves.push(path),
                Body::Socket => {}
            }
        }
        dirs.retain(|dir| dir.iter().filter(|&&byte| byte == b'/').count() < 4);
        let chance = &mut self.chance;
        let dir = chance.pick(&dirs)?.clone();
        let names = if self.hardships.merges { &DOTTED } else { &NAMES };
        let fresh = below(&dir, chance.pick(names)?.as_bytes());
        let mut all = leaves.clone();
        all.extend(dirs.iter().filter(|dir| !dir.is_empty()).cloned());
        all = all.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        self.next_text += 1;
        let text = match chance.below(20) {
            0..=2 => format!("same {}", chance.below(3)),
            3 => String::new(),
            4 if chance.percent(20) => format!("{here:?} {} {}", self.next_text, "long ".repeat(60_000)),
            _ => format!("{here:?} {}", self.next_text),
        };
        if self.hardships.marks && chance.percent(25) {
            let markers = |path: &&RelPath| path.ends_with(INSIDE.as_bytes()) || path.ends_with(BESIDE.as_bytes());
            let markers: Vec<RelPath> = leaves.iter().filter(markers).cloned().collect();
            return Some(match chance.below(5) {
                0 | 1 => Act::Write(below(&dir, INSIDE.as_bytes()), Vec::new()),
                2 => Act::Write(below(&dir, BESIDE.as_bytes()), text.into()),
                3 => Act::Mkdir(below(&dir, TARGET.as_bytes())),
                _ => Act::Remove(chance.pick(&markers)?.clone()),
            });
        }
        if self.hardships.databases && chance.percent(45) {
            let store = below(&dir, chance.pick(&STORES)?.as_bytes());
            let pages = [vec![0], vec![1], vec![0, 1], vec![1, 0]];
            return Some(match chance.below(10) {
                0..=2 => Act::Begin(store, text.into()),
                3..=6 => Act::Commit(chance.below(4), chance.pick(&pages)?.clone(), text.into()),
                7 => Act::Checkpoint(chance.below(4), chance.below(3)),
                8 => Act::Checkpoint(chance.below(4), usize::MAX),
                _ => Act::End(chance.below(4), chance.percent(60)),
            });
        }
        if self.hardships.attributes && chance.percent(20) {
            let name = if chance.percent(50) { "user.colour" } else { "user.xdg.comment" };
            return Some(match chance.below(4) {
                0 => Act::HardLink(chance.pick(&leaves)?.clone(), fresh),
                1 => Act::Setfattr(chance.pick(&all)?.clone(), name.into(), None),
                _ => Act::Setfattr(
                    chance.pick(&all)?.clone(),
                    name.into(),
                    Some(text.into_bytes().into_iter().take(30).collect()),
                ),
            });
        }
        if self.hardships.writers && chance.percent(30) {
            return Some(match chance.below(8) {
                0..=2 => Act::Open(chance.pick(&leaves)?.clone()),
                3..=6 => Act::WriteOpen(chance.below(8), text.into()),
                _ => Act::Close(chance.below(8)),
            });
        }
        let act = match chance.below(24) {
            0..=2 => Act::Write(fresh, text.into()),
            3..=5 => Act::Write(chance.pick(&leaves)?.clone(), text.into()),
            6 | 7 => Act::Save(chance.pick(&leaves)?.clone(), text.into()),
            8..=10 => Act::Mkdir(fresh),
            11..=14 => Act::Move(chance.pick(&all)?.clone(), fresh),
            15 => Act::Move(chance.pick(&all)?.clone(), chance.pick(&all)?.clone()),
            16 | 17 => Act::Remove(chance.pick(&all)?.clone()),
            18 => Act::Remove(chance.pick(&leaves)?.clone()),
            19 => Act::Link(fresh, text.get(..text.len().min(9)).filter(|t| !t.is_empty())?.into()),
            20 => Act::Swap(chance.pick(&all)?.clone(), chance.pick(&all)?.clone()),
            21 => {
                let path = chance.pick(&all)?.clone();
                let is_dir = dirs.contains(&path);
                let modes: [u16; 3] = if is_dir { [0o755, 0o700, 0o555] } else { [0o644, 0o600, 0o755] };
                Act::Chmod(path, *chance.pick(&modes)?)
            }
            22 => Act::Touch(chance.pick(&all)?.clone(), 1_000_000_000 + chance.below(1000) as i64),
            _ if self.hardships.links => Act::HardLink(chance.pick(&leaves)?.clone(), fresh),
            _ => Act::Save(chance.pick(&leaves)?.clone(), text.into()),
        };
        Some(match act {
            Act::Write(path, text) if self.hardships.merges => {
                let text = self.one_line(world, here, &path, text);
                Act::Write(path, text)
            }
            Act::Save(path, text) if self.hardships.merges => {
                let text = self.one_line(world, here, &path, text);
                Act::Save(path, text)
            }
            other => other,
        })
    }

    /// What a file holds here, with one line changed to this.
    fn one_line(&mut self, world: &World, here: Here, path: &[u8], text: Vec<u8>) -> Vec<u8> {
        let tree = &world.machines[here.0].disk.tree;
        let held = tree.look(path).ok().flatten().and_then(|ino| tree.bytes(ino).ok());
        let mut lines: Vec<Vec<u8>> =
            held.iter().flat_map(|held| held.split(|&byte| byte == b'\n')).map(<[u8]>::to_vec).collect();
        lines.resize_with(LINES, || b"-".to_vec());
        lines[self.chance.below(LINES)] = text;
        lines.join(&b'\n')
    }
}
