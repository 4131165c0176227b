//! What every machine shows of everything that is known: entries at names, the same from the same state.
//!
//! The answer to "who keeps the name" (docs/sync-model.md section 4): at one name of one directory, directories
//! are one entry and come first; leaves of equal content are one entry; else the latest placed leaf keeps the
//! name and the others stand beside it as conflict siblings, as does every losing version of a leaf's content.
//! Works on one name at a time, so that a change costs what it touches. Directories come from [`crate::tree`];
//! what of a view a machine puts on its disk is [`crate::plan`]'s.

use std::collections::BTreeSet;

use hearth_schemas::ids::{NodeId, ReplicaId};
use hearth_schemas::item::{Attributes, Class, Content, Name, Row, Stamp, Value, Xattrs};

use crate::conflict::{Naming, derived_id, family, may_be_sibling, registered, sibling_name};
use crate::disk::join;
use crate::git;
use crate::row::{content_groups, winner};
use crate::store::{Dots, Member, Store, StoreResult};
use crate::tree::{Shape, is_dead};

/// An entry that machines show.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The node that leads it, or the id of a derived sibling.
    pub id: NodeId,
    /// All nodes shown as this entry, with the versions that it embodies.
    pub members: Vec<Member>,
    /// The directory it is in, by its leading node.
    pub parent: NodeId,
    /// Its name there.
    pub name: Name,
    /// Directory or leaf.
    pub class: Class,
    /// Its content.
    pub value: Value,
    /// Its attributes.
    pub attributes: Attributes,
    /// Who wrote the content.
    pub author: ReplicaId,
    /// When its author wrote the content, in milliseconds since 1970; for display.
    pub wall_ms: u64,
    /// Whether it lost its name to another entry.
    pub sibling: bool,
}

/// Reads views off a state.
pub struct View<'a, S> {
    /// Where the rows are.
    pub store: &'a S,
    /// The directories.
    pub shape: &'a Shape,
}

struct Group {
    rank: (Stamp, NodeId),
    rows: Vec<Row>,
}

impl<S: Store> View<'_, S> {
    /// A directory's entry; `None` for the root.
    pub fn directory(&self, leader: NodeId) -> StoreResult<Option<Target>> {
        let Some(entry) = self.shape.entry(leader) else { return Ok(None) };
        let mut members = Vec::new();
        let mut first = None;
        for &node in &entry.members {
            let row = self.store.row(node)?;
            let Some(row) = row else { continue };
            members.push(Member { node, dots: all_dots(&row), origin: None });
            first.get_or_insert(row);
        }
        let Some(row) = first else { return Ok(None) };
        let (author, wall_ms) =
            winner(&row.content).map_or((ReplicaId(0), 0), |(_, content)| (content.stamp.replica, content.wall_ms));
        Ok(Some(Target {
            id: leader,
            members,
            parent: entry.parent,
            name: entry.name.clone(),
            class: Class::Dir,
            value: Value::Dir,
            attributes: attributes(&row),
            author,
            wall_ms,
            sibling: false,
        }))
    }

    /// Every entry registered under a name of a directory: the one that has it, then those pushed aside.
    pub fn slot(&self, dir: NodeId, name: &Name) -> StoreResult<Vec<Target>> {
        let here = self.shape.child(dir, name);
        let mut targets: Vec<Target> =
            here.map(|leader| self.directory(leader)).transpose()?.flatten().into_iter().collect();
        let groups = self.groups(dir, name)?;
        let mut taken: BTreeSet<Name> = BTreeSet::new();
        for (rank, group) in groups.iter().enumerate() {
            let natural = rank == 0 && here.is_none();
            targets.push(self.leaf(dir, name, group, natural, &mut taken)?);
        }
        if self.is_named_by_content(dir, name) {
            return Ok(targets);
        }
        for row in groups.iter().flat_map(|group| &group.rows) {
            self.derived(dir, name, row, &mut taken, &mut targets)?;
        }
        Ok(targets)
    }

    /// For a name that a sibling could have: the names in a directory whose siblings compete for such names.
    pub fn family(&self, dir: NodeId, name: &Name) -> StoreResult<Vec<Name>> {
        if !may_be_sibling(name) {
            return Ok(Vec::new());
        }
        let naming = self.naming(dir);
        let Some(original) = registered(naming, name) else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for &member in self.shape.members(dir) {
            names.extend(self.store.names_from(member, &family(naming, &original))?);
        }
        names.retain(|other| registered(naming, other).as_ref() == Some(&original));
        names.push(original);
        Ok(names)
    }

    /// How siblings in a directory are called.
    fn naming(&self, dir: NodeId) -> Naming {
        Naming::of(&self.shape.path(dir))
    }

    /// Whether a name says what is in the file: versions with other bytes are no other contents.
    fn is_named_by_content(&self, dir: NodeId, name: &Name) -> bool {
        git::may_be_object(name.as_bytes())
            && git::place(&join(&self.shape.path(dir), name)).is_some_and(|place| place.part.is_named_by_content())
    }

    /// The slot that a node is registered in; `None` for what is dead or pending.
    pub fn registered(&self, row: &Row) -> Option<(NodeId, Name)> {
        let (_, place) = winner(&row.place)?;
        match row.class {
            Class::Dir => {
                let entry = self.shape.entry(self.shape.leader(row.id)?)?;
                Some((entry.parent, entry.name.clone()))
            }
            Class::Leaf if is_dead(row, |dir| self.shape.is_dead(dir)) => None,
            Class::Leaf => Some((self.shape.leader(place.parent)?, place.name.clone())),
            Class::Setting | Class::Replica => None,
        }
    }

    /// The entry that shows a node.
    pub fn target_of(&self, node: NodeId) -> StoreResult<Option<Target>> {
        self.shown_among(node, node)
    }

    /// The entry that shows a node or derived sibling.
    pub fn target_of_member(&self, member: &Member) -> StoreResult<Option<Target>> {
        self.shown_among(member.node, member.origin.unwrap_or(member.node))
    }

    /// The entry that shows a node, among those at the name of `registered`.
    fn shown_among(&self, node: NodeId, registered: NodeId) -> StoreResult<Option<Target>> {
        let Some(row) = self.store.row(registered)? else { return Ok(None) };
        let Some((dir, name)) = self.registered(&row) else { return Ok(None) };
        let slot = self.slot(dir, &name)?;
        Ok(slot.into_iter().find(|target| target.members.iter().any(|member| member.node == node)))
    }

    /// The birth name of a replica, for conflict names.
    pub fn birth_name(&self, replica: ReplicaId) -> StoreResult<String> {
        let row = self.store.row(replica_row_id(replica))?;
        let name = row.and_then(|row| match winner(&row.content)?.1.value.clone() {
            Value::Replica { name, .. } => Some(name),
            Value::Dir | Value::File { .. } | Value::Link { .. } | Value::Setting { .. } => None,
        });
        Ok(name.unwrap_or_else(|| replica.to_string()))
    }

    /// The live leaves registered here, by equal content, the one that keeps the name first.
    fn groups(&self, dir: NodeId, name: &Name) -> StoreResult<Vec<Group>> {
        let mut groups: Vec<Group> = Vec::new();
        let one = self.is_named_by_content(dir, name);
        for row in self.leaves(dir, name)? {
            let Some((_, place)) = winner(&row.place) else { continue };
            let rank = (place.stamp, row.id);
            let Some((_, content)) = winner(&row.content) else { continue };
            let equal = |group: &&mut Group| {
                one || winner(&group.rows[0].content).is_some_and(|(_, c)| c.value == content.value)
            };
            match groups.iter_mut().find(equal) {
                Some(group) => {
                    group.rank = group.rank.max(rank);
                    group.rows.push(row);
                }
                None => groups.push(Group { rank, rows: vec![row] }),
            }
        }
        for group in &mut groups {
            group.rows.sort_by_key(|row| row.id);
        }
        groups.sort_by_key(|group| std::cmp::Reverse(group.rank));
        Ok(groups)
    }

    fn leaves(&self, dir: NodeId, name: &Name) -> StoreResult<Vec<Row>> {
        let mut rows = Vec::new();
        for &member in self.shape.members(dir) {
            for id in self.store.placed_at(member, name)? {
                let Some(row) = self.store.row(id)? else { continue };
                let here = winner(&row.place).is_some_and(|(_, place)| place.parent == member && place.name == *name);
                if row.class == Class::Leaf && here && !is_dead(&row, |dir| self.shape.is_dead(dir)) {
                    rows.push(row);
                }
            }
        }
        Ok(rows)
    }

    fn leaf(
        &self,
        dir: NodeId,
        name: &Name,
        group: &Group,
        natural: bool,
        taken: &mut BTreeSet<Name>,
    ) -> StoreResult<Target> {
        let first = &group.rows[0];
        let (_, content) = winner(&first.content).expect("a leaf of a group has content");
        let one = self.is_named_by_content(dir, name);
        let members = group
            .rows
            .iter()
            .map(|row| {
                let shown = if one { usize::MAX } else { 1 };
                let content = content_groups(row).into_iter().take(shown).flat_map(|(dots, _)| dots).collect();
                Member { node: row.id, dots: Dots { content, ..all_dots(row) }, origin: None }
            })
            .collect();
        let shown = if natural { name.clone() } else { self.free_name(dir, name, first.id, content, taken)? };
        Ok(Target {
            id: first.id,
            members,
            parent: dir,
            name: shown,
            class: Class::Leaf,
            value: content.value.clone(),
            attributes: attributes(first),
            author: content.stamp.replica,
            wall_ms: content.wall_ms,
            sibling: !natural,
        })
    }

    /// Adds the losing contents of a row as siblings, save those that a person has touched: they have rows.
    fn derived(
        &self,
        dir: NodeId,
        name: &Name,
        row: &Row,
        taken: &mut BTreeSet<Name>,
        targets: &mut Vec<Target>,
    ) -> StoreResult<()> {
        for (dots, content) in content_groups(row).into_iter().skip(1) {
            let id = derived_id(row.id, dots[0]);
            if self.store.row(id)?.is_some() {
                continue;
            }
            let shown = self.free_name(dir, name, id, content, taken)?;
            let dots = Dots { content: dots, ..Dots::default() };
            targets.push(Target {
                id,
                members: vec![Member { node: id, dots, origin: Some(row.id) }],
                parent: dir,
                name: shown,
                class: Class::Leaf,
                value: content.value.clone(),
                attributes: content.born.clone(),
                author: content.stamp.replica,
                wall_ms: content.wall_ms,
                sibling: true,
            });
        }
        Ok(())
    }

    /// A sibling name that nothing is registered under.
    fn free_name(
        &self,
        dir: NodeId,
        name: &Name,
        id: NodeId,
        content: &Content,
        taken: &mut BTreeSet<Name>,
    ) -> StoreResult<Name> {
        let birth_name = self.birth_name(content.stamp.replica)?;
        let naming = self.naming(dir);
        let mut digits = 6;
        loop {
            let candidate = sibling_name(naming, name, &birth_name, id, digits);
            let free = digits >= 32 || (!taken.contains(&candidate) && !self.is_registered(dir, &candidate)?);
            if free {
                taken.insert(candidate.clone());
                return Ok(candidate);
            }
            digits += 2;
        }
    }

    /// Whether something live is registered under a name.
    pub fn is_registered(&self, dir: NodeId, name: &Name) -> StoreResult<bool> {
        Ok(self.shape.child(dir, name).is_some() || !self.leaves(dir, name)?.is_empty())
    }
}

/// The id of the row in which a replica introduces itself.
pub fn replica_row_id(replica: ReplicaId) -> NodeId {
    let mut hasher = blake3::Hasher::new_derive_key("hearth replica row v1");
    hasher.update(&replica.0.to_le_bytes());
    NodeId(hasher.finalize().as_bytes()[..16].try_into().expect("a hash has 32 bytes"))
}

/// The id of a setting's row: its path, and the device for values that are kept per device.
pub fn setting_row_id(key: &str, device: Option<hearth_schemas::ids::DeviceId>) -> NodeId {
    let mut hasher = blake3::Hasher::new_derive_key("hearth setting row v1");
    hasher.update(device.map_or([0; 32], |device| device.0).as_slice());
    hasher.update(key.as_bytes());
    NodeId(hasher.finalize().as_bytes()[..16].try_into().expect("a hash has 32 bytes"))
}

/// All versions of a row.
pub fn all_dots(row: &Row) -> Dots {
    Dots {
        place: row.place.keys().copied().collect(),
        content: row.content.keys().copied().collect(),
        meta: row.meta.keys().copied().collect(),
    }
}

/// The attributes that a row shows: what was set last; the time of the last edit or touch. A symlink has
/// every permission, whatever its node had as a file.
pub fn attributes(row: &Row) -> Attributes {
    let content = winner(&row.content).map(|(_, content)| content);
    let mut shown = match (winner(&row.meta).map(|(_, meta)| meta), content) {
        (Some(meta), Some(content)) if content.stamp > meta.stamp => {
            Attributes { mtime: content.born.mtime, ..meta.attributes.clone() }
        }
        (Some(meta), _) => meta.attributes.clone(),
        (None, Some(content)) => content.born.clone(),
        (None, None) => Attributes::default(),
    };
    if content.is_some_and(|content| matches!(content.value, Value::Link { .. })) {
        shown.mode = LINK_MODE;
        shown.xattrs = Xattrs::new();
    }
    shown
}

/// Permission bits of every symlink.
pub const LINK_MODE: u16 = 0o777;
