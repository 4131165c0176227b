//! A relay that lies: `evil-relay serve --data DIR --listen ADDR --admission open`, until it is killed.
//!
//! For tests of what a hostile relay can do to devices that are as they always are. It decides as the real relay does,
//! with the same code, and then does something else. How is told it, a word at a time, over the socket `orders` beside its
//! data; it answers with how many misdeeds it has done. Prints its address once it listens, as the real one does.
//!
//! ```text
//!  devices ── one UDP socket ─┬─ datagrams: route, then spoil ── devices
//!                             └─ QUIC: a door of its own for each device ── login: decide, then spoil
//! ```

mod evil {
    pub(crate) mod misdeeds;
    pub(crate) mod relay;
}
#[path = "../../relay-server/tests/support/household.rs"]
#[expect(dead_code, reason = "shared with the relay's own tests, which ask more of a household")]
mod household;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hearth_schemas::address::RelayAddress;
use hearth_schemas::relay::{EXPORTER_LABEL, Header, MAX_FRAME, decode_client};
use quinn::{Connection, Endpoint, EndpointConfig, Incoming, RecvStream, SendStream, TokioRuntime, VarInt};
use relay_server::admission::Origin;
use relay_server::data::DataDir;
use relay_server::relay::{ConnectionId, Input};
use relay_server::tls;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UdpSocket, UnixListener};
use tokio::sync::mpsc;
use tokio::time::interval;

use evil::relay::{Evil, Out};

/// How often what was held back is let go, and what is made up is said.
const TURN: Duration = Duration::from_millis(25);
/// Longest datagram.
const DATAGRAM: usize = 64 << 10;

#[tokio::main]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a stderr the exit code has to do.
            let _ = writeln!(io::stderr(), "error: {error:#}\nhint: evil-relay serve --data DIR --listen ADDR");
            ExitCode::FAILURE
        }
    }
}

/// The relay, as everything that runs here shares it.
#[derive(Clone)]
struct Shared {
    evil: Arc<Mutex<Evil>>,
    socket: Arc<UdpSocket>,
}

async fn serve() -> Result<()> {
    let (data, listen) = arguments()?;
    let folder = DataDir::open(&data)?;
    let key = folder.key()?;
    let socket = Arc::new(UdpSocket::bind(listen).await.with_context(|| format!("listening on {listen}"))?);
    let quic = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let endpoint = Endpoint::new(quic_config(), Some(tls::server_config(&key)?), quic, Arc::new(TokioRuntime))?;
    let shared = Shared { evil: Arc::new(Mutex::new(Evil::new(&folder.database()?)?)), socket };
    let orders = UnixListener::bind(data.with_file_name("orders")).context("listening for orders")?;
    let own = shared.socket.local_addr()?;
    let address = RelayAddress { host: own.ip().to_string(), port: own.port(), key: Some(tls::public_key(&key)) };
    writeln!(io::stdout(), "evil-relay listens at {address}")?;

    tokio::spawn(take_orders(shared.clone(), orders));
    tokio::spawn(take_datagrams(shared.clone(), endpoint.local_addr()?));
    tokio::spawn(take_turns(shared.clone()));
    let mut next = 0;
    while let Some(incoming) = endpoint.accept().await {
        next += 1;
        tokio::spawn(visit(shared.clone(), ConnectionId(next), incoming));
    }
    Ok(())
}

/// Packets of QUIC are told from our datagrams by the bit that devices would else clear in every second packet.
fn quic_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.grease_quic_bit(false);
    config
}

fn arguments() -> Result<(PathBuf, SocketAddr)> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = given.iter().position(|argument| argument == name);
        at.and_then(|at| given.get(at + 1)).with_context(|| format!("{name} is missing"))
    };
    Ok((value("--data")?.into(), value("--listen")?.parse().context("an address to listen on")?))
}

impl Shared {
    fn evil(&self) -> MutexGuard<'_, Evil> {
        self.evil.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, datagrams: Vec<(SocketAddr, Vec<u8>)>) {
        for (to, datagram) in datagrams {
            // A datagram that the kernel refuses is one more that got lost.
            let _ = self.socket.send_to(&datagram, to).await;
        }
    }
}

/// Reads words and says how many misdeeds there have been.
async fn take_orders(shared: Shared, orders: UnixListener) {
    while let Ok((stream, _)) = orders.accept().await {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while stream.read_line(&mut line).await.is_ok_and(|length| length > 0) {
            let answer = shared.evil().obey(line.trim());
            let answer = answer.map_or_else(|error| format!("error {error:#}\n"), |deeds| format!("{deeds}\n"));
            if stream.write_all(answer.as_bytes()).await.is_err() {
                break;
            }
            line.clear();
        }
    }
}

async fn take_turns(shared: Shared) {
    let mut turns = interval(TURN);
    loop {
        turns.tick().await;
        let datagrams = shared.evil().take_turn();
        shared.send(datagrams).await;
    }
}

/// Routes our datagrams, and passes on those of QUIC through a door for each device.
async fn take_datagrams(shared: Shared, quic: SocketAddr) {
    let mut doors: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let Ok((length, from)) = shared.socket.recv_from(&mut buffer).await else { continue };
        let datagram = &buffer[..length];
        if !Header::is_quic(datagram) {
            let datagrams = shared.evil().datagram(datagram, from);
            shared.send(datagrams).await;
            continue;
        }
        let door = match doors.get(&from) {
            Some(door) => Arc::clone(door),
            None => {
                let Ok(door) = open_door(shared.clone(), from, quic).await else { continue };
                Arc::clone(doors.entry(from).or_insert(door))
            }
        };
        let _lost_as_datagrams_are = door.send(datagram).await;
    }
}

async fn open_door(shared: Shared, device: SocketAddr, quic: SocketAddr) -> io::Result<Arc<UdpSocket>> {
    let door = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
    door.connect(quic).await?;
    let back = Arc::clone(&door);
    tokio::spawn(async move {
        let mut buffer = vec![0; DATAGRAM];
        loop {
            // An error tells of a datagram that got lost before, and says nothing of the next.
            let Ok(length) = back.recv(&mut buffer).await else { continue };
            let _lost_as_datagrams_are = shared.socket.send_to(&buffer[..length], device).await;
        }
    });
    Ok(door)
}

/// One connection, from its handshake on.
async fn visit(shared: Shared, conn: ConnectionId, incoming: Incoming) {
    let Ok(connection) = incoming.await else { return };
    // A connection that breaks is one that ends.
    let _ = attend(&shared, conn, &connection).await;
    shared.evil().take(Input::Closed { conn });
}

async fn attend(shared: &Shared, conn: ConnectionId, connection: &Connection) -> Result<()> {
    let mut exporter = [0; 32];
    ensure!(connection.export_keying_material(&mut exporter, EXPORTER_LABEL, &[]).is_ok(), "no exporter");
    let (send, recv) = connection.accept_bi().await?;
    let (outbox, queue) = mpsc::unbounded_channel();
    shared.evil().connected(conn, outbox);
    shared.evil().take(Input::Connected { conn, exporter, origin: Origin(conn.0) });
    tokio::select! {
        ended = read(shared, conn, recv) => ended,
        ended = write(connection, send, queue) => ended,
        _ = connection.closed() => Ok(()),
    }
}

async fn read(shared: &Shared, conn: ConnectionId, mut recv: RecvStream) -> Result<()> {
    loop {
        let mut length = [0; 4];
        recv.read_exact(&mut length).await?;
        let length = u32::from_le_bytes(length) as usize;
        ensure!(length <= MAX_FRAME, "a frame of {length} bytes");
        let mut body = vec![0; length];
        recv.read_exact(&mut body).await?;
        let frame = decode_client(&body)?;
        shared.evil().take(Input::Request { conn, frame });
    }
}

async fn write(connection: &Connection, mut send: SendStream, mut queue: mpsc::UnboundedReceiver<Out>) -> Result<()> {
    while let Some(out) = queue.recv().await {
        match out {
            Out::Frame(body) => {
                let length = u32::try_from(body.len())?.to_le_bytes();
                send.write_all(&[length.as_slice(), &body].concat()).await?;
            }
            Out::Close(code) => {
                let _closed_already = send.finish();
                let _late_or_gone = tokio::time::timeout(Duration::from_millis(200), send.stopped()).await;
                connection.close(VarInt::from_u32(code as u32), b"");
            }
        }
    }
    Ok(())
}
