"""Greedy answers of transformers and PEFT in f32, as the verification file of ask.py.

Usage: expected.py BASE ADAPTER PROMPTS.jsonl OUT.json [--count N] [--tokens N]. ADAPTER is a PEFT directory. The lines of PROMPTS have
"prompt" (text of a user) or "messages", like evaluation.prompts of a recipe; BASE's chat template renders them. The first N are asked.
"""

import argparse
import json
import pathlib

from peft import PeftModel
from transformers import AutoTokenizer

from ask_transformers import greedy, load


def verification(artefact, model, prompts, limit):
    """Adds the answers of a PEFT model ("expected") and of its base ("base") to prompts with "tokens"."""
    with model.disable_adapter():
        base = greedy(model, prompts, limit)
    adapted = greedy(model, prompts, limit)
    answered = [prompt | {"expected": ids, "base": plain} for prompt, (ids, _), (plain, _) in zip(prompts, adapted, base)]
    return {"artefact": artefact, "max_new_tokens": limit, "prompts": answered}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("adapter")
    parser.add_argument("prompts", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    prompts = []
    for line in options.prompts.read_text().splitlines()[:options.count]:
        row = json.loads(line)
        messages = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        prompts.append({"text": text, "tokens": tokens, "messages": messages})
    model = PeftModel.from_pretrained(load(options.base), options.adapter).eval()
    options.out.write_text(json.dumps(verification(options.adapter, model, prompts, options.tokens), indent=1))


if __name__ == "__main__":
    main()
