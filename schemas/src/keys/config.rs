//! The account's configuration: what all of its devices must agree on, and the relay has no business to read.
//!
//! Sealed under the account's names key, padded to one length, and bound to its account. The device log names it by its
//! hash (`Config`), so that its order in time is the log's, and a device that may not enrol others cannot change it.

use crate::address::RelayAddress;
use crate::codec;
use crate::ids::AccountId;
use crate::label;
use crate::seal::{self, Entropy, NotOpened};

use super::AccountSecret;

/// Most relays of an account.
pub const MAX_RELAYS: usize = 3;
/// Longest address of a relay, in bytes: the longest name that there can be, port and key.
pub const MAX_ADDRESS: usize = 400;
/// Version of what is sealed; there is no other.
const VERSION: u8 = 1;
/// Length of what is sealed, in bytes: length of the encoding, the encoding, zeros.
const PADDED: usize = 2048;

/// What is configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The relays; changes to the device log are made at the first of them. Never none.
    pub relays: Vec<RelayAddress>,
}

/// Why relays cannot be an account's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// None, or too many.
    #[error("an account has one to {MAX_RELAYS} relays")]
    Count,
    /// One twice.
    #[error("a relay is named twice")]
    Twice,
    /// An address that is too long.
    #[error("a relay's address has at most {MAX_ADDRESS} bytes")]
    Length,
}

impl Config {
    /// Checks what can be wrong with it.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.relays.is_empty() || self.relays.len() > MAX_RELAYS {
            return Err(ConfigError::Count);
        }
        if self.relays.iter().any(|relay| relay.to_string().len() > MAX_ADDRESS) {
            return Err(ConfigError::Length);
        }
        let twice = |(at, relay): (usize, &RelayAddress)| self.relays[..at].iter().any(|other| other.is_at(relay));
        if self.relays.iter().enumerate().any(twice) { Err(ConfigError::Twice) } else { Ok(()) }
    }

    /// Seals it for the relays to keep.
    pub fn seal(
        &self,
        secret: &AccountSecret,
        account: AccountId,
        entropy: Entropy<'_>,
    ) -> Result<Vec<u8>, ConfigError> {
        self.check()?;
        let relays: Vec<String> = self.relays.iter().map(ToString::to_string).collect();
        let encoded = codec::encode(&(VERSION, relays));
        let length = u16::try_from(encoded.len()).map_err(|_| ConfigError::Length)?;
        let mut padded = [length.to_le_bytes().as_slice(), &encoded].concat();
        padded.resize(PADDED, 0);
        Ok(seal::seal(secret.names().bytes(), &place(account), &padded, entropy))
    }

    /// Opens one; [`NotOpened`] also if it is sealed well but is none that this version knows.
    pub fn open(secret: &AccountSecret, account: AccountId, sealed: &[u8]) -> Result<Self, NotOpened> {
        let padded = seal::open(secret.names().bytes(), &place(account), sealed)?;
        let (length, rest) = padded.split_first_chunk().ok_or(NotOpened)?;
        let encoded = rest.get(..usize::from(u16::from_le_bytes(*length))).ok_or(NotOpened)?;
        let (version, relays): (u8, Vec<String>) = codec::decode(encoded, PADDED).map_err(|_| NotOpened)?;
        let relays = relays.iter().map(|text| RelayAddress::parse(text)).collect::<Result<_, _>>();
        let config = Self { relays: relays.map_err(|_| NotOpened)? };
        if version != VERSION || config.check().is_err() {
            return Err(NotOpened);
        }
        Ok(config)
    }
}

fn place(account: AccountId) -> Vec<u8> {
    codec::encode(&(label::ACCOUNT_CONFIG, account))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Secret;

    const ACCOUNT: AccountId = AccountId([2; 32]);

    #[test]
    fn a_configuration_opens_only_for_its_account_and_each_has_one_length() {
        let secret = AccountSecret(Secret::from_bytes([1; 32]));
        let long = format!("hearth://{}:443#{}", "x".repeat(300), "ab".repeat(32));
        for texts in [&["hearth://relay.example:443"][..], &["hearth://[::1]:1", "hearth://10.0.0.1:2", &long]] {
            let config = config(texts);
            let sealed = config.seal(&secret, ACCOUNT, &mut |bytes| bytes.fill(9)).expect("sealed");
            assert_eq!(sealed.len(), PADDED + seal::OVERHEAD);
            assert_eq!(Config::open(&secret, ACCOUNT, &sealed), Ok(config));
            assert_eq!(Config::open(&secret, AccountId([3; 32]), &sealed), Err(NotOpened));
        }
    }

    #[test]
    fn what_cannot_be_an_accounts_relays_is_refused() {
        let long = format!("hearth://{}:443", "x".repeat(400));
        let relay = |port: u16| format!("hearth://relay.example:{port}");
        let table = [
            (vec![], ConfigError::Count),
            ((1..5).map(relay).collect(), ConfigError::Count),
            (vec![long], ConfigError::Length),
            (vec![relay(1), format!("{}#{}", relay(1), "ab".repeat(32))], ConfigError::Twice),
        ];
        for (texts, wanted) in table {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            assert_eq!(config(&texts).check(), Err(wanted), "{texts:?}");
        }
    }

    #[test]
    fn a_well_sealed_lie_is_no_configuration() {
        let secret = AccountSecret(Secret::from_bytes([1; 32]));
        let encoded = |version: u8, relays: Vec<String>| {
            let encoded = codec::encode(&(version, relays));
            [u16::try_from(encoded.len()).expect("short").to_le_bytes().as_slice(), &encoded].concat()
        };
        let good = vec!["hearth://relay.example:443".to_owned()];
        let none = encoded(1, Vec::new());
        let later = encoded(2, good.clone());
        let garbled = encoded(1, vec!["relay.example".to_owned()]);
        let cut = encoded(1, good)[..9].to_vec();
        for plain in [none, later, garbled, cut, vec![], vec![0], vec![255; 9]] {
            let sealed = seal::seal(secret.names().bytes(), &place(ACCOUNT), &plain, &mut |bytes| bytes.fill(9));
            assert_eq!(Config::open(&secret, ACCOUNT, &sealed), Err(NotOpened), "{plain:?}");
        }
    }

    fn config(relays: &[&str]) -> Config {
        Config { relays: relays.iter().map(|text| RelayAddress::parse(text).expect("an address")).collect() }
    }
}
