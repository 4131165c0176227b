//! Merges TOML by table and key, so that comments, order and spelling stay as they were.
//!
//! A file with arrays of tables, whose elements have no names, is merged by line. Either way the result must parse, and
//! say what the three say when merged as values. Arrays and inline tables are single values.

use toml::{Table, Value};

use crate::merge::Refusal;
use crate::merge::lines::{finish, plain};
use crate::merge::outline::{self, Outline};
use crate::merge::sides::Sides;
use crate::merge::text::{Text, is_blank};

/// Merges TOML.
pub(super) fn merge(sides: &Sides<Text<'_>>) -> Result<String, Refusal> {
    let tables = sides.try_map(|side| parse(side.as_str())).ok_or(Refusal::Foreign)?;
    let outlines = sides.map(|side| side.lines()).try_map(|lines| read(&lines));
    let by_key = outlines.is_some();
    let merged = match outlines {
        Some(outlines) => finish(sides, &outline::merge(&outlines)?)?,
        None => plain(sides)?,
    };
    let said = parse(&merged).ok_or(Refusal::Clash)?;
    match values(Some(&tables.base), &tables.x, &tables.y) {
        Some(wanted) if said == wanted => Ok(merged),
        // Both changed one array, as lines that lie apart.
        None if !by_key => Ok(merged),
        Some(_) | None => Err(Refusal::Clash),
    }
}

fn parse(text: &str) -> Option<Table> {
    toml::from_str(text).ok()
}

fn values(base: Option<&Table>, x: &Table, y: &Table) -> Option<Table> {
    let mut merged = Table::new();
    for key in x.keys().chain(y.keys()) {
        let was = base.and_then(|base| base.get(key));
        let picked = match (Sides { base: was, x: x.get(key), y: y.get(key) }) {
            Sides { base, x: Some(Value::Table(x)), y: Some(Value::Table(y)) } if x != y => {
                Some(Value::Table(values(base.and_then(Value::as_table), x, y)?))
            }
            sides => sides.pick()?.cloned(),
        };
        if let Some(picked) = picked {
            merged.insert(key.clone(), picked);
        }
    }
    Some(merged)
}

/// Reads lines as an outline; `None` if this file cannot be had as one.
fn read<'t>(lines: &[&'t str]) -> Option<Outline<'t>> {
    let mut outline = Outline::new();
    let mut rest = lines.iter();
    while let Some(line) = rest.next() {
        let text = line.trim();
        if is_blank(line) || text.starts_with('#') {
            outline.push_lead(line);
        } else if text.starts_with("[[") {
            return None;
        } else if text.starts_with('[') {
            let name = if text.contains(['"', '\'']) { text } else { text.split('#').next()? };
            outline.push_header(name.split_whitespace().collect(), line);
        } else {
            let (key, value) = text.split_once('=')?;
            let mut scan = Scan::default();
            scan.take(value)?;
            let mut entry = vec![*line];
            while !scan.is_done() {
                let line = rest.next()?;
                scan.take(line)?;
                entry.push(line);
            }
            outline.push_entry(key.trim().to_owned(), entry);
        }
    }
    outline.is_unique().then_some(outline)
}

/// How far the lines of a value have been read.
#[derive(Default)]
struct Scan {
    /// Brackets and braces that are open.
    depth: usize,
    /// The string that goes on in the next line, by its quotes.
    string: Option<&'static str>,
}

impl Scan {
    fn is_done(&self) -> bool {
        self.depth == 0 && self.string.is_none()
    }

    /// Takes one line, or what of it is after the key; `None` if it makes no sense.
    fn take(&mut self, line: &str) -> Option<()> {
        let mut rest = line.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            match self.string {
                Some(quotes) if byte == quotes.as_bytes()[0] => {
                    if let Some(mut after) = rest.strip_prefix(&quotes.as_bytes()[1..]) {
                        // Quotes right before the three that end a string are of the string.
                        while quotes.len() == 3 && after.first() == Some(&byte) {
                            after = &after[1..];
                        }
                        rest = after;
                        self.string = None;
                    }
                }
                Some(quotes) if byte == b'\\' && quotes.starts_with('"') => rest = rest.get(1..).unwrap_or_default(),
                Some(_) => {}
                None => match byte {
                    b'[' | b'{' => self.depth += 1,
                    b']' | b'}' => self.depth = self.depth.checked_sub(1)?,
                    b'#' => return Some(()),
                    b'"' | b'\'' => {
                        let (one, three) = if byte == b'"' { ("\"", "\"\"\"") } else { ("'", "'''") };
                        let long = rest.strip_prefix(&three.as_bytes()[1..]);
                        rest = long.unwrap_or(rest);
                        self.string = Some(if long.is_some() { three } else { one });
                    }
                    _ => {}
                },
            }
        }
        // A string in single quotes of either kind ends on its line.
        self.string.is_none_or(|quotes| quotes.len() == 3).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_several_lines_are_one_entry() {
        let entries = |text: &str| {
            read(&text.lines().collect::<Vec<_>>()).map(|outline| format!("{outline:?}").matches("body").count() - 1)
        };
        let cases = [
            ("a = 1\nb = 2", Some(2)),
            ("a = [\n  1, # ]\n  \"]\",\n]\nb = 2", Some(2)),
            ("a = \"\"\"\nx = 1\n[y]\n\\\"\"\"\"\"\nb = ''", Some(2)),
            ("a = '''\n\"\"\"\n'''", Some(1)),
            ("a = \"\\\"[\"\n[t] # c\nb = { c = 1 }", Some(3)),
            ("[[t]]\na = 1", None),
            ("a = 1\na = 2", None),
            ("a = [\n", None),
        ];
        for (text, want) in cases {
            assert_eq!(entries(text), want, "{text}");
        }
    }
}
