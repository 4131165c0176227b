//! The index in SQLite: the daemon's answer to what [`syncd_core::store::Store`] asks.
//!
//! Rows and base entries are kept as their canonical encoding beside the columns that are asked by. Everything between
//! `begin` and `commit` is one transaction, durable when `sync` returns. A damaged file is moved aside and begun anew:
//! disk and peers fill it again by union. Decides nothing.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use hearth_schemas::codec;
use hearth_schemas::ids::{ContentHash, NodeId, RunId, Slot};
use hearth_schemas::item::{Class, Name, Row, UNNUMBERED, Value};
use hearth_schemas::wire::{Cursor, KnownMap};
use rusqlite::config::DbConfig;
use rusqlite::types::FromSql;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Params, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use syncd_core::conflict;
use syncd_core::disk::{Handle, Stat};
use syncd_core::fingerprint::Fingerprint;
use syncd_core::row;
use syncd_core::store::{Base, BaseState, Kept, Store, StoreError, StoreResult, Text};

pub use self::closing::distrust;
use self::closing::{Closing, Found};
use self::pending::{At, Bases, Cell, Rows};

mod closing;
mod pending;

/// Numbered schema changes, oldest first.
const SCHEMA: [&str; 5] = [
    include_str!("../../../schemas/sql/0001_index.sql"),
    include_str!("../../../schemas/sql/0002_texts.sql"),
    include_str!("../../../schemas/sql/0003_places_of_rows.sql"),
    include_str!("../../../schemas/sql/0004_fingerprints.sql"),
    include_str!("../../../schemas/sql/0005_smaller_indexes.sql"),
];
/// The schema that has fingerprints.
const FINGERPRINTS: usize = 4;
/// Page cache in KiB.
const CACHE_KIB: i64 = 4 << 10;
/// Longest stored value, in bytes: what is read back was written by this program.
const MAX_VALUE: usize = 64 << 20;

/// Things kept in memory over a transaction's end, of each kind.
const REMEMBERED: usize = 16 << 10;
/// Rows or base entries that wait before they are written to SQLite within the transaction.
const WAITING: usize = 4096;

/// The index of one account.
pub struct SqliteStore {
    db: Connection,
    known: KnownMap,
    last_seq: u64,
    digest: u64,
    /// Rows that hold an unnumbered change.
    unnumbered: u64,
    /// What a rollback goes back to, while a transaction is open.
    saved: Option<Saved>,
    /// Whether SQLite knows of the open transaction; it is told with the first write.
    begun: bool,
    /// Where SQLite's write-ahead log is, and whether it may hold what is not durable.
    log: PathBuf,
    unsynced: bool,
    rows: RefCell<Rows>,
    bases: RefCell<Bases>,
    /// Nodes that were marked or unmarked and SQLite has yet to follow.
    marks: BTreeMap<NodeId, bool>,
    /// What the fingerprints of directories have changed by since SQLite followed.
    changed_by: BTreeMap<NodeId, Fingerprint>,
    /// Dropped after the connection has ended.
    closing: Closing,
}

/// What is known of the index without asking SQLite.
#[derive(Clone)]
struct Saved {
    known: KnownMap,
    last_seq: u64,
    digest: u64,
    unnumbered: u64,
}

impl SqliteStore {
    /// Opens or makes the index. Where it was damaged, gives the path that the damaged file was moved to.
    pub fn open(path: &Path) -> Result<(Self, Option<PathBuf>), rusqlite::Error> {
        let found = Found::take(path).unwrap_or_else(|error| {
            tracing::warn!(%error, "it cannot be told how the index was left");
            Found::Unknown
        });
        let opened = match found {
            Found::Damaged => Err(damage()),
            Found::Closed(_) | Found::Unknown => Self::try_open(path, found),
        };
        match opened {
            Ok(store) => Ok((store, None)),
            Err(error) if is_damage(&error) => {
                let aside = aside(path);
                for ending in ["", "-wal", "-shm"] {
                    let file = with_ending(path, ending);
                    if file.exists() {
                        std::fs::rename(&file, with_ending(&aside, ending)).map_err(|_| error_of(&error))?;
                    }
                }
                Found::forget(path).map_err(|_| error_of(&error))?;
                Ok((Self::try_open(path, Found::Unknown)?, Some(aside)))
            }
            Err(error) => Err(error),
        }
    }

    fn try_open(path: &Path, found: Found) -> Result<Self, rusqlite::Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags)?;
        // Nobody else opens the index, so there is nothing to lock for every question.
        db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        // A commit is in the log, in order; [`Store::sync`] makes the log durable.
        db.pragma_update(None, "synchronous", "NORMAL")?;
        db.pragma_update(None, "trusted_schema", false)?;
        db.pragma_update(None, "cache_size", -CACHE_KIB)?;
        db.pragma_update(None, "temp_store", "MEMORY")?;
        db.pragma_update(None, "wal_autocheckpoint", 4000)?;
        // Without it each value bound to a column with a partial index makes SQLite plan the statement again.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        db.set_prepared_statement_cache_capacity(64);
        let checked = match found {
            Found::Closed(checked) => Some(checked),
            Found::Unknown | Found::Damaged => {
                let sound: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
                if sound != "ok" {
                    return Err(damage());
                }
                None
            }
        };
        let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let version = usize::try_from(version).unwrap_or(0);
        for (number, change) in SCHEMA.iter().enumerate().skip(version) {
            db.execute_batch(&format!("BEGIN; {change}; PRAGMA user_version = {}", number + 1))?;
            if number + 1 == FINGERPRINTS {
                sum_up(&db)?;
            }
            db.execute_batch("COMMIT")?;
        }
        let last_seq: i64 = db.query_row("SELECT coalesce(max(seq), 0) FROM rows", [], |row| row.get(0))?;
        let mut store = Self {
            db,
            known: KnownMap::new(),
            last_seq: unsigned(last_seq),
            digest: 0,
            unnumbered: 0,
            saved: None,
            begun: false,
            log: with_ending(path, "-wal"),
            unsynced: false,
            rows: RefCell::default(),
            bases: RefCell::default(),
            marks: BTreeMap::new(),
            changed_by: BTreeMap::new(),
            closing: Closing::new(path, checked),
        };
        let single = |key: &str| store.single(key);
        let (known, digest) = (single("known")?, single("digest")?);
        store.known = known.and_then(|bytes| codec::decode(&bytes, MAX_VALUE).ok()).unwrap_or_default();
        let unnumbered = "SELECT count(*) FROM rows WHERE unnumbered IS NOT NULL";
        store.unnumbered = unsigned(store.db.query_row(unnumbered, [], |row| row.get(0))?);
        store.digest = digest.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?))).unwrap_or(0);
        Ok(store)
    }

    /// The index was found damaged: it is moved aside and begun anew when it is opened next.
    pub fn distrust(&self) -> std::io::Result<()> {
        self.closing.distrust()
    }

    fn single(&self, key: &str) -> Result<Option<Vec<u8>>, rusqlite::Error> {
        let mut statement = self.db.prepare_cached("SELECT value FROM singles WHERE key = ?1")?;
        statement.query_row([key], |row| row.get(0)).optional()
    }

    fn write(&mut self, sql: &str, params: impl Params) -> StoreResult<()> {
        if self.saved.is_some() && !self.begun {
            self.db.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
            self.begun = true;
        }
        run(&self.db, sql, params)
    }

    fn one<T: FromSql>(&self, sql: &str, params: impl Params) -> StoreResult<Option<T>> {
        let mut statement = self.db.prepare_cached(sql).map_err(failed)?;
        statement.query_row(params, |row| row.get(0)).optional().map_err(failed)
    }

    fn all<T: FromSql>(&self, sql: &str, params: impl Params) -> StoreResult<Vec<T>> {
        let mut statement = self.db.prepare_cached(sql).map_err(failed)?;
        let rows = statement.query_map(params, |row| row.get(0)).map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    fn pairs<A: FromSql, B: FromSql>(&self, sql: &str, params: impl Params) -> StoreResult<Vec<(A, B)>> {
        let mut statement = self.db.prepare_cached(sql).map_err(failed)?;
        let rows = statement.query_map(params, |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    fn base_where(&self, sql: &str, params: impl Params) -> StoreResult<Option<Base>> {
        self.one::<Vec<u8>>(sql, params)?.map(|bytes| read(&bytes)).transpose()
    }

    fn bases_where(&self, sql: &str, params: impl Params) -> StoreResult<Vec<Base>> {
        self.all::<Vec<u8>>(sql, params)?.iter().map(|bytes| read(bytes)).collect()
    }
}

impl SqliteStore {
    /// Displaced contents with their numbers, newest first, from before a number.
    pub fn kept_before(&self, before: Option<u64>, limit: usize) -> StoreResult<Vec<(u64, Kept)>> {
        let sql = "SELECT number, data FROM kept WHERE number < ?1 ORDER BY number DESC LIMIT ?2";
        let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        let rows = self.pairs::<i64, Vec<u8>>(sql, params![before, i64::try_from(limit).unwrap_or(i64::MAX)])?;
        rows.into_iter().map(|(number, data)| Ok((unsigned(number), read(&data)?))).collect()
    }

    /// The names of all displaced contents, unless there are just so many.
    pub fn kept_names_unless(&self, count: u64) -> StoreResult<Option<BTreeSet<String>>> {
        let known: Option<i64> = self.one("SELECT count(*) FROM kept", [])?;
        if known.map(unsigned) == Some(count) {
            return Ok(None);
        }
        Ok(Some(self.all("SELECT name FROM kept", [])?.into_iter().collect()))
    }

    /// Reads a row unless it is in memory, and shows it.
    fn with_row<R>(&self, id: NodeId, show: impl FnOnce(&mut Rows) -> R) -> StoreResult<R> {
        let mut rows = self.rows.borrow_mut();
        if let Entry::Vacant(cell) = rows.cells.entry(id) {
            let bytes: Option<Vec<u8>> = self.one("SELECT data FROM rows WHERE id = ?1", [&id.0[..]])?;
            let row = bytes.map(|bytes| read(&bytes)).transpose()?;
            cell.insert(Cell::read(row, pending::places));
        }
        Ok(show(&mut rows))
    }

    /// Reads a base entry unless it is in memory, and shows it.
    fn with_base<R>(&self, id: NodeId, show: impl FnOnce(&mut Bases) -> R) -> StoreResult<R> {
        let mut bases = self.bases.borrow_mut();
        if let Entry::Vacant(cell) = bases.cells.entry(id) {
            let base = self.base_where("SELECT data FROM bases WHERE id = ?1", [&id.0[..]])?;
            cell.insert(Cell::read(base, pending::stored));
        }
        Ok(show(&mut bases))
    }

    /// Entries of a directory that the index has by this question, or that wait, in the order of their names.
    fn entries_of(&self, parent: NodeId, sql: &str, wanted: impl Fn(&Base) -> bool) -> StoreResult<Vec<Base>> {
        let stored = self.bases_where(sql, [&parent.0[..]])?;
        let bases = self.bases.borrow();
        let waiting = in_directory(&bases.at, parent).flat_map(|(_, ids)| ids);
        let mut found: Vec<Base> = waiting.filter_map(|id| bases.cells[id].value.clone()).collect();
        found.extend(stored.into_iter().filter(|base| !bases.waits(base.id)));
        found.retain(wanted);
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Takes in base entries as SQLite has them, and gives those that do not wait.
    fn taken_in(&self, found: Vec<Base>) -> Vec<Base> {
        let mut bases = self.bases.borrow_mut();
        let found: Vec<Base> = found.into_iter().filter(|base| !bases.waits(base.id)).collect();
        for base in &found {
            let cell = || Cell::read(Some(base.clone()), pending::stored);
            bases.cells.entry(base.id).or_insert_with(cell);
        }
        found
    }

    /// Writes what waits to SQLite.
    fn flush(&mut self) -> StoreResult<()> {
        let waits = self.rows.borrow().waiting() + self.bases.borrow().waiting.len() + self.marks.len();
        if waits == 0 {
            return Ok(());
        }
        if self.saved.is_some() && !self.begun {
            self.db.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
            self.begun = true;
        }
        let db = &self.db;
        self.rows.borrow_mut().flush(|seq, row, stored| write_row(db, seq, row, stored))?;
        self.bases.borrow_mut().flush(|id, base, stored| write_base(db, id, base, stored))?;
        for (node, marked) in std::mem::take(&mut self.marks) {
            let sql = if marked {
                "INSERT OR IGNORE INTO marks (node) VALUES (?1)"
            } else {
                "DELETE FROM marks WHERE node = ?1"
            };
            run(db, sql, [&node.0[..]])?;
        }
        for (dir, change) in std::mem::take(&mut self.changed_by) {
            if change != Fingerprint::default() {
                let mut sum = read_fingerprint(db, dir)?;
                sum.add(change);
                write_fingerprint(db, dir, sum)?;
            }
        }
        Ok(())
    }

    /// Follows a change of base in the fingerprints of directories.
    fn follow(&mut self, old: Option<&Base>, new: Option<&Base>) {
        fn bears(base: &Base) -> (NodeId, BaseState, &Stat, &Name) {
            (base.parent, base.state, &base.stat, &base.name)
        }
        if old.map(bears) == new.map(bears) {
            return;
        }
        if let Some(old) = old {
            self.changed_by.entry(old.parent).or_default().remove(Fingerprint::of_base(old));
        }
        if let Some(new) = new {
            self.changed_by.entry(new.parent).or_default().add(Fingerprint::of_base(new));
        }
    }

    /// Flushes where there is no transaction to wait for the end of, or too much waits.
    fn written(&mut self) -> StoreResult<()> {
        let waits = self.rows.borrow().waiting().max(self.bases.borrow().waiting.len());
        if self.saved.is_none() || waits >= WAITING { self.flush() } else { Ok(()) }
    }

    fn write_digest(&mut self) -> StoreResult<()> {
        let digest = self.digest.to_le_bytes();
        self.set_value("digest", &digest)
    }

    fn forget(&mut self) {
        self.rows.take();
        self.bases.take();
        self.marks.clear();
        self.changed_by.clear();
    }
}

fn write_row(db: &Connection, seq: u64, row: &Row, stored: Option<&[At]>) -> StoreResult<()> {
    let now = pending::places(row);
    let stored = stored.unwrap_or_default();
    for (parent, name) in stored.iter().filter(|at| !now.contains(at)) {
        let sql = "DELETE FROM places WHERE parent = ?1 AND name = ?2 AND node = ?3";
        run(db, sql, params![&parent.0[..], name.as_bytes(), &row.id.0[..]])?;
    }
    for (parent, name) in now.iter().filter(|at| !stored.contains(at)) {
        let sql = "INSERT OR IGNORE INTO places (parent, name, node) VALUES (?1, ?2, ?3)";
        run(db, sql, params![&parent.0[..], name.as_bytes(), &row.id.0[..]])?;
    }
    let unnumbered = row.ctx.get(&UNNUMBERED).map(|&seq| signed(seq));
    let sql = "INSERT INTO rows (id, seq, class, unnumbered, data) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (id)
        DO UPDATE SET seq = excluded.seq, class = excluded.class, unnumbered = excluded.unnumbered, data = excluded.data";
    run(db, sql, params![&row.id.0[..], signed(seq), number(row.class), unnumbered, write(row)])
}

fn write_base(db: &Connection, id: NodeId, base: Option<&Base>, stored: Option<&[NodeId]>) -> StoreResult<()> {
    let further = base.map(pending::further_members).unwrap_or_default();
    for node in stored.iter().copied().flatten().filter(|node| !further.contains(node)) {
        run(db, "DELETE FROM members WHERE node = ?1 AND base = ?2", params![&node.0[..], &id.0[..]])?;
    }
    for node in &further {
        run(db, "INSERT OR REPLACE INTO members (node, base) VALUES (?1, ?2)", params![&node.0[..], &id.0[..]])?;
    }
    let Some(base) = base else {
        return if stored.is_some() { run(db, "DELETE FROM bases WHERE id = ?1", [&id.0[..]]) } else { Ok(()) };
    };
    run(
        db,
        "INSERT INTO bases (id, parent, name, inode, hash, sibling, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (id) DO UPDATE SET parent = excluded.parent, name = excluded.name, inode = excluded.inode,
         hash = excluded.hash, sibling = excluded.sibling, data = excluded.data",
        params![
            &id.0[..],
            &base.parent.0[..],
            base.name.as_bytes(),
            base.stat.handle.inode.cast_signed(),
            hash_of(&base.value).map(|hash| short(&hash).to_vec()),
            is_sibling(base),
            write(base),
        ],
    )
}

impl Store for SqliteStore {
    fn begin(&mut self) -> StoreResult<()> {
        self.saved = Some(Saved {
            known: self.known.clone(),
            last_seq: self.last_seq,
            digest: self.digest,
            unnumbered: self.unnumbered,
        });
        Ok(())
    }

    fn commit(&mut self) -> StoreResult<()> {
        self.flush()?;
        if self.saved.as_ref().is_some_and(|saved| saved.digest != self.digest) {
            self.write_digest()?;
        }
        if self.begun {
            self.db.execute_batch("COMMIT").map_err(failed)?;
            self.unsynced = true;
        }
        self.begun = false;
        self.saved = None;
        if self.rows.borrow().size() > REMEMBERED {
            self.rows.take();
        }
        if self.bases.borrow().size() > REMEMBERED {
            self.bases.take();
        }
        Ok(())
    }

    fn sync(&mut self) -> StoreResult<()> {
        if self.unsynced {
            let synced = File::open(&self.log).and_then(|log| log.sync_data());
            synced.map_err(|error| StoreError::Failed(format!("making the index durable: {error}")))?;
            self.unsynced = false;
        }
        Ok(())
    }

    fn rest(&mut self) {
        if self.saved.is_none() {
            self.rows.take();
            self.bases.take();
            // Pages that stay in memory only cost memory.
            let _ = self.db.pragma_update(None, "shrink_memory", 1);
        }
    }

    fn rollback(&mut self) {
        if self.begun {
            // Fails where SQLite has rolled back by itself, which is as good.
            let _ = self.db.execute_batch("ROLLBACK");
        }
        self.begun = false;
        self.forget();
        if let Some(saved) = self.saved.take() {
            self.known = saved.known;
            self.last_seq = saved.last_seq;
            self.digest = saved.digest;
            self.unnumbered = saved.unnumbered;
        }
    }

    fn row(&self, id: NodeId) -> StoreResult<Option<Row>> {
        self.with_row(id, |rows| rows.cells[&id].value.clone())
    }

    fn put_row(&mut self, row: &Row) -> StoreResult<()> {
        let (digest, seq) = (self.digest.wrapping_add(row::digest(row)), self.last_seq + 1);
        let (old, was_unnumbered) = self.with_row(row.id, |rows| {
            let old = rows.cells[&row.id].value.as_ref();
            let old = (old.map_or(0, row::digest), old.is_some_and(is_unnumbered));
            rows.put(row, seq);
            old
        })?;
        self.digest = digest.wrapping_sub(old);
        self.unnumbered = self.unnumbered + u64::from(is_unnumbered(row)) - u64::from(was_unnumbered);
        self.last_seq = seq;
        self.written()?;
        if self.saved.is_none() { self.write_digest() } else { Ok(()) }
    }

    fn directories(&self) -> StoreResult<Vec<Row>> {
        self.rows_of(Class::Dir)
    }

    fn placed_at(&self, parent: NodeId, name: &Name) -> StoreResult<Vec<NodeId>> {
        let at = (parent, name.clone());
        let mut rows = self.rows.borrow_mut();
        if !rows.stored_at.contains_key(&at) {
            let sql = "SELECT node FROM places WHERE parent = ?1 AND name = ?2";
            let found = nodes(self.all(sql, params![&parent.0[..], name.as_bytes()])?);
            rows.stored_at.insert(at.clone(), found);
        }
        let stored = rows.stored_at[&at].iter().filter(|node| !rows.waits(**node));
        let waiting = rows.placed.get(&at).into_iter().flatten();
        Ok(stored.chain(waiting).copied().collect::<BTreeSet<_>>().into_iter().collect())
    }

    fn names_from(&self, parent: NodeId, prefix: &[u8]) -> StoreResult<Vec<Name>> {
        let Some((last, start)) = prefix.split_last() else { return Ok(Vec::new()) };
        let beyond = [start, &[last.saturating_add(1)]].concat();
        let sql = "SELECT name, node FROM places WHERE parent = ?1 AND name >= ?2 AND name < ?3";
        let stored: Vec<(Vec<u8>, Vec<u8>)> = self.pairs(sql, params![&parent.0[..], prefix, beyond])?;
        let rows = self.rows.borrow();
        let mut names: BTreeSet<Name> = BTreeSet::new();
        for (name, node) in stored {
            if !nodes(vec![node]).iter().any(|node| rows.waits(*node)) {
                names.extend(Name::new(name));
            }
        }
        let waiting = in_directory(&rows.placed, parent).map(|((_, name), _)| name);
        names.extend(waiting.filter(|name| name.as_bytes().starts_with(prefix)).cloned());
        Ok(names.into_iter().collect())
    }

    fn placed_in(&self, parent: NodeId) -> StoreResult<Vec<NodeId>> {
        let stored = nodes(self.all("SELECT DISTINCT node FROM places WHERE parent = ?1", [&parent.0[..]])?);
        let rows = self.rows.borrow();
        let waiting = in_directory(&rows.placed, parent).flat_map(|(_, nodes)| nodes).copied();
        let found: BTreeSet<NodeId> = stored.into_iter().filter(|node| !rows.waits(*node)).chain(waiting).collect();
        Ok(found.into_iter().collect())
    }

    fn rows_after(&self, seq: u64, limit: usize) -> StoreResult<Vec<(u64, Row)>> {
        let rows = self.rows.borrow();
        let sql = "SELECT seq, data FROM rows WHERE seq > ?1 ORDER BY seq LIMIT ?2";
        let most = i64::try_from(limit.saturating_add(rows.waiting())).unwrap_or(i64::MAX);
        let mut out = Vec::new();
        for (seq, data) in self.pairs::<i64, Vec<u8>>(sql, params![signed(seq), most])? {
            let row: Row = read(&data)?;
            if !rows.waits(row.id) {
                out.push((unsigned(seq), row));
            }
        }
        out.truncate(limit);
        let waiting = rows.order.range(seq + 1..).take(limit - out.len());
        out.extend(waiting.filter_map(|(seq, id)| Some((*seq, rows.cells[id].value.clone()?))));
        Ok(out)
    }

    fn last_seq(&self) -> StoreResult<u64> {
        Ok(self.last_seq)
    }

    fn unnumbered(&self) -> StoreResult<Vec<NodeId>> {
        let stored = self.pairs("SELECT unnumbered, id FROM rows WHERE unnumbered IS NOT NULL", [])?;
        let rows = self.rows.borrow();
        let mut found = rows.unnumbered();
        for (number, id) in stored {
            let stored = nodes(vec![id]).into_iter().map(|id| (unsigned(number), id));
            found.extend(stored.filter(|(_, id)| !rows.waits(*id)));
        }
        Ok(found.into_iter().map(|(_, id)| id).collect())
    }

    fn count_unnumbered(&self) -> u64 {
        self.unnumbered
    }

    fn digest(&self) -> u64 {
        self.digest
    }

    fn rows_of(&self, class: Class) -> StoreResult<Vec<Row>> {
        // The partial index over classes serves all but leaves, which nobody asks for at once.
        let sql = if class == Class::Leaf {
            "SELECT data FROM rows WHERE class = ?1"
        } else {
            "SELECT data FROM rows WHERE class = ?1 AND class <> 1"
        };
        let stored: Vec<Vec<u8>> = self.all(sql, [number(class)])?;
        let rows = self.rows.borrow();
        let waiting = rows.written().filter(|row| row.class == class).map(|row| (row.id, row.clone()));
        let mut found: BTreeMap<NodeId, Row> = waiting.collect();
        for data in stored {
            let row: Row = read(&data)?;
            if !rows.waits(row.id) {
                found.insert(row.id, row);
            }
        }
        Ok(found.into_values().collect())
    }

    fn known(&self) -> &KnownMap {
        &self.known
    }

    fn set_known(&mut self, known: KnownMap) -> StoreResult<()> {
        if known != self.known {
            self.set_value("known", &codec::encode(&known))?;
            self.known = known;
        }
        Ok(())
    }

    fn cursor(&self, peer: Slot) -> StoreResult<Option<Cursor>> {
        let sql = "SELECT run, seq FROM cursors WHERE peer = ?1";
        let found = self.db.prepare_cached(sql).and_then(|mut statement| {
            statement.query_row([peer.0], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).optional()
        });
        let cursor = |(run, seq): (i64, i64)| Cursor { run: RunId(run.cast_unsigned()), seq: unsigned(seq) };
        found.map(|found| found.map(cursor)).map_err(failed)
    }

    fn set_cursor(&mut self, peer: Slot, cursor: Cursor) -> StoreResult<()> {
        let sql = "INSERT OR REPLACE INTO cursors (peer, run, seq) VALUES (?1, ?2, ?3)";
        self.write(sql, params![peer.0, cursor.run.0.cast_signed(), signed(cursor.seq)])
    }

    fn base(&self, id: NodeId) -> StoreResult<Option<Base>> {
        self.with_base(id, |bases| bases.cells[&id].value.clone())
    }

    fn base_of(&self, node: NodeId) -> StoreResult<Option<Base>> {
        let waiting = self.bases.borrow().of.get(&node).copied();
        if let Some(id) = waiting {
            return self.base(id);
        }
        let is_member = |base: &Base| base.members.iter().any(|member| member.node == node);
        if let Some(own) = self.base(node)?.filter(is_member) {
            return Ok(Some(own));
        }
        let remembered = self.bases.borrow().stored_of.get(&node).copied();
        let other = match remembered {
            Some(other) => other,
            None => {
                let bytes: Option<Vec<u8>> = self.one("SELECT base FROM members WHERE node = ?1", [&node.0[..]])?;
                let other = nodes(bytes.into_iter().collect()).first().copied();
                self.bases.borrow_mut().stored_of.insert(node, other);
                other
            }
        };
        match other {
            Some(other) => Ok(self.base(other)?.filter(is_member)),
            None => Ok(None),
        }
    }

    fn base_at(&self, parent: NodeId, name: &Name) -> StoreResult<Option<Base>> {
        let at = (parent, name.clone());
        let waiting = self.bases.borrow().at.get(&at).and_then(|ids| ids.first().copied());
        if let Some(id) = waiting {
            return self.base(id);
        }
        let remembered = self.bases.borrow().stored_at.get(&at).cloned();
        let stored = match remembered {
            Some(ids) => ids,
            None => {
                let sql = "SELECT data FROM bases WHERE parent = ?1 AND name = ?2";
                let found = self.bases_where(sql, params![&parent.0[..], name.as_bytes()])?;
                let ids: Vec<NodeId> = found.iter().map(|base| base.id).collect();
                self.taken_in(found);
                self.bases.borrow_mut().stored_at.insert(at, ids.clone());
                ids
            }
        };
        match stored.into_iter().find(|id| !self.bases.borrow().waits(*id)) {
            Some(id) => self.base(id),
            None => Ok(None),
        }
    }

    fn base_in(&self, parent: NodeId) -> StoreResult<Vec<Base>> {
        self.entries_of(parent, "SELECT data FROM bases WHERE parent = ?1", |_| true)
    }

    fn base_dirs_in(&self, parent: NodeId) -> StoreResult<Vec<Base>> {
        // What has no hash is a directory or a symlink.
        let sql = "SELECT data FROM bases WHERE parent = ?1 AND hash IS NULL";
        self.entries_of(parent, sql, |base| base.class == Class::Dir)
    }

    fn fingerprint(&self, parent: NodeId) -> StoreResult<Fingerprint> {
        let mut sum = read_fingerprint(&self.db, parent)?;
        sum.add(self.changed_by.get(&parent).copied().unwrap_or_default());
        Ok(sum)
    }

    fn bases_with(&self, handle: Handle) -> StoreResult<Vec<Base>> {
        let mut found = self.bases_where("SELECT data FROM bases WHERE inode = ?1", [handle.inode.cast_signed()])?;
        found.retain(|base| base.stat.handle == handle);
        let mut found = self.taken_in(found);
        let bases = self.bases.borrow();
        let waiting = bases.with.get(&handle).into_iter().flatten();
        found.extend(waiting.filter_map(|id| bases.cells[id].value.clone()));
        Ok(found)
    }

    fn base_holding(&self, hash: ContentHash) -> StoreResult<Vec<Base>> {
        let mut found = self.bases_where("SELECT data FROM bases WHERE hash = ?1 LIMIT 4", [short(&hash)])?;
        found.retain(|base| hash_of(&base.value) == Some(hash));
        let mut found = self.taken_in(found);
        let bases = self.bases.borrow();
        found.extend(bases.written().filter(|base| hash_of(&base.value) == Some(hash)).take(4).cloned());
        Ok(found)
    }

    fn siblings(&self) -> StoreResult<Vec<Base>> {
        let mut found = self.taken_in(self.bases_where("SELECT data FROM bases WHERE sibling = 1", [])?);
        found.extend(self.bases.borrow().written().filter(|base| is_sibling(base)).cloned());
        Ok(found)
    }

    fn put_base(&mut self, base: &Base) -> StoreResult<()> {
        let old = self.with_base(base.id, |bases| bases.put(base.id, Some(base)))?;
        self.follow(old.as_ref(), Some(base));
        self.written()
    }

    fn remove_base(&mut self, id: NodeId) -> StoreResult<()> {
        let old = self.with_base(id, |bases| bases.put(id, None))?;
        self.follow(old.as_ref(), None);
        self.written()
    }

    fn count_base(&self) -> StoreResult<u64> {
        let stored = self.one::<i64>("SELECT count(*) FROM bases", [])?.unwrap_or(0);
        Ok(unsigned(stored + self.bases.borrow().surplus()))
    }

    fn mark(&mut self, node: NodeId) -> StoreResult<()> {
        self.marks.insert(node, true);
        self.written()
    }

    fn marked(&self, after: Option<NodeId>, limit: usize) -> StoreResult<Vec<NodeId>> {
        let most = i64::try_from(limit.saturating_add(self.marks.len())).unwrap_or(i64::MAX);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let stored = match after {
            Some(after) => {
                let sql = "SELECT node FROM marks WHERE node > ?1 ORDER BY node LIMIT ?2";
                self.all(sql, params![&after.0[..], most])?
            }
            None => self.all("SELECT node FROM marks ORDER BY node LIMIT ?1", [most])?,
        };
        let mut found: BTreeSet<NodeId> = nodes(stored).into_iter().collect();
        for (node, marked) in self.marks.range((from, Bound::Unbounded)) {
            if *marked {
                found.insert(*node)
            } else {
                found.remove(node)
            };
        }
        Ok(found.into_iter().take(limit).collect())
    }

    fn unmark(&mut self, node: NodeId) -> StoreResult<()> {
        self.marks.insert(node, false);
        self.written()
    }

    fn count_marked(&self) -> StoreResult<u64> {
        let mut count = self.one::<i64>("SELECT count(*) FROM marks", [])?.unwrap_or(0);
        for (node, marked) in &self.marks {
            let stored = self.one::<i64>("SELECT 1 FROM marks WHERE node = ?1", [&node.0[..]])?.is_some();
            count += i64::from(*marked) - i64::from(stored);
        }
        Ok(unsigned(count))
    }

    fn nothing_marked(&self) -> StoreResult<bool> {
        Ok(self.marked(None, 1)?.is_empty())
    }

    fn put_kept(&mut self, kept: &Kept) -> StoreResult<()> {
        let hash = hash_of(&kept.value).map(|hash| hash.0.to_vec());
        let sql = "INSERT INTO kept (name, path, hash, data) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT (name) DO UPDATE SET path = ?2, hash = ?3, data = ?4";
        self.write(sql, params![kept.name, kept.path, hash, write(kept)])
    }

    fn remove_kept(&mut self, name: &str) -> StoreResult<()> {
        self.write("DELETE FROM kept WHERE name = ?1", [name])
    }

    fn kept(&self, name: &str) -> StoreResult<Option<Kept>> {
        let bytes: Option<Vec<u8>> = self.one("SELECT data FROM kept WHERE name = ?1", [name])?;
        bytes.map(|bytes| read(&bytes)).transpose()
    }

    fn kept_at(&self, path: Option<&[u8]>, limit: usize) -> StoreResult<Vec<Kept>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let found: Vec<Vec<u8>> = match path.filter(|path| !path.is_empty()) {
            None => self.all("SELECT data FROM kept ORDER BY number DESC LIMIT ?1", [limit])?,
            Some(path) => {
                // Everything below a directory lies between `DIR/` and `DIR0`, the byte after the slash.
                let (from, to) = ([path, b"/"].concat(), [path, b"0"].concat());
                let sql = "SELECT data FROM kept WHERE path = ?1 OR (path >= ?2 AND path < ?3)
                           ORDER BY number DESC LIMIT ?4";
                self.all(sql, params![path, from, to, limit])?
            }
        };
        found.iter().map(|bytes| read(bytes)).collect()
    }

    fn kept_holding(&self, hash: ContentHash) -> StoreResult<Option<Kept>> {
        let bytes: Option<Vec<u8>> = self.one("SELECT data FROM kept WHERE hash = ?1 LIMIT 1", [&hash.0[..]])?;
        bytes.map(|bytes| read(&bytes)).transpose()
    }

    fn text(&self, hash: ContentHash) -> StoreResult<Option<Vec<u8>>> {
        self.one("SELECT bytes FROM texts WHERE hash = ?1", [&hash.0[..]])
    }

    fn put_text(&mut self, node: NodeId, text: Text, bytes: &[u8]) -> StoreResult<()> {
        let sql = "INSERT INTO texts (node, hash, stood, bytes) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT (node, hash) DO UPDATE SET stood = max(stood, excluded.stood)";
        self.write(sql, params![&node.0[..], &text.hash.0[..], text.stood, bytes])
    }

    fn texts_of(&self, node: NodeId) -> StoreResult<Vec<Text>> {
        let sql = "SELECT hash, length(bytes), stood FROM texts WHERE node = ?1 ORDER BY number";
        let mut statement = self.db.prepare_cached(sql).map_err(failed)?;
        let found = statement.query_map([&node.0[..]], |row| {
            Ok(Text { hash: ContentHash(row.get(0)?), size: unsigned(row.get(1)?), stood: row.get(2)? })
        });
        found.and_then(Iterator::collect).map_err(failed)
    }

    fn nodes_with_texts(&self) -> StoreResult<BTreeSet<NodeId>> {
        let nodes = self.all::<[u8; 16]>("SELECT DISTINCT node FROM texts", [])?;
        Ok(nodes.into_iter().map(NodeId).collect())
    }

    fn remove_text(&mut self, node: NodeId, hash: ContentHash) -> StoreResult<()> {
        self.write("DELETE FROM texts WHERE node = ?1 AND hash = ?2", params![&node.0[..], &hash.0[..]])
    }

    fn value(&self, key: &str) -> StoreResult<Option<Vec<u8>>> {
        self.single(key).map_err(failed)
    }

    fn set_value(&mut self, key: &str, value: &[u8]) -> StoreResult<()> {
        self.write("INSERT OR REPLACE INTO singles (key, value) VALUES (?1, ?2)", params![key, value])
    }

    fn remove_value(&mut self, key: &str) -> StoreResult<()> {
        self.write("DELETE FROM singles WHERE key = ?1", [key])
    }

    fn values(&self, prefix: &str) -> StoreResult<Vec<(String, Vec<u8>)>> {
        let sql = "SELECT key, value FROM singles WHERE key >= ?1 AND key < ?2 ORDER BY key";
        let mut statement = self.db.prepare_cached(sql).map_err(failed)?;
        let end = format!("{prefix}\u{10ffff}");
        let found = statement.query_map(params![prefix, end], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
        found.collect::<Result<_, _>>().map_err(failed)
    }
}

/// Takes up the fingerprints of all directories.
fn sum_up(db: &Connection) -> Result<(), rusqlite::Error> {
    let mut sums: BTreeMap<NodeId, Fingerprint> = BTreeMap::new();
    let mut all = db.prepare("SELECT data FROM bases")?;
    let mut all = all.query([])?;
    while let Some(row) = all.next()? {
        let base: Base = codec::decode_own(&row.get::<_, Vec<u8>>(0)?).map_err(|_| damage())?;
        sums.entry(base.parent).or_default().add(Fingerprint::of_base(&base));
    }
    let mut insert = db.prepare("INSERT INTO fingerprints (dir, sum) VALUES (?1, ?2)")?;
    for (dir, sum) in sums {
        insert.execute(params![&dir.0[..], &sum.0.to_le_bytes()[..]])?;
    }
    Ok(())
}

fn read_fingerprint(db: &Connection, dir: NodeId) -> StoreResult<Fingerprint> {
    let mut statement = db.prepare_cached("SELECT sum FROM fingerprints WHERE dir = ?1").map_err(failed)?;
    let sum: Option<[u8; 16]> = statement.query_row([&dir.0[..]], |row| row.get(0)).optional().map_err(failed)?;
    Ok(sum.map_or_else(Fingerprint::default, |sum| Fingerprint(u128::from_le_bytes(sum))))
}

fn write_fingerprint(db: &Connection, dir: NodeId, sum: Fingerprint) -> StoreResult<()> {
    if sum == Fingerprint::default() {
        return run(db, "DELETE FROM fingerprints WHERE dir = ?1", [&dir.0[..]]);
    }
    let sql = "INSERT OR REPLACE INTO fingerprints (dir, sum) VALUES (?1, ?2)";
    run(db, sql, params![&dir.0[..], &sum.0.to_le_bytes()[..]])
}

fn run(db: &Connection, sql: &str, params: impl Params) -> StoreResult<()> {
    db.prepare_cached(sql).and_then(|mut statement| statement.execute(params)).map(drop).map_err(failed)
}

/// The part of an index by names that is in one directory.
fn in_directory<T>(index: &BTreeMap<At, T>, parent: NodeId) -> impl Iterator<Item = (&At, &T)> {
    let least = Name::new([1]).expect("a byte that a name can begin with");
    index.range((parent, least)..).take_while(move |((dir, _), _)| *dir == parent)
}

fn is_unnumbered(row: &Row) -> bool {
    row.ctx.contains_key(&UNNUMBERED)
}

fn is_sibling(base: &Base) -> bool {
    conflict::may_be_sibling(&base.name)
}

fn write<T: Serialize>(value: &T) -> Vec<u8> {
    codec::encode(value)
}

fn read<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> StoreResult<T> {
    codec::decode_own(bytes).map_err(|error| StoreError::Failed(format!("a stored value: {error}")))
}

fn nodes(found: Vec<Vec<u8>>) -> Vec<NodeId> {
    found.into_iter().filter_map(|bytes| Some(NodeId(bytes.try_into().ok()?))).collect()
}

fn hash_of(value: &Value) -> Option<ContentHash> {
    match value {
        Value::File { hash, .. } => Some(*hash),
        Value::Dir | Value::Link { .. } | Value::Setting { .. } | Value::Replica { .. } => None,
    }
}

/// What a content is found by in the index.
fn short(hash: &ContentHash) -> [u8; 8] {
    hash.0[..8].try_into().expect("a hash has 32 bytes")
}

/// The class as the index keeps it; the schema's partial index relies on leaves being 1.
fn number(class: Class) -> i64 {
    match class {
        Class::Dir => 0,
        Class::Leaf => 1,
        Class::Setting => 2,
        Class::Replica => 3,
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn failed(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full,
        _ if is_damage(&error) => StoreError::Damaged(error.to_string()),
        _ => StoreError::Failed(error.to_string()),
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn damage() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), None)
}

/// The same error once more: rusqlite's cannot be cloned.
fn error_of(error: &rusqlite::Error) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), Some(error.to_string()))
}

fn aside(path: &Path) -> PathBuf {
    let mut number = 1;
    loop {
        let aside = with_ending(path, &format!(".broken-{number}"));
        if !aside.exists() {
            return aside;
        }
        number += 1;
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hearth_schemas::ids::ReplicaId;
    use hearth_schemas::item::{Attributes, Content, Dot, FileTime, Flag, Place, Stamp};
    use hearth_schemas::wire::Known;
    use syncd_core::disk::{Kind, Raised, Stat};
    use syncd_core::store::{BaseState, Dots, Member, MemoryStore};

    use super::*;

    #[test]
    fn it_answers_as_maps_do_whatever_was_written() {
        for seed in 0..20 {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("index.db");
            let (mut sqlite, _) = SqliteStore::open(&path).expect("a fresh index");
            let mut memory = MemoryStore::default();
            let mut dice = Dice(seed * 7919 + 1);
            for round in 0..12 {
                sqlite.begin().expect("begins");
                memory.begin().expect("begins");
                for _ in 0..25 {
                    let step = dice.clone();
                    change(&mut sqlite, &mut dice);
                    change(&mut memory, &mut step.clone());
                    if dice.below(5) == 0 {
                        assert_eq!(answers(&sqlite), answers(&memory), "seed {seed}, within round {round}");
                    }
                }
                if dice.below(4) == 0 {
                    sqlite.rollback();
                    memory.rollback();
                } else {
                    sqlite.commit().expect("commits");
                    memory.commit().expect("commits");
                }
                if round == 6 {
                    drop(sqlite);
                    sqlite = SqliteStore::open(&path).expect("the same index").0;
                }
                assert_eq!(answers(&sqlite), answers(&memory), "seed {seed}, round {round}");
            }
        }
    }

    #[test]
    fn a_row_outside_a_transaction_is_in_the_digest_of_an_index_that_is_opened_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("index.db");
        let (mut store, _) = SqliteStore::open(&path).expect("a fresh index");
        store.put_row(&row(1, 0, "x", 1)).expect("written");
        let digest = store.digest();
        drop(store);
        assert_eq!(SqliteStore::open(&path).expect("the same index").0.digest(), digest);
    }

    #[test]
    fn an_index_of_an_earlier_schema_keeps_everything() {
        for earlier in 1..SCHEMA.len() {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("index.db");
            let db = Connection::open(&path).expect("a fresh index");
            SCHEMA[..earlier].iter().for_each(|change| db.execute_batch(change).expect("a schema"));
            db.pragma_update(None, "user_version", earlier as i64).expect("written");
            let mut memory = MemoryStore::default();
            for id in 1..9 {
                let (row, base) = (row(id, id % 3, "x", id), base(id, id % 2, &format!("y{id}")));
                write_row(&db, id, &row, None).and_then(|()| memory.put_row(&row)).expect("written");
                let sql = "INSERT INTO bases (id, parent, name, inode, born, hash, sibling, data)
                    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
                let (handle, hash) = (base.stat.handle, hash_of(&base.value).map(|hash| hash.0.to_vec()));
                let (id, parent, name) = (&base.id.0[..], &base.parent.0[..], base.name.as_bytes());
                let inode = handle.inode.cast_signed();
                run(&db, sql, params![id, parent, name, inode, handle.born, hash, is_sibling(&base), write(&base)])
                    .and_then(|()| memory.put_base(&base))
                    .expect("written");
            }
            let sql = "INSERT INTO singles (key, value) VALUES ('digest', ?1)";
            run(&db, sql, [&memory.digest().to_le_bytes()[..]]).expect("written");
            if earlier >= FINGERPRINTS {
                sum_up(&db).expect("summed up");
            }
            drop(db);
            let (store, aside) = SqliteStore::open(&path).expect("the same index");
            assert_eq!((aside, answers(&store)), (None, answers(&memory)), "schema {earlier}");
        }
    }

    #[test]
    fn a_damaged_index_is_moved_aside_and_begun_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("index.db");
        std::fs::write(&path, vec![0x5a; 8192]).expect("written");
        let (store, aside) = SqliteStore::open(&path).expect("a fresh index");
        let aside = aside.expect("the damaged file was moved");
        assert_eq!(std::fs::read(aside).expect("still there"), vec![0x5a; 8192]);
        assert_eq!(store.count_base().expect("readable"), 0);
    }

    #[test]
    fn an_index_that_was_closed_in_order_is_not_checked_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("index.db");
        filled(&path);
        // As if it had been checked a while ago.
        let note = with_ending(&path, "-closed");
        let text = std::fs::read_to_string(&note).expect("a note");
        let (key, checked) = text.split_once(' ').expect("two parts");
        let earlier = checked.parse::<u64>().expect("a time") - 1000;
        std::fs::write(&note, format!("{key} {earlier}")).expect("written");
        for _ in 0..2 {
            let (store, aside) = SqliteStore::open(&path).expect("the same index");
            assert!(aside.is_none() && !note.exists());
            drop(store);
            let text = std::fs::read_to_string(&note).expect("a note");
            assert_eq!(text.split_once(' ').expect("two parts").1, earlier.to_string());
        }
        let (store, _) = SqliteStore::open(&path).expect("the same index");
        // The process ends, and the connection with it.
        std::mem::forget(store);
        assert!(!note.exists());
        assert_eq!(Found::take(&path).expect("readable"), Found::Unknown);
    }

    #[test]
    fn an_index_that_somebody_has_written_to_is_checked() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("index.db");
        filled(&path);
        let mut bytes = std::fs::read(&path).expect("read");
        let middle = bytes.len() / 2 / 4096 * 4096;
        bytes[middle..middle + 4096].fill(0x5a);
        std::fs::write(&path, bytes).expect("written");
        let (store, aside) = SqliteStore::open(&path).expect("a fresh index");
        assert!(aside.is_some());
        assert_eq!(store.count_base().expect("readable"), 0);
    }

    #[test]
    fn an_index_that_was_found_damaged_at_work_is_begun_anew_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("index.db");
        filled(&path);
        let (store, _) = SqliteStore::open(&path).expect("the same index");
        store.distrust().expect("noted");
        drop(store);
        let (mut store, aside) = SqliteStore::open(&path).expect("a fresh index");
        assert!(aside.is_some_and(|aside| aside.exists()));
        assert_eq!(store.count_base().expect("readable"), 0);
        store.put_base(&base(1, 0, "x")).expect("written");
        drop(store);
        let (store, aside) = SqliteStore::open(&path).expect("the same index");
        assert_eq!((store.count_base().expect("readable"), aside), (1, None));
    }

    #[test]
    fn damage_that_is_met_at_work_is_told_as_such() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("index.db");
        filled(&path);
        let (store, _) = SqliteStore::open(&path).expect("the same index");
        let mut bytes = std::fs::read(&path).expect("read");
        let pages = bytes.len();
        bytes[4096..pages].fill(0x5a);
        std::fs::write(&path, bytes).expect("written");
        assert!(matches!(store.rows_after(0, 1000), Err(StoreError::Damaged(_))));
    }

    /// An index of some size, closed in order.
    fn filled(path: &Path) {
        let (mut store, _) = SqliteStore::open(path).expect("a fresh index");
        store.begin().expect("begins");
        for id in 1..2000 {
            let (mut entry, mut row) = (base(1, id % 50, &format!("some name {id}")), row(1, 0, "x", id));
            (entry.id, row.id) = (node(id), node(id));
            store.put_base(&entry).and_then(|()| store.put_row(&row)).expect("written");
        }
        store.commit().expect("commits");
    }

    #[test]
    fn names_that_look_like_sql_are_only_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut store, _) = SqliteStore::open(&dir.path().join("index.db")).expect("a fresh index");
        for text in ["'; DROP TABLE rows; --", "\" OR 1=1", "%", "_", "x\n\\"] {
            let mut entry = base(1, 0, text);
            entry.id = node(text.len() as u64 + 10);
            store.put_base(&entry).expect("written");
            assert_eq!(store.base_at(node(0), &entry.name).expect("read"), Some(entry.clone()));
            store.set_value(text, b"x").expect("written");
            assert_eq!(store.value(text).expect("read").as_deref(), Some(&b"x"[..]));
        }
    }

    fn change(store: &mut impl Store, dice: &mut Dice) {
        let (a, b) = (dice.below(8), dice.below(8));
        let name = ["x", "y", "z (conflict, pc, abcdef).t"][usize::try_from(dice.below(3)).expect("small")];
        let done = match dice.below(10) {
            0..=2 => store.put_row(&row(a + 1, b, name, dice.below(50) + 1)),
            3..=5 => {
                let mut entry = base(a + 1, b, name);
                if dice.below(2) == 0 {
                    let dots = Dots::default();
                    entry.members.push(Member { node: node(a + 30), dots, origin: None });
                }
                // Two entries never have one name for longer than a step; the index need not say which it tells.
                let taken =
                    store.base_at(entry.parent, &entry.name).expect("read").is_some_and(|other| other.id != entry.id);
                if taken { Ok(()) } else { store.put_base(&entry) }
            }
            6 => store.remove_base(node(a + 1)),
            7 => {
                if b % 2 == 0 {
                    store.mark(node(a))
                } else {
                    store.unmark(node(a))
                }
            }
            8 => {
                let known = BTreeMap::from([(ReplicaId(a + 1), Known { seq: b + 1, nonce: dice.below(99) })]);
                let cursor = Cursor { run: RunId(a), seq: b };
                store.set_known(known).and_then(|()| store.set_cursor(Slot(1), cursor))
            }
            _ => store.set_value(&format!("key/{a}"), &[7; 3]).and_then(|()| store.remove_value(&format!("key/{b}"))),
        };
        done.expect("written");
    }

    fn answers(store: &impl Store) -> Vec<String> {
        let mut out = vec![
            format!("{:?}", store.digest()),
            format!("{:?}", store.known()),
            format!("{:?}", store.cursor(Slot(1))),
            format!("{:?} {}", store.unnumbered(), store.count_unnumbered()),
            format!("{:?}", store.count_base()),
            format!("{:?} {:?}", store.marked(None, 100), store.count_marked()),
            format!("{:?}", store.values("key/")),
            format!("{:?}", store.directories()),
        ];
        let order: Vec<NodeId> = store.rows_after(0, 100).expect("read").into_iter().map(|(_, row)| row.id).collect();
        out.push(format!("{order:?}"));
        for id in 0..9 {
            let id = node(id);
            out.push(format!("{:?}", store.fingerprint(id)));
            let mut children = store.base_in(id).expect("read");
            children.sort_by_key(|child| child.id);
            out.push(format!("{:?} {:?}", store.row(id), store.base(id)));
            out.push(format!("{:?} {:?} {children:?}", store.placed_in(id), store.base_of(id)));
            out.push(format!("{:?}", store.names_from(id, b"z")));
            let dirs: Vec<NodeId> = store.base_dirs_in(id).expect("read").into_iter().map(|dir| dir.id).collect();
            out.push(format!("{dirs:?}"));
            for name in ["x", "y"] {
                let name = Name::new(name).expect("valid");
                out.push(format!("{:?} {:?}", store.placed_at(id, &name), store.base_at(id, &name)));
            }
        }
        let mut siblings: Vec<NodeId> = store.siblings().expect("read").into_iter().map(|base| base.id).collect();
        siblings.sort();
        out.push(format!("{siblings:?}"));
        for id in 1..9 {
            let ids = |bases: StoreResult<Vec<Base>>| {
                bases.expect("read").into_iter().map(|base| base.id).collect::<BTreeSet<_>>()
            };
            let hash = ContentHash([u8::try_from(id).expect("small"); 32]);
            out.push(format!("{:?}", ids(store.bases_with(Handle { inode: id, born: 1 }))));
            out.push(format!("{:?} {:?}", ids(store.base_holding(hash)), store.base_of(node(id + 29))));
            out.push(format!("{:?}", store.marked(Some(node(id)), 2)));
            out.push(format!("{:?}", store.rows_after(id, 3).expect("read").len()));
        }
        out.push(format!("{:?}", store.rows_of(Class::Leaf)));
        out
    }

    fn row(id: u64, parent: u64, name: &str, seq: u64) -> Row {
        let class = if id.is_multiple_of(2) { Class::Dir } else { Class::Leaf };
        let mut row = Row::empty(node(id), class);
        let replica = if seq.is_multiple_of(5) { UNNUMBERED } else { ReplicaId(3) };
        let (dot, stamp) = (Dot { replica, seq }, Stamp { hlc: seq, replica: ReplicaId(3) });
        row.ctx.insert(replica, seq);
        let name = Name::new(name).expect("valid");
        row.place.insert(dot, Place { parent: node(parent), name, was: node(0), stamp, flag: Flag::Live });
        let value = if class == Class::Dir { Value::Dir } else { Value::Link { target: vec![b'x'] } };
        let born = Attributes::default();
        row.content.insert(dot, Content { value, base: None, depth: 0, born, stamp, wall_ms: 0, flag: Flag::Live });
        row
    }

    fn base(id: u64, parent: u64, name: &str) -> Base {
        let file = Value::File { hash: ContentHash([u8::try_from(id).expect("small"); 32]), size: 1 };
        let (class, value) = if id.is_multiple_of(2) { (Class::Dir, Value::Dir) } else { (Class::Leaf, file) };
        Base {
            id: node(id),
            parent: node(parent),
            name: Name::new(name).expect("valid"),
            class,
            members: vec![Member { node: node(id), dots: Dots::default(), origin: None }],
            value,
            attributes: Attributes::default(),
            stat: Stat {
                kind: Kind::File,
                handle: Handle { inode: id, born: 1 },
                size: 1,
                mode: 0o644,
                mtime: FileTime::default(),
                ctime: FileTime::default(),
                links: 1,
                raised: Raised::default(),
            },
            state: BaseState::Live,
        }
    }

    fn node(number: u64) -> NodeId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_le_bytes());
        NodeId(id)
    }

    /// A small generator: the same throws from the same seed.
    #[derive(Clone)]
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }
    }
}
