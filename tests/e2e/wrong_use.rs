//! Everything a person can do wrong, or meet, at the command line: the exit code, and the two lines that help.
//!
//! Snapshots hold the two lines. What differs from run to run (ports, keys, scratch folders) is replaced before.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hearth_tests::answer::Invitation;
use hearth_tests::machine::{Kind, Machine};
use hearth_tests::pair::{LATER, SOON, init, join_by_code};
use hearth_tests::relay::Relay;
use hearth_tests::room::{Room, Walls};
use hearth_tests::scratch::Scratch;
use hearth_tests::tree;
use serde_json::Value;

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NOT_RUNNING: i32 = 3;
const TIMED_OUT: i32 = 4;
/// A phrase with a valid checksum, of an account that no relay knows.
const FOREIGN_PHRASE: &str = "legal winner thank year wave sausage worth useful legal winner thank yellow";

#[test]
fn no_daemon() -> Result<()> {
    let scratch = Scratch::new()?;
    let laptop = Machine::new(scratch.path(), "laptop", Kind::default())?;
    for line in [&["status"][..], &["wait"], &["pause"], &["device", "list"], &["status", "--json"]] {
        two_lines("no_daemon", &laptop, NOT_RUNNING, line)?;
    }
    Ok(())
}

#[test]
fn no_account_yet() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut laptop = Machine::new(scratch.path(), "laptop", Kind::default())?;
    laptop.start()?;
    let status = laptop.status()?;
    ensure!(status.account.is_none() && status.device.is_none() && !status.in_sync, "{status:?}");
    two_lines("no_account_device_add", &laptop, FAILED, &["device", "add"])?;
    two_lines("no_account_revoke", &laptop, FAILED, &["device", "revoke", "desktop"])
}

#[test]
fn wrong_words() -> Result<()> {
    let scratch = Scratch::new()?;
    let laptop = Machine::new(scratch.path(), "laptop", Kind::default())?;
    two_lines("unknown_command", &laptop, USAGE, &["synchronise"])?;
    two_lines("missing_command", &laptop, USAGE, &[])?;
    two_lines("missing_relay", &laptop, USAGE, &["init"])?;
    two_lines("bad_relay_address", &laptop, USAGE, &["init", "--relay", "https://example.org"])?;
    two_lines("bad_timeout", &laptop, USAGE, &["wait", "--timeout", "soon"])
}

#[test]
fn a_second_account_on_one_machine() -> Result<()> {
    let (_scratch, relay, laptop, _) = two_strangers()?;
    init(&laptop, relay.address())?;
    two_lines("second_account", &laptop, FAILED, &["init", "--relay", relay.address()])
}

#[test]
fn a_bad_code() -> Result<()> {
    let (_scratch, relay, laptop, desktop) = two_strangers()?;
    init(&laptop, relay.address())?;
    let join = |case, exit, code: &str| two_lines(case, &desktop, exit, &["join", code, "--relay", relay.address()]);
    join("malformed_code", USAGE, "not-a-code")?;
    join("unknown_code", FAILED, "9999-abandon-ability-able")?;

    let invitation: Invitation = laptop.ask(["device", "add"])?;
    let mut words: Vec<&str> = invitation.code.split('-').collect();
    ensure!(words.len() == 4 && words[0].parse::<u32>().is_ok(), "a number and three words: {}", invitation.code);
    words.swap(1, 2);
    if words[1] == words[2] {
        words[1] = "zoo";
    }
    join("wrong_words_in_code", FAILED, &words.join("-"))?;

    join_by_code(&laptop, &desktop, relay.address())
}

#[test]
fn a_code_used_twice() -> Result<()> {
    let (scratch, relay, laptop, desktop) = two_strangers()?;
    init(&laptop, relay.address())?;
    let invitation: Invitation = laptop.ask(["device", "add"])?;
    let _: Value = desktop.ask(["join", &invitation.code, "--relay", relay.address(), "--name", "desktop"])?;
    let mut tablet = Machine::new(scratch.path(), "tablet", Kind::default())?;
    tablet.start()?;
    two_lines("used_code", &tablet, FAILED, &["join", &invitation.code, "--relay", relay.address()])
}

#[test]
fn an_account_at_a_relay_without_its_invitation() -> Result<()> {
    let scratch = Scratch::new()?;
    let relay = Relay::by_invitation(&scratch.path().join("relay"), None, "127.0.0.1")?;
    let mut laptop = Machine::new(scratch.path(), "laptop", Kind::default())?;
    laptop.start()?;
    let made = ["init", "--relay", relay.address(), "--name", "laptop"];
    two_lines("init_without_invitation", &laptop, FAILED, &made)?;
    let word = relay.invite()?;
    two_lines("init_with_a_wrong_invitation", &laptop, FAILED, &[&made[..], &["--invite", "nonsense"]].concat())?;
    let _: Value = laptop.ask([&made[..], &["--invite", &word]].concat())?;
    let mut desktop = Machine::new(scratch.path(), "desktop", Kind::default())?;
    desktop.start()?;
    let again = ["init", "--relay", relay.address(), "--name", "desktop", "--invite", &word];
    two_lines("init_with_a_used_invitation", &desktop, FAILED, &again)?;
    join_by_code(&laptop, &desktop, relay.address())?;
    laptop.settle(SOON)
}

#[test]
fn a_wrong_phrase() -> Result<()> {
    let (_scratch, relay, laptop, desktop) = two_strangers()?;
    init(&laptop, relay.address())?;
    let phrases = [
        ("foreign_phrase", FAILED, FOREIGN_PHRASE),
        (
            "phrase_with_wrong_checksum",
            USAGE,
            "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon zoo",
        ),
        ("phrase_of_other_words", USAGE, "these are not the words of any list that we have ever shipped"),
        ("phrase_too_short", USAGE, "abandon ability able"),
    ];
    for (case, exit, phrase) in phrases {
        desktop.write("phrase.txt", phrase)?;
        let file = text(&desktop, "phrase.txt")?;
        two_lines(case, &desktop, exit, &["join", "--phrase-file", &file, "--relay", relay.address()])?;
    }
    let file = text(&desktop, "no such file.txt")?;
    two_lines("phrase_file_missing", &desktop, FAILED, &["join", "--phrase-file", &file, "--relay", relay.address()])
}

#[test]
fn the_relay_is_down() -> Result<()> {
    let (_scratch, mut relay, laptop, desktop) = two_strangers()?;
    relay.stop()?;
    two_lines("init_without_relay", &laptop, FAILED, &["init", "--relay", relay.address()])?;
    let join = ["join", "7-abandon-ability-able", "--relay", relay.address()];
    two_lines("join_without_relay", &desktop, FAILED, &join)?;
    relay.again(None)?;
    init(&laptop, relay.address())?;
    relay.stop()?;
    laptop.until_status("an answer without the relay", SOON, |status| status.account.is_some())?;
    two_lines("device_add_without_relay", &laptop, FAILED, &["device", "add"])
}

#[test]
fn the_relay_is_another_than_the_address_says() -> Result<()> {
    let (scratch, relay, laptop, _) = two_strangers()?;
    let other = Relay::start(&scratch.path().join("other relay"), None, "127.0.0.1")?;
    let key = other.address().split('#').nth(1).context("a relay without a certificate has a pinned key")?;
    let place = relay.address().split('#').next().unwrap_or_default();
    two_lines("relay_with_another_key", &laptop, FAILED, &["init", "--relay", &format!("{place}#{key}")])
}

#[test]
fn an_unknown_machine() -> Result<()> {
    let (_scratch, relay, laptop, desktop) = two_strangers()?;
    init(&laptop, relay.address())?;
    join_by_code(&laptop, &desktop, relay.address())?;
    two_lines("revoke_unknown_machine", &laptop, FAILED, &["device", "revoke", "toaster"])?;
    two_lines("rename_unknown_machine", &laptop, FAILED, &["device", "rename", "toaster", "oven"])?;
    two_lines("wait_for_unknown_machine", &laptop, FAILED, &["wait", "--peer", "toaster"])
}

#[test]
fn nothing_of_that_name_in_history() -> Result<()> {
    let (_scratch, relay, laptop, _) = two_strangers()?;
    init(&laptop, relay.address())?;
    laptop.settle(SOON)?;
    let path = text(&laptop, "never was.txt")?;
    two_lines("restore_without_history", &laptop, FAILED, &["restore", &path])?;
    two_lines("restore_unknown_version", &laptop, FAILED, &["restore", &path, "--version", "nosuchversion"])?;
    two_lines("history_outside_the_home", &laptop, USAGE, &["history", "/etc/passwd"])?;
    two_lines("restore_at_no_time", &laptop, USAGE, &["restore", &path, "--at", "the day before"])
}

#[test]
fn waiting_for_a_machine_that_is_away_ends_in_time() -> Result<()> {
    let (_scratch, relay, laptop, mut desktop) = two_strangers()?;
    init(&laptop, relay.address())?;
    join_by_code(&laptop, &desktop, relay.address())?;
    laptop.settle(LATER)?;
    desktop.kill()?;
    laptop.write("new.txt", "nobody has it yet")?;
    two_lines("wait_timed_out", &laptop, TIMED_OUT, &["wait", "--timeout", "1"])
}

#[test]
fn a_second_daemon_is_refused() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut laptop = Machine::new(scratch.path(), "laptop", Kind::default())?;
    laptop.start()?;
    let syncd = hearth_tests::program::program("syncd")?;
    let second = hearth_tests::process::run(&mut laptop.command(syncd), Duration::from_secs(20))?;
    ensure!(second.code == FAILED, "the second ends with {}: {}", second.code, second.stderr);
    laptop.status().map(drop)
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem_and_nothing_else() -> Result<()> {
    let scratch = Scratch::new()?;
    let relay = Relay::start(&scratch.path().join("relay"), None, "127.0.0.1")?;
    let bound = Kind { bound_by_modes: true, ..Kind::default() };
    let mut laptop = Machine::new(scratch.path(), "laptop", bound)?;
    let mut desktop = Machine::new(scratch.path(), "desktop", Kind::default())?;
    laptop.write("open.txt", "for everybody")?;
    laptop.write("closed.txt", "for nobody")?;
    laptop.write("closed folder/inside.txt", "for nobody either")?;
    laptop.start()?;
    desktop.start()?;
    init(&laptop, relay.address())?;
    join_by_code(&laptop, &desktop, relay.address())?;
    laptop.settle(LATER)?;
    for path in ["closed.txt", "closed folder"] {
        fs::set_permissions(laptop.path(path), fs::Permissions::from_mode(0o000))?;
    }
    laptop.write("closed too.txt", "for nobody from the start")?;
    fs::set_permissions(laptop.path("closed too.txt"), fs::Permissions::from_mode(0o000))?;
    laptop.write("open.txt", "for everybody, still")?;
    desktop.until_content("open.txt", b"for everybody, still", SOON)?;
    let status = laptop.until_status("the problem to be shown", SOON, |status| {
        status.problems.iter().any(|problem| problem.path.as_deref() == Some("closed too.txt"))
    })?;
    ensure!(status.problems.iter().all(|problem| !problem.what.is_empty() && !problem.hint.is_empty()), "{status:?}");
    ensure!(!status.in_sync, "what cannot be read is not in sync");
    two_lines("wait_with_unreadable_file", &laptop, FAILED, &["wait", "--timeout", "60"])?;
    ensure!(desktop.read("closed folder/inside.txt")? == b"for nobody either", "unreadable is no deletion");
    // What is blocked here keeps nobody from waiting for what is not: a machine that was killed has to hear of it first.
    desktop.kill()?;
    laptop.write("open.txt", "for everybody, once more")?;
    desktop.start()?;
    two_lines("wait_with_unreadable_file", &laptop, FAILED, &["wait", "--timeout", "60"])?;
    ensure!(desktop.read("open.txt")? == b"for everybody, once more", "the wait ended before all was told");
    fs::set_permissions(laptop.path("closed folder"), fs::Permissions::from_mode(0o700))?;
    Ok(())
}

#[test]
fn a_full_disk_loses_nothing_and_is_said() -> Result<()> {
    let scratch = Scratch::new()?;
    let relay = Relay::start(&scratch.path().join("relay"), None, "127.0.0.1")?;
    let room = Rc::new(Room::new("small", Walls { mounts: true, ..Walls::default() }, scratch.path())?);
    let home = scratch.path().join("desktop/home");
    fs::create_dir_all(&home)?;
    room.small_disk(&home, 24 << 20)?;
    let small = Kind { room: Some(Rc::clone(&room)), ..Kind::default() };
    let mut laptop = Machine::new(scratch.path(), "laptop", Kind::default())?;
    let mut desktop = Machine::new(scratch.path(), "desktop", small)?;
    desktop.write(".config/hearth/config.toml", "")?;
    laptop.start()?;
    desktop.start()?;
    init(&laptop, relay.address())?;
    join_by_code(&laptop, &desktop, relay.address())?;
    laptop.settle(LATER)?;

    laptop.write("too big.bin", tree::noise(1, 48 << 20))?;
    for n in 0..64 {
        laptop.write(format!("too many/{n}.bin"), tree::noise(2 + n, 512 << 10))?;
    }
    laptop.write("small.txt", "fits")?;
    desktop.until_content("small.txt", b"fits", LATER)?;
    let too_many = |status: &hearth_tests::answer::Status| {
        let waits = |path: &str| {
            status.problems.iter().any(|problem| problem.path.as_deref().is_some_and(|at| at.starts_with(path)))
        };
        waits("too big.bin") && waits("too many/")
    };
    let status = desktop.until_status("the full disk to be shown", LATER, too_many)?;
    let left = rustix::fs::statvfs(desktop.home())?;
    ensure!(left.f_bavail >= left.f_blocks / 20, "others have room left: {} of {}", left.f_bavail, left.f_blocks);
    ensure!(!status.in_sync, "what does not fit is not in sync");
    ensure!(status.problems.iter().all(|problem| !problem.hint.is_empty()), "{status:?}");
    fs::remove_dir_all(laptop.path("too many"))?;
    desktop.until_status("one problem to be left", LATER, |status| status.problems.len() == 1)?;
    two_lines("wait_with_full_disk", &desktop, FAILED, &["wait", "--timeout", "60"])?;
    ensure!(fs::metadata(laptop.path("too big.bin"))?.len() == 48 << 20, "the laptop has it still");

    let home_inside = desktop.home_inside();
    let at = home_inside.to_str().context("a scratch path is text")?;
    room.run(&["mount", "-o", "remount,size=160M", at])?;
    desktop.until_content("too big.bin", &tree::noise(1, 48 << 20), LATER)?;
    laptop.settle(LATER)?;
    ensure!(desktop.status()?.problems.is_empty(), "nothing is wrong once there is room");

    laptop.write("too big.bin", "small by now")?;
    desktop.until_content("too big.bin", b"small by now", LATER)?;
    laptop.settle(LATER)?;
    tree::assert_equal(&laptop.home(), &desktop.home(), &tree::OWN)
}

#[test]
fn too_few_watches_are_said_and_changes_still_arrive() -> Result<()> {
    let scratch = Scratch::new()?;
    let relay = Relay::start(&scratch.path().join("relay"), None, "127.0.0.1")?;
    let room = Rc::new(Room::new("few watches", Walls { user: true, ..Walls::default() }, scratch.path())?);
    room.run(&["sh", "-c", "echo 40 > /proc/sys/user/max_inotify_watches"])?;
    let mut laptop = Machine::new(scratch.path(), "laptop", Kind { room: Some(room), ..Kind::default() })?;
    let mut desktop = Machine::new(scratch.path(), "desktop", Kind::default())?;
    for number in 0..200 {
        laptop.write(format!("folders/{number}/file.txt"), "one of many")?;
    }
    laptop.start()?;
    desktop.start()?;
    init(&laptop, relay.address())?;
    join_by_code(&laptop, &desktop, relay.address())?;
    laptop.settle(LATER)?;
    laptop.write("folders/199/file.txt", "changed where nobody may be watching")?;
    desktop.until_content("folders/199/file.txt", b"changed where nobody may be watching", LATER)?;
    let status = laptop.status()?;
    let said = status.problems.iter().find(|problem| problem.hint.contains("max_user_watches"));
    let said = said.with_context(|| format!("status says what to do about too few watches: {status:?}"))?;
    let numberless: String = said
        .what
        .split_inclusive(' ')
        .map(|word| if word.trim().parse::<u64>().is_ok() { "MANY " } else { word })
        .collect();
    insta::assert_snapshot!("too_few_watches", format!("error: {numberless}\nhint: {}", said.hint));
    Ok(())
}

/// A relay and two machines without an account, all on the loopback interface.
fn two_strangers() -> Result<(Scratch, Relay, Machine, Machine)> {
    let scratch = Scratch::new()?;
    let relay = Relay::start(&scratch.path().join("relay"), None, "127.0.0.1")?;
    let mut laptop = Machine::new(scratch.path(), "laptop", Kind::default())?;
    let mut desktop = Machine::new(scratch.path(), "desktop", Kind::default())?;
    laptop.start()?;
    desktop.start()?;
    Ok((scratch, relay, laptop, desktop))
}

/// Runs `hearth`, and checks its exit code, that it says two lines and nothing else, and what they are.
fn two_lines(case: &str, machine: &Machine, exit: i32, line: &[&str]) -> Result<()> {
    let reply = machine.hearth_within(LATER, line)?;
    let said = reply.stderr.replace(&machine.home_inside().display().to_string(), "HOME");
    ensure!(
        reply.code == exit,
        "{case}: {line:?} ended with {} instead of {exit}: {said}{}",
        reply.code,
        machine.tail()
    );
    let lines: Vec<&str> = said.lines().collect();
    let [error, hint] = lines.as_slice() else { anyhow::bail!("{case}: {line:?} says two lines, not: {said}") };
    ensure!(error.starts_with("error: ") && hint.starts_with("hint: "), "{case}: {said}");
    insta::assert_snapshot!(case, steady(&said));
    Ok(())
}

/// Replaces the addresses of relays, which differ from run to run.
fn steady(said: &str) -> String {
    let words = said.split_inclusive([' ', '\n']).map(|word| {
        let bare = word.trim_matches(|letter: char| " \n`,.;()".contains(letter));
        if bare.contains("127.0.0.1:") { word.replace(bare, "RELAY") } else { word.to_owned() }
    });
    words.collect()
}

fn text(machine: &Machine, relative: &str) -> Result<String> {
    let path = machine.home_inside().join(relative);
    Ok(path.to_str().context("a scratch path is text")?.to_owned())
}
