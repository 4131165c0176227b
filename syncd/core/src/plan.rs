//! Decides what this disk has to do to show the view, and in which order; safe to stop after any step.
//!
//! [`collect`] finds, around the marked nodes, where base and view differ: a list of [`Change`]s. [`plan`] is a pure
//! function from those to [`Step`]s: directories top down, moves with whatever stands in the way parked first, then
//! contents, then removals, directories bottom up. The order never needs a name that is taken, never moves a
//! directory into itself, and removes a directory only after everything that is to leave it has left. Doing the
//! steps, with their preconditions, is [`crate::apply`]'s.

use std::collections::{BTreeMap, BTreeSet};

use hearth_schemas::ids::NodeId;
use hearth_schemas::item::{Class, Name};

use crate::conflict::derived_id;
use crate::disk::{RelPath, join};
use crate::marks::Marks;
use crate::observe::{base_path, free_base_key, root_base};
use crate::path::depth;
use crate::select::Select;
use crate::state::State;
use crate::store::{Base, BaseState, Member, Store, StoreResult};
use crate::view::Target;

/// An entry of the view at its place on this disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed {
    /// The entry.
    pub target: Target,
    /// Base key that it has or gets.
    pub id: NodeId,
    /// Base key that its directory has or gets.
    pub parent: NodeId,
    /// Its path once all is applied.
    pub path: RelPath,
}

/// What has to become of one entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// As it is on this disk, with its path; `None` if it is not.
    pub base: Option<(Base, RelPath)>,
    /// As it shall be; `None` if it shall not.
    pub placed: Option<Placed>,
}

impl Change {
    /// The base key of the entry.
    pub fn key(&self) -> NodeId {
        match (&self.placed, &self.base) {
            (Some(placed), _) => placed.id,
            (None, Some((base, _))) => base.id,
            (None, None) => NodeId::ROOT,
        }
    }
}

/// One step, done entirely or not at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Makes a directory.
    Mkdir(Placed),
    /// Moves an entry out of the way, within its directory.
    Park(NodeId),
    /// Moves an entry, parked or not, to its place.
    Move(Placed),
    /// Makes a leaf.
    Create(Placed),
    /// Gives a leaf other content, or the same in another hard-link group.
    Replace(Placed),
    /// Gives an entry other attributes, or only other versions that it embodies.
    Adjust(Placed),
    /// Moves a leaf into history.
    Remove(NodeId),
    /// Removes a directory.
    RemoveDir(NodeId),
}

/// Differences around some nodes, and the nodes that need nothing.
#[derive(Default, Debug)]
pub struct Collected {
    /// What differs.
    pub changes: Vec<Change>,
    /// Marked nodes without a difference.
    pub settled: Vec<NodeId>,
    /// For each change, the nodes that it is for.
    pub nodes: Vec<BTreeSet<NodeId>>,
}

/// Finds where base and view differ around the marked nodes.
pub fn collect<S: Store>(
    state: &State<S>,
    select: &dyn Select,
    marks: &Marks,
    marked: &[NodeId],
) -> StoreResult<Collected> {
    let mut search =
        Search { state, bases: BTreeMap::new(), targets: BTreeMap::new(), slots: BTreeSet::new(), fresh: Vec::new() };
    for &node in marked {
        search.node(node)?;
    }
    search.close()?;
    let Search { mut bases, mut targets, .. } = search;
    // What is excluded here takes no entry of this disk from what is not.
    targets.retain(|_, target| travels(state, select, marks, target));
    let mut out = Collected::default();
    let mut busy: BTreeSet<NodeId> = BTreeSet::new();
    let assigned = assign(state, &bases, &targets)?;
    let mut keys = BTreeMap::new();
    for target in targets.values() {
        let key = match assigned.get(&target.id) {
            Some(base) => *base,
            None => free_base_key(&state.store, target.id)?,
        };
        keys.insert(target.id, key);
    }
    for target in targets.into_values() {
        let nodes = rows_of(&target.members);
        let base = assigned.get(&target.id).and_then(|id| bases.remove(id));
        let placed = place(state, &target, &keys)?;
        if base.as_ref().is_some_and(|base| agrees(base, &placed)) {
            continue;
        }
        busy.extend(nodes.iter().copied());
        let base = base.map(|base| Ok((base_path(&state.store, &base)?, base))).transpose()?.map(|(p, b)| (b, p));
        out.changes.push(Change { base, placed: Some(placed) });
        out.nodes.push(nodes);
    }
    for base in bases.into_values() {
        if !removable(state, select, marks, &base)? {
            continue;
        }
        // What a sibling derived from may know nothing of it any more: its own id leads to it.
        let mut nodes = rows_of(&base.members);
        nodes.insert(base.id);
        nodes.extend(base.members.iter().map(|member| member.node));
        busy.extend(nodes.iter().copied());
        let path = base_path(&state.store, &base)?;
        out.changes.push(Change { base: Some((base, path)), placed: None });
        out.nodes.push(nodes);
    }
    out.settled = marked.iter().filter(|node| !busy.contains(node)).copied().collect();
    Ok(out)
}

/// The nodes that members are shown for: a derived sibling hangs on the node that it derives from.
fn rows_of(members: &[Member]) -> BTreeSet<NodeId> {
    members.iter().map(|member| member.origin.unwrap_or(member.node)).collect()
}

struct Search<'a, S> {
    state: &'a State<S>,
    bases: BTreeMap<NodeId, Base>,
    targets: BTreeMap<NodeId, Target>,
    slots: BTreeSet<(NodeId, Name)>,
    /// Targets that have been found and not yet been followed up.
    fresh: Vec<NodeId>,
}

impl<S: Store> Search<'_, S> {
    /// Takes in everything that a node's state bears on.
    fn node(&mut self, node: NodeId) -> StoreResult<()> {
        if let Some(base) = self.state.store.base_of(node)? {
            self.base(base)?;
        }
        if let Some(left) = self.state.store.base(node)?.filter(|base| base.members.is_empty()) {
            self.base(left)?;
        }
        let Some(row) = self.state.store.row(node)? else { return Ok(()) };
        if row.content.len() > 1 {
            // What derives from it is not shown any more where its directory is dead, which no change of its own tells.
            for &dot in row.content.keys() {
                if let Some(base) = self.state.store.base_of(derived_id(node, dot))? {
                    self.base(base)?;
                }
            }
        }
        let view = self.state.view();
        if let Some((dir, name)) = view.registered(&row) {
            self.slot(dir, name)?;
        }
        for place in row.place.values() {
            if let Some(leader) = view.shape.leader(place.parent) {
                self.slot(leader, place.name.clone())?;
            }
        }
        Ok(())
    }

    fn base(&mut self, base: Base) -> StoreResult<()> {
        if base.state == BaseState::Dormant || self.bases.contains_key(&base.id) {
            return Ok(());
        }
        let members = base.members.clone();
        self.bases.insert(base.id, base);
        for member in members {
            let node = member.origin.unwrap_or(member.node);
            if let Some(row) = self.state.store.row(node)?
                && let Some((dir, name)) = self.state.view().registered(&row)
            {
                self.slot(dir, name)?;
            }
        }
        Ok(())
    }

    fn slot(&mut self, dir: NodeId, name: Name) -> StoreResult<()> {
        if !self.slots.insert((dir, name.clone())) {
            return Ok(());
        }
        for related in self.state.view().family(dir, &name)? {
            self.slot(dir, related)?;
        }
        for target in self.state.view().slot(dir, &name)? {
            for member in &target.members {
                if let Some(base) = self.state.store.base_of(member.node)? {
                    self.base(base)?;
                }
            }
            self.fresh.push(target.id);
            self.targets.insert(target.id, target);
        }
        Ok(())
    }

    /// Adds the directories that the targets are in and that this disk lacks, and what stands at the names that the
    /// targets are to have.
    fn close(&mut self) -> StoreResult<()> {
        while let Some(fresh) = self.fresh.pop() {
            let target = &self.targets[&fresh];
            let (dir, name) = (target.parent, target.name.clone());
            match on_disk(self.state, dir)? {
                Some(parent) => {
                    if let Some(standing) = self.state.store.base_at(parent.id, &name)? {
                        self.base(standing)?;
                    }
                }
                None if self.targets.contains_key(&dir) => {}
                None => {
                    if let Some(target) = self.state.view().directory(dir)? {
                        self.fresh.push(dir);
                        self.targets.insert(dir, target);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The base entry of a directory of the view.
fn on_disk<S: Store>(state: &State<S>, leader: NodeId) -> StoreResult<Option<Base>> {
    if leader == NodeId::ROOT {
        return Ok(Some(root_base()));
    }
    for &member in state.tree.shape().members(leader) {
        if let Some(base) = state.store.base_of(member)?
            && base.class == Class::Dir
            && base.state == BaseState::Live
        {
            return Ok(Some(base));
        }
    }
    Ok(None)
}

/// Which entry of this disk becomes which entry of the view, by the view's id. Where nodes that were one entry part,
/// or entries become one, an entry goes with the node that it was made for, else it stays where it is.
fn assign<S: Store>(
    state: &State<S>,
    bases: &BTreeMap<NodeId, Base>,
    targets: &BTreeMap<NodeId, Target>,
) -> StoreResult<BTreeMap<NodeId, NodeId>> {
    let shown_as: BTreeMap<NodeId, &Base> =
        bases.values().flat_map(|base| base.members.iter().map(move |member| (member.node, base))).collect();
    let mut pairs: BTreeSet<(std::cmp::Reverse<u8>, NodeId, NodeId)> = BTreeSet::new();
    for target in targets.values() {
        for base in target.members.iter().filter_map(|member| shown_as.get(&member.node)) {
            let holds = |node: NodeId| target.members.iter().any(|member| member.node == node);
            let stands = base.name == target.name
                && on_disk(state, target.parent)?.is_some_and(|parent| parent.id == base.parent);
            let leads = base.members.first().is_some_and(|member| holds(member.node));
            let worth = 4 * u8::from(holds(base.id)) + 2 * u8::from(stands) + u8::from(leads);
            pairs.insert((std::cmp::Reverse(worth), base.id, target.id));
        }
    }
    let (mut assigned, mut taken) = (BTreeMap::new(), BTreeSet::new());
    for (_, base, target) in pairs {
        if !taken.contains(&base) && !assigned.contains_key(&target) {
            taken.insert(base);
            assigned.insert(target, base);
        }
    }
    Ok(assigned)
}

fn place<S: Store>(state: &State<S>, target: &Target, keys: &BTreeMap<NodeId, NodeId>) -> StoreResult<Placed> {
    let id = keys[&target.id];
    let parent = match (keys.get(&target.parent), on_disk(state, target.parent)?) {
        (Some(key), _) => *key,
        (None, Some(parent)) => parent.id,
        (None, None) => free_base_key(&state.store, target.parent)?,
    };
    Ok(Placed { target: target.clone(), id, parent, path: path_of(state, target) })
}

/// The path that the account has an entry at.
fn path_of<S: Store>(state: &State<S>, target: &Target) -> RelPath {
    join(&state.tree.shape().path(target.parent), &target.name)
}

fn travels<S: Store>(state: &State<S>, select: &dyn Select, marks: &Marks, target: &Target) -> bool {
    select.travels(&path_of(state, target), target.class == Class::Dir, marks)
}

fn agrees(base: &Base, placed: &Placed) -> bool {
    let target = &placed.target;
    base.parent == placed.parent
        && base.name == target.name
        && base.value == target.value
        && base.attributes == target.attributes
        && base.members == target.members
}

/// Whether an entry that the view does not show may leave this disk: it was deleted, not merely not understood.
fn removable<S: Store>(state: &State<S>, select: &dyn Select, marks: &Marks, base: &Base) -> StoreResult<bool> {
    for member in &base.members {
        if member.origin.is_some() {
            // Shown, but at a place that is excluded here: it stays as it is.
            if state.view().target_of_member(member)?.is_some_and(|target| !travels(state, select, marks, &target)) {
                return Ok(false);
            }
            continue;
        }
        let Some(row) = state.store.row(member.node)? else { return Ok(false) };
        let dead = crate::tree::is_dead(&row, |dir| state.tree.shape().is_dead(dir));
        let shown_elsewhere = state.view().registered(&row).is_some();
        if !dead && !shown_elsewhere {
            return Ok(false);
        }
        if !dead && state.view().target_of_member(member)?.is_some_and(|target| !travels(state, select, marks, &target))
        {
            // As above.
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the account has an entry at places that are excluded here, and nowhere else: then it stays where it is.
pub fn is_left_behind<S: Store>(
    state: &State<S>,
    select: &dyn Select,
    marks: &Marks,
    base: &Base,
) -> StoreResult<bool> {
    for member in &base.members {
        let Some(target) = state.view().target_of_member(member)? else { return Ok(false) };
        if travels(state, select, marks, &target) {
            return Ok(false);
        }
    }
    Ok(!base.members.is_empty())
}

/// Orders changes into steps. `standing` tells which base entry has a name on this disk.
pub fn plan(changes: &[Change], standing: impl Fn(NodeId, &Name) -> Option<NodeId>) -> Vec<Step> {
    let mut planner = Planner::new(changes, &standing);
    let mut dirs: Vec<&Placed> = changes.iter().filter_map(|c| c.placed.as_ref()).filter(|p| is_dir(p)).collect();
    dirs.sort_by_key(|placed| (depth(&placed.path), placed.path.clone()));
    for placed in dirs {
        planner.settle(placed);
    }
    let mut leaves: Vec<&Placed> = changes.iter().filter_map(|c| c.placed.as_ref()).filter(|p| !is_dir(p)).collect();
    leaves.sort_by_key(|placed| placed.path.clone());
    // What only moves goes first: it may free a name, and it needs no content.
    let (known, fresh): (Vec<_>, Vec<_>) = leaves.into_iter().partition(|p| planner.bases.contains_key(&p.id));
    for placed in known.into_iter().chain(fresh) {
        planner.settle(placed);
    }
    planner.remove_rest();
    planner.steps
}

struct Planner<'a, F> {
    standing: &'a F,
    bases: BTreeMap<NodeId, &'a Base>,
    wanted: BTreeMap<NodeId, &'a Placed>,
    paths: BTreeMap<NodeId, &'a RelPath>,
    /// Who has a name, where that has changed.
    names: BTreeMap<(NodeId, Name), Option<NodeId>>,
    /// Entries that are where they shall be, or gone, or parked.
    out: BTreeSet<NodeId>,
    steps: Vec<Step>,
}

impl<'a, F: Fn(NodeId, &Name) -> Option<NodeId>> Planner<'a, F> {
    fn new(changes: &'a [Change], standing: &'a F) -> Self {
        let bases = changes.iter().filter_map(|c| c.base.as_ref()).map(|(base, _)| (base.id, base)).collect();
        let paths = changes.iter().filter_map(|c| c.base.as_ref()).map(|(base, path)| (base.id, path)).collect();
        let wanted = changes.iter().filter_map(|c| c.placed.as_ref()).map(|p| (p.id, p)).collect();
        Self { standing, bases, wanted, paths, names: BTreeMap::new(), out: BTreeSet::new(), steps: Vec::new() }
    }

    /// Brings one entry to its place, content and attributes.
    fn settle(&mut self, placed: &'a Placed) {
        let here = (placed.parent, placed.target.name.clone());
        let base = self.bases.get(&placed.id).copied();
        let stays = base.is_some_and(|b| (b.parent, &b.name) == (here.0, &here.1)) && !self.out.contains(&placed.id);
        if !stays && !self.clear(&here, placed.id) {
            return;
        }
        match base {
            None if is_dir(placed) => self.steps.push(Step::Mkdir(placed.clone())),
            None => self.steps.push(Step::Create(placed.clone())),
            Some(base) => {
                if !stays {
                    self.names
                        .entry((base.parent, base.name.clone()))
                        .and_modify(|who| {
                            if *who == Some(placed.id) {
                                *who = None;
                            }
                        })
                        .or_insert(None);
                    self.steps.push(Step::Move(placed.clone()));
                }
                if base.value != placed.target.value || base.attributes.group != placed.target.attributes.group {
                    self.steps.push(Step::Replace(placed.clone()));
                } else if base.attributes != placed.target.attributes || base.members != placed.target.members {
                    self.steps.push(Step::Adjust(placed.clone()));
                }
            }
        }
        self.names.insert(here, Some(placed.id));
        self.out.insert(placed.id);
    }

    /// Frees a name for `id`; `false` if something stands there that is not ours to move.
    fn clear(&mut self, here: &(NodeId, Name), id: NodeId) -> bool {
        let who = match self.names.get(here) {
            Some(who) => *who,
            None => (self.standing)(here.0, &here.1),
        };
        let Some(who) = who.filter(|who| *who != id) else { return true };
        let Some(base) = self.bases.get(&who).copied() else { return false };
        if self.out.contains(&who) {
            // Already where it shall be: two entries for one name, which a view never has.
            return false;
        }
        if !self.wanted.contains_key(&who) && base.class == Class::Leaf {
            self.steps.push(Step::Remove(who));
        } else {
            self.steps.push(Step::Park(who));
        }
        self.out.insert(who);
        if self.wanted.contains_key(&who) || base.class == Class::Dir {
            // Parked, it still has to be settled or removed; only its name is free.
            self.out.remove(&who);
        }
        self.names.insert(here.clone(), None);
        true
    }

    fn remove_rest(&mut self) {
        let doomed = |id: &&NodeId| !self.wanted.contains_key(id) && !self.out.contains(id);
        let mut rest: Vec<NodeId> = self.bases.keys().filter(doomed).copied().collect();
        rest.sort_by_key(|id| (self.bases[id].class == Class::Dir, std::cmp::Reverse(depth(self.paths[id])), *id));
        for id in rest {
            self.steps.push(match self.bases[&id].class {
                Class::Dir => Step::RemoveDir(id),
                Class::Leaf | Class::Setting | Class::Replica => Step::Remove(id),
            });
        }
    }
}

fn is_dir(placed: &Placed) -> bool {
    placed.target.class == Class::Dir
}

#[cfg(test)]
mod tests;
