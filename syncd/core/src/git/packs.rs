//! Which objects a repository has without one of its files: what another machine's `git gc` deletes is removed here only
//! if every object in it stays.
//!
//! Reads the indexes of packs (version 2) and the names of loose objects, never an object. What cannot be read for sure
//! counts as needed.

use std::collections::BTreeMap;

use crate::disk::{Disk, Kind, RelPath, Source};

/// The longest index that is read, in bytes, and the most of them that are held at a time.
const MAX_INDEX: u64 = 96 << 20;
/// What an index begins with: a mark and its version.
const HEAD: [u8; 8] = [0xff, b't', b'O', b'c', 0, 0, 0, 2];
/// Bytes of the table that says where ids with each first byte end.
const FAN: usize = 256 * 4;

/// The ids in a pack.
#[derive(Debug)]
pub struct PackIndex {
    bytes: Vec<u8>,
    count: usize,
    width: usize,
}

impl PackIndex {
    /// Reads an index of ids of `width` bytes; `None` if it is not one.
    pub fn read(bytes: Vec<u8>, width: usize) -> Option<Self> {
        let fan = bytes.strip_prefix(&HEAD)?.get(..FAN)?;
        let ends: Vec<u32> =
            fan.chunks_exact(4).map(|end| u32::from_be_bytes([end[0], end[1], end[2], end[3]])).collect();
        let count = usize::try_from(*ends.last()?).ok()?;
        // An id, a checksum and a position for each, and two checksums at the end.
        let least = count.checked_mul(width + 8)?.checked_add(HEAD.len() + FAN + 2 * width)?;
        let rises = ends.is_sorted();
        let index = Self { bytes, count, width };
        (rises && index.bytes.len() >= least && index.ids().is_sorted()).then_some(index)
    }

    /// The ids, in order.
    pub fn ids(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.count).map(|at| self.id(at))
    }

    /// Whether an object is in the pack.
    pub fn contains(&self, id: &[u8]) -> bool {
        let (mut from, mut to) = (0, self.count);
        while from < to {
            let middle = from.midpoint(to);
            match self.id(middle).cmp(id) {
                std::cmp::Ordering::Less => from = middle + 1,
                std::cmp::Ordering::Equal => return true,
                std::cmp::Ordering::Greater => to = middle,
            }
        }
        false
    }

    fn id(&self, at: usize) -> &[u8] {
        let from = HEAD.len() + FAN + at * self.width;
        &self.bytes[from..from + self.width]
    }
}

/// The packs of one directory of objects, by the stem of their names.
type Packs = BTreeMap<Vec<u8>, PackIndex>;

/// What the repositories here hold, read when it is asked for first. Valid while nobody removes anything but by
/// [`Holdings::forget`].
#[derive(Default, Debug)]
pub struct Holdings {
    packs: BTreeMap<RelPath, Packs>,
}

impl Holdings {
    /// Whether a loose object is in a pack as well.
    pub fn has_packed<D: Disk>(&mut self, disk: &mut D, objects: &[u8], fan: &[u8], rest: &[u8]) -> bool {
        let Some(id) = unhex(&[fan, rest].concat()) else { return false };
        self.packs_of(disk, objects).values().any(|pack| pack.contains(&id))
    }

    /// Whether every object of a pack is in another pack or loose as well.
    pub fn has_elsewhere<D: Disk>(&mut self, disk: &mut D, objects: &[u8], stem: &[u8]) -> bool {
        let packs = self.packs_of(disk, objects);
        let Some(pack) = packs.get(stem) else { return false };
        pack.ids().all(|id| {
            let packed = packs.iter().any(|(other, pack)| other != stem && pack.contains(id));
            packed || is_loose(disk, objects, id)
        })
    }

    /// Takes note that a pack is gone.
    pub fn forget(&mut self, objects: &[u8], stem: &[u8]) {
        if let Some(packs) = self.packs.get_mut(objects) {
            packs.remove(stem);
        }
    }

    fn packs_of<D: Disk>(&mut self, disk: &mut D, objects: &[u8]) -> &Packs {
        self.packs.entry(objects.to_vec()).or_insert_with(|| read_packs(disk, objects))
    }
}

fn read_packs<D: Disk>(disk: &mut D, objects: &[u8]) -> Packs {
    let dir = [objects, b"/pack"].concat();
    let mut packs = Packs::new();
    let Ok(entries) = disk.list(&dir) else { return packs };
    let size_of: BTreeMap<Vec<u8>, u64> = entries
        .iter()
        .filter(|(_, stat)| stat.kind == Kind::File)
        .map(|(name, stat)| (name.as_bytes().to_vec(), stat.size))
        .collect();
    let mut room = MAX_INDEX;
    for (name, size) in &size_of {
        let Some(stem) = name.strip_suffix(b".idx") else { continue };
        let has_pack = size_of.get(&[stem, b".pack"].concat()).is_some_and(|size| *size > 0);
        let width = stem.len().saturating_sub(b"pack-".len()) / 2;
        if !has_pack || *size > room || ![20, 32].contains(&width) {
            continue;
        }
        let path = [&dir, &b"/"[..], name].concat();
        let read = disk.read(&Source::Copy(path), room).ok().and_then(|bytes| PackIndex::read(bytes, width));
        if let Some(index) = read {
            room -= size;
            packs.insert(stem.to_vec(), index);
        }
    }
    packs
}

fn is_loose<D: Disk>(disk: &mut D, objects: &[u8], id: &[u8]) -> bool {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = [objects, b"/", &hex.as_bytes()[..2], b"/", &hex.as_bytes()[2..]].concat();
    matches!(disk.stat(&path), Ok(Some(stat)) if stat.kind == Kind::File && stat.size > 0)
}

fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    digits.chunks(2).map(|pair| Some(value(*pair.first()?)? << 4 | value(*pair.get(1)?)?)).collect()
}

/// Makes the index of a pack with these objects, for tests.
#[cfg(test)]
pub fn index_of(ids: &[[u8; 20]]) -> Vec<u8> {
    let mut bytes = HEAD.to_vec();
    for first in 0..=255u8 {
        let upto = ids.iter().filter(|id| id[0] <= first).count();
        bytes.extend(u32::try_from(upto).expect("few").to_be_bytes());
    }
    bytes.extend(ids.concat());
    bytes.extend(vec![0; ids.len() * 8 + 40]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pack_holds_is_found_by_its_index() {
        let ids = [[0x01; 20], [0x02; 20], [0xfe; 20]];
        let index = PackIndex::read(index_of(&ids), 20).expect("an index");
        assert!(ids.iter().all(|id| index.contains(id)));
        assert!(!index.contains(&[0x03; 20]) && !index.contains(&[0; 20]) && !index.contains(&[0xff; 20]));
        assert_eq!(index.ids().count(), 3);
    }

    #[test]
    fn what_is_no_index_is_not_taken_for_one() {
        let whole = index_of(&[[0x01; 20], [0x02; 20]]);
        for length in [0, 7, 8, 1000, 1032, whole.len() - 1] {
            assert!(PackIndex::read(whole[..length].to_vec(), 20).is_none(), "{length}");
        }
        let unsorted = index_of(&[[0x02; 20], [0x01; 20]]);
        assert!(PackIndex::read(unsorted, 20).is_none());
        let mut huge = whole;
        huge[HEAD.len() + FAN - 4..HEAD.len() + FAN].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(PackIndex::read(huge, 20).is_none());
    }
}
