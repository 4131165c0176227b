//! The edges of the daemon, one module per thing outside of us, usable by `main.rs` and by tests.
//!
//! What decides lives in `syncd-core`; here bytes, clocks, sockets and buses meet it.

pub mod bus;
pub mod keys;
pub mod net;
pub mod notify;
pub mod peer;
pub mod prefixed;
pub mod relay;
pub mod socket;
pub mod tls;
