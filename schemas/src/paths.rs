//! Where Hearth keeps its own things on a machine: the same answer for daemon and command line.
//!
//! Everything follows the environment (`HOME`, `XDG_*`), never the password file, so that several machines can
//! run side by side on one computer. Nothing here touches the disk.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The directories of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The synced root.
    pub home: PathBuf,
    /// `config.toml` and drop-in policy of this machine.
    pub config: PathBuf,
    /// History and staging.
    pub data: PathBuf,
    /// Index, keys and root identity.
    pub state: PathBuf,
    /// What may be lost.
    pub cache: PathBuf,
    /// The private socket.
    pub runtime: PathBuf,
}

impl Paths {
    /// Resolves the directories from an environment; `uid` names the fallback runtime directory.
    /// `None` if `HOME` is not an absolute path.
    pub fn resolve(var: impl Fn(&str) -> Option<OsString>, uid: u32) -> Option<Self> {
        let absolute = |name: &str| var(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("HOME")?;
        let under = |name: &str, fallback: &str| absolute(name).unwrap_or_else(|| home.join(fallback)).join("hearth");
        let runtime = absolute("XDG_RUNTIME_DIR").unwrap_or_else(|| {
            let usual = PathBuf::from(format!("/run/user/{uid}"));
            if uid == 0 { under("XDG_STATE_HOME", ".local/state").join("run") } else { usual }
        });
        Some(Self {
            config: under("XDG_CONFIG_HOME", ".config"),
            data: under("XDG_DATA_HOME", ".local/share"),
            state: under("XDG_STATE_HOME", ".local/state"),
            cache: under("XDG_CACHE_HOME", ".cache"),
            runtime: runtime.join("hearth"),
            home,
        })
    }

    /// The private socket of the bus interface.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("bus")
    }

    /// Our own directories, which are never synced whatever a rule says.
    pub fn own(&self) -> [&Path; 5] {
        [&self.config, &self.data, &self.state, &self.cache, &self.runtime]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_decides_and_the_home_is_the_fallback() {
        let paths = Paths::resolve(
            |name| match name {
                "HOME" => Some("/h/a".into()),
                "XDG_STATE_HOME" => Some("/s".into()),
                "XDG_RUNTIME_DIR" => Some("/r".into()),
                "XDG_CACHE_HOME" => Some("relative".into()),
                _ => None,
            },
            1000,
        )
        .expect("HOME is set");
        assert_eq!(paths.state, Path::new("/s/hearth"));
        assert_eq!(paths.data, Path::new("/h/a/.local/share/hearth"));
        assert_eq!(paths.cache, Path::new("/h/a/.cache/hearth"));
        assert_eq!(paths.socket(), Path::new("/r/hearth/bus"));
        assert_eq!(Paths::resolve(|_| None, 1000), None);
    }
}
