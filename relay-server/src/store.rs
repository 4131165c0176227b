//! What the relay keeps across a restart: logs, the blobs they commit to, when devices were last seen, invitations.
//!
//! One SQLite file and one thread that owns it: tasks go in through a queue, answers come out in the same order.
//! Whatever changes an account is on disk before it is answered. Every statement names the account that it is about,
//! and the account comes from [`crate::relay`], which had it proven. Logs are verified here before they are written;
//! what they mean for those who are connected is not looked at.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hearth_schemas::ids::{AccountId, Slot};
use hearth_schemas::log::{Account, Entry};
use hearth_schemas::relay::{Head, MAX_BLOB, MAX_ENTRIES, Refusal, Reply};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tokio::sync::mpsc;

use crate::admission::{Admission, Limits};
use crate::relay::{Answer, ConnectionId, Task};

const TABLES: &str = "
CREATE TABLE entry (account BLOB NOT NULL, seq INTEGER NOT NULL, bytes BLOB NOT NULL,
    PRIMARY KEY (account, seq)) STRICT, WITHOUT ROWID;
CREATE TABLE blob (account BLOB NOT NULL, hash BLOB NOT NULL, bytes BLOB NOT NULL,
    PRIMARY KEY (account, hash)) STRICT;
CREATE TABLE seen (account BLOB NOT NULL, slot INTEGER NOT NULL, hour INTEGER NOT NULL,
    PRIMARY KEY (account, slot)) STRICT, WITHOUT ROWID;
CREATE TABLE invitation (hash BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE port (listen TEXT PRIMARY KEY, port INTEGER NOT NULL) STRICT, WITHOUT ROWID;
PRAGMA user_version = 1;
";

/// How many verified entries are kept at hand, of all accounts; a usual one has a dozen.
const AT_HAND: usize = 50_000;

/// Why something could not be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite failed.
    #[error("the relay's database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// Written by a later version of this program.
    #[error("the relay's database has version {0}, which this program does not know")]
    Version(i64),
    /// A log that was verified before it was written does not verify.
    #[error("a log in the relay's database is damaged")]
    Damaged,
    /// The thread could not be started.
    #[error("starting the thread of the database: {0}")]
    Thread(#[from] std::io::Error),
}

/// The open database.
pub struct Store {
    db: Connection,
    admission: Admission,
    limits: Limits,
    at_hand: BTreeMap<AccountId, (u64, Arc<Account>)>,
    entries_at_hand: usize,
    uses: u64,
}

impl Store {
    /// Opens the database, or makes it.
    pub fn open(path: &Path, admission: Admission, limits: Limits) -> Result<Self, StoreError> {
        let db = Connection::open(path)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        match db.query_row("PRAGMA user_version", [], |row| row.get(0))? {
            0 => db.execute_batch(&format!("BEGIN IMMEDIATE; {TABLES} COMMIT;"))?,
            1 => {}
            version => return Err(StoreError::Version(version)),
        }
        Ok(Self { db, admission, limits, at_hand: BTreeMap::new(), entries_at_hand: 0, uses: 0 })
    }

    /// Starts the thread that answers tasks, in order. It ends when the queue is dropped.
    pub fn start(mut self, answers: impl Fn(ConnectionId, Answer) + Send + 'static) -> Result<TaskQueue, StoreError> {
        // Unbounded, and yet short: each connection has at most one request under way, and each login and logout
        // one note of it.
        let (queue, mut tasks) = mpsc::unbounded_channel::<(ConnectionId, Task)>();
        std::thread::Builder::new().name("store".to_owned()).spawn(move || {
            while let Some((conn, task)) = tasks.blocking_recv() {
                let answer = std::panic::catch_unwind(AssertUnwindSafe(|| self.carry_out(task)));
                let answer = answer.unwrap_or_else(|_| {
                    self.at_hand.clear();
                    self.entries_at_hand = 0;
                    Some(Answer::Reply(Reply::Refused(Refusal::Trouble)))
                });
                if let Some(answer) = answer {
                    answers(conn, answer);
                }
            }
        })?;
        Ok(queue)
    }

    /// Carries out one task; a failure of the database is told as trouble.
    pub fn carry_out(&mut self, task: Task) -> Option<Answer> {
        let answer = match task {
            Task::Create { entries, blobs, invite } => {
                self.create(&entries, &blobs, invite.as_deref()).map(Answer::Created)
            }
            Task::Load { account } => self.account(account).map(Answer::Account),
            Task::Append { account, after, entries, blobs } => {
                self.append(account, after, &entries, &blobs).map(Answer::Appended)
            }
            Task::Log { account, from } => self.log(account, from).map(Answer::Reply),
            Task::Blob { account, hash } => self.blob(account, hash).map(Answer::Reply),
            Task::Seen { account, slot } => {
                if let Err(error) = self.seen(account, slot, hour()) {
                    tracing::error!("{error}");
                }
                return None;
            }
        };
        Some(answer.unwrap_or_else(|error| {
            tracing::error!("{error}");
            Answer::Reply(Reply::Refused(Refusal::Trouble))
        }))
    }

    /// Takes in an account. One that is here already with these very entries is fine: the reply was lost.
    fn create(
        &mut self,
        entries: &[Vec<u8>],
        blobs: &[Vec<u8>],
        invite: Option<&str>,
    ) -> Result<Result<(), Refusal>, StoreError> {
        let Some(id) = entries.first().and_then(|genesis| Some(Entry::parse(genesis).ok()?.account)) else {
            return Ok(Err(Refusal::BadLog));
        };
        if let Some(known) = self.account(id)? {
            let same = known.entries().starts_with(entries);
            return Ok(if same { Ok(()) } else { Err(Refusal::BadLog) });
        }
        if self.admission == Admission::Closed {
            return Ok(Err(Refusal::NotAdmitted));
        }
        if entries.len() > MAX_ENTRIES {
            return Ok(Err(Refusal::Limit));
        }
        let Ok(account) = Account::verify(id, entries) else { return Ok(Err(Refusal::BadLog)) };
        if let Err(refusal) = self.check(&account, blobs) {
            return Ok(Err(refusal));
        }
        let change = self.db.transaction()?;
        if self.admission == Admission::Invite && !use_invitation(&change, invite)? {
            return Ok(Err(Refusal::NotAdmitted));
        }
        if let Err(refusal) = write(&change, &account, 0, entries, blobs, self.limits.blob_bytes)? {
            return Ok(Err(refusal));
        }
        change.commit()?;
        self.keep(Arc::new(account));
        Ok(Ok(()))
    }

    fn append(
        &mut self,
        id: AccountId,
        after: Head,
        entries: &[Vec<u8>],
        blobs: &[Vec<u8>],
    ) -> Result<Result<Arc<Account>, Refusal>, StoreError> {
        let Some(known) = self.account(id)? else { return Ok(Err(Refusal::NotFound)) };
        // Without an entry: blobs that the log names and that were lost, or not at hand when it came.
        if known.head != after || (entries.is_empty() && blobs.is_empty()) {
            return Ok(Err(Refusal::BadLog));
        }
        if entries.len() > MAX_ENTRIES {
            return Ok(Err(Refusal::Limit));
        }
        let mut account = Account::clone(&known);
        if account.extend(entries).is_err() {
            return Ok(Err(Refusal::BadLog));
        }
        if let Err(refusal) = self.check(&account, blobs) {
            return Ok(Err(refusal));
        }
        let change = self.db.transaction()?;
        if let Err(refusal) = write(&change, &account, after.seq + 1, entries, blobs, self.limits.blob_bytes)? {
            return Ok(Err(refusal));
        }
        change.commit()?;
        let account = Arc::new(account);
        self.keep(account.clone());
        Ok(Ok(account))
    }

    /// The account, verified from genesis when it is first asked for.
    fn account(&mut self, id: AccountId) -> Result<Option<Arc<Account>>, StoreError> {
        if let Some((_, account)) = self.at_hand.get(&id) {
            let account = account.clone();
            self.keep(account.clone());
            return Ok(Some(account));
        }
        let entries = self.entries(id)?;
        if entries.is_empty() {
            return Ok(None);
        }
        let account = Arc::new(Account::verify(id, &entries).map_err(|_| StoreError::Damaged)?);
        self.keep(account.clone());
        Ok(Some(account))
    }

    fn log(&mut self, id: AccountId, from: u64) -> Result<Reply, StoreError> {
        let Some(account) = self.account(id)? else { return Ok(Reply::Refused(Refusal::NotFound)) };
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let entries = account.entries().iter().skip(from).take(MAX_ENTRIES).cloned().collect();
        Ok(Reply::Log { entries, head: account.head })
    }

    fn blob(&self, id: AccountId, hash: [u8; 32]) -> Result<Reply, StoreError> {
        let bytes = self
            .db
            .prepare_cached("SELECT bytes FROM blob WHERE account = ?1 AND hash = ?2")?
            .query_row(params![id.0, hash], |row| row.get(0))
            .optional()?;
        Ok(bytes.map_or(Reply::Refused(Refusal::NotFound), |bytes| Reply::Blob { bytes }))
    }

    fn seen(&self, id: AccountId, slot: Slot, hour: i64) -> Result<(), StoreError> {
        self.db
            .prepare_cached(
                "INSERT INTO seen (account, slot, hour) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET hour = ?3 WHERE hour <> ?3",
            )?
            .execute(params![id.0, slot.0, hour])?;
        Ok(())
    }

    /// Makes an invitation for one account.
    pub fn invite(&self, code: &str) -> Result<(), StoreError> {
        self.db.execute("INSERT OR IGNORE INTO invitation (hash) VALUES (?1)", [invitation_hash(code)])?;
        Ok(())
    }

    /// The port that was given out for this listen address before.
    pub fn port(&self, listen: &str) -> Result<Option<u16>, StoreError> {
        let query = "SELECT port FROM port WHERE listen = ?1";
        Ok(self.db.query_row(query, [listen], |row| row.get(0)).optional()?)
    }

    /// Remembers the port that was given out for this listen address.
    pub fn remember_port(&self, listen: &str, port: u16) -> Result<(), StoreError> {
        self.db.execute("INSERT OR REPLACE INTO port (listen, port) VALUES (?1, ?2)", params![listen, port])?;
        Ok(())
    }

    fn entries(&self, id: AccountId) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut statement = self.db.prepare_cached("SELECT bytes FROM entry WHERE account = ?1 ORDER BY seq")?;
        let rows = statement.query_map([id.0], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Whether an account and what comes with it are within the limits, and each blob is one that the log names.
    fn check(&self, account: &Account, blobs: &[Vec<u8>]) -> Result<(), Refusal> {
        if account.active_devices().count() > self.limits.devices || blobs.iter().any(|blob| blob.len() > MAX_BLOB) {
            return Err(Refusal::Limit);
        }
        if blobs.iter().any(|blob| !is_named(account, blake3::hash(blob).as_bytes())) {
            return Err(Refusal::BadLog);
        }
        Ok(())
    }

    fn keep(&mut self, account: Arc<Account>) {
        self.uses += 1;
        self.entries_at_hand += account.entries().len();
        if let Some((_, before)) = self.at_hand.insert(account.id, (self.uses, account)) {
            self.entries_at_hand -= before.entries().len();
        }
        while self.entries_at_hand > AT_HAND {
            let oldest = self.at_hand.iter().min_by_key(|(_, (used, _))| *used).map(|(id, _)| *id);
            let Some((_, account)) = oldest.and_then(|id| self.at_hand.remove(&id)) else { return };
            self.entries_at_hand -= account.entries().len();
        }
    }
}

/// Takes tasks to the thread of the store.
pub type TaskQueue = mpsc::UnboundedSender<(ConnectionId, Task)>;

fn write(
    change: &Transaction<'_>,
    account: &Account,
    from: u64,
    entries: &[Vec<u8>],
    blobs: &[Vec<u8>],
    blob_limit: u64,
) -> Result<Result<(), Refusal>, StoreError> {
    for (seq, bytes) in (from..).zip(entries) {
        change.prepare_cached("INSERT INTO entry (account, seq, bytes) VALUES (?1, ?2, ?3)")?.execute(params![
            account.id.0,
            i64::try_from(seq).expect("a log is short"),
            bytes
        ])?;
    }
    for bytes in blobs {
        change
            .prepare_cached("INSERT OR IGNORE INTO blob (account, hash, bytes) VALUES (?1, ?2, ?3)")?
            .execute(params![account.id.0, blake3::hash(bytes).as_bytes(), bytes])?;
    }
    if blobs_length(change, account.id)? <= blob_limit {
        return Ok(Ok(()));
    }
    drop_unnamed_blobs(change, account)?;
    Ok(if blobs_length(change, account.id)? <= blob_limit { Ok(()) } else { Err(Refusal::Limit) })
}

fn blobs_length(change: &Transaction<'_>, account: AccountId) -> Result<u64, StoreError> {
    let query = "SELECT coalesce(sum(length(bytes)), 0) FROM blob WHERE account = ?1";
    let length: i64 = change.query_row(query, [account.0], |row| row.get(0))?;
    Ok(u64::try_from(length).unwrap_or_default())
}

/// Drops what the log does not name any more, as after a root reset.
fn drop_unnamed_blobs(change: &Transaction<'_>, account: &Account) -> Result<(), StoreError> {
    let hashes: Vec<[u8; 32]> = change
        .prepare("SELECT hash FROM blob WHERE account = ?1")?
        .query_map([account.id.0], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for hash in hashes.iter().filter(|hash| !is_named(account, hash)) {
        change.execute("DELETE FROM blob WHERE account = ?1 AND hash = ?2", params![account.id.0, hash])?;
    }
    Ok(())
}

fn is_named(account: &Account, hash: &[u8; 32]) -> bool {
    account.epochs.iter().any(|epoch| epoch.set == *hash) || account.config == Some(*hash)
}

fn use_invitation(change: &Transaction<'_>, invite: Option<&str>) -> Result<bool, StoreError> {
    let Some(code) = invite else { return Ok(false) };
    Ok(change.execute("DELETE FROM invitation WHERE hash = ?1", [invitation_hash(code)])? == 1)
}

fn invitation_hash(code: &str) -> [u8; 32] {
    *blake3::hash(code.trim().as_bytes()).as_bytes()
}

/// The hour, counted from 1970: no finer, so that the database does not say when a person was at the machine.
fn hour() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs() / 3600).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
