//! A single save: from the write on one machine until the whole file is on the other, among 20,000 files.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::report::{Goal, Report, quantile};
use crate::world::World;

const SAVES: u64 = 50;
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn measure(world: &World, report: &mut Report) -> Result<()> {
    let mut samples = Vec::new();
    for number in 0..SAVES {
        // Pauses of a person, of uneven length, so that no timer keeps step with them.
        thread::sleep(Duration::from_millis(400 + number * 137 % 600));
        let text = format!("draft {number}\n{}", "as people write\n".repeat(40));
        let begun = Instant::now();
        world.laptop.write("source/letter.txt", &text)?;
        let seen = world.desktop.until_content("source/letter.txt", text.as_bytes(), LIMIT)?;
        samples.push(seen.duration_since(begun).as_secs_f64());
    }
    report.median("one save, seen on the other machine: median of 50", &samples, "s", Some(Goal::AtMost(0.5)));
    report.add("one save, seen on the other machine: 95 %", quantile(&samples, 0.95), "s", None);
    Ok(())
}
