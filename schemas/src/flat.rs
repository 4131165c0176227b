//! Sorted vectors as maps: nearly every map of a row has one entry, and there may be a million rows.
//!
//! On the wire a map is its length and its entries in order of the keys. What arrives is hostile: the announced
//! length reserves nothing, and keys that do not increase are refused.

use std::fmt;
use std::marker::PhantomData;

use litemap::LiteMap;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Writes a map.
pub fn serialize<K: Serialize, V: Serialize, S: Serializer>(
    map: &LiteMap<K, V>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(map.iter())
}

/// Reads a map. Fails where a key is not above the one before it.
pub fn deserialize<'de, K, V, D>(deserializer: D) -> Result<LiteMap<K, V>, D::Error>
where
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_map(Increasing(PhantomData))
}

struct Increasing<K, V>(PhantomData<(K, V)>);

impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Visitor<'de> for Increasing<K, V> {
    type Value = LiteMap<K, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map in order of its keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut map = LiteMap::with_capacity(access.size_hint().unwrap_or(0).min(1));
        while let Some((key, value)) = access.next_entry()? {
            if map.try_append(key, value).is_some() {
                return Err(A::Error::custom("a map whose keys do not increase"));
            }
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{DecodeError, decode, encode};

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Flat(#[serde(with = "super")] LiteMap<u32, u8>);

    #[test]
    fn a_map_is_written_as_any_map_is() {
        let tree = std::collections::BTreeMap::from([(7u32, 1u8), (300, 2)]);
        let flat = Flat(tree.clone().into_iter().collect());
        assert_eq!(encode(&flat), encode(&tree));
        assert_eq!(decode::<Flat>(&encode(&flat), 64), Ok(flat));
    }

    #[test]
    fn keys_that_do_not_increase_are_refused() {
        for keys in [[7u32, 7], [8, 7]] {
            let bytes = encode(&keys.map(|key| (key, 0u8)).to_vec());
            assert_eq!(decode::<Flat>(&bytes, 64), Err(DecodeError::Malformed));
        }
    }

    #[test]
    fn an_announced_length_reserves_nothing() {
        let bytes = encode(&u64::MAX);
        assert_eq!(decode::<Flat>(&bytes, 64), Err(DecodeError::Malformed));
    }
}
