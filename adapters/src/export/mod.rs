//! Exports: what becomes of a training, for the programs that use it.
//!
//! Responsible for: the table of exports, and publishing each one complete and verified, or not at all.
//! Must not depend on: training, running servers.
//!
//! To add an export: one file with its `write` function, one row in [`EXPORTS`].

mod directory;
mod encoder;
mod error;
mod file_type;
mod gguf;
mod gguf_adapter;
mod importance;
mod lineage;
mod ollama;
mod part;
mod peft;
mod resume;
mod serve;
mod source;

use std::path::Path;

use tonfall_blocks::Format;
use tonfall_durable::{self as durable, DurableError, ScratchDir};

pub use encoder::Progress;
pub use error::ExportError;
pub use file_type::{FILE_TYPES, FileType, GgufTypes};
pub use gguf::IMATRIX_FILE;
pub use gguf_adapter::{is_gguf_adapter, read_gguf_adapter};
pub use importance::Importance;
pub(crate) use lineage::PREFIX;
pub use lineage::{LINEAGE_FILE, read_lineage};
pub use serve::{shell_word, vllm_rank};
pub use source::Values;

use crate::base_model::BaseModel;
use crate::chat_settings::ChatSettings;
use crate::ollama::Message;
use crate::peft::Adapter;
use crate::tokenizer_files::SideFile;

/// The result of a training, with everything that belongs into its exports.
pub struct Artifact<'a> {
    /// What servers show, such as the name of the recipe.
    pub name: &'a str,
    pub base: &'a BaseModel,
    pub trained: Trained<'a>,
    pub chat: &'a ChatSettings,
    /// Where the artifact comes from: key, without the prefix `tonfall.`, and value.
    pub lineage: &'a [(String, String)],
    /// Renders a conversation with the chat template of the training. `None` without a chat template.
    pub render_chat: Option<&'a RenderChat<'a>>,
}

/// Renders a conversation as text with all special tokens. The flag is `add_generation_prompt`. The error is why the
/// template refuses the conversation.
pub type RenderChat<'a> = dyn Fn(&[Message], bool) -> Result<String, String> + 'a;

/// The trained weights.
#[derive(Clone, Copy)]
pub enum Trained<'a> {
    /// The base is exported as it is.
    Nothing,
    /// A LoRA adapter of the base.
    Adapter(&'a Adapter),
    /// All weights of the model. The function returns the values of a weight, by its Hugging Face name.
    Full(Values<'a>),
}

/// Settings of an export.
#[derive(Clone, Debug)]
pub struct ExportSettings {
    /// The dtype of safetensors: F32, F16 or BF16. `None`: the base's dense format.
    pub dtype: Option<Format>,
    /// Maximum size of a file in bytes, if the base's division into files is not kept.
    pub max_shard_bytes: u64,
    /// The number formats of GGUF models, one file each.
    pub types: Vec<GgufTypes>,
    /// Calibrates the block formats of GGUF models.
    pub importance: Option<Importance>,
    /// Limit of the resident memory of the process in bytes, mapped files included.
    pub max_ram: u64,
}

/// The default of [`ExportSettings::max_ram`].
pub const MAX_RAM: u64 = 4 << 30;

impl Default for ExportSettings {
    fn default() -> Self {
        Self {
            dtype: None,
            max_shard_bytes: 5_000_000_000,
            types: vec![GgufTypes::Type(FileType::F16)],
            importance: None,
            max_ram: MAX_RAM,
        }
    }
}

/// The files of an export.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExportReport {
    /// Weight files, then side files.
    pub files: Vec<String>,
    pub tensors: usize,
    /// Number of tensors with at least one value that differs from the base.
    pub changed_tensors: usize,
    /// Total size of all tensors in bytes.
    pub bytes: u64,
    /// Notices for the user.
    pub notices: Vec<String>,
}

/// What the directory of an export contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// It is itself an adapter.
    Adapter,
    /// It is itself a model.
    Model,
    /// GGUF files, each with an adapter.
    AdapterFiles,
    /// GGUF files, each with a model.
    ModelFiles,
}

/// The commands that serve an export.
const SERVE_FILE: &str = "SERVE.md";

/// One kind of export.
#[derive(Debug)]
pub struct Export {
    /// As in `export --to`.
    pub name: &'static str,
    /// Its directory below the exports of a run with an adapter.
    directory: &'static str,
    /// The same for a run that trained all weights. `None` if the export needs an adapter.
    directory_of_full: Option<&'static str>,
    pub content: Content,
    write: fn(&Artifact<'_>, &ExportSettings, &Path, Progress<'_>) -> Result<ExportReport, ExportError>,
}

/// All kinds of exports.
pub const EXPORTS: [Export; 5] = [
    Export {
        name: "peft",
        directory: "adapter",
        directory_of_full: None,
        content: Content::Adapter,
        write: peft::write,
    },
    Export {
        name: "safetensors",
        directory: "merged",
        directory_of_full: Some("model"),
        content: Content::Model,
        write: directory::write,
    },
    Export {
        name: "gguf",
        directory: "gguf",
        directory_of_full: Some("gguf"),
        content: Content::ModelFiles,
        write: gguf::write,
    },
    Export {
        name: "gguf-adapter",
        directory: "gguf-adapter",
        directory_of_full: None,
        content: Content::AdapterFiles,
        write: gguf_adapter::write,
    },
    Export {
        name: "ollama",
        directory: "ollama",
        directory_of_full: Some("ollama"),
        content: Content::ModelFiles,
        write: ollama::write,
    },
];

/// The export with this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Export> {
    EXPORTS.iter().find(|export| export.name == name)
}

/// The directories of all exports below the exports of a run.
pub fn directories() -> impl Iterator<Item = &'static str> {
    EXPORTS.iter().flat_map(|export| [Some(export.directory), export.directory_of_full]).flatten()
}

impl Export {
    /// Whether the export has all weights of the model, not those of an adapter.
    #[must_use]
    pub fn writes_model(&self) -> bool {
        matches!(self.content, Content::Model | Content::ModelFiles)
    }

    /// The directory below the exports of a run. `None` if the export needs an adapter and the run trained all weights.
    #[must_use]
    pub fn directory(&self, is_full_training: bool) -> Option<&'static str> {
        if is_full_training { self.directory_of_full } else { Some(self.directory) }
    }

    /// Writes the export for the directory `out`, which must not exist yet or be empty. Nothing appears there before
    /// [`Unpublished::publish`]. If the process is killed, finished files stay in a scratch directory, and the next export to `out` takes
    /// them over; see [`resume`].
    ///
    /// # Errors
    /// See [`ExportError`]. Nothing is left on disk after an error.
    pub fn write(
        &self,
        artifact: &Artifact<'_>,
        settings: &ExportSettings,
        out: &Path,
        progress: Progress<'_>,
    ) -> Result<Unpublished, ExportError> {
        if taken(out) {
            return Err(ExportError::OutputExists { path: out.to_owned() });
        }
        check_memory(artifact, settings)?;
        // The checks so far may have read weights.
        artifact.base.release_pages();
        let scratch = ScratchDir::resume(out)?;
        let mut report = (self.write)(artifact, settings, scratch.path(), progress)?;
        durable::write_file(&scratch.path().join(SERVE_FILE), serve::text(self, artifact, &report).as_bytes())?;
        report.files.push(SERVE_FILE.to_owned());
        // GGUF files have the lineage in their metadata.
        if matches!(self.content, Content::Adapter | Content::Model) {
            lineage::write(scratch.path(), artifact.lineage)?;
            report.files.push(LINEAGE_FILE.to_owned());
        }
        Ok(Unpublished { scratch, report })
    }

    /// Writes and publishes the export. The directory appears complete and read back, or not at all.
    ///
    /// # Errors
    /// See [`ExportError`]. Nothing is left on disk after an error.
    pub fn run(
        &self,
        artifact: &Artifact<'_>,
        settings: &ExportSettings,
        out: &Path,
        progress: Progress<'_>,
    ) -> Result<ExportReport, ExportError> {
        self.write(artifact, settings, out, progress)?.publish()
    }
}

/// An export that is written and read back, in a scratch directory. It is removed if it is dropped.
#[derive(Debug)]
pub struct Unpublished {
    scratch: ScratchDir,
    pub report: ExportReport,
}

impl Unpublished {
    /// The scratch directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// # Errors
    /// If the directory can't be renamed; it is removed in that case.
    pub fn publish(self) -> Result<ExportReport, ExportError> {
        self.scratch.publish()?;
        Ok(self.report)
    }

    /// Keeps the directory under another name, for example because its content is not as it must be.
    ///
    /// # Errors
    /// If the directory can't be renamed; it is removed in that case.
    pub fn keep_as(self, path: &Path) -> Result<(), ExportError> {
        Ok(self.scratch.publish_as(path)?)
    }
}

/// The memory of everything but the adapter: the program, its threads, the tokenizer, and the pages of a band.
const OTHER_MEMORY: u64 = 192 << 20;

/// Checks that the adapter fits into the memory limit, with everything that has to be next to it.
fn check_memory(artifact: &Artifact<'_>, settings: &ExportSettings) -> Result<(), ExportError> {
    let Trained::Adapter(adapter) = artifact.trained else { return Ok(()) };
    let values: usize = adapter.tensors.iter().map(|tensor| tensor.values.len()).sum();
    let needed = OTHER_MEMORY + (size_of::<f32>() * values) as u64;
    match needed > settings.max_ram {
        true => Err(ExportError::Memory { needed, max_ram: settings.max_ram }),
        false => Ok(()),
    }
}

/// Whether the destination of an export already exists. An empty directory doesn't count, because it is replaced.
fn taken(path: &Path) -> bool {
    match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => path.exists(),
    }
}

/// Writes a side file. If its name contains a directory, the directory is created.
fn write_side_file(dir: &Path, file: &SideFile) -> Result<(), DurableError> {
    let path = dir.join(&file.name);
    path.parent().map_or(Ok(()), durable::create_dir_all)?;
    durable::write_scratch_file(&path, &file.bytes)
}
