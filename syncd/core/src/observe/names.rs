//! The names of one file: what has several of them in the home is a hard-link group (docs/decisions/0026).

use hearth_schemas::ids::NodeId;
use hearth_schemas::item::{Attributes, Class};

use super::Observer;
use crate::disk::{Disk, Handle, Kind, Stat};
use crate::state::Now;
use crate::store::{Base, BaseState, Store, StoreResult};

impl<S: Store, D: Disk> Observer<'_, S, D> {
    /// The hard-link group of a file: what all its names in the home have in common, by the least of their keys. Names that
    /// are not in one yet are told to be.
    pub(super) fn group(&mut self, stat: &Stat, base: Option<&Base>, now: &mut Now) -> StoreResult<Option<NodeId>> {
        // Another file at this name is a file of its own. That the same one has no other name here says nothing: those
        // may be yet to come.
        let known = base.filter(|base| base.stat.handle == stat.handle).and_then(|base| base.attributes.group);
        if stat.kind != Kind::File || stat.links < 2 {
            return Ok(known);
        }
        let others = self.other_names(stat.handle, base.map(|base| base.id))?;
        if others.is_empty() {
            return Ok(known);
        }
        let groups = others.iter().filter_map(|other| other.attributes.group).chain(known);
        let keys = others.iter().map(|other| other.id).chain(base.map(|base| base.id));
        let group = groups.min().or(keys.min());
        for other in others {
            self.regroup(other, group, now)?;
        }
        Ok(group)
    }

    fn regroup(&mut self, mut base: Base, group: Option<NodeId>, now: &mut Now) -> StoreResult<()> {
        if base.attributes.group != group {
            let actual = Attributes { group, ..base.attributes.clone() };
            self.set_attributes(&mut base, actual, now)?;
            self.state.store.put_base(&base)?;
        }
        Ok(())
    }

    /// A file has lost a name: with one left, it is not in a hard-link group any more.
    pub(super) fn lost_a_name(&mut self, lost: &Base, now: &mut Now) -> StoreResult<()> {
        if lost.attributes.group.is_some()
            && let Ok([last]) = <[Base; 1]>::try_from(self.other_names(lost.stat.handle, Some(lost.id))?)
        {
            self.regroup(last, None, now)?;
        }
        Ok(())
    }

    /// The entries that are names of a file, but for one of them.
    fn other_names(&mut self, handle: Handle, but: Option<NodeId>) -> StoreResult<Vec<Base>> {
        let mut names = Vec::new();
        for base in self.state.store.bases_with(handle)? {
            let other = base.class == Class::Leaf && base.state == BaseState::Live && Some(base.id) != but;
            if other && self.still_stands(&base)? {
                names.push(base);
            }
        }
        Ok(names)
    }
}
