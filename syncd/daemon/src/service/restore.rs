//! `restore`: earlier contents come back to their places, as edits that travel.
//!
//! Done in batches on the engine's thread. What stands at a place goes into history before anything comes there, and the
//! index knows of that before the disk does; so neither a crash nor a path that cannot be written to loses anything.
//! Undoing what came from a device is the same for what it replaced and deleted, and a deletion of what it made.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use hearth_schemas::ids::{NodeId, ReplicaId};
use hearth_schemas::item::{Attributes, Class, Name, Row, Value as Held};
use serde_json::{Value, json};
use syncd_core::disk::{Disk, Kind, RelPath, Source, StageName};
use syncd_core::engine::Event;
use syncd_core::row::winner;
use syncd_core::store::{Base, BaseState, Kept, Store, StoreError};
use syncd_core::{account, observe, view};

use super::history::{copy_out, kept_at};
use super::{index_failed, no_such_device, stopping};
use crate::answer::put_path;
use crate::bus::{Answer, Failure, Restore, Which};
use crate::disk::RealDisk;
use crate::driver::{RealEngine, wall_ms, with_now};
use crate::home::Home;

/// Contents put back in one go, between which the engine works on.
const BATCH: usize = 256;

pub(super) async fn restore(home: &Arc<Home>, below: RelPath, restore: Restore) -> Answer {
    let rows = kept_at(home, Some(below.clone()), usize::MAX).await?;
    let (chosen, unwanted) = match &restore.which {
        Which::CameFrom { device, since } => {
            let births = births(home, device).await?;
            let since = u64::try_from(since.as_millisecond()).unwrap_or(0);
            let chosen = choose(rows, |row| row.time_ms >= since && births.contains_key(&row.device));
            let replicas: BTreeSet<ReplicaId> = births.into_values().flatten().collect();
            let known: BTreeSet<RelPath> = chosen.iter().map(|row| row.path.clone()).collect();
            let top = below.clone();
            let made = home.driver.ask(move |engine, _| made_by(engine, &top, &replicas, since)).await;
            let mut made = made.map_err(stopping)?.map_err(|error| index_failed(&error))?;
            made.retain(|path| !known.contains(path));
            (chosen, made)
        }
        Which::Newest => (exact_or_all(newest(rows), &below), Vec::new()),
        Which::Version(version) => (choose(rows, |row| row.name == *version), Vec::new()),
        // What a path had at a time is what was displaced first after it.
        Which::At(time) => {
            let since = |row: &Kept| i64::try_from(row.time_ms).is_ok_and(|ms| ms > time.as_millisecond());
            (exact_or_all(choose(rows, since), &below), Vec::new())
        }
    };
    if chosen.is_empty() && unwanted.is_empty() {
        return Err(Failure::failed("nothing of that is in this machine's history", "see `hearth history --all`"));
    }
    if let Some(to) = restore.to {
        return restore_to(home, chosen, &to).await;
    }
    let version = chosen.first().filter(|_| chosen.len() == 1).map(|row| row.name.clone());
    let outcome = put_all_back(home, chosen, unwanted).await?;
    if let Some((path, error)) = outcome.failed.first().filter(|_| outcome.restored + outcome.removed == 0) {
        let path = String::from_utf8_lossy(path).into_owned();
        return Err(Failure::failed(format!("{path} could not be restored: {error}"), "restore it with `--to FILE`"));
    }
    let failed = outcome.failed.iter().map(|(path, error)| {
        let mut out = json!({ "what": error });
        put_path(&mut out, "path", path);
        out
    });
    let failed: Vec<Value> = failed.collect();
    let mut out = json!({
        "version": version,
        "to": Value::Null,
        "restored": outcome.restored,
        "removed": outcome.removed,
        "problems": failed,
    });
    put_path(&mut out, "path", &below);
    Ok(out)
}

async fn restore_to(home: &Arc<Home>, chosen: Vec<Kept>, to: &Path) -> Answer {
    let [row] = <[Kept; 1]>::try_from(chosen).map_err(|_| {
        Failure::usage("only one file can be restored to another path", "leave out `--to`, or name the file")
    })?;
    let (disk, source, target) = (home.disk.clone(), row.clone(), to.to_owned());
    let copied = tokio::task::spawn_blocking(move || copy_out(&disk, &source, &target));
    copied.await.map_err(|error| Failure::bug(error.to_string()))?.map_err(|error| {
        Failure::failed(format!("{} cannot be written: {error}", to.display()), "choose another path after `--to`")
    })?;
    let mut out = json!({ "version": row.name, "to": to.display().to_string() });
    put_path(&mut out, "path", &row.path);
    Ok(out)
}

/// Of rows that are newest first, the oldest that fits for each path.
fn choose(rows: Vec<Kept>, fits: impl Fn(&Kept) -> bool) -> Vec<Kept> {
    let by_path: BTreeMap<RelPath, Kept> = rows.into_iter().filter(fits).map(|row| (row.path.clone(), row)).collect();
    by_path.into_values().collect()
}

/// The newest row of each path.
fn newest(mut rows: Vec<Kept>) -> Vec<Kept> {
    rows.reverse();
    choose(rows, |_| true)
}

/// Only the path that was asked for, if it was a file; else all below it.
fn exact_or_all(rows: Vec<Kept>, path: &[u8]) -> Vec<Kept> {
    match rows.iter().find(|row| row.path == path) {
        Some(exact) => vec![exact.clone()],
        None => rows,
    }
}

/// The names that a device has gone by, each with the lives of its index.
async fn births(home: &Arc<Home>, name: &str) -> Result<BTreeMap<String, BTreeSet<ReplicaId>>, Failure> {
    let device = account::device_named(&home.membership.account(), &home.membership.secrets(), name);
    let device = device.ok_or_else(|| no_such_device(name))?;
    let rows = home.driver.ask(|engine, _| engine.state.store.rows_of(Class::Replica)).await.map_err(stopping)?;
    let mut births: BTreeMap<String, BTreeSet<ReplicaId>> = BTreeMap::new();
    for row in rows.map_err(|error| index_failed(&error))? {
        if let Some((_, content)) = winner(&row.content)
            && let Held::Replica { replica, device: of, name, .. } = &content.value
            && *of == device
        {
            births.entry(name.clone()).or_default().insert(*replica);
        }
    }
    Ok(births)
}

/// Files below a path that only these replicas have ever changed, since a time.
fn made_by(
    engine: &RealEngine,
    below: &[u8],
    replicas: &BTreeSet<ReplicaId>,
    since_ms: u64,
) -> Result<Vec<RelPath>, StoreError> {
    let store = &engine.state.store;
    let mut made = Vec::new();
    let mut queue =
        if below.is_empty() { store.base_in(NodeId::ROOT)? } else { engine.at(below)?.into_iter().collect() };
    while let Some(base) = queue.pop() {
        if base.class == Class::Dir {
            queue.extend(store.base_in(base.id)?);
            continue;
        }
        let is_theirs = |row: &Row| {
            row.ctx.keys().all(|replica| replicas.contains(replica))
                && row.content.values().all(|content| content.wall_ms >= since_ms)
        };
        let mut theirs = base.state == BaseState::Live && !base.members.is_empty();
        for member in &base.members {
            theirs &= member.origin.is_none() && store.row(member.node)?.as_ref().is_some_and(is_theirs);
        }
        if theirs {
            made.push(observe::base_path(store, &base)?);
        }
    }
    Ok(made)
}

/// What became of what was to be put back.
#[derive(Default)]
struct Outcome {
    restored: usize,
    removed: usize,
    failed: Vec<(RelPath, String)>,
}

async fn put_all_back(home: &Arc<Home>, rows: Vec<Kept>, unwanted: Vec<RelPath>) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::default();
    let mut dirs = BTreeMap::new();
    for batch in rows.chunks(BATCH) {
        let batch = batch.to_vec();
        let done = home
            .driver
            .ask(move |engine, disk| put_back(engine, disk, batch, &mut dirs, &mut outcome).map(|()| (outcome, dirs)));
        (outcome, dirs) = done.await.map_err(stopping)?.map_err(|error| index_failed(&error))?;
    }
    for batch in unwanted.chunks(BATCH) {
        let batch = batch.to_vec();
        let done = home.driver.ask(move |engine, disk| put_away(engine, disk, batch, &mut outcome).map(|()| outcome));
        outcome = done.await.map_err(stopping)?.map_err(|error| index_failed(&error))?;
    }
    let asked = home.driver.ask(move |_, disk| {
        // From below, for what is done in a directory changes its time.
        for (path, attributes) in dirs.iter().rev() {
            if let Ok(Some(stat)) = disk.stat(path) {
                // What it was is a courtesy.
                let _ = disk.set_attributes(path, stat.handle, attributes);
            }
        }
    });
    asked.await.map_err(stopping)?;
    Ok(outcome)
}

/// Puts contents in their places. Gathers the directories that were made for that, with what they had once.
fn put_back(
    engine: &mut RealEngine,
    disk: &mut RealDisk,
    rows: Vec<Kept>,
    dirs: &mut BTreeMap<RelPath, Attributes>,
    outcome: &mut Outcome,
) -> Result<(), StoreError> {
    let mut staged = Vec::new();
    for row in rows {
        let base = engine.at(&row.path)?.filter(|base| base.state == BaseState::Live);
        let stat = disk.stat(&row.path).ok().flatten();
        if base.as_ref().is_some_and(|base| base.value == row.value && stat.as_ref() == Some(&base.stat)) {
            outcome.restored += 1;
            continue;
        }
        let name = new_name("restore");
        let done = match stat.as_ref().map(|stat| stat.kind) {
            Some(Kind::Dir | Kind::Other) => Err(io::Error::other("something else stands there")),
            Some(Kind::File | Kind::Link) | None => make_parents(engine, disk, &row.path, dirs)
                .and_then(|()| disk.stage(&name, &source_of(&row), &row.attributes).map(drop)),
        };
        match done {
            Ok(()) => staged.push((name, row, stat.is_some(), base)),
            Err(error) => outcome.failed.push((row.path, error.to_string())),
        }
    }
    let durable = disk.flush_staged();
    let displaced = staged.iter().filter(|(_, _, stands, _)| *stands);
    note_displaced(engine, displaced.map(|(name, row, _, base)| (name, &row.path, base.as_ref(), "replaced")))?;
    let mut stirred = Vec::new();
    for (name, row, stands, _) in staged {
        let done = match &durable {
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            Ok(()) if stands => disk.exchange(&name, &row.path).map(drop),
            Ok(()) => disk.unstage(&name, &row.path).map(drop),
        };
        match done {
            Ok(()) => {
                outcome.restored += 1;
                if stands {
                    keep_displaced(engine, disk, &name)?;
                }
                stirred.push(row.path);
            }
            Err(error) => {
                // A content that stays in staging costs room until the next start, nothing else.
                let _ = disk.discard(&name);
                engine.state.store.remove_kept(&name.0)?;
                outcome.failed.push((row.path, error.to_string()));
            }
        }
    }
    settle(engine, disk, stirred)
}

/// Moves files into history.
fn put_away(
    engine: &mut RealEngine,
    disk: &mut RealDisk,
    paths: Vec<RelPath>,
    outcome: &mut Outcome,
) -> Result<(), StoreError> {
    let mut named = Vec::new();
    for path in paths {
        let base = engine.at(&path)?;
        if base.as_ref().is_some_and(|base| disk.stat(&path).is_ok_and(|stat| stat.as_ref() == Some(&base.stat))) {
            named.push((new_name("undo"), path, base));
        }
    }
    note_displaced(engine, named.iter().map(|(name, path, base)| (name, path, base.as_ref(), "deleted")))?;
    let mut stirred = Vec::new();
    for (name, path, _) in named {
        match disk.take(&path, &name) {
            Ok(_) => {
                outcome.removed += 1;
                keep_displaced(engine, disk, &name)?;
                stirred.push(path);
            }
            Err(error) => {
                engine.state.store.remove_kept(&name.0)?;
                outcome.failed.push((path, error.to_string()));
            }
        }
    }
    settle(engine, disk, stirred)
}

/// Has the index know, lastingly, what is about to go into history.
fn note_displaced<'a>(
    engine: &mut RealEngine,
    entries: impl Iterator<Item = (&'a StageName, &'a RelPath, Option<&'a Base>, &'a str)>,
) -> Result<(), StoreError> {
    let device = engine.state.device_name.clone();
    let store = &mut engine.state.store;
    store.begin()?;
    for (name, path, base, cause) in entries {
        let value = base.map_or(Held::Dir, |base| base.value.clone());
        let attributes = base.map(|base| base.attributes.clone()).unwrap_or_default();
        let (name, path, cause) = (name.0.clone(), path.clone(), cause.to_owned());
        store.put_kept(&Kept { name, path, time_ms: wall_ms(), device: device.clone(), value, attributes, cause })?;
    }
    store.commit()?;
    store.sync()
}

/// Moves what came out into history. What it is may be news to the index.
fn keep_displaced(engine: &mut RealEngine, disk: &mut RealDisk, name: &StageName) -> Result<(), StoreError> {
    let is = disk.read_staged(name);
    let store = &mut engine.state.store;
    if let (Ok(value), Some(kept)) = (is, store.kept(&name.0)?)
        && kept.value != value
    {
        store.put_kept(&Kept { value, ..kept })?;
    }
    if let Err(error) = disk.keep(name) {
        // It is in staging and in the index, and gets into history at the next start.
        tracing::warn!(%error, "what a restored file displaced is not in history yet");
    }
    Ok(())
}

fn settle(engine: &mut RealEngine, disk: &mut RealDisk, stirred: Vec<RelPath>) -> Result<(), StoreError> {
    disk.flush(&[]).map_err(|error| StoreError::Failed(format!("making what was restored durable: {error}")))?;
    with_now(|now| engine.handle(Event::Stirred(stirred), now))
}

/// Makes the directories above a path that are gone. They get back what they once had when all is in them.
fn make_parents(
    engine: &RealEngine,
    disk: &mut RealDisk,
    path: &[u8],
    dirs: &mut BTreeMap<RelPath, Attributes>,
) -> io::Result<()> {
    let mut node = Some(NodeId::ROOT);
    let mut at = 0;
    while let Some(len) = path[at..].iter().position(|&byte| byte == b'/') {
        let name = Name::new(&path[at..at + len]).ok_or(ErrorKind::InvalidInput)?;
        let dir = &path[..at + len];
        let row = node.map(|parent| last_directory(engine, parent, &name)).transpose().map_err(io::Error::other)?;
        let row = row.flatten();
        if disk.stat(dir)?.is_none() {
            disk.mkdir(dir)?;
            let attributes = Attributes { mode: 0o755, ..Attributes::default() };
            let attributes = row.as_ref().map_or(attributes, view::attributes);
            dirs.insert(dir.to_vec(), attributes);
        }
        node = row.map(|row| row.id);
        at += len + 1;
    }
    Ok(())
}

/// The directory that was at a name last.
fn last_directory(engine: &RealEngine, parent: NodeId, name: &Name) -> Result<Option<Row>, StoreError> {
    let store = &engine.state.store;
    let mut last: Option<Row> = None;
    for id in store.placed_at(parent, name)? {
        let Some(row) = store.row(id)?.filter(|row| row.class == Class::Dir) else { continue };
        let stamp = |row: &Row| winner(&row.place).map(|(_, place)| place.stamp);
        if last.as_ref().is_none_or(|last| stamp(last) < stamp(&row)) {
            last = Some(row);
        }
    }
    Ok(last)
}

fn source_of(row: &Kept) -> Source {
    match &row.value {
        Held::Link { target } => Source::Link(target.clone()),
        Held::File { .. } | Held::Dir | Held::Setting { .. } | Held::Replica { .. } => {
            Source::Kept(StageName(row.name.clone()))
        }
    }
}

fn new_name(what: &str) -> StageName {
    with_now(|now| StageName(format!("{:x}-{what}-{:016x}", now.wall_ms, (now.random)())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(path: &str, name: &str, time_ms: u64) -> Kept {
        Kept {
            name: name.to_owned(),
            path: path.into(),
            time_ms,
            device: "laptop".to_owned(),
            value: Held::Dir,
            attributes: Attributes::default(),
            cause: "replaced".to_owned(),
        }
    }

    #[test]
    fn each_path_gets_what_was_displaced_first_after_a_time_or_last() {
        let rows = || vec![row("a", "3", 30), row("b", "b", 25), row("a", "2", 20), row("a", "1", 10)];
        let names = |rows: Vec<Kept>| rows.into_iter().map(|row| row.name).collect::<Vec<_>>();
        assert_eq!(names(choose(rows(), |row| row.time_ms > 15)), ["2", "b"]);
        assert_eq!(names(newest(rows())), ["3", "b"]);
        assert_eq!(names(exact_or_all(newest(rows()), b"a")), ["3"]);
        assert_eq!(names(exact_or_all(newest(rows()), b"")), ["3", "b"]);
    }
}
