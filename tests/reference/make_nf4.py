"""NF4 with double quantization by bitsandbytes on CPU: tests/fixtures/nf4.safetensors.

Usage: make_nf4.py OUT.safetensors [MODEL_DIR]. Per case: source f32, codes, absmax u8, nested_absmax, offset, values (the
dequantized matrix). Also `dynamic_map`, the 256 values of the nested quantization.
"""

import pathlib
import sys

import bitsandbytes.functional as bnb
import torch
from safetensors import safe_open
from safetensors.torch import save_file

generator = torch.Generator().manual_seed(11)


def normal(*shape, scale=0.02):
    return scale * torch.randn(*shape, generator=generator)


cases = {
    "square": normal(64, 64),
    "many_blocks": normal(96, 320),
    "odd_columns": normal(7, 100),
    "wide": torch.cat([normal(2, 64, scale=10.0), normal(2, 64, scale=1e-6)]),
    "zeros": torch.cat([torch.zeros(1, 64), normal(3, 64)]),
    "single_block": normal(1, 64),
    "short": normal(3, 10),
}
if len(sys.argv) > 2:
    with safe_open(next(pathlib.Path(sys.argv[2]).glob("*.safetensors")), "pt") as file:
        cases["real"] = file.get_slice("model.layers.4.mlp.down_proj.weight")[:40].float()

tensors = {}
for name, source in cases.items():
    source = source.contiguous()
    codes, state = bnb.quantize_4bit(source, blocksize=64, compress_statistics=True, quant_type="nf4")
    tensors |= {
        f"{name}.source": source, f"{name}.codes": codes.flatten(), f"{name}.absmax": state.absmax,
        f"{name}.nested_absmax": state.state2.absmax, f"{name}.offset": state.offset[None].float(),
        f"{name}.values": bnb.dequantize_4bit(codes, state),
    }
tensors["dynamic_map"] = state.state2.code
save_file({key: value.contiguous() for key, value in tensors.items()}, sys.argv[1])
print({key: (list(value.shape), str(value.dtype)) for key, value in tensors.items()})
