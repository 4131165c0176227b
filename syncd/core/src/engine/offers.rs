//! Small contents that go along with the rows that tell of them, so that nobody has to ask.
//!
//! A save costs half a round trip then, and a few hundred bytes less. Offered is only what was written here a moment ago,
//! in a few files: who has more to catch up with asks for what is missing. What was offered waits for a moment to be
//! wanted, and is as good as its hash.

use std::collections::VecDeque;

use hearth_schemas::ids::ContentHash;
use hearth_schemas::item::{Row, Value};
use hearth_schemas::wire::{MAX_OFFERED, Message, OFFER_LIMIT};
use serde_bytes::ByteBuf;

use super::Engine;
use crate::disk::{Disk, Source};
use crate::store::{Store, StoreResult};

/// How long after it was written a content is offered, in milliseconds.
const FRESH_MS: u64 = 10_000;
/// Contents that were offered and wait to be wanted; of more, those that came first are forgotten.
const WAITING: usize = 64;

/// What peers have offered.
#[derive(Default)]
pub(super) struct Offers(VecDeque<(ContentHash, ByteBuf)>);

impl Offers {
    /// Takes in what a peer offers.
    pub(super) fn add(&mut self, contents: Vec<(ContentHash, ByteBuf)>) {
        self.0.extend(contents);
        let surplus = self.0.len().saturating_sub(WAITING);
        self.0.drain(..surplus);
    }

    fn take(&mut self, wanted: impl Fn(&ContentHash) -> bool) -> VecDeque<(ContentHash, ByteBuf)> {
        let (taken, left) = std::mem::take(&mut self.0).into_iter().partition(|(hash, _)| wanted(hash));
        self.0 = left;
        taken
    }
}

impl<S: Store> Engine<S> {
    /// What is to go ahead of these rows.
    pub(super) fn offer<D: Disk>(&self, disk: &mut D, rows: &[Row], now_ms: u64) -> StoreResult<Option<Message>> {
        let mut contents = Vec::new();
        if rows.len() > self.portions.offers.min(MAX_OFFERED) {
            return Ok(None);
        }
        for content in rows.iter().flat_map(|row| row.content.values()) {
            let Value::File { hash, size } = content.value else { continue };
            // A joining machine brings along what others may have.
            let own = content.stamp.replica == self.state.replica && content.stamp.hlc > 0;
            if !own || size > OFFER_LIMIT as u64 || content.wall_ms.saturating_add(FRESH_MS) < now_ms {
                continue;
            }
            let Some(source) = self.locate(hash)? else { continue };
            // It may have been written to since, or be gone: then it is told of anew soon.
            let bytes = disk.read(&source, OFFER_LIMIT as u64).ok().filter(|bytes| disk.hash_of(bytes) == hash);
            contents.extend(bytes.map(|bytes| (hash, ByteBuf::from(bytes))));
        }
        contents.truncate(MAX_OFFERED);
        Ok((!contents.is_empty()).then_some(Message::Offer { contents }))
    }

    /// Has what is wanted and was offered come. Gives whether there was any.
    pub(super) fn take_offered<D: Disk>(&mut self, disk: &mut D) -> bool {
        let fetch = &self.fetch;
        let mut any = false;
        for (hash, bytes) in self.offers.take(|hash| fetch.wants(hash) && !fetch.is_asked(hash)) {
            if disk.hash_of(&bytes) == hash {
                self.ready.extend(self.fetch.arrived(hash, Source::Bytes(bytes.into_vec())));
                any = true;
            }
        }
        any
    }
}
