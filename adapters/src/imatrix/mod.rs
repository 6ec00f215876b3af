//! llama.cpp's importance matrices: files with the squared inputs of each linear weight.
//!
//! Responsible for: reading and writing them, and the names of weights in them.
//! Must not depend on: how inputs are collected, the quantisation that uses them.
//!
//! Source: llama.cpp, `common/imatrix-loader.cpp` and `tools/imatrix`. A GGUF file with `general.type = "imatrix"` has two F32
//! tensors per weight: `NAME.in_sum2`, the sum over tokens of x² for each input feature, and `NAME.counts`, the number of
//! tokens. `legacy.rs` reads the format before GGUF.

pub(crate) mod legacy;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tonfall_blocks::{Format, dequantize};
use tonfall_durable::DurableError;

use crate::description::{ModelDescription, Shape};
use crate::export::Importance;
use crate::gguf::{GgufError, GgufFile, Metadata, MetadataValue, PlannedGguf, PlannedGgufTensor, Value};
use crate::mapped_file::MappedFile;
use crate::names;
use crate::regular_file::OpenError;

const TYPE: &str = "general.type";
const KIND: &str = "imatrix";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
/// Tokens of a chunk: llama.cpp's default. Only programs that merge files use it.
const CHUNK: u32 = 512;
/// Maximum number of tokens of an entry. No calibration has as many.
const MAX_TOKENS: f32 = 1e15;

/// Faults of an importance matrix.
#[derive(Debug, Error)]
pub enum ImatrixError {
    #[error(transparent)]
    Open(#[from] OpenError),

    #[error(transparent)]
    Gguf(#[from] GgufError),

    #[error(
        "{}: not an importance matrix of llama.cpp: at offset {offset}: {reason}; write one with `llama-imatrix`, or with \
         `tonfall export --calibrate`",
        path.display()
    )]
    Damaged { path: PathBuf, offset: usize, reason: String },

    #[error("{}: `{name}`: {reason}; write the importance matrix again", path.display())]
    Entry { path: PathBuf, name: String, reason: String },

    #[error("{}: `{name}`: {reason}; the importance matrix was made for another model", path.display())]
    OtherModel { path: PathBuf, name: String, reason: String },

    #[error("{}: the importance matrix has no entries; write it again", path.display())]
    Empty { path: PathBuf },
}

/// One weight in a file, by its GGUF name.
struct Entry {
    name: String,
    sums: Vec<f32>,
    tokens: f32,
}

impl Importance {
    /// Reads a GGUF importance matrix of `model`, or one in llama.cpp's older format. Entries without tokens are left out:
    /// they say nothing about their weight.
    ///
    /// # Errors
    /// One variant of [`ImatrixError`] for each possible fault. An entry that isn't a matrix of `model`, or has another
    /// number of input features, is a fault.
    pub fn read(path: &Path, model: &ModelDescription) -> Result<Self, ImatrixError> {
        let (entries, datasets) = match MappedFile::open(path)? {
            file if file.starts_with(b"GGUF") => gguf_entries(path)?,
            file => legacy::read(path, &file)?,
        };
        if entries.is_empty() {
            return Err(ImatrixError::Empty { path: path.to_owned() });
        }
        let matrices = matrices(model);
        let mut weights = BTreeMap::new();
        for Entry { name, sums, tokens } in entries {
            let fault = |reason: String| ImatrixError::Entry { path: path.to_owned(), name: name.clone(), reason };
            let other = |reason: String| ImatrixError::OtherModel { path: path.to_owned(), name: name.clone(), reason };
            let Some((weight, cols)) = matrices.get(&name) else {
                return Err(other("the model has no such matrix".to_owned()));
            };
            if sums.len() != *cols {
                return Err(other(format!("{} input features instead of {cols}", sums.len())));
            }
            if let Some(sum) = sums.iter().find(|sum| !sum.is_finite() || **sum < 0.0) {
                return Err(fault(format!("{sum} is no sum of squares")));
            }
            if !(0.0..=MAX_TOKENS).contains(&tokens) {
                return Err(fault(format!("{tokens} is no number of tokens")));
            }
            if tokens >= 1.0 && weights.insert(weight.clone(), (sums, tokens.round() as u64)).is_some() {
                return Err(fault("it is listed twice".to_owned()));
            }
        }
        if weights.is_empty() {
            return Err(ImatrixError::Empty { path: path.to_owned() });
        }
        Ok(Self { weights, datasets })
    }

    /// Writes a GGUF file that llama.cpp reads, durably.
    ///
    /// # Errors
    /// If writing fails. No file is left then.
    pub fn write(&self, path: &Path, model: &ModelDescription) -> Result<(), DurableError> {
        let named = |weight: &String| names::to_gguf(weight, model.output_norms);
        let entries: BTreeMap<String, &(Vec<f32>, u64)> =
            self.weights.iter().map(|(weight, entry)| (named(weight), entry)).collect();
        let (mut tensors, mut contents) = (Vec::new(), Vec::new());
        for (name, (sums, tokens)) in entries {
            for (suffix, values) in [(SUMS, sums.clone()), (COUNTS, vec![*tokens as f32])] {
                let (name, shape) = (format!("{name}{suffix}"), vec![values.len()]);
                tensors.push(PlannedGgufTensor { name, format: Format::F32, shape });
                contents.push(values);
            }
        }
        PlannedGguf { metadata: self.metadata(), tensors }.write(path, |index, sink| {
            let bytes: Vec<u8> = contents[index].iter().flat_map(|value| value.to_le_bytes()).collect();
            sink(&bytes)
        })
    }

    /// Number of chunks of 512 tokens, as llama.cpp counts them.
    pub(crate) fn chunks(&self) -> u32 {
        let tokens = self.weights.values().map(|(_, tokens)| *tokens).max().unwrap_or(0);
        u32::try_from(tokens / u64::from(CHUNK)).unwrap_or(u32::MAX).max(1)
    }

    fn metadata(&self) -> Metadata {
        let keys = [
            (TYPE, MetadataValue::String(KIND.to_owned())),
            (DATASETS, MetadataValue::Strings(self.datasets.clone())),
            (CHUNK_COUNT, MetadataValue::U32(self.chunks())),
            (CHUNK_SIZE, MetadataValue::U32(CHUNK)),
        ];
        keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// The matrices of a model: Hugging Face name and number of input features, by GGUF name.
fn matrices(model: &ModelDescription) -> BTreeMap<String, (String, usize)> {
    let tensors = model.tensors().into_iter();
    let matrices = tensors.filter_map(|(name, shape)| match shape {
        Shape::Matrix(_, cols) => Some((names::to_gguf(&name, model.output_norms), (name, cols))),
        Shape::Vector(_) => None,
    });
    matrices.collect()
}

fn gguf_entries(path: &Path) -> Result<(Vec<Entry>, Vec<String>), ImatrixError> {
    let file = GgufFile::open(path, |path, metadata| match metadata.get(TYPE).and_then(Value::as_str) {
        Some(KIND) => Ok(()),
        found => Err(GgufError::Metadata {
            path: path.to_owned(),
            key: TYPE.to_owned(),
            reason: match found {
                Some(found) => format!("it is \"{found}\", where an importance matrix has \"{KIND}\""),
                None => format!("it is missing, where an importance matrix has \"{KIND}\""),
            },
        }),
    })?;
    let fault =
        |name: &str, reason: String| ImatrixError::Entry { path: path.to_owned(), name: name.to_owned(), reason };
    let mut entries = Vec::new();
    for name in file.tensors.keys() {
        if let Some(weight) = name.strip_suffix(COUNTS) {
            if !file.tensors.contains_key(&format!("{weight}{SUMS}")) {
                return Err(fault(weight, format!("it has counts, but no tensor `{weight}{SUMS}`")));
            }
            continue;
        }
        let Some(weight) = name.strip_suffix(SUMS) else {
            return Err(fault(name, format!("only names that end in {SUMS} or {COUNTS} are known")));
        };
        let counts_name = format!("{weight}{COUNTS}");
        if !file.tensors.contains_key(&counts_name) {
            return Err(fault(weight, format!("it has sums, but no tensor `{counts_name}`")));
        }
        let [sums, counts] = [name, &counts_name].map(|name| floats(&file, name));
        let (Some(sums), Some(counts)) = (sums, counts) else {
            return Err(fault(weight, "its sums and counts must be F32".to_owned()));
        };
        let [tokens] = *counts else {
            return Err(fault(
                weight,
                format!("it has {} counts; models with experts are not supported", counts.len()),
            ));
        };
        entries.push(Entry { name: weight.to_owned(), sums, tokens });
    }
    let datasets = file.metadata.get(DATASETS).and_then(Value::as_array);
    let datasets = datasets.and_then(|datasets| datasets.strings(&file.parts[0])).unwrap_or_default();
    Ok((entries, datasets.into_iter().map(str::to_owned).collect()))
}

/// The values of an F32 tensor.
fn floats(file: &GgufFile, name: &str) -> Option<Vec<f32>> {
    let tensor = file.tensors.get(name).filter(|tensor| tensor.format == Format::F32)?;
    let bytes = file.bytes(tensor);
    let mut values = vec![0.0; bytes.len() / size_of::<f32>()];
    dequantize(Format::F32, bytes, 1, values.len(), 0, &mut values);
    Some(values)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::description::{Family, Sizes};

    pub(super) fn model() -> ModelDescription {
        let sizes = Sizes {
            vocab_size: 8,
            hidden_size: 4,
            intermediate_size: 6,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 2,
        };
        ModelDescription { tie_word_embeddings: true, ..ModelDescription::plain(Family::Llama, sizes) }
    }

    fn importance() -> Importance {
        let weights = [
            ("model.layers.1.mlp.down_proj.weight", vec![1.0, 2.5, 0.0, 3.0, 1e-20, 7.0]),
            ("model.layers.0.self_attn.q_proj.weight", vec![1.0, 2.0, 3.0, 4.0]),
            ("model.embed_tokens.weight", vec![0.5; 4]),
        ];
        let weights = weights.map(|(name, sums)| (name.to_owned(), (sums, 1234))).into();
        Importance { weights, datasets: vec!["eval.jsonl".to_owned()] }
    }

    fn written(dir: &Path, importance: &Importance) -> PathBuf {
        let path = dir.join("imatrix.gguf");
        importance.write(&path, &model()).expect("written");
        path
    }

    #[test]
    fn a_written_matrix_is_read_back_and_has_the_names_of_llama_cpp() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = written(dir.path(), &importance());
        assert_eq!(Importance::read(&path, &model()).expect("read"), importance());
        let file = GgufFile::open(&path, |_, _| Ok(())).expect("GGUF");
        let names: Vec<&String> = file.tensors.keys().collect();
        assert_eq!(
            names,
            [
                "blk.0.attn_q.weight.counts",
                "blk.0.attn_q.weight.in_sum2",
                "blk.1.ffn_down.weight.counts",
                "blk.1.ffn_down.weight.in_sum2",
                "token_embd.weight.counts",
                "token_embd.weight.in_sum2",
            ]
        );
        assert_eq!(file.metadata[CHUNK_COUNT], Value::Unsigned(2));
    }

    #[test]
    fn matrices_of_another_model_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let refused = |change: &dyn Fn(&mut Importance), reason: &str| {
            let mut importance = importance();
            change(&mut importance);
            let path = written(dir.path(), &importance);
            let error = Importance::read(&path, &model()).expect_err(reason).to_string();
            assert!(error.contains(reason) && error.contains("imatrix.gguf"), "{reason} is not in {error}");
        };
        let add = |name: &'static str, sums: Vec<f32>, tokens: u64| {
            move |importance: &mut Importance| drop(importance.weights.insert(name.to_owned(), (sums.clone(), tokens)))
        };
        refused(
            &add("model.layers.2.mlp.up_proj.weight", vec![1.0; 4], 1),
            "`blk.2.ffn_up.weight`: the model has no such",
        );
        refused(&add("model.norm.weight", vec![1.0; 4], 1), "`output_norm.weight`: the model has no such matrix");
        refused(&add("model.layers.0.mlp.up_proj.weight", vec![1.0; 5], 1), "5 input features instead of 4");
        refused(&add("model.layers.0.mlp.up_proj.weight", vec![f32::NAN; 4], 1), "NaN is no sum of squares");
        refused(&add("model.layers.0.mlp.up_proj.weight", vec![-1.0; 4], 1), "-1 is no sum of squares");
        refused(&|importance| importance.weights.clear(), "no entries");
        refused(&|importance| importance.weights.values_mut().for_each(|(_, tokens)| *tokens = 0), "no entries");
    }

    #[test]
    fn a_model_is_no_importance_matrix() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("model.gguf");
        for (kind, reason) in [(Some("model"), "it is \"model\""), (None, "it is missing")] {
            let kind = kind.map(|kind| (TYPE.to_owned(), MetadataValue::String(kind.to_owned())));
            let plan = PlannedGguf { metadata: kind.into_iter().collect(), tensors: Vec::new() };
            plan.write(&path, |_, _| Ok::<(), DurableError>(())).expect("written");
            let error = Importance::read(&path, &model()).expect_err(reason).to_string();
            assert!(error.contains(reason) && error.contains(TYPE), "{error}");
        }
    }

    #[test]
    fn sums_and_counts_belong_together() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("imatrix.gguf");
        let refused = |tensors: &[(&str, Format, usize)], reason: &str| {
            let tensors = tensors.iter().map(|(name, format, len)| PlannedGgufTensor {
                name: (*name).to_owned(),
                format: *format,
                shape: vec![*len],
            });
            let plan = PlannedGguf { metadata: Importance::default().metadata(), tensors: tensors.collect() };
            let bytes = |index: usize| vec![0; plan.tensors[index].bytes().expect("a size") as usize];
            plan.write(&path, |index, sink| sink(&bytes(index))).expect("written");
            let error = Importance::read(&path, &model()).expect_err(reason).to_string();
            assert!(error.contains(reason), "{reason} is not in {error}");
        };
        let (sums, counts) = ("blk.0.attn_q.weight.in_sum2", "blk.0.attn_q.weight.counts");
        refused(&[(sums, Format::F32, 4)], "it has sums, but no tensor `blk.0.attn_q.weight.counts`");
        refused(&[(counts, Format::F32, 1)], "it has counts, but no tensor `blk.0.attn_q.weight.in_sum2`");
        refused(&[(sums, Format::F16, 4), (counts, Format::F32, 1)], "must be F32");
        refused(&[(sums, Format::F32, 4), (counts, Format::F32, 2)], "experts");
        refused(&[("blk.0.attn_q.weight", Format::F32, 4)], "only names that end in");
        refused(&[], "no entries");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Damaged files are read or refused, without a panic.
        #[test]
        fn damaged_files_are_no_panic(cut in any::<prop::sample::Index>(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
            let dir = tempfile::tempdir().expect("a directory");
            let path = written(dir.path(), &importance());
            let mut bytes = std::fs::read(&path).expect("bytes");
            for (place, byte) in flips {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            tonfall_durable::write_file(&path, &bytes).expect("written");
            if let Ok(read) = Importance::read(&path, &model()) {
                prop_assert!(read.weights.values().all(|(sums, tokens)| *tokens > 0 && sums.iter().all(|sum| sum.is_finite())));
            }
        }
    }
}
