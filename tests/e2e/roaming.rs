//! Networks that change under a connection: it takes the best path that there is at the moment, and what is on its way
//! arrives whole over the connection on which it began.

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

#[test]
fn a_machine_leaves_its_lan_and_comes_back_to_it() -> Result<()> {
    let pair = NatPair::joined("same-lan", &[])?;
    pair.until_path("lan")?;
    pair.lab.act(&["roam", "a2", "b"])?;
    pair.until_path("direct")?;
    pair.exchange("from afar")?;
    pair.lab.act(&["roam", "a2", "a"])?;
    pair.until_path("lan")?;
    pair.exchange("home again")?;
    pair.assert_one_connection()
}

#[test]
fn a_direct_path_that_dies_gives_way_to_the_relay_and_is_found_again() -> Result<()> {
    let pair = NatPair::joined("easy", &[])?;
    pair.until_path("direct")?;
    pair.lab.act(&["nat", "a", "hard"])?;
    pair.exchange("by the relay")?;
    pair.until_path("relay")?;
    pair.lab.act(&["nat", "a", "easy"])?;
    pair.until_path("direct")?;
    pair.exchange("direct again")?;
    pair.assert_one_connection()
}

#[test]
fn what_is_said_after_routers_forgot_a_silent_pair_arrives() -> Result<()> {
    let pair = NatPair::joined("easy", &[])?;
    pair.until_path("direct")?;
    pair.lab.act(&["flush", "a"])?;
    pair.lab.act(&["flush", "b"])?;
    pair.exchange("still there")?;
    pair.assert_one_connection()
}

#[test]
fn one_lan_needs_no_relay_and_no_internet() -> Result<()> {
    let mut pair = NatPair::joined("same-lan", &[])?;
    pair.until_path("lan")?;
    pair.relay.kill()?;
    pair.lab.host("ra")?.run(&["ip", "link", "set", "wan", "down"])?;
    pair.exchange("without a relay")?;
    pair.laptop.stop()?;
    pair.laptop.start()?;
    pair.exchange("after a restart")?;
    pair.until_path("lan")
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
