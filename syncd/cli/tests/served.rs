//! The bus server itself: what it serves is what the XML says, to whom, and what becomes of calls.

use std::collections::BTreeMap;

use serde_json::json;
use zbus::Connection;

use sim::{Machine, Signal};

#[expect(dead_code, reason = "each test program uses a part of it")]
mod sim;

const XML: &str = include_str!("../../../schemas/dbus/org.hearth.Sync1.xml");
const PATH: &str = "/org/hearth/Sync1";
const INTERFACE: &str = "org.hearth.Sync1";

#[test]
fn the_interface_served_is_the_one_in_the_xml() {
    let machine = Machine::running();
    let served: String = machine.block_on(async {
        let connection = client(&machine).await;
        let reply = connection
            .call_method(None::<&str>, PATH, Some("org.freedesktop.DBus.Introspectable"), "Introspect", &())
            .await
            .expect("answered");
        reply.body().deserialize().expect("a string")
    });
    let (served, written) = (members(&served), members(XML));
    assert_eq!(served, written);
    assert_eq!(written.keys().filter(|member| member.starts_with("method")).count(), 31);
}

#[test]
fn what_a_call_gets_wrong_is_said_and_the_service_is_not_asked() {
    let machine = Machine::running();
    machine.block_on(async {
        let connection = client(&machine).await;
        let refused = async |method: &str, wrong: Wrong| match wrong {
            Wrong::Path(path) => {
                error(connection.call_method(None::<&str>, PATH, Some(INTERFACE), method, &(path,)).await)
            }
            Wrong::Restore(version, at, device) => {
                let body = (b"/a".as_slice(), version, at, device, b"".as_slice());
                error(connection.call_method(None::<&str>, PATH, Some(INTERFACE), method, &body).await)
            }
            Wrong::Join(relay, settings) => {
                let body = ("7-a-b-c", relay, "n", settings);
                error(connection.call_method(None::<&str>, PATH, Some(INTERFACE), method, &body).await)
            }
        };
        let usage = "org.hearth.Error.Usage";
        assert_eq!(refused("Why", Wrong::Path(b"docs/a")).await, usage);
        assert_eq!(refused("Why", Wrong::Path(b"/docs\0a")).await, usage);
        assert_eq!(refused("Restore", Wrong::Restore("v1", "2026-01-01T00:00:00Z", "")).await, usage);
        assert_eq!(refused("Restore", Wrong::Restore("", "at noon", "")).await, usage);
        assert_eq!(refused("Restore", Wrong::Restore("", "", "laptop")).await, usage);
        assert_eq!(refused("Join", Wrong::Join("relay.example", "")).await, usage);
        assert_eq!(refused("Join", Wrong::Join(sim::RELAY, "yours")).await, usage);
    });
    assert_eq!(machine.calls(), "");
}

#[test]
fn a_panic_is_answered_as_a_bug_and_the_next_call_is_served() {
    let machine = Machine::running().answers("Status", json!("panic")).answers("Doctor", json!([]));
    machine.block_on(async {
        let connection = client(&machine).await;
        let call = async |method| connection.call_method(None::<&str>, PATH, Some(INTERFACE), method, &()).await;
        assert_eq!(error(call("Status").await), "org.hearth.Error.Bug");
        assert!(call("Doctor").await.is_ok());
    });
}

#[test]
fn a_long_wait_does_not_hold_up_other_calls() {
    let machine = Machine::running().answers("Wait", json!("never")).answers("Status", json!({}));
    machine.block_on(async {
        let connection = client(&machine).await;
        let waiting = connection.call_method(None::<&str>, PATH, Some(INTERFACE), "Wait", &(0_u64, "", false));
        let asking = connection.call_method(None::<&str>, PATH, Some(INTERFACE), "Status", &());
        tokio::select! {
            _ = waiting => panic!("nothing answers it"),
            status = asking => drop(status.expect("answered")),
        }
    });
}

#[test]
fn a_wait_is_given_up_when_its_caller_goes_away() {
    let status = json!({"in_sync": false});
    let machine = Machine::running().answers("Wait", json!("never")).sends("Wait", Signal::Status(status));
    machine.block_on(async {
        let connection = client(&machine).await;
        let mut messages = zbus::MessageStream::from(&connection);
        let call = zbus::Message::method_call(PATH, "Wait").expect("well formed").interface(INTERFACE).expect("a name");
        connection.send(&call.build(&(0_u64, "", false)).expect("well formed")).await.expect("sent");
        futures_util::StreamExt::next(&mut messages).await.expect("the signal: it waits").expect("a message");
        connection.close().await.expect("closed");
        machine.given_up().await;
    });
}

#[test]
fn the_session_bus_serves_the_same_and_its_going_is_survived() {
    let Some((mut daemon, address)) = session_bus() else { return };
    let machine = Machine::idle().answers("Status", json!({"in_sync": true})).answers("Init", json!({"account": "a"}));
    let machine = machine
        .sends("Status", Signal::Pairing(json!({"event": "joined"})))
        .with_bus(Some(address.parse().expect("an address")));
    machine.block_on(async {
        let builder = zbus::connection::Builder::address(address.as_str()).expect("an address");
        let connection = builder.build().await.expect("connected");
        let proxy = zbus::Proxy::new(&connection, INTERFACE, PATH, INTERFACE).await.expect("well formed");
        let bus = zbus::fdo::DBusProxy::new(&connection).await.expect("well formed");
        let mut owners = bus.receive_name_owner_changed_with_args(&[(0, INTERFACE)]).await.expect("subscribed");
        if !bus.name_has_owner(INTERFACE.try_into().expect("a name")).await.expect("answered") {
            futures_util::StreamExt::next(&mut owners).await;
        }
        let mut pairing = proxy.receive_signal("Pairing").await.expect("subscribed");
        let status: String = proxy.call("Status", &()).await.expect("answered");
        assert_eq!(status, r#"{"in_sync":true}"#);
        let event = futures_util::StreamExt::next(&mut pairing).await.expect("a signal");
        assert_eq!(event.body().deserialize::<String>().expect("a string"), r#"{"event":"joined"}"#);
        let account: String = proxy.call("Init", &(sim::RELAY, "tower")).await.expect("this process is free");
        assert_eq!(account, r#"{"account":"a"}"#);
    });
    daemon.kill().expect("ours");
    daemon.wait().expect("ended");
    machine.block_on(async {
        let connection = client(&machine).await;
        assert!(connection.call_method(None::<&str>, PATH, Some(INTERFACE), "Status", &()).await.is_ok());
    });
}

enum Wrong {
    Path(&'static [u8]),
    Restore(&'static str, &'static str, &'static str),
    Join(&'static str, &'static str),
}

async fn client(machine: &Machine) -> Connection {
    let stream = tokio::net::UnixStream::connect(machine.socket()).await.expect("served");
    zbus::connection::Builder::unix_stream(stream).p2p().build().await.expect("let in")
}

fn error(reply: zbus::Result<zbus::Message>) -> String {
    match reply.expect_err("refused") {
        zbus::Error::MethodError(name, _, message) => {
            let (what, hint): (String, String) = message.body().deserialize().expect("two strings");
            assert!(!what.is_empty() && !hint.is_empty());
            name.to_string()
        }
        other => panic!("{other}"),
    }
}

/// A session bus of our own, where the program for it is installed.
fn session_bus() -> Option<(std::process::Child, String)> {
    use std::io::BufRead;
    let mut daemon = std::process::Command::new("dbus-daemon")
        .args(["--session", "--nofork", "--print-address"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .ok()?;
    let mut address = String::new();
    std::io::BufReader::new(daemon.stdout.take()?).read_line(&mut address).ok()?;
    Some((daemon, address.trim().to_owned()))
}

/// Each member of our interface with its arguments and annotations, in order.
fn members(xml: &str) -> BTreeMap<String, Vec<String>> {
    let mut xml = xml.to_owned();
    while let Some(start) = xml.find("<!--") {
        let end = xml[start..].find("-->").expect("closed") + start + 3;
        xml.replace_range(start..end, "");
    }
    let start = xml.find(&format!("<interface name=\"{INTERFACE}\"")).expect("our interface");
    let end = xml[start..].find("</interface>").expect("closed") + start;
    let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = String::new();
    for tag in xml[start..end].split('<').skip(2) {
        let tag = tag.split('>').next().expect("never empty").trim_end_matches('/');
        let attribute = |name: &str| {
            let (_, rest) = tag.split_once(&format!("{name}=\""))?;
            rest.split('"').next().map(str::to_owned)
        };
        let words = ["name", "type", "direction", "access", "value"].into_iter().filter_map(attribute);
        match tag.split_whitespace().next() {
            Some(kind @ ("method" | "signal" | "property")) => {
                current = format!("{kind} {}", words.collect::<Vec<_>>().join(" "));
                members.entry(current.clone()).or_default();
            }
            Some("arg" | "annotation") => {
                members.get_mut(&current).expect("inside a member").push(words.collect::<Vec<_>>().join(" "));
            }
            _ => {}
        }
    }
    members
}
