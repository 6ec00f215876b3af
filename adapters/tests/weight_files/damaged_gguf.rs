//! GGUF files that are damaged, forged or of an unknown kind.

use proptest::prelude::*;
use tonfall_adapters::{BaseError, BaseModel, GgufError};

use crate::files::gguf::{Gguf, Meta, f32, floats, of_model, text, texts, u32, write};
use crate::files::{assert_refused, fixture};

/// The fixture's model as a GGUF file of architecture `llama`.
fn llama() -> Gguf {
    of_model(&BaseModel::open(&fixture("families/llama_tied")).unwrap(), "llama", true)
}

fn refusal(gguf: &Gguf) -> GgufError {
    of_bytes(&gguf.bytes())
}

fn of_bytes(bytes: &[u8]) -> GgufError {
    let (_dir, path) = write(bytes);
    match BaseModel::open(&path).expect_err("it must be refused") {
        BaseError::Gguf(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_undamaged_file_can_be_opened() {
    let (_dir, path) = llama().write();
    BaseModel::open(&path).unwrap();
}

#[test]
fn other_files_and_versions_are_refused() {
    assert!(matches!(of_bytes(b"GGML"), GgufError::Magic { .. }));
    assert!(matches!(of_bytes(b""), GgufError::Magic { .. }));
    let with_version = |version: u32| refusal(&Gguf { version, ..llama() });
    assert!(matches!(with_version(1), GgufError::Version { version: 1, .. }));
    assert!(matches!(with_version(4), GgufError::Version { version: 4, .. }));
    assert!(matches!(with_version(3u32.swap_bytes()), GgufError::BigEndian { .. }));
    let two = Gguf { version: 2, ..llama() };
    let (_dir, path) = two.write();
    BaseModel::open(&path).unwrap();
}

#[test]
fn a_pickle_renamed_to_gguf_is_refused() {
    let (_dir, path) = write(b"\x80\x04\x95rest of it");
    assert_refused(&path, &["pickle", "save_pretrained"]);
}

#[test]
fn counts_larger_than_the_file_are_refused() {
    for counts in [(1 << 60, 1), (1, 1 << 60), (u64::MAX, u64::MAX)] {
        let error = refusal(&Gguf { counts: Some(counts), ..llama() });
        assert!(matches!(error, GgufError::Damaged { .. }), "{error:?}");
    }
    let message = refusal(&Gguf { counts: Some((1 << 60, 1)), ..llama() }).to_string();
    assert!(message.contains("offset 8") && message.contains("1152921504606846976 tensors"), "{message}");
}

#[test]
fn lengths_larger_than_the_file_are_refused() {
    let huge_text = Meta([&8u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat());
    let list =
        |kind: u32, count: u64| Meta([&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes()].concat());
    for value in [huge_text, list(0, u64::MAX), list(8, 1 << 40), list(12, 1 << 61), list(99, 1)] {
        let error = refusal(llama().set("general.name", value));
        assert!(matches!(error, GgufError::Damaged { .. }), "{error:?}");
    }
}

#[test]
fn deeply_nested_arrays_are_refused() {
    let mut value = 9u32.to_le_bytes().to_vec();
    for _ in 0..100_000 {
        value.extend(9u32.to_le_bytes());
        value.extend(1u64.to_le_bytes());
    }
    let error = refusal(llama().set("general.name", Meta(value)));
    assert!(matches!(&error, GgufError::Damaged { reason, .. } if reason.contains("nested")), "{error:?}");
}

#[test]
fn invalid_values_are_refused() {
    let boolean = Meta([&7u32.to_le_bytes()[..], &[2]].concat());
    assert!(matches!(refusal(llama().set("general.name", boolean)), GgufError::Damaged { .. }));
    let kind = Meta(13u32.to_le_bytes().to_vec());
    assert!(matches!(refusal(llama().set("general.name", kind)), GgufError::Damaged { .. }));
    let not_utf8 = Meta([&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &[0xff, 0xfe]].concat());
    assert!(matches!(refusal(llama().set("general.name", not_utf8)), GgufError::Damaged { .. }));
}

#[test]
fn duplicate_keys_and_tensors_are_refused() {
    let mut gguf = llama();
    gguf.metadata.push(("llama.block_count".to_owned(), u32(1)));
    assert!(matches!(refusal(&gguf), GgufError::DuplicateKey { key, .. } if key == "llama.block_count"));
    let mut gguf = llama();
    gguf.tensors.push(gguf.tensors[0].clone());
    assert!(matches!(refusal(&gguf), GgufError::Tensor { reason, .. } if reason.contains("listed twice")));
}

#[test]
fn invalid_alignments_are_refused() {
    for value in [u32(0), u32(33), text("32")] {
        let error = refusal(llama().set("general.alignment", value));
        assert!(matches!(error, GgufError::Metadata { .. }), "{error:?}");
    }
}

#[test]
fn wrong_tensor_headers_are_refused() {
    let edit = |edit: fn(&mut Gguf)| {
        let mut gguf = llama();
        edit(&mut gguf);
        refusal(&gguf)
    };
    let error = edit(|gguf| gguf.tensor("output_norm.weight").dims = vec![1 << 62, 1 << 62]);
    assert!(matches!(error, GgufError::Tensor { .. }), "{error:?}");
    let error = edit(|gguf| gguf.tensor("output_norm.weight").dims = vec![1 << 40]);
    assert!(matches!(&error, GgufError::Tensor { reason, .. } if reason.contains("leave the file")), "{error:?}");
    let error = edit(|gguf| gguf.tensor("output_norm.weight").dims = vec![1; 5]);
    assert!(matches!(error, GgufError::Damaged { .. }), "{error:?}");
    let error = edit(|gguf| gguf.tensor("output_norm.weight").dims = Vec::new());
    assert!(matches!(error, GgufError::Damaged { .. }), "{error:?}");
    let error = edit(|gguf| gguf.tensor("token_embd.weight").dims[0] *= 2);
    assert!(matches!(&error, GgufError::Tensor { reason, .. } if reason.contains("overlaps")), "{error:?}");
    // A row of 64 values is not a multiple of a block of 256.
    let error = edit(|gguf| gguf.tensor("token_embd.weight").kind = 14);
    assert!(matches!(&error, GgufError::Tensor { reason, .. } if reason.contains("Q6_K")), "{error:?}");
}

#[test]
fn unsupported_types_are_refused() {
    for (kind, name) in [(9, "Q8_1"), (10, "Q2_K"), (23, "IQ4_XS"), (77, "number 77")] {
        let mut gguf = llama();
        gguf.tensor("token_embd.weight").kind = kind;
        let error = refusal(&gguf);
        assert!(matches!(&error, GgufError::TensorType { type_name, .. } if type_name == name), "{error:?}");
    }
}

/// Otherwise users would try another quantization, which can't help.
#[test]
fn the_architecture_is_checked_before_the_types() {
    let mut gguf = llama();
    gguf.tensor("token_embd.weight").kind = 10;
    let message = refusal(gguf.set("general.architecture", text("mamba"))).to_string();
    assert!(message.contains("\"mamba\" is not supported"), "{message}");
}

#[test]
fn split_files_whose_parts_do_not_match_are_refused() {
    let refused = |edit: fn(&mut [Gguf; 2]), rename: fn(&std::path::Path), expected: &str| {
        let mut parts = crate::files::gguf::split_in_two(&llama());
        edit(&mut parts);
        let dir = crate::files::gguf::write_parts(&parts);
        rename(dir.path());
        let path = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
        let message = BaseModel::open(&path).unwrap_err().to_string();
        assert!(message.contains(expected), "{expected:?} is not in: {message}");
    };
    let remove = |dir: &std::path::Path| std::fs::remove_file(dir.join("model-00002-of-00002.gguf")).unwrap();
    let rename =
        |dir: &std::path::Path| std::fs::rename(dir.join("model-00001-of-00002.gguf"), dir.join("a.gguf")).unwrap();
    refused(|_| {}, remove, "model-00002-of-00002.gguf is missing");
    refused(|_| {}, rename, "does not end with -00001-of-00002.gguf");
    refused(|parts| parts[1] = parts[1].set("split.no", u32(0)).clone(), |_| {}, "is not part 2 of 2");
    refused(|parts| drop(parts[1].tensors.pop()), |_| {}, "tensors instead of");
    refused(|parts| parts[1].tensors[0] = parts[0].tensors[0].clone(), |_| {}, "another part holds it");
    refused(|parts| parts[0] = parts[0].set("split.no", u32(9)).clone(), |_| {}, "names none of its 2 parts");
}

#[test]
fn cut_off_anywhere() {
    let bytes = llama().bytes();
    for len in (0..bytes.len() - 32).step_by(977).chain([bytes.len() - 33, bytes.len() - 300]) {
        let (_dir, path) = write(&bytes[..len]);
        assert!(BaseModel::open(&path).is_err(), "{len} of {} bytes", bytes.len());
    }
}

#[test]
fn unknown_architectures_and_keys_are_refused() {
    let cases = [
        (
            "general.architecture",
            text("gemma9"),
            "\"gemma9\" is not supported; the known ones are llama, qwen2, qwen3, gemma, gemma2, gemma3",
        ),
        ("general.type", text("adapter"), "not a model"),
        ("llama.attention.logit_cap", f32(30.0), "llama.attention.logit_cap"),
        ("llama.expert_count", u32(8), "llama.expert_count"),
        ("llama.rope.scaling.type", text("yarn"), "\"yarn\""),
        ("llama.rope.dimension_count", u32(8), "llama.rope.dimension_count"),
        ("llama.vocab_size", u32(99), "llama.vocab_size"),
        ("llama.block_count", u32(1 << 27), "llama.block_count"),
        ("llama.embedding_length", text("many"), "llama.embedding_length"),
        ("llama.attention.head_count", u32(0), "llama.attention.head_count"),
        ("llama.attention.head_count_kv", u32(3), "llama.attention.head_count_kv"),
    ];
    for (key, value, expected) in cases {
        let message = refusal(llama().set(key, value)).to_string();
        assert!(message.contains(expected), "{expected:?} is not in: {message}");
    }
    let message = refusal(llama().remove("llama.feed_forward_length")).to_string();
    assert!(message.contains("llama.feed_forward_length`: it is missing"), "{message}");
}

#[test]
fn tensors_that_are_missing_unknown_or_misshapen() {
    let open = |gguf: &Gguf| {
        let (_dir, path) = gguf.write();
        BaseModel::open(&path).unwrap_err()
    };
    let mut gguf = llama();
    gguf.tensors.retain(|tensor| tensor.name != "blk.1.ffn_up.weight");
    assert!(matches!(open(&gguf), BaseError::MissingTensor { name, .. } if name == "blk.1.ffn_up.weight"));
    let mut gguf = llama();
    gguf.tensor("blk.1.ffn_up.weight").name = "blk.1.ffn_up_exps.weight".to_owned();
    assert!(matches!(open(&gguf), BaseError::MissingTensor { .. }));
    let mut gguf = llama();
    let mut extra = gguf.tensors[0].clone();
    extra.name = "blk.0.attn_sinks.weight".to_owned();
    gguf.tensors.push(extra);
    assert!(matches!(open(&gguf), BaseError::UnknownTensor { name, .. } if name == "blk.0.attn_sinks.weight"));
    let mut gguf = llama();
    gguf.tensor("blk.0.attn_k.weight").dims.reverse();
    assert!(matches!(open(&gguf), BaseError::TensorShape { .. }));
}

#[test]
fn unsupported_rotary_factors_are_refused() {
    let mut gguf = llama();
    let mut factors = gguf.tensors[0].clone();
    factors.name = "rope_freqs.weight".to_owned();
    factors.dims = vec![8];
    factors.data = crate::files::f32_bytes(&[1.0, 1.0, 5.0, 1.0, 8.0, 8.0, 8.0, 8.0]);
    gguf.tensors.push(factors);
    let message = refusal(&gguf).to_string();
    assert!(message.contains("rope_freqs.weight") && message.contains("Llama 3"), "{message}");
}

proptest! {
    /// Random bytes after a correct magic number and version.
    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let bytes = [&b"GGUF\x03\0\0\0"[..], &bytes].concat();
        let (_dir, path) = write(&bytes);
        prop_assert!(BaseModel::open(&path).is_err());
    }

    /// A valid file with some changed bytes is opened or refused. If it is opened, it can be read.
    #[test]
    fn changed_bytes_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), header_only: bool,
    ) {
        let mut gguf = llama();
        gguf.set("tokenizer.ggml.model", text("gpt2"))
            .set("tokenizer.ggml.pre", text("gpt-2"))
            .set("tokenizer.ggml.tokens", texts(&["a", "b", "ab", "<|end|>"]))
            .set("tokenizer.ggml.merges", texts(&["a b"]))
            .set("tokenizer.ggml.scores", floats(&[0.0, -1.0, -2.0, -3.0]));
        let mut bytes = gguf.bytes();
        let len = if header_only { 3000 } else { bytes.len() };
        for (at, value) in changes {
            bytes[at.index(len)] = value;
        }
        let (_dir, path) = write(&bytes);
        if let Ok(model) = BaseModel::open(&path) {
            let _ = model.tokenizer();
            for name in model.weight_names() {
                prop_assert!(model.weight(&name).is_ok());
            }
        }
    }
}
