//! What happened, line by line, from all threads.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Letters that are told of a run of the same one.
const RUN: usize = 8;
const TOO_LONG: usize = RUN + 1;

/// The lines, each with when and by whom.
#[derive(Debug)]
pub struct Journal {
    begun: Instant,
    text: Mutex<String>,
}

impl Journal {
    /// Begins an empty one.
    pub fn begin() -> Self {
        Self { begun: Instant::now(), text: Mutex::new(String::new()) }
    }

    /// Adds a line.
    pub fn note(&self, who: &str, what: &str) {
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{:9.3} {who}: {}", self.begun.elapsed().as_secs_f64(), short(what));
    }

    /// Returns all lines so far.
    pub fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Cuts the long runs of one letter that the longest names consist of.
fn short(text: &str) -> String {
    let (mut out, mut last, mut run) = (String::new(), None, 0);
    for letter in text.chars() {
        run = if last == Some(letter) { run + 1 } else { 1 };
        last = Some(letter);
        match run {
            ..=RUN => out.push(letter),
            TOO_LONG => out.push('…'),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_names_are_told_short() {
        let journal = Journal::begin();
        journal.note("laptop 0", &format!("rm {:?}", "d".repeat(255)));
        assert!(journal.text().ends_with("laptop 0: rm \"dddddddd…\"\n"), "{}", journal.text());
    }
}
