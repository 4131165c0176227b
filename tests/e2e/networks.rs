//! Every network of the lab: two machines in it connect, agree, and take the best path that it has.
//!
//! `natlab list` says what each scenario is.

use anyhow::{Result, bail, ensure};
use hearth_tests::nat::{NatPair, scenarios};
use hearth_tests::pair::SOON;
use serde_json::Value;

/// What `status` calls the best path of a network.
const DIRECT: &str = "direct";
const LAN: &str = "lan";
const RELAY: &str = "relay";

/// A test for each: its name, the scenario, and the best path there.
macro_rules! networks {
    ($($name:ident: $scenario:literal, $best:ident;)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            meet($scenario, &[], $best)
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
    public_addresses_and_no_firewall: "open", DIRECT;
    one_lan: "same-lan", LAN;
    one_lan_that_keeps_its_hosts_apart: "lan-isolated", RELAY;
    an_easy_nat_on_both_sides: "easy", DIRECT;
    a_full_cone_and_an_easy_nat: "cone", DIRECT;
    a_full_cone_and_a_hard_nat: "cone-hard", DIRECT;
    a_hard_nat_and_an_easy_one: "hard-one", RELAY;
    a_hard_nat_on_both_sides: "hard-both", RELAY;
    nothing_but_tcp_443_on_one_side: "udp-blocked-one", RELAY;
    nothing_but_tcp_443_on_both_sides: "udp-blocked-both", RELAY;
    nothing_but_a_proxy_on_one_side: "proxy-one", RELAY;
    nothing_but_proxies_on_both_sides: "proxy-both", RELAY;
    a_carriers_nat_before_ones_own: "cgnat", DIRECT;
    a_carriers_nat_that_is_hard: "cgnat-hard", RELAY;
    one_carriers_nat_for_both: "cgnat-same", RELAY;
    hard_nats_and_a_router_that_maps_ports: "upnp", DIRECT;
    hard_nats_and_firewalled_ipv6: "v6", DIRECT;
    a_line_that_loses_one_packet_in_fifty: "lossy", DIRECT;
    a_line_that_is_slower_upwards: "asym", DIRECT;
    a_line_that_swallows_long_packets: "mtu1280", DIRECT;
    two_lans_of_the_same_addresses: "overlap", DIRECT;
    a_home_before_anybody_leaves_it: "roam", DIRECT;
    routers_that_forget_after_ten_seconds: "expiry", DIRECT;
    routers_before_they_reboot: "reboot", DIRECT;
}

#[test]
fn nothing_but_proxies_that_want_a_password() -> Result<()> {
    meet("proxy-both", &["--proxy-auth", "me:secret"], RELAY)
}

#[test]
fn a_router_that_maps_ports_by_upnp_alone_and_is_told_when_they_are_not_needed() -> Result<()> {
    let options = ["--portmap", "upnp"];
    meet("upnp", &options, DIRECT)?;
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
fn meet(scenario: &str, options: &[&str], best: &str) -> Result<()> {
    let pair = NatPair::joined(scenario, options)?;
    pair.exchange("hello")?;
    pair.until_path(best)?;
    for machine in [&pair.laptop, &pair.desktop] {
        let findings: Value = machine.ask(["doctor"])?;
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
