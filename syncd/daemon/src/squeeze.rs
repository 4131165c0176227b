//! Compresses blocks of contents, where that makes them smaller; of what does not shrink it looks at less and less.

use std::io;

use hearth_schemas::wire::MAX_PACKED;
use zstd::bulk::Compressor;

/// Bytes of a block that tell whether it will shrink.
const SAMPLE: usize = 8 << 10;
/// Blocks that may be left alone after some that did not shrink.
const MAX_PAUSE: u32 = 15;
/// Shorter blocks are left alone, in bytes.
const LEAST: usize = 64;

/// Compresses one block after the other.
pub struct Squeeze {
    compressor: Compressor<'static>,
    pause: u32,
    left: u32,
}

impl Squeeze {
    /// Begins.
    pub fn new() -> io::Result<Self> {
        Ok(Self { compressor: Compressor::new(1)?, pause: 0, left: 0 })
    }

    /// The block as one zstd frame, `None` where it hardly becomes shorter, or is not looked at.
    pub fn block(&mut self, block: &[u8]) -> Option<Vec<u8>> {
        if block.len() < LEAST || block.len() as u64 > MAX_PACKED {
            return None;
        }
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            return None;
        }
        let middle = block.len() / 2;
        let sample = &block[middle.saturating_sub(SAMPLE / 2)..block.len().min(middle + SAMPLE / 2)];
        let promises = block.len() <= 2 * SAMPLE || self.shrunk(sample).is_some();
        let frame = if promises { self.shrunk(block) } else { None };
        self.pause = if frame.is_some() { 0 } else { (self.pause * 2 + 1).min(MAX_PAUSE) };
        self.left = self.pause;
        frame
    }

    fn shrunk(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let frame = self.compressor.compress(bytes).ok()?;
        (frame.len() + frame.len() / 16 < bytes.len()).then_some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shrinks_is_compressed_and_what_does_not_is_soon_left_alone() {
        let mut squeeze = Squeeze::new().expect("zstd is there");
        let text = b"as people write\n".repeat(1 << 12);
        let mut noise = vec![0; 64 << 10];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let frame = squeeze.block(&text).expect("text shrinks");
        assert!(frame.len() < text.len() / 10);
        assert_eq!(zstd::bulk::decompress(&frame, text.len()).expect("a frame"), text);
        for _ in 0..100 {
            assert_eq!(squeeze.block(&noise), None);
        }
        assert_eq!(squeeze.pause, MAX_PAUSE);
        let blocks = (0..=MAX_PAUSE).position(|_| squeeze.block(&text).is_some());
        assert!(blocks.is_some(), "text after noise is found again");
        assert!(squeeze.block(&text).is_some() && squeeze.block(b"short").is_none());
    }
}
