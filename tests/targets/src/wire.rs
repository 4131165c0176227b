//! What devices send each other: session messages with their rows, stream heads, packs, chunk lists, runs, the ready frame.

use hearth_schemas::item::{Row, UNNUMBERED};
use hearth_schemas::ready::{MAX_READY, Ready};
use hearth_schemas::wire::{
    Carrier, ChunkList, GroupList, MAX_MESSAGE, MAX_OFFERED, MAX_ROWS, MAX_WANTS, Message, OFFER_LIMIT, Pack, Run,
};
use syncd_core::chunk::{self, Check, Part};
use syncd_core::groups::{group_length, in_place};
use syncd_core::row;

use crate::decodes;

/// The first byte chooses the format.
pub fn run(bytes: &[u8]) {
    let Some((format, bytes)) = bytes.split_first() else { return };
    match format % 8 {
        0 | 1 => message(bytes),
        2 => drop(decodes::<Carrier>(bytes, MAX_MESSAGE)),
        3 => drop(decodes::<Pack>(bytes, MAX_MESSAGE)),
        4 => chunks(bytes),
        5 => runs(bytes),
        6 => {
            let decoded = decodes::<Ready>(bytes, MAX_READY);
            assert_eq!(Ready::decode(bytes).ok(), decoded);
        }
        _ => {
            if let Some(row) = decodes::<Row>(bytes, MAX_MESSAGE).filter(|row| row.check().is_ok()) {
                checked(&row);
            }
        }
    }
}

fn message(bytes: &[u8]) {
    let decoded = decodes::<Message>(bytes, MAX_MESSAGE);
    let Ok(message) = Message::decode(bytes) else { return };
    assert_eq!(decoded.as_ref(), Some(&message));
    match message {
        Message::Rows { rows, known, .. } => {
            assert!(rows.len() <= MAX_ROWS && known.is_none_or(|known| !known.contains_key(&UNNUMBERED)));
            rows.iter().for_each(checked);
        }
        Message::Get { wants: list } | Message::Missing { hashes: list } => assert!(list.len() <= MAX_WANTS),
        Message::Hello { replica, .. } => assert_ne!(replica, UNNUMBERED),
        Message::Offer { contents } => {
            assert!(contents.len() <= MAX_OFFERED && contents.iter().all(|(_, bytes)| bytes.len() <= OFFER_LIMIT));
        }
        Message::State { .. } | Message::Flush { .. } => {}
    }
}

/// A row that was let in can be joined, shown and counted.
fn checked(row: &Row) {
    assert_eq!(row::join(row, row), *row);
    assert_eq!(row::join(row, &Row::empty(row.id, row.class)), *row);
    assert!(!row::contradicts(row, row));
    let groups = row::content_groups(row);
    assert_eq!(groups.is_empty(), row.content.is_empty());
    let shown = row::winner(&row.content).map(|(dot, _)| dot);
    assert_eq!(groups.first().map(|(dots, _)| dots[0]), shown, "what wins is not what is shown first");
    let _ = (row::digest(row), row::all_flagged(row), syncd_core::view::attributes(row));
}

/// A content is put together from two group lists without a gap.
fn groups(bytes: &[u8]) {
    let Some(GroupList { groups }) = decodes::<GroupList>(bytes, MAX_MESSAGE) else { return };
    let (wanted, older) = groups.split_at(groups.len() / 2);
    let length = (wanted.len() as u64 * group_length(0)).saturating_sub(u64::from(!older.is_empty()));
    let Some(parts) = in_place(length, wanted, older) else { return };
    let end = parts.iter().fold(0, |end, part| {
        let (Part::Older { to, len, .. } | Part::Missing { to, len }) = part;
        assert!(*to == end && !matches!(part, Part::Older { from, .. } if from != to), "not in place");
        end + len
    });
    assert_eq!(end, length, "the parts are not the whole");
}

/// A content is put together from two chunk lists without a gap.
fn chunks(bytes: &[u8]) {
    groups(bytes);
    let half = bytes.len() / 2;
    let lists = [&bytes[..half], &bytes[half..]].map(|bytes| decodes::<ChunkList>(bytes, MAX_MESSAGE));
    let whole = decodes::<ChunkList>(bytes, MAX_MESSAGE);
    let [wanted, older] = lists;
    let pair = match (wanted, older, whole) {
        (Some(wanted), Some(older), _) => (wanted, older),
        (_, _, Some(whole)) => (whole.clone(), whole),
        _ => return,
    };
    let length: u64 = pair.0.chunks.iter().map(|(len, _)| u64::from(*len)).sum();
    let parts = chunk::assemble(&pair.0, &pair.1);
    let end = parts.iter().fold(0, |end, part| {
        let (Part::Older { to, len, .. } | Part::Missing { to, len }) = part;
        assert_eq!(*to, end, "a gap between two parts");
        end + len
    });
    assert_eq!(end, length, "the parts are not the whole");
    let older: u64 = pair.1.chunks.iter().map(|(len, _)| u64::from(*len)).sum();
    for (at, part) in parts.iter().enumerate() {
        let beside = chunk::beside(&parts, at, older);
        assert!(beside.iter().all(|(from, len)| *len > 0 && from + len <= older), "{beside:?} of {older}");
        assert!(beside.is_empty() || matches!(part, Part::Missing { .. }));
    }
    let mut check = Check::new(pair.0, &[3; 32], length / 3);
    check.skip(length - length / 3);
    assert!(check.finish().iter().all(|(from, len)| from + len <= length));
}

fn runs(bytes: &[u8]) {
    for words in bytes.as_chunks::<{ 2 * Run::BYTES }>().0 {
        let (first, second) = words.split_first_chunk().expect("two words");
        let second = if Run::is_long(*first) { second.try_into().expect("a word") } else { [0; Run::BYTES] };
        if let Some(run) = Run::decode(*first, second) {
            assert!(run.len() > 0 && run.len() < 1 << 62);
            let used = if Run::is_long(*first) { 2 * Run::BYTES } else { Run::BYTES };
            assert_eq!(run.encode(), words[..used]);
        }
    }
}
