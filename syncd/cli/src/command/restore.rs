//! `hearth restore`: an earlier content comes back.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use crate::command::{Context, absolute};
use crate::error::Failure;
use crate::render;
use crate::when;

/// Bring back an earlier content of a path
///
/// Without a version or a time, the newest that `hearth history` lists. Into its own place this is an edit, which
/// travels; what it displaces is kept in the history in turn.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The file or folder; it need not exist any more
    path: PathBuf,
    /// Which content, as `hearth history` names it
    #[arg(long, conflicts_with = "at", default_value = "", hide_default_value = true)]
    version: String,
    /// What the path held at that time: 2026-01-31T18:00:00Z, "2026-01-31 18:00" or "2h ago"
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    at: Option<Timestamp>,
    /// Write it to this file and leave the place alone
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

impl Restore {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let path = absolute(&self.path)?;
        let to = self.to.as_deref().map(absolute).transpose()?.unwrap_or_default();
        let at = self.at.map(|at| at.to_string()).unwrap_or_default();
        let arguments = (path.as_os_str().as_bytes(), self.version, at, to.as_os_str().as_bytes());
        let result = context.bus().await?.call("Restore", &arguments).await?;
        context.show(&result, |_| {
            if to.as_os_str().is_empty() {
                format!("Restored {}.\n", render::path(&path))
            } else {
                format!("Restored {} to {}.\n", render::path(&path), render::path(&to))
            }
        })
    }
}
