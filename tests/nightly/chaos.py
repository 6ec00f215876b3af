"""Publishes again and again while a real llama.cpp server answers requests.

    PYTHON tests/nightly/chaos.py target/release/tonfall --switches 50 --out tests/nightly/chaos.json

PYTHON is that of `tests/reference/servers/setup.sh` (xllamacpp). Two runs of the quickstart are published with a hook for the server, which has
both adapters on its command line. Then the current version changes with every rollback, while two clients ask. No request may fail, and
every answer must be that of one of the two versions, to the token.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVERS = ROOT / "tests/reference/servers"
sys.path.insert(0, str(SERVERS))
import serving

PROMPTS = ROOT / "recipes/quickstart/prompts.jsonl"
NAME = "shop"
TOKENS = 24

TABLES = """
[publish]
name = "shop"
store = "store"
[[hook]]
server = "{url}"
"""


def answer(url, prompt):
    body = {"prompt": prompt, "n_predict": TOKENS, "samplers": ["top_k"], "top_k": 1, "return_tokens": True, "cache_prompt": False}
    return tuple(serving.request(f"{url}/completion", body)["tokens"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--switches", type=int, default=50)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    binary = options.binary.resolve()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        port = serving.free_port()
        url = f"http://127.0.0.1:{port}"

        def tonfall(*words):
            done = subprocess.run([binary, "--progress", "none", *words], cwd=work, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"tonfall {' '.join(map(str, words))}: exit {done.returncode}\n{done.stderr}")

        shutil.copytree(ROOT / "recipes/quickstart", work / "quickstart")
        recipe = (ROOT / "recipes/quickstart.toml").read_text().replace('to = ["peft", "safetensors"]', 'to = ["peft", "gguf-adapter"]')
        (work / "quickstart.toml").write_text(recipe + TABLES.format(url=url))
        adapters = []
        for version, steps in [(1, 40), (2, 80)]:
            tonfall("train", "quickstart.toml", "--run-name", f"run{version}", "--set", f"training.max_steps={steps}")
            # Where the server finds the adapter before the store has it: only the end of the path counts.
            adapters.append(work / f"mirror/{NAME}/{version:06}/exports/gguf-adapter/adapter.gguf")
            adapters[-1].parent.mkdir(parents=True)
            shutil.copy(work / f"runs/run{version}/exports/gguf-adapter/adapter.gguf", adapters[-1])
        tonfall("export", "quickstart/base", "--to", "gguf", "--types", "F32", "--no-verify", "--out", "base")
        command = [sys.executable, SERVERS / "serve_llama_cpp.py", port, work / "base/gguf/model-F32.gguf", *adapters]
        with serving.process(command, f"{url}/health", work / "server.log", seconds=60):
            prompts = [json.loads(line)["prompt"] for line in PROMPTS.read_text().splitlines()[:4]]
            expected = {}
            for version in (1, 2):
                tonfall("publish", f"run{version}")
                expected[version] = [answer(url, prompt) for prompt in prompts]
            if expected[1] == expected[2]:
                sys.exit("both versions give the same answers, so no switch can be seen")
            counts, faults, stop = Counter(), [], threading.Event()

            def client(number):
                asked = number
                while not stop.is_set():
                    index, asked = asked % len(prompts), asked + 1
                    try:
                        found = answer(url, prompts[index])
                    except (OSError, RuntimeError) as error:
                        faults.append(f"prompt {index}: {error}")
                        continue
                    versions = [version for version in expected if expected[version][index] == found]
                    counts[str(versions)] += 1
                    if not versions:
                        faults.append(f"prompt {index}: the answer of no version")

            clients = [threading.Thread(target=client, args=(number,)) for number in range(2)]
            for thread in clients:
                thread.start()
            since = time.monotonic()
            for number in range(options.switches):
                tonfall("rollback", NAME, "--to", str(1 + number % 2))
                # The next answer to a new request is that of the current version.
                if answer(url, prompts[0]) != expected[1 + number % 2][0]:
                    faults.append(f"switch {number}: the server did not follow")
            seconds = time.monotonic() - since
            stop.set()
            for thread in clients:
                thread.join()
    result = {"switches": options.switches, "seconds": round(seconds, 1), "requests": sum(counts.values()), "answers of versions": dict(counts), "faults": faults}
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
