"""LoRA training steps with transformers and PEFT on given batches, recorded so that tonfall can replay them.

Usage: peft_losses.py MODEL_DIR BATCHES.json OUT [--device cuda] [--base nf4|dense] [--dtype bf16|f32]
OUT: init/ and final/ (adapters) and steps.json, the input of `gpu_suite losses`. By default, activations are bfloat16 on CUDA and f32
on a CPU. Adapters are f32. bitsandbytes quantizes the base (NF4, double quantization).
"""

import argparse
import json
import pathlib

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

LEARNING_RATE = 2e-4  # the default of recipes, and of Dettmers et al. 2023


def load(model, device, base, dtype):
    options = {"dtype": dtype, "device_map": device}
    if base == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    # With several threads, torch splits the sum of a large matrix's block scales, which rounds their mean differently.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loaded = AutoModelForCausalLM.from_pretrained(model, **options)
    torch.set_num_threads(threads)
    # bitsandbytes repacks its weights in the first forward pass in eval mode. Repacked weights have no gradients.
    return loaded.train()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("batches", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--base", choices=["nf4", "dense"], default="nf4")
    parser.add_argument("--dtype", choices=["bf16", "f32"])
    parser.add_argument("--steps", type=int)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    made = json.loads(arguments.batches.read_text())[: arguments.steps]

    bf16 = (arguments.dtype or ("bf16" if arguments.device == "cuda" else "f32")) == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32

    model = get_peft_model(load(arguments.model, arguments.device, arguments.base, dtype), LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
        if "lora_A" in name:
            bound = parameter.shape[1] ** -0.5
            parameter.data.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)
    model.save_pretrained(arguments.out / "init")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
    losses, norms = [], []
    for batch in made:
        total, trained = 0.0, sum(len(sequence["labels"]) - 1 for sequence in batch["sequences"])
        # One sequence at a time, since tonfall doesn't pad either.
        for sequence in batch["sequences"]:
            ids = torch.tensor([sequence["input_ids"]], device=arguments.device)
            with torch.autocast(arguments.device, torch.bfloat16, enabled=bf16):
                logits = model(input_ids=ids).logits.float()
            loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum") / trained
            loss.backward()
            total += loss.item()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, 1.0)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    model.save_pretrained(arguments.out / "final")
    record = {"lr": LEARNING_RATE, "batches": made, "losses": losses, "grad_norms": norms}
    (arguments.out / "steps.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
