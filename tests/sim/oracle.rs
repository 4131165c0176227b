//! What must hold, asked more simply than the product answers it.
//!
//! Records every content that a person closed and the moment it was their own doing that the last of it went. When
//! all machines are connected and quiet: all disks alike, every engine clean and of one state, a second look changes
//! nothing, and every content that nobody did away with is live or in some history.

use std::collections::{BTreeMap, BTreeSet};

use hearth_schemas::ids::ContentHash;
use hearth_schemas::item::{Attributes, FileTime};
use syncd_core::disk::RelPath;
use syncd_core::engine::Event;
use syncd_core::store::Store;

use super::disk::{Deed, hash_of};
use super::machine::{BESIDE, INSIDE, MARKED, SimMachine};
use super::tree::{Body, Tree, below, split};
use super::world::{Here, World};

/// Contents that must be somewhere.
#[derive(Default)]
pub struct Oracle {
    owed: BTreeMap<ContentHash, String>,
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
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            self.owed.insert(hash_of(bytes), text);
        }
    }

    /// Whether a content was written and not done away with by the person.
    pub fn owes(&self, text: &str) -> bool {
        self.owed.contains_key(&hash_of(text.as_bytes()))
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
    live(tree).chain(kept.filter_map(|ino| tree.bytes(ino).ok()).map(|bytes| hash_of(&bytes))).collect()
}

/// Contents of the files that stand in a tree.
fn live(tree: &Tree) -> impl Iterator<Item = ContentHash> {
    tree.walk().into_iter().filter_map(|(_, ino)| tree.bytes(ino).ok()).map(|bytes| hash_of(&bytes))
}

/// Everything that must hold when all are connected and nothing is left to do.
pub(super) fn assert_in_order(world: &mut World) {
    assert_clean(world);
    assert_alike(world);
    let lost = world.oracle.lost(&world.machines);
    assert!(lost.is_empty(), "lost: {lost:?}\n{}", world.describe());
    let before: Vec<u64> = world.machines.iter().map(|machine| machine.disk.changes).collect();
    let sent = world.sent;
    let now_ms = world.now_ms;
    for machine in &mut world.machines {
        machine.handle(Event::Overflowed, now_ms);
    }
    world.run_until_quiet();
    let after: Vec<u64> = world.machines.iter().map(|machine| machine.disk.changes).collect();
    assert_eq!(before, after, "a second look changed a disk\n{}", world.describe());
    assert_eq!(sent, world.sent, "a second look sent something\n{}", world.describe());
    assert_alike(world);
    assert_clean(world);
}

fn assert_alike(world: &World) {
    let mut pictures: Vec<BTreeMap<String, String>> = world.machines.iter().map(picture).collect();
    leave_out_marked(world, &mut pictures);
    for (i, other) in pictures.iter().enumerate().skip(1) {
        let differ: Vec<_> = pictures[0]
            .keys()
            .chain(other.keys())
            .filter(|path| pictures[0].get(*path) != other.get(*path))
            .map(|path| (path, pictures[0].get(path), other.get(path)))
            .collect();
        assert!(
            differ.is_empty(),
            "{} and {} differ: {differ:#?}\n{}",
            world.machines[0].name,
            world.machines[i].name,
            world.describe()
        );
    }
}

/// What is marked on one machine is that machine's own business. So is whether a directory is left for nothing but that.
fn leave_out_marked(world: &World, pictures: &mut [BTreeMap<String, String>]) {
    let name = |path: &[u8]| path.escape_ascii().to_string();
    let is_below = |path: &str, dir: &str| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    let mut marked: BTreeSet<String> = BTreeSet::new();
    for machine in &world.machines {
        let mut own: BTreeSet<String> = BTreeSet::new();
        let tree = &machine.disk.tree;
        let file =
            |path: RelPath| matches!(tree.look(&path), Ok(Some(ino)) if matches!(tree.get(ino).body, Body::File(_)));
        for (path, ino) in tree.walk() {
            let (dir, last) = split(&path);
            let build = last == MARKED.as_bytes() && file(below(dir, BESIDE.as_bytes()));
            if matches!(tree.get(ino).body, Body::Dir(_)) && (build || file(below(&path, INSIDE.as_bytes()))) {
                own.insert(name(&path));
            }
        }
        // What others moved to where it is marked here stays where it is.
        for (path, _) in tree.walk() {
            let there = machine.engine().shown_at(&path).expect("an index in memory").map(|path| name(&path));
            if there.is_some_and(|there| own.iter().any(|dir| there == *dir || is_below(&there, dir))) {
                marked.insert(name(&path));
            }
        }
        marked.extend(own);
    }
    if marked.is_empty() {
        return;
    }
    for picture in pictures.iter_mut() {
        picture.retain(|path, _| !marked.iter().any(|dir| path == dir || is_below(path, dir)));
    }
    let above: BTreeSet<String> = pictures
        .iter()
        .flat_map(|picture| picture.keys())
        .filter(|path| marked.iter().any(|dir| is_below(dir, path)))
        .cloned()
        .collect();
    for path in above.into_iter().rev() {
        // As a residue it has nobody else's attributes.
        let empty = |picture: &BTreeMap<String, String>| !picture.keys().any(|other| is_below(other, &path));
        if pictures.iter().any(|picture| !picture.contains_key(&path)) && pictures.iter().all(empty) {
            pictures.iter_mut().for_each(|picture| {
                picture.remove(&path);
            });
        }
    }
}

fn assert_clean(world: &World) {
    let first = &world.machines[0].engine().state.store;
    for machine in &world.machines {
        let summary = machine.engine().summary().expect("an index in memory");
        let problems: Vec<_> = machine.engine().problems().collect();
        assert!(
            summary.standing.clean,
            "{} is not clean: {problems:?} {summary:?}\n{}",
            machine.name,
            world.describe()
        );
    }
    for machine in &world.machines {
        let (store, engine) = (&machine.engine().state.store, machine.engine());
        let summary = engine.summary().expect("an index in memory");
        assert_eq!(store.digest(), first.digest(), "digest of {}\n{}", machine.name, world.describe());
        let (known, theirs) = (store.known(), first.known());
        let same =
            known.len() == theirs.len() && known.iter().all(|(r, k)| theirs.get(r).is_some_and(|t| t.seq == k.seq));
        assert!(same, "{} knows {known:?}, not {theirs:?}\n{}", machine.name, world.describe());
        let peers = world.machines.len() - 1;
        assert_eq!(summary.agreeing.len(), peers, "{} agrees with too few: {summary:?}", machine.name);
        let tidy = machine.disk.tree.staging.is_empty() || machine.disk.has_failed;
        assert!(tidy, "staging of {} is not empty", machine.name);
    }
}

/// All that must be alike about a disk.
fn picture(machine: &SimMachine) -> BTreeMap<String, String> {
    let tree = &machine.disk.tree;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    tree.walk()
        .into_iter()
        .map(|(path, ino)| {
            let inode = tree.get(ino);
            let body = match &inode.body {
                Body::File(bytes) => format!("file {:?}", hash_of(bytes)),
                Body::Dir(_) => "dir".to_owned(),
                Body::Link(target) => format!("link {}", text(target)),
                Body::Socket => "socket".to_owned(),
            };
            let FileTime { secs, nanos } = inode.mtime;
            let xattrs: Vec<_> = inode.xattrs.iter().map(|(name, value)| (text(name), text(value))).collect();
            let attributes = format!("{:o} {secs}.{nanos:09} {xattrs:?}", inode.mode & 0o777);
            (path.escape_ascii().to_string(), format!("{body} {attributes}"))
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
    out
}
