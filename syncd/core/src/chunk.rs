//! Cuts large contents where their bytes say so, so that an edit moves only the chunks around it.
//!
//! FastCDC (Xia et al., USENIX ATC 2016) with sizes that depend on the content's length alone, each chunk known by
//! its keyed BLAKE3. Two devices cut the same bytes in the same places. Bytes up to [`PACK_LIMIT`] are never cut.

use std::collections::BTreeMap;
use std::io::{self, Read};

use blake3::hazmat::HasherExt;
use fastcdc::v2020::StreamCDC;
use hearth_schemas::wire::{ChunkList, PACK_LIMIT};

use crate::groups::{GroupName, group_length};

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
        chunks.push((
            u32::try_from(chunk.data.len()).map_err(io::Error::other)?,
            short(&blake3::keyed_hash(key, &chunk.data)),
        ));
    }
    Ok(ChunkList { chunks })
}

/// What a chunk with this keyed hash is called in a list. It is short: that what was put together is the content, the
/// content's own hash has to tell.
fn short(hash: &blake3::Hash) -> [u8; 8] {
    *hash.as_bytes().first_chunk().expect("a hash is longer")
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
    let mut at: BTreeMap<[u8; 8], (u64, u32)> = BTreeMap::new();
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

/// Bytes more than its own length on each side, among which a missing part looks for what is left of it.
const REACH: u64 = 64 << 10;

/// Where in the older version, of this length, to look for what is left of the missing part at this place among the
/// parts: between what its neighbours stand beside there. Offsets and lengths, two at most. Where much lies between,
/// it is the beginning and the end.
pub fn beside(parts: &[Part], at: usize, older_len: u64) -> Vec<(u64, u64)> {
    let Some(Part::Missing { len, .. }) = parts.get(at) else { return Vec::new() };
    let reach = len.saturating_add(REACH);
    let before = at.checked_sub(1).and_then(|before| parts.get(before));
    let start = before.map_or(0, |part| if let Part::Older { from, len, .. } = part { from + len } else { 0 });
    let end =
        parts.get(at + 1).map_or(older_len, |part| if let Part::Older { from, .. } = part { *from } else { older_len });
    if start <= end && end - start <= reach.saturating_mul(2) {
        return Vec::from_iter((start < end).then_some((start, end - start)));
    }
    let head = (start, reach.min(older_len.saturating_sub(start)));
    let tail = (end.saturating_sub(reach), reach.min(end));
    [head, tail].into_iter().filter(|(_, len)| *len > 0).collect()
}

/// Looks whether what was put together chunk by chunk, or group by group, is what the list says.
pub struct Check {
    key: [u8; 32],
    chunks: std::vec::IntoIter<(u64, [u8; 8])>,
    /// Whether these are groups.
    grouped: bool,
    hasher: blake3::Hasher,
    /// Name and end of the open chunk, and where it begins.
    open: Option<([u8; 8], u64, u64)>,
    at: u64,
    spoiled: bool,
    /// Of the open chunk not all is seen, and nothing is wrong with that.
    excused: bool,
    bad: Vec<(u64, u64)>,
}

impl Check {
    /// Begins at an offset in bytes; what lies before it in its chunk is not looked at, nor is the rest of that chunk.
    pub fn new(list: ChunkList, key: &[u8; 32], at: u64) -> Self {
        let chunks: Vec<_> = list.chunks.into_iter().map(|(len, name)| (u64::from(len), name)).collect();
        Self::begin(chunks, false, key, at)
    }

    /// The same for the groups of a content of this length.
    pub fn of_groups(length: u64, names: Vec<GroupName>, key: &[u8; 32], at: u64) -> Self {
        let step = group_length(length);
        let starts = (0..length).step_by(usize::try_from(step).unwrap_or(usize::MAX));
        let groups = starts.zip(names).map(|(start, name)| (step.min(length - start), name)).collect();
        Self::begin(groups, true, key, at)
    }

    fn begin(chunks: Vec<(u64, [u8; 8])>, grouped: bool, key: &[u8; 32], at: u64) -> Self {
        let mut check = Self {
            key: *key,
            chunks: chunks.into_iter(),
            grouped,
            hasher: blake3::Hasher::new_keyed(key),
            open: None,
            at: 0,
            spoiled: false,
            excused: false,
            bad: Vec::new(),
        };
        check.go(at, None);
        check.bad.clear();
        check.excused = check.open.is_some();
        check
    }

    /// These are the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.go(bytes.len() as u64, Some(bytes));
    }

    /// The next bytes are so many zeros.
    pub fn zeros(&mut self, len: u64) {
        let zeros = [0; 16 << 10];
        let mut left = len;
        while left > 0 {
            let step = left.min(zeros.len() as u64);
            self.update(&zeros[..usize::try_from(step).expect("less than a block")]);
            left -= step;
        }
    }

    /// The next bytes are missing.
    pub fn skip(&mut self, len: u64) {
        self.go(len, None);
    }

    /// Offset and length of each chunk that is not what it should be, neighbours joined.
    pub fn finish(self) -> Vec<(u64, u64)> {
        self.bad
    }

    /// What the open chunk is called, all of which was seen.
    fn name(&self) -> [u8; 8] {
        match self.grouped {
            true => *self.hasher.finalize_non_root().first_chunk().expect("it is longer"),
            false => short(&self.hasher.finalize()),
        }
    }

    fn go(&mut self, mut len: u64, mut bytes: Option<&[u8]>) {
        while len > 0 {
            let (name, start, end) = match self.open {
                Some(open) => open,
                None => {
                    let Some((len, name)) = self.chunks.next() else { return };
                    self.hasher = blake3::Hasher::new_keyed(&self.key);
                    if self.grouped {
                        self.hasher.set_input_offset(self.at);
                    }
                    self.spoiled = false;
                    (name, self.at, self.at + len)
                }
            };
            self.open = Some((name, start, end));
            let step = len.min(end - self.at);
            match &mut bytes {
                Some(bytes) => {
                    let (now, later) = bytes.split_at(usize::try_from(step).unwrap_or(bytes.len()));
                    self.hasher.update(now);
                    *bytes = later;
                }
                None => self.spoiled |= step > 0,
            }
            self.at += step;
            len -= step;
            if self.at == end {
                self.open = None;
                let bad = self.spoiled || self.name() != name;
                if bad && !std::mem::take(&mut self.excused) {
                    match self.bad.last_mut() {
                        Some((from, len)) if *from + *len == start => *len += end - start,
                        _ => self.bad.push((start, end - start)),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::GroupHasher;

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

    #[test]
    fn what_is_left_of_a_missing_part_is_looked_for_between_its_neighbours() {
        const K: u64 = 1 << 10;
        let older = |from, to, len| Part::Older { from, to, len };
        let missing = |to, len| Part::Missing { to, len };
        let edit = [older(0, 0, 300 * K), missing(300 * K, 200 * K), older(490 * K, 500 * K, 500 * K)];
        assert_eq!(beside(&edit, 1, 990 * K), [(300 * K, 190 * K)]);
        assert_eq!(beside(&edit, 0, 990 * K), [], "nothing is missing there");
        let appended = [older(0, 0, 900 * K), missing(900 * K, 200 * K)];
        assert_eq!(beside(&appended, 1, 990 * K), [(900 * K, 90 * K)]);
        assert_eq!(beside(&appended, 1, 900 * K), [], "it ends where the new begins");
        let removed = [older(0, 0, 300 * K), missing(300 * K, 100 * K), older(9000 * K, 400 * K, 500 * K)];
        assert_eq!(beside(&removed, 1, 9500 * K), [(300 * K, 164 * K), (8836 * K, 164 * K)], "both ends");
        let turned = [older(500 * K, 0, 300 * K), missing(300 * K, 10 * K), older(20 * K, 310 * K, 400 * K)];
        assert_eq!(beside(&turned, 1, 810 * K), [(800 * K, 10 * K), (0, 20 * K)]);
        assert_eq!(beside(&[missing(0, 100 * K)], 0, 90 * K), [(0, 90 * K)], "nothing is alike");
    }

    #[test]
    fn chunks_that_are_not_what_the_list_says_are_told() {
        let content = bytes(3 << 20);
        let list = cut_all(&content);
        let starts: Vec<u64> =
            list.chunks.iter().scan(0, |end, (len, _)| Some(std::mem::replace(end, *end + u64::from(*len)))).collect();
        let chunk = |at: usize| (starts[at], u64::from(list.chunks[at].0));
        let check = |from: usize, content: &[u8]| {
            let mut check = Check::new(list.clone(), &[3; 32], from as u64);
            content[from..].chunks(10_000).for_each(|piece| check.update(piece));
            check.finish()
        };
        assert_eq!(check(0, &content), []);
        let mut other = content.clone();
        for at in [1, 2, 4] {
            other[usize::try_from(starts[at]).expect("small") + 5] ^= 1;
        }
        let (one, two) = (chunk(1), chunk(2));
        assert_eq!(check(0, &other), [(one.0, one.1 + two.1), chunk(4)]);
        let within = usize::try_from(starts[1]).expect("small") + 50;
        assert_eq!(check(within, &other), [chunk(2), chunk(4)], "of the first not all is seen");
        assert_eq!(check(usize::try_from(starts[2]).expect("small"), &other), [chunk(2), chunk(4)]);

        let mut missing = Check::new(list.clone(), &[3; 32], 0);
        missing.skip(10);
        missing.update(&content[10..]);
        assert_eq!(missing.finish(), [chunk(0)]);

        let zeros = cut_all(&[0; 1 << 20]);
        let mut check = Check::new(zeros, &[3; 32], 0);
        check.zeros(1 << 20);
        assert_eq!(check.finish(), []);
    }

    #[test]
    fn groups_that_are_not_what_they_should_be_are_told() {
        let (content, step) = (bytes((5 << 16) + 100), 1 << 16);
        let length = content.len() as u64;
        let name = |(index, piece): (usize, &[u8])| {
            let mut hasher = GroupHasher::new(&[3; 32], index as u64 * step);
            hasher.update(piece);
            hasher.finish().expect("not empty").name()
        };
        let names: Vec<_> = content.chunks(1 << 16).enumerate().map(name).collect();
        let check = |from: usize, content: &[u8]| {
            let mut check = Check::of_groups(length, names.clone(), &[3; 32], from as u64);
            content[from..].chunks(10_000).for_each(|piece| check.update(piece));
            check.finish()
        };
        assert_eq!(check(0, &content), []);
        assert_eq!(check(70_000, &content), []);
        let mut other = content.clone();
        other[3 << 16] ^= 1;
        other[5 << 16] ^= 1;
        assert_eq!(check(0, &other), [(3 << 16, 1 << 16), (5 << 16, 100)]);
        assert_eq!(check((3 << 16) + 1, &other), [(5 << 16, 100)], "of the first not all is seen");
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
