//! The main job with the real programs: two machines, a relay and a network between them, all in namespaces.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hearth_tests::answer::{Conflict, Displaced};
use hearth_tests::machine::{Kind, Machine};
use hearth_tests::pair::{LATER, Pair, SOON, init, join_by_code};
use hearth_tests::tree;
use serde_json::Value;

#[test]
fn an_edit_here_is_seen_there_and_one_there_is_seen_here() -> Result<()> {
    let pair = Pair::joined()?;
    pair.laptop.write("notes/today.txt", "from the laptop")?;
    pair.desktop.until_content("notes/today.txt", b"from the laptop", SOON)?;
    pair.desktop.write("notes/today.txt", "and from the desktop")?;
    pair.laptop.until_content("notes/today.txt", b"and from the desktop", SOON)?;
    pair.settle(SOON)?;
    let status = pair.laptop.status()?;
    ensure!(status.in_sync && status.conflicts == 0 && status.problems.is_empty(), "{status:?}");
    let peer = status.peer("desktop").context("the desktop is a peer")?;
    ensure!(peer.online && peer.in_sync && peer.path.is_some(), "{peer:?}");
    pair.assert_alike()
}

#[test]
fn a_messy_home_arrives_exactly() -> Result<()> {
    let pair = Pair::joined_with(|laptop, desktop| {
        fs::create_dir(laptop.path("mess"))?;
        tree::generate(&laptop.path("mess"), 42)?;
        desktop.write("already here.txt", "on the desktop before")
    })?;
    tree::assert_equal(&pair.laptop.home(), &pair.desktop.home(), &tree::OWN)?;
    ensure!(pair.laptop.read("already here.txt")? == b"on the desktop before");
    Ok(())
}

#[test]
fn the_same_path_on_both_sides_before_joining_unites() -> Result<()> {
    let pair = Pair::joined_with(|laptop, desktop| {
        laptop.write("docs/same.txt", "equal on both")?;
        desktop.write("docs/same.txt", "equal on both")?;
        laptop.write("docs/other.txt", "the account's")?;
        desktop.write("docs/other.txt", "the newcomer's")
    })?;
    pair.assert_alike()?;
    ensure!(pair.desktop.read("docs/other.txt")? == b"the account's", "the account's version keeps the name");
    let conflicts: Vec<Conflict> = pair.desktop.ask(["conflicts"])?;
    let [conflict] = conflicts.as_slice() else { anyhow::bail!("one conflict, not {conflicts:?}") };
    ensure!(conflict.path == "docs/other.txt" && conflict.device == "desktop", "{conflict:?}");
    ensure!(pair.laptop.read(&conflict.sibling)? == b"the newcomer's");
    Ok(())
}

#[test]
fn a_renamed_folder_moves_as_one_thing_and_no_content_travels() -> Result<()> {
    const CONTENT_BYTES: usize = 40_000;
    let pair = Pair::joined_with(|laptop, _| {
        (0..500).try_for_each(|number| {
            laptop.write(format!("photos/{}/{number}.raw", number % 20), tree::noise(number, CONTENT_BYTES))
        })
    })?;
    let before = pair.lab.traffic("desktop")?.received;
    fs::rename(pair.laptop.path("photos"), pair.laptop.path("pictures"))?;
    pair.desktop.until_there("pictures/7/7.raw", true, SOON)?;
    pair.settle(SOON)?;
    let received = pair.lab.traffic("desktop")?.received - before;
    ensure!(received < 100_000, "{received} bytes travelled for a rename");
    ensure!(fs::symlink_metadata(pair.desktop.path("photos")).is_err(), "the old name is gone");
    pair.assert_alike()
}

#[test]
fn both_edited_and_both_are_kept() -> Result<()> {
    let pair = Pair::joined()?;
    pair.laptop.write("report.txt", "draft")?;
    pair.desktop.until_content("report.txt", b"draft", SOON)?;
    pair.settle(SOON)?;
    pair.lab.cable("desktop", false)?;
    pair.laptop.write("report.txt", "draft, as the laptop has it, \0 which no merge understands")?;
    pair.desktop.write("report.txt", "draft, as the desktop has it, \0 which no merge understands")?;
    pair.lab.cable("desktop", true)?;
    pair.settle(LATER)?;
    pair.assert_alike()?;
    let conflicts: Vec<Conflict> = pair.laptop.ask(["conflicts"])?;
    let [conflict] = conflicts.as_slice() else { anyhow::bail!("one conflict, not {conflicts:?}") };
    ensure!(conflict.path == "report.txt", "{conflict:?}");
    ensure!(conflict.sibling.starts_with("report (conflict, ") && conflict.sibling.ends_with(").txt"), "{conflict:?}");
    let kept = [pair.desktop.read("report.txt")?, pair.desktop.read(&conflict.sibling)?];
    for text in ["laptop", "desktop"] {
        let wanted = format!("draft, as the {text} has it, \0 which no merge understands");
        ensure!(kept.contains(&wanted.into_bytes()), "the version of the {text} is kept: {kept:?}");
    }
    ensure!(pair.laptop.status()?.conflicts == 1 && pair.desktop.status()?.conflicts == 1);
    Ok(())
}

#[test]
fn an_edit_outlives_a_deletion() -> Result<()> {
    let pair = Pair::joined()?;
    pair.laptop.write("list.txt", "milk")?;
    pair.desktop.until_content("list.txt", b"milk", SOON)?;
    pair.settle(SOON)?;
    pair.lab.cable("desktop", false)?;
    fs::remove_file(pair.laptop.path("list.txt"))?;
    pair.desktop.write("list.txt", "milk and bread")?;
    pair.lab.cable("desktop", true)?;
    pair.laptop.until_content("list.txt", b"milk and bread", LATER)?;
    pair.settle(LATER)?;
    pair.assert_alike()
}

#[test]
fn what_was_deleted_and_overwritten_comes_back_from_history() -> Result<()> {
    let pair = Pair::joined()?;
    pair.laptop.write("poem.txt", "first verse")?;
    pair.desktop.until_content("poem.txt", b"first verse", SOON)?;
    pair.settle(SOON)?;
    pair.laptop.write("poem.txt", "second verse")?;
    pair.desktop.until_content("poem.txt", b"second verse", SOON)?;
    pair.settle(SOON)?;
    fs::remove_file(pair.laptop.path("poem.txt"))?;
    pair.desktop.until_there("poem.txt", false, SOON)?;
    pair.settle(SOON)?;

    let path = pair.desktop.home_inside().join("poem.txt");
    let rows: Vec<Displaced> = pair.desktop.ask([&"history".into(), &path])?;
    ensure!(rows.iter().all(|row| row.path == "poem.txt"), "{rows:?}");
    let hash = |text: &str| blake3::hash(text.as_bytes()).to_hex().to_string();
    let hashes: Vec<&str> = rows.iter().map(|row| row.blake3.as_str()).collect();
    ensure!(hashes == [hash("second verse"), hash("first verse")], "newest first: {rows:?}");

    let path = path.to_str().context("a scratch path is text")?;
    let _: Value = pair.desktop.ask(["restore", path, "--version", &rows[1].version])?;
    pair.laptop.until_content("poem.txt", b"first verse", SOON)?;
    let elsewhere = pair.desktop.home_inside().join("older.txt");
    let elsewhere = elsewhere.to_str().context("a scratch path is text")?;
    let _: Value = pair.desktop.ask(["restore", path, "--version", &rows[0].version, "--to", elsewhere])?;
    pair.laptop.until_content("older.txt", b"second verse", SOON)?;
    pair.settle(SOON)?;
    pair.assert_alike()
}

#[test]
fn a_link_restored_elsewhere_leads_where_it_led_byte_for_byte() -> Result<()> {
    let pair = Pair::joined()?;
    let target = OsStr::from_bytes(b"invalid \xff target");
    symlink(target, pair.laptop.path("link"))?;
    pair.desktop.until_there("link", true, SOON)?;
    pair.settle(SOON)?;
    fs::remove_file(pair.laptop.path("link"))?;
    pair.desktop.until_there("link", false, SOON)?;
    pair.settle(SOON)?;
    let elsewhere = pair.scratch().join("restored");
    let path = pair.desktop.home_inside().join("link");
    let _: Value = pair.desktop.ask([&"restore".into(), &path, &"--to".into(), &elsewhere])?;
    ensure!(fs::read_link(&elsewhere)?.as_os_str() == target, "{:?}", fs::read_link(&elsewhere)?);
    Ok(())
}

#[test]
fn a_big_file_travels_and_a_small_change_in_it_travels_small() -> Result<()> {
    const LENGTH: usize = 64 << 20;
    let pair = Pair::joined()?;
    let mut content = tree::noise(1, LENGTH);
    pair.laptop.write("film.bin", &content)?;
    pair.desktop.until_content("film.bin", &content, LATER)?;
    pair.settle(SOON)?;
    let before = pair.lab.traffic("desktop")?.received;
    let middle = LENGTH / 2;
    content.splice(middle..middle, *b"a few bytes more");
    pair.laptop.write("film.bin", &content)?;
    pair.desktop.until_content("film.bin", &content, LATER)?;
    pair.settle(SOON)?;
    let received = pair.lab.traffic("desktop")?.received - before;
    ensure!(received < LENGTH as u64 / 8, "{received} bytes travelled for an insertion of sixteen");
    pair.assert_alike()
}

#[test]
fn killed_in_the_middle_of_a_transfer_either_side_recovers() -> Result<()> {
    let mut pair = Pair::joined()?;
    for (seed, victim) in [(5, "receiver"), (6, "sender")] {
        let name = format!("{victim}.bin");
        tree::write_noise(&pair.laptop.path("large.part"), seed, 96 << 20)?;
        let before = pair.lab.traffic("desktop")?.received;
        fs::rename(pair.laptop.path("large.part"), pair.laptop.path(&name))?;
        pair.desktop.until_status("some of the file to arrive", LATER, |_| {
            pair.lab.traffic("desktop").is_ok_and(|now| now.received > before + (8 << 20))
        })?;
        let machine = if victim == "receiver" { &mut pair.desktop } else { &mut pair.laptop };
        machine.kill()?;
        ensure!(fs::symlink_metadata(pair.desktop.path(&name)).is_err(), "the file was not there in part");
        let machine = if victim == "receiver" { &mut pair.desktop } else { &mut pair.laptop };
        machine.start()?;
        pair.settle(LATER)?;
        pair.assert_alike()?;
        ensure!(fs::symlink_metadata(pair.desktop.path(&name)).is_ok(), "{name} has arrived");
    }
    Ok(())
}

#[test]
fn changes_made_while_the_daemon_was_away_are_found() -> Result<()> {
    let mut pair = Pair::joined_with(|laptop, _| {
        laptop.write("kept.txt", "kept")?;
        laptop.write("gone.txt", "gone")?;
        laptop.write("old name.txt", "renamed while nobody looked")
    })?;
    pair.laptop.stop()?;
    fs::remove_file(pair.laptop.path("gone.txt"))?;
    fs::rename(pair.laptop.path("old name.txt"), pair.laptop.path("new name.txt"))?;
    pair.laptop.write("kept.txt", "kept, and changed")?;
    fs::set_permissions(pair.laptop.path("kept.txt"), fs::Permissions::from_mode(0o600))?;
    pair.desktop.write("meanwhile.txt", "on the other machine")?;
    pair.laptop.start()?;
    pair.settle(LATER)?;
    ensure!(pair.desktop.read("kept.txt")? == b"kept, and changed");
    ensure!(pair.laptop.read("meanwhile.txt")? == b"on the other machine");
    ensure!(fs::symlink_metadata(pair.desktop.path("gone.txt")).is_err());
    pair.assert_alike()
}

#[test]
fn paused_machines_keep_what_they_have_until_resumed() -> Result<()> {
    let pair = Pair::joined()?;
    let _: Value = pair.desktop.ask(["pause"])?;
    pair.laptop.write("later.txt", "not yet")?;
    let reply = pair.laptop.hearth(["wait", "--timeout", "2"])?;
    // A pause is either taken for work that waits for a person, or waited out.
    ensure!([1, 4].contains(&reply.code), "wait does not succeed: {}: {}", reply.code, reply.stderr);
    ensure!(fs::symlink_metadata(pair.desktop.path("later.txt")).is_err(), "paused means paused");
    ensure!(!pair.laptop.status()?.in_sync, "a paused machine does not agree");
    let _: Value = pair.desktop.ask(["resume"])?;
    pair.desktop.until_content("later.txt", b"not yet", SOON)?;
    pair.settle(SOON)
}

#[test]
fn the_relay_may_go_and_come_back() -> Result<()> {
    let mut pair = Pair::joined()?;
    for kill in [false, true] {
        if kill {
            pair.relay.kill()?
        } else {
            pair.relay.stop()?
        }
        let name = format!("written while it was away {kill}.txt");
        pair.laptop.write(&name, "patience")?;
        pair.relay_again()?;
        pair.desktop.until_content(&name, b"patience", SOON)?;
        pair.settle(SOON)?;
    }
    pair.assert_alike()
}

#[test]
fn a_cable_pulled_is_noticed_and_one_put_back_is_used() -> Result<()> {
    let pair = Pair::joined()?;
    pair.lab.cable("desktop", false)?;
    let away = |status: &hearth_tests::answer::Status| status.peer("desktop").is_some_and(|peer| !peer.online);
    let status = pair.laptop.until_status("the desktop to be away", LATER, away)?;
    ensure!(!status.in_sync || status.fresh_as_of.is_some(), "{status:?}");
    pair.laptop.write("while away.txt", "waiting")?;
    pair.laptop.settle_with_those_online(SOON).context("nobody is left to wait for")?;
    pair.lab.cable("desktop", true)?;
    pair.desktop.until_content("while away.txt", b"waiting", LATER)?;
    pair.settle(SOON)
}

#[test]
fn a_third_machine_joins_by_phrase_and_has_everything() -> Result<()> {
    let pair = Pair::strangers()?;
    let made = init(&pair.laptop, pair.relay.address())?;
    pair.laptop.write("from the first.txt", "one")?;
    pair.desktop.write(".phrase", &made.phrase)?;
    let phrase = pair.desktop.home_inside().join(".phrase");
    let phrase = phrase.to_str().context("a scratch path is text")?;
    let relay = pair.relay.address();
    let _: Value = pair.desktop.ask(["join", "--phrase-file", phrase, "--relay", relay, "--name", "laptop"])?;
    pair.settle(LATER)?;
    ensure!(pair.desktop.read("from the first.txt")? == b"one");
    let status = pair.desktop.status()?;
    ensure!(status.device.as_deref() == Some("laptop-2"), "a taken name gets a number: {status:?}");
    ensure!(status.account.as_deref() == Some(made.account.as_str()), "{status:?}");
    Ok(())
}

#[test]
fn a_third_machine_gets_what_two_have_and_all_three_agree() -> Result<()> {
    let pair = Pair::joined_with(|laptop, _| laptop.write("shared.txt", "by three"))?;
    let room = Some(Rc::clone(pair.lab.host("desktop")?));
    let mut tablet = Machine::new(pair.scratch(), "tablet", Kind { room, ..Kind::default() })?;
    tablet.start()?;
    join_by_code(&pair.desktop, &tablet, pair.relay.address())?;
    tablet.settle(LATER)?;
    pair.settle(LATER)?;
    tree::assert_equal(&pair.laptop.home(), &tablet.home(), &tree::OWN)?;
    tablet.write("shared.txt", "by three, edited by the third")?;
    pair.laptop.until_content("shared.txt", b"by three, edited by the third", SOON)?;
    pair.desktop.until_content("shared.txt", b"by three, edited by the third", SOON)?;
    tablet.stop()
}

#[test]
fn a_revoked_machine_is_cut_off_at_once() -> Result<()> {
    let pair = Pair::joined()?;
    let before: Value = pair.laptop.ask(["device", "list"])?;
    ensure!(before.to_string().contains("desktop"), "{before}");
    let _: Value = pair.laptop.ask(["device", "revoke", "desktop"])?;
    pair.laptop.until_status("no peer to be left", SOON, |status| status.peer("desktop").is_none())?;
    pair.laptop.write("secret.txt", "not for the desktop")?;
    pair.desktop.write("unwanted.txt", "not for the laptop")?;
    // Nobody else is enrolled: the barrier holds as soon as the laptop has taken in its own change.
    pair.laptop.settle(SOON)?;
    let reply = pair.desktop.hearth(["wait", "--timeout", "5"])?;
    ensure!(reply.code != 0, "a revoked machine does not agree with anybody");
    ensure!(fs::symlink_metadata(pair.desktop.path("secret.txt")).is_err(), "it gets nothing");
    ensure!(fs::symlink_metadata(pair.laptop.path("unwanted.txt")).is_err(), "it gives nothing");
    Ok(())
}

#[test]
fn a_machine_gets_another_name_everywhere() -> Result<()> {
    let pair = Pair::joined()?;
    let _: Value = pair.laptop.ask(["device", "rename", "desktop", "workshop"])?;
    pair.laptop.until_status("the new name", SOON, |status| status.peer("workshop").is_some())?;
    let named = |status: &hearth_tests::answer::Status| status.device.as_deref() == Some("workshop");
    pair.desktop.until_status("its own new name", SOON, named)?;
    pair.laptop.write("after.txt", "still friends")?;
    pair.desktop.until_content("after.txt", b"still friends", SOON)?;
    Ok(())
}

#[test]
fn what_the_rules_keep_out_stays_and_why_says_so() -> Result<()> {
    let pair = Pair::joined_with(|laptop, _| {
        laptop.write(".ssh/id_ed25519", "a private key")?;
        laptop.write(".cache/thumbnails/x", "a cache")?;
        laptop.write("project/node_modules/left-pad/index.js", "rebuilt")?;
        laptop.write("project/main.js", "kept")
    })?;
    ensure!(pair.desktop.read("project/main.js")? == b"kept");
    for (path, class) in
        [(".ssh/id_ed25519", "never"), (".cache/thumbnails/x", "ignore"), ("project/node_modules", "ignore")]
    {
        ensure!(fs::symlink_metadata(pair.desktop.path(path)).is_err(), "{path} stays on the laptop");
        let why: Value = pair.laptop.ask([&"why".into(), &pair.laptop.home_inside().join(path)])?;
        ensure!(why["class"] == class, "{path}: {why}");
    }
    let _socket = UnixListener::bind(pair.laptop.path("project/socket"))?;
    let why: Value = pair.laptop.ask([&"why".into(), &pair.laptop.home_inside().join("project/socket")])?;
    ensure!(why["travels"] == false && why["source"] == "kind", "no rule keeps a socket: {why}");
    Ok(())
}

#[test]
fn a_machine_that_is_away_was_seen() -> Result<()> {
    let mut pair = Pair::joined()?;
    let seen = |laptop: &Machine| -> Result<String> {
        let devices: Value = laptop.ask(["device", "list"])?;
        let desktop = devices.as_array().and_then(|all| all.iter().find(|device| device["name"] == "desktop"));
        let seen = desktop.context("the desktop is listed")?["last_seen"].as_str();
        Ok(seen.context("it has been connected")?.to_owned())
    };
    let connected = seen(&pair.laptop)?;
    pair.desktop.stop()?;
    let laptop = &pair.laptop;
    let later = |_: &_| seen(laptop).is_ok_and(|now| now > connected);
    laptop.until_status("the desktop, seen until it stopped", SOON, later)?;
    let gone = seen(laptop)?;
    pair.laptop.kill()?;
    pair.laptop.start()?;
    ensure!(seen(&pair.laptop)? == gone, "a restart forgets nobody");
    Ok(())
}

#[test]
fn daemons_end_when_told_to_and_leave_no_work_behind() -> Result<()> {
    let mut pair = Pair::joined()?;
    pair.laptop.write("last words.txt", "written before the end")?;
    pair.settle(SOON)?;
    pair.laptop.stop()?;
    pair.desktop.stop()?;
    pair.relay.stop()?;
    pair.assert_alike()?;
    // Started again in any order, without the relay, they still answer.
    pair.desktop.start()?;
    let status = pair.desktop.status()?;
    ensure!(!status.in_sync || status.peers.iter().all(|peer| !peer.online), "{status:?}");
    pair.relay_again()?;
    pair.laptop.start()?;
    pair.settle(SOON + Duration::from_secs(30))?;
    let status = pair.desktop.status()?;
    ensure!(status.in_sync && status.pending.incoming == 0 && status.pending.outgoing == 0, "{status:?}");
    Ok(())
}

#[test]
fn what_came_from_a_machine_is_undone_on_another() -> Result<()> {
    let pair = Pair::joined_with(|laptop, _| {
        laptop.write("plan/a.txt", "a, as it was")?;
        laptop.write("plan/b.txt", "b, as it was")?;
        laptop.write("plan/deep/c.txt", "c, as it was")?;
        Ok(fs::set_permissions(laptop.path("plan/deep"), fs::Permissions::from_mode(0o750))?)
    })?;
    let before = pair.desktop.status()?.fresh_as_of.context("it was in sync")?;
    pair.laptop.write("plan/a.txt", "a, spoilt")?;
    pair.laptop.write("plan/new.txt", "and one too many")?;
    fs::remove_file(pair.laptop.path("plan/b.txt"))?;
    fs::remove_dir_all(pair.laptop.path("plan/deep"))?;
    pair.desktop.write("plan/mine.txt", "of the desktop")?;
    pair.settle(SOON)?;
    ensure!(pair.desktop.read("plan/a.txt")? == b"a, spoilt" && !pair.desktop.path("plan/deep").exists());
    let plan = pair.desktop.home_inside().join("plan");
    let from: [&OsStr; 4] = ["--from".as_ref(), "laptop".as_ref(), "--since".as_ref(), before.as_ref()];
    let undone: Value = pair.desktop.ask(["restore".as_ref(), plan.as_os_str()].into_iter().chain(from))?;
    ensure!(
        undone["restored"] == 3 && undone["removed"] == 1 && undone["problems"] == Value::Array(vec![]),
        "{undone}"
    );
    pair.settle(SOON)?;
    for machine in [&pair.laptop, &pair.desktop] {
        for (path, content) in [("a.txt", "a, as it was"), ("b.txt", "b, as it was"), ("deep/c.txt", "c, as it was")] {
            ensure!(machine.read(format!("plan/{path}"))? == content.as_bytes(), "{}: {path}", machine.name());
        }
        ensure!(machine.read("plan/mine.txt")? == b"of the desktop", "what another machine made stays");
        ensure!(!machine.path("plan/new.txt").exists(), "what it made is gone");
        ensure!(fs::metadata(machine.path("plan/deep"))?.permissions().mode() & 0o777 == 0o750, "the folder's mode");
    }
    pair.assert_alike()?;
    // And that can be undone in turn: the files as they were in between are in the history by now.
    let spoilt: Value = pair.desktop.ask([&"history".into(), &plan.join("a.txt")])?;
    ensure!(spoilt[0]["size"] == "a, spoilt".len(), "{spoilt}");
    Ok(())
}

#[test]
fn history_outlives_the_index() -> Result<()> {
    let mut pair = Pair::joined_with(|laptop, _| laptop.write("once.txt", "was here once"))?;
    fs::remove_file(pair.desktop.path("once.txt"))?;
    pair.laptop.until_there("once.txt", false, SOON)?;
    pair.settle(SOON)?;
    pair.laptop.stop()?;
    let state = pair.laptop.path(".local/state/hearth");
    for entry in fs::read_dir(&state)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"index-")) {
            fs::remove_file(path)?;
        }
    }
    pair.laptop.start()?;
    pair.settle(LATER)?;
    let history: Vec<Displaced> = pair.laptop.ask(["history", "--all"])?;
    let [kept] = &history[..] else { bail!("{history:?}") };
    let elsewhere = pair.scratch().join("again.txt");
    let path = pair.laptop.home_inside().join(&kept.path);
    let to: [&OsStr; 4] = ["--version".as_ref(), kept.version.as_ref(), "--to".as_ref(), elsewhere.as_ref()];
    let _: Value = pair.laptop.ask(["restore".as_ref(), path.as_os_str()].into_iter().chain(to))?;
    ensure!(fs::read(&elsewhere)? == b"was here once");
    Ok(())
}

#[test]
fn changes_of_different_lines_of_a_dotfile_come_together() -> Result<()> {
    let mut pair = Pair::joined()?;
    let shell = "alias l=ls\nexport EDITOR=vi\n# where programs are\nPATH=$PATH:bin\n";
    pair.laptop.write(".bashrc", shell)?;
    pair.settle(SOON)?;
    pair.desktop.stop()?;
    for editor in ["ed", "nano"] {
        pair.laptop.write(".bashrc", shell.replace("vi", editor))?;
        pair.laptop.settle_with_those_online(SOON)?;
    }
    pair.desktop.write(".bashrc", shell.replace("bin", "scripts"))?;
    pair.desktop.start()?;
    pair.settle(SOON)?;
    let both = shell.replace("vi", "nano").replace("bin", "scripts");
    let merged = String::from_utf8(pair.laptop.read(".bashrc")?)?;
    ensure!(merged == both, "{merged}");
    pair.assert_alike()?;
    let conflicts: Value = pair.laptop.ask(["conflicts"])?;
    ensure!(conflicts.as_array().is_some_and(Vec::is_empty), "{conflicts}");
    // Nothing that somebody wrote is gone: both originals are in the history of the machine that merged.
    let mut kept = Vec::new();
    for machine in [&pair.laptop, &pair.desktop] {
        let history: Value = machine.ask([&"history".into(), &machine.home_inside().join(".bashrc")])?;
        kept.extend(history.as_array().context("a list")?.iter().map(|row| row["blake3"].clone()));
    }
    for original in [shell.replace("vi", "nano"), shell.replace("bin", "scripts")] {
        let hash = blake3::hash(original.as_bytes()).to_hex().to_string();
        ensure!(kept.contains(&Value::String(hash)), "{kept:?}");
    }
    Ok(())
}
