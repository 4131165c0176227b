//! The one table of labels: every key derivation, hash and signature names what it is for with one of these.
//!
//! Two uses never share a label, so that a key, hash or signature made for one can never stand in for another.
//! The two labels of the login at the relay stand with its frames in [`crate::relay`]; the test below covers them.

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $text;)*
        /// Every label of the table.
        pub const ALL: &[&str] = &[$($name),*];
    };
}

labels! {
    /// Hash: root signing key → account id.
    ACCOUNT_ID = "hearth account v1";
    /// Hash: device signing key → device id.
    DEVICE_ID = "hearth device v1";
    /// Signature: an entry of the device log.
    LOG_ENTRY = "hearth log entry v1";
    /// Salt of every key that comes from the recovery phrase.
    ROOT = "hearth root v1";
    /// Key: recovery phrase → root signing key.
    ROOT_SIGN = "hearth root sign v1";
    /// Key: recovery phrase → root KEM key.
    ROOT_KEM = "hearth root kem v1";
    /// Hash: the commitment to an epoch's key and the account secret.
    EPOCH_COMMITMENT = "hearth epoch commitment v1";
    /// HPKE info: an epoch key sealed to one recipient.
    EPOCH_SET = "hearth epoch set v1";
    /// Key: epoch key → passphrase of the epoch's packs.
    EPOCH_STORE = "hearth epoch store v1";
    /// Key: epoch key → offers, answers and mailbox.
    EPOCH_SIGNAL = "hearth epoch signal v1";
    /// Key: epoch key → wrap of the account secret.
    EPOCH_WRAP = "hearth epoch wrap v1";
    /// Associated data: the account secret under the wrap key.
    ACCOUNT_SECRET = "hearth account secret v1";
    /// Key: account secret → keyed content ids.
    ACCOUNT_CONTENT = "hearth account content v1";
    /// Key: account secret → keyed names in logs.
    ACCOUNT_TAG = "hearth account tag v1";
    /// Key: account secret → devices' names and other small text in the device log.
    ACCOUNT_NAMES = "hearth account names v1";
    /// Associated data: a device's name.
    DEVICE_NAME = "hearth device name v1";
    /// Associated data: the account's configuration.
    ACCOUNT_CONFIG = "hearth account config v1";
    /// Identity of the joining side in the pairing exchange.
    PAIR_JOINER = "hearth pair joiner v1";
    /// Identity of the enrolled side in the pairing exchange.
    PAIR_INVITER = "hearth pair inviter v1";
    /// Hash: what both sides of a pairing exchange have seen.
    PAIR_TRANSCRIPT = "hearth pair transcript v1";
    /// Key: pairing exchange → confirmation by the joining side.
    PAIR_CONFIRM_JOINER = "hearth pair confirm joiner v1";
    /// Key: pairing exchange → confirmation by the enrolled side.
    PAIR_CONFIRM_INVITER = "hearth pair confirm inviter v1";
    /// Key: pairing exchange → messages of the joining side.
    PAIR_CHANNEL_JOINER = "hearth pair channel joiner v1";
    /// Key: pairing exchange → messages of the enrolled side.
    PAIR_CHANNEL_INVITER = "hearth pair channel inviter v1";
    /// Signature: the joining device holds the keys that it shows.
    PAIR_POSSESSION = "hearth pair possession v1";
    /// HPKE info: the account's keys sealed to the joining device.
    PAIR_SECRETS = "hearth pair secrets v1";
    /// Hash: number, keys, account and head, which both sides confirm at the end.
    PAIR_OUTCOME = "hearth pair outcome v1";
    /// Key: key ring secret and file secret → seal of the keys at rest.
    KEYS_AT_REST = "hearth keys at rest v1";
    /// Key: device TLS key → stateless resets of its connections, the same after a restart.
    RESET = "hearth stateless reset v1";
    /// Associated data and signature: addresses that a device tells another.
    SIGNAL = "hearth signal v1";
    /// Key: signalling key of an epoch and two devices → probes between them.
    PROBE = "hearth probe v1";
    /// Key: signalling key of an epoch → names of devices on a local network.
    NEAR = "hearth near v1";
    /// Key: MAC key of a session at a relay → its questions at the relay's second port.
    LOOK = "hearth look v1";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_label_is_another_or_the_beginning_of_another() {
        let exporter = std::str::from_utf8(crate::relay::EXPORTER_LABEL).expect("text");
        let all: Vec<&str> = ALL.iter().copied().chain(["hearth relay login v1", exporter]).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        for (i, one) in all.iter().enumerate() {
            for (j, other) in all.iter().enumerate() {
                assert!(i == j || !other.starts_with(one), "{one} / {other}");
            }
        }
    }
}
