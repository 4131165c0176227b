//! Device ↔ relay: control frames inside the login connection, and the plain header of forwarded datagrams.
//!
//! Control frames travel on one bidirectional QUIC stream (ALPN [`ALPN`]) that the device opens: a 4-byte
//! little-endian length, then the canonical encoding. Forwarded datagrams go over the same UDP socket and
//! port, outside QUIC: [`Header`], then the opaque packet. The first byte tells them apart: QUIC packets have
//! bit 0x40 set (RFC 9000 section 17; greasing is off), ours never do (RFC 9443).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError};
use crate::ids::{AccountId, DeviceId, Slot};
use crate::label;

/// The application protocol of the login connection.
pub const ALPN: &[u8] = b"hearth-relay/1";
/// Label of the TLS exporter (RFC 8446 section 7.5) whose 32 bytes a login signs.
pub const EXPORTER_LABEL: &[u8] = b"hearth relay v1";
/// Longest control frame, in bytes, after the length.
pub const MAX_FRAME: usize = 1 << 20;
/// Most log entries in one reply or request.
pub const MAX_ENTRIES: usize = 128;
/// Longest blob (a sealed epoch set) and longest signal or pairing message, in bytes.
pub const MAX_BLOB: usize = 256 << 10;
/// Longest signal or pairing message, in bytes.
pub const MAX_MESSAGE: usize = 64 << 10;
/// How long a pairing code is good for, in seconds.
pub const PAIRING_SECONDS: u64 = 600;
/// How many joiners may try one pairing code.
pub const PAIRING_TRIES: u32 = 3;
/// How long one joiner may stay in a pairing room, in seconds.
pub const PAIRING_TRY_SECONDS: u64 = 120;
/// How long an account waits for its next room after one whose tries were used up, in seconds.
pub const PAIRING_COOL_DOWN_SECONDS: u64 = 60;
/// How long a BIND is good for, in seconds. A device that has sent none for so long is away.
pub const BIND_SECONDS: u64 = 40;

/// Position and hash of the newest log entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Head {
    /// Sequence number, from 0 at genesis.
    pub seq: u64,
    /// BLAKE3 of the entry's exact bytes.
    pub hash: [u8; 32],
}

/// What a device sends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClientFrame {
    /// Chosen by the device, echoed in the reply.
    pub id: u32,
    /// The question.
    pub request: Request,
}

/// A question to the relay. Everything but the first five, and leaving a room that one joined, needs a login on the
/// same connection. A connection asks one question at a time: the next is read when the last is answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Registers an account: its log from genesis, and the sealed epoch sets that the log commits to.
    CreateAccount {
        /// Exact bytes of the entries.
        entries: Vec<Vec<u8>>,
        /// Sealed epoch sets, each found by its BLAKE3 hash.
        blobs: Vec<Vec<u8>>,
        /// Invitation, where the relay wants one.
        invite: Option<String>,
    },
    /// Proves to be a device in the account's current log.
    Login {
        /// The account.
        account: AccountId,
        /// The device.
        device: DeviceId,
        /// Ed25519 by the device's signing key over `login_message`.
        signature: Vec<u8>,
    },
    /// Proves to hold the recovery phrase. May read the log and blobs, and append root-signed entries.
    LoginRoot {
        /// Root signing key; the account id is derived from it.
        root: [u8; 32],
        /// Ed25519 by the root key over `login_message`.
        signature: Vec<u8>,
    },
    /// Enters the pairing room with this number as the joiner.
    PairJoin {
        /// The number at the front of the code.
        number: u32,
    },
    /// Sends a pairing message to the other side of the room.
    PairSend {
        /// Opaque to the relay.
        message: Vec<u8>,
    },
    /// Log entries from this position on, at most [`MAX_ENTRIES`].
    FetchLog {
        /// First sequence number wanted.
        from: u64,
    },
    /// Compare-and-swap append.
    Append {
        /// The head that the entries continue.
        after: Head,
        /// Exact bytes of the entries.
        entries: Vec<Vec<u8>>,
        /// Sealed epoch sets that the entries commit to.
        blobs: Vec<Vec<u8>>,
    },
    /// A sealed epoch set.
    FetchBlob {
        /// BLAKE3 of its bytes.
        hash: [u8; 32],
    },
    /// Opens a pairing room as the enrolled side, in place of an earlier one of the same device. The room is the
    /// device's: it stays when the connection breaks, for [`PAIRING_SECONDS`], and is there after the next login.
    PairOpen,
    /// Leaves the room as the joiner, or ends it as the enrolled side.
    PairClose,
    /// Passes a message to another device of the account.
    Signal {
        /// To whom.
        to: Slot,
        /// Opaque to the relay.
        payload: Vec<u8>,
    },
}

/// What the relay sends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ServerFrame {
    /// Answer to a request.
    Reply {
        /// The request's id.
        id: u32,
        /// The answer.
        reply: Reply,
    },
    /// Something happened.
    Event(Event),
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Done; nothing to say.
    Done,
    /// Logged in as a device.
    Session(Session),
    /// Logged in as the root: the account's head, if it exists here.
    Root {
        /// Its newest entry.
        head: Option<Head>,
    },
    /// Log entries, and the head they lead to.
    Log {
        /// Exact bytes, in order.
        entries: Vec<Vec<u8>>,
        /// The newest entry here.
        head: Head,
    },
    /// A blob.
    Blob {
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// A pairing room was opened.
    Room {
        /// The number at the front of the code.
        number: u32,
    },
    /// Not done, and why.
    Refused(Refusal),
}

/// A device's session: what it needs for the UDP leg, and who else is there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    /// The device's own number in the account.
    pub slot: Slot,
    /// Names the session in each datagram.
    pub token: [u8; 8],
    /// Keys the MAC of BIND and BOUND.
    pub mac_key: [u8; 32],
    /// The account's newest entry.
    pub head: Head,
    /// Devices that are logged in at this moment.
    pub online: Vec<Slot>,
}

/// Why the relay did not do what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Unknown account, unknown device, revoked device or bad signature: one answer for all.
    #[error("the relay does not know this device")]
    NotAuthorised,
    /// New accounts are not taken, or not without an invitation.
    #[error("the relay takes no new accounts without an invitation")]
    NotAdmitted,
    /// The log did not verify, or did not continue the head.
    #[error("the account's log does not continue what the relay holds")]
    BadLog,
    /// No such pairing room, used up, or timed out: one answer for all.
    #[error("no machine is waiting under this number")]
    NoRoom,
    /// Nothing by that name.
    #[error("the relay does not have it")]
    NotFound,
    /// Over a limit; try again later.
    #[error("over the relay's limit; try again later")]
    Limit,
    /// The request made no sense at this point.
    #[error("the relay did not expect that request")]
    Unexpected,
    /// The device is not logged in now.
    #[error("the other device is not online")]
    Offline,
    /// The relay failed on its side, say because its disk is full.
    #[error("the relay has a problem of its own; try again later")]
    Trouble,
}

/// Why the relay ended a connection: the application error code of its QUIC close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum CloseCode {
    /// The relay goes away; it is likely to be back in a moment.
    Shutdown = 0,
    /// The same device logged in on another connection.
    Replaced = 1,
    /// The device is not in the account any more.
    Revoked = 2,
    /// A frame was no frame.
    Malformed = 3,
    /// Too slow in taking, or too much at once.
    Limit = 4,
    /// Neither logged in nor pairing for a while.
    Idle = 5,
}

impl CloseCode {
    /// The code of a close frame; `None` if this version does not know it.
    pub fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            0 => Self::Shutdown,
            1 => Self::Replaced,
            2 => Self::Revoked,
            3 => Self::Malformed,
            4 => Self::Limit,
            5 => Self::Idle,
            _ => return None,
        })
    }
}

/// Something that happened, told without being asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Event {
    /// Another device of the account came or went. One that logs in while it counts as online comes again: it may
    /// have been restarted.
    Presence {
        /// Which.
        slot: Slot,
        /// Logged in now.
        online: bool,
    },
    /// The account's log grew.
    LogChanged {
        /// The newest entry.
        head: Head,
    },
    /// The other side entered the pairing room.
    PairJoined,
    /// The other side of the pairing room says.
    PairMessage {
        /// Opaque to the relay.
        message: Vec<u8>,
    },
    /// The other side left, or the room timed out. An open room stays for the next try while tries are left.
    PairLeft {
        /// Tries left; 0 when the room is gone.
        tries_left: u32,
    },
    /// A signal from another device of the account.
    Signal {
        /// From whom.
        from: Slot,
        /// Opaque to the relay.
        payload: Vec<u8>,
    },
}

/// The bytes that a login signs: context, account, kind of login, TLS exporter of this connection.
pub fn login_message(account: AccountId, kind: &str, exporter: &[u8; 32]) -> Vec<u8> {
    codec::encode(&("hearth relay login v1", account, kind, exporter))
}

/// Length of a forwarded datagram's header, in bytes.
pub const HEADER: usize = 12;
/// Length of BIND, in bytes; BOUND is never longer (no amplification).
pub const BIND_LEN: usize = 64;

/// What a datagram on the UDP leg is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An opaque packet for, or from, the device in the slot field.
    Data,
    /// Binds the session to the datagram's source address.
    Bind,
    /// Answer to BIND: the address that the relay saw.
    Bound,
    /// The device in the slot field is not bound; the packet was dropped.
    Offline,
}

/// The first [`HEADER`] bytes: kind, ECN bits, slot (little-endian; destination towards the relay, source from
/// it), session token of the device's side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// ECN codepoint of the inner packet, 0..=3.
    pub ecn: u8,
    /// The other device.
    pub slot: Slot,
    /// The session on the device's side of the leg.
    pub token: [u8; 8],
}

impl Header {
    /// Writes the header's bytes.
    pub fn to_bytes(self) -> [u8; HEADER] {
        let kind = match self.kind {
            Kind::Data => 1,
            Kind::Bind => 2,
            Kind::Bound => 3,
            Kind::Offline => 4,
        };
        let mut out = [0; HEADER];
        out[0] = kind;
        out[1] = self.ecn & 3;
        out[2..4].copy_from_slice(&self.slot.0.to_le_bytes());
        out[4..12].copy_from_slice(&self.token);
        out
    }

    /// Reads the header of a datagram; `None` if it is not ours.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER] = datagram.get(..HEADER)?.try_into().ok()?;
        let kind = match bytes[0] {
            1 => Kind::Data,
            2 => Kind::Bind,
            3 => Kind::Bound,
            4 => Kind::Offline,
            _ => return None,
        };
        if bytes[1] > 3 {
            return None;
        }
        let slot = Slot(u16::from_le_bytes([bytes[2], bytes[3]]));
        Some(Self { kind, ecn: bytes[1], slot, token: bytes[4..12].try_into().ok()? })
    }

    /// Whether a datagram's first byte marks it as a QUIC packet.
    pub fn is_quic(datagram: &[u8]) -> bool {
        datagram.first().is_some_and(|byte| byte & 0x40 != 0)
    }
}

/// Makes a BIND datagram: header, rising counter, MAC, padding.
pub fn bind_datagram(token: [u8; 8], mac_key: &[u8; 32], counter: u64) -> [u8; BIND_LEN] {
    let header = Header { kind: Kind::Bind, ecn: 0, slot: Slot(0), token };
    let mut out = [0; BIND_LEN];
    out[..HEADER].copy_from_slice(&header.to_bytes());
    out[12..20].copy_from_slice(&counter.to_le_bytes());
    let mac = mac(mac_key, &out[..20]);
    out[20..36].copy_from_slice(&mac);
    out
}

/// The key of a session's questions at the relay's second port, which is the one after its first, and of the answers.
/// There a BIND asks for the address seen, and binds nothing; under this key it is none at the first port.
pub fn look_key(mac_key: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key(label::LOOK, mac_key)
}

/// Checks a BIND datagram under the session's key and gives its counter.
pub fn open_bind(datagram: &[u8], mac_key: &[u8; 32]) -> Option<u64> {
    if datagram.len() != BIND_LEN {
        return None;
    }
    let expected = blake3::Hash::from_bytes(widen(mac(mac_key, &datagram[..20])));
    let found = blake3::Hash::from_bytes(widen(datagram[20..36].try_into().ok()?));
    (expected == found).then(|| u64::from_le_bytes(datagram[12..20].try_into().expect("8 bytes of a checked length")))
}

/// Makes the answer to a BIND: header, the same counter, the address seen, MAC.
pub fn bound_datagram(token: [u8; 8], mac_key: &[u8; 32], counter: u64, seen: SocketAddr) -> [u8; BIND_LEN] {
    let header = Header { kind: Kind::Bound, ecn: 0, slot: Slot(0), token };
    let mut out = [0; BIND_LEN];
    out[..HEADER].copy_from_slice(&header.to_bytes());
    out[12..20].copy_from_slice(&counter.to_le_bytes());
    out[20..36].copy_from_slice(&ip_octets(seen.ip()));
    out[36..38].copy_from_slice(&seen.port().to_le_bytes());
    let mac = mac(mac_key, &out[..38]);
    out[38..54].copy_from_slice(&mac);
    out
}

/// An IP address as it stands in every format: IPv4 mapped into IPv6.
pub(crate) fn ip_octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Checks a BOUND datagram and gives its counter and the address that the relay saw.
pub fn open_bound(datagram: &[u8], mac_key: &[u8; 32]) -> Option<(u64, SocketAddr)> {
    if datagram.len() != BIND_LEN {
        return None;
    }
    let expected = blake3::Hash::from_bytes(widen(mac(mac_key, &datagram[..38])));
    let found = blake3::Hash::from_bytes(widen(datagram[38..54].try_into().ok()?));
    if expected != found {
        return None;
    }
    let counter = u64::from_le_bytes(datagram[12..20].try_into().ok()?);
    let ip: [u8; 16] = datagram[20..36].try_into().ok()?;
    let port = u16::from_le_bytes([datagram[36], datagram[37]]);
    Some((counter, SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), port)))
}

/// Decodes a control frame's body.
pub fn decode_client(bytes: &[u8]) -> Result<ClientFrame, DecodeError> {
    codec::decode(bytes, MAX_FRAME)
}

/// Decodes a control frame's body.
pub fn decode_server(bytes: &[u8]) -> Result<ServerFrame, DecodeError> {
    codec::decode(bytes, MAX_FRAME)
}

fn mac(key: &[u8; 32], bytes: &[u8]) -> [u8; 16] {
    let full = blake3::keyed_hash(key, bytes);
    full.as_bytes()[..16].try_into().expect("a hash has 32 bytes")
}

/// Puts a MAC into a hash, whose comparison takes constant time.
fn widen(mac: [u8; 16]) -> [u8; 32] {
    let mut out = [0; 32];
    out[..16].copy_from_slice(&mac);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_is_accepted_only_under_its_key_and_unchanged() {
        let datagram = bind_datagram([7; 8], &[1; 32], 42);
        assert_eq!(open_bind(&datagram, &[1; 32]), Some(42));
        assert_eq!(open_bind(&datagram, &[2; 32]), None);
        for byte in 0..36 {
            let mut changed = datagram;
            changed[byte] ^= 1;
            assert_eq!(open_bind(&changed, &[1; 32]), None, "byte {byte}");
        }
    }

    #[test]
    fn a_bound_tells_the_address_seen() {
        for seen in ["203.0.113.7:4433", "[2001:db8::1]:9"] {
            let seen: SocketAddr = seen.parse().expect("an address");
            let datagram = bound_datagram([7; 8], &[1; 32], 9, seen);
            assert_eq!(open_bound(&datagram, &[1; 32]), Some((9, seen)));
        }
    }

    #[test]
    fn headers_are_never_taken_for_quic() {
        for kind in [Kind::Data, Kind::Bind, Kind::Bound, Kind::Offline] {
            let header = Header { kind, ecn: 2, slot: Slot(513), token: [9; 8] };
            assert!(!Header::is_quic(&header.to_bytes()));
            assert_eq!(Header::parse(&header.to_bytes()), Some(header));
        }
    }
}
