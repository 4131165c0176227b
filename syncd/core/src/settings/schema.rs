//! The schemas of this machine as plain data, and whether a value fits its key.
//!
//! dconf takes any value at any path, and a program silently reads its default where the value does not fit. So a
//! value is held against the schema before it is written; one that this machine cannot take sleeps in the account.

use std::collections::{BTreeMap, BTreeSet};

use glib::Variant;
use glib::prelude::ToVariant;
use hearth_schemas::item::SettingValue;

use crate::settings::classify::{Key, Shape};
use crate::settings::value;

/// What values a key takes beyond its type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Domain {
    /// Any of the type.
    Any,
    /// From the first number to the second.
    Range(SettingValue, SettingValue),
    /// One of these texts: an enumeration or a list of choices.
    Choice(BTreeSet<String>),
    /// Any of these texts, each at most once or not; an array.
    Flags(BTreeSet<String>),
}

/// One key of a schema.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyInfo {
    /// GVariant type.
    pub kind: String,
    /// What it takes.
    pub domain: Domain,
    /// Old names of texts that it takes, and what they are called here.
    pub aliases: BTreeMap<String, String>,
    /// Its default here.
    pub default: SettingValue,
}

impl KeyInfo {
    /// Whether the default is a keyboard shortcut.
    pub fn accelerator(&self) -> bool {
        let text = value::text(&self.default).to_lowercase();
        ["<super>", "<control>", "<ctrl>", "<alt>", "<shift>", "<primary>"].iter().any(|key| text.contains(key))
    }

    /// Its shape, for the class.
    pub fn shape(&self) -> Shape {
        match self.domain {
            Domain::Any => Shape::Any,
            Domain::Range(..) => Shape::Range,
            Domain::Choice(_) => Shape::Choice,
            Domain::Flags(_) => Shape::Flags,
        }
    }

    /// The value as this key takes it: the same, the same number as the key's type, or the name that took its place.
    ///
    /// # Errors
    /// Why it does not fit.
    pub fn fit(&self, given: &SettingValue) -> Result<SettingValue, Misfit> {
        let variant = value::to_variant(given).map_err(|_| Misfit::Unreadable)?;
        let variant = value::convert(&variant, &self.kind)
            .ok_or_else(|| Misfit::Type { wanted: self.kind.clone(), got: given.kind.clone() })?;
        let alias = variant.str().and_then(|word| self.aliases.get(word));
        let variant = alias.map_or(variant, |name| name.to_variant());
        let inside = match &self.domain {
            Domain::Any => true,
            Domain::Range(low, high) => {
                let [low, high] = [low, high].map(|end| value::to_variant(end).ok());
                at_most(low.as_ref(), &variant) && at_least(high.as_ref(), &variant)
            }
            Domain::Choice(words) => variant.str().is_some_and(|word| words.contains(word)),
            Domain::Flags(words) => {
                variant.get::<Vec<String>>().is_some_and(|given| given.iter().all(|word| words.contains(word)))
            }
        };
        if inside { Ok(value::from_variant(&variant)) } else { Err(Misfit::Range) }
    }
}

fn at_most(low: Option<&Variant>, variant: &Variant) -> bool {
    low.is_none_or(|low| number(low).zip(number(variant)).is_some_and(|(low, number)| low <= number))
}

fn at_least(high: Option<&Variant>, variant: &Variant) -> bool {
    high.is_none_or(|high| number(high).zip(number(variant)).is_some_and(|(high, number)| high >= number))
}

/// A number for comparing; exact for whole numbers, and floating point only with its like.
#[derive(PartialEq, PartialOrd)]
enum Number {
    Whole(i128),
    Float(f64),
}

fn number(variant: &Variant) -> Option<Number> {
    match variant.get::<f64>() {
        Some(float) => Some(Number::Float(float)),
        None => value::convert(variant, "x")
            .and_then(|whole| whole.get::<i64>().map(i128::from))
            .or_else(|| variant.get::<u64>().map(i128::from))
            .map(Number::Whole),
    }
}

/// Why a value cannot be written here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// No schema takes this path.
    #[error("no program here has this setting")]
    Unknown,
    /// The schema has no such key.
    #[error("the version here does not have this setting")]
    NoKey,
    /// Another type.
    #[error("the version here takes the type {wanted}, and this is {got}")]
    Type {
        /// The key's.
        wanted: String,
        /// The value's.
        got: String,
    },
    /// Outside the range, or not among the choices.
    #[error("the version here does not take this value")]
    Range,
    /// Not a value at all.
    #[error("this is not a value")]
    Unreadable,
}

/// One schema.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Schema {
    /// The dconf directory of its keys, `/…/`; `None` if it is relocatable.
    pub path: Option<String>,
    /// Its keys, those it inherits too.
    pub keys: BTreeMap<String, KeyInfo>,
}

/// Which relocatable schema the directories that look like this have; `*` is within one name.
const FAMILIES: &[(&str, &str)] = &[
    ("/org/gnome/desktop/app-folders/folders/*/", "org.gnome.desktop.app-folders.folder"),
    ("/org/gnome/desktop/notifications/application/*/", "org.gnome.desktop.notifications.application"),
    ("/org/gnome/desktop/peripherals/keyboards/*/", "org.gnome.desktop.peripherals.keyboard"),
    ("/org/gnome/desktop/peripherals/stylus/*/", "org.gnome.desktop.peripherals.tablet.stylus"),
    ("/org/gnome/desktop/peripherals/tablets/*/", "org.gnome.desktop.peripherals.tablet"),
    ("/org/gnome/desktop/peripherals/tablets/*/button*/", "org.gnome.desktop.peripherals.tablet.pad-button"),
    ("/org/gnome/desktop/peripherals/touchscreens/*/", "org.gnome.desktop.peripherals.touchscreen"),
    (
        "/org/gnome/settings-daemon/plugins/media-keys/custom-keybindings/*/",
        "org.gnome.settings-daemon.plugins.media-keys.custom-keybinding",
    ),
    ("/org/gnome/terminal/legacy/profiles:/", "org.gnome.Terminal.ProfilesList"),
    ("/org/gnome/terminal/legacy/profiles:/:*/", "org.gnome.Terminal.Legacy.Profile"),
    ("/org/gnome/Ptyxis/Profiles/*/", "org.gnome.Ptyxis.Profile"),
    ("/org/gnome/Console/profiles/*/", "org.gnome.Console.Profile"),
    ("/com/gexperts/Tilix/profiles/", "com.gexperts.Tilix.ProfilesList"),
    ("/com/gexperts/Tilix/profiles/*/", "com.gexperts.Tilix.Profile"),
];

fn family(dir: &str) -> Option<&'static str> {
    let fits = |pattern: &str| {
        let mut names = dir.split('/');
        let same = pattern.split('/').all(|part| {
            names.next().is_some_and(|name| match part.split_once('*') {
                Some((before, _)) => name.len() > before.len() && name.starts_with(before),
                None => name == part,
            })
        });
        same && names.next().is_none()
    };
    FAMILIES.iter().find(|(pattern, _)| fits(pattern)).map(|(_, id)| *id)
}

/// What is known of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found<'a> {
    /// This key of this schema.
    Key(&'a str, &'a KeyInfo),
    /// A schema that has no such key, or one that is not installed.
    Schema(&'a str),
    /// Nothing.
    Nothing,
}

/// All schemas of this machine, by their ids.
#[derive(Clone, Default)]
pub struct Schemas {
    by_id: BTreeMap<String, Schema>,
    by_path: BTreeMap<String, String>,
}

impl Schemas {
    /// The schemas with these ids.
    pub fn new(by_id: BTreeMap<String, Schema>) -> Self {
        let mut by_path: BTreeMap<String, String> = BTreeMap::new();
        for (id, schema) in &by_id {
            let Some(path) = &schema.path else { continue };
            // Several schemas may share a path; the one with the most keys stands for it, the rest are old names.
            let larger = by_path.get(path).is_none_or(|other| by_id[other].keys.len() < schema.keys.len());
            if larger {
                by_path.insert(path.clone(), id.clone());
            }
        }
        Self { by_id, by_path }
    }

    /// Whether a schema is installed and has one place.
    pub fn is_fixed(&self, id: &str) -> bool {
        self.by_id.get(id).is_some_and(|schema| schema.path.is_some())
    }

    /// What a dconf path is here.
    pub fn find(&self, path: &str) -> Found<'_> {
        let Some(cut) = path.rfind('/') else { return Found::Nothing };
        let (dir, name) = path.split_at(cut + 1);
        let id = match self.by_path.get(dir) {
            Some(id) => id.as_str(),
            None => match family(dir) {
                Some(id) => id,
                None => return Found::Nothing,
            },
        };
        if let Some(info) = self.by_id.get(id).and_then(|schema| schema.keys.get(name)) {
            return Found::Key(id, info);
        }
        // A second schema at the same path may have it.
        let beside = self.by_id.iter().filter(|(_, schema)| schema.path.as_deref() == Some(dir));
        for (id, schema) in beside {
            if let Some(info) = schema.keys.get(name) {
                return Found::Key(id, info);
            }
        }
        Found::Schema(id)
    }

    /// The dconf path that `SCHEMA:KEY` names; a path stays what it is.
    pub fn resolve(&self, key: &str) -> Option<String> {
        if key.starts_with('/') {
            return (!key.ends_with('/') && !key.contains("//")).then(|| key.to_owned());
        }
        let (id, name) = key.rsplit_once(':').or_else(|| key.rsplit_once(' '))?;
        let path = self.by_id.get(id)?.path.as_deref()?;
        (!name.is_empty() && !name.contains('/')).then(|| format!("{path}{name}"))
    }

    /// The value as it is written at this path.
    ///
    /// # Errors
    /// Why it cannot be written here.
    pub fn fit(&self, path: &str, given: &SettingValue) -> Result<SettingValue, Misfit> {
        match self.find(path) {
            Found::Key(_, info) => info.fit(given),
            Found::Schema(id) if self.by_id.contains_key(id) => Err(Misfit::NoKey),
            Found::Schema(_) | Found::Nothing => Err(Misfit::Unknown),
        }
    }

    /// What the class of this path depends on, if a schema is known for it.
    pub fn key<'a>(&'a self, path: &'a str, kind: &'a str) -> Option<Key<'a>> {
        let name = path.rsplit('/').next()?;
        match self.find(path) {
            Found::Key(schema, info) => {
                Some(Key { schema, name, kind: &info.kind, shape: info.shape(), accelerator: info.accelerator() })
            }
            Found::Schema(schema) => Some(Key { schema, name, kind, shape: Shape::Any, accelerator: false }),
            Found::Nothing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> SettingValue {
        value::parse(text, None).expect("a value")
    }

    fn info(default: &str, domain: Domain) -> KeyInfo {
        let default = value(default);
        KeyInfo { kind: default.kind.clone(), domain, aliases: BTreeMap::new(), default }
    }

    fn words(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn schemas() -> Schemas {
        let keys = [
            ("size", info("uint32 3", Domain::Range(value("uint32 1"), value("uint32 9")))),
            ("scale", info("1.0", Domain::Range(value("0.5"), value("3.0")))),
            (
                "look",
                KeyInfo {
                    aliases: BTreeMap::from([("bee".to_owned(), "b".to_owned())]),
                    ..info("'a'", Domain::Choice(words(&["a", "b"])))
                },
            ),
            ("parts", info("@as []", Domain::Flags(words(&["x", "y"])))),
            ("go", info("['<Super>g']", Domain::Any)),
        ];
        let keys: BTreeMap<_, _> = keys.into_iter().map(|(name, info)| (name.to_owned(), info)).collect();
        let fixed = Schema { path: Some("/org/x/".to_owned()), keys };
        let name = BTreeMap::from([("name".to_owned(), info("''", Domain::Any))]);
        let folder = Schema { path: None, keys: name };
        Schemas::new(BTreeMap::from([
            ("org.x".to_owned(), fixed),
            ("org.gnome.desktop.app-folders.folder".to_owned(), folder),
        ]))
    }

    #[test]
    fn values_are_held_against_the_schema() {
        let schemas = schemas();
        let wrong = |got: &str, wanted: &str| Err(Misfit::Type { wanted: wanted.to_owned(), got: got.to_owned() });
        for (path, given, fits) in [
            ("/org/x/size", "uint32 9", Ok("uint32 9")),
            ("/org/x/size", "4", Ok("uint32 4")),
            ("/org/x/size", "uint32 10", Err(Misfit::Range)),
            ("/org/x/size", "'4'", wrong("s", "u")),
            ("/org/x/scale", "2", Ok("2.0")),
            ("/org/x/scale", "3.5", Err(Misfit::Range)),
            ("/org/x/look", "'b'", Ok("'b'")),
            ("/org/x/look", "'c'", Err(Misfit::Range)),
            ("/org/x/look", "'bee'", Ok("'b'")),
            ("/org/x/parts", "['x', 'y']", Ok("['x', 'y']")),
            ("/org/x/parts", "['z']", Err(Misfit::Range)),
            ("/org/x/none", "1", Err(Misfit::NoKey)),
            ("/org/y/none", "1", Err(Misfit::Unknown)),
            ("/org/gnome/desktop/app-folders/folders/Games/name", "'G'", Ok("'G'")),
            ("/org/gnome/desktop/notifications/application/x/enable", "true", Err(Misfit::Unknown)),
        ] {
            let got = schemas.fit(path, &value(given)).map(|value| value::text(&value));
            assert_eq!(got, fits.map(str::to_owned), "{path} {given}");
        }
    }

    #[test]
    fn keys_are_found_by_schema_and_by_path() {
        let schemas = schemas();
        assert_eq!(schemas.resolve("org.x:size").as_deref(), Some("/org/x/size"));
        assert_eq!(schemas.resolve("/org/any").as_deref(), Some("/org/any"));
        assert_eq!(schemas.resolve("org.y:size"), None);
        assert_eq!(schemas.resolve("/org/any/"), None);
        assert!(schemas.key("/org/x/go", "as").expect("known").accelerator);
        let tablet = schemas.key("/org/gnome/desktop/peripherals/tablets/056a:0357/area", "ad").expect("known");
        assert_eq!(tablet.schema, "org.gnome.desktop.peripherals.tablet");
        assert_eq!(family("/org/gnome/desktop/app-folders/folders/a/b/"), None);
        assert_eq!(family("/org/gnome/desktop/app-folders/folders//"), None);
    }
}
