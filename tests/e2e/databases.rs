//! SQLite databases that programs have open: what travels is whole, and nothing is exchanged under an open connection.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use hearth_tests::answer::{Displaced, Status};
use hearth_tests::machine::Machine;
use hearth_tests::pair::{LATER, Pair, SOON};
use hearth_tests::watch::until_file;
use rusqlite::{Connection, OpenFlags};

/// Commits ten rows into a database with a log, says so, and waits to be killed.
const KILLED: &str = "
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute('PRAGMA journal_mode=WAL')
database.execute('PRAGMA wal_autocheckpoint=0')
for number in range(10):
    database.execute('INSERT INTO notes VALUES (?)', (f'before the end {number}',))
print('committed', flush=True)
time.sleep(1000)
";

#[test]
fn a_database_that_is_written_all_the_time_arrives_whole_and_only_grows() -> Result<()> {
    written_all_the_time("wal")
}

#[test]
fn so_does_one_with_a_rollback_journal() -> Result<()> {
    written_all_the_time("delete")
}

fn written_all_the_time(mode: &str) -> Result<()> {
    let pair = Pair::joined()?;
    let (laptop, desktop) = (&pair.laptop, &pair.desktop);
    let database = notes(laptop, mode)?;
    let done = AtomicBool::new(false);
    let written = std::thread::scope(|scope| -> Result<i64> {
        let done = &done;
        let writer = scope.spawn(move || -> Result<i64> {
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                number += 1;
                database.execute("INSERT INTO notes VALUES (?)", [format!("{number} {}", "long ".repeat(200))])?;
            }
            database.close().map_err(|(_, error)| error)?;
            Ok(number)
        });
        let seen = (|| {
            let mut counts = vec![0];
            while counts.len() < 3 {
                counts.push(until_grown(desktop, *counts.last().context("a first")?)?);
            }
            Ok::<_, anyhow::Error>(counts)
        })();
        done.store(true, Ordering::Relaxed);
        let written = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        seen.map(|_| written)
    })?;
    pair.settle(LATER)?;
    pair.assert_alike()?;
    ensure!(count(&desktop.path("notes.db"))? == written, "{mode}: every row is there");
    ensure!(!desktop.path("notes.db-wal").exists() && !desktop.path("notes.db-journal").exists());
    Ok(())
}

#[test]
fn no_database_is_replaced_under_an_open_connection() -> Result<()> {
    let pair = Pair::joined()?;
    let (laptop, desktop) = (&pair.laptop, &pair.desktop);
    let database = notes(laptop, "wal")?;
    database.close().map_err(|(_, error)| error)?;
    desktop.until_there("notes.db", true, SOON)?;
    pair.settle(SOON)?;
    let reader = Connection::open(desktop.path("notes.db"))?;
    ensure!(rows(&reader)? == 0);
    let inode = fs::metadata(desktop.path("notes.db"))?.ino();

    let writer = Connection::open(laptop.path("notes.db"))?;
    writer.execute("INSERT INTO notes VALUES ('from the laptop')", [])?;
    writer.close().map_err(|(_, error)| error)?;
    let told = |status: &Status| {
        let is_it = |path: &str| path == "notes.db";
        let in_use = |what: &str| what.contains("in use by a program");
        !status.in_sync && status.problems.iter().any(|p| in_use(&p.what) && p.path.as_deref().is_some_and(is_it))
    };
    desktop.until_status("the open database to be told", LATER, told)?;
    ensure!(fs::metadata(desktop.path("notes.db"))?.ino() == inode, "it is not replaced");
    ensure!(rows(&reader)? == 0);
    reader.close().map_err(|(_, error)| error)?;
    until_grown(desktop, 0)?;
    desktop.until_status("nothing to be in use", LATER, |status| status.problems.is_empty())?;
    pair.settle(LATER)?;
    pair.assert_alike()
}

#[test]
fn what_a_killed_program_had_committed_travels_and_its_log_spoils_nothing() -> Result<()> {
    let pair = Pair::joined()?;
    let (laptop, desktop) = (&pair.laptop, &pair.desktop);
    notes(laptop, "wal")?.close().map_err(|(_, error)| error)?;
    pair.settle(SOON)?;
    let mut writer = Killed::start(&laptop.path("notes.db"))?;
    writer.kill()?;
    ensure!(fs::metadata(laptop.path("notes.db-wal"))?.len() > 0, "a log is left");
    ensure!(until_grown(desktop, 0)? == 10, "what is in the log alone travels");
    pair.settle(SOON)?;
    ensure!(fs::metadata(laptop.path("notes.db-wal"))?.len() > 0, "the log is left alone");

    let other = Connection::open(desktop.path("notes.db"))?;
    other.execute("INSERT INTO notes VALUES ('from the desktop')", [])?;
    other.close().map_err(|(_, error)| error)?;
    laptop.until_there("notes.db-wal", false, SOON)?;
    pair.settle(LATER)?;
    pair.assert_alike()?;
    let database = Connection::open(laptop.path("notes.db"))?;
    ensure!(rows(&database)? == 11, "no log of another database is taken for its own");
    ensure!(database.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))? == "ok");
    database.close().map_err(|(_, error)| error)?;
    let history: Vec<Displaced> = laptop.ask(["history", "--all"])?;
    ensure!(history.iter().any(|row| row.path.ends_with("notes.db-wal")), "the log is in the history: {history:?}");
    Ok(())
}

/// A new database with a table and no row.
fn notes(machine: &Machine, mode: &str) -> Result<Connection> {
    let database = Connection::open(machine.path("notes.db"))?;
    database.pragma_update(None, "journal_mode", mode)?;
    database.execute("CREATE TABLE notes (text TEXT)", [])?;
    Ok(database)
}

/// Waits until the database of a machine has more rows; gives how many. Every one that is seen must be whole.
fn until_grown(machine: &Machine, before: i64) -> Result<i64> {
    let copy = machine.home_inside().with_extension("copy");
    let mut wrong = None;
    let seen = until_file(&machine.path("notes.db"), LATER, |path| {
        fs::copy(path, &copy).ok()?;
        match count(&copy) {
            Ok(rows) if rows < before => wrong = Some(format!("{rows} rows after {before}")),
            Ok(rows) => return (rows > before).then_some(Some(rows)),
            Err(error) => wrong = Some(format!("{error:#}")),
        }
        Some(None)
    })?;
    seen.with_context(|| wrong.unwrap_or_default())
}

/// The rows of a sound database that nobody writes to.
fn count(path: &Path) -> Result<i64> {
    let name = format!("file:{}?immutable=1", path.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let database = Connection::open_with_flags(PathBuf::from(name), flags)?;
    let sound: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    ensure!(sound == "ok", "{sound}");
    rows(&database)
}

fn rows(database: &Connection) -> Result<i64> {
    if !database.table_exists(None, "notes")? {
        return Ok(0);
    }
    Ok(database.query_row("SELECT count(*) FROM notes", [], |row| row.get(0))?)
}

/// A program that is killed while it has a database open.
struct Killed(Child);

impl Killed {
    fn start(path: &Path) -> Result<Self> {
        let mut command = Command::new("python3");
        command.args(["-c", KILLED]).arg(path).stdout(Stdio::piped());
        let mut program = Self(command.spawn().context("starting python3")?);
        let mut line = String::new();
        BufReader::new(program.0.stdout.as_mut().context("its output")?).read_line(&mut line)?;
        ensure!(line.trim_end() == "committed", "it said {line:?}");
        Ok(program)
    }

    fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // One that was killed already needs no end.
        let _ = self.kill();
    }
}
