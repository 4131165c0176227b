//! The real relay as a child process, on loopback.

use std::path::Path;
use std::process::Stdio;

use hearth_schemas::address::RelayAddress;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::client::within;

/// A running relay; it is killed when dropped.
pub(crate) struct Relay {
    pub(crate) address: RelayAddress,
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
}

impl Relay {
    pub(crate) async fn start(data: &Path) -> Self {
        Self::start_with(data, &[]).await
    }

    pub(crate) async fn start_with(data: &Path, more: &[&str]) -> Self {
        let mut child = command(data).args(more).stderr(Stdio::inherit()).spawn().expect("the relay starts");
        let mut out = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = within(out.next_line()).await.expect("readable").expect("a first line");
        let word = line.rsplit(' ').next().expect("a last word");
        Self { address: RelayAddress::parse(word).expect("an address"), child, out }
    }

    /// The most memory that it has had at once so far, in KiB.
    pub(crate) fn most_memory_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id().expect("running"));
        let status = std::fs::read_to_string(path).expect("readable");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    }

    /// Kills the relay as a power cut would, as far as processes go.
    pub(crate) async fn kill(mut self) {
        within(self.child.kill()).await.expect("killed");
    }

    /// Stops the relay with SIGTERM, and gives its exit code and what else it printed.
    pub(crate) async fn terminate(mut self) -> (Option<i32>, Vec<String>) {
        let pid = rustix::process::Pid::from_raw(self.child.id().expect("running").cast_signed()).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
        let status = within(self.child.wait()).await.expect("ended");
        let mut printed = Vec::new();
        while let Some(line) = within(self.out.next_line()).await.expect("readable") {
            printed.push(line);
        }
        (status.code(), printed)
    }
}

/// Runs a relay that is expected to refuse to start, and gives what it complains.
pub(crate) async fn complaint(data: &Path) -> String {
    let mut child = command(data).stderr(Stdio::piped()).spawn().expect("the relay starts");
    let mut complaint = String::new();
    let mut stderr = child.stderr.take().expect("piped");
    within(stderr.read_to_string(&mut complaint)).await.expect("readable");
    assert!(!within(child.wait()).await.expect("ended").success());
    complaint
}

/// Makes an invitation.
pub(crate) async fn invitation(data: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay-server"));
    let output = within(command.arg("invite").arg("--data").arg(data).output()).await.expect("ran");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn command(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay-server"));
    command.arg("serve").arg("--data").arg(data).args(["--listen", "127.0.0.1:0"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}
