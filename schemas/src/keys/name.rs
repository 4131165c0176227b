//! Devices' names: which text may be one, and how the device log holds it.
//!
//! A name is sealed under the account's names key, padded to one length, and bound to its account and device.
//! That no two devices carry the same name is left to those who add devices.

use crate::codec;
use crate::ids::{AccountId, DeviceId};
use crate::label;
use crate::seal::{self, Entropy, NotOpened};

use super::AccountSecret;

/// Longest name, in bytes of UTF-8.
pub const MAX_NAME: usize = 63;

/// Why a text cannot be a device's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, or longer than [`MAX_NAME`].
    #[error("a device's name has between 1 and {MAX_NAME} bytes")]
    Length,
    /// A character that would mislead on a terminal or in a file name.
    #[error("a device's name holds no `/`, control or direction characters, no space at its ends and no `-` in front")]
    Character,
}

/// Decides whether a text may be a device's name.
pub fn check(name: &str) -> Result<(), NameError> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(NameError::Length);
    }
    if name.starts_with(['-', '.']) || name.trim() != name || name.chars().any(is_misleading) {
        return Err(NameError::Character);
    }
    Ok(())
}

/// Makes a name of any text, such as a host name.
pub fn clean(wish: &str) -> String {
    let text: String = wish.chars().map(|c| if is_misleading(c) { '-' } else { c }).collect();
    let text = text.trim_start_matches(|c: char| c == '-' || c == '.' || c.is_whitespace());
    let name = truncate(text, MAX_NAME).trim_end();
    if name.is_empty() { "device".to_owned() } else { name.to_owned() }
}

/// The longest beginning of a text that fits into some bytes.
pub fn truncate(text: &str, limit_bytes: usize) -> &str {
    let end = (0..=limit_bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// Seals a name for the device log.
pub fn seal_name(
    secret: &AccountSecret,
    account: AccountId,
    device: DeviceId,
    name: &str,
    entropy: Entropy<'_>,
) -> Result<Vec<u8>, NameError> {
    check(name)?;
    let mut padded = [0; MAX_NAME + 1];
    padded[0] = u8::try_from(name.len()).map_err(|_| NameError::Length)?;
    padded[1..=name.len()].copy_from_slice(name.as_bytes());
    Ok(seal::seal(secret.names().bytes(), &place(account, device), &padded, entropy))
}

/// Opens the name of a device; [`NotOpened`] also if it is sealed well but is none.
pub fn open_name(
    secret: &AccountSecret,
    account: AccountId,
    device: DeviceId,
    sealed: &[u8],
) -> Result<String, NotOpened> {
    let padded = seal::open(secret.names().bytes(), &place(account, device), sealed)?;
    let (len, rest) = padded.split_first().ok_or(NotOpened)?;
    let name = rest.get(..usize::from(*len)).ok_or(NotOpened)?;
    let name = std::str::from_utf8(name).map_err(|_| NotOpened)?;
    check(name).map_err(|_| NotOpened)?;
    Ok(name.to_owned())
}

fn place(account: AccountId, device: DeviceId) -> Vec<u8> {
    codec::encode(&(label::DEVICE_NAME, account, device))
}

/// Path separators, control characters, line separators, and characters that are invisible or turn the direction.
fn is_misleading(c: char) -> bool {
    c == '/'
        || c == '\\'
        || c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Secret;
    use crate::log::SEALED_NAME;

    #[test]
    fn names_are_checked_and_any_text_can_be_cleaned_into_one() {
        let long = "ä".repeat(40);
        let table = [
            ("laptop", Ok(()), "laptop"),
            ("Anna’s désktop", Ok(()), "Anna’s désktop"),
            ("", Err(NameError::Length), "device"),
            ("../../etc", Err(NameError::Character), "etc"),
            ("-rf", Err(NameError::Character), "rf"),
            ("a\nb", Err(NameError::Character), "a-b"),
            ("a\u{202e}b", Err(NameError::Character), "a-b"),
            (" x ", Err(NameError::Character), "x"),
            (long.as_str(), Err(NameError::Length), &long[..62]),
        ];
        for (text, wanted, cleaned) in table {
            assert_eq!(check(text), wanted, "{text:?}");
            assert_eq!(clean(text), cleaned, "{text:?}");
            assert_eq!(check(&clean(text)), Ok(()), "{text:?}");
        }
    }

    #[test]
    fn a_name_opens_only_for_its_device_and_every_name_has_one_length() {
        let secret = AccountSecret(Secret::from_bytes([1; 32]));
        let (account, device) = (AccountId([2; 32]), DeviceId([3; 32]));
        for name in ["a", "x".repeat(MAX_NAME).as_str()] {
            let sealed = seal_name(&secret, account, device, name, &mut |bytes| bytes.fill(9)).expect("a name");
            assert_eq!(sealed.len(), SEALED_NAME);
            assert_eq!(open_name(&secret, account, device, &sealed).as_deref(), Ok(name));
            assert_eq!(open_name(&secret, account, DeviceId([4; 32]), &sealed), Err(NotOpened));
            assert_eq!(open_name(&secret, AccountId([4; 32]), device, &sealed), Err(NotOpened));
        }
    }

    #[test]
    fn a_well_sealed_lie_is_no_name() {
        let secret = AccountSecret(Secret::from_bytes([1; 32]));
        let (account, device) = (AccountId([2; 32]), DeviceId([3; 32]));
        for plain in [&[0; 64][..], &[255; 64], b"\x03a/b", b"\x05ab", b"\x01\xff", b""] {
            let place = place(account, device);
            let sealed = seal::seal(secret.names().bytes(), &place, plain, &mut |bytes| bytes.fill(9));
            assert_eq!(open_name(&secret, account, device, &sealed), Err(NotOpened));
        }
    }
}
