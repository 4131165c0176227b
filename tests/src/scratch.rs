//! A directory of one test, demo or benchmark, gone when it ends.
//!
//! Everything that machines and relays write lies in here. With `HEARTH_KEEP` set it stays, and its place is in the
//! error that made somebody look.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A temporary directory with a short name: socket paths below it must stay under 108 bytes.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    guard: Option<TempDir>,
}

impl Scratch {
    /// Makes the directory, under `TMPDIR` or `/tmp`.
    pub fn new() -> Result<Self> {
        let guard = tempfile::Builder::new().prefix("hearth-").tempdir().context("making a temporary directory")?;
        // Symlinks in TMPDIR would make the homes look as if they led outside themselves.
        let path = guard.path().canonicalize().context("resolving the temporary directory")?;
        if std::env::var_os("HEARTH_KEEP").is_some() {
            let _kept = guard.keep();
            return Ok(Self { path, guard: None });
        }
        Ok(Self { path, guard: Some(guard) })
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, and says if that cannot be done.
    pub fn remove(mut self) -> Result<()> {
        match self.guard.take() {
            Some(guard) => guard.close().context("removing the temporary directory"),
            None => Ok(()),
        }
    }
}
