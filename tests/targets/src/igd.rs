//! What a router answers that is asked for a port by UPnP: all of it is hostile.

use std::net::Ipv4Addr;

use syncd_core::igd::{self, Action, Answer, MAX_REPLY, Place};

const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

/// The first byte chooses what the rest is an answer to.
pub fn run(bytes: &[u8]) {
    let Some((format, bytes)) = bytes.split_first() else { return };
    match format % 3 {
        0 => {
            if let Some(place) = igd::described_at(bytes, ROUTER) {
                check(&place);
            }
        }
        1 => description(bytes),
        _ => {
            if let Some(Answer::Outside(address)) = igd::answer(bytes) {
                assert!(String::from_utf8_lossy(bytes).contains(&address.to_string()), "made up");
            }
            if igd::is_whole(bytes) {
                assert!(bytes.len() >= 16, "shorter than any head");
            }
        }
    }
}

fn description(bytes: &[u8]) {
    let described = Place { port: 5000, path: "/a/desc.xml".to_owned() };
    let Some(service) = igd::service(bytes, &described, ROUTER) else { return };
    assert!(bytes.len() <= MAX_REPLY);
    check(&service.control);
    let own = Ipv4Addr::new(192, 168, 1, 10);
    for action in [Action::Outside, Action::Add { outer: 1, own, inner: 2, lease: 0 }, Action::Delete { outer: 1 }] {
        request(&service.ask(action, ROUTER), "POST", &service.control);
    }
}

/// A place is asked for in one request, of one line and the headers that are ours.
fn check(place: &Place) {
    assert!(place.port != 0 && place.path.starts_with('/') && place.path.len() <= 512);
    request(&igd::get(place, ROUTER), "GET", place);
}

fn request(request: &str, method: &str, place: &Place) {
    let (head, _) = request.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.split("\r\n");
    assert_eq!(lines.next(), Some(format!("{method} {} HTTP/1.0", place.path).as_str()));
    assert_eq!(lines.next(), Some(format!("Host: 192.168.1.1:{}", place.port).as_str()));
    assert!(head.bytes().all(|byte| byte.is_ascii_graphic() || b" \r\n".contains(&byte)));
    assert!(lines.count() <= 4, "{head}");
}
