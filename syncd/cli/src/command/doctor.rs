//! `hearth doctor`: what around the daemon is wrong, and what mends it.

use clap::Args;
use serde_json::Value;

use crate::command::Context;
use crate::error::Failure;
use crate::render::{Table, list, text};

/// Look at network, watch limits, key ring, disk and clock, and say what mends what is wrong
#[derive(Debug, Args)]
pub(crate) struct Doctor {}

impl Doctor {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let result = context.bus().await?.call("Doctor", &()).await?;
        context.show(&result, |result| words(result, context))
    }
}

fn words(result: &Value, context: &Context) -> String {
    let style = context.style;
    let mut table = Table::default();
    let checks = list(result, "checks");
    for check in checks {
        table.row([mark(check).to_owned(), text(check, "name"), text(check, "what")]);
    }
    let lines = table.lines("", |row, line| match mark(&checks[row]) {
        "ok" => line.replacen("ok", &style.good("ok"), 1),
        "note" => line.replacen("note", &style.careful("note"), 1),
        other => line.replacen(other, &style.bad(other), 1),
    });
    let mut words = String::new();
    for (line, check) in lines.lines().zip(checks) {
        words += line;
        words.push('\n');
        let hint = text(check, "hint");
        if !hint.is_empty() && mark(check) != "ok" {
            words += &format!("      {}\n", style.faint(&hint));
        }
    }
    words
}

fn mark(check: &Value) -> &'static str {
    match check["state"].as_str() {
        Some("ok") => "ok",
        Some("note") => "note",
        _ => "bad",
    }
}
