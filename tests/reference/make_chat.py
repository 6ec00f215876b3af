"""Conversations rendered, tokenized and labelled with transformers: tests/fixtures/chat/.

Usage: make_chat.py OUT MODEL_DIR, where MODEL_DIR is SmolLM2-135M-Instruct from setup.sh. Writes
  chat_template.jinja  SmolLM2's template
  tokenizer.json       a small byte-level BPE with the same special tokens, trained on the conversations
  smollm2.json         the conversations of conversations.py with text, generation prompt, and token ids and labels for three tokenizers:
                         small  OUT/tokenizer.json
                         hf     MODEL_DIR/tokenizer.json (only for tests on the real model; too large to be stored)
                         gguf   the same vocabulary with the pre-tokenizer `tokenizer.ggml.pre = "smollm"`, which splits digits
  templates.json       templates written for this project: rendered texts, generation blocks and errors of transformers

Labels: a token's id if all of the token is in an assistant's turn, or if it is the <|im_end|> that ends the turn; otherwise -100.
The line break after <|im_end|> is not trained. A token that begins in the prompt and ends in the assistant's turn is not trained
either, and counted in `straddling`. Labels are not shifted.
"""

import json
import pathlib
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.utils.chat_template_utils import render_jinja_template

from conversations import CONVERSATIONS
from templates import CASES, SPECIAL, TEMPLATES

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = 512


def render(template, messages, marked=False, tools=None, prompt=False, **special):
    """The text, and the character ranges of `{% generation %}` blocks."""
    texts, ranges = render_jinja_template([messages], tools=tools, chat_template=template, add_generation_prompt=prompt,
                                          return_assistant_tokens_mask=marked, **special)
    return texts[0], [tuple(pair) for pair in ranges[0]] if marked else []


def with_marks(template):
    """SmolLM2's template with `{% generation %}` around the assistant's turns. It renders the same text."""
    turn = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    assert template.count(turn) == 1, "SmolLM2's template has changed"
    body = "{{message['content'] + '<|im_end|>'}}"
    marks = "{% if message['role'] == 'assistant' %}{% generation %}" + body + "{% endgeneration %}{% else %}" + body + "{% endif %}"
    return template.replace(turn, "{{'<|im_start|>' + message['role'] + '\n'}}" + marks + "{{'\n'}}")


def small_tokenizer(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL_TOKENS, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def labelled(tokenizer, text, answers):
    """Token ids and labels of `text`. The character ranges `answers` are trained."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    labels, straddling = [], 0
    for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        inside = any(first <= start and end <= last for first, last in answers)
        straddling += not inside and any(start < last and first < end for first, last in answers)
        labels.append(token if inside else -100)
    return {"input_ids": encoding.ids, "labels": labels, "straddling": straddling}


def conversations(template, tokenizers):
    rows = []
    for name, messages in CONVERSATIONS.items():
        text, none = render(template, messages)
        same, answers = render(with_marks(template), messages, marked=True)
        assert same == text and len(answers) == sum(message["role"] == "assistant" for message in messages), name
        assert all(text[:last].endswith("<|im_end|>") for _, last in answers), name
        prompt, none = render(template, messages, prompt=True)
        encoded = {kind: labelled(tokenizer, text, answers) for kind, tokenizer in tokenizers.items()}
        rows.append({"name": name, "messages": messages, "text": text, "prompt": prompt} | encoded)
    return rows


def byte_ranges(text, ranges):
    return [[len(text[:position].encode()) for position in pair] for pair in ranges]


def renderings():
    """The cases of templates.py. If a template raises an error, the case has `error` instead of `text`."""
    rows = []
    for case in CASES:
        source = TEMPLATES[case["template"]]
        marked = "endgeneration" in source
        try:
            text, ranges = render(source, case["messages"], marked, case["tools"], case["add_generation_prompt"], **SPECIAL)
            rows.append(case | {"text": text} | ({"generation": byte_ranges(text, ranges)} if marked else {}))
        except Exception as error:  # raised by the template
            rows.append(case | {"error": str(error)})
        assert ("error" in rows[-1]) == case["refused"], (case["template"], case["name"], rows[-1])
        del rows[-1]["refused"]
    return rows


def write_rows(path, head, key, rows):
    """Writes JSON with one row per line, for readable diffs."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    opening = json.dumps(head, ensure_ascii=False, indent=1).removesuffix("\n}")
    path.write_text(f'{opening},\n "{key}": [\n{lines}\n]}}\n', encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == head | {key: rows}


def main():
    out, model = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    template = (model / "chat_template.jinja").read_text()
    (out / "chat_template.jinja").write_text(template)

    small = small_tokenizer([render(template, messages)[0] for messages in CONVERSATIONS.values()])
    small.save(str(out / "tokenizer.json"))
    # A ByteLevel post-processor would trim leading spaces from offsets, so there must be none.
    tokenizers = {"small": small}
    for kind in ("hf", "gguf"):
        settings = json.loads((model / "tokenizer.json").read_text())
        settings["post_processor"] = None
        tokenizers[kind] = Tokenizer.from_str(json.dumps(settings))
    tokenizers["gguf"].pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])

    rows = conversations(template, tokenizers)
    write_rows(out / "smollm2.json", {"special_tokens": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}}, "conversations", rows)
    write_rows(out / "templates.json", {"special_tokens": SPECIAL, "templates": TEMPLATES}, "cases", renderings())
    for row in rows:
        print(row["name"], {kind: (len(row[kind]["input_ids"]), sum(label != -100 for label in row[kind]["labels"]), row[kind]["straddling"])
                            for kind in tokenizers})


if __name__ == "__main__":
    main()
