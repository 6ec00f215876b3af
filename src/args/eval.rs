//! The arguments of `tonfall eval`.

use std::path::PathBuf;

use clap::Args;

use super::{DeviceArgs, ServerArgs};

#[derive(Debug, Args)]
pub(crate) struct Eval {
    /// A run, a model (a Hugging Face directory, a GGUF file or hf:owner/name), or the directory of a PEFT adapter
    #[arg(value_name = "RUN|MODEL|ADAPTER", required_unless_present = "server")]
    pub(crate) target: Option<String>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Base model of an adapter [default: the one that it names]
    #[arg(long, value_name = "MODEL")]
    pub(crate) base: Option<String>,
    /// Held-out prompts, one JSON object per line [default: those of the run's recipe]
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
    /// Longest answer, in tokens [default: that of the run's recipe, otherwise 64]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_new_tokens: Option<u32>,
    /// Also print the rates of single terms
    #[arg(long)]
    pub(crate) terms: bool,
    /// Ask the base again, even if it was asked the same before
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Write the report to this file; of a run, that of its adapter
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Print the reports as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}
