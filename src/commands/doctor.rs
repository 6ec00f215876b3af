//! `tonfall doctor`: tests the devices of this machine.
//!
//! Responsible for: printing the trainer's results. Fails if a device that is present computes wrong results.

use serde_json::json;
use tonfall_trainer::doctor::{State, examine};

use crate::args::Doctor;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::output;

pub(crate) fn run(args: &Doctor) -> Result<()> {
    let findings = examine();
    for finding in &findings {
        let state = match finding.state {
            State::Works => "works",
            State::Absent => "absent",
            State::Faulty => "faulty",
        };
        if args.json {
            let (what, text, remedy) = (finding.what, &finding.text, &finding.remedy);
            output::json(&json!({"device": what, "state": state, "text": text, "remedy": remedy}))?;
            continue;
        }
        output::data(&format!("{:<7} {:<7} {}", finding.what, state, finding.text))?;
        if let Some(remedy) = &finding.remedy {
            output::data(&format!("{:<16}{remedy}", ""))?;
        }
    }
    match findings.iter().find(|finding| finding.state == State::Faulty) {
        None => Ok(()),
        Some(faulty) => Err(Failure::new(ExitCode::Unexpected, format!("{} does not compute correctly", faulty.what))),
    }
}
