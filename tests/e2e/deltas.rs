//! What an edit costs: bytes through the other machine's interface, for large files, small ones and many at once; and what
//! becomes of it when either side's file changes in the middle.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use hearth_tests::pair::{LATER, Pair};
use hearth_tests::tree;

const LARGE: u64 = 64 << 20;

#[test]
fn an_edit_of_a_large_file_costs_what_it_changes() -> Result<()> {
    let pair = Pair::joined_with(|laptop, _| tree::write_noise(&laptop.path("film.bin"), 1, LARGE))?;
    let file = pair.laptop.path("film.bin");

    let cost = cost(&pair, || insert(&pair, &file, LARGE / 3, &tree::noise(2, 1 << 10)))?;
    ensure!(cost < 64_000, "{cost} bytes for 1 KiB inserted");

    let cost =
        self::cost(&pair, || Ok(OpenOptions::new().append(true).open(&file)?.write_all(&tree::noise(3, 64 << 10))?))?;
    ensure!(cost < 90_000, "{cost} bytes for 64 KiB appended");

    let cost = self::cost(&pair, || {
        Ok(OpenOptions::new().write(true).open(&file)?.write_all_at(&tree::noise(4, 4 << 10), LARGE / 2)?)
    })?;
    ensure!(cost < 32_000, "{cost} bytes for 4 KiB overwritten");

    // Removed bytes leave nothing to bring but what stands where they were cut out.
    let cost = self::cost(&pair, || remove(&pair, &file, LARGE / 4, LARGE / 8))?;
    ensure!(cost < 64_000, "{cost} bytes for what was removed");
    Ok(())
}

#[test]
fn a_checkout_costs_little_of_what_it_rewrites() -> Result<()> {
    let files = 300;
    let text = |number: u64, revision: u64| -> Vec<u8> {
        let lines = if number.is_multiple_of(10) { 12_000 } else { 400 + number * 7 };
        let line = |line: u64| {
            // One line in a few hundred is another one after the checkout.
            let mark = if line % 311 == number % 311 { revision } else { 0 };
            format!("{line:06} {} {mark}\n", hex(&tree::noise(number * 100_000 + line, 12)))
        };
        (0..lines).map(line).collect::<String>().into_bytes()
    };
    let name = |number: u64| format!("work/{}/{number}.c", number % 20);
    let pair =
        Pair::joined_with(|laptop, _| (0..files).try_for_each(|number| laptop.write(name(number), text(number, 0))))?;
    let mut rewritten = 0;
    let cost = cost(&pair, || {
        for number in 0..files {
            let text = text(number, 1);
            rewritten += text.len() as u64;
            let beside = pair.scratch().join("written anew");
            fs::write(&beside, text)?;
            fs::rename(beside, pair.laptop.path(name(number)))?;
        }
        Ok(())
    })?;
    ensure!(cost * 10 < rewritten, "{cost} bytes for {rewritten} rewritten ones");
    Ok(())
}

#[test]
fn what_is_compressible_is_compressed_whatever_its_size() -> Result<()> {
    let pair = Pair::joined()?;
    let text: String = (0..200_000).map(|line| format!("{line} as people write\n")).collect();
    let cost = cost(&pair, || pair.laptop.write("large.txt", &text))?;
    ensure!(cost * 3 < text.len() as u64, "{cost} bytes for {}", text.len());
    Ok(())
}

#[test]
fn a_file_that_is_written_to_all_the_time_arrives_in_the_end() -> Result<()> {
    let pair = Pair::joined_with(|laptop, _| {
        tree::write_noise(&laptop.path("large.log"), 1, 8 << 20)?;
        laptop.write("small.log", tree::noise(2, 50_000))
    })?;
    // Both grow and are overwritten in the middle while they are on their way.
    for number in 0..200u64 {
        for (name, len) in [("large.log", 8u64 << 20), ("small.log", 50_000)] {
            let mut file = OpenOptions::new().append(true).open(pair.laptop.path(name))?;
            file.write_all(&tree::noise(number, 700))?;
            let file = OpenOptions::new().write(true).open(pair.laptop.path(name))?;
            file.write_all_at(&tree::noise(number + 7, 100), number * 7919 * 13 % len)?;
        }
    }
    pair.settle(LATER)?;
    pair.assert_alike()
}

#[test]
fn an_older_version_that_changes_in_the_middle_costs_bytes_and_no_more() -> Result<()> {
    let pair = Pair::joined_with(|laptop, _| {
        tree::write_noise(&laptop.path("image.raw"), 1, LARGE)?;
        (0..40u64).try_for_each(|number| laptop.write(format!("small/{number}.txt"), tree::noise(number, 60_000)))
    })?;
    let (here, there) = (pair.laptop.path("image.raw"), pair.desktop.path("image.raw"));
    insert(&pair, &here, LARGE / 5, b"inserted on the laptop")?;
    for number in 0..40u64 {
        insert(&pair, &pair.laptop.path(format!("small/{number}.txt")), 30_000, b"inserted on the laptop")?;
        // Not where it was told to be any more, in the middle of things.
        let small = pair.desktop.path(format!("small/{number}.txt"));
        fs::rename(&small, pair.desktop.path(format!("moved {number}.txt")))?;
        OpenOptions::new().write(true).open(&there)?.write_all_at(&tree::noise(number, 3000), number << 20)?;
    }
    pair.settle(LATER)?;
    pair.assert_alike()?;
    // Nobody saw the other's edit: both are there.
    let copies = fs::read_dir(pair.laptop.home())?.filter_map(Result::ok);
    let images = copies.filter(|entry| entry.file_name().to_string_lossy().starts_with("image")).count();
    ensure!(
        images == 2 || fs::read(&here)?.windows(22).any(|part| part == b"inserted on the laptop"),
        "an edit is gone"
    );
    for number in 0..40u64 {
        let text = pair.laptop.read(format!("moved {number}.txt"))?;
        ensure!(text.windows(22).any(|part| part == b"inserted on the laptop"), "an edit of a moved file is gone");
    }
    Ok(())
}

/// Bytes through the desktop's interface from an act of a person until both machines agree.
fn cost(pair: &Pair, act: impl FnOnce() -> Result<()>) -> Result<u64> {
    pair.settle(LATER)?;
    let before = pair.lab.traffic("desktop")?.total();
    act()?;
    pair.settle(LATER)?;
    let after = pair.lab.traffic("desktop")?.total();
    pair.assert_alike()?;
    Ok(after - before)
}

fn insert(pair: &Pair, path: &Path, at: u64, bytes: &[u8]) -> Result<()> {
    rewrite(pair, path, |old, new| {
        std::io::copy(&mut old.take(at), new)?;
        new.write_all(bytes)?;
        Ok(std::io::copy(old, new).map(drop)?)
    })
}

fn remove(pair: &Pair, path: &Path, at: u64, len: u64) -> Result<()> {
    rewrite(pair, path, |old, new| {
        std::io::copy(&mut old.take(at), new)?;
        old.seek(SeekFrom::Start(at + len))?;
        Ok(std::io::copy(old, new).map(drop)?)
    })
}

/// Writes a file anew, and puts it in the place of the old one.
fn rewrite(pair: &Pair, path: &Path, write: impl FnOnce(&mut File, &mut File) -> Result<()>) -> Result<()> {
    let beside = pair.scratch().join("written anew");
    let (mut old, mut new) = (File::open(path)?, File::create(&beside)?);
    write(&mut old, &mut new)?;
    fs::rename(&beside, path).context("putting it in place")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
