"""The files of the untrained base model: tokenizer, configuration, chat template and random weights."""

import json
import math
import struct

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VOCABULARY = 2048

# The number of input features of every linear layer is a multiple of 256, for NF4 (blocks of 64) and k-quants (256).
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
    "use_cache": True,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "torch_dtype": "bfloat16",
}

TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": None,
    "eos_token": TURN_END,
    "pad_token": END_OF_TEXT,
    "unk_token": None,
    "add_bos_token": False,
    "add_prefix_space": False,
    "clean_up_tokenization_spaces": False,
    "model_max_length": CONFIG["max_position_embeddings"],
}

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def write_base(folder, texts, dice):
    """Writes the whole model directory; the tokenizer learns its merges from `texts`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(texts)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "config.json", CONFIG)
    _write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    generation = {"eos_token_id": CONFIG["eos_token_id"], "pad_token_id": CONFIG["pad_token_id"]}
    _write_json(folder / "generation_config.json", generation)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    (folder / "model.safetensors").write_bytes(_safetensors(_shapes(), dice))
    return tokenizer


def _tokenizer(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True, normalized=False) for t in (END_OF_TEXT, TURN_START, TURN_END)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise ValueError(f"the texts only fill {tokenizer.get_vocab_size()} of {VOCABULARY} tokens")
    return tokenizer


def _shapes():
    """Tensor name → (shape, standard deviation); 0 means a norm, whose initial values are 1."""
    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    queries = CONFIG["num_attention_heads"] * CONFIG["head_dim"]
    keys = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    std = CONFIG["initializer_range"]
    # The residual stream sums two projections per layer. The scale keeps its variance equal to that of one (GPT-2).
    residual = std / math.sqrt(2 * CONFIG["num_hidden_layers"])
    shapes = {"model.embed_tokens.weight": ((VOCABULARY, hidden), std)}
    for layer in range(CONFIG["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.input_layernorm.weight": ((hidden,), 0.0),
            f"{at}.self_attn.q_proj.weight": ((queries, hidden), std),
            f"{at}.self_attn.k_proj.weight": ((keys, hidden), std),
            f"{at}.self_attn.v_proj.weight": ((keys, hidden), std),
            f"{at}.self_attn.o_proj.weight": ((hidden, queries), residual),
            f"{at}.post_attention_layernorm.weight": ((hidden,), 0.0),
            f"{at}.mlp.gate_proj.weight": ((inner, hidden), std),
            f"{at}.mlp.up_proj.weight": ((inner, hidden), std),
            f"{at}.mlp.down_proj.weight": ((hidden, inner), residual),
        }
    shapes["model.norm.weight"] = ((hidden,), 0.0)
    return shapes


def _safetensors(shapes, dice):
    """A safetensors file in bf16: length of the header (u64), the header (JSON, padded to 8 bytes), the data."""
    header, data = {"__metadata__": {"format": "pt"}}, bytearray()
    for name, (shape, std) in shapes.items():
        begin = len(data)
        for _ in range(math.prod(shape) if std else 0):
            data += _bf16(std * _normal(dice))
        if not std:
            data += _bf16(1.0) * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(data)


def _normal(dice):
    """A normally distributed number (Box–Muller transform)."""
    return math.sqrt(-2.0 * math.log(dice.uniform())) * math.cos(2.0 * math.pi * dice.uniform())


def _bf16(value):
    """The upper half of the f32, rounded to nearest, ties to even."""
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return struct.pack("<H", (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)


def _write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
