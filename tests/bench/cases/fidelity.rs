//! What of a tree arrives: 47 properties, one each.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, FileTimes, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, mknodat, setxattr, utimensat};

use crate::report::Report;
use crate::tools::{On, Which};

/// What of an entry is compared between the two machines.
#[derive(Clone, Copy)]
enum Aspect {
    /// Kind, and content or target.
    Content,
    Mode,
    /// Of the last change, in whole seconds.
    Second,
    /// The same to the nanosecond.
    Nanosecond,
    /// User and group.
    Owner,
    /// The value of `user.note`.
    Note,
    /// That it takes much less of the disk than its length.
    Holes,
    /// That it is one file with this one.
    Twin(&'static [u8]),
}

use Aspect::{Content, Holes, Mode as ModeBits, Nanosecond, Note, Owner, Second, Twin};

/// A property, where it is looked at, and how.
type Property = (&'static str, &'static [u8], Aspect);

const LONG: [u8; 255] = [b'n'; 255];
const DEEP: &str = "deep/directory in a directory/";
const ODD_NAMES: [&[u8]; 13] = [
    b" spaced ",
    b"two\nlines",
    b"caf\xe9",
    b"\xc3\xa9tude",
    b"e\xcc\x81cole",
    b"both \xc3\xa9",
    b"both e\xcc\x81",
    b"CASE",
    &LONG,
    b"--delete",
    b"back\\slash",
    b"a:b*c?.",
    b".hidden",
];
const AT_FIRST: &[Property] = &[
    ("content", b"plain", Content),
    ("an empty file", b"empty", Content),
    ("an executable", b"program", ModeBits),
    ("a mode for the owner alone", b"private", ModeBits),
    ("a mode without writing", b"locked", ModeBits),
    ("the second of a change", b"old", Second),
    ("its nanosecond", b"old", Nanosecond),
    ("a time before 1970", b"ancient", Nanosecond),
    ("a time to come", b"future", Second),
    ("the time of a link", b"link", Nanosecond),
    ("the time of a directory", b"album", Second),
    ("a link", b"link", Content),
    ("an absolute link", b"absolute", Content),
    ("a link to nothing", b"dangling", Content),
    ("a link out of the tree", b"outside", Content),
    ("a link to a directory", b"to album", Content),
    ("an empty directory", b"nothing in it", Content),
    ("the mode of a directory", b"own", ModeBits),
    ("a directory without writing", b"closed/inside", Content),
    ("a second name", b"twin", Twin(b"plain")),
    ("a second name elsewhere", b"album/twin", Twin(b"plain")),
    ("holes", b"holes", Holes),
    ("an attribute of a file", b"noted", Note),
    ("an attribute of a directory", b"album", Note),
    ("a name with spaces around", b" spaced ", Content),
    ("a name of two lines", b"two\nlines", Content),
    ("a name that is not UTF-8", b"caf\xe9", Content),
    ("a composed name", b"\xc3\xa9tude", Content),
    ("a decomposed name", b"e\xcc\x81cole", Content),
    ("both forms of one name, composed", b"both \xc3\xa9", Content),
    ("both forms of one name, decomposed", b"both e\xcc\x81", Content),
    ("names that differ in case", b"CASE", Content),
    ("the other of them", b"case", Content),
    ("a name of 255 bytes", &LONG, Content),
    ("a name like an option", b"--delete", Content),
    ("a backslash", b"back\\slash", Content),
    ("what other systems forbid", b"a:b*c?.", Content),
    ("a hidden file", b".hidden", Content),
    ("a deep path", b"deep", Content),
    ("owner and group", b"owned", Owner),
    ("a named pipe", b"pipe", Content),
    ("a socket", b"socket", Content),
];
const LATER: &[Property] = &[
    ("another content of the same size and time", b"same", Content),
    ("another mode alone", b"plain mode", ModeBits),
    ("another time alone", b"plain time", Nanosecond),
    ("an attribute that came later", b"private", Note),
    ("a file that has become a directory", b"kind/now", Content),
];

/// Counts what arrives.
pub(crate) fn measure(which: Which, report: &mut Report) -> Result<()> {
    let mut tool = which.set_up(None)?;
    let tool = tool.as_mut();
    make(&tool.tree(On::Laptop)).context("making a tree of all kinds")?;
    tool.start()?;
    tool.settle_for_good()?;
    let (laptop, desktop) = (tool.tree(On::Laptop), tool.tree(On::Desktop));
    let mut missing = lacking(&laptop, &desktop, AT_FIRST);
    change(&laptop).context("changing it")?;
    tool.settle_for_good()?;
    missing.extend(lacking(&laptop, &desktop, LATER));
    let all = AT_FIRST.len() + LATER.len();
    report.note(&format!(
        "{}: of {all} properties {} do not arrive: {}",
        which.name(),
        missing.len(),
        missing.join(", ")
    ));
    report.sample("properties that arrive", which, (all - missing.len()) as f64, "of 47");
    tool.stop()
}

fn make(tree: &Path) -> Result<()> {
    for name in ["plain", "private", "locked", "program", "same", "plain mode", "plain time", "kind", "owned"] {
        fs::write(tree.join(name), format!("this is {name}\n"))?;
    }
    for name in ODD_NAMES {
        fs::write(at(tree, name), name)?;
    }
    fs::write(tree.join("case"), "small")?;
    fs::write(tree.join("empty"), "")?;
    for (name, mode) in [("program", 0o755), ("private", 0o600), ("locked", 0o444)] {
        fs::set_permissions(tree.join(name), Permissions::from_mode(mode))?;
    }
    for name in ["album", "nothing in it", "closed"] {
        fs::create_dir(tree.join(name))?;
    }
    DirBuilder::new().mode(0o700).create(tree.join("own"))?;
    fs::write(tree.join("closed/inside"), "in a closed directory")?;
    fs::set_permissions(tree.join("closed"), Permissions::from_mode(0o555))?;
    for (name, seconds, nanoseconds) in [("old", 1_000_000_000, 123_456_789), ("future", 4_000_000_000, 5)] {
        let file = File::create(tree.join(name))?;
        file.set_times(FileTimes::new().set_modified(UNIX_EPOCH + Duration::new(seconds, nanoseconds)))?;
    }
    File::create(tree.join("ancient"))?
        .set_times(FileTimes::new().set_modified(UNIX_EPOCH - Duration::from_secs(10_000_000)))?;
    for (name, target) in [
        ("link", "plain"),
        ("absolute", "/etc/hosts"),
        ("dangling", "nowhere"),
        ("outside", "../.."),
        ("to album", "album"),
    ] {
        symlink(target, tree.join(name))?;
    }
    fs::hard_link(tree.join("plain"), tree.join("twin"))?;
    fs::hard_link(tree.join("plain"), tree.join("album/twin"))?;
    File::create(tree.join("holes"))?.write_all_at(b"the end", 8 << 20)?;
    fs::write(tree.join("noted"), "with a note")?;
    for name in ["noted", "album"] {
        setxattr(tree.join(name), "user.note", b"mine", XattrFlags::empty())?;
    }
    let deep = tree.join(DEEP.repeat(40));
    fs::create_dir_all(&deep)?;
    fs::write(deep.join("bottom"), "at the bottom")?;
    chown(tree.join("owned"), Some(1000), Some(1000))?;
    lchown(tree.join("link"), None, None)?;
    mknodat(CWD, tree.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o644), 0)?;
    drop(UnixListener::bind(tree.join("socket"))?);
    let then = Timespec { tv_sec: 1_100_000_000, tv_nsec: 987_654_321 };
    let times = Timestamps { last_access: then, last_modification: then };
    for name in ["link", "album"] {
        utimensat(CWD, tree.join(name), &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn change(tree: &Path) -> Result<()> {
    let same = tree.join("same");
    let time = fs::metadata(&same)?.modified()?;
    let mut file = OpenOptions::new().write(true).open(&same)?;
    file.write_all(b"THIS")?;
    file.set_times(FileTimes::new().set_modified(time))?;
    fs::set_permissions(tree.join("plain mode"), Permissions::from_mode(0o751))?;
    setxattr(tree.join("private"), "user.note", b"mine", XattrFlags::empty())?;
    let later = UNIX_EPOCH + Duration::new(1_200_000_000, 42);
    File::options().append(true).open(tree.join("plain time"))?.set_times(FileTimes::new().set_modified(later))?;
    fs::remove_file(tree.join("kind"))?;
    fs::create_dir(tree.join("kind"))?;
    Ok(fs::write(tree.join("kind/now"), "in a directory")?)
}

fn at(tree: &Path, name: &[u8]) -> PathBuf {
    tree.join(OsString::from_vec(name.to_vec()))
}

fn lacking(laptop: &Path, desktop: &Path, properties: &[Property]) -> Vec<&'static str> {
    let kept = |(_, name, aspect): &&Property| {
        let name = if *name == b"deep" { [DEEP.repeat(40).as_bytes(), b"bottom"].concat() } else { name.to_vec() };
        let (here, there) = (at(laptop, &name), at(desktop, &name));
        is_kept(&here, &there, desktop, *aspect).unwrap_or(false)
    };
    properties.iter().filter(|property| !kept(property)).map(|(what, ..)| *what).collect()
}

fn is_kept(here: &Path, there: &Path, desktop: &Path, aspect: Aspect) -> Result<bool> {
    let (ours, theirs) = (fs::symlink_metadata(here)?, fs::symlink_metadata(there)?);
    Ok(match aspect {
        Content => {
            let kind = ours.file_type();
            kind == theirs.file_type()
                && if kind.is_symlink() {
                    fs::read_link(here)? == fs::read_link(there)?
                } else if kind.is_file() {
                    fs::read(here)? == fs::read(there)?
                } else {
                    kind.is_dir() || kind.is_fifo() || kind.is_socket()
                }
        }
        ModeBits => ours.mode() == theirs.mode(),
        Second => ours.mtime() == theirs.mtime(),
        Nanosecond => (ours.mtime(), ours.mtime_nsec()) == (theirs.mtime(), theirs.mtime_nsec()),
        Owner => (ours.uid(), ours.gid()) == (theirs.uid(), theirs.gid()),
        Note => {
            let mut value = [0; 16];
            let length = rustix::fs::getxattr(there, "user.note", &mut value)?;
            &value[..length] == b"mine"
        }
        Holes => theirs.len() == ours.len() && theirs.blocks() * 512 < theirs.len() / 4,
        Twin(name) => fs::symlink_metadata(at(desktop, name))?.ino() == theirs.ino(),
    })
}
