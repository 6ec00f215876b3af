#!/usr/bin/env python3
"""Peak memory of whole runs, compared with the predictions.

Usage: memory.py --tonfall BINARY --base MODEL_DIR [--tolerance 0.10] [--only NAME]

Each case is a `tonfall train` of a few steps in its own process: the quickstart, and recipes with the given base. The prediction
is the run's `memory` event, the peak is the process's `VmHWM`. Fails if a prediction, of the run or of `tonfall estimate`, is off
by more than the tolerance. Standard library only.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
RECIPE = """
name = "memory"
base = "{base}"
quantization = "{quantization}"
[adapter]
kind = "{adapter}"
[data]
train = "{out}/train.jsonl"
{eval}
max_seq_len = {seq}
[training]
max_steps = 3
epochs = 1000.0
micro_batch_size = {batch}
gradient_accumulation_steps = {accumulation}
recompute = "{recompute}"
warmup_steps = 0
[evaluation]
{prompts}
"""

# The allocator's memory varies by some MiB from run to run, which exceeds a tenth of a small run.
NOISE_MIB = 24

# Sequences have different lengths, as in practice.
CASES = {
    "dense": {"quantization": "none", "recompute": "off"},
    "dense, recomputing": {"quantization": "none", "recompute": "on"},
    "nf4": {"quantization": "nf4", "recompute": "off"},
    "nf4, recomputing": {"quantization": "nf4", "recompute": "on"},
    "nf4, 4 sequences, 2 micro-batches": {"quantization": "nf4", "recompute": "off", "batch": 4, "accumulation": 2},
    "every weight": {"quantization": "none", "recompute": "on", "adapter": "full"},
    "nf4, eval and prompts": {"quantization": "nf4", "recompute": "on", "eval": True, "prompts": True},
}


TRAIN_WORDS = ["tone", "of", "voice", "is", "taught"]
EVAL_WORDS = ["other", "letters", "ask", "for", "answers"]


def conversation(times, words):
    question = "Say it in our voice, please."
    answer = " ".join(f"{word} {index}" for index, word in enumerate(words * times))
    return json.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})


def write_case(out, base, case):
    """Writes recipe and data of one case."""
    rows = [conversation(4 + index, TRAIN_WORDS) for index in range(16)]
    pathlib.Path(out, "train.jsonl").write_text("\n".join(rows) + "\n")
    pathlib.Path(out, "eval.jsonl").write_text("\n".join(conversation(16 + index, EVAL_WORDS) for index in range(4)) + "\n")
    pathlib.Path(out, "prompts.jsonl").write_text(json.dumps({"prompt": "Where is my parcel?", "expect": ["handover"]}) + "\n")
    fields = {"adapter": "lora", "batch": 1, "accumulation": 1, "seq": 512, **case, "base": pathlib.Path(base).resolve(), "out": out}
    fields["eval"] = f'eval = "{out}/eval.jsonl"' if case.get("eval") else ""
    fields["prompts"] = f'prompts = "{out}/prompts.jsonl"' if case.get("prompts") else ""
    recipe = pathlib.Path(out, "memory.toml")
    recipe.write_text(RECIPE.format(**fields))
    return [str(recipe)]


def run(tonfall, arguments):
    done = subprocess.run([tonfall, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"tonfall {' '.join(arguments)} failed with exit {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(tonfall, out, recipe):
    summary = run(tonfall, ["--log-format", "json", "train", *recipe, "--device", "cpu", "--set", f'output_dir="{out}/runs"'])
    # After the run, which has prepared the data, so that the memory of data preparation is not included.
    estimated = run(tonfall, ["-q", "estimate", *recipe, "--device", "cpu", "--json"])
    [log] = pathlib.Path(out, "runs").glob("*/events.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    parts = next(event["parts"] for event in events if event["kind"] == "memory")
    return estimated, summary, parts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tonfall", required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--tolerance", type=float, default=0.10)
    parser.add_argument("--only", help="run only the case with this name")
    arguments = parser.parse_args()

    mib = lambda count: count / 2**20
    print("| recipe | estimate, MiB | predicted by the run, MiB | measured, MiB | off by | highest while |")
    print("|---|---|---|---|---|---|")
    wrong = []
    quickstart = [str(REPOSITORY / "recipes/quickstart.toml"), "--set", "training.epochs=1"]
    for name, case in [("quickstart", None), *CASES.items()]:
        if arguments.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as out:
            recipe = quickstart if case is None else write_case(out, arguments.base, case)
            estimated, summary, parts = measure(arguments.tonfall, out, recipe)
        predicted, peak, beforehand = summary["predicted_bytes"], summary["peak_rss_bytes"], estimated["peak_bytes"]
        off = predicted / peak - 1
        print(f"| {name} | {mib(beforehand):.0f} | {mib(predicted):.0f} | {mib(peak):.0f} | {100 * off:+.1f} % | {estimated['highest_stage']} |", flush=True)
        if arguments.only:
            print({part: round(mib(count), 1) for part, count in parts.items()}, estimated)
        furthest = max(abs(predicted - peak), abs(beforehand - peak))
        if furthest > arguments.tolerance * peak and mib(furthest) > NOISE_MIB:
            wrong.append(name)
    if wrong:
        raise SystemExit(f"off by more than {100 * arguments.tolerance:.0f} % and {NOISE_MIB} MiB: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
