//! How long a connection is silent while the network under it changes: an echo every 20 ms between two homes 40 ms
//! apart, and the longest time between two answers around each event. Nothing is synced over it.

use std::time::Duration;

use anyhow::{Context, Result};
use hearth_tests::nat::NatLab;
use hearth_tests::relay::Relay;
use hearth_tests::scratch::Scratch;
use syncd::net::PathKind;

use crate::bare;
use crate::report::Report;
use crate::tools::Which;

/// What happens: its name, the network, what is done there, and for how long afterwards answers are waited for.
const EVENTS: [(&str, &str, &[&[&str]], u64); 9] = [
    ("another address on the LAN", "easy", &[&["addr", "a1"]], 8),
    ("to another network", "roam", &[&["roam", "a1", "c"]], 8),
    ("another public address", "easy", &[&["wanip", "a"]], 8),
    ("the router forgets", "easy", &[&["flush", "a"]], 8),
    ("the NAT turns hard", "easy", &[&["nat", "a", "hard"], &["flush", "a"]], 8),
    ("UDP is blocked", "easy", &[&["blockudp", "a", "on"]], 8),
    ("the router is away for 3 s", "easy", &[&["reboot", "a", "3"]], 12),
    ("the cable is out for 8 s", "easy", &[&["cut", "a1", "8"]], 16),
    ("a relayed one, the router forgets", "hard-both", &[&["flush", "a"], &["flush", "b"]], 8),
];
const LINE: [&str; 6] = ["--rtt", "40", "--down", "200", "--up", "200"];

/// Measures each event, so many times.
pub(crate) fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    for (name, scenario, acts, seconds) in EVENTS {
        for _ in 0..rounds {
            let stall = live_through(scenario, acts, Duration::from_secs(seconds)).with_context(|| name.to_owned())?;
            report.sample(&format!("longest silence, {name}"), Which::Hearth, stall, "s");
        }
    }
    Ok(())
}

fn live_through(scenario: &str, acts: &[&[&str]], time: Duration) -> Result<f64> {
    let scratch = Scratch::new()?;
    let lab = NatLab::up(scenario, &LINE, scratch.path())?;
    let listen = format!("{}:443", lab.variable("RELAY")?);
    let relay = Relay::start_on(&scratch.path().join("relay"), Some(&*lab.host("relay")?), &listen, "info")?;
    let (one, other) = lab.pair()?;
    let (one, other) = (lab.host(one)?, lab.host(other)?);
    let happen = || acts.iter().try_for_each(|act| lab.act(act));
    let path = if scenario == "hard-both" { PathKind::RelayUdp } else { PathKind::Direct };
    let silence = bare::silence(relay.address(), [&one.network(), &other.network()], path, time, happen)?;
    Ok(silence.as_secs_f64())
}
