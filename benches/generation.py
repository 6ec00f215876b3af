#!/usr/bin/env python3
"""Generation on a CPU: tonfall compared with llama.cpp's server and with transformers, in one run on one machine.

Usage: generation.py --tonfall EXAMPLE --model FILE.gguf --servers PYTHON_WITH_XLLAMACPP [--python REFERENCE_PYTHON --base MODEL_DIR]
                     [--prompt 64] [--new 64] [--long 512] [--rounds 7]

EXAMPLE is target/release/examples/generation. All sides use the same number of threads and greedy choices; llama.cpp's server and
transformers ignore end tokens, tonfall gets none. Three figures, as medians over the rounds with the slowest and the fastest round:

  single   tokens/s of one answer after its first token
  eight    tokens/s of eight prompts at a time, from the first prompt's beginning to the last answer's end
  prefill  prompt tokens/s of one long prompt

and CPU seconds for each of them and the peak of resident memory. llama.cpp's server runs as a library (xllamacpp), which chooses
instructions that the processor has. The sides alternate within a round, so that a disturbance of the machine meets all of them; the load
average is printed with the result. Standard library only.
"""

import argparse
import concurrent.futures
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

SERVERS = pathlib.Path(__file__).resolve().parent.parent / "tests/reference/servers"
sys.path.insert(0, str(SERVERS))
import serving

TRANSFORMERS = """
import json, resource, sys, time, torch
from transformers import AutoModelForCausalLM
base, length, new, count, threads = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(threads)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
ids = torch.tensor([[(p * 7919 + i * 104729 + i * i * 31) % model.config.vocab_size for i in range(length)] for p in range(count)])
class First:
    def __init__(self): self.at = []
    def put(self, value): self.at.append(time.monotonic())
    def end(self): pass
print("ready", flush=True)
for _ in sys.stdin:
    start, streamer = time.monotonic(), First()
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False,
                             streamer=streamer if count == 1 else None, pad_token_id=0)
    assert out.shape[1] == length + new, out.shape
    # The first value is the prompt.
    first = streamer.at[1] - start if count == 1 else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": time.monotonic() - start, "first": first, "peak": peak}), flush=True)
"""


def cpu_seconds(process):
    """CPU seconds of a process and its threads so far."""
    fields = pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Lines:
    """A program that answers one line of stdin with one line of JSON."""

    def __init__(self, command):
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout.readline().strip() == "ready", command
        self.pid = self.process.pid

    def measure(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Server:
    """llama.cpp's server."""

    def __init__(self, url, child, prompts, new):
        self.url, self.pid, self.prompts, self.new = url, child.pid, prompts, new

    def measure(self):
        def ask(prompt):
            body = {"prompt": prompt, "n_predict": self.new, "samplers": ["top_k"], "top_k": 1, "ignore_eos": True,
                    "cache_prompt": False, "return_tokens": True}
            answer = serving.request(f"{self.url}/completion", body)
            assert answer["tokens_predicted"] == self.new and answer["tokens_evaluated"] == len(prompt), answer["timings"]
            return answer["timings"]

        start = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(len(self.prompts)) as pool:
            timings = list(pool.map(ask, self.prompts))
        seconds = time.monotonic() - start
        peak = next(int(line.split()[1]) * 1024 for line in open(f"/proc/{self.pid}/status") if line.startswith("VmHWM"))
        first = timings[0]["prompt_ms"] / 1e3 if len(timings) == 1 else None
        if first is not None:
            # The server's own clock: without HTTP.
            seconds = first + timings[0]["predicted_ms"] / 1e3
        return {"seconds": seconds, "first": first, "peak": peak}

    def close(self):
        pass


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--tonfall", required=True)
    options.add_argument("--model", required=True)
    options.add_argument("--servers", required=True, type=pathlib.Path)
    options.add_argument("--python")
    options.add_argument("--base")
    options.add_argument("--vocabulary", type=int, default=49_152)
    for name, value in (("--prompt", 64), ("--new", 64), ("--long", 512), ("--rounds", 7), ("--threads", os.cpu_count())):
        options.add_argument(name, type=int, default=value)
    options = options.parse_args()
    # Figure: tokens of a prompt, new tokens, prompts at a time, value of a measurement.
    figures = {
        "single": (options.prompt, options.new, 1, lambda found: (options.new - 1) / (found["seconds"] - found["first"])),
        "eight": (options.prompt, options.new, 8, lambda found: 8 * options.new / found["seconds"]),
        "prefill": (options.long, 1, 1, lambda found: options.long / found["first"]),
    }
    print(f"{pathlib.Path(options.model).name}, {options.threads} threads, load {os.getloadavg()[0]:.1f}, {options.rounds} rounds")
    for name, (length, new, count, value) in figures.items():
        prompts = [[(p * 7919 + i * 104729 + i * i * 31) % options.vocabulary for i in range(length)] for p in range(count)]
        with contextlib.ExitStack() as stack:
            sides = {"tonfall": Lines([options.tonfall, options.model, length, new, count])}
            port = serving.free_port()
            command = [options.servers, SERVERS / "serve_llama_cpp.py", port, options.model, "--slots", count,
                       "--context", count * (length + new + 64), "--threads", options.threads]
            log = pathlib.Path(tempfile.gettempdir(), "llama-server.log")
            child = stack.enter_context(serving.process(command, f"http://127.0.0.1:{port}/health", log, 300))
            sides["llama.cpp"] = Server(f"http://127.0.0.1:{port}", child, prompts, new)
            if options.python:
                sides["transformers"] = Lines([options.python, "-c", TRANSFORMERS, options.base, length, new, count, options.threads])
            found = {side: [] for side in sides}
            for number in range(options.rounds + 1):
                for side, program in sides.items():
                    before = cpu_seconds(program.pid)
                    result = program.measure()
                    result["cpu"] = cpu_seconds(program.pid) - before
                    # The first round fills caches.
                    if number > 0:
                        found[side].append(result)
            for program in sides.values():
                program.close()
        base = statistics.median(map(value, found["llama.cpp"]))
        for side, results in found.items():
            values = sorted(map(value, results))
            median, cpu = statistics.median(values), statistics.median(result["cpu"] for result in results)
            peak = max(result["peak"] for result in results)
            print(f"{name:8} {side:13} {median:8.1f} tokens/s ({values[0]:.1f} … {values[-1]:.1f})  {median / base:5.2f} of llama.cpp  "
                  f"{cpu:6.2f} CPU s  {peak / 2**20:5.0f} MiB")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
