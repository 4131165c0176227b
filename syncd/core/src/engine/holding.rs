//! Holds back what looks like an accident, until a person says whether it was meant ([`crate::brake`]).
//!
//! Going out, losses are not numbered, so no peer hears of them. Coming in, they are merged and not applied. A hold never
//! changes what is joined; it only delays numbers and disks. Every machine is told of every hold by a row of the
//! account, and the person's word travels the same way. What was released is written down by the numbers of its
//! changes, so that no other machine asks again.

use std::collections::{BTreeMap, BTreeSet};

use hearth_schemas::codec;
use hearth_schemas::ids::{DeviceId, NodeId, ReplicaId};
use hearth_schemas::item::{Class, Dot, Row, SettingValue, Value};
use serde::{Deserialize, Serialize};

use super::{Effect, Engine};
use crate::brake::{Hold, Limits, Loss, Lost, Toll, Verdict, lost, lost_of};
use crate::disk::join;
use crate::git;
use crate::observe::base_path;
use crate::plan::{Change, Placed};
use crate::row;
use crate::state::{Now, is_untold};
use crate::store::{Base, BaseState, Store, StoreResult};
use crate::view::setting_row_id;

/// The rows that tell of holds have keys that begin with this.
const PREFIX: &str = "hearth:hold:";
/// The key of the row that tells which changes were released.
const MEANT: &str = "hearth:meant";
/// The type of these values.
const KIND: &str = "hearth";
/// Longest such value, in bytes.
const MAX_VALUE: usize = 1 << 20;
/// How long nothing more must have been removed until removals are judged, and told, in milliseconds.
const CALM_MS: u64 = 400;
/// How long removals wait for that at most, so that somebody who removes all the time is heard at last, in milliseconds.
const PATIENCE_MS: u64 = 30_000;
/// So many directories may wait to be looked at, because somebody always writes in a few, and removals are judged all the same.
const A_FEW: usize = 3;
/// A home that is empty, and that so many items have gone from, was not emptied by a person at work.
const EMPTIED: usize = 10;
/// Where the index keeps what is held of what came in, and up to where what came in was judged.
const HELD: &str = "held";
const JUDGED: &str = "judged";
/// So many rows may be read again at the next start.
const UNJUDGED: u64 = 1000;

/// What is held, and what may have to be.
#[derive(Default)]
pub(super) struct Holding {
    /// From where on.
    pub(super) limits: Limits,
    /// Every hold of the account, by its id.
    holds: BTreeMap<String, Hold>,
    /// The highest change of each replica that was released.
    meant: BTreeMap<ReplicaId, u64>,
    /// Losses here that have no number yet.
    outgoing: BTreeMap<NodeId, Lost>,
    /// When the first and the last removal among them was found.
    burst: Option<(u64, u64)>,
    /// Up to which position of the index it was looked whether some have come back.
    weighed: u64,
    /// Losses here that were numbered not long ago.
    numbered: Vec<Lost>,
    /// Losses that came in not long ago.
    arrived: BTreeMap<NodeId, Arrived>,
    /// Those of them that are held.
    held: BTreeMap<NodeId, Arrived>,
    /// Up to which position of the index what came in was judged.
    judged: u64,
    is_loaded: bool,
    /// Whether a change was put off until a peer has told all.
    is_deferred: bool,
}

/// A loss that came from another machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Arrived {
    lost: Lost,
    /// The changes that brought it.
    by: Vec<Dot>,
}

impl Holding {
    /// The index went back to its last commit: what it says is read again.
    pub(super) fn forget(&mut self) {
        let (limits, mut arrived) = (self.limits, std::mem::take(&mut self.arrived));
        arrived.append(&mut self.held);
        *self = Self { limits, arrived, ..Self::default() };
    }

    /// Who brought a loss that came in not long ago.
    pub(super) fn author_of(&self, node: NodeId) -> Option<ReplicaId> {
        let arrived = self.arrived.get(&node).or_else(|| self.held.get(&node))?;
        arrived.by.first().map(|dot| dot.replica)
    }

    fn own(&self, incoming: bool, device: DeviceId) -> Option<String> {
        let own = |hold: &Hold| hold.device == device && hold.incoming == incoming;
        self.holds.iter().find(|(_, hold)| own(hold)).map(|(id, _)| id.clone())
    }

    fn was_meant(&self, arrived: &Arrived) -> bool {
        arrived.by.iter().all(|dot| self.meant.get(&dot.replica).is_some_and(|upto| dot.seq <= *upto))
    }
}

impl<S: Store> Engine<S> {
    /// Sets from where on losses are held.
    pub fn set_limits(&mut self, limits: Limits) {
        self.holding.limits = limits;
    }

    /// Every hold of the account that waits for a person, by its id.
    pub fn holds(&self) -> impl Iterator<Item = (&str, &Hold)> {
        self.holding.holds.iter().filter(|(_, hold)| hold.verdict.is_none()).map(|(id, hold)| (id.as_str(), hold))
    }

    /// The devices whose holds a person has judged, and that have yet to carry it out, as far as is known here.
    pub fn judged(&self) -> impl Iterator<Item = DeviceId> {
        self.holding.holds.values().filter(|hold| hold.verdict.is_some()).map(|hold| hold.device)
    }

    /// Reads from the index, once, the holds of the account and what came in and was not judged.
    pub(super) fn load_holds(&mut self, now: &Now) -> StoreResult<()> {
        if std::mem::replace(&mut self.holding.is_loaded, true) {
            return Ok(());
        }
        for row in self.state.store.rows_of(Class::Setting)? {
            self.note_hold(&row)?;
        }
        if let Some(bytes) = self.state.store.value(HELD)? {
            self.holding.held = codec::decode(&bytes, usize::MAX).unwrap_or_default();
        }
        let judged = self.state.store.value(JUDGED)?.and_then(|bytes| bytes.try_into().ok());
        self.holding.judged = judged.map_or(0, u64::from_le_bytes);
        for (_, row) in self.state.store.rows_after(self.holding.judged, usize::MAX)? {
            let Some(base) = self.state.store.base_of(row.id)?.filter(|_| !self.holding.held.contains_key(&row.id))
            else {
                continue;
            };
            if let Some(lost) = due(&base, &row, now.wall_ms) {
                let by = row.ctx.iter().map(|(&replica, &seq)| Dot { replica, seq }).collect();
                self.holding.arrived.insert(row.id, Arrived { lost, by });
            }
        }
        Ok(())
    }

    /// Takes in a row that tells of a hold; `false` if it is another.
    pub(super) fn note_hold(&mut self, row: &Row) -> StoreResult<bool> {
        let mut is_ours = false;
        let mut ended = None;
        for content in row.content.values() {
            let Value::Setting { key, value, .. } = &content.value else { continue };
            let decoded = value.as_ref().map(|value| value.bytes.as_slice());
            if key == MEANT {
                is_ours = true;
                let meant: BTreeMap<ReplicaId, u64> =
                    decoded.and_then(|bytes| codec::decode(bytes, MAX_VALUE).ok()).unwrap_or_default();
                for (replica, upto) in meant {
                    let ours = self.holding.meant.entry(replica).or_default();
                    *ours = upto.max(*ours);
                }
            } else if let Some(id) = key.strip_prefix(PREFIX) {
                is_ours = true;
                match decoded.map(|bytes| codec::decode::<Hold>(bytes, MAX_VALUE)) {
                    // A person's word outlives a count that changed meanwhile.
                    Some(Ok(hold)) => {
                        let known = self.holding.holds.entry(id.to_owned()).or_insert_with(|| hold.clone());
                        *known = Hold { verdict: hold.verdict.or(known.verdict), ..hold };
                    }
                    Some(Err(_)) => {}
                    None => ended = Some(id),
                }
            }
        }
        // Who held it has ended it, whatever others said of it at the same time: no id is used twice.
        if let Some(id) = ended {
            self.holding.holds.remove(id);
        }
        if is_ours {
            self.effects.push_back(Effect::StatusChanged);
        }
        Ok(is_ours)
    }

    /// Says of a hold whether it was meant. Gives whether there is such a hold.
    pub(super) fn judge(&mut self, id: &str, verdict: Verdict, now: &mut Now) -> StoreResult<bool> {
        self.note_what_came(&format!("{PREFIX}{id}"))?;
        let Some(hold) = self.holding.holds.get(id).filter(|hold| hold.verdict.is_none()) else { return Ok(false) };
        let hold = Hold { verdict: Some(verdict), ..hold.clone() };
        self.publish(id, Some(hold), now)?;
        Ok(true)
    }

    /// Ends the holds of this device that a person has judged.
    pub(super) fn carry_out_verdicts(&mut self, now: &mut Now) -> StoreResult<()> {
        let device = self.state.device;
        let judged = |(id, hold): (&String, &Hold)| {
            (hold.device == device).then_some(())?;
            Some((id.clone(), hold.incoming, hold.verdict?))
        };
        let judged: Vec<_> = self.holding.holds.iter().filter_map(judged).collect();
        for (id, incoming, verdict) in judged {
            match (incoming, verdict) {
                (false, Verdict::Release) => {
                    if !self.is_heard() {
                        continue;
                    }
                    self.state.number(&BTreeSet::new(), now)?;
                    let upto = self.state.store.known().get(&self.state.replica).map_or(0, |known| known.seq);
                    self.mean([Dot { replica: self.state.replica, seq: upto }], now)?;
                    self.holding.outgoing.clear();
                    self.holding.numbered.clear();
                }
                (false, Verdict::Undo) => {
                    self.find_outgoing(now)?;
                    for node in std::mem::take(&mut self.holding.outgoing).into_keys() {
                        self.state.take_back(node)?;
                    }
                }
                (true, Verdict::Release) => {
                    let held = std::mem::take(&mut self.holding.held);
                    let by: Vec<Dot> = held.into_values().flat_map(|arrived| arrived.by).collect();
                    self.mean(by, now)?;
                    self.save_held()?;
                }
                (true, Verdict::Undo) => {
                    for node in std::mem::take(&mut self.holding.held).into_keys() {
                        if let Some(base) = self.state.store.base_of(node)? {
                            self.state.revive(node, &base, now)?;
                        }
                    }
                    self.save_held()?;
                }
            }
            self.publish(&id, None, now)?;
            self.plan_anew();
        }
        Ok(())
    }

    /// Takes note of the losses here that have no number. Gives whether there are others than before.
    fn find_outgoing(&mut self, now: &Now) -> StoreResult<bool> {
        let open: BTreeSet<NodeId> = self.state.store.unnumbered()?.into_iter().collect();
        let count = self.holding.outgoing.len();
        self.holding.outgoing.retain(|node, _| open.contains(node));
        let mut changed = self.holding.outgoing.len() != count;
        for node in open {
            if self.holding.outgoing.contains_key(&node) {
                continue;
            }
            if let Some(lost) = self.loss_of(node, now.wall_ms)? {
                if lost.loss == Loss::Removed {
                    let first = self.holding.burst.map_or(now.wall_ms, |(first, _)| first);
                    self.holding.burst = Some((first, now.wall_ms));
                }
                self.holding.outgoing.insert(node, lost);
                changed = true;
            }
        }
        Ok(changed)
    }

    /// The nodes that are not to be numbered now: their losses are held, or more may follow.
    pub(super) fn hold_outgoing(&mut self, now: &mut Now) -> StoreResult<BTreeSet<NodeId>> {
        let changed = self.find_outgoing(now)?;
        if self.holding.outgoing.is_empty() {
            self.holding.burst = None;
            return Ok(BTreeSet::new());
        }
        let own = self.holding.own(false, self.state.device);
        let last = self.state.store.last_seq()?;
        if own.is_some() && !changed && last == self.holding.weighed {
            return Ok(self.holding.outgoing.keys().copied().collect());
        }
        self.holding.weighed = last;
        let more_may_follow = self.judged_at().is_some_and(|at| now.wall_ms < at);
        let nodes: Vec<NodeId> = self.holding.outgoing.keys().copied().collect();
        for node in nodes {
            // It may have come back.
            if self.loss_of(node, now.wall_ms)?.is_none() {
                self.holding.outgoing.remove(&node);
            }
        }
        if own.is_none() && !self.goes_too_far()? {
            let window = self.holding.limits.window_ms;
            let holding = &mut self.holding;
            holding.numbered.retain(|lost| lost.at_ms + window > now.wall_ms);
            let waits = |lost: &Lost| more_may_follow && lost.loss == Loss::Removed;
            let going = holding.outgoing.extract_if(.., |_, lost| !waits(lost));
            holding.numbered.extend(going.map(|(_, lost)| lost));
            if holding.outgoing.is_empty() {
                holding.burst = None;
            }
            return Ok(holding.outgoing.keys().copied().collect());
        }
        let toll = self.holding.outgoing.values().copied().collect();
        self.hold(false, toll, now)?;
        Ok(self.holding.outgoing.keys().copied().collect())
    }

    /// When removals here are judged, and told if they are not held, in milliseconds of wall clock.
    pub(super) fn judged_at(&self) -> Option<u64> {
        let (first, last) = self.holding.burst?;
        let is_open = self.holding.own(false, self.state.device).is_none();
        // What is being removed may be seen more slowly than it goes.
        let more_is_likely = self.open.len() + self.queue.len() > A_FEW || !self.missing.is_empty();
        let calm = if more_is_likely { u64::MAX } else { last + CALM_MS };
        (is_open && self.is_heard() && !self.paused).then_some(calm.min(first + PATIENCE_MS))
    }

    fn loss_of(&self, node: NodeId, at_ms: u64) -> StoreResult<Option<Lost>> {
        let Some(row) = self.state.store.row(node)?.filter(|row| !is_untold(row)) else { return Ok(None) };
        if self.is_object(&row)? {
            return Ok(None);
        }
        Ok(self.state.before(node)?.and_then(|before| lost(&before, &row, at_ms)))
    }

    /// Whether a node is an object of a git repository: git removes those by thousands, and none goes that is needed.
    fn is_object(&self, row: &Row) -> StoreResult<bool> {
        if !row::winner(&row.place).is_some_and(|(_, place)| git::may_be_object(place.name.as_bytes())) {
            return Ok(false);
        }
        let path = git::path_of(&self.state.store, row, &mut BTreeMap::new())?;
        Ok(path.is_some_and(|path| git::place(&path).is_some_and(|place| place.part.is_named_by_content())))
    }

    fn goes_too_far(&self) -> StoreResult<bool> {
        let holding = &self.holding;
        let emptied = holding.limits != Limits::OFF && holding.outgoing.len() >= EMPTIED && {
            let entries = self.state.store.base_in(NodeId::ROOT)?;
            entries.is_empty()
        };
        let gone = holding.outgoing.values().filter(|lost| lost.loss == Loss::Removed).count() as u64;
        let all = self.state.store.count_base()? + gone;
        let lost = holding.outgoing.values().chain(&holding.numbered).copied();
        Ok(emptied || holding.limits.are_exceeded(lost, all))
    }

    /// Takes note of a row that a peer's changed.
    pub(super) fn arrived(&mut self, before: Option<&Row>, node: NodeId, now: &Now) -> StoreResult<()> {
        let Some((before, row)) = before.zip(self.state.store.row(node)?) else { return Ok(()) };
        if self.is_object(&row)? {
            return Ok(());
        }
        let Some(lost) = lost(before, &row, now.wall_ms) else { return Ok(()) };
        if self.state.store.base_of(node)?.is_none() {
            return Ok(());
        }
        let risen = row.ctx.iter().filter(|&(replica, seq)| before.ctx.get(replica) != Some(seq));
        let by = risen.map(|(&replica, &seq)| Dot { replica, seq }).collect();
        self.holding.arrived.insert(node, Arrived { lost, by });
        Ok(())
    }

    /// Decides whether losses that came in are held.
    pub(super) fn hold_incoming(&mut self, now: &mut Now) -> StoreResult<()> {
        if self.is_being_told() {
            return Ok(());
        }
        if std::mem::take(&mut self.holding.is_deferred) {
            self.plan_anew();
        }
        let last = self.state.store.last_seq()?;
        if last > self.holding.judged + UNJUDGED || !self.holding.arrived.is_empty() {
            self.holding.judged = last;
            self.state.store.set_value(JUDGED, &last.to_le_bytes())?;
        }
        if self.holding.arrived.is_empty() && self.holding.held.is_empty() {
            return Ok(());
        }
        let mut own = self.holding.own(true, self.state.device);
        if !self.holding.held.is_empty() {
            let mut held = std::mem::take(&mut self.holding.held);
            held.retain(|_, arrived| !self.holding.was_meant(arrived));
            self.holding.held = held;
            if self.holding.held.is_empty() {
                // Another machine was told that all of it was meant.
                self.save_held()?;
                if let Some(id) = own {
                    self.publish(&id, None, now)?;
                }
                self.plan_anew();
                return Ok(());
            }
            if own.is_none() {
                // An index that went back holds what this device once ended the hold of: a person is asked again.
                self.hold_held(now)?;
                own = self.holding.own(true, self.state.device);
            }
        }
        let mut arrived = std::mem::take(&mut self.holding.arrived);
        let window = self.holding.limits.window_ms;
        arrived.retain(|_, a| a.lost.at_ms + window > now.wall_ms && !self.holding.was_meant(a));
        let all = self.state.store.count_base()?;
        let too_far = || self.holding.limits.are_exceeded(arrived.values().map(|a| a.lost), all);
        if own.is_none() && !too_far() {
            self.holding.arrived = arrived;
            return Ok(());
        }
        let count = self.holding.held.len();
        for (node, arrived) in arrived {
            let (Some(base), Some(row)) = (self.state.store.base_of(node)?, self.state.store.row(node)?) else {
                continue;
            };
            // What has been applied is in history.
            if due(&base, &row, now.wall_ms).is_some() {
                self.holding.held.insert(node, arrived);
            }
        }
        if self.holding.held.len() > count {
            self.save_held()?;
            self.hold_held(now)?;
        }
        Ok(())
    }

    /// Tells how much of what came in is held.
    fn hold_held(&mut self, now: &mut Now) -> StoreResult<()> {
        let toll = self.holding.held.values().map(|arrived| arrived.lost).collect();
        self.hold(true, toll, now)
    }

    /// Of changes that are planned together, by their keys, those that are not to be applied now: what is held, and what
    /// waits with that.
    pub(super) fn held_among(&mut self, changes: &[(Change, BTreeSet<NodeId>)]) -> StoreResult<BTreeSet<NodeId>> {
        let mut held: BTreeSet<NodeId> = BTreeSet::new();
        for (change, nodes) in changes {
            if self.is_held(change, nodes) {
                held.insert(change.key());
            }
        }
        self.with_what_waits(held, changes)
    }

    /// Adds to changes that are not to be applied now, by their keys, what needs a name that one of them has, or is in a
    /// directory that does, where it could not be made or would not be seen. A content for those would be brought in vain.
    pub(super) fn with_what_waits(
        &self,
        mut held: BTreeSet<NodeId>,
        changes: &[(Change, BTreeSet<NodeId>)],
    ) -> StoreResult<BTreeSet<NodeId>> {
        let store = &self.state.store;
        let is_live = |base: &Base| base.state == BaseState::Live;
        let mut count = 0;
        while held.len() > count {
            count = held.len();
            for placed in changes.iter().filter_map(|(change, _)| change.placed.as_ref()) {
                let standing = store.base_at(placed.parent, &placed.target.name)?.filter(is_live);
                let is_taken = standing.is_some_and(|base| base.id != placed.id && held.contains(&base.id));
                if is_taken
                    || (held.contains(&placed.parent) && !store.base(placed.parent)?.is_some_and(|b| is_live(&b)))
                    || self.is_unseen_till(&held, placed)?
                {
                    held.insert(placed.id);
                }
            }
        }
        Ok(held)
    }

    /// Of changes that are planned together, by their keys, those that would come to be where they are excluded here, as a directory
    /// above is still there and waits: for the name of what is to be done `later`. Nobody would see them, and they would be made
    /// again and again. What is done later on its own account is not among them: it may be what the others wait for.
    pub(super) fn unseen_among(
        &self,
        later: &BTreeSet<NodeId>,
        changes: &[(Change, BTreeSet<NodeId>)],
    ) -> StoreResult<BTreeSet<NodeId>> {
        let mut unseen = BTreeSet::new();
        if self.marks.is_empty() || later.is_empty() {
            return Ok(unseen);
        }
        let waiting = self.with_what_waits(later.clone(), changes)?;
        let mut count = usize::MAX;
        while unseen.len() != count {
            count = unseen.len();
            for (change, placed) in changes.iter().filter_map(|(change, _)| Some((change, change.placed.as_ref()?))) {
                let has_no_place = unseen.contains(&placed.parent)
                    && self.state.store.base(placed.parent)?.is_none_or(|base| base.state != BaseState::Live);
                let is_waited_for = change.base.is_some() && later.contains(&placed.id);
                if !is_waited_for && (has_no_place || self.is_unseen_till(&waiting, placed)?) {
                    unseen.insert(placed.id);
                }
            }
        }
        Ok(unseen)
    }

    /// Whether something is for a directory that waits, or is below one that does, and is excluded here for as long as that is
    /// where it is.
    fn is_unseen_till(&self, held: &BTreeSet<NodeId>, placed: &Placed) -> StoreResult<bool> {
        let store = &self.state.store;
        let parent = store.base(placed.parent)?.filter(|base| !self.marks.is_empty() && base.state == BaseState::Live);
        let Some(parent) = parent else { return Ok(false) };
        let path = join(&base_path(store, &parent)?, &placed.target.name);
        if path == placed.path || self.select.travels(&path, placed.target.class == Class::Dir, &self.marks) {
            return Ok(false);
        }
        let mut above = Some(parent);
        while let Some(dir) = above {
            if held.contains(&dir.id) {
                return Ok(true);
            }
            above = store.base(dir.parent)?;
        }
        Ok(false)
    }

    /// Whether a change loses what a person has yet to judge, or may have to.
    fn is_held(&mut self, change: &Change, nodes: &BTreeSet<NodeId>) -> bool {
        let Some((base, _)) = &change.base else { return false };
        let loses = change.placed.as_ref().is_none_or(|placed| placed.target.value != base.value);
        if !loses {
            return false;
        }
        let deferred = self.is_being_told() && nodes.iter().any(|node| self.holding.arrived.contains_key(node));
        self.holding.is_deferred |= deferred;
        deferred || nodes.iter().any(|node| self.holding.held.contains_key(node))
    }

    /// Whether this device holds anything.
    pub(super) fn holds_anything(&self) -> bool {
        self.holding.holds.values().any(|hold| hold.device == self.state.device)
    }

    /// Whether this device holds anything that a person has yet to judge.
    pub(super) fn awaits_a_word(&self) -> bool {
        self.holding.holds.values().any(|hold| hold.device == self.state.device && hold.verdict.is_none())
    }

    /// Whether a peer is in the middle of telling what it knows.
    pub(super) fn is_being_told(&self) -> bool {
        self.sessions.values().any(|session| session.is_telling)
    }

    fn plan_anew(&mut self) {
        self.planning = true;
        self.planned_upto = None;
        self.effects.push_back(Effect::StatusChanged);
    }

    /// Begins a hold, or tells how it has grown.
    fn hold(&mut self, incoming: bool, toll: Toll, now: &mut Now) -> StoreResult<()> {
        let device = self.state.device;
        let id = match self.holding.own(incoming, device) {
            Some(id) => id,
            None => format!("{:08x}", (now.random)() >> 32),
        };
        self.note_what_came(&format!("{PREFIX}{id}"))?;
        let known = self.holding.holds.get(&id);
        if known.is_some_and(|hold| hold.toll == toll || hold.verdict.is_some()) {
            return Ok(());
        }
        let since_ms = known.map_or(now.wall_ms, |hold| hold.since_ms);
        self.publish(&id, Some(Hold { device, incoming, since_ms, toll, verdict: None }), now)
    }

    fn publish(&mut self, id: &str, hold: Option<Hold>, now: &mut Now) -> StoreResult<()> {
        match &hold {
            Some(hold) => self.holding.holds.insert(id.to_owned(), hold.clone()),
            None => self.holding.holds.remove(id),
        };
        let value = hold.map(|hold| SettingValue { kind: KIND.to_owned(), bytes: codec::encode(&hold) });
        self.effects.push_back(Effect::StatusChanged);
        self.set_setting(format!("{PREFIX}{id}"), None, value, now)
    }

    /// Takes in what another machine has said under a key, and that has been joined a moment ago: what is written next
    /// takes its place.
    fn note_what_came(&mut self, key: &str) -> StoreResult<()> {
        match self.state.store.row(setting_row_id(key, None))? {
            Some(row) => self.note_hold(&row).map(drop),
            None => Ok(()),
        }
    }

    /// Writes down that changes were meant, so that nobody asks again.
    fn mean(&mut self, by: impl IntoIterator<Item = Dot>, now: &mut Now) -> StoreResult<()> {
        self.note_what_came(MEANT)?;
        for dot in by {
            let upto = self.holding.meant.entry(dot.replica).or_default();
            *upto = dot.seq.max(*upto);
        }
        let value = SettingValue { kind: KIND.to_owned(), bytes: codec::encode(&self.holding.meant) };
        self.set_setting(MEANT.to_owned(), None, Some(value), now)
    }

    fn save_held(&mut self) -> StoreResult<()> {
        if self.holding.held.is_empty() {
            return self.state.store.remove_value(HELD);
        }
        self.state.store.set_value(HELD, &codec::encode(&self.holding.held))
    }
}

/// What an entry here is to lose by its row, if it is.
fn due(base: &Base, row: &Row, at_ms: u64) -> Option<Lost> {
    if base.state == BaseState::Live { lost_of(&base.value, row, at_ms) } else { None }
}

/// Whether a setting's key is one of these rows', which no settings database has.
pub(super) fn tells_of_holds(row: &Row) -> bool {
    let key = row::winner(&row.content).and_then(|(_, content)| match &content.value {
        Value::Setting { key, .. } => Some(key.as_str()),
        Value::Dir | Value::File { .. } | Value::Link { .. } | Value::Replica { .. } => None,
    });
    key.is_some_and(|key| key == MEANT || key.starts_with(PREFIX))
}
