//! `wire.txt`: messages, the heads of streams, packs and chunk lists, as devices say them to each other.

use std::collections::BTreeSet;

use hearth_schemas::codec;
use hearth_schemas::ids::{ContentHash, NodeId, ReplicaId, RunId};
use hearth_schemas::item::{Class, Dot, MAX_REPLICAS, Row, UNNUMBERED};
use hearth_schemas::wire::{
    BLOCK_SIZES, Carrier, ChunkList, Compare, Cursor, GroupList, Known, KnownMap, MAX_BLOCKS, MAX_MESSAGE, MAX_OFFERED,
    MAX_PACKED, MAX_ROWS, MAX_WANTS, Message, OFFER_LIMIT, Pack, Run, Signature, Wanted, WireError,
};
use serde_bytes::ByteBuf;

use crate::file::{Case, again, cases, changed, cut, lines, longer, read_case, reason, same_as_file};
use crate::item::{directory, file, replica, two_versions};

const HERE: ReplicaId = ReplicaId(0x0123_4567_89ab_cdef);
const THERE: ReplicaId = ReplicaId(0xfedc_ba98_7654_3210);
const HASH: ContentHash = ContentHash([0x55; 32]);

#[test]
fn messages_are_written_as_ever() {
    same_as_file("wire.txt", &wire_vectors());
}

#[test]
fn messages_have_the_outcome_that_is_written() {
    let outcomes: BTreeSet<String> = lines("wire.txt").iter().map(|line| read_case(line, read)).collect();
    let wanted = ["good", "Malformed", "NotCanonical", "TooLong", "Limit", "Row:Root", "Row:BadName"];
    assert_eq!(outcomes, wanted.map(str::to_owned).into());
}

fn read(format: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
    match format {
        "message" => checked(Message::decode(bytes).map(|message| codec::encode(&message))),
        "carrier" => again(codec::decode::<Carrier>(bytes, MAX_MESSAGE)),
        "pack" => again(codec::decode::<Pack>(bytes, MAX_MESSAGE)),
        "run" => {
            let (first, second) = bytes.split_first_chunk::<{ Run::BYTES }>().ok_or("Malformed")?;
            let second = match Run::is_long(*first) {
                true => second.try_into().map_err(|_| "Malformed")?,
                false if second.is_empty() => [0; Run::BYTES],
                false => return Err("Malformed".to_owned()),
            };
            Ok(Run::decode(*first, second).ok_or("Malformed")?.encode())
        }
        "wanted" => checked(Wanted::decode(bytes).map(|wanted| codec::encode(&wanted))),
        "compare" => checked(Compare::decode(bytes).map(|compare| codec::encode(&compare))),
        "chunks" => again(codec::decode::<ChunkList>(bytes, MAX_MESSAGE)),
        "groups" => again(codec::decode::<GroupList>(bytes, MAX_MESSAGE)),
        other => panic!("unknown format {other}"),
    }
}

fn checked(decoded: Result<Vec<u8>, WireError>) -> Result<Vec<u8>, String> {
    decoded.map_err(|error| match error {
        WireError::Decode(error) => reason(error).to_owned(),
        WireError::Row(error) => format!("Row:{error:?}"),
        WireError::Limit => "Limit".to_owned(),
    })
}

fn wire_vectors() -> String {
    let comment =
        "message|carrier|pack|chunks|wanted|compare|run NAME OUTCOME BYTES…   outcome: good, or why it is refused";
    let all: Vec<Case> =
        [messages(), refused_messages(), carriers(), contents(), differences(), runs()].into_iter().flatten().collect();
    cases(comment, &all)
}

fn messages() -> Vec<Case> {
    let good = |name, message: &Message| Case::good("message", name, message);
    let cursor = Some(Cursor { run: RunId(0x99), seq: 17 });
    let empty = |count| vec![Row::empty(NodeId([7; 16]), Class::Leaf); count];
    vec![
        good("hello", &hello(HERE, known(), cursor)),
        good("hello-of-strangers", &hello(HERE, KnownMap::new(), None)),
        good("rows", &rows(vec![directory(), file(), two_versions()], Some(known()))),
        good("rows-with-more-to-come", &Message::Rows { rows: vec![file()], upto: 300, end: false, known: None }),
        good("rows-none", &rows(Vec::new(), Some(KnownMap::new()))),
        good("rows-replica", &rows(vec![replica(HERE, "laptop", Some(Dot { replica: THERE, seq: 300 }))], None)),
        good("rows-as-many-as-may-be", &rows(empty(MAX_ROWS), None)),
        good("state", &state(known())),
        good("state-stuck", &Message::State { known: known(), digest: 0, clean: false, stuck: true, flushed: 1 }),
        good("flush", &Message::Flush { token: u64::MAX }),
        good("get", &Message::Get { wants: vec![HASH, ContentHash([0x56; 32])] }),
        good("get-as-many-as-may-be", &Message::Get { wants: vec![HASH; MAX_WANTS] }),
        good("missing", &Message::Missing { hashes: vec![HASH] }),
        good("missing-none", &Message::Missing { hashes: Vec::new() }),
        good("offer", &offer(&[&b"a save"[..], b""])),
        good("offer-none", &offer(&[])),
        good("offer-as-much-as-may-be", &offer(&[&[7; OFFER_LIMIT][..]; MAX_OFFERED])),
    ]
}

fn offer(contents: &[&[u8]]) -> Message {
    Message::Offer { contents: contents.iter().map(|bytes| (HASH, ByteBuf::from(bytes.to_vec()))).collect() }
}

fn refused_messages() -> Vec<Case> {
    let bad = |name, why, bytes: Vec<u8>| Case::bad("message", name, why, bytes);
    let over = |name, message: &Message| bad(name, "Limit", codec::encode(message));
    let unnumbered = || KnownMap::from([(UNNUMBERED, Known::default())]);
    let many = (1..=MAX_REPLICAS as u64 + 1).map(|replica| (ReplicaId(replica), Known::default())).collect();
    let empty = Row::empty(NodeId([7; 16]), Class::Leaf);
    let root = Row { id: NodeId::ROOT, ..directory() };
    let flush = codec::encode(&Message::Flush { token: 5 });
    let state = codec::encode(&state(KnownMap::new()));
    let clean = state.len() - 3;
    let (first, second) = ((HERE, Known::default()), (THERE, Known::default()));
    // A map is written as a list of pairs is, in whatever order.
    let spelled = |known: &[(ReplicaId, Known)]| codec::encode(&(2u8, known, 0u64, true, false, 0u64));
    vec![
        over("hello-unnumbered", &hello(UNNUMBERED, KnownMap::new(), None)),
        over("hello-of-unnumbered", &hello(HERE, unnumbered(), None)),
        over("rows-too-many", &rows(vec![empty; MAX_ROWS + 1], None)),
        over("rows-of-unnumbered", &rows(Vec::new(), Some(unnumbered()))),
        over(
            "state-of-unnumbered",
            &Message::State { known: unnumbered(), digest: 0, clean: true, stuck: false, flushed: 0 },
        ),
        over("state-of-too-many", &Message::State { known: many, digest: 0, clean: true, stuck: false, flushed: 0 }),
        over("get-too-many", &Message::Get { wants: vec![HASH; MAX_WANTS + 1] }),
        over("offer-too-many", &offer(&[&b""[..]; MAX_OFFERED + 1])),
        over("offer-too-long", &offer(&[&[7; OFFER_LIMIT + 1]])),
        over("missing-too-many", &Message::Missing { hashes: vec![HASH; MAX_WANTS + 1] }),
        bad("rows-with-root", "Row:Root", codec::encode(&rows(vec![file(), root], None))),
        bad("rows-with-bad-name", "Row:BadName", codec::encode(&rows(vec![replica(HERE, "", None)], None))),
        bad("nothing", "Malformed", Vec::new()),
        bad("cut", "Malformed", cut(flush.clone())),
        bad("longer", "NotCanonical", longer(flush.clone())),
        bad("padded-token", "NotCanonical", vec![3, 0x85, 0x00]),
        bad("token-over-64-bits", "Malformed", [&[3][..], &[0xff; 9], &[0x02]].concat()),
        bad("unknown-kind", "Malformed", changed(flush, 0, 7)),
        bad("neither-true-nor-false", "Malformed", changed(state, clean, 2)),
        bad("replica-twice", "NotCanonical", spelled(&[first, first])),
        bad("replicas-out-of-order", "NotCanonical", spelled(&[second, first])),
        bad("endless-rows", "Malformed", codec::encode(&(1u8, u64::MAX))),
        bad("endless-wants", "Malformed", codec::encode(&(4u8, u64::MAX))),
        bad("too-long", "TooLong", vec![0; MAX_MESSAGE + 1]),
    ]
}

fn carriers() -> Vec<Case> {
    let good = |name, carrier: &Carrier| Case::good("carrier", name, carrier);
    let bad = |name, why, bytes: Vec<u8>| Case::bad("carrier", name, why, bytes);
    let chunks = codec::encode(&Carrier::Chunks { hash: HASH, length: 1 << 28 });
    vec![
        good("control", &Carrier::Control),
        good("packs", &Carrier::Packs),
        good("chunks", &Carrier::Chunks { hash: HASH, length: 1 << 28 }),
        good("ranges", &Carrier::Ranges { hash: HASH }),
        good("edits", &Carrier::Edits),
        good("groups", &Carrier::Groups { hash: HASH, length: 1 << 28 }),
        bad("nothing", "Malformed", Vec::new()),
        bad("cut", "Malformed", cut(chunks.clone())),
        bad("longer", "NotCanonical", longer(chunks)),
        bad("unknown-kind", "Malformed", vec![6]),
        bad("padded-kind", "NotCanonical", vec![0x80, 0x00]),
    ]
}

fn contents() -> Vec<Case> {
    let contents = vec![(HASH, ByteBuf::from(*b"hello")), (ContentHash([0x56; 32]), ByteBuf::new())];
    let pack = Pack { contents };
    let list = ChunkList { chunks: vec![(131_072, [0x55; 8]), (1, [0x56; 8])] };
    let groups = GroupList { groups: vec![[0x55; 8], [0x56; 8]] };
    let bytes = codec::encode(&pack);
    let bad = |name, why, bytes: Vec<u8>| Case::bad("pack", name, why, bytes);
    let bad_list = |name, why, bytes: Vec<u8>| Case::bad("chunks", name, why, bytes);
    vec![
        Case::good("pack", "two", &pack),
        Case::good("pack", "none", &Pack { contents: Vec::new() }),
        bad("cut", "Malformed", cut(bytes.clone())),
        bad("longer", "NotCanonical", longer(bytes)),
        bad("endless", "Malformed", codec::encode(&u64::MAX)),
        bad("endless-content", "Malformed", codec::encode(&(1u8, HASH, u64::MAX))),
        Case::good("chunks", "two", &list),
        Case::good("chunks", "none", &ChunkList { chunks: Vec::new() }),
        bad_list("cut", "Malformed", cut(codec::encode(&list))),
        bad_list("longer", "NotCanonical", longer(codec::encode(&list))),
        bad_list("length-over-32-bits", "Malformed", codec::encode(&(1u8, 1u64 << 32, HASH))),
        bad_list("endless", "Malformed", codec::encode(&u64::MAX)),
        Case::good("groups", "two", &groups),
        Case::good("groups", "none", &GroupList { groups: Vec::new() }),
        Case::bad("groups", "cut", "Malformed", cut(codec::encode(&groups))),
        Case::bad("groups", "longer", "NotCanonical", longer(codec::encode(&groups))),
        Case::bad("groups", "endless", "Malformed", codec::encode(&u64::MAX)),
    ]
}

fn differences() -> Vec<Case> {
    let signature = |block, count| Signature { block, blocks: vec![[1, 2, 3, 4, 5, 6, 7, 8]; count] };
    let wanted = |name, wanted: &Wanted| Case::good("wanted", name, wanted);
    let refused = |name, wanted: &Wanted| Case::bad("wanted", name, "Limit", codec::encode(wanted));
    let part = |offset, length, older| Wanted { offset, length, older };
    let one = part(1 << 20, 300_000, Some(signature(1536, 2)));
    let many = |count| Compare { contents: vec![(HASH, signature(BLOCK_SIZES.0, 0)); count] };
    let compare = Compare { contents: vec![(HASH, signature(768, 3)), (ContentHash([0x56; 32]), signature(270, 0))] };
    vec![
        wanted("plain", &part(0, 1 << 40, None)),
        wanted("compared", &one),
        wanted("as-far-as-may-be", &part(u64::MAX - 1, 1, Some(signature(BLOCK_SIZES.1, MAX_BLOCKS)))),
        refused("nothing", &part(5, 0, None)),
        refused("beyond-64-bits", &part(u64::MAX, 2, None)),
        refused("blocks-too-short", &part(0, 1, Some(signature(BLOCK_SIZES.0 - 1, 1)))),
        refused("blocks-too-long", &part(0, 1, Some(signature(BLOCK_SIZES.1 + 1, 1)))),
        refused("blocks-too-many", &part(0, 1, Some(signature(BLOCK_SIZES.0, MAX_BLOCKS + 1)))),
        Case::bad("wanted", "cut", "Malformed", cut(codec::encode(&one))),
        Case::bad("wanted", "longer", "NotCanonical", longer(codec::encode(&one))),
        Case::bad("wanted", "endless-blocks", "Malformed", codec::encode(&(0u64, 1u64, true, 768u32, u64::MAX))),
        Case::good("compare", "two", &compare),
        Case::good("compare", "none", &many(0)),
        Case::good("compare", "as-many-as-may-be", &many(MAX_WANTS)),
        Case::bad("compare", "too-many", "Limit", codec::encode(&many(MAX_WANTS + 1))),
        Case::bad(
            "compare",
            "blocks-of-nothing",
            "Limit",
            codec::encode(&Compare { contents: vec![(HASH, Signature::default())] }),
        ),
        Case::bad("compare", "cut", "Malformed", cut(codec::encode(&compare))),
        Case::bad("compare", "endless", "Malformed", codec::encode(&u64::MAX)),
    ]
}

fn runs() -> Vec<Case> {
    let encoded = |name, run: Run| Case::bytes("run", name, run.encode());
    let bad = |name, words: &[u64]| {
        Case::bad("run", name, "Malformed", words.iter().flat_map(|word| word.to_le_bytes()).collect())
    };
    let packed = |len: u64, packed: u64| [len << 2 | 2, packed];
    vec![
        encoded("data", Run::Data(4096)),
        encoded("zeros", Run::Zeros(20 << 30)),
        encoded("longest", Run::Zeros((1 << 62) - 1)),
        encoded("packed", Run::Packed { len: MAX_PACKED, packed: MAX_PACKED - 1 }),
        encoded("older", Run::Older { from: 1 << 33, len: 8192 }),
        bad("of-no-bytes", &[1]),
        bad("packed-into-more", &packed(500, 500)),
        bad("packed-into-nothing", &packed(500, 0)),
        bad("packed-too-long", &packed(MAX_PACKED + 1, 5)),
        bad("older-beyond-64-bits", &[4 << 2 | 3, u64::MAX - 3]),
        bad("without-its-second-word", &[4 << 2 | 3]),
        bad("with-a-second-word-too-many", &[4 << 2, 0]),
        Case::bad("run", "cut", "Malformed", vec![4, 0, 0, 0, 0, 0, 0]),
    ]
}

fn hello(replica: ReplicaId, yours: KnownMap, cursor: Option<Cursor>) -> Message {
    Message::Hello { replica, run: RunId(0x88), yours, cursor }
}

fn rows(rows: Vec<Row>, known: Option<KnownMap>) -> Message {
    Message::Rows { rows, upto: 300, end: true, known }
}

fn state(known: KnownMap) -> Message {
    Message::State { known, digest: u64::MAX, clean: true, stuck: false, flushed: 0 }
}

fn known() -> KnownMap {
    KnownMap::from([(HERE, Known { seq: 3, nonce: 0x1234_5678 }), (THERE, Known { seq: 40, nonce: u64::MAX })])
}
