//! Options of the commands around the store.
//!
//! Must not depend on: anything that does work.

use std::path::PathBuf;

use clap::Args;

use super::{DeviceArgs, GraceArgs, MetricsArgs, RecipeArgs};

#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// Directory of a run, or its name in `runs`
    pub(crate) run: PathBuf,
    /// Directory of the published adapters [default: publish.store of the recipe]
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Publish although the gate was not asked or has not passed
    #[arg(long)]
    pub(crate) no_gate: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// Name of the published adapter
    pub(crate) name: String,
    /// Version to go to [default: the one that was current before]
    #[arg(long, value_name = "VERSION")]
    pub(crate) to: Option<u64>,
    /// Directory of the published adapters
    #[arg(long, value_name = "DIR", default_value = "store")]
    pub(crate) store: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// Name of a published adapter [default: all]
    pub(crate) name: Option<String>,
    /// Directory of the published adapters
    #[arg(long, value_name = "DIR", default_value = "store")]
    pub(crate) store: PathBuf,
    /// Print one JSON object per version
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Nightly {
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// Train even if nothing has changed since the last night
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) metrics: MetricsArgs,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    #[command(flatten)]
    pub(crate) grace: GraceArgs,
}
