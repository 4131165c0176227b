//! Shows on a terminal how far long work is, from the status that the daemon sends meanwhile.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;
use zbus::zvariant::DynamicType;

use crate::bus::{Bus, Event};
use crate::command::Context;
use crate::error::Failure;
use crate::render::{count, list, names, text};

const TICK: Duration = Duration::from_millis(120);

/// Calls a method that may take long, showing progress where somebody looks.
pub(super) async fn call<B>(
    bus: &Bus,
    method: &str,
    arguments: &B,
    context: &Context,
    doing: &'static str,
) -> Result<Value, Failure>
where
    B: Serialize + DynamicType,
{
    if !context.progress {
        return bus.call(method, arguments).await;
    }
    let mut events = bus.events();
    let mut progress = Progress::new(doing);
    let mut answer = std::pin::pin!(bus.call(method, arguments));
    loop {
        tokio::select! {
            answer = &mut answer => {
                progress.bar.finish_and_clear();
                return answer;
            }
            event = events.next() => {
                if let Event::StatusChanged(status) = event? {
                    progress.show(&status);
                }
            }
        }
    }
}

struct Progress {
    bar: ProgressBar,
    doing: &'static str,
    most: u64,
}

impl Progress {
    fn new(doing: &'static str) -> Self {
        let bar = ProgressBar::new_spinner().with_message(doing);
        bar.enable_steady_tick(TICK);
        Self { bar, doing, most: 0 }
    }

    fn show(&mut self, status: &Value) {
        let pending = &status["pending"];
        let left = count(pending, "incoming").saturating_add(count(pending, "outgoing"));
        if left > 0 && self.most == 0 {
            let style =
                ProgressStyle::with_template("{spinner} {msg} [{bar:30}]").expect("the template is well formed");
            self.bar.set_style(style.progress_chars("=> "));
        }
        self.most = self.most.max(left);
        self.bar.set_length(self.most);
        self.bar.set_position(self.most - left);
        self.bar.set_message(message(self.doing, status));
    }
}

fn message(doing: &str, status: &Value) -> String {
    let pending = &status["pending"];
    match (count(pending, "incoming"), count(pending, "outgoing")) {
        (0, 0) => {
            let peers = list(&status["peers"], "").iter().filter(|peer| peer["in_sync"] != Value::Bool(true));
            let peers: Vec<String> = peers.map(|peer| text(peer, "name")).collect();
            if peers.is_empty() { doing.to_owned() } else { format!("{doing}: {} not yet in sync", names(&peers)) }
        }
        (incoming, outgoing) => format!("{doing}: {incoming} to receive, {outgoing} to send"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_says_what_is_left_or_whom_it_waits_for() {
        let status = |incoming: u64, agreed: bool| {
            serde_json::json!({
                "pending": {"incoming": incoming, "outgoing": 0},
                "peers": [{"name": "laptop", "in_sync": agreed}, {"name": "tower\u{1b}", "in_sync": agreed}],
            })
        };
        assert_eq!(message("waiting", &status(4, false)), "waiting: 4 to receive, 0 to send");
        assert_eq!(message("waiting", &status(0, false)), "waiting: laptop and tower\\u{1b} not yet in sync");
        assert_eq!(message("waiting", &status(0, true)), "waiting");
    }
}
