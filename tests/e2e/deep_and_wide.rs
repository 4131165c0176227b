//! Trees that are wider or deeper than most.

use std::fs::{self, File};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hearth_tests::pair::{LATER, Pair};
use rustix::fs::{AtFlags, Mode, OFlags};

/// Files in one directory; enough to show what is slow for each of them. `HEARTH_WIDE` says another number, for who measures.
const WIDE: usize = 5_000;
/// Directories in one another, with names of 200 bytes: a path of more than 5,000 bytes.
const DEEP: usize = 26;

#[test]
fn a_directory_of_thousands_travels_whole() -> Result<()> {
    let wide = std::env::var("HEARTH_WIDE").ok().and_then(|number| number.parse().ok()).unwrap_or(WIDE);
    let limit = LATER * u32::try_from(wide / WIDE)?.max(1);
    let pair = Pair::joined()?;
    let mut begun = Instant::now();
    #[expect(clippy::print_stderr, reason = "whoever measures reads it")]
    let mut took = |what: &str| {
        eprintln!("{wide} files: {what} after {:?}", begun.elapsed());
        begun = Instant::now();
    };
    for i in 0..wide {
        pair.laptop.write(format!("mail/{i}"), format!("message {i}"))?;
    }
    took("written");
    pair.settle(limit)?;
    took("arrived");
    ensure!(fs::read_dir(pair.desktop.path("mail"))?.count() == wide);
    for i in (0..wide).step_by(10) {
        fs::rename(pair.desktop.path(format!("mail/{i}")), pair.desktop.path(format!("mail/{i}:2,S")))?;
    }
    pair.settle(limit)?;
    took("a tenth renamed");
    fs::write(pair.laptop.path("mail/1"), "one of them")?;
    pair.settle(limit)?;
    took("one changed");
    pair.assert_alike()
}

#[test]
fn a_path_longer_than_the_system_takes_in_one_call_travels() -> Result<()> {
    let name = "d".repeat(200);
    let pair = Pair::joined()?;
    let mut dir = open(None, &pair.laptop.home())?;
    for _ in 0..DEEP {
        rustix::fs::mkdirat(&dir, &name, Mode::from_raw_mode(0o755))?;
        dir = open(Some(&dir), name.as_ref())?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let file: File = rustix::fs::openat(&dir, "bottom.txt", flags, Mode::from_raw_mode(0o644))?.into();
    std::io::Write::write_all(&mut &file, b"very deep")?;
    drop(file);
    pair.settle(LATER)?;
    let mut there = open(None, &pair.desktop.home())?;
    for depth in 0..DEEP {
        there = open(Some(&there), name.as_ref()).with_context(|| format!("at depth {depth}"))?;
    }
    let stat = rustix::fs::statat(&there, "bottom.txt", AtFlags::SYMLINK_NOFOLLOW)?;
    ensure!(stat.st_size == 9, "{} bytes", stat.st_size);
    Ok(())
}

fn open(dir: Option<&std::os::fd::OwnedFd>, path: &std::path::Path) -> Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(match dir {
        Some(dir) => rustix::fs::openat(dir, path, flags, Mode::empty())?,
        None => rustix::fs::open(path, flags, Mode::empty())?,
    })
}
