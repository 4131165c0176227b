//! A long, slow or lossy line between two rooms: kernels do not always have one to offer.
//!
//! The line is `tests/natlab/natlab-link.c`, which joins two TUN devices; it is compiled when it is first needed.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{Process, succeed};
use crate::room::Room;
use crate::watch::{Wake, until};

const LIMIT: Duration = Duration::from_secs(60);
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/natlab/natlab-link.c");
/// How long a packet may wait to be sent before the line drops it.
const QUEUE_MS: u32 = 200;

/// What a line is like, in both directions.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Line {
    /// One way, in milliseconds.
    pub delay_ms: u32,
    /// Packets lost of a million.
    pub lost_ppm: u32,
    /// Kilobits per second.
    pub kbit: u32,
}

/// A line that holds as long as this value lives. Its ends are devices called `line`, down and without addresses.
#[derive(Debug)]
pub struct Link {
    _process: Process,
}

impl Link {
    /// Lays a line between two rooms; `seed` decides which packets are lost.
    pub fn between(one: &Room, other: &Room, line: Line, seed: u64, logs: &Path) -> Result<Self> {
        let program = logs.join("natlab-link");
        if !program.exists() {
            let mut compile = Command::new("cc");
            succeed(compile.args(["-O2", "-o"]).arg(&program).arg(SOURCE), LIMIT).context("compiling the line")?;
        }
        let namespace = |room: &Room| format!("/proc/{}/ns/net", room.holder());
        let Line { delay_ms, lost_ppm, kbit } = line;
        let mut command = Command::new(program);
        command.args([&namespace(one), "line", &namespace(other), "line"]);
        command
            .args([u64::from(delay_ms) * 1000, lost_ppm.into(), kbit.into(), kbit.into()].map(|word| word.to_string()));
        command.args([QUEUE_MS.to_string(), seed.to_string()]);
        let process = Process::spawn("line", command, &logs.join("line.log"), false)?;
        let wake = Wake::when_ended(&process)?;
        until("the line's devices", LIMIT, &wake, || {
            let there = |room: &Room| room.run(&["ip", "link", "show", "line"]).is_ok();
            Ok((there(one) && there(other)).then_some(()))
        })?;
        Ok(Self { _process: process })
    }
}
