//! What the run is.
//!
//! Responsible for: base, recipe, data, time, and attempts.
//! Must not depend on: the other sections.

use jiff::Timestamp;
use tonfall_recipes::plan::AdapterKind;
use tonfall_recipes::{Plan, counted, grouped};
use tonfall_runs::numbers::{duration, scientific, short};
use tonfall_runs::series::Axis;

use crate::facts::{Attempt, End};
use crate::html::{Html, html};
use crate::limits::{ROWS, left_out, value};
use crate::view::View;

pub(crate) fn write(page: &mut Html, view: &View) {
    html!(page, "<section id=\"about\">\n<h2>What this run is</h2>\n<dl class=\"pairs\">\n");
    let mut row = |name: &str, text: String| html!(page, "<dt>{}</dt><dd>{}</dd>\n", name, value(&text));
    if let Some(plan) = &view.plan {
        row("base model", plan.base.to_string());
        row("method", method(plan));
        row("training", training(plan, view.summary.total_steps));
    }
    if let Some(info) = &view.info {
        row("recipe", info.recipe.clone());
        if !info.overrides.is_empty() {
            row("changed with --set", info.overrides.join(", "));
        }
        row("created", info.created.clone());
    }
    if let Some(plan) = &view.plan {
        for (number, source) in plan.sources().iter().take(ROWS).enumerate() {
            let files: Vec<String> = source.files.iter().map(|file| file.display().to_string()).collect();
            row(if number == 0 { "data" } else { "" }, files.join(", "));
        }
    }
    match view.facts.finished {
        Some((seconds, tokens)) => {
            row("how long", format!("{} of training, {}", duration(seconds), counted(tokens, "token")))
        }
        None => {
            if let Some(last) = view.data.steps.last() {
                let tokens = counted(last.x(Axis::Tokens) as u64, "token");
                let so_far = if view.status.is_alive() { ", so far" } else { "" };
                row("how long", format!("{} of training, {tokens}{so_far}", duration(last.x(Axis::Time))));
            }
        }
    }
    if let Some(now) = view.summary.now {
        row("speed at the end", format!("{} tokens/s", short(now.tokens_per_second)));
    }
    if let Some(device) = &view.data.device {
        row("device", device.name.clone());
    }
    if let Some(parameters) = view.data.trainable_parameters {
        row("trainable parameters", grouped(parameters));
    }
    html!(page, "</dl>\n");
    if view.plan.is_none() {
        html!(page, "<p>The plan of the run can't be read, so base, recipe and data are not known.</p>\n");
    }
    attempts(page, view);
    html!(page, "</section>\n");
}

fn method(plan: &Plan) -> String {
    if plan.adapter.kind == AdapterKind::Full {
        return "all weights".to_owned();
    }
    let lora = &plan.lora;
    let targets: Vec<&str> = lora.target_modules.names().collect();
    let targets = if targets.is_empty() { "all linear layers".to_owned() } else { targets.join(", ") };
    let scaled = if lora.use_rslora { "rsLoRA" } else { "LoRA" };
    let quantization = format!("{:?}", plan.quantization).to_lowercase();
    let base = if quantization == "none" { "dense base".to_owned() } else { format!("base in {quantization}") };
    format!("{scaled}, rank {}, alpha {}, on {targets}; {base}", lora.rank, lora.alpha)
}

fn training(plan: &Plan, steps: u64) -> String {
    let training = &plan.training;
    let mut parts = Vec::new();
    parts.extend((steps > 0).then(|| counted(steps, "step")));
    parts.extend(training.epochs.map(|epochs| format!("{epochs} epoch{}", if epochs == 1.0 { "" } else { "s" })));
    parts.push(format!(
        "{} × {} per step",
        counted(training.gradient_accumulation_steps as u64, "micro-batch"),
        counted(training.micro_batch_size as u64, "sequence")
    ));
    let schedule = format!("{:?}", training.schedule).to_lowercase();
    parts.push(format!("learning rate {} ({schedule})", scientific(training.learning_rate)));
    parts.push(format!("seed {}", plan.seed));
    parts.join(", ")
}

fn attempts(page: &mut Html, view: &View) {
    let attempts = &view.facts.attempts;
    if attempts.is_empty() {
        html!(page, "<p>The event log has no attempt.</p>\n");
        return;
    }
    html!(page, "<h3>{}</h3>\n", counted(attempts.len() as u64, "attempt"));
    html!(
        page,
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"attempts\"><table class=\"attempts\">\n<thead><tr>"
    );
    html!(page, "<th scope=\"col\">attempt</th><th scope=\"col\">began</th><th scope=\"col\">lasted</th>");
    html!(page, "<th scope=\"col\">steps</th><th scope=\"col\">end</th></tr></thead>\n<tbody>\n");
    for attempt in attempts {
        let last = attempts.back().is_some_and(|last| last.number == attempt.number);
        html!(
            page,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
            attempt.number,
            time(attempt.first),
            duration(attempt.last - attempt.first),
            steps(attempt),
            value(&end(attempt, last && view.status.is_alive()))
        );
    }
    html!(page, "</tbody></table></div>\n");
    left_out(page, view.facts.attempts_left_out, "older attempt");
}

fn steps(attempt: &Attempt) -> String {
    match attempt.step {
        Some(step) => format!("{} to {}", grouped(attempt.from_step.saturating_add(1)), grouped(step)),
        None => "none".to_owned(),
    }
}

fn end(attempt: &Attempt, is_alive: bool) -> String {
    match &attempt.end {
        Some(End::Finished) => "finished".to_owned(),
        Some(End::Interrupted) => "interrupted, checkpoint saved".to_owned(),
        Some(End::Diverged(what)) => format!("diverged: {what}"),
        Some(End::Failed(message)) => format!("failed: {message}"),
        None if is_alive => "still going".to_owned(),
        None => "killed: its log has no end".to_owned(),
    }
}

/// A Unix time as `2026-12-01 02:30:29 UTC`.
pub(crate) fn time(t: f64) -> String {
    match Timestamp::from_second(t as i64).ok().filter(|_| t.is_finite()) {
        Some(time) => time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        None => "unknown".to_owned(),
    }
}
