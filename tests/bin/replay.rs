//! Plays random worlds again: `cargo replay SEED` tells what happens in one, `cargo replay FROM..TO` which of many fail.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use hearth_tests::sim::random::{Hardships, play};

#[expect(clippy::print_stderr, reason = "a program for people")]
fn main() -> ExitCode {
    let argument = std::env::args().nth(1).unwrap_or_default();
    if let Some((from, to)) = argument.split_once("..")
        && let (Ok(from), Ok(to)) = (from.parse(), to.parse())
    {
        return survey(from, to);
    }
    let Ok(seed) = argument.parse() else {
        eprintln!("usage: cargo replay SEED | FROM..TO");
        return ExitCode::from(2);
    };
    eprintln!("{:?}", Hardships::of(seed));
    play(seed, true);
    eprintln!("seed {seed}: all in order");
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "a program for people")]
fn survey(from: u64, to: u64) -> ExitCode {
    let why = Arc::new(Mutex::new(String::new()));
    let told = Arc::clone(&why);
    set_hook(Box::new(move |panic| {
        let place = panic.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("");
        let text: String = text.lines().take(3).collect::<Vec<_>>().join(" ").chars().take(160).collect();
        *told.lock().unwrap_or_else(PoisonError::into_inner) = format!("{place} {text}");
    }));
    let mut failed = 0u64;
    for seed in from..to {
        if catch_unwind(AssertUnwindSafe(|| play(seed, false))).is_err() {
            failed += 1;
            let why = why.lock().unwrap_or_else(PoisonError::into_inner);
            eprintln!("seed {seed} ({}): {why}", seed % 16);
        }
    }
    eprintln!("{failed} of {} failed", to.saturating_sub(from));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
