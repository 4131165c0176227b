//! The relay of Hearth: it knows which devices are there, keeps each account's log and forwards ciphertext.
//!
//! Everything that decides is pure: [`relay`] (connections, logins, presence, signals), [`rooms`] (pairing) and
//! [`forward`] (datagrams) take what happened and a time, and say what to do. The edges do it: [`listen`] accepts
//! connections, `connection` reads and writes their frames, `driver` runs the relay, [`store`] keeps logs in SQLite,
//! `socket` moves datagrams, `look` answers at a second port, `web` and `tunnel` do so over TCP. [`metrics`] counts;
//! [`admission`] says who may use the relay, and how much; [`tls`], [`data`] and `host` make
//! the relay's key, keep its directory, and find its name.
//!
//! The relay opens no connection, ever, and no frame holds an address to send to: it answers, and it forwards between
//! devices of one account that came to it.

pub mod admission;
mod connection;
pub mod data;
mod driver;
pub mod forward;
mod host;
pub mod listen;
mod look;
pub mod metrics;
mod random;
pub mod relay;
pub mod rooms;
mod socket;
pub mod store;
pub mod tls;
mod tunnel;
mod web;

#[cfg(test)]
#[path = "../tests/support/household.rs"]
mod household;
