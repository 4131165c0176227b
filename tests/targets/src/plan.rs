//! From any tree to any other: a plan ends there, within a bounded number of steps, from any step on.

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::{Result, Unstructured};
use hearth_schemas::ids::{NodeId, ReplicaId};
use hearth_schemas::item::{Attributes, Class, FileTime, Name, Value};
use syncd_core::disk::{Handle, Kind, Raised, RelPath, Stat};
use syncd_core::plan::{Change, Placed, Step, plan};
use syncd_core::store::{Base, BaseState, Dots, Member};
use syncd_core::view::Target;

/// What stands where.
type Tree = BTreeMap<u8, Entry>;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    dir: bool,
    parent: u8,
    name: u8,
    content: u8,
}

/// Two trees, and after how many steps of the first plan it is planned again.
pub fn run(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let _ = from_one_to_another(&mut u);
}

fn from_one_to_another(u: &mut Unstructured<'_>) -> Result<()> {
    let stop = u.int_in_range(0..=80usize)?;
    let before = tree(u, &Tree::new())?;
    let after = tree(u, &before)?;
    let steps = planned(&before, &after);
    assert!(steps.len() <= 3 * (before.len() + after.len()), "{} steps", steps.len());
    let mut model = before;
    for step in steps.iter().take(stop) {
        carry_out(&mut model, step);
    }
    // What was done is the base of the next plan.
    for step in &planned(&model, &after) {
        carry_out(&mut model, step);
    }
    assert_eq!(model, after);
    assert!(planned(&model, &after).is_empty(), "a tree that is as it shall be is changed");
    Ok(())
}

/// A tree of up to forty entries below the root, which is entry 0. An entry that stood before keeps its class.
fn tree(u: &mut Unstructured<'_>, before: &Tree) -> Result<Tree> {
    let mut tree = Tree::new();
    for _ in 0..u.int_in_range(0..=40)? {
        let (id, parent, shape) = (u.int_in_range(1..=40)?, u.int_in_range(0..=40)?, u.arbitrary::<u8>()?);
        let dir = before.get(&id).map_or(shape & 1 != 0, |old| old.dir);
        let entry = Entry { dir, parent, name: shape >> 1 & 7, content: if dir { 0 } else { shape >> 4 } };
        let stands = parent == 0 || tree.get(&parent).is_some_and(|parent: &Entry| parent.dir);
        let free = tree.values().all(|other: &Entry| (other.parent, other.name) != (parent, entry.name));
        if stands && free && parent != id && !tree.contains_key(&id) {
            tree.insert(id, entry);
        }
    }
    Ok(tree)
}

fn planned(before: &Tree, after: &Tree) -> Vec<Step> {
    let ids: BTreeSet<u8> = before.keys().chain(after.keys()).copied().collect();
    let changed = ids.into_iter().filter(|id| before.get(id) != after.get(id));
    let changes: Vec<Change> = changed
        .map(|id| Change {
            base: before.get(&id).map(|entry| (base(id, entry), path(before, id))),
            placed: after.get(&id).map(|entry| placed(id, entry, path(after, id))),
        })
        .collect();
    plan(&changes, |parent, name| {
        let here = |entry: &&Entry| node(entry.parent) == parent && name_of(entry) == *name;
        before.iter().find(|(_, entry)| here(entry)).map(|(id, _)| node(*id))
    })
}

/// Does a step on the model; panics where a file system would refuse.
fn carry_out(model: &mut Tree, step: &Step) {
    match step {
        Step::Mkdir(placed) | Step::Create(placed) => {
            assert_free(model, placed);
            assert!(model.insert(number(placed.id), wanted(placed)).is_none(), "made twice");
        }
        // Names of what is parked are above those of the trees.
        Step::Park(id) => standing(model, *id).name = 100 + number(*id),
        Step::Move(placed) => {
            assert_free(model, placed);
            let mut at = number(placed.parent);
            while at != 0 {
                assert_ne!(at, number(placed.id), "moved into itself");
                at = model[&at].parent;
            }
            let wanted = wanted(placed);
            let entry = standing(model, placed.id);
            (entry.parent, entry.name) = (wanted.parent, wanted.name);
        }
        Step::Replace(placed) => standing(model, placed.id).content = wanted(placed).content,
        Step::Adjust(placed) => drop(standing(model, placed.id)),
        Step::Remove(id) => {
            assert!(!standing(model, *id).dir, "a leaf is removed");
            model.remove(&number(*id));
        }
        Step::RemoveDir(id) => {
            assert!(model.values().all(|entry| entry.parent != number(*id)), "a directory is empty when it is removed");
            assert!(standing(model, *id).dir, "a directory is removed");
            model.remove(&number(*id));
        }
    }
}

fn standing(model: &mut Tree, id: NodeId) -> &mut Entry {
    model.get_mut(&number(id)).expect("what a step is about stands")
}

fn assert_free(model: &Tree, placed: &Placed) {
    let wanted = wanted(placed);
    let stands = wanted.parent == 0 || model.get(&wanted.parent).is_some_and(|parent| parent.dir);
    assert!(stands, "the directory stands");
    let taken = model.values().any(|entry| (entry.parent, entry.name) == (wanted.parent, wanted.name));
    assert!(!taken, "the name is free");
}

fn wanted(placed: &Placed) -> Entry {
    let content = match &placed.target.value {
        Value::Link { target } => target[0],
        _ => 0,
    };
    let dir = placed.target.class == Class::Dir;
    Entry { dir, parent: number(placed.parent), name: placed.target.name.as_bytes()[0] - b'A', content }
}

fn base(id: u8, entry: &Entry) -> Base {
    let target = target(id, entry);
    Base {
        id: target.id,
        parent: target.parent,
        name: target.name,
        class: target.class,
        members: target.members,
        value: target.value,
        attributes: target.attributes,
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

fn placed(id: u8, entry: &Entry, path: RelPath) -> Placed {
    Placed { target: target(id, entry), id: node(id), parent: node(entry.parent), path }
}

fn target(id: u8, entry: &Entry) -> Target {
    Target {
        id: node(id),
        members: vec![Member { node: node(id), dots: Dots::default(), origin: None }],
        parent: node(entry.parent),
        name: name_of(entry),
        class: if entry.dir { Class::Dir } else { Class::Leaf },
        value: if entry.dir { Value::Dir } else { Value::Link { target: vec![entry.content] } },
        attributes: Attributes::default(),
        author: ReplicaId(1),
        wall_ms: 0,
        sibling: false,
    }
}

fn name_of(entry: &Entry) -> Name {
    Name::new([b'A' + entry.name]).expect("one byte that is no slash")
}

fn path(tree: &Tree, id: u8) -> RelPath {
    let entry = &tree[&id];
    let mut path = if entry.parent == 0 { RelPath::new() } else { path(tree, entry.parent) };
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name_of(entry).as_bytes());
    path
}

fn node(number: u8) -> NodeId {
    let mut id = [0; 16];
    id[0] = number;
    NodeId(id)
}

fn number(node: NodeId) -> u8 {
    node.0[0]
}
