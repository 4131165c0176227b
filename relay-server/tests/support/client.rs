//! A device as the relay sees it: a control connection, and a socket for datagrams.

use std::collections::VecDeque;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hearth_schemas::address::RelayAddress;
use hearth_schemas::codec;
use hearth_schemas::ids::Slot;
use hearth_schemas::relay::{
    ALPN, ClientFrame, CloseCode, EXPORTER_LABEL, Event, HEADER, Header, Kind, Reply, Request, ServerFrame, Session,
    bind_datagram, decode_server, open_bound,
};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::udp::{Transmit, UdpSocketState};
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{SupportedKxGroup, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::household::Household;

/// Waits for something that is about to happen; that it does not is a failure.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("nothing happened for 20 s")
}

/// A control connection.
pub(crate) struct Client {
    pub(crate) connection: Connection,
    pub(crate) exporter: [u8; 32],
    pub(crate) send: SendStream,
    recv: RecvStream,
    events: VecDeque<Event>,
    last_id: u32,
    _endpoint: Endpoint,
}

impl Client {
    pub(crate) async fn connect(relay: &RelayAddress) -> Self {
        Self::connect_offering(relay, aws_lc_rs::kx_group::X25519MLKEM768).await.expect("connected")
    }

    /// Connects with this key exchange and no other.
    pub(crate) async fn connect_offering(
        relay: &RelayAddress,
        group: &'static dyn SupportedKxGroup,
    ) -> Result<Self, ConnectionError> {
        let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
        let config = client_config(relay.key.expect("a pinned relay"), group);
        let connecting = endpoint.connect_with(config, relay_address(relay), "relay.invalid").expect("a good address");
        let connection = within(connecting).await?;
        let mut exporter = [0; 32];
        connection.export_keying_material(&mut exporter, EXPORTER_LABEL, &[]).expect("32 bytes are not too many");
        let (send, recv) = within(connection.open_bi()).await?;
        let (events, last_id) = (VecDeque::new(), 0);
        Ok(Self { connection, exporter, send, recv, events, last_id, _endpoint: endpoint })
    }

    /// Registers the account and hangs up.
    pub(crate) async fn create(relay: &RelayAddress, home: &Household) {
        let mut client = Self::connect(relay).await;
        assert_eq!(client.ask(home.creation()).await, Reply::Done);
    }

    /// Connects and logs in.
    pub(crate) async fn device(relay: &RelayAddress, home: &Household, device: usize) -> (Self, Session) {
        let mut client = Self::connect(relay).await;
        match client.ask(home.login(device, &client.exporter)).await {
            Reply::Session(session) => (client, session),
            other => panic!("not logged in: {other:?}"),
        }
    }

    pub(crate) async fn ask(&mut self, request: Request) -> Reply {
        self.last_id += 1;
        let frame = codec::encode(&ClientFrame { id: self.last_id, request });
        let length = u32::try_from(frame.len()).expect("a short frame").to_le_bytes();
        within(self.send.write_all(&[length.as_slice(), &frame].concat())).await.expect("sent");
        loop {
            match self.frame().await {
                ServerFrame::Reply { id, reply } if id == self.last_id => return reply,
                ServerFrame::Reply { id, .. } => panic!("an answer to {id}, which was not asked"),
                ServerFrame::Event(event) => self.events.push_back(event),
            }
        }
    }

    pub(crate) async fn event(&mut self) -> Event {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        match self.frame().await {
            ServerFrame::Event(event) => event,
            other @ ServerFrame::Reply { .. } => panic!("no event but {other:?}"),
        }
    }

    /// Waits for the relay to close the connection, and says why it did.
    pub(crate) async fn closed(&self) -> CloseCode {
        match within(self.connection.closed()).await {
            ConnectionError::ApplicationClosed(close) => {
                CloseCode::from_code(close.error_code.into_inner()).expect("a known reason")
            }
            other => panic!("not closed by the relay: {other}"),
        }
    }

    async fn frame(&mut self) -> ServerFrame {
        let mut length = [0; 4];
        within(self.recv.read_exact(&mut length)).await.expect("a length");
        let mut body = vec![0; u32::from_le_bytes(length) as usize];
        within(self.recv.read_exact(&mut body)).await.expect("a frame");
        decode_server(&body).expect("a well-formed frame")
    }
}

/// A socket for datagrams, bound to a session.
pub(crate) struct Leg {
    socket: UdpSocket,
    state: UdpSocketState,
    relay: SocketAddr,
    pub(crate) session: Session,
}

impl Leg {
    /// Opens a socket and binds it.
    pub(crate) async fn bound(relay: &RelayAddress, session: &Session) -> Self {
        let leg = Self::unbound(relay, session).await;
        let bind = bind_datagram(session.token, &session.mac_key, 1);
        leg.send_raw(&bind, None).await;
        let (_, seen) = open_bound(&leg.receive().await, &session.mac_key).expect("a BOUND");
        assert_eq!(seen, leg.socket.local_addr().expect("bound"));
        leg
    }

    /// Opens a socket that the relay does not know.
    pub(crate) async fn unbound(relay: &RelayAddress, session: &Session) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        let state = UdpSocketState::new((&socket).into()).expect("options");
        Self { socket, state, relay: relay_address(relay), session: session.clone() }
    }

    /// A datagram to a device.
    pub(crate) fn data(&self, to: Slot, ecn: u8, body: &[u8]) -> Vec<u8> {
        let header = Header { kind: Kind::Data, ecn, slot: to, token: self.session.token };
        [header.to_bytes().as_slice(), body].concat()
    }

    pub(crate) async fn send(&self, to: Slot, body: &[u8]) {
        self.send_raw(&self.data(to, 0, body), None).await;
    }

    /// Sends bytes, as many datagrams in one call where a segment length is given.
    pub(crate) async fn send_raw(&self, contents: &[u8], segment_size: Option<usize>) {
        let transmit = Transmit { destination: self.relay, ecn: None, contents, segment_size, src_ip: None };
        let sent = self.socket.async_io(Interest::WRITABLE, || self.state.try_send((&self.socket).into(), &transmit));
        within(sent).await.expect("sent");
    }

    /// The next datagram's sender and body. It must be a DATA for this session.
    pub(crate) async fn data_from(&self) -> (Slot, u8, Vec<u8>) {
        let datagram = self.receive().await;
        let header = Header::parse(&datagram).expect("a header");
        assert_eq!((header.kind, header.token), (Kind::Data, self.session.token));
        (header.slot, header.ecn, datagram[HEADER..].to_vec())
    }

    /// The next datagram, or several of one length (but the last) that the kernel hands over in one piece.
    pub(crate) async fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65_536 * 2];
        let mut metas = [quinn::udp::RecvMeta::default()];
        let receive = self.socket.async_io(Interest::READABLE, || {
            let mut buffers = [std::io::IoSliceMut::new(&mut buffer)];
            self.state.recv((&self.socket).into(), &mut buffers, &mut metas)
        });
        within(receive).await.expect("received");
        let [meta] = metas;
        assert_eq!(meta.addr, self.relay);
        buffer.truncate(meta.len);
        buffer
    }
}

/// Where a relay on loopback listens, for UDP and TCP.
pub(crate) fn relay_address(relay: &RelayAddress) -> SocketAddr {
    SocketAddr::new(relay.host.parse::<IpAddr>().expect("loopback"), relay.port)
}

fn client_config(key: [u8; 32], group: &'static dyn SupportedKxGroup) -> quinn::ClientConfig {
    let config = tls_config(key, group, ALPN);
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).expect("QUIC's suite is there")))
}

/// TLS with a relay of this key, for this protocol.
pub(crate) fn tls_config(key: [u8; 32], group: &'static dyn SupportedKxGroup, alpn: &[u8]) -> rustls::ClientConfig {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![group];
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is there")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(key)))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

/// Takes one raw public key and no other.
#[derive(Debug)]
struct Pinned([u8; 32]);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        assert_eq!(end_entity.len(), 44, "a SubjectPublicKeyInfo of Ed25519");
        if end_entity.ends_with(&self.0) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::General("another relay".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        let spki = SubjectPublicKeyInfoDer::from(cert.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
