//! The golden bytes in `vectors/`: they are what the code writes, and they are read as they say.
//!
//! Each file is checked twice. The code makes it again from fixed values and must find the same bytes; and its lines
//! are read one by one and must have the outcome that stands beside them. After a change of format on purpose,
//! `HEARTH_BLESS=1 cargo test -p hearth-schemas --test vectors` writes the files; read the difference.
//!
//! A module for each file; how the files are written and read is in [`file`], an account to write about in [`world`].

mod config;
mod datagram;
mod epoch;
mod file;
mod item;
mod log;
mod name;
mod pairing;
mod ready;
mod relay;
mod straight;
mod tunnel;
mod wire;
mod world;
