//! A small network in namespaces: a relay and any number of machines on one bridge, with nothing leading out.
//!
//! ```text
//!  relay 10.77.0.1 ── br0 ── laptop 10.77.0.2
//!                      └──── desktop 10.77.0.3 …
//! ```
//! Cables can be pulled, bytes are counted per machine, and all traffic can be captured at the bridge.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::link::{Line, Link};
use crate::process::Process;
use crate::program::program;
use crate::room::{Room, Walls};

/// Where the relay listens in every lab.
pub const RELAY_IP: &str = "10.77.0.1";
/// The bridge itself, for hosts that are not on it.
const HUB_IP: &str = "10.77.0.254";

/// The network, as long as this value lives.
#[derive(Debug)]
pub struct Lab {
    hosts: BTreeMap<String, Rc<Room>>,
    /// The lines to hosts that are far away.
    lines: Vec<Link>,
    hub: Room,
    logs: PathBuf,
}

/// Bytes through one machine's interface since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes that it received, headers included.
    pub received: u64,
    /// Bytes that it sent, headers included.
    pub sent: u64,
}

impl Traffic {
    /// Returns what has gone through the first of these interfaces that a room has.
    pub fn of(room: &Room, interfaces: &[&str]) -> Result<Self> {
        let path = format!("/proc/{}/net/dev", room.holder());
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let found = interfaces.iter().find_map(|interface| parse_traffic(&text, interface));
        found.with_context(|| format!("{path} counts none of {interfaces:?}"))
    }

    /// Returns received and sent together.
    pub fn total(self) -> u64 {
        self.received + self.sent
    }
}

impl Lab {
    /// Builds the network with a host `relay` and one for each of `machines`.
    pub fn new(machines: &[&str], logs: &Path) -> Result<Self> {
        let hub = Room::new("hub", Walls { network: true, ..Walls::default() }, logs)?;
        hub.run(&["ip", "link", "set", "lo", "up"])?;
        hub.run(&["ip", "link", "add", "br0", "type", "bridge"])?;
        hub.run(&["ip", "link", "set", "br0", "up"])?;
        // Where the kernel hands bridged frames to its firewall, a host's rules would decide about ours.
        hub.run(&["sh", "-c", "f=/proc/sys/net/bridge/bridge-nf-call-iptables; [ ! -e $f ] || echo 0 > $f"])?;
        let mut lab = Self { hosts: BTreeMap::new(), lines: Vec::new(), hub, logs: logs.to_path_buf() };
        for (number, name) in std::iter::once(&"relay").chain(machines).enumerate() {
            lab.add(name, number + 1)?;
        }
        Ok(lab)
    }

    fn add(&mut self, name: &str, number: usize) -> Result<()> {
        ensure!(number < 250, "a lab has room for 249 hosts");
        let room = self.hub.beside(name, &self.logs)?;
        let port = format!("port{number}");
        let holder = room.holder().to_string();
        self.hub.run(&["ip", "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &holder])?;
        self.hub.run(&["ip", "link", "set", &port, "master", "br0", "up"])?;
        room.run(&["ip", "link", "set", "lo", "up"])?;
        room.run(&["ip", "address", "add", &format!("10.77.0.{number}/24"), "dev", "eth0"])?;
        room.run(&["ip", "link", "set", "eth0", "up"])?;
        self.hosts.insert(name.to_owned(), Rc::new(room));
        Ok(())
    }

    /// Adds a host that is far from all others, at 10.77.1.`number`; its interface is called `line`.
    pub fn add_far(&mut self, name: &str, number: u8, line: Line) -> Result<()> {
        let room = self.hub.beside(name, &self.logs)?;
        self.lines.push(Link::between(&self.hub, &room, line, u64::from(number), &self.logs)?);
        room.run(&["ip", "link", "set", "lo", "up"])?;
        // An address at each end, and the way back: the hub passes on what is not for it.
        let far = format!("10.77.1.{number}");
        for (end, own, to) in [(&room, far.as_str(), HUB_IP), (&self.hub, HUB_IP, far.as_str())] {
            end.run(&["ip", "address", "add", own, "peer", to, "dev", "line"])?;
            end.run(&["ip", "link", "set", "line", "mtu", "1500", "up"])?;
        }
        room.run(&["ip", "route", "add", "10.77.0.0/24", "via", HUB_IP])?;
        self.hub.run(&["ip", "address", "add", &format!("{HUB_IP}/24"), "dev", "br0"])?;
        self.hub.run(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
        for near in self.hosts.values() {
            near.run(&["ip", "route", "add", "10.77.1.0/24", "via", HUB_IP])?;
        }
        self.hosts.insert(name.to_owned(), Rc::new(room));
        Ok(())
    }

    /// Returns the room of a host.
    pub fn host(&self, name: &str) -> Result<&Rc<Room>> {
        self.hosts.get(name).with_context(|| format!("the lab has no host {name}"))
    }

    /// Pulls a host's cable, or puts it back.
    pub fn cable(&self, name: &str, plugged: bool) -> Result<()> {
        let state = if plugged { "up" } else { "down" };
        self.host(name)?.run(&["ip", "link", "set", "eth0", state]).map(drop)
    }

    /// Returns what has gone through a host's interface so far.
    pub fn traffic(&self, name: &str) -> Result<Traffic> {
        Traffic::of(self.host(name)?, &["eth0", "line"])
    }

    /// Begins to write all traffic into a file, and returns once it does. Killing it loses nothing that was written.
    pub fn capture(&self, file: &Path) -> Result<Process> {
        let mut command = self.hub.enter(program("tap")?);
        command.arg(file);
        let mut process = Process::spawn("tap", command, &self.logs.join("tap.log"), true)?;
        process.first_line(Duration::from_secs(10)).context("capturing traffic")?;
        Ok(process)
    }
}

fn parse_traffic(text: &str, interface: &str) -> Option<Traffic> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'))?;
    let mut numbers = line.split_whitespace().map(|word| word.parse().ok());
    Some(Traffic { received: numbers.next()??, sent: numbers.nth(7)?? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_counters_are_read() {
        let text = "Inter-|   Receive |  Transmit\n face |bytes\n    lo:     1 0 0 0 0 0 0 0        1 0\n  \
                    eth0: 123456     9 0 0 0 0 0 0    654     8 0 0 0 0 0 0\n";
        assert_eq!(parse_traffic(text, "eth0"), Some(Traffic { received: 123_456, sent: 654 }));
        assert_eq!(parse_traffic(text, "eth1"), None);
    }
}
