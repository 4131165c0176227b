//! Rules of the person and drop-in tables, and paths asked about: what may not travel does not, and nothing travels out of a closed directory.

use std::sync::LazyLock;

use arbitrary::{Result, Unstructured};
use syncd_core::marks::Marks;
use syncd_core::rules::{Class, HomeRules, Override, Scope};
use syncd_core::select::Select;

static SHIPPED: LazyLock<HomeRules> = LazyLock::new(HomeRules::shipped);

const PATTERNS: [&str; 16] = [
    "**",
    "/**",
    "*",
    "/.config/",
    ".ssh/",
    "/.ssh/**",
    "{a;b}",
    "/{a;b/{c;d}}/",
    "[0-9]*",
    "?",
    "/.*/id_*",
    "**/x",
    "/a/**/b",
    "*.{txt;md}",
    "/.gnupg/",
    "*/../*",
];
const NAMES: [&str; 18] = [
    ".ssh",
    "id_rsa",
    "id_rsa.pub",
    "authorized_keys",
    ".gnupg",
    "private-keys-v1.d",
    ".config",
    "dconf",
    "user",
    ".local",
    "share",
    "keyrings",
    ".hearth-x",
    "Documents",
    "a",
    "b",
    ".git",
    "x.pem",
];
const CLASSES: [&str; 8] = ["shared", "never", "merge:lines", "device", "ask", "asset", "special:git", "x"];

/// Rules, and a path to ask about. Most runs ask the rules as they ship: to compile all of them takes long.
pub fn run(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let _ = asked(&mut u);
}

fn asked(u: &mut Unstructured<'_>) -> Result<()> {
    let mut overrides = Vec::new();
    for _ in 0..u.int_in_range(0..=2)? {
        overrides.push(rule(u)?);
    }
    for rule in &overrides {
        let checked = rule.check();
        assert!(checked.is_err() || Class::parse(&rule.class).is_ok());
        assert!(
            Class::parse(&rule.class).is_err()
                || Class::parse(&rule.class).is_ok_and(|class| class.to_string() == rule.class)
        );
    }
    let path = path(u)?;
    ask(&SHIPPED, &path);
    if u.ratio(1, 64)? {
        let dropins = if u.arbitrary()? { vec![table(u)?] } else { Vec::new() };
        if let Ok(rules) = HomeRules::new(vec![b"own".to_vec()], overrides, dropins, "here") {
            ask(&rules, &path);
            assert!(!rules.travels(b"own/x", false, &Marks::NONE), "a directory of the sync itself travels");
        }
    }
    Ok(())
}

fn ask(rules: &HomeRules, path: &[u8]) {
    for is_dir in [false, true] {
        let (decision, why) = (rules.decide(path, is_dir, &Marks::NONE), rules.explain(path, is_dir, &Marks::NONE));
        if !rules.travels(path, is_dir, &Marks::NONE) {
            continue;
        }
        assert!(
            is_dir || why.class.travels(),
            "{:?} travels, and {why:?} says it does not",
            String::from_utf8_lossy(path)
        );
        assert!(is_dir || decision.class.travels());
        let mut above = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at]);
        assert!(
            above.all(|dir| rules.travels(dir, true, &Marks::NONE)),
            "{:?} travels out of a closed directory",
            String::from_utf8_lossy(path)
        );
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        assert!(!parts.iter().any(|part| part.starts_with(b".hearth-")), "an unfinished file travels");
        let stays: [&[&[u8]]; 4] = [
            &[b".config", b"dconf"],
            &[b".local", b"share", b"keyrings"],
            &[b".gnupg", b"private-keys-v1.d"],
            &[b".ssh", b"authorized_keys"],
        ];
        assert!(!stays.iter().any(|stay| parts.starts_with(stay)), "{:?} travels", String::from_utf8_lossy(path));
        assert!(is_dir || !parts.starts_with(&[b".ssh", b"id_rsa"]), "a private key travels");
    }
}

fn rule(u: &mut Unstructured<'_>) -> Result<Override> {
    Ok(Override {
        pattern: pattern(u)?,
        class: u.choose(&CLASSES)?.to_string(),
        on: u.choose(&["", "here", "there"])?.to_string(),
        note: u.choose(&["", "x"])?.to_string(),
        scope: if u.arbitrary()? { Scope::Account } else { Scope::Machine },
    })
}

fn pattern(u: &mut Unstructured<'_>) -> Result<String> {
    Ok(if u.arbitrary()? { u.choose(&PATTERNS)?.to_string() } else { u.arbitrary()? })
}

/// A table as a drop-in holds it, right or not.
fn table(u: &mut Unstructured<'_>) -> Result<String> {
    if u.ratio(1, 4)? {
        return u.arbitrary();
    }
    let mut text = "pattern,class,reason\n".to_owned();
    for _ in 0..u.int_in_range(0..=3)? {
        text += &format!("{},{},\"x\"\n", pattern(u)?, u.choose(&CLASSES)?);
    }
    Ok(text)
}

fn path(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for _ in 0..u.int_in_range(1..=5)? {
        let part: Vec<u8> = if u.ratio(3, 4)? { u.choose(&NAMES)?.as_bytes().to_vec() } else { u.arbitrary()? };
        let name = hearth_schemas::item::Name::new(part);
        parts.push(name.map_or_else(|| b"x".to_vec(), |name| name.as_bytes().to_vec()));
    }
    Ok(parts.join(&b'/'))
}
