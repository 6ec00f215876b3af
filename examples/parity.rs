//! Compares tonfall with the reference implementation on a real model.
//!
//! Usage: `parity BASE REFERENCE OUT [DEVICE]`. BASE is a model directory or a GGUF file. REFERENCE is the output folder of
//! `tests/reference/real_reference.py`. tonfall's logits and adapter are written to OUT, where
//! `tests/reference/verify_export.py` checks them with PEFT and transformers.
//! Fails at the first difference that exceeds a bound of `tests/reference/README.md`.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tonfall_adapters::BaseModel;
use tonfall_recipes::plan::Quantization;
use tonfall_trainer::{Compute, Session, parity};

/// Largest absolute difference of f32 logits.
const LOGITS: f64 = 1e-3;
/// Largest relative difference of a step's loss.
const LOSS: f64 = 1e-3;
/// Largest relative Frobenius distance of an adapter tensor after ten steps.
const ADAPTER: f64 = 1e-2;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (arguments, device) = match arguments.as_slice() {
        [paths @ .., device] if paths.len() == 3 => (paths, device.as_str()),
        paths => (paths, "cpu"),
    };
    let [base, reference, out] = arguments else { bail!("usage: parity BASE REFERENCE OUT [DEVICE]") };
    let compute = Compute::open(device.parse().map_err(anyhow::Error::msg)?, 0)?.in_f32();
    eprintln!("computing on {}", compute.name());
    let (base, reference, out) = (Path::new(base), Path::new(reference), Path::new(out));
    let model = BaseModel::open(base).context("opening the base model")?;

    eprintln!("logits of {}", base.display());
    let mut session = Session::load(&model, Quantization::None, &compute, &mut |_, _| ())?;
    let texts = parity::reference_logits(&reference.join("logits.safetensors"))?;
    ensure!(!texts.is_empty(), "the reference has no texts");
    for text in &texts {
        let ours = session.logits(&text.input_ids, false)?;
        let difference = parity::compare_logits(&ours, &text.logits, session.vocab_size());
        eprintln!(
            "  {}: {} tokens, max |difference| {:.2e}, argmax differs at {} of {} positions",
            text.name,
            text.input_ids.len(),
            difference.largest,
            difference.other_argmax,
            text.input_ids.len()
        );
        ensure!(difference.largest <= LOGITS, "{}: logits differ by {:.2e}", text.name, difference.largest);
        ensure!(difference.other_argmax == 0, "{}: the argmax differs", text.name);
    }

    for (name, quantization) in [("dense", Quantization::None), ("nf4", Quantization::Nf4)] {
        let folder = if name == "dense" { reference.to_owned() } else { reference.join(name) };
        eprintln!("ten LoRA steps on a {name} base");
        let report = parity::replay(&model, quantization, &folder, &compute)?;
        for (step, (ours, theirs)) in report.losses.iter().enumerate() {
            let relative = (ours - theirs).abs() / theirs.abs();
            eprintln!("  step {:2}  loss {ours:.6}  reference {theirs:.6}  relative {relative:.2e}", step + 1);
            ensure!(relative <= LOSS, "step {}: loss differs by {relative:.2e}", step + 1);
        }
        eprintln!("  worst adapter tensor: {} at {:.2e}", report.worst.0, report.worst.1);
        ensure!(report.worst.1 <= ADAPTER, "{} differs by {:.2e}", report.worst.0, report.worst.1);
        if name == "dense" {
            let adapter = out.join("adapter");
            tonfall_durable::create_dir_all(&adapter)?;
            tonfall_adapters::peft::write_files(&adapter, &report.adapter)?;
            session.attach(&report.adapter)?;
        }
    }

    let text = &texts[0];
    let logits = session.logits(&text.input_ids, true)?;
    parity::write_logits(&out.join("adapter_logits.safetensors"), &text.input_ids, &logits, session.vocab_size())?;
    eprintln!("written: {}", out.display());
    Ok(())
}
