//! Carries out a plan on the disk, so that a crash at any instant leaves each path old or new, and whole.
//!
//! Takes [`Step`]s from [`crate::plan`], in order. Everything is staged, verified and made durable first; then come
//! the renames, the directories' own attributes, and one flush; only then does the caller commit, so base never
//! claims more than the disk. Each step first checks that the disk is as base says; where it is not, a person was
//! quicker: the step is dropped and its entry looked at again. Nothing is overwritten or unlinked: what is displaced
//! is moved into history.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind};

use hearth_schemas::ids::{ContentHash, NodeId};
use hearth_schemas::item::{Attributes, Class, Name, Value};

use crate::database::{image_name, is_database};
use crate::disk::{Disk, Kind, Others, RelPath, Source, StageName, Stat, join};
use crate::git;
use crate::marks::Marks;
use crate::observe::{PARKED, Spot, base_or_root, base_path, describe, is_parked, obstructed, own_name};
use crate::path::depth;
use crate::plan::{Placed, Step, is_left_behind};
use crate::select::Select;
use crate::state::{Now, State};
use crate::store::{Base, BaseState, Kept, Member, Problem, Store, StoreError, StoreResult};
use crate::text;

mod databases;
mod names;
mod repositories;
pub use repositories::GitCare;

/// What became of a plan.
#[derive(Default, Debug)]
pub struct Applied {
    /// Base keys of the entries that are as they shall be.
    pub done: BTreeSet<NodeId>,
    /// Entries that were not as base says, to be looked at.
    pub look: Vec<Spot>,
    /// Entries that could not be changed, by their base key; the root's stands for the whole plan.
    pub problems: Vec<(NodeId, Problem)>,
    /// Base keys of the entries that were not as base says.
    pub missed: BTreeSet<NodeId>,
    /// Paths that were changed, with what happened to them and the device whose doing it is.
    pub changed: Vec<(RelPath, Happened, String)>,
    /// Directories that have another path, to be watched under it.
    pub watch: Vec<RelPath>,
    /// Directories that came into being.
    pub made: Vec<RelPath>,
    /// Names in staging of what was displaced; they go into history once the index has them.
    pub displaced: Vec<StageName>,
    /// Directories that were moved, each with the path that it had.
    pub moved: Vec<(RelPath, NodeId)>,
    /// Base keys of the entries that were parked; each has its place by now, or is to be moved on from there.
    pub parked: Vec<NodeId>,
    /// Contents of which what was brought is used up.
    pub spent: BTreeSet<ContentHash>,
    /// Base keys of entries that a program has open, and where they are.
    pub busy: Vec<(NodeId, RelPath)>,
    /// What was displaced and may still be written to, as it was then.
    pub unguarded: Vec<(StageName, Stat)>,
    /// Files here that did not hold what index or history say of them, each with that content.
    pub unfit: Vec<(Source, ContentHash)>,
    /// Contents of database images that files now hold themselves.
    pub plain: Vec<ContentHash>,
}

/// What an applied step did, for the activity log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Happened {
    /// Came into being.
    Created,
    /// Got other content.
    Changed,
    /// Got another place.
    Moved,
    /// Went into history.
    Removed,
    /// A version of it was taken out that nobody has.
    Withdrawn,
    /// Two versions of it were brought together.
    Merged,
}

/// Where the contents that a plan needs are to be had.
pub type Sources = BTreeMap<ContentHash, Source>;

enum Fault {
    /// The disk is not as base says.
    Changed,
    /// Something of ours has to go first.
    Early,
    /// A program has the file open.
    Busy,
    /// The disk refused.
    Io(Error),
    /// The index failed.
    Store(StoreError),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::AlreadyExists | ErrorKind::NotFound | ErrorKind::NotADirectory => Self::Changed,
            _ => Self::Io(error),
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A file that is held.
#[derive(Clone, Copy)]
struct Hold {
    /// Whether it could be seen to that nobody else has it.
    guarded: bool,
    /// Whether it is a database.
    database: bool,
}

/// Carries out steps.
pub struct Applier<'a, S, D> {
    /// The state whose base follows the disk.
    pub state: &'a mut State<S>,
    /// The disk.
    pub disk: &'a mut D,
    /// Contents by hash.
    pub sources: &'a Sources,
    /// The devices whose changes are applied, for history: by base key, and of all else.
    pub by: (BTreeMap<NodeId, String>, &'a str),
    /// What is synced at all, and the files of this disk that this goes by.
    pub select: (&'a dyn Select, &'a Marks),
    /// What became of it.
    pub applied: Applied,
    /// What is to be minded in git repositories.
    pub git: GitCare,
    /// Contents that there are images of in staging.
    pub images: BTreeSet<ContentHash>,
}

type Staged = BTreeMap<NodeId, (StageName, Stat)>;

impl<S: Store, D: Disk> Applier<'_, S, D> {
    /// Does the steps in order. When this returns, everything done is durable on disk and ready to commit.
    pub fn run(&mut self, steps: &[Step], now: &mut Now) -> StoreResult<()> {
        if steps.is_empty() {
            return Ok(());
        }
        let mut failed: BTreeSet<NodeId> = BTreeSet::new();
        let staged = self.stage_all(steps, &mut failed, now)?;
        if !staged.is_empty()
            && let Err(error) = self.disk.flush_staged()
        {
            self.applied.problems.push((NodeId::ROOT, describe(RelPath::new(), &error)));
            return self.discard(staged.into_values());
        }
        let mut touched: BTreeSet<NodeId> = BTreeSet::new();
        let mut left = staged;
        self.git.begin(steps);
        for step in steps {
            let id = entry_of(step);
            if failed.contains(&id) {
                continue;
            }
            let parents = self.parents_of(step)?;
            match self.step(step, &mut left, now) {
                Ok(()) => touched.extend(parents),
                Err(Fault::Store(error)) => return Err(error),
                Err(fault) => {
                    self.fault(step, fault)?;
                    failed.insert(id);
                }
            }
        }
        self.discard(left.into_values())?;
        touched.extend(self.rescue_refs(now)?);
        let dirs = self.settle_directories(&touched, &mut failed)?;
        if let Err(error) = self.disk.flush(&dirs) {
            // Not durable: forget what was done; the caller rolls back and everything is looked at again.
            return Err(StoreError::Failed(format!("making changes durable: {error}")));
        }
        for dir in self.applied.moved.iter().map(|(_, dir)| *dir).collect::<BTreeSet<_>>() {
            self.watch_again(dir)?;
        }
        let last = steps.iter().filter(|step| !matches!(step, Step::Park(_))).map(entry_of);
        self.applied.done.extend(last.filter(|id| !failed.contains(id)));
        Ok(())
    }

    /// Has a moved directory and all below it watched under their later paths.
    fn watch_again(&mut self, dir: NodeId) -> StoreResult<()> {
        let mut queue: Vec<Base> = self.state.store.base(dir)?.into_iter().collect();
        while let Some(base) = queue.pop() {
            self.applied.watch.push(self.path_of(&base)?);
            queue.extend(self.state.store.base_dirs_in(base.id)?);
        }
        Ok(())
    }

    fn stage_all(&mut self, steps: &[Step], failed: &mut BTreeSet<NodeId>, now: &mut Now) -> StoreResult<Staged> {
        let mut staged = Staged::new();
        let wants = |step: &Step| match (step, placed_of(step).map(|placed| &placed.target.value)) {
            (Step::Create(_) | Step::Replace(_), Some(Value::File { hash, .. })) => Some(*hash),
            _ => None,
        };
        let mut uses: BTreeMap<ContentHash, usize> = BTreeMap::new();
        for hash in steps.iter().filter_map(wants) {
            *uses.entry(hash).or_default() += 1;
        }
        // Of the names that a file is to have, one is staged; the others are further names of that.
        let mut twins: Vec<(&Placed, StageName)> = Vec::new();
        for step in steps {
            let (Step::Create(placed) | Step::Replace(placed)) = step else { continue };
            let stays = matches!(step, Step::Replace(_)) && self.keeps_value(placed)?;
            let twin = twins.iter().find(|(twin, _)| is_one_file(&twin.target.value, &twin.target.attributes, placed));
            let last = wants(step).and_then(|hash| uses.get_mut(&hash)).is_none_or(|left| {
                *left -= 1;
                *left == 0
            });
            let done = match twin.map(|(_, name)| name.clone()) {
                Some(name) => self.stage_twin(placed, name, now),
                None => match self.stage_name_of_partner(placed, now) {
                    Ok(None) if stays && !self.is_shared(placed)? => continue,
                    Ok(None) => self.stage(step, stays, last, now),
                    Ok(Some(entry)) => Ok(entry),
                    Err(fault) => Err(fault),
                },
            };
            match done {
                Ok(entry) => {
                    if placed.target.attributes.group.is_some() {
                        twins.push((placed, entry.0.clone()));
                    }
                    staged.insert(placed.id, entry);
                }
                Err(Fault::Store(error)) => return Err(error),
                Err(Fault::Early) => {
                    failed.insert(placed.id);
                }
                Err(Fault::Busy) => {
                    failed.insert(placed.id);
                    self.applied.busy.push((placed.id, placed.path.clone()));
                }
                Err(Fault::Changed) => {
                    // The content is not where it was, though another entry of this plan may have it by now.
                    failed.insert(placed.id);
                    self.applied.missed.insert(placed.id);
                    if stays {
                        self.applied.look.push(Spot::Entry(placed.parent, placed.target.name.clone()));
                    }
                }
                Err(Fault::Io(error)) => {
                    failed.insert(placed.id);
                    self.applied.problems.push((placed.id, describe(placed.path.clone(), &error)));
                }
            }
        }
        Ok(staged)
    }

    /// Stages the content of a step that makes a leaf. `stays` tells that the entry has it already, `last` that no later
    /// step needs the same one.
    fn stage(&mut self, step: &Step, stays: bool, last: bool, now: &mut Now) -> Result<(StageName, Stat), Fault> {
        let (Step::Create(placed) | Step::Replace(placed)) = step else { return Err(Fault::Changed) };
        // Nothing will be displaced by it.
        let into_place = matches!(step, Step::Create(_));
        let target = &placed.target;
        let mut name = stage_name(placed.id, now);
        let (mut source, wanted) = match &target.value {
            Value::File { size: 0, hash } => (Source::Bytes(Vec::new()), Some(*hash)),
            Value::File { hash, .. } if stays => {
                let base = self.checked(placed.id)?;
                match self.images.contains(hash) {
                    true => (Source::Kept(image_name(*hash)), Some(*hash)),
                    false => (Source::Copy(self.path_of(&base)?), Some(*hash)),
                }
            }
            Value::File { hash, .. } => (self.sources.get(hash).ok_or(Fault::Changed)?.clone(), Some(*hash)),
            Value::Link { target } => (Source::Link(target.clone()), None),
            Value::Dir | Value::Setting { .. } | Value::Replica { .. } => return Err(Fault::Changed),
        };
        if let Source::Brought(brought) = &source {
            if !last {
                source = Source::Kept(brought.clone());
            } else if into_place {
                // It needs no name that history could know it by.
                name = brought.clone();
            }
        }
        let (stat, hash, size) = match self.disk.stage(&name, &source, &target.attributes) {
            Ok(staged) => staged,
            Err(error) => {
                if error.kind() == ErrorKind::NotFound {
                    self.correct_history(&source, None)?;
                }
                return Err(self.unfit(source, wanted, error));
            }
        };
        if matches!(source, Source::Brought(_)) {
            // Only now: what could not be staged still lies where it was brought.
            self.applied.spent.extend(wanted);
        }
        if wanted.is_some_and(|wanted| wanted != hash) {
            // The file that held this content has changed since.
            self.disk.discard(&name)?;
            self.correct_history(&source, Some(Value::File { hash, size }))?;
            return Err(self.unfit(source, wanted, ErrorKind::NotFound.into()));
        }
        Ok((name, stat))
    }

    /// Whether an entry has the content already that it shall have.
    fn keeps_value(&self, placed: &Placed) -> StoreResult<bool> {
        Ok(self.state.store.base(placed.id)?.is_some_and(|base| base.value == placed.target.value))
    }

    /// What it is that a content could not be staged: where it was to be copied from a file here, that is no trouble of
    /// the entry that needs it, which can have it from elsewhere. Only a lack of room is.
    fn unfit(&mut self, source: Source, wanted: Option<ContentHash>, error: Error) -> Fault {
        let no_room =
            matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem);
        match (source, wanted) {
            (source @ (Source::Copy(_) | Source::Kept(_)), Some(hash)) if !no_room => {
                self.applied.unfit.push((source, hash));
                Fault::Changed
            }
            _ => error.into(),
        }
    }

    /// Takes in that a file in history is not what it was: one that has other names may have been written to under them.
    fn correct_history(&mut self, source: &Source, holds: Option<Value>) -> StoreResult<()> {
        let Source::Kept(name) = source else { return Ok(()) };
        let Some(kept) = self.state.store.kept(&name.0)? else { return Ok(()) };
        match holds {
            Some(value) => self.state.store.put_kept(&Kept { value, ..kept }),
            None => self.state.store.remove_kept(&name.0),
        }
    }

    fn step(&mut self, step: &Step, staged: &mut Staged, now: &mut Now) -> Result<(), Fault> {
        match step {
            Step::Mkdir(placed) => self.mkdir(placed),
            Step::Park(id) => self.park(*id, now),
            Step::Move(placed) => self.move_to(placed, now),
            Step::Create(placed) => self.create(placed, staged, now),
            Step::Replace(placed) if !staged.contains_key(&placed.id) && self.keeps_value(placed)? => {
                self.adjust(placed, now)
            }
            Step::Replace(placed) => self.replace(placed, staged, now),
            Step::Adjust(placed) => self.adjust(placed, now),
            Step::Remove(id) => self.remove(*id, now),
            Step::RemoveDir(id) => self.remove_dir(*id),
        }
    }

    fn mkdir(&mut self, placed: &Placed) -> Result<(), Fault> {
        if let Some((residue, stat)) = self.residue_at(placed)? {
            // A directory that was left for what is not ours in it: it is wanted again.
            self.state.forget(residue)?;
            self.put_entry(&new_base(placed, stat), &[])?;
            self.applied.look.push(Spot::Listing(placed.id));
            return Ok(());
        }
        let path = self.free_path(placed)?;
        self.widening(placed.parent, |disk| disk.mkdir(&path).map(|_| ()))?;
        // Writable until its own children are in it; `settle_directories` gives it its attributes.
        let stat = self.disk.stat(&path)?.ok_or(Fault::Changed)?;
        self.put_entry(&new_base(placed, stat), &[])?;
        self.applied.made.push(path.clone());
        self.changed(placed.id, path, Happened::Created);
        Ok(())
    }

    fn residue_at(&mut self, placed: &Placed) -> Result<Option<(Base, Stat)>, Fault> {
        let base = self.state.store.base_at(placed.parent, &placed.target.name)?;
        let Some(base) = base.filter(|base| base.class == Class::Dir && base.state == BaseState::Dormant) else {
            return Ok(None);
        };
        let path = self.path_of(&base)?;
        Ok(self.disk.stat(&path)?.filter(|stat| stat.kind == Kind::Dir).map(|stat| (base, stat)))
    }

    fn park(&mut self, id: NodeId, now: &mut Now) -> Result<(), Fault> {
        let mut base = self.checked(id)?;
        let from = self.path_of(&base)?;
        base.name = Name::new([PARKED, id.to_string().as_bytes()].concat()).expect("a short name without slashes");
        let to = self.path_in(base.parent, &base.name)?;
        let dir = base.parent;
        self.holding(&base, &from, |it, hold| {
            it.moving_whole(&base, (&from, dir, &to), hold, now, |it| it.widening(dir, |disk| disk.rename(&from, &to)))
        })?;
        if base.class == Class::Dir {
            self.applied.moved.push((from, id));
        }
        self.follow(&mut base, &to)?;
        self.applied.parked.push(id);
        Ok(self.state.store.put_base(&base)?)
    }

    /// Takes in what a move has done to an entry. What a person did to it meanwhile is left to be seen.
    fn follow(&mut self, base: &mut Base, to: &[u8]) -> Result<(), Fault> {
        match self.disk.stat(to)? {
            Some(stat) if is_same_directory(base, &stat) || same_renamed(&stat, &base.stat) => base.stat = stat,
            Some(_) | None => self.applied.look.push(Spot::Entry(base.parent, base.name.clone())),
        }
        Ok(())
    }

    fn move_to(&mut self, placed: &Placed, now: &mut Now) -> Result<(), Fault> {
        let mut base = self.checked(placed.id)?;
        let from = self.path_of(&base)?;
        let to = self.free_path(placed)?;
        let old_parent = base.parent;
        if base.class == Class::Dir && old_parent != placed.parent && base.attributes.mode & 0o200 == 0 {
            // A directory that changes its parent is written to: `..` is in it.
            let wide = Attributes { mode: base.attributes.mode | 0o700, ..base.attributes.clone() };
            self.disk.set_attributes(&from, base.stat.handle, &wide)?;
        }
        self.holding(&base, &from, |it, hold| {
            it.moving_whole(&base, (&from, placed.parent, &to), hold, now, |it| {
                match it.widening(old_parent, |disk| disk.rename(&from, &to)) {
                    Err(Fault::Io(error)) if error.kind() == ErrorKind::PermissionDenied => {
                        it.widening(placed.parent, |disk| disk.rename(&from, &to))
                    }
                    other => other,
                }
            })
        })?;
        if base.class == Class::Dir {
            self.applied.moved.push((from, base.id));
        }
        base.parent = placed.parent;
        base.name = placed.target.name.clone();
        self.follow(&mut base, &to)?;
        let target = &placed.target;
        let before = base.members.clone();
        for member in &mut base.members {
            if let Some(wanted) = target.members.iter().find(|wanted| wanted.node == member.node) {
                member.dots.place.clone_from(&wanted.dots.place);
            }
        }
        if base.value == target.value && base.attributes == target.attributes {
            base.members.clone_from(&target.members);
        }
        self.put_entry(&base, &before)?;
        self.git.note_sibling(placed, &to);
        self.changed(placed.id, to, Happened::Moved);
        if base.value == target.value && base.attributes != target.attributes {
            self.adjust(placed, now)?;
        }
        Ok(())
    }

    fn create(&mut self, placed: &Placed, staged: &mut Staged, now: &mut Now) -> Result<(), Fault> {
        let path = self.free_path(placed)?;
        let (name, as_staged) = staged.get(&placed.id).ok_or(Fault::Changed)?.clone();
        let mut stat = None;
        let aside = self.clear_for_database(placed, &name, &path)?;
        let done =
            self.locking(placed.parent, &path, |disk| disk.unstage(&name, &path).map(|after| stat = Some(after)));
        if let Err(fault) = done {
            self.put_beside(aside);
            return Err(fault);
        }
        self.keep_aside(aside, placed.id, "replaced", now)?;
        staged.remove(&placed.id);
        let spot = Spot::Entry(placed.parent, placed.target.name.clone());
        let stat = self.unless_written_to(placed, (stat.ok_or(Fault::Changed)?, &path), as_staged, spot);
        let base = new_base(placed, stat);
        self.put_entry(&base, &[])?;
        self.follow_names(&base)?;
        text::remember(self.state, self.disk, &base)?;
        self.git.note_packed(None, &path, placed.id);
        self.git.note_sibling(placed, &path);
        self.note_plain(placed);
        self.changed(placed.id, path, Happened::Created);
        Ok(())
    }

    /// What was put in place is the whole of a database: an image of that content is not needed for it.
    fn note_plain(&mut self, placed: &Placed) {
        if let Value::File { hash, .. } = placed.target.value
            && self.images.contains(&hash)
        {
            self.applied.plain.push(hash);
        }
    }

    fn replace(&mut self, placed: &Placed, staged: &mut Staged, now: &mut Now) -> Result<(), Fault> {
        let base = self.checked(placed.id)?;
        let path = self.path_of(&base)?;
        let (name, as_staged) = staged.get(&placed.id).ok_or(Fault::Changed)?.clone();
        let (mut swapped, mut stranded) = (None, false);
        let mut aside = Vec::new();
        self.holding(&base, &path, |it, hold| {
            aside = it.set_aside(&base, &path, &name, hold)?;
            if aside.is_empty() {
                aside = it.clear_for_database(placed, &name, &path)?;
            }
            let done = it.locking(base.parent, &path, |disk| {
                let (stat, displaced) = disk.exchange(&name, &path)?;
                if !same_file(&displaced, &base.stat) || disk.is_awaited() {
                    // A person wrote in between, or is about to: their bytes go back to their name.
                    stranded = match disk.exchange(&name, &path) {
                        Ok((_, out)) if out.handle == as_staged.handle => false,
                        // They have put another in its place meanwhile, and the newest is to stay there.
                        Ok(_) => {
                            let _or_none_has_the_name = disk.exchange(&name, &path);
                            true
                        }
                        Err(_) => disk.unstage(&name, &path).is_err(),
                    };
                    return Ok(());
                }
                swapped = Some((stat, displaced));
                Ok(())
            });
            if swapped.is_none() {
                it.put_beside(std::mem::take(&mut aside));
            }
            done?;
            it.note_unguarded(&name, swapped.as_ref().map(|(_, displaced)| displaced), hold.guarded);
            Ok(())
        })?;
        if stranded {
            staged.remove(&placed.id);
            self.keep_stranded(&name, &base, &path, "replaced", now)?;
        }
        let (stat, _) = swapped.ok_or(Fault::Changed)?;
        self.git.note_packed(Some(&name), &path, placed.id);
        staged.remove(&placed.id);
        let spot = Spot::Entry(base.parent, base.name.clone());
        let stat = self.unless_written_to(placed, (stat, &path), as_staged, spot);
        self.keep_displaced(&name, &base, &path, aside, "replaced", now)?;
        let before = base.members;
        let base = Base { parent: base.parent, name: base.name, ..new_base(placed, stat) };
        self.put_entry(&base, &before)?;
        self.follow_names(&base)?;
        text::remember(self.state, self.disk, &base)?;
        self.note_plain(placed);
        self.changed(placed.id, path, Happened::Changed);
        Ok(())
    }

    /// What base has to say of a file that was put in place: what stands there, unless somebody wrote to it at once, or it is a
    /// further name of a file that got other attributes since it was staged. Then what was staged, so that it differs when it
    /// is looked at.
    fn unless_written_to(&mut self, placed: &Placed, (found, path): (Stat, &[u8]), staged: Stat, spot: Spot) -> Stat {
        let is_as_wanted = |disk: &mut D| {
            let wanted = &placed.target.attributes.xattrs;
            found.links < 2 || disk.xattrs(path).is_none_or(|xattrs| xattrs == *wanted)
        };
        if same_file(&found, &staged) && found.mode == staged.mode && is_as_wanted(self.disk) {
            return found;
        }
        self.applied.look.push(spot);
        staged
    }

    fn adjust(&mut self, placed: &Placed, now: &Now) -> Result<(), Fault> {
        let mut base = self.state.store.base(placed.id)?.ok_or(Fault::Changed)?;
        let target = &placed.target;
        if let Some(attributes) = self.said_later_of_another_name(&base, target)? {
            for member in &target.members {
                self.state.say_attributes(member.node, &attributes, now)?;
            }
            return Err(Fault::Early);
        }
        if let Some(stat) = self.adjusted_by_another_name(&base, target)? {
            base.stat = stat;
            base.attributes = target.attributes.clone();
        } else if base.attributes != target.attributes {
            let base_now = self.checked(placed.id)?;
            let path = self.path_of(&base_now)?;
            let stat = self.disk.set_attributes(&path, base_now.stat.handle, &target.attributes)?;
            if base.class == Class::Leaf && stat.size != base_now.stat.size {
                // Somebody wrote to it at this moment; base keeps what it was, so that it differs when it is looked at.
                self.applied.look.push(Spot::Entry(base.parent, base.name.clone()));
            } else {
                base.stat = stat;
            }
            base.attributes = target.attributes.clone();
            if base.class == Class::Leaf && base.stat.links > 1 {
                // The other names of this file have changed along with it.
                let others =
                    self.state.store.bases_with(base.stat.handle)?.into_iter().filter(|other| other.id != base.id);
                self.applied.look.extend(others.map(|other| Spot::Entry(other.parent, other.name)));
            }
        }
        let before = std::mem::replace(&mut base.members, target.members.clone());
        Ok(self.put_entry(&base, &before)?)
    }

    /// Writes an entry. A node is shown as one entry: it leaves the one that it was shown as, which goes when it has
    /// none left. What is in a directory whose nodes change has to follow.
    fn put_entry(&mut self, base: &Base, before: &[Member]) -> StoreResult<()> {
        let nodes = |members: &[Member]| members.iter().map(|member| member.node).collect::<BTreeSet<_>>();
        let (before, after) = (nodes(before), nodes(&base.members));
        let mut stirred: Vec<NodeId> = before.difference(&after).copied().collect();
        for &joined in after.difference(&before) {
            let Some(mut other) = self.state.store.base_of(joined)?.filter(|other| other.id != base.id) else {
                continue;
            };
            other.members.retain(|member| member.node != joined);
            self.state.store.put_base(&other)?;
            if other.members.is_empty() && other.state == BaseState::Dormant {
                // With what it kept asleep: that has no directory any more to be found by. What stands there is this
                // machine's own from then on.
                self.applied.look.push(Spot::Entry(other.parent, other.name.clone()));
                self.state.forget(other)?;
                self.state.mark_below(vec![joined])?;
            } else if other.members.is_empty() {
                self.state.mark(other.id)?;
                for child in self.state.store.base_in(other.id)? {
                    self.state.mark_members(&child)?;
                }
            }
            stirred.push(joined);
        }
        if base.class == Class::Dir {
            for node in stirred {
                for child in self.state.store.placed_in(node)? {
                    self.state.mark(child)?;
                }
            }
        }
        self.state.store.put_base(base)
    }

    fn remove(&mut self, id: NodeId, now: &mut Now) -> Result<(), Fault> {
        let base = self.checked(id)?;
        let path = self.path_of(&base)?;
        if self.is_needed(&base, &path)? {
            for member in base.members.iter().filter(|member| member.origin.is_none()) {
                self.state.revive(member.node, &base, now)?;
            }
            return Err(Fault::Early);
        }
        let name = stage_name(id, now);
        let (mut taken, mut stranded) = (None, false);
        let mut aside = Vec::new();
        self.holding(&base, &path, |it, hold| {
            aside = it.set_aside(&base, &path, &name, hold)?;
            let done = it.locking(base.parent, &path, |disk| {
                let stat = disk.take(&path, &name)?;
                if !same_file(&stat, &base.stat) || disk.is_awaited() {
                    stranded = disk.unstage(&name, &path).is_err();
                    return Ok(());
                }
                taken = Some(stat);
                Ok(())
            });
            if taken.is_none() {
                it.put_beside(std::mem::take(&mut aside));
            }
            done?;
            it.note_unguarded(&name, taken.as_ref(), hold.guarded);
            Ok(())
        })?;
        if stranded {
            self.keep_stranded(&name, &base, &path, "deleted", now)?;
        }
        if taken.is_none() {
            return Err(Fault::Changed);
        }
        self.git.note_removed(&path);
        self.keep_displaced(&name, &base, &path, aside, "deleted", now)?;
        self.state.store.remove_base(id)?;
        self.changed(id, path, Happened::Removed);
        Ok(())
    }

    fn remove_dir(&mut self, id: NodeId) -> Result<(), Fault> {
        let Some(mut base) = self.state.store.base(id)? else { return Ok(()) };
        let path = self.path_of(&base)?;
        let (select, marks) = self.select;
        for child in self.state.store.base_in(id)? {
            // What others moved to where it is excluded here does not leave: the directory stays for it.
            if child.state == BaseState::Live && !is_left_behind(self.state, select, marks, &child)? {
                return Err(Fault::Early);
            }
        }
        if self.disk.stat(&path)?.is_some_and(|stat| !is_same_directory(&base, &stat)) {
            // Something else is there. If base knows it, this entry is what an earlier look has left over.
            let known = self.state.store.base_at(base.parent, &base.name)?.is_some_and(|other| other.id != id);
            return if known { Ok(self.state.forget(base)?) } else { Err(Fault::Changed) };
        }
        let mut removed = self.widening(base.parent, |disk| disk.rmdir(&path));
        if matches!(&removed, Err(Fault::Io(error)) if error.kind() == ErrorKind::DirectoryNotEmpty)
            && is_parked(&base)
            && self.hand_over(&base, &path)?
        {
            removed = self.widening(base.parent, |disk| disk.rmdir(&path));
        }
        match removed {
            Ok(()) => self.changed(id, path, Happened::Removed),
            Err(Fault::Io(error)) if error.kind() == ErrorKind::DirectoryNotEmpty => {
                // What is left in it is not ours: it stays as a residue.
                base.state = BaseState::Dormant;
                self.applied.look.push(Spot::Listing(id));
                self.applied.parked.extend(is_parked(&base).then_some(id));
                return Ok(self.state.store.put_base(&base)?);
            }
            Err(Fault::Changed) if self.disk.stat(&path).is_ok_and(|stat| stat.is_none()) => {}
            Err(fault) => return Err(fault),
        }
        Ok(self.state.forget(base)?)
    }

    /// What is not ours in a parked directory keeps its path: it goes into the directory that has that name by now.
    /// Gives whether there is one.
    fn hand_over(&mut self, parked: &Base, path: &[u8]) -> Result<bool, Fault> {
        let moved = self.applied.moved.iter().rfind(|(_, dir)| *dir == parked.id);
        let name = match moved.and_then(|(from, _)| from.rsplit(|&byte| byte == b'/').next()).and_then(Name::new) {
            Some(name) => name,
            None => own_name(&self.state.store, parked)?,
        };
        let heir = self.state.store.base_at(parked.parent, &name)?;
        let Some(mut heir) = heir.filter(|heir| heir.class == Class::Dir && heir.id != parked.id) else {
            return Ok(false);
        };
        let to = self.path_of(&heir)?;
        for (name, _) in self.disk.list(path)? {
            match self.widening(heir.id, |disk| disk.rename(&join(path, &name), &join(&to, &name))) {
                Ok(()) => {}
                // Another has that name: this one stays.
                Err(Fault::Changed) => continue,
                Err(fault) => return Err(fault),
            }
            if let Some(dormant) = self.state.store.base_at(parked.id, &name)? {
                self.state.store.put_base(&Base { parent: heir.id, ..dormant })?;
            }
        }
        heir.stat = self.disk.set_attributes(&to, heir.stat.handle, &heir.attributes)?;
        self.state.store.put_base(&heir)?;
        self.applied.look.push(Spot::Listing(heir.id));
        Ok(true)
    }

    /// The path that an entry is to have, if no other entry that base knows has that name.
    fn free_path(&mut self, placed: &Placed) -> Result<RelPath, Fault> {
        let path = self.path_in(placed.parent, &placed.target.name)?;
        match self.state.store.base_at(placed.parent, &placed.target.name)? {
            Some(other) if other.id != placed.id => {
                if other.state == BaseState::Live || self.disk.stat(&path)?.is_some() {
                    return Err(Fault::Early);
                }
                self.state.forget(other)?;
            }
            Some(_) | None => {}
        }
        Ok(path)
    }

    /// Does something that takes a file from its name, while no program has it open for writing, nor gets it open so:
    /// what such a program writes later would be in nobody's sight. `act` does not open the
    /// file: that would be to wait for it.
    fn holding<T>(
        &mut self,
        base: &Base,
        path: &[u8],
        act: impl FnOnce(&mut Self, Hold) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if base.stat.kind != Kind::File {
            return act(self, Hold { guarded: true, database: false });
        }
        let hold = hold(self.disk, base, path)?;
        let done = act(self, hold);
        self.disk.let_go();
        done
    }

    /// Takes note of a displaced file that a program may have open without our knowing.
    fn note_unguarded(&mut self, name: &StageName, displaced: Option<&Stat>, guarded: bool) {
        if let Some(stat) = displaced.filter(|_| !guarded) {
            self.applied.unguarded.push((name.clone(), stat.clone()));
        }
    }

    /// The base entry, if the disk is as it says.
    fn checked(&mut self, id: NodeId) -> Result<Base, Fault> {
        let mut base = self.state.store.base(id)?.ok_or(Fault::Changed)?;
        let path = self.path_of(&base)?;
        if base.class == Class::Leaf && base.stat.is_unsure() {
            // Somebody had it open for writing when it was looked at last. It is looked at again when they are done.
            hold(self.disk, &base, &path)?;
            self.disk.let_go();
            return Err(Fault::Changed);
        }
        let stat = self.disk.stat(&path)?.ok_or(Fault::Changed)?;
        let same = match base.class {
            Class::Dir => is_same_directory(&base, &stat),
            Class::Leaf | Class::Setting | Class::Replica => stat == base.stat || self.only_names_changed(&base, &stat),
        };
        if !same {
            return Err(Fault::Changed);
        }
        if base.class == Class::Leaf && stat != base.stat {
            base.stat = stat;
            self.state.store.put_base(&base)?;
        }
        Ok(base)
    }

    /// Whether a file differs from base only by what was done to its other names, ours among them, which lie in staging
    /// and in history: then it still holds what it did.
    fn only_names_changed(&mut self, base: &Base, stat: &Stat) -> bool {
        let linked = stat.links > 1 || base.stat.links > 1;
        if !linked || !same_file(stat, &base.stat) || stat.mode != base.stat.mode {
            return false;
        }
        let (Ok(path), Value::File { hash, .. }) = (self.path_of(base), &base.value) else { return false };
        let untouched = |disk: &mut D| disk.stat(&path).is_ok_and(|after| after.as_ref() == Some(stat));
        self.disk.hash(&path).is_ok_and(|(found, _)| found == *hash)
            && self.disk.xattrs(&path).is_none_or(|xattrs| xattrs == base.attributes.xattrs)
            && untouched(self.disk)
    }

    fn keep(&mut self, name: &StageName, base: &Base, path: &[u8], cause: &str, now: &Now) -> Result<(), Fault> {
        self.applied.displaced.push(name.clone());
        self.state.store.put_kept(&Kept {
            name: name.0.clone(),
            path: path.to_vec(),
            time_ms: now.wall_ms,
            device: self.author(base.id),
            value: base.value.clone(),
            attributes: base.attributes.clone(),
            cause: cause.to_owned(),
        })?;
        Ok(())
    }

    /// Keeps what somebody wrote and a step displaced, where its name has gone or changed hands once more before it could go
    /// back there.
    fn keep_stranded(
        &mut self,
        name: &StageName,
        base: &Base,
        path: &[u8],
        cause: &str,
        now: &Now,
    ) -> Result<(), Fault> {
        let value = self.disk.read_staged(name).unwrap_or_else(|_| base.value.clone());
        self.keep(name, &Base { value, ..base.clone() }, path, cause, now)
    }

    fn changed(&mut self, id: NodeId, path: RelPath, happened: Happened) {
        let author = self.author(id);
        self.applied.changed.push((path, happened, author));
    }

    fn author(&self, id: NodeId) -> String {
        let (authors, others) = &self.by;
        authors.get(&id).map_or_else(|| (*others).to_owned(), Clone::clone)
    }

    /// Does something in a directory, making it writable for that moment if it is not.
    fn widening(&mut self, dir: NodeId, mut act: impl FnMut(&mut D) -> std::io::Result<()>) -> Result<(), Fault> {
        match act(self.disk) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied && dir != NodeId::ROOT => {
                let base = self.state.store.base(dir)?.ok_or(Fault::Changed)?;
                let path = self.path_of(&base)?;
                let wide = Attributes { mode: base.attributes.mode | 0o700, ..base.attributes.clone() };
                self.disk.set_attributes(&path, base.stat.handle, &wide)?;
                Ok(act(self.disk)?)
            }
            other => Ok(other?),
        }
    }

    /// Gives every directory that something happened in its attributes back, deepest first.
    fn settle_directories(
        &mut self,
        touched: &BTreeSet<NodeId>,
        failed: &mut BTreeSet<NodeId>,
    ) -> StoreResult<Vec<RelPath>> {
        let mut dirs = Vec::new();
        for &id in touched {
            if let Some(base) = base_or_root(&self.state.store, id)? {
                dirs.push((self.path_of(&base)?, base));
            }
        }
        dirs.sort_by_key(|(path, _)| std::cmp::Reverse(depth(path)));
        for (path, base) in &mut dirs {
            if base.id == NodeId::ROOT {
                continue;
            }
            match self.disk.set_attributes(path, base.stat.handle, &base.attributes) {
                Ok(stat) => {
                    base.stat = stat;
                    self.state.store.put_base(base)?;
                }
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    // Moved away meanwhile. It has what it was last seen with, and gets its own where it turns up.
                    let Stat { mode, mtime, .. } = base.stat;
                    base.attributes = Attributes { mode, mtime, ..base.attributes.clone() };
                    self.state.store.put_base(base)?;
                    self.state.mark_members(base)?;
                    self.applied.missed.insert(base.id);
                    self.applied.look.push(Spot::Entry(base.parent, base.name.clone()));
                    failed.insert(base.id);
                }
                Err(error) => {
                    // What it has is what base has to say; that it differs from the view leads to another try.
                    let stat = self.disk.stat(path).ok().flatten();
                    if let Some(stat) = stat.filter(|stat| is_same_directory(base, stat)) {
                        base.attributes = Attributes { mode: stat.mode, mtime: stat.mtime, ..base.attributes.clone() };
                        base.stat = stat;
                        self.state.store.put_base(base)?;
                    }
                    self.applied.problems.push((base.id, describe(path.clone(), &error)));
                    for member in &base.members {
                        // Its time comes again with the problem's.
                        self.state.store.mark(member.node)?;
                    }
                    failed.insert(base.id);
                }
            }
        }
        Ok(dirs.into_iter().map(|(path, _)| path).collect())
    }

    fn fault(&mut self, step: &Step, fault: Fault) -> StoreResult<()> {
        match fault {
            Fault::Io(error) => {
                let path = match placed_of(step) {
                    Some(placed) => placed.path.clone(),
                    None => match self.state.store.base(entry_of(step))? {
                        Some(base) => self.path_of(&base)?,
                        None => RelPath::new(),
                    },
                };
                self.applied.problems.push((entry_of(step), describe(path, &error)));
            }
            Fault::Changed => {
                if let Some(placed) = placed_of(step).filter(|placed| self.is_obstructed(placed)) {
                    self.applied.problems.push((entry_of(step), obstructed(placed.path.clone())));
                    return Ok(());
                }
                self.applied.missed.insert(entry_of(step));
                if let Some(base) = self.state.store.base(entry_of(step))? {
                    self.applied.look.push(Spot::Entry(base.parent, base.name));
                }
                if let Some(placed) = placed_of(step) {
                    self.applied.look.push(Spot::Entry(placed.parent, placed.target.name.clone()));
                }
            }
            // It stays marked.
            Fault::Early => {
                if let Some(placed) = placed_of(step).filter(|placed| self.is_obstructed(placed)) {
                    self.applied.problems.push((entry_of(step), obstructed(placed.path.clone())));
                }
            }
            Fault::Busy => {
                if let Some(base) = self.state.store.base(entry_of(step))? {
                    let path = self.path_of(&base)?;
                    self.applied.busy.push((base.id, path));
                }
            }
            Fault::Store(error) => return Err(error),
        }
        Ok(())
    }

    fn is_obstructed(&mut self, placed: &Placed) -> bool {
        is_obstructed(&self.state.store, self.disk, self.select, placed)
    }

    fn discard(&mut self, names: impl Iterator<Item = (StageName, Stat)>) -> StoreResult<()> {
        for (name, _) in names {
            // A staged file that is left over costs space, nothing else; it is cleared at the next start.
            let _ = self.disk.discard(&name);
        }
        Ok(())
    }

    /// Directories that a step changes the listing of.
    fn parents_of(&self, step: &Step) -> StoreResult<Vec<NodeId>> {
        let mut parents = Vec::new();
        if let Some(base) = self.state.store.base(entry_of(step))? {
            parents.push(base.parent);
        }
        if let Some(placed) = placed_of(step) {
            parents.push(placed.parent);
            if placed.target.class == Class::Dir {
                parents.push(placed.id);
            }
        }
        Ok(parents)
    }

    fn path_of(&self, base: &Base) -> StoreResult<RelPath> {
        base_path(&self.state.store, base)
    }

    fn path_in(&self, dir: NodeId, name: &Name) -> Result<RelPath, Fault> {
        let dir = base_or_root(&self.state.store, dir)?.ok_or(Fault::Early)?;
        Ok(join(&self.path_of(&dir)?, name))
    }
}

/// Tidies staging after a run that did not end well. Gives whether all of it could be.
///
/// A name in staging may hold what was to be put in place, or what was displaced. What the index knows as displaced
/// goes into history; what base still has at a name that is free goes back there; what is held elsewhere too goes;
/// all else goes into history as recovered. Parked entries are put back by [`crate::observe`].
pub fn recover<S: Store, D: Disk>(state: &mut State<S>, disk: &mut D, now: &mut Now) -> StoreResult<bool> {
    let Ok(left) = disk.staged() else { return Ok(false) };
    if left.is_empty() {
        return Ok(true);
    }
    let mut tidy = true;
    state.store.begin()?;
    for (name, stat) in left {
        if state.store.kept(&name.0)?.is_none() {
            if databases::put_back(&state.store, disk, &name)? || put_back(&state.store, disk, &name, &stat)? {
                continue;
            }
            let Ok(value) = disk.read_staged(&name) else {
                tidy = false;
                continue;
            };
            let held = match &value {
                Value::File { size: 0, .. } => true,
                Value::File { hash, .. } => is_held(&state.store, disk, *hash)?,
                Value::Link { target } => target == git::OWN_LOCK,
                _ => false,
            };
            if held {
                tidy &= disk.discard(&name).is_ok();
                continue;
            }
            // The index finds it here as well as in history.
            state.store.put_kept(&Kept {
                path: name.0.as_bytes().to_vec(),
                name: name.0.clone(),
                time_ms: now.wall_ms,
                device: state.device_name.clone(),
                value,
                attributes: Attributes { mode: stat.mode, mtime: stat.mtime, ..Attributes::default() },
                cause: "recovered".to_owned(),
            })?;
        }
        tidy &= disk.keep(&name).is_ok();
    }
    state.store.commit()?;
    Ok(tidy)
}

/// Puts a displaced file back where base has it, if nothing stands there.
fn put_back<S: Store, D: Disk>(store: &S, disk: &mut D, name: &StageName, stat: &Stat) -> StoreResult<bool> {
    for base in store.bases_with(stat.handle)? {
        let path = base_path(store, &base)?;
        if matches!(disk.stat(&path), Ok(None)) && disk.unstage(name, &path).is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a content lies in the tree on this disk, and not only by what base says. What history has does not count:
/// a file there that has other names may have been written to.
fn is_held<S: Store, D: Disk>(store: &S, disk: &mut D, hash: ContentHash) -> StoreResult<bool> {
    for base in store.base_holding(hash)? {
        let path = base_path(store, &base)?;
        if matches!(disk.stat(&path), Ok(Some(stat)) if same_file(&stat, &base.stat)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A name in staging, which is also the version that a person restores by if something displaced ends up there.
pub(crate) fn stage_name(entry: NodeId, now: &mut Now) -> StageName {
    let short = &entry.to_string()[..12];
    StageName(format!("{:x}-{short}-{:08x}", now.wall_ms, (now.random)() as u32))
}

fn new_base(placed: &Placed, stat: Stat) -> Base {
    let target = &placed.target;
    Base {
        id: placed.id,
        parent: placed.parent,
        name: target.name.clone(),
        class: target.class,
        members: target.members.clone(),
        value: target.value.clone(),
        attributes: target.attributes.clone(),
        stat,
        state: BaseState::Live,
    }
}

/// Whether a file is to be the same one as another entry: one of its names in a hard-link group.
fn is_one_file(value: &Value, attributes: &Attributes, placed: &Placed) -> bool {
    let target = &placed.target;
    target.attributes.group.is_some() && *attributes == target.attributes && *value == target.value
}

/// Whether what has the name that an entry is to have is not in play at all, or stays only for what is not: looking at
/// it again would change nothing.
pub fn is_obstructed<D: Disk>(
    store: &impl Store,
    disk: &mut D,
    (select, marks): (&dyn Select, &Marks),
    placed: &Placed,
) -> bool {
    let Ok(Some(stat)) = disk.stat(&placed.path) else { return false };
    stat.kind == Kind::Other
        || !select.travels(&placed.path, stat.kind == Kind::Dir, marks)
        || matches!(store.base_at(placed.parent, &placed.target.name), Ok(Some(base))
            if base.state == BaseState::Dormant && base.id != placed.id)
}

/// Whether a program has a file that is to be replaced, or `moves` to another name, so that nothing can become of it.
pub fn is_in_use<D: Disk>(disk: &mut D, base: &Base, path: &[u8], moves: bool) -> bool {
    if base.stat.kind != Kind::File {
        return false;
    }
    match hold(disk, base, path) {
        Ok(hold) => {
            let checked = match moves {
                true => databases::check_whole(disk, path, hold),
                false => databases::check_closed(disk, path, hold),
            };
            disk.let_go();
            matches!(checked, Err(Fault::Busy))
        }
        Err(fault) => matches!(fault, Fault::Busy),
    }
}

fn hold<D: Disk>(disk: &mut D, base: &Base, path: &[u8]) -> Result<Hold, Fault> {
    let source = Source::Copy(path.to_vec());
    let database = is_database(disk, &source, base.stat.size);
    let others = if database { Others::Nobody } else { Others::Readers };
    match disk.hold(path, base.stat.handle, others) {
        Ok(guarded) => Ok(Hold { guarded, database }),
        Err(error) if error.kind() == ErrorKind::ResourceBusy => Err(Fault::Busy),
        Err(error) => Err(error.into()),
    }
}

/// Whether a displaced file is the one that base knows. A rename changes the status change time, nothing else.
fn same_file(found: &Stat, base: &Stat) -> bool {
    found.kind == base.kind && found.handle == base.handle && found.size == base.size && found.mtime == base.mtime
}

/// Whether a directory is still the one that base has, whatever became of its attributes.
fn is_same_directory(base: &Base, stat: &Stat) -> bool {
    base.class == Class::Dir && stat.kind == Kind::Dir && stat.handle == base.stat.handle
}

/// Whether an entry differs from base only by what a rename does to it.
fn same_renamed(found: &Stat, base: &Stat) -> bool {
    same_file(found, base) && found.mode == base.mode && found.links == base.links
}

fn entry_of(step: &Step) -> NodeId {
    match step {
        Step::Mkdir(p) | Step::Move(p) | Step::Create(p) | Step::Replace(p) | Step::Adjust(p) => p.id,
        Step::Park(id) | Step::Remove(id) | Step::RemoveDir(id) => *id,
    }
}

fn placed_of(step: &Step) -> Option<&Placed> {
    match step {
        Step::Mkdir(p) | Step::Move(p) | Step::Create(p) | Step::Replace(p) | Step::Adjust(p) => Some(p),
        Step::Park(_) | Step::Remove(_) | Step::RemoveDir(_) => None,
    }
}
