//! Every network of the lab: two machines in it connect, agree, and take the best path that it has.
//!
//! `natlab list` says what each scenario is.

use anyhow::Result;
use hearth_tests::nat::NatPair;
use hearth_tests::pair::SOON;

/// What `status` calls the best path of a network.
const DIRECT: &str = "direct";
const LAN: &str = "lan";
const RELAY: &str = "relay";

/// A test for each: its name, the scenario, and the best path there.
macro_rules! networks {
    ($($name:ident: $scenario:literal, $best:ident;)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            meet($scenario, $best)
        })*
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

/// Has two machines meet in a network, and exchange a file each.
fn meet(scenario: &str, best: &str) -> Result<()> {
    let pair = NatPair::joined(scenario, &[])?;
    pair.exchange("hello")?;
    pair.until_path(best)?;
    pair.settle(SOON)?;
    pair.assert_one_connection()?;
    pair.assert_alike()
}
