//! What one relay carries: two thousand devices that are there and say nothing, over either leg; fifty pairs that talk beside
//! them; and floods beside those.
//!
//! The idle devices are forty hosts of fifty devices, since a relay limits what one address may do. Pairs talk on the
//! relay's own host, so that nothing but the relay is between them, and in turn with as many that talk without it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hearth_tests::lab::{Lab, RELAY_IP};
use hearth_tests::process::Process;
use hearth_tests::relay::Relay;
use hearth_tests::scratch::Scratch;

use crate::report::{Bound, Report};
use crate::tools::{self, Which};

const HOSTS: usize = 40;
const DEVICES: usize = 50;
const PAIRS: &str = "50";
const START_LIMIT: Duration = Duration::from_secs(300);
/// Two lines come every two seconds.
const LINE_LIMIT: Duration = Duration::from_secs(30);
/// Until what logging in took has been given back, and every device has bound itself twice.
const CALM: Duration = Duration::from_secs(40);
const IDLE: Duration = Duration::from_secs(60);
/// How many turns of both kinds of pairs, of a second each, are listened to.
const TURNS: usize = 10;
/// What comes to do harm, and from how many hosts at once.
const FLOODS: [(&str, &str, usize); 4] = [
    ("20,000 packets of garbage a second", "garbage", 4),
    ("20,000 first packets of handshakes a second", "handshakes", 4),
    ("TCP connections that say nothing, 4,000 a second", "knocks", 4),
    ("1,000 who take nothing of what they ask for", "readers", 20),
];

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    for (leg, udp) in [("UDP", true), ("TCP", false)] {
        let ground = Ground::new(udp)?;
        let before = ground.memory("VmRSS")?;
        let _crowd = ground.crowd()?;
        let name = |what: &str| format!("2,000 idle devices over {leg}: {what}");
        thread::sleep(CALM);
        let each = (ground.memory("VmRSS")? - before) / (HOSTS * DEVICES) as f64;
        let metric = name("the relay's memory for each");
        report.sample(&metric, Which::Hearth, each, "KiB");
        if !udp {
            report.expect(&metric, &[Bound::AtMost(34.0)]);
        }
        let before = tools::cpu_of(ground.pid()?)?;
        thread::sleep(IDLE);
        report.sample(
            &name("the relay's CPU time in a minute"),
            Which::Hearth,
            tools::cpu_of(ground.pid()?)? - before,
            "s",
        );
        if udp {
            pairs(&ground, report)?;
        }
    }
    Ok(())
}

/// Has pairs talk beside the idle devices, alone and then beside each flood.
fn pairs(ground: &Ground, report: &mut Report) -> Result<()> {
    let mut pairs = ground.process("relay", &["pairs", ground.relay.address(), PAIRS])?;
    while pairs.first_line(START_LIMIT)? != "there" {}
    let quiet = listen(&mut pairs)?;
    let before = tools::cpu_of(ground.pid()?)?;
    let begun = Instant::now();
    let more = listen(&mut pairs)?;
    let busy = (tools::cpu_of(ground.pid()?)? - before) / begun.elapsed().as_secs_f64();
    let name = |what: &str| format!("50 pairs of 1 Mbit/s each way: {what}");
    for heard in [&quiet, &more] {
        report.sample(
            &name("added by the relay, half of all"),
            Which::Hearth,
            heard.relayed[0] - heard.straight[0],
            "ms",
        );
        let metric = name("added by the relay, 99 of 100");
        report.sample(&metric, Which::Hearth, heard.relayed[1] - heard.straight[1], "ms");
        report.expect(&metric, &[Bound::AtMost(1.0)]);
        report.sample(&name("lost by the relay"), Which::Hearth, heard.lost, "%");
    }
    report.sample(&name("the relay's processor"), Which::Hearth, busy, "of one");
    for (what, kind, hosts) in FLOODS {
        fs::write(format!("/proc/{}/clear_refs", ground.pid()?), "5").context("forgetting the most memory so far")?;
        let before = ground.memory("VmRSS")?;
        let mut floods = (0..hosts)
            .map(|host| ground.process(&format!("c{host}"), &["flood", ground.relay.address(), kind]))
            .collect::<Result<Vec<_>>>()?;
        floods.iter_mut().try_for_each(|flood| {
            let begun = flood.first_line(START_LIMIT)?;
            anyhow::ensure!(begun == "begun", "a flood said {begun}");
            Ok(())
        })?;
        let heard = listen(&mut pairs)?;
        let name = |figure: &str| format!("beside {what}: {figure}");
        report.sample(
            &name("added by the relay, 99 of 100"),
            Which::Hearth,
            heard.relayed[1] - heard.straight[1],
            "ms",
        );
        report.sample(&name("straight, 99 of 100"), Which::Hearth, heard.straight[1], "ms");
        report.sample(&name("lost by the relay"), Which::Hearth, heard.lost, "%");
        let most = (ground.memory("VmHWM")? - before) / 1024.0;
        report.sample(&name("more memory at most"), Which::Hearth, most, "MiB");
        drop(floods);
        // What a flood leaves is not the next one's.
        listen(&mut pairs)?;
    }
    Ok(())
}

/// What pairs heard in some turns: medians of the turns' figures.
struct Heard {
    /// How long words were under way, half of all and 99 of 100, in milliseconds.
    relayed: [f64; 2],
    straight: [f64; 2],
    /// Words that were said by the relay and not heard, in percent.
    lost: f64,
}

fn listen(pairs: &mut Process) -> Result<Heard> {
    let (mut relayed, mut straight) = ([vec![], vec![]], [vec![], vec![]]);
    let (mut said, mut heard) = (0.0, 0.0);
    while straight[0].len() <= TURNS {
        let line = pairs.first_line(LINE_LIMIT)?;
        let mut words = line.split(' ');
        let way = words.next();
        let figures = words.map(str::parse).collect::<Result<Vec<f64>, _>>().context("a turn's figures")?;
        let [half, most, spoken, received] = figures[..] else { anyhow::bail!("pairs said {line}") };
        // The first turn is the end of what was before.
        let is_first = straight[0].is_empty();
        let figures = if way == Some("relayed") { &mut relayed } else { &mut straight };
        figures[0].push(half / 1000.0);
        figures[1].push(most / 1000.0);
        if way == Some("relayed") && !is_first {
            said += spoken;
            heard += received;
        }
    }
    let median = |figures: &mut Vec<f64>| {
        figures.remove(0);
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    Ok(Heard {
        relayed: relayed.each_mut().map(median),
        straight: straight.each_mut().map(median),
        lost: 100.0 * (said - heard).max(0.0) / said,
    })
}

/// A relay and the hosts of a crowd.
struct Ground {
    relay: Relay,
    lab: Lab,
    scratch: Scratch,
}

impl Ground {
    fn new(udp: bool) -> Result<Self> {
        let scratch = Scratch::new()?;
        let names: Vec<String> = (0..HOSTS).map(|host| format!("c{host}")).collect();
        let lab = Lab::new(&names.iter().map(String::as_str).collect::<Vec<_>>(), scratch.path())?;
        if !udp {
            names.iter().try_for_each(|name| lab.udp(name, false))?;
        }
        let room = lab.host("relay")?;
        let relay = Relay::start_logging(&scratch.path().join("relay"), Some(&**room), RELAY_IP, "warn")?;
        Ok(Self { relay, lab, scratch })
    }

    fn process(&self, host: &str, words: &[&str]) -> Result<Process> {
        let us = std::env::current_exe().context("finding the running program")?;
        let mut command = self.lab.host(host)?.enter(&us);
        command.arg("end").args(words);
        let log = self.scratch.path().join(format!("{host}.log"));
        Process::spawn(&format!("{} at {host}", words[0]), command, &log, true)
    }

    /// Brings all idle devices.
    fn crowd(&self) -> Result<Vec<Process>> {
        let devices = DEVICES.to_string();
        let words = ["crowd", self.relay.address(), &devices];
        let mut crowd = (0..HOSTS).map(|host| self.process(&format!("c{host}"), &words)).collect::<Result<Vec<_>>>()?;
        crowd.iter_mut().try_for_each(|host| host.first_line(START_LIMIT).map(drop))?;
        Ok(crowd)
    }

    fn pid(&self) -> Result<u32> {
        self.relay.pid().context("the relay has ended")
    }

    /// A line of the relay's `/proc/PID/status`, in KiB.
    fn memory(&self, line: &str) -> Result<f64> {
        tools::status_of(self.pid()?, line)
    }
}
