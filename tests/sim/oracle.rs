//! What must hold, asked more simply than the product answers it.
//!
//! Records every content that a person closed and the moment it was their own doing that the last of it went. When
//! all machines are connected and quiet: all disks alike, every engine clean and of one state, a second look changes
//! nothing, and every content that nobody did away with is live or in some history.

use std::collections::{BTreeMap, BTreeSet};

use hearth_schemas::ids::ContentHash;
use hearth_schemas::item::{Attributes, Class, FileTime, Value};
use syncd_core::database::is_image;
use syncd_core::disk::{RelPath, join};
use syncd_core::engine::Event;
use syncd_core::store::Store;

use super::database::{is_database, is_of_companion};
use super::disk::{Deed, hash_of};
use super::machine::{BESIDE, INSIDE, MARKED, SimMachine};
use super::tree::{Body, below, split};
use super::world::{Here, World};

/// Contents that must be somewhere.
#[derive(Default)]
pub struct Oracle {
    owed: BTreeMap<ContentHash, String>,
    /// What was ever committed to a database.
    committed: BTreeSet<ContentHash>,
}

impl Oracle {
    /// Takes note of what a person did.
    pub fn note(&mut self, machines: &[SimMachine], here: Here, deed: &Deed) {
        for bytes in &deed.destroyed {
            let hash = hash_of(bytes);
            let elsewhere = machines
                .iter()
                .enumerate()
                .any(|(i, machine)| i != here.0 && machine.disk.is_durable() && held(machine).contains(&hash));
            if !elsewhere {
                // It never left this machine: the person's own to do away with.
                self.owed.remove(&hash);
            }
        }
        for bytes in deed.written.iter().filter(|bytes| !bytes.is_empty()) {
            if is_database(bytes) {
                self.committed.insert(hash_of(bytes));
            }
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            self.owed.insert(hash_of(bytes), text);
        }
    }

    /// Whether a content was written and not done away with by the person.
    pub fn owes(&self, text: &str) -> bool {
        self.owed.contains_key(&hash_of(text.as_bytes()))
    }

    /// Asserts that a content may leave a machine: a database as it was committed, and none of what belongs to one.
    pub fn may_travel(&self, bytes: &[u8]) {
        assert!(!is_of_companion(bytes), "a log of a database travels");
        assert!(!is_database(bytes) || self.committed.contains(&hash_of(bytes)), "a torn database travels");
    }

    /// Contents that are owed and nowhere.
    pub fn lost(&self, machines: &[SimMachine]) -> Vec<String> {
        let all: BTreeSet<ContentHash> = machines.iter().flat_map(held).collect();
        self.owed.iter().filter(|(hash, _)| !all.contains(hash)).map(|(_, text)| text.clone()).collect()
    }
}

/// Contents of a machine's files, and of what a person can have back from its history.
fn held(machine: &SimMachine) -> BTreeSet<ContentHash> {
    let tree = &machine.disk.tree;
    let kept = machine.disk.displaced().filter(|(name, _)| machine.knows_kept(name)).map(|(_, ino)| ino);
    live(machine).chain(kept.filter_map(|ino| tree.bytes(ino).ok()).map(|bytes| hash_of(&bytes))).collect()
}

/// Contents of the files that stand on a machine; of databases, what is committed.
fn live(machine: &SimMachine) -> impl Iterator<Item = ContentHash> {
    machine
        .disk
        .tree
        .walk()
        .into_iter()
        .filter_map(|(path, ino)| shown(machine, &path, ino))
        .map(|bytes| hash_of(&bytes))
}

/// What a person would say that a file holds; `None` for what belongs to a database, and for what is no file.
fn shown(machine: &SimMachine, path: &[u8], ino: u64) -> Option<Vec<u8>> {
    if machine.disk.is_companion(path, ino) {
        return None;
    }
    let whole = machine.disk.committed_at(path);
    whole.or_else(|| machine.disk.tree.bytes(ino).ok().map(|bytes| bytes.to_vec()))
}

/// Everything that must hold when all are connected and nothing is left to do.
pub(super) fn assert_in_order(world: &mut World) {
    assert_clean(world);
    assert_alike(world);
    assert_whole(world);
    let lost = world.oracle.lost(&world.machines);
    assert!(lost.is_empty(), "lost: {lost:?}\n{}", world.describe());
    let calls = |world: &World| world.machines.iter().map(|machine| machine.disk.changes).collect::<Vec<u64>>();
    let disks = |world: &World| world.machines.iter().map(everything).collect::<Vec<_>>();
    let (calls_before, disks_before) = (calls(world), disks(world));
    let sent = world.sent;
    let now_ms = world.now_ms;
    for machine in &mut world.machines {
        machine.handle(Event::Overflowed, now_ms);
    }
    world.run_until_quiet();
    assert_eq!(disks_before, disks(world), "a second look changed a disk\n{}", world.describe());
    if world.machines.iter().all(|machine| machine.engine().problems().next().is_none()) {
        assert_eq!(calls_before, calls(world), "a second look tried to change a disk\n{}", world.describe());
        assert_eq!(sent, world.sent, "a second look sent something\n{}", world.describe());
    }
    // What cannot be applied is tried again, and may be asked for again; nobody has anything to tell for that.
    assert_eq!(sent.rows, world.sent.rows, "a second look told something\n{}", world.describe());
    assert_alike(world);
    assert_clean(world);
}

/// Every database is as it was at some commit.
fn assert_whole(world: &World) {
    for machine in &world.machines {
        for (path, _) in machine.disk.tree.walk() {
            let whole = machine.disk.committed_at(&path);
            let is_whole = whole.is_none_or(|whole| world.oracle.committed.contains(&hash_of(&whole)));
            assert!(is_whole, "{} of {} is torn\n{}", name_of(&path), machine.name, world.describe());
        }
    }
}

/// Every two disks are alike, but for what is marked on one of them and what one of them tells that it cannot apply.
fn assert_alike(world: &World) {
    let pictures: Vec<BTreeMap<String, String>> = world.machines.iter().map(picture).collect();
    let own: Vec<BTreeSet<String>> = world.machines.iter().map(own_business).collect();
    for i in 0..pictures.len() {
        for j in 0..i {
            let differ = differences((&pictures[i], &own[i]), (&pictures[j], &own[j]));
            assert!(
                differ.is_empty(),
                "{} and {} differ: {differ:#?}\n{}",
                world.machines[i].name,
                world.machines[j].name,
                world.describe()
            );
        }
    }
}

/// A disk, and the paths on it that are its own business with all that is below them.
type Shown<'a> = (&'a BTreeMap<String, String>, &'a BTreeSet<String>);

fn differences<'a>(a: Shown<'a>, b: Shown<'a>) -> Vec<(&'a String, Option<&'a String>, Option<&'a String>)> {
    let is_own = |path: &str| [a, b].iter().any(|(_, own)| own.iter().any(|dir| is_at_or_below(path, dir)));
    // A directory that was deleted stays for what is not synced in it, as long as it holds nothing else.
    let is_residue = |(picture, own): Shown<'_>, dir: &str| {
        let mut inside = picture.keys().filter(|path| is_below(path, dir)).peekable();
        inside.peek().is_some()
            && inside.all(|path| is_own(path) || own.iter().any(|marked| is_below(marked, path)))
            && own.iter().any(|marked| is_below(marked, dir) && picture.contains_key(marked))
    };
    let mut paths: BTreeSet<&String> = a.0.keys().chain(b.0.keys()).collect();
    paths.retain(|path| a.0.get(*path) != b.0.get(*path) && !is_own(path));
    paths.retain(|path| match (a.0.contains_key(*path), b.0.contains_key(*path)) {
        (true, false) => !is_residue(a, path),
        (false, true) => !is_residue(b, path),
        _ => true,
    });
    paths.into_iter().map(|path| (path, a.0.get(path), b.0.get(path))).collect()
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

fn is_at_or_below(path: &str, dir: &str) -> bool {
    path == dir || is_below(path, dir)
}

/// What a machine need not have as the others do: what is marked on it, what it tells that it cannot apply, and what it
/// would have to put there.
fn own_business(machine: &SimMachine) -> BTreeSet<String> {
    let mut own = marked(machine);
    own.extend(not_made(machine));
    for problem in machine.engine().problems() {
        let there = machine.engine().shown_at(&problem.path).expect("an index in memory");
        own.extend(there.into_iter().chain([problem.path.clone()]).map(|path| name_of(&path)));
    }
    let tree = &machine.disk.tree;
    loop {
        let mut more = BTreeSet::new();
        for (path, _) in tree.walk() {
            let there = machine.engine().shown_at(&path).expect("an index in memory").map(|path| name_of(&path));
            if there.is_some_and(|there| own.iter().any(|dir| is_at_or_below(&there, dir))) {
                more.insert(name_of(&path));
            }
        }
        let before = own.len();
        own.extend(more);
        if own.len() == before {
            return own;
        }
    }
}

/// The directories of the account that a machine does not make, as they would be marked there.
fn not_made(machine: &SimMachine) -> BTreeSet<String> {
    let (tree, state) = (&machine.disk.tree, &machine.engine().state);
    let mut not_made = BTreeSet::new();
    for row in state.store.rows_of(Class::Dir).expect("an index in memory") {
        let Some(target) = state.view().target_of(row.id).expect("an index in memory") else { continue };
        let dir = state.tree.shape().path(target.parent);
        let beside = tree.look(&below(&dir, BESIDE.as_bytes()));
        let is_beside = matches!(beside, Ok(Some(ino)) if matches!(tree.get(ino).body, Body::File(_)));
        let path = join(&dir, &target.name);
        if is_beside && split(&path).1 == MARKED.as_bytes() {
            not_made.insert(name_of(&path));
        }
    }
    not_made
}

/// The directories that are marked on a machine.
fn marked(machine: &SimMachine) -> BTreeSet<String> {
    let tree = &machine.disk.tree;
    let file = |path: RelPath| matches!(tree.look(&path), Ok(Some(ino)) if matches!(tree.get(ino).body, Body::File(_)));
    let mut marked = BTreeSet::new();
    for (path, ino) in tree.walk() {
        let (dir, last) = split(&path);
        let build = last == MARKED.as_bytes() && file(below(dir, BESIDE.as_bytes()));
        if matches!(tree.get(ino).body, Body::Dir(_)) && (build || file(below(&path, INSIDE.as_bytes()))) {
            marked.insert(name_of(&path));
        }
    }
    marked
}

fn name_of(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}

/// Whether something marked, or a directory that is left for that, stands at a path.
fn stands_in_the_way(machine: &SimMachine, path: &RelPath) -> bool {
    let name = name_of(path);
    let is_marked = marked(machine).iter().any(|dir| is_at_or_below(&name, dir) || is_below(dir, &name));
    is_marked && machine.disk.tree.look(path).is_ok_and(|found| found.is_some())
}

/// Whether the database at a path, or what the account wants to have there, has a log that no program has tidied up.
fn is_not_tidied_up(machine: &SimMachine, path: &RelPath) -> bool {
    let disk = &machine.disk;
    disk.tree.walk().into_iter().any(|(at, _)| {
        let is_it = at == *path || machine.engine().shown_at(&at).expect("an index in memory").as_ref() == Some(path);
        is_it && disk.committed_at(&at).is_some() && disk.is_in_use(&at)
    })
}

/// Whether the account has a content at a path that no machine can give: where it was written, a mark came before
/// anybody had it.
fn is_kept_back(world: &World, machine: &SimMachine, path: &RelPath) -> bool {
    let mut to_be_had: BTreeSet<ContentHash> = BTreeSet::new();
    let mut has_marks = false;
    for machine in &world.machines {
        let tree = &machine.disk.tree;
        let marked = marked(machine);
        has_marks |= !marked.is_empty();
        for (path, ino) in tree.walk() {
            if !marked.iter().any(|dir| is_at_or_below(&name_of(&path), dir)) {
                to_be_had.extend(tree.bytes(ino).ok().map(|bytes| hash_of(&bytes)));
            }
        }
    }
    let state = &machine.engine().state;
    let mut wanted = BTreeSet::new();
    for row in state.store.rows_of(Class::Leaf).expect("an index in memory") {
        let target = state.view().target_of(row.id).expect("an index in memory");
        if target.is_some_and(|target| join(&state.tree.shape().path(target.parent), &target.name) == *path) {
            wanted.extend(row.content.values().filter_map(|content| match content.value {
                Value::File { hash, .. } => Some(hash),
                Value::Dir | Value::Link { .. } | Value::Setting { .. } | Value::Replica { .. } => None,
            }));
        }
    }
    has_marks && wanted.iter().any(|hash| !to_be_had.contains(hash))
}

/// A machine is clean unless it tells of a problem, which must have its reason in what is marked.
fn assert_clean(world: &World) {
    let first = &world.machines[0].engine().state.store;
    let is_clean = |machine: &SimMachine| machine.engine().problems().next().is_none();
    let clean = world.machines.iter().filter(|machine| is_clean(machine)).count();
    for machine in &world.machines {
        let summary = machine.engine().summary().expect("an index in memory");
        let problems: Vec<_> = machine.engine().problems().collect();
        assert_eq!(
            summary.standing.clean,
            is_clean(machine),
            "whether {} is clean: {problems:?} {summary:?}\n{}",
            machine.name,
            world.describe()
        );
        for problem in problems {
            let explained = stands_in_the_way(machine, &problem.path)
                || is_kept_back(world, machine, &problem.path)
                || is_not_tidied_up(machine, &problem.path);
            assert!(explained, "{} has no reason for {problem:?}\n{}", machine.name, world.describe());
        }
    }
    for machine in &world.machines {
        let (store, engine) = (&machine.engine().state.store, machine.engine());
        let summary = engine.summary().expect("an index in memory");
        assert_eq!(store.digest(), first.digest(), "digest of {}\n{}", machine.name, world.describe());
        let (known, theirs) = (store.known(), first.known());
        let same =
            known.len() == theirs.len() && known.iter().all(|(r, k)| theirs.get(r).is_some_and(|t| t.seq == k.seq));
        assert!(same, "{} knows {known:?}, not {theirs:?}\n{}", machine.name, world.describe());
        let agreeing = if is_clean(machine) { clean - 1 } else { 0 };
        assert_eq!(summary.agreeing.len(), agreeing, "who agrees with {}: {summary:?}", machine.name);
        let left = machine.disk.tree.staging.keys().any(|name| !is_image(name));
        let tidy = !left || machine.disk.has_failed;
        assert!(tidy, "staging of {} is not empty", machine.name);
    }
}

/// All that is on a disk, told apart from what was made anew in the same way.
fn everything(machine: &SimMachine) -> (BTreeMap<String, String>, Vec<u64>, BTreeSet<String>) {
    let tree = &machine.disk.tree;
    (picture(machine), tree.walk().into_iter().map(|(_, ino)| ino).collect(), tree.history.keys().cloned().collect())
}

/// All that must be alike about a disk.
fn picture(machine: &SimMachine) -> BTreeMap<String, String> {
    let tree = &machine.disk.tree;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    tree.walk()
        .into_iter()
        .filter(|(path, ino)| !machine.disk.is_companion(path, *ino))
        .map(|(path, ino)| {
            let inode = tree.get(ino);
            let body = match &inode.body {
                Body::File(_) => format!("file {:?}", shown(machine, &path, ino).map(|bytes| hash_of(&bytes))),
                Body::Dir(_) => "dir".to_owned(),
                Body::Link(target) => format!("link {}", text(target)),
                Body::Socket => "socket".to_owned(),
            };
            let FileTime { secs, nanos } = inode.mtime;
            let xattrs: Vec<_> = inode.xattrs.iter().map(|(name, value)| (text(name), text(value))).collect();
            let attributes = format!("{:o} {secs}.{nanos:09} {xattrs:?}", inode.mode & 0o777);
            (name_of(&path), format!("{body} {attributes}"))
        })
        .collect()
}

/// Rows and base of a machine, for the failed test's reader.
pub(super) fn describe(machine: &SimMachine) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    if !machine.is_up() {
        return out;
    }
    let store = &machine.engine().state.store;
    let mut line = |text: String| writeln!(out, "   {text}").expect("a string takes everything");
    line(format!("replica {:?}, known {:?}", machine.engine().state.replica, store.known()));
    for (_, row) in store.rows_after(0, usize::MAX).expect("an index in memory") {
        line(format!("row {:?} {:?} ctx {:?}", row.id, row.class, row.ctx.iter().collect::<Vec<_>>()));
        for (dot, place) in &row.place {
            line(format!("    place {dot:?} {:?}/{:?} {:?} {:?}", place.parent, place.name, place.stamp, place.flag));
        }
        for (dot, content) in &row.content {
            line(format!("    content {dot:?} {:?} {:?} {:?}", content.value, content.stamp, content.flag));
        }
        for (dot, meta) in &row.meta {
            let Attributes { mode, mtime, xattrs, group } = &meta.attributes;
            line(format!("    meta {dot:?} {mode:o} {mtime:?} {xattrs:?} {group:?} {:?}", meta.stamp));
        }
        if let Some(base) = store.base_of(row.id).expect("an index in memory") {
            line(format!(
                "    base {:?} in {:?} {:?} {:?} {:?} {:o} {:?} {:?}",
                base.id,
                base.parent,
                base.name,
                base.state,
                base.stat.handle,
                base.attributes.mode,
                base.attributes.mtime,
                base.attributes.group
            ));
            for member in &base.members {
                line(format!("        member {member:?}"));
            }
        }
    }
    let marked = store.marked(None, usize::MAX).expect("an index in memory");
    line(format!("marked {marked:?}, unnumbered {:?}", store.unnumbered().expect("an index in memory")));
    line(format!("summary {:?}", machine.engine().summary()));
    line(machine.engine().waits());
    for problem in machine.engine().problems() {
        line(format!("problem {problem:?}"));
    }
    for (path, _) in machine.disk.tree.walk() {
        if let Some(base) = machine.engine().at(&path).expect("an index in memory") {
            let shown = machine.engine().shown_at(&path).expect("an index in memory").map(|path| name_of(&path));
            line(format!("at {} {:?} {:?} {:?} shown at {shown:?}", name_of(&path), base.id, base.state, base.members));
        }
    }
    out
}
