//! Finds the account's devices on the networks that this machine is in, without any relay: multicast DNS (RFC 6762) and
//! service discovery (RFC 6763), as Avahi speaks them.
//!
//! Each device announces itself under a name that only devices of its account can tell from noise, another one each day.
//! Whoever reads such a name and knows it says where that device seems to be; that it is there is seen when it
//! answers a probe.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hearth_schemas::ids::Slot;
use hearth_schemas::keys::Secret;
use hearth_schemas::label;
use hearth_schemas::log::Account;
use mdns_sd::{ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo};
use syncd_core::paths::Interface;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::debug;

use crate::driver::wall_ms;
use crate::net::Identity;
use crate::paths::SignalKey;

/// What devices announce themselves as (RFC 6763 section 7).
const SERVICE: &str = "_hearth._udp.local.";
/// A name is good for so long.
const DAY_MS: u64 = 86_400_000;
/// How long to wait before another attempt where the network takes none.
const AGAIN: Duration = Duration::from_secs(60);

/// A device that seems to be near.
pub(crate) struct Near {
    pub(crate) slot: Slot,
    pub(crate) addresses: Vec<SocketAddr>,
}

/// What the task is given.
pub(crate) struct Nearby {
    pub(crate) identity: Arc<Identity>,
    pub(crate) account: watch::Receiver<Arc<Account>>,
    pub(crate) key: watch::Receiver<Arc<SignalKey>>,
    /// The interfaces of this machine, and its port.
    pub(crate) place: watch::Receiver<(Vec<Interface>, u16)>,
    pub(crate) found: mpsc::Sender<Near>,
}

impl Nearby {
    /// Announces and looks until nobody wants to know.
    pub(crate) async fn run(mut self) {
        loop {
            let begun = self.begin();
            let (daemon, events) = match begun {
                Ok(begun) => begun,
                Err(error) => {
                    debug!("devices nearby are not looked for: {error}");
                    tokio::select! {
                        () = sleep(AGAIN) => {}
                        changed = self.place.changed() => if changed.is_err() { return },
                    }
                    continue;
                }
            };
            let goes_on = self.look(events).await;
            // Says goodbye in its own time.
            if let Err(error) = daemon.shutdown() {
                debug!("no goodbye to devices nearby: {error}");
            }
            if !goes_on {
                return;
            }
        }
    }

    fn begin(&mut self) -> mdns_sd::Result<(ServiceDaemon, mdns_sd::Receiver<ServiceEvent>)> {
        let (interfaces, port) = self.place.borrow_and_update().clone();
        let addresses: Vec<IpAddr> = interfaces.iter().map(|interface| interface.ip).collect();
        let name = name(&self.key.borrow_and_update().key, self.identity.slot, wall_ms() / DAY_MS);
        let daemon = ServiceDaemon::new()?;
        // A change of the interfaces begins everything anew.
        daemon.set_ip_check_interval(0)?;
        if !addresses.is_empty() {
            let host = format!("{name}.local.");
            let none: &[(&str, &str)] = &[];
            daemon.register(ServiceInfo::new(SERVICE, &name, &host, addresses.as_slice(), port, none)?)?;
        }
        let events = daemon.browse(SERVICE)?;
        Ok((daemon, events))
    }

    /// Tells who is found, until something changes; false once nobody wants to know.
    async fn look(&mut self, events: mdns_sd::Receiver<ServiceEvent>) -> bool {
        let names = self.names();
        let to_midnight = Duration::from_millis(DAY_MS - wall_ms() % DAY_MS);
        let tomorrow = sleep(to_midnight);
        tokio::pin!(tomorrow);
        loop {
            tokio::select! {
                event = events.recv_async() => match event {
                    Ok(ServiceEvent::ServiceResolved(service)) => {
                        if let Some(near) = recognise(&names, &service)
                            && self.found.send(near).await.is_err()
                        {
                            return false;
                        }
                    }
                    Ok(_) => {}
                    Err(_ended) => return true,
                },
                changed = self.place.changed() => return changed.is_ok(),
                changed = self.key.changed() => return changed.is_ok(),
                changed = self.account.changed() => return changed.is_ok(),
                () = &mut tomorrow => return true,
                () = self.found.closed() => return false,
            }
        }
    }

    /// The names of the other devices, of yesterday and tomorrow as well: clocks differ.
    fn names(&mut self) -> BTreeMap<String, Slot> {
        let account = self.account.borrow_and_update().clone();
        let key = self.key.borrow().clone();
        let today = wall_ms() / DAY_MS;
        let others = account.active_devices().filter(|device| device.id != self.identity.device);
        others
            .flat_map(|device| [today.saturating_sub(1), today, today + 1].map(|day| (device.slot, day)))
            .map(|(slot, day)| (name(&key.key, slot, day), slot))
            .collect()
    }
}

/// Under which name a device announces itself on a day, counted since 1970.
fn name(signal_key: &Secret, slot: Slot, day: u64) -> String {
    let key = signal_key.derive(label::NEAR);
    let mut hasher = blake3::Hasher::new_keyed(key.bytes());
    hasher.update(&slot.0.to_le_bytes()).update(&day.to_le_bytes());
    data_encoding::HEXLOWER.encode(&hasher.finalize().as_bytes()[..8])
}

fn recognise(names: &BTreeMap<String, Slot>, service: &ResolvedService) -> Option<Near> {
    let name = service.fullname.strip_suffix(SERVICE)?.strip_suffix('.')?;
    let slot = *names.get(name)?;
    let addresses = service.addresses.iter().map(|ip| SocketAddr::new(ip.to_ip_addr(), service.port)).collect();
    Some(Near { slot, addresses })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_who_it_is_to_those_who_know_the_key_and_is_another_each_day() {
        let key = Secret::from_bytes([1; 32]);
        let today = name(&key, Slot(3), 20_000);
        assert_eq!(today.len(), 16);
        for other in [
            name(&key, Slot(4), 20_000),
            name(&key, Slot(3), 20_001),
            name(&Secret::from_bytes([2; 32]), Slot(3), 20_000),
        ] {
            assert_ne!(today, other);
        }
    }
}
