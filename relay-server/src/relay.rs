//! The relay as events and effects: who is connected, who is logged in, who is told what.
//!
//! Takes an [`Input`] and a time, gives [`Effect`]s. Logs and blobs are the store's: a request that needs them becomes
//! a [`Task`], and goes on when the [`Answer`] comes back. The store answers in the order it was asked, so a login that
//! was checked before a revocation is here before it, and is ended by it. Every task carries the account that the
//! connection proved to belong to; no frame names another.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_schemas::ids::{AccountId, DeviceId, Slot};
use hearth_schemas::keys;
use hearth_schemas::log::{self, Account};
use hearth_schemas::relay::{
    self as frames, ClientFrame, CloseCode, Event, Head, MAX_MESSAGE, Refusal, Reply, Request, ServerFrame, Session,
};

use crate::admission::{Bucket, Buckets, Limits, Origin};
use crate::forward::Token;
use crate::random::Random;
use crate::rooms::{Left, Rooms};

/// A connection, for as long as the relay runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ConnectionId(pub u64);

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A connection finished its handshake.
    Connected {
        /// Which.
        conn: ConnectionId,
        /// The TLS exporter that a login on it signs.
        exporter: [u8; 32],
        /// Where it comes from.
        origin: Origin,
    },
    /// A connection asks.
    Request {
        /// Which.
        conn: ConnectionId,
        /// The question.
        frame: ClientFrame,
    },
    /// The store answers the task of a connection.
    Stored {
        /// Whose task it was.
        conn: ConnectionId,
        /// The answer.
        answer: Answer,
    },
    /// A connection is gone.
    Closed {
        /// Which.
        conn: ConnectionId,
    },
    /// A device that is logged in has not been heard of on the UDP leg for [`hearth_schemas::relay::BIND_SECONDS`].
    Lapsed {
        /// Whose device.
        account: AccountId,
        /// Which.
        slot: Slot,
    },
    /// Time passed; to be told about once a second.
    Tick,
}

/// What to do.
#[derive(Debug)]
pub enum Effect {
    /// Send a frame.
    Send {
        /// To whom.
        conn: ConnectionId,
        /// What.
        frame: ServerFrame,
    },
    /// End a connection once what was sent before has arrived.
    Close {
        /// Which.
        conn: ConnectionId,
        /// Why.
        code: CloseCode,
    },
    /// Ask the store.
    Store {
        /// Whom the answer is for.
        conn: ConnectionId,
        /// What to do.
        task: Task,
    },
    /// Let a session use the UDP leg.
    Admit {
        /// Its name in datagrams.
        token: Token,
        /// Keys its BINDs.
        mac_key: [u8; 32],
        /// Its account.
        account: AccountId,
        /// Its device.
        slot: Slot,
    },
    /// Shut a device's sessions out of the UDP leg.
    Retire {
        /// Its account.
        account: AccountId,
        /// The device.
        slot: Slot,
    },
}

/// What the store is asked to do.
#[derive(Debug)]
pub enum Task {
    /// Take in an account.
    Create {
        /// Its log from genesis.
        entries: Vec<Vec<u8>>,
        /// What the log commits to.
        blobs: Vec<Vec<u8>>,
        /// Invitation, if one was shown.
        invite: Option<String>,
    },
    /// Get an account.
    Load {
        /// Which.
        account: AccountId,
    },
    /// Continue a log if its head is this one.
    Append {
        /// Whose log.
        account: AccountId,
        /// The head to continue.
        after: Head,
        /// What follows.
        entries: Vec<Vec<u8>>,
        /// What the entries commit to.
        blobs: Vec<Vec<u8>>,
    },
    /// Read a piece of a log.
    Log {
        /// Whose.
        account: AccountId,
        /// From which position.
        from: u64,
    },
    /// Read a blob.
    Blob {
        /// Whose.
        account: AccountId,
        /// Its BLAKE3.
        hash: [u8; 32],
    },
    /// Note that a device is, or was, here. Has no answer.
    Seen {
        /// Whose device.
        account: AccountId,
        /// Which.
        slot: Slot,
    },
}

/// What the store says.
#[derive(Debug)]
pub enum Answer {
    /// Of [`Task::Create`].
    Created(Result<(), Refusal>),
    /// Of [`Task::Load`].
    Account(Option<Arc<Account>>),
    /// Of [`Task::Append`].
    Appended(Result<Arc<Account>, Refusal>),
    /// Of [`Task::Log`] and [`Task::Blob`].
    Reply(Reply),
}

/// The state of the relay.
pub struct Relay {
    limits: Limits,
    random: Random,
    connections: BTreeMap<ConnectionId, Connection>,
    /// The connection that each device is logged in on.
    online: BTreeMap<AccountId, BTreeMap<Slot, ConnectionId>>,
    rooms: Rooms,
    wrong_rooms: Buckets,
    accounts: Buckets,
}

struct Connection {
    exporter: [u8; 32],
    origin: Origin,
    who: Who,
    waiting: Option<Waiting>,
    signals: Bucket,
    /// Since when it has had no business here, as far as it is a stranger.
    idle_since_ms: u64,
}

#[derive(Clone, Copy)]
enum Who {
    Stranger,
    Root(AccountId),
    Device { account: AccountId, device: DeviceId, slot: Slot },
}

/// A request whose answer the store owes.
struct Waiting {
    id: u32,
    step: Step,
}

enum Step {
    Login { account: AccountId, device: DeviceId, signature: Vec<u8> },
    LoginRoot { account: AccountId },
    Other,
}

/// What becomes of a request at once.
enum Outcome {
    Reply(Reply),
    Ask(Task, Step),
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        Self::Reply(Reply::Refused(refusal))
    }
}

impl Relay {
    /// Makes a relay that knows nobody. All that it draws at random follows from the seed.
    pub fn new(limits: Limits, seed: [u8; 32]) -> Self {
        Self {
            wrong_rooms: Buckets::new(limits.wrong_rooms),
            accounts: Buckets::new(limits.accounts),
            limits,
            random: Random::new(seed),
            connections: BTreeMap::new(),
            online: BTreeMap::new(),
            rooms: Rooms::default(),
        }
    }

    /// Takes what happened and adds what to do, in order.
    pub fn handle(&mut self, input: Input, now_ms: u64, effects: &mut Vec<Effect>) {
        match input {
            Input::Connected { conn, exporter, origin } => self.connected(conn, exporter, origin, now_ms, effects),
            Input::Request { conn, frame } => self.requested(conn, frame, now_ms, effects),
            Input::Stored { conn, answer } => self.stored(conn, answer, now_ms, effects),
            Input::Closed { conn } => self.closed(conn, now_ms, effects),
            Input::Lapsed { account, slot } => self.lapsed(account, slot, now_ms, effects),
            Input::Tick => self.tick(now_ms, effects),
        }
    }

    fn connected(
        &mut self,
        conn: ConnectionId,
        exporter: [u8; 32],
        origin: Origin,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        let strangers = self.connections.values().filter(|connection| connection.is_stranger()).count();
        if strangers >= self.limits.strangers {
            effects.push(Effect::Close { conn, code: CloseCode::Limit });
            return;
        }
        let connection = Connection {
            exporter,
            origin,
            who: Who::Stranger,
            waiting: None,
            signals: Bucket::default(),
            idle_since_ms: now_ms,
        };
        self.connections.insert(conn, connection);
    }

    fn requested(&mut self, conn: ConnectionId, frame: ClientFrame, now_ms: u64, effects: &mut Vec<Effect>) {
        let id = frame.id;
        let Some(connection) = self.connections.get(&conn) else { return };
        let outcome = match connection.waiting {
            Some(_) => Refusal::Unexpected.into(),
            None => self.decide(conn, frame.request, now_ms, effects),
        };
        match outcome {
            Outcome::Reply(reply) => send_reply(effects, conn, id, reply),
            Outcome::Ask(task, step) => {
                if let Some(connection) = self.connections.get_mut(&conn) {
                    connection.waiting = Some(Waiting { id, step });
                    effects.push(Effect::Store { conn, task });
                }
            }
        }
    }

    fn decide(&mut self, conn: ConnectionId, request: Request, now_ms: u64, effects: &mut Vec<Effect>) -> Outcome {
        let Some(connection) = self.connections.get(&conn) else { return Refusal::Unexpected.into() };
        let who = connection.who;
        match request {
            Request::CreateAccount { entries, blobs, invite } => {
                if !self.accounts.take(connection.origin, now_ms) {
                    return Refusal::Limit.into();
                }
                Outcome::Ask(Task::Create { entries, blobs, invite }, Step::Other)
            }
            Request::Login { account, device, signature } => match who {
                Who::Device { .. } => Refusal::Unexpected.into(),
                Who::Stranger | Who::Root(_) => {
                    Outcome::Ask(Task::Load { account }, Step::Login { account, device, signature })
                }
            },
            Request::LoginRoot { root, signature } => {
                let account = log::account_id(&root);
                let message = frames::login_message(account, "root", &connection.exporter);
                match who {
                    Who::Device { .. } => Refusal::Unexpected.into(),
                    Who::Stranger | Who::Root(_) if !keys::verify(&root, &message, &signature) => {
                        Refusal::NotAuthorised.into()
                    }
                    Who::Stranger | Who::Root(_) => Outcome::Ask(Task::Load { account }, Step::LoginRoot { account }),
                }
            }
            Request::PairJoin { number } => Outcome::Reply(self.pair_join(conn, number, now_ms, effects)),
            Request::PairSend { message } => Outcome::Reply(self.pair_send(conn, message, effects)),
            Request::PairOpen => Outcome::Reply(self.pair_open(who, now_ms, effects)),
            Request::PairClose => Outcome::Reply(self.pair_close(conn, now_ms, effects)),
            Request::FetchLog { from } => who.ask(|account| Task::Log { account, from }),
            Request::FetchBlob { hash } => who.ask(|account| Task::Blob { account, hash }),
            Request::Append { after, entries, blobs } => {
                who.ask(|account| Task::Append { account, after, entries, blobs })
            }
            Request::Signal { to, payload } => Outcome::Reply(self.signal(conn, to, payload, now_ms, effects)),
        }
    }

    fn pair_join(&mut self, conn: ConnectionId, number: u32, now_ms: u64, effects: &mut Vec<Effect>) -> Reply {
        let Some(connection) = self.connections.get(&conn) else { return Reply::Refused(Refusal::Unexpected) };
        if self.rooms.opener_of(conn).is_some() {
            return Reply::Refused(Refusal::Unexpected);
        }
        if !self.wrong_rooms.allows(connection.origin, now_ms) {
            return Reply::Refused(Refusal::Limit);
        }
        let opener = self.rooms.vacant(number, now_ms).and_then(|(account, slot)| self.session(account, slot));
        let Some(opener) = opener else {
            self.wrong_rooms.take(connection.origin, now_ms);
            return Reply::Refused(Refusal::NoRoom);
        };
        self.rooms.enter(number, conn, now_ms);
        send_event(effects, opener, Event::PairJoined);
        Reply::Done
    }

    fn pair_send(&mut self, conn: ConnectionId, message: Vec<u8>, effects: &mut Vec<Effect>) -> Reply {
        if message.len() > MAX_MESSAGE {
            return Reply::Refused(Refusal::Limit);
        }
        let other = match (self.rooms.opener_of(conn), self.who(conn)) {
            (Some((account, slot)), _) => self.session(account, slot),
            (None, Who::Device { account, slot, .. }) => self.rooms.joiner_of((account, slot)),
            (None, Who::Stranger | Who::Root(_)) => None,
        };
        let Some(other) = other else { return Reply::Refused(Refusal::NoRoom) };
        send_event(effects, other, Event::PairMessage { message });
        Reply::Done
    }

    fn pair_open(&mut self, who: Who, now_ms: u64, effects: &mut Vec<Effect>) -> Reply {
        let Who::Device { account, slot, .. } = who else { return Reply::Refused(Refusal::NotAuthorised) };
        if let Some(left) = self.rooms.close((account, slot)) {
            self.tell_joiner(left, now_ms, effects);
        }
        match self.rooms.open((account, slot), &mut self.random, now_ms) {
            Ok(number) => Reply::Room { number },
            Err(refusal) => Reply::Refused(refusal),
        }
    }

    fn pair_close(&mut self, conn: ConnectionId, now_ms: u64, effects: &mut Vec<Effect>) -> Reply {
        if let Some(left) = self.rooms.leave(conn, now_ms) {
            self.tell_opener(left, effects);
            self.idle_from(conn, now_ms);
            return Reply::Done;
        }
        let Who::Device { account, slot, .. } = self.who(conn) else { return Reply::Refused(Refusal::NoRoom) };
        let Some(left) = self.rooms.close((account, slot)) else { return Reply::Refused(Refusal::NoRoom) };
        self.tell_joiner(left, now_ms, effects);
        Reply::Done
    }

    fn signal(
        &mut self,
        conn: ConnectionId,
        to: Slot,
        payload: Vec<u8>,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        let rate = self.limits.signals;
        let Some(connection) = self.connections.get_mut(&conn) else { return Reply::Refused(Refusal::Unexpected) };
        let Who::Device { account, slot: from, .. } = connection.who else {
            return Reply::Refused(Refusal::NotAuthorised);
        };
        if payload.len() > MAX_MESSAGE || !connection.signals.take(rate, now_ms) {
            return Reply::Refused(Refusal::Limit);
        }
        let Some(other) = self.session(account, to) else { return Reply::Refused(Refusal::Offline) };
        send_event(effects, other, Event::Signal { from, payload });
        Reply::Done
    }

    fn stored(&mut self, conn: ConnectionId, answer: Answer, now_ms: u64, effects: &mut Vec<Effect>) {
        let waiting = self.connections.get_mut(&conn).and_then(|connection| connection.waiting.take());
        let mut reply = |reply| {
            if let Some(waiting) = &waiting {
                send_reply(effects, conn, waiting.id, reply);
            }
        };
        match answer {
            Answer::Created(Ok(())) => reply(Reply::Done),
            Answer::Created(Err(refusal)) | Answer::Appended(Err(refusal)) => reply(Reply::Refused(refusal)),
            Answer::Reply(it) => reply(it),
            Answer::Appended(Ok(account)) => {
                reply(Reply::Done);
                self.log_changed(&account, now_ms, effects);
            }
            Answer::Account(account) => {
                if let Some(Waiting { id, step }) = waiting {
                    self.loaded(conn, id, step, account.as_deref(), now_ms, effects);
                }
            }
        }
    }

    fn loaded(
        &mut self,
        conn: ConnectionId,
        id: u32,
        step: Step,
        account: Option<&Account>,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        match step {
            Step::LoginRoot { account: root } => {
                connection.who = Who::Root(root);
                send_reply(effects, conn, id, Reply::Root { head: account.map(|account| account.head) });
            }
            Step::Login { account: named, device, signature } => {
                let message = frames::login_message(named, "device", &connection.exporter);
                let known = account.and_then(|account| Some((account, account.active(&device)?)));
                match known.filter(|(_, device)| keys::verify(&device.sign, &message, &signature)) {
                    Some((account, device)) => {
                        self.log_in(conn, id, account, device.id, device.slot, now_ms, effects);
                    }
                    None => send_reply(effects, conn, id, Reply::Refused(Refusal::NotAuthorised)),
                }
            }
            Step::Other => send_reply(effects, conn, id, Reply::Refused(Refusal::Trouble)),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "who logged in, where, and what the reply needs")]
    fn log_in(
        &mut self,
        conn: ConnectionId,
        id: u32,
        account: &Account,
        device: DeviceId,
        slot: Slot,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        let (token, mac_key) = (self.random.token(), self.random.key());
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.who = Who::Device { account: account.id, device, slot };
        }
        let sessions = self.online.entry(account.id).or_default();
        let older = sessions.insert(slot, conn);
        let online = sessions.keys().copied().filter(|other| *other != slot).collect();
        effects.push(Effect::Admit { token, mac_key, account: account.id, slot });
        send_reply(effects, conn, id, Reply::Session(Session { slot, token, mac_key, head: account.head, online }));
        effects.push(Effect::Store { conn, task: Task::Seen { account: account.id, slot } });
        if let Some(older) = older {
            self.connections.remove(&older);
            effects.push(Effect::Close { conn: older, code: CloseCode::Replaced });
            if let Some(left) = self.rooms.leave(older, now_ms) {
                self.tell_opener(left, effects);
            }
        }
        // Told even to who knows it as online: a device that logs in anew may have forgotten its peers.
        self.tell_others(account.id, slot, &Event::Presence { slot, online: true }, effects);
    }

    /// Ends the sessions of devices that the log no longer has, then tells the others.
    fn log_changed(&mut self, account: &Account, now_ms: u64, effects: &mut Vec<Effect>) {
        let sessions = self.online.get(&account.id).cloned().unwrap_or_default();
        let gone = |conn: &ConnectionId| match self.who(*conn) {
            Who::Device { device, .. } => account.active(&device).is_none(),
            Who::Stranger | Who::Root(_) => true,
        };
        let (gone, stay): (Vec<_>, Vec<_>) = sessions.into_iter().partition(|(_, conn)| gone(conn));
        for (slot, conn) in gone {
            if let Some(left) = self.rooms.close((account.id, slot)) {
                self.tell_joiner(left, now_ms, effects);
            }
            self.closed(conn, now_ms, effects);
            effects.push(Effect::Close { conn, code: CloseCode::Revoked });
        }
        for (_, conn) in stay {
            send_event(effects, conn, Event::LogChanged { head: account.head });
        }
    }

    fn closed(&mut self, conn: ConnectionId, now_ms: u64, effects: &mut Vec<Effect>) {
        let Some(connection) = self.connections.remove(&conn) else { return };
        if let Some(left) = self.rooms.leave(conn, now_ms) {
            self.tell_opener(left, effects);
        }
        let Who::Device { account, slot, .. } = connection.who else { return };
        let Some(sessions) = self.online.get_mut(&account) else { return };
        if sessions.get(&slot) != Some(&conn) {
            return;
        }
        sessions.remove(&slot);
        if sessions.is_empty() {
            self.online.remove(&account);
        }
        effects.push(Effect::Retire { account, slot });
        effects.push(Effect::Store { conn, task: Task::Seen { account, slot } });
        self.tell_others(account, slot, &Event::Presence { slot, online: false }, effects);
        if let Some(left) = self.rooms.opener_away((account, slot), now_ms) {
            self.tell_joiner(left, now_ms, effects);
        }
    }

    fn lapsed(&mut self, account: AccountId, slot: Slot, now_ms: u64, effects: &mut Vec<Effect>) {
        if let Some(conn) = self.session(account, slot) {
            self.closed(conn, now_ms, effects);
            effects.push(Effect::Close { conn, code: CloseCode::Idle });
        }
    }

    fn tick(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        for left in self.rooms.expire(now_ms) {
            self.tell_opener(left, effects);
            self.tell_joiner(left, now_ms, effects);
        }
        let limit_ms = self.limits.stranger_ms;
        let is_idle = |conn: &ConnectionId, connection: &Connection| {
            connection.is_stranger()
                && now_ms.saturating_sub(connection.idle_since_ms) >= limit_ms
                && self.rooms.opener_of(*conn).is_none()
        };
        let idle: Vec<ConnectionId> =
            self.connections.iter().filter(|(conn, it)| is_idle(conn, it)).map(|(conn, _)| *conn).collect();
        for conn in idle {
            self.connections.remove(&conn);
            effects.push(Effect::Close { conn, code: CloseCode::Idle });
        }
    }

    fn tell_opener(&self, left: Left, effects: &mut Vec<Effect>) {
        if let Some(opener) = self.session(left.opener.0, left.opener.1) {
            send_event(effects, opener, Event::PairLeft { tries_left: left.tries_left });
        }
    }

    fn tell_joiner(&mut self, left: Left, now_ms: u64, effects: &mut Vec<Effect>) {
        if let Some(joiner) = left.joiner {
            self.idle_from(joiner, now_ms);
            send_event(effects, joiner, Event::PairLeft { tries_left: left.tries_left });
        }
    }

    fn tell_others(&self, account: AccountId, but: Slot, event: &Event, effects: &mut Vec<Effect>) {
        for (_, conn) in self.online.get(&account).into_iter().flatten().filter(|(slot, _)| **slot != but) {
            send_event(effects, *conn, event.clone());
        }
    }

    fn idle_from(&mut self, conn: ConnectionId, now_ms: u64) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.idle_since_ms = now_ms;
        }
    }

    fn session(&self, account: AccountId, slot: Slot) -> Option<ConnectionId> {
        self.online.get(&account)?.get(&slot).copied()
    }

    fn who(&self, conn: ConnectionId) -> Who {
        self.connections.get(&conn).map_or(Who::Stranger, |connection| connection.who)
    }
}

impl Connection {
    fn is_stranger(&self) -> bool {
        matches!(self.who, Who::Stranger)
    }
}

impl Who {
    /// Asks the store about the account that this connection belongs to.
    fn ask(self, task: impl FnOnce(AccountId) -> Task) -> Outcome {
        match self {
            Self::Stranger => Refusal::NotAuthorised.into(),
            Self::Root(account) | Self::Device { account, .. } => Outcome::Ask(task(account), Step::Other),
        }
    }
}

fn send_reply(effects: &mut Vec<Effect>, conn: ConnectionId, id: u32, reply: Reply) {
    effects.push(Effect::Send { conn, frame: ServerFrame::Reply { id, reply } });
}

fn send_event(effects: &mut Vec<Effect>, conn: ConnectionId, event: Event) {
    effects.push(Effect::Send { conn, frame: ServerFrame::Event(event) });
}

#[cfg(test)]
mod tests;
