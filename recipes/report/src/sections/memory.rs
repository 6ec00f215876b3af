//! Memory: predicted and used.
//!
//! Responsible for: comparing the prediction with the measured peak, and the parts of the prediction.
//! Must not depend on: how memory is predicted.

use tonfall_recipes::counted;
use tonfall_runs::numbers::bytes;

use crate::facts::Memory;
use crate::html::{Html, html};
use crate::limits::value;
use crate::view::View;

pub(crate) fn write(page: &mut Html, view: &View) {
    html!(page, "<section id=\"memory\">\n<h2>Memory</h2>\n");
    let (host, accelerator) = (view.facts.host_bytes, view.facts.accelerator_bytes);
    let memory = view.facts.memory.as_ref();
    if memory.is_none() && host.or(accelerator).is_none() {
        html!(page, "<p>The event log has no memory, predicted or measured.</p>\n</section>\n");
        return;
    }
    html!(page, "<dl class=\"pairs\">\n");
    if let Some(memory) = memory {
        html!(page, "<dt>predicted peak</dt><dd>{}</dd>\n", bytes(memory.predicted as f64));
    }
    // The prediction is for the device that computes.
    let compared = accelerator.or(host);
    for (name, used) in [("used on the GPU", accelerator), ("used by the process", host)] {
        let Some(used) = used else { continue };
        let predicted = memory.map(|memory| memory.predicted).filter(|predicted| *predicted > 0);
        match predicted.filter(|_| compared == Some(used)) {
            Some(predicted) => {
                let share = used as f64 / predicted as f64 * 100.0;
                html!(
                    page,
                    "<dt>{}</dt><dd>{}</dd>\n",
                    name,
                    format!("{}, {share:.0} % of the prediction", bytes(used as f64))
                );
            }
            None => html!(page, "<dt>{}</dt><dd>{}</dd>\n", name, bytes(used as f64)),
        }
    }
    if let Some(memory) = memory {
        setting(page, memory);
    }
    html!(page, "</dl>\n");
    if let Some(memory) = memory.filter(|memory| !memory.parts.is_empty()) {
        parts(page, memory);
    }
    html!(page, "</section>\n");
}

fn setting(page: &mut Html, memory: &Memory) {
    if let Some(limit) = memory.limit {
        html!(page, "<dt>limit</dt><dd>{}</dd>\n", bytes(limit as f64));
    }
    let recompute = match (memory.recompute, memory.offload) {
        (_, true) => "recomputation, layer inputs in host memory",
        (true, false) => "recomputation",
        (false, false) => "no recomputation",
    };
    let batch = format!(
        "{} of {}, {recompute}",
        counted(memory.gradient_accumulation_steps, "micro-batch"),
        counted(memory.micro_batch_size, "sequence")
    );
    html!(page, "<dt>per step</dt><dd>{}</dd>\n", batch);
}

fn parts(page: &mut Html, memory: &Memory) {
    html!(page, "<table class=\"numbers\">\n<caption>Parts of the prediction</caption>\n");
    html!(page, "<thead><tr><th scope=\"col\">part</th><th scope=\"col\">memory</th></tr></thead>\n<tbody>\n");
    let mut parts: Vec<_> = memory.parts.iter().filter(|(_, bytes)| **bytes > 0).collect();
    parts.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    for (name, size) in parts {
        html!(page, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", value(name), bytes(*size as f64));
    }
    html!(page, "</tbody></table>\n");
}
