//! What `hearth --json` answers, as far as scripts may rely on it.
//!
//! The fields are those of the command line's contract: each must be there, others may be.

use serde::Deserialize;

/// `hearth init`.
#[derive(Clone, Debug, Deserialize)]
pub struct Init {
    /// The account.
    pub account: String,
    /// This device's name.
    pub device: String,
    /// Twelve words.
    pub phrase: String,
}

/// `hearth device add`.
#[derive(Clone, Debug, Deserialize)]
pub struct Invitation {
    /// A number and three words.
    pub code: String,
    /// When the code stops to be good.
    pub expires: String,
}

/// `hearth status`.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// This device's name, once it has an account.
    pub device: Option<String>,
    /// The account, once there is one.
    pub account: Option<String>,
    /// Whether this machine and all others agree.
    pub in_sync: bool,
    /// When that was last checked.
    pub fresh_as_of: Option<String>,
    /// The other devices.
    pub peers: Vec<Peer>,
    /// Work that is left.
    pub pending: Pending,
    /// How many conflicts are kept.
    pub conflicts: u64,
    /// How many batches wait for a person.
    pub held: u64,
    /// What cannot be synced, and why.
    pub problems: Vec<Problem>,
    /// What stays here for what it is.
    pub staying: Staying,
}

/// What stays on a machine for what it is, or loses something on its way.
#[derive(Clone, Debug, Deserialize)]
pub struct Staying {
    /// How many entries.
    pub count: u64,
    /// The first few.
    pub first: Vec<Stays>,
}

/// One of them.
#[derive(Clone, Debug, Deserialize)]
pub struct Stays {
    /// Relative to the home.
    pub path: String,
    /// What it is, or loses.
    pub what: String,
}

impl Status {
    /// Returns a peer by name.
    pub fn peer(&self, name: &str) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.name == name)
    }
}

/// One other device in [`Status`].
#[derive(Clone, Debug, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Whether it can be reached.
    pub online: bool,
    /// `lan`, `direct` or `relay`.
    pub path: Option<String>,
    /// Host and port of the relay that carries what goes there, if one does.
    pub relay: Option<String>,
    /// The round trip in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Whether it has what we have.
    pub in_sync: bool,
}

/// Counts of items in [`Status`].
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Pending {
    /// To be received or applied.
    pub incoming: u64,
    /// To be sent.
    pub outgoing: u64,
}

/// One item that cannot be synced.
#[derive(Clone, Debug, Deserialize)]
pub struct Problem {
    /// Relative to the home; absent for a problem of the whole machine.
    pub path: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: String,
    /// When a copy was taken last of a file that is being written.
    pub last_copy: Option<String>,
}

/// One row of `hearth history`.
#[derive(Clone, Debug, Deserialize)]
pub struct Displaced {
    /// What `restore --version` takes.
    pub version: String,
    /// Relative to the home.
    pub path: String,
    /// The same in Base64, where it is no text.
    pub path_b64: Option<String>,
    /// When it was displaced.
    pub time: String,
    /// The device that wrote what displaced it.
    pub device: String,
    /// In bytes.
    pub size: u64,
    /// The plain hash, in lower-case hex.
    pub blake3: String,
    /// Why: an edit, a deletion, …
    pub cause: String,
}

/// One row of `hearth conflicts`.
#[derive(Clone, Debug, Deserialize)]
pub struct Conflict {
    /// The file that kept its name.
    pub path: String,
    /// The other version beside it.
    pub sibling: String,
    /// The device that wrote the sibling.
    pub device: String,
}

/// `hearth settings get`.
#[derive(Clone, Debug, Deserialize)]
pub struct Setting {
    /// As asked, or its dconf path.
    pub key: String,
    /// In GVariant text.
    pub value: Option<String>,
    /// How it is treated.
    pub class: String,
}
