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
        while entries.len() > MOST
            || (entries.len() > LEAST
                && entries.front().is_some_and(|entry| now_ms.saturating_sub(entry.time_ms) > DAYS_90_MS))
        {
            entries.pop_front();
        }
    }

    /// The changes of one setting, newest first.
    pub fn of(&self, path: &str) -> impl Iterator<Item = &HistoryEntry> {
        self.by_path.get(path).into_iter().flatten().rev()
    }
}
