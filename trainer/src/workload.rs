//! Benchmarks of a device: training steps on random tokens, and single matrix products.
//!
//! Responsible for: optimizer steps on documents of given lengths. Each step is timed from its first operation until
//! its loss and gradient norm are on the host. Used by `examples/gpu_suite.rs`.
//! Must not depend on: runs, recipes, the use of the measurements.

use std::time::Instant;

use burn::tensor::{DType, Tensor, TensorData};
use tonfall_adapters::BaseModel;
use tonfall_blocks::{Format, bf16_from_f32};
use tonfall_datasets::{Batch, Example, Largest};
use tonfall_kernels::philox::Philox;
use tonfall_kernels::{FrozenMatrix, linear};
use tonfall_recipes::plan::{LoraPlan, Quantization, TargetModules, TrainingPlan};

use crate::device::Compute;
use crate::error::TrainError;
use crate::micro_batch::{self, Activations, TrainingPass};
use crate::model::{DropoutKey, LoadOptions, Loader};
use crate::optimizer::Optimizer;
use crate::params::GradientSums;
use crate::{estimate, flops, lora};

/// The training steps to measure.
#[derive(Clone, Debug)]
pub struct Workload {
    pub quantization: Quantization,
    /// Rank of the adapters on all linear layers.
    pub rank: usize,
    /// Tokens of each document of a micro-batch. A step has one micro-batch.
    pub documents: Vec<usize>,
    pub steps: u64,
    pub activations: Activations,
    pub seed: u64,
}

/// Numbers known before the first step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loaded {
    /// Floating-point operations per token of training.
    pub flops_per_token: f64,
    /// Predicted peak of device memory.
    pub predicted_bytes: u64,
}

/// The measurements of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    pub seconds: f64,
    /// Mean over the tokens with loss.
    pub loss: f64,
    pub grad_norm: f64,
    /// Bytes in use after the step, on a device with its own memory.
    pub held_bytes: Option<u64>,
}

/// Loads `base`, calls `loaded`, then computes the steps and calls `each` after each of them.
///
/// # Errors
/// If a weight can't be read, or when a loss or a norm is not finite.
pub fn train(
    base: &BaseModel,
    workload: &Workload,
    compute: &Compute,
    loaded: &mut dyn FnMut(Loaded),
    each: &mut dyn FnMut(Step),
) -> Result<(), TrainError> {
    let options = LoadOptions { quantization: workload.quantization, trainable: false };
    let mut model = Loader { base, options, compute, progress: &mut |_, _| () }.load()?;
    let plan = LoraPlan {
        rank: workload.rank,
        alpha: 2.0 * workload.rank as f64,
        dropout: 0.0,
        use_rslora: false,
        target_modules: TargetModules::AllLinear,
        init: None,
    };
    lora::attach_new(&mut model, &plan, workload.seed, &compute.device)?;
    let training = TrainingPlan::default();
    let mut optimizer = Optimizer::new(&model.params, &training);
    let tokens = workload.documents.iter().sum();
    // The last token of each document has no target.
    let trained = workload.documents.iter().map(|len| len.saturating_sub(1)).sum();
    let largest = Largest { tokens, trained, example: workload.documents.iter().copied().max().unwrap_or(0) };
    let memory = estimate::of_steps(base, (options, workload.rank), compute.kind(), largest, workload.activations);
    compute.expect_buffer(memory.largest_buffer);
    loaded(Loaded {
        flops_per_token: flops::per_token(
            &model.description,
            Some(model.params.elements() as u64),
            workload.activations.again(),
        ),
        predicted_bytes: memory.peak(),
    });

    let mut generator = Philox::new(workload.seed, 0);
    let vocabulary = model.description.vocab_size as u32;
    let mut document = |len: &usize| {
        let ids: Vec<u32> = (0..*len).map(|_| generator.next_u32() % vocabulary).collect();
        let labels = ids.iter().map(|id| *id as i32).collect();
        Example::new(ids, labels)
    };
    let mut documents = || Batch::new(workload.documents.iter().map(&mut document).collect::<Vec<_>>().into_iter());
    let mut next = documents();
    for step in 0..workload.steps {
        let batch = std::mem::replace(&mut next, documents());
        let trained = batch.trained_tokens() as f64;
        let pass = TrainingPass {
            scale: trained.recip() as f32,
            activations: workload.activations,
            dropout: DropoutKey { seed: workload.seed, step, micro_batch: 0 },
        };
        let started = Instant::now();
        let mut sums = GradientSums::new(&model.params);
        let loss = micro_batch::accumulate(&model, &batch, pass, &mut sums);
        model.look_ahead(|| Some(next.input_ids.clone()));
        let read = optimizer.step(&mut model.params, sums, vec![loss], training.learning_rate);
        let (loss, grad_norm) = (read.loss / trained, read.norm);
        let seconds = started.elapsed().as_secs_f64();
        each(Step { seconds, loss, grad_norm, held_bytes: compute.held() });
        if !(loss.is_finite() && grad_norm.is_finite()) {
            return Err(TrainError::Diverged { step, what: format!("loss {loss}, gradient norm {grad_norm}") });
        }
    }
    Ok(())
}

/// An implementation of matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The implementation that training uses.
    Tonfall,
    /// Burn's own matmul, for comparison.
    Burn,
}

/// Seconds per matrix product `[m, k] · [k, n]` of random matrices in the dtype of activations. One number for each of
/// `rounds` rounds of `repeats` products. A warm-up round before them is not returned.
///
/// # Errors
/// If the device fails.
pub fn product(
    compute: &Compute,
    engine: Engine,
    [m, k, n]: [usize; 3],
    rounds: usize,
    repeats: usize,
) -> Result<Vec<f64>, TrainError> {
    let mut generator = Philox::new(1, 0);
    let mut numbers = |len: usize| -> Vec<f32> { (0..len).map(|_| 2.0 * generator.uniform() - 1.0).collect() };
    let (x, w) = (numbers(m * k), numbers(n * k));
    let tensor = |values, shape: [usize; 2]| {
        Tensor::<2>::from_data(TensorData::new(values, shape), &compute.device).cast(compute.dtype)
    };
    let x = tensor(x, [m, k]);
    let multiply: Box<dyn Fn() -> Tensor<2>> = match engine {
        Engine::Burn => {
            let w = tensor(w, [n, k]);
            Box::new(move || x.clone().matmul(w.clone().transpose()))
        }
        Engine::Tonfall => {
            let (format, bytes) = match compute.dtype {
                DType::BF16 => {
                    (Format::Bf16, w.into_iter().flat_map(|value| bf16_from_f32(value).to_le_bytes()).collect())
                }
                _ => (Format::F32, w.into_iter().flat_map(f32::to_le_bytes).collect()),
            };
            let weight = FrozenMatrix::new(bytes, format, n, k, &compute.device);
            Box::new(move || linear(x.clone(), &weight, None))
        }
    };
    let mut seconds = Vec::with_capacity(rounds);
    for round in 0..=rounds {
        let started = Instant::now();
        let mut y = None;
        for _ in 0..repeats {
            y = Some(multiply());
        }
        // Reading an element of the last product waits for all of them.
        let corner = y.map(|y| lora::values(&y.slice([0..1, 0..1]))).transpose()?;
        if round > 0 && corner.is_some() {
            seconds.push(started.elapsed().as_secs_f64() / repeats as f64);
        }
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &str = r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 96,
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "max_position_embeddings": 256, "tie_word_embeddings": false}"#;

    #[test]
    fn recomputation_gives_the_same_steps_from_the_same_random_base() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("config.json");
        std::fs::write(&config, TINY).expect("a configuration");
        let base = BaseModel::random(&config).expect("a base model");
        let steps = |activations| {
            let documents = vec![20, 1, 11];
            let workload =
                Workload { quantization: Quantization::Nf4, rank: 4, documents, steps: 3, activations, seed: 3 };
            let (mut flops, mut steps) = (0.0, Vec::new());
            train(&base, &workload, &Compute::cpu(), &mut |loaded| flops = loaded.flops_per_token, &mut |step| {
                steps.push(step)
            })
            .expect("steps");
            assert!(flops > 0.0);
            steps.into_iter().map(|step| (step.loss, step.grad_norm)).collect::<Vec<_>>()
        };
        let plain = steps(Activations::Kept);
        assert_eq!(plain, steps(Activations::Recomputed));
        assert_eq!(plain, steps(Activations::Offloaded));
        let uniform = (96f64).ln();
        assert!(plain.iter().all(|(loss, norm)| (loss - uniform).abs() < 0.5 && *norm > 0.0), "{plain:?}");
    }

    #[test]
    fn a_product_is_timed_by_round() {
        for engine in [Engine::Tonfall, Engine::Burn] {
            let seconds = product(&Compute::cpu(), engine, [3, 8, 5], 4, 2).expect("products");
            assert!(seconds.len() == 4 && seconds.iter().all(|seconds| *seconds > 0.0), "{seconds:?}");
        }
    }
}
