//! Tells what of some bytes an older version of them still holds, for who has only the other of the two.
//!
//! Who has the older version makes its [`Signature`]. Who has the content finds with a [`Search`] what is the same,
//! wherever it lies (Tridgell and Mackerras, The rsync algorithm, 1996), and says it in runs. Who has the older version reads these with
//! [`read_runs`]. Blocks are told apart by a rolling hash and a keyed one, both short: that what was put together is
//! the content, its own hash has to tell. How it all travels is the daemon's.

use std::io::{self, BufRead, ErrorKind, Read};

use hearth_schemas::wire::{BLOCK_SIZES, MAX_BLOCKS, PACK_LIMIT, Run, Signature};

/// Shortest content, and shortest older version, for which it is worth asking for the difference, in bytes.
const WORTH: u64 = 2 << 10;
/// Longest older version of a content that would go in a pack, in bytes.
pub const MAX_OLDER: u64 = 4 * PACK_LIMIT;
/// How many times as long as its older version a longer content may be.
const GROWN: u64 = 64;
/// Blocks of longer bytes are no longer than theirs, as there will be more than one change in them.
const ONE_CHANGE: u64 = 1 << 20;
/// Most bytes looked at in one go.
const WINDOW: usize = 256 << 10;
/// Bytes in a row without anything old after which all that follows is taken for new.
const HOPELESS: u64 = 16 << 20;
/// Bytes that may be hashed in vain, for each byte looked at and at the least.
const IN_VAIN: (u64, u64) = (2, 4 << 20);
/// What the rolling hash is a polynomial of.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

/// Whether it is worth asking for the difference between a content and an older version of these lengths in bytes.
pub fn helps(older: u64, content: u64) -> bool {
    let alike = if content <= PACK_LIMIT { older <= MAX_OLDER } else { older >= content / GROWN };
    older.min(content) >= WORTH && alike
}

/// Length of blocks at which the signature of so many bytes and what a change costs in them are least together.
fn block_of(length: u64) -> u32 {
    let least = 3 * length.min(ONE_CHANGE).isqrt();
    let few = length.div_ceil(MAX_BLOCKS as u64);
    let block = u32::try_from(least.max(few)).unwrap_or(BLOCK_SIZES.1);
    block.clamp(BLOCK_SIZES.0, BLOCK_SIZES.1)
}

/// Makes the signature of what `bytes` gives, of which there are about `length`.
pub fn sign(mut bytes: impl Read, length: u64, key: &[u8; 32]) -> io::Result<Signature> {
    let size = block_of(length);
    let mut signature = Signature { block: size, blocks: Vec::new() };
    let mut block = vec![0; size as usize];
    while signature.blocks.len() < MAX_BLOCKS {
        match bytes.read_exact(&mut block) {
            Ok(()) => signature.blocks.push(name(sum_of(&block), &block, key)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
    }
    Ok(signature)
}

/// Some of the bytes of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece<'a> {
    /// These.
    Data(&'a [u8]),
    /// So many zeros.
    Zeros(u64),
    /// So many that this zstd frame becomes.
    Packed {
        /// Bytes that they become.
        len: u64,
        /// The frame.
        frame: &'a [u8],
    },
    /// Those of the older version.
    Older {
        /// Offset in what the signature is of, in bytes.
        from: u64,
        /// How many.
        len: u64,
    },
}

/// Looks for what a signature is of.
pub struct Search<'a> {
    key: &'a [u8; 32],
    size: usize,
    blocks: &'a [[u8; 8]],
    /// Name and number of each block, sorted; of blocks with one name only the first.
    sorted: Vec<(u64, usize)>,
    /// Which beginnings of rolling hashes there are at all, a bit for each.
    filter: Vec<u64>,
    shift: u32,
    /// For each byte, what it has become in the sum by the time that it leaves the block.
    leaves: Vec<u64>,
    looked_at: u64,
    in_vain: u64,
    /// Bytes since the last that were old.
    without: u64,
}

impl<'a> Search<'a> {
    /// Begins to look for what `signature` is of. A peer may have made it up: that costs no more than a bounded amount
    /// of work for each byte looked at.
    pub fn new(signature: &'a Signature, key: &'a [u8; 32]) -> Self {
        let blocks = signature.blocks.as_slice();
        let mut sorted: Vec<(u64, usize)> = blocks.iter().map(number).zip(0..).collect();
        sorted.sort_unstable();
        sorted.dedup_by_key(|&mut (number, _)| number);
        let bits = (sorted.len().max(64) * 16).next_power_of_two();
        let shift = 64 - bits.ilog2();
        let mut filter = vec![0; bits / 64];
        for &(number, _) in &sorted {
            let bit = beginning(number, shift);
            filter[bit / 64] |= 1 << (bit % 64);
        }
        let gone = BASE.wrapping_pow(signature.block);
        let leaves = (1..=256u64).map(|byte| byte.wrapping_mul(gone)).collect();
        let size = signature.block as usize;
        Self { key, size, blocks, sorted, filter, shift, leaves, looked_at: 0, in_vain: 0, without: 0 }
    }

    /// Goes through a part of the content, and gives it as pieces that are old or new: none empty, the new ones at most
    /// 256 KiB long, neighbours that are old as one.
    pub fn pieces(
        &mut self,
        mut content: impl Read,
        mut give: impl FnMut(Piece<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut window = vec![0; WINDOW + self.size];
        let mut old: Option<(u64, u64)> = None;
        // Where the older version goes on after what was found last.
        let mut next = None;
        // Of the window, all before `filled` is read, all before `start` is dealt with, and the next block begins at `at`.
        let (mut start, mut at, mut filled) = (0, 0, 0);
        // The sum of the block one byte before.
        let mut before = None;
        loop {
            while at + self.size <= filled && self.has_hope() {
                let block = &window[at..at + self.size];
                let sum = match before {
                    Some(sum) => {
                        roll_in(sum, block[self.size - 1]).wrapping_sub(self.leaves[usize::from(window[at - 1])])
                    }
                    None => sum_of(block),
                };
                let Some(from) = self.find(sum, block, next) else {
                    before = Some(sum);
                    at += 1;
                    continue;
                };
                if at > start {
                    give_old(old.take(), &mut give)?;
                    give_new(&window[start..at], &mut give)?;
                }
                let size = self.size as u64;
                old = match old {
                    Some((first, len)) if first + len == from => Some((first, len + size)),
                    other => {
                        give_old(other, &mut give)?;
                        Some((from, size))
                    }
                };
                next = Some(from + size);
                at += self.size;
                (start, before) = (at, None);
            }
            if !self.has_hope() {
                (at, before) = (filled, None);
            }
            if start == 0 && filled == window.len() {
                give_old(old.take(), &mut give)?;
                give_new(&window[..WINDOW], &mut give)?;
                start = WINDOW;
            }
            window.copy_within(start..filled, 0);
            (start, at, filled) = (0, at - start, filled - start);
            let came = fill(&mut content, &mut window[filled..])?;
            if came == 0 {
                if filled > 0 {
                    give_old(old.take(), &mut give)?;
                }
                give_new(&window[..filled], &mut give)?;
                return give_old(old, &mut give);
            }
            filled += came;
        }
    }

    fn has_hope(&self) -> bool {
        let may_be_in_vain = self.looked_at.saturating_mul(IN_VAIN.0).saturating_add(IN_VAIN.1);
        !self.sorted.is_empty() && self.without < HOPELESS && self.in_vain <= may_be_in_vain
    }

    /// Offset of an equal block in the older version, `next` if that is one.
    #[inline]
    fn find(&mut self, sum: u64, block: &[u8], next: Option<u64>) -> Option<u64> {
        let bit = beginning(sum, self.shift);
        let found = if self.filter[bit / 64] & 1 << (bit % 64) == 0 { None } else { self.look_up(sum, block, next) };
        let step = if found.is_some() { self.size as u64 } else { 1 };
        self.looked_at += step;
        self.without = if found.is_some() { 0 } else { self.without + 1 };
        found
    }

    fn look_up(&mut self, sum: u64, block: &[u8], next: Option<u64>) -> Option<u64> {
        let low = u64::from(top(sum)) << 32;
        let first = self.sorted.partition_point(|&(number, _)| number < low);
        if self.sorted.get(first).is_none_or(|&(number, _)| number >> 32 != low >> 32) {
            return None;
        }
        let name = name(sum, block, self.key);
        let wanted = number(&name);
        let size = self.size as u64;
        let at_next = next.and_then(|next| usize::try_from(next / size).ok());
        if at_next.is_some_and(|at| self.blocks.get(at) == Some(&name)) {
            return next;
        }
        let found = self.sorted[first..].binary_search_by_key(&wanted, |&(number, _)| number);
        if found.is_err() {
            self.in_vain += size;
        }
        found.ok().map(|at| self.sorted[first + at].1 as u64 * size)
    }
}

/// The runs from which [`patch`] makes a content that is at hand as a whole.
pub fn difference(content: &[u8], signature: &Signature, key: &[u8; 32]) -> io::Result<Vec<u8>> {
    let mut runs = Vec::new();
    Search::new(signature, key).pieces(content, |piece| {
        match piece {
            Piece::Data(bytes) => {
                runs.extend(Run::Data(bytes.len() as u64).encode());
                runs.extend_from_slice(bytes);
            }
            Piece::Zeros(len) => runs.extend(Run::Zeros(len).encode()),
            Piece::Packed { len, frame } => {
                runs.extend(Run::Packed { len, packed: frame.len() as u64 }.encode());
                runs.extend_from_slice(frame);
            }
            Piece::Older { from, len } => runs.extend(Run::Older { from, len }.encode()),
        }
        Ok(())
    })?;
    Ok(runs)
}

/// Puts a content of `length` bytes together from an older version and all of its runs, of which none is compressed.
/// The length is believed: the caller has a limit for it.
pub fn patch(older: &[u8], mut runs: &[u8], length: u64) -> io::Result<Vec<u8>> {
    let nonsense = || io::Error::from(ErrorKind::InvalidData);
    let mut content = Vec::with_capacity(usize::try_from(length).map_err(io::Error::other)?);
    read_runs(&mut runs, length, |piece| {
        match piece {
            Piece::Data(bytes) => content.extend_from_slice(bytes),
            Piece::Zeros(len) => {
                let len = usize::try_from(len).map_err(|_| nonsense())?;
                content.resize(content.len() + len, 0);
            }
            Piece::Older { from, len } => {
                let range = usize::try_from(from).ok().zip(usize::try_from(from.saturating_add(len)).ok());
                let bytes = range.and_then(|(from, to)| older.get(from..to)).ok_or_else(nonsense)?;
                content.extend_from_slice(bytes);
            }
            Piece::Packed { .. } => return Err(nonsense()),
        }
        Ok(())
    })?;
    if runs.is_empty() { Ok(content) } else { Err(nonsense()) }
}

/// Reads runs until they have become `length` bytes, and gives what they say; data in pieces as it comes. Fails with
/// `InvalidData` where they are none, or become more.
pub fn read_runs(
    from: &mut impl BufRead,
    length: u64,
    mut give: impl FnMut(Piece<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut left = length;
    let mut frame = Vec::new();
    while left > 0 {
        let run = read_run(from)?;
        left = left.checked_sub(run.len()).ok_or(ErrorKind::InvalidData)?;
        match run {
            Run::Data(mut len) => {
                while len > 0 {
                    let bytes = from.fill_buf()?;
                    if bytes.is_empty() {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                    let now = usize::try_from(len).map_or(bytes.len(), |len| len.min(bytes.len()));
                    give(Piece::Data(&bytes[..now]))?;
                    from.consume(now);
                    len -= now as u64;
                }
            }
            Run::Zeros(len) => give(Piece::Zeros(len))?,
            Run::Packed { len, packed } => {
                // No longer than it becomes, and that is little.
                frame.resize(usize::try_from(packed).map_err(io::Error::other)?, 0);
                from.read_exact(&mut frame)?;
                give(Piece::Packed { len, frame: &frame })?;
            }
            Run::Older { from, len } => give(Piece::Older { from, len })?,
        }
    }
    Ok(())
}

fn read_run(from: &mut impl BufRead) -> io::Result<Run> {
    let (mut first, mut second) = ([0; Run::BYTES], [0; Run::BYTES]);
    from.read_exact(&mut first)?;
    if Run::is_long(first) {
        from.read_exact(&mut second)?;
    }
    Run::decode(first, second).ok_or_else(|| ErrorKind::InvalidData.into())
}

fn give_old(old: Option<(u64, u64)>, give: &mut impl FnMut(Piece<'_>) -> io::Result<()>) -> io::Result<()> {
    old.map_or(Ok(()), |(from, len)| give(Piece::Older { from, len }))
}

fn give_new(new: &[u8], give: &mut impl FnMut(Piece<'_>) -> io::Result<()>) -> io::Result<()> {
    new.chunks(WINDOW).try_for_each(|new| give(Piece::Data(new)))
}

/// Reads until there is no room or nothing more to come.
fn fill(content: &mut impl Read, room: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < room.len() {
        match content.read(&mut room[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn sum_of(block: &[u8]) -> u64 {
    block.iter().fold(0, |sum, &byte| roll_in(sum, byte))
}

fn roll_in(sum: u64, byte: u8) -> u64 {
    sum.wrapping_mul(BASE).wrapping_add(u64::from(byte) + 1)
}

/// The part of a sum that is compared: low bits of the polynomial depend on low bits of the bytes alone.
fn top(sum: u64) -> u32 {
    (sum >> 32) as u32
}

fn beginning(number: u64, shift: u32) -> usize {
    (number >> shift) as usize
}

/// What a block is called in a signature.
fn name(sum: u64, block: &[u8], key: &[u8; 32]) -> [u8; 8] {
    let mut name = [0; 8];
    name[..4].copy_from_slice(&top(sum).to_le_bytes());
    name[4..].copy_from_slice(&blake3::keyed_hash(key, block).as_bytes()[..4]);
    name
}

/// A name as a number that begins with the rolling hash.
fn number(name: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*name).rotate_left(32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    #[test]
    fn what_a_change_costs_is_little_more_than_what_it_is() {
        for length in [8 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20] {
            let old = noise(1, length);
            let cost = |what, new: &[u8], new_bytes: usize| {
                let (signature, runs) = tried(&old, new);
                let size = length.isqrt();
                let most = new_bytes + 14 * size + 400;
                assert!(signature + runs < most, "{what} in {length}: {signature} and {runs}, not {most}");
            };
            cost("nothing", &old, 0);
            cost("an insertion", &[&old[..length / 3], b"inserted", &old[length / 3..]].concat(), 8);
            cost("a removal", &[&old[..length / 3], &old[length / 2..]].concat(), 0);
            cost("an overwriting", &[&old[..length / 2], &noise(2, 500), &old[length / 2 + 500..]].concat(), 500);
            cost("an appending", &[&old[..], &noise(3, 1000)].concat(), 1000);
            cost("a turn", &[&old[length / 2..], &old[..length / 2]].concat(), 0);
        }
    }

    #[test]
    fn what_is_wholly_new_costs_little_more_than_itself() {
        for length in [8 << 10, 100_000, 1 << 20] {
            let (signature, runs) = tried(&noise(1, length), &noise(2, length));
            assert!(signature < length / 20 && runs <= length + 8 * length.div_ceil(WINDOW), "{signature}, {runs}");
        }
    }

    #[test]
    fn bytes_that_repeat_are_found_as_one_run() {
        let old = vec![5; 1 << 20];
        let (_, runs) = tried(&old, &[&old[..700_000], b"x", &old[700_000..]].concat());
        assert!(runs < 8000, "{runs}");
    }

    #[test]
    fn a_long_signature_has_longer_blocks() {
        assert_eq!(block_of(0), BLOCK_SIZES.0);
        assert_eq!(block_of(8 << 10), 270);
        assert_eq!(block_of(1 << 20), 3072);
        assert_eq!(block_of(64 << 20), 3072);
        assert_eq!(block_of(1 << 30), 1 << 15);
        assert_eq!(block_of(u64::MAX), BLOCK_SIZES.1);
    }

    #[test]
    fn no_more_is_hashed_in_vain_than_is_allowed() {
        let content = vec![0; 4 << 20];
        let block = 1 << 16;
        let zeros = name(sum_of(&content[..block]), &content[..block], &KEY);
        // Each block of the content is taken for this one at first sight.
        let blocks = (0..100).map(|number| [zeros[0], zeros[1], zeros[2], zeros[3], 1, 2, 3, number]).collect();
        let signature = Signature { block: 1 << 16, blocks };
        let mut search = Search::new(&signature, &KEY);
        let mut came = 0;
        search
            .pieces(&content[..], |piece| {
                let Piece::Data(bytes) = piece else { panic!("{piece:?} is not there") };
                came += bytes.len();
                Ok(())
            })
            .expect("memory does not fail");
        assert_eq!(came, content.len());
        assert!((IN_VAIN.1..IN_VAIN.1 + (1 << 18)).contains(&search.in_vain), "{}", search.in_vain);
    }

    #[test]
    fn runs_are_read_wherever_they_are_cut() {
        let frame = [9, 9, 9];
        let runs = [
            &Run::Data(3).encode()[..],
            b"abc",
            &Run::Zeros(2).encode(),
            &Run::Packed { len: 7, packed: 3 }.encode(),
            &frame,
            &Run::Older { from: 1, len: 4 }.encode(),
        ]
        .concat();
        for step in 1..=runs.len() {
            let mut said = (Vec::new(), 0);
            let mut reader = io::BufReader::with_capacity(step, &runs[..]);
            let mut take = |piece: Piece<'_>| {
                match piece {
                    Piece::Data(bytes) => said.0.extend_from_slice(bytes),
                    other @ Piece::Zeros(2) => assert_eq!(other, Piece::Zeros(2)),
                    other @ (Piece::Zeros(_) | Piece::Packed { .. }) => {
                        assert_eq!(other, Piece::Packed { len: 7, frame: &frame });
                    }
                    other @ Piece::Older { .. } => assert_eq!(other, Piece::Older { from: 1, len: 4 }),
                }
                said.1 += 1;
                Ok(())
            };
            read_runs(&mut reader, 16, &mut take).expect("they are runs");
            assert!(said.0 == b"abc" && said.1 >= 4, "{said:?}");
        }
        let failed = |length| read_runs(&mut &runs[..], length, |_| Ok(())).map_err(|error| error.kind());
        assert_eq!(failed(4), Err(ErrorKind::InvalidData), "a run beyond the part");
        assert_eq!(failed(17), Err(ErrorKind::UnexpectedEof), "a run too few");
    }

    #[test]
    fn runs_that_cannot_be_are_refused() {
        let refused = |runs: &[Run], length| {
            patch(b"older", &runs.iter().flat_map(|run| run.encode()).collect::<Vec<_>>(), length)
        };
        assert_eq!(refused(&[Run::Older { from: 1, len: 4 }], 4).expect("it is there"), b"lder");
        for run in [
            Run::Older { from: 2, len: 4 },
            Run::Older { from: u64::MAX - 4, len: 4 },
            Run::Zeros(3),
            Run::Zeros(1 << 60),
        ] {
            assert!(refused(&[run], 4).is_err(), "{run:?}");
        }
        assert!(refused(&[Run::Zeros(4), Run::Zeros(1)], 4).is_err(), "more than there is to be");
        let packed = [&Run::Packed { len: 4, packed: 1 }.encode()[..], &[0]].concat();
        assert!(patch(b"older", &packed, 4).is_err(), "what is compressed once is not so twice");
    }

    proptest! {
        #[test]
        fn what_is_put_together_is_the_content(
            seed in 0u64..50,
            length in 0usize..60_000,
            edits in proptest::collection::vec((0usize..60_000, 0usize..3000, 0usize..3000, 0u64..4), 0..6),
        ) {
            let old = noise(seed, length);
            let mut new = old.clone();
            for (at, gone, came, kind) in edits {
                let at = at.min(new.len());
                let gone = gone.min(new.len() - at);
                let came = if kind == 0 { vec![0; came] } else { noise(kind, came) };
                new.splice(at..at + gone, came);
            }
            tried(&old, &new);
        }

        #[test]
        fn a_made_up_signature_spoils_nothing(
            block in 64u32..2000,
            names in proptest::collection::vec(any::<[u8; 8]>(), 0..200),
            content in proptest::collection::vec(0u8..2, 0..20_000),
        ) {
            let mut blocks = names;
            if let Some(block) = content.get(..block as usize) {
                blocks.extend([name(sum_of(block), block, &KEY); 3]);
            }
            let runs = difference(&content, &Signature { block, blocks: blocks.clone() }, &KEY).expect("no failure");
            let mut length = 0;
            read_runs(&mut &runs[..], content.len() as u64, |piece| {
                length += match piece {
                    Piece::Data(bytes) => bytes.len() as u64,
                    Piece::Older { len, .. } | Piece::Zeros(len) | Piece::Packed { len, .. } => len,
                };
                Ok(())
            }).expect("runs");
            prop_assert_eq!(length, content.len() as u64);
        }
    }

    /// Length of the signature's blocks and of the runs, once the content has been put together from them.
    fn tried(old: &[u8], new: &[u8]) -> (usize, usize) {
        let signature = sign(old, old.len() as u64, &KEY).expect("memory does not fail");
        let runs = difference(new, &signature, &KEY).expect("memory does not fail");
        assert!(patch(old, &runs, new.len() as u64).expect("it fits") == new, "another content");
        (signature.blocks.len() * 8, runs.len())
    }

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }
}
