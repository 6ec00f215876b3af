//! The importance of the columns of each weight: how large the inputs are that are multiplied with them.
//!
//! Source: llama.cpp's importance matrix (`tools/imatrix`). The error of a quantised weight counts in proportion to the mean
//! square of its input.
//! Must not depend on: how inputs are collected.

use std::collections::BTreeMap;

/// Sums of squared inputs of linear layers, by the Hugging Face names of their weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Importance {
    /// For each weight: the sum over tokens of x² for each input feature, `[in_features]`, and the number of tokens.
    pub weights: BTreeMap<String, (Vec<f32>, u64)>,
    /// Names of the texts.
    pub datasets: Vec<String>,
}

impl Importance {
    /// The mean squared inputs of a weight with `cols` input features. `None` if the weight has not been observed.
    pub(crate) fn of(&self, weight: &str, cols: usize) -> Option<&[f32]> {
        // The quantisers only compare columns of one weight, so the sums do as well as the means.
        self.weights.get(weight).map(|(sums, _)| sums.as_slice()).filter(|sums| sums.len() == cols)
    }
}
