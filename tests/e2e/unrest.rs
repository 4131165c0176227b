//! Files that are written without pause, and what the other machine has of them meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_tests::answer::Status;
use hearth_tests::pair::{LATER, Pair, SOON};
use hearth_tests::watch::until_file;

/// How often the logger writes.
const PAUSE: Duration = Duration::from_millis(50);

#[test]
fn a_log_that_grows_without_pause_arrives_in_parts_and_in_the_end_whole() -> Result<()> {
    let pair = Pair::joined()?;
    let (laptop, desktop) = (&pair.laptop, &pair.desktop);
    laptop.write("first.log", "begun\n")?;
    let log = laptop.path("app.log");
    written_while(&log, || {
        let first = until_file(&desktop.path("app.log"), LATER, |path| fs::read(path).ok().filter(|b| !b.is_empty()))?;
        ensure!(fs::read(&log)?.starts_with(&first), "{} bytes that are not its beginning", first.len());
        desktop.until_there("first.log", true, SOON)?;
        let told = |status: &Status| {
            let of_it = status.problems.iter().find(|problem| problem.path.as_deref() == Some("app.log"));
            of_it.is_some_and(|p| p.what.contains("still being written") && p.last_copy.is_some()) && !status.in_sync
        };
        laptop.until_status("the log to be told", SOON, told)?;
        let shown = laptop.hearth(["status"])?;
        ensure!(words(&shown.stdout).contains("still being written; last copy"), "{}", words(&shown.stdout));
        let waited = laptop.hearth(["wait"])?;
        ensure!(waited.code == 1, "nothing comes of waiting: {waited:?}");
        // It was asked for, so it was not waited for until the next minute.
        let later = until_file(&desktop.path("app.log"), LATER, |path| {
            fs::read(path).ok().filter(|there| there.len() > first.len())
        })?;
        ensure!(fs::read(&log)?.starts_with(&later), "{} bytes that are not its beginning", later.len());
        Ok(())
    })?;
    laptop.until_status("the log to be at rest", LATER, |status| status.problems.is_empty())?;
    pair.settle(LATER)?;
    pair.assert_alike()?;
    ensure!(fs::read(desktop.path("app.log"))? == fs::read(&log)?);
    Ok(())
}

fn words(printed: &[u8]) -> String {
    String::from_utf8_lossy(printed).into_owned()
}

/// Appends to a file without pause while something else is done.
fn written_while(path: &Path, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let done = &done;
        let writer = scope.spawn(move || -> Result<()> {
            let mut log: File = OpenOptions::new().create(true).append(true).open(path)?;
            let begun = Instant::now();
            for line in 0.. {
                writeln!(log, "{line} after {:?}", begun.elapsed())?;
                if done.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::sleep(PAUSE);
            }
            Ok(())
        });
        let result = meanwhile();
        done.store(true, Ordering::Relaxed);
        writer.join().map_err(|_| anyhow::anyhow!("the writer panicked")).context("the logger")??;
        result
    })
}
