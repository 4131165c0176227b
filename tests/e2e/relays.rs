//! Several relays of one account: machines meet at all of them, use the nearest, and nothing breaks off when one goes.

use std::fs;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_tests::answer::Status;
use hearth_tests::link::Line;
use hearth_tests::machine::{Kind, Machine};
use hearth_tests::pair::{LATER, Pair, SOON};
use hearth_tests::relay::Relay;
use hearth_tests::tree;
use serde_json::Value;

/// Nothing but relays carries packets.
const RELAYED: &str = "[network]\ndirect = false\n";
/// Long enough that a cut falls into the middle of its transfer.
const LARGE: usize = 64 << 20;
/// How much of it has arrived by then.
const BEGUN: u64 = 4 << 20;
/// How soon another relay carries on.
const FAILOVER: Duration = Duration::from_secs(5);
/// How soon what goes by a relay goes on once that has started again.
const RESUMED: Duration = Duration::from_secs(3);
/// The line to the relay that is far away.
const FAR: Line = Line { delay_ms: 15, lost_ppm: 0, kbit: 100_000 };

#[test]
fn a_relay_that_dies_in_a_transfer_gives_way_to_another_and_is_used_again_when_it_is_back() -> Result<()> {
    let mut pair = relayed()?;
    let second = second(&mut pair)?;
    let (near, far) = (place(&pair.relay)?, place(&second)?);
    add(&pair, &second)?;
    until_by(&pair, &near, SOON)?;

    let content = tree::noise(7, LARGE);
    let before = received(&pair)?;
    pair.laptop.write("film.bin", &content)?;
    until_received(&pair, before + BEGUN, LATER)?;
    pair.relay.kill()?;
    let (killed, so_far) = (Instant::now(), received(&pair)?);
    ensure!(!pair.desktop.path("film.bin").exists(), "it is still on its way");
    until_received(&pair, so_far + BEGUN, FAILOVER)?;
    let gap = killed.elapsed();
    until_by(&pair, &far, SOON)?;
    pair.desktop.until_content("film.bin", &content, LATER)?;
    ensure!(gap < FAILOVER, "the other carried on after {gap:?}");
    // Nobody is told that anything is wrong: nothing is, as far as the files go. Who asks is told.
    for machine in [&pair.laptop, &pair.desktop] {
        until_online(machine, &[false, true])?;
        ensure!(machine.status()?.problems.is_empty(), "{:?}", machine.status()?);
    }
    pair.desktop.write("thanks.txt", "it has come")?;
    pair.laptop.until_content("thanks.txt", b"it has come", SOON)?;

    pair.relay_again()?;
    until_by(&pair, &near, LATER)?;
    pair.desktop.write("again.txt", "by the near one")?;
    pair.laptop.until_content("again.txt", b"by the near one", SOON)?;
    pair.settle(SOON)?;
    assert_one_connection(&pair)?;
    pair.assert_alike()
}

#[test]
fn a_relay_that_one_machine_alone_cannot_reach_gives_way_for_both() -> Result<()> {
    let mut pair = relayed()?;
    let second = second(&mut pair)?;
    let far = place(&second)?;
    add(&pair, &second)?;
    until_by(&pair, &place(&pair.relay)?, SOON)?;
    let content = tree::noise(8, LARGE);
    let before = received(&pair)?;
    pair.laptop.write("film.bin", &content)?;
    until_received(&pair, before + BEGUN, LATER)?;
    // The relay hears nothing of the desktop any more, and does not know it for a while.
    pair.lab.to_relay("desktop", false)?;
    let so_far = received(&pair)?;
    ensure!(!pair.desktop.path("film.bin").exists(), "it is still on its way");
    until_received(&pair, so_far + BEGUN, FAILOVER)?;
    pair.desktop.until_content("film.bin", &content, LATER)?;
    pair.desktop.write("thanks.txt", "it has come")?;
    pair.laptop.until_content("thanks.txt", b"it has come", SOON)?;
    let by_far = |status: &Status| status.peers.iter().all(|peer| peer.relay.as_deref() == Some(far.as_str()));
    pair.desktop.until_status("the other relay to be used", SOON, by_far)?;
    pair.settle(SOON)?;
    assert_one_connection(&pair)
}

#[test]
fn a_relay_that_restarts_in_a_transfer_is_used_again_at_once() -> Result<()> {
    let mut pair = relayed()?;
    let content = tree::noise(9, LARGE);
    let before = received(&pair)?;
    pair.laptop.write("film.bin", &content)?;
    until_received(&pair, before + BEGUN, LATER)?;
    pair.relay.stop()?;
    pair.relay_again()?;
    let so_far = received(&pair)?;
    ensure!(!pair.desktop.path("film.bin").exists(), "it is still on its way");
    until_received(&pair, so_far + BEGUN, RESUMED)?;
    ensure!(!pair.desktop.path("film.bin").exists(), "it is on its way again");
    pair.desktop.until_content("film.bin", &content, LATER)?;
    pair.settle(SOON)?;
    assert_one_connection(&pair)
}

#[test]
fn what_happens_to_the_account_is_known_to_all_of_its_relays_and_the_first_may_be_gone_for_good() -> Result<()> {
    let mut pair = relayed()?;
    let second = Relay::by_invitation(&pair.scratch().join("second"), Some(pair.lab.host("relay")?), "10.77.0.1")?;
    let refused = pair.laptop.hearth(["relay", "add", second.address()])?;
    ensure!(refused.code == 1 && refused.stderr.contains("invitation"), "{}", refused.stderr);
    let word = second.invite()?;
    let _: Value = pair.laptop.ask(["relay", "add", second.address(), "--invite", &word])?;
    for machine in [&pair.laptop, &pair.desktop] {
        until_online(machine, &[true, true])?;
    }
    let again = pair.laptop.hearth(["relay", "add", second.address()])?;
    ensure!(again.code == 1 && again.stderr.contains("already"), "{}", again.stderr);
    // A change that is made now is at the second as well, once the machine that made it has seen to that.
    let _: Value = pair.laptop.ask(["device", "rename", "desktop", "workshop"])?;
    pair.laptop.until_status("the new name", SOON, |status| status.peer("workshop").is_some())?;

    pair.relay.kill()?;
    let refused = pair.laptop.hearth(["device", "rename", "workshop", "desktop"])?;
    ensure!(refused.code == 1 && refused.stderr.contains("hearth relay remove"), "{}", refused.stderr);
    let _: Value = pair.laptop.ask(["relay", "remove", pair.relay.address()])?;
    for machine in [&pair.laptop, &pair.desktop] {
        until_online(machine, &[true])?;
    }
    let last = pair.laptop.hearth(["relay", "remove", second.address()])?;
    ensure!(last.code == 1 && last.stderr.contains("only relay"), "{}", last.stderr);
    let _: Value = pair.laptop.ask(["device", "rename", "workshop", "tower"])?;

    let room = Some(Rc::clone(pair.lab.host("desktop")?));
    let mut tablet = Machine::new(pair.scratch(), "tablet", Kind { room, ..Kind::default() })?;
    tablet.start()?;
    tablet.write(".phrase", &pair.phrase)?;
    let phrase = tablet.home_inside().join(".phrase");
    let phrase = phrase.to_str().context("a scratch path is text")?;
    let _: Value = tablet.ask(["join", "--phrase-file", phrase, "--relay", second.address(), "--name", "tablet"])?;
    let all = |status: &Status| status.peer("tower").is_some() && status.peer("laptop").is_some();
    tablet.until_status("everybody", SOON, all)?;
    tablet.settle(LATER)?;
    assert_one_connection_each(&pair, 2)
}

/// Two machines that find no way but by a relay.
fn relayed() -> Result<Pair> {
    Pair::joined_with(|laptop, desktop| {
        laptop.configure(RELAYED)?;
        desktop.configure(RELAYED)
    })
}

/// Starts a relay that is farther from both than the first.
fn second(pair: &mut Pair) -> Result<Relay> {
    pair.lab.add_far("second", 1, FAR)?;
    let folder = pair.scratch().join("second");
    Relay::start(&folder, Some(pair.lab.host("second")?), "10.77.1.1")
}

/// Has both machines use a further relay.
fn add(pair: &Pair, relay: &Relay) -> Result<()> {
    let told: Value = pair.laptop.ask(["relay", "add", relay.address()])?;
    ensure!(told.as_array().is_some_and(|relays| relays.len() == 2), "{told}");
    until_online(&pair.laptop, &[true, true])?;
    until_online(&pair.desktop, &[true, true])
}

/// Waits until a machine says so of the account's relays.
fn until_online(machine: &Machine, wanted: &[bool]) -> Result<()> {
    let told = |_: &Status| {
        relays_of(machine)
            .is_ok_and(|relays| relays.iter().map(|relay| relay["online"] == true).eq(wanted.iter().copied()))
    };
    machine.until_status(&format!("relays to be online: {wanted:?}"), SOON, told).map(drop)
}

/// Waits until each machine says that a relay carries what it sends to the other.
fn until_by(pair: &Pair, place: &str, limit: Duration) -> Result<()> {
    for machine in [&pair.laptop, &pair.desktop] {
        let by = |status: &Status| {
            status
                .peers
                .iter()
                .all(|peer| peer.path.as_deref() == Some("relay") && peer.relay.as_deref() == Some(place))
        };
        machine.until_status(&format!("the relay at {place} to be used"), limit, by)?;
    }
    Ok(())
}

fn until_received(pair: &Pair, bytes: u64, limit: Duration) -> Result<()> {
    let arrived = |_: &Status| received(pair).is_ok_and(|received| received >= bytes);
    pair.desktop.until_status("some of it to arrive", limit, arrived).map(drop)
}

fn received(pair: &Pair) -> Result<u64> {
    Ok(pair.lab.traffic("desktop")?.received)
}

fn relays_of(machine: &Machine) -> Result<Vec<Value>> {
    machine.ask(["relay", "list"])
}

/// Host and port of a relay.
fn place(relay: &Relay) -> Result<String> {
    let rest = relay.address().strip_prefix("hearth://").context("an address")?;
    Ok(rest.split('#').next().unwrap_or(rest).to_owned())
}

/// An error unless the connection between the two is still their first one.
fn assert_one_connection(pair: &Pair) -> Result<()> {
    assert_one_connection_each(pair, 1)
}

fn assert_one_connection_each(pair: &Pair, others: usize) -> Result<()> {
    for machine in [&pair.laptop, &pair.desktop] {
        let log = fs::read_to_string(machine.log()).context("reading a log")?;
        let made = log.matches("connected with slot").count();
        ensure!(made == others, "{} connected {made} times:\n{log}", machine.name());
    }
    Ok(())
}
