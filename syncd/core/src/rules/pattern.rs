//! The patterns of home rules: from text to something that matches paths.
//!
//! ```text
//! "/.config/{a;b}/" → parse (checked) → regex   for "which line is first", all lines in one set
//!                                     → branches for "may something below this directory match"
//! ```
//!
//! A leading `/` anchors a pattern at the home; without it, it matches at any depth. `*` and `?` stay inside a name,
//! `**` crosses folders, `{a;b}` lists alternatives, `[0-9]` is a class, and a trailing `/` means a folder and all
//! below it. Everything below a match matches too. Patterns are text; paths are bytes, and `?` takes one character
//! where the bytes are UTF-8 and one byte where they are not.

use regex::bytes::Regex;

/// Longest pattern, in bytes.
const MAX_PATTERN: usize = 1024;
/// Most alternatives that the braces of one pattern may multiply to.
const MAX_BRANCHES: usize = 512;

/// What is wrong with a pattern, and what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing to match.
    #[error("the pattern is empty; `**` stands for everything")]
    Empty,
    /// Over the limit.
    #[error("the pattern is longer than {MAX_PATTERN} bytes, or its braces have too many alternatives")]
    TooLong,
    /// `{` without `}`, or the reverse.
    #[error("the braces do not pair; alternatives are written `{{a;b}}`")]
    Braces,
    /// `[` without `]`, nothing in it, or something that is not ASCII.
    #[error("the class in brackets is not complete; one is written `[0-9]`")]
    Class,
    /// A part that no path has.
    #[error("`.`, `..`, empty parts and line ends are in no path below the home")]
    NoPath,
}

/// One name of an anchored pattern.
enum Part {
    Literal(Vec<u8>),
    Glob(Regex),
    /// Crosses folders: from here on anything may match.
    Any,
}

/// A checked pattern.
pub(super) struct Pattern {
    /// Matches a whole path, a directory's with `/` at its end.
    pub(super) regex: String,
    /// The names of each alternative; empty for a pattern that is not anchored.
    branches: Vec<Vec<Part>>,
}

impl Pattern {
    /// Checks and compiles a pattern.
    pub(super) fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() || text == "/" {
            return Err(PatternError::Empty);
        }
        if text.len() > MAX_PATTERN {
            return Err(PatternError::TooLong);
        }
        if text == "**" || text == "/**" {
            return Ok(Self { regex: r"(?s-u)\A.*\z".to_owned(), branches: Vec::new() });
        }
        let (anchored, rest) = text.strip_prefix('/').map_or((false, text), |rest| (true, rest));
        let (anchored, rest) = rest.strip_prefix("**/").map_or((anchored, rest), |rest| (false, rest));
        let folder = rest.ends_with('/');
        let body = rest.trim_end_matches('/');
        let mut branches = Vec::new();
        expand(body, &mut branches)?;
        for branch in &branches {
            let odd = |part: &str| part.is_empty() || part == "." || part == "..";
            let branch = branch.trim_end_matches('/');
            if branch.contains(['\0', '\n']) || branch.split('/').any(odd) {
                return Err(PatternError::NoPath);
            }
        }
        let regex = format!(
            r"(?s-u)\A{}{}{}\z",
            if anchored { "" } else { "(?:.*/)?" },
            translate(body)?,
            if folder { "/.*" } else { "(?:/.*)?" },
        );
        let branches = match anchored {
            true => branches
                .iter()
                .map(|branch| branch.trim_end_matches('/').split('/').map(part).collect())
                .collect::<Result<_, _>>()?,
            false => Vec::new(),
        };
        Ok(Self { regex, branches })
    }

    /// Whether this pattern names a place from the home on, rather than something at any depth.
    pub(super) fn anchored(&self) -> bool {
        !self.branches.is_empty()
    }

    /// Whether an anchored pattern may match something below a directory that it does not match itself.
    pub(super) fn reaches_below(&self, dir: &[u8]) -> bool {
        self.branches.iter().any(|branch| {
            let mut parts = branch.iter();
            for name in dir.split(|&byte| byte == b'/') {
                let fits = match parts.next() {
                    None => return false,
                    Some(Part::Any) => return true,
                    Some(Part::Literal(literal)) => literal == name,
                    Some(Part::Glob(regex)) => regex.is_match(name),
                };
                if !fits {
                    return false;
                }
            }
            true
        })
    }
}

fn part(text: &str) -> Result<Part, PatternError> {
    if text.contains("**") {
        return Ok(Part::Any);
    }
    if !text.contains(['*', '?', '[']) {
        return Ok(Part::Literal(text.as_bytes().to_vec()));
    }
    let regex = format!(r"(?s-u)\A{}\z", translate(text)?);
    Ok(Part::Glob(Regex::new(&regex).expect("a translated pattern is a regular expression")))
}

/// Multiplies out the first pair of braces, and so on.
fn expand(text: &str, into: &mut Vec<String>) -> Result<(), PatternError> {
    let mut todo = vec![text.to_owned()];
    while let Some(text) = todo.pop() {
        let Some(open) = text.find('{') else {
            if text.contains('}') {
                return Err(PatternError::Braces);
            }
            into.push(text);
            if into.len() > MAX_BRANCHES {
                return Err(PatternError::TooLong);
            }
            continue;
        };
        let mut depth = 0;
        let mut cuts = vec![open];
        for (at, byte) in text.bytes().enumerate().skip(open) {
            match byte {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                _ => {}
            }
            if (byte == b';' && depth == 1) || depth == 0 {
                cuts.push(at);
            }
            if depth == 0 {
                break;
            }
        }
        if depth != 0 {
            return Err(PatternError::Braces);
        }
        let close = *cuts.last().expect("the closing brace was found");
        for pair in cuts.windows(2) {
            todo.push(format!("{}{}{}", &text[..open], &text[pair[0] + 1..pair[1]], &text[close + 1..]));
        }
        if todo.len() > MAX_BRANCHES {
            return Err(PatternError::TooLong);
        }
    }
    Ok(())
}

fn translate(text: &str) -> Result<String, PatternError> {
    let bytes = text.as_bytes();
    let mut out = String::new();
    let mut at = 0;
    let mut depth = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        at += 1;
        match rest[0] {
            _ if rest.starts_with(b"/**/") => {
                out += "/(?:.*/)?";
                at += 3;
            }
            _ if rest.starts_with(b"**") => {
                out += ".*";
                at += 1;
            }
            // Alone between slashes it stands for a name, and no name is empty.
            b'*' if whole(bytes, at - 1) => out += "[^/]+",
            b'*' => out += "[^/]*",
            b'?' => out += r"(?:[^/\x80-\xff]|[\xc2-\xf4][\x80-\xbf]{1,3}|[\x80-\xff])",
            b'[' => {
                let len = rest.iter().position(|&byte| byte == b']').ok_or(PatternError::Class)?;
                out += &class(&rest[1..len])?;
                at += len;
            }
            b'{' => {
                depth += 1;
                out += "(?:";
            }
            b';' if depth > 0 => out.push('|'),
            b'}' => {
                depth -= 1;
                out.push(')');
            }
            byte if byte.is_ascii_alphanumeric() || byte == b'/' => out.push(char::from(byte)),
            byte => out += &format!(r"\x{byte:02x}"),
        }
    }
    Ok(out)
}

fn whole(text: &[u8], at: usize) -> bool {
    (at == 0 || text[at - 1] == b'/') && matches!(text.get(at + 1), None | Some(b'/'))
}

fn class(inside: &[u8]) -> Result<String, PatternError> {
    let (not, inside) = match inside {
        [b'!' | b'^', rest @ ..] => ("^/", rest),
        _ => ("", inside),
    };
    let usable = |byte: &u8| byte.is_ascii_graphic() && *byte != b'/' && *byte != b'[' || *byte == b' ';
    if inside.is_empty() || !inside.iter().all(usable) {
        return Err(PatternError::Class);
    }
    let mut out = format!("[{not}");
    for (at, &byte) in inside.iter().enumerate() {
        // A range must rise; one with `/` in it would leave the name.
        match byte {
            b'-' if at > 0 && at + 1 < inside.len() => {
                let (low, high) = (inside[at - 1], inside[at + 1]);
                if low > high || (low..=high).contains(&b'/') {
                    return Err(PatternError::Class);
                }
                out.push('-');
            }
            _ => out += &format!(r"\x{byte:02x}"),
        }
    }
    out.push(']');
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &[u8]) -> bool {
        Regex::new(&Pattern::parse(pattern).expect("right").regex).expect("right").is_match(path)
    }

    #[test]
    fn patterns_match_as_documented() {
        assert!(matches("/a/*.txt", b"a/b.txt"));
        assert!(!matches("/a/*.txt", b"a/b/c.txt"));
        assert!(matches("/a/**/c", b"a/c"));
        assert!(matches("/a/**/c", b"a/b/b/c/d"));
        assert!(matches("x?z", "a/xéz".as_bytes()));
        assert!(matches("x?z", b"xyz"));
        assert!(matches("x?z", b"x\xffz"));
        assert!(matches("*.iso", b"x/\xff\xfe.iso"));
        assert!(matches("core.[0-9]*", b"d/core.12"));
        assert!(!matches("f/", b"f"));
        assert!(matches("f/", b"f/"));
        assert!(matches("/f/*", b"f/a/"));
        assert!(!matches("/f/*", b"f/"));
        assert!(matches("/a;b", b"a;b"));
        assert!(matches("/a b/é", "a b/é".as_bytes()));
    }

    #[test]
    fn what_cannot_be_a_pattern_is_refused() {
        for (text, error) in [
            ("", PatternError::Empty),
            ("/", PatternError::Empty),
            ("{a", PatternError::Braces),
            ("a}", PatternError::Braces),
            ("[a", PatternError::Class),
            ("[]", PatternError::Class),
            ("[z-a]", PatternError::Class),
            ("../x", PatternError::NoPath),
            ("/a//b", PatternError::NoPath),
            ("a/./b", PatternError::NoPath),
            (&"x".repeat(2000), PatternError::TooLong),
            (&"{a;b}".repeat(20), PatternError::TooLong),
            ("a-[!a-c]", PatternError::Empty),
        ] {
            match Pattern::parse(text) {
                Err(got) => assert_eq!(got, error, "{text}"),
                Ok(pattern) => assert!(Regex::new(&pattern.regex).is_ok() && error == PatternError::Empty, "{text}"),
            }
        }
    }

    #[test]
    fn an_anchored_pattern_knows_where_it_reaches() {
        let pattern = Pattern::parse("/.a/{b;c*/d}/e").expect("right");
        assert!(pattern.reaches_below(b".a"));
        assert!(pattern.reaches_below(b".a/cx"));
        assert!(!pattern.reaches_below(b".a/x"));
        assert!(!pattern.reaches_below(b".a/b/e/f"));
    }
}
