//! A way to the relay where no UDP gets out: the same datagrams in messages of a WebSocket, over TLS over TCP, through
//! an HTTP proxy where one is set.
//!
//! [`dial`] opens one, and [`carry`] moves messages between its [`Queue`] and the wire; [`crate::carrier`] puts datagrams
//! into the queue, and [`crate::socket`] takes what comes. When a tunnel is wanted is [`crate::relay`]'s business. Who dials is known to
//! the relay by the login inside; the relay is known by its key, here as inside.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use data_encoding::BASE64;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hearth_schemas::address::RelayAddress;
use hearth_schemas::tunnel::{ACCEPT_SUFFIX, MAX_HEAD, MAX_MESSAGE, PATH, Waiting, split};
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tracing::debug;

use crate::proxy::{self, Proxy};
use crate::relay::RelayError;
use crate::socket::PathSocket;
use crate::tls::{self, Trust};

/// How long each way to the relay may take.
const OPENING: Duration = Duration::from_secs(3);
/// How long a proxy that is set has for itself before the direct way is tried as well.
const PROXY_FIRST: Duration = Duration::from_secs(1);
/// How long the network may not take a message.
const STALL: Duration = Duration::from_secs(5);
/// How much the kernel may hold unsent, in bytes. More would only grow old there.
const UNSENT: u32 = 64 << 10;
/// What is read at a time, in bytes.
const READ: usize = 4 << 10;
/// Most header fields of an answer.
const FIELDS: usize = 64;

type Web = WebSocketStream<TlsStream<TcpStream>>;

/// A tunnel that was opened and carries nothing yet.
pub(crate) struct Dialled {
    pub(crate) web: Box<Web>,
    /// The proxy that it goes through, as host and port.
    pub(crate) proxy: Option<String>,
}

/// Opens a tunnel to a relay: through the proxy that is set for it, if one is, else to this address of its.
pub(crate) async fn dial(address: &RelayAddress, target: Option<SocketAddr>, trust: Trust) -> anyhow::Result<Dialled> {
    let choice = proxy::choose(&address.host, address.port).await;
    let result = match &choice.proxy {
        Some(proxy) => through_or_past(proxy, address, target, trust).await,
        None => past(address, target, trust).await,
    };
    result.map_err(|error| match choice.trouble {
        Some(trouble) => anyhow!("{error:#}; {trouble}"),
        None => error,
    })
}

/// Through a proxy; past it if that fails, or does not succeed soon.
async fn through_or_past(
    proxy: &Proxy,
    address: &RelayAddress,
    target: Option<SocketAddr>,
    trust: Trust,
) -> anyhow::Result<Dialled> {
    let through = through(proxy, address, trust);
    let late = async {
        sleep(PROXY_FIRST).await;
        past(address, target, trust).await
    };
    tokio::pin!(through, late);
    let (first, error) = tokio::select! {
        dialled = &mut through => match dialled {
            Ok(dialled) => return Ok(dialled),
            Err(error) => (past(address, target, trust).await, error),
        },
        dialled = &mut late => match dialled {
            Ok(dialled) => return Ok(dialled),
            Err(error) => (through.await, error),
        },
    };
    first.map_err(|other| if other.is::<RelayError>() { other } else { anyhow!("{error:#}; {other:#}") })
}

async fn through(proxy: &Proxy, address: &RelayAddress, trust: Trust) -> anyhow::Result<Dialled> {
    let work = async {
        let stream = TcpStream::connect((proxy.host.as_str(), proxy.port)).await?;
        let stream = connect_through(stream, proxy, address).await?;
        open(stream, address, trust, Some(proxy.to_string())).await
    };
    let result = timeout(OPENING, work).await.unwrap_or_else(|_| Err(anyhow!("no answer")));
    result.with_context(|| format!("through the proxy {proxy}"))
}

async fn past(address: &RelayAddress, target: Option<SocketAddr>, trust: Trust) -> anyhow::Result<Dialled> {
    let target = target.context("the relay's name has no address")?;
    let work = async { open(TcpStream::connect(target).await?, address, trust, None).await };
    timeout(OPENING, work).await.unwrap_or_else(|_| Err(anyhow!("no answer"))).context("over TCP")
}

/// Asks a proxy for a connection to the relay.
async fn connect_through<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    proxy: &Proxy,
    address: &RelayAddress,
) -> anyhow::Result<S> {
    let place = place(address);
    let credentials =
        proxy.credentials.as_ref().map(|credentials| format!("Proxy-Authorization: Basic {credentials}\r\n"));
    let request =
        format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{}\r\n", credentials.as_deref().unwrap_or_default());
    stream.write_all(request.as_bytes()).await?;
    let (head, rest) = read_head(&mut stream).await?;
    match head.status {
        200..300 if rest.is_empty() => Ok(stream),
        200..300 => bail!("it says more than it was asked"),
        407 if proxy.credentials.is_some() => bail!("it refuses the user name or the password"),
        407 => bail!("it wants a user name and a password"),
        status => bail!("it refuses, with status {status}"),
    }
}

/// TLS and the upgrade, on a connection to the relay.
async fn open(
    stream: TcpStream,
    address: &RelayAddress,
    trust: Trust,
    proxy: Option<String>,
) -> anyhow::Result<Dialled> {
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT)?;
    let name = if trust == Trust::WebPki { address.host.clone() } else { tls::NAME.to_owned() };
    let connector = TlsConnector::from(Arc::new(tls::relay_tunnel(trust)?));
    let connected = connector.connect(ServerName::try_from(name)?, stream).await;
    let mut tls = connected.map_err(|error| match refused_key(&error, address, trust) {
        Some(error) => anyhow::Error::from(error),
        None => error.into(),
    })?;

    let mut key = [0; 16];
    getrandom::fill(&mut key)?;
    let key = BASE64.encode(&key);
    let request = format!(
        "GET {PATH} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n",
        place(address)
    );
    tls.write_all(request.as_bytes()).await?;
    tls.flush().await?;
    let (head, rest) = read_head(&mut tls).await?;
    let accept = BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{ACCEPT_SUFFIX}").as_bytes()).as_ref());
    if head.status != 101 || head.accept.as_deref() != Some(accept.as_bytes()) {
        bail!("who answers opens no tunnel (status {})", head.status);
    }
    let config = WebSocketConfig::default()
        .read_buffer_size(READ)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MAX_MESSAGE)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let web = WebSocketStream::from_partially_read(tls, rest, Role::Client, Some(config)).await;
    Ok(Dialled { web: Box::new(web), proxy })
}

/// The relay's host and port as they stand in a request.
fn place(address: &RelayAddress) -> String {
    if address.host.contains(':') {
        format!("[{}]:{}", address.host, address.port)
    } else {
        format!("{}:{}", address.host, address.port)
    }
}

/// The error that says that somebody else than the relay answers, if it was that.
fn refused_key(error: &io::Error, address: &RelayAddress, trust: Trust) -> Option<RelayError> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let wrong = matches!(inner, rustls::Error::InvalidCertificate(_)) && matches!(trust, Trust::Pinned(_));
    wrong.then(|| RelayError::WrongKey { host: place(address) })
}

/// What matters of the head of an HTTP answer.
#[derive(PartialEq, Eq, Debug)]
struct Head {
    status: u16,
    accept: Option<Vec<u8>>,
}

/// Reads the head of an answer, of bounded length. Gives what came after it as well.
async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> anyhow::Result<(Head, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        let room = MAX_HEAD - bytes.len();
        if room == 0 {
            bail!("the answer is too long");
        }
        if stream.take(u64::try_from(room)?).read_buf(&mut bytes).await? == 0 {
            bail!("it hung up");
        }
        if let Some((head, length)) = parse_head(&bytes)? {
            return Ok((head, bytes.split_off(length)));
        }
    }
}

/// The head of an answer and its length; `None` while it is not whole.
fn parse_head(bytes: &[u8]) -> anyhow::Result<Option<(Head, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = response.parse(bytes).map_err(|_| anyhow!("the answer is not HTTP"))?
    else {
        return Ok(None);
    };
    let accept = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("Sec-WebSocket-Accept"));
    let accept = accept.map(|header| header.value.trim_ascii().to_vec());
    Ok(Some((Head { status: response.code.unwrap_or_default(), accept }, length)))
}

/// What waits to go into a tunnel.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    ready: Notify,
    started: Instant,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self { waiting: Mutex::default(), ready: Notify::new(), started: Instant::now() }
    }

    /// Queues datagrams, all of one length but the last. What is too much is lost, as on any network.
    pub(crate) fn send(&self, contents: &[u8], segment: Option<usize>) {
        let now_ms = self.now_ms();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            for datagram in contents.chunks(segment.unwrap_or(contents.len()).max(1)) {
                waiting.push(datagram, now_ms);
            }
        }
        self.ready.notify_one();
    }

    fn next_message(&self) -> Option<Vec<u8>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).next_message(self.now_ms())
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Moves messages both ways until the tunnel breaks or the socket is gone.
pub(crate) async fn carry(web: Box<Web>, queue: Arc<Queue>, socket: Weak<PathSocket>, relay: usize) {
    let (sink, stream) = (*web).split();
    tokio::select! {
        () = read(stream, &socket, relay) => {}
        () = write(sink, &queue) => {}
    }
    debug!("the tunnel to the relay ended");
    if let Some(socket) = socket.upgrade() {
        socket.tunnel_ended(relay, &queue);
    }
}

async fn read(mut stream: SplitStream<Web>, socket: &Weak<PathSocket>, relay: usize) {
    while let Some(Ok(message)) = stream.next().await {
        match message {
            Message::Binary(message) => {
                let (Some(socket), Ok(datagrams)) = (socket.upgrade(), split(&message)) else { return };
                socket.take_from_tunnel(relay, datagrams);
            }
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Text(_) | Message::Close(_) | Message::Frame(_) => return,
        }
    }
}

async fn write(mut sink: SplitSink<Web, Message>, queue: &Queue) {
    loop {
        queue.ready.notified().await;
        while let Some(message) = queue.next_message() {
            if !matches!(timeout(STALL, sink.send(Message::binary(message))).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    #[tokio::test]
    async fn a_proxy_is_asked_for_the_relay_and_told_the_password() {
        let (request, result) = ask(Some("bWU6c2VjcmV0"), "HTTP/1.1 200 Connection established\r\n\r\n").await;
        assert_eq!(
            request,
            "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\
             Proxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n"
        );
        assert_eq!(result, Ok(()));
        let (request, result) = ask(None, "HTTP/1.0 200 OK\r\nVia: somebody\r\n\r\n").await;
        assert!(!request.contains("Authorization") && result == Ok(()), "{request} {result:?}");
    }

    #[tokio::test]
    async fn what_a_proxy_refuses_is_told() {
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(2 * MAX_HEAD));
        let table = [
            (None, "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "wants a user name"),
            (Some("eDp5"), "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "refuses the user name"),
            (None, "HTTP/1.1 403 Forbidden\r\n\r\n", "status 403"),
            (None, "HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n", "status 302"),
            (None, "SSH-2.0-OpenSSH_9.9\r\n\r\n", "not HTTP"),
            (None, "HTTP/1.1 200 OK\r\n\r\nwelcome", "more than it was asked"),
            (None, "HTTP/1.1 200 OK\r\n", "hung up"),
            (None, "", "hung up"),
            (None, &endless, "too long"),
        ];
        for (credentials, answer, wanted) in table {
            let (_, result) = ask(credentials, answer).await;
            let error = result.expect_err("refused");
            assert!(error.contains(wanted), "{answer:.40}: {error}");
        }
    }

    #[test]
    fn a_head_is_taken_once_it_is_whole() {
        let text = b"HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept:  abc \r\n\r\nrest";
        for end in 0..text.len() - 4 {
            assert_eq!(parse_head(&text[..end]).expect("HTTP"), None);
        }
        let head = Head { status: 101, accept: Some(b"abc".to_vec()) };
        assert_eq!(parse_head(text).expect("HTTP"), Some((head, text.len() - 4)));
    }

    /// What a proxy is asked, and what becomes of its answer, after which it hangs up.
    async fn ask(credentials: Option<&str>, answer: &str) -> (String, Result<(), String>) {
        let (near, far) = duplex(64 << 10);
        let proxy = Proxy { host: "p".to_owned(), port: 1, credentials: credentials.map(str::to_owned) };
        let address = RelayAddress { host: "2001:db8::1".to_owned(), port: 443, key: None };
        let (request, result) =
            tokio::join!(answer_once(far, answer.to_owned()), connect_through(near, &proxy, &address));
        (request, result.map(drop).map_err(|error| format!("{error:#}")))
    }

    async fn answer_once(mut stream: DuplexStream, answer: String) -> String {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut request).await.expect("readable") > 0, "it hung up");
        }
        stream.write_all(answer.as_bytes()).await.expect("room");
        String::from_utf8(request).expect("text")
    }
}
