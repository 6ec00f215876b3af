"""mistral.rs, in this process, on the CPU. It takes text only: a chat request whose `messages` is a string is the rendered prompt.

Its tokenizer must turn the prompt into the same ids. It returns the ids of an answer as the most probable token of each position.
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
    name = "adapter" if options.adapter else None
    yield name or "merged", [answer(runner, prompt["text"], options.limit, name) for prompt in prompts], "expected"
    if options.adapter:
        yield "without the adapter", [answer(runner, prompt["text"], options.limit, None) for prompt in prompts], "base"


def answer(runner, text, limit, adapter):
    from mistralrs import ChatCompletionRequest

    request = ChatCompletionRequest(messages=text, model="default", max_tokens=limit, temperature=0.0, logprobs=True, top_logprobs=1,
                                    adapter=adapter)
    choice = runner.send_chat_completion_request(request).choices[0]
    return [position.top_logprobs[0].token for position in choice.logprobs.content], choice.finish_reason == "stop"
