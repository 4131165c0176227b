//! What is fuzzed: for each target a function that takes any bytes and panics if a promise about them is broken.
//!
//! `tests/fuzz` runs these under libFuzzer; a test here runs them on the inputs that were kept in `tests/fuzz/corpus`. Decoders take
//! the bytes as they are. What works on values takes the bytes as the choices of a generator ([`arbitrary::Unstructured`]),
//! so that a small change of the bytes is a small change of the world.

pub mod delta;
pub mod igd;
pub mod log;
pub mod merge;
pub mod pairing;
pub mod paths;
pub mod plan;
pub mod relay;
pub mod rows;
pub mod rules;
pub mod sealed;
pub mod settings;
pub mod text;
pub mod tunnel;
pub mod view;
pub mod wire;

use hearth_schemas::codec::{self, DecodeError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A target with its name, which is that of its file in `tests/fuzz/bin` and of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const ALL: [Target; 16] = [
    ("delta", delta::run),
    ("igd", igd::run),
    ("log", log::run),
    ("merge", merge::run),
    ("pairing", pairing::run),
    ("paths", paths::run),
    ("plan", plan::run),
    ("relay", relay::run),
    ("rows", rows::run),
    ("rules", rules::run),
    ("sealed", sealed::run),
    ("settings", settings::run),
    ("text", text::run),
    ("tunnel", tunnel::run),
    ("view", view::run),
    ("wire", wire::run),
];

/// What decodes is the one encoding of its value, within its limit; what is refused as not canonical is not.
fn decodes<T: Serialize + DeserializeOwned>(bytes: &[u8], limit: usize) -> Option<T> {
    let decoded = codec::decode::<T>(bytes, limit);
    match &decoded {
        Ok(value) => {
            assert!(bytes.len() <= limit, "over the limit");
            assert_eq!(codec::encode(value), bytes, "not the encoding of its value");
        }
        Err(DecodeError::TooLong { len, limit: told }) => {
            assert!(*len == bytes.len() && *told == limit && len > told, "too long, and is not");
        }
        Err(DecodeError::NotCanonical) => {
            let value: T = codec::decode_own(bytes).expect("not canonical, so a value it is");
            let again = codec::encode(&value);
            assert_ne!(again, bytes, "canonical, and refused");
            assert!(again.len() > limit || codec::decode::<T>(&again, limit).is_ok(), "an encoding is refused");
        }
        Err(DecodeError::Malformed) => assert!(codec::decode_own::<T>(bytes).is_err(), "malformed, and decodes"),
    }
    decoded.ok()
}

/// Random bytes that are the same each time.
fn counting() -> impl FnMut(&mut [u8]) {
    let mut next = 0u8;
    move |bytes: &mut [u8]| {
        for byte in bytes {
            next = next.wrapping_mul(5).wrapping_add(113);
            *byte = next;
        }
    }
}
