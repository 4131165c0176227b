//! What stands in directories of this disk that rules ask for: tags and other marker files.
//!
//! A rule may hold only for a directory in which a certain file stands, or next to one. Which of those files stand
//! where is gathered by [`crate::observe`] as it looks at directories, and given to [`crate::select::Select`] with
//! every question. It is a fact of one disk, as a rule for one machine is: nothing of it is told to peers, and a
//! marked directory does not travel, its marker neither (docs/decisions/0027).

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;

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
}

impl Marks {
    /// No directory holds any of them.
    pub const NONE: Self = Self { held: BTreeMap::new() };

    /// Whether no directory holds any.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
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
        if held.is_empty() {
            self.held.remove(dir);
        } else {
            self.held.insert(dir.to_vec(), held);
        }
    }

    /// A directory, with all below it, has another path.
    pub fn moved(&mut self, from: &[u8], to: &[u8]) {
        let taken = self.take(from);
        self.put(to, taken);
    }

    /// Takes out what a directory and those below it hold, under paths that begin after its own.
    pub fn take(&mut self, from: &[u8]) -> Self {
        let taken = self.held.extract_if(.., |dir, _| is_at_or_below(dir, from));
        Self { held: taken.map(|(dir, held)| (dir[from.len()..].to_vec(), held)).collect() }
    }

    /// Puts that under the path that the directory has by now.
    pub fn put(&mut self, to: &[u8], taken: Self) {
        self.held.extend(taken.held.into_iter().map(|(rest, held)| ([to, &rest].concat(), held)));
    }

    /// A directory is gone, with all below it.
    pub fn gone(&mut self, path: &[u8]) {
        self.held.retain(|dir, _| !is_at_or_below(dir, path));
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
        marks.moved(b"a", b"c/d");
        assert!(marks.holds(b"c/d", 1) && marks.holds(b"c/d/b", 1) && marks.holds(b"ab", 1));
        assert!(!marks.holds(b"a", 1) && !marks.holds(b"c/d", 0));
        marks.gone(b"c");
        assert_eq!(marks.of(b"c/d/b"), BTreeSet::new());
        marks.set(b"ab", BTreeSet::new());
        assert!(marks.is_empty());
    }
}
