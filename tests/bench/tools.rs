//! What is measured side by side: Hearth, what people use now, iroh's library, and a TCP stream.

mod hearth;
mod rsync;
mod syncthing;
mod unison;

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hearth_tests::link::Line;

use crate::ground::Ground;

/// Longer than any tool here waits before it looks.
const CALM: Duration = Duration::from_secs(3);

/// A way to make one tree on the desktop what it is on the laptop.
pub(crate) trait Tool {
    /// Starts both sides with the trees as they are, and returns once they would notice a change.
    fn start(&mut self) -> Result<()>;

    /// Ends both sides.
    fn stop(&mut self) -> Result<()>;

    /// Where the tree is on a machine.
    fn tree(&self, on: On) -> PathBuf;

    /// Returns once the desktop has what the laptop has, as the tool itself sees it. What only runs when told to runs now.
    fn settle(&mut self) -> Result<()>;

    /// As [`Self::settle`], for changes that need not all be seen at once: returns when nothing has happened for a while.
    fn settle_for_good(&mut self) -> Result<()> {
        for _ in 0..3 {
            self.settle()?;
            // What has a timer of its own says nothing before it has run.
            if self.is_live() {
                thread::sleep(CALM);
            }
        }
        self.settle()
    }

    /// CPU time of both sides so far, in seconds, without what was spent before the start.
    fn cpu(&self) -> Result<f64>;

    /// The processes that run all the time, of laptop and desktop; nothing where nothing does.
    fn processes(&self) -> Result<Option<[u32; 2]>>;

    /// From now on changes are to be seen without telling it to look. Returns whether it can do that at all.
    fn watch(&mut self) -> Result<bool>;

    /// Whether it sees changes by itself now.
    fn is_live(&self) -> bool;

    /// The network and the file systems it runs on.
    fn ground(&self) -> &Ground;
}

/// One of the two machines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum On {
    Laptop,
    Desktop,
}

/// Which tool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Which {
    Hearth,
    Rsync,
    Unison,
    Syncthing,
    /// Makes connections, and nothing of them.
    Iroh,
    /// One TCP stream.
    Iperf,
}

impl Which {
    pub(crate) const ALL: [Self; 6] =
        [Self::Hearth, Self::Rsync, Self::Unison, Self::Syncthing, Self::Iroh, Self::Iperf];

    /// Whether it brings a tree from one machine to another.
    pub(crate) fn syncs(self) -> bool {
        !matches!(self, Self::Iroh | Self::Iperf)
    }

    /// Whether its connections can be had without the rest of it.
    pub(crate) fn is_library(self) -> bool {
        matches!(self, Self::Hearth | Self::Iroh)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hearth => "hearth",
            Self::Rsync => "rsync",
            Self::Unison => "unison",
            Self::Syncthing => "syncthing",
            Self::Iroh => "iroh",
            Self::Iperf => "iperf3",
        }
    }

    /// Sets it up on fresh ground, with empty trees and not started; the two sides are near each other, or on a line.
    pub(crate) fn set_up(self, line: Option<Line>) -> Result<Box<dyn Tool>> {
        let ground = Ground::new(line)?;
        Ok(match self {
            Self::Hearth => Box::new(hearth::Hearth::new(ground)?),
            Self::Rsync => Box::new(rsync::Rsync::new(ground)?),
            Self::Unison => Box::new(unison::Unison::new(ground)?),
            Self::Syncthing => Box::new(syncthing::Syncthing::new(ground)?),
            Self::Iroh | Self::Iperf => bail!("{} makes connections and no trees", self.name()),
        })
    }
}

/// CPU time that a process and its children that have ended used, in seconds, by the kernel's clock of 10 ms.
pub(crate) fn cpu_of(pid: u32) -> Result<f64> {
    Ok(times(pid)?.iter().sum())
}

/// What all that this program has waited for took; while nothing else is started, differences are the copying's.
fn cpu_of_own_children() -> Result<f64> {
    Ok(times(std::process::id())?[2..].iter().sum())
}

/// CPU time of a process in user and kernel mode, and of its children that have ended, in seconds.
fn times(pid: u32) -> Result<[f64; 4]> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("reading a process's times")?;
    // The name before it may hold anything, brackets too.
    let (_, numbers) = text.rsplit_once(')').context("a process's times follow its name")?;
    let ticks = numbers.split_whitespace().skip(11).filter_map(|word| word.parse::<u64>().ok());
    let times: Vec<f64> = ticks.take(4).map(|ticks| ticks as f64 / 100.0).collect();
    times.try_into().ok().context("a process has four times")
}

/// A line of `/proc/PID/status`, in KiB.
pub(crate) fn status_of(pid: u32, line: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("reading a process's status")?;
    let kibibytes = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
    let kibibytes = kibibytes.and_then(|words| words.split_whitespace().next()?.parse().ok());
    kibibytes.with_context(|| format!("a process's status has {line}"))
}

/// A line of `/proc/PID/status` of what runs all the time, in megabytes on laptop and desktop.
pub(crate) fn memory(tool: &dyn Tool, line: &str) -> Result<Option<[f64; 2]>> {
    let of = |pid: u32| Ok::<_, anyhow::Error>(status_of(pid, line)? * 1024.0 / 1e6);
    let Some([laptop, desktop]) = tool.processes()? else { return Ok(None) };
    Ok(Some([of(laptop)?, of(desktop)?]))
}

/// CPU time of what runs all the time, in seconds on laptop and desktop, by the scheduler's count of nanoseconds.
pub(crate) fn cpu_exactly(tool: &dyn Tool) -> Result<Option<[f64; 2]>> {
    let of = |pid: u32| -> Result<f64> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{pid}/task")).context("listing threads")?.filter_map(Result::ok) {
            let text = fs::read_to_string(thread.path().join("schedstat")).context("reading a thread's times")?;
            let ran = text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
            nanoseconds += ran.context("a thread's time on the processor")?;
        }
        Ok(nanoseconds as f64 / 1e9)
    };
    let Some([laptop, desktop]) = tool.processes()? else { return Ok(None) };
    Ok(Some([of(laptop)?, of(desktop)?]))
}
