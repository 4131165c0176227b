//! Rsync to a daemon of its own: one way, when told to, not encrypted and not flushed. What plain copying costs.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use hearth_tests::process::{Process, succeed};

use super::{On, Tool, cpu_of, cpu_of_own_children};
use crate::ground::Ground;

const LIMIT: Duration = Duration::from_secs(1800);

pub(super) struct Rsync {
    daemon: Option<Process>,
    ground: Ground,
}

impl Rsync {
    pub(super) fn new(ground: Ground) -> Result<Self> {
        for side in [&ground.laptop, &ground.desktop] {
            fs::create_dir(side.folder.join("tree")).context("making the tree")?;
        }
        let tree = ground.desktop.folder.join("tree");
        let config = format!(
            "uid = 0\ngid = 0\nuse chroot = no\nread only = no\nreverse lookup = no\nmunge symlinks = no\n[tree]\npath = {}\n",
            tree.display()
        );
        fs::write(ground.scratch().join("rsyncd.conf"), config).context("writing rsync's configuration")?;
        Ok(Self { daemon: None, ground })
    }
}

impl Tool for Rsync {
    fn start(&mut self) -> Result<()> {
        let scratch = self.ground.scratch();
        let mut command = self.ground.desktop.room.enter("rsync");
        command.args(["--daemon", "--no-detach", "--port=873", "--config"]).arg(scratch.join("rsyncd.conf"));
        self.daemon = Some(Process::spawn("rsync", command, &scratch.join("rsync.log"), false)?);
        // It listens once a client gets through.
        let mut list = self.ground.laptop.room.enter("sh");
        let line = format!("until rsync rsync://{}/ >/dev/null 2>&1; do sleep 0.02; done", self.ground.desktop.ip);
        succeed(list.args(["-c", &line]), LIMIT).map(drop)
    }

    fn stop(&mut self) -> Result<()> {
        self.daemon.take().map_or(Ok(()), |mut daemon| daemon.kill())
    }

    fn tree(&self, on: On) -> PathBuf {
        self.ground.side(on).folder.join("tree")
    }

    fn settle(&mut self) -> Result<()> {
        let mut command = self.ground.laptop.room.enter("rsync");
        command.args(["--archive", "--hard-links", "--delete"]).arg(self.ground.laptop.folder.join("tree/"));
        command.arg(format!("rsync://{}/tree/", self.ground.desktop.ip));
        succeed(&mut command, LIMIT).map(drop)
    }

    fn cpu(&self) -> Result<f64> {
        let daemon = self.daemon.as_ref().context("rsync runs")?;
        Ok(cpu_of(daemon.pid())? + cpu_of_own_children()?)
    }

    fn processes(&self) -> Result<Option<[u32; 2]>> {
        Ok(None)
    }

    fn watch(&mut self) -> Result<bool> {
        Ok(false)
    }

    fn is_live(&self) -> bool {
        false
    }

    fn ground(&self) -> &Ground {
        &self.ground
    }
}
