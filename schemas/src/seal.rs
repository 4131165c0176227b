//! Sealing and opening bytes: XChaCha20-Poly1305 under a key, HPKE with X-Wing to a recipient.
//!
//! One suite, compiled in: the bytes carry no parameter that anybody could choose. What is sealed, for whom and in
//! which place is the caller's business, given as associated data.

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Length of an X-Wing public key, in bytes.
pub const KEM_KEY: usize = 1216;
/// Bytes that [`seal`] adds: nonce and tag.
pub const OVERHEAD: usize = 24 + 16;

/// Where random bytes come from: fills the slice.
pub type Entropy<'a> = &'a mut dyn FnMut(&mut [u8]);

/// The bytes do not open: wrong key, wrong place, or changed. Which of these is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sealed bytes do not open")]
pub struct NotOpened;

/// Bytes sealed to the holder of a KEM key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SealedTo {
    /// The encapsulated key.
    pub key: Vec<u8>,
    /// The ciphertext with its tag.
    pub bytes: Vec<u8>,
}

/// Seals bytes under a key, with a random nonce in front.
pub fn seal(key: &[u8; 32], place: &[u8], plain: &[u8], entropy: Entropy<'_>) -> Vec<u8> {
    let mut nonce = [0; 24];
    entropy(&mut nonce);
    let sealed = XChaCha20Poly1305::new(key.into())
        .encrypt(&nonce.into(), Payload { msg: plain, aad: place })
        .expect("memory holds far less than the cipher can take");
    [nonce.as_slice(), &sealed].concat()
}

/// Opens what [`seal`] made under the same key and place.
pub fn open(key: &[u8; 32], place: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
    let (nonce, sealed) = sealed.split_first_chunk::<24>().ok_or(NotOpened)?;
    XChaCha20Poly1305::new(key.into())
        .decrypt(&(*nonce).into(), Payload { msg: sealed, aad: place })
        .map(Zeroizing::new)
        .map_err(|_| NotOpened)
}

/// Whether some bytes are a KEM public key.
pub fn is_kem_key(bytes: &[u8]) -> bool {
    <XWing as Kem>::PublicKey::from_bytes(bytes).is_ok()
}

/// The public key of a KEM seed.
pub fn kem_public(seed: &[u8; 32]) -> Vec<u8> {
    XWing::sk_to_pk(&secret_key(seed)).to_bytes().to_vec()
}

/// Seals bytes to the holder of a KEM key; [`NotOpened`] if it is none.
pub fn seal_to(
    recipient: &[u8],
    info: &[u8],
    place: &[u8],
    plain: &[u8],
    entropy: Entropy<'_>,
) -> Result<SealedTo, NotOpened> {
    let recipient = <XWing as Kem>::PublicKey::from_bytes(recipient).map_err(|_| NotOpened)?;
    let (key, bytes) = hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, XWing>(
        &OpModeS::Base,
        &recipient,
        info,
        plain,
        place,
        &mut Rng(entropy),
    )
    .map_err(|_| NotOpened)?;
    Ok(SealedTo { key: key.to_bytes().to_vec(), bytes })
}

/// Opens what [`seal_to`] made for the holder of this seed, with the same info and place.
pub fn open_with(
    seed: &[u8; 32],
    info: &[u8],
    place: &[u8],
    sealed: &SealedTo,
) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
    let key = <XWing as Kem>::EncappedKey::from_bytes(&sealed.key).map_err(|_| NotOpened)?;
    hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, XWing>(
        &OpModeR::Base,
        &secret_key(seed),
        &key,
        info,
        &sealed.bytes,
        place,
    )
    .map(Zeroizing::new)
    .map_err(|_| NotOpened)
}

fn secret_key(seed: &[u8; 32]) -> <XWing as Kem>::PrivateKey {
    <XWing as Kem>::PrivateKey::from_bytes(seed).expect("a seed of 32 bytes is a private key")
}

/// Gives the caller's entropy to the libraries that want a generator.
struct Rng<'a>(Entropy<'a>);

impl hpke::rand_core::TryRng for Rng<'_> {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        (self.0)(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        (self.0)(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        (self.0)(bytes);
        Ok(())
    }
}

impl hpke::rand_core::TryCryptoRng for Rng<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting() -> impl FnMut(&mut [u8]) {
        let mut next = 0u8;
        move |bytes: &mut [u8]| {
            for byte in bytes {
                next = next.wrapping_add(1);
                *byte = next;
            }
        }
    }

    #[test]
    fn every_single_bit_flip_is_refused() {
        let sealed = seal(&[7; 32], b"place", b"plain", &mut counting());
        assert_eq!(open(&[7; 32], b"place", &sealed).expect("unchanged").as_slice(), b"plain");
        assert_eq!(sealed.len(), 5 + OVERHEAD);
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&[7; 32], b"place", &changed), Err(NotOpened), "bit {bit}");
        }
    }

    #[test]
    fn another_key_or_place_does_not_open() {
        let sealed = seal(&[7; 32], b"place", b"plain", &mut counting());
        assert_eq!(open(&[8; 32], b"place", &sealed), Err(NotOpened));
        assert_eq!(open(&[7; 32], b"elsewhere", &sealed), Err(NotOpened));
        for len in 0..sealed.len() {
            assert_eq!(open(&[7; 32], b"place", &sealed[..len]), Err(NotOpened));
        }
    }

    /// Rows 9 and 65 of the table of attacks: a clone or an older state of a device repeats no nonce.
    #[test]
    fn a_nonce_is_all_chance_and_no_count() {
        let drawn = |byte: u8| {
            let mut asked = Vec::new();
            let sealed = seal(&[7; 32], b"place", b"plain", &mut |bytes: &mut [u8]| {
                bytes.fill(byte);
                asked.push(bytes.len());
            });
            assert_eq!(asked, [24], "every byte of a nonce, and each time anew");
            sealed
        };
        for byte in 0..=u8::MAX {
            assert_eq!(drawn(byte)[..24], [byte; 24]);
        }
        // Nothing but chance is in it: the same chance gives the same, however often was sealed before.
        assert_eq!(drawn(9), drawn(9));
        let key = |byte: u8| {
            let sealed = seal_to(&kem_public(&[1; 32]), b"info", b"place", b"plain", &mut |bytes| bytes.fill(byte));
            sealed.expect("a key").key
        };
        assert_ne!(key(1), key(2));
    }

    #[test]
    fn what_is_sealed_to_one_recipient_opens_for_no_other() {
        let sealed = seal_to(&kem_public(&[1; 32]), b"info", b"place", b"plain", &mut counting()).expect("a key");
        assert_eq!(open_with(&[1; 32], b"info", b"place", &sealed).expect("its own").as_slice(), b"plain");
        assert_eq!(open_with(&[2; 32], b"info", b"place", &sealed), Err(NotOpened));
        assert_eq!(open_with(&[1; 32], b"other", b"place", &sealed), Err(NotOpened));
        assert_eq!(open_with(&[1; 32], b"info", b"other", &sealed), Err(NotOpened));
        assert_eq!(kem_public(&[1; 32]).len(), KEM_KEY);
        assert!(!is_kem_key(&[0xff; KEM_KEY]) && !is_kem_key(&[0; KEM_KEY - 1]));
    }
}
