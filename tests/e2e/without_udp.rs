//! Networks that let no UDP out, or nothing but what goes through a proxy: machines meet all the same, over TCP.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hearth_tests::machine::{Kind, Machine};
use hearth_tests::pair::{LATER, Pair, SOON, join_by_code};
use hearth_tests::process::Process;
use hearth_tests::program::program;
use hearth_tests::tree;
use hearth_tests::watch::{Wake, until};
use serde_json::Value;

/// Long enough that a cut falls into the middle of its transfer.
const LARGE: usize = 96 << 20;
/// A machine in a lab beside a pair's two: the third after the relay.
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
    let pair = Pair::joined()?;
    let content = tree::noise(7, LARGE);
    let before = pair.lab.traffic("desktop")?.received;
    pair.laptop.write("large.bin", &content)?;
    let wake = Wake::on(&pair.desktop.home())?;
    let some = |share: usize| {
        until("a part of the transfer", LATER, &wake, || {
            let received = pair.lab.traffic("desktop")?.received - before;
            Ok((received > (LARGE / share) as u64).then_some(()))
        })
    };
    some(8)?;
    pair.lab.udp("laptop", false)?;
    some(4)?;
    pair.lab.udp("desktop", false)?;
    some(2)?;
    pair.lab.udp("laptop", true)?;
    pair.lab.udp("desktop", true)?;
    pair.desktop.until_content("large.bin", &content, LATER)?;
    pair.settle(LATER)?;
    for machine in [&pair.laptop, &pair.desktop] {
        let log = std::fs::read_to_string(machine.log())?;
        let connected = log.matches("connected with slot").count() - log.matches("disconnected with slot").count();
        ensure!(connected == 1 && !log.contains("disconnected from slot"), "one connection all the time:\n{log}");
        ensure!(log.matches("logged in to the relay").count() == 1, "one login all the time:\n{log}");
        ensure!(log.contains("going on over TCP"), "it went over TCP:\n{log}");
    }
    pair.assert_alike()
}

#[test]
fn machines_that_reach_nothing_but_a_proxy_join_and_sync() -> Result<()> {
    let world = Pair::strangers_beside(&["proxy", "server"], |lab| {
        for name in ["laptop", "desktop"] {
            lab.udp(name, false)?;
            lab.to_relay(name, false)?;
        }
        Ok(())
    })?;
    let room = world.lab.host("proxy")?;
    let mut command = room.enter(program("proxy")?);
    command.args([PROXY, "me:secret"]);
    let mut proxy = Process::spawn("proxy", command, &world.scratch().join("proxy.log"), true)?;
    proxy.first_line(SOON)?;

    // One has it in the environment, the other in the desktop's settings.
    let room = Some(Rc::clone(world.lab.host("server")?));
    world.lab.udp("server", false)?;
    world.lab.to_relay("server", false)?;
    let environment = vec![("https_proxy".to_owned(), format!("http://me:secret@{PROXY}/"))];
    let mut server = Machine::new(world.scratch(), "server", Kind { room, environment, ..Kind::default() })?;
    server.start()?;
    let (host, port) = PROXY.split_once(':').context("host and port")?;
    for (schema, key, value) in [
        ("org.gnome.system.proxy.https", "host", host),
        ("org.gnome.system.proxy.https", "port", port),
        ("org.gnome.system.proxy.http", "use-authentication", "true"),
        ("org.gnome.system.proxy.http", "authentication-user", "me"),
        ("org.gnome.system.proxy.http", "authentication-password", "secret"),
        ("org.gnome.system.proxy", "mode", "manual"),
    ] {
        world.laptop.gsettings(&["set", schema, key, value])?;
    }
    let relay = world.relay.address();
    hearth_tests::pair::init(&world.laptop, relay)?;
    join_by_code(&world.laptop, &server, relay)?;
    world.laptop.write("notes.txt", "through the proxy, twice")?;
    server.until_content("notes.txt", b"through the proxy, twice", LATER)?;
    for machine in [&world.laptop, &server] {
        let told = relay_finding(machine)?;
        ensure!(told.ends_with(&format!(", through the proxy {PROXY}")), "{told}");
    }

    // A third machine knows of no proxy.
    let refused = world.desktop.hearth(["init", "--relay", relay])?;
    ensure!(refused.code == 1 && refused.stderr.contains("no answer over UDP; over TCP: no answer"), "{refused:?}");

    // A session that has lost its proxy comes back when that does.
    proxy.kill()?;
    world.laptop.until_status("the laptop to be alone", LATER, |status| !status.problems.is_empty())?;
    let mut command = world.lab.host("proxy")?.enter(program("proxy")?);
    command.args([PROXY, "me:secret"]);
    let mut proxy = Process::spawn("proxy", command, &world.scratch().join("proxy.log"), true)?;
    proxy.first_line(SOON)?;
    world.laptop.write("notes.txt", "and a third time")?;
    server.until_content("notes.txt", b"and a third time", Duration::from_secs(180))?;
    Ok(())
}

/// What `hearth doctor` says of the relay.
fn relay_finding(machine: &Machine) -> Result<String> {
    let findings: Value = machine.ask(["doctor"])?;
    let finding = findings.as_array().into_iter().flatten().find(|finding| finding["name"] == "relay");
    Ok(finding.context("a finding about the relay")?["what"].as_str().unwrap_or_default().to_owned())
}
