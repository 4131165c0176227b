//! Syncthing over TLS, both ways, with its watcher at one second instead of ten.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hearth_tests::process::{Process, succeed};
use hearth_tests::watch::{Wake, until};
use serde_json::Value;

use super::{On, Tool, cpu_of};
use crate::ground::{Ground, Side};

const LIMIT: Duration = Duration::from_secs(1800);
const KEY: &str = "measured";

pub(super) struct Syncthing {
    /// Device identities of laptop and desktop.
    ids: [String; 2],
    running: Option<[Process; 2]>,
    ground: Ground,
}

impl Syncthing {
    pub(super) fn new(ground: Ground) -> Result<Self> {
        let sides = [&ground.laptop, &ground.desktop];
        let mut ids = [String::new(), String::new()];
        for (side, id) in sides.into_iter().zip(&mut ids) {
            fs::create_dir(side.folder.join("tree")).context("making the tree")?;
            let home = format!("--home={}", side.folder.join("syncthing").display());
            succeed(command(side).args(["generate", &home, "--no-default-folder", "--skip-port-probing"]), LIMIT)?;
            *id = succeed(command(side).args([&home, "--device-id"]), LIMIT)?.trim().to_owned();
        }
        for side in sides {
            let folder = side.folder.join("syncthing/config.xml");
            fs::write(folder, config(side, sides, &ids)).context("writing syncthing's configuration")?;
        }
        Ok(Self { ids, running: None, ground })
    }

    /// What the laptop answers about the folder.
    fn ask(&self, side: &Side, path: &str) -> Result<Value> {
        let mut curl = side.room.enter("curl");
        curl.args(["--silent", "--fail", "--header", &format!("X-API-Key: {KEY}")]);
        curl.arg(format!("http://127.0.0.1:8384/rest/{path}"));
        serde_json::from_str(&succeed(&mut curl, LIMIT)?).context("syncthing answers in JSON")
    }

    fn laptop(&self) -> Result<&Process> {
        Ok(&self.running.as_ref().context("syncthing runs")?[0])
    }
}

fn command(side: &Side) -> Command {
    let mut command = side.room.enter("syncthing");
    command.env("HOME", &side.folder).env("STNOUPGRADE", "1").env("STNODEFAULTFOLDER", "1");
    command
}

/// A configuration that talks to nobody but the other side.
fn config(side: &Side, sides: [&Side; 2], ids: &[String; 2]) -> String {
    let mut members = String::new();
    let mut devices = String::new();
    for (side, id) in sides.into_iter().zip(ids) {
        members += &format!("<device id=\"{id}\"/>");
        devices += &format!(
            "<device id=\"{id}\" name=\"{}\" compression=\"metadata\"><address>tcp://{}:22000</address></device>",
            side.name, side.ip
        );
    }
    format!(
        "<configuration version=\"35\">\
         <folder id=\"tree\" label=\"tree\" path=\"{}\" type=\"sendreceive\" rescanIntervalS=\"3600\" \
         fsWatcherEnabled=\"true\" fsWatcherDelayS=\"1\">{members}<minDiskFree unit=\"%\">0</minDiskFree></folder>{devices}\
         <gui enabled=\"true\" tls=\"false\"><address>127.0.0.1:8384</address><apikey>{KEY}</apikey></gui>\
         <options><listenAddress>tcp://{}:22000</listenAddress><globalAnnounceEnabled>false</globalAnnounceEnabled>\
         <localAnnounceEnabled>false</localAnnounceEnabled><relaysEnabled>false</relaysEnabled><natEnabled>false</natEnabled>\
         <startBrowser>false</startBrowser><urAccepted>-1</urAccepted><crashReportingEnabled>false</crashReportingEnabled>\
         <autoUpgradeIntervalH>0</autoUpgradeIntervalH><reconnectionIntervalS>1</reconnectionIntervalS></options>\
         </configuration>",
        side.folder.join("tree").display(),
        side.ip
    )
}

impl Tool for Syncthing {
    fn start(&mut self) -> Result<()> {
        let start = |side: &Side| {
            let mut command = command(side);
            command.args(["serve", "--no-browser", "--no-restart", "--no-upgrade"]);
            command.arg(format!("--home={}", side.folder.join("syncthing").display()));
            let log = self.ground.scratch().join(format!("syncthing-{}.log", side.name));
            Process::spawn("syncthing", command, &log, false)
        };
        self.running = Some([start(&self.ground.laptop)?, start(&self.ground.desktop)?]);
        let wake = Wake::when_ended(self.laptop()?)?;
        until("syncthing's two sides to meet", LIMIT, &wake, || {
            let Ok(found) = self.ask(&self.ground.laptop, "system/connections") else { return Ok(None) };
            let met = found.pointer(&format!("/connections/{}/connected", self.ids[1]));
            Ok(met.and_then(Value::as_bool).filter(|met| *met).map(drop))
        })
    }

    fn stop(&mut self) -> Result<()> {
        for mut process in self.running.take().into_iter().flatten() {
            process.terminate(LIMIT)?;
        }
        Ok(())
    }

    fn tree(&self, on: On) -> PathBuf {
        self.ground.side(on).folder.join("tree")
    }

    fn settle(&mut self) -> Result<()> {
        let wake = Wake::when_ended(self.laptop()?)?;
        let of_desktop = format!("db/completion?folder=tree&device={}", self.ids[1]);
        until("syncthing to have everything", LIMIT, &wake, || {
            let (laptop, desktop) = (&self.ground.laptop, &self.ground.desktop);
            let there = self.ask(laptop, &of_desktop)?;
            let done = there.get("completion").and_then(Value::as_f64).is_some_and(|percent| percent >= 100.0);
            let idle = |side| -> Result<bool> {
                Ok(self.ask(side, "db/status?folder=tree")?.get("state").and_then(Value::as_str) == Some("idle"))
            };
            Ok((done && idle(laptop)? && idle(desktop)?).then_some(()))
        })
    }

    fn cpu(&self) -> Result<f64> {
        self.processes()?.into_iter().flatten().map(cpu_of).sum()
    }

    fn processes(&self) -> Result<Option<[u32; 2]>> {
        Ok(self.running.as_ref().map(|both| both.each_ref().map(Process::pid)))
    }

    fn watch(&mut self) -> Result<bool> {
        ensure!(self.running.is_some(), "syncthing runs");
        Ok(true)
    }

    fn is_live(&self) -> bool {
        true
    }

    fn ground(&self) -> &Ground {
        &self.ground
    }
}
