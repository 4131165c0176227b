//! What is synced at all: the question that the rules of [`crate::rules`] answer, as the rest of the core asks it.

/// Decides whether a path is synced on this machine.
pub trait Select {
    /// Whether the entry at this path below the root travels; a directory also where only something in it may.
    fn travels(&self, path: &[u8], is_dir: bool) -> bool;
}

/// Everything travels.
pub struct Everything;

impl Select for Everything {
    fn travels(&self, _path: &[u8], _is_dir: bool) -> bool {
        true
    }
}
