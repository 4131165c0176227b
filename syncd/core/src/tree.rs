//! The directories of the account as one tree: which are dead, which are shown, which are one entry.
//!
//! Keeps of every directory's row what decides that (leaves stay in the index) and derives a [`Shape`] from them, by
//! docs/sync-model.md section 4. [`Tree::refresh`] tells which nodes a change of shape touches, so that
//! [`crate::plan`] looks only there. Leaves are placed by [`crate::view`].

use std::collections::{BTreeMap, BTreeSet};

use hearth_schemas::ids::NodeId;
use hearth_schemas::item::{Class, Flag, Name, Place, Row, Versions};
use smallvec::{SmallVec, smallvec};

use crate::row::{all_flagged, flagged, winner};
use crate::store::{Store, StoreResult};

/// A directory as machines show it: one or more nodes at one place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The directory it is in, by its leading node.
    pub parent: NodeId,
    /// Its name there.
    pub name: Name,
    /// Its nodes, the leading one first: the live one with the least id.
    pub members: Members,
}

/// The nodes of an entry: nearly always one.
type Members = SmallVec<[NodeId; 1]>;

/// What is derived from the directories' rows.
#[derive(Clone, Default, Debug)]
pub struct Shape {
    entries: BTreeMap<NodeId, Entry>,
    /// The nodes that are shown in an entry and do not lead it.
    led: BTreeMap<NodeId, NodeId>,
    /// The leading nodes of the directories in a directory, by name.
    children: BTreeMap<NodeId, Vec<NodeId>>,
    dead: BTreeSet<NodeId>,
}

impl Shape {
    /// The entry that a directory node is shown in, by its leading node; `None` while it is not shown.
    pub fn leader(&self, node: NodeId) -> Option<NodeId> {
        let leads = node == NodeId::ROOT || self.entries.contains_key(&node);
        if leads { Some(node) } else { self.led.get(&node).copied() }
    }

    /// An entry by its leading node. The root has none.
    pub fn entry(&self, leader: NodeId) -> Option<&Entry> {
        self.entries.get(&leader)
    }

    /// The nodes of an entry.
    pub fn members(&self, leader: NodeId) -> &[NodeId] {
        const ROOT: &[NodeId] = &[NodeId::ROOT];
        if leader == NodeId::ROOT { ROOT } else { self.entries.get(&leader).map_or(&[], |entry| &entry.members) }
    }

    /// The directory at a name.
    pub fn child(&self, leader: NodeId, name: &Name) -> Option<NodeId> {
        let children = self.children.get(&leader)?;
        self.position(children, name).ok().map(|at| children[at])
    }

    /// The directory at a path; the root for the empty one.
    pub fn at(&self, path: &[u8]) -> Option<NodeId> {
        let mut names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
        names.try_fold(NodeId::ROOT, |dir, name| self.child(dir, &Name::new(name)?))
    }

    fn position(&self, children: &[NodeId], name: &Name) -> Result<usize, usize> {
        children.binary_search_by(|child| self.entries[child].name.cmp(name))
    }

    /// The directories in a directory.
    pub fn children(&self, leader: NodeId) -> impl Iterator<Item = (&Name, NodeId)> {
        self.children.get(&leader).into_iter().flatten().map(|id| (&self.entries[id].name, *id))
    }

    /// Takes in an entry of one node, at a name that is free.
    fn add(&mut self, node: NodeId, entry: Entry) {
        let mut children = self.children.remove(&entry.parent).unwrap_or_default();
        if let Err(at) = self.position(&children, &entry.name) {
            children.insert(at, node);
        }
        self.children.insert(entry.parent, children);
        self.entries.insert(node, entry);
    }

    /// The nodes that are shown in any entry.
    fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.entries.keys().chain(self.led.keys()).copied()
    }

    /// Whether a directory is deleted. It may be shown all the same, for a live child's sake.
    pub fn is_dead(&self, node: NodeId) -> bool {
        self.dead.contains(&node)
    }

    /// The path of an entry from the root, joined by `/`.
    pub fn path(&self, leader: NodeId) -> Vec<u8> {
        let mut names: Vec<&Name> = Vec::new();
        let mut at = leader;
        while let Some(entry) = self.entries.get(&at) {
            names.push(&entry.name);
            at = entry.parent;
        }
        let parts: Vec<&[u8]> = names.iter().rev().map(|name| name.as_bytes()).collect();
        parts.join(&b'/')
    }
}

/// Whether a row is deleted, given which directories are.
pub fn is_dead(row: &Row, dead_dir: impl Fn(NodeId) -> bool) -> bool {
    all_flagged(row)
        && row.place.values().any(|place| match place.flag {
            Flag::Itself => true,
            Flag::WithDirectory => dead_dir(place.parent),
            Flag::Live => false,
        })
}

/// What a directory's row says of where it is and whether it lives.
struct Directory {
    place: Versions<Place>,
    /// Of each version of its content.
    flags: Box<[Flag]>,
}

impl Directory {
    fn of(row: &Row) -> Self {
        Self { place: row.place.clone(), flags: row.content.values().map(|content| content.flag).collect() }
    }

    fn all_flagged(&self) -> bool {
        flagged(&self.place) && self.flags.iter().all(|&flag| flag != Flag::Live)
    }
}

/// The directories and the shape derived from their rows.
#[derive(Default)]
pub struct Tree {
    directories: BTreeMap<NodeId, Directory>,
    shape: Shape,
    /// For dead directories: whether a live leaf is placed in them.
    leafy: BTreeMap<NodeId, bool>,
    /// Directories that rows are placed in and whose own rows are not known.
    awaited: BTreeSet<NodeId>,
    /// Directories that entered the shape by themselves since the last refresh.
    entered: Vec<NodeId>,
    stale: bool,
}

impl Tree {
    /// Loads every directory of the index.
    pub fn load<S: Store>(store: &S) -> StoreResult<Self> {
        let directories = store.directories()?.iter().map(|row| (row.id, Directory::of(row))).collect();
        let mut tree = Self { directories, stale: true, ..Self::default() };
        tree.refresh(store)?;
        Ok(tree)
    }

    /// The shape as of the last refresh.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Whether a node is a known directory.
    pub fn knows(&self, node: NodeId) -> bool {
        node == NodeId::ROOT || self.directories.contains_key(&node)
    }

    /// Takes note of a row that was written to the index.
    pub fn note(&mut self, row: &Row) {
        match row.class {
            Class::Dir => self.note_directory(row),
            Class::Leaf => {
                for place in row.place.values() {
                    self.note_left(place.parent);
                }
            }
            Class::Setting | Class::Replica => {}
        }
    }

    /// Takes note that a leaf came to, changed in or left a directory: a dead one is shown for a live leaf's sake.
    pub fn note_left(&mut self, dir: NodeId) {
        if self.shape.dead.contains(&dir) {
            self.leafy.remove(&dir);
            self.stale = true;
        }
    }

    /// A directory that only joins the shape, or whose place and life are what they were, leaves the rest of the shape
    /// as it is; so the usual change costs what it touches. Anything else makes the shape stale.
    fn note_directory(&mut self, row: &Row) {
        let directory = Directory::of(row);
        if !self.stale {
            self.stale = match self.directories.get(&row.id) {
                Some(old) => !same_place_and_life(old, &directory),
                None => !self.enter(row),
            };
        }
        self.directories.insert(row.id, directory);
    }

    /// Puts a directory nobody knew of into the shape, if that concerns nothing else.
    fn enter(&mut self, row: &Row) -> bool {
        let mut places = row.place.values();
        let (Some(place), None) = (places.next(), places.next()) else { return false };
        let alive = place.flag == Flag::Live && row.content.values().all(|content| content.flag == Flag::Live);
        let Some(parent) = self.shape.leader(place.parent) else { return false };
        if !alive || self.awaited.contains(&row.id) || self.shape.is_dead(place.parent) {
            return false;
        }
        if self.shape.child(parent, &place.name).is_some() {
            return false;
        }
        self.shape.add(row.id, Entry { parent, name: place.name.clone(), members: smallvec![row.id] });
        self.entered.push(row.id);
        true
    }

    /// Derives the shape anew where rows have changed. Gives the nodes whose entry on a disk may have to follow.
    pub fn refresh<S: Store>(&mut self, store: &S) -> StoreResult<BTreeSet<NodeId>> {
        let mut touched = BTreeSet::new();
        for node in std::mem::take(&mut self.entered) {
            touched.extend(store.placed_in(node)?);
            if let Some(entry) = self.shape.entry(node) {
                // A directory at a name pushes a leaf of that name aside.
                for &parent in self.shape.members(entry.parent) {
                    touched.extend(store.placed_at(parent, &entry.name)?);
                }
            }
        }
        if !self.stale {
            return Ok(touched);
        }
        let dead = self.dead();
        for &flipped in dead.symmetric_difference(&self.shape.dead) {
            self.leafy.remove(&flipped);
            touched.insert(flipped);
            for leaf in store.placed_in(flipped)? {
                touched.insert(leaf);
                if let Some(row) = store.row(leaf)? {
                    row.place.values().for_each(|place| {
                        self.leafy.remove(&place.parent);
                    });
                }
            }
        }
        for &dir in &dead {
            if let std::collections::btree_map::Entry::Vacant(entry) = self.leafy.entry(dir) {
                entry.insert(has_live_leaf(store, dir, &dead)?);
            }
        }
        let parents = self.resolve_cycles(&dead);
        let shown = self.shown(&parents, &dead);
        let shape = group(&parents, &shown, dead);
        touch_differences(&self.shape, &shape, store, &mut touched)?;
        self.shape = shape;
        self.awaited = self.unknown_parents();
        self.stale = false;
        Ok(touched)
    }

    fn unknown_parents(&self) -> BTreeSet<NodeId> {
        let parents = self.directories.values().flat_map(|dir| dir.place.values().map(|place| place.parent));
        parents.filter(|parent| !self.knows(*parent)).collect()
    }

    /// The least set with: deleted itself, or along with a directory of the set.
    fn dead(&self) -> BTreeSet<NodeId> {
        let mut along: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
        let mut queue = Vec::new();
        for (&id, directory) in self.directories.iter().filter(|(_, directory)| directory.all_flagged()) {
            for place in directory.place.values() {
                match place.flag {
                    Flag::Itself => queue.push(id),
                    Flag::WithDirectory => along.entry(place.parent).or_default().push(id),
                    Flag::Live => {}
                }
            }
        }
        let mut dead = BTreeSet::new();
        while let Some(node) = queue.pop() {
            if dead.insert(node) {
                queue.extend(along.get(&node).into_iter().flatten());
            }
        }
        dead
    }

    /// Each directory's place, with cycles broken: in each, the latest step goes back to where it came from, or
    /// else to the root.
    fn resolve_cycles(&self, dead: &BTreeSet<NodeId>) -> BTreeMap<NodeId, (NodeId, Name)> {
        let mut places: BTreeMap<NodeId, (NodeId, Name)> = BTreeMap::new();
        for (&id, directory) in &self.directories {
            if let Some((_, place)) = winner(&directory.place) {
                places.insert(id, (place.parent, place.name.clone()));
            }
        }
        let mut stepped = BTreeSet::new();
        loop {
            let cycles = find_cycles(&places);
            if cycles.is_empty() {
                return places;
            }
            for cycle in cycles {
                let key = |id: &NodeId| winner(&self.directories[id].place).map(|(_, place)| (place.stamp, *id));
                let id = cycle.into_iter().max_by_key(key).expect("a cycle has a node");
                let (_, place) = winner(&self.directories[&id].place).expect("a node of a cycle has a place");
                let back_is_alive = place.was == NodeId::ROOT || (self.knows(place.was) && !dead.contains(&place.was));
                let parent = if stepped.insert(id) && back_is_alive { place.was } else { NodeId::ROOT };
                places.insert(id, (parent, place.name.clone()));
            }
        }
    }

    /// The live directories whose ancestors are all known, and the dead ones that something live is in.
    fn shown(&self, places: &BTreeMap<NodeId, (NodeId, Name)>, dead: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let mut rooted: BTreeMap<NodeId, bool> = BTreeMap::from([(NodeId::ROOT, true)]);
        let mut shown = BTreeSet::new();
        for &node in places.keys() {
            let mut path = Vec::new();
            let mut at = node;
            let known = loop {
                if let Some(&known) = rooted.get(&at) {
                    break known;
                }
                path.push(at);
                match places.get(&at) {
                    Some((parent, _)) => at = *parent,
                    None => break false,
                }
            };
            for step in path {
                rooted.insert(step, known);
            }
            let alive = !dead.contains(&node) || self.leafy.get(&node) == Some(&true);
            if known && alive {
                let mut at = node;
                while at != NodeId::ROOT && shown.insert(at) {
                    at = places[&at].0;
                }
            }
        }
        shown
    }
}

/// Whether two states of a directory say the same, of one place and one content.
fn same_place_and_life(old: &Directory, new: &Directory) -> bool {
    let one = |dir: &Directory| dir.place.len() == 1 && dir.flags.len() == 1;
    one(old) && one(new) && old.place.values().eq(new.place.values()) && old.flags == new.flags
}

fn has_live_leaf<S: Store>(store: &S, dir: NodeId, dead: &BTreeSet<NodeId>) -> StoreResult<bool> {
    for id in store.placed_in(dir)? {
        let Some(row) = store.row(id)? else { continue };
        let here = winner(&row.place).is_some_and(|(_, place)| place.parent == dir);
        if row.class == Class::Leaf && here && !is_dead(&row, |parent| dead.contains(&parent)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn find_cycles(places: &BTreeMap<NodeId, (NodeId, Name)>) -> Vec<Vec<NodeId>> {
    let mut done: BTreeSet<NodeId> = BTreeSet::new();
    let mut cycles = Vec::new();
    for &start in places.keys() {
        let mut path = Vec::new();
        let mut on_path = BTreeSet::new();
        let mut at = start;
        while !done.contains(&at) {
            if !on_path.insert(at) {
                let from = path.iter().position(|&id| id == at).expect("the node is on the path");
                cycles.push(path[from..].to_vec());
                break;
            }
            path.push(at);
            match places.get(&at) {
                Some((parent, _)) => at = *parent,
                None => break,
            }
        }
        done.extend(path);
    }
    cycles
}

/// Groups the shown directories by place, from the root down.
fn group(places: &BTreeMap<NodeId, (NodeId, Name)>, shown: &BTreeSet<NodeId>, dead: BTreeSet<NodeId>) -> Shape {
    let mut placed: BTreeMap<NodeId, Vec<(&Name, NodeId)>> = BTreeMap::new();
    for &node in shown {
        let (parent, name) = &places[&node];
        placed.entry(*parent).or_default().push((name, node));
    }
    let mut shape = Shape { dead, ..Shape::default() };
    let mut queue = vec![NodeId::ROOT];
    while let Some(leader) = queue.pop() {
        let mut by_name: BTreeMap<&Name, Members> = BTreeMap::new();
        for member in shape.members(leader) {
            for (name, node) in placed.get(member).into_iter().flatten() {
                by_name.entry(name).or_default().push(*node);
            }
        }
        let mut children = Vec::with_capacity(by_name.len());
        for (name, mut members) in by_name {
            members.sort_by_key(|id| (shape.dead.contains(id), *id));
            let first = members[0];
            shape.led.extend(members[1..].iter().map(|&member| (member, first)));
            shape.entries.insert(first, Entry { parent: leader, name: name.clone(), members });
            children.push(first);
            queue.push(first);
        }
        if !children.is_empty() {
            shape.children.insert(leader, children);
        }
    }
    shape
}

/// Collects the nodes whose entry differs between two shapes, with the leaves whose directory came, went or
/// changed its members.
fn touch_differences<S: Store>(old: &Shape, new: &Shape, store: &S, touched: &mut BTreeSet<NodeId>) -> StoreResult<()> {
    let nodes: BTreeSet<NodeId> = old.nodes().chain(new.nodes()).collect();
    for node in nodes {
        let (before, after) = (old.leader(node), new.leader(node));
        let entry_before = before.and_then(|leader| old.entry(leader));
        let entry_after = after.and_then(|leader| new.entry(leader));
        if before == after && entry_before == entry_after {
            continue;
        }
        touched.insert(node);
        if entry_before.map(|entry| &entry.members) != entry_after.map(|entry| &entry.members) {
            touched.extend(store.placed_in(node)?);
        }
        // A directory at a name pushes a leaf of that name aside.
        for entry in [entry_before, entry_after].into_iter().flatten() {
            for shape in [old, new] {
                for &parent in shape.members(entry.parent) {
                    touched.extend(store.placed_at(parent, &entry.name)?);
                }
            }
        }
    }
    Ok(())
}
