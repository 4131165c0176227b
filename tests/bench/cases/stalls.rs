//! How long a connection is silent while the network under it changes: an echo every 20 ms between two homes 40 ms
//! apart, and the longest time between two answers around each event. Nothing is synced over it. Ours and iroh's take turns.

use anyhow::{Context, Result};
use hearth_tests::nat::NatLab;
use hearth_tests::scratch::Scratch;

use crate::ends::Ground;
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
pub(crate) fn measure(tools: &[Which], rounds: usize, report: &mut Report) -> Result<()> {
    for (name, scenario, acts, seconds) in EVENTS {
        for _ in 0..rounds {
            for which in tools.iter().copied().filter(|which| which.is_library()) {
                let stall = live_through(which, scenario, acts, seconds).with_context(|| name.to_owned())?;
                report.sample(&format!("longest silence, {name}"), which, stall, "s");
            }
        }
    }
    Ok(())
}

fn live_through(which: Which, scenario: &str, acts: &[&[&str]], seconds: u64) -> Result<f64> {
    let scratch = Scratch::new()?;
    let lab = NatLab::up(scenario, &LINE, scratch.path())?;
    let way = if scenario == "hard-both" { "relay" } else { "direct" };
    let mut ends = Ground::of_nat(&lab, scratch.path())?.start(which, ["echo", &seconds.to_string()], way)?;
    ends.until_begun()?;
    acts.iter().try_for_each(|act| lab.act(act))?;
    ends.measured()?.one("longest")
}
