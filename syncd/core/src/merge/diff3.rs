//! Merges two changed lists of lines: diff3, with no conflict regions.
//!
//! Each side's changes against the base are hunks. All hunks are applied if those of the two sides lie apart, with at
//! least one line between them that neither changed and that is not blank; the same hunk on both sides is applied once.
//! Work is bounded by a number of lines and by the
//! heuristics of the diff, not by a deadline: the result may not depend on how fast a machine is.

use std::ops::Range;

use similar::{Algorithm, DiffOp, capture_diff_slices};

use crate::merge::Refusal;
use crate::merge::sides::Sides;
use crate::merge::text::is_blank;

/// The most lines that are compared; what is longer clashes.
const MAX_LINES: usize = 1 << 13;

/// Some lines of the base, and what a side has in their place.
#[derive(PartialEq, Eq)]
struct Hunk<'s, 't> {
    base: Range<usize>,
    lines: &'s [&'t str],
}

/// Merges lines.
pub(super) fn diff3<'t>(sides: Sides<&[&'t str]>) -> Result<Vec<&'t str>, Refusal> {
    if sides.base.len().max(sides.x.len()).max(sides.y.len()) > MAX_LINES {
        return Err(Refusal::Clash);
    }
    let base = sides.base;
    let (xs, ys) = (hunks(base, sides.x), hunks(base, sides.y));
    let (mut xs, mut ys) = (xs.into_iter().peekable(), ys.into_iter().peekable());
    let mut merged = Vec::new();
    let mut done = 0;
    loop {
        let hunk = match (xs.peek(), ys.peek()) {
            (Some(x), Some(y)) if x == y => {
                ys.next();
                xs.next()
            }
            (Some(x), Some(y)) if touch(base, x, y) => return Err(Refusal::Clash),
            (Some(x), Some(y)) if y.base.start < x.base.start => ys.next(),
            (Some(_), _) => xs.next(),
            (None, _) => ys.next(),
        };
        let Some(hunk) = hunk else { break };
        merged.extend_from_slice(&base[done..hunk.base.start]);
        merged.extend_from_slice(hunk.lines);
        done = hunk.base.end;
    }
    merged.extend_from_slice(&base[done..]);
    Ok(merged)
}

fn hunks<'s, 't>(base: &[&'t str], side: &'s [&'t str]) -> Vec<Hunk<'s, 't>> {
    let mut ranges: Vec<(Range<usize>, Range<usize>)> = Vec::new();
    for op in capture_diff_slices(Algorithm::Myers, base, side) {
        if matches!(op, DiffOp::Equal { .. }) {
            continue;
        }
        let (old, new) = (op.old_range(), op.new_range());
        match ranges.last_mut() {
            Some((before, with)) if before.end == old.start && with.end == new.start => {
                before.end = old.end;
                with.end = new.end;
            }
            Some(_) | None => ranges.push((old, new)),
        }
    }
    ranges.into_iter().map(|(base, with)| Hunk { base, lines: &side[with] }).collect()
}

fn touch(base: &[&str], x: &Hunk<'_, '_>, y: &Hunk<'_, '_>) -> bool {
    let (first, second) = if x.base.start <= y.base.start { (x, y) } else { (y, x) };
    let between = base.get(first.base.end..second.base.start);
    between.is_none_or(|lines| lines.iter().all(|line| is_blank(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hunks_that_lie_apart_are_applied_and_others_refused() {
        let cases = [
            ("a b c", "A b c", "a b C", Some("A b C")),
            ("a b c", "a b c d", "x a b c", Some("x a b c d")),
            ("a b c", "a c", "a b c d", Some("a c d")),
            ("a b c d", "a b", "A b c d", Some("A b")),
            ("a b c", "a x b c", "a x b c d", Some("a x b c d")),
            ("a b c", "A b c", "a B c", None),
            ("a b c", "a b c d", "a b c e", None),
            ("a b c", "a c", "a B c", None),
            ("a b c", "a x b c", "a y b c", None),
            ("a _ c", "A _ c", "a _ C", None),
            ("a b c", "c", "a b x c", None),
        ];
        for (base, x, y, want) in cases {
            let split = |text: &'static str| -> Vec<&str> {
                text.split(' ').map(|word| if word == "_" { "" } else { word }).collect()
            };
            let sides = Sides { base, x, y }.map(split);
            let got = diff3(Sides { base: &sides.base, x: &sides.x, y: &sides.y }).ok();
            assert_eq!(got, want.map(split), "{base} | {x} | {y}");
            let back = diff3(Sides { base: &sides.base, x: &sides.y, y: &sides.x }).ok();
            assert_eq!(got, back, "{base} | {x} | {y}");
        }
    }
}
