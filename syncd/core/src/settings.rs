//! GNOME settings: what travels, what this machine can take, and how the two are kept the same.
//!
//! ```text
//! dconf, schemas → [ value → schema (does it fit here?) → classify (does it travel?) → engine ] → account, dconf
//! ```
//!
//! Pure, as all of this crate. Values are GVariants and stay what they are, byte for byte; the edge that watches and
//! writes dconf and reads the installed schemas is the daemon's.

pub mod classify;
pub mod engine;
pub mod event;
pub mod history;
pub mod merge;
pub mod project;
pub mod schema;
pub mod strict;
pub mod value;
