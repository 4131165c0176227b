//! Names and ids of conflict siblings: the same on every machine, from the state alone.
//!
//! A sibling lies beside the entry that it lost to and keeps its stem and extension:
//! `STEM (conflict, DEVICE, TAG).EXT`. The tag is the end of the node id in hex, so two siblings of one
//! file never meet; names never nest. Which version becomes a sibling is [`crate::view`]'s decision.

use hearth_schemas::ids::NodeId;
use hearth_schemas::item::{Dot, MAX_NAME, Name};

use crate::git;

const MARK: &str = " (conflict, ";
/// The same in the name of a ref, which can hold neither spaces nor much else.
const REF_MARK: &str = "-conflict-";
/// Room that git needs behind the name of a ref, for that of its lock.
const LOCK_ROOM: usize = 5;

/// How the siblings in a directory are called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Naming {
    /// `STEM (conflict, DEVICE, TAG).EXT`.
    File,
    /// `NAME-conflict-DEVICE-TAG`, which git takes for the name of a ref.
    Ref,
}

impl Naming {
    /// How the siblings in the directory at this path are called.
    pub fn of(dir: &[u8]) -> Self {
        if git::names_refs(dir) { Self::Ref } else { Self::File }
    }
}

/// The id of the entry that shows the losing version `dot` of `node`, and of the row that it becomes when a
/// person touches it.
pub fn derived_id(node: NodeId, dot: Dot) -> NodeId {
    let mut hasher = blake3::Hasher::new_derive_key("hearth derived sibling v1");
    hasher.update(&node.0);
    hasher.update(&dot.replica.0.to_le_bytes());
    hasher.update(&dot.seq.to_le_bytes());
    NodeId(hasher.finalize().as_bytes()[..16].try_into().expect("a hash has 32 bytes"))
}

/// The sibling name for `node`, registered as `name`, last written on the device called `birth_name`, with a
/// tag of `digits` hexadecimal digits (at most 32).
pub fn sibling_name(naming: Naming, name: &Name, birth_name: &str, node: NodeId, digits: usize) -> Name {
    let origin = registered(naming, name).unwrap_or_else(|| name.clone());
    let hex = node.to_string();
    let tag = &hex[hex.len().saturating_sub(digits)..];
    if naming == Naming::Ref {
        let tail = ref_suffix(birth_name, tag);
        let stem = cut(origin.as_bytes(), MAX_NAME.saturating_sub(tail.len() + LOCK_ROOM));
        return Name::new([stem, tail.as_bytes()].concat()).expect("a name cut to the limit, of a name and letters");
    }
    let (stem, extension) = split(origin.as_bytes());
    let device: String = birth_name.chars().map(|c| if c == '/' || c == '\0' || c == ')' { '-' } else { c }).collect();
    let tail = format!("{MARK}{device}, {tag})");
    let room = MAX_NAME.saturating_sub(tail.len() + extension.len());
    let mut bytes = cut(stem, room).to_vec();
    bytes.extend_from_slice(tail.as_bytes());
    bytes.extend_from_slice(extension);
    Name::new(bytes).expect("a name cut to the limit, of a name and text without slashes")
}

/// What follows the name of a ref in the name of another value of it.
pub fn ref_suffix(birth_name: &str, tag: &str) -> String {
    let letter = |c: char| if c.is_alphanumeric() || c == '_' { c } else { '-' };
    let device: String = birth_name.chars().map(letter).take(60).collect();
    format!("{REF_MARK}{device}-{tag}")
}

/// The registered name that a sibling's name points back to, with its extension.
pub fn registered(naming: Naming, name: &Name) -> Option<Name> {
    let bytes = name.as_bytes();
    if naming == Naming::Ref {
        return origin_of_ref(bytes).and_then(Name::new);
    }
    let (start, end) = find_mark(bytes)?;
    let mut original = bytes[..start].to_vec();
    original.extend_from_slice(&bytes[end..]);
    Name::new(original)
}

/// The name of the ref that this is another value of.
pub fn origin_of_ref(name: &[u8]) -> Option<&[u8]> {
    find_ref_mark(name).map(|(start, _)| &name[..start])
}

/// Whether a name may be a sibling's, wherever it stands.
pub fn may_be_sibling(name: &Name) -> bool {
    [Naming::File, Naming::Ref].into_iter().any(|naming| registered(naming, name).is_some())
}

/// What the names of all siblings of an entry begin with.
pub fn family(naming: Naming, original: &Name) -> Vec<u8> {
    match naming {
        Naming::File => [split(original.as_bytes()).0, MARK.as_bytes()].concat(),
        Naming::Ref => [original.as_bytes(), REF_MARK.as_bytes()].concat(),
    }
}

/// The birth name of the device that a sibling's name tells.
pub fn birth_name(naming: Naming, name: &Name) -> Option<String> {
    let bytes = name.as_bytes();
    if naming == Naming::Ref {
        let (start, end) = find_ref_mark(bytes)?;
        return Some(String::from_utf8_lossy(&bytes[start + REF_MARK.len()..end]).into_owned());
    }
    let (start, end) = find_mark(bytes)?;
    let inner = &bytes[start + MARK.len()..end - 1];
    let comma = inner.windows(2).rposition(|pair| pair == b", ")?;
    Some(String::from_utf8_lossy(&inner[..comma]).into_owned())
}

/// Start of the mark and end of its closing parenthesis, if the name is a sibling's.
fn find_mark(name: &[u8]) -> Option<(usize, usize)> {
    let start = name.windows(MARK.len()).position(|window| window == MARK.as_bytes())?;
    let end = start + name[start..].iter().position(|&byte| byte == b')')? + 1;
    let inner = &name[start + MARK.len()..end - 1];
    let tag = inner.rsplit(|&byte| byte == b' ').next()?;
    let tagged = tag.len() >= 6 && tag.iter().all(u8::is_ascii_hexdigit);
    (start > 0 && tagged).then_some((start, end))
}

/// Start of the mark in the name of a ref, and end of the device's name after it.
fn find_ref_mark(name: &[u8]) -> Option<(usize, usize)> {
    let start = name.windows(REF_MARK.len()).rposition(|window| window == REF_MARK.as_bytes())?;
    let dash = name.iter().rposition(|&byte| byte == b'-')?;
    let tag = &name[dash + 1..];
    let tagged = tag.len() >= 6 && tag.iter().all(u8::is_ascii_hexdigit);
    (start > 0 && dash > start + REF_MARK.len() && tagged).then_some((start, dash))
}

/// Stem and extension with its dot; a leading dot begins a stem.
fn split(name: &[u8]) -> (&[u8], &[u8]) {
    let dot = name.iter().rposition(|&byte| byte == b'.').filter(|&at| at > 0 && name.len() - at <= 12);
    match dot {
        Some(at) => name.split_at(at),
        None => (name, &[]),
    }
}

/// At most `room` bytes of `stem`, cut at a character boundary where it is UTF-8.
fn cut(stem: &[u8], room: usize) -> &[u8] {
    let mut end = stem.len().min(room.max(1));
    while end > 1 && end < stem.len() && stem[end] & 0xC0 == 0x80 {
        end -= 1;
    }
    &stem[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sibling_keeps_stem_and_extension() {
        let table = [
            ("notes.txt", "notes (conflict, laptop, abcdef).txt"),
            (".bashrc", ".bashrc (conflict, laptop, abcdef)"),
            ("archive.tar.gz", "archive.tar (conflict, laptop, abcdef).gz"),
            ("README", "README (conflict, laptop, abcdef)"),
        ];
        for (name, wanted) in table {
            assert_eq!(sibling_name(Naming::File, &named(name), "laptop", NODE, 6), named(wanted));
        }
    }

    #[test]
    fn names_do_not_nest() {
        for name in ["notes.txt", "README"] {
            let once = sibling_name(Naming::File, &named(name), "laptop", NODE, 6);
            assert_eq!(registered(Naming::File, &once), Some(named(name)));
            let again =
                sibling_name(Naming::File, &registered(Naming::File, &once).expect("a sibling"), "desktop", NODE, 8);
            assert_eq!(registered(Naming::File, &again), Some(named(name)));
        }
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let long = named(&("é".repeat(120) + ".odt"));
        let sibling = sibling_name(Naming::File, &long, "laptop", NODE, 6);
        assert!(sibling.as_bytes().len() <= MAX_NAME);
        assert!(std::str::from_utf8(sibling.as_bytes()).is_ok());
        assert!(sibling.as_bytes().ends_with(b").odt"));
    }

    #[test]
    fn an_ordinary_name_with_parentheses_is_no_sibling() {
        for name in ["a (conflict, b).txt", " (conflict, x, abcdef)", "plain", "x (conflict, y, zzzzzz).t"] {
            assert_eq!(registered(Naming::File, &named(name)), None, "{name}");
        }
    }

    #[test]
    fn the_sibling_of_a_ref_is_a_ref() {
        for name in ["main", "v1.2", "fix-conflict-in-tests"] {
            let sibling = sibling_name(Naming::Ref, &named(name), "Anna's laptop~1", NODE, 6);
            assert_eq!(sibling, named(&format!("{name}-conflict-Anna-s-laptop-1-abcdef")));
            assert_eq!(registered(Naming::Ref, &sibling), Some(named(name)));
            assert_eq!(birth_name(Naming::Ref, &sibling).as_deref(), Some("Anna-s-laptop-1"));
            let again = sibling_name(Naming::Ref, &sibling, "desktop", NODE, 8);
            assert_eq!(registered(Naming::Ref, &again), Some(named(name)));
        }
        for name in ["main", "main-conflict-abcdef", "-conflict-x-abcdef", "a-conflict-x-branch"] {
            assert_eq!(registered(Naming::Ref, &named(name)), None, "{name}");
        }
        let long = sibling_name(Naming::Ref, &named(&"b".repeat(255)), "laptop", NODE, 6);
        assert!(long.as_bytes().len() + b".lock".len() <= MAX_NAME);
    }

    const NODE: NodeId = NodeId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 0xab, 0xcd, 0xef]);

    fn named(text: &str) -> Name {
        Name::new(text).expect("valid")
    }
}
