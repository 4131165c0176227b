//! Nothing a person wrote reaches the relay or the wire: unique strings go into names, contents and setting values,
//! the machines do all they can do, and then the strings are looked for in everything the relay has or had.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use hearth_tests::answer::{Displaced, Invitation};
use hearth_tests::pair::{LATER, Pair, SOON, init};
use hearth_tests::tree;
use serde_json::Value;

/// What is read of a process at a time; neighbouring pieces overlap by more than any canary.
const PIECE_BYTES: usize = 4 << 20;
const OVERLAP_BYTES: usize = 512;

#[test]
fn nothing_a_person_wrote_is_found_at_the_relay_or_on_the_wire() -> Result<()> {
    let mut canaries = Canaries::default();
    let mut pair = Pair::strangers_logging("trace")?;
    let capture_file = pair.scratch().join("traffic");
    let mut capture = pair.lab.capture(&capture_file)?;

    whole_story(&mut pair, &mut canaries)?;

    let relay = pair.relay.pid().context("the relay runs")?;
    let mut found = in_memory(relay, &canaries)?;
    // This process made the canaries: that they are found in it proves the search.
    ensure!(!in_memory(std::process::id(), &canaries)?.is_empty(), "the search finds what is in a memory");

    pair.relay.stop()?;
    capture.kill()?;
    ensure!(fs::metadata(&capture_file)?.len() > 1 << 20, "the traffic was captured");
    found.extend(in_file(&capture_file, &canaries)?);
    found.extend(in_file(&pair.relay.log(), &canaries)?);
    found.extend(in_folder(&pair.relay.data(), &canaries)?);
    ensure!(found.is_empty(), "found at the relay or on the wire:\n  {}", found.join("\n  "));
    Ok(())
}

/// Everything that sends something: enrolment, names, contents, settings, renames, conflicts, restores, revocation.
fn whole_story(pair: &mut Pair, canaries: &mut Canaries) -> Result<()> {
    let relay = pair.relay.address().to_owned();
    let made = init(&pair.laptop, &relay)?;
    canaries.plant("the recovery phrase", made.phrase.clone());
    let invitation: Invitation = pair.laptop.ask(["device", "add"])?;
    let words = invitation.code.split_once('-').context("a number and words")?.1;
    canaries.plant("the words of the code", words.to_owned());
    let device = canaries.make("a device name");
    let _: Value = pair.desktop.ask(["join", &invitation.code, "--relay", &relay, "--name", &device])?;

    let (name, folder) = (canaries.make("a file name"), canaries.make("a folder name"));
    let content = canaries.make("a small content");
    pair.laptop.write(format!("{folder}/{name}.txt"), &content)?;
    let big = canaries.make("a big content");
    let big_content = [big.as_bytes().repeat(20_000), tree::noise(3, 2 << 20), big.as_bytes().to_vec()].concat();
    pair.laptop.write("big.bin", &big_content)?;
    let target = canaries.make("a link target");
    std::os::unix::fs::symlink(&target, pair.laptop.path("link"))?;
    pair.desktop.until_content(format!("{folder}/{name}.txt"), content.as_bytes(), SOON)?;
    pair.desktop.until_content("big.bin", &big_content, LATER)?;

    let font = canaries.make("a setting value");
    pair.laptop.gsettings(&["set", "org.gnome.desktop.input-sources", "xkb-options", &format!("['{font}']")])?;
    let options = format!("['{font}']");
    pair.desktop.until_setting("org.gnome.desktop.input-sources", "xkb-options", &options, SOON)?;

    let renamed = canaries.make("a name after a rename");
    fs::rename(pair.laptop.path(&folder), pair.laptop.path(&renamed))?;
    pair.desktop.until_there(format!("{renamed}/{name}.txt"), true, SOON)?;
    pair.settle(LATER)?;

    pair.lab.cable("desktop", false)?;
    let (here, there) = (canaries.make("one side of a conflict"), canaries.make("the other side"));
    pair.laptop.write(format!("{renamed}/{name}.txt"), &here)?;
    pair.desktop.write(format!("{renamed}/{name}.txt"), &there)?;
    pair.lab.cable("desktop", true)?;
    pair.settle(LATER)?;

    fs::remove_file(pair.laptop.path("big.bin"))?;
    pair.desktop.until_there("big.bin", false, SOON)?;
    pair.settle(SOON)?;
    let path = pair.desktop.home_inside().join("big.bin");
    let path = path.to_str().context("a scratch path is text")?;
    let rows: Vec<Displaced> = pair.desktop.ask(["history", path])?;
    let row = rows.first().context("the deleted file is in history")?;
    let _: Value = pair.desktop.ask(["restore", path, "--version", &row.version])?;
    pair.laptop.until_content("big.bin", &big_content, LATER)?;

    let _: Value = pair.laptop.ask(["device", "rename", &device, &canaries.make("another device name")])?;
    pair.settle(SOON)
}

/// The planted strings, in every form in which a careless program might show them.
#[derive(Default)]
struct Canaries {
    /// From what to look for to what it is.
    forms: BTreeMap<Vec<u8>, String>,
    made: u64,
}

impl Canaries {
    /// Makes a string that is nowhere else.
    fn make(&mut self, what: &str) -> String {
        self.made += 1;
        let seed = format!("{}.{}", std::process::id(), self.made);
        let canary = format!("canary{}", &blake3::hash(seed.as_bytes()).to_hex()[..24]);
        self.plant(what, canary.clone());
        canary
    }

    fn plant(&mut self, what: &str, canary: String) {
        let wide = canary.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let hex: String = canary.bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut forms =
            vec![("UTF-16", wide), ("upper-case hex", hex.to_uppercase().into_bytes()), ("hex", hex.into_bytes())];
        for skip in 0..3 {
            forms.push(("base64", base64_inner(&canary.as_bytes()[skip..])));
        }
        forms.push(("plain", canary.into_bytes()));
        self.forms.extend(forms.into_iter().map(|(form, bytes)| (bytes, format!("{what}, in {form}"))));
    }

    /// Returns what is found in these bytes.
    fn find<'a>(&'a self, bytes: &[u8]) -> Vec<&'a str> {
        // One pass over the bytes by first letters; nearly all places are ruled out by a single look.
        let mut starts = [false; 256];
        for form in self.forms.keys() {
            starts[usize::from(form[0])] = true;
        }
        let mut found = Vec::new();
        for (place, first) in bytes.iter().enumerate() {
            if starts[usize::from(*first)] {
                let here = &bytes[place..];
                found.extend(
                    self.forms.iter().filter(|(form, _)| here.starts_with(form)).map(|(_, what)| what.as_str()),
                );
            }
        }
        found
    }
}

/// The part of the base64 of a string that does not depend on what stands after it.
fn base64_inner(bytes: &[u8]) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = Vec::new();
    for group in bytes.chunks_exact(3) {
        let bits = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
        encoded.extend([18, 12, 6, 0].map(|shift| LETTERS[(bits >> shift & 63) as usize]));
    }
    encoded
}

/// Looks through all memory that a process can read or write.
fn in_memory(pid: u32, canaries: &Canaries) -> Result<Vec<String>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).context("reading a memory map")?;
    let memory = File::open(format!("/proc/{pid}/mem")).context("opening the memory of a process")?;
    let mut found = Vec::new();
    let mut read = 0;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
        if !rights.starts_with('r') || line.ends_with("[vvar]") || line.ends_with("[vsyscall]") {
            continue;
        }
        let (from, to) = range.split_once('-').context("a memory range")?;
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        let mut at = from;
        while at < to {
            let length = usize::try_from(to - at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES + OVERLAP_BYTES);
            let mut piece = vec![0; length];
            // Pages may go while we look; what is gone holds nothing.
            let Ok(length) = memory.read_at(&mut piece, at) else { break };
            read += length;
            for what in canaries.find(&piece[..length]) {
                found.push(format!("memory of {pid} at {at:x} ({line}): {what}"));
            }
            at += PIECE_BYTES as u64;
        }
    }
    ensure!(read > 1 << 20, "the memory of {pid} could be read");
    Ok(found)
}

fn in_folder(folder: &Path, canaries: &Canaries) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry?.path();
        found.extend(if path.is_dir() { in_folder(&path, canaries)? } else { in_file(&path, canaries)? });
    }
    Ok(found)
}

fn in_file(path: &Path, canaries: &Canaries) -> Result<Vec<String>> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(canaries.find(&bytes).into_iter().map(|what| format!("{}: {what}", path.display())).collect())
}
