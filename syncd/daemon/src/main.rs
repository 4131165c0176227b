//! `syncd`: the daemon in the foreground.
//!
//! Arguments, logging, start, stop. The private socket is bound first, because it is also the lock that keeps a
//! second daemon of this home away; the bus answers from then on, whatever becomes of the account.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use hearth_schemas::paths::Paths;
use syncd::bus::{Bus, PrivateSocket, Signals};
use syncd::service::Daemon;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Gives memory back to the system a few seconds after a burst of work, which glibc's does not.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long the end of the work may take.
const GOODBYE: Duration = Duration::from_secs(8);
/// How often a locked key ring is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Syncs this home with the person's other machines.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Serve the private socket alone, and leave the settings of the desktop in peace
    #[arg(long)]
    no_session_bus: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    // One worker: what a save sets off is many small steps, and each that goes to another thread costs more than itself. What
    // takes long has threads of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let run = runtime.context("starting the runtime").and_then(|runtime| {
        let done = runtime.block_on(run(&arguments));
        runtime.shutdown_timeout(Duration::from_secs(1));
        done
    });
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Err(error) = syncd::keys::harden() {
        tracing::warn!(%error, "this process could not be kept out of core dumps");
    }
    let uid = rustix::process::getuid().as_raw();
    let paths = Paths::resolve(|name| std::env::var_os(name), uid).context("HOME must be set, to an absolute path")?;
    for dir in [&paths.state, &paths.data] {
        private_dir(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let socket = PrivateSocket::bind(&paths.socket())?;
    let signals = Signals::default();
    let daemon = Arc::new(Daemon::new(paths, signals.clone(), !arguments.no_session_bus));
    let session_bus = if arguments.no_session_bus { None } else { zbus::Address::session().ok() };
    let bus = Bus::serve(socket, session_bus, Arc::clone(&daemon), &signals);
    syncd::notify::ready();

    let opening = Arc::clone(&daemon);
    let opening = tokio::spawn(async move {
        while opening.resume_account().await {
            tokio::time::sleep(AGAIN).await;
        }
    });
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let broken = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        () = daemon.broken() => true,
    };
    syncd::notify::stopping();
    opening.abort();
    drop(bus);
    if tokio::time::timeout(GOODBYE, daemon.stop()).await.is_err() {
        tracing::warn!("the work did not end in time; what is under way is taken up at the next start");
    }
    if broken {
        // The service manager starts it again.
        anyhow::bail!("the index was found damaged; it is rebuilt from disk and peers at the next start");
    }
    Ok(())
}

fn private_dir(dir: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}
