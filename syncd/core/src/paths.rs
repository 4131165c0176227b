//! Which way the packets of each peer take: by the relay, or straight to an address of the peer's that has answered.
//!
//! The relay is always the way to begin with. Meanwhile the two devices tell each other, by signals through the relay,
//! where they may be reached, and both send probes to all of these addresses: a firewall that lets answers in takes
//! the other's probe for one (RFC 5128 section 3.3). The first address that answers becomes the path. What is
//! known of one peer, and how a path comes to be doubted and given up, is in [`peer`]; which addresses are worth
//! telling and which may be probed at all is in [`addresses`].
//!
//! Pure: events and a time go in, [`Effect`]s and the time of the next [`Event::Tick`] come out. QUIC above knows
//! nothing of this.

mod addresses;
mod peer;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use hearth_schemas::ids::Slot;
use hearth_schemas::probe::Probe;

pub use addresses::{Interface, Place, may_probe, within};
use peer::Peer;

/// What kind of way it is. The lesser is preferred.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PathKind {
    /// On a network that this device is in itself.
    Lan,
    /// Over IPv6 beyond it.
    DirectV6,
    /// Over IPv4 beyond it.
    DirectV4,
}

/// Where the packets for a peer go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// By the relay.
    Relay,
    /// To this address.
    Direct(SocketAddr, PathKind),
    /// To this address and by the relay: the address is on trial, or in doubt.
    Both(SocketAddr, PathKind),
}

impl Route {
    /// The path beside the relay, if there is one.
    pub fn direct(self) -> Option<(SocketAddr, PathKind)> {
        match self {
            Self::Relay => None,
            Self::Direct(to, kind) | Self::Both(to, kind) => Some((to, kind)),
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The interfaces of this device, and the port of its socket. Tells at the same time that something has changed.
    Local(Vec<Interface>, u16),
    /// The address that the relay sees this device at; nothing while there is no relay over UDP.
    Seen(Option<SocketAddr>),
    /// An address at which the router of this network passes on to this device, or none any more.
    Mapped(Option<SocketAddr>),
    /// Whether signals reach a peer through the relay.
    There(Slot, bool),
    /// A peer is no device of the account any more.
    Forget(Slot),
    /// A peer told where it may be reached; `reply` if it was asked.
    Signal {
        /// Who.
        from: Slot,
        /// Whether it answers.
        reply: bool,
        /// Its addresses, the best first.
        candidates: Vec<SocketAddr>,
    },
    /// A peer was found on a network that this device is in.
    Found(Slot, Vec<SocketAddr>),
    /// A probe of a peer came.
    Probe {
        /// From whom.
        from: Slot,
        /// From where.
        source: SocketAddr,
        /// What.
        probe: Probe,
    },
    /// Data is being sent to a peer.
    Busy(Slot),
    /// The kernel refused to send to a peer on its direct path.
    SendFailed(Slot),
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Send a probe.
    Probe {
        /// Whose key seals it.
        peer: Slot,
        /// Where to.
        to: SocketAddr,
        /// What.
        probe: Probe,
    },
    /// Tell a peer through the relay where this device may be reached.
    Signal {
        /// Whom.
        to: Slot,
        /// Whether this is an answer.
        reply: bool,
        /// The addresses, the best first.
        candidates: Vec<SocketAddr>,
    },
    /// Send a peer's packets this way from now on.
    Route {
        /// Whose.
        peer: Slot,
        /// Which way.
        route: Route,
    },
    /// Have QUIC at both ends send something at once: its timers have grown by the losses that there were.
    Kick(Slot),
}

/// What has been tried to reach a peer, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tried {
    /// How many addresses it told that may be probed.
    pub told: usize,
    /// Whether probes of its have found their way here.
    pub heard: bool,
}

/// The paths to all devices of the account.
#[derive(Debug)]
pub struct Paths {
    place: Place,
    /// This device's number.
    own: Slot,
    peers: BTreeMap<Slot, Peer>,
    out: Out,
}

/// What the parts give out.
#[derive(Debug)]
struct Out {
    effects: VecDeque<Effect>,
    next_number: u64,
}

impl Out {
    fn number(&mut self) -> u64 {
        self.next_number = self.next_number.wrapping_add(1);
        self.next_number
    }
}

impl Paths {
    /// Begins with nothing known. Numbers of probes count up from `first_number`, which is to be drawn at random.
    pub fn new(own: Slot, first_number: u64) -> Self {
        let out = Out { effects: VecDeque::new(), next_number: first_number };
        Self { place: Place::default(), own, peers: BTreeMap::new(), out }
    }

    /// Takes in what happened, at a time in milliseconds that never goes back.
    pub fn handle(&mut self, event: Event, now_ms: u64) {
        let Self { place, own, peers, out } = self;
        match event {
            Event::Local(interfaces, port) => {
                *place = Place { interfaces, port, ..*place };
                peers.values_mut().for_each(|peer| peer.moved(place, now_ms, out));
            }
            Event::Seen(seen) => {
                if seen.is_some() && seen != place.seen {
                    place.seen = seen;
                    peers.values_mut().for_each(|peer| peer.tell_again(now_ms));
                }
            }
            Event::Mapped(mapped) => {
                let is_new = mapped.is_some() && mapped != place.mapped;
                place.mapped = mapped;
                if is_new {
                    peers.values_mut().for_each(|peer| peer.tell_again(now_ms));
                }
            }
            Event::There(slot, there) => peer_of(peers, *own, slot).set_there(there, now_ms, out),
            Event::Forget(slot) => {
                if let Some(mut peer) = peers.remove(&slot) {
                    peer.give_up(out);
                }
            }
            Event::Signal { from, reply, candidates } => {
                peer_of(peers, *own, from).told(reply, &candidates, place, now_ms, out)
            }
            Event::Found(slot, addresses) => peer_of(peers, *own, slot).found(&addresses, place, now_ms),
            Event::Probe { from, source, probe } if probe.pong => {
                if let Some(peer) = peers.get_mut(&from) {
                    peer.ponged(source, probe, now_ms, out);
                }
            }
            Event::Probe { from, source, probe } => {
                peer_of(peers, *own, from).pinged(source, probe, place, now_ms, out)
            }
            Event::Busy(slot) => {
                if let Some(peer) = peers.get_mut(&slot) {
                    peer.busy(now_ms, out);
                }
            }
            Event::SendFailed(slot) => {
                if let Some(peer) = peers.get_mut(&slot) {
                    peer.doubt_at_once(now_ms, out);
                }
            }
            Event::Tick => {}
        }
        peers.values_mut().for_each(|peer| peer.tick(place, now_ms, out));
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.out.effects.pop_front()
    }

    /// When the next [`Event::Tick`] is due.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.peers.values().filter_map(Peer::timeout).min()
    }

    /// What has been tried to reach each peer.
    pub fn tried(&self) -> impl Iterator<Item = (Slot, Tried)> {
        self.peers.iter().map(|(slot, peer)| (*slot, peer.tried()))
    }

    /// Where this device is.
    pub fn place(&self) -> &Place {
        &self.place
    }
}

fn peer_of(peers: &mut BTreeMap<Slot, Peer>, own: Slot, slot: Slot) -> &mut Peer {
    peers.entry(slot).or_insert_with(|| Peer::new(slot, own < slot))
}

#[cfg(test)]
mod tests;
