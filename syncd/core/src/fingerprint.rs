//! Fingerprints of directories: one comparison tells that a directory is just as base has it.
//!
//! A fingerprint is the sum of one hash for each entry, of its name and its whole change key. The index keeps that of
//! what base has in each directory up to date ([`crate::store::Store::fingerprint`]); what a listing gives is summed up by
//! [`crate::observe`]. Where the two are equal, nothing of base has to be read. Whatever is not in play has a hash that nothing
//! on a disk has.

use hearth_schemas::item::Name;

use crate::disk::{Kind, Stat};
use crate::store::{Base, BaseState};

/// What a directory holds, in short. That of an empty one is zero.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Fingerprint(pub u128);

/// Bytes of a change key.
const KEY: usize = 64;

impl Fingerprint {
    /// Of what was found on a disk.
    pub fn of_listing(names: &[(Name, Stat)]) -> Self {
        let mut sum = Self::default();
        names.iter().for_each(|(name, stat)| sum.add(Self::of_entry(name, stat, BaseState::Live)));
        sum
    }

    /// The part that a base entry has in that of its directory.
    pub fn of_base(base: &Base) -> Self {
        Self::of_entry(&base.name, &base.stat, base.state)
    }

    /// Takes in an entry's part.
    pub fn add(&mut self, part: Self) {
        self.0 = self.0.wrapping_add(part.0);
    }

    /// Takes an entry's part out.
    pub fn remove(&mut self, part: Self) {
        self.0 = self.0.wrapping_sub(part.0);
    }

    fn of_entry(name: &Name, stat: &Stat, state: BaseState) -> Self {
        let Stat { kind, handle, size, mode, mtime, ctime, links, raised: _ } = stat;
        let kind: u8 = match kind {
            Kind::File => 0,
            Kind::Dir => 1,
            Kind::Link => 2,
            Kind::Other => 3,
        };
        let state: u8 = match state {
            BaseState::Live => 0,
            BaseState::Dormant => 1,
        };
        let parts: [&[u8]; 11] = [
            &[kind, state],
            &mode.to_le_bytes(),
            &handle.inode.to_le_bytes(),
            &handle.born.to_le_bytes(),
            &size.to_le_bytes(),
            &links.to_le_bytes(),
            &mtime.secs.to_le_bytes(),
            &mtime.nanos.to_le_bytes(),
            &ctime.secs.to_le_bytes(),
            &ctime.nanos.to_le_bytes(),
            name.as_bytes(),
        ];
        let mut bytes = Vec::with_capacity(KEY + name.as_bytes().len());
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        let hash = blake3::hash(&bytes);
        let (first, _) = hash.as_bytes().split_first_chunk::<16>().expect("a hash has 32 bytes");
        Self(u128::from_le_bytes(*first))
    }
}

#[cfg(test)]
mod tests {
    use hearth_schemas::item::FileTime;

    use super::*;
    use crate::disk::{Handle, Raised};

    #[test]
    fn any_difference_of_a_name_or_a_change_key_is_another_fingerprint() {
        let usual = stat();
        let time = FileTime { secs: 7, nanos: 1 };
        let others = [
            Stat { kind: Kind::Link, ..usual.clone() },
            Stat { handle: Handle { inode: 2, born: 1 }, ..usual.clone() },
            Stat { handle: Handle { inode: 1, born: 2 }, ..usual.clone() },
            Stat { size: 5, ..usual.clone() },
            Stat { mode: 0o600, ..usual.clone() },
            Stat { mtime: time, ..usual.clone() },
            Stat { ctime: time, ..usual.clone() },
            Stat { links: 2, ..usual.clone() },
        ];
        for other in others {
            assert_ne!(of(&[("a", &usual)]), of(&[("a", &other)]), "{other:?}");
        }
        assert_ne!(of(&[("a", &usual)]), of(&[("b", &usual)]));
        assert_ne!(of(&[("a", &usual)]), of(&[("a", &usual), ("b", &usual)]));
        assert_ne!(of(&[("a", &usual)]), Fingerprint::of_entry(&name("a"), &usual, BaseState::Dormant));
    }

    #[test]
    fn the_order_is_nothing_and_what_went_leaves_no_trace() {
        let usual = stat();
        assert_eq!(of(&[("a", &usual), ("b", &usual)]), of(&[("b", &usual), ("a", &usual)]));
        let mut sum = of(&[("a", &usual), ("b", &usual)]);
        sum.remove(of(&[("b", &usual)]));
        assert_eq!(sum, of(&[("a", &usual)]));
        sum.remove(of(&[("a", &usual)]));
        assert_eq!(sum, Fingerprint::default());
    }

    fn of(entries: &[(&str, &Stat)]) -> Fingerprint {
        let entries: Vec<(Name, Stat)> = entries.iter().map(|(text, stat)| (name(text), (*stat).clone())).collect();
        Fingerprint::of_listing(&entries)
    }

    fn name(text: &str) -> Name {
        Name::new(text).expect("valid")
    }

    fn stat() -> Stat {
        Stat {
            kind: Kind::File,
            handle: Handle { inode: 1, born: 1 },
            size: 4,
            mode: 0o644,
            mtime: FileTime { secs: 7, nanos: 0 },
            ctime: FileTime { secs: 7, nanos: 0 },
            links: 1,
            raised: Raised::default(),
        }
    }
}
