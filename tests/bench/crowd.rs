//! Those who use a relay, and those who misuse it, each a process: many devices that are there and say nothing, pairs that
//! talk, and floods. The idle ones are our own network edge; the others speak to the relay as its own tests do.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use hearth_schemas::address::RelayAddress;
use hearth_schemas::ids::Slot;
use hearth_schemas::keys::{DeviceKeys, Phrase, Secret};
use hearth_schemas::relay::{Header, Kind, Request, Session, bind_datagram};
use quinn::Endpoint;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, interval_at};

use crate::bare::{Household, enrol, fill};
use crate::client::{Client, relay_address};
use crate::household;
use crate::takers::{ask_and_take_nothing, first_packets};

/// The relay lets one address log in ten times a second.
const BETWEEN_LOGINS: Duration = Duration::from_millis(110);
/// How often each of a pair says something, and how much: 1 Mbit/s each way.
const BETWEEN_WORDS: Duration = Duration::from_millis(10);
const WORD_BYTES: usize = 1200;
/// For how long pairs speak before others do.
const TURN: Duration = Duration::from_secs(1);
const BETWEEN_BINDS: Duration = Duration::from_secs(15);
/// How many packets a flood sends at once, and how often.
const GUSH: usize = 50;
const BETWEEN_GUSHES: Duration = Duration::from_millis(10);
/// How many connections one flood of them has open.
const KNOCKS: usize = 2000;
/// How many who take nothing come from one address: what it may have of handshakes at once.
const READERS: usize = 50;
/// Which account they belong to.
const READERS_HOME: u8 = 0;

/// Does what `words` say: `crowd RELAY DEVICES` brings devices of accounts of two, `pairs RELAY PAIRS` has pairs talk and prints
/// what they hear, and `flood RELAY KIND` does harm. None of them ends by itself.
pub(crate) async fn act(words: &[&str]) -> Result<()> {
    let relay = |relay: &str| RelayAddress::parse(relay).map_err(|error| anyhow!("the relay's address: {error}"));
    match *words {
        ["crowd", address, devices] => crowd(&relay(address)?, devices.parse()?).await,
        ["pairs", address, pairs] => talk(&relay(address)?, pairs.parse()?).await,
        ["flood", address, kind] => flood(&relay(address)?, kind).await,
        _ => bail!("a crowd cannot do that"),
    }
}

fn say(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("printing")
}

/// Brings devices one after the other, and says when all are logged in, and each time that one does so again.
async fn crowd(relay: &RelayAddress, devices: usize) -> Result<()> {
    let mut turns = interval(BETWEEN_LOGINS);
    let (came, mut coming) = mpsc::channel(devices.max(1));
    for _ in 0..devices.div_ceil(2) {
        turns.tick().await;
        let keys = [DeviceKeys::random(&mut fill), DeviceKeys::random(&mut fill)];
        let account = enrol(relay, &Phrase::random(&mut fill), &keys).await?;
        let home = Household { relay: relay.clone(), account, keys, signals: Secret::random(&mut fill) };
        for number in 0..2 {
            turns.tick().await;
            tokio::spawn(home.start(number, "relay")?.tell_logins(came.clone()));
        }
    }
    drop(came);
    for _ in 0..devices {
        coming.recv().await.context("the network ended")?;
    }
    say("there")?;
    while coming.recv().await.is_some() {
        say("again")?;
    }
    bail!("the network ended")
}

/// One end of a pair's way.
struct End {
    socket: UdpSocket,
    /// What precedes a word.
    header: Vec<u8>,
    to: SocketAddr,
    /// What it has to bind again and again.
    session: Option<Session>,
}

impl End {
    /// By the relay, to the other device of a household.
    async fn by_relay(relay: &RelayAddress, home: &household::Household, device: usize) -> Result<(Self, Client)> {
        let (client, session) = Client::device(relay, home, device).await;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.context("opening a socket")?;
        let header = Header { kind: Kind::Data, ecn: 0, slot: home.slot(1 - device), token: session.token };
        let header = header.to_bytes().to_vec();
        Ok((Self { socket, header, to: relay_address(relay), session: Some(session) }, client))
    }

    /// Two with nobody between them.
    async fn straight() -> Result<[Self; 2]> {
        let open = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
        let (one, other) = (open().await.context("a socket")?, open().await.context("a socket")?);
        let (to_one, to_other) = (one.local_addr()?, other.local_addr()?);
        let end = |socket, to| Self { socket, header: Vec::new(), to, session: None };
        Ok([end(one, to_other), end(other, to_one)])
    }

    /// Says words and hears the other's, and notes how long each was under way. Ends speak at moments of their own.
    async fn talk(self, begun: Instant, moment: Duration, heard: Arc<Mutex<Heard>>) -> Result<()> {
        let (mut word, mut buffer) = (self.header.clone(), [0; 2048]);
        word.resize(self.header.len() + WORD_BYTES, 7);
        let mut turns = interval_at(tokio::time::Instant::now() + moment, BETWEEN_WORDS);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stamp = self.header.len()..self.header.len() + 8;
        let (mut bindings, mut counter) = (interval(BETWEEN_BINDS), 0);
        loop {
            tokio::select! {
                _ = bindings.tick() => if let Some(session) = &self.session {
                    counter += 1;
                    let bind = bind_datagram(session.token, &session.mac_key, counter);
                    self.socket.send_to(&bind, self.to).await.context("binding")?;
                },
                // Those by the relay and those straight speak in turn, so that neither waits for the other.
                _ = turns.tick() => if begun.elapsed().as_secs() / TURN.as_secs() % 2 == u64::from(self.session.is_some()) {
                    word[stamp.clone()].copy_from_slice(&nanoseconds(begun).to_le_bytes());
                    self.socket.send_to(&word, self.to).await.context("saying a word")?;
                    heard.lock().unwrap_or_else(PoisonError::into_inner).said += 1;
                },
                received = self.socket.recv_from(&mut buffer) => {
                    let (length, _) = received.context("hearing a word")?;
                    if length != word.len() {
                        continue;
                    }
                    let sent = u64::from_le_bytes(buffer[stamp.clone()].try_into().context("eight bytes")?);
                    let took = nanoseconds(begun).saturating_sub(sent);
                    heard.lock().unwrap_or_else(PoisonError::into_inner).took.push(took);
                }
            }
        }
    }
}

/// What all pairs of one kind said and heard.
#[derive(Default)]
struct Heard {
    said: usize,
    took: Vec<u64>,
}

fn nanoseconds(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Has pairs talk by the relay and as many straight, a second each, and prints after both `relayed` or `straight`, half of how many
/// microseconds words took at most, what 99 of 100 took, and how many were said and heard.
async fn talk(relay: &RelayAddress, pairs: u8) -> Result<()> {
    let begun = Instant::now();
    let ways = [Arc::<Mutex<Heard>>::default(), Arc::default()];
    let mut turns = interval(BETWEEN_LOGINS);
    let (mut clients, mut ends) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        let home = household::Household::new(pair, 2);
        turns.tick().await;
        Client::create(relay, &home).await;
        for device in 0..2 {
            turns.tick().await;
            let (end, client) = End::by_relay(relay, &home, device).await?;
            ends.push((end, &ways[0]));
            clients.push(client);
        }
        ends.extend(End::straight().await?.map(|end| (end, &ways[1])));
    }
    let count = u32::try_from(ends.len()).unwrap_or(u32::MAX);
    for (number, (end, heard)) in (0..).zip(ends) {
        tokio::spawn(end.talk(begun, BETWEEN_WORDS * number / count, Arc::clone(heard)));
    }
    tokio::spawn(keep(clients));
    say("there")?;
    let mut turns = interval(2 * TURN);
    loop {
        turns.tick().await;
        for (name, heard) in ["relayed", "straight"].iter().zip(&ways) {
            let mut heard = std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
            heard.took.sort_unstable();
            let of = |part: usize| heard.took.get(heard.took.len() * part / 100).map_or(0, |took| took / 1000);
            say(&format!("{name} {} {} {} {}", of(50), of(99), heard.said, heard.took.len()))?;
        }
    }
}

/// Keeps connections from running out.
async fn keep(mut clients: Vec<Client>) {
    let mut turns = interval(BETWEEN_BINDS);
    loop {
        turns.tick().await;
        for client in &mut clients {
            client.ask(Request::FetchBlob { hash: [0; 32] }).await;
        }
    }
}

async fn flood(relay: &RelayAddress, kind: &str) -> Result<()> {
    let to = relay_address(relay);
    match kind {
        "garbage" => pour(to, &garbage()).await,
        "handshakes" => pour(to, &first_packets(relay).await).await,
        "knocks" => knock(to).await,
        "readers" => {
            let endpoint = Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into()).context("opening a socket")?;
            let home = household::Household::new(READERS_HOME, 2);
            let mut readers = Vec::new();
            for _ in 0..READERS {
                readers.push(ask_and_take_nothing(&endpoint, relay, &home).await);
            }
            say("begun")?;
            std::future::pending().await
        }
        _ => bail!("there is no such flood"),
    }
}

/// Sends packets over and over: 5,000 a second.
async fn pour(to: SocketAddr, packets: &[Vec<u8>]) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.context("opening a socket")?;
    let mut turns = interval(BETWEEN_GUSHES);
    say("begun")?;
    for gush in packets.chunks(GUSH).cycle() {
        turns.tick().await;
        for packet in gush {
            // One that does not get out is lost as others are.
            let _ = socket.send_to(packet, to).await;
        }
    }
    bail!("there is nothing to pour")
}

/// Packets of every kind that mean nothing: noise, long and short headers of QUIC, datagrams and BINDs of nobody.
fn garbage() -> Vec<Vec<u8>> {
    let packet = |number: usize| {
        let mut bytes = hearth_tests::tree::noise(number as u64, 20 + number * 37 % 1400);
        let token = bytes[..8].try_into().unwrap_or_default();
        let header = |kind| Header { kind, ecn: 0, slot: Slot(1), token }.to_bytes();
        match number % 5 {
            0 => {}
            1 => bytes[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]),
            2 => bytes[0] = 0x43,
            3 => bytes[..12].copy_from_slice(&header(Kind::Data)),
            _ => bytes[..12].copy_from_slice(&header(Kind::Bind)),
        }
        bytes
    };
    (0..500).map(packet).collect()
}

/// Opens TCP connections and says nothing on them: a thousand a second, the oldest closed for each new one.
async fn knock(to: SocketAddr) -> Result<()> {
    let mut open = std::collections::VecDeque::new();
    let mut turns = interval(Duration::from_millis(1));
    say("begun")?;
    loop {
        turns.tick().await;
        if let Ok(stream) = TcpStream::connect(to).await {
            open.push_back(stream);
        }
        if open.len() > KNOCKS {
            open.pop_front();
        }
    }
}
