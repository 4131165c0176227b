//! Callers that do harm, each a little: those who take nothing of what they asked for, and those who knock and go away.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hearth_schemas::address::RelayAddress;
use hearth_schemas::codec;
use hearth_schemas::relay::{ALPN, ClientFrame, EXPORTER_LABEL, Request};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, TransportConfig, VarInt};
use rustls::crypto::aws_lc_rs::kx_group;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::client::{relay_address, tls_config, within};
use crate::household::Household;

/// How many questions one asks that takes nothing.
const QUESTIONS: usize = 100;
/// How many first packets are different.
const DIFFERENT: usize = 500;

/// Logs in as the root and asks for its log again and again, with room for 16 bytes of an answer.
pub(crate) async fn ask_and_take_nothing(endpoint: &Endpoint, relay: &RelayAddress, home: &Household) -> Connection {
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(16));
    let connection = within(connecting(endpoint, relay_address(relay), relay, transport)).await;
    let connection = connection.expect("connected");
    let mut exporter = [0; 32];
    connection.export_keying_material(&mut exporter, EXPORTER_LABEL, &[]).expect("32 bytes are not too many");
    let (mut send, recv) = within(connection.open_bi()).await.expect("a stream");
    let first = ClientFrame { id: 0, request: home.root_login(&exporter) };
    let others = (1..=QUESTIONS).map(|id| ClientFrame { id: id as u32, request: Request::FetchLog { from: 0 } });
    let mut bytes = Vec::new();
    for frame in std::iter::once(first).chain(others) {
        let frame = codec::encode(&frame);
        bytes.extend(u32::try_from(frame.len()).expect("a short frame").to_le_bytes());
        bytes.extend(frame);
    }
    // Who is put out before it has asked everything has been put out.
    let _put_out = timeout(Duration::from_secs(20), send.write_all(&bytes)).await;
    tokio::spawn(async move {
        // Neither end of the stream is closed.
        let _open = (send, recv);
        std::future::pending::<()>().await;
    });
    connection
}

/// First packets of handshakes with this relay, caught on their way.
pub(crate) async fn first_packets(relay: &RelayAddress) -> Vec<Vec<u8>> {
    let trap = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    let at = trap.local_addr().expect("bound");
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
    let mut packets = Vec::new();
    let mut buffer = [0; 2048];
    while packets.len() < DIFFERENT {
        let attempt = connecting(&endpoint, at, relay, TransportConfig::default());
        tokio::select! {
            _ = attempt => panic!("nobody answers here"),
            length = trap.recv(&mut buffer) => packets.push(buffer[..length.expect("received")].to_vec()),
        }
    }
    packets
}

async fn connecting(
    endpoint: &Endpoint,
    at: SocketAddr,
    relay: &RelayAddress,
    transport: TransportConfig,
) -> Result<Connection, quinn::ConnectionError> {
    let tls = tls_config(relay.key.expect("a pinned relay"), kx_group::X25519MLKEM768, ALPN);
    let tls = QuicClientConfig::try_from(tls).expect("QUIC's suite is there");
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    endpoint.connect_with(config, at, "relay.invalid").expect("a good address").await
}
