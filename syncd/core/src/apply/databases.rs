//! What the applier minds about databases: one leaves its name only with the logs that belong to it, and none is put beside
//! the logs of another.
//!
//! A log that is left beside another database would be taken for its own, and spoil it. So logs go first, and come back if
//! the database stays. That nobody has the database open was seen to before ([`Applier::holding`]), and what is in the
//! logs has become a version, since they count among what base says of the database.

use hearth_schemas::ids::NodeId;
use hearth_schemas::item::{Attributes, Value};

use super::{Applier, Fault, Hold, stage_name};
use crate::database::{COMPANIONS, aside_name, has_log, image_name, is_database, may_be, set_aside_for};
use crate::disk::{Disk, Handle, Kind, RelPath, Source, StageName, Stat};
use crate::observe::base_path;
use crate::plan::Placed;
use crate::state::Now;
use crate::store::{Base, Kept, Store, StoreResult};

/// What was taken from beside a database: its name in staging, where it was, its stat.
pub(super) type Aside = Vec<(StageName, RelPath, Stat)>;

impl<S: Store, D: Disk> Applier<'_, S, D> {
    /// Moves a file by `act`. What a program has left beside a database goes along: the directory that it leaves would stay
    /// for that, and an empty log would be a file of its own there. What lies at the other name is another's, and goes.
    /// `to` lies in the directory `dir`.
    pub(super) fn moving_whole(
        &mut self,
        base: &Base,
        (from, dir, to): (&[u8], NodeId, &[u8]),
        hold: Hold,
        now: &mut Now,
        act: impl FnOnce(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if !hold.database {
            return act(self);
        }
        check_whole(self.disk, from, hold)?;
        let others = self.take_companions(dir, to, &stage_name(base.id, now), Handle::default())?;
        let aside = match self.take_companions(base.parent, from, &stage_name(base.id, now), base.stat.handle) {
            Ok(aside) => aside,
            Err(fault) => {
                self.put_beside(others);
                return Err(fault);
            }
        };
        if let Err(fault) = act(self) {
            self.put_beside(aside);
            self.put_beside(others);
            return Err(fault);
        }
        self.keep_aside(others, base.id, "replaced", now)?;
        for (name, path, stat) in aside {
            let beside = [to, &path[from.len()..]].concat();
            if self.widening(dir, |disk| disk.unstage(&name, &beside).map(drop)).is_err() {
                // Somebody has just taken that name: what nobody needs any more is kept all the same.
                self.keep_aside(vec![(name, path, stat)], base.id, "replaced", now)?;
            }
        }
        Ok(())
    }

    /// Takes what belongs to a database that is to be displaced under `name`.
    pub(super) fn set_aside(&mut self, base: &Base, path: &[u8], name: &StageName, hold: Hold) -> Result<Aside, Fault> {
        if !hold.database {
            return Ok(Aside::new());
        }
        check_closed(self.disk, path, hold)?;
        self.take_companions(base.parent, path, name, base.stat.handle)
    }

    /// Takes what stands beside a free name, or beside a file that is no database, as if it belonged to the database that is
    /// to be put there.
    pub(super) fn clear_for_database(
        &mut self,
        placed: &Placed,
        name: &StageName,
        path: &[u8],
    ) -> Result<Aside, Fault> {
        let Value::File { size, .. } = placed.target.value else { return Ok(Aside::new()) };
        if !may_be(size) {
            return Ok(Aside::new());
        }
        let mut is_clear = true;
        for ending in COMPANIONS {
            is_clear &= self.disk.stat(&beside(path, ending))?.is_none();
        }
        if is_clear || !is_database(self.disk, &Source::Kept(name.clone()), size) {
            return Ok(Aside::new());
        }
        self.take_companions(placed.parent, path, name, Handle::default())
    }

    fn take_companions(
        &mut self,
        dir: NodeId,
        path: &[u8],
        name: &StageName,
        database: Handle,
    ) -> Result<Aside, Fault> {
        let mut aside = Aside::new();
        for ending in COMPANIONS {
            let from = beside(path, ending);
            let to = aside_name(name, database, ending);
            let taken = match self.disk.stat(&from) {
                Ok(Some(stat)) if stat.kind == Kind::File => {
                    let mut taken = None;
                    self.widening(dir, |disk| disk.take(&from, &to).map(|stat| taken = Some(stat))).map(|()| taken)
                }
                Ok(_) => Ok(None),
                Err(error) => Err(error.into()),
            };
            match taken {
                Ok(Some(stat)) => aside.push((to, from, stat)),
                Ok(None) => {}
                Err(fault) => {
                    self.put_beside(aside);
                    return Err(fault);
                }
            }
        }
        Ok(aside)
    }

    /// Puts what was taken back.
    pub(super) fn put_beside(&mut self, aside: Aside) {
        for (name, path, _) in aside {
            // What cannot be put back at this moment is, when staging is tidied.
            let _ = self.disk.unstage(&name, &path);
        }
    }

    /// Keeps in history what was displaced. Of a database with logs that is all of it, and the image of what they hold
    /// together, which is what a person gets back.
    pub(super) fn keep_displaced(
        &mut self,
        name: &StageName,
        base: &Base,
        path: &[u8],
        aside: Aside,
        cause: &str,
        now: &mut Now,
    ) -> Result<(), Fault> {
        let Value::File { hash, .. } = base.value else { return self.keep(name, base, path, cause, now) };
        let has_logs = aside.iter().any(|(_, _, stat)| stat.size > 0) && self.images.contains(&hash);
        if !has_logs {
            self.keep_aside(aside, base.id, cause, now)?;
            return self.keep(name, base, path, cause, now);
        }
        let own = Base { value: self.disk.read_staged(name)?, ..base.clone() };
        self.keep(name, &own, path, cause, now)?;
        self.keep_aside(aside, base.id, cause, now)?;
        if own.value != base.value {
            let image = stage_name(base.id, now);
            self.disk.stage(&image, &Source::Kept(image_name(hash)), &base.attributes)?;
            self.keep(&image, base, path, cause, now)?;
        }
        Ok(())
    }

    /// Keeps in history what stood beside a database.
    pub(super) fn keep_aside(&mut self, aside: Aside, id: NodeId, cause: &str, now: &Now) -> Result<(), Fault> {
        for (name, path, stat) in aside {
            let value = self.disk.read_staged(&name)?;
            self.applied.displaced.push(name.clone());
            self.state.store.put_kept(&Kept {
                name: name.0,
                path,
                time_ms: now.wall_ms,
                device: self.author(id),
                value,
                attributes: Attributes { mode: stat.mode, mtime: stat.mtime, ..Attributes::default() },
                cause: cause.to_owned(),
            })?;
        }
        Ok(())
    }
}

/// Refuses a database that is not whole without a log beside it, or that somebody may have open.
pub(super) fn check_whole<D: Disk>(disk: &mut D, path: &[u8], hold: Hold) -> Result<(), Fault> {
    check_closed(disk, path, hold)?;
    if hold.database && has_log(disk, path)? { Err(Fault::Busy) } else { Ok(()) }
}

/// Refuses a database that somebody may have open: where nothing tells who has, there is what those make who do.
pub(super) fn check_closed<D: Disk>(disk: &mut D, path: &[u8], hold: Hold) -> Result<(), Fault> {
    match hold.database && !hold.guarded && disk.stat(&beside(path, COMPANIONS[2]))?.is_some() {
        true => Err(Fault::Busy),
        false => Ok(()),
    }
}

/// Puts a log back beside its database, if that was not displaced after all.
pub(super) fn put_back<S: Store, D: Disk>(store: &S, disk: &mut D, name: &StageName) -> StoreResult<bool> {
    let Some((database, ending)) = set_aside_for(name) else { return Ok(false) };
    for base in store.bases_with(database)? {
        let path = base_path(store, &base)?;
        let stands = matches!(disk.stat(&path), Ok(Some(stat)) if stat.handle == database);
        if stands && disk.unstage(name, &beside(&path, ending)).is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn beside(path: &[u8], ending: &str) -> RelPath {
    [path, ending.as_bytes()].concat()
}
