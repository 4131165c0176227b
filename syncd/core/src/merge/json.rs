//! Merges JSON by structure, comments and trailing commas included; every byte of the result is one side's.
//!
//! Objects are merged by key. An array is a single value, unless it is a set of words: strings of which each occurs once,
//! and to which each side only added or from which it only removed. A member that both sides gave different values is a
//! clash. Spaces are the changed side's; of two ways to set out one thing, either will do.

mod read;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::merge::keyed::{self, Keyed, Order};
use crate::merge::sides::Sides;
use crate::merge::text::Text;
use crate::merge::{Refusal, ledger};
use read::{Document, Key, List, Member, Node, Shape};

/// Merges JSON.
pub(super) fn merge(sides: &Sides<Text<'_>>) -> Result<String, Refusal> {
    let documents = sides.try_map(|side| Document::read(side.as_str())).ok_or(Refusal::Foreign)?;
    let merged = [
        trivia(documents.as_ref().map(|document| document.lead))?,
        &join(documents.as_ref().map(|document| Some(&document.root)))?.raw,
        trivia(documents.as_ref().map(|document| document.tail))?,
    ]
    .concat();
    let said = Document::read(&merged).ok_or(Refusal::Clash)?;
    let comments = documents.as_ref().map(|document| document.comments.clone());
    let mut paths = Paths::default();
    let facts = documents.as_ref().map(|document| paths.facts(&document.root));
    if ledger::balances(comments, said.comments.clone()) && ledger::balances(facts, paths.facts(&said.root)) {
        Ok(merged)
    } else {
        Err(Refusal::Clash)
    }
}

fn join<'t>(sides: Sides<Option<&Node<'t>>>) -> Result<Node<'t>, Refusal> {
    if let Some(Some(raw)) = sides.map(|side| side.map(|node| &node.raw)).pick() {
        return Ok(Node { raw: raw.clone(), shape: Shape::Scalar });
    }
    let Sides { base, x: Some(x), y: Some(y) } = sides else { return Err(Refusal::Clash) };
    let was = base.map_or(&Shape::Scalar, |base| &base.shape);
    match (was, &x.shape, &y.shape) {
        (was, Shape::Object(left), Shape::Object(right)) => {
            let empty = List::default();
            let base = if let Shape::Object(base) = was { base } else { &empty };
            list(Sides { base, x: left, y: right }, Order::IsFree, ["{", "}"])
        }
        (Shape::Array(base), Shape::Array(left), Shape::Array(right)) if are_sets(base, left, right) => {
            list(Sides { base, x: left, y: right }, Order::Matters, ["[", "]"])
        }
        _ => {
            let same = |side: &Node<'_>| base.is_some_and(|base| side.says_the_same(base));
            match () {
                () if x.says_the_same(y) || same(y) => Ok(x.clone()),
                () if same(x) => Ok(y.clone()),
                () => Err(Refusal::Clash),
            }
        }
    }
}

fn list<'t>(sides: Sides<&List<'t>>, order: Order, [begin, end]: [&str; 2]) -> Result<Node<'t>, Refusal> {
    let members = keyed::merge(sides.map(|side| side.members.as_slice()), order)?;
    let comma = sides.map(|side| side.comma).pick().unwrap_or_default();
    let mut raw = [begin, trivia(sides.map(|side| side.open))?].concat();
    let last = members.len().saturating_sub(1);
    for (at, member) in members.iter().enumerate() {
        raw.push_str(&member.lead);
        raw.push_str(&member.key.as_ref().map_or(Cow::default(), |key| key.raw.clone()));
        raw.push_str(&member.value.raw);
        raw.push_str(if at < last || comma { "," } else { "" });
        raw.push_str(&member.trail);
    }
    raw.push_str(trivia(sides.map(|side| side.close))?);
    raw.push_str(end);
    Ok(Node { raw: Cow::Owned(raw), shape: Shape::Scalar })
}

/// Whether arrays can be merged as sets. A side that put one word in another's place may well mean a position.
fn are_sets(base: &List<'_>, x: &List<'_>, y: &List<'_>) -> bool {
    let words = |list: &List<'_>| -> Option<BTreeSet<String>> {
        let words: BTreeSet<String> = list.members.iter().map(|member| member.value.word()).collect::<Option<_>>()?;
        (words.len() == list.members.len()).then_some(words)
    };
    let (Some(base), Some(x), Some(y)) = (words(base), words(x), words(y)) else { return false };
    [x, y].iter().all(|side| side.is_superset(&base) || side.is_subset(&base))
}

/// Merges what stands between the values: spaces and comments.
fn trivia<'t, T: AsRef<str> + PartialEq + Clone + 't>(sides: Sides<T>) -> Result<T, Refusal> {
    if let Some(picked) = sides.clone().pick() {
        return Ok(picked);
    }
    let bare = sides.as_ref().map(|side| read::bare(side.as_ref()));
    match () {
        () if bare.x == bare.y || bare.y == bare.base => Ok(sides.x),
        () if bare.x == bare.base => Ok(sides.y),
        () => Err(Refusal::Clash),
    }
}

impl Keyed for Member<'_> {
    type Id = String;

    fn id(&self) -> Self::Id {
        self.key.as_ref().map_or_else(|| self.value.word().unwrap_or_default(), |key| key.name.clone())
    }

    fn says_the_same(&self, other: &Self) -> bool {
        let bare = |member: &Self| [read::bare(&member.lead), read::bare(&member.trail)];
        bare(self) == bare(other) && self.value.says_the_same(&other.value)
    }

    fn join(sides: Sides<Option<&Self>>) -> Result<Self, Refusal> {
        let part = |part: fn(&Self) -> &Cow<'_, str>| {
            trivia(sides.map(|side| side.map_or(Cow::Borrowed(""), |member| Cow::Owned(part(member).to_string()))))
        };
        let (lead, trail) = (part(|member| &member.lead)?, part(|member| &member.trail)?);
        let value = join(sides.map(|side| side.map(|member| &member.value)))?;
        let key = sides.map(|side| side.and_then(|member| member.key.clone()));
        let key = Sides { base: key.base, x: key.x.clone(), y: key.y }.pick().flatten().or(key.x);
        Ok(Self { lead, key, value, trail })
    }
}

/// Numbers for the places in documents, so that a deep place costs no more than a shallow one.
#[derive(Default)]
struct Paths {
    numbers: BTreeMap<(usize, String), usize>,
}

impl Paths {
    /// Every scalar of a document, with its place. Elements of one array have the same place.
    fn facts(&mut self, root: &Node<'_>) -> Vec<(usize, String)> {
        let mut facts = Vec::new();
        let mut open = vec![(0, root)];
        while let Some((place, node)) = open.pop() {
            let list = match &node.shape {
                Shape::Scalar => {
                    facts.push((place, node.raw.to_string()));
                    continue;
                }
                Shape::Object(list) | Shape::Array(list) => list,
            };
            for member in &list.members {
                let name = member.key.as_ref().map_or_else(String::new, |Key { name, .. }| format!(".{name}"));
                let next = self.numbers.len() + 1;
                let number = *self.numbers.entry((place, name)).or_insert(next);
                open.push((number, &member.value));
            }
        }
        facts
    }
}
