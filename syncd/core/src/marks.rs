//! What stands in directories of this disk that rules ask for: tags and other marker files.
//!
//! A rule may hold only for a directory in which a certain file stands, or next to one. Which of those files stand
//! where is gathered by [`crate::observe`] as it looks at directories, and given to [`crate::select::Select`] with
//! every question. It is a fact of one disk, as a rule for one machine is: nothing of it is told to peers, and a
//! marked directory does not travel, its marker neither (docs/decisions/0027).

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;

use hearth_schemas::codec;
use hearth_schemas::item::Name;

use crate::disk::{Disk, RelPath, join};
use crate::path::is_at_or_below;

/// A file that rules look for in directories.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Probe {
    /// Its name.
    pub name: Vec<u8>,
    /// What it must begin with; empty where any regular file of the name counts.
    pub magic: Vec<u8>,
}

impl Probe {
    /// Whether it stands in a directory; `None` where that cannot be told.
    pub fn stands<D: Disk>(&self, disk: &mut D, dir: &[u8]) -> Option<bool> {
        match disk.begins(&join(dir, &Name::new(self.name.as_slice())?), &self.magic) {
            Ok(stands) => Some(stands),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Some(false),
            Err(_) => None,
        }
    }
}

/// Which directories hold which of the files that the rules look for, each by its place in
/// [`crate::select::Select::probes`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    held: BTreeMap<RelPath, BTreeSet<usize>>,
    /// How often it has changed.
    changes: u64,
    /// The paths that a mark has left, in whatever way, since this was asked last.
    left: BTreeSet<RelPath>,
}

/// Directories with the files that they hold, each by its name and what it begins with: what the index keeps of marks.
type Named = Vec<(RelPath, Vec<(Vec<u8>, Vec<u8>)>)>;

impl Marks {
    /// No directory holds any of them.
    pub const NONE: Self = Self { held: BTreeMap::new(), changes: 0, left: BTreeSet::new() };

    /// Whether no directory holds any.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How often anything about them has changed.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The paths that a mark has left since this was asked last, whatever has them by now: what was passed over there is not
    /// to be passed over any more.
    pub fn take_left(&mut self) -> BTreeSet<RelPath> {
        std::mem::take(&mut self.left)
    }

    /// The directories that hold any.
    pub fn dirs(&self) -> Vec<RelPath> {
        self.held.keys().cloned().collect()
    }

    /// As bytes for the index, which mean the same whatever else rules look for by then.
    pub fn encode(&self, probes: &[Probe]) -> Vec<u8> {
        let named = |held: &BTreeSet<usize>| {
            let held = held.iter().filter_map(|index| probes.get(*index));
            held.map(|probe| (probe.name.clone(), probe.magic.clone())).collect()
        };
        let all: Named = self.held.iter().map(|(dir, held)| (dir.clone(), named(held))).collect();
        codec::encode(&all)
    }

    /// From such bytes; what rules do not look for is left out.
    pub fn decode(bytes: &[u8], probes: &[Probe]) -> Self {
        let mut marks = Self::NONE;
        for (dir, named) in codec::decode_own::<Named>(bytes).unwrap_or_default() {
            let index = |(name, magic)| probes.iter().position(|probe| probe.name == name && probe.magic == magic);
            marks.set(&dir, named.into_iter().filter_map(index).collect());
        }
        marks
    }

    /// Whether a directory holds this one.
    pub fn holds(&self, dir: &[u8], probe: usize) -> bool {
        self.held.get(dir).is_some_and(|held| held.contains(&probe))
    }

    /// What a directory holds.
    pub fn of(&self, dir: &[u8]) -> BTreeSet<usize> {
        self.held.get(dir).cloned().unwrap_or_default()
    }

    /// The directories right below one that hold any.
    pub fn right_below(&self, dir: &[u8]) -> Vec<RelPath> {
        let from = if dir.is_empty() { RelPath::new() } else { [dir, b"/"].concat() };
        let below = self.held.range(from.clone()..).take_while(|(at, _)| at.starts_with(&from));
        let right = below.filter(|(at, _)| at.len() > from.len() && !at[from.len()..].contains(&b'/'));
        right.map(|(at, _)| at.clone()).collect()
    }

    /// Takes in what a directory holds.
    pub fn set(&mut self, dir: &[u8], held: BTreeSet<usize>) {
        self.changes += 1;
        if self.held.get(dir).is_some_and(|before| !before.is_subset(&held)) {
            self.left.insert(dir.to_vec());
        }
        if held.is_empty() {
            self.held.remove(dir);
        } else {
            self.held.insert(dir.to_vec(), held);
        }
    }

    /// Takes out what a directory and those below it hold, under paths that begin after its own.
    pub fn take(&mut self, from: &[u8]) -> Self {
        let taken: Vec<_> = self.held.extract_if(.., |dir, _| is_at_or_below(dir, from)).collect();
        self.changes += u64::from(!taken.is_empty());
        self.left.extend(taken.iter().map(|(dir, _)| dir.clone()));
        let held = taken.into_iter().map(|(dir, held)| (dir[from.len()..].to_vec(), held)).collect();
        Self { held, ..Self::NONE }
    }

    /// Puts that under the path that the directory has by now.
    pub fn put(&mut self, to: &[u8], taken: Self) {
        self.changes += u64::from(!taken.is_empty());
        self.held.extend(taken.held.into_iter().map(|(rest, held)| ([to, &rest].concat(), held)));
    }
}

impl IntoIterator for Marks {
    type Item = (RelPath, BTreeSet<usize>);
    type IntoIter = std::collections::btree_map::IntoIter<RelPath, BTreeSet<usize>>;

    fn into_iter(self) -> Self::IntoIter {
        self.held.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_follow_a_moved_directory_and_end_with_it() {
        let mut marks = Marks::NONE;
        for dir in ["a", "a/b", "ab"] {
            marks.set(dir.as_bytes(), BTreeSet::from([1]));
        }
        assert_eq!(marks.right_below(b""), [b"a".to_vec(), b"ab".to_vec()]);
        assert_eq!(marks.right_below(b"a"), [b"a/b".to_vec()]);
        let taken = marks.take(b"a");
        marks.put(b"c/d", taken);
        assert!(marks.holds(b"c/d", 1) && marks.holds(b"c/d/b", 1) && marks.holds(b"ab", 1));
        assert!(!marks.holds(b"a", 1) && !marks.holds(b"c/d", 0));
        assert_eq!(marks.take_left(), ["a", "a/b"].map(Into::into).into());
        assert!(!marks.take(b"c").is_empty());
        assert_eq!(marks.of(b"c/d/b"), BTreeSet::new());
        marks.set(b"ab", BTreeSet::from([1, 2]));
        assert_eq!(marks.take_left(), ["c/d", "c/d/b"].map(Into::into).into());
        marks.set(b"ab", BTreeSet::new());
        assert!(marks.is_empty());
        assert_eq!(marks.take_left(), ["ab"].map(Into::into).into());
        assert!(marks.take_left().is_empty());
    }

    #[test]
    fn marks_outlast_a_change_of_what_rules_look_for() {
        let probe = |name: &str| Probe { name: name.into(), magic: Vec::new() };
        let mut marks = Marks::NONE;
        marks.set(b"a", BTreeSet::from([0, 1]));
        marks.set(b"b", BTreeSet::from([0]));
        let bytes = marks.encode(&[probe(".nobackup"), probe("Cargo.toml")]);
        let later = Marks::decode(&bytes, &[probe("pom.xml"), probe("Cargo.toml")]);
        assert_eq!((later.of(b"a"), later.dirs()), (BTreeSet::from([1]), vec![b"a".to_vec()]));
        assert!(Marks::decode(b"what else may stand there", &[probe("Cargo.toml")]).is_empty());
    }
}
