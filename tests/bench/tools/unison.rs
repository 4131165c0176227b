//! Unison between a client and a socket server, both ways, not encrypted. It runs when told to, or looks every second:
//! Debian's package comes without its watcher.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hearth_tests::process::{Process, run};
use hearth_tests::watch::{Wake, until};

use super::{On, Tool, cpu_of, cpu_of_own_children};
use crate::ground::{Ground, Side};

const LIMIT: Duration = Duration::from_secs(1800);
const PORT: &str = "4000";

pub(super) struct Unison {
    server: Option<Process>,
    watching: Option<Process>,
    ground: Ground,
}

impl Unison {
    pub(super) fn new(ground: Ground) -> Result<Self> {
        for side in [&ground.laptop, &ground.desktop] {
            fs::create_dir(side.folder.join("tree")).context("making the tree")?;
        }
        Ok(Self { server: None, watching: None, ground })
    }

    fn client(&self) -> Command {
        let (laptop, desktop) = (&self.ground.laptop, &self.ground.desktop);
        let mut command = command(laptop);
        command.arg(laptop.folder.join("tree"));
        command.arg(format!("socket://{}:{PORT}/{}", desktop.ip, desktop.folder.join("tree").display()));
        // What prefers one side never asks; times and modes as everybody else has them.
        command.args(["-batch", "-auto", "-ui", "text", "-silent", "-times", "-confirmbigdel=false", "-log=false"]);
        command
    }
}

/// `unison` with its archives on the side's own file system.
fn command(side: &Side) -> Command {
    let mut command = side.room.enter("unison");
    command.env("UNISON", side.folder.join("unison")).env("HOME", &side.folder);
    command
}

impl Tool for Unison {
    fn start(&mut self) -> Result<()> {
        let mut server = command(&self.ground.desktop);
        server.args(["-socket", PORT]);
        let server = Process::spawn("unison", server, &self.ground.scratch().join("unison.log"), false)?;
        let wake = Wake::when_ended(&server)?;
        self.server = Some(server);
        // It listens once somebody gets through; a connection without a word does it no harm.
        until("unison's server", LIMIT, &wake, || {
            let mut knock = self.ground.laptop.room.enter("bash");
            knock.args(["-c", &format!(": </dev/tcp/{}/{PORT}", self.ground.desktop.ip)]);
            Ok((run(&mut knock, LIMIT)?.code == 0).then_some(()))
        })
    }

    fn stop(&mut self) -> Result<()> {
        for process in [&mut self.watching, &mut self.server] {
            if let Some(mut process) = process.take() {
                process.kill()?;
            }
        }
        Ok(())
    }

    fn tree(&self, on: On) -> PathBuf {
        self.ground.side(on).folder.join("tree")
    }

    fn settle(&mut self) -> Result<()> {
        if self.watching.is_some() {
            // It says nothing of when it is done; whoever measures looks at the files.
            return Ok(());
        }
        let finished = run(&mut self.client(), LIMIT)?;
        // With 1 and 2 it says that it skipped something, or could not carry it.
        if finished.code > 2 {
            bail!("unison ended with {}: {}", finished.code, finished.stderr);
        }
        Ok(())
    }

    fn cpu(&self) -> Result<f64> {
        let processes = [self.server.as_ref(), self.watching.as_ref()].into_iter().flatten();
        let running: f64 = processes.map(|process| cpu_of(process.pid())).sum::<Result<f64>>()?;
        Ok(running + cpu_of_own_children()?)
    }

    fn processes(&self) -> Result<Option<[u32; 2]>> {
        let both = self.watching.as_ref().zip(self.server.as_ref());
        Ok(both.map(|(client, server)| [client.pid(), server.pid()]))
    }

    fn watch(&mut self) -> Result<bool> {
        let mut client = self.client();
        client.args(["-repeat", "1"]);
        self.watching =
            Some(Process::spawn("unison", client, &self.ground.scratch().join("unison-client.log"), false)?);
        Ok(true)
    }

    fn is_live(&self) -> bool {
        self.watching.is_some()
    }

    fn ground(&self) -> &Ground {
        &self.ground
    }
}
