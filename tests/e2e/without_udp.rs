//! Networks that let no UDP out, or nothing but what goes through a proxy: machines meet all the same, over TCP.

use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use hearth_tests::lab::{Lab, RELAY_IP};
use hearth_tests::link::Line;
use hearth_tests::machine::{Kind, Machine};
use hearth_tests::pair::{LATER, Pair, SOON, init, join_by_code};
use hearth_tests::process::Process;
use hearth_tests::program::program;
use hearth_tests::relay::Relay;
use hearth_tests::scratch::Scratch;
use hearth_tests::tree;
use hearth_tests::watch::{Wake, until};
use serde_json::Value;

/// Long enough that a cut falls into the middle of its transfer.
const LARGE: usize = 48 << 20;
/// The third machine of a lab.
const PROXY: &str = "10.77.0.4:3128";

#[test]
fn two_machines_whose_udp_does_not_get_out_join_and_sync() -> Result<()> {
    let mut pair = Pair::strangers()?;
    for name in ["laptop", "desktop"] {
        pair.lab.udp(name, false)?;
    }
    pair.join()?;
    pair.laptop.write("notes/today.txt", "from the laptop")?;
    pair.desktop.until_content("notes/today.txt", b"from the laptop", SOON)?;
    pair.desktop.write("notes/today.txt", "and from the desktop")?;
    pair.laptop.until_content("notes/today.txt", b"and from the desktop", SOON)?;
    pair.settle(SOON)?;
    let status = pair.laptop.status()?;
    let peer = status.peer("desktop").context("the desktop is a peer")?;
    ensure!(peer.path.as_deref() == Some("relay") && status.problems.is_empty(), "{status:?}");
    let told = relay_finding(&pair.laptop)?;
    ensure!(told == "connected, over TCP (UDP does not get out of this network)", "{told}");
    pair.assert_alike()
}

#[test]
fn a_transfer_outlives_the_loss_of_udp_and_its_return() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut lab = Lab::new(&["desktop"], scratch.path())?;
    lab.add_far("laptop", 2, Line { delay_ms: 20, lost_ppm: 0, kbit: 100_000 })?;
    let relay = Relay::start(&scratch.path().join("relay"), Some(lab.host("relay")?), RELAY_IP)?;
    let machine = |name: &str| -> Result<Machine> {
        let room = Some(Rc::clone(lab.host(name)?));
        let mut machine = Machine::new(scratch.path(), name, Kind { room, ..Kind::default() })?;
        machine.start()?;
        Ok(machine)
    };
    let (laptop, desktop) = (machine("laptop")?, machine("desktop")?);
    init(&laptop, relay.address())?;
    join_by_code(&laptop, &desktop, relay.address())?;
    desktop.settle(LATER)?;

    let content = tree::noise(7, LARGE);
    let before = lab.traffic("desktop")?.received;
    laptop.write("large.bin", &content)?;
    let wake = Wake::on(&desktop.home())?;
    let arrived = |percent: u64| {
        until("a part of the transfer", LATER, &wake, || {
            let received = lab.traffic("desktop")?.received - before;
            Ok((received > LARGE as u64 * percent / 100).then_some(()))
        })
    };
    arrived(10)?;
    lab.udp("laptop", false)?;
    arrived(30)?;
    lab.udp("desktop", false)?;
    arrived(60)?;
    lab.udp("laptop", true)?;
    lab.udp("desktop", true)?;
    desktop.until_content("large.bin", &content, LATER)?;
    desktop.settle(LATER)?;
    for machine in [&laptop, &desktop] {
        let log = std::fs::read_to_string(machine.log())?;
        ensure!(log.matches(" connected with slot").count() == 1, "one connection all the time:\n{log}");
        ensure!(log.matches("logged in to the relay").count() == 1, "one login all the time:\n{log}");
        ensure!(log.contains("going on over TCP"), "it went over TCP:\n{log}");
    }
    tree::assert_equal(&laptop.home(), &desktop.home(), &tree::OWN)
}

#[test]
fn machines_that_reach_nothing_but_a_proxy_join_and_sync() -> Result<()> {
    let scratch = Scratch::new()?;
    let lab = Lab::new(&["laptop", "desktop", "proxy", "phone"], scratch.path())?;
    let relay = Relay::start(&scratch.path().join("relay"), Some(lab.host("relay")?), RELAY_IP)?;
    let proxy_starts = || -> Result<Process> {
        let mut command = lab.host("proxy")?.enter(program("proxy")?);
        command.args([PROXY, "me:secret"]);
        let mut proxy = Process::spawn("proxy", command, &scratch.path().join("proxy.log"), true)?;
        proxy.first_line(SOON)?;
        Ok(proxy)
    };
    let machine = |name: &str, environment: Vec<(String, String)>| -> Result<Machine> {
        lab.udp(name, false)?;
        lab.to_relay(name, false)?;
        let room = Some(Rc::clone(lab.host(name)?));
        let mut machine = Machine::new(scratch.path(), name, Kind { room, environment, ..Kind::default() })?;
        machine.start()?;
        Ok(machine)
    };
    let mut proxy = proxy_starts()?;

    // One has it in the desktop's settings, the other in the environment, and a third nowhere.
    let laptop = machine("laptop", vec![])?;
    let (host, port) = PROXY.split_once(':').context("host and port")?;
    for (schema, key, value) in [
        (".https", "host", host),
        (".https", "port", port),
        (".http", "use-authentication", "true"),
        (".http", "authentication-user", "me"),
        (".http", "authentication-password", "secret"),
        ("", "mode", "manual"),
    ] {
        laptop.gsettings(&["set", &format!("org.gnome.system.proxy{schema}"), key, value])?;
    }
    let set = ("https_proxy".to_owned(), format!("http://me:secret@{PROXY}/"));
    let desktop = machine("desktop", vec![set])?;
    let phone = machine("phone", vec![])?;
    init(&laptop, relay.address())?;
    join_by_code(&laptop, &desktop, relay.address())?;
    laptop.write("notes.txt", "through the proxy, twice")?;
    desktop.until_content("notes.txt", b"through the proxy, twice", LATER)?;
    for machine in [&laptop, &desktop] {
        let told = relay_finding(machine)?;
        ensure!(told.ends_with(&format!(", through the proxy {PROXY}")), "{told}");
    }
    let refused = phone.hearth(["init", "--relay", relay.address()])?;
    ensure!(refused.code == 1 && refused.stderr.contains("no answer over UDP; over TCP: no answer"), "{refused:?}");

    // Who loses it is back when it is.
    proxy.kill()?;
    laptop.until_status("the laptop to be alone", LATER, |status| !status.problems.is_empty())?;
    let _proxy = proxy_starts()?;
    laptop.write("notes.txt", "and once more")?;
    desktop.until_content("notes.txt", b"and once more", LATER)?;
    Ok(())
}

/// What `hearth doctor` says of the relay.
fn relay_finding(machine: &Machine) -> Result<String> {
    let findings: Value = machine.ask(["doctor"])?;
    let finding = findings.as_array().into_iter().flatten().find(|finding| finding["name"] == "relay");
    Ok(finding.context("a finding about the relay")?["what"].as_str().unwrap_or_default().to_owned())
}
