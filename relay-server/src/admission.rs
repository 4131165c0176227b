//! Who may use the relay, and how much of it.
//!
//! Plain values and the arithmetic of rates; what is refused, and how, is up to those who ask. A caller's address
//! comes in here and leaves as an [`Origin`], which says nothing to a reader of logs or memory.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// Who may register an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Admission {
    /// Anybody.
    #[default]
    Open,
    /// Who has an invitation (`relay-server invite`).
    Invite,
    /// Nobody; existing accounts go on.
    Closed,
}

/// What one caller may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Handshakes of one origin.
    pub handshakes: Rate,
    /// Unfinished handshakes beyond which a caller must first prove its address.
    pub half_open: usize,
    /// TCP connections whose TLS or request is unfinished.
    pub tcp_half_open: usize,
    /// Tunnels of all callers.
    pub tunnels: usize,
    /// Connections of all callers.
    pub connections: usize,
    /// Connections that are not logged in.
    pub strangers: usize,
    /// How long a connection may be neither logged in nor pairing, in milliseconds.
    pub stranger_ms: u64,
    /// New accounts of one origin.
    pub accounts: Rate,
    /// Wrong pairing numbers of one origin.
    pub wrong_rooms: Rate,
    /// Active devices of one account.
    pub devices: usize,
    /// Blobs of one account, in bytes.
    pub blob_bytes: u64,
    /// Signals of one device.
    pub signals: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: Rate { burst: 50, every_ms: 100 },
            half_open: 256,
            tcp_half_open: 1024,
            tunnels: 8192,
            connections: 8192,
            strangers: 1024,
            stranger_ms: 60_000,
            accounts: Rate { burst: 50, every_ms: 10_000 },
            wrong_rooms: Rate { burst: 20, every_ms: 10_000 },
            devices: 32,
            blob_bytes: 16 << 20,
            signals: Rate { burst: 40, every_ms: 50 },
        }
    }
}

/// So many at once, and one more each so many milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// How many at once.
    pub burst: u32,
    /// Time between them in the long run, in milliseconds.
    pub every_ms: u64,
}

/// How much of one rate is used up: the time at which it would be unused again (the generic cell rate algorithm).
#[derive(Clone, Copy, Default, Debug)]
pub struct Bucket(u64);

impl Bucket {
    /// Whether one more is within the rate.
    pub fn allows(self, rate: Rate, now_ms: u64) -> bool {
        self.0.max(now_ms) - now_ms + rate.every_ms <= u64::from(rate.burst) * rate.every_ms
    }

    /// Takes one if it is within the rate, and says whether it was.
    pub fn take(&mut self, rate: Rate, now_ms: u64) -> bool {
        let allowed = self.allows(rate, now_ms);
        if allowed {
            self.0 = self.0.max(now_ms) + rate.every_ms;
        }
        allowed
    }
}

/// One bucket for each origin, at most [`Buckets::MOST`]; beyond that, who is not known has nothing.
pub struct Buckets {
    rate: Rate,
    buckets: BTreeMap<Origin, Bucket>,
}

impl Buckets {
    /// Most origins that are counted at one time.
    pub const MOST: usize = 65_536;

    /// Makes buckets that are all unused.
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: BTreeMap::new() }
    }

    /// Whether one more from this origin is within the rate.
    pub fn allows(&mut self, origin: Origin, now_ms: u64) -> bool {
        self.bucket(origin, now_ms).is_some_and(|bucket| bucket.allows(self.rate, now_ms))
    }

    /// Takes one if it is within the rate, and says whether it was.
    pub fn take(&mut self, origin: Origin, now_ms: u64) -> bool {
        let Some(mut bucket) = self.bucket(origin, now_ms) else { return false };
        let taken = bucket.take(self.rate, now_ms);
        if taken {
            self.buckets.insert(origin, bucket);
        }
        taken
    }

    fn bucket(&mut self, origin: Origin, now_ms: u64) -> Option<Bucket> {
        if let Some(bucket) = self.buckets.get(&origin) {
            return Some(*bucket);
        }
        if self.buckets.len() >= Self::MOST {
            self.buckets.retain(|_, bucket| bucket.0 > now_ms);
        }
        (self.buckets.len() < Self::MOST).then(Bucket::default)
    }
}

/// Where a caller comes from, as a keyed tag: one IPv4 address, or one IPv6 /56.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Origin(pub u64);

impl Origin {
    /// Tags an address under a key that lives as long as the process.
    pub fn new(key: &[u8; 32], ip: IpAddr) -> Self {
        let prefix = match ip.to_canonical() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) & !((1 << 72) - 1)),
        };
        let tag = blake3::keyed_hash(key, &prefix.octets());
        let [a, b, c, d, e, f, g, h, ..] = *tag.as_bytes();
        Self(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, every_ms: 100 };

    #[test]
    fn a_burst_goes_through_and_then_one_at_a_time() {
        let mut bucket = Bucket::default();
        let taken: Vec<bool> = (0..5).map(|_| bucket.take(RATE, 1000)).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        assert!(!bucket.take(RATE, 1099));
        assert!(bucket.take(RATE, 1100));
        assert!(!bucket.take(RATE, 1100));
        assert!((0..3).all(|_| bucket.take(RATE, 9000)), "a rest fills it up again");
        assert!(!bucket.take(RATE, 9000), "but not beyond the burst");
    }

    #[test]
    fn one_origin_does_not_use_up_what_another_has() {
        let mut buckets = Buckets::new(RATE);
        assert_eq!((0..9).filter(|_| buckets.take(Origin(1), 0)).count(), 3);
        assert!(buckets.take(Origin(2), 0));
    }

    #[test]
    fn ten_thousand_addresses_of_one_ipv6_site_have_what_one_has() {
        let mut buckets = Buckets::new(Limits::default().handshakes);
        let site = u128::from("2001:db8:0:1200::".parse::<Ipv6Addr>().expect("an address"));
        let address = |n: u128| Ipv6Addr::from(site | (n % 256) << 64 | n.wrapping_mul(0x9e37_79b9));
        let passed = (0..10_000).filter(|n| buckets.take(Origin::new(&[1; 32], address(*n).into()), 0)).count();
        assert_eq!(passed, Limits::default().handshakes.burst as usize);
        assert_eq!(buckets.buckets.len(), 1);
    }

    #[test]
    fn a_flood_of_origins_takes_bounded_memory_and_passes() {
        let mut buckets = Buckets::new(RATE);
        for origin in 0..Buckets::MOST as u64 + 10 {
            buckets.take(Origin(origin), 0);
        }
        assert_eq!(buckets.buckets.len(), Buckets::MOST);
        assert!(!buckets.take(Origin(u64::MAX), 99));
        assert!(buckets.take(Origin(u64::MAX), 100));
    }

    #[test]
    fn an_origin_is_an_ipv4_address_or_an_ipv6_site() {
        let origin = |ip: &str| Origin::new(&[1; 32], ip.parse().expect("an address"));
        assert_eq!(origin("203.0.113.1"), origin("::ffff:203.0.113.1"));
        assert_ne!(origin("203.0.113.1"), origin("203.0.113.2"));
        assert_eq!(origin("2001:db8:0:10::1"), origin("2001:db8:0:1f:8::2"));
        assert_ne!(origin("2001:db8:0:10::1"), origin("2001:db8:0:110::1"));
    }
}
