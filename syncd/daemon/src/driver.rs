//! The one loop around the core: wait, event, engine, effects.
//!
//! The engine, its index and the disk that it works on live on a thread of their own, because looking and applying
//! block. [`Driver`] is the handle to it: events go in, questions are answered between two slices of work, effects
//! come out on a bounded channel to whoever carries them out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_schemas::ids::DeviceId;
use syncd_core::brake::Hold;
use syncd_core::disk::{Kind, RelPath};
use syncd_core::engine::{Effect, Engine, Event, Summary};
use syncd_core::state::Now;
use syncd_core::store::{Problem, Store, StoreError};
use tokio::sync::{mpsc, oneshot, watch};

use crate::disk::RealDisk;
use crate::store::SqliteStore;

/// Effects that may wait to be carried out before the engine waits.
const EFFECTS: usize = 4096;
/// How long the engine rests after its index could not be written, in milliseconds.
const REST_MS: u64 = 3000;
/// The longest sleep: a change of the wall clock is noticed within it.
const NAP: Duration = Duration::from_secs(600);
/// How long nothing has to happen before memory that only serves speed is given back.
const CALM: Duration = Duration::from_secs(3);
/// So many entries that stay here are named.
const FEW: usize = 20;
/// Random numbers that are asked of the system at a time.
const DRAWN: usize = 64;
/// Least time between two pictures of how things stand, while there is work.
const PICTURE: Duration = Duration::from_millis(200);

/// The engine of this daemon.
pub type RealEngine = Engine<SqliteStore>;

type Question = Box<dyn FnOnce(&mut RealEngine, &mut RealDisk) + Send>;

enum Command {
    Event(Event),
    Question(Question),
    Stop,
}

/// How things stood a moment ago.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Exact state of the exchange.
    pub summary: Summary,
    /// What could not be read or written.
    pub problems: Vec<Problem>,
    /// How many entries stay here for what they are, or lose something on their way.
    pub staying: usize,
    /// The first few of them.
    pub first_staying: Vec<(RelPath, Kind)>,
    /// The index itself cannot be written, and why.
    pub index_trouble: Option<String>,
    /// The index was found damaged: it is begun anew when it is opened next, and nothing goes on until then.
    pub damaged: bool,
    /// Whether exchanging is stopped.
    pub paused: bool,
    /// Number of conflict siblings on this disk.
    pub conflicts: usize,
    /// What is held, on any machine, by its id.
    pub holds: Vec<(String, Hold)>,
    /// Who has yet to carry out what a person said of a hold.
    pub judged: Vec<DeviceId>,
    /// Wall clock of the last moment that everything seen was looked at, in milliseconds since 1970.
    pub fresh_ms: Option<u64>,
    /// Rises with each picture.
    pub number: u64,
}

/// A handle to the engine's thread.
#[derive(Clone, Debug)]
pub struct Driver {
    commands: Sender<Command>,
    picture: watch::Receiver<Picture>,
}

/// The thread was stopped.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the daemon is stopping")]
pub struct Stopped;

impl Driver {
    /// Starts the thread.
    pub fn start(
        engine: RealEngine,
        disk: RealDisk,
    ) -> std::io::Result<(Self, mpsc::Receiver<Effect>, JoinHandle<()>)> {
        let (commands, inbox) = channel();
        let (effects, outbox) = mpsc::channel(EFFECTS);
        let (picture_in, picture) = watch::channel(Picture::default());
        let run = Run {
            engine,
            disk,
            effects,
            picture: picture_in,
            trouble: None,
            damaged: false,
            fresh_ms: None,
            pictured: None,
        };
        let thread = std::thread::Builder::new().name("engine".into()).spawn(move || run.run(&inbox))?;
        Ok((Self { commands, picture }, outbox, thread))
    }

    /// Tells the engine what happened.
    pub fn tell(&self, event: Event) {
        // A stopped engine has no use for events.
        let _ = self.commands.send(Command::Event(event));
    }

    /// Asks something between two slices of work.
    pub async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut RealEngine, &mut RealDisk) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        let (answer, answered) = oneshot::channel();
        let question: Question = Box::new(move |engine, disk| {
            let _ = answer.send(question(engine, disk));
        });
        self.commands.send(Command::Question(question)).map_err(|_| Stopped)?;
        answered.await.map_err(|_| Stopped)
    }

    /// How things stood a moment ago; changes are seen through the receiver.
    pub fn picture(&self) -> watch::Receiver<Picture> {
        self.picture.clone()
    }

    /// Ends the thread after its present slice.
    pub fn stop(&self) {
        let _ = self.commands.send(Command::Stop);
    }
}

struct Run {
    engine: RealEngine,
    disk: RealDisk,
    effects: mpsc::Sender<Effect>,
    picture: watch::Sender<Picture>,
    trouble: Option<String>,
    damaged: bool,
    fresh_ms: Option<u64>,
    pictured: Option<std::time::Instant>,
}

impl Run {
    fn run(mut self, inbox: &Receiver<Command>) {
        let mut busy = true;
        let mut awake = true;
        let mut rest_until = 0;
        loop {
            let command = if busy && wall_ms() >= rest_until {
                awake = true;
                inbox.try_recv().map_err(|_| RecvTimeoutError::Timeout)
            } else {
                self.take_picture();
                let nap = self.nap(rest_until);
                let command = inbox.recv_timeout(if awake { nap.min(CALM) } else { nap });
                if awake && nap >= CALM && matches!(command, Err(RecvTimeoutError::Timeout)) {
                    self.engine.rest();
                    awake = false;
                }
                command
            };
            match command {
                Ok(Command::Event(event)) => {
                    if let Err(error) = with_now(|now| self.engine.handle(event, now)) {
                        self.note(Err(error), &mut rest_until);
                    }
                    busy = true;
                }
                Ok(Command::Question(question)) => {
                    question(&mut self.engine, &mut self.disk);
                    busy = true;
                }
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if wall_ms() >= rest_until => {
                    let (engine, disk) = (&mut self.engine, &mut self.disk);
                    let result = with_now(|now| engine.work(disk, now));
                    busy = *result.as_ref().unwrap_or(&true);
                    self.note(result.map(|_| ()), &mut rest_until);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.damaged {
                self.take_picture();
                break;
            }
            if self.pictured.is_none_or(|at| at.elapsed() > PICTURE) {
                self.take_picture();
            }
            if !self.pass_effects() {
                break;
            }
        }
        let saved = self.engine.state.save_clock();
        if let Err(error) = saved {
            tracing::warn!(%error, "the clock could not be saved");
        }
    }

    /// Hands the effects on; `false` if nobody takes them any more.
    fn pass_effects(&mut self) -> bool {
        while let Some(effect) = self.engine.poll_effect() {
            if !matches!(effect, Effect::StatusChanged) && self.effects.blocking_send(effect).is_err() {
                return false;
            }
        }
        true
    }

    fn nap(&self, rest_until: u64) -> Duration {
        let now = wall_ms();
        let wake = self.engine.poll_timeout().map_or(u64::MAX, |at| at.max(now + 1)).min(if rest_until > now {
            rest_until
        } else {
            u64::MAX
        });
        Duration::from_millis(wake.saturating_sub(now)).min(NAP)
    }

    fn note(&mut self, result: Result<(), StoreError>, rest_until: &mut u64) {
        match result {
            Ok(()) => self.trouble = None,
            Err(error) => {
                if self.trouble.is_none() {
                    tracing::warn!(%error, "the index could not be written; trying again");
                }
                self.troubled(&error);
                *rest_until = wall_ms() + REST_MS;
            }
        }
    }

    fn troubled(&mut self, error: &StoreError) {
        self.trouble = Some(error.to_string());
        if matches!(error, StoreError::Damaged(_)) && !self.damaged {
            self.damaged = true;
            if let Err(error) = self.engine.state.store.distrust() {
                tracing::warn!(%error, "it could not be noted that the index is damaged");
            }
        }
    }

    fn take_picture(&mut self) {
        self.pictured = Some(std::time::Instant::now());
        let summary = match self.engine.summary() {
            Ok(summary) => summary,
            Err(error) => {
                self.troubled(&error);
                Summary::default()
            }
        };
        let conflicts = self.engine.state.store.siblings().map_or(0, |siblings| siblings.len());
        if summary.fresh {
            self.fresh_ms = Some(wall_ms());
        }
        let by_path: BTreeMap<RelPath, Problem> =
            self.engine.problems().map(|problem| (problem.path.clone(), problem.clone())).collect();
        let staying = self.engine.staying();
        let first_staying = staying.iter().take(FEW).map(|(path, kind)| (path.clone(), *kind)).collect();
        let staying = staying.len();
        self.picture.send_modify(|picture| {
            *picture = Picture {
                staying,
                first_staying,
                summary,
                problems: by_path.into_values().collect(),
                index_trouble: self.trouble.clone(),
                damaged: self.damaged,
                paused: self.engine.is_paused(),
                fresh_ms: self.fresh_ms,
                conflicts,
                holds: self.engine.holds().map(|(id, hold)| (id.to_owned(), hold.clone())).collect(),
                judged: self.engine.judged().collect(),
                number: picture.number + 1,
            };
        });
    }
}

/// Wall clock in milliseconds since 1970.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

thread_local! {
    /// Random numbers of the system that have not been given out yet: asking for each costs more than making it.
    static CHANCE: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Calls with the present clock and the system's randomness.
pub fn with_now<R>(call: impl FnOnce(&mut Now) -> R) -> R {
    let mut random = || CHANCE.with_borrow_mut(|left| left.pop().unwrap_or_else(|| draw(left)));
    call(&mut Now { wall_ms: wall_ms(), random: &mut random })
}

/// Draws many random numbers; gives one and keeps the others.
fn draw(left: &mut Vec<u64>) -> u64 {
    let mut bytes = [[0; 8]; DRAWN];
    getrandom::fill(bytes.as_flattened_mut()).expect("the kernel gives random bytes");
    let [first, others @ ..] = bytes.map(u64::from_le_bytes);
    left.extend(others);
    first
}
