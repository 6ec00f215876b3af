//! A tokenizer with one token for each byte, plans, and files.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tonfall_recipes::Plan;
use tonfall_recipes::plan::{
    AdapterPlan, AuditPlan, Base, DataFormat, DataPlan, EvaluationPlan, ExportPlan, LoraPlan, Overflow, Packing,
    Quantization, SplitBy, Thinking, TrainOn, TrainingPlan,
};

use crate::{ChatTokenizer, Message, Sample, TokenizerSpec};

pub(super) const CHATML: &str = "{% for message in messages %}\
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

pub(super) const SPECIAL: [&str; 8] =
    ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|user|>", "<|assistant|>"];

/// One token for each byte (in byte-level notation), then one for each pair of `merges`, then the special tokens.
pub(super) fn tokenizer_json(merges: &[(&str, &str)]) -> Value {
    let mut alphabet: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    alphabet.sort();
    let tokens = alphabet.into_iter().chain(merges.iter().map(|(left, right)| format!("{left}{right}")));
    let vocab: Map<String, Value> = tokens.zip(0_u32..).map(|(token, id)| (token, id.into())).collect();
    let first = vocab.len();
    let added = SPECIAL.iter().enumerate().map(|(index, content)| {
        json!({"id": first + index, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                  "merges": merges.iter().map(|(left, right)| format!("{left} {right}")).collect::<Vec<_>>()},
    })
}

pub(super) fn spec(template: Option<&str>, eos: Option<&str>) -> TokenizerSpec {
    TokenizerSpec {
        // Two line breaks are one token. A full stop and a line break are one token. (Ċ is the byte-level line break.)
        tokenizer_json: tokenizer_json(&[("Ċ", "Ċ"), (".", "Ċ")]).to_string().into_bytes(),
        chat_template: template.map(str::to_owned),
        bos_token: Some("<s>".to_owned()),
        eos_token: eos.map(str::to_owned),
        vocab_size: 512,
        now: Some(jiff::civil::date(2026, 11, 24).at(9, 5, 3, 0).in_tz("UTC").expect("a known zone")),
        ..TokenizerSpec::default()
    }
}

pub(super) fn chatml() -> ChatTokenizer {
    ChatTokenizer::new(spec(Some(CHATML), Some("<|im_end|>"))).expect("a sound tokenizer")
}

pub(super) fn conversation(turns: &[(&str, &str)]) -> Sample {
    let messages = turns.iter().map(|(role, content)| Message::new(*role, *content)).collect();
    Sample::Conversation(crate::Conversation { messages, tools: None })
}

/// A plan with this data, and defaults for everything else.
pub(super) fn with(data: DataPlan) -> Plan {
    Plan {
        name: "tiny".to_owned(),
        base: Base::Local("/nowhere".into()),
        quantization: Quantization::None,
        allow_download: false,
        seed: 7,
        output_dir: "/nowhere".into(),
        adapter: AdapterPlan::default(),
        lora: LoraPlan::default(),
        data,
        source: Vec::new(),
        template: Vec::new(),
        audit: AuditPlan::default(),
        training: TrainingPlan::default(),
        evaluation: EvaluationPlan::default(),
        export: ExportPlan::default(),
        style: Vec::new(),
        gate: Vec::new(),
        publish: Default::default(),
        hook: Vec::new(),
        nightly: Default::default(),
        notify: Default::default(),
    }
}

pub(super) fn plan(train: Vec<PathBuf>) -> DataPlan {
    DataPlan {
        train,
        eval: Vec::new(),
        eval_fraction: 0.0,
        split_by: SplitBy::Similar,
        format: DataFormat::Auto,
        columns: std::collections::BTreeMap::new(),
        max_bad_rows: 0,
        train_on: TrainOn::Assistant,
        thinking: Thinking::Keep,
        chat_template: None,
        template_variables: std::collections::BTreeMap::new(),
        max_seq_len: 4096,
        overflow: Overflow::Error,
        packing: Packing::Off,
        shuffle: true,
        cache: true,
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's file needs no durability")]
pub(super) fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a temporary folder is writable");
    path
}

/// `count` conversations of increasing length, one per line.
pub(super) fn conversations(count: usize) -> String {
    let line = |index: usize| {
        let messages = json!([
            {"role": "user", "content": format!("Question {index}?")},
            {"role": "assistant", "content": "a".repeat(index + 1)},
        ]);
        json!({ "messages": messages }).to_string() + "\n"
    };
    (0..count).map(line).collect()
}
