//! Two devices come to trust each other over a relay that neither trusts.
//!
//! ```text
//! joiner                                                     inviter
//!   ── Hello(exchange) ─────────────────────────────────────►
//!   ◄───────────────────────────────────── Answer(exchange) ──
//!   ── Confirm ─────────────────────────────────────────────►   wrong: Refused, one try less
//!   ◄────────────────────────────────────────────── Confirm ──
//!   ── keys, proof that it holds them, wished name ──────────►   Enrol: sign AddDevice, append
//!   ◄────────── account, root, log, head, relays, secrets ──
//!   ── agreed ──────────────────────────────────────────────►   Done
//!   ◄─────────────────────────────────────────────── agreed ──   Joined
//! ```
//!
//! [`Inviter`] and [`Joiner`] are driven alike: messages in, effects out, randomness from the caller. The room at the
//! relay, appending to the log and deadlines are left to the daemon; [`Invitation`] counts tries and time on the
//! inviter's side, because the relay's count is the relay's word.

mod channel;

use std::collections::VecDeque;

use hearth_schemas::address::RelayAddress;
use hearth_schemas::codec;
use hearth_schemas::ids::{AccountId, DeviceId};
use hearth_schemas::keys::{self, DeviceKeys};
use hearth_schemas::label;
use hearth_schemas::log::{Account, PublicKeys, account_id, device_id};
use hearth_schemas::pairing::{
    Code, Inner, Message, VERSION, Welcome, WelcomeSecrets, decode_message, encode_message, outcome, possession,
};
use hearth_schemas::relay::{PAIRING_SECONDS, PAIRING_TRIES};
use hearth_schemas::seal::{self, Entropy, SealedTo};
use zeroize::Zeroizing;

use crate::account::Secrets;
use channel::{Channel, Exchange, Session, Side};

/// Longest reason that one side tells the other, in bytes.
const MAX_REASON: usize = 300;
/// Longest wished name, in bytes, before it is made into a valid one.
const MAX_WISH: usize = 1024;
/// Most relays of an account.
const MAX_RELAYS: usize = 16;

/// Why two devices did not come together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PairingError {
    /// The words differ, or somebody stands between.
    #[error("the code did not match")]
    WrongCode,
    /// The other side speaks another version.
    #[error("the other machine speaks another version of the pairing")]
    OtherVersion,
    /// The other side sent nonsense.
    #[error("the other machine sent something that makes no sense")]
    Malformed,
    /// The joiner does not hold the keys that it shows.
    #[error("the other machine does not hold the keys that it shows")]
    NoPossession,
    /// The inviter did not add the device.
    #[error("the other machine did not add this one: {0}")]
    NotEnrolled(String),
    /// What the inviter sent is not an account with this device in it.
    #[error("the other machine sent an account that does not hold together")]
    BadAccount,
    /// The sides saw different things happen.
    #[error("the two machines do not agree on what happened")]
    Disagreed,
    /// The code is used up or too old.
    #[error("the code is used up or too old")]
    CodeOver,
}

/// A code that is good for a while, and for a few tries.
pub struct Invitation {
    code: Code,
    tries_left: u32,
    until_ms: u64,
}

impl Invitation {
    /// Makes a code for a room of the relay.
    pub fn new(number: u32, now_ms: u64, entropy: Entropy<'_>) -> Self {
        let code = Code::random(number, entropy);
        Self { code, tries_left: PAIRING_TRIES, until_ms: now_ms + PAIRING_SECONDS * 1000 }
    }

    /// The code, to be shown.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// When the code ends, in the caller's milliseconds.
    pub fn until_ms(&self) -> u64 {
        self.until_ms
    }

    /// How many joiners may still try it.
    pub fn tries_left(&self, now_ms: u64) -> u32 {
        if now_ms < self.until_ms { self.tries_left } else { 0 }
    }

    /// Begins with one joiner, which uses up a try whatever comes of it. Drop the invitation once one has joined.
    pub fn begin(&mut self, now_ms: u64) -> Result<Inviter, PairingError> {
        if self.tries_left(now_ms) == 0 {
            return Err(PairingError::CodeOver);
        }
        self.tries_left -= 1;
        Ok(Inviter::new(self.code.clone()))
    }
}

/// What the inviter's driver has to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InviterEffect {
    /// Send this to the room.
    Send(Vec<u8>),
    /// Add this device to the log, then report by [`Inviter::handle_enrolled`] or [`Inviter::handle_not_enrolled`].
    Enrol {
        /// Its public keys.
        keys: PublicKeys,
        /// The name it would like; not yet a valid one.
        name: String,
    },
    /// Both sides agree; the device is in.
    Done {
        /// The device.
        device: DeviceId,
    },
    /// It ends here. If the device was enrolled by then, it is in the log but may not know.
    Failed {
        /// Why.
        error: PairingError,
        /// The device, if it was enrolled.
        enrolled: Option<DeviceId>,
    },
}

/// The enrolled side of one try.
pub struct Inviter {
    code: Code,
    state: InviterState,
    effects: VecDeque<InviterEffect>,
}

enum InviterState {
    Waiting,
    Confirming(Session),
    Introducing([u8; 32], Channel),
    Enrolling([u8; 32], Channel, PublicKeys),
    Agreeing(Channel, DeviceId, [u8; 32]),
    Over,
}

impl Inviter {
    fn new(code: Code) -> Self {
        Self { code, state: InviterState::Waiting, effects: VecDeque::new() }
    }

    /// Takes a message from the room. While the device is being added none is due, and none is listened to.
    pub fn handle_message(&mut self, bytes: &[u8], entropy: Entropy<'_>) {
        if matches!(self.state, InviterState::Enrolling(..)) {
            return;
        }
        let enrolled = match &self.state {
            InviterState::Agreeing(_, device, _) => Some(*device),
            InviterState::Waiting
            | InviterState::Confirming(_)
            | InviterState::Introducing(..)
            | InviterState::Enrolling(..)
            | InviterState::Over => None,
        };
        match self.step(bytes, entropy) {
            Ok(state) => self.state = state,
            Err(error) => {
                self.send(&Message::Refused);
                self.effects.push_back(InviterEffect::Failed { error, enrolled });
            }
        }
    }

    /// Takes in that the device is in the log: tells it the account. `account` holds its AddDevice entry.
    pub fn handle_enrolled(
        &mut self,
        account: &Account,
        secrets: &Secrets,
        relays: &[RelayAddress],
        entropy: Entropy<'_>,
    ) {
        let InviterState::Enrolling(transcript, mut channel, keys) = self.take() else { return };
        let device = device_id(&keys.sign);
        let plain = Zeroizing::new(codec::encode(&secrets.export()));
        let place = secrets_place(&transcript, account.id);
        let info = label::PAIR_SECRETS.as_bytes();
        let Ok(sealed) = seal::seal_to(&keys.kem, info, &place, &plain, &mut *entropy) else {
            self.effects.push_back(InviterEffect::Failed { error: PairingError::Malformed, enrolled: Some(device) });
            return;
        };
        let welcome = Welcome {
            account: account.id,
            root: account.root,
            entries: account.entries().to_vec(),
            head: account.head,
            relays: relays.iter().map(ToString::to_string).collect(),
            secrets: sealed,
        };
        let pieces = channel.seal(&Inner::Welcome(Box::new(welcome)), entropy);
        self.effects.extend(pieces.into_iter().map(InviterEffect::Send));
        let outcome = outcome(self.code.number(), &keys, account.id, &account.head);
        self.state = InviterState::Agreeing(channel, device, outcome);
    }

    /// Takes in that the device could not be added, and tells it why.
    pub fn handle_not_enrolled(&mut self, reason: &str, entropy: Entropy<'_>) {
        let InviterState::Enrolling(_, mut channel, _) = self.take() else { return };
        let reason = plain_reason(reason);
        let pieces = channel.seal(&Inner::NotEnrolled { reason: reason.clone() }, entropy);
        self.effects.extend(pieces.into_iter().map(InviterEffect::Send));
        self.effects.push_back(InviterEffect::Failed { error: PairingError::NotEnrolled(reason), enrolled: None });
    }

    /// What to do next.
    pub fn poll_effect(&mut self) -> Option<InviterEffect> {
        self.effects.pop_front()
    }

    fn step(&mut self, bytes: &[u8], entropy: Entropy<'_>) -> Result<InviterState, PairingError> {
        let state = self.take();
        if matches!(state, InviterState::Over) {
            return Ok(state);
        }
        let message = decode_message(bytes).map_err(|_| PairingError::Malformed)?;
        match (state, message) {
            (InviterState::Waiting, Message::Hello { version, exchange }) => {
                if version != VERSION {
                    return Err(PairingError::OtherVersion);
                }
                let own = Exchange::start(Side::Inviter, &self.code, entropy);
                let answer = Message::Answer { exchange: own.own().to_vec() };
                let session = own.finish(&exchange)?;
                self.send(&answer);
                Ok(InviterState::Confirming(session))
            }
            (InviterState::Confirming(session), Message::Confirm { mac }) => {
                if !session.is_confirmed_by(mac) {
                    return Err(PairingError::WrongCode);
                }
                self.send(&Message::Confirm { mac: session.own_mac });
                Ok(InviterState::Introducing(session.transcript, session.channel))
            }
            (InviterState::Introducing(transcript, mut channel), Message::Sealed { bytes }) => {
                match channel.open(&bytes)? {
                    None => Ok(InviterState::Introducing(transcript, channel)),
                    Some(Inner::Introduce { keys, name, proof_sign, proof_tls }) => {
                        let shown = possession(&transcript, &keys);
                        let holds_sign = keys::verify(&keys.sign, &shown, &proof_sign);
                        if !holds_sign || !keys::verify(&keys.tls, &shown, &proof_tls) {
                            return Err(PairingError::NoPossession);
                        }
                        if name.len() > MAX_WISH || !seal::is_kem_key(&keys.kem) {
                            return Err(PairingError::Malformed);
                        }
                        self.effects.push_back(InviterEffect::Enrol { keys: keys.clone(), name });
                        Ok(InviterState::Enrolling(transcript, channel, keys))
                    }
                    Some(Inner::Welcome(_) | Inner::NotEnrolled { .. } | Inner::Agreed { .. }) => {
                        Err(PairingError::Malformed)
                    }
                }
            }
            (InviterState::Agreeing(mut channel, device, expected), Message::Sealed { bytes }) => {
                match channel.open(&bytes)? {
                    None => Ok(InviterState::Agreeing(channel, device, expected)),
                    Some(Inner::Agreed { outcome }) if outcome == expected => {
                        let pieces = channel.seal(&Inner::Agreed { outcome }, entropy);
                        self.effects.extend(pieces.into_iter().map(InviterEffect::Send));
                        self.effects.push_back(InviterEffect::Done { device });
                        Ok(InviterState::Over)
                    }
                    Some(Inner::Agreed { .. }) => Err(PairingError::Disagreed),
                    Some(Inner::Introduce { .. } | Inner::Welcome(_) | Inner::NotEnrolled { .. }) => {
                        Err(PairingError::Malformed)
                    }
                }
            }
            (InviterState::Agreeing(..), Message::Refused) => Err(PairingError::Disagreed),
            (
                InviterState::Waiting
                | InviterState::Confirming(_)
                | InviterState::Introducing(..)
                | InviterState::Enrolling(..)
                | InviterState::Agreeing(..)
                | InviterState::Over,
                Message::Hello { .. }
                | Message::Answer { .. }
                | Message::Confirm { .. }
                | Message::Sealed { .. }
                | Message::Refused,
            ) => Err(PairingError::Malformed),
        }
    }

    fn take(&mut self) -> InviterState {
        std::mem::replace(&mut self.state, InviterState::Over)
    }

    fn send(&mut self, message: &Message) {
        self.effects.push_back(InviterEffect::Send(encode_message(message)));
    }
}

/// What the joiner's driver has to do.
pub enum JoinerEffect {
    /// Send this to the room.
    Send(Vec<u8>),
    /// Both sides agree; this device is in.
    Joined(Box<Joined>),
    /// It ends here.
    Failed(PairingError),
}

/// The account that a device has joined.
pub struct Joined {
    /// The account, this device in it.
    pub account: Account,
    /// Its secrets.
    pub secrets: Secrets,
    /// Its relays, with pinned keys.
    pub relays: Vec<RelayAddress>,
}

/// The joining side.
pub struct Joiner {
    number: u32,
    keys: DeviceKeys,
    name: String,
    state: JoinerState,
    effects: VecDeque<JoinerEffect>,
}

enum JoinerState {
    Answering(Exchange),
    Confirming(Session),
    Introduced([u8; 32], Channel),
    Agreeing(Channel, [u8; 32], Box<Joined>),
    Over,
}

impl Joiner {
    /// Begins. `keys` were made for this device and are in no account; `name` is the one it would like.
    pub fn new(code: &Code, keys: DeviceKeys, name: &str, entropy: Entropy<'_>) -> Self {
        let exchange = Exchange::start(Side::Joiner, code, entropy);
        let hello = Message::Hello { version: VERSION, exchange: exchange.own().to_vec() };
        let effects = VecDeque::from([JoinerEffect::Send(encode_message(&hello))]);
        let name = keys::name::truncate(name, MAX_WISH).to_owned();
        Self { number: code.number(), keys, name, state: JoinerState::Answering(exchange), effects }
    }

    /// Takes a message from the room.
    pub fn handle_message(&mut self, bytes: &[u8], entropy: Entropy<'_>) {
        match self.step(bytes, entropy) {
            Ok(state) => self.state = state,
            Err(error) => {
                self.send(&Message::Refused);
                self.effects.push_back(JoinerEffect::Failed(error));
            }
        }
    }

    /// What to do next.
    pub fn poll_effect(&mut self) -> Option<JoinerEffect> {
        self.effects.pop_front()
    }

    fn step(&mut self, bytes: &[u8], entropy: Entropy<'_>) -> Result<JoinerState, PairingError> {
        let state = std::mem::replace(&mut self.state, JoinerState::Over);
        if matches!(state, JoinerState::Over) {
            return Ok(state);
        }
        let message = decode_message(bytes).map_err(|_| PairingError::Malformed)?;
        match (state, message) {
            (JoinerState::Answering(exchange), Message::Answer { exchange: theirs }) => {
                let session = exchange.finish(&theirs)?;
                self.send(&Message::Confirm { mac: session.own_mac });
                Ok(JoinerState::Confirming(session))
            }
            (JoinerState::Confirming(mut session), Message::Confirm { mac }) => {
                if !session.is_confirmed_by(mac) {
                    return Err(PairingError::WrongCode);
                }
                let introduction = self.introduction(&session.transcript);
                let pieces = session.channel.seal(&introduction, entropy);
                self.effects.extend(pieces.into_iter().map(JoinerEffect::Send));
                Ok(JoinerState::Introduced(session.transcript, session.channel))
            }
            (JoinerState::Introduced(transcript, mut channel), Message::Sealed { bytes }) => {
                match channel.open(&bytes)? {
                    None => Ok(JoinerState::Introduced(transcript, channel)),
                    Some(Inner::Welcome(welcome)) => {
                        let joined = self.checked(&transcript, &welcome)?;
                        let keys = self.keys.public();
                        let outcome = outcome(self.number, &keys, joined.account.id, &joined.account.head);
                        let pieces = channel.seal(&Inner::Agreed { outcome }, entropy);
                        self.effects.extend(pieces.into_iter().map(JoinerEffect::Send));
                        Ok(JoinerState::Agreeing(channel, outcome, Box::new(joined)))
                    }
                    Some(Inner::NotEnrolled { reason }) => Err(PairingError::NotEnrolled(plain_reason(&reason))),
                    Some(Inner::Introduce { .. } | Inner::Agreed { .. }) => Err(PairingError::Malformed),
                }
            }
            (JoinerState::Agreeing(mut channel, expected, joined), Message::Sealed { bytes }) => {
                match channel.open(&bytes)? {
                    None => Ok(JoinerState::Agreeing(channel, expected, joined)),
                    Some(Inner::Agreed { outcome }) if outcome == expected => {
                        self.effects.push_back(JoinerEffect::Joined(joined));
                        Ok(JoinerState::Over)
                    }
                    Some(Inner::Agreed { .. }) => Err(PairingError::Disagreed),
                    Some(Inner::Introduce { .. } | Inner::Welcome(_) | Inner::NotEnrolled { .. }) => {
                        Err(PairingError::Malformed)
                    }
                }
            }
            (JoinerState::Confirming(_), Message::Refused) => Err(PairingError::WrongCode),
            (JoinerState::Agreeing(..), Message::Refused) => Err(PairingError::Disagreed),
            (
                JoinerState::Answering(_)
                | JoinerState::Confirming(_)
                | JoinerState::Introduced(..)
                | JoinerState::Agreeing(..)
                | JoinerState::Over,
                Message::Hello { .. }
                | Message::Answer { .. }
                | Message::Confirm { .. }
                | Message::Sealed { .. }
                | Message::Refused,
            ) => Err(PairingError::Malformed),
        }
    }

    fn introduction(&self, transcript: &[u8; 32]) -> Inner {
        let keys = self.keys.public();
        let shown = possession(transcript, &keys);
        let proof_sign = keys::sign(&self.keys.sign, &shown);
        let proof_tls = keys::sign(&self.keys.tls, &shown);
        Inner::Introduce { keys, name: self.name.clone(), proof_sign, proof_tls }
    }

    /// Believes nothing that the log, the root key and the sealed secrets do not say alike.
    fn checked(&self, transcript: &[u8; 32], welcome: &Welcome) -> Result<Joined, PairingError> {
        let bad = PairingError::BadAccount;
        let account = Account::verify(welcome.account, &welcome.entries).map_err(|_| bad.clone())?;
        let own = self.keys.public();
        let enrolled = account
            .active(&self.keys.id())
            .is_some_and(|device| device.sign == own.sign && device.tls == own.tls && device.kem == own.kem);
        if !enrolled || account_id(&welcome.root) != account.id || account.head != welcome.head {
            return Err(bad);
        }
        let secrets = self.opened(transcript, account.id, &welcome.secrets).ok_or(bad.clone())?;
        if !secrets.fit(&account) || welcome.relays.len() > MAX_RELAYS {
            return Err(bad);
        }
        let relays = welcome.relays.iter().map(|text| RelayAddress::parse(text));
        let relays = relays.collect::<Result<Vec<_>, _>>().map_err(|_| bad)?;
        Ok(Joined { account, secrets, relays })
    }

    fn opened(&self, transcript: &[u8; 32], account: AccountId, sealed: &SealedTo) -> Option<Secrets> {
        let place = secrets_place(transcript, account);
        let plain = seal::open_with(self.keys.kem.bytes(), label::PAIR_SECRETS.as_bytes(), &place, sealed).ok()?;
        let bytes: WelcomeSecrets = codec::decode(&plain, plain.len()).ok()?;
        Some(Secrets::import(&bytes))
    }

    fn send(&mut self, message: &Message) {
        self.effects.push_back(JoinerEffect::Send(encode_message(message)));
    }
}

fn secrets_place(transcript: &[u8; 32], account: AccountId) -> Vec<u8> {
    codec::encode(&(label::PAIR_SECRETS, transcript, account))
}

/// A reason as it may be shown on a terminal.
fn plain_reason(reason: &str) -> String {
    keys::name::truncate(reason, MAX_REASON).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
