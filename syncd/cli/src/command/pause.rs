//! `hearth pause` and `hearth resume`.

use clap::Args;

use crate::command::Context;
use crate::error::Failure;

/// Stop syncing on this machine until `hearth resume`
#[derive(Debug, Args)]
pub(crate) struct Pause {}

/// Sync again after `hearth pause`
#[derive(Debug, Args)]
pub(crate) struct Resume {}

impl Pause {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let result = context.bus().await?.call("Pause", &()).await?;
        context.show(&result, |_| "Paused; `hearth resume` goes on.\n".to_owned())
    }
}

impl Resume {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let result = context.bus().await?.call("Resume", &()).await?;
        context.show(&result, |_| "Syncing.\n".to_owned())
    }
}
