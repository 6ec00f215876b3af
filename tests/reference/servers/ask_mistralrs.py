"""mistral.rs, in this process, on the CPU. It takes no token ids; its tokenizer must turn the rendered prompts into the same ids.

The answer to a chat ("messages") contains ids: the most probable token of each position. Its number of prompt tokens must be that of
"tokens". A prompt without messages is a completion request, which returns text. The text is compared with that of the expected ids.
"""

import serving


def ask(options, prompts):
    with serving.output_to(options.log):
        results = list(questions(options, prompts))
    yield from results


def questions(options, prompts):
    from mistralrs import LoraAdapter, ModelDType, Runner, Which

    path = options.artefact
    if path.suffix == ".gguf":
        which = Which.GGUF(str(path.parent), path.name, dtype=ModelDType.F32)
    elif options.adapter:
        which = Which.Lora(str(path), adapters=[LoraAdapter("adapter", str(options.adapter))], dtype=ModelDType.F32)
    else:
        which = Which.Plain(str(path), dtype=ModelDType.F32)
    runner = Runner(which, max_seqs=1, prefix_cache_n=0, token_source="none")
    encoded = [(runner.tokenize_text(prompt["text"], False, None), False) for prompt in prompts]
    yield "tokens of the rendered prompts", encoded, [prompt["tokens"] for prompt in prompts]
    for adapter, key in [("adapter", "expected"), (None, "base")] if options.adapter else [(None, "expected")]:
        what = adapter or ("merged" if key == "expected" else "without the adapter")
        yield what, [answer(runner, prompt, options.limit, adapter, prompt[key]) for prompt in prompts], key


def answer(runner, prompt, limit, adapter, expected):
    from mistralrs import ChatCompletionRequest, CompletionRequest

    settings = dict(model="default", max_tokens=limit, temperature=0.0, adapter=adapter)
    if "messages" in prompt:
        request = ChatCompletionRequest(messages=prompt["messages"], logprobs=True, top_logprobs=1, **settings)
        result = runner.send_chat_completion_request(request)
        choice = result.choices[0]
        ids = [position.top_logprobs[0].token for position in choice.logprobs.content]
    else:
        result = runner.send_completion_request(CompletionRequest(prompt=prompt["text"], **settings))
        choice = result.choices[0]
        same = choice.text == runner.detokenize_text(expected, True)
        ids = expected if same else runner.tokenize_text(choice.text, False, None)
    if result.usage.prompt_tokens != len(prompt["tokens"]):
        raise RuntimeError(f"mistral.rs read {result.usage.prompt_tokens} prompt tokens, verify.json has {len(prompt['tokens'])}")
    return ids, choice.finish_reason == "stop"
