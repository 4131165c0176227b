//! The text files of a repository that say where commits are: `packed-refs`, and the logs of refs.
//!
//! Both are merged so that no commit is lost: a ref that two machines moved keeps one value, and the other one gets a ref of
//! its own; of a log, the lines of both. Both merges are functions of the three contents in which swapping the sides changes
//! nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::conflict;
use crate::git::{Part, is_hex, place};
use crate::merge::Sides;

/// What git writes at the head of the file if it has to say nothing of it.
const HEADER: &str = "# pack-refs with:";
/// Whom a packed ref is told to be of where nobody knows who wrote the file.
const SOMEBODY: &str = "packed";

/// A file that is merged as git means it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Refs in one file.
    PackedRefs,
    /// What a ref was.
    Log,
}

/// How a file is merged; `None` if it is none of these.
pub fn format_of(path: &[u8]) -> Option<Format> {
    match place(path)?.part {
        Part::PackedRefs => Some(Format::PackedRefs),
        Part::Log => Some(Format::Log),
        _ => None,
    }
}

/// Brings two changed contents together; `None` if either is not of the format.
pub fn merge(format: Format, sides: Sides<&[u8]>) -> Option<Vec<u8>> {
    let sides = sides.try_map(|bytes| std::str::from_utf8(bytes).ok())?;
    match format {
        Format::PackedRefs => merge_packed(sides).map(String::into_bytes),
        Format::Log => merge_logs(sides).map(String::into_bytes),
    }
}

/// The refs of a file of packed refs.
#[derive(Default, Debug)]
pub struct Packed<'t> {
    header: Option<&'t str>,
    /// By name: the id, and what a tag leads to.
    refs: BTreeMap<&'t str, (&'t str, Option<&'t str>)>,
}

impl<'t> Packed<'t> {
    /// Reads a file of packed refs; `None` if it is not one.
    pub fn read(text: &'t str) -> Option<Self> {
        let mut packed = Self::default();
        let mut last = None;
        if !text.is_empty() && !text.ends_with('\n') {
            return None;
        }
        for (at, line) in text.lines().enumerate() {
            if line.starts_with('#') {
                if at > 0 {
                    return None;
                }
                packed.header = Some(line);
            } else if let Some(peeled) = line.strip_prefix('^') {
                is_id(peeled).then_some(())?;
                let (_, leads_to): &mut (&str, Option<&str>) = packed.refs.get_mut(last.take()?)?;
                *leads_to = Some(peeled);
            } else {
                let (id, name) = line.split_once(' ')?;
                if !is_id(id) || !name.starts_with("refs/") || packed.refs.insert(name, (id, None)).is_some() {
                    return None;
                }
                last = Some(name);
            }
        }
        Some(packed)
    }

    /// Its refs, each with its id.
    pub fn refs(&self) -> impl Iterator<Item = (&'t str, &'t str)> {
        self.refs.iter().map(|(name, (id, _))| (*name, *id))
    }

    /// The id of a ref.
    pub fn id(&self, name: &str) -> Option<&'t str> {
        self.refs.get(name).map(|(id, _)| *id)
    }
}

/// Whether these are the digits of an object's id.
pub fn is_id(text: &str) -> bool {
    is_hex(text.as_bytes(), &[40, 64])
}

/// The name beside a ref for another value of it.
pub fn other_name(name: &str, whose: &str, id: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    let dir = &name[..name.len() - last.len()];
    let origin = conflict::origin_of_ref(last.as_bytes()).map_or(last.len(), <[u8]>::len);
    format!("{dir}{}{}", &last[..origin], conflict::ref_suffix(whose, id.get(..6).unwrap_or(id)))
}

fn merge_packed(sides: Sides<&str>) -> Option<String> {
    let sides = sides.try_map(Packed::read)?;
    let names: BTreeSet<&str> =
        [&sides.base, &sides.x, &sides.y].iter().flat_map(|side| side.refs.keys().copied()).collect();
    let mut merged: BTreeMap<String, (&str, Option<&str>)> = BTreeMap::new();
    for name in names {
        let of_name = sides.as_ref().map(|side| side.refs.get(name).copied());
        let (kept, other) = match of_name.pick() {
            Some(one) => (one, None),
            // A ref that one machine deleted and another moved stays where it was moved to.
            None => match (of_name.x, of_name.y) {
                (Some(x), Some(y)) => (Some(x), Some(y)),
                (one, other) => (one.or(other), None),
            },
        };
        if let Some(other) = other {
            merged.insert(other_name(name, SOMEBODY, other.0), other);
        }
        if let Some(kept) = kept {
            merged.insert(name.to_owned(), kept);
        }
    }
    let mut text = header(sides.x.header, sides.y.header);
    for (name, (id, peeled)) in merged {
        text += &format!("{id} {name}\n");
        if let Some(peeled) = peeled {
            text += &format!("^{peeled}\n");
        }
    }
    Some(text)
}

/// What both sides say of their files, and that the refs are sorted.
fn header(x: Option<&str>, y: Option<&str>) -> String {
    let said = |header: Option<&str>| -> Vec<String> {
        let words = header.and_then(|header| header.strip_prefix(HEADER)).unwrap_or_default();
        words.split_whitespace().map(str::to_owned).collect()
    };
    let (x, y) = (said(x), said(y));
    let mut words: Vec<String> = x.into_iter().filter(|word| word != "sorted" && y.contains(word)).collect();
    words.push("sorted".to_owned());
    format!("{HEADER} {} \n", words.join(" "))
}

fn merge_logs(sides: Sides<&str>) -> Option<String> {
    let sides = sides.try_map(read_log)?;
    let count = |lines: &[Entry<'_>]| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (_, line) in lines {
            *counts.entry((*line).to_owned()).or_default() += 1;
        }
        counts
    };
    let (mut in_x, mut in_y) = (count(&sides.x), count(&sides.y));
    // What either side let go of, as it expired, is let go of.
    let take = |counts: &mut BTreeMap<String, usize>, line: &str| match counts.get_mut(line) {
        Some(left) if *left > 0 => {
            *left -= 1;
            true
        }
        Some(_) | None => false,
    };
    let mut merged: Vec<&str> = Vec::new();
    let (mut old_x, mut old_y) = (BTreeMap::new(), BTreeMap::new());
    for (_, line) in &sides.base {
        let (x, y) = (take(&mut in_x, line), take(&mut in_y, line));
        *old_x.entry(*line).or_insert(0usize) += usize::from(x);
        *old_y.entry(*line).or_insert(0usize) += usize::from(y);
        if x && y {
            merged.push(line);
        }
    }
    let added = |lines: Vec<Entry<'_>>, mut old: BTreeMap<&str, usize>| -> Vec<(u64, String)> {
        let is_old = |line: &str, old: &mut BTreeMap<&str, usize>| match old.get_mut(line) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            Some(_) | None => false,
        };
        let fresh = lines.into_iter().filter(|(_, line)| !is_old(line, &mut old));
        fresh.map(|(at, line)| (at, line.to_owned())).collect()
    };
    let (x, y) = (added(sides.x, old_x), added(sides.y, old_y));
    let both: BTreeSet<(u64, String)> = x.iter().filter(|entry| y.contains(entry)).cloned().collect();
    let mut rest = y.into_iter().filter(|entry| !both.contains(entry)).peekable();
    let mut text: String = merged.iter().map(|line| format!("{line}\n")).collect();
    for (at, line) in x {
        while let Some((_, earlier)) = rest.next_if(|(other, other_line)| (*other, other_line) < (at, &line)) {
            text += &format!("{earlier}\n");
        }
        text += &format!("{line}\n");
    }
    rest.for_each(|(_, line)| text += &format!("{line}\n"));
    Some(text)
}

/// A line of a log, and the second that it tells of.
type Entry<'t> = (u64, &'t str);

fn read_log(text: &str) -> Option<Vec<Entry<'_>>> {
    if !text.is_empty() && !text.ends_with('\n') {
        return None;
    }
    let read = |line| {
        let said: &str = line;
        let mut words = said.splitn(3, ' ');
        let (old, new, rest) = (words.next()?, words.next()?, words.next()?);
        let who = rest.split('\t').next()?;
        let at = who.rsplit_once("> ")?.1.split(' ').next()?.parse().ok()?;
        (is_id(old) && is_id(new)).then_some((at, said))
    };
    text.lines().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ref_that_both_moved_is_there_twice() {
        let (a, b, c) = (id('a'), id('b'), id('c'));
        let base = packed(&[("refs/heads/main", &a, None), ("refs/heads/old", &a, None)]);
        let x = packed(&[("refs/heads/main", &b, None), ("refs/tags/v1", &c, Some(&b))]);
        let y = packed(&[("refs/heads/main", &c, None), ("refs/heads/old", &a, None), ("refs/heads/new", &b, None)]);
        let merged = both_ways(Format::PackedRefs, &base, &x, &y);
        let read = Packed::read(&merged).expect("packed refs");
        let mains: BTreeSet<&str> =
            read.refs().filter(|(name, _)| name.starts_with("refs/heads/main")).map(|(_, id)| id).collect();
        assert_eq!(mains, BTreeSet::from([b.as_str(), c.as_str()]), "{merged}");
        assert_eq!(read.refs().count(), 4, "{merged}");
        assert_eq!(
            (read.id("refs/tags/v1"), read.id("refs/heads/new"), read.id("refs/heads/old")),
            (Some(&*c), Some(&*b), None)
        );
        assert!(merged.starts_with("# pack-refs with: peeled fully-peeled sorted \n"), "{merged}");
        assert!(merged.contains(&format!("{c} refs/tags/v1\n^{b}\n")), "{merged}");
        let names: Vec<&str> =
            merged.lines().filter_map(|line| line.split_once(' ')).map(|(_, name)| name).skip(1).collect();
        assert!(names.is_sorted(), "{merged}");
    }

    #[test]
    fn a_ref_that_was_moved_here_and_deleted_there_stays() {
        let (a, b) = (id('a'), id('b'));
        let base = packed(&[("refs/heads/main", &a, None)]);
        let merged = both_ways(Format::PackedRefs, &base, &packed(&[]), &packed(&[("refs/heads/main", &b, None)]));
        assert_eq!(Packed::read(&merged).expect("packed refs").id("refs/heads/main"), Some(&*b));
    }

    #[test]
    fn what_is_not_packed_refs_is_not_merged() {
        let good = packed(&[("refs/heads/main", &id('a'), None)]);
        for bad in ["x", "^aaaa\n", "aaaa refs/heads/main\n", "\u{0}\n"] {
            let sides = Sides { base: good.as_bytes(), x: b"", y: bad.as_bytes() };
            assert_eq!(merge(Format::PackedRefs, sides), None, "{bad:?}");
        }
    }

    #[test]
    fn a_log_has_the_lines_of_both_in_the_order_of_time() {
        let base = [entry('a', 10), entry('b', 20)].concat();
        let x = [entry('a', 10), entry('b', 20), entry('c', 30), entry('d', 50)].concat();
        let y = [entry('b', 20), entry('e', 40)].concat();
        let want = [entry('b', 20), entry('c', 30), entry('e', 40), entry('d', 50)].concat();
        assert_eq!(both_ways(Format::Log, &base, &x, &y), want);
    }

    #[test]
    fn a_line_that_both_added_is_there_once() {
        let line = entry('a', 10);
        assert_eq!(
            both_ways(Format::Log, "", &[line.clone(), entry('b', 20)].concat(), &line),
            [line, entry('b', 20)].concat()
        );
    }

    #[test]
    fn the_name_of_another_value_is_a_ref_and_does_not_nest() {
        let other = other_name("refs/heads/x/main", "my laptop", &id('a'));
        assert_eq!(other, "refs/heads/x/main-conflict-my-laptop-aaaaaa");
        assert_eq!(other_name(&other, "desktop", &id('b')), "refs/heads/x/main-conflict-desktop-bbbbbb");
    }

    fn both_ways(format: Format, base: &str, x: &str, y: &str) -> String {
        let merged =
            |x: &str, y: &str| merge(format, Sides { base: base.as_bytes(), x: x.as_bytes(), y: y.as_bytes() });
        let one = merged(x, y).expect("merged");
        if format == Format::Log {
            assert_eq!(merged(y, x).as_ref(), Some(&one));
        }
        String::from_utf8(one).expect("text")
    }

    fn packed(refs: &[(&str, &str, Option<&String>)]) -> String {
        let mut text = format!("{HEADER} peeled fully-peeled sorted \n");
        for (name, id, peeled) in refs {
            text += &format!("{id} {name}\n");
            if let Some(peeled) = peeled {
                text += &format!("^{peeled}\n");
            }
        }
        text
    }

    fn entry(digit: char, at: u64) -> String {
        format!("{} {} A U Thor <a@b> {at} +0100\tcommit: x\n", id('0'), id(digit))
    }

    fn id(digit: char) -> String {
        digit.to_string().repeat(40)
    }
}
