//! Two machines on one network: they talk to each other there, and need no relay for it.

use anyhow::{Context, Result, ensure};
use hearth_tests::answer::Status;
use hearth_tests::pair::{Pair, SOON};

#[test]
fn machines_on_one_network_use_it_and_go_on_without_a_relay() -> Result<()> {
    let mut pair = Pair::joined()?;
    pair.laptop.until_status("the local network to be used", SOON, |status| path_is(status, "desktop", "lan"))?;
    pair.desktop.until_status("the local network to be used", SOON, |status| path_is(status, "laptop", "lan"))?;
    let before = pair.lab.traffic("relay")?.total();
    let large: Vec<u8> = (0..4 << 20).map(|n: u32| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    pair.laptop.write("large", &large)?;
    pair.desktop.until_content("large", &large, SOON)?;
    let through_relay = pair.lab.traffic("relay")?.total() - before;
    ensure!(through_relay < 100_000, "the relay carried {through_relay} bytes of it");

    pair.relay.kill()?;
    pair.laptop.write("from the laptop", "without a relay")?;
    pair.desktop.until_content("from the laptop", b"without a relay", SOON)?;
    pair.desktop.write("from the desktop", "and back")?;
    pair.laptop.until_content("from the desktop", b"and back", SOON)?;
    pair.settle(SOON)?;
    let status = pair.laptop.status()?;
    let desktop = status.peer("desktop").context("it is in the account")?;
    ensure!(desktop.online && desktop.in_sync, "{status:?}");
    pair.assert_alike()
}

#[test]
fn machines_that_start_without_a_relay_find_each_other_on_their_network() -> Result<()> {
    let mut pair = Pair::joined()?;
    pair.laptop.stop()?;
    pair.desktop.stop()?;
    pair.relay.kill()?;
    pair.laptop.write("a letter", "no relay today")?;
    pair.laptop.start()?;
    pair.desktop.start()?;
    pair.desktop.until_content("a letter", b"no relay today", SOON)?;
    let status = pair.desktop.until_status("the local network", SOON, |status| path_is(status, "laptop", "lan"))?;
    ensure!(status.peer("laptop").is_some_and(|laptop| laptop.online), "{status:?}");
    pair.settle(SOON)?;
    pair.assert_alike()
}

#[test]
fn whoever_has_left_is_not_waited_for() -> Result<()> {
    let mut pair = Pair::joined()?;
    pair.laptop.until_status("the local network to be used", SOON, |status| path_is(status, "desktop", "lan"))?;
    pair.desktop.until_status("the local network to be used", SOON, |status| path_is(status, "laptop", "lan"))?;
    pair.laptop.stop()?;
    pair.desktop.write("note", "for the laptop")?;
    pair.desktop.settle_with_those_online(SOON)?;
    let status = pair.desktop.status()?;
    ensure!(status.peer("laptop").is_some_and(|laptop| !laptop.online), "{status:?}");
    Ok(())
}

#[test]
fn a_machine_whose_network_cable_is_pulled_for_a_moment_goes_on_with_its_connection() -> Result<()> {
    let pair = Pair::joined()?;
    pair.laptop.until_status("the local network to be used", SOON, |status| path_is(status, "desktop", "lan"))?;
    let connections = || -> Result<usize> {
        let log = std::fs::read_to_string(pair.laptop.log()).context("reading the laptop's log")?;
        Ok(log.matches("connected with slot").count() - log.matches("disconnected").count())
    };
    let before = connections()?;
    pair.lab.cable("desktop", false)?;
    pair.laptop.write("note", "while the cable was out")?;
    pair.lab.cable("desktop", true)?;
    pair.desktop.until_content("note", b"while the cable was out", SOON)?;
    pair.laptop.until_status("the local network to be used again", SOON, |status| path_is(status, "desktop", "lan"))?;
    ensure!(connections()? == before, "the connection was made anew");
    pair.settle(SOON)
}

fn path_is(status: &Status, peer: &str, path: &str) -> bool {
    status.peer(peer).is_some_and(|peer| peer.path.as_deref() == Some(path))
}
