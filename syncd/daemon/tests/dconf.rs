//! The dconf edge against a real bus, a real dconf service and real `gsettings`, in a home of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hearth_schemas::item::SettingValue;
use syncd::settings::places::Places;
use syncd::settings::{DconfEdge, Noticed};
use syncd_core::settings::event::{SettingsEvent, Snapshot};
use syncd_core::settings::schema::{Domain, Found};
use syncd_core::settings::value;
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;

const LOOK: &str = "/org/gnome/desktop/interface/color-scheme";
const SECONDS: &str = "/org/gnome/desktop/interface/clock-show-seconds";
const FORMAT: &str = "/org/gnome/desktop/interface/clock-format";

/// A bus with its own dconf behind it.
struct Session {
    home: TempDir,
    bus: Child,
    address: String,
}

impl Session {
    fn start() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(home.path().join("run")).expect("made");
        let mut bus = Self::command(home.path(), "dbus-daemon")
            .args(["--session", "--nofork", "--print-address=1"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("dbus-daemon is installed");
        let mut address = String::new();
        let out = bus.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut address).expect("the bus says its address");
        Self { home, bus, address: address.trim().to_owned() }
    }

    fn vars(home: &Path) -> [(&'static str, OsString); 5] {
        [
            ("HOME", home.into()),
            ("XDG_CONFIG_HOME", home.join("config").into()),
            ("XDG_RUNTIME_DIR", home.join("run").into()),
            ("XDG_DATA_DIRS", "/usr/share".into()),
            ("DCONF_PROFILE", home.join("profile").into()),
        ]
    }

    fn command(home: &Path, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").envs(Self::vars(home));
        command
    }

    fn run(&self, program: &str, args: &[&str]) -> String {
        let mut command = Self::command(self.home.path(), program);
        let output = command.env("DBUS_SESSION_BUS_ADDRESS", &self.address).args(args).output().expect("it runs");
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("a text").trim().to_owned()
    }

    fn write_profile(&self, text: &str) {
        std::fs::write(self.home.path().join("profile"), text).expect("written");
    }

    async fn edge(&self) -> (DconfEdge, Receiver<Noticed>) {
        let vars = Self::vars(self.home.path());
        let var = |name: &str| vars.iter().find(|var| var.0 == name).map(|var| var.1.clone());
        let places = Places::resolve(var, 4_000_000_000).expect("places");
        let address: zbus::Address = self.address.parse().expect("an address");
        let connection = zbus::connection::Builder::address(address).expect("built").build().await.expect("connected");
        DconfEdge::start(connection, places).await.expect("started")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.bus.kill();
        let _ = self.bus.wait();
    }
}

async fn next(noticed: &mut Receiver<Noticed>) -> Noticed {
    tokio::time::timeout(Duration::from_secs(20), noticed.recv()).await.expect("in time").expect("still watching")
}

/// Waits for a snapshot that is as wanted.
async fn until(noticed: &mut Receiver<Noticed>, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
    loop {
        if let Noticed::Local { values, .. } = next(noticed).await
            && wanted(&values)
        {
            return values;
        }
    }
}

fn v(text: &str) -> SettingValue {
    value::parse(text, None).expect("a value")
}

#[tokio::test]
async fn changes_are_seen_and_written() {
    let session = Session::start();
    session.write_profile("user-db:user\n");
    let (edge, mut noticed) = session.edge().await;
    let Noticed::Schemas(schemas) = next(&mut noticed).await else { panic!("schemas come first") };
    let Found::Key("org.gnome.desktop.interface", look) = schemas.find(LOOK) else { panic!("the desktop's schemas") };
    assert!(matches!(&look.domain, Domain::Choice(words) if words.contains("prefer-dark")));
    assert!(schemas.fit(LOOK, &v("'purple'")).is_err());
    let Noticed::Locks(locks) = next(&mut noticed).await else { panic!("then locks") };
    assert!(locks.is_empty());
    let Noticed::Local { values, .. } = next(&mut noticed).await else { panic!("then the values") };
    assert!(values.is_empty());

    session.run("gsettings", &["set", "org.gnome.desktop.interface", "color-scheme", "prefer-dark"]);
    let values = until(&mut noticed, |values| values.contains_key(LOOK)).await;
    assert_eq!(values[LOOK], v("'prefer-dark'"));

    let batch = BTreeMap::from([
        (LOOK.to_owned(), None),
        (SECONDS.to_owned(), Some(v("true"))),
        ("/org/example/odd".to_owned(), Some(v("[@mi nothing, 3]"))),
    ]);
    let SettingsEvent::WriteDone { values, failed, read } = edge.write(&batch).await.expect("read back") else {
        panic!("a write is answered")
    };
    assert_eq!((failed, values.get(LOOK)), (None, None));
    assert_eq!((&values[SECONDS], &values["/org/example/odd"]), (&v("true"), &v("[@mi nothing, 3]")));
    assert_eq!(session.run("gsettings", &["get", "org.gnome.desktop.interface", "clock-show-seconds"]), "true");
    assert_eq!(session.run("dconf", &["read", "/org/example/odd"]), "[@mi nothing, 3]");
    let Noticed::Local { read: later, .. } = edge.snapshot().await.expect("read") else { panic!("a snapshot") };
    assert!(later > read);
}

#[tokio::test]
async fn old_names_of_values_are_known() {
    let session = Session::start();
    session.write_profile("user-db:user\n");
    let (_edge, mut noticed) = session.edge().await;
    let Noticed::Schemas(schemas) = next(&mut noticed).await else { panic!("schemas come first") };
    let bell = "/org/gnome/desktop/wm/preferences/visual-bell-type";
    assert_eq!(schemas.fit(bell, &v("'frame_flash'")), Ok(v("'frame-flash'")));
    assert_eq!(schemas.fit(bell, &v("'fullscreen'")), Ok(v("'fullscreen-flash'")));
    assert!(schemas.fit(bell, &v("'frame flash'")).is_err());
}

#[tokio::test]
async fn a_database_that_is_gone_is_no_empty_one() {
    let session = Session::start();
    session.write_profile("user-db:user\n");
    let (edge, _noticed) = session.edge().await;
    assert!(matches!(edge.snapshot().await, Ok(Noticed::Local { values, .. }) if values.is_empty()));
    session.run("dconf", &["write", SECONDS, "true"]);
    assert!(matches!(edge.snapshot().await, Ok(Noticed::Local { values, .. }) if values.len() == 1));
    std::fs::remove_file(session.home.path().join("config/dconf/user")).expect("it is there");
    assert!(edge.snapshot().await.is_err());
    // The service remembers, and its next write brings the file back.
    let batch = BTreeMap::from([(LOOK.to_owned(), Some(v("'prefer-light'")))]);
    let done = edge.write(&batch).await.expect("read back");
    assert!(matches!(done, SettingsEvent::WriteDone { values, failed: None, .. } if values.len() == 2));
    // What a person takes away is gone for good reason.
    session.run("dconf", &["reset", "-f", "/"]);
    assert!(matches!(edge.snapshot().await, Ok(Noticed::Local { values, .. }) if values.is_empty()));
}

#[tokio::test]
async fn the_administrators_layer_is_not_the_persons() {
    let session = Session::start();
    let site = session.home.path().join("site");
    let source = session.home.path().join("site.d");
    std::fs::create_dir_all(source.join("locks")).expect("made");
    std::fs::write(source.join("00"), "[org/gnome/desktop/interface]\nclock-format='12h'\n").expect("written");
    std::fs::write(source.join("locks/l"), format!("{FORMAT}\n")).expect("written");
    session.write_profile(&format!("user-db:other\nfile-db:{}\n", site.display()));
    session.run("dconf", &["compile", site.to_str().expect("a text"), source.to_str().expect("a text")]);
    let (edge, mut noticed) = session.edge().await;
    let Noticed::Schemas(_) = next(&mut noticed).await else { panic!("schemas come first") };
    let Noticed::Locks(locks) = next(&mut noticed).await else { panic!("then locks") };
    assert_eq!(locks.into_iter().collect::<Vec<_>>(), [FORMAT]);
    session.run("dconf", &["write", SECONDS, "true"]);
    let values = until(&mut noticed, |values| !values.is_empty()).await;
    assert_eq!(values.keys().collect::<Vec<_>>(), [SECONDS]);
    let batch = BTreeMap::from([(LOOK.to_owned(), Some(v("'prefer-light'")))]);
    edge.write(&batch).await.expect("written");
    assert_eq!(session.run("dconf", &["read", LOOK]), "'prefer-light'");
}

#[tokio::test]
async fn without_the_service_a_write_fails_and_says_so() {
    let session = Session::start();
    session.write_profile("user-db:user\n");
    let (edge, mut noticed) = session.edge().await;
    let Noticed::Schemas(_) = next(&mut noticed).await else { panic!("schemas come first") };
    drop(session);
    let batch = BTreeMap::from([(SECONDS.to_owned(), Some(v("true")))]);
    let done = edge.write(&batch).await.expect("read back");
    assert!(matches!(done, SettingsEvent::WriteDone { failed: Some(_), .. }));
}
