//! Home rules: which path travels, and why.
//!
//! ```text
//! hard stop? ─no→ the person's rules (machine, then account) → drop-ins → home-rules.csv      first match wins
//!           └yes→ ────────────────────────────────────────→ drop-ins → home-rules.csv, never a travelling class
//! ```
//!
//! [`HomeRules::decide`] names the line for one path. Whether the path travels is more than its class: a directory
//! is entered also where only something below it may travel, and what is not anchored at the home (`*.iso`) is not
//! looked for inside a directory that is left alone. A line of a table may have a condition, that a certain file stands
//! in the directory or next to it; which of those files are here is told by [`Marks`]. What must be looked at otherwise
//! (sockets, mounts) is the walker's business. `special:` classes have handlers of their own; [`Class::travels`] says
//! which of them are also right as plain files.

mod pattern;
mod when;

use std::fmt;
use std::sync::Arc;

use regex::bytes::{RegexSet, RegexSetBuilder};
use serde::{Deserialize, Serialize};

use pattern::Pattern;
pub use pattern::PatternError;
use when::When;

use crate::marks::{Marks, Probe};
use crate::path::above;
use crate::select::Select;
use crate::table;

const SHIPPED: &str = include_str!("../../policy/home-rules.csv");
/// Room for the automaton that is built while matching, in bytes.
const MATCHER_BYTES: usize = 64 << 20;

/// How a path is treated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Class {
    /// The same on all machines.
    Shared,
    /// The same on all machines, merged by lines.
    MergeLines,
    /// The same on all machines, merged by the keys of a key file.
    MergeKeyfile,
    /// The same on all machines, a directory united by its entries.
    MergeDir,
    /// Something that a setting names: a font, a theme, a picture.
    Asset,
    /// Belongs to a program; travels whether or not the program is here.
    AppGated,
    /// One per kind of machine; stays.
    FormFactor,
    /// One per machine; stays.
    Device,
    /// Must not leave the machine.
    Never,
    /// Not worth keeping anywhere; stays.
    Ignore,
    /// Stays until the person decides.
    Ask,
    /// Belongs to a handler.
    Special(Handler),
}

/// Who looks after a `special:` path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handler {
    name: &'static str,
    as_files: bool,
}

/// The handlers, and whether the files are also right as plain files: harmless where they arrive, without paths of
/// one machine in them, and not a database that a program holds open.
const HANDLERS: &[(&str, bool)] = &[
    ("autostart", true),
    ("avatar", true),
    ("binaries", true),
    // Locks never travel; the order of the files, and what becomes of two versions, is seen to by path.
    ("git", true),
    ("mimeapps", true),
    ("units", true),
    // Full of the home's own absolute path.
    ("bookmarks", false),
    ("xdg-dirs", false),
    // Databases, device identities, or what each machine makes anew.
    ("browser", false),
    ("eds-data", false),
    ("eds-sources", false),
    ("extensions", false),
    ("flatpak-list", false),
    ("gnupg", false),
    ("goa", false),
    ("mail", false),
    ("network", false),
    ("settings", false),
    ("sqlite", false),
];

impl Class {
    const WORDS: &[(&str, Self)] = &[
        ("shared", Self::Shared),
        ("merge:lines", Self::MergeLines),
        ("merge:keyfile", Self::MergeKeyfile),
        ("merge:dir", Self::MergeDir),
        ("asset", Self::Asset),
        ("app-gated", Self::AppGated),
        ("form-factor", Self::FormFactor),
        ("device", Self::Device),
        ("never", Self::Never),
        ("ignore", Self::Ignore),
        ("ask", Self::Ask),
    ];

    /// The class with this name.
    ///
    /// # Errors
    /// When there is none; the message lists those a person may choose.
    pub fn parse(word: &str) -> Result<Self, RuleError> {
        if let Some(name) = word.strip_prefix("special:") {
            let handler = HANDLERS.iter().find(|handler| handler.0 == name);
            let &(name, as_files) = handler.ok_or_else(|| RuleError::Class(word.to_owned()))?;
            return Ok(Self::Special(Handler { name, as_files }));
        }
        let known = Self::WORDS.iter().find(|known| known.0 == word);
        known.map(|known| known.1.clone()).ok_or_else(|| RuleError::Class(word.to_owned()))
    }

    /// Whether files of this class are synced.
    pub fn travels(&self) -> bool {
        match self {
            Self::Shared | Self::MergeLines | Self::MergeKeyfile | Self::MergeDir | Self::Asset | Self::AppGated => {
                true
            }
            Self::FormFactor | Self::Device | Self::Never | Self::Ignore | Self::Ask => false,
            Self::Special(handler) => handler.as_files,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Special(handler) => write!(f, "special:{}", handler.name),
            plain => {
                let word = Self::WORDS.iter().find(|known| known.1 == *plain);
                f.write_str(word.expect("every plain class has a word").0)
            }
        }
    }
}

/// Whose line it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The person's, for this machine, written on this machine.
    Machine,
    /// The person's, kept in the account; for one machine if it names one.
    Account,
}

/// Where the deciding line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// What the product ships, or this module where a line cannot say it.
    Shipped,
    /// The person's rules in the account.
    Account,
    /// The person's rules or the drop-ins of this machine.
    Machine,
}

impl Source {
    /// The word that the bus uses.
    pub fn word(self) -> &'static str {
        match self {
            Self::Shipped => "shipped",
            Self::Account => "account",
            Self::Machine => "machine",
        }
    }
}

/// A rule of the person.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Override {
    /// Which paths.
    pub pattern: String,
    /// How they are treated; a word that [`Class::parse`] knows.
    pub class: String,
    /// The machine it is for; empty for all of them.
    pub on: String,
    /// Why, for the person.
    pub note: String,
    /// Where it is kept.
    pub scope: Scope,
}

impl Override {
    /// Checks pattern and class.
    ///
    /// # Errors
    /// What is wrong, in words for the person.
    pub fn check(&self) -> Result<(), RuleError> {
        Pattern::parse(&self.pattern)?;
        match Class::parse(&self.class)? {
            Class::Special(_) => Err(RuleError::Class(self.class.clone())),
            _ => Ok(()),
        }
    }
}

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// No such class, or not one that a person can choose.
    #[error(
        "`{0}` is not a class; choose shared, never, ignore, device, ask, app-gated, asset, form-factor, merge:lines, \
         merge:keyfile or merge:dir"
    )]
    Class(String),
    /// A condition that is none.
    #[error(
        "`{0}` is not a condition; one is written `inside:NAME`, `inside:NAME=BEGINNING` or `beside:{{NAME;NAME}}`"
    )]
    When(String),
    /// A condition that lets something travel: whether it does must not depend on what stands on one disk.
    #[error("a line with a condition can only keep things here, and `{0}` travels")]
    Travelling(String),
    /// A wrong line of a table.
    #[error("line {line} of the rules, `{pattern}`: {what}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// Its pattern.
        pattern: String,
        /// What is wrong with it.
        what: Box<Self>,
    },
    /// A table that is not one.
    #[error("line {line} of the rules has not the columns pattern, class, reason and, if it has a fourth, when")]
    Columns {
        /// Counted from 1.
        line: u64,
    },
}

/// What was decided about one path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// How it is treated.
    pub class: Class,
    /// The pattern that decided.
    pub pattern: Arc<str>,
    /// Why.
    pub reason: Arc<str>,
    /// Whose line it is.
    pub source: Source,
    /// The line in its file, from 1; `None` for rules that are not in a file.
    pub line: Option<u64>,
    /// The condition of that line.
    pub when: Option<Arc<str>>,
    /// The file that makes the condition hold, relative to the home.
    pub marker: Option<Vec<u8>>,
}

struct Line {
    pattern: Pattern,
    decision: Decision,
    travels: bool,
    when: Option<When>,
}

/// All rules of one machine.
pub struct HomeRules {
    lines: Vec<Line>,
    probes: Vec<Probe>,
    set: RegexSet,
    /// How many lines come first that a hard stop passes over.
    personal: usize,
    own_dirs: Vec<Vec<u8>>,
}

impl HomeRules {
    /// The rules as they ship.
    pub fn shipped() -> Self {
        Self::new(Vec::new(), Vec::new(), Vec::new(), "").expect("the shipped rules are tested")
    }

    /// The rules of one machine.
    ///
    /// `own_dirs` are the directories of the product itself, relative to the home: nothing in them travels.
    /// `overrides` are the person's rules; those for another machine than `device_name` do not count here.
    /// `dropins` are the texts of tables with the columns of `home-rules.csv`.
    ///
    /// # Errors
    /// On the first rule that is wrong; nothing is left out in silence.
    pub fn new(
        own_dirs: Vec<Vec<u8>>,
        overrides: Vec<Override>,
        dropins: Vec<String>,
        device_name: &str,
    ) -> Result<Self, RuleError> {
        let mut lines = Vec::new();
        let mut personal: Vec<&Override> =
            overrides.iter().filter(|rule| rule.on.is_empty() || rule.on == device_name).collect();
        // Narrower first: this machine's file, the account for this machine, the account. The latest wins among equals.
        personal.reverse();
        personal.sort_by_key(|rule| (rule.scope, rule.on.is_empty()));
        for rule in &personal {
            rule.check()?;
            let class = Class::parse(&rule.class)?;
            let source = match rule.scope {
                Scope::Account => Source::Account,
                Scope::Machine => Source::Machine,
            };
            let reason = if rule.note.is_empty() { "your own rule" } else { &rule.note };
            lines.push(Line::new(&rule.pattern, class, reason, source, None)?);
        }
        let personal = lines.len();
        let mut probes = Vec::new();
        for dropin in &dropins {
            read_table(dropin, Source::Machine, &mut lines, &mut probes)?;
        }
        read_table(SHIPPED, Source::Shipped, &mut lines, &mut probes)?;
        let set = RegexSetBuilder::new(lines.iter().map(|line| line.pattern.regex.as_str()))
            .size_limit(MATCHER_BYTES)
            .dfa_size_limit(MATCHER_BYTES)
            .build()
            .map_err(|_| PatternError::TooLong)?;
        Ok(Self { lines, probes, set, personal, own_dirs })
    }

    /// The line that decides about a path, which is relative to the home and joined with `/`.
    ///
    /// That a class travels does not say yet that the path does: see [`Select::travels`].
    pub fn decide(&self, path: &[u8], is_dir: bool, marks: &Marks) -> Decision {
        let stop = self.hard_stop(path);
        let index = self.first(path, is_dir, stop.is_some(), marks);
        let line = &self.lines[index];
        let marker = line.when.as_ref().and_then(|when| when.marker(path, is_dir, marks, &self.probes));
        let decision = Decision { marker, ..line.decision.clone() };
        match stop {
            Some(reason) if decision.class.travels() => Decision {
                class: Class::Never,
                pattern: Arc::from(String::from_utf8_lossy(path)),
                reason: Arc::from(reason),
                source: Source::Shipped,
                line: None,
                when: None,
                marker: None,
            },
            _ => decision,
        }
    }

    /// The line to name when somebody asks why a path travels or stays: its own, or that of the directory above it
    /// that is not entered.
    pub fn explain(&self, path: &[u8], is_dir: bool, marks: &Marks) -> Decision {
        let decision = self.decide(path, is_dir, marks);
        if !decision.class.travels() || self.travels(path, is_dir, marks) {
            return decision;
        }
        let shut = above(path).find(|above| !self.open(above, true, marks).0);
        shut.map_or(decision, |above| self.decide(above, true, marks))
    }

    fn first(&self, path: &[u8], is_dir: bool, stopped: bool, marks: &Marks) -> usize {
        let matches = match is_dir {
            true => {
                let mut folder = Vec::with_capacity(path.len() + 1);
                folder.extend_from_slice(path);
                folder.push(b'/');
                self.set.matches(&folder)
            }
            false => self.set.matches(path),
        };
        let skip = if stopped { self.personal } else { 0 };
        let holds = |index: usize| match &self.lines[index].when {
            Some(when) => when.marker(path, is_dir, marks, &self.probes).is_some(),
            None => true,
        };
        let mut holding = matches.iter().filter(|&index| index >= skip && holds(index));
        holding.next().expect("the last shipped line takes everything")
    }

    /// Why no rule can make this path travel, if that is so.
    fn hard_stop(&self, path: &[u8]) -> Option<&'static str> {
        if self.own_dirs.iter().any(|dir| below(path, dir)) {
            return Some("belongs to the sync itself");
        }
        // Cheap: names that begin so are rare.
        if path.split(|&byte| byte == b'/').any(|name| name.starts_with(b".hearth-")) {
            return Some("unfinished file of the sync itself");
        }
        if path.first() != Some(&b'.') {
            return None;
        }
        const DIRS: &[(&[u8], &str)] = &[
            (b".config/dconf", "a settings database; its keys travel, the file never"),
            (b".local/share/keyrings", "key rings stay on their machine"),
            (b".local/share/kwalletd", "key rings stay on their machine"),
            (b".gnupg/private-keys-v1.d", "private keys stay on their machine"),
            (b".gnupg/openpgp-revocs.d", "private keys stay on their machine"),
            (b".config/hearth", "belongs to the sync itself"),
            (b".local/share/hearth", "belongs to the sync itself"),
            (b".local/state/hearth", "belongs to the sync itself"),
            (b".cache/hearth", "belongs to the sync itself"),
        ];
        if let Some((_, reason)) = DIRS.iter().find(|(dir, _)| below(path, dir)) {
            return Some(reason);
        }
        let name = path.strip_prefix(b".ssh/")?.split(|&byte| byte == b'/').next()?;
        if name.starts_with(b"authorized_keys") {
            return Some("a sync never lets anybody log in");
        }
        let private = (name.starts_with(b"id_") && !name.ends_with(b".pub")) || name.ends_with(b".pem");
        private.then_some("private keys stay on their machine")
    }

    /// Whether a directory is entered, and an entry taken that lies in entered directories.
    fn open(&self, path: &[u8], is_dir: bool, marks: &Marks) -> (bool, usize) {
        let stop = self.hard_stop(path);
        let index = self.first(path, is_dir, stop.is_some(), marks);
        let line = &self.lines[index];
        if stop.is_some() {
            // Exact: a file of ours that a shipped line lets travel stays as well.
            return (false, index);
        }
        let open = line.travels || (is_dir && self.reaches_below(index, path));
        (open, index)
    }

    fn reaches_below(&self, index: usize, dir: &[u8]) -> bool {
        self.lines[..index].iter().any(|line| line.travels && line.pattern.reaches_below(dir))
    }
}

impl Select for HomeRules {
    fn travels(&self, path: &[u8], is_dir: bool, marks: &Marks) -> bool {
        if path.is_empty() {
            return true;
        }
        let (open, index) = self.open(path, is_dir, marks);
        if !open || self.lines[index].pattern.anchored() || index + 1 == self.lines.len() {
            // An anchored line that wins here was seen from every directory above.
            return open;
        }
        above(path).all(|dir| self.open(dir, true, marks).0)
    }

    fn probes(&self) -> &[Probe] {
        &self.probes
    }

    fn probes_inside(&self, dir: &[u8]) -> Vec<usize> {
        let conditions = self.lines.iter().filter_map(|line| line.when.as_ref());
        let mut probes: Vec<usize> = conditions
            .filter(|when| when.inside && when.fits(dir, true))
            .flat_map(|when| when.probes.iter().copied())
            .collect();
        probes.sort_unstable();
        probes.dedup();
        probes
    }
}

impl Line {
    fn new(pattern: &str, class: Class, reason: &str, source: Source, line: Option<u64>) -> Result<Self, PatternError> {
        let travels = class.travels();
        let decision = Decision {
            class,
            pattern: Arc::from(pattern),
            reason: Arc::from(reason),
            source,
            line,
            when: None,
            marker: None,
        };
        Ok(Self { pattern: Pattern::parse(pattern)?, decision, travels, when: None })
    }

    /// The line with a condition.
    fn only_when(mut self, text: &str, probes: &mut Vec<Probe>) -> Result<Self, RuleError> {
        if self.travels {
            return Err(RuleError::Travelling(self.decision.class.to_string()));
        }
        let when = When::parse(text, &self.pattern, probes)?;
        self.decision.when = Some(Arc::clone(&when.text));
        self.when = Some(when);
        Ok(self)
    }
}

fn below(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

fn read_table(text: &str, source: Source, into: &mut Vec<Line>, probes: &mut Vec<Probe>) -> Result<(), RuleError> {
    let columns = ["pattern", "class", "reason"];
    let rows = table::rows_with_optional(text, &columns, "when").map_err(|line| RuleError::Columns { line })?;
    for row in rows {
        let [pattern, class, reason, when] = [0, 1, 2, 3].map(|column| row.get(column));
        let line = row.line;
        let mut parse = || {
            let parsed = Line::new(pattern, Class::parse(class)?, reason, source, Some(line))?;
            if when.is_empty() { Ok(parsed) } else { parsed.only_when(when, probes) }
        };
        into.push(parse().map_err(|what| RuleError::Line {
            line,
            pattern: pattern.to_owned(),
            what: Box::new(what),
        })?);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
