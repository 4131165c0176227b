//! Every network of the lab: two machines in it connect, agree, and take the best path that it has.
//!
//! `natlab list` says what each scenario is.

use anyhow::{Context, Result, bail, ensure};
use hearth_tests::machine::Machine;
use hearth_tests::nat::{NatPair, scenarios};
use hearth_tests::pair::SOON;
use hearth_tests::watch::{Wake, until};
use serde_json::Value;

/// What `status` calls the best path of a network.
const DIRECT: &str = "direct";
const LAN: &str = "lan";
const RELAY: &str = "relay";

/// What `doctor` says of the network of one side.
const NO_NAT: &str = "there is no NAT before it";
const EASY: &str = "(an easy NAT)";
const HARD: &str = "(a hard NAT)";
const MAPS: &str = "passes on to it what comes to port";
const NO_UDP: &str = "no UDP gets out of this network";

/// A test for each: its name, the scenario, the best path there, and what the network of the laptop and that of the desktop are.
macro_rules! networks {
    ($($name:ident: $scenario:literal, $best:ident, $here:ident, $there:ident;)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            meet($scenario, &[], $best, [$here, $there])
        })*

        #[test]
        fn no_network_of_the_lab_is_left_out() -> Result<()> {
            let (mut met, mut all) = (vec![$($scenario),*], scenarios()?);
            met.sort_unstable();
            all.sort_unstable();
            ensure!(met == all, "met in {met:?}; the lab has {all:?}");
            Ok(())
        }
    };
}

networks! {
    public_addresses_and_no_firewall: "open", DIRECT, NO_NAT, NO_NAT;
    one_lan: "same-lan", LAN, EASY, EASY;
    one_lan_that_keeps_its_hosts_apart: "lan-isolated", RELAY, EASY, EASY;
    an_easy_nat_on_both_sides: "easy", DIRECT, EASY, EASY;
    a_full_cone_and_an_easy_nat: "cone", DIRECT, EASY, EASY;
    a_full_cone_and_a_hard_nat: "cone-hard", DIRECT, EASY, HARD;
    a_hard_nat_and_an_easy_one: "hard-one", RELAY, HARD, EASY;
    a_hard_nat_on_both_sides: "hard-both", RELAY, HARD, HARD;
    nothing_but_tcp_443_on_one_side: "udp-blocked-one", RELAY, NO_UDP, EASY;
    nothing_but_tcp_443_on_both_sides: "udp-blocked-both", RELAY, NO_UDP, NO_UDP;
    nothing_but_a_proxy_on_one_side: "proxy-one", RELAY, NO_UDP, EASY;
    nothing_but_proxies_on_both_sides: "proxy-both", RELAY, NO_UDP, NO_UDP;
    a_carriers_nat_before_ones_own: "cgnat", DIRECT, EASY, EASY;
    a_carriers_nat_that_is_hard: "cgnat-hard", RELAY, HARD, EASY;
    one_carriers_nat_for_both: "cgnat-same", RELAY, EASY, EASY;
    hard_nats_and_a_router_that_maps_ports: "upnp", DIRECT, MAPS, HARD;
    hard_nats_and_firewalled_ipv6: "v6", DIRECT, HARD, HARD;
    a_line_that_loses_one_packet_in_fifty: "lossy", DIRECT, EASY, EASY;
    a_line_that_is_slower_upwards: "asym", DIRECT, EASY, EASY;
    a_line_that_swallows_long_packets: "mtu1280", DIRECT, EASY, EASY;
    two_lans_of_the_same_addresses: "overlap", DIRECT, EASY, EASY;
    a_home_before_anybody_leaves_it: "roam", DIRECT, EASY, EASY;
    routers_that_forget_after_ten_seconds: "expiry", DIRECT, EASY, EASY;
    routers_before_they_reboot: "reboot", DIRECT, EASY, EASY;
}

#[test]
fn nothing_but_proxies_that_want_a_password() -> Result<()> {
    meet("proxy-both", &["--proxy-auth", "me:secret"], RELAY, [NO_UDP, NO_UDP])
}

#[test]
fn a_router_that_maps_ports_by_upnp_alone_and_is_told_when_they_are_not_needed() -> Result<()> {
    let options = ["--portmap", "upnp"];
    meet("upnp", &options, DIRECT, [MAPS, HARD])?;
    let mut pair = NatPair::joined("upnp", &options)?;
    pair.until_path(DIRECT)?;
    let router = pair.lab.host("ra")?;
    let ports = || router.run(&["nft", "list", "map", "ip", "natlab", "pm_udp"]);
    ensure!(ports()?.contains("elements"), "the router passes on a port: {}", ports()?);
    pair.laptop.stop()?;
    ensure!(!ports()?.contains("elements"), "a port of a machine that has gone: {}", ports()?);
    Ok(())
}

/// Has two machines meet in a network, and exchange a file each.
fn meet(scenario: &str, options: &[&str], best: &str, networks: [&str; 2]) -> Result<()> {
    let pair = NatPair::joined(scenario, options)?;
    pair.exchange("hello")?;
    pair.until_path(best)?;
    for (machine, network) in [&pair.laptop, &pair.desktop].into_iter().zip(networks) {
        let findings = diagnosis(machine, network)?;
        let paths = findings.as_array().into_iter().flatten().filter(|finding| finding["name"] == "path");
        let told: Vec<&Value> = paths.collect();
        let [path] = told.as_slice() else { bail!("one way to one machine: {findings}") };
        let (what, hint) = (path["what"].as_str().unwrap_or_default(), path["hint"].as_str().unwrap_or_default());
        let says_why = what.contains("through the relay") && what.contains(" ms: ") && !hint.is_empty();
        ensure!(says_why == (best == RELAY), "the doctor says why a way is not direct: {findings}");
    }
    pair.settle(SOON)?;
    pair.assert_one_connection()?;
    pair.assert_alike()
}

/// What `doctor` finds, once it says this of the network.
fn diagnosis(machine: &Machine, network: &str) -> Result<Value> {
    let wake = Wake::on(&machine.home())?;
    let mut last = Value::Null;
    let found = until("the doctor to know the network", SOON, &wake, || {
        last = machine.ask(["doctor"])?;
        let mut said = last.as_array().into_iter().flatten().filter(|finding| finding["name"] == "network");
        let says_so = said.any(|finding| finding["what"].as_str().is_some_and(|what| what.contains(network)));
        Ok(says_so.then(|| last.clone()))
    });
    found.with_context(|| format!("{network}, of {}: {last}", machine.name()))
}
