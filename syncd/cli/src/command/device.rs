//! `hearth device`: the machines of the account.

use clap::Subcommand;
use serde_json::Value;

use crate::bus::{Event, Events};
use crate::command::Context;
use crate::error::{Exit, Failure};
use crate::render::{self, Table, ago, list, text};

/// Add, list, rename or remove the machines of the account
#[derive(Debug, Subcommand)]
pub(crate) enum Device {
    /// Show a code with which one other machine can join
    ///
    /// On a terminal, waits until it has been used. Otherwise returns at once; the code stays good for ten minutes.
    Add,
    /// List the machines
    List,
    /// Give a machine another name
    Rename {
        /// Its name
        old: String,
        /// The name it gets
        new: String,
    },
    /// Take a machine out of the account; it can read nothing that is written from then on
    Revoke {
        /// Its name
        name: String,
    },
}

impl Device {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let bus = context.bus().await?;
        match self {
            Self::Add if context.interactive => {
                let mut events = bus.events();
                let result = bus.call("DeviceAdd", &()).await?;
                render::print(
                    &(invitation(&result, context) + "\nWaiting for it; Ctrl-C leaves the code as it is.\n"),
                )?;
                let joined = outcome(&mut events).await?;
                render::print(&format!("{joined} has joined.\n"))
            }
            Self::Add => {
                let result = bus.call("DeviceAdd", &()).await?;
                context.show(&result, |result| invitation(result, context))
            }
            Self::List => {
                let result = bus.call("DeviceList", &()).await?;
                context.show(&result, |result| table(result, context))
            }
            Self::Rename { old, new } => {
                let result = bus.call("DeviceRename", &(&old, new)).await?;
                context
                    .show(&result, |result| format!("{} is called {}.\n", render::shown(&old), text(result, "device")))
            }
            Self::Revoke { name } => {
                let result = bus.call("DeviceRevoke", &(&name,)).await?;
                context.show(&result, |_| {
                    let name = render::shown(&name);
                    format!("{name} is no device of the account any more. What it has on its disk stays there.\n")
                })
            }
        }
    }
}

fn invitation(result: &Value, context: &Context) -> String {
    let code = text(result, "code");
    let relay = match text(result, "relay") {
        relay if relay.is_empty() => "ADDR".to_owned(),
        relay => relay,
    };
    let until = ago(result, "expires", context.now).unwrap_or_else(|| "in 10 min".to_owned());
    format!(
        "Code: {}\n\nOn the other machine:\n\n    hearth join {code} --relay '{relay}'\n\nThe code works once and runs out {until}.\n",
        context.style.strong(&code)
    )
}

/// Waits until the code has been used; gives the name of who joined.
async fn outcome(events: &mut Events) -> Result<String, Failure> {
    loop {
        let Event::Pairing(event) = events.next().await? else { continue };
        match event["event"].as_str() {
            Some("joined") => return Ok(text(&event, "device")),
            Some("refused") => {
                let hint = "if that was not you, somebody guessed; run `hearth device add` again for another code";
                return Err(Failure::failed("the code was typed wrong too often and is void", hint));
            }
            Some("expired") => {
                let hint = "run `hearth device add` again for another code";
                return Err(Failure::new(Exit::TimedOut, "the code ran out before it was used", hint));
            }
            _ => {}
        }
    }
}

fn table(result: &Value, context: &Context) -> String {
    let mut table = Table::headed(&["MACHINE", "", "ADDED", "LAST SEEN"]);
    for device in list(result, "devices") {
        let this = device["this"] == Value::Bool(true);
        let seen = if this || device["online"] == Value::Bool(true) {
            "online".to_owned()
        } else {
            ago(device, "last_seen", context.now).unwrap_or_else(|| "never".to_owned())
        };
        let added = ago(device, "added", context.now).unwrap_or_default();
        table.row([text(device, "name"), if this { "this machine" } else { "" }.to_owned(), added, seen]);
    }
    table.with_heading("", context.style)
}
