#!/usr/bin/env python3
"""Records answers of a real llama-server as a fixture of the crate tonfall-serving.

Usage: make_serving.py URL [OUT], with a llama-server that serves SmolLM2-135M-Instruct with one adapter of any content:
    llama-server -m SmolLM2-135M-Instruct.Q4_1.gguf --alias smollm2 --lora adapter.gguf -c 512 -np 1

The requests are those of the crate. Its test replays the answers and fails if the crate asks in another way.
"""

import json
import sys
import urllib.error
import urllib.request

GREEDY = {"samplers": ["top_k"], "top_k": 1, "cache_prompt": False}
MESSAGES = [{"role": "user", "content": "Say hi"}]
EMOJI = "The animals are 🦊🐼🦁🐯"


def completion(prompt, n, model="smollm2"):
    body = {"model": model, "prompt": prompt, "n_predict": n, "temperature": 0, "seed": 0, "return_tokens": True}
    return ("POST", "/completion", body | GREEDY)


def tokenize(text, add_special):
    return ("POST", "/tokenize", {"content": text, "add_special": add_special, "parse_special": True})


RENDERED = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nSay hi<|im_end|>\n<|im_start|>assistant\n"
)
CHAT = {"model": "smollm2", "messages": MESSAGES, "max_tokens": 8, "temperature": 0, "seed": 0, "stream": False}
REQUESTS = [
    ("GET", "/props", None),
    ("GET", "/v1/models", None),
    ("GET", "/lora-adapters", None),
    ("POST", "/lora-adapters", [{"id": 0, "scale": 0.0}]),
    completion([504, 3575, 282, 4649, 314], 6),
    completion("The capital of France is", 6),
    completion(EMOJI, 8),
    completion(RENDERED, 40),
    completion([504, 99999999], 4),
    ("POST", "/v1/chat/completions", CHAT | GREEDY),
    ("POST", "/apply-template", {"messages": MESSAGES}),
    tokenize(RENDERED, True),
    tokenize("<|im_start|>user", False),
    ("GET", "/nothing", None),
]
# Large and without meaning for the crate.
SHORTENED = {"generation_settings", "default_generation_settings", "chat_template", "chat_template_caps", "ui_settings"}


def ask(url, method, path, body):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def main():
    url = sys.argv[1]
    out = sys.argv[2] if len(sys.argv) > 2 else "adapters/serving/tests/fixtures/llama-server.json"
    records = []
    # The scale of the adapter is set back at the end, so that a second recording starts from the same state.
    for method, path, body in REQUESTS:
        status, answer = ask(url, method, path, body)
        if isinstance(answer, dict):
            answer = {key: {} if key in SHORTENED else value for key, value in answer.items() if key != "timings"}
        records.append({"method": method, "path": path, "body": body, "status": status, "answer": answer})
    ask(url, "POST", "/lora-adapters", [{"id": 0, "scale": 1.0}])
    with open(out, "w", encoding="utf-8") as file:
        lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
        file.write(f"[\n{lines}\n]\n")


main()
