//! The earlier values of each setting on this machine.
//!
//! Kept for 90 days and at least 20 changes of each setting, and never more than 200.

use std::collections::{BTreeMap, VecDeque};

use crate::settings::event::HistoryEntry;

const DAYS_90_MS: u64 = 90 * 24 * 3_600_000;
const LEAST: usize = 20;
const MOST: usize = 200;

/// All changes that are kept, by path, oldest first.
pub struct History {
    by_path: BTreeMap<String, VecDeque<HistoryEntry>>,
}

impl History {
    /// The history of these changes, oldest first.
    pub fn new(entries: Vec<HistoryEntry>) -> Self {
        let mut history = Self { by_path: BTreeMap::new() };
        for entry in entries {
            let now_ms = entry.time_ms;
            history.add(entry, now_ms);
        }
        history
    }

    /// Adds a change and drops what is old.
    pub fn add(&mut self, entry: HistoryEntry, now_ms: u64) {
        let entries = self.by_path.entry(entry.path.clone()).or_default();
        entries.push_back(entry);
        while entries.front().is_some_and(|oldest| !is_kept(entries.len() - 1, now_ms.saturating_sub(oldest.time_ms))) {
            entries.pop_front();
        }
    }

    /// The changes of one setting, newest first.
    pub fn of(&self, path: &str) -> impl Iterator<Item = &HistoryEntry> {
        self.by_path.get(path).into_iter().flatten().rev()
    }
}

/// Whether a change of this age is kept that has so many newer ones of the same setting after it.
pub fn is_kept(newer: usize, age_ms: u64) -> bool {
    newer < LEAST || (newer < MOST && age_ms <= DAYS_90_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::event::Cause;

    #[test]
    fn old_changes_go_once_there_are_enough_younger_ones() {
        let entry = |time_ms| HistoryEntry {
            path: "/x".to_owned(),
            time_ms,
            device: String::new(),
            old: None,
            new: None,
            cause: Cause::Person,
        };
        let mut history = History::new((0..30).map(entry).collect());
        assert_eq!(history.of("/x").count(), 30);
        history.add(entry(DAYS_90_MS + 25), DAYS_90_MS + 25);
        assert_eq!(history.of("/x").count(), LEAST);
        for n in 0..300 {
            history.add(entry(DAYS_90_MS + n), DAYS_90_MS + n);
        }
        assert_eq!(history.of("/x").count(), MOST);
    }
}
