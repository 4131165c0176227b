//! Git repositories in synced homes, with the real git and the real programs: whatever two people do, `git fsck` is clean
//! on every machine and no commit is lost.

use std::collections::BTreeSet;
use std::fs;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hearth_tests::machine::{Kind, Machine};
use hearth_tests::pair::{LATER, Pair, SOON, join_by_code};
use hearth_tests::process::run;
use hearth_tests::tree;

/// Longest that a git command may take.
const GIT_LIMIT: Duration = Duration::from_secs(60);
/// Files of a large checkout.
const FILES: usize = 1000;
/// How often a command is tried again that found another one's lock, as a person would.
const TRIES: usize = 20;

#[test]
fn commits_on_both_sides_while_connected_are_one_history() -> Result<()> {
    let pair = Pair::joined()?;
    let (laptop, desktop) = (&pair.laptop, &pair.desktop);
    let mut made = BTreeSet::new();
    git(laptop, "", &["init", "-q", "-b", "main", "code"])?;
    made.insert(commit(laptop, "code", "one.txt")?);
    pair.settle(LATER)?;
    for round in 0..4 {
        let (here, there) = if round % 2 == 0 { (desktop, laptop) } else { (laptop, desktop) };
        made.insert(commit(here, "code", &format!("file {round}.txt"))?);
        pair.settle(LATER)?;
        let (ours, theirs) = (git(here, "code", &["rev-parse", "HEAD"])?, git(there, "code", &["rev-parse", "HEAD"])?);
        ensure!(ours == theirs, "{round}: {ours} {theirs}");
        ensure!(git(there, "code", &["status", "--porcelain"])?.is_empty(), "a clean working tree");
    }
    git(desktop, "", &["clone", "-q", "--no-local", "code", "copy"])?;
    pair.settle(LATER)?;
    git(laptop, "copy", &["pull", "-q", "--rebase"])?;
    pair.settle(LATER)?;
    ensure!(laptop.status()?.conflicts == 0, "nobody did anything at once");
    for repository in ["code", "copy"] {
        assert_sound(&[laptop, desktop], repository, &made)?;
    }
    assert_alike(laptop, desktop)
}

#[test]
fn what_two_people_did_to_a_repository_while_apart_is_all_there() -> Result<()> {
    let pair = Pair::joined_with(|laptop, _| {
        git(laptop, "", &["init", "-q", "-b", "main", "code"])?;
        commit(laptop, "code", "one.txt")?;
        for branch in ["topic", "done", "moved"] {
            git(laptop, "code", &["branch", branch])?;
        }
        Ok(())
    })?;
    let (laptop, desktop) = (&pair.laptop, &pair.desktop);
    let mut made = BTreeSet::from([git(laptop, "code", &["rev-parse", "HEAD"])?]);
    pair.lab.cable("desktop", false)?;
    made.insert(commit(laptop, "code", "laptop.txt")?);
    git(laptop, "code", &["checkout", "-q", "topic"])?;
    made.insert(commit(laptop, "code", "topic.txt")?);
    git(laptop, "code", &["rebase", "-q", "main"])?;
    made.insert(git(laptop, "code", &["rev-parse", "HEAD"])?);
    git(laptop, "code", &["branch", "-D", "done"])?;
    git(laptop, "code", &["gc", "-q", "--prune=now"])?;
    made.insert(commit(desktop, "code", "desktop.txt")?);
    git(desktop, "code", &["checkout", "-q", "moved"])?;
    made.insert(commit(desktop, "code", "moved.txt")?);
    git(desktop, "code", &["gc", "-q", "--prune=now"])?;
    made.insert(commit(desktop, "code", "after gc.txt")?);
    pair.lab.cable("desktop", true)?;
    pair.settle(LATER)?;
    assert_sound(&[laptop, desktop], "code", &made)?;
    assert_alike(laptop, desktop)?;
    // Life goes on.
    git(desktop, "code", &["reset", "-q", "--hard"])?;
    pair.settle(LATER)?;
    made.insert(commit(desktop, "code", "later.txt")?);
    git(desktop, "code", &["gc", "-q", "--prune=now"])?;
    pair.settle(LATER)?;
    git(laptop, "code", &["gc", "-q", "--prune=now"])?;
    pair.settle(LATER)?;
    assert_sound(&[laptop, desktop], "code", &made)?;
    assert_alike(laptop, desktop)
}

#[test]
fn a_checkout_of_a_thousand_files_survives_a_kill_in_the_middle() -> Result<()> {
    let mut made = BTreeSet::new();
    let mut pair = Pair::joined_with(|laptop, _| {
        git(laptop, "", &["init", "-q", "-b", "main", "code"])?;
        for branch in ["main", "many"] {
            for number in 0..FILES {
                laptop.write(format!("code/{}/{number}.txt", number % 25), format!("{number} of {branch}\n"))?;
            }
            made.insert(commit(laptop, "code", "one.txt")?);
            git(laptop, "code", &["checkout", "-q", "-B", "many"])?;
        }
        git(laptop, "code", &["checkout", "-q", "main"]).map(|_| ())
    })?;
    git(&pair.laptop, "code", &["checkout", "-q", "many"])?;
    pair.desktop.until_content("code/7/7.txt", b"7 of many\n", LATER)?;
    pair.desktop.kill()?;
    pair.desktop.start()?;
    pair.settle(LATER)?;
    ensure!(git(&pair.desktop, "code", &["rev-parse", "--abbrev-ref", "HEAD"])? == "many", "the branch is checked out");
    ensure!(git(&pair.desktop, "code", &["status", "--porcelain"])?.is_empty(), "all files are there");
    pair.settle(LATER)?;
    git(&pair.desktop, "code", &["checkout", "-q", "main"])?;
    pair.laptop.until_content("code/7/7.txt", b"7 of main\n", LATER)?;
    pair.laptop.kill()?;
    pair.laptop.start()?;
    pair.settle(LATER)?;
    ensure!(git(&pair.laptop, "code", &["status", "--porcelain"])?.is_empty(), "all files are there");
    pair.settle(LATER)?;
    assert_sound(&[&pair.laptop, &pair.desktop], "code", &made)?;
    assert_alike(&pair.laptop, &pair.desktop)
}

#[test]
fn three_machines_have_every_commit_of_each() -> Result<()> {
    let mut pair = Pair::joined_with(|laptop, _| {
        git(laptop, "", &["init", "-q", "-b", "main", "code"])?;
        commit(laptop, "code", "one.txt").map(|_| ())
    })?;
    let room = Some(Rc::clone(pair.lab.host("laptop")?));
    let mut tablet = Machine::new(pair.scratch(), "tablet", Kind { room, ..Kind::default() })?;
    tablet.start()?;
    join_by_code(&pair.laptop, &tablet, pair.relay.address())?;
    tablet.settle(LATER)?;
    pair.settle(LATER)?;
    let mut made = BTreeSet::from([git(&tablet, "code", &["rev-parse", "HEAD"])?]);
    pair.lab.cable("desktop", false)?;
    tablet.stop()?;
    for (machine, file) in [(&pair.laptop, "laptop.txt"), (&pair.desktop, "desktop.txt"), (&tablet, "tablet.txt")] {
        made.insert(commit(machine, "code", file)?);
    }
    git(&pair.desktop, "code", &["gc", "-q", "--prune=now"])?;
    git(&tablet, "code", &["gc", "-q", "--prune=now"])?;
    tablet.start()?;
    tablet
        .until_status("the laptop to be there", SOON, |status| status.peer("laptop").is_some_and(|peer| peer.online))?;
    pair.lab.cable("desktop", true)?;
    pair.desktop.kill()?;
    pair.desktop.start()?;
    pair.settle(LATER)?;
    tablet.settle(LATER)?;
    assert_sound(&[&pair.laptop, &pair.desktop, &tablet], "code", &made)?;
    assert_alike(&pair.laptop, &pair.desktop)?;
    assert_alike(&pair.laptop, &tablet)?;
    tablet.stop()
}

/// Makes a file and a commit with it; gives its id.
fn commit(machine: &Machine, repository: &str, file: &str) -> Result<String> {
    machine.write(format!("{repository}/{file}"), format!("{file} of {}\n", machine.name()))?;
    git(machine, repository, &["add", "-A"])?;
    git(machine, repository, &["commit", "-q", "-m", &format!("{file} of {}", machine.name())])?;
    git(machine, repository, &["rev-parse", "HEAD"])
}

/// An error unless the repository is whole, its working tree can be used, and every commit is reachable, on each machine.
fn assert_sound(machines: &[&Machine], repository: &str, made: &BTreeSet<String>) -> Result<()> {
    for machine in machines {
        let name = machine.name();
        git(machine, repository, &["fsck", "--full", "--strict", "--no-dangling"]).with_context(|| name.to_owned())?;
        git(machine, repository, &["--no-optional-locks", "status"])?;
        git(machine, repository, &["for-each-ref"])?;
        let reachable = git(machine, repository, &["rev-list", "--all", "--reflog"])?;
        let reachable: BTreeSet<&str> = reachable.lines().collect();
        let lost: Vec<&String> = made.iter().filter(|commit| !reachable.contains(commit.as_str())).collect();
        ensure!(lost.is_empty(), "{name} has lost {lost:?}");
        let git_dir = machine.path(repository).join(".git");
        ensure!(!fs::exists(git_dir.join("index.lock"))?, "{name}: a lock stands");
    }
    Ok(())
}

/// An error unless two homes are alike, but for what git makes anew from what is in a repository.
fn assert_alike(left: &Machine, right: &Machine) -> Result<()> {
    let made_anew = ["code", "copy"].map(|repository| format!("{repository}/.git/objects/info"));
    let excluding: Vec<&str> = tree::OWN.into_iter().chain(made_anew.iter().map(String::as_str)).collect();
    tree::assert_equal(&left.home(), &right.home(), &excluding)
}

/// Runs git in a folder of the home; gives what it printed. Another command's lock is waited for, as a person would.
fn git(machine: &Machine, folder: &str, arguments: &[&str]) -> Result<String> {
    let mut last = String::new();
    for _ in 0..TRIES {
        let mut command = machine.command("git");
        command.env("GIT_CONFIG_NOSYSTEM", "1").arg("-C").arg(machine.home_inside().join(folder));
        for setting in ["user.name=A U Thor", "user.email=author@example.org", "gc.auto=0", "advice.detachedHead=false"]
        {
            command.args(["-c", setting]);
        }
        let finished = run(command.args(arguments), GIT_LIMIT)?;
        if finished.code == 0 {
            return Ok(String::from_utf8_lossy(&finished.stdout).trim().to_owned());
        }
        last = format!("{}{}", String::from_utf8_lossy(&finished.stdout), finished.stderr);
        if !last.contains(".lock") {
            break;
        }
    }
    bail!("{}: git {arguments:?} in {folder}: {}", machine.name(), last.trim())
}
