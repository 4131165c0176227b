//! `hearth history`: earlier contents that can be brought back.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use crate::command::{Context, absolute};
use crate::error::Failure;
use crate::render::{Table, ago, item, list, size, text};

/// List the earlier contents of a path, newest first
#[derive(Debug, Args)]
pub(crate) struct History {
    /// A file or a folder; it need not exist any more
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    path: Option<PathBuf>,
    /// Of everything
    #[arg(long)]
    all: bool,
}

impl History {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let path = self.path.as_deref().map(absolute).transpose()?.unwrap_or_default();
        let result = context.bus().await?.call("History", &(path.as_os_str().as_bytes(),)).await?;
        context.show(&result, |result| words(result, context))
    }
}

fn words(result: &Value, context: &Context) -> String {
    let versions = list(result, "versions");
    if versions.is_empty() {
        return "Nothing here was overwritten or deleted by a sync.\n".to_owned();
    }
    let mut table = Table::headed(&["VERSION", "WHEN", "SIZE", "MACHINE", "CAUSE", "PATH"]);
    for version in versions {
        table.row([
            text(version, "version"),
            ago(version, "time", context.now).unwrap_or_default(),
            version["size"].as_u64().map(size).unwrap_or_default(),
            text(version, "device"),
            text(version, "cause"),
            item(version, "path"),
        ]);
    }
    table.with_heading("", context.style)
}
