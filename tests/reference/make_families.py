"""Tiny models of every family, with results of transformers and PEFT: tests/fixtures/families/<name>/.

Usage: make_families.py OUT. Each folder contains config.json, model.safetensors (bf16) and expected.safetensors: logits and loss
(labels = ids) of two texts, LoRA matrices (r 4, alpha 8, all-linear, B not zero), and the gradients of the second text's loss.
"""

import json
import pathlib
import sys

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, GemmaConfig, LlamaConfig, MistralConfig,
                          Qwen2Config, Qwen3Config)

SHAPE = dict(vocab_size=160, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
             pad_token_id=None, attn_implementation="eager", use_cache=False)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)
FAMILIES = {
    "llama": LlamaConfig(**SHAPE, rope_parameters=LLAMA3, tie_word_embeddings=False),
    "llama_tied": LlamaConfig(**SHAPE, rope_parameters=dict(rope_type="default", rope_theta=10000.0), tie_word_embeddings=True),
    "mistral": MistralConfig(**SHAPE, rope_parameters=dict(rope_type="default", rope_theta=10000.0), sliding_window=7),
    "qwen2": Qwen2Config(**SHAPE, rope_parameters=dict(rope_type="default", rope_theta=1000000.0), tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, rope_parameters=dict(rope_type="default", rope_theta=1000000.0), head_dim=32),
    "gemma": GemmaConfig(**SHAPE, rope_parameters=dict(rope_type="default", rope_theta=10000.0), head_dim=32),
    # Low soft caps, since scores and logits of a tiny model are small.
    "gemma2": Gemma2Config(**SHAPE, rope_parameters=dict(rope_type="default", rope_theta=10000.0), head_dim=32,
                           query_pre_attn_scalar=24, sliding_window=7, attn_logit_softcapping=2.0,
                           final_logit_softcapping=3.0),
    "gemma3": Gemma3TextConfig(**SHAPE, head_dim=32, query_pre_attn_scalar=24, sliding_window=7,
                               layer_types=["sliding_attention", "full_attention"],
                               rope_parameters=dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                                                    sliding_attention=dict(rope_type="default", rope_theta=1e4))),
}


def spread(model, generator):
    """Sets random weights, exact in bfloat16: norms differ from 1 and biases from 0, so that no part of the model is trivial."""
    with torch.no_grad():
        offset = 0 if model.config.model_type.startswith("gemma") else 1  # Gemma's norms add 1 to their weights
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            value = offset + 0.2 * noise if "norm" in name else 0.3 * noise if "bias" in name else 0.15 * noise
            parameter.copy_(value.to(torch.bfloat16).float())


def make(name, config, out):
    generator = torch.Generator().manual_seed(sum(name.encode()))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    spread(model, generator)
    folder = out / name
    model.to(torch.bfloat16).save_pretrained(folder)
    # Load it again, since the cast has also rounded the rotary frequencies.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    (folder / "generation_config.json").unlink(missing_ok=True)
    if name == "llama_tied":  # one config in the format of transformers 4
        path = folder / "config.json"
        settings = json.loads(path.read_text())
        settings["rope_theta"] = settings.pop("rope_parameters")["rope_theta"]
        settings["rope_scaling"] = None
        path.write_text(json.dumps(settings, indent=2) + "\n")

    tensors = {}
    for index, length in enumerate([5, 40]):
        ids = torch.randint(3, config.vocab_size, (1, length), generator=generator)
        with torch.no_grad():
            result = model(input_ids=ids, labels=ids)
        tensors |= {f"text{index}.input_ids": ids[0], f"text{index}.logits": result.logits[0], f"text{index}.loss": result.loss[None]}

    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    tensors["lora.loss"] = loss.detach()[None]
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            short = key.removeprefix("base_model.model.").replace(".default", "")
            tensors[f"lora.{short}"] = parameter.detach()
            tensors[f"grad.{short}"] = parameter.grad
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, folder / "expected.safetensors")
    return model


def shards(out):
    """Writes the first model again, in shards with an index."""
    model = AutoModelForCausalLM.from_pretrained(out / "llama", dtype=torch.bfloat16)
    model.save_pretrained(out / "llama_sharded", max_shard_size="60KB")
    (out / "llama_sharded" / "generation_config.json").unlink(missing_ok=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    target = pathlib.Path(sys.argv[1])
    for family, settings in FAMILIES.items():
        make(family, settings, target)
    shards(target)
    for file in sorted(target.rglob("*")):
        if file.is_file():
            print(file.stat().st_size, file.relative_to(target))
