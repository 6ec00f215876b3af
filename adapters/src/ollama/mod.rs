//! A folder for Ollama: the chat template in Go's template language, and the Modelfile.
//!
//! Responsible for: choosing a Go template that renders exactly what the Jinja template of the training renders, and
//! writing and reading Modelfiles. Must not depend on: Jinja, GGUF.
//!
//! How Ollama renders a conversation (sources: `docs/template.mdx`, `docs/modelfile.mdx`, `template/template.go`,
//! `server/prompt.go`, `server/routes.go` and `llm/llama_server.go` of Ollama, August 2026):
//!
//! - A template with `.Messages` is rendered once for the whole conversation. All templates here do this. Older
//!   templates with `.Prompt` and `.Response` are rendered once per turn, and cut at `.Response` for the last turn.
//! - Adjacent messages of one role are merged with an empty line between them. `.System` is all system messages,
//!   joined in the same way; they are in `.Messages` too.
//! - `SYSTEM` of the Modelfile becomes the first message if the conversation doesn't start with a system message.
//! - If the last message is the assistant's, the model continues it. The template must then write neither the end of
//!   the turn nor a new assistant turn.
//! - The text is tokenized with special tokens, and BOS is added if `tokenizer.ggml.add_bos_token` is set. Current
//!   versions remove a BOS text at the start of the rendered text first; older versions do not, and then the model
//!   reads two BOS.
//! - If a template contains `.Thinking` between two texts in `range .Messages`, these texts are the marks of
//!   reasoning, and the API returns reasoning and content separately.
//! - If the GGUF file has a Jinja template that mentions tools or reasoning and `TEMPLATE` does not, versions of 2026
//!   use the Jinja template instead of `TEMPLATE`, unless the server runs with `OLLAMA_GO_TEMPLATE=1`: see
//!   [`prefers_jinja`]. So the GGUF file must contain the Jinja template of the training as well.
//!
//! What the proof covers: an optional system message, then turns of user and assistant in order, without tools. Go's
//! templates can't trim Unicode spaces such as U+00A0 at the ends of a message, as Jinja's `trim` does.

mod choose;
mod conversation;
mod go_template;
mod modelfile;
mod modelfile_reader;
mod precedence;
mod probes;
mod templates;

use thiserror::Error;

pub use choose::{Choice, RenderJinja, choose};
pub use conversation::{Message, Role, render};
pub use go_template::{GoTemplate, GoTemplateError, Value, literal};
pub use modelfile::{Modelfile, ModelfileError};
pub use modelfile_reader::{Instruction, parse_modelfile, read_modelfile};
pub use precedence::prefers_jinja;
pub use probes::{Probe, probes};
pub use templates::{ROWS, Row};

/// Why there is no Go template.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OllamaError {
    #[error(
        "no Go template for Ollama is equal to the chat template of the training. The nearest is {row:?}; conversation \
         {probe:?} differs at byte {at}: the training's text is {expected:?}, the text for Ollama is {found:?}. Serve the merged \
         GGUF file with llama.cpp, which uses the chat template of the training, or write a TEMPLATE by hand and compare its \
         text with the training's by `tonfall verify`"
    )]
    NoRow { row: &'static str, probe: &'static str, at: usize, expected: String, found: String },

    #[error(
        "the chat template of the training refuses the conversation {probe:?}: {why}. Without it, no template for Ollama can be \
         proved; serve the merged GGUF file with llama.cpp"
    )]
    Refused { probe: &'static str, why: String },

    #[error(
        "the tokenizer adds the BOS token {bos:?}, but the text of the training starts with {start:?}. Set \
         `add_bos_token` to false in the tokenizer's configuration, so that servers read the same tokens as the training"
    )]
    Bos { bos: String, start: String },

    #[error(
        "the template has no `.Messages`; Ollama renders such templates turn by turn, and their text can't be compared. Use \
         `range .Messages`"
    )]
    WithoutMessages,

    #[error(transparent)]
    Template(#[from] GoTemplateError),
}
