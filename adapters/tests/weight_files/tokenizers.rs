//! Tokenizers from directories and from GGUF metadata.

use serde_json::{Value, json};
use tonfall_adapters::{BaseModel, ChatSettings, SpecialToken, TokenizerFiles};
use tonfall_blocks::Format;

use crate::files::gguf::{Gguf, flag, floats, integers, of_model, text, texts, u32};
use crate::files::{copy_of, fixture};

fn gguf() -> Gguf {
    let source = BaseModel::open(&fixture("families/llama_tied")).unwrap();
    let mut gguf = of_model(&source, "llama", true);
    gguf.set("tokenizer.ggml.model", text("gpt2"))
        .set("tokenizer.ggml.pre", text("smollm"))
        .set("tokenizer.ggml.tokens", texts(&["<|end|>", "<|start|>", "a", "b", "ab", "Ġ", "Ġab", "<tool>"]))
        .set("tokenizer.ggml.token_type", integers(&[3, 3, 1, 1, 1, 1, 1, 4]))
        .set("tokenizer.ggml.merges", texts(&["a b", "Ġ ab"]))
        .set("tokenizer.ggml.bos_token_id", u32(1))
        .set("tokenizer.ggml.eos_token_id", u32(0))
        .set("tokenizer.chat_template", text("{{ messages }}"));
    gguf
}

fn convert(gguf: &Gguf) -> Result<(TokenizerFiles, Value), String> {
    let (_dir, path) = gguf.write();
    let files = BaseModel::open(&path).unwrap().tokenizer().map_err(|error| error.to_string())?;
    let json = serde_json::from_slice(&files.tokenizer_json).unwrap();
    Ok((files, json))
}

fn token(content: &str, id: u32) -> Option<SpecialToken> {
    Some(SpecialToken { content: content.to_owned(), id })
}

#[test]
fn byte_level_bpe_from_gguf() {
    let (files, json) = convert(&gguf()).unwrap();
    assert_eq!((files.bos, files.eos, files.pad), (token("<|start|>", 1), token("<|end|>", 0), None));
    assert_eq!((files.add_bos, files.chat_template.as_deref()), (Some(false), Some("{{ messages }}")));
    assert_eq!(json["model"]["type"], "BPE");
    assert_eq!(json["model"]["vocab"]["Ġab"], 6);
    assert_eq!(json["model"]["merges"], json!([["a", "b"], ["Ġ", "ab"]]));
    assert_eq!(json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"], r"\p{N}");
    assert_eq!(json["post_processor"], Value::Null);
    let added: Vec<_> = json["added_tokens"].as_array().unwrap().iter().collect();
    let flags: Vec<_> =
        added.iter().map(|token| (token["id"].as_u64().unwrap(), token["special"].as_bool().unwrap())).collect();
    assert_eq!(flags, [(0, true), (1, true), (7, false)]);
}

#[test]
fn each_known_rule_has_its_settings() {
    let cases = [
        ("gpt-2", 2, false, Value::Null, false),
        ("llama-bpe", 2, true, Value::Null, true),
        ("qwen2", 2, false, json!({ "type": "NFC" }), false),
        ("tekken", 2, true, Value::Null, true),
        ("default", 5, false, Value::Null, false),
    ];
    for (pre, steps, ignore_merges, normalizer, bos) in cases {
        let (files, json) = convert(gguf().set("tokenizer.ggml.pre", text(pre))).unwrap();
        assert_eq!(json["pre_tokenizer"]["pretokenizers"].as_array().unwrap().len(), steps, "{pre}");
        assert_eq!(json["model"]["ignore_merges"], ignore_merges, "{pre}");
        assert_eq!(json["normalizer"], normalizer, "{pre}");
        assert_eq!(files.add_bos, Some(bos), "{pre}");
        assert_eq!(json["post_processor"].is_object(), bos, "{pre}");
    }
    let (files, json) = convert(gguf().set("tokenizer.ggml.add_bos_token", flag(true))).unwrap();
    assert_eq!(files.add_bos, Some(true));
    assert_eq!(json["post_processor"]["special_tokens"]["<|start|>"]["ids"], json!([1]));
    assert_eq!(json["post_processor"]["single"][0]["SpecialToken"]["id"], "<|start|>");
}

#[test]
fn sentence_piece_from_gguf() {
    let mut gguf = gguf();
    gguf.set("tokenizer.ggml.model", text("llama"))
        .remove("tokenizer.ggml.merges")
        .remove("tokenizer.ggml.pre")
        .set("tokenizer.ggml.tokens", texts(&["<unk>", "<s>", "</s>", "<0x41>", "▁", "a", "b", "ab", "▁a", "▁ab"]))
        .set("tokenizer.ggml.token_type", integers(&[2, 3, 3, 6, 1, 1, 1, 1, 1, 1]))
        .set("tokenizer.ggml.scores", floats(&[0.0, 0.0, 0.0, 0.0, -4.0, -5.0, -6.0, -1.0, -2.0, -3.0]))
        .set("tokenizer.ggml.unknown_token_id", u32(0));
    let (files, json) = convert(&gguf).unwrap();
    assert_eq!(files.unk, token("<unk>", 0));
    assert_eq!(files.add_bos, Some(true));
    let model = &json["model"];
    assert_eq!(
        (&model["byte_fallback"], &model["fuse_unk"], &model["unk_token"]),
        (&true.into(), &true.into(), &"<unk>".into())
    );
    // Merges are ordered by the score of their result. For equal results, the longer first part comes first.
    assert_eq!(model["merges"], json!([["a", "b"], ["▁", "a"], ["▁a", "b"], ["▁", "ab"]]));
    assert_eq!(json["normalizer"]["normalizers"][0]["type"], "Prepend");

    let (_, json) = convert(gguf.set("tokenizer.ggml.add_space_prefix", flag(false))).unwrap();
    assert_eq!(json["normalizer"]["normalizers"][0]["type"], "Replace");
    let long = "a".repeat(300);
    let error = convert(gguf.set("tokenizer.ggml.tokens", texts(&["", "1", "2", "3", "4", "5", "6", "7", "8", &long])));
    assert!(error.unwrap_err().contains("token 9 is longer"));
}

#[test]
fn unsupported_tokenizers_are_refused() {
    let cases: [(&str, crate::files::gguf::Meta, &str); 8] = [
        ("tokenizer.ggml.model", text("bert"), "\"bert\" is not supported"),
        ("tokenizer.ggml.pre", text("gemma9"), "\"gemma9\" is not known; known are gpt-2, smollm"),
        ("tokenizer.ggml.merges", texts(&["a c"]), "entry 0"),
        ("tokenizer.ggml.merges", u32(1), "a list is missing"),
        ("tokenizer.ggml.token_type", integers(&[1]), "it must have 8 entries"),
        ("tokenizer.ggml.bos_token_id", u32(99), "names no token"),
        ("tokenizer.ggml.tokens", texts(&["a", "a"]), "tokens 0 and 1 are both \"a\""),
        ("tokenizer.ggml.tokens", integers(&[1]), "list of texts"),
    ];
    for (key, value, expected) in cases {
        let mut gguf = gguf();
        if key.ends_with("tokens") {
            gguf.remove("tokenizer.ggml.token_type");
        }
        let error = convert(gguf.set(key, value)).unwrap_err();
        assert!(error.contains(expected), "{expected:?} is not in: {error}");
    }
    let error = convert(gguf().remove("tokenizer.ggml.tokens")).unwrap_err();
    assert!(error.contains("tokenizer.ggml.tokens"), "{error}");
}

#[test]
fn a_gguf_base_gets_generated_side_files() {
    let (_dir, path) = gguf().write();
    let files = BaseModel::open(&path).unwrap().side_files(Some(Format::F16), &ChatSettings::default()).unwrap().files;
    let get = |name: &str| -> Value {
        serde_json::from_slice(&files.iter().find(|file| file.name == name).unwrap().bytes).unwrap()
    };
    assert_eq!(get("config.json")["architectures"], json!(["LlamaForCausalLM"]));
    assert_eq!(
        (&get("config.json")["torch_dtype"], &get("config.json")["dtype"]),
        (&"float16".into(), &"float16".into())
    );
    assert_eq!(get("generation_config.json")["eos_token_id"], 0);
    assert_eq!(get("tokenizer_config.json")["chat_template"], "{{ messages }}");
    assert_eq!(get("tokenizer_config.json")["bos_token"], "<|start|>");
    assert_eq!(get("tokenizer.json")["version"], "1.0");
}

#[test]
fn the_tokenizer_of_a_directory() {
    let dir = copy_of("llama");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let open = || BaseModel::open(dir.path()).unwrap().tokenizer();
    assert!(open().unwrap_err().to_string().contains("no tokenizer.json"));

    write("tokenizer.json", r#"{"added_tokens":[{"id":5,"content":"<s>"}],"model":{"vocab":{"</s>":6,"x":7}}}"#);
    write(
        "tokenizer_config.json",
        r#"{"bos_token":{"content":"<s>"},"eos_token":"</s>","add_bos_token":true,"chat_template":"config"}"#,
    );
    write("special_tokens_map.json", r#"{"pad_token":"x"}"#);
    let files = open().unwrap();
    assert_eq!((files.bos, files.eos, files.pad), (token("<s>", 5), token("</s>", 6), token("x", 7)));
    assert_eq!((files.add_bos, files.chat_template.as_deref()), (Some(true), Some("config")));

    write(
        "tokenizer_config.json",
        r#"{"chat_template":[{"name":"tool_use","template":"t"},{"name":"rag","template":"r"},{"name":"default","template":"d"}]}"#,
    );
    let templates = || {
        let files = open().unwrap();
        let others = files.other_templates.into_iter().map(|other| (other.source, other.with_tools));
        (files.chat_template.unwrap(), others.collect::<Vec<_>>())
    };
    let tool = || ("t".to_owned(), true);
    assert_eq!(templates(), ("d".to_owned(), vec![tool()]));
    write("chat_template.jinja", "jinja");
    assert_eq!(templates(), ("jinja".to_owned(), vec![tool(), ("d".to_owned(), false)]));
    write("chat_template.jinja", "d");
    assert_eq!(templates(), ("d".to_owned(), vec![tool()]));
    std::fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    write("additional_chat_templates/tool_use.jinja", "named");
    write("additional_chat_templates/rag.jinja", "r");
    assert_eq!(templates(), ("d".to_owned(), vec![("named".to_owned(), true), tool()]));

    write("tokenizer_config.json", r#"{"eos_token":"<end>"}"#);
    let error = open().unwrap_err().to_string();
    assert!(error.contains("the eos token \"<end>\" is not in the vocabulary"), "{error}");
    write("tokenizer.json", "[");
    assert!(open().unwrap_err().to_string().contains("tokenizer.json"));
}
