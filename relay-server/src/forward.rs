//! Where a datagram of the UDP leg goes: sessions, the addresses they are bound to, and nothing else.
//!
//! Takes headers and BINDs from the socket, gives a [`Verdict`]. A datagram is forwarded only if it came from the
//! address that its session is bound to, and only to a bound session of the same account; there is no other way in.
//! Sessions come and go as [`crate::relay`] says. Bytes and system calls are left to the socket.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hearth_schemas::ids::{AccountId, Slot};
use hearth_schemas::relay::{self, BIND_LEN, BIND_SECONDS, Header, Kind};
use hearth_schemas::tunnel;

use crate::admission::{Bucket, Rate};

/// How often a session is told that a device is not there.
const COMPLAINTS: Rate = Rate { burst: 10, every_ms: 50 };

/// The address seen of a device that comes through a tunnel.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

/// For how long after its admission packets for a session wait for its first BIND, in milliseconds. The others hear of a
/// device when it is admitted, and their first packet often overtakes that BIND by some milliseconds.
const EARLY_MS: u64 = 1000;
/// How many packets wait for one session, and how many bytes for all, at most.
const EARLY_PACKETS: usize = 8;
const EARLY_BYTES: usize = 1 << 20;

/// Names a session in datagrams.
pub type Token = [u8; 8];

/// The sessions of all accounts.
#[derive(Default)]
pub struct Forwarder {
    sessions: BTreeMap<Token, Session>,
    /// Newest last; the one before it goes on until the newest is bound, so that a new login interrupts nothing.
    devices: BTreeMap<(AccountId, Slot), Vec<Token>>,
    /// Bytes that wait for first BINDs.
    early: usize,
}

struct Session {
    account: AccountId,
    slot: Slot,
    mac_key: [u8; 32],
    counter: Option<u64>,
    bound: Option<Bound>,
    /// Until when it may do without a binding.
    unbound_until_ms: u64,
    /// What waits for its first BIND, under the header that it is to have, and until when anything does.
    early: Vec<Vec<u8>>,
    early_until_ms: u64,
    complaints: Bucket,
}

/// Where a session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bound {
    /// The address that its BIND came from.
    pub address: SocketAddr,
    /// The address of ours that the BIND came to, and that answers must come from.
    pub local: Option<IpAddr>,
    /// Its path does not take several datagrams in one call.
    pub one_by_one: bool,
    until_ms: u64,
}

/// What to do with a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Send it on under this header; the ECN bits are to be kept.
    Forward(Header, Bound),
    /// Put it under this header, and have it [held](Forwarder::hold) until the session is bound.
    Early(Header),
    /// Send this header back to where the datagram came from.
    Offline(Header),
    /// Forget it.
    Drop,
}

/// How many there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// Accounts with a device that is logged in.
    pub accounts: u64,
    /// Devices that are logged in.
    pub devices: u64,
    /// Those that can be forwarded to over UDP.
    pub bound_udp: u64,
    /// The same over TCP.
    pub bound_tcp: u64,
}

impl Forwarder {
    /// Counts who is there.
    pub fn standing(&self, now_ms: u64) -> Standing {
        let mut standing = Standing { devices: self.devices.len() as u64, ..Standing::default() };
        let mut last = None;
        for device in self.devices.keys() {
            if last.replace(device.0) != Some(device.0) {
                standing.accounts += 1;
            }
            match self.find(*device, now_ms).map(|(_, bound)| tunnel::number_of(bound.address).is_some()) {
                Some(true) => standing.bound_tcp += 1,
                Some(false) => standing.bound_udp += 1,
                None => {}
            }
        }
        standing
    }

    /// Takes in a session.
    pub fn admit(&mut self, token: Token, mac_key: [u8; 32], account: AccountId, slot: Slot, now_ms: u64) {
        let session = Session {
            account,
            slot,
            mac_key,
            counter: None,
            bound: None,
            unbound_until_ms: now_ms + BIND_SECONDS * 1000,
            early: Vec::new(),
            early_until_ms: now_ms + EARLY_MS,
            complaints: Bucket::default(),
        };
        self.sessions.insert(token, session);
        let tokens = self.devices.entry((account, slot)).or_default();
        tokens.push(token);
        if tokens.len() > 2 {
            let oldest = tokens.remove(0);
            self.end(oldest);
        }
    }

    fn end(&mut self, token: Token) {
        self.take_early(token, u64::MAX);
        self.sessions.remove(&token);
    }

    /// Forgets every session of a device.
    pub fn retire(&mut self, account: AccountId, slot: Slot) {
        for token in self.devices.remove(&(account, slot)).unwrap_or_default() {
            self.end(token);
        }
    }

    /// The devices that have let the bindings of all their sessions run out: they are gone, or cannot be reached.
    pub fn lapsed(&self, now_ms: u64) -> Vec<(AccountId, Slot)> {
        let lives = |token: &Token| self.sessions.get(token).is_some_and(|session| session.lives_at(now_ms));
        let lapsed = self.devices.iter().filter(|(_, tokens)| !tokens.iter().any(lives));
        lapsed.map(|(device, _)| *device).collect()
    }

    /// Takes a BIND and gives the answer. None for a stranger, a wrong MAC or a counter that did not rise.
    pub fn bind(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        local: Option<IpAddr>,
        now_ms: u64,
    ) -> Option<[u8; BIND_LEN]> {
        let header = Header::parse(datagram)?;
        let session = self.sessions.get(&header.token)?;
        let counter = relay::open_bind(datagram, &session.mac_key)?;
        if session.counter.is_some_and(|last| counter <= last) || self.is_succeeded(session, header.token, now_ms) {
            return None;
        }
        let session = self.sessions.get_mut(&header.token)?;
        session.counter = Some(counter);
        let one_by_one = session.bound.is_some_and(|bound| bound.address == from && bound.one_by_one);
        session.bound = Some(Bound { address: from, local, one_by_one, until_ms: now_ms + BIND_SECONDS * 1000 });
        // Where a tunnel comes from is no address to send anything to, and nobody is to take it for one.
        let seen = if tunnel::number_of(from).is_some() { NOWHERE } else { from };
        Some(relay::bound_datagram(header.token, &session.mac_key, counter, seen))
    }

    /// Says at which address a question at the second port is seen. Changes nothing.
    pub fn look(&self, datagram: &[u8], from: SocketAddr) -> Option<[u8; BIND_LEN]> {
        let header = Header::parse(datagram)?;
        let session = self.sessions.get(&header.token)?;
        let key = relay::look_key(&session.mac_key);
        let counter = relay::open_bind(datagram, &key)?;
        Some(relay::bound_datagram(header.token, &key, counter, from))
    }

    /// Decides about a datagram with a DATA header.
    pub fn route(&mut self, header: Header, from: SocketAddr, now_ms: u64) -> Verdict {
        let Some(session) = self.sessions.get(&header.token) else { return Verdict::Drop };
        let at_home = session.bound.is_some_and(|bound| bound.address == from && bound.until_ms > now_ms);
        if header.kind != Kind::Data || !at_home || header.slot == session.slot {
            return Verdict::Drop;
        }
        let source = session.slot;
        if let Some((token, bound)) = self.find((session.account, header.slot), now_ms) {
            return Verdict::Forward(Header { kind: Kind::Data, ecn: header.ecn, slot: source, token }, bound);
        }
        if let Some(token) = self.expected((session.account, header.slot), now_ms) {
            return Verdict::Early(Header { kind: Kind::Data, ecn: header.ecn, slot: source, token });
        }
        let Some(session) = self.sessions.get_mut(&header.token) else { return Verdict::Drop };
        if session.complaints.take(COMPLAINTS, now_ms) {
            Verdict::Offline(Header { kind: Kind::Offline, ecn: 0, ..header })
        } else {
            Verdict::Drop
        }
    }

    /// Keeps a datagram for a session until it is bound. Gives whether there was room for it.
    pub fn hold(&mut self, token: Token, datagram: &[u8]) -> bool {
        let Some(session) = self.sessions.get_mut(&token) else { return false };
        let fits = session.early.len() < EARLY_PACKETS && self.early + datagram.len() <= EARLY_BYTES;
        if fits {
            self.early += datagram.len();
            session.early.push(datagram.to_vec());
        }
        fits
    }

    /// What waited for the first BIND of a session, if it has not waited too long.
    pub fn take_early(&mut self, token: Token, now_ms: u64) -> Vec<Vec<u8>> {
        let Some(session) = self.sessions.get_mut(&token) else { return Vec::new() };
        let waited = std::mem::take(&mut session.early);
        self.early -= waited.iter().map(Vec::len).sum::<usize>();
        if session.early_until_ms > now_ms { waited } else { Vec::new() }
    }

    /// Notes that the way to a session does not take several datagrams in one call.
    pub fn one_by_one(&mut self, token: Token) {
        if let Some(bound) = self.sessions.get_mut(&token).and_then(|session| session.bound.as_mut()) {
            bound.one_by_one = true;
        }
    }

    /// The newest session of a device that is bound.
    fn find(&self, device: (AccountId, Slot), now_ms: u64) -> Option<(Token, Bound)> {
        let tokens = self.devices.get(&device)?;
        tokens.iter().rev().find_map(|token| Some((*token, self.sessions.get(token)?.bound_at(now_ms)?)))
    }

    /// The session of a device that was admitted a moment ago and is about to be bound.
    fn expected(&self, device: (AccountId, Slot), now_ms: u64) -> Option<Token> {
        let token = *self.devices.get(&device)?.last()?;
        let session = self.sessions.get(&token)?;
        (session.bound.is_none() && session.early_until_ms > now_ms).then_some(token)
    }

    /// Whether a newer session of the same device is bound, so that this one may run out.
    fn is_succeeded(&self, session: &Session, token: Token, now_ms: u64) -> bool {
        self.find((session.account, session.slot), now_ms).is_some_and(|(newest, _)| newest != token)
            && self.devices.get(&(session.account, session.slot)).is_some_and(|tokens| tokens.last() != Some(&token))
    }
}

impl Session {
    fn lives_at(&self, now_ms: u64) -> bool {
        self.bound_at(now_ms).is_some() || (self.bound.is_none() && self.unbound_until_ms > now_ms)
    }

    fn bound_at(&self, now_ms: u64) -> Option<Bound> {
        self.bound.filter(|bound| bound.until_ms > now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: AccountId = AccountId([1; 32]);
    const OTHER: AccountId = AccountId([2; 32]);
    const KEY: [u8; 32] = [3; 32];

    #[test]
    fn a_datagram_goes_to_the_named_device_of_the_same_account() {
        let mut forwarder = with_two();
        let verdict = forwarder.route(data(1, 2), address(1), 0);
        let Verdict::Forward(header, bound) = verdict else { panic!("not forwarded: {verdict:?}") };
        assert_eq!(header, Header { kind: Kind::Data, ecn: 2, slot: Slot(1), token: [2; 8] });
        assert_eq!(bound.address, address(2));
    }

    #[test]
    fn nothing_is_forwarded_that_is_not_from_the_bound_address_of_a_live_session() {
        let mut forwarder = with_two();
        let table = [
            ("another address", data(1, 2), address(9), 0),
            ("another port", data(1, 2), "10.0.0.1:2".parse().expect("an address"), 0),
            ("no such session", data(7, 2), address(1), 0),
            ("to itself", data(1, 1), address(1), 0),
            ("a BOUND of its own making", Header { kind: Kind::Bound, ..data(1, 2) }, address(1), 0),
            ("a binding that ran out", data(1, 2), address(1), BIND_SECONDS * 1000),
        ];
        for (what, header, from, now_ms) in table {
            assert_eq!(forwarder.route(header, from, now_ms), Verdict::Drop, "{what}");
        }
        forwarder.retire(HOME, Slot(1));
        assert_eq!(forwarder.route(data(1, 2), address(1), 0), Verdict::Drop);
    }

    #[test]
    fn another_account_is_as_absent_as_nobody() {
        let mut forwarder = with_two();
        forwarder.admit([4; 8], KEY, OTHER, Slot(5), 0);
        bind(&mut forwarder, 4, address(4), 1, 0).expect("bound");
        let offline = Verdict::Offline(Header { kind: Kind::Offline, ecn: 0, slot: Slot(5), token: [1; 8] });
        assert_eq!(forwarder.route(data(1, 5), address(1), 0), offline);
    }

    #[test]
    fn who_is_told_that_nobody_is_there_is_told_so_at_a_bounded_rate() {
        let mut forwarder = with_two();
        let told = (0..1000).filter(|_| forwarder.route(data(1, 9), address(1), 0) != Verdict::Drop).count();
        assert_eq!(told, 10);
    }

    #[test]
    fn a_bind_moves_a_session_and_a_replayed_one_does_not() {
        let mut forwarder = with_two();
        bind(&mut forwarder, 1, address(8), 2, 0).expect("bound");
        assert_eq!(bind(&mut forwarder, 1, address(9), 2, 0), None);
        assert_eq!(forwarder.route(data(1, 2), address(1), 0), Verdict::Drop);
        assert!(matches!(forwarder.route(data(1, 2), address(8), 0), Verdict::Forward(..)));
        let mut forged = relay::bind_datagram([1; 8], &[0; 32], 9);
        forged[0] = 2;
        assert_eq!(forwarder.bind(&forged, address(9), None, 0), None);
    }

    #[test]
    fn what_overtakes_the_first_bind_of_a_session_waits_for_it_a_moment_and_within_bounds() {
        let mut forwarder = with_two();
        forwarder.admit([3; 8], KEY, HOME, Slot(3), 100);
        let expected = Header { kind: Kind::Data, ecn: 2, slot: Slot(1), token: [3; 8] };
        assert_eq!(forwarder.route(data(1, 3), address(1), 100), Verdict::Early(expected));
        assert_eq!((0..10).filter(|_| forwarder.hold([3; 8], &[7; 1200])).count(), EARLY_PACKETS);
        bind(&mut forwarder, 3, address(3), 1, 200).expect("bound");
        assert_eq!(forwarder.take_early([3; 8], 200), vec![vec![7; 1200]; EARLY_PACKETS]);
        assert_eq!((forwarder.take_early([3; 8], 200).len(), forwarder.early), (0, 0), "once");
        assert!(matches!(forwarder.route(data(1, 3), address(1), 200), Verdict::Forward(..)));
        // One that is not bound soon has nothing wait for it, and what did is forgotten with it.
        forwarder.admit([4; 8], KEY, HOME, Slot(4), 0);
        assert!(forwarder.hold([4; 8], &[7; 1200]));
        assert!(matches!(forwarder.route(data(1, 4), address(1), EARLY_MS), Verdict::Offline(_)));
        assert!(forwarder.take_early([4; 8], EARLY_MS).is_empty());
        assert!(forwarder.hold([4; 8], &[7; 1200]));
        forwarder.retire(HOME, Slot(4));
        assert_eq!(forwarder.early, 0);
        assert!(!forwarder.hold([4; 8], &[7; 1200]), "there is no such session");
        // No more than so much for all together.
        let sessions: Vec<Token> = (0..200u8).map(|n| [n, 9, 9, 9, 9, 9, 9, 9]).collect();
        for (number, token) in sessions.iter().enumerate() {
            forwarder.admit(*token, KEY, OTHER, Slot(number as u16), 0);
        }
        let held = sessions.iter().flat_map(|token| [token; 8]).filter(|token| forwarder.hold(**token, &[7; 1200]));
        assert_eq!(held.count(), EARLY_BYTES / 1200);
    }

    #[test]
    fn a_question_at_the_second_port_is_answered_and_binds_nothing() {
        let mut forwarder = with_two();
        let question = relay::bind_datagram([1; 8], &relay::look_key(&KEY), 9);
        let answer = forwarder.look(&question, address(8)).expect("an answer");
        assert_eq!(relay::open_bound(&answer, &relay::look_key(&KEY)), Some((9, address(8))));
        assert!(answer.len() <= question.len());
        assert_eq!(forwarder.route(data(1, 2), address(8), 0), Verdict::Drop, "it is where it was");
        assert_eq!(forwarder.bind(&question, address(8), None, 0), None, "nor is it anything at the first port");
        assert_eq!(forwarder.look(&relay::bind_datagram([1; 8], &KEY, 10), address(8)), None);
        assert_eq!(forwarder.look(&relay::bind_datagram([9; 8], &relay::look_key(&KEY), 1), address(8)), None);
        assert_eq!(forwarder.look(b"anything", address(8)), None);
    }

    #[test]
    fn a_session_moves_into_a_tunnel_and_out_again_and_its_address_stays_unsaid() {
        let mut forwarder = with_two();
        for (counter, from, seen) in [(2, tunnel::address(7), NOWHERE), (3, address(9), address(9))] {
            let answer = bind(&mut forwarder, 1, from, counter, 0).expect("bound");
            assert_eq!(relay::open_bound(&answer, &KEY), Some((counter, seen)));
            assert!(matches!(forwarder.route(data(1, 2), from, 0), Verdict::Forward(..)));
            let Verdict::Forward(_, bound) = forwarder.route(data(2, 1), address(2), 0) else {
                panic!("not forwarded")
            };
            assert_eq!(bound.address, from);
        }
        assert_eq!(forwarder.route(data(1, 2), tunnel::address(7), 0), Verdict::Drop);
    }

    #[test]
    fn a_new_session_takes_over_when_it_is_bound_and_not_before() {
        let mut forwarder = with_two();
        forwarder.admit([12; 8], KEY, HOME, Slot(2), 0);
        let to = |forwarder: &mut Forwarder| match forwarder.route(data(1, 2), address(1), 0) {
            Verdict::Forward(header, _) => header.token,
            other => panic!("not forwarded: {other:?}"),
        };
        assert_eq!(to(&mut forwarder), [2; 8]);
        bind(&mut forwarder, 12, address(2), 1, 0).expect("bound");
        assert_eq!(to(&mut forwarder), [12; 8]);
        assert!(
            matches!(forwarder.route(data(2, 1), address(2), 0), Verdict::Forward(..)),
            "what is under way arrives"
        );
        assert_eq!(bind(&mut forwarder, 2, address(2), 9, 0), None, "but the old session cannot be prolonged");
        forwarder.retire(HOME, Slot(2));
        assert!(matches!(forwarder.route(data(1, 2), address(1), 0), Verdict::Offline(_)));
        assert_eq!(forwarder.sessions.len(), 1);
    }

    #[test]
    fn a_device_has_lapsed_when_no_session_of_it_is_bound_any_more() {
        let end_ms = BIND_SECONDS * 1000;
        let mut forwarder = with_two();
        bind(&mut forwarder, 1, address(1), 2, end_ms - 1).expect("bound");
        assert_eq!(forwarder.lapsed(end_ms - 1), []);
        assert_eq!(forwarder.lapsed(end_ms), [(HOME, Slot(2))]);
        forwarder.admit([12; 8], KEY, HOME, Slot(2), end_ms);
        assert_eq!(forwarder.lapsed(end_ms), [], "a new session has time to be bound");
        assert_eq!(forwarder.lapsed(2 * end_ms), [(HOME, Slot(1)), (HOME, Slot(2))]);
        forwarder.retire(HOME, Slot(2));
        assert_eq!(forwarder.lapsed(2 * end_ms), [(HOME, Slot(1))]);
    }

    #[test]
    fn who_is_there_is_counted_by_account_and_by_leg() {
        let mut forwarder = with_two();
        forwarder.admit([4; 8], KEY, OTHER, Slot(5), 0);
        let wanted = Standing { accounts: 2, devices: 3, bound_udp: 2, bound_tcp: 0 };
        assert_eq!(forwarder.standing(0), wanted, "one is not bound");
        bind(&mut forwarder, 4, tunnel::address(7), 1, 0).expect("bound");
        assert_eq!(forwarder.standing(0), Standing { bound_tcp: 1, ..wanted });
        forwarder.retire(OTHER, Slot(5));
        assert_eq!(forwarder.standing(0), Standing { accounts: 1, devices: 2, ..wanted });
        assert_eq!(Forwarder::default().standing(0), Standing::default());
    }

    #[test]
    fn what_is_kept_of_an_idle_device_is_less_than_a_kibibyte() {
        let session = size_of::<(Token, Session)>();
        let device = size_of::<((AccountId, Slot), Vec<Token>)>() + 2 * size_of::<Token>();
        // A tree's nodes are half full at the worst.
        assert!(2 * (session + device) <= 1024, "{session} and {device} bytes");
        let mut forwarder = with_two();
        assert_eq!(forwarder.take_early([1; 8], 0).capacity(), 0, "nothing beside that");
    }

    #[test]
    fn logging_in_over_and_over_keeps_two_sessions() {
        let mut forwarder = with_two();
        for token in 20..90 {
            forwarder.admit([token; 8], KEY, HOME, Slot(1), 0);
        }
        assert_eq!(forwarder.sessions.len(), 3);
    }

    fn with_two() -> Forwarder {
        let mut forwarder = Forwarder::default();
        for device in [1, 2] {
            forwarder.admit([device; 8], KEY, HOME, Slot(device.into()), 0);
            bind(&mut forwarder, device, address(device), 1, 0).expect("bound");
        }
        forwarder
    }

    fn bind(
        forwarder: &mut Forwarder,
        token: u8,
        from: SocketAddr,
        counter: u64,
        now_ms: u64,
    ) -> Option<[u8; BIND_LEN]> {
        forwarder.bind(&relay::bind_datagram([token; 8], &KEY, counter), from, None, now_ms)
    }

    fn data(token: u8, to: u16) -> Header {
        Header { kind: Kind::Data, ecn: 2, slot: Slot(to), token: [token; 8] }
    }

    fn address(device: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, device], 1))
    }
}
