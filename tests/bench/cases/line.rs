//! What one stream gets of a long line, clean and lossy, and how long an echo takes beside it. Ours and iroh's take turns.

use anyhow::{Context, Result};
use hearth_tests::lab::Lab;
use hearth_tests::link::Line;
use hearth_tests::scratch::Scratch;

use crate::ends::Ground;
use crate::report::Report;
use crate::tools::Which;

/// Packets lost of a hundred, each way.
const LOST: [u32; 3] = [0, 1, 2];
const KBIT: u32 = 100_000;
const BYTES: u64 = 48 << 20;
/// What iroh has to send where packets are lost, so that it takes a minute and not ten.
const BYTES_OF_IROH: u64 = 8 << 20;

/// Measures on each line, so many times.
pub(crate) fn measure(tools: &[Which], rounds: usize, report: &mut Report) -> Result<()> {
    for percent in LOST {
        for (how, way) in [("straight", "direct"), ("by the relay", "relay")] {
            for _ in 0..rounds {
                for which in tools.iter().copied().filter(|which| which.is_library()) {
                    carry(which, percent, how, way, report).with_context(|| format!("{percent} % lost, {how}"))?;
                }
            }
        }
    }
    Ok(())
}

fn carry(which: Which, percent: u32, how: &str, way: &str, report: &mut Report) -> Result<()> {
    let scratch = Scratch::new()?;
    let mut lab = Lab::new(&["laptop"], scratch.path())?;
    lab.add_far("desktop", 3, Line { delay_ms: 20, lost_ppm: percent * 10_000, kbit: KBIT })?;
    let bytes = if which == Which::Iroh && percent > 0 { BYTES_OF_IROH } else { BYTES };
    let ground = Ground::of_lab(&lab, ["laptop", "desktop"], scratch.path())?;
    let carried = ground.start(which, ["carry", &bytes.to_string()], way)?.measured()?;
    let name = |what: &str| format!("{percent} % lost, {how}: {what}");
    let share = bytes as f64 * 8.0 / carried.one("there")? / f64::from(KBIT * 1000);
    report.sample(&name("a stream's share of the line"), which, share, "×");
    report.sample(&name("held for lost"), which, 100.0 * carried.one("lost")? / carried.one("sent")?, "%");
    for (when, measured) in [("idle", "idle"), ("beside the stream", "busy")] {
        let echoes = carried.all(measured);
        let of = |part: usize| echoes.get(echoes.len() * part / 100).copied().context("an echo");
        report.sample(&name(&format!("echo, {when}")), which, of(50)? * 1e3, "ms");
        report.sample(&name(&format!("echo, {when}, 95 %")), which, of(95)? * 1e3, "ms");
    }
    Ok(())
}
