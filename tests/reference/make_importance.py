"""Sums of squared inputs of every linear layer, computed by forward hooks: importance.safetensors in folders of make_families.py.

Usage: make_importance.py FOLDER…. Each folder has config.json, model.safetensors and expected.safetensors. The sums run over the tokens of
both texts of expected.safetensors. Tensors (f32, [in_features]): `base.<weight>` without and `adapter.<weight>` with the LoRA matrices of
expected.safetensors. The head of a model with tied weights is `model.embed_tokens.weight`.
"""

import pathlib
import sys

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


def sums(model, texts, tied):
    """The sums by the name of the weight, f64 internally."""
    found = {}

    def observe(name):
        def hook(_, inputs):
            squares = inputs[0].double().pow(2).flatten(0, -2).sum(0)
            found[name] = found.get(name, 0) + squares
        return hook

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "lora_" not in name:
            name = name.removeprefix("base_model.model.").removesuffix(".base_layer")
            name = "model.embed_tokens" if tied and name == "lm_head" else name
            hooks.append(module.register_forward_pre_hook(observe(f"{name}.weight")))
    with torch.no_grad():
        for ids in texts:
            model(input_ids=ids[None])
    for hook in hooks:
        hook.remove()
    return {name: value.float() for name, value in found.items()}


def make(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    expected = load_file(folder / "expected.safetensors")
    texts = [expected["text0.input_ids"], expected["text1.input_ids"]]
    tied = model.config.tie_word_embeddings
    base = sums(model, texts, tied)
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora).eval()
    state = {f"base_model.model.{key[5:]}": value for key, value in expected.items() if key.startswith("lora.") and key != "lora.loss"}
    result = set_peft_model_state_dict(model, state)
    assert not result.unexpected_keys, result.unexpected_keys
    adapter = sums(model, texts, tied)
    assert base.keys() == adapter.keys() and len(base) == 15, sorted(base)
    tensors = {f"base.{name}": value for name, value in base.items()} | {f"adapter.{name}": value for name, value in adapter.items()}
    save_file(tensors, folder / "importance.safetensors")
    print(folder, len(tensors))


for argument in sys.argv[1:]:
    make(pathlib.Path(argument))
