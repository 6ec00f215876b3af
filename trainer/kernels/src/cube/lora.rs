//! A frozen linear layer with a LoRA adapter. `A` and `B` are f32 and cast to the dtype of the activations. Their gradients are
//! accumulated and returned in f32.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::cast;

use super::dequantize::dense;
use super::dropout::dropped;
use super::gemm::{Factor, add_product, product, scaled_product};
use super::tensors::{nothing, reshaped, zeros};
use crate::lora::{LoraBackward, LoraOps, LoraSettings};
use crate::rematerialize::Operand;

impl LoraOps for CubeBackend {
    fn lora_down(x: FloatTensor<Self>, a: FloatTensor<Self>, settings: LoraSettings) -> FloatTensor<Self> {
        let dtype = x.dtype;
        let input = match &settings.dropout {
            None => x,
            Some(dropout) => dropped(x, dropout),
        };
        product(Factor::plain(input), Factor::transposed(cast(a, dtype)), dtype)
    }

    fn lora(
        x: Operand<Self>,
        weight: IntTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        settings: LoraSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let LoraSettings { layout, scale, .. } = settings;
        let x = x.value();
        let dtype = x.dtype;
        let u = Self::lora_down(x.clone(), a, settings);
        // The small product first: the large one can add to it at no cost.
        let y = scaled_product(Factor::plain(u.clone()), Factor::transposed(cast(b, dtype)), scale, dtype);
        add_product(Factor::plain(x), Factor::transposed(dense(weight, layout, dtype)), 1.0, &y);
        (y, u)
    }

    fn lora_with_cotangent(
        x: Operand<Self>,
        _: IntTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: LoraSettings,
    ) -> FloatTensor<Self> {
        reshaped(zeros(&x.value(), 1, 1), [1])
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
        let LoraBackward { settings: LoraSettings { layout, scale, dropout }, input_gradient } = how;
        let dtype = x.dtype;
        // du = s · dy·B
        let du = scaled_product(Factor::plain(dy.clone()), Factor::plain(cast(b, dtype)), scale, dtype);
        // dB = s · dyᵀ·u
        let db = scaled_product(Factor::transposed(dy.clone()), Factor::plain(u), scale, DType::F32);
        // dA = duᵀ·drop(x)
        let input = match &dropout {
            None => x.clone(),
            Some(dropout) => dropped(x.clone(), dropout),
        };
        let da = product(Factor::transposed(du.clone()), Factor::plain(input), DType::F32);
        if !input_gradient {
            return (nothing(&x), da, db);
        }
        // dx = dy·W + drop(du·A)
        let adapter = product(Factor::plain(du), Factor::plain(cast(a, dtype)), dtype);
        let dx = match &dropout {
            None => adapter,
            Some(dropout) => dropped(adapter, dropout),
        };
        add_product(Factor::plain(dy), Factor::plain(dense(weight, layout, dtype)), 1.0, &dx);
        (dx, da, db)
    }
}
