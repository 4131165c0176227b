//! Plays one random world again.

fn main() {}
