//! Lets go of what has been in the history for long: by age, and oldest first where it takes too much of the disk. And has
//! a new index know what an earlier one had there.
//!
//! Looks once an hour, in portions, on the engine's thread, so that nothing is taken away that a plan is about to copy.
//! Not when room runs out: a sync never costs history.

use std::time::Duration;

use hearth_schemas::item::Attributes;
use syncd_core::store::{Kept, Store, StoreError};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::config::History;
use crate::disk::RealDisk;
use crate::driver::{Driver, RealEngine, wall_ms};

const EVERY: Duration = Duration::from_secs(3600);
/// The first look waits until the start is over.
const FIRST: Duration = Duration::from_secs(60);
/// Rows looked at in one go.
const PORTION: usize = 500;
const DAY_MS: u64 = 86_400_000;

/// How long, and how much.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Limits {
    /// What was displaced before this goes, in milliseconds since 1970.
    since_ms: u64,
    /// What is beyond so many bytes, counted from the newest, goes.
    bytes: u64,
}

/// Where a look has got to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Seen {
    /// Rows before this one are left.
    before: Option<u64>,
    bytes: u64,
    gone: u64,
}

/// Keeps the history within its limits for as long as the engine runs.
pub async fn keep_within(history: History, driver: Driver) {
    let mut ticks = interval_at(Instant::now() + FIRST, EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut seen = Some(Seen::default());
        let mut limits = None;
        while let Some(from) = seen {
            let done = driver.ask(move |engine, disk| {
                let limits = match limits {
                    Some(limits) => limits,
                    None => limits_of(history, disk)?,
                };
                prune(engine, disk, limits, from).map(|seen| (limits, seen))
            });
            match done.await {
                Err(_) => return,
                Ok(Ok((same, next))) => (limits, seen) = (Some(same), next),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the history could not be pruned");
                    seen = None;
                }
            }
        }
    }
}

/// Lists what lies in the history and the index does not know: an earlier one did, which was lost or set back. Where it was
/// is not known any more.
pub async fn list_again(disk: RealDisk, driver: Driver) {
    let names = {
        let disk = disk.clone();
        tokio::task::spawn_blocking(move || disk.history_names()).await
    };
    let Ok(Ok(mut names)) = names else { return };
    let count = names.len() as u64;
    let known = driver.ask(move |engine, _| engine.state.store.kept_names_unless(count)).await;
    let Ok(Ok(Some(known))) = known else { return };
    names.retain(|name| !known.contains(name));
    let mut found = 0;
    for name in names {
        let (of, disk) = (name.clone(), disk.clone());
        let Ok(Ok((value, stat))) = tokio::task::spawn_blocking(move || disk.read_kept(&of)).await else { continue };
        let listed = driver.ask(move |engine, _| {
            if engine.state.store.kept(&name)?.is_some() {
                return Ok(false);
            }
            let row = Kept {
                path: name.as_bytes().to_vec(),
                name,
                // A rename, as the one that brought it here, sets this time.
                time_ms: u64::try_from(stat.ctime.secs).unwrap_or(0).saturating_mul(1000),
                device: engine.state.device_name.clone(),
                value,
                attributes: Attributes { mode: stat.mode, mtime: stat.mtime, ..Attributes::default() },
                cause: "recovered".to_owned(),
            };
            engine.state.store.put_kept(&row).map(|()| true)
        });
        found += u64::from(matches!(listed.await, Ok(Ok(true))));
    }
    if found > 0 {
        tracing::info!(found, "what an earlier index had in the history is listed again");
    }
}

fn limits_of(history: History, disk: &RealDisk) -> Result<Limits, StoreError> {
    let total = disk.history_room().map_err(|error| StoreError::Failed(error.to_string()))?;
    let since_ms = wall_ms().saturating_sub(history.days.saturating_mul(DAY_MS));
    Ok(Limits { since_ms, bytes: total / 100 * history.percent.min(100) })
}

/// Looks at a portion of the history, from the newest on. Gives where to go on; `None` at the end.
fn prune(engine: &mut RealEngine, disk: &RealDisk, limits: Limits, mut seen: Seen) -> Result<Option<Seen>, StoreError> {
    let store = &mut engine.state.store;
    let rows = store.kept_before(seen.before, PORTION)?;
    let Some((last, _)) = rows.last() else {
        if seen.gone > 0 {
            tracing::info!(count = seen.gone, "old contents went from the history");
        }
        return Ok(None);
    };
    seen.before = Some(*last);
    store.begin()?;
    for (_, row) in rows {
        seen.bytes = seen.bytes.saturating_add(size_of(&row));
        if row.time_ms >= limits.since_ms && seen.bytes <= limits.bytes {
            continue;
        }
        // The file first: a row without one does no harm, and a file without a row would stay for ever.
        match disk.forget_kept(&row.name) {
            Ok(()) => {
                store.remove_kept(&row.name)?;
                seen.gone += 1;
            }
            Err(error) => tracing::debug!(%error, "{} stays in the history", row.name),
        }
    }
    store.commit()?;
    Ok(Some(seen))
}

fn size_of(row: &Kept) -> u64 {
    syncd_core::row::file_size(&row.value)
}

#[cfg(test)]
mod tests {
    use hearth_schemas::ids::{ContentHash, DeviceId};
    use hearth_schemas::item::Value;
    use syncd_core::disk::{Disk, Source, StageName};
    use syncd_core::engine::Engine;
    use syncd_core::select::Everything;
    use syncd_core::state::State;

    use super::*;
    use crate::driver::with_now;
    use crate::store::SqliteStore;

    #[test]
    fn what_is_old_or_too_much_goes_and_the_newest_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let [home, data, state] = ["home", "data", "state"].map(|name| dir.path().join(name));
        for path in [&home, &data, &state] {
            std::fs::create_dir(path).expect("made");
        }
        let mut disk = RealDisk::open(&home, &data, &state, [1; 32]).expect("opened");
        let (store, _) = SqliteStore::open(&state.join("index.db")).expect("opened");
        let opened = with_now(|now| State::open(store, DeviceId([1; 32]), "laptop", true, now)).expect("opened");
        let mut engine = Engine::new(opened, Box::new(Everything));
        for (name, time_ms) in [("1-old", 10), ("2-beyond", 30), ("3-within", 40), ("4-newest", 50)] {
            let stage = StageName(name.to_owned());
            let content = Source::Bytes(vec![0; 100]);
            disk.stage(&stage, &content, &Attributes { mode: 0o600, ..Attributes::default() }).expect("staged");
            disk.keep(&stage).expect("kept");
            let row = Kept {
                name: name.to_owned(),
                path: name.into(),
                time_ms,
                device: "desktop".to_owned(),
                value: Value::File { hash: ContentHash([2; 32]), size: 100 },
                attributes: Attributes::default(),
                cause: "deleted".to_owned(),
            };
            engine.state.store.put_kept(&row).expect("written");
        }
        let mut look = |limits| {
            let mut seen = Some(Seen::default());
            while let Some(from) = seen {
                seen = prune(&mut engine, &disk, limits, from).expect("pruned");
            }
            let rows = engine.state.store.kept_at(None, 10).expect("read");
            let names: Vec<String> = rows.into_iter().map(|row| row.name).collect();
            let files = std::fs::read_dir(data.join("history")).expect("listed");
            let name_of = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
            let mut files: Vec<String> = files.map(|f| name_of(f).to_string_lossy().into_owned()).collect();
            files.sort_by(|a, b| b.cmp(a));
            assert_eq!(names, files);
            names
        };
        assert_eq!(look(Limits { since_ms: 0, bytes: u64::MAX }), ["4-newest", "3-within", "2-beyond", "1-old"]);
        assert_eq!(look(Limits { since_ms: 20, bytes: u64::MAX }), ["4-newest", "3-within", "2-beyond"]);
        assert_eq!(look(Limits { since_ms: 20, bytes: 250 }), ["4-newest", "3-within"]);
    }
}
