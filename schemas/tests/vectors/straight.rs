//! `straight.txt`: probes, and signals that tell addresses, under their keys.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use ed25519_dalek::SigningKey;
use hearth_schemas::ids::{AccountId, DeviceId, Slot};
use hearth_schemas::keys::Secret;
use hearth_schemas::probe::{self, FULL, Probe, SHORT};
use hearth_schemas::relay::Head;
use hearth_schemas::signal::{Between, Signal, SignalError};

use crate::file::{bytes, changed, cut, lines, longer, same_as_file};

const BETWEEN: Between = Between { account: AccountId([1; 32]), epoch: 2, from: Slot(3), to: Slot(4) };

#[test]
fn probes_and_signals_are_written_as_ever() {
    let mut out = String::from(
        "# probe NAME OUTCOME BYTES   under the key of the devices 01.. and 02.. in an epoch whose signalling key is 07..;\n\
         # outcome: SLOT:ping or pong:NUMBER, or `refused`\n\
         # signal NAME OUTCOME BYTES   by slot 3 to slot 4 of the account 01.. in epoch 2 under 07.., signed by the key of seed 08..;\n\
         # outcome: COUNTER:ask or reply:CANDIDATES, or why it is refused\n",
    );
    let mut line = |format: &str, name: &str, wanted: &str, bytes: &[u8]| {
        writeln!(out, "{format} {name} {wanted} {}", HEXLOWER.encode(bytes)).expect("memory");
    };
    let number = 0x0102_0304_0506_0708;
    let short = |pong| Probe { pong, number, full: false }.seal(Slot(513), 0x109, &pair_key(), &mut fill);
    let full = Probe { pong: false, number, full: true }.seal(Slot(1), 1, &pair_key(), &mut fill);
    line("probe", "ping", "513:ping:72623859790382856", &short(false));
    line("probe", "pong", "513:pong:72623859790382856", &short(true));
    line("probe", "full-ping", "1:ping:72623859790382856", &full);
    line("probe", "other-slot", "refused", &changed(short(false), 2, 2));
    line("probe", "other-epoch", "refused", &changed(short(false), 1, 8));
    line("probe", "other-kind", "refused", &changed(short(false), 0, 4));
    line("probe", "changed", "refused", &changed(short(false), SHORT - 1, 0));
    line("probe", "cut", "refused", &cut(short(false)));
    line("probe", "longer", "refused", &longer(full));

    let candidates = |count: u8| -> Vec<_> {
        let place = |n: u8| if n.is_multiple_of(2) { format!("192.0.2.{n}:7") } else { format!("[2001:db8::{n}]:7") };
        (0..count).map(|n| place(n).parse().expect("an address")).collect()
    };
    let signal = |reply, count| {
        let head = Head { seq: 5, hash: [9; 32] };
        let signal = Signal { counter: 6, head, reply, candidates: candidates(count) };
        signal.seal(&BETWEEN, &signal_key(), &SigningKey::from_bytes(&[8; 32]), &mut fill)
    };
    line("signal", "none", "6:ask:", &signal(false, 0));
    line("signal", "two", "6:reply:192.0.2.0:7,[2001:db8::1]:7", &signal(true, 2));
    let ten: Vec<String> = candidates(10).iter().map(ToString::to_string).collect();
    line("signal", "ten", &format!("6:ask:{}", ten.join(",")), &signal(false, 10));
    line("signal", "changed", "not-opened", &changed(signal(false, 2), 40, 0));
    line("signal", "cut", "not-opened", &cut(signal(false, 2)));
    let other = Signal { counter: 6, head: Head { seq: 5, hash: [9; 32] }, reply: false, candidates: vec![] };
    let forged = other.seal(&BETWEEN, &signal_key(), &SigningKey::from_bytes(&[9; 32]), &mut fill);
    line("signal", "of-another-device", "bad-signature", &forged);
    let elsewhere = Between { to: Slot(5), ..BETWEEN };
    let stray = other.seal(&elsewhere, &signal_key(), &SigningKey::from_bytes(&[8; 32]), &mut fill);
    line("signal", "to-another-device", "not-opened", &stray);
    same_as_file("straight.txt", &out);
}

#[test]
fn probes_and_signals_have_the_outcome_that_is_written() {
    let mut count = 0;
    for line in lines("straight.txt") {
        let [format, name, wanted, words @ ..] = line.as_slice() else { panic!("unknown line {line:?}") };
        let bytes = bytes(words);
        let outcome = match format.as_str() {
            "probe" => read_probe(&bytes),
            "signal" => read_signal(&bytes),
            other => panic!("unknown format {other}"),
        };
        assert_eq!(outcome, *wanted, "{format} {name}");
        count += 1;
    }
    assert!(count > 12, "{count}");
}

fn read_probe(datagram: &[u8]) -> String {
    let Some((slot, _)) = probe::sender(datagram) else { return "refused".to_owned() };
    match Probe::open(datagram, &pair_key()) {
        Some(Probe { pong, number, full }) => {
            assert_eq!(full, datagram.len() == FULL);
            format!("{}:{}:{number}", slot.0, if pong { "pong" } else { "ping" })
        }
        None => "refused".to_owned(),
    }
}

fn read_signal(sealed: &[u8]) -> String {
    let public = SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes();
    match Signal::open(sealed, &BETWEEN, &signal_key(), &public) {
        Ok(signal) => {
            let candidates: Vec<String> = signal.candidates.iter().map(ToString::to_string).collect();
            format!("{}:{}:{}", signal.counter, if signal.reply { "reply" } else { "ask" }, candidates.join(","))
        }
        Err(SignalError::NotOpened(_)) => "not-opened".to_owned(),
        Err(SignalError::BadSignature) => "bad-signature".to_owned(),
        Err(SignalError::Malformed(_)) => "malformed".to_owned(),
        Err(SignalError::TooMany) => "too-many".to_owned(),
    }
}

fn signal_key() -> Secret {
    Secret::from_bytes([7; 32])
}

fn pair_key() -> Secret {
    probe::pair_key(&signal_key(), DeviceId([1; 32]), DeviceId([2; 32]))
}

/// Random bytes that are the same each time.
fn fill(out: &mut [u8]) {
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = u8::try_from(at % 251).expect("small");
    }
}
