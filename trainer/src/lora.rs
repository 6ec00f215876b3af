//! LoRA adapters on a decoder: created, loaded, written.
//!
//! Responsible for: which linear layers get an adapter, its initial values and its exchange with PEFT's files.
//! Must not depend on: optimisation, the PEFT file format itself (that is `tonfall_adapters::peft`).

use std::collections::BTreeSet;

use burn::tensor::{Device, Tensor, TensorData};
use tonfall_adapters::peft::{Adapter, AdapterConfig, AdapterTensor};
use tonfall_kernels::philox::Philox;
use tonfall_kernels::resident;
use tonfall_recipes::plan::{LoraPlan, TargetModules};

use crate::error::TrainError;
use crate::model::{Decoder, LoraSite, Matrix};
use crate::params::{Param, ParamStore};

/// Philox stream of the initial values, apart from every dropout and shuffle stream.
const INIT_STREAM: u64 = u64::from_le_bytes(*b"lorainit");

/// Adds a fresh adapter: A uniform in ±1/√in_features (Kaiming with a = √5, as PEFT and `nn.Linear` do), B zero.
///
/// # Errors
/// When a target module exists in no layer.
pub(crate) fn attach_new(model: &mut Decoder, plan: &LoraPlan, seed: u64, device: &Device) -> Result<(), TrainError> {
    let scale = scale(plan);
    let mut generator = Philox::new(seed, INIT_STREAM);
    attach(model, &plan.target_modules, scale, plan.dropout, device, |_, [rank_in, rank_out]| {
        let bound = (rank_in as f32).sqrt().recip();
        let a = (0..plan.rank * rank_in).map(|_| (2.0 * generator.uniform() - 1.0) * bound).collect();
        Ok((a, vec![0.0; rank_out * plan.rank], plan.rank))
    })
}

/// Adds an adapter with the values of a PEFT adapter.
///
/// # Errors
/// When the adapter's modules or shapes don't fit the model.
pub(crate) fn attach_existing(
    model: &mut Decoder,
    adapter: &Adapter,
    dropout: f64,
    device: &Device,
) -> Result<(), TrainError> {
    let config = &adapter.config;
    let modules = TargetModules::List(adapter.modules());
    attach(model, &modules, adapter.scale(), dropout, device, |module, [inputs, outputs]| {
        let get = |matrix: &str, shape: [usize; 2]| {
            let name = format!("{module}.{matrix}.weight");
            let tensor = adapter.tensor(&name).ok_or_else(|| TrainError::AdapterTensorMissing(name.clone()))?;
            match tensor.shape == shape {
                true => Ok(tensor.values.clone()),
                false => Err(TrainError::AdapterShape { name, expected: shape, found: tensor.shape }),
            }
        };
        Ok((get("lora_A", [config.r, inputs])?, get("lora_B", [outputs, config.r])?, config.r))
    })
}

/// PEFT's configuration of a new adapter on `model`.
pub(crate) fn config(model: &Decoder, plan: &LoraPlan, base_model_name: &str) -> AdapterConfig {
    let last_part = |param: &Param| param.name.rsplit('.').nth(1).unwrap_or_default().to_owned();
    let modules: BTreeSet<String> = model.params.iter().map(last_part).collect();
    let modules = modules.into_iter().collect();
    AdapterConfig::lora(base_model_name, plan.rank, plan.alpha, plan.dropout, plan.use_rslora, modules)
}

/// The adapter as PEFT's tensors, with its configuration.
///
/// # Errors
/// When the device fails.
pub(crate) fn export(model: &Decoder, config: AdapterConfig) -> Result<Adapter, TrainError> {
    let tensor = |param: &Param| {
        let name = format!("{}.weight", param.name);
        Ok(AdapterTensor { name, shape: param.value.dims(), values: values(&param.value)? })
    };
    let tensors = model.params.iter().map(tensor).collect::<Result<_, TrainError>>()?;
    Ok(Adapter { config, tensors })
}

/// Values of a tensor, read from the device.
pub(crate) fn values<const D: usize>(tensor: &Tensor<D>) -> Result<Vec<f32>, TrainError> {
    let data = tensor.clone().try_into_data().map_err(|error| TrainError::Device(error.to_string()))?;
    data.convert::<f32>().try_to_vec::<f32>().map_err(|error| TrainError::Device(format!("{error:?}")))
}

fn scale(plan: &LoraPlan) -> f32 {
    let rank = plan.rank as f64;
    (plan.alpha / if plan.use_rslora { rank.sqrt() } else { rank }) as f32
}

/// Values of A `[r, in]`, of B `[out, r]`, and r.
type Pair = (Vec<f32>, Vec<f32>, usize);

fn attach(
    model: &mut Decoder,
    targets: &TargetModules,
    scale: f32,
    dropout: f64,
    device: &Device,
    mut initial: impl FnMut(&str, [usize; 2]) -> Result<Pair, TrainError>,
) -> Result<(), TrainError> {
    let mut params = ParamStore::for_products_in(model.dtype);
    let mut unused: Vec<&str> = targets.names().collect();
    for (site, (module, linear)) in model.linears_mut().enumerate() {
        let Some(target) = targets.matching(&module) else { continue };
        unused.retain(|name| *name != target);
        let Matrix::Frozen(matrix) = &linear.weight else { return Err(TrainError::AdapterOnTrainable(module)) };
        let shape = [matrix.cols(), matrix.rows()];
        let (a, b, rank) = initial(&module, shape)?;
        let mut register = |name: &str, values: Vec<f32>, shape: [usize; 2]| {
            let value = resident(device, TensorData::new(values, shape), |data| Tensor::from_data(data, device));
            params.register(format!("{module}.{name}"), value, shape.to_vec())
        };
        linear.lora = Some(LoraSite {
            a: register("lora_A", a, [rank, shape[0]]),
            b: register("lora_B", b, [shape[1], rank]),
            scale,
            dropout: dropout as f32,
            site: site as u32,
        });
    }
    model.params = params;
    match unused.is_empty() {
        true => Ok(()),
        false => Err(TrainError::TargetModules(unused.join(", "))),
    }
}
