//! `wire.txt`: messages, the heads of streams, packs and chunk lists, as devices say them to each other.

use std::collections::BTreeSet;

use hearth_schemas::codec;
use hearth_schemas::ids::{ContentHash, NodeId, ReplicaId, RunId};
use hearth_schemas::item::{Class, Dot, MAX_REPLICAS, Row, UNNUMBERED};
use hearth_schemas::wire::{
    Carrier, ChunkList, Cursor, Known, KnownMap, MAX_MESSAGE, MAX_ROWS, MAX_WANTS, Message, Pack, Run, WireError,
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
        "message" => match Message::decode(bytes) {
            Ok(message) => Ok(codec::encode(&message)),
            Err(WireError::Decode(error)) => Err(reason(error).to_owned()),
            Err(WireError::Row(error)) => Err(format!("Row:{error:?}")),
            Err(WireError::Limit) => Err("Limit".to_owned()),
        },
        "carrier" => again(codec::decode::<Carrier>(bytes, MAX_MESSAGE)),
        "pack" => again(codec::decode::<Pack>(bytes, MAX_MESSAGE)),
        "run" => {
            let run = bytes.try_into().ok().and_then(Run::decode).ok_or("Malformed")?;
            Ok(run.encode().to_vec())
        }
        "chunks" => again(codec::decode::<ChunkList>(bytes, MAX_MESSAGE)),
        other => panic!("unknown format {other}"),
    }
}

fn wire_vectors() -> String {
    let comment = "message|carrier|pack|chunks|run NAME OUTCOME BYTES…   outcome: good, or why it is refused";
    let all: Vec<Case> =
        [messages(), refused_messages(), carriers(), contents(), runs()].into_iter().flatten().collect();
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
    ]
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
        over("missing-too-many", &Message::Missing { hashes: vec![HASH; MAX_WANTS + 1] }),
        bad("rows-with-root", "Row:Root", codec::encode(&rows(vec![file(), root], None))),
        bad("rows-with-bad-name", "Row:BadName", codec::encode(&rows(vec![replica(HERE, "", None)], None))),
        bad("nothing", "Malformed", Vec::new()),
        bad("cut", "Malformed", cut(flush.clone())),
        bad("longer", "NotCanonical", longer(flush.clone())),
        bad("padded-token", "NotCanonical", vec![3, 0x85, 0x00]),
        bad("token-over-64-bits", "Malformed", [&[3][..], &[0xff; 9], &[0x02]].concat()),
        bad("unknown-kind", "Malformed", changed(flush, 0, 6)),
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
    let chunks = codec::encode(&Carrier::Chunks { hash: HASH });
    vec![
        good("control", &Carrier::Control),
        good("packs", &Carrier::Packs),
        good("chunks", &Carrier::Chunks { hash: HASH }),
        good("ranges", &Carrier::Ranges { hash: HASH, ranges: vec![(0, 1 << 20), (u64::MAX, 1)] }),
        good("ranges-none", &Carrier::Ranges { hash: HASH, ranges: Vec::new() }),
        bad("nothing", "Malformed", Vec::new()),
        bad("cut", "Malformed", cut(chunks.clone())),
        bad("longer", "NotCanonical", longer(chunks)),
        bad("unknown-kind", "Malformed", vec![4]),
        bad("padded-kind", "NotCanonical", vec![0x80, 0x00]),
        bad("endless-ranges", "Malformed", codec::encode(&(3u8, HASH, u64::MAX))),
    ]
}

fn contents() -> Vec<Case> {
    let contents = vec![(HASH, ByteBuf::from(*b"hello")), (ContentHash([0x56; 32]), ByteBuf::new())];
    let pack = Pack { contents };
    let list = ChunkList { chunks: vec![(131_072, HASH), (1, ContentHash([0x56; 32]))] };
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
    ]
}

fn runs() -> Vec<Case> {
    let encoded = |name, run: Run| Case::bytes("run", name, run.encode().to_vec());
    vec![
        encoded("data", Run::Data(4096)),
        encoded("zeros", Run::Zeros(20 << 30)),
        encoded("longest", Run::Zeros((1 << 63) - 1)),
        Case::bad("run", "of-no-bytes", "Malformed", vec![1, 0, 0, 0, 0, 0, 0, 0]),
        Case::bad("run", "cut", "Malformed", vec![2, 0, 0, 0, 0, 0, 0]),
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
