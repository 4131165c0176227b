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
    let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).flexible(true).from_reader(SAMPLES.as_bytes());
    let mut count = 0;
    for record in reader.records() {
        let record = record.expect("right");
        let (path, is_dir) = record[0].strip_suffix('/').map_or((&record[0], false), |path| (path, true));
        let marks = standing(&rules, record.get(2).unwrap_or_default());
        let decision = rules.decide(path.as_bytes(), is_dir, &marks);
        assert_eq!(decision.class.to_string(), record[1], "{} by {}", &record[0], decision.pattern);
        count += 1;
    }
    assert_eq!(count, 148);
}

/// What is marked where these files stand, with `;` between their paths.
fn standing(rules: &HomeRules, files: &str) -> Marks {
    let mut marks = Marks::NONE;
    for file in files.split(';').filter(|file| !file.is_empty()) {
        let (dir, name) = file.rsplit_once('/').unwrap_or(("", file));
        let held = rules.probes().iter().enumerate().filter(|(_, probe)| probe.name == name.as_bytes());
        marks.set(dir.as_bytes(), held.map(|(index, _)| index).collect());
    }
    assert_eq!(marks.is_empty(), files.is_empty(), "no rule looks for {files}");
    marks
}

#[test]
fn a_line_with_a_condition_names_the_file_that_made_it_hold() {
    let rules = HomeRules::shipped();
    let marks = standing(&rules, "Videos/.nobackup;Videos/raw/CACHEDIR.TAG;code/Cargo.toml");
    for (path, marker) in [
        ("Videos/raw/a/b.mov", Some("Videos/raw/CACHEDIR.TAG")),
        ("Videos/b.mov", Some("Videos/.nobackup")),
        ("code/target/debug/x", Some("code/Cargo.toml")),
        ("code/src/x", None),
    ] {
        let decision = rules.explain(path.as_bytes(), false, &marks);
        assert_eq!(decision.marker.as_deref(), marker.map(str::as_bytes), "{path}");
        assert_eq!(decision.when.is_some(), marker.is_some(), "{path}");
        assert_eq!(rules.travels(path.as_bytes(), false, &marks), marker.is_none(), "{path}");
    }
    assert!(!rules.travels(b"Videos", true, &marks) && rules.travels(b"code", true, &marks));
}

#[test]
fn a_persons_rule_comes_before_a_mark() {
    let rules = with(vec![own("/Videos/keep/", "shared"), own("*.txt", "shared")]);
    let marks = standing(&rules, "Videos/.nobackup;Videos/keep/.nobackup");
    assert!(rules.travels(b"Videos", true, &marks));
    assert!(rules.travels(b"Videos/keep/a.mov", false, &marks));
    assert!(!rules.travels(b"Videos/b.mov", false, &marks));
    assert!(rules.travels(b"Videos/b.txt", false, &marks));
    assert!(!rules.travels(b"Videos/sub", true, &marks));
    assert!(!rules.travels(b"Videos/sub/b.txt", false, &marks));
}

#[test]
fn only_what_can_mark_a_directory_is_looked_for_in_it() {
    let rules = HomeRules::shipped();
    let names = |dir: &str| -> Vec<String> {
        let probes = rules.probes_inside(dir.as_bytes()).into_iter().map(|index| &rules.probes()[index].name);
        probes.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    };
    assert_eq!(names("Documents/x"), ["CACHEDIR.TAG", ".nobackup", "pyvenv.cfg"]);
    assert_eq!(names("x/build"), ["CACHEDIR.TAG", ".nobackup", "pyvenv.cfg", "CMakeCache.txt", "build.ninja"]);
    let tag = rules.probes().iter().find(|probe| probe.name == b"CACHEDIR.TAG").expect("shipped");
    assert_eq!(tag.magic.len(), 43);
}

#[test]
fn a_wrong_condition_is_refused_in_words() {
    for (line, expected) in [
        ("/a/,ignore,why,within:x", "`within:x` is not a condition"),
        ("/a/,ignore,why,inside:", "`inside:` is not a condition"),
        ("/a/,ignore,why,inside:b/c", "`inside:b/c` is not a condition"),
        ("/a/,ignore,why,beside:{b;c", "`beside:{b;c` is not a condition"),
        ("/a/,shared,why,inside:b", "`shared` travels"),
    ] {
        let table = format!("pattern,class,reason,when\n{line}\n");
        let error = HomeRules::new(Vec::new(), Vec::new(), vec![table], "").err().expect("wrong").to_string();
        assert!(error.contains(expected), "{error}");
    }
    let short = "pattern,class,reason\n/a/,ignore,why,inside:b\n".to_owned();
    assert!(matches!(HomeRules::new(Vec::new(), Vec::new(), vec![short], ""), Err(RuleError::Columns { line: 2 })));
}

#[test]
fn a_decision_names_its_line() {
    let decision = HomeRules::shipped().decide(b".ssh/known_hosts", false, &Marks::NONE);
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
        assert_eq!(rules.travels(path.as_bytes(), is_dir, &Marks::NONE), travels, "{path}");
    }
    assert!(rules.travels(b"Documents/\xff\xfe", false, &Marks::NONE));
    assert!(!rules.travels(b"Documents/\xff\xfe.iso", false, &Marks::NONE));
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
        assert_eq!(&*rules.explain(path.as_bytes(), is_dir, &Marks::NONE).pattern, pattern, "{path}");
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
    assert!(rules.travels(b"Videos/disk.iso", false, &Marks::NONE));
    assert!(!rules.travels(b".cache/disk.iso", false, &Marks::NONE));
    assert!(!rules.travels(b"Documents/secret", true, &Marks::NONE));
    assert!(rules.travels(b"Documents", true, &Marks::NONE));
    assert!(rules.travels(b"code/target", true, &Marks::NONE));
    let built = standing(&rules, "code/Cargo.toml");
    assert!(rules.travels(b"code/target/keep.bin", false, &built));
    assert!(!rules.travels(b"code/target/debug", true, &built));
    assert!(rules.travels(b"Music", true, &Marks::NONE));
    assert!(!rules.travels(b"Music/song", false, &Marks::NONE));
    assert!(rules.travels(b"Music/here/song", false, &Marks::NONE));
    let decision = rules.decide(b"Music/song", false, &Marks::NONE);
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
        assert!(!rules.travels(path.as_bytes(), false, &Marks::NONE), "{path}");
        assert!(!rules.decide(path.as_bytes(), false, &Marks::NONE).class.travels(), "{path}");
    }
    assert!(rules.travels(b".ssh/id_rsa.pub", false, &Marks::NONE));
    assert!(rules.travels(b".cache/x", false, &Marks::NONE));
    assert!(rules.travels(b"state/of/syncing", false, &Marks::NONE));
    let decision = rules.decide(b"state/of/sync/x", false, &Marks::NONE);
    assert_eq!((decision.class, decision.line), (Class::Never, None));
}

#[test]
fn a_dropin_comes_between_the_person_and_the_shipped_rules() {
    let dropin = "pattern,class,reason\n# site\n/Site/,device,stays here\n".to_owned();
    let rules = HomeRules::new(Vec::new(), vec![own("/Site/mine", "shared")], vec![dropin], "").expect("right");
    assert!(!rules.travels(b"Site/x", false, &Marks::NONE));
    assert!(rules.travels(b"Site/mine", false, &Marks::NONE));
    assert_eq!(rules.decide(b"Site/x", false, &Marks::NONE).line, Some(3));
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
    assert!(paths.iter().all(|path| rules.travels(path, false, &Marks::NONE)));
    let each = start.elapsed() / 20_000;
    assert!(each.as_micros() < 100, "{each:?} for one path");
}
