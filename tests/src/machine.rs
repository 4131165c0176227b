//! A machine: a home, runtime directory, session bus and real dconf service of its own, and the daemon in it.
//!
//! Any number of them run side by side, since everything follows the environment. The harness looks at a machine as its
//! person would: files in the home, `hearth`, `gsettings`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;

use crate::answer::Status;
use crate::process::{Finished, Process, run};
use crate::program::program;
use crate::relay::STOP_LIMIT;
use crate::room::{Room, SEARCH_PATH, is_root, outdoors};
use crate::watch::{self, Wake, until};

/// `syncd` promises to answer `status` this soon after its start; a debug build on a busy computer gets more.
const START_LIMIT: Duration = Duration::from_secs(15);
/// The longest that a command may take which does not wait for anybody.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// How a machine differs from the usual one.
#[derive(Clone, Debug)]
pub struct Kind {
    /// The namespaces it lives in.
    pub room: Option<Rc<Room>>,
    /// Whether it has a session bus, and so settings.
    pub session_bus: bool,
    /// Whether file modes bind it even where the tests run as root.
    pub bound_by_modes: bool,
    /// The filter that `syncd` logs by.
    pub log_filter: String,
    /// What its programs find in the environment beside the usual.
    pub environment: Vec<(String, String)>,
}

impl Default for Kind {
    fn default() -> Self {
        Self {
            room: None,
            session_bus: true,
            bound_by_modes: false,
            log_filter: "info".to_owned(),
            environment: Vec::new(),
        }
    }
}

/// One machine; its processes end with this value, its files stay in the scratch folder.
#[derive(Debug)]
pub struct Machine {
    name: String,
    folder: PathBuf,
    kind: Kind,
    daemon: Option<Process>,
    bus: Option<Process>,
}

/// What lets a machine fill its disk.
const NOTHING_FREE: &str = "[disk]\nkeep_free_mib = 0\nkeep_free_percent = 0\n";

impl Machine {
    /// Makes the folders of a machine, and starts its session bus if it has one, but not the daemon.
    pub fn new(scratch: &Path, name: &str, kind: Kind) -> Result<Self> {
        let mut machine = Self { name: name.to_owned(), folder: scratch.join(name), kind, daemon: None, bus: None };
        for folder in [machine.home_inside(), machine.folder.join("run"), machine.folder.join("services")] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .with_context(|| format!("making {}", folder.display()))?;
        }
        // However full the disk is that the tests run on.
        machine.configure("")?;
        if machine.kind.session_bus {
            machine.start_bus()?;
        }
        Ok(machine)
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts the daemon, and returns once it answers.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        self.until_up()
    }

    /// Starts the daemon, and returns at once.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.daemon.is_none(), "{} runs already", self.name);
        let mut command = self.command(program("syncd")?);
        command.env("RUST_LOG", &self.kind.log_filter).env("RUST_BACKTRACE", "1");
        if !self.kind.session_bus {
            command.arg("--no-session-bus");
        }
        self.daemon = Some(Process::spawn(&format!("syncd of {}", self.name), command, &self.log(), false)?);
        Ok(())
    }

    /// Waits until the daemon that was launched answers; one that does not is ended.
    pub fn until_up(&mut self) -> Result<()> {
        let process = self.daemon.take().with_context(|| format!("{} does not run", self.name))?;
        let wake = Wake::when_ended(&process)?;
        let started = until("the daemon's first answer", START_LIMIT, &wake, || {
            Ok(Some(()).filter(|()| self.hearth(["status", "--json"]).is_ok_and(|reply| reply.code == 0)))
        });
        started.with_context(|| format!("starting {}{}", self.name, process.tail()))?;
        self.daemon = Some(process);
        Ok(())
    }

    /// Ends the daemon as a service manager would; an error if that takes too long or it ends badly.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.daemon.take() else { return Ok(()) };
        let status = process.terminate(STOP_LIMIT)?;
        ensure!(status.success(), "syncd of {} ended with {status}{}", self.name, process.tail());
        Ok(())
    }

    /// Ends the daemon as a power cut would.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Writes the machine's configuration: it may fill its disk, and this.
    pub fn configure(&self, more: &str) -> Result<()> {
        self.write(".config/hearth/config.toml", format!("{NOTHING_FREE}{more}"))
    }

    /// Returns the daemon's process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Process::pid)
    }

    /// Runs `hearth` with these arguments, whatever becomes of it.
    pub fn hearth<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Result<Finished> {
        self.hearth_within(COMMAND_LIMIT, arguments)
    }

    /// As [`Self::hearth`], for a command that may take longer than others.
    pub fn hearth_within<I: AsRef<OsStr>>(
        &self,
        limit: Duration,
        arguments: impl IntoIterator<Item = I>,
    ) -> Result<Finished> {
        let mut command = self.command(program("hearth")?);
        run(command.args(arguments), limit)
    }

    /// Runs `hearth --json`, which must succeed, and returns its answer.
    pub fn ask<T: DeserializeOwned>(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<T> {
        let mut line = vec![OsString::from("--json")];
        line.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        let reply = self.hearth(&line)?;
        if reply.code != 0 {
            bail!("{}: hearth {line:?} failed with {}: {}{}", self.name, reply.code, reply.stderr, self.tail());
        }
        serde_json::from_slice(&reply.stdout).with_context(|| {
            format!("{}: hearth {line:?} answered with {}", self.name, String::from_utf8_lossy(&reply.stdout))
        })
    }

    /// Returns `hearth status`.
    pub fn status(&self) -> Result<Status> {
        self.ask(["status"])
    }

    /// Waits until this machine and all others agree; an error when `limit` is over or something stands in the way.
    pub fn settle(&self, limit: Duration) -> Result<()> {
        self.agree(limit, &[])
    }

    /// As [`Self::settle`], with those others that are online.
    pub fn settle_with_those_online(&self, limit: Duration) -> Result<()> {
        self.agree(limit, &["--online"])
    }

    fn agree(&self, limit: Duration, with: &[&str]) -> Result<()> {
        let seconds = limit.as_secs().to_string();
        let line = [&["wait", "--timeout", &seconds, "--json"], with].concat();
        let reply = self.hearth_within(limit + COMMAND_LIMIT, line)?;
        if reply.code != 0 {
            let status =
                self.hearth(["status", "--json"]).map(|reply| String::from_utf8_lossy(&reply.stdout).into_owned());
            bail!("{}: hearth wait ended with {}: {}\n{status:?}{}", self.name, reply.code, reply.stderr, self.tail());
        }
        Ok(())
    }

    /// Waits until `hearth status` satisfies `check`.
    pub fn until_status(&self, what: &str, limit: Duration, check: impl Fn(&Status) -> bool) -> Result<Status> {
        let daemon = self.daemon.as_ref().with_context(|| format!("{} does not run", self.name))?;
        let mut last = None;
        let found = until(what, limit, &Wake::when_ended(daemon)?, || {
            let status = self.status()?;
            if check(&status) {
                return Ok(Some(status));
            }
            last = Some(status);
            Ok(None)
        });
        found.with_context(|| format!("{}: status was {last:?}{}", self.name, self.tail()))
    }

    /// Returns a path in the home, as the harness reaches it.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.home().join(relative)
    }

    /// Returns the home, as the harness reaches it.
    pub fn home(&self) -> PathBuf {
        let inside = self.home_inside();
        self.kind.room.as_ref().map_or_else(|| inside.clone(), |room| room.outside(&inside))
    }

    /// Returns the home, as the machine itself names it: what belongs in arguments of `hearth`.
    pub fn home_inside(&self) -> PathBuf {
        self.folder.join("home")
    }

    /// Writes a file in the home, with the folders above it.
    pub fn write(&self, relative: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(relative);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))
    }

    /// Reads a file of the home.
    pub fn read(&self, relative: impl AsRef<Path>) -> Result<Vec<u8>> {
        let path = self.path(relative);
        fs::read(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// Waits until a file of the home has this content; returns the moment it was seen.
    pub fn until_content(&self, relative: impl AsRef<Path>, content: &[u8], limit: Duration) -> Result<Instant> {
        let seen = watch::until_content(&self.path(relative), content, limit);
        seen.with_context(|| format!("{}{}", self.name, self.tail()))
    }

    /// Waits until a path of the home exists, or is gone; symlinks are not followed.
    pub fn until_there(&self, relative: impl AsRef<Path>, there: bool, limit: Duration) -> Result<Instant> {
        let seen = watch::until_there(&self.path(relative), there, limit);
        seen.with_context(|| format!("{}{}", self.name, self.tail()))
    }

    /// Runs `gsettings` in the session; returns what it printed.
    pub fn gsettings(&self, arguments: &[&str]) -> Result<String> {
        self.session("gsettings", arguments)
    }

    /// Runs `dconf` in the session; returns what it printed.
    pub fn dconf(&self, arguments: &[&str]) -> Result<String> {
        self.session("dconf", arguments)
    }

    /// Waits until `gsettings get` prints this value; returns the moment it was seen.
    pub fn until_setting(&self, schema: &str, key: &str, value: &str, limit: Duration) -> Result<Instant> {
        let wake = Wake::on(&self.path(".config/dconf"))?;
        let mut last = String::new();
        let seen = until(&format!("{schema} {key} to be {value}"), limit, &wake, || {
            wake.add(&self.path(".config/dconf"))?;
            last = self.gsettings(&["get", schema, key])?;
            Ok(Some(Instant::now()).filter(|_| last == value))
        });
        seen.with_context(|| format!("{}: it is {last}{}", self.name, self.tail()))
    }

    /// Returns the file that the daemon logs to.
    pub fn log(&self) -> PathBuf {
        self.folder.join("syncd.log")
    }

    /// Returns the end of the daemon's log, for an error message.
    pub fn tail(&self) -> String {
        self.daemon.as_ref().map(Process::tail).unwrap_or_default()
    }

    /// Begins a command with the machine's environment, in its room.
    pub fn command(&self, name: impl AsRef<OsStr>) -> Command {
        let mut command = match &self.kind.room {
            Some(room) => room.enter("env"),
            None => outdoors("env"),
        };
        // `env` between them lets further words come before the program in one place.
        if self.kind.bound_by_modes && is_root() {
            command.args(["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]);
        }
        command.arg(name);
        let home = self.home_inside();
        command
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("LANG", "C.UTF-8")
            .env("GIO_USE_VFS", "local")
            .env("XDG_RUNTIME_DIR", self.folder.join("run"))
            .env("XDG_CONFIG_HOME", home.join(".config"))
            .env("XDG_DATA_HOME", home.join(".local/share"))
            .env("XDG_STATE_HOME", home.join(".local/state"))
            .env("XDG_CACHE_HOME", home.join(".cache"))
            .env("HOME", home);
        command.envs(self.kind.environment.iter().map(|(name, value)| (name, value)));
        if self.kind.session_bus {
            command.env("DBUS_SESSION_BUS_ADDRESS", self.bus_address());
        }
        command
    }

    fn session(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let finished = run(self.command(name).args(arguments), COMMAND_LIMIT)?;
        ensure!(finished.code == 0, "{}: {name} {arguments:?}: {}", self.name, finished.stderr.trim());
        Ok(String::from_utf8_lossy(&finished.stdout).trim().to_owned())
    }

    fn bus_address(&self) -> String {
        format!("unix:path={}", self.folder.join("run/bus").display())
    }

    /// Starts a real session bus that can start the real dconf service, and nothing else of this computer.
    fn start_bus(&mut self) -> Result<()> {
        let services = self.folder.join("services");
        let dconf = "ca.desrt.dconf.service";
        let installed = Path::new("/usr/share/dbus-1/services").join(dconf);
        fs::copy(&installed, services.join(dconf))
            .with_context(|| format!("reading {}: is dconf-service installed?", installed.display()))?;
        let config = self.folder.join("session.conf");
        let text = format!(
            "<busconfig><type>session</type><keep_umask/><listen>{}</listen><servicedir>{}</servicedir>\
             <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/>\
             <allow own=\"*\"/></policy>\
             </busconfig>\n",
            self.bus_address(),
            services.display()
        );
        fs::write(&config, text).and_then(|()| fs::set_permissions(&config, fs::Permissions::from_mode(0o600)))?;
        let mut command = self.command("dbus-daemon");
        command.arg("--nofork").arg("--print-address=1").arg(format!("--config-file={}", config.display()));
        let log = self.folder.join("bus.log");
        let mut process = Process::spawn(&format!("session bus of {}", self.name), command, &log, true)?;
        process.first_line(START_LIMIT)?;
        self.bus = Some(process);
        Ok(())
    }
}
