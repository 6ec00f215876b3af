"""llama.cpp's server: the binary (llama-server), and the newest one as a library (xllamacpp). Both answer the same HTTP requests.

POST /completion takes a prompt of token ids as it is and returns ids with `return_tokens`, without the end token. /lora-adapters changes
the scale of a loaded adapter, /tokenize and /apply-template show what the server makes of a chat request.
"""

import os
import pathlib
import sys

import serving


def binary(options, context, port):
    command = [pathlib.Path(sys.prefix) / "bin/llama-server", "--host", "127.0.0.1", "--port", port, "--model", options.artefact,
               "--ctx-size", context, "--parallel", 1, "--threads", os.cpu_count(), "--device", "none", "--offline"]
    return command + (["--lora", options.adapter] if options.adapter else [])


def library(options, context, port):
    adapters = [options.adapter] if options.adapter else []
    script = pathlib.Path(__file__).with_name("serve_llama_cpp.py")
    return [sys.executable, script, port, options.artefact, *adapters, "--context", context]


def ask(options, prompts):
    # Twice the prompt, since /apply-template and /completion must never meet a full context.
    context = 2 * max(len(prompt["tokens"]) for prompt in prompts) + options.limit + 64
    port = serving.free_port()
    url = f"http://127.0.0.1:{port}"
    command = (binary if options.judge == "llama-server" else library)(options, context, port)
    with serving.process(command, f"{url}/health", options.log, seconds=300):
        results = list(questions(url, options, prompts))
    yield from results


def questions(url, options, prompts):
    yield "adapter" if options.adapter else "merged", answers(url, options, prompts), "expected"
    if options.adapter:
        loaded = serving.request(f"{url}/lora-adapters")
        if len(loaded) != 1:
            raise RuntimeError(f"/lora-adapters lists {len(loaded)} adapters, one was given")
        serving.request(f"{url}/lora-adapters", [{"id": loaded[0]["id"], "scale": 0.0}])
        yield "adapter at scale 0", answers(url, options, prompts), "base"
    tokens = [prompt["tokens"] for prompt in prompts]
    yield "tokens of the rendered prompts", [(encode(url, prompt["text"], False), False) for prompt in prompts], tokens
    chats = [prompt for prompt in prompts if "messages" in prompt]
    if chats:
        rendered = [serving.request(f"{url}/apply-template", {"messages": prompt["messages"]})["prompt"] for prompt in chats]
        # A chat request adds special tokens: the server takes the BOS token out of the rendered text and lets its tokenizer add it.
        yield "tokens of the messages", [(encode(url, text, True), False) for text in rendered], [prompt["tokens"] for prompt in chats]


def answers(url, options, prompts):
    result = []
    for prompt in prompts:
        body = {"prompt": prompt["tokens"], "n_predict": options.limit, "samplers": ["top_k"], "top_k": 1, "return_tokens": True,
                "cache_prompt": False}
        answer = serving.request(f"{url}/completion", body)
        if answer["truncated"] or answer["tokens_evaluated"] != len(prompt["tokens"]):
            raise RuntimeError(f"the server evaluated {answer['tokens_evaluated']} of {len(prompt['tokens'])} prompt tokens")
        result.append((answer["tokens"], answer["stop_type"] == "eos"))
    return result


def encode(url, text, add_special):
    return serving.request(f"{url}/tokenize", {"content": text, "add_special": add_special, "parse_special": True})["tokens"]
