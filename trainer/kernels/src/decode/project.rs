//! Linear layers: `y = x·Wᵀ + s·u·Bᵀ + b` for several weights with one input.

use std::ops::Range;

use super::host_matrix::HostMatrix;
use super::rows::Rows;
use crate::cpu::few_rows::{self, MAX_ROWS, OUTPUTS};
use crate::cpu::gemm::{self, Output, Term};
use crate::cpu::level::Level;
use crate::cpu::memory::Shared;
use crate::cpu::pack::{Left, Right};
use crate::cpu::threads;

/// How products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// For 1 to [`super::MAX_ROWS`] rows: reads each weight once. A row's result doesn't depend on the number of rows.
    FewRows,
    /// GEMM: for more rows.
    Gemm,
}

/// The second half of a LoRA adapter: `s·u·Bᵀ` with `u = x·Aᵀ`.
#[derive(Clone, Copy, Debug)]
pub struct Lora<'a> {
    /// `[out, r]`
    pub b: &'a HostMatrix,
    /// `[rows, r]`
    pub u: &'a Rows,
    pub scale: f32,
}

/// One linear layer and its output `[rows, out]`.
#[derive(Debug)]
pub struct Projection<'a> {
    pub weight: &'a HostMatrix,
    pub bias: Option<&'a [f32]>,
    pub lora: Option<Lora<'a>>,
    pub output: &'a mut Rows,
}

/// Weights that a task reads at least, if there are so many.
const TASK_WEIGHTS: usize = 16 * 1024;
/// Most layers with one input: q, k and v.
const MOST: usize = 3;

/// Applies linear layers, at most three, to the first `rows` rows of `x`.
///
/// # Panics
/// When shapes don't fit, or [`Kernel::FewRows`] gets more than [`super::MAX_ROWS`] rows.
pub fn project<'a>(kernel: Kernel, rows: usize, x: &Rows, layers: impl IntoIterator<Item = Projection<'a>>) {
    let layers = layers.into_iter().inspect(|layer| {
        assert_eq!(layer.weight.cols(), x.columns(), "input features of the weight");
        assert_eq!(layer.weight.rows(), layer.output.columns(), "output features of the weight");
        assert!(rows <= x.count() && rows <= layer.output.count(), "rows of the product");
        assert!(layer.bias.is_none_or(|bias| bias.len() == layer.weight.rows()), "length of the bias");
        if let Some(lora) = &layer.lora {
            assert_eq!((lora.b.rows(), lora.b.cols()), (layer.weight.rows(), lora.u.columns()), "shape of B");
        }
    });
    match kernel {
        Kernel::FewRows => few(rows, x, layers),
        Kernel::Gemm => layers.for_each(|layer| many(rows, x, layer)),
    }
}

/// A layer whose output several tasks write.
struct Part<'a> {
    weight: &'a HostMatrix,
    bias: Option<&'a [f32]>,
    lora: Option<Lora<'a>>,
    output: Shared<'a, f32>,
    stride: usize,
}

impl<'a> From<Projection<'a>> for Part<'a> {
    fn from(layer: Projection<'a>) -> Self {
        let Projection { weight, bias, lora, output } = layer;
        let stride = output.stride();
        Self { weight, bias, lora, output: Shared::new(output.values_mut()), stride }
    }
}

fn few<'a>(rows: usize, x: &Rows, layers: impl Iterator<Item = Projection<'a>>) {
    assert!(rows <= MAX_ROWS, "{rows} rows in a product of few rows");
    // An array, since a vector would be an allocation for each product.
    let mut parts: [Option<Part<'_>>; MOST] = Default::default();
    for (index, layer) in layers.enumerate() {
        assert!(index < MOST, "more than {MOST} layers with one input");
        parts[index] = Some(layer.into());
    }
    let piece = (TASK_WEIGHTS / x.columns().max(1)).next_multiple_of(OUTPUTS).max(OUTPUTS);
    let tasks_of = |part: &Part<'_>| part.weight.rows().div_ceil(piece);
    let tasks = parts.iter().flatten().map(tasks_of).sum();
    let level = Level::best();
    threads::each(tasks, |task| {
        let mut task = task;
        for part in parts.iter().flatten() {
            if task < tasks_of(part) {
                return part.compute(level, rows, x, task * piece..part.weight.rows().min((task + 1) * piece));
            }
            task -= tasks_of(part);
        }
    });
}

impl Part<'_> {
    /// Computes a range of output features for all rows.
    fn compute(&self, level: Level, rows: usize, x: &Rows, range: Range<usize>) {
        let x = few_rows::Rows { values: x.values(), stride: x.stride(), count: rows };
        let (weight, up) = (self.weight.view(), self.lora.map(|lora| (lora.b.view(), lora)));
        let (mut sums, mut more) = ([[0.0; MAX_ROWS]; OUTPUTS], [[0.0; MAX_ROWS]; OUTPUTS]);
        for first in range.clone().step_by(OUTPUTS) {
            let outputs = OUTPUTS.min(range.end - first);
            few_rows::sums(level, &weight, first, outputs, x, &mut sums);
            if let Some((b, lora)) = &up {
                let u = few_rows::Rows { values: lora.u.values(), stride: lora.u.stride(), count: rows };
                few_rows::sums(level, b, first, outputs, u, &mut more);
                for (sum, more) in sums.as_flattened_mut().iter_mut().zip(more.as_flattened()) {
                    *sum += lora.scale * more;
                }
            }
            for (row, start) in (0..rows).map(|row| (row, row * self.stride + first)) {
                #[expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
                // SAFETY: no other task has these output features.
                let y = unsafe { self.output.part(start, outputs) };
                for (o, y) in y.iter_mut().enumerate() {
                    *y = sums[o][row] + self.bias.map_or(0.0, |bias| bias[first + o]);
                }
            }
        }
    }
}

fn many(rows: usize, x: &Rows, layer: Projection<'_>) {
    let right = Right::stored_transposed(layer.weight.view());
    let base = Term { left: Left::rows(x.values(), x.stride()), right, depth: x.columns(), alpha: 1.0 };
    let (columns, stride) = (layer.output.columns(), layer.output.stride());
    let output = Output::new(layer.output.values_mut(), stride);
    match layer.lora {
        Some(lora) => {
            let right = Right::stored_transposed(lora.b.view());
            let left = Left::rows(lora.u.values(), lora.u.stride());
            let up = Term { left, right, depth: lora.u.columns(), alpha: lora.scale };
            gemm::parallel_into(Level::best(), &[base, up], rows, columns, output);
        }
        None => gemm::parallel_into(Level::best(), &[base], rows, columns, output),
    }
    if let Some(bias) = layer.bias {
        for row in 0..rows {
            layer.output.row_mut(row).iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
        }
    }
}
