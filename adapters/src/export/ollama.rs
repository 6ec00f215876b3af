//! The export `ollama`: a folder for `ollama create`, with a merged GGUF model and its Modelfile.
//!
//! Ollama renders conversations with a template in Go's language. It is chosen by proof: it must render the same texts as
//! the Jinja template of the training; see [`crate::ollama`].

use std::path::Path;

use tonfall_durable as durable;

use super::encoder::Progress;
use super::{Artifact, ExportError, ExportReport, ExportSettings, gguf};
use crate::base_model::BaseModel;
use crate::ollama::{GoTemplate, Modelfile, OllamaError, choose, prefers_jinja};

const MODELFILE: &str = "Modelfile";
/// Longest context that the Modelfile asks for, in tokens: Ollama allocates the cache for it at the start.
const MAX_CONTEXT: usize = 8192;

pub(super) fn write(
    artifact: &Artifact<'_>,
    settings: &ExportSettings,
    dir: &Path,
    progress: Progress<'_>,
) -> Result<ExportReport, ExportError> {
    let Some(render) = artifact.render_chat else { return Err(ExportError::NoTemplate { target: "ollama" }) };
    let settings = ExportSettings { types: settings.types.iter().copied().take(1).collect(), ..settings.clone() };
    let mut report = gguf::write(artifact, &settings, dir, progress)?;
    let Some(model) = report.files.iter().find(|name| name.ends_with(".gguf")).cloned() else { return Ok(report) };

    let tokenizer = BaseModel::open(&dir.join(&model))?.tokenizer()?;
    let added_bos = tokenizer.bos.as_ref().filter(|_| tokenizer.add_bos == Some(true));
    let added_bos = added_bos.map_or("", |token| token.content.as_str());
    let choice = choose(added_bos, &mut |messages, generates| render(messages, generates))?;
    let context = artifact.base.description().max_position_embeddings.min(MAX_CONTEXT);
    let modelfile = Modelfile {
        from: format!("./{model}"),
        template: Some(choice.template.clone()),
        stops: choice.row.stops.iter().map(|stop| (*stop).to_owned()).collect(),
        num_ctx: Some(context as u32),
        ..Modelfile::default()
    };
    let text = modelfile.text()?;
    durable::write_file(&dir.join(MODELFILE), text.as_bytes())?;
    report.files.push(MODELFILE.to_owned());

    if let Some(recovered) = &choice.recovered {
        report.notices.push(format!("Modelfile: the chat template writes {recovered:?}, so TEMPLATE has this text"));
    }
    if !choice.refused.is_empty() {
        let names: Vec<&str> = choice.refused.iter().map(|(name, _)| *name).collect();
        report.notices.push(format!(
            "Modelfile: the chat template of the training refuses some conversations that Ollama renders: {}",
            names.join(", ")
        ));
    }
    let jinja = tokenizer.chat_template.unwrap_or_default();
    if prefers_jinja(&jinja, &GoTemplate::parse(&choice.template).map_err(OllamaError::from)?) {
        report.notices.push(
            "Modelfile: versions of Ollama from 2026 use the chat template in the GGUF file instead of TEMPLATE, unless \
             the server runs with OLLAMA_GO_TEMPLATE=1. Both render the same text"
                .to_owned(),
        );
    }
    Ok(report)
}
