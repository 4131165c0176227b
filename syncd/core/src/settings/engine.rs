//! Keeps dconf and the account the same, key by key.
//!
//! ```text
//! dconf:   LocalSnapshot → differs from base? → wait (2 s) → Publish          base: what both last agreed on,
//! account: AccountChanged → travels, fits, not laxer? → Write → WriteDone      as it stands in dconf here
//! ```
//!
//! Event in, effect out; time is an input, in milliseconds. Who wins between two machines is decided before:
//! the engine only sees the account's one value per key. Echoes are told by state, not by signal: after a write the
//! base is what was written, so the snapshot that follows differs in nothing. A value that this machine cannot
//! take, or must not take in silence, is left in the account and waits; it is tried again when schemas, locks or
//! rules change. Nothing is published before the account was heard.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use hearth_schemas::item::{MAX_KEY, MAX_SETTING, SettingValue};

use crate::settings::classify::{By, Class, Policy, Verdict};
use crate::settings::event::{
    AccountChange, Cause, HistoryEntry, Join, Kept, Scope, SettingsEffect, SettingsEvent, Snapshot,
};
use crate::settings::history::History;
use crate::settings::merge;
use crate::settings::project::Home;
use crate::settings::schema::{Found, Misfit, Schemas};
use crate::settings::strict;

mod report;
#[cfg(test)]
mod tests;

/// How long a change rests before it is published, in milliseconds.
const DEBOUNCE_MS: u64 = 2_000;
/// How long a value that changes without pause is held back at most.
const DEBOUNCE_MAX_MS: u64 = 30_000;
/// How long a value that programs write all the time is held back.
const CHURN_MS: u64 = 60_000;
/// A change back within this time after a write is a bounce.
const BOUNCE_MS: u64 = 10_000;
/// This many bounces, within [`BOUNCE_WINDOW_MS`], are too many.
const BOUNCES: usize = 2;
const BOUNCE_WINDOW_MS: u64 = 600_000;
/// More publications of one key in an hour than this are no person's.
const HOURLY: usize = 20;
const HOUR_MS: u64 = 3_600_000;
/// How long a write that failed waits before it is tried again.
const RETRY_MS: u64 = 15_000;
/// An empty layer where this many values were known was lost, not reset by hand.
const LOST: usize = 5;

/// What the engine starts with.
pub struct Start {
    /// The rules.
    pub policy: Arc<Policy>,
    /// This machine's name in the account.
    pub device: String,
    /// The absolute path of the home.
    pub home: String,
    /// What to do at the first join.
    pub join: Join,
    /// Whether the first join is over.
    pub joined: bool,
    /// What was remembered.
    pub base: Snapshot,
    /// What is this machine's own.
    pub kept: BTreeMap<String, Kept>,
    /// What was added to the history, oldest first.
    pub history: Vec<HistoryEntry>,
}

/// A value that stays in the account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// dconf path.
    pub path: String,
    /// Why it is not applied here.
    pub what: String,
    /// What to do about it; empty where nothing needs to be done.
    pub hint: String,
    /// Whether it waits for the person rather than for a program.
    pub held: bool,
}

struct Account {
    value: Option<SettingValue>,
    device: String,
    time_ms: u64,
}

struct Pending {
    first_ms: u64,
    changed_ms: u64,
    due_ms: u64,
    value: Option<SettingValue>,
}

#[derive(Clone)]
struct Flight {
    before: Option<SettingValue>,
    wanted: Option<SettingValue>,
    /// What the account has; differs from what is written where two changes were merged.
    agreed: Option<SettingValue>,
}

/// Writes that are being gathered: path to what is written, and what the account has.
type Batch = BTreeMap<String, (Option<SettingValue>, Option<SettingValue>)>;

struct Applied {
    at_ms: u64,
    before: Option<SettingValue>,
}

#[derive(Default)]
struct Restless {
    bounces: VecDeque<u64>,
    published: VecDeque<u64>,
}

/// See the module.
pub struct SettingsEngine {
    policy: Arc<Policy>,
    schemas: Schemas,
    has_schemas: bool,
    locks: BTreeSet<String>,
    device: String,
    home: Home,
    join: Join,
    joined: bool,
    /// What is set in dconf.
    local: Snapshot,
    read: Option<u64>,
    /// What is set in dconf and known to the account; only of settings that travel.
    base: Snapshot,
    account: BTreeMap<String, Account>,
    mine: BTreeMap<String, Option<SettingValue>>,
    heard: bool,
    kept: BTreeMap<String, Kept>,
    pending: BTreeMap<String, Pending>,
    flight: BTreeMap<String, Flight>,
    dirty: BTreeSet<String>,
    retry_ms: Option<u64>,
    waiting: BTreeMap<String, Waiting>,
    applied: BTreeMap<String, Applied>,
    restless: BTreeMap<String, Restless>,
    verdicts: BTreeMap<String, (String, Arc<Verdict>)>,
    history: History,
    effects: VecDeque<SettingsEffect>,
}

impl SettingsEngine {
    /// An engine that has heard nothing yet.
    pub fn new(start: Start) -> Self {
        Self {
            policy: start.policy,
            schemas: Schemas::default(),
            has_schemas: false,
            locks: BTreeSet::new(),
            device: start.device,
            home: Home::new(&start.home),
            join: start.join,
            joined: start.joined,
            local: Snapshot::new(),
            read: None,
            base: start.base,
            account: BTreeMap::new(),
            mine: BTreeMap::new(),
            heard: false,
            kept: start.kept,
            pending: BTreeMap::new(),
            flight: BTreeMap::new(),
            dirty: BTreeSet::new(),
            retry_ms: None,
            waiting: BTreeMap::new(),
            applied: BTreeMap::new(),
            restless: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            history: History::new(start.history),
            effects: VecDeque::new(),
        }
    }

    /// Takes in what happened, at a time in milliseconds since 1970.
    pub fn handle_event(&mut self, event: SettingsEvent, now_ms: u64) {
        match event {
            SettingsEvent::LocalSnapshot { values, read } => self.read_local(values, read),
            SettingsEvent::WriteDone { values, read, failed } => self.write_done(values, read, failed, now_ms),
            SettingsEvent::WriteLost => self.write_lost(now_ms),
            SettingsEvent::AccountChanged(changes) => changes.into_iter().for_each(|change| self.account_says(change)),
            SettingsEvent::AccountHeard => self.hear_account(),
            SettingsEvent::SchemasChanged(schemas) => {
                self.schemas = schemas;
                self.has_schemas = true;
                self.reconsider();
            }
            SettingsEvent::LocksChanged(locks) => {
                self.locks = locks;
                self.reconsider();
            }
            SettingsEvent::PolicyChanged(policy) => {
                self.policy = policy;
                self.reconsider();
            }
            SettingsEvent::Flush => self.pending.values_mut().for_each(|pending| pending.due_ms = 0),
            SettingsEvent::Tick => {}
        }
        if self.retry_ms.is_some_and(|retry| retry <= now_ms) {
            self.retry_ms = None;
        }
        self.settle(now_ms);
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<SettingsEffect> {
        self.effects.pop_front()
    }

    /// When [`SettingsEvent::Tick`] is wanted next.
    pub fn poll_timeout(&self) -> Option<u64> {
        let ready = self.is_ready();
        let due = self.pending.values().map(|pending| pending.due_ms).filter(|_| ready);
        due.chain(self.retry_ms).min()
    }

    /// Whether nothing waits to be published or written, as far as this machine can know.
    pub fn is_settled(&self) -> bool {
        self.is_ready() && self.pending.is_empty() && self.flight.is_empty() && self.dirty.is_empty()
    }

    /// What stays in the account for the time being, and why.
    pub fn waiting(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.values()
    }

    fn is_ready(&self) -> bool {
        self.heard && self.joined && self.has_schemas && self.read.is_some()
    }

    // ---- what comes in

    fn read_local(&mut self, values: Snapshot, read: u64) {
        if self.read.is_some_and(|last| read < last) {
            return;
        }
        let lost = self.read.is_none() && values.is_empty() && self.base.len() >= LOST;
        self.read = Some(read);
        let mut values = values;
        for (path, flight) in &self.flight {
            // Not known yet whether this read saw the write; its own answer tells.
            set(&mut values, path, flight.before.clone());
        }
        self.local = values;
        if lost {
            for path in std::mem::take(&mut self.base).into_keys() {
                self.effects.push_back(SettingsEffect::Forget { path });
            }
            self.effects.push_back(SettingsEffect::Notice {
                path: "/".to_owned(),
                what: "the settings database of this machine was empty; the account's values were put back".to_owned(),
                hint: String::new(),
            });
            self.reconsider();
        }
    }

    fn account_says(&mut self, change: AccountChange) {
        let AccountChange { key, scope, value, device, time_ms } = change;
        if !key.starts_with('/') || key.ends_with('/') || key.contains("//") || key.len() > MAX_KEY {
            return;
        }
        match scope {
            Scope::Device => {
                self.mine.insert(key, value);
            }
            Scope::Account => {
                self.dirty.insert(key.clone());
                self.account.insert(key, Account { value, device, time_ms });
            }
        }
    }

    fn hear_account(&mut self) {
        self.heard = true;
    }

    fn reconsider(&mut self) {
        self.verdicts.clear();
        self.dirty.extend(self.account.keys().cloned());
    }

    fn write_done(&mut self, values: Snapshot, read: u64, failed: Option<String>, now_ms: u64) {
        let flight = std::mem::take(&mut self.flight);
        for (path, Flight { before, wanted, agreed }) in flight {
            let got = values.get(&path).cloned();
            if got == wanted {
                self.agree(&path, agreed);
                self.applied.insert(path.clone(), Applied { at_ms: now_ms, before });
                self.waiting.remove(&path);
            } else if failed.is_some() {
                self.dirty.insert(path);
                self.retry_ms = Some(now_ms + RETRY_MS);
            } else if got == before {
                let what = "the settings database did not take this value".to_owned();
                self.wait_for(&path, what, "", false);
            } else {
                // The person was faster: this differs from what the account has.
                self.agree(&path, agreed);
            }
        }
        self.read_local(values, read);
    }

    /// The next read tells whether the values arrived; those that did not are written again.
    fn write_lost(&mut self, now_ms: u64) {
        self.dirty.extend(std::mem::take(&mut self.flight).into_keys());
        self.retry_ms = Some(now_ms + RETRY_MS);
    }

    // ---- what follows from it

    /// Brings everything that is known to a rest: the join, changes here, changes of the account.
    fn settle(&mut self, now_ms: u64) {
        if !self.heard || self.read.is_none() || !self.has_schemas {
            return;
        }
        if !self.joined {
            self.first_join(now_ms);
        }
        self.observe(now_ms);
        if self.flight.is_empty() && self.retry_ms.is_none() {
            let mut batch = Batch::new();
            for path in std::mem::take(&mut self.dirty) {
                self.reconcile(&path, &mut batch);
            }
            self.send(batch, now_ms, Cause::Remote);
        }
        self.publish_due(now_ms);
    }

    /// Finds what was changed here since the last agreement.
    fn observe(&mut self, now_ms: u64) {
        let mut changed = BTreeSet::new();
        for (path, value) in &self.local {
            if self.base.get(path) != Some(value) {
                changed.insert(path.clone());
            }
        }
        changed.extend(self.base.keys().filter(|path| !self.local.contains_key(*path)).cloned());
        changed.retain(|path| !self.flight.contains_key(path));
        self.pending.retain(|path, _| changed.contains(path));
        for path in changed {
            let value = self.local.get(&path).cloned();
            let either = value.clone().or_else(|| self.base.get(&path).cloned());
            let verdict = self.verdict(&path, either.as_ref());
            if self.stays(&path, &verdict, value.as_ref()) {
                self.pending.remove(&path);
                continue;
            }
            if self.bounced(&path, value.as_ref(), now_ms) {
                self.quarantine(&path, now_ms);
            }
            let (rest, most) = match verdict.has("churn") {
                true => (CHURN_MS, CHURN_MS),
                false => (DEBOUNCE_MS, DEBOUNCE_MAX_MS),
            };
            let pending = self.pending.entry(path).or_insert_with(|| Pending {
                first_ms: now_ms,
                changed_ms: now_ms,
                due_ms: now_ms + rest,
                value: value.clone(),
            });
            if pending.value != value {
                pending.value = value;
                pending.changed_ms = now_ms;
                pending.due_ms = (now_ms + rest).min(pending.first_ms + most);
            }
        }
    }

    /// Whether the value that was just applied was changed back once too often.
    fn bounced(&mut self, path: &str, value: Option<&SettingValue>, now_ms: u64) -> bool {
        let Some(applied) = self.applied.get(path) else { return false };
        if now_ms.saturating_sub(applied.at_ms) > BOUNCE_MS || applied.before.as_ref() != value {
            return false;
        }
        self.applied.remove(path);
        let bounces = &mut self.restless.entry(path.to_owned()).or_default().bounces;
        within(bounces, now_ms, BOUNCE_WINDOW_MS) >= BOUNCES
    }

    fn quarantine(&mut self, path: &str, now_ms: u64) {
        if self.kept.insert(path.to_owned(), Kept::Quarantined).is_some() {
            return;
        }
        self.effects.push_back(SettingsEffect::Keep { path: path.to_owned(), why: Kept::Quarantined });
        self.effects.push_back(SettingsEffect::Notice {
            path: path.to_owned(),
            what: "something on this machine keeps changing this setting; it is left to this machine".to_owned(),
            hint: "see what sets it; the account's value stays as it is".to_owned(),
        });
        let value = self.local.get(path).cloned();
        let device = self.device.clone();
        self.record(path, value.clone(), value, &device, Cause::Quarantine, now_ms);
    }

    /// Gives the account what has rested long enough, and what belongs to it.
    fn publish_due(&mut self, now_ms: u64) {
        let mut due: BTreeSet<String> = BTreeSet::new();
        let mut bundles = BTreeSet::new();
        for (path, pending) in &self.pending {
            if pending.due_ms <= now_ms {
                due.insert(path.clone());
            }
        }
        for path in &due {
            let value = self.local.get(path).or(self.base.get(path)).cloned();
            bundles.extend(bundle(&self.verdict(path, value.as_ref())));
        }
        if !bundles.is_empty() {
            let others: Vec<String> = self.pending.keys().filter(|path| !due.contains(*path)).cloned().collect();
            for path in others {
                let value = self.local.get(&path).or(self.base.get(&path)).cloned();
                if bundle(&self.verdict(&path, value.as_ref())).is_some_and(|name| bundles.contains(&name)) {
                    due.insert(path);
                }
            }
        }
        for path in due {
            self.pending.remove(&path);
            self.publish(&path, now_ms, Cause::Person);
        }
    }

    fn publish(&mut self, path: &str, now_ms: u64, cause: Cause) {
        let here = self.local.get(path).cloned();
        let before = self.base.get(path).cloned();
        let verdict = self.verdict(path, here.as_ref().or(before.as_ref()));
        let scope = self.scope(path, &verdict);
        let value = match scope {
            Scope::Account => self.account_form(&verdict, here.as_ref()),
            Scope::Device => here.clone(),
        };
        let known = match scope {
            Scope::Account => self.account.get(path).map(|account| account.value.clone()),
            Scope::Device => self.mine.get(path).cloned(),
        };
        self.waiting.remove(path);
        if known == Some(value.clone()) || (known.is_none() && value.is_none()) {
            self.agree(path, here);
            return;
        }
        let published = &mut self.restless.entry(path.to_owned()).or_default().published;
        if within(published, now_ms, HOUR_MS) > HOURLY && scope == Scope::Account {
            self.agree(path, here);
            self.quarantine(path, now_ms);
            return;
        }
        let device = self.device.clone();
        self.record(path, before, here.clone(), &device, cause, now_ms);
        match scope {
            Scope::Account => {
                self.account.insert(path.to_owned(), Account { value: value.clone(), device, time_ms: now_ms });
            }
            Scope::Device => {
                self.mine.insert(path.to_owned(), value.clone());
            }
        }
        self.effects.push_back(SettingsEffect::Publish { key: path.to_owned(), scope, value });
        // After it: whoever stops between the two still finds the change at the next start.
        self.agree(path, here);
    }

    /// Takes the account's value for this path, or says why it waits.
    fn reconcile(&mut self, path: &str, batch: &mut Batch) {
        let Some(account) = self.account.get(path) else { return };
        let (value, time_ms) = (account.value.clone(), account.time_ms);
        let verdict = self.verdict(path, value.as_ref().or(self.local.get(path)).cloned().as_ref());
        if self.scope(path, &verdict) == Scope::Device || is_private(&verdict) {
            self.waiting.remove(path);
            return;
        }
        let here = self.local.get(path).cloned();
        let collection = is_collection(verdict.class);
        let both = collection && here.is_some() && value.is_some() && self.base.get(path) != here.as_ref();
        let ours_later = self.pending.get(path).is_some_and(|pending| time_ms <= pending.changed_ms);
        if ours_later && !both {
            // Changed here after it was changed there: this machine's value follows, and wins.
            return;
        }
        let theirs = match self.local_form(path, &verdict, value.as_ref()) {
            Ok(wanted) => wanted,
            Err(Misfit::Unknown | Misfit::NoKey) => {
                self.wait_for(path, "what it is for is not installed here".to_owned(), "", false);
                return;
            }
            Err(misfit) => {
                self.wait_for(path, misfit.to_string(), "", false);
                return;
            }
        };
        if theirs != here && self.base.get(path) == theirs.as_ref() {
            // The account stands where both last agreed: only this machine changed it, whatever clocks say.
            return;
        }
        let merged = both && theirs != here;
        let wanted = match merged {
            true => {
                let base = self.base.get(path);
                merge::merge(verdict.class, base, here.as_ref(), theirs.as_ref(), ours_later)
            }
            false => theirs.clone(),
        };
        if wanted == here {
            // After a merge something may be left that the account does not have: it is published as a change.
            if !merged {
                self.pending.remove(path);
            }
            self.waiting.remove(path);
            self.agree(path, theirs);
            return;
        }
        if self.is_locked(path) {
            self.wait_for(path, "the administrator of this machine decides about it".to_owned(), "", false);
            return;
        }
        if (verdict.has("weaken") || verdict.has("destructive")) && self.is_laxer(path, here.as_ref(), wanted.as_ref())
        {
            let what = match verdict.has("weaken") {
                true => "another machine set a value that protects less",
                false => "another machine set a value that deletes files",
            };
            self.wait_for(path, what.to_owned(), "set it here as well if you want it", true);
            return;
        }
        if merged {
            batch.insert(path.to_owned(), (wanted, theirs));
            return;
        }
        self.pending.remove(path);
        batch.insert(path.to_owned(), (wanted.clone(), wanted));
    }

    /// Orders one write of all these.
    fn send(&mut self, batch: Batch, now_ms: u64, cause: Cause) {
        if batch.is_empty() {
            return;
        }
        let mut write = BTreeMap::new();
        for (path, (wanted, agreed)) in batch {
            let path = &path;
            write.insert(path.clone(), wanted.clone());
            let before = self.local.get(path).cloned();
            let device = self.account.get(path).map(|account| account.device.clone()).unwrap_or_default();
            self.record(path, before.clone(), wanted.clone(), &device, cause, now_ms);
            self.flight.insert(path.clone(), Flight { before, wanted, agreed });
        }
        self.effects.push_back(SettingsEffect::Write(write));
    }

    /// Brings together a machine that was lived in and an account, once.
    fn first_join(&mut self, now_ms: u64) {
        self.joined = true;
        self.effects.push_back(SettingsEffect::Joined);
        let seeding = self.account.is_empty();
        let mut batch = Batch::new();
        let mut ours = Vec::new();
        for (path, value) in self.local.clone() {
            let verdict = self.verdict(&path, Some(&value));
            if self.stays(&path, &verdict, Some(&value)) {
                continue;
            }
            let device = self.scope(&path, &verdict) == Scope::Device;
            let in_account = self.account.contains_key(&path);
            // An explicit default is nobody's wish.
            let default = self.default(&path).as_ref() == Some(&value);
            match self.join {
                Join::Mine if !device && !seeding && !default => {
                    let same = in_account && {
                        let account = self.account.get(&path).and_then(|account| account.value.clone());
                        self.local_form(&path, &verdict, account.as_ref()).ok() == Some(Some(value.clone()))
                    };
                    if !same {
                        self.kept.insert(path.clone(), Kept::Joined);
                        self.effects.push_back(SettingsEffect::Keep { path: path.clone(), why: Kept::Joined });
                        ours.push(path);
                    }
                }
                _ if device => ours.push(path),
                Join::Merge if in_account && is_collection(verdict.class) => {
                    // United with the account's in a moment.
                }
                _ if in_account => {
                    // What stands here gives way; from here on it counts as agreed, so that it is not published.
                    self.agree(&path, Some(value));
                }
                Join::Merge | Join::Mine if !default => ours.push(path),
                Join::Account if seeding && !default => ours.push(path),
                _ => self.agree(&path, Some(value)),
            }
        }
        for path in ours {
            self.publish(&path, now_ms, Cause::FirstJoin);
        }
        for path in std::mem::take(&mut self.dirty) {
            self.reconcile(&path, &mut batch);
        }
        self.send(batch, now_ms, Cause::FirstJoin);
    }

    // ---- small answers

    fn verdict(&mut self, path: &str, value: Option<&SettingValue>) -> Arc<Verdict> {
        let kind = value.map_or("", |value| value.kind.as_str());
        if let Some((known, verdict)) = self.verdicts.get(path)
            && known == kind
        {
            return verdict.clone();
        }
        let verdict = Arc::new(self.judge(path, kind));
        self.verdicts.insert(path.to_owned(), (kind.to_owned(), verdict.clone()));
        verdict
    }

    fn judge(&self, path: &str, kind: &str) -> Verdict {
        match self.schemas.key(path, kind) {
            Some(key) => self.policy.classify(key, Some(path)),
            None => self.policy.classify_unknown(path, kind),
        }
    }

    fn scope(&self, path: &str, verdict: &Verdict) -> Scope {
        match verdict.class.is_account() && !self.kept.contains_key(path) {
            true => Scope::Account,
            false => Scope::Device,
        }
    }

    /// Whether this value must not leave the machine, not even as the machine's own.
    fn stays(&self, path: &str, verdict: &Verdict, value: Option<&SettingValue>) -> bool {
        let judged = matches!(verdict.by, By::Rule | By::Person);
        let unfit = value.is_some_and(|value| {
            value.bytes.len() > MAX_SETTING || (!judged && looks_secret(value)) || path.len() > MAX_KEY
        });
        unfit || is_private(verdict) || self.is_locked(path)
    }

    fn is_locked(&self, path: &str) -> bool {
        let above = path.match_indices('/').any(|(at, _)| self.locks.contains(&path[..=at]));
        above || self.locks.contains(path)
    }

    fn account_form(&self, verdict: &Verdict, here: Option<&SettingValue>) -> Option<SettingValue> {
        here.map(|value| if has_paths(verdict) { self.home.put(value) } else { value.clone() })
    }

    fn local_form(
        &self,
        path: &str,
        verdict: &Verdict,
        value: Option<&SettingValue>,
    ) -> Result<Option<SettingValue>, Misfit> {
        let Some(value) = value else { return Ok(None) };
        let value = if has_paths(verdict) { self.home.get(value) } else { value.clone() };
        self.schemas.fit(path, &value).map(Some)
    }

    fn default(&self, path: &str) -> Option<SettingValue> {
        match self.schemas.find(path) {
            Found::Key(_, info) => Some(info.default.clone()),
            Found::Schema(_) | Found::Nothing => None,
        }
    }

    fn is_laxer(&self, path: &str, here: Option<&SettingValue>, wanted: Option<&SettingValue>) -> bool {
        let Found::Key(schema, info) = self.schemas.find(path) else { return true };
        let key = path.rsplit('/').next().unwrap_or_default();
        strict::laxer(schema, key, here.or(Some(&info.default)), wanted.or(Some(&info.default)))
    }

    /// This machine and the account agree that this stands here.
    fn agree(&mut self, path: &str, here: Option<SettingValue>) {
        if self.base.get(path) == here.as_ref() {
            return;
        }
        set(&mut self.base, path, here.clone());
        let path = path.to_owned();
        self.effects.push_back(match here {
            Some(value) => SettingsEffect::Remember { path, value },
            None => SettingsEffect::Forget { path },
        });
    }

    fn wait_for(&mut self, path: &str, what: String, hint: &str, held: bool) {
        let waiting = Waiting { path: path.to_owned(), what, hint: hint.to_owned(), held };
        let known = self.waiting.insert(path.to_owned(), waiting.clone());
        if held && known.as_ref() != Some(&waiting) {
            let Waiting { path, what, hint, .. } = waiting;
            self.effects.push_back(SettingsEffect::Notice { path, what, hint });
        }
    }

    fn record(
        &mut self,
        path: &str,
        old: Option<SettingValue>,
        new: Option<SettingValue>,
        device: &str,
        cause: Cause,
        time_ms: u64,
    ) {
        let verdict = self.verdict(path, new.as_ref().or(old.as_ref()));
        if verdict.has("churn") || verdict.has("secret") || verdict.class == Class::Never {
            return;
        }
        let entry = HistoryEntry { path: path.to_owned(), time_ms, device: device.to_owned(), old, new, cause };
        self.history.add(entry.clone(), time_ms);
        self.effects.push_back(SettingsEffect::History(entry));
    }
}

fn set(snapshot: &mut Snapshot, path: &str, value: Option<SettingValue>) {
    match value {
        Some(value) => snapshot.insert(path.to_owned(), value),
        None => snapshot.remove(path),
    };
}

/// Counts one more event, and how many there were within a time.
fn within(times: &mut VecDeque<u64>, now_ms: u64, window_ms: u64) -> usize {
    times.push_back(now_ms);
    while times.front().is_some_and(|&time| now_ms.saturating_sub(time) > window_ms) {
        times.pop_front();
    }
    times.len()
}

/// Whether no value of this key leaves a machine or comes from another one.
fn is_private(verdict: &Verdict) -> bool {
    verdict.class == Class::Never || verdict.has("secret") || verdict.has("network")
}

/// Whether a text in a key that nobody judged looks like a credential: long, in one piece, of all sorts of characters.
fn looks_secret(value: &SettingValue) -> bool {
    let Some(text) = value.bytes.strip_suffix(b"\0").filter(|_| value.kind == "s") else { return false };
    let of = |test: fn(&u8) -> bool| text.iter().filter(|byte| test(byte)).count();
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=_-.".contains(byte);
    let distinct: BTreeSet<u8> = text.iter().copied().collect();
    text.len() >= 24
        && text.iter().all(allowed)
        && distinct.len() >= 12
        && of(u8::is_ascii_digit) >= 3
        && of(u8::is_ascii_uppercase) >= 3
        && of(u8::is_ascii_lowercase) >= 3
}

fn is_collection(class: Class) -> bool {
    matches!(class, Class::MergeSet | Class::MergeList | Class::MergeMap)
}

fn has_paths(verdict: &Verdict) -> bool {
    verdict.has("path") || verdict.class == Class::Asset
}

fn bundle(verdict: &Verdict) -> Option<Arc<str>> {
    verdict.flags.iter().find(|flag| flag.starts_with("bundle:")).cloned()
}
