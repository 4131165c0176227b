//! placeholder until the rules are merged
use std::path::PathBuf;
use std::sync::Arc;

use hearth_schemas::ids::DeviceId;
use hearth_schemas::item::SettingValue;
use hearth_schemas::paths::Paths;
use serde_json::{Value, json};
use syncd_core::state::State;

use crate::activity::Activity;
use crate::bus::{Answer, Failure, JoinSettings};
use crate::driver::Driver;
use crate::rulebook::Rulebook;
use crate::store::SqliteStore;

pub struct Preferences {
    pub rulebook: Rulebook,
    own: Vec<PathBuf>,
}
impl Preferences {
    pub fn new(paths: &Paths, _join: JoinSettings, _bus: bool, _activity: Arc<Activity>) -> Self {
        Self { rulebook: Rulebook::open(paths), own: paths.own().iter().map(|p| p.to_path_buf()).collect() }
    }
    pub fn load(&self, state: &State<SqliteStore>, _device: DeviceId) -> anyhow::Result<()> {
        self.rulebook.load(state)
    }
    pub fn unwatched(&self) -> Vec<PathBuf> {
        self.own.clone()
    }
    pub async fn run(self: Arc<Self>, _driver: Driver) {
        std::future::pending::<()>().await
    }
    pub async fn flush(&self) {}
    pub fn account_has(
        &self,
        key: String,
        _device: Option<DeviceId>,
        value: Option<SettingValue>,
        _by: String,
        _wall: u64,
        driver: &Driver,
    ) {
        if key.starts_with(crate::rulebook::PREFIX) {
            self.rulebook.account_has(&key, value.as_ref(), driver);
        }
    }
    pub fn problems(&self) -> Vec<Value> {
        Vec::new()
    }
    pub async fn finding(&self) -> Value {
        json!({})
    }
    pub async fn list(&self, _p: &str) -> Answer {
        Err(Failure::bug("x"))
    }
    pub async fn get(&self, _p: &str) -> Answer {
        Err(Failure::bug("x"))
    }
    pub async fn explain(&self, _p: &str) -> Answer {
        Err(Failure::bug("x"))
    }
    pub async fn history(&self, _p: &str) -> Answer {
        Err(Failure::bug("x"))
    }
}
