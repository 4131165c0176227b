//! Every format of Hearth that crosses a boundary: between devices, to the relay, to the bus, to disk.
//!
//! Data and codecs, no behaviour: nothing here reads a clock, a file or a socket. `README.md` beside this
//! crate lists each format with who writes it, who reads it, where its vectors are and how it may change.

pub mod address;
pub mod codec;
pub mod flat;
pub mod ids;
pub mod item;
pub mod keys;
pub mod label;
pub mod log;
pub mod pairing;
pub mod paths;
pub mod probe;
pub mod ready;
pub mod relay;
pub mod seal;
pub mod signal;
pub mod tunnel;
pub mod wire;
