//! One end of a connection: it answers, or it asks and measures.
//!
//! A stream in one direction is taken in to its end. One in both begins with a byte that says what is wanted: echoes, or so
//! many bytes.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use iroh::endpoint::{Connection, RecvStream, SendStream, presets};
use iroh::tls::CaTlsConfig;
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayConfig, RelayMap, RelayMode, RelayUrl};
use rustls::pki_types::CertificateDer;
use tokio::time::{sleep, timeout};

use crate::relay::CERTIFICATE;

const ALPN: &[u8] = b"bench";
const LIMIT: Duration = Duration::from_secs(60);
/// How long an end is left alone once it has reached its relay, before it is called or calls: it finds out meanwhile what
/// network it is in.
const WARM: Duration = Duration::from_secs(2);
/// The same once two are connected.
const CALM: Duration = Duration::from_secs(2);
const PIECE_BYTES: usize = 256 << 10;
const ECHO_BYTES: usize = 64;
const BETWEEN_ECHOES: Duration = Duration::from_millis(20);
const ECHOES: u8 = b'e';
const BULK: u8 = b'b';

/// Where an end is.
pub(crate) struct Place {
    certificate: PathBuf,
    relay: RelayUrl,
    way: Way,
}

/// The way that is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Relay,
    Any,
}

/// One end, which has reached its relay.
pub(crate) struct End {
    endpoint: Endpoint,
    place: Place,
    /// From its start until then.
    ready: Duration,
}

impl Place {
    pub(crate) fn new(folder: &str, relay: &str, way: &str) -> Result<Self> {
        let way = match way {
            "direct" => Way::Direct,
            "relay" => Way::Relay,
            "any" => Way::Any,
            _ => bail!("there is no way {way}"),
        };
        let relay = format!("https://{relay}").parse().context("the relay's address")?;
        Ok(Self { certificate: PathBuf::from(folder).join(CERTIFICATE), relay, way })
    }
}

impl End {
    pub(crate) async fn start(place: Place) -> Result<Self> {
        let certificate =
            CertificateDer::from(fs::read(&place.certificate).context("reading the relay's certificate")?);
        let relays = RelayMap::from(RelayConfig::new(place.relay.clone(), Some(Default::default())));
        let begun = Instant::now();
        let mut builder = Endpoint::builder(presets::Minimal)
            .alpns(vec![ALPN.to_vec()])
            .relay_mode(RelayMode::Custom(relays))
            .ca_tls_config(CaTlsConfig::custom_roots([certificate]))
            .proxy_from_env();
        if place.way == Way::Relay {
            builder = builder.clear_ip_transports();
        }
        let endpoint = builder.bind().await.context("opening a socket")?;
        timeout(LIMIT, endpoint.online()).await.context("reaching the relay")?;
        let ready = begun.elapsed();
        sleep(WARM).await;
        Ok(Self { endpoint, place, ready })
    }

    /// Prints its id, and does for others what they ask until it is killed.
    pub(crate) async fn answer(self) -> Result<()> {
        println!("{}", self.endpoint.id());
        while let Some(incoming) = self.endpoint.accept().await {
            let connection = incoming.await.context("accepting a connection")?;
            tokio::spawn(serve(connection));
        }
        Ok(())
    }

    /// Measures how long connecting takes, and how long so many bytes do to the other end and from it.
    pub(crate) async fn meet(self, other: EndpointId, bytes: u64) -> Result<()> {
        println!("ready {}", self.ready.as_secs_f64());
        let begun = Instant::now();
        let connection = self.dial(other).await?;
        let (mut send, mut recv) = ask(&connection, ECHOES).await?;
        echo(&mut send, &mut recv).await?;
        println!("first byte {}", begun.elapsed().as_secs_f64());
        if self.place.way != Way::Any {
            self.until_way(&connection).await?;
            println!("way {}", begun.elapsed().as_secs_f64());
        }
        if bytes == 0 {
            return Ok(());
        }
        sleep(CALM).await;
        let begun = Instant::now();
        send_all(&connection, bytes).await?;
        println!("there {}", begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        let (mut send, recv) = ask(&connection, BULK).await?;
        send.write_all(&bytes.to_be_bytes()).await.context("asking for bytes")?;
        let received = receive(recv).await?;
        ensure!(received == bytes, "{received} of {bytes} bytes arrived");
        println!("back {}", begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Measures a stream of so many bytes with echoes beside it.
    pub(crate) async fn carry(self, other: EndpointId, bytes: u64) -> Result<()> {
        let connection = self.dial(other).await?;
        let (mut send, mut recv) = ask(&connection, ECHOES).await?;
        send.set_priority(1).context("preferring a stream")?;
        self.until_way(&connection).await?;
        sleep(CALM).await;
        for _ in 0..20 {
            println!("idle {}", echo(&mut send, &mut recv).await?.as_secs_f64());
            sleep(BETWEEN_ECHOES).await;
        }
        let before = packets(&connection);
        let (begun, sending) = (Instant::now(), connection.clone());
        let mut sending = tokio::spawn(async move {
            send_all(&sending, bytes).await?;
            Ok::<_, anyhow::Error>(begun.elapsed())
        });
        let mut busy = Vec::new();
        let took = loop {
            tokio::select! {
                took = &mut sending => break took.context("sending")??,
                echoed = echo(&mut send, &mut recv) => {
                    busy.push(echoed?);
                    sleep(BETWEEN_ECHOES).await;
                }
            }
        };
        let after = packets(&connection);
        busy.iter().for_each(|echo| println!("busy {}", echo.as_secs_f64()));
        println!("there {}", took.as_secs_f64());
        println!("sent {}", after.0.saturating_sub(before.0));
        println!("lost {}", after.1.saturating_sub(before.1));
        Ok(())
    }

    /// Sends an echo every 20 ms for so long, once the way is there, and prints `begun` then. Measures the longest time
    /// between two answers.
    pub(crate) async fn echo(self, other: EndpointId, seconds: u64) -> Result<()> {
        let connection = self.dial(other).await?;
        let (mut send, mut recv) = ask(&connection, ECHOES).await?;
        self.until_way(&connection).await?;
        let sending = async {
            let mut turns = tokio::time::interval(BETWEEN_ECHOES);
            loop {
                turns.tick().await;
                send.write_all(&[7; ECHO_BYTES]).await.context("calling")?;
            }
        };
        let mut longest = Duration::ZERO;
        let mut last = Instant::now();
        let hearing = async {
            let mut message = [0; ECHO_BYTES];
            recv.read_exact(&mut message).await.context("hearing an echo")?;
            println!("begun");
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
            () = sleep(Duration::from_secs(seconds)) => Ok(()),
        };
        // A connection that was given up is silent to the end.
        if let Err(error) = ended {
            eprintln!("the connection ended: {error:#}");
        }
        println!("longest {}", longest.max(last.elapsed()).as_secs_f64());
        Ok(())
    }

    async fn dial(&self, other: EndpointId) -> Result<Connection> {
        let address = EndpointAddr::new(other).with_relay_url(self.place.relay.clone());
        let dialling = timeout(LIMIT, self.endpoint.connect(address, ALPN));
        dialling.await.context("no answer")?.context("connecting")
    }

    /// Waits until packets take the way that is wanted.
    async fn until_way(&self, connection: &Connection) -> Result<()> {
        let way = self.place.way;
        let is_there = || {
            let is_it = |path: iroh::endpoint::Path<'_>| {
                path.is_selected() && (way == Way::Any || path.is_ip() == (way == Way::Direct))
            };
            connection.paths().into_iter().any(is_it)
        };
        let waiting = async {
            while !is_there() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LIMIT, waiting).await.context("there is no such way between the two")
    }
}

/// Does what the other end asks until it goes.
async fn serve(connection: Connection) {
    loop {
        tokio::select! {
            stream = connection.accept_uni() => match stream {
                Ok(stream) => drop(tokio::spawn(receive(stream))),
                Err(_) => return,
            },
            stream = connection.accept_bi() => match stream {
                Ok((send, recv)) => drop(tokio::spawn(answer(connection.clone(), send, recv))),
                Err(_) => return,
            },
        }
    }
}

async fn answer(_connection: Connection, mut send: SendStream, mut recv: RecvStream) -> Result<()> {
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

async fn send_all(connection: &Connection, bytes: u64) -> Result<()> {
    let mut stream = connection.open_uni().await.context("opening a stream")?;
    send_pieces(&mut stream, bytes).await
}

/// Sends so many bytes, and returns once the other end has all of them.
async fn send_pieces(stream: &mut SendStream, bytes: u64) -> Result<()> {
    let piece = Bytes::from(vec![7; PIECE_BYTES]);
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
    while let Some(count) = stream.read_many_chunks(&mut pieces).await.context("receiving")? {
        received += pieces[..count].iter().map(|piece| piece.len() as u64).sum::<u64>();
    }
    Ok(received)
}

/// Packets sent on all paths, and those of them that were held for lost.
fn packets(connection: &Connection) -> (u64, u64) {
    let paths = connection.paths();
    let of = paths.into_iter().map(|path| path.stats());
    of.fold((0, 0), |(sent, lost), path| (sent + path.sent_packets, lost + path.lost_packets))
}
