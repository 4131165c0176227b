//! Merges lists of things that have a name of their own: groups, keys, members, lines of a set.
//!
//! What neither side removed is kept, and what either added is taken. The list keeps the order of the only side that
//! moved something; an addition stands after its nearest neighbour on the left that is there. If one side
//! removed what the other changed, or both moved things and the order matters, the sides clash.

use std::collections::{BTreeMap, BTreeSet};

use crate::merge::Refusal;
use crate::merge::sides::Sides;

/// One thing of a list.
pub(super) trait Keyed: Clone {
    /// What it goes by; no two of a list have the same.
    type Id: Ord + Clone;

    /// Its name.
    fn id(&self) -> Self::Id;

    /// Whether removing the one removes what the other says.
    fn says_the_same(&self, other: &Self) -> bool;

    /// What comes of it if both sides have it. Without a base, both added it.
    fn join(sides: Sides<Option<&Self>>) -> Result<Self, Refusal>;
}

/// What it means that both sides moved things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// They clash.
    Matters,
    /// Nothing; either order will do.
    IsFree,
}

/// Merges three lists.
pub(super) fn merge<T: Keyed>(sides: Sides<&[T]>, order: Order) -> Result<Vec<T>, Refusal> {
    let ids = sides.map(|side| side.iter().map(T::id).collect::<Vec<_>>());
    let at = sides.map(|side| side.iter().map(|thing| (thing.id(), thing)).collect::<BTreeMap<_, _>>());
    for (id, was) in &at.base {
        if let (Some(kept), None) | (None, Some(kept)) = (at.x.get(id), at.y.get(id))
            && !kept.says_the_same(was)
        {
            return Err(Refusal::Clash);
        }
    }
    let merged = arrange(ids.as_ref().map(Vec::as_slice), order)?;
    merged
        .iter()
        .map(|id| match at.as_ref().map(|side| side.get(id).copied()) {
            Sides { x: Some(only), y: None, .. } | Sides { x: None, y: Some(only), .. } => Ok(only.clone()),
            both => T::join(both),
        })
        .collect()
}

fn arrange<K: Ord + Clone>(sides: Sides<&[K]>, order: Order) -> Result<Vec<K>, Refusal> {
    let sets = sides.map(|side| side.iter().collect::<BTreeSet<_>>());
    let kept = |id: &&K| match (sets.x.contains(*id), sets.y.contains(*id)) {
        (true, true) => true,
        (false, false) => false,
        (true, false) | (false, true) => !sets.base.contains(*id),
    };
    let common = |side: &[K], other: &BTreeSet<&K>| -> Vec<K> {
        side.iter().filter(|id| sets.base.contains(id) && other.contains(id)).cloned().collect()
    };
    let moved = |side: &[K], set| common(sides.base, set) != common(side, set);
    let (x_moved, y_moved) = (moved(sides.x, &sets.x), moved(sides.y, &sets.y));
    if x_moved && y_moved && order == Order::Matters && common(sides.x, &sets.y) != common(sides.y, &sets.x) {
        return Err(Refusal::Clash);
    }
    let (first, second) = if y_moved && !x_moved { (sides.y, sides.x) } else { (sides.x, sides.y) };

    let in_first: BTreeSet<&K> = first.iter().filter(kept).collect();
    let mut after: BTreeMap<Option<&K>, Vec<&K>> = BTreeMap::new();
    let mut left = None;
    for id in second.iter().filter(kept) {
        if in_first.contains(id) {
            left = Some(id);
        } else {
            after.entry(left).or_default().push(id);
        }
    }
    let mut merged: Vec<K> = after.remove(&None).into_iter().flatten().cloned().collect();
    for id in first.iter().filter(kept) {
        merged.push(id.clone());
        merged.extend(after.remove(&Some(id)).into_iter().flatten().cloned());
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_keep_what_neither_side_removed_in_the_order_of_who_moved_something() {
        let cases = [
            ("ab", "abx", "aby", Some("abyx")),
            ("fnt", "ft", "fnty", Some("fty")),
            ("fnt", "tfn", "fnty", Some("tyfn")),
            ("fnt", "tfn", "tfn", Some("tfn")),
            ("fnt", "tfn", "nft", None),
            ("fn", "xfn", "fny", Some("xfny")),
            ("", "x", "y", Some("yx")),
            ("abc", "", "abcd", Some("d")),
            ("abc", "ac", "ab", Some("a")),
        ];
        for (base, x, y, want) in cases {
            let sides = Sides { base, x, y }.map(|side| side.chars().collect::<Vec<_>>());
            let got = arrange(sides.as_ref().map(Vec::as_slice), Order::Matters).ok();
            assert_eq!(got.map(|ids| ids.into_iter().collect::<String>()).as_deref(), want, "{base} {x} {y}");
            let free = arrange(sides.as_ref().map(Vec::as_slice), Order::IsFree);
            assert!(free.is_ok(), "{base} {x} {y}");
        }
    }
}
