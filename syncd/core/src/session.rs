//! One peer's conversation: what it is sent, what is taken from it, how it stands.
//!
//! Rows flow both ways by cursor over each side's own order of changes; what a side *knows* is said only when no row
//! is left behind the cursor, so that a row in flight is never taken for a deleted one. A row that is just what the
//! peer sent does not go back to it. The peer's memory of this device is checked: an index that went back, or was
//! cloned, imports what is on its disk. Moving contents is [`crate::fetch`]'s.

use std::collections::BTreeSet;

use hearth_schemas::ids::{DeviceId, NodeId, ReplicaId, RunId, Slot};
use hearth_schemas::item::{Row, UNNUMBERED};
use hearth_schemas::wire::{Cursor, Known, KnownMap, MAX_ROWS, Message};

use crate::state::{Contradiction, Merged, State};
use crate::store::{Store, StoreResult};

/// Frames that may be on their way to one peer at a time.
const WINDOW: u32 = 4;
/// Rows of its own that a peer need not be told to be behind it: so many it may be sent again.
const UNTOLD: u64 = 64;

/// How a peer said that it stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// What it knows.
    pub known: KnownMap,
    /// Sum over its live rows.
    pub digest: u64,
    /// Whether its disk embodies all that.
    pub clean: bool,
    /// Whether what it lacks will not come by itself.
    pub stuck: bool,
    /// The highest of our flushes that this answers.
    pub flushed: u64,
}

impl Standing {
    /// Whether it knows every numbered change that the other does.
    pub fn covers(&self, other: &Self) -> bool {
        other.known.iter().all(|(replica, known)| self.known.get(replica).is_some_and(|own| own.seq >= known.seq))
    }
}

/// The conversation with one peer.
#[derive(Debug)]
pub struct Session {
    /// Which peer.
    pub peer: Slot,
    /// The life that the peer said hello with.
    pub replica: Option<ReplicaId>,
    run: RunId,
    /// Whether all that it had at the beginning has been taken in.
    pub heard: bool,
    /// Whether more rows of what it is telling are on their way.
    pub is_telling: bool,
    /// Whether it has looked at all that it has, and told it: it has said once that it is in order, or cannot go on.
    pub is_through: bool,
    /// How it stands.
    pub standing: Option<Standing>,
    /// Its latest flush, to be answered.
    pub asked_flush: u64,
    sent_upto: u64,
    /// Up to where the peer was told at least that there is nothing more for it.
    told_upto: u64,
    sent_known: Option<KnownMap>,
    /// What the peer said last that it knows.
    said_known: KnownMap,
    sent_end: bool,
    /// Whether the last frame said that more is on its way: another one has to say that this was all.
    tells: bool,
    in_flight: u32,
    sent_standing: Option<Standing>,
    /// Positions of rows that are what the peer sent; it need not be told of them.
    theirs: BTreeSet<u64>,
}

/// Nodes that a frame changed, with what their rows were.
pub type Changed = Vec<(NodeId, Option<Row>)>;

/// Why a session was ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The same number for two versions.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    /// Rows before hello, a second hello.
    #[error("a message out of turn")]
    OutOfTurn,
    /// Not the peer's doing: the index here could not be written.
    #[error("the index could not be written")]
    IndexFailed,
    /// A place in itself, or a cursor that runs backwards.
    #[error("rows that cannot be")]
    Impossible,
}

impl Session {
    /// Begins a conversation with a peer, which is this device; the first message goes out at once.
    pub fn begin<S: Store>(peer: Slot, device: DeviceId, state: &State<S>) -> StoreResult<(Self, Message)> {
        let hello = Message::Hello {
            replica: state.replica,
            run: state.run,
            yours: state.known_of(device)?,
            cursor: state.store.cursor(peer)?,
        };
        let session = Self {
            peer,
            replica: None,
            run: RunId::default(),
            heard: false,
            is_telling: false,
            is_through: false,
            standing: None,
            asked_flush: 0,
            sent_upto: 0,
            told_upto: 0,
            said_known: KnownMap::default(),
            sent_known: None,
            sent_end: false,
            tells: false,
            in_flight: 0,
            sent_standing: None,
            theirs: BTreeSet::new(),
        };
        Ok((session, hello))
    }

    /// Takes the peer's hello. Gives whether this index may go on as the replica it is.
    pub fn hello<S: Store>(
        &mut self,
        state: &State<S>,
        (replica, run): (ReplicaId, RunId),
        yours: &KnownMap,
        cursor: Option<Cursor>,
    ) -> StoreResult<Result<bool, SessionError>> {
        if self.replica.is_some() || replica == state.replica {
            // A clone of this very index introduces itself: both must become someone else.
            return Ok(if self.replica.is_some() { Err(SessionError::OutOfTurn) } else { Ok(false) });
        }
        (self.replica, self.run) = (Some(replica), run);
        self.sent_upto = state.resume(cursor)?;
        self.told_upto = self.sent_upto;
        Ok(Ok(!state.went_back(yours)?))
    }

    /// Frames for the peer of at most so many rows each, as many as may be on their way.
    pub fn pump<S: Store>(&mut self, state: &State<S>, portion: usize, out: &mut Vec<Message>) -> StoreResult<()> {
        let portion = portion.min(MAX_ROWS);
        while self.replica.is_some() && self.in_flight < WINDOW {
            let mut rows = Vec::new();
            let mut skipped = false;
            let mut upto = self.sent_upto;
            let batch = state.store.rows_after(self.sent_upto, portion)?;
            let end = batch.len() < portion;
            for (seq, row) in batch {
                upto = seq;
                if row.ctx.contains_key(&UNNUMBERED) {
                    skipped = true;
                } else if !self.theirs.remove(&seq) {
                    rows.push(row);
                }
            }
            self.sent_upto = upto;
            if rows.is_empty() && !end {
                continue;
            }
            let complete = end && !skipped && state.store.count_unnumbered() == 0;
            let known = complete.then(|| state.store.known().clone());
            let is_news = known.as_ref().is_some_and(|known| !self.knows_all_of(known)) && known != self.sent_known;
            let told = self.sent_end && !self.tells && !is_news && upto - self.told_upto < UNTOLD;
            if rows.is_empty() && told {
                return Ok(());
            }
            self.sent_end |= end;
            self.told_upto = upto;
            self.tells = !end;
            if known.is_some() {
                self.sent_known.clone_from(&known);
            }
            self.in_flight += 1;
            out.push(Message::Rows { rows, upto, end, known });
            if end {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether the peer has said that it knows all that.
    fn knows_all_of(&self, known: &KnownMap) -> bool {
        let is_known = |(replica, own): (&ReplicaId, &Known)| {
            self.said_known.get(replica).is_some_and(|theirs| theirs.seq > own.seq || theirs == own)
        };
        known.iter().all(is_known)
    }

    /// Takes in how the peer says that it stands.
    pub fn stands(&mut self, standing: Standing) {
        self.is_through |= self.heard && (standing.clean || standing.stuck);
        self.standing = Some(standing);
    }

    /// A frame has left.
    pub fn drained(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Whether nothing is waiting to be sent.
    pub fn is_drained<S: Store>(&self, state: &State<S>) -> StoreResult<bool> {
        Ok(self.in_flight == 0 && self.has_sent_all(state)?)
    }

    /// Takes a frame of rows into the state. Gives the nodes that changed, with what their rows were.
    pub fn rows<S: Store>(
        &mut self,
        state: &mut State<S>,
        rows: Vec<Row>,
        upto: u64,
        end: bool,
        known: Option<KnownMap>,
    ) -> StoreResult<Result<Changed, SessionError>> {
        if self.replica.is_none() {
            return Ok(Err(SessionError::OutOfTurn));
        }
        let mut changed = Vec::new();
        for row in rows {
            if row.place.values().any(|place| place.parent == row.id) {
                return Ok(Err(SessionError::Impossible));
            }
            match state.merge(&row)? {
                Ok(Merged::Ours) => {}
                Ok(Merged::Theirs(before)) => {
                    changed.push((row.id, before));
                    self.theirs.insert(state.store.last_seq()?);
                }
                Ok(Merged::Both(before)) => changed.push((row.id, before)),
                Err(contradiction) => return Ok(Err(contradiction.into())),
            }
        }
        state.store.set_cursor(self.peer, Cursor { run: self.run, seq: upto })?;
        if let Some(theirs) = known {
            state.learn(&theirs)?;
            self.said_known = theirs;
        }
        self.heard |= end;
        self.is_telling = !end;
        Ok(Ok(changed))
    }

    /// Whether all that there is to send is on its way.
    pub fn has_sent_all<S: Store>(&self, state: &State<S>) -> StoreResult<bool> {
        Ok(self.sent_upto == state.store.last_seq()?)
    }

    /// Whether the peer takes this device for clean, and has asked for nothing that would be answered with that.
    pub fn may_wait(&self, flushed: u64) -> bool {
        self.sent_standing.as_ref().is_some_and(|told| told.clean && told.flushed == flushed)
    }

    /// What to tell the peer about how this device stands, if that has changed. That it is clean is told after all rows
    /// that make it so.
    pub fn report(&mut self, standing: &Standing, sent_all: bool) -> Option<Message> {
        let settled = sent_all || !standing.clean;
        if self.replica.is_none() || !settled || self.sent_standing.as_ref() == Some(standing) {
            return None;
        }
        self.sent_standing = Some(standing.clone());
        let Standing { known, digest, clean, stuck, flushed } = standing.clone();
        Some(Message::State { known, digest, clean, stuck, flushed })
    }

    /// The highest flush of the peer that was answered.
    pub fn answered_flush(&self) -> u64 {
        self.sent_standing.as_ref().map_or(0, |standing| standing.flushed)
    }

    /// Whether the peer and this device agree, given how this device stands.
    pub fn agrees(&self, ours: &Standing) -> bool {
        self.standing.as_ref().is_some_and(|theirs| {
            ours.clean && theirs.clean && theirs.digest == ours.digest && same_knowledge(&theirs.known, &ours.known)
        })
    }
}

/// Whether two devices know the same changes.
fn same_knowledge(a: &KnownMap, b: &KnownMap) -> bool {
    a.len() == b.len() && a.iter().all(|(replica, known)| b.get(replica).is_some_and(|other| other.seq == known.seq))
}
