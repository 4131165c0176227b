//! Brings together a collection that was changed on two sides.
//!
//! Sets and lists keep what neither side removed and take what either added; a list keeps the order of the only side
//! that moved something, else of the later one. Of a dictionary each entry is decided for itself, and an edit beats a
//! removal. Swapping the sides changes nothing, so two machines that merge the same pair agree. Without a common
//! base it is the union. A reset on one side is a change of the whole.

use glib::Variant;
use hearth_schemas::item::SettingValue;

use crate::settings::classify::Class;
use crate::settings::value;

/// Collections with more elements than this are no person's; they are taken whole.
const MAX_ELEMENTS: usize = 4096;

/// The value that comes of two changes of one base; `x_later` breaks ties. `None` is unset.
pub fn merge(
    class: Class,
    base: Option<&SettingValue>,
    x: Option<&SettingValue>,
    y: Option<&SettingValue>,
    x_later: bool,
) -> Option<SettingValue> {
    let elements = || {
        let (x, y) = (x?, y?);
        if x.kind != y.kind || !x.kind.starts_with('a') {
            return None;
        }
        let base = base.filter(|base| base.kind == x.kind);
        let [base, x, y] = [base, Some(x), Some(y)].map(|value| value.and_then(|v| value::to_variant(v).ok()));
        let (x, y) = (x?, y?);
        if [base.as_ref(), Some(&x), Some(&y)].into_iter().flatten().any(|list| list.n_children() > MAX_ELEMENTS) {
            return None;
        }
        let (left, right) = (children(&x), children(&y));
        let base = base.as_ref().map(children).unwrap_or_default();
        let merged = match class {
            Class::MergeSet | Class::MergeList => list(&base, &left, &right, x_later, class == Class::MergeList),
            Class::MergeMap if x.type_().element().is_dict_entry() => map(&base, &left, &right, x_later),
            _ => return None,
        };
        let kind = x.type_().element().to_owned();
        Some(value::from_variant(&Variant::array_from_iter_with_type(&kind, merged)))
    };
    elements().or_else(|| scalar(base, x, y, x_later).cloned())
}

fn scalar<'a, T: PartialEq>(base: Option<&'a T>, x: Option<&'a T>, y: Option<&'a T>, x_later: bool) -> Option<&'a T> {
    match () {
        () if x == y || y == base => x,
        () if x == base => y,
        () if x_later => x,
        () => y,
    }
}

fn children(variant: &Variant) -> Vec<Variant> {
    (0..variant.n_children()).map(|index| variant.child_value(index)).collect()
}

fn unique(list: &[Variant]) -> Vec<Variant> {
    let mut unique: Vec<Variant> = Vec::new();
    for element in list {
        if !unique.contains(element) {
            unique.push(element.clone());
        }
    }
    unique
}

fn list(base: &[Variant], x: &[Variant], y: &[Variant], x_later: bool, ordered: bool) -> Vec<Variant> {
    let (x, y) = (unique(x), unique(y));
    let kept = |element: &Variant| match (x.contains(element), y.contains(element)) {
        (true, true) => true,
        (false, false) => false,
        _ => !base.contains(element),
    };
    let moved = |side: &[Variant]| {
        let common: Vec<&Variant> = base.iter().filter(|element| side.contains(element)).collect();
        side.iter().filter(|element| base.contains(element)).ne(common)
    };
    let x_first = if moved(&x) == moved(&y) { x_later } else { moved(&x) };
    let (first, second) = if x_first { (&x, &y) } else { (&y, &x) };
    let mut merged: Vec<Variant> = first.iter().filter(|element| kept(element)).cloned().collect();
    for (at, element) in second.iter().enumerate() {
        if kept(element) && !merged.contains(element) {
            // After its nearest neighbour on the left that is there.
            let left = second[..at].iter().rev().find_map(|left| merged.iter().position(|known| known == left));
            merged.insert(left.map_or(0, |left| left + 1), element.clone());
        }
    }
    if !ordered {
        merged.sort_by(|a, b| a.data().cmp(b.data()));
    }
    merged
}

fn map(base: &[Variant], x: &[Variant], y: &[Variant], x_later: bool) -> Vec<Variant> {
    let of = |side: &[Variant], key: &Variant| {
        side.iter().rev().find(|entry| entry.child_value(0) == *key).map(|entry| entry.child_value(1))
    };
    let mut keys = unique(&x.iter().chain(y).map(|entry| entry.child_value(0)).collect::<Vec<_>>());
    keys.sort_by(|a, b| a.data().cmp(b.data()));
    let mut merged = Vec::new();
    for key in keys {
        let (old, left, right) = (of(base, &key), of(x, &key), of(y, &key));
        let all_differ = left != right && left != old && right != old;
        let value = match (&left, &right) {
            (Some(edited), None) | (None, Some(edited)) if all_differ => Some(edited),
            _ => scalar(old.as_ref(), left.as_ref(), right.as_ref(), x_later),
        };
        if let Some(value) = value {
            merged.push(Variant::from_dict_entry(&key, value));
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn v(json: &Value, like: &Value) -> Option<SettingValue> {
        let text = match json {
            Value::Null => return None,
            Value::Array(list) if list.is_empty() => "@as []".to_owned(),
            Value::Object(map) if map.is_empty() => {
                let words = like.as_object().is_some_and(|map| map.values().any(Value::is_string));
                if words { "@a{ss} {}".to_owned() } else { "@a{si} {}".to_owned() }
            }
            other => other.to_string(),
        };
        Some(value::parse(&text, None).expect("a value"))
    }

    #[test]
    fn endless_collections_are_taken_whole() {
        let long = |last: &str| {
            let words: Vec<String> = (0..200_000).map(|n| n.to_string()).chain([last.to_owned()]).collect();
            value::from_variant(&glib::prelude::ToVariant::to_variant(&words))
        };
        let (x, y) = (long("x"), long("y"));
        assert_eq!(merge(Class::MergeList, None, Some(&x), Some(&y), true), Some(x.clone()));
        assert_eq!(merge(Class::MergeSet, Some(&x), Some(&x), Some(&y), true), Some(y));
    }

    #[test]
    fn every_case_comes_out_as_written_and_the_same_from_both_sides() {
        let mut count = 0;
        for line in include_str!("../../../policy/merge-cases.jsonl").lines().filter(|line| !line.trim().is_empty()) {
            let case: Value = serde_json::from_str(line).expect("JSON");
            if case["op"] != "merge" {
                continue;
            }
            let class = case["class"].as_str().and_then(Class::parse).unwrap_or(Class::Shared);
            let stamp = |side: &str| (case[side][0].as_u64(), case[side][1].as_str().map(str::to_owned));
            let like = &case["want"];
            let [base, x, y, want] = ["base", "local", "remote", "want"].map(|name| v(&case[name], like));
            let x_later = stamp("ls") > stamp("rs");
            let got = merge(class, base.as_ref(), x.as_ref(), y.as_ref(), x_later);
            assert_eq!(got.as_ref().map(value::text), want.as_ref().map(value::text), "{}", case["why"]);
            let back = merge(class, base.as_ref(), y.as_ref(), x.as_ref(), stamp("rs") > stamp("ls"));
            assert_eq!(got, back, "{}", case["why"]);
            count += 1;
        }
        assert!(count > 20, "{count}");
    }
}
