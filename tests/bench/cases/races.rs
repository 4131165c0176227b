//! Both sides change the same thing while apart: what survives, and how often a person has to look.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hearth_tests::tree::{self, Entry};

use crate::report::Report;
use crate::tools::{On, Tool, Which};

/// A race in a directory of its own.
struct Race {
    name: &'static str,
    /// What both begin with.
    base: fn(&Path) -> Result<()>,
    laptop: fn(&Path) -> Result<()>,
    desktop: fn(&Path) -> Result<()>,
    /// Contents that nobody meant to be rid of, each in a live file of both or merged into one.
    lines: &'static [&'static str],
    /// Files at the end, if nobody has to look.
    files: usize,
}

const RACES: &[Race] = &[
    Race {
        name: "other lines of one text",
        base: |at| write(at, "f", "one\ntwo\nthree\nfour\nfive\n"),
        laptop: |at| write(at, "f", "one laptop\ntwo\nthree\nfour\nfive\n"),
        desktop: |at| write(at, "f", "one\ntwo\nthree\nfour\nfive desktop\n"),
        lines: &["one laptop", "five desktop"],
        files: 1,
    },
    Race {
        name: "the same line",
        base: |at| write(at, "f", "begun"),
        laptop: |at| write(at, "f", "by the laptop"),
        desktop: |at| write(at, "f", "by the desktop"),
        lines: &["by the laptop", "by the desktop"],
        files: 1,
    },
    Race {
        name: "made on both",
        base: |_| Ok(()),
        laptop: |at| write(at, "f", "laptop's"),
        desktop: |at| write(at, "f", "desktop's"),
        lines: &["laptop's", "desktop's"],
        files: 1,
    },
    Race {
        name: "made alike on both",
        base: |_| Ok(()),
        laptop: |at| write(at, "f", "alike"),
        desktop: |at| write(at, "f", "alike"),
        lines: &["alike"],
        files: 1,
    },
    Race {
        name: "edited and deleted",
        base: |at| write(at, "f", "begun"),
        laptop: |at| write(at, "f", "edited"),
        desktop: |at| Ok(fs::remove_file(at.join("f"))?),
        lines: &["edited"],
        files: 1,
    },
    Race {
        name: "edited and renamed",
        base: |at| write(at, "f", "begun"),
        laptop: |at| write(at, "f", "edited"),
        desktop: |at| Ok(fs::rename(at.join("f"), at.join("g"))?),
        lines: &["edited"],
        files: 1,
    },
    Race {
        name: "renamed to two names",
        base: |at| write(at, "f", "begun"),
        laptop: |at| Ok(fs::rename(at.join("f"), at.join("g"))?),
        desktop: |at| Ok(fs::rename(at.join("f"), at.join("h"))?),
        lines: &["begun"],
        files: 1,
    },
    Race {
        name: "edited and another mode",
        base: |at| write(at, "f", "begun"),
        laptop: |at| write(at, "f", "edited"),
        desktop: |at| Ok(fs::set_permissions(at.join("f"), Permissions::from_mode(0o700))?),
        lines: &["edited"],
        files: 1,
    },
    Race {
        name: "a directory renamed, a file new in it",
        base: |at| write(at, "d/f", "begun"),
        laptop: |at| Ok(fs::rename(at.join("d"), at.join("e"))?),
        desktop: |at| write(at, "d/g", "new"),
        lines: &["begun", "new"],
        files: 2,
    },
    Race {
        name: "a directory deleted, a file new in it",
        base: |at| write(at, "d/f", "begun"),
        laptop: |at| Ok(fs::remove_dir_all(at.join("d"))?),
        desktop: |at| write(at, "d/g", "new"),
        lines: &["new"],
        files: 1,
    },
    Race {
        name: "a file edited, a directory in its place",
        base: |at| write(at, "f", "begun"),
        laptop: |at| write(at, "f", "edited"),
        desktop: |at| {
            fs::remove_file(at.join("f"))?;
            write(at, "f/g", "in a directory")
        },
        lines: &["edited", "in a directory"],
        files: 2,
    },
];

/// Runs all at once, and counts.
pub(crate) fn measure(which: Which, report: &mut Report) -> Result<()> {
    let mut tool = which.set_up(None)?;
    let tool = tool.as_mut();
    for (number, race) in RACES.iter().enumerate() {
        (race.base)(&place(tool, On::Laptop, number)?)?;
    }
    tool.start()?;
    tool.settle_for_good()?;
    tool.stop()?;
    for (number, race) in RACES.iter().enumerate() {
        (race.laptop)(&place(tool, On::Laptop, number)?).context(race.name)?;
        (race.desktop)(&place(tool, On::Desktop, number)?).context(race.name)?;
    }
    tool.start()?;
    tool.settle_for_good()?;
    let (mut lost, mut asked) = (Vec::new(), Vec::new());
    for (number, race) in RACES.iter().enumerate() {
        let sides = [place(tool, On::Laptop, number)?, place(tool, On::Desktop, number)?];
        let found = [contents(&sides[0])?, contents(&sides[1])?];
        if race.lines.iter().any(|line| !found.iter().flatten().any(|content| content.contains(line))) {
            lost.push(race.name);
        }
        let is_alike = tree::compare(&sides[0], &sides[1], &[])?.is_empty();
        let mode = fs::metadata(sides[0].join("f")).map(|data| data.permissions().mode() & 0o777);
        let is_mode_lost = race.name == "edited and another mode" && mode.ok() != Some(0o700);
        if !is_alike || found[0].len() != race.files || is_mode_lost {
            asked.push(race.name);
        }
    }
    report.note(&format!("{}: lost on both sides: {}", which.name(), words(&lost)));
    report.note(&format!("{}: left to a person: {}", which.name(), words(&asked)));
    report.sample("races in which a content is lost", which, lost.len() as f64, "of 11");
    report.sample("races that a person has to look at", which, asked.len() as f64, "of 11");
    tool.stop()
}

fn words(names: &[&str]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

fn place(tool: &dyn Tool, on: On, number: usize) -> Result<PathBuf> {
    let place = tool.tree(on).join(format!("race {number}"));
    fs::create_dir_all(&place).context("making a place for a race")?;
    Ok(place)
}

fn write(at: &Path, name: &str, text: &str) -> Result<()> {
    let path = at.join(name);
    fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
    Ok(fs::write(path, text)?)
}

/// What the live files of a place hold.
fn contents(place: &Path) -> Result<Vec<String>> {
    let files: BTreeSet<PathBuf> = tree::read(place, &[])?
        .into_iter()
        .filter(|(_, entry)| matches!(entry, Entry::File { .. }))
        .map(|(path, _)| path)
        .collect();
    files.iter().map(|path| Ok(fs::read_to_string(place.join(path))?)).collect()
}
