//! What a path in a git repository is, by the path alone; the repository's own locks.
//!
//! ```text
//! path → place → repository + part → who waits for whom   engine/repositories.rs
//!                                  → what may be removed  git/packs.rs, asked by apply
//!                                  → how it is merged     git/refs.rs, asked by merge
//! ```
//!
//! A repository is a directory `.git`, or one called `NAME.git` that holds what a bare repository holds. The repositories of
//! submodules (`.git/modules/NAME`) and the state of further worktrees (`.git/worktrees/NAME`) belong to the one that
//! they lie in. Decision 24 says what is done with this, and why.

pub mod packs;
pub mod refs;

use std::collections::BTreeMap;

use hearth_schemas::ids::NodeId;
use hearth_schemas::item::{Attributes, Name, Row};

use crate::disk::{Disk, Kind, RelPath, Source, StageName, Stat, join};
use crate::row::winner;
use crate::store::{Store, StoreResult};

/// Ending of the names of git's locks.
const LOCK: &[u8] = b".lock";
/// What the symlink that is our lock points to. Git's own locks are files.
pub const OWN_LOCK: &[u8] = b".hearth-applies";
/// Directories of a repository that are searched for locks at most.
const MAX_SEARCHED: usize = 10_000;
/// Names that only a repository's own directory has.
const TOP: [&[u8]; 21] = [
    b"COMMIT_EDITMSG",
    b"FETCH_HEAD",
    b"HEAD",
    b"MERGE_HEAD",
    b"ORIG_HEAD",
    b"branches",
    b"config",
    b"description",
    b"gc.pid",
    b"hooks",
    b"index",
    b"info",
    b"lfs",
    b"logs",
    b"modules",
    b"objects",
    b"packed-refs",
    b"refs",
    b"reftable",
    b"shallow",
    b"worktrees",
];

/// Where a path lies in a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place<'p> {
    /// The path of the repository's directory.
    pub repository: &'p [u8],
    /// What the path is there.
    pub part: Part<'p>,
}

/// What a path in a repository is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part<'p> {
    /// The repository's own directory.
    Root,
    /// A loose object.
    Loose {
        /// The path of the directory `objects`.
        objects: &'p [u8],
        /// The first two digits of its id.
        fan: &'p [u8],
        /// The other digits.
        rest: &'p [u8],
    },
    /// A file of a pack.
    Pack {
        /// The path of the directory `objects`.
        objects: &'p [u8],
        /// `pack-` and an id, which all files of a pack begin with.
        stem: &'p [u8],
        /// The ending: `pack`, `idx`, …
        ending: &'p [u8],
    },
    /// Anything else below `objects`.
    Objects,
    /// A ref or a directory of refs.
    Ref,
    /// A log of a ref, or a directory of logs.
    Log,
    /// `HEAD`, of the repository or of a worktree.
    Head,
    /// The refs that are kept in one file.
    PackedRefs,
    /// What is staged.
    Index,
    /// The repository's settings.
    Config,
    /// What no command changes by itself: hooks, the description, what is ignored.
    Still,
    /// A lock.
    Lock,
    /// What a running or interrupted command keeps, and whatever else there is.
    Other,
}

impl Part<'_> {
    /// Whether it lies below `objects`.
    pub fn is_of_objects(&self) -> bool {
        matches!(self, Self::Loose { .. } | Self::Pack { .. } | Self::Objects)
    }

    /// Whether its name says what is in it: two files of that name say the same, if not in the same bytes.
    pub fn is_named_by_content(&self) -> bool {
        matches!(self, Self::Loose { .. } | Self::Pack { .. })
    }

    /// Whether commits are found by it.
    pub fn holds_refs(&self) -> bool {
        matches!(self, Self::Ref | Self::Head | Self::PackedRefs)
    }

    /// Whether git locks it, by a file of its name and `.lock`, while it replaces it.
    pub fn is_locked_by_git(&self) -> bool {
        matches!(self, Self::Ref | Self::Head | Self::PackedRefs | Self::Index | Self::Config)
    }
}

/// Where a path lies in a repository; `None` if it lies in none.
pub fn place(path: &[u8]) -> Option<Place<'_>> {
    let mut from = 0;
    loop {
        let end = path[from..].iter().position(|&byte| byte == b'/').map(|at| from + at);
        let name = &path[from..end.unwrap_or(path.len())];
        let Some(end) = end else {
            return (name == b".git").then_some(Place { repository: path, part: Part::Root });
        };
        let below = &path[end + 1..];
        let bare = name.len() > 4 && name.ends_with(b".git") && is_top(first(below));
        if name == b".git" || bare {
            return Some(Place { repository: &path[..end], part: part(path, below) });
        }
        from = end + 1;
    }
}

/// Whether what lies in a directory is called as refs are, so that a conflict sibling must be, too.
pub fn names_refs(dir: &[u8]) -> bool {
    let Some(Place { part: Part::Ref | Part::Log, .. }) = place(dir) else { return false };
    true
}

fn first(path: &[u8]) -> &[u8] {
    path.split(|&byte| byte == b'/').next().unwrap_or_default()
}

fn is_top(name: &[u8]) -> bool {
    TOP.contains(&name.strip_suffix(LOCK).unwrap_or(name))
}

/// What `below` is, which is the end of `path` and lies in a repository's directory.
fn part<'p>(path: &'p [u8], below: &'p [u8]) -> Part<'p> {
    let mut below = below;
    while let Some(module) = below.strip_prefix(b"modules/") {
        match within_module(module) {
            Some(inside) => below = inside,
            None => return Part::Other,
        }
    }
    if let Some(worktree) = below.strip_prefix(b"worktrees/") {
        match worktree.iter().position(|&byte| byte == b'/') {
            Some(slash) => below = &worktree[slash + 1..],
            None => return Part::Other,
        }
    }
    let name = below.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    if name.len() > LOCK.len() && name.ends_with(LOCK) {
        return Part::Lock;
    }
    let (top, rest) = match below.iter().position(|&byte| byte == b'/') {
        Some(slash) => (&below[..slash], &below[slash + 1..]),
        None => (below, &below[..0]),
    };
    match top {
        b"objects" => object(&path[..path.len() - below.len() + top.len()], rest),
        b"refs" => Part::Ref,
        b"logs" => Part::Log,
        b"HEAD" => Part::Head,
        b"packed-refs" => Part::PackedRefs,
        b"index" => Part::Index,
        b"config" | b"config.worktree" => Part::Config,
        b"hooks" | b"info" | b"branches" | b"description" | b"lfs" => Part::Still,
        _ => Part::Other,
    }
}

/// What follows the name of a submodule, which may have slashes in it.
fn within_module(module: &[u8]) -> Option<&[u8]> {
    let slashes = module.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &module[at + 1..]);
    slashes.into_iter().find(|below| is_top(first(below)))
}

fn object<'p>(objects: &'p [u8], rest: &'p [u8]) -> Part<'p> {
    let Some(slash) = rest.iter().position(|&byte| byte == b'/') else { return Part::Objects };
    let (dir, name) = (&rest[..slash], &rest[slash + 1..]);
    if is_hex(dir, &[2]) && is_hex(name, &[38, 62]) {
        return Part::Loose { objects, fan: dir, rest: name };
    }
    if dir == b"pack"
        && let Some(dot) = name.iter().position(|&byte| byte == b'.')
        && let Some(id) = name[..dot].strip_prefix(b"pack-")
        && is_hex(id, &[40, 64])
    {
        return Part::Pack { objects, stem: &name[..dot], ending: &name[dot + 1..] };
    }
    Part::Objects
}

/// Whether these are hexadecimal digits, of one of these numbers, as git writes them.
fn is_hex(digits: &[u8], lengths: &[usize]) -> bool {
    lengths.contains(&digits.len()) && digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The path of a node by what the rows say, whether it is shown or not. `dirs` are the paths of directories that were
/// asked for.
pub fn path_of<S: Store>(
    store: &S,
    row: &Row,
    dirs: &mut BTreeMap<NodeId, Option<RelPath>>,
) -> StoreResult<Option<RelPath>> {
    let Some((_, place)) = winner(&row.place) else { return Ok(None) };
    // From the node up, as far as nothing is known.
    let mut above: Vec<(NodeId, Option<Name>)> = Vec::new();
    let mut at = place.parent;
    let mut path = loop {
        if at == NodeId::ROOT {
            break Some(RelPath::new());
        }
        if let Some(known) = dirs.get(&at) {
            break known.clone();
        }
        // Two directories that were moved into each other have no path here.
        let is_circle = above.iter().any(|(dir, _)| *dir == at);
        let dir = if is_circle { None } else { store.row(at)? };
        let up = dir.as_ref().and_then(|dir| winner(&dir.place)).map(|(_, place)| (place.parent, place.name.clone()));
        above.push((at, up.as_ref().map(|(_, name)| name.clone())));
        match up {
            Some((parent, _)) => at = parent,
            None => break None,
        }
    };
    for (dir, name) in above.into_iter().rev() {
        path = path.zip(name).map(|(path, name)| join(&path, &name));
        dirs.insert(dir, path.clone());
    }
    Ok(path.map(|path| join(&path, &place.name)))
}

/// Whether the name of a node can be that of an object: cheap, for the many that are none.
pub fn may_be_object(name: &[u8]) -> bool {
    name.starts_with(b"pack-") || is_hex(name, &[38, 62])
}

/// A lock of a git command that stands in a repository, outside of `objects`. What a run of ours that ended badly has
/// left is taken away.
pub fn standing_lock<D: Disk>(disk: &mut D, repository: &[u8]) -> Option<RelPath> {
    let mut dirs = vec![repository.to_vec()];
    for _ in 0..MAX_SEARCHED {
        let dir = dirs.pop()?;
        // What cannot be read has nothing that is applied in it.
        let Ok(entries) = disk.list(&dir) else { continue };
        for (name, stat) in entries {
            let path = join(&dir, &name);
            let Some(Place { part, .. }) = place(&path) else { continue };
            if stat.kind == Kind::Dir {
                let has_locks = matches!(part, Part::Root | Part::Ref | Part::Other);
                dirs.extend(has_locks.then_some(path));
            } else if part == Part::Lock && !remove_own(disk, &path, &stat) {
                return Some(path);
            }
        }
    }
    None
}

/// Takes away a lock of ours. Gives whether it was one.
pub fn remove_own<D: Disk>(disk: &mut D, path: &[u8], stat: &Stat) -> bool {
    let is_own = stat.kind == Kind::Link && disk.read_link(path).is_ok_and(|target| target == OWN_LOCK);
    if is_own {
        unlock(disk, path);
    }
    is_own
}

/// Takes git's lock for the file at `path`; `AlreadyExists` while a git command has it.
pub fn lock<D: Disk>(disk: &mut D, path: &[u8]) -> std::io::Result<RelPath> {
    let lock = [path, LOCK].concat();
    let name = staged_lock(&lock);
    disk.stage(&name, &Source::Link(OWN_LOCK.to_vec()), &Attributes::default())?;
    match disk.unstage(&name, &lock) {
        Ok(_) => Ok(lock),
        Err(error) => {
            // What stays in staging is discarded at the next start.
            let _ = disk.discard(&name);
            Err(error)
        }
    }
}

/// Gives git's lock back.
pub fn unlock<D: Disk>(disk: &mut D, lock: &[u8]) {
    let name = staged_lock(lock);
    // A lock that stays is known as ours when the repository is searched for locks.
    if disk.take(lock, &name).is_ok() {
        let _ = disk.discard(&name);
    }
}

fn staged_lock(lock: &[u8]) -> StageName {
    StageName(format!("lock-{}", &blake3::hash(lock).to_hex()[..16]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_path_says_what_it_is() {
        let loose = format!("a/.git/objects/01/{}", &ID[2..]);
        let pack = format!("a/.git/objects/pack/pack-{ID}.idx");
        let of_module = format!("a/.git/modules/lib/x/objects/01/{}", &ID[2..]);
        for path in [&loose, &of_module] {
            let Some(Place { repository, part: Part::Loose { fan, rest, .. } }) = place(path.as_bytes()) else {
                panic!("{path}: {:?}", place(path.as_bytes()));
            };
            assert_eq!((repository, fan, rest), (&b"a/.git"[..], &b"01"[..], &ID.as_bytes()[2..]));
        }
        let Some(Part::Pack { objects, stem, ending }) = place(pack.as_bytes()).map(|place| place.part) else {
            panic!("{pack}")
        };
        assert_eq!((objects, ending), (&b"a/.git/objects"[..], &b"idx"[..]));
        assert_eq!(stem, format!("pack-{ID}").as_bytes());
        let table = [
            ("a/.git", Part::Root),
            ("a/.git/HEAD", Part::Head),
            ("a/.git/worktrees/b/HEAD", Part::Head),
            ("a/.git/worktrees/b/index", Part::Index),
            ("a/.git/worktrees/b", Part::Other),
            ("a/.git/modules/lib/x/refs/heads/main", Part::Ref),
            ("a/.git/modules/lib", Part::Other),
            ("a/.git/refs/heads/objects/pack", Part::Ref),
            ("a/.git/logs/HEAD", Part::Log),
            ("a/.git/packed-refs", Part::PackedRefs),
            ("a/.git/index.lock", Part::Lock),
            ("a/.git/refs/heads/main.lock", Part::Lock),
            ("a/.git/objects/info/commit-graph", Part::Objects),
            ("a/.git/objects", Part::Objects),
            ("a/.git/objects/01/not-an-object", Part::Objects),
            ("a/.git/rebase-merge/done", Part::Other),
            ("a/.git/hooks/pre-commit", Part::Still),
            ("bare.git/packed-refs", Part::PackedRefs),
            ("bare.git/HEAD.lock", Part::Lock),
        ];
        for (path, part) in table {
            assert_eq!(place(path.as_bytes()).map(|place| place.part), Some(part), "{path}");
        }
        for path in ["a/.gitignore", "a/.github/HEAD", "a.git/src/main.rs", "a.git/Cargo.lock", "a.git", "HEAD", ""] {
            assert_eq!(place(path.as_bytes()), None, "{path}");
        }
        assert!(names_refs(b"a/.git/refs/heads") && names_refs(b"a/.git/logs") && names_refs(b"b.git/refs"));
        assert!(!names_refs(b"a/.git") && !names_refs(b"a/refs"));
    }
}
