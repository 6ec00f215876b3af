"""Generates the quickstart's files from the tables in world/. The output depends on the tables only, byte for byte.

    python make.py        needs Python ≥ 3.11 and the package `tokenizers`

Written next to this file and committed: train.jsonl, eval.jsonl, prompts.jsonl.
Written to build/ and never committed: corpus.jsonl, corpus_eval.jsonl, init/ (the untrained base).
"""

import json
import pathlib

from world.dice import Dice
from world.model_files import write_base
from world.tables import World
from world.talk import corpus, house_eval, house_train, prompts

HERE = pathlib.Path(__file__).parent
BUILD = HERE / "build"
CHATS = 30_000


def main():
    world = World()
    BUILD.mkdir(exist_ok=True)
    chats = list(corpus(world, Dice("corpus"), CHATS))
    write_rows(BUILD / "corpus.jsonl", chats)
    write_rows(BUILD / "corpus_eval.jsonl", corpus(world, Dice("corpus eval"), 100))
    write_rows(HERE / "train.jsonl", house_train(world, Dice("train"), 60))
    write_rows(HERE / "eval.jsonl", house_eval(world, Dice("eval"), 2, 2))
    write_rows(HERE / "prompts.jsonl", prompts(world))
    texts = [message["content"] for chat in chats for message in chat["messages"]]
    tokenizer = write_base(BUILD / "init", texts, Dice("weights"))
    tokens = sum(len(e.ids) for e in tokenizer.encode_batch(texts))
    print(f"build/corpus.jsonl: {len(chats)} chats, {tokens} tokens without the template's own")


def write_rows(path, rows):
    rows = list(rows)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{path.relative_to(HERE)}: {len(rows)} rows, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
