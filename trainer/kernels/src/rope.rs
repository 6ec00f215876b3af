//! Rotary position embedding (Su et al. 2021) in Hugging Face's layout: element `i` of a head's first half is rotated with
//! element `i` of its second half.
//!
//! Responsible for: tables of cosines and sines, and the rotation. Must not depend on: how frequencies are scaled for long
//! contexts.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;

use crate::cpu::level::{Level, multiversion};
use crate::cpu::memory::Shared;
use crate::cpu::threads;
use crate::flex::{dims, owned};
use crate::op::{
    Autodiff, Backend, Backward, CheckpointStrategy, Checkpointer, Dispatch, Flex, FloatTensor, Gradients, Ops,
    OpsKind, backend_extension, unary,
};

/// Cosines and sines of positions from 0 on, each `[positions, head_dim / 2]`, times the attention factor.
#[derive(Debug, Default)]
pub(crate) struct Angles {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// Cosines and sines on the last device that used them.
    #[cfg(feature = "cube")]
    uploaded: Mutex<Option<(CubeTensor, CubeTensor)>>,
}

impl Angles {
    /// Cosines and sines of a position.
    pub(crate) fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let start = position * self.half;
        (&self.cos[start..][..self.half], &self.sin[start..][..self.half])
    }
}

#[cfg(feature = "cube")]
impl Angles {
    /// Pairs of elements per head.
    pub(crate) const fn half(&self) -> usize {
        self.half
    }

    /// Cosines and sines on the device of a tensor, uploaded once.
    pub(crate) fn on_device(&self, like: &CubeTensor) -> (CubeTensor, CubeTensor) {
        let mut uploaded = self.uploaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((cos, sin)) = uploaded.as_ref()
            && cos.device == like.device
        {
            return (cos.clone(), sin.clone());
        }
        let upload =
            |values: &[f32]| crate::cube::upload(like, &values.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
        let tables = (upload(&self.cos), upload(&self.sin));
        *uploaded = Some(tables.clone());
        tables
    }
}

/// Cosines and sines of a model, computed up to the highest position in use. Clones share them.
#[derive(Clone, Debug)]
pub struct RopeTable {
    inv_freq: Arc<[f32]>,
    attention_factor: f32,
    max_positions: usize,
    angles: Arc<Mutex<Arc<Angles>>>,
}

impl RopeTable {
    /// A table for heads of `2 · inv_freq.len()` elements. Position `p` rotates pair `i` by the angle `p · inv_freq[i]`, in f32 as
    /// in transformers. Its cosine and sine are computed in f64 and multiplied by `attention_factor`.
    #[must_use]
    pub fn new(inv_freq: &[f32], attention_factor: f32, max_positions: usize) -> Self {
        Self { inv_freq: inv_freq.into(), attention_factor, max_positions, angles: Arc::default() }
    }

    /// Angles for at least `positions` positions.
    pub(crate) fn up_to(&self, positions: usize) -> Arc<Angles> {
        let most = self.max_positions;
        assert!(positions <= most, "position {} in a table for {most} positions", positions - 1);
        let mut angles = self.angles.lock().unwrap_or_else(PoisonError::into_inner);
        let half = self.inv_freq.len();
        if angles.cos.len() < positions * half {
            let rows = positions.next_power_of_two().min(self.max_positions);
            let table = |function: fn(f64) -> f64| {
                let turn = |p: usize, f: f32| function(f64::from(p as f32 * f)) * f64::from(self.attention_factor);
                (0..rows).flat_map(|p| self.inv_freq.iter().map(move |f| turn(p, *f) as f32)).collect()
            };
            *angles = Arc::new(Angles {
                half,
                cos: table(f64::cos),
                sin: table(f64::sin),
                #[cfg(feature = "cube")]
                uploaded: Mutex::default(),
            });
        }
        angles.clone()
    }
}

/// The operation of a backend.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cube"))]
pub(crate) trait RopeOps: Backend {
    /// `x[T, heads · head_dim]`, rotated by the angles of `positions[t]`, or `back` by the negative angles.
    fn rotate(x: FloatTensor<Self>, angles: Arc<Angles>, positions: Arc<[u32]>, back: bool) -> FloatTensor<Self>;
}

multiversion! {
    pub(crate) fn rotate_row(row: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        for head in row.chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for (((first, second), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                let (a, b, sin) = (*first, *second, sin * sign);
                *first = a * cos - b * sin;
                *second = b * cos + a * sin;
            }
        }
    }
}

impl RopeOps for Flex {
    fn rotate(x: FloatTensor<Self>, angles: Arc<Angles>, positions: Arc<[u32]>, back: bool) -> FloatTensor<Self> {
        let ((tokens, columns), half) = (dims(&x), angles.half);
        let (level, sign) = (Level::best(), if back { -1.0 } else { 1.0 });
        let mut y = owned(x);
        let out = Shared::new(y.storage_mut::<f32>());
        let piece = threads::rows_per_piece(tokens, columns);
        threads::each(tokens.div_ceil(piece), |task| {
            for (t, position) in positions.iter().enumerate().skip(task * piece).take(piece) {
                let at = *position as usize * half;
                #[expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
                // SAFETY: each row belongs to one task.
                let row = unsafe { out.part(t * columns, columns) };
                rotate_row(level, row, &angles.cos[at..][..half], &angles.sin[at..][..half], sign);
            }
        });
        y
    }
}

impl<B: RopeOps, C: CheckpointStrategy> RopeOps for Autodiff<B, C> {
    fn rotate(x: FloatTensor<Self>, angles: Arc<Angles>, positions: Arc<[u32]>, back: bool) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: RopeOps> Backward<B, 1> for Step {
            type State = (Arc<Angles>, Arc<[u32]>, bool);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let (angles, positions, back) = ops.state;
                unary::<B, _>(ops.parents, ops.node, grads, |dy| B::rotate(dy, angles, positions, !back));
            }
        }
        let (x, node) = x.into_parts();
        let y = B::rotate(x, angles.clone(), positions.clone(), back);
        match Step.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((angles, positions, back), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

/// Rotates every head of `x[T, heads · head_dim]` by the angles of `positions[t]`. Differentiable in `x`.
///
/// # Panics
/// When there are not `T` positions, a position exceeds the table's maximum, or a row is not a whole number of heads.
#[must_use]
pub fn rope(x: Tensor<2>, table: &RopeTable, positions: &[u32]) -> Tensor<2> {
    let ([tokens, columns], head_dim) = (x.dims(), 2 * table.inv_freq.len());
    assert_eq!(tokens, positions.len(), "one position per token");
    assert!(
        head_dim > 0 && columns.is_multiple_of(head_dim),
        "rows of {columns} elements are not whole heads of {head_dim}"
    );
    let angles = table.up_to(positions.iter().max().map_or(0, |highest| *highest as usize + 1));
    Tensor::from_dispatch(<Dispatch as RopeOps>::rotate(x.into_dispatch(), angles, positions.into(), false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, random, values};

    fn inv_freq(half: usize) -> Vec<f32> {
        (0..half).map(|i| 10000f64.powf(-(i as f64) / half as f64) as f32).collect()
    }

    fn naive(x: &[f32], inv_freq: &[f32], factor: f64, positions: &[u32], columns: usize) -> Vec<f32> {
        let half = inv_freq.len();
        let mut y = x.to_vec();
        for (t, position) in positions.iter().enumerate() {
            for head in 0..columns / (2 * half) {
                for (i, f) in inv_freq.iter().enumerate() {
                    let (sin, cos) = f64::from(*position as f32 * f).sin_cos();
                    let at = t * columns + head * 2 * half + i;
                    let (a, b) = (f64::from(x[at]), f64::from(x[at + half]));
                    y[at] = (factor * (a * cos - b * sin)) as f32;
                    y[at + half] = (factor * (b * cos + a * sin)) as f32;
                }
            }
        }
        y
    }

    #[test]
    fn forward_equals_the_definition_and_backward_is_its_transpose() {
        let tokens = [1, 5, 40, 256];
        let heads = [(1, 1), (3, 4), (9, 32), (2, 7), (1, 64)];
        for (tokens, (heads, half)) in tokens.into_iter().flat_map(|tokens| heads.map(|heads| (tokens, heads))) {
            for (start, factor) in [(0, 1.0f32), (7, 0.5), (90, 1.25)] {
                let (columns, inv_freq) = (heads * 2 * half, inv_freq(half));
                let positions: Vec<u32> = (0..tokens as u32).map(|t| start + t * 3 % 170).collect();
                let table = RopeTable::new(&inv_freq, factor, 512);
                let x = random([tokens, columns], 1).require_grad();
                let dy = random::<2>([tokens, columns], 2);
                let y = rope(x.clone(), &table, &positions);
                let want = naive(&values(&x), &inv_freq, f64::from(factor), &positions, columns);
                assert_close(&values(&y), &want, 1e-6, "forward");
                // <dy, R x> = <Rᵀ dy, x>
                let dx = x.grad(&(y.clone() * dy.clone()).sum().backward()).expect("x");
                let turned_back = rope(dx.clone(), &table, &positions);
                let square = f64::from(factor).powi(2) as f32;
                let scaled: Vec<f32> = values(&dy).iter().map(|v| v * square).collect();
                assert_close(&values(&turned_back), &scaled, 1e-5, "R Rᵀ dy = factor² dy");
            }
        }
    }

    #[test]
    fn an_input_that_is_shared_is_not_changed() {
        let table = RopeTable::new(&inv_freq(2), 1.0, 64);
        let x = random::<2>([3, 8], 1).inner();
        let before = values(&x);
        let _ = rope(x.clone(), &table, &[3, 4, 5]);
        assert_eq!(values(&x), before);
    }

    #[test]
    #[should_panic(expected = "position 64 in a table for 64")]
    fn a_position_beyond_the_table_is_refused() {
        let _ = rope(random([1, 4], 1), &RopeTable::new(&inv_freq(2), 1.0, 64), &[64]);
    }
}
