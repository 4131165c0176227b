//! The names of one file: further names are given to a file that is there already, and what changes by one of them has changed
//! by all (docs/decisions/0026, 0042).

use hearth_schemas::item::{Attributes, Class, Stamp, Value};

use super::{Applier, Fault, is_one_file, same_file, stage_name};
use crate::database::{has_log, is_database};
use crate::disk::{Disk, Source, StageName, Stat};
use crate::plan::Placed;
use crate::row;
use crate::state::Now;
use crate::store::{Base, BaseState, Member, Store, StoreResult};
use crate::view::{self, Target};

impl<S: Store, D: Disk> Applier<'_, S, D> {
    /// Whether the file of an entry that leaves its hard-link group has other names here, which it is to part from.
    pub(super) fn is_shared(&self, placed: &Placed) -> StoreResult<bool> {
        let Some(base) = self.state.store.base(placed.id)? else { return Ok(false) };
        let group = placed.target.attributes.group;
        let mut others = self.state.store.bases_with(base.stat.handle)?.into_iter();
        Ok(others.any(|other| other.id != base.id && (group.is_none() || other.attributes.group != group)))
    }

    /// Stages a further name of a file that is staged already.
    pub(super) fn stage_twin(
        &mut self,
        placed: &Placed,
        of: StageName,
        now: &mut Now,
    ) -> Result<(StageName, Stat), Fault> {
        let name = stage_name(placed.id, now);
        let of = Source::Kept(of);
        if let Ok(stat) = self.disk.stage_link(&name, &of) {
            return Ok((name, stat));
        }
        // No more names, or none at all on this file system: then it is a file of its own.
        let (stat, ..) = self.disk.stage(&name, &of, &placed.target.attributes)?;
        Ok((name, stat))
    }

    /// Stages a further name of a file in this entry's hard-link group, where this disk has one that is as it shall be
    /// and the entry is not a name of it already. A database that has a log is not: by another name it would be without that.
    pub(super) fn stage_name_of_partner(
        &mut self,
        placed: &Placed,
        now: &mut Now,
    ) -> Result<Option<(StageName, Stat)>, Fault> {
        let (Some(_), Value::File { hash, .. }) = (placed.target.attributes.group, &placed.target.value) else {
            return Ok(None);
        };
        let own = self.state.store.base(placed.id)?.map(|base| base.stat.handle);
        for base in self.state.store.base_holding(*hash)? {
            let fits = base.id != placed.id
                && base.state == BaseState::Live
                && Some(base.stat.handle) != own
                && is_one_file(&base.value, &base.attributes, placed);
            if !fits {
                continue;
            }
            let (name, path) = (stage_name(placed.id, now), self.path_of(&base)?);
            let is_in_log =
                has_log(self.disk, &path)? && is_database(self.disk, &Source::Copy(path.clone()), base.stat.size);
            if is_in_log || self.checked(base.id).is_err() {
                continue;
            }
            let Ok(stat) = self.disk.stage_link(&name, &Source::Copy(path)) else { continue };
            if same_file(&stat, &base.stat) {
                return Ok(Some((name, stat)));
            }
            // Somebody was quicker.
            self.disk.discard(&name)?;
        }
        Ok(None)
    }

    /// A file got a further name: what it has by now is no news under its others, but for those that do not know yet what it
    /// got by one of them.
    pub(super) fn follow_names(&mut self, base: &Base) -> StoreResult<()> {
        if base.stat.links < 2 {
            return Ok(());
        }
        for mut other in self.state.store.bases_with(base.stat.handle)? {
            let is_news = other.attributes.xattrs != base.attributes.xattrs;
            let same = same_file(&other.stat, &base.stat) && other.stat.mode == base.stat.mode;
            if other.id != base.id && same && !is_news {
                other.stat = base.stat.clone();
                self.state.store.put_base(&other)?;
            }
        }
        Ok(())
    }

    /// The attributes of a file that are to be other ones by what was said later of another of its names here. They go
    /// for this one, too: were each name given its own, two machines could go on for ever seeing one name change with
    /// the other, and telling of it.
    pub(super) fn said_later_of_another_name(&self, base: &Base, target: &Target) -> StoreResult<Option<Attributes>> {
        let derived = target.members.iter().any(|member| member.origin.is_some());
        if base.class != Class::Leaf || base.stat.links < 2 || derived || base.attributes == target.attributes {
            return Ok(None);
        }
        let own = self.last_said(&target.members)?.map(|(stamp, _)| stamp);
        let mut others = Vec::new();
        for other in self.state.store.bases_with(base.stat.handle)?.into_iter().filter(|other| other.id != base.id) {
            others.extend(self.last_said(&other.members)?.filter(|(stamp, _)| Some(*stamp) > own));
        }
        let group = target.attributes.group;
        let said =
            others.into_iter().rev().max_by_key(|(stamp, _)| *stamp).map(|(_, said)| Attributes { group, ..said });
        Ok(said.filter(|said| *said != target.attributes))
    }

    /// What was said last of the attributes of an entry's nodes.
    fn last_said(&self, members: &[Member]) -> StoreResult<Option<(Stamp, Attributes)>> {
        let mut said = Vec::new();
        for member in members.iter().filter(|member| member.origin.is_none()) {
            let row = self.state.store.row(member.node)?;
            said.extend(row.and_then(|row| Some((row::winner(&row.meta)?.1.stamp, view::attributes(&row)))));
        }
        // Of equals the first.
        Ok(said.into_iter().rev().max_by_key(|(stamp, _)| *stamp))
    }

    /// The stat of a file that has got the attributes that it shall have under another of its names.
    pub(super) fn adjusted_by_another_name(&mut self, base: &Base, target: &Target) -> Result<Option<Stat>, Fault> {
        if base.class != Class::Leaf || base.stat.links < 2 || base.attributes == target.attributes {
            return Ok(None);
        }
        let path = self.path_of(base)?;
        let Some(stat) = self.disk.stat(&path)? else { return Ok(None) };
        let wanted = &target.attributes;
        let same = stat.kind == base.stat.kind && stat.handle == base.stat.handle && stat.size == base.stat.size;
        let is_so = (stat.mode, stat.mtime) == (wanted.mode, wanted.mtime)
            && self.disk.xattrs(&path).is_none_or(|xattrs| xattrs == wanted.xattrs);
        Ok((same && is_so).then_some(stat))
    }
}
