//! A relay for tests: the real `relay-server` on a port of its own.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{Process, succeed};
use crate::program::program;
use crate::room::{Room, SEARCH_PATH, outdoors};

const START_LIMIT: Duration = Duration::from_secs(10);
/// Both daemons promise to end this soon after SIGTERM.
pub const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A relay with its data.
#[derive(Debug)]
pub struct Relay {
    folder: PathBuf,
    listen: String,
    address: String,
    log_filter: String,
    admission: &'static str,
    program: &'static str,
    process: Option<Process>,
}

impl Relay {
    /// Starts a relay with its data under `folder`, listening on `ip` and a free port.
    pub fn start(folder: &Path, room: Option<&Room>, ip: &str) -> Result<Self> {
        Self::start_logging(folder, room, ip, "info")
    }

    /// As [`Self::start`], with the filter that its log is written by.
    pub fn start_logging(folder: &Path, room: Option<&Room>, ip: &str, log_filter: &str) -> Result<Self> {
        Self::start_on(folder, room, &format!("{ip}:0"), log_filter)
    }

    /// As [`Self::start_logging`], listening on an address with a port.
    pub fn start_on(folder: &Path, room: Option<&Room>, listen: &str, log_filter: &str) -> Result<Self> {
        Self::start_admitting("open", folder, room, listen, log_filter)
    }

    /// Starts a relay that takes new accounts by invitation only.
    pub fn by_invitation(folder: &Path, room: Option<&Room>, ip: &str) -> Result<Self> {
        Self::start_admitting("invite", folder, room, &format!("{ip}:0"), "info")
    }

    /// Returns an invitation for one account.
    pub fn invite(&self) -> Result<String> {
        let mut command = outdoors(program("relay-server")?);
        command.arg("invite").arg("--data").arg(self.data());
        Ok(succeed(&mut command, START_LIMIT)?.trim().to_owned())
    }

    fn start_admitting(
        admission: &'static str,
        folder: &Path,
        room: Option<&Room>,
        listen: &str,
        log_filter: &str,
    ) -> Result<Self> {
        Self::start_program("relay-server", admission, folder, room, listen, log_filter)
    }

    /// Starts the relay that lies (`tests/bin/evil_relay.rs`) in the place of the real one.
    pub fn evil(folder: &Path, room: Option<&Room>, ip: &str) -> Result<Self> {
        Self::start_program("evil-relay", "open", folder, room, &format!("{ip}:0"), "info")
    }

    /// Has the relay that lies do this from now on; `count` changes nothing. Gives the number of its misdeeds so far.
    pub fn order(&self, misdeed: &str) -> Result<u64> {
        let mut stream = UnixStream::connect(self.folder.join("orders")).context("giving an order")?;
        stream.set_read_timeout(Some(START_LIMIT)).context("setting a time limit")?;
        stream.write_all(format!("{misdeed}\n").as_bytes()).context("giving an order")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).context("hearing what was made of an order")?;
        answer.trim().parse().with_context(|| format!("the order {misdeed} was answered with {answer}"))
    }

    fn start_program(
        program: &'static str,
        admission: &'static str,
        folder: &Path,
        room: Option<&Room>,
        listen: &str,
        log_filter: &str,
    ) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let mut relay = Self {
            admission,
            program,
            folder: folder.to_path_buf(),
            listen: listen.to_owned(),
            address: String::new(),
            log_filter: log_filter.to_owned(),
            process: None,
        };
        relay.again(room)?;
        relay.listen = host_and_port(&relay.address)?.to_owned();
        Ok(relay)
    }

    /// Starts it once more on the same address, after [`Self::stop`] or [`Self::kill`].
    pub fn again(&mut self, room: Option<&Room>) -> Result<()> {
        let server = program(self.program)?;
        let mut command = room.map_or_else(|| outdoors(&server), |room| room.enter(&server));
        command.env_clear().env("PATH", SEARCH_PATH).env("RUST_LOG", &self.log_filter);
        command.arg("serve").arg("--data").arg(self.data()).args([
            "--listen",
            &self.listen,
            "--admission",
            self.admission,
        ]);
        let mut process = Process::spawn(self.program, command, &self.log(), true)?;
        let line = process.first_line(START_LIMIT)?;
        let address = line.split_whitespace().last().context("the relay's first line is empty")?;
        ensure!(address.starts_with("hearth://"), "the relay's first line ends in no address: {line}");
        ensure!(
            self.address.is_empty() || self.address == address,
            "the relay changed its address from {} to {address}",
            self.address
        );
        self.address = address.to_owned();
        self.process = Some(process);
        Ok(())
    }

    /// Ends it as a service manager would; an error if that takes too long.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let status = process.terminate(STOP_LIMIT)?;
        ensure!(status.success(), "the relay ended with {status}{}", process.tail());
        let rest = process.rest()?;
        ensure!(rest.is_empty(), "the relay printed more than its address on stdout: {rest}");
        Ok(())
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Returns the address as `--relay` takes it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the folder of its database.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Returns the file of its log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("relay.log")
    }

    /// Returns its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }
}

fn host_and_port(address: &str) -> Result<&str> {
    let rest = address.strip_prefix("hearth://").context("a relay address begins with hearth://")?;
    Ok(rest.split('#').next().unwrap_or(rest))
}
