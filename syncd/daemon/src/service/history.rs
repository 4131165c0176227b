//! History and conflicts: what was displaced here.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use hearth_schemas::item::Value as Held;
use serde_json::json;
use syncd_core::disk::{RelPath, Source, StageName};
use syncd_core::store::{Kept, Store};

use super::{index_failed, stopping};
use crate::answer::{kept, put_path};
use crate::bus::{Answer, Failure};
use crate::disk::RealDisk;
use crate::home::Home;

/// Most rows of one answer.
const ROWS: usize = 10_000;

pub(super) async fn list(home: &Arc<Home>, below: Option<RelPath>) -> Answer {
    let rows = kept_at(home, below, ROWS).await?;
    let disk = home.disk.clone();
    let told = tokio::task::spawn_blocking(move || {
        rows.iter().filter_map(|row| plain_hash(&disk, row).ok().map(|(size, hash)| kept(row, size, &hash))).collect()
    });
    told.await.map_err(|error| Failure::bug(error.to_string()))
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

/// Rows of the history of a path and all below it, newest first.
pub(super) async fn kept_at(home: &Home, below: Option<RelPath>, limit: usize) -> Result<Vec<Kept>, Failure> {
    let asked = home.driver.ask(move |engine, _| engine.state.store.kept_at(below.as_deref(), limit));
    asked.await.map_err(stopping)?.map_err(|error| index_failed(&error))
}

pub(super) fn copy_out(disk: &RealDisk, row: &Kept, to: &std::path::Path) -> io::Result<()> {
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
