//! What the person asks of the settings engine, in the JSON shapes of the bus.

use serde_json::{Value, json};

use super::SettingsEngine;
use crate::settings::classify::{Class, Verdict};
use crate::settings::event::Kept;
use crate::settings::schema::Found;
use crate::settings::value;

impl SettingsEngine {
    /// The settings that are synced, or all whose key contains the pattern, or matches it where it has a `*`.
    pub fn list(&self, pattern: &str) -> Value {
        let known = self.local.keys().chain(self.account.keys()).chain(self.mine.keys());
        let known: std::collections::BTreeSet<&String> = known.collect();
        let mut rows = Vec::new();
        for path in known {
            let verdict = self.judge_known(path);
            let key = self.name(path);
            let wanted = match pattern {
                "" => verdict.class != Class::Never,
                _ => matches(pattern, &key) || matches(pattern, path),
            };
            if wanted {
                rows.push(json!({
                    "key": key,
                    "value": self.effective(path, &verdict),
                    "class": self.class_word(path, &verdict),
                    "by": verdict.by.to_string(),
                }));
            }
        }
        Value::Array(rows)
    }

    /// One setting and where it is set; `None` if nothing knows such a key.
    pub fn get(&self, key: &str) -> Option<Value> {
        let path = self.known(key)?;
        let verdict = self.judge_known(&path);
        let text = |value: Option<&hearth_schemas::item::SettingValue>| match verdict.has("secret") {
            true => Value::Null,
            false => value.map_or(Value::Null, |value| Value::String(value::text(value))),
        };
        let mut layers = Vec::new();
        if self.is_locked(&path) {
            layers.push(json!({ "layer": "locked by the administrator", "value": null }));
        }
        layers.push(json!({ "layer": "user", "value": text(self.local.get(&path)) }));
        layers.push(json!({ "layer": "device", "value": text(self.mine.get(&path).and_then(Option::as_ref)) }));
        let account = self.account.get(&path).and_then(|account| account.value.as_ref());
        layers.push(json!({ "layer": "account", "value": text(account) }));
        layers.push(json!({ "layer": "default", "value": text(self.default(&path).as_ref()) }));
        Some(json!({
            "key": self.name(&path),
            "path": path,
            "value": self.effective(&path, &verdict),
            "class": self.class_word(&path, &verdict),
            "by": verdict.by.to_string(),
            "layers": layers,
        }))
    }

    /// One setting, how it is treated, and which line decided.
    pub fn explain(&self, key: &str) -> Option<Value> {
        let path = self.known(key)?;
        let verdict = self.judge_known(&path);
        let mut answer = self.get(key)?;
        let reason = match (self.kept.get(&path), self.waiting.get(&path)) {
            (Some(Kept::Joined), _) => "you kept this machine's value when it joined".to_owned(),
            (Some(Kept::Quarantined), _) => "something on this machine keeps changing it".to_owned(),
            (None, Some(waiting)) => format!("{}; the account's value waits: {}", verdict.reason, waiting.what),
            (None, None) => verdict.reason.to_string(),
        };
        let flags: Vec<&str> = verdict.flags.iter().map(|flag| &**flag).collect();
        answer["line"] = json!(&*verdict.line);
        answer["source"] = json!(verdict.source.word());
        answer["reason"] = json!(reason);
        answer["gate"] = json!(&*verdict.gate);
        answer["flags"] = json!(flags);
        Some(answer)
    }

    /// The changes of one setting on this machine, newest first.
    pub fn history(&self, key: &str) -> Option<Value> {
        let path = self.known(key)?;
        let entry = |entry: &crate::settings::event::HistoryEntry| {
            let text = |value: &Option<_>| value.as_ref().map(value::text);
            json!({
                "time": rfc3339(entry.time_ms),
                "device": entry.device,
                "old": text(&entry.old),
                "new": text(&entry.new),
                "cause": entry.cause.word(),
            })
        };
        Some(Value::Array(self.history.of(&path).map(entry).collect()))
    }

    /// The path that a key of the person means, if anything knows it.
    fn known(&self, key: &str) -> Option<String> {
        let path = self.schemas.resolve(key)?;
        let known = self.local.contains_key(&path)
            || self.account.contains_key(&path)
            || self.mine.contains_key(&path)
            || self.history.of(&path).next().is_some()
            || matches!(self.schemas.find(&path), Found::Key(..));
        known.then_some(path)
    }

    fn judge_known(&self, path: &str) -> Verdict {
        let account = self.account.get(path).and_then(|account| account.value.as_ref());
        let kind = self.local.get(path).or(account).map_or("", |value| value.kind.as_str());
        self.judge(path, kind)
    }

    fn class_word(&self, path: &str, verdict: &Verdict) -> String {
        match self.kept.contains_key(path) {
            true => Class::Device.to_string(),
            false => verdict.class.to_string(),
        }
    }

    fn effective(&self, path: &str, verdict: &Verdict) -> Option<String> {
        if verdict.has("secret") {
            return None;
        }
        self.local.get(path).cloned().or_else(|| self.default(path)).map(|value| value::text(&value))
    }

    fn name(&self, path: &str) -> String {
        match self.schemas.find(path) {
            Found::Key(schema, _) if self.schemas.is_fixed(schema) => {
                format!("{schema}:{}", path.rsplit('/').next().unwrap_or_default())
            }
            _ => path.to_owned(),
        }
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    match pattern.contains('*') {
        true => crate::settings::classify::glob(&pattern.to_lowercase(), &text.to_lowercase()),
        false => text.to_lowercase().contains(&pattern.to_lowercase()),
    }
}

/// A time in milliseconds since 1970 as RFC 3339 in UTC, to the second.
fn rfc3339(ms: u64) -> String {
    let secs = ms / 1000;
    let (days, rest) = (secs / 86_400, secs % 86_400);
    // Days of the civil calendar, counted in eras of 400 years from 1 March of year 0.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn times_are_written_as_the_bus_says() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_735_689_599_999), "2024-12-31T23:59:59Z");
    }
}
