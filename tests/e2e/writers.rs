//! Programs that write while a change of the other machine arrives: what they write is never in nobody's sight.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use hearth_tests::answer::{Displaced, Status};
use hearth_tests::machine::Machine;
use hearth_tests::pair::{LATER, Pair, SOON};
use hearth_tests::tree;

/// Maps a file, says so, and writes what it is told into the mapping, from its beginning, until there is no more.
const MAPPER: &str = "
import mmap, sys
with open(sys.argv[1], 'r+b') as file:
    mapped = mmap.mmap(file.fileno(), 0)
print('mapped', flush=True)
for line in sys.stdin:
    text = line.rstrip('\\n').encode()
    mapped[:len(text)] = text
    print('written', flush=True)
";

#[test]
fn what_a_program_is_writing_is_taken_away_by_nobody() -> Result<()> {
    let pair = Pair::joined_with(|laptop, _| {
        for name in ["appended.log", "mapped.bin", "moved.txt", "deleted.txt"] {
            laptop.write(name, format!("{name} of both"))?;
        }
        Ok(())
    })?;
    let (laptop, desktop) = (&pair.laptop, &pair.desktop);
    let open = |name: &str| OpenOptions::new().append(true).open(desktop.path(name));
    let (mut log, mut deleted, moved) = (open("appended.log")?, open("deleted.txt")?, open("moved.txt")?);
    let mut mapper = Mapper::start(desktop, "mapped.bin")?;

    save(laptop, "appended.log", "the laptop's own log")?;
    save(laptop, "mapped.bin", "the laptop's own bytes")?;
    fs::rename(laptop.path("moved.txt"), laptop.path("elsewhere.txt"))?;
    fs::remove_file(laptop.path("deleted.txt"))?;
    save(laptop, "free.txt", "nobody has it open")?;
    let told = |status: &Status| {
        let in_use = status.problems.iter().filter(|problem| problem.what.contains("in use by a program"));
        let paths: Vec<_> = in_use.filter_map(|problem| problem.path.as_deref()).collect();
        !status.in_sync
            && ["appended.log", "mapped.bin", "moved.txt", "deleted.txt"].iter().all(|name| paths.contains(name))
    };
    desktop.until_status("the files in use to be told", LATER, told)?;
    ensure!(!laptop.status()?.in_sync, "the desktop has not followed");
    ensure!(desktop.read("free.txt")? == b"nobody has it open", "others are not kept waiting");
    ensure!(desktop.read("appended.log")? == b"appended.log of both");
    ensure!(desktop.read("moved.txt")? == b"moved.txt of both");

    log.write_all(b", and more")?;
    deleted.write_all(b", and more")?;
    mapper.write("AGAIN")?;
    drop((log, deleted, moved));
    mapper.end()?;
    desktop.until_status("no file to be in use", LATER, |status| status.problems.is_empty())?;
    pair.settle(LATER)?;
    pair.assert_alike()?;
    ensure!(laptop.read("deleted.txt")? == b"deleted.txt of both, and more", "an edit outlives a deletion");
    ensure!(laptop.read("elsewhere.txt")? == b"moved.txt of both");
    let written: [&[u8]; 4] =
        [b"the laptop's own log", b"appended.log of both, and more", b"the laptop's own bytes", b"AGAINd.bin of both"];
    for content in written {
        ensure!(is_live(laptop, content)?, "{:?} is not there", String::from_utf8_lossy(content));
    }
    Ok(())
}

#[test]
fn what_is_written_through_a_mapping_arrives_once_the_program_ends() -> Result<()> {
    let pair = Pair::joined_with(|laptop, _| laptop.write("mapped.bin", "0123456789"))?;
    let mut mapper = Mapper::start(&pair.desktop, "mapped.bin")?;
    mapper.write("first")?;
    // Looked at while the page is dirty: what is written from here on moves no time, and nothing tells of it.
    fs::set_permissions(pair.desktop.path("mapped.bin"), fs::metadata(pair.desktop.path("mapped.bin"))?.permissions())?;
    pair.laptop.until_content("mapped.bin", b"first56789", SOON)?;
    mapper.write("later")?;
    mapper.end()?;
    pair.laptop.until_content("mapped.bin", b"later56789", SOON)?;
    pair.settle(SOON)?;
    pair.assert_alike()
}

#[test]
fn a_descriptor_follows_its_file_into_a_renamed_directory() -> Result<()> {
    let pair = Pair::joined_with(|laptop, _| laptop.write("here/notes.txt", "begun"))?;
    let mut notes = OpenOptions::new().append(true).open(pair.desktop.path("here/notes.txt"))?;
    fs::rename(pair.laptop.path("here"), pair.laptop.path("there"))?;
    pair.desktop.until_there("there/notes.txt", true, SOON)?;
    notes.write_all(b" and ended")?;
    drop(notes);
    pair.laptop.until_content("there/notes.txt", b"begun and ended", SOON)?;
    pair.settle(SOON)?;
    pair.assert_alike()
}

#[test]
fn two_editors_that_save_one_file_over_and_over_lose_neither() -> Result<()> {
    const SAVES: usize = 60;
    let pair = Pair::joined_with(|laptop, _| laptop.write("novel.txt", "chapter one"))?;
    std::thread::scope(|scope| {
        let writers = [&pair.laptop, &pair.desktop].map(|machine| {
            let (home, name) = (machine.home(), machine.name().to_owned());
            scope.spawn(move || -> Result<()> {
                for number in 0..=SAVES {
                    let temporary = home.join(".novel.txt.swp");
                    let mut file = File::create(&temporary)?;
                    write!(file, "save {number} of {name}")?;
                    file.sync_all()?;
                    fs::rename(&temporary, home.join("novel.txt"))?;
                }
                Ok(())
            })
        });
        writers.into_iter().try_for_each(|writer| writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?)
    })?;
    pair.settle(LATER)?;
    pair.assert_alike()?;
    for machine in [&pair.laptop, &pair.desktop] {
        let last = format!("save {SAVES} of {}", machine.name());
        let history: Vec<Displaced> = machine.ask(["history", "--all"])?;
        let hash = blake3::hash(last.as_bytes()).to_hex();
        let kept = history.iter().any(|row| row.blake3 == hash.as_str());
        ensure!(kept || is_live(machine, last.as_bytes())?, "{last} is nowhere");
    }
    Ok(())
}

/// A program that has a file mapped and no descriptor of it.
struct Mapper(Child);

impl Mapper {
    fn start(machine: &Machine, name: &str) -> Result<Self> {
        let mut command = Command::new("python3");
        command.args(["-c", MAPPER]).arg(machine.path(name)).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut mapper = Self(command.spawn().context("starting python3")?);
        mapper.hears("mapped")?;
        Ok(mapper)
    }

    fn write(&mut self, text: &str) -> Result<()> {
        writeln!(self.0.stdin.as_mut().context("its input")?, "{text}")?;
        self.hears("written")
    }

    fn hears(&mut self, word: &str) -> Result<()> {
        let mut line = String::new();
        // It says one line at a time and waits for the next, so nothing is read ahead.
        BufReader::new(self.0.stdout.as_mut().context("its output")?).read_line(&mut line)?;
        ensure!(line.trim_end() == word, "it said {line:?} instead of {word}");
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        ensure!(self.0.wait()?.success(), "it ended badly");
        Ok(())
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        // One that has ended already needs no end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Saves a file as most editors do.
fn save(machine: &Machine, name: &str, text: &str) -> Result<()> {
    let temporary = machine.path(format!(".{name}.swp"));
    fs::write(&temporary, text)?;
    Ok(fs::rename(temporary, machine.path(name))?)
}

/// Whether some file of a home has this content.
fn is_live(machine: &Machine, content: &[u8]) -> Result<bool> {
    let hash = blake3::hash(content);
    let live = tree::read(&machine.home(), &tree::OWN)?;
    Ok(live.values().any(|entry| matches!(entry, tree::Entry::File { hash: found, .. } if *found == hash)))
}
