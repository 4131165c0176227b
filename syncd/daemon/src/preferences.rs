//! Settings and rules of this machine: joins the settings engine, dconf, the index and the account.
//!
//! One task owns the [`SettingsEngine`]; it hears dconf through [`crate::settings`], the account through
//! [`Preferences::account_has`], questions and barriers through its mailbox, and carries out what the engine says, one
//! thing after the other. What a setting means, and whether it travels, is [`syncd_core::settings`]'s business.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hearth_schemas::codec;
use hearth_schemas::ids::DeviceId;
use hearth_schemas::item::SettingValue;
use hearth_schemas::paths::Paths;
use serde_json::{Value, json};
use syncd_core::engine::{Effect, Event};
use syncd_core::settings::classify::Policy;
use syncd_core::settings::engine::{SettingsEngine, Start};
use syncd_core::settings::event::{AccountChange, HistoryEntry, Join, Kept, Scope, SettingsEffect, SettingsEvent};
use syncd_core::settings::history;
use syncd_core::state::State;
use syncd_core::store::{Store, StoreResult};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::activity::Activity;
use crate::bus::{Answer, Failure, JoinSettings};
use crate::driver::{Driver, RealEngine, wall_ms};
use crate::rulebook::{PREFIX, Rulebook};
use crate::service::finding;
use crate::settings::places::Places;
use crate::settings::{DconfEdge, Noticed};
use crate::store::SqliteStore;

/// How often a session bus that is not there is looked for again.
const BUS_AGAIN: Duration = Duration::from_secs(15);
/// The longest that a barrier waits for dconf.
const FLUSH: Duration = Duration::from_secs(5);
/// Where the history is kept; keys begin with the time, so that they are in order.
const HISTORY: &str = "settings/history/";
/// Largest kept value, in bytes.
const MAX_KEPT: usize = 2 << 20;

type Question = Box<dyn FnOnce(&SettingsEngine) + Send>;

enum Letter {
    Account(Option<DeviceId>, AccountChange),
    Flush(oneshot::Sender<()>),
    Question(Question),
}

/// Settings and rules.
pub struct Preferences {
    /// The rules.
    pub rulebook: Rulebook,
    own: Vec<PathBuf>,
    home: String,
    join: JoinSettings,
    with_bus: bool,
    activity: Arc<Activity>,
    mailbox: mpsc::UnboundedSender<Letter>,
    letters: Mutex<Option<mpsc::UnboundedReceiver<Letter>>>,
    begun: Mutex<Option<(DeviceId, Start)>>,
    at_work: AtomicBool,
    settled: AtomicBool,
    problems: Mutex<Vec<Value>>,
}

impl Preferences {
    /// Prepares; nothing runs yet.
    pub fn new(paths: &Paths, join: JoinSettings, with_bus: bool, activity: Arc<Activity>) -> Self {
        let (mailbox, letters) = mpsc::unbounded_channel();
        Self {
            rulebook: Rulebook::open(paths),
            own: paths.own().into_iter().map(Path::to_owned).chain([paths.home.join(crate::disk::NEAR)]).collect(),
            home: paths.home.to_string_lossy().into_owned(),
            join,
            with_bus,
            activity,
            mailbox,
            letters: Mutex::new(Some(letters)),
            begun: Mutex::new(None),
            at_work: AtomicBool::new(false),
            settled: AtomicBool::new(true),
            problems: Mutex::default(),
        }
    }

    /// Reads what was kept of rules and settings.
    pub fn load(&self, state: &State<SqliteStore>, device: DeviceId) -> anyhow::Result<()> {
        self.rulebook.load(state)?;
        let store = &state.store;
        let start = Start {
            policy: Arc::new(policy(self.rulebook.dropins_for_settings(), &state.device_name)),
            device: state.device_name.clone(),
            home: self.home.clone(),
            join: match self.join {
                JoinSettings::Merge => Join::Merge,
                JoinSettings::Account => Join::Account,
                JoinSettings::Mine => Join::Mine,
            },
            joined: store.value("settings/joined")?.is_some(),
            base: kept_values(store, "settings/base/")?,
            kept: kept_values::<Kept>(store, "settings/kept/")?,
            history: kept_values::<HistoryEntry>(store, HISTORY)?.into_values().collect(),
        };
        *lock(&self.begun) = Some((device, start));
        Ok(())
    }

    /// Directories that are never watched.
    pub fn unwatched(&self) -> Vec<PathBuf> {
        self.own.clone()
    }

    /// The account has a value. The driver is told once this machine has done what it can about it.
    pub fn account_has(
        &self,
        key: String,
        device: Option<DeviceId>,
        value: Option<SettingValue>,
        by: String,
        wall_ms: u64,
        driver: &Driver,
    ) {
        if key.starts_with(PREFIX) {
            self.rulebook.account_has(&key, value.as_ref(), driver);
        } else if self.at_work.load(Ordering::Acquire) {
            let scope = if device.is_some() { Scope::Device } else { Scope::Account };
            let change = AccountChange { key, scope, value, device: by, time_ms: wall_ms };
            if self.mailbox.send(Letter::Account(device, change)).is_ok() {
                return;
            }
        }
        driver.tell(Event::SettingTold);
    }

    /// Reads dconf and publishes what has changed in it, without waiting for it to settle.
    pub async fn flush(&self) {
        if !self.at_work.load(Ordering::Acquire) {
            return;
        }
        let (done, through) = oneshot::channel();
        if self.mailbox.send(Letter::Flush(done)).is_ok() && timeout(FLUSH, through).await.is_err() {
            tracing::warn!("the settings did not answer in time");
        }
    }

    /// Whether nothing here waits to be published or written.
    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// Settings that wait for the person.
    pub fn problems(&self) -> Vec<Value> {
        lock(&self.problems).clone()
    }

    /// What the doctor says of settings.
    pub fn finding(&self) -> Value {
        if self.at_work.load(Ordering::Acquire) {
            finding("settings", "ok", "dconf is watched", "")
        } else if self.with_bus {
            finding("settings", "note", "there is no session bus, or no dconf on it", "log in to a desktop")
        } else {
            finding("settings", "note", "the daemon was started without the session bus", "")
        }
    }

    /// Settings whose keys match.
    pub async fn list(&self, pattern: &str) -> Answer {
        let pattern = pattern.to_owned();
        self.ask(move |engine| engine.list(&pattern)).await
    }

    /// A setting's value and layers.
    pub async fn get(&self, key: &str) -> Answer {
        self.ask_about(key, |engine, key| engine.get(key)).await
    }

    /// A setting's class and the line that decided.
    pub async fn explain(&self, key: &str) -> Answer {
        self.ask_about(key, |engine, key| engine.explain(key)).await
    }

    /// A setting's earlier values.
    pub async fn history(&self, key: &str) -> Answer {
        self.ask_about(key, |engine, key| engine.history(key)).await
    }

    async fn ask_about(
        &self,
        key: &str,
        question: impl FnOnce(&SettingsEngine, &str) -> Option<Value> + Send + 'static,
    ) -> Answer {
        let asked = key.to_owned();
        let answer = self.ask(move |engine| question(engine, &asked)).await?;
        answer.ok_or_else(|| Failure::failed(format!("there is no setting {key}"), "see `hearth settings list`"))
    }

    async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&SettingsEngine) -> R + Send + 'static,
    ) -> Result<R, Failure> {
        let absent =
            || Failure::failed("there are no settings on this machine now", "log in to a desktop, then try again");
        if !self.at_work.load(Ordering::Acquire) {
            return Err(absent());
        }
        let (answer, answered) = oneshot::channel();
        let question: Question = Box::new(move |engine| {
            let _ = answer.send(question(engine));
        });
        self.mailbox.send(Letter::Question(question)).map_err(|_| absent())?;
        answered.await.map_err(|_| absent())
    }

    /// Keeps dconf and the account the same, for as long as the home is at work.
    pub async fn run(self: Arc<Self>, driver: Driver) {
        let (letters, begun) = (lock(&self.letters).take(), lock(&self.begun).take());
        let (Some(letters), Some((device, start)), true) = (letters, begun, self.with_bus) else { return };
        let Some((edge, noticed)) = connect().await else { return };
        let engine = SettingsEngine::new(start);
        let mut work = Work { shared: Arc::clone(&self), driver, device, engine, edge, letters, owed: 0 };
        self.settled.store(false, Ordering::Release);
        self.at_work.store(true, Ordering::Release);
        work.run(noticed).await;
        self.at_work.store(false, Ordering::Release);
        self.settled.store(true, Ordering::Release);
    }
}

/// Looks for the session bus and dconf on it until they are there; `None` where dconf cannot be written.
async fn connect() -> Option<(DconfEdge, mpsc::Receiver<Noticed>)> {
    let places = Places::resolve(|name| std::env::var_os(name), rustix::process::getuid().as_raw())?;
    loop {
        if let Ok(connection) = zbus::Connection::session().await {
            match DconfEdge::start(connection, places.clone()).await {
                Ok(started) => return Some(started),
                Err(error) => tracing::debug!("dconf cannot be watched: {error:#}"),
            }
        }
        tokio::time::sleep(BUS_AGAIN).await;
    }
}

struct Work {
    shared: Arc<Preferences>,
    driver: Driver,
    device: DeviceId,
    engine: SettingsEngine,
    edge: DconfEdge,
    letters: mpsc::UnboundedReceiver<Letter>,
    /// Values of the account that the driver counts as not yet seen to.
    owed: usize,
}

impl Work {
    async fn run(&mut self, mut noticed: mpsc::Receiver<Noticed>) {
        let pruned = self.driver.ask(|engine, _| in_transaction(engine, |store| prune(store, wall_ms()))).await;
        if let Ok(Err(error)) = pruned {
            tracing::warn!(%error, "the history of settings could not be shortened");
        }
        let mut pictures = self.driver.picture();
        let mut heard = false;
        loop {
            if !heard && pictures.borrow_and_update().summary.fresh {
                heard = true;
                self.hear_account().await;
            }
            self.carry_out().await;
            self.settle();
            let wait = self.engine.poll_timeout().map_or(Duration::from_secs(3600), |at| {
                Duration::from_millis(at.saturating_sub(wall_ms()).clamp(1, 3_600_000))
            });
            tokio::select! {
                event = noticed.recv() => match event {
                    Some(event) => self.engine.handle_event(event.into(), wall_ms()),
                    None => return,
                },
                letter = self.letters.recv() => match letter {
                    Some(letter) => self.open(letter).await,
                    None => return,
                },
                changed = pictures.changed(), if !heard => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => self.engine.handle_event(SettingsEvent::Tick, wall_ms()),
            }
        }
    }

    /// All that the account holds, once this machine has heard of it.
    async fn hear_account(&mut self) {
        let Ok(Ok(settings)) = self.driver.ask(|engine, _| engine.settings()).await else { return };
        let own = self.device;
        let changes = settings.into_iter().filter_map(|effect| match effect {
            Effect::Setting { key, device, value, by, wall_ms } if device.is_none_or(|device| device == own) => {
                let scope = if device.is_some() { Scope::Device } else { Scope::Account };
                Some(AccountChange { key, scope, value, device: by, time_ms: wall_ms })
            }
            _ => None,
        });
        self.engine.handle_event(SettingsEvent::AccountChanged(changes.collect()), wall_ms());
        self.engine.handle_event(SettingsEvent::AccountHeard, wall_ms());
    }

    async fn open(&mut self, letter: Letter) {
        match letter {
            Letter::Account(device, change) => {
                self.owed += 1;
                if device.is_none_or(|device| device == self.device) {
                    self.engine.handle_event(SettingsEvent::AccountChanged(vec![change]), wall_ms());
                }
            }
            Letter::Flush(done) => {
                match self.edge.snapshot().await {
                    Ok(noticed) => self.engine.handle_event(noticed.into(), wall_ms()),
                    Err(error) => tracing::warn!("dconf could not be read: {error:#}"),
                }
                self.engine.handle_event(SettingsEvent::Flush, wall_ms());
                self.carry_out().await;
                let _ = done.send(());
            }
            Letter::Question(question) => question(&self.engine),
        }
    }

    async fn carry_out(&mut self) {
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                SettingsEffect::Publish { key, scope, value } => {
                    let device = (scope == Scope::Device).then_some(self.device);
                    self.driver.tell(Event::SettingChanged { key, device, value });
                }
                SettingsEffect::Write(batch) => match self.edge.write(&batch).await {
                    Ok(done) => self.engine.handle_event(done, wall_ms()),
                    Err(error) => {
                        tracing::warn!("dconf could not be read after a write: {error:#}");
                        self.engine.handle_event(SettingsEvent::WriteLost, wall_ms());
                    }
                },
                SettingsEffect::Notice { path, what, hint } => {
                    let text =
                        if hint.is_empty() { format!("{path}: {what}") } else { format!("{path}: {what}; {hint}") };
                    self.shared.activity.note("setting", None, None, &text);
                }
                SettingsEffect::Remember { .. }
                | SettingsEffect::Forget { .. }
                | SettingsEffect::Keep { .. }
                | SettingsEffect::Joined
                | SettingsEffect::History(_) => self.keep(effect).await,
            }
        }
    }

    async fn keep(&self, effect: SettingsEffect) {
        let kept = self.driver.ask(move |engine, _| in_transaction(engine, |store| keep(store, effect))).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "the state of a setting could not be kept");
        }
    }

    /// Tells how things stand once nothing is under way.
    fn settle(&mut self) {
        let settled = self.engine.is_settled();
        if settled {
            for _ in 0..std::mem::take(&mut self.owed) {
                self.driver.tell(Event::SettingTold);
            }
        }
        self.shared.settled.store(settled, Ordering::Release);
        let held = self.engine.waiting().filter(|waiting| waiting.held);
        let told = held.map(|waiting| {
            json!({ "path": Value::Null, "key": waiting.path, "what": format!("{}: {}", waiting.path, waiting.what), "hint": waiting.hint })
        });
        *lock(&self.shared.problems) = told.collect();
    }
}

fn keep(store: &mut SqliteStore, effect: SettingsEffect) -> StoreResult<()> {
    match effect {
        SettingsEffect::Remember { path, value } => {
            store.set_value(&format!("settings/base/{path}"), &codec::encode(&value))
        }
        SettingsEffect::Forget { path } => store.remove_value(&format!("settings/base/{path}")),
        SettingsEffect::Keep { path, why } => store.set_value(&format!("settings/kept/{path}"), &codec::encode(&why)),
        SettingsEffect::Joined => store.set_value("settings/joined", b"1"),
        SettingsEffect::History(entry) => {
            let number = store.last_seq()?;
            let key = format!("{HISTORY}{:013}-{number}-{}", entry.time_ms, entry.path);
            store.set_value(&key, &codec::encode(&entry))
        }
        SettingsEffect::Publish { .. } | SettingsEffect::Write(_) | SettingsEffect::Notice { .. } => Ok(()),
    }
}

/// Drops what is too old to be kept.
fn prune(store: &mut SqliteStore, now_ms: u64) -> StoreResult<()> {
    let mut newer: BTreeMap<String, usize> = BTreeMap::new();
    for (key, entry) in kept_values::<HistoryEntry>(store, HISTORY)?.into_iter().rev() {
        let newer = newer.entry(entry.path).or_default();
        if !history::is_kept(*newer, now_ms.saturating_sub(entry.time_ms)) {
            store.remove_value(&format!("{HISTORY}{key}"))?;
        }
        *newer += 1;
    }
    Ok(())
}

/// The rules of settings with these drop-ins; a wrong one is left out and told in the log.
fn policy(dropins: &[String], device: &str) -> Policy {
    let right = |text: &&String| match Policy::new(Vec::new(), vec![(*text).clone()], device) {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, "a drop-in of settings rules is left out");
            false
        }
    };
    let dropins = dropins.iter().filter(right).cloned().collect();
    Policy::new(Vec::new(), dropins, device).unwrap_or_else(|_| Policy::shipped())
}

fn in_transaction(engine: &mut RealEngine, act: impl FnOnce(&mut SqliteStore) -> StoreResult<()>) -> StoreResult<()> {
    let store = &mut engine.state.store;
    store.begin()?;
    match act(store) {
        Ok(()) => store.commit(),
        Err(error) => {
            store.rollback();
            Err(error)
        }
    }
}

fn kept_values<T: serde::Serialize + serde::de::DeserializeOwned>(
    store: &SqliteStore,
    prefix: &str,
) -> StoreResult<BTreeMap<String, T>> {
    let stored = store.values(prefix)?;
    let read = stored.into_iter().filter_map(|(key, bytes)| {
        let value = codec::decode(&bytes, MAX_KEPT).ok()?;
        Some((key[prefix.len()..].to_owned(), value))
    });
    Ok(read.collect())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
