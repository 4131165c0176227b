//! Directory trees: comparing two of them exactly, and making messy ones.
//!
//! A comparison looks at what travels: names as bytes, kind, mode bits, modification time to the nanosecond, content,
//! link targets, extended attributes of the person, and which names are one file. The times of directories are left out: they follow at leisure and no barrier waits for them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, DirBuilder, File, FileTimes, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

/// Folders of a home that belong to one machine by design, and are no part of a comparison.
pub const OWN: [&str; 5] = [".config/hearth", ".config/dconf", ".local/share/hearth", ".local/state/hearth", ".cache"];

/// Set-user-id, set-group-id and the sticky bit do not travel.
const MODE_BITS: u32 = 0o777;

/// Extended attributes of the person, by name.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What is at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A directory.
    Folder {
        /// Permission bits.
        mode: u32,
        /// Extended attributes.
        xattrs: Xattrs,
    },
    /// A regular file.
    File {
        /// Permission bits.
        mode: u32,
        /// Seconds and nanoseconds.
        mtime: (i64, i64),
        /// In bytes.
        size: u64,
        /// Of the content.
        hash: blake3::Hash,
        /// Extended attributes.
        xattrs: Xattrs,
        /// The first of the paths in the tree that are names of this file, where it has several.
        twin: Option<PathBuf>,
    },
    /// A symbolic link.
    Link {
        /// Where it points.
        target: OsString,
        /// Seconds and nanoseconds.
        mtime: (i64, i64),
    },
    /// A socket, FIFO or device, which never travels.
    Special,
}

/// One path at which two trees are not equal.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Relative to both roots.
    pub path: PathBuf,
    /// What is in the first tree.
    pub left: Option<Entry>,
    /// What is in the second tree.
    pub right: Option<Entry>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:?} against {:?}", self.path, self.left, self.right)
    }
}

/// Reads a whole tree, without the relative paths (and all below them) in `excluding`.
pub fn read(root: &Path, excluding: &[&str]) -> Result<BTreeMap<PathBuf, Entry>> {
    let mut entries = BTreeMap::new();
    let mut inodes: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(folder) = left.pop() {
        let place = root.join(&folder);
        for found in fs::read_dir(&place).with_context(|| format!("listing {}", place.display()))? {
            let found = found.with_context(|| format!("listing {}", place.display()))?;
            let path = folder.join(found.file_name());
            if excluding.iter().any(|excluded| path == Path::new(excluded)) {
                continue;
            }
            let entry = entry(&found.path()).with_context(|| format!("reading {:?}", found.path()))?;
            match entry {
                Entry::Special => continue,
                Entry::Folder { .. } => left.push(path.clone()),
                Entry::File { .. } => inodes.entry(found.metadata()?.ino()).or_default().push(path.clone()),
                Entry::Link { .. } => {}
            }
            entries.insert(path, entry);
        }
    }
    for names in inodes.into_values().filter(|names| names.len() > 1) {
        let first = names.iter().min().cloned();
        for name in names {
            if let Some(Entry::File { twin, .. }) = entries.get_mut(&name) {
                twin.clone_from(&first);
            }
        }
    }
    Ok(entries)
}

/// Returns where two trees differ, by path.
pub fn compare(left: &Path, right: &Path, excluding: &[&str]) -> Result<Vec<Difference>> {
    let mut ours = read(left, excluding)?;
    let mut theirs = read(right, excluding)?;
    let mut paths: Vec<PathBuf> = ours.keys().chain(theirs.keys()).cloned().collect();
    paths.sort();
    paths.dedup();
    Ok(paths
        .into_iter()
        .map(|path| Difference { left: ours.remove(&path), right: theirs.remove(&path), path })
        .filter(|difference| difference.left != difference.right)
        .collect())
}

/// An error that shows the first differences, if there are any.
pub fn assert_equal(left: &Path, right: &Path, excluding: &[&str]) -> Result<()> {
    let differences = compare(left, right, excluding)?;
    if differences.is_empty() {
        return Ok(());
    }
    let first: Vec<String> = differences.iter().take(20).map(ToString::to_string).collect();
    bail!("{} and {} differ at {} paths:\n  {}", left.display(), right.display(), differences.len(), first.join("\n  "))
}

fn entry(path: &Path) -> Result<Entry> {
    let data = fs::symlink_metadata(path)?;
    let mode = data.mode() & MODE_BITS;
    let mtime = (data.mtime(), data.mtime_nsec());
    let kind = data.file_type();
    if kind.is_dir() {
        return Ok(Entry::Folder { mode, xattrs: xattrs(path)? });
    }
    if kind.is_symlink() {
        return Ok(Entry::Link { target: fs::read_link(path)?.into_os_string(), mtime });
    }
    if kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device() {
        return Ok(Entry::Special);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    let (size, hash) = (data.len(), hasher.finalize());
    Ok(Entry::File { mode, mtime, size, hash, xattrs: xattrs(path)?, twin: None })
}

fn xattrs(path: &Path) -> Result<Xattrs> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::listxattr(path, &mut names) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    let mut xattrs = Xattrs::new();
    for name in names[..length].split(|&byte| byte == 0).filter(|name| name.starts_with(b"user.")) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::getxattr(path, name, &mut value)?;
        value.truncate(length);
        xattrs.insert(name.to_vec(), value);
    }
    Ok(xattrs)
}

/// Returns `length` bytes that nothing compresses, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_derive_key("hearth test noise").update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Writes a file of noise without holding it in memory.
pub fn write_noise(path: &Path, seed: u64, length: u64) -> Result<()> {
    let mut stream = blake3::Hasher::new_derive_key("hearth test noise").update(&seed.to_le_bytes()).finalize_xof();
    let mut file = File::create(path).with_context(|| format!("making {}", path.display()))?;
    let mut block = vec![0; 1 << 20];
    let mut left = length;
    while left > 0 {
        let now = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
        stream.fill(&mut block[..now]);
        file.write_all(&block[..now]).with_context(|| format!("writing {}", path.display()))?;
        left -= now as u64;
    }
    Ok(())
}

/// Fills `root` with all that a home may hold: odd names, modes, times and links, the same for the same seed.
pub fn generate(root: &Path, seed: u64) -> Result<()> {
    let mut mess = Mess { root, seed, files: 0 };
    mess.names()?;
    mess.shapes()?;
    mess.contents()?;
    mess.modes_and_times()?;
    mess.links()?;
    mess.beside_the_content()
}

/// A generator in progress.
struct Mess<'a> {
    root: &'a Path,
    seed: u64,
    files: u64,
}

impl Mess<'_> {
    fn names(&mut self) -> Result<()> {
        let long = [b'n'; 255];
        let long_text = [&[b'l'; 251][..], b".txt"].concat();
        let long_unicode = "ü".repeat(127).into_bytes();
        let names: [&[u8]; 20] = [
            b"plain.txt",
            "Grüße aus Köln.txt".as_bytes(),
            "世界.txt".as_bytes(),
            "e\u{301} decomposed".as_bytes(),
            "\u{e9} composed".as_bytes(),
            "🏡.md".as_bytes(),
            "\u{202e}right to left".as_bytes(),
            b"line\nbreak",
            b"tab\tand\x01control",
            b"invalid \xff\xfe utf-8",
            b"cut off \xe2\x82",
            b" leading space",
            b"trailing space ",
            b"trailing dot.",
            b"-rf",
            b"star * question ? [set]",
            b"quotes ' \" ` and \\ backslash",
            &long,
            &long_text,
            &long_unicode,
        ];
        for name in names {
            self.file(Path::new("names").join(OsStr::from_bytes(name)), 40)?;
            self.file(Path::new("folders").join(OsStr::from_bytes(name)).join("inside"), 10)?;
        }
        Ok(())
    }

    fn shapes(&mut self) -> Result<()> {
        self.folder("shapes/empty")?;
        self.folder("shapes/nested/also/empty")?;
        let deep: PathBuf = std::iter::once("shapes").chain(std::iter::repeat_n("deep", 40)).collect();
        self.file(deep.join("bottom.txt"), 12)?;
        for number in 0..300 {
            self.file(format!("shapes/wide/{number:03}.dat"), number * 7)?;
        }
        Ok(())
    }

    fn contents(&mut self) -> Result<()> {
        self.file("contents/empty", 0)?;
        self.file("contents/just under a chunk", 256 * 1024 - 1)?;
        self.file("contents/just over a chunk", 256 * 1024 + 1)?;
        self.file("contents/big", 20 * 1024 * 1024 + 17)?;
        let zeros = self.root.join("contents/zeros");
        fs::write(&zeros, vec![0; 3 << 20])?;
        let sparse = File::create(self.root.join("contents/sparse"))?;
        sparse.set_len(5 << 20)?;
        fs::write(self.root.join("contents/compressible"), "all work and no play\n".repeat(50_000))?;
        fs::copy(self.root.join("contents/big"), self.root.join("contents/big again"))?;
        Ok(())
    }

    fn modes_and_times(&mut self) -> Result<()> {
        for mode in [0o600, 0o644, 0o640, 0o755, 0o700, 0o444, 0o400, 0o777, 0o555] {
            let path = format!("modes/{mode:03o}");
            self.file(&path, 20)?;
            fs::set_permissions(self.root.join(path), Permissions::from_mode(mode))?;
        }
        for mode in [0o700, 0o750, 0o775] {
            let path = format!("modes/folder {mode:03o}");
            self.file(Path::new(&path).join("inside"), 5)?;
            fs::set_permissions(self.root.join(path), Permissions::from_mode(mode))?;
        }
        let times = [
            ("epoch", UNIX_EPOCH),
            ("a nanosecond later", UNIX_EPOCH + Duration::from_nanos(1)),
            ("before the epoch", UNIX_EPOCH - Duration::new(86_400, 250_000_000)),
            ("almost a second", UNIX_EPOCH + Duration::new(1_500_000_000, 999_999_999)),
            ("after 2038", UNIX_EPOCH + Duration::new(4_000_000_000, 123_456_789)),
            ("to come", SystemTime::now() + Duration::from_secs(3600 * 24 * 365)),
        ];
        for (name, time) in times {
            let path = Path::new("times").join(name);
            self.file(&path, 8)?;
            let file = OpenOptions::new().write(true).open(self.root.join(path))?;
            file.set_times(FileTimes::new().set_modified(time))?;
        }
        Ok(())
    }

    fn links(&mut self) -> Result<()> {
        self.folder("links")?;
        let odd = OsString::from_vec(b"../names/invalid \xff\xfe utf-8".to_vec());
        let links: [(&str, &OsStr); 8] = [
            ("to a file", OsStr::new("../names/plain.txt")),
            ("to a folder", OsStr::new("../shapes/wide")),
            ("dangling", OsStr::new("nowhere/at all")),
            ("to itself", OsStr::new("to itself")),
            ("to the folder it is in", OsStr::new(".")),
            ("to bytes that are no text", &odd),
            ("out of the home", OsStr::new("/usr/share")),
            ("dangling outside", OsStr::new("/nowhere/at/all")),
        ];
        for (name, target) in links {
            symlink(target, self.root.join("links").join(name)).with_context(|| format!("linking {name}"))?;
        }
        Ok(())
    }

    /// Extended attributes, several names of one file, and holes.
    fn beside_the_content(&mut self) -> Result<()> {
        let none = rustix::fs::XattrFlags::empty();
        for (path, name, value) in [
            ("attributes/download.pdf", "user.xdg.origin.url", &b"https://example.org/a?b=c"[..]),
            ("attributes/download.pdf", "user.xdg.tags", "blau,grün".as_bytes()),
            ("attributes/read only", "user.bytes", &[0, 255, 10, 13]),
            ("attributes/empty value", "user.empty", b""),
        ] {
            if !self.root.join(path).exists() {
                self.file(path, 30)?;
            }
            rustix::fs::setxattr(self.root.join(path), name, value, none)?;
        }
        fs::set_permissions(self.root.join("attributes/read only"), Permissions::from_mode(0o444))?;
        rustix::fs::setxattr(self.root.join("attributes"), "user.folder", b"too", none)?;
        self.file("names of one/first", 400_000)?;
        self.folder("names of one/below")?;
        for other in ["second", "below/third"] {
            fs::hard_link(self.root.join("names of one/first"), self.root.join("names of one").join(other))?;
        }
        let holes = File::create(self.root.join("contents/holes"))?;
        holes.set_len(64 << 20)?;
        holes.write_all_at(b"an island", 40 << 20)?;
        Ok(())
    }

    fn file(&mut self, path: impl AsRef<Path>, length: usize) -> Result<()> {
        let path = self.root.join(path);
        let folder = path.parent().context("a file lies in a folder")?;
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        self.files += 1;
        let content = noise(self.seed ^ self.files.wrapping_mul(0x9e37_79b9_7f4a_7c15), length);
        fs::write(&path, content).with_context(|| format!("writing {path:?}"))
    }

    fn folder(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = self.root.join(path);
        DirBuilder::new().recursive(true).mode(0o755).create(&path).with_context(|| format!("making {path:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_tree_and_a_change_is_found() {
        let scratch = tempfile::tempdir().expect("a folder");
        let (left, right) = (scratch.path().join("left"), scratch.path().join("right"));
        for root in [&left, &right] {
            fs::create_dir(root).expect("made");
            generate(root, 7).expect("generated");
        }
        let same = |path: &Path| !path.starts_with("times") && !path.starts_with("links");
        let by_content = |root: &Path| -> Vec<(PathBuf, Option<blake3::Hash>)> {
            let entries = read(root, &[]).expect("read");
            let hash = |entry| match entry {
                Entry::File { hash, .. } => Some(hash),
                Entry::Folder { .. } | Entry::Link { .. } | Entry::Special => None,
            };
            entries.into_iter().filter(|(path, _)| same(path)).map(|(path, entry)| (path, hash(entry))).collect()
        };
        assert_eq!(by_content(&left), by_content(&right));

        let path = Path::new("modes/600");
        fs::set_permissions(left.join(path), Permissions::from_mode(0o601)).expect("changed");
        let found = compare(&left, &right, &["shapes", "names", "folders", "contents"]).expect("compared");
        assert!(found.iter().any(|difference| difference.path == path), "{found:?}");
        assert_eq!(compare(&left, &left, &[]).expect("compared").len(), 0);
    }
}
