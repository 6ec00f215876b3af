"""Compares importance matrices with sums of squared inputs that forward hooks of transformers compute on the same tokens.

Usage: verify_imatrix.py MODEL IDS.json IMATRIX.gguf [IMATRIX.gguf…]. MODEL is a Hugging Face directory. IDS.json is a list of lists of token
ids. Prints for each matrix the largest difference of a tensor, |ours - theirs| / |theirs| (Frobenius), and exits 1 above BOUND (1e-3).
"""

import json
import os
import sys

import numpy as np
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM

BOUND = float(os.environ.get("BOUND", 1e-3))
NAMES = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate", "up_proj": "ffn_up",
         "down_proj": "ffn_down"}


def gguf_name(module, tied):
    if module == "lm_head":
        return "token_embd.weight" if tied else "output.weight"
    parts = module.split(".")
    return f"blk.{parts[2]}.{NAMES[parts[-1]]}.weight"


def reference(folder, texts):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = {}

    def observe(name):
        def hook(_, inputs):
            found[name] = found.get(name, 0) + inputs[0].double().pow(2).flatten(0, -2).sum(0)
        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(observe(gguf_name(name, model.config.tie_word_embeddings)))
    with torch.no_grad():
        for ids in texts:
            model(input_ids=torch.tensor([ids]))
    return {name: value.numpy() for name, value in found.items()}


def main(folder, ids, *matrices):
    with open(ids) as file:
        texts = json.load(file)
    theirs = reference(folder, texts)
    tokens = sum(map(len, texts))
    failed = False
    for path in matrices:
        tensors = {tensor.name: np.array(tensor.data, np.float64).reshape(-1) for tensor in GGUFReader(path).tensors}
        differences = {}
        for name in sorted(name.removesuffix(".in_sum2") for name in tensors if name.endswith(".in_sum2")):
            ours, count = tensors[f"{name}.in_sum2"], tensors[f"{name}.counts"][0]
            scaled = theirs[name] * (count / tokens)
            differences[name] = np.linalg.norm(ours - scaled) / np.linalg.norm(scaled)
        worst = max(differences, key=differences.get)
        missing = sorted(set(theirs) - set(differences))
        print(f"{path}: {len(differences)} tensors, {count:.0f} of {tokens} tokens, largest difference {differences[worst]:.2e} in {worst}, "
              f"median {np.median(list(differences.values())):.2e}; not in it: {', '.join(missing) or 'none'}")
        failed |= differences[worst] > BOUND
    return int(failed)


sys.exit(main(*sys.argv[1:]))
