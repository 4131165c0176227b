//! Hearth.
pub mod account;
