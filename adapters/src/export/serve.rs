//! The commands that serve an export, for the programs that load it.
//!
//! Responsible for: `SERVE.md` next to each export. Its commands are meant to be run in the directory of the export.
//! docs/serving.md says which of them were run, and on which version of a server.
//! Must not depend on: files, running servers.

use super::{Artifact, Content, Export, ExportReport, Trained};

/// Ranks that vLLM's `--max-lora-rank` accepts.
const VLLM_RANKS: [usize; 9] = [1, 8, 16, 32, 64, 128, 256, 320, 512];

/// The value of vLLM's `--max-lora-rank` for an adapter.
///
/// # Errors
/// If vLLM can't serve such a rank; the text says what to do.
pub fn vllm_rank(rank: usize) -> Result<usize, String> {
    let largest = VLLM_RANKS[VLLM_RANKS.len() - 1];
    VLLM_RANKS.into_iter().find(|limit| *limit >= rank).ok_or_else(|| {
        format!("vLLM serves adapters up to rank {largest}; this one has rank {rank}: serve the merged model")
    })
}

/// Text as one word for a POSIX shell, in single quotes if needed.
#[must_use]
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// The text of `SERVE.md`.
pub(super) fn text(export: &Export, artifact: &Artifact<'_>, report: &ExportReport) -> String {
    let mut text = format!("# Serving {}\n\nRun these commands in this directory.\n", artifact.name);
    for (server, commands) in servers(export, artifact, report) {
        text += &format!("\n## {server}\n\n```\n{}\n```\n", commands.join("\n"));
    }
    text + "\nIn another terminal, `tonfall verify . --server URL` asks the server for the answers of the trained model.\n"
}

fn servers(export: &Export, artifact: &Artifact<'_>, report: &ExportReport) -> Vec<(&'static str, Vec<String>)> {
    let name = shell_word(artifact.name);
    let base = shell_word(&artifact.base.name_or_path());
    let file = report.files.iter().find(|file| file.ends_with(".gguf")).map(|file| shell_word(file));
    let file = file.unwrap_or_default();
    if report.files.iter().any(|file| file == "Modelfile") {
        return vec![("Ollama", vec![format!("ollama create {name} -f Modelfile"), format!("ollama run {name}")])];
    }
    match export.content {
        Content::Adapter => of_adapter(artifact, &name, &base, report),
        Content::Model => vec![
            ("vLLM", vec![format!("vllm serve . --served-model-name {name}")]),
            ("MLX", vec!["mlx_lm.server --model .".to_owned()]),
        ],
        Content::ModelFiles => vec![
            ("llama.cpp", vec![format!("llama-server -m {file} --alias {name} --port 8080")]),
            ("LM Studio", vec![format!("lms import {file}")]),
            ("GPT4All", vec![format!("cp {file} ~/.local/share/nomic.ai/GPT4All/")]),
            (
                "Open WebUI, LibreChat (in front of llama.cpp)",
                vec![
                    format!("llama-server -m {file} --alias {name} --port 8080"),
                    "# base URL: http://localhost:8080/v1".to_owned(),
                ],
            ),
        ],
        Content::AdapterFiles => vec![(
            "llama.cpp",
            vec![
                format!("llama-server -m BASE.gguf --lora {file} --port 8080   # the base {base} as GGUF"),
                "curl http://localhost:8080/lora-adapters -d '[{\"id\": 0, \"scale\": 0.0}]'   # without the adapter"
                    .to_owned(),
            ],
        )],
    }
}

fn of_adapter(
    artifact: &Artifact<'_>,
    name: &str,
    base: &str,
    report: &ExportReport,
) -> Vec<(&'static str, Vec<String>)> {
    let rank = if let Trained::Adapter(adapter) = artifact.trained { adapter.config.r } else { 0 };
    let has = |file: &str| report.files.iter().any(|written| written == file);
    let mut options = String::new();
    if has(crate::TEMPLATE_FILE) {
        options += &format!(" --chat-template {}", crate::TEMPLATE_FILE);
    }
    if has(crate::GENERATION_FILE) {
        options += " --generation-config .";
    }
    let vllm = match vllm_rank(rank) {
        Ok(limit) => vec![
            format!("vllm serve {base} --enable-lora --max-lora-rank {limit} --lora-modules {name}=.{options}"),
            "# or into a running server that was started with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True:".to_owned(),
            format!(
                "curl http://localhost:8000/v1/load_lora_adapter -H 'Content-Type: application/json' -d \
                 \"{{\\\"lora_name\\\": \\\"{name}\\\", \\\"lora_path\\\": \\\"$PWD\\\"}}\""
            ),
        ],
        Err(why) => vec![format!("# {why}")],
    };
    vec![
        ("vLLM", vllm),
        ("SGLang", vec![format!("python -m sglang.launch_server --model-path {base} --lora-paths {name}=.")]),
        ("TGI", vec![format!("LORA_ADAPTERS={name}=$PWD text-generation-launcher --model-id {base}")]),
        (
            "text-generation-webui",
            vec![
                format!("cp -r . TEXT-GENERATION-WEBUI/user_data/loras/{name}"),
                format!("cd TEXT-GENERATION-WEBUI && python server.py --model {base} --lora {name}"),
            ],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_a_shell() {
        for plain in ["runs/a-1", "owner/name@v1.0", "tiny=runs/x"] {
            assert_eq!(shell_word(plain), plain);
        }
        assert_eq!(shell_word("my runs/a"), "'my runs/a'");
        assert_eq!(shell_word("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn the_smallest_rank_of_vllm_that_is_large_enough_is_chosen() {
        assert_eq!([1, 8, 12, 512].map(|rank| vllm_rank(rank).expect("a rank")), [1, 8, 16, 512]);
        assert!(vllm_rank(513).expect_err("too large").contains("serve the merged model"));
    }
}
