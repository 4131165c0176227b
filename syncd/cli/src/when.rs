//! Points in time, as a person types and reads them.

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Unit};

/// Reads `2026-01-31T18:00:00Z`, `2026-01-31 18:00`, `2026-01-31` and `18:00` (local time), or `2h ago`.
pub(crate) fn parse(text: &str) -> Result<Timestamp, String> {
    parse_at(text.trim(), Timestamp::now(), &TimeZone::system())
        .ok_or_else(|| "write it as 2026-01-31T18:00:00Z, 2026-01-31 18:00 or 2h ago".to_owned())
}

fn parse_at(text: &str, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    if let Ok(local) = text.parse::<DateTime>() {
        return zone.to_timestamp(local).ok();
    }
    if let Ok(time) = text.parse::<Time>() {
        // The last time that the clock showed it.
        let today = now.to_zoned(zone.clone()).date();
        let then = zone.to_timestamp(today.to_datetime(time)).ok()?;
        let yesterday = || zone.to_timestamp(today.yesterday().ok()?.to_datetime(time)).ok();
        return if then <= now { Some(then) } else { yesterday() };
    }
    let span: Span = text.parse().ok().filter(|span: &Span| span.is_negative())?;
    now.to_zoned(zone.clone()).checked_add(span).ok().map(|then| then.timestamp())
}

/// How long ago something was, in one unit; for what lies ahead, how long until then.
pub(crate) fn relative(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs();
    let amount = amount(seconds.unsigned_abs());
    match seconds {
        -1..=1 => "just now".to_owned(),
        2.. => format!("{amount} ago"),
        _ => format!("in {amount}"),
    }
}

fn amount(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..60 => (seconds, "s"),
        60..3_600 => (seconds / 60, "min"),
        3_600..86_400 => (seconds / 3_600, "h"),
        86_400..172_800 => (1, "day"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{count} {unit}")
}

/// The local date and time of day, to the second.
pub(crate) fn local(then: Timestamp) -> String {
    let zoned = then.to_zoned(TimeZone::system());
    let whole = zoned.round(Unit::Second).unwrap_or(zoned);
    whole.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_in_the_ways_people_write_it() {
        let now: Timestamp = "2026-01-31T18:00:00Z".parse().expect("valid");
        let table = [
            ("2026-01-30T12:00:00Z", Some("2026-01-30T12:00:00Z")),
            ("2026-01-30T12:00:00+02:00", Some("2026-01-30T10:00:00Z")),
            ("2026-01-30 12:30", Some("2026-01-30T12:30:00Z")),
            ("2026-01-30", Some("2026-01-30T00:00:00Z")),
            ("14:02", Some("2026-01-31T14:02:00Z")),
            ("18:01", Some("2026-01-30T18:01:00Z")),
            ("2h ago", Some("2026-01-31T16:00:00Z")),
            ("3 days ago", Some("2026-01-28T18:00:00Z")),
            ("2h", None),
            ("yesterdayish", None),
            ("", None),
        ];
        for (text, wanted) in table {
            let wanted = wanted.map(|time| time.parse().expect("valid"));
            assert_eq!(parse_at(text, now, &TimeZone::UTC), wanted, "{text}");
        }
    }

    #[test]
    fn a_distance_is_shown_in_one_unit() {
        let now: Timestamp = "2026-01-31T18:00:00Z".parse().expect("valid");
        let table = [
            (0, "just now"),
            (3, "3 s ago"),
            (59, "59 s ago"),
            (61, "1 min ago"),
            (3_600, "1 h ago"),
            (90_000, "1 day ago"),
            (400_000, "4 days ago"),
            (-600, "in 10 min"),
        ];
        for (seconds, wanted) in table {
            assert_eq!(relative(now - jiff::SignedDuration::from_secs(seconds), now), wanted);
        }
    }
}
