//! tonfall's measurements for `benches/gpu/run`. Prints one JSON object per line.
//!
//! Usage: `gpu_suite steps CONFIG …`, `gpu_suite losses BASE REFERENCE …`, `gpu_suite products MxKxN…`, each with
//! `--device`. `--help` lists the options.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tonfall_adapters::BaseModel;
use tonfall_recipes::plan::Quantization;
use tonfall_trainer::workload::{self, Engine, Workload};
use tonfall_trainer::{Activations, Compute, DeviceChoice, parity};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Training steps with the shape of a config.json, on random weights and tokens
    Steps {
        config: PathBuf,
        #[command(flatten)]
        device: Device,
        /// Tokens of each sequence of the micro-batch
        #[arg(long, value_delimiter = ',', default_value = "4096")]
        documents: Vec<usize>,
        #[arg(long, default_value_t = 10)]
        steps: u64,
        #[arg(long, default_value_t = 16)]
        rank: usize,
        #[arg(long)]
        recompute: bool,
        /// With --recompute: store layer inputs in host memory
        #[arg(long, requires = "recompute")]
        offload: bool,
    },
    /// The training steps of a reference run, with the same initial adapter and batches
    Losses {
        base: PathBuf,
        /// Output folder of benches/gpu/peft_losses.py
        reference: PathBuf,
        #[command(flatten)]
        device: Device,
    },
    /// Matrix products (GEMM) of random matrices
    Products {
        /// Sizes MxKxN, such as 4096x4096x14336
        #[arg(required = true)]
        sizes: Vec<String>,
        /// Use Burn's matmul instead of the one that training uses
        #[arg(long)]
        burn: bool,
        #[command(flatten)]
        device: Device,
    },
}

#[derive(Args)]
struct Device {
    #[arg(long, default_value_t)]
    device: DeviceChoice,
    /// Compute in f32 on every device
    #[arg(long)]
    f32: bool,
    #[arg(long, default_value = "nf4")]
    quantization: Stored,
}

#[derive(Clone, Copy, ValueEnum)]
enum Stored {
    None,
    Nf4,
}

impl Device {
    fn open(&self) -> Result<Compute> {
        let compute = Compute::open(self.device, 0)?;
        Ok(if self.f32 { compute.in_f32() } else { compute })
    }

    fn quantization(&self) -> Quantization {
        match self.quantization {
            Stored::None => Quantization::None,
            Stored::Nf4 => Quantization::Nf4,
        }
    }
}

fn print_line(value: &Value) {
    // A closed pipe ends the measurement, so errors are ignored.
    let _ = writeln!(std::io::stdout(), "{value}");
}

fn main() -> Result<()> {
    let launched = Instant::now();
    match Cli::parse().command {
        Command::Steps { config, device, documents, steps, rank, recompute, offload } => {
            let compute = device.open()?;
            let base = BaseModel::random(&config).with_context(|| format!("reading {}", config.display()))?;
            let quantization = device.quantization();
            let activations = match (recompute, offload) {
                (_, true) => Activations::Offloaded,
                (true, false) => Activations::Recomputed,
                (false, false) => Activations::Kept,
            };
            let tokens: usize = documents.iter().sum();
            let work = Workload { quantization, rank, documents, steps, activations, seed: 7 };
            workload::train(
                &base,
                &work,
                &compute,
                &mut |work| {
                    let loaded = launched.elapsed().as_secs_f64();
                    print_line(
                        &json!({"device": compute.name(), "tokens": tokens, "flops_per_token": work.flops_per_token,
                        "predicted_bytes": work.predicted_bytes, "loaded": loaded}),
                    );
                },
                &mut |step| {
                    let at = launched.elapsed().as_secs_f64();
                    print_line(&json!({"seconds": step.seconds, "loss": step.loss, "grad_norm": step.grad_norm,
                        "held_bytes": step.held_bytes, "at": at}));
                },
            )?;
        }
        Command::Losses { base, reference, device } => {
            let base = BaseModel::open(&base)?;
            let replay = parity::replay(&base, device.quantization(), &reference, &device.open()?)?;
            for ((loss, theirs), (norm, their_norm)) in replay.losses.iter().zip(&replay.grad_norms) {
                print_line(
                    &json!({"loss": loss, "reference": theirs, "grad_norm": norm, "reference_grad_norm": their_norm}),
                );
            }
        }
        Command::Products { sizes, burn, device } => {
            let compute = device.open()?;
            let engine = if burn { Engine::Burn } else { Engine::Tonfall };
            for size in sizes {
                let wrong = || anyhow!("`{size}` is not a size such as 4096x4096x14336");
                let numbers: Result<Vec<usize>, _> = size.split('x').map(str::parse).collect();
                let [m, k, n] = numbers.ok().and_then(|numbers| numbers.try_into().ok()).ok_or_else(wrong)?;
                let mut seconds = workload::product(&compute, engine, [m, k, n], 5, 10)?;
                seconds.sort_by(f64::total_cmp);
                let median = seconds[seconds.len() / 2];
                let rate = 2.0 * (m * k * n) as f64 / median;
                print_line(&json!({"size": size, "device": compute.name(), "seconds": median, "flops": rate}));
            }
        }
    }
    Ok(())
}
