//! `name.txt`: sealed device names.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use hearth_schemas::ids::{AccountId, DeviceId};
use hearth_schemas::keys::{AccountSecret, Secret, name};

use crate::file::{hex, lines, same_as_file};

#[test]
fn names_are_sealed_as_ever() {
    same_as_file("name.txt", &name_vectors());
}

#[test]
fn sealed_names_have_the_outcome_that_is_written() {
    for line in lines("name.txt") {
        let [secret, account, device, wanted, sealed] = line.as_slice() else { panic!("unknown line {line:?}") };
        let secret = AccountSecret(Secret::from_bytes(hex(secret).try_into().expect("32 bytes")));
        let account = AccountId::parse(account).expect("an account id");
        let device = DeviceId::parse(device).expect("a device id");
        let opened = name::open_name(&secret, account, device, &hex(sealed));
        assert_eq!(opened.as_deref().unwrap_or("refused"), wanted);
    }
}

fn name_vectors() -> String {
    let mut out = String::from("# ACCOUNT-SECRET ACCOUNT DEVICE NAME BYTES   or `refused` for the name\n");
    let secret = AccountSecret(Secret::from_bytes([0x11; 32]));
    let (account, device) = (AccountId([0x22; 32]), DeviceId([0x33; 32]));
    let mut line = |account: AccountId, device: DeviceId, wanted: &str, sealed: &[u8]| {
        let secret = HEXLOWER.encode(&[0x11; 32]);
        writeln!(out, "{secret} {account} {device} {wanted} {}", HEXLOWER.encode(sealed)).expect("memory");
    };
    for text in ["laptop", "büro", &"x".repeat(63)] {
        let sealed = name::seal_name(&secret, account, device, text, &mut |bytes| bytes.fill(0x44)).expect("a name");
        line(account, device, text, &sealed);
        line(AccountId([0; 32]), device, "refused", &sealed);
        line(account, DeviceId([0; 32]), "refused", &sealed);
        line(account, device, "refused", &sealed[..sealed.len() - 1]);
    }
    out
}
