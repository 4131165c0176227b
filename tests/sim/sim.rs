//! The simulator: machines, disks, a network and people on one thread, from a seed.
//!
//! ```text
//!  World ── Machine ── Engine<MemoryStore> + SimDisk        a person acts on the disk's Tree
//!     └ links between machines: delay, loss, partition      Oracle: what was written must be somewhere
//! ```
//! A world is a function of its seed and of what is done to it: the same story ends in the same bytes. The product
//! runs as it is; only what it takes as input (disk, index, clock, chance, network) is simulated.

pub mod chance;
pub mod database;
pub mod disk;
pub mod machine;
pub mod oracle;
pub mod random;
pub mod tree;
pub mod world;

pub use disk::Crash;
pub use machine::SimMachine;
pub use world::{Here, World};
