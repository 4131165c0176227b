//! `config.txt`: sealed configurations of accounts.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use hearth_schemas::address::RelayAddress;
use hearth_schemas::ids::AccountId;
use hearth_schemas::keys::config::Config;
use hearth_schemas::keys::{AccountSecret, Secret};

use crate::file::{hex, lines, same_as_file};

#[test]
fn configurations_are_sealed_as_ever() {
    same_as_file("config.txt", &config_vectors());
}

#[test]
fn sealed_configurations_have_the_outcome_that_is_written() {
    for line in lines("config.txt") {
        let [secret, account, wanted, sealed] = line.as_slice() else { panic!("unknown line {line:?}") };
        let secret = AccountSecret(Secret::from_bytes(hex(secret).try_into().expect("32 bytes")));
        let account = AccountId::parse(account).expect("an account id");
        let opened = Config::open(&secret, account, &hex(sealed)).map(|config| joined(&config));
        assert_eq!(opened.as_deref().unwrap_or("refused"), wanted);
    }
}

fn config_vectors() -> String {
    let mut out = String::from("# ACCOUNT-SECRET ACCOUNT RELAY,… BYTES   or `refused` for the relays\n");
    let secret = AccountSecret(Secret::from_bytes([0x11; 32]));
    let account = AccountId([0x22; 32]);
    let mut line = |account: AccountId, wanted: &str, sealed: &[u8]| {
        let secret = HEXLOWER.encode(&[0x11; 32]);
        writeln!(out, "{secret} {account} {wanted} {}", HEXLOWER.encode(sealed)).expect("memory");
    };
    let pinned = format!("hearth://relay.example:443#{}", "ab".repeat(32));
    for texts in [&[pinned.as_str()][..], &[&pinned, "hearth://[2001:db8::1]:4433", "hearth://192.0.2.1:443"]] {
        let relays = texts.iter().map(|text| RelayAddress::parse(text).expect("an address")).collect();
        let config = Config { relays };
        let sealed = config.seal(&secret, account, &mut |bytes| bytes.fill(0x44)).expect("relays");
        line(account, &joined(&config), &sealed);
        line(AccountId([0; 32]), "refused", &sealed);
        line(account, "refused", &sealed[..sealed.len() - 1]);
    }
    out
}

fn joined(config: &Config) -> String {
    config.relays.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
