//! The part of Hearth that decides: pure, deterministic, without clocks, sockets or files.
//!
//! ```text
//! here    inotify, dconf → [ settle → scan → observe → index → session ] → peer
//! there   peer → [ session → row (join) → view → plan → apply → index ] → disk, dconf
//! ```
//!
//! Everything between the ends is driven through [`engine::Engine`]: events in, effects out; time, randomness
//! and disk are inputs. The index is asked through [`store::Store`], the file system through [`disk::Disk`].
//! Start reading at [`view`]: it says what a machine shows of everything that is known; then [`plan`].

pub mod account;
pub mod apply;
pub mod brake;
pub mod chunk;
pub mod conflict;
pub mod congestion;
pub mod database;
pub mod delta;
pub mod disk;
pub mod engine;
pub mod fetch;
pub mod fingerprint;
pub mod git;
pub mod groups;
pub mod igd;
pub mod marks;
pub mod merge;
pub mod observe;
pub mod pairing;
pub mod path;
pub mod paths;
pub mod plan;
pub mod relays;
pub mod row;
pub mod rules;
pub mod select;
pub mod session;
pub mod settings;
pub mod state;
pub mod store;
mod table;
pub mod text;
pub mod tree;
pub mod view;
