//! Hearth, by its relay, as a person would have it, but for the brakes: a benchmark means what it deletes.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use hearth_tests::lab::RELAY_IP;
use hearth_tests::machine::{Kind, Machine};
use hearth_tests::pair::{init, join_by_code};
use hearth_tests::relay::Relay;

use super::{On, Tool, cpu_of};
use crate::ground::{Ground, Side};

const LIMIT: Duration = Duration::from_secs(1800);
const CONFIG: &str = "[disk]\nkeep_free_mib = 0\nkeep_free_percent = 0\n[brakes]\nenabled = false\n";

pub(super) struct Hearth {
    laptop: Machine,
    desktop: Machine,
    relay: Relay,
    joined: bool,
    ground: Ground,
}

impl Hearth {
    pub(super) fn new(ground: Ground) -> Result<Self> {
        let room = ground.lab.host("relay")?;
        let relay = Relay::start_logging(&ground.scratch().join("relay"), Some(room), RELAY_IP, "warn")?;
        let (laptop, desktop) = (machine(&ground, &ground.laptop)?, machine(&ground, &ground.desktop)?);
        Ok(Self { laptop, desktop, relay, joined: false, ground })
    }
}

fn machine(ground: &Ground, side: &Side) -> Result<Machine> {
    let kind = Kind { room: Some(Rc::clone(&side.room)), log_filter: "warn".to_owned(), ..Kind::default() };
    let machine = Machine::new(ground.scratch(), side.name, kind)?;
    machine.write(".config/hearth/config.toml", CONFIG)?;
    std::fs::create_dir(machine.path("tree")).context("making the tree")?;
    Ok(machine)
}

impl Tool for Hearth {
    fn start(&mut self) -> Result<()> {
        self.laptop.launch()?;
        self.desktop.launch()?;
        self.laptop.until_up()?;
        self.desktop.until_up()?;
        if !self.joined {
            init(&self.laptop, self.relay.address())?;
            join_by_code(&self.laptop, &self.desktop, self.relay.address())?;
            self.joined = true;
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        self.laptop.stop()?;
        self.desktop.stop()
    }

    fn tree(&self, on: On) -> PathBuf {
        match on {
            On::Laptop => self.laptop.path("tree"),
            On::Desktop => self.desktop.path("tree"),
        }
    }

    fn settle(&mut self) -> Result<()> {
        self.laptop.settle(LIMIT)?;
        self.desktop.settle(LIMIT)
    }

    fn cpu(&self) -> Result<f64> {
        self.processes()?.into_iter().flatten().map(cpu_of).sum()
    }

    fn processes(&self) -> Result<Option<[u32; 2]>> {
        let pid = |machine: &Machine| machine.pid().context("the daemon runs");
        Ok(Some([pid(&self.laptop)?, pid(&self.desktop)?]))
    }

    fn watch(&mut self) -> Result<bool> {
        Ok(true)
    }

    fn is_live(&self) -> bool {
        true
    }

    fn ground(&self) -> &Ground {
        &self.ground
    }
}
