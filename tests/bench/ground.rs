//! Where every tool runs: two machines with a network namespace and a fresh ext4 file system each, and a relay's host.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hearth_tests::lab::Lab;
use hearth_tests::link::Line;
use hearth_tests::process::succeed;
use hearth_tests::room::{Room, is_root};
use hearth_tests::scratch::Scratch;

use crate::tools::On;

const LIMIT: Duration = Duration::from_secs(120);
/// Room for the largest case, twice; what is not written takes no room.
const IMAGE_BYTES: u64 = 12 << 30;

/// The two machines, for one tool and one round. Everything goes with this value.
pub(crate) struct Ground {
    pub(crate) laptop: Side,
    pub(crate) desktop: Side,
    pub(crate) lab: Lab,
    scratch: Scratch,
}

/// One machine.
pub(crate) struct Side {
    pub(crate) name: &'static str,
    /// The address of its network interface.
    pub(crate) ip: &'static str,
    pub(crate) room: Rc<Room>,
    /// Its file system.
    pub(crate) folder: PathBuf,
}

impl Ground {
    /// Both on one network, or the desktop at the end of a line.
    pub(crate) fn new(line: Option<Line>) -> Result<Self> {
        ensure!(is_root(), "the benchmark mounts fresh file systems: run it as root");
        let scratch = Scratch::new()?;
        let (lab, ip) = match line {
            None => (Lab::new(&["laptop", "desktop"], scratch.path())?, "10.77.0.3"),
            Some(line) => {
                let mut lab = Lab::new(&["laptop"], scratch.path())?;
                lab.add_far("desktop", 3, line)?;
                (lab, "10.77.1.3")
            }
        };
        let laptop = Side::new("laptop", "10.77.0.2", &lab, scratch.path())?;
        let desktop = Side::new("desktop", ip, &lab, scratch.path())?;
        Ok(Self { laptop, desktop, lab, scratch })
    }

    /// One of the machines.
    pub(crate) fn side(&self, on: On) -> &Side {
        match on {
            On::Laptop => &self.laptop,
            On::Desktop => &self.desktop,
        }
    }

    /// The folder for what is no machine's own.
    pub(crate) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Bytes through the desktop's interface so far, headers included.
    pub(crate) fn wire(&self) -> Result<u64> {
        Ok(self.lab.traffic("desktop")?.total())
    }

    /// Writes out what earlier rounds have left to write, so that nobody waits for them.
    pub(crate) fn flush() -> Result<()> {
        succeed(&mut Command::new("sync"), LIMIT).map(drop)
    }
}

impl Side {
    fn new(name: &'static str, ip: &'static str, lab: &Lab, scratch: &Path) -> Result<Self> {
        let (image, folder) = (scratch.join(format!("{name}.ext4")), scratch.join(name));
        File::create(&image).and_then(|file| file.set_len(IMAGE_BYTES)).context("making an image")?;
        let options = ["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-N", "1500000"];
        succeed(Command::new("mkfs.ext4").args(options).arg(&image), LIMIT)?;
        fs::create_dir(&folder).context("making a mount point")?;
        succeed(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&folder), LIMIT)?;
        // Mounted by now, so that it is unmounted whatever happens next.
        let side = Self { name, ip, room: Rc::clone(lab.host(name)?), folder };
        fs::remove_dir(side.folder.join("lost+found")).context("making an empty file system")?;
        Ok(side)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // Somebody may have something open for a moment longer; the image's file goes at the same time.
        let _ = succeed(Command::new("umount").arg("--lazy").arg(&self.folder), LIMIT);
    }
}
