//! The relay's command line: arguments, logging, start, stop. Everything else is the library's.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Parser, Subcommand};
use hearth_schemas::address::{AddressError, RelayAddress};
use relay_server::admission::{Admission, Limits};
use relay_server::data::DataDir;
use relay_server::listen::{Options, Server};
use relay_server::metrics::MetricsAt;
use relay_server::store::Store;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The relay of Hearth: presence, signals, the account log and forwarding of ciphertext.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a relay; the first line that it prints ends with its address.
    Serve {
        /// Directory for the relay's key and database; made if it is missing.
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// Address and port to listen on, for UDP and TCP; port 0 picks one and keeps it.
        #[arg(long, value_name = "ADDR")]
        listen: SocketAddr,
        /// Address and port to listen on for TCP, if another; devices come to the port of `--listen` with both.
        #[arg(long, value_name = "ADDR")]
        tcp: Option<SocketAddr>,
        /// Name or IP address under which devices reach this relay, if it is not the address listened on.
        #[arg(long, value_name = "NAME", value_parser = host)]
        host: Option<String>,
        /// Who may register an account.
        #[arg(long, value_enum, default_value_t)]
        admission: Admission,
        /// Where to be asked for metrics: path of a Unix socket, or loopback address and port.
        #[arg(long, value_name = "PATH|ADDR")]
        metrics: Option<MetricsAt>,
    },
    /// Makes an invitation for one account at a relay that was started with `--admission invite`, and prints it.
    Invite {
        /// The relay's directory.
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    match args.command {
        Command::Serve { data, listen, tcp, host, admission, metrics } => {
            serve(Options { data, listen, tcp, host, admission, metrics }).await
        }
        Command::Invite { data } => invite(&data),
    }
}

async fn serve(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let server = Server::start(&options).context("starting the relay")?;
    let mut out = io::stdout().lock();
    writeln!(out, "relay-server listens at {}", server.address()).and_then(|()| out.flush()).context("printing")?;
    drop(out);
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    server.run(stop).await.context("serving")?;
    tracing::info!("stopped");
    Ok(())
}

/// Takes what can stand in an address: a name, or an IP address without brackets.
fn host(text: &str) -> Result<String, AddressError> {
    let address = RelayAddress { host: text.to_owned(), port: 1, key: None };
    RelayAddress::parse(&address.to_string()).map(|address| address.host)
}

fn invite(data: &Path) -> anyhow::Result<()> {
    let data = DataDir::open(data)?;
    let store = Store::open(&data.database()?, Admission::Invite, Limits::default())?;
    let mut secret = [0; 16];
    getrandom::fill(&mut secret).context("drawing an invitation")?;
    let code = data_encoding::BASE32_NOPAD.encode(&secret).to_lowercase();
    store.invite(&code)?;
    writeln!(io::stdout(), "{code}").context("printing")
}
