//! `hearth log`: what the daemon has done lately.

use clap::Args;
use serde_json::Value;

use crate::bus::Event;
use crate::command::Context;
use crate::error::Failure;
use crate::render::{self, list, moment, text};

/// Show what was synced lately
#[derive(Debug, Args)]
pub(crate) struct Log {
    /// Go on with what happens from here on, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Begin with this many lines
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 50)]
    lines: u32,
}

impl Log {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let bus = context.bus().await?;
        if !self.follow {
            let result = bus.call("Log", &(self.lines,)).await?;
            return context.show(&result, |result| list(result, "lines").iter().map(words).collect());
        }
        // Listening begins before the question, so nothing is missed; what came by both ways is shown once.
        let mut events = bus.events();
        let mut known = bus.call("Log", &(self.lines,)).await?;
        for line in list(&known, "lines") {
            context.show(line, words)?;
        }
        let known = known.as_array_mut().map(std::mem::take).unwrap_or_default();
        loop {
            let Event::Activity(line) = events.next().await? else { continue };
            if !known.contains(&line) {
                context.show(&line, words)?;
            }
        }
    }
}

fn words(line: &Value) -> String {
    format!("{}  {}\n", render::shown(&moment(line, "time")), text(line, "text"))
}
