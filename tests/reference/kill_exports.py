"""Kills `tonfall merge` and `tonfall export` with SIGKILL at many moments: nothing that looks finished is left unless it is, and a second
call finishes with the same bytes.

Usage: kill_exports.py --tonfall target/release/tonfall --base DIR --adapter DIR --folder BIG [--moments 50]. The moments are spread evenly
over the time of a whole export.
"""

import argparse
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import time


def content(folder):
    """The SHA-256 of every file, by its path."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


def check(name, command, out, moments):
    """`out` is the directory that appears at the end of `command`."""
    shutil.rmtree(out.parent, ignore_errors=True)
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, expected = time.monotonic() - start, content(out)
    finished = left = 0
    for moment in range(moments):
        shutil.rmtree(out.parent)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds * (moment + 0.5) / moments)
        process.kill()
        process.wait()
        if out.exists():
            finished += 1
            assert content(out) == expected, f"{name}, moment {moment}: {out} looks finished and isn't"
            continue
        entries = [entry.name for entry in out.parent.iterdir()] if out.parent.exists() else []
        left += bool(entries)
        assert all(entry.startswith(".tonfall-scratch-") for entry in entries), f"{name}, moment {moment}: {entries}"
        again = subprocess.run(command, capture_output=True, text=True)
        assert again.returncode == 0, f"{name}, moment {moment}: {again.stderr}"
        assert content(out) == expected, f"{name}, moment {moment}: the second call wrote something else"
        assert os.listdir(out.parent) == [out.name], f"{name}, moment {moment}: {os.listdir(out.parent)}"
    print(f"{name}: {seconds:.1f} s, killed at {moments} moments: {left} left scratch, {finished} had finished; every second call wrote the same {len(expected)} files")
    shutil.rmtree(out.parent)


def main():
    options = argparse.ArgumentParser()
    for name in ("--tonfall", "--base", "--adapter"):
        options.add_argument(name, required=True)
    options.add_argument("--folder", type=pathlib.Path, required=True)
    options.add_argument("--moments", type=int, default=50)
    options = options.parse_args()
    common = [options.adapter, "--base", options.base]
    program = [options.tonfall, "--progress", "none"]
    merged, exported = options.folder / "merged", options.folder / "exported"
    check("merge", [*program, "merge", *common, "--out", merged / "model"], merged / "model", options.moments)
    check("export", [*program, "export", *common, "--to", "gguf", "--types", "Q8_0,F16,BF16", "--no-verify", "--out", exported], exported / "gguf", options.moments)


if __name__ == "__main__":
    sys.exit(main())
