//! `hearth rules`: the person's own rules about what is synced.

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::command::Context;
use crate::error::Failure;
use crate::render::{self, Table, item, list, plural, text};

/// List, add or remove your own rules about what is synced
#[derive(Debug, Subcommand)]
pub(crate) enum Rules {
    /// List your rules
    List(List),
    /// Add a rule; it comes before the shipped ones, and deletes nothing anywhere
    Add(Add),
    /// Remove a rule of yours
    Remove(Remove),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// List instead what is not synced until you decide
    #[arg(long)]
    asking: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Relative to the home: `/` in front anchors it there, `**` crosses folders, `/` at the end means all below
    pattern: String,
    /// shared, never, ignore, device, ask or another class
    class: String,
    /// Only on this machine [default: on all of them]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    on: String,
    /// Why, for your later self
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The pattern as `hearth rules list` shows it
    pattern: String,
    /// The machine that the rule is for [default: the rule for all of them]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    on: String,
}

impl Rules {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let bus = context.bus().await?;
        match self {
            Self::List(List { asking }) => {
                let result = bus.call("RulesList", &(asking,)).await?;
                context.show(&result, |result| if asking { waiting(result, context) } else { table(result, context) })
            }
            Self::Add(Add { pattern, class, on, note }) => {
                let result = bus.call("RulesAdd", &(&pattern, &class, on, note)).await?;
                context.show(&result, |_| {
                    format!("Added the rule {}: {}.\n", render::shown(&pattern), render::shown(&class))
                })
            }
            Self::Remove(Remove { pattern, on }) => {
                let result = bus.call("RulesRemove", &(&pattern, on)).await?;
                context.show(&result, |_| format!("Removed the rule for {}.\n", render::shown(&pattern)))
            }
        }
    }
}

fn table(result: &Value, context: &Context) -> String {
    let rules = list(result, "rules");
    if rules.is_empty() {
        return "No rules of your own; the shipped ones decide. `hearth why PATH` names the one for a path.\n"
            .to_owned();
    }
    let mut table = Table::headed(&["PATTERN", "CLASS", "ON", "NOTE"]);
    for rule in rules {
        let on = if rule["on"].is_null() { "all".to_owned() } else { text(rule, "on") };
        table.row([text(rule, "pattern"), text(rule, "class"), on, text(rule, "note")]);
    }
    table.with_heading("", context.style)
}

fn waiting(result: &Value, context: &Context) -> String {
    let paths = list(result, "paths");
    if paths.is_empty() {
        return "Nothing waits for a decision.\n".to_owned();
    }
    let mut table = Table::headed(&["PATH", "SIZE", "REASON"]);
    for path in paths {
        let size = path["bytes"].as_u64().map_or_else(String::new, render::size);
        table.row([item(path, "path"), size, text(path, "reason")]);
    }
    format!(
        "{}\n{} not synced until you decide: `hearth rules add PATH shared`, or `never`.\n",
        table.with_heading("", context.style),
        match paths.len() as u64 {
            1 => "It is".to_owned(),
            count => format!("{} are", plural(count, "path")),
        }
    )
}
