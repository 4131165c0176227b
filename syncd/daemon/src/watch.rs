//! Watches the home's directories with inotify, one watch a directory.
//!
//! Asked for is only what can change a name, a content or an attribute: that somebody reads wakes nobody
//! (docs/decisions/0029).
//! Events become paths below the home, gathered until [`Stirs::recv`] takes them; what the kernel or the gathering
//! could not hold becomes [`Stirred::Overflow`]. [`Watcher::cookie`] is a barrier: when it is through, everything that
//! happened before it was taken and dealt with. Which directories are watched is said by the engine; what a path means,
//! too. Where they are after moves is [`Table`]'s.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use hearth_schemas::item::Name;
use rustix::fs::inotify::{self, CreateFlags, Event, ReadFlags, Reader, WatchFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use syncd_core::path::{RelPath, join};
use syncd_core::store::Problem;
use tokio::sync::{Notify, oneshot};

use self::table::{Table, Watch};
use crate::disk::open_beneath;

mod table;

/// Paths that are gathered before all of them count as lost: then everything is looked at.
const GATHERED: usize = 1 << 16;
/// How long is waited for more to happen after the first: one save stirs a path several times.
const GATHERING: Duration = Duration::from_millis(5);
/// How long a barrier may take; the watcher is broken when it takes longer.
const COOKIE_WAIT: Duration = Duration::from_secs(5);
/// How long it is taken for granted how many watches the kernel grants.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Bytes of events that are read at once.
const EVENTS: usize = 64 << 10;

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
    home: OwnedFd,
    home_path: PathBuf,
    inotify: Arc<OwnedFd>,
    cookies: PathBuf,
    watched: Arc<Mutex<Watched>>,
    gathered: Arc<Gathered>,
    next_cookie: AtomicU64,
    /// Told when there was no watch left for a directory.
    fell_short: Notify,
    unwatched: Vec<PathBuf>,
    /// Watches that may be used; `None` for half of what the kernel grants at the time.
    budget: Option<usize>,
    stopping: Arc<AtomicBool>,
}

#[derive(Default)]
struct Watched {
    table: Table,
    /// Those that there was no watch left for.
    beyond: BTreeSet<RelPath>,
    /// How many watches may be used, and when that was found out.
    granted: Option<(Instant, usize)>,
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
        let root = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(home, root, Mode::empty()).context("opening the home")?;
        let inotify = inotify::init(CreateFlags::CLOEXEC);
        let inotify = Arc::new(inotify.context("starting inotify: see fs.inotify.max_user_instances")?);
        let of_cookies = WatchFlags::CREATE | WatchFlags::ONLYDIR;
        let cookie_watch = inotify::add_watch(&inotify, &cookies, of_cookies);
        let gathered = Arc::new(Gathered::default());
        let watched = Arc::new(Mutex::new(Watched::default()));
        let stopping = Arc::new(AtomicBool::new(false));
        let reading = Reading {
            inotify: Arc::clone(&inotify),
            cookies: cookie_watch.context("watching: see fs.inotify.max_user_watches")?,
            gathered: Arc::clone(&gathered),
            watched: Arc::clone(&watched),
            stopping: Arc::clone(&stopping),
        };
        std::thread::Builder::new()
            .name("watcher".to_owned())
            .spawn(|| reading.run())
            .context("starting the watcher")?;
        let inner = Arc::new(Inner {
            home: root,
            home_path: home.to_owned(),
            inotify,
            cookies,
            watched,
            gathered: Arc::clone(&gathered),
            next_cookie: AtomicU64::new(1),
            fell_short: Notify::new(),
            unwatched,
            budget,
            stopping,
        });
        Ok((Self(inner), Stirs { gathered, ready: VecDeque::new(), passed: Vec::new() }))
    }

    /// Watches these directories; a directory that moved is named again, by its later path. Gives those that were not
    /// watched under these paths before: what happened in them until now must be found by looking.
    pub async fn watch(&self, dirs: Vec<RelPath>) -> Vec<RelPath> {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || inner.add(dirs)).await.unwrap_or_else(|error| {
            tracing::error!(%error, "directories could not be watched");
            Vec::new()
        })
    }

    /// Watches a directory that is about to be looked at. Blocks for as long as the kernel takes.
    pub fn watch_now(&self, dir: RelPath) {
        self.0.add(vec![dir]);
    }

    /// Waits until everything that happened so far was taken out of [`Stirs`] and dealt with.
    pub async fn cookie(&self) {
        let number = self.0.next_cookie.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", std::process::id());
        let path = self.0.cookies.join(&name);
        let (seen, mut through) = oneshot::channel();
        {
            let mut state = lock(&self.0.gathered.state);
            if state.abandoned {
                return;
            }
            state.waiting.insert(name.clone(), seen);
        }
        let made = tokio::fs::write(&path, b"").await;
        if made.is_err() || tokio::time::timeout(COOKIE_WAIT, &mut through).await.is_err() {
            self.0.gathered.change(|gathered| {
                if gathered.waiting.contains_key(&name) {
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
        lock(&self.0.watched).beyond.iter().cloned().collect()
    }

    /// Waits until there may be such directories.
    pub async fn until_beyond(&self) {
        while lock(&self.0.watched).beyond.is_empty() {
            self.0.fell_short.notified().await;
        }
    }

    /// What is wrong with watching.
    pub fn problems(&self) -> Vec<Problem> {
        let (beyond, wanted) = {
            let watched = lock(&self.0.watched);
            (watched.beyond.len(), watched.table.len() + watched.beyond.len())
        };
        if beyond == 0 {
            return Vec::new();
        }
        vec![Problem {
            path: RelPath::new(),
            what: format!(
                "inotify limit reached: {beyond} directories are not watched, but looked at from time to time"
            ),
            hint: format!("{}; they are watched by themselves then", remedy(wanted)),
            transient: false,
            copied_ms: None,
        }]
    }
}

impl Inner {
    fn add(&self, dirs: Vec<RelPath>) -> Vec<RelPath> {
        let mut added = Vec::new();
        for dir in dirs {
            let path = self.home_path.join(OsStr::from_bytes(&dir));
            if self.unwatched.iter().any(|own| path.starts_with(own)) {
                continue;
            }
            // Held so that nothing is read of a watch before it is known whose it is.
            let mut watched = lock(&self.watched);
            let watch = self.watch(&dir).and_then(|watch| {
                let is_over = !watched.table.has(watch) && watched.table.len() >= self.budget(&mut watched.granted);
                if is_over {
                    // It ends by itself with its directory otherwise.
                    let _ = inotify::remove_watch(&self.inotify, watch);
                }
                if is_over { Err(Errno::NOSPC) } else { Ok(watch) }
            });
            match watch {
                Ok(watch) => {
                    watched.beyond.remove(&dir);
                    if watched.table.name(watch, &dir) {
                        added.push(dir);
                    }
                }
                Err(Errno::NOSPC) => {
                    if watched.beyond.is_empty() {
                        tracing::warn!("inotify limit reached: {}", remedy(watched.table.len() + 1));
                    }
                    watched.beyond.insert(dir);
                    self.fell_short.notify_one();
                }
                Err(error) => {
                    // Gone again, or not ours to read: the engine finds out when it looks.
                    tracing::debug!(%error, "a directory could not be watched");
                    watched.beyond.remove(&dir);
                }
            }
        }
        added
    }

    /// How many watches may be used. The kernel is asked anew once in a while.
    fn budget(&self, granted_at: &mut Option<(Instant, usize)>) -> usize {
        if let Some(budget) = self.budget {
            return budget;
        }
        let known = granted_at.filter(|(at, _)| at.elapsed() < ASK_AGAIN);
        let (at, budget) = known.unwrap_or_else(|| (Instant::now(), granted().map_or(usize::MAX, |all| all / 2)));
        *granted_at = Some((at, budget));
        budget
    }

    /// Sets a watch, or finds the one that is there, following no symlink below the home, however long the path.
    fn watch(&self, dir: &[u8]) -> Result<Watch, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = open_beneath(&self.home, if dir.is_empty() { b"." } else { dir }, flags);
        let opened = opened.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOENT))?;
        let asked = WatchFlags::ATTRIB | WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MODIFY;
        let asked = asked | WatchFlags::CLOSE_WRITE | WatchFlags::MOVE | WatchFlags::MOVE_SELF;
        let how = WatchFlags::ONLYDIR | WatchFlags::EXCL_UNLINK;
        inotify::add_watch(&self.inotify, format!("/proc/self/fd/{}", opened.as_raw_fd()), asked | how)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // The end of any watch is an event, and wakes the reader.
        if let Ok(watch) = self.watch(b"") {
            let _ = inotify::remove_watch(&self.inotify, watch);
        }
    }
}

/// Where what stirred is taken out, by one reader.
pub struct Stirs {
    gathered: Arc<Gathered>,
    ready: VecDeque<Stirred>,
    passed: Vec<oneshot::Sender<()>>,
}

impl Stirs {
    /// Waits for something to stir; `None` when the watcher is gone. Calling it again says that what it gave before was
    /// dealt with. Nothing is lost if the call is dropped.
    pub async fn recv(&mut self) -> Option<Stirred> {
        loop {
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
            self.passed = taken.barriers;
            if taken.lost {
                self.ready.push_back(Stirred::Overflow);
                continue;
            }
            if !taken.paths.is_empty() {
                self.ready.push_back(Stirred::Paths(taken.paths.into_iter().collect()));
            }
            if !taken.again.is_empty() {
                self.ready.push_back(Stirred::Watched(taken.again.into_iter().collect()));
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
    /// Directories that were elsewhere and are back.
    again: BTreeSet<RelPath>,
    lost: bool,
    /// Barriers that everything before them is gathered for.
    barriers: Vec<oneshot::Sender<()>>,
    /// Barriers that were not seen yet, by the name of their cookie.
    waiting: BTreeMap<String, oneshot::Sender<()>>,
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

    fn add(&mut self, paths: BTreeSet<RelPath>, again: Vec<RelPath>) {
        if self.lost || self.abandoned {
            return;
        }
        self.paths.extend(paths);
        self.again.extend(again);
        if self.paths.len() + self.again.len() > GATHERED {
            self.lose_sight();
        }
    }

    /// Everything is to be looked at: no barrier need wait for more than that.
    fn lose_sight(&mut self) {
        self.paths.clear();
        self.again.clear();
        self.lost = true;
        let waiting = std::mem::take(&mut self.waiting);
        self.barriers.extend(waiting.into_values());
    }

    /// A cookie's event came.
    fn pass(&mut self, cookie: &str) {
        self.barriers.extend(self.waiting.remove(cookie));
    }
}

/// Reads the events.
struct Reading {
    inotify: Arc<OwnedFd>,
    cookies: Watch,
    gathered: Arc<Gathered>,
    watched: Arc<Mutex<Watched>>,
    stopping: Arc<AtomicBool>,
}

/// What a batch of events says.
#[derive(Default)]
struct Batch {
    paths: BTreeSet<RelPath>,
    again: Vec<RelPath>,
    cookies: Vec<String>,
    lost: bool,
}

impl Reading {
    fn run(self) {
        let mut buffer = vec![MaybeUninit::uninit(); EVENTS];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        while !self.stopping.load(Ordering::Acquire) {
            let batch = self.read(&mut reader);
            self.gathered.change(|gathered| {
                if batch.lost {
                    gathered.lose_sight();
                }
                gathered.add(batch.paths, batch.again);
                batch.cookies.iter().for_each(|cookie| gathered.pass(cookie));
            });
            // What happens meanwhile comes with one call.
            std::thread::sleep(GATHERING);
        }
    }

    /// Waits for events, and takes as many as come with one call.
    fn read(&self, reader: &mut Reader<'_, &Arc<OwnedFd>>) -> Batch {
        let mut batch = Batch::default();
        loop {
            match reader.next() {
                Ok(event) => self.take(&event, &mut batch),
                Err(Errno::INTR) => continue,
                Err(error) => {
                    tracing::warn!(%error, "the watcher lost sight");
                    batch.lost = true;
                }
            }
            if reader.is_buffer_empty() {
                break;
            }
        }
        for surplus in lock(&self.watched).table.end_batch() {
            // Its directory may be gone by now, and the watch with it.
            let _ = inotify::remove_watch(&self.inotify, surplus);
        }
        batch
    }

    fn take(&self, event: &Event<'_>, batch: &mut Batch) {
        let (what, watch) = (event.events(), event.wd());
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            tracing::warn!("more happened than the kernel keeps; everything is looked at");
            batch.lost = true;
            return;
        }
        let name = event.file_name().map_or(&b""[..], |name| name.to_bytes());
        if watch == self.cookies {
            batch.cookies.push(String::from_utf8_lossy(name).into_owned());
            return;
        }
        let table = &mut lock(&self.watched).table;
        if what.contains(ReadFlags::IGNORED) {
            return table.gone(watch);
        }
        if what.contains(ReadFlags::MOVE_SELF) {
            match table.moved(watch) {
                Ok(back) => batch.again.extend(back),
                Err(table::Lost) => batch.lost = true,
            }
            return;
        }
        if what.contains(ReadFlags::ISDIR | ReadFlags::MOVED_FROM) {
            table.moved_from(event.cookie(), watch, name);
        } else if what.contains(ReadFlags::ISDIR | ReadFlags::MOVED_TO) {
            table.moved_to(event.cookie(), watch, name);
        }
        let Some(dir) = table.path(watch) else { return };
        // What has no name is told of the directory itself.
        let path = Name::new(name).map_or_else(|| dir.clone(), |name| join(&dir, &name));
        if !path.is_empty() {
            batch.paths.insert(path);
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.gathered.change(|gathered| gathered.closed = true);
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
