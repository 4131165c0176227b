//! dconf: watches it, reads it, writes it; and the schemas and locks that go with it.
//!
//! ```text
//! Notify (bus) → rest 200 ms → read the database file → Noticed::Local  → the settings engine
//! the settings engine → write → Change (bus) → read the file again → WriteDone
//! ```
//!
//! The file is read and never written: it alone shows the user's layer without the administrator's, and the service
//! that owns it keeps it in memory. What a signal says is not used, only that there was one; so a lost signal costs
//! nothing but the time until the next regular read. The service never takes its file away: one that was there and is
//! gone is an error, and not an empty layer.

pub mod places;
mod schemas;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use glib::prelude::*;
use glib::{Variant, VariantTy};
use hearth_schemas::item::SettingValue;
use syncd_core::settings::event::{SettingsEvent, Snapshot};
use syncd_core::settings::schema::Schemas;
use syncd_core::settings::value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use zbus::{Connection, MatchRule, MessageStream};

use places::Places;

const SERVICE: &str = "ca.desrt.dconf";
const INTERFACE: &str = "ca.desrt.dconf.Writer";
/// How long the database rests before it is read.
const REST: Duration = Duration::from_millis(200);
/// The longest that a database that never rests waits.
const REST_MAX: Duration = Duration::from_secs(2);
/// How often everything is looked at without a signal.
const REGULAR: Duration = Duration::from_secs(60);

/// What the edge saw.
pub enum Noticed {
    /// The user's layer, after it changed, and now and then without a change.
    Local {
        /// All that is set.
        values: Snapshot,
        /// Number of the read.
        read: u64,
    },
    /// The installed schemas, first of all and whenever they change.
    Schemas(Schemas),
    /// The locked paths, as the schemas.
    Locks(BTreeSet<String>),
}

impl From<Noticed> for SettingsEvent {
    fn from(noticed: Noticed) -> Self {
        match noticed {
            Noticed::Local { values, read } => Self::LocalSnapshot { values, read },
            Noticed::Schemas(schemas) => Self::SchemasChanged(schemas),
            Noticed::Locks(locks) => Self::LocksChanged(locks),
        }
    }
}

/// A handle on dconf; cheap to clone.
#[derive(Clone)]
pub struct DconfEdge {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Connection,
    places: Places,
    reads: AtomicU64,
    /// Whether the file was there at some read.
    was_there: AtomicBool,
}

impl DconfEdge {
    /// Watches the database; schemas, locks and the first read are the first that the receiver gets, in this order.
    /// Ends when the receiver is dropped or the bus goes away.
    ///
    /// # Errors
    /// When the bus does not take the subscription.
    pub async fn start(connection: Connection, places: Places) -> anyhow::Result<(Self, mpsc::Receiver<Noticed>)> {
        let rule = MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .interface(INTERFACE)?
            .member("Notify")?
            .path(places.writer.clone())?
            .build();
        // Before the first read: no change falls between the two.
        let signals = MessageStream::for_match_rule(rule, &connection, Some(64)).await.context("watching dconf")?;
        let edge = Self {
            inner: Arc::new(Inner { connection, places, reads: AtomicU64::new(0), was_there: AtomicBool::new(false) }),
        };
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(edge.clone().watch(signals, sender));
        Ok((edge, receiver))
    }

    /// Reads the user's layer.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub async fn snapshot(&self) -> anyhow::Result<Noticed> {
        let (values, read) = self.read().await?;
        Ok(Noticed::Local { values, read })
    }

    /// Writes all of these in one change set, reads the layer again, and gives the answer for the engine.
    ///
    /// # Errors
    /// When the layer cannot be read afterwards; that the write itself failed is in the answer.
    pub async fn write(&self, batch: &BTreeMap<String, Option<SettingValue>>) -> anyhow::Result<SettingsEvent> {
        let failed = self.change(batch).await.err().map(|e| format!("{e:#}"));
        let (values, read) = self.read().await?;
        Ok(SettingsEvent::WriteDone { values, read, failed })
    }

    async fn change(&self, batch: &BTreeMap<String, Option<SettingValue>>) -> anyhow::Result<()> {
        let blob = change_set(batch)?;
        let Inner { connection, places, .. } = &*self.inner;
        connection
            .call_method(Some(SERVICE), places.writer.as_str(), Some(INTERFACE), "Change", &blob)
            .await
            .context("writing to dconf")?;
        Ok(())
    }

    async fn read(&self) -> anyhow::Result<(Snapshot, u64)> {
        let inner = Arc::clone(&self.inner);
        // Counted before the file is opened: whoever counts higher has seen at least as much.
        let read = inner.reads.fetch_add(1, Ordering::SeqCst) + 1;
        let place = inner.places.database.clone();
        match tokio::task::spawn_blocking(move || read_database(&place)).await?? {
            Some(values) => {
                self.inner.was_there.store(true, Ordering::SeqCst);
                Ok((values, read))
            }
            None if self.inner.was_there.load(Ordering::SeqCst) => anyhow::bail!("the settings database is gone"),
            None => Ok((Snapshot::new(), read)),
        }
    }

    async fn watch(self, signals: MessageStream, sender: mpsc::Sender<Noticed>) {
        let mut signals = pin!(signals);
        let mut seen = None;
        let mut locks = None;
        loop {
            if self.look(&sender, &mut seen, &mut locks).await.is_err() {
                return;
            }
            let regular = tokio::time::sleep(REGULAR);
            tokio::select! {
                signal = signals.next() => match signal {
                    Some(_) => {
                        let latest = Instant::now() + REST_MAX;
                        while let Ok(signal) = tokio::time::timeout_at((Instant::now() + REST).min(latest), signals.next()).await {
                            if signal.is_none() {
                                return;
                            }
                        }
                    }
                    None => return,
                },
                () = regular => {}
                () = sender.closed() => return,
            }
        }
    }

    /// Tells what there is to tell; an error when nobody listens.
    async fn look(
        &self,
        sender: &mpsc::Sender<Noticed>,
        seen: &mut Option<schemas::Stamp>,
        locks: &mut Option<BTreeSet<String>>,
    ) -> Result<(), mpsc::error::SendError<Noticed>> {
        let inner = Arc::clone(&self.inner);
        let before = seen.take();
        let looked = tokio::task::spawn_blocking(move || {
            let stamp = schemas::stamp(&inner.places);
            let schemas = (before.as_ref() != Some(&stamp)).then(|| schemas::read(&inner.places));
            (stamp, schemas, inner.places.locks())
        });
        let (stamp, schemas, found) = looked.await.expect("reading schemas does not panic");
        *seen = Some(stamp);
        if let Some(schemas) = schemas {
            sender.send(Noticed::Schemas(schemas)).await?;
        }
        if locks.as_ref() != Some(&found) {
            *locks = Some(found.clone());
            sender.send(Noticed::Locks(found)).await?;
        }
        match self.snapshot().await {
            Ok(snapshot) => sender.send(snapshot).await?,
            Err(e) => tracing::warn!("dconf cannot be read: {e:#}"),
        }
        Ok(())
    }
}

/// All values of a database file; `None` if there is no file.
fn read_database(path: &Path) -> anyhow::Result<Option<Snapshot>> {
    let file = match gvdb::read::File::from_file(path) {
        Ok(file) => file,
        Err(gvdb::read::Error::Io(e, _)) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).context("reading the settings database"),
    };
    let table = file.hash_table().context("reading the settings database")?;
    let mut values = Snapshot::new();
    for key in table.keys() {
        let key = key.context("reading the settings database")?;
        if !key.starts_with('/') || key.ends_with('/') {
            continue;
        }
        let boxed = table.get_gvariant(&key).context("reading the settings database")?;
        if let Some(inner) = boxed.as_variant() {
            values.insert(key.to_string(), value::from_variant(&inner));
        }
    }
    Ok(Some(values))
}

/// What dconf takes as one change: `a{smv}` in this machine's byte order.
fn change_set(batch: &BTreeMap<String, Option<SettingValue>>) -> anyhow::Result<Vec<u8>> {
    let mut entries = Vec::new();
    for (path, value) in batch {
        let value = match value {
            Some(value) => Variant::from_some(&Variant::from_variant(&value::to_variant(value)?)),
            None => Variant::from_none(VariantTy::VARIANT),
        };
        entries.push(Variant::from_dict_entry(&path.to_variant(), &value));
    }
    let entry = VariantTy::new("{smv}").context("a type")?;
    Ok(Variant::array_from_iter_with_type(entry, entries).data().to_vec())
}
