"""QLoRA training steps with transformers + PEFT + bitsandbytes at the shape of a config.json, to compare with `gpu_suite steps`.

Usage: peft_step.py CONFIG [--device cuda] [--documents 4096] [--steps 10] [--recompute] [--base nf4|dense] [--unsloth]
Random weights are quantized layer by layer, so that no dense copy of the model exists. Prints one JSON object per line, as gpu_suite:
first the loaded model, then one line per step; the last line has the peak of torch's allocator.
With --unsloth, the weights are saved and loaded with Unsloth's loader, and Unsloth's kernels and checkpointing run the step. It is an
error if one of them is not in use. Unsloth compiles during the first steps. Nothing is downloaded.
"""

import time

LAUNCHED = time.time()

import argparse
import json
import os
import resource
import sys
import tempfile

import torch

UNSLOTH = "--unsloth" in sys.argv
if UNSLOTH:  # import it before transformers and peft, parts of which it replaces
    os.environ |= {"UNSLOTH_DISABLE_STATISTICS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
                   "UNSLOTH_COMPILE_LOCATION": os.path.join(tempfile.gettempdir(), "unsloth-compiled")}
    import unsloth
    from unsloth.kernels import apply_lora_mlp_swiglu, apply_lora_o, apply_lora_qkv

from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedTokenizerFast


def build(config, device, dtype, base):
    """The model on the device: created on the meta device, then filled module by module."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    if base == "nf4":
        import bitsandbytes as bnb

        for name, linear in list(model.named_modules()):
            if not isinstance(linear, torch.nn.Linear) or name == "lm_head":
                continue
            made = bnb.nn.Linear4bit(linear.in_features, linear.out_features, bias=linear.bias is not None, compute_dtype=dtype,
                                     compress_statistics=True, quant_type="nf4", device="meta")
            weight = torch.empty(linear.weight.shape, device=device, dtype=dtype).normal_(0, 0.02)
            made.weight = bnb.nn.Params4bit(weight.cpu(), requires_grad=False, compress_statistics=True, quant_type="nf4").to(device)
            if linear.bias is not None:
                made.bias = torch.nn.Parameter(torch.zeros(linear.out_features, device=device, dtype=dtype), requires_grad=False)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, made)
        model.is_loaded_in_4bit = True
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.device.type == "meta":
                filled = torch.empty(parameter.shape, device=device, dtype=dtype).normal_(0, 0.02)
                if "norm" in type(module).__name__.lower():
                    filled.fill_(1.0)
                setattr(module, name, torch.nn.Parameter(filled, requires_grad=False))
    model.tie_weights()
    # Buffers (rotary frequencies) must have their real values, which are taken from a model with one layer.
    small = type(config)(**{**config.to_dict(), "num_hidden_layers": 1, "vocab_size": 8})
    right = dict(AutoModelForCausalLM.from_config(small, dtype=dtype).named_buffers())
    for name, buffer in list(model.named_buffers()):
        if buffer.device.type == "meta":
            parent, _, child = name.rpartition(".")
            model.get_submodule(parent).register_buffer(child, right[name].to(device), persistent=False)
    return model


def with_peft(model, base, recompute):
    """Adds adapters as the documentation of transformers and PEFT does."""
    if base == "nf4":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=recompute)
    elif recompute:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))


def save(model, folder, dtype, base):
    """Saves the weights, and a minimal tokenizer, which Unsloth requires."""
    from tokenizers import Tokenizer, models

    if base == "nf4":
        model.config.quantization_config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True, bnb_4bit_quant_type="nf4",
                                                              bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=["lm_head"])
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "<pad>": 2}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>", pad_token="<pad>").save_pretrained(folder)


def with_unsloth(folder, tokens, dtype, base, recompute):
    """Loads the saved model with adapters in Unsloth. Exits if Unsloth's fast path is not in use."""
    checkpointing = "unsloth" if recompute else False
    model, _ = unsloth.FastLanguageModel.from_pretrained(folder, max_seq_length=tokens, dtype=dtype, load_in_4bit=base == "nf4",
                                                         use_gradient_checkpointing=checkpointing, local_files_only=True)
    model = unsloth.FastLanguageModel.get_peft_model(model, r=16, lora_alpha=32, lora_dropout=0, bias="none", use_rslora=False,
                                                     use_gradient_checkpointing=checkpointing)
    for index, layer in enumerate(model.base_model.model.model.layers):
        packed = getattr(layer.mlp.up_proj.base_layer.weight, "quant_state", None) is not None
        in_place = {"base": packed == (base == "nf4"),
                    "mlp": getattr(layer.mlp.forward, "__func__", None) is apply_lora_mlp_swiglu,
                    "qkv": getattr(layer.self_attn, "apply_qkv", None) is apply_lora_qkv,
                    "o": getattr(layer.self_attn, "apply_o", None) is apply_lora_o,
                    "checkpointing": layer.gradient_checkpointing == recompute}
        if not all(in_place.values()):
            sys.exit(f"Unsloth's kernels are not in use in layer {index}: {in_place}")
    if recompute and torch.utils.checkpoint.CheckpointFunction.__name__ != "UnslothCheckpointFunction":
        sys.exit("Unsloth's gradient checkpointing is not in use (it requires sequences of at least 512 tokens)")
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--documents", default="4096")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--base", choices=["nf4", "dense"], default="nf4")
    parser.add_argument("--unsloth", action="store_true", help="use Unsloth's kernels and checkpointing")
    arguments = parser.parse_args()
    cuda = arguments.device == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    torch.manual_seed(7)
    model = build(AutoConfig.from_pretrained(arguments.config), arguments.device, dtype, arguments.base)
    model.config.use_cache = False
    lengths = [int(length) for length in arguments.documents.split(",")]
    tokens = sum(lengths)
    if UNSLOTH:
        with tempfile.TemporaryDirectory() as folder:
            save(model, folder, dtype, arguments.base)
            del model
            model = with_unsloth(folder, tokens, dtype, arguments.base, arguments.recompute)
        if cuda:
            torch.cuda.reset_peak_memory_stats()  # exclude the model that was saved
    else:
        model = with_peft(model, arguments.base, arguments.recompute)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, fused=cuda)
    positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0).to(arguments.device)
    if UNSLOTH and len(lengths) == 1:
        positions = None  # Unsloth's usual call; with position ids it would use the code path for packed sequences
    print(json.dumps({"device": torch.cuda.get_device_name() if cuda else "CPU", "tokens": tokens, "base": arguments.base,
                      "loaded": time.time() - LAUNCHED}), flush=True)
    for _ in range(arguments.steps):
        ids = torch.randint(0, model.config.vocab_size, (1, tokens), device=arguments.device)
        if cuda:
            torch.cuda.synchronize()
        started = time.time()
        with torch.autocast(arguments.device, torch.bfloat16, enabled=cuda):
            output = model(input_ids=ids, labels=ids, position_ids=positions)
        if UNSLOTH and output.logits is not unsloth.models._utils.EMPTY_LOGITS:
            sys.exit("Unsloth's fused cross-entropy is not in use")
        loss = output.loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        line = {"loss": loss.item(), "grad_norm": float(norm)}
        if cuda:
            torch.cuda.synchronize()
        print(json.dumps({"seconds": time.time() - started, **line, "at": time.time() - LAUNCHED}), flush=True)
    peak = torch.cuda.max_memory_reserved() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak_bytes": peak}), flush=True)


if __name__ == "__main__":
    main()
