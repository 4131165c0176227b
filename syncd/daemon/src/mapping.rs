//! Asks the router of this network to pass on what is sent to one of its ports: PCP (RFC 6887), else NAT-PMP (RFC 6886),
//! else UPnP ([`igd`]).
//!
//! Where the router gives each destination a port of its own, nobody outside can guess one; such a port is known. It is
//! one more candidate for [`crate::paths`], and no more than that: a router behind another gives a port that leads
//! nowhere, and then nothing answers there.

mod igd;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{GatewayAddress, InternetProtocol, PortMapping, PortMappingOptions, TimeoutConfig};
use syncd_core::paths::{Interface, Place};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::debug;

use self::igd::{Between, Opened};
use crate::interfaces;
use crate::socket::Bound;

/// For how long a port is asked for, in seconds. It is asked for again at half of what is given.
const LEASE_SECONDS: u32 = 7_200;
/// How often to look again whether a router that gave none gives one.
const AGAIN: Duration = Duration::from_secs(600);
/// Least time between two questions.
const LEAST: Duration = Duration::from_secs(30);
/// A router that says nothing for about two seconds does not know the question.
const PATIENCE: TimeoutConfig =
    TimeoutConfig { initial_timeout: Duration::from_millis(250), max_retries: 2, max_retry_timeout: None };

/// What the task is given.
pub(crate) struct Mapper {
    /// The interfaces of this machine, and its port.
    pub(crate) place: watch::Receiver<(Vec<Interface>, u16)>,
    /// Says at which address the relay sees this machine.
    pub(crate) bound: watch::Receiver<Option<Bound>>,
    /// The address that leads here; nothing while there is none.
    pub(crate) mapped: watch::Sender<Option<SocketAddr>>,
}

impl Mapper {
    /// Runs until nobody wants to know; then a router that was told by UPnP is told otherwise.
    pub(crate) async fn run(mut self) {
        let mut opened = None;
        loop {
            let seen = self.bound.borrow_and_update().map(|bound| bound.seen.ip());
            let (mapped, pause) = match seen.filter(|seen| self.is_outside(*seen)) {
                Some(IpAddr::V4(outside)) => self.ask(outside, &mut opened).await,
                Some(IpAddr::V6(_)) | None => (None, AGAIN),
            };
            self.mapped.send_if_modified(|known| {
                let is_new = *known != mapped;
                *known = mapped;
                is_new
            });
            let goes_on = tokio::select! {
                () = sleep(pause) => true,
                changed = self.place.changed() => changed.is_ok(),
                other = other_address(&mut self.bound, seen) => other,
                () = self.mapped.closed() => false,
            };
            if !goes_on {
                break;
            }
        }
        replace(&mut opened, None).await;
    }

    /// Whether the relay sees a router at this address, and not this machine itself.
    fn is_outside(&mut self, seen: IpAddr) -> bool {
        let (interfaces, port) = self.place.borrow_and_update().clone();
        let place = Place { interfaces, port, seen: Some(SocketAddr::new(seen, port)), mapped: None };
        seen.is_ipv4() && place.is_behind_router() == Some(true)
    }

    /// Asks for a port. Gives the address that leads here, and when to ask again.
    async fn ask(&self, outside: Ipv4Addr, opened: &mut Option<Opened>) -> (Option<SocketAddr>, Duration) {
        let (interfaces, port) = self.place.borrow().clone();
        let Some((router, through)) = interfaces::gateway() else { return (None, AGAIN) };
        let own = interfaces.iter().find(|interface| interface.name == through && interface.ip.is_ipv4());
        let (Some(IpAddr::V4(own)), Some(port)) = (own.map(|own| own.ip), NonZeroU16::new(port)) else {
            return (None, AGAIN);
        };
        let options = PortMappingOptions {
            external_port: Some(port),
            lifetime_seconds: Some(LEASE_SECONDS),
            timeout_config: Some(PATIENCE),
        };
        let gateway = GatewayAddress::IpV4(router);
        let (port, seconds) = match PortMapping::new(gateway, own.into(), InternetProtocol::Udp, port, options).await {
            Ok(mapping) => {
                replace(opened, None).await;
                (mapping.external_port().get(), mapping.lifetime())
            }
            Err(error) => {
                debug!("the router gives no port by PCP or NAT-PMP: {error:?}");
                let before = opened.as_ref().map(|opened| opened.outer);
                match igd::open(Between { router, own, port: port.get(), outside }, before).await {
                    Ok(new) => {
                        let given = (new.outer, new.lease);
                        replace(opened, Some(new)).await;
                        given
                    }
                    Err(error) => {
                        debug!("nor by UPnP: {error:#}");
                        replace(opened, None).await;
                        return (None, AGAIN);
                    }
                }
            }
        };
        debug!("the router passes on what is sent to port {port}");
        // What is given for ever may go all the same, with the router's next start.
        let pause = if seconds == 0 { AGAIN } else { Duration::from_secs(u64::from(seconds / 2)) };
        (Some(SocketAddr::new(outside.into(), port)), LEAST.max(pause))
    }
}

/// Puts another mapping of UPnP, or none, in place of one, which is ended if it is not the same.
async fn replace(opened: &mut Option<Opened>, new: Option<Opened>) {
    let old = std::mem::replace(opened, new);
    if let Some(old) = old.filter(|old| opened.as_ref().is_none_or(|new| !old.is_same_as(new))) {
        old.close().await;
    }
}

/// Returns once the relay sees this machine at another address than that; false if there is nobody to say so.
async fn other_address(bound: &mut watch::Receiver<Option<Bound>>, seen: Option<IpAddr>) -> bool {
    bound.wait_for(|bound| bound.is_some_and(|bound| seen != Some(bound.seen.ip()))).await.is_ok()
}
