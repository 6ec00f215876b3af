//! Tests of what an Ollama folder needs: Go templates, their proof against Jinja, Modelfiles.
#![expect(clippy::unwrap_used, reason = "a test panics on purpose")]

mod go_templates;
mod modelfiles;
mod rows;
