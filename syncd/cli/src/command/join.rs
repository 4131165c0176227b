//! `hearth join`: this machine comes to an account, by code or by phrase.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use hearth_schemas::address::RelayAddress;

use crate::command::{Context, init, progress};
use crate::error::Failure;
use crate::render::text;

/// A phrase file is a line of twelve words; anything much longer is another file.
const PHRASE_LIMIT_BYTES: u64 = 4096;

/// Join an account with the code that `hearth device add` shows on another machine
///
/// Returns once this machine is enrolled and syncing. Files of both sides are united.
#[derive(Debug, Args)]
pub(crate) struct Join {
    /// The code: a number and three words, as in 7-word-word-word
    #[arg(required_unless_present = "phrase_file", conflicts_with = "phrase_file")]
    code: Option<String>,
    /// Join with the recovery phrase in this file instead
    #[arg(long, value_name = "FILE")]
    phrase_file: Option<PathBuf>,
    /// Address of the account's relay
    #[arg(long, value_name = "ADDR", value_parser = RelayAddress::parse)]
    relay: RelayAddress,
    /// What to call this machine [default: its host name]
    #[arg(long)]
    name: Option<String>,
    /// Whose desktop settings count
    #[arg(long, value_enum, default_value_t = Settings::Merge)]
    settings: Settings,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Settings {
    /// Both; the account's where they differ
    Merge,
    /// The account's
    Account,
    /// This machine's
    Mine,
}

impl Join {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let bus = context.bus().await?;
        let (method, secret) = match (self.phrase_file, self.code) {
            (Some(file), _) => ("JoinPhrase", read_phrase(&file)?),
            (None, code) => ("Join", code.unwrap_or_default()),
        };
        let settings = match self.settings {
            Settings::Merge => "merge",
            Settings::Account => "account",
            Settings::Mine => "mine",
        };
        let name = self.name.unwrap_or_else(init::host_name);
        let arguments = (secret, self.relay.to_string(), name, settings);
        let result = progress::call(&bus, method, &arguments, context, "joining").await?;
        context.show(&result, |result| {
            let (device, account) = (text(result, "device"), text(result, "account"));
            format!(
                "This machine is {device}, a device of account {account}, and is syncing.\n\
                 `hearth status` shows how far it is; `hearth wait` returns once all is here.\n"
            )
        })
    }
}

fn read_phrase(path: &Path) -> Result<String, Failure> {
    let mut phrase = String::new();
    File::open(path)
        .and_then(|file| file.take(PHRASE_LIMIT_BYTES).read_to_string(&mut phrase))
        .map_err(|error| Failure::file("read the phrase from", path, &error))?;
    Ok(phrase.split_whitespace().collect::<Vec<_>>().join(" "))
}
