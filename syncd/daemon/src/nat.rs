//! Finds out what kind of router is before this machine: asks the relay, at two of its ports, at which address this
//! machine is seen. A router that shows each destination another port cannot be aimed at from outside.
//!
//! Asked once for each address that the relay sees; told to people by `doctor`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::net::{View, view};
use crate::socket::{Bound, PathSocket};

/// How often the second port is asked before it counts as silent.
const TRIES: u64 = 5;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(500);

/// What the task is given.
pub(crate) struct Looker {
    pub(crate) socket: Arc<PathSocket>,
    pub(crate) bound: watch::Receiver<Option<Bound>>,
    pub(crate) view: Arc<Mutex<View>>,
}

impl Looker {
    /// Runs until the socket is gone.
    pub(crate) async fn run(mut self) {
        loop {
            let seen = self.bound.borrow_and_update().map(|bound| bound.seen);
            // Where a tunnel hides it there is no router to speak of.
            let one_port = match seen.filter(|seen| !seen.ip().is_unspecified()) {
                Some(seen) => self.look().await.map(|there| there == seen),
                None => None,
            };
            view(&self.view).around.one_port = one_port;
            if self.bound.changed().await.is_err() {
                return;
            }
        }
    }

    /// The address seen at the relay's second port, if that answers.
    async fn look(&self) -> Option<SocketAddr> {
        for number in 0..TRIES {
            let mut looked = self.socket.look(number);
            let answer = timeout(PATIENCE, looked.wait_for(Option::is_some)).await;
            if let Ok(Ok(seen)) = answer {
                return *seen;
            }
        }
        None
    }
}
