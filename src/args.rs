//! The command line as it is written.
//!
//! Responsible for: names, help and types of commands and options. What follows from them is decided in `commands`.
//! Must not depend on: anything that does work.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use tonfall_trainer::DeviceChoice;

use crate::output::Color;

/// Teaches a local language model a company's tone and terminology, and hands the result to the servers people run.
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
    /// Say more: where things are read from, what was counted
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// Say nothing but errors and the result
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Colours on stderr
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
    /// How progress is shown
    #[arg(long, global = true, value_name = "HOW", default_value = "auto")]
    pub(crate) progress: ProgressMode,
    /// How events are written to stderr
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// A bar on a terminal, plain lines otherwise
    Auto,
    Bar,
    /// One line each `training.log_every` steps
    Plain,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    /// The lines of events.jsonl as they are written
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a commented recipe, filled in from a base model and data
    Init(Init),
    /// Find out everything that can be known before training, all faults at once
    Check(Check),
    /// Predict the memory that a recipe needs, by part, and that other sizes of models would need
    Estimate(Estimate),
    /// Prepare the data of a recipe and show what came of it
    Data(Data),
    /// Train as a recipe says
    Train(Train),
    /// Go on with a run that was interrupted
    Resume(Resume),
    /// Talk to a model, with and without its adapter
    Chat(Chat),
    /// Merge an adapter into its base model
    Merge(Merge),
    /// List runs with their state
    Runs(Runs),
    /// Watch runs, live or finished
    Watch(Watch),
    /// Draw the loss of runs as a picture
    Plot(Plot),
    /// Give the numbers of runs to Prometheus or TensorBoard
    Metrics(Metrics),
    /// Say what this machine can compute with, and what is missing
    Doctor(Doctor),
    /// Write a completion script for a shell
    Completions(Completions),
    /// Write the manual page
    Man,
}

/// A recipe and changes to it.
#[derive(Debug, Clone, Args)]
pub(crate) struct RecipeArgs {
    /// A recipe file, or `quickstart` for the one inside this program
    #[arg(value_name = "RECIPE")]
    pub(crate) recipe: PathBuf,
    /// Change a value of the recipe, say `--set training.epochs=2`; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DeviceArgs {
    /// Where to compute: auto (a GPU where there is one), cpu, cuda, cuda:1, …, vulkan
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub(crate) device: DeviceChoice,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct GraceArgs {
    /// Seconds that SIGTERM and SIGHUP leave for the current step and its checkpoint
    #[arg(long, value_name = "SECONDS", default_value = "25", value_parser = seconds)]
    pub(crate) grace: Duration,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Doctor {
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|_| "a whole number of seconds is needed".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Directory to write recipe.toml into
    pub(crate) dir: PathBuf,
    /// A Hugging Face model directory, a GGUF file or hf:owner/name
    #[arg(long, value_name = "MODEL")]
    pub(crate) base: String,
    /// JSONL or Parquet with conversations, prompt/completion pairs or texts
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Estimate {
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// Where it would compute: auto (a GPU where there is one), cpu, cuda, vulkan; a GPU need not be there
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub(crate) device: DeviceChoice,
    /// Everything as one JSON object, in bytes
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Data {
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// Print so many examples, with the tokens that are trained marked
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) show: usize,
    /// The whole report as one JSON object
    #[arg(long, conflicts_with = "show")]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Train {
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// Name of the run's directory
    #[arg(long, value_name = "NAME")]
    pub(crate) run_name: Option<String>,
    /// Open the dashboard over the run, which goes on when it is left
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
    /// A run's directory, or its name under `runs`
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
    /// A run, a Hugging Face model directory, a GGUF file or hf:owner/name
    #[arg(value_name = "RUN|MODEL")]
    pub(crate) model: String,
    /// A PEFT adapter for MODEL
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// Answer this and leave; without it a conversation begins
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// A system message before the conversation
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Let the base answer as well
    #[arg(long)]
    pub(crate) compare: bool,
    /// 0 takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = temperature)]
    pub(crate) temperature: f32,
    /// Sample from the tokens that hold this share of probability
    #[arg(long, value_name = "P", value_parser = share)]
    pub(crate) top_p: Option<f32>,
    /// Sample from this many most likely tokens
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) top_k: Option<u32>,
    /// Longest answer
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_new_tokens: u32,
    /// Decides the sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

fn temperature(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| "a number is needed".to_owned())?;
    (0.0..=100.0).contains(&value).then_some(value).ok_or_else(|| "a number from 0 to 100 is needed".to_owned())
}

fn share(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| "a number is needed".to_owned())?;
    (value > 0.0 && value <= 1.0).then_some(value).ok_or_else(|| "a number above 0, at most 1 is needed".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct Merge {
    /// A run, or the directory of a PEFT adapter
    #[arg(value_name = "RUN|ADAPTER")]
    pub(crate) adapter: PathBuf,
    /// New directory for the merged model
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// The base to merge into, for a bare adapter or instead of the run's own
    #[arg(long, value_name = "MODEL")]
    pub(crate) base: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Runs {
    /// Directory that holds the runs
    #[arg(default_value = "runs")]
    pub(crate) dir: PathBuf,
    /// One JSON object a run
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Directories of runs, or their names under `runs`; several are compared; without one the newest run
    #[arg(value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    /// Print one frame as text and leave
    #[arg(long)]
    pub(crate) once: bool,
    /// Characters of the frame of --once
    #[arg(long, value_name = "WIDTHxHEIGHT", default_value = "100x30", requires = "once", value_parser = size)]
    pub(crate) size: (u16, u16),
    #[command(flatten)]
    pub(crate) look: LookArgs,
}

/// How the dashboard looks. Whether it has colours decides `--color`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LookArgs {
    /// The terminal's background
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    pub(crate) background: Background,
    /// Characters that curves are drawn with
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    pub(crate) symbols: SymbolSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Background {
    /// What COLORFGBG says, otherwise what the terminal answers, otherwise dark
    Auto,
    Dark,
    Light,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SymbolSet {
    /// What the locale and TERM allow
    Auto,
    Braille,
    Block,
    Ascii,
}

fn size(text: &str) -> Result<(u16, u16), String> {
    let sides =
        text.split_once(['x', '×']).and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    let fits = |(width, height): &(u16, u16)| (1..=1000).contains(width) && (1..=1000).contains(height);
    sides.filter(fits).ok_or_else(|| "two numbers from 1 to 1000 are needed, say 100x30".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct Plot {
    /// Directories of runs, or their names under `runs`; without one the newest run
    #[arg(value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    /// The picture: a name that ends in .svg or .png
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Metrics {
    /// Directories of runs, or their names under `runs`; without one all runs in `runs`
    #[arg(value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    /// Write event files for TensorBoard, a folder a run; otherwise Prometheus text is printed
    #[arg(long, value_name = "DIR", conflicts_with = "metrics_addr")]
    pub(crate) tensorboard: Option<PathBuf>,
    /// Go on writing until the runs have ended
    #[arg(long, requires = "tensorboard")]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) serve: MetricsArgs,
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct MetricsArgs {
    /// Serve Prometheus text at http://ADDRESS/metrics; a port alone means 127.0.0.1
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) metrics_addr: Option<SocketAddr>,
    /// Allow an address that other machines can reach
    #[arg(long, requires = "metrics_addr")]
    pub(crate) metrics_public: bool,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let port = text.strip_prefix(':').unwrap_or(text).parse().map(local);
    port.or_else(|_| text.parse()).map_err(|_| "an address such as 127.0.0.1:9898 is needed".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
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
