//! The command line.
//!
//! Responsible for: names, help and types of commands and options. The commands are in `commands`.
//! Must not depend on: anything that does work.

mod eval;
mod exporting;
mod publishing;
mod server;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tonfall_trainer::DeviceChoice;

use crate::output::Color;

pub(crate) use self::eval::Eval;
pub(crate) use self::exporting::{ExportArgs, ExportOptions, Merge, Verify};
pub(crate) use self::publishing::{Nightly, Publish, Rollback, StoreArgs};
pub(crate) use self::server::ServerArgs;

/// Fine-tunes a local language model on a company's tone and terminology with LoRA, QLoRA or full training.
#[derive(Debug, Parser)]
#[command(name = "tonfall", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "First steps:  tonfall train quickstart\n              tonfall init my-style --base MODEL --data FILE"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Also print file locations, counts and notices
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// Print only errors and the result
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
    /// How to show progress
    #[arg(long, global = true, value_name = "HOW", default_value = "auto")]
    pub(crate) progress: ProgressMode,
    /// Format of progress and events on stderr
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// A bar on a terminal, plain lines otherwise
    Auto,
    /// A progress bar
    Bar,
    /// A line every `training.log_every` optimizer steps
    Plain,
    /// No progress
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object per line, as in events.jsonl
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a commented recipe for a base model and data
    Init(Init),
    /// Check recipe, base model and data before training, and report all faults at once
    Check(Check),
    /// Estimate the memory of a run, by part, and that of models of other sizes
    Estimate(Estimate),
    /// Prepare the data of a recipe: counts, lengths, examples as the model sees them
    Data(Data),
    /// Train the model of a recipe
    Train(Train),
    /// Continue an interrupted run from its newest checkpoint
    Resume(Resume),
    /// Chat with a model, with or without its adapter
    Chat(Chat),
    /// Measure a model and its base: loss, terms, style, retention, degeneration
    Eval(Eval),
    /// Merge an adapter into its base model
    Merge(Merge),
    /// Write what servers load: PEFT, safetensors, GGUF, Ollama
    Export(ExportArgs),
    /// Ask an artefact, or the server that runs it, for the answers of the trained model
    Verify(Verify),
    /// Make the adapter of a finished run the current version in the store, if its gate passes
    Publish(Publish),
    /// Make an earlier version of a published adapter the current one
    Rollback(Rollback),
    /// List published adapters and their versions
    Store(StoreArgs),
    /// Train, evaluate, judge and publish if the data has changed; for a scheduler
    Nightly(Nightly),
    /// Show what is in a weight file, and where it comes from
    Inspect(Inspect),
    /// List runs: state, step, loss
    Runs(Runs),
    /// Open the dashboard for live or finished runs
    Watch(Watch),
    /// Plot the loss of runs to an SVG or PNG file
    Plot(Plot),
    /// Write the report of a run: one HTML page for people
    Report(Report),
    /// Export the metrics of runs to Prometheus or TensorBoard
    Metrics(Metrics),
    /// Test the devices of this machine: CPU, CUDA, Vulkan
    Doctor(Doctor),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Print the manual page (roff)
    Man,
}

/// A recipe and changes to it.
#[derive(Debug, Clone, Args)]
pub(crate) struct RecipeArgs {
    /// Recipe file, or `quickstart` for the built-in example
    #[arg(value_name = "RECIPE")]
    pub(crate) recipe: PathBuf,
    /// Override a value of the recipe, such as `--set training.epochs=2`; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DeviceArgs {
    /// Device to compute on: auto (a GPU if there is one, otherwise the CPU), cpu, cuda, cuda:1, …, vulkan
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub(crate) device: DeviceChoice,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct GraceArgs {
    /// After SIGTERM or SIGHUP, exit within this time even if the step and its checkpoint are not finished
    #[arg(long, value_name = "SECONDS", default_value = "25", value_parser = seconds)]
    pub(crate) grace: Duration,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Doctor {
    /// Print one JSON object per device
    #[arg(long)]
    pub(crate) json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|_| "expected a whole number of seconds".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Directory for the new recipe.toml; it is created if necessary
    pub(crate) dir: PathBuf,
    /// Base model: a Hugging Face directory, a GGUF file or hf:owner/name
    #[arg(long, value_name = "MODEL")]
    pub(crate) base: String,
    /// Training data: a file (JSONL, Parquet, CSV, TBX, text), a directory of such files, or a pattern such as 'data/*.jsonl'
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    /// Download an hf: base that is not in the local Hub cache, and allow the recipe to do so
    #[arg(long)]
    pub(crate) allow_download: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Recipe file, or `quickstart` for the built-in example
    #[arg(value_name = "RECIPE", required_unless_present = "keys")]
    pub(crate) recipe: Option<PathBuf>,
    /// Override a value of the recipe, such as `--set training.epochs=2`; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Print every key that a recipe can have, with its values and its default
    #[arg(long)]
    pub(crate) keys: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Estimate {
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// Device to estimate for: auto (a GPU if there is one, otherwise the CPU), cpu, cuda, vulkan; it need not be in this machine
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub(crate) device: DeviceChoice,
    /// Print one JSON object, sizes in bytes
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Data {
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// Print the first N examples as the model sees them, with the tokens with loss marked
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) show: usize,
    /// Print the report as one JSON object; with --show it has the examples as well
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Train {
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// Name of the run's directory [default: the recipe's name and four letters or digits]
    #[arg(long, value_name = "NAME")]
    pub(crate) run_name: Option<String>,
    /// Open the dashboard; leaving it doesn't stop the run
    #[arg(long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) metrics: MetricsArgs,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    #[command(flatten)]
    pub(crate) grace: GraceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// Directory of a run, or its name in `runs`
    pub(crate) run: PathBuf,
    /// Continue although the base, the data or another input is not the one that the run was started with
    #[arg(long)]
    pub(crate) accept_changes: bool,
    #[command(flatten)]
    pub(crate) metrics: MetricsArgs,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    #[command(flatten)]
    pub(crate) grace: GraceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Chat {
    /// A run, or a model: a Hugging Face directory, a GGUF file or hf:owner/name
    #[arg(value_name = "RUN|MODEL")]
    pub(crate) model: String,
    /// Directory of a PEFT adapter to apply to MODEL
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// Answer this prompt and exit, instead of starting a conversation
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Also print the base model's answer, without the adapter
    #[arg(long)]
    pub(crate) compare: bool,
    /// Sampling temperature; 0 always takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = temperature)]
    pub(crate) temperature: f32,
    /// Nucleus sampling: sample from the most likely tokens whose probabilities sum to P
    #[arg(long, value_name = "P", value_parser = share)]
    pub(crate) top_p: Option<f32>,
    /// Sample from the K most likely tokens
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) top_k: Option<u32>,
    /// Longest answer, in tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_new_tokens: u32,
    /// Seed of the sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

fn temperature(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| "expected a number".to_owned())?;
    (0.0..=100.0).contains(&value).then_some(value).ok_or_else(|| "expected a number from 0 to 100".to_owned())
}

fn share(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| "expected a number".to_owned())?;
    (value > 0.0 && value <= 1.0).then_some(value).ok_or_else(|| "expected a number above 0 and at most 1".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct Runs {
    /// Directory with the runs
    #[arg(default_value = "runs")]
    pub(crate) dir: PathBuf,
    /// Print one JSON object per run
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Directories of runs, or their names in `runs`; several are compared [default: the newest run]
    #[arg(value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    /// Print one frame as text and exit
    #[arg(long)]
    pub(crate) once: bool,
    /// Size of the frame for --once, in characters
    #[arg(long, value_name = "WIDTHxHEIGHT", default_value = "100x30", requires = "once", value_parser = size)]
    pub(crate) size: (u16, u16),
    #[command(flatten)]
    pub(crate) look: LookArgs,
}

/// How the dashboard looks. `--color` decides whether it has colours.
#[derive(Debug, Clone, Args)]
pub(crate) struct LookArgs {
    /// Background of the terminal
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    pub(crate) background: Background,
    /// Characters to draw curves with
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    pub(crate) symbols: SymbolSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Background {
    /// From COLORFGBG, otherwise ask the terminal, otherwise dark
    Auto,
    Dark,
    Light,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SymbolSet {
    /// From the locale and TERM
    Auto,
    Braille,
    Block,
    Ascii,
}

fn size(text: &str) -> Result<(u16, u16), String> {
    let sides =
        text.split_once(['x', '×']).and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    let fits = |(width, height): &(u16, u16)| (1..=1000).contains(width) && (1..=1000).contains(height);
    sides.filter(fits).ok_or_else(|| "expected two numbers from 1 to 1000, such as 100x30".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct Plot {
    /// Directories of runs, or their names in `runs` [default: the newest run]
    #[arg(value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    /// File to write; its name ends in .svg or .png
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Directory of a run, or its name in `runs`
    #[arg(value_name = "RUN", required_unless_present = "nights")]
    pub(crate) run: Option<PathBuf>,
    /// Instead of a run, the nights of this name in the store
    #[arg(long, value_name = "NAME", conflicts_with_all = ["run", "published"])]
    pub(crate) nights: Option<String>,
    /// Directory of the store [default for a run: `publish.store` of its recipe]
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// File to write: one HTML page that needs no network and no script
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Compare with this run [default: the current version of the store]
    #[arg(long, value_name = "RUN")]
    pub(crate) published: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Metrics {
    /// Directories of runs, or their names in `runs` [default: all runs in `runs`]
    #[arg(value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    /// Write TensorBoard event files to DIR, one folder per run, instead of printing Prometheus text
    #[arg(long, value_name = "DIR", conflicts_with = "metrics_addr")]
    pub(crate) tensorboard: Option<PathBuf>,
    /// Keep writing until the runs have ended
    #[arg(long, requires = "tensorboard")]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) serve: MetricsArgs,
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct MetricsArgs {
    /// Serve Prometheus metrics at http://ADDRESS/metrics; a port alone means 127.0.0.1
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) metrics_addr: Option<SocketAddr>,
    /// Allow --metrics-addr to be an address that other machines can reach
    #[arg(long, requires = "metrics_addr")]
    pub(crate) metrics_public: bool,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let port = text.strip_prefix(':').unwrap_or(text).parse().map(local);
    port.or_else(|_| text.parse()).map_err(|_| "expected an address such as 127.0.0.1:9898".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// A safetensors file, a GGUF file (model, adapter or importance matrix; any part of a split model), imatrix.dat, or
    /// a directory with a model or an adapter
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// List all tensors, not only the first ones
    #[arg(long)]
    pub(crate) tensors: bool,
    /// Read the files completely and print their SHA-256
    #[arg(long)]
    pub(crate) sha256: bool,
    /// Print one JSON object, with all tensors
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Shell to print the script for
    pub(crate) shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn sizes_and_addresses() {
        assert_eq!(super::size("80x24"), Ok((80, 24)));
        assert!(["", "80", "0x5", "80x", "70000x2"].iter().all(|text| super::size(text).is_err()));
        let shown = |text| super::address(text).map(|address| address.to_string());
        assert_eq!(shown("9898"), Ok("127.0.0.1:9898".to_owned()));
        assert_eq!(shown(":9898"), Ok("127.0.0.1:9898".to_owned()));
        assert_eq!(shown("[::1]:1"), Ok("[::1]:1".to_owned()));
        assert!(shown("localhost").is_err() && shown("99999").is_err());
    }
}
