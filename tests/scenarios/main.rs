//! Short stories on the simulator, one file per promise to the person.

mod basics;
