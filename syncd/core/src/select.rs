//! What is synced at all: the question that the rules of [`crate::rules`] answer, as the rest of the core asks it.

use crate::marks::{Marks, Probe};

/// Decides whether a path is synced on this machine.
pub trait Select {
    /// Whether the entry at this path below the root travels; a directory also where only something in it may. `marks`
    /// are the files of this disk that rules look for.
    fn travels(&self, path: &[u8], is_dir: bool, marks: &Marks) -> bool;

    /// The files that rules look for in directories.
    fn probes(&self) -> &[Probe] {
        &[]
    }

    /// Those of them that can decide about the directory at this path by standing in it.
    fn probes_inside(&self, _dir: &[u8]) -> Vec<usize> {
        Vec::new()
    }

    /// Whether rules look for a file of this name.
    fn is_probe(&self, name: &[u8]) -> bool {
        self.probes().iter().any(|probe| probe.name == name)
    }
}

/// Everything travels.
pub struct Everything;

impl Select for Everything {
    fn travels(&self, _path: &[u8], _is_dir: bool, _marks: &Marks) -> bool {
        true
    }
}
