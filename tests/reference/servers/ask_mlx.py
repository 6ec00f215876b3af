"""mlx-lm, the engine of LM Studio on Apple hardware, here on the CPU. Takes and returns token ids."""

import mlx.core as mx
import mlx_lm
from mlx_lm.generate import generate_step


def ask(options, prompts):
    if options.adapter:
        raise SystemExit("mlx loads adapters of its own format only; ask about a merged directory")
    # MLX's default device may be a GPU that isn't there.
    mx.set_default_device(mx.cpu)
    model, tokenizer = mlx_lm.load(str(options.artefact))
    answers = []
    for prompt in prompts:
        ids = []
        for token, _ in generate_step(mx.array(prompt["tokens"]), model, max_tokens=options.limit):
            ids.append(int(token))
            if ids[-1] in tokenizer.eos_token_ids:
                break
        answers.append((ids, ids[-1] in tokenizer.eos_token_ids))
    yield "merged", answers, "expected"
