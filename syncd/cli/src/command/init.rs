//! `hearth init`: an account, with this machine as its first device.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use hearth_schemas::address::RelayAddress;
use serde_json::Value;

use crate::command::Context;
use crate::error::Failure;
use crate::render::{Style, text};

/// Make a new account, with this machine as its first device
///
/// Prints the recovery phrase, once: twelve words that let a machine join when every other one is gone.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Address of the relay, as `relay-server serve` prints it
    #[arg(long, value_name = "ADDR", value_parser = RelayAddress::parse)]
    relay: RelayAddress,
    /// What to call this machine [default: its host name]
    #[arg(long)]
    name: Option<String>,
    /// Invitation, where the relay takes new accounts by invitation only
    #[arg(long, value_name = "WORD")]
    invite: Option<String>,
    /// Also write the phrase to this file, readable only by you; it must not exist yet
    #[arg(long, value_name = "FILE")]
    phrase_file: Option<PathBuf>,
}

impl Init {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let bus = context.bus().await?;
        let file = self.phrase_file.as_deref().map(PhraseFile::reserve).transpose()?;
        let name = self.name.unwrap_or_else(host_name);
        let relay = self.relay.to_string();
        let result = match self.invite {
            None => bus.call("Init", &(relay, name)).await?,
            Some(invitation) => bus.call("InitInvited", &(relay, name, invitation)).await?,
        };
        // The phrase is shown whatever becomes of the file: it is told this one time.
        let written = file.map_or(Ok(()), |file| file.write(result["phrase"].as_str().unwrap_or_default()));
        context.show(&result, |result| words(result, context.style))?;
        written
    }
}

/// This machine's own name, without a domain.
pub(super) fn host_name() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    name.split('.').next().filter(|name| !name.is_empty()).unwrap_or("machine").to_owned()
}

fn words(result: &Value, style: Style) -> String {
    format!(
        "This machine is {}, the first device of account {}.\n\
         \n\
         Recovery phrase:\n\
         \n    {}\n\
         \n\
         Write it on paper and keep it safe. It is not shown again and nobody else has it: without\n\
         the phrase and without a machine that has joined, the account is gone for good.\n\
         \n\
         Add the next machine with `hearth device add`.\n",
        text(result, "device"),
        text(result, "account"),
        style.strong(&text(result, "phrase")),
    )
}

/// The file for the phrase, made before the account so that a place which cannot be written to costs nothing.
struct PhraseFile<'a> {
    path: &'a Path,
    file: File,
    kept: bool,
}

impl<'a> PhraseFile<'a> {
    fn reserve(path: &'a Path) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| Failure::file("write the phrase to", path, &error))?;
        Ok(Self { path, file, kept: false })
    }

    fn write(mut self, phrase: &str) -> Result<(), Failure> {
        self.write_all(phrase).map_err(|error| {
            let what = format!("the account is made, but the phrase could not be written to its file: {error}");
            Failure::failed(what, "write down the phrase above; it is the only copy")
        })?;
        self.kept = true;
        Ok(())
    }

    fn write_all(&mut self, phrase: &str) -> io::Result<()> {
        self.file.write_all(format!("{phrase}\n").as_bytes())?;
        self.file.sync_all()
    }
}

impl Drop for PhraseFile<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // An empty file would only look like a phrase.
            let _ = std::fs::remove_file(self.path);
        }
    }
}
