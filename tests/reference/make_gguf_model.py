"""A tiny Llama as a GGUF file of mixed types, and transformers' results with its weights: tests/fixtures/gguf/.

Usage: make_gguf_model.py OUT TOKENIZER.json, with the tokenizer of make_chat.py. OUT/model.gguf is written by the `gguf` package in
the layout of llama.cpp's converter: permuted rows of q and k, Llama 3 RoPE scaling as `rope_freqs.weight`, the tokenizer and a chat
template in the metadata. OUT/expected.safetensors: `input_ids`, `logits` (f32, from the dequantized weights), and the dequantized
tensors of the first layer under their Hugging Face names, with q and k in Hugging Face's order.
"""

import json
import math
import pathlib
import sys

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

ROPE = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=16)
CONFIG = LlamaConfig(vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, rope_parameters=ROPE,
                     tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, attn_implementation="eager")
# Hugging Face module, GGUF name, type. Covers all types that the package can write.
LAYER = [
    ("input_layernorm", "attn_norm", Kind.F32),
    ("self_attn.q_proj", "attn_q", Kind.F16),
    ("self_attn.k_proj", "attn_k", Kind.F16),
    ("self_attn.v_proj", "attn_v", Kind.BF16),
    ("self_attn.o_proj", "attn_output", Kind.Q8_0),
    ("post_attention_layernorm", "ffn_norm", Kind.F32),
    ("mlp.gate_proj", "ffn_gate", Kind.Q4_0),
    ("mlp.up_proj", "ffn_up", Kind.Q4_1),
    ("mlp.down_proj", "ffn_down", Kind.Q4_1),
]
NAMES = [("model.embed_tokens", "token_embd", Kind.Q8_0), ("model.norm", "output_norm", Kind.F32), ("lm_head", "output", Kind.F16)]
NAMES += [(f"model.layers.{layer}.{ours}", f"blk.{layer}.{theirs}", kind) for layer in range(CONFIG.num_hidden_layers)
          for ours, theirs, kind in LAYER]
TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def permuted(rows, heads):
    """The row order of llama.cpp, which rotates adjacent rows. Hugging Face pairs the two halves of a head."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def rope_factors():
    """The divisors of the frequencies: Llama 3's interpolation between 1 and `factor`."""
    size = CONFIG.head_dim
    frequencies = ROPE["rope_theta"] ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    turns = ROPE["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    smooth = (turns - ROPE["low_freq_factor"]) / (ROPE["high_freq_factor"] - ROPE["low_freq_factor"])
    smooth = np.clip(smooth, 0, 1)
    return (1 / ((1 - smooth) / ROPE["factor"] + smooth)).astype(np.float32)


def write_metadata(writer, tokenizer):
    writer.add_name("tonfall fixture")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(CONFIG.vocab_size)
    writer.add_context_length(CONFIG.max_position_embeddings)
    writer.add_embedding_length(CONFIG.hidden_size)
    writer.add_block_count(CONFIG.num_hidden_layers)
    writer.add_feed_forward_length(CONFIG.intermediate_size)
    writer.add_head_count(CONFIG.num_attention_heads)
    writer.add_head_count_kv(CONFIG.num_key_value_heads)
    writer.add_layer_norm_rms_eps(CONFIG.rms_norm_eps)
    writer.add_rope_freq_base(ROPE["rope_theta"])
    writer.add_rope_dimension_count(CONFIG.head_dim)
    # Converters omit this key, since all releases have 8192. With that context length, the fixture would not test the scaling.
    writer.add_rope_scaling_orig_ctx_len(ROPE["original_max_position_embeddings"])
    special = {token["content"] for token in tokenizer["added_tokens"]}
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    assert len(tokens) == CONFIG.vocab_size
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(CONFIG.bos_token_id)
    writer.add_eos_token_id(CONFIG.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(31)
    model = LlamaForCausalLM(CONFIG).eval()
    state = model.state_dict()
    heads = {"q_proj": CONFIG.num_attention_heads, "k_proj": CONFIG.num_key_value_heads}

    writer = gguf.GGUFWriter(out / "model.gguf", "llama")
    write_metadata(writer, json.loads(pathlib.Path(sys.argv[2]).read_text()))
    writer.add_tensor("rope_freqs.weight", rope_factors())
    tensors = {}
    for ours, theirs, kind in NAMES:
        shape = state[f"{ours}.weight"].shape
        noise = torch.randn(shape, generator=generator)
        source = (1 + 0.2 * noise if "norm" in ours else 0.15 * noise).numpy()
        rows = gguf.quants.quantize(source, kind)
        values = gguf.quants.dequantize(rows, kind).astype(np.float32)
        tensors[f"{ours}.weight"] = torch.from_numpy(values.reshape(shape).copy())
        of_head = heads.get(ours.rsplit(".", 1)[-1])
        stored = np.ascontiguousarray(permuted(rows, of_head) if of_head else rows)
        writer.add_tensor(f"{theirs}.weight", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    model.load_state_dict(tensors)
    assert torch.allclose(model.model.rotary_emb.inv_freq * torch.from_numpy(rope_factors()),
                          10000.0 ** (-torch.arange(0, CONFIG.head_dim, 2) / CONFIG.head_dim), rtol=1e-6)
    ids = torch.randint(3, CONFIG.vocab_size, (1, 48), generator=generator)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
    first_layer = {name: value for name, value in tensors.items() if "layers.0" in name}
    save_file(first_layer | {"input_ids": ids[0], "logits": logits.contiguous()}, out / "expected.safetensors")


if __name__ == "__main__":
    main()
