//! The ordinary story on each file system: edit, replace, move, delete, restore; then sectors that cannot be read.
//!
//! Where files can share their blocks, what is copied inside a home must share them: that is asked of the file system
//! itself.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use hearth_tests::answer::Displaced;
use hearth_tests::machine::{Kind, Machine};
use hearth_tests::pair::{LATER, init, join_by_code};
use hearth_tests::relay::Relay;
use hearth_tests::scratch::Scratch;
use hearth_tests::tree::{self, noise};
use rustix::fs::Advice;
use serde_json::Value;

use crate::image::{FileSystem, Mounted, extents};
use crate::recorder::Recorder;
use crate::say;

/// Enough for extents of its own, and little enough to be sent at once.
const LARGE: usize = 3 << 20;

/// Plays both stories on a file system.
pub(crate) fn play(system: FileSystem) -> Result<()> {
    let scratch = Scratch::new()?;
    let told = tell(system, &scratch);
    told.with_context(|| format!("on {}; HEARTH_KEEP=1 keeps {}", system.name(), scratch.path().display()))
}

fn tell(system: FileSystem, scratch: &Scratch) -> Result<()> {
    let recorder = Recorder::start(&scratch.path().join("disks"), system, &["desktop", "laptop"])?;
    let mount = |name: &str| Mounted::new(system, &recorder.disk(name), &scratch.path().join(name).join("home"));
    let mounted = [mount("laptop")?, mount("desktop")?];
    let relay = Relay::start(&scratch.path().join("relay"), None, "127.0.0.1")?;
    let machine = |name| {
        let mut machine = Machine::new(scratch.path(), name, Kind { session_bus: false, ..Kind::default() })?;
        machine.start()?;
        anyhow::Ok(machine)
    };
    let (mut laptop, mut desktop) = (machine("laptop")?, machine("desktop")?);
    init(&laptop, relay.address())?;
    join_by_code(&laptop, &desktop, relay.address())?;
    let pair = Pair { laptop: &laptop, desktop: &desktop };
    pair.settle()?;
    pair.history_and_restore(system)?;
    say(&format!("{}: edit, replace, move, delete, restore: all in order", system.name()));
    pair.copies_share_blocks(system)?;
    let shared = if system.shares_blocks() { "shares its blocks" } else { "is a whole one" };
    say(&format!("{}: a copy inside a home {shared}", system.name()));
    pair.bad_sectors(&recorder)?;
    say(&format!("{}: bad sectors are told, lose nothing, and are read again once they can be", system.name()));
    laptop.stop()?;
    desktop.stop()?;
    drop((laptop, desktop));
    mounted.into_iter().try_for_each(Mounted::unmount)?;
    recorder.stop()
}

struct Pair<'a> {
    laptop: &'a Machine,
    desktop: &'a Machine,
}

impl Pair<'_> {
    fn settle(&self) -> Result<()> {
        self.laptop.settle(LATER)?;
        self.desktop.settle(LATER)
    }

    fn history_and_restore(&self, system: FileSystem) -> Result<()> {
        let (laptop, desktop) = (self.laptop, self.desktop);
        let first = noise(1, LARGE);
        laptop.write("work/film.bin", &first)?;
        laptop.write("work/notes.txt", "first\0")?;
        desktop.until_content("work/film.bin", &first, LATER)?;
        self.settle()?;
        let second = noise(2, LARGE);
        laptop.write("work/film.bin", &second)?;
        laptop.write("work/notes.txt", "second\0")?;
        desktop.until_content("work/film.bin", &second, LATER)?;
        self.settle()?;
        fs::rename(laptop.path("work"), laptop.path("done"))?;
        self.settle()?;
        ensure!(desktop.read("done/film.bin")? == second && !desktop.path("work").exists());
        fs::remove_file(laptop.path("done/film.bin"))?;
        fs::remove_file(laptop.path("done/notes.txt"))?;
        self.settle()?;
        ensure!(!desktop.path("done/film.bin").exists(), "it was deleted everywhere");

        let rows: Vec<Displaced> = desktop.ask(["history", "--all"])?;
        for (content, path) in [(&first, "first.bin"), (&second, "second.bin")] {
            let hash = blake3::hash(content).to_hex().to_string();
            let row = rows.iter().find(|row| row.blake3 == hash);
            let row = row.with_context(|| format!("the history on {} has it: {rows:?}", system.name()))?;
            let from = desktop.home_inside().join(&row.path);
            let to = desktop.home_inside().join(path);
            let words = ["restore".as_ref(), from.as_os_str(), "--version".as_ref(), row.version.as_ref()];
            let _: Value = desktop.ask(words.into_iter().chain(["--to".as_ref(), to.as_os_str()]))?;
            laptop.until_content(path, content, LATER)?;
        }
        self.settle()?;
        self.alike()
    }

    /// What the desktop has already is not fetched, but copied there.
    fn copies_share_blocks(&self, system: FileSystem) -> Result<()> {
        let content = noise(3, LARGE);
        self.laptop.write("original.bin", &content)?;
        self.settle()?;
        self.laptop.write("copy.bin", &content)?;
        self.desktop.until_content("copy.bin", &content, LATER)?;
        self.settle()?;
        let copy = self.desktop.path("copy.bin");
        File::open(&copy)?.sync_all()?;
        let found = extents(&copy)?;
        let shared = found.iter().any(|extent| extent.shared);
        ensure!(shared == system.shares_blocks(), "shared: {shared}: {found:?}");
        // Two files all the same: what is written to one is not in the other.
        self.desktop.write("original.bin", "short by now")?;
        self.laptop.until_content("original.bin", b"short by now", LATER)?;
        self.settle()?;
        ensure!(self.desktop.read("copy.bin")? == content && self.laptop.read("copy.bin")? == content);
        self.alike()
    }

    /// A file of the laptop cannot be read when it changes; and a file of the desktop cannot when it is to be copied.
    fn bad_sectors(&self, recorder: &Recorder) -> Result<()> {
        let (laptop, desktop) = (self.laptop, self.desktop);
        let before = noise(4, LARGE);
        laptop.write("album/photo.raw", &before)?;
        laptop.write("album/other.raw", noise(5, LARGE))?;
        self.settle()?;
        let path = laptop.path("album/photo.raw");
        spoil(recorder, "laptop", &path)?;
        // The time alone makes it worth reading again.
        File::options().append(true).open(&path)?.set_modified(std::time::SystemTime::UNIX_EPOCH)?;
        laptop.write("album/note.txt", "goes on its way")?;
        desktop.until_content("album/note.txt", b"goes on its way", LATER)?;
        let status = laptop.until_status("the bad sectors to be told", LATER, |status| {
            status.problems.iter().any(|problem| problem.path.as_deref() == Some("album/photo.raw"))
        })?;
        ensure!(!status.in_sync && !desktop.status()?.in_sync, "{status:?}");
        ensure!(status.problems.iter().all(|problem| problem.what.contains("error") && !problem.hint.is_empty()));
        ensure!(desktop.read("album/photo.raw")? == before, "what cannot be read is not deleted");
        recorder.spoil("laptop", None)?;
        self.recovers()?;

        let path = desktop.path("album/other.raw");
        spoil(recorder, "desktop", &path)?;
        laptop.write("second.raw", noise(5, LARGE))?;
        desktop
            .until_content("second.raw", &noise(5, LARGE), LATER)
            .context("it is fetched where no copy can be made")?;
        recorder.spoil("desktop", None)?;
        self.recovers()
    }

    fn recovers(&self) -> Result<()> {
        for machine in [self.laptop, self.desktop] {
            machine
                .until_status("no problem to be left", LATER, |status| status.in_sync && status.problems.is_empty())?;
        }
        self.settle()?;
        self.alike()
    }

    fn alike(&self) -> Result<()> {
        tree::assert_equal(&self.laptop.home(), &self.desktop.home(), &tree::OWN)
    }
}

/// Makes the beginning of a file unreadable, and has the kernel forget what it read of it.
fn spoil(recorder: &Recorder, disk: &str, path: &Path) -> Result<()> {
    let file = File::open(path).context("opening a file to spoil")?;
    file.sync_all()?;
    recorder.spoil(disk, Some(&fs::read(path)?))?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).context("forgetting a file's pages")
}
