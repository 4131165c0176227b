//! Two ends of a connection without a daemon, and their relay, in one network: made of our own network edge, or of iroh's
//! library. Each end is a process in its host's network, and prints what it measures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hearth_tests::lab::{Lab, RELAY_IP};
use hearth_tests::nat::NatLab;
use hearth_tests::process::{Process, succeed};
use hearth_tests::relay::Relay;
use hearth_tests::room::Room;
use serde_json::Value;

use crate::tools::Which;

/// The project of the program that does with iroh what [`crate::bare`] does.
const IROH_PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/iroh-peer");
const BUILD_LIMIT: Duration = Duration::from_secs(3600);
/// How long an end may take until it is ready, and until it has measured.
const START_LIMIT: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(400);

/// Where two ends and their relay are.
pub(crate) struct Ground {
    ends: [Rc<Room>; 2],
    /// How each gets out where nothing else leads out.
    proxies: [Option<String>; 2],
    relay: Rc<Room>,
    relay_ip: String,
    folder: PathBuf,
}

impl Ground {
    /// The two hosts that a scenario of the NAT lab is about.
    pub(crate) fn of_nat(lab: &NatLab, folder: &Path) -> Result<Self> {
        let (one, other) = lab.pair()?;
        Ok(Self {
            ends: [lab.host(one)?, lab.host(other)?],
            proxies: [lab.proxy_url("PA")?, lab.proxy_url("PB")?],
            relay: lab.host("relay")?,
            relay_ip: lab.variable("RELAY")?.to_owned(),
            folder: folder.to_path_buf(),
        })
    }

    /// Two hosts of the small network.
    pub(crate) fn of_lab(lab: &Lab, ends: [&str; 2], folder: &Path) -> Result<Self> {
        Ok(Self {
            ends: [Rc::clone(lab.host(ends[0])?), Rc::clone(lab.host(ends[1])?)],
            proxies: [None, None],
            relay: Rc::clone(lab.host("relay")?),
            relay_ip: RELAY_IP.to_owned(),
            folder: folder.to_path_buf(),
        })
    }

    /// Returns what one TCP stream of so many bytes gets from either end to the relay's host, in Mbit/s: from the one that
    /// calls, and from the other. What it takes to come up to speed is in it.
    pub(crate) fn tcp(&self, bytes: u64) -> Result<[(&'static str, f64); 2]> {
        let rate = |end: usize| -> Result<f64> {
            let mut server = self.relay.enter("iperf3");
            // The port that is let out everywhere; no relay runs now.
            server.args(["--server", "--one-off", "--port", "443", "--forceflush"]);
            let mut server = Process::spawn("iperf3", server, &self.folder.join("iperf3.log"), true)?;
            while !server.first_line(START_LIMIT)?.contains("listening") {}
            let mut client = self.ends[end].enter("iperf3");
            client.args(["--client", &self.relay_ip, "--port", "443", "--json", "--bytes", &bytes.to_string()]);
            let answer: Value = serde_json::from_str(&succeed(&mut client, LIMIT)?).context("what iperf3 prints")?;
            let bits = answer["end"]["sum_received"]["bits_per_second"].as_f64().context("what iperf3 measured")?;
            Ok(bits / 1e6)
        };
        Ok([("there", rate(0)?), ("back", rate(1)?)])
    }

    /// Has one end call the other and do what `task` says: its name and its number. `way` is what packets are to take:
    /// `direct`, `relay`, where there is no other, or `any`.
    pub(crate) fn start(&self, which: Which, task: [&str; 2], way: &str) -> Result<Ends> {
        match which {
            Which::Hearth => self.start_ours(task, way),
            Which::Iroh => self.start_iroh(task, way),
            _ => bail!("{} is no library", which.name()),
        }
    }

    fn start_ours(&self, [verb, number]: [&str; 2], way: &str) -> Result<Ends> {
        let listen = format!("{}:443", self.relay_ip);
        let relay = Relay::start_on(&self.folder.join("relay"), Some(&*self.relay), &listen, "warn")?;
        let us = std::env::current_exe().context("finding the running program")?;
        let account = self.folder.join("account");
        let file = account.to_str().context("scratch paths are text")?;
        succeed(self.relay.enter(&us).args(["end", "enrol", relay.address(), file]), START_LIMIT)?;
        // The one that is there first calls, once the relay says that the other is there.
        let mut asking = self.process(0, &us, &["end", verb, file, way, number])?;
        let ready = asking.first_line(START_LIMIT).context("an end that calls")?;
        let mut answering = self.process(1, &us, &["end", "answer", file, way])?;
        answering.first_line(START_LIMIT).context("an end that answers")?;
        Ok(Ends {
            asking,
            _answering: answering,
            first: Some(ready),
            _relay: Server::Ours(relay),
            _rooms: self.rooms(),
        })
    }

    fn start_iroh(&self, [verb, number]: [&str; 2], way: &str) -> Result<Ends> {
        let program = iroh_peer();
        let folder = self.folder.to_str().context("scratch paths are text")?;
        let mut command = self.relay.enter(&program);
        command.args(["relay", &self.relay_ip, folder]);
        let mut relay = Process::spawn("iroh's relay", command, &self.folder.join("iroh-relay.log"), true)?;
        relay.first_line(START_LIMIT)?;
        let mut answering = self.process(1, &program, &["answer", folder, &self.relay_ip, way])?;
        let id = answering.first_line(START_LIMIT).context("an end that answers")?;
        let asking = self.process(0, &program, &[verb, folder, &self.relay_ip, way, &id, number])?;
        Ok(Ends { asking, _answering: answering, first: None, _relay: Server::Iroh(relay), _rooms: self.rooms() })
    }

    fn rooms(&self) -> [Rc<Room>; 3] {
        let [one, other] = &self.ends;
        [Rc::clone(one), Rc::clone(other), Rc::clone(&self.relay)]
    }

    fn process(&self, end: usize, program: &Path, words: &[&str]) -> Result<Process> {
        let mut command = self.ends[end].enter(program);
        command.args(words);
        if let Some(proxy) = &self.proxies[end] {
            command.env("https_proxy", proxy);
        }
        let name = format!("end {end}");
        Process::spawn(&name, command, &self.folder.join(format!("{name}.log")), true)
    }
}

/// Two ends and their relay, which run.
pub(crate) struct Ends {
    asking: Process,
    _answering: Process,
    /// A line that has been read already.
    first: Option<String>,
    _relay: Server,
    /// Where they are; a process may still be on its way in.
    _rooms: [Rc<Room>; 3],
}

/// Ends with its value.
#[expect(dead_code, reason = "held, so that it runs")]
enum Server {
    Ours(Relay),
    Iroh(Process),
}

impl Ends {
    /// Waits until echoes go to and fro.
    pub(crate) fn until_begun(&mut self) -> Result<()> {
        while self.asking.first_line(LIMIT)?.split(' ').next() != Some("begun") {}
        Ok(())
    }

    /// Waits for the end, and returns what was measured.
    pub(crate) fn measured(mut self) -> Result<Measured> {
        let Some(status) = self.asking.wait(LIMIT)? else {
            bail!("it took longer than {LIMIT:?}{}", self.asking.tail())
        };
        ensure!(status.success(), "an end failed with {status}{}", self.asking.tail());
        let lines =
            self.first.iter().cloned().chain(self.asking.rest()?.lines().map(str::to_owned)).collect::<Vec<_>>();
        let figure = |line: &String| {
            Some(line.rsplit_once(' ')?).and_then(|(name, number)| Some((name.to_owned(), number.parse().ok()?)))
        };
        Ok(Measured(lines.iter().filter_map(figure).collect()))
    }
}

/// What an end has measured, by name: seconds or a number.
pub(crate) struct Measured(Vec<(String, f64)>);

impl Measured {
    /// Returns what has this name; an error if nothing has.
    pub(crate) fn one(&self, name: &str) -> Result<f64> {
        self.all(name).first().copied().with_context(|| format!("{name} was not measured"))
    }

    /// Returns all that have this name, the smallest first.
    pub(crate) fn all(&self, name: &str) -> Vec<f64> {
        let mut all: Vec<f64> = self.0.iter().filter(|(other, _)| other == name).map(|(_, number)| *number).collect();
        all.sort_by(f64::total_cmp);
        all
    }
}

/// Builds the program that speaks iroh, which takes minutes when it is done first.
pub(crate) fn build_iroh() -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "--locked", "--target-dir"]).arg(iroh_target()).current_dir(IROH_PEER);
    succeed(&mut command, BUILD_LIMIT).context("building iroh's ends (tests/bench/iroh-peer)").map(drop)
}

fn iroh_peer() -> PathBuf {
    iroh_target().join("release/iroh-peer")
}

/// A folder of its own, as its packages are not ours.
fn iroh_target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    fs::canonicalize(&target).unwrap_or(target).join("iroh-peer")
}
