#!/usr/bin/env python3
"""The dashboard on long logs: time to open, time per frame, idle CPU, memory.

Usage: dashboard.py --build RELEASE_DIR [--rounds 5]

RELEASE_DIR contains `tonfall` and `examples/frame_speed` (`cargo build --release --workspace --bin tonfall --example
frame_speed`). The script writes synthetic logs to a temporary directory: 100,000 steps, 3,000,000 steps (about 1 GB), and 1,000
steps next to 200 other runs. Printed as medians over the rounds: reading the log and drawing the first frame, drawing a frame
in three sizes, and, for `tonfall watch` on a pseudo-terminal, CPU time while the run is idle and peak resident memory.
Standard library only; Linux.
"""

import argparse
import fcntl
import json
import math
import os
import pathlib
import pty
import statistics
import struct
import subprocess
import tempfile
import termios
import threading
import time

IDLE_SECONDS = 10


def make_run(path: pathlib.Path, steps: int) -> int:
    """Writes a run directory and returns the size of its log in bytes."""
    path.mkdir()
    info = {"format": 1, "created": "2026-01-01T00:00:00.000Z", "tonfall": "bench", "recipe": "bench.toml", "overrides": [],
            "plan_hash": "0"}
    (path / "run.json").write_text(json.dumps(info))
    with open(path / "events.jsonl", "w") as log:
        seq = 0

        def log_event(kind, **fields):
            nonlocal seq
            seq += 1
            log.write(json.dumps({"v": 1, "seq": seq, "attempt": 1, "t": 1.75e9 + seq, "kind": kind, **fields}) + "\n")

        log_event("attempt_started", from_step=0, total_steps=steps, plan_hash="0", trainable_parameters=1)
        for step in range(1, steps + 1):
            loss = 1 + 2 / (1 + step / 1000) + 0.2 * math.sin(step * 12.9898)
            log_event("step", step=step, epoch=step / 1000, loss=loss, lr=1e-4, grad_norm=abs(math.sin(step)), tokens=4096,
                      trained_tokens=2048, tokens_per_second=3000 + math.cos(step), seconds=1.3, peak_rss_bytes=1 << 30)
            if step % 500 == 0:
                log_event("eval", step=step, loss=loss, tokens=10000)
                log_event("checkpoint", step=step, path=f"step-{step:06}")
    return (path / "events.jsonl").stat().st_size


def cpu_seconds(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> float:
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def idle(tonfall: pathlib.Path, run: pathlib.Path) -> dict:
    """CPU in percent and peak memory in MiB of a dashboard that shows an idle run."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 50, 200, 0, 0))
    # No terminal answers the program's query for its background colour.
    environment = {**os.environ, "TERM": "xterm-256color", "COLORFGBG": "15;0"}
    process = subprocess.Popen([tonfall, "watch", run], stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)

    def drain():
        try:
            while os.read(master, 1 << 16):
                pass
        except OSError:
            pass  # the program has closed the terminal

    threading.Thread(target=drain, daemon=True).start()
    before = cpu_seconds(process.pid)
    while True:  # until the log has been read
        time.sleep(1)
        now = cpu_seconds(process.pid)
        if now - before < 0.2:
            break
        before = now
    begin = cpu_seconds(process.pid)
    time.sleep(IDLE_SECONDS)
    used, peak = cpu_seconds(process.pid) - begin, peak_mib(process.pid)
    os.write(master, b"q")
    assert process.wait(timeout=20) == 0, "the dashboard did not exit on q"
    return {"idle_cpu_percent": 100 * used / IDLE_SECONDS, "peak_mib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    build = options.build.resolve()
    with tempfile.TemporaryDirectory() as directory:
        for steps, beside in ((1_000, 200), (100_000, 0), (3_000_000, 0)):
            runs = pathlib.Path(directory) / f"runs-{steps}"
            runs.mkdir()
            for number in range(beside):
                make_run(runs / f"other-{number}", 100)
            run = runs / "run"
            size = make_run(run, steps)
            rounds = []
            for _ in range(options.rounds if steps <= 100_000 else 1):
                speed = subprocess.run([build / "examples/frame_speed", run], capture_output=True, check=True, text=True)
                rounds.append({**json.loads(speed.stdout), **idle(build / "tonfall", run)})
            print(f"{steps:,} steps, {size / 1e6:.0f} MB, {beside} other runs, {len(rounds)} rounds")
            for name in rounds[0]:
                print(f"  {name:<24} {statistics.median(row[name] for row in rounds):10.2f}")


if __name__ == "__main__":
    main()
