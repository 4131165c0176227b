//! Crowds that come to do harm: those who take nothing of what they asked for, and those who knock and go away.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use hearth_schemas::ids::Slot;
use hearth_schemas::relay::{Reply, Request};
use quinn::Endpoint;
use tokio::net::UdpSocket;
use tokio::time::{interval, timeout};

use crate::client::{Client, Leg, relay_address, within};
use crate::household::Household;
use crate::takers::{ask_and_take_nothing, first_packets};
use crate::{start, two_bound};

/// How many take nothing.
const SLOW: usize = 1000;
/// How many of them come from one address.
const EACH: usize = 40;
/// What the relay may take in memory for all of them, in KiB: their connections, and what waits for them.
const MOST_KIB: u64 = 60 << 10;
/// How many first packets of handshakes come.
const INITIALS: usize = 50_000;
/// How long a datagram through the relay may take meanwhile, in most cases and on a busy computer.
const PROMPT: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_who_take_nothing_of_what_they_ask_for_are_put_out_and_take_little_memory() {
    let (_data, relay) = start().await;
    let home = Household::new(1, 2);
    let [(mut laptop, leg), (_desktop, desktop)] = two_bound(&relay, &home).await;
    let mut endpoints = Vec::new();
    let mut slow = Vec::new();
    for number in 0..SLOW {
        if number % EACH == 0 {
            let own = Ipv4Addr::new(127, 0, 9, u8::try_from(number / EACH + 1).expect("few addresses"));
            endpoints.push(Endpoint::client((own, 0).into()).expect("a socket"));
        }
        let endpoint = endpoints.last().expect("opened just now");
        slow.push(ask_and_take_nothing(endpoint, &relay.address, &home).await);
    }
    for connection in &slow {
        assert!(within(connection.closed()).await.to_string().contains("closed by peer"));
    }
    let most_kib = relay.most_memory_kib();
    assert!(most_kib < MOST_KIB, "the relay took {most_kib} KiB");
    assert!(matches!(laptop.ask(Request::FetchLog { from: 0 }).await, Reply::Log { .. }), "others are served");
    leg.send(home.slot(1), b"still there").await;
    assert_eq!(desktop.data_from().await.2, b"still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_there_hardly_notices_fifty_thousand_who_knock_and_go_away() {
    let (_data, relay) = start().await;
    let home = Household::new(1, 2);
    let [(_laptop, leg), (_desktop, desktop)] = two_bound(&relay, &home).await;
    let before = round_trips(&leg, home.slot(1), &desktop, 300).await;
    let packets = first_packets(&relay.address).await;
    let to = relay_address(&relay.address);
    let flood = tokio::spawn(async move {
        let mut sockets = Vec::new();
        for number in 1..=5 {
            sockets.push(UdpSocket::bind((Ipv4Addr::new(127, 0, 8, number), 0)).await.expect("a socket"));
        }
        let (mut sent, mut answered) = (0, 0);
        let mut buffer = [0; 2048];
        let mut turns = interval(Duration::from_millis(10));
        for number in 0..INITIALS {
            if number % 100 == 0 {
                turns.tick().await;
            }
            let socket = &sockets[number % sockets.len()];
            sent += socket.send_to(&packets[number % packets.len()], to).await.unwrap_or(0);
            while let Ok(length) = socket.try_recv(&mut buffer) {
                answered += length;
            }
        }
        (sent, answered)
    });
    let during = round_trips(&leg, home.slot(1), &desktop, 300).await;
    let (newcomer, _session) = Client::device(&relay.address, &home, 0).await;
    let (sent, answered) = within(flood).await.expect("flooded");
    assert!(during <= PROMPT.max(2 * before), "99 of 100 took {during:?}, and {before:?} before");
    assert!(answered > 0, "somebody was asked to prove its address");
    assert!(answered <= 3 * sent, "{answered} bytes answered {sent}");
    drop(newcomer);
}

/// How long it takes at most, in 99 of 100 cases, until a datagram has come through the relay. One that is lost is sent again.
async fn round_trips(from: &Leg, slot: Slot, to: &Leg, count: usize) -> Duration {
    let mut took = Vec::new();
    for number in 0..count {
        let body = number.to_le_bytes();
        let begun = Instant::now();
        from.send(slot, &body).await;
        loop {
            match timeout(Duration::from_millis(100), to.data_from()).await {
                Ok((.., received)) if received == body => break,
                Ok(_sent_twice) => {}
                Err(_lost) => from.send(slot, &body).await,
            }
        }
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    took[count * 99 / 100]
}
