//! Merges files of groups and keys: desktop entries, INI files, `.conf` files, the configuration of git.
//!
//! Read strictly, because there is no one such format: each line is blank, a comment, `[group]` or `key=value`, all keys
//! of the file are indented alike, none goes on in the next line, and none occurs twice. Whatever else there is, is not a keyfile.

use crate::merge::Refusal;
use crate::merge::lines::finish;
use crate::merge::outline::{self, Outline};
use crate::merge::sides::Sides;
use crate::merge::text::{Text, is_blank};

/// Merges keyfiles.
pub(super) fn merge(sides: &Sides<Text<'_>>) -> Result<String, Refusal> {
    let outlines = sides.map(|side| side.lines()).try_map(|lines| read(&lines)).ok_or(Refusal::Foreign)?;
    let merged = outline::merge(&outlines)?;
    read(&merged).ok_or(Refusal::Clash)?;
    finish(sides, &merged)
}

fn read<'t>(lines: &[&'t str]) -> Option<Outline<'t>> {
    let mut outline = Outline::new();
    let mut indented = None;
    for line in lines {
        let text = line.trim();
        if is_blank(line) || text.starts_with(['#', ';']) {
            outline.push_lead(line);
        } else if text.starts_with('[') {
            if line.starts_with([' ', '\t']) || !text.ends_with(']') {
                return None;
            }
            // Some programs tell names apart by case and some do not. Names that differ in nothing else are not unique.
            outline.push_header(text.to_ascii_lowercase(), line);
        } else {
            let (key, value) = line.split_once('=')?;
            let indent = &line[..line.len() - line.trim_start().len()];
            let key = key.trim();
            if *indented.get_or_insert(indent) != indent || value.ends_with('\\') || !is_key(key, outline.has_header())
            {
                return None;
            }
            outline.push_entry(key.to_ascii_lowercase(), vec![line]);
        }
    }
    outline.is_unique().then_some(outline)
}

/// Whether a word can be a key. With spaces it is one only in a group: outside, it is a command with an equals sign in it.
fn is_key(word: &str, in_group: bool) -> bool {
    let letter = |letter: char| letter.is_alphanumeric() || "-_.:/@$[]*+".contains(letter);
    !word.is_empty() && word.chars().all(|char| letter(char) || (in_group && " ,()\\%&".contains(char)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_certainly_groups_and_keys_is_a_keyfile() {
        for text in
            ["", "# c", "a=1", "[g]\na=1\n[h]\na=1", "[a \"b\"]\n\tk = v\n\tl = w", "Name[de]=x", "[g]\nColor Scheme=x"]
        {
            assert!(read(&text.lines().collect::<Vec<_>>()).is_some(), "{text:?}");
        }
        let foreign = [
            "export A=1",
            "set -g status-style bg=black",
            "a=1\na=2",
            "[g]\nKey=1\nkey=2",
            "[g]\n[g]",
            "[g]\nurl =\n    https://x?a=b",
            "a=1\\\nb=2",
            "[[ -f x ]] && y=1",
            "fullscreen",
            "[g] # c",
        ];
        for text in foreign {
            assert!(read(&text.lines().collect::<Vec<_>>()).is_none(), "{text:?}");
        }
    }
}
