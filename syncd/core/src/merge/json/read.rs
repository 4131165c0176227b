//! Reads JSON into a tree that still has every byte: values as they are spelled, and what stands between them.
//!
//! Comments and a trailing comma are taken as well, since editors take them. Trivia, the spaces and comments between
//! values, belongs to the value before it up to the end of the line, and from there to the one after it.

use std::borrow::Cow;
use std::collections::BTreeSet;

/// The deepest nesting that is read.
const MAX_DEPTH: usize = 64;
/// The most values that are read.
const MAX_NODES: usize = 1 << 16;

/// A whole file.
pub(super) struct Document<'t> {
    pub(super) lead: &'t str,
    pub(super) root: Node<'t>,
    pub(super) tail: &'t str,
    pub(super) comments: Vec<&'t str>,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node<'t> {
    /// As it is spelled.
    pub(super) raw: Cow<'t, str>,
    pub(super) shape: Shape<'t>,
}

/// What a value consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape<'t> {
    /// A number, string, word, or something merged of which no more needs to be known.
    Scalar,
    Object(List<'t>),
    Array(List<'t>),
}

/// The inside of an object or array.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct List<'t> {
    /// Trivia up to the end of the first line.
    pub(super) open: &'t str,
    pub(super) members: Vec<Member<'t>>,
    /// Trivia before the end.
    pub(super) close: &'t str,
    /// Whether a comma follows the last member.
    pub(super) comma: bool,
}

/// A member of an object, or an element of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member<'t> {
    /// Trivia above and before it.
    pub(super) lead: Cow<'t, str>,
    pub(super) key: Option<Key<'t>>,
    pub(super) value: Node<'t>,
    /// Trivia after it, on its line.
    pub(super) trail: Cow<'t, str>,
}

/// The key of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key<'t> {
    pub(super) name: String,
    /// As it is spelled, up to the value.
    pub(super) raw: Cow<'t, str>,
}

impl<'t> Document<'t> {
    /// Reads a file; `None` if it is not JSON, has a key twice in one object, or is too deep or too long.
    pub(super) fn read(text: &'t str) -> Option<Self> {
        let mut reader = Reader { text, at: 0, nodes: 0, comments: Vec::new() };
        let lead = reader.trivia()?.0;
        let root = reader.node(0)?;
        let tail = reader.trivia()?.0;
        (reader.at == text.len()).then_some(Self { lead, root, tail, comments: reader.comments })
    }
}

impl Node<'_> {
    /// Whether two values differ in nothing but spaces.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        match (&self.shape, &other.shape) {
            (Shape::Scalar, Shape::Scalar) => self.raw == other.raw,
            (Shape::Object(list), Shape::Object(other)) | (Shape::Array(list), Shape::Array(other)) => {
                let key = |member: &Member<'_>| member.key.as_ref().map(|key| (key.name.clone(), bare(&key.raw)));
                bare(list.open) == bare(other.open)
                    && bare(list.close) == bare(other.close)
                    && list.members.len() == other.members.len()
                    && list.members.iter().zip(&other.members).all(|(member, other)| {
                        key(member) == key(other)
                            && bare(&member.lead) == bare(&other.lead)
                            && bare(&member.trail) == bare(&other.trail)
                            && member.value.says_the_same(&other.value)
                    })
            }
            _ => false,
        }
    }

    /// The string that the value is.
    pub(super) fn word(&self) -> Option<String> {
        (self.raw.starts_with('"')).then(|| serde_json::from_str(&self.raw).ok())?
    }
}

/// Trivia without its spaces.
pub(super) fn bare(trivia: &str) -> String {
    trivia.split_whitespace().collect()
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    nodes: usize,
    comments: Vec<&'t str>,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    /// Takes spaces and comments: all of them, and how many bytes of them are on the first line.
    fn trivia(&mut self) -> Option<(&'t str, usize)> {
        let begin = self.at;
        let mut line = None;
        loop {
            let rest = self.rest();
            let length = match rest.as_bytes() {
                [b' ' | b'\t' | b'\r' | b'\n', ..] => 1,
                [b'/', b'/', ..] => rest.find('\n').map_or(rest.len(), |end| end + 1),
                [b'/', b'*', ..] => rest.get(2..)?.find("*/")? + 4,
                _ => return Some((&self.text[begin..self.at], line.unwrap_or(0))),
            };
            if length > 1 {
                self.comments.push(rest[..length].trim_end());
            }
            self.at += length;
            if rest.starts_with('\n') || rest.starts_with("//") {
                line.get_or_insert(self.at - begin);
            }
        }
    }

    fn node(&mut self, depth: usize) -> Option<Node<'t>> {
        self.nodes += 1;
        if depth > MAX_DEPTH || self.nodes > MAX_NODES {
            return None;
        }
        let begin = self.at;
        let shape = if self.eat("{") {
            Shape::Object(self.list(depth, true)?)
        } else if self.eat("[") {
            Shape::Array(self.list(depth, false)?)
        } else {
            self.scalar()?;
            Shape::Scalar
        };
        Some(Node { raw: Cow::Borrowed(&self.text[begin..self.at]), shape })
    }

    fn list(&mut self, depth: usize, keys: bool) -> Option<List<'t>> {
        let end = if keys { "}" } else { "]" };
        let (first, line) = self.trivia()?;
        let mut list = List { open: &first[..line], ..List::default() };
        let mut lead = &first[line..];
        let mut names = BTreeSet::new();
        loop {
            if self.eat(end) {
                list.close = lead;
                return Some(list);
            }
            let key = if keys { Some(self.key()?) } else { None };
            if key.as_ref().is_some_and(|key| !names.insert(key.name.clone())) {
                return None;
            }
            let value = self.node(depth + 1)?;
            let (before, line) = self.trivia()?;
            list.comma = self.eat(",");
            let (trail, after) = if list.comma {
                let (after, line) = self.trivia()?;
                (join(before, &after[..line]), &after[line..])
            } else {
                (Cow::Borrowed(&before[..line]), &before[line..])
            };
            list.members.push(Member { lead: Cow::Borrowed(lead), key, value, trail });
            lead = after;
            if !list.comma && !self.rest().starts_with(end) {
                return None;
            }
        }
    }

    fn key(&mut self) -> Option<Key<'t>> {
        let begin = self.at;
        self.string()?;
        let name = serde_json::from_str(&self.text[begin..self.at]).ok()?;
        self.trivia()?;
        let colon = self.eat(":");
        self.trivia()?;
        colon.then(|| Key { name, raw: Cow::Borrowed(&self.text[begin..self.at]) })
    }

    fn string(&mut self) -> Option<()> {
        let mut escaped = false;
        let body = self.rest().strip_prefix('"')?;
        let length = body.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        })?;
        self.at += length + 2;
        Some(())
    }

    fn scalar(&mut self) -> Option<()> {
        let begin = self.at;
        if self.rest().starts_with('"') {
            self.string()?;
        } else {
            let part = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
            self.at += self.rest().bytes().take_while(|byte| part(*byte)).count();
        }
        serde_json::from_str::<serde_json::Value>(&self.text[begin..self.at]).ok().map(|_| ())
    }
}

fn join<'t>(first: &'t str, second: &'t str) -> Cow<'t, str> {
    if first.is_empty() { Cow::Borrowed(second) } else { Cow::Owned([first, second].concat()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_what_editors_take_for_it_is_read() {
        for text in ["{}", " [1, -2.5e3, true, null, \"\\u00e9\"]\n", "// c\n{\"a\": 1, /* b */ \"b\": {},}", "{\n}"] {
            assert_eq!(
                Document::read(text).map(|read| read.root.raw),
                Some(text.trim_start_matches("// c\n").trim().into())
            );
        }
        let deep = ["[".repeat(100_000), "]".repeat(100_000)].concat();
        let many = ["[", &"0,".repeat(MAX_NODES), "0]"].concat();
        let foreign = [
            "",
            "{",
            "{\"a\": 1 \"b\": 2}",
            "{a: 1}",
            "[1] x",
            "{\"a\": 1, \"a\": 2}",
            "/*",
            "[,]",
            "\"",
            "01",
            &deep,
            &many,
        ];
        for text in foreign {
            assert!(Document::read(text).is_none(), "{}", text.chars().take(40).collect::<String>());
        }
    }
}
