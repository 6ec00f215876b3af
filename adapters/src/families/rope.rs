//! Rotary settings of a `config.json`: `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (older).

use serde_json::{Map, Value};

use super::config_keys::{Config, ConfigError};
use crate::description::{Rope, RopeScaling};

/// transformers' default if `rope_theta` is missing.
const DEFAULT_THETA: f64 = 10_000.0;
/// transformers' default for the full-attention layers of Gemma 3.
const DEFAULT_GLOBAL_THETA: f64 = 1_000_000.0;

/// Rotary settings of full-attention layers and of sliding layers.
pub(super) struct RopesByType {
    pub(super) full: Rope,
    pub(super) sliding: Rope,
}

impl Config<'_> {
    pub(super) fn rope(&mut self) -> Result<Rope, ConfigError> {
        let top_theta = self.optional_f64("rope_theta")?;
        let parameters = self.optional_object("rope_parameters")?;
        let scaling = self.optional_object("rope_scaling")?;
        // As in transformers, a non-empty `rope_scaling` takes precedence.
        let (key, object) = match (scaling, parameters) {
            (Some(scaling), _) if !scaling.is_empty() => ("rope_scaling", scaling),
            (_, Some(parameters)) => ("rope_parameters", parameters),
            _ => {
                let theta = top_theta.unwrap_or(DEFAULT_THETA);
                return Ok(Rope { theta, scaling: RopeScaling::None });
            }
        };
        let mut nested = self.nested(key, object);
        let theta = nested.optional_f64("rope_theta")?.or(top_theta).unwrap_or(DEFAULT_THETA);
        let scaling = nested.rope_scaling()?;
        nested.finish()?;
        Ok(Rope { theta, scaling })
    }

    /// Gemma 3's settings. transformers 5: `rope_parameters` for each type of layer. Older: `rope_theta` and
    /// `rope_scaling` for full-attention layers, and `rope_local_base_freq` for sliding layers.
    pub(super) fn ropes_by_type(&mut self) -> Result<RopesByType, ConfigError> {
        let parameters = self.optional_object("rope_parameters")?;
        let mut by_type = parameters.map(|object| self.nested("rope_parameters", object));
        let mut of_type = |config: &mut Self, kind: &str, theta: Option<f64>, default: f64| {
            let object = by_type.as_mut().map(|types| types.optional_object(kind)).transpose()?.flatten();
            let Some(object) = object else {
                return Ok(Rope { theta: theta.unwrap_or(default), scaling: RopeScaling::None });
            };
            let mut nested = config.nested(&format!("rope_parameters.{kind}"), object);
            let theta = nested.optional_f64("rope_theta")?.or(theta).unwrap_or(default);
            let rope = Rope { theta, scaling: nested.rope_scaling()? };
            nested.finish()?;
            Ok::<_, ConfigError>(rope)
        };
        let theta = self.optional_f64("rope_theta")?;
        let mut full = of_type(self, "full_attention", theta, DEFAULT_GLOBAL_THETA)?;
        let theta = self.optional_f64("rope_local_base_freq")?;
        let sliding = of_type(self, "sliding_attention", theta, DEFAULT_THETA)?;
        if let Some(types) = by_type {
            types.finish()?;
        }
        if let Some(scaling) = self.optional_object("rope_scaling")? {
            let mut nested = self.nested("rope_scaling", scaling);
            full.theta = nested.optional_f64("rope_theta")?.unwrap_or(full.theta);
            full.scaling = nested.rope_scaling()?;
            nested.finish()?;
        }
        Ok(RopesByType { full, sliding })
    }

    fn rope_scaling(&mut self) -> Result<RopeScaling, ConfigError> {
        let old = self.optional_string("type")?;
        let kind = self.optional_string("rope_type")?.or(old).unwrap_or_else(|| "default".to_owned());
        match kind.as_str() {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: self.f64("factor")? }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: self.f64("factor")?,
                low_freq_factor: self.f64("low_freq_factor")?,
                high_freq_factor: self.f64("high_freq_factor")?,
                original_max_position_embeddings: self.usize("original_max_position_embeddings")?,
            }),
            other => Err(self.unsupported("rope_type", &Value::from(other), "default, linear or llama3")),
        }
    }
}

/// Rotary settings in the format of transformers 5.
pub(crate) fn rope_parameters(rope: &Rope) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("rope_theta".to_owned(), rope.theta.into());
    let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
    match rope.scaling {
        RopeScaling::None => {
            put("rope_type", "default".into());
        }
        RopeScaling::Linear { factor } => {
            put("rope_type", "linear".into());
            put("factor", factor.into());
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            put("rope_type", "llama3".into());
            put("factor", factor.into());
            put("low_freq_factor", low_freq_factor.into());
            put("high_freq_factor", high_freq_factor.into());
            put("original_max_position_embeddings", original_max_position_embeddings.into());
        }
    }
    map
}
