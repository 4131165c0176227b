//! The network interfaces of this machine: what they are now, and when to ask again.
//!
//! The kernel's routing socket (rtnetlink(7)) tells of every change of a link, an address or a route. What it tells
//! is not read: it is the sign to list the addresses anew, once the changes have come to rest.

use std::io;
use std::time::Duration;

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

impl Changes {
    /// Listens from now on. Must be called within a tokio runtime.
    pub(crate) fn watch() -> Self {
        let socket = open().inspect_err(|error| tracing::warn!("changes of the network are not told: {error}")).ok();
        Self { socket }
    }

    /// Returns once something has changed, and has come to rest.
    pub(crate) async fn next(&mut self) {
        let Some(socket) = &self.socket else { return sleep(BLIND).await };
        drain(socket).await;
        for _ in 0..MOST_RESTS {
            if timeout(REST, drain(socket)).await.is_err() {
                break;
            }
        }
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
    fn what_is_listed_is_of_use_to_others() {
        for interface in list() {
            assert!(!interface.ip.is_loopback() && !interface.ip.is_unspecified(), "{interface:?}");
            assert!(interface.prefix > 0 && !interface.name.is_empty(), "{interface:?}");
        }
    }
}
