//! The same thing as it was, and as each of two sides has it.
//!
//! Everything in this tree goes from three contents to three readings to one result. This holds the three together, and
//! the rule for a single value: whoever changed it has it their way, unless both did.

/// What was, and what two sides made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sides<T> {
    /// What was.
    pub base: T,
    /// One side.
    pub x: T,
    /// The other.
    pub y: T,
}

impl<T> Sides<T> {
    /// Does the same with all three.
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> Sides<U> {
        Sides { base: f(self.base), x: f(self.x), y: f(self.y) }
    }

    /// Does the same with all three, if it can be done with all.
    pub fn try_map<U>(self, mut f: impl FnMut(T) -> Option<U>) -> Option<Sides<U>> {
        Some(Sides { base: f(self.base)?, x: f(self.x)?, y: f(self.y)? })
    }

    /// The three by reference.
    pub fn as_ref(&self) -> Sides<&T> {
        Sides { base: &self.base, x: &self.x, y: &self.y }
    }
}

impl<T: PartialEq> Sides<T> {
    /// The value that comes of the two; `None` if both changed it, each in its own way.
    pub fn pick(self) -> Option<T> {
        if self.x == self.y || self.y == self.base {
            Some(self.x)
        } else if self.x == self.base {
            Some(self.y)
        } else {
            None
        }
    }
}
