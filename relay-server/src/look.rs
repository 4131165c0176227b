//! The second UDP port, the one after the first: tells a device that is logged in at which address it is seen there.
//!
//! Where that is another one than at the first port, the router before the device gives each destination a port of its
//! own. Nothing is bound here and nothing forwarded, and an answer is as long as its question. A relay whose second port
//! is taken does without.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hearth_schemas::relay::BIND_LEN;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::forward::Forwarder;
use crate::socket;

/// Answers at the port after `first`, if it can be had.
pub(crate) fn start(first: SocketAddr, forwarder: Arc<Mutex<Forwarder>>) -> Option<JoinHandle<()>> {
    let second = SocketAddr::new(first.ip(), first.port().checked_add(1)?);
    match socket::open(second).and_then(UdpSocket::from_std) {
        Ok(socket) => Some(tokio::spawn(answer(socket, forwarder))),
        Err(error) => {
            tracing::info!("nothing is answered at {second}: {error}");
            None
        }
    }
}

async fn answer(socket: UdpSocket, forwarder: Arc<Mutex<Forwarder>>) {
    // One byte more than is looked at, so that what is longer is seen to be.
    let mut buffer = [0; BIND_LEN + 1];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                let answer = {
                    let forwarder = forwarder.lock().unwrap_or_else(PoisonError::into_inner);
                    forwarder.look(&buffer[..length], from)
                };
                if let Some(answer) = answer {
                    let _lost_if_full = socket.send_to(&answer, from).await;
                }
            }
            Err(error) => tracing::debug!(%error, "the second port"),
        }
    }
}
