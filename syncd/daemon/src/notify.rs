//! Tells systemd how the daemon fares, where it was started as `Type=notify`.
//!
//! One datagram to the socket that `NOTIFY_SOCKET` names, as in sd_notify(3). Without that variable nothing happens.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says that the bus is served.
pub fn ready() {
    tell("READY=1");
}

/// Says that the daemon is ending.
pub fn stopping() {
    tell("STOPPING=1");
}

fn tell(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, state, "cannot tell systemd");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_arrives_by_path_and_by_abstract_name() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("notify");
        let name = place.path().join("abstract");
        let by_name = SocketAddr::from_abstract_name(name.as_os_str().as_bytes()).expect("short enough");
        let table = [
            (UnixDatagram::bind(&path).expect("bound"), path.clone().into_os_string()),
            (UnixDatagram::bind_addr(&by_name).expect("bound"), {
                let mut socket = std::ffi::OsString::from("@");
                socket.push(&name);
                socket
            }),
        ];
        for (listener, socket) in table {
            send(&socket, "READY=1").expect("sent");
            let mut state = [0; 32];
            let length = listener.recv(&mut state).expect("received");
            assert_eq!(&state[..length], b"READY=1");
        }
    }
}
