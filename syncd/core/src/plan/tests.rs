//! Random trees, changed at random, planned and carried out on a model: as Dropbox's CanopyCheck does it.

use std::collections::{BTreeMap, BTreeSet};

use hearth_schemas::ids::ReplicaId;
use hearth_schemas::item::{Attributes, FileTime, Value};
use proptest::prelude::*;

use super::*;
use crate::disk::{Handle, Kind, Raised, Stat};
use crate::store::{Dots, Member};

/// What stands where: for each entry its class, directory, name and content.
type Tree = BTreeMap<u8, Entry>;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    dir: bool,
    parent: u8,
    name: String,
    content: u8,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_plan_leads_to_the_tree_that_was_wanted_from_any_step_on(before in trees(), after in trees(), stop in 0usize..40) {
        let after = same_classes(&before, after);
        let steps = planned(&before, &after);
        prop_assert!(steps.len() <= 3 * (before.len() + after.len()), "{} steps", steps.len());
        let mut model = before.clone();
        for step in steps.iter().take(stop) {
            carry_out(&mut model, step);
        }
        // A crash: what was done is the base of the next plan.
        let rest = planned(&model, &after);
        for step in &rest {
            carry_out(&mut model, step);
        }
        prop_assert_eq!(&model, &after);
        prop_assert!(planned(&model, &after).is_empty());
    }
}

/// Trees of up to twelve entries below the root, which is entry 0.
fn trees() -> impl Strategy<Value = Tree> {
    proptest::collection::vec((1u8..13, any::<bool>(), 0u8..13, 0u8..5, 0u8..3), 0..12).prop_map(|throws| {
        let mut tree = Tree::new();
        for (id, dir, parent, name, content) in throws {
            let entry = Entry { dir, parent, name: format!("n{name}"), content: if dir { 0 } else { content } };
            let parent_stands = parent == 0 || tree.get(&parent).is_some_and(|parent| parent.dir);
            let free = tree.values().all(|other| (other.parent, &other.name) != (parent, &entry.name));
            if parent_stands && parent != id && free && !tree.contains_key(&id) {
                tree.insert(id, entry);
            }
        }
        tree
    })
}

/// An entry never changes its class; one that would is left out, with all below it.
fn same_classes(before: &Tree, mut after: Tree) -> Tree {
    after.retain(|id, entry| before.get(id).is_none_or(|old| old.dir == entry.dir));
    loop {
        let standing: BTreeSet<u8> = after.keys().copied().chain([0]).collect();
        let whole = after.len();
        after.retain(|_, entry| standing.contains(&entry.parent));
        if after.len() == whole {
            return after;
        }
    }
}

fn planned(before: &Tree, after: &Tree) -> Vec<Step> {
    let ids: BTreeSet<u8> = before.keys().chain(after.keys()).copied().collect();
    let changes: Vec<Change> = ids
        .into_iter()
        .filter(|id| before.get(id) != after.get(id))
        .map(|id| Change {
            base: before.get(&id).map(|entry| (base(id, entry), path(before, id))),
            placed: after.get(&id).map(|entry| placed(id, entry, path(after, id))),
        })
        .collect();
    plan(&changes, |parent, name| {
        let here = |entry: &&Entry| node(entry.parent) == parent && entry.name.as_bytes() == name.as_bytes();
        before.iter().find(|(_, entry)| here(entry)).map(|(id, _)| node(*id))
    })
}

/// Does a step on the model; panics where a file system would refuse.
fn carry_out(model: &mut Tree, step: &Step) {
    match step {
        Step::Mkdir(placed) | Step::Create(placed) => {
            assert_free(model, placed);
            assert!(!model.contains_key(&id(placed.id)), "made twice");
            model.insert(id(placed.id), wanted(placed));
        }
        Step::Park(node) => model.get_mut(&id(*node)).expect("stands").name = format!("parked {node}"),
        Step::Move(placed) => {
            assert_free(model, placed);
            let mut at = id(placed.parent);
            while at != 0 {
                assert_ne!(at, id(placed.id), "moved into itself");
                at = model[&at].parent;
            }
            let wanted = wanted(placed);
            let entry = model.get_mut(&id(placed.id)).expect("stands");
            (entry.parent, entry.name) = (wanted.parent, wanted.name);
        }
        Step::Replace(placed) => model.get_mut(&id(placed.id)).expect("stands").content = wanted(placed).content,
        Step::Adjust(placed) => assert!(model.contains_key(&id(placed.id)), "stands"),
        Step::Remove(node) => assert!(!model.remove(&id(*node)).expect("stands").dir, "a leaf"),
        Step::RemoveDir(node) => {
            let number = id(*node);
            assert!(model.values().all(|entry| entry.parent != number), "empty");
            assert!(model.remove(&number).expect("stands").dir, "a directory");
        }
    }
}

fn assert_free(model: &Tree, placed: &Placed) {
    let wanted = wanted(placed);
    let parent = wanted.parent;
    assert!(parent == 0 || model.get(&parent).is_some_and(|entry| entry.dir), "its directory stands");
    let taken = model.values().any(|entry| (entry.parent, &entry.name) == (parent, &wanted.name));
    assert!(!taken, "its name is free");
}

fn wanted(placed: &Placed) -> Entry {
    let name = String::from_utf8(placed.target.name.as_bytes().to_vec()).expect("text");
    let content = match &placed.target.value {
        Value::Link { target } => target[0],
        _ => 0,
    };
    Entry { dir: placed.target.class == Class::Dir, parent: id(placed.parent), name, content }
}

fn base(number: u8, entry: &Entry) -> Base {
    Base {
        id: node(number),
        parent: node(entry.parent),
        name: Name::new(entry.name.as_bytes()).expect("valid"),
        class: class(entry),
        members: members(number),
        value: value(entry),
        attributes: Attributes::default(),
        stat: Stat {
            kind: Kind::File,
            handle: Handle::default(),
            size: 0,
            mode: 0,
            mtime: FileTime::default(),
            ctime: FileTime::default(),
            links: 1,
            raised: Raised::default(),
        },
        state: BaseState::Live,
    }
}

fn placed(number: u8, entry: &Entry, path: RelPath) -> Placed {
    let target = Target {
        id: node(number),
        members: members(number),
        parent: node(entry.parent),
        name: Name::new(entry.name.as_bytes()).expect("valid"),
        class: class(entry),
        value: value(entry),
        attributes: Attributes::default(),
        author: ReplicaId(1),
        wall_ms: 0,
        sibling: false,
    };
    Placed { target, id: node(number), parent: node(entry.parent), path }
}

fn members(number: u8) -> Vec<Member> {
    vec![Member { node: node(number), dots: Dots::default(), origin: None }]
}

fn class(entry: &Entry) -> Class {
    if entry.dir { Class::Dir } else { Class::Leaf }
}

fn value(entry: &Entry) -> Value {
    if entry.dir { Value::Dir } else { Value::Link { target: vec![entry.content] } }
}

fn path(tree: &Tree, id: u8) -> RelPath {
    let entry = &tree[&id];
    let mut path = if entry.parent == 0 { RelPath::new() } else { path(tree, entry.parent) };
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(entry.name.as_bytes());
    path
}

fn node(number: u8) -> NodeId {
    let mut id = [0; 16];
    id[0] = number;
    NodeId(id)
}

fn id(node: NodeId) -> u8 {
    node.0[0]
}
