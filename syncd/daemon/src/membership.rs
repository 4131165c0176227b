//! How this device comes into an account, and how the account's log grows: create, join, invite, revoke, rename.
//!
//! What is signed and sealed is decided by [`syncd_core::account`] and [`syncd_core::pairing`]; here their messages
//! meet the relay. Nothing is kept before the relay has taken it, and nothing is done before it is kept: that order
//! is the caller's, [`crate::service`].

use std::time::Duration;

use hearth_schemas::address::RelayAddress;
use hearth_schemas::ids::AccountId;
use hearth_schemas::keys::config::Config;
use hearth_schemas::keys::{DeviceKeys, Phrase};
use hearth_schemas::log::Account;
use hearth_schemas::pairing::Code;
use hearth_schemas::relay::{Event, Head, Refusal, Reply, Request};
use syncd_core::account::{self, Change, Secrets};
use syncd_core::pairing::{Joiner, JoinerEffect, PairingError};
use tokio::time::timeout;

use crate::bus::Failure;
use crate::driver::wall_ms;
use crate::keys::Member;
use crate::net::Network;
use crate::relay::{Anonymous, RelayError};

/// How long the other machine may take to answer while joining.
const PAIRING_WAIT: Duration = Duration::from_secs(60);

/// What can ask the relay: a login, or a connection without one.
pub trait Ask {
    /// Asks, and waits for the answer.
    fn ask(&self, request: Request) -> impl Future<Output = Result<Reply, RelayError>> + Send;
}

impl Ask for Network {
    async fn ask(&self, request: Request) -> Result<Reply, RelayError> {
        self.request(request).await
    }
}

impl Ask for Anonymous {
    async fn ask(&self, request: Request) -> Result<Reply, RelayError> {
        self.request(request).await
    }
}

/// Makes an account at a relay, with this device its first; with an invitation, where the relay wants one.
pub async fn create(
    relay: &RelayAddress,
    name: &str,
    invitation: Option<String>,
) -> Result<(DeviceKeys, Member, Phrase), Failure> {
    let connection = connect(relay, false).await?;
    let (keys, phrase) = (DeviceKeys::random(&mut entropy), Phrase::random(&mut entropy));
    let change = account::create(&phrase, &keys, name, wall_ms(), &mut entropy).map_err(told)?;
    let request = Request::CreateAccount { entries: change.entries, blobs: change.blobs, invite: invitation };
    connection.request(request).await.map_err(unreachable)?;
    let relay = pinned(relay, &connection);
    connection.close().await;
    let member = Member { account: change.account, secrets: change.secrets, relays: vec![relay] };
    Ok((keys, member, phrase))
}

/// Joins with the code that another device shows.
pub async fn join_by_code(relay: &RelayAddress, code: &str, name: &str) -> Result<(DeviceKeys, Member), Failure> {
    let code = Code::parse(code).map_err(|error| {
        Failure::usage(format!("this is no code: {error}"), "a code is a number and three words, as `7-word-word-word`")
    })?;
    let mut connection = connect(relay, true).await?;
    connection.request(Request::PairJoin { number: code.number() }).await.map_err(|error| match error {
        RelayError::Refused(Refusal::NoRoom) => no_such_code(),
        other => unreachable(other),
    })?;
    let keys = DeviceKeys::random(&mut entropy);
    let mut joiner = Joiner::new(&code, DeviceKeys::from_bytes(&keys.to_bytes()), name, &mut entropy);
    loop {
        while let Some(effect) = joiner.poll_effect() {
            match effect {
                JoinerEffect::Send(message) => {
                    connection.request(Request::PairSend { message }).await.map_err(pairing_broke)?;
                }
                JoinerEffect::Joined(joined) => {
                    // What was sent last must reach the other machine before the room is left.
                    connection.request(Request::PairClose).await.ok();
                    connection.close().await;
                    let relays = if joined.relays.is_empty() { vec![relay.clone()] } else { joined.relays };
                    return Ok((keys, Member { account: joined.account, secrets: joined.secrets, relays }));
                }
                JoinerEffect::Failed(error) => {
                    connection.close().await;
                    return Err(refused_code(error));
                }
            }
        }
        match timeout(PAIRING_WAIT, connection.next_event()).await {
            Ok(Some(Event::PairMessage { message })) => joiner.handle_message(&message, &mut entropy),
            Ok(Some(Event::PairLeft { .. })) => return Err(no_such_code()),
            Ok(Some(_)) => {}
            Ok(None) => {
                return Err(Failure::failed("the connection to the relay broke", "try again with the same code"));
            }
            Err(_) => {
                return Err(Failure::failed(
                    "the other machine did not answer",
                    "see that it is on and online, and run `hearth device add` there for new words",
                ));
            }
        }
    }
}

/// Joins with the recovery phrase.
pub async fn join_by_phrase(relay: &RelayAddress, phrase: &str, name: &str) -> Result<(DeviceKeys, Member), Failure> {
    let phrase = Phrase::parse(phrase).map_err(|error| {
        Failure::usage(
            format!("this is no recovery phrase: {error}"),
            "it is the twelve words that `hearth init` printed",
        )
    })?;
    let keys = DeviceKeys::random(&mut entropy);
    let (mut connection, mut change) = prepare(relay, &phrase, &keys, name).await?;
    let mut relays = vec![pinned(relay, &connection)];
    if let Some(config) = config_of(&connection, &change).await {
        let first = config.relays.first().filter(|first| !first.is_at(relay)).cloned();
        relays = config.relays;
        if let Some(first) = first {
            // The account is changed at its first relay alone: at another one this might contradict what happens there.
            connection.close().await;
            (connection, change) = prepare(&first, &phrase, &keys, name).await?;
        }
    }
    append(&connection, &change).await.map_err(unreachable)?;
    connection.close().await;
    Ok((keys, Member { account: change.account, secrets: change.secrets, relays }))
}

/// Makes the entry that adds this device with the phrase, to what a relay has of the account.
async fn prepare(
    relay: &RelayAddress,
    phrase: &Phrase,
    keys: &DeviceKeys,
    name: &str,
) -> Result<(Anonymous, Change), Failure> {
    let connection = connect(relay, false).await?;
    let root = phrase.root();
    let head = connection.login_root(&root.sign).await.map_err(unreachable)?;
    let Some(_) = head else {
        return Err(Failure::failed(
            "the relay has no account for this recovery phrase",
            "check the words and their order, and the relay's address",
        ));
    };
    let entries = fetch_entries(&connection, 0).await.map_err(unreachable)?;
    let account = Account::verify(root.account(), &entries).map_err(told)?;
    let sets = fetch_sets(&connection, &account).await.map_err(unreachable)?;
    let change = account::join_by_phrase(&account, &sets, phrase, keys, name, wall_ms(), &mut entropy).map_err(told)?;
    Ok((connection, change))
}

/// The account's configuration, if it has one and the relay has it.
async fn config_of(relay: &impl Ask, change: &Change) -> Option<Config> {
    let hash = change.account.config?;
    match relay.ask(Request::FetchBlob { hash }).await {
        Ok(Reply::Blob { bytes }) if *blake3::hash(&bytes).as_bytes() == hash => {
            Config::open(&change.secrets.account, change.account.id, &bytes).ok()
        }
        Ok(_) | Err(_) => None,
    }
}

/// Appends a change to the log.
pub async fn append(relay: &impl Ask, change: &Change) -> Result<(), RelayError> {
    let after = change.after.expect("only a new account has no head, and it is created");
    let (entries, blobs) = (change.entries.clone(), change.blobs.clone());
    relay.ask(Request::Append { after, entries, blobs }).await.map(|_| ())
}

/// The account with everything that the relay has beyond it, verified, and the secrets of its epochs.
pub async fn catch_up(
    relay: &impl Ask,
    account: &Account,
    secrets: &Secrets,
    keys: &DeviceKeys,
) -> Result<(Account, Secrets), Failure> {
    let mut newer = account.clone();
    let entries = fetch_entries(relay, account.head.seq + 1).await.map_err(unreachable)?;
    newer.extend(&entries).map_err(told)?;
    let mut secrets = secrets.clone();
    let missing: Vec<[u8; 32]> = secrets.missing(&newer, keys.id()).map(|epoch| epoch.set).collect();
    for hash in missing {
        if let Reply::Blob { bytes } = relay.ask(Request::FetchBlob { hash }).await.map_err(unreachable)? {
            secrets.adopt(&newer, keys, &bytes).map_err(told)?;
        }
    }
    Ok((newer, secrets))
}

async fn fetch_entries(relay: &impl Ask, from: u64) -> Result<Vec<Vec<u8>>, RelayError> {
    let mut entries: Vec<Vec<u8>> = Vec::new();
    loop {
        let next = from + entries.len() as u64;
        let Reply::Log { entries: page, head: Head { seq, .. } } = relay.ask(Request::FetchLog { from: next }).await?
        else {
            return Err(RelayError::Unexpected);
        };
        let empty = page.is_empty();
        entries.extend(page);
        if empty || from + entries.len() as u64 > seq {
            return Ok(entries);
        }
        if entries.len() > hearth_schemas::log::MAX_ENTRIES {
            return Err(RelayError::Unexpected);
        }
    }
}

async fn fetch_sets(relay: &impl Ask, account: &Account) -> Result<Vec<Vec<u8>>, RelayError> {
    let mut sets = Vec::new();
    for epoch in &account.epochs {
        match relay.ask(Request::FetchBlob { hash: epoch.set }).await {
            Ok(Reply::Blob { bytes }) => sets.push(bytes),
            Ok(_) => return Err(RelayError::Unexpected),
            // An old epoch's set may be gone; the newest is asked for by whoever opens them.
            Err(RelayError::Refused(Refusal::NotFound)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sets)
}

pub(crate) async fn connect(relay: &RelayAddress, by_code: bool) -> Result<Anonymous, Failure> {
    Anonymous::connect(relay, by_code).await.map_err(unreachable)
}

/// The address as it is kept: with the key that the relay showed, where it showed one.
pub(crate) fn pinned(relay: &RelayAddress, connection: &Anonymous) -> RelayAddress {
    RelayAddress { key: relay.key.or(connection.relay_key()), ..relay.clone() }
}

/// A short name for an account's files.
pub fn short(account: AccountId) -> String {
    account.to_string()[..16].to_owned()
}

/// Random bytes of the operating system.
pub fn entropy(out: &mut [u8]) {
    getrandom::fill(out).expect("the kernel gives random bytes");
}

/// What the relay's answer means to a person.
pub fn unreachable(error: RelayError) -> Failure {
    match error {
        RelayError::Refused(Refusal::NotAdmitted) => {
            Failure::failed(error.to_string(), "ask whoever runs the relay for one, and give it with `--invite`")
        }
        RelayError::Refused(Refusal::BadLog) => {
            Failure::failed("another machine changed the account at the same moment", "try again")
        }
        RelayError::Refused(Refusal::NotAuthorised) => Failure::failed(
            "the relay does not let this machine in",
            "it may have been revoked: see `hearth device list` on another machine",
        ),
        RelayError::WrongKey { .. } => {
            Failure::failed(error.to_string(), "check the part after `#`: ask whoever runs the relay for its address")
        }
        RelayError::FirstAway { .. } => Failure::failed(
            error.to_string(),
            "the account is changed there; if it is gone for good, take it out with `hearth relay remove`",
        ),
        RelayError::Refused(_) => Failure::failed(error.to_string(), "try again in a few minutes"),
        RelayError::Offline | RelayError::TimedOut | RelayError::Closed(_) | RelayError::Unreachable(_) => {
            Failure::failed(
                error.to_string(),
                "check the address after `--relay`, that the relay is running, and this machine's network",
            )
        }
        RelayError::Unexpected | RelayError::TooLong => {
            Failure::failed(error.to_string(), "the relay may be of another version; see its log")
        }
    }
}

/// What a mistake in the account's log or keys means to a person.
pub fn told(error: impl std::fmt::Display) -> Failure {
    Failure::failed(error.to_string(), "nothing was changed; `hearth doctor` says more")
}

fn no_such_code() -> Failure {
    Failure::failed(
        "the other machine did not accept this code",
        "codes work once and for ten minutes; run `hearth device add` there for new words",
    )
}

fn refused_code(error: PairingError) -> Failure {
    match error {
        PairingError::NotEnrolled(reason) => {
            Failure::failed(format!("the other machine could not add this one: {reason}"), "try again with a new code")
        }
        PairingError::WrongCode | PairingError::CodeOver => no_such_code(),
        other => Failure::failed(other.to_string(), "run `hearth device add` on the other machine for new words"),
    }
}

fn pairing_broke(error: RelayError) -> Failure {
    match error {
        RelayError::Refused(Refusal::NoRoom | Refusal::Unexpected) => no_such_code(),
        other => unreachable(other),
    }
}
