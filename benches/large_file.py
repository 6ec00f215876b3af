"""Time and memory of `tonfall data` on a large file.

Usage: large_file.py --tonfall target/release/tonfall --model DIR --folder BIG [--gb 5] [--keep]. DIR is a Hugging Face model with
a ChatML template. BIG needs free space of about 2.5 times the file. The file is JSONL with about 900,000 conversations per GB.
Printed are seconds, rows and tokens, and peak resident memory: allocated memory, and mapped pages of files, which the kernel can
reclaim.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

from data_pipeline import RECIPE

POOL = 4000


def write_rows(path, size):
    """Writes conversations of one or two turns, with texts from pools, which is fast."""
    choose = random.Random(7)
    words = [f"{a}{b}" for a in ("lan", "tel", "mor", "gen", "ka", "ru", "sta", "bel", "fi", "no") for b in ("tern", "ling", "ta", "gast", "wort", "stil", "haus", "weg")] + ["the", "and", "of", "a", "to", "is"] * 20
    pool = lambda low, high: [" ".join(choose.choices(words, k=choose.randint(low, high))).capitalize() + "." for _ in range(POOL)]
    questions, answers = pool(5, 60), pool(10, 200)
    index = written = 0
    with open(path, "w", buffering=1 << 20) as file:
        while written < size:
            turns = ", ".join(
                f'{{"role": "user", "content": "{index}: {choose.choice(questions)}"}}, {{"role": "assistant", "content": "{choose.choice(answers)}"}}'
                for _ in range(1 + index % 3 // 2))
            written += file.write(f'{{"messages": [{turns}]}}\n')
            index += 1
    return index


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--tonfall", required=True)
    options.add_argument("--model", required=True)
    options.add_argument("--folder", type=pathlib.Path, required=True)
    options.add_argument("--gb", type=float, default=5)
    options.add_argument("--keep", action="store_true")
    options = options.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    data, recipe = options.folder / f"rows-{options.gb:g}.jsonl", options.folder / "recipe.toml"
    if not data.exists():
        write_rows(data, options.gb * 1e9)
    quoted = {"model": json.dumps(os.path.abspath(options.model)), "data": json.dumps(str(data.absolute()))}
    # With the cache, which writes tokens to disk, and with a rule that stores every row.
    recipe.write_text(RECIPE.format(**quoted).replace("cache = false\n", "").split("[audit]")[0] + '[audit]\nduplicates = "warn"\n')
    start, peak = time.monotonic(), {"RssAnon": 0, "RssFile": 0}
    environment = os.environ | {"RAYON_NUM_THREADS": "2", "TONFALL_CACHE_DIR": str(options.folder / "cache")}
    process = subprocess.Popen([options.tonfall, "--progress", "none", "data", recipe, "--json"], env=environment, stdout=subprocess.PIPE, text=True)
    while process.poll() is None:
        try:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        for line in status.splitlines():
            name, _, value = line.partition(":")
            if name in peak:
                peak[name] = max(peak[name], int(value.split()[0]) * 1024)
        time.sleep(0.1)
    report = process.stdout.read()
    if process.wait():
        sys.exit(report)
    seconds, report = time.monotonic() - start, json.loads(report)
    print(f"{data.stat().st_size / 1e9:.2f} GB, {report['rows']} rows, {report['tokens']} tokens: {seconds:.0f} s")
    print(f"allocated at most {peak['RssAnon'] / 2**20:.0f} MiB, {peak['RssAnon'] / report['rows']:.0f} bytes per row; mapped {peak['RssFile'] / 2**20:.0f} MiB")
    if not options.keep:
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
