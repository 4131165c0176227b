//! Short stories on the simulator, one file per promise to the person.

mod basics;
mod conflicts;
mod crashes;
mod directories;
mod hardship;
mod joining;
mod kinds;
mod merges;
mod relaying;
mod selection;
