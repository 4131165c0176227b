//! Images of file systems, and mounting them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use hearth_tests::process::succeed;

const LIMIT: Duration = Duration::from_secs(120);
/// Enough for each of them; XFS takes no less than 300 MiB.
const IMAGE_BYTES: u64 = 400 << 20;

/// A file system that homes are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
}

impl FileSystem {
    pub(crate) const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|system| system.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Whether files can share their blocks.
    pub(crate) fn shares_blocks(self) -> bool {
        match self {
            Self::Ext4 => false,
            Self::Xfs | Self::Btrfs => true,
        }
    }

    /// Bytes that reach a disk together or not at all. Btrfs writes its superblock in place, and relies on 4 KiB.
    pub(crate) fn sector(self) -> usize {
        match self {
            Self::Ext4 | Self::Xfs => 512,
            Self::Btrfs => 4096,
        }
    }

    /// Ext4 as it is would flush what is renamed over another file, for those who forget to.
    fn options(self) -> &'static str {
        match self {
            Self::Ext4 => "loop,nodiscard,noauto_da_alloc",
            Self::Xfs => "loop,nodiscard",
            Self::Btrfs => "loop,nodiscard,commit=5",
        }
    }

    /// Makes an empty one in a file.
    pub(crate) fn make(self, image: &Path) -> Result<()> {
        let file = File::create(image).with_context(|| format!("making {}", image.display()))?;
        file.set_len(IMAGE_BYTES).context("making room for an image")?;
        let mut make = Command::new(format!("mkfs.{}", self.name()));
        match self {
            Self::Ext4 => make.args(["-q", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0"]),
            Self::Xfs | Self::Btrfs => make.args(["-q", "-K"]),
        };
        succeed(make.arg(image), LIMIT).map(drop)
    }
}

/// A mounted image, until it is dropped.
#[derive(Debug)]
pub(crate) struct Mounted {
    at: PathBuf,
    up: bool,
}

impl Mounted {
    /// Mounts an image, which brings its journal in order.
    pub(crate) fn new(system: FileSystem, image: &Path, at: &Path) -> Result<Self> {
        fs::create_dir_all(at).with_context(|| format!("making {}", at.display()))?;
        let mut mount = Command::new("mount");
        mount.args(["-t", system.name(), "-o", system.options()]).arg(image).arg(at);
        succeed(&mut mount, LIMIT)?;
        if system == FileSystem::Ext4 {
            // Nobody's own, and in everybody's home.
            let _ = fs::remove_dir(at.join("lost+found"));
        }
        Ok(Self { at: at.to_path_buf(), up: true })
    }

    /// Unmounts it, and says if that cannot be done.
    pub(crate) fn unmount(mut self) -> Result<()> {
        self.up = false;
        succeed(Command::new("umount").arg(&self.at), LIMIT).map(drop)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.up {
            // After a failure something may still be open in it.
            let _ = succeed(Command::new("umount").arg("--lazy").arg(&self.at), LIMIT);
        }
    }
}

/// Copies an image; what was never written takes no room.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    succeed(Command::new("cp").arg("--sparse=always").arg(from).arg(to), LIMIT).map(drop)
}

/// One stretch of a file on its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) bytes: u64,
    /// Another file has it, too.
    pub(crate) shared: bool,
}

/// In which stretches a file lies on its device.
pub(crate) fn extents(path: &Path) -> Result<Vec<Extent>> {
    let mut ask = Command::new("filefrag");
    let said = succeed(ask.args(["-s", "-v", "-b1"]).arg(path), LIMIT).context("asking where a file lies")?;
    let found: Vec<Extent> = said.lines().filter_map(extent).collect();
    anyhow::ensure!(!found.is_empty(), "no extent in: {said}");
    Ok(found)
}

/// A line like `   0:        0..    4095:   34816..   38911:   4096:   last,shared,eof`.
fn extent(line: &str) -> Option<Extent> {
    let mut parts = line.split(':');
    parts.next()?.trim().parse::<u32>().ok()?;
    let bytes = parts.nth(2)?.trim().parse().ok()?;
    Some(Extent { bytes, shared: line.contains("shared") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_read() {
        let line = "   0:        0..    8191:   139264..    147455:   8192:             last,shared,eof";
        assert_eq!(extent(line), Some(Extent { bytes: 8192, shared: true }));
        assert_eq!(extent(" ext:     logical_offset:        physical_offset: length:   expected: flags:"), None);
    }
}
