//! Whatever a peer sends: probes and signals open only if the peer made them, and no course of events makes the paths
//! busy, forget their limits, or probe what must be left alone.

use std::net::{IpAddr, SocketAddr};

use arbitrary::{Result, Unstructured};
use ed25519_dalek::SigningKey;
use hearth_schemas::ids::{AccountId, DeviceId, Slot};
use hearth_schemas::keys::Secret;
use hearth_schemas::probe::{self, Probe};
use hearth_schemas::signal::{Between, MAX_CANDIDATES, Signal};
use syncd_core::paths::{Effect, Event, Interface, Paths, Route, may_probe};

const BETWEEN: Between = Between { account: AccountId([1; 32]), epoch: 2, from: Slot(3), to: Slot(4) };
/// Most events of a course.
const EVENTS: usize = 200;
/// Effects that one event may have for each peer: a probe to each address that may be known, and a little.
const EFFECTS: usize = 40;
/// Ticks in one moment, at most: each of the paths to each peer may end in it.
const TICKS: usize = 100;
const PEERS: u16 = 3;

/// The first byte chooses between formats and a course of events.
pub fn run(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    match choice % 3 {
        0 => never_made(bytes),
        1 => signal_of_a_member(bytes),
        _ => drop(course(&mut Unstructured::new(bytes))),
    }
}

fn never_made(bytes: &[u8]) {
    let key = Secret::from_bytes([7; 32]);
    let pair = probe::pair_key(&key, DeviceId([1; 32]), DeviceId([2; 32]));
    assert_eq!(Probe::open(bytes, &pair), None, "nobody has sealed it");
    let public = SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes();
    assert!(Signal::open(bytes, &BETWEEN, &key, &public).is_err(), "nobody has sealed it");
}

/// What another member of the account, who has the key, could seal.
fn signal_of_a_member(bytes: &[u8]) {
    let key = Secret::from_bytes([7; 32]);
    let place = hearth_schemas::codec::encode(&(
        hearth_schemas::label::SIGNAL,
        BETWEEN.account,
        BETWEEN.epoch,
        BETWEEN.from,
        BETWEEN.to,
    ));
    let sealed = hearth_schemas::seal::seal(key.bytes(), &place, bytes, &mut crate::counting());
    let public = SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes();
    assert!(Signal::open(&sealed, &BETWEEN, &key, &public).is_err(), "nobody has signed it");
}

fn course(u: &mut Unstructured<'_>) -> Result<()> {
    let mut paths = Paths::new(Slot(2), u.arbitrary()?);
    let mut now = 0u64;
    let mut asked: Vec<(Slot, SocketAddr, u64)> = Vec::new();
    for _ in 0..EVENTS {
        if u.is_empty() {
            break;
        }
        now += u64::from(u.arbitrary::<u16>()?) % 2_000;
        let event = event(u, &asked)?;
        paths.handle(event, now);
        obey(&mut paths, &mut asked);
        // Until the next event all that is due happens. A path that ends may leave its place to one that is overdue.
        for _ in 0..TICKS {
            if paths.poll_timeout().is_none_or(|due| due > now) {
                break;
            }
            paths.handle(Event::Tick, now);
            obey(&mut paths, &mut asked);
        }
        assert!(paths.poll_timeout().is_none_or(|due| due > now), "busy for nothing");
    }
    Ok(())
}

fn obey(paths: &mut Paths, asked: &mut Vec<(Slot, SocketAddr, u64)>) {
    let mut count = 0;
    while let Some(effect) = paths.poll_effect() {
        count += 1;
        match effect {
            Effect::Probe { peer, to, probe } if !probe.pong => {
                assert!(may_probe(to), "{to} is probed");
                asked.push((peer, to, probe.number));
                if asked.len() > 64 {
                    asked.remove(0);
                }
            }
            Effect::Signal { candidates, .. } => assert!(candidates.len() <= MAX_CANDIDATES),
            Effect::Route { route: Route::Direct(to, _) | Route::Both(to, _), .. } => assert!(may_probe(to)),
            Effect::Probe { .. } | Effect::Route { route: Route::Relay, .. } | Effect::Kick(_) => {}
        }
    }
    assert!(count <= EFFECTS * usize::from(PEERS), "{count} effects of one event");
}

fn event(u: &mut Unstructured<'_>, asked: &[(Slot, SocketAddr, u64)]) -> Result<Event> {
    let slot = Slot([1, 3, 4][u.choose_index(usize::from(PEERS))?]);
    Ok(match u.int_in_range(0..=11)? {
        0 => {
            let count = u.int_in_range(0..=12)?;
            let interface = |u: &mut Unstructured<'_>| -> Result<Interface> {
                let name = u.choose(&["eth0", "wlan0", "docker0", "tun0"])?.to_string();
                Ok(Interface { name, ip: address(u)?.ip(), prefix: u.arbitrary()? })
            };
            let interfaces = (0..count).map(|_| interface(u)).collect::<Result<Vec<_>>>()?;
            Event::Local(interfaces, u.arbitrary()?)
        }
        1 => Event::Seen(if u.arbitrary()? { Some(address(u)?) } else { None }),
        2 => Event::There(slot, u.arbitrary()?),
        3 => Event::Forget(slot),
        4 => {
            let count = u.int_in_range(0..=30)?;
            let candidates = (0..count).map(|_| address(u)).collect::<Result<Vec<_>>>()?;
            Event::Signal { from: slot, reply: u.arbitrary()?, candidates }
        }
        5 => Event::Found(slot, vec![address(u)?, address(u)?]),
        6 if !asked.is_empty() => {
            let (from, source, number) = *u.choose(asked)?;
            Event::Probe { from, source, probe: Probe { pong: true, number, full: u.arbitrary()? } }
        }
        6 | 7 => {
            let probe = Probe { pong: u.arbitrary()?, number: u.arbitrary()?, full: u.arbitrary()? };
            Event::Probe { from: slot, source: address(u)?, probe }
        }
        8 => Event::Busy(slot),
        9 => Event::SendFailed(slot),
        10 => Event::Mapped(if u.arbitrary()? { Some(address(u)?) } else { None }),
        _ => Event::Tick,
    })
}

fn address(u: &mut Unstructured<'_>) -> Result<SocketAddr> {
    let ip =
        if u.arbitrary()? { IpAddr::from(u.arbitrary::<[u8; 4]>()?) } else { IpAddr::from(u.arbitrary::<[u8; 16]>()?) };
    // Few ports, so that addresses meet again.
    Ok(SocketAddr::new(ip, u.int_in_range(0..=3)?))
}
