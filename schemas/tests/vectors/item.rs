//! `item.txt`: rows of every class, and rows that cannot be, each for one reason.

use std::collections::BTreeSet;

use hearth_schemas::codec;
use hearth_schemas::ids::{ContentHash, DeviceId, NodeId, ReplicaId};
use hearth_schemas::item::{
    Attributes, Class, Content, Context, Dot, FileTime, Flag, MAX_DEVICE_NAME, MAX_HLC, MAX_KEY, MAX_NAME,
    MAX_REPLICAS, MAX_SETTING, MAX_TARGET, MAX_VERSIONS, Meta, Name, Place, Row, SettingValue, Stamp, UNNUMBERED,
    Value, Versions,
};
use hearth_schemas::wire::MAX_MESSAGE;
use serde_bytes::ByteBuf;

use crate::file::{Case, again, cases, changed, cut, lines, longer, read_case, same_as_file};

const HERE: ReplicaId = ReplicaId(0x0123_4567_89ab_cdef);
const THERE: ReplicaId = ReplicaId(0xfedc_ba98_7654_3210);

#[test]
fn rows_are_written_as_ever() {
    same_as_file("item.txt", &item_vectors());
}

#[test]
fn rows_have_the_outcome_that_is_written() {
    let outcomes: BTreeSet<String> = lines("item.txt").iter().map(|line| read_case(line, |_, row| read(row))).collect();
    let wanted = [
        "good",
        "Malformed",
        "NotCanonical",
        "OutsideContext",
        "Unnumbered",
        "BadName",
        "Stamp",
        "WrongClass",
        "BadTarget",
        "TooLong",
        "OwnFormer",
        "Root",
        "Attributes",
    ];
    assert_eq!(outcomes, wanted.map(str::to_owned).into());
}

fn read(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let row = codec::decode::<Row>(bytes, MAX_MESSAGE);
    if let Ok(Err(error)) = row.as_ref().map(Row::check) {
        return Err(format!("{error:?}"));
    }
    again(row)
}

fn item_vectors() -> String {
    let mut all: Vec<Case> = good().iter().map(|(name, row)| Case::good("row", name, row)).collect();
    all.extend(impossible().iter().map(|(name, why, row)| Case::bad("row", name, why, codec::encode(row))));
    all.extend(undecodable().into_iter().map(|(name, why, bytes)| Case::bad("row", name, why, bytes)));
    cases("row NAME OUTCOME BYTES…   outcome: good, or why it is refused", &all)
}

/// Rows as devices write them, and such as are just within the limits.
fn good() -> Vec<(&'static str, Row)> {
    let long = |value| with(&file(), |row| content(row).value = value);
    vec![
        ("directory", directory()),
        ("file", file()),
        ("link", link(b"../elsewhere")),
        ("setting", setting(None, Some(Vec::from(b"\x05\x00\x00\x00")))),
        ("setting-unset", setting(None, None)),
        ("setting-of-a-device", setting(Some(DeviceId([0x33; 32])), Some(vec![1]))),
        ("replica", replica(HERE, "laptop", None)),
        ("replica-with-former", replica(HERE, "büro", Some(Dot { replica: THERE, seq: 300 }))),
        ("tombstone", deleted(Flag::Itself)),
        ("deleted-with-its-directory", deleted(Flag::WithDirectory)),
        ("two-versions", two_versions()),
        ("without-a-version", Row { ctx: context([(HERE, u64::MAX)]), ..Row::empty(NodeId([7; 16]), Class::Leaf) }),
        ("imported", with(&file(), |row| content(row).stamp.hlc = 0)),
        ("latest-stamp", with(&file(), |row| content(row).stamp.hlc = MAX_HLC)),
        (
            "earliest-time",
            with(&file(), |row| content(row).born.mtime = FileTime { secs: i64::MIN, nanos: 999_999_999 }),
        ),
        ("largest-file", long(Value::File { hash: ContentHash([0x55; 32]), size: u64::MAX })),
        ("longest-name", with(&file(), |row| place(row).name = name(&[b'x'; MAX_NAME]))),
        ("name-of-any-bytes", with(&file(), |row| place(row).name = name(b"\xff\n ..\\"))),
        ("longest-target", link(&[b'x'; MAX_TARGET])),
        ("longest-setting", setting(None, Some(vec![7; MAX_SETTING]))),
        ("longest-key", with(&setting(None, None), |row| key(row, MAX_KEY))),
        ("longest-device-name", replica(HERE, &"x".repeat(MAX_DEVICE_NAME), None)),
    ]
}

/// Rows that decode and cannot be.
fn impossible() -> Vec<(&'static str, &'static str, Row)> {
    let (file, directory) = (file(), directory());
    let seen = |ctx: &[(ReplicaId, u64)]| with(&file, |row| row.ctx = context(ctx.iter().copied()));
    let by = |replica, seq| {
        with(&file, |row| {
            row.ctx = context([(HERE, 9)]);
            row.meta = [(Dot { replica, seq }, meta())].into_iter().collect();
        })
    };
    let named = |bytes: &[u8]| with(&file, |row| place(row).name = name(bytes));
    let holding =
        |row: &Row, value: &Row| with(row, |row| content(row).value = content(&mut value.clone()).value.clone());
    let (unset, replica_row) = (setting(None, None), replica(HERE, "laptop", None));
    let late = |stamp: &mut Stamp| stamp.hlc = MAX_HLC + 1;
    let mode = 0o1000;
    let mtime = FileTime { secs: 0, nanos: 1_000_000_000 };
    let ctx = |len: usize| context((1..=len as u64).map(|replica| (ReplicaId(replica), 1)));
    let versions =
        |len: usize| -> Versions<Meta> { (1..=len as u64).map(|seq| (Dot { replica: HERE, seq }, meta())).collect() };
    vec![
        ("root", "Root", with(&directory, |row| row.id = NodeId::ROOT)),
        ("number-beyond-context", "OutsideContext", seen(&[(HERE, 2)])),
        ("replica-beyond-context", "OutsideContext", seen(&[(THERE, 9)])),
        ("no-context", "OutsideContext", seen(&[])),
        ("number-0", "OutsideContext", by(HERE, 0)),
        ("unnumbered-version", "OutsideContext", by(UNNUMBERED, 1)),
        ("number-0-in-context", "OutsideContext", seen(&[(HERE, 3), (THERE, 0)])),
        ("unnumbered-in-context", "Unnumbered", seen(&[(UNNUMBERED, 1), (HERE, 3)])),
        ("empty-name", "BadName", named(b"")),
        ("name-dot", "BadName", named(b".")),
        ("name-dots", "BadName", named(b"..")),
        ("name-slash", "BadName", named(b"a/b")),
        ("name-zero", "BadName", named(b"a\0b")),
        ("name-too-long", "BadName", named(&[b'x'; MAX_NAME + 1])),
        ("stamp-of-place", "Stamp", with(&file, |row| late(&mut place(row).stamp))),
        ("stamp-of-content", "Stamp", with(&file, |row| late(&mut content(row).stamp))),
        ("stamp-of-attributes", "Stamp", with(&file, |row| late(&mut attributes(row).stamp))),
        ("unnumbered-stamp", "Unnumbered", with(&file, |row| content(row).stamp.replica = UNNUMBERED)),
        ("file-in-directory", "WrongClass", holding(&directory, &file)),
        ("link-in-directory", "WrongClass", holding(&directory, &link(b"x"))),
        ("directory-in-leaf", "WrongClass", holding(&file, &directory)),
        ("setting-in-leaf", "WrongClass", holding(&file, &unset)),
        ("replica-in-leaf", "WrongClass", holding(&file, &replica_row)),
        ("file-in-setting", "WrongClass", holding(&unset, &file)),
        ("replica-in-setting", "WrongClass", holding(&unset, &replica_row)),
        ("setting-in-replica", "WrongClass", holding(&replica_row, &unset)),
        ("setting-with-place", "WrongClass", with(&unset, |row| row.place.clone_from(&directory.place))),
        ("setting-with-attributes", "WrongClass", with(&unset, |row| row.meta.clone_from(&directory.meta))),
        ("replica-with-place", "WrongClass", with(&replica_row, |row| row.place.clone_from(&directory.place))),
        ("replica-with-attributes", "WrongClass", with(&replica_row, |row| row.meta.clone_from(&directory.meta))),
        ("mode", "Attributes", with(&file, |row| attributes(row).attributes.mode = mode)),
        ("nanoseconds", "Attributes", with(&file, |row| attributes(row).attributes.mtime = mtime)),
        ("mode-at-birth", "Attributes", with(&file, |row| content(row).born.mode = mode)),
        ("nanoseconds-at-birth", "Attributes", with(&file, |row| content(row).born.mtime = mtime)),
        ("empty-target", "BadTarget", link(b"")),
        ("target-zero", "BadTarget", link(b"a\0b")),
        ("target-too-long", "TooLong", link(&[b'x'; MAX_TARGET + 1])),
        ("setting-too-long", "TooLong", setting(None, Some(vec![7; MAX_SETTING + 1]))),
        ("key-too-long", "TooLong", with(&unset, |row| key(row, MAX_KEY + 1))),
        ("kind-too-long", "TooLong", with(&setting(None, Some(vec![7])), |row| kind(row, 256))),
        ("empty-device-name", "BadName", replica(HERE, "", None)),
        ("device-name-too-long", "TooLong", replica(HERE, &"x".repeat(MAX_DEVICE_NAME + 1), None)),
        ("too-many-versions", "TooLong", with(&file, |row| row.meta = versions(MAX_VERSIONS + 1))),
        ("too-many-replicas", "TooLong", with(&file, |row| row.ctx = ctx(MAX_REPLICAS + 1))),
        ("unnumbered-replica", "Unnumbered", replica(UNNUMBERED, "laptop", None)),
        ("unnumbered-former", "Unnumbered", replica(HERE, "laptop", Some(Dot { replica: UNNUMBERED, seq: 1 }))),
        ("own-former", "OwnFormer", replica(HERE, "laptop", Some(Dot { replica: HERE, seq: 1 }))),
    ]
}

/// Bytes that are no row.
fn undecodable() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    const CLASS: usize = 16;
    let bytes = codec::encode(&directory());
    let (here, there, dot) = ((HERE, 3), (THERE, 3), Dot { replica: HERE, seq: 1 });
    // A map is written as a list of pairs is, in whatever order.
    let spelled = |ctx: &[(ReplicaId, u64)], meta: &[(Dot, Meta)]| -> Vec<u8> {
        codec::encode(&(NodeId([7; 16]), Class::Leaf, ctx, 0u8, 0u8, meta))
    };
    let holding = |value: &[u8]| -> Vec<u8> {
        let row = Row::empty(NodeId([7; 16]), Class::Setting);
        let head = codec::encode(&(row.id, row.class, &[here][..], 0u8, 1u8, dot));
        [&head[..], value].concat()
    };
    let mut padded = bytes.clone();
    padded.splice(CLASS..=CLASS, [0x80, 0x00]);
    vec![
        ("nothing", "Malformed", Vec::new()),
        ("cut", "Malformed", cut(bytes.clone())),
        ("longer", "NotCanonical", longer(bytes.clone())),
        ("padded-class", "NotCanonical", padded),
        ("unknown-class", "Malformed", changed(bytes, CLASS, 4)),
        ("unknown-content", "Malformed", holding(&[5])),
        ("key-not-text", "Malformed", holding(&[3, 2, 0xc3, 0x28])),
        ("neither-some-nor-none", "Malformed", holding(&[3, 1, b'/', 2])),
        ("replica-twice", "Malformed", spelled(&[here, here], &[])),
        ("replicas-out-of-order", "Malformed", spelled(&[there, here], &[])),
        ("version-twice", "Malformed", spelled(&[here], &[(dot, meta()), (dot, meta())])),
        ("versions-out-of-order", "Malformed", spelled(&[here], &[(Dot { seq: 2, ..dot }, meta()), (dot, meta())])),
        ("endless-context", "Malformed", codec::encode(&(NodeId([7; 16]), Class::Leaf, u64::MAX))),
    ]
}

/// A directory in the home, made by one change.
pub(crate) fn directory() -> Row {
    made(NodeId([0xd1; 16]), Class::Dir, NodeId::ROOT, "Documents".as_bytes(), Value::Dir)
}

/// A file in that directory: made, edited and touched.
pub(crate) fn file() -> Row {
    let value = Value::File { hash: ContentHash([0x55; 32]), size: 123_456 };
    let mut row = made(NodeId([0xf1; 16]), Class::Leaf, directory().id, "büro.txt".as_bytes(), value);
    let (edit, touch) = (Dot { replica: HERE, seq: 2 }, Dot { replica: HERE, seq: 3 });
    let edited = Content {
        base: Some(ContentHash([0x44; 32])),
        depth: 1,
        stamp: stamp(HERE, 2),
        ..row.content.values().next().expect("one").clone()
    };
    let touched = Attributes {
        mode: 0o755,
        mtime: FileTime { secs: -1, nanos: 5 },
        xattrs: [(b"user.colour".to_vec(), b"red".to_vec())].into_iter().collect(),
        group: Some(NodeId([0x77; 16])),
    };
    row.ctx = context([(HERE, 3)]);
    row.content = [(edit, edited)].into_iter().collect();
    row.meta = [(touch, Meta { attributes: touched, stamp: stamp(HERE, 3) })].into_iter().collect();
    row
}

/// That file edited by two devices, neither of which had seen the other's edit.
pub(crate) fn two_versions() -> Row {
    with(&file(), |row| {
        let other = Content {
            value: Value::File { hash: ContentHash([0x56; 32]), size: 0 },
            stamp: stamp(THERE, 2),
            ..content(row).clone()
        };
        row.ctx = context([(HERE, 3), (THERE, 40)]);
        row.content.insert(Dot { replica: THERE, seq: 40 }, other);
    })
}

fn deleted(flag: Flag) -> Row {
    with(&file(), |row| {
        row.ctx = context([(HERE, 3), (THERE, 1)]);
        place(row).flag = flag;
        content(row).flag = flag;
    })
}

fn link(target: &[u8]) -> Row {
    made(NodeId([0xf2; 16]), Class::Leaf, NodeId::ROOT, b"link", Value::Link { target: target.to_vec() })
}

fn setting(device: Option<DeviceId>, bytes: Option<Vec<u8>>) -> Row {
    let value = bytes.map(|bytes| SettingValue { kind: "i".to_owned(), bytes });
    let key = "/org/gnome/desktop/interface/cursor-size".to_owned();
    alone(NodeId([0xe1; 16]), Class::Setting, Value::Setting { key, device, value })
}

/// A replica as it introduces itself.
pub(crate) fn replica(replica: ReplicaId, name: &str, former: Option<Dot>) -> Row {
    let value = Value::Replica { replica, device: DeviceId([0x33; 32]), name: name.to_owned(), former };
    alone(NodeId([0xe2; 16]), Class::Replica, value)
}

/// A row of content, place and attributes that one change made.
fn made(id: NodeId, class: Class, parent: NodeId, bytes: &[u8], value: Value) -> Row {
    let dot = Dot { replica: HERE, seq: 1 };
    let stamp = stamp(HERE, 1);
    let place = Place { parent, name: name(bytes), was: parent, stamp, flag: Flag::Live };
    Row {
        place: [(dot, place)].into_iter().collect(),
        meta: [(dot, meta())].into_iter().collect(),
        ..alone(id, class, value)
    }
}

/// A row of content alone that one change made.
fn alone(id: NodeId, class: Class, value: Value) -> Row {
    let dot = Dot { replica: HERE, seq: 1 };
    let born = meta().attributes;
    let wall_ms = 1_700_000_000_000;
    let content = Content { value, base: None, depth: 0, born, stamp: stamp(HERE, 1), wall_ms, flag: Flag::Live };
    let content = [(dot, content)].into_iter().collect();
    Row { ctx: context([(HERE, 1)]), content, ..Row::empty(id, class) }
}

fn meta() -> Meta {
    let mtime = FileTime { secs: 1_700_000_000, nanos: 999_999_999 };
    Meta { attributes: Attributes { mode: 0o644, mtime, ..Attributes::default() }, stamp: stamp(HERE, 1) }
}

fn stamp(replica: ReplicaId, counter: u64) -> Stamp {
    Stamp { hlc: 1_700_000_000_000 << 16 | counter, replica }
}

fn context(entries: impl IntoIterator<Item = (ReplicaId, u64)>) -> Context {
    entries.into_iter().collect()
}

/// A name of whatever bytes, as it may arrive.
fn name(bytes: &[u8]) -> Name {
    codec::decode(&codec::encode(&ByteBuf::from(bytes)), MAX_MESSAGE).expect("bytes")
}

fn with(row: &Row, change: impl FnOnce(&mut Row)) -> Row {
    let mut row = row.clone();
    change(&mut row);
    row
}

fn place(row: &mut Row) -> &mut Place {
    row.place.iter_mut().next().expect("a place").1
}

fn content(row: &mut Row) -> &mut Content {
    row.content.iter_mut().next().expect("a content").1
}

fn attributes(row: &mut Row) -> &mut Meta {
    row.meta.iter_mut().next().expect("attributes").1
}

fn key(row: &mut Row, len: usize) {
    let Value::Setting { key, .. } = &mut content(row).value else { panic!("not a setting") };
    *key = "k".repeat(len);
}

fn kind(row: &mut Row, len: usize) {
    let Value::Setting { value: Some(value), .. } = &mut content(row).value else { panic!("not a setting") };
    value.kind = "i".repeat(len);
}
