//! Who knows the code gets in, nobody else does, and nobody gets in anywhere else.

use hearth_schemas::keys::Phrase;
use hearth_schemas::log::Caps;
use hearth_schemas::relay::MAX_MESSAGE;

use super::*;
use crate::account::{self, Change, Newcomer};

const RELAY: &str = "hearth://relay.example:443";

#[test]
fn a_device_with_the_code_joins_the_account() {
    let mut world = World::new();
    let code = world.code(7);
    let (joined, invited) = world.run(&code, &code, |_, _, bytes| bytes);
    let joined = joined.expect("the code is right");
    assert_eq!(invited, Ok(world.newcomer.id()));
    assert_eq!(joined.account, world.change.account);
    assert!(joined.secrets == world.change.secrets);
    assert_eq!(joined.relays[0].to_string(), RELAY);
    let name = account::names(&joined.account, &joined.secrets).remove(&world.newcomer.id());
    assert_eq!(name.as_deref(), Some("laptop-2"));
}

#[test]
fn a_long_log_travels_in_pieces_that_the_relay_takes() {
    let mut world = World::new();
    for _ in 0..100 {
        let keys = DeviceKeys::random(&mut world.entropy);
        world.add(&keys.public(), "old");
    }
    let code = world.code(7);
    let mut pieces = 0;
    let (joined, _) = world.run(&code, &code, |from, _, bytes| {
        assert!(bytes.len() <= MAX_MESSAGE);
        pieces += usize::from(from == Side::Inviter);
        bytes
    });
    assert_eq!(joined.map(|joined| joined.account.head).ok(), Some(world.change.account.head));
    assert!(pieces > 4, "{pieces}");
}

#[test]
fn another_word_or_number_is_found_out_before_anything_is_said() {
    let mut world = World::new();
    let read = |text| Code::parse(text).unwrap_or_else(|error| panic!("{error}"));
    let code = read("7-abandon-ability-zoo");
    for other in ["7-abandon-ability-zone", "8-abandon-ability-zoo", "7-ability-abandon-zoo"] {
        let mut said = Vec::new();
        let (joined, invited) = world.run(&code, &read(other), |_, _, bytes| {
            said.push(decode_message(&bytes).expect("a message"));
            bytes
        });
        assert_eq!(joined.err(), Some(PairingError::WrongCode));
        assert_eq!(invited, Err((PairingError::WrongCode, None)));
        let shown = said.iter().any(|message| matches!(message, Message::Sealed { .. }));
        assert!(!shown, "{other}");
    }
}

#[test]
fn a_changed_message_never_ends_with_both_sides_content() {
    let mut world = World::new();
    let code = world.code(7);
    for (side, count) in [(Side::Joiner, 4), (Side::Inviter, 4)] {
        for position in 0..count {
            for place in [0.0, 0.3, 0.5, 0.99] {
                let before = world.change.clone();
                let (joined, invited) = world.run(&code, &code, |from, index, mut bytes| {
                    if from == side && index == position {
                        let byte = (bytes.len() as f64 * place) as usize;
                        bytes[byte] ^= 1;
                    }
                    bytes
                });
                world.change = before;
                assert!(joined.is_err() || invited.is_err(), "{position} {place}");
                let last = side == Side::Inviter && position == count - 1;
                assert!(joined.is_err(), "{position} {place}");
                assert!(last || invited.is_err(), "{position} {place}");
            }
        }
    }
}

#[test]
fn a_reflected_or_repeated_message_is_refused() {
    let mut world = World::new();
    let code = world.code(7);
    let mut joiner = Joiner::new(&code, world.newcomer.clone(), "x", &mut world.entropy);
    let Some(JoinerEffect::Send(hello)) = joiner.poll_effect() else { panic!("no hello") };
    let Ok(Message::Hello { exchange, .. }) = decode_message(&hello) else { panic!("no hello") };
    joiner.handle_message(&encode_message(&Message::Answer { exchange }), &mut world.entropy);
    joiner.poll_effect();
    assert!(matches!(joiner.poll_effect(), Some(JoinerEffect::Failed(PairingError::Malformed))));

    let (joined, _) = world.run(&code, &code, {
        let mut first = None;
        move |from, index, bytes| match (from, index) {
            (Side::Inviter, 2) => {
                first = Some(bytes.clone());
                bytes
            }
            (Side::Inviter, 3) => first.clone().expect("the third message came before"),
            (Side::Joiner | Side::Inviter, _) => bytes,
        }
    });
    assert_eq!(joined.err(), Some(PairingError::Malformed));
}

#[test]
fn every_other_version_is_refused() {
    let mut world = World::new();
    for version in (0..=u8::MAX).filter(|version| *version != VERSION) {
        let mut inviter = Inviter::new(world.code(7));
        let hello = Message::Hello { version, exchange: vec![0x41; 33] };
        inviter.handle_message(&encode_message(&hello), &mut world.entropy);
        assert_eq!(inviter.poll_effect(), Some(InviterEffect::Send(encode_message(&Message::Refused))));
        let failed = InviterEffect::Failed { error: PairingError::OtherVersion, enrolled: None };
        assert_eq!(inviter.poll_effect(), Some(failed));
    }
}

#[test]
fn keys_that_the_joiner_does_not_hold_are_not_enrolled() {
    let mut world = World::new();
    let other = DeviceKeys::random(&mut world.entropy);
    let mine = world.newcomer.public();
    let table = [
        PublicKeys { sign: other.public().sign, ..mine.clone() },
        PublicKeys { tls: other.public().tls, ..mine.clone() },
        PublicKeys { kem: other.public().kem, ..mine },
    ];
    for shown in table {
        let code = world.code(7);
        let (mut inviter, mut session) = world.confirmed(&code);
        // The signatures are over the keys that the joiner has, the keys shown are others.
        let joiner = Joiner::new(&code, world.newcomer.clone(), "x", &mut world.entropy);
        let Inner::Introduce { name, proof_sign, proof_tls, .. } = joiner.introduction(&session.transcript) else {
            panic!("no introduction")
        };
        let lie = Inner::Introduce { keys: shown, name, proof_sign, proof_tls };
        for piece in session.channel.seal(&lie, &mut world.entropy) {
            inviter.handle_message(&piece, &mut world.entropy);
        }
        inviter.poll_effect();
        let failed = InviterEffect::Failed { error: PairingError::NoPossession, enrolled: None };
        assert_eq!(inviter.poll_effect(), Some(failed));
    }
}

#[test]
fn an_account_without_this_device_or_with_other_secrets_is_not_joined() {
    let mut world = World::new();
    let other = World::seeded(50).change;
    let own = world.change.clone();
    let with_us = {
        let keys = world.newcomer.public();
        world.add(&keys, "new");
        world.change.clone()
    };
    let mut other_secrets = with_us.clone();
    other_secrets.secrets = other.secrets.clone();
    for told in [other, own, other_secrets] {
        let code = world.code(7);
        let mut joiner = Joiner::new(&code, world.newcomer.clone(), "x", &mut world.entropy);
        let mut inviter = Inviter::new(code);
        let mut failed = None;
        while let Some(effect) = joiner.poll_effect() {
            match effect {
                JoinerEffect::Send(bytes) => inviter.handle_message(&bytes, &mut world.entropy),
                JoinerEffect::Joined(_) => panic!("joined"),
                JoinerEffect::Failed(error) => failed = Some(error),
            }
            while let Some(effect) = inviter.poll_effect() {
                match effect {
                    InviterEffect::Send(bytes) => joiner.handle_message(&bytes, &mut world.entropy),
                    InviterEffect::Enrol { .. } => {
                        inviter.handle_enrolled(&told.account, &told.secrets, &[], &mut world.entropy);
                    }
                    InviterEffect::Done { .. } | InviterEffect::Failed { .. } => {}
                }
            }
        }
        assert_eq!(failed, Some(PairingError::BadAccount));
    }
}

#[test]
fn the_joiner_learns_why_it_was_not_added() {
    let mut world = World::new();
    let code = world.code(7);
    let (mut inviter, mut session) = world.confirmed(&code);
    let joiner = Joiner::new(&code, world.newcomer.clone(), "x", &mut world.entropy);
    let introduction = joiner.introduction(&session.transcript);
    for piece in session.channel.seal(&introduction, &mut world.entropy) {
        inviter.handle_message(&piece, &mut world.entropy);
    }
    assert!(matches!(inviter.poll_effect(), Some(InviterEffect::Enrol { .. })));
    inviter.handle_message(b"noise while it is being added", &mut world.entropy);
    inviter.handle_not_enrolled("the relay is\x1b[2J away", &mut world.entropy);
    let Some(InviterEffect::Send(bytes)) = inviter.poll_effect() else { panic!("nothing said") };
    let Ok(Message::Sealed { bytes }) = decode_message(&bytes) else { panic!("not sealed") };
    let told = session.channel.open(&bytes);
    assert_eq!(told, Ok(Some(Inner::NotEnrolled { reason: "the relay is [2J away".to_owned() })));
}

#[test]
fn of_ten_thousand_guesses_three_reach_the_exchange() {
    let mut world = World::new();
    let mut invitation = Invitation::new(7, 0, &mut world.entropy);
    let reached = (0..10_000).filter(|_| invitation.begin(1).is_ok()).count();
    assert_eq!(reached, 3);
    assert_eq!(invitation.begin(1).err(), Some(PairingError::CodeOver));
}

#[test]
fn a_code_ends_after_ten_minutes() {
    let mut world = World::new();
    let mut invitation = Invitation::new(7, 5, &mut world.entropy);
    assert_eq!(invitation.until_ms(), 600_005);
    assert_eq!(invitation.tries_left(600_004), 3);
    assert_eq!(invitation.begin(600_005).err(), Some(PairingError::CodeOver));
    assert!(invitation.begin(600_004).is_ok());
}

type Random = Box<dyn FnMut(&mut [u8])>;
type Outcome = (Result<Box<Joined>, PairingError>, Result<DeviceId, (PairingError, Option<DeviceId>)>);

/// An account with a laptop, a device that wants in, and entropy that never repeats.
struct World {
    laptop: DeviceKeys,
    newcomer: DeviceKeys,
    change: Change,
    entropy: Random,
}

impl World {
    fn new() -> Self {
        Self::seeded(0)
    }

    fn seeded(seed: u64) -> Self {
        let mut entropy: Random = Box::new(counting(seed));
        let laptop = DeviceKeys::random(&mut entropy);
        let newcomer = DeviceKeys::random(&mut entropy);
        let phrase = Phrase::random(&mut entropy);
        let change = account::create(&phrase, &laptop, "laptop", 1, &mut entropy).expect("a good account");
        Self { laptop, newcomer, change, entropy }
    }

    fn code(&mut self, number: u32) -> Code {
        Code::random(number, &mut self.entropy)
    }

    fn add(&mut self, keys: &PublicKeys, wish: &str) {
        let newcomer = Newcomer { keys, wish, caps: Caps::ALL };
        let Change { account, secrets, .. } = &self.change;
        self.change = account::add_device(account, secrets, &self.laptop, &newcomer, 2, &mut self.entropy)
            .expect("a good device");
    }

    /// Runs both sides to the end. The relay in between may change each message: it sees which side sent it, and as
    /// that side's how manieth.
    fn run(&mut self, shown: &Code, typed: &Code, mut relay: impl FnMut(Side, usize, Vec<u8>) -> Vec<u8>) -> Outcome {
        let mut joiner = Joiner::new(typed, self.newcomer.clone(), "laptop", &mut self.entropy);
        let mut inviter = Inviter::new(shown.clone());
        let (mut joined, mut invited) = (Err(PairingError::Disagreed), Err((PairingError::Disagreed, None)));
        let (mut by_joiner, mut by_inviter) = (0, 0);
        loop {
            if let Some(effect) = joiner.poll_effect() {
                match effect {
                    JoinerEffect::Send(bytes) => {
                        let bytes = relay(Side::Joiner, by_joiner, bytes);
                        by_joiner += 1;
                        inviter.handle_message(&bytes, &mut self.entropy);
                    }
                    JoinerEffect::Joined(account) => joined = Ok(account),
                    JoinerEffect::Failed(error) => joined = Err(error),
                }
            } else if let Some(effect) = inviter.poll_effect() {
                match effect {
                    InviterEffect::Send(bytes) => {
                        let bytes = relay(Side::Inviter, by_inviter, bytes);
                        by_inviter += 1;
                        joiner.handle_message(&bytes, &mut self.entropy);
                    }
                    InviterEffect::Enrol { keys, name } => {
                        self.add(&keys, &name);
                        let relays = [RelayAddress::parse(RELAY).expect("an address")];
                        let Change { account, secrets, .. } = &self.change;
                        inviter.handle_enrolled(account, secrets, &relays, &mut self.entropy);
                    }
                    InviterEffect::Done { device } => invited = Ok(device),
                    InviterEffect::Failed { error, enrolled } => invited = Err((error, enrolled)),
                }
            } else {
                return (joined, invited);
            }
        }
    }

    /// An inviter that has confirmed the code, and the joining side's keys of the same exchange.
    fn confirmed(&mut self, code: &Code) -> (Inviter, Session) {
        let mut inviter = Inviter::new(code.clone());
        let exchange = Exchange::start(Side::Joiner, code, &mut self.entropy);
        let hello = Message::Hello { version: VERSION, exchange: exchange.own().to_vec() };
        inviter.handle_message(&encode_message(&hello), &mut self.entropy);
        let Some(InviterEffect::Send(answer)) = inviter.poll_effect() else { panic!("no answer") };
        let Ok(Message::Answer { exchange: theirs }) = decode_message(&answer) else { panic!("no answer") };
        let session = exchange.finish(&theirs).expect("a good half");
        inviter.handle_message(&encode_message(&Message::Confirm { mac: session.own_mac }), &mut self.entropy);
        let Some(InviterEffect::Send(confirm)) = inviter.poll_effect() else { panic!("not confirmed") };
        let Ok(Message::Confirm { mac }) = decode_message(&confirm) else { panic!("not confirmed") };
        assert!(session.is_confirmed_by(mac));
        (inviter, session)
    }
}

fn counting(seed: u64) -> impl FnMut(&mut [u8]) {
    let mut counter = seed << 32;
    move |bytes: &mut [u8]| {
        for chunk in bytes.chunks_mut(32) {
            counter += 1;
            chunk.copy_from_slice(&blake3::hash(&counter.to_le_bytes()).as_bytes()[..chunk.len()]);
        }
    }
}
