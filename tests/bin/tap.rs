//! Writes every packet of its network namespace to a file: `tap FILE`, until SIGTERM.
//!
//! For tests that look for what must not be on the wire. Needs no privileges beyond those of the namespace's owner, and
//! no format: packets stand one after the other as they were on the wire. Prints a line once it listens.

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::process::ExitCode;

use anyhow::{Context, Result};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};

/// `ETH_P_ALL`: every protocol, both directions.
const ALL_PROTOCOLS: u16 = 3;
/// Room for bursts.
const BUFFER_BYTES: usize = 64 << 20;
/// Segmentation offload hands over packets of up to 64 KiB.
const PACKET_BYTES: usize = 128 << 10;

fn main() -> ExitCode {
    match capture() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a stderr the exit code has to do.
            let _ = writeln!(io::stderr(), "error: {error:#}\nhint: tap FILE, in a network namespace of one's own");
            ExitCode::FAILURE
        }
    }
}

fn capture() -> Result<()> {
    let path = std::env::args_os().nth(1).context("a file to write to is missing")?;
    let mut file = File::create(path).context("making the file")?;
    let protocol = Protocol::from_raw(NonZeroU32::from(
        std::num::NonZeroU16::new(ALL_PROTOCOLS.to_be()).context("no protocol is all protocols")?,
    ));
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))
        .context("opening a packet socket")?;
    if set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES).is_err() {
        set_socket_recv_buffer_size(&socket, BUFFER_BYTES).context("asking for a buffer")?;
    }
    let mut out = io::stdout().lock();
    writeln!(out, "listening").and_then(|()| out.flush()).context("saying that it listens")?;
    let mut packet = vec![0; PACKET_BYTES];
    loop {
        match recv(&socket, packet.as_mut_slice(), RecvFlags::empty()) {
            Ok((length, _)) => file.write_all(&packet[..length]).context("writing a packet")?,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::NETDOWN) => {}
            Err(error) => return Err(error).context("reading a packet"),
        }
    }
}
