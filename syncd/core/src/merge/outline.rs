//! A configuration file as sections of entries, each with the comments above it; merged by name.
//!
//! Readers of a format ([`crate::merge::keyfile`], [`crate::merge::toml`]) build an [`Outline`] of lines, and get merged
//! lines back. Comments and blank lines lead the entry or header below them, and go where it goes; what follows the last
//! entry is the tail. No line is changed, and none is made.

use std::collections::BTreeSet;

use crate::merge::Refusal;
use crate::merge::diff3::diff3;
use crate::merge::keyed::{self, Keyed, Order};
use crate::merge::sides::Sides;
use crate::merge::text::is_blank;

/// An entry or header, with the lines that lead it.
#[derive(Debug, Clone)]
pub(super) struct Element<'t> {
    /// Its key, and the how many-th of that key it is; keys of an outline are unique.
    pub(super) id: (String, usize),
    pub(super) lead: Vec<&'t str>,
    pub(super) body: Vec<&'t str>,
}

#[derive(Debug, Clone)]
struct Section<'t> {
    header: Element<'t>,
    entries: Vec<Element<'t>>,
}

/// A file as sections; the first one has no header, and may be empty.
#[derive(Debug)]
pub(super) struct Outline<'t> {
    sections: Vec<Section<'t>>,
    /// Comments and blank lines below the last entry, or above the next one while reading.
    tail: Vec<&'t str>,
}

impl<'t> Outline<'t> {
    /// An outline to be filled from the top.
    pub(super) fn new() -> Self {
        let header = Element { id: (String::new(), 0), lead: Vec::new(), body: Vec::new() };
        Self { sections: vec![Section { header, entries: Vec::new() }], tail: Vec::new() }
    }

    /// Takes a comment or blank line.
    pub(super) fn push_lead(&mut self, line: &'t str) {
        self.tail.push(line);
    }

    /// Takes the header of a section.
    pub(super) fn push_header(&mut self, name: String, line: &'t str) {
        // Counted from one, so that no name is taken for the section without a header.
        let header = Element { id: (name, 1), lead: std::mem::take(&mut self.tail), body: vec![line] };
        self.sections.push(Section { header, entries: Vec::new() });
    }

    /// Takes an entry of the section begun last.
    pub(super) fn push_entry(&mut self, key: String, lines: Vec<&'t str>) {
        let entry = Element { id: (key, 0), lead: std::mem::take(&mut self.tail), body: lines };
        self.sections.last_mut().expect("a new outline has one section").entries.push(entry);
    }

    /// Whether a header has been taken.
    pub(super) fn has_header(&self) -> bool {
        self.sections.len() > 1
    }

    /// Whether every section of the file, and every entry of a section, has a name of its own.
    pub(super) fn is_unique(&self) -> bool {
        let mut headers = BTreeSet::new();
        self.sections.iter().all(|section| {
            let mut keys = BTreeSet::new();
            headers.insert(&section.header.id) && section.entries.iter().all(|entry| keys.insert(&entry.id))
        })
    }
}

/// Merges outlines to lines.
pub(super) fn merge<'t>(sides: &Sides<Outline<'t>>) -> Result<Vec<&'t str>, Refusal> {
    let sections = keyed::merge(sides.as_ref().map(|side| side.sections.as_slice()), Order::Matters)?;
    let mut lines = Vec::new();
    for section in sections {
        for element in std::iter::once(section.header).chain(section.entries) {
            lines.extend(element.lead);
            lines.extend(element.body);
        }
    }
    lines.extend(lead(sides.as_ref().map(|side| side.tail.as_slice()))?);
    Ok(lines)
}

/// Merges comments and blank lines. Of blank lines alone, the longer run will do.
pub(super) fn lead<'t>(sides: Sides<&[&'t str]>) -> Result<Vec<&'t str>, Refusal> {
    let blank = |lines: &[&str]| lines.iter().all(|line| is_blank(line));
    match sides.pick() {
        Some(lines) => Ok(lines.to_vec()),
        None if blank(sides.x) && blank(sides.y) => {
            Ok([sides.x, sides.y][usize::from(sides.y.len() > sides.x.len())].to_vec())
        }
        None => diff3(sides),
    }
}

impl Keyed for Element<'_> {
    type Id = (String, usize);

    fn id(&self) -> Self::Id {
        self.id.clone()
    }

    fn says_the_same(&self, other: &Self) -> bool {
        let words = |element: &Self| -> Vec<String> {
            element.lead.iter().filter(|line| !is_blank(line)).map(|line| (*line).to_owned()).collect()
        };
        self.body == other.body && words(self) == words(other)
    }

    fn join(sides: Sides<Option<&Self>>) -> Result<Self, Refusal> {
        let body = sides.map(|side| side.map(|element| &element.body)).pick().flatten().ok_or(Refusal::Clash)?;
        let lead = lead(sides.map(|side| side.map_or(&[][..], |element| &element.lead)))?;
        let id = sides.x.ok_or(Refusal::Clash)?.id();
        Ok(Self { id, lead, body: body.clone() })
    }
}

impl Keyed for Section<'_> {
    type Id = (String, usize);

    fn id(&self) -> Self::Id {
        self.header.id()
    }

    fn says_the_same(&self, other: &Self) -> bool {
        let entries = || self.entries.iter().zip(&other.entries);
        self.header.says_the_same(&other.header)
            && self.entries.len() == other.entries.len()
            && entries().all(|(entry, other)| entry.id == other.id && entry.says_the_same(other))
    }

    fn join(sides: Sides<Option<&Self>>) -> Result<Self, Refusal> {
        let header = Element::join(sides.map(|side| side.map(|section| &section.header)))?;
        let entries = sides.map(|side| side.map_or(&[][..], |section| &section.entries));
        Ok(Self { header, entries: keyed::merge(entries, Order::Matters)? })
    }
}
