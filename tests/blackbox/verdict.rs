//! What must hold once everything runs and is connected again.
//!
//! Asked in the words of the command line and of the file system only: the barrier is passed everywhere, the homes are
//! alike, everybody says so, nothing that is owed is missing, what is in a history can be had back, and asking again
//! changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use data_encoding::BASE64;
use serde_json::Value;

use crate::answer::{Conflict, Displaced, Status};
use crate::blackbox::desk::Desk;
use crate::blackbox::journal::Journal;
use crate::machine::Machine;
use crate::tree::{self, Entry};
use crate::watch::{Wake, until};

/// How long agreement may take after accidents: peers that were away are looked for at leisure.
const LIMIT: Duration = Duration::from_secs(180);
/// How long something may be in the way that passes by itself.
const PASSING: Duration = Duration::from_secs(20);
/// How many contents of each history are brought back for real.
const SAMPLE: usize = 3;

/// What `status` says of such a content.
const NOBODY_HAS_IT: &str = "no connected device has its content";

/// How a world, or a round of it, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All machines agree.
    Agreed,
    /// They never will, for a content is nowhere any more by the doing of a person. All else held.
    AtALoss,
}

/// The machines when nothing is left to do.
pub(super) struct Verdict<'a> {
    machines: &'a [Machine],
    homes: Vec<BTreeMap<PathBuf, Entry>>,
    histories: Vec<Vec<Displaced>>,
}

impl<'a> Verdict<'a> {
    /// Waits for quiet and asks everything; an error says what does not hold.
    pub(super) fn pass(machines: &'a [Machine], desks: &[Arc<Desk>], journal: &Journal) -> Result<Ending> {
        let agreed = machines.iter().try_for_each(|machine| agree(machine, machines, journal));
        let ending = match agreed {
            Ok(()) => Ending::Agreed,
            Err(_) if at_a_loss(machines)? => Ending::AtALoss,
            Err(error) => return Err(error),
        };
        let read = |machine: &Machine| tree::read(&machine.home(), &tree::OWN);
        let homes = machines.iter().map(read).collect::<Result<_>>()?;
        let histories = machines.iter().map(history).collect::<Result<_>>()?;
        let verdict = Self { machines, homes, histories };
        verdict.nothing_is_lost(desks, journal)?;
        verdict.histories_can_be_had()?;
        if ending == Ending::Agreed {
            verdict.all_alike()?;
            verdict.all_say_so()?;
            verdict.asking_again_changes_nothing()?;
        }
        Ok(ending)
    }

    fn all_alike(&self) -> Result<()> {
        for other in &self.machines[1..] {
            tree::assert_equal(&self.machines[0].home(), &other.home(), &tree::OWN)?;
        }
        let parked = |path: &&PathBuf| path.to_string_lossy().contains(".hearth-");
        let left = self.homes[0].keys().find(parked);
        ensure!(left.is_none(), "something of ours was left in the home: {left:?}");
        Ok(())
    }

    fn all_say_so(&self) -> Result<()> {
        let mut conflicts = BTreeSet::new();
        for machine in self.machines {
            let status = machine.status()?;
            let in_order = status.in_sync && status.problems.is_empty() && status.held == 0;
            ensure!(in_order && status.pending.incoming == 0, "{}: {status:?}", machine.name());
            ensure!(status.peers.len() + 1 == self.machines.len(), "{}: {status:?}", machine.name());
            ensure!(status.peers.iter().all(|peer| peer.online && peer.in_sync), "{}: {status:?}", machine.name());
            conflicts.insert(status.conflicts);
            let log = fs::read_to_string(machine.log()).context("reading a log")?;
            ensure!(!log.contains("panicked at"), "syncd of {} panicked{}", machine.name(), machine.tail());
            let listed: Vec<Conflict> = machine.ask(["conflicts"])?;
            ensure!(listed.len() as u64 == status.conflicts, "{}: {listed:?} against {status:?}", machine.name());
        }
        ensure!(conflicts.len() == 1, "the machines count different conflicts: {conflicts:?}");
        Ok(())
    }

    fn nothing_is_lost(&self, desks: &[Arc<Desk>], journal: &Journal) -> Result<()> {
        let live = self.homes.iter().flat_map(BTreeMap::values).filter_map(|entry| match entry {
            Entry::File { hash, .. } => Some(hash.to_hex().to_string()),
            Entry::Folder { .. } | Entry::Link { .. } | Entry::Special => None,
        });
        let kept = self.histories.iter().flatten().map(|row| row.blake3.clone());
        let to_be_had: BTreeSet<String> = live.chain(kept).collect();
        for (machine, desk) in self.machines.iter().zip(desks) {
            let owed = desk.owed();
            let note = format!("{} contents owed; unsure {} times", owed.len(), desk.unsure());
            journal.note(machine.name(), &note);
            let lost: Vec<_> = owed.iter().filter(|(hash, _)| !to_be_had.contains(*hash)).collect();
            ensure!(lost.is_empty(), "lost, though no hand on {} did away with it: {lost:#?}", machine.name());
        }
        Ok(())
    }

    fn histories_can_be_had(&self) -> Result<()> {
        for (machine, history) in self.machines.iter().zip(&self.histories) {
            let folder = tempfile::tempdir().context("making a folder to restore into")?;
            let step = (history.len() / SAMPLE).max(1);
            for (number, row) in history.iter().step_by(step).enumerate() {
                restore(machine, row, &folder.path().join(number.to_string()))?;
            }
        }
        Ok(())
    }

    fn asking_again_changes_nothing(&self) -> Result<()> {
        let before = self.machines.iter().map(exactly).collect::<Result<Vec<_>>>()?;
        self.machines.iter().try_for_each(|machine| machine.settle(LIMIT))?;
        for ((machine, before), history) in self.machines.iter().zip(before).zip(&self.histories) {
            let after = exactly(machine)?;
            let differing = before.keys().chain(after.keys()).find(|path| before.get(*path) != after.get(*path));
            ensure!(differing.is_none(), "asking again changed {differing:?} on {}", machine.name());
            let length = self::history(machine)?.len();
            ensure!(length == history.len(), "asking again added to the history of {}", machine.name());
        }
        Ok(())
    }
}

/// How long after the last act of a person a claim counts: an event that nobody has read yet is nobody's lie.
const HEARD_MS: i64 = 1000;
/// How long claims are looked at while the machines come to agree.
const CLAIMING: Duration = Duration::from_secs(30);

/// While nobody acts any more, asks everybody for `status` until all say in sync. An error if one says so of a moment
/// from which on nothing may change, and the homes are not alike. Returns how many such answers were checked.
///
/// A claim is an answer `in_sync` with every peer online and `fresh_as_of` a second or more after the last act. What is
/// true of that moment stays true, for nobody acts: so any difference between homes read after it makes the claim false.
pub(super) fn no_false_claim(machines: &[Machine], hands_off: i64) -> Result<usize> {
    let wake = Wake::on(&machines[0].home())?;
    let mut checked = 0;
    let all_said_so = until("everybody to say in sync", CLAIMING, &wake, || {
        let statuses = machines.iter().map(Machine::status).collect::<Result<Vec<_>>>()?;
        let mut claims = statuses.iter().zip(machines).filter(|(status, _)| claims(status, hands_off)).peekable();
        if claims.peek().is_none() {
            return Ok(None);
        }
        let mut said = 0;
        for (status, machine) in claims {
            for other in machines.iter().filter(|other| other.name() != machine.name()) {
                tree::assert_equal(&machine.home(), &other.home(), &tree::OWN)
                    .with_context(|| format!("{} said falsely that it is in sync: {status:?}", machine.name()))?;
            }
            said += 1;
        }
        checked += said;
        Ok((said == machines.len()).then_some(()))
    });
    match all_said_so {
        Ok(()) => Ok(checked),
        Err(error) if error.chain().any(|cause| cause.to_string().contains("falsely")) => Err(error),
        // Whether they must agree is asked next.
        Err(_) => Ok(checked),
    }
}

/// Now, in milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn claims(status: &Status, hands_off: i64) -> bool {
    let as_of = status.fresh_as_of.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let is_late = as_of.is_some_and(|as_of| as_of.as_millisecond() >= hands_off + HEARD_MS);
    status.in_sync && is_late && status.peers.iter().all(|peer| peer.online)
}

/// Brings a content back to where it disturbs nobody, and compares it with what was promised.
fn restore(machine: &Machine, row: &Displaced, to: &Path) -> Result<()> {
    let relative = match &row.path_b64 {
        Some(text) => BASE64.decode(text.as_bytes()).context("a path in Base64")?,
        None => row.path.clone().into_bytes(),
    };
    let path = machine.home_inside().join(OsStr::from_bytes(&relative));
    let words = ["restore".as_ref(), path.as_os_str(), "--version".as_ref(), row.version.as_ref()];
    let _: Value = machine.ask(words.into_iter().chain(["--to".as_ref(), to.as_os_str()]))?;
    let found = match fs::read_link(to) {
        Ok(target) => target.as_os_str().as_bytes().to_vec(),
        Err(_) => fs::read(to).with_context(|| format!("reading what was restored of {row:?}"))?,
    };
    let (hash, length) = (blake3::hash(&found).to_hex().to_string(), found.len() as u64);
    ensure!(
        hash == row.blake3 && length == row.size,
        "{}: {row:?} came back as {hash}, {length} bytes",
        machine.name()
    );
    Ok(())
}

/// Waits until a machine agrees with all others. What it is blocked by may be something that passes: then it is asked
/// again, and that it gave up too early stands in the journal.
fn agree(machine: &Machine, all: &[Machine], journal: &Journal) -> Result<()> {
    let wake = Wake::on(&machine.home())?;
    let mut said = String::new();
    let agreed = until("agreement", PASSING, &wake, || {
        let reply = machine.settle(LIMIT);
        if let Err(error) = &reply {
            said = format!("{error:#}\n{}", statuses(all));
            journal.note(machine.name(), "wait ended early");
        }
        Ok(reply.ok())
    });
    agreed.with_context(|| said)
}

/// Whether all that stands in the way is contents that were told of and that nobody has: a hand did away with each where
/// it was written, before anybody had fetched it, while somebody else moved or kept the file.
fn at_a_loss(machines: &[Machine]) -> Result<bool> {
    let statuses = machines.iter().map(Machine::status).collect::<Result<Vec<_>>>()?;
    let connected = statuses.iter().all(|status| status.peers.iter().all(|peer| peer.online && peer.path.is_some()));
    let mut problems = statuses.iter().flat_map(|status| &status.problems).peekable();
    Ok(connected && problems.peek().is_some() && problems.all(|problem| problem.what == NOBODY_HAS_IT))
}

/// What everybody says when somebody cannot agree: the reason may lie with another.
fn statuses(machines: &[Machine]) -> String {
    let status = |machine: &Machine| format!("{}: {:?}", machine.name(), machine.status());
    machines.iter().map(status).collect::<Vec<_>>().join("\n")
}

fn history(machine: &Machine) -> Result<Vec<Displaced>> {
    machine.ask(["history", "--all"])
}

/// An entry with its inode, and when that was changed last; directories follow at leisure.
type Exactly = (Entry, u64, Option<(i64, i64)>);

/// What is in a home, with all that changes when it is only touched.
fn exactly(machine: &Machine) -> Result<BTreeMap<PathBuf, Exactly>> {
    let home = machine.home();
    let with_times = |(path, entry): (PathBuf, Entry)| {
        let data = fs::symlink_metadata(home.join(&path)).with_context(|| format!("looking at {path:?}"))?;
        let changed = (!data.is_dir()).then(|| (data.ctime(), data.ctime_nsec()));
        Ok((path, (entry, data.ino(), changed)))
    };
    tree::read(&home, &tree::OWN)?.into_iter().map(with_times).collect()
}
