//! Go templates of known chat formats.
//!
//! Responsible for: the table of rows, and the text of a row's template. Must not depend on: the conversations that
//! prove a row, names of models.
//!
//! All chat formats of the table have the same structure: a start, turns, and the start of the assistant's turn. A row
//! is data, and one function writes the template. The template continues the last message if it is the assistant's, as
//! Ollama expects.
//!
//! Sources: the templates that the models' authors publish in Jinja. A row is never trusted: [`super::choose()`]
//! compares it with the Jinja template of the run.

use super::go_template::literal;
use super::modelfile::is_dropped;

macro_rules! hole {
    () => {
        "\u{e000}HOLE\u{e001}"
    };
}

/// Stands for the text that only the Jinja template knows, such as its default system prompt or a date.
pub(super) const HOLE: &str = hole!();

/// A chat format.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// For messages to the user. No row is chosen by its name.
    pub name: &'static str,
    /// Before all turns. May contain `HOLE`.
    start: &'static str,
    /// Whether the turns leave out the system message, because `start` or a turn contains it.
    skips_system: bool,
    /// One turn, up to the end of its content. `.` is the message, `$i` its position, `$last` whether it is the last
    /// one. Ends with an action.
    turn: &'static str,
    /// The end of a turn.
    end: &'static str,
    /// The start of the assistant's turn.
    generation: &'static str,
    /// The texts at which generation stops. The first one ends the assistant's turn.
    pub stops: &'static [&'static str],
}

impl Row {
    /// The template. `prefix` is text before the row's start, such as a BOS token that the server doesn't add. `hole`
    /// replaces `HOLE`.
    #[must_use]
    pub fn template(&self, prefix: &str, hole: &str) -> String {
        let written = |text: &str| literal(text, is_dropped);
        let start = self.start.replace(HOLE, &written(hole));
        let (skip, end_skip) = match self.skips_system {
            true => ("\n{{- if ne .Role \"system\" }}", "{{ end }}"),
            false => ("", ""),
        };
        let Self { turn, end, .. } = self;
        let generation = match self.generation {
            "" => String::new(),
            text => format!("\n{{{{- if and $last (ne .Role \"assistant\") }}}}{text}{{{{ end }}}}"),
        };
        let mut template = format!(
            "{}{start}{{{{ range $i, $_ := .Messages }}}}\n\
             {{{{- $last := eq (len (slice $.Messages $i)) 1 }}}}{skip}{turn}\n\
             {{{{- if not (and $last (eq .Role \"assistant\")) }}}}{end}{{{{ end }}}}{end_skip}{generation}\n\
             {{{{- end }}}}",
            written(prefix)
        );
        if template.contains("{{ template \"trim\"") {
            template.push_str(TRIM);
        }
        template
    }

    pub(super) fn has_hole(&self) -> bool {
        self.start.contains(HOLE)
    }
}

/// Jinja's `trim` for ASCII whitespace. Go's templates have no such function. `len (slice $text 1)` is the length
/// minus 1. `range` over an integer needs Go 1.22, which Ollama has used since version 0.3.
const TRIM: &str = r#"
{{- define "trim" }}{{ $text := . }}
{{- range len $text }}
{{- if eq (slice $text 0 1) " " "\n" "\t" "\r" "\v" "\f" }}{{ $text = slice $text 1 }}{{ else }}{{ break }}{{ end }}
{{- end }}
{{- range len $text }}
{{- $end := len (slice $text 1) }}
{{- if eq (slice $text $end) " " "\n" "\t" "\r" "\v" "\f" }}{{ $text = slice $text 0 $end }}{{ else }}{{ break }}{{ end }}
{{- end }}
{{- $text }}
{{- end }}"#;

const CHATML: Row = Row {
    name: "ChatML",
    start: "",
    skips_system: false,
    turn: "<|im_start|>{{ .Role }}\n{{ .Content }}",
    end: "<|im_end|>\n",
    generation: "<|im_start|>assistant\n",
    stops: &["<|im_end|>"],
};

/// The start of a Qwen turn with reasoning, and with empty reasoning.
const THINKS: &str = "<|im_start|>assistant\n<think>\n";
const THOUGHT: &str = "<|im_start|>assistant\n<think>\n\n</think>\n\n";

/// A turn of Qwen 3.5: which of the assistant's turns have reasoning, and its text.
macro_rules! qwen_3_5 {
    ($which:literal, $thinking:literal) => {
        concat!(
            "<|im_start|>{{ .Role }}\n{{ if and ",
            $which,
            " (eq .Role \"assistant\") }}<think>\n",
            $thinking,
            "\n</think>\n\n{{ end }}{{ template \"trim\" .Content }}"
        )
    };
}

const LLAMA_3: Row = Row {
    name: "Llama 3",
    start: "",
    skips_system: false,
    turn: "<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ template \"trim\" .Content }}",
    end: "<|eot_id|>",
    generation: "<|start_header_id|>assistant<|end_header_id|>\n\n",
    stops: &["<|eot_id|>"],
};

const PHI_3: Row = Row {
    name: "Phi-3",
    start: "",
    skips_system: false,
    turn: "<|{{ .Role }}|>\n{{ .Content }}",
    end: "<|end|>\n",
    generation: "<|assistant|>\n",
    stops: &["<|end|>"],
};

/// A Mistral format with the given turn. The end of a user's turn is part of the turn.
const fn mistral(name: &'static str, turn: &'static str) -> Row {
    Row {
        name,
        start: "",
        skips_system: true,
        turn,
        end: "{{ if eq .Role \"assistant\" }}</s>{{ end }}",
        generation: "",
        stops: &["</s>"],
    }
}

/// The rows, in order of preference. Rows that differ only where the Jinja template refuses a conversation are both
/// equal to it, and the first one is taken.
pub static ROWS: [Row; 24] = [
    CHATML,
    Row {
        name: "ChatML with a default system prompt",
        start: concat!(
            "{{ if ne (index .Messages 0).Role \"system\" }}<|im_start|>system\n",
            hole!(),
            "<|im_end|>\n{{ end }}"
        ),
        ..CHATML
    },
    Row {
        name: "ChatML without empty system prompts",
        start: "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}",
        skips_system: true,
        ..CHATML
    },
    Row {
        name: "Qwen 3 with thinking",
        turn: concat!(
            "<|im_start|>{{ .Role }}\n",
            "{{ if and $last (eq .Role \"assistant\") }}<think>\n{{ .Thinking }}\n</think>\n\n{{ end }}{{ .Content }}"
        ),
        ..CHATML
    },
    Row {
        name: "Qwen 3 without thinking",
        turn: concat!(
            "<|im_start|>{{ .Role }}\n",
            "{{ if and $last (eq .Role \"assistant\") }}<think>\n\n</think>\n\n{{ end }}{{ .Content }}"
        ),
        generation: THOUGHT,
        ..CHATML
    },
    Row { name: "Qwen 3.5 with thinking", turn: qwen_3_5!("$last", "{{ .Thinking }}"), generation: THINKS, ..CHATML },
    Row { name: "Qwen 3.5 without thinking", turn: qwen_3_5!("$last", ""), generation: THOUGHT, ..CHATML },
    // TRL's templates for training: reasoning is kept in all turns.
    Row {
        name: "Qwen 3.5 with thinking in all turns",
        turn: qwen_3_5!("true", "{{ .Thinking }}"),
        generation: THINKS,
        ..CHATML
    },
    Row {
        name: "Qwen 3.5 without thinking, with reasoning in all turns",
        turn: qwen_3_5!("true", "{{ .Thinking }}"),
        generation: THOUGHT,
        ..CHATML
    },
    LLAMA_3,
    Row {
        name: "Llama 3 with a preamble",
        start: concat!(
            "<|start_header_id|>system<|end_header_id|>\n\n",
            hole!(),
            "{{ if eq (index .Messages 0).Role \"system\" }}{{ template \"trim\" (index .Messages 0).Content }}{{ end }}",
            "<|eot_id|>"
        ),
        skips_system: true,
        ..LLAMA_3
    },
    Row {
        name: "Gemma",
        start: "",
        skips_system: true,
        // The system prompt is the beginning of the user's first turn.
        turn: concat!(
            "<start_of_turn>{{ if eq .Role \"assistant\" }}model{{ else }}user{{ end }}\n",
            "{{ if and (eq $i 1) (eq (index $.Messages 0).Role \"system\") }}{{ (index $.Messages 0).Content }}\n\n{{ end }}",
            "{{ template \"trim\" .Content }}"
        ),
        end: "<end_of_turn>\n",
        generation: "<start_of_turn>model\n",
        stops: &["<end_of_turn>"],
    },
    PHI_3,
    Row {
        name: "Phi-3 without empty system prompts",
        start: "{{ if .System }}<|system|>\n{{ .System }}<|end|>\n{{ end }}",
        skips_system: true,
        ..PHI_3
    },
    Row { name: "Phi-3 without system prompts", skips_system: true, ..PHI_3 },
    Row {
        name: "Phi-4-mini",
        turn: "<|{{ .Role }}|>{{ .Content }}",
        end: "<|end|>",
        generation: "<|assistant|>",
        ..PHI_3
    },
    Row {
        name: "Phi-4",
        turn: "<|im_start|>{{ .Role }}<|im_sep|>{{ .Content }}",
        end: "<|im_end|>",
        generation: "<|im_start|>assistant<|im_sep|>",
        stops: &["<|im_end|>"],
        ..PHI_3
    },
    Row {
        name: "Zephyr",
        turn: "<|{{ .Role }}|>\n{{ .Content }}",
        end: "</s>\n",
        generation: "<|assistant|>\n",
        stops: &["</s>"],
        ..PHI_3
    },
    Row {
        name: "Cohere",
        start: concat!(
            "{{ if eq (index .Messages 0).Role \"system\" }}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>",
            "{{ (index .Messages 0).Content }}<|END_OF_TURN_TOKEN|>{{ end }}"
        ),
        skips_system: true,
        turn: concat!(
            "<|START_OF_TURN_TOKEN|>{{ if eq .Role \"assistant\" }}<|CHATBOT_TOKEN|>{{ else }}<|USER_TOKEN|>{{ end }}",
            "{{ template \"trim\" .Content }}"
        ),
        end: "<|END_OF_TURN_TOKEN|>",
        generation: "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        stops: &["<|END_OF_TURN_TOKEN|>"],
    },
    // The first published template of Mistral 7B, without a system prompt.
    mistral(
        "Mistral before v1",
        "{{ if eq .Role \"user\" }}[INST] {{ .Content }} [/INST]{{ else }}{{ .Content }}{{ end }}",
    ),
    mistral(
        "Mistral v1",
        concat!(
            "{{ if eq .Role \"user\" }} [INST] ",
            "{{ if and (eq $i 1) (eq (index $.Messages 0).Role \"system\") }}{{ (index $.Messages 0).Content }}\n\n{{ end }}",
            "{{ .Content }} [/INST]{{ else }} {{ .Content }}{{ end }}"
        ),
    ),
    // The system prompt is in the last turn, if it is the user's.
    mistral(
        "Mistral v3",
        concat!(
            "{{ if eq .Role \"user\" }}[INST] ",
            "{{ if and $last (eq (index $.Messages 0).Role \"system\") }}{{ (index $.Messages 0).Content }}\n\n{{ end }}",
            "{{ .Content }}[/INST]{{ else }} {{ template \"trim\" .Content }}{{ end }}"
        ),
    ),
    mistral(
        "Mistral v3 tekken",
        concat!(
            "{{ if eq .Role \"user\" }}[INST]",
            "{{ if and $last (eq (index $.Messages 0).Role \"system\") }}{{ (index $.Messages 0).Content }}\n\n{{ end }}",
            "{{ .Content }}[/INST]{{ else }}{{ .Content }}{{ end }}"
        ),
    ),
    Row {
        skips_system: false,
        ..mistral(
            "Mistral v7",
            concat!(
                "{{ if eq .Role \"user\" }}[INST] {{ .Content }}[/INST]",
                "{{ else if eq .Role \"system\" }}[SYSTEM_PROMPT] {{ .Content }}[/SYSTEM_PROMPT]",
                "{{ else }} {{ .Content }}{{ end }}"
            ),
        )
    },
];
