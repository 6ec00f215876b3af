//! `tonfall nightly RECIPE`: one night of a scheduler.
//!
//! Responsible for: the lock, the summary on stdout, and the notifications.

use std::path::PathBuf;

use crate::args::Nightly;
use crate::diagnostics::Result;
use crate::nightly::{self, Ended, Night};
use crate::notifying;
use crate::output;
use crate::progress::Reporter;
use crate::quickstart;

pub(crate) fn run(args: &Nightly, reporter: &mut Reporter) -> Result<i32> {
    let (recipe, plan) = quickstart::plan(&args.recipe)?;
    let directory: PathBuf = std::path::absolute(plan.publish.store.join(plan.published_name()))?;
    let _lock = nightly::lock(&directory)?;
    let mut night = Night::begin(&directory)?;
    let done = nightly::run(args, (&recipe, &plan), &mut night, reporter);
    let (ended, failure) = match done {
        Ok(ended) => (ended, None),
        Err(failure) => (Ended::failed(&failure), Some(failure)),
    };
    night.note(&ended.words(), reporter);
    let (code, is_news) = (ended.code(), ended.is_news());
    let record = night.record(plan.published_name(), ended);
    if let Err(error) = record.append(&directory) {
        night.note(&format!("warning: {error}; the night is missing in the list of nights"), reporter);
    }
    let summary = serde_json::to_value(&record)?;
    if is_news {
        for warning in notifying::send(&plan.notify, &summary) {
            night.note(&format!("warning: {warning}"), reporter);
        }
    }
    output::json(&summary)?;
    match failure {
        Some(failure) => Err(failure),
        None => Ok(code),
    }
}
