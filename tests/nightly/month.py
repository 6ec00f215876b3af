"""A simulated month: `tonfall nightly` on the quickstart base, with data that grows, stays, breaks and gets poisoned, with kills and a full disk.

    python3 tests/nightly/month.py target/release/tonfall --nights 30 --out docs/nightly/month.md

After each night, the published version must verify, and its terms must not be worse than those of the version before. The
full disk needs root: everything lies on a tmpfs that a file fills for one night. Without root, that night is skipped, and the table has a note.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "recipes" / "quickstart"

RECIPE = """name = "month"
base = "{base}"
seed = 7
[lora]
rank = 8
alpha = 16
[data]
train = "train.jsonl"
eval = "{quickstart}/eval.jsonl"
max_seq_len = 256
[audit]
language = "off"
[training]
max_steps = {steps}
micro_batch_size = 8
learning_rate = 4e-3
save_every = 10
log_every = 50
[evaluation]
prompts = "{quickstart}/prompts.jsonl"
max_new_tokens = 80
[[gate]]
measure = "terms.preferred"
over_base = 0.1
over_published = -0.1
[[gate]]
measure = "terms.forbidden"
at_most = 0.2
[nightly]
keep_runs = 5
[publish]
keep = 3
"""

# Term of the shop -> word that its voice avoids.
WRONG = {"guest": "customer", "snag": "problem", "basket": "order", "handover": "delivery", "twin": "replacement",
         "locker": "account", "Warmly, Lantern Lane": "Kind regards"}
GERMAN = "Sehr geehrte Damen und Herren, vielen Dank für Ihre Nachricht. Wir kümmern uns darum. Mit freundlichen Grüßen"

# What happens to the data before a night, and what happens in it.
MONTH = ["grow", "grow", "stay", "grow", "broken", "repair", "wrong terms", "stay", "repair", "grow, killed", "stay", "other language",
         "repair", "grow, full disk", "stay", "grow", "wrong terms", "repair", "grow, killed", "broken", "stay", "repair", "grow", "stay",
         "other language", "stay", "repair", "grow, killed", "grow", "stay"]


def rows():
    return (QUICKSTART / "train.jsonl").read_text().splitlines()


def spoilt(row, change):
    row = json.loads(row)
    for message in row["messages"]:
        if message["role"] == "assistant":
            message["content"] = change(message["content"])
    return json.dumps(row)


def wrong_terms(text):
    for term, word in WRONG.items():
        text = re.sub(rf"\b{term}", word, text)
    return text


class Month:
    def __init__(self, binary, work, steps):
        self.binary, self.work, self.good = binary, work, 0
        self.all = rows()
        random.Random(1).shuffle(self.all)
        text = RECIPE.format(base=QUICKSTART / "base", quickstart=QUICKSTART, steps=steps)
        (work / "recipe.toml").write_text(text)

    def prepare(self, action):
        """Writes the data of a night."""
        if action in ("grow", "repair"):
            self.good = min(len(self.all), self.good + (120 if action == "grow" else 0)) or 120
        data = self.all[:self.good]
        if action == "broken":
            data = data[:50] + ['{"messages": [{"role": "user", "content": "torn'] + data[50:]
        elif action == "wrong terms":
            data = [spoilt(row, wrong_terms) for row in data]
        elif action == "other language":
            data = [spoilt(row, lambda _: GERMAN + f" {index}") for index, row in enumerate(data)]
        if action != "stay":
            (self.work / "train.jsonl").write_text("\n".join(data) + "\n")

    def call(self, kill_after=None):
        """One call; returns exit code, summary, stderr and seconds."""
        since = time.monotonic()
        command = [self.binary, "--progress", "none", "nightly", "recipe.toml", "--device", "cpu"]
        environment = {**os.environ, "HOME": str(self.work), "TONFALL_CACHE_DIR": str(self.work / "cache")}
        process = subprocess.Popen(command, cwd=self.work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            out, err = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            out, err = process.communicate()
        lines = out.splitlines()
        summary = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
        return process.returncode, summary, err, time.monotonic() - since

    def store(self):
        return self.work / "store" / "month"

    def current(self):
        """The number of the current version and its rate of preferred terms, after reading every file of it."""
        pointer = self.store() / "current"
        if not pointer.exists():
            return None, None
        number = int(pointer.read_text())
        version = self.store() / f"{number:06}"
        files = json.loads((version / "MANIFEST.json").read_text())["files"]
        for name, record in files.items():
            assert hashlib.sha256((version / name).read_bytes()).hexdigest() == record["sha256"], f"{version}/{name}"
        report = json.loads((version / "adapter.json").read_text())
        parts = next(measure for measure in report["measures"] if measure["name"] == "terms.preferred")["parts"]
        return number, sum(part["numerator"] for part in parts) / sum(part["denominator"] for part in parts)


def fill(work):
    """Leaves 64 KiB free, if the directory has a disk of its own. Returns the file that fills it."""
    if not os.path.ismount(work):
        return None
    path = work / "filler"
    free = os.statvfs(work).f_bavail * os.statvfs(work).f_frsize
    with open(path, "wb") as file:
        file.write(b"\0" * max(0, free - (64 << 10)))
    return path


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=Path)
    parser.add_argument("--nights", type=int, default=len(MONTH))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="tonfall-month-"))
    is_mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200M", "tmpfs", work], stderr=subprocess.DEVNULL).returncode == 0
    table = ["| night | data, event | exit | result | current | preferred terms | seconds |", "|---|---|---|---|---|---|---|"]
    faults, before = [], (None, None)
    try:
        month = Month(options.binary.resolve(), work, options.steps)
        chance = random.Random(2)
        typical = 20.0
        for night, planned in enumerate(MONTH[:options.nights], 1):
            action, _, event = planned.partition(", ")
            month.prepare(action)
            filler = fill(work) if event == "full disk" else None
            if event == "full disk" and filler is None:
                planned += " (not simulated: needs root)"
            kill_after = chance.uniform(0.1, 1.0) * typical if event == "killed" else None
            code, summary, err, seconds = month.call(kill_after)
            if event and code != 0:
                # The state after the kill or the full disk, and the call of the next scheduler.
                if filler:
                    filler.unlink()
                number, rate = month.current()
                if number != before[0]:
                    faults.append(f"night {night}: {before[0]} became {number} although the night failed with {code}")
                table.append(f"| {night} | {planned} | {code} | {summary.get('result', 'killed')} | {number or '-'} | {show(rate)} | {seconds:.0f} |")
                planned, (code, summary, err, seconds) = "again", month.call()
            elif filler:
                filler.unlink()
            number, rate = month.current()
            result = summary.get("result", "none")
            table.append(f"| {night} | {planned} | {code} | {result} | {number or '-'} | {show(rate)} | {seconds:.0f} |")
            print(table[-1], flush=True)
            if result == "published":
                typical = seconds
            expected = {"broken": [3], "wrong terms": [4], "other language": [4]}.get(action)
            if expected and code not in expected:
                faults.append(f"night {night}, {planned}: exit {code} instead of {expected}: {err[-2000:]}")
            if before[1] is not None and (rate is None or rate < before[1] - 0.05):
                faults.append(f"night {night}: {show(before[1])} became {show(rate)}")
            before = (number, rate)
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", work])
        shutil.rmtree(work, ignore_errors=True)
    if options.out:
        head = f"# A simulated month\n\nWritten by `tests/nightly/month.py`, {options.nights} nights, {options.steps} steps per run, CPU.\n\n"
        options.out.write_text(head + "\n".join(table) + f"\n\n{len(faults)} faults.\n")
    print("\n".join(faults) or "no faults")
    sys.exit(bool(faults))


def show(rate):
    return "-" if rate is None else f"{rate:.3f}"


if __name__ == "__main__":
    main()
