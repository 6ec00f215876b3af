"""The tiny Llama as a 4-bit checkpoint, written by transformers and bitsandbytes: tests/fixtures/bitsandbytes/.

Usage: make_bnb_checkpoint.py OUT FAMILIES. Writes config.json and model.safetensors (packed NF4 weights, double quantization,
quant_state) to OUT, and expected.safetensors: `<module>.weight` f32, dequantized by this script, and `input_ids` and `logits` of a
model with these weights.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig


def dequantised(checkpoint, name):
    """Dequantizes an NF4 matrix by the format's definition, since bitsandbytes' CPU kernel would repack or misread it."""
    state = json.loads(bytes(checkpoint[f"{name}.quant_state.bitsandbytes__nf4"].tolist()))
    packed = checkpoint[name].flatten()
    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten().long()
    nested = checkpoint[f"{name}.nested_absmax"].repeat_interleave(state["nested_blocksize"])
    scales = checkpoint[f"{name}.nested_quant_map"][checkpoint[f"{name}.absmax"].long()]
    scales = scales * nested[:len(scales)] + torch.tensor(state["nested_offset"], dtype=torch.float32)
    values = checkpoint[f"{name}.quant_map"][codes] * scales.repeat_interleave(state["blocksize"])[:len(codes)]
    return values.reshape(state["shape"])


def main():
    out, base = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]) / "llama"
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                  bnb_4bit_compute_dtype=torch.float32)
    load = dict(dtype=torch.float32, attn_implementation="eager")
    quantised = AutoModelForCausalLM.from_pretrained(base, quantization_config=settings, **load)
    quantised.save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)

    checkpoint = load_file(out / "model.safetensors")
    names = [key.removesuffix(".quant_map") for key in checkpoint if key.endswith(".quant_map") and "nested" not in key]
    weights = {name: dequantised(checkpoint, name) for name in names}
    model = AutoModelForCausalLM.from_pretrained(base, **load).eval()
    dense = model.state_dict()
    assert len(weights) == 7 * model.config.num_hidden_layers, names
    for name, value in weights.items():
        error = (value - dense[name]).abs().max() / dense[name].abs().max()
        assert error < 0.2, (name, error)
        dense[name].copy_(value)
    ids = torch.randint(3, model.config.vocab_size, (1, 40), generator=torch.Generator().manual_seed(29))
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
    save_file(weights | {"input_ids": ids[0], "logits": logits.contiguous()}, out / "expected.safetensors")
    print({key: (list(value.shape), str(value.dtype)) for key, value in checkpoint.items() if "layers.0.self_attn.q" in key})


if __name__ == "__main__":
    main()
