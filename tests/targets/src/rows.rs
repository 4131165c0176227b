//! Rows as any number of devices may have them of one node: their join is a join, and what it lets in stays let in.

use arbitrary::{Result, Unstructured};
use hearth_schemas::ids::{ContentHash, DeviceId, NodeId, ReplicaId};
use hearth_schemas::item::{
    Attributes, Class, Content, Dot, FileTime, Flag, Meta, Name, Place, Row, Stamp, Value, Xattrs,
};
use syncd_core::row::{contradicts, digest, join};
use syncd_core::view::replica_row_id;

/// Three devices that know something of one node.
pub fn run(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let _ = three(&mut u);
}

fn three(u: &mut Unstructured<'_>) -> Result<()> {
    let node = Node::any(u)?;
    let [a, b, c] = [node.known(u)?, node.known(u)?, node.known(u)?];
    for row in [&a, &b, &c] {
        assert_eq!(join(row, row), *row, "not idempotent");
    }
    assert!(!contradicts(&a, &b));
    let (ab, bc) = (join(&a, &b), join(&b, &c));
    assert_eq!(ab, join(&b, &a), "not commutative");
    assert_eq!(join(&ab, &c), join(&a, &bc), "not associative");
    assert_eq!(join(&ab, &a), ab, "a part of it changes it");
    assert_eq!(digest(&ab), digest(&join(&b, &a)));
    for row in [&a, &b, &c] {
        if row.check().is_err() {
            return Ok(());
        }
    }
    assert_eq!(join(&ab, &c).check(), Ok(()), "what two rows may hold, their join may not");
    Ok(())
}

/// A node with every version that there is of it; devices know some of them.
pub(crate) struct Node {
    whole: Row,
}

/// Replicas and numbers are few, so that what is known of them meets.
const REPLICAS: u64 = 3;
const NUMBERS: u64 = 4;

impl Node {
    /// One of few nodes, with a few versions. Its class goes with its id.
    pub(crate) fn any(u: &mut Unstructured<'_>) -> Result<Self> {
        let number = u.int_in_range(1..=14u8)?;
        let (id, class) = match number {
            1..=6 => (small_id(number), Class::Dir),
            7..=12 => (small_id(number), Class::Leaf),
            13 => (small_id(number), Class::Setting),
            _ => (replica_row_id(ReplicaId(u.int_in_range(1..=REPLICAS)?)), Class::Replica),
        };
        let mut whole = Row::empty(id, class);
        for _ in 0..u.int_in_range(0..=3)? {
            let dot = dot(u)?;
            whole.content.insert(dot, content(u, class, dot)?);
        }
        if matches!(class, Class::Dir | Class::Leaf) {
            for _ in 0..u.int_in_range(0..=3)? {
                let dot = dot(u)?;
                whole.place.insert(dot, place(u, id, dot)?);
            }
            for _ in 0..u.int_in_range(0..=2)? {
                let dot = dot(u)?;
                whole.meta.insert(dot, Meta { attributes: attributes(u)?, stamp: stamp(u, dot)? });
            }
        }
        Ok(Self { whole })
    }

    /// Which node.
    pub(crate) fn id(&self) -> NodeId {
        self.whole.id
    }

    /// What some device knows of it: of what it has seen, what is not superseded. The same dot is the same version
    /// everywhere, except for how deleted it is.
    pub(crate) fn known(&self, u: &mut Unstructured<'_>) -> Result<Row> {
        let mut row = Row::empty(self.whole.id, self.whole.class);
        for replica in 1..=REPLICAS {
            let seq = u.int_in_range(0..=NUMBERS)?;
            if seq > 0 {
                row.ctx.insert(ReplicaId(replica), seq);
            }
        }
        let seen = |dot: &Dot| row.ctx.get(&dot.replica).is_some_and(|seq| *seq >= dot.seq);
        for (dot, place) in self.whole.place.iter().filter(|(dot, _)| seen(dot)) {
            if let Some(flag) = stands(u)? {
                row.place.insert(*dot, Place { flag, ..place.clone() });
            }
        }
        for (dot, content) in self.whole.content.iter().filter(|(dot, _)| seen(dot)) {
            if let Some(flag) = stands(u)? {
                row.content.insert(*dot, Content { flag, ..content.clone() });
            }
        }
        for (dot, meta) in self.whole.meta.iter().filter(|(dot, _)| seen(dot)) {
            if stands(u)?.is_some() {
                row.meta.insert(*dot, meta.clone());
            }
        }
        Ok(row)
    }
}

fn small_id(number: u8) -> NodeId {
    let mut id = [0; 16];
    id[15] = number;
    NodeId(id)
}

/// Whether a version that was seen still stands, and how deleted it is.
fn stands(u: &mut Unstructured<'_>) -> Result<Option<Flag>> {
    Ok(match u.int_in_range(0..=7u8)? {
        0 => None,
        1 => Some(Flag::Itself),
        2 => Some(Flag::WithDirectory),
        _ => Some(Flag::Live),
    })
}

fn dot(u: &mut Unstructured<'_>) -> Result<Dot> {
    Ok(Dot { replica: ReplicaId(u.int_in_range(1..=REPLICAS)?), seq: u.int_in_range(1..=NUMBERS)? })
}

fn stamp(u: &mut Unstructured<'_>, dot: Dot) -> Result<Stamp> {
    Ok(Stamp { hlc: u.int_in_range(0..=5)?, replica: dot.replica })
}

fn place(u: &mut Unstructured<'_>, id: NodeId, dot: Dot) -> Result<Place> {
    // Number 0 is the root; some are no directories, and some nobody has heard of. None is in itself: such a row ends the session.
    let mut dir = || -> Result<NodeId> {
        let dir = small_id(u.int_in_range(0..=8)?);
        Ok(if dir == id { NodeId::ROOT } else { dir })
    };
    let (parent, was) = (dir()?, dir()?);
    Ok(Place { parent, name: name(u)?, was, stamp: stamp(u, dot)?, flag: Flag::Live })
}

/// Names that meet, and names that pretend to be conflict siblings.
const NAMES: [&[u8]; 10] = [
    b"a",
    b"b",
    b"a.txt",
    b"a (conflict, one, 000007)",
    b"a (conflict, one, 00000000000000000000000000000007)",
    b"a (conflict, one, 000008).txt",
    b"a (conflict, one, 000007) (conflict, two, 000008)",
    b"parked",
    b".hearth-1",
    b"\xff",
];

fn name(u: &mut Unstructured<'_>) -> Result<Name> {
    if u.ratio(1, 8)? {
        let bytes: Vec<u8> = u.arbitrary()?;
        if let Some(name) = Name::new(bytes) {
            return Ok(name);
        }
    }
    Ok(Name::new(*u.choose(&NAMES)?).expect("each is a name"))
}

fn content(u: &mut Unstructured<'_>, class: Class, dot: Dot) -> Result<Content> {
    let value = match class {
        Class::Dir => Value::Dir,
        Class::Leaf if u.ratio(1, 3)? => Value::Link { target: vec![u.int_in_range(b'a'..=b'c')?] },
        Class::Leaf => {
            let byte = u.int_in_range(0..=2)?;
            Value::File { hash: ContentHash([byte; 32]), size: u64::from(byte) }
        }
        Class::Setting => Value::Setting { key: "/a".to_owned(), device: None, value: None },
        Class::Replica => Value::Replica {
            replica: ReplicaId(u.int_in_range(1..=REPLICAS)?),
            device: DeviceId([u.int_in_range(0..=1)?; 32]),
            name: u.choose(&["one", "x/y", ")", " (conflict, a", "..", "\u{202e}n"])?.to_string(),
            former: if u.arbitrary()? { Some(self::dot(u)?) } else { None },
        },
    };
    let base = if u.arbitrary()? { Some(ContentHash([u.int_in_range(0..=2)?; 32])) } else { None };
    Ok(Content {
        value,
        base,
        depth: u.int_in_range(0..=3)?,
        born: attributes(u)?,
        stamp: stamp(u, dot)?,
        wall_ms: 0,
        flag: Flag::Live,
    })
}

fn attributes(u: &mut Unstructured<'_>) -> Result<Attributes> {
    let byte: u8 = u.arbitrary()?;
    let mut xattrs = Xattrs::new();
    if byte & 1 != 0 {
        xattrs.insert(b"user.a".to_vec(), vec![byte >> 1 & 1]);
    }
    Ok(Attributes {
        mode: if byte & 4 != 0 { 0o644 } else { 0 },
        mtime: FileTime { secs: i64::from(byte >> 3 & 3), nanos: 0 },
        xattrs,
        group: (byte & 32 != 0).then(|| small_id(byte >> 6)),
    })
}
