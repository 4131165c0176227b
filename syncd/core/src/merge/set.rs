//! Merges a file that is a set of lines, or of records of a few lines: their union, less what either side removed.
//!
//! The inputs' order is kept as far as the two agree. The same line several times is several elements. An edited line is
//! one removed and one added, so two edits of one line are both kept.

use std::collections::BTreeMap;

use crate::merge::Refusal;
use crate::merge::keyed::{self, Order};
use crate::merge::lines::finish;
use crate::merge::outline::{Element, lead};
use crate::merge::sides::Sides;
use crate::merge::text::{Text, is_blank};

/// What the elements of a set are, and whether their order says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Lines in any order: known hosts, words, bookmarks.
    Lines,
    /// Lines of which a later one may take back an earlier one: what to ignore.
    OrderedLines,
    /// Commands that were typed, with the times and further lines that belong to them.
    History,
}

/// The elements of a file, and the blank lines below the last one.
struct Set<'t> {
    elements: Vec<Element<'t>>,
    tail: Vec<&'t str>,
}

/// Merges sets.
pub(super) fn merge(kind: Kind, sides: &Sides<Text<'_>>) -> Result<String, Refusal> {
    let order = match kind {
        Kind::Lines | Kind::History => Order::IsFree,
        Kind::OrderedLines => Order::Matters,
    };
    let sets = sides.map(|side| read(kind, side.lines()));
    let elements = keyed::merge(sides_of(&sets, |set| &set.elements), order)?;
    let tail = lead(sides_of(&sets, |set| &set.tail))?;
    let lines: Vec<&str> =
        elements.into_iter().flat_map(|element| element.lead.into_iter().chain(element.body)).chain(tail).collect();
    finish(sides, &lines)
}

fn sides_of<'s, 't, T>(sets: &'s Sides<Set<'t>>, part: fn(&'s Set<'t>) -> &'s Vec<T>) -> Sides<&'s [T]> {
    sets.as_ref().map(|set| part(set).as_slice())
}

fn read(kind: Kind, lines: Vec<&str>) -> Set<'_> {
    let mut set = Set { elements: Vec::new(), tail: Vec::new() };
    for line in lines {
        match set.elements.last_mut() {
            Some(last) if kind == Kind::History && set.tail.is_empty() && continues(&last.body, line) => {
                last.body.push(line);
            }
            Some(_) | None if is_blank(line) => set.tail.push(line),
            Some(_) | None => {
                let id = (String::new(), 0);
                set.elements.push(Element { id, lead: std::mem::take(&mut set.tail), body: vec![line] });
            }
        }
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for element in &mut set.elements {
        let text = element.body.join("\n");
        let count = seen.entry(text.clone()).or_default();
        element.id = (text, *count);
        *count += 1;
    }
    set
}

/// Whether a line of a history belongs to the command above it.
fn continues(command: &[&str], line: &str) -> bool {
    let stamped = |line: &str| line.strip_prefix('#').is_some_and(|rest| rest.parse::<u64>().is_ok());
    let first = command.first().copied().unwrap_or_default();
    let last = command.last().copied().unwrap_or_default();
    let record = first.starts_with("- cmd:") && line.starts_with(' ');
    record || last.ends_with('\\') || (stamped(first) && !stamped(line))
}
