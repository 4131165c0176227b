//! The first frame of a connection between two devices, sent by both sides before anything else.
//!
//! It travels on the first bidirectional stream, which the dialling side opens; the accepting side answers on the
//! same stream. Each is a 4-byte little-endian length, then the canonical encoding. A device counts the other as
//! connected only after it has read this frame: TLS alone does not tell the dialling side that its key was accepted.

use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError};
use crate::ids::AccountId;
use crate::relay::Head;

/// The application protocol of connections between devices.
pub const ALPN: &[u8] = b"hearth/1";
/// Version of everything that two devices say to each other. It is raised when a message changes its meaning.
pub const VERSION: u16 = 1;
/// Longest frame of this kind, in bytes, after the length.
pub const MAX_READY: usize = 256;

/// What each side says first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// [`VERSION`] of the sender.
    pub version: u16,
    /// The account that the sender belongs to.
    pub account: AccountId,
    /// The newest log entry that the sender has verified.
    pub head: Head,
}

impl Ready {
    /// Decodes the frame's body.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes, MAX_READY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_survives_being_written_and_read() {
        let ready = Ready { version: 1, account: AccountId([3; 32]), head: Head { seq: u64::MAX, hash: [9; 32] } };
        let bytes = codec::encode(&ready);
        assert!(bytes.len() <= MAX_READY);
        assert_eq!(Ready::decode(&bytes), Ok(ready));
    }

    #[test]
    fn a_frame_cut_anywhere_is_refused() {
        let ready = Ready { version: 1, account: AccountId([3; 32]), head: Head { seq: 1, hash: [9; 32] } };
        let bytes = codec::encode(&ready);
        for len in 0..bytes.len() {
            assert!(Ready::decode(&bytes[..len]).is_err(), "{len}");
        }
    }
}
