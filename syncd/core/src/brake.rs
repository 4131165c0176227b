//! Tells an accident from a day's work: how much may be removed or replaced within ten minutes.
//!
//! Pure arithmetic over what was lost when (design section 3, "Brakes"). Renames lose nothing. What is held, and how that
//! ends, is [`crate::engine`]'s.

use hearth_schemas::ids::DeviceId;
use hearth_schemas::item::{Class, Row, Value};
use serde::{Deserialize, Serialize};

use crate::row::{self, file_size};

/// A number of items, or a share of all, whichever is more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Items.
    pub items: u64,
    /// In a hundred of all.
    pub percent: u64,
}

/// From where on losses are held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Items that may be removed.
    pub removes: Share,
    /// Bytes that may be removed.
    pub bytes: u64,
    /// Items whose content may be replaced.
    pub replaces: Share,
    /// Within this time, in milliseconds.
    pub window_ms: u64,
}

/// What a change does to an item that was there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Loss {
    /// It is gone.
    Removed,
    /// It has another content.
    Replaced,
}

/// One item that lost something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lost {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    pub loss: Loss,
    /// Length of what it held, in bytes.
    pub bytes: u64,
}

/// Losses together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Toll {
    /// Items removed.
    pub removes: u64,
    /// Items whose content was replaced.
    pub replaces: u64,
    /// Bytes removed.
    pub bytes: u64,
}

/// How a hold ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Verdict {
    /// It was meant.
    Release,
    /// It was not.
    Undo,
}

/// Losses that wait for a person, as every machine of the account is told of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hold {
    /// The machine that holds them.
    pub device: DeviceId,
    /// Whether they came from another machine, and are not applied; else they are not told to any.
    pub incoming: bool,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// How much is held.
    pub toll: Toll,
    /// What the person said.
    pub verdict: Option<Verdict>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            removes: Share { items: 200, percent: 10 },
            bytes: 5 << 30,
            replaces: Share { items: 2000, percent: 30 },
            window_ms: 600_000,
        }
    }
}

impl Limits {
    /// Nothing is ever held.
    pub const OFF: Self = {
        let all = Share { items: u64::MAX, percent: 0 };
        Self { removes: all, bytes: u64::MAX, replaces: all, window_ms: 1 }
    };

    /// Whether what was lost within any one window is more than may be, of so many items.
    pub fn are_exceeded(&self, lost: impl IntoIterator<Item = Lost>, all: u64) -> bool {
        let mut lost: Vec<Lost> = lost.into_iter().collect();
        lost.sort_unstable_by_key(|lost| lost.at_ms);
        let mut within = Toll::default();
        let mut first = 0;
        for now in &lost {
            within.add(*now);
            while now.at_ms - lost[first].at_ms >= self.window_ms {
                within.subtract(lost[first]);
                first += 1;
            }
            if within.removes > self.removes.of(all)
                || within.bytes > self.bytes
                || within.replaces > self.replaces.of(all)
            {
                return true;
            }
        }
        false
    }
}

impl Share {
    fn of(self, all: u64) -> u64 {
        self.items.max(all.saturating_mul(self.percent) / 100)
    }
}

impl Toll {
    /// Counts one in.
    pub fn add(&mut self, lost: Lost) {
        match lost.loss {
            Loss::Removed => {
                self.removes += 1;
                self.bytes = self.bytes.saturating_add(lost.bytes);
            }
            Loss::Replaced => self.replaces += 1,
        }
    }

    fn subtract(&mut self, lost: Lost) {
        match lost.loss {
            Loss::Removed => {
                self.removes -= 1;
                self.bytes = self.bytes.saturating_sub(lost.bytes);
            }
            Loss::Replaced => self.replaces -= 1,
        }
    }
}

impl FromIterator<Lost> for Toll {
    fn from_iter<I: IntoIterator<Item = Lost>>(lost: I) -> Self {
        let mut toll = Self::default();
        lost.into_iter().for_each(|lost| toll.add(lost));
        toll
    }
}

/// What a file or directory lost between two states of its row, if it did.
pub fn lost(before: &Row, now: &Row, at_ms: u64) -> Option<Lost> {
    if row::all_flagged(before) {
        return None;
    }
    lost_of(&row::winner(&before.content)?.1.value, now, at_ms)
}

/// What an entry that held a value lost by what its row is now, if it did.
pub fn lost_of(was: &Value, now: &Row, at_ms: u64) -> Option<Lost> {
    if !matches!(now.class, Class::Dir | Class::Leaf) {
        return None;
    }
    let bytes = file_size(was);
    if row::all_flagged(now) {
        return Some(Lost { at_ms, loss: Loss::Removed, bytes });
    }
    let (_, is) = row::winner(&now.content)?;
    (is.value != *was).then_some(Lost { at_ms, loss: Loss::Replaced, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        removes: Share { items: 3, percent: 10 },
        bytes: 1000,
        replaces: Share { items: 5, percent: 10 },
        window_ms: 100,
    };

    fn removed(at_ms: u64) -> Lost {
        Lost { at_ms, loss: Loss::Removed, bytes: 1 }
    }

    #[test]
    fn a_few_removals_are_nothing_and_one_more_is_too_many() {
        assert!(!LIMITS.are_exceeded((0..3).map(removed), 10));
        assert!(LIMITS.are_exceeded((0..4).map(removed), 10));
    }

    #[test]
    fn a_large_home_may_lose_more_at_once() {
        assert!(!LIMITS.are_exceeded((0..100).map(|_| removed(7)), 1000));
        assert!(LIMITS.are_exceeded((0..101).map(|_| removed(7)), 1000));
    }

    #[test]
    fn what_is_removed_over_a_week_is_not_an_accident() {
        assert!(!LIMITS.are_exceeded((0..50).map(|at| removed(at * 40)), 10));
        assert!(LIMITS.are_exceeded((0..50).map(|at| removed(at * 30)), 10));
    }

    #[test]
    fn few_large_files_count_by_their_bytes() {
        let large = |bytes| Lost { at_ms: 0, loss: Loss::Removed, bytes };
        assert!(!LIMITS.are_exceeded([large(600), large(400)], 10));
        assert!(LIMITS.are_exceeded([large(600), large(401)], 10));
    }

    #[test]
    fn replaced_contents_have_a_limit_of_their_own() {
        let replaced = |_| Lost { at_ms: 0, loss: Loss::Replaced, bytes: 1 << 40 };
        assert!(!LIMITS.are_exceeded((0..5).map(replaced), 10));
        assert!(LIMITS.are_exceeded((0..6).map(replaced), 10));
        assert!(!Limits::OFF.are_exceeded((0..600).map(replaced), 10));
    }
}
