//! Cuts large contents where their bytes say so, so that an edit moves only the chunks around it.
//!
//! FastCDC (Xia et al., USENIX ATC 2016) with sizes that depend on the content's length alone, each chunk known by
//! its keyed BLAKE3. Two devices cut the same bytes in the same places. Bytes up to [`PACK_LIMIT`] are never cut.

use std::collections::BTreeMap;
use std::io::{self, Read};

use fastcdc::v2020::StreamCDC;
use hearth_schemas::ids::ContentHash;
use hearth_schemas::wire::{ChunkList, PACK_LIMIT};

/// Least, average and largest chunk of a content of this length, in bytes.
fn sizes(length: u64) -> (usize, usize, usize) {
    if length <= 64 << 20 { (32 << 10, 128 << 10, 512 << 10) } else { (256 << 10, 1 << 20, 4 << 20) }
}

/// Cuts what `reader` gives, in sizes made for a content that is `length` bytes long. To compare an older version
/// with a content, both are cut for the content's length: its own may be on the other side of a step in the sizes.
pub fn cut(reader: impl Read, length: u64, key: &[u8; 32]) -> io::Result<ChunkList> {
    let (least, average, largest) = sizes(length.max(PACK_LIMIT));
    let mut chunks = Vec::new();
    for chunk in StreamCDC::new(reader, least, average, largest) {
        let chunk = chunk.map_err(io::Error::from)?;
        let hash = ContentHash(*blake3::keyed_hash(key, &chunk.data).as_bytes());
        chunks.push((u32::try_from(chunk.data.len()).map_err(io::Error::other)?, hash));
    }
    Ok(ChunkList { chunks })
}

/// A part of a content to be put together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// These bytes stand in the older version: from there.
    Older {
        /// Offset in the older version, in bytes.
        from: u64,
        /// Offset in the content, in bytes.
        to: u64,
        /// Length in bytes.
        len: u64,
    },
    /// These bytes must be brought: offset and length.
    Missing {
        /// Offset in the content, in bytes.
        to: u64,
        /// Length in bytes.
        len: u64,
    },
}

/// How to put a content together from an older version and as few missing bytes as the chunks tell. Parts are in the
/// order of the content, neighbours joined.
pub fn assemble(wanted: &ChunkList, older: &ChunkList) -> Vec<Part> {
    let mut at: BTreeMap<ContentHash, (u64, u32)> = BTreeMap::new();
    let mut offset = 0;
    for (len, hash) in &older.chunks {
        at.entry(*hash).or_insert((offset, *len));
        offset += u64::from(*len);
    }
    let mut parts: Vec<Part> = Vec::new();
    let mut to = 0;
    for (len, hash) in &wanted.chunks {
        let len = u64::from(*len);
        let found = at.get(hash).filter(|(_, old_len)| u64::from(*old_len) == len);
        match (parts.last_mut(), found) {
            (Some(Part::Older { from, len: sum, .. }), Some((start, _))) if *from + *sum == *start => *sum += len,
            (Some(Part::Missing { len: sum, .. }), None) => *sum += len,
            (_, Some((start, _))) => parts.push(Part::Older { from: *start, to, len }),
            (_, None) => parts.push(Part::Missing { to, len }),
        }
        to += len;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_insertion_moves_only_the_chunks_around_it() {
        let old = bytes(8 << 20);
        let mut new = old.clone();
        new.splice(3_000_000..3_000_000, *b"inserted");
        let (old_list, new_list) = (cut_all(&old), cut_all(&new));
        let parts = assemble(&new_list, &old_list);
        let missing: u64 = parts.iter().map(|p| if let Part::Missing { len, .. } = p { *len } else { 0 }).sum();
        assert!(missing < 2 << 20, "{missing} bytes missing");
        assert_eq!(build(&parts, &old, &new), new);
    }

    #[test]
    fn an_insertion_that_crosses_a_step_in_the_sizes_moves_only_the_chunks_around_it() {
        let old = bytes(64 << 20);
        let mut new = old.clone();
        new.splice(30_000_000..30_000_000, *b"inserted");
        let length = new.len() as u64;
        let old_list = cut(&old[..], length, &[3; 32]).expect("memory does not fail");
        let parts = assemble(&cut_all(&new), &old_list);
        let missing: u64 = parts.iter().map(|p| if let Part::Missing { len, .. } = p { *len } else { 0 }).sum();
        assert!(missing < 9 << 20, "{missing} bytes missing");
    }

    #[test]
    fn chunks_cover_the_content_without_gaps() {
        let content = bytes(3 << 20);
        let list = cut_all(&content);
        let total: u64 = list.chunks.iter().map(|(len, _)| u64::from(*len)).sum();
        assert_eq!(total, content.len() as u64);
        assert!(list.chunks.len() > 4);
    }

    fn cut_all(content: &[u8]) -> ChunkList {
        cut(content, content.len() as u64, &[3; 32]).expect("memory does not fail")
    }

    fn build(parts: &[Part], old: &[u8], new: &[u8]) -> Vec<u8> {
        let span =
            |from: u64, len: u64| usize::try_from(from).expect("small")..usize::try_from(from + len).expect("small");
        let mut out = Vec::new();
        for part in parts {
            match *part {
                Part::Older { from, len, .. } => out.extend_from_slice(&old[span(from, len)]),
                Part::Missing { to, len } => out.extend_from_slice(&new[span(to, len)]),
            }
        }
        out
    }

    fn bytes(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }
}
