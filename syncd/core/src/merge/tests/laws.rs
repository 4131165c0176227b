//! What holds of every merge, whatever the file: on random texts and random edits of them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value};

use super::*;

/// For each format a path, and the lines that its files are made of.
const FORMATS: [(&str, &[&str]); 6] = [
    (".bashrc", &["a=1", "a=2", "alias x=y", "fi", "if true; then", "", "# c", "export B", "echo"]),
    (".config/a.ini", &["[g]", "[h]", "[i]", "a=1", "a=2", "b=1", "b=2", "c=1", "# x", "# y", "", "d="]),
    (
        ".config/a.toml",
        &["[g]", "[h]", "a = 1", "a = 2", "b = [1,\n 2]", "b = 1", "c = 1", "# x", "", "d.e = 1", "[[l]]"],
    ),
    (".ssh/known_hosts", &["a k1", "a k2", "b k3", "c k4", "# x", "", "d k5", "e k6"]),
    (".gitignore", &["a", "!a", "b/", "*.c", "# x", "", "d", "e"]),
    (".bash_history", &["#1", "#2", "#3", "ls", "cd", "git", "make \\", ""]),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_merge_of_lines_is_symmetric_and_loses_nothing((path, [base, x, y]) in texts()) {
        let got = laws(path, &base, &x, &y);
        if let Some(got) = got {
            let full = |text: &str| counts(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned));
            lost_nothing([&base, &x, &y, &got].map(|text| full(text)))?;
        }
    }

    #[test]
    fn a_merge_of_json_is_symmetric_and_loses_nothing([base, x, y] in documents(), pretty in any::<[bool; 3]>()) {
        let print = |value: &Value, pretty| if pretty { format!("{value:#}\n") } else { value.to_string() };
        let texts = [print(&base, pretty[0]), print(&x, pretty[1]), print(&y, pretty[2])];
        if let Some(got) = laws(".config/a.json", &texts[0], &texts[1], &texts[2]) {
            let got: Value = serde_json::from_str(&got).expect("the result is JSON");
            lost_nothing([&base, &x, &y, &got].map(|value| counts(facts("", value))))?;
        }
    }

    #[test]
    fn any_bytes_are_answered(
        path in select(&[".bashrc", ".config/a.ini", ".config/a.json", ".config/a.toml", ".bash_history"][..]),
        base in bytes(), x in bytes(), y in bytes(),
    ) {
        let path = path.as_bytes();
        prop_assert_eq!(merge(path, &base, &x, &y), merge(path, &base, &y, &x));
        prop_assert_eq!(merge(path, &base, &x, &base), Some(x));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn keys_changed_on_one_side_each_never_clash(values in prop::collection::vec((0u8..4, 0u8..3), 1..20)) {
        // Each key is changed by nobody, by one side or by the other.
        let side = |who: u8| values.iter().enumerate().map(move |(key, (value, changed_by))| {
            (key, if *changed_by == who { value + 10 } else { *value })
        }).collect::<Vec<_>>();
        let both = values.iter().enumerate().map(|(key, (value, by))| (key, if *by > 0 { value + 10 } else { *value })).collect::<Vec<_>>();
        let ini = |keys: &[(usize, u8)]| keys.iter().map(|(key, value)| format!("k{key} = {value}\n")).collect::<String>();
        let json = |keys: &[(usize, u8)]| {
            let members = keys.iter().map(|(key, value)| format!("\t\"{key}\": {value}")).collect::<Vec<_>>();
            format!("{{\n{}\n}}\n", members.join(",\n"))
        };
        let (base, x, y) = (side(9), side(1), side(2));
        for path in [".config/a.ini", ".config/a.toml"] {
            prop_assert_eq!(merged(path, &ini(&base), &ini(&x), &ini(&y)), Some(ini(&both)));
        }
        prop_assert_eq!(merged(".config/a.json", &json(&base), &json(&x), &json(&y)), Some(json(&both)));
    }
}

#[test]
fn hostile_contents_are_answered_without_endless_work() {
    let shuffled = |step: usize| (0..8_000).map(|line| format!("{}\n", line * step % 8_009)).collect::<String>();
    let few = |step: usize| (0..8_000usize).map(|line| format!("{}\n", line * line * step % 7)).collect::<String>();
    let nested =
        |open: &str, close: &str, middle: &str| format!("{}{middle}{}", open.repeat(50_000), close.repeat(50_000));
    for path in [".bashrc", ".ssh/known_hosts", ".config/a.ini"] {
        let _ = merged(path, &shuffled(1), &shuffled(7), &shuffled(13));
        let _ = merged(path, &few(1), &few(3), &few(5));
    }
    for path in [".config/a.json", ".config/a.toml"] {
        let side = |middle: &str| nested("[", "]", middle);
        assert_eq!(merged(path, &side("1"), &side("2"), &side("3")), None);
        let side = |middle: &str| format!("a = {}", nested("[", "]", middle));
        assert_eq!(merged(path, &side("1"), &side("2"), &side("3")), None);
    }
    let open = |last: &str| format!("{}{last}", "a = [\n".repeat(30_000));
    assert_eq!(merged(".config/a.toml", &open("1"), &open("2"), &open("3")), None);
}

/// Merges, and checks the laws that need no look into the contents.
fn laws(path: &str, base: &str, x: &str, y: &str) -> Option<String> {
    assert_eq!(merged(path, base, x, base).as_deref(), Some(x));
    assert_eq!(merged(path, base, base, y).as_deref(), Some(y));
    assert_eq!(merged(path, base, x, x).as_deref(), Some(x));
    let got = merged(path, base, x, y)?;
    // A machine that took the merge for its own finds nothing more in either side.
    let again = merged(path, x, x, &got);
    assert_eq!(again.as_deref(), Some(&*got));
    Some(got)
}

fn counts<T: Ord>(things: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    things.into_iter().fold(BTreeMap::new(), |mut counts, thing| {
        *counts.entry(thing).or_default() += 1;
        counts
    })
}

fn lost_nothing<T: Ord + std::fmt::Debug>([base, x, y, got]: [BTreeMap<T, usize>; 4]) -> Result<(), TestCaseError> {
    let of = |counts: &BTreeMap<T, usize>, thing: &T| counts.get(thing).copied().unwrap_or_default();
    let all: BTreeSet<&T> = [&base, &x, &y, &got].into_iter().flat_map(BTreeMap::keys).collect();
    for thing in all {
        let (base, x, y, got) = (of(&base, thing), of(&x, thing), of(&y, thing), of(&got, thing));
        prop_assert!(got == 0 || x + y > 0, "{thing:?} is from nowhere");
        prop_assert!(got >= x || x <= base || y < base, "{thing:?} was added and is lost");
        prop_assert!(got >= y || y <= base || x < base, "{thing:?} was added and is lost");
        prop_assert!(got >= base || x < base || y < base, "{thing:?} is lost, and nobody removed it");
        prop_assert!(got <= x.max(y).max((x + y).saturating_sub(base)), "{thing:?} was made up");
    }
    Ok(())
}

fn facts(place: &str, value: &Value) -> Vec<(String, String)> {
    match value {
        Value::Object(members) => {
            members.iter().flat_map(|(key, value)| facts(&format!("{place}/{key}"), value)).collect()
        }
        Value::Array(elements) => elements.iter().flat_map(|value| facts(&format!("{place}/*"), value)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            vec![(place.to_owned(), value.to_string())]
        }
    }
}

/// A text and two edits of it, with its path.
fn texts() -> impl Strategy<Value = (&'static str, [String; 3])> {
    select(&FORMATS[..]).prop_flat_map(|(path, lines)| {
        let line = || select(lines);
        let edits = || prop::collection::vec((any::<Index>(), 0usize..2, prop::option::of(line())), 0..4);
        let end = select(&["\n", "\n", "\r\n"][..]);
        (prop::collection::vec(line(), 0..14), edits(), edits(), end, any::<[bool; 3]>()).prop_map(
            move |(base, x, y, end, open)| {
                let text = |lines: Vec<&str>, open: bool| {
                    let text = lines.iter().map(|line| format!("{}{end}", line.replace('\n', end))).collect::<String>();
                    if open { text.trim_end().to_owned() } else { text }
                };
                let (x, y) = (edited(&base, &x), edited(&base, &y));
                (path, [text(base, open[0]), text(x, open[1]), text(y, open[2])])
            },
        )
    })
}

fn edited<'t>(base: &[&'t str], edits: &[(Index, usize, Option<&'t str>)]) -> Vec<&'t str> {
    edits.iter().fold(base.to_vec(), |mut lines, (at, remove, insert)| {
        let at = at.index(lines.len() + 1);
        let end = (at + remove).min(lines.len());
        lines.splice(at..end, *insert);
        lines
    })
}

/// A document and two edits of it.
fn documents() -> impl Strategy<Value = [Value; 3]> {
    let edits = || prop::collection::vec((prop::collection::vec(0u8..4, 1..4), prop::option::of(values())), 0..4);
    (values(), edits(), edits()).prop_map(|(base, x, y)| {
        let change = |edits: Vec<(Vec<u8>, Option<Value>)>| {
            edits.into_iter().fold(base.clone(), |mut document, (place, value)| {
                change(&mut document, &place, value);
                document
            })
        };
        [base.clone(), change(x), change(y)]
    })
}

fn values() -> impl Strategy<Value = Value> {
    let word = || select(&["a", "b", "c", "d", "e"][..]).prop_map(Value::from);
    let scalar = prop_oneof![word(), (0u8..5).prop_map(Value::from), any::<bool>().prop_map(Value::from)];
    let words = prop::collection::btree_set(select(&["a", "b", "c", "d", "e"][..]), 0..4);
    let leaf = prop_oneof![scalar, words.prop_map(|words| words.into_iter().collect::<Value>())];
    leaf.prop_recursive(3, 30, 4, |inner| {
        prop::collection::btree_map((0u8..4).prop_map(|key| key.to_string()), inner, 0..4)
            .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>()))
    })
}

fn change(value: &mut Value, place: &[u8], to: Option<Value>) {
    let (Value::Object(members), Some((key, rest))) = (value, place.split_first()) else { return };
    let key = key.to_string();
    match (members.get_mut(&key), to) {
        (Some(inner @ Value::Object(_)), to) if !rest.is_empty() => change(inner, rest, to),
        (_, Some(to)) => drop(members.insert(key, to)),
        (_, None) => drop(members.remove(&key)),
    }
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&[u8]; 18] = [
        b"{", b"}", b"[", b"]", b"\"", b"\\", b"=", b"\n", b"\r\n", b"a", b":", b",", b"/*", b"//", b" ", b"1",
        b"\xff", b"\0",
    ];
    prop::collection::vec(select(&PIECES[..]), 0..12).prop_map(|pieces| pieces.concat())
}
