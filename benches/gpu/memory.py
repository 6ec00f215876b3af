#!/usr/bin/env python3
"""GPU memory in use by training steps, compared with the prediction.

Usage: memory.py GPU_SUITE [--tolerance 0.10]. GPU_SUITE is the built example `gpu_suite`. Runs on a GPU, or with the stub driver in
`tests/stand_in`, which allocates memory like a GPU's driver but runs no kernels. Fails if a case is off by more than the
tolerance. Standard library only.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

CONFIGS = pathlib.Path(__file__).resolve().parent / "configs"
ONE, PACKED = "4096", ",".join(["700"] * 5 + ["596"])
# Shape, layers, sequence lengths, options. The 8B shape has only some of its layers. Its embeddings stay in host memory.
CASES = [
    ("llama-3.1-8b", 4, ONE, ["--recompute"]),
    ("llama-3.1-8b", 4, ONE, []),
    ("llama-3.1-8b", 8, ONE, ["--recompute"]),
    ("llama-3.2-1b", 16, ONE, []),
    ("llama-3.2-1b", 16, ONE, ["--recompute"]),
    ("llama-3.2-1b", 16, PACKED, ["--recompute"]),
    ("llama-3.2-1b", 16, "16384", ["--recompute"]),
    ("llama-3.2-1b", 16, "16384", ["--recompute", "--offload"]),
    ("llama-3.2-1b", 16, ONE, ["--quantization", "none"]),
]


def run(suite, shape, layers, words):
    config = json.loads((CONFIGS / f"{shape}.json").read_text())
    config["num_hidden_layers"] = layers
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "config.json"
        path.write_text(json.dumps(config))
        return subprocess.run([suite, "steps", path, *words], capture_output=True, text=True, check=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite")
    parser.add_argument("--tolerance", type=float, default=0.10)
    arguments = parser.parse_args()
    wrong = []
    print("| shape | layers | sequences | | predicted, MiB | in use, MiB | off by |\n|---|---|---|---|---|---|---|")
    for shape, layers, documents, words in CASES:
        done = run(arguments.suite, shape, layers, ["--device", "cuda", "--steps", "3", "--documents", documents, *words])
        if done.returncode != 0:
            raise SystemExit(f"{shape} {' '.join(words)}: exit {done.returncode}:\n{done.stderr[-2000:]}")
        loaded, *steps = map(json.loads, done.stdout.splitlines())
        predicted, held = loaded["predicted_bytes"], max(step["held_bytes"] for step in steps)
        off = predicted / held - 1
        name = documents if len(documents) < 10 else "6, packed"
        print(f"| {shape} | {layers} | {name} | {' '.join(words)} | {predicted >> 20} | {held >> 20} | {100 * off:+.1f} % |", flush=True)
        if abs(off) > arguments.tolerance:
            wrong.append(f"{shape} {layers} {name} {' '.join(words)}")
    if wrong:
        raise SystemExit(f"off by more than {100 * arguments.tolerance:.0f} %: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
