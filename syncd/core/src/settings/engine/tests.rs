use std::collections::BTreeMap;

use super::*;
use crate::settings::schema::{Domain, KeyInfo, Schema};
use crate::settings::value;

const LOOK: &str = "/org/gnome/desktop/interface/color-scheme";
const SIZE: &str = "/org/gnome/desktop/interface/gtk-timeout-repeat";
const LOCK: &str = "/org/gnome/desktop/screensaver/lock-enabled";
const PICTURE: &str = "/org/gnome/desktop/background/picture-uri";
const ZOOM: &str = "/org/gnome/desktop/background/picture-options";
const SPEED: &str = "/org/gnome/desktop/peripherals/mouse/speed";
const FAVOURITES: &str = "/org/gnome/shell/favorite-apps";
const SECRET: &str = "/org/example/Chat/password";

fn v(text: &str) -> SettingValue {
    value::parse(text, None).expect("a value")
}

fn snapshot(values: &[(&str, &str)]) -> Snapshot {
    values.iter().map(|(path, text)| ((*path).to_owned(), v(text))).collect()
}

fn schemas(paths: &[(&str, &str)]) -> Schemas {
    let mut by_id: BTreeMap<String, Schema> = BTreeMap::new();
    for (path, default) in paths {
        let (dir, name) = path.rsplit_once('/').expect("a path");
        let schema = by_id.entry(dir[1..].replace('/', ".")).or_default();
        schema.path = Some(format!("{dir}/"));
        let default = v(default);
        let info = KeyInfo { kind: default.kind.clone(), domain: Domain::Any, aliases: BTreeMap::new(), default };
        schema.keys.insert(name.to_owned(), info);
    }
    Schemas::new(by_id)
}

fn all_schemas() -> Schemas {
    schemas(&[
        (LOOK, "'default'"),
        (SIZE, "24"),
        (LOCK, "true"),
        (PICTURE, "''"),
        (ZOOM, "'zoom'"),
        (SPEED, "0.0"),
        (SECRET, "''"),
        (FAVOURITES, "['a']"),
    ])
}

/// An engine, and a dconf that does what it says.
struct Machine {
    engine: SettingsEngine,
    dconf: Snapshot,
    read: u64,
    now: u64,
    published: Vec<(String, Scope, Option<SettingValue>)>,
    writes: usize,
    notices: Vec<String>,
    /// Whether the layer cannot be read after the next write.
    blind: bool,
    /// What was done, in order.
    acts: Vec<&'static str>,
    remembered: Snapshot,
    kept: BTreeMap<String, Kept>,
}

impl Machine {
    fn start(name: &str, join: Join, joined: bool, dconf: Snapshot, base: Snapshot) -> Self {
        let start = Start {
            policy: Arc::new(Policy::shipped()),
            device: name.to_owned(),
            home: format!("/home/{name}"),
            join,
            joined,
            base: base.clone(),
            kept: BTreeMap::new(),
            history: Vec::new(),
        };
        let mut machine = Self {
            engine: SettingsEngine::new(start),
            dconf,
            read: 0,
            now: 1_000_000,
            published: Vec::new(),
            writes: 0,
            notices: Vec::new(),
            blind: false,
            acts: Vec::new(),
            remembered: base,
            kept: BTreeMap::new(),
        };
        machine.tell(SettingsEvent::SchemasChanged(all_schemas()));
        machine.look();
        machine
    }

    /// A machine that is long a member, at rest.
    fn member(name: &str, dconf: &[(&str, &str)]) -> Self {
        let mut machine = Self::start(name, Join::Merge, true, snapshot(dconf), snapshot(dconf));
        machine.tell(SettingsEvent::AccountHeard);
        machine
    }

    fn tell(&mut self, event: SettingsEvent) {
        self.engine.handle_event(event, self.now);
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                SettingsEffect::Publish { key, scope, value } => {
                    self.acts.push("publish");
                    self.published.push((key, scope, value));
                }
                SettingsEffect::Write(batch) => {
                    self.writes += 1;
                    batch.into_iter().for_each(|(path, value)| set(&mut self.dconf, &path, value));
                    if std::mem::take(&mut self.blind) {
                        self.engine.handle_event(SettingsEvent::WriteLost, self.now);
                        continue;
                    }
                    self.read += 1;
                    let done = SettingsEvent::WriteDone { values: self.dconf.clone(), read: self.read, failed: None };
                    self.engine.handle_event(done, self.now);
                }
                SettingsEffect::Remember { path, value } => {
                    self.acts.push("remember");
                    self.remembered.insert(path, value);
                }
                SettingsEffect::Forget { path } => {
                    self.remembered.remove(&path);
                }
                SettingsEffect::Keep { path, why } => {
                    self.kept.insert(path, why);
                }
                SettingsEffect::Notice { what, .. } => self.notices.push(what),
                SettingsEffect::Joined | SettingsEffect::History(_) => {}
            }
        }
    }

    fn look(&mut self) {
        self.read += 1;
        self.tell(SettingsEvent::LocalSnapshot { values: self.dconf.clone(), read: self.read });
    }

    fn change(&mut self, path: &str, text: Option<&str>) {
        set(&mut self.dconf, path, text.map(v));
        self.look();
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.tell(SettingsEvent::Tick);
    }

    fn hear(&mut self, path: &str, text: Option<&str>) {
        let value = text.map(v);
        self.hear_value(path, Scope::Account, value);
    }

    fn hear_value(&mut self, key: &str, scope: Scope, value: Option<SettingValue>) {
        let change = AccountChange { key: key.to_owned(), scope, value, device: "other".to_owned(), time_ms: self.now };
        self.tell(SettingsEvent::AccountChanged(vec![change]));
    }

    fn published(&mut self) -> Vec<(String, String)> {
        let text = |value: Option<SettingValue>| value.map_or("unset".to_owned(), |value| value::text(&value));
        self.published.drain(..).map(|(path, _, value)| (path, text(value))).collect()
    }

    fn has(&self, path: &str) -> Option<String> {
        self.dconf.get(path).map(value::text)
    }
}

fn pair(path: &str, text: &str) -> (String, String) {
    (path.to_owned(), text.to_owned())
}

#[test]
fn a_change_here_rests_and_is_published_once() {
    let mut machine = Machine::member("anna", &[]);
    machine.change(LOOK, Some("'prefer-dark'"));
    assert!(!machine.engine.is_settled());
    assert_eq!(machine.engine.poll_timeout(), Some(machine.now + DEBOUNCE_MS));
    machine.pass(DEBOUNCE_MS - 1);
    assert!(machine.published().is_empty());
    machine.pass(1);
    assert_eq!(machine.published(), [pair(LOOK, "'prefer-dark'")]);
    assert!(machine.engine.is_settled());
    machine.look();
    machine.pass(DEBOUNCE_MAX_MS);
    assert!(machine.published().is_empty());
    machine.change(LOOK, None);
    machine.tell(SettingsEvent::Flush);
    assert_eq!(machine.published(), [pair(LOOK, "unset")]);
    assert!(machine.engine.is_settled());
    assert!(machine.remembered.is_empty());
}

#[test]
fn a_value_that_never_rests_is_published_in_the_end() {
    let mut machine = Machine::member("anna", &[]);
    for n in 0..31 {
        machine.change(SIZE, Some(&n.to_string()));
        machine.pass(1_000);
    }
    assert_eq!(machine.published(), [pair(SIZE, "29")]);
}

#[test]
fn the_accounts_value_is_written_and_does_not_echo() {
    let mut machine = Machine::member("anna", &[]);
    machine.hear(LOOK, Some("'prefer-dark'"));
    assert_eq!(machine.has(LOOK).as_deref(), Some("'prefer-dark'"));
    machine.look();
    machine.pass(DEBOUNCE_MAX_MS);
    machine.hear(LOOK, Some("'prefer-dark'"));
    assert!(machine.published().is_empty());
    assert_eq!((machine.writes, machine.engine.is_settled()), (1, true));
    machine.hear(LOOK, None);
    assert_eq!(machine.has(LOOK), None);
    assert!(machine.published().is_empty());
}

#[test]
fn secrets_machine_values_and_state_do_not_travel() {
    let mut machine = Machine::member("anna", &[]);
    machine.change(SECRET, Some("'hunter2'"));
    machine.change("/org/example/thing/window-geometry", Some("'1x1'"));
    machine.change("/org/example/thing/nobody-knows", Some("'Ab3Cd5Ef7Gh9Ij1Kl3Mn5Op7Qr'"));
    machine.change(SPEED, Some("0.5"));
    machine.pass(CHURN_MS);
    assert_eq!(machine.published, [(SPEED.to_owned(), Scope::Device, Some(v("0.5")))]);
    assert_eq!(machine.remembered.keys().collect::<Vec<_>>(), [SPEED]);
    machine.hear(SECRET, Some("'stolen'"));
    machine.hear(SPEED, Some("1.0"));
    machine.hear("/org/gnome/desktop/lockdown/disable-lock-screen", Some("true"));
    assert_eq!(machine.writes, 0);
    let shown = machine.engine.get("/org/example/Chat/password").expect("known");
    assert_eq!(shown["value"], serde_json::Value::Null);
    assert!(!shown.to_string().contains("hunter2"));
}

#[test]
fn what_this_machine_cannot_take_sleeps_until_it_can() {
    let mut machine = Machine::member("anna", &[]);
    machine.tell(SettingsEvent::SchemasChanged(schemas(&[(LOOK, "'default'")])));
    machine.hear(SIZE, Some("48"));
    machine.hear(LOOK, Some("5"));
    machine.hear_value(ZOOM, Scope::Account, Some(SettingValue { kind: "u".to_owned(), bytes: vec![1] }));
    machine.hear("not a path", Some("5"));
    assert_eq!((machine.writes, machine.engine.waiting().count()), (0, 3));
    machine.pass(DEBOUNCE_MAX_MS);
    assert!(machine.published().is_empty());
    machine.tell(SettingsEvent::SchemasChanged(all_schemas()));
    assert_eq!(machine.has(SIZE).as_deref(), Some("48"));
    assert_eq!(machine.engine.waiting().count(), 2);
    // A number of another type is the same number.
    machine.hear(SIZE, Some("uint32 32"));
    assert_eq!(machine.has(SIZE).as_deref(), Some("32"));
    machine.pass(DEBOUNCE_MAX_MS);
    assert!(machine.published().is_empty());
}

#[test]
fn a_value_that_protects_less_waits_for_the_person() {
    let mut machine = Machine::member("anna", &[]);
    machine.hear(LOCK, Some("false"));
    assert_eq!((machine.has(LOCK), machine.notices.len()), (None, 1));
    assert!(machine.engine.waiting().next().expect("waits").held);
    machine.change(LOCK, Some("false"));
    machine.pass(DEBOUNCE_MS);
    // The account has it already, and nothing waits.
    assert!(machine.published().is_empty());
    assert_eq!(machine.engine.waiting().count(), 0);
    machine.hear(LOCK, Some("true"));
    assert_eq!(machine.has(LOCK).as_deref(), Some("true"));
}

#[test]
fn locked_settings_are_neither_taken_nor_given() {
    let mut machine = Machine::member("anna", &[]);
    machine.tell(SettingsEvent::LocksChanged(BTreeSet::from(["/org/gnome/desktop/interface/".to_owned()])));
    machine.hear(LOOK, Some("'prefer-dark'"));
    machine.change(SIZE, Some("48"));
    machine.pass(DEBOUNCE_MAX_MS);
    assert_eq!((machine.writes, machine.published().len()), (0, 0));
    machine.tell(SettingsEvent::LocksChanged(BTreeSet::new()));
    assert_eq!(machine.has(LOOK).as_deref(), Some("'prefer-dark'"));
}

#[test]
fn paths_below_the_home_are_translated() {
    let mut machine = Machine::member("anna", &[]);
    machine.change(PICTURE, Some("'file:///home/anna/p.png'"));
    machine.change(ZOOM, Some("'scaled'"));
    machine.pass(DEBOUNCE_MS);
    assert_eq!(machine.published(), [pair(ZOOM, "'scaled'"), pair(PICTURE, "'file://{home}/p.png'")]);
    let mut other = Machine::member("den", &[]);
    other.hear(PICTURE, Some("'file://{home}/p.png'"));
    assert_eq!(other.has(PICTURE).as_deref(), Some("'file:///home/den/p.png'"));
    other.pass(DEBOUNCE_MAX_MS);
    assert!(other.published().is_empty());
}

#[test]
fn nothing_is_published_before_the_account_was_heard() {
    let here = snapshot(&[(LOOK, "'prefer-dark'"), (SIZE, "48"), (ZOOM, "'zoom'")]);
    let mut machine = Machine::start("anna", Join::Merge, false, here, Snapshot::new());
    machine.tell(SettingsEvent::Flush);
    machine.hear(LOOK, Some("'prefer-light'"));
    machine.pass(DEBOUNCE_MAX_MS);
    assert!(machine.published().is_empty() && machine.writes == 0 && !machine.engine.is_settled());
    machine.tell(SettingsEvent::AccountHeard);
    // The account wins where both differ; the rest goes there; a default is nobody's wish.
    assert_eq!(machine.published(), [pair(SIZE, "48")]);
    assert_eq!(machine.has(LOOK).as_deref(), Some("'prefer-light'"));
    assert!(machine.engine.is_settled());
    let history = machine.engine.history(LOOK).expect("known");
    assert_eq!(history[0]["old"], "'prefer-dark'");
    assert_eq!(history[0]["cause"], "first join");
}

#[test]
fn the_first_machine_seeds_the_account_and_the_ways_to_join_differ() {
    let here = [(LOOK, "'prefer-dark'"), (SIZE, "48"), (ZOOM, "'zoom'")];
    for join in [Join::Merge, Join::Account, Join::Mine] {
        let mut machine = Machine::start("anna", join, false, snapshot(&here), Snapshot::new());
        machine.tell(SettingsEvent::AccountHeard);
        assert_eq!(machine.published(), [pair(LOOK, "'prefer-dark'"), pair(SIZE, "48")], "{join:?}");
    }
    let mut machine = Machine::start("anna", Join::Account, false, snapshot(&here), Snapshot::new());
    machine.hear(LOOK, Some("'prefer-light'"));
    machine.tell(SettingsEvent::AccountHeard);
    assert_eq!(machine.has(LOOK).as_deref(), Some("'prefer-light'"));
    assert_eq!((machine.published().len(), machine.has(SIZE).as_deref()), (0, Some("48")));
    let mut machine = Machine::start("anna", Join::Mine, false, snapshot(&here), Snapshot::new());
    machine.hear(LOOK, Some("'prefer-light'"));
    machine.hear(LOCK, Some("true"));
    machine.tell(SettingsEvent::AccountHeard);
    assert_eq!(machine.has(LOOK).as_deref(), Some("'prefer-dark'"));
    assert_eq!(machine.has(LOCK).as_deref(), Some("true"));
    assert!(machine.published.iter().all(|published| published.1 == Scope::Device));
    assert_eq!(machine.kept.get(LOOK), Some(&Kept::Joined));
    machine.change(LOOK, Some("'default'"));
    machine.pass(DEBOUNCE_MS);
    assert_eq!(machine.published.last().map(|published| published.1), Some(Scope::Device));
}

#[test]
fn a_change_made_while_the_engine_was_off_is_told_from_one_made_elsewhere() {
    let base = snapshot(&[(LOOK, "'default'"), (SIZE, "24"), (ZOOM, "'zoom'")]);
    let here = snapshot(&[(LOOK, "'prefer-dark'"), (SIZE, "24")]);
    let mut machine = Machine::start("anna", Join::Merge, true, here, base);
    machine.engine.handle_event(
        SettingsEvent::AccountChanged(vec![
            change(LOOK, Some("'default'"), 5),
            change(SIZE, Some("48"), 5),
            change(ZOOM, Some("'zoom'"), 5),
        ]),
        machine.now,
    );
    machine.tell(SettingsEvent::AccountHeard);
    machine.tell(SettingsEvent::Flush);
    assert_eq!(machine.published(), [pair(ZOOM, "unset"), pair(LOOK, "'prefer-dark'")]);
    assert_eq!(machine.has(SIZE).as_deref(), Some("48"));
}

fn change(key: &str, text: Option<&str>, time_ms: u64) -> AccountChange {
    let value = text.map(v);
    AccountChange { key: key.to_owned(), scope: Scope::Account, value, device: "other".to_owned(), time_ms }
}

#[test]
fn a_lost_database_is_put_back() {
    let base: Vec<(String, SettingValue)> = (0..6).map(|n| (format!("/org/example/a/k{n}"), v("1"))).collect();
    let mut base: Snapshot = base.into_iter().collect();
    base.insert(SIZE.to_owned(), v("48"));
    let mut machine = Machine::start("anna", Join::Merge, true, Snapshot::new(), base);
    machine.hear(SIZE, Some("48"));
    machine.tell(SettingsEvent::AccountHeard);
    machine.tell(SettingsEvent::Flush);
    assert!(machine.published().is_empty());
    assert_eq!((machine.has(SIZE).as_deref(), machine.notices.len()), (Some("48"), 1));
}

#[test]
fn what_keeps_being_changed_back_is_left_to_this_machine() {
    let mut machine = Machine::member("anna", &[]);
    for _ in 0..2 {
        machine.pass(60_000);
        machine.hear(LOOK, Some("'prefer-dark'"));
        machine.pass(1_000);
        machine.change(LOOK, None);
    }
    assert_eq!(machine.kept.get(LOOK), Some(&Kept::Quarantined));
    machine.published.clear();
    machine.pass(DEBOUNCE_MAX_MS);
    assert!(machine.published.iter().all(|published| published.1 == Scope::Device));
    machine.hear(LOOK, Some("'prefer-light'"));
    assert_eq!(machine.has(LOOK), None);
    assert_eq!(machine.engine.explain(LOOK).expect("known")["class"], "device");
}

#[test]
fn a_late_read_and_a_failed_write_change_nothing() {
    let mut machine = Machine::member("anna", &[(SIZE, "24")]);
    let stale = machine.dconf.clone();
    machine.hear(SIZE, Some("48"));
    machine.tell(SettingsEvent::LocalSnapshot { values: stale.clone(), read: 1 });
    machine.pass(DEBOUNCE_MAX_MS);
    assert!(machine.published().is_empty());
    machine
        .engine
        .handle_event(SettingsEvent::AccountChanged(vec![change(SIZE, Some("32"), machine.now)]), machine.now);
    while machine.engine.poll_effect().is_some() {}
    // A read that was made before the write arrives while it is under way.
    let values = machine.dconf.clone();
    machine.read += 2;
    let (read, failed) = (machine.read, Some("no bus".to_owned()));
    machine.tell(SettingsEvent::LocalSnapshot { values: values.clone(), read: read - 1 });
    machine.tell(SettingsEvent::WriteDone { values, read, failed });
    assert!(!machine.engine.is_settled());
    machine.pass(RETRY_MS);
    assert_eq!(machine.has(SIZE).as_deref(), Some("32"));
    machine.pass(DEBOUNCE_MAX_MS);
    assert!(machine.published().is_empty() && machine.engine.is_settled());
}

#[test]
fn a_write_that_cannot_be_looked_at_ends_all_the_same() {
    let mut machine = Machine::member("anna", &[]);
    machine.blind = true;
    machine.hear(LOOK, Some("'prefer-dark'"));
    assert!(!machine.engine.is_settled());
    machine.look();
    machine.pass(DEBOUNCE_MAX_MS);
    assert_eq!((machine.published().len(), machine.writes), (0, 1));
    assert!(machine.engine.is_settled());
    // It did not arrive: it is written once more.
    machine.blind = true;
    machine.hear(SIZE, Some("48"));
    machine.dconf.remove(SIZE);
    machine.look();
    machine.pass(RETRY_MS);
    assert_eq!(machine.has(SIZE).as_deref(), Some("48"));
    assert!(machine.published().is_empty() && machine.engine.is_settled());
}

#[test]
fn a_change_is_published_before_it_counts_as_agreed() {
    let mut machine = Machine::member("anna", &[]);
    machine.change(LOOK, Some("'prefer-dark'"));
    machine.pass(DEBOUNCE_MS);
    assert_eq!(machine.acts, ["publish", "remember"]);
}

#[test]
fn a_clock_that_is_ahead_elsewhere_costs_nobody_a_change() {
    let ahead = 1_000_000 + HOUR_MS;
    let base = snapshot(&[(LOOK, "'default'"), (SIZE, "24")]);
    let here = snapshot(&[(LOOK, "'prefer-dark'"), (SIZE, "24")]);
    let mut machine = Machine::start("anna", Join::Merge, true, here, base);
    let account = vec![change(LOOK, Some("'default'"), ahead), change(SIZE, Some("48"), ahead)];
    machine.tell(SettingsEvent::AccountChanged(account));
    machine.tell(SettingsEvent::AccountHeard);
    assert_eq!((machine.has(LOOK).as_deref(), machine.has(SIZE).as_deref()), (Some("'prefer-dark'"), Some("48")));
    machine.pass(DEBOUNCE_MS);
    assert_eq!(machine.published(), [pair(LOOK, "'prefer-dark'")]);
    // Nor while it rests, when schemas change.
    machine.tell(SettingsEvent::AccountChanged(vec![change(LOOK, Some("'prefer-light'"), ahead)]));
    machine.change(LOOK, Some("'default'"));
    machine.tell(SettingsEvent::SchemasChanged(all_schemas()));
    machine.pass(DEBOUNCE_MS);
    assert_eq!(machine.published(), [pair(LOOK, "'default'")]);
}

/// Publications of each go to the other, in turns; who wins is the later one, as the rows decide it.
#[test]
fn two_machines_come_to_agree_and_then_are_quiet() {
    let mut machines = [Machine::member("anna", &[]), Machine::member("den", &[])];
    machines[0].change(LOOK, Some("'prefer-dark'"));
    machines[1].change(LOOK, Some("'prefer-light'"));
    machines[0].change(PICTURE, Some("'file:///home/anna/p.png'"));
    machines[1].change(SIZE, Some("48"));
    machines[1].change(ZOOM, None);
    let mut rounds = 0;
    let mut stamp = 0;
    let mut winner: BTreeMap<String, (u64, Option<SettingValue>)> = BTreeMap::new();
    loop {
        let mut said = Vec::new();
        for machine in &mut machines {
            machine.pass(DEBOUNCE_MS);
            said.append(&mut machine.published);
        }
        if said.is_empty() {
            break;
        }
        for (path, scope, value) in said {
            assert_eq!(scope, Scope::Account);
            stamp += 1;
            winner.insert(path, (stamp, value));
        }
        for machine in &mut machines {
            for (path, (_, value)) in &winner {
                machine.hear_value(path, Scope::Account, value.clone());
            }
        }
        rounds += 1;
        assert!(rounds < 3, "they keep talking");
    }
    let [anna, den] = &machines;
    assert_eq!(anna.has(LOOK), den.has(LOOK));
    assert_eq!(anna.has(SIZE).as_deref(), Some("48"));
    assert_eq!(den.has(PICTURE).as_deref(), Some("'file:///home/den/p.png'"));
    assert!(anna.engine.is_settled() && den.engine.is_settled());
}

#[test]
fn every_key_can_be_explained() {
    let mut machine = Machine::member("anna", &[]);
    machine.hear(LOOK, Some("'prefer-dark'"));
    let by_name = machine.engine.explain("org.gnome.desktop.interface:color-scheme").expect("known");
    assert_eq!(by_name["value"], "'prefer-dark'");
    assert_eq!((&by_name["class"], &by_name["source"]), (&"shared".into(), &"shipped".into()));
    let layers: Vec<&str> =
        by_name["layers"].as_array().expect("layers").iter().filter_map(|layer| layer["layer"].as_str()).collect();
    assert_eq!(layers, ["user", "device", "account", "default"]);
    assert!(machine.engine.get("org.gnome.no:such").is_none());
    let listed = machine.engine.list("");
    assert_eq!(listed[0]["key"], "org.gnome.desktop.interface:color-scheme");
    assert_eq!(machine.engine.list("*nothing*").as_array().map(Vec::len), Some(0));
    assert_eq!(machine.engine.list("color").as_array().map(Vec::len), Some(1));
    assert_eq!(machine.engine.history(LOOK).expect("known")[0]["device"], "other");
}

#[test]
fn collections_are_united_at_the_join_and_merged_after_it() {
    let here = snapshot(&[(FAVOURITES, "['a', 'mine']")]);
    let mut machine = Machine::start("anna", Join::Merge, false, here, Snapshot::new());
    machine.hear(FAVOURITES, Some("['a', 'theirs']"));
    machine.tell(SettingsEvent::AccountHeard);
    assert_eq!(machine.has(FAVOURITES).as_deref(), Some("['a', 'mine', 'theirs']"));
    machine.pass(DEBOUNCE_MS);
    assert_eq!(machine.published(), [pair(FAVOURITES, "['a', 'mine', 'theirs']")]);
    machine.look();
    machine.pass(DEBOUNCE_MAX_MS);
    assert!(machine.published().is_empty() && machine.engine.is_settled());
    // One is removed here and another added there before either knows of the other.
    machine.change(FAVOURITES, Some("['a', 'theirs']"));
    machine.pass(100);
    machine.hear(FAVOURITES, Some("['a', 'mine', 'theirs', 'more']"));
    assert_eq!(machine.has(FAVOURITES).as_deref(), Some("['a', 'theirs', 'more']"));
    machine.pass(DEBOUNCE_MS);
    assert_eq!(machine.published(), [pair(FAVOURITES, "['a', 'theirs', 'more']")]);
    assert!(machine.engine.is_settled());
}
