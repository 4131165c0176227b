//! `ready.txt`: what two devices say to each other first.

use hearth_schemas::codec;
use hearth_schemas::ids::AccountId;
use hearth_schemas::ready::{MAX_READY, Ready, VERSION};
use hearth_schemas::relay::Head;

use crate::file::{Case, again, cases, cut, lines, longer, read_case, same_as_file};

#[test]
fn ready_frames_are_written_as_ever() {
    same_as_file("ready.txt", &ready_vectors());
}

#[test]
fn ready_frames_have_the_outcome_that_is_written() {
    for line in lines("ready.txt") {
        read_case(&line, |_, bytes| again(Ready::decode(bytes)));
    }
}

fn ready_vectors() -> String {
    let ready = |version, seq| Ready { version, account: AccountId([0x22; 32]), head: Head { seq, hash: [0x33; 32] } };
    let bytes = codec::encode(&ready(VERSION, 2));
    let mut padded = bytes.clone();
    padded.splice(..1, [0x81, 0x00]);
    let mut over = bytes.clone();
    over.splice(..1, [0xff, 0xff, 0x04]);
    let all = [
        Case::good("ready", "first-entry", &ready(VERSION, 0)),
        Case::good("ready", "third-entry", &ready(VERSION, 2)),
        Case::good("ready", "highest", &ready(u16::MAX, u64::MAX)),
        Case::bad("ready", "nothing", "Malformed", Vec::new()),
        Case::bad("ready", "cut", "Malformed", cut(bytes.clone())),
        Case::bad("ready", "longer", "NotCanonical", longer(bytes)),
        Case::bad("ready", "padded-version", "NotCanonical", padded),
        Case::bad("ready", "version-over-16-bits", "Malformed", over),
        Case::bad("ready", "too-long", "TooLong", vec![0; MAX_READY + 1]),
    ];
    cases("ready NAME OUTCOME BYTES…   outcome: good, whatever the version; or why it is refused", &all)
}
