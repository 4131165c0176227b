//! Compares the disk with base and turns the difference into local changes.
//!
//! Takes spots that may have changed (from the watcher, or all of them in a sweep), asks [`Disk`] what stands
//! there, and writes the changes into [`State`], by the matching rules of docs/sync-model.md section 3:
//! directories by inode before name, leaves by name before inode, then adoption, then new nodes. What is missing
//! is only remembered; [`Observer::conclude`] turns it into deletions once every open spot has been looked at.
//! Absence is never deletion where it is not proven. Applying what peers did is [`crate::apply`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;

use hearth_schemas::ids::{ContentHash, NodeId};
use hearth_schemas::item::{Attributes, Class, Flag, Name, Row, UNNUMBERED, Value, Xattrs};

use crate::database;
use crate::disk::{Content, Disk, Kind, Raised, Reading, RelPath, Stat, join};
use crate::fingerprint::Fingerprint;
use crate::git;
use crate::marks::Marks;
use crate::merge::may_merge;
use crate::path::above;
use crate::row::winner;
use crate::select::Select;
use crate::state::{Now, State};
use crate::store::{Base, BaseState, Dots, Member, Problem, Store, StoreResult};
use crate::text;
use crate::view::{Target, all_dots, attributes};

mod names;
mod probes;

/// Prefix of the names that the applier parks entries under; never synced.
pub const PARKED: &[u8] = b".hearth-parked-";
/// So many names are tried for an entry whose own is taken.
const MOST_SPARE_NAMES: usize = 100;

/// Somewhere to look. Directories are named by their base key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Spot {
    /// One name of a directory.
    Entry(NodeId, Name),
    /// Every name of a directory.
    Listing(NodeId),
    /// Every name of a directory and of all below it.
    Deep(NodeId),
}

/// What came of looking.
#[derive(Default, Debug)]
pub struct Looked {
    /// Further spots to look at, before anything is concluded.
    pub more: Vec<Spot>,
    /// The last of the spots, which were not begun with.
    pub later: Vec<Spot>,
    /// Spots whose files were being written: to be looked at again, later.
    pub busy: Vec<Spot>,
    /// Paths that could not be read.
    pub problems: Vec<Problem>,
    /// Paths that were looked at without a problem.
    pub clear: Vec<RelPath>,
    /// Directories that were listed.
    pub listed: Vec<RelPath>,
    /// Paths of entries that were deleted.
    pub gone: Vec<RelPath>,
    /// Directories that were moved, each with the path that it had.
    pub moved: Vec<(RelPath, NodeId)>,
    /// Directories that a file has left which rules look for, to be believed once they are at rest.
    pub unmarked: Vec<RelPath>,
    /// Base keys of the entries that were found parked.
    pub parked: Vec<NodeId>,
    /// Number of local changes written.
    pub changes: u64,
    /// Images that were made.
    pub imaged: Vec<Imaged>,
    /// Contents that files hold themselves.
    pub plain: Vec<ContentHash>,
    /// Entries that stay here for what they are, and files that have a setuid or setgid bit.
    pub staying: Vec<(RelPath, Kind)>,
}

/// An image that was made of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Imaged {
    /// Where the file stands.
    pub spot: Spot,
    /// The content that the image is.
    pub hash: ContentHash,
    /// Its size in bytes.
    pub size: u64,
}

/// How a file is looked at that is written without pause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// As any other: it may have come to rest.
    Plain,
    /// By a copy of it.
    Copy,
    /// Not at this moment.
    Later,
}

/// Base entries that were not found where they should be, with nothing decided yet.
pub type Missing = BTreeMap<NodeId, Base>;

struct Found {
    parent: Base,
    name: Name,
    path: RelPath,
    stat: Stat,
    /// `None` where they could not be read, and of a file that has not been read yet.
    xattrs: Option<Xattrs>,
}

/// What a leaf holds.
struct Held {
    value: Value,
    /// Whether it is being written.
    written: bool,
    xattrs: Option<Xattrs>,
}

/// Looks at spots.
pub struct Observer<'a, S, D> {
    /// The state that changes enter.
    pub state: &'a mut State<S>,
    /// The disk.
    pub disk: &'a mut D,
    /// What is synced at all.
    pub select: &'a dyn Select,
    /// The files of this disk that rules look for.
    pub marks: &'a mut Marks,
    /// Directories that were asked for them since the start, until all have been listed once; `None` from then on.
    pub asked: Option<&'a mut BTreeSet<RelPath>>,
    /// How files are looked at that are written without pause.
    pub restless: BTreeMap<Spot, Way>,
    /// Entries found changed after which no further spot is begun.
    pub portion: usize,
    /// What is not where it should be.
    pub missing: &'a mut Missing,
    /// Directories in which something may have happened.
    pub touched: BTreeSet<NodeId>,
    /// What came of it.
    pub looked: Looked,
}

impl<S: Store, D: Disk> Observer<'_, S, D> {
    /// Looks at some spots and writes what has changed.
    pub fn look(&mut self, spots: Vec<Spot>, now: &mut Now) -> StoreResult<()> {
        let mut found = Vec::new();
        for spot in spots {
            if found.len() >= self.portion {
                self.looked.later.push(spot);
                continue;
            }
            match spot {
                Spot::Entry(dir, name) => {
                    self.touched.insert(dir);
                    self.entry(dir, name, &mut found)?;
                }
                Spot::Listing(dir) => self.listing(dir, false, &mut found)?,
                Spot::Deep(dir) => self.listing(dir, true, &mut found)?,
            }
        }
        // Moves of directories first: what looks like a changed directory at a name may be another one that came.
        let (dirs, leaves): (Vec<Found>, Vec<Found>) = found.into_iter().partition(|f| f.stat.kind == Kind::Dir);
        let mut standing = Vec::new();
        for found in dirs {
            if !self.is_where_it_was_found(&found)? {
                continue;
            }
            match self.moved_directory(&found, now)? {
                true => {
                    self.touched.insert(found.parent.id);
                }
                false => standing.push(found),
            }
        }
        for found in standing.into_iter().chain(leaves) {
            if !self.is_where_it_was_found(&found)? {
                continue;
            }
            self.touched.insert(found.parent.id);
            match found.stat.kind {
                Kind::Dir => self.directory(found, now)?,
                Kind::File | Kind::Link | Kind::Other => {
                    let (dir, name) = (found.parent.id, found.name.clone());
                    let merges = may_merge(&found.path, found.stat.size);
                    self.leaf(found, now)?;
                    if merges && let Some(base) = self.state.store.base_at(dir, &name)? {
                        text::remember(self.state, self.disk, &base)?;
                    }
                }
            }
        }
        for dir in std::mem::take(&mut self.touched) {
            self.directory_time(dir, now)?;
        }
        self.state.refresh().map(drop)
    }

    /// Whether the directory that something was found in still has the path that it was found by. It may have been moved
    /// or displaced since, by what was found along with it: then whatever stands there by now is looked at as a whole.
    fn is_where_it_was_found(&self, found: &Found) -> StoreResult<bool> {
        if self.looked.moved.is_empty() && self.looked.gone.is_empty() {
            return Ok(true);
        }
        match self.directory_base(found.parent.id)? {
            Some(parent) => Ok(join(&self.path_of(&parent)?, &found.name) == found.path),
            None => Ok(false),
        }
    }

    fn entry(&mut self, dir: NodeId, name: Name, found: &mut Vec<Found>) -> StoreResult<()> {
        let Some(parent) = self.directory_base(dir)? else { return Ok(()) };
        let dir_path = self.path_of(&parent)?;
        if self.select.is_probe(name.as_bytes()) {
            self.ask(&dir_path)?;
        }
        let path = join(&dir_path, &name);
        match self.disk.stat(&path) {
            Ok(Some(stat)) => {
                self.note_raised(path.clone(), &stat);
                self.compare(parent, name, path, stat, found)
            }
            Ok(None) if !self.marks.of(&path).is_empty() => self.ask(&path),
            Ok(None) => match self.state.store.base_at(dir, &name)? {
                Some(base) if base.state == BaseState::Dormant => self.wake_absent(base),
                Some(base) => {
                    self.miss(base);
                    Ok(())
                }
                None => {
                    if parent.state == BaseState::Dormant {
                        // It may have stayed for this, which was never known.
                        self.touched.insert(dir);
                    }
                    Ok(())
                }
            },
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                self.looked.more.push(Spot::Entry(parent.parent, parent.name));
                Ok(())
            }
            Err(error) => {
                self.problem(path, &error);
                Ok(())
            }
        }
    }

    fn listing(&mut self, dir: NodeId, deep: bool, found: &mut Vec<Found>) -> StoreResult<()> {
        let Some(parent) = self.directory_base(dir)? else { return Ok(()) };
        let dir_path = self.path_of(&parent)?;
        // In this order nothing happens between the two that is neither listed nor told.
        self.disk.watch(&dir_path);
        let names = match self.disk.list(&dir_path) {
            Ok(names) => names,
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) && dir != NodeId::ROOT =>
            {
                self.looked.more.push(Spot::Entry(parent.parent, parent.name));
                return Ok(());
            }
            Err(error) => {
                self.problem(dir_path, &error);
                return Ok(());
            }
        };
        self.note_held(&dir_path, &names)?;
        if dir != NodeId::ROOT && !self.travels(&dir_path, true) {
            // Marked. Only its own marker is of interest, and when that goes.
            if parent.state == BaseState::Live
                && let Some(base) = self.state.store.base(dir)?
            {
                put_to_sleep(&mut self.state.store, self.missing, base)?;
            }
            self.looked.clear.push(dir_path.clone());
            self.looked.listed.push(dir_path);
            return Ok(());
        }
        if !deep {
            // What came and went again leaves no other trace than its time.
            self.touched.insert(dir);
        }
        self.looked.listed.push(dir_path.clone());
        self.looked.clear.push(dir_path.clone());
        if self.state.store.fingerprint(dir)? == Fingerprint::of_listing(&names) {
            for (name, stat) in names.into_iter().filter(|(_, stat)| stat.raised.0) {
                self.note_raised(join(&dir_path, &name), &stat);
            }
            if deep {
                let inner = self.state.store.base_dirs_in(dir)?;
                self.looked.more.extend(inner.into_iter().map(|dir| Spot::Deep(dir.id)));
            }
            return self.ask_right_below(&dir_path);
        }
        let mut base: BTreeMap<Name, Base> =
            self.state.store.base_in(dir)?.into_iter().map(|base| (base.name.clone(), base)).collect();
        for (name, stat) in names {
            let known = base.remove(&name);
            if stat.raised.0 {
                self.note_raised(join(&dir_path, &name), &stat);
            }
            if let Some(known) = &known
                && known.state == BaseState::Live
                && known.stat == stat
            {
                if deep && known.class == Class::Dir {
                    self.looked.more.push(Spot::Deep(known.id));
                }
                continue;
            }
            let path = join(&dir_path, &name);
            let before = found.len();
            self.compare(parent.clone(), name, path, stat, found)?;
            if let Some(known) = known.filter(|known| deep && known.class == Class::Dir && found.len() == before) {
                self.looked.more.push(Spot::Deep(known.id));
            } else if deep
                && let Some(found) = found.get(before).filter(|found| found.stat.kind == Kind::Dir)
                && let Some(same) =
                    self.state.store.base_at(dir, &found.name)?.filter(|b| b.stat.handle == found.stat.handle)
            {
                self.looked.more.push(Spot::Deep(same.id));
            }
        }
        self.ask_right_below(&dir_path)?;
        for gone in base.into_values() {
            if gone.state == BaseState::Dormant {
                self.wake_absent(gone)?;
            } else {
                self.miss(gone);
            }
        }
        Ok(())
    }

    fn note_raised(&mut self, path: RelPath, stat: &Stat) {
        if stat.raised.0 && self.travels(&path, false) {
            self.looked.staying.push((path, stat.kind));
        }
    }

    /// What went while it was excluded, and is not excluded any more, is made again: its absence says nothing.
    fn wake_absent(&mut self, gone: Base) -> StoreResult<()> {
        let path = self.path_of(&gone)?;
        if !self.travels(&path, gone.class == Class::Dir) {
            return Ok(());
        }
        self.looked.changes += 1;
        self.state.forget(gone)
    }

    /// Decides whether a standing entry is in play and differs from base.
    fn compare(
        &mut self,
        parent: Base,
        name: Name,
        path: RelPath,
        stat: Stat,
        found: &mut Vec<Found>,
    ) -> StoreResult<()> {
        if name.as_bytes().ends_with(b".lock")
            && git::place(&path).is_some()
            && git::remove_own(self.disk, &path, &stat)
        {
            return Ok(());
        }
        self.ask_above(&path)?;
        if stat.kind == Kind::Dir {
            self.ask_inside(&path)?;
        }
        let base = self.state.store.base_at(parent.id, &name)?;
        let parked = name.as_bytes().starts_with(PARKED);
        match &base {
            None if parked => return self.unpark(&parent, &name, &path),
            // What the index knows as parked is to be moved on from here; until then it is an entry as any other.
            Some(base) if parked => self.looked.parked.push(base.id),
            Some(_) | None => {}
        }
        let in_play = stat.kind != Kind::Other
            && (parked || self.travels(&path, stat.kind == Kind::Dir))
            && !database::is_companion(self.disk, &path, &stat);
        if !in_play {
            if stat.kind == Kind::Other && self.travels(&path, false) {
                self.looked.staying.push((path.clone(), stat.kind));
            }
            if stat.kind == Kind::Dir && !self.marks.of(&path).is_empty() {
                self.disk.watch(&path);
            }
            if let Some(base) = base.filter(|base| base.state == BaseState::Live) {
                put_to_sleep(&mut self.state.store, self.missing, base)?;
            }
            return Ok(());
        }
        self.looked.clear.push(path.clone());
        if let Some(base) = &base
            && self.missing.remove(&base.id).is_some()
            && base.stat == stat
        {
            return Ok(());
        }
        if base.is_some_and(|base| base.state == BaseState::Live && base.stat == stat) {
            return Ok(());
        }
        // Those of a file come with its bytes.
        let xattrs = if stat.kind == Kind::Dir { self.disk.xattrs(&path) } else { None };
        found.push(Found { parent, name, path, stat, xattrs });
        Ok(())
    }

    /// The base entry whose inode stands at a spot, if it is among the missing; or a directory that nothing is known
    /// of, in which it may be: whether something is gone cannot be told before these are looked at.
    pub fn bears_on_missing(&mut self, spot: &Spot) -> StoreResult<bool> {
        let Spot::Entry(dir, name) = spot else { return Ok(true) };
        let Some(parent) = self.directory_base(*dir)? else { return Ok(false) };
        let path = join(&self.path_of(&parent)?, name);
        let Ok(Some(stat)) = self.disk.stat(&path) else { return Ok(false) };
        let known = self.state.store.bases_with(stat.handle)?;
        Ok((stat.kind == Kind::Dir && known.is_empty()) || known.iter().any(|base| self.missing.contains_key(&base.id)))
    }

    /// Puts back an entry that an interrupted apply had parked.
    fn unpark(&mut self, parent: &Base, name: &Name, path: &[u8]) -> StoreResult<()> {
        let dir = self.path_of(parent)?;
        let hex = String::from_utf8_lossy(&name.as_bytes()[PARKED.len()..]).into_owned();
        let id = NodeId::parse(&hex);
        let wanted = match id.map(|id| self.state.store.base(id)).transpose()?.flatten() {
            Some(base) => (base.parent == parent.id).then_some(base.name),
            None => {
                let row = id.map(|id| self.state.store.row(id)).transpose()?.flatten();
                row.and_then(|row| winner(&row.place).map(|(_, place)| place.name.clone()))
            }
        };
        // Another machine may have called its own so, and told of it.
        let id = &name.as_bytes()[PARKED.len()..];
        let others = (2..=MOST_SPARE_NAMES).map(|number| spare_name(&[id, format!("-{number}").as_bytes()].concat()));
        for name in wanted.into_iter().chain([spare_name(id)]).chain(others) {
            match self.disk.rename(path, &join(&dir, &name)) {
                Ok(()) => {
                    self.looked.more.push(Spot::Entry(parent.id, name));
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => {
                    self.problem(path.to_vec(), &error);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Rule 1: a base directory whose inode stands at another name was moved there, if its old name lost it.
    fn moved_directory(&mut self, found: &Found, now: &mut Now) -> StoreResult<bool> {
        let mut same = self.state.store.bases_with(found.stat.handle)?.into_iter();
        let Some(base) = same.find(|base| base.class == Class::Dir) else { return Ok(false) };
        let here = base.parent == found.parent.id && base.name == found.name;
        if here || self.still_stands(&base)? || self.is_below(&found.parent, &base)? {
            return Ok(false);
        }
        self.missing.remove(&base.id);
        if let Some(other) = self.state.store.base_at(found.parent.id, &found.name)? {
            self.displace(other, now)?;
        }
        self.move_entry(base, found, now)?;
        Ok(true)
    }

    fn directory(&mut self, found: Found, now: &mut Now) -> StoreResult<()> {
        match self.state.store.base_at(found.parent.id, &found.name)? {
            Some(base) if base.class == Class::Dir => {
                let recreated = base.stat.handle != found.stat.handle;
                if base.state == BaseState::Dormant && !recreated && self.is_residue(&base, &found.path)? {
                    return Ok(());
                }
                if base.state == BaseState::Dormant {
                    // What others did to what is in it was passed over.
                    self.state.mark_members(&base)?;
                    self.state.mark_below(nodes_of(&base))?;
                }
                let mut base = Base { state: BaseState::Live, stat: found.stat.clone(), ..base };
                self.attributes(&mut base, &found.stat, found.xattrs.as_ref(), now)?;
                if recreated {
                    self.looked.more.push(Spot::Deep(base.id));
                }
                return self.state.store.put_base(&base);
            }
            Some(other) => self.displace(other, now)?,
            None => {}
        }
        let actual = attributes_of(&found.stat, found.xattrs.as_ref());
        let slot = self.registered_here(&found)?;
        let adopted = slot.into_iter().find(|target| target.class == Class::Dir);
        let (id, members) = match adopted {
            Some(target) if self.claimed(&target)?.is_none() => {
                self.state.mark(target.id)?;
                if !self.state.importing {
                    self.state.mark_below(target.members.iter().map(|member| member.node).collect())?;
                }
                (target.id, target.members)
            }
            _ => {
                let member = self.new_directory(&found.parent, &found.name, &actual, now)?;
                (member.node, vec![member])
            }
        };
        let id = self.free_key(id)?;
        let base = Base {
            id,
            parent: found.parent.id,
            name: found.name,
            class: Class::Dir,
            members,
            value: Value::Dir,
            attributes: actual,
            stat: found.stat,
            state: BaseState::Live,
        };
        self.state.store.put_base(&base)?;
        self.looked.more.push(Spot::Listing(id));
        Ok(())
    }

    fn leaf(&mut self, found: Found, now: &mut Now) -> StoreResult<()> {
        let here = self.state.store.base_at(found.parent.id, &found.name)?;
        let Some(Held { value, written, xattrs }) = self.read(&found, here.as_ref())? else { return Ok(()) };
        let found = Found { xattrs, ..found };
        let stat = if written { found.stat.clone().unsure() } else { found.stat.clone() };
        if found.stat.links > 1 {
            // Another name of this file changes along with it, and nothing tells of that.
            for other in self.state.store.bases_with(found.stat.handle)? {
                let seen = other.stat == found.stat || (other.stat == stat && other.value == value);
                if here.as_ref().is_none_or(|here| here.id != other.id) && !seen {
                    self.looked.more.push(Spot::Entry(other.parent, other.name));
                }
            }
        }
        let here = match here {
            Some(base) if base.state == BaseState::Dormant && self.is_dead(&base)? => {
                // Others deleted it while it was excluded here: that is no reason for it to go now.
                self.state.store.remove_base(base.id)?;
                self.state.mark_members(&base)?;
                None
            }
            other => other,
        };
        match here {
            Some(base) if base.class == Class::Leaf => return self.edited(base, Found { stat, ..found }, value, now),
            Some(other) => self.displace(other, now)?,
            None => {}
        }
        let found = Found { stat, ..found };
        if let Some(base) = self.left_by(&found)? {
            self.missing.remove(&base.id);
            let id = base.id;
            self.move_entry(base, &found, now)?;
            let base = self.state.store.base(id)?.expect("a moved entry stays in base");
            return self.edited(base, found, value, now);
        }
        self.appeared(found, value, now)
    }

    /// The leaf whose name has lost the inode that was found at another; of several, the first by name.
    fn left_by(&mut self, found: &Found) -> StoreResult<Option<Base>> {
        let mut same = self.state.store.bases_with(found.stat.handle)?;
        same.retain(|base| base.class == Class::Leaf);
        same.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        for base in same {
            if !self.still_stands(&base)? {
                return Ok(Some(base));
            }
        }
        Ok(None)
    }

    /// What a leaf holds; `None` if that cannot be told at this moment.
    fn read(&mut self, found: &Found, base: Option<&Base>) -> StoreResult<Option<Held>> {
        let same_bytes = |base: &&Base| {
            let (old, new) = (&base.stat, &found.stat);
            old.kind == new.kind
                && old.handle == new.handle
                && old.size == new.size
                && old.mtime == new.mtime
                && old.ctime == new.ctime
        };
        if let Some(base) = base.filter(same_bytes) {
            let xattrs = if found.stat.kind == Kind::File { self.disk.xattrs(&found.path) } else { None };
            return Ok(Some(Held { value: base.value.clone(), written: false, xattrs }));
        }
        let spot = || Spot::Entry(found.parent.id, found.name.clone());
        let way = self.restless.get(&spot()).copied().unwrap_or(Way::Plain);
        let mut image = false;
        let read = match (found.stat.kind, way) {
            (Kind::Dir | Kind::Other, _) => return Ok(None),
            (Kind::Link, _) => self.disk.read_link(&found.path).and_then(|target| {
                let after = self.disk.stat(&found.path)?;
                Ok((Held { value: Value::Link { target }, written: false, xattrs: None }, after))
            }),
            (Kind::File, Way::Plain) => self.disk.content(&found.path).map(|Reading { content, after, xattrs }| {
                image = content.image;
                let value = Value::File { hash: content.hash, size: content.size };
                (Held { value, written: content.written, xattrs }, after)
            }),
            (Kind::File, Way::Copy) => return Ok(self.copied(found)),
            (Kind::File, Way::Later) => {
                self.looked.busy.push(spot());
                return Ok(None);
            }
        };
        if matches!(&read, Err(error) if error.kind() == ErrorKind::WouldBlock) {
            self.looked.more.push(spot());
            return Ok(None);
        }
        if let Ok((Held { value: Value::File { hash, size }, .. }, after)) = &read {
            match image {
                // It is what was committed at some moment since, so it needs no moment of rest.
                true => {
                    self.looked.imaged.push(Imaged { spot: spot(), hash: *hash, size: *size });
                    if after.as_ref() != Some(&found.stat) {
                        self.looked.busy.push(spot());
                    }
                    return Ok(read.ok().map(|(held, _)| held));
                }
                false => self.looked.plain.push(*hash),
            }
        }
        match read {
            Ok((held, Some(after))) if after == found.stat => Ok(Some(held)),
            Ok(_) => {
                self.looked.busy.push(spot());
                Ok(None)
            }
            Err(error) => {
                let passing = [ErrorKind::NotFound, ErrorKind::NotADirectory, ErrorKind::ResourceBusy];
                if passing.contains(&error.kind()) {
                    self.looked.busy.push(spot());
                } else {
                    self.problem(found.path.clone(), &error);
                }
                Ok(None)
            }
        }
    }

    /// What a copy holds of a file that is written without pause. What base remembers of such a file equals nothing that the
    /// disk says, as if it had a writer all the time: whatever becomes of it, it is looked at before.
    fn copied(&mut self, found: &Found) -> Option<Held> {
        let spot = Spot::Entry(found.parent.id, found.name.clone());
        match self.disk.copy(&found.path) {
            Ok(Content { hash, size, .. }) => {
                self.looked.imaged.push(Imaged { spot, hash, size });
                let xattrs = self.disk.xattrs(&found.path);
                Some(Held { value: Value::File { hash, size }, written: true, xattrs })
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                self.problem(found.path.clone(), &error);
                None
            }
            // As where there is no room for a copy: then it has to wait until the file is at rest.
            Err(_) => {
                self.looked.busy.push(spot);
                None
            }
        }
    }

    /// An entry stands where base has it, with other bytes or attributes.
    fn edited(&mut self, mut base: Base, found: Found, value: Value, now: &mut Now) -> StoreResult<()> {
        if base.stat.handle != found.stat.handle {
            self.lost_a_name(&base, now)?;
        }
        let actual = self.actual(&base, &found.stat, found.xattrs.as_ref(), now)?;
        if base.state == BaseState::Dormant {
            self.state.mark_members(&base)?;
        }
        base.state = BaseState::Live;
        base.stat = found.stat.clone();
        if base.value == value {
            self.set_attributes(&mut base, actual, now)?;
            return self.state.store.put_base(&base);
        }
        if base.members.is_empty() {
            // Nothing that is known is shown as this entry any more, so this is a file of its own.
            self.state.store.remove_base(base.id)?;
            return self.appeared(found, value, now);
        }
        self.looked.changes += 1;
        let mut base = self.materialise(base, now)?;
        let stamp = self.state.stamp(now);
        let members = std::mem::take(&mut base.members);
        let Some((first, others)) = members.split_first() else { return Ok(()) };
        for other in others {
            self.state.delete_member(other, Flag::Itself)?;
        }
        let mut member = first.clone();
        let Some(mut row) = self.state.store.row(member.node)? else { return Ok(()) };
        let mut content = self.state.content(value.clone(), Some(&base.value), actual.clone(), stamp, now);
        if let [dot] = member.dots.content[..]
            && dot.replica == UNNUMBERED
            && let Some(untold) = row.content.get(&dot)
        {
            // What nobody else has heard of cannot be what they edited from.
            content.base = untold.base;
        }
        member.dots.content = vec![self.state.write_content(&mut row, &member.dots.content, content)];
        let Attributes { mode, xattrs, group, .. } = &base.attributes;
        if (mode, xattrs, group) != (&actual.mode, &actual.xattrs, &actual.group) {
            member.dots.meta = vec![self.state.write_meta(&mut row, &member.dots.meta, &actual, stamp)];
        }
        self.state.put(&row)?;
        base.members = vec![member];
        base.value = value;
        base.attributes = actual;
        self.state.store.put_base(&base)
    }

    /// Mode or time differ, the bytes do not.
    fn attributes(&mut self, base: &mut Base, stat: &Stat, xattrs: Option<&Xattrs>, now: &mut Now) -> StoreResult<()> {
        let actual = self.actual(base, stat, xattrs, now)?;
        self.set_attributes(base, actual, now)
    }

    /// What an entry that base knows has by now; extended attributes that could not be read are as they were.
    fn actual(&mut self, base: &Base, stat: &Stat, xattrs: Option<&Xattrs>, now: &mut Now) -> StoreResult<Attributes> {
        let group = self.group(stat, Some(base), now)?;
        Ok(Attributes { group, ..attributes_of(stat, xattrs.or(Some(&base.attributes.xattrs))) })
    }

    fn set_attributes(&mut self, base: &mut Base, actual: Attributes, now: &mut Now) -> StoreResult<()> {
        if base.attributes == actual {
            return Ok(());
        }
        self.looked.changes += 1;
        if base.members.iter().any(|member| member.origin.is_some()) {
            *base = self.materialise(base.clone(), now)?;
        }
        let stamp = self.state.stamp(now);
        for member in &mut base.members {
            let Some(mut row) = self.state.store.row(member.node)? else { continue };
            member.dots.meta = vec![self.state.write_meta(&mut row, &member.dots.meta, &actual, stamp)];
            self.state.put(&row)?;
        }
        base.attributes = actual;
        Ok(())
    }

    /// The time of a directory in which something has just changed.
    fn directory_time(&mut self, dir: NodeId, now: &mut Now) -> StoreResult<()> {
        if dir == NodeId::ROOT {
            return Ok(());
        }
        let Some(mut base) = self.state.store.base(dir)? else { return Ok(()) };
        let path = self.path_of(&base)?;
        let Ok(Some(stat)) = self.disk.stat(&path) else { return Ok(()) };
        if stat.handle != base.stat.handle {
            return Ok(());
        }
        if base.state == BaseState::Dormant {
            return self.end_residue(base, &path, stat);
        }
        if stat != base.stat {
            let xattrs = self.disk.xattrs(&path);
            self.attributes(&mut base, &stat, xattrs.as_ref(), now)?;
            base.stat = stat;
            self.state.store.put_base(&base)?;
        }
        Ok(())
    }

    /// Whether a directory that is asleep was deleted by others, and stands here for what is not theirs in it.
    fn is_residue(&mut self, base: &Base, path: &[u8]) -> StoreResult<bool> {
        Ok(matches!(self.disk.list(path), Ok(names) if !names.is_empty()) && self.is_dead(base)?)
    }

    /// The last of what a deleted directory stood here for has gone: it follows.
    fn end_residue(&mut self, base: Base, path: &[u8], stat: Stat) -> StoreResult<()> {
        let is_empty = matches!(self.disk.list(path), Ok(names) if names.is_empty());
        if is_empty && self.travels(path, true) && self.is_dead(&base)? {
            self.state.mark_members(&base)?;
            self.state.store.put_base(&Base { state: BaseState::Live, stat, ..base })?;
        }
        Ok(())
    }

    /// Writes the new place of an entry whose inode was found elsewhere.
    fn move_entry(&mut self, base: Base, found: &Found, now: &mut Now) -> StoreResult<()> {
        self.looked.changes += 1;
        if base.class == Class::Dir {
            let from = self.path_of(&base)?;
            let marks = self.marks.take(&from);
            if !marks.is_empty() {
                // What was passed over as excluded there has another path, too.
                self.state.mark_below(nodes_of(&base))?;
                self.share_marks(marks, &from, &found.path);
            }
            self.looked.moved.push((from, base.id));
        }
        self.pin_siblings(&base, now)?;
        let mut base = self.materialise(base, now)?;
        let parent = self.live_node(&found.parent, now)?;
        let stamp = self.state.stamp(now);
        let members = std::mem::take(&mut base.members);
        for (rank, mut member) in members.into_iter().enumerate() {
            if rank > 0 && base.class == Class::Leaf {
                self.state.delete_member(&member, Flag::Itself)?;
                continue;
            }
            let Some(mut row) = self.state.store.row(member.node)? else { continue };
            member.dots.place =
                vec![self.state.write_place(&mut row, &member.dots.place, parent, &public(&found.name), stamp)];
            self.state.put(&row)?;
            base.members.push(member);
        }
        self.touched.insert(base.parent);
        base.parent = found.parent.id;
        base.name = found.name.clone();
        if base.class == Class::Dir {
            if base.state == BaseState::Dormant {
                // It comes out of where it was excluded, and what others did to what is in it was passed over.
                self.state.mark_members(&base)?;
                self.state.mark_below(nodes_of(&base))?;
                base.state = BaseState::Live;
            }
            base.stat = found.stat.clone();
            self.attributes(&mut base, &found.stat, found.xattrs.as_ref(), now)?;
            self.looked.more.push(Spot::Deep(base.id));
        }
        self.state.store.put_base(&base)
    }

    /// A leaf that base knows nothing of: a known node that this disk lacked, a dead one come back, or a new one.
    fn appeared(&mut self, found: Found, value: Value, now: &mut Now) -> StoreResult<()> {
        let group = self.group(&found.stat, None, now)?;
        let actual = Attributes { group, ..attributes_of(&found.stat, found.xattrs.as_ref()) };
        let mut base = Base {
            id: NodeId::ROOT,
            parent: found.parent.id,
            name: found.name.clone(),
            class: Class::Leaf,
            members: Vec::new(),
            value: value.clone(),
            attributes: actual.clone(),
            stat: found.stat.clone(),
            state: BaseState::Live,
        };
        let mut candidate = None;
        let registered = self.registered_here(&found)?;
        let alone = registered.is_empty() && !crate::conflict::may_be_sibling(&found.name);
        for target in registered {
            let unclaimed = target.class == Class::Leaf && self.claimed(&target)?.is_none();
            if unclaimed && target.value == value {
                base.id = self.free_key(target.id)?;
                base.members = target.members;
                self.state.mark(target.id)?;
                return self.state.store.put_base(&base);
            }
            if unclaimed && target.name == found.name && target.members.iter().all(|m| m.origin.is_none()) {
                candidate.get_or_insert(target);
            }
        }
        self.looked.changes += 1;
        let stamp = self.state.stamp(now);
        let content = self.state.content(value, None, actual.clone(), stamp, now);
        let member = match candidate {
            Some(target) => {
                let mut row = self.state.store.row(target.id)?.expect("a shown leaf has a row");
                let place = all_dots(&row).place;
                let dot = self.state.write_content(&mut row, &[], content);
                self.state.put(&row)?;
                Member { node: row.id, dots: Dots { place, content: vec![dot], meta: Vec::new() }, origin: None }
            }
            None => {
                let parent = self.live_node(&found.parent, now)?;
                let mut row = match self.dead_leaf(&found)? {
                    Some(row) => row,
                    None => Row::empty(now.node_id(), Class::Leaf),
                };
                let seen = all_dots(&row);
                let place = vec![self.state.write_place(&mut row, &seen.place, parent, &public(&found.name), stamp)];
                let content = vec![self.state.write_content(&mut row, &seen.content, content)];
                let meta = vec![self.state.write_meta(&mut row, &seen.meta, &actual, stamp)];
                self.state.put(&row)?;
                if alone && seen == Dots::default() && attributes(&row) == actual {
                    // It is shown as it stands here, and nothing else is concerned.
                    self.state.store.unmark(row.id)?;
                }
                Member { node: row.id, dots: Dots { place, content, meta }, origin: None }
            }
        };
        base.id = self.free_key(member.node)?;
        base.members = vec![member];
        self.state.store.put_base(&base)
    }

    fn new_directory(&mut self, parent: &Base, name: &Name, actual: &Attributes, now: &mut Now) -> StoreResult<Member> {
        self.looked.changes += 1;
        let parent = self.live_node(parent, now)?;
        let stamp = self.state.stamp(now);
        let mut row = Row::empty(now.node_id(), Class::Dir);
        let place = vec![self.state.write_place(&mut row, &[], parent, &public(name), stamp)];
        let content = self.state.content(Value::Dir, None, actual.clone(), stamp, now);
        let content = vec![self.state.write_content(&mut row, &[], content)];
        let meta = vec![self.state.write_meta(&mut row, &[], actual, stamp)];
        self.state.put(&row)?;
        self.state.refresh()?;
        Ok(Member { node: row.id, dots: Dots { place, content, meta }, origin: None })
    }

    /// The node of a directory that can take a child: a live member, or a new node at the same place.
    fn live_node(&mut self, dir: &Base, now: &mut Now) -> StoreResult<NodeId> {
        if dir.id == NodeId::ROOT {
            return Ok(NodeId::ROOT);
        }
        let mut dir = self.state.store.base(dir.id)?.unwrap_or_else(|| dir.clone());
        self.state.refresh()?;
        if let Some(live) = dir.members.iter().find(|member| !self.state.tree.shape().is_dead(member.node)) {
            return Ok(live.node);
        }
        let parent = self.state.store.base(dir.parent)?.unwrap_or_else(root_base);
        let name = own_name(&self.state.store, &dir)?;
        let member = self.new_directory(&parent, &name, &dir.attributes.clone(), now)?;
        let node = member.node;
        dir.state = BaseState::Live;
        dir.members.insert(0, member);
        self.state.store.put_base(&dir)?;
        Ok(node)
    }

    /// A dead leaf whose last place was here.
    fn dead_leaf(&mut self, found: &Found) -> StoreResult<Option<Row>> {
        let mut best: Option<Row> = None;
        for member in nodes_of(&found.parent) {
            for id in self.state.store.placed_at(member, &found.name)? {
                let Some(row) = self.state.store.row(id)? else { continue };
                let last_here = winner(&row.place).is_some_and(|(_, p)| p.parent == member && p.name == found.name);
                let dead = crate::tree::is_dead(&row, |dir| self.state.tree.shape().is_dead(dir));
                if row.class == Class::Leaf && last_here && dead && self.state.store.base_of(id)?.is_none() {
                    let newer = best.as_ref().is_none_or(|b| {
                        winner(&b.place).map(|(_, p)| p.stamp) < winner(&row.place).map(|(_, p)| p.stamp)
                    });
                    if newer {
                        best = Some(row);
                    }
                }
            }
        }
        Ok(best)
    }

    /// Entries that the account has at the name of a found entry.
    fn registered_here(&mut self, found: &Found) -> StoreResult<Vec<Target>> {
        self.state.refresh()?;
        let view = self.state.view();
        let mut out: Vec<Target> = Vec::new();
        for member in nodes_of(&found.parent) {
            let Some(leader) = view.shape.leader(member) else { continue };
            out.extend(view.slot(leader, &found.name)?);
            for related in view.family(leader, &found.name)? {
                let shown = view.slot(leader, &related)?.into_iter();
                out.extend(shown.filter(|target| related != found.name && target.name == found.name));
            }
            break;
        }
        Ok(out)
    }

    fn claimed(&self, target: &Target) -> StoreResult<Option<Base>> {
        for member in &target.members {
            if let Some(base) = self.state.store.base_of(member.node)? {
                return Ok(Some(base));
            }
        }
        Ok(None)
    }

    /// Gives a derived sibling that a person touches a row of its own, at its shown place.
    fn materialise(&mut self, mut base: Base, now: &mut Now) -> StoreResult<Base> {
        let Some(member) = base.members.iter().find(|member| member.origin.is_some()).cloned() else { return Ok(base) };
        let origin = member.origin.expect("found by its origin");
        let parent = match self.state.store.base(base.parent)? {
            Some(parent) => self.live_node(&parent, now)?,
            None => NodeId::ROOT,
        };
        let stamp = self.state.stamp(now);
        let mut row = Row::empty(member.node, Class::Leaf);
        let name = own_name(&self.state.store, &base)?;
        let place = vec![self.state.write_place(&mut row, &[], parent, &name, stamp)];
        base.attributes.group = None;
        let content = self.state.content(base.value.clone(), None, base.attributes.clone(), stamp, now);
        let content = vec![self.state.write_content(&mut row, &[], content)];
        let meta = vec![self.state.write_meta(&mut row, &[], &base.attributes, stamp)];
        self.state.put(&row)?;
        self.state.withdraw(origin, &member.dots.content)?;
        base.members = vec![Member { node: member.node, dots: Dots { place, content, meta }, origin: None }];
        self.state.store.put_base(&base)?;
        Ok(base)
    }

    /// Before an entry leaves its name: what stands beside it as its sibling keeps the name that it is shown under.
    fn pin_siblings(&mut self, leaving: &Base, now: &mut Now) -> StoreResult<()> {
        let Some(member) = leaving.members.first() else { return Ok(()) };
        if member.origin.is_some() {
            return Ok(());
        }
        self.state.refresh()?;
        let Some(row) = self.state.store.row(member.node)? else { return Ok(()) };
        let Some((dir, name)) = self.state.view().registered(&row) else { return Ok(()) };
        for target in self.state.view().slot(dir, &name)?.into_iter().filter(|target| target.sibling) {
            let Some(base) = self.claimed(&target)? else { continue };
            if base.id == leaving.id || base.class != Class::Leaf {
                continue;
            }
            if target.members.iter().any(|member| member.origin.is_some()) {
                self.materialise(base, now)?;
                continue;
            }
            let parent = match self.state.store.base(base.parent)? {
                Some(parent) => self.live_node(&parent, now)?,
                None => NodeId::ROOT,
            };
            let mut base = base;
            let name = own_name(&self.state.store, &base)?;
            for member in &mut base.members {
                let Some(mut row) = self.state.store.row(member.node)? else { continue };
                let Some(stamp) = winner(&row.place).map(|(_, place)| place.stamp) else { continue };
                member.dots.place = vec![self.state.write_place(&mut row, &member.dots.place, parent, &name, stamp)];
                self.state.put(&row)?;
            }
            self.state.store.put_base(&base)?;
        }
        Ok(())
    }

    /// Another kind of thing stands at a base entry's name: the entry is gone from there, proven by that.
    fn displace(&mut self, base: Base, now: &mut Now) -> StoreResult<()> {
        self.missing.remove(&base.id);
        if base.state == BaseState::Dormant {
            return self.state.forget(base);
        }
        self.delete(base, now)
    }

    fn travels(&self, path: &[u8], is_dir: bool) -> bool {
        self.select.travels(path, is_dir, self.marks)
    }

    /// Whether all nodes that an entry is shown for are deleted, or have left it.
    fn is_dead(&mut self, base: &Base) -> StoreResult<bool> {
        self.state.refresh()?;
        for member in &base.members {
            if let Some(row) = self.state.store.row(member.origin.unwrap_or(member.node))?
                && !crate::tree::is_dead(&row, |dir| self.state.tree.shape().is_dead(dir))
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Turns what is missing into deletions. Call when nothing is left to look at; the root must hold.
    pub fn conclude(&mut self, now: &mut Now) -> StoreResult<()> {
        let mut asked = BTreeSet::new();
        for (_, base) in std::mem::take(self.missing) {
            // Its directory, or it itself, may have been moved or deleted meanwhile.
            let Some(base) = self.state.store.base(base.id)? else { continue };
            match self.stands(&base, &mut asked)? {
                Presence::Here | Presence::Unknown => {}
                Presence::Absent => {
                    self.touched.insert(base.parent);
                    self.delete(base, now)?;
                }
            }
        }
        for dir in std::mem::take(&mut self.touched) {
            self.directory_time(dir, now)?;
        }
        self.state.refresh().map(drop)
    }

    /// Deletes an entry and all that base has below it.
    fn delete(&mut self, base: Base, now: &mut Now) -> StoreResult<()> {
        self.looked.changes += 1;
        let path = self.path_of(&base)?;
        if !self.marks.take(&path).is_empty() {
            self.state.mark_below(nodes_of(&base))?;
        }
        self.looked.gone.push(path);
        self.pin_siblings(&base, now)?;
        let mut queue = vec![(base, Flag::Itself)];
        while let Some((base, flag)) = queue.pop() {
            self.lost_a_name(&base, now)?;
            for child in self.state.store.base_in(base.id)? {
                self.missing.remove(&child.id);
                queue.push((child, Flag::WithDirectory));
            }
            for member in &base.members {
                // Nobody else has the bytes of what was not told to anybody: nothing can bring it back.
                let untold = member.dots.content.iter().all(|dot| dot.replica == UNNUMBERED);
                let flag = if base.class == Class::Leaf && untold { Flag::Itself } else { flag };
                self.state.delete_member(member, flag)?;
            }
            self.state.store.remove_base(base.id)?;
        }
        Ok(())
    }

    fn miss(&mut self, base: Base) {
        if base.state == BaseState::Live {
            self.missing.insert(base.id, base);
        }
    }

    /// Whether a base entry's own inode still stands at its name.
    fn still_stands(&mut self, base: &Base) -> StoreResult<bool> {
        let path = self.path_of(base)?;
        Ok(matches!(self.disk.stat(&path), Ok(Some(stat)) if stat.handle == base.stat.handle))
    }

    /// Whether `dir` is `ancestor` or below it, as base has it.
    fn is_below(&self, dir: &Base, ancestor: &Base) -> StoreResult<bool> {
        let mut at = dir.id;
        while at != NodeId::ROOT {
            if at == ancestor.id {
                return Ok(true);
            }
            match self.state.store.base(at)? {
                Some(base) => at = base.parent,
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    fn stands(&mut self, base: &Base, asked: &mut BTreeSet<RelPath>) -> StoreResult<Presence> {
        if !self.disk.root_holds() {
            return Ok(Presence::Unknown);
        }
        let path = self.path_of(base)?;
        let parent_path = match self.state.store.base(base.parent)? {
            Some(parent) => self.path_of(&parent)?,
            None if base.parent == NodeId::ROOT => Vec::new(),
            None => return Ok(Presence::Unknown),
        };
        for dir in above(&path) {
            // Somebody may just have marked a directory and removed what is in it.
            if asked.insert(dir.to_vec()) {
                self.ask(dir)?;
            }
        }
        if !self.travels(&path, base.class == Class::Dir) {
            return Ok(Presence::Unknown);
        }
        match self.disk.stat(&path) {
            Ok(Some(_)) => Ok(Presence::Here),
            Ok(None) => Ok(Presence::Absent),
            // The directory itself is gone: then it is among the missing, and takes this along.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Ok(Presence::Unknown)
            }
            Err(error) => {
                self.problem(parent_path, &error);
                Ok(Presence::Unknown)
            }
        }
    }

    fn directory_base(&self, dir: NodeId) -> StoreResult<Option<Base>> {
        Ok(base_or_root(&self.state.store, dir)?.filter(|base| base.class == Class::Dir))
    }

    fn path_of(&self, base: &Base) -> StoreResult<RelPath> {
        base_path(&self.state.store, base)
    }

    /// A key for a base entry: the node's id, unless another entry has it.
    fn free_key(&self, id: NodeId) -> StoreResult<NodeId> {
        free_base_key(&self.state.store, id)
    }

    fn problem(&mut self, path: RelPath, error: &std::io::Error) {
        self.looked.problems.push(describe(path, error));
    }
}

enum Presence {
    Here,
    Absent,
    Unknown,
}

/// Takes an entry, and what is below it, out of play: its dots are kept for the day it is seen again.
pub fn put_to_sleep<S: Store>(store: &mut S, missing: &mut Missing, base: Base) -> StoreResult<()> {
    let mut queue = vec![base];
    while let Some(mut base) = queue.pop() {
        missing.remove(&base.id);
        queue.extend(store.base_in(base.id)?);
        base.state = BaseState::Dormant;
        store.put_base(&base)?;
    }
    Ok(())
}

/// Whether base has an entry under the name that it was parked under.
pub fn is_parked(base: &Base) -> bool {
    base.name.as_bytes().starts_with(PARKED)
}

/// The name of an entry; of a parked one, the name that it has lent away. Nobody is ever told of a parked name.
pub fn own_name<S: Store>(store: &S, base: &Base) -> StoreResult<Name> {
    if !is_parked(base) {
        return Ok(base.name.clone());
    }
    // An entry that its nodes have left was made for the one that it has its key from.
    let node = base.members.first().map_or(base.id, |member| member.origin.unwrap_or(member.node));
    let row = store.row(node)?;
    let name = row.and_then(|row| winner(&row.place).map(|(_, place)| place.name.clone()));
    Ok(name.unwrap_or_else(|| spare_name(base.id.to_string().as_bytes())))
}

/// The name that others are told of an entry that a person put under this one: not that of a parked entry, though they
/// may have taken it for one of theirs.
fn public(name: &Name) -> Name {
    name.as_bytes().strip_prefix(PARKED).map_or_else(|| name.clone(), spare_name)
}

/// What an entry is called whose name nobody knows any more.
fn spare_name(id: &[u8]) -> Name {
    Name::new([b"recovered-", id].concat()).expect("shorter than the name that it comes from")
}

/// A base entry, or the root's.
pub fn base_or_root<S: Store>(store: &S, id: NodeId) -> StoreResult<Option<Base>> {
    if id == NodeId::ROOT { Ok(Some(root_base())) } else { store.base(id) }
}

/// The base entry of the root, which is never stored.
pub fn root_base() -> Base {
    Base {
        id: NodeId::ROOT,
        parent: NodeId::ROOT,
        name: Name::new(*b"home").expect("a valid name"),
        class: Class::Dir,
        members: vec![Member { node: NodeId::ROOT, dots: Dots::default(), origin: None }],
        value: Value::Dir,
        attributes: Attributes::default(),
        stat: Stat {
            kind: Kind::Dir,
            handle: crate::disk::Handle::default(),
            size: 0,
            mode: 0o700,
            mtime: hearth_schemas::item::FileTime::default(),
            ctime: hearth_schemas::item::FileTime::default(),
            links: 1,
            raised: Raised::default(),
        },
        state: BaseState::Live,
    }
}

/// The base entry at a path; the root's for the empty one.
pub fn base_by_path<S: Store>(store: &S, path: &[u8]) -> StoreResult<Option<Base>> {
    let mut found = root_base();
    for part in path.split(|&byte| byte == b'/').filter(|part| !part.is_empty()) {
        let Some(name) = Name::new(part) else { return Ok(None) };
        let Some(base) = store.base_at(found.id, &name)? else { return Ok(None) };
        found = base;
    }
    Ok(Some(found))
}

/// The path of a base entry, by its parents' names on this disk.
pub fn base_path<S: Store>(store: &S, base: &Base) -> StoreResult<RelPath> {
    if base.id == NodeId::ROOT {
        return Ok(RelPath::new());
    }
    let mut names = vec![base.name.clone()];
    let mut at = base.parent;
    while at != NodeId::ROOT {
        let Some(parent) = store.base(at)? else { break };
        names.push(parent.name);
        at = parent.parent;
    }
    let parts: Vec<&[u8]> = names.iter().rev().map(Name::as_bytes).collect();
    Ok(parts.join(&b'/'))
}

/// A key for a base entry: the node's id, unless another entry has it.
pub fn free_base_key<S: Store>(store: &S, id: NodeId) -> StoreResult<NodeId> {
    let mut key = id;
    while key == NodeId::ROOT || store.base(key)?.is_some() {
        let hash = blake3::derive_key("hearth spare base key v1", &key.0);
        key = NodeId(hash[..16].try_into().expect("a hash has 32 bytes"));
    }
    Ok(key)
}

/// What is wrong with a path, in words for a person.
pub fn describe(path: RelPath, error: &std::io::Error) -> Problem {
    let (what, hint, transient) = match error.kind() {
        ErrorKind::PermissionDenied => {
            ("cannot be read", "give yourself permission to read it, or exclude it with `hearth rules add`", false)
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (
            "too little room on the disk",
            "make room: a part of the disk is left free; syncing goes on by itself",
            true,
        ),
        ErrorKind::ReadOnlyFilesystem => {
            ("the file system is read-only", "mount it writable; syncing goes on by itself", true)
        }
        ErrorKind::InvalidFilename => {
            ("the name is too long for this file system", "rename it on the other machine", false)
        }
        _ => ("could not be read or written", "see `hearth log`; it is tried again", true),
    };
    let what = if what.starts_with("could") { format!("{what}: {error}") } else { what.to_owned() };
    Problem { path, what, hint: hint.to_owned(), transient, copied_ms: None }
}

/// What is wrong with a path whose name something has that never travels.
pub fn obstructed(path: RelPath) -> Problem {
    Problem {
        path,
        what: "a socket, pipe, device, another file system or something that is not synced has its name here"
            .to_owned(),
        hint: "give one of the two another name, or exclude the path on this machine with `hearth rules add`"
            .to_owned(),
        transient: true,
        copied_ms: None,
    }
}

fn nodes_of(base: &Base) -> Vec<NodeId> {
    base.members.iter().map(|member| member.node).collect()
}

fn attributes_of(stat: &Stat, xattrs: Option<&Xattrs>) -> Attributes {
    let xattrs = xattrs.filter(|_| stat.kind != Kind::Link).cloned().unwrap_or_default();
    Attributes { mode: stat.mode, mtime: stat.mtime, xattrs, group: None }
}
