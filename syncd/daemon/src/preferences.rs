//! placeholder until the rules are merged
use std::path::PathBuf;
use std::sync::Arc;

use hearth_schemas::ids::DeviceId;
use hearth_schemas::item::SettingValue;
use hearth_schemas::paths::Paths;
use serde_json::{Value, json};
use syncd_core::select::Select;
use syncd_core::state::State;

use crate::activity::Activity;
use crate::bus::{Answer, Failure, JoinSettings, NewRule};
use crate::driver::Driver;
use crate::home::Home;
use crate::store::SqliteStore;

pub struct Preferences {
    own: Vec<PathBuf>,
    home: PathBuf,
}
struct Own(Vec<Vec<u8>>);
impl Select for Own {
    fn travels(&self, path: &[u8], _is_dir: bool) -> bool {
        !self.0.iter().any(|own| path == own.as_slice() || (path.starts_with(own) && path[own.len()] == b'/')) && !path.starts_with(b".config/dconf") && !path.starts_with(b".cache")
    }
}
impl Preferences {
    pub fn new(paths: &Paths, _join: JoinSettings, _bus: bool, _activity: Arc<Activity>) -> Self {
        Self { own: paths.own().iter().map(|p| p.to_path_buf()).collect(), home: paths.home.clone() }
    }
    pub fn shipped(paths: &Paths) -> Self {
        Self { own: Vec::new(), home: paths.home.clone() }
    }
    pub fn load(&self, _state: &State<SqliteStore>, _device: DeviceId) -> anyhow::Result<()> {
        Ok(())
    }
    pub fn select(&self) -> Box<dyn Select + Send> {
        use std::os::unix::ffi::OsStrExt;
        Box::new(Own(self.own.iter().filter_map(|p| p.strip_prefix(&self.home).ok()).map(|p| p.as_os_str().as_bytes().to_vec()).collect()))
    }
    pub fn unwatched(&self) -> Vec<PathBuf> {
        self.own.clone()
    }
    pub async fn run(self: Arc<Self>, _driver: Driver) {
        std::future::pending::<()>().await
    }
    pub async fn flush(&self) {}
    pub fn account_has(&self, _key: String, _device: Option<DeviceId>, _value: Option<SettingValue>, _by: String, _wall: u64, _driver: &Driver) {}
    pub fn why(&self, _below: &[u8], _is_dir: bool) -> Value {
        json!({})
    }
    pub fn asking(&self, _paths: &Paths) -> Value {
        json!([])
    }
    pub fn rules(&self) -> Value {
        json!([])
    }
    pub async fn add_rule(&self, _home: &Home, _rule: NewRule) -> Answer {
        Err(Failure::bug("x"))
    }
    pub async fn remove_rule(&self, _home: &Home, _pattern: &str, _on: Option<&str>) -> Answer {
        Err(Failure::bug("x"))
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
