//! What the account holds is not what a machine sees: paths below the home.
//!
//! `/home/anna/x` and `file:///home/anna/x` become `{home}/x` and `file://{home}/x` on the way to the account, and the
//! reverse on the way back, with this machine's home. Other absolute paths stay as they are, and so do the names of
//! the standard folders: files lie at the same path below the home on all machines. A text that begins
//! with the mark itself gets one brace more, so that both ways lead back to where they came from.

use glib::Variant;
use glib::prelude::ToVariant;
use hearth_schemas::item::SettingValue;

use crate::settings::value;

const MARK: &str = "{home}";
const SCHEME: &str = "file://";

/// This machine's home, in the two ways that settings spell it.
#[derive(Clone, Debug)]
pub struct Home {
    path: String,
    uri: String,
}

impl Home {
    /// The home with this absolute path.
    pub fn new(path: &str) -> Self {
        let path = path.trim_end_matches('/').to_owned();
        // Spelled as GLib does, which is how programs of the desktop spell it.
        let uri = glib::filename_to_uri(&path, None).ok();
        let uri = uri.and_then(|uri| uri.strip_prefix(SCHEME).map(str::to_owned)).unwrap_or_default();
        Self { path, uri }
    }

    /// From this machine to the account.
    pub fn put(&self, given: &SettingValue) -> SettingValue {
        map_texts(given, |text| match text.strip_prefix(SCHEME) {
            Some(rest) => Some(format!("{SCHEME}{}", mark(rest, &self.uri)?)),
            None => mark(text, &self.path),
        })
    }

    /// From the account to this machine.
    pub fn get(&self, given: &SettingValue) -> SettingValue {
        map_texts(given, |text| match text.strip_prefix(SCHEME) {
            Some(rest) => Some(format!("{SCHEME}{}", unmark(rest, &self.uri)?)),
            None => unmark(text, &self.path),
        })
    }
}

/// How many braces stand before `home}`, if the text begins with a mark.
fn braces(text: &str) -> Option<usize> {
    let rest = text.trim_start_matches('{');
    let count = text.len() - rest.len();
    (count > 0 && rest.starts_with(&MARK[1..])).then_some(count)
}

fn mark(text: &str, home: &str) -> Option<String> {
    if braces(text).is_some() {
        return Some(format!("{{{text}"));
    }
    let rest = text.strip_prefix(home).filter(|rest| !home.is_empty() && (rest.is_empty() || rest.starts_with('/')))?;
    Some(format!("{MARK}{rest}"))
}

fn unmark(text: &str, home: &str) -> Option<String> {
    match braces(text)? {
        1 => Some(format!("{home}{}", &text[MARK.len()..])),
        _ => Some(text[1..].to_owned()),
    }
}

/// Changes the texts of a text, or of an array of texts; all other types stay.
fn map_texts(given: &SettingValue, change: impl Fn(&str) -> Option<String>) -> SettingValue {
    if given.kind != "s" && given.kind != "as" {
        return given.clone();
    }
    let Ok(variant) = value::to_variant(given) else { return given.clone() };
    let changed = |text: &str| change(text).unwrap_or_else(|| text.to_owned());
    let variant: Option<Variant> = match variant.str() {
        Some(text) => Some(changed(text).to_variant()),
        None => variant
            .get::<Vec<String>>()
            .map(|texts| texts.iter().map(|text| changed(text)).collect::<Vec<String>>().to_variant()),
    };
    variant.map_or_else(|| given.clone(), |variant| value::from_variant(&variant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_spelled_in_uris_as_programs_spell_them() {
        for (home, uri) in [
            ("/home/anna@example.org", "'file:///home/anna@example.org/x%20y'"),
            ("/home/a+b:c", "'file:///home/a+b:c/x%20y'"),
            ("/home/jos\u{e9}", "'file:///home/jos%C3%A9/x%20y'"),
        ] {
            let (home, local) = (Home::new(home), value::parse(uri, None).expect("a value"));
            let put = home.put(&local);
            assert_eq!(value::text(&put), "'file://{home}/x%20y'");
            assert_eq!(home.get(&put), local);
        }
    }

    #[test]
    fn paths_below_the_home_travel_and_others_stay() {
        let here = Home::new("/home/anna b");
        let there = Home::new("/home/den");
        for (local, account, elsewhere) in [
            ("'/home/anna b/x.png'", "'{home}/x.png'", "'/home/den/x.png'"),
            ("'/home/anna b'", "'{home}'", "'/home/den'"),
            ("'/home/anna bert'", "'/home/anna bert'", "'/home/anna bert'"),
            ("'file:///home/anna%20b/x'", "'file://{home}/x'", "'file:///home/den/x'"),
            ("'file:///usr/x'", "'file:///usr/x'", "'file:///usr/x'"),
            ("['/home/anna b/1', '2']", "['{home}/1', '2']", "['/home/den/1', '2']"),
            ("'{home}/x'", "'{{home}/x'", "'{home}/x'"),
            ("'{{home}/x'", "'{{{home}/x'", "'{{home}/x'"),
            ("@as []", "@as []", "@as []"),
            ("5", "5", "5"),
        ] {
            let local = value::parse(local, None).expect("a value");
            let put = here.put(&local);
            assert_eq!(value::text(&put), account);
            assert_eq!(here.get(&put), local);
            let get = there.get(&put);
            assert_eq!(value::text(&get), elsewhere);
            assert_eq!(there.put(&get), put);
        }
    }
}
