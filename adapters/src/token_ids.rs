//! Finds the ids of a few tokens in a `tokenizer.json`, without loading the whole vocabulary into memory.
//!
//! Must not depend on: the other parts of a tokenizer.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The ids of those `wanted` tokens that the file has. As in the `tokenizers` library, an added token takes precedence
/// over an entry of the vocabulary.
///
/// # Errors
/// If the text is not a JSON object of the expected form.
pub(crate) fn find<'a>(json: &[u8], wanted: &[&'a str]) -> Result<BTreeMap<&'a str, u32>, serde_json::Error> {
    let mut found = Found { wanted, added: BTreeMap::new(), vocabulary: BTreeMap::new() };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    File(&mut found).deserialize(&mut deserializer)?;
    deserializer.end()?;
    let mut ids = found.vocabulary;
    ids.extend(found.added);
    Ok(ids)
}

struct Found<'w, 'a> {
    wanted: &'w [&'a str],
    added: BTreeMap<&'a str, u32>,
    vocabulary: BTreeMap<&'a str, u32>,
}

impl<'a> Found<'_, 'a> {
    fn wanted(&self, token: &str) -> Option<&'a str> {
        self.wanted.iter().copied().find(|wanted| *wanted == token)
    }
}

/// Defines a type that reads one level of the file: a visitor for maps, and for the lists that may replace them.
macro_rules! level {
    ($name:ident, $expects:literal, $method:ident, |$self:ident, $map:ident| $body:block) => {
        struct $name<'f, 'w, 'a>(&'f mut Found<'w, 'a>);

        impl<'de> DeserializeSeed<'de> for $name<'_, '_, '_> {
            type Value = ();

            fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
                deserializer.$method(self)
            }
        }

        impl<'de> Visitor<'de> for $name<'_, '_, '_> {
            type Value = ();

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($expects)
            }

            fn visit_map<A: MapAccess<'de>>($self, mut $map: A) -> Result<(), A::Error> {
                $body
                Ok(())
            }

            /// The vocabulary of a Unigram model is a list. Its special tokens are also added tokens, so the list is
            /// skipped.
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(())
            }
        }
    };
}

level!(File, "a JSON object", deserialize_map, |self, map| {
    while let Some(key) = map.next_key::<Cow<'_, str>>()? {
        match &*key {
            "added_tokens" => map.next_value_seed(AddedTokens(&mut *self.0))?,
            "model" => map.next_value_seed(Model(&mut *self.0))?,
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
    }
});

level!(Model, "the tokenizer's model", deserialize_map, |self, map| {
    while let Some(key) = map.next_key::<Cow<'_, str>>()? {
        match &*key {
            "vocab" => map.next_value_seed(Vocabulary(&mut *self.0))?,
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
    }
});

level!(Vocabulary, "the vocabulary", deserialize_any, |self, map| {
    while let Some(token) = map.next_key::<Cow<'_, str>>()? {
        match self.0.wanted(&token) {
            Some(token) => {
                let id = map.next_value()?;
                self.0.vocabulary.insert(token, id);
            }
            None => drop(map.next_value::<IgnoredAny>()?),
        }
    }
});

struct AddedTokens<'f, 'w, 'a>(&'f mut Found<'w, 'a>);

#[derive(Deserialize)]
struct AddedToken<'a> {
    id: u32,
    #[serde(borrow)]
    content: Cow<'a, str>,
}

impl<'de> DeserializeSeed<'de> for AddedTokens<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for AddedTokens<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of added tokens")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(AddedToken { id, content }) = list.next_element()? {
            if let Some(token) = self.0.wanted(&content) {
                self.0.added.entry(token).or_insert(id);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn added_tokens_take_precedence_and_other_parts_are_skipped() {
        let json = br#"{"version": "1.0", "normalizer": {"a": [1, 2]}, "model": {"type": "BPE", "vocab": {"a": 1, "b\u0063": 2},
            "merges": [["a", "b"]]}, "added_tokens": [{"id": 7, "content": "a", "special": true}, {"id": 8, "content": "x"}]}"#;
        let found = find(json, &["a", "bc", "missing"]).expect("read");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [("a", 7), ("bc", 2)]);
        let unigram =
            br#"{"added_tokens": [{"id": 3, "content": "<s>"}], "model": {"vocab": [["<s>", 0.0], ["a", -1.5]]}}"#;
        assert_eq!(find(unigram, &["<s>", "a"]).expect("read").into_iter().collect::<Vec<_>>(), [("<s>", 3)]);
        for wrong in [&b"[]"[..], b"{", b"{} x", br#"{"model": {"vocab": {"a": -1}}}"#] {
            assert!(find(wrong, &["a"]).is_err());
        }
    }
}
