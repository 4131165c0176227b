//! A relay and the two ends of a connection made with iroh's library: what the bare ends of the benchmark do, done by iroh.
//!
//! usage: `iroh-peer relay IP FOLDER`, `iroh-peer answer PLACE`, `iroh-peer meet PLACE ID BYTES`,
//! `iroh-peer carry PLACE ID BYTES`, `iroh-peer echo PLACE ID SECONDS`. PLACE is `FOLDER RELAY_IP WAY`: where the relay
//! has left its certificate, its address, and `direct`, `relay` or `any`, the way that is waited for; with `relay` no other
//! is there at all, with `any` none is waited for. An HTTP proxy comes from the environment. The relay prints `ready`, who answers its id, and
//! the others a line for each thing measured, with a name and seconds or a number.

mod end;
mod relay;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::end::{End, Place};

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // As many threads as the bare ends of ours have.
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    threads.context("starting threads")?.block_on(async {
        match words[..] {
            ["relay", ip, folder] => relay::serve(ip.parse().context("an address")?, folder.as_ref()).await,
            ["answer", folder, relay, way] => End::start(Place::new(folder, relay, way)?).await?.answer().await,
            ["meet", folder, relay, way, id, bytes] => {
                End::start(Place::new(folder, relay, way)?).await?.meet(id.parse()?, bytes.parse()?).await
            }
            ["carry", folder, relay, way, id, bytes] => {
                End::start(Place::new(folder, relay, way)?).await?.carry(id.parse()?, bytes.parse()?).await
            }
            ["echo", folder, relay, way, id, seconds] => {
                End::start(Place::new(folder, relay, way)?).await?.echo(id.parse()?, seconds.parse()?).await
            }
            _ => bail!("the head of src/main.rs says what there is"),
        }
    })
}
