//! Answers the bus: each method of [`Service`] in terms of the home at work, or of there being none yet.
//!
//! Holds the one [`Home`] of this machine, makes it when an account is made or joined, and takes it down when this
//! device is out of its account. Parts with a subject of their own are in [`wait`], [`history`] and [`doctor`].

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use hearth_schemas::address::RelayAddress;
use hearth_schemas::keys::DeviceKeys;
use hearth_schemas::paths::Paths;
use hearth_schemas::relay::{Reply, Request};
use serde_json::{Value, json};
use syncd_core::account;
use syncd_core::brake::Verdict;
use syncd_core::disk::{Disk, Kind, Stat};
use syncd_core::engine::Event;
use syncd_core::pairing::Invitation;
use tokio::sync::{Mutex, MutexGuard, Notify};

use crate::activity::Activity;
use crate::answer;
use crate::bus::{Answer, Barrier, Failure, JoinSettings, JoinWith, NewRule, Restore, Service, Signals};
use crate::claim::Claim;
use crate::driver::{Picture, Stopped, wall_ms, with_now};
use crate::home::{Begin, Home, Membership};
use crate::keys::{KeyStore, KeysError, Member, Stored};
use crate::membership::{self, append, entropy, told, unreachable};
use crate::net::PathKind;
use crate::preferences::Preferences;
use crate::rulebook::Rulebook;
use crate::seen;

mod doctor;
pub(crate) use doctor::finding;
mod history;
mod invite;
mod relays;
mod restore;
mod wait;

/// Everything behind the bus.
pub struct Daemon {
    paths: Paths,
    signals: Signals,
    activity: Arc<Activity>,
    inner: Mutex<Inner>,
    broken: Arc<Notify>,
    with_session_bus: bool,
}

#[derive(Default)]
struct Inner {
    home: Option<Arc<Home>>,
    /// The right to work on the home.
    claim: Option<Claim>,
    trouble: Option<(String, String)>,
}

impl Daemon {
    /// A daemon that has not looked for its account yet.
    pub fn new(paths: Paths, signals: Signals, with_session_bus: bool) -> Self {
        let activity = Arc::new(Activity::open(&paths.state, signals.clone()));
        Self { paths, signals, activity, inner: Mutex::default(), broken: Arc::default(), with_session_bus }
    }

    /// Opens the keys and, if they are in an account, goes to work. Gives whether it is worth trying again later.
    pub async fn resume_account(&self) -> bool {
        let opened = KeyStore::open(&self.paths.state).await;
        let mut inner = self.inner.lock().await;
        match opened {
            Ok(None) => false,
            Ok(Some((store, Stored { device, member: Some(member) }))) => {
                let begun = self.begin(&mut inner, store, device, member, JoinSettings::Merge);
                match begun {
                    Ok(()) => inner.trouble = None,
                    Err(failure) => {
                        tracing::error!(%failure, "the account could not be opened");
                        inner.trouble = Some((failure.what, failure.hint));
                        return true;
                    }
                }
                false
            }
            Ok(Some((_, Stored { member: None, .. }))) => false,
            Err(KeysError::KeyringLocked) => {
                inner.trouble =
                    Some(("keyring locked".into(), "unlock the login key ring; syncing goes on by itself".into()));
                true
            }
            Err(error) => {
                tracing::error!(%error, "the keys of this machine cannot be read");
                let hint = "see `hearth doctor`; a machine whose keys are lost joins anew";
                inner.trouble = Some((error.to_string(), hint.into()));
                false
            }
        }
    }

    /// Waits until it can only go on from a start: the index was found damaged, and is begun anew when it is opened.
    pub async fn broken(&self) {
        self.broken.notified().await;
    }

    /// Ends all work.
    pub async fn stop(&self) {
        let home = self.inner.lock().await.home.take();
        if let Some(home) = home {
            home.network.clone().shutdown().await;
            drop(home);
        }
        self.inner.lock().await.claim = None;
    }

    fn begin(
        &self,
        inner: &mut Inner,
        store: KeyStore,
        keys: DeviceKeys,
        member: Member,
        settings: JoinSettings,
    ) -> Result<(), Failure> {
        let hint = "end Hearth there; it goes on here by itself soon after";
        let claim = Claim::take(&self.paths.state).map_err(|refused| Failure::failed(refused.to_string(), hint))?;
        let membership = Membership::new(store, keys, member);
        let preferences =
            Arc::new(Preferences::new(&self.paths, settings, self.with_session_bus, Arc::clone(&self.activity)));
        let begin = Begin { paths: &self.paths, membership, activity: Arc::clone(&self.activity), preferences };
        let home = Home::begin(begin).map_err(|error| {
            Failure::failed(format!("{error:#}"), "see `hearth doctor`, and the log: journalctl --user -u hearth")
        })?;
        let home = Arc::new(home);
        let (mut picture, broken) = (home.driver.picture(), Arc::clone(&self.broken));
        tokio::spawn(async move {
            if picture.wait_for(|picture| picture.damaged).await.is_ok() {
                broken.notify_one();
            }
        });
        tokio::spawn(tell_status(Arc::downgrade(&home), self.signals.clone(), self.paths.clone()));
        inner.home = Some(home);
        inner.claim = Some(claim);
        Ok(())
    }

    /// Keeps what was made or joined, and goes to work with it.
    async fn enter(
        &self,
        keys: DeviceKeys,
        member: Member,
        settings: JoinSettings,
    ) -> Result<(String, String), Failure> {
        let mut inner = self.inner.lock().await;
        let account = member.account.id.to_string();
        let name = account::names(&member.account, &member.secrets).get(&keys.id()).cloned().unwrap_or_default();
        let keeping = |error: KeysError| {
            Failure::failed(format!("this machine's keys cannot be kept: {error}"), "see that the disk is not full")
        };
        let store = KeyStore::create(&self.paths.state, true).await.map_err(keeping)?;
        let copy = DeviceKeys::from_bytes(&keys.to_bytes());
        let stored = Stored { device: copy, member: Some(member) };
        store.save(&stored).map_err(keeping)?;
        let member = stored.member.expect("it was just put in");
        self.begin(&mut inner, store, keys, member, settings)?;
        inner.trouble = None;
        Ok((account, name))
    }

    async fn refuse_second_account(&self) -> Result<(), Failure> {
        let inner = self.inner.lock().await;
        if inner.home.is_some() || inner.trouble.is_some() {
            return Err(Failure::failed(
                "this machine is in an account already",
                "revoke it from the account first: `hearth device revoke NAME`",
            ));
        }
        Ok(())
    }

    async fn home(&self) -> Result<Arc<Home>, Failure> {
        let inner = self.inner.lock().await;
        match (&inner.home, &inner.trouble) {
            (Some(home), _) => Ok(Arc::clone(home)),
            (None, Some((what, hint))) => Err(Failure::failed(what.clone(), hint.clone())),
            (None, None) => Err(Failure::failed(
                "this machine is in no account yet",
                "make one with `hearth init`, or join one with `hearth join`",
            )),
        }
    }

    async fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().await
    }
}

impl Service for Daemon {
    async fn init(&self, relay: RelayAddress, name: String, invitation: Option<String>) -> Answer {
        self.refuse_second_account().await?;
        let (keys, member, phrase) = membership::create(&relay, &name, invitation).await?;
        let words = phrase.words();
        let (account, device) = self.enter(keys, member, JoinSettings::Merge).await?;
        self.activity.note("account", None, Some(&device), "made an account");
        Ok(json!({ "account": account, "device": device, "phrase": words.as_str() }))
    }

    async fn device_add(&self) -> Answer {
        let home = self.home().await?;
        home.relay_up().await;
        let reply = home.network.request(Request::PairOpen).await.map_err(unreachable)?;
        let Reply::Room { number } = reply else {
            return Err(Failure::failed("the relay gave an answer that does not fit", "see the relay's log"));
        };
        let invitation = Invitation::new(number, wall_ms(), &mut entropy);
        let code = invitation.code().to_string();
        let expires = answer::time(invitation.until_ms());
        let relay = home.membership.relays().first().map(ToString::to_string);
        invite::start(&home, invitation, self.signals.clone(), Arc::clone(&self.activity));
        Ok(json!({ "code": code, "expires": expires, "relay": relay }))
    }

    async fn join(&self, with: JoinWith, relay: RelayAddress, name: String, settings: JoinSettings) -> Answer {
        self.refuse_second_account().await?;
        let (keys, member) = match with {
            JoinWith::Code(code) => membership::join_by_code(&relay, &code, &name).await?,
            JoinWith::Phrase(phrase) => membership::join_by_phrase(&relay, &phrase, &name).await?,
        };
        let (account, device) = self.enter(keys, member, settings).await?;
        self.activity.note("account", None, Some(&device), "joined the account");
        Ok(json!({ "account": account, "device": device }))
    }

    async fn device_list(&self) -> Answer {
        let home = self.home().await?;
        let account = home.membership.account();
        let names = account::names(&account, &home.membership.secrets());
        let own = home.membership.keys().id();
        let seen = seen::when(&home.driver).await;
        let devices = account.active_devices().map(|device| {
            let this = device.id == own;
            json!({
                "name": names.get(&device.id),
                "id": device.id.to_string(),
                "this": this,
                "online": this || home.network.path(device.slot).online,
                "added": answer::time(device.added_ms),
                "last_seen": seen.get(&device.id).copied().map(answer::time),
            })
        });
        Ok(devices.collect())
    }

    async fn device_rename(&self, old: String, new: String) -> Answer {
        let home = self.home().await?;
        let membership = &home.membership;
        let (known, secrets) = (membership.account(), membership.secrets());
        let device = account::device_named(&known, &secrets, &old).ok_or_else(|| no_such_device(&old))?;
        let change = account::rename(&known, &secrets, membership.keys(), device, &new, wall_ms(), &mut entropy)
            .map_err(|error| Failure::failed(error.to_string(), "choose another name"))?;
        home.relay_up().await;
        append(&home.network, &change).await.map_err(unreachable)?;
        membership.keep(change.account, change.secrets).map_err(told)?;
        Ok(json!({ "device": new }))
    }

    async fn device_revoke(&self, name: String) -> Answer {
        let home = self.home().await?;
        let membership = &home.membership;
        let (known, secrets) = (membership.account(), membership.secrets());
        let device = account::device_named(&known, &secrets, &name).ok_or_else(|| no_such_device(&name))?;
        let change = account::revoke(&known, &secrets, membership.keys(), device, wall_ms(), &mut entropy)
            .map_err(|error| Failure::failed(error.to_string(), "see `hearth device list`"))?;
        home.relay_up().await;
        append(&home.network, &change).await.map_err(unreachable)?;
        membership.keep(change.account, change.secrets).map_err(told)?;
        self.activity.note("revoked", None, Some(&name), &format!("revoked {name}"));
        Ok(json!({ "revoked": name }))
    }

    async fn status(&self) -> Answer {
        let inner = self.lock().await;
        match &inner.home {
            Some(home) => {
                let home = Arc::clone(home);
                drop(inner);
                Ok(status_of(&home, &self.paths))
            }
            None => Ok(without_account(inner.trouble.as_ref())),
        }
    }

    async fn wait(&self, barrier: Barrier) -> Answer {
        wait::wait(&self.home().await?, &self.paths, barrier).await
    }

    async fn pause(&self) -> Answer {
        self.home().await?.driver.ask(|_, _| ()).await.map_err(stopping)?;
        self.set_paused(true).await
    }

    async fn resume(&self) -> Answer {
        self.set_paused(false).await
    }

    async fn log(&self, limit: u32) -> Answer {
        Ok(self.activity.newest(limit as usize))
    }

    async fn doctor(&self) -> Answer {
        let inner = self.lock().await;
        let (home, trouble) = (inner.home.clone(), inner.trouble.clone());
        drop(inner);
        Ok(doctor::examine(&self.paths, home.as_deref(), trouble))
    }

    async fn why(&self, path: PathBuf) -> Answer {
        let below = answer::below_home(&self.paths, &path)?;
        let is_dir = std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
        let Ok(home) = self.home().await else {
            return Ok(Rulebook::open(&self.paths).why(&self.paths.home, &below, is_dir));
        };
        let mut answer = home.preferences.rulebook.why(&self.paths.home, &below, is_dir);
        let found = home.driver.ask(move |_, disk| disk.stat(&below)).await.map_err(told)?;
        if let Some(reason) = beyond_syncing(&found) {
            answer["travels"] = Value::Bool(false);
            answer["rule"] = Value::String(String::new());
            for field in ["line", "when", "marker"] {
                if answer.get(field).is_some() {
                    answer[field] = Value::Null;
                }
            }
            answer["source"] = Value::String("kind".to_owned());
            answer["reason"] = Value::String(reason.to_owned());
        }
        if matches!(&found, Ok(Some(stat)) if stat.raised.0) {
            answer["without"] = Value::String("its setuid or setgid bit".to_owned());
        }
        Ok(answer)
    }

    async fn rules_list(&self, asking: bool) -> Answer {
        let home = self.home().await?;
        let rulebook = &home.preferences.rulebook;
        Ok(if asking { rulebook.asking(&self.paths.home) } else { rulebook.list() })
    }

    async fn rules_add(&self, rule: NewRule) -> Answer {
        let home = self.home().await?;
        home.preferences.rulebook.add(rule, &home.driver).await
    }

    async fn rules_remove(&self, pattern: String, on: Option<String>) -> Answer {
        let home = self.home().await?;
        home.preferences.rulebook.remove(&pattern, on.as_deref(), &home.driver).await
    }

    async fn relay_list(&self) -> Answer {
        Ok(relays::list(&*self.home().await?))
    }

    async fn relay_add(&self, relay: RelayAddress, invitation: Option<String>) -> Answer {
        let answer = relays::add(&*self.home().await?, &relay, invitation).await?;
        self.activity.note("relay", None, None, &format!("added the relay at {}", relay.place()));
        Ok(answer)
    }

    async fn relay_remove(&self, relay: RelayAddress) -> Answer {
        let answer = relays::remove(&*self.home().await?, &relay).await?;
        self.activity.note("relay", None, None, &format!("took the relay at {} out", relay.place()));
        Ok(answer)
    }

    async fn history(&self, path: Option<PathBuf>) -> Answer {
        let home = self.home().await?;
        let below = path.map(|path| answer::below_home(&self.paths, &path)).transpose()?;
        history::list(&home, below).await
    }

    async fn restore(&self, wanted: Restore) -> Answer {
        let home = self.home().await?;
        let below = answer::below_home(&self.paths, &wanted.path)?;
        let answer = restore::restore(&home, below, wanted).await?;
        self.activity.note("restored", None, None, "restored from history");
        Ok(answer)
    }

    async fn conflicts(&self) -> Answer {
        history::conflicts(&*self.home().await?).await
    }

    async fn held(&self) -> Answer {
        let home = self.home().await?;
        let holds = home.driver.ask(|engine, _| {
            let holds = engine.holds().map(|(id, hold)| (id.to_owned(), hold.clone()));
            holds.collect::<Vec<_>>()
        });
        let told = holds.await.map_err(stopping)?.into_iter().map(|(id, hold)| {
            json!({
                "id": id,
                "device": home.membership.name_of(hold.device),
                "removes": hold.toll.removes,
                "replaces": hold.toll.replaces,
                "bytes": hold.toll.bytes,
                "since": answer::time(hold.since_ms),
                "incoming": hold.incoming,
            })
        });
        Ok(told.collect())
    }

    async fn held_judge(&self, id: Option<String>, verdict: Verdict) -> Answer {
        let home = self.home().await?;
        let wanted = id.clone();
        let judged = home.driver.ask(move |engine, _| {
            let fits = |held: &str| wanted.as_deref().is_none_or(|id| id == held);
            let ids: Vec<String> = engine.holds().map(|(id, _)| id.to_owned()).filter(|id| fits(id)).collect();
            ids.iter().try_for_each(|id| with_now(|now| engine.handle(Event::Judged(id.clone(), verdict), now)))?;
            Ok(ids)
        });
        let ids = judged.await.map_err(stopping)?.map_err(|error| index_failed(&error))?;
        if let Some(id) = id.filter(|_| ids.is_empty()) {
            return Err(Failure::failed(format!("nothing is held under {id}"), "see `hearth held`"));
        }
        let (event, text) = match verdict {
            Verdict::Release => ("released", "what was held is released"),
            Verdict::Undo => ("undone", "what was held is taken back"),
        };
        self.activity.note(event, None, None, text);
        Ok(json!({ "ids": ids }))
    }

    async fn settings_list(&self, pattern: String) -> Answer {
        self.home().await?.preferences.list(&pattern).await
    }

    async fn settings_get(&self, key: String) -> Answer {
        self.home().await?.preferences.get(&key).await
    }

    async fn settings_explain(&self, key: String) -> Answer {
        self.home().await?.preferences.explain(&key).await
    }

    async fn settings_history(&self, key: String) -> Answer {
        self.home().await?.preferences.history(&key).await
    }
}

impl Daemon {
    async fn set_paused(&self, paused: bool) -> Answer {
        let home = self.home().await?;
        let taken =
            home.driver.ask(move |engine, _| crate::driver::with_now(|now| engine.handle(Event::Paused(paused), now)));
        taken.await.map_err(stopping)?.map_err(|error| index_failed(&error))?;
        self.activity.note(
            if paused { "paused" } else { "resumed" },
            None,
            None,
            if paused { "paused" } else { "resumed" },
        );
        Ok(json!({ "paused": paused }))
    }
}

/// What `status` says where no account is at work.
fn without_account(trouble: Option<&(String, String)>) -> Value {
    let problems: Vec<Value> =
        trouble.iter().map(|(what, hint)| json!({ "path": Value::Null, "what": what, "hint": hint })).collect();
    json!({
        "device": Value::Null,
        "account": Value::Null,
        "in_sync": false,
        "fresh_as_of": Value::Null,
        "paused": false,
        "peers": [],
        "pending": { "incoming": 0, "outgoing": 0 },
        "conflicts": 0,
        "held": 0,
        "problems": problems,
        "staying": { "count": 0, "first": [] },
    })
}

/// Why what is at a path is not synced, whatever the rules say.
fn beyond_syncing(found: &std::io::Result<Option<Stat>>) -> Option<&'static str> {
    match found {
        Ok(Some(stat)) if stat.kind == Kind::Other => {
            Some("a socket, pipe, device or mount point holds nothing that can be synced")
        }
        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
            Some("it is on another file system than the home")
        }
        Ok(_) | Err(_) => None,
    }
}

/// What `status` says of a home at work.
fn status_of(home: &Home, paths: &Paths) -> Value {
    let account = home.membership.account();
    let names = account::names(&account, &home.membership.secrets());
    let own = home.membership.keys().id();
    let picture = home.driver.picture().borrow().clone();
    let relays = home.membership.relays();
    let mut peers = Vec::new();
    let mut all_agree = true;
    for device in account.active_devices().filter(|device| device.id != own) {
        let path = home.network.path(device.slot);
        let agrees = picture.summary.agreeing.contains(&device.slot);
        all_agree &= agrees || !path.online;
        peers.push(json!({
            "name": names.get(&device.id),
            "online": path.online,
            "path": path.kind.map(|kind| match kind {
                PathKind::Lan => "lan",
                PathKind::Direct => "direct",
                PathKind::RelayUdp | PathKind::RelayTcp => "relay",
            }),
            "relay": path.relay.filter(|_| path.kind.is_some()).and_then(|relay| relays.get(relay)).map(RelayAddress::place),
            "rtt_ms": path.rtt_ms,
            "in_sync": agrees,
        }));
    }
    let alone = peers.is_empty();
    let settled = if alone { picture.summary.settled } else { picture.summary.standing.clean };
    let revoked = home.membership.slot().is_none();
    let problems = problems_of(home, paths, &picture, revoked);
    json!({
        "device": names.get(&own),
        "account": account.id.to_string(),
        "in_sync": settled && home.watcher.problems().is_empty() && home.preferences.is_settled() && all_agree && !revoked && picture.index_trouble.is_none(),
        "fresh_as_of": picture.fresh_ms.map_or(Value::Null, answer::time),
        "paused": picture.paused,
        "peers": peers,
        "pending": { "incoming": picture.summary.incoming, "outgoing": if alone { 0 } else { picture.summary.outgoing } },
        "conflicts": picture.conflicts,
        "held": picture.holds.len(),
        "problems": problems,
        "staying": { "count": picture.staying, "first": staying_of(paths, &picture) },
    })
}

/// What stays here for what it is, or loses something on its way.
fn staying_of(paths: &Paths, picture: &Picture) -> Vec<Value> {
    let mut staying = Vec::new();
    for (path, kind) in &picture.first_staying {
        let found = std::fs::symlink_metadata(paths.home.join(OsStr::from_bytes(path))).map(|found| found.file_type());
        let what = match (kind, found) {
            (Kind::File, _) => "its setuid or setgid bit",
            (_, Ok(found)) if found.is_socket() => "socket",
            (_, Ok(found)) if found.is_fifo() => "pipe",
            (_, Ok(found)) if found.is_block_device() || found.is_char_device() => "device",
            (_, Ok(_)) => "another file system",
            (_, Err(_)) => "no file",
        };
        let mut entry = json!({ "what": what });
        answer::put_path(&mut entry, "path", path);
        staying.push(entry);
    }
    staying
}

fn problems_of(home: &Home, _paths: &Paths, picture: &Picture, revoked: bool) -> Vec<Value> {
    let general = |what: String, hint: &str| json!({ "path": Value::Null, "what": what, "hint": hint });
    let mut problems: Vec<Value> = Vec::new();
    if revoked {
        problems.push(general(
            "this machine was revoked from the account".into(),
            "its files stay; join again with `hearth join` after removing the keys, see `hearth doctor`",
        ));
    }
    if let Some(trouble) = &picture.index_trouble {
        problems.push(general(trouble.clone(), "make room on the disk; syncing goes on by itself"));
    }
    if let Some(reason) = home.relay_trouble.borrow().as_ref() {
        problems.push(general(format!("not connected to the relay: {reason}"), "it is tried again by itself"));
    }
    if let Some(trouble) = &home.config_trouble {
        problems.push(general(trouble.clone(), "correct it, then restart the daemon; until then the defaults hold"));
    }
    problems.extend(home.watcher.problems().iter().map(answer::problem));
    problems.extend(home.preferences.problems());
    problems.extend(picture.problems.iter().map(answer::problem));
    problems
}

/// Tells the bus when status is a different one.
async fn tell_status(home: std::sync::Weak<Home>, signals: Signals, paths: Paths) {
    let begun = home.upgrade().map(|home| (home.driver.picture(), home.network.reached()));
    let Some((mut pictures, mut reached)) = begun else { return };
    let mut last = Value::Null;
    loop {
        let goes_on = tokio::select! {
            changed = pictures.changed() => changed.is_ok(),
            goes_on = reached.changed() => goes_on,
        };
        let Some(home) = home.upgrade().filter(|_| goes_on) else { return };
        let mut status = status_of(&home, &paths);
        let shown = status.clone();
        status["fresh_as_of"] = Value::Null;
        if status != last {
            signals.status_changed(&shown);
            last = status;
        }
    }
}

fn no_such_device(name: &str) -> Failure {
    Failure::failed(format!("no machine of this account is called {name}"), "see `hearth device list`")
}

fn stopping(_: Stopped) -> Failure {
    Failure::failed("the daemon is stopping", "start it again, then try again")
}

fn index_failed(error: &syncd_core::store::StoreError) -> Failure {
    Failure::failed(error.to_string(), "make room on the disk, then try again")
}

/// A lock of a value that no panic can leave half-changed.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
