//! Real file systems on loop devices: power cuts at any write, unreadable sectors, history on each of them.
//!
//! `cargo powercut` cuts the power of two machines while one feeds the other, and starts them again on what was left of
//! their disks. `cargo filesystems` plays the ordinary story, and one of bad sectors, on each file system. Both need root,
//! loop devices and FUSE, so they are no part of `make test`; everything that they mount is in a mount namespace of
//! their own and goes with them.

mod image;
mod powercut;
mod recorder;
mod stories;
mod writes;

use std::env::var;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use hearth_tests::room::is_root;

use self::image::FileSystem;

const USAGE: &str = "usage: disks powercut|filesystems   (HEARTH_SEED, HEARTH_CUTS, HEARTH_FS=ext4|xfs|btrfs)";
/// Set once this program is in a mount namespace of its own.
const INSIDE: &str = "HEARTH_DISKS_INSIDE";
const USUAL_CUTS: usize = 12;

#[expect(clippy::print_stderr, reason = "a program for people")]
fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().context(USAGE)?;
    if what == "record" {
        return recorder::serve(&PathBuf::from(arguments.next().context("where to record")?));
    }
    if !is_root() {
        bail!("loop devices are root's alone; run this as root, in a virtual machine if you like");
    }
    if var(INSIDE).is_err() {
        let program = std::env::current_exe().context("finding this program")?;
        let mut inside = Command::new("unshare");
        inside.args(["--mount", "--propagation", "private", "--"]).arg(program).arg(what).env(INSIDE, "yes");
        return Err(inside.exec()).context("starting in a mount namespace of its own: is util-linux installed?");
    }
    let seed = number("HEARTH_SEED", 1)?;
    let systems = match var("HEARTH_FS") {
        Ok(name) => vec![FileSystem::named(&name).context(USAGE)?],
        Err(_) => FileSystem::ALL.to_vec(),
    };
    match what.as_str() {
        "powercut" => {
            let cuts = usize::try_from(number("HEARTH_CUTS", USUAL_CUTS as u64)?)?;
            systems.into_iter().try_for_each(|system| powercut::play(system, seed, cuts))
        }
        "filesystems" => systems.into_iter().try_for_each(stories::play),
        _ => bail!(USAGE),
    }
}

fn number(name: &str, usual: u64) -> Result<u64> {
    var(name).map_or(Ok(usual), |text| text.parse().with_context(|| format!("{name} is not a number")))
}

#[expect(clippy::print_stderr, reason = "a program for people")]
fn say(text: &str) {
    eprintln!("{text}");
}
