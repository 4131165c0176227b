//! The pairing code, and the messages of two devices that come to trust each other.
//!
//! A code is `7-word-word-word`: the number of the relay's room, then three words of the BIP39 list, 33 bits.
//! [`Message`]s pass through the relay; of them, `Sealed` carries pieces of an [`Inner`] message under keys that
//! the relay cannot know. The exchange itself, and what each side checks, is `syncd-core`'s.

use std::fmt;

use bip39::Language;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::codec::{self, DecodeError};
use crate::ids::AccountId;
use crate::label;
use crate::log::{MAX_ENTRIES, MAX_ENTRY, PublicKeys};
use crate::relay::{Head, MAX_MESSAGE};
use crate::seal::{Entropy, SealedTo};

/// Version of the pairing exchange; both sides bind it into their keys.
pub const VERSION: u8 = 1;
/// Words in a code, after its number.
pub const CODE_WORDS: usize = 3;
/// Most bytes of an inner message in one sealed piece, so that the piece stays within the relay's message limit.
pub const MAX_PIECE: usize = 60 << 10;
/// Longest inner message, in bytes: a full device log and what goes with it.
pub const MAX_INNER: usize = MAX_ENTRIES * MAX_ENTRY + (256 << 10);

/// A pairing code. It is a secret while it is good, so it has no `Debug`; [`fmt::Display`] shows it to the person.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Code {
    number: u32,
    words: [u16; CODE_WORDS],
}

/// Why a text is not a pairing code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// Not a number and three words.
    #[error("a code is a number and three words, such as 7-apple-river-stone")]
    Shape,
    /// The number is none.
    #[error("a code begins with a number")]
    Number,
    /// A word that is not in the list.
    #[error("word {0} of the code is not in the word list")]
    UnknownWord(usize),
}

impl Code {
    /// Makes a random code for a room.
    pub fn random(number: u32, entropy: Entropy<'_>) -> Self {
        let mut bytes = [0; 2 * CODE_WORDS];
        entropy(&mut bytes);
        let word = |i: usize| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]) & 0x7ff;
        Self { number, words: [word(0), word(1), word(2)] }
    }

    /// Reads a code as a person types it: any case, and spaces or dashes between its parts.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        let lower = Zeroizing::new(text.to_lowercase());
        let parts: Vec<&str> =
            lower.split(|c: char| c.is_whitespace() || c == '-').filter(|part| !part.is_empty()).collect();
        let [number, words @ ..] = parts.as_slice() else { return Err(CodeError::Shape) };
        if words.len() != CODE_WORDS {
            return Err(CodeError::Shape);
        }
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(CodeError::Number);
        }
        let number = number.parse().map_err(|_| CodeError::Number)?;
        let mut found = [0; CODE_WORDS];
        for (i, word) in words.iter().enumerate() {
            found[i] = Language::English.find_word(word).ok_or(CodeError::UnknownWord(i + 1))?;
        }
        Ok(Self { number, words: found })
    }

    /// The number of the relay's room.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The words, as the password of the exchange.
    pub fn password(&self) -> Zeroizing<String> {
        let list = Language::English.word_list();
        Zeroizing::new(self.words.map(|word| list[usize::from(word)]).join("-"))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.number, self.password().as_str())
    }
}

/// What passes through the relay's room. The order of the variants is the wire format.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Message {
    /// Joiner first: its half of the exchange.
    Hello {
        /// [`VERSION`].
        version: u8,
        /// SPAKE2 message.
        exchange: Vec<u8>,
    },
    /// Inviter: its half of the exchange.
    Answer {
        /// SPAKE2 message.
        exchange: Vec<u8>,
    },
    /// Either side, joiner first: holds the same key.
    Confirm {
        /// Keyed hash of the transcript.
        mac: [u8; 32],
    },
    /// A piece of an inner message.
    Sealed {
        /// Ciphertext of a [`Piece`].
        bytes: Vec<u8>,
    },
    /// Inviter: the code did not match, or the exchange makes no sense; this run is over.
    Refused,
}

/// A piece of an inner message, before it is sealed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Piece {
    /// Whether the message ends here.
    pub last: bool,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What the two sides say once they hold the same key. The order of the variants is the wire format.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Inner {
    /// Joiner: its keys, proof that it holds them, the name it would like.
    Introduce {
        /// Its public keys.
        keys: PublicKeys,
        /// The name it would like.
        name: String,
        /// By its signing key over [`possession`].
        proof_sign: Vec<u8>,
        /// By its TLS key over [`possession`].
        proof_tls: Vec<u8>,
    },
    /// Inviter: the account that the joiner is now a device of.
    Welcome(Box<Welcome>),
    /// Inviter: it was not added after all.
    NotEnrolled {
        /// Why, for the person at the joiner.
        reason: String,
    },
    /// Either side, joiner first: agrees on what happened.
    Agreed {
        /// [`outcome`].
        outcome: [u8; 32],
    },
}

/// What a device must know to take part in an account.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The account.
    pub account: AccountId,
    /// Root signing key.
    pub root: [u8; 32],
    /// The device log, with the joiner in it.
    pub entries: Vec<Vec<u8>>,
    /// The log's newest entry.
    pub head: Head,
    /// The account's relays, with pinned keys.
    pub relays: Vec<String>,
    /// [`WelcomeSecrets`], sealed to the joiner's KEM key: opening them proves that it holds it, and they stay
    /// secret from whoever records the exchange today and breaks its curve one day.
    pub secrets: SealedTo,
}

/// The secrets of an account.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct WelcomeSecrets {
    /// The account secret.
    pub account: [u8; 32],
    /// Epoch numbers and keys, oldest first.
    pub epochs: Vec<(u32, [u8; 32])>,
}

/// Encodes a message for the relay's room.
pub fn encode_message(message: &Message) -> Vec<u8> {
    codec::encode(message)
}

/// Decodes a message from the relay's room.
pub fn decode_message(bytes: &[u8]) -> Result<Message, DecodeError> {
    codec::decode(bytes, MAX_MESSAGE)
}

/// What the joiner signs with each of its keys: this exchange, and all its keys.
pub fn possession(transcript: &[u8; 32], keys: &PublicKeys) -> Vec<u8> {
    codec::encode(&(label::PAIR_POSSESSION, transcript, keys))
}

/// What both sides must have seen alike: number, keys, account and head.
pub fn outcome(number: u32, keys: &PublicKeys, account: AccountId, head: &Head) -> [u8; 32] {
    *blake3::hash(&codec::encode(&(label::PAIR_OUTCOME, number, keys, account, head))).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_back_however_it_is_typed() {
        let code = Code::random(17, &mut |bytes| bytes.copy_from_slice(&[0, 0, 1, 0xf8, 0xff, 0xff]));
        assert_eq!(code.to_string(), "17-abandon-ability-zoo");
        for typed in [
            "17-abandon-ability-zoo",
            " 17 Abandon  ABILITY zoo\n",
            "17 - abandon - ability-zoo",
            "017-abandon-ability-zoo",
        ] {
            assert!(Code::parse(typed).is_ok_and(|read| read == code), "{typed:?}");
        }
    }

    #[test]
    fn what_is_no_code_is_refused_with_its_reason() {
        let table = [
            ("", CodeError::Shape),
            ("7-zoo-zoo", CodeError::Shape),
            ("7-zoo-zoo-zoo-zoo", CodeError::Shape),
            ("zoo-zoo-zoo-zoo", CodeError::Number),
            ("+7-zoo-zoo-zoo", CodeError::Number),
            ("4294967296-zoo-zoo-zoo", CodeError::Number),
            ("7-zoo-zooo-zoo", CodeError::UnknownWord(2)),
        ];
        for (text, wanted) in table {
            assert_eq!(Code::parse(text).err(), Some(wanted), "{text:?}");
        }
    }
}
