//! Data parallelism: several processes train one model.
//!
//! Responsible for: assigning micro-batches to processes, and sums over all processes. Every process has the whole
//! model, computes its part of each optimizer step, and then makes the same update. The first process logs the run.
//! Must not depend on: the training loop.

mod distributed_env;
mod star;

use burn::tensor::{Tensor, TensorData};
use sha2::{Digest, Sha256};
use tonfall_kernels::{Communicator, all_reduce};

pub use distributed_env::{DistributedEnv, DistributedEnvError};
pub use star::GroupError;
use star::Star;

use crate::device::{Compute, DeviceKind};
use crate::error::TrainError;
use crate::lora::values;
use crate::params::{GradientSums, Param, ParamStore};

/// The processes of a run, as one of them sees the group.
#[derive(Debug)]
pub struct Group {
    rank: usize,
    size: usize,
    /// `None` in a process that trains alone.
    star: Option<Star>,
    /// `Some` if all processes compute on CUDA and have NCCL.
    nccl: Option<Communicator>,
}

impl Group {
    /// A process that trains alone.
    #[must_use]
    pub fn alone() -> Self {
        Self { rank: 0, size: 1, star: None, nccl: None }
    }

    /// Waits until all processes are connected.
    ///
    /// # Errors
    /// If a process is missing, or the first process can't be reached.
    pub fn meet(env: &DistributedEnv) -> Result<Self, GroupError> {
        Ok(Self { rank: env.rank, size: env.size, star: Some(Star::meet(env)?), nccl: None })
    }

    /// Whether this process logs the run.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// Number of processes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether a micro-batch of an optimizer step belongs to this process.
    pub(crate) fn has(&self, micro_batch: usize) -> bool {
        micro_batch % self.size == self.rank
    }

    /// Checks that bytes are the same in all processes.
    ///
    /// # Errors
    /// In every process, if the bytes of one differ.
    pub fn agree(&mut self, what: &'static str, bytes: &[u8]) -> Result<(), GroupError> {
        let Some(star) = &mut self.star else { return Ok(()) };
        let own: [u8; 32] = Sha256::digest(bytes).into();
        let mut first = own;
        star.share(&mut first)?;
        let differs = self.gather(f64::from(u8::from(own != first)))?;
        match differs.iter().position(|differs| *differs > 0.0) {
            Some(rank) => Err(GroupError::Differs { rank, what }),
            None => Ok(()),
        }
    }

    /// Sums gradients with NCCL from now on, if all processes compute on CUDA and have NCCL. Returns a notice if they
    /// compute on CUDA without NCCL.
    ///
    /// # Errors
    /// If a process has ended or NCCL doesn't start.
    pub(crate) fn connect(&mut self, compute: &Compute) -> Result<Option<String>, TrainError> {
        if self.star.is_none() {
            return Ok(None);
        }
        let on_cuda = self.gather(f64::from(u8::from(compute.kind() == DeviceKind::Cuda)))?;
        let able = self.gather(f64::from(u8::from(Communicator::available())))?;
        if on_cuda.contains(&0.0) {
            return Ok(None);
        }
        if let Some(rank) = able.iter().position(|able| *able == 0.0) {
            return Ok(Some(format!(
                "rank {rank} has no libnccl.so.2 (`apt-get install libnccl2`): gradients are summed in host memory, which is slower"
            )));
        }
        let made = if self.is_first() { Communicator::new_id() } else { Ok([0; 128]) };
        let failed = self.gather(f64::from(u8::from(made.is_err())))?.contains(&1.0);
        let mut id = made.map_err(TrainError::Device)?;
        if failed {
            return Err(TrainError::Device("NCCL did not start on rank 0; see the output of that process".to_owned()));
        }
        if let Some(star) = &mut self.star {
            star.share(&mut id)?;
        }
        self.nccl = Some(Communicator { id, rank: self.rank, size: self.size });
        Ok(None)
    }

    /// One number from each process, by rank.
    pub(crate) fn gather(&mut self, own: f64) -> Result<Vec<f64>, GroupError> {
        let mut numbers = vec![0.0; self.size];
        numbers[self.rank] = own;
        self.sum(&mut numbers)?;
        Ok(numbers)
    }

    /// Replaces numbers with their sums over all processes.
    pub(crate) fn sum(&mut self, numbers: &mut [f64]) -> Result<(), GroupError> {
        self.star.as_mut().map_or(Ok(()), |star| star.sum(numbers))
    }

    /// Replaces gradients with their sums over all processes. A parameter that has no gradient in any process still has
    /// none.
    pub(crate) fn sum_gradients(&mut self, sums: &mut GradientSums, params: &ParamStore) -> Result<(), TrainError> {
        let Some(star) = &mut self.star else { return Ok(()) };
        let slots = sums.slots();
        let mut present: Vec<f64> = slots.iter().map(|slot| f64::from(u8::from(slot.is_some()))).collect();
        // This detects a process that has ended; NCCL would wait for it.
        star.sum(&mut present)?;
        let due =
            |(slot, param): (&mut Option<Tensor<2>>, &Param)| slot.take().unwrap_or_else(|| param.value.zeros_like());
        let some = slots.iter_mut().zip(params.iter()).zip(&present).filter(|(_, present)| **present > 0.0);
        let gradients: Vec<Tensor<2>> = some.map(|(place, _)| due(place)).collect();
        let sums = match self.nccl {
            Some(communicator) => all_reduce(gradients, communicator),
            None => through_the_host(star, gradients)?,
        };
        let places = slots.iter_mut().zip(&present).filter(|(_, present)| **present > 0.0);
        places.zip(sums).for_each(|((slot, _), sum)| *slot = Some(sum));
        Ok(())
    }
}

/// Sums tensors over all processes, in one message.
fn through_the_host(star: &mut Star, tensors: Vec<Tensor<2>>) -> Result<Vec<Tensor<2>>, TrainError> {
    let mut numbers = Vec::new();
    for tensor in &tensors {
        numbers.extend(values(tensor)?);
    }
    star.sum(&mut numbers)?;
    let mut rest = &numbers[..];
    let sum = |tensor: Tensor<2>| {
        let shape = tensor.dims();
        let (sum, after) = rest.split_at(shape[0] * shape[1]);
        rest = after;
        Tensor::from_data(TensorData::new(sum.to_vec(), shape), &tensor.device())
    };
    Ok(tensors.into_iter().map(sum).collect())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn gradients_are_summed_and_absent_ones_stay_absent() {
        let sums = star::tests::each(3, |env| {
            let device = Device::flex();
            let mut params = ParamStore::default();
            let zeros = |shape| Tensor::<2>::zeros(shape, &device);
            let shapes = [[2, 3], [1, 4], [2, 2]];
            let ids = shapes.map(|shape| params.register("p", zeros(shape), shape.to_vec()));
            let mut group = Group::meet(&env).expect("all come");
            let mut sums = GradientSums::new(&params);
            sums.add(ids[0], zeros(shapes[0]) + (env.rank + 1) as f32);
            if env.rank == 1 {
                sums.add(ids[2], zeros(shapes[2]) + 0.5);
            }
            group.sum_gradients(&mut sums, &params).expect("a sum");
            let read = |slot: &Option<Tensor<2>>| slot.as_ref().map(|tensor| values(tensor).expect("values"));
            sums.slots().iter().map(read).collect::<Vec<_>>()
        });
        for sum in sums {
            assert_eq!(sum, [Some(vec![6.0; 6]), None, Some(vec![0.5; 4])]);
        }
    }

    #[test]
    fn every_process_reports_which_one_differs() {
        let results = star::tests::each(3, |env| {
            let mut group = Group::meet(&env).expect("all come");
            group.agree("plan", b"same").expect("the same");
            let other = [b"same", b"same", b"else"][env.rank];
            group.agree("plan", other).map_err(|error| error.to_string())
        });
        for result in results {
            assert!(result.expect_err("one differs").starts_with("rank 2 has another plan"));
        }
    }

    #[test]
    fn every_micro_batch_belongs_to_one_process() {
        let group = |rank| Group { rank, size: 3, star: None, nccl: None };
        for micro_batch in 0..10 {
            assert_eq!((0..3).filter(|rank| group(*rank).has(micro_batch)).count(), 1);
        }
    }
}
