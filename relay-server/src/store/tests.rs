//! The store keeps what verifies, gives it back, and gives nobody another's.

use super::*;
use crate::household::{BLOB, Household};
use hearth_schemas::relay::Request;

#[test]
fn an_account_outlives_the_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = Household::new(1, 2);
    {
        let mut store = open(dir.path(), Admission::Open);
        assert_eq!(create(&mut store, &home, None), Ok(()));
    }
    let mut store = open(dir.path(), Admission::Closed);
    let account = store.account(home.id()).expect("readable").expect("there");
    assert_eq!(*account, home.account);
    let blob = store.blob(home.id(), *blake3::hash(BLOB).as_bytes()).expect("readable");
    assert_eq!(blob, Reply::Blob { bytes: BLOB.to_vec() });
    assert_eq!(create(&mut store, &home, None), Ok(()), "a creation whose reply was lost is asked for again");
}

#[test]
fn an_append_must_continue_the_very_head() {
    let mut store = in_memory(Admission::Open);
    let mut home = Household::new(1, 2);
    assert_eq!(create(&mut store, &home, None), Ok(()));
    let first = home.revoke(1);
    assert_eq!(append(&mut store, &home, first.clone()), Ok(home.head()));
    assert_eq!(append(&mut store, &home, first), Err(Refusal::BadLog), "the head has moved on");
    let mut damaged = home.epoch(2, b"set");
    damaged[9] ^= 1;
    let request = Request::Append { after: home.head(), entries: vec![damaged], blobs: Vec::new() };
    assert_eq!(append(&mut store, &home, request), Err(Refusal::BadLog));
    assert_eq!(store.account(home.id()).expect("readable").expect("there").head, home.head());
}

#[test]
fn only_blobs_that_the_log_names_are_taken() {
    let mut store = in_memory(Admission::Open);
    let home = Household::new(1, 1);
    let entries = home.account.entries();
    let refused = store.create(entries, &[b"something else".to_vec()], None).expect("readable");
    assert_eq!(refused, Err(Refusal::BadLog));
    assert_eq!(store.create(entries, &[vec![0; MAX_BLOB + 1]], None).expect("readable"), Err(Refusal::Limit));
    assert!(store.account(home.id()).expect("readable").is_none(), "nothing was left behind");
}

#[test]
fn a_blob_that_was_lost_is_given_back_without_an_entry() {
    let mut store = in_memory(Admission::Open);
    let home = Household::new(1, 1);
    assert_eq!(store.create(home.account.entries(), &[], None).expect("readable"), Ok(()));
    let give = |store: &mut Store, blobs: Vec<Vec<u8>>| {
        append(store, &home, Request::Append { after: home.head(), entries: Vec::new(), blobs })
    };
    assert_eq!(give(&mut store, Vec::new()), Err(Refusal::BadLog));
    assert_eq!(give(&mut store, vec![b"something else".to_vec()]), Err(Refusal::BadLog));
    assert_eq!(give(&mut store, vec![BLOB.to_vec()]), Ok(home.head()));
    let blob = store.blob(home.id(), *blake3::hash(BLOB).as_bytes()).expect("readable");
    assert_eq!(blob, Reply::Blob { bytes: BLOB.to_vec() });
}

#[test]
fn a_blob_is_found_by_its_own_account_only() {
    let mut store = in_memory(Admission::Open);
    let (home, other) = (Household::new(1, 1), Household::new(2, 1));
    assert_eq!(create(&mut store, &home, None), Ok(()));
    let blob = store.blob(other.id(), *blake3::hash(BLOB).as_bytes()).expect("readable");
    assert_eq!(blob, Reply::Refused(Refusal::NotFound));
}

#[test]
fn an_account_has_a_bounded_number_of_devices_and_bytes() {
    let limits = Limits { devices: 2, blob_bytes: 100, ..Limits::default() };
    let mut store = Store::open(Path::new(":memory:"), Admission::Open, limits).expect("opened");
    assert_eq!(create(&mut store, &Household::new(1, 3), None), Err(Refusal::Limit));
    let mut home = Household::new(2, 2);
    assert_eq!(create(&mut store, &home, None), Ok(()));
    let set = [3; 90];
    let (after, entry) = (home.head(), home.epoch(2, &set));
    let request = Request::Append { after, entries: vec![entry], blobs: vec![set.to_vec()] };
    assert_eq!(append(&mut store, &home, request), Err(Refusal::Limit));
    let last = home.epoch(2, &set);
    let request = home.append(last);
    assert_eq!(append(&mut store, &home, request), Ok(home.head()), "the entry alone is within the limit");
}

#[test]
fn an_invitation_is_good_for_one_account() {
    let mut store = in_memory(Admission::Invite);
    store.invite("abc").expect("made");
    assert_eq!(create(&mut store, &Household::new(1, 1), None), Err(Refusal::NotAdmitted));
    assert_eq!(create(&mut store, &Household::new(1, 1), Some("abd")), Err(Refusal::NotAdmitted));
    assert_eq!(create(&mut store, &Household::new(1, 1), Some("abc\n")), Ok(()));
    assert_eq!(create(&mut store, &Household::new(2, 1), Some("abc")), Err(Refusal::NotAdmitted));
}

#[test]
fn a_closed_relay_takes_nobody() {
    let mut store = in_memory(Admission::Closed);
    assert_eq!(create(&mut store, &Household::new(1, 1), None), Err(Refusal::NotAdmitted));
}

#[test]
fn what_is_no_log_is_no_account() {
    let mut store = in_memory(Admission::Open);
    let entries = Household::new(1, 1).account.entries().to_vec();
    for bad in [vec![], vec![vec![]], vec![vec![7; 300]], entries[1..].to_vec()] {
        assert_eq!(store.create(&bad, &[], None).expect("readable"), Err(Refusal::BadLog));
    }
}

#[test]
fn a_log_comes_in_pages() {
    let mut store = in_memory(Admission::Open);
    let home = Household::new(1, 2);
    assert_eq!(create(&mut store, &home, None), Ok(()));
    let entries = |store: &mut Store, from| match store.log(home.id(), from).expect("readable") {
        Reply::Log { entries, head } if head == home.head() => entries,
        other => panic!("not a log: {other:?}"),
    };
    assert_eq!(entries(&mut store, 1), home.account.entries()[1..]);
    assert!(entries(&mut store, u64::MAX).is_empty());
}

#[test]
fn what_is_at_hand_is_bounded() {
    let mut store = in_memory(Admission::Open);
    store.entries_at_hand = AT_HAND;
    let home = Household::new(1, 2);
    assert_eq!(create(&mut store, &home, None), Ok(()));
    assert!(store.at_hand.is_empty());
    assert!(store.account(home.id()).expect("readable").is_some());
}

#[test]
fn a_port_is_remembered_for_its_listen_address() {
    let store = in_memory(Admission::Open);
    assert_eq!(store.port("[::1]:0").expect("readable"), None);
    store.remember_port("[::1]:0", 65_535).expect("written");
    assert_eq!(store.port("[::1]:0").expect("readable"), Some(65_535));
    assert_eq!(store.port("127.0.0.1:0").expect("readable"), None);
}

#[test]
fn last_seen_is_one_row_a_device() {
    let store = in_memory(Admission::Open);
    for hour in [5, 5, 6] {
        store.seen(AccountId([1; 32]), Slot(2), hour).expect("written");
    }
    let row: (i64, i64) =
        store.db.query_row("SELECT count(*), max(hour) FROM seen", [], |row| row.try_into()).expect("one row");
    assert_eq!(row, (1, 6));
}

fn create(store: &mut Store, home: &Household, invite: Option<&str>) -> Result<(), Refusal> {
    store.create(home.account.entries(), &[BLOB.to_vec()], invite).expect("a working database")
}

fn append(store: &mut Store, home: &Household, request: Request) -> Result<Head, Refusal> {
    let Request::Append { after, entries, blobs } = request else { panic!("not an append") };
    let appended = store.append(home.id(), after, &entries, &blobs).expect("a working database");
    appended.map(|account| account.head)
}

fn in_memory(admission: Admission) -> Store {
    open(Path::new(""), admission)
}

/// Opens the database in a directory, or in memory where none is named.
fn open(dir: &Path, admission: Admission) -> Store {
    let path = if dir.as_os_str().is_empty() { ":memory:".into() } else { dir.join("relay.sqlite") };
    Store::open(&path, admission, Limits::default()).expect("opened")
}
