"""Cuts a real model to a small size: its first layers, and the part of its vocabulary that some texts use.

Usage: cut_model.py MODEL_DIR OUT [--layers 4] [--steps 200] TEXT...
OUT/model: config.json and model.safetensors in bfloat16. OUT/batches.json: two sequences of up to 128 tokens per step, with the ids
of the cut vocabulary. All sequences are different parts of the texts.
"""

import argparse
import json
import pathlib

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

SEQUENCES, LENGTH = 2, 128


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("texts", nargs="+", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    tokens = [token for path in arguments.texts for token in tokenizer(path.read_text())["input_ids"]]
    needed = arguments.steps * SEQUENCES * LENGTH
    if len(tokens) < needed:
        raise SystemExit(f"the texts have {len(tokens)} tokens, but {arguments.steps} steps need {needed}: add texts")
    used = sorted(set(tokens[:needed]))
    used += [used[0]] * (-len(used) % 64)  # unused rows, so that the vocabulary is a multiple of 64
    place = {token: index for index, token in reversed(list(enumerate(used)))}
    tokens = [place[token] for token in tokens[:needed]]

    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16)
    model.model.layers = model.model.layers[: arguments.layers]
    model.resize_token_embeddings(len(used))
    original = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16).get_input_embeddings().weight
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(original[used])
    model.config.num_hidden_layers = arguments.layers
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[: arguments.layers]
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.config, name, None)
    model.generation_config = GenerationConfig()
    model.save_pretrained(arguments.out / "model")
    (arguments.out / "model/generation_config.json").unlink()

    made = []
    for step in range(arguments.steps):
        sequences = []
        for row in range(SEQUENCES):
            start = (step * SEQUENCES + row) * LENGTH
            ids = tokens[start : start + LENGTH - 7 * row - step % 5]  # different lengths
            sequences.append({"input_ids": ids, "labels": ids})
        made.append({"sequences": sequences})
    (arguments.out / "batches.json").write_text(json.dumps(made) + "\n")
    print(f"{arguments.layers} layers, {len(used)} of {len(tokenizer)} tokens")


if __name__ == "__main__":
    main()
