//! What went wrong, as two lines and an exit code.
//!
//! Failures come from three places: the arguments, the daemon (a bus error with two strings), and this machine while
//! it reads or writes a file for the person. Whatever they contain is shown escaped.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::error::ErrorKind as UsageKind;

use crate::render;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The reader of our output is gone, which is its own affair.
    Done = 0,
    Failed = 1,
    Usage = 2,
    NotRunning = 3,
    TimedOut = 4,
    Bug = 70,
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub exit: Exit,
    what: String,
    hint: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit, what: what.into(), hint: hint.into() }
    }

    pub(crate) fn failed(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Failed, what, hint)
    }

    pub(crate) fn usage(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what, hint)
    }

    pub(crate) fn bug(what: impl Into<String>) -> Self {
        Self::new(Exit::Bug, what, "please report it, with what you did before")
    }

    pub(crate) fn not_running() -> Self {
        let hint = "start it with `systemctl --user start hearth`, or run `syncd` in a terminal";
        Self::new(Exit::NotRunning, "the daemon is not running", hint)
    }

    /// A file of the person's that could not be read or written.
    pub(crate) fn file(doing: &str, path: &std::path::Path, error: &io::Error) -> Self {
        let hint = match error.kind() {
            ErrorKind::NotFound => "check the spelling; relative paths begin at the current directory",
            ErrorKind::PermissionDenied => "check with `ls -l` who may use it",
            ErrorKind::AlreadyExists => "choose another name, or move the existing file away",
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                "make room on the disk, or name a place on another one"
            }
            ErrorKind::IsADirectory => "name a file, not a folder",
            _ => "check that the place is there and can be written to",
        };
        Self::failed(format!("cannot {doing} {}: {}", render::path(path), reason(error)), hint)
    }

    /// Prints the two lines and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        if self.exit != Exit::Done {
            let hint = if self.hint.is_empty() { "`hearth doctor` looks for the cause" } else { &self.hint };
            let lines = format!("error: {}\nhint: {}\n", render::shown(&self.what), render::shown(hint));
            // Without a stderr the exit code has to do.
            let _ = io::stderr().write_all(lines.as_bytes());
        }
        ExitCode::from(self.exit as u8)
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no such file or folder".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        ErrorKind::AlreadyExists => "it exists already".to_owned(),
        ErrorKind::StorageFull => "the disk is full".to_owned(),
        ErrorKind::QuotaExceeded => "the disk quota is used up".to_owned(),
        ErrorKind::IsADirectory => "it is a folder".to_owned(),
        _ => error.to_string(),
    }
}

impl From<zbus::Error> for Failure {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, what, message) => {
                let exit = match name.as_str() {
                    "org.hearth.Error.Failed" => Exit::Failed,
                    "org.hearth.Error.Usage" => Exit::Usage,
                    "org.hearth.Error.TimedOut" => Exit::TimedOut,
                    "org.hearth.Error.Bug" => Exit::Bug,
                    "org.freedesktop.DBus.Error.UnknownMethod" | "org.freedesktop.DBus.Error.InvalidArgs" => {
                        let hint = "restart the daemon with `systemctl --user restart hearth`";
                        return Self::failed("the running daemon is of another version than this command", hint);
                    }
                    other => return Self::bug(format!("the daemon answered with {other}")),
                };
                let hint = match message.body().deserialize::<(String, String)>() {
                    Ok((_, hint)) => hint,
                    Err(_) => String::new(),
                };
                Self::new(exit, what.unwrap_or_default(), hint)
            }
            zbus::Error::InputOutput(_) => Self::stopped(),
            other => Self::bug(format!("the daemon cannot be talked to: {other}")),
        }
    }
}

impl Failure {
    /// The daemon went away before it answered.
    pub(crate) fn stopped() -> Self {
        let hint = "start it again with `systemctl --user start hearth`; `journalctl --user -u hearth` says why";
        Self::new(Exit::NotRunning, "the daemon stopped before it answered", hint)
    }
}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        if matches!(error.kind(), UsageKind::DisplayHelpOnMissingArgumentOrSubcommand | UsageKind::MissingSubcommand) {
            return Self::usage("a command is missing", "`--help` lists the commands");
        }
        let text = error.render().to_string();
        let mut paragraphs = text.split("\n\n").map(one_line);
        let first = paragraphs.next().unwrap_or_default();
        let what = first.trim_start_matches("error: ").to_owned();
        let rest: Vec<String> = paragraphs.collect();
        let hint = ["tip: ", "Usage: "].iter().find_map(|word| {
            let line = rest.iter().find_map(|line| line.strip_prefix(word))?;
            Some(if *word == "tip: " { line.to_owned() } else { format!("usage: {line}") })
        });
        Self::usage(what, hint.unwrap_or_else(|| "`--help` tells more".to_owned()))
    }
}

fn one_line(paragraph: &str) -> String {
    paragraph.split_whitespace().collect::<Vec<_>>().join(" ")
}
