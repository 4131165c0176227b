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
/// Without a version or a time, the newest that `hearth history` lists; of a folder, that of each file in it. Into its
/// own place this is an edit, which travels; what it displaces is kept in the history in turn. With `--from`, what came
/// from another machine is undone: what it replaced or deleted comes back, and what it made goes.
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
    /// Undo what came from this machine
    #[arg(long, value_name = "MACHINE", requires = "since", conflicts_with_all = ["version", "at", "to"])]
    from: Option<String>,
    /// Since when: a time as after `--at`
    #[arg(long, value_name = "TIME", value_parser = when::parse, requires = "from")]
    since: Option<Timestamp>,
    /// Write it to this file and leave the place alone
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

impl Restore {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let path = absolute(&self.path)?;
        let to = self.to.as_deref().map(absolute).transpose()?.unwrap_or_default();
        let at = self.at.or(self.since).map(|at| at.to_string()).unwrap_or_default();
        let from = self.from.unwrap_or_default();
        let arguments = (path.as_os_str().as_bytes(), self.version, at, from, to.as_os_str().as_bytes());
        let result = context.bus().await?.call("Restore", &arguments).await?;
        context.show(&result, |_| {
            if !to.as_os_str().is_empty() {
                return format!("Restored {} to {}.\n", render::path(&path), render::path(&to));
            }
            let count = |what: &str| result[what].as_u64().unwrap_or(0);
            let mut out = match (count("restored"), count("removed")) {
                (0 | 1, 0) => format!("Restored {}.\n", render::path(&path)),
                (restored, 0) => format!("Restored {restored} files of {}.\n", render::path(&path)),
                (restored, removed) => {
                    format!("Restored {restored} files of {}, removed {removed}.\n", render::path(&path))
                }
            };
            for problem in result["problems"].as_array().into_iter().flatten() {
                let text = |key: &str| problem[key].as_str().unwrap_or_default().to_owned();
                out.push_str(&format!("{}: {}\n", text("path"), text("what")));
            }
            out
        })
    }
}
