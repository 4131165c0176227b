//! Which of two values protects less.
//!
//! A value that came from another machine is applied in silence if it protects as much as the one here or more; a
//! laxer one waits until the person sets it here. Where no direction is known, any other value counts as laxer.

use glib::Variant;
use hearth_schemas::item::SettingValue;

use crate::settings::value;

#[derive(Clone, Copy)]
enum Stricter {
    True,
    False,
    /// The smaller number.
    Low,
    /// The smaller number, and 0 or less means never.
    LowButZero,
    /// The larger number.
    High,
    /// This word.
    Word(&'static str),
}

const DIRECTIONS: &[(&str, &str, Stricter)] = &[
    ("org.gnome.desktop.media-handling", "automount", Stricter::False),
    ("org.gnome.desktop.media-handling", "automount-open", Stricter::False),
    ("org.gnome.desktop.media-handling", "autorun-never", Stricter::True),
    ("org.gnome.desktop.notifications", "show-in-lock-screen", Stricter::False),
    ("org.gnome.desktop.privacy", "hide-identity", Stricter::True),
    ("org.gnome.desktop.privacy", "old-files-age", Stricter::High),
    ("org.gnome.desktop.privacy", "recent-files-max-age", Stricter::LowButZero),
    ("org.gnome.desktop.privacy", "remember-app-usage", Stricter::False),
    ("org.gnome.desktop.privacy", "remember-recent-files", Stricter::False),
    ("org.gnome.desktop.privacy", "remove-old-temp-files", Stricter::False),
    ("org.gnome.desktop.privacy", "remove-old-trash-files", Stricter::False),
    ("org.gnome.desktop.privacy", "report-technical-problems", Stricter::False),
    ("org.gnome.desktop.privacy", "send-software-usage-stats", Stricter::False),
    ("org.gnome.desktop.privacy", "show-full-name-in-top-bar", Stricter::False),
    ("org.gnome.desktop.privacy", "usb-protection", Stricter::True),
    ("org.gnome.desktop.privacy", "usb-protection-level", Stricter::Word("always")),
    ("org.gnome.desktop.screen-time-limits", "daily-limit-enabled", Stricter::True),
    ("org.gnome.desktop.screen-time-limits", "daily-limit-seconds", Stricter::Low),
    ("org.gnome.desktop.screensaver", "lock-delay", Stricter::Low),
    ("org.gnome.desktop.screensaver", "lock-enabled", Stricter::True),
    ("org.gnome.desktop.screensaver", "show-full-name-in-top-bar", Stricter::False),
    ("org.gnome.desktop.screensaver", "status-message-enabled", Stricter::False),
    ("org.gnome.desktop.screensaver", "user-switch-enabled", Stricter::False),
    ("org.gnome.desktop.session", "idle-delay", Stricter::LowButZero),
    ("org.gnome.settings-daemon.plugins.media-keys.custom-keybinding", "enable-in-lockscreen", Stricter::False),
];

/// Whether the new value of a key protects less than the old; `None` is a value that nobody knows.
pub fn laxer(schema: &str, key: &str, old: Option<&SettingValue>, new: Option<&SettingValue>) -> bool {
    if old == new && old.is_some() {
        return false;
    }
    let direction = DIRECTIONS.iter().find(|line| line.0 == schema && line.1 == key);
    let read = |value: Option<&SettingValue>| value.and_then(|value| value::to_variant(value).ok());
    let (Some((_, _, stricter)), Some(old), Some(new)) = (direction, read(old), read(new)) else {
        return true;
    };
    match stricter {
        Stricter::True => new.get::<bool>() != Some(true),
        Stricter::False => new.get::<bool>() != Some(false),
        Stricter::Word(word) => new.str() != Some(*word),
        Stricter::Low | Stricter::High | Stricter::LowButZero => match (number(&old), number(&new)) {
            (Some(old), Some(new)) => laxer_number(*stricter, old, new),
            // Not a number, so no direction is known.
            _ => true,
        },
    }
}

fn laxer_number(stricter: Stricter, old: i64, new: i64) -> bool {
    let never_last = |number: i64| if number <= 0 { i64::MAX } else { number };
    match stricter {
        Stricter::High => new < old,
        Stricter::LowButZero => never_last(new) > never_last(old),
        Stricter::Low | Stricter::True | Stricter::False | Stricter::Word(_) => new > old,
    }
}

fn number(variant: &Variant) -> Option<i64> {
    value::convert(variant, "x")?.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_laxer_value_is_told_from_a_stricter_one() {
        for (schema, key, old, new, expected) in [
            ("org.gnome.desktop.screensaver", "lock-enabled", "true", "false", true),
            ("org.gnome.desktop.screensaver", "lock-enabled", "false", "true", false),
            ("org.gnome.desktop.screensaver", "lock-delay", "uint32 0", "uint32 30", true),
            ("org.gnome.desktop.session", "idle-delay", "uint32 300", "uint32 0", true),
            ("org.gnome.desktop.session", "idle-delay", "uint32 0", "uint32 300", false),
            ("org.gnome.desktop.privacy", "old-files-age", "uint32 30", "uint32 1", true),
            ("org.gnome.desktop.privacy", "usb-protection-level", "'lockscreen'", "'always'", false),
            ("org.gnome.desktop.privacy", "old-files-age", "'for ever'", "uint32 1", true),
            ("org.gnome.desktop.session", "idle-delay", "uint32 300", "'never'", true),
            ("org.gnome.desktop.screensaver", "lock-delay", "'x'", "'y'", true),
            ("org.example", "unknown", "true", "false", true),
            ("org.example", "unknown", "true", "true", false),
        ] {
            let [old, new] = [old, new].map(|text| value::parse(text, None).expect("a value"));
            assert_eq!(laxer(schema, key, Some(&old), Some(&new)), expected, "{schema} {key}");
        }
    }
}
