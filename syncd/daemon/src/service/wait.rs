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
        let (mut pictures, mut reached) = (home.driver.picture(), home.network.reached());
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
            let goes_on = tokio::select! {
                changed = pictures.changed() => changed.is_ok(),
                goes_on = reached.changed() => goes_on,
            };
            if !goes_on {
                return Err(stopping(crate::driver::Stopped));
            }
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
    if home.membership.slot().is_none() || (picture.paused && !required.is_empty()) {
        return Verdict::Stuck;
    }
    let there = |slot: &Slot| !barrier.online || home.network.path(*slot).online;
    let required: Vec<Slot> = required.iter().copied().filter(there).collect();
    if barrier.online && summary.awaits_away && required.iter().all(|slot| summary.peers.contains_key(slot)) {
        return Verdict::Stuck;
    }
    let account = home.membership.account();
    let has_yet_to = |slot: &Slot| account.active_devices().any(|d| d.slot == *slot && picture.judged.contains(&d.id));
    if picture.judged.contains(&home.membership.keys().id()) || required.iter().any(has_yet_to) {
        return Verdict::Goes;
    }
    let is_stuck = summary.standing.stuck;
    if required.is_empty() {
        return match (summary.settled, is_stuck) {
            (true, _) => Verdict::Agreed,
            (false, true) => Verdict::Stuck,
            (false, false) => Verdict::Goes,
        };
    }
    let (mut agreed, mut any_stuck, mut at_rest) = (true, is_stuck, is_stuck || summary.standing.clean);
    for slot in required {
        // One that has yet to hear of something, or to look, goes on with it whatever is blocked here.
        let heard = summary.peers.get(&slot).filter(|peer| peer.flushed >= token && peer.has_all);
        let Some(peer) = heard else { return Verdict::Goes };
        agreed &= summary.agreeing.contains(&slot);
        any_stuck |= peer.stuck;
        at_rest &= peer.stuck || peer.clean;
    }
    match (agreed, at_rest && any_stuck) {
        (true, _) => Verdict::Agreed,
        (false, true) => Verdict::Stuck,
        (false, false) => Verdict::Goes,
    }
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
