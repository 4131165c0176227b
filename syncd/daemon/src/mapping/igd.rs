//! Asks a router for a port by UPnP: finds it, reads where it is spoken to, and speaks to it. What is said and what
//! the answers mean is [`syncd_core::igd`]'s.
//!
//! Only the router of this network is spoken to, from the address that leads to it, and nothing is waited for longer
//! than two seconds or read beyond 64 KiB.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use socket2::{Domain, Socket, Type};
use syncd_core::igd::{
    self, Action, Answer, CONFLICT, LEASE_SECONDS, MAX_REPLY, ONLY_PERMANENT, Place, Service, is_whole,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::{sleep, timeout};
use tracing::debug;

/// Where routers listen for searches.
const SEARCHED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// A search that may have got lost is sent again after this long.
const SEARCH_AGAIN: Duration = Duration::from_millis(600);
/// Longest answer to a search, in bytes.
const MAX_ANSWER: usize = 2048;
/// How many answers to a search are looked at.
const MAX_ANSWERS: usize = 64;
/// How many ports are asked for until there is one that nobody else has.
const PORTS_TRIED: usize = 4;

/// A port that a router passes on, until it is told otherwise or its time is up.
#[derive(Debug)]
pub(super) struct Opened {
    router: Ipv4Addr,
    own: Ipv4Addr,
    service: Service,
    /// The router's port.
    pub(super) outer: u16,
    /// For how long, in seconds; 0 is for ever.
    pub(super) lease: u32,
}

/// Who asks whom.
#[derive(Clone, Copy)]
pub(super) struct Between {
    /// The router.
    pub(super) router: Ipv4Addr,
    /// This machine, on the network of the router.
    pub(super) own: Ipv4Addr,
    /// The UDP port that is to be reached.
    pub(super) port: u16,
    /// The address at which the relay sees this machine. A router that is seen at another is behind another router.
    pub(super) outside: Ipv4Addr,
}

impl Opened {
    /// Has the router pass on the port no longer.
    pub(super) async fn close(self) {
        if let Err(error) = ask(&self.service, Action::Delete { outer: self.outer }, self.own, self.router).await {
            debug!("the router was not told that its port {} is free: {error:#}", self.outer);
        }
    }

    /// Whether it is the same mapping, so that closing this one would end the other.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        (self.router, self.outer) == (other.router, other.outer)
    }
}

/// Finds the router's service and asks it for a port, one that was given before if there is one.
pub(super) async fn open(between: Between, before: Option<u16>) -> anyhow::Result<Opened> {
    let described = find(between.own, between.router).await?;
    open_at(between, &described, before).await
}

/// Searches for the router. What others on this network answer is not looked at.
async fn find(own: Ipv4Addr, router: Ipv4Addr) -> anyhow::Result<Place> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).context("opening a socket")?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((own, 0)).into())?;
    socket.set_multicast_if_v4(&own)?;
    let socket = UdpSocket::from_std(socket.into())?;
    let asking = async {
        loop {
            for search in igd::search() {
                socket.send_to(search.as_bytes(), SEARCHED).await.context("searching")?;
            }
            sleep(SEARCH_AGAIN).await;
        }
    };
    let answered = async {
        let mut buffer = [0; MAX_ANSWER];
        for _ in 0..MAX_ANSWERS {
            let (length, from) = socket.recv_from(&mut buffer).await?;
            if from.ip() == router
                && let Some(place) = igd::described_at(&buffer[..length], router)
            {
                return Ok(place);
            }
        }
        bail!("nobody but others answered")
    };
    let either = async {
        tokio::select! {
            found = answered => found,
            failed = asking => failed,
        }
    };
    timeout(PATIENCE, either).await.context("the router does not answer a search")?
}

async fn open_at(between: Between, described: &Place, before: Option<u16>) -> anyhow::Result<Opened> {
    let Between { router, own, port, outside } = between;
    let description = exchange(own, router, described.port, &igd::get(described, router)).await?;
    let service = igd::service(&description, described, router).context("the router passes on no ports")?;
    match ask(&service, Action::Outside, own, router).await? {
        Answer::Outside(seen) if seen == outside => {}
        Answer::Outside(seen) => bail!("the router is at {seen}, which is not where it is seen"),
        other => bail!("the router does not say where it is: {other:?}"),
    }
    let mut lease = LEASE_SECONDS;
    let mut outer = before.unwrap_or(port);
    for _ in 0..PORTS_TRIED {
        match ask(&service, Action::Add { outer, own, inner: port, lease }, own, router).await? {
            Answer::Done => return Ok(Opened { router, own, service, outer, lease }),
            Answer::Refused(ONLY_PERMANENT) if lease > 0 => lease = 0,
            Answer::Refused(CONFLICT) => outer = any_port()?,
            other => bail!("the router gives no port: {other:?}"),
        }
    }
    bail!("the router's ports are taken")
}

/// A port of those that nobody is given for good (RFC 6335 section 6).
fn any_port() -> anyhow::Result<u16> {
    let any = getrandom::u32().context("no random numbers")?;
    Ok(49_152 + u16::try_from(any % 16_384).unwrap_or_default())
}

async fn ask(service: &Service, action: Action, own: Ipv4Addr, router: Ipv4Addr) -> anyhow::Result<Answer> {
    let reply = exchange(own, router, service.control.port, &service.ask(action, router)).await?;
    igd::answer(&reply).context("the router's answer makes no sense")
}

/// Asks the router by HTTP, and reads what it answers.
async fn exchange(own: Ipv4Addr, router: Ipv4Addr, port: u16, request: &str) -> anyhow::Result<Vec<u8>> {
    let work = async {
        let socket = TcpSocket::new_v4().context("opening a socket")?;
        socket.bind((own, 0).into())?;
        let mut stream = socket.connect((router, port).into()).await.context("connecting with the router")?;
        stream.write_all(request.as_bytes()).await?;
        let mut reply = Vec::new();
        let mut part = [0; 4096];
        loop {
            let length = stream.read(&mut part).await?;
            reply.extend_from_slice(&part[..length]);
            ensure!(reply.len() <= MAX_REPLY, "the router says too much");
            if length == 0 || is_whole(&reply) {
                return Ok(reply);
            }
        }
    };
    timeout(PATIENCE, work).await.context("the router takes too long")?
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;

    const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
    const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
    const DESCRIPTION: &str = "<root><device><serviceList><service>\
        <serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>/ctl</controlURL>\
        </service></serviceList></device></root>";
    const ADDRESS: &str = "<R><NewExternalIPAddress>203.0.113.9</NewExternalIPAddress></R>";
    const DONE: &str = "<u:Response/>";

    #[tokio::test]
    async fn a_port_that_is_given_for_ever_only_is_taken_and_given_back() {
        let (place, router) = router(vec![
            ("GET /", "200 OK", DESCRIPTION),
            ("GetExternalIPAddress", "200 OK", ADDRESS),
            ("<NewExternalPort>7000</NewExternalPort>", "500 No", "<errorCode>725</errorCode>"),
            ("<NewLeaseDuration>0</NewLeaseDuration>", "200 OK", DONE),
            ("DeletePortMapping", "200 OK", DONE),
        ])
        .await;
        let opened = open_at(between(), &place, None).await.expect("opened");
        assert_eq!((opened.outer, opened.lease), (7000, 0));
        opened.close().await;
        router.await.expect("all was asked in this order");
    }

    #[tokio::test]
    async fn a_port_that_somebody_else_has_gives_way_to_another() {
        let (place, router) = router(vec![
            ("GET /", "200 OK", DESCRIPTION),
            ("GetExternalIPAddress", "200 OK", ADDRESS),
            ("<NewExternalPort>7005</NewExternalPort>", "500 No", "<errorCode>718</errorCode>"),
            ("AddPortMapping", "200 OK", DONE),
        ])
        .await;
        let opened = open_at(between(), &place, Some(7005)).await.expect("opened");
        assert!(opened.outer >= 49_152 && opened.lease == LEASE_SECONDS);
        router.await.expect("all was asked in this order");
    }

    #[tokio::test]
    async fn a_router_behind_another_one_is_asked_for_nothing() {
        for address in ["192.168.0.2", "100.64.3.4", "203.0.113.10"] {
            let said = ADDRESS.replace("203.0.113.9", address).leak();
            let (place, router) =
                router(vec![("GET /", "200 OK", DESCRIPTION), ("GetExternalIPAddress", "200 OK", said)]).await;
            open_at(between(), &place, None).await.expect_err("of no use");
            router.await.expect("nothing more was asked");
        }
    }

    #[tokio::test]
    async fn what_has_no_end_is_not_read_to_it() {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.expect("a listener");
        let port = listener.local_addr().expect("bound").port();
        let endless = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("called");
            let mut sent = 0;
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await.expect("sent");
            while stream.write_all(&[b' '; 4096]).await.is_ok() {
                sent += 4096;
            }
            sent
        });
        let error = open_at(between(), &Place { port, path: "/".to_owned() }, None).await.expect_err("endless");
        assert!(error.to_string().contains("too much"), "{error:#}");
        // Beside what was read, the kernel's buffers took some.
        assert!(endless.await.expect("ended") < 32 << 20);
    }

    fn between() -> Between {
        Between { router: LOOPBACK, own: LOOPBACK, port: 7000, outside: OUTSIDE }
    }

    /// A router that expects these words in one request each, and answers so.
    async fn router(story: Vec<(&'static str, &'static str, &'static str)>) -> (Place, JoinHandle<()>) {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.expect("a listener");
        let port = listener.local_addr().expect("bound").port();
        let task = tokio::spawn(async move {
            for (expected, status, body) in story {
                let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.expect("in time").expect("called");
                let mut request = Vec::new();
                while !is_all(&request) {
                    let mut part = [0; 1024];
                    let length = stream.read(&mut part).await.expect("read");
                    request.extend_from_slice(&part[..length]);
                }
                let request = String::from_utf8(request).expect("text");
                assert!(request.contains(expected), "{expected}: {request}");
                let reply = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(reply.as_bytes()).await.expect("answered");
            }
        });
        (Place { port, path: "/".to_owned() }, task)
    }

    fn is_all(request: &[u8]) -> bool {
        let text = String::from_utf8_lossy(request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        length.is_none_or(|length| length.parse() == Ok(body.len()))
    }
}
