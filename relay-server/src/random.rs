//! Tokens, keys and room numbers from one seed, so that the same seed and the same events give the same relay.
//!
//! BLAKE3, keyed with the seed, over a counter. The seed comes from the operating system at start.

/// A generator of unguessable bytes.
pub(crate) struct Random {
    seed: [u8; 32],
    drawn: u64,
}

impl Random {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self { seed, drawn: 0 }
    }

    /// Draws 32 bytes.
    pub(crate) fn key(&mut self) -> [u8; 32] {
        self.drawn += 1;
        *blake3::keyed_hash(&self.seed, &self.drawn.to_le_bytes()).as_bytes()
    }

    /// Draws a session token.
    pub(crate) fn token(&mut self) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h, ..] = self.key();
        [a, b, c, d, e, f, g, h]
    }

    /// Draws a number in `1..=most`.
    pub(crate) fn number(&mut self, most: u32) -> u32 {
        let drawn = u64::from_le_bytes(self.token());
        u32::try_from(drawn % u64::from(most.max(1))).expect("a remainder is below its divisor") + 1
    }
}
