"""QLoRA steps with transformers + PEFT + bitsandbytes at the shape of a config.json: the other side of `gpu_suite steps`.

Usage: peft_step.py CONFIG [--device cuda] [--documents 4096] [--steps 10] [--recompute] [--base nf4|dense] [--unsloth]
Random weights, quantised layer by layer, so that no dense copy of the model exists. One JSON object a line, as gpu_suite's:
first what was loaded, then a step each; the last line has the peak of torch's own allocator.
"""

import time

LAUNCHED = time.time()

import argparse
import json
import resource

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoConfig, AutoModelForCausalLM


def build(config, device, dtype, base):
    """The model on the device: made without memory, then filled module by module."""
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
    # Buffers (rotary frequencies) can't be filled with numbers of one's own choice: a model of one layer has the right ones.
    small = type(config)(**{**config.to_dict(), "num_hidden_layers": 1, "vocab_size": 8})
    right = dict(AutoModelForCausalLM.from_config(small, dtype=dtype).named_buffers())
    for name, buffer in list(model.named_buffers()):
        if buffer.device.type == "meta":
            parent, _, child = name.rpartition(".")
            model.get_submodule(parent).register_buffer(child, right[name].to(device), persistent=False)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--documents", default="4096")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--base", choices=["nf4", "dense"], default="nf4")
    parser.add_argument("--unsloth", action="store_true", help="patch the model with Unsloth's kernels")
    arguments = parser.parse_args()
    cuda = arguments.device == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    torch.manual_seed(7)
    if arguments.unsloth:
        import unsloth  # noqa: F401  (it replaces parts of transformers when imported)
    model = build(AutoConfig.from_pretrained(arguments.config), arguments.device, dtype, arguments.base)
    model.config.use_cache = False
    if arguments.base == "nf4":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=arguments.recompute)
    elif arguments.recompute:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, fused=cuda)
    lengths = [int(length) for length in arguments.documents.split(",")]
    positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0).to(arguments.device)
    tokens = sum(lengths)
    print(json.dumps({"device": torch.cuda.get_device_name() if cuda else "CPU", "tokens": tokens, "base": arguments.base,
                      "loaded": time.time() - LAUNCHED}), flush=True)
    for _ in range(arguments.steps):
        ids = torch.randint(0, model.config.vocab_size, (1, tokens), device=arguments.device)
        if cuda:
            torch.cuda.synchronize()
        started = time.time()
        with torch.autocast(arguments.device, torch.bfloat16, enabled=cuda):
            loss = model(input_ids=ids, labels=ids, position_ids=positions).loss
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
