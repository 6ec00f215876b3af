"""Time and memory of `tonfall merge`, next to a plain copy of the base and to PEFT.

Usage: merge.py --tonfall target/release/tonfall --base DIR --adapter DIR --folder BIG [--python PYTHON_WITH_PEFT] [--rounds 5]. The sides
alternate. Each has to put a whole model on the disk of BIG and to wait until it is there: the copy with `cp` and `sync`, PEFT with
`merge_and_unload`, `save_pretrained`, the tokenizer, and `sync`. Printed are medians of seconds from start to exit, CPU seconds, MB/s, and
peak resident memory.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

PEFT = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
AutoTokenizer.from_pretrained(base).save_pretrained(out)
"""


def run(command, out):
    """Seconds, CPU seconds and peak resident bytes of a command, without its output."""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    if status:
        sys.exit(f"{command}: {text.decode()}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main():
    options = argparse.ArgumentParser()
    for name in ("--tonfall", "--base", "--adapter"):
        options.add_argument(name, required=True)
    options.add_argument("--folder", type=pathlib.Path, required=True)
    options.add_argument("--python")
    options.add_argument("--rounds", type=int, default=5)
    options = options.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    base, adapter, out = os.path.abspath(options.base), os.path.abspath(options.adapter), str(options.folder / "model")
    size = sum(path.stat().st_size for path in pathlib.Path(base).glob("*.safetensors"))
    sides = {
        "copy": ["sh", "-c", 'cp -r "$0" "$1" && sync "$1"/* "$1"', base, out],
        "tonfall": [options.tonfall, "--progress", "none", "merge", adapter, "--base", base, "--out", out],
    }
    if options.python:
        sides["PEFT"] = ["sh", "-c", '"$0" -c "$1" "$2" "$3" "$4" && sync "$4"/* "$4"', options.python, PEFT, base, adapter, out]
    # The files of the base are in memory for all sides.
    subprocess.run(["sh", "-c", 'cat "$0"/* > /dev/null', base], check=True)
    found = {name: [] for name in sides}
    for number in range(options.rounds):
        for name, command in sides.items():
            found[name].append(run(command, out))
            print(f"round {number + 1}: {name} {found[name][-1][0]:.2f} s", file=sys.stderr)
    shutil.rmtree(out)
    copy = statistics.median(seconds for seconds, _, _ in found["copy"])
    print(f"{size / 1e6:.0f} MB of weights, median of {options.rounds} (fastest … slowest)")
    for name, rounds in found.items():
        seconds, cpu, memory = (statistics.median(column) for column in zip(*rounds))
        times = sorted(seconds for seconds, _, _ in rounds)
        print(f"{name:8} {seconds:6.2f} s ({times[0]:.2f} … {times[-1]:.2f})  {cpu:5.2f} CPU s  {size / 1e6 / seconds:5.0f} MB/s  {copy / seconds:4.2f} of the copy  {memory / 2**20:5.0f} MiB")


if __name__ == "__main__":
    main()
