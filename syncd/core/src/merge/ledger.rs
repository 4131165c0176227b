//! Counts whether a merge lost or made up anything.
//!
//! The last look at every result, simpler than the code that made it, and knowing nothing of it: of each line, word or
//! value, there must be as many as there were, with what each side added and less what each side took away.

use std::collections::BTreeMap;

use crate::merge::sides::Sides;

/// Whether the merged things are accounted for by the three.
pub(super) fn balances<T: Ord>(sides: Sides<Vec<T>>, merged: Vec<T>) -> bool {
    let mut counts: BTreeMap<T, [usize; 4]> = BTreeMap::new();
    for (column, things) in [sides.base, sides.x, sides.y, merged].into_iter().enumerate() {
        for thing in things {
            counts.entry(thing).or_default()[column] += 1;
        }
    }
    counts.into_values().all(|[base, x, y, merged]| {
        let both = (x + y).saturating_sub(base);
        // The same addition or removal on both sides may count once.
        let once = match () {
            () if x >= base && y >= base => x.max(y),
            () if x <= base && y <= base => x.min(y),
            () => both,
        };
        (both.min(once)..=both.max(once)).contains(&merged)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_neither_side_removed_must_be_there_and_nothing_else() {
        let cases = [
            ("ab", "ab", "ab", "ab", true),
            ("ab", "abc", "abd", "abcd", true),
            ("ab", "abc", "abc", "abc", true),
            ("ab", "abc", "abc", "abcc", true),
            ("ab", "b", "a", "", true),
            ("ab", "b", "b", "b", true),
            ("ab", "abc", "abd", "abc", false),
            ("ab", "abc", "abd", "abcdd", false),
            ("ab", "b", "ab", "ab", false),
            ("ab", "ab", "abc", "bc", false),
            ("aab", "ab", "aabc", "abc", true),
        ];
        for (base, x, y, merged, sound) in cases {
            let sides = Sides { base, x, y }.map(|side| side.chars().collect::<Vec<_>>());
            assert_eq!(balances(sides, merged.chars().collect()), sound, "{base} {x} {y} {merged}");
        }
    }
}
