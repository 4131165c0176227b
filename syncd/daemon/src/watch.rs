//! Watches the home's directories with inotify, through `notify`, one watch a directory.
//!
//! Events become paths below the home, gathered until [`Stirs::recv`] takes them; what the kernel or the gathering
//! could not hold becomes [`Stirred::Overflow`]. [`Watcher::cookie`] is a barrier: when it is through, everything that
//! happened before it was taken and dealt with. Which directories are watched is said by the engine; what a path means,
//! too. Which of them still are, after moves, is [`Watched`]'s.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::Context;
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RemoveKind, RenameMode};
use notify::{Config, ErrorKind, INotifyWatcher, RecursiveMode, Watcher as _};
use syncd_core::disk::RelPath;
use syncd_core::store::Problem;
use tokio::sync::{Notify, oneshot};

use self::watched::{Directories, Identity, Watched, identity};

mod watched;

/// Paths that are gathered before all of them count as lost: then everything is looked at.
const GATHERED: usize = 1 << 16;
/// How long is waited for more to happen after the first: one save stirs a path several times.
const GATHERING: Duration = Duration::from_millis(5);
/// How long a barrier may take; the watcher is broken when it takes longer.
const COOKIE_WAIT: Duration = Duration::from_secs(5);

/// What the watcher saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stirred {
    /// Something happened at these paths.
    Paths(Vec<RelPath>),
    /// These directories were without a watch for a while: what happened in them is to be found by looking.
    Watched(Vec<RelPath>),
    /// Something happened, and it is not known where.
    Overflow,
}

/// A handle to the watcher. Clones share it.
#[derive(Clone)]
pub struct Watcher(Arc<Inner>);

struct Inner {
    home: PathBuf,
    cookies: PathBuf,
    /// Never locked by the thread that events come from, which [`INotifyWatcher::watch`] waits for.
    inotify: Mutex<Inotify>,
    watched: Arc<Mutex<Watched>>,
    gathered: Arc<Gathered>,
    next_cookie: AtomicU64,
    /// Told when there was no watch left for a directory.
    fell_short: Notify,
    unwatched: Vec<PathBuf>,
    /// Watches that may be used; `None` for half of what the kernel grants at the time.
    budget: Option<usize>,
}

struct Inotify {
    watcher: INotifyWatcher,
    /// Those that there was no watch left for.
    beyond: BTreeSet<RelPath>,
}

impl Watcher {
    /// Starts watching nothing yet. `state` holds the barrier's directory; `unwatched` are our own directories. At most
    /// half of the watches that the kernel grants a user are used.
    pub fn start(home: &Path, state: &Path, unwatched: Vec<PathBuf>) -> anyhow::Result<(Self, Stirs)> {
        Self::start_within(home, state, unwatched, None)
    }

    fn start_within(
        home: &Path,
        state: &Path,
        unwatched: Vec<PathBuf>,
        budget: Option<usize>,
    ) -> anyhow::Result<(Self, Stirs)> {
        let cookies = state.join("cookies");
        std::fs::create_dir_all(&cookies).context("making the barrier's directory")?;
        let gathered = Arc::new(Gathered::default());
        let watched = Arc::new(Mutex::new(Watched::default()));
        let handler = Handler {
            home: home.to_owned(),
            cookies: cookies.clone(),
            gathered: Arc::clone(&gathered),
            watched: Arc::clone(&watched),
        };
        let mut watcher = INotifyWatcher::new(handler, Config::default().with_follow_symlinks(false))
            .context("starting inotify: see fs.inotify.max_user_instances")?;
        watcher.watch(&cookies, RecursiveMode::NonRecursive).context("watching: see fs.inotify.max_user_watches")?;
        let inner = Arc::new(Inner {
            home: home.to_owned(),
            cookies,
            inotify: Mutex::new(Inotify { watcher, beyond: BTreeSet::new() }),
            watched,
            gathered: Arc::clone(&gathered),
            next_cookie: AtomicU64::new(1),
            fell_short: Notify::new(),
            unwatched,
            budget,
        });
        let stirs = Stirs {
            gathered,
            inner: Arc::downgrade(&inner),
            again: BTreeMap::new(),
            ready: VecDeque::new(),
            passed: Vec::new(),
        };
        Ok((Self(inner), stirs))
    }

    /// Watches these directories; a directory that moved is named again, by its later path. Gives those that were not
    /// watched under these paths before: what happened in them until now must be found by looking.
    pub async fn watch(&self, dirs: Vec<RelPath>) -> Vec<RelPath> {
        on_a_worker(&self.0, move |inner| inner.add(dirs)).await
    }

    /// Waits until everything that happened so far was taken out of [`Stirs`] and dealt with.
    pub async fn cookie(&self) {
        let number = self.0.next_cookie.fetch_add(1, Ordering::Relaxed);
        let path = self.0.cookies.join(format!("{}-{number}", std::process::id()));
        let (seen, mut through) = oneshot::channel();
        {
            let mut state = lock(&self.0.gathered.state);
            if state.abandoned {
                return;
            }
            state.waiting.insert(path.clone(), seen);
        }
        let made = tokio::fs::write(&path, b"").await;
        if made.is_err() || tokio::time::timeout(COOKIE_WAIT, &mut through).await.is_err() {
            self.0.gathered.change(|gathered| {
                if gathered.waiting.contains_key(&path) {
                    // A full disk takes no cookie, and a broken watcher returns none.
                    tracing::warn!("the watcher did not answer in time: everything is looked at");
                    gathered.lose_sight();
                }
            });
            // Fails when nobody takes what stirs any more.
            let _ = through.await;
        }
        let _ = tokio::fs::remove_file(&path).await;
    }

    /// The directories that should be watched and cannot be: changes in them are found by looking alone.
    pub fn beyond(&self) -> Vec<RelPath> {
        lock(&self.0.inotify).beyond.iter().cloned().collect()
    }

    /// Waits until there may be such directories.
    pub async fn until_beyond(&self) {
        while lock(&self.0.inotify).beyond.is_empty() {
            self.0.fell_short.notified().await;
        }
    }

    /// What is wrong with watching.
    pub fn problems(&self) -> Vec<Problem> {
        let beyond = lock(&self.0.inotify).beyond.len();
        if beyond == 0 {
            return Vec::new();
        }
        let wanted = lock(&self.0.watched).len() + beyond;
        vec![Problem {
            path: RelPath::new(),
            what: format!(
                "inotify limit reached: {beyond} directories are not watched, but looked at from time to time"
            ),
            hint: format!("{}; they are watched by themselves then", remedy(wanted)),
            transient: false,
        }]
    }
}

async fn on_a_worker(inner: &Arc<Inner>, add: impl FnOnce(&Inner) -> Vec<RelPath> + Send + 'static) -> Vec<RelPath> {
    let inner = Arc::clone(inner);
    match tokio::task::spawn_blocking(move || add(&inner)).await {
        Ok(added) => added,
        Err(error) => {
            tracing::error!(%error, "directories could not be watched");
            Vec::new()
        }
    }
}

impl Inner {
    /// Watches the directories that are still, or again, what they were.
    fn add_again(&self, dirs: Directories) -> Vec<RelPath> {
        // Another one that took such a path is the engine's to name: it has to know first that it is another one.
        let same = dirs.into_iter().filter(|(dir, known)| identity(&self.path(dir)) == Some(*known));
        self.add(same.map(|(dir, _)| dir).collect())
    }

    fn add(&self, dirs: Vec<RelPath>) -> Vec<RelPath> {
        let mut inotify = lock(&self.inotify);
        let budget = self.budget.or_else(|| Some(granted()? / 2)).unwrap_or(usize::MAX);
        let mut added = Vec::new();
        for dir in dirs {
            let path = self.path(&dir);
            if self.unwatched.iter().any(|own| path.starts_with(own)) {
                continue;
            }
            let Some(identity) = identity(&path) else {
                inotify.beyond.remove(&dir);
                continue;
            };
            let (known, earlier, full) = {
                let watched = lock(&self.watched);
                (watched.has(&dir, identity), watched.earlier(&dir, identity), watched.len() >= budget)
            };
            if known {
                continue;
            }
            if let Some(earlier) = earlier {
                // One inode has one watch: left under two paths, it would end when notify hears of the move.
                // There is nothing to end where notify has heard of it.
                let _ = inotify.watcher.unwatch(&self.path(&earlier));
            }
            // Before the watch is there, so that what the events say of it afterwards is not undone.
            lock(&self.watched).insert(&dir, identity);
            let done = if full {
                Err(notify::Error::new(ErrorKind::MaxFilesWatch))
            } else {
                inotify.watcher.watch(&path, RecursiveMode::NonRecursive)
            };
            let Err(error) = done else {
                inotify.beyond.remove(&dir);
                added.push(dir);
                continue;
            };
            lock(&self.watched).remove(&dir);
            if matches!(error.kind, ErrorKind::MaxFilesWatch) {
                if inotify.beyond.is_empty() {
                    tracing::warn!("inotify limit reached: {}", remedy(lock(&self.watched).len() + 1));
                }
                inotify.beyond.insert(dir);
                self.fell_short.notify_one();
            } else {
                // Gone again, or not ours to read: the engine finds out when it looks.
                tracing::debug!(%error, "a directory could not be watched");
            }
        }
        added
    }

    fn path(&self, dir: &RelPath) -> PathBuf {
        if dir.is_empty() { self.home.clone() } else { self.home.join(OsStr::from_bytes(dir)) }
    }
}

/// Where what stirred is taken out, by one reader.
pub struct Stirs {
    gathered: Arc<Gathered>,
    inner: Weak<Inner>,
    again: BTreeMap<RelPath, Identity>,
    ready: VecDeque<Stirred>,
    passed: Vec<oneshot::Sender<()>>,
}

impl Stirs {
    /// Waits for something to stir; `None` when the watcher is gone. Calling it again says that what it gave before was
    /// dealt with. Nothing is lost if the call is dropped.
    pub async fn recv(&mut self) -> Option<Stirred> {
        loop {
            self.watch_again().await;
            if let Some(stirred) = self.ready.pop_front() {
                return Some(stirred);
            }
            for barrier in self.passed.drain(..) {
                // Whoever waited may have given up.
                let _ = barrier.send(());
            }
            if !self.gathered.wait().await {
                return None;
            }
            let taken = lock(&self.gathered.state).take();
            self.again = taken.again;
            self.passed = taken.barriers;
            if taken.lost {
                self.ready.push_back(Stirred::Overflow);
            } else if !taken.paths.is_empty() {
                self.ready.push_back(Stirred::Paths(taken.paths.into_iter().collect()));
            }
        }
    }

    async fn watch_again(&mut self) {
        if let Some(inner) = self.inner.upgrade().filter(|_| !self.again.is_empty()) {
            let dirs = self.again.iter().map(|(dir, identity)| (dir.clone(), *identity)).collect();
            let added = on_a_worker(&inner, move |inner| inner.add_again(dirs)).await;
            self.again.clear();
            if !added.is_empty() {
                self.ready.push_back(Stirred::Watched(added));
            }
        }
    }
}

impl Drop for Stirs {
    fn drop(&mut self) {
        let mut state = lock(&self.gathered.state);
        state.abandoned = true;
        state.waiting.clear();
        state.barriers.clear();
    }
}

/// What stirred and was not taken yet.
#[derive(Default)]
struct Gathered {
    state: Mutex<Gathering>,
    some: Notify,
}

#[derive(Default)]
struct Gathering {
    paths: BTreeSet<RelPath>,
    again: BTreeMap<RelPath, Identity>,
    lost: bool,
    /// Barriers that everything before them is gathered for.
    barriers: Vec<oneshot::Sender<()>>,
    /// Barriers that were not seen yet, by the path of their cookie.
    waiting: BTreeMap<PathBuf, oneshot::Sender<()>>,
    /// Nothing more will come.
    closed: bool,
    /// Nobody takes it any more.
    abandoned: bool,
}

impl Gathered {
    fn change<R>(&self, change: impl FnOnce(&mut Gathering) -> R) -> R {
        let mut state = lock(&self.state);
        let result = change(&mut state);
        if !state.is_empty() || state.closed {
            self.some.notify_one();
        }
        result
    }

    /// Waits for something to take, and a moment for more of it; `false` if nothing will come.
    async fn wait(&self) -> bool {
        loop {
            let some = self.some.notified();
            let (empty, closed, barrier) = {
                let state = lock(&self.state);
                (state.is_empty(), state.closed, !state.barriers.is_empty())
            };
            if empty && closed {
                return false;
            }
            if !empty {
                if !barrier {
                    tokio::time::sleep(GATHERING).await;
                }
                return true;
            }
            some.await;
        }
    }
}

impl Gathering {
    fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.again.is_empty() && !self.lost && self.barriers.is_empty()
    }

    fn take(&mut self) -> Self {
        let waiting = std::mem::take(&mut self.waiting);
        let left = Self { waiting, closed: self.closed, abandoned: self.abandoned, ..Self::default() };
        std::mem::replace(self, left)
    }

    fn add(&mut self, paths: Vec<RelPath>) {
        if self.lost || self.abandoned {
            return;
        }
        self.paths.extend(paths);
        if self.paths.len() > GATHERED {
            self.lose_sight();
        }
    }

    /// Everything is to be looked at: no barrier need wait for more than that.
    fn lose_sight(&mut self) {
        self.paths.clear();
        self.lost = true;
        let waiting = std::mem::take(&mut self.waiting);
        self.barriers.extend(waiting.into_values());
    }

    /// A cookie's event came.
    fn pass(&mut self, cookie: &Path) {
        self.barriers.extend(self.waiting.remove(cookie));
    }
}

/// Called by notify's thread.
struct Handler {
    home: PathBuf,
    cookies: PathBuf,
    gathered: Arc<Gathered>,
    watched: Arc<Mutex<Watched>>,
}

impl notify::EventHandler for Handler {
    fn handle_event(&mut self, event: notify::Result<notify::Event>) {
        let event = match event {
            Ok(event) if event.need_rescan() => return self.gathered.change(Gathering::lose_sight),
            Ok(event) if matters(&event.kind) => event,
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "the watcher lost sight");
                return self.gathered.change(Gathering::lose_sight);
            }
        };
        let mut again = Vec::new();
        let mut out = Vec::new();
        for path in &event.paths {
            if path.starts_with(&self.cookies) {
                self.gathered.change(|gathered| gathered.pass(path));
            } else if let Ok(below) = path.strip_prefix(&self.home) {
                let below = below.as_os_str().as_bytes().to_vec();
                again.extend(self.follow(&event, &below));
                out.push(below);
            }
        }
        out.retain(|path| !path.is_empty());
        if !out.is_empty() || !again.is_empty() {
            self.gathered.change(|gathered| {
                gathered.again.extend(again);
                gathered.add(out);
            });
        }
    }
}

impl Handler {
    /// Follows what notify does with its watches at this event; gives the directories to be watched again.
    fn follow(&self, event: &notify::Event, path: &RelPath) -> Directories {
        let mut watched = lock(&self.watched);
        match event.kind {
            // That a directory itself was moved is told once more, without a tracker and perhaps after it was back.
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) if event.tracker().is_some() => watched.moved(path),
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => watched.came(path),
            EventKind::Remove(RemoveKind::Folder) => watched.removed(path),
            _ => Vec::new(),
        }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.gathered.change(|gathered| gathered.closed = true);
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

/// How many watches the kernel grants this user.
fn granted() -> Option<usize> {
    std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").ok()?.trim().parse().ok()
}

/// The command that makes room for so many watches, with as many again for everybody else.
fn remedy(wanted: usize) -> String {
    let room = (wanted.saturating_mul(2)).max(granted().unwrap_or(0).saturating_mul(2)).max(1 << 19);
    format!("sudo sysctl fs.inotify.max_user_watches={}", room.next_power_of_two())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
