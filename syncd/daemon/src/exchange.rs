//! Moves messages and contents between the engine and the peers' QUIC streams.
//!
//! One control stream a peer carries the session's messages. Small contents go in packs on a one-way stream for each
//! request; small ones of which an older version is at hand on a two-way stream ([`edits`]); a large one on two-way streams of
//! its own, resumed where it broke off ([`large`]). What an older version already holds stays off the wire. Contents are
//! verified as they are put into staging. A peer that sends nonsense loses its connection.

mod edits;
mod large;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hearth_schemas::codec;
use hearth_schemas::ids::{ContentHash, DeviceId, Slot};
use hearth_schemas::wire::{Carrier, MAX_OFFERED, Message, OFFER_LIMIT, PACK_BYTES, PACK_LIMIT, Pack};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use serde_bytes::ByteBuf;
use syncd_core::disk::{RelPath, Source, StageName};
use syncd_core::engine::{Effect, Event};
use syncd_core::fetch::Edit;
use syncd_core::session::SessionError;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use crate::disk::RealDisk;
use crate::driver::Driver;
use crate::stream::{FrameError, pack, read_frame, read_head, write_head};

/// Streams on which contents are sent to one peer at a time.
const SENDING: usize = 4;
/// Large contents that are brought from one peer at a time.
const FETCHING: usize = 2;
/// Contents, and bytes of them, that are made durable and told to the engine together, and how long they wait for more.
const TOGETHER: (usize, usize, Duration) = (1000, 8 << 20, Duration::from_millis(200));
/// Messages that are written together at most.
const AT_ONCE: usize = 8;
/// Priority of the control stream over contents.
const CONTROL_PRIORITY: i32 = 10;
/// The application's code for a connection that is closed because of nonsense.
const NONSENSE: VarInt = VarInt::from_u32(0x4e);

/// The peers' streams.
#[derive(Clone)]
pub struct Exchange(Arc<Shared>);

struct Shared {
    driver: Driver,
    disk: RealDisk,
    content_key: [u8; 32],
    peers: Mutex<BTreeMap<Slot, Peer>>,
    bringing: Mutex<Bringing>,
}

/// Large contents that are being brought, one at a time for each: two would write into one part, and the slower of
/// them into the file that it has become.
#[derive(Default)]
struct Bringing(BTreeMap<ContentHash, Option<Wanted>>);

/// From whom a large content is to come, and with what at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    slot: Slot,
    size: u64,
    older: Option<RelPath>,
}

impl Bringing {
    /// Whether to begin; if not, what is wanted is kept in case that what is under way fails.
    fn begin(&mut self, hash: ContentHash, wanted: &Wanted) -> bool {
        let Some(again) = self.0.get_mut(&hash) else {
            self.0.insert(hash, None);
            return true;
        };
        *again = Some(wanted.clone());
        false
    }

    /// It is over; gives what to try next, if it failed and was asked for once more meanwhile.
    fn end(&mut self, hash: ContentHash, failed: bool) -> Option<Wanted> {
        let again = self.0.remove(&hash).flatten().filter(|_| failed)?;
        self.0.insert(hash, None);
        Some(again)
    }
}

struct Peer {
    connection: Connection,
    out: mpsc::UnboundedSender<Message>,
    sending: Arc<Semaphore>,
    fetching: Arc<Semaphore>,
    task: AbortHandle,
}

impl Exchange {
    /// Makes an exchange without peers.
    pub fn new(driver: Driver, disk: RealDisk, content_key: [u8; 32]) -> Self {
        Self(Arc::new(Shared { driver, disk, content_key, peers: Mutex::default(), bringing: Mutex::default() }))
    }

    /// Starts talking to a peer; `opener` tells who opens the control stream.
    pub fn peer_up(&self, slot: Slot, device: DeviceId, connection: Connection, opener: bool) {
        self.peer_down(slot);
        let (out, outbox) = mpsc::unbounded_channel();
        let sending = Arc::new(Semaphore::new(SENDING));
        let fetching = Arc::new(Semaphore::new(FETCHING));
        let talk = Talk { exchange: self.clone(), slot, connection: connection.clone() };
        let task = tokio::spawn(talk.run(outbox, opener)).abort_handle();
        self.lock().insert(slot, Peer { connection, out, sending, fetching, task });
        self.0.driver.tell(Event::PeerUp(slot, device));
    }

    /// A peer is gone.
    pub fn peer_down(&self, slot: Slot) {
        if let Some(peer) = self.lock().remove(&slot) {
            peer.task.abort();
            self.0.driver.tell(Event::PeerDown(slot));
        }
    }

    /// Carries out an effect that concerns a peer; gives back any other.
    pub fn carry_out(&self, effect: Effect) -> Option<Effect> {
        match effect {
            Effect::Send(slot, message) => {
                if let Some(peer) = self.lock().get(&slot) {
                    // A peer whose writer has ended is about to be reported gone.
                    let _ = peer.out.send(message);
                }
            }
            Effect::End(slot, error) => {
                tracing::warn!(slot = slot.0, %error, "a peer's connection is closed");
                let own = matches!(error, SessionError::IndexFailed);
                if let Some(peer) = self.lock().remove(&slot) {
                    peer.connection.close(if own { VarInt::from_u32(0) } else { NONSENSE }, b"");
                    peer.task.abort();
                }
            }
            Effect::Serve(slot, contents) => self.serve(slot, contents),
            Effect::Compare(slot, edits) => self.compare(slot, edits),
            Effect::Fetch { peer, hash, size, older } => self.fetch(hash, Wanted { slot: peer, size, older }),
            other => return Some(other),
        }
        None
    }

    fn serve(&self, slot: Slot, contents: Vec<(ContentHash, Option<Source>)>) {
        let peers = self.lock();
        let Some(peer) = peers.get(&slot) else { return };
        let (connection, sending, out) = (peer.connection.clone(), Arc::clone(&peer.sending), peer.out.clone());
        let disk = self.0.disk.clone();
        tokio::spawn(async move {
            let Ok(_permit) = sending.acquire_owned().await else { return };
            match send_packs(&connection, disk, contents).await {
                Ok(missing) if missing.is_empty() => {}
                Ok(hashes) => {
                    let _ = out.send(Message::Missing { hashes });
                }
                Err(error) => tracing::debug!(slot = slot.0, %error, "contents could not be sent"),
            }
        });
    }

    fn compare(&self, slot: Slot, wanted: Vec<Edit>) {
        let peers = self.lock();
        let Some(peer) = peers.get(&slot) else { return };
        let (connection, out) = (peer.connection.clone(), peer.out.clone());
        let shared = Arc::clone(&self.0);
        tokio::spawn(async move {
            let left = match edits::bring(&shared, &connection, slot, wanted).await {
                Ok(left) => left,
                Err((_, FrameError::Nonsense(what))) => return nonsense(&connection, what),
                Err((left, FrameError::Ended(error))) => {
                    tracing::debug!(slot = slot.0, error, "edits could not be brought");
                    left
                }
            };
            edits::ask_whole(&left, &out);
        });
    }

    fn fetch(&self, hash: ContentHash, mut wanted: Wanted) {
        if !self.bringing().begin(hash, &wanted) {
            return;
        }
        let exchange = self.clone();
        tokio::spawn(async move {
            loop {
                let result = exchange.bring_from(hash, &wanted).await;
                let failed = !matches!(result, Some(Ok(Some(_)) | Err(Failed::NoRoom)));
                let again = exchange.bringing().end(hash, failed);
                match (again, result) {
                    (Some(again), _) => wanted = again,
                    (None, Some(result)) => return exchange.0.driver.tell(brought(wanted.slot, hash, result)),
                    (None, None) => return,
                }
            }
        });
    }

    /// Brings a large content; `None` if the peer is gone.
    async fn bring_from(&self, hash: ContentHash, wanted: &Wanted) -> Option<Result<Option<StageName>, Failed>> {
        let peer = |peer: &Peer| (peer.connection.clone(), Arc::clone(&peer.fetching));
        let (connection, fetching) = self.lock().get(&wanted.slot).map(peer)?;
        let _permit = fetching.acquire_owned().await.ok()?;
        let result = large::bring(&self.0, &connection, hash, wanted.size, wanted.older.clone()).await;
        if matches!(result, Err(Failed::NoRoom)) {
            // What does not fit leaves nothing behind; what cannot be removed only takes room.
            let disk = self.0.disk.clone();
            let _ = blocking(move || disk.drop_part(hash)).await;
        }
        Some(result)
    }

    fn bringing(&self) -> std::sync::MutexGuard<'_, Bringing> {
        self.0.bringing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Slot, Peer>> {
        self.0.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One peer's streams, for as long as its connection lives.
struct Talk {
    exchange: Exchange,
    slot: Slot,
    connection: Connection,
}

impl Talk {
    async fn run(self, outbox: mpsc::UnboundedReceiver<Message>, opener: bool) {
        let error = match self.control(opener).await {
            Ok((send, recv)) => {
                let (writing, reading) = (self.write(send, outbox), self.read(recv));
                tokio::select! {
                    result = writing => result,
                    result = reading => result,
                    result = self.accept_packs() => result,
                    result = self.accept_requests() => result,
                }
            }
            Err(error) => Err(error),
        };
        if let Err(error) = error {
            match &error {
                FrameError::Nonsense(_) => {
                    tracing::warn!(slot = self.slot.0, %error, "a peer's connection is closed");
                    self.connection.close(NONSENSE, b"");
                }
                FrameError::Ended(_) => tracing::debug!(slot = self.slot.0, %error, "a peer's connection ended"),
            }
        }
        // The network edge reports the connection's end; the session must not outlive its control stream either way.
        self.connection.close(VarInt::from_u32(0), b"");
    }

    async fn control(&self, opener: bool) -> Result<(SendStream, RecvStream), FrameError> {
        let ended = |error: quinn::ConnectionError| FrameError::Ended(error.to_string());
        let (send, recv) = if opener {
            let (mut send, recv) = self.connection.open_bi().await.map_err(ended)?;
            write_head(&mut send, &Carrier::Control).await?;
            (send, recv)
        } else {
            let (send, mut recv) = self.connection.accept_bi().await.map_err(ended)?;
            if read_head(&mut recv).await? != Carrier::Control {
                return Err(FrameError::Nonsense("a stream before the control stream"));
            }
            (send, recv)
        };
        let _ = send.set_priority(CONTROL_PRIORITY);
        Ok((send, recv))
    }

    async fn write(
        &self,
        mut send: SendStream,
        mut outbox: mpsc::UnboundedReceiver<Message>,
    ) -> Result<(), FrameError> {
        let mut messages = Vec::new();
        // What the engine says at one time goes out in as few packets as it fits in.
        while outbox.recv_many(&mut messages, AT_ONCE).await > 0 {
            let frames: Vec<u8> = messages.iter().flat_map(|message| pack(&codec::encode(message))).collect();
            send.write_all(&frames).await?;
            for _ in messages.drain(..).filter(|message| matches!(message, Message::Rows { .. })) {
                self.exchange.0.driver.tell(Event::Sent(self.slot));
            }
        }
        Ok(())
    }

    async fn read(&self, mut recv: RecvStream) -> Result<(), FrameError> {
        while let Some(body) = read_frame(&mut recv).await? {
            let message = Message::decode(&body).map_err(|_| FrameError::Nonsense("a malformed message"))?;
            let room = || self.exchange.0.disk.room().unwrap_or(0);
            if matches!(message, Message::Offer { .. }) && room() < (MAX_OFFERED * OFFER_LIMIT) as u64 {
                // What is asked for in its place is told that it does not fit.
                continue;
            }
            self.exchange.0.driver.tell(Event::Said(self.slot, message));
            // The next frame is read once the engine has taken this one: a peer cannot fill the memory.
            self.exchange.0.driver.ask(|_, _| ()).await.map_err(|stopped| FrameError::Ended(stopped.to_string()))?;
        }
        Err(FrameError::Ended("the control stream was closed".into()))
    }

    async fn accept_packs(&self) -> Result<(), FrameError> {
        loop {
            let mut recv = self.connection.accept_uni().await.map_err(|error| FrameError::Ended(error.to_string()))?;
            let (shared, slot, connection) = (Arc::clone(&self.exchange.0), self.slot, self.connection.clone());
            tokio::spawn(async move {
                if let Err(FrameError::Nonsense(what)) = take_packs(&mut recv, &shared, slot).await {
                    nonsense(&connection, what);
                }
            });
        }
    }

    async fn accept_requests(&self) -> Result<(), FrameError> {
        let sending = Arc::new(Semaphore::new(SENDING));
        loop {
            let (mut send, mut recv) =
                self.connection.accept_bi().await.map_err(|error| FrameError::Ended(error.to_string()))?;
            let (shared, connection) = (Arc::clone(&self.exchange.0), self.connection.clone());
            let sending = Arc::clone(&sending);
            tokio::spawn(async move {
                let Ok(_permit) = sending.acquire_owned().await else { return };
                match answer(&shared, &mut send, &mut recv).await {
                    Ok(()) => {}
                    Err(FrameError::Nonsense(what)) => nonsense(&connection, what),
                    Err(FrameError::Ended(error)) => tracing::debug!(error, "a request could not be answered"),
                }
            });
        }
    }
}

/// Closes a connection that brought what no peer of ours sends.
fn nonsense(connection: &Connection, what: &str) {
    tracing::warn!(what, "a peer sent what cannot be; its connection is closed");
    connection.close(NONSENSE, b"");
}

async fn take_packs(recv: &mut RecvStream, shared: &Shared, slot: Slot) -> Result<(), FrameError> {
    if read_head(recv).await? != Carrier::Packs {
        return Err(FrameError::Nonsense("a one-way stream that carries no packs"));
    }
    take_contents(recv, shared, slot, None, &mut BTreeSet::new()).await
}

/// Takes in contents as they come, or what is new in them where edits were asked for, and tells the engine. Of edits,
/// those that turned out what they are called, or for which there is no room, are `done`; of the others nothing is told.
async fn take_contents(
    recv: &mut RecvStream,
    shared: &Shared,
    slot: Slot,
    edits: Option<&Arc<edits::Asked>>,
    done: &mut BTreeSet<ContentHash>,
) -> Result<(), FrameError> {
    let ended = |error: io::Error| FrameError::Ended(error.to_string());
    let mut bringing = shared.disk.bringing();
    let mut since = Instant::now();
    let mut taken = None;
    loop {
        let frame = read_frame(recv).await;
        let (more, result) = match frame {
            Ok(Some(body)) => {
                let pack: Pack =
                    codec::decode(&body, usize::MAX).map_err(|_| FrameError::Nonsense("a malformed pack"))?;
                let (disk, edits) = (shared.disk.clone(), edits.cloned());
                let added = blocking(move || {
                    for (hash, bytes) in &pack.contents {
                        match &edits {
                            None => bringing.add(*hash, bytes),
                            Some(edits) => {
                                if let Some(bytes) = edits::put_together(&disk, edits, *hash, bytes) {
                                    bringing.add(*hash, &bytes);
                                }
                            }
                        }
                    }
                    Ok(bringing)
                });
                bringing = added.await.map_err(ended)?;
                (true, Ok(()))
            }
            Ok(None) => (false, Ok(())),
            Err(error) => (false, Err(error)),
        };
        let (number, bytes) = bringing.size();
        if !more || number >= TOGETHER.0 || bytes >= TOGETHER.1 || since.elapsed() >= TOGETHER.2 {
            let ready = std::mem::replace(&mut bringing, shared.disk.bringing());
            since = Instant::now();
            // What has come is told even if the stream broke off after it.
            for (hash, result) in blocking(move || Ok(ready.finish())).await.map_err(ended)? {
                if edits.is_some() && (matches!(result, Ok(None)) || !done.insert(hash)) {
                    continue;
                }
                shared.driver.tell(brought(slot, hash, result.map_err(Failed::from)));
            }
            // A peer runs ahead of the engine by so much and no more.
            let earlier = taken.replace(tokio::spawn({
                let driver = shared.driver.clone();
                async move { driver.ask(|_, _| ()).await }
            }));
            if let Some(earlier) = earlier {
                let _ = earlier.await;
            }
        }
        if !more {
            return result;
        }
    }
}

/// What to tell the engine of a content that a peer sent.
fn brought(slot: Slot, hash: ContentHash, result: Result<Option<StageName>, Failed>) -> Event {
    match result {
        Ok(Some(name)) => Event::Arrived(hash, Source::Brought(name)),
        // It was written to over there while it was read: it is asked for again, under the hash that it has by then.
        Ok(None) => Event::Refused(slot, hash),
        Err(Failed::NoRoom) => Event::NoRoom(hash),
        Err(Failed::Broken(error)) => {
            tracing::debug!(slot = slot.0, %error, "a content could not be brought");
            Event::Refused(slot, hash)
        }
    }
}

/// Sends small contents in packs. Gives those that are not here, or not what they were.
async fn send_packs(
    connection: &Connection,
    disk: RealDisk,
    contents: Vec<(ContentHash, Option<Source>)>,
) -> Result<Vec<ContentHash>, FrameError> {
    let (packs, mut ready) = mpsc::channel::<Vec<u8>>(2);
    let reading = tokio::task::spawn_blocking(move || read_packs(&disk, contents, &packs));
    let mut send = connection.open_uni().await.map_err(|error| FrameError::Ended(error.to_string()))?;
    write_head(&mut send, &Carrier::Packs).await?;
    while let Some(frame) = ready.recv().await {
        send.write_all(&frame).await?;
    }
    let _ = send.finish();
    reading.await.map_err(|error| FrameError::Ended(error.to_string()))
}

fn read_packs(
    disk: &RealDisk,
    contents: Vec<(ContentHash, Option<Source>)>,
    packs: &mpsc::Sender<Vec<u8>>,
) -> Vec<ContentHash> {
    let mut missing = Vec::new();
    let mut pending = Pack { contents: Vec::new() };
    let mut bytes = 0;
    for (hash, source) in contents {
        match source.map(|source| read_small(disk, &source)) {
            Some(Ok(content)) => {
                bytes += content.len() + 64;
                pending.contents.push((hash, ByteBuf::from(content)));
            }
            Some(Err(_)) | None => missing.push(hash),
        }
        if bytes >= PACK_BYTES {
            bytes = 0;
            if packs.blocking_send(pack(&codec::encode(&pending))).is_err() {
                return missing;
            }
            pending.contents.clear();
        }
    }
    if !pending.contents.is_empty() {
        // The receiver being gone means that the connection is.
        let _ = packs.blocking_send(pack(&codec::encode(&pending)));
    }
    missing
}

fn read_small(disk: &RealDisk, source: &Source) -> io::Result<Vec<u8>> {
    let file = disk.open_source(source)?;
    // Room for all of it and the sign of its end: it is read in one go.
    let mut content = Vec::with_capacity(usize::try_from(file.metadata()?.len().min(PACK_LIMIT)).unwrap_or(0) + 64);
    io::Read::read_to_end(&mut io::Read::take(file, PACK_LIMIT + 1), &mut content)?;
    if content.len() as u64 > PACK_LIMIT {
        return Err(io::Error::other("the file grew beyond a pack"));
    }
    Ok(content)
}

/// Answers a request for a chunk list, for parts of a content, or for what is new in contents.
async fn answer(shared: &Shared, send: &mut SendStream, recv: &mut RecvStream) -> Result<(), FrameError> {
    let key = shared.content_key;
    match read_head(recv).await? {
        Carrier::Chunks { hash, length } => {
            let file = open(shared, hash).await;
            large::send_list(send, file, length, key).await?;
        }
        Carrier::Ranges { hash } => {
            let file = open(shared, hash).await;
            large::send_parts(send, recv, file, key).await?;
        }
        Carrier::Groups { hash, length } => {
            let file = open(shared, hash).await;
            large::send_groups(send, file, shared.disk.clone(), (hash, length)).await?;
        }
        Carrier::Edits => edits::answer(shared, send, recv).await?,
        Carrier::Control | Carrier::Packs => return Err(FrameError::Nonsense("a second control stream")),
    }
    let _ = send.finish();
    Ok(())
}

/// Opens a content that is asked for.
async fn open(shared: &Shared, hash: ContentHash) -> io::Result<File> {
    let located = shared.driver.ask(move |engine, _| engine.locate(hash)).await;
    let source = located.ok().and_then(Result::ok).flatten().ok_or(io::ErrorKind::NotFound)?;
    let disk = shared.disk.clone();
    blocking(move || disk.open_source(&source)).await
}

/// Why a large content could not be brought.
enum Failed {
    /// The disk cannot take it.
    NoRoom,
    /// Anything else.
    Broken(FrameError),
}

impl From<FrameError> for Failed {
    fn from(error: FrameError) -> Self {
        Self::Broken(error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Self::NoRoom,
            _ => Self::Broken(FrameError::Ended(format!("staging: {error}"))),
        }
    }
}

async fn blocking<R: Send + 'static>(act: impl FnOnce() -> io::Result<R> + Send + 'static) -> io::Result<R> {
    tokio::task::spawn_blocking(act).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_brought_by_one_at_a_time_and_by_the_next_if_that_fails() {
        let (mut bringing, hash) = (Bringing::default(), ContentHash([1; 32]));
        let from = |slot| Wanted { slot: Slot(slot), size: 300_000, older: None };
        assert!(bringing.begin(hash, &from(1)) && bringing.begin(ContentHash([2; 32]), &from(1)));
        assert!(!bringing.begin(hash, &from(2)) && !bringing.begin(hash, &from(3)));
        assert_eq!(bringing.end(hash, true), Some(from(3)));
        assert!(!bringing.begin(hash, &from(2)), "it is under way again");
        assert_eq!(bringing.end(hash, false), None);
        assert!(bringing.begin(hash, &from(1)), "over and done with");
    }
}
