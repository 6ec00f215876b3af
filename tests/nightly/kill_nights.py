"""Kills `tonfall nightly` at random moments, and lets the next call finish the night.

    python3 tests/nightly/kill_nights.py target/release/tonfall --kills 200 --out tests/nightly/kills.json

After each kill, the published version must be the one before or tonight's, and verify. The next call must publish tonight's data (or find
it published), and leave no scratch file and no pending publication.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from month import Month


def leftovers(store):
    return sorted(path.name for path in store.iterdir() if path.name.startswith(".tonfall-scratch") or path.name == "pending.json")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="tonfall-kills-"))
    faults, at, seconds = [], Counter(), []
    try:
        month = Month(options.binary.resolve(), work, 2)
        # Two steps learn nothing, so any adapter passes.
        recipe = (work / "recipe.toml").read_text()
        recipe = recipe[:recipe.index("[[gate]]")] + "[nightly]\nkeep_runs = 3\n[publish]\nkeep = 2\n"
        recipe += "[[hook]]\ncommand = \"echo $TONFALL_VERSION > served; sleep 0.2\"\n"
        (work / "recipe.toml").write_text(recipe.replace("max_new_tokens = 80", "max_new_tokens = 4"))
        month.prepare("grow")
        month.good = 40
        month.prepare("repair")
        code, summary, err, typical = month.call()
        assert code == 0, err
        chance = random.Random(3)
        for kill in range(options.kills):
            before, _ = month.current()
            month.good += 1
            month.prepare("repair")
            moment = chance.uniform(0.02, 1.05) * typical
            code, summary, err, _ = month.call(kill_after=moment)
            after, _ = month.current()
            at[(err.strip().splitlines() or ["before the first line"])[-1].split("(")[0][:60]] += 1
            if after not in (before, before + 1, before + 2):
                faults.append(f"kill {kill}: {before} became {after}")
            code, summary, err, took = month.call()
            number, _ = month.current()
            served = (work / "served").read_text().strip()
            if code != 0 or summary.get("result") not in ("published", "unchanged") or number <= before or served != str(number):
                faults.append(f"kill {kill} after {moment:.2f} s: exit {code}, {summary.get('result')}, {before} -> {number}, served {served}: {err[-500:]}")
            if leftovers(month.store()):
                faults.append(f"kill {kill}: left {leftovers(month.store())}")
            seconds.append(took)
            print(f"kill {kill + 1} after {moment:.2f} s of {typical:.2f} s: {before} -> {after} -> {number}", flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    result = {"kills": len(seconds), "faults": faults, "seconds_of_a_night": round(typical, 1), "last_line_before_the_kill": dict(at.most_common())}
    text = json.dumps(result, indent=2)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)
    sys.exit(bool(faults))


main()
