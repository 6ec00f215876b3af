//! The behaviour of a run that has too little memory.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use tonfall_adapters::BaseModel;
use tonfall_datasets::{ChatTokenizer, PreparedDataset, TokenizerSpec, prepare};
use tonfall_recipes::Plan;
use tonfall_recipes::recipe::RecipeFile;
use tonfall_runs::events::{EventKind, EventLog};
use tonfall_runs::{RunDir, RunLock};
use tonfall_trainer::Activations::{Kept, Offloaded, Recomputed};
use tonfall_trainer::estimate::Workload;
use tonfall_trainer::{Compute, DeviceKind, Group, Job, Observation, Outcome, Record, StopReason, TrainError, train};

const GIB: f64 = (1 << 30) as f64;

/// A recipe that uses the quickstart's base model and data, and the opened inputs.
struct Workshop {
    _folder: tempfile::TempDir,
    recipe: RecipeFile,
    plan: Plan,
    base: BaseModel,
    tokenizer: ChatTokenizer,
    data: PreparedDataset,
}

impl Workshop {
    fn new(training: &str) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/quickstart").display().to_string();
        let text = format!(
            "base = \"{shipped}/base\"\noutput_dir = \"{}\"\n[data]\ntrain = \"{shipped}/train.jsonl\"\ncache = false\n\
             [training]\nmax_steps = 4\nwarmup_steps = 0\n{training}\n",
            folder.path().display()
        );
        let path = folder.path().join("memory.toml");
        std::fs::write(&path, text).expect("a recipe");
        let (recipe, plan) = RecipeFile::load(&path, &[]).expect("a valid recipe");
        let base = BaseModel::open(plan.base.local().expect("a path")).expect("a base");
        let files = base.tokenizer().expect("a tokenizer");
        let tokenizer = ChatTokenizer::new(TokenizerSpec {
            template_place: None,
            chat_template: files.chat_template.clone(),
            other_templates: Vec::new(),
            bos_token: None,
            eos_token: files.eos.as_ref().map(|token| token.content.clone()),
            pad_token: None,
            unk_token: None,
            add_bos: false,
            stop_ids: base.description().eos_token_ids.clone(),
            vocab_size: base.description().vocab_size,
            now: None,
            tokenizer_json: files.tokenizer_json,
        })
        .expect("a tokenizer that fits");
        let data = prepare(&plan, &tokenizer, None, &|_| ()).expect("data");
        Self { _folder: folder, recipe, plan, base, tokenizer, data }
    }

    fn workload(&self, device: DeviceKind) -> Workload {
        Workload::new(&self.plan, &self.base, &self.data, (&self.tokenizer, &[]), device, 1, None).expect("a workload")
    }

    fn create(&self, name: &str) -> RunDir {
        RunDir::create(&self.plan, &self.recipe, &[], Some(name)).expect("a run")
    }

    /// Trains; `memory` receives the number of completed steps and the latest prediction.
    fn train(
        &self,
        run: &RunDir,
        resume_from: Option<PathBuf>,
        memory: &dyn Fn(u64, u64) -> Option<u64>,
        stop_after: u64,
    ) -> (Result<Outcome, TrainError>, Vec<EventKind>) {
        let lock = RunLock::acquire(run.path()).expect("a lock");
        let mut log = EventLog::open(run, &lock).expect("a log");
        let events = RefCell::new(Vec::new());
        let (done, predicted) = (Cell::new(0), Cell::new(0));
        let outcome = train(Job {
            compute: &Compute::cpu(),
            plan: &self.plan,
            base: &self.base,
            tokenizer: &self.tokenizer,
            lineage: &[],
            chat: &tonfall_adapters::ChatSettings::default(),
            data: &self.data,
            prompts: &[],
            group: &mut Group::alone(),
            record: Some(Record {
                run,
                log: &mut log,
                observe: &mut |observation| {
                    let Observation::Event(event) = observation else { return };
                    match event {
                        EventKind::Step { step, .. } => done.set(*step),
                        EventKind::Memory { predicted_bytes, .. } => predicted.set(*predicted_bytes),
                        _ => {}
                    }
                    events.borrow_mut().push(event.clone());
                },
            }),
            resume_from,
            memory: &|| memory(done.get(), predicted.get()),
            stop: &|| (done.get() == stop_after).then_some(StopReason::Requested),
        });
        (outcome, events.into_inner())
    }
}

fn losses(events: &[EventKind]) -> Vec<f64> {
    events
        .iter()
        .filter_map(|event| if let EventKind::Step { loss, .. } = event { Some(*loss) } else { None })
        .collect()
}

/// Micro-batch size, accumulation and reason of each memory event.
fn batches(events: &[EventKind]) -> Vec<(u64, u64, Option<String>)> {
    let memory = |event: &EventKind| match event {
        EventKind::Memory { micro_batch_size, gradient_accumulation_steps, reason, .. } => {
            Some((*micro_batch_size, *gradient_accumulation_steps, reason.clone()))
        }
        _ => None,
    };
    events.iter().filter_map(memory).collect()
}

fn adapter(run: &RunDir) -> Vec<u8> {
    std::fs::read(run.exports().join("adapter/adapter_model.safetensors")).expect("an adapter")
}

/// Enough memory until two steps are done, then one byte less than the prediction with its reserve of 10 %.
fn short_after_two(done: u64, predicted: u64) -> Option<u64> {
    (done == 2).then(|| predicted + predicted / 10 - 1)
}

const FOUR: &str = "micro_batch_size = 4\nrecompute = \"off\"\n";

#[test]
fn smaller_micro_batches_train_the_same_and_keep_their_size_on_resume() {
    let workshop = Workshop::new(FOUR);
    let whole = workshop.create("whole");
    let (outcome, whole_events) = workshop.train(&whole, None, &|_, _| None, 9);
    outcome.expect("trained");
    assert_eq!(batches(&whole_events), [(4, 1, None)]);

    let short = workshop.create("short");
    let (outcome, events) = workshop.train(&short, None, &short_after_two, 9);
    outcome.expect("trained");
    let memory = batches(&events);
    assert_eq!(memory.len(), 2, "{memory:?}");
    assert_eq!((memory[1].0, memory[1].1), (2, 2));
    let reason = memory[1].2.as_deref().expect("a reason");
    assert!(reason.contains("before step 3") && reason.contains("micro-batches of 2 instead of 4"), "{reason}");
    let (want, got) = (losses(&whole_events), losses(&events));
    assert_eq!((want.len(), &want[..2]), (4, &got[..2]));
    for (want, got) in want.iter().zip(&got) {
        assert!((want - got).abs() <= 1e-6 * want, "{want} and {got}");
    }

    let stopped = workshop.create("stopped");
    workshop.train(&stopped, None, &short_after_two, 3).0.expect("stopped");
    let checkpoint = stopped.path().join("checkpoints/step-000003");
    let (outcome, events) = workshop.train(&stopped, Some(checkpoint), &|_, _| None, 9);
    outcome.expect("trained");
    assert_eq!((batches(&events)[0].0, batches(&events)[0].1), (2, 2), "the halved size is part of the state");
    assert_eq!(adapter(&stopped), adapter(&short), "resuming equals never stopping");
}

#[test]
fn a_run_that_can_not_shrink_further_saves_and_reports_the_shortage() {
    let workshop = Workshop::new("micro_batch_size = 1\nrecompute = \"on\"\n");
    let run = workshop.create("run");
    let (outcome, _) = workshop.train(&run, None, &|done, _| (done == 2).then_some(1 << 20), 9);
    let Err(error @ TrainError::OutOfMemory { .. }) = outcome else { panic!("{outcome:?}") };
    let text = error.to_string();
    for part in ["while training", "1 MiB are available", "base ", "activations ", "a lower `data.max_seq_len`"] {
        assert!(text.contains(part), "{part:?} is in {text}");
    }
    assert!(run.path().join("checkpoints/step-000002/MANIFEST.json").is_file(), "what was learned is saved");
}

#[test]
fn a_run_that_cannot_fit_does_not_begin() {
    let workshop = Workshop::new(FOUR);
    let (outcome, events) = workshop.train(&workshop.create("run"), None, &|_, _| Some(1 << 20), 9);
    assert!(matches!(outcome, Err(TrainError::OutOfMemory { .. })), "{outcome:?}");
    assert!(events.is_empty());
}

#[test]
fn recomputation_is_tried_before_smaller_micro_batches_and_max_memory_overrides_the_system() {
    let workshop = Workshop::new("micro_batch_size = 4\n");
    let workload = workshop.workload(DeviceKind::Cpu);
    let needed = |size, activations| workload.estimate(size, activations, None).peak();
    let limit = |bytes: u64| Some(bytes + bytes / 10);
    let ladder = [(4, Kept), (4, Recomputed), (2, Recomputed), (1, Recomputed)];
    for (size, activations) in ladder {
        let choice = workload.choose(4, Kept, limit(needed(size, activations)));
        assert_eq!((choice.micro_batch_size, choice.activations, choice.fits()), (size, activations, true));
    }
    assert!(ladder.windows(2).all(|pair| needed(pair[0].0, pair[0].1) > needed(pair[1].0, pair[1].1)));
    let floor = workload.choose(4, Kept, Some(0));
    assert_eq!((floor.micro_batch_size, floor.activations, floor.fits()), (1, Recomputed, false));
    assert_eq!(workload.choose(4, Kept, None).micro_batch_size, 4, "nobody knows a limit");
    let on_a_card = workshop.workload(DeviceKind::Cuda).choose(4, Kept, Some(0));
    assert_eq!((on_a_card.micro_batch_size, on_a_card.activations), (1, Offloaded), "the last way on a CUDA card");

    let capped = Workshop::new("micro_batch_size = 4\nmax_memory = 1000\n").workload(DeviceKind::Cpu);
    let choice = capped.choose(4, Kept, Some(0));
    assert!(choice.fits() && choice.limit == Some((1000.0 * GIB) as u64));
}

#[test]
fn an_explicit_recompute_setting_is_kept() {
    let asked = [
        ("auto", Kept, Offloaded),
        ("off", Kept, Kept),
        ("on", Recomputed, Recomputed),
        ("offload", Offloaded, Offloaded),
    ];
    for (word, first, last) in asked {
        let workshop = Workshop::new(&format!("micro_batch_size = 2\nrecompute = \"{word}\"\n"));
        let workload = workshop.workload(DeviceKind::Cuda);
        assert_eq!(workload.asked(), first, "{word}");
        assert_eq!(workload.choose(2, first, Some(0)).activations, last, "{word}");
        let elsewhere = workshop.workload(DeviceKind::Cpu).asked();
        assert_eq!(elsewhere, if first == Offloaded { Recomputed } else { first }, "{word} on the CPU");
    }
}

#[test]
fn every_size_class_grows_with_its_parameters() {
    let workshop = Workshop::new(FOUR);
    for device in [DeviceKind::Cpu, DeviceKind::Cuda] {
        let classes = workshop.workload(device).size_classes();
        for pair in classes.windows(2) {
            assert!(pair[0].parameters < pair[1].parameters);
            let [four_bits, next] = [&pair[0], &pair[1]].map(|class| class.four_bits.expect("LoRA"));
            assert!(four_bits[0] < next[0] && pair[0].dense[0] < pair[1].dense[0], "{}", pair[1].class);
        }
        let eight = classes.iter().find(|class| class.class == "Llama-3.1-8B").expect("8B");
        // 7.0 billion values in NF4 with double quantization, 1.05 billion in bf16; 16.06 GB dense. On a GPU, the
        // embeddings are not on the device.
        let elsewhere = if device == DeviceKind::Cpu { 0 } else { 1_050_673_152 };
        assert!((8.0e9..8.1e9).contains(&(eight.parameters as f64)));
        assert!(eight.dense[0] > 16_060_000_000 - elsewhere);
        assert!(eight.four_bits.expect("LoRA")[1] > 5_600_000_000 - elsewhere);
    }
}
