//! Compares the fast encoder with the reference: same ids and same byte ranges for every text.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{ChatTokenizer, TokenizerSpec};

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥\u{3040}-ゟ゠-ヿ]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];

/// The tokenizer of the fixtures, created with the `tokenizers` library.
fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/chat/tokenizer.json");
    serde_json::from_slice(&std::fs::read(path).expect("the repository's fixtures")).expect("JSON")
}

fn tokenizer(json: &Value) -> ChatTokenizer {
    ChatTokenizer::new(TokenizerSpec {
        tokenizer_json: json.to_string().into_bytes(),
        vocab_size: 1024,
        ..TokenizerSpec::default()
    })
    .expect("a sound tokenizer")
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn split(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

fn sequence(steps: Vec<Value>) -> Value {
    json!({"type": "Sequence", "pretokenizers": steps})
}

/// The fixture with the pre-tokenizers of real model families.
fn families() -> Vec<ChatTokenizer> {
    let digits = |each: bool| json!({"type": "Digits", "individual_digits": each});
    let deepseek = DEEPSEEK.iter().map(|pattern| split(pattern)).chain([byte_level(false)]).collect();
    let (null, nfc) = (Value::Null, json!({"type": "NFC"}));
    let table = [
        (byte_level(true), null.clone(), false),
        (byte_level(false), null.clone(), true),
        (sequence(vec![digits(true), byte_level(true)]), null.clone(), false),
        (sequence(vec![digits(false), byte_level(true)]), null.clone(), false),
        (sequence(vec![split(LLAMA3), byte_level(false)]), null.clone(), true),
        (sequence(vec![split(QWEN2), byte_level(false)]), nfc, false),
        (sequence(vec![split(TEKKEN), byte_level(false)]), null.clone(), true),
        (sequence(deepseek), null, false),
    ];
    let family = |(pre_tokenizer, normalizer, ignore_merges)| {
        let mut json = fixture();
        (json["pre_tokenizer"], json["normalizer"]) = (pre_tokenizer, normalizer);
        json["model"]["ignore_merges"] = Value::Bool(ignore_merges);
        let first = json["model"]["vocab"].as_object().expect("a table").len();
        let added = json["added_tokens"].as_array_mut().expect("a list");
        let mut add = |content: &str, strips: bool, normalized: bool| {
            added.push(json!({"id": first + added.len(), "content": content, "single_word": false, "lstrip": strips,
                              "rstrip": strips, "normalized": normalized, "special": !normalized}));
        };
        // Of two tokens that start at the same offset, the longer one matches. Raw ones match before normalized ones.
        for (content, strips, normalized) in
            [("<a>", false, false), ("<a><b>", false, false), ("<mask>", true, false), ("the", false, true)]
        {
            add(content, strips, normalized);
        }
        tokenizer(&json)
    };
    table.into_iter().map(family).collect()
}

fn assert_same(tokenizer: &ChatTokenizer, text: &str) {
    assert_eq!(tokenizer.slow_because(), None);
    let (fast, reference) = (tokenizer.encode_ranges(text), tokenizer.encode_by_reference(text));
    assert_eq!(fast.expect("bytes are tokens"), reference.expect("bytes are tokens"), "{text:?}");
}

/// Building blocks of the test texts, in addition to random Unicode characters.
const ATOMS: &str = "'s¦'LL¦'ſ¦don't¦ ¦  ¦\n¦\r\n¦\t¦\u{a0}¦\u{3000}¦\u{85}¦a¦the¦ the¦Haus¦1¦1234¦½¦٣¦日本語¦é¦e\u{301}¦ß¦K¦İ¦😀¦\
    👩\u{200d}👧¦!¦?!\n¦/¦\n\n   x¦हिन्दी¦العربية¦한국어¦\u{1100}\u{1161}¦\0¦\u{feff}¦\u{212b}¦<|im_start|>¦<|im_¦<|im_end|>¦<a>¦<a><b>¦\
    <mask>¦<ma¦aaaaaaaaaaaaaaaaaaaa¦\u{fffd}";

fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => prop::sample::select(ATOMS.split('¦').collect::<Vec<_>>()).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        1 => prop::char::range('\u{80}', '\u{2fff}').prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

#[test]
fn the_fast_encoder_equals_the_reference() {
    let families = families();
    proptest!(ProptestConfig::with_cases(512), |(text in texts())| {
        for tokenizer in &families {
            assert_same(tokenizer, &text);
        }
    });
}

#[test]
fn long_words_and_the_quickstart_base_are_encoded_the_same() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/quickstart/base/tokenizer.json");
    let json = std::fs::read(path).expect("the repository's quickstart");
    let spec = TokenizerSpec { tokenizer_json: json, vocab_size: 4096, ..TokenizerSpec::default() };
    let quickstart = ChatTokenizer::new(spec).expect("a sound tokenizer");
    let source = include_str!("encoding.rs");
    let longest = [source.replace(char::is_whitespace, ""), "ab".repeat(4000), " ".repeat(4000), "ß".repeat(4000)];
    for text in longest.iter().map(String::as_str).chain([source, ""]) {
        families().iter().chain([&quickstart]).for_each(|tokenizer| assert_same(tokenizer, text));
    }
}

#[test]
fn a_byte_without_a_token_is_encoded_by_the_reference() {
    let mut json = fixture();
    // The character that represents byte 4.
    json["model"]["vocab"].as_object_mut().expect("a table").shift_remove("Ą").expect("a token of its own");
    let tokenizer = tokenizer(&json);
    for text in ["a\u{4}b c", "a b c"] {
        assert_same(&tokenizer, text);
    }
}

#[test]
fn a_text_that_is_not_normalized_is_encoded_by_the_reference() {
    let mut json = fixture();
    json["normalizer"] = json!({"type": "NFC"});
    let tokenizer = tokenizer(&json);
    assert_eq!(tokenizer.encode("e\u{301}t").expect("bytes"), tokenizer.encode("ét").expect("bytes"));
}

#[test]
fn unsupported_parts_are_named_and_left_to_the_reference() {
    type Change = (&'static str, Value, &'static str);
    let step = |step: Value| sequence(vec![step, byte_level(false)]);
    let added = |key: &str| {
        let mut token = json!({"id": 600, "content": " x", "single_word": false, "lstrip": false, "rstrip": false,
                               "normalized": false, "special": true});
        token[key] = Value::Bool(true);
        json!([token])
    };
    let mut prefixed = byte_level(true);
    prefixed["add_prefix_space"] = Value::Bool(true);
    let mut inverted = split("a");
    inverted["invert"] = Value::Bool(true);
    let table: Vec<Change> = vec![
        ("/normalizer", json!({"type": "Lowercase"}), "the normalizer Lowercase"),
        ("/pre_tokenizer", Value::Null, "a pre-tokenizer without ByteLevel"),
        ("/pre_tokenizer", prefixed, "ByteLevel with add_prefix_space"),
        ("/pre_tokenizer", step(json!({"type": "Whitespace"})), "the pre-tokenizer {\"type\":\"Whitespace\"}"),
        ("/pre_tokenizer", step(inverted), "the pre-tokenizer"),
        // Expressions with look-around, or with other matches in a backtracking engine.
        ("/pre_tokenizer", step(split(r"\p{L}++| ")), "the pre-tokenizer"),
        ("/pre_tokenizer", step(split(r"a(?=b)")), "the pre-tokenizer"),
        ("/pre_tokenizer", step(split(r"\bword\b")), "the pre-tokenizer"),
        ("/pre_tokenizer", step(split("a*")), "the pre-tokenizer"),
        ("/model/dropout", json!(0.5), "the model's dropout"),
        ("/model/end_of_word_suffix", json!("</w>"), "the model's end_of_word_suffix"),
        ("/added_tokens", added("single_word"), "the added token \" x\""),
        ("/added_tokens", added("rstrip"), "the added token \" x\""),
    ];
    for (place, value, expected) in table {
        let mut json = fixture();
        *json.pointer_mut(place).expect(place) = value;
        let why = tokenizer(&json).slow_because().expect(expected).to_owned();
        assert!(why.starts_with(expected), "{why}");
    }
}
