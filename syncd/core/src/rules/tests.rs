use super::*;

const SAMPLES: &str = include_str!("../../../policy/home-samples.csv");

fn own(pattern: &str, class: &str) -> Override {
    Override {
        pattern: pattern.to_owned(),
        class: class.to_owned(),
        on: String::new(),
        note: String::new(),
        scope: Scope::Account,
    }
}

fn with(overrides: Vec<Override>) -> HomeRules {
    HomeRules::new(vec![b"state/of/sync".to_vec()], overrides, Vec::new(), "laptop").expect("right")
}

#[test]
fn every_sample_gets_its_class() {
    let rules = HomeRules::shipped();
    let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(SAMPLES.as_bytes());
    let mut count = 0;
    for record in reader.records() {
        let record = record.expect("right");
        let (path, is_dir) = record[0].strip_suffix('/').map_or((&record[0], false), |path| (path, true));
        let decision = rules.decide(path.as_bytes(), is_dir);
        assert_eq!(decision.class.to_string(), record[1], "{} by {}", &record[0], decision.pattern);
        count += 1;
    }
    assert_eq!(count, 124);
}

#[test]
fn a_decision_names_its_line() {
    let decision = HomeRules::shipped().decide(b".ssh/known_hosts", false);
    let line = SHIPPED.lines().nth(usize::try_from(decision.line.expect("right")).expect("right") - 1).expect("right");
    assert_eq!(line, format!("{},{},{}", decision.pattern, decision.class, decision.reason));
    assert_eq!(decision.source, Source::Shipped);
}

#[test]
fn directories_are_entered_for_what_is_in_them_and_pruned_else() {
    let rules = HomeRules::shipped();
    for (path, is_dir, travels) in [
        ("", true, true),
        (".ssh", true, true),
        (".ssh/config", false, true),
        (".ssh/id_rsa", false, false),
        (".ssh/id_rsa.pub", false, true),
        (".ssh/sub", true, false),
        (".cache", true, false),
        (".cache/x/.git", true, false),
        ("code/node_modules", true, false),
        ("code/node_modules/x/.git", true, false),
        ("code/node_modules/x/.git/HEAD", false, false),
        ("code/.git/HEAD", false, true),
        ("code/.git/index.lock", false, false),
        (".config/Code", true, true),
        (".config/Code/User", true, true),
        (".config/Code/User/settings.json", false, true),
        (".config/Code/Backups", true, false),
        (".config/dconf", true, false),
        (".local/share/flatpak", true, true),
        (".local/share/flatpak/overrides/global", false, true),
        (".local/share/flatpak/app", true, false),
        (".local/bin/tool", false, true),
        (".config/gtk-3.0/bookmarks", false, false),
        (".mozilla/firefox", true, false),
        ("Documents/letter.odt", false, true),
        ("Documents/letter.odt~", false, false),
        ("disk.iso", false, false),
    ] {
        assert_eq!(rules.travels(path.as_bytes(), is_dir), travels, "{path}");
    }
    assert!(rules.travels(b"Documents/\xff\xfe", false));
    assert!(!rules.travels(b"Documents/\xff\xfe.iso", false));
}

#[test]
fn the_line_that_is_named_is_the_one_that_keeps_a_path_here() {
    let rules = with(vec![own("*.iso", "shared"), own("/Videos/*", "never")]);
    for (path, is_dir, pattern) in [
        ("code/node_modules/x/.git/HEAD", false, "**/node_modules/"),
        ("code/.git/HEAD", false, "**/.git/"),
        (".cache/a/disk.iso", false, "/.cache/"),
        ("disk.iso", false, "*.iso"),
        (".ssh", true, "/.ssh/"),
        (".ssh/id_rsa.pub", false, "/.ssh/id_*.pub"),
        ("Videos", true, "**"),
        ("Videos/holiday", true, "/Videos/*"),
    ] {
        assert_eq!(&*rules.explain(path.as_bytes(), is_dir).pattern, pattern, "{path}");
    }
}

#[test]
fn the_persons_rules_come_first() {
    let rules = with(vec![
        own("*.iso", "shared"),
        own("/Documents/secret/", "never"),
        own("/code/target/keep.bin", "shared"),
        Override { on: "desktop".to_owned(), ..own("/Documents/", "ignore") },
        Override { on: "laptop".to_owned(), ..own("/Music/", "ignore") },
        Override { scope: Scope::Machine, ..own("/Music/here/", "shared") },
    ]);
    assert!(rules.travels(b"Videos/disk.iso", false));
    assert!(!rules.travels(b".cache/disk.iso", false));
    assert!(!rules.travels(b"Documents/secret", true));
    assert!(rules.travels(b"Documents", true));
    assert!(rules.travels(b"code/target", true));
    assert!(rules.travels(b"code/target/keep.bin", false));
    assert!(!rules.travels(b"code/target/debug", true));
    assert!(rules.travels(b"Music", true));
    assert!(!rules.travels(b"Music/song", false));
    assert!(rules.travels(b"Music/here/song", false));
    let decision = rules.decide(b"Music/song", false);
    assert_eq!((decision.source.word(), decision.line), ("account", None));
}

#[test]
fn hard_stops_stand_whatever_a_rule_says() {
    let rules = with(vec![own("**", "shared"), own("/.ssh/id_rsa", "shared")]);
    for path in [
        ".ssh/id_rsa",
        ".ssh/deploy.pem",
        ".ssh/authorized_keys",
        ".config/dconf/user",
        ".config/dconf/user.txt",
        ".local/share/keyrings/login.keyring",
        ".gnupg/private-keys-v1.d/x.key",
        ".config/hearth/config.toml",
        "state/of/sync/index.db",
        "Documents/.hearth-part-1",
    ] {
        assert!(!rules.travels(path.as_bytes(), false), "{path}");
        assert!(!rules.decide(path.as_bytes(), false).class.travels(), "{path}");
    }
    assert!(rules.travels(b".ssh/id_rsa.pub", false));
    assert!(rules.travels(b".cache/x", false));
    assert!(rules.travels(b"state/of/syncing", false));
    let decision = rules.decide(b"state/of/sync/x", false);
    assert_eq!((decision.class, decision.line), (Class::Never, None));
}

#[test]
fn a_dropin_comes_between_the_person_and_the_shipped_rules() {
    let dropin = "pattern,class,reason\n# site\n/Site/,device,stays here\n".to_owned();
    let rules = HomeRules::new(Vec::new(), vec![own("/Site/mine", "shared")], vec![dropin], "").expect("right");
    assert!(!rules.travels(b"Site/x", false));
    assert!(rules.travels(b"Site/mine", false));
    assert_eq!(rules.decide(b"Site/x", false).line, Some(3));
    let broken = HomeRules::new(Vec::new(), Vec::new(), vec!["path,class\n".to_owned()], "");
    assert!(matches!(broken, Err(RuleError::Columns { line: 1 })));
}

#[test]
fn wrong_rules_are_refused_in_words() {
    assert_eq!(own("/a", "shared").check(), Ok(()));
    assert!(own("/a", "sharde").check().expect_err("wrong").to_string().starts_with("`sharde` is not a class"));
    assert!(own("/a", "special:git").check().is_err());
    assert!(own("{a", "shared").check().expect_err("wrong").to_string().contains("braces"));
}

/// A scan decides about 100,000 entries: this many must take seconds at the very worst, without optimisation.
#[test]
fn deciding_is_fast() {
    let rules = HomeRules::shipped();
    let paths: Vec<Vec<u8>> =
        (0..20_000).map(|n| format!("Documents/work-{}/part{}/file-{n}.txt", n % 97, n % 13).into_bytes()).collect();
    let start = std::time::Instant::now();
    assert!(paths.iter().all(|path| rules.travels(path, false)));
    let each = start.elapsed() / 20_000;
    assert!(each.as_micros() < 100, "{each:?} for one path");
}
