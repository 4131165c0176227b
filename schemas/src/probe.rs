//! Device to device, outside QUIC: the datagrams that find out whether an address leads to a peer.
//!
//! A ping asks, a pong answers with the same number. Both are sealed under a key of the two devices, so that only the
//! peer can ask or answer, and both may be padded, to find out whether an address takes packets of that length. The
//! first byte tells them from QUIC's packets and from the relay's datagrams ([`crate::relay::Header`]).

use crate::ids::{DeviceId, Slot};
use crate::keys::{self, Secret};
use crate::label;
use crate::seal::{self, Entropy, OVERHEAD};

/// The first byte.
const FIRST: u8 = 5;
/// What stands before the sealed bytes: first byte, low byte of the epoch, the sender's slot (little-endian).
const CLEAR: usize = 4;
/// What is sealed at least: ping or pong, and the number.
const PLAIN: usize = 1 + 8;
/// Length of a probe without padding, in bytes.
pub const SHORT: usize = CLEAR + OVERHEAD + PLAIN;
/// Length of a padded probe, in bytes: what every path of QUIC carries (RFC 9000 section 14).
pub const FULL: usize = 1200;

/// A question or its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Whether it answers.
    pub pong: bool,
    /// Tells pings apart; a pong has that of its ping.
    pub number: u64,
    /// Whether it is as long as [`FULL`], or [`SHORT`].
    pub full: bool,
}

/// The key of probes between two devices, the same for either, in one epoch.
pub fn pair_key(signal_key: &Secret, one: DeviceId, other: DeviceId) -> Secret {
    let (low, high) = if one.0 <= other.0 { (one, other) } else { (other, one) };
    keys::derive(&[low.0, high.0].concat(), signal_key.bytes(), label::PROBE)
}

/// Who claims to have sent a datagram, and the low byte of the epoch that it is sealed in; `None` if it is no probe.
pub fn sender(datagram: &[u8]) -> Option<(Slot, u8)> {
    match datagram {
        [FIRST, epoch, low, high, ..] if [SHORT, FULL].contains(&datagram.len()) => {
            Some((Slot(u16::from_le_bytes([*low, *high])), *epoch))
        }
        _ => None,
    }
}

impl Probe {
    /// Seals a probe of the device with number `from`.
    pub fn seal(self, from: Slot, epoch: u32, pair_key: &Secret, entropy: Entropy<'_>) -> Vec<u8> {
        let mut clear = [FIRST, epoch.to_le_bytes()[0], 0, 0];
        clear[2..].copy_from_slice(&from.0.to_le_bytes());
        let mut plain = vec![0; if self.full { FULL - CLEAR - OVERHEAD } else { PLAIN }];
        plain[0] = u8::from(self.pong);
        plain[1..PLAIN].copy_from_slice(&self.number.to_le_bytes());
        [clear.as_slice(), &seal::seal(pair_key.bytes(), &clear, &plain, entropy)].concat()
    }

    /// Opens what [`Probe::seal`] made; `None` if the peer did not.
    pub fn open(datagram: &[u8], pair_key: &Secret) -> Option<Self> {
        sender(datagram)?;
        let (clear, sealed) = datagram.split_at(CLEAR);
        let plain = seal::open(pair_key.bytes(), clear, sealed).ok()?;
        let (head, padding) = plain.split_at_checked(PLAIN)?;
        let pong = match head[0] {
            0 => false,
            1 => true,
            _ => return None,
        };
        if padding.iter().any(|byte| *byte != 0) {
            return None;
        }
        let number = u64::from_le_bytes(head[1..].try_into().ok()?);
        Some(Self { pong, number, full: datagram.len() == FULL })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::Header;

    #[test]
    fn a_probe_survives_being_sealed_and_opened() {
        for (pong, full) in [(false, false), (true, false), (false, true), (true, true)] {
            let probe = Probe { pong, number: u64::MAX - 1, full };
            let datagram = probe.seal(Slot(513), 0x105, &key(), &mut entropy);
            assert_eq!(datagram.len(), if full { FULL } else { SHORT });
            assert_eq!(sender(&datagram), Some((Slot(513), 5)));
            assert_eq!(Probe::open(&datagram, &key()), Some(probe));
            assert!(!Header::is_quic(&datagram), "QUIC would take it for its own");
            assert_eq!(Header::parse(&datagram), None, "the relay's leg would take it for its own");
        }
    }

    #[test]
    fn what_the_peer_did_not_send_does_not_open() {
        let datagram = Probe { pong: false, number: 1, full: false }.seal(Slot(1), 1, &key(), &mut entropy);
        assert_eq!(Probe::open(&datagram, &pair_key(&secret(), device(1), device(3))), None);
        for at in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[at] ^= 1;
            assert_eq!(Probe::open(&changed, &key()), None, "{at}");
            assert_eq!(Probe::open(&datagram[..at], &key()), None, "{at}");
        }
    }

    #[test]
    fn both_ends_derive_one_key_and_no_other_pair_does() {
        assert!(key() == pair_key(&secret(), device(2), device(1)));
        assert!(key() != pair_key(&secret(), device(1), device(3)));
        assert!(key() != pair_key(&Secret::from_bytes([8; 32]), device(1), device(2)));
    }

    fn key() -> Secret {
        pair_key(&secret(), device(1), device(2))
    }

    fn secret() -> Secret {
        Secret::from_bytes([7; 32])
    }

    fn device(n: u8) -> DeviceId {
        DeviceId([n; 32])
    }

    fn entropy(out: &mut [u8]) {
        out.fill(9);
    }
}
