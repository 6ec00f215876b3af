//! A frozen linear layer with a LoRA adapter (Hu et al. 2021): `y = x·Wᵀ + b + s·(drop(x)·Aᵀ)·Bᵀ`.
//!
//! Responsible for: both matrix products in one pass over the output, and the gradients of `x`, `A` and `B`. Saved for the
//! backward pass: `x` (or the inputs it is recomputed from, see [`Rematerialized`]), the stored weight, `A`, `B` and
//! `u = drop(x)·Aᵀ`, `r` numbers per token.
//! Must not depend on: where adapters come from, how they are named or merged.

use burn::tensor::Tensor;

use crate::bias::add_bias;
use crate::buffer::Buffer;
use crate::cpu::gemm::Term;
use crate::cpu::level::Level;
use crate::cpu::pack::{Left, Right};
use crate::cpu::{gemm, gemv, transpose};
use crate::dropout::Dropout;
use crate::flex::{bytes, constant, contiguous, dims, floats, matrix, nothing, vector};
use crate::frozen::{FrozenMatrix, MatrixLayout};
use crate::glu::GluOps;
use crate::op::{
    Autodiff, Backend, Backward, CheckpointStrategy, Checkpointer, Dispatch, Flex, FloatTensor, Gradients, IntTensor,
    NodeId, Ops, OpsKind, backend_extension,
};
use crate::rematerialize::{Operand, Rematerialized, SavedOperand, untracked};
use crate::rms_norm::RmsNormOps;

/// The constants of one adapted layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoraSettings {
    pub(crate) layout: MatrixLayout,
    pub(crate) scale: f32,
    pub(crate) dropout: Option<Dropout>,
}

/// Options of the backward pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoraBackward {
    pub(crate) settings: LoraSettings,
    /// Whether the gradient of the input is needed.
    pub(crate) input_gradient: bool,
}

/// The operations of a backend.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cube"))]
pub(crate) trait LoraOps: Backend {
    /// `x[T, in]`, `a[r, in]` → `u[T, r] = drop(x)·aᵀ`.
    fn lora_down(x: FloatTensor<Self>, a: FloatTensor<Self>, settings: LoraSettings) -> FloatTensor<Self>;

    /// `x[T, in]`, `a[r, in]`, `b[out, r]` → `(y[T, out], u[T, r])`.
    fn lora(
        #[extension_type] x: Operand<Self>,
        weight: IntTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        settings: LoraSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// A zero `[1]` with the gradients that `lora` has if the cotangent of `y` is `dy[T, out]`.
    fn lora_with_cotangent(
        #[extension_type] x: Operand<Self>,
        weight: IntTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        settings: LoraSettings,
    ) -> FloatTensor<Self>;

    /// The gradients of `x`, `a` and `b`; that of `x` is empty if it is not needed. Not differentiable itself.
    fn lora_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        u: FloatTensor<Self>,
        weight: IntTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        how: LoraBackward,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// Tokens per chunk: dropout is applied to a copy of a chunk of the input.
const DROPPED_TOKENS: usize = 256;

/// Calls `use_it(first token, drop(x) of up to 256 tokens)`.
fn each_dropped(x: &[f32], features: usize, dropout: &Dropout, mut use_it: impl FnMut(usize, &[f32])) {
    for (chunk, values) in x.chunks(DROPPED_TOKENS * features).enumerate() {
        let mut values = values.to_vec();
        dropout.apply(chunk * DROPPED_TOKENS * features, &mut values);
        use_it(chunk * DROPPED_TOKENS, &values);
    }
}

impl LoraOps for Flex {
    fn lora_down(x: FloatTensor<Self>, a: FloatTensor<Self>, settings: LoraSettings) -> FloatTensor<Self> {
        let (x, a) = (contiguous(x), contiguous(a));
        let ((tokens, features), (rank, a_features)) = (dims(&x), dims(&a));
        assert_eq!(
            (features, a_features),
            (settings.layout.cols, settings.layout.cols),
            "input features of the weight and of A"
        );
        let level = Level::best();
        let (x, a) = (floats(&x), floats(&a));
        let mut u = Buffer::dirty(tokens * rank);
        let down = |x: &[f32], u: &mut [f32]| {
            let right = Right::Columns { values: a, stride: features };
            let term = Term { left: Left::rows(x, features), right, depth: features, alpha: 1.0 };
            gemm::parallel(level, &[term], x.len() / features, rank, u, false);
        };
        match &settings.dropout {
            None => down(x, &mut u),
            Some(dropout) => each_dropped(x, features, dropout, |token, x| {
                down(x, &mut u[token * rank..][..x.len() / features * rank]);
            }),
        }
        matrix(u, tokens, rank)
    }

    fn lora(
        x: Operand<Self>,
        weight: IntTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        settings: LoraSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (x, b) = (contiguous(x.value()), contiguous(b));
        let LoraSettings { layout, scale, .. } = settings;
        let u_tensor = Self::lora_down(x.clone(), a, settings);
        let ((tokens, features), (_, rank)) = (dims(&x), dims(&u_tensor));
        assert_eq!(dims(&b), (layout.rows, rank), "shape of B");
        let level = Level::best();
        let (x, b, u) = (floats(&x), floats(&b), floats(&u_tensor));

        let mut y = Buffer::dirty(tokens * layout.rows);
        let stored = layout.view(bytes(&weight));
        let up = Term {
            left: Left::rows(u, rank),
            right: Right::Columns { values: b, stride: rank },
            depth: rank,
            alpha: scale,
        };
        if tokens <= gemv::MAX_ROWS {
            gemv::product(level, x, tokens, stored, &mut y);
            gemm::parallel(level, &[up], tokens, layout.rows, &mut y, true);
        } else {
            let right = Right::stored_transposed(stored);
            let base = Term { left: Left::rows(x, features), right, depth: features, alpha: 1.0 };
            gemm::parallel(level, &[base, up], tokens, layout.rows, &mut y, false);
        }
        (matrix(y, tokens, layout.rows), u_tensor)
    }

    fn lora_with_cotangent(
        _: Operand<Self>,
        _: IntTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: LoraSettings,
    ) -> FloatTensor<Self> {
        vector(vec![0.0])
    }

    fn lora_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        u: FloatTensor<Self>,
        weight: IntTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        how: LoraBackward,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (dy, x, a, b) = (contiguous(dy), contiguous(x), contiguous(a), contiguous(b));
        let LoraBackward { settings: LoraSettings { layout, scale, dropout }, input_gradient } = how;
        let ((tokens, features), (rank, _), outputs) = (dims(&x), dims(&a), layout.rows);
        let level = Level::best();
        let (dy, x, a, b, u) = (floats(&dy), floats(&x), floats(&a), floats(&b), floats(&u));

        // du = s · dy·B
        let mut du = Buffer::dirty(tokens * rank);
        let right = Right::Rows { values: b, stride: rank };
        let term = Term { left: Left::rows(dy, outputs), right, depth: outputs, alpha: scale };
        gemm::parallel(level, &[term], tokens, rank, &mut du, false);

        // dB = s · dyᵀ·u, computed as its transpose: a matrix with few rows and many columns fits the GEMM's tiles better.
        let mut db_transposed = Buffer::dirty(rank * outputs);
        let right = Right::Rows { values: dy, stride: outputs };
        let term = Term { left: Left::columns(u, rank), right, depth: tokens, alpha: 1.0 };
        gemm::parallel(level, &[term], rank, outputs, &mut db_transposed, false);
        let mut db = Buffer::dirty(rank * outputs);
        transpose::matrix(&db_transposed, rank, outputs, outputs, &mut db);
        db.iter_mut().for_each(|value| *value *= scale);

        // dA = duᵀ·drop(x)
        let mut da = Buffer::zeroed(rank * features);
        let mut add_da = |token: usize, x: &[f32], accumulate: bool| {
            let tokens = x.len() / features;
            let left = Left::columns(&du[token * rank..][..tokens * rank], rank);
            let right = Right::Rows { values: x, stride: features };
            let term = Term { left, right, depth: tokens, alpha: 1.0 };
            gemm::parallel(level, &[term], rank, features, &mut da, accumulate);
        };
        match &dropout {
            None => add_da(0, x, false),
            Some(dropout) => each_dropped(x, features, dropout, |token, x| add_da(token, x, true)),
        }

        // dx = dy·W + drop(du·A)
        let mut dx = Buffer::default();
        if input_gradient {
            dx = Buffer::dirty(tokens * features);
            let right = Right::stored(layout.view(bytes(&weight)));
            let base = Term { left: Left::rows(dy, outputs), right, depth: outputs, alpha: 1.0 };
            let right = Right::Rows { values: a, stride: features };
            let adapter = Term { left: Left::rows(&du, rank), right, depth: rank, alpha: 1.0 };
            match &dropout {
                None => gemm::parallel(level, &[base, adapter], tokens, features, &mut dx, false),
                Some(dropout) => {
                    gemm::parallel(level, &[adapter], tokens, features, &mut dx, false);
                    dropout.apply(0, &mut dx);
                    gemm::parallel(level, &[base], tokens, features, &mut dx, true);
                }
            }
        }
        let dx = if input_gradient { matrix(dx, tokens, features) } else { nothing() };
        (dx, matrix(da, rank, features), matrix(db, outputs, rank))
    }
}

/// Tensors saved for the backward pass.
#[derive(Clone, Debug)]
struct Saved<B: Backend> {
    x: SavedOperand<B>,
    u: FloatTensor<B>,
    weight: IntTensor<B>,
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    settings: LoraSettings,
}

impl<B: LoraOps + RmsNormOps + GluOps> Saved<B> {
    /// Computes the gradients of `x`, `a` and `b`, and registers those that are tracked.
    fn register(self, dy: FloatTensor<B>, parents: [Option<NodeId>; 3], grads: &mut Gradients) {
        let Self { x, u, weight, a, b, settings } = self;
        let how = LoraBackward { settings, input_gradient: parents[0].is_some() };
        let (dx, da, db) = B::lora_backward(dy, x.take(), u, weight, a, b, how);
        for (parent, gradient) in parents.into_iter().zip([dx, da, db]) {
            if let Some(parent) = parent {
                grads.register::<B>(parent, gradient);
            }
        }
    }
}

impl<B: LoraOps + RmsNormOps + GluOps, C: CheckpointStrategy> LoraOps for Autodiff<B, C> {
    fn lora_down(x: FloatTensor<Self>, a: FloatTensor<Self>, settings: LoraSettings) -> FloatTensor<Self> {
        constant::<B, C>(B::lora_down(x.into_primitive(), a.into_primitive(), settings))
    }

    fn lora(
        x: Operand<Self>,
        weight: IntTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        settings: LoraSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        #[derive(Debug)]
        struct Step;
        impl<B: LoraOps + RmsNormOps + GluOps> Backward<B, 3> for Step {
            type State = Saved<B>;
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                ops.state.register(dy, ops.parents.map(|parent| Some(parent?.id)), grads);
            }
        }
        let ((x, x_node), (a, a_node), (b, b_node)) = (untracked(x), a.into_parts(), b.into_parts());
        let (y, u) = B::lora(x.clone(), weight.clone(), a.clone(), b.clone(), settings);
        let y = match Step.prepare::<C>([x_node, a_node, b_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish(Saved { x: SavedOperand::new(x), u: u.clone(), weight, a, b, settings }, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        };
        (y, constant::<B, C>(u))
    }

    fn lora_with_cotangent(
        x: Operand<Self>,
        weight: IntTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        settings: LoraSettings,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: LoraOps + RmsNormOps + GluOps> Backward<B, 3> for Step {
            type State = (Saved<B>, FloatTensor<B>);
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let (saved, dy) = ops.state;
                saved.register(dy, ops.parents.map(|parent| Some(parent?.id)), grads);
            }
        }
        let ((x, x_node), (a, a_node), (b, b_node)) = (untracked(x), a.into_parts(), b.into_parts());
        let dy = dy.into_primitive();
        let zero = B::lora_with_cotangent(x.clone(), weight.clone(), a.clone(), b.clone(), dy.clone(), settings);
        match Step.prepare::<C>([x_node, a_node, b_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let u = B::lora_down(x.clone().value(), a.clone(), settings);
                prep.finish((Saved { x: SavedOperand::new(x), u, weight, a, b, settings }, dy), zero)
            }
            OpsKind::UnTracked(prep) => prep.finish(zero),
        }
    }

    fn lora_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        u: FloatTensor<Self>,
        weight: IntTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        how: LoraBackward,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [dy, x, u, a, b] = [dy, x, u, a, b].map(|tensor| tensor.into_primitive());
        let (dx, da, db) = B::lora_backward(dy, x, u, weight, a, b, how);
        (constant::<B, C>(dx), constant::<B, C>(da), constant::<B, C>(db))
    }
}

/// A LoRA adapter of one layer: `scale · (drop(x)·aᵀ)·bᵀ`.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// `[r, in]`.
    pub a: Tensor<2>,
    /// `[out, r]`.
    pub b: Tensor<2>,
    pub scale: f32,
    pub dropout: Option<Dropout>,
}

impl Adapter {
    pub(crate) fn settings(&self, weight: &FrozenMatrix) -> LoraSettings {
        if let Some(dropout) = &self.dropout {
            dropout.check();
        }
        let dropout = self.dropout.filter(|dropout| dropout.p > 0.0);
        LoraSettings { layout: weight.layout(), scale: self.scale, dropout }
    }
}

/// `x[T, in]` → `x·Wᵀ + bias + scale · (drop(x)·aᵀ)·bᵀ`, `[T, out]`. Differentiable in `x`, `bias`, `a` and `b`.
///
/// # Panics
/// When the shapes don't fit, or the dropout is not in [0, 1).
#[must_use]
pub fn lora_linear(
    x: impl Into<Rematerialized>,
    weight: &FrozenMatrix,
    bias: Option<Tensor<1>>,
    adapter: Adapter,
) -> Tensor<2> {
    let settings = adapter.settings(weight);
    let [a, b] = [adapter.a, adapter.b].map(Tensor::into_dispatch);
    let weight = weight.data().clone().into_dispatch();
    let (y, _) = <Dispatch as LoraOps>::lora(x.into().operand(), weight, a, b, settings);
    let y = Tensor::from_dispatch(y);
    match bias {
        Some(bias) => add_bias(y, bias),
        None => y,
    }
}

/// A zero `[1]`. Its `backward()` starts with `dy[T, out]` as the cotangent of a [`lora_linear`] without bias. The layer's
/// output is not computed, since its gradients don't need it.
///
/// # Panics
/// As [`lora_linear`], and when `dy` doesn't have the shape of the output.
#[must_use]
pub fn lora_linear_with_cotangent(
    x: impl Into<Rematerialized>,
    weight: &FrozenMatrix,
    adapter: Adapter,
    dy: Tensor<2>,
) -> Tensor<1> {
    let (settings, x) = (adapter.settings(weight), x.into());
    let [tokens, outputs] = dy.dims();
    assert_eq!([tokens, outputs], [x.tokens(), settings.layout.rows], "a cotangent has the shape of its tensor");
    let [a, b, dy] = [adapter.a, adapter.b, dy].map(Tensor::into_dispatch);
    let weight = weight.data().clone().into_dispatch();
    Tensor::from_dispatch(<Dispatch as LoraOps>::lora_with_cotangent(x.operand(), weight, a, b, dy, settings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, random, stored, tensor, values};
    use tonfall_blocks::Format;

    fn check(tokens: usize, (rows, cols): (usize, usize), rank: usize, format: Format, dropout: Option<Dropout>) {
        let what = format!("{tokens}x{rows}x{cols} r {rank} {format} {dropout:?}");
        let (weight, dense) = stored(format, rows, cols, 1);
        let x = random([tokens, cols], 2).require_grad();
        let a = random([rank, cols], 3).require_grad();
        let b = random([rows, rank], 4).require_grad();
        let dy = random::<2>([tokens, rows], 5);
        let mut mask = vec![1.0; tokens * cols];
        if let Some(dropout) = &dropout {
            dropout.apply(0, &mut mask);
        }
        let dropped = x.clone() * tensor(mask, [tokens, cols]);
        let want = x.clone().matmul(dense.transpose())
            + dropped.matmul(a.clone().transpose()).matmul(b.clone().transpose()).mul_scalar(0.7);
        let adapter = Adapter { a: a.clone(), b: b.clone(), scale: 0.7, dropout };
        let got = lora_linear(x.clone(), &weight, None, adapter.clone());
        assert_close(&values(&got), &values(&want), 2e-5, &what);
        let (got, want) = ((got * dy.clone()).sum().backward(), (want * dy.clone()).sum().backward());
        let from_cotangent = lora_linear_with_cotangent(x.clone(), &weight, adapter, dy.inner()).backward();
        for (name, leaf) in [("x", &x), ("a", &a), ("b", &b)] {
            let (got, want) = (leaf.grad(&got).expect("leaf"), leaf.grad(&want).expect("leaf"));
            assert_close(&values(&got), &values(&want), 2e-5, &format!("d{name} {what}"));
            let from_cotangent = leaf.grad(&from_cotangent).expect("leaf");
            assert_eq!(values(&from_cotangent), values(&got), "d{name} {what}, from a cotangent");
        }
    }

    #[test]
    fn forward_and_gradients_equal_plain_operations() {
        for tokens in [1, 2, 5, 33, 300] {
            for (rows, cols) in [(1, 1), (33, 48), (64, 100), (130, 65)] {
                for rank in [1, 8, 16, 40, 64] {
                    check(tokens, (rows, cols), rank, Format::F32, None);
                }
            }
        }
    }

    #[test]
    fn every_format_with_and_without_dropout_equals_plain_operations() {
        let dropout = Some(Dropout { p: 0.3, seed: 11, stream: 12 });
        for format in Format::ALL {
            check(40, (70, 256), 16, format, None);
            check(40, (70, 256), 16, format, dropout);
        }
        for tokens in [1, 3, 17, 257, 600] {
            for shape in [(7, 5), (20, 33), (16, 64), (65, 100)] {
                check(tokens, shape, 4, Format::Nf4, dropout);
            }
        }
    }

    #[test]
    fn an_untracked_input_gets_no_gradient() {
        let (weight, _) = stored(Format::Nf4, 20, 30, 1);
        let x = random::<2>([6, 30], 2);
        let a = random::<2>([4, 30], 3).require_grad();
        let b = random::<2>([20, 4], 4).require_grad();
        let adapter = Adapter { a: a.clone(), b, scale: 1.0, dropout: None };
        let gradients = lora_linear(x.clone(), &weight, None, adapter).sum().backward();
        assert!(x.grad(&gradients).is_none());
        assert_eq!(a.grad(&gradients).expect("a").dims(), [4, 30]);
    }
}
