//! The pairing room: messages and what is sealed in them, and two devices between which anybody may put anything.

use arbitrary::{Result, Unstructured};
use hearth_schemas::codec;
use hearth_schemas::keys::{DEVICE_KEYS, DeviceKeys};
use hearth_schemas::pairing::{Inner, MAX_INNER, Message, Piece, WelcomeSecrets, decode_message};
use hearth_schemas::relay::MAX_MESSAGE;
use syncd_core::pairing::{Invitation, Inviter, InviterEffect, Joiner, JoinerEffect};

use crate::{counting, decodes};

/// The first byte chooses the format, or an exchange.
pub fn run(bytes: &[u8]) {
    let Some((format, rest)) = bytes.split_first() else { return };
    match format % 6 {
        0 => assert_eq!(decode_message(rest).ok(), decodes::<Message>(rest, MAX_MESSAGE)),
        1 => drop(decodes::<Piece>(rest, MAX_MESSAGE)),
        2 => drop(decodes::<Inner>(rest, MAX_INNER)),
        3 => {
            // Secret, so without `Debug`.
            if let Ok(secrets) = codec::decode::<WelcomeSecrets>(rest, MAX_MESSAGE) {
                assert!(codec::encode(&secrets) == rest);
            }
        }
        _ => drop(exchange(&mut Unstructured::new(rest))),
    }
}

/// Messages from one side that are yet to reach the other.
type Room = Vec<Vec<u8>>;

/// The relay passes on, alters, repeats, leaves out and makes up. Whatever comes of it, nobody is
/// enrolled but the joiner with its own keys.
fn exchange(u: &mut Unstructured<'_>) -> Result<()> {
    let entropy = &mut counting();
    let mut invitation = Invitation::new(7, 0, entropy);
    let keys = DeviceKeys::from_bytes(&[9; DEVICE_KEYS]);
    let mut joiner = Joiner::new(invitation.code(), keys.clone(), "laptop", entropy);
    let mut inviter = invitation.begin(0).expect("the first try");
    assert_eq!(invitation.tries_left(0), 2);
    let (mut to_inviter, mut to_joiner, mut log) = (Room::new(), Room::new(), Room::new());
    for _ in 0..12 {
        let enrols = poll(&mut inviter, &mut to_joiner);
        poll_joiner(&mut joiner, &mut to_inviter);
        if let Some(enrolled) = enrols {
            assert_eq!(enrolled, keys.public(), "somebody else is enrolled");
            inviter.handle_not_enrolled(&u.arbitrary::<String>()?, entropy);
            continue;
        }
        let towards_inviter: bool = u.arbitrary()?;
        let room = if towards_inviter { &mut to_inviter } else { &mut to_joiner };
        let mut bytes = if room.is_empty() { None } else { Some(room.remove(0)) };
        match u.int_in_range(0..=15u8)? {
            0 => {
                let made: Message = made_up(u)?;
                bytes = Some(codec::encode(&made));
            }
            1 => bytes = Some(u.arbitrary()?),
            2 if !log.is_empty() => bytes = Some(u.choose(&log)?.clone()),
            3 => bytes = None,
            4 => {
                if let Some(bytes) = bytes.as_mut().filter(|bytes| !bytes.is_empty()) {
                    let at = u.choose_index(bytes.len())?;
                    bytes[at] ^= 1 << u.int_in_range(0..=7)?;
                }
            }
            _ => {}
        }
        let Some(bytes) = bytes else { continue };
        log.push(bytes.clone());
        if towards_inviter { inviter.handle_message(&bytes, entropy) } else { joiner.handle_message(&bytes, entropy) }
    }
    Ok(())
}

fn made_up(u: &mut Unstructured<'_>) -> Result<Message> {
    Ok(match u.int_in_range(0..=4u8)? {
        0 => Message::Hello { version: u.int_in_range(0..=2)?, exchange: u.arbitrary()? },
        1 => Message::Answer { exchange: u.arbitrary()? },
        2 => Message::Confirm { mac: u.arbitrary()? },
        3 => Message::Sealed { bytes: u.arbitrary()? },
        _ => Message::Refused,
    })
}

/// Takes what the inviter sends; gives whom it enrols.
fn poll(inviter: &mut Inviter, room: &mut Room) -> Option<hearth_schemas::log::PublicKeys> {
    let mut enrols = None;
    while let Some(effect) = inviter.poll_effect() {
        match effect {
            InviterEffect::Send(bytes) => {
                assert!(bytes.len() <= MAX_MESSAGE);
                room.push(bytes);
            }
            InviterEffect::Enrol { keys, .. } => enrols = Some(keys),
            InviterEffect::Done { .. } => panic!("nobody is ever enrolled here"),
            InviterEffect::Failed { enrolled, .. } => assert_eq!(enrolled, None),
        }
    }
    enrols
}

fn poll_joiner(joiner: &mut Joiner, room: &mut Room) {
    while let Some(effect) = joiner.poll_effect() {
        match effect {
            JoinerEffect::Send(bytes) => room.push(bytes),
            JoinerEffect::Joined(_) => panic!("nobody is ever enrolled here"),
            JoinerEffect::Failed(_) => {}
        }
    }
}
