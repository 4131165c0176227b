//! A daemon made of prepared answers, served by the real bus server, and the real `hearth` to ask it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use hearth_schemas::address::RelayAddress;
use serde_json::{Value, json};
use syncd::bus::{
    Answer, Barrier, Bus, Failure, JoinSettings, JoinWith, NewRule, PrivateSocket, Restore, Service, Signals, Verdict,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

/// The relay that the examples name.
pub(crate) const RELAY: &str = "hearth://relay.example:7000";

/// What a signal says.
#[derive(Clone)]
pub(crate) enum Signal {
    Status(Value),
    Activity(Value),
    Pairing(Value),
}

/// Answers as told, and remembers what it was asked.
#[derive(Default)]
pub(crate) struct SimService {
    answers: Mutex<BTreeMap<&'static str, Answer>>,
    sent_at: Mutex<BTreeMap<&'static str, Vec<Signal>>>,
    calls: Mutex<Vec<String>>,
    signals: Signals,
    given_up: Arc<Notify>,
}

/// Tells when a call that is never answered is dropped.
struct UntilDropped(Arc<Notify>);

impl Drop for UntilDropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl SimService {
    async fn asked(&self, method: &'static str, arguments: String) -> Answer {
        self.calls.lock().expect("no panic").push(format!("{method}({arguments})"));
        for signal in self.sent_at.lock().expect("no panic").get(method).into_iter().flatten() {
            match signal {
                Signal::Status(value) => self.signals.status_changed(value),
                Signal::Activity(value) => self.signals.activity(value),
                Signal::Pairing(value) => self.signals.pairing(value),
            }
        }
        let answer = self.answers.lock().expect("no panic").get(method).cloned();
        match answer {
            Some(Ok(Value::String(word))) if word == "panic" => panic!("told to"),
            Some(Ok(Value::String(word))) if word == "never" => {
                let _until_dropped = UntilDropped(Arc::clone(&self.given_up));
                std::future::pending().await
            }
            Some(answer) => answer,
            None => Ok(json!({})),
        }
    }
}

impl Service for SimService {
    async fn init(&self, relay: RelayAddress, name: String, invitation: Option<String>) -> Answer {
        match invitation {
            None => self.asked("Init", format!("{relay} {name}")).await,
            Some(invitation) => self.asked("InitInvited", format!("{relay} {name} {invitation}")).await,
        }
    }
    async fn device_add(&self) -> Answer {
        self.asked("DeviceAdd", String::new()).await
    }
    async fn join(&self, with: JoinWith, relay: RelayAddress, name: String, settings: JoinSettings) -> Answer {
        match with {
            JoinWith::Code(code) => self.asked("Join", format!("{code} {relay} {name} {settings:?}")).await,
            JoinWith::Phrase(phrase) => self.asked("JoinPhrase", format!("{phrase} {relay} {name} {settings:?}")).await,
        }
    }
    async fn device_list(&self) -> Answer {
        self.asked("DeviceList", String::new()).await
    }
    async fn device_rename(&self, old: String, new: String) -> Answer {
        self.asked("DeviceRename", format!("{old} {new}")).await
    }
    async fn device_revoke(&self, name: String) -> Answer {
        self.asked("DeviceRevoke", name).await
    }
    async fn status(&self) -> Answer {
        self.asked("Status", String::new()).await
    }
    async fn wait(&self, barrier: Barrier) -> Answer {
        self.asked("Wait", format!("{barrier:?}")).await
    }
    async fn pause(&self) -> Answer {
        self.asked("Pause", String::new()).await
    }
    async fn resume(&self) -> Answer {
        self.asked("Resume", String::new()).await
    }
    async fn log(&self, limit: u32) -> Answer {
        self.asked("Log", limit.to_string()).await
    }
    async fn doctor(&self) -> Answer {
        self.asked("Doctor", String::new()).await
    }
    async fn why(&self, path: PathBuf) -> Answer {
        self.asked("Why", format!("{path:?}")).await
    }
    async fn rules_list(&self, asking: bool) -> Answer {
        self.asked("RulesList", asking.to_string()).await
    }
    async fn rules_add(&self, rule: NewRule) -> Answer {
        self.asked("RulesAdd", format!("{rule:?}")).await
    }
    async fn rules_remove(&self, pattern: String, on: Option<String>) -> Answer {
        self.asked("RulesRemove", format!("{pattern} {on:?}")).await
    }
    async fn relay_list(&self) -> Answer {
        self.asked("RelayList", String::new()).await
    }
    async fn relay_add(&self, relay: RelayAddress, invitation: Option<String>) -> Answer {
        self.asked("RelayAdd", format!("{relay} {invitation:?}")).await
    }
    async fn relay_remove(&self, relay: RelayAddress) -> Answer {
        self.asked("RelayRemove", relay.to_string()).await
    }
    async fn history(&self, path: Option<PathBuf>) -> Answer {
        self.asked("History", format!("{path:?}")).await
    }
    async fn restore(&self, restore: Restore) -> Answer {
        self.asked("Restore", format!("{restore:?}")).await
    }
    async fn conflicts(&self) -> Answer {
        self.asked("Conflicts", String::new()).await
    }
    async fn held(&self) -> Answer {
        self.asked("Held", String::new()).await
    }
    async fn held_judge(&self, id: Option<String>, verdict: Verdict) -> Answer {
        self.asked("HeldJudge", format!("{id:?} {verdict:?}")).await
    }
    async fn settings_list(&self, pattern: String) -> Answer {
        self.asked("SettingsList", pattern).await
    }
    async fn settings_get(&self, key: String) -> Answer {
        self.asked("SettingsGet", key).await
    }
    async fn settings_explain(&self, key: String) -> Answer {
        self.asked("SettingsExplain", key).await
    }
    async fn settings_history(&self, key: String) -> Answer {
        self.asked("SettingsHistory", key).await
    }
}

/// One machine: a home, and perhaps a daemon in it.
pub(crate) struct Machine {
    home: TempDir,
    runtime: Runtime,
    service: Arc<SimService>,
    bus: Option<Bus>,
}

impl Machine {
    /// Without a daemon.
    pub(crate) fn idle() -> Self {
        let home = tempfile::Builder::new().prefix("hearth-").tempdir().expect("a temporary directory");
        std::fs::create_dir(home.path().join("docs")).expect("made");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Self { home, runtime: runtime.expect("threads"), service: Arc::default(), bus: None }
    }

    /// With a daemon.
    pub(crate) fn running() -> Self {
        Self::idle().with_bus(None)
    }

    /// With a daemon that is on a session bus, too.
    pub(crate) fn with_bus(mut self, session_bus: Option<zbus::Address>) -> Self {
        let _inside = self.runtime.enter();
        let socket = PrivateSocket::bind(&self.socket()).expect("bound");
        self.bus = Some(Bus::serve(socket, session_bus, Arc::clone(&self.service), &self.service.signals));
        drop(_inside);
        self
    }

    /// Prepares the answer to a method.
    pub(crate) fn answers(self, method: &'static str, value: Value) -> Self {
        self.service.answers.lock().expect("no panic").insert(method, Ok(value));
        self
    }

    /// Prepares a refusal.
    pub(crate) fn fails(self, method: &'static str, failure: Failure) -> Self {
        self.service.answers.lock().expect("no panic").insert(method, Err(failure));
        self
    }

    /// Prepares a signal that goes out when a method is called, before its answer.
    pub(crate) fn sends(self, method: &'static str, signal: Signal) -> Self {
        self.service.sent_at.lock().expect("no panic").entry(method).or_default().push(signal);
        self
    }

    /// Ends the daemon.
    pub(crate) fn stop(&mut self) {
        let _inside = self.runtime.enter();
        drop(self.bus.take());
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path().join("run/hearth/bus")
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Returns once a call that is never answered has been given up.
    pub(crate) async fn given_up(&self) {
        self.service.given_up.notified().await;
    }

    /// What the service was asked, one call a line.
    pub(crate) fn calls(&self) -> String {
        self.in_general(&self.service.calls.lock().expect("no panic").join("\n"))
    }

    /// `hearth` with these arguments, about to run in the home.
    pub(crate) fn hearth(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
        command.args(line).current_dir(self.home()).env_clear();
        command.env("HOME", self.home()).env("XDG_RUNTIME_DIR", self.home().join("run")).env("TZ", "UTC");
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command line and tells all that can be seen of it.
    pub(crate) fn run(&self, line: &str) -> String {
        self.tell(line, &mut self.hearth(&line.split_whitespace().collect::<Vec<_>>()))
    }

    pub(crate) fn tell(&self, line: &str, command: &mut Command) -> String {
        let output = command.output().expect("the program starts");
        let mut text = format!("$ hearth {line}\n");
        text += &String::from_utf8(output.stdout).expect("UTF-8");
        let errors = String::from_utf8(output.stderr).expect("UTF-8");
        if !errors.is_empty() {
            text += &format!("--- stderr\n{errors}");
        }
        text += &format!("--- exit {}\n", output.status.code().expect("not killed"));
        self.in_general(&text)
    }

    /// Runs a command line on a terminal until it ends, and gives what the terminal got.
    pub(crate) fn run_on_terminal(&self, line: &str) -> (String, i32) {
        let (mut terminal, mut child) = self.start_on_terminal(&line.split_whitespace().collect::<Vec<_>>());
        let mut seen = Vec::new();
        // A terminal that everybody has closed reads as an error.
        let _ = terminal.read_to_end(&mut seen);
        let status = child.wait().expect("it ends");
        let text = String::from_utf8(seen).expect("UTF-8").replace("\r\n", "\n");
        (self.in_general(&text), status.code().expect("not killed"))
    }

    fn start_on_terminal(&self, line: &[&str]) -> (std::fs::File, Child) {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&ours).expect("granted");
        unlockpt(&ours).expect("unlocked");
        let name = ptsname(&ours, Vec::new()).expect("named").into_string().expect("UTF-8");
        let theirs = || OwnedFd::from(std::fs::File::options().read(true).write(true).open(&name).expect("opened"));
        let mut command = self.hearth(line);
        command.env("TERM", "xterm").stdin(theirs()).stdout(theirs()).stderr(theirs());
        let child = command.spawn().expect("the program starts");
        (ours.into(), child)
    }

    fn in_general(&self, text: &str) -> String {
        text.replace(self.home().to_str().expect("UTF-8"), "[HOME]")
    }
}

/// Writes a file below the home.
pub(crate) fn write(machine: &Machine, name: &str, content: &str) {
    let mut file = std::fs::File::create(machine.home().join(name)).expect("created");
    file.write_all(content.as_bytes()).expect("written");
}

/// A point in time some hours and a half before now: shown as `N h ago` or in days, however slow the test is.
pub(crate) fn hours_ago(hours: i64) -> String {
    (jiff::Timestamp::now() - jiff::SignedDuration::from_mins(hours * 60 + 30)).to_string()
}
