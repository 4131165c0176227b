//! What a person does to 20,000 files that are in sync: a save, a checkout, a renamed and a deleted directory; and to a large file.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_tests::tree::{noise, write_noise};
use hearth_tests::watch::{until_content, until_file, until_there};

use super::{Cost, LIMIT, assert_alike, change};
use crate::ground::Ground;
use crate::report::Report;
use crate::tools::{On, Tool, Which};

/// A small save that is not there by then does not come.
const SEEN: Duration = Duration::from_secs(60);
const SAVES: u64 = 30;
/// Files that a checkout rewrites.
const REWRITTEN: usize = 2_000;
const MOVED: u64 = 5_000;
const LARGE: u64 = 256 << 20;

/// A small file is written again and again, with the pauses of a person; `how` far the machines are from each other.
pub(crate) fn save(which: Which, tool: &mut dyn Tool, how: &str, report: &mut Report) -> Result<()> {
    if !tool.watch()? {
        return Ok(());
    }
    // What only looks from time to time has its first look behind it.
    write_and_see(tool, "letter.txt", "Dear")?;
    let (cpu, wire) = (tool.cpu()?, tool.ground().wire()?);
    for number in 0..SAVES {
        // Of uneven length, so that no timer keeps step with them.
        thread::sleep(Duration::from_millis(400 + number * 137 % 600));
        let text = format!("draft {number}\n{}", "as people write, this way or that\n".repeat(20));
        let Ok(seen) = write_and_see(tool, "letter.txt", &text) else {
            report.note(&format!("{how}, save: {} did not bring draft {number} within {SEEN:?}", which.name()));
            return Ok(());
        };
        report.sample(&format!("{how}, save: seen"), which, seen, "s");
    }
    tool.settle()?;
    report.sample(&format!("{how}, save: CPU of both sides"), which, (tool.cpu()? - cpu) / SAVES as f64 * 1000.0, "ms");
    report.sample(
        &format!("{how}, save: wire"),
        which,
        (tool.ground().wire()? - wire) as f64 / SAVES as f64 / 1000.0,
        "kB",
    );
    Ok(())
}

fn write_and_see(tool: &dyn Tool, name: &str, text: &str) -> Result<f64> {
    let begun = Instant::now();
    fs::write(tool.tree(On::Laptop).join(name), text).context("saving a file")?;
    Ok(until_content(&tool.tree(On::Desktop).join(name), text.as_bytes(), SEEN)?.duration_since(begun).as_secs_f64())
}

/// Another branch is checked out: 2,000 files are written anew, each with a line more in its middle.
pub(crate) fn checkout(which: Which, tool: &mut dyn Tool, report: &mut Report) -> Result<()> {
    let mut files = Vec::new();
    list(&tool.tree(On::Laptop), Path::new(""), &mut files)?;
    files.sort();
    let every = (files.len() / REWRITTEN).max(1);
    let chosen: Vec<PathBuf> = files.into_iter().step_by(every).take(REWRITTEN).collect();
    ensure!(chosen.len() == REWRITTEN, "the tree has too few files");
    let mut bytes = 0;
    let cost = change(
        tool,
        |tree| {
            for path in &chosen {
                bytes += rewrite(&tree.join(path))?;
            }
            Ok(())
        },
        // Every file is looked at, in the order in which they were written.
        |tool| {
            for path in &chosen {
                let made = fs::read(tool.tree(On::Laptop).join(path)).context("reading what was rewritten")?;
                until_content(&tool.tree(On::Desktop).join(path), &made, LIMIT)?;
            }
            Ok(Instant::now())
        },
    )?;
    report.cost("checkout of 2,000 files", which, cost);
    report.sample("checkout of 2,000 files: wire ÷ rewritten", which, cost.wire * 1000.0 / bytes as f64, "×");
    Ok(())
}

fn rewrite(path: &Path) -> Result<u64> {
    let old = fs::read(path).context("reading a file")?;
    let middle = old.len() / 2;
    let line = old[..middle].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    // A checkout makes the file anew under its name.
    fs::remove_file(path).context("removing a file")?;
    let mut file = File::create(path).context("making a file")?;
    file.write_all(&old[..line])?;
    file.write_all(b"    one line more, from another branch\n")?;
    file.write_all(&old[line..])?;
    Ok(file.metadata()?.len())
}

fn list(root: &Path, below: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(root.join(below)).context("listing the tree")? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(root, &path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// A directory of 5,000 files in 100 others gets another name, and goes.
pub(crate) fn rename_and_delete(which: Which, tool: &mut dyn Tool, report: &mut Report) -> Result<()> {
    let folder = tool.tree(On::Laptop).join("albums");
    for number in 0..100 {
        fs::create_dir_all(folder.join(number.to_string())).context("making a folder")?;
    }
    for number in 0..MOVED {
        write_noise(&folder.join(format!("{}/{number}.txt", number % 100)), number, 2_000)?;
    }
    let last = "99/4999.txt";
    if !tool.is_live() {
        tool.settle()?;
    }
    until_there(&tool.tree(On::Desktop).join("albums").join(last), true, LIMIT)?;
    tool.settle()?;
    Ground::flush()?;
    let cost = change(
        tool,
        |tree| fs::rename(tree.join("albums"), tree.join("pictures")).context("renaming"),
        |tool| {
            let desktop = tool.tree(On::Desktop);
            until_there(&desktop.join("pictures").join(last), true, LIMIT)?;
            until_there(&desktop.join("albums"), false, LIMIT)
        },
    )?;
    report.cost("rename of 5,000 files", which, cost);
    let cost = change(
        tool,
        |tree| fs::remove_dir_all(tree.join("pictures")).context("deleting"),
        |tool| until_there(&tool.tree(On::Desktop).join("pictures"), false, LIMIT),
    )?;
    report.cost("delete of 5,000 files", which, cost);
    assert_alike(tool)
}

/// A large file gets a KiB in its middle, 64 KiB at its end, and 4 KiB overwritten.
pub(crate) fn large(which: Which, report: &mut Report) -> Result<()> {
    let mut tool = which.set_up(None)?;
    let tool = tool.as_mut();
    write_noise(&tool.tree(On::Laptop).join("disk.raw"), 7, LARGE)?;
    tool.start()?;
    tool.settle()?;
    let path = tool.tree(On::Desktop).join("disk.raw");
    until_file(&path, LIMIT, |path| fs::metadata(path).ok().filter(|data| data.len() == LARGE))?;
    tool.settle()?;
    let cost = edit(tool, LARGE + 1024, |tree| {
        let path = tree.join("disk.raw");
        let mut bytes = fs::read(&path).context("reading the large file")?;
        bytes.splice(LARGE as usize / 2..LARGE as usize / 2, noise(1, 1024));
        fs::write(&path, bytes).context("writing the large file")
    })?;
    report.cost("1 KiB inserted in 256 MiB", which, cost);
    let cost = edit(tool, LARGE + 1024 + (64 << 10), |tree| {
        let mut file = OpenOptions::new().append(true).open(tree.join("disk.raw")).context("opening")?;
        file.write_all(&noise(2, 64 << 10)).context("appending")
    })?;
    report.cost("64 KiB appended to 256 MiB", which, cost);
    let new = noise(3, 4 << 10);
    let cost = change(
        tool,
        |tree| {
            let file = OpenOptions::new().write(true).open(tree.join("disk.raw")).context("opening")?;
            file.write_all_at(&new, 100 << 20).context("overwriting")
        },
        |tool| {
            until_file(&tool.tree(On::Desktop).join("disk.raw"), LIMIT, |path| {
                let mut found = vec![0; new.len()];
                File::open(path).and_then(|file| file.read_exact_at(&mut found, 100 << 20)).ok()?;
                Some(Instant::now()).filter(|_| found == new)
            })
        },
    )?;
    report.cost("4 KiB overwritten in 256 MiB", which, cost);
    assert_alike(tool)?;
    tool.stop()
}

fn edit(tool: &mut dyn Tool, length: u64, act: impl FnOnce(&Path) -> Result<()>) -> Result<Cost> {
    change(tool, act, |tool| {
        until_file(&tool.tree(On::Desktop).join("disk.raw"), LIMIT, |path| {
            fs::metadata(path).ok().filter(|data| data.len() == length).map(|_| Instant::now())
        })
    })
}
