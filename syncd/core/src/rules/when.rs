//! The conditions of home rules: a line that holds only where a certain file stands.
//!
//! ```text
//! inside:NAME            the directory that the pattern matches has a regular file of this name in it
//! inside:NAME=MAGIC      the same, and the file begins with these bytes
//! beside:NAME            next to what the pattern matches stands a regular file of this name
//! beside:{NAME;NAME}     one of several
//! ```
//!
//! Says what a condition looks for and where; whether it stands there is told by [`Marks`].

use std::sync::Arc;

use hearth_schemas::item::Name;
use regex::bytes::Regex;

use super::RuleError;
use super::pattern::{Pattern, PatternError};
use crate::disk::RelPath;
use crate::marks::{Marks, Probe};
use crate::path::{above, split};

/// The condition of one line.
pub(super) struct When {
    /// As the table has it.
    pub(super) text: Arc<str>,
    /// Whether the file is in the directory, rather than next to it.
    pub(super) inside: bool,
    /// The files, by their places among all probes.
    pub(super) probes: Vec<usize>,
    regex: Regex,
}

impl When {
    /// Reads a condition, adding the files that it looks for to the probes of all lines.
    pub(super) fn parse(text: &str, pattern: &Pattern, probes: &mut Vec<Probe>) -> Result<Self, RuleError> {
        let wrong = || RuleError::When(text.to_owned());
        let (place, what) = text.split_once(':').ok_or_else(wrong)?;
        let inside = match place {
            "inside" => true,
            "beside" => false,
            _ => return Err(wrong()),
        };
        let (names, magic) = what.split_once('=').unwrap_or((what, ""));
        let names = match names.strip_prefix('{') {
            Some(listed) => listed.strip_suffix('}').ok_or_else(wrong)?.split(';').collect(),
            None => vec![names],
        };
        let mut own = Vec::new();
        for name in names {
            if Name::new(name).is_none() || name.contains(['{', '}', ';']) {
                return Err(wrong());
            }
            let probe = Probe { name: name.as_bytes().to_vec(), magic: magic.as_bytes().to_vec() };
            let known = probes.iter().position(|known| *known == probe);
            own.push(known.unwrap_or_else(|| {
                probes.push(probe);
                probes.len() - 1
            }));
        }
        let regex = Regex::new(&pattern.regex).map_err(|_| PatternError::TooLong)?;
        Ok(Self { text: Arc::from(text), inside, probes: own, regex })
    }

    /// The path of the file that makes the condition hold for a path that the pattern matches; the uppermost, where
    /// several do.
    pub(super) fn marker(&self, path: &[u8], is_dir: bool, marks: &Marks, probes: &[Probe]) -> Option<RelPath> {
        if marks.is_empty() {
            return None;
        }
        above(path).map(|dir| (dir, true)).chain([(path, is_dir)]).find_map(|(at, is_dir)| {
            let holder = match self.inside {
                true if is_dir => at,
                true => return None,
                false => split(at).0,
            };
            let held = self.probes.iter().find(|probe| marks.holds(holder, **probe))?;
            self.fits(at, is_dir).then(|| {
                let name = &probes[*held].name;
                if holder.is_empty() { name.clone() } else { [holder, b"/", name].concat() }
            })
        })
    }

    /// Whether the pattern matches this very entry.
    pub(super) fn fits(&self, path: &[u8], is_dir: bool) -> bool {
        if is_dir { self.regex.is_match(&[path, b"/"].concat()) } else { self.regex.is_match(path) }
    }
}
