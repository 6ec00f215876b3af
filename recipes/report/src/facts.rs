//! Facts of a run that neither its summary nor its history keeps.
//!
//! Responsible for: folding events into attempts, notices and memory, in bounded memory.
//! Must not depend on: files, HTML.

use std::collections::{BTreeMap, VecDeque};

use tonfall_runs::{Event, EventKind};

use crate::limits::{ROWS, TEXT, cut};

/// The facts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The newest attempts, oldest first.
    pub(crate) attempts: VecDeque<Attempt>,
    pub(crate) attempts_left_out: u64,
    /// Different notices, in the order of their first occurrence.
    pub(crate) notices: Vec<Notice>,
    pub(crate) notices_left_out: u64,
    /// The newest prediction.
    pub(crate) memory: Option<Memory>,
    /// Highest measured values.
    pub(crate) host_bytes: Option<u64>,
    pub(crate) accelerator_bytes: Option<u64>,
    /// Seconds and tokens of all attempts, from the end of the run.
    pub(crate) finished: Option<(f64, u64)>,
    /// Loss of the first evaluation, with its step.
    pub(crate) first_eval: Option<(u64, f64)>,
}

/// A start of the trainer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attempt {
    pub(crate) number: u32,
    /// Unix time of its first and its last event.
    pub(crate) first: f64,
    pub(crate) last: f64,
    pub(crate) from_step: u64,
    /// Its last optimizer step.
    pub(crate) step: Option<u64>,
    pub(crate) device: Option<String>,
    /// How it ended; `None` if its log has no end.
    pub(crate) end: Option<End>,
}

/// The end of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    Finished,
    Interrupted,
    Diverged(String),
    Failed(String),
}

/// A notice of the trainer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Notice {
    /// Unix time of the first occurrence.
    pub(crate) t: f64,
    pub(crate) text: String,
    pub(crate) times: u64,
}

/// A prediction of the peak memory.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Memory {
    pub(crate) predicted: u64,
    pub(crate) limit: Option<u64>,
    pub(crate) parts: BTreeMap<String, u64>,
    pub(crate) micro_batch_size: u64,
    pub(crate) gradient_accumulation_steps: u64,
    pub(crate) recompute: bool,
    pub(crate) offload: bool,
}

impl Facts {
    /// Adds the next event of the log.
    pub fn observe(&mut self, event: &Event) {
        if event.kind.is_afterwards() {
            return;
        }
        self.attempt(event);
        match &event.kind {
            EventKind::Notice { message } => self.notice(event.t, message),
            EventKind::Memory {
                predicted_bytes,
                limit_bytes,
                parts,
                micro_batch_size,
                gradient_accumulation_steps,
                recompute,
                offload,
                reason,
            } => {
                self.memory = Some(Memory {
                    predicted: *predicted_bytes,
                    limit: *limit_bytes,
                    parts: parts.iter().take(ROWS).map(|(name, bytes)| (name.clone(), *bytes)).collect(),
                    micro_batch_size: *micro_batch_size,
                    gradient_accumulation_steps: *gradient_accumulation_steps,
                    recompute: *recompute,
                    offload: *offload,
                });
                if let Some(reason) = reason {
                    self.notice(event.t, reason);
                }
            }
            EventKind::Step { peak_rss_bytes, accelerator_bytes, .. } => {
                self.host_bytes = self.host_bytes.max(*peak_rss_bytes);
                self.accelerator_bytes = self.accelerator_bytes.max(*accelerator_bytes);
            }
            EventKind::Eval { step, loss, .. } => {
                self.first_eval.get_or_insert((*step, *loss));
            }
            EventKind::Finished { seconds, tokens, peak_rss_bytes, .. } => {
                self.finished = Some((*seconds, *tokens));
                self.host_bytes = self.host_bytes.max(*peak_rss_bytes);
            }
            EventKind::AttemptStarted { from_step: 0, .. } => self.first_eval = None,
            EventKind::AttemptStarted { .. }
            | EventKind::Device { .. }
            | EventKind::Phase { .. }
            | EventKind::Data { .. }
            | EventKind::Sample { .. }
            | EventKind::Checkpoint { .. }
            | EventKind::Interrupted { .. }
            | EventKind::Diverged { .. }
            | EventKind::Failed { .. }
            | EventKind::Gate { .. }
            | EventKind::Published { .. } => {}
        }
    }

    fn attempt(&mut self, event: &Event) {
        if self.attempts.back().is_none_or(|last| last.number < event.attempt) {
            self.attempts.push_back(Attempt {
                number: event.attempt,
                first: event.t,
                last: event.t,
                from_step: 0,
                step: None,
                device: None,
                end: None,
            });
            if self.attempts.len() > ROWS {
                self.attempts.pop_front();
                self.attempts_left_out += 1;
            }
        }
        let Some(attempt) = self.attempts.back_mut() else { return };
        if attempt.end.is_none() {
            attempt.last = event.t;
        }
        match &event.kind {
            EventKind::AttemptStarted { from_step, .. } => attempt.from_step = *from_step,
            EventKind::Device { name, .. } => attempt.device = Some(kept(name)),
            EventKind::Step { step, .. } => attempt.step = Some(*step),
            EventKind::Finished { .. } => attempt.end = Some(End::Finished),
            EventKind::Interrupted { .. } => attempt.end = Some(End::Interrupted),
            EventKind::Diverged { what, .. } => attempt.end = Some(End::Diverged(kept(what))),
            // The failure after a divergence repeats its text.
            EventKind::Failed { message, .. } if !matches!(attempt.end, Some(End::Diverged(_))) => {
                attempt.end = Some(End::Failed(kept(message)));
            }
            _ => {}
        }
    }

    /// Every attempt repeats most of its notices.
    fn notice(&mut self, t: f64, text: &str) {
        let text = kept(text);
        if let Some(known) = self.notices.iter_mut().find(|notice| notice.text == text) {
            known.times += 1;
        } else if self.notices.len() < ROWS {
            self.notices.push(Notice { t, text, times: 1 });
        } else {
            self.notices_left_out += 1;
        }
    }
}

/// At most [`TEXT`] characters, with the number of those left out.
fn kept(text: &str) -> String {
    match cut(text, TEXT) {
        (text, 0) => text.to_owned(),
        (text, rest) => format!("{text} […{rest} characters left out]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(kinds: Vec<(u32, EventKind)>) -> Facts {
        let mut facts = Facts::default();
        for (seq, (attempt, kind)) in (1..).zip(kinds) {
            facts.observe(&Event { v: 1, seq, attempt, t: 100.0 + seq as f64, kind });
        }
        facts
    }

    fn notice(text: &str) -> EventKind {
        EventKind::Notice { message: text.to_owned() }
    }

    #[test]
    fn attempts_have_their_times_and_ends() {
        let failed = EventKind::Failed { message: "no memory".to_owned(), exit_code: 6 };
        let facts = observed(vec![
            (1, notice("a")),
            (1, EventKind::Diverged { step: 3, what: "loss is NaN".to_owned() }),
            (1, EventKind::Failed { message: "step 3: loss is NaN".to_owned(), exit_code: 5 }),
            (2, failed),
            (2, EventKind::Published { name: "x".to_owned() }),
        ]);
        let shown: Vec<_> = facts.attempts.iter().map(|a| (a.number, a.first, a.last, a.end.clone())).collect();
        let ends = [End::Diverged("loss is NaN".to_owned()), End::Failed("no memory".to_owned())];
        assert_eq!(shown, [(1, 101.0, 102.0, Some(ends[0].clone())), (2, 104.0, 104.0, Some(ends[1].clone()))]);
    }

    #[test]
    fn equal_notices_are_counted_and_their_number_is_bounded() {
        let mut kinds = vec![(1, notice("a")), (1, notice("b")), (2, notice("a"))];
        kinds.extend((0..ROWS).map(|number| (2, notice(&number.to_string()))));
        let facts = observed(kinds);
        assert_eq!((facts.notices[0].text.as_str(), facts.notices[0].times), ("a", 2));
        assert_eq!((facts.notices.len(), facts.notices_left_out), (ROWS, 2));
    }
}
