//! Three contents of one file: the merge is the same whichever side asks, and takes nothing that is not in one of them.

use arbitrary::{Result, Unstructured};
use syncd_core::merge::{MAX_BYTES, may_merge, merge};

/// A path for each format, and what its files are made of.
const FORMATS: [(&[u8], &[&str]); 8] = [
    (
        b".bashrc",
        &[
            "a=1",
            "a=2",
            "alias x=y",
            "fi",
            "if true; then",
            "",
            "# c",
            "export B",
            "cat <<E",
            "E",
            "\\",
            "case x in",
            "esac",
            "'",
            "\t\"$(",
            ")",
        ],
    ),
    (
        b".config/a.ini",
        &["[g]", "[h]", "[i]", "a=1", "a=2", "b=1", "b = 2", "c[de]=1", "# x", "; y", "", "d=", "[", "=", " a", "[g ]"],
    ),
    (
        b".config/a.desktop",
        &[
            "[Desktop Entry]",
            "[Desktop Action n]",
            "Name=x",
            "Name[de]=y",
            "Actions=n;",
            "# x",
            "",
            "Exec=a %u",
            "Name=z",
        ],
    ),
    (
        b".config/a.toml",
        &[
            "[g]",
            "[h]",
            "[g.h]",
            "[[l]]",
            "a = 1",
            "a = 2",
            "b = [1,",
            " 2]",
            "b = 1",
            "# x",
            "",
            "d.e = 1",
            "d = { e = 1 }",
            "s = \"\"\"",
            "\"\"\"",
            "'q r' = '''",
            "'''",
            "\"a\" = 3",
            "[ g ]",
            "t = 1979-05-27",
        ],
    ),
    (
        b".config/a.json",
        &[
            "{",
            "}",
            "[",
            "]",
            "\"a\"",
            "\"b\"",
            ":",
            ",",
            "1",
            "2",
            "null",
            "\"\\u0061\"",
            "// x",
            "/*",
            "*/",
            " ",
            "-0.0",
            "1e3",
        ],
    ),
    (b".ssh/known_hosts", &["a k1", "a k2", "b k3", "c k4", "# x", "", "d k5", " a k1"]),
    (b".gitignore", &["a", "!a", "b/", "*.c", "# x", "", "d", "!b/"]),
    (b".bash_history", &["#1", "#2", "#03", "ls", "cd", "git", "make \\", "", "- cmd: a", "  when: 1"]),
];

/// Most pieces of a side.
const PIECES: usize = 60;

/// The first byte chooses format and kind: pieces of the format, or any bytes.
pub fn run(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    if let Ok((path, [base, x, y])) = three(&mut u) {
        laws(path, &base, &x, &y);
    }
}

fn three(u: &mut Unstructured<'_>) -> Result<(&'static [u8], [Vec<u8>; 3])> {
    let (path, pieces) = *u.choose(&FORMATS)?;
    if u.ratio(1, 4)? {
        return Ok((path, [u.arbitrary()?, u.arbitrary()?, u.arbitrary()?]));
    }
    let end = *u.choose(&["\n", "\n", "\r\n", ""])?;
    let mut base = Vec::new();
    for _ in 0..u.int_in_range(0..=PIECES)? {
        base.push(*u.choose(pieces)?);
    }
    let (x, y) = (edited(u, &base, pieces)?, edited(u, &base, pieces)?);
    let text = |pieces: Vec<&str>| pieces.iter().map(|piece| format!("{piece}{end}")).collect::<String>().into_bytes();
    Ok((path, [text(base), text(x), text(y)]))
}

fn edited<'t>(u: &mut Unstructured<'_>, base: &[&'t str], pieces: &[&'t str]) -> Result<Vec<&'t str>> {
    let mut side = base.to_vec();
    for _ in 0..u.int_in_range(0..=4)? {
        let at = u.choose_index(side.len() + 1)?;
        let end = (at + u.int_in_range(0..=3usize)?).min(side.len());
        let inserted = if u.arbitrary()? { Some(*u.choose(pieces)?) } else { None };
        side.splice(at..end, inserted);
    }
    Ok(side)
}

fn laws(path: &[u8], base: &[u8], x: &[u8], y: &[u8]) {
    assert!(may_merge(path, MAX_BYTES as u64));
    assert_eq!(merge(path, base, x, base).as_deref(), Some(x));
    assert_eq!(merge(path, base, base, y).as_deref(), Some(y));
    assert_eq!(merge(path, base, x, x).as_deref(), Some(x));
    let merged = merge(path, base, x, y);
    assert_eq!(merged, merge(path, base, y, x), "swapping the sides makes a difference");
    let Some(merged) = merged else { return };
    assert!(merged.len() <= MAX_BYTES);
    assert_eq!(merge(path, x, x, &merged).as_deref(), Some(&*merged));
    if base == x || base == y || x == y {
        return;
    }
    let text = str::from_utf8(&merged).expect("only text is merged, into text");
    let sides = [base, x, y].map(|side| str::from_utf8(side).expect("only text is merged"));
    from_somewhere(sides, text);
    if path.ends_with(b".json") && sides.iter().all(|side| is_json(side)) {
        assert!(is_json(text), "{sides:?} gives {text:?}");
    }
    if path.ends_with(b".toml") && sides.iter().all(|side| is_toml(side)) {
        assert!(is_toml(text), "{sides:?} gives {text:?}");
    }
}

/// No word of the result is in neither side.
fn from_somewhere([_, x, y]: [&str; 3], merged: &str) {
    let words = |text: &str| text.split(|c: char| !c.is_alphanumeric()).map(str::to_owned).collect::<Vec<_>>();
    let (x, y) = (words(x), words(y));
    for word in words(merged) {
        assert!(x.contains(&word) || y.contains(&word), "{word:?} is from nowhere");
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(text).is_ok()
}

fn is_toml(text: &str) -> bool {
    toml::from_str::<toml::Table>(text).is_ok()
}
