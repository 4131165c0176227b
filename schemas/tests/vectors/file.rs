//! Reads and writes the files of golden bytes.
//!
//! Most files have lines of one shape, which [`Case`] is: what is encoded, a name for the case, the outcome, the bytes.
//! What is `good` decodes and encodes to the same bytes again; everything else is refused for the reason that stands
//! there. Bytes are hex, and a piece that comes again and again is written once: `78*255`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use hearth_schemas::codec::{self, DecodeError};
use serde::Serialize;

/// The outcome of what decodes.
const GOOD: &str = "good";
/// A piece is written once from so many times on.
const OFTEN: usize = 64;
/// Longest piece that is written once, in bytes.
const LONGEST_PIECE: usize = 48;
/// What is longer is not changed in every place, in bytes.
const SHORT: usize = 512;

/// One line: some bytes, and whether they are read.
pub(crate) struct Case {
    format: &'static str,
    name: &'static str,
    outcome: &'static str,
    bytes: Vec<u8>,
}

impl Case {
    /// A value that is read back.
    pub(crate) fn good(format: &'static str, name: &'static str, value: &impl Serialize) -> Self {
        Self { format, name, outcome: GOOD, bytes: codec::encode(value) }
    }

    /// Bytes that are what they are, without an encoder's length before them.
    pub(crate) fn bytes(format: &'static str, name: &'static str, bytes: Vec<u8>) -> Self {
        Self { format, name, outcome: GOOD, bytes }
    }

    /// Bytes that are refused.
    pub(crate) fn bad(format: &'static str, name: &'static str, outcome: &'static str, bytes: Vec<u8>) -> Self {
        Self { format, name, outcome, bytes }
    }
}

/// Writes a file of cases, with a comment before them.
pub(crate) fn cases(comment: &str, cases: &[Case]) -> String {
    let names: BTreeSet<_> = cases.iter().map(|case| (case.format, case.name)).collect();
    assert_eq!(names.len(), cases.len(), "each name stands once");
    let mut out = format!("# {comment}\n");
    for Case { format, name, outcome, bytes } in cases {
        let line = format!("{format} {name} {outcome} {}", words(bytes));
        writeln!(out, "{}", line.trim_end()).expect("memory");
    }
    out
}

/// Reads one line of cases with `read`, which decodes and encodes again. Gives the outcome.
pub(crate) fn read_case(line: &[String], read: impl Fn(&str, &[u8]) -> Result<Vec<u8>, String>) -> String {
    let [format, name, wanted, words @ ..] = line else { panic!("unknown line {line:?}") };
    let bytes = bytes(words);
    let outcome = match read(format, &bytes) {
        Ok(again) => {
            assert!(again == bytes, "{format} {name} is read as another");
            stays_exact(&bytes, |bytes| read(format, bytes));
            GOOD.to_owned()
        }
        Err(reason) => reason,
    };
    assert_eq!(outcome, *wanted, "{format} {name}");
    outcome
}

/// What decodes as it is, encoded again; or why it does not decode.
pub(crate) fn again<T: Serialize>(read: Result<T, DecodeError>) -> Result<Vec<u8>, String> {
    read.map(|value| codec::encode(&value)).map_err(|error| reason(error).to_owned())
}

/// The word for why bytes are not a value.
pub(crate) fn reason(error: DecodeError) -> &'static str {
    match error {
        DecodeError::TooLong { .. } => "TooLong",
        DecodeError::Malformed => "Malformed",
        DecodeError::NotCanonical => "NotCanonical",
    }
}

/// Bytes without the last.
pub(crate) fn cut(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.pop().expect("not empty");
    bytes
}

/// Bytes with one more behind them.
pub(crate) fn longer(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.push(0);
    bytes
}

/// Bytes with another in one place.
pub(crate) fn changed(mut bytes: Vec<u8>, place: usize, byte: u8) -> Vec<u8> {
    bytes[place] = byte;
    bytes
}

/// Compares what the code writes with what is kept in a file, or keeps it if that is asked for.
pub(crate) fn same_as_file(name: &str, made: &str) {
    let path = file(name);
    if std::env::var_os("HEARTH_BLESS").is_some() {
        std::fs::write(&path, made).expect("the vectors can be written");
    }
    let kept = std::fs::read_to_string(&path).expect("the vectors can be read");
    assert!(kept == made, "{name} is not what the code writes; see the head of `main.rs`");
}

/// The words of each line that is no comment.
pub(crate) fn lines(name: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(file(name)).expect("the vectors can be read");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

/// The bytes of a word.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).expect("lower-case hex")
}

/// The bytes of the words of a line.
pub(crate) fn bytes(words: &[String]) -> Vec<u8> {
    let piece = |word: &String| match word.split_once('*') {
        Some((piece, count)) => hex(piece).repeat(count.parse().expect("a number")),
        None => hex(word),
    };
    words.iter().flat_map(piece).collect()
}

/// Bytes cut or lengthened are no value, and with a bit turned anywhere they are none or exactly another.
fn stays_exact(bytes: &[u8], read: impl Fn(&[u8]) -> Result<Vec<u8>, String>) {
    if bytes.len() > SHORT {
        return;
    }
    assert!(read(&longer(bytes.to_vec())).is_err(), "a byte too many");
    for len in 0..bytes.len() {
        assert!(read(&bytes[..len]).is_err(), "cut to {len} bytes");
    }
    for bit in 0..bytes.len() * 8 {
        let turned = changed(bytes.to_vec(), bit / 8, bytes[bit / 8] ^ (1 << (bit % 8)));
        assert!(!read(&turned).is_ok_and(|again| again != turned), "bit {bit}");
    }
}

fn words(bytes: &[u8]) -> String {
    let mut words = Vec::new();
    let (mut plain, mut at) = (0, 0);
    while at < bytes.len() {
        let Some((piece, count)) = repeated(&bytes[at..]) else {
            at += 1;
            continue;
        };
        if plain < at {
            words.push(HEXLOWER.encode(&bytes[plain..at]));
        }
        words.push(format!("{}*{count}", HEXLOWER.encode(piece)));
        at += piece.len() * count;
        plain = at;
    }
    if plain < at {
        words.push(HEXLOWER.encode(&bytes[plain..]));
    }
    words.join(" ")
}

/// The shortest piece that bytes begin with many times over, and how often.
fn repeated(bytes: &[u8]) -> Option<(&[u8], usize)> {
    (1..=LONGEST_PIECE).find_map(|len| {
        let piece = bytes.get(..len)?;
        let count = bytes.chunks(len).take_while(|found| *found == piece).count();
        (count >= OFTEN).then_some((piece, count))
    })
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name)
}
