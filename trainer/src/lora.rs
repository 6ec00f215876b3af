//! LoRA adapters on a decoder: creating, loading, exporting.
//!
//! Responsible for: selecting the linear layers that get an adapter, its initial values, and conversion from and to
//! PEFT's tensors.
//! Must not depend on: optimization, the PEFT file format itself (that is `tonfall_adapters::peft`).

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use tonfall_adapters::peft::{Adapter, AdapterConfig, AdapterTensor, target_modules};
use tonfall_adapters::{BaseModel, ModelDescription};
use tonfall_kernels::philox::Philox;
use tonfall_kernels::resident;
use tonfall_recipes::plan::{LoraPlan, TargetModules};
use tonfall_recipes::suggest;

use crate::error::TrainError;
use crate::estimate::linear_shapes;
use crate::model::{Decoder, LoraSite, Matrix};
use crate::params::{Param, ParamStore};

/// Philox stream for initial values, different from every dropout and shuffle stream.
const INIT_STREAM: u64 = u64::from_le_bytes(*b"lorainit");
/// The output head. It can't have a trained adapter.
const HEAD: &str = "lm_head";
/// Maximum number of modules that an error names; the others are counted.
const NAMED: usize = 3;

/// The modules that can have an adapter, with the shapes `[out_features, in_features]` of their weights.
fn adaptable(model: &ModelDescription) -> Vec<(String, [usize; 2])> {
    let shapes = linear_shapes(model);
    let layer = |index| shapes.iter().map(move |(name, shape)| (format!("model.layers.{index}.{name}"), *shape));
    (0..model.num_hidden_layers).flat_map(layer).collect()
}

/// # Errors
/// If a target selects no linear layer of the model's blocks.
pub(crate) fn check_targets(model: &ModelDescription, targets: &TargetModules) -> Result<(), TrainError> {
    let modules = adaptable(model);
    let selects = |name: &str| {
        let one = TargetModules::List(vec![name.to_owned()]);
        modules.iter().any(|(module, _)| one.matching(module).is_some())
    };
    let unknown: Vec<String> = targets.names().filter(|name| !selects(name)).map(str::to_owned).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    if unknown.iter().any(|name| name == HEAD) {
        return Err(TrainError::AdapterOnHead { tied: model.tie_word_embeddings });
    }
    let known = linear_shapes(model).map(|(name, _)| name.rsplit('.').next().unwrap_or(name));
    let meant = |name: &String| Some(format!("`{}` for `{name}`", suggest::word(name, known)?));
    let meant: Vec<String> = unknown.iter().filter_map(meant).take(NAMED).collect();
    Err(TrainError::TargetModules { unknown: shortened(&unknown), meant: meant.join(", "), known: known.join(", ") })
}

/// # Errors
/// If the adapter has modules or shapes that the model doesn't have.
pub(crate) fn check_existing(model: &ModelDescription, adapter: &Adapter) -> Result<(), TrainError> {
    let shapes: BTreeMap<String, [usize; 2]> = adaptable(model).into_iter().collect();
    let pairs = adapter.pairs();
    if pairs.contains_key(HEAD) {
        return Err(TrainError::AdapterOnHead { tied: model.tie_word_embeddings });
    }
    let unknown: Vec<String> =
        pairs.keys().filter(|module| !shapes.contains_key(**module)).map(|module| (*module).to_owned()).collect();
    if !unknown.is_empty() {
        return Err(TrainError::AdapterModules { unknown: shortened(&unknown) });
    }
    for (module, (a, b)) in pairs {
        let Some([outputs, inputs]) = shapes.get(module) else { continue };
        let (found, expected) = ([b.shape[0], a.shape[1]], [*outputs, *inputs]);
        if found != expected {
            return Err(TrainError::AdapterShape { module: module.to_owned(), expected, found });
        }
    }
    Ok(())
}

/// The first names of a list, and the number of the others.
fn shortened(names: &[String]) -> String {
    let first: Vec<String> = names.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(NAMED) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// Adds a new adapter: A uniform in ±1/√in_features (Kaiming with a = √5, as in PEFT and `nn.Linear`), B zero.
///
/// # Errors
/// Like [`check_targets`].
pub(crate) fn attach_new(model: &mut Decoder, plan: &LoraPlan, seed: u64, device: &Device) -> Result<(), TrainError> {
    check_targets(&model.description, &plan.target_modules)?;
    let mut generator = Philox::new(seed, INIT_STREAM);
    attach(model, scale(plan), plan.dropout, device, |module, [inputs, outputs]| {
        plan.target_modules.matching(module)?;
        let bound = (inputs as f32).sqrt().recip();
        let a = (0..plan.rank * inputs).map(|_| (2.0 * generator.uniform() - 1.0) * bound).collect();
        Some((a, vec![0.0; outputs * plan.rank], plan.rank))
    })
}

/// Adds an adapter with the values of a PEFT adapter.
///
/// # Errors
/// Like [`check_existing`].
pub(crate) fn attach_existing(
    model: &mut Decoder,
    adapter: &Adapter,
    dropout: f64,
    device: &Device,
) -> Result<(), TrainError> {
    check_existing(&model.description, adapter)?;
    let pairs = adapter.pairs();
    attach(model, adapter.scale(), dropout, device, |module, _| {
        let (a, b) = pairs.get(module)?;
        Some((a.values.clone(), b.values.clone(), adapter.config.r))
    })
}

/// PEFT's configuration of the adapter on `model`, with the modules that have an adapter and the base of this run. If
/// training started from `lora.init`, rank, alpha and rsLoRA are that adapter's; its other settings are dropped.
pub(crate) fn config(
    model: &Decoder,
    plan: &LoraPlan,
    init: Option<&AdapterConfig>,
    base: &BaseModel,
) -> AdapterConfig {
    let (r, lora_alpha, use_rslora) = match init {
        Some(config) => (config.r, config.lora_alpha, config.use_rslora),
        None => (plan.rank, plan.alpha, plan.use_rslora),
    };
    let trained = model.params.iter().filter_map(|param| param.name.strip_suffix(".lora_A"));
    AdapterConfig {
        base_model_name_or_path: Some(base.name_or_path()),
        revision: base.revision(),
        r,
        lora_alpha,
        lora_dropout: plan.dropout,
        target_modules: target_modules(trained, &base.modules()),
        use_rslora,
    }
}

/// The adapter as PEFT's tensors, with its configuration.
///
/// # Errors
/// If the device fails.
pub(crate) fn export(model: &Decoder, config: AdapterConfig) -> Result<Adapter, TrainError> {
    let tensor = |param: &Param| {
        let name = format!("{}.weight", param.name);
        Ok(AdapterTensor { name, shape: param.value.dims(), values: values(&param.value)? })
    };
    let tensors = model.params.iter().map(tensor).collect::<Result<_, TrainError>>()?;
    Ok(Adapter { config, tensors })
}

/// Values of a tensor, copied from the device.
pub(crate) fn values<const D: usize>(tensor: &Tensor<D>) -> Result<Vec<f32>, TrainError> {
    let data = tensor.clone().try_into_data().map_err(|error| TrainError::Device(error.to_string()))?;
    data.convert::<f32>().try_to_vec::<f32>().map_err(|error| TrainError::Device(format!("{error:?}")))
}

fn scale(plan: &LoraPlan) -> f32 {
    let rank = plan.rank as f64;
    (plan.alpha / if plan.use_rslora { rank.sqrt() } else { rank }) as f32
}

/// Initial values of a module's adapter: A `[r, in]`, B `[out, r]`, and r; `None` for a module without adapter.
type Initial = Option<(Vec<f32>, Vec<f32>, usize)>;

fn attach(
    model: &mut Decoder,
    scale: f32,
    dropout: f64,
    device: &Device,
    mut initial: impl FnMut(&str, [usize; 2]) -> Initial,
) -> Result<(), TrainError> {
    let mut params = ParamStore::for_products_in(model.dtype);
    for (site, (module, linear)) in model.linears_mut().enumerate() {
        let Matrix::Frozen(matrix) = &linear.weight else { return Err(TrainError::AdapterOnTrainable(module)) };
        let shape = [matrix.cols(), matrix.rows()];
        let Some((a, b, rank)) = initial(&module, shape) else { continue };
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
    Ok(())
}

#[cfg(test)]
mod tests {
    use tonfall_adapters::{Family, Sizes};

    use super::*;

    fn model() -> ModelDescription {
        let sizes = Sizes {
            vocab_size: 16,
            hidden_size: 4,
            intermediate_size: 8,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 2,
        };
        ModelDescription::plain(Family::Llama, sizes)
    }

    fn adapter(modules: &[(&str, [usize; 2])]) -> Adapter {
        let tensor =
            |name: String, shape: [usize; 2]| AdapterTensor { name, shape, values: vec![0.0; shape[0] * shape[1]] };
        let pair = |(module, [outputs, inputs]): &(&str, [usize; 2])| {
            [
                tensor(format!("{module}.lora_A.weight"), [2, *inputs]),
                tensor(format!("{module}.lora_B.weight"), [*outputs, 2]),
            ]
        };
        let tensors = modules.iter().flat_map(pair).collect();
        Adapter {
            config: AdapterConfig {
                base_model_name_or_path: None,
                revision: None,
                r: 2,
                lora_alpha: 4.0,
                lora_dropout: 0.0,
                target_modules: Vec::new(),
                use_rslora: false,
            },
            tensors,
        }
    }

    #[test]
    fn targets_that_select_nothing_get_a_suggestion() {
        let check = |names: &[&str]| {
            let targets = TargetModules::List(names.iter().map(|name| (*name).to_owned()).collect());
            check_targets(&model(), &targets).map_err(|error| error.to_string())
        };
        assert_eq!(check(&["q_proj", "layers.0.mlp.up_proj"]), Ok(()));
        assert_eq!(check_targets(&model(), &TargetModules::AllLinear).map_err(|error| error.to_string()), Ok(()));
        let text = check(&["q_porj", "c_attn"]).expect_err("two that select nothing");
        assert!(text.contains("`q_porj`, `c_attn`") && text.contains("`q_proj` for `q_porj`"), "{text}");
        let text = check(&["a1", "b1", "c1", "d1", "e1"]).expect_err("none selects anything");
        assert!(text.contains("`a1`, `b1`, `c1` and 2 more") && !text.contains("meant"), "{text}");
        let text = check(&["q_proj", "lm_head"]).expect_err("the head");
        assert!(text.contains("lm_head"), "{text}");
    }

    #[test]
    fn an_adapter_of_another_model_is_named() {
        let check = |modules: &[(&str, [usize; 2])]| {
            check_existing(&model(), &adapter(modules)).map_err(|error| error.to_string())
        };
        assert_eq!(check(&[("model.layers.1.self_attn.k_proj", [2, 4])]), Ok(()));
        let text = check(&[("model.layers.1.self_attn.k_proj", [4, 4])]).expect_err("another shape");
        assert!(text.contains("[4, 4]") && text.contains("[2, 4]"), "{text}");
        let many: Vec<String> = (2..30).map(|layer| format!("model.layers.{layer}.self_attn.k_proj")).collect();
        let many: Vec<(&str, [usize; 2])> = many.iter().map(|module| (module.as_str(), [2, 4])).collect();
        let text = check(&many).expect_err("28 modules");
        assert!(text.contains("and 25 more") && text.len() < 400, "{text}");
        let tied = ModelDescription { tie_word_embeddings: true, ..model() };
        let head = adapter(&[("lm_head", [16, 4])]);
        let texts = [&model(), &tied].map(|model| check_existing(model, &head).expect_err("the head").to_string());
        assert!(texts[0].contains("tonfall merge") && texts[1].contains("ties"), "{texts:?}");
    }
}
