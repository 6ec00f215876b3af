//! Examples and batches.
//!
//! Responsible for: concatenating examples without padding, and choosing the examples of each optimizer step.
//! Must not depend on: files, tokenizers, tensors.

use tonfall_recipes::Plan;
use tonfall_recipes::plan::Packing;

use crate::error::DataError;
use crate::label::mask::IGNORED;
use crate::prepare::packing::{Sequences, best_fit_decreasing};
use crate::prepare::permutation::Permutation;
use crate::prepare::store::Examples;

/// The origin of an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Index among [`PrepareReport::files`](crate::PrepareReport).
    pub file: usize,
    /// The line in JSON lines, CSV and TBX. The number of the row, from 1, in Parquet and JSON lists.
    pub row: u64,
}

/// A tokenized and labelled row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    pub input_ids: Vec<u32>,
    /// One label for each token: its own id, or [`IGNORED`]. Not shifted.
    pub labels: Vec<i32>,
    pub source: Source,
}

impl Example {
    /// An example without a source file.
    pub fn new(input_ids: Vec<u32>, labels: Vec<i32>) -> Self {
        Self { input_ids, labels, source: Source::default() }
    }

    /// Number of tokens with loss. The first token never has loss, because no token precedes it.
    pub fn trained_tokens(&self) -> usize {
        trained_tokens(&self.labels)
    }
}

fn trained_tokens(labels: &[i32]) -> usize {
    labels.iter().skip(1).filter(|label| **label != IGNORED).count()
}

/// A micro-batch: concatenated examples, without padding. Each example is a segment, and attention must not cross
/// segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// `[tokens]`: all tokens of the micro-batch. `labels` and `position_ids` have the same length.
    pub input_ids: Vec<u32>,
    pub labels: Vec<i32>,
    /// Positions, starting at 0 in each segment.
    pub position_ids: Vec<u32>,
    /// Number of tokens of each segment. The sum is the length of `input_ids`.
    pub segment_lengths: Vec<usize>,
}

impl Batch {
    /// Concatenates examples.
    pub fn new(examples: impl Iterator<Item = Example>) -> Self {
        let mut batch = Self::default();
        for example in examples {
            batch.input_ids.extend(&example.input_ids);
            batch.labels.extend(&example.labels);
            batch.position_ids.extend((0_u32..).take(example.input_ids.len()));
            batch.segment_lengths.push(example.input_ids.len());
        }
        batch
    }

    /// Concatenates the examples at `indexes`.
    ///
    /// # Errors
    /// If an index is out of range.
    pub fn of(examples: &Examples, indexes: impl Iterator<Item = usize>) -> Result<Self, DataError> {
        let found = indexes.map(|index| examples.get(index)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self::new(found.into_iter()))
    }

    /// Number of tokens with loss after the shift: labels that aren't ignored, without the first label of each segment.
    pub fn trained_tokens(&self) -> usize {
        let mut rest = self.labels.as_slice();
        let segments = self.segment_lengths.iter().map(|&length| {
            let (segment, after) = rest.split_at(length.min(rest.len()));
            rest = after;
            trained_tokens(segment)
        });
        segments.sum()
    }
}

/// Element-wise maximum over batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Largest {
    pub tokens: usize,
    /// Tokens with loss.
    pub trained: usize,
    /// Tokens of the longest example.
    pub example: usize,
}

impl Largest {
    /// `batches` holds the indexes of the examples of each batch.
    pub fn of(examples: &Examples, batches: impl Iterator<Item = Vec<usize>>) -> Self {
        let (tokens, trained) = (examples.lengths(), examples.trained_lengths());
        let sum =
            |lengths: &[usize], batch: &[usize]| batch.iter().filter_map(|&index| lengths.get(index)).sum::<usize>();
        batches.fold(Self::default(), |most, batch| Self {
            tokens: most.tokens.max(sum(&tokens, &batch)),
            trained: most.trained.max(sum(&trained, &batch)),
            example: batch.iter().filter_map(|&index| tokens.get(index)).copied().fold(most.example, usize::max),
        })
    }

    /// Over consecutive batches of `size` examples, in order.
    pub fn in_order(examples: &Examples, size: usize) -> Self {
        let (count, size) = (examples.len(), size.max(1));
        Self::of(examples, (0..count).step_by(size).map(|start| (start..count.min(start + size)).collect()))
    }
}

/// Chooses the examples of each optimizer step. The order of an epoch depends only on the seed and the epoch, so a
/// resumed run needs only its step number.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampler {
    /// Examples packed into sequences. The sequences are shuffled.
    sequences: Sequences,
    /// With packing: the fraction of the sequences' capacity that is filled with tokens.
    efficiency: Option<f64>,
    seed: u64,
    shuffle: bool,
    micro_batch_size: usize,
    per_step: usize,
}

/// Up to this number of steps, every micro-batch is checked to find the largest one.
const LISTED_STEPS: u64 = 100_000;
/// The random stream of the shuffle.
const EPOCH_STREAM: u64 = 0;

impl Sampler {
    /// The sampler of a plan. `processes` is the number of data-parallel processes. Each process runs the plan's number
    /// of accumulation steps.
    pub fn new(examples: &Examples, plan: &Plan, processes: usize) -> Self {
        let training = &plan.training;
        let lengths = examples.lengths();
        let (sequences, efficiency) = match plan.data.packing {
            Packing::Off => (Sequences::alone(lengths.len()), None),
            Packing::BestFit => {
                let capacity = plan.data.max_seq_len;
                let sequences = best_fit_decreasing(&lengths, capacity);
                let room = (sequences.len() * capacity).max(1);
                (sequences, Some(lengths.iter().sum::<usize>() as f64 / room as f64))
            }
        };
        let (size, accumulation) = (training.micro_batch_size.max(1), training.gradient_accumulation_steps.max(1));
        Self {
            sequences,
            efficiency,
            seed: plan.seed,
            shuffle: plan.data.shuffle,
            micro_batch_size: size,
            per_step: size.saturating_mul(accumulation).saturating_mul(processes.max(1)),
        }
    }

    /// Optimizer steps in an epoch. The last step may have fewer sequences.
    pub fn steps_per_epoch(&self) -> u64 {
        self.sequences.len().div_ceil(self.per_step) as u64
    }

    /// Sequences in an epoch. Without packing, each example is one sequence.
    pub fn sequences(&self) -> usize {
        self.sequences.len()
    }

    /// With packing: the fraction of the sequences' capacity that is filled with tokens.
    pub fn packing_efficiency(&self) -> Option<f64> {
        self.efficiency
    }

    /// Sequences in a micro-batch.
    pub fn micro_batch_size(&self) -> usize {
        self.micro_batch_size
    }

    /// Changes the micro-batch size. The optimizer steps keep their examples, in more or fewer micro-batches.
    #[must_use]
    pub fn in_micro_batches_of(self, size: usize) -> Self {
        Self { micro_batch_size: size.max(1), ..self }
    }

    /// The largest micro-batch of the first `steps` optimizer steps. If there are very many steps, this is an upper
    /// bound: the longest sequences in one micro-batch.
    pub fn largest_micro_batch(&self, examples: &Examples, steps: u64) -> Largest {
        if steps <= LISTED_STEPS {
            return Largest::of(examples, (0..steps).flat_map(|step| self.indexes(step)));
        }
        let (tokens, trained) = (examples.lengths(), examples.trained_lengths());
        let longest = |lengths: &[usize]| {
            let of = |index: &u32| lengths.get(*index as usize).copied().unwrap_or(0);
            let sequence = |index| self.sequences.get(index).iter().map(of).sum();
            let mut sums: Vec<usize> = (0..self.sequences.len()).map(sequence).collect();
            sums.sort_unstable_by_key(|sum| std::cmp::Reverse(*sum));
            sums.iter().take(self.micro_batch_size.min(self.per_step)).sum()
        };
        let example = tokens.iter().copied().max().unwrap_or(0);
        Largest { tokens: longest(&tokens), trained: longest(&trained), example }
    }

    /// The indexes of the examples of an optimizer step, for each micro-batch. Steps count from 0 over all epochs.
    pub fn indexes(&self, step: u64) -> Vec<Vec<usize>> {
        let count = self.sequences.len();
        if count == 0 {
            return Vec::new();
        }
        let (epoch, step) = (step / self.steps_per_epoch(), (step % self.steps_per_epoch()) as usize);
        let order = Permutation::new(count, self.seed, EPOCH_STREAM, epoch);
        let start = step * self.per_step;
        let places: Vec<usize> = (start..count.min(start.saturating_add(self.per_step))).collect();
        let sequence = |&place: &usize| self.sequences.get(if self.shuffle { order.at(place) } else { place });
        let micro_batches = places.chunks(self.micro_batch_size);
        micro_batches.map(|places| places.iter().flat_map(sequence).map(|index| *index as usize).collect()).collect()
    }

    /// The micro-batches of an optimizer step. `examples` must be those that the sampler was created for.
    ///
    /// # Errors
    /// If an example is missing.
    pub fn optimizer_step(&self, step: u64, examples: &Examples) -> Result<Vec<Batch>, DataError> {
        let batch = |micro: Vec<usize>| Batch::of(examples, micro.into_iter());
        self.indexes(step).into_iter().map(batch).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Batch, Example, Largest, Sampler};
    use crate::error::DataError;
    use crate::prepare::packing::{Sequences, best_fit_decreasing};
    use crate::prepare::store::Examples;

    fn examples(count: u32) -> Examples {
        (0..count).map(|id| Example::new(vec![id; 3], vec![-100, id as i32, id as i32])).collect()
    }

    fn sampler(examples: usize, micro_batch_size: usize, accumulation: usize) -> Sampler {
        let per_step = micro_batch_size * accumulation;
        Sampler {
            sequences: Sequences::alone(examples),
            efficiency: None,
            seed: 7,
            shuffle: true,
            micro_batch_size,
            per_step,
        }
    }

    #[test]
    fn examples_are_concatenated_as_segments() {
        let examples = [
            Example::new(vec![5, 6, 7], vec![-100, 6, 7]),
            // The first token is not a target even if it has a label, because no token precedes it.
            Example::new(vec![8, 9], vec![8, 9]),
        ];
        let batch = Batch::new(examples.iter().cloned());
        assert_eq!(batch.input_ids, [5, 6, 7, 8, 9]);
        assert_eq!(batch.labels, [-100, 6, 7, 8, 9]);
        assert_eq!(batch.position_ids, [0, 1, 2, 0, 1]);
        assert_eq!(batch.segment_lengths, [3, 2]);
        assert_eq!(batch.trained_tokens(), 3);
        assert_eq!(examples.iter().map(Example::trained_tokens).sum::<usize>(), 3);
    }

    #[test]
    fn an_epoch_has_every_example_once_and_the_next_epoch_another_order() {
        let sampler = sampler(11, 2, 2);
        assert_eq!(sampler.steps_per_epoch(), 3);
        let epoch = |first: u64| (first..first + 3).flat_map(|step| sampler.indexes(step).concat()).collect::<Vec<_>>();
        let (first, second) = (epoch(0), epoch(3));
        assert_ne!(first, second);
        for mut order in [first, second] {
            order.sort_unstable();
            assert_eq!(order, (0..11).collect::<Vec<_>>());
        }
        // The last step has the remaining examples.
        assert_eq!(sampler.indexes(2).iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn smaller_micro_batches_make_the_same_steps() {
        let whole = sampler(11, 4, 1);
        let halves = whole.clone().in_micro_batches_of(2);
        for step in 0..6 {
            assert_eq!(whole.indexes(step).concat(), halves.indexes(step).concat());
            assert!(halves.indexes(step).iter().all(|micro| micro.len() <= 2));
        }
        assert_eq!(halves.steps_per_epoch(), whole.steps_per_epoch());
    }

    #[test]
    fn the_largest_micro_batch_is_that_of_the_given_steps() {
        let lengths = [2, 9, 3, 4, 5];
        let examples: Examples = lengths.iter().map(|&len| Example::new(vec![1; len], vec![1; len])).collect();
        let sampler = Sampler { shuffle: false, ..sampler(5, 2, 1) };
        let largest = |steps| sampler.largest_micro_batch(&examples, steps);
        assert_eq!((largest(1).tokens, largest(1).example), (11, 9));
        assert_eq!(largest(3), Largest { tokens: 11, trained: 9, example: 9 });
        assert_eq!(Largest::in_order(&examples, 3), Largest { tokens: 14, trained: 11, example: 9 });
        assert_eq!(largest(0), Largest::default());
        assert_eq!(largest(1_000_000_000), Largest { tokens: 14, trained: 12, example: 9 }, "a bound");
    }

    #[test]
    fn a_step_needs_only_its_number() {
        let (sampler, examples) = (sampler(11, 2, 2), examples(11));
        let step = |step| sampler.optimizer_step(step, &examples).expect("every example");
        let batches: Vec<_> = (0..9).map(step).collect();
        assert_eq!(step(7), batches[7]);
        assert_eq!(batches[0].len(), 2);
        assert_eq!(batches[0][0].segment_lengths, [3, 3]);
    }

    #[test]
    fn a_missing_example_is_an_error() {
        let missing = sampler(11, 2, 2).optimizer_step(0, &examples(3)).expect_err("eight are missing");
        assert!(matches!(missing, DataError::MissingExample { count: 3, .. }), "{missing}");
    }

    #[test]
    fn packed_examples_come_together_as_segments_of_their_own() {
        // 0 and 3 into one sequence, 1 and 2 alone.
        let sampler = Sampler { sequences: best_fit_decreasing(&[7, 10, 9, 3], 10), ..sampler(0, 2, 1) };
        assert_eq!(sampler.steps_per_epoch(), 2);
        let mut sizes: Vec<usize> = (0..2)
            .flat_map(|step| sampler.optimizer_step(step, &examples(4)).expect("every example"))
            .map(|batch| batch.segment_lengths.len())
            .collect();
        sizes.sort_unstable();
        assert_eq!(sizes.iter().sum::<usize>(), 4);
        let together =
            (0..2).flat_map(|step| sampler.indexes(step)).any(|micro| micro.windows(2).any(|pair| pair == [0, 3]));
        assert!(together);
    }

    #[test]
    fn without_shuffling_the_order_is_that_of_the_files() {
        let sampler = Sampler { shuffle: false, ..sampler(5, 2, 1) };
        assert_eq!((0..3).flat_map(|step| sampler.indexes(step).concat()).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert!(Sampler { sequences: Sequences::default(), ..sampler }.indexes(0).is_empty());
    }
}
