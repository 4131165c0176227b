//! Both directions between device and relay: control frames of the login connection, forwarded datagrams.

use hearth_schemas::relay::{
    BIND_LEN, ClientFrame, CloseCode, HEADER, Header, MAX_FRAME, ServerFrame, bind_datagram, bound_datagram,
    decode_client, decode_server, open_bind, open_bound,
};

use crate::decodes;

const KEY: [u8; 32] = [7; 32];

/// The first byte chooses the format.
pub fn run(bytes: &[u8]) {
    let Some((format, bytes)) = bytes.split_first() else { return };
    match format % 4 {
        0 => assert_eq!(decode_client(bytes).ok(), decodes::<ClientFrame>(bytes, MAX_FRAME)),
        1 => assert_eq!(decode_server(bytes).ok(), decodes::<ServerFrame>(bytes, MAX_FRAME)),
        2 => datagram(bytes),
        _ => bound(bytes),
    }
}

fn datagram(bytes: &[u8]) {
    if let Some(header) = Header::parse(bytes) {
        assert!(!Header::is_quic(bytes), "one of ours is taken for QUIC");
        assert_eq!(header.to_bytes(), bytes[..HEADER]);
    }
    // Nobody else has the key.
    assert_eq!(open_bind(bytes, &KEY), None);
    assert_eq!(open_bound(bytes, &KEY), None);
    if let Some(code) = bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) {
        assert!(CloseCode::from_code(code).is_none_or(|close| u64::from(close as u32) == code));
    }
}

/// What one side makes the other opens, unless a bit of it was changed.
fn bound(bytes: &[u8]) {
    let Some((fields, bytes)) = bytes.split_first_chunk::<34>() else { return };
    let token = *fields.first_chunk().expect("8 of 34");
    let counter = u64::from_le_bytes(*fields[8..].first_chunk().expect("8 of 26"));
    let ip = std::net::Ipv6Addr::from(*fields[16..].first_chunk::<16>().expect("16 of 18")).to_canonical();
    let seen = std::net::SocketAddr::new(ip, u16::from_le_bytes([fields[32], fields[33]]));
    let mut datagrams = [bind_datagram(token, &KEY, counter), bound_datagram(token, &KEY, counter, seen)];
    assert_eq!(open_bind(&datagrams[0], &KEY), Some(counter));
    assert_eq!(open_bound(&datagrams[1], &KEY), Some((counter, seen)));
    let [at, flip, ..] = bytes else { return };
    let (at, flip) = (usize::from(*at) % BIND_LEN, 1 << (flip % 8));
    datagrams.iter_mut().for_each(|datagram| datagram[at] ^= flip);
    // The rest is padding.
    assert_eq!(open_bind(&datagrams[0], &KEY).is_some(), at >= 36);
    assert_eq!(open_bound(&datagrams[1], &KEY).is_some(), at >= 54);
}
