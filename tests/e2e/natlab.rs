//! The NAT lab itself: it behaves as it says, and nothing is left of it. Where these fail, `networks.rs` says nothing.

use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use hearth_tests::nat::{NatLab, selftest};
use hearth_tests::process::{run, succeed};
use hearth_tests::scratch::Scratch;

const LIMIT: Duration = Duration::from_secs(10);

/// Those that the others are made of; `natlab selftest` has all of them.
const PROVED: [&str; 4] = ["easy", "cone-hard", "udp-blocked-one", "mtu1280"];

#[test]
fn routers_and_lines_behave_as_they_are_called() -> Result<()> {
    // Mostly they wait for what is not to come, so all of them at once.
    thread::scope(|scope| {
        let asked = PROVED.map(|scenario| {
            scope.spawn(move || selftest(scenario, Scratch::new()?.path()).with_context(|| scenario.to_owned()))
        });
        asked.into_iter().try_for_each(|proof| proof.join().map_err(|_| anyhow!("a proof panicked"))?)
    })
}

#[test]
fn two_labs_of_the_same_addresses_do_not_meet() -> Result<()> {
    let scratch = Scratch::new()?;
    let [one, other] = ["open", "open"].map(|scenario| NatLab::up(scenario, &[], scratch.path()));
    let (one, other) = (one?, other?);
    let reached = format!("exec 3<>/dev/tcp/{}/7", one.variable("RELAY")?);
    let answer = |lab: &NatLab| run(lab.host("a1")?.enter("timeout").args(["2", "bash", "-c", &reached]), LIMIT);
    ensure!(answer(&one)?.stderr.contains("refused"), "the relay's host answers");
    one.host("relay")?.run(&["ip", "link", "set", "eth0", "down"])?;
    ensure!(!answer(&one)?.stderr.contains("refused"), "it is cut off");
    ensure!(answer(&other)?.stderr.contains("refused"), "that of the other lab is not");
    Ok(())
}

#[test]
fn nothing_is_left_of_a_lab_and_its_processes() -> Result<()> {
    let scratch = Scratch::new()?;
    let lab = NatLab::up("proxy-one", &["--rtt", "10"], scratch.path())?;
    let ours = format!("/run/netns/{}-", lab.prefix());
    let listed = || succeed(Command::new("ps").args(["-eo", "args"]), LIMIT);
    let running = listed()?;
    for program in ["natlab-link", "natlab-tool.py"] {
        let found = running.lines().any(|line| line.contains(program));
        ensure!(found, "{program} runs: {running}");
    }
    ensure!(running.contains(&ours), "the lab's own are known by {ours}: {running}");
    drop(lab);
    let left = listed()?;
    ensure!(!left.contains(&ours), "{left}");
    Ok(())
}
