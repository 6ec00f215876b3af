#!/usr/bin/env python3
"""LoRA training steps on CPU: tonfall compared with PyTorch + PEFT, in one run on one machine.

Usage: cpu_step.py --tonfall BINARY --python REFERENCE_PYTHON --base MODEL_DIR [--seq 256] [--steps 8] [--rounds 3] [--bf16]
                   [--instructions avx2|avx512]

Both train LoRA (r 16) on all linear layers of the same base, with one sequence of SEQ tokens per step and the same number of
threads. tonfall is measured as the whole program `tonfall train`, with a dense and with an NF4 base. The sides alternate: each round runs
all of them, every second round in reverse order. Printed as medians over the rounds: tokens/s of a step (after two warm-up steps) with the
spread of the rounds, CPU seconds of the whole program, peak resident memory, and seconds from launch to the end of the first step. On a
shared machine, CPU seconds vary less than tokens/s. The first line names the processor and the instructions in use. Standard library only. PyTorch runs in peft_cpu_step.py, with the interpreter REFERENCE_PYTHON.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
RECIPE = """
name = "bench"
base = "{base}"
quantization = "{quantization}"
output_dir = "{out}/runs"
[lora]
rank = 16
alpha = 32.0
[data]
train = "{out}/text.jsonl"
format = "text"
max_seq_len = {seq}
overflow = "truncate"
[training]
max_steps = {steps}
epochs = 1000.0
micro_batch_size = 1
learning_rate = 1e-4
schedule = "constant"
warmup_steps = 0
recompute = "{recompute}"
"""


# Environment variables that limit tonfall, PyTorch's kernels, oneDNN and MKL to a set of instructions.
INSTRUCTIONS = {
    "avx2": {"TONFALL_CPU": "avx2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {"TONFALL_CPU": "avx512", "ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
}


def cpu_seconds():
    """User and system time of all ended child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def instructions(program):
    """What `tonfall doctor` prints about the processor."""
    done = subprocess.run([program, "doctor"], stdout=subprocess.PIPE, text=True, check=False)
    return next((line.removeprefix("cpu").strip() for line in done.stdout.splitlines() if line.startswith("cpu")), "unknown")


def processor():
    """The name of the processor."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def tonfall(arguments, quantization, recompute):
    """Runs the program once and returns the figures of its event log."""
    with tempfile.TemporaryDirectory() as out:
        words = " ".join(f"{word} {index}" for index, word in enumerate(["tone", "of", "voice", "is", "taught"] * arguments.seq))
        pathlib.Path(out, "text.jsonl").write_text(json.dumps({"text": words}) + "\n")
        recipe = pathlib.Path(out, "bench.toml")
        recipe.write_text(RECIPE.format(base=pathlib.Path(arguments.base).resolve(), out=out, seq=arguments.seq,
                                        steps=arguments.steps, quantization=quantization, recompute=recompute))
        environment = dict(os.environ, RAYON_NUM_THREADS=str(arguments.threads))
        launched, before = time.time(), cpu_seconds()
        done = subprocess.run([arguments.tonfall, "train", str(recipe), "--progress", "none"], env=environment,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"tonfall failed with exit {done.returncode}:\n{done.stderr}")
        [log] = pathlib.Path(out, "runs").glob("*/events.jsonl")
        events = [json.loads(line) for line in log.read_text().splitlines()]
        steps = [event for event in events if event["kind"] == "step"]
        return {
            "tokens_per_second": statistics.median(step["tokens_per_second"] for step in steps[2:]),
            "cpu_seconds": cpu_seconds() - before,
            "peak_mib": max(step["peak_rss_bytes"] for step in steps) / 2**20,
            "first_step_seconds": steps[0]["t"] - launched,
        }


def pytorch(arguments, dtype):
    """Runs the reference once with a base in `dtype`. Its last line of output is JSON."""
    command = [arguments.python, str(HERE / "peft_cpu_step.py"), "--base", arguments.base, "--seq", str(arguments.seq),
               "--steps", str(arguments.steps), "--threads", str(arguments.threads), "--batch", "1", "--dtype", dtype]
    before = cpu_seconds()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1]) | {"cpu_seconds": cpu_seconds() - before}


def linear_bytes(base):
    """MiB of the linear layers in the base's dtype, and as NF4 with double quantization."""
    config = json.loads((pathlib.Path(base) / "config.json").read_text())
    hidden, ff = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    elements = config["num_hidden_layers"] * (2 * hidden * q + 2 * hidden * kv + 3 * hidden * ff)
    width = {"float32": 4, "bfloat16": 2, "float16": 2}[config.get("dtype") or config["torch_dtype"]]
    nf4 = elements / 2 + elements / 64 + elements / 64 / 256 * 4
    return elements * width / 2**20, nf4 / 2**20


def report_memory(medians, base):
    """Compares the memory that an NF4 base saves with its predicted size."""
    dense, nf4 = linear_bytes(base)
    measured = medians["tonfall dense"]["peak_mib"] - medians["tonfall nf4"]["peak_mib"]
    predicted = dense - nf4
    print(f"\nlinear layers: {dense:.0f} MiB dense, {nf4:.0f} MiB NF4; peak lower by {measured:.0f} MiB, predicted {predicted:.0f} MiB")
    return abs(measured - predicted) <= 0.15 * predicted


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tonfall", required=True)
    parser.add_argument("--python", help="interpreter with torch and peft")
    parser.add_argument("--base", required=True)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only-tonfall", action="store_true", help="don't run PyTorch")
    parser.add_argument("--bf16", action="store_true", help="also run PyTorch with a base in bf16, which computes in bf16")
    parser.add_argument("--instructions", choices=INSTRUCTIONS, help="limit all programs to these instructions, as on an older processor")
    parser.add_argument("--check-memory", action="store_true", help="fail unless the NF4 base saves the predicted memory within 15 %%")
    parser.add_argument("--out", help="write the figures as JSON")
    arguments = parser.parse_args()
    os.environ.update(INSTRUCTIONS.get(arguments.instructions, {}))

    sides = {
        "tonfall dense": lambda: tonfall(arguments, "none", "off"),
        "tonfall nf4": lambda: tonfall(arguments, "nf4", "off"),
        "tonfall nf4, recomputing": lambda: tonfall(arguments, "nf4", "on"),
    }
    if arguments.bf16:
        sides["pytorch + peft bf16"] = lambda: pytorch(arguments, "bfloat16")
    if not arguments.only_tonfall:
        sides["pytorch + peft f32"] = lambda: pytorch(arguments, "float32")
    figures = {name: [] for name in sides}
    for number in range(arguments.rounds):
        for name, run in list(sides.items())[:: 1 if number % 2 == 0 else -1]:
            figures[name].append(run())
    measured = ("tokens_per_second", "cpu_seconds", "peak_mib", "first_step_seconds")
    medians = {name: {key: statistics.median(run[key] for run in runs) for key in measured} for name, runs in figures.items()}
    reference = medians[list(sides)[-1]]
    device = instructions(arguments.tonfall)
    print(f"{processor()}; tonfall: {device}; PyTorch: {arguments.instructions or 'the best it finds'}; load {os.getloadavg()[0]:.1f}")
    print(f"ratios: to {list(sides)[-1]}")
    print(f"| one LoRA step, {arguments.seq} tokens, {arguments.threads} threads, {arguments.rounds} rounds | tokens/s | spread | ratio | CPU s | ratio | peak MiB | ratio | first step s | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, row in medians.items():
        rounds = [run["tokens_per_second"] for run in figures[name]]
        cells = [f"{row[key]:.1f} | {row[key] / reference[key]:.2f}" for key in measured]
        cells[0] = f"{row['tokens_per_second']:.1f} | {min(rounds):.0f}–{max(rounds):.0f} | {row['tokens_per_second'] / reference['tokens_per_second']:.2f}"
        print(f"| {name} | {' | '.join(cells)} |")
    as_predicted = report_memory(medians, arguments.base)
    if arguments.out:
        pathlib.Path(arguments.out).write_text(json.dumps({"processor": processor(), "device": device, "seq": arguments.seq, "threads": arguments.threads, "medians": medians, "runs": figures}, indent=1) + "\n")
    if arguments.check_memory and not as_predicted:
        raise SystemExit("the NF4 base does not save the predicted memory")


if __name__ == "__main__":
    main()
