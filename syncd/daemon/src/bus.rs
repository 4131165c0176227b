//! Serves the bus interface, `schemas/dbus/org.hearth.Sync1.xml`, on the private socket and on the session bus.
//!
//! Turns each method call into a call of [`Service`], the one trait behind the interface, with arguments already
//! parsed, and its answer into JSON text or one of the four errors. [`Signals`] goes the other way: what happens in
//! the daemon reaches every client that is connected. Who may call what is decided in [`caller`]; the private socket
//! itself is [`socket`]. Knows nothing of what the methods do.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use hearth_schemas::address::RelayAddress;
use jiff::Timestamp;
use serde_json::Value;
pub use syncd_core::brake::Verdict;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinSet;
use zbus::fdo::{DBusProxy, RequestNameFlags};
use zbus::message::{Header, Message};
use zbus::names::ErrorName;
use zbus::object_server::SignalEmitter;
use zbus::{Address, Connection, DBusError, Guid, interface};

use caller::Caller;
pub use socket::PrivateSocket;

pub mod caller;
pub mod socket;

/// The name on the session bus.
pub const NAME: &str = "org.hearth.Sync1";
/// The one object.
pub const PATH: &str = "/org/hearth/Sync1";

/// Clients on the private socket at one time; more wait in the socket's queue.
const CLIENTS: usize = 64;
/// A client that has not said who it is by then gives up its place.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// Signals that a slow client may be behind before it misses the oldest.
const SIGNALS: usize = 256;
/// Between two attempts to reach a session bus that is not there, or whose name is taken.
const SESSION_BUS_RETRY: Duration = Duration::from_secs(30);

/// What every method comes to: a JSON value of the shape in `docs/protocol.md`, or why not.
pub type Answer = Result<Value, Failure>;

/// What stands behind the interface. Each method is one of the XML's, with its arguments parsed.
pub trait Service: Send + Sync + 'static {
    /// Makes an account with this machine as its first device; with an invitation, where the relay wants one.
    fn init(
        &self,
        relay: RelayAddress,
        name: String,
        invitation: Option<String>,
    ) -> impl Future<Output = Answer> + Send;
    /// Makes a code with which one other machine can join, and answers at once.
    fn device_add(&self) -> impl Future<Output = Answer> + Send;
    /// Joins an account with a code; answers once this machine is enrolled and syncing.
    fn join(
        &self,
        with: JoinWith,
        relay: RelayAddress,
        name: String,
        settings: JoinSettings,
    ) -> impl Future<Output = Answer> + Send;
    /// Lists the devices of the account.
    fn device_list(&self) -> impl Future<Output = Answer> + Send;
    /// Renames a device.
    fn device_rename(&self, old: String, new: String) -> impl Future<Output = Answer> + Send;
    /// Takes a device out of the account.
    fn device_revoke(&self, name: String) -> impl Future<Output = Answer> + Send;
    /// Says how things stand; answers before an account exists too.
    fn status(&self) -> impl Future<Output = Answer> + Send;
    /// Answers once this machine and the others agree. Dropped when the caller goes away.
    fn wait(&self, barrier: Barrier) -> impl Future<Output = Answer> + Send;
    /// Stops syncing until [`Service::resume`].
    fn pause(&self) -> impl Future<Output = Answer> + Send;
    /// Syncs again.
    fn resume(&self) -> impl Future<Output = Answer> + Send;
    /// The newest `limit` lines of the activity log, oldest first.
    fn log(&self, limit: u32) -> impl Future<Output = Answer> + Send;
    /// Examines the surroundings.
    fn doctor(&self) -> impl Future<Output = Answer> + Send;
    /// Says which rule decides about a path.
    fn why(&self, path: PathBuf) -> impl Future<Output = Answer> + Send;
    /// The person's own rules, or with `asking` the paths that wait for one.
    fn rules_list(&self, asking: bool) -> impl Future<Output = Answer> + Send;
    /// Adds a rule of the person.
    fn rules_add(&self, rule: NewRule) -> impl Future<Output = Answer> + Send;
    /// Removes a rule of the person; `on` as in [`NewRule`].
    fn rules_remove(&self, pattern: String, on: Option<String>) -> impl Future<Output = Answer> + Send;
    /// Lists the account's relays, in its order.
    fn relay_list(&self) -> impl Future<Output = Answer> + Send;
    /// Makes the account known at a further relay, with an invitation where that wants one, and has all machines use it.
    fn relay_add(&self, relay: RelayAddress, invitation: Option<String>) -> impl Future<Output = Answer> + Send;
    /// Has no machine use a relay any more.
    fn relay_remove(&self, relay: RelayAddress) -> impl Future<Output = Answer> + Send;
    /// Contents displaced here, newest first; of everything if `path` is `None`.
    fn history(&self, path: Option<PathBuf>) -> impl Future<Output = Answer> + Send;
    /// Brings a displaced content back.
    fn restore(&self, restore: Restore) -> impl Future<Output = Answer> + Send;
    /// Lists the conflicts.
    fn conflicts(&self) -> impl Future<Output = Answer> + Send;
    /// Lists what is held, on any machine, until a person says whether it was meant.
    fn held(&self) -> impl Future<Output = Answer> + Send;
    /// Says of a hold, or of all, whether it was meant.
    fn held_judge(&self, id: Option<String>, verdict: Verdict) -> impl Future<Output = Answer> + Send;
    /// Lists the settings whose key contains or matches `pattern`, all if it is empty.
    fn settings_list(&self, pattern: String) -> impl Future<Output = Answer> + Send;
    /// A setting's value, and in which layers it is set.
    fn settings_get(&self, key: String) -> impl Future<Output = Answer> + Send;
    /// A setting's class, and the line that decided.
    fn settings_explain(&self, key: String) -> impl Future<Output = Answer> + Send;
    /// A setting's earlier values, newest first.
    fn settings_history(&self, key: String) -> impl Future<Output = Answer> + Send;
}

/// What a machine joins with.
#[derive(Clone, PartialEq, Eq)]
pub enum JoinWith {
    /// The code shown by `hearth device add` on another machine.
    Code(String),
    /// The account's recovery phrase.
    Phrase(String),
}

impl fmt::Debug for JoinWith {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Code(_) => "Code(..)",
            Self::Phrase(_) => "Phrase(..)",
        })
    }
}

/// Whose settings count when a machine joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum JoinSettings {
    /// Both, merged; the account's where they differ.
    #[default]
    Merge,
    /// The account's.
    Account,
    /// This machine's.
    Mine,
}

impl JoinSettings {
    fn parse(text: &str) -> Result<Self, Failure> {
        match text {
            "" | "merge" => Ok(Self::Merge),
            "account" => Ok(Self::Account),
            "mine" => Ok(Self::Mine),
            _ => Err(Failure::usage("settings are joined as merge, account or mine", "leave it out to merge them")),
        }
    }
}

/// What `wait` waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// After this long it has timed out; `None` waits for ever.
    pub timeout: Option<Duration>,
    /// Only this device; `None` means every enrolled one.
    pub peer: Option<String>,
    /// Leaves out devices that are away.
    pub online: bool,
}

/// A rule that the person wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRule {
    /// In the syntax of the shipped rules.
    pub pattern: String,
    /// A class name.
    pub class: String,
    /// The device that it holds on; `None` means on all.
    pub on: Option<String>,
    /// Why, in the person's words; may be empty.
    pub note: String,
}

/// What to restore, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The path whose content is wanted.
    pub path: PathBuf,
    /// Which of its contents.
    pub which: Which,
    /// Where it goes; `None` is its own place.
    pub to: Option<PathBuf>,
}

/// Which of the contents that a path had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The newest one that was displaced.
    Newest,
    /// The one with this version word.
    Version(String),
    /// What it had at that time.
    At(Timestamp),
    /// What it had before the changes that came from a device since a time.
    CameFrom {
        /// The device's name.
        device: String,
        /// From when on.
        since: Timestamp,
    },
}

/// Why a call could not be answered; on the bus an error `org.hearth.Error.KIND` with two strings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    /// Which of the four errors.
    pub kind: FailureKind,
    /// What failed: one line, lower case, without a full stop.
    pub what: String,
    /// What to do about it, in the same form.
    pub hint: String,
}

/// The four errors of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// It could not be done.
    Failed,
    /// It was asked in a wrong way.
    Usage,
    /// The time given was not enough.
    TimedOut,
    /// Our own mistake.
    Bug,
}

impl Failure {
    /// It could not be done.
    pub fn failed(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind: FailureKind::Failed, what: what.into(), hint: hint.into() }
    }

    /// It was asked in a wrong way.
    pub fn usage(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind: FailureKind::Usage, what: what.into(), hint: hint.into() }
    }

    /// The time given was not enough.
    pub fn timed_out(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind: FailureKind::TimedOut, what: what.into(), hint: hint.into() }
    }

    /// Our own mistake.
    pub fn bug(what: impl Into<String>) -> Self {
        let hint = "this is a bug; please report it with the output of `journalctl --user -u hearth`".to_owned();
        Self { kind: FailureKind::Bug, what: what.into(), hint }
    }
}

impl DBusError for Failure {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        Message::error(call, self.name())?.build(&(&self.what, &self.hint))
    }

    fn name(&self) -> ErrorName<'_> {
        ErrorName::from_static_str_unchecked(match self.kind {
            FailureKind::Failed => "org.hearth.Error.Failed",
            FailureKind::Usage => "org.hearth.Error.Usage",
            FailureKind::TimedOut => "org.hearth.Error.TimedOut",
            FailureKind::Bug => "org.hearth.Error.Bug",
        })
    }

    fn description(&self) -> Option<&str> {
        Some(&self.what)
    }
}

/// Tells every connected client what happened. Cheap to clone; never blocks and never fails: a client that does not
/// keep up misses the oldest signals.
#[derive(Clone, Debug)]
pub struct Signals {
    sender: broadcast::Sender<Signal>,
}

#[derive(Clone, Debug)]
enum Signal {
    StatusChanged(String),
    Activity(String),
    Pairing(String),
}

impl Default for Signals {
    fn default() -> Self {
        Self { sender: broadcast::channel(SIGNALS).0 }
    }
}

impl Signals {
    /// Says that the status is a different one: the same value that [`Service::status`] gives.
    pub fn status_changed(&self, status: &Value) {
        self.send(Signal::StatusChanged(status.to_string()));
    }

    /// Says that the activity log has one more line.
    pub fn activity(&self, line: &Value) {
        self.send(Signal::Activity(line.to_string()));
    }

    /// Says that a code was used, refused or ran out.
    pub fn pairing(&self, event: &Value) {
        self.send(Signal::Pairing(event.to_string()));
    }

    fn send(&self, signal: Signal) {
        // Nobody listening is the usual case.
        let _ = self.sender.send(signal);
    }
}

/// The running server; it stops, and its socket goes away, when this is dropped.
pub struct Bus {
    _tasks: JoinSet<()>,
}

impl Bus {
    /// Serves on `socket`, and on the session bus at that address (`Address::session()`), now or as soon as it is there.
    pub fn serve<S: Service>(
        socket: PrivateSocket,
        session_bus: Option<Address>,
        service: Arc<S>,
        signals: &Signals,
    ) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_socket(socket, Arc::clone(&service), signals.clone()));
        if let Some(address) = session_bus {
            tasks.spawn(serve_session_bus(address, service, signals.clone()));
        }
        Self { _tasks: tasks }
    }
}

async fn serve_socket<S: Service>(socket: PrivateSocket, service: Arc<S>, signals: Signals) {
    let room = Arc::new(Semaphore::new(CLIENTS));
    let mut clients = JoinSet::new();
    loop {
        let permit = Arc::clone(&room).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, caller) = socket.accept().await;
        let (service, signals) = (Arc::clone(&service), signals.clone());
        clients.spawn(async move {
            if let Err(error) = serve_client(stream, Served { service, caller }, signals).await {
                tracing::debug!(%error, "a client on the private socket went away");
            }
            drop(permit);
        });
        while clients.try_join_next().is_some() {}
    }
}

async fn serve_client<S: Service>(
    stream: tokio::net::UnixStream,
    served: Served<S>,
    signals: Signals,
) -> zbus::Result<()> {
    // Subscribed before the handshake ends, so that a client which calls and then listens has missed nothing.
    let receiver = signals.sender.subscribe();
    let builder =
        zbus::connection::Builder::unix_stream(stream).server(Guid::generate())?.p2p().serve_at(PATH, served)?;
    let Ok(connection) = tokio::time::timeout(HANDSHAKE, builder.build()).await else { return Ok(()) };
    let connection = connection?;
    forward::<S>(&connection, receiver).await;
    Ok(())
}

async fn serve_session_bus<S: Service>(address: Address, service: Arc<S>, signals: Signals) {
    let mut told = false;
    loop {
        match join_session_bus(address.clone(), Arc::clone(&service)).await {
            Ok(connection) => {
                tracing::debug!("serving on the session bus");
                forward::<S>(&connection, signals.sender.subscribe()).await;
            }
            Err(error) if !told => tracing::info!(%error, "no session bus; the private socket serves"),
            Err(error) => tracing::debug!(%error, "still no session bus"),
        }
        told = true;
        tokio::time::sleep(SESSION_BUS_RETRY).await;
    }
}

async fn join_session_bus<S: Service>(address: Address, service: Arc<S>) -> zbus::Result<Connection> {
    let served = Served { service, caller: Caller::OnSessionBus };
    let connection = zbus::connection::Builder::address(address)?.serve_at(PATH, served)?.build().await?;
    connection.request_name_with_flags(NAME, RequestNameFlags::DoNotQueue.into()).await?;
    Ok(connection)
}

/// Passes signals on until the connection ends.
async fn forward<S: Service>(connection: &Connection, mut receiver: broadcast::Receiver<Signal>) {
    let emitter = SignalEmitter::new(connection, PATH).expect("the path is well formed");
    loop {
        let signal = tokio::select! {
            signal = receiver.recv() => signal,
            () = connection.closed() => return,
        };
        let sent = match signal {
            Ok(Signal::StatusChanged(text)) => Served::<S>::status_changed(&emitter, &text).await,
            Ok(Signal::Activity(text)) => Served::<S>::activity(&emitter, &text).await,
            Ok(Signal::Pairing(text)) => Served::<S>::pairing(&emitter, &text).await,
            Err(broadcast::error::RecvError::Lagged(_)) => continue,
            // The daemon is ending; answers on their way still want the connection.
            Err(broadcast::error::RecvError::Closed) => return connection.closed().await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The object as one connection sees it.
struct Served<S> {
    service: Arc<S>,
    caller: Caller,
}

impl<S: Service> Served<S> {
    /// Runs a call on a task of its own: a caller that goes away does not stop half of a join, and a panic becomes an
    /// answer.
    async fn answer(&self, call: impl Future<Output = Answer> + Send + 'static) -> Result<String, Failure> {
        text(tokio::spawn(call).await)
    }

    /// Judges a hold, or all if the id is empty, for a caller who may.
    async fn judge(
        &self,
        id: String,
        verdict: Verdict,
        header: &Header<'_>,
        connection: &Connection,
    ) -> Result<String, Failure> {
        self.caller.may_do_privileged_things(header, connection).await?;
        let (service, id) = (Arc::clone(&self.service), filled(id, String::is_empty));
        self.answer(async move { service.held_judge(id, verdict).await }).await
    }

    /// As [`Self::answer`], but given up when the caller is gone.
    async fn answer_while_wanted(
        &self,
        call: impl Future<Output = Answer> + Send + 'static,
        header: &Header<'_>,
        connection: &Connection,
    ) -> Result<String, Failure> {
        let mut task = JoinSet::new();
        task.spawn(call);
        tokio::select! {
            Some(done) = task.join_next() => text(done),
            () = gone(header, connection) => Err(Failure::failed("the caller went away", "ask again")),
        }
    }
}

fn text(done: Result<Answer, tokio::task::JoinError>) -> Result<String, Failure> {
    match done {
        Ok(answer) => answer.map(|value| value.to_string()),
        Err(error) => {
            tracing::error!(%error, "a bus call did not end well");
            Err(Failure::bug("the daemon stumbled over this request"))
        }
    }
}

/// Returns when the caller has left the bus, or has closed its connection to us.
async fn gone(header: &Header<'_>, connection: &Connection) {
    tokio::select! {
        () = connection.closed() => {}
        () = left(header, connection), if connection.is_bus() => {}
    }
}

/// Returns when the caller has left the bus; never, if the bus does not tell.
async fn left(header: &Header<'_>, connection: &Connection) {
    let changes = async {
        let proxy = DBusProxy::new(connection).await.ok()?;
        proxy.receive_name_owner_changed_with_args(&[(0, header.sender()?), (2, "")]).await.ok()
    };
    match changes.await {
        Some(mut changes) => drop(changes.next().await),
        None => std::future::pending().await,
    }
}

fn relay(text: &str) -> Result<RelayAddress, Failure> {
    RelayAddress::parse(text)
        .map_err(|error| Failure::usage(error.to_string(), "`relay-server serve` prints its address on the first line"))
}

fn path(bytes: Vec<u8>) -> Result<PathBuf, Failure> {
    if bytes.first() == Some(&b'/') && !bytes.contains(&0) {
        Ok(PathBuf::from(OsString::from_vec(bytes)))
    } else {
        Err(Failure::usage("a path on the bus must be absolute", "put the current directory before it"))
    }
}

fn filled<T>(value: T, is_empty: impl FnOnce(&T) -> bool) -> Option<T> {
    if is_empty(&value) { None } else { Some(value) }
}

fn which(version: String, at: &str, device: String) -> Result<Which, Failure> {
    let time = |text: &str| {
        text.parse().map_err(|_| Failure::usage("that is not a point in time", "write it as 2026-01-31T18:00:00Z"))
    };
    match (version.is_empty(), at.is_empty(), device.is_empty()) {
        (true, true, true) => Ok(Which::Newest),
        (false, true, true) => Ok(Which::Version(version)),
        (true, false, true) => time(at).map(Which::At),
        (true, false, false) => Ok(Which::CameFrom { device, since: time(at)? }),
        (true, true, false) => Err(Failure::usage("it is not said since when", "give a time beside the device")),
        (false, ..) => Err(Failure::usage("a version and a time exclude each other", "give one of them")),
    }
}

#[interface(name = "org.hearth.Sync1", introspection_docs = false)]
impl<S: Service> Served<S> {
    #[zbus(out_args("result"))]
    async fn init(
        &self,
        relay: String,
        name: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, Failure> {
        self.caller.may_do_privileged_things(&header, connection).await?;
        let (service, relay) = (Arc::clone(&self.service), self::relay(&relay)?);
        self.answer(async move { service.init(relay, name, None).await }).await
    }

    #[zbus(out_args("result"))]
    async fn init_invited(
        &self,
        relay: String,
        name: String,
        invitation: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, Failure> {
        self.caller.may_do_privileged_things(&header, connection).await?;
        let (service, relay) = (Arc::clone(&self.service), self::relay(&relay)?);
        self.answer(async move { service.init(relay, name, Some(invitation)).await }).await
    }

    #[zbus(out_args("result"))]
    async fn device_add(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, Failure> {
        self.caller.may_do_privileged_things(&header, connection).await?;
        let service = Arc::clone(&self.service);
        self.answer(async move { service.device_add().await }).await
    }

    #[zbus(out_args("result"))]
    async fn join(
        &self,
        code: String,
        relay: String,
        name: String,
        settings: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, Failure> {
        self.caller.may_do_privileged_things(&header, connection).await?;
        let (relay, settings) = (self::relay(&relay)?, JoinSettings::parse(&settings)?);
        let service = Arc::clone(&self.service);
        self.answer(async move { service.join(JoinWith::Code(code), relay, name, settings).await }).await
    }

    #[zbus(out_args("result"))]
    async fn join_phrase(
        &self,
        phrase: String,
        relay: String,
        name: String,
        settings: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, Failure> {
        self.caller.may_do_privileged_things(&header, connection).await?;
        let (relay, settings) = (self::relay(&relay)?, JoinSettings::parse(&settings)?);
        let service = Arc::clone(&self.service);
        self.answer(async move { service.join(JoinWith::Phrase(phrase), relay, name, settings).await }).await
    }

    #[zbus(out_args("result"))]
    async fn device_list(&self) -> Result<String, Failure> {
        let service = Arc::clone(&self.service);
        self.answer(async move { service.device_list().await }).await
    }

    #[zbus(out_args("result"))]
    async fn device_rename(
        &self,
        old: String,
        new: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, Failure> {
        self.caller.may_do_privileged_things(&header, connection).await?;
        let service = Arc::clone(&self.service);
        self.answer(async move { service.device_rename(old, new).await }).await
    }

    #[zbus(out_args("result"))]
    async fn device_revoke(
        &self,
        name: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, Failure> {
        self.caller.may_do_privileged_things(&header, connection).await?;
        let service = Arc::clone(&self.service);
        self.answer(async move { service.device_revoke(name).await }).await
    }

    #[zbus(out_args("result"))]
    async fn status(&self) -> Result<String, Failure> {
        let service = Arc::clone(&self.service);
        self.answer(async move { service.status().await }).await
    }

    #[zbus(out_args("result"))]
    async fn wait(
        &self,
        timeout_ms: u64,
        peer: String,
        online: bool,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, Failure> {
        let timeout = filled(timeout_ms, |ms| *ms == 0).map(Duration::from_millis);
        let barrier = Barrier { timeout, peer: filled(peer, String::is_empty), online };
        let service = Arc::clone(&self.service);
        self.answer_while_wanted(async move { service.wait(barrier).await }, &header, connection).await
    }

    #[zbus(out_args("result"))]
    async fn pause(&self) -> Result<String, Failure> {
        let service = Arc::clone(&self.service);
        self.answer(async move { service.pause().await }).await
    }

    #[zbus(out_args("result"))]
    async fn resume(&self) -> Result<String, Failure> {
        let service = Arc::clone(&self.service);
        self.answer(async move { service.resume().await }).await
    }

    #[zbus(out_args("result"))]
    async fn log(&self, limit: u32) -> Result<String, Failure> {
        let service = Arc::clone(&self.service);
        self.answer(async move { service.log(limit).await }).await
    }

    #[zbus(out_args("result"))]
    async fn doctor(&self) -> Result<String, Failure> {
        let service = Arc::clone(&self.service);
        self.answer(async move { service.doctor().await }).await
    }

    #[zbus(out_args("result"))]
    async fn why(&self, path: Vec<u8>) -> Result<String, Failure> {
        let (service, path) = (Arc::clone(&self.service), self::path(path)?);
        self.answer(async move { service.why(path).await }).await
    }

    #[zbus(out_args("result"))]
    async fn rules_list(&self, asking: bool) -> Result<String, Failure> {
        let service = Arc::clone(&self.service);
        self.answer(async move { service.rules_list(asking).await }).await
    }

    #[zbus(out_args("result"))]
    async fn rules_add(&self, pattern: String, class: String, on: String, note: String) -> Result<String, Failure> {
        let rule = NewRule { pattern, class, on: filled(on, String::is_empty), note };
        let service = Arc::clone(&self.service);
        self.answer(async move { service.rules_add(rule).await }).await
    }

    #[zbus(out_args("result"))]
    async fn rules_remove(&self, pattern: String, on: String) -> Result<String, Failure> {
        let (service, on) = (Arc::clone(&self.service), filled(on, String::is_empty));
        self.answer(async move { service.rules_remove(pattern, on).await }).await
    }

    #[zbus(out_args("result"))]
    async fn relay_list(&self) -> Result<String, Failure> {
        let service = Arc::clone(&self.service);
        self.answer(async move { service.relay_list().await }).await
    }

    #[zbus(out_args("result"))]
    async fn relay_add(
        &self,
        relay: String,
        invitation: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, Failure> {
        self.caller.may_do_privileged_things(&header, connection).await?;
        let (service, relay) = (Arc::clone(&self.service), self::relay(&relay)?);
        let invitation = filled(invitation, String::is_empty);
        self.answer(async move { service.relay_add(relay, invitation).await }).await
    }

    #[zbus(out_args("result"))]
    async fn relay_remove(
        &self,
        relay: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, Failure> {
        self.caller.may_do_privileged_things(&header, connection).await?;
        let (service, relay) = (Arc::clone(&self.service), self::relay(&relay)?);
        self.answer(async move { service.relay_remove(relay).await }).await
    }

    #[zbus(out_args("result"))]
    async fn history(&self, path: Vec<u8>) -> Result<String, Failure> {
        let service = Arc::clone(&self.service);
        let path = filled(path, Vec::is_empty).map(self::path).transpose()?;
        self.answer(async move { service.history(path).await }).await
    }

    #[zbus(out_args("result"))]
    async fn restore(
        &self,
        path: Vec<u8>,
        version: String,
        at: String,
        device: String,
        to: Vec<u8>,
    ) -> Result<String, Failure> {
        let to = filled(to, Vec::is_empty).map(self::path).transpose()?;
        let restore = Restore { path: self::path(path)?, which: which(version, &at, device)?, to };
        let service = Arc::clone(&self.service);
        self.answer(async move { service.restore(restore).await }).await
    }

    #[zbus(out_args("result"))]
    async fn conflicts(&self) -> Result<String, Failure> {
        let service = Arc::clone(&self.service);
        self.answer(async move { service.conflicts().await }).await
    }

    #[zbus(out_args("result"))]
    async fn held(&self) -> Result<String, Failure> {
        let service = Arc::clone(&self.service);
        self.answer(async move { service.held().await }).await
    }

    #[zbus(out_args("result"))]
    async fn held_release(
        &self,
        id: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, Failure> {
        self.judge(id, Verdict::Release, &header, connection).await
    }

    #[zbus(out_args("result"))]
    async fn held_undo(
        &self,
        id: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, Failure> {
        self.judge(id, Verdict::Undo, &header, connection).await
    }

    #[zbus(out_args("result"))]
    async fn settings_list(&self, pattern: String) -> Result<String, Failure> {
        let service = Arc::clone(&self.service);
        self.answer(async move { service.settings_list(pattern).await }).await
    }

    #[zbus(out_args("result"))]
    async fn settings_get(&self, key: String) -> Result<String, Failure> {
        let service = Arc::clone(&self.service);
        self.answer(async move { service.settings_get(key).await }).await
    }

    #[zbus(out_args("result"))]
    async fn settings_explain(&self, key: String) -> Result<String, Failure> {
        let service = Arc::clone(&self.service);
        self.answer(async move { service.settings_explain(key).await }).await
    }

    #[zbus(out_args("result"))]
    async fn settings_history(&self, key: String) -> Result<String, Failure> {
        let service = Arc::clone(&self.service);
        self.answer(async move { service.settings_history(key).await }).await
    }

    #[zbus(signal)]
    async fn status_changed(emitter: &SignalEmitter<'_>, status: &str) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn activity(emitter: &SignalEmitter<'_>, line: &str) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn pairing(emitter: &SignalEmitter<'_>, event: &str) -> zbus::Result<()>;

    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }
}
