//! `hearth settings`: desktop settings, and who decided about them.

use clap::Subcommand;
use serde_json::Value;

use crate::command::Context;
use crate::error::Failure;
use crate::render::{Table, ago, list, shown, text};

/// List and explain desktop settings
#[derive(Debug, Subcommand)]
pub(crate) enum Settings {
    /// List the settings that are synced, or all whose key matches
    List {
        /// Part of a key, or a pattern with `*`
        #[arg(default_value = "", hide_default_value = true)]
        pattern: String,
    },
    /// Show a setting's value, and where it is set
    Get {
        /// As in `org.gnome.desktop.interface:color-scheme` or `/org/gnome/desktop/interface/color-scheme`
        key: String,
    },
    /// Say how a setting is treated, and which line decided
    Explain {
        /// As for `get`
        key: String,
    },
    /// List a setting's earlier values, newest first
    History {
        /// As for `get`
        key: String,
    },
}

impl Settings {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let bus = context.bus().await?;
        match self {
            Self::List { pattern } => {
                let result = bus.call("SettingsList", &(pattern,)).await?;
                context.show(&result, |result| table(result, context))
            }
            Self::Get { key } => {
                let result = bus.call("SettingsGet", &(key,)).await?;
                context.show(&result, |result| details(result, &["value", "class", "by"]))
            }
            Self::Explain { key } => {
                let result = bus.call("SettingsExplain", &(key,)).await?;
                let fields = ["class", "gate", "flags", "by", "line", "source", "reason", "value"];
                context.show(&result, |result| details(result, &fields))
            }
            Self::History { key } => {
                let result = bus.call("SettingsHistory", &(key,)).await?;
                context.show(&result, |result| history(result, context))
            }
        }
    }
}

fn table(result: &Value, context: &Context) -> String {
    let settings = list(result, "settings");
    if settings.is_empty() {
        return "No setting matches.\n".to_owned();
    }
    let mut table = Table::headed(&["KEY", "VALUE", "CLASS"]);
    for setting in settings {
        table.row([text(setting, "key"), value(setting, "value"), text(setting, "class")]);
    }
    table.with_heading("", context.style)
}

fn details(result: &Value, fields: &[&str]) -> String {
    let mut table = Table::default();
    for field in fields {
        let value = if *field == "value" { value(result, field) } else { plain(&result[field]) };
        if !value.is_empty() {
            table.row([(*field).to_owned(), value]);
        }
    }
    let mut words = format!("{}\n\n{}", text(result, "key"), table.lines("  ", |_, line| line.to_owned()));
    let layers = layers(&result["layers"]);
    if !layers.is_empty() {
        words += if result["layers"].is_array() { "\n  layers, strongest first\n" } else { "\n  layers\n" };
        words += &layers;
    }
    words
}

/// Each layer that has a value.
fn layers(layers: &Value) -> String {
    let mut table = Table::default();
    for layer in list(layers, "") {
        table.row([text(layer, "layer"), value(layer, "value")]);
    }
    for (name, layer) in layers.as_object().into_iter().flatten() {
        let value = if layer.is_null() { "not set".to_owned() } else { plain(layer) };
        table.row([shown(name), value]);
    }
    table.lines("    ", |_, line| line.to_owned())
}

fn history(result: &Value, context: &Context) -> String {
    let changes = list(result, "changes");
    if changes.is_empty() {
        return "No change of this setting is known.\n".to_owned();
    }
    let mut table = Table::headed(&["WHEN", "MACHINE", "CAUSE", "FROM", "TO"]);
    for change in changes {
        table.row([
            ago(change, "time", context.now).unwrap_or_default(),
            text(change, "device"),
            text(change, "cause"),
            value(change, "old"),
            value(change, "new"),
        ]);
    }
    table.with_heading("", context.style)
}

fn value(of: &Value, field: &str) -> String {
    if of[field].is_null() { "not set".to_owned() } else { text(of, field) }
}

/// A word, or words in a row.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => shown(text),
        Value::Array(words) => words.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => shown(&other.to_string()),
    }
}
