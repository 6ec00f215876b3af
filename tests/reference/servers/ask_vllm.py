"""vLLM on the CPU, through its OpenAI API. /v1/completions takes a prompt of token ids and returns ids with `return_token_ids`.

vLLM serves the base without a message if an adapter matches no module, so the answers of base and adapter are both compared.
"""

import json
import sys

import serving


def ask(options, prompts):
    if not options.adapter:
        raise SystemExit("vllm is asked about a base directory and --adapter")
    rank = json.loads((options.adapter / "adapter_config.json").read_text())["r"]
    # The values that --max-lora-rank takes.
    maximum = next(value for value in (8, 16, 32, 64, 128, 256, 320, 512) if value >= rank)
    port = serving.free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", port,
               "--model", options.artefact, "--served-model-name", "base", "--dtype", "float32", "--enforce-eager",
               "--max-model-len", max(len(prompt["tokens"]) for prompt in prompts) + options.limit, "--max-num-seqs", "4", "--generation-config", "vllm",
               "--enable-lora", "--max-lora-rank", maximum, "--lora-modules", f"adapter={options.adapter}"]
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1"}
    url = f"http://127.0.0.1:{port}"
    with serving.process(command, f"{url}/v1/models", options.log, 600, environment):
        results = [(what, [complete(url, model, prompt, options.limit) for prompt in prompts], key)
                   for what, model, key in [("adapter", "adapter", "expected"), ("base", "base", "base")]]
    yield from results


def complete(url, model, prompt, limit):
    body = {"model": model, "prompt": prompt["tokens"], "max_tokens": limit, "temperature": 0, "return_token_ids": True}
    choice = serving.request(f"{url}/v1/completions", body)["choices"][0]
    return choice["token_ids"], choice["finish_reason"] == "stop"
