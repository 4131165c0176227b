//! TLS of every connection: to the relay, over QUIC or TCP, and between devices of the account.
//!
//! Devices are known by raw Ed25519 public keys (RFC 7250): who may connect is a look-up in the account's current
//! device log, and no certificate authority takes part. Relays are known by a pinned raw key or by WebPKI. What is
//! negotiable elsewhere is fixed here: TLS 1.3, one cipher suite, the hybrid key exchange, no early data, no tickets.
//!
//! Gives configurations to [`crate::relay`] and [`crate::peer`]; knows nothing of sockets.

use std::sync::Arc;

use anyhow::Context;
use ed25519_dalek::SigningKey;
use hearth_schemas::log::Account;
use hearth_schemas::ready;
use hearth_schemas::{relay, tunnel};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, RootCertStore,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use tokio::sync::watch;
use zeroize::Zeroizing;

/// What TLS calls the other side where its key says who it is. It is never sent.
pub const NAME: &str = "hearth.invalid";

/// DER of an Ed25519 SubjectPublicKeyInfo (RFC 8410), up to the 32 bytes of the key.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// DER of an Ed25519 PKCS #8 private key (RFC 8410), up to the 32 bytes of the seed.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// How a relay is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// By this raw Ed25519 public key.
    Pinned([u8; 32]),
    /// Not at all: any raw key is accepted. Only for joining by code, where the code authenticates both ends and the
    /// relay's key arrives inside.
    Unverified,
    /// By a certificate for its host name, under the system's authorities.
    WebPki,
}

/// Configuration of a connection to a relay.
pub fn relay_client(trust: Trust) -> anyhow::Result<QuicClientConfig> {
    let config = relay_config(trust, relay::ALPN)?;
    QuicClientConfig::with_initial(Arc::new(config), initial_suite()).context("choosing the suite of QUIC Initials")
}

/// Configuration of a tunnel to a relay.
pub fn relay_tunnel(trust: Trust) -> anyhow::Result<ClientConfig> {
    relay_config(trust, tunnel::ALPN)
}

fn relay_config(trust: Trust, alpn: &[u8]) -> anyhow::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .context("choosing the TLS version")?;
    let mut config = match trust {
        Trust::Pinned(_) | Trust::Unverified => {
            let expected = match trust {
                Trust::Pinned(key) => Some(key),
                Trust::Unverified | Trust::WebPki => None,
            };
            let verifier = RawKey { expected, account: None };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
        }
        Trust::WebPki => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    config.enable_sni = trust == Trust::WebPki;
    finish_client(&mut config, alpn);
    Ok(config)
}

/// Configuration for dialling the device whose TLS key is `expected`, as long as the account lists that key.
pub fn peer_client(
    own: &SigningKey,
    expected: [u8; 32],
    account: watch::Receiver<Arc<Account>>,
) -> anyhow::Result<QuicClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .context("choosing the TLS version")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(RawKey { expected: Some(expected), account: Some(account) }))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified(own)?)));
    config.enable_sni = false;
    finish_client(&mut config, ready::ALPN);
    QuicClientConfig::with_initial(Arc::new(config), initial_suite()).context("choosing the suite of QUIC Initials")
}

/// Configuration for accepting any device that the account lists.
pub fn peer_server(own: &SigningKey, account: watch::Receiver<Arc<Account>>) -> anyhow::Result<QuicServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .context("choosing the TLS version")?
        .with_client_cert_verifier(Arc::new(RawKey { expected: None, account: Some(account) }))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified(own)?)));
    config.alpn_protocols = vec![ready::ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    QuicServerConfig::with_initial(Arc::new(config), initial_suite()).context("choosing the suite of QUIC Initials")
}

/// The raw Ed25519 key that the other side of an established connection proved to hold.
pub fn peer_key(connection: &quinn::Connection) -> Option<[u8; 32]> {
    let identity = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    raw_key(identity.first()?)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384],
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        ..aws_lc_rs::default_provider()
    })
}

/// QUIC protects its first packets with a suite that RFC 9001 section 5.2 fixes; they hold no secrets.
fn initial_suite() -> rustls::quic::Suite {
    aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
        .tls13()
        .and_then(|suite| suite.quic_suite())
        .expect("aws-lc-rs offers this suite for QUIC")
}

fn finish_client(config: &mut ClientConfig, alpn: &[u8]) {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
}

fn certified(own: &SigningKey) -> anyhow::Result<Arc<CertifiedKey>> {
    let mut der = Zeroizing::new(PKCS8_PREFIX.to_vec());
    der.extend_from_slice(Zeroizing::new(own.to_bytes()).as_slice());
    let key = aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(der.as_slice()))
        .context("reading the device's TLS key")?;
    let mut spki = SPKI_PREFIX.to_vec();
    spki.extend_from_slice(own.verifying_key().as_bytes());
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], key)))
}

/// The Ed25519 key in a SubjectPublicKeyInfo, which is what RFC 7250 puts in place of a certificate.
fn raw_key(spki: &CertificateDer<'_>) -> Option<[u8; 32]> {
    spki.as_ref().strip_prefix(&SPKI_PREFIX)?.try_into().ok()
}

/// Accepts raw keys: the expected one if there is one, and only what the account lists if there is an account.
#[derive(Debug)]
struct RawKey {
    expected: Option<[u8; 32]>,
    account: Option<watch::Receiver<Arc<Account>>>,
}

impl RawKey {
    fn check(&self, end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
        let key = raw_key(end_entity).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let expected = self.expected.is_none_or(|expected| expected == key);
        let listed = self.account.as_ref().is_none_or(|account| account.borrow().active_tls(&key).is_some());
        if expected && listed && intermediates.is_empty() {
            return Ok(());
        }
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }
}

impl ServerCertVerifier for RawKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for RawKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn check_signature(
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(cert.as_ref()), dss, &algorithms)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use hearth_schemas::keys::{DeviceKeys, Root, Secret};
    use hearth_schemas::log::{Body, Caps, SEALED_NAME, Signer};
    use quinn::{ConnectionError, Endpoint};

    use super::*;

    #[tokio::test]
    async fn two_devices_of_an_account_know_each_other_by_their_keys() {
        let world = World::new();
        let [one, two] = [&world.keys[0], &world.keys[1]];
        let client = peer_client(&one.tls, two.public().tls, world.account.clone()).expect("a configuration");
        let (dialled, accepted) = world.meet(client).await;
        assert_eq!(peer_key(&dialled.expect("connected")), Some(two.public().tls));
        assert_eq!(peer_key(&accepted.expect("connected")), Some(one.public().tls));
    }

    #[tokio::test]
    async fn a_key_that_the_account_does_not_list_is_refused_by_either_side() {
        let world = World::new();
        let [one, two, stranger] = [0, 1, 2].map(|n: usize| &world.keys[n]);
        let client = peer_client(&stranger.tls, two.public().tls, world.account.clone()).expect("a configuration");
        assert!(world.meet(client).await.1.is_err(), "a stranger dials");
        let client = peer_client(&one.tls, stranger.public().tls, world.account.clone()).expect("a configuration");
        assert!(world.meet(client).await.0.is_err(), "another device answers than the one dialled");
        let elsewhere = watch::channel(Arc::new(account(&world.keys[..1]))).1;
        let client = peer_client(&one.tls, two.public().tls, elsewhere).expect("a configuration");
        assert!(world.meet(client).await.0.is_err(), "a device that one's own log does not list answers");
    }

    #[tokio::test]
    async fn a_peer_with_the_classic_key_exchange_only_is_refused() {
        let world = World::new();
        let [one, two] = [&world.keys[0], &world.keys[1]];
        let weak = CryptoProvider { kx_groups: vec![aws_lc_rs::kx_group::X25519], ..(*provider()).clone() };
        let mut config = ClientConfig::builder_with_provider(Arc::new(weak))
            .with_protocol_versions(&[&TLS13])
            .expect("a version")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(RawKey { expected: Some(two.public().tls), account: None }))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                certified(&one.tls).expect("a key"),
            )));
        finish_client(&mut config, ready::ALPN);
        let config = QuicClientConfig::with_initial(Arc::new(config), initial_suite()).expect("a configuration");
        let (dialled, accepted) = world.meet(config).await;
        assert!(dialled.is_err() && accepted.is_err());
    }

    #[tokio::test]
    async fn a_relay_is_known_by_its_pin_or_not_asked_for_one() {
        let world = World::new();
        let key = world.keys[1].public().tls;
        let table = [(Trust::Pinned(key), true), (Trust::Pinned([1; 32]), false), (Trust::Unverified, true)];
        for (trust, wanted) in table {
            let (dialled, _) = world.meet_relay(relay_client(trust).expect("a configuration")).await;
            assert_eq!(dialled.is_ok(), wanted, "{trust:?}");
        }
    }

    type Met = (Result<quinn::Connection, ConnectionError>, Result<quinn::Connection, ConnectionError>);

    /// An account of the first two devices; the third is a stranger.
    struct World {
        keys: Vec<DeviceKeys>,
        account: watch::Receiver<Arc<Account>>,
    }

    impl World {
        fn new() -> Self {
            let keys: Vec<DeviceKeys> =
                (1..=3).map(|n| DeviceKeys::from_bytes(&std::array::from_fn(|at| n * 16 + at as u8 / 32))).collect();
            let account = watch::channel(Arc::new(account(&keys[..2]))).1;
            Self { keys, account }
        }

        /// Lets somebody dial the second device.
        async fn meet(&self, client: QuicClientConfig) -> Met {
            meet(client, peer_server(&self.keys[1].tls, self.account.clone()).expect("a configuration")).await
        }

        /// Lets somebody dial a relay that has the second device's TLS key for its own.
        async fn meet_relay(&self, client: QuicClientConfig) -> Met {
            let certified = certified(&self.keys[1].tls).expect("a key");
            let mut config = ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&TLS13])
                .expect("a version")
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified)));
            config.alpn_protocols = vec![relay::ALPN.to_vec()];
            meet(client, QuicServerConfig::with_initial(Arc::new(config), initial_suite()).expect("a configuration"))
                .await
        }
    }

    /// Both ends of a connection on the loopback, once it has proved to carry data both ways, or has failed.
    async fn meet(client: QuicClientConfig, server: QuicServerConfig) -> Met {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = quinn::ServerConfig::with_crypto(Arc::new(server));
        let server = Endpoint::server(server, any).expect("an endpoint");
        let address = server.local_addr().expect("an address");
        let dialled = async {
            let endpoint = Endpoint::client(any).expect("an endpoint");
            let config = quinn::ClientConfig::new(Arc::new(client));
            let connection = endpoint.connect_with(config, address, NAME).expect("a dial").await?;
            let (mut send, mut recv) = connection.open_bi().await?;
            send.write_all(b"x").await.ok();
            match recv.read_exact(&mut [0]).await {
                Ok(()) => Ok(connection),
                Err(_) => Err(connection.closed().await),
            }
        };
        let accepted = async {
            let connection = server.accept().await.expect("a dial").await?;
            let (mut send, _recv) = connection.accept_bi().await?;
            send.write_all(b"x").await.ok();
            Ok(connection)
        };
        tokio::join!(dialled, accepted)
    }

    fn account(devices: &[DeviceKeys]) -> Account {
        let root = Root { sign: SigningKey::from_bytes(&[9; 32]), kem: Secret::from_bytes([9; 32]) };
        let genesis = Account::genesis_entry(root.sign_public(), root.kem_public(), 0).sign(&root.sign);
        let mut account = Account::verify(root.account(), &[genesis]).expect("a log");
        for device in devices {
            let body = Body::AddDevice { keys: device.public(), name: vec![0; SEALED_NAME], caps: Caps::ALL };
            let entry = account.next_entry(body, Signer::Root, 0).sign(&root.sign);
            account.extend(&[entry]).expect("an entry");
        }
        account
    }
}
