//! `doctor`: looks at what Hearth stands on, and says what is wrong and the exact fix.

use hearth_schemas::ids::Slot;
use hearth_schemas::paths::Paths;
use serde_json::{Value, json};
use syncd_core::paths::Tried;

use crate::driver::wall_ms;
use crate::home::Home;
use crate::keys::Seal;
use crate::net::{Around, PathKind};

/// Space that should stay free, in bytes.
const LITTLE_SPACE: u64 = 2 << 30;
/// The year 2024, in milliseconds since 1970: a clock before it has never been set.
const LONG_AGO_MS: u64 = 1_704_067_200_000;

pub(super) fn examine(paths: &Paths, home: Option<&Home>, trouble: Option<(String, String)>) -> Value {
    let mut findings = Vec::new();
    match (home, trouble) {
        (Some(home), _) => account(home, &mut findings),
        (None, Some((what, hint))) => findings.push(finding("account", "bad", &what, &hint)),
        (None, None) => findings.push(finding(
            "account",
            "note",
            "this machine is in no account",
            "make one with `hearth init`, or join one with `hearth join`",
        )),
    }
    findings.push(space(paths));
    findings.push(watches());
    findings.push(clock());
    findings.push(session_bus());
    if let Some(home) = home {
        findings.push(home.preferences.finding());
    }
    findings.into_iter().collect()
}

fn account(home: &Home, findings: &mut Vec<Value>) {
    if home.membership.slot().is_none() {
        let hint = "its files stay here; to come back, move the state directory of Hearth away and join anew";
        findings.push(finding("account", "bad", "this machine was revoked", hint));
    } else {
        let devices = home.membership.account().active_devices().count();
        findings.push(finding("account", "ok", &format!("{devices} machines in the account"), ""));
    }
    findings.push(match home.membership.seal() {
        Seal::Keyring { .. } => finding("keys", "ok", "sealed with the login key ring", ""),
        Seal::File => finding(
            "keys",
            "note",
            "kept in a file that only this user can read: there was no open key ring when they were made",
            "encrypt this machine's disk",
        ),
    });
    findings.push(match home.relay_trouble.borrow().as_ref() {
        None => match home.network.relay_over_tcp() {
            None => finding("relay", "ok", "connected", ""),
            Some(proxy) => {
                let through = proxy.map(|proxy| format!(", through the proxy {proxy}")).unwrap_or_default();
                let what = format!("connected, over TCP (UDP does not get out of this network){through}");
                let hint = "let UDP out to the relay's port, and syncing may be faster; else nothing needs doing";
                finding("relay", "note", &what, hint)
            }
        },
        Some(reason) => finding(
            "relay",
            "bad",
            &format!("not connected: {reason}"),
            "check that the relay runs, and that UDP or TCP gets out of this network to its port",
        ),
    });
    each_relay(home, findings);
    let around = home.network.around();
    let port = home.network.udp_port().unwrap_or_default();
    findings.extend(network(&around, home.network.relay_over_tcp().is_some()));
    for device in home.membership.account().active_devices() {
        if device.id == home.membership.keys().id() {
            continue;
        }
        let (name, path) = (home.membership.name_of(device.id), home.network.path(device.slot));
        let rtt_ms = path.rtt_ms.unwrap_or_default();
        let (what, hint) = match (path.online, path.kind) {
            (_, Some(PathKind::Lan)) => (format!("{name}: reached on the local network, {rtt_ms} ms"), String::new()),
            (_, Some(PathKind::Direct)) => (format!("{name}: reached directly, {rtt_ms} ms"), String::new()),
            (_, Some(PathKind::RelayUdp | PathKind::RelayTcp)) => {
                let (why, hint) = why_relayed(home, &around, device.slot, port);
                (format!("{name}: reached through the relay, {rtt_ms} ms: {why}"), hint)
            }
            (true, None) => (format!("{name}: online, connecting"), String::new()),
            (false, None) => (format!("{name}: offline"), String::new()),
        };
        findings.push(finding("path", "ok", &what, &hint));
    }
    for problem in home.watcher.problems() {
        findings.push(finding("watching", "bad", &problem.what, &problem.hint));
    }
}

/// What kind of network this machine is in, as far as that is known.
fn network(around: &Around, by_tcp: bool) -> Option<Value> {
    if by_tcp {
        let what = "no UDP gets out of this network, so there is no way but the relay";
        return Some(finding("network", "note", what, "let UDP out"));
    }
    if !around.behind_router? {
        return Some(finding("network", "ok", "this machine has a public address: there is no NAT before it", ""));
    }
    let kind = match around.one_port {
        Some(true) => "it shows one port to all destinations (an easy NAT)",
        Some(false) => "it shows each destination another port (a hard NAT)",
        None => "what kind of NAT it is is not known, as the relay's second port does not answer",
    };
    Some(match around.mapped_port {
        Some(port) => {
            let what =
                format!("this machine is behind a router that passes on to it what comes to port {port}; {kind}");
            finding("network", "ok", &what, "")
        }
        None => {
            let what = format!("this machine is behind a router that passes on nothing by itself; {kind}");
            let hint = match around.one_port {
                Some(false) => {
                    "turn on PCP, NAT-PMP or UPnP at the router: machines behind another such router are reached directly then"
                }
                Some(true) | None => "",
            };
            finding("network", if hint.is_empty() { "ok" } else { "note" }, &what, hint)
        }
    })
}

/// Of several relays, what each of them is worth.
fn each_relay(home: &Home, findings: &mut Vec<Value>) {
    let relays = home.network.relays();
    if relays.len() < 2 || !home.network.is_relay_up() {
        return;
    }
    for (number, relay) in relays.iter().enumerate() {
        let place = relay.address.place();
        if relay.online {
            let over = if relay.by_tunnel { "TCP" } else { "UDP" };
            let trip = relay.rtt_ms.map(|ms| format!(", {ms} ms")).unwrap_or_default();
            findings.push(finding("relay", "ok", &format!("{place}: connected over {over}{trip}"), ""));
        } else {
            let hint = if number == 0 {
                "machines cannot be added or revoked meanwhile; if it is gone for good: `hearth relay remove`"
            } else {
                "see that it runs; the others do its work meanwhile"
            };
            findings.push(finding("relay", "note", &format!("{place}: not connected"), hint));
        }
    }
}

/// Why a peer is not reached directly, and what would make it so.
fn why_relayed(home: &Home, around: &Around, peer: Slot, port: u16) -> (String, String) {
    if around.off {
        return ("there is to be no other way".to_owned(), "`direct` in config.toml says so".to_owned());
    }
    if home.network.relay_over_tcp().is_some() {
        return ("no UDP gets out of this network".to_owned(), "let UDP out".to_owned());
    }
    let here = match (around.behind_router, around.mapped_port, around.one_port) {
        (Some(false), ..) => "nothing here stands in the way",
        (_, Some(_), _) => "the router here passes on a port",
        (_, None, Some(true)) => "the router here can be got through if the one there can be as well",
        (_, None, Some(false)) => "the router here shows each destination another port, which nobody can aim at",
        (_, None, None) => "what kind of router is here is not known",
    };
    let hint = format!(
        "turn on PCP, NAT-PMP or UPnP at the router of either machine, or pass UDP port {port} on to this one there; \
         `hearth doctor` on the other machine says what its router is like"
    );
    match around.tried.get(&peer).copied().unwrap_or_default() {
        Tried { told: 0, .. } => {
            ("it tells no address".to_owned(), "it may have set `direct = false`, or no UDP gets out there".to_owned())
        }
        Tried { told, heard: false } => {
            (format!("its {told} addresses were tried and do not answer, and nothing comes from there; {here}"), hint)
        }
        Tried { told, heard: true } => {
            (format!("its {told} addresses were tried and do not answer, though what it sends arrives; {here}"), hint)
        }
    }
}

fn space(paths: &Paths) -> Value {
    match rustix::fs::statvfs(&paths.home) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let shown = format!("{} MiB free where the home lies", free >> 20);
            if free < LITTLE_SPACE {
                finding("disk", "bad", &shown, "make room: what does not fit waits on the other machines")
            } else {
                finding("disk", "ok", &shown, "")
            }
        }
        Err(error) => {
            finding("disk", "bad", &format!("the home cannot be examined: {error}"), "see that it is mounted")
        }
    }
}

fn watches() -> Value {
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").ok();
    match limit.and_then(|text| text.trim().parse::<u64>().ok()) {
        Some(limit) if limit < 65_536 => finding(
            "watches",
            "note",
            &format!("the system allows {limit} watched directories"),
            "for a large home: sudo sysctl fs.inotify.max_user_watches=524288",
        ),
        Some(limit) => finding("watches", "ok", &format!("the system allows {limit} watched directories"), ""),
        None => finding("watches", "note", "the limit of watched directories cannot be read", ""),
    }
}

fn clock() -> Value {
    if wall_ms() < LONG_AGO_MS {
        finding("clock", "note", "the clock has not been set", "times in history are wrong until it is; syncing is not")
    } else {
        finding("clock", "ok", "the clock is set", "")
    }
}

fn session_bus() -> Value {
    if std::env::var_os("DBUS_SESSION_BUS_ADDRESS").is_some() || std::env::var_os("XDG_RUNTIME_DIR").is_some() {
        finding("session", "ok", "there is a session bus to look for", "")
    } else {
        finding("session", "note", "no session bus: settings are not synced here", "")
    }
}

/// One line of the doctor.
pub(crate) fn finding(name: &str, state: &str, what: &str, hint: &str) -> Value {
    json!({ "name": name, "state": state, "what": what, "hint": hint })
}
