//! The machines of a world, their relay and their network; who lives there, and what befalls them.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::blackbox::desk::Desk;
use crate::blackbox::journal::Journal;
use crate::blackbox::person::{News, Person, Progress};
use crate::blackbox::verdict::{Ending, Verdict, no_false_claim, now_ms};
use crate::blackbox::{Played, World};
use crate::lab::{Lab, RELAY_IP};
use crate::machine::{Kind, Machine};
use crate::pair::{init, join_by_code};
use crate::relay::Relay;
use crate::scratch::Scratch;
use crate::sim::chance::Chance;
use crate::watch::{Wake, until};

const NAMES: [&str; 3] = ["laptop", "desktop", "tablet"];
/// Acts between two accidents, at most; and in a storm.
const CALM: usize = 25;
const STORM: usize = 8;
/// How long is waited for the middle of applying something.
const MOMENT: Duration = Duration::from_millis(300);

/// Everything that runs, in the order in which it ends.
pub(super) struct House {
    machines: Vec<Machine>,
    relay: Relay,
    lab: Lab,
    unplugged: BTreeSet<usize>,
    desks: Vec<Arc<Desk>>,
    people: Vec<Person>,
    chance: Chance,
    world: World,
    journal: Arc<Journal>,
    kills: usize,
    claims: usize,
}

impl House {
    /// Starts the machines and the relay, and makes them one account.
    pub(super) fn furnish(world: World, scratch: &Scratch, journal: &Arc<Journal>) -> Result<Self> {
        let names = NAMES.get(..world.machines).context("a world has at most three machines")?;
        let logs = scratch.path().join("lab");
        fs::create_dir(&logs).context("making a folder for logs")?;
        let lab = Lab::new(names, &logs)?;
        let relay = Relay::start(&scratch.path().join("relay"), Some(lab.host("relay")?), RELAY_IP)?;
        let machines = names.iter().map(|name| moved_in(&lab, scratch.path(), name)).collect::<Result<Vec<_>>>()?;
        let (first, others) = machines.split_first().context("a world has machines")?;
        init(first, relay.address())?;
        others.iter().try_for_each(|other| join_by_code(first, other, relay.address()))?;
        let desks: Vec<_> = machines.iter().map(|machine| Arc::new(Desk::new(machine.home()))).collect();
        let mut chance = Chance::new(world.seed ^ 0xb1ac);
        let people = people(world, &desks, journal, &mut chance);
        let journal = Arc::clone(journal);
        Ok(Self {
            machines,
            relay,
            lab,
            unplugged: BTreeSet::new(),
            desks,
            people,
            chance,
            world,
            journal,
            kills: 0,
            claims: 0,
        })
    }

    /// Lets everybody live through all rounds, judging each; then everything ends as it is told to.
    pub(super) fn live(mut self) -> Result<Played> {
        for round in 0..self.world.rounds {
            self.journal.note("world", &format!("round {round}"));
            self.round()?;
            let hands_off = now_ms();
            self.mend()?;
            let claims = no_false_claim(&self.machines, hands_off).with_context(|| format!("after round {round}"))?;
            self.claims += claims;
            if self.judge().with_context(|| format!("after round {round}"))? == Ending::AtALoss {
                return Ok(self.played(Ending::AtALoss));
            }
        }
        self.machines.iter_mut().try_for_each(Machine::stop)?;
        self.relay.stop()?;
        Ok(self.played(Ending::Agreed))
    }

    fn played(&self, ending: Ending) -> Played {
        Played { ending, kills: self.kills, claims: self.claims }
    }

    /// Everybody acts at once, while this thread sees to accidents.
    fn round(&mut self) -> Result<()> {
        let (acts, mut people) = (self.world.acts, std::mem::take(&mut self.people));
        let progress = Progress::of(people.len());
        let befallen = thread::scope(|scope| {
            for person in &mut people {
                let progress = &progress;
                scope.spawn(move || person.live(acts, progress));
            }
            self.accidents(&progress)
        });
        self.people = people;
        befallen
    }

    fn accidents(&mut self, progress: &Progress) -> Result<()> {
        let mut done = 0;
        loop {
            done += 1 + self.chance.below(if self.world.storm { STORM } else { CALM });
            if !progress.reach(done) {
                return Ok(());
            }
            let number = self.chance.below(self.machines.len());
            if self.world.storm {
                self.strike(number)?;
                continue;
            }
            match self.chance.below(4) {
                0 if self.world.kills => self.kill(number)?,
                1 | 2 if self.world.partings => self.part(number)?,
                3 => self.ask(number)?,
                _ => self.look_around(number),
            }
        }
    }

    /// The daemon ends without warning; more often than not it is started again at once.
    fn kill(&mut self, number: usize) -> Result<()> {
        let machine = &mut self.machines[number];
        self.journal.note("world", &format!("kill -9 on {}", machine.name()));
        machine.kill()?;
        self.kills += 1;
        if self.chance.percent(70) { self.wake(number) } else { Ok(()) }
    }

    /// A daemon is killed, often in the middle of applying something, and started again; it may be killed once more before
    /// it has come up.
    fn strike(&mut self, number: usize) -> Result<()> {
        if self.chance.percent(60) {
            let staging = self.machines[number].path(".local/share/hearth/staging");
            let busy = || fs::read_dir(&staging).is_ok_and(|mut staged| staged.next().is_some());
            let wake = Wake::on(&staging)?;
            // Nothing may come in just now: then any moment is as good.
            let _ = until("something to be applied", MOMENT, &wake, || Ok(busy().then_some(())));
        }
        let machine = &mut self.machines[number];
        self.journal.note("world", &format!("kill -9 on {}", machine.name()));
        machine.kill()?;
        self.kills += 1;
        machine.launch()?;
        if self.chance.percent(50) { self.machines[number].until_up() } else { Ok(()) }
    }

    /// Somebody leaves the others, or comes back.
    fn part(&mut self, number: usize) -> Result<()> {
        let name = NAMES[number];
        match self.chance.below(5) {
            0 if self.relay.pid().is_some() => {
                self.journal.note("world", "kill -9 on the relay");
                self.relay.kill()
            }
            0 => self.relay_again(),
            1 if self.machines[number].pid().is_some() => {
                self.journal.note("world", &format!("{name} is stopped"));
                self.machines[number].stop()
            }
            1 | 2 if self.machines[number].pid().is_none() => self.wake(number),
            _ if self.unplugged.remove(&number) => {
                self.journal.note("world", &format!("{name} is plugged in"));
                self.lab.cable(name, true)
            }
            _ => {
                self.unplugged.insert(number);
                self.journal.note("world", &format!("{name} is unplugged"));
                self.lab.cable(name, false)
            }
        }
    }

    /// Somebody types a command in the middle of it all, which is answered.
    fn ask(&self, number: usize) -> Result<()> {
        let machine = &self.machines[number];
        if machine.pid().is_none() {
            return Ok(());
        }
        for line in [&["status"][..], &["history", "--all"], &["conflicts"], &["device", "list"]] {
            let _: serde_json::Value = machine.ask(line)?;
        }
        let reply = machine.hearth(["wait", "--online", "--timeout", "2"])?;
        self.journal.note("world", &format!("{}: wait --online ended with {}", machine.name(), reply.code));
        ensure!([0, 1, 4].contains(&reply.code), "wait ended with {}: {}", reply.code, reply.stderr);
        self.look_around(number);
        Ok(())
    }

    /// What stands whole on a machine is owed from then on.
    fn look_around(&self, number: usize) {
        let desk = &self.desks[number];
        let survey = desk.survey();
        let seen = survey.files.iter().filter(|path| matches!(desk.look(path), Ok(Some(_)))).count();
        self.journal.note("world", &format!("{seen} files seen on {}", NAMES[number]));
    }

    /// Everything runs and is connected again, and no editor has left anything behind.
    fn mend(&mut self) -> Result<()> {
        for desk in &self.desks {
            while let Some(path) = desk.survey().unfinished.pop() {
                match desk.remove(&path) {
                    // Its directory was moved after it was found.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    removed => removed.with_context(|| format!("removing what an editor left at {path:?}"))?,
                }
            }
        }
        for number in std::mem::take(&mut self.unplugged) {
            self.lab.cable(NAMES[number], true)?;
        }
        if self.relay.pid().is_none() {
            self.relay_again()?;
        }
        self.machines.iter_mut().filter(|machine| machine.pid().is_some()).try_for_each(Machine::until_up)?;
        let down: Vec<_> = (0..self.machines.len()).filter(|&number| self.machines[number].pid().is_none()).collect();
        down.into_iter().try_for_each(|number| self.wake(number))
    }

    fn judge(&self) -> Result<Ending> {
        let ending = Verdict::pass(&self.machines, &self.desks, &self.journal)?;
        (0..self.machines.len()).for_each(|number| self.look_around(number));
        Ok(ending)
    }

    fn wake(&mut self, number: usize) -> Result<()> {
        self.journal.note("world", &format!("{} is started", NAMES[number]));
        self.machines[number].start()
    }

    fn relay_again(&mut self) -> Result<()> {
        self.journal.note("world", "the relay is back");
        let room = Rc::clone(self.lab.host("relay")?);
        self.relay.again(Some(&room))
    }
}

fn moved_in(lab: &Lab, scratch: &Path, name: &str) -> Result<Machine> {
    let log_filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
    let kind = Kind { room: Some(Rc::clone(lab.host(name)?)), session_bus: false, log_filter, ..Kind::default() };
    let mut machine = Machine::new(scratch, name, kind)?;
    machine.start()?;
    Ok(machine)
}

fn people(world: World, desks: &[Arc<Desk>], journal: &Arc<Journal>, chance: &mut Chance) -> Vec<Person> {
    let news = Arc::new(News::default());
    let mut all = Vec::new();
    for (machine, desk) in desks.iter().enumerate() {
        for number in 0..world.people {
            all.push(Person {
                name: format!("{} {number}", NAMES[machine]),
                machine,
                chance: chance.fork(),
                desk: Arc::clone(desk),
                journal: Arc::clone(journal),
                news: Arc::clone(&news),
                written: 0,
            });
        }
    }
    all
}
