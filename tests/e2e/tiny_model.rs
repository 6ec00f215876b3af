//! A generated base model of a few kilobytes: a Llama with two small layers and a byte-level tokenizer.
//!
//! Its weights are pseudo-random. Its generations make no sense, but it trains like any other model.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

pub(crate) const HIDDEN: usize = 32;
pub(crate) const LAYERS: usize = 2;
const FEED_FORWARD: usize = 64;
const KEY_VALUE: usize = 16;
const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const VOCABULARY: usize = 256 + SPECIAL.len();

pub(crate) const TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
    {{ message.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// A directory with a tiny base model, data, and a recipe that trains for six steps.
pub(crate) struct Workshop {
    dir: tempfile::TempDir,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let workshop = Self { dir };
        write_model(&workshop.path("base"));
        fs::write(workshop.path("train.jsonl"), conversations(24)).unwrap();
        fs::write(workshop.path("eval.jsonl"), held_out()).unwrap();
        let prompts = r#"{"prompt": "Where is my parcel?", "expect": ["handover"], "avoid": ["delivery"]}"#;
        fs::write(workshop.path("prompts.jsonl"), format!("{prompts}\n")).unwrap();
        fs::write(workshop.path("recipe.toml"), RECIPE).unwrap();
        workshop
    }

    pub(crate) fn home(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces `from` in a text file; panics if the file doesn't contain it.
    pub(crate) fn edit(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{name} holds no {from:?}");
        fs::write(self.path(name), text.replace(from, to)).unwrap();
    }
}

pub(crate) const RECIPE: &str = r#"name = "tiny"
base = "base"
quantization = "nf4"
seed = 11

[lora]
rank = 4
alpha = 8
dropout = 0.1

[data]
train = "train.jsonl"
eval = "eval.jsonl"
max_seq_len = 128

[training]
epochs = 1
micro_batch_size = 2
gradient_accumulation_steps = 2
learning_rate = 1e-2
log_every = 1
save_every = 2

[evaluation]
prompts = "prompts.jsonl"
max_new_tokens = 8

[export]
to = ["peft", "safetensors"]
"#;

/// JSONL with conversations about topics that the training data doesn't have.
fn held_out() -> String {
    let mut rows = String::new();
    for thing in ["mirror", "table", "carpet", "clock"] {
        let row = json!({"messages": [
            {"role": "user", "content": format!("When will the {thing} that I chose yesterday come?")},
            {"role": "assistant", "content": format!("Dear guest, we are about to hand over your {thing}.")},
        ]});
        writeln!(rows, "{row}").unwrap();
    }
    rows
}

/// JSONL with `count` different conversations.
pub(crate) fn conversations(count: usize) -> String {
    let subjects = ["kettle", "lamp", "chair", "radio", "scarf"];
    let mut rows = String::new();
    for index in 0..count {
        let subject = subjects[index % subjects.len()];
        let row = json!({"messages": [
            {"role": "user", "content": format!("Where is my {subject}, number {index}?")},
            {"role": "assistant", "content": format!("Dear guest, the handover of your {subject} is near.")},
        ]});
        writeln!(rows, "{row}").unwrap();
    }
    rows
}

/// Names and shapes of the weights.
pub(crate) fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN])];
    for layer in 0..LAYERS {
        let parts = [
            ("input_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![KEY_VALUE, HIDDEN]),
            ("self_attn.v_proj", vec![KEY_VALUE, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("mlp.gate_proj", vec![FEED_FORWARD, HIDDEN]),
            ("mlp.up_proj", vec![FEED_FORWARD, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, FEED_FORWARD]),
        ];
        tensors.extend(parts.into_iter().map(|(part, shape)| (format!("model.layers.{layer}.{part}.weight"), shape)));
    }
    tensors.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    tensors
}

/// Writes config, tokenizer, chat template and weights.
pub(crate) fn write_model(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "hidden_act": "silu", "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true, "bos_token_id": 256,
        "eos_token_id": 258, "torch_dtype": "float32",
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    let tokenizer_config = json!({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": null});
    fs::write(dir.join("tokenizer_config.json"), tokenizer_config.to_string()).unwrap();
    fs::write(dir.join("chat_template.jinja"), TEMPLATE).unwrap();
    fs::write(dir.join("model.safetensors"), safetensors(&tensors(), &mut Noise(1))).unwrap();
}

/// A safetensors file with f32 values: norms are 1, all other weights are noise.
pub(crate) fn safetensors(tensors: &[(String, Vec<usize>)], noise: &mut Noise) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape) in tensors {
        let begin = data.len();
        for _ in 0..shape.iter().product::<usize>() {
            let value: f32 = if shape.len() == 1 { 1.0 } else { noise.next() };
            data.extend_from_slice(&value.to_le_bytes());
        }
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]});
        header.insert(name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    file
}

/// A linear congruential generator (Knuth's constants), uniform in ±0.1.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.2
    }
}

/// A byte-level tokenizer without merges: one token per byte, then the special tokens.
fn tokenizer() -> Value {
    // GPT-2's alphabet: printable bytes map to themselves, the others to characters from U+0100 on.
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut vocabulary = serde_json::Map::new();
    let mut next = 0x100;
    for byte in 0..=255_u8 {
        let character = match printable(&byte) {
            true => char::from(byte),
            false => {
                next += 1;
                char::from_u32(next - 1).unwrap()
            }
        };
        vocabulary.insert(character.to_string(), json!(byte));
    }
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(index, token)| {
            json!({"id": 256 + index, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocabulary, "merges": []},
    })
}
