//! What an idle machine with 20,000 files notices of the daemon: CPU over a minute, and memory.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hearth_tests::machine::Machine;

use crate::report::{Goal, Report};
use crate::world::World;

/// Before the minute begins, whatever still cools down may.
const CALM: Duration = Duration::from_secs(20);
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn measure(world: &mut World, report: &mut Report) -> Result<()> {
    // Nothing happens for a minute: there is no event to wait for.
    thread::sleep(CALM);
    let machines = [&world.laptop, &world.desktop];
    let before = machines.map(cpu_seconds);
    let begun = Instant::now();
    thread::sleep(MINUTE);
    let minute = begun.elapsed().as_secs_f64();
    for (machine, before) in machines.into_iter().zip(before) {
        let name = machine.name();
        let share = (cpu_seconds(machine)? - before?) / minute * 100.0;
        report.add(&format!("idle with 20,000 files: CPU of the {name}"), share, "%", Some(Goal::AtMost(0.1)));
        resident(machine, "after the first sync", report)?;
    }
    for machine in [&mut world.laptop, &mut world.desktop] {
        machine.stop()?;
        machine.start()?;
    }
    for machine in [&world.laptop, &world.desktop] {
        machine.settle(MINUTE)?;
    }
    thread::sleep(CALM);
    for machine in [&world.laptop, &world.desktop] {
        resident(machine, "after a restart", report)?;
    }
    Ok(())
}

fn resident(machine: &Machine, when: &str, report: &mut Report) -> Result<()> {
    let what = format!("idle with 20,000 files {when}: memory of the {}", machine.name());
    report.add(&what, memory(machine, "VmRSS")?, "MB", Some(Goal::AtMost(40.0)));
    report.add("  of it its own, not files'", memory(machine, "RssAnon")?, "MB", None);
    Ok(())
}

/// Returns a line of `/proc/PID/status` in megabytes.
pub(crate) fn memory(machine: &Machine, line: &str) -> Result<f64> {
    let pid = machine.pid().context("the machine runs")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("reading a process's status")?;
    let kibibytes = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
    let kibibytes = kibibytes.and_then(|words| words.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kibibytes.with_context(|| format!("a process's status has {line}"))? * 1024.0 / 1e6)
}

/// Returns the CPU time that the daemon has used, by the scheduler's count of nanoseconds over all threads.
fn cpu_seconds(machine: &Machine) -> Result<f64> {
    let pid = machine.pid().context("the machine runs")?;
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("listing threads")?.filter_map(Result::ok) {
        let text = fs::read_to_string(thread.path().join("schedstat")).context("reading a thread's times")?;
        let ran = text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        nanoseconds += ran.context("a thread's time on the processor")?;
    }
    Ok(nanoseconds as f64 / 1e9)
}
