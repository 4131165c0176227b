//! Random people.
