//! Turns answers into text for a terminal, or into JSON that is safe to print on one.
//!
//! Names, paths and values were written by other machines and may try to lie: whatever moves the cursor, turns the
//! direction of writing or cannot be seen is shown as an escape. Everything that a command prints goes through
//! [`print`]; everything that is not ours goes through [`shown`] or one of its callers first.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::builder::styling::{AnsiColor, Style as Ansi};
use jiff::Timestamp;
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use crate::error::{Exit, Failure};
use crate::when;

/// Prints on stdout. That nobody reads on is no failure worth a word.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::new(Exit::Done, "", ""),
        _ => Failure::failed(format!("cannot write the output: {error}"), "check where it goes to, and for room there"),
    })
}

/// One line of JSON in which nothing acts on a terminal.
pub(crate) fn json(value: &Value) -> String {
    let mut text = String::new();
    for c in value.to_string().chars() {
        if acts(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(text, "\\u{unit:04x}").expect("writing to a string does not fail");
            }
        } else {
            text.push(c);
        }
    }
    text + "\n"
}

/// A text from elsewhere on one line, with whatever would act on a terminal escaped.
pub(crate) fn shown(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// A path likewise; bytes that are not UTF-8 are shown as `\xNN`.
pub(crate) fn path(path: &Path) -> String {
    bytes(path.as_os_str().as_bytes())
}

fn bytes(bytes: &[u8]) -> String {
    let mut line = String::new();
    for chunk in bytes.utf8_chunks() {
        line += &shown(chunk.valid());
        for byte in chunk.invalid() {
            write!(line, "\\x{byte:02x}").expect("writing to a string does not fail");
        }
    }
    line
}

/// Whether a character does something to a terminal or to the reader's eye other than showing itself.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(c, '\u{ad}' | '\u{180e}' | '\u{200b}' | '\u{2028}' | '\u{2029}' | '\u{2060}'..='\u{2065}')
        || matches!(c, '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A text field, escaped; empty if it is absent or null.
pub(crate) fn text(value: &Value, field: &str) -> String {
    match &value[field] {
        Value::Null => String::new(),
        Value::String(text) => shown(text),
        other => shown(&other.to_string()),
    }
}

/// A path field, from its bytes where it is not UTF-8.
pub(crate) fn item(value: &Value, field: &str) -> String {
    let base64 = value[format!("{field}_b64")].as_str();
    match base64.and_then(|text| data_encoding::BASE64.decode(text.as_bytes()).ok()) {
        Some(raw) => bytes(&raw),
        None => text(value, field),
    }
}

/// A count field.
pub(crate) fn count(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or(0)
}

/// The members of a list, or of the list in `field`.
pub(crate) fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.as_array().or_else(|| value[field].as_array()).map_or(&[], Vec::as_slice)
}

/// A time field, relative to now.
pub(crate) fn ago(value: &Value, field: &str, now: Timestamp) -> Option<String> {
    value[field].as_str()?.parse().ok().map(|then| when::relative(then, now))
}

/// A time field, as local date and time.
pub(crate) fn moment(value: &Value, field: &str) -> String {
    match value[field].as_str().and_then(|time| time.parse().ok()) {
        Some(then) => when::local(then),
        None => text(value, field),
    }
}

/// A number of bytes in the largest unit that leaves a whole part.
pub(crate) fn size(bytes: u64) -> String {
    let mut tenths = u128::from(bytes) * 10;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if tenths < 10_240 || unit == "TiB" {
            let whole = tenths / 10;
            return if unit == "B" || whole >= 100 {
                format!("{whole} {unit}")
            } else {
                format!("{whole}.{} {unit}", tenths % 10)
            };
        }
        tenths /= 1024;
    }
    unreachable!("the last unit takes whatever is left")
}

/// `1 machine`, `2 machines`.
pub(crate) fn plural(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

/// Names in a row: `a`, `a and b`, `a, b and c`.
pub(crate) fn names(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub colours: bool,
}

impl Style {
    pub(crate) fn good(self, text: &str) -> String {
        self.paint(AnsiColor::Green.on_default(), text)
    }

    pub(crate) fn careful(self, text: &str) -> String {
        self.paint(AnsiColor::Yellow.on_default(), text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.paint(AnsiColor::Red.on_default(), text)
    }

    pub(crate) fn strong(self, text: &str) -> String {
        self.paint(Ansi::new().bold(), text)
    }

    pub(crate) fn faint(self, text: &str) -> String {
        self.paint(Ansi::new().dimmed(), text)
    }

    fn paint(self, style: Ansi, text: &str) -> String {
        if self.colours && !text.is_empty() {
            format!("{}{text}{}", style.render(), style.render_reset())
        } else {
            text.to_owned()
        }
    }
}

/// Columns that line up, two spaces apart. Cells are plain; a row may be painted as a whole.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With a heading.
    pub(crate) fn headed(titles: &[&str]) -> Self {
        Self { rows: vec![titles.iter().map(|title| (*title).to_owned()).collect()] }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The lines, each with its row number for `paint`; row 0 is the heading, if there is one.
    pub(crate) fn lines(&self, indent: &str, paint: impl Fn(usize, &str) -> String) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line += cell;
                line += &" ".repeat(width - cell.width() + 2);
            }
            text += indent;
            text += &paint(number, line.trim_end());
            text.push('\n');
        }
        text
    }

    /// The lines with a faint heading.
    pub(crate) fn with_heading(&self, indent: &str, style: Style) -> String {
        self.lines(indent, |row, line| if row == 0 { style.faint(line) } else { line.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_escaped() {
        let table: [(&[u8], &str); 6] = [
            (b"plain \xc3\xa9\xe2\x82\xac.txt", "plain é€.txt"),
            (b"a\x1b[2Jb\nc\x07", "a\\u{1b}[2Jb\\nc\\u{7}"),
            ("photo\u{202e}gpj.exe".as_bytes(), "photo\\u{202e}gpj.exe"),
            ("a\u{2066}b\u{200f}c\u{feff}d\u{9b}31m".as_bytes(), "a\\u{2066}b\\u{200f}c\\u{feff}d\\u{9b}31m"),
            (b"latin\xe9", "latin\\xe9"),
            (b"", ""),
        ];
        for (raw, wanted) in table {
            assert_eq!(path(Path::new(OsStr::from_bytes(raw))), wanted);
        }
    }

    #[test]
    fn json_means_the_same_and_acts_on_nothing() {
        let value = serde_json::json!({"path": "a\u{202e}\u{9b}\u{e0041}\u{1b}é"});
        let text = json(&value);
        assert!(!text.trim_end().chars().any(acts), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("it is JSON"), value);
    }

    #[test]
    fn a_size_has_one_unit() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_500_000, "1.4 MiB"),
            (200 << 30, "200 GiB"),
            (u64::MAX, "16777215 TiB"),
        ];
        for (bytes, wanted) in table {
            assert_eq!(size(bytes), wanted);
        }
    }

    #[test]
    fn columns_line_up_by_what_is_seen() {
        let mut table = Table::headed(&["A", "B"]);
        table.row(["日本".to_owned(), "x".to_owned()]);
        table.row(["éa".to_owned(), String::new()]);
        assert_eq!(table.with_heading(" ", Style { colours: false }), " A     B\n 日本  x\n éa\n");
    }
}
