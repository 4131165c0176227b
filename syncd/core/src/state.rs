//! One device's state: index, directory tree, clock and selection together, and how a local change enters it.
//!
//! [`crate::observe`] turns what is seen on disk into these writes, [`crate::session`] joins rows from peers through
//! [`State::merge`], [`crate::plan`] reads the view. A local change carries an *unnumbered* dot until
//! [`State::number`] gives it one, so that changes made offline collapse to the last. What this run numbers it numbers
//! as a replica of its own (decision 21).

use std::collections::{BTreeMap, BTreeSet};

use hearth_schemas::codec;
use hearth_schemas::ids::{DeviceId, NodeId, ReplicaId, RunId};
use hearth_schemas::item::{
    Attributes, Class, Content, Dot, Flag, MAX_HLC, Meta, Name, Place, Row, Stamp, UNNUMBERED, Value,
};
use hearth_schemas::wire::{Cursor, Known, KnownMap, MAX_MESSAGE};

use crate::conflict::derived_id;
use crate::row;
use crate::store::{Base, Dots, Member, Store, StoreResult};
use crate::tree::Tree;
use crate::view::{View, replica_row_id};

/// The clock and the chance that one call works with.
pub struct Now<'a> {
    /// Wall clock in milliseconds since 1970.
    pub wall_ms: u64,
    /// Random bits for new ids and marks.
    pub random: &'a mut dyn FnMut() -> u64,
}

impl Now<'_> {
    /// A node id that no other node has: milliseconds since 1970 in six bytes, then chance. What is made together
    /// lies together in an index.
    pub fn node_id(&mut self) -> NodeId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(self.wall_ms << 16).to_be_bytes());
        id[6..8].copy_from_slice(&(self.random)().to_le_bytes()[..2]);
        id[8..].copy_from_slice(&(self.random)().to_le_bytes());
        NodeId(id)
    }
}

/// Index, tree and clock of one device.
pub struct State<S> {
    /// The index.
    pub store: S,
    /// The directories.
    pub tree: Tree,
    /// The present life of the index: the last that it began.
    pub replica: ReplicaId,
    /// This run of the daemon.
    pub run: RunId,
    /// The runs so far with the position of the first change of each, this run last.
    runs: Vec<(RunId, u64)>,
    /// Whether the present life began in this run. If not, there may be another index in which it went on.
    began: bool,
    /// The replicas that a later life of their device followed, and the last change of each that this one knew.
    ended: BTreeMap<ReplicaId, u64>,
    /// This device.
    pub device: DeviceId,
    /// Its name, for conflict names and history.
    pub device_name: String,
    hlc: u64,
    next_unnumbered: u64,
    marked: BTreeSet<NodeId>,
    /// Whether what is seen on disk is being imported: it gets the oldest of stamps.
    pub importing: bool,
}

impl<S: Store> State<S> {
    /// Opens the index of a device. An index without a replica starts a life; `first` says whether the account
    /// begins with it.
    pub fn open(store: S, device: DeviceId, device_name: &str, first: bool, now: &mut Now) -> StoreResult<Self> {
        let mut state = Self {
            store,
            tree: Tree::default(),
            replica: UNNUMBERED,
            run: RunId((now.random)()),
            runs: Vec::new(),
            began: false,
            ended: BTreeMap::new(),
            device,
            device_name: device_name.to_owned(),
            hlc: 0,
            next_unnumbered: 1,
            marked: BTreeSet::new(),
            importing: false,
        };
        state.note_run()?;
        state.load()?;
        if state.replica == UNNUMBERED {
            state.store.begin()?;
            state.begin_life(!first, now)?;
            state.store.commit()?;
        }
        if let Some(bytes) = state.store.value("hlc")? {
            state.hlc = u64::from_le_bytes(bytes.try_into().map_err(|_| corrupt("hlc"))?);
        }
        for id in state.store.unnumbered()? {
            if let Some(row) = state.store.row(id)? {
                let highest = row.ctx.get(&UNNUMBERED).copied().unwrap_or(0);
                state.next_unnumbered = state.next_unnumbered.max(highest + 1);
            }
        }
        Ok(state)
    }

    /// Reads from the index what of it is in memory. What is in memory and was not written is forgotten.
    pub fn load(&mut self) -> StoreResult<()> {
        self.tree = Tree::load(&self.store)?;
        self.ended.clear();
        for row in self.store.rows_of(Class::Replica)? {
            self.note_life(&row);
        }
        if let Some(bytes) = self.store.value("replica")? {
            let replica = ReplicaId(u64::from_le_bytes(bytes.try_into().map_err(|_| corrupt("replica"))?));
            self.began &= replica == self.replica;
            self.replica = replica;
        }
        self.importing = self.store.value("importing")?.is_some();
        Ok(())
    }

    /// Starts a life of this index in which it is imported what is on the disk, or with which the account begins.
    pub fn begin_life(&mut self, importing: bool, now: &mut Now) -> StoreResult<()> {
        self.importing = importing;
        if importing {
            self.store.set_value("importing", b"1")?;
        }
        self.go_on_as_another(now)
    }

    /// Starts a life of this index: its first row introduces it.
    fn go_on_as_another(&mut self, now: &mut Now) -> StoreResult<()> {
        let former = self.store.known().get(&self.replica).map(|known| Dot { replica: self.replica, seq: known.seq });
        self.replica = loop {
            let id = ReplicaId((now.random)());
            if id != UNNUMBERED {
                break id;
            }
        };
        self.began = true;
        self.store.set_value("replica", &self.replica.0.to_le_bytes())?;
        let (replica, device, name) = (self.replica, self.device, self.device_name.clone());
        let value = Value::Replica { replica, device, name, former };
        let mut row = Row::empty(replica_row_id(self.replica), Class::Replica);
        let (dot, stamp) = (self.dot(), self.stamp(now));
        let content = self.content(value, None, Attributes::default(), stamp, now);
        row::write(&mut row.content, &mut row.ctx, &[], dot, content);
        self.put(&row)
    }

    /// Remembers where in the order of changes this run begins.
    fn note_run(&mut self) -> StoreResult<()> {
        if let Some(bytes) = self.store.value("runs")? {
            self.runs = codec::decode(&bytes, MAX_RUNS_BYTES).map_err(|_| corrupt("runs"))?;
        }
        self.runs.push((self.run, self.store.last_seq()? + 1));
        let forgotten = self.runs.len().saturating_sub(RUNS);
        self.runs.drain(..forgotten);
        // Where this cannot be written, later runs do not find this one, and tell everything again.
        let _ = self.store.set_value("runs", &codec::encode(&self.runs));
        Ok(())
    }

    /// The position up to which a peer has the rows of this index.
    pub fn resume(&self, cursor: Option<Cursor>) -> StoreResult<u64> {
        let Some(cursor) = cursor else { return Ok(0) };
        let Some(at) = self.runs.iter().position(|(run, _)| *run == cursor.run) else { return Ok(0) };
        let last = match self.runs.get(at + 1) {
            Some((_, first)) => first - 1,
            None => self.store.last_seq()?,
        };
        // What that run told beyond this was in an index that went back since.
        Ok(cursor.seq.min(last))
    }

    /// Takes note of a life that ended.
    fn note_life(&mut self, row: &Row) {
        for content in row.content.values() {
            if let Value::Replica { former: Some(former), .. } = content.value {
                let end = self.ended.entry(former.replica).or_default();
                *end = former.seq.max(*end);
            }
        }
    }

    /// Whether a replica is a life of a device. `None` if its row is not known.
    pub fn lives_on(&self, replica: ReplicaId, device: DeviceId) -> StoreResult<Option<bool>> {
        let row = self.store.row(replica_row_id(replica))?;
        Ok(row.and_then(|row| match row::winner(&row.content)?.1.value {
            Value::Replica { device: found, .. } => Some(found == device),
            Value::Dir | Value::File { .. } | Value::Link { .. } | Value::Setting { .. } => None,
        }))
    }

    /// What is known of the lives of a device.
    pub fn known_of(&self, device: DeviceId) -> StoreResult<KnownMap> {
        let mut known = KnownMap::new();
        for (&replica, &upto) in self.store.known() {
            if self.lives_on(replica, device)? == Some(true) {
                known.insert(replica, upto);
            }
        }
        Ok(known)
    }

    /// Whether a device that knows this of the lives of this one has met an index of it that was further than this
    /// one, or that is a clone of it.
    pub fn went_back(&self, theirs: &KnownMap) -> StoreResult<bool> {
        for (&replica, theirs) in theirs {
            let ours = self.store.known().get(&replica).copied().unwrap_or_default();
            let ahead = theirs.seq > ours.seq || (theirs.seq == ours.seq && theirs.nonce != ours.nonce);
            let unknown = || Ok(self.lives_on(replica, self.device)?.is_none());
            if (replica == self.replica && ahead) || (!self.began && unknown()?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes in how far a peer knows each replica, when everything that it knows has been joined.
    pub fn learn(&mut self, theirs: &KnownMap) -> StoreResult<()> {
        let mut known = self.store.known().clone();
        for (&replica, &theirs) in theirs {
            let ours = known.entry(replica).or_default();
            if theirs.seq > ours.seq && !(self.began && replica == self.replica) {
                *ours = theirs;
            }
        }
        self.set_known(known)
    }

    /// Keeps of what is known the lives that are not known to their end.
    fn set_known(&mut self, mut known: KnownMap) -> StoreResult<()> {
        known.retain(|replica, known| known.seq > self.ended.get(replica).copied().unwrap_or(0));
        self.store.set_known(known)
    }

    /// Ends the import: from here on what is seen on disk is a person's act.
    pub fn imported(&mut self) -> StoreResult<()> {
        self.importing = false;
        self.store.remove_value("importing")
    }

    /// The view of everything known. Call [`Tree::refresh`] through [`State::refresh`] first.
    pub fn view(&self) -> View<'_, S> {
        View { store: &self.store, shape: self.tree.shape() }
    }

    /// Brings the tree up to date and marks every node that the change touches. Gives whether there was one.
    pub fn refresh(&mut self) -> StoreResult<bool> {
        let touched = self.tree.refresh(&self.store)?;
        touched.iter().try_for_each(|node| self.mark(*node))?;
        Ok(!touched.is_empty())
    }

    /// Writes a row to index and tree and marks what may have to follow on disk.
    pub fn put(&mut self, row: &Row) -> StoreResult<()> {
        if let Some(old) = self.store.row(row.id)? {
            if is_entry(row) && row.ctx.contains_key(&UNNUMBERED) && !old.ctx.contains_key(&UNNUMBERED) {
                self.store.set_value(&before_key(row.id), &codec::encode(&old))?;
            }
            self.mark_derived(&old)?;
            self.leave(&old, row)?;
        }
        self.mark_derived(row)?;
        self.mark(row.id)?;
        self.store.put_row(row)?;
        self.tree.note(row);
        if row.class == Class::Replica {
            self.note_life(row);
        }
        Ok(())
    }

    /// Marks what competes for the names that a node leaves: who comes first there may get the name.
    fn leave(&mut self, old: &Row, row: &Row) -> StoreResult<()> {
        let now = row::winner(&row.place).map(|(_, place)| (place.parent, &place.name));
        for place in old.place.values() {
            if now == Some((place.parent, &place.name)) {
                continue;
            }
            self.tree.note_left(place.parent);
            let (mut names, mut parents) = (vec![place.name.clone()], vec![place.parent]);
            if let Some(leader) = self.tree.shape().leader(place.parent) {
                names.extend(self.view().family(leader, &place.name)?);
                parents = self.tree.shape().members(leader).to_vec();
            }
            for (name, &parent) in names.iter().flat_map(|name| parents.iter().map(move |parent| (name, parent))) {
                for node in self.store.placed_at(parent, name)? {
                    self.mark(node)?;
                }
            }
        }
        Ok(())
    }

    /// Marks a node: the disk may have to follow it.
    pub fn mark(&mut self, node: NodeId) -> StoreResult<()> {
        self.marked.insert(node);
        self.store.mark(node)
    }

    /// Marks the nodes that an entry is shown for; of one that all have left, the one that it has its key from.
    pub fn mark_members(&mut self, base: &Base) -> StoreResult<()> {
        if base.members.is_empty() {
            return self.mark(base.id);
        }
        base.members.iter().try_for_each(|member| self.mark(member.node))
    }

    /// Takes an entry, and all that base has below it, out of base. What the view shows of it is made again.
    pub fn forget(&mut self, base: Base) -> StoreResult<()> {
        let mut queue = vec![base];
        while let Some(base) = queue.pop() {
            queue.extend(self.store.base_in(base.id)?);
            self.store.remove_base(base.id)?;
            self.mark_members(&base)?;
        }
        Ok(())
    }

    /// Marks all that the account has below these directories, by its place or because it is shown there.
    pub fn mark_below(&mut self, dirs: Vec<NodeId>) -> StoreResult<()> {
        let mut seen: BTreeSet<NodeId> = dirs.iter().copied().collect();
        let mut dirs = dirs;
        while let Some(dir) = dirs.pop() {
            let mut nodes = self.store.placed_in(dir)?;
            let shape = self.tree.shape();
            // Of directories that were moved into each other, one is not shown where its place is.
            for (_, child) in shape.leader(dir).into_iter().flat_map(|leader| shape.children(leader)) {
                nodes.extend(shape.members(child));
            }
            for node in nodes {
                let Some(row) = self.store.row(node)? else { continue };
                self.mark_with_siblings(&row)?;
                if row.class == Class::Dir && seen.insert(node) {
                    dirs.push(node);
                }
            }
        }
        Ok(())
    }

    /// What was marked since this was asked last.
    pub fn take_marked(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.marked)
    }

    /// Marks a node and what derives from it.
    pub fn mark_with_siblings(&mut self, row: &Row) -> StoreResult<()> {
        self.mark(row.id)?;
        self.mark_derived(row)
    }

    fn mark_derived(&mut self, row: &Row) -> StoreResult<()> {
        if row.content.len() > 1 {
            for &dot in row.content.keys() {
                self.mark(derived_id(row.id, dot))?;
            }
        }
        Ok(())
    }

    /// Joins a peer's row into the state. The row has passed [`Row::check`].
    pub fn merge(&mut self, theirs: &Row) -> StoreResult<Result<Merged, Contradiction>> {
        let ours = self.store.row(theirs.id)?;
        let joined = match &ours {
            Some(ours) => {
                if row::contradicts(ours, theirs) {
                    return Ok(Err(Contradiction));
                }
                let joined = row::join(ours, theirs);
                if joined == *ours {
                    return Ok(Ok(Merged::Ours));
                }
                joined
            }
            None => theirs.clone(),
        };
        let merged = if joined == *theirs { Merged::Theirs(ours) } else { Merged::Both(ours) };
        if is_entry(&joined) && joined.ctx.contains_key(&UNNUMBERED) {
            let before = match self.before(theirs.id)? {
                Some(before) => row::join(&before, theirs),
                None => theirs.clone(),
            };
            self.store.set_value(&before_key(theirs.id), &codec::encode(&before))?;
        }
        let stamps = joined.place.values().map(|v| v.stamp.hlc).chain(joined.content.values().map(|v| v.stamp.hlc));
        if let Some(latest) = stamps.chain(joined.meta.values().map(|v| v.stamp.hlc)).max() {
            self.hlc = self.hlc.max(latest);
        }
        self.put(&joined)?;
        Ok(Ok(merged))
    }

    /// A dot for a local change, to be numbered later.
    pub fn dot(&mut self) -> Dot {
        let dot = Dot { replica: UNNUMBERED, seq: self.next_unnumbered };
        self.next_unnumbered += 1;
        dot
    }

    /// A stamp above every stamp seen; the lowest while importing.
    pub fn stamp(&mut self, now: &Now) -> Stamp {
        if self.importing {
            return Stamp { hlc: 0, replica: self.replica };
        }
        self.hlc = (self.hlc + 1).max(now.wall_ms << 16).min(MAX_HLC);
        Stamp { hlc: self.hlc, replica: self.replica }
    }

    /// A version of content made here.
    pub fn content(&self, value: Value, base: Option<&Value>, born: Attributes, stamp: Stamp, now: &Now) -> Content {
        let base = base.and_then(|value| match value {
            Value::File { hash, .. } => Some(*hash),
            Value::Dir | Value::Link { .. } | Value::Setting { .. } | Value::Replica { .. } => None,
        });
        // A version of its own shares its inode with nothing.
        let born = Attributes { group: None, ..born };
        Content { value, base, depth: 0, born, stamp, wall_ms: now.wall_ms, flag: Flag::Live }
    }

    /// What a node was before the changes here that have no number yet. `None` where there are none, or nobody else has
    /// ever heard of it.
    pub fn before(&self, node: NodeId) -> StoreResult<Option<Row>> {
        let bytes = self.store.value(&before_key(node))?;
        bytes.map(|bytes| codec::decode(&bytes, MAX_MESSAGE).map_err(|_| corrupt("a row's earlier state"))).transpose()
    }

    /// Takes the changes of a node that have no number yet back: it is again what others know. The disk has to follow.
    pub fn take_back(&mut self, node: NodeId) -> StoreResult<()> {
        if let Some(before) = self.before(node)? {
            self.store.remove_value(&before_key(node))?;
            self.put(&before)?;
        }
        Ok(())
    }

    /// Brings a node that is deleted back to life as it was last, or gives it the content back that an entry here has.
    pub fn revive(&mut self, node: NodeId, base: &Base, now: &Now) -> StoreResult<()> {
        let Some(mut row) = self.store.row(node)? else { return Ok(()) };
        let stamp = self.stamp(now);
        if let Some((_, place)) = row::winner(&row.place).filter(|_| row::flagged(&row.place)) {
            let place = Place { stamp, flag: Flag::Live, ..place.clone() };
            let (seen, dot) = (row.place.keys().copied().collect::<Vec<_>>(), self.dot());
            row::write(&mut row.place, &mut row.ctx, &seen, dot, place);
        }
        let was = row::winner(&row.content).map(|(_, content)| content.value.clone());
        let content = self.content(base.value.clone(), was.as_ref(), base.attributes.clone(), stamp, now);
        let seen: Vec<Dot> = row.content.keys().copied().collect();
        self.write_content(&mut row, &seen, content);
        self.put(&row)
    }

    /// Gives every unnumbered change its number, but those of the nodes that are `held`.
    pub fn number(&mut self, held: &BTreeSet<NodeId>, now: &mut Now) -> StoreResult<()> {
        if self.store.count_unnumbered() == 0 || self.store.unnumbered()?.iter().all(|id| held.contains(id)) {
            return Ok(());
        }
        if !self.began {
            self.go_on_as_another(now)?;
        }
        let mut open = self.store.unnumbered()?;
        open.retain(|id| !held.contains(id));
        let introduction = replica_row_id(self.replica);
        open.sort_by_key(|id| *id != introduction);
        let mut known = self.store.known().clone();
        // A clone of this index may have followed this life, which is then not told of any more.
        let ended = self.ended.get(&self.replica).copied().unwrap_or(0);
        let mut seq = known.get(&self.replica).map_or(0, |known| known.seq).max(ended);
        for id in open {
            let Some(mut row) = self.store.row(id)? else { continue };
            let mut number = BTreeMap::new();
            let dots: BTreeSet<Dot> =
                row.place.keys().chain(row.content.keys()).chain(row.meta.keys()).copied().collect();
            for dot in dots.into_iter().filter(|dot| dot.replica == UNNUMBERED) {
                seq += 1;
                number.insert(dot, Dot { replica: self.replica, seq });
            }
            if number.is_empty() {
                // A deletion, or the withdrawal of a losing version, leaves no version but must be numbered.
                seq += 1;
                number.insert(Dot { replica: UNNUMBERED, seq: 0 }, Dot { replica: self.replica, seq });
            }
            let derived: Vec<(NodeId, NodeId)> = number
                .iter()
                .map(|(old, new)| (derived_id(id, *old), derived_id(id, *new)))
                .filter(|_| row.content.len() > 1)
                .collect();
            let is_new = is_untold(&row);
            row::renumber(&mut row, &number);
            self.renumber_base(id, &number, &derived)?;
            if !is_new {
                self.store.remove_value(&before_key(id))?;
            }
            self.store.put_row(&row)?;
            self.tree.note(&row);
            if row.content.len() > 1 || row.place.len() > 1 {
                // Of versions with one stamp, the number decides which is shown.
                self.mark_with_siblings(&row)?;
            }
        }
        known.insert(self.replica, Known { seq, nonce: (now.random)() });
        self.set_known(known)?;
        self.store.set_value("hlc", &self.hlc.to_le_bytes())?;
        if held.is_empty() {
            self.next_unnumbered = 1;
        }
        Ok(())
    }

    /// Follows a numbering in the base entries of a node and of its derived siblings.
    fn renumber_base(
        &mut self,
        node: NodeId,
        number: &BTreeMap<Dot, Dot>,
        derived: &[(NodeId, NodeId)],
    ) -> StoreResult<()> {
        let mut nodes = vec![(node, node)];
        nodes.extend_from_slice(derived);
        for (old, new) in nodes {
            let Some(mut base) = self.store.base_of(old)? else { continue };
            for member in base.members.iter_mut().filter(|member| member.node == old) {
                member.node = new;
                renumber_dots(&mut member.dots, number);
            }
            self.store.put_base(&base)?;
            if old != new {
                self.mark(new)?;
            }
        }
        Ok(())
    }

    /// Remembers the clock, so that stamps go on rising after a restart.
    pub fn save_clock(&mut self) -> StoreResult<()> {
        self.store.set_value("hlc", &self.hlc.to_le_bytes())
    }

    /// Writes the place of a node.
    pub fn write_place(&mut self, row: &mut Row, seen: &[Dot], parent: NodeId, name: &Name, stamp: Stamp) -> Dot {
        let was = row::winner(&row.place).map_or(parent, |(_, place)| place.parent);
        let dot = self.dot();
        let place = Place { parent, name: name.clone(), was, stamp, flag: Flag::Live };
        row::write(&mut row.place, &mut row.ctx, seen, dot, place);
        dot
    }

    /// Writes the content of a node.
    pub fn write_content(&mut self, row: &mut Row, seen: &[Dot], content: Content) -> Dot {
        let dot = self.dot();
        row::write(&mut row.content, &mut row.ctx, seen, dot, content);
        dot
    }

    /// Writes the attributes of a node.
    pub fn write_meta(&mut self, row: &mut Row, seen: &[Dot], attributes: &Attributes, stamp: Stamp) -> Dot {
        let dot = self.dot();
        let mut attributes = attributes.clone();
        if row::winner(&row.content).is_some_and(|(_, content)| matches!(content.value, Value::Link { .. })) {
            // A symlink has no mode of its own: a file that takes its place gets back what it had.
            let before = row::winner(&row.meta).map(|(_, meta)| &meta.attributes);
            attributes.mode = before.map_or(FILE_MODE, |before| before.mode);
            attributes.xattrs = before.map(|before| before.xattrs.clone()).unwrap_or_default();
        }
        let meta = Meta { attributes, stamp };
        row::write(&mut row.meta, &mut row.ctx, seen, dot, meta);
        dot
    }

    /// Says of a node, after all that was said of it before, that it has these attributes.
    pub fn say_attributes(&mut self, node: NodeId, attributes: &Attributes, now: &Now) -> StoreResult<()> {
        let Some(mut row) = self.store.row(node)? else { return Ok(()) };
        let seen: Vec<Dot> = row.meta.keys().copied().collect();
        let stamp = self.stamp(now);
        self.write_meta(&mut row, &seen, attributes, stamp);
        self.put(&row)
    }

    /// Deletes what a base member embodies. Gives the dots that remain embodied: none.
    pub fn delete_member(&mut self, member: &Member, flag: Flag) -> StoreResult<()> {
        let dot = self.dot();
        match member.origin {
            Some(origin) => self.withdraw(origin, &member.dots.content),
            None => {
                let Some(mut row) = self.store.row(member.node)? else { return Ok(()) };
                row::delete(&mut row, &member.dots.place, &member.dots.content, dot, flag);
                self.put(&row)
            }
        }
    }

    /// Takes losing versions out of a node: a person has dealt with them.
    pub fn withdraw(&mut self, origin: NodeId, losers: &[Dot]) -> StoreResult<()> {
        let dot = self.dot();
        let Some(mut row) = self.store.row(origin)? else { return Ok(()) };
        for loser in losers {
            row.content.remove(loser);
        }
        row::note(&mut row.ctx, dot);
        self.put(&row)
    }
}

/// Runs whose beginning is remembered. A device that was away for longer is told everything again.
const RUNS: usize = 1000;
/// Longest encoding of them, in bytes.
const MAX_RUNS_BYTES: usize = 32 * RUNS;
/// Permission bits of a file that began as a symlink.
const FILE_MODE: u16 = 0o644;

/// Two different versions under one number: a peer whose state cannot be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("two different versions under one number")]
pub struct Contradiction;

/// What a row is after a peer's was joined into it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Merged {
    /// What it was: the peer's says nothing new.
    Ours,
    /// What the peer's is; with what it was here.
    Theirs(Option<Row>),
    /// More than either; with what it was here.
    Both(Option<Row>),
}

fn renumber_dots(dots: &mut Dots, number: &BTreeMap<Dot, Dot>) {
    for list in [&mut dots.place, &mut dots.content, &mut dots.meta] {
        for dot in list {
            if let Some(new) = number.get(dot) {
                *dot = *new;
            }
        }
    }
}

/// Whether nobody else has ever heard of a node.
pub fn is_untold(row: &Row) -> bool {
    row.ctx.keys().all(|replica| *replica == UNNUMBERED)
}

/// Whether a disk shows it.
fn is_entry(row: &Row) -> bool {
    matches!(row.class, Class::Dir | Class::Leaf)
}

fn before_key(node: NodeId) -> String {
    format!("before/{node}")
}

fn corrupt(what: &str) -> crate::store::StoreError {
    crate::store::StoreError::Failed(format!("the value of {what} is damaged"))
}
