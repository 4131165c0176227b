//! Merges a text by line: files of shells and editors, and configuration of which no more is known.
//!
//! What is certain here is only that the hunks of the two sides lie apart ([`diff3`]). So it is not for formats where one
//! line says what the next ones mean: markup, YAML, JSON and keys under any name are recognised and left.

use crate::merge::diff3::diff3;
use crate::merge::sides::Sides;
use crate::merge::text::{Text, compose, is_blank};
use crate::merge::{Refusal, ledger};

/// Merges by line what is not of another format.
pub(super) fn merge(sides: &Sides<Text<'_>>) -> Result<String, Refusal> {
    let lines = sides.map(|side| side.lines());
    if [&lines.base, &lines.x, &lines.y].into_iter().any(|side| is_of_another_format(side)) {
        return Err(Refusal::Foreign);
    }
    plain(sides)
}

/// Merges by line whatever it is.
pub(super) fn plain(sides: &Sides<Text<'_>>) -> Result<String, Refusal> {
    let lines = sides.map(|side| side.lines());
    let merged = diff3(lines.as_ref().map(Vec::as_slice))?;
    finish(sides, &merged)
}

/// Makes the text of merged lines, once nothing proves lost. Blank lines do not count.
pub(super) fn finish(sides: &Sides<Text<'_>>, merged: &[&str]) -> Result<String, Refusal> {
    let full = |lines: Vec<&str>| lines.into_iter().filter(|line| !is_blank(line)).map(str::to_owned).collect();
    if !ledger::balances(sides.map(|side| full(side.lines())), full(merged.to_vec())) {
        return Err(Refusal::Clash);
    }
    Ok(compose(merged, sides))
}

fn is_of_another_format(lines: &[&str]) -> bool {
    let comment = |line: &&str| line.starts_with('#') || line.starts_with("//");
    let Some(first) = lines.iter().map(|line| line.trim()).find(|line| !line.is_empty() && !comment(line)) else {
        return false;
    };
    let yaml = first == "---" || first.starts_with("- ") || first.ends_with(':') || first.starts_with("%YAML");
    let json = first.starts_with('{') || first == "[" || first.starts_with("[{") || first.starts_with("[\"");
    yaml || json || first.starts_with('<') || first.starts_with("-----BEGIN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_in_which_lines_depend_on_each_other_are_recognised() {
        for text in
            ["<?xml?>", "---", "# c\n- a", "channels:\n  - x", "{", "// c\n{\"a\": 1}", "[\n1", "-----BEGIN KEY"]
        {
            assert!(is_of_another_format(&text.lines().collect::<Vec<_>>()), "{text:?}");
        }
        for text in ["", "# c", "[core]", "set -o vi", "[ -f x ] && . x", "Xft.dpi: 96", "--- a comment of Lua"] {
            assert!(!is_of_another_format(&text.lines().collect::<Vec<_>>()), "{text:?}");
        }
    }
}
