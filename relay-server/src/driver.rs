//! Runs the [`Relay`]: one loop that takes what happened, and does what the relay says.
//!
//! Inputs come from connections, from the store and from the clock, through one bounded queue. The loop itself never
//! waits for a connection or the disk. If handling one input panics, the connection that it came from ends.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hearth_schemas::relay::CloseCode;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::admission::Origin;
use crate::connection::Outbox;
use crate::forward::Forwarder;
use crate::metrics::Metrics;
use crate::relay::{ConnectionId, Effect, Input, Relay};
use crate::store::TaskQueue;

/// How many inputs may wait before those who bring them do.
pub(crate) const INBOX: usize = 1024;

/// What comes to the loop.
pub(crate) enum Message {
    /// A connection is ready, and this is how to answer it.
    Opened { conn: ConnectionId, exporter: [u8; 32], origin: Origin, outbox: Outbox },
    /// Anything else.
    Input(Input),
}

/// The loop's state.
pub(crate) struct Driver {
    pub(crate) relay: Relay,
    pub(crate) forwarder: Arc<Mutex<Forwarder>>,
    pub(crate) tasks: TaskQueue,
    pub(crate) outboxes: BTreeMap<ConnectionId, Outbox>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) started: Instant,
}

impl Driver {
    /// Runs until everybody who could bring an input is gone.
    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                message = inbox.recv() => message,
                _ = ticks.tick() => {
                    self.end_lapsed();
                    Some(Message::Input(Input::Tick))
                }
            };
            match message {
                Some(Message::Opened { conn, exporter, origin, outbox }) => {
                    self.outboxes.insert(conn, outbox);
                    self.take(Input::Connected { conn, exporter, origin });
                }
                Some(Message::Input(input)) => self.take(input),
                None => return,
            }
        }
    }

    fn end_lapsed(&mut self) {
        let lapsed = self.forwarder.lock().unwrap_or_else(PoisonError::into_inner).lapsed(self.now_ms());
        for (account, slot) in lapsed {
            self.take(Input::Lapsed { account, slot });
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn take(&mut self, input: Input) {
        let culprit = connection_of(&input);
        let closed = matches!(input, Input::Closed { .. });
        if self.handle(input).is_err()
            && let Some(conn) = culprit
        {
            tracing::error!("a request made the relay panic; its connection ends");
            self.carry_out(Effect::Close { conn, code: CloseCode::Malformed });
            let _second_panic_changes_nothing = self.handle(Input::Closed { conn });
        }
        if closed && let Some(conn) = culprit {
            self.outboxes.remove(&conn);
        }
    }

    fn handle(&mut self, input: Input) -> std::thread::Result<()> {
        let now_ms = self.now_ms();
        let mut effects = Vec::new();
        let handled = std::panic::catch_unwind(AssertUnwindSafe(|| self.relay.handle(input, now_ms, &mut effects)));
        for effect in effects {
            self.carry_out(effect);
        }
        handled
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Send { conn, frame } => {
                self.metrics.said(&frame);
                if let Some(outbox) = self.outboxes.get(&conn) {
                    outbox.send(&frame);
                }
            }
            Effect::Close { conn, code } => {
                if let Some(outbox) = self.outboxes.remove(&conn) {
                    outbox.close(code);
                }
            }
            Effect::Store { conn, task } => {
                if self.tasks.send((conn, task)).is_err() {
                    tracing::error!("the thread of the database is gone");
                }
            }
            Effect::Admit { token, mac_key, account, slot } => {
                let now_ms = self.now_ms();
                let mut forwarder = self.forwarder.lock().unwrap_or_else(PoisonError::into_inner);
                forwarder.admit(token, mac_key, account, slot, now_ms);
            }
            Effect::Retire { account, slot } => {
                self.forwarder.lock().unwrap_or_else(PoisonError::into_inner).retire(account, slot);
            }
        }
    }
}

fn connection_of(input: &Input) -> Option<ConnectionId> {
    match input {
        Input::Connected { conn, .. }
        | Input::Request { conn, .. }
        | Input::Stored { conn, .. }
        | Input::Closed { conn } => Some(*conn),
        Input::Lapsed { .. } | Input::Tick => None,
    }
}
