//! What is measured, each with every tool on ground of its own.

pub(crate) mod connect;
pub(crate) mod edits;
pub(crate) mod fidelity;
pub(crate) mod first;
pub(crate) mod line;
pub(crate) mod many;
pub(crate) mod races;
pub(crate) mod relay;
pub(crate) mod stalls;
pub(crate) mod stream;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hearth_tests::tree::{self, Entry};

use crate::tools::{On, Tool};

/// How long anything may take, with the slowest of them.
const LIMIT: Duration = Duration::from_secs(1800);

/// What one change took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// From the change until it was seen on the desktop, in seconds.
    pub(crate) wall: f64,
    /// CPU time of both sides until they were at rest, in seconds.
    pub(crate) cpu: f64,
    /// Through the desktop's network interface, in kilobytes.
    pub(crate) wire: f64,
}

/// Makes a change on the laptop and waits until it is seen on the desktop; `seen` returns when that was. What must be told
/// has run by then.
fn change(
    tool: &mut dyn Tool,
    act: impl FnOnce(&Path) -> Result<()>,
    seen: impl FnOnce(&mut dyn Tool) -> Result<Instant>,
) -> Result<Cost> {
    let (cpu, wire) = (tool.cpu()?, tool.ground().wire()?);
    let begun = Instant::now();
    act(&tool.tree(On::Laptop))?;
    if !tool.is_live() {
        tool.settle()?;
    }
    let wall = seen(tool)?.duration_since(begun).as_secs_f64();
    if tool.is_live() {
        tool.settle()?;
    }
    Ok(Cost { wall, cpu: tool.cpu()? - cpu, wire: (tool.ground().wire()? - wire) as f64 / 1000.0 })
}

/// An error unless the trees are alike in what every tool carries: names, kinds and contents.
fn assert_alike(tool: &dyn Tool) -> Result<()> {
    let read = |on| -> Result<BTreeMap<PathBuf, String>> {
        let entries = tree::read(&tool.tree(on), &[".stfolder"])?.into_iter();
        Ok(entries.filter_map(|(path, entry)| Some((path, carried(entry)?))).collect())
    };
    let (laptop, desktop) = (read(On::Laptop)?, read(On::Desktop)?);
    let differs = laptop.iter().find(|(path, entry)| desktop.get(*path) != Some(entry));
    ensure!(differs.is_none() && laptop.len() == desktop.len(), "the trees differ: {differs:?}");
    Ok(())
}

fn carried(entry: Entry) -> Option<String> {
    Some(match entry {
        Entry::Folder { .. } => "folder".to_owned(),
        Entry::File { hash, .. } => hash.to_hex().to_string(),
        Entry::Link { target, .. } => target.to_string_lossy().into_owned(),
        Entry::Special => return None,
    })
}
