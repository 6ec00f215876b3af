//! JSON maps and lists with a maximum number of entries, so that a small file can't exhaust the memory.
//!
//! An entry of a map takes up to ten times the memory of its text. The limits are far above those of known files.
//! Must not depend on: the meaning of the entries.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A map of strings with at most `MAX` entries.
#[derive(Default)]
pub(crate) struct BoundedMap<const MAX: usize>(pub(crate) BTreeMap<String, String>);

impl<'de, const MAX: usize> Deserialize<'de> for BoundedMap<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<const MAX: usize>;
        impl<'de, const MAX: usize> Visitor<'de> for Entries<MAX> {
            type Value = BoundedMap<MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, value)) = map.next_entry()? {
                    entries.insert(key, value);
                    if entries.len() > MAX {
                        return Err(A::Error::custom(format!("an object has more than {MAX} entries")));
                    }
                }
                Ok(BoundedMap(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A list with at most `MAX` elements.
pub(crate) struct BoundedList<T, const MAX: usize>(pub(crate) Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for BoundedList<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Elements<T, MAX> {
            type Value = BoundedList<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = list.next_element()? {
                    elements.push(element);
                    if elements.len() > MAX {
                        return Err(A::Error::custom(format!("a list has more than {MAX} elements")));
                    }
                }
                Ok(BoundedList(elements))
            }
        }
        deserializer.deserialize_seq(Elements(PhantomData))
    }
}
