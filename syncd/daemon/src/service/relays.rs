//! The account's relays, as a person sees and changes them.

use hearth_schemas::address::RelayAddress;
use hearth_schemas::keys::config::{Config, MAX_RELAYS};
use hearth_schemas::relay::Refusal;
use serde_json::{Value, json};
use syncd_core::account::{self, Change};

use crate::bus::{Answer, Failure};
use crate::driver::wall_ms;
use crate::home::Home;
use crate::membership::{append, connect, entropy, pinned, told, unreachable};
use crate::mirror::{At, gather};
use crate::relay::{RelayError, registration};

/// Lists them, in the account's order.
pub(super) fn list(home: &Home) -> Value {
    let names = account::names(&home.membership.account(), &home.membership.secrets());
    let own = home.membership.keys().id();
    let account = home.membership.account();
    let used = |relay: usize| -> Vec<&String> {
        let others = account.active_devices().filter(|device| device.id != own);
        let by_it = others.filter(|device| {
            let path = home.network.path(device.slot);
            path.kind.is_some() && path.relay == Some(relay)
        });
        by_it.filter_map(|device| names.get(&device.id)).collect()
    };
    let relays = home.network.relays().into_iter().enumerate().map(|(number, relay)| {
        json!({
            "address": relay.address.to_string(),
            "first": number == 0,
            "online": relay.online,
            "over": relay.online.then_some(if relay.by_tunnel { "tcp" } else { "udp" }),
            "rtt_ms": relay.rtt_ms.filter(|_| relay.online),
            "carries": used(number),
        })
    });
    relays.collect()
}

/// Adds one: first it learns of the account, then the account of it.
pub(super) async fn add(home: &Home, relay: &RelayAddress, invitation: Option<String>) -> Answer {
    let relays = home.membership.relays();
    // With an invitation, one that has lost its memory is told of the account again.
    let known = relays.iter().any(|known| known.is_at(relay));
    if known && invitation.is_none() {
        return Err(Failure::failed("the account has this relay already", "see `hearth relay list`"));
    }
    if !known && relays.len() >= MAX_RELAYS {
        let hint = "take one out with `hearth relay remove` before";
        return Err(Failure::failed(format!("an account has at most {MAX_RELAYS} relays"), hint));
    }
    home.relay_up().await;
    gather(&home.network, &home.membership.account(), &home.blobs).await;
    let at = relays.iter().find(|known| known.is_at(relay)).unwrap_or(relay);
    let connection = connect(at, false).await?;
    let request = registration(&home.membership.account(), &home.blobs, invitation);
    match connection.request(request).await {
        // One that has been the account's before knows less of it, and is given the rest like any other.
        Ok(_) | Err(RelayError::Refused(Refusal::BadLog)) => {}
        Err(error) => return Err(unreachable(error)),
    }
    let relay = pinned(relay, &connection);
    connection.close().await;
    if known {
        return Ok(list(home));
    }
    let change = configure(home, relays.into_iter().chain([relay]).collect())?;
    append(&home.network, &change).await.map_err(unreachable)?;
    keep(home, change)
}

/// Takes one out. If it is the first and cannot be reached, the next has its place from here on.
pub(super) async fn remove(home: &Home, relay: &RelayAddress) -> Answer {
    let (gone, stay): (Vec<_>, Vec<_>) = home.membership.relays().into_iter().partition(|known| known.is_at(relay));
    if gone.is_empty() {
        let what = format!("the account has no relay at {}", relay.place());
        return Err(Failure::failed(what, "see `hearth relay list`"));
    }
    if stay.is_empty() {
        let hint = "add the one that is to take its place before: `hearth relay add`";
        return Err(Failure::failed("this is the only relay of the account", hint));
    }
    home.relay_up().await;
    let change = configure(home, stay)?;
    let known = home.network.relays();
    let is_first = known.first().is_some_and(|first| first.address.is_at(relay));
    let next = known.iter().position(|other| other.online && !other.address.is_at(relay));
    match (append(&home.network, &change).await, next) {
        // Had it taken the change before it fell silent, the next takes the very same.
        (Err(RelayError::FirstAway { .. }), Some(relay)) if is_first => {
            append(&At { network: &home.network, relay }, &change).await.map_err(unreachable)?;
        }
        (appended, _) => appended.map_err(unreachable)?,
    }
    keep(home, change)
}

fn configure(home: &Home, relays: Vec<RelayAddress>) -> Result<Change, Failure> {
    let membership = &home.membership;
    let (known, secrets) = (membership.account(), membership.secrets());
    let config = Config { relays };
    account::configure(&known, &secrets, membership.keys(), &config, wall_ms(), &mut entropy)
        .map_err(|error| Failure::failed(error.to_string(), "see `hearth relay list`"))
}

fn keep(home: &Home, change: Change) -> Answer {
    let membership = &home.membership;
    change.blobs.iter().for_each(|blob| home.blobs.put(blob));
    membership.keep(change.account, change.secrets).map_err(told)?;
    membership.follow_config(&home.blobs).map_err(told)?;
    Ok(list(home))
}
