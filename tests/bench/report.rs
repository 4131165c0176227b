//! What was measured, as a table for people and JSON for scripts.

use std::io::{self, Write};

use serde_json::{Value, json};

/// Everything measured in this run.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

/// One figure.
struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    /// The most, or least, that it should be.
    goal: Option<Goal>,
    samples: Vec<f64>,
}

/// What a figure should be.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    fn words(self) -> String {
        match self {
            Self::AtMost(limit) => format!("≤ {limit}"),
            Self::AtLeast(limit) => format!("≥ {limit}"),
        }
    }
}

impl Report {
    /// Adds one figure.
    pub(crate) fn add(&mut self, name: &str, value: f64, unit: &'static str, goal: Option<Goal>) {
        self.push(Row { name: name.to_owned(), value, unit, goal, samples: vec![value] });
    }

    /// Adds the median of several, and keeps them all. Returns the median.
    pub(crate) fn median(&mut self, name: &str, samples: &[f64], unit: &'static str, goal: Option<Goal>) -> f64 {
        let value = quantile(samples, 0.5);
        self.push(Row { name: name.to_owned(), value, unit, goal, samples: samples.to_vec() });
        value
    }

    fn push(&mut self, row: Row) {
        // Somebody may be watching a run of many minutes.
        let _ = writeln!(io::stderr(), "{}: {} {}", row.name, shown(row.value), row.unit);
        self.rows.push(row);
    }

    /// Returns the table.
    pub(crate) fn table(&self) -> String {
        let mut table = format!("{:<52} {:>10} {:<6} {:>8}   {}\n", "", "", "", "goal", "min – max");
        for row in &self.rows {
            let (goal, mark) = match row.goal {
                Some(goal) if goal.met(row.value) => (goal.words(), "✓"),
                Some(goal) => (goal.words(), "✗"),
                None => (String::new(), " "),
            };
            let spread = match row.samples.len() {
                0 | 1 => String::new(),
                _ => format!("{} – {}", shown(quantile(&row.samples, 0.0)), shown(quantile(&row.samples, 1.0))),
            };
            let (name, value, unit) = (&row.name, shown(row.value), row.unit);
            table += &format!("{name:<52} {value:>10} {unit:<6} {goal:>8} {mark} {spread}\n");
        }
        table
    }

    /// Returns the JSON.
    pub(crate) fn json(&self) -> Value {
        let row = |row: &Row| {
            json!({
                "name": row.name,
                "value": row.value,
                "unit": row.unit,
                "goal": row.goal.map(Goal::words),
                "met": row.goal.map(|goal| goal.met(row.value)),
                "samples": row.samples,
            })
        };
        Value::Array(self.rows.iter().map(row).collect())
    }
}

/// Returns the value below which this share of the samples lies.
pub(crate) fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

fn shown(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}
