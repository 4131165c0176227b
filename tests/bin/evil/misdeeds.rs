//! What the relay can be told to do instead of its work.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use hearth_schemas::relay::CloseCode;

/// What is done, until something else is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Misdeed {
    /// Nothing: the work of an honest relay.
    None,
    /// Every third datagram gets lost.
    Drop,
    /// Every datagram gets lost, though all else goes on.
    Silence,
    /// Old datagrams come again, beside the one that is due.
    Replay,
    /// Datagrams come late, in reverse.
    Reorder,
    /// Every third datagram comes with a bit flipped.
    Garble,
    /// Datagrams come to the wrong device, to who sent them, and under the name of somebody else.
    Swap,
    /// Devices are said to come and go, those that there are and those that there are not.
    Presence,
    /// Every device is told that it is seen at this address.
    Seen(SocketAddr),
    /// Signals come ten times, together with all that came before, to their sender as well, with bits flipped, and
    /// from somebody else.
    Signals,
    /// The account's log is shown as it was at first.
    OldLog,
    /// The log of another account is shown.
    OtherLog,
    /// The log ends with another entry than the account's, at the same place.
    Fork,
    /// The log goes on with a device that nobody of the account has let in.
    Ghost,
    /// All is refused.
    Refuse,
    /// All is answered, by what does not fit.
    Nonsense,
    /// What is no frame comes instead of answers.
    Noise,
    /// Whoever has logged in is told that it was taken out of the account, and put out.
    PutOut(CloseCode),
}

impl Misdeed {
    /// Reads an order.
    pub(crate) fn parse(order: &str) -> Result<Self> {
        let (word, rest) = order.split_once(' ').unwrap_or((order, ""));
        Ok(match word {
            "honest" => Self::None,
            "drop" => Self::Drop,
            "silence" => Self::Silence,
            "replay" => Self::Replay,
            "reorder" => Self::Reorder,
            "garble" => Self::Garble,
            "swap" => Self::Swap,
            "presence" => Self::Presence,
            "seen" => Self::Seen(rest.parse().context("an address")?),
            "signals" => Self::Signals,
            "old-log" => Self::OldLog,
            "other-log" => Self::OtherLog,
            "fork" => Self::Fork,
            "ghost" => Self::Ghost,
            "refuse" => Self::Refuse,
            "nonsense" => Self::Nonsense,
            "noise" => Self::Noise,
            "revoked" => Self::PutOut(CloseCode::Revoked),
            "replaced" => Self::PutOut(CloseCode::Replaced),
            _ => bail!("no such misdeed"),
        })
    }
}
