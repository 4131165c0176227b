//! iroh's relay as its makers run it: TLS on TCP 443, and QUIC on UDP 7842 that tells clients their address. Its
//! certificate is its own, and clients take it from a file.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use iroh_relay::defaults::DEFAULT_RELAY_QUIC_PORT;
use iroh_relay::server::{CertConfig, QuicConfig, RelayConfig, Server, ServerConfig, TlsConfig};
use rustls::pki_types::PrivatePkcs8KeyDer;

/// The name of the certificate's file.
pub(crate) const CERTIFICATE: &str = "iroh-relay.der";

/// Runs until it is killed.
pub(crate) async fn serve(ip: IpAddr, folder: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed([ip.to_string()]).context("making a certificate")?;
    let certificate = made.cert.der().clone();
    let file = folder.join(CERTIFICATE);
    fs::write(&file, &certificate).with_context(|| format!("writing {}", file.display()))?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key.into())?;

    let mut relay = RelayConfig::new((ip, 80));
    relay.tls = Some(TlsConfig::new((ip, 443), CertConfig::Manual { server_config: tls }));
    relay.key_cache_capacity = Some(1024);
    let mut config = ServerConfig::default();
    config.relay = Some(relay);
    config.quic = Some(QuicConfig::new((ip, DEFAULT_RELAY_QUIC_PORT)));
    let _server = Server::spawn(config).await.context("starting the relay")?;
    println!("ready");
    std::future::pending().await
}
