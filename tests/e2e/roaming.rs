//! Networks that change while a file is on its way: it arrives whole, over the connection on which it began.

use anyhow::{Result, ensure};
use hearth_tests::nat::NatPair;
use hearth_tests::pair::{LATER, SOON};
use hearth_tests::tree;

/// The line of each home: what is on its way takes more than two seconds.
const LINE: [&str; 6] = ["--rtt", "20", "--down", "16", "--up", "16"];
const LENGTH: usize = 5 << 20;
/// How much has arrived when the network changes.
const BEGUN: u64 = 1 << 20;

#[test]
fn the_sender_gets_another_address_on_its_lan() -> Result<()> {
    lives_through("easy", |pair| pair.lab.act(&["addr", "a1"]))
}

#[test]
fn the_receiver_gets_another_address_on_its_lan() -> Result<()> {
    lives_through("easy", |pair| pair.lab.act(&["addr", "b1"]))
}

#[test]
fn the_sender_moves_to_a_cafe_and_home_again() -> Result<()> {
    lives_through("roam", |pair| {
        pair.lab.act(&["roam", "a1", "c"])?;
        let arrived = pair.traffic_of_desktop()?.received;
        pair.until_received(arrived + BEGUN)?;
        pair.lab.act(&["roam", "a1", "a"])
    })
}

#[test]
fn a_home_gets_another_public_address() -> Result<()> {
    lives_through("easy", |pair| pair.lab.act(&["wanip", "a"]))
}

#[test]
fn the_receivers_home_gets_another_public_address() -> Result<()> {
    lives_through("hard-both", |pair| pair.lab.act(&["wanip", "b"]))
}

#[test]
fn routers_forget_all_their_mappings() -> Result<()> {
    lives_through("hard-both", |pair| {
        pair.lab.act(&["flush", "a"])?;
        pair.lab.act(&["flush", "b"])
    })
}

#[test]
fn a_router_reboots() -> Result<()> {
    lives_through("hard-both", |pair| pair.lab.act(&["reboot", "b", "3"]))
}

#[test]
fn a_cable_is_out_for_eight_seconds() -> Result<()> {
    lives_through("easy", |pair| pair.lab.act(&["cut", "a1", "8"]))
}

#[test]
fn the_relay_restarts() -> Result<()> {
    lives_through("hard-both", |pair| {
        pair.relay.stop()?;
        pair.relay_again()
    })
}

#[test]
fn the_relay_dies_and_comes_back() -> Result<()> {
    lives_through("hard-both", |pair| {
        pair.relay.kill()?;
        pair.relay_again()
    })
}

/// Has something happen in the middle of a transfer.
fn lives_through(scenario: &str, event: impl FnOnce(&mut NatPair) -> Result<()>) -> Result<()> {
    let mut pair = NatPair::joined(scenario, &LINE)?;
    let content = tree::noise(3, LENGTH);
    let before = pair.traffic_of_desktop()?.received;
    pair.laptop.write("film.bin", &content)?;
    pair.until_received(before + BEGUN)?;
    ensure!(!pair.desktop.path("film.bin").exists(), "it is still on its way");
    event(&mut pair)?;
    pair.desktop.until_content("film.bin", &content, LATER)?;
    pair.desktop.write("thanks.txt", "it has come")?;
    pair.laptop.until_content("thanks.txt", b"it has come", SOON)?;
    pair.settle(SOON)?;
    pair.assert_one_connection()?;
    pair.assert_alike()
}
