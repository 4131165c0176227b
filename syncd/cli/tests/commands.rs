//! What a person sees, and what a script gets: every command against prepared answers, kept as snapshots.
//!
//! After a change on purpose, `INSTA_UPDATE=always cargo test -p hearth` writes them anew; read the difference.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use insta::assert_snapshot;
use serde_json::{Value, json};
use syncd::bus::Failure;

use sim::{Machine, RELAY, Signal, hours_ago, write};

#[expect(dead_code, reason = "each test program uses a part of it")]
mod sim;

fn peer(name: &str, path: Value, rtt_ms: Value, in_sync: bool) -> Value {
    json!({"name": name, "online": !path.is_null(), "path": path, "rtt_ms": rtt_ms, "in_sync": in_sync})
}

fn status(in_sync: bool, peers: &[Value], pending: (u64, u64)) -> Value {
    json!({
        "device": "tower", "account": "k3v7q2", "in_sync": in_sync, "fresh_as_of": hours_ago(2), "peers": peers,
        "pending": {"incoming": pending.0, "outgoing": pending.1}, "conflicts": 0, "held": 0, "problems": [],
    })
}

fn shown(value: &Value) -> String {
    Machine::running().answers("Status", value.clone()).run("status")
}

#[test]
fn status_when_all_is_well() {
    let lan = peer("laptop", json!("lan"), json!(0.42), true);
    let direct = peer("work", json!("direct"), json!(23.7), true);
    assert_snapshot!("status_alone", shown(&status(true, &[], (0, 0))));
    assert_snapshot!("status_in_sync_with_one", shown(&status(true, std::slice::from_ref(&lan), (0, 0))));
    assert_snapshot!("status_in_sync_with_all", shown(&status(true, &[lan, direct], (0, 0))));
}

#[test]
fn status_when_something_is_going_on() {
    let lan = peer("laptop", json!("lan"), json!(0.42), false);
    let relay = peer("work", json!("relay"), json!(141.2), false);
    let away = peer("attic", Value::Null, Value::Null, false);
    assert_snapshot!("status_syncing", shown(&status(false, &[lan.clone(), relay, away.clone()], (1200, 3))));
    assert_snapshot!("status_away", shown(&status(false, &[lan, away], (0, 0))));
    let mut paused = status(false, &[], (0, 0));
    paused["paused"] = json!(true);
    assert_snapshot!("status_paused", shown(&paused));
    let mut fresh = status(false, &[], (0, 0));
    fresh["account"] = Value::Null;
    assert_snapshot!("status_without_an_account", shown(&fresh));
    fresh["problems"] = json!([{"path": null, "what": "tower works on this home", "hint": "end Hearth there"}]);
    assert_snapshot!("status_standing_back", shown(&fresh));
}

#[test]
fn status_when_a_person_should_look() {
    let mut value = status(true, &[peer("laptop", json!("lan"), json!(0.4), true)], (0, 0));
    value["conflicts"] = json!(1);
    value["held"] = json!(2);
    value["problems"] = json!([
        {"path": "docs/secret.txt", "what": "cannot be read: permission denied", "hint": "`ls -l` says who may read it"},
        {"path": null, "what": "the limit on watched folders is reached; 812 folders are looked at every minute instead",
         "hint": "raise it with `sudo sysctl fs.inotify.max_user_watches=524288`"},
        {"path": "video.mkv", "what": "the disk is full", "hint": "make room; 1.2 GiB are wanted"},
    ]);
    assert_snapshot!("status_with_problems", shown(&value));
}

#[test]
fn names_that_lie_are_shown_escaped() {
    let mut value = status(true, &[peer("lap\u{1b}[2Jtop\u{202e}pot", json!("lan"), Value::Null, true)], (0, 0));
    let problem =
        json!({"path": "caf?", "path_b64": "Y2Fm6RtdMDtoaQc=", "what": "a\nb", "hint": "c\u{2066}d\u{9b}31m"});
    value["problems"] = json!([problem]);
    let machine = Machine::running()
        .answers("Status", value)
        .answers("Conflicts", json!([{"path": "a\rb", "sibling": "\u{202e}gpj.exe", "device": "\u{7}bell"}]))
        .answers(
            "Log",
            json!([{"time": "2026-01-31T18:00:00Z", "text": "received \u{1b}]0;title\u{7}\nerror: forged"}]),
        )
        .answers(
            "SettingsGet",
            json!({"key": "/a\u{1b}[A", "value": "'\u{202e}'", "class": "shared", "by": "x", "layers": {}}),
        )
        .fails("Doctor", Failure::failed("no\nerror: forged\u{1b}[1A", "line\r\nhint: two"));
    let lines = ["status", "conflicts", "log", "settings get k", "doctor", "status --json"];
    let mut seen: Vec<String> = lines.iter().map(|line| machine.run(line)).collect();
    seen.push(machine.tell("WORD", &mut machine.hearth(&["frobnicate\u{1b}[2J\u{202e}"])));
    let seen = seen.join("\n").lines().map(cut_time).collect::<Vec<_>>().join("\n");
    assert!(!seen.chars().any(|c| c != '\n' && (c.is_control() || c == '\u{202e}')), "{seen}");
    assert_snapshot!("names_that_lie", seen);
}

#[test]
fn an_account_is_made_and_its_phrase_kept() {
    let result = json!({"account": "k3v7q2", "device": "tower", "phrase": "legal winner thank year wave sausage worth useful legal winner thank yellow"});
    let machine = Machine::running().answers("Init", result);
    let line = format!("init --relay {RELAY} --name tower --phrase-file docs/phrase");
    assert_snapshot!("init", machine.run(&line));
    let file = machine.home().join("docs/phrase");
    assert!(std::fs::read_to_string(&file).expect("written").starts_with("legal winner"));
    assert_eq!(file.metadata().expect("there").permissions().mode() & 0o777, 0o600);

    assert_snapshot!("init_keeps_an_existing_file", machine.run(&line));
    assert_snapshot!("init_json", machine.run(&format!("--json init --relay {RELAY} --name tower")));
    let calls = machine.calls();
    assert_eq!(calls, format!("Init({RELAY} tower)\nInit({RELAY} tower)"), "not asked when the file was in the way");
}

#[test]
fn a_phrase_file_of_an_init_that_failed_is_not_left_behind() {
    let machine = Machine::running().fails(
        "Init",
        Failure::failed("the relay at relay.example:7000 does not answer", "check the address and the network"),
    );
    let line = format!("init --relay {RELAY} --phrase-file phrase");
    assert_snapshot!("init_relay_down", machine.run(&line));
    assert!(!machine.home().join("phrase").exists());
    assert_snapshot!("init_no_such_folder", machine.run(&format!("init --relay {RELAY} --phrase-file nowhere/phrase")));
}

#[test]
fn joining_by_code_and_by_phrase() {
    let machine = Machine::running().answers("Join", json!({"account": "k3v7q2", "device": "laptop-2"}));
    let machine = machine.answers("JoinPhrase", json!({"account": "k3v7q2", "device": "laptop"}));
    write(&machine, "phrase", "  legal winner\nthank  year \n");
    assert_snapshot!("join", machine.run(&format!("join 7-acid-moon-tree --relay {RELAY} --name laptop")));
    assert_snapshot!(
        "join_json",
        machine.run(&format!("join 7-a-b-c --relay {RELAY} --name l --settings mine --json"))
    );
    assert_snapshot!("join_phrase", machine.run(&format!("join --phrase-file phrase --relay {RELAY} --name laptop")));
    assert_snapshot!("join_calls", machine.calls());
}

#[test]
fn joining_in_vain() {
    let machine = Machine::running()
        .fails(
            "Join",
            Failure::failed(
                "the other machine did not accept this code",
                "codes work once and for ten minutes; run `hearth device add` there for another",
            ),
        )
        .fails("JoinPhrase", Failure::failed("no account belongs to this phrase", "check each word against the paper"));
    write(&machine, "phrase", "a b c");
    assert_snapshot!("join_bad_code", machine.run(&format!("join 7-a-b-c --relay {RELAY}")));
    assert_snapshot!("join_wrong_phrase", machine.run(&format!("join --phrase-file phrase --relay {RELAY}")));
    assert_snapshot!("join_no_phrase_file", machine.run(&format!("join --phrase-file missing --relay {RELAY}")));
}

#[test]
fn devices() {
    let machine = Machine::running()
        .answers("DeviceList", json!([
            {"name": "tower", "id": "d1", "this": true, "online": true, "added": hours_ago(24 * 9), "last_seen": null},
            {"name": "laptop", "id": "d2", "this": false, "online": true, "added": hours_ago(24 * 3), "last_seen": hours_ago(0)},
            {"name": "attic", "id": "d3", "this": false, "online": false, "added": hours_ago(30), "last_seen": hours_ago(5)},
            {"name": "box", "id": "d4", "this": false, "online": false, "added": hours_ago(4), "last_seen": null},
        ]))
        .answers("DeviceRename", json!({"device": "desk-2"}))
        .answers("DeviceRevoke", json!({"revoked": "attic"}));
    let lines = ["device list", "device rename tower desk", "device revoke attic", "device revoke attic --json"];
    assert_snapshot!("devices", lines.map(|line| machine.run(line)).join("\n"));
    let unknown = Failure::failed("no machine is called cellar", "`hearth device list` lists them");
    let machine = Machine::running().fails("DeviceRevoke", unknown.clone()).fails("DeviceRename", unknown);
    assert_snapshot!("device_unknown", machine.run("device revoke cellar"));
}

fn inviting() -> Machine {
    let code = json!({"code": "7-acid-moon-tree", "expires": "2026-01-31T18:10:00Z", "relay": format!("{RELAY}#0123")});
    Machine::running().answers("DeviceAdd", code)
}

#[test]
fn a_code_without_a_terminal_is_given_at_once() {
    let seen = inviting().run("device add");
    let told = seen.lines().map(|line| line.split(" runs out ").next().unwrap_or(line)).collect::<Vec<_>>().join("\n");
    assert_snapshot!("device_add", told);
    assert_snapshot!("device_add_json", inviting().run("device add --json"));
}

#[test]
fn a_code_on_a_terminal_is_followed_until_it_is_used_or_void() {
    let outcome = |events: &[Value]| {
        let machine =
            events.iter().fold(inviting(), |machine, event| machine.sends("DeviceAdd", Signal::Pairing(event.clone())));
        let (seen, exit) = machine.run_on_terminal("device add");
        let after = seen.split("leaves the code as it is.\n").nth(1).expect("the code first").to_owned();
        format!("{after}exit {exit}")
    };
    assert_eq!(
        outcome(&[json!({"event": "other"}), json!({"event": "joined", "device": "lap\u{1b}top"})]),
        "lap\\u{1b}top has joined.\nexit 0"
    );
    assert_snapshot!("device_add_refused", outcome(&[json!({"event": "refused"})]));
    assert_snapshot!("device_add_expired", outcome(&[json!({"event": "expired"})]));
}

#[test]
fn waiting() {
    let machine = Machine::running().answers("Wait", json!({"agreed": true, "blocked": []}));
    assert_snapshot!("wait", machine.run("wait --timeout 2.5 --peer laptop --online"));
    assert_snapshot!("wait_json", machine.run("wait --json"));
    machine.run("wait --timeout 0");
    assert_snapshot!("wait_calls", machine.calls());

    let machine = machine.answers(
        "Wait",
        json!({"agreed": false, "blocked": [
            {"path": "docs/big.iso", "what": "laptop has no room for it", "hint": "make room on laptop"},
            {"path": null, "key": "/org/gnome/desktop/screensaver/lock-enabled", "what": "held", "hint": ""},
        ]}),
    );
    assert_snapshot!("wait_blocked", machine.run("wait"));
    assert_snapshot!("wait_blocked_json", machine.run("wait --json"));

    let machine = machine
        .fails("Wait", Failure::timed_out("laptop did not agree within 2 s", "`hearth status` shows what is left"));
    assert_snapshot!("wait_timed_out", machine.run("wait --timeout 2"));
}

#[test]
fn waiting_on_a_terminal_shows_progress_and_cleans_up_after_itself() {
    let going = status(false, &[peer("laptop", json!("lan"), Value::Null, false)], (7, 2));
    let machine = Machine::running().sends("Wait", Signal::Status(going)).answers("Wait", json!({"agreed": true}));
    let (seen, exit) = machine.run_on_terminal("wait");
    assert!(seen.ends_with("In sync.\n"), "{seen:?}");
    assert_eq!(exit, 0);
}

#[test]
fn colours_are_for_terminals() {
    let machine =
        Machine::running().answers("Status", status(true, &[peer("laptop", json!("lan"), Value::Null, true)], (0, 0)));
    let (seen, _) = machine.run_on_terminal("status");
    assert!(seen.contains("\u{1b}[32mIn sync\u{1b}[0m with laptop"), "{seen:?}");
    assert!(!machine.tell("status", machine.hearth(&["status"]).env("NO_COLOR", "1")).contains('\u{1b}'));
}

#[test]
fn pausing() {
    let machine =
        Machine::running().answers("Pause", json!({"paused": true})).answers("Resume", json!({"paused": false}));
    assert_snapshot!("pause", ["pause", "resume", "pause --json"].map(|line| machine.run(line)).join("\n"));
}

fn line(time: &str, text: &str) -> Value {
    json!({"time": time, "event": "received", "path": "docs/a.txt", "device": "laptop", "text": text})
}

#[test]
fn the_log() {
    let lines = json!([
        line("2026-01-31T18:00:00.123Z", "received docs/a.txt from laptop"),
        line("2026-01-31T18:00:02Z", "laptop received docs/b.txt"),
    ]);
    let machine = Machine::running().answers("Log", lines);
    assert_snapshot!("log", ["log", "log --json -n 2"].map(|line| machine.run(line)).join("\n"));
}

#[test]
fn the_log_is_followed_until_the_daemon_stops() {
    use std::io::BufRead;
    let known = line("2026-01-31T18:00:00Z", "received a");
    let mut machine = Machine::running()
        .answers("Log", json!([known.clone()]))
        .sends("Log", Signal::Activity(known))
        .sends("Log", Signal::Activity(line("2026-01-31T18:00:02Z", "received b")));
    let mut command = machine.hearth(&["log", "-f"]);
    let piped = std::process::Stdio::piped;
    let mut child = command.stdout(piped()).stderr(piped()).spawn().expect("the program starts");
    let mut lines = std::io::BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("a line").expect("UTF-8");
    assert_eq!([next(), next()], ["2026-01-31 18:00:00  received a", "2026-01-31 18:00:02  received b"]);
    machine.stop();
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn why_a_path_is_synced_or_not() {
    let machine = Machine::running().answers("Why", json!({
        "path": "docs/a.txt", "class": "shared", "travels": true, "rule": "**", "source": "shipped", "reason": "everything else",
    }));
    assert_snapshot!(
        "why",
        ["why docs/../docs/./a.txt", "why docs/a.txt --json"].map(|line| machine.run(line)).join("\n")
    );
    let machine = machine.answers("Why", json!({
        "path": ".cache/x", "class": "ignore", "travels": false, "rule": "/.cache/", "source": "shipped", "reason": "can be made again",
    }));
    assert_snapshot!("why_not", machine.run("why .cache/x"));
    let machine = machine.answers("Why", json!({
        "path": "Videos/raw/x", "class": "ignore", "travels": false, "rule": "*/", "line": 7, "when": "inside:.nobackup",
        "marker": "Videos/.nobackup", "source": "shipped", "reason": "marked as not to be copied",
    }));
    assert_snapshot!("why_marked", machine.run("why Videos/raw/x"));
    let raw = std::ffi::OsStr::from_bytes(b"caf\xe9");
    machine.hearth(&["why"]).arg(raw).output().expect("the program starts");
    assert_snapshot!("why_calls", machine.calls());
}

#[test]
fn a_path_is_taken_as_the_shell_names_it() {
    let machine = Machine::running();
    std::fs::create_dir_all(machine.home().join("docs/deep")).expect("made");
    std::os::unix::fs::symlink("docs/deep", machine.home().join("link")).expect("made");
    let mut command = machine.hearth(&["why", "../a"]);
    command.current_dir(machine.home().join("link")).env("PWD", machine.home().join("link"));
    command.output().expect("the program starts");
    let mut lied_to = machine.hearth(&["why", "../a"]);
    lied_to.current_dir(machine.home().join("docs/deep")).env("PWD", "/tmp").output().expect("the program starts");
    assert_eq!(machine.calls(), "Why(\"[HOME]/a\")\nWhy(\"[HOME]/docs/a\")");
}

#[test]
fn rules_of_the_person() {
    let machine = Machine::running().answers("RulesList", json!([]));
    let none = ["rules list", "rules list --asking"].map(|line| machine.run(line)).join("\n");
    assert_snapshot!("rules_none", none);
    let machine = machine
        .answers(
            "RulesList",
            json!([
                {"pattern": "/docs/scratch/", "class": "never", "on": null, "note": ""},
                {"pattern": "*.iso", "class": "never", "on": "laptop", "note": "small disk"},
            ]),
        )
        .answers("RulesAdd", json!({"pattern": "*.iso", "class": "never", "on": "laptop", "note": ""}))
        .answers("RulesRemove", json!({"removed": 1}));
    let lines = ["rules list", "rules list --json", "rules add *.iso never --on laptop", "rules remove *.iso"];
    assert_snapshot!("rules", lines.map(|line| machine.run(line)).join("\n"));
    assert_snapshot!("rules_calls", machine.calls());
    let machine = machine.answers(
        "RulesList",
        json!([
            {"path": "VMs/old.qcow2", "reason": "a disk image", "bytes": 21_474_836_480_u64},
            {"path": "Games", "reason": "usually installed by a shop", "bytes": null},
        ]),
    );
    assert_snapshot!("rules_asking", machine.run("rules list --asking"));
    let machine = machine
        .fails("RulesAdd", Failure::usage("no class is called sometimes", "shared, never, ignore, device or ask"));
    assert_snapshot!("rules_wrong_class", machine.run("rules add x sometimes"));
}

#[test]
fn relays() {
    let pinned = format!("hearth://relay.example:7000#{}", "ab".repeat(32));
    let relays = json!([
        {"address": pinned, "first": true, "online": true, "over": "udp", "rtt_ms": 12, "carries": ["tower", "tablet"]},
        {"address": "hearth://[2001:db8::1]:443", "first": false, "online": true, "over": "tcp", "rtt_ms": null, "carries": []},
        {"address": "hearth://192.0.2.1:443", "first": false, "online": false, "over": null, "rtt_ms": null, "carries": []},
    ]);
    let machine = Machine::running()
        .answers("RelayList", relays.clone())
        .answers("RelayAdd", relays.clone())
        .answers("RelayRemove", relays);
    let add = format!("relay add {pinned} --invite word");
    let lines =
        ["relay list", "relay list --json", &add, "relay remove hearth://192.0.2.1:443", "relay add relay.example"];
    assert_snapshot!("relays", lines.map(|line| machine.run(line)).join("\n"));
    assert_snapshot!("relays_calls", machine.calls());
    let machine = machine.fails(
        "RelayRemove",
        Failure::failed(
            "this is the only relay of the account",
            "add the one that is to take its place before: `hearth relay add`",
        ),
    );
    assert_snapshot!("relays_only_one", machine.run("relay remove hearth://192.0.2.1:443"));
}

#[test]
fn history_and_restore() {
    let versions = json!([
        {"version": "v8", "path": "docs/a.txt", "time": hours_ago(1), "device": "laptop", "size": 1536, "blake3": "ab12", "cause": "replaced"},
        {"version": "v3", "path": "docs/a.txt", "time": hours_ago(24 * 4), "device": "tower", "size": 12, "blake3": "cd34", "cause": "deleted"},
    ]);
    let machine = Machine::running().answers("History", versions).answers(
        "Restore",
        json!({"path": "docs/a.txt", "version": "v8", "to": null, "restored": 3, "removed": 1, "problems": []}),
    );
    let lines = [
        "history docs/a.txt",
        "history --all",
        "restore docs/a.txt",
        "restore docs/a.txt --version v3 --to out.txt",
        "restore docs --at 2026-01-31T18:00:00+01:00",
        "restore docs --from laptop --since 2026-01-31T18:00:00Z",
        "restore docs/a.txt --json",
    ];
    assert_snapshot!("history", lines.map(|line| machine.run(line)).join("\n"));
    assert_snapshot!("history_calls", machine.calls());
    let machine = Machine::running().answers("History", json!([]));
    assert_snapshot!("history_empty", machine.run("history docs"));
}

#[test]
fn trouble_with_files_is_told_in_two_lines() {
    let hints = [
        ("docs/locked.txt cannot be read: permission denied", "`ls -l` says who may read it"),
        ("the disk is full", "make room, or give another place with --to"),
        ("the limit on inotify watches is reached", "raise it with `sudo sysctl fs.inotify.max_user_watches=524288`"),
    ];
    let seen = hints
        .map(|(what, hint)| Machine::running().fails("Restore", Failure::failed(what, hint)).run("restore docs/a"));
    assert_snapshot!("trouble", seen.join("\n"));
}

#[test]
fn conflicts() {
    let list = json!([{"path": "docs/a.txt", "sibling": "docs/a (conflict, laptop, 7f).txt", "device": "laptop"}]);
    let machine = Machine::running().answers("Conflicts", list);
    assert_snapshot!("conflicts", ["conflicts", "conflicts --json"].map(|line| machine.run(line)).join("\n"));
    assert_snapshot!("conflicts_none", Machine::running().answers("Conflicts", json!([])).run("conflicts"));
}

#[test]
fn held() {
    let list = json!([
        {"id": "5f0c", "device": "laptop", "removes": 5000, "replaces": 0, "bytes": 81_000_000, "since": hours_ago(1)},
        {"id": "77aa", "device": "attic", "removes": 1, "replaces": 2400, "bytes": 12, "since": hours_ago(30)},
    ]);
    let machine = Machine::running().answers("Held", list).answers("HeldJudge", json!({"ids": ["5f0c", "77aa"]}));
    let lines = ["held", "held release 5f0c", "held undo --all", "held release", "held undo 5f0c --all"];
    assert_snapshot!("held", lines.map(|line| machine.run(line)).join("\n"));
    assert_snapshot!("held_calls", machine.calls());
    assert_snapshot!("held_none", Machine::running().answers("Held", json!([])).run("held"));
    let unknown = Failure::failed("nothing is held under 1234", "see `hearth held`");
    assert_snapshot!("held_unknown", Machine::running().fails("HeldJudge", unknown).run("held undo 1234"));
}

#[test]
fn settings() {
    let key = "/org/gnome/desktop/interface/color-scheme";
    let layers = json!([{"layer": "account", "value": "'prefer-dark'"}, {"layer": "default", "value": "'default'"}]);
    let machine = Machine::running()
        .answers("SettingsList", json!([{"key": key, "value": "'prefer-dark'", "class": "shared", "by": "curated"}]))
        .answers("SettingsGet", json!({"key": key, "value": "'prefer-dark'", "class": "shared", "by": "curated", "layers": layers}))
        .answers("SettingsExplain", json!({
            "key": key, "class": "shared", "by": "curated", "line": "org.gnome.desktop.interface,color-scheme,shared", "flags": ["path", "churn"],
            "value": null, "layers": {"account": "'prefer-dark'", "device": null},
        }))
        .answers("SettingsHistory", json!([{"time": hours_ago(3), "device": "laptop", "old": null, "new": "'prefer-dark'", "cause": "remote"}]));
    let lines = [
        "settings list",
        "settings list color",
        "settings get color",
        "settings get color --json",
        "settings explain color",
        "settings history color",
    ];
    assert_snapshot!("settings", lines.map(|line| machine.run(line)).join("\n"));
    let machine = Machine::running().answers("SettingsList", json!([])).answers("SettingsHistory", json!([])).fails(
        "SettingsGet",
        Failure::failed("no schema on this machine has the key x", "`hearth settings list` lists the keys"),
    );
    let lines = ["settings list zzz", "settings history x", "settings get x"];
    assert_snapshot!("settings_none", lines.map(|line| machine.run(line)).join("\n"));
}

#[test]
fn the_doctor() {
    let machine = Machine::running().answers("Doctor", json!([
        {"name": "relay", "state": "ok", "what": "relay.example:7000 answers in 12 ms", "hint": ""},
        {"name": "key ring", "state": "note", "what": "no Secret Service; keys lie in a file only you can read", "hint": "log in to a desktop once to use the key ring"},
        {"name": "watches", "state": "bad", "what": "812 folders are not watched", "hint": "sudo sysctl fs.inotify.max_user_watches=524288"},
    ]));
    assert_snapshot!("doctor", ["doctor", "doctor --json"].map(|line| machine.run(line)).join("\n"));
}

#[test]
fn without_a_daemon_there_is_a_way_out() {
    let machine = Machine::idle();
    assert_snapshot!("no_daemon", ["status", "status --json"].map(|line| machine.run(line)).join("\n"));
    std::fs::create_dir_all(machine.home().join("run/hearth")).expect("made");
    drop(std::os::unix::net::UnixListener::bind(machine.socket()).expect("left by a killed daemon"));
    assert!(machine.run("status").ends_with("--- exit 3\n"));
}

#[test]
fn wrong_usage() {
    let machine = Machine::idle();
    let lines = [
        "",
        "frobnicate",
        "stauts",
        "join",
        "join 7-a-b-c",
        "join 7-a-b-c --relay relay.example",
        "join 7-a-b-c --phrase-file f --relay hearth://r:1",
        "device",
        "history",
        "history a --all",
        "wait --timeout soon",
        "wait --timeout -1",
        "restore a --version v --at 2026-01-31",
        "restore a --at someday",
        "restore a --from laptop",
        "status --frob",
        "join c --relay hearth://r:1 --settings yours",
    ];
    assert_snapshot!("usage", lines.map(|line| machine.run(line)).join("\n"));
    let mut homeless = machine.hearth(&["status"]);
    assert_snapshot!("no_home", machine.tell("status", homeless.env_remove("HOME")));
}

#[test]
fn a_bug_says_so() {
    let machine = Machine::running().answers("Status", json!("panic"));
    assert_snapshot!("bug", machine.run("status"));
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let many: Vec<Value> = (0..5000).map(|n| line("2026-01-31T18:00:00Z", &format!("received {n}"))).collect();
    let machine = Machine::running().answers("Log", json!(many));
    let mut command = machine.hearth(&["log"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = command.stdout(writer).stderr(std::process::Stdio::piped()).output().expect("the program starts");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));
}

#[test]
fn completions_and_manual_pages_are_made() {
    let machine = Machine::idle();
    assert!(machine.run("completions bash").contains("_hearth()"));
    assert!(machine.run("man man1").ends_with("--- exit 0\n"));
    assert!(machine.home().join("man1/hearth-device-add.1").exists());
}

#[test]
fn a_machine_calls_itself_by_its_host_name() {
    let machine = Machine::running();
    machine.run(&format!("init --relay {RELAY}"));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("readable");
    let name = host.trim().split('.').next().expect("never empty");
    assert_eq!(machine.calls(), format!("Init({RELAY} {name})"));
}

/// A line of JSON without its time, which is another one at each run.
fn cut_time(line: &str) -> String {
    let Some((before, rest)) = line.split_once("\"fresh_as_of\":\"") else { return line.to_owned() };
    format!("{before}\"fresh_as_of\":\"[TIME]{}", &rest[rest.find('"').expect("closed")..])
}
