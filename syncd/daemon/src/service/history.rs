//! History, restoring, conflicts: what was displaced here, and how it comes back.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use hearth_schemas::item::Value as Held;
use serde_json::{Value, json};
use syncd_core::disk::{Disk, RelPath, Source, StageName};
use syncd_core::engine::Event;
use syncd_core::store::{Kept, Store};

use super::{index_failed, stopping};
use crate::answer::{kept, put_path};
use crate::bus::{Answer, Failure, Restore, Which};
use crate::disk::RealDisk;
use crate::driver::{RealEngine, wall_ms, with_now};
use crate::home::Home;

/// Most rows of one answer.
const ROWS: usize = 10_000;

pub(super) async fn list(home: &Arc<Home>, below: Option<RelPath>) -> Answer {
    let rows = kept_at(home, below).await?;
    let disk = home.disk.clone();
    let told = tokio::task::spawn_blocking(move || {
        rows.iter().filter_map(|row| plain_hash(&disk, row).ok().map(|(size, hash)| kept(row, size, &hash))).collect()
    });
    told.await.map_err(|error| Failure::bug(error.to_string()))
}

pub(super) async fn restore(home: &Arc<Home>, below: RelPath, restore: Restore) -> Answer {
    let rows = kept_at(home, Some(below.clone())).await?;
    let chosen = choose(rows, &below, &restore.which);
    let Some(first) = chosen.first().cloned() else {
        return Err(Failure::failed("nothing of that is in this machine's history", "see `hearth history --all`"));
    };
    if let Some(to) = restore.to {
        if chosen.len() > 1 {
            return Err(Failure::usage("only one file can be restored to another path", "leave out `--to`"));
        }
        let disk = home.disk.clone();
        let (row, target) = (first.clone(), to.clone());
        let copied = tokio::task::spawn_blocking(move || copy_out(&disk, &row, &target));
        copied.await.map_err(|error| Failure::bug(error.to_string()))?.map_err(|error| {
            Failure::failed(format!("{} cannot be written: {error}", to.display()), "choose another path after `--to`")
        })?;
        let mut out = json!({ "version": first.name, "to": to.display().to_string() });
        put_path(&mut out, "path", &first.path);
        return Ok(out);
    }
    let done = home.driver.ask(move |engine, disk| put_back_all(engine, disk, &chosen)).await.map_err(stopping)?;
    done.map_err(|error| Failure::failed(format!("could not be restored: {error}"), "restore it with `--to FILE`"))?;
    let mut out = json!({ "version": first.name, "to": Value::Null });
    put_path(&mut out, "path", &below);
    Ok(out)
}

pub(super) async fn conflicts(home: &Home) -> Answer {
    let siblings = home.driver.ask(|engine, _| engine.siblings()).await.map_err(stopping)?;
    let siblings = siblings.map_err(|error| index_failed(&error))?;
    let told = siblings.into_iter().map(|sibling| {
        let mut out = json!({ "device": sibling.device });
        put_path(&mut out, "path", &sibling.path);
        put_path(&mut out, "sibling", &sibling.sibling);
        out
    });
    Ok(told.collect())
}

async fn kept_at(home: &Home, below: Option<RelPath>) -> Result<Vec<Kept>, Failure> {
    let asked = home.driver.ask(move |engine, _| engine.state.store.kept_at(below.as_deref(), ROWS));
    asked.await.map_err(stopping)?.map_err(|error| index_failed(&error))
}

/// What to bring back, of rows newest first: one content for each path.
fn choose(rows: Vec<Kept>, below: &[u8], which: &Which) -> Vec<Kept> {
    let mut by_path: BTreeMap<RelPath, Kept> = BTreeMap::new();
    for row in rows {
        let fits = match which {
            Which::Newest => !by_path.contains_key(&row.path),
            Which::Version(version) => row.name == *version,
            // What a path had at a time is what was displaced first after it.
            Which::At(time) => i64::try_from(row.time_ms).is_ok_and(|ms| ms > time.as_millisecond()),
        };
        if fits {
            by_path.insert(row.path.clone(), row);
        }
    }
    match by_path.remove(below) {
        Some(exact) => vec![exact],
        None => by_path.into_values().collect(),
    }
}

/// Puts contents in their places as edits; what stands there goes into history first.
fn put_back_all(engine: &mut RealEngine, disk: &mut RealDisk, rows: &[Kept]) -> io::Result<()> {
    let index = |error: syncd_core::store::StoreError| io::Error::other(error.to_string());
    engine.state.store.begin().map_err(index)?;
    let done = rows.iter().try_for_each(|row| put_back(engine, disk, row));
    if done.is_ok() {
        engine.state.store.commit().map_err(index)?;
    } else {
        engine.state.store.rollback();
    }
    let paths = rows.iter().map(|row| row.path.clone()).collect();
    with_now(|now| engine.handle(Event::Stirred(paths), now)).map_err(index)?;
    done
}

fn put_back(engine: &mut RealEngine, disk: &mut RealDisk, row: &Kept) -> io::Result<()> {
    make_parents(disk, &row.path)?;
    let name = with_now(|now| StageName(format!("{:x}-restore-{:08x}", now.wall_ms, (now.random)() as u32)));
    let source = match &row.value {
        Held::Link { target } => Source::Link(target.clone()),
        Held::File { .. } | Held::Dir | Held::Setting { .. } | Held::Replica { .. } => {
            Source::Kept(StageName(row.name.clone()))
        }
    };
    disk.stage(&name, &source, &row.attributes)?;
    if disk.stat(&row.path)?.is_none() {
        disk.unstage(&name, &row.path)?;
        return disk.flush(&[]);
    }
    let (_, displaced) = disk.exchange(&name, &row.path)?;
    disk.flush(&[])?;
    let before = engine.at(&row.path).ok().flatten();
    disk.keep(&name)?;
    let (value, attributes) = match before {
        Some(base) => (base.value, base.attributes),
        None => (row.value.clone(), row.attributes.clone()),
    };
    tracing::debug!(size = displaced.size, "what stood at a restored path went into history");
    let entry = Kept {
        name: name.0,
        path: row.path.clone(),
        time_ms: wall_ms(),
        device: engine.state.device_name.clone(),
        value,
        attributes,
        cause: "replaced".into(),
    };
    engine.state.store.put_kept(&entry).map_err(|error| io::Error::other(error.to_string()))
}

fn make_parents(disk: &mut RealDisk, path: &[u8]) -> io::Result<()> {
    for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
        if disk.stat(&path[..at])?.is_none() {
            disk.mkdir(&path[..at])?;
        }
    }
    Ok(())
}

fn copy_out(disk: &RealDisk, row: &Kept, to: &std::path::Path) -> io::Result<()> {
    if let Held::Link { target } = &row.value {
        return std::os::unix::fs::symlink(OsStr::from_bytes(target), to);
    }
    let mut from = disk.open_source(&Source::Kept(StageName(row.name.clone())))?;
    let mut out = std::fs::OpenOptions::new().write(true).create_new(true).open(to)?;
    io::copy(&mut from, &mut out)?;
    out.sync_all()
}

/// Length and plain BLAKE3 of a displaced content.
fn plain_hash(disk: &RealDisk, row: &Kept) -> io::Result<(u64, String)> {
    if let Held::Link { target } = &row.value {
        return Ok((target.len() as u64, blake3::hash(target).to_hex().to_string()));
    }
    let mut file = disk.open_source(&Source::Kept(StageName(row.name.clone())))?;
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; 128 << 10];
    let mut size = 0;
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            return Ok((size, hasher.finalize().to_hex().to_string()));
        }
        hasher.update(&block[..read]);
        size += read as u64;
    }
}
