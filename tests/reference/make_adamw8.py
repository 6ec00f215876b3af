"""Five steps of bitsandbytes' AdamW8bit on the CPU.

Usage: make_adamw8.py OUT.safetensors. Gradients are stored, so that only the optimizer is compared.
OUT.safetensors, per parameter: `<parameter>.initial`, `<parameter>.gradients` (f32, [steps, …]) and, after each step,
`<parameter>.values`, `<parameter>.codes1`, `.codes2` (u8, [steps, elements]) and `.absmax1`, `.absmax2` (f32, [steps, blocks of 256
elements]). OUT.json: the settings. The last block of `ragged` is partly filled. `small` has fewer than 4,096 elements, so its
moments are f32 and it has no codes.
"""

import json
import pathlib
import sys

import bitsandbytes
import torch
from safetensors.torch import save_file

STEPS = 5
SETTINGS = dict(lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
SHAPES = {"ragged": (67, 71), "small": (3, 17)}


def main():
    out = pathlib.Path(sys.argv[1])
    generator = torch.Generator().manual_seed(29)
    # Gradients grow from step to step; each element has its own magnitude; one row is zero.
    scales = torch.logspace(-3, 0, STEPS).reshape(-1, 1, 1)
    tensors = {}
    for name, shape in SHAPES.items():
        parameter = torch.nn.Parameter(torch.randn(shape, generator=generator))
        sizes = 10 ** (-3 * torch.rand(shape, generator=generator))
        gradients = scales * sizes * torch.randn((STEPS, *shape), generator=generator)
        gradients[:, 1] = 0.0
        tensors[f"{name}.initial"], tensors[f"{name}.gradients"] = parameter.detach().clone(), gradients
        optimizer = bitsandbytes.optim.AdamW8bit([parameter], **SETTINGS)
        after = {"values": []}
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
            after["values"].append(parameter.detach().clone())
            state = optimizer.state[parameter]
            for moment in "12":
                if state[f"state{moment}"].dtype == torch.uint8:
                    after.setdefault(f"codes{moment}", []).append(state[f"state{moment}"].flatten().clone())
                    after.setdefault(f"absmax{moment}", []).append(state[f"absmax{moment}"].clone())
        tensors |= {f"{name}.{what}": torch.stack(steps) for what, steps in after.items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, out)
    out.with_suffix(".json").write_text(json.dumps({**SETTINGS, "steps": STEPS}, indent=1) + "\n")


if __name__ == "__main__":
    main()
