//! The trainable tensors of a model and how a pass sees them.
//!
//! Responsible for: one ordered store of every trainable tensor, leaves for a tracked pass, and sums of gradients.
//! Must not depend on: which module a tensor belongs to, or how it is updated.

use std::cell::RefCell;
use std::collections::BTreeMap;

use burn::tensor::{Gradients, Tensor, TensorData, Transaction};
use tonfall_kernels::{norm, square_sums};

/// Index of a trainable tensor in its [`ParamStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ParamId(usize);

/// One trainable tensor.
#[derive(Debug)]
pub(crate) struct Param {
    /// Hugging Face name of the tensor, for a LoRA matrix the module's name plus `.lora_A` or `.lora_B`.
    pub name: String,
    /// Value, f32, without autodiff. A vector of length `n` is kept as `[1, n]`.
    pub value: Tensor<2>,
    /// Shape as it is written to files.
    pub shape: Vec<usize>,
}

impl Param {
    /// Whether AdamW's weight decay applies: to matrices, not to norms and biases, as in transformers' `Trainer`.
    pub(crate) fn is_matrix(&self) -> bool {
        self.shape.len() > 1
    }

    /// Number of elements.
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Every trainable tensor of a model, in a fixed order: the order of registration.
#[derive(Debug, Default)]
pub(crate) struct ParamStore {
    params: Vec<Param>,
}

impl ParamStore {
    /// Adds a tensor and returns the handle by which modules refer to it.
    pub(crate) fn register(&mut self, name: impl Into<String>, value: Tensor<2>, shape: Vec<usize>) -> ParamId {
        self.params.push(Param { name: name.into(), value, shape });
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

/// The parameters as one pass sees them: plain values, or leaves of an autodiff graph.
pub(crate) struct Binding<'a> {
    store: &'a ParamStore,
    leaves: Option<RefCell<BTreeMap<ParamId, Tensor<2>>>>,
}

impl<'a> Binding<'a> {
    /// A pass that needs no gradients.
    pub(crate) fn untracked(store: &'a ParamStore) -> Self {
        Self { store, leaves: None }
    }

    /// A pass whose parameters become leaves the first time they are used.
    pub(crate) fn tracked(store: &'a ParamStore) -> Self {
        Self { store, leaves: Some(RefCell::default()) }
    }

    /// The value of a parameter within this pass.
    pub(crate) fn get(&self, id: ParamId) -> Tensor<2> {
        let value = || self.store.get(id).value.clone();
        match &self.leaves {
            None => value(),
            Some(leaves) => leaves.borrow_mut().entry(id).or_insert_with(|| value().autodiff().require_grad()).clone(),
        }
    }

    /// Adds the gradients of every leaf that this pass used to `sums`.
    pub(crate) fn collect(self, gradients: &mut Gradients, sums: &mut GradientSums) {
        for (id, leaf) in self.leaves.into_iter().flat_map(RefCell::into_inner) {
            if let Some(gradient) = leaf.grad_remove(gradients) {
                sums.add(id, gradient);
            }
        }
    }
}

/// What is read of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Read {
    /// Sum of the token losses.
    pub loss: f64,
    /// Global norm of the gradients, before clipping.
    pub norm: f64,
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

    /// Adds a gradient shaped like its parameter.
    pub(crate) fn add(&mut self, id: ParamId, gradient: Tensor<2>) {
        let slot = &mut self.sums[id.0];
        *slot = Some(match slot.take() {
            None => gradient,
            Some(sum) => sum + gradient,
        });
    }

    /// What has to be known here of a step: the sum of `losses`, `[1]` each, and the norm of all gradients as one vector,
    /// summed in f64. One reading: everything that the device has to do for a step can be enqueued before it waits for it.
    pub(crate) fn read(&self, losses: Vec<Tensor<1>>) -> Read {
        let count = losses.len();
        let gradients: Vec<&Tensor<2>> = self.sums.iter().flatten().collect();
        let due = losses.into_iter().chain(square_sums(&gradients));
        let read = due.fold(Transaction::default(), Transaction::register).execute();
        let loss = read[..count].iter().flat_map(TensorData::iter::<f64>).sum();
        Read { loss, norm: read.get(count).map_or(0.0, norm) }
    }

    /// The sums in the order of the store, to be changed.
    pub(crate) fn slots(&mut self) -> &mut [Option<Tensor<2>>] {
        &mut self.sums
    }

    /// The sums in the order of the store; `None` where no gradient arrived.
    pub(crate) fn into_inner(self) -> Vec<Option<Tensor<2>>> {
        self.sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn what_is_read_is_the_sum_of_the_losses_and_the_norm_over_all_gradients() {
        let device = Device::flex();
        let row = |values: [f32; 2]| Tensor::<2>::from_data([values], &device);
        let mut store = ParamStore::default();
        let ids = ["first", "second", "third"].map(|name| store.register(name, row([0.0, 0.0]), vec![1, 2]));
        let mut sums = GradientSums::new(&store);
        assert_eq!(sums.read(Vec::new()), Read { loss: 0.0, norm: 0.0 });
        sums.add(ids[0], row([1.0, 1.0]));
        sums.add(ids[0], row([2.0, 3.0]));
        sums.add(ids[2], row([12.0, 0.0]));
        let losses = [0.5_f32, 2.0].map(|loss| Tensor::<1>::from_data([loss], &device)).to_vec();
        assert_eq!(sums.read(losses), Read { loss: 2.5, norm: 13.0 });
    }
}
