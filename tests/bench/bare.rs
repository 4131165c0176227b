//! What a path can carry at all: two devices without a daemon, and QUIC streams between them.
//!
//! Uses the daemon's own network edge, so path, encryption and congestion control are the same; nothing is read from
//! or written to a disk.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use hearth_schemas::address::RelayAddress;
use hearth_schemas::ids::{AccountId, Slot};
use hearth_schemas::keys::{DeviceKeys, Phrase, Secret};
use hearth_schemas::log::{Account, Caps};
use hearth_schemas::relay::{Event, Reply, Request};
use quinn::{Connection, RecvStream, SendStream};
use serde_json::{Value, json};
use syncd::blobs::Blobs;
use syncd::config::Ways;
use syncd::net::{Identity, NetEvent, Network, PathKind};
use syncd::paths::SignalKey;
use syncd::relay::Anonymous;
use syncd_core::account::{self, Newcomer};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

const CONNECT_LIMIT: Duration = Duration::from_secs(60);
const PIECE_BYTES: usize = 256 << 10;
const ECHO_BYTES: usize = 64;
const BETWEEN_ECHOES: Duration = Duration::from_millis(20);
/// What a stream begins with that wants echoes, or so many bytes.
const ECHOES: u8 = b'e';
const BULK: u8 = b'b';
/// How long the two are left alone before anything is measured.
const CALM: Duration = Duration::from_secs(2);

/// Returns how long this many bytes take from one device to another by the relay.
pub(crate) fn stream(relay: &str, bytes: u64) -> Result<Duration> {
    let relay = RelayAddress::parse(relay).map_err(|error| anyhow!("the relay's address: {error}"))?;
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    threads.context("starting threads")?.block_on(measure(relay, bytes))
}

/// What one of two ends does, as a process of its own: `bench end enrol RELAY FILE` makes an account of two devices, and
/// `bench end answer FILE WAY`, `meet FILE WAY BYTES`, `carry FILE WAY BYTES` and `echo FILE WAY SECONDS` are its devices. What they print
/// is for [`crate::ends`]; the ends of iroh do and print the same.
pub(crate) fn end(words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    threads.context("starting threads")?.block_on(async {
        match words[..] {
            ["enrol", relay, file] => {
                let relay = RelayAddress::parse(relay).map_err(|error| anyhow!("the relay's address: {error}"))?;
                let keys = [DeviceKeys::random(&mut fill), DeviceKeys::random(&mut fill)];
                let account = enrol(&relay, &Phrase::random(&mut fill), &keys).await?;
                Household { relay, account, keys, signals: Secret::random(&mut fill) }.write(file.as_ref())
            }
            ["answer", file, way] => answer(Household::read(file.as_ref())?.start(1, way)?).await,
            ["meet", file, way, bytes] => {
                meet(Household::read(file.as_ref())?.start(0, way)?, way, bytes.parse()?).await
            }
            ["carry", file, way, bytes] => {
                carry(Household::read(file.as_ref())?.start(0, way)?, way, bytes.parse()?).await
            }
            ["echo", file, way, seconds] => {
                let time = Duration::from_secs(seconds.parse()?);
                echo_for(Household::read(file.as_ref())?.start(0, way)?, way, time).await
            }
            _ => crate::crowd::act(&words).await,
        }
    })
}

/// What the two devices of an account have to know.
pub(crate) struct Household {
    pub(crate) relay: RelayAddress,
    pub(crate) account: Account,
    pub(crate) keys: [DeviceKeys; 2],
    /// What their signals are sealed with.
    pub(crate) signals: Secret,
}

/// A device that runs, and what keeps its account and its relays known.
pub(crate) struct Device {
    network: Network,
    events: mpsc::Receiver<NetEvent>,
    begun: Instant,
    _known: (watch::Sender<Arc<Account>>, watch::Sender<Vec<RelayAddress>>),
}

impl Household {
    fn write(&self, file: &Path) -> Result<()> {
        let hex = |bytes: &[u8]| HEXLOWER.encode(bytes);
        let keys: Vec<String> = self.keys.iter().map(|keys| hex(&keys.to_bytes()[..])).collect();
        let text = json!({
            "relay": self.relay.to_string(),
            "account": hex(&self.account.id.0),
            "entries": self.account.entries().iter().map(|entry| hex(entry)).collect::<Vec<_>>(),
            "keys": keys,
            "signals": hex(self.signals.bytes()),
        });
        fs::write(file, text.to_string()).with_context(|| format!("writing {}", file.display()))
    }

    fn read(file: &Path) -> Result<Self> {
        let text: Value = serde_json::from_slice(&fs::read(file).context("reading an account")?)?;
        let bytes = |value: &Value| -> Result<Vec<u8>> {
            HEXLOWER.decode(value.as_str().context("text")?.as_bytes()).context("hexadecimal digits")
        };
        let list = |name: &str| text[name].as_array().context("a list")?.iter().map(bytes).collect::<Result<Vec<_>>>();
        let array = |bytes: Vec<u8>| <[u8; 32]>::try_from(bytes).map_err(|_| anyhow!("32 bytes"));
        let relay =
            RelayAddress::parse(text["relay"].as_str().context("a relay")?).map_err(|error| anyhow!("{error}"))?;
        let id = AccountId(array(bytes(&text["account"])?)?);
        let account = Account::verify(id, &list("entries")?).map_err(|error| anyhow!("{error}"))?;
        let keys = list("keys")?.into_iter().map(|keys| {
            let keys = keys.as_slice().try_into().map_err(|_| anyhow!("the length of a device's keys"))?;
            Ok(DeviceKeys::from_bytes(keys))
        });
        let keys = keys.collect::<Result<Vec<_>>>()?.try_into().map_err(|_| anyhow!("two devices"))?;
        Ok(Self { relay, account, keys, signals: Secret::from_bytes(array(bytes(&text["signals"])?)?) })
    }

    /// Starts one of the devices; with the way `relay` it has no other.
    pub(crate) fn start(&self, number: usize, way: &str) -> Result<Device> {
        let ways = Ways { direct: way != "relay", nearby: way != "relay", ask_router: way != "relay" };
        let identity = identity(&self.account, &self.keys[number])?;
        let (known, watched) = watch::channel(Arc::new(self.account.clone()));
        let (relays, listed) = watch::channel(vec![self.relay.clone()]);
        let key = watch::channel(Arc::new(SignalKey { epoch: 0, key: self.signals.clone() })).1;
        let begun = Instant::now();
        let (network, events) = Network::start(listed, nothing(), identity, watched, key, ways, 0)?;
        Ok(Device { network, events, begun, _known: (known, relays) })
    }
}

impl Device {
    /// Waits until it is logged in, and says so.
    async fn ready(&mut self) -> Result<()> {
        let waiting = self.until(|event| matches!(event, NetEvent::RelayUp { .. }).then_some(()));
        waiting.await.context("reaching the relay")?;
        say("ready", self.begun.elapsed().as_secs_f64())
    }

    /// Stays, and tells of each time that it is logged in.
    pub(crate) async fn tell_logins(mut self, logins: mpsc::Sender<()>) {
        while let Some(event) = self.events.recv().await {
            if matches!(event, NetEvent::RelayUp { .. }) && logins.send(()).await.is_err() {
                return;
            }
        }
    }

    /// Waits for the other device.
    async fn peer(&mut self) -> Result<(Slot, Connection)> {
        let is_up = |event| match event {
            NetEvent::PeerUp { slot, connection, .. } => Some((slot, connection)),
            _ => None,
        };
        self.until(is_up).await.context("the two devices did not meet")
    }

    async fn until<T>(&mut self, wanted: impl Fn(NetEvent) -> Option<T>) -> Result<T> {
        let waiting = async {
            while let Some(event) = self.events.recv().await {
                if let Some(found) = wanted(event) {
                    return Ok(found);
                }
            }
            bail!("the network ended")
        };
        timeout(CONNECT_LIMIT, waiting).await.context("nothing came")?
    }

    /// Waits until packets take this way and no other.
    async fn until_way(&self, other: Slot, way: &str) -> Result<()> {
        self.until_so(|| match self.network.path(other).kind {
            Some(PathKind::Lan | PathKind::Direct) => way != "relay",
            Some(PathKind::RelayUdp | PathKind::RelayTcp) => way != "direct",
            None => false,
        })
        .await
    }

    async fn until_so(&self, is_so: impl Fn() -> bool) -> Result<()> {
        let waiting = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(CONNECT_LIMIT, waiting).await.context("there is no such way between the two")
    }
}

fn say(what: &str, number: f64) -> Result<()> {
    writeln!(io::stdout(), "{what} {number}").context("printing")
}

/// Does for the other device what it asks, until that goes.
async fn answer(mut device: Device) -> Result<()> {
    device.ready().await?;
    let (_, connection) = device.peer().await?;
    loop {
        tokio::select! {
            stream = connection.accept_uni() => match stream {
                Ok(stream) => drop(tokio::spawn(receive(stream))),
                Err(_) => return Ok(()),
            },
            stream = connection.accept_bi() => match stream {
                Ok((send, recv)) => drop(tokio::spawn(serve(send, recv))),
                Err(_) => return Ok(()),
            },
        }
    }
}

/// Answers on one stream: its first byte says whether with echoes or with so many bytes.
async fn serve(mut send: SendStream, mut recv: RecvStream) -> Result<()> {
    let mut wish = [0];
    recv.read_exact(&mut wish).await.context("hearing what is wanted")?;
    if wish == [BULK] {
        let mut bytes = [0; 8];
        recv.read_exact(&mut bytes).await.context("hearing how much is wanted")?;
        return send_pieces(&mut send, u64::from_be_bytes(bytes)).await;
    }
    send.set_priority(1).context("preferring a stream")?;
    let mut message = [0; ECHO_BYTES];
    loop {
        recv.read_exact(&mut message).await.context("hearing a call")?;
        send.write_all(&message).await.context("echoing")?;
    }
}

/// Measures how long connecting takes from when the other is said to be there, and how long so many bytes do to the other
/// end and from it. Both have said a first frame, and heard the other's, when a connection counts.
async fn meet(mut device: Device, way: &str, bytes: u64) -> Result<()> {
    device.ready().await?;
    let came = |event| match event {
        NetEvent::Relay { event: Event::Presence { online: true, .. }, .. } => Some(Instant::now()),
        _ => None,
    };
    let begun = device.until(came).await.context("the other device did not come")?;
    let (there, connection) = device.peer().await?;
    say("first byte", begun.elapsed().as_secs_f64())?;
    if way == "direct" {
        device.until_so(|| device.network.goes_straight(there)).await?;
        say("straight", begun.elapsed().as_secs_f64())?;
    }
    if way != "any" {
        device.until_way(there, way).await?;
        say("way", begun.elapsed().as_secs_f64())?;
    }
    if bytes == 0 {
        device.network.shutdown().await;
        return Ok(());
    }
    tokio::time::sleep(CALM).await;
    let begun = Instant::now();
    send_all(&connection, bytes).await?;
    say("there", begun.elapsed().as_secs_f64())?;
    let begun = Instant::now();
    let (mut send, recv) = ask(&connection, BULK).await?;
    send.write_all(&bytes.to_be_bytes()).await.context("asking for bytes")?;
    let received = receive(recv).await?;
    ensure!(received == bytes, "{received} of {bytes} bytes arrived");
    say("back", begun.elapsed().as_secs_f64())?;
    device.network.shutdown().await;
    Ok(())
}

/// Measures a stream of so many bytes with echoes beside it.
async fn carry(mut device: Device, way: &str, bytes: u64) -> Result<()> {
    device.ready().await?;
    let (there, connection) = device.peer().await?;
    let (mut send, mut recv) = ask(&connection, ECHOES).await?;
    send.set_priority(1).context("preferring a stream")?;
    device.until_way(there, way).await?;
    // The path is found, and its packets' length, while the first go.
    tokio::time::sleep(CALM).await;
    for _ in 0..20 {
        say("idle", echo(&mut send, &mut recv).await?.as_secs_f64())?;
        tokio::time::sleep(BETWEEN_ECHOES).await;
    }
    let before = connection.stats().path;
    let (begun, sending) = (Instant::now(), connection.clone());
    let mut sending = tokio::spawn(async move {
        send_all(&sending, bytes).await?;
        Ok::<_, anyhow::Error>(begun.elapsed())
    });
    let mut busy = Vec::new();
    let took = loop {
        let turn = async {
            let echoed = echo(&mut send, &mut recv).await;
            tokio::time::sleep(BETWEEN_ECHOES).await;
            echoed
        };
        tokio::select! {
            took = &mut sending => break took.context("sending")??,
            echoed = turn => busy.push(echoed?),
        }
    };
    let after = connection.stats().path;
    busy.iter().try_for_each(|echo| say("busy", echo.as_secs_f64()))?;
    say("there", took.as_secs_f64())?;
    say("sent", (after.sent_packets - before.sent_packets) as f64)?;
    say("lost", (after.lost_packets - before.lost_packets) as f64)?;
    device.network.shutdown().await;
    Ok(())
}

/// Sends an echo every 20 ms for so long, once the way is there, and says `begun` then. Measures the longest time between
/// two answers.
async fn echo_for(mut device: Device, way: &str, time: Duration) -> Result<()> {
    device.ready().await?;
    let (there, connection) = device.peer().await?;
    let (mut send, mut recv) = ask(&connection, ECHOES).await?;
    device.until_way(there, way).await?;
    let sending = async {
        let mut turns = tokio::time::interval(BETWEEN_ECHOES);
        loop {
            turns.tick().await;
            send.write_all(&[7; ECHO_BYTES]).await.context("calling")?;
        }
    };
    let (mut longest, mut last) = (Duration::ZERO, Instant::now());
    let hearing = async {
        let mut message = [0; ECHO_BYTES];
        recv.read_exact(&mut message).await.context("hearing an echo")?;
        say("begun", 0.0)?;
        last = Instant::now();
        loop {
            recv.read_exact(&mut message).await.context("hearing an echo")?;
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
    };
    let ended: Result<()> = tokio::select! {
        ended = sending => ended,
        ended = hearing => ended,
        () = tokio::time::sleep(time) => Ok(()),
    };
    // A connection that was given up is silent to the end.
    ended.or_else(|error| writeln!(io::stderr(), "the connection ended: {error:#}").context("printing"))?;
    say("longest", longest.max(last.elapsed()).as_secs_f64())
}

async fn ask(connection: &Connection, wish: u8) -> Result<(SendStream, RecvStream)> {
    let (mut send, recv) = connection.open_bi().await.context("opening a stream")?;
    send.write_all(&[wish]).await.context("asking")?;
    Ok((send, recv))
}

async fn echo(send: &mut SendStream, recv: &mut RecvStream) -> Result<Duration> {
    let (begun, mut message) = (Instant::now(), [7; ECHO_BYTES]);
    send.write_all(&message).await.context("calling")?;
    recv.read_exact(&mut message).await.context("hearing an echo")?;
    Ok(begun.elapsed())
}

async fn measure(relay: RelayAddress, bytes: u64) -> Result<Duration> {
    let phrase = Phrase::random(&mut fill);
    let keys = [DeviceKeys::random(&mut fill), DeviceKeys::random(&mut fill)];
    let account = enrol(&relay, &phrase, &keys).await?;
    let (_known, watched) = watch::channel(Arc::new(account.clone()));
    let ways = Ways { direct: false, ..Ways::default() };
    let (_relays, relays) = watch::channel(vec![relay]);
    let start = |keys: &DeviceKeys| -> Result<(Network, mpsc::Receiver<NetEvent>)> {
        let key = watch::channel(Arc::new(SignalKey { epoch: 0, key: Secret::random(&mut fill) })).1;
        Network::start(relays.clone(), nothing(), identity(&account, keys)?, watched.clone(), key, ways, 0)
    };
    let ((one, mut of_one), (two, mut of_two)) = (start(&keys[0])?, start(&keys[1])?);
    let ((_, from), (_, to)) = tokio::try_join!(peer(&mut of_one), peer(&mut of_two))?;

    let begun = Instant::now();
    let receiving = tokio::spawn(async move { receive(to.accept_uni().await.context("accepting a stream")?).await });
    send_all(&from, bytes).await?;
    let received = receiving.await.context("receiving")??;
    let took = begun.elapsed();
    ensure!(received == bytes, "{received} of {bytes} bytes arrived");
    tokio::join!(one.shutdown(), two.shutdown());
    Ok(took)
}

/// No blobs of an account, and no place for any.
fn nothing() -> Arc<Blobs> {
    Arc::new(Blobs::at("/nonexistent".into()))
}

/// Makes an account of two devices at the relay.
pub(crate) async fn enrol(relay: &RelayAddress, phrase: &Phrase, keys: &[DeviceKeys; 2]) -> Result<Account> {
    let first = account::create(phrase, &keys[0], "one", 0, &mut fill).map_err(|error| anyhow!("{error}"))?;
    let public = keys[1].public();
    let newcomer = Newcomer { keys: &public, wish: "two", caps: Caps::ALL };
    let second = account::add_device(&first.account, &first.secrets, &keys[0], &newcomer, 0, &mut fill)
        .map_err(|error| anyhow!("{error}"))?;
    let visit = Anonymous::connect(relay, false).await.map_err(|error| anyhow!("{error}"))?;
    let create = Request::CreateAccount {
        entries: [first.entries, second.entries].concat(),
        blobs: [first.blobs, second.blobs].concat(),
        invite: None,
    };
    let reply = visit.request(create).await.map_err(|error| anyhow!("{error}"))?;
    ensure!(reply == Reply::Done, "the relay answered with {reply:?}");
    visit.close().await;
    Ok(second.account)
}

fn identity(account: &Account, keys: &DeviceKeys) -> Result<Identity> {
    let device = account.active(&keys.id()).context("the device is in its account")?;
    let (sign, tls) = (keys.sign.clone(), keys.tls.clone());
    Ok(Identity { account: account.id, device: device.id, slot: device.slot, sign, tls })
}

async fn peer(events: &mut mpsc::Receiver<NetEvent>) -> Result<(Slot, Connection)> {
    let meeting = async {
        while let Some(event) = events.recv().await {
            if let NetEvent::PeerUp { slot, connection, .. } = event {
                return Ok((slot, connection));
            }
        }
        bail!("the network ended")
    };
    timeout(CONNECT_LIMIT, meeting).await.context("the two devices did not meet")?
}

async fn send_all(connection: &Connection, bytes: u64) -> Result<()> {
    let mut stream = connection.open_uni().await.context("opening a stream")?;
    send_pieces(&mut stream, bytes).await
}

/// Sends so many bytes, and returns once the other end has all of them.
async fn send_pieces(stream: &mut SendStream, bytes: u64) -> Result<()> {
    let piece = Bytes::from(hearth_tests::tree::noise(1, PIECE_BYTES));
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        stream.write_chunk(piece.slice(..length)).await.context("sending")?;
        left -= length as u64;
    }
    stream.finish().context("ending the stream")?;
    stream.stopped().await.context("waiting for the last acknowledgement").map(drop)
}

async fn receive(mut stream: RecvStream) -> Result<u64> {
    let mut pieces: [Bytes; 32] = Default::default();
    let mut received = 0;
    while let Some(count) = stream.read_chunks(&mut pieces).await.context("receiving")? {
        received += pieces[..count].iter().map(|piece| piece.len() as u64).sum::<u64>();
    }
    Ok(received)
}

pub(crate) fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the kernel gives random bytes");
}
