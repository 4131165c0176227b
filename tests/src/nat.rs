//! The NAT lab: homes behind routers of every kind, and a relay on the internet between them.
//!
//! `tests/natlab/natlab` builds a scenario from namespaces and changes it while connections run. Here it gets a network, a
//! mount table and a `/run` of its own, so that labs do not see each other, and a lab goes with the process that holds
//! it, whichever way its test ends. [`NatPair`] is two machines and a relay in there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::answer::Status;
use crate::lab::Traffic;
use crate::machine::{Kind, Machine};
use crate::pair::{LATER, SOON, init, join_by_code};
use crate::process::{Process, run, succeed};
use crate::relay::Relay;
use crate::room::{Room, Walls};
use crate::scratch::Scratch;
use crate::tree;

const NATLAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/natlab/natlab");
/// What the lab calls, and the package that has it.
const NEEDED: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("sysctl", "procps"),
    ("python3", "python3"),
    ("cc", "gcc"),
];
/// How long a scenario may take to come up on a busy computer, a compiler's run included.
const UP_LIMIT: Duration = Duration::from_secs(60);
/// How long a change may take; a router's reboot takes as long as it is told to.
const ACT_LIMIT: Duration = Duration::from_secs(60);
const SELFTEST_LIMIT: Duration = Duration::from_secs(180);

/// One scenario, as long as this value lives.
#[derive(Debug)]
pub struct NatLab {
    prefix: String,
    variables: BTreeMap<String, String>,
    /// The script that has built it: what it runs ends with it.
    _holder: Process,
    place: Room,
    logs: PathBuf,
}

impl NatLab {
    /// Builds a scenario of `natlab list`, with options of `natlab up`.
    pub fn up(scenario: &str, options: &[&str], logs: &Path) -> Result<Self> {
        let (place, prefix) = (place(logs)?, prefix());
        let mut command = place.enter(NATLAB);
        command.args(["-p", &prefix, "hold", scenario]).args(options);
        let mut holder = Process::spawn("natlab", command, &logs.join("natlab.log"), true)?;
        holder.first_line(UP_LIMIT).with_context(|| format!("building the network {scenario}"))?;
        let mut lab = Self { prefix, variables: BTreeMap::new(), _holder: holder, place, logs: logs.to_path_buf() };
        lab.variables = parse_variables(&lab.tell(&["env"])?);
        Ok(lab)
    }

    /// Returns what its namespaces' names begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the two hosts that the scenario is about.
    pub fn pair(&self) -> Result<(&str, &str)> {
        self.variable("PAIR")?.split_once(' ').context("a pair is two hosts")
    }

    /// Returns a variable of `natlab env`: `RELAY`, `A1`, `PA` and others are addresses.
    pub fn variable(&self, name: &str) -> Result<&str> {
        self.variables.get(name).map(String::as_str).with_context(|| format!("the lab has no variable {name}"))
    }

    /// Returns a room in the network of a host: `relay`, `a1`, `b1`, a router `ra` …
    pub fn host(&self, name: &str) -> Result<Rc<Room>> {
        Ok(Rc::new(self.place.named(&format!("{}-{name}", self.prefix), &self.logs)?))
    }

    /// Changes the network, as `natlab act` does; returns once it is changed.
    pub fn act(&self, action: &[&str]) -> Result<()> {
        self.tell(&[&["act"], action].concat()).map(drop)
    }

    /// Returns a LAN's proxy, as programs find it in their environment, by the variable of its address, if there is one.
    pub fn proxy_url(&self, variable: &str) -> Result<Option<String>> {
        Ok(self.proxy(variable)?.map(|proxy| proxy.url()))
    }

    /// Returns a LAN's proxy by the variable of its address, if there is one.
    fn proxy(&self, variable: &str) -> Result<Option<Proxy>> {
        let ip = self.variable(variable)?.to_owned();
        let (user, password) = self.variable("AUTH")?.split_once(':').unwrap_or_default();
        Ok((!ip.is_empty()).then(|| Proxy { ip, user: user.to_owned(), password: password.to_owned() }))
    }

    fn tell(&self, words: &[&str]) -> Result<String> {
        succeed(self.place.enter(NATLAB).args(["-p", &self.prefix]).args(words), ACT_LIMIT)
    }
}

/// The HTTP proxy of a LAN that nothing else leads out of.
struct Proxy {
    ip: String,
    user: String,
    password: String,
}

impl Proxy {
    /// Returns it as programs find it in their environment.
    fn url(&self) -> String {
        let Self { ip, user, password } = self;
        if user.is_empty() { format!("http://{ip}:3128") } else { format!("http://{user}:{password}@{ip}:3128") }
    }

    /// Sets it in a machine's desktop.
    fn set_on(&self, machine: &Machine) -> Result<()> {
        let set = |schema: &str, key: &str, value: &str| {
            machine.gsettings(&["set", &format!("org.gnome.system.proxy{schema}"), key, value]).map(drop)
        };
        set(".https", "host", &self.ip)?;
        set(".https", "port", "3128")?;
        if !self.user.is_empty() {
            set(".http", "use-authentication", "true")?;
            set(".http", "authentication-user", &self.user)?;
            set(".http", "authentication-password", &self.password)?;
        }
        set("", "mode", "manual")
    }
}

/// Returns the names of all scenarios.
pub fn scenarios() -> Result<Vec<String>> {
    let listed = succeed(Command::new(NATLAB).arg("list"), ACT_LIMIT)?;
    Ok(listed.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect())
}

/// Has the lab prove that a scenario behaves as named; an error tells what does not.
pub fn selftest(scenario: &str, logs: &Path) -> Result<()> {
    let place = place(logs)?;
    // What the script starts on its way has no holder, so its process ids are a world of their own that ends with it.
    let mut command = place.enter("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", NATLAB, "-p", &prefix(), "selftest", scenario]);
    let finished = run(&mut command, SELFTEST_LIMIT)?;
    let said = String::from_utf8_lossy(&finished.stdout);
    ensure!(finished.code == 0 && said.contains(" 0 failed"), "{said}{}", finished.stderr);
    Ok(())
}

/// Two machines of one account in the two hosts of a scenario, and a relay on its internet. They end in this order.
#[derive(Debug)]
pub struct NatPair {
    /// The first device of the account, on the first host.
    pub laptop: Machine,
    /// The second, on the second.
    pub desktop: Machine,
    /// Their relay.
    pub relay: Relay,
    /// What is between them.
    pub lab: NatLab,
    at_desktop: Rc<Room>,
    scratch: Scratch,
}

impl NatPair {
    /// Builds the network, makes an account and both machines members of it, and waits until they agree.
    pub fn joined(scenario: &str, options: &[&str]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let logs = scratch.path().join("lab");
        fs::create_dir(&logs).context("making a folder for logs")?;
        let lab = NatLab::up(scenario, options, &logs)?;
        let listen = format!("{}:443", lab.variable("RELAY")?);
        let relay = Relay::start_on(&scratch.path().join("relay"), Some(&*lab.host("relay")?), &listen, "info")?;
        let (one, other) = lab.pair()?;
        let at_desktop = lab.host(other)?;
        // Behind a proxy one has it in its environment, and the other in the settings of its desktop.
        let environment = lab.proxy("PA")?.map(|proxy| ("https_proxy".to_owned(), proxy.url())).into_iter().collect();
        let usual = Kind { room: Some(lab.host(one)?), environment, ..Kind::default() };
        let laptop = Machine::new(scratch.path(), "laptop", usual)?;
        let usual = Kind { room: Some(Rc::clone(&at_desktop)), ..Kind::default() };
        let desktop = Machine::new(scratch.path(), "desktop", usual)?;
        if let Some(proxy) = lab.proxy("PB")? {
            proxy.set_on(&desktop)?;
        }
        let mut pair = Self { laptop, desktop, relay, lab, at_desktop, scratch };
        pair.laptop.launch()?;
        pair.desktop.launch()?;
        pair.laptop.until_up()?;
        pair.desktop.until_up()?;
        let address = pair.relay.address();
        init(&pair.laptop, address)?;
        join_by_code(&pair.laptop, &pair.desktop, address)?;
        pair.settle(LATER)?;
        Ok(pair)
    }

    /// Waits until both agree, as each of them sees it.
    pub fn settle(&self, limit: Duration) -> Result<()> {
        self.laptop.settle(limit)?;
        self.desktop.settle(limit)
    }

    /// Has each write a file, and waits until the other has it.
    pub fn exchange(&self, text: &str) -> Result<()> {
        for (from, to) in [(&self.laptop, &self.desktop), (&self.desktop, &self.laptop)] {
            let name = format!("{text}, from {}.txt", from.name());
            from.write(&name, text)?;
            to.until_content(&name, text.as_bytes(), SOON)?;
        }
        Ok(())
    }

    /// Waits until both say that this is how they reach the other: `lan`, `direct` or `relay`.
    pub fn until_path(&self, path: &str) -> Result<()> {
        for (machine, other) in [(&self.laptop, "desktop"), (&self.desktop, "laptop")] {
            machine.until_status(&format!("the path {path}"), LATER, |status| {
                status.peer(other).is_some_and(|peer| peer.online && peer.path.as_deref() == Some(path))
            })?;
        }
        Ok(())
    }

    /// An error unless both homes are alike.
    pub fn assert_alike(&self) -> Result<()> {
        tree::assert_equal(&self.laptop.home(), &self.desktop.home(), &tree::OWN)
    }

    /// An error unless the connection between them is still their first one.
    pub fn assert_one_connection(&self) -> Result<()> {
        for machine in [&self.laptop, &self.desktop] {
            let log = fs::read_to_string(machine.log()).context("reading a log")?;
            let made = log.matches("connected with slot").count();
            ensure!(made == 1, "{} connected {made} times:\n{log}", machine.name());
        }
        Ok(())
    }

    /// Starts the relay once more on its host.
    pub fn relay_again(&mut self) -> Result<()> {
        let room = self.lab.host("relay")?;
        self.relay.again(Some(&*room))
    }

    /// Returns what has gone through the desktop's interface so far.
    pub fn traffic_of_desktop(&self) -> Result<Traffic> {
        Traffic::of(&self.at_desktop, &["eth0"])
    }

    /// Waits until so many bytes have come in at the desktop's interface.
    pub fn until_received(&self, bytes: u64) -> Result<()> {
        let arrived = |_: &Status| self.traffic_of_desktop().is_ok_and(|traffic| traffic.received >= bytes);
        self.desktop.until_status("some of it to arrive", LATER, arrived).map(drop)
    }

    /// Returns the folder for everything of this pair.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }
}

/// Makes the place that a lab is built in: an empty network, and a `/run` in which only this lab leaves names.
fn place(logs: &Path) -> Result<Room> {
    let place = Room::new("natlab", Walls { network: true, mounts: true, user: false }, logs)?;
    for (program, package) in NEEDED {
        let there = place.run(&["sh", "-c", &format!("command -v {program}")]);
        there.with_context(|| format!("the NAT lab needs {program}; `scripts/setup test` installs {package}"))?;
    }
    place.run(&["mount", "-t", "tmpfs", "-o", "mode=0755", "natlab", "/run"])?;
    Ok(place)
}

/// Names the namespaces of one lab; by this its processes are told from those of another.
fn prefix() -> String {
    static LABS: AtomicU32 = AtomicU32::new(0);
    let number = LABS.fetch_add(1, Ordering::Relaxed);
    let letter = char::from(b'g' + u8::try_from(number % 20).unwrap_or_default());
    format!("{letter}{:x}", std::process::id())
}

fn parse_variables(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines.map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_lab_are_read() {
        let read = parse_variables("A1='192.168.1.10'\nPAIR='a1 b1'\nPA=''\n");
        assert_eq!(read["A1"], "192.168.1.10");
        assert_eq!(read["PAIR"], "a1 b1");
        assert_eq!(read["PA"], "");
    }
}
