//! Child processes that never outlive us, and time limits on all of them.
//!
//! A [`Process`] leads its own process group and is killed with it on drop; `setpriv --pdeathsig` has the kernel do
//! the same if this program is killed. What a process says goes to a log file, so that nobody blocks on a full pipe.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

/// How much of a log an error quotes.
const TAIL_BYTES: usize = 4096;

/// A running child.
pub struct Process {
    name: String,
    child: Child,
    pidfd: OwnedFd,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with its stderr, and its stdout unless the caller asked for a pipe by `piped`, appended to
    /// `log`.
    pub fn spawn(name: &str, mut command: Command, log: &Path, piped: bool) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = file.with_context(|| format!("opening {}", log.display()))?;
        let stdout = if piped { Stdio::piped() } else { file.try_clone().context("sharing a log file")?.into() };
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name} ({command:?})"))?;
        let pidfd = open_pidfd(&child).with_context(|| format!("watching {name}"))?;
        Ok(Self { name: name.to_owned(), child, pidfd, log: log.to_path_buf(), ended: None })
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns a descriptor that becomes readable when the process ends.
    pub fn ending(&self) -> Result<OwnedFd> {
        self.pidfd.try_clone().context("sharing a pidfd")
    }

    /// Reads one line from the piped stdout, without its end.
    pub fn first_line(&mut self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut line = Vec::new();
        let mut byte = [0];
        let Some(stdout) = self.child.stdout.as_mut() else { bail!("{} has no piped stdout", self.name) };
        loop {
            if !readable(&*stdout, deadline)? {
                bail!("{} said nothing within {limit:?}{}", self.name, tail(&self.log));
            }
            if stdout.read(&mut byte).context("reading a first line")? == 0 {
                bail!("{} ended before its first line{}", self.name, tail(&self.log));
            }
            if byte[0] == b'\n' {
                return String::from_utf8(line).with_context(|| format!("{} printed no text", self.name));
            }
            line.push(byte[0]);
        }
    }

    /// Returns everything left on the piped stdout of a process that has ended.
    pub fn rest(&mut self) -> Result<String> {
        let mut text = String::new();
        if let Some(stdout) = self.child.stdout.as_mut() {
            stdout.read_to_string(&mut text).context("reading what is left on stdout")?;
        }
        Ok(text)
    }

    /// Waits for the end; `None` if the time was up first.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() && readable(&self.pidfd, Instant::now() + limit)? {
            self.ended = Some(self.child.wait().with_context(|| format!("collecting {}", self.name))?);
        }
        Ok(self.ended)
    }

    /// Sends SIGTERM and waits; an error if it does not end in time.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        match self.wait(limit)? {
            Some(status) => Ok(status),
            None => bail!("{} did not end within {limit:?} of SIGTERM{}", self.name, tail(&self.log)),
        }
    }

    /// Kills it at once, as a power cut would.
    pub fn kill(&mut self) -> Result<()> {
        if self.ended.is_none() {
            self.signal(Signal::KILL)?;
            self.ended = Some(self.child.wait().with_context(|| format!("collecting {}", self.name))?);
        }
        Ok(())
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.ended.is_some() {
            return Ok(());
        }
        kill_process(pid_of(&self.child)?, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// Returns the end of its log, for an error message.
    pub fn tail(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The group may still hold grandchildren after its leader has ended; both calls may find nobody.
        if let Ok(pid) = pid_of(&self.child) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.kill();
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.pid())
    }
}

/// What a short command left behind.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The exit code; 128 + signal where a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it complained about.
    pub stderr: String,
}

/// Runs a command to its end; an error if it takes longer than `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    let mut stdout = tempfile::tempfile().context("making a file for stdout")?;
    let mut stderr = tempfile::tempfile().context("making a file for stderr")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().context("sharing stdout")?)
        .stderr(stderr.try_clone().context("sharing stderr")?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("running {command:?}"))?;
    let pidfd = open_pidfd(&child)?;
    if !readable(&pidfd, Instant::now() + limit)? {
        let _ = kill_process_group(pid_of(&child)?, Signal::KILL);
        child.wait().context("collecting a command")?;
        bail!("{command:?} took longer than {limit:?}: {}", String::from_utf8_lossy(&contents(&mut stderr)?));
    }
    let status = child.wait().context("collecting a command")?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    let stderr = String::from_utf8_lossy(&contents(&mut stderr)?).into_owned();
    Ok(Finished { code, stdout: contents(&mut stdout)?, stderr })
}

/// As [`run`], and an error unless the command succeeds. Returns what it printed, trimmed.
pub fn succeed(command: &mut Command, limit: Duration) -> Result<String> {
    let finished = run(command, limit)?;
    if finished.code != 0 {
        bail!("{command:?} failed with {}: {}", finished.code, finished.stderr.trim());
    }
    Ok(String::from_utf8_lossy(&finished.stdout).trim().to_owned())
}

/// Waits until a descriptor can be read; false when the deadline came first.
pub(crate) fn readable(fd: &impl AsFd, deadline: Instant) -> Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).context("a time limit out of range")?;
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for a descriptor"),
        }
    }
}

fn open_pidfd(child: &Child) -> Result<OwnedFd> {
    pidfd_open(pid_of(child)?, PidfdFlags::empty()).context("opening a pidfd")
}

fn pid_of(child: &Child) -> Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id out of range")
}

fn contents(file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).context("reading what a command printed")?;
    Ok(bytes)
}

fn tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]).into_owned();
    format!("\n--- end of {}:\n{text}---", log.display())
}
