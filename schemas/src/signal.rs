//! Device to device, by the relay's signals: the addresses at which a device may be reached directly.
//!
//! A signal is signed by the device that sends it and sealed under the epoch's signalling key, with who sends it to
//! whom as associated data. The relay passes it on and learns its length, of which there are two. Its counter only
//! rises: what is not above the last one from the same device is a replay.

use std::net::{Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError};
use crate::ids::{AccountId, Slot};
use crate::keys::{self, Secret};
use crate::label;
use crate::relay::{Head, ip_octets};
use crate::seal::{self, Entropy, NotOpened, OVERHEAD};
use ed25519_dalek::SigningKey;

/// Most candidates in one signal.
pub const MAX_CANDIDATES: usize = 10;
/// Lengths of a signal's plain form, in bytes: one for a few candidates, one for all that there may be.
const LENGTHS: [usize; 2] = [256, 512];

/// An address of a device, in the one form in which it is written: IPv4 stands mapped into IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Place {
    ip: [u8; 16],
    port: u16,
}

/// What a device tells another about the ways to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signal {
    /// Rises with each signal of the sender.
    pub counter: u64,
    /// The newest entry of the device log that the sender has verified.
    pub head: Head,
    /// Whether this answers another signal, and wants no answer itself.
    pub reply: bool,
    /// Addresses at which the sender may be reached, the best first; at most [`MAX_CANDIDATES`].
    pub candidates: Vec<SocketAddr>,
}

#[derive(Serialize, Deserialize)]
struct Body {
    counter: u64,
    head: Head,
    reply: bool,
    candidates: Vec<Place>,
}

#[derive(Serialize, Deserialize)]
struct Signed {
    body: Vec<u8>,
    signature: Vec<u8>,
}

/// Who talks to whom, and under which epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Between {
    /// Their account.
    pub account: AccountId,
    /// The epoch whose key seals.
    pub epoch: u32,
    /// The sender.
    pub from: Slot,
    /// The receiver.
    pub to: Slot,
}

/// Why some bytes are no signal from that device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignalError {
    /// Sealed by somebody else, for somebody else or in another epoch.
    #[error(transparent)]
    NotOpened(#[from] NotOpened),
    /// What was sealed is no signal.
    #[error("not a signal")]
    Malformed(#[from] DecodeError),
    /// More candidates than there may be.
    #[error("more than {MAX_CANDIDATES} candidates")]
    TooMany,
    /// Not signed by the device that it names.
    #[error("not signed by the device that sends it")]
    BadSignature,
}

impl Between {
    fn place(&self) -> Vec<u8> {
        codec::encode(&(label::SIGNAL, self.account, self.epoch, self.from, self.to))
    }
}

impl Signal {
    /// Signs and seals. Candidates beyond [`MAX_CANDIDATES`] are left out.
    pub fn seal(&self, between: &Between, signal_key: &Secret, sign: &SigningKey, entropy: Entropy<'_>) -> Vec<u8> {
        let candidates = self.candidates.iter().take(MAX_CANDIDATES).map(|address| Place::of(*address)).collect();
        let body = Body { counter: self.counter, head: self.head, reply: self.reply, candidates };
        let body = codec::encode(&body);
        let signature = keys::sign(sign, &signed_bytes(between, &body));
        let mut plain = codec::encode(&Signed { body, signature });
        let length = u16::try_from(plain.len()).expect("a signal is a few hundred bytes");
        let padded = LENGTHS.into_iter().find(|most| plain.len() + 2 <= *most).unwrap_or(plain.len() + 2);
        plain.splice(..0, length.to_le_bytes());
        plain.resize(padded, 0);
        seal::seal(signal_key.bytes(), &between.place(), &plain, entropy)
    }

    /// Opens a signal, and checks who signed it.
    pub fn open(
        sealed: &[u8],
        between: &Between,
        signal_key: &Secret,
        sign_public: &[u8; 32],
    ) -> Result<Self, SignalError> {
        if sealed.len() > LENGTHS[1] + OVERHEAD {
            return Err(NotOpened.into());
        }
        let plain = seal::open(signal_key.bytes(), &between.place(), sealed)?;
        let (length, rest) = plain.split_first_chunk::<2>().ok_or(DecodeError::Malformed)?;
        let signed = rest.get(..usize::from(u16::from_le_bytes(*length))).ok_or(DecodeError::Malformed)?;
        let signed: Signed = codec::decode(signed, LENGTHS[1])?;
        if !keys::verify(sign_public, &signed_bytes(between, &signed.body), &signed.signature) {
            return Err(SignalError::BadSignature);
        }
        let body: Body = codec::decode(&signed.body, LENGTHS[1])?;
        if body.candidates.len() > MAX_CANDIDATES {
            return Err(SignalError::TooMany);
        }
        let candidates = body.candidates.into_iter().map(Place::address).collect();
        Ok(Self { counter: body.counter, head: body.head, reply: body.reply, candidates })
    }
}

impl Place {
    fn of(address: SocketAddr) -> Self {
        Self { ip: ip_octets(address.ip()), port: address.port() }
    }

    fn address(self) -> SocketAddr {
        SocketAddr::new(Ipv6Addr::from(self.ip).to_canonical(), self.port)
    }
}

fn signed_bytes(between: &Between, body: &[u8]) -> Vec<u8> {
    [between.place().as_slice(), body].concat()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const BETWEEN: Between = Between { account: AccountId([1; 32]), epoch: 2, from: Slot(3), to: Slot(4) };

    #[test]
    fn a_signal_survives_being_sealed_and_opened_and_tells_nothing_by_its_length() {
        let lengths: Vec<usize> = (0..=MAX_CANDIDATES)
            .map(|count| {
                let signal = signal(count);
                let sealed = signal.seal(&BETWEEN, &key(), &signing(), &mut entropy);
                assert_eq!(Signal::open(&sealed, &BETWEEN, &key(), &public()), Ok(signal));
                sealed.len()
            })
            .collect();
        assert_eq!(lengths.first(), Some(&(LENGTHS[0] + OVERHEAD)));
        assert!(lengths.iter().all(|len| LENGTHS.contains(&(len - OVERHEAD))), "{lengths:?}");
    }

    #[test]
    fn a_signal_of_somebody_else_to_somebody_else_or_changed_is_refused() {
        let sealed = signal(3).seal(&BETWEEN, &key(), &signing(), &mut entropy);
        let other = SigningKey::from_bytes(&[9; 32]).verifying_key().to_bytes();
        assert_eq!(Signal::open(&sealed, &BETWEEN, &key(), &other), Err(SignalError::BadSignature));
        for between in [
            Between { from: Slot(4), ..BETWEEN },
            Between { to: Slot(5), ..BETWEEN },
            Between { epoch: 3, ..BETWEEN },
            Between { account: AccountId([2; 32]), ..BETWEEN },
        ] {
            assert_eq!(Signal::open(&sealed, &between, &key(), &public()), Err(NotOpened.into()), "{between:?}");
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(Signal::open(&changed, &BETWEEN, &key(), &public()).is_err(), "{at}");
            assert!(Signal::open(&sealed[..at], &BETWEEN, &key(), &public()).is_err(), "{at}");
        }
    }

    #[test]
    fn what_is_sealed_but_is_no_signal_is_refused() {
        let many = Body { counter: 1, head: head(), reply: false, candidates: vec![Place::of(address(1)); 11] };
        let body = codec::encode(&many);
        let signature = keys::sign(&signing(), &signed_bytes(&BETWEEN, &body));
        let signed = codec::encode(&Signed { body, signature });
        let mut plain = u16::try_from(signed.len()).expect("short").to_le_bytes().to_vec();
        plain.extend_from_slice(&signed);
        for (plain, wanted) in [
            (plain, SignalError::TooMany),
            (vec![], DecodeError::Malformed.into()),
            (vec![9, 0, 1], DecodeError::Malformed.into()),
        ] {
            let sealed = seal::seal(key().bytes(), &BETWEEN.place(), &plain, &mut entropy);
            assert_eq!(Signal::open(&sealed, &BETWEEN, &key(), &public()), Err(wanted));
        }
    }

    fn signal(count: usize) -> Signal {
        let candidates = (0..count).map(|n| address(u16::try_from(n).expect("few"))).collect();
        Signal { counter: 7, head: head(), reply: true, candidates }
    }

    fn address(n: u16) -> SocketAddr {
        let ip: IpAddr =
            if n.is_multiple_of(2) { "192.0.2.1".parse() } else { "2001:db8::1".parse() }.expect("an address");
        SocketAddr::new(ip, 1000 + n)
    }

    fn head() -> Head {
        Head { seq: u64::MAX, hash: [5; 32] }
    }

    fn key() -> Secret {
        Secret::from_bytes([6; 32])
    }

    fn signing() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn public() -> [u8; 32] {
        signing().verifying_key().to_bytes()
    }

    fn entropy(out: &mut [u8]) {
        out.fill(8);
    }
}
