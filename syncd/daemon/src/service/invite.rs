//! The enrolled side of a pairing, from the code shown to the machine joined.
//!
//! One code at a time: a further one replaces it. What is said in the relay's room goes to
//! [`syncd_core::pairing::Inviter`]; what it decides is appended to the log here.

use std::sync::{Arc, Weak};
use std::time::Duration;

use hearth_schemas::log::{Caps, PublicKeys};
use hearth_schemas::relay::{Event, Request};
use serde_json::{Value, json};
use syncd_core::account::{self, Newcomer};
use syncd_core::pairing::{Invitation, Inviter, InviterEffect};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::lock;
use crate::activity::Activity;
use crate::bus::Signals;
use crate::driver::wall_ms;
use crate::home::Home;
use crate::membership::{append, entropy};

/// Serves one invitation until it is used, refused too often or over.
pub(super) fn start(home: &Arc<Home>, invitation: Invitation, signals: Signals, activity: Arc<Activity>) {
    let (room, events) = mpsc::channel(64);
    *lock(&home.pairing) = Some(room);
    let host = Host { home: Arc::downgrade(home), invitation, inviter: None, signals, activity };
    tokio::spawn(host.run(events));
}

struct Host {
    home: Weak<Home>,
    invitation: Invitation,
    inviter: Option<Inviter>,
    signals: Signals,
    activity: Arc<Activity>,
}

enum Outcome {
    Goes,
    Joined(String),
    Refused,
}

impl Host {
    async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        loop {
            let left = Duration::from_millis(self.invitation.until_ms().saturating_sub(wall_ms()));
            let event = match timeout(left, events.recv()).await {
                Ok(Some(event)) => event,
                // A further code has taken the place of this one.
                Ok(None) => return,
                Err(_) => return self.close("expired", None).await,
            };
            match self.handle(event).await {
                Outcome::Goes => {}
                Outcome::Joined(name) => return self.close("joined", Some(&name)).await,
                Outcome::Refused => {
                    self.activity.note("pairing", None, None, "a machine tried to join with wrong words");
                    if self.invitation.tries_left(wall_ms()) == 0 {
                        return self.close("refused", None).await;
                    }
                }
            }
        }
    }

    async fn handle(&mut self, event: Event) -> Outcome {
        match event {
            Event::PairJoined => {
                self.inviter = self.invitation.begin(wall_ms()).ok();
                if self.inviter.is_none() { Outcome::Refused } else { Outcome::Goes }
            }
            Event::PairMessage { message } => {
                if let Some(inviter) = &mut self.inviter {
                    inviter.handle_message(&message, &mut entropy);
                }
                self.pursue().await
            }
            Event::PairLeft { .. } => match self.inviter.take() {
                Some(_) => Outcome::Refused,
                None => Outcome::Goes,
            },
            Event::Presence { .. } | Event::LogChanged { .. } | Event::Signal { .. } => Outcome::Goes,
        }
    }

    async fn pursue(&mut self) -> Outcome {
        while let Some(effect) = self.inviter.as_mut().and_then(Inviter::poll_effect) {
            let Some(home) = self.home.upgrade() else { return Outcome::Goes };
            match effect {
                InviterEffect::Send(message) => {
                    if let Err(error) = home.network.request(Request::PairSend { message }).await {
                        tracing::debug!(%error, "a pairing message could not be sent");
                    }
                }
                InviterEffect::Enrol { keys, name } => {
                    let enrolled = enrol(&home, &keys, &name).await;
                    let Some(inviter) = &mut self.inviter else { return Outcome::Goes };
                    match enrolled {
                        Ok(()) => {
                            let membership = &home.membership;
                            inviter.handle_enrolled(
                                &membership.account(),
                                &membership.secrets(),
                                &membership.relays(),
                                &mut entropy,
                            );
                        }
                        Err(reason) => inviter.handle_not_enrolled(&reason, &mut entropy),
                    }
                }
                InviterEffect::Done { device } => return Outcome::Joined(home.membership.name_of(device)),
                InviterEffect::Failed { error, enrolled } => {
                    self.inviter = None;
                    tracing::info!(%error, "a machine did not join");
                    // A device that is in the log joined for all that matters, though it may have to be told again.
                    return match enrolled {
                        Some(device) => Outcome::Joined(home.membership.name_of(device)),
                        None => Outcome::Refused,
                    };
                }
            }
        }
        Outcome::Goes
    }

    async fn close(self, event: &str, device: Option<&str>) {
        let Some(home) = self.home.upgrade() else { return };
        *lock(&home.pairing) = None;
        if let Err(error) = home.network.request(Request::PairClose).await {
            tracing::debug!(%error, "the pairing room was gone already");
        }
        let mut told = json!({ "event": event });
        if let Some(device) = device {
            told["device"] = Value::from(device);
            let text = format!("{device} joined. Not you? `hearth device revoke {device}`");
            self.activity.note("joined", None, Some(device), &text);
        }
        self.signals.pairing(&told);
    }
}

async fn enrol(home: &Home, keys: &PublicKeys, wish: &str) -> Result<(), String> {
    let membership = &home.membership;
    let newcomer = Newcomer { keys, wish, caps: Caps::ALL };
    let (known, secrets) = (membership.account(), membership.secrets());
    let change = account::add_device(&known, &secrets, membership.keys(), &newcomer, wall_ms(), &mut entropy)
        .map_err(|error| error.to_string())?;
    append(&home.network, &change).await.map_err(|error| error.to_string())?;
    membership.keep(change.account, change.secrets).map_err(|error| format!("{error:#}"))
}
