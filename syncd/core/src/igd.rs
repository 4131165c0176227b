//! Internet Gateway Device (UPnP) as far as a port is asked for by it: what is said to a router, and what its answers
//! mean.
//!
//! Takes bytes and gives values; sockets and patience are the daemon's (`mapping/igd.rs`). All that comes is taken for
//! hostile: a router is whoever answers at its address. An address in an answer counts only if it is the router's own,
//! texts are short and plain, XML is read without entities of its own, to a bounded depth.

use std::net::Ipv4Addr;

use quick_xml::Reader;
use quick_xml::events::Event;

/// Longest answer that is read, in bytes.
pub const MAX_REPLY: usize = 64 << 10;
/// Longest path of an address, in bytes.
const MAX_PATH: usize = 512;
/// How deep elements may stand in each other. A description has ten levels.
const MAX_DEPTH: usize = 32;
/// Most headers of an answer.
const MAX_HEADERS: usize = 64;
/// For how long a port is asked for, in seconds.
pub const LEASE_SECONDS: u32 = 3_600;
/// What the mapping is called in the router's list.
const DESCRIPTION: &str = "Hearth";
/// Services that pass on ports, those that are asked first in front.
const SERVICES: [&str; 3] = ["WANIPConnection:2", "WANIPConnection:1", "WANPPPConnection:1"];
/// What stands before the name of a service.
const SERVICE_PREFIX: &str = "urn:schemas-upnp-org:service:";

/// An address at the router, of plain HTTP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The TCP port.
    pub port: u16,
    /// The path, which begins with a slash and has printable characters only.
    pub path: String,
}

/// The service of a router that passes on ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Where it is spoken to.
    pub control: Place,
    /// Its name, one of those known here.
    name: &'static str,
}

/// What is asked of the service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// At which address the router is seen from outside.
    Outside,
    /// To pass on a UDP port to the same one of this machine.
    Add {
        /// The router's port.
        outer: u16,
        /// This machine.
        own: Ipv4Addr,
        /// This machine's port.
        inner: u16,
        /// For how long, in seconds; 0 is for ever.
        lease: u32,
    },
    /// To pass it on no longer.
    Delete {
        /// The router's port.
        outer: u16,
    },
}

/// What a service says to that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is done.
    Done,
    /// The router is seen from outside at this address.
    Outside(Ipv4Addr),
    /// It is not done, for a reason that has a number.
    Refused(u16),
}

/// The router passes on ports for ever or not at all (WANIPConnection:1 section 2.4.16).
pub const ONLY_PERMANENT: u16 = 725;
/// Somebody else has the port.
pub const CONFLICT: u16 = 718;

/// The questions that are sent to all of the network, to find a router that speaks this.
pub fn search() -> [String; 2] {
    [1, 2].map(|version| {
        format!(
            "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
             ST: urn:schemas-upnp-org:device:InternetGatewayDevice:{version}\r\n\r\n"
        )
    })
}

/// Where the router that answers a search describes itself; it has to be at the router itself.
pub fn described_at(datagram: &[u8], router: Ipv4Addr) -> Option<Place> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    answer.parse(datagram).ok()?;
    if answer.code != Some(200) {
        return None;
    }
    let location = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case("location"))?;
    Place::parse(std::str::from_utf8(location.value).ok()?.trim(), router)
}

/// The request for what stands at a place.
pub fn get(place: &Place, router: Ipv4Addr) -> String {
    format!("GET {} HTTP/1.0\r\nHost: {router}:{}\r\nConnection: close\r\n\r\n", place.path, place.port)
}

/// The service of a described router that passes on ports.
pub fn service(reply: &[u8], described: &Place, router: Ipv4Addr) -> Option<Service> {
    let (200, body) = parse_reply(reply)? else { return None };
    let elements = parse_xml(body)?;
    let base = elements.iter().find(|element| element.name == "URLBase");
    let base = base.and_then(|base| Place::parse(&base.text, router)).unwrap_or_else(|| described.clone());
    let services = elements.iter().enumerate().filter(|(_, element)| element.name == "service");
    let found = services.filter_map(|(at, service)| {
        let inside = elements[at + 1..].iter().take_while(|element| element.depth > service.depth);
        let child = |name: &str| inside.clone().find(|element| element.name == name).map(|child| child.text.as_str());
        let kind = child("serviceType")?.strip_prefix(SERVICE_PREFIX)?;
        let rank = SERVICES.iter().position(|known| *known == kind)?;
        let control = Place::relative(child("controlURL")?, &base, router)?;
        Some((rank, Service { control, name: SERVICES[rank] }))
    });
    found.min_by_key(|(rank, _)| *rank).map(|(_, service)| service)
}

impl Service {
    /// The request that asks for something.
    pub fn ask(&self, action: Action, router: Ipv4Addr) -> String {
        let (name, arguments) = match action {
            Action::Outside => ("GetExternalIPAddress", String::new()),
            Action::Add { outer, own, inner, lease } => (
                "AddPortMapping",
                format!(
                    "<NewRemoteHost></NewRemoteHost><NewExternalPort>{outer}</NewExternalPort><NewProtocol>UDP</NewProtocol>\
                     <NewInternalPort>{inner}</NewInternalPort><NewInternalClient>{own}</NewInternalClient><NewEnabled>1</NewEnabled>\
                     <NewPortMappingDescription>{DESCRIPTION}</NewPortMappingDescription><NewLeaseDuration>{lease}</NewLeaseDuration>"
                ),
            ),
            Action::Delete { outer } => (
                "DeletePortMapping",
                format!(
                    "<NewRemoteHost></NewRemoteHost><NewExternalPort>{outer}</NewExternalPort><NewProtocol>UDP</NewProtocol>"
                ),
            ),
        };
        let service = format!("{SERVICE_PREFIX}{}", self.name);
        let body = format!(
            "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body><u:{name} xmlns:u=\"{service}\">{arguments}</u:{name}>\
             </s:Body></s:Envelope>\r\n"
        );
        format!(
            "POST {} HTTP/1.0\r\nHost: {router}:{}\r\nConnection: close\r\nContent-Type: text/xml; charset=\"utf-8\"\r\n\
             SOAPAction: \"{service}#{name}\"\r\nContent-Length: {}\r\n\r\n{body}",
            self.control.path,
            self.control.port,
            body.len()
        )
    }
}

/// Whether an answer has come to the end that it announced. One that announces none ends with its connection.
pub fn is_whole(reply: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(head)) = parsed.parse(reply) else { return false };
    let announced = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = announced.and_then(|length| std::str::from_utf8(length.value).ok()?.trim().parse::<usize>().ok());
    length.is_some_and(|length| reply.len() - head >= length)
}

/// What the answer of a service says; `None` if nothing that is known here.
pub fn answer(reply: &[u8]) -> Option<Answer> {
    let (status, body) = parse_reply(reply)?;
    let elements = parse_xml(body)?;
    let text = |name: &str| elements.iter().find(|element| element.name == name).map(|element| element.text.trim());
    if status != 200 {
        return Some(Answer::Refused(text("errorCode")?.parse().ok()?));
    }
    match text("NewExternalIPAddress") {
        Some(address) => Some(Answer::Outside(address.parse().ok()?)),
        None => elements.iter().any(|element| element.name.ends_with("Response")).then_some(Answer::Done),
    }
}

impl Place {
    /// Reads an address of plain HTTP at the router itself.
    fn parse(text: &str, router: Ipv4Addr) -> Option<Self> {
        let (scheme, rest) = text.split_at_checked(7)?;
        if !scheme.eq_ignore_ascii_case("http://") {
            return None;
        }
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let (host, port) = authority.split_once(':').unwrap_or((authority, "80"));
        let port = port.parse().ok().filter(|port| *port != 0)?;
        (host.parse() == Ok(router)).then_some(())?;
        Self::of(port, path)
    }

    /// Reads an address that may lack what is the same as in another.
    fn relative(text: &str, base: &Self, router: Ipv4Addr) -> Option<Self> {
        let text = text.trim();
        if text.contains("://") {
            return Self::parse(text, router);
        }
        if text.starts_with('/') {
            return Self::of(base.port, text);
        }
        let folder = base.path.rfind('/').map_or("/", |at| &base.path[..=at]);
        Self::of(base.port, &format!("{folder}{text}"))
    }

    fn of(port: u16, path: &str) -> Option<Self> {
        let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic());
        let is_one_place = path.starts_with('/') && !path.starts_with("//");
        (is_plain && is_one_place && path.len() <= MAX_PATH).then(|| Self { port, path: path.to_owned() })
    }
}

/// Takes an answer of HTTP apart into its status and its body.
fn parse_reply(reply: &[u8]) -> Option<(u16, &[u8])> {
    if reply.len() > MAX_REPLY {
        return None;
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = parsed.parse(reply).ok()? else { return None };
    Some((parsed.code?, reply.get(head..)?))
}

/// An element, with the text that stands in it directly.
#[derive(Debug)]
struct Element {
    depth: usize,
    name: String,
    text: String,
}

/// All elements in the order in which they begin, by their names without prefixes.
fn parse_xml(body: &[u8]) -> Option<Vec<Element>> {
    let mut reader = Reader::from_str(std::str::from_utf8(body).ok()?);
    let mut elements: Vec<Element> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                if open.len() == MAX_DEPTH {
                    return None;
                }
                let name = std::str::from_utf8(start.local_name().into_inner().as_ref()).ok()?.to_owned();
                open.push(elements.len());
                elements.push(Element { depth: open.len(), name, text: String::new() });
            }
            Event::Empty(start) => {
                let name = std::str::from_utf8(start.local_name().into_inner().as_ref()).ok()?.to_owned();
                elements.push(Element { depth: open.len() + 1, name, text: String::new() });
            }
            Event::End(_) => {
                open.pop()?;
            }
            Event::Text(text) => say(&mut elements, &open, &text.xml10_content()),
            Event::CData(text) => say(&mut elements, &open, &text.xml10_content()),
            Event::GeneralRef(reference) => {
                let character = match reference.resolve_char_ref().ok()? {
                    Some(character) => character,
                    None => match reference.xml10_content().as_ref() {
                        "amp" => '&',
                        "lt" => '<',
                        "gt" => '>',
                        "quot" => '"',
                        "apos" => '\'',
                        _ => return None,
                    },
                };
                say(&mut elements, &open, character.encode_utf8(&mut [0; 4]));
            }
            // What declares entities of its own is nothing that a router has to say.
            Event::DocType(_) => return None,
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => return open.is_empty().then_some(elements),
        }
    }
}

fn say(elements: &mut [Element], open: &[usize], text: &str) {
    if let Some(element) = open.last().and_then(|at| elements.get_mut(*at)) {
        element.text.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
    /// As a router answers that has two ways out, of which the second is one known here.
    const DESCRIPTION: &str = "HTTP/1.0 200 OK\r\nContent-Type: text/xml\r\nServer: Router/1.0\r\n\r\n\
        <?xml version=\"1.0\"?>\n<root xmlns=\"urn:schemas-upnp-org:device-1-0\"><specVersion><major>1</major></specVersion>\
        <device><deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><friendlyName>A &amp; B</friendlyName>\
        <serviceList><service><serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType><controlURL>/l3f</controlURL>\
        </service></serviceList><deviceList><device><serviceList>\
        <service><serviceType>urn:schemas-upnp-org:service:WANPPPConnection:1</serviceType><controlURL>/ppp?a=1&amp;b=2</controlURL></service>\
        <service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>\
        <serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId><SCPDURL>/x.xml</SCPDURL><controlURL>ctl/IPConn</controlURL></service>\
        </serviceList></device></deviceList></device></root>";

    #[test]
    fn a_router_says_where_it_is_described_and_only_its_own_address_counts() {
        let answer = |location: &str| {
            let text =
                format!("HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: x\r\nLocation: {location}\r\n\r\n");
            described_at(text.as_bytes(), ROUTER)
        };
        let at = |port, path: &str| Some(Place { port, path: path.to_owned() });
        assert_eq!(answer("http://192.168.1.1:5000/desc.xml"), at(5000, "/desc.xml"));
        assert_eq!(answer("HTTP://192.168.1.1"), at(80, "/"));
        for elsewhere in [
            "http://192.168.1.2:5000/desc.xml",
            "http://192.168.1.1:0/",
            "http://192.168.1.1:99999/",
            "http://user@192.168.1.1/",
            "http://192.168.1.1.example.org/",
            "http://router/desc.xml",
            "https://192.168.1.1/",
            "http://169.254.169.254/latest/meta-data",
            "http://192.168.1.1//elsewhere",
            "http://192.168.1.1/a b",
            "file:///etc/passwd",
            "",
        ] {
            assert_eq!(answer(elsewhere), None, "{elsewhere}");
        }
        assert_eq!(answer(&format!("http://192.168.1.1/{}", "x".repeat(MAX_PATH))), None);
        assert_eq!(described_at(b"HTTP/1.1 404 No\r\nLocation: http://192.168.1.1/\r\n\r\n", ROUTER), None);
        assert_eq!(described_at(b"M-SEARCH * HTTP/1.1\r\n\r\n", ROUTER), None);
    }

    #[test]
    fn the_service_that_passes_on_ports_is_found_in_a_description() {
        let described = Place { port: 5000, path: "/upnp/desc.xml".to_owned() };
        let found = service(DESCRIPTION.as_bytes(), &described, ROUTER).expect("a service");
        assert_eq!(found.control, Place { port: 5000, path: "/upnp/ctl/IPConn".to_owned() });
        let older = DESCRIPTION.replace("WANIPConnection", "WANOther");
        let found = service(older.as_bytes(), &described, ROUTER).expect("a service");
        assert_eq!(found.control.path, "/ppp?a=1&b=2");
        let with_base = DESCRIPTION.replace("<device>", "<URLBase>http://192.168.1.1:49152/</URLBase><device>");
        let found = service(with_base.as_bytes(), &described, ROUTER).expect("a service");
        assert_eq!(found.control, Place { port: 49152, path: "/ctl/IPConn".to_owned() });
        for (what, bad) in [
            ("elsewhere", DESCRIPTION.replace("ctl/IPConn", "http://10.0.0.1/ctl").replace("WANPPP", "WANXXX")),
            ("a header in a path", DESCRIPTION.replace("ctl/IPConn", "/a\r\nX: y").replace("WANPPP", "WANXXX")),
            ("an entity of its own", DESCRIPTION.replace("?>\n", "?><!DOCTYPE a [<!ENTITY b \"c\">]>")),
            ("an unknown entity", DESCRIPTION.replace("&amp;", "&xxe;")),
            ("cut off", DESCRIPTION[..DESCRIPTION.len() - 40].to_owned()),
            ("not found", DESCRIPTION.replace("200 OK", "404 No")),
            ("too deep", DESCRIPTION.replace("<specVersion>", &format!("<specVersion>{}", "<a>".repeat(100)))),
            ("too long", format!("{DESCRIPTION}{}", " ".repeat(MAX_REPLY))),
        ] {
            assert_eq!(service(bad.as_bytes(), &described, ROUTER), None, "{what}");
        }
    }

    #[test]
    fn a_port_is_asked_for_in_words_that_routers_understand() {
        let service = Service { control: Place { port: 5000, path: "/ctl".to_owned() }, name: "WANIPConnection:1" };
        let own = Ipv4Addr::new(192, 168, 1, 10);
        let asked = service.ask(Action::Add { outer: 7000, own, inner: 7001, lease: LEASE_SECONDS }, ROUTER);
        let (head, body) = asked.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("POST /ctl HTTP/1.0\r\nHost: 192.168.1.1:5000\r\n"), "{head}");
        assert!(
            head.contains("SOAPAction: \"urn:schemas-upnp-org:service:WANIPConnection:1#AddPortMapping\""),
            "{head}"
        );
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
        let elements = parse_xml(body.as_bytes()).expect("well-formed");
        let said = |name: &str| elements.iter().find(|element| element.name == name).map(|it| it.text.as_str());
        for (name, value) in [
            ("NewRemoteHost", ""),
            ("NewExternalPort", "7000"),
            ("NewProtocol", "UDP"),
            ("NewInternalPort", "7001"),
            ("NewInternalClient", "192.168.1.10"),
            ("NewEnabled", "1"),
            ("NewLeaseDuration", "3600"),
        ] {
            assert_eq!(said(name), Some(value), "{name}");
        }
    }

    #[test]
    fn what_a_service_answers_is_understood_or_nothing() {
        let reply = |status: &str, inner: &str| {
            let text = format!(
                "HTTP/1.1 {status}\r\nContent-Length: 9\r\n\r\n<?xml version=\"1.0\"?><s:Envelope><s:Body>{inner}</s:Body></s:Envelope>"
            );
            answer(text.as_bytes())
        };
        assert_eq!(reply("200 OK", "<u:AddPortMappingResponse xmlns:u=\"x\"/>"), Some(Answer::Done));
        let address = "<u:R><NewExternalIPAddress> 203.0.113.9 </NewExternalIPAddress></u:R>";
        assert_eq!(reply("200 OK", address), Some(Answer::Outside(Ipv4Addr::new(203, 0, 113, 9))));
        let fault = "<s:Fault><detail><UPnPError><errorCode>725</errorCode></UPnPError></detail></s:Fault>";
        assert_eq!(reply("500 Internal Server Error", fault), Some(Answer::Refused(ONLY_PERMANENT)));
        assert!(is_whole(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"));
        for part in ["", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na"] {
            assert!(!is_whole(part.as_bytes()), "{part}");
        }
        for (status, inner) in [
            ("200 OK", "<u:R><NewExternalIPAddress>my router</NewExternalIPAddress></u:R>"),
            ("200 OK", "<nothing/>"),
            ("500 No", "<errorCode>many</errorCode>"),
            ("500 No", ""),
            ("200 OK", "<u:AddPortMappingResponse>"),
        ] {
            assert_eq!(reply(status, inner), None, "{status} {inner}");
        }
    }
}
