//! What goes wrong around the programs: no room for the index, a home that turns read-only, no file that can be opened,
//! closed directories, more events than the kernel keeps, too few watches, a damaged index.
//!
//! Always the same is asked: nothing is lost, `status` names what is wrong and does not say in sync, and it goes on by
//! itself once the cause is gone. A full home and files that cannot be read are in `wrong_use.rs`; sectors that cannot be
//! read need a disk of their own (`cargo filesystems`).

use std::fs::{self, Permissions};
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use hearth_tests::answer::{Displaced, Status};
use hearth_tests::machine::{Kind, Machine};
use hearth_tests::pair::{LATER, SOON, init, join_by_code};
use hearth_tests::process::succeed;
use hearth_tests::relay::Relay;
use hearth_tests::room::{Room, Walls};
use hearth_tests::scratch::Scratch;
use hearth_tests::tree::{self, noise};
use hearth_tests::watch::until_file;
use rustix::process::{Pid, Signal, kill_process};

const STATE: &str = ".local/state/hearth";

/// Two machines of one account on the loopback interface, one of them in trouble.
struct Troubled {
    laptop: Machine,
    desktop: Machine,
    room: Rc<Room>,
    _relay: Relay,
    scratch: Scratch,
}

impl Troubled {
    /// The desktop is in a room of its own, made ready by `prepare` before anything is in its home.
    fn new(walls: Walls, kind: Kind, prepare: impl FnOnce(&Room, &Path) -> Result<()>) -> Result<Self> {
        let scratch = Scratch::new()?;
        let relay = Relay::start(&scratch.path().join("relay"), None, "127.0.0.1")?;
        let room = Rc::new(Room::new("troubled", walls, scratch.path())?);
        let home = scratch.path().join("desktop/home");
        fs::create_dir_all(&home)?;
        prepare(&room, &home)?;
        let mut laptop = Machine::new(scratch.path(), "laptop", Kind::default())?;
        let mut desktop = Machine::new(scratch.path(), "desktop", Kind { room: Some(Rc::clone(&room)), ..kind })?;
        laptop.write("shared/a.txt", "known to both")?;
        laptop.write("shared/b.txt", "as well")?;
        laptop.start()?;
        desktop.start()?;
        init(&laptop, relay.address())?;
        join_by_code(&laptop, &desktop, relay.address())?;
        laptop.settle(LATER)?;
        desktop.settle(LATER)?;
        Ok(Self { laptop, desktop, room, _relay: relay, scratch })
    }

    /// Both agree, nothing is wrong, and the homes are alike.
    fn recovers(&self) -> Result<()> {
        self.laptop.until_status("no problem to be left", LATER, in_order)?;
        self.desktop.until_status("no problem to be left", LATER, in_order)?;
        self.laptop.settle(LATER)?;
        self.desktop.settle(LATER)?;
        for machine in [&self.laptop, &self.desktop] {
            let log = fs::read_to_string(machine.log())?;
            ensure!(!log.contains("panicked at"), "syncd of {} panicked{}", machine.name(), machine.tail());
        }
        tree::assert_equal(&self.laptop.home(), &self.desktop.home(), &tree::OWN)
    }

    /// Whether a content is in a home or in a history.
    fn is_kept(&self, content: &[u8]) -> Result<bool> {
        let hash = blake3::hash(content);
        for machine in [&self.laptop, &self.desktop] {
            let history: Vec<Displaced> = machine.ask(["history", "--all"])?;
            let live = tree::read(&machine.home(), &tree::OWN)?;
            let is_it = |entry: &tree::Entry| matches!(entry, tree::Entry::File { hash: found, .. } if *found == hash);
            if live.values().any(is_it) || history.iter().any(|row| row.blake3 == hash.to_hex().as_str()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn in_order(status: &Status) -> bool {
    status.in_sync && status.problems.is_empty() && status.held == 0
}

fn tells(status: &Status, what: &str) -> bool {
    !status.in_sync && status.problems.iter().any(|problem| problem.what.contains(what) && !problem.hint.is_empty())
}

fn tells_of(status: &Status, path: &str) -> bool {
    let is_at = |at: &str| at == path || at.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    !status.in_sync && status.problems.iter().any(|problem| problem.path.as_deref().is_some_and(is_at))
}

#[test]
fn an_index_that_has_no_room_is_said_and_goes_on_once_there_is_room() -> Result<()> {
    let mounts = Walls { mounts: true, ..Walls::default() };
    let troubled = Troubled::new(mounts, Kind::default(), |room, home| {
        room.small_disk(home, 256 << 20)?;
        state_apart(room, home, 8 << 20)
    })?;
    let (laptop, desktop) = (&troubled.laptop, &troubled.desktop);
    let filler = desktop.home_inside().join(STATE).join("filler");
    let fill = format!("dd if=/dev/zero of={} bs=4k 2>/dev/null; true", text(&filler)?);
    troubled.room.run(&["sh", "-c", &fill])?;
    laptop.write("shared/a.txt", "edited while the index had no room")?;
    desktop.write("shared/b.txt", "edited where the index had no room")?;
    for number in 0..300 {
        laptop.write(format!("many/{number}"), format!("{number} of many"))?;
    }
    let status = desktop
        .until_status("the full disk to be told", LATER, |status| tells(status, "no space left for the index"))?;
    ensure!(!laptop.status()?.in_sync, "nobody is in sync with a machine that cannot remember: {status:?}");
    let reply = desktop.hearth(["wait", "--timeout", "10"])?;
    ensure!(reply.code != 0, "a wait does not succeed meanwhile");
    fs::remove_file(troubled.room.outside(&filler))?;
    troubled.recovers()?;
    ensure!(desktop.read("shared/a.txt")? == b"edited while the index had no room");
    ensure!(laptop.read("shared/b.txt")? == b"edited where the index had no room");
    Ok(())
}

#[test]
fn a_home_that_turns_read_only_is_said_and_goes_on_once_it_is_writable() -> Result<()> {
    let mounts = Walls { mounts: true, ..Walls::default() };
    let troubled = Troubled::new(mounts, Kind::default(), |room, home| {
        room.small_disk(home, 256 << 20)?;
        // The index, which is open for writing, would keep it from being made read-only in an orderly way.
        state_apart(room, home, 64 << 20)
    })?;
    let (laptop, desktop) = (&troubled.laptop, &troubled.desktop);
    let home = desktop.home_inside();
    troubled.room.run(&["mount", "-o", "remount,ro", text(&home)?])?;
    laptop.write("shared/a.txt", "edited while the other was read-only")?;
    laptop.write("fresh/c.txt", "added while the other was read-only")?;
    fs::remove_file(laptop.path("shared/b.txt"))?;
    let status = desktop.until_status("a read-only home to be told", LATER, |status| {
        tells(status, "read-only") && tells_of(status, "shared/a.txt")
    })?;
    ensure!(!laptop.status()?.in_sync, "{status:?}");
    ensure!(desktop.read("shared/a.txt")? == b"known to both" && desktop.read("shared/b.txt")? == b"as well");
    troubled.room.run(&["mount", "-o", "remount,rw", text(&home)?])?;
    troubled.recovers()?;
    ensure!(desktop.read("fresh/c.txt")? == b"added while the other was read-only");
    ensure!(troubled.is_kept(b"known to both")? && troubled.is_kept(b"as well")?);
    Ok(())
}

#[test]
fn without_a_file_descriptor_to_spare_nothing_is_lost_and_it_goes_on_once_there_are_some() -> Result<()> {
    let troubled = Troubled::new(Walls { mounts: true, ..Walls::default() }, Kind::default(), |_, _| Ok(()))?;
    let (laptop, desktop) = (&troubled.laptop, &troubled.desktop);
    let pid = desktop.pid().context("the desktop runs")?.to_string();
    let limit = |files: &str| {
        let line = ["--pid", &pid, &format!("--nofile={files}:")];
        succeed(Command::new("prlimit").args(line), SOON)
    };
    let usual = succeed(Command::new("prlimit").args(["--pid", &pid, "--nofile", "-o", "SOFT", "--noheadings"]), SOON)?;
    // Below what is open: no further file can be opened at all.
    limit("3")?;
    laptop.write("shared/a.txt", "edited while the other could open nothing")?;
    laptop.write("fresh/c.txt", "added while the other could open nothing")?;
    desktop.write("shared/b.txt", "edited where nothing could be opened")?;
    fs::remove_file(desktop.path("shared/a.txt"))?;
    until_file(&desktop.log(), LATER, |log| {
        fs::read_to_string(log).is_ok_and(|log| log.contains("the index could not be written")).then_some(())
    })?;
    laptop.until_status("the laptop to know that they differ", LATER, |status| !status.in_sync)?;
    // Who asks needs a descriptor, too.
    let reply = desktop.hearth(["status", "--json"])?;
    let said = String::from_utf8_lossy(&reply.stdout).into_owned();
    ensure!(reply.code != 0 || said.contains("\"in_sync\":false"), "{said}");
    ensure!(laptop.path("shared/a.txt").exists(), "what cannot be looked at is not deleted");
    limit(&usual)?;
    troubled.recovers()?;
    ensure!(laptop.read("shared/b.txt")? == b"edited where nothing could be opened");
    ensure!(desktop.read("fresh/c.txt")? == b"added while the other could open nothing");
    ensure!(
        laptop.read("shared/a.txt")? == b"edited while the other could open nothing",
        "an edit outlives a deletion"
    );
    Ok(())
}

#[test]
fn a_directory_that_is_closed_where_changes_arrive_is_said_and_goes_on_once_it_is_open() -> Result<()> {
    let bound = Kind { bound_by_modes: true, ..Kind::default() };
    let troubled = Troubled::new(Walls { mounts: true, ..Walls::default() }, bound, |_, _| Ok(()))?;
    let (laptop, desktop) = (&troubled.laptop, &troubled.desktop);
    desktop.write("shared/c.txt", "written just before")?;
    fs::set_permissions(desktop.path("shared"), Permissions::from_mode(0o000))?;
    laptop.write("shared/a.txt", "edited while the other was closed")?;
    laptop.write("open.txt", "arrives all the same")?;
    desktop.until_content("open.txt", b"arrives all the same", LATER)?;
    let status = desktop.until_status("the closed directory to be told", LATER, |status| tells_of(status, "shared"))?;
    ensure!(!laptop.status()?.in_sync, "{status:?}");
    ensure!(laptop.read("shared/b.txt")? == b"as well", "what is closed is not deleted");
    fs::set_permissions(desktop.path("shared"), Permissions::from_mode(0o755))?;
    troubled.recovers()?;
    ensure!(desktop.read("shared/a.txt")? == b"edited while the other was closed");
    ensure!(laptop.read("shared/c.txt")? == b"written just before");
    Ok(())
}

#[test]
fn a_directory_that_is_another_disk_on_one_machine_is_said_and_keeps_nothing_else_waiting() -> Result<()> {
    let mounts = Walls { mounts: true, ..Walls::default() };
    let troubled = Troubled::new(mounts, Kind::default(), |room, home| {
        fs::create_dir(home.join("Videos"))?;
        room.small_disk(&home.join("Videos"), 16 << 20)
    })?;
    let (laptop, desktop) = (&troubled.laptop, &troubled.desktop);
    desktop.write("Videos/of the other disk.mp4", "of this machine alone")?;
    laptop.write("Videos/long.mp4", "on the laptop")?;
    laptop.write("shared/a.txt", "edited")?;
    desktop.until_content("shared/a.txt", b"edited", LATER)?;
    let status = desktop.until_status("the other disk to be told", LATER, |status| tells_of(status, "Videos"))?;
    ensure!(!laptop.status()?.in_sync, "{status:?}");
    ensure!(!laptop.path("Videos/of the other disk.mp4").exists() && !desktop.path("Videos/long.mp4").exists());
    troubled.room.run(&["umount", text(&desktop.home_inside().join("Videos"))?])?;
    troubled.recovers()?;
    ensure!(desktop.read("Videos/long.mp4")? == b"on the laptop");
    Ok(())
}

#[test]
fn more_events_than_the_kernel_keeps_hide_nothing() -> Result<()> {
    let troubled = Troubled::new(Walls { mounts: true, ..Walls::default() }, Kind::default(), |_, _| Ok(()))?;
    let (laptop, desktop) = (&troubled.laptop, &troubled.desktop);
    let queue: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")?.trim().parse()?;
    let daemon = i32::try_from(desktop.pid().context("the desktop runs")?).ok().and_then(Pid::from_raw);
    let daemon = daemon.context("a process id")?;
    kill_process(daemon, Signal::STOP)?;
    // Two files in turn, for equal events one after the other count as one. What comes after them is not told of.
    for number in 0..queue {
        let name = ["shared/one.log", "shared/two.log"][number % 2];
        desktop.write(name, number.to_string())?;
    }
    desktop.write("shared/a.txt", "edited unseen")?;
    desktop.write("unseen/deep/c.txt", "added unseen")?;
    fs::remove_file(desktop.path("shared/b.txt"))?;
    kill_process(daemon, Signal::CONT)?;
    laptop.until_content("unseen/deep/c.txt", b"added unseen", LATER)?;
    troubled.recovers()?;
    ensure!(laptop.read("shared/a.txt")? == b"edited unseen");
    ensure!(!laptop.path("shared/b.txt").exists() && troubled.is_kept(b"as well")?);
    Ok(())
}

#[test]
fn once_there_are_watches_again_nothing_is_wrong_any_more() -> Result<()> {
    let user = Walls { user: true, ..Walls::default() };
    let troubled = Troubled::new(user, Kind::default(), |room, _| {
        room.run(&["sh", "-c", "echo 40 > /proc/sys/user/max_inotify_watches"]).map(drop)
    })?;
    let (laptop, desktop) = (&troubled.laptop, &troubled.desktop);
    for number in 0..100 {
        laptop.write(format!("folders/{number}/file.txt"), "one of many")?;
    }
    desktop.until_status("too few watches to be told", LATER, |status| tells(status, "not watched"))?;
    desktop.write("folders/99/file.txt", "edited where nobody watches")?;
    laptop.until_content("folders/99/file.txt", b"edited where nobody watches", LATER)?;
    troubled.room.run(&["sh", "-c", "echo 4000 > /proc/sys/user/max_inotify_watches"])?;
    troubled.recovers()?;
    desktop.write("folders/98/file.txt", "edited where somebody watches again")?;
    laptop.until_content("folders/98/file.txt", b"edited where somebody watches again", SOON)?;
    Ok(())
}

#[test]
fn an_index_that_was_garbled_cut_off_removed_or_put_back_loses_nothing() -> Result<()> {
    let mut troubled = Troubled::new(Walls { mounts: true, ..Walls::default() }, Kind::default(), |_, _| Ok(()))?;
    let backup = troubled.scratch.path().join("backup");
    fs::create_dir(&backup)?;
    troubled.desktop.stop()?;
    for file in index_files(&troubled.desktop)? {
        fs::copy(&file, backup.join(file.file_name().context("a file has a name")?))?;
    }
    troubled.desktop.start()?;
    type Harm = fn(&Machine, &Path) -> Result<()>;
    let harms: [(&str, Harm); 6] = [
        ("garbled in the middle", |desktop, _| {
            let index = index(desktop)?;
            let file = fs::File::options().write(true).open(&index)?;
            let middle = file.metadata()?.len() / 2;
            Ok(file.write_all_at(&noise(1, 24 << 10), middle)?)
        }),
        ("garbled at its beginning", |desktop, _| {
            Ok(fs::File::options().write(true).open(index(desktop)?)?.write_all_at(&noise(2, 4096), 0)?)
        }),
        ("cut off", |desktop, _| {
            let file = fs::File::options().write(true).open(index(desktop)?)?;
            Ok(file.set_len(file.metadata()?.len() / 2 + 100)?)
        }),
        ("emptied", |desktop, _| Ok(fs::File::options().write(true).open(index(desktop)?)?.set_len(0)?)),
        ("removed", |desktop, _| Ok(index_files(desktop)?.into_iter().try_for_each(fs::remove_file)?)),
        ("put back", |desktop, backup| {
            index_files(desktop)?.into_iter().try_for_each(fs::remove_file)?;
            for file in fs::read_dir(backup)? {
                let file = file?;
                fs::copy(file.path(), desktop.path(STATE).join(file.file_name()))?;
            }
            Ok(())
        }),
    ];
    for (what, harm) in harms {
        let (there, here) = (format!("on the laptop, {what}"), format!("on the desktop, {what}"));
        troubled.laptop.write("shared/a.txt", format!("before it was {what}\0"))?;
        troubled.laptop.write("shared/gone.txt", format!("deleted while it was {what}"))?;
        troubled.laptop.settle(LATER)?;
        troubled.desktop.stop()?;
        harm(&troubled.desktop, &backup).with_context(|| format!("an index that was {what}"))?;
        troubled.desktop.write(format!("desktop {what}.txt"), &here)?;
        troubled.laptop.write(format!("laptop {what}.txt"), &there)?;
        troubled.desktop.write("shared/a.txt", format!("{here}\0"))?;
        fs::remove_file(troubled.laptop.path("shared/gone.txt"))?;
        troubled.desktop.start()?;
        troubled.recovers().with_context(|| format!("an index that was {what}"))?;
        for content in [there.clone(), here.clone(), format!("{here}\0"), format!("deleted while it was {what}")] {
            ensure!(troubled.is_kept(content.as_bytes())?, "lost after an index was {what}: {content:?}");
        }
        ensure!(troubled.laptop.read("shared/b.txt")? == b"as well", "an index that was {what}");
    }
    Ok(())
}

/// Gives the index a file system of its own.
fn state_apart(room: &Room, home: &Path, bytes: u64) -> Result<()> {
    let state = home.join(STATE);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(room.outside(&state))?;
    room.small_disk(&state, bytes)
}

/// The desktop's index, which does not run.
fn index(machine: &Machine) -> Result<PathBuf> {
    let files = index_files(machine)?;
    files.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "db")).context("there is an index")
}

/// The index with what SQLite keeps beside it.
fn index_files(machine: &Machine) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(machine.path(STATE)).context("listing the state directory")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("index-") && !name.contains(".broken") {
            found.push(path);
        }
    }
    Ok(found)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a scratch path is text")
}
