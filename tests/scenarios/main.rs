//! Short stories on the simulator, one file per promise to the person.

mod basics;
mod conflicts;
mod crashes;
mod databases;
mod directories;
mod hardship;
mod holds;
mod joining;
mod kinds;
mod losses;
mod marks;
mod merges;
mod offers;
mod relaying;
mod repositories;
mod selection;
mod starts;
mod unrest;

use hearth_tests::sim::{Here, World};

/// Two machines, parted, with one file in common.
fn apart_with(path: &str, text: &str) -> (World, Here, Here) {
    let mut world = World::new(11);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, path, text);
    world.settle();
    world.part(laptop, desktop);
    (world, laptop, desktop)
}
