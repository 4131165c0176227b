//! `wait`: a barrier over everything that was changed before the call, here and on the other machines.
//!
//! First everything that stirred is drained out of the watcher and of dconf, then the engine looks at it without
//! waiting for it to settle and asks each peer to do the same. The answer comes when each required peer has answered
//! that, and agrees.

use std::collections::BTreeSet;
use std::sync::Arc;

use hearth_schemas::ids::Slot;
use hearth_schemas::paths::Paths;
use serde_json::{Value, json};
use syncd_core::account;
use syncd_core::engine::Event;
use tokio::time::{Instant, timeout_at};

use super::{index_failed, no_such_device, problems_of, stopping};
use crate::bus::{Answer, Barrier, Failure};
use crate::driver::{Picture, with_now};
use crate::home::Home;

pub(super) async fn wait(home: &Arc<Home>, paths: &Paths, barrier: Barrier) -> Answer {
    let required = required(home, &barrier)?;
    let waiting = async {
        home.preferences.flush().await;
        crate::home::drain(&home.watcher, &home.driver).await;
        let hurried = home.driver.ask(|engine, _| {
            with_now(|now| engine.handle(Event::Hurry, now))?;
            engine.summary().map(|summary| summary.flush)
        });
        let token = hurried.await.map_err(stopping)?.map_err(|error| index_failed(&error))?;
        let mut pictures = home.driver.picture();
        loop {
            let picture = pictures.borrow_and_update().clone();
            match judge(home, &picture, &required, &barrier, token) {
                Verdict::Agreed => return Ok(json!({ "agreed": true, "blocked": [] })),
                Verdict::Stuck => {
                    let revoked = home.membership.slot().is_none();
                    return Ok(json!({ "agreed": false, "blocked": blocked(home, paths, &picture, revoked) }));
                }
                Verdict::Goes => {}
            }
            pictures.changed().await.map_err(|_| stopping(crate::driver::Stopped))?;
        }
    };
    match barrier.timeout {
        None => waiting.await,
        Some(limit) => match timeout_at(Instant::now() + limit, waiting).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(Failure::timed_out("the machines do not agree yet", "see `hearth status` for what is pending"))
            }
        },
    }
}

enum Verdict {
    Agreed,
    Stuck,
    Goes,
}

fn judge(home: &Home, picture: &Picture, required: &BTreeSet<Slot>, barrier: &Barrier, token: u64) -> Verdict {
    let summary = &picture.summary;
    if picture.index_trouble.is_some() {
        return Verdict::Stuck;
    }
    if summary.flush < token || summary.looking || !summary.fresh {
        return Verdict::Goes;
    }
    if home.membership.slot().is_none() || (picture.paused && !required.is_empty()) || summary.standing.stuck {
        return Verdict::Stuck;
    }
    let there = |slot: &Slot| !barrier.online || home.network.path(*slot).online;
    let required: Vec<Slot> = required.iter().copied().filter(there).collect();
    if barrier.online && summary.awaits_away && required.iter().all(|slot| summary.peers.contains_key(slot)) {
        return Verdict::Stuck;
    }
    if required.is_empty() {
        return if summary.settled { Verdict::Agreed } else { Verdict::Goes };
    }
    let mut agreed = true;
    for slot in required {
        let Some((flushed, stuck)) = summary.peers.get(&slot) else { return Verdict::Goes };
        if *stuck && *flushed >= token && summary.standing.clean {
            return Verdict::Stuck;
        }
        agreed &= *flushed >= token && summary.agreeing.contains(&slot);
    }
    if agreed { Verdict::Agreed } else { Verdict::Goes }
}

fn required(home: &Home, barrier: &Barrier) -> Result<BTreeSet<Slot>, Failure> {
    let account = home.membership.account();
    let own = home.membership.keys().id();
    match &barrier.peer {
        None => Ok(account.active_devices().filter(|device| device.id != own).map(|device| device.slot).collect()),
        Some(name) => {
            let device = account::device_named(&account, &home.membership.secrets(), name);
            let slot = device.and_then(|device| account.active(&device)).map(|device| device.slot);
            Ok(BTreeSet::from([slot.ok_or_else(|| no_such_device(name))?]))
        }
    }
}

fn blocked(home: &Home, paths: &Paths, picture: &Picture, revoked: bool) -> Vec<Value> {
    let mut blocked = problems_of(home, paths, picture, revoked);
    if picture.paused {
        blocked.push(json!({ "path": Value::Null, "what": "syncing is paused", "hint": "go on with `hearth resume`" }));
    }
    for (id, hold) in &picture.holds {
        let what = format!("{} removals and {} replacements are held ({id})", hold.toll.removes, hold.toll.replaces);
        let hint = "see `hearth held`; `hearth held release` or `hearth held undo` ends it";
        blocked.push(json!({ "path": Value::Null, "what": what, "hint": hint }));
    }
    if blocked.is_empty() {
        let what = "another machine cannot take everything";
        blocked.push(json!({ "path": Value::Null, "what": what, "hint": "see `hearth status` there" }));
    }
    blocked
}
