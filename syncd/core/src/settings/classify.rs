//! Which class a settings key has, and which line said so.
//!
//! ```text
//! credential? (no file lifts it) → the person's rules → drop-ins → gnome-rules.csv
//!                         → keyboard shortcut → set of flags → heuristics.csv → default of the tier
//! ```
//!
//! The first line that matches wins. A name that smells of a credential stays here whatever a rule says, unless a
//! shipped line spells the key's full name. A key of a program or extension is never plainly `shared`: it is
//! `app-gated`, dormant where the program is missing.

use std::fmt;
use std::sync::Arc;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::rules::{Scope, Source};
use crate::table;

const RULES: &str = include_str!("../../../policy/gnome-rules.csv");
const HEURISTICS: &str = include_str!("../../../policy/heuristics.csv");

/// How a key is treated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// One value for the account.
    Shared,
    /// As shared, dormant until its schema is here.
    AppGated,
    /// One value per kind of machine.
    FormFactor,
    /// One value per machine, kept in the account under the machine's name.
    Device,
    /// Does not leave the machine.
    Never,
    /// As shared; a set.
    MergeSet,
    /// As shared; an ordered list.
    MergeList,
    /// As shared; a dictionary.
    MergeMap,
    /// Names something that travels first: a file, a font, a theme.
    Asset,
}

impl Class {
    const WORDS: &[(&str, Self)] = &[
        ("shared", Self::Shared),
        ("app-gated", Self::AppGated),
        ("form-factor", Self::FormFactor),
        ("device", Self::Device),
        ("never", Self::Never),
        ("merge:set", Self::MergeSet),
        ("merge:list", Self::MergeList),
        ("merge:map", Self::MergeMap),
        ("asset", Self::Asset),
    ];

    /// The class with this name.
    pub fn parse(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|known| known.0 == word).map(|known| known.1)
    }

    /// Whether the account holds one value for all machines.
    pub fn is_account(self) -> bool {
        !matches!(self, Self::FormFactor | Self::Device | Self::Never)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::WORDS.iter().find(|known| known.1 == *self).expect("every class has a word").0)
    }
}

/// What kind of step decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// The name smells of a credential.
    HardStop,
    /// A rule of the person.
    Person,
    /// A curated rule or a drop-in.
    Rule,
    /// A pattern of names and types.
    Heuristic,
    /// Nothing knew the key.
    Default,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HardStop => "hard stop",
            Self::Person => "your own rule",
            Self::Rule => "rule",
            Self::Heuristic => "heuristic",
            Self::Default => "default",
        })
    }
}

/// What values a key takes, as far as the class depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Shape {
    /// Any of the type.
    #[default]
    Any,
    /// Between two numbers.
    Range,
    /// One of an enumeration or of a list of choices.
    Choice,
    /// Some of a list.
    Flags,
}

/// What is known of a key.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// Id of its schema.
    pub schema: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its GVariant type.
    pub kind: &'a str,
    /// What it takes.
    pub shape: Shape,
    /// Whether its default is a keyboard shortcut.
    pub accelerator: bool,
}

/// The class of a key and all that goes with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// How it is treated.
    pub class: Class,
    /// On what its value waits: empty, `app`, `ext`, `locale`, `hw:NAME`.
    pub gate: Arc<str>,
    /// What else is true of it: `secret`, `weaken`, `churn`, `path`, `bundle:NAME` and so on.
    pub flags: Vec<Arc<str>>,
    /// Why.
    pub reason: Arc<str>,
    /// What kind of step decided.
    pub by: By,
    /// Whose line it is.
    pub source: Source,
    /// The line, for people: a pattern, and where it stands.
    pub line: Arc<str>,
}

impl Verdict {
    /// Whether this flag is set.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|set| **set == *flag)
    }
}

/// A rule of the person about settings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Override {
    /// `SCHEMA-GLOB:KEY-GLOB`, or a glob over dconf paths that begins with `/`.
    pub pattern: String,
    /// A word that [`Class::parse`] knows.
    pub class: String,
    /// The machine it is for; empty for all of them.
    pub on: String,
    /// Why, for the person.
    pub note: String,
    /// Where it is kept.
    pub scope: Scope,
}

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Neither of the two forms.
    #[error("`{0}` is not a pattern for settings; write SCHEMA:KEY, or a path that begins with `/`")]
    Pattern(String),
    /// No such class.
    #[error(
        "`{0}` is not a class of settings; choose shared, device, never, app-gated, form-factor, asset or merge:set, merge:list, merge:map"
    )]
    Class(String),
    /// A table that is not one.
    #[error("line {0} of the rules has not the right columns")]
    Columns(u64),
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Tier {
    Core,
    App,
    Extension,
}

impl Tier {
    const CORE: &[&str] = &[
        "org.gnome.desktop.",
        "org.gnome.settings-daemon.",
        "org.gnome.mutter",
        "org.gnome.shell",
        "org.gnome.system.",
        "org.gnome.SessionManager",
        "org.gnome.Settings",
        "org.gtk.",
        "org.gnome.GWeather",
        "org.gnome.nautilus",
    ];

    fn of(schema: &str) -> Self {
        let low = schema.to_lowercase();
        let extension = low.contains(".shell.extensions.")
            || low.starts_with("org.gnome.shell-extensions")
            || low.contains("hamster-extension");
        match extension {
            true => Self::Extension,
            false if Self::CORE.iter().any(|prefix| schema.starts_with(prefix)) => Self::Core,
            false => Self::App,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::App => "app",
            Self::Extension => "extension",
        }
    }

    fn gate(self) -> &'static str {
        match self {
            Self::Core => "",
            Self::App => "app",
            Self::Extension => "ext",
        }
    }
}

struct Rule {
    schema: String,
    keys: Vec<String>,
    class: Class,
    gate: Arc<str>,
    flags: Vec<Arc<str>>,
    reason: Arc<str>,
    source: Source,
    line: Arc<str>,
}

struct Heuristic {
    schema: Regex,
    key: Regex,
    types: Vec<String>,
    tiers: Vec<String>,
    class: Class,
    flags: Vec<Arc<str>>,
    reason: Arc<str>,
    line: Arc<str>,
}

struct Personal {
    rule: Override,
    class: Class,
}

/// All lines about settings, of one machine.
pub struct Policy {
    personal: Vec<Personal>,
    rules: Vec<Rule>,
    heuristics: Vec<Heuristic>,
}

impl Policy {
    /// The lines as they ship.
    pub fn shipped() -> Self {
        Self::new(Vec::new(), Vec::new(), "").expect("the shipped lines are tested")
    }

    /// The lines of one machine: the person's rules, tables with the columns of `gnome-rules.csv`, and this
    /// machine's name, which rules for one machine name.
    ///
    /// # Errors
    /// On the first line that is wrong.
    pub fn new(overrides: Vec<Override>, dropins: Vec<String>, device_name: &str) -> Result<Self, PolicyError> {
        let mut personal = Vec::new();
        for rule in overrides {
            let class = Class::parse(&rule.class).ok_or_else(|| PolicyError::Class(rule.class.clone()))?;
            if !rule.pattern.starts_with('/') && !rule.pattern.contains(':') {
                return Err(PolicyError::Pattern(rule.pattern));
            }
            if rule.on.is_empty() || rule.on == device_name {
                personal.push(Personal { rule, class });
            }
        }
        personal.reverse();
        personal.sort_by_key(|personal| (personal.rule.scope, personal.rule.on.is_empty()));
        let mut rules = Vec::new();
        for dropin in &dropins {
            read_rules(dropin, "drop-in", Source::Machine, &mut rules)?;
        }
        read_rules(RULES, "gnome-rules.csv", Source::Shipped, &mut rules)?;
        Ok(Self { personal, rules, heuristics: read_heuristics(HEURISTICS)? })
    }

    /// The class of a key. `path` is its dconf path where there is one, for rules of the person that name paths.
    pub fn classify(&self, key: Key<'_>, path: Option<&str>) -> Verdict {
        let tier = Tier::of(key.schema);
        let (schema, name) = (key.schema.to_lowercase(), key.name.to_lowercase());
        let mut verdict = self
            .hard_stop(key, &schema, &name, tier)
            .or_else(|| self.shipped_secret(&schema, &name))
            .or_else(|| self.personal(key, &schema, &name, path))
            .or_else(|| self.curated(&schema, &name))
            .unwrap_or_else(|| self.guess(key, &schema, &name, tier));
        if verdict.gate.is_empty() && verdict.class != Class::Shared {
            verdict.gate = Arc::from(tier.gate());
        }
        if tier != Tier::Core && verdict.class == Class::Shared && verdict.by != By::Person {
            verdict.class = Class::AppGated;
            verdict.reason = Arc::from("only where the application is installed");
        }
        verdict
    }

    /// The class of a path that belongs to no schema known here: what its name says, and otherwise dormant.
    pub fn classify_unknown(&self, path: &str, kind: &str) -> Verdict {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let schema = dir.trim_matches('/').replace('/', ".");
        let key = Key { schema: &schema, name, kind, shape: Shape::Any, accelerator: false };
        let mut verdict = self.classify(key, Some(path));
        if verdict.class == Class::Shared && verdict.by != By::Person {
            verdict.class = Class::AppGated;
            verdict.gate = Arc::from("app");
            verdict.reason = Arc::from("no schema for it is installed");
        }
        verdict
    }

    fn hard_stop(&self, key: Key<'_>, schema: &str, name: &str, tier: Tier) -> Option<Verdict> {
        if key.accelerator || schema.contains("keybinding") {
            return None;
        }
        let secret = |line: &&Heuristic| line.flags.iter().map(|flag| &**flag).eq(["secret"]);
        let line = self
            .heuristics
            .iter()
            .filter(secret)
            .find(|line| type_fits(&line.types, key.kind) && line.key.is_match(name))?;
        let spelled = |rule: &Rule| {
            rule.source == Source::Shipped && rule.keys.iter().any(|key| *key == name) && glob(&rule.schema, schema)
        };
        if self.rules.iter().any(spelled) {
            return None;
        }
        Some(line.verdict(tier, By::HardStop))
    }

    /// What a shipped line calls a credential stays one, whatever a person or a drop-in says.
    fn shipped_secret(&self, schema: &str, name: &str) -> Option<Verdict> {
        let shipped = self.rules.iter().filter(|rule| rule.source == Source::Shipped);
        let rule = shipped.into_iter().find(|rule| rule.fits(schema, name))?;
        rule.flags.iter().any(|flag| **flag == *"secret").then(|| rule.verdict())
    }

    fn personal(&self, key: Key<'_>, schema: &str, name: &str, path: Option<&str>) -> Option<Verdict> {
        let fits = |personal: &&Personal| match personal.rule.pattern.strip_prefix('/') {
            Some(_) => path.is_some_and(|path| glob(&personal.rule.pattern, path)),
            None => {
                let pattern = personal.rule.pattern.to_lowercase();
                let (schemas, keys) = pattern.rsplit_once(':').unwrap_or((&pattern, "*"));
                glob(schemas, schema) && keys.split('|').any(|key| glob(key, name))
            }
        };
        let found = self.personal.iter().find(fits)?;
        // What the shipped lines say of its nature stays true; only the class is the person's.
        let natural = self.curated(schema, name).unwrap_or_else(|| self.guess(key, schema, name, Tier::of(key.schema)));
        Some(Verdict {
            class: found.class,
            reason: Arc::from(if found.rule.note.is_empty() { "your own rule" } else { &found.rule.note }),
            by: By::Person,
            source: match found.rule.scope {
                Scope::Account => Source::Account,
                Scope::Machine => Source::Machine,
            },
            line: Arc::from(found.rule.pattern.as_str()),
            ..natural
        })
    }

    fn curated(&self, schema: &str, name: &str) -> Option<Verdict> {
        self.rules.iter().find(|rule| rule.fits(schema, name)).map(Rule::verdict)
    }

    fn guess(&self, key: Key<'_>, schema: &str, name: &str, tier: Tier) -> Verdict {
        let made = |class, reason: &str, by| Verdict {
            class,
            gate: Arc::from(tier.gate()),
            flags: Vec::new(),
            reason: Arc::from(reason),
            by,
            source: Source::Shipped,
            line: Arc::from(format!("{} keys", tier.word())),
        };
        if key.accelerator {
            let reason = "keyboard shortcut of a program that must be installed";
            return made(Class::AppGated, reason, By::Heuristic);
        }
        if key.shape == Shape::Flags {
            return made(Class::MergeSet, "set of flags; merge per flag", By::Heuristic);
        }
        for line in &self.heuristics {
            let fits = type_fits(&line.types, key.kind)
                && (line.tiers.is_empty() || line.tiers.iter().any(|word| word == tier.word()))
                && line.key.is_match(name)
                && line.schema.is_match(schema);
            // An enumeration or choice is a preference, not a path, a host or a position.
            let preference = key.shape == Shape::Choice
                && (matches!(line.class, Class::Device | Class::Asset)
                    || line.flags.iter().any(|flag| flag.contains("churn")));
            if fits && !preference {
                return line.verdict(tier, By::Heuristic);
            }
        }
        match tier {
            Tier::Core => made(Class::Shared, "a preference", By::Default),
            Tier::App => made(Class::AppGated, "only where the application is installed", By::Default),
            Tier::Extension => made(Class::AppGated, "only where the extension is installed", By::Default),
        }
    }
}

impl Rule {
    fn fits(&self, schema: &str, name: &str) -> bool {
        glob(&self.schema, schema) && self.keys.iter().any(|key| glob(key, name))
    }

    fn verdict(&self) -> Verdict {
        Verdict {
            class: self.class,
            gate: self.gate.clone(),
            flags: self.flags.clone(),
            reason: self.reason.clone(),
            by: By::Rule,
            source: self.source,
            line: self.line.clone(),
        }
    }
}

impl Heuristic {
    fn verdict(&self, tier: Tier, by: By) -> Verdict {
        Verdict {
            class: self.class,
            gate: Arc::from(tier.gate()),
            flags: self.flags.clone(),
            reason: self.reason.clone(),
            by,
            source: Source::Shipped,
            line: self.line.clone(),
        }
    }
}

/// Whether a type is one of those listed; `a*` is any that begins so; no list is any.
fn type_fits(types: &[String], kind: &str) -> bool {
    let fits = |spec: &String| spec == kind || spec.strip_suffix('*').is_some_and(|prefix| kind.starts_with(prefix));
    types.is_empty() || types.iter().any(fits)
}

/// Whether a text matches a pattern of `*` (any run) and `?` (any one byte).
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((star_p, star_t)) = star else { return false };
                star = Some((star_p, star_t + 1));
                p = star_p + 1;
                t = star_t + 1;
            }
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

fn words(text: &str) -> Vec<Arc<str>> {
    text.split([' ', ';']).filter(|word| !word.is_empty()).map(Arc::from).collect()
}

fn read_rules(text: &str, file: &str, source: Source, into: &mut Vec<Rule>) -> Result<(), PolicyError> {
    let columns = ["schema", "key", "class", "gate", "flags", "reason"];
    for row in table::rows(text, &columns).map_err(PolicyError::Columns)? {
        into.push(Rule {
            schema: row.get(0).to_lowercase(),
            keys: row.get(1).to_lowercase().split('|').map(str::to_owned).collect(),
            class: Class::parse(row.get(2)).ok_or_else(|| PolicyError::Class(row.get(2).to_owned()))?,
            gate: Arc::from(row.get(3)),
            flags: words(row.get(4)),
            reason: Arc::from(row.get(5)),
            source,
            line: Arc::from(format!("{}:{} ({file} line {})", row.get(0), row.get(1), row.line)),
        });
    }
    Ok(())
}

fn read_heuristics(text: &str) -> Result<Vec<Heuristic>, PolicyError> {
    let columns = ["schema_regex", "key_regex", "types", "tiers", "class", "flags", "reason"];
    let mut lines = Vec::new();
    for row in table::rows(text, &columns).map_err(PolicyError::Columns)? {
        let list = |column: usize| row.get(column).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let regex = |column: usize| Regex::new(row.get(column)).map_err(|_| PolicyError::Columns(row.line));
        lines.push(Heuristic {
            schema: regex(0)?,
            key: regex(1)?,
            types: list(2),
            tiers: list(3),
            class: Class::parse(row.get(4)).ok_or_else(|| PolicyError::Class(row.get(4).to_owned()))?,
            flags: words(row.get(5)),
            reason: Arc::from(row.get(6)),
            line: Arc::from(format!("{} (heuristics.csv line {})", row.get(1), row.line)),
        });
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(text: &str) -> usize {
        let policy = Policy::shipped();
        let columns = ["schema", "key", "type", "domain", "accel", "class", "gate", "flags", "by"];
        let rows = table::rows(text, &columns).expect("the golden table");
        for row in &rows {
            let shape = match row.get(3) {
                "enum" | "choice" => Shape::Choice,
                "flags" => Shape::Flags,
                "range" => Shape::Range,
                _ => Shape::Any,
            };
            let accelerator = row.get(4) == "accel";
            let key = Key { schema: row.get(0), name: row.get(1), kind: row.get(2), shape, accelerator };
            let got = policy.classify(key, None);
            let flags = got.flags.join(";");
            let got = [&got.class.to_string(), &*got.gate, &flags, &got.by.to_string()];
            assert_eq!(got, [row.get(5), row.get(6), row.get(7), row.get(8)], "line {}: {key:?}", row.line);
        }
        rows.len()
    }

    #[test]
    fn every_key_of_gnome_43_gets_its_class() {
        assert_eq!(golden(include_str!("../../../policy/golden/gnome-43.csv")), 6395);
    }

    #[test]
    fn every_key_of_gnome_51_gets_its_class() {
        assert_eq!(golden(include_str!("../../../policy/golden/gnome-51.csv")), 618);
    }

    fn own(pattern: &str, class: &str, on: &str, scope: Scope) -> Override {
        let [pattern, class, on] = [pattern, class, on].map(str::to_owned);
        Override { pattern, class, on, note: String::new(), scope }
    }

    fn key<'a>(schema: &'a str, name: &'a str) -> Key<'a> {
        Key { schema, name, kind: "s", shape: Shape::Any, accelerator: false }
    }

    #[test]
    fn the_person_overrules_everything_but_secrets() {
        let rules = vec![
            own("org.gnome.desktop.*:*", "never", "", Scope::Account),
            own("org.gnome.desktop.interface:clock-*", "shared", "pc", Scope::Account),
            own("/org/gnome/x/*", "device", "", Scope::Machine),
            own("*:*", "shared", "", Scope::Account),
        ];
        let policy = Policy::new(rules, Vec::new(), "pc").expect("rules");
        let clock = policy.classify(key("org.gnome.desktop.interface", "clock-format"), None);
        assert_eq!((clock.class, clock.by, clock.source), (Class::Shared, By::Person, Source::Account));
        assert_eq!(policy.classify_unknown("/org/gnome/x/y", "s").class, Class::Device);
        let secret = policy.classify(key("org.example.Chat", "password"), None);
        assert_eq!((secret.class, secret.by, secret.has("secret")), (Class::Never, By::HardStop, true));
        assert!(Policy::new(vec![own("x", "shared", "", Scope::Account)], Vec::new(), "").is_err());
        assert!(Policy::new(vec![own("a:b", "sharde", "", Scope::Account)], Vec::new(), "").is_err());
    }

    #[test]
    fn no_file_lets_a_credential_travel() {
        let dropin = "schema,key,class,gate,flags,reason\n*,*,shared,,,\norg.example.Chat,password,shared,,,\n";
        let rules = vec![own("*:*", "shared", "", Scope::Account)];
        let policy = Policy::new(rules, vec![dropin.to_owned()], "pc").expect("rules");
        for (schema, name) in [
            ("org.example.Chat", "password"),
            ("org.gnome.evolution.plugin.publish-calendar", "uris"),
            ("org.gnome.system.proxy.http", "authentication-password"),
        ] {
            let verdict = policy.classify(key(schema, name), None);
            assert!(verdict.class == Class::Never && verdict.has("secret"), "{schema}:{name} {verdict:?}");
        }
    }

    #[test]
    fn an_unknown_path_is_dormant_unless_its_name_says_more() {
        let policy = Policy::shipped();
        assert_eq!(policy.classify_unknown("/org/example/thing/tint", "s").class, Class::AppGated);
        assert_eq!(policy.classify_unknown("/org/gnome/desktop/new/tint", "s").class, Class::AppGated);
        assert_eq!(policy.classify_unknown("/org/example/thing/window-geometry", "s").class, Class::Never);
        assert_eq!(policy.classify_unknown("/org/example/thing/auth-token", "s").class, Class::Never);
    }

    #[test]
    fn globs() {
        for (pattern, text, fits) in
            [("*", "", true), ("a*c", "abc", true), ("a*c", "abd", false), ("*a*", "xay", true), ("a?", "a", false)]
        {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }
}
