//! x
use anyhow::Result;
use crate::image::FileSystem;
pub(crate) fn play(_system: FileSystem) -> Result<()> { Ok(()) }
