//! The keys of an account and of a device, and what is derived from them.
//!
//! ```text
//! recovery phrase → root signing key, root KEM key          device: signing, TLS and KEM keys
//! epoch key → store, signal, wrap                           account secret → content, tag, names
//! ```
//!
//! Random bytes come from the caller. How epoch keys reach devices is [`epoch`]'s business, devices' names are
//! [`name`]'s, the account's configuration [`config`]'s; keeping keys on disk is the daemon's. Secrets are wiped when dropped and cannot be printed.

pub mod config;
pub mod epoch;
pub mod name;

use bip39::{Language, Mnemonic};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::ids::{AccountId, DeviceId};
use crate::label;
use crate::log::{PublicKeys, account_id, device_id};
use crate::seal::{self, Entropy};

/// Words in a recovery phrase.
pub const PHRASE_WORDS: usize = 12;

/// 32 secret bytes.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Takes secret bytes in.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Makes a random secret.
    pub fn random(entropy: Entropy<'_>) -> Self {
        let mut bytes = [0; 32];
        entropy(&mut bytes);
        Self(bytes)
    }

    /// The bytes, for a cipher or for sealing.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Derives a secret for one purpose, named by a label of [`crate::label`].
    pub fn derive(&self, label: &str) -> Self {
        derive(&[], &self.0, label)
    }
}

impl PartialEq for Secret {
    /// Compares in constant time.
    fn eq(&self, other: &Self) -> bool {
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
    }
}

impl Eq for Secret {}

/// HKDF-SHA256 with a label as info.
pub fn derive(salt: &[u8], key: &[u8], label: &str) -> Secret {
    let mut out = [0; 32];
    Hkdf::<Sha256>::new(Some(salt), key)
        .expand(label.as_bytes(), &mut out)
        .expect("32 bytes are within what HKDF gives");
    let secret = Secret(out);
    out.zeroize();
    secret
}

/// The key of one epoch.
#[derive(Clone, PartialEq, Eq)]
pub struct EpochKey(pub Secret);

impl EpochKey {
    /// The passphrase of the epoch's packs, as bytes.
    pub fn store(&self) -> Secret {
        self.0.derive(label::EPOCH_STORE)
    }

    /// The key of offers, answers and mailbox.
    pub fn signal(&self) -> Secret {
        self.0.derive(label::EPOCH_SIGNAL)
    }

    /// The key that the account secret is wrapped under.
    pub fn wrap(&self) -> Secret {
        self.0.derive(label::EPOCH_WRAP)
    }
}

/// The account's long-lived secret.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountSecret(pub Secret);

impl AccountSecret {
    /// The key of content ids (keyed BLAKE3).
    pub fn content(&self) -> Secret {
        self.0.derive(label::ACCOUNT_CONTENT)
    }

    /// The key of names in logs.
    pub fn tag(&self) -> Secret {
        self.0.derive(label::ACCOUNT_TAG)
    }

    /// The key of sealed text in the device log.
    pub fn names(&self) -> Secret {
        self.0.derive(label::ACCOUNT_NAMES)
    }
}

/// Why a text is not a recovery phrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PhraseError {
    /// Not twelve words.
    #[error("a recovery phrase has {PHRASE_WORDS} words, this has {0}")]
    WordCount(usize),
    /// A word that is not in the list.
    #[error("word {0} of the recovery phrase is not in the word list")]
    UnknownWord(usize),
    /// The words do not belong together.
    #[error("the recovery phrase has a wrong or misplaced word")]
    Checksum,
}

/// The recovery phrase: twelve BIP39 words, 128 bits.
#[derive(Clone)]
pub struct Phrase(Mnemonic);

impl Phrase {
    /// Makes a random phrase.
    pub fn random(entropy: Entropy<'_>) -> Self {
        let mut bytes = Zeroizing::new([0; 16]);
        entropy(bytes.as_mut_slice());
        Self(Mnemonic::from_entropy_in(Language::English, bytes.as_slice()).expect("16 bytes make 12 words"))
    }

    /// Reads a phrase as a person types it: any case, any space between the words.
    pub fn parse(text: &str) -> Result<Self, PhraseError> {
        let lower = Zeroizing::new(text.to_lowercase());
        let words: Vec<&str> = lower.split_whitespace().collect();
        if words.len() != PHRASE_WORDS {
            return Err(PhraseError::WordCount(words.len()));
        }
        if let Some(unknown) = words.iter().position(|word| Language::English.find_word(word).is_none()) {
            return Err(PhraseError::UnknownWord(unknown + 1));
        }
        let joined = Zeroizing::new(words.join(" "));
        Mnemonic::parse_in_normalized(Language::English, &joined).map(Self).map_err(|_| PhraseError::Checksum)
    }

    /// The words, separated by spaces.
    pub fn words(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.words().collect::<Vec<_>>().join(" "))
    }

    /// The root keys.
    pub fn root(&self) -> Root {
        let entropy = Zeroizing::new(self.0.to_entropy());
        let sign = derive(label::ROOT.as_bytes(), &entropy, label::ROOT_SIGN);
        let kem = derive(label::ROOT.as_bytes(), &entropy, label::ROOT_KEM);
        Root { sign: SigningKey::from_bytes(sign.bytes()), kem }
    }
}

/// The root keys of an account. They exist only while a person has just given the phrase.
#[derive(Clone)]
pub struct Root {
    /// Signs what no device may.
    pub sign: SigningKey,
    /// Opens every epoch key.
    pub kem: Secret,
}

impl Root {
    /// The account of this root.
    pub fn account(&self) -> AccountId {
        account_id(&self.sign_public())
    }

    /// The root signing key's public half.
    pub fn sign_public(&self) -> [u8; 32] {
        self.sign.verifying_key().to_bytes()
    }

    /// The root KEM key's public half.
    pub fn kem_public(&self) -> Vec<u8> {
        seal::kem_public(self.kem.bytes())
    }
}

/// Length of a device's keys, in bytes.
pub const DEVICE_KEYS: usize = 96;

/// The secret keys of one device. They are made on it and never leave it.
#[derive(Clone)]
pub struct DeviceKeys {
    /// Signs log entries, manifests and signals.
    pub sign: SigningKey,
    /// The raw key of TLS connections.
    pub tls: SigningKey,
    /// Receives sealed epoch keys.
    pub kem: Secret,
}

impl DeviceKeys {
    /// Makes random keys.
    pub fn random(entropy: Entropy<'_>) -> Self {
        let mut bytes = Zeroizing::new([0; DEVICE_KEYS]);
        entropy(bytes.as_mut_slice());
        Self::from_bytes(&bytes)
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8; DEVICE_KEYS]) -> Self {
        let (sign, rest) = bytes.split_first_chunk::<32>().expect("96 bytes hold three keys");
        let (tls, kem) = rest.split_first_chunk::<32>().expect("96 bytes hold three keys");
        let kem = kem.try_into().expect("96 bytes hold three keys");
        Self { sign: SigningKey::from_bytes(sign), tls: SigningKey::from_bytes(tls), kem: Secret(kem) }
    }

    /// The secret bytes, to be sealed at once.
    pub fn to_bytes(&self) -> Zeroizing<[u8; DEVICE_KEYS]> {
        let mut bytes = Zeroizing::new([0; DEVICE_KEYS]);
        bytes[..32].copy_from_slice(self.sign.as_bytes());
        bytes[32..64].copy_from_slice(self.tls.as_bytes());
        bytes[64..].copy_from_slice(self.kem.bytes());
        bytes
    }

    /// The public halves.
    pub fn public(&self) -> PublicKeys {
        PublicKeys {
            sign: self.sign.verifying_key().to_bytes(),
            tls: self.tls.verifying_key().to_bytes(),
            kem: seal::kem_public(self.kem.bytes()),
        }
    }

    /// The device's id.
    pub fn id(&self) -> DeviceId {
        device_id(&self.sign.verifying_key().to_bytes())
    }
}

/// Signs a message with an Ed25519 key. The message begins with a label of [`crate::label`].
pub fn sign(key: &SigningKey, message: &[u8]) -> Vec<u8> {
    key.sign(message).to_bytes().to_vec()
}

/// Whether a signature is the key's over the message; weak keys never are.
pub fn verify(key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    let (Ok(key), Ok(signature)) = (VerifyingKey::from_bytes(key), Signature::from_slice(signature)) else {
        return false;
    };
    key.verify_strict(message, &signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phrase_alone_gives_the_same_root_again() {
        let phrase = Phrase::random(&mut |bytes| bytes.fill(0));
        let words = phrase.words();
        assert_eq!(words.as_str(), "abandon ".repeat(11) + "about");
        let typed = format!("\n  {}\t", words.to_uppercase().replace(' ', "  "));
        let Ok(again) = Phrase::parse(&typed) else { panic!("not read") };
        assert_eq!(again.root().account(), phrase.root().account());
        assert!(again.root().kem == phrase.root().kem);
        let other = Phrase::random(&mut |bytes| bytes.fill(1));
        assert_ne!(other.root().account(), phrase.root().account());
    }

    #[test]
    fn a_mistyped_phrase_is_refused_with_its_reason() {
        let table = [
            ("abandon abandon", PhraseError::WordCount(2)),
            (&("abandon ".repeat(11) + "hearth"), PhraseError::UnknownWord(12)),
            (&"abandon ".repeat(12), PhraseError::Checksum),
        ];
        for (text, wanted) in table {
            assert_eq!(Phrase::parse(text).err(), Some(wanted), "{text}");
        }
    }

    #[test]
    fn derived_keys_differ_from_each_other_and_their_origin() {
        let secret = Secret::from_bytes([5; 32]);
        let epoch = EpochKey(secret.clone());
        let account = AccountSecret(secret.clone());
        let all = [
            epoch.store(),
            epoch.signal(),
            epoch.wrap(),
            account.content(),
            account.tag(),
            account.names(),
            secret,
            Secret::from_bytes([6; 32]).derive(label::EPOCH_STORE),
        ];
        for (i, one) in all.iter().enumerate() {
            assert_eq!(all.iter().position(|other| other == one), Some(i));
        }
    }

    #[test]
    fn device_keys_survive_being_written_and_read() {
        let mut next = 0;
        let keys = DeviceKeys::random(&mut |bytes| {
            for byte in bytes {
                next += 1;
                *byte = next;
            }
        });
        let again = DeviceKeys::from_bytes(&keys.to_bytes());
        assert_eq!(again.public(), keys.public());
        assert_eq!(again.id(), keys.id());
        assert_ne!(keys.public().sign, keys.public().tls);
    }

    #[test]
    fn a_signature_counts_for_its_key_and_message_only() {
        let keys = DeviceKeys::from_bytes(&[3; DEVICE_KEYS]);
        let signature = sign(&keys.sign, b"message");
        assert!(verify(&keys.public().sign, b"message", &signature));
        assert!(!verify(&keys.public().sign, b"another", &signature));
        assert!(!verify(&[0; 32], b"message", &signature));
        assert!(!verify(&keys.public().sign, b"message", &signature[1..]));
    }
}
