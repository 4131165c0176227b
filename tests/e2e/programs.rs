//! What programs keep in a home, as they work with it: mail folders and the profile of a browser.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hearth_tests::machine::Machine;
use hearth_tests::pair::{LATER, Pair, SOON};
use hearth_tests::watch::until_file;
use rusqlite::Connection;
use serde_json::Value;

/// Messages in the large folder.
const MESSAGES: usize = 2000;
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n";

#[test]
fn mail_that_is_read_flagged_and_moved_on_two_machines_is_all_there_once() -> Result<()> {
    let pair = Pair::joined_with(|laptop, _| {
        for folder in ["Mail", "Mail/.Archive"] {
            for part in ["cur", "new", "tmp"] {
                fs::create_dir_all(laptop.path(folder).join(part))?;
            }
        }
        for number in 0..MESSAGES {
            laptop.write(format!("Mail/cur/{number}.host:2,"), message(number))?;
        }
        Ok(())
    })?;
    let (laptop, desktop) = (&pair.laptop, &pair.desktop);

    // Delivered here, read there.
    for number in MESSAGES..MESSAGES + 20 {
        deliver(laptop, number)?;
    }
    for number in MESSAGES..MESSAGES + 20 {
        let name = format!("Mail/new/{number}.host");
        desktop.until_content(&name, message(number).as_bytes(), SOON)?;
        fs::rename(desktop.path(&name), desktop.path(format!("Mail/cur/{number}.host:2,S")))?;
    }
    pair.settle(LATER)?;
    pair.assert_alike()?;
    ensure!(fs::read_dir(laptop.path("Mail/new"))?.count() == 0, "they are read");

    // Flagged on both at once: the same flags, others, and one of them twice.
    let flag = |machine: &Machine, number: usize, flags: &str| {
        fs::rename(
            machine.path(format!("Mail/cur/{number}.host:2,")),
            machine.path(format!("Mail/cur/{number}.host:2,{flags}")),
        )
    };
    pair.laptop.hearth(["pause"])?;
    pair.desktop.hearth(["pause"])?;
    for number in 0..30 {
        flag(laptop, number, "S")?;
        flag(desktop, number, if number < 10 { "S" } else { "RS" })?;
    }
    for number in 30..60 {
        flag(laptop, number, "FS")?;
    }
    // Thousands are moved to another folder, while the other machine reads some of them.
    for number in 100..1600 {
        let name = format!("{number}.host:2,");
        fs::rename(laptop.path("Mail/cur").join(&name), laptop.path("Mail/.Archive/cur").join(&name))?;
    }
    for number in 100..130 {
        flag(desktop, number, "S")?;
    }
    deliver(desktop, 9000)?;
    pair.laptop.hearth(["resume"])?;
    pair.desktop.hearth(["resume"])?;
    pair.settle(LATER)?;
    pair.assert_alike()?;
    let mut found = Vec::new();
    for folder in ["Mail/cur", "Mail/new", "Mail/.Archive/cur"] {
        for entry in fs::read_dir(laptop.path(folder))? {
            let entry = entry?;
            let text = fs::read_to_string(entry.path())?;
            ensure!(!entry.file_name().to_string_lossy().contains("conflict"), "{:?}", entry.path());
            found.push(text);
        }
    }
    let all: BTreeSet<&String> = found.iter().collect();
    ensure!(all.len() == MESSAGES + 21, "{} of {} messages are there", all.len(), MESSAGES + 21);
    ensure!(found.len() == all.len(), "{} are there twice", found.len() - all.len());
    ensure!(laptop.ask::<Value>(["conflicts"])?.as_array().is_some_and(Vec::is_empty), "no flag makes a conflict");
    ensure!(laptop.status()?.held == 0, "a move is no loss");
    Ok(())
}

#[test]
fn the_profile_of_a_browser_that_runs_arrives_sound_and_without_its_cache() -> Result<()> {
    let pair = Pair::joined()?;
    let (laptop, desktop) = (&pair.laptop, &pair.desktop);
    let profile = "Apps/browser/profile";
    laptop.write(format!("{profile}/cache/CACHEDIR.TAG"), TAG)?;
    laptop.write(format!("{profile}/cache/entry"), "can be fetched again")?;
    laptop.write(format!("{profile}/extensions/one.xpi"), vec![7; 300_000])?;
    symlink("127.0.1.1:+4711", laptop.path(profile).join("lock"))?;
    let browser = Browser { profile: laptop.path(profile) };
    browser.runs_while(|| {
        // It is seen while the browser runs, and sound each time.
        let mut visits = Vec::new();
        while visits.len() < 2 {
            let least = visits.last().copied().unwrap_or(0);
            let seen = until_file(&desktop.path(profile).join("places.sqlite"), LATER, |path| {
                sound(path).ok().filter(|&rows| rows > least)
            })?;
            visits.push(seen);
        }
        desktop.until_there(format!("{profile}/sessionstore.json"), true, SOON)?;
        desktop.until_there(format!("{profile}/extensions/one.xpi"), true, SOON)?;
        Ok(())
    })?;
    fs::remove_file(laptop.path(profile).join("lock"))?;
    laptop.until_status("everything to be at rest", LATER, |status| status.problems.is_empty())?;
    pair.settle(LATER)?;
    ensure!(!desktop.path(profile).join("cache").exists(), "the cache stays");
    ensure!(!desktop.path(profile).join("lock").exists(), "nobody holds the profile any more");
    for name in ["places.sqlite", "cookies.sqlite", "prefs.json", "sessionstore.json"] {
        let [here, there] = [laptop, desktop].map(|machine| fs::read(machine.path(profile).join(name)));
        ensure!(here? == there?, "{name} differs");
    }
    ensure!(
        sound(&desktop.path(profile).join("places.sqlite"))? > 0
            && desktop.ask::<Value>(["conflicts"])? == Value::Array(vec![])
    );
    let left: Vec<PathBuf> = fs::read_dir(desktop.path(profile))?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    ensure!(left.iter().all(|path| !path.to_string_lossy().contains("-wal")), "{left:?}");
    Ok(())
}

#[test]
fn the_database_of_a_program_below_config_travels_while_the_program_runs() -> Result<()> {
    let pair = Pair::joined()?;
    let (laptop, desktop) = (&pair.laptop, &pair.desktop);
    fs::create_dir_all(laptop.path(".local/share/reader"))?;
    laptop.write(".config/reader/Cookies", "log-ins")?;
    laptop.write(".config/reader/settings.json", "{}")?;
    let path = laptop.path(".local/share/reader/feeds.db");
    let database = Connection::open(&path)?;
    database.pragma_update(None, "journal_mode", "wal")?;
    database.execute("CREATE TABLE visits (text TEXT)", [])?;
    database.execute("INSERT INTO visits VALUES ('read')", [])?;
    let there = desktop.path(".local/share/reader/feeds.db");
    let rows = until_file(&there, LATER, |path| sound(path).ok().filter(|&rows| rows == 1))?;
    ensure!(rows == 1 && !desktop.path(".config/reader/Cookies").exists());
    database.close().map_err(|(_, error)| error)?;
    pair.settle(LATER)?;
    ensure!(fs::read(&path)? == fs::read(&there)?);
    desktop.until_there(".config/reader/settings.json", true, SOON)?;
    Ok(())
}

/// A browser at work: databases with a log and open, preferences saved by renaming, a session written every moment.
struct Browser {
    profile: PathBuf,
}

impl Browser {
    fn runs_while(&self, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let browser = scope.spawn(|| self.browse(&done));
            let result = meanwhile();
            done.store(true, Ordering::Relaxed);
            browser.join().map_err(|_| anyhow::anyhow!("the browser panicked")).context("browsing")??;
            result
        })
    }

    fn browse(&self, done: &AtomicBool) -> Result<()> {
        let open = |name: &str| -> Result<Connection> {
            let database = Connection::open(self.profile.join(name))?;
            database.pragma_update(None, "journal_mode", "wal")?;
            database.execute("CREATE TABLE visits (text TEXT)", [])?;
            Ok(database)
        };
        let databases = [open("places.sqlite")?, open("cookies.sqlite")?];
        for visit in 0.. {
            for database in &databases {
                database.execute("INSERT INTO visits VALUES (?)", [format!("page {visit}")])?;
            }
            self.save("prefs.json", &format!("{{\"visits\": {visit}}}"))?;
            self.save("sessionstore.json", &format!("{{\"tabs\": {:?}}}", vec![visit; 500]))?;
            fs::write(self.profile.join("cache").join(format!("{visit}")), "cached")?;
            if done.load(Ordering::Relaxed) {
                break;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        databases.into_iter().try_for_each(|database| database.close().map_err(|(_, error)| error))?;
        Ok(())
    }

    fn save(&self, name: &str, text: &str) -> Result<()> {
        let temporary = self.profile.join(format!("{name}.tmp"));
        fs::write(&temporary, text)?;
        Ok(fs::rename(temporary, self.profile.join(name))?)
    }
}

/// How many visits a copy of a database has; an error if it is not sound.
fn sound(path: &Path) -> Result<i64> {
    let scratch = tempfile::tempdir()?;
    let copy = scratch.path().join("copy");
    fs::copy(path, &copy)?;
    let database = Connection::open(&copy)?;
    let told: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    ensure!(told == "ok", "{told}");
    if !database.table_exists(None, "visits")? {
        return Ok(0);
    }
    Ok(database.query_row("SELECT count(*) FROM visits", [], |row| row.get(0))?)
}

fn message(number: usize) -> String {
    format!("Subject: number {number}\n\nThe text of message {number}.\n")
}

/// Delivers a message as a mail server does.
fn deliver(machine: &Machine, number: usize) -> Result<()> {
    let name = format!("{number}.host");
    machine.write(format!("Mail/tmp/{name}"), message(number))?;
    Ok(fs::rename(machine.path("Mail/tmp").join(&name), machine.path("Mail/new").join(&name))?)
}
