"""Asks one server or library for greedy answers to the prompts of a verification file and compares them, as token ids.

Usage: ask.py JUDGE ARTEFACT --verify verify.json [--adapter ADAPTER] [--merged DIR] [--at-least N] [--first N]
              [--logs DIR] [--write FILE]

verify.json, for base + adapter ("expected") and for the base alone ("base"):
    {"artefact": "...", "max_new_tokens": n,
     "prompts": [{"text": "<rendered prompt>", "tokens": [ids], "expected": [ids], "base": [ids], "messages": [optional, see below]}]}

JUDGE, its Python, and ARTEFACT:
    llama-server  judges        merged GGUF; with --adapter (GGUF), a base GGUF
    xllamacpp     judges        the same
    mistralrs     judges        merged model directory or GGUF; with --adapter (PEFT directory), a base directory
    mlx           judges        merged model directory
    transformers  reference     merged model directory; with --adapter (PEFT directory), a base directory. --merged compares logits too
    vllm          vllm          base directory, with --adapter (PEFT directory)
Pythons: $TONFALL_CACHE/servers/NAME/bin/python, and $TONFALL_CACHE/venv/bin/python for "reference".

With --adapter, the base alone must give "base". The judges of llama.cpp and mistral.rs also encode "text" and must get "tokens". Where a
prompt has "messages" (the `messages` of a chat request), llama.cpp's template and tokenizer must turn them into "tokens".
Prints a line for each comparison. Exits 1 if fewer than N answers (default: all) are equal; then the judge's log stays in the --logs folder.
"""

import argparse
import importlib
import json
import pathlib
import signal
import sys

MODULES = {"llama-server": "ask_llama_cpp", "xllamacpp": "ask_llama_cpp", "mistralrs": "ask_mistralrs", "mlx": "ask_mlx",
           "transformers": "ask_transformers", "vllm": "ask_vllm"}


def equal(got, ended, expected):
    """Whether two lists of ids are the same answer. Judges differ in whether they return the end token of an answer that ended."""
    return got == expected or ended and (got[:-1] == expected or got == expected[:-1])


def first_difference(got, expected):
    for position in range(max(len(got), len(expected))):
        pair = [ids[position] if position < len(ids) else "the end" for ids in (got, expected)]
        if pair[0] != pair[1]:
            return f"token {position}: {pair[0]}, expected {pair[1]}"
    return "the answer did not end"


def compare(what, answers, expected, at_least):
    """Prints how many answers are equal and the first one that isn't. Returns whether enough are."""
    if len(answers) != len(expected):
        print(f"{what}: {len(answers)} answers to {len(expected)} prompts")
        return False
    wrong = [number for number, (answer, ids) in enumerate(zip(answers, expected)) if not equal(*answer, ids)]
    count = len(expected) - len(wrong)
    note = f"; first difference: prompt {wrong[0]}, {first_difference(answers[wrong[0]][0], expected[wrong[0]])}" if wrong else ""
    print(f"{what}: {count} of {len(expected)} equal (at least {at_least}){note}", flush=True)
    return count >= at_least


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("judge", choices=MODULES)
    parser.add_argument("artefact", type=pathlib.Path)
    parser.add_argument("--verify", type=pathlib.Path, required=True)
    parser.add_argument("--adapter", type=pathlib.Path)
    parser.add_argument("--merged", type=pathlib.Path)
    parser.add_argument("--at-least", type=int)
    parser.add_argument("--first", type=int, help="ask only the first N prompts")
    parser.add_argument("--logs", type=pathlib.Path, default=pathlib.Path("logs"))
    parser.add_argument("--write", type=pathlib.Path, help="write the answers to this file, as JSON")
    options = parser.parse_args()
    # An exit, so that a stopped judge stops its server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for path in filter(None, [options.artefact, options.adapter, options.merged]):
        if not path.exists():
            parser.error(f"{path} does not exist")
    verify = json.loads(options.verify.read_text())
    prompts = verify["prompts"][: options.first]
    at_least = len(prompts) if options.at_least is None else options.at_least
    if not 0 < at_least <= len(prompts):
        parser.error(f"--at-least {at_least} of {len(prompts)} prompts")
    if all(prompt["expected"] == prompt["base"] for prompt in prompts):
        sys.exit(f"{options.verify}: base and base + adapter give the same answers, so no judge can see the adapter")
    options.logs.mkdir(parents=True, exist_ok=True)
    options.log = options.logs / f"{options.judge}-{options.artefact.name}.log"
    options.limit = verify["max_new_tokens"]

    passed, written = True, {}
    judge = importlib.import_module(MODULES[options.judge])
    name = " + ".join(path.name for path in [options.artefact, options.adapter] if path)
    # A judge yields (what was asked, ids per prompt as (ids, ended), expected ids per prompt or the key of them in verify.json).
    for what, answers, expected in judge.ask(options, prompts):
        exact = not isinstance(expected, str)
        expected = expected if exact else [prompt[expected] for prompt in prompts]
        written[what] = [ids for ids, _ in answers]
        passed &= compare(f"{options.judge}, {name}, {what}", answers, expected, len(expected) if exact else at_least)
    if options.write:
        options.write.write_text(json.dumps(written))
    if not passed:
        sys.exit(f"{options.judge} does not agree; its log: {options.log}")
    options.log.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
