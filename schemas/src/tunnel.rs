//! The tunnel: the datagrams of the relay's UDP port inside of a WebSocket over TLS, for networks that let no UDP out.
//!
//! Each binary message is one or more datagrams, each behind its length: two bytes, little-endian. At the relay every
//! tunnel has a made-up source address ([`address`]), and its datagrams are handled as any others. What waits to go into
//! a tunnel ages in a [`Waiting`], which both ends use: TCP would deliver late what QUIC has long sent again.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::relay::{Header, Kind};

/// The path of the WebSocket upgrade.
pub const PATH: &str = "/hearth-tunnel/1";
/// The path that answers 200 while the relay serves.
pub const HEALTH_PATH: &str = "/health";
/// The application protocol of the TLS connection.
pub const ALPN: &[u8] = b"http/1.1";
/// Longest datagram, in bytes: what an Ethernet frame carries.
pub const MAX_DATAGRAM: usize = 1500;
/// Longest message, in bytes.
pub const MAX_MESSAGE: usize = 8 << 10;
/// Longest head of an HTTP request or answer, in bytes.
pub const MAX_HEAD: usize = 4 << 10;
/// Bytes of a length.
const LENGTH: usize = 2;
/// What WebSocket puts behind the key before it is hashed (RFC 6455 section 1.3).
pub const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Age from which a datagram is marked as having met congestion, in milliseconds.
const MARKED_FROM_MS: u64 = 20;
/// Age from which a datagram is not sent any more, in milliseconds.
const STALE_FROM_MS: u64 = 100;
/// Most bytes that wait.
const MOST_WAITING: usize = 1 << 20;

/// A message that is not whole datagrams one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a message of datagrams")]
pub struct Malformed;

/// Puts a datagram at the end of a message. False, and nothing is put, if the message has no room for it, or if it is
/// empty or longer than [`MAX_DATAGRAM`].
pub fn put(message: &mut Vec<u8>, datagram: &[u8]) -> bool {
    let fits = message.len() + LENGTH + datagram.len() <= MAX_MESSAGE;
    let Some(length) = length(datagram).filter(|_| fits) else { return false };
    message.extend_from_slice(&length.to_le_bytes());
    message.extend_from_slice(datagram);
    true
}

/// Takes a message apart: all of it, or nothing.
pub fn split(message: &[u8]) -> Result<Datagrams<'_>, Malformed> {
    if message.is_empty() || message.len() > MAX_MESSAGE {
        return Err(Malformed);
    }
    let mut rest = message;
    while !rest.is_empty() {
        (_, rest) = first(rest).ok_or(Malformed)?;
    }
    Ok(Datagrams(message))
}

/// The datagrams of a message, in order.
#[derive(Clone, Debug)]
pub struct Datagrams<'a>(&'a [u8]);

impl<'a> Iterator for Datagrams<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (datagram, rest) = first(self.0)?;
        self.0 = rest;
        Some(datagram)
    }
}

fn first(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = message.split_first_chunk::<LENGTH>()?;
    let (datagram, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    self::length(datagram).map(|_| (datagram, rest))
}

fn length(datagram: &[u8]) -> Option<u16> {
    let length = u16::try_from(datagram.len()).ok()?;
    (1..=MAX_DATAGRAM).contains(&datagram.len()).then_some(length)
}

/// The made-up address of a tunnel. No datagram on the wire comes from such an address.
pub fn address(number: u64) -> SocketAddr {
    let [a, b, c, d] = [number >> 48, number >> 32, number >> 16, number].map(|part| (part & 0xffff) as u16);
    SocketAddr::new(Ipv6Addr::new(0xfd15, 0x7001, 0, 0, a, b, c, d).into(), 1)
}

/// The tunnel that an address stands for, if it is such an address.
pub fn number_of(address: SocketAddr) -> Option<u64> {
    let IpAddr::V6(ip) = address.ip() else { return None };
    match (ip.segments(), address.port()) {
        ([0xfd15, 0x7001, 0, 0, a, b, c, d], 1) => {
            Some([a, b, c, d].into_iter().fold(0, |number, part| number << 16 | u64::from(part)))
        }
        _ => None,
    }
}

/// Datagrams that wait to go into a tunnel. Those that have waited for 20 ms are marked as having met congestion, where
/// their sender understands that; those that have waited for 100 ms are dropped.
#[derive(Debug, Default)]
pub struct Waiting {
    datagrams: VecDeque<Aging>,
    bytes: usize,
}

#[derive(Debug)]
struct Aging {
    since_ms: u64,
    datagram: Box<[u8]>,
}

impl Waiting {
    /// Takes in a datagram; false if it was dropped, because too much waits already.
    pub fn push(&mut self, datagram: &[u8], now_ms: u64) -> bool {
        self.drop_stale(now_ms);
        if length(datagram).is_none() || self.bytes + datagram.len() > MOST_WAITING {
            return false;
        }
        self.bytes += datagram.len();
        self.datagrams.push_back(Aging { since_ms: now_ms, datagram: datagram.into() });
        true
    }

    /// Gives the next message, as full as can be; `None` if nothing waits.
    pub fn next_message(&mut self, now_ms: u64) -> Option<Vec<u8>> {
        self.drop_stale(now_ms);
        let room = (self.bytes + LENGTH * self.datagrams.len()).min(MAX_MESSAGE);
        let mut message = Vec::with_capacity(room);
        while let Some(Aging { since_ms, datagram }) = self.datagrams.front_mut() {
            if now_ms.saturating_sub(*since_ms) >= MARKED_FROM_MS {
                mark(datagram);
            }
            if !put(&mut message, datagram) {
                break;
            }
            self.bytes -= datagram.len();
            self.datagrams.pop_front();
        }
        if self.datagrams.is_empty() {
            // A device that is idle keeps no memory for the time when it was not.
            self.datagrams = VecDeque::new();
        }
        (!message.is_empty()).then_some(message)
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn drop_stale(&mut self, now_ms: u64) {
        while let Some(oldest) = self.datagrams.front()
            && now_ms.saturating_sub(oldest.since_ms) >= STALE_FROM_MS
        {
            self.bytes -= oldest.datagram.len();
            self.datagrams.pop_front();
        }
    }
}

/// Marks the packet inside of a forwarded datagram, if its sender said that it understands marks.
fn mark(datagram: &mut [u8]) {
    let marked = Header::parse(datagram)
        .filter(|header| header.kind == Kind::Data && header.ecn != 0)
        .map(|header| Header { ecn: 3, ..header }.to_bytes());
    if let Some((place, marked)) = datagram.first_chunk_mut().zip(marked) {
        *place = marked;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Slot;

    #[test]
    fn a_message_comes_apart_into_the_datagrams_that_were_put_into_it() {
        let datagrams: [&[u8]; 3] = [b"a", &[7; MAX_DATAGRAM], b"bc"];
        let mut message = Vec::new();
        assert!(datagrams.iter().all(|datagram| put(&mut message, datagram)));
        assert_eq!(split(&message).expect("well-formed").collect::<Vec<_>>(), datagrams);
        for end in 1..message.len() {
            let whole = [3, 3 + LENGTH + MAX_DATAGRAM].contains(&end);
            assert_eq!(split(&message[..end]).is_ok(), whole, "cut at {end}");
        }
    }

    #[test]
    fn a_message_has_bounds() {
        let mut message = Vec::new();
        assert!(!put(&mut message, b"") && !put(&mut message, &[0; MAX_DATAGRAM + 1]) && message.is_empty());
        while put(&mut message, &[1; 1000]) {}
        assert!(message.len() <= MAX_MESSAGE && message.len() + 1000 + LENGTH > MAX_MESSAGE);
        let too_long = [[1, 0, 9]; MAX_MESSAGE / 3 + 1].concat();
        for bad in [b"".as_slice(), &[0, 0], &[0xdd, 5], &too_long] {
            assert_eq!(split(bad).err(), Some(Malformed), "{} bytes", bad.len());
        }
    }

    #[test]
    fn an_address_names_its_tunnel_and_no_other_address_does() {
        for number in [0, 1, 0x1234_5678_9abc_def0, u64::MAX] {
            assert_eq!(number_of(address(number)), Some(number));
        }
        for other in ["[fd15:7001::1]:2", "[fd15:7000::1]:1", "[fd15:7001:1::1]:1", "127.0.0.1:1"] {
            assert_eq!(number_of(other.parse().expect("an address")), None, "{other}");
        }
    }

    #[test]
    fn what_waits_is_marked_and_then_dropped() {
        let mut waiting = Waiting::default();
        let [capable, incapable] = [2, 0].map(|ecn| data(ecn).to_vec());
        let quic = [0xc3; 40].to_vec();
        for (age_ms, wanted) in [(19, Some(2)), (20, Some(3)), (99, Some(3)), (100, None)] {
            for datagram in [&capable, &incapable, &quic] {
                assert!(waiting.push(datagram, 1000));
            }
            let message = waiting.next_message(1000 + age_ms);
            let marked = data(wanted.unwrap_or_default()).to_vec();
            let given = message.as_deref().map(|message| split(message).expect("well-formed").collect::<Vec<_>>());
            let wanted = wanted.map(|_| vec![marked.as_slice(), &incapable, &quic]);
            assert_eq!((given, waiting.bytes()), (wanted, 0), "{age_ms} ms");
        }
    }

    #[test]
    fn what_waits_is_bounded_and_comes_in_order() {
        let mut waiting = Waiting::default();
        let mut taken = 0u32;
        while waiting.push(&[taken.to_le_bytes().as_slice(), &[0; 1000]].concat(), 0) {
            taken += 1;
        }
        assert!(waiting.bytes() <= MOST_WAITING && taken > 1000);
        let mut next = 0u32;
        while let Some(message) = waiting.next_message(19) {
            for datagram in split(&message).expect("well-formed") {
                assert_eq!(datagram[..4], next.to_le_bytes());
                next += 1;
            }
        }
        assert_eq!((next, waiting.bytes()), (taken, 0));
        assert!(!waiting.push(&[0; MAX_DATAGRAM + 1], 0));
    }

    fn data(ecn: u8) -> [u8; crate::relay::HEADER] {
        Header { kind: Kind::Data, ecn, slot: Slot(5), token: [1; 8] }.to_bytes()
    }
}
