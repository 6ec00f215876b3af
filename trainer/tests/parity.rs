//! Compares the decoder and its training steps with transformers and PEFT, on stored fixtures
//! (`tests/reference/make_families.py`, `make_gguf_model.py`, `make_bnb_checkpoint.py`,
//! `real_reference.py --random-ids`).

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use tonfall_adapters::BaseModel;
use tonfall_adapters::peft::{Adapter, AdapterConfig, AdapterTensor};
use tonfall_recipes::plan::Quantization;
use tonfall_trainer::{Activations, Compute, Session, parity};

const FAMILIES: [&str; 8] = ["llama", "llama_tied", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"];

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// The CPU, or the device in `TONFALL_TEST_DEVICE`.
fn compute() -> Compute {
    let choice = std::env::var("TONFALL_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    Compute::open(choice.parse().expect("a device"), 0).expect("the device of TONFALL_TEST_DEVICE").in_f32()
}

fn base(family: &str) -> BaseModel {
    BaseModel::open(&fixtures().join("families").join(family)).expect("a base model")
}

/// The reference's results for a family.
struct Expected {
    bytes: Vec<u8>,
}

impl Expected {
    fn of(family: &str) -> Self {
        Self::in_folder(&fixtures().join("families").join(family))
    }

    fn in_folder(folder: &Path) -> Self {
        Self { bytes: std::fs::read(folder.join("expected.safetensors")).expect("a fixture") }
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("safetensors")
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(self.file().tensor(name).expect("a tensor").data())
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        let wide: Vec<i64> = bytemuck::pod_collect_to_vec(self.file().tensor(name).expect("a tensor").data());
        wide.into_iter().map(|id| u32::try_from(id).expect("a token id")).collect()
    }

    /// The adapter that the reference used.
    fn adapter(&self) -> Adapter {
        let file = self.file();
        let names: Vec<String> =
            file.names().into_iter().filter_map(|name| name.strip_prefix("lora.")).map(str::to_owned).collect();
        let tensors = names.iter().filter(|name| name.ends_with(".weight")).map(|name| {
            let shape = file.tensor(&format!("lora.{name}")).expect("a tensor").shape().to_vec();
            AdapterTensor {
                name: name.clone(),
                shape: [shape[0], shape[1]],
                values: self.floats(&format!("lora.{name}")),
            }
        });
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
        Adapter { config, tensors: tensors.collect() }
    }
}

#[test]
fn logits_of_every_family_equal_transformers() {
    for family in FAMILIES {
        let expected = Expected::of(family);
        let session = Session::load(&base(family), Quantization::None, &compute(), &mut |_, _| ()).expect("loads");
        for text in ["text0", "text1"] {
            let ours = session.logits(&expected.ids(&format!("{text}.input_ids")), false).expect("logits");
            let theirs = expected.floats(&format!("{text}.logits"));
            let difference = parity::compare_logits(&ours, &theirs, session.vocab_size());
            assert!(difference.largest <= 1e-4, "{family} {text}: {difference:?}");
            assert_eq!(difference.other_argmax, 0, "{family} {text}");
        }
    }
}

/// GGUF blocks of several formats, stored natively and dequantized, and bitsandbytes' packed weights stored unchanged.
/// Each model computes with exactly the values that the reference dequantized.
#[test]
fn quantized_files_compute_with_their_dequantized_values() {
    let cases = [
        ("gguf/model.gguf", "gguf", Quantization::Native),
        ("gguf/model.gguf", "gguf", Quantization::None),
        ("bitsandbytes", "bitsandbytes", Quantization::Nf4),
        ("bitsandbytes", "bitsandbytes", Quantization::None),
    ];
    for (file, folder, quantization) in cases {
        let expected = Expected::in_folder(&fixtures().join(folder));
        let base = BaseModel::open(&fixtures().join(file)).expect("a base model");
        let session = Session::load(&base, quantization, &compute(), &mut |_, _| ()).expect("loads");
        let ours = session.logits(&expected.ids("input_ids"), false).expect("logits");
        let difference = parity::compare_logits(&ours, &expected.floats("logits"), session.vocab_size());
        assert!(difference.largest <= 1e-4, "{file} {quantization:?}: {difference:?}");
        assert_eq!(difference.other_argmax, 0, "{file} {quantization:?}");
    }
}

#[test]
fn a_sharded_base_equals_the_single_file() {
    let ids = Expected::of("llama").ids("text1.input_ids");
    let logits = |family: &str| {
        let session = Session::load(&base(family), Quantization::None, &compute(), &mut |_, _| ()).expect("loads");
        session.logits(&ids, false).expect("logits")
    };
    assert_eq!(logits("llama_sharded"), logits("llama"));
}

#[test]
fn gradients_of_every_adapter_tensor_equal_pytorch() {
    for family in FAMILIES {
        let expected = Expected::of(family);
        let ids = expected.ids("text1.input_ids");
        let ours = parity::lora_gradients(&base(family), &expected.adapter(), &ids, Activations::Kept, &compute())
            .expect("gradients");
        let loss = f64::from(expected.floats("lora.loss")[0]);
        assert!((ours.loss - loss).abs() <= 1e-5 * loss, "{family}: loss {} instead of {loss}", ours.loss);
        assert_eq!(ours.tensors.len(), 2 * 7 * 2, "{family}: A and B of 7 modules in 2 layers");
        for (name, gradient) in &ours.tensors {
            let theirs = expected.floats(&format!("grad.{name}"));
            assert_eq!(gradient.len(), theirs.len(), "{family} {name}");
            let square = |value: f32| f64::from(value) * f64::from(value);
            let distance: f64 = gradient.iter().zip(&theirs).map(|(a, b)| square(a - b)).sum();
            let size: f64 = theirs.iter().map(|value| square(*value)).sum();
            assert!((distance / size).sqrt() <= 1e-4, "{family} {name}: {}", (distance / size).sqrt());
        }
    }
}

#[test]
fn recomputation_changes_no_bit() {
    for family in FAMILIES {
        let expected = Expected::of(family);
        let ids = expected.ids("text1.input_ids");
        let gradients = |activations| {
            parity::lora_gradients(&base(family), &expected.adapter(), &ids, activations, &compute())
                .expect("gradients")
        };
        let kept = gradients(Activations::Kept);
        for activations in [Activations::Recomputed, Activations::Offloaded] {
            assert_eq!(gradients(activations), kept, "{family}, {activations:?}");
        }
    }
}

#[test]
fn ten_steps_follow_peft_on_a_dense_and_on_an_nf4_base() {
    let folder = fixtures().join("peft_steps");
    for (quantization, folder) in [(Quantization::None, folder.clone()), (Quantization::Nf4, folder.join("nf4"))] {
        let replay = parity::replay(&base("llama"), quantization, &folder, &compute()).expect("a replay");
        for (step, (ours, theirs)) in replay.losses.iter().enumerate() {
            assert!((ours - theirs).abs() <= 1e-4 * theirs, "{quantization:?} step {step}: {ours} instead of {theirs}");
        }
        for (step, (ours, theirs)) in replay.grad_norms.iter().enumerate() {
            assert!(
                (ours - theirs).abs() <= 1e-3 * theirs,
                "{quantization:?} step {step}: norm {ours} instead of {theirs}"
            );
        }
        assert!(replay.worst.1 <= 1e-2, "{quantization:?}: {:?}", replay.worst);
    }
}
