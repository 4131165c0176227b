//! Moves messages and contents between the engine and the peers' QUIC streams.
//!
//! One control stream a peer carries the session's messages. Small contents go in packs on a one-way stream for each
//! request; a large one on a two-way stream of its own, resumed where it broke off, and cut so that what an older
//! version already holds stays off the wire. Contents are verified as they are put
//! into staging. A peer that sends nonsense loses its connection.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_schemas::codec;
use hearth_schemas::ids::{ContentHash, DeviceId, Slot};
use hearth_schemas::wire::{Carrier, ChunkList, MAX_CHUNKS, Message, PACK_BYTES, PACK_LIMIT, Pack, Run};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use serde_bytes::ByteBuf;
use syncd_core::chunk::{Part, assemble, cut};
use syncd_core::disk::{RelPath, Source, StageName};
use syncd_core::engine::{Effect, Event};
use syncd_core::session::SessionError;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use crate::disk::{RealDisk, Unfinished};
use crate::driver::Driver;
use crate::runs::{Came, Runs, runs_of};
use crate::stream::{FrameError, pack, read_frame, read_head, write_head};

/// Streams on which contents are sent to one peer at a time.
const SENDING: usize = 4;
/// Large contents that are brought from one peer at a time.
const FETCHING: usize = 2;
/// Contents, and bytes of them, that are made durable and told to the engine together, and how long they wait for more.
const TOGETHER: (usize, usize, Duration) = (1000, 8 << 20, Duration::from_millis(200));
/// Bytes read or written in one go.
const BLOCK: usize = 256 << 10;
/// Priority of the control stream over contents.
const CONTROL_PRIORITY: i32 = 10;
/// Length of an encoded chunk list, at most, in bytes.
const MAX_LIST: usize = 64 << 20;
/// Most parts of a content that one stream asks for.
const MAX_RANGES: usize = 1024;
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
        let result = bring(&self.0, &connection, hash, wanted.size, wanted.older.clone()).await;
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
        while let Some(message) = outbox.recv().await {
            send.write_all(&pack(&codec::encode(&message))).await?;
            if matches!(message, Message::Rows { .. }) {
                self.exchange.0.driver.tell(Event::Sent(self.slot));
            }
        }
        Ok(())
    }

    async fn read(&self, mut recv: RecvStream) -> Result<(), FrameError> {
        while let Some(body) = read_frame(&mut recv).await? {
            let message = Message::decode(&body).map_err(|_| FrameError::Nonsense("a malformed message"))?;
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
                    tracing::warn!(what, "a peer sent what cannot be; its connection is closed");
                    connection.close(NONSENSE, b"");
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
                    Err(FrameError::Nonsense(what)) => {
                        tracing::warn!(what, "a peer sent what cannot be; its connection is closed");
                        connection.close(NONSENSE, b"");
                    }
                    Err(FrameError::Ended(error)) => tracing::debug!(error, "a request could not be answered"),
                }
            });
        }
    }
}

async fn take_packs(recv: &mut RecvStream, shared: &Shared, slot: Slot) -> Result<(), FrameError> {
    if read_head(recv).await? != Carrier::Packs {
        return Err(FrameError::Nonsense("a one-way stream that carries no packs"));
    }
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
                let added = blocking(move || {
                    pack.contents.iter().for_each(|(hash, bytes)| bringing.add(*hash, bytes));
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
    let mut content = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, PACK_LIMIT + 1), &mut content)?;
    if content.len() as u64 > PACK_LIMIT {
        return Err(io::Error::other("the file grew beyond a pack"));
    }
    Ok(content)
}

/// Answers a request for a chunk list or for parts of a content.
async fn answer(shared: &Shared, send: &mut SendStream, recv: &mut RecvStream) -> Result<(), FrameError> {
    let head = read_head(recv).await?;
    let (Carrier::Chunks { hash } | Carrier::Ranges { hash, .. }) = &head else {
        return Err(FrameError::Nonsense("a second control stream"));
    };
    let hash = *hash;
    let located = shared.driver.ask(move |engine, _| engine.locate(hash)).await;
    let source = located.ok().and_then(Result::ok).flatten();
    let disk = shared.disk.clone();
    let opened = match source {
        Some(source) => tokio::task::spawn_blocking(move || disk.open_source(&source)).await,
        None => Ok(Err(io::Error::from(io::ErrorKind::NotFound))),
    };
    let file = opened.map_err(io::Error::other).and_then(|file| file);
    match head {
        Carrier::Chunks { .. } => {
            let key = shared.content_key;
            let list = tokio::task::spawn_blocking(move || {
                let file = file?;
                let len = file.metadata()?.len();
                cut(file, len, &key)
            });
            let list = list.await.map_err(io::Error::other).and_then(|list| list);
            let list = codec::encode(&list.unwrap_or(ChunkList { chunks: Vec::new() }));
            send.write_all(&list).await?;
        }
        Carrier::Ranges { ranges, .. } => match file {
            Ok(file) if ranges.len() <= MAX_RANGES => {
                send_ranges(send, file, ranges).await?;
            }
            _ => send.write_all(&[0]).await?,
        },
        Carrier::Control | Carrier::Packs => {}
    }
    let _ = send.finish();
    Ok(())
}

async fn send_ranges(send: &mut SendStream, file: File, ranges: Vec<(u64, u64)>) -> Result<(), FrameError> {
    let runs = blocking(move || {
        let runs = ranges.into_iter().map(|(offset, len)| Ok((offset, runs_of(&file, offset, len)?)));
        Ok((runs.collect::<io::Result<Vec<_>>>()?, file))
    });
    let Ok((runs, file)) = runs.await else { return Ok(send.write_all(&[0]).await?) };
    let data = runs.iter().flat_map(|(_, runs)| runs).filter(|run| matches!(run, Run::Data(_)));
    let data: u64 = data.map(|run| run.len()).fold(0, u64::saturating_add);
    send.write_all(&[&[1][..], &data.to_le_bytes()].concat()).await?;
    let (blocks, mut ready) = mpsc::channel::<Bytes>(4);
    tokio::task::spawn_blocking(move || {
        for (mut at, runs) in runs {
            for run in runs {
                let end = at + run.len();
                if blocks.blocking_send(Bytes::copy_from_slice(&run.encode())).is_err() {
                    return;
                }
                while matches!(run, Run::Data(_)) && at < end {
                    let mut block = vec![0; usize::try_from((end - at).min(BLOCK as u64)).expect("a block is small")];
                    if file.read_exact_at(&mut block, at).is_err() {
                        return;
                    }
                    at += block.len() as u64;
                    if blocks.blocking_send(block.into()).is_err() {
                        return;
                    }
                }
                at = end;
            }
        }
    });
    while let Some(block) = ready.recv().await {
        send.write_chunk(block).await?;
    }
    Ok(())
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

/// Brings a large content into staging and gives its name there, `None` if it is not what it is called.
async fn bring(
    shared: &Shared,
    connection: &Connection,
    hash: ContentHash,
    size: u64,
    older: Option<RelPath>,
) -> Result<Option<StageName>, Failed> {
    let disk = shared.disk.clone();
    let mut content = blocking(move || {
        let mut content = disk.open_part(hash)?;
        if content.in_order() > size {
            content.restart()?;
        }
        Ok(content)
    })
    .await?;
    let have = content.in_order();
    let mut missing = vec![(have, size - have)];
    if have == 0
        && let Some(older) = older
    {
        let list = fetch_list(connection, hash).await?;
        let total: u64 = list.chunks.iter().map(|(len, _)| u64::from(*len)).sum();
        if total == size {
            let (disk, key) = (shared.disk.clone(), shared.content_key);
            (content, missing) = blocking(move || {
                let missing = fill_from_older(&disk, older, &list, &key, &mut content)?;
                Ok((content, missing))
            })
            .await?;
        }
    }
    missing.retain(|(_, len)| *len > 0);
    for ranges in missing.chunks(MAX_RANGES) {
        content = fetch_ranges(connection, hash, ranges, content).await?;
    }
    Ok(blocking(move || content.finish(size)).await?)
}

async fn fetch_list(connection: &Connection, hash: ContentHash) -> Result<ChunkList, FrameError> {
    let ended = |error: String| FrameError::Ended(error);
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| ended(error.to_string()))?;
    write_head(&mut send, &Carrier::Chunks { hash }).await?;
    let _ = send.finish();
    let bytes = recv.read_to_end(MAX_LIST).await.map_err(|error| ended(error.to_string()))?;
    let list: ChunkList =
        codec::decode(&bytes, MAX_LIST).map_err(|_| FrameError::Nonsense("a malformed chunk list"))?;
    if list.chunks.len() > MAX_CHUNKS {
        return Err(FrameError::Nonsense("a chunk list too long"));
    }
    Ok(list)
}

/// Copies what the older version holds; gives what remains to be brought.
fn fill_from_older(
    disk: &RealDisk,
    older: RelPath,
    list: &ChunkList,
    key: &[u8; 32],
    content: &mut Unfinished,
) -> io::Result<Vec<(u64, u64)>> {
    let wanted_len = list.chunks.iter().map(|(len, _)| u64::from(*len)).sum();
    // It may have been moved since it was thought of, and be so each time that it is tried again.
    let Ok(older) = disk.open_source(&Source::Copy(older)) else { return Ok(vec![(0, wanted_len)]) };
    // Cut as the wanted content is: the sizes follow from its length, which may be on the other side of a step.
    let own = cut(older.try_clone()?, wanted_len, key)?;
    let mut missing = Vec::new();
    let mut block = vec![0; BLOCK];
    for part in assemble(list, &own) {
        match part {
            Part::Missing { to, len } => missing.push((to, len)),
            Part::Older { from, to, len } => {
                let mut done = 0;
                while done < len {
                    let step = usize::try_from((len - done).min(BLOCK as u64)).expect("a block is small");
                    older.read_exact_at(&mut block[..step], from + done)?;
                    content.write(&block[..step], to + done)?;
                    done += step as u64;
                }
            }
        }
    }
    Ok(missing)
}

/// Brings parts of a content.
async fn fetch_ranges(
    connection: &Connection,
    hash: ContentHash,
    ranges: &[(u64, u64)],
    content: Unfinished,
) -> Result<Unfinished, Failed> {
    let ended = |error: String| FrameError::Ended(error);
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| ended(error.to_string()))?;
    write_head(&mut send, &Carrier::Ranges { hash, ranges: ranges.to_vec() }).await?;
    let _ = send.finish();
    let mut follows = [0];
    recv.read_exact(&mut follows).await.map_err(|error| ended(error.to_string()))?;
    if follows != [1] {
        return Err(ended("the peer does not have it".into()).into());
    }
    let mut bytes = [0; 8];
    recv.read_exact(&mut bytes).await.map_err(|error| ended(error.to_string()))?;
    let mut content = blocking(move || content.expect(u64::from_le_bytes(bytes)).map(|()| content)).await?;
    let ranges = ranges.to_vec();
    let (handfuls, ready) = mpsc::channel(4);
    let writing = blocking(move || {
        let whole = write_ranges(&mut content, &ranges, ready)?;
        Ok((content, whole))
    });
    let (reading, written) = tokio::join!(gather(&mut recv, handfuls), writing);
    let (content, whole) = written?;
    reading?;
    if whole { Ok(content) } else { Err(ended("the content broke off".into()).into()) }
}

/// Passes on what comes, packet by packet, in handfuls that are worth waking the writer for.
async fn gather(recv: &mut RecvStream, handfuls: mpsc::Sender<Vec<Bytes>>) -> Result<(), FrameError> {
    let (mut handful, mut bytes) = (Vec::new(), 0);
    loop {
        let chunk = recv.read_chunk(BLOCK, true).await.map_err(|error| FrameError::Ended(error.to_string()))?;
        let ended = chunk.is_none();
        if let Some(chunk) = chunk {
            bytes += chunk.bytes.len();
            handful.push(chunk.bytes);
        }
        if bytes >= BLOCK || ended {
            bytes = 0;
            let sent = handfuls.send(std::mem::take(&mut handful)).await;
            if ended || sent.is_err() {
                // If the writer is gone, it knows why.
                return Ok(());
            }
        }
    }
}

/// Puts what comes into its places; gives whether all of it came.
fn write_ranges(
    content: &mut Unfinished,
    ranges: &[(u64, u64)],
    mut ready: mpsc::Receiver<Vec<Bytes>>,
) -> io::Result<bool> {
    let mut ranges = ranges.iter().copied();
    let mut open = ranges.next();
    let mut runs = Runs::default();
    while let Some(handful) = ready.blocking_recv() {
        for mut piece in handful {
            while !piece.is_empty() {
                let Some((at, len)) = open else { return Ok(false) };
                let (used, came) = runs.take(&piece);
                piece = piece.split_off(used);
                let step = match came {
                    Came::Nothing => continue,
                    Came::Data(step) if step as u64 <= len => {
                        content.write(&piece.split_to(step), at)?;
                        step as u64
                    }
                    Came::Zeros(step) if step <= len => {
                        content.skip(step, at)?;
                        step
                    }
                    Came::Data(_) | Came::Zeros(_) | Came::Nonsense => return Ok(false),
                };
                open = if step == len { ranges.next() } else { Some((at + step, len - step)) };
            }
        }
    }
    Ok(open.is_none())
}

async fn blocking<R: Send + 'static>(act: impl FnOnce() -> io::Result<R> + Send + 'static) -> io::Result<R> {
    tokio::task::spawn_blocking(act).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

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

    #[test]
    fn an_older_version_that_was_moved_away_saves_nothing_and_stops_nothing() {
        let folder = tempfile::tempdir().expect("a directory");
        let at = |name| folder.path().join(name);
        for name in ["home", "data", "state"] {
            std::fs::create_dir(at(name)).expect("made");
        }
        let disk = RealDisk::open(&at("home"), &at("data"), &at("state"), KEY).expect("opens");
        let bytes = [5; 300_000];
        let list = cut(&bytes[..], 300_000, &KEY).expect("cut");
        let mut content = disk.open_part(ContentHash([1; 32])).expect("staged");
        let mut missing = |path: &[u8]| fill_from_older(&disk, path.to_vec(), &list, &KEY, &mut content);

        assert_eq!(missing(b"gone/film.bin").expect("goes on without it"), [(0, 300_000)]);
        std::fs::write(at("home/film.bin"), bytes).expect("written");
        assert_eq!(missing(b"film.bin").expect("read"), []);
    }
}
