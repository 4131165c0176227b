//! Keeps the account's relays alike: what one of them lacks of the device log, or of what the log names, it is given.
//!
//! The account is changed at its first relay, where two changes at once cannot both succeed. The others are mirrors, which
//! devices write: any device that is logged in at one that is behind gives it the rest. A relay that says more than this
//! device knows is [`crate::home`]'s business. The account's configuration is put into force here as well, as it is
//! among what the log names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hearth_schemas::log::{Account, Standing};
use hearth_schemas::relay::{Head, MAX_ENTRIES, Refusal, Reply, Request};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::blobs::Blobs;
use crate::home::Membership;
use crate::membership::Ask;
use crate::net::Network;
use crate::relay::RelayError;

/// When something is tried again that did not succeed.
const AGAIN: Duration = Duration::from_secs(15);

/// The newest entry of the account that each relay has, as far as this device is logged in there.
pub type Heads = BTreeMap<usize, Head>;

/// Keeps relays alike.
pub struct Mirror {
    /// The relays.
    pub network: Network,
    /// The account.
    pub membership: Arc<Membership>,
    /// What the log names.
    pub blobs: Arc<Blobs>,
    /// What the relays have.
    pub heads: watch::Receiver<Heads>,
}

impl Mirror {
    /// Runs until nobody tells what relays have.
    pub async fn run(mut self) {
        let mut account = self.membership.watch();
        // Relays that were seen to have everything that the log names, by the newest entry at that time.
        let mut whole: Heads = Heads::new();
        loop {
            account.mark_unchanged();
            let heads = self.heads.borrow_and_update().clone();
            whole.retain(|relay, _| heads.contains_key(relay));
            let done = self.bring(&heads, &mut whole).await;
            tokio::select! {
                changed = self.heads.changed() => if changed.is_err() { return },
                changed = account.changed() => if changed.is_err() { return },
                () = sleep(AGAIN), if !done => {}
            }
        }
    }

    /// Does what is to be done; false if some of it is to be tried again.
    async fn bring(&self, heads: &Heads, whole: &mut Heads) -> bool {
        let account = self.membership.account();
        let mut done = heads.is_empty() || gather(&self.network, &account, &self.blobs).await;
        if let Err(error) = self.membership.follow_config(&self.blobs) {
            warn!("the account's configuration is not followed: {error:#}");
        }
        for (relay, head) in heads {
            let brought = match account.judge(head) {
                Standing::Older => self.append(*relay, *head, &account).await,
                Standing::Same if whole.get(relay) != Some(head) => match self.fill(*relay, *head, &account).await {
                    Ok(()) => {
                        whole.insert(*relay, *head);
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                Standing::Same | Standing::Newer | Standing::Forked => Ok(()),
            };
            match brought {
                // Another device was faster; the relay tells how far it is.
                Ok(()) | Err(RelayError::Refused(Refusal::BadLog) | RelayError::Offline) => {}
                Err(error) => {
                    debug!(relay, "the relay was not given what it lacks: {error}");
                    done = false;
                }
            }
        }
        done
    }

    /// Gives a relay the entries that it lacks, with what they name.
    async fn append(&self, relay: usize, head: Head, account: &Account) -> Result<(), RelayError> {
        let mut after = head;
        while after.seq < account.head.seq {
            let from = usize::try_from(after.seq + 1).unwrap_or(usize::MAX);
            let entries: Vec<Vec<u8>> = account.entries().iter().skip(from).take(MAX_ENTRIES).cloned().collect();
            let upto = from + entries.len();
            let Some(last) = entries.last() else { return Ok(()) };
            let hash = *blake3::hash(last).as_bytes();
            let named = |count: usize| -> BTreeSet<[u8; 32]> {
                let known = Account::verify(account.id, &account.entries()[..count]).ok();
                known.iter().flat_map(Blobs::named).collect()
            };
            let blobs = named(upto).difference(&named(from)).filter_map(|hash| self.blobs.get(hash)).collect();
            self.network.request_at(relay, Request::Append { after, entries, blobs }).await?;
            after = Head { seq: upto as u64 - 1, hash };
        }
        info!(relay, "gave the relay what the account has grown by");
        Ok(())
    }

    /// Gives a relay what the log names, as far as it lacks it.
    async fn fill(&self, relay: usize, head: Head, account: &Account) -> Result<(), RelayError> {
        let mut lacking = Vec::new();
        for hash in Blobs::named(account) {
            match self.network.request_at(relay, Request::FetchBlob { hash }).await {
                Ok(_) => {}
                Err(RelayError::Refused(Refusal::NotFound)) => lacking.extend(self.blobs.get(&hash)),
                Err(error) => return Err(error),
            }
        }
        for blob in lacking {
            let request = Request::Append { after: head, entries: Vec::new(), blobs: vec![blob] };
            self.network.request_at(relay, request).await?;
            info!(relay, "gave the relay a sealed part of the account that it had lost");
        }
        Ok(())
    }
}

/// Copies to this disk what the log names, from whichever relay has it; false if some of it could not be had now.
pub async fn gather(network: &Network, account: &Account, blobs: &Blobs) -> bool {
    let mut all = true;
    for hash in Blobs::named(account) {
        if blobs.get(&hash).is_some() {
            continue;
        }
        match (Anywhere { network, first: 0 }).ask(Request::FetchBlob { hash }).await {
            Ok(Reply::Blob { bytes }) if *blake3::hash(&bytes).as_bytes() == hash => blobs.put(&bytes),
            // Lost for good, and no reason to ask on and on.
            Err(RelayError::Refused(Refusal::NotFound)) => {}
            Ok(_) | Err(_) => all = false,
        }
    }
    blobs.keep_only(account);
    all
}

/// Asks one relay, and the others where that one does not help.
pub struct Anywhere<'a> {
    /// All of them.
    pub network: &'a Network,
    /// The one that is asked first.
    pub first: usize,
}

impl Ask for Anywhere<'_> {
    async fn ask(&self, request: Request) -> Result<Reply, RelayError> {
        let mut result = self.network.request_at(self.first, request.clone()).await;
        for other in (0..self.network.relays().len()).filter(|relay| *relay != self.first) {
            if result.is_ok() {
                break;
            }
            match self.network.request_at(other, request.clone()).await {
                Err(RelayError::Offline) => {}
                found => result = found,
            }
        }
        result
    }
}

/// One relay of the account.
pub struct At<'a> {
    /// All of them.
    pub network: &'a Network,
    /// Which.
    pub relay: usize,
}

impl Ask for At<'_> {
    async fn ask(&self, request: Request) -> Result<Reply, RelayError> {
        self.network.request_at(self.relay, request).await
    }
}
