//! Talks to the daemon: calls, and signals that arrive meanwhile.
//!
//! The private socket and not the session bus: it belongs to exactly this home, while several machines on one computer
//! may share a session bus, and it is there without one. Gives JSON values, or [`Failure`]s with their exit code.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use hearth_schemas::paths::Paths;
use serde::Serialize;
use serde_json::Value;
use tokio::net::UnixStream;
use zbus::message::Type;
use zbus::zvariant::DynamicType;
use zbus::{Connection, MessageStream};

use crate::error::{Exit, Failure};

const PATH: &str = "/org/hearth/Sync1";
const INTERFACE: &str = "org.hearth.Sync1";
/// A daemon that has not finished the handshake by then hangs.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// A connection to the daemon.
pub(crate) struct Bus {
    connection: Connection,
}

/// Something that the daemon said unasked.
#[derive(Debug)]
pub(crate) enum Event {
    StatusChanged(Value),
    Activity(Value),
    Pairing(Value),
}

/// The events from here on. Must be read: a queue that is full holds back answers too.
pub(crate) struct Events {
    stream: MessageStream,
}

impl Bus {
    /// Reaches the daemon of this home.
    pub(crate) async fn connect(paths: &Paths) -> Result<Self, Failure> {
        let socket = paths.socket();
        let stream = match open(&socket).await {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Err(Failure::not_running());
            }
            Err(error) => {
                let what = format!("cannot reach the daemon at {}: {error}", socket.display());
                return Err(Failure::new(Exit::NotRunning, what, "run this as the user whose home it is"));
            }
        };
        let builder = zbus::connection::Builder::unix_stream(stream).p2p();
        match tokio::time::timeout(HANDSHAKE, builder.build()).await {
            Ok(Ok(connection)) => Ok(Self { connection }),
            Ok(Err(_)) => Err(Failure::stopped()),
            Err(_) => {
                let hint = "restart it with `systemctl --user restart hearth`";
                Err(Failure::new(Exit::NotRunning, "the daemon does not answer", hint))
            }
        }
    }

    /// Calls a method and gives its result.
    pub(crate) async fn call<B>(&self, method: &str, arguments: &B) -> Result<Value, Failure>
    where
        B: Serialize + DynamicType,
    {
        let call = self.connection.call_method(None::<&str>, PATH, Some(INTERFACE), method, arguments);
        let reply = tokio::select! {
            biased;
            reply = call => reply?,
            () = self.connection.closed() => return Err(Failure::stopped()),
        };
        let text: String = reply.body().deserialize()?;
        parse(&text)
    }

    /// Listens from here on.
    pub(crate) fn events(&self) -> Events {
        Events { stream: MessageStream::from(&self.connection) }
    }
}

impl Events {
    /// The next event.
    pub(crate) async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            let message = self.stream.next().await.ok_or_else(Failure::stopped)??;
            if message.message_type() != Type::Signal {
                continue;
            }
            let header = message.header();
            let event = match header.member().map(|member| member.as_str()) {
                Some("StatusChanged") => Event::StatusChanged,
                Some("Activity") => Event::Activity,
                Some("Pairing") => Event::Pairing,
                _ => continue,
            };
            let text: String = message.body().deserialize()?;
            return Ok(event(parse(&text)?));
        }
    }
}

fn parse(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::bug(format!("the daemon's answer is not JSON: {error}")))
}

/// A socket address holds some 107 bytes; a longer path is reached through the directory's descriptor.
async fn open(socket: &Path) -> io::Result<UnixStream> {
    if socket.as_os_str().len() <= 100 {
        return UnixStream::connect(socket).await;
    }
    let directory = File::open(socket.parent().unwrap_or(Path::new("/")))?;
    let name = socket.file_name().unwrap_or_default();
    UnixStream::connect(Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name)).await
}
