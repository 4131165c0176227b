//! `hearth status`: how things stand, at a glance.

use clap::Args;
use serde_json::Value;

use crate::command::Context;
use crate::error::Failure;
use crate::render::{Table, ago, count, item, list, names, plural, text};

/// Show whether the machines agree, the path to each, and what needs attention
#[derive(Debug, Args)]
pub(crate) struct Status {}

impl Status {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let result = context.bus().await?.call("Status", &()).await?;
        context.show(&result, |result| words(result, context))
    }
}

fn words(status: &Value, context: &Context) -> String {
    if status["account"].is_null() && !list(&status["problems"], "").is_empty() {
        // It may well belong to one.
        return format!("{}\n\n{}", context.style.bad("Not syncing."), attention(status, context));
    }
    if status["account"].is_null() {
        return "This machine belongs to no account.\n\
                Make one with `hearth init --relay ADDR`, or join one with `hearth join CODE --relay ADDR`.\n"
            .to_owned();
    }
    let mut words = headline(status, context) + "\n";
    let peers = peers(status, context);
    if !peers.is_empty() {
        words += "\n";
        words += &peers;
    }
    let attention = attention(status, context);
    if !attention.is_empty() {
        words += "\n";
        words += &attention;
    }
    words
}

fn headline(status: &Value, context: &Context) -> String {
    let style = context.style;
    let peers = list(&status["peers"], "");
    let checked = ago(status, "fresh_as_of", context.now).map(|ago| format!(", checked {ago}")).unwrap_or_default();
    let pending = &status["pending"];
    let (incoming, outgoing) = (count(pending, "incoming"), count(pending, "outgoing"));
    if status["paused"] == Value::Bool(true) {
        return style.careful("Paused") + ": nothing is synced until `hearth resume`.";
    }
    match (peers, status["in_sync"] == Value::Bool(true)) {
        ([], _) => "The only machine of its account; `hearth device add` adds another.".to_owned(),
        ([peer], true) => format!("{} with {}{checked}.", style.good("In sync"), text(peer, "name")),
        (peers, true) => format!("{} with all {} other machines{checked}.", style.good("In sync"), peers.len()),
        _ if incoming + outgoing > 0 => {
            format!("{}: {incoming} to receive, {outgoing} to send.", style.careful("Syncing"))
        }
        (peers, false) => {
            let absent: Vec<String> = peers
                .iter()
                .filter(|peer| peer["online"] != Value::Bool(true))
                .map(|peer| text(peer, "name"))
                .collect();
            let last = checked.replacen(", checked", "; last in sync", 1);
            match absent.as_slice() {
                [] => format!("{}: comparing with the other machines{last}.", style.careful("Not in sync yet")),
                [one] => format!("{}: {one} is away{last}.", style.careful("Not in sync")),
                many => format!("{}: {} are away{last}.", style.careful("Not in sync"), names(many)),
            }
        }
    }
}

fn peers(status: &Value, context: &Context) -> String {
    let peers = list(&status["peers"], "");
    if peers.is_empty() {
        return String::new();
    }
    let mut table = Table::headed(&["MACHINE", "STATE", "PATH"]);
    for peer in peers {
        let online = peer["online"] == Value::Bool(true);
        let state = match (peer["in_sync"] == Value::Bool(true), online) {
            (true, true) => "in sync",
            (false, true) => "syncing",
            (_, false) => "away",
        };
        table.row([text(peer, "name"), state.to_owned(), path(peer)]);
    }
    table.with_heading("  ", context.style)
}

fn path(peer: &Value) -> String {
    let way = match (text(peer, "path"), text(peer, "relay")) {
        (path, relay) if path == "relay" && !relay.is_empty() => format!("{path} {relay}"),
        (path, _) => path,
    };
    match (way, peer["rtt_ms"].as_f64()) {
        (path, _) if path.is_empty() => "-".to_owned(),
        (path, Some(ms)) if ms < 10.0 => format!("{path}, {ms:.1} ms"),
        (path, Some(ms)) => format!("{path}, {ms:.0} ms"),
        (path, None) => path,
    }
}

fn attention(status: &Value, context: &Context) -> String {
    let style = context.style;
    let mut lines = String::new();
    let conflicts = count(status, "conflicts");
    if conflicts > 0 {
        let conflicts = plural(conflicts, "conflict");
        lines += &format!("{}: both versions are kept; `hearth conflicts` lists them\n", style.careful(&conflicts));
    }
    let held = count(status, "held");
    if held > 0 {
        lines += &format!("{} for a decision\n", style.careful(&format!("{} held", plural(held, "change"))));
    }
    lines += &staying(status, context);
    let problems = list(&status["problems"], "");
    if !problems.is_empty() {
        lines += &format!("{}:\n", style.bad(&plural(problems.len() as u64, "problem")));
    }
    for problem in problems {
        let (place, mut what) = (item(problem, "path"), text(problem, "what"));
        if let Some(ago) = ago(problem, "last_copy", context.now) {
            what += &format!("; last copy {ago}");
        }
        lines += &if place.is_empty() { format!("  {what}\n") } else { format!("  {place}: {what}\n") };
        let hint = text(problem, "hint");
        if !hint.is_empty() {
            lines += &format!("    {}\n", style.faint(&hint));
        }
    }
    lines
}

/// What stays on this machine as it should, in a line or two.
fn staying(status: &Value, context: &Context) -> String {
    let first = list(&status["staying"], "first");
    let is_file = |entry: &&Value| text(entry, "what").starts_with("its ");
    let mut lines = String::new();
    let more = count(&status["staying"], "count").saturating_sub(first.len() as u64);
    for (files, says) in [(false, "Stay on this machine"), (true, "Travel without their setuid or setgid bit")] {
        let of_kind: Vec<&Value> = first.iter().filter(|entry| is_file(entry) == files).collect();
        let named = of_kind.iter().map(|entry| match files {
            true => item(entry, "path"),
            false => format!("{} ({})", item(entry, "path"), text(entry, "what")),
        });
        let mut named: Vec<String> = named.collect();
        if more > 0 && !files {
            named.push(format!("{more} more"));
        }
        if !named.is_empty() {
            lines += &context.style.faint(&format!("{says}: {}", named.join(", ")));
            lines.push('\n');
        }
    }
    lines
}
