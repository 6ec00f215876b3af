//! The tokenizer: which ones are refused, and streaming decoding.

use proptest::prelude::*;
use serde_json::json;

use super::tiny::{chatml, spec};
use crate::{ChatTokenizer, DataError, TokenizerError, TokenizerSpec};

#[test]
fn a_tokenizer_that_does_not_fit_is_refused() {
    let mut small = spec(None, None);
    small.vocab_size = 260;
    let refused = ChatTokenizer::new(small).expect_err("266 tokens");
    assert!(refused.to_string().contains("does not fit the base"), "{refused}");
    let unknown = ChatTokenizer::new(spec(None, Some("<eot>"))).expect_err("no such token");
    assert!(
        matches!(unknown, DataError::Tokenizer(TokenizerError::UnknownSpecial { role: "eos_token", .. })),
        "{unknown}"
    );
    let mut broken = spec(None, None);
    broken.tokenizer_json.truncate(99);
    assert!(matches!(ChatTokenizer::new(broken), Err(DataError::Tokenizer(TokenizerError::Parse(_)))));
}

#[test]
fn truncation_and_padding_settings_of_the_file_are_ignored() {
    let mut cutting = spec(None, None);
    let mut json: serde_json::Value = serde_json::from_slice(&cutting.tokenizer_json).expect("it is JSON");
    json["truncation"] = json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
                             "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"});
    cutting.tokenizer_json = json.to_string().into_bytes();
    let tokenizer = ChatTokenizer::new(cutting).expect("a sound tokenizer");
    assert_eq!(tokenizer.encode("abcde").expect("encodes").len(), 5);
}

#[test]
fn a_tokenizer_that_expands_texts_without_limit_is_stopped() {
    let replace =
        |pattern: &str, content: &str| json!({"type": "Replace", "pattern": {"String": pattern}, "content": content});
    let with = |part: &str, steps: Vec<serde_json::Value>| {
        let kind = if part == "normalizer" { "normalizers" } else { "decoders" };
        let mut spec = spec(None, None);
        let mut json: serde_json::Value = serde_json::from_slice(&spec.tokenizer_json).expect("it is JSON");
        json[part] = json!({"type": "Sequence", kind: steps});
        spec.tokenizer_json = json.to_string().into_bytes();
        ChatTokenizer::new(spec)
    };
    let doubling = vec![replace("e", "ee"); 40];
    let encoder = with("normalizer", doubling.clone()).expect("each step is harmless");
    let text = "e".repeat(100);
    let error = encoder.encode(&text).expect_err("2^40 times as long").to_string();
    assert!(error.contains("its normalizer makes a text more than 16 times longer"), "{error}");
    assert_eq!(encoder.encode("xyz").expect("nothing to replace").len(), 3);

    let decoder = with("decoder", doubling).expect("each step is harmless");
    let ids = decoder.encode(&text).expect("no normalizer");
    let error = decoder.decode(&ids).expect_err("2^40 times as long").to_string();
    assert!(error.contains("its decoder makes a text more than 16 times longer"), "{error}");

    for part in ["normalizer", "decoder"] {
        let error = with(part, vec![replace("e", &"e".repeat(100_000))]).expect_err("one step is enough").to_string();
        assert!(error.contains("a step writes 100000 bytes"), "{error}");
        // As in Llama 2 and Gemma.
        with(part, vec![replace(" ", "\u{2581}"), replace("\u{2581}", " ")]).expect("harmless");
    }
}

#[test]
fn a_damaged_tokenizer_is_refused_without_a_panic() {
    let sound = String::from_utf8(spec(None, None).tokenizer_json).expect("it is JSON");
    let with = |tokenizer_json: Vec<u8>| ChatTokenizer::new(TokenizerSpec { tokenizer_json, ..spec(None, None) });
    // Cut off anywhere, also inside of the decoder.
    for length in (0..sound.len()).step_by(7) {
        let refused = with(sound.as_bytes()[..length].to_vec());
        assert!(matches!(refused, Err(DataError::Tokenizer(TokenizerError::Parse(_)))), "{length}");
    }
    // Half of a surrogate pair in the decoder's name.
    let half = sound.replacen(r#""decoder":{"type":"ByteLevel""#, r#""decoder":{"type":"\ud800ByteLevel""#, 1);
    assert!(half != sound && with(half.into_bytes()).is_err());

    let precompiled = |table: serde_json::Value| {
        let mut json: serde_json::Value = serde_json::from_str(&sound).expect("it is JSON");
        json["normalizer"] =
            json!({"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": table}]});
        with(json.to_string().into_bytes())
    };
    // No base64; no text; an index of 4 GiB that is not there.
    for table in [json!("?"), json!(1), json!("/////w==")] {
        let refused = precompiled(table.clone()).expect_err("a damaged table").to_string();
        assert!(refused.contains("the table of a Precompiled step is cut off"), "{table}: {refused}");
    }
    // An index without the entries that it needs: found only when a text is normalized.
    let empty = precompiled(json!("AAAAAA==")).expect("the table as such is sound");
    let error = empty.encode("a").expect_err("an index without entries").to_string();
    assert!(error.contains("the tokenizer.json is damaged"), "{error}");
}

#[test]
fn half_a_character_waits() {
    let tokenizer = chatml();
    let ids = tokenizer.encode("a🎈").expect("encodes");
    let mut stream = tokenizer.decode_stream();
    let shown: Vec<_> = ids.iter().map(|id| stream.push(*id).expect("decodes")).collect();
    assert_eq!(shown, [Some("a".to_owned()), None, None, None, Some("🎈".to_owned())]);
    assert_eq!(stream.finish().expect("decodes"), None);

    let mut stream = tokenizer.decode_stream();
    assert_eq!(stream.push(ids[1]).expect("decodes"), None);
    assert_eq!(stream.finish().expect("decodes"), Some("\u{fffd}".to_owned()));
}

proptest! {
    #[test]
    fn a_stream_returns_the_whole_text(text in "\\PC{0,40}") {
        // Special tokens in the text, such as `<s>`, are decoded to nothing.
        let text = text.replace('<', "");
        let tokenizer = chatml();
        let ids = tokenizer.encode(&text).expect("encodes");
        let mut stream = tokenizer.decode_stream();
        let mut streamed: String = ids.iter().filter_map(|id| stream.push(*id).expect("decodes")).collect();
        streamed.extend(stream.finish().expect("decodes"));
        prop_assert_eq!(&streamed, &text);
        prop_assert_eq!(tokenizer.decode(&ids).expect("decodes"), text);
    }
}
