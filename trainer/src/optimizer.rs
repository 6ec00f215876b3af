//! AdamW over the trainable tensors, with clipping by the global norm.
//!
//! Responsible for: the update of one optimizer step and the optimizer's state.
//! Must not depend on: the backward pass, schedules.
//!
//! Decoupled weight decay (Loshchilov & Hutter 2017, <https://arxiv.org/abs/1711.05101>), computed in f32 like
//! `torch.optim.AdamW`. Moments are f32 or, on request, 8-bit as in bitsandbytes. The norm of all gradients together is
//! clipped, like in `torch.nn.utils.clip_grad_norm_`.

use burn::tensor::Tensor;
use tonfall_kernels::{AdamW as Settings, MOMENT_BLOCK, Moment8, Moments, Update, resident, update};
use tonfall_recipes::plan::{OptimizerKind, TrainingPlan};

use crate::params::{GradientSums, ParamStore, StepReadback};

/// Parameters with fewer elements have f32 moments, as in bitsandbytes.
const LEAST_IN_BYTES: usize = 4096;

/// Whether each moment of a parameter with `elements` elements is stored in one byte.
fn in_bytes(kind: OptimizerKind, elements: usize) -> bool {
    kind == OptimizerKind::Adamw8bit && elements >= LEAST_IN_BYTES
}

/// Bytes of both moments of a parameter with `elements` elements.
pub(crate) fn moment_bytes(kind: OptimizerKind, elements: usize) -> u64 {
    let each = match in_bytes(kind, elements) {
        true => elements.div_ceil(MOMENT_BLOCK) * (MOMENT_BLOCK + size_of::<f32>()),
        false => elements * size_of::<f32>(),
    };
    2 * each as u64
}

/// AdamW and its state.
#[derive(Debug)]
pub(crate) struct Optimizer {
    settings: Settings,
    max_grad_norm: f64,
    /// One entry per parameter, in the order of the parameter store.
    pub moments: Vec<Moments<2>>,
    /// Number of updates.
    pub steps: u64,
}

impl Optimizer {
    /// A new optimizer: all moments are zero.
    pub(crate) fn new(params: &ParamStore, plan: &TrainingPlan) -> Self {
        let settings = Settings {
            lr: 0.0,
            beta1: plan.beta1,
            beta2: plan.beta2,
            epsilon: plan.epsilon,
            weight_decay: plan.weight_decay,
        };
        let zeros = |value: &Tensor<2>| {
            let (device, elements) = (value.device(), value.dims().iter().product());
            match in_bytes(plan.optimizer, elements) {
                true => Moments::Bytes([(); 2].map(|()| Moment8::zeros(elements, &device))),
                false => Moments::Full(resident(&device, value, |value| [(); 2].map(|()| value.zeros_like()))),
            }
        };
        let moments = params.iter().map(|param| zeros(&param.value)).collect();
        Self { settings, max_grad_norm: plan.max_grad_norm, moments, steps: 0 }
    }

    /// Updates every parameter that has a gradient. Reads back the sum of `losses`, `[1]` each, and the gradient norm.
    /// Updates nothing if the norm is not finite.
    pub(crate) fn step(
        &mut self,
        params: &mut ParamStore,
        gradients: GradientSums,
        losses: Vec<Tensor<1>>,
        learning_rate: f64,
    ) -> StepReadback {
        let settings = Settings { lr: learning_rate, ..self.settings };
        let each = params.iter_mut().zip(&mut self.moments).zip(gradients.into_inner());
        let updates = each.filter_map(|((param, moments), gradient)| {
            let decays = param.is_matrix();
            Some(Update {
                parameter: &mut param.value,
                copy: param.copy.as_mut(),
                moments,
                gradient: gradient?,
                decays,
            })
        });
        let square_sums = update(updates.collect(), &settings, self.steps + 1, self.max_grad_norm);
        let read = StepReadback::of(losses, square_sums);
        self.steps += u64::from(read.norm.is_finite());
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::LearningRate;
    use burn::tensor::{Device, TensorData};
    use safetensors::SafeTensors;
    use serde_json::Value;
    use tonfall_recipes::plan::Schedule;

    const PARAMETERS: [&str; 2] = ["wide", "tall"];
    const SCHEDULES: [(&str, Schedule); 3] =
        [("constant", Schedule::Constant), ("linear", Schedule::Linear), ("cosine", Schedule::Cosine)];

    fn fixture(name: &str) -> Vec<u8> {
        let path = format!("{}/../tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).expect("a fixture")
    }

    /// Values and shape of a stored tensor.
    fn stored(file: &SafeTensors<'_>, name: &str) -> (Vec<f32>, Vec<usize>) {
        let tensor = file.tensor(name).expect("a tensor");
        (bytemuck::pod_collect_to_vec(tensor.data()), tensor.shape().to_vec())
    }

    /// Twenty steps of torch's AdamW with clipping and the learning rates of transformers' schedules
    /// (`tests/reference/make_adamw.py`).
    #[test]
    fn twenty_steps_equal_torch() {
        let (bytes, device) = (fixture("adamw.safetensors"), Device::flex());
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let record: Value = serde_json::from_slice(&fixture("adamw.json")).expect("JSON");
        let number = |key: &str| record[key].as_f64().expect("a number");
        let count = |key: &str| record[key].as_u64().expect("a count");
        let plan = TrainingPlan {
            weight_decay: number("weight_decay"),
            epsilon: number("eps"),
            max_grad_norm: number("max_grad_norm"),
            ..TrainingPlan::default()
        };
        for (name, schedule) in SCHEDULES {
            let (warmup_steps, total_steps) = (count("warmup_steps"), count("total_steps"));
            let rate = LearningRate { peak: number("lr"), schedule, warmup_steps, total_steps };
            let mut params = ParamStore::default();
            let ids = PARAMETERS.map(|parameter| {
                let (values, shape) = stored(&file, &format!("{parameter}.initial"));
                let value = Tensor::from_data(TensorData::new(values, [shape[0], shape[1]]), &device);
                params.register(parameter, value, shape)
            });
            let mut optimizer = Optimizer::new(&params, &plan);
            for step in 0..total_steps {
                let theirs = |step: u64| record["learning_rates"][name][step as usize].as_f64().expect("a rate");
                // The warm-up of transformers begins at zero; ours is one step earlier, so that the first step trains
                // too.
                let same = if step < warmup_steps { step + 1 } else { step };
                assert!((rate.at(step) - theirs(same)).abs() < 1e-12, "{name} step {step}: rate");
                let mut sums = GradientSums::new(&params);
                for (parameter, id) in PARAMETERS.iter().zip(ids) {
                    let (values, shape) = stored(&file, &format!("{parameter}.gradients"));
                    let len = shape[1] * shape[2];
                    let values = values[step as usize * len..][..len].to_vec();
                    sums.add(id, Tensor::from_data(TensorData::new(values, [shape[1], shape[2]]), &device));
                }
                let norm = optimizer.step(&mut params, sums, Vec::new(), theirs(step)).norm;
                let theirs = record["grad_norms"][step as usize].as_f64().expect("a norm");
                assert!((norm - theirs).abs() <= 1e-5 * theirs, "{name} step {step}: norm {norm} instead of {theirs}");
                for (parameter, id) in PARAMETERS.iter().zip(ids) {
                    let (theirs, _) = stored(&file, &format!("{name}.{parameter}.values"));
                    let ours = params.get(id).value.clone().into_data().try_to_vec::<f32>().expect("f32");
                    let theirs = &theirs[step as usize * ours.len()..][..ours.len()];
                    for (ours, theirs) in ours.iter().zip(theirs) {
                        assert!(
                            (ours - theirs).abs() <= 2e-6,
                            "{name} step {step} {parameter}: {ours} is not {theirs}"
                        );
                    }
                }
            }
        }
    }

    /// Five steps of bitsandbytes' AdamW8bit on the CPU, each from its state before the step to its state after the
    /// step (`tests/reference/make_adamw8.py`). The CPU version of bitsandbytes rounds to the nearest value of a map
    /// only roughly. So its codes are not compared; the tests of our quantization check that our codes are the nearest.
    #[test]
    fn steps_with_8_bit_moments_equal_bitsandbytes() {
        let (bytes, device) = (fixture("adamw8.safetensors"), Device::flex());
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let record: Value = serde_json::from_slice(&fixture("adamw8.json")).expect("JSON");
        let number = |key: &str| record[key].as_f64().expect("a number");
        let plan = TrainingPlan {
            optimizer: OptimizerKind::Adamw8bit,
            weight_decay: number("weight_decay"),
            epsilon: number("eps"),
            max_grad_norm: 0.0,
            ..TrainingPlan::default()
        };
        for name in ["ragged", "small"] {
            let floats = |what: &str| stored(&file, &format!("{name}.{what}")).0;
            let (start, shape) = stored(&file, &format!("{name}.initial"));
            let (len, blocks) = (start.len(), start.len().div_ceil(MOMENT_BLOCK));
            let tensor = |values: &[f32]| {
                Tensor::<2>::from_data(TensorData::new(values.to_vec(), [shape[0], shape[1]]), &device)
            };
            let mut params = ParamStore::default();
            let id = params.register(name, tensor(&start), shape.clone());
            let mut optimizer = Optimizer::new(&params, &plan);
            let (gradients, values) = (floats("gradients"), floats("values"));
            for (step, (gradient, theirs)) in gradients.chunks(len).zip(values.chunks(len)).enumerate() {
                let mut sums = GradientSums::new(&params);
                sums.add(id, tensor(gradient));
                optimizer.step(&mut params, sums, Vec::new(), number("lr"));
                let ours = params.get(id).value.clone().into_data().try_to_vec::<f32>().expect("f32");
                let off = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off < 2e-6, "{name} step {step}: {off}");

                let Moments::Bytes(moments) = &mut optimizer.moments[0] else {
                    assert_eq!(name, "small");
                    continue;
                };
                for (moment, number) in moments.iter_mut().zip([1, 2]) {
                    let absmax = moment.absmax.clone().into_data().try_to_vec::<f32>().expect("f32");
                    let theirs = &floats(&format!("absmax{number}"))[step * blocks..][..blocks];
                    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs();
                    assert!(absmax.iter().zip(theirs).all(near), "{name} step {step}: magnitudes of moment {number}");
                    let codes = file.tensor(&format!("{name}.codes{number}")).expect("codes");
                    let mut codes = codes.data()[step * len..][..len].to_vec();
                    codes.resize(blocks * MOMENT_BLOCK, 0);
                    *moment = Moment8::new(bytemuck::pod_collect_to_vec(&codes), theirs.to_vec(), &device);
                }
                params.iter_mut().for_each(|param| param.set(tensor(theirs)));
            }
        }
    }

    #[test]
    fn a_gradient_that_is_not_finite_updates_nothing() {
        let device = Device::flex();
        let mut params = ParamStore::default();
        let id = params.register("weight", Tensor::from_data([[1.0_f32, 2.0]], &device), vec![1, 2]);
        let mut optimizer = Optimizer::new(&params, &TrainingPlan::default());
        let mut sums = GradientSums::new(&params);
        sums.add(id, Tensor::from_data([[f32::NAN, 0.5]], &device));
        assert!(optimizer.step(&mut params, sums, Vec::new(), 0.1).norm.is_nan());
        assert_eq!(params.get(id).value.clone().into_data().try_to_vec::<f32>().expect("f32"), [1.0, 2.0]);
        assert_eq!(optimizer.steps, 0);
    }
}
