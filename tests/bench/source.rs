//! A real source tree to sync: 20,000 files of programs that are on this computer anyway.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use hearth_tests::scratch::Scratch;

/// How many files the tree has.
pub(crate) const FILES: usize = 20_000;
/// Kinds of files that no rule has an opinion about.
const ENDINGS: [&str; 16] =
    ["rs", "c", "h", "cc", "cpp", "hpp", "py", "pl", "pm", "js", "ts", "md", "txt", "toml", "json", "S"];
/// Folder names that rules know as rebuilt.
const REBUILT: [&str; 4] = ["target", "build", "node_modules", "out"];

/// The tree, in a scratch folder of its own.
pub(crate) struct Source {
    scratch: Scratch,
}

impl Source {
    /// Copies files together until there are enough.
    pub(crate) fn collect() -> Result<Self> {
        Self::collect_some(FILES)
    }

    /// As [`Self::collect`], of so many files.
    pub(crate) fn collect_some(wanted: usize) -> Result<Self> {
        let source = Self { scratch: Scratch::new()? };
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let mut places: Vec<PathBuf> = fs::read_dir(home.join(".cargo/registry/src"))
            .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
            .unwrap_or_default();
        places.extend(["/usr/src", "/usr/include", "/usr/lib/python3", "/usr/share/doc"].map(PathBuf::from));
        let mut files = 0;
        for (number, place) in places.iter().enumerate() {
            copy(place, &source.path().join(number.to_string()), wanted, &mut files)?;
        }
        ensure!(files == wanted, "this computer has only {files} source files of the {wanted} that are needed");
        Ok(source)
    }

    /// Returns where it is.
    pub(crate) fn path(&self) -> PathBuf {
        self.scratch.path().join("tree")
    }
}

fn copy(place: &Path, target: &Path, wanted: usize, files: &mut usize) -> Result<()> {
    let mut left = vec![PathBuf::new()];
    while let Some(folder) = left.pop() {
        let Ok(entries) = fs::read_dir(place.join(&folder)) else { continue };
        let mut entries: Vec<_> = entries.filter_map(Result::ok).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if *files >= wanted {
                return Ok(());
            }
            let name = entry.file_name();
            let Some(text) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            let path = folder.join(text);
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && !REBUILT.contains(&text) && !text.ends_with(".egg-info") {
                left.push(path);
            } else if kind.is_file() && ENDINGS.iter().any(|ending| path.extension().is_some_and(|own| own == *ending))
            {
                let to = target.join(&path);
                fs::create_dir_all(to.parent().context("a file lies in a folder")?).context("making a folder")?;
                if fs::copy(entry.path(), &to).is_ok() {
                    *files += 1;
                }
            }
        }
    }
    Ok(())
}
