"""Rendering, tokenizing, masking and packing conversations: tonfall compared with datasets + transformers + TRL.

Usage: data_pipeline.py --tonfall target/release/tonfall --model DIR [--rows 20000] [--rounds 3]. DIR is a Hugging Face model with a
ChatML template. Both run as whole processes with two workers each, in turns. Printed are medians of wall-clock time, rows/s and
peak resident memory (summed over all processes, sampled every 20 ms), and their ratios.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

THEIRS = """
import pathlib, sys, trl
from datasets import load_dataset
from transformers import AutoTokenizer
from trl import pack_dataset
data, model, cache = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(model)
template = (pathlib.Path(trl.__file__).parent / "chat_templates/qwen2_5_training.jinja").read_text()
def prepare(row):
    out = tokenizer.apply_chat_template(row["messages"], chat_template=template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    labels = [token if kept else -100 for token, kept in zip(out["input_ids"], out["assistant_masks"])]
    return {"input_ids": out["input_ids"], "labels": labels}
rows = load_dataset("json", data_files=data, split="train", cache_dir=cache)
rows = rows.map(prepare, num_proc=2, remove_columns=rows.column_names)
packed = pack_dataset(rows, 2048, strategy="bfd")
print(len(packed))
"""

RECIPE = """base = {model}
quantization = "none"
[data]
train = {data}
max_seq_len = 2048
packing = "best_fit"
overflow = "drop"
cache = false
[audit]
near_duplicates = "off"
duplicates = "off"
"""


def write_rows(path, count):
    """Writes conversations of one to four turns over 400 words, at most about a page long."""
    choose = random.Random(7)
    words = [f"{a}{b}" for a in ("lan", "tel", "mor", "gen", "ka", "ru", "sta", "bel", "fi", "no") for b in ("tern", "ling", "ta", "gast", "wort", "stil", "haus", "weg")] + ["the", "and", "of", "a", "to", "is"] * 20
    def text(low, high):
        return " ".join(choose.choices(words, k=choose.randint(low, high))).capitalize() + "."
    with open(path, "w") as file:
        for index in range(count):
            turns = []
            for turn in range(choose.choice((1, 1, 1, 2, 4))):
                turns += [{"role": "user", "content": f"{index}: " + text(5, 60)}, {"role": "assistant", "content": text(10, 200)}]
            file.write(json.dumps({"messages": turns}) + "\n")


def resident(root):
    """Proportional set size (PSS) of `root` and all its descendants, in bytes."""
    total, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        try:
            lines = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            for task in os.listdir(f"/proc/{process}/task"):
                waiting += map(int, pathlib.Path(f"/proc/{process}/task/{task}/children").read_text().split())
        except (OSError, IndexError):
            pass
    return total


def measure(command, environment):
    start, peak = time.monotonic(), 0
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(0.02)
        seconds = time.monotonic() - start
        output.seek(0)
        text = output.read().decode()
    if process.returncode:
        sys.exit(text)
    return seconds, peak, text


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--tonfall", required=True)
    options.add_argument("--model", required=True)
    options.add_argument("--rows", type=int, default=20000)
    options.add_argument("--rounds", type=int, default=3)
    options = options.parse_args()
    sides = {"datasets + transformers + TRL": [], "tonfall": []}
    with tempfile.TemporaryDirectory() as folder:
        data, recipe = f"{folder}/rows.jsonl", f"{folder}/recipe.toml"
        write_rows(data, options.rows)
        pathlib.Path(recipe).write_text(RECIPE.format(model=json.dumps(os.path.abspath(options.model)), data=json.dumps(data)))
        for turn in range(options.rounds):
            cache = f"{folder}/cache{turn}"
            offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
            theirs = measure([sys.executable, "-c", THEIRS, data, options.model, cache], offline)
            ours = measure([options.tonfall, "data", recipe, "--json"], {"RAYON_NUM_THREADS": "2"})
            sides["datasets + transformers + TRL"].append(theirs)
            sides["tonfall"].append(ours)
        report = json.loads(sides["tonfall"][0][2].splitlines()[-1])
    medians = {name: [statistics.median(run[index] for run in runs) for index in (0, 1)] for name, runs in sides.items()}
    theirs = medians["datasets + transformers + TRL"]
    print(f"{options.rows} conversations, {report['tokens']} tokens, {report['trained_tokens']} trained, packing {report['packing_efficiency']:.3f}")
    for name, (seconds, peak) in medians.items():
        print(f"{name:<30} {seconds:7.2f} s  {options.rows / seconds:8.0f} rows/s ({theirs[0] / seconds:5.2f}x)  {peak / 2**20:7.0f} MiB ({peak / theirs[1]:.2f})")


if __name__ == "__main__":
    main()
