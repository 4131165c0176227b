//! How soon two machines reach each other in the networks of the NAT lab, and how much their path carries.
//!
//! The line of each home is 200 Mbit/s either way, and 40 ms there and back between them, where the network has no lines
//! of its own. A TCP stream from each end to the relay's host, then two bare ends, ours and iroh's one after the other in the same
//! network; then two daemons. When something happened to those is read from the desktop's log: it logs in to the relay,
//! is connected with the laptop, and sends straight to it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use hearth_tests::nat::{NatLab, NatPair};
use hearth_tests::scratch::Scratch;
use hearth_tests::tree::write_noise;

use crate::ends::Ground;
use crate::report::{Bound, Report};
use crate::tools::Which;

/// A scenario of the NAT lab.
struct Network {
    name: &'static str,
    way: Way,
    line: Line,
    /// Within how many round trips the first byte is to come, and the first that went straight.
    goals: (f64, Option<f64>),
    /// What a stream is to have of what a TCP stream over the same lines has; none if those are not the way it takes.
    share: Option<f64>,
}

/// How packets go in the end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Over the LAN that both are in.
    Lan,
    Direct,
    /// Through nothing but the relay, in which a TCP stream gets through as well.
    Relay,
    /// Through the relay, and nothing gets out to it but by a proxy.
    Proxy,
}

impl Way {
    fn is_straight(self) -> bool {
        matches!(self, Self::Lan | Self::Direct)
    }

    /// As `status` says it.
    fn name(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Direct => "direct",
            Self::Relay | Self::Proxy => "relay",
        }
    }
}

/// What there is between two homes.
struct Line {
    options: &'static [&'static str],
    rtt_s: f64,
    /// How much is sent over it.
    bytes: u64,
}

const PLAIN: Line = Line { options: &["--rtt", "40", "--down", "200", "--up", "200"], rtt_s: 0.040, bytes: 64 << 20 };
const PLAIN_MBIT: f64 = 200.0;
/// 100 Mbit/s down and 20 up.
const ASYM: Line = Line { options: &[], rtt_s: 0.020, bytes: 16 << 20 };
/// As much as TCP gets through in half a minute.
const LOSSY: Line = Line { options: &["--down", "200", "--up", "200"], rtt_s: 0.040, bytes: 8 << 20 };

/// Whoever has a way straight to the other, and when it is to be found.
const fn direct(name: &'static str, within: f64) -> Network {
    Network { name, way: Way::Direct, line: PLAIN, goals: (2.5, Some(within)), share: Some(0.85) }
}

const fn relayed(name: &'static str) -> Network {
    Network { name, way: Way::Relay, line: PLAIN, goals: (2.5, None), share: Some(0.8) }
}

const fn by_proxy(name: &'static str) -> Network {
    Network { name, way: Way::Proxy, line: PLAIN, goals: (2.5, None), share: Some(0.6) }
}

const NETWORKS: [Network; 21] = [
    direct("open", 3.0),
    direct("easy", 3.0),
    direct("cone", 3.0),
    direct("cgnat", 3.0),
    direct("overlap", 3.0),
    direct("mtu1280", 3.0),
    direct("cone-hard", 4.0),
    direct("upnp", 5.0),
    direct("v6", 3.0),
    Network { way: Way::Lan, share: None, ..direct("same-lan", 2.5) },
    Network { line: ASYM, share: Some(0.9), ..direct("asym", 3.5) },
    Network { line: LOSSY, goals: (3.0, Some(4.0)), share: Some(1.0), ..direct("lossy", 4.0) },
    relayed("lan-isolated"),
    relayed("cgnat-same"),
    relayed("hard-one"),
    relayed("hard-both"),
    relayed("cgnat-hard"),
    relayed("udp-blocked-one"),
    relayed("udp-blocked-both"),
    by_proxy("proxy-one"),
    by_proxy("proxy-both"),
];
/// In how many rounds a stream goes over the connection; the others only connect.
const STREAMS: usize = 3;
const LIMIT: Duration = Duration::from_secs(120);
const DAY_S: f64 = 86_400.0;

/// Measures in each network whose name is given, or in all if none is, so many times.
pub(crate) fn measure(tools: &[Which], networks: &[String], rounds: usize, report: &mut Report) -> Result<()> {
    let wanted = |name: &str| networks.is_empty() || networks.iter().any(|network| network == name);
    for network in NETWORKS.iter().filter(|network| wanted(network.name)) {
        ends(network, tools, rounds, report).with_context(|| format!("two bare ends in {}", network.name))?;
        if tools.contains(&Which::Hearth) {
            daemons(network, rounds, report).with_context(|| format!("meeting in {}", network.name))?;
        }
    }
    Ok(())
}

/// Two ends that have nothing to do but this.
fn ends(network: &Network, tools: &[Which], rounds: usize, report: &mut Report) -> Result<()> {
    let Network { name, way, line, goals: (first, straight), share } = network;
    report.expect(&format!("{name}: first byte"), &[Bound::AtMost(*first)]);
    if let Some(straight) = straight {
        report.expect(&format!("{name}: first direct"), &[Bound::AtMost(*straight), Bound::Times(1.0, Which::Iroh)]);
    }
    let stream = |end: &str| format!("{name}: a stream, {end}");
    let alone = share.map(|share| match way {
        Way::Proxy => Bound::AtLeast(share * PLAIN_MBIT),
        Way::Lan | Way::Direct | Way::Relay => Bound::AtLeastTimes(share, Which::Iperf),
    });
    let bounds: Vec<Bound> = alone.into_iter().chain([Bound::AtLeastTimes(1.0, Which::Iroh)]).collect();
    ["there", "back"].iter().for_each(|end| report.expect(&stream(end), &bounds));
    let scratch = Scratch::new()?;
    let lab = NatLab::up(name, line.options, scratch.path())?;
    for round in 0..rounds {
        let bytes = if round < STREAMS { line.bytes } else { 0 };
        if tools.contains(&Which::Iperf) && bytes > 0 && *way != Way::Proxy && share.is_some() {
            for (end, rate) in Ground::of_nat(&lab, scratch.path())?.tcp(bytes)? {
                report.sample(&stream(end), Which::Iperf, rate, "Mbit/s");
            }
        }
        for which in tools.iter().copied().filter(|which| which.is_library()) {
            let folder = Scratch::new()?;
            let wish = if way.is_straight() { "direct" } else { "any" };
            let ends = Ground::of_nat(&lab, folder.path())?.start(which, ["meet", &bytes.to_string()], wish)?;
            let measured = ends.measured().with_context(|| which.name())?;
            let mut trips = |what: &str, measured: f64| {
                report.sample(&format!("{name}: {what}"), which, measured / line.rtt_s, "RTT");
            };
            trips("relay reached", measured.one("ready")?);
            trips("first byte", measured.one("first byte")?);
            if way.is_straight() {
                // Iroh's packets go straight when they go no other way any more.
                trips("first direct", measured.one("straight").or_else(|_| measured.one("way"))?);
                trips("direct alone", measured.one("way")?);
            }
            for end in ["there", "back"].into_iter().filter(|_| bytes > 0) {
                let rate = bytes as f64 * 8.0 / measured.one(end)? / 1e6;
                report.sample(&stream(end), which, rate, "Mbit/s");
            }
        }
    }
    Ok(())
}

/// Two machines with homes, of which one goes and comes.
fn daemons(network: &Network, rounds: usize, report: &mut Report) -> Result<()> {
    let Network { name, line, .. } = network;
    let mut pair = NatPair::joined(name, line.options)?;
    for round in 0..rounds.min(STREAMS) {
        meet(&mut pair, network, report)?;
        let film = format!("film {round}.bin");
        // In the home, as rooms have mounts of their own, and where nothing travels from.
        let waiting = pair.laptop.path(".cache/film.bin");
        fs::create_dir_all(pair.laptop.path(".cache")).context("making a folder")?;
        write_noise(&waiting, u64::try_from(round)?, line.bytes)?;
        let begun = std::time::Instant::now();
        fs::rename(&waiting, pair.laptop.path(&film)).context("putting a file into the home")?;
        let took = pair.desktop.until_there(&film, true, LIMIT)?.duration_since(begun).as_secs_f64();
        report.sample(&format!("{name}: a file"), Which::Hearth, line.bytes as f64 * 8.0 / took / 1e6, "Mbit/s");
    }
    Ok(())
}

/// Starts the desktop anew, and notes how many round trips after its login it was connected, and directly.
fn meet(pair: &mut NatPair, network: &Network, report: &mut Report) -> Result<()> {
    pair.desktop.stop()?;
    let away = |status: &hearth_tests::answer::Status| status.peer("desktop").is_some_and(|peer| !peer.online);
    pair.laptop.until_status("the desktop to be away", LIMIT, away)?;
    let before = fs::read_to_string(pair.desktop.log()).context("reading the log")?.len();
    pair.desktop.start()?;
    pair.until_path(network.way.name())?;
    let log = fs::read_to_string(pair.desktop.log()).context("reading the log")?;
    let log = log.get(before..).context("the log grows")?;
    let login = moment(log, "logged in to the relay").context("a login")?;
    // Who is on one LAN is there before the relay; and midnight may lie between.
    let since = |what: &str| Some((moment(log, what)? - login + DAY_S / 2.0).rem_euclid(DAY_S) - DAY_S / 2.0);
    let mut trips = |what: &str, seconds: f64| {
        report.sample(&format!("{}: {what}", network.name), Which::Hearth, seconds / network.line.rtt_s, "RTT");
    };
    trips("connected", since("connected with slot").context("a connection")?);
    if let Some(straight) = since(" straight to ").filter(|_| network.way.is_straight()) {
        trips("direct", straight);
    }
    pair.settle(LIMIT)
}

/// When the first line with these words was written, in seconds of the day.
fn moment(log: &str, words: &str) -> Option<f64> {
    let line = log.lines().find(|line| line.contains(words))?;
    let time = line.split_once('T')?.1.split_once('Z')?.0;
    let mut parts = time.split(':').map(|part| part.parse::<f64>().ok());
    Some(parts.next()?? * 3600.0 + parts.next()?? * 60.0 + parts.next()??)
}
