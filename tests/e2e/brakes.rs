//! A great deal removed or replaced at once waits for a person, on whichever machine they sit.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use hearth_tests::machine::Machine;
use hearth_tests::pair::{LATER, Pair, SOON};
use hearth_tests::process::succeed;
use hearth_tests::tree::{self, Entry, noise};
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
fn ten_thousand_files_deleted_or_encrypted_are_brought_back_byte_for_byte() -> Result<()> {
    const FILES: u64 = 10_000;
    let pair = Pair::joined_with(|laptop, _| {
        (0..FILES).try_for_each(|n| laptop.write(format!("papers/{}/{n}", n % 90), noise(n, 20 + n as usize % 300)))
    })?;
    let (papers, kept) = (pair.laptop.path("papers"), pair.scratch().join("kept"));
    succeed(Command::new("cp").arg("--archive").args([&papers, &kept]), LATER)?;
    // The times of directories are those of their last change, which will be the undoing.
    let lost_by = |machine: &Machine| -> Result<usize> {
        let differ = tree::compare(&kept, &machine.path("papers"), &[])?;
        Ok(differ.iter().filter(|at| !matches!(at.right, Some(Entry::Folder { .. }))).count())
    };
    let undone = |what: &str| -> Result<()> {
        let _: Value = pair.desktop.ask(["held", "undo", "--all"])?;
        // The laptop has yet to hear of it.
        pair.desktop.settle(LATER)?;
        pair.laptop.settle(LATER)?;
        ensure!(pair.laptop.status()?.held == 0 && pair.desktop.status()?.held == 0, "{what}");
        Ok(())
    };
    let held = |what: &str| -> Result<()> {
        pair.laptop.until_status(what, LATER, |status| status.held > 0)?;
        pair.desktop.until_status(what, LATER, |status| status.held > 0 && !status.in_sync)?;
        // Until all of it has been found: what is found after a person's word is another hold.
        let waited = pair.laptop.hearth_within(LATER * 2, ["wait", "--timeout", "120"])?;
        ensure!(waited.code == 1, "{what}: {waited:?}");
        Ok(())
    };

    fs::remove_dir_all(&papers)?;
    held("all removals held")?;
    ensure!(lost_by(&pair.desktop)? == 0, "nothing happens on the desktop");
    undone("removals")?;
    ensure!(lost_by(&pair.laptop)? == 0 && lost_by(&pair.desktop)? == 0, "every file is back");

    let before = pair.desktop.status()?.fresh_as_of.context("it was in sync")?;
    let folder = pair.desktop.home_inside().join("papers");
    for n in 0..FILES {
        let path = papers.join(format!("{}/{n}", n % 90));
        let text = fs::read(&path)?;
        fs::write(&path, text.iter().map(|byte| byte ^ 0xa5).collect::<Vec<_>>())?;
    }
    held("encrypted contents held")?;
    let lost = lost_by(&pair.desktop)?;
    ensure!(lost as u64 <= (FILES + 200) * 3 / 10, "{lost} files, more than may be replaced without a question");
    undone("encrypted contents")?;
    // What went before the limit was reached lies in the desktop's history.
    let from: [&OsStr; 4] = ["--from".as_ref(), "laptop".as_ref(), "--since".as_ref(), before.as_ref()];
    let _: Value = pair.desktop.ask(["restore".as_ref(), folder.as_os_str()].into_iter().chain(from))?;
    pair.desktop.settle(LATER)?;
    pair.laptop.settle(LATER)?;
    ensure!(lost_by(&pair.laptop)? == 0 && lost_by(&pair.desktop)? == 0, "every file is back as it was");
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
        laptop.configure("[brakes]\nenabled = false\n")?;
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
