//! What a file has beside its content: extended attributes, several names, holes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use anyhow::{Result, ensure};
use hearth_tests::pair::{LATER, Pair, SOON};
use hearth_tests::tree;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, removexattr, setxattr};

#[test]
fn extended_attributes_names_and_modes_change_on_either_side() -> Result<()> {
    let pair = Pair::joined_with(|laptop, _| {
        laptop.write("picture.jpg", "a picture")?;
        setxattr(laptop.path("picture.jpg"), "user.xdg.comment", b"the lake", XattrFlags::empty())?;
        laptop.write("one/first", tree::noise(1, 300_000))?;
        fs::hard_link(laptop.path("one/first"), laptop.path("one/second"))?;
        Ok(())
    })?;
    pair.assert_alike()?;
    let (laptop, desktop) = (&pair.laptop, &pair.desktop);

    setxattr(desktop.path("picture.jpg"), "user.rating", b"5", XattrFlags::empty())?;
    removexattr(desktop.path("picture.jpg"), "user.xdg.comment")?;
    fs::hard_link(desktop.path("one/first"), desktop.path("third"))?;
    pair.settle(SOON)?;
    pair.assert_alike()?;
    ensure!(fs::metadata(laptop.path("third"))?.nlink() == 3, "three names of one file");

    // Written to by one of its names, in place.
    OpenOptions::new().write(true).open(laptop.path("third"))?.write_all_at(b"changed", 1000)?;
    fs::set_permissions(laptop.path("picture.jpg"), Permissions::from_mode(0o444))?;
    pair.settle(SOON)?;
    pair.assert_alike()?;
    ensure!(fs::metadata(desktop.path("one/second"))?.ino() == fs::metadata(desktop.path("third"))?.ino());

    // A read-only file, and a name that goes its own way.
    setxattr(laptop.path("picture.jpg"), "user.rating", b"4", XattrFlags::empty())?;
    fs::write(desktop.path("one/draft"), tree::noise(1, 300_000))?;
    fs::rename(desktop.path("one/draft"), desktop.path("one/second"))?;
    pair.settle(SOON)?;
    pair.assert_alike()?;
    ensure!(fs::metadata(laptop.path("one/second"))?.nlink() == 1, "a file of its own");
    ensure!(fs::metadata(laptop.path("third"))?.ino() == fs::metadata(laptop.path("one/first"))?.ino());
    Ok(())
}

#[test]
fn a_file_of_holes_travels_as_holes_and_grows_an_island() -> Result<()> {
    const SIZE: u64 = 1 << 30;
    let pair = Pair::joined()?;
    let before = pair.lab.traffic("desktop")?.received;
    let file = File::create(pair.laptop.path("sparse.data"))?;
    file.set_len(SIZE)?;
    file.write_all_at(&tree::noise(3, 100_000), 700 << 20)?;
    drop(file);
    pair.settle(LATER)?;
    let there = fs::metadata(pair.desktop.path("sparse.data"))?;
    ensure!(there.len() == SIZE && there.blocks() * 512 < 8 << 20, "{} blocks", there.blocks());
    let received = pair.lab.traffic("desktop")?.received - before;
    ensure!(received < 1 << 20, "{received} bytes travelled");
    OpenOptions::new().write(true).open(pair.desktop.path("sparse.data"))?.write_all_at(b"an island", 300 << 20)?;
    pair.settle(LATER)?;
    let here = fs::metadata(pair.laptop.path("sparse.data"))?;
    ensure!(here.len() == SIZE && here.blocks() * 512 < 16 << 20, "{} blocks", here.blocks());
    pair.assert_alike()
}

#[test]
fn sockets_pipes_and_devices_stay_and_a_setuid_bit_does_not_travel() -> Result<()> {
    let pair = Pair::joined_with(|laptop, _| {
        laptop.write("run/readme.txt", "beside them")?;
        laptop.write("tool", "runs as its owner")?;
        fs::set_permissions(laptop.path("tool"), Permissions::from_mode(0o6755))?;
        let mode = Mode::from_raw_mode(0o600);
        drop(std::os::unix::net::UnixListener::bind(laptop.path("run/agent.socket"))?);
        mknodat(CWD, laptop.path("run/pipe"), FileType::Fifo, mode, 0)?;
        if hearth_tests::room::is_root() {
            mknodat(CWD, laptop.path("run/null"), FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3))?;
        }
        Ok(())
    })?;
    let (laptop, desktop) = (&pair.laptop, &pair.desktop);
    pair.settle(LATER)?;
    let status = laptop.status()?;
    ensure!(status.in_sync && status.problems.is_empty(), "{status:?}");
    let mut named: Vec<(String, String)> = status.staying.first.into_iter().map(|s| (s.path, s.what)).collect();
    named.retain(|(path, _)| path != "run/null");
    let expected = [("run/agent.socket", "socket"), ("run/pipe", "pipe"), ("tool", "its setuid or setgid bit")];
    ensure!(named == expected.map(|(path, what)| (path.to_owned(), what.to_owned())), "{named:?}");
    let shown = laptop.hearth(["status"])?;
    ensure!(String::from_utf8_lossy(&shown.stdout).contains("run/pipe (pipe)"), "{shown:?}");
    let mode = |machine: &hearth_tests::machine::Machine| fs::metadata(machine.path("tool")).map(|stat| stat.mode());
    ensure!(mode(laptop)? & 0o7777 == 0o6755 && mode(desktop)? & 0o7777 == 0o755, "the bits stay where they are");
    ensure!(fs::read_dir(desktop.path("run"))?.count() == 1 && desktop.status()?.staying.count == 0);
    let why: serde_json::Value =
        laptop.ask([std::ffi::OsStr::new("why"), laptop.home_inside().join("tool").as_os_str()])?;
    ensure!(why["travels"] == true && why["without"] == "its setuid or setgid bit", "{why}");

    // What becomes of the file elsewhere takes no right away here that was not asked for, and gives none.
    desktop.write("run/later.txt", "more")?;
    fs::remove_file(laptop.path("run/pipe"))?;
    pair.settle(SOON)?;
    ensure!(laptop.status()?.staying.first.iter().all(|stays| stays.path != "run/pipe"), "it is gone");
    Ok(())
}
