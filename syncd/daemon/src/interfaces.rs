//! The network interfaces of this machine: what they are now, and when to ask again.
//!
//! The kernel's routing socket (rtnetlink(7)) tells of every change of a link, an address or a route. What it tells
//! is not read: it is the sign to list the addresses anew, once the changes have come to rest.

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use syncd_core::paths::Interface;
use tokio::net::UnixDatagram;
use tokio::time::{sleep, timeout};

/// Groups of rtnetlink(7): links, addresses and routes of both families, as bits.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// Changes come in bursts: after this long without one, all is told.
const REST: Duration = Duration::from_millis(30);
/// And at the latest after so many such pauses: a machine that never rests is listed all the same.
const MOST_RESTS: u32 = 20;
/// How often to look where the kernel does not tell.
const BLIND: Duration = Duration::from_secs(60);

/// Tells when the interfaces may have changed.
pub(crate) struct Changes {
    /// Any socket of datagrams is read in the same way.
    socket: Option<UnixDatagram>,
    /// Since when there is a change that has not been told.
    untold: Option<Instant>,
}

/// The addresses of this machine that are of any use to others, of interfaces that are up and plugged in.
pub(crate) fn list() -> Vec<Interface> {
    let found = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::debug!("the interfaces cannot be listed: {error}");
        Vec::new()
    });
    let mut interfaces: Vec<Interface> = found
        .into_iter()
        .filter(|found| found.is_oper_up() && !found.is_loopback() && !found.is_link_local())
        .map(|found| {
            let prefix = match &found.addr {
                if_addrs::IfAddr::V4(v4) => v4.prefixlen,
                if_addrs::IfAddr::V6(v6) => v6.prefixlen,
            };
            Interface { ip: found.ip(), name: found.name, prefix }
        })
        .collect();
    interfaces.sort_by(|one, other| (&one.name, one.ip).cmp(&(&other.name, other.ip)));
    interfaces
}

/// The router to the world over IPv4, and the interface that leads to it.
pub(crate) fn gateway() -> Option<(Ipv4Addr, String)> {
    parse_gateway(&std::fs::read_to_string("/proc/net/route").ok()?)
}

/// Reads the kernel's table of routes (proc_net(5)): addresses are hex in the order of memory.
fn parse_gateway(routes: &str) -> Option<(Ipv4Addr, String)> {
    let parse = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let address = |at: usize| u32::from_str_radix(columns.get(at)?, 16).ok();
        let (gateway, metric) = (address(2)?, columns.get(6)?.parse::<u32>().ok()?);
        let is_default = address(1)? == 0 && address(7)? == 0 && gateway != 0;
        is_default.then(|| (metric, Ipv4Addr::from(gateway.to_ne_bytes()), columns[0].to_owned()))
    };
    let best = routes.lines().filter_map(parse).min_by_key(|(metric, ..)| *metric)?;
    Some((best.1, best.2))
}

impl Changes {
    /// Listens from now on. Must be called within a tokio runtime.
    pub(crate) fn watch() -> Self {
        let socket = open().inspect_err(|error| tracing::warn!("changes of the network are not told: {error}")).ok();
        Self { socket, untold: None }
    }

    /// Returns once something has changed, and has come to rest. Nothing is forgotten if it is given up before.
    pub(crate) async fn next(&mut self) {
        let Some(socket) = &self.socket else { return sleep(BLIND).await };
        let since = match self.untold {
            Some(since) => since,
            None => {
                drain(socket).await;
                *self.untold.insert(Instant::now())
            }
        };
        while since.elapsed() < REST * MOST_RESTS && timeout(REST, drain(socket)).await.is_ok() {}
        self.untold = None;
    }
}

fn open() -> io::Result<UnixDatagram> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // NETLINK_ROUTE is protocol 0, which is what no protocol means.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    UnixDatagram::from_std(socket.into())
}

/// Waits for news, and takes all that there are.
async fn drain(socket: &UnixDatagram) {
    if socket.readable().await.is_err() {
        return sleep(BLIND).await;
    }
    let mut some = [0; 4096];
    loop {
        match socket.try_recv(&mut some) {
            Ok(_) => {}
            // More news than the kernel could keep are news as well.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {}
            Err(_none_left) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_router_of_the_best_default_route_is_taken() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                      wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
                      eth0\t00000000\t0105A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                      eth0\t0005A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                      tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(parse_gateway(routes), Some((Ipv4Addr::new(192, 168, 5, 1), "eth0".to_owned())));
        assert_eq!(parse_gateway("nonsense\n"), None);
    }

    #[tokio::test]
    async fn a_change_is_told_though_something_else_came_before_it_had_come_to_rest() {
        let (kernel, socket) = UnixDatagram::pair().expect("sockets");
        let mut changes = Changes { socket: Some(socket), untold: None };
        kernel.send(b"a change").await.expect("sent");
        assert!(timeout(REST / 2, changes.next()).await.is_err(), "it has not come to rest");
        timeout(Duration::from_secs(20), changes.next()).await.expect("it is not forgotten");
        assert!(timeout(2 * REST, changes.next()).await.is_err(), "it is told once");
    }

    #[test]
    fn what_is_listed_is_of_use_to_others() {
        for interface in list() {
            assert!(!interface.ip.is_loopback() && !interface.ip.is_unspecified(), "{interface:?}");
            assert!(interface.prefix > 0 && !interface.name.is_empty(), "{interface:?}");
        }
    }
}
