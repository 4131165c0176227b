//! `make demo`: a relay and two machines on this computer, from an empty account to equal homes, as a timeline.
//!
//! Everything is real: the release programs, two homes with a session bus and dconf service each, a directory tree
//! found here or named by the person. It ends by itself, leaves nothing behind, and fails if anything differs.

use std::fs::{self, File, FileTimes};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hearth_tests::answer::{Conflict, Displaced, Invitation};
use hearth_tests::machine::{Kind, Machine};
use hearth_tests::pair::init;
use hearth_tests::relay::Relay;
use hearth_tests::scratch::Scratch;
use hearth_tests::tree::{self, Entry};
use hearth_tests::watch::{Wake, until};
use serde_json::Value;

/// Where a few thousand files are found on most computers, in the order they are tried.
const SOURCES: [&str; 5] = [".", "/usr/include", "/usr/share/doc", "/usr/share/perl", "/usr/lib/python3"];
const FILES: usize = 4000;
const LIMIT: Duration = Duration::from_secs(120);
const WHOLE_TREE_LIMIT: Duration = Duration::from_secs(1800);
const INTERFACE: &str = "org.gnome.desktop.interface";

fn main() -> ExitCode {
    match tell(std::env::args_os().nth(1).filter(|folder| !folder.is_empty()).map(PathBuf::from)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a stderr the exit code has to do.
            let _ = writeln!(io::stderr(), "\nerror: {error:#}\nhint: HEARTH_KEEP=1 make demo keeps homes and logs");
            ExitCode::FAILURE
        }
    }
}

fn tell(folder: Option<PathBuf>) -> Result<()> {
    let scratch = Scratch::new()?;
    let place = scratch.path().to_path_buf();
    let mut story = Story::begin();
    story.title("Hearth: two machines, one home")?;

    act(&scratch, folder.as_deref(), &mut story)?;

    still_running(&place)?;
    scratch.remove()?;
    let whole = story.begun.elapsed().as_secs_f64();
    story.title(&format!("All equal, nothing left running. {whole:.1} s in all."))
}

fn act(scratch: &Scratch, folder: Option<&Path>, story: &mut Story) -> Result<()> {
    let mut laptop = Machine::new(scratch.path(), "laptop", Kind::default())?;
    let mut desktop = Machine::new(scratch.path(), "desktop", Kind::default())?;
    story.chapter("Getting ready")?;
    story.clock();
    let found = fill(&laptop.path("Documents"), folder)?;
    story.done(&format!("{} files, {} put into the laptop's home", found.files, megabytes(found.bytes)))?;
    story.detail(&format!("from {}", found.from.join(", ")))?;
    let mut relay = Relay::start(&scratch.path().join("relay"), None, "127.0.0.1")?;
    story.done("a relay listens")?;
    story.detail(relay.address())?;
    laptop.start()?;
    desktop.start()?;
    story.done("laptop and desktop: a home, a session bus, dconf and syncd each")?;

    let actors = Actors { laptop: &mut laptop, desktop: &mut desktop, relay: relay.address().to_owned() };
    play(actors, story)?;

    story.chapter("The end")?;
    let kept = assert_equal_homes(&laptop, &desktop)?;
    let entries = tree::read(&laptop.home(), &tree::OWN)?.len();
    story.done(&format!("both homes are equal: {entries} entries, content, mode, mtime, links"))?;
    if kept > 0 {
        story.detail(&format!("{kept} left out by rule (`hearth why PATH` names it)"))?;
    }
    laptop.stop()?;
    desktop.stop()?;
    relay.stop()?;
    story.done("both machines and the relay ended when told to")
}

/// The two machines and where they meet.
struct Actors<'a> {
    laptop: &'a mut Machine,
    desktop: &'a mut Machine,
    relay: String,
}

fn play(mut actors: Actors<'_>, story: &mut Story) -> Result<()> {
    story.chapter("One account")?;
    sign_in(&actors, story)?;
    story.chapter("Living with it")?;
    edit(&actors, story)?;
    rename(&actors, story)?;
    conflict(&actors, story)?;
    delete_and_restore(&actors, story)?;
    setting(&actors, story)?;
    story.chapter("A bad day")?;
    power_cut(&mut actors, story)
}

fn sign_in(actors: &Actors<'_>, story: &mut Story) -> Result<()> {
    story.clock();
    let made = init(actors.laptop, &actors.relay)?;
    story.done("laptop$ hearth init --relay …")?;
    let first_words: Vec<&str> = made.phrase.split_whitespace().take(2).collect();
    story.detail(&format!("recovery phrase: {} … (twelve words)", first_words.join(" ")))?;
    let invitation: Invitation = actors.laptop.ask(["device", "add"])?;
    story.done("laptop$ hearth device add")?;
    story.detail(&invitation.code)?;
    let join = ["join", &invitation.code, "--relay", &actors.relay, "--name", "desktop"];
    let _: Value = actors.desktop.ask(join)?;
    story.done(&format!("desktop$ hearth join {}", invitation.code))?;
    actors.desktop.settle(WHOLE_TREE_LIMIT)?;
    actors.laptop.settle(WHOLE_TREE_LIMIT)?;
    let files = files_below(&actors.desktop.path("Documents"))?;
    story.done(&format!("the whole home is on the desktop: {files} files"))
}

fn edit(actors: &Actors<'_>, story: &mut Story) -> Result<()> {
    actors.laptop.write("Documents/diary.txt", "Monday: found a second machine.\n")?;
    settle(actors)?;
    let text = "Monday: found a second machine.\nTuesday: it has everything already.\n";
    story.clock();
    actors.laptop.write("Documents/diary.txt", text)?;
    actors.desktop.until_content("Documents/diary.txt", text.as_bytes(), LIMIT)?;
    story.done("a file edited on the laptop is seen on the desktop")?;
    settle(actors)
}

fn rename(actors: &Actors<'_>, story: &mut Story) -> Result<()> {
    let files = files_below(&actors.laptop.path("Documents"))?;
    story.clock();
    fs::rename(actors.laptop.path("Documents"), actors.laptop.path("Papers")).context("renaming a folder")?;
    actors.desktop.until_there("Papers/diary.txt", true, LIMIT)?;
    story.done(&format!("a folder with {files} files renamed: Documents → Papers"))?;
    settle(actors)?;
    ensure!(!actors.desktop.path("Documents").exists(), "the old name is still there on the desktop");
    ensure!(files_below(&actors.desktop.path("Papers"))? == files, "files are missing after the rename");
    Ok(())
}

fn conflict(actors: &Actors<'_>, story: &mut Story) -> Result<()> {
    let versions = ["Wednesday, as the laptop tells it \0\n", "Wednesday, as the desktop tells it \0\n"];
    actors.laptop.write("Papers/wednesday.dat", "Wednesday \0\n")?;
    settle(actors)?;
    story.clock();
    for machine in [&*actors.laptop, &*actors.desktop] {
        let _: Value = machine.ask(["pause"])?;
    }
    actors.laptop.write("Papers/wednesday.dat", versions[0])?;
    actors.desktop.write("Papers/wednesday.dat", versions[1])?;
    for machine in [&*actors.laptop, &*actors.desktop] {
        let _: Value = machine.ask(["resume"])?;
    }
    settle(actors)?;
    story.done("edited on both while apart: both versions are kept, on both sides")?;
    let conflicts: Vec<Conflict> = actors.laptop.ask(["conflicts"])?;
    let [conflict] = conflicts.as_slice() else { bail!("expected one conflict, got {conflicts:?}") };
    for path in [&conflict.path, &conflict.sibling] {
        story.detail(path)?;
    }
    for machine in [&*actors.laptop, &*actors.desktop] {
        let kept = [machine.read(&conflict.path)?, machine.read(&conflict.sibling)?];
        let both = versions.iter().all(|version| kept.iter().any(|kept| kept == version.as_bytes()));
        ensure!(both, "a version of the conflict is missing on the {}", machine.name());
    }
    Ok(())
}

fn delete_and_restore(actors: &Actors<'_>, story: &mut Story) -> Result<()> {
    let text = actors.laptop.read("Papers/diary.txt")?;
    story.clock();
    fs::remove_file(actors.laptop.path("Papers/diary.txt")).context("deleting the diary")?;
    actors.desktop.until_there("Papers/diary.txt", false, LIMIT)?;
    story.done("a file deleted on the laptop goes from the desktop …")?;
    settle(actors)?;
    let path = actors.desktop.home_inside().join("Papers/diary.txt");
    let path = path.to_str().context("a scratch path is text")?;
    story.clock();
    let rows: Vec<Displaced> = actors.desktop.ask(["history", path])?;
    let wanted = blake3::hash(&text).to_hex();
    let row = rows.iter().find(|row| row.blake3 == wanted.as_str());
    let row = row.with_context(|| format!("the deleted file is not in the desktop's history: {rows:?}"))?;
    let _: Value = actors.desktop.ask(["restore", path, "--version", &row.version])?;
    actors.laptop.until_content("Papers/diary.txt", &text, LIMIT)?;
    story.done("… and `hearth restore` there brings it back on both")?;
    settle(actors)
}

fn setting(actors: &Actors<'_>, story: &mut Story) -> Result<()> {
    story.clock();
    actors.laptop.gsettings(&["set", INTERFACE, "color-scheme", "prefer-dark"])?;
    actors.desktop.until_setting(INTERFACE, "color-scheme", "'prefer-dark'", LIMIT)?;
    story.done("laptop$ gsettings set … color-scheme prefer-dark")?;
    let value = actors.desktop.gsettings(&["get", INTERFACE, "color-scheme"])?;
    story.detail(&format!("desktop$ gsettings get … color-scheme  →  {value}"))
}

/// Kills the receiving daemon while a file is on its way; a larger file is taken if it was too fast.
fn power_cut(actors: &mut Actors<'_>, story: &mut Story) -> Result<()> {
    for megabytes in [256_u64, 1024, 2048] {
        let before = below(&actors.desktop.path(".local/share/hearth"))?;
        let made = actors.laptop.path("film.bin.part");
        tree::write_noise(&made, megabytes, megabytes << 20)?;
        story.clock();
        fs::rename(&made, actors.laptop.path("film.bin")).context("putting the film in its place")?;
        let seen = interrupt(actors, before + (4 << 20))?;
        if seen {
            story.done(&format!("a file of {megabytes} MiB is on its way: kill -9 of the desktop's daemon"))?;
            let whole = actors.desktop.path("film.bin").exists();
            ensure!(!whole, "the film cannot be there yet");
            actors.desktop.start()?;
            actors.desktop.settle(WHOLE_TREE_LIMIT)?;
            actors.laptop.settle(WHOLE_TREE_LIMIT)?;
            story.done("started again with no cleaning up: the file is whole")?;
            tree::assert_equal(&actors.laptop.home(), &actors.desktop.home(), &[&tree::OWN[..], &["Papers"]].concat())?;
            return Ok(());
        }
        settle(actors)?;
    }
    bail!("every transfer was over before it could be interrupted")
}

/// Kills the desktop once it holds part of the file; false if the whole file was there first.
fn interrupt(actors: &mut Actors<'_>, enough: u64) -> Result<bool> {
    let wake = Wake::on(&actors.desktop.path(".local/share/hearth"))?;
    let partly = until("part of the file", LIMIT, &wake, || {
        if actors.desktop.path("film.bin").exists() {
            return Ok(Some(false));
        }
        Ok(Some(true).filter(|_| below(&actors.desktop.path(".local/share/hearth")).is_ok_and(|now| now >= enough)))
    })?;
    if partly {
        actors.desktop.kill()?;
    }
    if partly && actors.desktop.path("film.bin").exists() {
        // It was renamed into place between the look and the blow: that does not count, and the machine goes on.
        actors.desktop.start()?;
        return Ok(false);
    }
    Ok(partly)
}

fn settle(actors: &Actors<'_>) -> Result<()> {
    actors.laptop.settle(LIMIT)?;
    actors.desktop.settle(LIMIT)
}

/// What was put into the home.
#[derive(Default)]
struct Found {
    files: usize,
    bytes: u64,
    from: Vec<String>,
}

/// Copies a tree into `target`: the person's, whole, or a few thousand files of this computer.
fn fill(target: &Path, folder: Option<&Path>) -> Result<Found> {
    let mut found = Found::default();
    fs::create_dir_all(target).context("making the first folder")?;
    if let Some(folder) = folder {
        ensure!(folder.is_dir(), "{} is no folder", folder.display());
        copy(folder, target, usize::MAX, &mut found)?;
        found.from.push(folder.display().to_string());
        return Ok(found);
    }
    for source in SOURCES.map(Path::new) {
        if found.files >= FILES || !source.is_dir() {
            continue;
        }
        let source = source.canonicalize().context("finding files on this computer")?;
        let name = source.file_name().context("a source of files has a name")?;
        let before = found.files;
        copy(&source, &target.join(name), FILES, &mut found)?;
        if found.files > before {
            found.from.push(source.display().to_string());
        }
    }
    ensure!(found.files > 0, "this computer has no files to show; name a folder: make demo DIR=…");
    Ok(found)
}

/// Copies what can be read, with modes, times and the links that stay inside.
fn copy(source: &Path, target: &Path, limit: usize, found: &mut Found) -> Result<()> {
    let mut left = vec![PathBuf::new()];
    while let Some(folder) = left.pop() {
        let Ok(entries) = fs::read_dir(source.join(&folder)) else { continue };
        fs::create_dir_all(target.join(&folder)).context("making a folder")?;
        let mut entries: Vec<_> = entries.filter_map(Result::ok).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if found.files >= limit {
                return Ok(());
            }
            let path = folder.join(entry.file_name());
            let Ok(kind) = entry.file_type() else { continue };
            // A repository's build output is no life's work.
            if kind.is_dir() && ["target", ".git"].iter().all(|name| entry.file_name() != *name) {
                left.push(path);
            } else if kind.is_symlink() {
                copy_link(source, target, &path)?;
            } else if kind.is_file() {
                copy_file(&source.join(&path), &target.join(&path), found)?;
            }
        }
    }
    Ok(())
}

fn copy_link(source: &Path, target: &Path, path: &Path) -> Result<()> {
    let Ok(points_to) = fs::read_link(source.join(path)) else { return Ok(()) };
    let mut depth = path.components().count().saturating_sub(1);
    for step in points_to.components() {
        match step {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Ok(()),
        }
    }
    symlink(&points_to, target.join(path)).context("copying a link")
}

fn copy_file(source: &Path, target: &Path, found: &mut Found) -> Result<()> {
    let Ok(file) = File::open(source) else { return Ok(()) };
    let data = file.metadata().context("looking at a file")?;
    found.bytes += fs::copy(source, target).with_context(|| format!("copying {}", source.display()))?;
    found.files += 1;
    let times = FileTimes::new().set_modified(data.modified().context("looking at a file")?);
    // Read-only files are opened for reading: setting times asks for ownership only.
    File::open(target).and_then(|file| file.set_times(times)).context("setting the time of a file")
}

/// An error unless both homes are alike, apart from what the rules keep on the laptop. Returns how much that is.
fn assert_equal_homes(laptop: &Machine, desktop: &Machine) -> Result<usize> {
    let differences = tree::compare(&laptop.home(), &desktop.home(), &tree::OWN)?;
    let mut kept: Vec<PathBuf> = Vec::new();
    let mut wrong = Vec::new();
    for difference in &differences {
        if kept.iter().any(|folder| difference.path.starts_with(folder)) {
            continue;
        }
        let owner = if difference.right.is_none() { laptop } else { desktop };
        let one_sided = difference.left.is_none() || difference.right.is_none();
        let why = |machine: &Machine| -> Result<Value> {
            machine.ask([&"why".into(), &machine.home_inside().join(&difference.path)])
        };
        if one_sided && why(owner)?["travels"] == Value::Bool(false) {
            kept.push(difference.path.clone());
        } else {
            wrong.push(difference.to_string());
        }
    }
    wrong.truncate(20);
    ensure!(wrong.is_empty(), "the homes differ:\n  {}", wrong.join("\n  "));
    Ok(kept.len())
}

fn files_below(folder: &Path) -> Result<usize> {
    let entries = tree::read(folder, &[])?;
    Ok(entries.values().filter(|entry| matches!(entry, Entry::File { .. })).count())
}

/// Adds up the disk space of all files in a folder that is being written to.
fn below(folder: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    let mut left = vec![folder.to_path_buf()];
    while let Some(folder) = left.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.filter_map(Result::ok) {
            let Ok(data) = entry.metadata() else { continue };
            if data.is_dir() { left.push(entry.path()) } else { bytes += data.blocks() * 512 }
        }
    }
    Ok(bytes)
}

/// An error if any process still has to do with the scratch folder.
fn still_running(scratch: &Path) -> Result<()> {
    let needle = scratch.as_os_str().as_encoded_bytes();
    let ours = std::process::id().to_string();
    for entry in fs::read_dir("/proc").context("listing processes")?.filter_map(Result::ok) {
        let name = entry.file_name();
        if name.to_string_lossy() == ours || !name.as_encoded_bytes()[0].is_ascii_digit() {
            continue;
        }
        let says = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        for text in [says("cmdline"), says("environ")] {
            let found = text.windows(needle.len()).any(|window| window == needle);
            ensure!(
                !found,
                "process {} is still running: {}",
                name.to_string_lossy(),
                String::from_utf8_lossy(&says("cmdline"))
            );
        }
    }
    Ok(())
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// The timeline on the terminal.
struct Story {
    begun: Instant,
    since: Instant,
    colours: bool,
}

impl Story {
    fn begin() -> Self {
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { begun: Instant::now(), since: Instant::now(), colours }
    }

    fn title(&self, text: &str) -> Result<()> {
        self.line(&format!("\n  {}\n", self.styled("1", text)))
    }

    fn chapter(&mut self, text: &str) -> Result<()> {
        self.clock();
        self.line(&format!("\n  {}\n", self.styled("2", text)))
    }

    /// Starts to measure the next step.
    fn clock(&mut self) {
        self.since = Instant::now();
    }

    /// Shows a step as done, with the time since the last one.
    fn done(&mut self, text: &str) -> Result<()> {
        let took = self.since.elapsed().as_secs_f64();
        let tick = self.styled("32", "✓");
        let dots = 70_usize.saturating_sub(text.chars().count());
        self.line(&format!("  {tick} {text} {} {took:>7.2} s\n", self.styled("2", &"·".repeat(dots))))?;
        self.clock();
        Ok(())
    }

    fn detail(&self, text: &str) -> Result<()> {
        self.line(&format!("      {}\n", self.styled("2", text)))
    }

    fn line(&self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("showing the story")
    }

    fn styled(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
