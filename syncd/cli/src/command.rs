//! The commands, one file each: its arguments, the call it makes, and how its answer reads.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use hearth_schemas::paths::Paths;
use jiff::Timestamp;
use serde_json::Value;

use crate::args::Command;
use crate::bus::Bus;
use crate::error::Failure;
use crate::render::{self, Style};

pub(crate) mod completions;
pub(crate) mod conflicts;
pub(crate) mod device;
pub(crate) mod doctor;
pub(crate) mod held;
pub(crate) mod history;
pub(crate) mod init;
pub(crate) mod join;
pub(crate) mod log;
pub(crate) mod man;
pub(crate) mod pause;
pub(crate) mod progress;
pub(crate) mod relay;
pub(crate) mod restore;
pub(crate) mod rules;
pub(crate) mod settings;
pub(crate) mod status;
pub(crate) mod wait;
pub(crate) mod why;

/// Carries out what was typed.
pub(crate) async fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Init(command) => command.run(context).await,
        Command::Join(command) => command.run(context).await,
        Command::Device(command) => command.run(context).await,
        Command::Status(command) => command.run(context).await,
        Command::Wait(command) => command.run(context).await,
        Command::Pause(command) => command.run(context).await,
        Command::Resume(command) => command.run(context).await,
        Command::Log(command) => command.run(context).await,
        Command::Why(command) => command.run(context).await,
        Command::Relay(command) => command.run(context).await,
        Command::Rules(command) => command.run(context).await,
        Command::History(command) => command.run(context).await,
        Command::Restore(command) => command.run(context).await,
        Command::Conflicts(command) => command.run(context).await,
        Command::Held(command) => command.run(context).await,
        Command::Settings(command) => command.run(context).await,
        Command::Doctor(command) => command.run(context).await,
        Command::Completions(command) => command.run(),
        Command::Man(command) => command.run(),
    }
}

/// What every command knows about where it runs.
pub(crate) struct Context {
    paths: Paths,
    json: bool,
    /// A person sits at both ends, and did not ask for JSON.
    interactive: bool,
    /// Long work may show how far it is.
    progress: bool,
    style: Style,
    now: Timestamp,
}

impl Context {
    pub(crate) fn new(json: bool) -> Result<Self, Failure> {
        let paths = Paths::resolve(|name| std::env::var_os(name), rustix::process::geteuid().as_raw())
            .ok_or_else(|| Failure::usage("HOME is not set to an absolute path", "set it to your home folder"))?;
        let on_terminal = std::io::stdout().is_terminal();
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == OsStr::new("dumb"));
        Ok(Self {
            paths,
            json,
            interactive: !json && on_terminal && std::io::stdin().is_terminal(),
            progress: !json && !dumb && std::io::stderr().is_terminal(),
            style: Style { colours: on_terminal && !dumb && !set("NO_COLOR") },
            now: Timestamp::now(),
        })
    }

    async fn bus(&self) -> Result<Bus, Failure> {
        Bus::connect(&self.paths).await
    }

    /// Prints a result: as it is, or in words.
    fn show(&self, value: &Value, words: impl FnOnce(&Value) -> String) -> Result<(), Failure> {
        render::print(&if self.json { render::json(value) } else { words(value) })
    }
}

/// A path argument as the daemon wants it: absolute, without `.` and `..`, symbolic links left alone.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    if path.is_absolute() {
        return Ok(tidy(path));
    }
    let here = here().map_err(|error| {
        Failure::failed(format!("cannot tell the current directory: {error}"), "give an absolute path")
    })?;
    Ok(tidy(&here.join(path)))
}

/// The current directory as the shell names it, if that is right; so `..` means what it means in the shell.
fn here() -> std::io::Result<PathBuf> {
    let identity = |path: &Path| path.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    if let Some(named) = std::env::var_os("PWD").map(PathBuf::from)
        && named.is_absolute()
        && identity(&named).is_ok_and(|named| identity(Path::new(".")).is_ok_and(|here| named == here))
    {
        return Ok(named);
    }
    std::env::current_dir()
}

fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(tidy.pop()),
            Component::CurDir => {}
            other => tidy.push(other),
        }
    }
    tidy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_tidied_without_looking_at_the_disk() {
        let table =
            [("/a/./b/../c", "/a/c"), ("/../a//b/", "/a/b"), ("/nonexistent/link/..", "/nonexistent"), ("/", "/")];
        for (typed, wanted) in table {
            assert_eq!(absolute(Path::new(typed)).expect("absolute"), Path::new(wanted), "{typed}");
        }
    }
}
