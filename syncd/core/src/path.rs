//! Paths below the synced root: bytes, components joined by `/`; the empty path is the root.

use hearth_schemas::item::Name;

/// A path below the root.
pub type RelPath = Vec<u8>;

/// Appends a component to a path.
pub fn join(dir: &[u8], name: &Name) -> RelPath {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.as_bytes().len());
    if !dir.is_empty() {
        path.extend_from_slice(dir);
        path.push(b'/');
    }
    path.extend_from_slice(name.as_bytes());
    path
}

/// A path's directory and its last component.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// The directories above a path, the outermost first; the root is not among them.
pub fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at])
}

/// How many directories lie above a path, the root not counted.
pub fn depth(path: &[u8]) -> usize {
    above(path).count()
}

/// Whether a path is this one or lies below it.
pub fn is_at_or_below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_apart_and_put_together() {
        let name = Name::new("c").expect("a valid name");
        assert_eq!(join(b"a/b", &name), b"a/b/c");
        assert_eq!(join(b"", &name), b"c");
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"c"), (&b""[..], &b"c"[..]));
        assert_eq!(above(b"a/b/c").collect::<Vec<_>>(), [&b"a"[..], b"a/b"]);
        assert_eq!((depth(b"c"), depth(b"a/b/c")), (0, 2));
    }

    #[test]
    fn what_begins_alike_does_not_lie_below() {
        assert!(is_at_or_below(b"a/b", b"a") && is_at_or_below(b"a", b"a") && is_at_or_below(b"a", b""));
        assert!(!is_at_or_below(b"ab", b"a") && !is_at_or_below(b"a", b"a/b"));
    }
}
