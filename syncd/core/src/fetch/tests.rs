use super::*;

const NODE: NodeId = NodeId([1; 16]);
const ONE: ContentHash = ContentHash([1; 32]);
const OTHER: ContentHash = ContentHash([2; 32]);

#[test]
fn a_node_that_waits_for_two_contents_waits_for_the_second_when_the_first_has_come() {
    let mut fetch = Fetch::default();
    fetch.want(ONE, 3, NODE, None);
    fetch.want(OTHER, 3, NODE, None);
    assert_eq!(fetch.arrived(ONE, Source::Bytes(b"one".to_vec())), BTreeSet::from([NODE]));
    assert!(fetch.awaits(&NODE));
    fetch.forget(NODE);
    assert!(!fetch.awaits(&NODE) && !fetch.wants(&OTHER) && fetch.is_idle());
}

#[test]
fn a_content_that_another_node_waits_for_is_wanted_on() {
    let mut fetch = Fetch::default();
    fetch.want(ONE, 3, NODE, None);
    fetch.want(ONE, 3, NodeId([2; 16]), None);
    fetch.forget(NODE);
    assert!(fetch.wants(&ONE) && !fetch.awaits(&NODE));
    assert_eq!(fetch.give_up(&ONE), BTreeSet::from([NodeId([2; 16])]));
    assert_eq!(fetch.waiting_nodes().count(), 0);
}

#[test]
fn what_has_an_older_version_here_is_asked_for_as_an_edit_of_it() {
    let (mut fetch, peer) = (Fetch::default(), Slot(2));
    fetch.want(ONE, 9000, NODE, Some(b"one.txt".to_vec()));
    fetch.want(OTHER, 9000, NodeId([2; 16]), None);
    let edit = Edit { hash: ONE, size: 9000, older: b"one.txt".to_vec() };
    assert_eq!(fetch.ask(&[peer], 0), [Ask::Packs(peer, vec![OTHER]), Ask::Edits(peer, vec![edit])]);
    assert!(fetch.is_asked(&ONE) && fetch.ask(&[peer], 0).is_empty());
}
