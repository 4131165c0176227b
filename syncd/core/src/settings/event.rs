//! What the settings engine hears and says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hearth_schemas::item::SettingValue;

use crate::settings::classify::Policy;
use crate::settings::schema::Schemas;

/// The user's layer of dconf: path to value.
pub type Snapshot = BTreeMap<String, SettingValue>;

/// For whom the account keeps a value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scope {
    /// For all machines.
    Account,
    /// For this machine alone.
    Device,
}

/// What a joining machine does where it and the account differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Join {
    /// The account wins; what only this machine has set goes to the account.
    #[default]
    Merge,
    /// The account wins; what only this machine has set stays here.
    Account,
    /// What this machine has set stays here, for this machine.
    Mine,
}

/// A value of the account, as it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccountChange {
    /// dconf path.
    pub key: String,
    /// For whom.
    pub scope: Scope,
    /// The value; `None` is "unset", a value of its own.
    pub value: Option<SettingValue>,
    /// The name of the device that set it.
    pub device: String,
    /// When, by that device's clock, in milliseconds since 1970.
    pub time_ms: u64,
}

/// What happened.
#[derive(Clone)]
pub enum SettingsEvent {
    /// The user's layer was read. `read` counts the reads of one edge: an older one that comes late is dropped.
    LocalSnapshot {
        /// All that is set.
        values: Snapshot,
        /// Number of the read.
        read: u64,
    },
    /// Values of the account, or of this device in it, stand so.
    AccountChanged(Vec<AccountChange>),
    /// All that the account held is known: nothing is published or applied before. After a restart this follows the
    /// replay of the index; on a first join it follows the first exchange with another machine.
    AccountHeard,
    /// The last [`SettingsEffect::Write`] was carried out, or was not; the layer was read after it.
    WriteDone {
        /// All that is set now.
        values: Snapshot,
        /// Number of the read.
        read: u64,
        /// Why the write could not be made at all.
        failed: Option<String>,
    },
    /// The last [`SettingsEffect::Write`] was given away, and the layer could not be read after it.
    WriteLost,
    /// The installed schemas are these.
    SchemasChanged(Schemas),
    /// The administrator locks these paths; one that ends in `/` means all below it.
    LocksChanged(BTreeSet<String>),
    /// The rules are these.
    PolicyChanged(Arc<Policy>),
    /// What waits to be published is published at once.
    Flush,
    /// Time has passed.
    Tick,
}

/// Why a setting of this machine keeps to itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// The person kept it at the join.
    Joined,
    /// Something here changes it back whenever the account's value comes.
    Quarantined,
}

/// Why a setting changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// It was changed here.
    Person,
    /// Another machine changed it.
    Remote,
    /// This machine joined.
    FirstJoin,
    /// Something here kept changing it.
    Quarantine,
}

impl Cause {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Remote => "remote",
            Self::FirstJoin => "first join",
            Self::Quarantine => "quarantine",
        }
    }
}

/// One change of a setting on this machine.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct HistoryEntry {
    /// dconf path.
    pub path: String,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// The name of the device that set it.
    pub device: String,
    /// What stood here before; `None` is unset.
    pub old: Option<SettingValue>,
    /// What stands here since.
    pub new: Option<SettingValue>,
    /// Why.
    pub cause: Cause,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SettingsEffect {
    /// Give this value to the account.
    Publish {
        /// dconf path.
        key: String,
        /// For whom.
        scope: Scope,
        /// The value; `None` is unset.
        value: Option<SettingValue>,
    },
    /// Write these in one change set, read the layer again, and answer with [`SettingsEvent::WriteDone`], or with
    /// [`SettingsEvent::WriteLost`] if it cannot be read.
    Write(BTreeMap<String, Option<SettingValue>>),
    /// Keep this for the next start: the value that this machine and the account last agreed on.
    Remember {
        /// dconf path.
        path: String,
        /// The value here.
        value: SettingValue,
    },
    /// Drop what is remembered of this path.
    Forget {
        /// dconf path.
        path: String,
    },
    /// Keep this for the next start: the setting is this machine's own.
    Keep {
        /// dconf path.
        path: String,
        /// Why.
        why: Kept,
    },
    /// Keep this for the next start: the first join is over.
    Joined,
    /// Add this to the history.
    History(HistoryEntry),
    /// Tell the person, once.
    Notice {
        /// dconf path.
        path: String,
        /// What happened, in words.
        what: String,
        /// What to do about it.
        hint: String,
    },
}
