//! The connection to a relay: log in, ask, hear events, stay bound, come back after every loss.
//!
//! [`Control`] is one connection with its requests and events; [`Anonymous`] is one without a login, for making or
//! joining an account; `Link` keeps the daemon's own connection to one of the account's relays up for as long as it runs,
//! tells a relay that has forgotten the account of it again, and tells
//! [`crate::socket`] which session forwards the peers' packets. `Links` has one for each relay. It passes events on to [`crate::net`] and presence to
//! [`crate::peer`], and judges neither.
//!
//! All of it goes over UDP, or through a [`crate::tunnel`] where UDP is silent: at the start a tunnel is opened when
//! nothing came over UDP for a moment, and in a session when a BIND stays unanswered. From a tunnel the session goes back
//! as soon as UDP is found to get out again. Connections outlive both changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use ed25519_dalek::SigningKey;
use hearth_schemas::address::RelayAddress;
use hearth_schemas::codec;
use hearth_schemas::ids::Slot;
use hearth_schemas::keys;
use hearth_schemas::log::{Account, account_id};
use hearth_schemas::relay::{
    ClientFrame, CloseCode, EXPORTER_LABEL, Event, Head, MAX_ENTRIES, MAX_FRAME, Refusal, Reply, Request, ServerFrame,
    Session, decode_server, login_message,
};
use quinn::{ConnectionError, Endpoint, EndpointConfig, TransportConfig, VarInt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::yield_now;
use tokio::time::{sleep, sleep_until, timeout, timeout_at};
use tracing::{debug, info, warn};

use crate::blobs::Blobs;
use crate::carrier::relay_address;
use crate::net::{Identity, NetEvent, jitter};
use crate::paths::Sealed;
use crate::socket::{Bound, PathSocket, RELAYS, RelayLeg};
use crate::tls::{self, Trust};
use crate::tunnel::{self, Dialled};
use crate::{prefixed, proxy};

/// How long a request may take.
const REQUEST: Duration = Duration::from_secs(20);
/// How long reaching a relay and logging in may take; every fourth attempt has longer, for slow lines.
const ATTEMPT: Duration = Duration::from_secs(4);
const LONG_ATTEMPT: Duration = Duration::from_secs(12);
/// For how long after a loss attempts follow each other quickly.
const EAGER: Duration = Duration::from_secs(180);
/// Longest pause between attempts, in milliseconds.
const MAX_PAUSE_MS: u64 = 60_000;
/// Pause after an answer that is not likely to change.
const SETTLED: Duration = Duration::from_secs(20);
/// How often a relay that does not know the account is told of it.
const REGISTER: Duration = Duration::from_secs(600);
/// Keeps NAT mappings and the session's binding; the second where a mapping was lost in spite of the first. No router
/// should forget a mapping within two minutes (RFC 4787); some do after thirty seconds, and few after less.
const BIND_EVERY: Duration = Duration::from_secs(25);
const BIND_OFTEN: Duration = Duration::from_secs(15);
/// The same while peers' data flows, and for `BUSY` after it: a relay that lost its memory is noticed soon.
const BIND_EVERY_BUSY: Duration = Duration::from_secs(1);
const BUSY: Duration = Duration::from_secs(10);
/// Pauses between BINDs that are not answered, in milliseconds. The first is no longer than three round trips, but for the
/// shortest lines.
const BIND_RETRIES_MS: [u64; 4] = [250, 300, 500, 700];
const SOONEST: Duration = Duration::from_millis(100);
/// After the retries the session counts as lost, if the relay was silent altogether; else after this long, as the
/// line may only be slow.
const BIND_LOST: Duration = Duration::from_secs(10);
/// For how long UDP alone may bring an answer (RFC 8305 waits as long for the better of two ways).
const HEAD_START: Duration = Duration::from_millis(250);
/// How long a login over UDP may take once the relay was heard there, while a tunnel stands ready.
const UDP_MAY_TAKE: Duration = Duration::from_secs(1);
/// How often it is looked whether UDP gets out again.
const UDP_AGAIN: Duration = Duration::from_secs(45);
/// How long a packet over UDP may take to be answered, and how many are sent.
const UDP_ANSWER: Duration = Duration::from_millis(400);
const UDP_PROBES: u32 = 3;
/// How many answers over UDP without one to a BIND show that the relay has forgotten the session: some may be lost.
const UDP_ANSWERS: u32 = 3;
/// How long a BIND may be unanswered while the relay sends other things.
const ONE_WAY: Duration = Duration::from_millis(500);
/// How long a name may take to be looked up before it counts that a proxy would do that.
const NAME_SOON: Duration = Duration::from_secs(1);
/// The login's connection lies on the same socket, so that BINDs keep its way open and notice its end. A stranger's has
/// none.
const KEEP_ALIVE: Duration = Duration::from_secs(120);
const IDLE_MS: u32 = 300_000;
const STRANGER_KEEP_ALIVE: Duration = Duration::from_secs(10);
const STRANGER_IDLE_MS: u32 = 30_000;
/// Events that wait for the daemon. A relay that sends more than it can take is cut off.
const MAX_EVENTS: usize = 1024;
const MAX_WAITING_REQUESTS: usize = 64;

/// Why the relay gave no answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// There is no connection at this moment.
    #[error("not connected to the relay")]
    Offline,
    /// There is one, but none to the relay at which the account is changed.
    #[error("the account's first relay, {place}, cannot be reached")]
    FirstAway {
        /// Host and port.
        place: String,
    },
    /// No answer came in time.
    #[error("the relay did not answer in time")]
    TimedOut,
    /// The connection ended before the answer.
    #[error("the connection to the relay ended: {0}")]
    Closed(String),
    /// No connection could be made.
    #[error("the relay cannot be reached: {0}")]
    Unreachable(String),
    /// Whoever answers at the address has another key than the address says.
    #[error("the relay at {host} does not have the key in its address")]
    WrongKey {
        /// Host and port.
        host: String,
    },
    /// The relay said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The answer does not fit the question.
    #[error("the relay gave an answer that does not fit")]
    Unexpected,
    /// The request is longer than a frame may be.
    #[error("the request is too long for the relay")]
    TooLong,
}

/// One connection to a relay. Clones share it; it closes with the last of them, or when the relay misbehaves.
#[derive(Clone)]
pub struct Control(Arc<Shared>);

struct Shared {
    connection: quinn::Connection,
    frames: mpsc::Sender<Vec<u8>>,
    waiting: Mutex<BTreeMap<u32, oneshot::Sender<Reply>>>,
    next_id: AtomicU32,
    ended: OnceLock<Ended>,
}

/// Why a connection ended.
#[derive(Clone, Debug)]
struct Ended {
    /// For people.
    reason: String,
    /// Coming back at once would change nothing.
    settled: bool,
}

impl Ended {
    fn of(error: &ConnectionError) -> Self {
        let code = match error {
            ConnectionError::ApplicationClosed(close) => CloseCode::from_code(close.error_code.into_inner()),
            _ => None,
        };
        let (reason, settled) = match code {
            Some(CloseCode::Shutdown) => ("the relay is restarting or shut down", false),
            Some(CloseCode::Replaced) => ("this device logged in from elsewhere", true),
            Some(CloseCode::Revoked) => ("the account does not list this device any more", true),
            Some(CloseCode::Malformed) => ("the relay does not understand this version", true),
            Some(CloseCode::Limit) => ("over the relay's limit", true),
            Some(CloseCode::Idle) | None => return Self { reason: error.to_string(), settled: false },
        };
        Self { reason: reason.to_owned(), settled }
    }

    fn passing(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), settled: false }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(0), b"");
    }
}

impl Control {
    /// Opens the control stream on an established connection, and gives its events.
    async fn open(connection: quinn::Connection) -> anyhow::Result<(Self, mpsc::Receiver<Event>)> {
        let (mut send, recv) = connection.open_bi().await.context("opening the control stream")?;
        let (frames, mut outgoing) = mpsc::channel::<Vec<u8>>(MAX_WAITING_REQUESTS);
        let (events, incoming) = mpsc::channel(MAX_EVENTS);
        tokio::spawn(async move {
            while let Some(body) = outgoing.recv().await {
                if prefixed::write(&mut send, &body).await.is_err() {
                    break;
                }
            }
        });
        let shared = Arc::new(Shared {
            connection: connection.clone(),
            frames,
            waiting: Mutex::default(),
            next_id: AtomicU32::new(1),
            ended: OnceLock::new(),
        });
        let weak = Arc::downgrade(&shared);
        tokio::spawn(async move {
            let Err(error) = listen(&weak, recv, events).await;
            let ended = match connection.close_reason() {
                Some(lost) => Ended::of(&lost),
                None => {
                    warn!("ending the connection to the relay: {error:#}");
                    Ended::passing(format!("{error:#}"))
                }
            };
            if let Some(shared) = weak.upgrade() {
                shared.end(ended);
            }
        });
        Ok((Self(shared), incoming))
    }

    /// Asks, and waits for the answer. A refusal is an error here.
    pub async fn request(&self, request: Request) -> Result<Reply, RelayError> {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let body = codec::encode(&ClientFrame { id, request });
        if body.len() > MAX_FRAME {
            return Err(RelayError::TooLong);
        }
        let (answer, answered) = oneshot::channel();
        let _forget = Forget { shared: &self.0, id };
        self.0.waiting().insert(id, answer);
        if self.0.ended.get().is_some() {
            return Err(self.closed_error());
        }
        let exchange = async {
            self.0.frames.send(body).await.map_err(|_| self.closed_error())?;
            answered.await.map_err(|_| self.closed_error())
        };
        match timeout(REQUEST, exchange).await {
            Ok(Ok(Reply::Refused(refusal))) => Err(refusal.into()),
            Ok(result) => result,
            Err(_) => Err(RelayError::TimedOut),
        }
    }

    /// 32 bytes that only the two ends of this connection know, to be signed by a login.
    pub fn exporter(&self) -> Result<[u8; 32], RelayError> {
        let mut out = [0; 32];
        self.0.connection.export_keying_material(&mut out, EXPORTER_LABEL, b"").map_err(|_| self.closed_error())?;
        Ok(out)
    }

    /// Logs in as a device.
    async fn login(&self, identity: &Identity) -> Result<Session, RelayError> {
        let message = login_message(identity.account, "device", &self.exporter()?);
        let signature = keys::sign(&identity.sign, &message);
        let login = Request::Login { account: identity.account, device: identity.device, signature };
        match self.request(login).await? {
            Reply::Session(session) if session.slot == identity.slot => Ok(session),
            _ => Err(RelayError::Unexpected),
        }
    }

    fn end(&self, reason: &str) {
        self.0.end(Ended::passing(reason));
    }

    fn ended(&self) -> Ended {
        self.0.ended.get().cloned().unwrap_or_else(|| Ended::passing("closed"))
    }

    fn closed_error(&self) -> RelayError {
        RelayError::Closed(self.ended().reason)
    }
}

impl Shared {
    fn waiting(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, oneshot::Sender<Reply>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connection and fails whoever waits. The first reason given is kept.
    fn end(&self, ended: Ended) {
        self.ended.get_or_init(|| ended);
        self.connection.close(VarInt::from_u32(1), b"");
        self.waiting().clear();
    }
}

/// Takes a request off the list of those that wait, however it ends.
struct Forget<'a> {
    shared: &'a Shared,
    id: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.waiting().remove(&self.id);
    }
}

/// Hands out what the relay sends, until it ends or sends nonsense.
async fn listen(
    shared: &std::sync::Weak<Shared>,
    mut recv: quinn::RecvStream,
    events: mpsc::Sender<Event>,
) -> anyhow::Result<std::convert::Infallible> {
    loop {
        let body = prefixed::read(&mut recv, MAX_FRAME).await?;
        match decode_server(&body)? {
            ServerFrame::Reply { id, reply } => {
                let shared = shared.upgrade().context("nobody uses the connection any longer")?;
                // A request that ran out of time has no one waiting; that is no fault of the relay's.
                if let Some(answer) = shared.waiting().remove(&id) {
                    answer.send(reply).ok();
                }
            }
            ServerFrame::Event(event) => {
                events.try_send(event).map_err(|_| anyhow!("more events than can be taken in"))?;
            }
        }
    }
}

/// A connection without a login: to make an account, to join one, to recover one.
pub struct Anonymous {
    control: Control,
    events: mpsc::Receiver<Event>,
    endpoint: Endpoint,
}

impl Anonymous {
    /// Connects. An address without a key is checked by its certificate, or not at all if `by_code` says that a
    /// pairing code will authenticate what is said.
    pub async fn connect(address: &RelayAddress, by_code: bool) -> Result<Self, RelayError> {
        let attempt = async {
            let trust = match address.key {
                Some(key) => Trust::Pinned(key),
                None if by_code => Trust::Unverified,
                None => Trust::WebPki,
            };
            let found = find(address).await?;
            let (socket, _probes) = PathSocket::open(0)?;
            let socket = Arc::new(socket);
            let leg = RelayLeg::of(socket.clone(), 0);
            let runtime = Arc::new(quinn::TokioRuntime);
            let endpoint = Endpoint::new_with_abstract_socket(endpoint_config(), None, socket, runtime)?;
            let stranger = (STRANGER_KEEP_ALIVE, STRANGER_IDLE_MS);
            let mut result = Err(anyhow!("no answer"));
            for at in found {
                let target = Target { address: address.clone(), at, trust };
                let until = Instant::now() + ATTEMPT;
                result = meet(&endpoint, &leg, &target, stranger, HEAD_START, until).await;
                if result.is_ok() {
                    break;
                }
            }
            let connection = result?;
            let (control, events) = Control::open(connection).await?;
            anyhow::Ok(Self { control, events, endpoint })
        };
        match timeout(LONG_ATTEMPT, attempt).await {
            Ok(result) => result.map_err(|error| match error.downcast::<RelayError>() {
                Ok(error) => error,
                Err(error) => RelayError::Unreachable(format!("{error:#}")),
            }),
            Err(_) => Err(RelayError::Unreachable("no answer".to_owned())),
        }
    }

    /// Asks, and waits for the answer. A refusal is an error.
    pub async fn request(&self, request: Request) -> Result<Reply, RelayError> {
        self.control.request(request).await
    }

    /// The next event; `None` once the connection has ended.
    pub async fn next_event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// 32 bytes that only the two ends of this connection know.
    pub fn exporter(&self) -> Result<[u8; 32], RelayError> {
        self.control.exporter()
    }

    /// Logs in as the root of an account. Gives the account's head, if the relay has the account.
    pub async fn login_root(&self, root: &SigningKey) -> Result<Option<Head>, RelayError> {
        let public = root.verifying_key().to_bytes();
        let message = login_message(account_id(&public), "root", &self.exporter()?);
        let signature = keys::sign(root, &message);
        match self.request(Request::LoginRoot { root: public, signature }).await? {
            Reply::Root { head } => Ok(head),
            _ => Err(RelayError::Unexpected),
        }
    }

    /// The raw key that the relay proved to hold; `None` if it showed a certificate.
    pub fn relay_key(&self) -> Option<[u8; 32]> {
        tls::peer_key(&self.control.0.connection)
    }

    /// Says goodbye and waits until the relay has been told, a second at most.
    pub async fn close(self) {
        self.control.0.connection.close(VarInt::from_u32(0), b"");
        timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await.ok();
    }
}

/// What [`crate::peer`] is told about the other devices.
pub(crate) enum Presence {
    /// The ones that are there; nothing was known before.
    All(BTreeSet<Slot>),
    /// One came.
    Online(Slot),
    /// One went.
    Offline(Slot),
}

/// The connections to the account's relays, by their place in the account's order.
pub(crate) type Controls = [Option<Control>; RELAYS];

/// Keeps the daemon logged in at all of the account's relays.
pub(crate) struct Links {
    pub(crate) relays: watch::Receiver<Vec<RelayAddress>>,
    pub(crate) common: Common,
}

/// What all connections to relays have in common.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) endpoint: Endpoint,
    pub(crate) socket: Arc<PathSocket>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) account: watch::Receiver<Arc<Account>>,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) controls: watch::Sender<Controls>,
    pub(crate) presence: mpsc::Sender<(usize, Presence)>,
    pub(crate) signals: mpsc::Sender<Sealed>,
    pub(crate) events: mpsc::Sender<NetEvent>,
}

impl Links {
    /// Runs until nobody can change the relays any more; the connections end with it.
    pub(crate) async fn run(mut self) {
        let mut links: Vec<Running> = Vec::new();
        loop {
            let relays = self.relays.borrow_and_update().clone();
            let same = links.iter().zip(&relays).take_while(|(link, address)| link.address == **address).count();
            for link in links.drain(same..) {
                link.stop().await;
            }
            for (number, address) in relays.into_iter().enumerate().take(RELAYS).skip(same) {
                let (stop, stopped) = oneshot::channel();
                let leg = RelayLeg::of(self.common.socket.clone(), number);
                let link = Link { leg, address: address.clone(), common: self.common.clone(), registered: None };
                links.push(Running { address, stop: Some(stop), task: tokio::spawn(link.run_until(stopped)) });
            }
            if self.relays.changed().await.is_err() {
                return;
            }
        }
    }
}

/// A connection that is kept up. It ends where it is with this value: what says goodbye to peers after that still goes by
/// its session.
struct Running {
    address: RelayAddress,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Ends it, and waits until nothing of it is left.
    async fn stop(mut self) {
        if self.stop.take().is_some_and(|stop| stop.send(()).is_ok())
            && let Err(error) = (&mut self.task).await
        {
            warn!("the connection to a relay ended badly: {error}");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps the daemon logged in at one relay.
struct Link {
    leg: RelayLeg,
    address: RelayAddress,
    common: Common,
    /// When the relay was told of the account last.
    registered: Option<Instant>,
}

impl Link {
    /// Runs until it is stopped, and leaves nothing of the relay behind.
    async fn run_until(mut self, stopped: oneshot::Receiver<()>) {
        tokio::select! {
            Ok(()) = stopped => {}
            () = self.run() => {}
        }
        let relay = self.leg.number();
        self.leg.use_relay(None);
        self.common.controls.send_modify(|controls| controls[relay] = None);
        self.common.presence.send((relay, Presence::All(BTreeSet::new()))).await.ok();
        self.common.events.send(NetEvent::RelayGone { relay }).await.ok();
    }

    /// Runs until nobody listens to its events.
    async fn run(&mut self) {
        let relay = self.leg.number();
        let mut down_since = Instant::now();
        let mut last_reason = None;
        let mut attempt = 0;
        let mut last_good = None;
        let mut head_start = HEAD_START;
        while !self.common.events.is_closed() {
            let Ended { reason, settled } = match self.log_in(attempt, last_good, head_start).await {
                Ok(LoggedIn { control, incoming, session, target }) => {
                    last_good = target.at;
                    let over = if self.leg.carrier().by_tunnel() { "TCP" } else { "UDP" };
                    info!(relay, "logged in to the relay, over {over}");
                    let up_since = Instant::now();
                    let ended = self.serve(&control, incoming, session, target).await;
                    // Where UDP was silent it is likely to be so still.
                    head_start = if self.leg.carrier().by_tunnel() { Duration::ZERO } else { HEAD_START };
                    info!(relay, "lost the relay: {}", ended.reason);
                    if up_since.elapsed() > BIND_EVERY {
                        down_since = Instant::now();
                        attempt = 0;
                    }
                    last_reason = None;
                    ended
                }
                Err(error) => {
                    debug!(relay, "no relay: {error:#}");
                    let settled = matches!(
                        error.downcast_ref(),
                        Some(RelayError::Refused(Refusal::NotAuthorised | Refusal::Limit) | RelayError::Unexpected)
                    );
                    Ended { reason: format!("{error:#}"), settled }
                }
            };
            if last_reason.as_ref() != Some(&reason) {
                last_reason = Some(reason.clone());
                self.common.events.send(NetEvent::RelayDown { relay, reason }).await.ok();
            }
            let pause = if settled { SETTLED } else { pause(attempt, down_since.elapsed()) };
            sleep(pause).await;
            attempt += 1;
        }
    }

    /// Tries the relay at one of its addresses; the next attempt tries the next. The address that was good last time
    /// goes first.
    async fn log_in(
        &mut self,
        attempt: u32,
        last_good: Option<SocketAddr>,
        head_start: Duration,
    ) -> anyhow::Result<LoggedIn> {
        let turn = usize::try_from(attempt).unwrap_or_default();
        let limit = if attempt % 4 == 3 { LONG_ATTEMPT } else { ATTEMPT };
        let until = Instant::now() + limit;
        let work = async {
            let mut found = find(&self.address).await?;
            let canonical = |at: SocketAddr| at.ip().to_canonical();
            found.sort_by_key(|found| last_good.is_none_or(|good| found.map(canonical) != Some(canonical(good))));
            let at = found[turn % found.len()];
            let trust = self.address.key.map_or(Trust::WebPki, Trust::Pinned);
            let target = Target { address: self.address.clone(), at, trust };
            let timing = (KEEP_ALIVE, IDLE_MS);
            let connection = meet(&self.common.endpoint, &self.leg, &target, timing, head_start, until).await?;
            let (control, incoming) = Control::open(connection).await?;
            let session = match control.login(&self.common.identity).await {
                Err(RelayError::Refused(Refusal::NotAuthorised)) if self.register(&control).await => {
                    control.login(&self.common.identity).await?
                }
                session => session?,
            };
            anyhow::Ok(LoggedIn { control, incoming, session, target })
        };
        timeout(limit, work).await.map_err(|_| anyhow!("the relay does not answer"))?
    }

    /// Tells a relay of the account that may not know it: one that it was not told of yet, or one that has lost its
    /// memory. True if it knows the account now. What it learns is signed, and older than what it knows at worst.
    async fn register(&mut self, control: &Control) -> bool {
        let account = self.common.account.borrow().clone();
        let lately = self.registered.is_some_and(|registered| registered.elapsed() < REGISTER);
        if lately || account.active(&self.common.identity.device).is_none() {
            return false;
        }
        self.registered = Some(Instant::now());
        let request = registration(&account, &self.common.blobs, None);
        match control.request(request).await {
            Ok(_) => {
                info!(relay = self.leg.number(), "told the relay of the account");
                true
            }
            Err(error) => {
                debug!("the relay was not told of the account: {error}");
                false
            }
        }
    }

    /// Lives through one session. Gives the reason for its end.
    async fn serve(
        &self,
        control: &Control,
        mut incoming: mpsc::Receiver<Event>,
        session: Session,
        target: Target,
    ) -> Ended {
        let relay = self.leg.number();
        self.leg.start_session(session.token, session.mac_key);
        self.common.controls.send_modify(|controls| controls[relay] = Some(control.clone()));
        let keeper = Keeper {
            leg: self.leg.clone(),
            control: control.clone(),
            target,
            counter: 0,
            round_trip: Duration::ZERO,
            by_tunnel: self.leg.carrier().by_tunnel(),
            udp_again: Instant::now() + UDP_AGAIN,
            every: BIND_EVERY,
        };
        let bind = Ending(tokio::spawn(keeper.keep_bound()).abort_handle());
        let online = session.online.iter().copied().collect();
        self.common.presence.send((relay, Presence::All(online))).await.ok();
        self.common.events.send(NetEvent::RelayUp { relay, session }).await.ok();
        while let Some(event) = incoming.recv().await {
            match event {
                Event::Presence { slot, online } => {
                    let change = if online { Presence::Online(slot) } else { Presence::Offline(slot) };
                    self.common.presence.send((relay, change)).await.ok();
                }
                Event::Signal { from, payload } => {
                    self.common.signals.send(Sealed { from, payload }).await.ok();
                    continue;
                }
                Event::LogChanged { .. } | Event::PairJoined | Event::PairMessage { .. } | Event::PairLeft { .. } => {}
            }
            if self.common.events.send(NetEvent::Relay { relay, event }).await.is_err() {
                break;
            }
        }
        drop(bind);
        self.leg.end_session();
        self.common.controls.send_modify(|controls| controls[relay] = None);
        self.common.presence.send((relay, Presence::All(BTreeSet::new()))).await.ok();
        control.end("closed");
        control.ended()
    }
}

/// A task that ends with this value.
struct Ending(tokio::task::AbortHandle);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What makes an account known to a relay: as much of its log as one request may hold, with what of it is at hand. The
/// rest is appended after the login.
pub(crate) fn registration(account: &Account, blobs: &Blobs, invite: Option<String>) -> Request {
    let entries: Vec<Vec<u8>> = account.entries().iter().take(MAX_ENTRIES).cloned().collect();
    // A blob may come along only if these entries name it.
    let known = Account::verify(account.id, &entries).ok();
    let blobs = known.iter().flat_map(Blobs::named).filter_map(|hash| blobs.get(&hash)).collect();
    Request::CreateAccount { entries, blobs, invite }
}

/// A session that begins.
struct LoggedIn {
    control: Control,
    incoming: mpsc::Receiver<Event>,
    session: Session,
    target: Target,
}

/// A relay, and where and how it is known.
#[derive(Clone)]
struct Target {
    address: RelayAddress,
    /// `None` where its name is known to a proxy alone.
    at: Option<SocketAddr>,
    trust: Trust,
}

impl Target {
    async fn dial_tunnel(self) -> anyhow::Result<Dialled> {
        tunnel::dial(&self.address, self.at, self.trust).await
    }
}

/// A tunnel on its way.
type Opening = Pin<Box<dyn Future<Output = anyhow::Result<Dialled>> + Send>>;

/// Keeps a session bound to this device, by whatever carries datagrams to the relay.
struct Keeper {
    leg: RelayLeg,
    control: Control,
    target: Target,
    counter: u64,
    /// How long the last BIND that was answered at once took.
    round_trip: Duration,
    /// Whether a tunnel was in use when the last BIND was answered.
    by_tunnel: bool,
    /// When to look whether UDP gets out again.
    udp_again: Instant,
    /// The pause between BINDs while nothing goes on.
    every: Duration,
}

/// What ended a wait for the answer to a BIND.
enum Turn {
    Answered,
    Opened(anyhow::Result<Dialled>),
    UdpAnswers,
    Late,
}

impl Keeper {
    /// Binds the session again and again. Ends the connection when the relay has forgotten it.
    async fn keep_bound(mut self) {
        let mut known: Option<Bound> = None;
        while self.bind().await {
            let bound = *self.leg.bound().borrow();
            if let (Some(known), Some(bound)) = (known, bound) {
                if known.way != bound.way {
                    self.show();
                } else if known.seen != bound.seen {
                    self.every = BIND_OFTEN;
                }
            }
            known = bound;
            let pause = if self.leg.idle_for() < BUSY { BIND_EVERY_BUSY } else { self.every };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.leg.doubted() => {}
                () = sleep_until(self.udp_again.into()), if self.leg.carrier().by_tunnel() => self.try_udp().await,
            }
        }
        self.control.end("the relay does not answer on the forwarding leg");
    }

    /// Sends BINDs until one is answered; false if that is not to be expected any more. While none is, another way to
    /// the relay is looked for: a tunnel, and UDP if a tunnel was in use. Where UDP does reach the relay, and BINDs are
    /// not answered all the same, it has forgotten the session.
    async fn bind(&mut self) -> bool {
        let mut answered = self.leg.answered();
        let mut first = self.counter + 1;
        let mut asked = Instant::now();
        let mut retries = BIND_RETRIES_MS.iter();
        let mut opening: Option<Opening> = None;
        let mut opened_or_failed = false;
        let mut udp_answers = 0;
        if self.by_tunnel && !self.leg.carrier().by_tunnel() {
            // The tunnel broke. That UDP does not help is what it was there for.
            self.leg.probe_udp();
            opening = Some(Box::pin(self.target.clone().dial_tunnel()));
        }
        loop {
            self.counter += 1;
            self.leg.send_bind(self.counter);
            let last = BIND_RETRIES_MS[BIND_RETRIES_MS.len() - 1];
            let mut wait = Duration::from_millis(retries.next().copied().unwrap_or(last));
            if self.counter == first {
                wait = wait.min(SOONEST.max(3 * self.round_trip));
            }
            let turn = tokio::select! {
                answer = answered.wait_for(|answered| *answered >= first) => {
                    if answer.is_err() {
                        return false;
                    }
                    Turn::Answered
                }
                opened = opened(&mut opening) => Turn::Opened(opened),
                () = self.leg.carrier().answered() => Turn::UdpAnswers,
                () = sleep(wait) => Turn::Late,
            };
            let carrier = self.leg.carrier();
            match turn {
                Turn::Answered => {
                    if self.counter == first {
                        self.round_trip = asked.elapsed();
                        self.leg.measured(self.round_trip);
                    }
                    self.by_tunnel = carrier.by_tunnel();
                    return true;
                }
                Turn::Opened(result) => {
                    (opening, opened_or_failed) = (None, true);
                    match result {
                        Ok(dialled) => {
                            info!("UDP does not reach the relay; going on over TCP");
                            self.leg.attach(dialled);
                            self.udp_again = Instant::now() + UDP_AGAIN;
                            (first, asked, retries) = (self.counter + 1, Instant::now(), BIND_RETRIES_MS.iter());
                        }
                        Err(error) => debug!("no tunnel to the relay: {error:#}"),
                    }
                }
                Turn::UdpAnswers => {
                    opening = None;
                    if carrier.by_tunnel() {
                        info!("UDP reaches the relay; going on over it");
                        self.leg.use_udp();
                        (first, asked, retries) = (self.counter + 1, Instant::now(), BIND_RETRIES_MS.iter());
                    }
                    udp_answers += 1;
                    if udp_answers >= UDP_ANSWERS {
                        return false;
                    }
                }
                Turn::Late => {
                    let silent = self.leg.silent_for() >= asked.elapsed() || udp_answers > 0;
                    // What still comes in says nothing about what goes out, but a slow line is more likely then.
                    let patience = if silent { Duration::ZERO } else { ONE_WAY };
                    if asked.elapsed() >= patience.max(3 * self.round_trip) {
                        self.leg.probe_udp();
                        if opening.is_none() && !opened_or_failed {
                            opening = Some(Box::pin(self.target.clone().dial_tunnel()));
                        }
                    }
                    let waited = retries.len() == 0 && (silent || asked.elapsed() > BIND_LOST);
                    if waited && opening.is_none() {
                        return false;
                    }
                }
            }
        }
    }

    /// Looks whether UDP gets out again, and goes over to it if it does. The session is not touched before.
    async fn try_udp(&mut self) {
        self.udp_again = Instant::now() + UDP_AGAIN;
        for _ in 0..UDP_PROBES {
            self.leg.probe_udp();
            if timeout(UDP_ANSWER, self.leg.carrier().answered()).await.is_ok() {
                info!("UDP reaches the relay again; going on over it");
                self.leg.use_udp();
                self.by_tunnel = false;
                return;
            }
        }
        debug!("UDP does not reach the relay yet");
    }

    /// Has the login's connection send something at once: only then does the relay see where it comes from now.
    fn show(&self) {
        let control = self.control.clone();
        tokio::spawn(async move {
            if let Err(error) = control.request(Request::FetchLog { from: u64::MAX }).await {
                debug!("the relay gave no sign of life: {error}");
            }
        });
    }
}

async fn opened(opening: &mut Option<Opening>) -> anyhow::Result<Dialled> {
    match opening {
        Some(opening) => opening.await,
        None => std::future::pending().await,
    }
}

/// The pause before the next attempt: under a second at first, then seconds, and a minute at most.
fn pause(attempt: u32, down: Duration) -> Duration {
    if attempt < 4 {
        return jitter(200, 1000);
    }
    if down < EAGER {
        return jitter(500, 1500);
    }
    let most = (1000u64 << (attempt / 8).min(6)).min(MAX_PAUSE_MS);
    jitter(most / 2, most)
}

/// Where a relay is. One `None` where its name cannot be looked up here and a proxy is set, which may know it.
async fn find(address: &RelayAddress) -> anyhow::Result<Vec<Option<SocketAddr>>> {
    let resolving = resolve(address);
    tokio::pin!(resolving);
    let soon = timeout(NAME_SOON, &mut resolving).await;
    let found = match soon {
        Ok(Ok(found)) => Ok(found),
        _ if proxy::choose(&address.host, address.port).await.proxy.is_some() => return Ok(vec![None]),
        Ok(Err(error)) => Err(error),
        Err(_) => resolving.await,
    };
    Ok(found?.into_iter().map(Some).collect())
}

async fn resolve(address: &RelayAddress) -> anyhow::Result<Vec<SocketAddr>> {
    let found: Vec<_> = tokio::net::lookup_host((address.host.as_str(), address.port))
        .await
        .context("looking up the relay's name")?
        .collect();
    if found.is_empty() {
        bail!("the relay's name has no address");
    }
    Ok(found)
}

/// Connects with a relay: over UDP, or through a tunnel if nothing has come over UDP until one is open.
async fn meet(
    endpoint: &Endpoint,
    leg: &RelayLeg,
    target: &Target,
    timing: (Duration, u32),
    head_start: Duration,
    until: Instant,
) -> anyhow::Result<quinn::Connection> {
    leg.use_relay(target.at);
    if target.at.is_none() {
        leg.attach(target.clone().dial_tunnel().await?);
        return dial(endpoint, leg, target, timing).await;
    }
    let mut over_udp = Box::pin(dial(endpoint, leg, target, timing));
    let tunnel = async {
        sleep(head_start).await;
        target.clone().dial_tunnel().await
    };
    let opened = tokio::select! {
        biased;
        connection = &mut over_udp => return connection,
        opened = tunnel => opened,
    };
    match opened {
        Ok(dialled) => {
            if leg.carrier().udp_heard()
                && let Ok(connection) = timeout(UDP_MAY_TAKE, &mut over_udp).await
            {
                return connection;
            }
            drop(over_udp);
            // That it is over is said where it was tried. To a relay that has heard nothing of it, it would be a stranger who
            // begins with a farewell, and QUIC keeps the place of such a one for minutes.
            yield_now().await;
            leg.attach(dialled);
            dial(endpoint, leg, target, timing).await
        }
        Err(error) if error.is::<RelayError>() => Err(error),
        Err(error) => {
            // A little before the whole attempt ends, so that what was tried can be told.
            let until = until - UDP_ANSWER;
            timeout_at(until.into(), over_udp).await.unwrap_or_else(|_| Err(anyhow!("no answer over UDP; {error:#}")))
        }
    }
}

async fn dial(
    endpoint: &Endpoint,
    leg: &RelayLeg,
    target: &Target,
    (keep_alive, idle_ms): (Duration, u32),
) -> anyhow::Result<quinn::Connection> {
    let Target { address, trust, .. } = target;
    let mut config = quinn::ClientConfig::new(Arc::new(tls::relay_client(*trust)?));
    config.transport_config(Arc::new(transport(keep_alive, idle_ms)));
    let name = if *trust == Trust::WebPki { &address.host } else { tls::NAME };
    match endpoint.connect_with(config, relay_address(leg.number()), name)?.await {
        Err(ConnectionError::TransportError(error)) if is_wrong_key(&error.reason, *trust) => {
            Err(RelayError::WrongKey { host: address.place() }.into())
        }
        result => result.context("connecting to the relay"),
    }
}

/// Whether a handshake ended because the other side has not the pinned key.
fn is_wrong_key(reason: &str, trust: Trust) -> bool {
    // The crypto layer tells what it refused in words alone.
    matches!(trust, Trust::Pinned(_)) && reason.contains("invalid peer certificate")
}

/// Settings of every endpoint: the fixed bit stays fixed, as it tells QUIC packets from forwarded ones.
pub(crate) fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.grease_quic_bit(false);
    config
}

fn transport(keep_alive: Duration, idle_ms: u32) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(2 << 20))
        .receive_window(VarInt::from_u32(2 << 20))
        .send_window(2 << 20)
        .datagram_receive_buffer_size(None)
        .initial_rtt(Duration::from_millis(100))
        .keep_alive_interval(Some(keep_alive))
        .max_idle_timeout(Some(VarInt::from_u32(idle_ms).into()));
    transport
}
