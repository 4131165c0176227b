//! Looks at a large content in groups of equal length, each known by its place in the tree of the content's own hash.
//!
//! BLAKE3 hashes a content as a tree, so what the groups are known by comes with the hash for nothing, and several
//! threads can share the work. Two versions that differ in place, as after an append, are compared so without being cut
//! ([`crate::chunk`]); where much has moved, cutting finds more.

use std::io::{self, ErrorKind};

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use hearth_schemas::ids::ContentHash;

use crate::chunk::Part;

/// Contents from this length on are looked at in groups, in bytes.
pub const GROUPED: u64 = 16 << 20;
/// A content has about so many groups at most, whatever its length.
const MOST: u64 = 1024;
/// Length of the smallest group, in bytes.
const LEAST: u64 = 64 << 10;
/// Where more than this part of a content is not where it was, its groups say little.
const MOVED: u64 = 8;

/// What a group is called: the beginning of what the tree has in its place. That what was put together is the content,
/// the content's own hash has to tell.
pub type GroupName = [u8; 8];

/// Length of each group but the last of a content of this length, in bytes.
pub fn group_length(length: u64) -> u64 {
    (length / MOST).next_power_of_two().max(LEAST)
}

/// How many groups a content of this length has.
pub fn group_count(length: u64) -> u64 {
    length.div_ceil(group_length(length))
}

/// A hash of the bytes of a group, which begins at this offset.
pub struct GroupHasher(blake3::Hasher);

impl GroupHasher {
    /// Begins with a group.
    pub fn new(key: &[u8; 32], offset: u64) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.set_input_offset(offset);
        Self(hasher)
    }

    /// These are the next bytes of the group.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// What stands in the group's place in the tree. There is none for an empty group.
    pub fn finish(self) -> Option<Group> {
        (self.0.count() > 0).then(|| Group(self.0.finalize_non_root()))
    }
}

/// What stands in a group's place in the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group(ChainingValue);

impl Group {
    /// What the group is called.
    pub fn name(&self) -> GroupName {
        *self.0.first_chunk().expect("it is longer")
    }
}

/// The keyed hash of a content of two groups or more, from what stands in their places.
pub fn hash_of_groups(groups: &[Group], key: &[u8; 32]) -> io::Result<ContentHash> {
    let mode = Mode::KeyedHash(key);
    if groups.len() < 2 {
        return Err(ErrorKind::InvalidInput.into());
    }
    let (left, right) = groups.split_at(left_of(groups.len()));
    let hash = merge_subtrees_root(&subtree(left, mode), &subtree(right, mode), mode);
    Ok(ContentHash(*hash.as_bytes()))
}

fn subtree(groups: &[Group], mode: Mode<'_>) -> ChainingValue {
    match groups {
        [one] => one.0,
        several => {
            let (left, right) = several.split_at(left_of(several.len()));
            merge_subtrees_non_root(&subtree(left, mode), &subtree(right, mode), mode)
        }
    }
}

/// How many of so many groups are in the left one of two trees: the greatest power of two that leaves something.
fn left_of(count: usize) -> usize {
    count.div_ceil(2).next_power_of_two()
}

/// How to put a content of this length together from an older version that has some of its groups in their places.
/// `None` where too much has moved for that to be worth it, or the list is not one of a content of this length.
pub fn in_place(length: u64, wanted: &[GroupName], older: &[GroupName]) -> Option<Vec<Part>> {
    let step = group_length(length);
    if wanted.len() as u64 != group_count(length) {
        return None;
    }
    let mut parts: Vec<Part> = Vec::new();
    let mut missing = 0;
    let mut at = 0;
    for (index, name) in wanted.iter().enumerate() {
        let now = step.min(length - at);
        let same = older.get(index) == Some(name);
        match (parts.last_mut(), same) {
            (Some(Part::Older { len, .. }), true) | (Some(Part::Missing { len, .. }), false) => *len += now,
            (_, true) => parts.push(Part::Older { from: at, to: at, len: now }),
            (_, false) => parts.push(Part::Missing { to: at, len: now }),
        }
        missing += if same { 0 } else { now };
        at += now;
    }
    (missing <= length / MOVED).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [3; 32];

    #[test]
    fn groups_make_up_the_hash_of_the_content() {
        for length in [LEAST + 1, 2 * LEAST, 2 * LEAST + 1, 3 * LEAST - 7, 5 * LEAST, 7 * LEAST + 1025, 64 * LEAST + 3]
        {
            let content = bytes(usize::try_from(length).expect("small"));
            let hash = hash_of_groups(&groups_of(&content), &KEY).expect("several groups");
            assert_eq!(hash.0, *blake3::keyed_hash(&KEY, &content).as_bytes(), "{length} bytes");
            assert_eq!(groups_of(&content).len() as u64, group_count(length));
        }
        assert!(hash_of_groups(&groups_of(&bytes(5)), &KEY).is_err());
        assert_eq!(GroupHasher::new(&KEY, 0).finish(), None);
    }

    #[test]
    fn a_content_has_about_as_many_groups_however_long_it_is() {
        for length in [GROUPED, (64 << 20) - 1, 64 << 20, (64 << 20) + 1, 256 << 20, 1 << 40] {
            let count = group_count(length);
            assert!((250..=1025).contains(&count), "{length} bytes have {count}");
            assert!(group_length(length).is_power_of_two());
        }
    }

    #[test]
    fn only_groups_that_differ_in_their_place_are_missing() {
        let old = bytes(20 << 16);
        let mut new = old.clone();
        new[5 << 16] ^= 1;
        new.extend_from_slice(&[7; 100]);
        let length = new.len() as u64;
        let parts = in_place(length, &names(&new), &names(&old)).expect("nearly alike");
        let older = |from: u64, len| Part::Older { from, to: from, len };
        let missing = |to, len| Part::Missing { to, len };
        assert_eq!(
            parts,
            [older(0, 5 << 16), missing(5 << 16, 1 << 16), older(6 << 16, 14 << 16), missing(20 << 16, 100)]
        );
        let shorter = &old[..(19 << 16) + 9];
        let parts = in_place(shorter.len() as u64, &names(shorter), &names(&old)).expect("nearly alike");
        assert_eq!(parts, [older(0, 19 << 16), missing(19 << 16, 9)]);
        let moved = [&[1; 100], &old[..]].concat();
        assert_eq!(in_place(moved.len() as u64, &names(&moved), &names(&old)), None);
        assert_eq!(in_place(length, &names(&old), &names(&old)), None, "not a list of it");
    }

    fn names(content: &[u8]) -> Vec<GroupName> {
        groups_of(content).iter().map(Group::name).collect()
    }

    fn groups_of(content: &[u8]) -> Vec<Group> {
        let step = group_length(content.len() as u64);
        let pieces = content.chunks(usize::try_from(step).expect("small")).enumerate();
        let group = |(index, piece): (usize, &[u8])| {
            let mut hasher = GroupHasher::new(&KEY, index as u64 * step);
            hasher.update(piece);
            hasher.finish().expect("not empty")
        };
        pieces.map(group).collect()
    }

    fn bytes(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }
}
