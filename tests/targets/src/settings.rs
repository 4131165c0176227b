//! Values of settings as peers send them: read, told, merged, weighed and put into the words of another home.

use std::sync::LazyLock;

use arbitrary::{Result, Unstructured};
use hearth_schemas::item::SettingValue;
use syncd_core::settings::classify::{Class, Key, Policy, Shape};
use syncd_core::settings::project::Home;
use syncd_core::settings::{merge, strict, value};

static POLICY: LazyLock<Policy> = LazyLock::new(Policy::shipped);

const KINDS: [&str; 20] = [
    "s", "b", "i", "u", "x", "d", "as", "ai", "a{sv}", "a{ss}", "a(ss)", "(ii)", "ms", "v", "av", "aas", "a{sas}", "o",
    "g", "(sdmv)",
];

/// Keys of which one direction is the stricter one, with a type that they have.
const STRICT: [(&str, &str, &str); 4] = [
    ("org.gnome.desktop.screensaver", "lock-enabled", "b"),
    ("org.gnome.desktop.screensaver", "lock-delay", "u"),
    ("org.gnome.desktop.session", "idle-delay", "u"),
    ("org.gnome.desktop.privacy", "usb-protection-level", "s"),
];

/// Some values, read and put together.
pub fn run(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let _ = values(&mut u);
}

fn values(u: &mut Unstructured<'_>) -> Result<()> {
    let class = *u.choose(&[Class::Shared, Class::MergeSet, Class::MergeList, Class::MergeMap])?;
    let kind = *u.choose(&KINDS)?;
    let (schema, key, _) = *u.choose(&STRICT)?;
    let later: bool = u.arbitrary()?;
    let mut three = [None, None, None];
    for value in &mut three {
        *value = if u.ratio(7, 8)? { Some(some(u, kind)?) } else { None };
        if let Some(value) = value {
            read(value);
        }
    }
    let [base, x, y] = three.each_ref().map(Option::as_ref);
    let merged = merge::merge(class, base, x, y, later);
    assert_eq!(merged, merge::merge(class, base, y, x, !later), "swapping the sides makes a difference");
    if let Some(merged) = &merged {
        let readable = |value: Option<&SettingValue>| value.is_none_or(|value| value::to_variant(value).is_ok());
        assert!(!readable(x) || !readable(y) || readable(Some(merged)), "two values give none");
    }
    for (old, new) in [(x, y), (y, x)] {
        if !strict::laxer(schema, key, old, new) {
            let (old, new) = (old.expect("laxer than nothing"), new.expect("nothing is laxer"));
            let kind = STRICT.iter().find(|line| line.1 == key).map_or("", |line| line.2);
            let number = |variant: &glib::Variant| value::convert(variant, "x").is_some();
            let is_of =
                |variant: &glib::Variant| if kind == "u" { number(variant) } else { variant.type_().as_str() == kind };
            let fits = value::to_variant(new).is_ok_and(|variant| is_of(&variant));
            assert!(old == new || fits, "{new:?} is no value of {key}, and not laxer than {old:?}");
        }
    }
    let name: String = u.arbitrary()?;
    let key = Key { schema: &name, name: &name, kind, shape: Shape::Any, accelerator: later };
    let _ = (POLICY.classify(key, Some(&name)), POLICY.classify_unknown(&name, kind));
    Ok(())
}

/// A value of this kind as text tells it, or any bytes under this kind or any other.
fn some(u: &mut Unstructured<'_>, kind: &str) -> Result<SettingValue> {
    match u.int_in_range(0..=3u8)? {
        0 => Ok(SettingValue { kind: u.arbitrary()?, bytes: u.arbitrary()? }),
        1 => Ok(SettingValue { kind: kind.to_owned(), bytes: u.arbitrary()? }),
        _ => {
            let text = text(u, kind, 0)?;
            Ok(value::parse(&text, Some(kind)).unwrap_or_else(|error| panic!("{text} as {kind}: {error}")))
        }
    }
}

/// The text of some value of a kind.
fn text(u: &mut Unstructured<'_>, kind: &str, depth: u32) -> Result<String> {
    let (head, rest) = kind.split_at(1);
    Ok(match head {
        "s" => u
            .choose(&["''", "'a'", "'b'", "'/home/a/x'", "'file:///home/a/%20'", "'{home}/x'", "'{{home}'"])?
            .to_string(),
        "o" => "'/a'".to_owned(),
        "g" => "'ai'".to_owned(),
        "b" => u.arbitrary::<bool>()?.to_string(),
        "i" | "u" | "x" => u.int_in_range(0..=3)?.to_string(),
        "d" => u.choose(&["0.0", "-0.0", "1.5", "1e300", "3.0"])?.to_string(),
        "m" => {
            if u.arbitrary()? {
                "nothing".to_owned()
            } else {
                format!("just {}", text(u, rest, depth + 1)?)
            }
        }
        "v" if depth > 3 => "<1>".to_owned(),
        "v" => {
            let kind = *u.choose(&KINDS)?;
            format!("<@{kind} {}>", text(u, kind, depth + 1)?)
        }
        "a" => {
            let mut elements = Vec::new();
            for _ in 0..u.int_in_range(0..=4)? {
                elements.push(text(u, rest, depth + 1)?);
            }
            match rest.starts_with('{') {
                // A dictionary is written with one pair of braces.
                true => format!("{{{}}}", elements.join(", ")),
                false => format!("[{}]", elements.join(", ")),
            }
        }
        "{" => {
            let inner = &rest[..rest.len() - 1];
            let (key, value) = inner.split_at(1);
            format!("{}: {}", text(u, key, depth + 1)?, text(u, value, depth + 1)?)
        }
        _ => {
            let mut parts = Vec::new();
            let mut inner = &rest[..rest.len() - 1];
            while !inner.is_empty() {
                let len = inner.find(|c| !"am".contains(c)).unwrap_or(0) + 1;
                parts.push(text(u, &inner[..len], depth + 1)?);
                inner = &inner[len..];
            }
            format!("({})", parts.join(", "))
        }
    })
}

fn read(given: &SettingValue) {
    let shown = value::text(given);
    let Ok(variant) = value::to_variant(given) else { return };
    assert_eq!(value::from_variant(&variant), *given, "a value changes when it is read");
    // Not every number that is none has a text of its own, and GLib reads no number so small that it is not exact.
    if !shown.contains("nan") && !shown.contains("e-") {
        assert_eq!(value::parse(&shown, Some(&given.kind)).as_ref(), Ok(given), "{shown}");
    }
    for kind in ["y", "n", "q", "i", "u", "x", "t", "d"] {
        if let Some(converted) = value::convert(&variant, kind) {
            assert_eq!(converted.type_().as_str(), kind);
            let back = value::convert(&converted, &given.kind).expect("a number that fits both types");
            assert_eq!(value::from_variant(&back), *given, "{shown} as {kind} is another number");
        }
    }
    for home in ["/home/a", "/home/a b"] {
        let home = Home::new(home);
        let (put, got) = (home.put(given), home.get(given));
        assert_eq!(home.get(&put), *given, "{shown} does not come back from the account");
        assert!(value::to_variant(&put).is_ok() && value::to_variant(&got).is_ok());
    }
}
