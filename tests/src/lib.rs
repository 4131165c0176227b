//! What no single crate can test: machines, a relay and a network around the real programs.
//!
//! ```text
//!  Scratch  a folder of its own            Room  namespaces of its own      Lab  rooms on one bridge; NatLab  behind routers
//!     └ Machine  home, session bus, dconf, syncd        └ Relay  relay-server
//!                └ Pair  two machines of one account: where most stories begin
//! ```
//! Everything started here is a child of ours and ends with us, whichever way we end. Nothing waits by sleeping:
//! `watch` asks again when a file or a process changed, and the product's own `hearth wait` is the barrier.

pub mod answer;
#[path = "../blackbox/blackbox.rs"]
pub mod blackbox;
pub mod canary;
pub mod lab;
pub mod link;
pub mod machine;
pub mod nat;
pub mod pair;
pub mod process;
pub mod program;
pub mod relay;
pub mod room;
pub mod scratch;
#[path = "../sim/sim.rs"]
pub mod sim;
pub mod tree;
pub mod watch;
