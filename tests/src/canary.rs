//! Unique strings, and the search for them in whatever is not to have them: memory, files, traffic.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// What is read of a process at a time; neighbouring pieces overlap by more than any canary.
const PIECE_BYTES: usize = 4 << 20;
const OVERLAP_BYTES: usize = 512;

/// The planted strings, in every form in which a careless program might show them.
#[derive(Debug, Default)]
pub struct Canaries {
    /// From what to look for to what it is.
    forms: BTreeMap<Vec<u8>, String>,
    made: u64,
}

impl Canaries {
    /// Makes a string that is nowhere else.
    pub fn make(&mut self, what: &str) -> String {
        self.made += 1;
        let seed = format!("{}.{}", std::process::id(), self.made);
        let canary = format!("canary{}", &blake3::hash(seed.as_bytes()).to_hex()[..24]);
        self.plant(what, canary.clone());
        canary
    }

    /// Looks for a string that there is.
    pub fn plant(&mut self, what: &str, canary: String) {
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
    pub fn find<'a>(&'a self, bytes: &[u8]) -> Vec<&'a str> {
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
pub fn in_memory(pid: u32, canaries: &Canaries) -> Result<Vec<String>> {
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

/// Looks through all files of a folder.
pub fn in_folder(folder: &Path, canaries: &Canaries) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry?.path();
        found.extend(if path.is_dir() { in_folder(&path, canaries)? } else { in_file(&path, canaries)? });
    }
    Ok(found)
}

/// Looks through a file.
pub fn in_file(path: &Path, canaries: &Canaries) -> Result<Vec<String>> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(canaries.find(&bytes).into_iter().map(|what| format!("{}: {what}", path.display())).collect())
}
