//! How soon two machines reach each other in the networks of the NAT lab, and how much of the line their path carries.
//!
//! The line of each home is 200 Mbit/s either way, and 40 ms there and back between them. First two bare ends, ours
//! and iroh's one after the other in the same network; then two daemons. When something happened to those is read from the
//! desktop's log: it logs in to the relay, is connected with the laptop, and sends straight to it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use hearth_tests::nat::{NatLab, NatPair};
use hearth_tests::scratch::Scratch;
use hearth_tests::tree::write_noise;

use crate::ends::Ground;
use crate::report::Report;
use crate::tools::Which;

/// Every scenario in which each of the two is alone behind its own line, and whether a direct path is to be had.
const SCENARIOS: [(&str, bool); 16] = [
    ("open", true),
    ("easy", true),
    ("cone", true),
    ("cgnat", true),
    ("overlap", true),
    ("mtu1280", true),
    ("cone-hard", true),
    ("upnp", true),
    ("v6", true),
    ("hard-one", false),
    ("hard-both", false),
    ("cgnat-hard", false),
    ("udp-blocked-one", false),
    ("udp-blocked-both", false),
    ("proxy-one", false),
    ("proxy-both", false),
];
const LINE: [&str; 6] = ["--rtt", "40", "--down", "200", "--up", "200"];
const RTT_S: f64 = 0.040;
const LINE_BITS: f64 = 200e6;
const BYTES: u64 = 64 << 20;
const LIMIT: Duration = Duration::from_secs(120);

/// Measures in each scenario whose name is given, or in all if none is, so many times.
pub(crate) fn measure(tools: &[Which], networks: &[String], rounds: usize, report: &mut Report) -> Result<()> {
    let wanted = |name: &str| networks.is_empty() || networks.iter().any(|network| network == name);
    for (scenario, direct) in SCENARIOS.into_iter().filter(|(name, _)| wanted(name)) {
        ends(scenario, direct, tools, rounds, report).with_context(|| format!("two bare ends in {scenario}"))?;
        if tools.contains(&Which::Hearth) {
            daemons(scenario, direct, rounds, report).with_context(|| format!("meeting in {scenario}"))?;
        }
    }
    Ok(())
}

/// Two ends that have nothing to do but this.
fn ends(scenario: &str, direct: bool, tools: &[Which], rounds: usize, report: &mut Report) -> Result<()> {
    let scratch = Scratch::new()?;
    let lab = NatLab::up(scenario, &LINE, scratch.path())?;
    let way = if direct { "direct" } else { "any" };
    for _ in 0..rounds {
        for which in tools.iter().copied().filter(|which| which.is_library()) {
            let folder = Scratch::new()?;
            let ends = Ground::of_nat(&lab, folder.path())?.start(which, ["meet", &BYTES.to_string()], way)?;
            let measured = ends.measured().with_context(|| which.name())?;
            let share = |name| Ok::<_, anyhow::Error>(BYTES as f64 * 8.0 / measured.one(name)? / LINE_BITS);
            report.sample(&format!("{scenario}: relay reached"), which, measured.one("ready")? / RTT_S, "RTT");
            report.sample(&format!("{scenario}: first byte"), which, measured.one("first byte")? / RTT_S, "RTT");
            if direct {
                report.sample(&format!("{scenario}: first direct"), which, measured.one("way")? / RTT_S, "RTT");
            }
            report.sample(&format!("{scenario}: a stream's share, there"), which, share("there")?, "×");
            report.sample(&format!("{scenario}: a stream's share, back"), which, share("back")?, "×");
        }
    }
    Ok(())
}

fn daemons(scenario: &str, direct: bool, rounds: usize, report: &mut Report) -> Result<()> {
    let mut pair = NatPair::joined(scenario, &LINE)?;
    for round in 0..rounds {
        meet(&mut pair, scenario, direct, report)?;
        let name = format!("film {round}.bin");
        // In the home, as rooms have mounts of their own, and where nothing travels from.
        let waiting = pair.laptop.path(".cache/film.bin");
        fs::create_dir_all(pair.laptop.path(".cache")).context("making a folder")?;
        write_noise(&waiting, u64::try_from(round)?, BYTES)?;
        let begun = std::time::Instant::now();
        fs::rename(&waiting, pair.laptop.path(&name)).context("putting a file into the home")?;
        let took = pair.desktop.until_there(&name, true, LIMIT)?.duration_since(begun).as_secs_f64();
        let share = BYTES as f64 * 8.0 / took / LINE_BITS;
        report.sample(&format!("{scenario}: a file's share of the line"), Which::Hearth, share, "×");
    }
    Ok(())
}

/// Starts the desktop anew, and notes how many round trips after its login it was connected, and directly.
fn meet(pair: &mut NatPair, scenario: &str, direct: bool, report: &mut Report) -> Result<()> {
    pair.desktop.stop()?;
    let away = |status: &hearth_tests::answer::Status| status.peer("desktop").is_some_and(|peer| !peer.online);
    pair.laptop.until_status("the desktop to be away", LIMIT, away)?;
    let before = fs::read_to_string(pair.desktop.log()).context("reading the log")?.len();
    pair.desktop.start()?;
    pair.until_path(if direct { "direct" } else { "relay" })?;
    let log = fs::read_to_string(pair.desktop.log()).context("reading the log")?;
    let log = log.get(before..).context("the log grows")?;
    let login = moment(log, "logged in to the relay").context("a login")?;
    let since = |what: &str| Some((moment(log, what)? - login).rem_euclid(86_400.0) / RTT_S);
    let connected = since("connected with slot").context("a connection")?;
    report.sample(&format!("{scenario}: connected"), Which::Hearth, connected, "RTT");
    if let Some(straight) = since(" straight to ").filter(|_| direct) {
        report.sample(&format!("{scenario}: direct"), Which::Hearth, straight, "RTT");
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
