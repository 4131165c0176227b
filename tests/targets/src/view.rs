//! Hostile rows, in any order and in any portions: two devices come to show the same tree, each name once, and a disk follows it.

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::{Result, Unstructured};
use hearth_schemas::ids::{DeviceId, NodeId};
use hearth_schemas::item::{Attributes, Class, FileTime, Name, Row, Value};
use syncd_core::disk::{Handle, Kind, Raised, RelPath, Stat, join};
use syncd_core::marks::Marks;
use syncd_core::plan::{Placed, Step, collect, plan};
use syncd_core::select::Everything;
use syncd_core::state::{Now, State};
use syncd_core::store::{Base, BaseState, Member, MemoryStore, Store};

use crate::rows::Node;

/// Most rows of a world.
const ROWS: usize = 24;
/// After so many plans a disk has come to rest.
const PASSES: usize = 6;

type Device = State<MemoryStore>;

/// A world of rows, which reach one device in order, with a plan after some of them, and another all at once and backwards.
pub fn run(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let _ = two_devices(&mut u);
}

fn two_devices(u: &mut Unstructured<'_>) -> Result<()> {
    let mut nodes: BTreeMap<NodeId, Node> = BTreeMap::new();
    for _ in 0..u.int_in_range(1..=10)? {
        let node = Node::any(u)?;
        nodes.entry(node.id()).or_insert(node);
    }
    let nodes: Vec<&Node> = nodes.values().collect();
    let mut rows: Vec<(Row, bool)> = Vec::new();
    while rows.len() < ROWS && !u.is_empty() {
        let row = u.choose(&nodes)?.known(u)?;
        if row.check().is_ok() {
            rows.push((row, u.ratio(1, 3)?));
        }
    }
    let (mut one, mut other) = (device(1), device(2));
    for (row, plans) in &rows {
        take(&mut one, row);
        if *plans {
            follow(&mut one);
        }
    }
    rows.iter().rev().for_each(|(row, _)| take(&mut other, row));
    for device in [&mut one, &mut other] {
        follow(device);
        stands_as_shown(device);
    }
    assert_eq!(digest(&one, &rows), digest(&other, &rows), "they do not know the same");
    assert_eq!(shown(&one), shown(&other), "they do not show the same");
    Ok(())
}

fn device(number: u8) -> Device {
    let mut random = 1u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(u64::from(number) << 32 | 1);
        random
    };
    let mut now = Now { wall_ms: 1, random: &mut next };
    State::open(MemoryStore::default(), DeviceId([number; 32]), "here", true, &mut now).expect("maps hold everything")
}

fn take(device: &mut Device, row: &Row) {
    let taken = device.merge(row).expect("maps hold everything");
    assert!(taken.is_ok(), "one dot is one version, and it contradicts");
}

/// Plans and carries out until nothing is left to do, or nothing more can be done.
fn follow(device: &mut Device) {
    device.refresh().expect("maps hold everything");
    for _ in 0..PASSES {
        let marked = device.store.marked(None, usize::MAX).expect("maps hold everything");
        let collected = collect(device, &Everything, &Marks::NONE, &marked).expect("maps hold everything");
        for node in &collected.settled {
            device.store.unmark(*node).expect("maps hold everything");
        }
        let store = &device.store;
        let steps = plan(&collected.changes, |dir, name| {
            let standing = store.base_at(dir, name).expect("maps hold everything");
            standing.filter(|base| base.state == BaseState::Live).map(|base| base.id)
        });
        assert!(steps.len() <= 3 * collected.changes.len(), "{} steps", steps.len());
        let refused: Vec<bool> = steps.iter().map(|step| !carry_out(device, step)).collect();
        if steps.is_empty() || refused.iter().all(|refused| *refused) {
            return;
        }
    }
    panic!("a disk does not come to rest");
}

/// Does a step on what base says of the disk; `false` where a directory is not empty, which a disk may refuse.
fn carry_out(device: &mut Device, step: &Step) -> bool {
    let standing = |device: &Device, id: NodeId| {
        device.store.base(id).expect("maps hold everything").expect("what a step is about stands")
    };
    let mut put = None;
    match step {
        Step::Mkdir(placed) | Step::Create(placed) => {
            assert_free(device, placed);
            assert_eq!(device.store.base(placed.id).expect("maps hold everything"), None, "made twice");
            put = Some(made(placed));
        }
        Step::Park(id) => {
            let name = Name::new(format!(".hearth-parked-{id}")).expect("short, without a slash");
            put = Some(Base { name, ..standing(device, *id) });
        }
        Step::Move(placed) => {
            assert_free(device, placed);
            let mut at = placed.parent;
            while at != NodeId::ROOT {
                assert_ne!(at, placed.id, "moved into itself");
                at = standing(device, at).parent;
            }
            put = Some(Base { parent: placed.parent, name: placed.target.name.clone(), ..standing(device, placed.id) });
        }
        Step::Replace(placed) => put = Some(made(placed)),
        Step::Adjust(placed) => {
            let (members, attributes) = (placed.target.members.clone(), placed.target.attributes.clone());
            put = Some(Base { members, attributes, ..standing(device, placed.id) });
        }
        Step::Remove(id) => {
            assert_ne!(standing(device, *id).class, Class::Dir, "a leaf is removed");
            device.store.remove_base(*id).expect("maps hold everything");
        }
        Step::RemoveDir(id) => {
            assert_eq!(standing(device, *id).class, Class::Dir, "a directory is removed");
            if !device.store.base_in(*id).expect("maps hold everything").is_empty() {
                return false;
            }
            device.store.remove_base(*id).expect("maps hold everything");
        }
    }
    if let Some(base) = put {
        device.store.put_base(&base).expect("maps hold everything");
    }
    true
}

fn assert_free(device: &Device, placed: &Placed) {
    let parent = device.store.base(placed.parent).expect("maps hold everything");
    assert!(placed.parent == NodeId::ROOT || parent.is_some_and(|dir| dir.class == Class::Dir), "the directory stands");
    let taken = device.store.base_at(placed.parent, &placed.target.name).expect("maps hold everything");
    assert_eq!(taken, None, "the name is free");
}

fn made(placed: &Placed) -> Base {
    let target = placed.target.clone();
    Base {
        id: placed.id,
        parent: placed.parent,
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

/// Everything that a device shows, by its path.
fn shown(device: &Device) -> BTreeMap<RelPath, (Class, Value, Attributes)> {
    let (view, shape) = (device.view(), device.tree.shape());
    let mut slots: BTreeSet<(NodeId, Name)> = BTreeSet::new();
    for (_, row) in device.store.rows_after(0, usize::MAX).expect("maps hold everything") {
        slots.extend(view.registered(&row));
    }
    let mut shown = BTreeMap::new();
    for (dir, name) in slots {
        for target in view.slot(dir, &name).expect("maps hold everything") {
            assert_eq!(target.parent, dir, "shown elsewhere");
            let path = join(&shape.path(dir), &target.name);
            let twice = shown.insert(path.clone(), (target.class, target.value, target.attributes));
            assert_eq!(twice, None, "{:?} is shown twice", String::from_utf8_lossy(&path));
        }
    }
    shown
}

/// The disk is as shown, but for what stays because it is not understood; looking at everything again finds nothing more.
fn stands_as_shown(device: &mut Device) {
    let mut stands = BTreeMap::new();
    let mut stays = false;
    let mut queue = vec![(NodeId::ROOT, RelPath::new())];
    while let Some((dir, path)) = queue.pop() {
        for base in device.store.base_in(dir).expect("maps hold everything") {
            let path = join(&path, &base.name);
            queue.push((base.id, path.clone()));
            stays |= base.members.iter().any(|member| is_not_understood(device, member));
            stands.insert(path, (base.class, base.value, base.attributes));
        }
    }
    let shown = shown(device);
    for (path, entry) in &shown {
        let here = stands.get(path);
        assert!(stays || here == Some(entry), "{:?} is {here:?}, shown is {entry:?}", String::from_utf8_lossy(path));
    }
    let rows = device.store.rows_after(0, usize::MAX).expect("maps hold everything");
    assert!(stays || stands.len() == shown.len(), "something stands that is not shown");
    let every: Vec<NodeId> = rows.into_iter().map(|(_, row)| row.id).collect();
    let again = collect(device, &Everything, &Marks::NONE, &every).expect("maps hold everything");
    assert!(stays || again.changes.is_empty(), "nobody was told of {:?}", again.changes);
}

/// Whether a node that has an entry here is neither shown nor deleted: its entry stays, and keeps its name from others.
fn is_not_understood(device: &Device, member: &Member) -> bool {
    let row = device.store.row(member.node).expect("maps hold everything");
    member.origin.is_none() && row.is_none_or(|row| device.view().registered(&row).is_none())
}

/// What a device has of these rows; its own introduction is its own.
fn digest(device: &Device, rows: &[(Row, bool)]) -> Vec<Option<Row>> {
    let ids: BTreeSet<NodeId> = rows.iter().map(|(row, _)| row.id).collect();
    ids.into_iter().map(|id| device.store.row(id).expect("maps hold everything")).collect()
}
