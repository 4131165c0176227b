//! `pairing.txt`: pairing codes as typed, and the messages that pass through the relay's room.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use hearth_schemas::pairing::{Code, Message, decode_message, encode_message};

use crate::file::{hex, lines, same_as_file};

#[test]
fn pairing_messages_are_written_as_ever() {
    same_as_file("pairing.txt", &pairing_vectors());
}

#[test]
fn pairing_codes_and_messages_have_the_outcome_that_is_written() {
    for line in lines("pairing.txt") {
        match line.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["code", wanted, typed @ ..] => {
                let read = Code::parse(&typed.join(" ")).map(|code| code.to_string());
                assert_eq!(read.as_deref().unwrap_or("refused"), *wanted, "{typed:?}");
            }
            ["message", wanted, bytes] => assert_eq!(kind(&hex(bytes)), *wanted, "{bytes}"),
            other => panic!("unknown line {other:?}"),
        }
    }
}

fn pairing_vectors() -> String {
    let mut out = String::from(
        "# code OUTCOME TYPED…   outcome: the code as it is shown, or `refused`\n\
         # message OUTCOME BYTES   outcome: the kind of message, or `refused`\n",
    );
    for typed in [
        "7-abandon-ability-zoo",
        "7 Abandon ABILITY zoo",
        "007-abandon-ability-zoo",
        "4294967295-zoo-zoo-zoo",
        "4294967296-zoo-zoo-zoo",
        "abandon-ability-zoo",
        "7-abandon-ability",
        "7-abandon-ability-zoo-zoo",
        "7-abandon-hearth-zoo",
        "-7x-abandon-ability-zoo",
    ] {
        let read = Code::parse(typed).map(|code| code.to_string());
        writeln!(out, "code {} {typed}", read.as_deref().unwrap_or("refused")).expect("memory");
    }
    let mut messages: Vec<Vec<u8>> = [
        Message::Hello { version: 1, exchange: vec![0x41; 33] },
        Message::Answer { exchange: vec![0x42; 33] },
        Message::Confirm { mac: [0x43; 32] },
        Message::Sealed { bytes: vec![0x44; 48] },
        Message::Refused,
    ]
    .iter()
    .map(encode_message)
    .collect();
    let trailing = [messages[4].as_slice(), &[0]].concat();
    let cut = messages[0][..10].to_vec();
    messages.extend([trailing, cut, vec![5]]);
    for bytes in messages {
        writeln!(out, "message {} {}", kind(&bytes), HEXLOWER.encode(&bytes)).expect("memory");
    }
    out
}

fn kind(bytes: &[u8]) -> &'static str {
    match decode_message(bytes) {
        Ok(Message::Hello { .. }) => "hello",
        Ok(Message::Answer { .. }) => "answer",
        Ok(Message::Confirm { .. }) => "confirm",
        Ok(Message::Sealed { .. }) => "sealed",
        Ok(Message::Refused) => "refusal",
        Err(_) => "refused",
    }
}
