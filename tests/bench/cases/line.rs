//! What one stream gets of a long line, clean and lossy, and how long an echo takes beside it.

use anyhow::{Context, Result};
use hearth_tests::lab::{Lab, RELAY_IP};
use hearth_tests::link::Line;
use hearth_tests::relay::Relay;
use hearth_tests::scratch::Scratch;

use crate::bare;
use crate::report::Report;
use crate::tools::Which;

/// Packets lost of a hundred, each way.
const LOST: [u32; 3] = [0, 1, 2];
const KBIT: u32 = 100_000;
const BYTES: u64 = 48 << 20;

/// Measures on each line, so many times.
pub(crate) fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    for percent in LOST {
        for (how, direct) in [("straight", true), ("by the relay", false)] {
            for _ in 0..rounds {
                let scratch = Scratch::new()?;
                let mut lab = Lab::new(&["laptop"], scratch.path())?;
                lab.add_far("desktop", 3, Line { delay_ms: 20, lost_ppm: percent * 10_000, kbit: KBIT })?;
                let room = lab.host("relay")?;
                let relay = Relay::start_logging(&scratch.path().join("relay"), Some(room), RELAY_IP, "warn")?;
                let (from, to) = (lab.host("laptop")?.network(), lab.host("desktop")?.network());
                let carried = bare::between(relay.address(), &from, &to, BYTES, direct)?;
                let name = |what: &str| format!("{percent} % lost, {how}: {what}");
                let share = BYTES as f64 * 8.0 / carried.took.as_secs_f64() / f64::from(KBIT * 1000);
                report.sample(&name("a stream's share of the line"), Which::Hearth, share, "×");
                let (packets, lost) = carried.packets;
                report.sample(&name("held for lost"), Which::Hearth, 100.0 * lost as f64 / packets as f64, "%");
                for (when, mut echoes) in [("idle", carried.idle), ("beside the stream", carried.busy)] {
                    echoes.sort_unstable();
                    let of = |part: usize| echoes.get(echoes.len() * part / 100).context("an echo");
                    let (median, late) = (of(50)?.as_secs_f64() * 1e3, of(95)?.as_secs_f64() * 1e3);
                    report.sample(&name(&format!("echo, {when}")), Which::Hearth, median, "ms");
                    report.sample(&name(&format!("echo, {when}, 95 %")), Which::Hearth, late, "ms");
                }
            }
        }
    }
    Ok(())
}
