//! Joins, writes and reads rows: which version wins, what a write supersedes, what is deleted.
//!
//! The laws of docs/sync-model.md section 2. A join is associative, commutative and idempotent, so the state of a
//! device depends only on the set of changes that it has seen. Where things are shown is [`crate::view`]'s.

use std::collections::BTreeMap;

use hearth_schemas::item::{Content, Context, Dot, Flag, Meta, Place, Row, Stamp, Value, Versions};

/// A version that can be joined: its deletion flag is the only part of it that ever changes.
pub trait Version: Clone + PartialEq {
    /// Orders concurrent versions.
    fn stamp(&self) -> Stamp;
    /// Deleted or not.
    fn flag(&self) -> Flag;
    /// Raises the deletion flag; it never falls.
    fn raise(&mut self, flag: Flag);
}

macro_rules! flagged {
    ($name:ty) => {
        impl Version for $name {
            fn stamp(&self) -> Stamp {
                self.stamp
            }
            fn flag(&self) -> Flag {
                self.flag
            }
            fn raise(&mut self, flag: Flag) {
                self.flag = self.flag.max(flag);
            }
        }
    };
}
flagged!(Place);
flagged!(Content);

impl Version for Meta {
    fn stamp(&self) -> Stamp {
        self.stamp
    }
    fn flag(&self) -> Flag {
        Flag::Live
    }
    fn raise(&mut self, _flag: Flag) {}
}

/// Whether a context has seen a dot.
pub fn has_seen(ctx: &Context, dot: Dot) -> bool {
    ctx.get(&dot.replica).is_some_and(|&seq| seq >= dot.seq)
}

/// Raises `ctx` to hold `other` as well.
pub fn merge_context(ctx: &mut Context, other: &Context) {
    for (&replica, &seq) in other {
        let entry = ctx.entry(replica).or_insert(0);
        *entry = (*entry).max(seq);
    }
}

/// Joins what two devices know of one node. The rows have the same id and class; the caller has checked that.
pub fn join(a: &Row, b: &Row) -> Row {
    let mut ctx = a.ctx.clone();
    merge_context(&mut ctx, &b.ctx);
    Row {
        id: a.id,
        class: a.class,
        place: join_store(&a.place, &a.ctx, &b.place, &b.ctx),
        content: join_store(&a.content, &a.ctx, &b.content, &b.ctx),
        meta: join_store(&a.meta, &a.ctx, &b.meta, &b.ctx),
        ctx,
    }
}

fn join_store<V: Version>(a: &Versions<V>, a_ctx: &Context, b: &Versions<V>, b_ctx: &Context) -> Versions<V> {
    let mut out = Versions::new();
    for (&dot, version) in a {
        match b.get(&dot) {
            Some(other) => {
                let mut version = version.clone();
                version.raise(other.flag());
                out.insert(dot, version);
            }
            None if !has_seen(b_ctx, dot) => {
                out.insert(dot, version.clone());
            }
            None => {}
        }
    }
    for (&dot, version) in b {
        if !a.contains_key(&dot) && !has_seen(a_ctx, dot) {
            out.insert(dot, version.clone());
        }
    }
    out
}

/// Whether the same dot stands for two different versions in `a` and `b`, which no honest device sends.
pub fn contradicts(a: &Row, b: &Row) -> bool {
    fn differ<V: Version>(a: &Versions<V>, b: &Versions<V>) -> bool {
        a.iter().any(|(dot, x)| {
            b.get(dot).is_some_and(|y| {
                let (mut x, mut y) = (x.clone(), y.clone());
                x.raise(Flag::Itself);
                y.raise(Flag::Itself);
                x != y
            })
        })
    }
    a.class != b.class || differ(&a.place, &b.place) || differ(&a.content, &b.content) || differ(&a.meta, &b.meta)
}

/// The version that is shown: the highest (stamp, dot) among the live ones, else among the deleted.
pub fn winner<V: Version>(store: &Versions<V>) -> Option<(Dot, &V)> {
    store.iter().map(|(&dot, v)| (dot, v)).max_by_key(|(dot, v)| (v.flag() == Flag::Live, v.stamp(), *dot))
}

/// Writes a version over the dots that its author had before it.
pub fn write<V: Version>(store: &mut Versions<V>, ctx: &mut Context, seen: &[Dot], dot: Dot, version: V) {
    for old in seen {
        store.remove(old);
    }
    store.insert(dot, version);
    note(ctx, dot);
}

/// Records that a change happened, though it left no version.
pub fn note(ctx: &mut Context, dot: Dot) {
    let entry = ctx.entry(dot.replica).or_insert(0);
    *entry = (*entry).max(dot.seq);
}

/// Raises the deletion flag on the seen versions of place and content.
pub fn delete(row: &mut Row, seen_place: &[Dot], seen_content: &[Dot], dot: Dot, flag: Flag) {
    for seen in seen_place {
        if let Some(place) = row.place.get_mut(seen) {
            place.raise(flag);
        }
    }
    for seen in seen_content {
        if let Some(content) = row.content.get_mut(seen) {
            content.raise(flag);
        }
    }
    note(&mut row.ctx, dot);
}

/// Whether every version of place and content is deleted: a tombstone, unless its directory is revived.
pub fn all_flagged(row: &Row) -> bool {
    flagged(&row.place) && flagged(&row.content)
}

/// Whether every version of a store is deleted.
pub fn flagged<V: Version>(store: &Versions<V>) -> bool {
    store.values().all(|version| version.flag() != Flag::Live)
}

/// The content versions by equal value, the winning value first; each group with its dots, winner first.
pub fn content_groups(row: &Row) -> Vec<(Vec<Dot>, &Content)> {
    let any_live = row.content.values().any(|v| v.flag == Flag::Live);
    let mut versions: Vec<(Dot, &Content)> =
        row.content.iter().map(|(&d, v)| (d, v)).filter(|(_, v)| !any_live || v.flag == Flag::Live).collect();
    versions.sort_by_key(|(dot, v)| std::cmp::Reverse((v.stamp, *dot)));
    let mut groups: Vec<(Vec<Dot>, &Content)> = Vec::new();
    for (dot, version) in versions {
        match groups.iter_mut().find(|(_, first)| first.value == version.value) {
            Some((dots, _)) => dots.push(dot),
            None => groups.push((vec![dot], version)),
        }
    }
    groups
}

/// The hash that a row adds to its device's digest; 0 for tombstones. A sum of these compares whole states.
pub fn digest(row: &Row) -> u64 {
    if all_flagged(row) && (!row.place.is_empty() || !row.content.is_empty()) {
        return 0;
    }
    let mut hasher = blake3::Hasher::new_derive_key("hearth row digest v1");
    hasher.update(&row.id.0);
    let mut part = |tag: u8, dot: &Dot, flag: Flag| {
        hasher.update(&[tag, flag as u8]);
        hasher.update(&dot.replica.0.to_le_bytes());
        hasher.update(&dot.seq.to_le_bytes());
    };
    row.place.iter().for_each(|(dot, v)| part(0, dot, v.flag));
    row.content.iter().for_each(|(dot, v)| part(1, dot, v.flag));
    row.meta.keys().for_each(|dot| part(2, dot, Flag::Live));
    let bytes = hasher.finalize();
    u64::from_le_bytes(bytes.as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
}

/// Replaces the dots of unnumbered changes by their numbers, everywhere in the row.
pub fn renumber(row: &mut Row, number: &BTreeMap<Dot, Dot>) {
    fn store<V>(store: &mut Versions<V>, number: &BTreeMap<Dot, Dot>) {
        let versions = std::mem::take(store).into_iter();
        *store = versions.map(|(dot, version)| (number.get(&dot).copied().unwrap_or(dot), version)).collect();
    }
    store(&mut row.place, number);
    store(&mut row.content, number);
    store(&mut row.meta, number);
    row.ctx.remove(&hearth_schemas::item::UNNUMBERED);
    for dot in number.values() {
        note(&mut row.ctx, *dot);
    }
}

/// Whether the value is a file with this many bytes or more.
pub fn file_size(value: &Value) -> u64 {
    match value {
        Value::File { size, .. } => *size,
        Value::Dir | Value::Link { .. } | Value::Setting { .. } | Value::Replica { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use hearth_schemas::ids::{NodeId, ReplicaId};
    use hearth_schemas::item::{Attributes, Class, MAX_HLC};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_edit_made_elsewhere_outlives_a_deletion() {
        let mut base = Row::empty(NodeId([1; 16]), Class::Leaf);
        put(&mut base, dot(1, 1), &[], 10);
        let (mut deleted, mut edited) = (base.clone(), base);
        delete(&mut deleted, &[], &[dot(1, 1)], dot(1, 2), Flag::Itself);
        put(&mut edited, dot(2, 1), &[dot(1, 1)], 11);
        let joined = join(&deleted, &edited);
        assert!(!all_flagged(&joined));
        assert_eq!(content_groups(&joined).len(), 1);
    }

    #[test]
    fn two_edits_of_one_version_are_both_there() {
        let mut base = Row::empty(NodeId([1; 16]), Class::Leaf);
        put(&mut base, dot(1, 1), &[], 10);
        let (mut a, mut b) = (base.clone(), base);
        put(&mut a, dot(1, 2), &[dot(1, 1)], 11);
        put(&mut b, dot(2, 1), &[dot(1, 1)], 12);
        let joined = join(&a, &b);
        let groups = content_groups(&joined);
        assert_eq!(groups.iter().map(|(dots, _)| dots[0]).collect::<Vec<_>>(), [dot(2, 1), dot(1, 2)]);
    }

    proptest! {
        #[test]
        fn joining_is_a_join((a, b, c) in histories()) {
            prop_assert_eq!(join(&a, &a), a.clone());
            prop_assert_eq!(join(&a, &b), join(&b, &a));
            prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
            prop_assert!(!contradicts(&a, &b));
        }

        #[test]
        fn what_is_joined_is_inside_its_context((a, b, _) in histories()) {
            prop_assert!(join(&a, &b).check().is_ok());
        }
    }

    fn dot(replica: u64, seq: u64) -> Dot {
        Dot { replica: ReplicaId(replica), seq }
    }

    fn put(row: &mut Row, dot: Dot, seen: &[Dot], hlc: u64) {
        let content = Content {
            value: Value::Link { target: vec![b'x'; usize::try_from(dot.seq).expect("small") + 1] },
            base: None,
            depth: 0,
            born: Attributes::default(),
            stamp: Stamp { hlc: hlc.min(MAX_HLC), replica: dot.replica },
            wall_ms: 0,
            flag: Flag::Live,
        };
        write(&mut row.content, &mut row.ctx, seen, dot, content);
    }

    /// Three replicas that write, delete and join one row at random; each keeps the laws of the model.
    fn histories() -> impl Strategy<Value = (Row, Row, Row)> {
        proptest::collection::vec((0usize..3, 0usize..3, 0u8..4, 1u64..20), 1..40).prop_map(|steps| {
            let mut rows: [Row; 3] = std::array::from_fn(|_| Row::empty(NodeId([1; 16]), Class::Leaf));
            let mut seqs = [0u64; 3];
            for (me, other, what, hlc) in steps {
                let replica = me as u64 + 1;
                match what {
                    0 | 1 => {
                        seqs[me] += 1;
                        let seen: Vec<Dot> = rows[me].content.keys().copied().skip(usize::from(what)).collect();
                        put(&mut rows[me], dot(replica, seqs[me]), &seen, hlc);
                    }
                    2 => {
                        seqs[me] += 1;
                        let seen: Vec<Dot> = rows[me].content.keys().copied().collect();
                        delete(&mut rows[me], &[], &seen, dot(replica, seqs[me]), Flag::Itself);
                    }
                    _ => rows[me] = join(&rows[me], &rows[other]),
                }
            }
            rows.into()
        })
    }
}
