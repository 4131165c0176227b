//! A relay that lies, drops, replays, reorders and swaps, and two machines that are as they always are: it can keep them
//! from each other, and nothing else. It learns no name and no content, makes nothing appear or go away in a home, lets
//! nobody in, and brings no machine to say in sync when it is not. Once it behaves again, both agree.
//!
//! What it can do is in `tests/bin/evil_relay.rs`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_tests::answer::Status;
use hearth_tests::canary::{Canaries, in_file, in_folder, in_memory};
use hearth_tests::pair::{LATER, Pair, SOON};
use hearth_tests::tree;
use hearth_tests::watch::{Wake, until};

/// How long each misdeed lasts once it has begun.
const WHILE: Duration = Duration::from_secs(3);
/// An event that nobody has read yet is nobody's lie.
const HEARD_MS: i64 = 1000;
/// All packets go by the relay.
const RELAY_ONLY: &str = "[network]\ndirect = false\n";
/// Addresses are known from signals alone.
const BY_SIGNALS: &str = "[network]\nnearby = false\n";

#[test]
fn datagrams_that_are_lost_or_come_late_twice_spoilt_or_to_somebody_else_spoil_nothing() -> Result<()> {
    Story::begin(RELAY_ONLY)?.suffer(&["drop", "silence", "replay", "reorder", "garble", "swap"])
}

#[test]
fn a_log_that_is_old_or_of_somebody_else_or_goes_on_with_a_ghost_is_not_believed() -> Result<()> {
    Story::begin(RELAY_ONLY)?.suffer(&["old-log", "other-log", "fork", "ghost"])
}

#[test]
fn answers_that_are_refusals_nonsense_or_noise_end_connections_and_nothing_else() -> Result<()> {
    Story::begin(RELAY_ONLY)?.suffer(&["refuse", "nonsense", "noise"])
}

#[test]
fn machines_that_are_told_that_they_were_taken_out_stay_in_their_account() -> Result<()> {
    Story::begin(RELAY_ONLY)?.suffer(&["revoked", "replaced", "presence"])
}

#[test]
fn signals_that_come_again_and_addresses_that_are_not_theirs_lead_nowhere() -> Result<()> {
    let story = Story::begin(BY_SIGNALS)?;
    let pair = &story.pair;
    pair.laptop.until_status("the local network to be used", SOON, |status| path_is(status, "desktop", "lan"))?;
    story.suffer(&["signals", "seen 10.77.0.250:9", "seen 127.0.0.1:22", "seen 169.254.169.254:80", "presence"])
}

/// Two machines of an account, and what they ought to have.
struct Story {
    pair: Pair,
    canaries: Canaries,
    written: BTreeSet<PathBuf>,
}

impl Story {
    fn begin(network: &str) -> Result<Self> {
        let mut pair = Pair::asleep_with_evil_relay()?;
        let mut canaries = Canaries::default();
        for machine in [&mut pair.laptop, &mut pair.desktop] {
            machine.configure(network)?;
            machine.start()?;
        }
        pair.join()?;
        canaries.plant("the recovery phrase", pair.phrase.clone());
        let written = tree::read(&pair.laptop.home(), &tree::OWN)?.into_keys().collect();
        Ok(Self { pair, canaries, written })
    }

    /// Lives through one misdeed after the other.
    fn suffer(mut self, misdeeds: &[&str]) -> Result<()> {
        for misdeed in misdeeds {
            self.suffer_one(misdeed).with_context(|| format!("the relay did evil: {misdeed}"))?;
        }
        for machine in [&self.pair.laptop, &self.pair.desktop] {
            let status = machine.status()?;
            ensure!(status.peers.len() == 1 && status.conflicts == 0 && status.held == 0, "{status:?}");
        }
        let relay = self.pair.relay.pid().context("the relay runs")?;
        let mut found = in_memory(relay, &self.canaries)?;
        found.extend(in_file(&self.pair.relay.log(), &self.canaries)?);
        self.pair.relay.kill()?;
        found.extend(in_folder(&self.pair.relay.data(), &self.canaries)?);
        ensure!(found.is_empty(), "found at the relay:\n  {}", found.join("\n  "));
        Ok(())
    }

    fn suffer_one(&mut self, misdeed: &str) -> Result<()> {
        let before = self.pair.relay.order(misdeed)?;
        let (here, there) = (self.canaries.make("a name of the laptop"), self.canaries.make("a name of the desktop"));
        let content = self.canaries.make("a content");
        self.pair.laptop.write(&here, &content)?;
        self.pair.desktop.write(&there, &content)?;
        self.written.extend([PathBuf::from(&here), PathBuf::from(&there)]);
        let hands_off = jiff::Timestamp::now().as_millisecond();
        let until_when = Instant::now() + WHILE;
        while Instant::now() < until_when {
            self.no_false_claim(hands_off)?;
        }
        let wake = Wake::on(&self.pair.laptop.home())?;
        let did = || Ok((self.pair.relay.order("count")? > before).then_some(()));
        until("the relay to do it", LATER, &wake, did)?;
        self.no_false_claim(hands_off)?;

        self.pair.relay.order("honest")?;
        self.pair.laptop.until_content(&there, content.as_bytes(), LATER)?;
        self.pair.desktop.until_content(&here, content.as_bytes(), LATER)?;
        self.pair.settle(LATER)?;
        self.pair.assert_alike()?;
        let has: BTreeSet<PathBuf> = tree::read(&self.pair.laptop.home(), &tree::OWN)?.into_keys().collect();
        ensure!(has == self.written, "the home has {has:?}, and what was written is {:?}", self.written);
        Ok(())
    }

    /// An error if a machine says in sync of a time when nobody wrote any more, and the homes are not alike.
    fn no_false_claim(&self, hands_off: i64) -> Result<()> {
        for machine in [&self.pair.laptop, &self.pair.desktop] {
            let status = machine.status()?;
            if claims(&status, hands_off) {
                self.pair.assert_alike().with_context(|| format!("{} said falsely: {status:?}", machine.name()))?;
            }
        }
        Ok(())
    }
}

fn claims(status: &Status, hands_off: i64) -> bool {
    let as_of = status.fresh_as_of.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let is_late = as_of.is_some_and(|as_of| as_of.as_millisecond() >= hands_off + HEARD_MS);
    status.in_sync && is_late && status.peers.iter().all(|peer| peer.online)
}

fn path_is(status: &Status, peer: &str, path: &str) -> bool {
    status.peer(peer).is_some_and(|peer| peer.online && peer.path.as_deref() == Some(path))
}
