//! Compares importance matrices with sums that transformers and PEFT computed (`tests/reference/make_importance.py`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use safetensors::SafeTensors;
use tonfall_adapters::BaseModel;
use tonfall_adapters::export::Importance;
use tonfall_adapters::peft::{Adapter, AdapterConfig, AdapterTensor};
use tonfall_recipes::plan::Quantization;
use tonfall_trainer::{Compute, Session, TrainError};

fn folder(family: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/families").join(family)
}

/// Names, shapes and values of a fixture file.
struct Fixture {
    bytes: Vec<u8>,
}

impl Fixture {
    fn read(family: &str, name: &str) -> Self {
        Self { bytes: std::fs::read(folder(family).join(name)).expect("a fixture") }
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("safetensors")
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        let wide: Vec<i64> = bytemuck::pod_collect_to_vec(self.file().tensor(name).expect("a tensor").data());
        wide.into_iter().map(|id| u32::try_from(id).expect("a token id")).collect()
    }

    /// The F32 tensors whose names begin with `prefix`, without the prefix.
    fn floats(&self, prefix: &str) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
        let file = self.file();
        let names = file.names().into_iter().filter_map(|name| Some((name, name.strip_prefix(prefix)?)));
        let read = |name: &str| {
            let tensor = file.tensor(name).expect("a tensor");
            (tensor.shape().to_vec(), bytemuck::pod_collect_to_vec(tensor.data()))
        };
        names.map(|(name, short)| (short.to_owned(), read(name))).collect()
    }
}

/// The LoRA matrices of a fixture: r 4, alpha 8.
fn adapter(expected: &Fixture) -> Adapter {
    let matrices = expected.floats("lora.").into_iter().filter(|(name, _)| name.ends_with(".weight"));
    let tensors =
        matrices.map(|(name, (shape, values))| AdapterTensor { name, shape: [shape[0], shape[1]], values }).collect();
    let modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    let config = AdapterConfig {
        base_model_name_or_path: Some("tiny".to_owned()),
        revision: None,
        r: 4,
        lora_alpha: 8.0,
        lora_dropout: 0.0,
        target_modules: modules.map(str::to_owned).to_vec(),
        use_rslora: false,
    };
    Adapter { config, tensors }
}

fn session(family: &str) -> (Session, Fixture) {
    let choice = std::env::var("TONFALL_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    let compute = Compute::open(choice.parse().expect("a device"), 0).expect("the device").in_f32();
    let base = BaseModel::open(&folder(family)).expect("a base model");
    let expected = Fixture::read(family, "expected.safetensors");
    let mut session = Session::load(&base, Quantization::None, &compute, &mut |_, _| ()).expect("loads");
    session.attach(&adapter(&expected)).expect("attaches");
    (session, expected)
}

fn importance(session: &Session, sequences: &[Vec<u32>], with_adapter: bool) -> Importance {
    session.importance(sequences, with_adapter, &mut |_, _| ()).expect("an importance matrix")
}

/// The largest difference of two lists of sums, relative to the largest sum.
fn difference(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().copied().fold(0.0, f32::max);
    ours.iter().zip(theirs).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f32::max) / largest
}

#[test]
fn sums_equal_those_of_transformers_and_peft() {
    for family in ["llama_tied", "qwen3", "gemma3"] {
        let (session, expected) = session(family);
        let texts = [expected.ids("text0.input_ids"), expected.ids("text1.input_ids")];
        let tokens = texts.iter().map(Vec::len).sum::<usize>() as u64;
        let reference = Fixture::read(family, "importance.safetensors");
        for (prefix, with_adapter) in [("base.", false), ("adapter.", true)] {
            let ours = importance(&session, &texts, with_adapter);
            let theirs = reference.floats(prefix);
            assert_eq!(ours.weights.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{family}");
            for (weight, (sums, count)) in &ours.weights {
                let difference = difference(sums, &theirs[weight].1);
                assert!(difference <= 1e-5, "{family} {prefix}{weight}: {difference}");
                assert_eq!(*count, tokens);
            }
        }
    }
}

#[test]
fn layers_with_the_same_input_have_the_same_sums() {
    let (session, expected) = session("llama_tied");
    let found = importance(&session, &[expected.ids("text1.input_ids")], true);
    let of = |module: &str| &found.weights[&format!("model.layers.1.{module}.weight")];
    assert_eq!(of("self_attn.q_proj"), of("self_attn.k_proj"));
    assert_eq!(of("self_attn.q_proj"), of("self_attn.v_proj"));
    assert_eq!(of("mlp.gate_proj"), of("mlp.up_proj"));
    assert_ne!(of("self_attn.q_proj"), of("self_attn.o_proj"));
    assert_ne!(of("self_attn.q_proj"), of("mlp.gate_proj"));
}

/// Sequences don't attend to each other, and each position starts at 0, alone or together with others in a pass.
#[test]
fn sums_of_sequences_add_up() {
    let (session, expected) = session("qwen3");
    let text = expected.ids("text1.input_ids");
    // More tokens than one pass has.
    let sequences: Vec<Vec<u32>> = (0..90).map(|index| text[..text.len() - index % 5].to_vec()).collect();
    let together = importance(&session, &sequences, true);
    let mut added: BTreeMap<String, (Vec<f32>, u64)> = BTreeMap::new();
    for sequence in &sequences {
        for (weight, (sums, tokens)) in importance(&session, std::slice::from_ref(sequence), true).weights {
            let entry = added.entry(weight).or_insert_with(|| (vec![0.0; sums.len()], 0));
            entry.0.iter_mut().zip(sums).for_each(|(sum, more)| *sum += more);
            entry.1 += tokens;
        }
    }
    for (weight, (sums, tokens)) in &together.weights {
        let (expected, count) = &added[weight];
        assert_eq!(tokens, count);
        assert!(difference(sums, expected) <= 1e-5, "{weight}");
    }
}

#[test]
fn texts_that_nothing_can_be_measured_on_are_refused() {
    let (session, _) = session("llama_tied");
    let refused = |sequences: &[Vec<u32>]| session.importance(sequences, true, &mut |_, _| ()).expect_err("refused");
    assert!(matches!(refused(&[]), TrainError::NothingToCalibrateOn));
    assert!(matches!(refused(&[Vec::new()]), TrainError::NothingToCalibrateOn));
    assert!(matches!(refused(&[vec![3], vec![3; 129]]), TrainError::Context { tokens: 129, context: 128 }));
}
