//! Routes events to the parts that decide, does a slice of work at a time, and collects effects.
//!
//! Event in, effect out; time, chance and disk are inputs. The driver calls [`Engine::handle`] with what happened,
//! [`Engine::work`] until nothing is left to do, carries out [`Engine::poll_effect`], and comes back at
//! [`Engine::poll_timeout`]. One slice is one transaction: looking at the disk ([`crate::observe`]), numbering and
//! sending ([`crate::session`]), or planning and applying ([`crate::plan`], [`crate::apply`]). Holds no policy itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hearth_schemas::ids::{ContentHash, DeviceId, NodeId, ReplicaId, Slot};
use hearth_schemas::item::{Class, Flag, Name, Row, SettingValue, Value};
use hearth_schemas::wire::Message;

use self::databases::Databases;
use self::holding::Holding;
use self::offers::Offers;
use self::repositories::Repositories;
use self::staying::Staying;
use self::unrest::{PATIENCE_MS, Unrest};
use self::using::Using;
use crate::apply::{Applied, Applier, GitCare, Happened, Sources, is_obstructed, recover};
use crate::brake::Verdict;
use crate::conflict::{self, Naming};
use crate::database;
use crate::delta;
use crate::disk::{Disk, RelPath, Source, StageName};
use crate::fetch::{Ask, Edit, Fetch};
use crate::marks::{Marks, Probe};
use crate::observe::{
    Looked, Missing, Observer, Spot, base_by_path, base_or_root, base_path, describe, is_parked, obstructed,
    put_to_sleep,
};
use crate::path::{is_at_or_below, split};
use crate::plan::{Change, collect, is_left_behind, plan};
use crate::row::file_size;
use crate::select::Select;
use crate::session::{Session, SessionError, Standing};
use crate::state::{Now, State};
use crate::store::{Base, BaseState, Member, Problem, Store, StoreResult};
use crate::text;
use crate::view::{Target, all_dots};

mod databases;
mod holding;
mod marking;
mod merging;
mod offers;
mod repositories;
mod settings;
mod staying;
mod unrest;
mod using;

/// How long an entry must have been left alone before it is looked at, in milliseconds.
const SETTLE_MS: u64 = 100;
/// How long a device that is not clean may go without telling, in case that passes: a save that is seen to and told.
const PASSING_MS: u64 = 150;
/// The longest that it takes to believe that a marker has gone from a directory, in milliseconds.
const UNMARKED_MAX_MS: u64 = 60_000;
/// Directories remembered by the path that they had: the watcher may still tell of them under it.
const REMEMBERED_MOVES: usize = 64;
/// For how long the watcher may do so, in milliseconds. Of more moves than are remembered in that time, the first ones are
/// looked at instead.
const TOLD_LATE_MS: u64 = 10_000;
/// How long directories that were made here may wait to be watched while more is on its way, in milliseconds. What is
/// applied in them until then stirs nothing; in the end they are looked at once.
const WATCH_LATER_MS: u64 = 30_000;
/// How long a directory that a marker has left must be at rest before that is believed, in milliseconds.
const UNMARKED_MS: u64 = 5000;
/// How long nothing more has to come of a peer that is not through until its part of the account is taken for whole where
/// something is to be imported, and the longest wait for that, in milliseconds.
const MORE_MS: u64 = 2000;
const IMPORT_MS: u64 = 5 * 60_000;
/// How long an entry that could not be changed is left alone, in milliseconds.
const BLOCKED_MS: u64 = 15_000;
/// The longest until something that cannot be read is tried again, in milliseconds.
const LONGEST_MS: u64 = 4 * 60_000;

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Something stirred at these paths.
    Stirred(Vec<RelPath>),
    /// An [`Effect::Watch`] was seen to: these directories have just come under watch, so that what happened in them
    /// before is to be found by looking.
    Watched(Vec<RelPath>),
    /// These directories were without a watch for a while, as those that were moved are.
    Unwatched(Vec<RelPath>),
    /// The watcher lost sight: everything must be looked at.
    Overflowed,
    /// Everything that stirred so far is to be looked at without waiting for it to settle.
    Hurry,
    /// These are the other devices of the account, connected or not.
    Others(BTreeSet<Slot>),
    /// A peer is connected and authorised.
    PeerUp(Slot, DeviceId),
    /// A peer is gone.
    PeerDown(Slot),
    /// A peer said something.
    Said(Slot, Message),
    /// A frame of rows has left for a peer.
    Sent(Slot),
    /// The driver has drained the watcher for a peer's flush.
    Drained(Slot, u64),
    /// A content has come.
    Arrived(ContentHash, Source),
    /// A peer does not have a content.
    Refused(Slot, ContentHash),
    /// The disk has no room for a content.
    NoRoom(ContentHash),
    /// A person, or a program of theirs, changed a setting here.
    SettingChanged {
        /// dconf path.
        key: String,
        /// The device it is kept for, if it is kept per device.
        device: Option<DeviceId>,
        /// The value; `None` is unset.
        value: Option<SettingValue>,
    },
    /// What an [`Effect::Setting`] told has been seen to.
    SettingTold,
    /// Stop or go on exchanging and applying.
    Paused(bool),
    /// A person says of a hold, by its id, whether it was meant.
    Judged(String, Verdict),
    /// The rules are others than when the index was last in use: everything is looked at and planned anew.
    RulesChanged,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Tell a peer something. After each [`Message::Rows`], [`Event::Sent`] is expected.
    Send(Slot, Message),
    /// End the conversation with a peer that sent nonsense.
    End(Slot, SessionError),
    /// Drain the watcher, then come back with [`Event::Drained`].
    Drain(Slot, u64),
    /// Bring a large content here.
    Fetch {
        /// Of whom.
        peer: Slot,
        /// Which.
        hash: ContentHash,
        /// Its size in bytes.
        size: u64,
        /// Where an older version lies.
        older: Option<RelPath>,
    },
    /// Bring small contents here, of which older versions lie here.
    Compare(Slot, Vec<Edit>),
    /// Send contents to a peer; those without a source are not here.
    Serve(Slot, Vec<(ContentHash, Option<Source>)>),
    /// A setting of the account, or of this device, has this value. [`Event::SettingTold`] is expected.
    Setting {
        /// dconf path.
        key: String,
        /// The device it is kept for.
        device: Option<DeviceId>,
        /// The value; `None` is unset.
        value: Option<SettingValue>,
        /// The name of the device that set it.
        by: String,
        /// When, by that device's clock, in milliseconds since 1970.
        wall_ms: u64,
    },
    /// Watch these directories, under these paths. [`Event::Watched`] is expected, with those that were not watched.
    Watch(Vec<RelPath>),
    /// Something changed here by a peer's doing.
    Did(RelPath, Happened, String),
    /// Status may be different.
    StatusChanged,
}

/// How the device stands, for status and `wait`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Own standing.
    pub standing: Standing,
    /// Nodes that the disk has yet to follow.
    pub incoming: u64,
    /// Rows that some connected peer has yet to be sent.
    pub outgoing: u64,
    /// Everything is as it should be here, though it may not have been told to anybody.
    pub settled: bool,
    /// Everything was looked at since the watcher last lost sight.
    pub fresh: bool,
    /// Connected peers that agree with this device.
    pub agreeing: BTreeSet<Slot>,
    /// The connected peers.
    pub peers: BTreeMap<Slot, PeerStanding>,
    /// The latest own flush.
    pub flush: u64,
    /// Whether any spot waits to be looked at.
    pub looking: bool,
    /// Whether all that is left are contents that no connected device has, while another is away.
    pub awaits_away: bool,
}

/// How a connected peer stands, as it said last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PeerStanding {
    /// The latest of this device's flushes that it has answered.
    pub flushed: u64,
    /// It has nothing left to do.
    pub clean: bool,
    /// It cannot go on by itself.
    pub stuck: bool,
    /// It knows every numbered change that this device knows; while something is held back, it was sent them.
    pub has_all: bool,
}

/// A version that lost its name, as it lies on this disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sibling {
    /// The path that it lost to another version.
    pub path: RelPath,
    /// Where it is.
    pub sibling: RelPath,
    /// The name of the device that wrote it.
    pub device: String,
}

/// How much is done at a time. Speed and memory depend on it, and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Portions {
    /// Spots looked at in one slice.
    pub spots: usize,
    /// Entries found changed in one slice after which no further spot is begun: what is found is numbered in the same
    /// transaction, and so written once.
    pub found: usize,
    /// Marked nodes planned in one slice.
    pub nodes: usize,
    /// Rows in one frame, at most [`MAX_ROWS`]. Less, so that applying starts early.
    pub rows: usize,
    /// Small contents, by number and bytes, that are worth applying while more are on their way.
    pub apply: (usize, u64),
    /// Small contents, by number and bytes, that may be on their way or wait to be applied.
    pub fetch: (usize, u64),
    /// Rows in a frame that small contents go along with, at most [`hearth_schemas::wire::MAX_OFFERED`].
    pub offers: usize,
}

impl Default for Portions {
    fn default() -> Self {
        Self {
            spots: 256,
            found: 1000,
            nodes: 2500,
            rows: 500,
            apply: (1000, 10 << 20),
            fetch: (6000, 64 << 20),
            offers: 8,
        }
    }
}

/// The deterministic core of the daemon.
pub struct Engine<S> {
    /// The state.
    pub state: State<S>,
    /// What is synced.
    pub select: Box<dyn Select + Send>,
    /// How much is done at a time.
    pub portions: Portions,
    /// The files of this disk that rules look for.
    marks: Marks,
    /// The files that rules looked for when they were gathered, and up to which of their changes the index has them.
    probes: Option<(Vec<Probe>, u64)>,
    /// Directories that were asked for them, until all have been listed once.
    asked: Option<BTreeSet<RelPath>>,
    /// Directories that such a file has left: when that is believed, and since when it is so.
    unmarked: BTreeMap<RelPath, (u64, u64)>,
    open: BTreeMap<Spot, (u64, u64)>,
    queue: VecDeque<Spot>,
    missing: Missing,
    /// Directories that were moved, each with the path that it had and when that was.
    moved: VecDeque<(RelPath, NodeId, u64)>,
    /// Directories that are to be watched when things have calmed down, and since when they wait.
    to_watch: (Vec<RelPath>, u64),
    /// Watches that were asked for and are not there yet.
    watching: u64,
    swept: bool,
    /// When rows came first, and when last, of a peer that has been heard.
    told_ms: Option<(u64, u64)>,
    sessions: BTreeMap<Slot, Session>,
    /// The other devices of the account, once they have been told.
    others: Option<BTreeSet<Slot>>,
    fetch: Fetch,
    offers: Offers,
    ready: BTreeSet<NodeId>,
    /// Nodes whose place is not free yet; they are planned again when something has moved.
    waiting: BTreeSet<NodeId>,
    blocked: BTreeMap<NodeId, u64>,
    /// Entries that were parked, and when what is still there is to be moved on.
    parked: BTreeMap<NodeId, u64>,
    /// Files here that did not hold the content that they should, and until when they are not taken for it.
    doubted: BTreeMap<Source, (ContentHash, u64)>,
    /// When staging is to be tidied: at the start, and again while something in it cannot be moved.
    untidy: Option<u64>,
    /// What could not be looked at.
    problems: BTreeMap<RelPath, Problem>,
    /// When those of the problems that may pass without a trace are looked at again.
    unread: Option<u64>,
    /// How long was waited for that last, in milliseconds.
    unread_pause: u64,
    /// What could not be applied, by node.
    troubles: BTreeMap<NodeId, Problem>,
    planned_upto: Option<NodeId>,
    planning: bool,
    paused: bool,
    flush: u64,
    /// Since when this device is not clean and may be soon, and whether a peer has yet to be told of it.
    passing: Option<(u64, bool)>,
    holding: Holding,
    repositories: Repositories,
    using: Using,
    databases: Databases,
    unrest: Unrest,
    staying: Staying,
    /// Settings that were told and not yet seen to.
    telling: u64,
    by: String,
    displaced: Vec<StageName>,
    /// Contents in staging that nobody waits for.
    unwanted: Vec<StageName>,
    effects: VecDeque<Effect>,
}

impl<S: Store> Engine<S> {
    /// Starts on an opened state; everything will be looked at once.
    pub fn new(state: State<S>, select: Box<dyn Select + Send>) -> Self {
        Self {
            state,
            select,
            portions: Portions::default(),
            marks: Marks::NONE,
            probes: None,
            asked: Some(BTreeSet::new()),
            unmarked: BTreeMap::new(),
            open: BTreeMap::new(),
            queue: VecDeque::from([Spot::Deep(NodeId::ROOT)]),
            missing: Missing::new(),
            moved: VecDeque::new(),
            to_watch: (Vec::new(), 0),
            watching: 0,
            swept: false,
            told_ms: None,
            sessions: BTreeMap::new(),
            others: None,
            fetch: Fetch::default(),
            offers: Offers::default(),
            ready: BTreeSet::new(),
            waiting: BTreeSet::new(),
            blocked: BTreeMap::new(),
            parked: BTreeMap::new(),
            doubted: BTreeMap::new(),
            untidy: Some(0),
            problems: BTreeMap::new(),
            unread: None,
            unread_pause: 0,
            troubles: BTreeMap::new(),
            planned_upto: None,
            planning: true,
            paused: false,
            flush: 0,
            passing: None,
            holding: Holding::default(),
            repositories: Repositories::default(),
            using: Using::default(),
            databases: Databases::default(),
            unrest: Unrest::default(),
            staying: Staying::default(),
            telling: 0,
            by: String::new(),
            displaced: Vec::new(),
            unwanted: Vec::new(),
            effects: VecDeque::new(),
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, event: Event, now: &mut Now) -> StoreResult<()> {
        self.state.store.begin()?;
        let result = self.handle_inner(event, now).and_then(|()| self.state.refresh().map(drop));
        self.close(result)
    }

    fn handle_inner(&mut self, event: Event, now: &mut Now) -> StoreResult<()> {
        self.recall_marks()?;
        match event {
            Event::Stirred(paths) => self.stirred(&paths, now.wall_ms)?,
            Event::Watched(dirs) => {
                self.watching = self.watching.saturating_sub(1);
                self.list(&dirs)?;
            }
            Event::Unwatched(dirs) => self.list(&dirs)?,
            Event::Overflowed => self.sweep(),
            Event::RulesChanged => {
                self.unmarked.clear();
                self.sleep_excluded()?;
                self.mark_all()?;
                self.sweep();
            }
            Event::Hurry => {
                self.flush += 1;
                self.hurry();
                for peer in self.sessions.keys() {
                    self.effects.push_back(Effect::Send(*peer, Message::Flush { token: self.flush }));
                }
            }
            Event::Others(others) => {
                self.others = Some(others);
                self.effects.push_back(Effect::StatusChanged);
            }
            Event::PeerUp(peer, device) => {
                let (session, hello) = Session::begin(peer, device, &self.state)?;
                self.sessions.insert(peer, session);
                self.effects.push_back(Effect::Send(peer, hello));
                self.effects.push_back(Effect::Send(peer, Message::Flush { token: self.flush }));
            }
            Event::PeerDown(peer) => {
                self.sessions.remove(&peer);
                self.fetch.lost(peer);
                self.effects.push_back(Effect::StatusChanged);
            }
            Event::Said(peer, message) => self.said(peer, message, now)?,
            Event::Sent(peer) => {
                if let Some(session) = self.sessions.get_mut(&peer) {
                    session.drained();
                }
            }
            Event::Drained(peer, token) => {
                self.hurry();
                if let Some(session) = self.sessions.get_mut(&peer) {
                    session.asked_flush = session.asked_flush.max(token);
                }
            }
            Event::Arrived(hash, source) => {
                if !self.fetch.wants(&hash) {
                    self.unwanted.extend(brought(&source));
                    return Ok(());
                }
                self.ready.extend(self.fetch.arrived(hash, source));
            }
            Event::Refused(peer, hash) => self.refused(hash, peer, now)?,
            Event::NoRoom(hash) => self.no_room(hash, now)?,
            Event::SettingChanged { key, device, value } => self.set_setting(key, device, value, now)?,
            Event::Judged(id, verdict) => {
                self.judge(&id, verdict, now)?;
            }
            Event::SettingTold => self.telling = self.telling.saturating_sub(1),
            Event::Paused(paused) => {
                self.paused = paused;
                self.effects.push_back(Effect::StatusChanged);
            }
        }
        Ok(())
    }

    /// Does one slice of work. Gives whether there may be more.
    pub fn work<D: Disk>(&mut self, disk: &mut D, now: &mut Now) -> StoreResult<bool> {
        if self.untidy.is_some_and(|at| at <= now.wall_ms) {
            self.tidy(disk, now)?;
        }
        self.state.store.begin()?;
        let result = self.work_inner(disk, now).and_then(|more| Ok(self.state.refresh()? || more));
        let more = *result.as_ref().unwrap_or(&false);
        let closed = self.close(result.map(|_| ()));
        let displaced = std::mem::take(&mut self.displaced);
        if let Err(error) = closed {
            // What was done on disk and is not in the index is found as if a person had done it.
            self.tidy(disk, now)?;
            return Err(error);
        }
        for name in displaced {
            if disk.keep(&name).is_err() {
                // The index finds it in staging, too.
                self.untidy = Some(now.wall_ms + BLOCKED_MS);
            }
        }
        for name in std::mem::take(&mut self.unwanted) {
            // What stays only takes room until the next start.
            let _ = disk.discard(&name);
        }
        Ok(more)
    }

    fn tidy<D: Disk>(&mut self, disk: &mut D, now: &mut Now) -> StoreResult<()> {
        self.untidy = (!recover(&mut self.state, disk, now)?).then(|| now.wall_ms + BLOCKED_MS);
        self.find_images(disk, now.wall_ms)?;
        self.state.store.begin()?;
        text::tidy(&mut self.state)?;
        self.state.store.commit()?;
        Ok(())
    }

    /// Nothing has happened for a while: what is in memory for speed alone goes.
    pub fn rest(&mut self) {
        if self.fetch.is_idle() {
            self.queue.shrink_to_fit();
            self.effects.shrink_to_fit();
            self.state.store.rest();
        }
    }

    /// Takes the next effect.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to call [`Engine::work`] again though nothing happens, in milliseconds of wall clock.
    pub fn poll_timeout(&self) -> Option<u64> {
        let settle = self.open.values().map(|(at, _)| *at).min();
        let blocked = self.blocked.values().min().copied();
        let parked = self.parked.values().min().copied();
        let doubted = self.doubted.values().map(|(_, until)| *until).min();
        let watch = (!self.to_watch.0.is_empty()).then_some(self.to_watch.1 + WATCH_LATER_MS);
        let unmarked = self.unmarked.values().map(|(at, _)| *at).min();
        let databases = self.databases.drop_at();
        let unrest = self.unrest.look_at();
        let import = self.import_at().filter(|_| self.state.importing && !self.queue.is_empty());
        let passing = self.passing.filter(|(_, untold)| *untold).map(|(since, _)| since + PASSING_MS);
        let looking = [
            import,
            settle,
            watch,
            unmarked,
            self.untidy,
            self.unread,
            self.using.look_at(),
            databases,
            unrest,
            passing,
        ];
        // What waits for its time to be applied has none while that is paused.
        let repositories = self.repositories.again_at(self.is_heard());
        let applying = [blocked, parked, doubted, repositories, self.judged_at(), self.fetch.retry_at(&self.peers())];
        let applying = applying.into_iter().filter(|_| !self.paused);
        looking.into_iter().chain(applying).flatten().min()
    }

    /// How things stand.
    pub fn summary(&self) -> StoreResult<Summary> {
        let standing = self.standing(0)?;
        let mut outgoing = 0;
        let mut peers = BTreeMap::new();
        let mut agreeing = BTreeSet::new();
        for (peer, session) in &self.sessions {
            let drained = session.is_drained(&self.state)?;
            outgoing += u64::from(!drained);
            let theirs = session.standing.clone().unwrap_or_default();
            // While something is held back, nobody is told up to where they have been told.
            let has_all = theirs.covers(&standing) || (drained && self.holds_anything());
            let Standing { flushed, clean, stuck, .. } = theirs;
            peers.insert(*peer, PeerStanding { flushed, clean, stuck, has_all });
            if session.agrees(&standing) {
                agreeing.insert(*peer);
            }
        }
        let unnumbered = self.state.store.count_unnumbered();
        let incoming = self.state.store.count_marked()?;
        let looking = self.is_looking();
        Ok(Summary {
            standing,
            incoming,
            outgoing: outgoing.max(unnumbered),
            settled: self.telling == 0
                && self.swept
                && !looking
                && incoming == 0
                && self.parked.is_empty()
                && !self.has_problems()
                && !self.state.importing,
            fresh: self.swept && !looking,
            agreeing,
            peers,
            flush: self.flush,
            looking,
            awaits_away: !looking && self.is_at_rest() && self.awaits_away(),
        })
    }

    /// What could not be read or written.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().chain(self.unrest.problems()).chain(self.troubles.values())
    }

    fn has_problems(&self) -> bool {
        self.problems().next().is_some()
    }

    /// What waits for what, in one line for a log.
    pub fn waits(&self) -> String {
        format!(
            "open {:?}, marks {:?}, queue {:?}, missing {:?}, held back {:?}, ready {:?}, waiting {:?}, blocked {:?}, planning {} {:?}",
            self.open,
            self.marks,
            self.queue,
            self.missing.keys(),
            self.fetch.waiting_nodes().collect::<Vec<_>>(),
            self.ready,
            self.waiting,
            self.blocked,
            self.planning,
            self.planned_upto
        )
    }

    /// Whether exchanging and applying is stopped.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Where a content lies here.
    pub fn locate(&self, hash: ContentHash) -> StoreResult<Option<Source>> {
        if let Some(image) = self.databases.image(hash) {
            return Ok(Some(image));
        }
        let mut holding = self.state.store.base_holding(hash)?;
        // What is dormant may hold something else by now.
        holding.sort_by_key(|base| base.state == BaseState::Dormant);
        for base in holding.iter().filter(|base| base.class == Class::Leaf) {
            let source = Source::Copy(base_path(&self.state.store, base)?);
            if !self.doubted.contains_key(&source) {
                return Ok(Some(source));
            }
        }
        let kept = self.state.store.kept_holding(hash)?.map(|kept| Source::Kept(StageName(kept.name)));
        match kept.filter(|source| !self.doubted.contains_key(source)) {
            Some(kept) => Ok(Some(kept)),
            None => Ok(self.state.store.text(hash)?.map(Source::Bytes)),
        }
    }

    /// The conflicts that lie on this disk.
    pub fn siblings(&self) -> StoreResult<Vec<Sibling>> {
        let mut siblings = Vec::new();
        for base in self.state.store.siblings()? {
            let sibling = base_path(&self.state.store, &base)?;
            let naming = Naming::of(split(&sibling).0);
            let Some(registered) = conflict::registered(naming, &base.name) else { continue };
            let dir_len = sibling.len() - base.name.as_bytes().len();
            let path = [&sibling[..dir_len], registered.as_bytes()].concat();
            let device = conflict::birth_name(naming, &base.name).unwrap_or_default();
            siblings.push(Sibling { path, sibling, device });
        }
        Ok(siblings)
    }

    /// The base entry at a path; the root's for the empty one.
    pub fn at(&self, path: &[u8]) -> StoreResult<Option<Base>> {
        base_by_path(&self.state.store, path)
    }

    /// Where the account has what stands at a path here; `None` for what it does not know, or not show.
    pub fn shown_at(&self, path: &[u8]) -> StoreResult<Option<RelPath>> {
        let Some(base) = self.at(path)? else { return Ok(None) };
        for member in &base.members {
            if let Some(target) = self.state.view().target_of_member(member)? {
                let dir = self.state.tree.shape().path(target.parent);
                return Ok(Some(crate::disk::join(&dir, &target.name)));
            }
        }
        Ok(None)
    }

    /// The winning value of every setting, as the effects that would tell them.
    pub fn settings(&self) -> StoreResult<Vec<Effect>> {
        let mut rows = self.state.store.rows_of(Class::Setting)?;
        rows.retain(|row| !holding::tells_of_holds(row));
        rows.iter().filter_map(|row| self.telling_of(row).transpose()).collect()
    }

    fn close(&mut self, result: StoreResult<()>) -> StoreResult<()> {
        let committed = result.and_then(|()| self.keep_marks()).and_then(|()| self.state.store.commit());
        match committed.and_then(|()| if self.must_last() { self.state.store.sync() } else { Ok(()) }) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.effects.retain(|effect| !is_promise(effect));
                self.state.store.rollback();
                self.state.load()?;
                self.take_marks_back()?;
                self.holding.forget();
                self.planning = true;
                self.planned_upto = None;
                self.sweep();
                // What the sessions hold in memory may be ahead of the index: the peers begin anew from what it has.
                let peers: Vec<Slot> = self.sessions.keys().copied().collect();
                for peer in peers {
                    self.end(peer, SessionError::IndexFailed);
                }
                Err(error)
            }
        }
    }

    /// Whether somebody is to rely on what was committed: a peer that is told of it, or a person whose displaced file
    /// only the index tells of. What was changed on disk is made to last as well, lest it be taken for a person's doing.
    fn must_last(&self) -> bool {
        let lasts = |effect: &Effect| is_promise(effect) || matches!(effect, Effect::Did(..));
        !self.displaced.is_empty() || self.effects.iter().any(lasts)
    }

    fn work_inner<D: Disk>(&mut self, disk: &mut D, now: &mut Now) -> StoreResult<bool> {
        self.recall_marks()?;
        self.load_holds(now)?;
        self.believe_unmarked(disk, now.wall_ms)?;
        self.ripen(now.wall_ms)?;
        self.trust_again(now.wall_ms);
        self.look_at_unread(now.wall_ms)?;
        self.look_at_displaced(disk, now)?;
        self.drop_images(now.wall_ms);
        if self.may_look(now.wall_ms) && (!self.queue.is_empty() || self.can_conclude()) {
            self.look(disk, now)?;
            self.exchange(disk, now)?;
            return Ok(true);
        }
        if self.exchange(disk, now)? {
            return Ok(true);
        }
        if self.swept && !self.paused && self.queue.is_empty() && self.apply_some(disk, now)? {
            return Ok(true);
        }
        let calm = self.fetch.is_idle() && !self.planning && self.ready.is_empty();
        if !self.to_watch.0.is_empty() && (calm || now.wall_ms >= self.to_watch.1 + WATCH_LATER_MS) {
            self.watch_made();
        }
        if self.move_on_parked(now.wall_ms)? {
            return Ok(true);
        }
        self.report(now.wall_ms)?;
        Ok(false)
    }

    // ---- looking ----

    /// Whether what is on the disk may be looked at. What is imported is compared with all that the account has: as long as
    /// a peer is still looking at its own disk and tells what it finds, nothing is imported that is about to be told.
    fn may_look(&self, now_ms: u64) -> bool {
        !self.state.importing || self.import_at().is_some_and(|at| at <= now_ms)
    }

    /// When an import may begin; `None` as long as nobody has been heard.
    fn import_at(&self) -> Option<u64> {
        let heard = || self.sessions.values().filter(|session| session.heard);
        let (since, told) = self.told_ms.filter(|_| heard().next().is_some())?;
        let waits = !heard().any(|session| session.is_through);
        Some(if waits { (told + MORE_MS).min(since + IMPORT_MS) } else { 0 })
    }

    /// Nobody is to find a file of theirs under a name that only a plan needed: what is still parked is planned again;
    /// what nobody plans for goes back to a name of its own, to be looked at there.
    fn move_on_parked(&mut self, now_ms: u64) -> StoreResult<bool> {
        let due: Vec<NodeId> = self.parked.iter().filter(|(_, at)| **at <= now_ms).map(|(id, _)| *id).collect();
        for &id in &due {
            let Some(base) = self.state.store.base(id)?.filter(is_parked) else {
                self.parked.remove(&id);
                continue;
            };
            self.parked.insert(id, now_ms + BLOCKED_MS);
            match base.state {
                BaseState::Live => {
                    self.state.mark_members(&base)?;
                    self.queue.push_back(Spot::Deep(id));
                }
                BaseState::Dormant => {
                    self.queue.push_back(Spot::Entry(base.parent, base.name.clone()));
                    self.state.forget(base)?;
                }
            }
            self.effects.push_back(Effect::StatusChanged);
        }
        Ok(!due.is_empty())
    }

    fn sweep(&mut self) {
        self.swept = false;
        // What still cannot be looked at, and is not excluded by now, is found anew.
        self.problems.clear();
        self.queue.push_back(Spot::Deep(NodeId::ROOT));
        self.effects.push_back(Effect::StatusChanged);
    }

    /// What the rules exclude on this machine is not in play, whatever becomes of it.
    fn sleep_excluded(&mut self) -> StoreResult<()> {
        let mut dirs = vec![NodeId::ROOT];
        while let Some(dir) = dirs.pop() {
            for base in self.state.store.base_in(dir)? {
                let is_dir = base.class == Class::Dir;
                if !self.select.travels(&base_path(&self.state.store, &base)?, is_dir, &self.marks) {
                    put_to_sleep(&mut self.state.store, &mut self.missing, base)?;
                } else if is_dir {
                    dirs.push(base.id);
                }
            }
        }
        Ok(())
    }

    /// What was left alone by a rule has to be planned when that is lifted.
    fn mark_all(&mut self) -> StoreResult<()> {
        let mut after = 0;
        loop {
            let rows = self.state.store.rows_after(after, self.portions.nodes)?;
            let Some((last, _)) = rows.last() else { break };
            after = *last;
            for (_, row) in rows {
                if matches!(row.class, Class::Dir | Class::Leaf) {
                    self.state.mark_with_siblings(&row)?;
                }
            }
        }
        Ok(())
    }

    fn is_looking(&self) -> bool {
        let watched = self.to_watch.0.is_empty() && self.watching == 0;
        let marked = self.unmarked.is_empty();
        let waits = !self.open.is_empty() || self.unrest.is_looking();
        waits || !self.queue.is_empty() || !self.missing.is_empty() || !watched || !marked
    }

    fn can_conclude(&self) -> bool {
        !self.missing.is_empty() || !self.swept
    }

    fn stirred(&mut self, paths: &[RelPath], now_ms: u64) -> StoreResult<()> {
        let mut aliases = Vec::new();
        for (dir, (at, since)) in &mut self.unmarked {
            if paths.iter().any(|path| is_at_or_below(path, dir)) {
                *at = (now_ms + UNMARKED_MS).min(*since + UNMARKED_MAX_MS).max(*at);
            }
        }
        for path in paths {
            aliases.extend(self.later_paths(path)?);
        }
        let logged: BTreeSet<RelPath> =
            paths.iter().filter_map(|path| database::owner_of(path)).map(<[u8]>::to_vec).collect();
        aliases.extend(logged.iter().cloned());
        // Many paths lie in few directories, and each is asked for by all its names.
        let mut dirs: BTreeMap<&[u8], Option<NodeId>> = BTreeMap::new();
        for path in paths.iter().chain(&aliases) {
            let (dir, name) = split(path);
            let known = match dirs.get(dir) {
                Some(known) => *known,
                None => *dirs.entry(dir).or_insert(self.directory_at(dir)?),
            };
            let spot = match known.zip(Name::new(name)) {
                Some((dir, name)) => self.spot_in(dir, name, path)?,
                None => self.spot_of(path)?,
            };
            let Some(spot) = spot else { continue };
            self.program_may_be_through(&spot, now_ms)?;
            if self.unrest.stirs(&spot, now_ms) {
                continue;
            }
            let (at, since) = self.open.get(&spot).copied().unwrap_or((0, now_ms));
            // What is written without pause waits longer and longer, so that it costs little.
            let busy = now_ms.saturating_sub(since);
            let wait = SETTLE_MS.max(if busy > 2000 { busy / 4 } else { 0 });
            // A database has a state at any moment, and is not looked at too often anyway.
            let longest = since + if logged.contains(path) { databases::PAUSE_MS.0 } else { PATIENCE_MS };
            let paced = self.databases.not_before(&spot);
            self.open.insert(spot, (at.max(now_ms + wait).min(longest.max(now_ms)).max(paced), since));
        }
        Ok(())
    }

    /// The paths that a path may have by the time that it is told: directories above it may just have been moved.
    fn later_paths(&self, path: &[u8]) -> StoreResult<Vec<RelPath>> {
        let mut later = Vec::new();
        for (old, dir, _) in &self.moved {
            if let Some(rest) = path.strip_prefix(old.as_slice()).filter(|rest| rest.starts_with(b"/"))
                && let Some(base) = self.state.store.base(*dir)?
            {
                later.push([&base_path(&self.state.store, &base)?, rest].concat());
            }
        }
        Ok(later)
    }

    fn remember_moved(&mut self, moved: Vec<(RelPath, NodeId)>, now_ms: u64) {
        self.moved.extend(moved.into_iter().map(|(path, dir)| (path, dir, now_ms)));
        let too_many = self.moved.len().saturating_sub(REMEMBERED_MOVES);
        let forgotten = self.moved.drain(..too_many).filter(|(_, _, at)| at + TOLD_LATE_MS > now_ms);
        self.queue.extend(forgotten.map(|(_, dir, _)| Spot::Deep(dir)));
    }

    /// Has directories looked at.
    fn list(&mut self, dirs: &[RelPath]) -> StoreResult<()> {
        for dir in dirs {
            let spot = self.directory_at(dir)?.map(Spot::Listing);
            self.queue.extend(spot);
        }
        Ok(())
    }

    /// The base key of the directory at a path.
    fn directory_at(&self, dir: &[u8]) -> StoreResult<Option<NodeId>> {
        Ok(self.at(dir)?.filter(|base| base.class == Class::Dir).map(|base| base.id))
    }

    /// A name in a directory that base knows. `None` for what is not synced.
    fn spot_in(&self, dir: NodeId, name: Name, path: &[u8]) -> StoreResult<Option<Spot>> {
        let known = self.state.store.base_at(dir, &name)?.is_some()
            || self.select.travels(path, false, &self.marks)
            || self.select.travels(path, true, &self.marks)
            // Whether it stands there decides about others.
            || self.select.is_probe(name.as_bytes())
            // A directory that was deleted elsewhere may stay for it.
            || self.state.store.base(dir)?.is_some_and(|base| base.state == BaseState::Dormant);
        Ok(known.then_some(Spot::Entry(dir, name)))
    }

    /// The nearest name that base knows the directory of. `None` for what is not synced.
    fn spot_of(&self, path: &[u8]) -> StoreResult<Option<Spot>> {
        let mut dir = NodeId::ROOT;
        let mut parts = path.split(|&byte| byte == b'/').peekable();
        while let Some(part) = parts.next() {
            let Some(name) = Name::new(part) else { return Ok(None) };
            if parts.peek().is_none() {
                return self.spot_in(dir, name, path);
            }
            match self.state.store.base_at(dir, &name)? {
                Some(base) if base.class == Class::Dir => dir = base.id,
                _ => {
                    let prefix_len = path.len() - parts.map(|rest| rest.len() + 1).sum::<usize>();
                    let travels = self.select.travels(&path[..prefix_len], true, &self.marks)
                        || self.select.is_probe(split(path).1);
                    return Ok(travels.then_some(Spot::Entry(dir, name)));
                }
            }
        }
        Ok(None)
    }

    /// Moves spots that have been left alone long enough to the queue; all together, so that the two ends of a move
    /// are looked at together.
    fn ripen(&mut self, now_ms: u64) -> StoreResult<()> {
        for (spot, (at, since)) in self.open.extract_if(.., |_, (at, _)| *at <= now_ms).collect::<Vec<_>>() {
            if at >= since + PATIENCE_MS && self.databases.not_before(&spot) < at {
                self.begin_unrest(spot, now_ms)?;
            } else {
                self.unrest.looked_for(&spot, since);
                self.queue.push_back(spot);
            }
        }
        self.look_at_restless(now_ms);
        Ok(())
    }

    fn hurry(&mut self) {
        self.watch_made();
        for (spot, (_, since)) in std::mem::take(&mut self.open) {
            self.unrest.looked_for(&spot, since);
            self.queue.push_back(spot);
        }
        self.unrest.hurry();
    }

    fn look<D: Disk>(&mut self, disk: &mut D, now: &mut Now) -> StoreResult<()> {
        let take = self.queue.len().min(self.portions.spots);
        let mut spots: Vec<Spot> = self.queue.drain(..take).collect();
        let freed = self.look_again(&spots)?;
        let importing = self.state.importing;
        let mut observer = Observer {
            state: &mut self.state,
            disk,
            select: self.select.as_ref(),
            marks: &mut self.marks,
            asked: self.asked.as_mut(),
            restless: self.unrest.ways(),
            portion: self.portions.found,
            missing: &mut self.missing,
            touched: BTreeSet::new(),
            looked: Looked::default(),
        };
        let mut bearing = Vec::new();
        if spots.is_empty() {
            for spot in self.open.keys() {
                if observer.bears_on_missing(spot)? {
                    bearing.push(spot.clone());
                }
            }
        }
        let concluding = spots.is_empty() && bearing.is_empty();
        if concluding && !self.swept {
            observer.ask_marked()?;
        }
        if concluding {
            if importing {
                // A first look deletes nothing: what base has and the disk lacks is to be made again.
                for (id, _) in std::mem::take(observer.missing) {
                    if let Some(base) = observer.state.store.base(id)? {
                        observer.state.forget(base)?;
                    }
                }
            } else {
                observer.conclude(now)?;
            }
        } else {
            bearing.iter().for_each(|spot| {
                self.open.remove(spot);
            });
            observer.look(spots.iter().cloned().chain(bearing).collect(), now)?;
        }
        let mut looked = observer.looked;
        self.take_up_unmarked()?;
        for path in freed.into_iter().filter(|path| looked.problems.iter().all(|problem| problem.path != *path)) {
            self.queue.extend(self.whole_spot_of(&path)?.filter(|spot| matches!(spot, Spot::Deep(_))));
        }
        if concluding && looked.more.is_empty() && looked.busy.is_empty() {
            self.swept = true;
            self.asked = None;
            if importing {
                self.state.imported()?;
            }
            self.effects.push_back(Effect::StatusChanged);
        }
        spots.truncate(spots.len().saturating_sub(looked.later.len()));
        for spot in std::mem::take(&mut looked.later).into_iter().rev() {
            self.queue.push_front(spot);
        }
        self.note_staying(&spots, &mut looked)?;
        let busy = std::mem::take(&mut looked.busy);
        self.pace_images(&looked.imaged, looked.changes, now.wall_ms)?;
        self.found_rest(&spots, &looked.imaged, busy, &looked.more, now.wall_ms)?;
        self.looked(looked, now.wall_ms)
    }

    /// What could not be looked at, at or below the entries that are to be looked at: they may have gone, or have been
    /// opened, since. Gives those of the entries that had a problem themselves: what is below one that is a directory still
    /// is to be looked at as well, unless it has one again.
    fn look_again(&mut self, spots: &[Spot]) -> StoreResult<Vec<RelPath>> {
        let mut freed = Vec::new();
        if self.problems.is_empty() {
            return Ok(freed);
        }
        for spot in spots {
            let Spot::Entry(dir, name) = spot else { continue };
            let Some(dir) = base_or_root(&self.state.store, *dir)? else { continue };
            let entry = crate::disk::join(&base_path(&self.state.store, &dir)?, name);
            for path in self.forget_problems(&entry) {
                match path == entry {
                    true => freed.push(path),
                    false => self.queue.extend(self.whole_spot_of(&path)?),
                }
            }
        }
        Ok(freed)
    }

    /// A disk that gives errors, or too many open files: nothing tells when that is over. So it is tried again, ever more
    /// seldom, for a large file is read up to its bad sector each time.
    fn look_at_unread(&mut self, now_ms: u64) -> StoreResult<()> {
        if self.unread.is_none_or(|at| at > now_ms) {
            return Ok(());
        }
        self.unread = None;
        let passing = self.problems.extract_if(.., |_, problem| problem.transient);
        let again: Vec<RelPath> = passing.map(|(at, _)| at).collect();
        for path in again {
            let spot = self.whole_spot_of(&path)?;
            self.queue.extend(spot);
        }
        Ok(())
    }

    /// The spot of a path; of a directory that base knows, with all that is below it.
    fn whole_spot_of(&self, path: &[u8]) -> StoreResult<Option<Spot>> {
        if path.is_empty() {
            return Ok(Some(Spot::Deep(NodeId::ROOT)));
        }
        match self.at(path)? {
            Some(base) if base.class == Class::Dir && base.state == BaseState::Live => Ok(Some(Spot::Deep(base.id))),
            _ => self.spot_of(path),
        }
    }

    fn looked(&mut self, looked: Looked, now_ms: u64) -> StoreResult<()> {
        self.queue.extend(looked.more);
        for path in looked.gone.iter().chain(looked.moved.iter().map(|(path, _)| path)) {
            self.forget_problems(path);
        }
        self.remember_moved(looked.moved, now_ms);
        self.databases.are_plain(&looked.plain, now_ms);
        for dir in looked.unmarked {
            self.unmarked.entry(dir).or_insert((now_ms + UNMARKED_MS, now_ms));
        }
        for path in looked.clear {
            self.problems.remove(&path);
        }
        if self.unread.is_none() && looked.problems.iter().any(|problem| problem.transient) {
            self.unread_pause = (2 * self.unread_pause).clamp(BLOCKED_MS, LONGEST_MS);
            self.unread = Some(now_ms + self.unread_pause);
        }
        for problem in looked.problems {
            self.problems.insert(problem.path.clone(), problem);
        }
        if self.queue.is_empty() && !self.problems.values().any(|problem| problem.transient) {
            self.unread_pause = 0;
        }
        for id in looked.parked {
            self.parked.entry(id).or_insert(now_ms + SETTLE_MS);
        }
        if looked.changes > 0 {
            self.ready.extend(std::mem::take(&mut self.waiting));
        }
        Ok(())
    }

    /// Forgets what was wrong at a path and below it. Gives where that was.
    fn forget_problems(&mut self, path: &[u8]) -> Vec<RelPath> {
        self.problems.extract_if(.., |at, _| is_at_or_below(at, path)).map(|(at, _)| at).collect()
    }

    /// Has directories watched that were made here.
    fn watch_made(&mut self) {
        let dirs = std::mem::take(&mut self.to_watch.0);
        self.watch(dirs);
    }

    fn watch(&mut self, dirs: Vec<RelPath>) {
        if !dirs.is_empty() {
            self.watching += 1;
            self.effects.push_back(Effect::Watch(dirs));
        }
    }

    // ---- exchanging ----

    /// Numbers and sends what there is to send. Gives whether anything went out.
    fn exchange<D: Disk>(&mut self, disk: &mut D, now: &mut Now) -> StoreResult<bool> {
        if self.paused {
            return Ok(false);
        }
        self.carry_out_verdicts(now)?;
        if self.is_heard() {
            let mut held = self.hold_outgoing(now)?;
            held.extend(self.untold_of_repositories(disk, &held, now)?);
            self.state.number(&held, now)?;
        }
        // What is planned next goes by the directories as they are now. The marks of what has changed about them are to be
        // committed along with it: an index that is opened finds no difference any more.
        self.state.refresh()?;
        let mut sent = false;
        let mut frames = Vec::new();
        for session in self.sessions.values_mut() {
            let mut out = Vec::new();
            session.pump(&self.state, self.portions.rows, &mut out)?;
            sent |= !out.is_empty();
            // Whoever has just come may have all of it.
            let offers = session.standing.is_some();
            frames.extend(out.into_iter().map(|message| (session.peer, message, offers)));
        }
        for (peer, message, offers) in frames {
            if let Message::Rows { rows, .. } = &message
                && offers
            {
                let offer = self.offer(disk, rows, now.wall_ms)?;
                self.effects.extend(offer.map(|offer| Effect::Send(peer, offer)));
            }
            self.effects.push_back(Effect::Send(peer, message));
        }
        Ok(sent)
    }

    /// Whether some peer has told all that it had.
    fn is_heard(&self) -> bool {
        self.sessions.values().any(|session| session.heard)
    }

    fn said(&mut self, peer: Slot, message: Message, now: &mut Now) -> StoreResult<()> {
        let Some(session) = self.sessions.get_mut(&peer) else { return Ok(()) };
        match message {
            Message::Hello { replica, run, yours, cursor } => {
                match session.hello(&self.state, (replica, run), &yours, cursor)? {
                    Ok(true) => {}
                    Ok(false) => self.become_another(now)?,
                    Err(error) => self.end(peer, error),
                }
            }
            Message::Rows { rows, upto, end, known } => match session.rows(&mut self.state, rows, upto, end, known)? {
                Ok(changed) => {
                    self.told_ms = Some((self.told_ms.map_or(now.wall_ms, |(since, _)| since), now.wall_ms));
                    if !changed.is_empty() {
                        self.by = self.state.view().birth_name(session.replica.unwrap_or(ReplicaId(0)))?;
                    }
                    for (node, before) in changed {
                        self.blocked.remove(&node);
                        self.keep_older(node, now)?;
                        self.note_moved_out(before.as_ref(), node)?;
                        self.arrived(before.as_ref(), node, now)?;
                    }
                    self.effects.push_back(Effect::StatusChanged);
                }
                Err(error) => self.end(peer, error),
            },
            Message::State { known, digest, clean, stuck, flushed } => {
                session.stands(Standing { known, digest, clean, stuck, flushed });
                self.effects.push_back(Effect::StatusChanged);
            }
            Message::Flush { token } => self.effects.push_back(Effect::Drain(peer, token)),
            Message::Get { wants } => {
                let mut found = Vec::new();
                for hash in wants {
                    found.push((hash, self.locate(hash)?));
                }
                self.effects.push_back(Effect::Serve(peer, found));
            }
            Message::Missing { hashes } => {
                for hash in hashes {
                    self.refused(hash, peer, now)?;
                }
            }
            Message::Offer { contents } => self.offers.add(contents),
        }
        Ok(())
    }

    /// A peer does not have a content that it was asked for.
    fn refused(&mut self, hash: ContentHash, peer: Slot, now: &mut Now) -> StoreResult<()> {
        self.fetch.refused(hash, peer, now.wall_ms);
        let away = self.is_anybody_away();
        for node in self.fetch.hopeless(&hash, &self.peers()) {
            if !self.still_needs(node, hash)? {
                // It is planned anew, without that content.
                self.state.mark(node)?;
                continue;
            }
            let Some(target) = self.state.view().target_of(node)? else { continue };
            let dir = self.state.tree.shape().path(target.parent);
            let path = crate::disk::join(&dir, &target.name);
            // A file that is in doubt may have it yet.
            let here =
                !self.state.store.base_holding(hash)?.is_empty() || self.state.store.kept_holding(hash)?.is_some();
            if !away && !here && self.withdraw_lost(node, hash)? {
                self.effects.push_back(Effect::Did(path, Happened::Withdrawn, self.state.device_name.clone()));
                continue;
            }
            let hint = if away {
                "connect the device that it was written on"
            } else {
                "the device that wrote it takes it out by itself if nobody has it; else write the file anew"
            };
            let problem = Problem {
                path,
                what: "no connected device has its content".to_owned(),
                hint: hint.to_owned(),
                transient: true,
                copied_ms: None,
            };
            self.troubles.insert(node, problem);
        }
        Ok(())
    }

    /// Whether what is shown of a node has a content yet, or may be merged from it: a row of another node can have put an end
    /// to that.
    fn still_needs(&self, node: NodeId, hash: ContentHash) -> StoreResult<bool> {
        let Some(slot) = self.state.store.row(node)?.and_then(|row| self.state.view().registered(&row)) else {
            return Ok(false);
        };
        let shows = |target: &Target| {
            let is_it = matches!(target.value, Value::File { hash: found, .. } if found == hash);
            is_it && target.members.iter().any(|member| member.origin.unwrap_or(member.node) == node)
        };
        Ok(self.state.view().slot(slot.0, &slot.1)?.iter().any(shows) || self.may_merge_from(node, hash)?)
    }

    /// Takes out of a node what was written here and done away with here before anybody had its bytes. Gives whether
    /// there was such a version.
    ///
    /// The caller has asked every other device of the account and found the content nowhere here. Should one of them
    /// turn out to have it after all, it loses it as it loses what a person deletes elsewhere: to its history. A node
    /// without another content is deleted, unless an older one of it lies on some disk ([`Engine::keep_older`]).
    fn withdraw_lost(&mut self, node: NodeId, hash: ContentHash) -> StoreResult<bool> {
        let Some(row) = self.state.store.row(node)? else { return Ok(false) };
        let mut lost = Vec::new();
        for (&dot, content) in &row.content {
            let is_it = matches!(content.value, Value::File { hash: found, .. } if found == hash);
            if is_it && self.state.lives_on(dot.replica, self.state.device)? == Some(true) {
                lost.push(dot);
            }
        }
        if lost.is_empty() {
            return Ok(false);
        }
        if lost.len() == row.content.len() {
            let member = Member { node, dots: all_dots(&row), origin: None };
            self.state.delete_member(&member, Flag::Itself)?;
        }
        self.state.withdraw(node, &lost)?;
        self.fetch.forget(node);
        Ok(true)
    }

    /// Brings a node that was left without any content back with what lies on this disk: only what nobody ever had was
    /// to go.
    fn keep_older(&mut self, node: NodeId, now: &Now) -> StoreResult<()> {
        let is_empty = |row: &Row| row.class == Class::Leaf && row.content.is_empty();
        if !self.state.store.row(node)?.as_ref().is_some_and(is_empty) {
            return Ok(());
        }
        match self.state.store.base_of(node)?.filter(|base| base.state == BaseState::Live) {
            Some(base) => self.state.revive(node, &base, now),
            None => Ok(()),
        }
    }

    /// A content does not fit on the disk: its nodes wait, and it is tried again by and by.
    fn no_room(&mut self, hash: ContentHash, now: &Now) -> StoreResult<()> {
        for node in self.fetch.give_up(&hash) {
            self.blocked.insert(node, now.wall_ms + BLOCKED_MS);
            if let Some(target) = self.state.view().target_of(node)? {
                let dir = self.state.tree.shape().path(target.parent);
                let error = std::io::Error::from(std::io::ErrorKind::StorageFull);
                self.troubles.insert(node, describe(crate::disk::join(&dir, &target.name), &error));
            }
        }
        self.effects.push_back(Effect::StatusChanged);
        Ok(())
    }

    fn end(&mut self, peer: Slot, error: SessionError) {
        self.sessions.remove(&peer);
        self.fetch.lost(peer);
        self.effects.push_back(Effect::End(peer, error));
    }

    /// This index went back, or runs twice: a new life, and everything is looked at without deleting.
    fn become_another(&mut self, now: &mut Now) -> StoreResult<()> {
        self.state.begin_life(true, now)?;
        let peers: Vec<Slot> = self.sessions.keys().copied().collect();
        for peer in peers {
            self.end(peer, SessionError::OutOfTurn);
        }
        self.sweep();
        Ok(())
    }

    /// Tells each peer how this device stands now. That it is not clean may have passed before anybody could act on it: a
    /// peer that knows it to be clean, and asks nothing, is told so only once it has lasted.
    fn report(&mut self, now_ms: u64) -> StoreResult<()> {
        let base = self.standing(0)?;
        let settled = !self.is_looking();
        let since = self.passing.map_or(now_ms, |(since, _)| since).min(now_ms);
        let passes = !base.clean && !base.stuck && now_ms < since + PASSING_MS;
        let mut untold = false;
        for session in self.sessions.values_mut() {
            let flushed = if settled { session.asked_flush } else { session.answered_flush() };
            let standing = Standing { flushed, ..base.clone() };
            if passes && session.may_wait(flushed) {
                untold = true;
                continue;
            }
            let sent_all = session.has_sent_all(&self.state)?;
            if let Some(message) = session.report(&standing, sent_all) {
                self.effects.push_back(Effect::Send(session.peer, message));
                self.effects.push_back(Effect::StatusChanged);
            }
        }
        self.passing = (!base.clean && !base.stuck).then_some((since, untold));
        Ok(())
    }

    fn standing(&self, flushed: u64) -> StoreResult<Standing> {
        let marked = !self.state.store.nothing_marked()?;
        let unnumbered = self.state.store.count_unnumbered() > 0;
        let looking = self.is_looking() || !self.swept || self.state.importing;
        let tidy = self.parked.is_empty() && !self.has_problems();
        let clean = self.telling == 0 && !looking && !marked && !unnumbered && tidy && !self.paused;
        // What a person has judged goes on by itself.
        let held = self.awaits_a_word();
        let blocked = (self.has_problems() || held) && !self.awaits_away();
        // What has no number yet, and is not held, goes out when a peer is there.
        let untold = unnumbered && !held;
        let stuck = !looking && !clean && (self.paused || (self.is_at_rest() && blocked && !untold));
        Ok(Standing {
            known: self.state.store.known().clone(),
            digest: self.state.store.digest(),
            clean,
            stuck,
            flushed,
        })
    }

    /// Whether nothing is being planned, brought or applied.
    fn is_at_rest(&self) -> bool {
        self.ready.is_empty() && self.fetch.is_idle() && !self.planning
    }

    /// Whether a device that is away may have a content that no connected one has.
    fn awaits_away(&self) -> bool {
        self.is_anybody_away() && self.troubles.keys().any(|node| self.fetch.awaits(node))
    }

    /// Whether there is, or may be, a device of the account that cannot be asked for contents.
    fn is_anybody_away(&self) -> bool {
        let peers = self.peers();
        self.others.as_ref().is_none_or(|others| others.iter().any(|other| !peers.contains(other)))
    }

    // ---- applying ----

    /// Plans and applies some of what is marked. Gives whether anything was done.
    fn apply_some<D: Disk>(&mut self, disk: &mut D, now: &mut Now) -> StoreResult<bool> {
        self.hold_incoming(now)?;
        // What was marked may lie before what was planned last, and may need another content than it waits for.
        let marked = self.state.take_marked();
        let mut replan = !marked.is_empty();
        for node in marked {
            self.fetch.forget(node);
        }
        let due: Vec<NodeId> =
            self.blocked.iter().filter(|(_, at)| **at <= now.wall_ms).map(|(node, _)| *node).collect();
        for node in due {
            self.blocked.remove(&node);
            self.ready.insert(node);
            replan = true;
        }
        self.go_on_in_repositories(now)?;
        if replan {
            self.planning = true;
            self.planned_upto = None;
        }
        let (count, bytes) = self.fetch.waiting();
        let worth = count >= self.portions.apply.0 || bytes >= self.portions.apply.1 || self.fetch.is_small_idle();
        let mut nodes: Vec<NodeId> = Vec::new();
        if worth && !self.ready.is_empty() {
            nodes.extend(std::mem::take(&mut self.ready));
            // What waits for a place may wait for one of these.
            nodes.extend(std::mem::take(&mut self.waiting));
        }
        while self.planning && nodes.len() < self.portions.nodes && self.fetch.has_room(self.portions.fetch) {
            let batch = self.state.store.marked(self.planned_upto, self.portions.nodes - nodes.len())?;
            self.planned_upto = batch.last().copied().or(self.planned_upto);
            if batch.is_empty() {
                self.planning = false;
                self.planned_upto = None;
            }
            let waits =
                |n: &NodeId| self.fetch.awaits(n) || self.blocked.contains_key(n) || self.repositories.awaits(n);
            nodes.extend(batch.into_iter().filter(|n| !waits(n)));
        }
        if nodes.is_empty() {
            return Ok(self.ask(disk, now));
        }
        let (settings, nodes) = self.settings_among(nodes)?;
        for row in settings {
            if self.note_hold(&row)? {
                self.remember_told(&row)?;
            } else {
                self.announce(&row)?;
            }
            self.state.store.unmark(row.id)?;
        }
        self.apply_nodes(disk, &nodes, now)?;
        self.ask(disk, now);
        self.effects.push_back(Effect::StatusChanged);
        Ok(true)
    }

    fn apply_nodes<D: Disk>(&mut self, disk: &mut D, nodes: &[NodeId], now: &mut Now) -> StoreResult<()> {
        let failed = nodes.iter().filter_map(|node| Some((*node, self.troubles.remove(node)?))).collect();
        let mut sources = self.fetch.take();
        let unmerged = self.merge_contents(disk, nodes, &sources, now)?;
        let collected = collect(&self.state, self.select.as_ref(), &self.marks, nodes)?;
        for node in &collected.settled {
            self.using.is_free(*node);
            self.state.store.unmark(*node)?;
        }
        let mut changes = Vec::new();
        let mut led_by: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
        let mut open: BTreeSet<NodeId> = BTreeSet::new();
        let found = collected.changes.into_iter().zip(collected.nodes).collect();
        let found = self.hold_repositories(disk, found, &mut sources, &mut open, now)?;
        let held = self.held_among(&found)?;
        let mut in_vain = held.clone();
        for (change, nodes) in &found {
            let waits = held.contains(&change.key()) || !nodes.is_disjoint(&unmerged);
            if !waits && self.is_in_vain(disk, (change, nodes), &failed, &sources, now.wall_ms)? {
                in_vain.insert(change.key());
            }
        }
        let kept = self.with_what_waits(in_vain, &found)?;
        for (change, nodes) in found {
            let merges = !nodes.is_disjoint(&unmerged);
            if merges {
                // What a sibling derives from waits for a content, the sibling for it.
                self.waiting.extend(nodes.iter().filter(|node| !self.fetch.awaits(node)));
            }
            if !merges && !kept.contains(&change.key()) && self.is_at_hand(&change, &nodes, &mut sources)? {
                led_by.insert(change.key(), nodes);
                changes.push(change);
            } else {
                open.extend(nodes);
            }
        }
        self.let_go_of_names(&changes)?;
        let store = &self.state.store;
        let live = |base: &Base| base.state == BaseState::Live;
        let steps =
            plan(&changes, |dir, name| store.base_at(dir, name).ok().flatten().filter(live).map(|base| base.id));
        let mut authors = BTreeMap::new();
        for (key, nodes) in &led_by {
            if let Some(author) = nodes.iter().find_map(|node| self.holding.author_of(*node)) {
                authors.insert(*key, self.state.view().birth_name(author)?);
            }
        }
        let others = self.by.clone();
        let mut applier = Applier {
            state: &mut self.state,
            disk,
            sources: &sources,
            by: (authors, &others),
            select: (self.select.as_ref(), &self.marks),
            applied: Applied::default(),
            git: GitCare::default(),
            images: self.databases.images(),
        };
        applier.run(&steps, now)?;
        let applied = applier.applied;
        let left = sources.iter().filter(|(hash, _)| !applied.spent.contains(hash));
        self.unwanted.extend(left.filter_map(|(_, source)| brought(source)));
        let planned = nodes.iter().copied().collect();
        self.applied(applied, &planned, &led_by, &open, now)
    }

    /// What others moved to where it is excluded here stays where it is. If something else is to have its name, it is a
    /// file of this machine's own from then on, and the two are told apart as any.
    fn let_go_of_names(&mut self, changes: &[Change]) -> StoreResult<()> {
        let concerned: BTreeSet<NodeId> =
            changes.iter().filter_map(|change| Some(change.base.as_ref()?.0.id)).collect();
        for placed in changes.iter().filter_map(|change| change.placed.as_ref()) {
            let standing = self.state.store.base_at(placed.parent, &placed.target.name)?;
            let Some(standing) = standing.filter(|base| base.state == BaseState::Live) else { continue };
            if standing.id == placed.id
                || concerned.contains(&standing.id)
                || !is_left_behind(&self.state, self.select.as_ref(), &self.marks, &standing)?
            {
                continue;
            }
            self.queue.push_back(Spot::Entry(standing.parent, standing.name.clone()));
            self.state.forget(standing)?;
        }
        Ok(())
    }

    /// Takes in what became of a plan for the nodes that were `planned`; `open` are those that wait for a content
    /// or a person.
    fn applied(
        &mut self,
        applied: Applied,
        planned: &BTreeSet<NodeId>,
        led_by: &BTreeMap<NodeId, BTreeSet<NodeId>>,
        open: &BTreeSet<NodeId>,
        now: &mut Now,
    ) -> StoreResult<()> {
        let nodes_of = |key: &NodeId| led_by.get(key).cloned().unwrap_or_default();
        let left = led_by.iter().filter(|(key, _)| !applied.done.contains(key));
        let again: BTreeSet<NodeId> = left.flat_map(|(_, nodes)| nodes).copied().collect();
        for node in led_by.values().flatten() {
            if !again.contains(node) && !open.contains(node) {
                self.troubles.remove(node);
                self.using.is_free(*node);
                // A plan for others covers only a part of what bears on a node.
                if planned.contains(node) {
                    self.state.store.unmark(*node)?;
                }
            }
        }
        if !applied.done.is_empty() {
            // What stood in the way of others may be gone.
            self.ready.extend(std::mem::take(&mut self.waiting));
        }
        let missed: BTreeSet<NodeId> = applied.missed.iter().flat_map(&nodes_of).collect();
        for (key, problem) in applied.problems {
            let mut nodes = nodes_of(&key);
            if key == NodeId::ROOT {
                nodes.extend(&again);
            } else if nodes.is_empty() {
                nodes.extend(self.state.store.base(key)?.iter().flat_map(|base| &base.members).map(|m| m.node));
            }
            for node in nodes {
                self.state.store.mark(node)?;
                self.blocked.insert(node, now.wall_ms + BLOCKED_MS);
                self.troubles.insert(node, problem.clone());
            }
        }
        let mut in_use = BTreeSet::<NodeId>::new();
        let mut busy = applied.busy;
        for key in &applied.missed {
            // It is not as base says at any time.
            if let Some(base) = self.state.store.base(*key)?.filter(|base| self.unrest.is_restless(base)) {
                busy.push((*key, base_path(&self.state.store, &base)?));
            }
        }
        for (key, path) in busy {
            let mut nodes = nodes_of(&key);
            if nodes.is_empty() {
                nodes.extend(self.state.store.base(key)?.iter().flat_map(|base| &base.members).map(|m| m.node));
            }
            in_use.extend(&nodes);
            self.wait_for_program(nodes, path, now.wall_ms)?;
        }
        self.watch_displaced(applied.unguarded, now.wall_ms);
        let again = again.into_iter().filter(|node| !in_use.contains(node));
        for node in again.filter(|node| !self.troubles.contains_key(node)) {
            if missed.contains(&node) {
                self.blocked.insert(node, now.wall_ms + SETTLE_MS);
            } else {
                self.waiting.insert(node);
            }
        }
        for id in applied.parked {
            self.parked.insert(id, now.wall_ms + SETTLE_MS);
        }
        self.databases.are_plain(&applied.plain, now.wall_ms);
        self.let_images_go(now.wall_ms)?;
        self.displaced.extend(applied.displaced);
        for (source, hash) in applied.unfit {
            self.doubt(source, hash, now.wall_ms)?;
        }
        self.queue.extend(applied.look);
        for (path, _) in &applied.moved {
            self.forget_problems(path);
        }
        self.marks_follow(&applied.made, &applied.moved)?;
        self.remember_moved(applied.moved, now.wall_ms);
        self.watch(applied.watch);
        if self.to_watch.0.is_empty() {
            self.to_watch.1 = now.wall_ms;
        }
        self.to_watch.0.extend(applied.made);
        for (path, happened, by) in applied.changed {
            self.forget_problems(&path);
            self.effects.push_back(Effect::Did(path, happened, by));
        }
        Ok(())
    }

    /// Leaves a file alone that did not hold what it should, so that the content is taken from elsewhere, and has it
    /// looked at.
    fn doubt(&mut self, source: Source, hash: ContentHash, now_ms: u64) -> StoreResult<()> {
        if let Source::Copy(path) = &source
            && let Some(spot) = self.spot_of(path)?
        {
            self.open.entry(spot).or_insert((now_ms + SETTLE_MS, now_ms));
        }
        self.doubted.insert(source, (hash, now_ms + BLOCKED_MS));
        Ok(())
    }

    /// Tries files again that were in doubt for a while, unless a peer was asked for what they held.
    fn trust_again(&mut self, now_ms: u64) {
        let over: Vec<_> = self.doubted.extract_if(.., |_, (_, until)| *until <= now_ms).collect();
        for (source, (hash, _)) in over {
            if self.fetch.is_asked(&hash) {
                self.doubted.insert(source, (hash, now_ms + BLOCKED_MS));
            } else {
                self.ready.extend(self.fetch.give_up(&hash));
            }
        }
    }

    /// Whether the content that a change needs is here; if not, it is wanted.
    fn is_at_hand(&mut self, change: &Change, nodes: &BTreeSet<NodeId>, sources: &mut Sources) -> StoreResult<bool> {
        let Some(placed) = &change.placed else { return Ok(true) };
        if change.base.as_ref().is_some_and(|(base, _)| base.value == placed.target.value) {
            return Ok(true);
        }
        let Value::File { hash, size } = placed.target.value else { return Ok(true) };
        if size == 0 || sources.contains_key(&hash) {
            return Ok(true);
        }
        if let Some(source) = self.locate(hash)? {
            sources.insert(hash, source);
            return Ok(true);
        }
        let older = change.base.as_ref().filter(|(base, _)| delta::helps(file_size(&base.value), size));
        let older = older.map(|(_, path)| path.clone());
        for &node in nodes {
            self.fetch.want(hash, size, node, older.clone());
        }
        Ok(false)
    }

    /// Whether nothing could be done, as nothing could the last time: a program still has the file, or what is not synced has
    /// the name that a content which is not here is for. Then nothing is brought for it, and the nodes go on waiting.
    fn is_in_vain<D: Disk>(
        &mut self,
        disk: &mut D,
        (change, nodes): (&Change, &BTreeSet<NodeId>),
        failed: &BTreeMap<NodeId, Problem>,
        sources: &Sources,
        now_ms: u64,
    ) -> StoreResult<bool> {
        if self.is_still_in_use(disk, change, nodes, now_ms)? {
            return Ok(true);
        }
        let Some(placed) = &change.placed else { return Ok(false) };
        let problem = obstructed(placed.path.clone());
        if !nodes.iter().any(|node| failed.get(node) == Some(&problem)) {
            return Ok(false);
        }
        let stands = change.base.as_ref().is_some_and(|(base, _)| base.value == placed.target.value);
        let Value::File { hash, size } = placed.target.value else { return Ok(false) };
        if stands || size == 0 || sources.contains_key(&hash) || self.locate(hash)?.is_some() {
            return Ok(false);
        }
        if !is_obstructed(&self.state.store, disk, (self.select.as_ref(), &self.marks), placed) {
            return Ok(false);
        }
        for &node in nodes {
            self.state.store.mark(node)?;
            self.blocked.insert(node, now_ms + BLOCKED_MS);
            self.troubles.insert(node, problem.clone());
        }
        Ok(true)
    }

    /// The peers that can be asked for contents.
    fn peers(&self) -> Vec<Slot> {
        self.sessions.values().filter(|s| s.replica.is_some()).map(|s| s.peer).collect()
    }

    /// Asks for what is wanted and was not offered. Gives whether anything is to come, or has.
    fn ask<D: Disk>(&mut self, disk: &mut D, now: &Now) -> bool {
        let came = self.take_offered(disk);
        let asks = self.fetch.ask(&self.peers(), now.wall_ms);
        let asked = came || !asks.is_empty();
        for ask in asks {
            self.effects.push_back(match ask {
                Ask::Packs(peer, wants) => Effect::Send(peer, Message::Get { wants }),
                Ask::Edits(peer, edits) => Effect::Compare(peer, edits),
                Ask::Large { peer, hash, size, older } => Effect::Fetch { peer, hash, size, older },
            });
        }
        asked
    }
}

/// Whether an effect tells a peer what this device has, so that it must still have it after a power cut.
fn is_promise(effect: &Effect) -> bool {
    let Effect::Send(_, message) = effect else { return false };
    match message {
        Message::Hello { .. } | Message::Rows { .. } | Message::State { .. } => true,
        Message::Flush { .. } | Message::Get { .. } | Message::Missing { .. } | Message::Offer { .. } => false,
    }
}

/// The name in staging of a content that was brought there.
fn brought(source: &Source) -> Option<StageName> {
    match source {
        Source::Brought(name) => Some(name.clone()),
        Source::Copy(_) | Source::Kept(_) | Source::Bytes(_) | Source::Link(_) => None,
    }
}
