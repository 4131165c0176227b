//! `hearth held`: removals and replacements that wait for a person.

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::command::Context;
use crate::error::Failure;
use crate::render::{Table, ago, count, list, plural, size, text};

/// List what is held because it removes or replaces a great deal at once
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Held {
    #[command(subcommand)]
    verdict: Option<Verdict>,
}

#[derive(Debug, Subcommand)]
enum Verdict {
    /// It was meant: let it happen on every machine
    Release(Which),
    /// It was not meant: bring everything back
    Undo(Which),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The id that `hearth held` shows
    id: Option<String>,
    /// Everything that is held
    #[arg(long)]
    all: bool,
}

impl Held {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let bus = context.bus().await?;
        let (method, Which { id, .. }, done) = match self.verdict {
            None => {
                let result = bus.call("Held", &()).await?;
                return context.show(&result, |result| table(result, context));
            }
            Some(Verdict::Release(which)) => ("HeldRelease", which, "Released"),
            Some(Verdict::Undo(which)) => ("HeldUndo", which, "Taken back"),
        };
        let result = bus.call(method, &(id.unwrap_or_default(),)).await?;
        context.show(&result, |result| {
            let ids: Vec<String> = list(result, "ids").iter().filter_map(Value::as_str).map(str::to_owned).collect();
            format!("{done}: {}.\n", ids.join(", "))
        })
    }
}

fn table(result: &Value, context: &Context) -> String {
    let held = list(result, "held");
    if held.is_empty() {
        return "Nothing is held.\n".to_owned();
    }
    let mut table = Table::headed(&["ID", "ON", "REMOVES", "REPLACES", "SINCE"]);
    for hold in held {
        let count = |field: &str| count(hold, field);
        let removes = match count("removes") {
            0 => String::new(),
            items => format!("{} ({})", plural(items, "item"), size(count("bytes"))),
        };
        let replaces = match count("replaces") {
            0 => String::new(),
            files => plural(files, "file"),
        };
        let since = ago(hold, "since", context.now).unwrap_or_default();
        table.row([text(hold, "id"), text(hold, "device"), removes, replaces, since]);
    }
    let hint = "If it was meant: `hearth held release ID`. If not: `hearth held undo ID` brings everything back.\n";
    format!("{}\n{hint}", table.with_heading("", context.style))
}
