//! The host part of the address that the relay prints when it listens on every address.
//!
//! Reads the kernel's routing tables: the address on the network of the default route, else any address that is not
//! only ours, else the machine's name. Parsing takes text and is pure; `--host` overrides all of it.

use std::fs::read_to_string;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A host under which others may reach a relay that listens on this address.
pub(crate) fn usable(listen: IpAddr) -> String {
    if !listen.is_unspecified() {
        return listen.to_string();
    }
    let read = |path: &str| read_to_string(path).unwrap_or_default();
    let v4 = ipv4(&read("/proc/net/fib_trie"), &read("/proc/net/route")).map(IpAddr::V4);
    let v6 = || if listen.is_ipv6() { ipv6(&read("/proc/net/if_inet6")).map(IpAddr::V6) } else { None };
    if let Some(ip) = v4.or_else(v6) {
        return ip.to_string();
    }
    let name = read("/proc/sys/kernel/hostname").trim().to_owned();
    if name.is_empty() || name == "(none)" { "localhost".to_owned() } else { name }
}

fn ipv4(fib_trie: &str, route: &str) -> Option<Ipv4Addr> {
    let mut own = own_ipv4(fib_trie);
    own.sort_unstable();
    let networks = default_networks(route);
    let on_default = |ip: &&Ipv4Addr| networks.iter().any(|(net, mask)| u32::from(**ip) & mask == *net);
    own.iter().find(on_default).or(own.first()).copied()
}

/// Our addresses but loopback and link-local ones: in the trie each stands on the line before `/32 host LOCAL`.
fn own_ipv4(fib_trie: &str) -> Vec<Ipv4Addr> {
    let lines: Vec<&str> = fib_trie.lines().map(str::trim).collect();
    let pairs = lines.windows(2).filter(|pair| pair[1].ends_with("/32 host LOCAL"));
    pairs
        .filter_map(|pair| pair[0].strip_prefix("|--")?.trim().parse().ok())
        .filter(|ip: &Ipv4Addr| !ip.is_loopback() && !ip.is_link_local())
        .collect()
}

/// The networks on the interface of the default route: address and mask.
fn default_networks(route: &str) -> Vec<(u32, u32)> {
    let rows: Vec<(&str, u32, u32)> = route.lines().skip(1).filter_map(route_row).collect();
    let Some((interface, ..)) = rows.iter().find(|(_, net, mask)| (*net, *mask) == (0, 0)) else { return Vec::new() };
    rows.iter().filter(|row| row.0 == *interface && row.2 != 0).map(|row| (row.1, row.2)).collect()
}

/// Interface, network and mask; the kernel prints both numbers in memory order.
fn route_row(line: &str) -> Option<(&str, u32, u32)> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let number = |column: usize| Some(u32::from_str_radix(columns.get(column)?, 16).ok()?.swap_bytes());
    Some((*columns.first()?, number(1)?, number(7)?))
}

/// The first address with global scope.
fn ipv6(if_inet6: &str) -> Option<Ipv6Addr> {
    let global = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let ip = u128::from_str_radix(columns.first()?, 16).ok()?;
        (*columns.get(3)? == "00").then(|| Ipv6Addr::from(ip))
    };
    if_inet6.lines().filter_map(global).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIE: &str = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 10.1.0.7\n        \
                        /32 host LOCAL\n     |-- 10.1.0.0\n        /24 link UNICAST\n     |-- 192.168.5.2\n        /32 host LOCAL\n";
    const ROUTE: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                         docker0\t0000010A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                         eth0\t00000000\t0105A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                         eth0\t0005A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";

    #[test]
    fn the_address_towards_the_world_is_taken() {
        assert_eq!(ipv4(TRIE, ROUTE), Some(Ipv4Addr::new(192, 168, 5, 2)));
    }

    #[test]
    fn without_a_way_to_the_world_any_address_that_others_see_is_taken() {
        assert_eq!(ipv4(TRIE, ""), Some(Ipv4Addr::new(10, 1, 0, 7)));
        assert_eq!(ipv4("     |-- 127.0.0.1\n        /32 host LOCAL\n", ""), None);
    }

    #[test]
    fn an_ipv6_address_must_be_global() {
        let table = "00000000000000000000000000000001 01 80 10 80 lo\nfe800000000000000000000000000001 02 40 20 80 eth0\n\
                     20010db8000000000000000000000007 02 40 00 80 eth0\n";
        assert_eq!(ipv6(table), Some("2001:db8::7".parse().expect("an address")));
    }

    #[test]
    fn a_given_address_is_printed_as_it_is() {
        assert_eq!(usable("127.0.0.1".parse().expect("an address")), "127.0.0.1");
        assert!(!usable("0.0.0.0".parse().expect("an address")).is_empty());
    }
}
