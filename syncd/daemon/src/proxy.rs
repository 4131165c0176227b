//! Which HTTP proxy leads to a host, if one is set: in the environment, else in the desktop's settings.
//!
//! Gives a [`Choice`] to [`crate::tunnel`], which speaks to the proxy. What is set but cannot be used, a SOCKS proxy or
//! a script, is told as trouble: a person then knows why nothing went through it. GNOME's settings are read when they
//! are asked for and not before: most machines never need them.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use data_encoding::BASE64;
use gio::prelude::*;
use gio::{Settings, SettingsSchemaSource};
use glib::Variant;
use glib::variant::FromVariant;
use syncd_core::paths::within;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How long the desktop's settings may take.
const DESKTOP: Duration = Duration::from_secs(1);
const SCHEMA: &str = "org.gnome.system.proxy";

/// What is set for a host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Choice {
    /// The proxy to go through.
    pub(crate) proxy: Option<Proxy>,
    /// What is set and cannot be used, for people.
    pub(crate) trouble: Option<String>,
}

/// An HTTP proxy.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// Host name or address.
    pub(crate) host: String,
    /// TCP port.
    pub(crate) port: u16,
    /// User and password, in the form of HTTP's Basic scheme.
    pub(crate) credentials: Option<String>,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Without the credentials.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// Looks up what is set for a host: the environment counts before the desktop.
pub(crate) async fn choose(host: &str, port: u16) -> Choice {
    if let Some(choice) = from_environment(|name| std::env::var(name).ok(), host, port) {
        return choice;
    }
    let host = host.to_owned();
    let desktop = spawn_blocking(move || from_desktop(setting, &host, port));
    timeout(DESKTOP, desktop).await.ok().and_then(Result::ok).unwrap_or_default()
}

/// What the environment says; `None` if it says nothing about proxies.
fn from_environment(get: impl Fn(&str) -> Option<String>, host: &str, port: u16) -> Option<Choice> {
    let first = |names: &[&str]| names.iter().find_map(|name| get(name).filter(|value| !value.trim().is_empty()));
    let address = first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])?;
    let excluded = first(&["no_proxy", "NO_PROXY"]).unwrap_or_default();
    if excluded.split(',').any(|rule| covers(rule.trim(), host, port)) {
        return Some(Choice::default());
    }
    Some(match parse(address.trim()) {
        Ok(proxy) => Choice { proxy: Some(proxy), trouble: None },
        Err(what) => Choice { proxy: None, trouble: Some(format!("the proxy in the environment {what}")) },
    })
}

/// What GNOME's settings say, as a function of schema and key gives them.
fn from_desktop(get: impl Fn(&str, &str) -> Option<Variant>, host: &str, port: u16) -> Choice {
    let text = |schema: &str, key: &str| value::<String>(&get, schema, key).unwrap_or_default();
    let of = |protocol: &str| {
        let schema = format!("{SCHEMA}.{protocol}");
        let port = value::<i32>(&get, &schema, "port").and_then(|port| u16::try_from(port).ok())?;
        Some((text(&schema, "host"), port)).filter(|(host, port)| !host.is_empty() && *port != 0)
    };
    let trouble = |what: &str| Choice { proxy: None, trouble: Some(what.to_owned()) };
    match text(SCHEMA, "mode").as_str() {
        "manual" => {}
        "auto" => return trouble("the desktop's proxy is set by a script, which Hearth does not follow"),
        _ => return Choice::default(),
    }
    let ignored: Vec<String> = value(&get, SCHEMA, "ignore-hosts").unwrap_or_default();
    if ignored.iter().any(|rule| covers(rule.trim(), host, port)) {
        return Choice::default();
    }
    let same = value(&get, SCHEMA, "use-same-proxy").unwrap_or(false);
    let http = format!("{SCHEMA}.http");
    let credentials = value(&get, &http, "use-authentication")
        .filter(|wanted: &bool| *wanted)
        .map(|_| basic(&text(&http, "authentication-user"), &text(&http, "authentication-password")));
    match of("https").or_else(|| of("http").filter(|_| same)) {
        Some((host, port)) => Choice { proxy: Some(Proxy { host, port, credentials }), trouble: None },
        None if of("socks").is_some() => trouble("the desktop's proxy is for SOCKS, which Hearth does not speak"),
        None => Choice::default(),
    }
}

fn value<T: FromVariant>(get: &impl Fn(&str, &str) -> Option<Variant>, schema: &str, key: &str) -> Option<T> {
    get(schema, key)?.get()
}

/// The value of a setting, or `None` if this machine does not know it. GLib would end the process over that.
fn setting(schema: &str, key: &str) -> Option<Variant> {
    let known = SettingsSchemaSource::default()?.lookup(schema, true)?;
    known.has_key(key).then(|| Settings::new(schema).value(key))
}

/// Takes an address as it stands in the environment apart.
fn parse(text: &str) -> Result<Proxy, &'static str> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    if !scheme.eq_ignore_ascii_case("http") {
        return Err("is none for HTTP, and Hearth speaks to no other");
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (credentials, place) = match authority.rsplit_once('@') {
        Some((credentials, place)) => {
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            let (user, password) = unescape(user).zip(unescape(password)).ok_or("is not understood")?;
            (Some(basic(&user, &password)), place)
        }
        None => (None, authority),
    };
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("is not understood")?;
            (host, port.strip_prefix(':'))
        }
        None => place.rsplit_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Ok(80), str::parse).map_err(|_| "is not understood")?;
    let is_name = |host: &str| host.bytes().all(|byte| byte.is_ascii_graphic());
    if host.is_empty() || port == 0 || !is_name(host) {
        return Err("is not understood");
    }
    Ok(Proxy { host: host.to_owned(), port, credentials })
}

fn basic(user: &str, password: &str) -> String {
    BASE64.encode(format!("{user}:{password}").as_bytes())
}

/// Undoes the escaping of a URL's user and password.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        if *byte != b'%' {
            bytes.push(*byte);
            rest = after;
            continue;
        }
        let digits = std::str::from_utf8(after.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok()
}

/// Whether a rule of hosts without proxy covers this one: a name and all below it, an address, a network, `*`; with a
/// port or without.
fn covers(rule: &str, host: &str, port: u16) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let bare = |rule: &str| rule.trim_start_matches('[').trim_end_matches(']').to_owned();
    let address: Option<IpAddr> = host.parse().ok();
    if let (Some((network, bits)), Some(address)) = (rule.split_once('/'), address) {
        return bare(network).parse().ok().zip(bits.parse().ok()).is_some_and(|(net, bits)| within(address, net, bits));
    }
    let (rule, only) = match rule.rsplit_once(':') {
        Some((name, digits)) if !name.contains(':') || name.ends_with(']') => match digits.parse::<u16>() {
            Ok(only) => (name, Some(only)),
            Err(_) => return false,
        },
        _ => (rule, None),
    };
    if only.is_some_and(|only| only != port) {
        return false;
    }
    if let (Ok(ruled), Some(address)) = (bare(rule).parse::<IpAddr>(), address) {
        return ruled.to_canonical() == address.to_canonical();
    }
    let name = rule.strip_prefix('*').unwrap_or(rule).trim_start_matches('.').to_ascii_lowercase();
    let host = host.to_ascii_lowercase();
    if rule == "*" {
        return true;
    }
    !name.is_empty() && (host == name || host.strip_suffix(&name).is_some_and(|above| above.ends_with('.')))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn environment(pairs: &[(&str, &str)], host: &str) -> Option<Choice> {
        let values: BTreeMap<&str, &str> = pairs.iter().copied().collect();
        from_environment(|name| values.get(name).map(ToString::to_string), host, 443)
    }

    fn proxy(host: &str, port: u16, credentials: Option<&str>) -> Proxy {
        let credentials = credentials.map(|credentials| BASE64.encode(credentials.as_bytes()));
        Proxy { host: host.to_owned(), port, credentials }
    }

    #[test]
    fn an_address_in_the_environment_is_taken_apart() {
        let table = [
            ("http://proxy.example:3128", Ok(proxy("proxy.example", 3128, None))),
            ("http://proxy.example/", Ok(proxy("proxy.example", 80, None))),
            ("10.0.0.1:8080", Ok(proxy("10.0.0.1", 8080, None))),
            ("HTTP://[2001:db8::1]:8080/", Ok(proxy("2001:db8::1", 8080, None))),
            ("http://me:p%40ss%3A@proxy:1", Ok(proxy("proxy", 1, Some("me:p@ss:")))),
            ("http://me@proxy:1", Ok(proxy("proxy", 1, Some("me:")))),
            ("socks5://proxy:1080", Err("is none for HTTP, and Hearth speaks to no other")),
            ("https://proxy:443", Err("is none for HTTP, and Hearth speaks to no other")),
            ("http://proxy:0", Err("is not understood")),
            ("http://proxy:http", Err("is not understood")),
            ("http://%zz@proxy:1", Err("is not understood")),
            ("http://[::1", Err("is not understood")),
            ("http://", Err("is not understood")),
            ("http://a\r\nb:1", Err("is not understood")),
        ];
        for (text, wanted) in table {
            assert_eq!(parse(text), wanted, "{text}");
        }
    }

    #[test]
    fn the_environment_is_asked_in_order_and_for_exceptions() {
        assert_eq!(environment(&[("no_proxy", "*")], "relay"), None);
        assert_eq!(environment(&[("https_proxy", " ")], "relay"), None);
        let pairs = [("all_proxy", "http://c:3"), ("HTTPS_PROXY", "http://b:2"), ("https_proxy", "http://a:1")];
        for (from, wanted) in [(0, "c"), (1, "b"), (2, "a")] {
            let choice = environment(&pairs[..=from], "relay").expect("something");
            assert_eq!(choice.proxy.expect("a proxy").host, wanted);
        }
        let excepted =
            environment(&[("https_proxy", "http://a:1"), ("NO_PROXY", "x, .relay.example")], "my.relay.example");
        assert_eq!(excepted, Some(Choice::default()));
        let socks = environment(&[("all_proxy", "socks5h://a:1")], "relay").expect("something");
        assert!(socks.proxy.is_none() && socks.trouble.expect("told").contains("none for HTTP"));
    }

    #[test]
    fn an_exception_covers_names_below_addresses_and_networks() {
        let yes = [
            ("relay.example", "relay.example"),
            ("example", "relay.example"),
            (".example", "relay.example"),
            ("*.EXAMPLE", "Relay.example"),
            ("*", "relay.example"),
            ("relay.example:443", "relay.example"),
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.0/8", "10.9.9.9"),
            ("0.0.0.0/0", "10.9.9.9"),
            ("2001:db8::/32", "2001:db8::7"),
            ("[2001:db8::7]:443", "2001:db8::7"),
            ("::1", "::1"),
        ];
        let no = [
            ("", "relay.example"),
            (".", "relay.example"),
            ("ample", "relay.example"),
            ("relay.example:80", "relay.example"),
            ("relay.example:x", "relay.example"),
            ("10.0.0.0/8", "11.0.0.1"),
            ("10.0.0.0/33", "10.0.0.1"),
            ("10.0.0.0/x", "10.0.0.1"),
            ("10.0.0.0/8", "2001:db8::7"),
            ("2001:db8::1", "2001:db8::7"),
        ];
        for (rules, wanted) in [(yes.as_slice(), true), (&no, false)] {
            for (rule, host) in rules {
                assert_eq!(covers(rule, host, 443), wanted, "{rule} for {host}");
            }
        }
    }

    #[test]
    fn the_desktop_is_followed_where_it_names_a_proxy_for_https() {
        let off = [("", "mode", "none".to_variant()), (".https", "host", "p".to_variant())];
        assert_eq!(desktop(&off), Choice::default());
        let manual = ("", "mode", "manual".to_variant());
        let https = [(".https", "host", "p".to_variant()), (".https", "port", 3128i32.to_variant())];
        let plain = [[manual.clone()].as_slice(), &https].concat();
        assert_eq!(desktop(&plain).proxy, Some(proxy("p", 3128, None)));
        let with_password = [
            (".http", "use-authentication", true.to_variant()),
            (".http", "authentication-user", "me".to_variant()),
            (".http", "authentication-password", "secret".to_variant()),
        ];
        let choice = desktop(&[plain.as_slice(), &with_password].concat());
        assert_eq!(choice.proxy, Some(proxy("p", 3128, Some("me:secret"))));
        assert!(!format!("{choice:?}").contains(&basic("me", "secret")), "the password is in no log");
        let ignored = ("", "ignore-hosts", ["localhost", "*.example"].to_variant());
        assert_eq!(desktop(&[plain.as_slice(), &[ignored]].concat()), Choice::default());
        let same = [
            manual.clone(),
            ("", "use-same-proxy", true.to_variant()),
            (".http", "host", "all".to_variant()),
            (".http", "port", 1i32.to_variant()),
        ];
        assert_eq!(desktop(&same).proxy, Some(proxy("all", 1, None)));
        let socks = [manual, (".socks", "host", "s".to_variant()), (".socks", "port", 1080i32.to_variant())];
        assert!(desktop(&socks).trouble.expect("told").contains("SOCKS"));
        assert!(desktop(&[("", "mode", "auto".to_variant())]).trouble.expect("told").contains("script"));
        assert_eq!(desktop(&[]), Choice::default());
    }

    #[test]
    fn a_setting_that_this_machine_does_not_know_is_none() {
        assert!(setting("org.hearth.NoSuchSchema", "mode").is_none());
        assert!(setting(SCHEMA, "no-such-key").is_none());
    }

    fn desktop(values: &[(&str, &str, Variant)]) -> Choice {
        let get = |schema: &str, key: &str| {
            let found = values.iter().find(|(below, name, _)| schema == format!("{SCHEMA}{below}") && *name == key);
            found.map(|(.., value)| value.clone())
        };
        from_desktop(get, "relay.example", 443)
    }
}
