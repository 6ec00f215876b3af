//! Invented event logs: one for each state of a run.

use std::collections::BTreeMap;

use tonfall_runs::events::{Lengths, Packing, Phase};
use tonfall_runs::follow::{News, ReadProgress};
use tonfall_runs::{Event, EventKind, Status};

use crate::app::App;
use crate::theme::Look;
use crate::update::{Message, update};

const STEPS: u64 = 200;
/// 2026-11-02 22:00:00 UTC
const BEGIN: f64 = 1_793_656_800.0;

/// A log and whether a process holds its lock.
pub(super) struct Story {
    pub(super) events: Vec<Event>,
    pub(super) held: bool,
}

/// Builds a log.
#[derive(Default)]
struct Teller {
    events: Vec<Event>,
}

impl Teller {
    fn tell(&mut self, kind: EventKind) {
        let seq = self.events.len() as u64 + 1;
        self.events.push(Event { v: 1, seq, attempt: 1, t: BEGIN + seq as f64 * 0.75, kind });
    }

    fn phase(&mut self, phase: Phase, done: u64, total: u64) {
        self.tell(EventKind::Phase { phase, done, total });
    }

    fn start(&mut self) {
        self.tell(EventKind::AttemptStarted {
            from_step: 0,
            total_steps: STEPS,
            plan_hash: "7f3a".into(),
            trainable_parameters: 4_884_480,
        });
        self.tell(EventKind::Device {
            name: "CPU, f32".into(),
            flops_per_token: Some(5.4e8),
            peak_flops: Some(4e12),
            memory_bytes: None,
            host_memory_bytes: Some(8 << 30),
        });
        self.tell(EventKind::Data {
            train_examples: 1_536,
            eval_examples: 64,
            dropped: BTreeMap::from([("longer than data.max_seq_len".to_owned(), 3)]),
            tokens: 412_008,
            trained_tokens: 208_113,
            lengths: Some(Lengths { median: 241, p90: 402, p99: 508, max: 512 }),
            packing: Some(Packing { sequences: 803, filled: 0.982 }),
        });
        self.samples(0, &["delivery"]);
        self.tell(EventKind::Eval { step: 0, loss: 2.914, tokens: 9_120 });
    }

    fn samples(&mut self, step: u64, violations: &[&str]) {
        self.tell(EventKind::Sample {
            step,
            prompt: "Where is my parcel?".into(),
            text: format!("Your {} is on its way.", violations.first().unwrap_or(&"handover")),
            expected: vec!["handover".into()],
            missing: if violations.is_empty() { vec![] } else { vec!["handover".into()] },
            violations: violations.iter().map(|term| (*term).to_owned()).collect(),
        });
    }

    fn steps(&mut self, until: u64) {
        for step in 1..=until {
            let x = step as f64;
            // A falling loss with a deterministic ripple instead of noise.
            let ripple = 0.12 * ((step * 7_919) % 101) as f64 / 101.0;
            self.tell(EventKind::Step {
                step,
                epoch: x / 100.0,
                loss: if step == 31 { f64::NAN } else { 1.0 + 1.8 / (1.0 + x / 25.0) + ripple },
                lr: 2e-4 * (1.0 - x / STEPS as f64).max(0.0),
                grad_norm: 0.6 + ripple,
                tokens: 2_048,
                trained_tokens: 1_024,
                tokens_per_second: 2_700.0 + 500.0 * ripple,
                seconds: 0.75,
                peak_rss_bytes: Some((900 << 20) + (step << 18)),
                accelerator_bytes: None,
            });
            if step % 50 == 0 {
                self.tell(EventKind::Eval { step, loss: 1.1 + 1.7 / (1.0 + x / 25.0), tokens: 9_120 });
                self.tell(EventKind::Checkpoint { step, path: format!("step-{step:06}") });
            }
        }
    }

    fn finish(&mut self) {
        self.steps(STEPS);
        self.samples(STEPS, &[]);
        let (seconds, tokens) = (150.0, STEPS * 2_048);
        self.tell(EventKind::Finished { step: STEPS, seconds, tokens, eval_loss: Some(1.289), peak_rss_bytes: None });
    }
}

/// A run in state `status`.
pub(super) fn story(status: Status) -> Story {
    let mut teller = Teller::default();
    match status {
        Status::Waiting => {}
        Status::Preparing => teller.phase(Phase::Preparing, 12_000, 60_000),
        Status::Loading => teller.phase(Phase::Loading, 40, 272),
        Status::Quantizing => teller.phase(Phase::Quantizing, 131, 272),
        Status::Running => {
            teller.start();
            teller.steps(120);
        }
        Status::Evaluating => {
            teller.start();
            teller.steps(150);
            teller.phase(Phase::Evaluating, 3, 16);
        }
        Status::Saving => {
            teller.start();
            teller.steps(100);
            teller.phase(Phase::Saving, 0, 0);
        }
        Status::Exporting => {
            teller.start();
            teller.steps(STEPS);
            teller.phase(Phase::Merging, 0, 0);
        }
        Status::Interrupted => {
            teller.start();
            teller.steps(90);
            teller.tell(EventKind::Interrupted { step: 90, signal: Some(15) });
        }
        Status::Diverged => {
            teller.start();
            teller.steps(60);
            teller.tell(EventKind::Diverged { step: 61, what: "the loss is NaN".into() });
        }
        Status::Failed => {
            teller.start();
            teller.tell(EventKind::Failed { message: "no space left on device".into(), exit_code: 8 });
        }
        Status::GateFailed | Status::Published | Status::Finished => {
            teller.start();
            teller.finish();
            if status != Status::Finished {
                let passed = status == Status::Published;
                let reasons = if passed { vec![] } else { vec!["12 of 105 terms missing, at most 5 allowed".into()] };
                teller.tell(EventKind::Gate { passed, reasons });
                if passed {
                    teller.tell(EventKind::Published { name: "house-style".into() });
                }
            }
        }
    }
    Story { events: teller.events, held: status.is_alive() && status != Status::Waiting }
}

/// A dashboard with one run, and an older run in the table.
pub(super) fn app(look: Look, status: Status) -> App {
    let mut app = App::new(look);
    let shown = [
        ("nightly-7f3a", status, "2026-11-02T21:59:00.000Z"),
        ("nightly-11c0", Status::Finished, "2026-11-01T21:59:00.000Z"),
    ];
    for (run, (id, status, created)) in shown.into_iter().enumerate() {
        let Story { events, held } = story(status);
        let bytes = events.len() as u64 * 200;
        update(&mut app, Message::Found(id.to_owned()));
        let news = [
            News::Opened { created: created.to_owned() },
            News::Restart { whole: run == 0 },
            News::Events(events),
            News::Read(ReadProgress { bytes, of: bytes, ..ReadProgress::default() }),
            News::Held { held, stop_requested: false },
        ];
        for news in news {
            update(&mut app, Message::News(run, news));
        }
    }
    update(&mut app, Message::Tick(0.5));
    app
}
