//! What the applier minds in git repositories: git's locks, objects that are needed here, and refs that would be lost from
//! sight.
//!
//! Three rules of decision 24. A ref, `HEAD`, `packed-refs` or index changes under git's own lock. An object leaves this
//! disk only if the repository here has it elsewhere, or goes as a whole; else it is brought back to life for all. A value
//! of a ref that another one hides, as a loose ref hides a packed one, gets a ref of its own.

use std::collections::BTreeSet;
use std::io::{Error, ErrorKind};

use hearth_schemas::ids::NodeId;
use hearth_schemas::item::{Attributes, FileTime, Name};

use super::{Applier, Fault, entry_of, stage_name};
use crate::conflict::{self, Naming};
use crate::disk::{Disk, RelPath, Source, StageName, join};
use crate::git::packs::Holdings;
use crate::git::refs::{Packed, is_id, other_name};
use crate::git::{self, Part, Place};
use crate::observe::{Spot, base_by_path};
use crate::path::{depth, split};
use crate::plan::{Placed, Step};
use crate::state::Now;
use crate::store::{Base, BaseState, Store, StoreResult};
use crate::tree::is_dead;

/// Longest file of packed refs that is searched for hidden ones, in bytes.
const MAX_PACKED: u64 = 16 << 20;
/// Longest loose ref, in bytes.
const MAX_REF: u64 = 4096;
/// The file of packed refs.
const PACKED: &[u8] = b"packed-refs";

/// What is known of the repositories while a plan is carried out.
#[derive(Default, Debug)]
pub struct GitCare {
    holdings: Holdings,
    /// Entries that the plan bears on.
    planned: BTreeSet<NodeId>,
    /// Packed refs that were put in place: their directory, what stood there in staging, whose doing it is.
    packed: Vec<(RelPath, Option<StageName>, NodeId)>,
    /// Packed refs that lost their name: their directory, where they lie, whose doing it is.
    aside: Vec<(RelPath, RelPath, NodeId)>,
}

impl GitCare {
    /// Takes note of what is to be done.
    pub(super) fn begin(&mut self, steps: &[Step]) {
        self.planned = steps.iter().map(entry_of).collect();
    }

    /// Takes note of a file of packed refs that stands beside the one that git reads.
    pub(super) fn note_sibling(&mut self, placed: &Placed, path: &[u8]) {
        if !git::place(path).is_some_and(|place| place.part == Part::Other) {
            return;
        }
        let origin = conflict::registered(Naming::File, &placed.target.name);
        if placed.target.sibling && origin.is_some_and(|origin| origin.as_bytes() == PACKED) {
            self.aside.push((split(path).0.to_vec(), path.to_vec(), placed.id));
        }
    }

    /// Takes note of packed refs that were put in place; what stood there is in staging under `before`.
    pub(super) fn note_packed(&mut self, before: Option<&StageName>, path: &[u8], id: NodeId) {
        if git::place(path).is_some_and(|place| place.part == Part::PackedRefs) {
            self.packed.push((split(path).0.to_vec(), before.cloned(), id));
        }
    }

    /// Takes note of what is gone.
    pub(super) fn note_removed(&mut self, path: &[u8]) {
        if let Some(Place { part: Part::Pack { objects, stem, ending: b"pack" }, .. }) = git::place(path) {
            self.holdings.forget(objects, stem);
        }
    }
}

impl<S: Store, D: Disk> Applier<'_, S, D> {
    /// Does something to a file of a directory, under git's lock if git locks that file.
    pub(super) fn locking(
        &mut self,
        dir: NodeId,
        path: &[u8],
        act: impl FnMut(&mut D) -> std::io::Result<()>,
    ) -> Result<(), Fault> {
        if !git::place(path).is_some_and(|place| place.part.is_locked_by_git()) {
            return self.widening(dir, act);
        }
        let mut lock = None;
        self.widening(dir, |disk| git::lock(disk, path).map(|taken| lock = Some(taken)))?;
        let done = self.widening(dir, act);
        if let Some(lock) = lock {
            git::unlock(self.disk, &lock);
        }
        done
    }

    /// Whether an entry that another machine deleted is needed here, so that it is to live.
    pub(super) fn is_needed(&mut self, base: &Base, path: &[u8]) -> Result<bool, Fault> {
        let Some(Place { repository, part }) = git::place(path) else { return Ok(false) };
        if self.shown_elsewhere(base)? {
            return Ok(false);
        }
        if let Some(is_shown) = self.deleted_repository(base, path, repository)? {
            // As a whole, or not at all: where something in it is new to who deleted it, all of it lives.
            return Ok(is_shown);
        }
        match part {
            Part::Loose { objects, fan, rest } => Ok(!self.git.holdings.has_packed(self.disk, objects, fan, rest)),
            Part::Pack { objects, stem, ending: b"pack" } => {
                Ok(!self.git.holdings.has_elsewhere(self.disk, objects, stem))
            }
            Part::Pack { objects, stem, ending: b"idx" | b"rev" | b"mtimes" | b"promisor" } => {
                let pack = [objects, b"/pack/", stem, b".pack"].concat();
                if self.disk.stat(&pack)?.is_none() {
                    return Ok(false);
                }
                let name = Name::new([stem, b".pack"].concat()).ok_or(Fault::Changed)?;
                let standing = self.state.store.base_at(base.parent, &name)?;
                match standing {
                    // The pack goes first, if it goes: only its index tells what is in it.
                    Some(standing) if self.is_dead(&standing)? => Err(Fault::Early),
                    Some(_) | None => Ok(true),
                }
            }
            _ => Ok(false),
        }
    }

    /// Whether what an entry shows is alive, and only has another place.
    fn shown_elsewhere(&self, base: &Base) -> StoreResult<bool> {
        Ok(!self.is_dead(base)?)
    }

    fn is_dead(&self, base: &Base) -> StoreResult<bool> {
        for member in &base.members {
            let Some(row) = self.state.store.row(member.node)? else { continue };
            if !is_dead(&row, |dir| self.state.tree.shape().is_dead(dir)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Of a repository that was deleted, whether it is shown all the same; `None` if it was not deleted.
    fn deleted_repository(&self, base: &Base, path: &[u8], repository: &[u8]) -> StoreResult<Option<bool>> {
        let above = depth(&path[repository.len()..]);
        let mut dir = base.clone();
        for _ in 0..above {
            match self.state.store.base(dir.parent)? {
                Some(parent) => dir = parent,
                None => return Ok(None),
            }
        }
        let shape = self.state.tree.shape();
        if dir.members.iter().any(|member| !shape.is_dead(member.node)) {
            return Ok(None);
        }
        Ok(Some(dir.members.iter().any(|member| shape.leader(member.node).is_some())))
    }

    /// Gives a ref to each value that came in packed refs and that no ref here has. Gives the directories that were
    /// written to.
    pub(super) fn rescue_refs(&mut self, now: &mut Now) -> StoreResult<BTreeSet<NodeId>> {
        let mut touched = BTreeSet::new();
        for (dir, before, id) in std::mem::take(&mut self.git.packed) {
            let before = before.map_or(Some(String::new()), |before| self.text(&Source::Kept(before)));
            let after = self.text(&Source::Copy(join(&dir, &Name::new(PACKED).expect("a valid name"))));
            let (Some(before), Some(after)) = (before, after) else { continue };
            let (Some(before), Some(after)) = (Packed::read(&before), Packed::read(&after)) else { continue };
            for (name, value) in after.refs().filter(|(name, value)| before.id(name) != Some(*value)) {
                // A loose ref that is planned as well is the other machine's doing, too.
                let hides = self.loose(&dir, name)?.is_some_and(|(loose, text)| {
                    !self.git.planned.contains(&loose.id) && is_id(&text) && text != value
                });
                if hides {
                    touched.extend(self.add_ref(&dir, name, value, id, now)?);
                }
            }
        }
        for (dir, aside, id) in std::mem::take(&mut self.git.aside) {
            let standing = self.text(&Source::Copy(join(&dir, &Name::new(PACKED).expect("a valid name"))));
            let (Some(aside), standing) = (self.text(&Source::Copy(aside)), standing.unwrap_or_default()) else {
                continue;
            };
            let (Some(aside), Some(standing)) = (Packed::read(&aside), Packed::read(&standing)) else { continue };
            for (name, value) in aside.refs() {
                let loose = self.loose(&dir, name)?.map(|(_, text)| text);
                if loose.as_deref().or(standing.id(name)) != Some(value) {
                    touched.extend(self.add_ref(&dir, name, value, id, now)?);
                }
            }
        }
        Ok(touched)
    }

    fn text(&mut self, source: &Source) -> Option<String> {
        String::from_utf8(self.disk.read(source, MAX_PACKED).ok()?).ok()
    }

    /// The loose ref of a name that stands here, and what it says.
    fn loose(&mut self, dir: &[u8], name: &str) -> StoreResult<Option<(Base, String)>> {
        let path = [dir, b"/", name.as_bytes()].concat();
        let Some(base) = base_by_path(&self.state.store, &path)?.filter(|base| base.state == BaseState::Live) else {
            return Ok(None);
        };
        let text = self.disk.read(&Source::Copy(path), MAX_REF).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        Ok(text.map(|text| (base, text.trim_end().to_owned())))
    }

    /// Writes a further value of a ref beside it, as a person would: it is found and told as any other. Gives the
    /// directory.
    fn add_ref(
        &mut self,
        dir: &[u8],
        name: &str,
        value: &str,
        id: NodeId,
        now: &mut Now,
    ) -> StoreResult<Option<NodeId>> {
        let other = other_name(name, &self.author(id), value);
        // Where a directory of refs is not on this disk, as with packed refs, its name goes into that of the ref.
        let mut parts: Vec<&str> = other.split('/').collect();
        let mut parent = None;
        let mut names = Vec::new();
        while let Some(last) = parts.pop() {
            names.insert(0, last);
            let above = [dir, b"/", parts.join("/").as_bytes()].concat();
            parent = base_by_path(&self.state.store, &above)?
                .filter(|base| base.state == BaseState::Live)
                .map(|base| (base, above));
            if parent.is_some() {
                break;
            }
        }
        let (Some((parent, above)), Some(name)) = (parent, Name::new(names.join("-"))) else { return Ok(None) };
        let path = join(&above, &name);
        let staged = stage_name(id, now);
        let mtime = FileTime { secs: i64::try_from(now.wall_ms / 1000).unwrap_or(0), nanos: 0 };
        let attributes = Attributes { mode: 0o644, mtime, ..Attributes::default() };
        let bytes = Source::Bytes(format!("{value}\n").into_bytes());
        let written = self.disk.stage(&staged, &bytes, &attributes).and_then(|_| match self.disk.stat(&path)? {
            Some(_) => Err(Error::from(ErrorKind::AlreadyExists)),
            None => self.disk.unstage(&staged, &path).map(|_| ()),
        });
        if written.is_err() {
            // Another machine has made it already, as a rule; else the packed refs are in history.
            let _ = self.disk.discard(&staged);
            return Ok(None);
        }
        self.applied.look.push(Spot::Entry(parent.id, name));
        Ok(Some(parent.id))
    }
}
