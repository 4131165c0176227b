//! The relay that decides as the real one does, and then does something else.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use hearth_schemas::codec;
use hearth_schemas::ids::{AccountId, Slot};
use hearth_schemas::keys::Phrase;
use hearth_schemas::log::{Account, Body, Caps, SEALED_NAME, Signer};
use hearth_schemas::relay::{
    BIND_LEN, CloseCode, Event, HEADER, Head, Header, Kind, Refusal, Reply, ServerFrame, bound_datagram, open_bound,
};
use relay_server::admission::{Admission, Limits};
use relay_server::forward::{Forwarder, Token, Verdict};
use relay_server::relay::{Answer, ConnectionId, Effect, Input, Relay, Task};
use relay_server::store::Store;
use tokio::sync::mpsc::UnboundedSender;

use super::misdeeds::Misdeed;
use crate::household::{Household, device_keys};

/// How many datagrams and signals are remembered, to come again.
const REMEMBERED: usize = 4096;
/// How many datagrams are held back at most.
const HELD: usize = 16;
/// Numbers of devices that are spoken of, whether there are such devices or not.
const SLOTS: u64 = 6;

/// What is on its way to one connection.
pub(crate) enum Out {
    /// A frame's body.
    Frame(Vec<u8>),
    /// The end.
    Close(CloseCode),
}

/// The real relay's parts, and what is needed to do evil.
pub(crate) struct Evil {
    misdeed: Misdeed,
    deeds: u64,
    relay: Relay,
    store: Store,
    forwarder: Forwarder,
    outboxes: BTreeMap<ConnectionId, UnboundedSender<Out>>,
    started: Instant,
    chance: u64,
    sessions: BTreeMap<Token, (Slot, [u8; 32])>,
    /// Where each session is.
    bound: BTreeMap<Token, SocketAddr>,
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    held: Vec<(SocketAddr, Vec<u8>)>,
    signals: Vec<(ConnectionId, Event)>,
    /// The first account that came, and what its log was at first.
    victim: Option<(AccountId, Head)>,
    other: Household,
}

impl Evil {
    pub(crate) fn new(database: &Path) -> Result<Self> {
        let limits = Limits::default();
        Ok(Self {
            misdeed: Misdeed::None,
            deeds: 0,
            relay: Relay::new(limits.clone(), [7; 32]),
            store: Store::open(database, Admission::Open, limits)?,
            forwarder: Forwarder::default(),
            outboxes: BTreeMap::new(),
            started: Instant::now(),
            chance: 0x9e37_79b9_7f4a_7c15,
            sessions: BTreeMap::new(),
            bound: BTreeMap::new(),
            datagrams: VecDeque::new(),
            held: Vec::new(),
            signals: Vec::new(),
            victim: None,
            other: Household::new(66, 4),
        })
    }

    /// Does as it is told from now on. Gives the number of misdeeds before.
    pub(crate) fn obey(&mut self, order: &str) -> Result<u64> {
        let before = self.deeds;
        if order != "count" {
            self.misdeed = Misdeed::parse(order)?;
            self.begin();
        }
        Ok(before)
    }

    /// Notes how to answer a connection.
    pub(crate) fn connected(&mut self, conn: ConnectionId, outbox: UnboundedSender<Out>) {
        self.outboxes.insert(conn, outbox);
    }

    /// Takes what happened to the connections.
    pub(crate) fn take(&mut self, input: Input) {
        if let Input::Closed { conn } = &input {
            self.outboxes.remove(conn);
        }
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut effects = Vec::new();
            self.relay.handle(input, self.now_ms(), &mut effects);
            for effect in effects {
                inputs.extend(self.carry_out(effect));
            }
        }
    }

    /// Takes one of our datagrams; gives what to send.
    pub(crate) fn datagram(&mut self, datagram: &[u8], from: SocketAddr) -> Vec<(SocketAddr, Vec<u8>)> {
        let Some(header) = Header::parse(datagram) else { return Vec::new() };
        match header.kind {
            Kind::Bind => self.bind(header.token, datagram, from),
            Kind::Data => match self.forwarder.route(header, from, self.now_ms()) {
                Verdict::Forward(header, bound) => {
                    let spoilt = [header.to_bytes().as_slice(), &datagram[HEADER..]].concat();
                    self.spoil_datagram(bound.address, spoilt)
                }
                Verdict::Offline(header) => vec![(from, header.to_bytes().to_vec())],
                // An evil one keeps nothing for anybody.
                Verdict::Early(_) | Verdict::Drop => Vec::new(),
            },
            Kind::Bound | Kind::Offline => Vec::new(),
        }
    }

    /// Does what is due without anybody's asking; gives what to send.
    pub(crate) fn take_turn(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        if self.misdeed == Misdeed::Presence {
            let slot = Slot(self.some(SLOTS) as u16);
            let online = self.some(2) == 0;
            self.tell_all(&ServerFrame::Event(Event::Presence { slot, online }));
        }
        self.release()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A number below that; the same ones in each run (xorshift).
    fn some(&mut self, below: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % below
    }

    /// What is done at once when something else is told.
    fn begin(&mut self) {
        match self.misdeed {
            Misdeed::OldLog | Misdeed::OtherLog | Misdeed::Fork | Misdeed::Ghost => {
                let head = self.false_head();
                self.tell_all(&ServerFrame::Event(Event::LogChanged { head }));
            }
            Misdeed::PutOut(code) => self.put_out(code),
            // Who was told that there is nobody has to hear otherwise, and lies are told to who comes anew.
            Misdeed::None
            | Misdeed::Seen(_)
            | Misdeed::Signals
            | Misdeed::Refuse
            | Misdeed::Nonsense
            | Misdeed::Noise => {
                self.put_out(CloseCode::Shutdown);
            }
            Misdeed::Drop
            | Misdeed::Silence
            | Misdeed::Replay
            | Misdeed::Reorder
            | Misdeed::Garble
            | Misdeed::Swap
            | Misdeed::Presence => {}
        }
    }

    fn put_out(&mut self, code: CloseCode) {
        for outbox in self.outboxes.values() {
            let _gone_already = outbox.send(Out::Close(code));
        }
        if code != CloseCode::Shutdown {
            self.deeds += 1;
        }
    }

    fn tell_all(&mut self, frame: &ServerFrame) {
        let body = codec::encode(frame);
        for outbox in self.outboxes.values() {
            let _gone_already = outbox.send(Out::Frame(body.clone()));
        }
        self.deeds += 1;
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Send { conn, frame } => {
                let bodies = self.spoil_frame(conn, frame);
                if let Some(outbox) = self.outboxes.get(&conn) {
                    for body in bodies {
                        let _gone_already = outbox.send(Out::Frame(body));
                    }
                    if let Misdeed::PutOut(code) = self.misdeed {
                        let _gone_already = outbox.send(Out::Close(code));
                        self.deeds += 1;
                    }
                }
            }
            Effect::Close { conn, code } => {
                if let Some(outbox) = self.outboxes.get(&conn) {
                    let _gone_already = outbox.send(Out::Close(code));
                }
            }
            Effect::Store { conn, task } => {
                return self.store.carry_out(task).map(|answer| Input::Stored { conn, answer });
            }
            Effect::Admit { token, mac_key, account, slot } => {
                self.sessions.insert(token, (slot, mac_key));
                let now_ms = self.now_ms();
                self.forwarder.admit(token, mac_key, account, slot, now_ms);
                if let (None, Some(Answer::Account(Some(known)))) =
                    (self.victim, self.store.carry_out(Task::Load { account }))
                {
                    self.victim = Some((account, known.head));
                }
            }
            Effect::Retire { account, slot } => self.forwarder.retire(account, slot),
        }
        None
    }

    fn bind(&mut self, token: Token, datagram: &[u8], from: SocketAddr) -> Vec<(SocketAddr, Vec<u8>)> {
        let now_ms = self.now_ms();
        let Some(mut answer) = self.forwarder.bind(datagram, from, None, now_ms) else { return Vec::new() };
        self.bound.insert(token, from);
        if let (Misdeed::Seen(lie), Some((_, mac_key))) = (self.misdeed, self.sessions.get(&token))
            && let Some((counter, _)) = open_bound(&answer, mac_key)
        {
            answer = bound_datagram(token, mac_key, counter, lie);
            self.deeds += 1;
        }
        debug_assert_eq!(answer.len(), BIND_LEN);
        vec![(from, answer.to_vec())]
    }

    /// What becomes of a datagram that is to go there.
    fn spoil_datagram(&mut self, to: SocketAddr, mut datagram: Vec<u8>) -> Vec<(SocketAddr, Vec<u8>)> {
        if self.datagrams.len() == REMEMBERED {
            self.datagrams.pop_front();
        }
        self.datagrams.push_back((to, datagram.clone()));
        let before = self.deeds;
        self.deeds += 1;
        let (one_of_three, one_of_two) = (self.some(3) == 0, self.some(2) == 0);
        match self.misdeed {
            Misdeed::Silence => Vec::new(),
            Misdeed::Drop if one_of_three => Vec::new(),
            Misdeed::Garble if one_of_three => {
                // Anywhere but in the name of the session, where it would only be lost.
                let at = match self.some(datagram.len() as u64 - 8) as usize {
                    at @ 0..4 => at,
                    at => at + 8,
                };
                datagram[at] ^= 1 << self.some(8);
                vec![(to, datagram)]
            }
            Misdeed::Replay => {
                let mut all = vec![(to, datagram)];
                for _ in 0..2 {
                    let at = self.some(self.datagrams.len() as u64) as usize;
                    all.extend(self.datagrams.get(at).cloned());
                }
                all
            }
            Misdeed::Reorder => {
                self.held.push((to, datagram));
                if self.held.len() >= HELD { self.release() } else { Vec::new() }
            }
            Misdeed::Swap if one_of_two => self.swap(&datagram),
            _ => {
                self.deeds = before;
                vec![(to, datagram)]
            }
        }
    }

    /// Brings a datagram to everybody, from somebody else.
    fn swap(&mut self, datagram: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
        let slot = Slot(self.some(SLOTS) as u16);
        let there = self.bound.iter();
        there
            .map(|(token, to)| {
                let header = Header { kind: Kind::Data, ecn: 0, slot, token: *token };
                (*to, [header.to_bytes().as_slice(), &datagram[HEADER..]].concat())
            })
            .collect()
    }

    fn release(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut held = mem::take(&mut self.held);
        held.reverse();
        held
    }

    /// What is sent instead of a frame.
    fn spoil_frame(&mut self, conn: ConnectionId, frame: ServerFrame) -> Vec<Vec<u8>> {
        let before = self.deeds;
        self.deeds += 1;
        let spoilt = match (self.misdeed, frame) {
            (Misdeed::OldLog | Misdeed::OtherLog | Misdeed::Fork | Misdeed::Ghost, frame) => {
                vec![self.with_false_log(frame)]
            }
            (Misdeed::Refuse, ServerFrame::Reply { id, .. }) => {
                let refusal = [Refusal::NotAuthorised, Refusal::Trouble, Refusal::NotFound, Refusal::BadLog];
                let refusal = refusal[self.some(4) as usize];
                vec![ServerFrame::Reply { id, reply: Reply::Refused(refusal) }]
            }
            (Misdeed::Nonsense, ServerFrame::Reply { id, .. }) => {
                let reply = self.nonsense();
                vec![ServerFrame::Event(Event::PairJoined), ServerFrame::Reply { id, reply }]
            }
            (Misdeed::Noise, _) => {
                let noise: Vec<u8> = (0..self.some(200)).map(|_| self.some(256) as u8).collect();
                return vec![noise];
            }
            (Misdeed::Signals, ServerFrame::Event(event @ Event::Signal { .. })) => return self.signals(conn, event),
            (_, frame) => {
                self.deeds = before;
                if let ServerFrame::Event(event @ Event::Signal { .. }) = &frame
                    && self.signals.len() < REMEMBERED
                {
                    self.signals.push((conn, event.clone()));
                }
                vec![frame]
            }
        };
        spoilt.iter().map(codec::encode).collect()
    }

    /// A signal ten times, and what goes with it.
    fn signals(&mut self, conn: ConnectionId, event: Event) -> Vec<Vec<u8>> {
        self.signals.push((conn, event.clone()));
        let mut all = vec![event.clone(); 10];
        all.extend(self.signals.iter().rev().take(40).map(|(_, old)| old.clone()));
        if let Event::Signal { from, mut payload } = event {
            for slot in 0..SLOTS as u16 {
                all.push(Event::Signal { from: Slot(slot), payload: payload.clone() });
            }
            if !payload.is_empty() {
                let at = self.some(payload.len() as u64) as usize;
                payload[at] ^= 1 << self.some(8);
                all.push(Event::Signal { from, payload });
            }
        }
        let bodies: Vec<Vec<u8>> = all.into_iter().map(|event| codec::encode(&ServerFrame::Event(event))).collect();
        for outbox in self.outboxes.iter().filter(|(other, _)| **other != conn).map(|(_, outbox)| outbox) {
            for body in &bodies {
                let _gone_already = outbox.send(Out::Frame(body.clone()));
            }
        }
        bodies
    }

    fn nonsense(&mut self) -> Reply {
        match self.some(5) {
            0 => Reply::Done,
            1 => Reply::Room { number: 1 },
            2 => Reply::Blob { bytes: vec![9; 100] },
            3 => Reply::Log { entries: vec![vec![1; 40]; 3], head: self.other.head() },
            _ => Reply::Root { head: Some(self.other.head()) },
        }
    }

    /// The head that is claimed.
    fn false_head(&mut self) -> Head {
        match (self.misdeed, self.victim) {
            (Misdeed::OldLog, Some((_, first))) => first,
            (Misdeed::Fork | Misdeed::Ghost, Some(_)) => {
                let entries = self.entries();
                let last = entries.last().map(Vec::as_slice).unwrap_or_default();
                Head { seq: entries.len() as u64 - 1, hash: *blake3::hash(last).as_bytes() }
            }
            _ => {
                // Longer than the account's own, so that it is asked for.
                Head { seq: 1000, ..self.other.head() }
            }
        }
    }

    /// All entries that are claimed to be the account's.
    fn entries(&mut self) -> Vec<Vec<u8>> {
        let account = self.victim.and_then(|(account, _)| match self.store.carry_out(Task::Load { account }) {
            Some(Answer::Account(account)) => account,
            _ => None,
        });
        match (self.misdeed, account, self.victim) {
            (Misdeed::OldLog, Some(account), Some((_, first))) => {
                let length = usize::try_from(first.seq).unwrap_or(0) + 1;
                account.entries().iter().take(length).cloned().collect()
            }
            (Misdeed::Ghost, Some(account), _) => account.entries().iter().cloned().chain([ghost(&account)]).collect(),
            _ => self.other.account.entries().to_vec(),
        }
    }

    fn with_false_log(&mut self, frame: ServerFrame) -> ServerFrame {
        let head = self.false_head();
        match frame {
            ServerFrame::Reply { id, reply: Reply::Session(mut session) } => {
                session.head = head;
                ServerFrame::Reply { id, reply: Reply::Session(session) }
            }
            ServerFrame::Reply { id, reply: Reply::Log { entries, head: real } } => {
                // From where the device asked on, as far as that can be told from the real answer.
                let from = usize::try_from(real.seq + 1).unwrap_or(0).saturating_sub(entries.len());
                let claimed = self.entries();
                let entries =
                    if self.misdeed == Misdeed::OtherLog { claimed } else { claimed.into_iter().skip(from).collect() };
                ServerFrame::Reply { id, reply: Reply::Log { entries, head } }
            }
            ServerFrame::Event(Event::LogChanged { .. }) => ServerFrame::Event(Event::LogChanged { head }),
            frame @ (ServerFrame::Reply { .. } | ServerFrame::Event(_)) => frame,
        }
    }
}

/// An entry that adds a device, rightly signed by the root of nobody.
fn ghost(account: &Account) -> Vec<u8> {
    let nobody = Phrase::random(&mut |bytes| bytes.fill(99)).root();
    let body = Body::AddDevice { keys: device_keys(99, 0).public(), name: vec![7; SEALED_NAME], caps: Caps::ALL };
    account.next_entry(body, Signer::Root, 0).sign(&nobody.sign)
}
