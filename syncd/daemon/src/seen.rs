//! When each device of the account was last connected with this one.
//!
//! Kept in the index, for people to read; nothing is decided by it.

use std::collections::BTreeMap;

use hearth_schemas::ids::DeviceId;
use syncd_core::store::Store;

use crate::driver::{Driver, wall_ms};

const PREFIX: &str = "seen/";

/// Remembers that devices are, or were until now, connected.
pub async fn note(driver: &Driver, devices: Vec<DeviceId>) {
    let now = wall_ms().to_le_bytes();
    let noted = driver.ask(move |engine, _| {
        let store = &mut engine.state.store;
        devices.iter().try_for_each(|device| store.set_value(&format!("{PREFIX}{device}"), &now))
    });
    if let Ok(Err(error)) = noted.await {
        tracing::debug!(%error, "when devices were seen could not be kept");
    }
}

/// When each device was seen last, in milliseconds since 1970.
pub async fn when(driver: &Driver) -> BTreeMap<DeviceId, u64> {
    let found = driver.ask(|engine, _| engine.state.store.values(PREFIX)).await;
    let Ok(Ok(values)) = found else { return BTreeMap::new() };
    let read = |(key, value): (String, Vec<u8>)| {
        let device = DeviceId::parse(key.strip_prefix(PREFIX)?)?;
        Some((device, u64::from_le_bytes(value.try_into().ok()?)))
    };
    values.into_iter().filter_map(read).collect()
}
