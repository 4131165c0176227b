//! What an operator may count, as text that Prometheus reads, on a Unix socket or a loopback address.
//!
//! [`Metrics`] is counted up by those who do the work, and asks the forwarder and the tunnels how they stand when somebody
//! looks. Nothing in it names an account, a device or an address: whoever reads it learns how busy the relay is, and not
//! with whom.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hearth_schemas::relay::{Refusal, Reply, ServerFrame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::forward::Forwarder;
use crate::tunnel::Tunnels;

/// How long a reader may take.
const READER: Duration = Duration::from_secs(5);
/// Longest request, in bytes.
const MAX_HEAD: usize = 8 << 10;
/// Readers at once.
const READERS: usize = 8;
/// The pause when the system cannot accept.
const PAUSE: Duration = Duration::from_millis(100);

/// Where metrics are read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MetricsAt {
    /// A Unix socket; one that an earlier run left there is replaced.
    Socket(PathBuf),
    /// A TCP port of this computer alone.
    Loopback(SocketAddr),
}

/// Why metrics cannot be read there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotThere {
    /// It is neither a path nor an address.
    #[error("metrics are read on a Unix socket, given by its path with a `/`, or on an address as 127.0.0.1:9464")]
    Neither,
    /// Others than this computer could read them.
    #[error("metrics are for this computer alone: a loopback address, or a Unix socket")]
    NotLoopback,
}

impl FromStr for MetricsAt {
    type Err = NotThere;

    fn from_str(text: &str) -> Result<Self, NotThere> {
        if text.contains('/') {
            return Ok(Self::Socket(text.into()));
        }
        let address: SocketAddr = text.parse().map_err(|_| NotThere::Neither)?;
        if address.ip().is_loopback() { Ok(Self::Loopback(address)) } else { Err(NotThere::NotLoopback) }
    }
}

/// Over what a device is bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leg {
    Udp,
    Tcp,
}

/// Why a datagram was not forwarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dropped {
    /// It did not come from where a session is bound.
    Refused,
    /// Its destination is not there.
    Offline,
    /// The system's buffer was full.
    Full,
}

/// Why a caller was turned away before it could ask anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TurnedAway {
    /// There are too many connections.
    Crowd,
    /// It came too often.
    Often,
    /// It was asked to prove its address first.
    Unproven,
}

/// What is counted.
#[derive(Default)]
pub struct Metrics {
    connections: AtomicI64,
    logins: AtomicU64,
    refused: [AtomicU64; 9],
    datagrams: [AtomicU64; 2],
    bytes: [AtomicU64; 2],
    dropped: [AtomicU64; 3],
    binds: [AtomicU64; 2],
    turned_away: [AtomicU64; 3],
}

impl Metrics {
    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn gone(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts what is said to a device, if it counts.
    pub(crate) fn said(&self, frame: &ServerFrame) {
        match frame {
            ServerFrame::Reply { reply: Reply::Session(_), .. } => add(&self.logins, 1),
            ServerFrame::Reply { reply: Reply::Refused(refusal), .. } => add(&self.refused[place(*refusal).0], 1),
            ServerFrame::Reply { .. } | ServerFrame::Event(_) => {}
        }
    }

    pub(crate) fn forwarded(&self, to: Leg, datagrams: usize, bytes: usize) {
        add(&self.datagrams[to as usize], datagrams);
        add(&self.bytes[to as usize], bytes);
    }

    pub(crate) fn dropped(&self, why: Dropped, datagrams: usize) {
        add(&self.dropped[why as usize], datagrams);
    }

    pub(crate) fn bound(&self, answered: bool) {
        add(&self.binds[usize::from(!answered)], 1);
    }

    pub(crate) fn turned_away(&self, why: TurnedAway) {
        add(&self.turned_away[why as usize], 1);
    }

    fn text(&self, forwarder: &Mutex<Forwarder>, tunnels: &Tunnels) -> String {
        let standing = forwarder.lock().unwrap_or_else(PoisonError::into_inner).standing(tunnels.now_ms());
        let (open, waiting) = tunnels.standing();
        let mut out = Text::default();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        out.family("info", "gauge", "The version that runs.");
        out.labelled("info", "version", env!("CARGO_PKG_VERSION"), 1);
        out.family("connections", "gauge", "Open connections for requests.");
        out.plain("connections", u64::try_from(self.connections.load(Ordering::Relaxed)).unwrap_or_default());
        out.family("accounts", "gauge", "Accounts with a device that is logged in.");
        out.plain("accounts", standing.accounts);
        out.family("devices", "gauge", "Devices that are logged in.");
        out.plain("devices", standing.devices);
        out.family("bound", "gauge", "Devices that can be forwarded to, by what carries it.");
        out.labelled("bound", "leg", "udp", standing.bound_udp);
        out.labelled("bound", "leg", "tcp", standing.bound_tcp);
        out.family("tunnels", "gauge", "Open tunnels over TCP.");
        out.plain("tunnels", open);
        out.family("tunnel_waiting_bytes", "gauge", "Bytes that wait to go into tunnels.");
        out.plain("tunnel_waiting_bytes", waiting);
        out.family("logins_total", "counter", "Logins of devices that succeeded.");
        out.plain("logins_total", count(&self.logins));
        out.family("refused_total", "counter", "Requests that were refused, logins among them, by the reason given.");
        for refusal in REFUSALS {
            let (at, reason) = place(refusal);
            out.labelled("refused_total", "reason", reason, count(&self.refused[at]));
        }
        out.family(
            "turned_away_total",
            "counter",
            "Callers that were not let in, or were asked to prove their address.",
        );
        for (at, reason) in ["crowd", "often", "unproven"].into_iter().enumerate() {
            out.labelled("turned_away_total", "reason", reason, count(&self.turned_away[at]));
        }
        out.family("binds_total", "counter", "Bindings of sessions that were asked for.");
        for (at, result) in ["answered", "refused"].into_iter().enumerate() {
            out.labelled("binds_total", "result", result, count(&self.binds[at]));
        }
        out.family("forwarded_datagrams_total", "counter", "Datagrams between devices, by what they went on by.");
        out.labelled("forwarded_datagrams_total", "leg", "udp", count(&self.datagrams[0]));
        out.labelled("forwarded_datagrams_total", "leg", "tcp", count(&self.datagrams[1]));
        out.family("forwarded_bytes_total", "counter", "Their bytes, headers of ours included.");
        out.labelled("forwarded_bytes_total", "leg", "udp", count(&self.bytes[0]));
        out.labelled("forwarded_bytes_total", "leg", "tcp", count(&self.bytes[1]));
        out.family("dropped_datagrams_total", "counter", "Datagrams between devices that were not forwarded.");
        for (at, reason) in ["refused", "offline", "full"].into_iter().enumerate() {
            out.labelled("dropped_datagrams_total", "reason", reason, count(&self.dropped[at]));
        }
        out.0
    }
}

fn add(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

const REFUSALS: [Refusal; 9] = [
    Refusal::NotAuthorised,
    Refusal::NotAdmitted,
    Refusal::BadLog,
    Refusal::NoRoom,
    Refusal::NotFound,
    Refusal::Limit,
    Refusal::Unexpected,
    Refusal::Offline,
    Refusal::Trouble,
];

/// Where a refusal is counted, and what it is called.
fn place(refusal: Refusal) -> (usize, &'static str) {
    match refusal {
        Refusal::NotAuthorised => (0, "not_authorised"),
        Refusal::NotAdmitted => (1, "not_admitted"),
        Refusal::BadLog => (2, "bad_log"),
        Refusal::NoRoom => (3, "no_room"),
        Refusal::NotFound => (4, "not_found"),
        Refusal::Limit => (5, "limit"),
        Refusal::Unexpected => (6, "unexpected"),
        Refusal::Offline => (7, "offline"),
        Refusal::Trouble => (8, "trouble"),
    }
}

/// Prometheus's text format, version 0.0.4.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP hearth_relay_{name} {help}\n# TYPE hearth_relay_{name} {kind}"));
    }

    fn plain(&mut self, name: &str, value: u64) {
        self.line(format_args!("hearth_relay_{name} {value}"));
    }

    fn labelled(&mut self, name: &str, label: &str, which: &str, value: u64) {
        self.line(format_args!("hearth_relay_{name}{{{label}=\"{which}\"}} {value}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("memory takes all that is written");
    }
}

/// Where metrics are read, listening.
pub(crate) struct MetricsPort {
    listener: Listener,
    metrics: Arc<Metrics>,
    forwarder: Arc<Mutex<Forwarder>>,
    tunnels: Arc<Tunnels>,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl MetricsPort {
    /// Listens there.
    pub(crate) fn open(
        at: &MetricsAt,
        metrics: Arc<Metrics>,
        forwarder: Arc<Mutex<Forwarder>>,
        tunnels: Arc<Tunnels>,
    ) -> io::Result<Self> {
        let listener = match at {
            MetricsAt::Socket(path) => {
                take_away_stale(path)?;
                Listener::Unix(UnixListener::bind(path)?)
            }
            MetricsAt::Loopback(address) => Listener::Tcp(TcpListener::from_std(crate::socket::listen(*address)?)?),
        };
        Ok(Self { listener, metrics, forwarder, tunnels })
    }

    /// Answers readers for as long as it is asked.
    pub(crate) async fn run(self) {
        let readers = Arc::new(Semaphore::new(READERS));
        loop {
            let Ok(turn) = Arc::clone(&readers).acquire_owned().await else { return };
            let text = || self.metrics.text(&self.forwarder, &self.tunnels);
            match &self.listener {
                Listener::Unix(listener) => match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(answer(stream, text(), turn))),
                    Err(_) => sleep(PAUSE).await,
                },
                Listener::Tcp(listener) => match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(answer(stream, text(), turn))),
                    Err(_) => sleep(PAUSE).await,
                },
            }
        }
    }
}

/// A socket that nobody listens on any more is in the way of the next; another file is somebody's.
fn take_away_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Hears a request, whatever it asks for, and answers with the text.
async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    text: String,
    _turn: tokio::sync::OwnedSemaphorePermit,
) {
    let exchange = async {
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            if head.len() > MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let length = text.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{text}"
        );
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    if let Ok(Err(error)) = timeout(READER, exchange).await {
        tracing::debug!(%error, "metrics were not read to their end");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_on_this_computer_alone() {
        let table = [
            ("/run/hearth-relay/metrics", Ok(MetricsAt::Socket("/run/hearth-relay/metrics".into()))),
            ("127.0.0.1:9464", Ok(MetricsAt::Loopback(SocketAddr::from(([127, 0, 0, 1], 9464))))),
            ("[::1]:9464", Ok(MetricsAt::Loopback("[::1]:9464".parse().expect("an address")))),
            ("0.0.0.0:9464", Err(NotThere::NotLoopback)),
            ("192.0.2.1:9464", Err(NotThere::NotLoopback)),
            ("metrics", Err(NotThere::Neither)),
        ];
        for (text, wanted) in table {
            assert_eq!(text.parse(), wanted, "{text}");
        }
    }

    #[test]
    fn each_refusal_has_a_place_of_its_own() {
        for (at, refusal) in REFUSALS.into_iter().enumerate() {
            assert_eq!(place(refusal).0, at);
        }
    }
}
