//! `tunnel.txt`: messages of a tunnel, and the datagrams in them.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use hearth_schemas::tunnel::{MAX_DATAGRAM, put, split};

use crate::file::{cut, hex, lines, longer, same_as_file};

#[test]
fn messages_of_a_tunnel_are_written_as_ever() {
    same_as_file("tunnel.txt", &tunnel_vectors());
}

#[test]
fn messages_of_a_tunnel_have_the_outcome_that_is_written() {
    for line in lines("tunnel.txt") {
        match line.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["message", _, wanted, bytes] => assert_eq!(message(&hex(bytes)), *wanted, "{bytes}"),
            other => panic!("unknown line {other:?}"),
        }
    }
}

fn message(bytes: &[u8]) -> String {
    let Ok(datagrams) = split(bytes) else { return "refused".to_owned() };
    datagrams.map(|datagram| HEXLOWER.encode(datagram)).collect::<Vec<_>>().join(":")
}

fn tunnel_vectors() -> String {
    let mut out =
        String::from("# message NAME OUTCOME BYTES   outcome: the datagrams with a colon between them, or `refused`\n");
    let written = |datagrams: &[&[u8]]| {
        let mut message = Vec::new();
        assert!(datagrams.iter().all(|datagram| put(&mut message, datagram)));
        message
    };
    let one = written(&[&[0xc3, 1, 2]]);
    let longest = vec![7; MAX_DATAGRAM];
    let beyond = u16::try_from(MAX_DATAGRAM + 1).expect("short").to_le_bytes();
    let table = [
        ("one", one.clone()),
        ("three", written(&[&[0xc3, 1, 2], &[1], &[2, 0, 0]])),
        ("longest", written(&[&longest])),
        ("cut", cut(one.clone())),
        ("longer", longer(one)),
        ("empty-datagram", vec![0, 0]),
        ("big-endian", vec![0, 1, 9]),
        ("too-long-datagram", [beyond.as_slice(), &longest, &[7]].concat()),
    ];
    for (name, bytes) in table {
        writeln!(out, "message {name} {} {}", message(&bytes), HEXLOWER.encode(&bytes)).expect("memory");
    }
    out
}
