//! The edges of the daemon, one module per thing outside of us, usable by `main.rs` and by tests.
//!
//! What decides lives in `syncd-core`; here bytes, clocks, sockets and buses meet it.

pub mod activity;
pub mod answer;
pub mod blobs;
pub mod bus;
mod carrier;
pub mod claim;
pub mod config;
mod congestion;
pub mod disk;
pub mod driver;
pub mod exchange;
pub mod home;
mod interfaces;
pub mod keys;
mod mapping;
pub mod membership;
pub mod mirror;
mod nat;
mod nearby;
pub mod net;
pub mod notify;
pub mod paths;
pub mod peer;
pub mod preferences;
pub mod prefixed;
mod proxy;
pub mod relay;
pub mod retention;
pub mod rulebook;
pub mod runs;
pub mod seen;
pub mod service;
pub mod settings;
pub mod socket;
pub mod squeeze;
pub mod store;
pub mod stream;
pub mod tls;
mod tunnel;
pub mod watch;
