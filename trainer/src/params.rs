//! The trainable tensors of a model, and their gradients.
//!
//! Responsible for: one ordered store of all trainable tensors, autodiff leaves for a tracked pass, and gradient sums.
//! Must not depend on: the module that a tensor belongs to, the update of a tensor.

use std::cell::RefCell;
use std::collections::BTreeMap;

use burn::tensor::{DType, Gradients, Tensor, TensorData, Transaction};
use tonfall_kernels::{copied, norm, resident};

/// Index of a trainable tensor in its [`ParamStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ParamId(usize);

/// One trainable tensor.
#[derive(Debug)]
pub(crate) struct Param {
    /// Hugging Face name of the tensor. For a LoRA matrix, the module's name plus `.lora_A` or `.lora_B`.
    pub name: String,
    /// Value, f32, without autodiff. A vector of length `n` is stored as `[1, n]`.
    pub value: Tensor<2>,
    /// A copy of the value in the dtype of matrix products; `None` if that is f32.
    pub copy: Option<Tensor<2>>,
    /// Shape in files.
    pub shape: Vec<usize>,
}

impl Param {
    /// Whether AdamW's weight decay applies. It applies to matrices, not to norms and biases, as in transformers'
    /// `Trainer`.
    pub(crate) fn is_matrix(&self) -> bool {
        self.shape.len() > 1
    }

    /// Replaces the value.
    pub(crate) fn set(&mut self, value: Tensor<2>) {
        self.copy = self.copy.as_ref().map(|copy| resident_copy(&value, copy.dtype()));
        self.value = value;
    }

    /// The value in the dtype of matrix products.
    fn factor(&self) -> Tensor<2> {
        self.copy.as_ref().unwrap_or(&self.value).clone()
    }

    /// Number of elements.
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

fn resident_copy(value: &Tensor<2>, dtype: DType) -> Tensor<2> {
    resident(&value.device(), value.clone(), |value| copied(&value, dtype))
}

/// Every trainable tensor of a model, in a fixed order: the order of registration.
#[derive(Debug, Default)]
pub(crate) struct ParamStore {
    params: Vec<Param>,
    /// The dtype of the copies; `None` if there are none.
    copies: Option<DType>,
}

impl ParamStore {
    /// A store that also has copies of its values in `dtype`, for matrix products.
    pub(crate) fn for_products_in(dtype: DType) -> Self {
        Self { params: Vec::new(), copies: Some(dtype).filter(|dtype| *dtype != DType::F32) }
    }

    /// Adds a tensor and returns its handle for modules.
    pub(crate) fn register(&mut self, name: impl Into<String>, value: Tensor<2>, shape: Vec<usize>) -> ParamId {
        let copy = self.copies.map(|dtype| resident_copy(&value, dtype));
        self.params.push(Param { name: name.into(), value, copy, shape });
        ParamId(self.params.len() - 1)
    }

    pub(crate) fn get(&self, id: ParamId) -> &Param {
        &self.params[id.0]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Param> {
        self.params.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Param> {
        self.params.iter_mut()
    }

    pub(crate) fn count(&self) -> usize {
        self.params.len()
    }

    /// Number of trainable values.
    pub(crate) fn elements(&self) -> usize {
        self.params.iter().map(Param::elements).sum()
    }
}

/// The parameters of one pass: plain values, or leaves of an autodiff graph.
pub(crate) struct Binding<'a> {
    store: &'a ParamStore,
    leaves: Option<RefCell<BTreeMap<ParamId, Tensor<2>>>>,
}

impl<'a> Binding<'a> {
    /// A pass without gradients.
    pub(crate) fn untracked(store: &'a ParamStore) -> Self {
        Self { store, leaves: None }
    }

    /// A pass with gradients. Its parameters become leaves at their first use.
    pub(crate) fn tracked(store: &'a ParamStore) -> Self {
        Self { store, leaves: Some(RefCell::default()) }
    }

    /// The value of a parameter in this pass.
    pub(crate) fn get(&self, id: ParamId) -> Tensor<2> {
        let value = || self.store.get(id).factor();
        match &self.leaves {
            None => value(),
            Some(leaves) => leaves.borrow_mut().entry(id).or_insert_with(|| value().autodiff().require_grad()).clone(),
        }
    }

    /// Adds the gradients of all leaves that this pass used to `sums`.
    pub(crate) fn collect(self, gradients: &mut Gradients, sums: &mut GradientSums) {
        for (id, leaf) in self.leaves.into_iter().flat_map(RefCell::into_inner) {
            if let Some(gradient) = leaf.grad_remove(gradients) {
                sums.add(id, gradient);
            }
        }
    }
}

/// The numbers read back from the device after a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StepReadback {
    /// Sum of the token losses.
    pub loss: f64,
    /// Global norm of the gradients, before clipping.
    pub norm: f64,
}

impl StepReadback {
    /// The sum of `losses`, `[1]` each, and the norm from partial sums of squares, both summed in f64. All numbers are
    /// read in one transfer, so all work of a step is enqueued before the host waits. Errors of the device surface
    /// here.
    pub(crate) fn of(losses: Vec<Tensor<1>>, square_sums: Option<Tensor<1>>) -> Self {
        let count = losses.len();
        let due = losses.into_iter().chain(square_sums);
        let read = due.fold(Transaction::default(), Transaction::register).execute();
        let loss = read[..count].iter().flat_map(TensorData::iter::<f64>).sum();
        Self { loss, norm: read.get(count).map_or(0.0, norm) }
    }
}

/// Gradients summed over the micro-batches of one optimizer step, by parameter.
#[derive(Debug)]
pub(crate) struct GradientSums {
    sums: Vec<Option<Tensor<2>>>,
}

impl GradientSums {
    pub(crate) fn new(store: &ParamStore) -> Self {
        Self { sums: vec![None; store.count()] }
    }

    /// Adds a gradient with the shape of its parameter.
    pub(crate) fn add(&mut self, id: ParamId, gradient: Tensor<2>) {
        let slot = &mut self.sums[id.0];
        *slot = Some(match slot.take() {
            None => gradient,
            Some(sum) => sum + gradient,
        });
    }

    /// The sums, mutable, in the order of the store.
    pub(crate) fn slots(&mut self) -> &mut [Option<Tensor<2>>] {
        &mut self.sums
    }

    /// The sums in the order of the store; `None` for a parameter without a gradient.
    pub(crate) fn into_inner(self) -> Vec<Option<Tensor<2>>> {
        self.sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use tonfall_kernels::square_sums;

    #[test]
    fn readback_is_the_loss_sum_and_the_norm_over_all_gradients() {
        let device = Device::flex();
        let row = |values: [f32; 2]| Tensor::<2>::from_data([values], &device);
        let mut store = ParamStore::default();
        let ids = ["first", "second", "third"].map(|name| store.register(name, row([0.0, 0.0]), vec![1, 2]));
        let mut sums = GradientSums::new(&store);
        assert_eq!(StepReadback::of(Vec::new(), None), StepReadback { loss: 0.0, norm: 0.0 });
        sums.add(ids[0], row([1.0, 1.0]));
        sums.add(ids[0], row([2.0, 3.0]));
        sums.add(ids[2], row([12.0, 0.0]));
        let losses = [0.5_f32, 2.0].map(|loss| Tensor::<1>::from_data([loss], &device)).to_vec();
        let gradients = sums.into_inner();
        let squares = square_sums(&gradients.iter().flatten().collect::<Vec<_>>());
        assert_eq!(StepReadback::of(losses, squares), StepReadback { loss: 2.5, norm: 13.0 });
    }

    #[test]
    fn matrix_products_use_the_copy_in_their_dtype() {
        let device = Device::flex();
        for dtype in [DType::F32, DType::BF16] {
            let mut store = ParamStore::for_products_in(dtype);
            let id = store.register("weight", Tensor::from_data([[1.0_f32, 2.0]], &device), vec![1, 2]);
            store.iter_mut().for_each(|param| param.set(Tensor::from_data([[1.0_f32 + 1e-4, -3.0]], &device)));
            let factor = Binding::untracked(&store).get(id);
            assert_eq!((factor.dtype(), store.get(id).value.dtype()), (dtype, DType::F32));
            let one = if dtype == DType::BF16 { 1.0 } else { 1.0 + 1e-4 };
            assert_eq!(factor.into_data().iter::<f32>().collect::<Vec<_>>(), [one, -3.0]);
        }
    }
}
