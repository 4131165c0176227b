//! This machine in its account, at work: engine, watcher, network and the tasks that join them.
//!
//! Made once a device is in an account ([`crate::service`] sees to that), dropped when it no longer is. Each outside
//! thing tells the engine what happened; each effect of the engine is carried out by whom it concerns. The account's
//! log is kept up here too: fetched when it grew, verified, kept, and shown to the network, which then drops whoever
//! was revoked.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::Context;
use hearth_schemas::address::RelayAddress;
use hearth_schemas::ids::{DeviceId, Slot};
use hearth_schemas::keys::DeviceKeys;
use hearth_schemas::keys::config::{Config as AccountConfig, MAX_RELAYS};
use hearth_schemas::log::{Account, Standing};
use hearth_schemas::paths::Paths;
use hearth_schemas::relay::{self, Head};
use syncd_core::account::{self, Secrets};
use syncd_core::apply::Happened;
use syncd_core::engine::{Effect, Engine, Event};
use syncd_core::state::State;
use syncd_core::store::StoreError;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, block_in_place};

use crate::activity::Activity;
use crate::blobs::Blobs;
use crate::config::Config;
use crate::disk::RealDisk;
use crate::driver::{Driver, with_now};
use crate::exchange::Exchange;
use crate::keys::{KeyStore, Member, Stored};
use crate::membership::{append, catch_up, entropy};
use crate::mirror::{Anywhere, Heads, Mirror};
use crate::net::{Identity, NetEvent, Network};
use crate::paths::SignalKey;
use crate::preferences::Preferences;
use crate::store::{SqliteStore, distrust};
use crate::watch::{Stirred, Stirs, Watcher};
use crate::{retention, seen};

/// How long a request of a person waits for the relay to be reached.
const RELAY_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// How often it is remembered who is connected.
const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

/// Least time between two looks at the directories that cannot be watched, and how much of it one directory is worth.
const LOOK_BEYOND: std::time::Duration = std::time::Duration::from_secs(5);
const LOOK_BEYOND_EACH: std::time::Duration = std::time::Duration::from_millis(1);

/// What this device is in its account.
pub struct Membership {
    keys: DeviceKeys,
    kept: Mutex<Kept>,
    account: watch::Sender<Arc<Account>>,
    signal_key: watch::Sender<Arc<SignalKey>>,
    relays: watch::Sender<Vec<RelayAddress>>,
}

struct Kept {
    store: KeyStore,
    member: Member,
    /// The configuration that the relays are from, by the hash that the log has of it.
    config: Option<[u8; 32]>,
}

impl Membership {
    /// Takes over what was read or made.
    pub fn new(store: KeyStore, keys: DeviceKeys, member: Member) -> Self {
        let account = watch::Sender::new(Arc::new(member.account.clone()));
        let signal_key = watch::Sender::new(Arc::new(SignalKey::newest(&member.secrets)));
        let relays = watch::Sender::new(member.relays.iter().take(MAX_RELAYS).cloned().collect());
        Self { keys, kept: Mutex::new(Kept { store, member, config: None }), account, signal_key, relays }
    }

    /// The account as far as it is known.
    pub fn account(&self) -> Arc<Account> {
        self.account.borrow().clone()
    }

    /// The account, and its changes.
    pub fn watch(&self) -> watch::Receiver<Arc<Account>> {
        self.account.subscribe()
    }

    /// The account's shared secrets.
    pub fn secrets(&self) -> Secrets {
        self.lock().member.secrets.clone()
    }

    /// This device's keys.
    pub fn keys(&self) -> &DeviceKeys {
        &self.keys
    }

    /// This device's number.
    pub fn slot(&self) -> Option<Slot> {
        self.account().active(&self.keys.id()).map(|device| device.slot)
    }

    /// The relays' addresses, in the account's order.
    pub fn relays(&self) -> Vec<RelayAddress> {
        self.relays.borrow().clone()
    }

    /// Uses the relays of the configuration that the account's log names, if it can be had and names others.
    pub fn follow_config(&self, blobs: &Blobs) -> anyhow::Result<()> {
        let account = self.account();
        let mut kept = self.lock();
        let Some(hash) = account.config.filter(|hash| kept.config != Some(*hash)) else { return Ok(()) };
        let Some(sealed) = blobs.get(&hash) else { return Ok(()) };
        // Not looked at again: what this version does not understand today, it does not tomorrow.
        kept.config = Some(hash);
        let config = AccountConfig::open(&kept.member.secrets.account, account.id, &sealed)
            .context("it is none that this version understands")?;
        if config.relays == kept.member.relays {
            return Ok(());
        }
        let (account, secrets) = (kept.member.account.clone(), kept.member.secrets.clone());
        let member = Member { account, secrets, relays: config.relays.clone() };
        self.save(&mut kept, member)?;
        self.relays.send_replace(config.relays);
        Ok(())
    }

    /// The name of a device.
    pub fn name_of(&self, device: DeviceId) -> String {
        let names = account::names(&self.account(), &self.secrets());
        names.get(&device).cloned().unwrap_or_else(|| device.to_string()[..8].to_owned())
    }

    /// How the keys are sealed.
    pub fn seal(&self) -> crate::keys::Seal {
        self.lock().store.seal()
    }

    /// Keeps a later state of the account, then shows it.
    pub fn keep(&self, account: Account, secrets: Secrets) -> anyhow::Result<()> {
        let mut kept = self.lock();
        let member = Member { account: account.clone(), secrets, relays: kept.member.relays.clone() };
        self.save(&mut kept, member)?;
        self.signal_key.send_replace(Arc::new(SignalKey::newest(&kept.member.secrets)));
        self.account.send_replace(Arc::new(account));
        Ok(())
    }

    fn save(&self, kept: &mut Kept, member: Member) -> anyhow::Result<()> {
        let stored = Stored { device: DeviceKeys::from_bytes(&self.keys.to_bytes()), member: Some(member) };
        kept.store.save(&stored).context("keeping the account")?;
        kept.member = stored.member.expect("it was just put in");
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This machine at work.
pub struct Home {
    /// The engine.
    pub driver: Driver,
    /// The disk, for history.
    pub disk: RealDisk,
    /// The relay and the peers.
    pub network: Network,
    /// The account.
    pub membership: Arc<Membership>,
    /// The directories that are watched.
    pub watcher: Watcher,
    /// Settings and rules.
    pub preferences: Arc<Preferences>,
    /// Copies of what the account's log names.
    pub blobs: Arc<Blobs>,
    /// Why no relay is connected, if none is.
    pub relay_trouble: watch::Receiver<Option<String>>,
    /// What is wrong with this machine's configuration.
    pub config_trouble: Option<String>,
    /// Where messages of a pairing room go while a code is out.
    pub pairing: Arc<Mutex<Option<mpsc::Sender<relay::Event>>>>,
    tasks: Vec<AbortHandle>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Home {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.driver.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the engine has been told on stderr by then.
            let wait = || drop(thread.join());
            // The engine may wait for one of the tasks, which is to end meanwhile though this is their only worker.
            match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
                Ok(RuntimeFlavor::MultiThread) => block_in_place(wait),
                Ok(_) | Err(_) => wait(),
            }
        }
    }
}

/// What a home needs to begin.
pub struct Begin<'a> {
    /// Where things are.
    pub paths: &'a Paths,
    /// The account.
    pub membership: Membership,
    /// The activity log.
    pub activity: Arc<Activity>,
    /// Settings and rules.
    pub preferences: Arc<Preferences>,
}

impl Home {
    /// Waits until the relay at which the account is changed has let this device in, for a while.
    pub async fn relay_up(&self) {
        self.network.first_relay_up(RELAY_WAIT).await;
    }

    /// Opens index and disk, starts the engine and the network.
    pub fn begin(begin: Begin<'_>) -> anyhow::Result<Self> {
        let Begin { paths, membership, activity, preferences } = begin;
        let membership = Arc::new(membership);
        let keys = membership.keys();
        let account = membership.account();
        let device = keys.id();
        let slot = account.active(&device).context("this device is not in its account")?.slot;
        let content_key = *membership.secrets().account.content().bytes();

        let (config, config_trouble) = Config::read(&paths.config.join("config.toml"));
        if let Some(trouble) = &config_trouble {
            tracing::warn!("{trouble}; the defaults hold");
        }
        let index = paths.state.join(format!("index-{}.db", crate::membership::short(account.id)));
        let store = open_index(&index, &activity)?;
        let disk = RealDisk::open(&paths.home, &paths.data, &paths.state, content_key).context("opening the home")?;
        disk.keep_free(config.disk.keep_free_mib.saturating_mul(1 << 20), config.disk.keep_free_percent);
        let first = account.devices.len() == 1;
        let name = membership.name_of(device);
        let opened = with_now(|now| State::open(store, device, &name, first, now));
        let opened = opened.inspect_err(|error| {
            if matches!(error, StoreError::Damaged(_))
                && let Err(error) = distrust(&index)
            {
                tracing::warn!(%error, "it could not be noted that the index is damaged");
            }
        });
        let state = opened.context("opening the index")?;

        preferences.load(&state, device)?;
        let mut engine = Engine::new(state, preferences.rulebook.select());
        engine.set_limits(config.brakes.limits());
        let (watcher, stirred) = Watcher::start(&paths.home, &paths.state, preferences.unwatched())?;
        disk.watched_by(watcher.clone());
        let (driver, effects, thread) = Driver::start(engine, disk.clone()).context("starting the engine")?;
        let exchange = Exchange::new(driver.clone(), disk.clone(), content_key);
        let identity = Identity { account: account.id, device, slot, sign: keys.sign.clone(), tls: keys.tls.clone() };
        let port = std::fs::read_to_string(paths.state.join("udp-port")).ok().and_then(|text| text.trim().parse().ok());
        let blobs = Arc::new(Blobs::at(paths.state.join(format!("sealed-{}", crate::membership::short(account.id)))));
        let (network, net_events) = Network::start(
            membership.relays.subscribe(),
            Arc::clone(&blobs),
            identity,
            membership.account.subscribe(),
            membership.signal_key.subscribe(),
            config.network,
            port.unwrap_or(0),
        )?;
        if let Some(port) = network.udp_port() {
            // Only a convenience: the same port keeps firewall rules and NAT mappings valid.
            let _ = std::fs::write(paths.state.join("udp-port"), port.to_string());
        }

        let (heads, relays_have) = watch::channel(Heads::new());
        let mirror = Mirror {
            network: network.clone(),
            membership: Arc::clone(&membership),
            blobs: Arc::clone(&blobs),
            heads: relays_have,
        };
        let (trouble, relay_trouble) = watch::channel(Some("connecting".to_owned()));
        let pairing = Arc::new(Mutex::new(None));
        let tasks = vec![
            tokio::spawn(carry_out(
                effects,
                exchange.clone(),
                watcher.clone(),
                driver.clone(),
                Arc::clone(&activity),
                Arc::clone(&preferences),
            )),
            tokio::spawn(watch_disk(stirred, driver.clone())),
            tokio::spawn(look_beyond(watcher.clone(), driver.clone())),
            tokio::spawn(
                Connect {
                    network: network.clone(),
                    exchange,
                    driver: driver.clone(),
                    membership: Arc::clone(&membership),
                    activity,
                    trouble,
                    relays: BTreeMap::new(),
                    heads,
                    pairing: Arc::clone(&pairing),
                }
                .run(net_events),
            ),
            tokio::spawn(mirror.run()),
            tokio::spawn(Arc::clone(&preferences).run(driver.clone())),
            tokio::spawn(retention::keep_within(config.history, driver.clone())),
            tokio::spawn(retention::list_again(disk.clone(), driver.clone())),
            tokio::spawn(tell_others(membership.account.subscribe(), device, driver.clone())),
        ];
        let tasks = tasks.into_iter().map(|task| task.abort_handle()).collect();
        Ok(Self {
            driver,
            disk,
            network,
            membership,
            watcher,
            preferences,
            blobs,
            relay_trouble,
            config_trouble,
            pairing,
            tasks,
            thread: Some(thread),
        })
    }
}

fn open_index(path: &Path, activity: &Activity) -> anyhow::Result<SqliteStore> {
    let (store, moved_aside) = SqliteStore::open(path).context("opening the index")?;
    if let Some(broken) = moved_aside {
        let text =
            format!("the index was damaged and is rebuilt from disk and peers; it was moved to {}", broken.display());
        activity.note("index", None, None, &text);
        tracing::warn!("{text}");
    }
    Ok(store)
}

async fn carry_out(
    mut effects: mpsc::Receiver<Effect>,
    exchange: Exchange,
    watcher: Watcher,
    driver: Driver,
    activity: Arc<Activity>,
    preferences: Arc<Preferences>,
) {
    while let Some(effect) = effects.recv().await {
        let Some(effect) = exchange.carry_out(effect) else { continue };
        match effect {
            Effect::Drain(peer, token) => {
                let (watcher, driver, preferences) = (watcher.clone(), driver.clone(), Arc::clone(&preferences));
                tokio::spawn(async move {
                    preferences.flush().await;
                    drain(&watcher, &driver).await;
                    driver.tell(Event::Drained(peer, token));
                });
            }
            Effect::Watch(dirs) => {
                driver.tell(Event::Watched(watcher.watch(dirs).await));
            }
            Effect::Did(path, happened, by) => {
                let event = match happened {
                    Happened::Created => "created",
                    Happened::Changed => "changed",
                    Happened::Moved => "moved",
                    Happened::Removed => "removed",
                    Happened::Withdrawn => "withdrawn",
                    Happened::Merged => "merged",
                };
                let shown = String::from_utf8_lossy(&path).into_owned();
                activity.note(event, Some(&path), Some(&by), &format!("{event} {shown}"));
            }
            Effect::Setting { key, device, value, by, wall_ms } => {
                preferences.account_has(key, device, value, by, wall_ms, &driver);
            }
            Effect::Send(..)
            | Effect::End(..)
            | Effect::Fetch { .. }
            | Effect::Compare(..)
            | Effect::Serve(..)
            | Effect::StatusChanged => {}
        }
    }
}

/// Has the engine told of everything that happened so far; what nobody watches is to be looked at.
pub async fn drain(watcher: &Watcher, driver: &Driver) {
    watcher.cookie().await;
    let beyond = watcher.beyond();
    if !beyond.is_empty() {
        driver.tell(Event::Watched(beyond));
    }
}

/// Looks again and again at the directories that cannot be watched; the more there are, the more seldom.
async fn look_beyond(watcher: Watcher, driver: Driver) {
    let mut pause = LOOK_BEYOND;
    loop {
        watcher.until_beyond().await;
        tokio::time::sleep(pause).await;
        let beyond = watcher.beyond();
        pause = LOOK_BEYOND.max(LOOK_BEYOND_EACH * u32::try_from(beyond.len()).unwrap_or(u32::MAX));
        if !beyond.is_empty() {
            // Watches may have become free, and directories may be gone.
            watcher.watch(beyond.clone()).await;
            driver.tell(Event::Watched(beyond));
        }
    }
}

/// Tells the engine who else is in the account.
async fn tell_others(mut account: watch::Receiver<Arc<Account>>, own: DeviceId, driver: Driver) {
    loop {
        let active = account.borrow_and_update().clone();
        let others = active.active_devices().filter(|device| device.id != own).map(|device| device.slot);
        driver.tell(Event::Others(others.collect()));
        if account.changed().await.is_err() {
            break;
        }
    }
}

async fn watch_disk(mut stirred: Stirs, driver: Driver) {
    while let Some(stirred) = stirred.recv().await {
        driver.tell(match stirred {
            Stirred::Paths(paths) => Event::Stirred(paths),
            Stirred::Watched(dirs) => Event::Unwatched(dirs),
            Stirred::Overflow => Event::Overflowed,
        });
    }
}

/// Follows the network.
struct Connect {
    network: Network,
    exchange: Exchange,
    driver: Driver,
    membership: Arc<Membership>,
    activity: Arc<Activity>,
    trouble: watch::Sender<Option<String>>,
    /// Why this device is not logged in at each relay; `None` where it is.
    relays: BTreeMap<usize, Option<String>>,
    /// What each relay has of the account.
    heads: watch::Sender<Heads>,
    pairing: Arc<Mutex<Option<mpsc::Sender<relay::Event>>>>,
}

impl Connect {
    async fn run(mut self, mut events: mpsc::Receiver<NetEvent>) {
        let mut hour = tokio::time::interval(HOUR);
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                _ = hour.tick() => {
                    self.connected_still().await;
                    continue;
                }
            };
            let Some(event) = event else { break };
            match event {
                NetEvent::RelayUp { relay, session } => {
                    self.relays.insert(relay, None);
                    self.tell_trouble();
                    self.relay_has(relay, session.head).await;
                }
                NetEvent::RelayDown { relay, reason } => {
                    tracing::info!(relay, reason, "not connected to the relay");
                    self.relays.insert(relay, Some(reason));
                    self.tell_trouble();
                    self.heads.send_if_modified(|heads| heads.remove(&relay).is_some());
                }
                NetEvent::RelayGone { relay } => {
                    self.relays.remove(&relay);
                    self.tell_trouble();
                    self.heads.send_if_modified(|heads| heads.remove(&relay).is_some());
                }
                NetEvent::Relay { relay, event: relay::Event::LogChanged { head } } => {
                    self.relay_has(relay, head).await;
                }
                NetEvent::PeerAhead { head, .. } => self.head_seen(0, &head).await,
                NetEvent::Relay {
                    event:
                        event
                        @ (relay::Event::PairJoined | relay::Event::PairMessage { .. } | relay::Event::PairLeft { .. }),
                    ..
                } => {
                    let room = self.pairing.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    if let Some(room) = room {
                        let _ = room.send(event).await;
                    }
                }
                NetEvent::Relay { event: relay::Event::Presence { .. } | relay::Event::Signal { .. }, .. } => {}
                NetEvent::PeerUp { slot, device, connection, opener } => {
                    self.note("connected", device, "connected");
                    seen::note(&self.driver, vec![device]).await;
                    self.exchange.peer_up(slot, device, connection, opener);
                }
                NetEvent::PeerDown { slot } => {
                    self.exchange.peer_down(slot);
                    if let Some(device) = self.membership.account().active_slot(slot) {
                        self.note("disconnected", device.id, "disconnected");
                        seen::note(&self.driver, vec![device.id]).await;
                    }
                }
                NetEvent::PeerForked { slot, .. } => {
                    tracing::error!(slot = slot.0, "a device shows another history of the account; it was not let in");
                    self.activity.note(
                        "alarm",
                        None,
                        None,
                        "a device shows another history of the account; see `hearth doctor`",
                    );
                }
            }
        }
    }

    /// A machine that loses its power does not say goodbye to anybody.
    async fn connected_still(&self) {
        let account = self.membership.account();
        let connected = account.active_devices().filter(|device| self.network.path(device.slot).kind.is_some());
        seen::note(&self.driver, connected.map(|device| device.id).collect()).await;
    }

    fn note(&self, event: &str, device: DeviceId, text: &str) {
        let name = self.membership.name_of(device);
        self.activity.note(event, None, Some(&name), &format!("{name} {text}"));
    }

    /// Says why no relay is connected, if none is.
    fn tell_trouble(&self) {
        let trouble = if self.relays.values().any(Option::is_none) {
            None
        } else {
            let first = self.relays.values().flatten().next().cloned();
            Some(first.unwrap_or_else(|| "connecting".to_owned()))
        };
        self.trouble.send_if_modified(|told| std::mem::replace(told, trouble.clone()) != trouble);
    }

    async fn relay_has(&self, relay: usize, head: Head) {
        self.head_seen(relay, &head).await;
        self.heads.send_if_modified(|heads| heads.insert(relay, head) != Some(head));
    }

    /// Fetches what the log has grown by, if it has, and from this relay if it can be.
    async fn head_seen(&self, relay: usize, head: &Head) {
        let account = self.membership.account();
        match account.judge(head) {
            Standing::Same => {}
            Standing::Newer => {
                let keys = self.membership.keys();
                let relays = Anywhere { network: &self.network, first: relay };
                match catch_up(&relays, &account, &self.membership.secrets(), keys).await {
                    Ok((account, secrets)) => {
                        if let Err(error) = self.membership.keep(account, secrets) {
                            tracing::error!("{error:#}");
                        }
                        self.owed_epoch().await;
                    }
                    Err(failure) => tracing::warn!(%failure, "the account's log could not be followed"),
                }
            }
            Standing::Older => {
                tracing::info!(relay, "the relay shows an older state of the account than was seen before")
            }
            Standing::Forked => {
                tracing::error!("the relay shows another history of the account");
                self.activity.note("alarm", None, None, "the relay shows another history of the account");
            }
        }
    }

    /// Begins the epoch that a device which revoked itself could not begin.
    async fn owed_epoch(&self) {
        let account = self.membership.account();
        if !account.epoch_is_owed() || self.membership.slot().is_none() {
            return;
        }
        let now = crate::driver::wall_ms();
        let change =
            account::new_epoch(&account, &self.membership.secrets(), self.membership.keys(), now, &mut entropy);
        if let Ok(change) = change
            && append(&self.network, &change).await.is_ok()
            && let Err(error) = self.membership.keep(change.account, change.secrets)
        {
            tracing::error!("{error:#}");
        }
    }
}
