//! What `inspect` shows of every kind of file, of files that can't be trained, and of damaged ones.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::json;
use tonfall_adapters::inspect::{InspectError, Inspection, Kind, MetaValue, inspect};
use tonfall_adapters::{BaseModel, GgufError};

use crate::files::gguf::{Gguf, Tensor, f32, of_model, split_in_two, text, texts, u32, write, write_parts};
use crate::files::{copy_of, edit_json, fixture, safetensors, safetensors_of, take_apart};

fn shown(path: &Path) -> Inspection {
    inspect(path, false).unwrap()
}

fn refused(path: &Path) -> InspectError {
    inspect(path, false).expect_err("it must be refused")
}

fn llama() -> Gguf {
    of_model(&BaseModel::open(&fixture("families/llama_tied")).unwrap(), "llama", true)
}

fn tensor(name: &str, dims: &[u64], kind: u32, bytes: usize) -> Tensor {
    Tensor { name: name.to_owned(), dims: dims.to_vec(), kind, data: vec![0; bytes] }
}

fn adapter() -> Gguf {
    let metadata = vec![
        ("general.type".to_owned(), text("adapter")),
        ("general.architecture".to_owned(), text("llama")),
        ("adapter.type".to_owned(), text("lora")),
        ("adapter.lora.alpha".to_owned(), f32(8.0)),
        ("tonfall.recipe_sha256".to_owned(), text("abc")),
    ];
    let tensors = vec![
        tensor("blk.0.attn_q.weight.lora_a", &[8, 2], 0, 64),
        tensor("blk.0.attn_q.weight.lora_b", &[2, 8], 0, 64),
    ];
    Gguf { version: 3, metadata, tensors, counts: None }
}

#[test]
fn a_model_directory_with_its_configuration_and_its_totals() {
    let found = shown(&fixture("families/llama"));
    assert_eq!((found.kind, found.format.as_str()), (Kind::HuggingFaceModel, "safetensors"));
    assert_eq!(found.config.as_ref().unwrap()["model_type"], "llama");
    let model = BaseModel::open(&fixture("families/llama")).unwrap();
    let parameters: usize =
        model.description().tensors().iter().map(|(_, shape)| shape.dims().iter().product::<usize>()).sum();
    assert_eq!(found.parameters, Some(parameters as u64));
    assert_eq!(found.totals.len(), 1);
    assert_eq!((found.totals[0].type_name.as_str(), found.totals[0].bytes), ("BF16", 2 * parameters as u64));
    let path = fixture("families/llama/model.safetensors");
    assert_eq!(found.bytes(), fs::metadata(&path).unwrap().len());

    let file = shown(&path);
    assert_eq!((file.kind, file.config, file.tensors), (Kind::Safetensors, None, found.tensors));
}

#[test]
fn sharded_directories_are_compared_with_their_index() {
    let dir = copy_of("llama");
    let path = dir.path().join("model.safetensors");
    fs::rename(&path, dir.path().join("model-00001-of-00001.safetensors")).unwrap();
    let whole = shown(&dir.path().join("model-00001-of-00001.safetensors"));
    let index = |drop: usize| {
        let names = whole.tensors.iter().skip(drop).map(|tensor| tensor.name.clone());
        let map: serde_json::Map<_, _> = names.map(|name| (name, json!("model-00001-of-00001.safetensors"))).collect();
        fs::write(dir.path().join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
    };
    index(0);
    assert_eq!(shown(dir.path()).tensors, whole.tensors);
    assert_eq!(shown(&dir.path().join("model.safetensors.index.json")).kind, Kind::HuggingFaceModel);
    index(1);
    assert!(refused(dir.path()).to_string().contains("does not list tensor"));
    let outside = json!({ "weight_map": { "a": "../model.safetensors" } });
    fs::write(dir.path().join("model.safetensors.index.json"), outside.to_string()).unwrap();
    assert!(refused(dir.path()).to_string().contains("no plain file name"));
}

#[test]
fn four_bit_weights_count_twice_and_their_scales_not_at_all() {
    let found = shown(&fixture("bitsandbytes"));
    let model = BaseModel::open(&fixture("bitsandbytes")).unwrap();
    let parameters: usize =
        model.description().tensors().iter().map(|(_, shape)| shape.dims().iter().product::<usize>()).sum();
    assert_eq!(found.parameters, Some(parameters as u64));
    let bytes = safetensors_of(&[("a.qweight".to_owned(), "I32", vec![2, 2], vec![0; 16])]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gptq.safetensors");
    fs::write(&path, bytes).unwrap();
    assert_eq!(shown(&path).parameters, None, "how many weights are in an integer is not known");
}

#[test]
fn dtypes_that_are_not_read_are_shown() {
    let header = json!({ "a": { "dtype": "F8_E8M0", "shape": [3], "data_offsets": [0, 3] } });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("scales");
    fs::write(&path, safetensors(&header, &[0; 3])).unwrap();
    let found = shown(&path);
    assert_eq!((found.tensors[0].type_name.as_str(), found.tensors[0].bytes), ("F8_E8M0", Some(3)));
    let huge = json!({ "a": { "dtype": "F4", "shape": [usize::MAX, usize::MAX], "data_offsets": [0, 3] } });
    fs::write(&path, safetensors(&huge, &[0; 3])).unwrap();
    assert_eq!(shown(&path).tensors[0].elements(), u64::MAX);
}

#[test]
fn an_adapter_directory_with_lineage() {
    let dir = tempfile::tempdir().unwrap();
    let (mut header, data) = take_apart(&safetensors_of(&[("a".to_owned(), "F32", vec![2, 3], vec![0; 24])]));
    header["__metadata__"] = json!({ "format": "pt", "tonfall.version": "0.1.0" });
    fs::write(dir.path().join("adapter_model.safetensors"), safetensors(&header, &data)).unwrap();
    // A configuration that tonfall does not train from is shown as well.
    fs::write(dir.path().join("adapter_config.json"), r#"{"peft_type": "LOHA", "r": 8}"#).unwrap();
    let found = shown(dir.path());
    assert_eq!((found.kind, found.parameters), (Kind::PeftAdapter, Some(6)));
    assert_eq!(found.config.as_ref().unwrap()["peft_type"], "LOHA");
    assert_eq!(found.lineage["tonfall.version"], MetaValue::Text("0.1.0".to_owned()));
    assert_eq!(found.metadata.keys().collect::<Vec<_>>(), ["format"]);
    fs::write(dir.path().join("adapter_config.json"), "[1]").unwrap();
    assert!(matches!(refused(dir.path()), InspectError::Config { .. }));
}

#[test]
fn a_gguf_model_also_of_an_unknown_architecture_and_with_unknown_types() {
    let mut gguf = llama();
    gguf.set("general.architecture", text("mamba")).set("tokenizer.ggml.tokens", texts(&["a"; 20]));
    gguf.tensors.push(tensor("iq", &[256, 2], 23, 272));
    gguf.tensors.push(tensor("new", &[7], 77, 5));
    let (_dir, path) = gguf.write();
    assert!(BaseModel::open(&path).is_err());
    let found = shown(&path);
    assert_eq!((found.kind, found.format.as_str()), (Kind::GgufModel, "GGUF 3"));
    let by_name = |name: &str| found.tensors.iter().find(|tensor| tensor.name == name).unwrap();
    assert_eq!((by_name("iq").type_name.as_str(), by_name("iq").bytes), ("IQ4_XS", Some(272)));
    assert_eq!((by_name("iq").shape.as_slice(), by_name("iq").elements()), (&[2, 256][..], 512));
    assert_eq!((by_name("new").type_name.as_str(), by_name("new").bytes), ("number 77", None));
    let MetaValue::Array { count, first } = &found.metadata["tokenizer.ggml.tokens"] else { panic!() };
    assert_eq!((*count, first.len()), (20, 8));
    assert_eq!(found.metadata["llama.attention.layer_norm_rms_epsilon"], MetaValue::Float(1e-5));
}

#[test]
fn the_bytes_of_every_known_type_are_those_of_the_gguf_package() {
    // gguf 0.19.0, GGML_QUANT_SIZES: number, elements, bytes. Q8_1 differs there from ggml's block, so it is left out.
    let sizes = [
        (0, 1, 4),
        (1, 1, 2),
        (2, 32, 18),
        (3, 32, 20),
        (6, 32, 22),
        (7, 32, 24),
        (8, 32, 34),
        (10, 256, 84),
        (11, 256, 110),
        (12, 256, 144),
        (13, 256, 176),
        (14, 256, 210),
        (15, 256, 292),
        (16, 256, 66),
        (17, 256, 74),
        (18, 256, 98),
        (19, 256, 50),
        (20, 32, 18),
        (21, 256, 110),
        (22, 256, 82),
        (23, 256, 136),
        (24, 1, 1),
        (25, 1, 2),
        (26, 1, 4),
        (27, 1, 8),
        (28, 1, 8),
        (29, 256, 56),
        (30, 1, 2),
        (34, 256, 54),
        (35, 256, 66),
        (39, 32, 17),
        (40, 64, 36),
        (41, 128, 18),
    ];
    for (kind, elements, bytes) in sizes {
        let tensors = vec![tensor("t", &[elements, 3], kind, 3 * bytes)];
        let (_dir, path) = Gguf { version: 3, metadata: Vec::new(), tensors, counts: None }.write();
        assert_eq!(shown(&path).tensors[0].bytes, Some(3 * bytes as u64), "type {kind}");
    }
}

#[test]
fn split_models_are_shown_whole_from_any_part_and_from_their_folder() {
    let whole = {
        let (_dir, path) = llama().write();
        shown(&path)
    };
    let dir = write_parts(&split_in_two(&llama()));
    for path in [dir.path().join("model-00002-of-00002.gguf"), dir.path().to_owned()] {
        let found = shown(&path);
        assert_eq!((found.files.len(), found.parameters), (2, whole.parameters));
        assert_eq!(found.tensors.iter().map(|tensor| tensor.file).max(), Some(1));
        assert!(found.metadata.contains_key("llama.block_count"));
    }
}

#[test]
fn gguf_adapters_and_importance_matrices_are_told_from_models() {
    let (_dir, path) = adapter().write();
    let found = shown(&path);
    assert_eq!((found.kind, found.parameters), (Kind::GgufAdapter, Some(32)));
    assert_eq!(found.metadata["adapter.lora.alpha"], MetaValue::Float(8.0));
    assert_eq!(found.lineage["tonfall.recipe_sha256"], MetaValue::Text("abc".to_owned()));

    let metadata = vec![
        ("general.type".to_owned(), text("imatrix")),
        ("imatrix.chunk_count".to_owned(), u32(4)),
        ("imatrix.datasets".to_owned(), texts(&["held-out.txt"])),
    ];
    let tensors = vec![
        tensor("blk.0.attn_q.weight.in_sum2", &[8, 1], 0, 32),
        tensor("blk.0.attn_q.weight.counts", &[1, 1], 0, 4),
    ];
    let (_dir, path) = Gguf { version: 3, metadata, tensors, counts: None }.write();
    assert_eq!((shown(&path).kind, shown(&path).parameters), (Kind::GgufImatrix, None));

    let mut other = adapter();
    other.set("general.type", text("mmproj"));
    let (_dir, path) = other.write();
    assert_eq!(shown(&path).kind, Kind::GgufOther);
}

/// An older importance matrix with one entry of three values.
fn imatrix_dat(trailer: bool) -> Vec<u8> {
    let number = |value: i32| value.to_le_bytes().to_vec();
    let name = b"blk.0.attn_q.weight";
    let mut bytes = [number(1), number(name.len() as i32), name.to_vec(), number(5), number(3)].concat();
    bytes.extend([0; 12]);
    if trailer {
        bytes.extend([number(7), number(4), b"a.tx".to_vec()].concat());
    }
    bytes
}

#[test]
fn older_importance_matrices() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("imatrix.dat");
    for trailer in [false, true] {
        fs::write(&path, imatrix_dat(trailer)).unwrap();
        let found = shown(&path);
        assert_eq!((found.kind, found.tensors[0].shape.as_slice()), (Kind::ImatrixDat, &[3][..]));
        assert_eq!(found.metadata.len(), if trailer { 2 } else { 0 });
    }
    let whole = imatrix_dat(true);
    for len in 0..whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        // The file may end after the entries, and after the number of chunks.
        let complete = [imatrix_dat(false).len(), imatrix_dat(false).len() + 4];
        assert_eq!(inspect(&path, false).is_ok(), complete.contains(&len), "{len}");
    }
    fs::write(&path, i32::MAX.to_le_bytes()).unwrap();
    assert!(refused(&path).to_string().contains("2147483647 entries are announced, but at most 0 fit"));
}

#[test]
fn hashes_on_demand() {
    let (_dir, path) = write(&adapter().bytes());
    assert_eq!(shown(&path).files[0].sha256, None);
    let found = inspect(&path, true).unwrap();
    assert_eq!(found.files[0].sha256.as_deref(), Some(tonfall_durable::FileRecord::of(&path).unwrap().sha256.as_str()));
}

#[test]
fn json_has_numbers_texts_and_shortened_arrays() {
    let mut gguf = adapter();
    gguf.set("x.texts", texts(&["a"; 9])).set("x.nan", f32(f32::NAN));
    let (_dir, path) = gguf.write();
    let value = serde_json::to_value(shown(&path)).unwrap();
    assert_eq!(value["kind"], "gguf-adapter");
    assert_eq!(value["metadata"]["x.texts"], json!({ "count": 9, "first": vec!["a"; 8] }));
    assert_eq!(value["metadata"]["x.nan"], "NaN");
    assert_eq!(value["tensors"][0]["type"], "F32");
    assert_eq!(value["totals"], json!([{ "type": "F32", "tensors": 2, "elements": 32, "bytes": 128 }]));
}

#[test]
fn nothing_known_pickles_and_several_models_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(refused(dir.path()), InspectError::UnknownDirectory { .. }));
    assert!(matches!(refused(&dir.path().join("absent")), InspectError::Io { .. }));
    let file = dir.path().join("notes.txt");
    fs::write(&file, "hello, world").unwrap();
    assert!(matches!(refused(&file), InspectError::UnknownFile { .. }));
    fs::write(&file, "").unwrap();
    assert!(matches!(refused(&file), InspectError::UnknownFile { .. }));
    fs::write(dir.path().join("pytorch_model.bin"), "x").unwrap();
    assert!(refused(dir.path()).to_string().contains("save_pretrained"));
    assert!(refused(&dir.path().join("pytorch_model.bin")).to_string().contains("save_pretrained"));
    for name in ["a.gguf", "b.gguf"] {
        fs::write(dir.path().join(name), adapter().bytes()).unwrap();
    }
    assert!(matches!(refused(dir.path()), InspectError::SeveralModels { count: 2, .. }));
}

#[test]
fn damaged_gguf_files_are_refused() {
    let mut twice = adapter();
    twice.tensors[1].name = twice.tensors[0].name.clone();
    let (_dir, path) = twice.write();
    assert!(refused(&path).to_string().contains("listed twice"));
    for kind in [0, 23] {
        let mut cut = adapter();
        cut.tensors[1] = tensor("last", &[1 << 20], kind, 64);
        let (_dir, path) = cut.write();
        assert!(refused(&path).to_string().contains("leave the file"), "type {kind}");
    }
    let mut misfit = adapter();
    misfit.tensors[1] = tensor("odd", &[100], 23, 64);
    let (_dir, path) = misfit.write();
    assert!(refused(&path).to_string().contains("can't be stored as IQ4_XS"));
    let (_dir, path) = write(b"GGUF");
    assert!(matches!(refused(&path), InspectError::Gguf(GgufError::Damaged { .. })));
    let (_dir, path) = write(b"no GGUF");
    assert!(matches!(refused(&path), InspectError::Gguf(GgufError::Magic { .. })));
}

#[test]
fn a_configuration_that_is_no_object_is_refused() {
    let dir = copy_of("llama");
    edit_json(dir.path(), "config.json", |config| config.insert("unknown_key".to_owned(), json!(1)).map_or((), drop));
    assert_eq!(shown(dir.path()).config.unwrap()["unknown_key"], 1);
    fs::write(dir.path().join("config.json"), "{").unwrap();
    assert!(matches!(refused(dir.path()), InspectError::Config { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Any byte of a file changed: an answer or an error, never a panic.
    #[test]
    fn changed_bytes_never_panic(at in 0usize..4096, value: u8, cut in 0usize..4096, kind in 0usize..3) {
        let (name, mut bytes) = match kind {
            0 => ("a.gguf", adapter().bytes()),
            1 => ("a.dat", imatrix_dat(true)),
            _ => ("a.safetensors", safetensors_of(&[("a".to_owned(), "F32", vec![2, 3], vec![0; 24])])),
        };
        let (at, cut) = (at % bytes.len(), cut % bytes.len());
        bytes[at] = value;
        bytes.truncate(bytes.len() - cut / 8);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        if let Ok(found) = inspect(&path, false) {
            prop_assert!(serde_json::to_string(&found).is_ok());
        }
    }
}
