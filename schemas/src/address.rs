//! A relay's address as a person types it: `hearth://HOST:PORT#KEY`.
//!
//! `KEY` pins the relay's TLS key (lower-case hex of the Ed25519 public key). Without it the relay is
//! known by its certificate (WebPKI), or, while joining with a code, by the code itself.

use std::fmt;

/// A parsed relay address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelayAddress {
    /// Name or IP address, without brackets.
    pub host: String,
    /// UDP and TCP port.
    pub port: u16,
    /// The relay's Ed25519 public key, if the address pins it.
    pub key: Option<[u8; 32]>,
}

/// Why a text is not a relay address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The scheme is missing.
    #[error("a relay address begins with `hearth://`")]
    Scheme,
    /// Host or port is missing or malformed.
    #[error("a relay address has the form `hearth://HOST:PORT#KEY`")]
    HostPort,
    /// The pinned key is malformed.
    #[error("the key after `#` must be 64 hexadecimal digits")]
    Key,
}

impl RelayAddress {
    /// Parses `hearth://HOST:PORT[#KEY]`; an IPv6 address stands in brackets.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let rest = text.trim().strip_prefix("hearth://").ok_or(AddressError::Scheme)?;
        let (place, key) = match rest.split_once('#') {
            Some((place, key)) => (place, Some(key)),
            None => (rest, None),
        };
        let (host, port) = place.trim_end_matches('/').rsplit_once(':').ok_or(AddressError::HostPort)?;
        let port: u16 = port.parse().map_err(|_| AddressError::HostPort)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or(AddressError::HostPort)?,
            None if host.contains(':') => return Err(AddressError::HostPort),
            None => host,
        };
        if host.is_empty() || port == 0 || host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
            return Err(AddressError::HostPort);
        }
        let key = match key {
            None => None,
            Some(hex) => {
                let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).map_err(|_| AddressError::Key)?;
                Some(bytes.try_into().map_err(|_| AddressError::Key)?)
            }
        };
        Ok(Self { host: host.to_owned(), port, key })
    }

    /// Whether another address leads to the same place, whatever key it pins.
    pub fn is_at(&self, other: &Self) -> bool {
        self.port == other.port && self.host.eq_ignore_ascii_case(&other.host)
    }

    /// Host and port, as they stand in the address.
    pub fn place(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hearth://{}", self.place())?;
        match &self.key {
            Some(key) => write!(f, "#{}", data_encoding::HEXLOWER.encode(key)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_being_written_and_read() {
        for text in ["hearth://127.0.0.1:4433#".to_owned() + &"ab".repeat(32), "hearth://[::1]:1".to_owned()] {
            let parsed = RelayAddress::parse(&text).expect("valid");
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused_with_its_reason() {
        let table = [
            ("relay.example:443", AddressError::Scheme),
            ("hearth://relay.example", AddressError::HostPort),
            ("hearth://relay.example:0", AddressError::HostPort),
            ("hearth://::1:443", AddressError::HostPort),
            ("hearth://a b:443", AddressError::HostPort),
            ("hearth://relay.example:443#zz", AddressError::Key),
        ];
        for (text, wanted) in table {
            assert_eq!(RelayAddress::parse(text), Err(wanted), "{text}");
        }
    }
}
