//! Which directories have a watch, by path and by inode, as far as moves and removals have been told.
//!
//! A watch belongs to an inode, but notify keeps the path that it was made with, and ends the watches of a directory and
//! of all below it when that path is moved away. This follows the same events and tells what has to be watched again.
//! Knows nothing of inotify.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use syncd_core::disk::RelPath;

/// Paths of directories that were moved away which are remembered, should one come back.
const DEPARTED: usize = 1 << 14;

/// Inode and birth time: what tells a directory from another one that takes its path.
pub(super) type Identity = (u64, Option<SystemTime>);

/// Directories by their path, each told from others that may take it.
pub(super) type Directories = Vec<(RelPath, Identity)>;

/// The identity of a directory; `None` if there is none at this path, or a symlink to one.
pub(super) fn identity(path: &Path) -> Option<Identity> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    meta.is_dir().then(|| (meta.ino(), meta.created().ok()))
}

type ByPath = BTreeMap<Arc<[u8]>, Identity>;

/// The directories that have a watch.
#[derive(Default)]
pub(super) struct Watched {
    by_path: ByPath,
    /// The path that an inode was watched under last, also where it is not any more.
    by_identity: BTreeMap<Identity, Arc<[u8]>>,
    departed: ByPath,
}

impl Watched {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_path.len()
    }

    /// Whether this directory is watched under this path.
    pub(super) fn has(&self, path: &RelPath, identity: Identity) -> bool {
        self.by_path.get(path.as_slice()) == Some(&identity)
    }

    /// Another path that notify may still have this directory's watch under.
    pub(super) fn earlier(&self, path: &RelPath, identity: Identity) -> Option<RelPath> {
        let earlier = self.by_identity.get(&identity).filter(|earlier| ***earlier != **path)?;
        let reused = self.by_path.get(earlier).is_some_and(|other| *other != identity);
        (!reused).then(|| earlier.to_vec())
    }

    /// A directory comes under watch.
    pub(super) fn insert(&mut self, path: &RelPath, identity: Identity) {
        let path: Arc<[u8]> = path.as_slice().into();
        if let Some(earlier) = self.by_identity.insert(identity, path.clone()).filter(|earlier| *earlier != path)
            && self.by_path.get(&earlier) == Some(&identity)
        {
            self.by_path.remove(&earlier);
        }
        self.departed.remove(&path);
        self.by_path.insert(path, identity);
        let by_path = &self.by_path;
        if self.by_identity.len() > 2 * by_path.len() + DEPARTED {
            self.by_identity.retain(|identity, path| by_path.get(path) == Some(identity));
        }
    }

    /// A directory could not be watched.
    pub(super) fn remove(&mut self, path: &RelPath) {
        self.by_path.remove(path.as_slice());
    }

    /// Something was moved away from a path. Gives what is to be watched again, if it should be back there already.
    pub(super) fn moved(&mut self, path: &RelPath) -> Directories {
        let gone = self.forget(path);
        self.departed.extend(gone.iter().map(|(path, identity)| (path.as_slice().into(), *identity)));
        if self.departed.len() > DEPARTED {
            // Whoever comes back after so many others is found when the engine looks at everything.
            self.departed.clear();
        }
        gone
    }

    /// Something was moved to a path. Gives what is to be watched again, if it is this that came back.
    pub(super) fn came(&self, path: &RelPath) -> Directories {
        at_and_below(&self.departed, path)
    }

    /// A directory was removed. Gives what is to be watched again, as notify has ended the watch that the next one at
    /// this path may have had already.
    pub(super) fn removed(&mut self, path: &RelPath) -> Directories {
        if let Some(identity) = self.by_path.get(path.as_slice()) {
            self.by_identity.remove(identity);
        }
        self.forget(path)
    }

    fn forget(&mut self, path: &RelPath) -> Directories {
        let gone = at_and_below(&self.by_path, path);
        for (path, _) in &gone {
            self.by_path.remove(path.as_slice());
        }
        gone
    }
}

fn at_and_below(paths: &ByPath, path: &RelPath) -> Directories {
    let below = [path.as_slice(), b"/"].concat();
    let from = (Bound::Included(below.as_slice()), Bound::Unbounded);
    let all_below = paths.range::<[u8], _>(from).take_while(|(path, _)| path.starts_with(&below));
    let found = paths.get_key_value(path.as_slice()).into_iter().chain(all_below);
    found.map(|(path, identity)| (path.to_vec(), *identity)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Identity = (1, None);
    const TWO: Identity = (2, None);

    #[test]
    fn what_is_moved_takes_all_below_along_and_comes_back_whole() {
        let mut watched = with(&[("a", ONE), ("a/b", TWO), ("a.b", (3, None)), ("ab", (4, None))]);
        assert_eq!(watched.moved(&path("a")), [(path("a"), ONE), (path("a/b"), TWO)]);
        assert_eq!(watched.len(), 2);
        assert!(!watched.has(&path("a"), ONE));
        assert_eq!(watched.came(&path("x")), []);
        assert_eq!(watched.came(&path("a")), [(path("a"), ONE), (path("a/b"), TWO)]);
        watched.insert(&path("a"), ONE);
        assert_eq!(watched.came(&path("a")), [(path("a/b"), TWO)]);
    }

    #[test]
    fn an_inode_has_one_path_and_the_earlier_one_is_told_until_another_takes_it() {
        let mut watched = with(&[("a", ONE)]);
        assert_eq!(watched.earlier(&path("b"), ONE), Some(path("a")));
        watched.insert(&path("b"), ONE);
        assert_eq!((watched.len(), watched.earlier(&path("b"), ONE)), (1, None));
        watched.insert(&path("a"), TWO);
        watched.moved(&path("b"));
        assert_eq!(watched.earlier(&path("c"), ONE), Some(path("b")));
        watched.insert(&path("b"), (3, None));
        assert_eq!(watched.earlier(&path("c"), ONE), None);
    }

    #[test]
    fn a_removed_directory_is_forgotten_by_inode_as_well() {
        let mut watched = with(&[("a", ONE)]);
        assert_eq!(watched.removed(&path("a")), [(path("a"), ONE)]);
        assert_eq!(watched.earlier(&path("b"), ONE), None);
        assert_eq!(watched.came(&path("a")), []);
    }

    fn with(entries: &[(&str, Identity)]) -> Watched {
        let mut watched = Watched::default();
        for (at, identity) in entries {
            watched.insert(&path(at), *identity);
        }
        watched
    }

    fn path(text: &str) -> RelPath {
        text.as_bytes().to_vec()
    }
}
