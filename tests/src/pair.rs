//! Two machines of one account, each and the relay in a network of its own: where most stories begin.

use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::answer::{Init, Invitation};
use crate::lab::{Lab, RELAY_IP};
use crate::machine::{Kind, Machine};
use crate::relay::Relay;
use crate::room::Room;
use crate::scratch::Scratch;
use crate::tree;

/// How long machines on one computer may take to agree about something small, on a busy one and in a debug build.
pub const SOON: Duration = Duration::from_secs(30);
/// The same for something large.
pub const LATER: Duration = Duration::from_secs(120);

/// The machines, their relay and their network. They end in this order.
#[derive(Debug)]
pub struct Pair {
    /// The first device of the account.
    pub laptop: Machine,
    /// The second.
    pub desktop: Machine,
    /// Their relay.
    pub relay: Relay,
    /// What connects them.
    pub lab: Lab,
    /// The recovery phrase, once there is an account.
    pub phrase: String,
    scratch: Scratch,
}

impl Pair {
    /// Starts relay and machines; they have no account yet.
    pub fn strangers() -> Result<Self> {
        Self::strangers_logging("info")
    }

    /// As [`Self::strangers`], with the filter that everybody logs by.
    pub fn strangers_logging(log_filter: &str) -> Result<Self> {
        let mut pair = Self::asleep(log_filter)?;
        pair.laptop.start()?;
        pair.desktop.start()?;
        Ok(pair)
    }

    /// Makes an account and both machines members of it, with nothing in their homes yet.
    pub fn joined() -> Result<Self> {
        let mut pair = Self::strangers()?;
        pair.join()?;
        Ok(pair)
    }

    /// As [`Self::joined`], after a person has filled the homes.
    pub fn joined_with(fill: impl FnOnce(&Machine, &Machine) -> Result<()>) -> Result<Self> {
        let mut pair = Self::asleep("info")?;
        fill(&pair.laptop, &pair.desktop)?;
        pair.laptop.start()?;
        pair.desktop.start()?;
        pair.join()?;
        Ok(pair)
    }

    /// Makes the account on the laptop, joins the desktop by code, and waits until both agree.
    pub fn join(&mut self) -> Result<()> {
        let relay = self.relay.address();
        self.phrase = init(&self.laptop, relay)?.phrase;
        join_by_code(&self.laptop, &self.desktop, relay)?;
        self.settle(LATER)
    }

    /// Waits until both agree, as each of them sees it.
    pub fn settle(&self, limit: Duration) -> Result<()> {
        self.laptop.settle(limit)?;
        self.desktop.settle(limit)
    }

    /// An error unless both homes are alike.
    pub fn assert_alike(&self) -> Result<()> {
        tree::assert_equal(&self.laptop.home(), &self.desktop.home(), &tree::OWN)
    }

    /// Starts the relay once more in its room.
    pub fn relay_again(&mut self) -> Result<()> {
        let room = Rc::clone(self.lab.host("relay")?);
        self.relay.again(Some(&room))
    }

    /// Returns the folder for everything of this pair.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Two machines that do not run yet, and a relay that lies in the place of theirs.
    pub fn asleep_with_evil_relay() -> Result<Self> {
        Self::asleep_with("info", |folder, room| Relay::evil(folder, Some(room), RELAY_IP))
    }

    fn asleep(log_filter: &str) -> Result<Self> {
        Self::asleep_with(log_filter, |folder, room| Relay::start_logging(folder, Some(room), RELAY_IP, log_filter))
    }

    fn asleep_with(log_filter: &str, relay: impl FnOnce(&Path, &Room) -> Result<Relay>) -> Result<Self> {
        let scratch = Scratch::new()?;
        let logs = scratch.path().join("lab");
        fs::create_dir(&logs).context("making a folder for logs")?;
        let lab = Lab::new(&["laptop", "desktop"], &logs)?;
        let relay = relay(&scratch.path().join("relay"), lab.host("relay")?)?;
        let machine = |name| {
            let room = Some(Rc::clone(lab.host(name)?));
            Machine::new(scratch.path(), name, Kind { room, log_filter: log_filter.to_owned(), ..Kind::default() })
        };
        let (laptop, desktop) = (machine("laptop")?, machine("desktop")?);
        Ok(Self { laptop, desktop, relay, lab, phrase: String::new(), scratch })
    }
}

/// Makes an account on a machine, named as the machine is here.
pub fn init(machine: &Machine, relay: &str) -> Result<Init> {
    let made: Init = machine.ask(["init", "--relay", relay, "--name", machine.name()])?;
    ensure!(made.phrase.split_whitespace().count() == 12, "the phrase has twelve words");
    ensure!(made.device == machine.name(), "the device is called {} instead of {}", made.device, machine.name());
    Ok(made)
}

/// Has `member` show a code and `newcomer` join with it, named as the machine is here.
pub fn join_by_code(member: &Machine, newcomer: &Machine, relay: &str) -> Result<()> {
    let invitation: Invitation = member.ask(["device", "add"])?;
    let answer: Value = newcomer.ask(["join", &invitation.code, "--relay", relay, "--name", newcomer.name()])?;
    ensure!(answer.is_object(), "join answered with {answer}");
    Ok(())
}
