//! Two enrolled machines and their relay on the loopback interface.

use anyhow::Result;
use hearth_tests::machine::{Kind, Machine};
use hearth_tests::pair::{LATER, init, join_by_code};
use hearth_tests::relay::Relay;
use hearth_tests::scratch::Scratch;

/// The machines, with nothing in their homes.
pub(crate) struct World {
    pub(crate) laptop: Machine,
    pub(crate) desktop: Machine,
    pub(crate) relay: Relay,
    pub(crate) scratch: Scratch,
}

impl World {
    /// Starts them, and returns once they agree that there is nothing.
    pub(crate) fn new() -> Result<Self> {
        let scratch = Scratch::new()?;
        let relay = Relay::start_logging(&scratch.path().join("relay"), None, "127.0.0.1", "warn")?;
        let kind = Kind { log_filter: "warn".to_owned(), ..Kind::default() };
        let mut laptop = Machine::new(scratch.path(), "laptop", kind.clone())?;
        let mut desktop = Machine::new(scratch.path(), "desktop", kind)?;
        laptop.start()?;
        desktop.start()?;
        init(&laptop, relay.address())?;
        join_by_code(&laptop, &desktop, relay.address())?;
        let world = Self { laptop, desktop, relay, scratch };
        world.laptop.settle(LATER)?;
        world.desktop.settle(LATER)?;
        Ok(world)
    }
}
