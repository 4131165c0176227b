//! What edits cost on the wire, and how long they take beside rsync, which compares the two files on one disk.
//!
//! Bytes are those through the other machine's interface, headers included, in both directions, until both agree. Rsync's are
//! those that it says it sent and received.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hearth_tests::pair::Pair;
use hearth_tests::process::succeed;
use hearth_tests::tree;

use crate::report::{Goal, Report};

const LARGE: u64 = 256 << 20;
const ROUNDS: u64 = 3;
const FILES: u64 = 20_000;
const REWRITTEN: u64 = 2_000;
const SAVES: u64 = 20;
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    large(report)?;
    checkout(report)
}

fn large(report: &mut Report) -> Result<()> {
    let pair = Pair::joined_with(|laptop, _| tree::write_noise(&laptop.path("film.bin"), 1, LARGE))?;
    let file = pair.laptop.path("film.bin");
    let kept = pair.scratch().join("rsync.bin");
    fs::copy(&file, &kept).context("a copy for rsync")?;
    type Act<'a> = &'a dyn Fn(&Path, u64) -> Result<()>;
    let insert: Act<'_> = &|file, round| {
        let beside = pair.scratch().join("written anew");
        let (mut old, mut new) = (fs::File::open(file)?, fs::File::create(&beside)?);
        std::io::copy(&mut (&mut old).take(LARGE / 5 * (round + 1)), &mut new)?;
        new.write_all(&tree::noise(round + 20, 1 << 10))?;
        std::io::copy(&mut old, &mut new)?;
        new.sync_all()?;
        fs::rename(&beside, file).context("putting it in place")
    };
    let append: Act<'_> = &|file, round| {
        let mut file = OpenOptions::new().append(true).open(file)?;
        file.write_all(&tree::noise(round + 30, 64 << 10)).context("appending")
    };
    let overwrite: Act<'_> = &|file, round| {
        let file = OpenOptions::new().write(true).open(file)?;
        file.write_all_at(&tree::noise(round + 40, 4 << 10), LARGE / 7 * (round + 1)).context("overwriting")
    };
    let acts = [
        ("1 KiB inserted in 256 MiB", insert, 64.0),
        ("64 KiB appended to 256 MiB", append, 90.0),
        ("4 KiB overwritten in 256 MiB", overwrite, 32.0),
    ];
    for (what, act, most) in acts {
        let (mut ours, mut seen, mut theirs, mut took) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let before = pair.lab.traffic("desktop")?.total();
            let old = pair.desktop.path("film.bin").metadata().context("the file over there")?;
            act(&file, round)?;
            let begun = Instant::now();
            until_other(&pair, &old)?;
            seen.push(begun.elapsed().as_secs_f64());
            pair.settle(LIMIT)?;
            ours.push((pair.lab.traffic("desktop")?.total() - before) as f64 / 1000.0);
            let begun = Instant::now();
            theirs.push(rsync(&file, &kept)?);
            took.push(begun.elapsed().as_secs_f64());
        }
        pair.assert_alike()?;
        report.median(&format!("{what}: on the wire"), &ours, "kB", Some(Goal::AtMost(most)));
        report.median(&format!("{what}: rsync's bytes"), &theirs, "kB", None);
        report.median(&format!("{what}: seen"), &seen, "s", None);
        report.median(&format!("{what}: rsync"), &took, "s", None);
    }
    Ok(())
}

/// Waits until another file is at the place of this one.
fn until_other(pair: &Pair, old: &fs::Metadata) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        let now = pair.desktop.path("film.bin").metadata();
        if now.is_ok_and(|now| now.ino() != old.ino()) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    anyhow::bail!("the edit did not come")
}

/// Returns the kB that it sent and received, and makes the two files alike.
fn rsync(from: &Path, to: &Path) -> Result<f64> {
    let mut command = Command::new("rsync");
    let said = succeed(
        command.args(["--no-whole-file", "--times", "--stats", "--no-human-readable"]).args([from, to]),
        LIMIT,
    )?;
    let number =
        |name: &str| -> Option<f64> { said.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok() };
    let sum = number("Total bytes sent:").zip(number("Total bytes received:")).map(|(sent, received)| sent + received);
    sum.map(|bytes| bytes / 1000.0).with_context(|| format!("rsync said {said}"))
}

/// A tree in which most bytes stand in files of 64 KiB and more, of which a tenth is written anew with other lines here
/// and there.
fn checkout(report: &mut Report) -> Result<()> {
    let name = |number: u64| format!("work/{}/{}/{number}.c", number % 17, number % 100);
    let pair =
        Pair::joined_with(|laptop, _| (0..FILES).try_for_each(|number| laptop.write(name(number), text(number, 0))))?;

    let before = pair.lab.traffic("desktop")?.total();
    for number in 0..SAVES {
        let text = tree::noise(number + 9000, 700);
        pair.laptop.write("letter.bin", &text)?;
        pair.desktop.until_content("letter.bin", &text, LIMIT)?;
    }
    let bytes = (pair.lab.traffic("desktop")?.total() - before) as f64 / SAVES as f64 / 1000.0;
    report.add("a save of 700 bytes: on the wire", bytes, "kB", Some(Goal::AtMost(1.4)));
    pair.settle(LIMIT)?;

    let (mut ratios, mut agreed, mut rewritten) = (Vec::new(), Vec::new(), 0);
    for round in 0..ROUNDS {
        let ready: Vec<(u64, Vec<u8>)> = (0..REWRITTEN).map(|part| (part * 10, text(part * 10, round + 1))).collect();
        rewritten = ready.iter().map(|(_, text)| text.len() as u64).sum();
        let before = pair.lab.traffic("desktop")?.total();
        let begun = Instant::now();
        for (number, text) in &ready {
            fs::remove_file(pair.laptop.path(name(*number))).context("as git does")?;
            pair.laptop.write(name(*number), text)?;
        }
        pair.settle(LIMIT)?;
        agreed.push(begun.elapsed().as_secs_f64());
        ratios.push((pair.lab.traffic("desktop")?.total() - before) as f64 / rewritten as f64);
    }
    pair.assert_alike()?;
    report.add("checkout of 2,000 of 20,000 files: rewritten", rewritten as f64 / 1e6, "MB", None);
    report.median("checkout of 2,000 of 20,000 files: wire ÷ rewritten", &ratios, "×", Some(Goal::AtMost(0.1)));
    report.median("checkout of 2,000 of 20,000 files: agreed", &agreed, "s", None);
    Ok(())
}

/// Lines of a file; one in 400 is another one in every revision.
fn text(number: u64, revision: u64) -> Vec<u8> {
    let lines = if number.is_multiple_of(7) { 2000 + number % 3000 } else { 20 + number % 100 };
    let line = |line: u64| {
        let mark = if line % 400 == number % 400 { revision } else { 0 };
        let words =
            tree::noise(number * 10_000 + line, 10).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("    let value{line} = {words}; // {mark}\n")
    };
    (0..lines).map(line).collect::<String>().into_bytes()
}
