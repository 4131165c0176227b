//! Settings: they are rows as files are, and told to the desktop where others have files put in place.

use hearth_schemas::ids::{DeviceId, NodeId};
use hearth_schemas::item::{Attributes, Class, Name, Row, SettingValue, Value};

use super::{Effect, Engine};
use crate::disk::{Handle, Kind, Raised, Stat};
use crate::row;
use crate::state::Now;
use crate::store::{Base, BaseState, Dots, Member, Store, StoreResult};
use crate::view::{all_dots, setting_row_id};

/// The base key that settings stand under, which no directory has.
const SETTINGS: NodeId = NodeId([0xff; 16]);

impl<S: Store> Engine<S> {
    pub(super) fn set_setting(
        &mut self,
        key: String,
        device: Option<DeviceId>,
        value: Option<SettingValue>,
        now: &mut Now,
    ) -> StoreResult<()> {
        let id = setting_row_id(&key, device);
        let told = self.state.store.base(id)?.and_then(|base| base.members.into_iter().next());
        let seen = told.map(|member| member.dots.content).unwrap_or_default();
        let mut row = self.state.store.row(id)?.unwrap_or_else(|| Row::empty(id, Class::Setting));
        let value = Value::Setting { key, device, value };
        if row::winner(&row.content).is_some_and(|(_, content)| content.value == value) {
            return Ok(());
        }
        let stamp = self.state.stamp(now);
        let content = self.state.content(value, None, Attributes::default(), stamp, now);
        self.state.write_content(&mut row, &seen, content);
        self.state.put(&row)?;
        self.remember_told(&row)
    }

    /// Parts settings, and rows that no disk shows, from the nodes to be planned.
    pub(super) fn settings_among(&mut self, nodes: Vec<NodeId>) -> StoreResult<(Vec<Row>, Vec<NodeId>)> {
        let mut settings = Vec::new();
        let mut files = Vec::new();
        for node in nodes {
            match self.state.store.row(node)? {
                Some(row) if row.class == Class::Setting => settings.push(row),
                Some(row) if row.class == Class::Replica => self.state.store.unmark(node)?,
                _ => files.push(node),
            }
        }
        Ok((settings, files))
    }

    /// Tells the winning value of a setting, and remembers which versions were told.
    pub(super) fn announce(&mut self, row: &Row) -> StoreResult<()> {
        if let Some(effect) = self.telling_of(row)? {
            self.telling += 1;
            self.effects.push_back(effect);
        }
        self.remember_told(row)
    }

    pub(super) fn telling_of(&self, row: &Row) -> StoreResult<Option<Effect>> {
        let Some((_, content)) = row::winner(&row.content) else { return Ok(None) };
        let Value::Setting { key, device, value } = &content.value else { return Ok(None) };
        Ok(Some(Effect::Setting {
            key: key.clone(),
            device: *device,
            value: value.clone(),
            by: self.state.view().birth_name(content.stamp.replica)?,
            wall_ms: content.wall_ms,
        }))
    }

    pub(super) fn remember_told(&mut self, row: &Row) -> StoreResult<()> {
        let Some((_, content)) = row::winner(&row.content) else { return Ok(()) };
        let dots = Dots { content: all_dots(row).content, ..Dots::default() };
        self.state.store.put_base(&Base {
            id: row.id,
            parent: SETTINGS,
            name: Name::new(row.id.to_string()).expect("hexadecimal digits"),
            class: Class::Setting,
            members: vec![Member { node: row.id, dots, origin: None }],
            value: content.value.clone(),
            attributes: Attributes::default(),
            stat: Stat {
                kind: Kind::Other,
                handle: Handle::default(),
                size: 0,
                mode: 0,
                mtime: hearth_schemas::item::FileTime::default(),
                ctime: hearth_schemas::item::FileTime::default(),
                links: 0,
                raised: Raised::default(),
            },
            state: BaseState::Live,
        })
    }
}
