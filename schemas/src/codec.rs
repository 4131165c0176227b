//! The only encoder and decoder: canonical postcard with a size limit.
//!
//! Canonical means that a value has exactly one encoding: what decodes must encode to the same bytes again.
//! Everything that arrives from a peer, the relay or a file passes through [`decode`] before it is looked at.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why some bytes are not a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than the format allows.
    #[error("message of {len} bytes is over the limit of {limit}")]
    TooLong {
        /// Length found, in bytes.
        len: usize,
        /// Length allowed, in bytes.
        limit: usize,
    },
    /// Not the encoding of any value of the type.
    #[error("malformed message")]
    Malformed,
    /// Decodes, but is not the one encoding of its value.
    #[error("message is not in canonical form")]
    NotCanonical,
}

/// Encodes a value. Panics never: every type of this crate has an encoding.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("the types of this crate have an encoding, and memory is the only sink")
}

/// Decodes the one value that `bytes` encode, refusing more than `limit` bytes, trailing bytes and any
/// encoding other than the canonical one.
pub fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLong { len: bytes.len(), limit });
    }
    let value: T = postcard::from_bytes(bytes).map_err(|_| DecodeError::Malformed)?;
    if encode(&value) != bytes {
        return Err(DecodeError::NotCanonical);
    }
    Ok(value)
}

/// Decodes what this program encoded itself and kept where nobody else writes: canonical form is not asked for again.
pub fn decode_own<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    postcard::from_bytes(bytes).map_err(|_| DecodeError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_bytes_are_refused() {
        let mut bytes = encode(&(7u32, "x"));
        bytes.push(0);
        assert_eq!(decode::<(u32, String)>(&bytes, 64), Err(DecodeError::NotCanonical));
    }

    #[test]
    fn a_padded_varint_is_refused() {
        assert_eq!(decode::<u32>(&[0x80, 0x00], 64), Err(DecodeError::NotCanonical));
    }

    #[test]
    fn the_limit_is_checked_before_anything_is_parsed() {
        assert_eq!(decode::<u32>(&[0; 65], 64), Err(DecodeError::TooLong { len: 65, limit: 64 }));
    }
}
