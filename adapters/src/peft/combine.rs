//! Several adapters of one base as a single adapter.
//!
//! Responsible for: the weighted sum of their changes, without a loss of rank. Every export then serves combined adapters too.
//! Must not depend on: the base.

use std::collections::BTreeSet;

use super::{A, Adapter, AdapterConfig, AdapterTensor, B, PeftError};

/// The adapter whose change is the sum of `weight · s · B · A` over `adapters`. Ranks are concatenated: r is the sum of all r. Scale and
/// weight are folded into B, so the scale of the result is 1. A module that one of the adapters doesn't change has zeros in its place.
/// Base model and dropout are those of the first.
///
/// # Errors
/// [`PeftError::NothingToCombine`]; [`PeftError::Combine`] if a weight is not finite, or if the shapes of a module differ.
pub fn combine(adapters: &[(Adapter, f32)]) -> Result<Adapter, PeftError> {
    let [(first, _), ..] = adapters else { return Err(PeftError::NothingToCombine) };
    if let Some((_, weight)) = adapters.iter().find(|(_, weight)| !weight.is_finite()) {
        return Err(PeftError::Combine { reason: format!("{weight} is no weight") });
    }
    let pairs: Vec<_> =
        adapters.iter().map(|(adapter, weight)| (adapter, weight * adapter.scale(), adapter.pairs())).collect();
    let modules: BTreeSet<&str> = pairs.iter().flat_map(|(_, _, pairs)| pairs.keys().copied()).collect();
    let rank = adapters.iter().map(|(adapter, _)| adapter.config.r).sum();
    let mut tensors = Vec::with_capacity(2 * modules.len());
    for module in &modules {
        let shapes = pairs.iter().filter_map(|(_, _, pairs)| pairs.get(module).map(|(a, b)| [b.shape[0], a.shape[1]]));
        let shapes: BTreeSet<[usize; 2]> = shapes.collect();
        let [[rows, cols]] = shapes.into_iter().collect::<Vec<_>>()[..] else {
            let reason = format!("`{module}` has different shapes; the adapters were made for different models");
            return Err(PeftError::Combine { reason });
        };
        let (mut a, mut b) = (Vec::with_capacity(rank * cols), vec![0.0; rows * rank]);
        for (adapter, factor, pairs) in &pairs {
            let (r, first) = (adapter.config.r, a.len() / cols);
            match pairs.get(module) {
                Some((own_a, own_b)) => {
                    a.extend_from_slice(&own_a.values);
                    for (row, own) in b.chunks_exact_mut(rank).zip(own_b.values.chunks_exact(r)) {
                        row[first..first + r].iter_mut().zip(own).for_each(|(value, own)| *value = factor * own);
                    }
                }
                None => a.resize(a.len() + r * cols, 0.0),
            }
        }
        tensors.push(AdapterTensor { name: format!("{module}{A}"), shape: [rank, cols], values: a });
        tensors.push(AdapterTensor { name: format!("{module}{B}"), shape: [rows, rank], values: b });
    }
    let config = AdapterConfig {
        r: rank,
        lora_alpha: rank as f64,
        use_rslora: false,
        target_modules: modules.into_iter().map(str::to_owned).collect(),
        ..first.config.clone()
    };
    Ok(Adapter { config, tensors })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn adapter(r: usize, lora_alpha: f64, use_rslora: bool, modules: &[(&str, usize, usize)]) -> Adapter {
        let values =
            |count: usize, seed: usize| (0..count).map(|i| ((i * 37 + seed * 11) % 23) as f32 / 7.0 - 1.5).collect();
        let tensors = modules.iter().enumerate().flat_map(|(seed, (module, rows, cols))| {
            [
                AdapterTensor { name: format!("{module}{A}"), shape: [r, *cols], values: values(r * cols, seed + r) },
                AdapterTensor {
                    name: format!("{module}{B}"),
                    shape: [*rows, r],
                    values: values(rows * r, seed + 2 * r),
                },
            ]
        });
        let config = AdapterConfig {
            base_model_name_or_path: Some("base".to_owned()),
            revision: None,
            r,
            lora_alpha,
            lora_dropout: 0.0,
            target_modules: vec!["all".to_owned()],
            use_rslora,
        };
        Adapter { config, tensors: tensors.collect() }
    }

    /// weight · s · B · A of each module, in f64.
    fn add(deltas: &mut BTreeMap<String, Vec<f64>>, adapter: &Adapter, weight: f64) {
        let (r, alpha) = (adapter.config.r, adapter.config.lora_alpha);
        let scale = weight * alpha / if adapter.config.use_rslora { (r as f64).sqrt() } else { r as f64 };
        for (module, (a, b)) in adapter.pairs() {
            let (rows, cols) = (b.shape[0], a.shape[1]);
            let delta = deltas.entry(module.to_owned()).or_insert_with(|| vec![0.0; rows * cols]);
            for (i, value) in delta.iter_mut().enumerate() {
                let (row, col) = (i / cols, i % cols);
                let products = (0..r).map(|k| f64::from(b.values[row * r + k]) * f64::from(a.values[k * cols + col]));
                *value += scale * products.sum::<f64>();
            }
        }
    }

    #[test]
    fn the_change_is_the_weighted_sum_of_all_changes() {
        let first = adapter(2, 4.0, false, &[("q", 5, 3), ("k", 2, 3)]);
        let second = adapter(3, 16.0, true, &[("q", 5, 3), ("v", 4, 6)]);
        let third = adapter(1, 1.0, false, &[("k", 2, 3)]);
        let mut expected = BTreeMap::new();
        add(&mut expected, &first, 0.5);
        add(&mut expected, &second, -1.25);
        add(&mut expected, &third, 2.0);
        let combined = combine(&[(first, 0.5), (second, -1.25), (third, 2.0)]).expect("fits");
        assert_eq!((combined.config.r, combined.scale(), combined.config.use_rslora), (6, 1.0, false));
        assert_eq!(combined.config.target_modules, ["k", "q", "v"]);
        let mut found = BTreeMap::new();
        add(&mut found, &combined, 1.0);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (module, expected) in expected {
            for (found, expected) in found[&module].iter().zip(expected) {
                assert!((found - expected).abs() < 1e-5, "{module}: {found} is not {expected}");
            }
        }
    }

    #[test]
    fn adapters_of_different_models_and_weights_without_a_value_are_refused() {
        let first = adapter(2, 4.0, false, &[("q", 5, 3)]);
        let other = adapter(2, 4.0, false, &[("q", 5, 4)]);
        let refused = |adapters: &[(Adapter, f32)]| combine(adapters).expect_err("refused").to_string();
        assert!(refused(&[(first.clone(), 1.0), (other, 1.0)]).contains("`q` has different shapes"));
        assert!(refused(&[(first, f32::NAN)]).contains("NaN is no weight"));
        assert!(refused(&[]).contains("no adapter"));
    }
}
