//! `config.toml` of this machine: what a person may set for it alone.
//!
//! A file that cannot be understood changes nothing: all defaults hold, and `status` says what is wrong.

use std::io::ErrorKind;
use std::path::Path;

use serde::Deserialize;
use syncd_core::brake::{Limits, Share};

/// What can be set.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// When removals and replacements are held until a person says whether they were meant.
    pub brakes: Brakes,
    /// How long, and how much, history is kept.
    pub history: History,
    /// How much of the disk is left free.
    pub disk: Free,
    /// Ways to other machines beside the relay.
    pub network: Ways,
}

/// The section `[network]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ways {
    /// Whether there may be any.
    pub direct: bool,
    /// Whether this machine is announced on its local networks, and others are looked for there.
    pub nearby: bool,
    /// Whether the router is asked for a port.
    pub ask_router: bool,
}

impl Default for Ways {
    fn default() -> Self {
        Self { direct: true, nearby: true, ask_router: true }
    }
}

/// The section `[disk]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Free {
    /// MiB that what comes from other machines leaves free.
    pub keep_free_mib: u64,
    /// Or this share of the disk, in percent, if that is more; a tenth of it at most.
    pub keep_free_percent: u64,
}

impl Default for Free {
    fn default() -> Self {
        Self { keep_free_mib: 2048, keep_free_percent: 5 }
    }
}

/// The section `[history]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct History {
    /// Days after which a displaced content goes.
    pub days: u64,
    /// Share of the disk that history may take, in percent; beyond it the oldest goes.
    pub percent: u64,
}

impl Default for History {
    fn default() -> Self {
        Self { days: 90, percent: 10 }
    }
}

/// The section `[brakes]`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Brakes {
    /// Whether anything is ever held.
    pub enabled: bool,
    /// Items that may be removed within the window.
    pub removes: u64,
    /// Or this share of all items, in percent, if that is more.
    pub remove_percent: u64,
    /// Bytes that may be removed within the window, in MiB.
    pub remove_mib: u64,
    /// Items whose content may be replaced within the window.
    pub replaces: u64,
    /// Or this share of all items, in percent, if that is more.
    pub replace_percent: u64,
    /// Length of the window, in minutes.
    pub minutes: u64,
}

impl Default for Brakes {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            enabled: true,
            removes: limits.removes.items,
            remove_percent: limits.removes.percent,
            remove_mib: limits.bytes >> 20,
            replaces: limits.replaces.items,
            replace_percent: limits.replaces.percent,
            minutes: limits.window_ms / 60_000,
        }
    }
}

impl Brakes {
    /// The limits that these are.
    pub fn limits(&self) -> Limits {
        if !self.enabled {
            return Limits::OFF;
        }
        Limits {
            removes: Share { items: self.removes, percent: self.remove_percent },
            bytes: self.remove_mib.saturating_mul(1 << 20),
            replaces: Share { items: self.replaces, percent: self.replace_percent },
            window_ms: self.minutes.max(1).saturating_mul(60_000),
        }
    }
}

impl Config {
    /// Reads the file, if there is one; else, or where it cannot be understood, the defaults, with what is wrong.
    pub fn read(path: &Path) -> (Self, Option<String>) {
        let trouble = |what: String| (Self::default(), Some(format!("{} {what}", path.display())));
        match std::fs::read_to_string(path) {
            Ok(text) => match toml::from_str(&text) {
                Ok(config) => (config, None),
                Err(error) => trouble(format!("is not understood: {}", error.message())),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => (Self::default(), None),
            Err(error) => trouble(format!("cannot be read: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Config, Option<String>) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        Config::read(file.path())
    }

    #[test]
    fn what_is_not_set_is_as_usual() {
        let (config, trouble) = read("[brakes]\nremoves = 7\n");
        assert_eq!(trouble, None);
        assert_eq!(config.brakes, Brakes { removes: 7, ..Brakes::default() });
        assert_eq!(Config::default().brakes.limits(), Limits::default());
        assert_eq!(read("[brakes]\nenabled = false\n").0.brakes.limits(), Limits::OFF);
    }

    #[test]
    fn the_page_about_it_shows_the_defaults() {
        let page = include_str!("../../../docs/user/config.md");
        let example = page.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
        assert_eq!(read(example), (Config::default(), None));
    }

    #[test]
    fn a_word_that_is_not_known_changes_nothing_and_is_told() {
        for text in ["[brakes]\nremove = 7\n", "[brakes]\nremoves = \"many\"\n", "brakes"] {
            let (config, trouble) = read(text);
            assert_eq!(config, Config::default());
            assert!(trouble.expect("told").contains("not understood"), "{text}");
        }
    }
}
