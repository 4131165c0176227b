//! Opens the relay's ports and serves who comes to them.
//!
//! [`Server::start`] puts the parts together: directory, store, driver, sockets, QUIC endpoint. [`Server::run`] lets
//! callers in: who comes too often, or comes while many handshakes are unfinished, must first prove its address; each
//! connection gets a task of its own, so that a panic in one is the end of that one only.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hearth_schemas::address::RelayAddress;
use hearth_schemas::relay::CloseCode;
use hearth_schemas::tunnel::number_of;
use quinn::{Endpoint, EndpointConfig, Incoming, TokioRuntime, VarInt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::admission::{Admission, Buckets, Limits, Origin};
use crate::connection::{self, FrameBudget};
use crate::data::{DataDir, DataError};
use crate::driver::{Driver, INBOX, Message};
use crate::forward::Forwarder;
use crate::metrics::{Metrics, MetricsAt, MetricsPort, TurnedAway};
use crate::relay::{ConnectionId, Input, Relay};
use crate::socket::{self, RelaySocket};
use crate::store::{Store, StoreError};
use crate::tunnel::{Tunnel, Tunnels, User};
use crate::web::WebPort;
use crate::{host, look, tls};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many free UDP ports are tried until one is free for TCP, too.
const PORTS_TRIED: u32 = 64;
/// How long connected devices may take to hear that the relay stops.
const GOODBYE: Duration = Duration::from_secs(2);

/// How to run a relay.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its directory.
    pub data: PathBuf,
    /// Where to listen; port 0 asks for any, and gets the same one each time.
    pub listen: SocketAddr,
    /// Where to listen for TCP, if not on the same address and port.
    pub tcp: Option<SocketAddr>,
    /// The host to print in the address, if it is not to be found out.
    pub host: Option<String>,
    /// Who may register an account.
    pub admission: Admission,
    /// Where metrics are read, if anywhere.
    pub metrics: Option<MetricsAt>,
}

/// Why a relay does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The directory cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address cannot be listened on.
    #[error("listening for {protocol} on {address}: {source}")]
    Listen {
        /// UDP or TCP.
        protocol: &'static str,
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Metrics cannot be read where they were to be.
    #[error("listening for readers of metrics: {0}")]
    Metrics(io::Error),
    /// TLS cannot be set up.
    #[error("setting up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The operating system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// The socket failed while the relay ran.
    #[error("the socket failed")]
    SocketLost,
}

/// A relay that listens.
pub struct Server {
    endpoint: Endpoint,
    address: RelayAddress,
    gate: Gate,
    web: WebPort,
    metrics: Option<MetricsPort>,
    inbox: mpsc::Sender<Message>,
    look: Option<JoinHandle<()>>,
    _lock: File,
}

impl Server {
    /// Starts a relay; it takes no connection before [`Server::run`]. Needs a tokio runtime.
    pub fn start(options: &Options) -> Result<Self, ServeError> {
        let data = DataDir::open(&options.data)?;
        let lock = data.lock()?;
        let key = data.key()?;
        let limits = Limits::default();
        let store = Store::open(&data.database()?, options.admission, limits.clone())?;
        let (socket, listener) = open_ports(&store, options)?;
        let listening = |source| ServeError::Listen { protocol: "UDP", address: options.listen, source };
        let port = socket.local_addr().map_err(listening)?.port();

        let started = Instant::now();
        let forwarder = Arc::new(Mutex::new(Forwarder::default()));
        let tunnels = Arc::new(Tunnels::new(limits.tunnels, started));
        let look = look::start(SocketAddr::new(options.listen.ip(), port), forwarder.clone());
        let metrics = Arc::new(Metrics::default());
        let metrics_port = match &options.metrics {
            Some(at) => Some(
                MetricsPort::open(at, metrics.clone(), forwarder.clone(), tunnels.clone())
                    .map_err(ServeError::Metrics)?,
            ),
            None => None,
        };
        let socket = RelaySocket::new(socket, forwarder.clone(), tunnels.clone(), metrics.clone());
        let socket = Arc::new(socket.map_err(listening)?);
        let config = tls::server_config(&key)?;
        let mut endpoint_config = EndpointConfig::default();
        endpoint_config.grease_quic_bit(false);
        let endpoint =
            Endpoint::new_with_abstract_socket(endpoint_config, Some(config), socket.clone(), Arc::new(TokioRuntime))
                .map_err(listening)?;

        let (inbox, messages) = mpsc::channel(INBOX);
        let answers = inbox.clone();
        let tasks = store.start(move |conn, answer| {
            let _stopping = answers.blocking_send(Message::Input(Input::Stored { conn, answer }));
        })?;
        let relay = Relay::new(limits.clone(), random()?);
        let driver = Driver { relay, forwarder, tasks, outboxes: BTreeMap::new(), metrics: metrics.clone(), started };
        tokio::spawn(driver.run(messages));

        let host = options.host.clone().unwrap_or_else(|| host::usable(options.listen.ip()));
        let address = RelayAddress { host, port, key: Some(tls::public_key(&key)) };
        let tag_key = random()?;
        let web = WebPort {
            listener,
            acceptor: TlsAcceptor::from(Arc::new(tls::stream_config(&key)?)),
            socket,
            tunnels: tunnels.clone(),
            limits: limits.clone(),
            tag_key,
            callers: Buckets::new(limits.handshakes),
            half_open: Arc::default(),
        };
        let gate = Gate {
            tag_key,
            tunnels,
            unproven: Buckets::new(limits.handshakes),
            proven: Buckets::new(limits.handshakes),
            half_open: Arc::default(),
            limits,
            metrics,
            started,
        };
        Ok(Self { endpoint, address, gate, web, metrics: metrics_port, inbox, look, _lock: lock })
    }

    /// The address that devices are given.
    pub fn address(&self) -> &RelayAddress {
        &self.address
    }

    /// Serves until `stop` is ready, then tells everybody and returns.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let budget = Arc::new(FrameBudget::new());
        let mut next = 0;
        let web = tokio::spawn(self.web.run());
        let metrics = self.metrics.take().map(|port| tokio::spawn(port.run()));
        tokio::pin!(stop);
        loop {
            let incoming = tokio::select! {
                () = &mut stop => break,
                incoming = self.endpoint.accept() => incoming.ok_or(ServeError::SocketLost)?,
            };
            let Some(Caller { incoming, origin, tunnel }) = self.gate.judge(incoming, self.endpoint.open_connections())
            else {
                continue;
            };
            next += 1;
            let half_open = self.gate.half_open.clone();
            let metrics = self.gate.metrics.clone();
            let visit = Visit { conn: ConnectionId(next), origin, half_open, metrics, _tunnel: tunnel.map(User::new) };
            tokio::spawn(visit.run(incoming, self.inbox.clone(), budget.clone()));
        }
        web.abort();
        self.look.iter().for_each(JoinHandle::abort);
        metrics.inspect(JoinHandle::abort);
        self.endpoint.close(VarInt::from_u32(CloseCode::Shutdown as u32), b"");
        let _some_did_not_answer = timeout(GOODBYE, self.endpoint.wait_idle()).await;
        Ok(())
    }
}

/// Listens where it was asked to. Of port 0, the port that was given out the last time is kept: devices know it. It is
/// one that is free for both UDP and TCP.
fn open_ports(store: &Store, options: &Options) -> Result<(std::net::UdpSocket, TcpListener), ServeError> {
    let listen = options.listen;
    let remembered = if listen.port() == 0 { store.port(&listen.to_string())? } else { None };
    let address = SocketAddr::new(listen.ip(), remembered.unwrap_or(listen.port()));
    let failed = |source| ServeError::Listen { protocol: "UDP", address, source };
    let mut tries = 0;
    loop {
        tries += 1;
        let socket = socket::open(address).map_err(failed)?;
        let port = socket.local_addr().map_err(failed)?.port();
        let tcp = options.tcp.unwrap_or(SocketAddr::new(listen.ip(), port));
        match socket::listen(tcp).and_then(TcpListener::from_std) {
            Ok(listener) => {
                if address.port() == 0 {
                    store.remember_port(&listen.to_string(), port)?;
                }
                return Ok((socket, listener));
            }
            Err(error) if is_taken(&error) && options.tcp.is_none() && address.port() == 0 && tries < PORTS_TRIED => {}
            Err(source) => return Err(ServeError::Listen { protocol: "TCP", address: tcp, source }),
        }
    }
}

fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

fn random() -> Result<[u8; 32], getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// Decides whom to let in.
struct Gate {
    limits: Limits,
    tag_key: [u8; 32],
    tunnels: Arc<Tunnels>,
    unproven: Buckets,
    proven: Buckets,
    half_open: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    started: Instant,
}

/// Somebody who is let in.
struct Caller {
    incoming: Incoming,
    origin: Origin,
    /// The tunnel that it came through, if it did.
    tunnel: Option<Arc<Tunnel>>,
}

impl Gate {
    /// Lets a caller through, or answers it as cheaply as can be. Who has proved its address has a bucket of its own:
    /// it cannot be used up by others who forge that address. A tunnel's address is that of its TCP connection, which
    /// nobody forges.
    fn judge(&mut self, incoming: Incoming, open: usize) -> Option<Caller> {
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let remote = incoming.remote_address();
        let tunnel = match number_of(remote).map(|number| self.tunnels.at(number)) {
            Some(None) => {
                incoming.ignore();
                return None;
            }
            found => found.flatten(),
        };
        let origin = tunnel.as_ref().map_or_else(|| Origin::new(&self.tag_key, remote.ip()), |tunnel| tunnel.origin());
        if open >= self.limits.connections {
            self.metrics.turned_away(TurnedAway::Crowd);
            incoming.refuse();
            return None;
        }
        let crowded = self.half_open.load(Ordering::Relaxed) >= self.limits.half_open;
        if tunnel.is_some() || incoming.remote_address_validated() {
            if self.proven.take(origin, now_ms) {
                return Some(Caller { incoming, origin, tunnel });
            }
            self.metrics.turned_away(TurnedAway::Often);
            incoming.refuse();
        } else if !crowded && self.unproven.take(origin, now_ms) {
            return Some(Caller { incoming, origin, tunnel });
        } else {
            self.metrics.turned_away(TurnedAway::Unproven);
            if incoming.retry().is_err() {
                tracing::debug!("a caller could not be asked to prove its address");
            }
        }
        None
    }
}

/// One caller, from its handshake on.
struct Visit {
    conn: ConnectionId,
    origin: Origin,
    half_open: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    _tunnel: Option<User>,
}

impl Visit {
    async fn run(self, incoming: Incoming, inbox: mpsc::Sender<Message>, budget: Arc<FrameBudget>) {
        let connection = {
            let _counted = HalfOpen::new(self.half_open.clone());
            let Ok(connecting) = incoming.accept() else { return };
            let Ok(Ok(connection)) = timeout(HANDSHAKE, connecting).await else { return };
            connection
        };
        let (conn, origin) = (self.conn, self.origin);
        tracing::debug!(connection = conn.0, origin = origin.0, "connected");
        self.metrics.connected();
        let ended = tokio::spawn(connection::serve(conn, connection.clone(), origin, inbox.clone(), budget)).await;
        if ended.is_err() {
            connection.close(VarInt::from_u32(CloseCode::Malformed as u32), b"");
        }
        self.metrics.gone();
        tracing::debug!(connection = conn.0, "gone");
        let _stopping = inbox.send(Message::Input(Input::Closed { conn })).await;
    }
}

/// A handshake that is counted as long as it is unfinished.
pub(crate) struct HalfOpen(Arc<AtomicUsize>);

impl HalfOpen {
    pub(crate) fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
