//! The relay's TCP port: TLS, one HTTP request, and then the messages of a tunnel.
//!
//! ```text
//! accept → bucket of the origin, half-open cap → TLS → request → /health | WebSocket: messages ⇄ tunnel
//! ```
//! A caller costs little until it has sent a whole request, and not much after. What it may take of time and memory is
//! bounded at each step; who exceeds a bound loses this connection and hears nothing. The request is judged by
//! [`judge`], which is pure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use data_encoding::BASE64;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hearth_schemas::tunnel::{ACCEPT_SUFFIX, HEALTH_PATH, MAX_HEAD, MAX_MESSAGE, PATH};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::admission::{Buckets, Limits, Origin};
use crate::listen::HalfOpen;
use crate::socket::RelaySocket;
use crate::tunnel::{Opened, Tunnels};

/// How long TLS and the request may take together.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a device may not take a message.
const STALL: Duration = Duration::from_secs(2);
/// The pause when the system cannot accept, say for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked whether anybody uses a tunnel.
const LOOK: Duration = Duration::from_secs(5);
/// How much the kernel may hold unsent, in bytes. More would only grow old there.
const UNSENT: u32 = 64 << 10;
/// What is read at a time, in bytes.
const READ: usize = 4 << 10;
/// Most header fields of a request.
const FIELDS: usize = 32;

const HEALTHY: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";
const MALFORMED: &str = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const NOT_ALLOWED: &str =
    "HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const NO_UPGRADE: &str = "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                          Content-Length: 0\r\nConnection: close\r\n\r\n";

type Web = WebSocketStream<TlsStream<TcpStream>>;

/// The TCP port, listening.
pub(crate) struct WebPort {
    pub(crate) listener: TcpListener,
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) socket: Arc<RelaySocket>,
    pub(crate) tunnels: Arc<Tunnels>,
    pub(crate) limits: Limits,
    pub(crate) tag_key: [u8; 32],
    pub(crate) callers: Buckets,
    pub(crate) half_open: Arc<AtomicUsize>,
}

impl WebPort {
    /// Lets callers in for as long as it is asked.
    pub(crate) async fn run(mut self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => self.let_in(stream, from),
                Err(error) => {
                    tracing::debug!(%error, "no caller could be accepted");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Gives a caller a task of its own, or hangs up.
    fn let_in(&mut self, stream: TcpStream, from: SocketAddr) {
        let origin = Origin::new(&self.tag_key, from.ip());
        let crowded = self.half_open.load(Ordering::Relaxed) >= self.limits.tcp_half_open;
        if crowded || !self.tunnels.have_room() || !self.callers.take(origin, self.tunnels.now_ms()) {
            return;
        }
        let half_open = HalfOpen::new(self.half_open.clone());
        let (acceptor, socket, tunnels) = (self.acceptor.clone(), self.socket.clone(), self.tunnels.clone());
        let stranger_ms = self.limits.stranger_ms;
        tokio::spawn(async move {
            // Boxed, so that the memory of the handshake goes when it is over.
            let Ok(Some(web)) = timeout(HANDSHAKE, Box::pin(welcome(stream, acceptor))).await else { return };
            drop(half_open);
            let Some(opened) = tunnels.open(origin) else { return };
            tracing::debug!(origin = origin.0, "a tunnel is open");
            Box::pin(serve(web, &socket, &opened, stranger_ms)).await;
            tracing::debug!(origin = origin.0, "a tunnel is closed");
        });
    }
}

/// Hears a caller's request; `None` if it is no tunnel that it wants.
async fn welcome(stream: TcpStream, acceptor: TlsAcceptor) -> Option<Web> {
    stream.set_nodelay(true).ok()?;
    SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT).ok()?;
    let mut tls = acceptor.accept(stream).await.ok()?;
    let mut head = Vec::with_capacity(MAX_HEAD / 4);
    let (answer, length) = loop {
        let room = MAX_HEAD.checked_sub(head.len()).filter(|room| *room > 0)?;
        let room = u64::try_from(room).ok()?;
        if (&mut tls).take(room).read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
        if let Some(judged) = judge(&head) {
            break judged;
        }
    };
    match answer {
        Answer::Tunnel { accept } => {
            let upgrade = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            tls.write_all(upgrade.as_bytes()).await.ok()?;
            tls.flush().await.ok()?;
            let config = WebSocketConfig::default()
                .read_buffer_size(READ)
                .write_buffer_size(0)
                .max_write_buffer_size(4 * MAX_MESSAGE)
                .max_message_size(Some(MAX_MESSAGE))
                .max_frame_size(Some(MAX_MESSAGE));
            Some(WebSocketStream::from_partially_read(tls, head.split_off(length), Role::Server, Some(config)).await)
        }
        Answer::Other(text) => {
            tls.write_all(text.as_bytes()).await.ok()?;
            tls.shutdown().await.ok()?;
            None
        }
    }
}

/// What to answer to a request.
#[derive(PartialEq, Eq, Debug)]
enum Answer {
    /// A tunnel, with this proof of having understood.
    Tunnel { accept: String },
    /// This, and no more.
    Other(&'static str),
}

/// Judges a request once it is whole, and says how long it was. `None` while it is not.
fn judge(bytes: &[u8]) -> Option<(Answer, usize)> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return None,
        Err(_) => return Some((Answer::Other(MALFORMED), bytes.len())),
    };
    let other = |text| Some((Answer::Other(text), length));
    if request.method != Some("GET") {
        return other(NOT_ALLOWED);
    }
    match request.path {
        Some(HEALTH_PATH) => return other(HEALTHY),
        Some(PATH) => {}
        _ => return other(NOT_FOUND),
    }
    let names = |field: &str, word: &str| {
        let named = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(field));
        named
            .flat_map(|header| header.value.split(|byte| *byte == b','))
            .any(|value| value.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    };
    let upgrades =
        names("Connection", "upgrade") && names("Upgrade", "websocket") && names("Sec-WebSocket-Version", "13");
    let key = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("Sec-WebSocket-Key"));
    match key.filter(|key| upgrades && BASE64.decode(key.value.trim_ascii()).is_ok_and(|key| key.len() == 16)) {
        Some(key) => Some((Answer::Tunnel { accept: accept(key.value.trim_ascii()) }, length)),
        None => other(NO_UPGRADE),
    }
}

/// The proof of having understood a request to upgrade (RFC 6455 section 4.2.2). The hash protects nothing.
fn accept(key: &[u8]) -> String {
    use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
    BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, ACCEPT_SUFFIX.as_bytes()].concat()).as_ref())
}

/// Moves messages both ways until one side ends it, sends what is no message, stalls, or has no use for it.
async fn serve(web: Web, socket: &RelaySocket, opened: &Opened, stranger_ms: u64) {
    let (sink, stream) = web.split();
    tokio::select! {
        () = read(stream, socket, opened) => {}
        () = write(sink, opened) => {}
        () = until_idle(opened, stranger_ms) => {}
    }
}

async fn read(mut stream: SplitStream<Web>, socket: &RelaySocket, opened: &Opened) {
    while let Some(Ok(message)) = stream.next().await {
        match message {
            Message::Binary(message) => {
                if socket.arrive(&opened.tunnel, &message).is_err() {
                    return;
                }
            }
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Text(_) | Message::Close(_) | Message::Frame(_) => return,
        }
    }
}

async fn write(mut sink: SplitSink<Web, Message>, opened: &Opened) {
    loop {
        opened.tunnel.ready.notified().await;
        while let Some(message) = opened.next_message() {
            if !matches!(timeout(STALL, sink.send(Message::binary(message))).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}

async fn until_idle(opened: &Opened, stranger_ms: u64) {
    let mut looks = interval(LOOK);
    while !opened.is_idle(stranger_ms) {
        looks.tick().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPGRADE: &str = "Host: relay\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
                           Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    #[test]
    fn a_request_is_judged_by_its_path_and_its_fields() {
        let without = |field: &str| {
            let kept: Vec<&str> = UPGRADE.split_inclusive("\r\n").filter(|line| !line.starts_with(field)).collect();
            format!("GET {PATH} HTTP/1.1\r\n{}", kept.concat())
        };
        let table = [
            (format!("GET {HEALTH_PATH} HTTP/1.1\r\n"), HEALTHY),
            (format!("GET / HTTP/1.1\r\n{UPGRADE}"), NOT_FOUND),
            (format!("POST {PATH} HTTP/1.1\r\n{UPGRADE}"), NOT_ALLOWED),
            (format!("CONNECT example.org:22 HTTP/1.1\r\n{UPGRADE}"), NOT_ALLOWED),
            (without("Upgrade"), NO_UPGRADE),
            (without("Connection"), NO_UPGRADE),
            (without("Sec-WebSocket-Version"), NO_UPGRADE),
            (without("Sec-WebSocket-Key"), NO_UPGRADE),
            (without("Sec-WebSocket-Key") + "Sec-WebSocket-Key: short\r\n", NO_UPGRADE),
            ("\0\r\n".to_owned(), MALFORMED),
            (format!("GET {PATH} HTTP/1.1\r\n{}", "A: b\r\n".repeat(FIELDS + 1)), MALFORMED),
        ];
        for (request, wanted) in table {
            let request = request + "\r\n";
            assert_eq!(judge(request.as_bytes()).expect("whole").0, Answer::Other(wanted), "{request}");
        }
    }

    #[test]
    fn an_upgrade_is_answered_as_the_standard_says_and_what_follows_is_kept() {
        let request = format!("GET {PATH} HTTP/1.1\r\n{UPGRADE}\r\n");
        for end in 0..request.len() {
            assert_eq!(judge(&request.as_bytes()[..end]), None, "cut at {end}");
        }
        // The example of RFC 6455 section 1.3.
        let wanted = (Answer::Tunnel { accept: "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned() }, request.len());
        assert_eq!(judge(&[request.as_bytes(), b"\x82\x00"].concat()), Some(wanted));
    }
}
