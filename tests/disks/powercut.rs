//! Cuts the power of two machines while one feeds the other, at many places of what their disks were told.
//!
//! ```text
//!  laptop: a person creates, replaces, moves, removes ─► syncd ─ relay ─ syncd ─► desktop: somebody adds files, too
//!     └ file system ─ loop device ─┐                        ┌─ loop device ─ file system ┘
//!                                  └─ recorder: every write and flush, in one order
//!  then, for each cut: what was flushed, and any part of the rest ─► mount ─► both daemons ─► verdict
//! ```
//! People flush what they write, as careful programs do; so whatever is found half written is ours. The programs take
//! the time that they take: a seed brings back what people do and where the cuts are chosen, not the very same writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hearth_tests::answer::Displaced;
use hearth_tests::machine::{Kind, Machine};
use hearth_tests::pair::{LATER, init, join_by_code};
use hearth_tests::relay::Relay;
use hearth_tests::scratch::Scratch;
use hearth_tests::sim::chance::Chance;
use hearth_tests::tree::{self, Entry, noise};
use rusqlite::{Connection, OpenFlags};

use crate::image::{FileSystem, Mounted, copy};
use crate::recorder::Recorder;
use crate::say;
use crate::writes::{Flushed, Leaving, Order, Record};

/// In the order of their numbers on the record, which is that of their names.
const NAMES: [&str; 2] = ["desktop", "laptop"];
const DESKTOP: usize = 0;
const LAPTOP: usize = 1;
/// What people do altogether.
const ACTS: usize = 400;
/// After so many acts the other machine is waited for, so that it works all the time on little.
const STRIDE: usize = 12;
/// A name that the rules keep out: what an editor writes first.
const UNFINISHED: &str = ".goutputstream-";

/// Records one run, and cuts it so often.
pub(crate) fn play(system: FileSystem, seed: u64, cuts: usize) -> Result<()> {
    let scratch = Scratch::new()?;
    let played = record(system, seed, &scratch).and_then(|run| run.cut(cuts));
    played.with_context(|| {
        format!("power cuts on {}, seed {seed}; HEARTH_KEEP=1 keeps {}", system.name(), scratch.path().display())
    })
}

/// A run that is over, and what is owed to its people.
struct Run<'a> {
    system: FileSystem,
    scratch: &'a Scratch,
    recorder: Recorder,
    relay: Relay,
    record: Record,
    people: People,
    /// Lengths of the record between which the cuts are.
    begun: u64,
    ended: u64,
    chance: Chance,
}

/// What people wrote.
#[derive(Default)]
struct People {
    /// Every content, by hash.
    written: BTreeSet<String>,
    owed: Vec<Owed>,
    /// What stands in the laptop's home: which of `owed` it is.
    stands: BTreeMap<PathBuf, usize>,
    folders: Vec<PathBuf>,
    number: u64,
}

/// A content that its writer has flushed, and between which lengths of the record nobody has done away with it.
struct Owed {
    hash: String,
    from: u64,
    until: u64,
}

fn record(system: FileSystem, seed: u64, scratch: &Scratch) -> Result<Run<'_>> {
    let mut chance = Chance::new(seed);
    let recorder = Recorder::start(&scratch.path().join("disks"), system, &NAMES)?;
    let home = |name: &str| scratch.path().join(name).join("home");
    let mounted = NAMES.map(|name| Mounted::new(system, &recorder.disk(name), &home(name)));
    let mounted = mounted.into_iter().collect::<Result<Vec<_>>>()?;
    let relay = Relay::start(&scratch.path().join("relay"), None, "127.0.0.1")?;
    let mut machines = started(scratch)?;
    init(&machines[LAPTOP], relay.address())?;
    join_by_code(&machines[LAPTOP], &machines[DESKTOP], relay.address())?;
    machines[LAPTOP].settle(LATER)?;
    // That a machine has joined is known to all: cuts come after it.
    for machine in &machines {
        rustix::fs::syncfs(File::open(machine.home())?)?;
    }
    let begun = recorder.length()?;
    let mut people = People { folders: vec![PathBuf::new()], ..People::default() };
    for act in 1..=ACTS {
        people.act(&machines, &recorder, &mut chance)?;
        if act % STRIDE == 0 {
            people.wait_for_the_desktop(&machines)?;
        }
    }
    machines.iter().try_for_each(|machine| machine.settle(LATER))?;
    let ended = recorder.length()?;
    machines.iter_mut().try_for_each(Machine::kill)?;
    drop(machines);
    mounted.into_iter().try_for_each(Mounted::unmount)?;
    let record = Record::read(&recorder.record(), ended)?;
    let writes = record.orders.iter().filter(|order| order.begins >= begun && order.write.is_some()).count();
    let flushes = record.orders.iter().filter(|order| order.begins >= begun && order.write.is_none()).count();
    say(&format!("{}: {ACTS} acts, {writes} writes and {flushes} flushes recorded", system.name()));
    Ok(Run { system, scratch, recorder, relay, record, people, begun, ended, chance })
}

impl People {
    fn act(&mut self, machines: &[Machine], recorder: &Recorder, chance: &mut Chance) -> Result<()> {
        let home = machines[LAPTOP].home();
        let paths: Vec<PathBuf> = self.stands.keys().cloned().collect();
        let folder = chance.pick(&self.folders).cloned().unwrap_or_default();
        self.number += 1;
        let fresh = folder.join(format!("file {}", self.number));
        match (chance.below(100), chance.pick(&paths).cloned()) {
            (0..10, _) => {
                let path = PathBuf::from(format!("desk/file {}", self.number));
                self.write(&machines[DESKTOP].home(), &path, recorder, chance)?;
            }
            (10..15, _) if self.folders.len() < 8 => {
                let folder = folder.join(format!("folder {}", self.number));
                fs::create_dir(home.join(&folder)).context("making a directory")?;
                self.folders.push(folder);
            }
            (15..20, _) if self.folders.len() > 1 => self.move_folder(&home, chance)?,
            (20..50, Some(path)) => {
                let from = self.stands.get(&path).copied().context("it stands there")?;
                let before = recorder.length()?;
                let at = self.write(&home, &path, recorder, chance)?;
                self.owed[from].until = before;
                self.stands.insert(path, at);
            }
            (50..62, Some(path)) => {
                fs::rename(home.join(&path), home.join(&fresh)).context("moving a file")?;
                let at = self.stands.remove(&path).context("it stood there")?;
                self.stands.insert(fresh, at);
            }
            (62..75, Some(path)) => {
                let at = self.stands.remove(&path).context("it stood there")?;
                self.owed[at].until = recorder.length()?;
                fs::remove_file(home.join(&path)).context("removing a file")?;
            }
            _ => {
                let at = self.write(&home, &fresh, recorder, chance)?;
                self.stands.insert(fresh, at);
            }
        }
        Ok(())
    }

    /// Saves as a careful editor does. Returns which of the contents that are owed it is.
    fn write(&mut self, home: &Path, path: &Path, recorder: &Recorder, chance: &mut Chance) -> Result<usize> {
        let length = if chance.percent(80) { chance.below(3000) } else { chance.below(200_000) };
        let mut content = format!("{} at {}\0", self.number, path.display()).into_bytes();
        content.extend(noise(chance.bits(), length));
        let hash = blake3::hash(&content).to_hex().to_string();
        self.written.insert(hash.clone());
        let place = home.join(path);
        let folder = place.parent().context("a file is in a folder")?;
        fs::create_dir_all(folder).context("making a folder")?;
        let unfinished = folder.join(format!("{UNFINISHED}{}", self.number));
        let mut file = File::create(&unfinished).context("writing a file")?;
        file.write_all(&content).and_then(|()| file.sync_all()).context("writing a file")?;
        fs::rename(&unfinished, &place).context("putting a file in its place")?;
        File::open(folder).and_then(|folder| folder.sync_all()).context("flushing a folder")?;
        self.owed.push(Owed { hash, from: recorder.length()?, until: u64::MAX });
        Ok(self.owed.len() - 1)
    }

    fn move_folder(&mut self, home: &Path, chance: &mut Chance) -> Result<()> {
        let from = self.folders[1 + chance.below(self.folders.len() - 1)].clone();
        let to = from.with_file_name(format!("moved {}", self.number));
        fs::rename(home.join(&from), home.join(&to)).context("moving a directory")?;
        let moved = |path: &PathBuf| path.strip_prefix(&from).map_or_else(|_| path.clone(), |rest| to.join(rest));
        self.folders = self.folders.iter().map(moved).collect();
        self.stands = std::mem::take(&mut self.stands).into_iter().map(|(path, at)| (moved(&path), at)).collect();
        Ok(())
    }

    fn wait_for_the_desktop(&mut self, machines: &[Machine]) -> Result<()> {
        let path = PathBuf::from("stride");
        let text = format!("{}\0", self.number).into_bytes();
        self.written.insert(blake3::hash(&text).to_hex().to_string());
        // Not through `write`: the person is in a hurry, and nothing is owed.
        let unfinished = machines[LAPTOP].path(format!("{UNFINISHED}stride"));
        let mut file = File::create(&unfinished)?;
        file.write_all(&text).and_then(|()| file.sync_all())?;
        fs::rename(unfinished, machines[LAPTOP].path(&path))?;
        machines[DESKTOP].until_content(&path, &text, LATER).map(drop)
    }
}

/// One cut.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// The length of the record at that moment.
    at: u64,
    leaving: Leaving,
    /// The laptop has lived on to the end: the desktop comes up from an old disk.
    alone: bool,
}

impl Run<'_> {
    fn cut(mut self, cuts: usize) -> Result<()> {
        let cuts = self.choose(cuts);
        let before = |disk: usize| {
            let image = self.scratch.path().join(format!("flushed-{}", NAMES[disk]));
            copy(&self.recorder.before(NAMES[disk]), &image)?;
            anyhow::Ok((Flushed::begin(u8::try_from(disk)?, &image)?, image))
        };
        let mut flushed = [before(DESKTOP)?, before(LAPTOP)?];
        let last = self.scratch.path().join("disks/now").join(NAMES[LAPTOP]);
        self.recorder.stop()?;
        let mut seen = BTreeSet::new();
        for (number, cut) in cuts.iter().enumerate() {
            let begun = Instant::now();
            let mut images = Vec::new();
            let mut unflushed = 0;
            for (disk, (state, image)) in flushed.iter_mut().enumerate() {
                let copied = self.scratch.path().join(format!("cut-{}", NAMES[disk]));
                state.advance(&self.record, cut.at)?;
                if disk == LAPTOP && cut.alone {
                    copy(&last, &copied)?;
                } else {
                    copy(image, &copied)?;
                    let sector = self.system.sector();
                    unflushed += state.leave(&self.record, cut.at, &copied, cut.leaving, sector, &mut self.chance)?;
                }
                images.push(copied);
            }
            let judged = judge(self.system, self.scratch, &images, *cut, &self.people, &mut seen, self.ended);
            judged.with_context(|| format!("cut {number}: {cut:?}, {unflushed} writes were not flushed"))?;
            say(&format!(
                "{} cut {number}: {cut:?}, {unflushed} writes not flushed; all in order after {:.1} s",
                self.system.name(),
                begun.elapsed().as_secs_f64()
            ));
        }
        self.relay.stop()
    }

    fn choose(&mut self, cuts: usize) -> Vec<Cut> {
        let flushes: Vec<u64> = self.flushes().into_iter().map(|(order, _)| order.ends).collect();
        // Just before a flush that much waited for is where most can go wrong.
        let full: Vec<u64> =
            self.flushes().into_iter().filter(|(_, waiting)| *waiting > 2).map(|(order, _)| order.begins).collect();
        let mut chosen: Vec<Cut> = (0..cuts)
            .map(|number| {
                let anywhere = self.begun + self.chance.bits() % (self.ended - self.begun).max(1);
                let at_flush = self.chance.pick(&flushes).copied().unwrap_or(anywhere);
                let before_flush = self.chance.pick(&full).copied().unwrap_or(anywhere);
                let (at, leaving) = match number % 6 {
                    0 => (at_flush, Leaving::Flushed),
                    1 => (anywhere, Leaving::All),
                    2 => (anywhere, Leaving::Some(50)),
                    3 => (before_flush, Leaving::Some(30)),
                    4 => (before_flush, Leaving::Some(60)),
                    _ => (before_flush, Leaving::Some(90)),
                };
                Cut { at, leaving, alone: number % 7 == 6 }
            })
            .collect();
        chosen.sort_by_key(|cut| cut.at);
        chosen
    }

    /// The flushes among which cuts are chosen, with how many writes to their disk waited for each.
    fn flushes(&self) -> Vec<(Order, usize)> {
        let (mut found, mut waiting) = (Vec::new(), [0; NAMES.len()]);
        for order in &self.record.orders {
            let waiting = &mut waiting[usize::from(order.disk)];
            if order.write.is_some() {
                *waiting += 1;
            } else {
                let count = std::mem::take(waiting);
                found.extend((order.begins >= self.begun).then_some((*order, count)));
            }
        }
        found
    }
}

/// Starts both machines on what a cut left, and asks everything. What stood flushed on the desktop is owed from then on.
fn judge(
    system: FileSystem,
    scratch: &Scratch,
    images: &[PathBuf],
    cut: Cut,
    people: &People,
    seen: &mut BTreeSet<String>,
    ended: u64,
) -> Result<()> {
    let mounted: Vec<Mounted> = (NAMES.iter().zip(images))
        .map(|(name, image)| Mounted::new(system, image, &scratch.path().join(name).join("home")))
        .collect::<Result<_>>()?;
    for name in NAMES {
        let home = scratch.path().join(name).join("home");
        let found = whole(&home, people).with_context(|| format!("what the cut left on the {name}"))?;
        if name == NAMES[DESKTOP] && cut.leaving == Leaving::Flushed {
            seen.extend(found);
        }
    }
    let mut machines = started(scratch)?;
    machines.iter().try_for_each(|machine| machine.settle(LATER))?;
    tree::assert_equal(&machines[LAPTOP].home(), &machines[DESKTOP].home(), &tree::OWN)?;
    let mut kept = BTreeSet::new();
    for machine in &machines {
        let status = machine.status()?;
        ensure!(status.in_sync && status.problems.is_empty() && status.held == 0, "{}: {status:?}", machine.name());
        kept.extend(whole(&machine.home(), people)?);
        let history: Vec<Displaced> = machine.ask(["history", "--all"])?;
        kept.extend(history.into_iter().map(|row| row.blake3));
    }
    // The laptop that lived on had all the time to do away with things.
    let laptop_at = if cut.alone { ended } else { cut.at };
    let owed = people.owed.iter().filter(|owed| owed.from <= cut.at && laptop_at < owed.until).map(|owed| &owed.hash);
    let lost: Vec<&String> = owed.chain(seen.iter()).filter(|hash| !kept.contains(*hash)).collect();
    ensure!(lost.is_empty(), "lost: {lost:?}");
    let before = tree::read(&machines[DESKTOP].home(), &tree::OWN)?;
    machines.iter().try_for_each(|machine| machine.settle(LATER))?;
    ensure!(before == tree::read(&machines[DESKTOP].home(), &tree::OWN)?, "asking again changes something");
    machines.iter_mut().try_for_each(Machine::stop)?;
    for machine in &machines {
        sound(&machine.path(".local/state/hearth")).with_context(|| format!("the index of the {}", machine.name()))?;
        let log = fs::read_to_string(machine.log()).context("reading a log")?;
        ensure!(!log.contains("panicked at"), "syncd of the {} panicked", machine.name());
    }
    drop(machines);
    mounted.into_iter().try_for_each(Mounted::unmount)
}

/// The contents in a home; an error if one of them is no content that anybody wrote.
fn whole(home: &Path, people: &People) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (path, entry) in tree::read(home, &tree::OWN)? {
        let unfinished = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED));
        let Entry::File { hash, size, .. } = entry else { continue };
        let hash = hash.to_hex().to_string();
        if unfinished {
            // Nobody's any more, and in one home alone.
            fs::remove_file(home.join(&path)).context("removing what an editor left")?;
            continue;
        }
        ensure!(people.written.contains(&hash), "nobody wrote what is at {path:?}, {size} bytes");
        found.push(hash);
    }
    Ok(found)
}

/// The index passes SQLite's own check, and was never given up.
fn sound(state: &Path) -> Result<()> {
    let mut indexes = 0;
    for entry in fs::read_dir(state).context("listing the state directory")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ensure!(!name.contains(".broken"), "it was taken for damaged: {name}");
        if path.extension().is_some_and(|extension| extension == "db" || extension == "sqlite") {
            let index = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            let said: String = index.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
            ensure!(said == "ok", "{name}: {said}");
            indexes += 1;
        }
    }
    ensure!(indexes > 0, "there is none");
    Ok(())
}

fn started(scratch: &Scratch) -> Result<Vec<Machine>> {
    let start = |name: &&str| {
        let kind = Kind { session_bus: false, ..Kind::default() };
        let mut machine = Machine::new(scratch.path(), name, kind)?;
        machine.start()?;
        Ok(machine)
    };
    NAMES.iter().map(start).collect()
}
