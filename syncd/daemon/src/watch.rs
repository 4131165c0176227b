//! Watches the home's directories with inotify, through `notify`, one watch a directory.
//!
//! Events become paths below the home, in batches, on a bounded channel; what the kernel or the channel could not hold
//! becomes [`Stirred::Overflow`]. [`Watcher::cookie`] is a barrier: when it is through, everything that happened before
//! it has been delivered. Which directories are watched is said by the engine; what a path means, too.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Config, ErrorKind, INotifyWatcher, RecursiveMode, Watcher as _};
use syncd_core::disk::RelPath;
use syncd_core::store::Problem;
use tokio::sync::{mpsc, oneshot};

/// Batches that wait for the engine before the watcher reports that it lost some.
const BATCHES: usize = 4096;
/// How long a barrier may take; the watcher is broken when it takes longer.
const COOKIE_WAIT: Duration = Duration::from_secs(5);

/// What the watcher saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stirred {
    /// Something happened at these paths.
    Paths(Vec<RelPath>),
    /// Something happened, and it is not known where.
    Overflow,
}

/// A handle to the watcher. Clones share it.
#[derive(Clone)]
pub struct Watcher(Arc<Inner>);

struct Inner {
    home: PathBuf,
    cookies: PathBuf,
    inotify: Mutex<Inotify>,
    waiting: Waiting,
    next_cookie: AtomicU64,
    unwatched: Vec<PathBuf>,
}

struct Inotify {
    watcher: INotifyWatcher,
    /// Path and identity of each directory that is watched.
    watched: BTreeMap<RelPath, (u64, Option<SystemTime>)>,
    /// Those that the kernel had no watch left for.
    beyond: BTreeSet<RelPath>,
}

type Waiting = Arc<Mutex<BTreeMap<PathBuf, oneshot::Sender<()>>>>;

impl Watcher {
    /// Starts watching nothing yet. `state` holds the barrier's directory; `unwatched` are our own directories.
    pub fn start(
        home: &Path,
        state: &Path,
        unwatched: Vec<PathBuf>,
    ) -> anyhow::Result<(Self, mpsc::Receiver<Stirred>)> {
        let cookies = state.join("cookies");
        std::fs::create_dir_all(&cookies).context("making the barrier's directory")?;
        let (sender, receiver) = mpsc::channel(BATCHES);
        let waiting = Waiting::default();
        let handler = Handler {
            home: home.to_owned(),
            cookies: cookies.clone(),
            sender,
            waiting: Arc::clone(&waiting),
            lost: false,
        };
        let mut watcher = INotifyWatcher::new(handler, Config::default().with_follow_symlinks(false))
            .context("starting inotify: see fs.inotify.max_user_instances")?;
        watcher.watch(&cookies, RecursiveMode::NonRecursive).context("watching: see fs.inotify.max_user_watches")?;
        let inner = Inner {
            home: home.to_owned(),
            cookies,
            inotify: Mutex::new(Inotify { watcher, watched: BTreeMap::new(), beyond: BTreeSet::new() }),
            waiting,
            next_cookie: AtomicU64::new(1),
            unwatched,
        };
        Ok((Self(Arc::new(inner)), receiver))
    }

    /// Watches these directories; a directory that moved is named again, by its later path. Gives those that were not
    /// watched under these paths before: what happened in them until now must be found by looking.
    pub async fn watch(&self, dirs: Vec<RelPath>) -> Vec<RelPath> {
        let shared = self.clone();
        match tokio::task::spawn_blocking(move || shared.add(dirs)).await {
            Ok(added) => added,
            Err(error) => {
                tracing::error!(%error, "directories could not be watched");
                Vec::new()
            }
        }
    }

    /// Waits until everything that happened so far has been delivered.
    pub async fn cookie(&self) {
        let number = self.0.next_cookie.fetch_add(1, Ordering::Relaxed);
        let path = self.0.cookies.join(format!("{}-{number}", std::process::id()));
        let (seen, through) = oneshot::channel();
        lock(&self.0.waiting).insert(path.clone(), seen);
        let made = tokio::fs::write(&path, b"").await;
        if made.is_ok() && tokio::time::timeout(COOKIE_WAIT, through).await.is_err() {
            tracing::warn!("the watcher did not answer in time");
        }
        lock(&self.0.waiting).remove(&path);
        let _ = tokio::fs::remove_file(&path).await;
    }

    /// The directories that should be watched and cannot be: changes in them are found by looking alone.
    pub fn beyond(&self) -> Vec<RelPath> {
        lock(&self.0.inotify).beyond.iter().cloned().collect()
    }

    /// What is wrong with watching.
    pub fn problems(&self) -> Vec<Problem> {
        let inotify = lock(&self.0.inotify);
        if inotify.beyond.is_empty() {
            return Vec::new();
        }
        vec![Problem {
            path: RelPath::new(),
            what: format!(
                "inotify limit reached: {} directories are not watched, but looked at from time to time",
                inotify.beyond.len()
            ),
            hint: "sudo sysctl fs.inotify.max_user_watches=524288, then `systemctl --user restart hearth`".into(),
            transient: false,
        }]
    }

    fn add(&self, dirs: Vec<RelPath>) -> Vec<RelPath> {
        let mut inotify = lock(&self.0.inotify);
        let mut added = Vec::new();
        for dir in dirs {
            let path = if dir.is_empty() { self.0.home.clone() } else { self.0.home.join(OsStr::from_bytes(&dir)) };
            if self.0.unwatched.iter().any(|own| path.starts_with(own)) {
                continue;
            }
            let Some(identity) = identity(&path) else {
                inotify.beyond.remove(&dir);
                continue;
            };
            if inotify.watched.get(&dir) == Some(&identity) {
                continue;
            }
            match inotify.watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    inotify.beyond.remove(&dir);
                    inotify.watched.insert(dir.clone(), identity);
                    added.push(dir);
                }
                Err(error) if matches!(error.kind, ErrorKind::MaxFilesWatch) => {
                    if inotify.beyond.is_empty() {
                        tracing::warn!("inotify limit reached: sudo sysctl fs.inotify.max_user_watches=524288");
                    }
                    inotify.beyond.insert(dir);
                }
                // Gone again, or not ours to read: the engine finds out when it looks.
                Err(error) => tracing::debug!(%error, "a directory could not be watched"),
            }
        }
        added
    }
}

/// Inode and birth time: what tells a directory from another one that takes its path.
fn identity(path: &Path) -> Option<(u64, Option<SystemTime>)> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    Some((meta.ino(), meta.created().ok()))
}

struct Handler {
    home: PathBuf,
    cookies: PathBuf,
    sender: mpsc::Sender<Stirred>,
    waiting: Waiting,
    lost: bool,
}

impl notify::EventHandler for Handler {
    fn handle_event(&mut self, event: notify::Result<notify::Event>) {
        let stirred = match event {
            Ok(event) if event.need_rescan() => Stirred::Overflow,
            Ok(event) if matters(&event.kind) => match self.paths(event.paths) {
                Some(paths) => Stirred::Paths(paths),
                None => return,
            },
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "the watcher lost sight");
                Stirred::Overflow
            }
        };
        if self.lost && self.sender.try_send(Stirred::Overflow).is_ok() {
            self.lost = false;
        }
        if self.sender.try_send(stirred).is_err() {
            self.lost = true;
        }
    }
}

impl Handler {
    fn paths(&self, paths: Vec<PathBuf>) -> Option<Vec<RelPath>> {
        let mut out = Vec::new();
        for path in paths {
            if path.starts_with(&self.cookies) {
                if let Some(waiting) = lock(&self.waiting).remove(&path) {
                    // Nobody waits any more where the barrier timed out.
                    let _ = waiting.send(());
                }
            } else if let Ok(below) = path.strip_prefix(&self.home) {
                out.push(below.as_os_str().as_bytes().to_vec());
            }
        }
        out.retain(|path| !path.is_empty());
        (!out.is_empty()).then_some(out)
    }
}

/// Whether an event can mean that a name, its content or its attributes changed.
fn matters(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => true,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
