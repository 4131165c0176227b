//! A device as the relay sees it over TCP: TLS, a request, and messages of datagrams.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use hearth_schemas::address::RelayAddress;
use hearth_schemas::tunnel::{ALPN, PATH, put, split};
use rustls::crypto::{SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::client::{relay_address, tls_config, within};

/// What opens a tunnel.
pub(crate) fn upgrade() -> String {
    format!(
        "GET {PATH} HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
}

/// TLS with the relay over TCP, and nothing asked yet.
pub(crate) async fn tls(relay: &RelayAddress) -> std::io::Result<TlsStream<TcpStream>> {
    tls_offering(relay, aws_lc_rs::kx_group::X25519MLKEM768).await
}

/// The same with this key exchange and no other.
pub(crate) async fn tls_offering(
    relay: &RelayAddress,
    group: &'static dyn SupportedKxGroup,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = within(TcpStream::connect(relay_address(relay))).await?;
    let config = tls_config(relay.key.expect("a pinned relay"), group, ALPN);
    let name = ServerName::try_from("relay.invalid").expect("a name");
    within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

/// What the relay answers to a request before it hangs up.
pub(crate) async fn ask(relay: &RelayAddress, request: &str) -> String {
    let mut tls = tls(relay).await.expect("TLS");
    within(tls.write_all(request.as_bytes())).await.expect("sent");
    let mut answer = String::new();
    within(tls.read_to_string(&mut answer)).await.expect("an answer");
    answer
}

/// An open tunnel.
pub(crate) struct Tunnel {
    pub(crate) web: WebSocketStream<TlsStream<TcpStream>>,
    received: VecDeque<Vec<u8>>,
}

impl Tunnel {
    /// Opens one; an error if the relay hangs up on the way.
    pub(crate) async fn open(relay: &RelayAddress) -> std::io::Result<Self> {
        let mut tls = tls(relay).await?;
        within(tls.write_all(upgrade().as_bytes())).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within(tls.read_u8()).await?);
        }
        let head = String::from_utf8(head).expect("text");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        // RFC 6455 section 4.2.2 over the key above.
        assert!(head.contains("Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n"), "{head}");
        let web = WebSocketStream::from_raw_socket(tls, Role::Client, None).await;
        Ok(Self { web, received: VecDeque::new() })
    }

    /// Sends datagrams in one message.
    pub(crate) async fn send(&mut self, datagrams: &[&[u8]]) -> Result<(), Error> {
        let mut message = Vec::new();
        assert!(datagrams.iter().all(|datagram| put(&mut message, datagram)), "too much for one message");
        within(self.web.send(Message::binary(message))).await
    }

    /// The next datagram.
    pub(crate) async fn receive(&mut self) -> Vec<u8> {
        loop {
            if let Some(datagram) = self.received.pop_front() {
                return datagram;
            }
            match within(self.web.next()).await.expect("open").expect("a message") {
                Message::Binary(message) => {
                    self.received.extend(split(&message).expect("well-formed").map(<[u8]>::to_vec));
                }
                other => panic!("no message of a tunnel: {other:?}"),
            }
        }
    }

    /// Waits until the relay has hung up.
    pub(crate) async fn closed(mut self) {
        while matches!(within(self.web.next()).await, Some(Ok(_))) {}
    }
}
