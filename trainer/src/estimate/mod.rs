//! Predicts the memory of a run before anything is allocated.
//!
//! Responsible for: the peak of a run by part, and choosing micro-batch size and recomputation so that it fits.
//! Must not depend on: tensors; this module describes allocations and makes none.

mod pass_memory;
mod size_classes;
mod storage;

use std::path::Path;

use burn::tensor::DType;
use serde::Serialize;
use tonfall_adapters::export::{self, Export};
use tonfall_adapters::peft;
use tonfall_adapters::{BaseModel, ModelDescription};
use tonfall_blocks::Format;
use tonfall_datasets::{ChatTokenizer, Examples, HeldOutPrompt, Largest, PreparedDataset, Sampler};
use tonfall_recipes::Plan;
use tonfall_recipes::plan::{AdapterKind, OptimizerKind, Quantization, Recompute, TargetModules};

use self::pass_memory::{PassMemory, Sites};
pub use self::size_classes::{ClassEstimate, SIZE_CLASSES, SizeClass};
use self::storage::Storage;
use crate::device::{CUDA_CONTEXT, DeviceKind};
use crate::error::TrainError;
use crate::generation::{Lengths, MAX_SLOTS, Memory};
use crate::group::{Group, GroupError};
use crate::memory;
use crate::micro_batch::Activations;
use crate::model::LoadOptions;
use crate::optimizer::moment_bytes;
use crate::run_length::RunLength;

/// Bytes of an f32.
const F32: u64 = 4;
/// Copies of an adapter while it is written: the copy to write, the mapped pages of the file, and a copy read back from
/// them for comparison.
const ADAPTER_COPIES: u64 = 3;
/// Copies of a weight while it is written: the copy to write, a copy in the dtype of the file, and the mapped pages.
const WEIGHT_COPIES: u64 = 3;
/// Growth of the program during training, measured on Linux: pages of code used for the first time, and freed memory
/// that the allocator keeps.
const CODE_AND_ALLOCATOR: u64 = 32 << 20;
/// Buffers of a merge: a band of 2 Mi values in f32, and its encoded bytes before and after the merge.
const MERGE_BUFFERS: u64 = 24 << 20;

/// Names of the seven linear layers of a block, and their shapes `[out_features, in_features]`.
pub(crate) fn linear_shapes(model: &ModelDescription) -> [(&'static str, [usize; 2]); 7] {
    let (hidden, ff) = (model.hidden_size, model.intermediate_size);
    let q = model.num_attention_heads * model.head_dim;
    let kv = model.num_key_value_heads * model.head_dim;
    [
        ("self_attn.q_proj", [q, hidden]),
        ("self_attn.k_proj", [kv, hidden]),
        ("self_attn.v_proj", [kv, hidden]),
        ("self_attn.o_proj", [hidden, q]),
        ("mlp.gate_proj", [ff, hidden]),
        ("mlp.up_proj", [ff, hidden]),
        ("mlp.down_proj", [hidden, ff]),
    ]
}

/// A part of a run's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    pub name: &'static str,
    pub bytes: u64,
}

impl Part {
    fn new(name: &'static str, bytes: u64) -> Self {
        Self { name, bytes }
    }
}

fn sum(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.bytes).sum()
}

/// The memory of one stage of a run, besides the lasting parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stage {
    pub name: &'static str,
    pub parts: Vec<Part>,
}

impl Stage {
    #[must_use]
    pub fn bytes(&self) -> u64 {
        sum(&self.parts)
    }
}

/// The memory of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// Parts that are allocated from the first step to the last.
    pub lasting: Vec<Part>,
    /// Stages in sequence; the highest one determines the peak.
    pub stages: Vec<Stage>,
    /// Bytes of the largest buffer of a training step.
    #[serde(skip)]
    pub(crate) largest_buffer: u64,
    /// Held-out prompts that are answered at a time.
    #[serde(skip)]
    pub(crate) slots: usize,
}

impl Estimate {
    /// Bytes of the lasting parts.
    #[must_use]
    pub fn lasting_bytes(&self) -> u64 {
        sum(&self.lasting)
    }

    /// The stage that needs the most memory.
    #[must_use]
    pub fn highest(&self) -> Option<&Stage> {
        self.stages.iter().max_by_key(|stage| stage.bytes())
    }

    /// The parts that are allocated at the peak of the run.
    pub fn at_peak(&self) -> impl Iterator<Item = &Part> {
        self.lasting.iter().chain(self.highest().into_iter().flat_map(|stage| &stage.parts))
    }

    /// Bytes at the peak of the run.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.lasting_bytes() + self.highest().map_or(0, Stage::bytes)
    }
}

/// Settings of a run that affect memory and not the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Choice {
    pub micro_batch_size: usize,
    pub activations: Activations,
    pub estimate: Estimate,
    /// Bytes that the run may use; `None` if unknown.
    pub limit: Option<u64>,
}

impl Choice {
    /// Whether the estimate fits the limit with 10 % in reserve, which is the accuracy of the estimate.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.limit.is_none_or(|limit| self.estimate.peak() + self.estimate.peak() / 10 <= limit)
    }
}

/// Everything that determines a run's memory, except the settings in [`Choice`].
#[derive(Clone, Debug)]
pub struct Workload {
    plan: Plan,
    model: ModelDescription,
    device: DeviceKind,
    storage: Storage,
    /// Rank of the adapter; `None` in full training.
    rank: Option<usize>,
    targets: TargetModules,
    sampler: Sampler,
    steps: u64,
    train: Examples,
    eval: Examples,
    /// Lengths of the held-out prompts and their answers.
    prompts: Lengths,
    /// Memory of this process before the base is loaded.
    program: u64,
    threads: usize,
}

impl Workload {
    /// The workload of a plan and its inputs, for one of `processes` processes that train together. `adapter` is the
    /// directory of the adapter that the run starts from. The current memory of this process counts as that of the
    /// program itself.
    ///
    /// # Errors
    /// If a held-out prompt can't be rendered, or the adapter to start from can't be read.
    pub fn new(
        plan: &Plan,
        base: &BaseModel,
        data: &PreparedDataset,
        (tokenizer, prompts): (&ChatTokenizer, &[HeldOutPrompt]),
        device: DeviceKind,
        processes: usize,
        adapter: Option<&Path>,
    ) -> Result<Self, TrainError> {
        let sampler = Sampler::new(&data.train, plan, processes);
        let threads = rayon::current_num_threads();
        let options = load_options(plan);
        let format = |name: &str| base.weight_format(name).map_or(Format::F32, |(format, _)| format);
        let (rank, targets) = match (plan.adapter.kind, adapter) {
            (AdapterKind::Full, _) => (None, TargetModules::AllLinear),
            (AdapterKind::Lora, None) => (Some(plan.lora.rank), plan.lora.target_modules.clone()),
            (AdapterKind::Lora, Some(path)) => {
                let adapter = peft::read(path)?;
                (Some(adapter.config.r), TargetModules::List(adapter.modules()))
            }
        };
        let rendered = prompts.iter().map(|prompt| Ok(tokenizer.render_prompt(&prompt.messages)?.len()));
        let rendered = rendered.collect::<Result<Vec<usize>, TrainError>>()?;
        let context = base.description().max_position_embeddings;
        let prompts = Lengths::of(rendered.into_iter(), plan.evaluation.max_new_tokens, context);
        Ok(Self {
            plan: plan.clone(),
            model: base.description().clone(),
            device,
            storage: Storage::new(base.description(), options, threads, device, format),
            rank,
            targets,
            steps: RunLength::of(plan, sampler.steps_per_epoch()).steps,
            sampler,
            train: data.train.clone(),
            eval: data.eval.clone(),
            prompts,
            program: if device == DeviceKind::Cpu { memory::rss().unwrap_or(0) } else { 0 },
            threads,
        })
    }

    /// The memory of the run with `micro_batch_size` sequences per micro-batch, and as many held-out prompts at a time
    /// as fit `limit` bytes.
    #[must_use]
    pub fn estimate(&self, micro_batch_size: usize, activations: Activations, limit: Option<u64>) -> Estimate {
        let sampler = self.sampler.clone().in_micro_batches_of(micro_batch_size);
        let largest = sampler.largest_micro_batch(&self.train, self.steps);
        let eval = Largest::in_order(&self.eval, micro_batch_size);
        let per_step = self.plan.training.micro_batch_size * self.plan.training.gradient_accumulation_steps;
        self.of(largest, eval, per_step > micro_batch_size, activations, limit)
    }

    /// The memory of the run with these largest batches.
    fn of(
        &self,
        train: Largest,
        eval: Largest,
        accumulates: bool,
        activations: Activations,
        limit: Option<u64>,
    ) -> Estimate {
        let trained = Trained::of(&self.model, self.rank, &self.targets, self.plan.training.optimizer);
        let pass = |batch| PassMemory {
            model: &self.model,
            device: self.device,
            threads: self.threads,
            sites: trained.sites,
            rank: self.rank,
            trained: trained.elements,
            batch,
            dense_copy: self.storage.dense_copy,
        };
        let host = |bytes: u64| if self.device == DeviceKind::Cpu { bytes } else { 0 };
        let lasting = lasting(self.device, self.program, self.storage.kept, self.rank, &trained);
        let lasting_bytes = sum(&lasting);
        let loading = host((self.program + self.storage.loading).saturating_sub(lasting_bytes));
        let mut stages = vec![
            Stage { name: "loading", parts: vec![Part::new("weights in conversion", loading)] },
            Stage { name: "training", parts: pass(train).training(activations, accumulates) },
        ];
        if eval.tokens > 0 {
            stages.push(Stage { name: "evaluating", parts: pass(eval).evaluation() });
        }
        let mut slots = 0;
        if self.prompts.prompts > 0 {
            let memory = Memory::of(&self.model, self.device, self.prompts);
            let pass = pass(Largest { tokens: self.prompts.longest, trained: 1, example: self.prompts.longest });
            // Answering more prompts at a time must not exclude a run that fits without it.
            let within_limit = limit.map(|limit| (limit - limit / 11).saturating_sub(lasting_bytes));
            let highest = stages.iter().map(Stage::bytes).max().unwrap_or(0);
            let available = within_limit.map_or(u64::MAX, |bytes| bytes.max(highest));
            slots = memory.slots_within(self.prompts, available.saturating_sub(pass.workspace())).max(1);
            stages.push(Stage { name: "generating", parts: pass.generating(memory, slots) });
        }
        let written = match self.rank {
            Some(_) => ADAPTER_COPIES * F32 * trained.elements,
            None => WEIGHT_COPIES * F32 * trained.largest,
        };
        stages.push(Stage { name: "saving", parts: vec![Part::new("what is written", host(written))] });
        if self.plan.export.to.iter().filter_map(|name| export::find(name)).any(Export::writes_model) {
            let parts = vec![Part::new("weights in conversion", host(MERGE_BUFFERS + 2 * self.storage.largest))];
            stages.push(Stage { name: "merging", parts });
        }
        Estimate { lasting, stages, largest_buffer: pass(train).largest_buffer(), slots }
    }

    /// Bytes of a checkpoint on the disk: the trained weights twice, for resuming and for PEFT, and two moments in f32.
    pub fn checkpoint_bytes(&self) -> u64 {
        let trained = Trained::of(&self.model, self.rank, &self.targets, self.plan.training.optimizer);
        4 * F32 * trained.elements
    }

    /// The recipe's setting. Layer inputs can be stored in host memory only with CUDA.
    #[must_use]
    pub fn asked(&self) -> Activations {
        match self.plan.training.recompute {
            Recompute::Auto | Recompute::Off => Activations::Kept,
            Recompute::Offload if self.device == DeviceKind::Cuda => Activations::Offloaded,
            Recompute::On | Recompute::Offload => Activations::Recomputed,
        }
    }

    /// The settings nearest to the given ones that fit `limit` bytes. The order of attempts: recomputation if the
    /// recipe has `auto`, smaller micro-batches, layer inputs in host memory if the recipe has `auto`. Returns the last
    /// settings if none fit. `training.max_memory` overrides `limit`.
    #[must_use]
    pub fn choose(&self, micro_batch_size: usize, activations: Activations, limit: Option<u64>) -> Choice {
        let mut choice = self.choice(micro_batch_size, activations, self.limit(limit));
        while !choice.fits()
            && let Some(smaller) = self.smaller(&choice)
        {
            choice = smaller;
        }
        choice
    }

    /// The settings that fit in every process of a group, from the choice of each process. All choices start from the
    /// plan's settings and shrink in the same order.
    ///
    /// # Errors
    /// In every process, if one of them has too little memory. So all processes end together.
    pub(crate) fn agreed(&self, choice: Choice, group: &mut Group) -> Result<Choice, TrainError> {
        let own = if choice.fits() { choice.micro_batch_size as f64 } else { 0.0 };
        let sizes = group.gather(own)?;
        if !choice.fits() {
            return Err(self.refusal(&choice));
        }
        if let Some(rank) = sizes.iter().position(|size| *size == 0.0) {
            return Err(GroupError::OutOfMemory { rank }.into());
        }
        let size = sizes.into_iter().fold(f64::INFINITY, f64::min) as usize;
        let number = |way: Activations| f64::from(way as u8);
        let ways = group.gather(number(choice.activations))?;
        let all = [Activations::Kept, Activations::Recomputed, Activations::Offloaded];
        let activations =
            all.into_iter().filter(|way| ways.contains(&number(*way))).max().unwrap_or(choice.activations);
        match (size, activations) == (choice.micro_batch_size, choice.activations) {
            true => Ok(choice),
            false => Ok(self.choice(size, activations, choice.limit)),
        }
    }

    /// Held-out prompts that could be answered at a time, if there were enough memory.
    pub(crate) fn most_slots(&self) -> usize {
        self.prompts.prompts.min(MAX_SLOTS)
    }

    /// Bytes that the run may use: `training.max_memory` if set, otherwise `found`.
    #[must_use]
    pub fn limit(&self, found: Option<u64>) -> Option<u64> {
        self.plan.training.max_memory.map(|gib| (gib * f64::from(1 << 30)) as u64).or(found)
    }

    fn choice(&self, micro_batch_size: usize, activations: Activations, limit: Option<u64>) -> Choice {
        Choice { micro_batch_size, activations, estimate: self.estimate(micro_batch_size, activations, limit), limit }
    }

    /// The next settings that need less memory; `None` if there are none.
    #[must_use]
    pub fn smaller(&self, choice: &Choice) -> Option<Choice> {
        let &Choice { micro_batch_size: size, activations, limit, .. } = choice;
        let (open, half) = (self.plan.training.recompute == Recompute::Auto, size.div_ceil(2));
        match activations {
            Activations::Kept if open => Some(self.choice(size, Activations::Recomputed, limit)),
            _ if half < size => Some(self.choice(half, activations, limit)),
            Activations::Recomputed if open && self.device == DeviceKind::Cuda => {
                Some(self.choice(size, Activations::Offloaded, limit))
            }
            _ => None,
        }
    }

    /// The error for a run that doesn't fit, with figures and remedies.
    #[must_use]
    pub fn refusal(&self, choice: &Choice) -> TrainError {
        let mut ways = Vec::new();
        if self.rank.is_none() {
            ways.push("`adapter.kind = \"lora\"`");
            if self.plan.training.optimizer == OptimizerKind::Adamw {
                ways.push("`training.optimizer = \"adamw_8bit\"`");
            }
        } else if self.plan.quantization != Quantization::Nf4 {
            ways.push("`quantization = \"nf4\"`");
        }
        match choice.activations {
            Activations::Kept => ways.push("`training.recompute = \"on\"`"),
            Activations::Recomputed if self.device == DeviceKind::Cuda => {
                ways.push("`training.recompute = \"offload\"`");
            }
            _ => {}
        }
        ways.push("a lower `data.max_seq_len`");
        ways.push("a smaller base");
        let ways = format!(
            "try {}, or a higher `training.max_memory` if more memory is available than was found",
            ways.join(", ")
        );
        TrainError::OutOfMemory { needed: Box::new(choice.estimate.clone()), limit: choice.limit, ways }
    }

    /// Every size class, in 4 bits and dense, with this recipe's adapter and full micro-batches of `max_seq_len`
    /// tokens.
    #[must_use]
    pub fn size_classes(&self) -> Vec<ClassEstimate> {
        SIZE_CLASSES.iter().map(|class| self.size_class(class)).collect()
    }

    fn size_class(&self, class: &SizeClass) -> ClassEstimate {
        let example = self.plan.data.max_seq_len;
        let tokens = example * self.plan.training.micro_batch_size;
        let batch = Largest { tokens, trained: tokens, example };
        let eval = if self.eval.is_empty() { Largest::default() } else { batch };
        let peak = |quantization, activations| {
            let options = LoadOptions { quantization, trainable: self.rank.is_none() };
            let model = class.description();
            let storage = Storage::new(&model, options, self.threads, self.device, |_| Format::Bf16);
            let accumulates = self.plan.training.gradient_accumulation_steps > 1;
            let workload = Self { model, storage, ..self.clone() };
            workload.of(batch, eval, accumulates, activations, Some(0)).peak()
        };
        let pair = |quantization| [Activations::Kept, Activations::Recomputed].map(|way| peak(quantization, way));
        let four_bits = self.rank.is_some().then(|| pair(Quantization::Nf4));
        ClassEstimate { class: class.name, parameters: class.parameters(), four_bits, dense: pair(Quantization::None) }
    }
}

/// Sizes of the trained tensors.
struct Trained {
    /// Number of values.
    elements: u64,
    /// Number of values of the largest tensor.
    largest: u64,
    /// Bytes of the optimizer's moments.
    moments: u64,
    /// The linear layers of a block that have an adapter.
    sites: Sites,
}

impl Trained {
    fn of(model: &ModelDescription, rank: Option<usize>, targets: &TargetModules, optimizer: OptimizerKind) -> Self {
        let mut trained = Self { elements: 0, largest: 0, moments: 0, sites: Sites([rank.is_none(); 7]) };
        let mut add = |elements: usize| {
            trained.elements += elements as u64;
            trained.largest = trained.largest.max(elements as u64);
            trained.moments += moment_bytes(optimizer, elements);
        };
        let Some(rank) = rank else {
            let all = model.tensors().into_iter().map(|(_, shape)| shape.rows_cols());
            all.for_each(|(rows, cols)| add(rows * cols));
            return trained;
        };
        let mut sites = [false; 7];
        for layer in 0..model.num_hidden_layers {
            for (site, (name, shape)) in linear_shapes(model).into_iter().enumerate() {
                if targets.matching(&format!("model.layers.{layer}.{name}")).is_some() {
                    sites[site] = true;
                    shape.into_iter().for_each(|side| add(rank * side));
                }
            }
        }
        trained.sites = Sites(sites);
        trained
    }
}

/// The parts allocated from the first step to the last.
fn lasting(device: DeviceKind, program: u64, base: u64, rank: Option<usize>, trained: &Trained) -> Vec<Part> {
    // An adapter has a copy in the dtype of matrix products.
    let copy = match (rank, device.dtype()) {
        (Some(_), dtype) if dtype != DType::F32 => dtype.size() as u64,
        _ => 0,
    };
    let values = (F32 + copy) * trained.elements;
    vec![
        Part::new("program", program),
        Part::new("code and allocator", if device == DeviceKind::Cpu { CODE_AND_ALLOCATOR } else { 0 }),
        Part::new("driver", if device == DeviceKind::Cuda { CUDA_CONTEXT } else { 0 }),
        Part::new("base", if rank.is_some() { base } else { 0 }),
        Part::new(if rank.is_some() { "adapter" } else { "weights" }, values),
        Part::new("optimizer", trained.moments),
    ]
}

/// The memory of training steps without a run. All batches have the same size. Adapters of rank `rank` are on all
/// linear layers.
pub(crate) fn of_steps(
    base: &BaseModel,
    (options, rank): (LoadOptions, usize),
    device: DeviceKind,
    batch: Largest,
    activations: Activations,
) -> Estimate {
    let (model, threads) = (base.description(), rayon::current_num_threads());
    let format = |name: &str| base.weight_format(name).map_or(Format::F32, |(format, _)| format);
    let storage = Storage::new(model, options, threads, device, format);
    let trained = Trained::of(model, Some(rank), &TargetModules::AllLinear, OptimizerKind::Adamw);
    let (sites, elements, dense_copy) = (trained.sites, trained.elements, storage.dense_copy);
    let pass = PassMemory { model, device, threads, sites, rank: Some(rank), trained: elements, batch, dense_copy };
    Estimate {
        lasting: lasting(device, 0, storage.kept, Some(rank), &trained),
        stages: vec![Stage { name: "training", parts: pass.training(activations, false) }],
        largest_buffer: pass.largest_buffer(),
        slots: 0,
    }
}

/// The format of matrix products on a device.
fn computed(device: DeviceKind) -> Format {
    match device {
        DeviceKind::Cuda => Format::Bf16,
        DeviceKind::Cpu | DeviceKind::Vulkan => Format::F32,
    }
}

/// How the base of a plan is loaded.
pub(crate) fn load_options(plan: &Plan) -> LoadOptions {
    LoadOptions { quantization: plan.quantization, trainable: plan.adapter.kind == AdapterKind::Full }
}
