//! `hearth why`: which rule decides about a path.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use crate::command::{Context, absolute};
use crate::error::Failure;
use crate::render::{Table, item, text};

/// Say whether a path is synced, and which rule decided
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// The path; it need not exist
    path: PathBuf,
}

impl Why {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let path = absolute(&self.path)?;
        let result = context.bus().await?.call("Why", &(path.as_os_str().as_bytes(),)).await?;
        context.show(&result, |result| words(result, context))
    }
}

fn words(result: &Value, context: &Context) -> String {
    let synced = match result["travels"].as_bool() {
        Some(true) => context.style.good("is synced"),
        Some(false) => context.style.careful("stays on this machine"),
        None => "is decided by its class".to_owned(),
    };
    let mut table = Table::default();
    for (title, field) in [
        ("class", "class"),
        ("rule", "rule"),
        ("when", "when"),
        ("marked by", "marker"),
        ("from", "source"),
        ("because", "reason"),
        ("without", "without"),
    ] {
        let value = if field == "marker" { item(result, field) } else { text(result, field) };
        if !value.is_empty() {
            table.row([title.to_owned(), value]);
        }
    }
    format!("{} {synced}.\n\n{}", item(result, "path"), table.lines("  ", |_, line| line.to_owned()))
}
