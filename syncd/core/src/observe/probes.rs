//! Asks directories for the files that rules look for, and takes in what that excludes (docs/decisions/0027).

use std::collections::BTreeSet;

use hearth_schemas::ids::NodeId;
use hearth_schemas::item::{Class, Name};

use super::{Observer, base_by_path, put_to_sleep};
use crate::disk::{Disk, Kind, RelPath, Stat, join};
use crate::marks::Marks;
use crate::path::above;
use crate::store::{BaseState, Store, StoreResult};

impl<S: Store, D: Disk> Observer<'_, S, D> {
    /// Asks the marked directories in a directory for their markers: they may have gone along with them.
    pub(super) fn ask_right_below(&mut self, dir: &[u8]) -> StoreResult<()> {
        self.marks.right_below(dir).iter().try_for_each(|marked| self.ask(marked))
    }

    /// The marks of a directory go with it to its new path. Another directory may have its old one by now, and may have
    /// been asked already: what it holds is its own.
    pub(super) fn share_marks(&mut self, marks: Marks, from: &[u8], to: &[u8]) {
        for (rest, held) in marks {
            let [old, new] = [from, to].map(|path| [path, &rest].concat());
            let probes: Vec<usize> = held.iter().copied().collect();
            let of_another = self.standing(&old, &probes).unwrap_or_default();
            let own = self.standing(&new, &probes).unwrap_or_default();
            let gone_along = held.into_iter().filter(|probe| own.contains(probe) || !of_another.contains(probe));
            self.marks.set(&new, gone_along.collect());
            self.marks.set(&old, of_another);
        }
    }

    /// Which of these files that rules look for stand in a directory; `None` where that cannot be told.
    fn standing(&mut self, dir: &[u8], probes: &[usize]) -> Option<BTreeSet<usize>> {
        let mut held = BTreeSet::new();
        for &index in probes {
            if self.select.probes()[index].stands(self.disk, dir)? {
                held.insert(index);
            }
        }
        Some(held)
    }

    /// Asks a directory for all that rules look for.
    pub(super) fn ask(&mut self, dir: &[u8]) -> StoreResult<()> {
        let all: Vec<usize> = (0..self.select.probes().len()).collect();
        match self.standing(dir, &all) {
            Some(held) => self.learn(dir, &held),
            None => Ok(()),
        }
    }

    /// Asks every directory that held any of them whether it still does: it may have gone where nobody looked.
    pub fn ask_marked(&mut self) -> StoreResult<()> {
        self.marks.dirs().iter().try_for_each(|dir| self.ask(dir))
    }

    /// Asks a directory for what decides about itself by standing in it.
    pub(super) fn ask_inside(&mut self, dir: &[u8]) -> StoreResult<()> {
        let inside = self.select.probes_inside(dir);
        let Some(held) = self.standing(dir, &inside) else { return Ok(()) };
        let others = self.marks.of(dir).into_iter().filter(|probe| !inside.contains(probe));
        self.learn(dir, &held.into_iter().chain(others).collect())
    }

    /// Until every directory has been listed once, those above a path are asked before it is judged.
    pub(super) fn ask_above(&mut self, path: &[u8]) -> StoreResult<()> {
        let Some(asked) = &mut self.asked else { return Ok(()) };
        let above = [&path[..0]].into_iter().chain(above(path));
        let news: Vec<RelPath> = above.map(<[u8]>::to_vec).filter(|dir| asked.insert(dir.clone())).collect();
        news.iter().try_for_each(|dir| self.ask(dir))
    }

    /// Takes in what a listing tells of a directory.
    pub(super) fn note_held(&mut self, dir: &[u8], names: &[(Name, Stat)]) -> StoreResult<()> {
        if let Some(asked) = &mut self.asked {
            asked.insert(dir.to_vec());
        }
        let probes = self.select.probes();
        let mut candidates = Vec::new();
        for (name, stat) in names.iter().filter(|(_, stat)| stat.kind == Kind::File) {
            let of_name = |(_, probe): &(usize, &crate::marks::Probe)| {
                probe.name == name.as_bytes() && stat.size >= probe.magic.len() as u64
            };
            candidates.extend(probes.iter().enumerate().filter(of_name).map(|(index, _)| index));
        }
        match self.standing(dir, &candidates) {
            Some(held) => self.learn(dir, &held),
            None => Ok(()),
        }
    }

    /// Takes in what a directory holds of what rules look for. What a file that appeared excludes goes to sleep at
    /// once; that one has gone is believed later, as whoever removes a directory may begin with its marker.
    fn learn(&mut self, dir: &[u8], held: &BTreeSet<usize>) -> StoreResult<()> {
        let known = self.marks.of(dir);
        if known == *held {
            return Ok(());
        }
        if known.difference(held).next().is_some() {
            self.looked.unmarked.push(dir.to_vec());
        }
        let gained: Vec<usize> = held.difference(&known).copied().collect();
        if gained.is_empty() {
            return Ok(());
        }
        self.marks.set(dir, known.union(held).copied().collect());
        let inside = self.select.probes_inside(dir);
        self.sleep_marked(dir, gained.iter().any(|probe| inside.contains(probe)))
    }

    /// What a directory holds by now excludes some of what is in it, at any depth if `deep` says so.
    fn sleep_marked(&mut self, dir: &[u8], deep: bool) -> StoreResult<()> {
        let Some(top) = base_by_path(&self.state.store, dir)?.filter(|base| base.class == Class::Dir) else {
            return Ok(());
        };
        if top.id != NodeId::ROOT && !self.travels(dir, true) {
            return put_to_sleep(&mut self.state.store, self.missing, top);
        }
        let mut dirs = vec![(top.id, dir.to_vec())];
        while let Some((dir, path)) = dirs.pop() {
            for base in self.state.store.base_in(dir)?.into_iter().filter(|base| base.state == BaseState::Live) {
                let (is_dir, path) = (base.class == Class::Dir, join(&path, &base.name));
                if !self.travels(&path, is_dir) {
                    put_to_sleep(&mut self.state.store, self.missing, base)?;
                } else if deep && is_dir {
                    dirs.push((base.id, path));
                }
            }
        }
        Ok(())
    }
}
