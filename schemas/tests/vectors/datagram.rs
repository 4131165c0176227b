//! `datagram.txt`: the header of forwarded packets, and the datagrams that bind a session to an address.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use hearth_schemas::ids::Slot;
use hearth_schemas::relay::{BIND_LEN, HEADER, Header, Kind, bind_datagram, bound_datagram, open_bind, open_bound};

use crate::file::{changed, cut, hex, lines, longer, same_as_file};

const TOKEN: [u8; 8] = [0x99; 8];
const KEY: [u8; 32] = [0xaa; 32];
const COUNTER: u64 = 0x0102_0304_0506_0708;

#[test]
fn datagrams_are_written_as_ever() {
    same_as_file("datagram.txt", &datagram_vectors());
}

#[test]
fn datagrams_have_the_outcome_that_is_written() {
    let mut headers = 0;
    for line in lines("datagram.txt") {
        match line.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["header", _, wanted, bytes] => {
                assert_eq!(header(&hex(bytes)), *wanted, "{bytes}");
                headers += 1;
            }
            ["bind", key, _, wanted, bytes] => assert_eq!(bind(&hex(key), &hex(bytes)), *wanted, "{bytes}"),
            ["bound", key, _, wanted, bytes] => assert_eq!(bound(&hex(key), &hex(bytes)), *wanted, "{bytes}"),
            other => panic!("unknown line {other:?}"),
        }
    }
    assert!(headers > 10, "{headers}");
}

fn header(datagram: &[u8]) -> String {
    if Header::is_quic(datagram) {
        return "quic".to_owned();
    }
    let Some(header) = Header::parse(datagram) else { return "refused".to_owned() };
    assert_eq!(header.to_bytes(), datagram[..HEADER]);
    let Header { kind, ecn, slot, token } = header;
    format!("{kind:?}:{ecn}:{}:{}", slot.0, HEXLOWER.encode(&token))
}

fn bind(key: &[u8], datagram: &[u8]) -> String {
    let opened = open_bind(datagram, key.try_into().expect("32 bytes"));
    opened.map_or("refused".to_owned(), |counter| counter.to_string())
}

fn bound(key: &[u8], datagram: &[u8]) -> String {
    let opened = open_bound(datagram, key.try_into().expect("32 bytes"));
    opened.map_or("refused".to_owned(), |(counter, seen)| format!("{counter}:{seen}"))
}

fn datagram_vectors() -> String {
    let mut out = String::from(
        "# header NAME OUTCOME BYTES   outcome: KIND:ECN:SLOT:TOKEN, `quic` for a packet of the login connection, or `refused`\n\
         # bind KEY NAME OUTCOME BYTES   outcome: the counter, or `refused`\n\
         # bound KEY NAME OUTCOME BYTES   outcome: the counter and the address seen, or `refused`\n",
    );
    for (name, wanted, bytes) in headers() {
        writeln!(out, "header {name} {wanted} {}", HEXLOWER.encode(&bytes)).expect("memory");
    }
    let mut line = |format: &str, key: [u8; 32], name: &str, wanted: &str, bytes: &[u8]| {
        let (key, bytes) = (HEXLOWER.encode(&key), HEXLOWER.encode(bytes));
        writeln!(out, "{format} {key} {name} {wanted} {bytes}").expect("memory");
    };
    let datagram = bind_datagram(TOKEN, &KEY, COUNTER);
    line("bind", KEY, "good", &COUNTER.to_string(), &datagram);
    line("bind", KEY, "highest", &u64::MAX.to_string(), &bind_datagram(TOKEN, &KEY, u64::MAX));
    line("bind", [0xab; 32], "other-key", "refused", &datagram);
    for (name, bytes) in broken(&datagram, &[("kind", 0), ("token", 4), ("counter", 12), ("mac", 35)]) {
        line("bind", KEY, name, "refused", &bytes);
    }
    let v6 = "[2001:db8::1]:9";
    let datagram = bound_datagram(TOKEN, &KEY, COUNTER, v6.parse().expect("an address"));
    line("bound", KEY, "good", &format!("{COUNTER}:{v6}"), &datagram);
    let v4 = "203.0.113.7:4433";
    let mapped = bound_datagram(TOKEN, &KEY, 1, v4.parse().expect("an address"));
    line("bound", KEY, "mapped", &format!("1:{v4}"), &mapped);
    line("bound", [0xab; 32], "other-key", "refused", &datagram);
    for (name, bytes) in broken(&datagram, &[("counter", 12), ("address", 20), ("port", 36), ("mac", 53)]) {
        line("bound", KEY, name, "refused", &bytes);
    }
    line("bound", KEY, "bind", "refused", &bind_datagram(TOKEN, &KEY, COUNTER));
    line("bind", KEY, "bound", "refused", &datagram);
    out
}

fn headers() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let header = |kind, ecn, slot| Header { kind, ecn, slot: Slot(slot), token: TOKEN }.to_bytes().to_vec();
    let data = header(Kind::Data, 2, 513);
    let packet = [data.as_slice(), &[0x40, 1, 2, 3]].concat();
    vec![
        ("data", "Data:2:513:9999999999999999", packet),
        ("data-without-packet", "Data:2:513:9999999999999999", data.clone()),
        ("data-ecn", "Data:3:65535:9999999999999999", header(Kind::Data, 3, u16::MAX)),
        ("bind", "Bind:0:0:9999999999999999", header(Kind::Bind, 0, 0)),
        ("bound", "Bound:0:0:9999999999999999", header(Kind::Bound, 0, 0)),
        ("offline", "Offline:0:2:9999999999999999", header(Kind::Offline, 0, 2)),
        ("short", "refused", cut(data.clone())),
        ("kind-0", "refused", changed(data.clone(), 0, 0)),
        ("kind-5", "refused", changed(data.clone(), 0, 5)),
        ("kind-in-high-bits", "refused", changed(data.clone(), 0, 0x81)),
        ("ecn-4", "refused", changed(data.clone(), 1, 4)),
        ("short-packet-of-quic", "quic", changed(data.clone(), 0, 0x40)),
        ("long-packet-of-quic", "quic", changed(data, 0, 0xc3)),
    ]
}

/// A datagram cut, lengthened, and with a bit turned in each of its parts.
fn broken(datagram: &[u8; BIND_LEN], parts: &[(&'static str, usize)]) -> Vec<(&'static str, Vec<u8>)> {
    let turned =
        |&(name, place): &(&'static str, usize)| (name, changed(datagram.to_vec(), place, datagram[place] ^ 1));
    let lengths = [("cut", cut(datagram.to_vec())), ("longer", longer(datagram.to_vec()))];
    parts.iter().map(turned).chain(lengths).collect()
}
