//! The rules of this machine: the shipped ones, drop-ins, and the person's own, which travel with the account.
//!
//! A rule of the person is a row of the account like a setting's, under a key that no dconf path has. Deciding is
//! [`syncd_core::rules`]'s; here rules are gathered, told and changed.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use hearth_schemas::item::{Class as RowClass, SettingValue, Value as Held};
use hearth_schemas::paths::Paths;
use serde_json::{Value, json};
use syncd_core::engine::Event;
use syncd_core::marks::{Marks, Probe};
use syncd_core::path::above;
use syncd_core::row::winner;
use syncd_core::rules::{Class, HomeRules, Override, RuleError, Scope};
use syncd_core::select::Select;
use syncd_core::state::State;
use syncd_core::store::Store;

use crate::answer::put_path;
use crate::bus::{Answer, Failure, NewRule};
use crate::driver::{Driver, with_now};

/// What the keys of rules begin with. dconf paths begin with a slash.
pub const PREFIX: &str = "hearth:rule:";
/// The type that a rule's value says it has.
const KIND: &str = "hearth-rule";
/// Most paths that are told as asking.
const ASKING: usize = 1000;
/// Most entries that are looked at to find them.
const LOOKED_AT: usize = 200_000;

/// The rules of this machine.
pub struct Rulebook {
    own_dirs: Vec<Vec<u8>>,
    dropins: Vec<String>,
    settings_dropins: Vec<String>,
    device: Mutex<String>,
    account: Mutex<BTreeMap<String, Override>>,
    rules: Mutex<Arc<HomeRules>>,
}

/// Rules that can be shared with the engine's thread.
struct Shared(Arc<HomeRules>);

impl Select for Shared {
    fn travels(&self, path: &[u8], is_dir: bool, marks: &Marks) -> bool {
        self.0.travels(path, is_dir, marks)
    }

    fn probes(&self) -> &[Probe] {
        self.0.probes()
    }

    fn probes_inside(&self, dir: &[u8]) -> Vec<usize> {
        self.0.probes_inside(dir)
    }
}

impl Rulebook {
    /// Reads the drop-ins; a wrong one is left out and told in the log.
    pub fn open(paths: &Paths) -> Self {
        let inside = |path: &Path| path.strip_prefix(&paths.home).ok().map(|p| p.as_os_str().as_bytes().to_vec());
        let near = paths.home.join(crate::disk::NEAR);
        let own = paths.own().into_iter().chain([near.as_path()]);
        let own_dirs: Vec<Vec<u8>> = own.filter_map(inside).filter(|path| !path.is_empty()).collect();
        let places = dropin_places(paths, std::env::var_os("XDG_DATA_DIRS"));
        let settings_dropins = read_dropins(&places, false);
        let mut dropins = Vec::new();
        for text in read_dropins(&places, true) {
            match HomeRules::new(Vec::new(), Vec::new(), vec![text.clone()], "") {
                Ok(_) => dropins.push(text),
                Err(error) => tracing::warn!(%error, "a drop-in of rules is left out"),
            }
        }
        let rules = HomeRules::new(own_dirs.clone(), Vec::new(), dropins.clone(), "");
        let rules = Arc::new(rules.unwrap_or_else(|_| HomeRules::shipped()));
        Self {
            own_dirs,
            dropins,
            settings_dropins,
            device: Mutex::default(),
            account: Mutex::default(),
            rules: Mutex::new(rules),
        }
    }

    /// The texts of the drop-ins about settings, unchecked.
    pub fn dropins_for_settings(&self) -> &[String] {
        &self.settings_dropins
    }

    /// Takes in the person's rules that the account holds.
    pub fn load<S: Store>(&self, state: &State<S>) -> anyhow::Result<()> {
        lock(&self.device).clone_from(&state.device_name);
        for row in state.store.rows_of(RowClass::Setting).context("reading the rules")? {
            if let Some((_, content)) = winner(&row.content)
                && let Held::Setting { key, value, .. } = &content.value
                && key.starts_with(PREFIX)
            {
                self.take(key, value.as_ref());
            }
        }
        self.rebuild();
        Ok(())
    }

    /// What the engine asks.
    pub fn select(&self) -> Box<dyn Select + Send> {
        Box::new(Shared(Arc::clone(&lock(&self.rules))))
    }

    /// Takes a rule that the account has, and puts it into force.
    pub fn account_has(&self, key: &str, value: Option<&SettingValue>, driver: &Driver) {
        if self.take(key, value) {
            self.rebuild();
            self.enforce(driver);
        }
    }

    /// Which rule decides about a path of this home.
    pub fn why(&self, home: &Path, path: &[u8], is_dir: bool) -> Value {
        let rules = Arc::clone(&lock(&self.rules));
        let mut marks = Marks::NONE;
        for dir in [&path[..0]].into_iter().chain(above(path)).chain(is_dir.then_some(path)) {
            note_held(home, dir, rules.probes(), &mut marks);
        }
        let decision = rules.explain(path, is_dir, &marks);
        let mut out = json!({
            "class": decision.class.to_string(),
            "travels": rules.travels(path, is_dir, &marks),
            "rule": &*decision.pattern,
            "line": decision.line,
            "when": decision.when.as_deref(),
            "source": decision.source.word(),
            "reason": &*decision.reason,
        });
        put_path(&mut out, "path", path);
        match &decision.marker {
            Some(marker) => put_path(&mut out, "marker", marker),
            None => out["marker"] = Value::Null,
        }
        out
    }

    /// The person's rules.
    pub fn list(&self) -> Value {
        lock(&self.account).values().map(told).collect()
    }

    /// Paths of the home that wait for the person's answer.
    pub fn asking(&self, home: &Path) -> Value {
        let rules = Arc::clone(&lock(&self.rules));
        let mut found = Vec::new();
        let mut open = vec![Vec::new()];
        let mut looked_at = 0;
        let mut marks = Marks::NONE;
        while let Some(dir) = open.pop() {
            note_held(home, &dir, rules.probes(), &mut marks);
            if !rules.travels(&dir, true, &marks) {
                continue;
            }
            let Ok(entries) = std::fs::read_dir(home.join(std::ffi::OsStr::from_bytes(&dir))) else { continue };
            for entry in entries.filter_map(Result::ok) {
                looked_at += 1;
                if looked_at > LOOKED_AT || found.len() >= ASKING {
                    return found.into_iter().collect();
                }
                let mut path = dir.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(entry.file_name().as_bytes());
                let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
                let decision = rules.decide(&path, is_dir, &marks);
                if decision.class == Class::Ask {
                    let (bytes, counted) = size_of(&entry.path(), is_dir, &mut looked_at);
                    let mut told = json!({ "reason": &*decision.reason, "bytes": counted.then_some(bytes) });
                    put_path(&mut told, "path", &path);
                    found.push(told);
                } else if is_dir && rules.travels(&path, true, &marks) {
                    open.push(path);
                }
            }
        }
        found.into_iter().collect()
    }

    /// Adds a rule of the person to the account.
    pub async fn add(&self, rule: NewRule, driver: &Driver) -> Answer {
        let rule = Override {
            pattern: rule.pattern,
            class: rule.class,
            on: rule.on.unwrap_or_default(),
            note: rule.note,
            scope: Scope::Account,
        };
        rule.check().map_err(|error| wrong_rule(&error))?;
        let value = SettingValue { kind: KIND.to_owned(), bytes: json!(rule).to_string().into_bytes() };
        let key = key_of(&rule.pattern, &rule.on);
        self.change(key, Some(value), driver).await?;
        Ok(told(&rule))
    }

    /// Takes a rule of the person out of the account.
    pub async fn remove(&self, pattern: &str, on: Option<&str>, driver: &Driver) -> Answer {
        let key = key_of(pattern, on.unwrap_or_default());
        if !lock(&self.account).contains_key(&key) {
            return Err(Failure::failed("there is no such rule of yours", "see `hearth rules list`"));
        }
        self.change(key, None, driver).await?;
        Ok(json!({ "removed": 1 }))
    }

    async fn change(&self, key: String, value: Option<SettingValue>, driver: &Driver) -> Result<(), Failure> {
        self.take(&key, value.as_ref());
        self.rebuild();
        let event = Event::SettingChanged { key, device: None, value };
        let select = self.select();
        let changed = driver.ask(move |engine, _| {
            engine.select = select;
            with_now(|now| engine.handle(event, now).and_then(|()| engine.handle(Event::RulesChanged, now)))
        });
        let changed = changed.await.map_err(|stopped| Failure::failed(stopped.to_string(), "start it again"))?;
        changed.map_err(|error| Failure::failed(error.to_string(), "make room on the disk, then try again"))
    }

    fn enforce(&self, driver: &Driver) {
        let (select, driver) = (self.select(), driver.clone());
        tokio::spawn(async move {
            let changed = driver.ask(move |engine, _| {
                engine.select = select;
                with_now(|now| engine.handle(Event::RulesChanged, now))
            });
            if let Ok(Err(error)) = changed.await {
                tracing::warn!(%error, "changed rules could not be put into force");
            }
        });
    }

    /// Notes a rule of the account; gives whether that changes anything.
    fn take(&self, key: &str, value: Option<&SettingValue>) -> bool {
        let rule = value.and_then(|value| serde_json::from_slice::<Override>(&value.bytes).ok());
        // A rule of another version, or of a hostile device, that cannot be one counts for nothing.
        let rule = rule.filter(|rule| rule.check().is_ok()).map(|rule| Override { scope: Scope::Account, ..rule });
        let mut account = lock(&self.account);
        match rule {
            Some(rule) => account.insert(key.to_owned(), rule.clone()).is_none_or(|old| old != rule),
            None => account.remove(key).is_some(),
        }
    }

    fn rebuild(&self) {
        let overrides = lock(&self.account).values().cloned().collect();
        let device = lock(&self.device).clone();
        match HomeRules::new(self.own_dirs.clone(), overrides, self.dropins.clone(), &device) {
            Ok(rules) => *lock(&self.rules) = Arc::new(rules),
            Err(error) => tracing::warn!(%error, "the rules could not be put together; the last ones hold"),
        }
    }
}

/// Notes which of the files that rules look for stand in a directory of the home.
fn note_held(home: &Path, dir: &[u8], probes: &[Probe], marks: &mut Marks) {
    let dir_path = home.join(OsStr::from_bytes(dir));
    let stands = |probe: &Probe| {
        let path = dir_path.join(OsStr::from_bytes(&probe.name));
        if !std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file()) {
            return false;
        }
        let mut bytes = Vec::new();
        let read =
            std::fs::File::open(&path).and_then(|file| file.take(probe.magic.len() as u64).read_to_end(&mut bytes));
        probe.magic.is_empty() || (read.is_ok() && bytes == probe.magic)
    };
    marks.set(dir, probes.iter().enumerate().filter(|(_, probe)| stands(probe)).map(|(index, _)| index).collect());
}

/// Size in bytes of what would travel: of a file, or of all files below a directory. Also gives whether all could be
/// counted.
fn size_of(path: &Path, is_dir: bool, looked_at: &mut usize) -> (u64, bool) {
    if !is_dir {
        return std::fs::symlink_metadata(path).map_or((0, false), |meta| (meta.len(), true));
    }
    let (mut bytes, mut all) = (0u64, true);
    let mut open = vec![path.to_owned()];
    while let Some(dir) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else {
            all = false;
            continue;
        };
        for entry in entries.filter_map(Result::ok) {
            *looked_at += 1;
            if *looked_at > LOOKED_AT {
                return (bytes, false);
            }
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => open.push(entry.path()),
                Ok(meta) => bytes = bytes.saturating_add(meta.len()),
                Err(_) => all = false,
            }
        }
    }
    (bytes, all)
}

fn key_of(pattern: &str, on: &str) -> String {
    format!("{PREFIX}{on}:{pattern}")
}

fn told(rule: &Override) -> Value {
    let on = (!rule.on.is_empty()).then_some(&rule.on);
    json!({ "pattern": rule.pattern, "class": rule.class, "on": on, "note": rule.note })
}

fn wrong_rule(error: &RuleError) -> Failure {
    Failure::usage(error.to_string(), "as in `hearth rules add '/Videos/' never`; patterns are those of docs/user")
}

/// Where drop-ins lie, strongest first: the administrator's, the person's on this machine, those of what is installed.
fn dropin_places(paths: &Paths, data_dirs: Option<OsString>) -> Vec<PathBuf> {
    let data_dirs = data_dirs.filter(|dirs| !dirs.is_empty()).unwrap_or_else(|| "/usr/local/share:/usr/share".into());
    let installed = std::env::split_paths(&data_dirs).filter(|dir| dir.is_absolute());
    let mut places = vec![PathBuf::from("/etc/hearth/policy.d"), paths.config.join("policy.d")];
    places.extend(installed.map(|dir| dir.join("hearth/policy.d")));
    places
}

/// The texts of `*.home.csv`, or of all other `*.csv`.
fn read_dropins(dirs: &[PathBuf], of_home: bool) -> Vec<String> {
    let mut texts = Vec::new();
    for dir in dirs {
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        let mut files: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        files.retain(|file| {
            let name = file.to_string_lossy();
            name.ends_with(".csv") && name.ends_with(".home.csv") == of_home
        });
        files.sort();
        texts.extend(files.iter().filter_map(|file| std::fs::read_to_string(file).ok()));
    }
    texts
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropins_of_the_home_and_of_settings_are_told_apart() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in
            [("b.home.csv", "home b"), ("a.home.csv", "home a"), ("x.csv", "settings"), ("y.txt", "none")]
        {
            std::fs::write(dir.path().join(name), text).expect("written");
        }
        let places = [dir.path().to_owned(), PathBuf::from("/no/such")];
        assert_eq!(read_dropins(&places, true), ["home a", "home b"]);
        assert_eq!(read_dropins(&places, false), ["settings"]);
    }

    #[test]
    fn the_administrators_dropins_come_first_and_the_installed_last() {
        let var = |name: &str| (name == "HOME").then(|| OsString::from("/h"));
        let paths = Paths::resolve(var, 1).expect("a home");
        let places = dropin_places(&paths, Some("/a:relative:/b".into()));
        let expected =
            ["/etc/hearth/policy.d", "/h/.config/hearth/policy.d", "/a/hearth/policy.d", "/b/hearth/policy.d"];
        assert_eq!(places, expected.map(PathBuf::from));
    }
}
