//! `hearth conflicts`: files that were edited on two machines.

use clap::Args;
use serde_json::Value;

use crate::command::Context;
use crate::error::Failure;
use crate::render::{Table, item, list, text};

/// List the files that were edited on two machines; both contents are kept
#[derive(Debug, Args)]
pub(crate) struct Conflicts {}

impl Conflicts {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let result = context.bus().await?.call("Conflicts", &()).await?;
        context.show(&result, |result| words(result, context))
    }
}

fn words(result: &Value, context: &Context) -> String {
    let conflicts = list(result, "conflicts");
    if conflicts.is_empty() {
        return "No conflicts.\n".to_owned();
    }
    let mut table = Table::headed(&["PATH", "OTHER CONTENT", "FROM"]);
    for conflict in conflicts {
        table.row([item(conflict, "path"), item(conflict, "sibling"), text(conflict, "device")]);
    }
    let hint = "Keep what you want under the first name and delete the other file; that settles it everywhere.\n";
    format!("{}\n{hint}", table.with_heading("", context.style))
}
