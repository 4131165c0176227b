//! One connection's frames: a 4-byte little-endian length, then the frame, both ways on one stream.
//!
//! Reads requests and gives them to the driver, one at a time: the next is read when the answer to the last is on its way,
//! so that who takes no answers cannot have many waiting. Writes what the driver puts into the [`Outbox`]. What a frame means is not looked at. A device that sends nonsense, takes too
//! slowly or has too much waiting loses its connection, and nobody else notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hearth_schemas::codec;
use hearth_schemas::relay::{ClientFrame, CloseCode, EXPORTER_LABEL, MAX_FRAME, ServerFrame, decode_client};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::timeout;

use crate::admission::Origin;
use crate::driver::Message;
use crate::relay::{ConnectionId, Input};

/// How long a caller may take to open its stream.
const OPENING: Duration = Duration::from_secs(30);
/// How long the body of a frame may take.
const READING: Duration = Duration::from_secs(30);
/// How long a device may not take a byte that waits for it.
const STALL: Duration = Duration::from_secs(2);
/// How long the last frames before a close may take to arrive.
const DRAIN: Duration = Duration::from_secs(1);
/// Most bytes that wait for one device.
const MOST_WAITING: usize = 1 << 20;
/// How much of a frame's body is taken at a time.
const STEP: usize = 64 << 10;

/// Frames on their way to one connection. Never blocks.
pub(crate) struct Outbox {
    frames: mpsc::UnboundedSender<Out>,
    waiting: Arc<AtomicUsize>,
    connection: Connection,
}

enum Out {
    Frame { bytes: Vec<u8>, is_reply: bool },
    Close(CloseCode),
}

/// Memory for the bodies of frames that are being read, of all connections together.
pub(crate) struct FrameBudget(Semaphore);

impl FrameBudget {
    /// In steps: 64 MiB.
    const STEPS: usize = 1024;

    pub(crate) fn new() -> Self {
        Self(Semaphore::new(Self::STEPS))
    }
}

impl Outbox {
    /// Queues a frame. Ends the connection if too much waits.
    pub(crate) fn send(&self, frame: &ServerFrame) {
        let body = codec::encode(frame);
        let length = u32::try_from(body.len()).expect("replies are built within the frame limit");
        let bytes = [length.to_le_bytes().as_slice(), &body].concat();
        if self.waiting.fetch_add(bytes.len(), Ordering::Relaxed) > MOST_WAITING {
            close(&self.connection, CloseCode::Limit);
            return;
        }
        let is_reply = matches!(frame, ServerFrame::Reply { .. });
        let _gone_already = self.frames.send(Out::Frame { bytes, is_reply });
    }

    /// Ends the connection after what was queued before.
    pub(crate) fn close(&self, code: CloseCode) {
        if self.frames.send(Out::Close(code)).is_err() {
            close(&self.connection, code);
        }
    }
}

/// Serves a connection until it ends.
pub(crate) async fn serve(
    conn: ConnectionId,
    connection: Connection,
    origin: Origin,
    inbox: mpsc::Sender<Message>,
    budget: Arc<FrameBudget>,
) {
    let mut exporter = [0; 32];
    if connection.export_keying_material(&mut exporter, EXPORTER_LABEL, &[]).is_err() {
        return;
    }
    let Ok(Ok((send, recv))) = timeout(OPENING, connection.accept_bi()).await else {
        close(&connection, CloseCode::Idle);
        return;
    };
    let (frames, queue) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let turn = Semaphore::new(1);
    let outbox = Outbox { frames, waiting: waiting.clone(), connection: connection.clone() };
    if inbox.send(Message::Opened { conn, exporter, origin, outbox }).await.is_err() {
        return;
    }
    tokio::select! {
        code = read(conn, recv, &inbox, &turn, &budget) => if let Some(code) = code { close(&connection, code) },
        code = write(send, queue, &waiting, &turn) => close(&connection, code),
        _ = connection.closed() => {}
    }
}

/// Reads requests until the device ends its side or sends what is no request; then says why to close, if at all.
async fn read(
    conn: ConnectionId,
    mut recv: RecvStream,
    inbox: &mpsc::Sender<Message>,
    turn: &Semaphore,
    budget: &FrameBudget,
) -> Option<CloseCode> {
    loop {
        turn.acquire().await.ok()?.forget();
        let frame = match read_frame(&mut recv, budget).await {
            Ok(frame) => frame,
            Err(code) => return code,
        };
        inbox.send(Message::Input(Input::Request { conn, frame })).await.ok()?;
    }
}

async fn read_frame(recv: &mut RecvStream, budget: &FrameBudget) -> Result<ClientFrame, Option<CloseCode>> {
    let mut length = [0; 4];
    recv.read_exact(&mut length).await.map_err(|_| None)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(Some(CloseCode::Malformed));
    }
    match timeout(READING, read_body(recv, length, budget)).await {
        Ok(Ok(body)) => decode_client(&body).map_err(|_| Some(CloseCode::Malformed)),
        Ok(Err(code)) => Err(code),
        Err(_) => Err(Some(CloseCode::Limit)),
    }
}

/// Reads a body as it comes: a length that was only announced takes no memory.
async fn read_body(recv: &mut RecvStream, length: usize, budget: &FrameBudget) -> Result<Vec<u8>, Option<CloseCode>> {
    let mut permits: Vec<SemaphorePermit<'_>> = Vec::new();
    let mut body = Vec::new();
    while body.len() < length {
        if !body.is_empty() {
            permits.push(budget.0.try_acquire().map_err(|_| Some(CloseCode::Limit))?);
        }
        let from = body.len();
        body.resize(length.min(from + STEP), 0);
        recv.read_exact(&mut body[from..]).await.map_err(|_| None)?;
    }
    Ok(body)
}

/// Writes what waits; a reply that is written gives the device its turn to ask again.
async fn write(
    mut send: SendStream,
    mut queue: mpsc::UnboundedReceiver<Out>,
    waiting: &AtomicUsize,
    turn: &Semaphore,
) -> CloseCode {
    while let Some(out) = queue.recv().await {
        let (bytes, is_reply) = match out {
            Out::Frame { bytes, is_reply } => (bytes, is_reply),
            Out::Close(code) => {
                let _closed_already = send.finish();
                let _late_or_gone = timeout(DRAIN, send.stopped()).await;
                return code;
            }
        };
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match timeout(STALL, send.write(rest)).await {
                Ok(Ok(written)) => rest = &rest[written..],
                Ok(Err(_)) | Err(_) => return CloseCode::Limit,
            }
        }
        waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
        if is_reply {
            turn.add_permits(1);
        }
    }
    CloseCode::Shutdown
}

fn close(connection: &Connection, code: CloseCode) {
    connection.close(VarInt::from_u32(code as u32), b"");
}
