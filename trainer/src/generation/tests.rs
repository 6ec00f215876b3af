//! Both engines on the family fixtures: answers together and alone, and logits of the training operations.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tonfall_adapters::BaseModel;
use tonfall_recipes::plan::{LoraPlan, Quantization, TargetModules};

use super::host_engine::HostEngine;
use super::scheduler::{self, Engine, Next, Task, Watch};
use super::tensor_engine::TensorEngine;
use super::{Answer, Lengths, MAX_SLOTS, Sampling, Work};
use crate::device::Compute;
use crate::error::TrainError;
use crate::lora::{self, values};
use crate::model::{Decoder, LoadOptions, Loader};

const FAMILIES: [&str; 8] = ["llama", "llama_tied", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// A fixture with a random adapter on all layers.
fn decoder(path: &Path, quantization: Quantization) -> Decoder {
    let base = BaseModel::open(path).expect("a base model");
    let options = LoadOptions { quantization, trainable: false };
    let compute = Compute::cpu();
    let mut model = Loader { base: &base, options, compute: &compute, progress: &mut |_, _| () }.load().expect("loads");
    let target_modules = TargetModules::AllLinear;
    let plan = LoraPlan { rank: 3, alpha: 6.0, dropout: 0.0, use_rslora: false, target_modules, init: None };
    lora::attach_new(&mut model, &plan, 1, &compute.device).expect("an adapter");
    // A new adapter's B is zero, so that it would change nothing.
    for (number, param) in model.params.iter_mut().enumerate() {
        let [rows, columns] = param.value.dims();
        let value = |i: usize| ((i * 7 + number) % 11) as f32 / 30.0 - 0.16;
        let values: Vec<f32> = (0..rows * columns).map(value).collect();
        param.set(burn::tensor::Tensor::<1>::from_floats(&values[..], &compute.device).reshape([rows, columns]));
    }
    model
}

/// A fixture whose context is longer than that of its file.
fn long_family(name: &str, quantization: Quantization) -> Decoder {
    let (folder, copy) = (fixtures().join("families").join(name), tempfile::tempdir().expect("a folder"));
    for file in ["model.safetensors", "tokenizer.json"] {
        if folder.join(file).exists() {
            std::fs::copy(folder.join(file), copy.path().join(file)).expect("a copy");
        }
    }
    let config = std::fs::read_to_string(folder.join("config.json")).expect("a configuration");
    let longer = config.replace("\"max_position_embeddings\": 128", "\"max_position_embeddings\": 800");
    assert_ne!(longer, config);
    std::fs::write(copy.path().join("config.json"), longer).expect("a configuration");
    decoder(copy.path(), quantization)
}

fn family(name: &str, quantization: Quantization) -> Decoder {
    decoder(&fixtures().join("families").join(name), quantization)
}

/// Every family dense and in NF4, and GGUF blocks.
fn models() -> impl Iterator<Item = (String, Decoder)> {
    let families = FAMILIES.into_iter().flat_map(|name| {
        [Quantization::None, Quantization::Nf4].map(|kind| (format!("{name} {kind:?}"), family(name, kind)))
    });
    let gguf = decoder(&fixtures().join("gguf/model.gguf"), Quantization::Native);
    families.chain(std::iter::once(("gguf".to_owned(), gguf)))
}

fn prompt(model: &Decoder, seed: usize, length: usize) -> Vec<u32> {
    let vocabulary = model.description.vocab_size;
    (0..length).map(|i| ((i * 31 + seed * 17 + i * i * 3) % vocabulary) as u32).collect()
}

const LENGTHS: Lengths = Lengths { prompts: 3, longest: 100, capacity: 100 };

#[derive(Clone, Copy, Debug)]
enum Kind {
    Host,
    Tensors,
}

fn answers(model: &Decoder, kind: Kind, slots: usize, prompts: &[Vec<u32>], sampling: &Sampling) -> Vec<Answer> {
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let context = model.description.max_position_embeddings;
    let task = Task { prompts: &prompts, stop_ids: &[1, 2], sampling, context };
    let lengths = task.lengths();
    let mut watch = Watch { on_token: &mut |_, _| (), progress: &mut |_, _| () };
    let mut engine: Box<dyn Engine> = match kind {
        Kind::Host => {
            let weights = model.on_host(true).expect("the CPU");
            Box::new(HostEngine::new(weights, &model.description, slots, lengths))
        }
        Kind::Tensors => Box::new(TensorEngine::new(model, true, slots, lengths.capacity)),
    };
    scheduler::run(&mut *engine, slots, &task, &mut watch).expect("answers")
}

#[test]
fn answers_together_equal_those_alone_in_every_family() {
    for (name, model) in models() {
        let lengths = [3, 1, 40, 12, 7, 26, 2, 19, 33, 5, 1, 9, 15, 4, 22, 8, 11];
        let prompts: Vec<Vec<u32>> = lengths.iter().enumerate().map(|(i, length)| prompt(&model, i, *length)).collect();
        let sampling = Sampling::greedy(9);
        let kinds = [(Kind::Host, &[1, 2, 3, 4, 5, 7, 8, 12, 16][..]), (Kind::Tensors, &[1, 5, 16])];
        let mut of_kinds = Vec::new();
        for (kind, slots) in kinds {
            let alone = |prompt| answers(&model, kind, 1, std::slice::from_ref(prompt), &sampling).remove(0);
            let expected: Vec<Answer> = prompts.iter().map(alone).collect();
            assert!(expected.iter().any(|answer| answer.tokens.len() == 9), "{name}: {expected:?}");
            for slots in slots {
                assert_eq!(answers(&model, kind, *slots, &prompts, &sampling), expected, "{name} {kind:?} {slots}");
            }
            of_kinds.push(expected);
        }
        assert_eq!(of_kinds[0], of_kinds[1], "{name}: both engines");
    }
}

#[test]
fn logits_equal_those_of_the_training_operations() {
    for (name, model) in models() {
        let ids = prompt(&model, 5, 90);
        let expected = values(&model.logits(&ids, true)).expect("logits");
        let vocabulary = model.description.vocab_size;
        let mut engines: [Box<dyn Engine>; 2] = [
            Box::new(HostEngine::new(model.on_host(true).expect("the CPU"), &model.description, 3, LENGTHS)),
            Box::new(TensorEngine::new(&model, true, 3, 100)),
        ];
        for engine in &mut engines {
            let check = |engine: &dyn Engine, position: usize| {
                let expected = &expected[position * vocabulary..][..vocabulary];
                for (found, expected) in engine.logits(0).iter().zip(expected) {
                    assert!((found - expected).abs() <= 1e-4, "{name} {position}: {found} instead of {expected}");
                }
            };
            // Two chunks, then single tokens.
            engine.prefill(1, 0, &ids[..30], false).expect("a chunk");
            engine.prefill(1, 30, &ids[30..41], true).expect("a chunk");
            check(&**engine, 40);
            for (position, token) in ids.iter().enumerate().skip(41) {
                engine.decode(&[Next { slot: 1, token: *token, position }]).expect("a token");
                check(&**engine, position);
            }
        }
    }
}

#[test]
fn an_adapter_is_left_out_if_it_is_not_wanted() {
    let model = family("llama", Quantization::None);
    let ids = prompt(&model, 1, 12);
    let mut engine = HostEngine::new(model.on_host(false).expect("the CPU"), &model.description, 1, LENGTHS);
    engine.prefill(0, 0, &ids, true).expect("a chunk");
    let all = values(&model.logits(&ids, false)).expect("logits");
    let expected = &all[all.len() - model.description.vocab_size..];
    assert!(engine.logits(0).iter().zip(expected).all(|(found, expected)| (found - expected).abs() <= 1e-4));
    let with = values(&model.logits(&ids, true)).expect("logits");
    assert!(with.iter().zip(&all).any(|(with, without)| (with - without).abs() > 1e-2), "the adapter has an effect");
}

fn all(model: &Decoder, with_adapter: bool, prompts: &[Vec<u32>]) -> Result<Vec<Answer>, TrainError> {
    let work = Work { prompts, stop_ids: &[], sampling: &Sampling::greedy(3) };
    super::answers(model, with_adapter, work, 2, &mut |_, _| ())
}

#[test]
fn a_model_that_computes_nan_is_named() {
    let mut model = family("llama", Quantization::None);
    for param in model.params.iter_mut() {
        param.set(param.value.clone().mul_scalar(f32::NAN));
    }
    let prompts = [prompt(&model, 1, 4), prompt(&model, 2, 3)];
    let fault = all(&model, true, &prompts).expect_err("NaN");
    assert!(matches!(fault, TrainError::LogitsNotFinite { .. }), "{fault}");
    assert!(all(&model, false, &prompts).is_ok());
}

#[test]
fn a_prompt_that_fills_the_context_is_named() {
    let model = family("llama", Quantization::None);
    let context = model.description.max_position_embeddings;
    for length in [0, context, context + 1] {
        let prompts = [prompt(&model, 1, 4), prompt(&model, 2, length)];
        let fault = all(&model, true, &prompts).expect_err("length");
        let text = fault.to_string();
        assert!(text.contains("prompt 2 of 2") && text.contains(&format!("{length} tokens")), "{text}");
    }
    let fits = [prompt(&model, 2, context - 1)];
    let answer = &all(&model, true, &fits).expect("fits")[0];
    assert_eq!(answer.tokens.len(), 1, "the context has one more position");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn mixes_of_prompts_give_the_answers_of_each_alone(
        lengths in prop::collection::vec(prop_oneof![1_usize..30, 200_usize..700], 1..6),
        slots in 1_usize..=MAX_SLOTS,
        temperature in prop_oneof![Just(0.0_f32), Just(0.8)],
        seed in 0_u64..1000,
    ) {
        let name = FAMILIES[seed as usize % FAMILIES.len()];
        let model = long_family(name, if seed % 2 == 0 { Quantization::None } else { Quantization::Nf4 });
        let context = model.description.max_position_embeddings;
        let prompts: Vec<Vec<u32>> =
            lengths.iter().enumerate().map(|(i, length)| prompt(&model, i, (*length).min(context - 1))).collect();
        prop_assume!(prompts.iter().enumerate().all(|(i, prompt)| !prompts[..i].contains(prompt)));
        let sampling = Sampling { temperature, seed, top_p: Some(0.9), ..Sampling::greedy(8) };
        let together = answers(&model, Kind::Host, slots, &prompts, &sampling);
        for (prompt, together) in prompts.iter().zip(&together) {
            let alone = answers(&model, Kind::Host, 1, std::slice::from_ref(prompt), &sampling);
            prop_assert_eq!(&alone[0], together);
        }
    }
}
