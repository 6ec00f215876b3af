"""Tiny models of the families that have no real weights in the registries, with real tokenizers, an adapter and greedy answers of PEFT.

Usage: tiny_families.py OUT CACHE [FAMILY...]. CACHE is the folder of tests/reference/setup.sh; the models of all families take 1.6 GB.
OUT/FAMILY/base is a model directory in f32 with random weights: norms differ from 1 and biases from 0, every row has a multiple of 256
elements (K-quants), key/value heads are fewer than heads. OUT/FAMILY/adapter is a PEFT directory, r 8, alpha 16, B not zero.
OUT/FAMILY/verify.json has the answers to the eight chats, of 32, whose answers are text and decided most clearly: the smallest difference between
the two largest logits, over all tokens of the answers of base and adapter, is largest.
"""

import itertools
import json
import pathlib
import shutil
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import (AutoModelForCausalLM, AutoTokenizer, Gemma2Config, Gemma3TextConfig, GemmaConfig, GenerationConfig, LlamaConfig,
                          MistralConfig, Qwen2Config, Qwen3Config)

from expected import verification

SHAPE = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=512)
# llama.cpp computes Gemma's attention scale from the head size, so query_pre_attn_scalar is the same.
GEMMA = SHAPE | dict(head_dim=128, vocab_size=262208)
ROPE = dict(rope_type="default", rope_theta=10000.0)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
# Family: tokenizer, config. Vocabularies are as large as those of the released models: larger than the tokenizer for Qwen and Gemma 3.
FAMILIES = {
    "llama": ("smollm2", LlamaConfig(**SHAPE, vocab_size=49152, rope_parameters=LLAMA3, tie_word_embeddings=False)),
    "mistral": ("llama3_1", MistralConfig(**SHAPE, vocab_size=128256, rope_parameters=ROPE, sliding_window=None)),
    "qwen2": ("qwen3", Qwen2Config(**SHAPE, vocab_size=151936, rope_parameters=ROPE, tie_word_embeddings=True)),
    "qwen3": ("qwen3", Qwen3Config(**SHAPE, vocab_size=151936, rope_parameters=ROPE, tie_word_embeddings=True, head_dim=128)),
    "gemma": ("gemma3", GemmaConfig(**GEMMA, rope_parameters=ROPE)),
    # Windows shorter than the prompts. llama.cpp has the layer patterns of the released models: every second and every sixth layer is full.
    "gemma2": ("gemma3", Gemma2Config(**GEMMA, rope_parameters=ROPE, query_pre_attn_scalar=128, sliding_window=16,
                                      attn_logit_softcapping=5.0, final_logit_softcapping=10.0)),
    "gemma3": ("gemma3", Gemma3TextConfig(**GEMMA | dict(num_hidden_layers=6), query_pre_attn_scalar=128, sliding_window=16,
                                          layer_types=["sliding_attention"] * 5 + ["full_attention"],
                                          rope_parameters=dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                                                               sliding_attention=dict(rope_type="default", rope_theta=1e4)))),
}
SUBJECTS = ["the moon", "old bridges", "how to mend a bicycle in 20 minutes", "Köln am Rhein", "3.14159", "a lost key", "東京の雨", "silk"]
FORMS = ["Tell me about {}.", "Write one line on {}, please!", "What's the price of {}?", "  {}\n\n{} again"]
KEPT, LIMIT = 8, 16


def copy_tokenizer(name, cache, folder):
    if name == "smollm2":
        source = cache / "models/SmolLM2-135M-Instruct-f32"
        for file in ["tokenizer_config.json", "chat_template.jinja"]:
            shutil.copy(source / file, folder)
        # The released model's pre-tokenizer, which transformers doesn't restore from GGUF.
        settings = json.loads((source / "tokenizer.json").read_text())
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        settings["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]}
        (folder / "tokenizer.json").write_text(json.dumps(settings, ensure_ascii=False))
    else:
        for file in ["tokenizer.json", "tokenizer_config.json"]:
            shutil.copy(cache / "tokenizers" / name / file, folder)


def random_model(config, length, generator):
    """Weights so large that attention is not uniform; rows after the tokenizer's last id are zero, so that they are never the answer."""
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    offset = 0 if config.model_type.startswith("gemma") else 1  # Gemma's norms add 1 to their weights
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in path:
                parameter.copy_(offset + 0.3 * noise)
            else:
                parameter.copy_(0.5 * noise if "bias" in path else 2 * noise / parameter.shape[-1] ** 0.5)
            if parameter.shape[0] == config.vocab_size:
                # Gemma multiplies embeddings by √hidden. Large ones would hide what the layers compute.
                parameter.mul_(0.05 if offset == 0 else 1.0)
                parameter[length:] = 0
    return model


def chats(tokenizer):
    prompts = []
    for number, (form, subject) in enumerate(itertools.product(FORMS, SUBJECTS)):
        messages = [{"role": "user", "content": form.replace("{}", subject)}]
        if number % 3 == 0:
            messages += [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Go on."}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompts.append({"text": text, "tokens": tokenizer(text, add_special_tokens=False)["input_ids"], "messages": messages})
    return prompts


def margin(model, tokens, answer):
    """The smallest difference between the two largest logits over the tokens of an answer."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens + answer])).logits[0, len(tokens) - 1:-1]
    top = logits.topk(2).values
    return float((top[:, 0] - top[:, 1]).min())


def make(family, out, cache):
    tokenizer_name, config = FAMILIES[family]
    generator = torch.Generator().manual_seed(sum(family.encode()))
    base, adapter = out / family / "base", out / family / "adapter"
    base.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(tokenizer_name, cache, base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id, None
    model = random_model(config, len(tokenizer), generator)
    model.generation_config = GenerationConfig(bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id)
    model.save_pretrained(base)

    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.peft_config["default"].base_model_name_or_path = "../base"
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if "lora_" in path:
                scale = parameter.shape[-1] ** -0.5 if "lora_A" in path else 0.1
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    model.eval().save_pretrained(adapter)
    (adapter / "README.md").unlink(missing_ok=True)

    verify = verification(f"{family}/adapter", model, chats(tokenizer), LIMIT)
    for prompt in verify["prompts"]:
        with model.disable_adapter():
            prompt["margin"] = margin(model, prompt["tokens"], prompt["base"])
        prompt["margin"] = min(prompt["margin"], margin(model, prompt["tokens"], prompt["expected"]))
    # llama-server answers with an error if the model's text isn't valid UTF-8.
    kept = [prompt for prompt in verify["prompts"]
            if "\ufffd" not in tokenizer.decode(prompt["expected"]) + tokenizer.decode(prompt["base"])]
    verify["prompts"] = sorted(kept, key=lambda prompt: -prompt["margin"])[:KEPT]
    (out / family / "verify.json").write_text(json.dumps(verify, indent=1))
    changed = sum(prompt["expected"] != prompt["base"] for prompt in verify["prompts"])
    kinds = min(len(set(prompt["expected"])) for prompt in verify["prompts"])
    print(f"{family}: {len(tokenizer)} tokens, margins {verify['prompts'][-1]['margin']:.3f} to {verify['prompts'][0]['margin']:.3f}, "
          f"at least {kinds} different tokens in an answer, {changed} of {len(kept[:KEPT])} answers change with the adapter", flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    target, cached, *names = sys.argv[1:]
    for name in names or FAMILIES:
        make(name, pathlib.Path(target), pathlib.Path(cached))
