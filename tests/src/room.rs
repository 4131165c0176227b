//! A set of Linux namespaces of its own: a network, a mount table, a user.
//!
//! A [`Room`] is held open by one sleeping process and ends with it, so nothing has to be cleaned up: no named
//! namespace, no mount, no interface is left, even when a test is killed. Root needs nothing further; others get a user
//! namespace around it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{Process, succeed};

/// Where programs are found, whatever the person's own search path is.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const LIMIT: Duration = Duration::from_secs(20);

/// Which namespaces are its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Walls {
    /// Its own interfaces, with nothing leading out.
    pub network: bool,
    /// Its own mounts.
    pub mounts: bool,
    /// Its own user namespace, in which it is root: per-user limits can be set there.
    pub user: bool,
}

/// The namespaces, as long as this value lives.
#[derive(Debug)]
pub struct Room {
    holder: Process,
    walls: Walls,
}

impl Room {
    /// Makes a room; `name` and `logs` are for error messages.
    pub fn new(name: &str, walls: Walls, logs: &Path) -> Result<Self> {
        let walls = Walls { user: walls.user || !is_root(), ..walls };
        Self::hold(name, Command::new("unshare"), walls, walls, logs)
    }

    /// Makes a room with a network of its own that is otherwise in the same place as this one.
    pub fn beside(&self, name: &str, logs: &Path) -> Result<Self> {
        let inner = Walls { network: true, mounts: false, user: false };
        let walls = Walls { network: true, ..self.walls };
        Self::hold(name, self.enter("unshare"), inner, walls, logs)
    }

    /// Makes a room in a network that has a name here, as `ip netns` gives it, and that is otherwise in the same place.
    pub fn named(&self, network: &str, logs: &Path) -> Result<Self> {
        let mut nsenter = self.enter("nsenter");
        nsenter.arg(format!("--net=/run/netns/{network}"));
        let walls = Walls { network: true, ..self.walls };
        Self::hold(network, nsenter, Walls::default(), walls, logs)
    }

    fn hold(name: &str, mut unshare: Command, apart: Walls, walls: Walls, logs: &Path) -> Result<Self> {
        if apart.user {
            unshare.args(["--user", "--map-root-user"]);
        }
        if apart.network {
            unshare.arg("--net");
        }
        if apart.mounts {
            unshare.arg("--mount");
        }
        unshare.args(["--", "setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", "echo ready; exec sleep infinity"]);
        let log = logs.join(format!("room-{name}.log"));
        let mut holder = Process::spawn(&format!("the namespaces of {name}"), unshare, &log, true)?;
        holder.first_line(LIMIT).context(
            "namespaces cannot be made here; run the tests as root, or allow unprivileged user namespaces \
             (sysctl kernel.unprivileged_userns_clone=1)",
        )?;
        Ok(Self { holder, walls })
    }

    /// Begins a command that runs in the room, dies with this program, and keeps the environment given to it.
    pub fn enter(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.env("PATH", SEARCH_PATH);
        command.args(["--target", &self.holder.pid().to_string()]);
        if self.walls.user {
            command.args(["--user", "--preserve-credentials"]);
        }
        if self.walls.network {
            command.arg("--net");
        }
        if self.walls.mounts {
            command.arg("--mount");
        }
        command.args(["--", "setpriv", "--pdeathsig", "KILL", "--"]).arg(program);
        command
    }

    /// Runs a short command in the room; an error unless it succeeds. Returns what it printed.
    pub fn run(&self, line: &[&str]) -> Result<String> {
        let (program, arguments) = line.split_first().context("a command has a name")?;
        succeed(self.enter(program).args(arguments), LIMIT)
    }

    /// Gives a folder a file system of its own in memory, of at most `limit_bytes`; seen inside only.
    pub fn small_disk(&self, at: &Path, limit_bytes: u64) -> Result<()> {
        let at = at.to_str().context("scratch paths are text")?;
        self.run(&["mount", "-t", "tmpfs", "-o", &format!("size={limit_bytes},mode=0700"), "tmpfs", at]).map(drop)
    }

    /// Returns how a path in the room is reached from outside.
    pub fn outside(&self, path: &Path) -> PathBuf {
        if !self.walls.mounts {
            return path.to_path_buf();
        }
        Path::new("/proc").join(self.holder.pid().to_string()).join("root").join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Returns where its network namespace can be opened.
    pub fn network(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder()).into()
    }

    /// Returns the process that holds the namespaces.
    pub(crate) fn holder(&self) -> u32 {
        self.holder.pid()
    }
}

/// Returns whether we are root, and so need no user namespace.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Begins a command in no room at all that still dies with this program.
pub fn outdoors(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}
