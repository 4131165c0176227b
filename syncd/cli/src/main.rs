//! `hearth`, the command line: asks the daemon over the bus interface and shows what it says.
//!
//! Arguments go from [`args`] to one file under [`command`] each, questions through [`bus`], answers through
//! [`render`], failures through [`error`] to two lines and an exit code. Decides nothing about syncing: whatever this
//! program can do, any other client of the bus can do too.

use std::panic::PanicHookInfo;
use std::process::ExitCode;

use clap::Parser;

use args::Arguments;
use command::Context;
use error::Failure;

mod args;
mod bus;
mod command;
mod error;
#[cfg(test)]
mod reference;
mod render;
mod when;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_bug));
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run() -> Result<(), Failure> {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => return Err(Failure::from(error)),
        Err(help_or_version) => return render::print(&help_or_version.render().to_string()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}"), "free some memory or descriptors"))?;
    let context = Context::new(arguments.json)?;
    runtime.block_on(command::run(arguments.command, &context))
}

/// A panic is reported in the same two lines as any failure, and ends the program at once.
fn report_bug(panic: &PanicHookInfo<'_>) {
    let what = panic.payload_as_str().unwrap_or("a panic without a message");
    let place = panic.location().map(|place| format!(" ({}:{})", place.file(), place.line())).unwrap_or_default();
    Failure::bug(format!("{what}{place}; this is a bug")).report();
    std::process::exit(error::Exit::Bug as i32);
}
