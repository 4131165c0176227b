//! `hearth wait`: a barrier for scripts and for people about to shut a lid.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::command::{Context, progress};
use crate::error::{Exit, Failure};
use crate::render::{item, list, plural, text};

/// After its own time is up the daemon has this long to say so.
const GRACE: Duration = Duration::from_secs(10);

/// Return once this machine and the others agree
///
/// Counts every change made before the call. Waits for machines that are away, unless `--online`. Exit code 4 when the
/// time is up, 1 at once when only work is left that waits for a person.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Give up after this many seconds [default: never]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    timeout: Option<Duration>,
    /// Wait for this machine only
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    peer: String,
    /// Leave out machines that are away
    #[arg(long)]
    online: bool,
}

impl Wait {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let bus = context.bus().await?;
        // Zero means "no limit" on the bus.
        let timeout_ms = self.timeout.map_or(0, |limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1));
        let arguments = (timeout_ms, &self.peer, self.online);
        let answer = progress::call(&bus, "Wait", &arguments, context, "waiting for the other machines");
        let result = match self.timeout {
            None => answer.await?,
            Some(limit) => tokio::time::timeout(limit.saturating_add(GRACE), answer).await.unwrap_or_else(|_| {
                let hint = "the daemon did not answer either; `systemctl --user restart hearth` starts it afresh";
                Err(Failure::new(Exit::TimedOut, "the machines did not agree in time", hint))
            })?,
        };
        context.show(&result, words)?;
        if result["agreed"] == Value::Bool(false) {
            let blocked = plural(list(&result, "blocked").len() as u64, "item");
            let hint = "the list says what each one needs; `hearth status` shows it too";
            return Err(Failure::failed(format!("only blocked work is left: {blocked}"), hint));
        }
        Ok(())
    }
}

fn words(result: &Value) -> String {
    if result["agreed"] != Value::Bool(false) {
        return "In sync.\n".to_owned();
    }
    let mut lines = String::new();
    for blocked in list(result, "blocked") {
        let place = match item(blocked, "path") {
            path if path.is_empty() => text(blocked, "key"),
            path => path,
        };
        lines += &format!("{place}: {}\n", text(blocked, "what"));
        let hint = text(blocked, "hint");
        if !hint.is_empty() {
            lines += &format!("  {hint}\n");
        }
    }
    lines
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "give a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|_| "give a number of seconds, not below zero".to_owned())
}
