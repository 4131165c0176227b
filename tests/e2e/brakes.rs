//! A great deal removed or replaced at once waits for a person, on whichever machine they sit.

use std::fs;

use anyhow::{Result, ensure};
use hearth_tests::machine::Machine;
use hearth_tests::pair::{LATER, Pair, SOON};
use serde_json::Value;

/// More than the 200 items that may go without being asked about.
const MANY: usize = 230;

fn photographs(machine: &Machine) -> Result<()> {
    (0..MANY).try_for_each(|n| machine.write(format!("pictures/{n:03}.jpg"), format!("photograph {n}")))
}

fn is_whole(machine: &Machine) -> bool {
    (0..MANY).all(|n| {
        machine.read(format!("pictures/{n:03}.jpg")).is_ok_and(|is| is == format!("photograph {n}").into_bytes())
    })
}

/// Two machines with the same photographs, and one hold after the laptop has removed them.
fn held() -> Result<(Pair, Value)> {
    let pair = Pair::joined_with(|laptop, _| photographs(laptop))?;
    fs::remove_dir_all(pair.laptop.path("pictures"))?;
    pair.laptop.until_status("a hold", SOON, |status| status.held == 1)?;
    let status = pair.desktop.until_status("the hold, told of", SOON, |status| status.held == 1)?;
    ensure!(!status.in_sync, "{status:?}");
    let held: Value = pair.desktop.ask(["held"])?;
    ensure!(held[0]["device"] == "laptop" && held[0]["removes"].as_u64() >= Some(MANY as u64), "{held}");
    ensure!(is_whole(&pair.desktop), "what is held is removed nowhere");
    Ok((pair, held[0].clone()))
}

#[test]
fn an_accident_is_undone_from_the_other_machine() -> Result<()> {
    let (pair, hold) = held()?;
    let waiting = pair.laptop.hearth(["wait", "--timeout", "20"])?;
    ensure!(
        waiting.code == 1 && String::from_utf8_lossy(&waiting.stdout).contains("held"),
        "nothing goes on by itself: {waiting:?}"
    );
    let _: Value = pair.desktop.ask(["held", "undo", hold["id"].as_str().unwrap_or_default()])?;
    pair.settle(LATER)?;
    ensure!(is_whole(&pair.laptop) && is_whole(&pair.desktop), "every photograph is back");
    ensure!(pair.laptop.status()?.held == 0 && pair.desktop.status()?.held == 0);
    pair.assert_alike()
}

#[test]
fn what_was_meant_is_released_after_a_restart() -> Result<()> {
    let (mut pair, _) = held()?;
    pair.laptop.kill()?;
    pair.laptop.start()?;
    pair.laptop.until_status("the hold, remembered", SOON, |status| status.held == 1)?;
    ensure!(is_whole(&pair.desktop));
    let _: Value = pair.laptop.ask(["held", "release", "--all"])?;
    pair.settle(LATER)?;
    ensure!(!pair.desktop.path("pictures").exists() && !pair.laptop.path("pictures").exists(), "gone on both");
    ensure!(pair.desktop.status()?.held == 0 && pair.laptop.status()?.held == 0, "the desktop is not asked again");
    let history: Value = pair.desktop.ask(["history", "--all"])?;
    ensure!(history.as_array().map_or(0, Vec::len) >= MANY, "and all of it is in the desktop's history");
    pair.assert_alike()
}

#[test]
fn a_machine_holds_what_another_one_with_other_limits_lets_through() -> Result<()> {
    let pair = Pair::joined_with(|laptop, _| {
        laptop.write(".config/hearth/config.toml", "[brakes]\nenabled = false\n")?;
        photographs(laptop)
    })?;
    fs::remove_dir_all(pair.laptop.path("pictures"))?;
    let status = pair.desktop.until_status("a hold", SOON, |status| status.held == 1)?;
    ensure!(!status.in_sync && is_whole(&pair.desktop), "{status:?}");
    let held: Value = pair.laptop.ask(["held"])?;
    ensure!(held[0]["device"] == "desktop" && held[0]["incoming"] == true, "{held}");
    let _: Value = pair.desktop.ask(["held", "undo", "--all"])?;
    pair.settle(LATER)?;
    ensure!(is_whole(&pair.laptop) && is_whole(&pair.desktop), "they are back where they were removed, too");
    pair.assert_alike()
}

#[test]
fn a_configuration_that_is_not_understood_is_told_and_the_usual_limits_hold() -> Result<()> {
    let pair = Pair::joined_with(|laptop, _| {
        laptop.write(".config/hearth/config.toml", "[brakes]\nremove = 5\n")?;
        photographs(laptop)
    })?;
    let status = pair.laptop.status()?;
    ensure!(status.problems.iter().any(|problem| problem.what.contains("config.toml")), "{:?}", status.problems);
    fs::remove_dir_all(pair.laptop.path("pictures"))?;
    pair.laptop.until_status("a hold", SOON, |status| status.held == 1)?;
    Ok(())
}
