//! What people type and what stands in files as text: relay addresses, pairing codes, recovery phrases, names, ids.

use hearth_schemas::address::RelayAddress;
use hearth_schemas::ids::{AccountId, ContentHash, DeviceId, NodeId};
use hearth_schemas::item::{Dot, MAX_NAME, Name};
use hearth_schemas::keys::{Phrase, name};
use hearth_schemas::pairing::Code;
use syncd_core::conflict::{self, Naming};

/// Every reader gets the text.
pub fn run(bytes: &[u8]) {
    entry_name(bytes);
    let text = String::from_utf8_lossy(bytes);
    if let Ok(address) = RelayAddress::parse(&text) {
        assert_eq!(RelayAddress::parse(&address.to_string()).as_ref(), Ok(&address), "{text:?}");
    }
    if let Ok(code) = Code::parse(&text) {
        assert!(Code::parse(&code.to_string()).is_ok_and(|again| again == code), "{text:?}");
    }
    if let Ok(phrase) = Phrase::parse(&text) {
        let words = phrase.words();
        assert!(Phrase::parse(&words).is_ok_and(|again| *again.words() == *words), "{text:?}");
    }
    let clean = name::clean(&text);
    assert!(name::check(&clean).is_ok(), "{text:?} gives {clean:?}");
    assert!(name::check(&text).is_err() || clean == text, "{text:?} is a name and becomes {clean:?}");
    let cut = name::truncate(&text, bytes.len() / 2);
    assert!(text.starts_with(cut) && cut.len() <= bytes.len() / 2);
    assert!(AccountId::parse(&text).is_none_or(|id| id.to_string() == text));
    assert!(DeviceId::parse(&text).is_none_or(|id| id.to_string() == text));
    assert!(ContentHash::parse(&text).is_none_or(|id| id.to_string() == text));
    assert!(NodeId::parse(&text).is_none_or(|id| id.to_string() == text));
}

/// A sibling of any name has a name that can be, and leads back to where the name itself leads.
fn entry_name(bytes: &[u8]) {
    let (device, bytes) = bytes.split_at(bytes.len().min(4));
    let Some(name) = Name::new(bytes) else {
        assert!(
            bytes.is_empty()
                || bytes.len() > MAX_NAME
                || bytes == b"."
                || bytes == b".."
                || bytes.iter().any(|b| b"/\0".contains(b))
        );
        return;
    };
    let device = String::from_utf8_lossy(device);
    let node = conflict::derived_id(NodeId([3; 16]), Dot { replica: hearth_schemas::ids::ReplicaId(1), seq: 1 });
    for naming in [Naming::File, Naming::Ref] {
        let sibling = conflict::sibling_name(naming, &name, &device, node, 6);
        assert!(sibling.as_bytes().len() <= MAX_NAME);
        assert_ne!(sibling, name);
        let origin = conflict::registered(naming, &name).unwrap_or_else(|| name.clone());
        let back = conflict::registered(naming, &sibling).expect("a sibling's name tells that it is one");
        // A name that is too long is cut between characters, and leaves git room for its locks.
        let is_cut = sibling.as_bytes().len() >= MAX_NAME - 8;
        assert!(back == origin || is_cut, "{sibling:?} leads to {back:?}, not to {origin:?}");
        let _ = (conflict::family(naming, &name), conflict::birth_name(naming, &sibling));
    }
}
