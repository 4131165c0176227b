//! The relay with a real store in memory, and connections that are numbers.

use std::path::Path;

use super::*;
use crate::admission::Admission;
use crate::household::{BLOB, Household};
use crate::store::Store;
use hearth_schemas::relay::{PAIRING_TRY_SECONDS, Reply::Refused};

const A: ConnectionId = ConnectionId(1);
const B: ConnectionId = ConnectionId(2);
const C: ConnectionId = ConnectionId(3);

#[test]
fn a_device_of_the_log_logs_in_and_everybody_else_gets_one_answer() {
    let mut world = World::new();
    let home = world.home(1, 2);
    let stranger = Household::new(9, 1);
    let mut forged = home.login(0, &World::exporter(A));
    if let Request::Login { signature, .. } = &mut forged {
        signature[0] ^= 1;
    }
    let table = [
        ("no such account", stranger.login(0, &World::exporter(A))),
        ("a signature for another connection", home.login(0, &World::exporter(B))),
        ("a damaged signature", forged),
        ("no signature", Request::Login { account: home.id(), device: home.devices[0].id(), signature: vec![] }),
        (
            "a device of another account",
            match stranger.login(0, &World::exporter(A)) {
                Request::Login { device, signature, .. } => Request::Login { account: home.id(), device, signature },
                other => other,
            },
        ),
    ];
    world.connect(A);
    for (what, request) in table {
        assert_eq!(world.ask(A, request), Refused(Refusal::NotAuthorised), "{what}");
    }
    let session = world.log_in(A, &home, 0);
    assert_eq!((session.slot, session.head, session.online), (home.slot(0), home.head(), vec![]));
}

#[test]
fn a_stranger_is_told_nothing_about_any_account() {
    let mut world = World::new();
    let home = world.home(1, 1);
    world.connect(A);
    let after = home.head();
    for request in [
        Request::FetchLog { from: 0 },
        Request::FetchBlob { hash: *blake3::hash(BLOB).as_bytes() },
        Request::Append { after, entries: vec![], blobs: vec![] },
        Request::PairOpen,
        Request::Signal { to: home.slot(0), payload: vec![] },
    ] {
        assert_eq!(world.ask(A, request.clone()), Refused(Refusal::NotAuthorised), "{request:?}");
    }
}

#[test]
fn devices_hear_of_each_other_and_of_nobody_else() {
    let mut world = World::new();
    let (home, other) = (world.home(1, 2), world.home(2, 2));
    world.connected(A, &home, 0);
    world.connected(C, &other, 0);
    let session = world.connected(B, &home, 1);
    assert_eq!(session.online, [home.slot(0)]);
    assert_eq!(world.events(A), [Event::Presence { slot: home.slot(1), online: true }]);
    world.feed(Input::Closed { conn: B });
    assert_eq!(world.events(A), [Event::Presence { slot: home.slot(1), online: false }]);
    assert_eq!(world.events(C), []);
}

#[test]
fn a_device_that_logs_in_again_replaces_itself_and_never_counts_as_gone() {
    let mut world = World::new();
    let home = world.home(1, 2);
    world.connected(A, &home, 0);
    let first = world.connected(B, &home, 1);
    world.events(A);
    let second = world.connected(C, &home, 1);
    assert_ne!(first.token, second.token);
    assert_eq!(world.closed, [(B, CloseCode::Replaced)]);
    world.feed(Input::Closed { conn: B });
    assert_eq!(world.events(A), [Event::Presence { slot: home.slot(1), online: true }]);
    assert_eq!(world.admitted, 3);
    assert_eq!(world.retired, []);
    assert_eq!(world.ask(A, Request::Signal { to: home.slot(1), payload: vec![1] }), Reply::Done);
    assert_eq!(world.events(C), [Event::Signal { from: home.slot(0), payload: vec![1] }]);
}

#[test]
fn a_revoked_device_is_out_before_anybody_hears_of_it() {
    let mut world = World::new();
    let mut home = world.home(1, 2);
    world.connected(A, &home, 0);
    world.connected(B, &home, 1);
    world.events(A);
    assert_eq!(world.ask(A, home.revoke(1)), Reply::Done);
    assert_eq!(world.closed, [(B, CloseCode::Revoked)]);
    assert_eq!(world.retired, [(home.id(), home.slot(1))]);
    let presence = Event::Presence { slot: home.slot(1), online: false };
    assert_eq!(world.events(A), [presence, Event::LogChanged { head: home.head() }]);
    assert_eq!(world.events(B), []);
    world.connect(C);
    assert_eq!(world.ask(C, home.login(1, &World::exporter(C))), Refused(Refusal::NotAuthorised));
}

#[test]
fn a_login_that_overtakes_a_revocation_is_ended_by_it() {
    let mut world = World::new();
    let mut home = world.home(1, 2);
    world.connected(A, &home, 0);
    world.connect(B);
    let login = world.start(B, home.login(1, &World::exporter(B)));
    let append = world.start(A, home.revoke(1));
    world.settle(login);
    world.settle(append);
    assert_eq!(world.closed, [(B, CloseCode::Revoked)]);
}

#[test]
fn two_who_append_at_once_do_not_both_succeed() {
    let mut world = World::new();
    let mut home = world.home(1, 2);
    world.connected(A, &home, 0);
    world.connected(B, &home, 1);
    world.events(A);
    let theirs = Request::Append { after: home.head(), entries: vec![home.epoch(2, b"x")], blobs: vec![] };
    let entry = home.epoch(2, b"y");
    assert_eq!(world.ask(A, home.append(entry)), Reply::Done);
    assert_eq!(world.ask(B, theirs), Refused(Refusal::BadLog));
    let changed = Event::LogChanged { head: home.head() };
    assert_eq!((world.events(A), world.events(B)), (vec![changed.clone()], vec![changed]));
    let Reply::Log { entries, head } = world.ask(B, Request::FetchLog { from: 4 }) else { panic!("no log") };
    assert_eq!((entries.as_slice(), head), (&home.account.entries()[4..], home.head()));
}

#[test]
fn the_root_reads_and_appends_and_then_its_device_logs_in() {
    let mut world = World::new();
    let mut home = world.home(1, 1);
    world.connect(A);
    assert_eq!(world.ask(A, home.root_login(&World::exporter(B))), Refused(Refusal::NotAuthorised));
    assert_eq!(world.ask(A, home.root_login(&World::exporter(A))), Reply::Root { head: Some(home.head()) });
    assert!(matches!(world.ask(A, Request::FetchLog { from: 0 }), Reply::Log { .. }));
    assert_eq!(world.ask(A, Request::PairOpen), Refused(Refusal::NotAuthorised));
    let keys = crate::household::device_keys(1, 9);
    let entry = home.adding(&keys);
    home.devices.push(keys);
    assert_eq!(world.ask(A, home.append(entry)), Reply::Done);
    assert_eq!(world.log_in(A, &home, 1).head, home.head());
    let nobody = Household::new(9, 1);
    world.connect(B);
    assert_eq!(world.ask(B, nobody.root_login(&World::exporter(B))), Reply::Root { head: None });
}

#[test]
fn a_room_passes_messages_both_ways_until_it_is_closed() {
    let mut world = World::new();
    let home = world.home(1, 1);
    world.connected(A, &home, 0);
    let number = world.open_room(A);
    world.connect(B);
    assert_eq!(world.ask(B, Request::PairSend { message: vec![0] }), Refused(Refusal::NoRoom));
    assert_eq!(world.ask(B, Request::PairJoin { number }), Reply::Done);
    assert_eq!(world.ask(B, Request::PairSend { message: vec![1] }), Reply::Done);
    assert_eq!(world.ask(A, Request::PairSend { message: vec![2] }), Reply::Done);
    assert_eq!(world.events(A), [Event::PairJoined, Event::PairMessage { message: vec![1] }]);
    assert_eq!(world.events(B), [Event::PairMessage { message: vec![2] }]);
    assert_eq!(world.ask(A, Request::PairClose), Reply::Done);
    assert_eq!(world.events(B), [Event::PairLeft { tries_left: 0 }]);
    assert_eq!(world.ask(B, Request::PairJoin { number }), Refused(Refusal::NoRoom));
}

#[test]
fn a_room_takes_three_joiners_one_after_the_other() {
    let mut world = World::new();
    let home = world.home(1, 1);
    world.connected(A, &home, 0);
    let number = world.open_room(A);
    for tries_left in [2, 1, 0] {
        world.connect(B);
        world.connect(C);
        assert_eq!(world.ask(B, Request::PairJoin { number }), Reply::Done);
        assert_eq!(world.ask(C, Request::PairJoin { number }), Refused(Refusal::NoRoom), "one at a time");
        world.feed(Input::Closed { conn: B });
        assert_eq!(world.events(A), [Event::PairJoined, Event::PairLeft { tries_left }]);
    }
    assert_eq!(world.ask(C, Request::PairJoin { number }), Refused(Refusal::NoRoom));
    assert_eq!(world.ask(A, Request::PairOpen), Refused(Refusal::Limit));
    world.now_ms += 60_000;
    world.open_room(A);
}

#[test]
fn a_room_waits_for_its_device_to_come_back() {
    let mut world = World::new();
    let home = world.home(1, 1);
    world.connected(A, &home, 0);
    let number = world.open_room(A);
    world.feed(Input::Closed { conn: A });
    world.connect(B);
    assert_eq!(world.ask(B, Request::PairJoin { number }), Refused(Refusal::NoRoom));
    world.connected(C, &home, 0);
    assert_eq!(world.ask(B, Request::PairJoin { number }), Reply::Done);
    assert_eq!(world.events(C), [Event::PairJoined]);
    world.now_ms += PAIRING_TRY_SECONDS * 1000;
    world.feed(Input::Tick);
    assert_eq!(world.events(C), [Event::PairLeft { tries_left: 2 }]);
    assert_eq!(world.events(B), [Event::PairLeft { tries_left: 2 }]);
}

#[test]
fn who_guesses_room_numbers_is_stopped_and_a_right_number_costs_nothing() {
    let mut world = World::new();
    world.connect(A);
    let answers: Vec<Reply> = (0..21).map(|_| world.ask(A, Request::PairJoin { number: 7 })).collect();
    assert_eq!(answers.iter().filter(|reply| **reply == Refused(Refusal::NoRoom)).count(), 20);
    assert_eq!(answers.last(), Some(&Refused(Refusal::Limit)));
}

#[test]
fn signals_are_limited_in_rate_and_size_and_stay_in_the_account() {
    let mut world = World::new();
    let (home, other) = (world.home(1, 2), world.home(2, 3));
    world.connected(A, &home, 0);
    world.connected(C, &other, 2);
    let signal = |to, length| Request::Signal { to, payload: vec![0; length] };
    assert_eq!(world.ask(A, signal(home.slot(1), 1)), Refused(Refusal::Offline));
    assert_eq!(world.ask(A, signal(other.slot(2), 1)), Refused(Refusal::Offline));
    assert_eq!(world.events(C), []);
    assert_eq!(world.ask(A, signal(home.slot(1), MAX_MESSAGE + 1)), Refused(Refusal::Limit));
    world.connected(B, &home, 1);
    let passed = (0..100).filter(|_| world.ask(A, signal(home.slot(1), 1)) == Reply::Done).count();
    assert_eq!(passed, 38);
    assert_eq!(world.events(B).len(), 38);
}

#[test]
fn a_device_that_lets_its_binding_lapse_is_away_and_the_others_hear_of_it() {
    let mut world = World::new();
    let home = world.home(1, 2);
    world.connected(A, &home, 0);
    world.connected(B, &home, 1);
    world.events(A);
    let lapsed = Input::Lapsed { account: home.id(), slot: home.slot(1) };
    world.feed(lapsed);
    assert_eq!(world.closed, [(B, CloseCode::Idle)]);
    assert_eq!(world.events(A), [Event::Presence { slot: home.slot(1), online: false }]);
    world.feed(Input::Lapsed { account: home.id(), slot: home.slot(1) });
    assert_eq!(world.events(A), [], "once");
}

#[test]
fn strangers_do_not_stay_and_do_not_crowd() {
    let mut world = World::new();
    let home = world.home(1, 1);
    world.connected(A, &home, 0);
    world.connect(B);
    world.now_ms += 60_000;
    world.feed(Input::Tick);
    assert_eq!(world.closed, [(B, CloseCode::Idle)]);
    for conn in 100..1200 {
        world.connect(ConnectionId(conn));
    }
    assert_eq!(world.closed.iter().filter(|(_, code)| *code == CloseCode::Limit).count(), 1100 - 1024);
}

#[test]
fn a_second_request_before_the_answer_is_refused() {
    let mut world = World::new();
    let home = world.home(1, 1);
    world.connect(A);
    let login = world.start(A, home.login(0, &World::exporter(A)));
    assert_eq!(world.ask(A, Request::FetchLog { from: 0 }), Refused(Refusal::Unexpected));
    world.settle(login);
    assert!(matches!(world.replies(A).last(), Some(Reply::Session(_))));
}

struct World {
    relay: Relay,
    store: Store,
    now_ms: u64,
    sent: Vec<(ConnectionId, ServerFrame)>,
    closed: Vec<(ConnectionId, CloseCode)>,
    admitted: usize,
    retired: Vec<(AccountId, Slot)>,
}

impl World {
    fn new() -> Self {
        let limits = Limits::default();
        let store = Store::open(Path::new(":memory:"), Admission::Open, limits.clone()).expect("opened");
        Self {
            relay: Relay::new(limits, [5; 32]),
            store,
            now_ms: 1000,
            sent: vec![],
            closed: vec![],
            admitted: 0,
            retired: vec![],
        }
    }

    /// An account that the relay knows.
    fn home(&mut self, seed: u8, devices: u8) -> Household {
        let home = Household::new(seed, devices);
        let conn = ConnectionId(1000 + u64::from(seed));
        self.connect(conn);
        assert_eq!(self.ask(conn, home.creation()), Reply::Done);
        self.feed(Input::Closed { conn });
        home
    }

    fn exporter(conn: ConnectionId) -> [u8; 32] {
        *blake3::hash(&conn.0.to_le_bytes()).as_bytes()
    }

    fn connect(&mut self, conn: ConnectionId) {
        self.feed(Input::Connected { conn, exporter: Self::exporter(conn), origin: Origin(conn.0) });
    }

    fn connected(&mut self, conn: ConnectionId, home: &Household, device: usize) -> Session {
        self.connect(conn);
        self.log_in(conn, home, device)
    }

    fn log_in(&mut self, conn: ConnectionId, home: &Household, device: usize) -> Session {
        match self.ask(conn, home.login(device, &Self::exporter(conn))) {
            Reply::Session(session) => session,
            other => panic!("not logged in: {other:?}"),
        }
    }

    fn open_room(&mut self, conn: ConnectionId) -> u32 {
        match self.ask(conn, Request::PairOpen) {
            Reply::Room { number } => number,
            other => panic!("no room: {other:?}"),
        }
    }

    fn ask(&mut self, conn: ConnectionId, request: Request) -> Reply {
        let tasks = self.start(conn, request);
        self.settle(tasks);
        self.replies(conn).pop().expect("one answer")
    }

    /// Feeds a request, and gives what it wants of the store.
    fn start(&mut self, conn: ConnectionId, request: Request) -> Vec<(ConnectionId, Task)> {
        self.step(Input::Request { conn, frame: ClientFrame { id: 1, request } })
    }

    /// Lets the store do what it was asked to, in order.
    fn settle(&mut self, tasks: Vec<(ConnectionId, Task)>) {
        for (conn, task) in tasks {
            if let Some(answer) = self.store.carry_out(task) {
                self.feed(Input::Stored { conn, answer });
            }
        }
    }

    fn feed(&mut self, input: Input) {
        let tasks = self.step(input);
        self.settle(tasks);
    }

    fn step(&mut self, input: Input) -> Vec<(ConnectionId, Task)> {
        let mut effects = Vec::new();
        self.relay.handle(input, self.now_ms, &mut effects);
        let mut tasks = Vec::new();
        for effect in effects {
            match effect {
                Effect::Send { conn, frame } => self.sent.push((conn, frame)),
                Effect::Close { conn, code } => self.closed.push((conn, code)),
                Effect::Store { conn, task } => tasks.push((conn, task)),
                Effect::Admit { .. } => self.admitted += 1,
                Effect::Retire { account, slot } => self.retired.push((account, slot)),
            }
        }
        tasks
    }

    fn replies(&mut self, conn: ConnectionId) -> Vec<Reply> {
        self.taken(conn, |frame| match frame {
            ServerFrame::Reply { reply, .. } => Some(reply.clone()),
            ServerFrame::Event(_) => None,
        })
    }

    fn events(&mut self, conn: ConnectionId) -> Vec<Event> {
        self.taken(conn, |frame| match frame {
            ServerFrame::Event(event) => Some(event.clone()),
            ServerFrame::Reply { .. } => None,
        })
    }

    fn taken<T>(&mut self, conn: ConnectionId, pick: impl Fn(&ServerFrame) -> Option<T>) -> Vec<T> {
        let mut taken = Vec::new();
        self.sent.retain(|(to, frame)| match pick(frame) {
            Some(it) if *to == conn => {
                taken.push(it);
                false
            }
            _ => true,
        });
        taken
    }
}
