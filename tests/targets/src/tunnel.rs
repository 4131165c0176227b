//! Messages of a tunnel: taken apart as they come, put together as they go, and the queue in between.

use hearth_schemas::ids::Slot;
use hearth_schemas::relay::{HEADER, Header, Kind};
use hearth_schemas::tunnel::{MAX_DATAGRAM, MAX_MESSAGE, Waiting, put, split};

/// The first byte chooses between a message that came and datagrams that are to go.
pub fn run(bytes: &[u8]) {
    let Some((format, bytes)) = bytes.split_first() else { return };
    if format & 1 == 0 { message(bytes) } else { queue(bytes) }
}

/// What comes apart is what puts together the same message.
fn message(bytes: &[u8]) {
    let Ok(datagrams) = split(bytes) else { return };
    assert!(!bytes.is_empty() && bytes.len() <= MAX_MESSAGE);
    let mut again = Vec::new();
    for datagram in datagrams {
        assert!((1..=MAX_DATAGRAM).contains(&datagram.len()));
        assert!(put(&mut again, datagram));
    }
    assert_eq!(again, bytes);
}

/// Each byte is a step: a datagram of some length comes, time passes, or a message goes.
fn queue(bytes: &[u8]) {
    let mut waiting = Waiting::default();
    let mut sent: Vec<Vec<u8>> = Vec::new();
    let (mut now_ms, mut next) = (0, 0);
    for step in bytes {
        match step % 4 {
            0 => {
                let ecn = step >> 2 & 3;
                let header = Header { kind: Kind::Data, ecn, slot: Slot(5), token: [*step; 8] }.to_bytes();
                let datagram = [header.as_slice(), &vec![*step; usize::from(*step) * 6]].concat();
                let fits = datagram.len() <= MAX_DATAGRAM;
                if waiting.push(&datagram, now_ms) {
                    assert!(fits, "too long");
                    sent.push(datagram);
                }
                assert!(waiting.bytes() <= 1 << 20);
            }
            1 => now_ms += u64::from(step >> 2),
            _ => {
                let Some(message) = waiting.next_message(now_ms) else {
                    assert_eq!(waiting.bytes(), 0);
                    continue;
                };
                for datagram in split(&message).expect("well-formed") {
                    // In order, some of them dropped; but for a mark as they came.
                    next +=
                        sent[next..].iter().position(|one| one[HEADER..] == datagram[HEADER..]).expect("was put in")
                            + 1;
                    let (came, goes) = (sent[next - 1][1], datagram[1]);
                    assert!(came == goes || (came != 0 && goes == 3), "{came} became {goes}");
                }
            }
        }
    }
}
