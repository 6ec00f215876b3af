"""Twenty AdamW steps with torch, transformers' schedules, and clipping by the global norm.

Usage: make_adamw.py OUT.safetensors. The gradients of two matrices are stored, so that only the optimizer is compared.
OUT.safetensors: `<parameter>.initial`, `<parameter>.gradients` (f32, [steps, …], before clipping) and, per schedule,
`<schedule>.<parameter>.values` (after each step). OUT.json: the settings, the learning rate of each step per schedule, and the
gradient norm before clipping, which is the same for all schedules.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

STEPS, WARMUP, MAX_GRAD_NORM = 20, 4, 1.0
SETTINGS = dict(lr=3e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
SHAPES = {"wide": (3, 17), "tall": (19, 2)}
SCHEDULES = {
    "constant": lambda optimizer: get_constant_schedule_with_warmup(optimizer, WARMUP),
    "linear": lambda optimizer: get_linear_schedule_with_warmup(optimizer, WARMUP, STEPS),
    "cosine": lambda optimizer: get_cosine_schedule_with_warmup(optimizer, WARMUP, STEPS),
}


def problem():
    """Initial values and gradients. The gradients grow from far below the clipping norm to far above it; one row is zero."""
    generator = torch.Generator().manual_seed(23)
    scales = torch.logspace(-4, 1, STEPS).reshape(-1, 1, 1)
    initial = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    gradients = {name: scales * torch.randn((STEPS, *shape), generator=generator) for name, shape in SHAPES.items()}
    gradients["tall"][:, 5] = 0.0
    return initial, gradients


def run(make_schedule, initial, gradients):
    parameters = {name: torch.nn.Parameter(value.clone()) for name, value in initial.items()}
    optimizer = torch.optim.AdamW(parameters.values(), **SETTINGS)
    schedule = make_schedule(optimizer)
    rates, norms, values = [], [], {name: [] for name in parameters}
    for step in range(STEPS):
        for name, parameter in parameters.items():
            parameter.grad = gradients[name][step].clone()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters.values(), MAX_GRAD_NORM)))
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
        for name, parameter in parameters.items():
            values[name].append(parameter.detach().clone())
    return rates, norms, {name: torch.stack(steps) for name, steps in values.items()}


def main():
    out = pathlib.Path(sys.argv[1])
    initial, gradients = problem()
    tensors = {f"{name}.initial": value for name, value in initial.items()}
    tensors |= {f"{name}.gradients": value for name, value in gradients.items()}
    record = {**SETTINGS, "max_grad_norm": MAX_GRAD_NORM, "warmup_steps": WARMUP, "total_steps": STEPS, "learning_rates": {}}
    for schedule, make_schedule in SCHEDULES.items():
        record["learning_rates"][schedule], record["grad_norms"], values = run(make_schedule, initial, gradients)
        tensors |= {f"{schedule}.{name}.values": value for name, value in values.items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, out)
    out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
