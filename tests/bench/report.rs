//! What was measured, as a table for people and JSON for scripts: a row for each metric, a column for each tool.

use std::borrow::Cow;
use std::io::{self, Write};

use serde_json::{Value, json};

use crate::cases::Cost;
use crate::tools::Which;

/// Everything measured in this run.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
    /// Beside [`GOALS`].
    goals: Vec<Goal>,
}

/// One metric.
struct Row {
    name: String,
    unit: &'static str,
    samples: Vec<(Which, Vec<f64>)>,
}

/// What a median of ours should be.
#[derive(Clone)]
pub(crate) struct Goal {
    /// Its number in docs/benchmarks.md, or 0.
    number: u8,
    metric: Cow<'static, str>,
    bound: Bound,
}

/// Against what.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    /// At most this, in the metric's unit.
    AtMost(f64),
    /// At most this times what another tool needs.
    Times(f64, Which),
    /// At least this, in the metric's unit.
    AtLeast(f64),
    /// At least this times what another tool has.
    AtLeastTimes(f64, Which),
}

/// What is checked where a run has measured it.
const GOALS: &[Goal] = &[
    Goal::new(1, "first sync of 20,000 files: seen", Bound::Times(1.3, Which::Rsync)),
    Goal::new(2, "first sync of 20,000 files: CPU of both sides", Bound::Times(1.8, Which::Rsync)),
    Goal::new(3, "first sync of 1 GiB: seen", Bound::Times(2.0, Which::Rsync)),
    Goal::new(3, "first sync of 1 GiB: CPU of both sides", Bound::AtMost(4.0)),
    Goal::new(4, "near, save: seen", Bound::AtMost(0.15)),
    Goal::new(5, "near, save: CPU of both sides", Bound::AtMost(3.0)),
    Goal::new(6, "near, save: wire", Bound::AtMost(1.4)),
    Goal::new(7, "checkout of 2,000 files: seen", Bound::Times(1.2, Which::Rsync)),
    Goal::new(7, "checkout of 2,000 files: wire ÷ rewritten", Bound::AtMost(0.10)),
    Goal::new(8, "rename of 5,000 files: seen", Bound::AtMost(0.3)),
    Goal::new(8, "rename of 5,000 files: wire", Bound::AtMost(20.0)),
    Goal::new(8, "rename of 5,000 files: CPU of both sides", Bound::AtMost(0.05)),
    Goal::new(9, "delete of 5,000 files: seen", Bound::Times(1.0, Which::Rsync)),
    Goal::new(10, "1 KiB inserted in 256 MiB: wire", Bound::AtMost(64.0)),
    Goal::new(10, "1 KiB inserted in 256 MiB: seen", Bound::Times(1.5, Which::Rsync)),
    Goal::new(11, "64 KiB appended to 256 MiB: wire", Bound::AtMost(90.0)),
    Goal::new(11, "64 KiB appended to 256 MiB: seen", Bound::AtMost(0.85)),
    Goal::new(11, "4 KiB overwritten in 256 MiB: wire", Bound::AtMost(32.0)),
    Goal::new(11, "4 KiB overwritten in 256 MiB: seen", Bound::AtMost(0.85)),
    Goal::new(12, "100,000 equal files: agreed", Bound::AtMost(6.0)),
    Goal::new(12, "100,000 equal files: wire", Bound::AtMost(0.2)),
    Goal::new(13, "restart with 100,000: change seen", Bound::AtMost(0.6)),
    Goal::new(13, "restart with 100,000: CPU of both sides", Bound::AtMost(1.0)),
    Goal::new(14, "idle with 100,000: CPU of the laptop", Bound::AtMost(1.0)),
    Goal::new(14, "idle with 100,000: CPU of the desktop", Bound::AtMost(1.0)),
    Goal::new(15, "idle with 100,000: memory of the laptop", Bound::AtMost(30.0)),
    Goal::new(15, "idle with 100,000: memory of the desktop", Bound::AtMost(30.0)),
    Goal::new(16, "first sync of 20,000 files: peak memory", Bound::AtMost(40.0)),
    Goal::new(17, "far, first sync of 2,000 files: seen", Bound::Times(0.75, Which::Rsync)),
    Goal::new(18, "far, save: seen", Bound::AtMost(0.2)),
    Goal::new(19, "far and lossy, first sync of 2,000 files: seen", Bound::Times(1.0, Which::Rsync)),
    Goal::new(19, "far and lossy, save: seen", Bound::AtMost(0.3)),
    Goal::new(20, "properties that arrive", Bound::AtLeast(44.0)),
    Goal::new(21, "races in which a content is lost", Bound::AtMost(0.0)),
    Goal::new(21, "races that a person has to look at", Bound::AtMost(5.0)),
    Goal::new(0, "one file of 1 GiB: hearth ÷ bare stream", Bound::AtLeast(0.7)),
];

impl Goal {
    const fn new(number: u8, metric: &'static str, bound: Bound) -> Self {
        Self { number, metric: Cow::Borrowed(metric), bound }
    }

    /// What it is in words, and whether a row meets it; nothing where the other tool was not measured.
    fn judge(&self, row: &Row) -> Option<(String, bool)> {
        let ours = row.median(Which::Hearth)?;
        Some(match self.bound {
            Bound::AtMost(limit) => (format!("≤ {limit}"), ours <= limit),
            Bound::AtLeast(limit) => (format!("≥ {limit}"), ours >= limit),
            Bound::Times(factor, which) => {
                let ratio = ours / row.median(which)?;
                (format!("{ratio:.2} ≤ {factor} × {}", which.name()), ratio <= factor)
            }
            Bound::AtLeastTimes(factor, which) => {
                let ratio = ours / row.median(which)?;
                (format!("{ratio:.2} ≥ {factor} × {}", which.name()), ratio >= factor)
            }
        })
    }
}

impl Row {
    fn median(&self, which: Which) -> Option<f64> {
        let (_, samples) = self.samples.iter().find(|(other, _)| *other == which)?;
        Some(quantile(samples, 0.5))
    }
}

impl Report {
    /// Adds one measurement.
    pub(crate) fn sample(&mut self, metric: &str, which: Which, value: f64, unit: &'static str) {
        // Somebody may be watching a run of many minutes.
        let _ = writeln!(io::stderr(), "{:>10}  {metric}: {} {unit}", which.name(), shown(value));
        let row = match self.rows.iter_mut().position(|row| row.name == metric) {
            Some(at) => &mut self.rows[at],
            None => {
                self.rows.push(Row { name: metric.to_owned(), unit, samples: Vec::new() });
                let last = self.rows.len() - 1;
                &mut self.rows[last]
            }
        };
        match row.samples.iter_mut().find(|(other, _)| *other == which) {
            Some((_, samples)) => samples.push(value),
            None => row.samples.push((which, vec![value])),
        }
    }

    /// Sets what a metric should be that has no goal in [`GOALS`].
    pub(crate) fn expect(&mut self, metric: &str, bounds: &[Bound]) {
        if !self.goals.iter().any(|goal| goal.metric == metric) {
            let metric = || Cow::Owned(metric.to_owned());
            self.goals.extend(bounds.iter().map(|bound| Goal { number: 0, metric: metric(), bound: *bound }));
        }
    }

    /// Returns what is judged of a row: in words, whether it is met, and its number.
    fn judged(&self, row: &Row) -> Vec<(String, bool, u8)> {
        let goals = GOALS.iter().chain(&self.goals).filter(|goal| goal.metric == row.name);
        goals.filter_map(|goal| goal.judge(row).map(|(words, met)| (words, met, goal.number))).collect()
    }

    /// Adds a remark.
    pub(crate) fn note(&mut self, text: &str) {
        let _ = writeln!(io::stderr(), "{text}");
        self.notes.push(text.to_owned());
    }

    /// Adds what a change took.
    pub(crate) fn cost(&mut self, change: &str, which: Which, cost: Cost) {
        self.sample(&format!("{change}: seen"), which, cost.wall, "s");
        self.sample(&format!("{change}: CPU of both sides"), which, cost.cpu, "s");
        self.sample(&format!("{change}: wire"), which, cost.wire, "kB");
    }

    /// Returns the table of medians, with the least and the most of ours.
    pub(crate) fn table(&self) -> String {
        let mut table = format!("{:<48} {:<7}", "", "");
        let measured = |which: &Which| self.rows.iter().any(|row| row.median(*which).is_some());
        let tools: Vec<Which> = Which::ALL.into_iter().filter(measured).collect();
        for which in &tools {
            table += &format!("{:>11}", which.name());
        }
        table += &format!("   {:<20} {}\n", "ours, min – max", "goal");
        for row in &self.rows {
            table += &format!("{:<48} {:<7}", row.name, row.unit);
            for which in &tools {
                table += &format!("{:>11}", row.median(*which).map_or_else(|| "–".to_owned(), shown));
            }
            table += &format!("   {:<20} {}\n", row.spread(), self.goals_of(row));
        }
        for note in &self.notes {
            table += &format!("{note}\n");
        }
        table
    }

    fn goals_of(&self, row: &Row) -> String {
        let shown = |(words, met, number): (String, bool, u8)| {
            let number = if number == 0 { String::new() } else { format!(" ({number})") };
            format!("{} {words}{number}", if met { "✓" } else { "✗" })
        };
        self.judged(row).into_iter().map(shown).collect::<Vec<_>>().join("; ")
    }

    /// Returns the JSON.
    pub(crate) fn json(&self) -> Value {
        let row = |row: &Row| {
            let samples: serde_json::Map<String, Value> =
                row.samples.iter().map(|(which, samples)| (which.name().to_owned(), json!(samples))).collect();
            let judged = self.judged(row).into_iter();
            let goals: Vec<Value> = judged.map(|(words, met, _)| json!({ "goal": words, "met": met })).collect();
            json!({ "metric": row.name, "unit": row.unit, "samples": samples, "goals": goals })
        };
        Value::Array(self.rows.iter().map(row).collect())
    }
}

impl Row {
    fn spread(&self) -> String {
        match self.samples.iter().find(|(which, _)| *which == Which::Hearth) {
            Some((_, samples)) if samples.len() > 1 => {
                format!("{} – {}", shown(quantile(samples, 0.0)), shown(quantile(samples, 1.0)))
            }
            _ => String::new(),
        }
    }
}

/// Returns the value below which this share of the samples lies.
fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

fn shown(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}
