//! TLS and QUIC as the relay speaks them: TLS 1.3, X25519MLKEM768, one raw Ed25519 public key, nothing to resume.
//!
//! Makes configuration out of the relay's key; connections are made in [`crate::listen`].

use std::sync::Arc;
use std::time::Duration;

use hearth_schemas::relay::ALPN;
use hearth_schemas::tunnel;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{ServerConfig, TransportConfig, VarInt};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

/// What stands before the secret in the PKCS #8 form of an Ed25519 key (RFC 8410 section 7).
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// What stands before the key in an Ed25519 SubjectPublicKeyInfo (RFC 8410 section 4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// How long a silent connection lives: devices say something every 120 s. One that is logged in is gone sooner, once its binding
/// has lapsed; one whose first packet is a farewell is not (quinn-proto 0.11 sets no other timer for it).
const IDLE: Duration = Duration::from_secs(150);
/// What a device may have under way to the relay: a little more than the longest frame.
const RECEIVE_WINDOW: u32 = (1 << 20) + (64 << 10);
/// What the relay may have under way to a device: what it holds for one that acknowledges nothing.
const SEND_WINDOW: u64 = 256 << 10;

/// The public half of the relay's key: what its address pins.
pub fn public_key(secret: &[u8; 32]) -> [u8; 32] {
    ed25519_dalek::SigningKey::from_bytes(secret).verifying_key().to_bytes()
}

/// The configuration of the QUIC endpoint.
pub fn server_config(secret: &[u8; 32]) -> Result<ServerConfig, rustls::Error> {
    let crypto = QuicServerConfig::try_from(tls_config(secret, ALPN)?)
        .expect("the provider has the suite of QUIC's initial packets");
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport()));
    config.max_incoming(1024).incoming_buffer_size_total(4 << 20);
    let mut tokens = quinn::ValidationTokenConfig::default();
    tokens.sent(0);
    config.validation_token_config(tokens);
    Ok(config)
}

/// TLS over TCP, for tunnels.
pub(crate) fn stream_config(secret: &[u8; 32]) -> Result<rustls::ServerConfig, rustls::Error> {
    tls_config(secret, tunnel::ALPN)
}

fn tls_config(secret: &[u8; 32], alpn: &[u8]) -> Result<rustls::ServerConfig, rustls::Error> {
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::new(certified_key(secret)?))));
    tls.alpn_protocols = vec![alpn.to_vec()];
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    tls.max_early_data_size = 0;
    Ok(tls)
}

fn provider() -> rustls::crypto::CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768];
    provider
}

fn certified_key(secret: &[u8; 32]) -> Result<CertifiedKey, rustls::Error> {
    let mut pkcs8 = Zeroizing::new([0; 48]);
    pkcs8[..16].copy_from_slice(&PKCS8);
    pkcs8[16..].copy_from_slice(secret);
    let key = aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()))?;
    let spki = [SPKI.as_slice(), &public_key(secret)].concat();
    Ok(CertifiedKey::new(vec![CertificateDer::from(spki)], key))
}

/// One control stream a connection, opened by the device, and no datagrams.
fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IDLE.try_into().expect("150 s is within QUIC's range")))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        // A connection keeps the buffer of its longest call; what devices ask for is short and seldom.
        .enable_segmentation_offload(false);
    transport
}
