//! Which files are merged, and how: the formats that a path may have.
//!
//! Drawn narrowly, because what is left out costs a person a look at two files, and what is wrongly taken in may cost
//! them one. Paths are relative to the home.
//!
//! | where | what is merged |
//! | --- | --- |
//! | a dotfile of the home, as `.bashrc`; a file in a dot directory of the home, as `.cargo/config.toml` | text, by the ending of its name |
//! | below `.config/` | the same; names without an ending only at `.config/NAME` and `.config/PROGRAM/NAME` |
//! | below `.local/share/` | desktop entries, keyfiles and TOML, never by line; its JSON is what programs store, not what is set |
//! | `.gitignore` and its like, anywhere | as a set |
//! | known hosts, authorized keys, bookmarks, word lists, histories of shells, at their places | as a set |
//! | `.git/config`, and `.git/info/exclude` | as a keyfile, and as a set |
//! | everything else: documents, source code, anything in a checkout, a browser's profile or a game's data | nothing |
//!
//! Formats without a reader here, in which a line depends on those around it, are not merged: YAML, XML, Python.

use crate::git::{self, Part};
use crate::merge::set::Kind;

/// A way to read and merge a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Lines,
    Keyfile,
    Json,
    Toml,
    Set(Kind),
}

/// Where a file lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Config,
    Data,
    Elsewhere,
}

/// Names that hold patterns to ignore, wherever they are.
const IGNORE_LISTS: [&str; 8] = [
    ".dockerignore",
    ".eslintignore",
    ".fdignore",
    ".gitignore",
    ".ignore",
    ".npmignore",
    ".prettierignore",
    ".rgignore",
];
/// Files that are sets of lines in any order.
const SETS: [&str; 8] = [
    ".config/gtk-3.0/bookmarks",
    ".config/gtk-4.0/bookmarks",
    ".gtk-bookmarks",
    ".ssh/allowed_signers",
    ".ssh/authorized_keys",
    ".ssh/authorized_keys2",
    ".ssh/known_hosts",
    ".ssh/known_hosts2",
];
/// Files with typed commands.
const HISTORIES: [&str; 13] = [
    ".bash_history",
    ".histfile",
    ".irb_history",
    ".local/share/fish/fish_history",
    ".mysql_history",
    ".node_repl_history",
    ".psql_history",
    ".python_history",
    ".rediscli_history",
    ".sh_history",
    ".sqlite_history",
    ".zhistory",
    ".zsh_history",
];
/// Directories whose files belong together, are signed or are another tool's, at any depth.
const CLOSED_ANYWHERE: [&str; 8] =
    [".bzr", ".cache", ".git", ".hg", ".password-store", ".svn", "node_modules", "site-packages"];
/// The same below `.config`, by how the names begin: profiles of browsers, and what games save.
const CLOSED_CONFIG: [&str; 10] = [
    "BraveSoftware",
    "chromium",
    "google-chrome",
    "librewolf",
    "microsoft-edge",
    "mozilla",
    "opera",
    "thunderbird",
    "unity3d",
    "vivaldi",
];

/// The formats that a file may have by its path, to be tried in this order; empty if it is not merged.
pub(super) fn of(path: &[u8]) -> &'static [Format] {
    if let Some(place) = git::place(path) {
        return in_repository(path, place.part);
    }
    let Ok(path) = std::str::from_utf8(path) else { return &[] };
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    if directory.split('/').any(|part| CLOSED_ANYWHERE.contains(&part)) {
        return &[];
    }
    let set = set(path, directory, name);
    if !set.is_empty() {
        return set;
    }
    match place(directory, name) {
        Place::Config => config(name),
        Place::Data => data(name),
        Place::Elsewhere => &[],
    }
}

/// What git itself writes is merged by [`git::refs`], if at all.
fn in_repository(path: &[u8], part: Part<'_>) -> &'static [Format] {
    match part {
        Part::Config => &[Format::Keyfile],
        Part::Still if path.ends_with(b"/info/exclude") => &[Format::Set(Kind::OrderedLines)],
        _ => &[],
    }
}

fn set(path: &str, directory: &str, name: &str) -> &'static [Format] {
    let words = match directory.split('/').collect::<Vec<_>>()[..] {
        [""] => name.starts_with(".hunspell_"),
        [".config", "enchant"] => name.ends_with(".dic") || name.ends_with(".exc"),
        [".config", tool] => tool.starts_with("hunspell") && name.ends_with(".dic"),
        [".vim", "spell"] | [".config", "nvim", "spell"] => name.ends_with(".add"),
        _ => false,
    };
    let ignored = IGNORE_LISTS.contains(&name)
        || [".gitignore_global", ".config/git/ignore", ".config/fd/ignore"].contains(&path);
    match () {
        () if ignored => &[Format::Set(Kind::OrderedLines)],
        () if words || SETS.contains(&path) => &[Format::Set(Kind::Lines)],
        () if HISTORIES.contains(&path) => &[Format::Set(Kind::History)],
        () => &[],
    }
}

fn place(directory: &str, name: &str) -> Place {
    match directory.split('/').collect::<Vec<_>>()[..] {
        [""] if name.starts_with('.') => Place::Config,
        [".config", below, ..] if CLOSED_CONFIG.iter().any(|closed| below.starts_with(closed)) => Place::Elsewhere,
        // Deep down, a name without an ending is a program's log or lock rather than what a person set.
        [".config", _, _, ..] if ending(name).is_empty() && !name.starts_with('.') => Place::Elsewhere,
        [".config", ..] => Place::Config,
        [".local", "share", ..] => Place::Data,
        [only] if only.starts_with('.') => Place::Config,
        _ => Place::Elsewhere,
    }
}

fn config(name: &str) -> &'static [Format] {
    match ending(name).as_str() {
        "json" | "jsonc" => &[Format::Json],
        "toml" => &[Format::Toml],
        "desktop" | "directory" | "dirs" | "keyfile" => &[Format::Keyfile],
        "" | "cfg" | "colors" | "common" | "conf" | "config" | "env" | "ini" | "list" | "local" | "mount" | "path"
        | "profile" | "properties" | "rc" | "service" | "slice" | "socket" | "source" | "target" | "theme"
        | "timer" => &[Format::Keyfile, Format::Lines],
        "aliases" | "bash" | "csh" | "css" | "el" | "exports" | "fish" | "functions" | "kdl" | "ksh" | "lua"
        | "rasi" | "scm" | "sh" | "tcsh" | "tmux" | "vim" | "zsh" => &[Format::Lines],
        _ => &[],
    }
}

fn data(name: &str) -> &'static [Format] {
    match ending(name).as_str() {
        "colors" | "conf" | "desktop" | "directory" | "ini" | "keyfile" | "list" | "theme" => &[Format::Keyfile],
        "toml" => &[Format::Toml],
        _ => &[],
    }
}

/// What follows the last dot of a name, unless that is its first letter or a version.
fn ending(name: &str) -> String {
    let ending = name.trim_start_matches('.').rsplit_once('.').map_or("", |(_, ending)| ending);
    if ending.bytes().all(|byte| byte.is_ascii_digit()) { String::new() } else { ending.to_ascii_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_merged_is_said_by_the_path() {
        let (lines, keys) = (&[Format::Lines][..], &[Format::Keyfile, Format::Lines][..]);
        let (keyfile, json, toml) = (&[Format::Keyfile][..], &[Format::Json][..], &[Format::Toml][..]);
        let sets = [Kind::Lines, Kind::OrderedLines, Kind::History].map(|kind| [Format::Set(kind)]);
        let cases: [(&str, &[Format]); 45] = [
            (".bashrc", keys),
            (".zshrc.local", keys),
            (".gitconfig", keys),
            (".gtkrc-2.0", keys),
            (".config/nvim/init.lua", lines),
            (".config/fish/config.fish", lines),
            (".config/Code/User/settings.json", json),
            (".cargo/config.toml", toml),
            (".config/mimeapps.list", keys),
            (".config/user-dirs.dirs", keyfile),
            (".config/autostart/a.desktop", keyfile),
            (".local/share/applications/a.desktop", keyfile),
            (".local/share/applications/mimeapps.list", keyfile),
            (".ssh/config", keys),
            (".ssh/known_hosts", &sets[0]),
            (".ssh/authorized_keys", &sets[0]),
            (".config/gtk-3.0/bookmarks", &sets[0]),
            (".config/enchant/de.dic", &sets[0]),
            (".hunspell_en_US", &sets[0]),
            ("Projects/a/.gitignore", &sets[1]),
            (".config/git/ignore", &sets[1]),
            (".bash_history", &sets[2]),
            (".local/share/fish/fish_history", &sets[2]),
            ("Documents/letter.txt", &[]),
            ("Documents/config.toml", &[]),
            ("Documents/.hidden.conf", &[]),
            ("Projects/a/src/main.rs", &[]),
            ("Projects/a/package.json", &[]),
            ("Projects/a/Makefile", &[]),
            (".config/app/config.yaml", &[]),
            (".config/app/state.xml", &[]),
            (".config/ranger/commands.py", &[]),
            (".config/nvim/.git/config", keyfile),
            (".git/HEAD", &[]),
            (".config/i3/config", keys),
            (".config/app/Local Storage/leveldb/LOG", &[]),
            (".config/zsh/rc.d/.zshrc", keys),
            (".config/chromium/Default/Preferences", &[]),
            (".config/unity3d/a/b/save.json", &[]),
            (".local/share/game/save.json", &[]),
            (".local/share/nvim/lazy/a/init.lua", &[]),
            (".cargo/registry/a/Cargo.toml", &[]),
            (".bashrc.bak", &[]),
            (".ssh/id_ed25519.pub", &[]),
            ("bashrc", &[]),
        ];
        for (path, want) in cases {
            assert_eq!(of(path.as_bytes()), want, "{path}");
        }
        assert!(of(b".config/\xff.conf").is_empty());
    }
}
