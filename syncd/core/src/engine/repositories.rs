//! Git repositories, file by file: what names an object is told after the object, and applied after it.
//!
//! ```text
//! looked at → [ has the repository come to rest? ] → numbered, told     objects at once, all else of it together
//! planned   → [ told all? unlocked? objects here? ] → applied           objects at once, all else of it together
//! ```
//!
//! What may not be told yet is seen and has no number; what may not be applied yet stays marked and is planned again when
//! what it waits for has come. Both are delays: what is joined and shown does not depend on them. What a path is says
//! [`crate::git`].

use std::collections::{BTreeMap, BTreeSet};

use hearth_schemas::ids::{ContentHash, NodeId};
use hearth_schemas::item::Class;

use super::{Effect, Engine, SETTLE_MS};
use crate::apply::Sources;
use crate::disk::{Disk, Kind, RelPath, Source, join};
use crate::git::{self, Part, Place};
use crate::observe::{Spot, base_path};
use crate::path::is_at_or_below;
use crate::plan::Change;
use crate::row::all_flagged;
use crate::state::Now;
use crate::store::{Problem, Store, StoreResult};

/// How long a repository that does not come to rest, as where a lock was left behind, is not told of, in milliseconds.
const UNTOLD_MS: u64 = 60_000;
/// How often a repository is looked at again that is locked, in milliseconds.
const LOCKED_MS: u64 = 200;
/// How often it is tried again whether a repository still has to wait, though nothing that it waits for has come, in
/// milliseconds.
const AGAIN_MS: u64 = 5000;
/// From when on a person is told what a repository waits for, in milliseconds.
const LONG_MS: u64 = 10_000;
/// Longest content that is held in memory until others of its repository have come, in bytes.
const MAX_HELD: u64 = 1 << 20;

/// What the repositories here wait for.
#[derive(Default)]
pub(super) struct Repositories {
    /// Nodes without a number that lie in no repository.
    outside: BTreeSet<NodeId>,
    /// Nodes that are not to be told yet, with their repository.
    untold: BTreeMap<NodeId, RelPath>,
    /// Since when something of a repository is not told.
    since: BTreeMap<RelPath, u64>,
    /// When locks are looked for again.
    look_at: Option<u64>,
    /// What is not applied yet.
    waits: BTreeMap<RelPath, Wait>,
    /// Contents of refs that have come before others of their repository.
    held: BTreeMap<ContentHash, Vec<u8>>,
}

struct Wait {
    nodes: BTreeSet<NodeId>,
    why: Why,
    since_ms: u64,
    again_ms: u64,
}

/// Why nothing of a repository is applied.
enum Why {
    /// A peer is in the middle of telling.
    Told,
    /// A git command holds this lock.
    Locked(RelPath),
    /// This object is not here yet.
    Object(NodeId, RelPath),
    /// Not all refs of a change are here yet, or some of them are planned later.
    Refs,
}

/// A change with the nodes that it is for.
pub(super) type Planned = (Change, BTreeSet<NodeId>);

impl Repositories {
    /// When to go on though nothing happens.
    pub(super) fn again_at(&self, is_heard: bool) -> Option<u64> {
        let waits = self.waits.values().map(|wait| wait.again_ms).min();
        [self.look_at.filter(|_| is_heard), waits].into_iter().flatten().min()
    }

    /// Whether a node waits for its repository.
    pub(super) fn awaits(&self, node: &NodeId) -> bool {
        self.waits.values().any(|wait| wait.nodes.contains(node))
    }
}

impl<S: Store> Engine<S> {
    // ---- telling ----

    /// The nodes of repositories that are not to be numbered yet; `held` are those that a person, or time, holds.
    pub(super) fn untold_of_repositories<D: Disk>(
        &mut self,
        disk: &mut D,
        held: &BTreeSet<NodeId>,
        now: &Now,
    ) -> StoreResult<BTreeSet<NodeId>> {
        let mut open = self.state.store.unnumbered()?;
        open.sort_unstable();
        self.repositories.untold.retain(|node, _| open.binary_search(node).is_ok());
        self.repositories.outside.retain(|node| open.binary_search(node).is_ok());
        let mut dirs = BTreeMap::new();
        for node in open {
            if !self.repositories.untold.contains_key(&node) && !self.repositories.outside.contains(&node) {
                self.sort_out(node, &mut dirs)?;
            }
        }
        let untold: BTreeSet<RelPath> = self.repositories.untold.values().cloned().collect();
        self.repositories.since.retain(|repository, _| untold.contains(repository));
        self.repositories.look_at = None;
        let mut quiet = BTreeSet::new();
        for repository in untold {
            let since = *self.repositories.since.entry(repository.clone()).or_insert(now.wall_ms);
            if self.is_at_rest_in(disk, &repository, held, since, now)? {
                quiet.insert(repository);
            }
        }
        self.repositories.untold.retain(|_, repository| !quiet.contains(repository));
        self.repositories.since.retain(|repository, _| !quiet.contains(repository));
        Ok(self.repositories.untold.keys().copied().collect())
    }

    /// Finds out whether a node is told along with the rest of its repository. Objects that came, and directories, go
    /// ahead. `dirs` are the paths of directories that were asked for.
    fn sort_out(&mut self, node: NodeId, dirs: &mut BTreeMap<NodeId, Option<RelPath>>) -> StoreResult<()> {
        let row = self.state.store.row(node)?.filter(|row| matches!(row.class, Class::Dir | Class::Leaf));
        let path = row.as_ref().map(|row| git::path_of(&self.state.store, row, dirs)).transpose()?.flatten();
        match row.zip(path.as_deref().and_then(git::place)) {
            None => {
                self.repositories.outside.insert(node);
            }
            Some((row, Place { repository, part })) => {
                let free = row.class == Class::Dir || part.is_of_objects() || part == Part::Still;
                if all_flagged(&row) || !free {
                    self.repositories.untold.insert(node, repository.to_vec());
                }
            }
        }
        Ok(())
    }

    /// Whether everything that stirred in a repository was looked at, so that what is told of it holds together.
    fn is_at_rest_in<D: Disk>(
        &mut self,
        disk: &mut D,
        repository: &[u8],
        held: &BTreeSet<NodeId>,
        since: u64,
        now: &Now,
    ) -> StoreResult<bool> {
        if !self.swept {
            return Ok(false);
        }
        let overdue = now.wall_ms >= since + UNTOLD_MS;
        if !overdue {
            if self.to_watch.0.iter().any(|dir| is_at_or_below(dir, repository)) {
                self.watch_made();
            }
            let is_held =
                self.repositories.untold.iter().any(|(node, other)| other == repository && held.contains(node));
            if is_held || self.watching > 0 || self.is_stirring(repository)? {
                self.look_again_at(now.wall_ms + LOCKED_MS);
                return Ok(false);
            }
            if git::standing_lock(disk, repository).is_some() {
                self.look_again_at(now.wall_ms + LOCKED_MS);
                return Ok(false);
            }
        }
        if now.wall_ms >= since + 2 * UNTOLD_MS {
            return Ok(true);
        }
        // The watcher may have seen less than there is. What is listed now was there before the refs were read, or later.
        let stale = self.unseen_objects(disk, repository)?;
        let is_at_rest = stale.is_empty();
        for spot in stale {
            self.open.entry(spot).or_insert((now.wall_ms + SETTLE_MS, now.wall_ms));
        }
        Ok(is_at_rest)
    }

    fn look_again_at(&mut self, at_ms: u64) {
        let earlier = self.repositories.look_at.unwrap_or(u64::MAX);
        self.repositories.look_at = Some(at_ms.min(earlier));
    }

    /// Whether anything in a repository is yet to be looked at.
    fn is_stirring(&self, repository: &[u8]) -> StoreResult<bool> {
        let mut dirs: BTreeMap<NodeId, bool> = BTreeMap::new();
        let spots = self.open.keys().chain(&self.queue).map(|spot| match spot {
            Spot::Entry(dir, name) => (*dir, Some(name)),
            Spot::Listing(dir) | Spot::Deep(dir) => (*dir, None),
        });
        let missing = self.missing.values().map(|base| (base.parent, Some(&base.name)));
        for (dir, name) in spots.chain(missing) {
            if dir == NodeId::ROOT {
                continue;
            }
            let known = match dirs.get(&dir) {
                Some(known) => *known,
                None => {
                    let base = self.state.store.base(dir)?;
                    let path = base.map(|base| base_path(&self.state.store, &base)).transpose()?;
                    let inside = path.is_some_and(|path| is_at_or_below(&path, repository));
                    dirs.insert(dir, inside);
                    inside
                }
            };
            let is_itself = || -> StoreResult<bool> {
                let Some((name, base)) = name.zip(self.state.store.base(dir)?) else { return Ok(false) };
                Ok(join(&base_path(&self.state.store, &base)?, name) == repository)
            };
            if known || is_itself()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The directories of objects on this disk that are not as base says.
    fn unseen_objects<D: Disk>(&mut self, disk: &mut D, repository: &[u8]) -> StoreResult<Vec<Spot>> {
        let mut unseen = Vec::new();
        let mut dirs: Vec<RelPath> = vec![repository.to_vec()];
        while let Some(dir) = dirs.pop() {
            let Some(base) = self.at(&dir)?.filter(|base| base.class == Class::Dir) else { continue };
            let Ok(entries) = disk.list(&dir) else { continue };
            for (name, stat) in entries.into_iter().filter(|(_, stat)| stat.kind == Kind::Dir) {
                let path = join(&dir, &name);
                let Some(place) = git::place(&path) else { continue };
                let leads =
                    place.part.is_of_objects() || path.split(|&byte| byte == b'/').any(|part| part == b"modules");
                if !leads || !self.select.travels(&path, true, &self.marks) {
                    continue;
                }
                let known = self.state.store.base_at(base.id, &name)?;
                match known {
                    Some(known) if place.part.is_of_objects() && known.stat != stat => {
                        unseen.push(Spot::Listing(known.id))
                    }
                    None if place.part.is_of_objects() => unseen.push(Spot::Entry(base.id, name)),
                    Some(_) | None => {}
                }
                dirs.push(path);
            }
        }
        Ok(unseen)
    }

    // ---- applying ----

    /// Has what waited planned again where that may have come what it waited for.
    pub(super) fn go_on_in_repositories(&mut self, now: &Now) -> StoreResult<()> {
        let is_told = !self.is_being_told();
        let mut due = Vec::new();
        for (repository, wait) in &self.repositories.waits {
            let has_come = match &wait.why {
                Why::Told => is_told,
                Why::Locked(_) => false,
                Why::Object(node, _) => is_told && self.state.store.base_of(*node)?.is_some(),
                Why::Refs => is_told && !wait.nodes.iter().any(|node| self.fetch.awaits(node)),
            };
            let touched = wait.nodes.iter().any(|node| self.ready.contains(node));
            if has_come || touched || wait.again_ms <= now.wall_ms {
                due.push(repository.clone());
            }
        }
        for repository in due {
            if let Some(wait) = self.repositories.waits.get_mut(&repository) {
                self.ready.append(&mut wait.nodes);
                wait.again_ms = u64::MAX;
            }
        }
        Ok(())
    }

    /// Parts the changes of repositories that are not to be applied yet from all others, which are given back.
    pub(super) fn hold_repositories<D: Disk>(
        &mut self,
        disk: &mut D,
        changes: Vec<Planned>,
        sources: &mut Sources,
        open: &mut BTreeSet<NodeId>,
        now: &Now,
    ) -> StoreResult<Vec<Planned>> {
        let mut free = Vec::new();
        let mut bound: BTreeMap<RelPath, Vec<Planned>> = BTreeMap::new();
        for planned in changes {
            match binding(&planned.0) {
                Some(repository) => bound.entry(repository).or_default().push(planned),
                None => free.push(planned),
            }
        }
        for (repository, changes) in bound {
            match self.why_not(disk, &repository, &changes, sources)? {
                None => {
                    self.repositories.waits.remove(&repository);
                    free.extend(changes);
                }
                Some(why) => {
                    let nodes: BTreeSet<NodeId> = changes.into_iter().flat_map(|(_, nodes)| nodes).collect();
                    open.extend(&nodes);
                    self.wait_in(repository, nodes, why, now)?;
                }
            }
        }
        self.repositories.waits.retain(|_, wait| !wait.nodes.is_empty());
        if self.repositories.waits.is_empty() {
            self.repositories.held.clear();
        }
        Ok(free)
    }

    fn why_not<D: Disk>(
        &mut self,
        disk: &mut D,
        repository: &[u8],
        changes: &[Planned],
        sources: &mut Sources,
    ) -> StoreResult<Option<Why>> {
        if self.is_being_told() {
            return Ok(Some(Why::Told));
        }
        if let Some(lock) = git::standing_lock(disk, repository) {
            return Ok(Some(Why::Locked(lock)));
        }
        if let Some((node, path)) = self.missing_object(repository)? {
            return Ok(Some(Why::Object(node, path)));
        }
        if self.repositories.waits.get(repository).is_some_and(|wait| !wait.nodes.is_empty()) {
            // The rest of it is planned along with this.
            return Ok(Some(Why::Refs));
        }
        let mut all_here = true;
        for (change, nodes) in changes.iter().filter(|(change, _)| holds_refs(change)) {
            if let Some(hash) = wanted(change)
                && let Some(bytes) = self.repositories.held.get(&hash)
            {
                sources.entry(hash).or_insert_with(|| Source::Bytes(bytes.clone()));
            }
            all_here &= self.is_at_hand(change, nodes, sources)?;
        }
        if all_here {
            return Ok(None);
        }
        for hash in changes.iter().filter_map(|(change, _)| wanted(change)) {
            if let Some(source @ Source::Brought(_)) = sources.get(&hash)
                && let Ok(bytes) = disk.read(source, MAX_HELD)
            {
                // What is brought and not used does not last.
                self.repositories.held.insert(hash, bytes);
            }
        }
        Ok(Some(Why::Refs))
    }

    fn wait_in(&mut self, repository: RelPath, nodes: BTreeSet<NodeId>, why: Why, now: &Now) -> StoreResult<()> {
        let first = nodes.first().copied();
        let wait = self.repositories.waits.entry(repository.clone()).or_insert_with(|| Wait {
            nodes: BTreeSet::new(),
            why: Why::Refs,
            since_ms: now.wall_ms,
            again_ms: 0,
        });
        let joins = matches!(why, Why::Refs) && !wait.nodes.is_empty();
        wait.nodes.extend(nodes);
        wait.again_ms = match why {
            Why::Locked(_) => now.wall_ms + LOCKED_MS,
            _ if joins => now.wall_ms,
            Why::Told | Why::Object(..) | Why::Refs => now.wall_ms + AGAIN_MS,
        };
        wait.why = why;
        if now.wall_ms < wait.since_ms + LONG_MS {
            return Ok(());
        }
        let (what, hint, path) = match &wait.why {
            Why::Told | Why::Refs => return Ok(()),
            Why::Locked(lock) => {
                let what = format!("a git command holds {}", String::from_utf8_lossy(lock));
                (what, "if none runs, remove it".to_owned(), lock.clone())
            }
            Why::Object(_, object) => {
                let what = format!("its refs wait for an object: {}", String::from_utf8_lossy(object));
                let hint = match self.select.travels(object, false, &self.marks) {
                    true => "connect the device that it was written on, or see what is wrong with the object",
                    false => {
                        "a rule excludes it: see `hearth why`, and remove the rule or exclude the whole repository"
                    }
                };
                (what, hint.to_owned(), repository)
            }
        };
        if let Some(node) = first {
            self.troubles.insert(node, Problem { path, what, hint, transient: true });
            self.effects.push_back(Effect::StatusChanged);
        }
        Ok(())
    }

    /// An object of a repository that the view shows and this disk lacks.
    fn missing_object(&self, repository: &[u8]) -> StoreResult<Option<(NodeId, RelPath)>> {
        let view = self.state.view();
        if let Some(Wait { why: Why::Object(node, path), .. }) = self.repositories.waits.get(repository)
            && self.state.store.base_of(*node)?.is_none()
            && let Some(row) = self.state.store.row(*node)?
            && view.registered(&row).is_some()
        {
            return Ok(Some((*node, path.clone())));
        }
        let Some(root) = view.shape.at(repository) else { return Ok(None) };
        let mut dirs = vec![(root, repository.to_vec())];
        while let Some((dir, path)) = dirs.pop() {
            for (name, child) in view.shape.children(dir) {
                let below = join(&path, name);
                let leads = git::place(&below).is_some_and(|place| matches!(place.part, Part::Objects | Part::Other));
                dirs.extend(leads.then_some((child, below)));
            }
            if !git::place(&path).is_some_and(|place| place.part == Part::Objects) {
                continue;
            }
            for &member in view.shape.members(dir) {
                for node in self.state.store.placed_in(member)? {
                    if self.state.store.base_of(node)?.is_some() {
                        continue;
                    }
                    let Some(row) = self.state.store.row(node)?.filter(|row| row.class == Class::Leaf) else {
                        continue;
                    };
                    let Some((_, name)) = view.registered(&row).filter(|(at, _)| *at == dir) else { continue };
                    let object = join(&path, &name);
                    let is_needed = match git::place(&object).map(|place| place.part) {
                        Some(Part::Loose { .. }) => true,
                        Some(Part::Pack { ending, .. }) => ending == b"pack" || ending == b"idx",
                        _ => false,
                    };
                    if is_needed {
                        return Ok(Some((node, object)));
                    }
                }
            }
        }
        Ok(None)
    }
}

/// The repository whose rest a change waits for. New objects and directories, and changes of attributes, wait for nothing.
fn binding(change: &Change) -> Option<RelPath> {
    let path = match (&change.placed, &change.base) {
        (Some(placed), _) => &placed.path,
        (None, Some((_, path))) => path,
        (None, None) => return None,
    };
    let Place { repository, part } = git::place(path)?;
    let is_free = change.placed.as_ref().is_some_and(|placed| {
        let same = |base: &crate::store::Base| {
            base.value == placed.target.value && base.parent == placed.parent && base.name == placed.target.name
        };
        placed.target.class == Class::Dir && change.base.is_none()
            || part.is_of_objects()
            || part == Part::Still
            || change.base.as_ref().is_some_and(|(base, _)| same(base))
    });
    (!is_free).then(|| repository.to_vec())
}

/// Whether a change bears on which commits are found.
fn holds_refs(change: &Change) -> bool {
    let path = change.placed.as_ref().map(|placed| &placed.path).or(change.base.as_ref().map(|(_, path)| path));
    path.and_then(|path| git::place(path)).is_some_and(|place| place.part.holds_refs())
}

fn wanted(change: &Change) -> Option<ContentHash> {
    match change.placed.as_ref()?.target.value {
        hearth_schemas::item::Value::File { hash, .. } => Some(hash),
        _ => None,
    }
}
