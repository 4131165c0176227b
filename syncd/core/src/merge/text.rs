//! A content as text: that it is one, its lines, and lines back to text.
//!
//! Everything that cannot be told apart line by line without loss is turned away here: bytes that are not UTF-8, NUL,
//! line ends of both kinds in one file, contents that are too long.

use crate::merge::sides::Sides;

/// The largest content that is merged, and the largest that comes of a merge, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// The most lines of a content that is merged. This bounds the memory for lists of lines.
const MAX_LINES: usize = 1 << 15;

/// From how many bytes on half a file counts as cut off.
const MIN_CUT: usize = 512;

/// How the lines of a text end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineEnd {
    Lf,
    CrLf,
}

/// A content that is text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'t> {
    text: &'t str,
    /// `None`: it has no line end.
    end: Option<LineEnd>,
}

impl<'t> Text<'t> {
    /// Reads a content; `None` if it is not text of the kind that is merged.
    pub(super) fn read(bytes: &'t [u8]) -> Option<Self> {
        if bytes.len() > MAX_BYTES || bytes.contains(&0) {
            return None;
        }
        let text = std::str::from_utf8(bytes).ok()?;
        let ends = text.matches('\n').count();
        if ends > MAX_LINES {
            return None;
        }
        let end = match text.matches("\r\n").count() {
            _ if ends == 0 => None,
            0 => Some(LineEnd::Lf),
            pairs if pairs == ends => Some(LineEnd::CrLf),
            _ => return None,
        };
        Some(Self { text, end })
    }

    /// The text itself.
    pub(super) fn as_str(&self) -> &'t str {
        self.text
    }

    /// Its lines, without their ends.
    pub(super) fn lines(&self) -> Vec<&'t str> {
        let end = self.end.unwrap_or(LineEnd::Lf).as_str();
        let mut lines: Vec<&str> = self.text.split(end).collect();
        lines.pop_if(|last| last.is_empty());
        lines
    }

    /// Whether its last line has an end; a text without lines counts as one whose lines all have.
    fn is_closed(&self) -> bool {
        self.text.is_empty() || self.text.ends_with('\n')
    }
}

impl LineEnd {
    fn as_str(self) -> &'static str {
        match self {
            Self::Lf => "\n",
            Self::CrLf => "\r\n",
        }
    }
}

/// Whether lines of the three can stand in one file: their ends are alike, and no side lost most of it.
///
/// A file that was emptied or cut off met with an accident more often than with a person; it is not merged.
pub(super) fn alike(sides: &Sides<Text<'_>>) -> bool {
    let was = sides.base.text.trim().len();
    let is_cut = |side: &Text<'_>| {
        let is = side.text.trim().len();
        (is == 0 && was > 0) || (was >= MIN_CUT && is < was / 2)
    };
    let Sides { base, x, y } = sides.map(|side| side.end);
    let ends: Vec<LineEnd> = [base, x, y].into_iter().flatten().collect();
    ends.windows(2).all(|pair| pair[0] == pair[1]) && !is_cut(&sides.x) && !is_cut(&sides.y)
}

/// Makes a text of merged lines, with the line ends of the three.
pub(super) fn compose(lines: &[&str], sides: &Sides<Text<'_>>) -> String {
    let end = [sides.base, sides.x, sides.y].into_iter().find_map(|side| side.end).unwrap_or(LineEnd::Lf).as_str();
    let closed = sides.map(|side| side.is_closed()).pick().unwrap_or(true);
    let mut text = lines.join(end);
    // Without an end, an empty last line would not be a line.
    if lines.last().is_some_and(|last| closed || last.is_empty()) {
        text.push_str(end);
    }
    text
}

/// Whether a line holds nothing that could be lost.
pub(super) fn is_blank(line: &str) -> bool {
    line.trim().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_as_they_were() {
        for text in ["", "\n", "a", "a\n", "a\r\n", "a\n\n", "\n\na", "a\r\n\r\nb", "a\rb\n"] {
            let read = Text::read(text.as_bytes()).expect("text");
            assert_eq!(compose(&read.lines(), &Sides { base: read, x: read, y: read }), text, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_plain_text_is_turned_away() {
        let long = vec![b'a'; MAX_BYTES + 1];
        let many = vec![b'\n'; MAX_LINES + 1];
        for bytes in [&b"a\0b"[..], b"\xff", b"a\r\nb\n", b"a\nb\r\n", &long, &many] {
            assert!(Text::read(bytes).is_none());
        }
    }
}
