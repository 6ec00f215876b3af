//! Where the weights of an export come from: the base, the base with an adapter, or a full training.
//!
//! Responsible for: [`WeightSource`] and its implementations.
//! Must not depend on: the format that is written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;

use tonfall_blocks::Format;

use super::ExportError;
use crate::base_model::{BaseError, BaseModel, Weight};
use crate::description::{ModelDescription, Shape};
use crate::peft::{Adapter, AdapterTensor};

/// Weights by their Hugging Face names.
pub(crate) trait WeightSource {
    /// A weight, without the change by training.
    ///
    /// # Errors
    /// If the weight can't be read.
    fn weight(&self, name: &str) -> Result<Weight<'_>, ExportError>;

    /// The change that training adds to the weight. `None` if the weight is not changed.
    fn change(&self, _name: &str) -> Option<&Change<'_>> {
        None
    }

    /// Whether [`WeightSource::weight`] returns trained values, not those of a base.
    fn is_trained(&self) -> bool {
        false
    }

    /// Releases the memory pages that were read so far.
    fn release(&self) {}
}

/// Columns of a weight that are computed at once.
const TILE: usize = 32;

/// The change of one weight: s·B·A.
pub(crate) struct Change<'a> {
    a: &'a AdapterTensor,
    b: &'a AdapterTensor,
    scale: f32,
}

impl Change<'_> {
    /// Adds the change of the rows from `first_row` on to `values`, which are whole rows of `cols` values. Each element is a sum over
    /// the rank in order, then scaled.
    pub(crate) fn add_to(&self, values: &mut [f32], first_row: usize, cols: usize) {
        let rank = self.a.shape[0];
        // The columns of a tile are outside the rows, so that a tile of A stays in the cache, and its sums in registers.
        for first in (0..cols).step_by(TILE) {
            let rows = values.chunks_exact_mut(cols).zip(self.b.values[first_row * rank..].chunks_exact(rank));
            for (row, b) in rows {
                let a = self.a.values[first..].chunks(cols);
                match row[first..].first_chunk_mut::<TILE>() {
                    Some(tile) => self.add_tile(tile, b, a),
                    None => self.add_rest(&mut row[first..], b, a),
                }
            }
        }
    }

    /// Adds the change to the values of one row in `TILE` columns.
    fn add_tile<'b>(&self, values: &mut [f32; TILE], b: &[f32], a: impl Iterator<Item = &'b [f32]>) {
        let mut sums = [0.0; TILE];
        for (weight, a) in b.iter().zip(a) {
            let Some(a) = a.first_chunk::<TILE>() else { unreachable!("whole tiles") };
            for (sum, a) in sums.iter_mut().zip(a) {
                *sum += weight * a;
            }
        }
        for (value, sum) in values.iter_mut().zip(sums) {
            *value += self.scale * sum;
        }
    }

    /// The same for the columns after the last whole tile.
    fn add_rest<'b>(&self, values: &mut [f32], b: &[f32], a: impl Iterator<Item = &'b [f32]>) {
        let mut sums = [0.0; TILE];
        for (weight, a) in b.iter().zip(a) {
            for (sum, a) in sums.iter_mut().zip(&a[..values.len()]) {
                *sum += weight * a;
            }
        }
        for (value, sum) in values.iter_mut().zip(sums) {
            *value += self.scale * sum;
        }
    }
}

/// A base without a change.
pub(crate) struct Unchanged<'a>(pub(crate) &'a BaseModel);

impl WeightSource for Unchanged<'_> {
    fn weight(&self, name: &str) -> Result<Weight<'_>, ExportError> {
        Ok(self.0.weight(name)?)
    }

    fn release(&self) {
        self.0.release_pages();
    }
}

/// A base with the change of an adapter.
pub(crate) struct Merged<'a> {
    base: &'a BaseModel,
    changes: BTreeMap<String, Change<'a>>,
}

impl<'a> Merged<'a> {
    /// # Errors
    /// If the adapter was made for another model, or changes a head that the base ties to its embedding.
    pub(crate) fn new(base: &'a BaseModel, adapter: &'a Adapter) -> Result<Self, ExportError> {
        check_modules(base, adapter)?;
        let change =
            |(module, (a, b)): (&str, _)| (format!("{module}.weight"), Change { a, b, scale: adapter.scale() });
        Ok(Self { base, changes: adapter.pairs().into_iter().map(change).collect() })
    }
}

/// Checks that an adapter fits the base.
///
/// # Errors
/// If the adapter was made for another model, or changes a head that the base ties to its embedding.
pub(crate) fn check_modules(base: &BaseModel, adapter: &Adapter) -> Result<(), ExportError> {
    for (module, (a, b)) in adapter.pairs() {
        if module == "lm_head" && base.description().tie_word_embeddings {
            return Err(ExportError::TiedHead);
        }
        let Some((_, shape)) = base.weight_format(&format!("{module}.weight")) else {
            return Err(ExportError::NoSuchModule { module: module.to_owned() });
        };
        let (rows, cols) = shape.rows_cols();
        let (found, expected) = ([b.shape[0], a.shape[1]], [rows, cols]);
        if found != expected {
            return Err(ExportError::Shape { module: module.to_owned(), found, expected });
        }
    }
    Ok(())
}

impl WeightSource for Merged<'_> {
    fn weight(&self, name: &str) -> Result<Weight<'_>, ExportError> {
        Ok(self.base.weight(name)?)
    }

    fn change(&self, name: &str) -> Option<&Change<'_>> {
        self.changes.get(name)
    }

    fn release(&self) {
        self.base.release_pages();
    }
}

/// Returns all values of a weight, by its Hugging Face name.
pub type Values<'a> = &'a dyn Fn(&str) -> Result<Vec<f32>, Box<dyn Error + Send + Sync>>;

/// The weights of a full training. One weight at a time is in memory.
pub(crate) struct FullyTrained<'a> {
    shapes: BTreeMap<String, Shape>,
    values: Values<'a>,
}

impl<'a> FullyTrained<'a> {
    pub(crate) fn new(description: &ModelDescription, values: Values<'a>) -> Self {
        Self { shapes: description.tensors().into_iter().collect(), values }
    }
}

impl WeightSource for FullyTrained<'_> {
    fn weight(&self, name: &str) -> Result<Weight<'_>, ExportError> {
        let no_such = || BaseError::NoSuchWeight { name: name.to_owned() };
        let (rows, cols) = self.shapes.get(name).ok_or_else(no_such)?.rows_cols();
        let values = (self.values)(name).map_err(|source| ExportError::Unread { name: name.to_owned(), source })?;
        if values.len() != rows * cols {
            return Err(ExportError::Values { name: name.to_owned(), found: values.len(), expected: rows * cols });
        }
        let bytes = Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect());
        Ok(Weight { name: name.to_owned(), format: Format::F32, rows, cols, bytes })
    }

    fn is_trained(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit for bit the sum over the rank in order, with whole tiles and without.
    #[test]
    fn a_change_has_the_bits_of_a_plain_loop() {
        let values =
            |count: usize, seed: usize| (0..count).map(|i| ((i * 31 + seed) % 97) as f32 / 13.0 - 3.0).collect();
        for (rank, cols) in [(1, 1), (3, TILE - 1), (16, TILE), (5, 3 * TILE + 7)] {
            let tensor = |shape: [usize; 2], seed| AdapterTensor {
                name: String::new(),
                shape,
                values: values(shape[0] * shape[1], seed),
            };
            let (a, b) = (tensor([rank, cols], 1), tensor([6, rank], 2));
            let change = Change { a: &a, b: &b, scale: 0.3 };
            let before: Vec<f32> = values(4 * cols, 3);
            let mut found = before.clone();
            change.add_to(&mut found, 2, cols);
            for (i, (found, before)) in found.iter().zip(before).enumerate() {
                let (row, col) = (2 + i / cols, i % cols);
                let products = (0..rank).map(|k| b.values[row * rank + k] * a.values[k * cols + col]);
                let expected = before + 0.3 * products.fold(0.0, |sum, product| sum + product);
                assert_eq!(found.to_bits(), expected.to_bits(), "rank {rank}, row {row}, column {col} of {cols}");
            }
        }
    }
}
