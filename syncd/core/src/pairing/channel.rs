//! From three words to a channel: the exchange, its confirmation, and the sealed messages after it.
//!
//! SPAKE2 gives both sides one key if they know the same code, and gives whoever guesses wrong nothing to guess
//! again with. The room's number and the version are in its identities. It is kept behind [`Exchange`] so that
//! another exchange could take its place.

use hearth_schemas::codec;
use hearth_schemas::keys::{self, Secret};
use hearth_schemas::label;
use hearth_schemas::pairing::{Code, Inner, MAX_INNER, MAX_PIECE, Message, Piece, VERSION, encode_message};
use hearth_schemas::relay::MAX_MESSAGE;
use hearth_schemas::seal::{self, Entropy};
use spake2::{Ed25519Group, Identity, Password, Spake2};

use super::PairingError;

/// Which end of the exchange one is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Joiner,
    Inviter,
}

/// One's own half of the exchange, waiting for the other half. It is used up by the one guess it allows.
pub(super) struct Exchange {
    spake: Spake2<Ed25519Group>,
    side: Side,
    number: u32,
    own: Vec<u8>,
}

impl Exchange {
    /// Makes one's own half.
    pub(super) fn start(side: Side, code: &Code, entropy: Entropy<'_>) -> Self {
        let password = Password::new(code.password().as_bytes());
        let joiner = identity(label::PAIR_JOINER, code.number());
        let inviter = identity(label::PAIR_INVITER, code.number());
        let (spake, own) = match side {
            Side::Joiner => Spake2::start_a_with_rng(&password, &joiner, &inviter, Rng(entropy)),
            Side::Inviter => Spake2::start_b_with_rng(&password, &joiner, &inviter, Rng(entropy)),
        };
        Self { spake, side, number: code.number(), own }
    }

    /// The half to send.
    pub(super) fn own(&self) -> &[u8] {
        &self.own
    }

    /// Takes the other half in. That both sides hold the same keys is known only once each has confirmed.
    pub(super) fn finish(self, theirs: &[u8]) -> Result<Session, PairingError> {
        let (joiner, inviter) = match self.side {
            Side::Joiner => (self.own.as_slice(), theirs),
            Side::Inviter => (theirs, self.own.as_slice()),
        };
        let seen = codec::encode(&(label::PAIR_TRANSCRIPT, VERSION, self.number, joiner, inviter));
        let transcript = *blake3::hash(&seen).as_bytes();
        let key = zeroize::Zeroizing::new(self.spake.finish(theirs).map_err(|_| PairingError::Malformed)?);
        let derive = |label| keys::derive(&transcript, &key, label);
        let confirm = [derive(label::PAIR_CONFIRM_JOINER), derive(label::PAIR_CONFIRM_INVITER)];
        let channel = [derive(label::PAIR_CHANNEL_JOINER), derive(label::PAIR_CHANNEL_INVITER)];
        let ([own_confirm, their_confirm], [own_channel, their_channel]) = match self.side {
            Side::Joiner => (confirm, channel),
            Side::Inviter => {
                let ([joiner, inviter], [to_us, from_us]) = (confirm, channel);
                ([inviter, joiner], [from_us, to_us])
            }
        };
        Ok(Session {
            transcript,
            own_mac: mac(&own_confirm, &transcript),
            their_mac: mac(&their_confirm, &transcript),
            channel: Channel { own: own_channel, theirs: their_channel, sent: 0, received: 0, partial: Vec::new() },
        })
    }
}

/// The keys that came of an exchange.
pub(super) struct Session {
    /// Hash of what both sides have seen.
    pub(super) transcript: [u8; 32],
    /// Tells the other side that one holds the keys.
    pub(super) own_mac: [u8; 32],
    their_mac: blake3::Hash,
    /// Sealed messages.
    pub(super) channel: Channel,
}

impl Session {
    /// Whether the other side holds the same keys, so knew the same code.
    pub(super) fn is_confirmed_by(&self, mac: [u8; 32]) -> bool {
        self.their_mac == blake3::Hash::from_bytes(mac)
    }
}

/// Sealed messages, in order, each direction under its own key.
pub(super) struct Channel {
    own: Secret,
    theirs: Secret,
    sent: u64,
    received: u64,
    partial: Vec<u8>,
}

impl Channel {
    /// Seals a message into pieces that the relay's room takes.
    pub(super) fn seal(&mut self, inner: &Inner, entropy: Entropy<'_>) -> Vec<Vec<u8>> {
        let bytes = codec::encode(inner);
        let count = bytes.chunks(MAX_PIECE).count();
        let mut messages = Vec::with_capacity(count);
        for (i, piece) in bytes.chunks(MAX_PIECE).enumerate() {
            let piece = codec::encode(&Piece { last: i + 1 == count, bytes: piece.to_vec() });
            let sealed = seal::seal(self.own.bytes(), &self.sent.to_le_bytes(), &piece, &mut *entropy);
            self.sent += 1;
            messages.push(encode_message(&Message::Sealed { bytes: sealed }));
        }
        messages
    }

    /// Opens the next piece; gives the message that it completes.
    pub(super) fn open(&mut self, sealed: &[u8]) -> Result<Option<Inner>, PairingError> {
        let piece = seal::open(self.theirs.bytes(), &self.received.to_le_bytes(), sealed)
            .map_err(|_| PairingError::Malformed)?;
        self.received += 1;
        let piece: Piece = codec::decode(&piece, MAX_MESSAGE).map_err(|_| PairingError::Malformed)?;
        if self.partial.len() + piece.bytes.len() > MAX_INNER {
            return Err(PairingError::Malformed);
        }
        self.partial.extend_from_slice(&piece.bytes);
        if !piece.last {
            return Ok(None);
        }
        let whole = std::mem::take(&mut self.partial);
        codec::decode(&whole, MAX_INNER).map(Some).map_err(|_| PairingError::Malformed)
    }
}

fn identity(label: &str, number: u32) -> Identity {
    Identity::new(&codec::encode(&(label, VERSION, number)))
}

fn mac<T: From<[u8; 32]>>(key: &Secret, transcript: &[u8; 32]) -> T {
    T::from(*blake3::keyed_hash(key.bytes(), transcript).as_bytes())
}

/// Gives the caller's entropy to the exchange.
struct Rng<'a>(Entropy<'a>);

impl rand_core::RngCore for Rng<'_> {
    fn next_u32(&mut self) -> u32 {
        rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand_core::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        (self.0)(bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_core::Error> {
        (self.0)(bytes);
        Ok(())
    }
}

impl rand_core::CryptoRng for Rng<'_> {}
