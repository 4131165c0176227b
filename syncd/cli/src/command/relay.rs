//! `hearth relay`: the relays of the account.

use clap::{Args, Subcommand};
use hearth_schemas::address::RelayAddress;
use serde_json::Value;

use crate::command::Context;
use crate::error::Failure;
use crate::render::{Table, list, names, text};

/// List, add or remove the relays of the account
///
/// Every machine is logged in at all of them. Packets that find no way of their own go by the nearest; if it fails, by the
/// next, and nothing breaks off.
#[derive(Debug, Subcommand)]
pub(crate) enum Relay {
    /// List the relays; the account is changed at the first
    List,
    /// Add a relay, on all machines
    Add(Add),
    /// Remove a relay, from all machines
    ///
    /// If it is the first and gone for good, the next one takes its place. Do so on one machine only.
    Remove(Remove),
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Address of the relay, as `relay-server serve` prints it
    #[arg(value_name = "ADDR", value_parser = RelayAddress::parse)]
    relay: RelayAddress,
    /// Invitation, where the relay takes new accounts by invitation only
    #[arg(long, value_name = "WORD", default_value = "", hide_default_value = true)]
    invite: String,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Its address, as `hearth relay list --json` has it; what follows the `#` may be left out
    #[arg(value_name = "ADDR", value_parser = RelayAddress::parse)]
    relay: RelayAddress,
}

impl Relay {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let bus = context.bus().await?;
        match self {
            Self::List => {
                let result = bus.call("RelayList", &()).await?;
                context.show(&result, |result| table(result, context))
            }
            Self::Add(Add { relay, invite }) => {
                let result = bus.call("RelayAdd", &(relay.to_string(), invite)).await?;
                context.show(&result, |_| {
                    format!("All machines use the relay at {} as well from now on.\n", relay.place())
                })
            }
            Self::Remove(Remove { relay }) => {
                let result = bus.call("RelayRemove", &(relay.to_string(),)).await?;
                context.show(&result, |_| format!("No machine uses the relay at {} any more.\n", relay.place()))
            }
        }
    }
}

fn table(result: &Value, context: &Context) -> String {
    let mut table = Table::headed(&["RELAY", "STATE", "CARRIES"]);
    for relay in list(result, "relays") {
        let address = text(relay, "address");
        let place = RelayAddress::parse(&address).map_or(address, |address| address.place());
        let first = if relay["first"] == Value::Bool(true) { " (first)" } else { "" };
        let over = text(relay, "over").to_uppercase();
        let state = match (relay["online"] == Value::Bool(true), relay["rtt_ms"].as_u64()) {
            (false, _) => "not connected".to_owned(),
            (true, None) => format!("connected over {over}"),
            (true, Some(ms)) => format!("connected over {over}, {ms} ms"),
        };
        let carries: Vec<String> =
            list(relay, "carries").iter().filter_map(|name| name.as_str().map(crate::render::shown)).collect();
        table.row([place + first, state, if carries.is_empty() { "-".to_owned() } else { names(&carries) }]);
    }
    table.with_heading("", context.style)
}
