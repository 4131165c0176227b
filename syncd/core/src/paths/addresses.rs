//! Addresses: which of this device's are worth telling, which of a peer's may be probed, which are close by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hearth_schemas::signal::MAX_CANDIDATES;

use super::PathKind;

/// Most addresses of one interface that are told.
const MAX_EACH: usize = 3;
/// Amazon's metadata service over IPv6. The one over IPv4 is link-local.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// An address of an interface of this device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Which interface.
    pub name: String,
    /// The address.
    pub ip: IpAddr,
    /// How many bits of it name the network.
    pub prefix: u8,
}

/// Where this device is.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Its interfaces.
    pub interfaces: Vec<Interface>,
    /// The port of its socket.
    pub port: u16,
    /// Its address as the relay saw it last.
    pub seen: Option<SocketAddr>,
    /// An address at which the router passes on to this device.
    pub mapped: Option<SocketAddr>,
}

impl Interface {
    /// Whether programs made this interface for themselves: containers, virtual machines, tunnels.
    fn is_virtual(&self) -> bool {
        const PREFIXES: [&str; 9] = ["docker", "br-", "virbr", "veth", "vnet", "tun", "tap", "wg", "podman"];
        PREFIXES.iter().any(|prefix| self.name.starts_with(prefix))
    }

    fn has(&self, other: IpAddr) -> bool {
        // A network of one address has nobody else in it.
        let length = if self.ip.is_ipv4() { 32 } else { 128 };
        self.prefix < length && within(other, self.ip, u32::from(self.prefix))
    }
}

impl Place {
    /// The addresses that a peer is told, the best first.
    pub(super) fn candidates(&self) -> Vec<SocketAddr> {
        let rank = |interface: &Interface| match interface.ip {
            _ if interface.is_virtual() => 3,
            IpAddr::V4(_) => 0,
            IpAddr::V6(_) => 1,
        };
        let mut ranked: Vec<(u8, SocketAddr)> = Vec::new();
        for (at, interface) in self.interfaces.iter().enumerate() {
            let before = self.interfaces[..at].iter().filter(|other| other.name == interface.name).count();
            let address = SocketAddr::new(interface.ip, self.port);
            if before < MAX_EACH && may_probe(address) {
                ranked.push((rank(interface), address));
            }
        }
        let outside = self.mapped.into_iter().chain(self.seen).filter(|address| may_probe(*address));
        ranked.extend(outside.map(|address| (2, address)));
        ranked.sort_by_key(|(rank, _)| *rank);
        let mut told: Vec<SocketAddr> = Vec::new();
        for (_, address) in ranked {
            if told.len() < MAX_CANDIDATES && !told.contains(&address) {
                told.push(address);
            }
        }
        told
    }

    /// What kind of path an address would make.
    pub(super) fn kind_of(&self, address: SocketAddr) -> PathKind {
        if self.interfaces.iter().any(|interface| interface.has(address.ip())) {
            return PathKind::Lan;
        }
        match address.ip() {
            IpAddr::V4(_) => PathKind::DirectV4,
            IpAddr::V6(_) => PathKind::DirectV6,
        }
    }

    /// Whether a router stands between this device and the relay that gives it another address; `None` while that is not
    /// known.
    pub fn is_behind_router(&self) -> Option<bool> {
        let seen = self.seen?.ip();
        Some(self.interfaces.iter().all(|interface| interface.ip != seen))
    }

    /// Whether an address is this device's own.
    pub(super) fn is_own(&self, address: SocketAddr) -> bool {
        address.port() == self.port && self.interfaces.iter().any(|interface| interface.ip == address.ip())
    }
}

/// Whether an address is in a network, of whose address so many bits count.
pub fn within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let number = |ip: IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) => (32, u128::from(u32::from(ip))),
        IpAddr::V6(ip) => (128, u128::from(ip)),
    };
    let ((length, address), (of, network)) = (number(address), number(network));
    length == of && bits <= length && (address ^ network).checked_shr(length - bits).unwrap_or(0) == 0
}

/// Whether an address may be sent probes to because somebody says that a peer is there. Addresses of this machine
/// alone, of many machines at once, of one link, and of nobody are left alone.
pub fn may_probe(address: SocketAddr) -> bool {
    let ip_may = match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            !(ip.is_unspecified()
                || ip.octets()[0] == 0
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip >= Ipv4Addr::new(240, 0, 0, 0))
        }
        IpAddr::V6(ip) => {
            !(ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
                || ip == METADATA_V6)
        }
    };
    ip_may && address.port() != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_nobody_many_or_this_machine_are_never_probed() {
        for no in [
            "0.0.0.0:1",
            "0.1.2.3:1",
            "127.0.0.1:1",
            "127.9.9.9:1",
            "169.254.169.254:80",
            "169.254.1.1:1",
            "224.0.0.251:5353",
            "239.1.1.1:1",
            "240.0.0.1:1",
            "255.255.255.255:1",
            "192.0.2.1:0",
            "[::]:1",
            "[::1]:1",
            "[fe80::1]:1",
            "[ff02::fb]:5353",
            "[fd00:ec2::254]:80",
            "[::ffff:127.0.0.1]:1",
            "[::ffff:169.254.169.254]:80",
        ] {
            assert!(!may_probe(no.parse().expect("an address")), "{no}");
        }
        for yes in ["192.168.1.2:1", "10.0.0.1:65535", "203.0.113.7:443", "[2001:db8::1]:1", "[fd12::1]:1"] {
            assert!(may_probe(yes.parse().expect("an address")), "{yes}");
        }
    }

    #[test]
    fn the_best_addresses_are_told_first_and_never_too_many() {
        let mut place = Place {
            interfaces: vec![
                interface("docker0", "172.17.0.1", 16),
                interface("lo", "127.0.0.1", 8),
                interface("eth0", "fe80::1", 64),
                interface("eth0", "2001:db8::5", 64),
                interface("eth0", "192.168.1.5", 24),
            ],
            port: 7,
            seen: Some("203.0.113.9:4444".parse().expect("an address")),
            mapped: Some("203.0.113.9:7".parse().expect("an address")),
        };
        let told: Vec<String> = place.candidates().iter().map(ToString::to_string).collect();
        assert_eq!(told, ["192.168.1.5:7", "[2001:db8::5]:7", "203.0.113.9:7", "203.0.113.9:4444", "172.17.0.1:7"]);
        place.interfaces = (0..40).map(|n| interface(&format!("eth{}", n / 8), &format!("10.0.{n}.1"), 24)).collect();
        let told = place.candidates();
        assert_eq!(told.len(), MAX_CANDIDATES);
        assert!(!told.contains(&"10.0.3.1:7".parse().expect("an address")), "a fourth of one interface");
    }

    #[test]
    fn a_router_gives_itself_away_by_another_address() {
        let mut place = Place { interfaces: vec![interface("eth0", "192.0.2.5", 24)], ..Place::default() };
        assert_eq!(place.is_behind_router(), None);
        for (seen, wanted) in [("192.0.2.5:9", false), ("203.0.113.1:9", true)] {
            place.seen = Some(seen.parse().expect("an address"));
            assert_eq!(place.is_behind_router(), Some(wanted), "{seen}");
        }
    }

    #[test]
    fn the_network_that_this_device_is_in_is_near() {
        let place = Place {
            interfaces: vec![interface("eth0", "192.168.1.5", 24), interface("wg0", "10.9.0.1", 32)],
            port: 7,
            seen: None,
            mapped: None,
        };
        for (address, wanted) in [
            ("192.168.1.200:9", PathKind::Lan),
            ("192.168.2.200:9", PathKind::DirectV4),
            ("10.9.0.1:9", PathKind::DirectV4),
            ("[2001:db8::1]:9", PathKind::DirectV6),
        ] {
            assert_eq!(place.kind_of(address.parse().expect("an address")), wanted, "{address}");
        }
    }

    fn interface(name: &str, ip: &str, prefix: u8) -> Interface {
        Interface { name: name.to_owned(), ip: ip.parse().expect("an address"), prefix }
    }
}
