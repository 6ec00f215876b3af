use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tonfall_blocks::Format;
use tonfall_durable::DurableError;

use super::*;
use crate::gguf::tokenizer::tokenizer_files;
use crate::gguf::{PlannedGguf, PlannedGgufTensor};
use crate::tokenizer_files::{self, OtherTemplate};

fn text(text: &str) -> MetadataValue {
    MetadataValue::String(text.to_owned())
}

fn texts(texts: &[&str]) -> MetadataValue {
    MetadataValue::Strings(texts.iter().map(|text| (*text).to_owned()).collect())
}

fn named<const N: usize>(entries: [(&str, MetadataValue); N]) -> Metadata {
    let full = |key: &str| if key.starts_with("tokenizer") { key.to_owned() } else { format!("tokenizer.ggml.{key}") };
    entries.into_iter().map(|(key, value)| (full(key), value)).collect()
}

/// Byte-level BPE with every kind of token.
fn byte_level() -> Metadata {
    named([
        ("model", text("gpt2")),
        ("pre", text("smollm")),
        ("tokens", texts(&["<|end|>", "<|start|>", "a", "b", "ab", "Ġ", "Ġab", "<tool>", "[PAD8]"])),
        ("token_type", MetadataValue::I32s(vec![3, 3, 1, 1, 1, 1, 1, 4, 5])),
        ("merges", texts(&["a b", "Ġ ab"])),
        ("bos_token_id", MetadataValue::U32(1)),
        ("eos_token_id", MetadataValue::U32(0)),
        ("padding_token_id", MetadataValue::U32(0)),
        ("eot_token_id", MetadataValue::U32(7)),
        ("add_bos_token", MetadataValue::Bool(true)),
        ("add_eos_token", MetadataValue::Bool(false)),
        ("tokenizer.chat_template", text("{{ messages }}")),
        ("tokenizer.chat_template.tool_use", text("{{ tools }}")),
    ])
}

/// SentencePiece BPE with all bytes, a user-defined token, and pieces in the order of their scores.
fn sentence_piece() -> Metadata {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    tokens.extend((0..=255).map(byte_token));
    tokens.extend(["ab", "▁a", "▁ab", "▁", "a", "b", "<tool>"].map(str::to_owned));
    let mut kinds = vec![2, 3, 3];
    kinds.extend([6; 256]);
    kinds.extend([1, 1, 1, 1, 1, 1, 4]);
    let mut scores = vec![0.0, -1000.0, -1000.0];
    scores.extend([0.0; 256]);
    scores.extend([0.0, -1.0, -2.0, -262.0, -263.0, -264.0, -1000.0]);
    named([
        ("model", text("llama")),
        ("pre", text("default")),
        ("tokens", MetadataValue::Strings(tokens)),
        ("token_type", MetadataValue::I32s(kinds)),
        ("scores", MetadataValue::F32s(scores)),
        ("bos_token_id", MetadataValue::U32(1)),
        ("eos_token_id", MetadataValue::U32(2)),
        ("unknown_token_id", MetadataValue::U32(0)),
        ("add_bos_token", MetadataValue::Bool(true)),
        ("add_eos_token", MetadataValue::Bool(true)),
        ("add_space_prefix", MetadataValue::Bool(true)),
    ])
}

/// Writes a model of one layer of zeros.
fn write_model(path: &Path, tokenizer: Metadata, rows: usize) {
    let number = |key: &str, value| (format!("llama.{key}"), MetadataValue::U32(value));
    let mut metadata = vec![
        ("general.architecture".to_owned(), text("llama")),
        number("block_count", 1),
        number("context_length", 4096),
        number("embedding_length", 32),
        number("feed_forward_length", 32),
        number("attention.head_count", 1),
        ("llama.attention.layer_norm_rms_epsilon".to_owned(), MetadataValue::F32(1e-5)),
    ];
    metadata.extend(tokenizer);
    let vectors = ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"].map(|name| (name, Format::F32, vec![32]));
    let matrices = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    let matrices = matrices.map(|name| format!("blk.0.{name}"));
    let matrices = matrices.iter().map(|name| (name.as_str(), Format::F16, vec![32, 32]));
    let all = [("token_embd", Format::F16, vec![rows, 32])].into_iter().chain(vectors).chain(matrices);
    let tensors: Vec<PlannedGgufTensor> =
        all.map(|(name, format, shape)| PlannedGgufTensor { name: format!("{name}.weight"), format, shape }).collect();
    let zeros = |index: usize| vec![0; tensors[index].bytes().expect("a size") as usize];
    let plan = PlannedGguf { metadata, tensors: tensors.clone() };
    plan.write::<DurableError>(path, |index, sink| sink(&zeros(index))).expect("written");
}

/// Writes a GGUF file with this tokenizer and opens it.
fn stored(tokenizer: Metadata) -> (TempDir, GgufFile) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("model.gguf");
    write_model(&path, tokenizer, 1);
    let file = GgufFile::open(&path, |_, _| Ok(())).expect("a file");
    (dir, file)
}

fn sorted(metadata: &Metadata) -> Vec<(&str, &MetadataValue)> {
    let mut entries: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    entries.sort_by_key(|(key, _)| *key);
    entries
}

fn get<'a>(metadata: &'a Metadata, key: &str) -> &'a MetadataValue {
    &metadata.iter().find(|(known, _)| known.strip_prefix("tokenizer.ggml.") == Some(key)).expect("a key").1
}

/// The tokenizer with a changed `tokenizer.json`.
fn changed(metadata: Metadata, change: impl FnOnce(&mut Value)) -> TokenizerFiles {
    let (_dir, file) = stored(metadata);
    let mut files = tokenizer_files(&file).expect("a tokenizer");
    let mut json = serde_json::from_slice(&files.tokenizer_json).expect("JSON");
    change(&mut json);
    files.tokenizer_json = json.to_string().into_bytes();
    files
}

#[test]
fn metadata_survives_the_way_through_tokenizer_json() {
    for (metadata, rows) in [(byte_level(), 9), (sentence_piece(), 266)] {
        // The unused token becomes an ordinary one in tokenizer.json, which has no such kind.
        let files = changed(metadata.clone(), |json| {
            json["model"]["vocab"].as_object_mut().expect("a map").remove("[PAD8]");
        });
        let written = tokenizer_metadata(&files, rows).expect("metadata");
        assert_eq!(sorted(&written), sorted(&metadata));
    }
    let mut metadata = sentence_piece();
    metadata.retain(|(key, _)| !key.ends_with("add_space_prefix"));
    metadata.push(("tokenizer.ggml.add_space_prefix".to_owned(), MetadataValue::Bool(false)));
    let written = tokenizer_metadata(&changed(metadata, |_| ()), 266).expect("metadata");
    assert_eq!(get(&written, "add_space_prefix"), &MetadataValue::Bool(false));
}

#[test]
fn a_base_keeps_its_metadata_except_for_templates() {
    let (_dir, file) = stored(byte_level());
    let encoded =
        |metadata: &Metadata| -> Vec<_> { metadata.iter().map(|(key, value)| (key.clone(), value.encode())).collect() };
    assert_eq!(encoded(&carried_tokenizer(&file, None)), encoded(&byte_level()));
    let mut expected = byte_level();
    expected.retain(|(key, _)| !key.contains("chat_template"));
    expected.push(("tokenizer.chat_template".to_owned(), text("own")));
    assert_eq!(encoded(&carried_tokenizer(&file, Some("own"))), encoded(&expected));
}

#[test]
fn every_spelling_of_a_rule_is_recognised() {
    let split = |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
    let bytes = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex });
    let sequence = |steps: &[Value]| json!({ "type": "Sequence", "pretokenizers": steps });
    let digits = json!({ "type": "Digits", "individual_digits": true });
    let old = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true });
    let name = |json: &Value| pre_tokenizers::find_by_json(json).map(|rule| rule.names[0]);
    for rule in &pre_tokenizers::PRE_TOKENIZERS {
        assert_eq!(name(&rule.to_json()), Some(rule.names[0]));
    }
    let gpt2 = pre_tokenizers::PRE_TOKENIZERS[0].splits[0];
    assert_eq!(name(&bytes(true)), Some("gpt-2"));
    assert_eq!(name(&old), Some("gpt-2"));
    assert_eq!(name(&sequence(&[digits.clone(), bytes(true)])), Some("smollm"));
    assert_eq!(name(&sequence(&[digits, split(gpt2), bytes(false)])), Some("smollm"));
    let mut prefix = bytes(true);
    prefix["add_prefix_space"] = true.into();
    let mut removed = split(gpt2);
    removed["behavior"] = "Removed".into();
    let groups = json!({ "type": "Digits", "individual_digits": false });
    for other in [
        json!(null),
        json!([]),
        bytes(false),
        prefix,
        split(gpt2),
        sequence(&[removed, bytes(false)]),
        sequence(&[groups, bytes(true)]),
        sequence(&[split(r"\p{L}+"), bytes(false)]),
    ] {
        assert_eq!(name(&other), None, "{other}");
    }
}

#[test]
fn special_tokens_come_from_the_post_processor_and_from_known_names() {
    let mut files = changed(byte_level(), |json| json["added_tokens"][0]["content"] = "<|im_end|>".into());
    files.tokenizer_json =
        String::from_utf8(files.tokenizer_json).expect("text").replace("<|end|>", "<|im_end|>").into();
    (files.add_bos, files.add_eos, files.eot) = (None, None, None);
    let written = tokenizer_metadata(&files, 9).expect("metadata");
    assert_eq!(get(&written, "add_bos_token"), &MetadataValue::Bool(true));
    assert!(written.iter().all(|(key, _)| !key.ends_with("eot_token_id")), "EOS already ends the turn");
    files.eos = Some(SpecialToken { content: "<tool>".to_owned(), id: 7 });
    files.add_bos = Some(false);
    let written = tokenizer_metadata(&files, 9).expect("metadata");
    assert_eq!(get(&written, "eot_token_id"), &MetadataValue::U32(0));
    assert_eq!(get(&written, "add_bos_token"), &MetadataValue::Bool(false));
    files.other_templates =
        vec![OtherTemplate { place: String::new(), source: "shadowed".to_owned(), with_tools: false }];
    let written = tokenizer_metadata(&files, 9).expect("metadata");
    assert!(!format!("{written:?}").contains("shadowed"));
}

#[test]
fn rows_without_tokens_are_padded_and_added_tokens_without_rows_left_out() {
    let files = changed(byte_level(), |json| {
        let token = json!({ "id": 20, "content": "<image>", "special": true });
        json["added_tokens"].as_array_mut().expect("a list").push(token);
    });
    let written = tokenizer_metadata(&files, 11).expect("metadata");
    let MetadataValue::Strings(tokens) = get(&written, "tokens") else { panic!("texts") };
    assert_eq!(tokens[8..], ["[PAD8]", "[PAD9]", "[PAD10]"]);
    let error = tokenizer_metadata(&files, 6).expect_err("too small").to_string();
    assert!(error.contains("but the model's embedding has only 6 rows"), "{error}");
}

#[test]
fn metaspace_steps_are_spaces_in_front_of_texts() {
    let metaspace = |scheme: &str, split: bool, template: bool| {
        let mut files = changed(sentence_piece(), |json| {
            json["normalizer"] = Value::Null;
            json["pre_tokenizer"] =
                json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split });
        });
        files.chat_template = template.then(|| "{{ messages }}".to_owned());
        get(&tokenizer_metadata(&files, 266).expect("metadata"), "add_space_prefix").clone()
    };
    for (scheme, template, expected) in
        [("always", true, true), ("never", false, false), ("first", true, false), ("first", false, true)]
    {
        assert_eq!(metaspace(scheme, false, template), MetadataValue::Bool(expected), "{scheme}");
        assert_eq!(metaspace(scheme, true, template), MetadataValue::Bool(expected), "{scheme}");
    }
    let files = changed(sentence_piece(), |json| {
        json["normalizer"] = Value::Null;
        json["pre_tokenizer"] =
            json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true });
        json["model"]["vocab"]["a▁"] = 266.into();
    });
    let error = tokenizer_metadata(&files, 267).expect_err("refused").to_string();
    assert!(error.contains("some tokens span words"), "{error}");
}

#[test]
fn tokenizers_that_llama_cpp_would_read_differently_are_refused() {
    type Change = fn(&mut Value);
    let byte_level_cases: [(Change, &str); 17] = [
        (|json| json["model"]["type"] = "Unigram".into(), "the type Unigram is not supported"),
        (|json| json["model"]["merges"] = json!([["a"]]), "a merge is not two pieces"),
        (|json| json["model"]["merges"] = json!(["a b c"]), "\"a b c\" is not two pieces"),
        (|json| json["model"]["merges"] = json!([["a", "c"]]), "the merge of \"a\" and \"c\" is not in the vocabulary"),
        (|json| json["model"]["merges"] = json!([["a ", "b"]]), "has a space"),
        (|json| json["model"]["vocab"]["a"] = 3.into(), "have the id 3"),
        (|json| json["model"]["vocab"]["a"] = (-3).into(), "tokenizer.json"),
        (|json| json["model"]["vocab"]["a"] = 300.into(), "has the id 300"),
        (|json| json["added_tokens"][0]["id"] = 2.into(), "\"<|end|>\" have the id 2"),
        (|json| json["added_tokens"][0]["lstrip"] = true.into(), "`lstrip` of \"<|end|>\" is not supported"),
        (|json| json["model"]["end_of_word_suffix"] = "</w>".into(), "`end_of_word_suffix` \"</w>\" is not supported"),
        (|json| json["model"]["ignore_merges"] = true.into(), "`ignore_merges` is true, but false in llama.cpp's rule"),
        (|json| json["normalizer"] = json!({ "type": "NFC" }), "not supported with the rule \"smollm\""),
        (|json| json["post_processor"] = json!({ "type": "BertProcessing" }), "BertProcessing"),
        (|json| json["post_processor"]["single"][0]["SpecialToken"]["id"] = "<tool>".into(), "other tokens than BOS"),
        (|json| json["pre_tokenizer"]["pretokenizers"][0]["invert"] = true.into(), "is none of the rules"),
        (|json| json["model"] = json!(7), "tokenizer.json"),
    ];
    let sentence_piece_cases: [(Change, &str); 7] = [
        (|json| json["normalizer"] = json!({ "type": "NFKC" }), "NFKC"),
        (|json| json["normalizer"] = Value::Null, "is not supported here"),
        (|json| json["pre_tokenizer"] = json!({ "type": "Whitespace" }), "Whitespace"),
        (|json| json["model"]["unk_token"] = "<x>".into(), "the unknown token \"<x>\" is not in the vocabulary"),
        (|json| drop(json["model"]["merges"].as_array_mut().map(Vec::pop)), "1 of them are merges"),
        (|json| drop(json["model"]["vocab"].as_object_mut().map(|map| map.remove("<0x0A>"))), "\"<0x0A>\" is missing"),
        (|json| json["model"]["vocab"]["[PAD267]"] = 266.into(), "two tokens are \"[PAD267]\""),
    ];
    let check = |metadata: Metadata, change: Change, reason: &str| {
        let error = tokenizer_metadata(&changed(metadata, change), 270).expect_err(reason).to_string();
        assert!(error.contains(reason), "{reason:?} is not in: {error}");
    };
    byte_level_cases.into_iter().for_each(|(change, reason)| check(byte_level(), change, reason));
    sentence_piece_cases.into_iter().for_each(|(change, reason)| check(sentence_piece(), change, reason));

    let mut files = changed(byte_level(), |_| ());
    files.eos = None;
    assert!(matches!(tokenizer_metadata(&files, 9), Err(Error::NoEnd)));
    for cut in [0, 1, 100, files.tokenizer_json.len() - 1] {
        let json = files.tokenizer_json[..cut].to_vec();
        let damaged = TokenizerFiles { tokenizer_json: json, ..files.clone() };
        assert!(matches!(tokenizer_metadata(&damaged, 9), Err(Error::Damaged { .. })), "cut at {cut}");
    }
}

/// Writes `vocabulary.gguf` into each directory with a tokenizer below `TONFALL_TOKENIZERS`, for
/// `tests/reference/gguf_tokenizers.py`.
#[test]
#[ignore = "needs tokenizers of real models; tests/reference/gguf_tokenizers.py runs it"]
fn vocabularies_for_llama_cpp() {
    let root = std::env::var("TONFALL_TOKENIZERS").expect("a directory in TONFALL_TOKENIZERS");
    for entry in std::fs::read_dir(root).expect("a directory") {
        let dir = entry.expect("an entry").path();
        if !dir.join("tokenizer.json").exists() {
            continue;
        }
        let files = tokenizer_files::read(&dir).expect("a tokenizer");
        let json: TokenizerJson = serde_json::from_slice(&files.tokenizer_json).expect("JSON");
        let rows = json.model.vocab.len() + json.added_tokens.len() + 1;
        let metadata = tokenizer_metadata(&files, rows).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        write_model(&dir.join("vocabulary.gguf"), metadata, rows);
    }
}

/// The metadata of the GGUF file `TONFALL_GGUF` is the same after the way through tokenizer.json. Two things have no place
/// there: unused tokens become normal ones, and llama.cpp's default for byte-level tokenizers is not written again.
#[test]
#[ignore = "needs the GGUF file of a real model in TONFALL_GGUF"]
fn metadata_of_a_real_file_survives_the_way_through_tokenizer_json() {
    let path = std::env::var("TONFALL_GGUF").expect("a file in TONFALL_GGUF");
    let file = GgufFile::open(Path::new(&path), |_, _| Ok(())).expect("a file");
    let rows = file.tensors["token_embd.weight"].shape[0];
    let written = tokenizer_metadata(&tokenizer_files(&file).expect("a tokenizer"), rows).expect("metadata");
    let unused_as_normal = |mut value: Vec<u8>| {
        value.as_chunks_mut::<4>().0.iter_mut().filter(|kind| **kind == [5, 0, 0, 0]).for_each(|kind| kind[0] = 1);
        value
    };
    for (key, value) in carried_tokenizer(&file, None) {
        match (&*key, written.iter().find(|(known, _)| *known == key).map(|(_, own)| own.encode())) {
            ("tokenizer.ggml.add_space_prefix", None) => assert_eq!(value, MetadataValue::Stored(vec![7, 0, 0, 0, 0])),
            // The type number of the list's elements is 5, too.
            ("tokenizer.ggml.token_type", Some(own)) => {
                assert!(unused_as_normal(own) == unused_as_normal(value.encode()), "{key}");
            }
            (_, own) => assert!(own == Some(value.encode()), "{key} differs"),
        }
    }
}
