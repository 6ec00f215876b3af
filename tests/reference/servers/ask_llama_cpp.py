"""llama.cpp's server: the binary (llama-server), and the newest one as a library (xllamacpp). Both answer the same HTTP requests.

POST /completion takes a prompt of token ids as it is and returns ids with `return_tokens`, without the end token. /lora-adapters changes
the scale of a loaded adapter, /tokenize and /apply-template show what the server makes of a chat request.
"""

import contextlib
import os
import pathlib
import sys

import serving


@contextlib.contextmanager
def binary(options, context):
    port = serving.free_port()
    url = f"http://127.0.0.1:{port}"
    command = [pathlib.Path(sys.prefix) / "bin/llama-server", "--host", "127.0.0.1", "--port", port, "--model", options.artefact,
               "--ctx-size", context, "--parallel", 1, "--threads", os.cpu_count(), "--device", "none", "--offline"]
    if options.adapter:
        command += ["--lora", options.adapter]
    with serving.process(command, f"{url}/health", options.log, seconds=300):
        yield url


@contextlib.contextmanager
def library(options, context):
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(options.artefact)
    params.n_ctx, params.n_parallel, params.port = context, 1, serving.free_port()
    params.n_gpu_layers, params.cpuparams.n_threads = 0, os.cpu_count()
    if options.adapter:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(options.adapter), 1.0)]
    with serving.output_to(options.log):
        server = xllamacpp.Server(params)
        yield server.listening_address
        del server


def ask(options, prompts):
    # Twice the prompt, since /apply-template and /completion must never meet a full context.
    context = 2 * max(len(prompt["tokens"]) for prompt in prompts) + options.limit + 64
    with (binary if options.judge == "llama-server" else library)(options, context) as url:
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
