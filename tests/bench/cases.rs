//! What is measured, each with every tool on ground of its own.

pub(crate) mod edits;
pub(crate) mod first;
pub(crate) mod many;
pub(crate) mod stream;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use hearth_tests::tree;

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

/// An error unless the trees are alike in what every tool carries.
fn assert_alike(tool: &dyn Tool) -> Result<()> {
    tree::assert_equal(&tool.tree(On::Laptop), &tool.tree(On::Desktop), &[".stfolder"])
}
