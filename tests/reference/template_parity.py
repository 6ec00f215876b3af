"""Renders all text templates of the TRL wheel, and those of Llama 3.1, Qwen 3, Gemma 3 and SmolLM2, with transformers.

Usage: template_parity.py OUT MODEL_DIR TOKENIZERS. MODEL_DIR is SmolLM2-135M-Instruct from setup.sh. TOKENIZERS contains a folder
per further tokenizer (tokenizer.json, tokenizer_config.json). Writes OUT/cases.jsonl, one case per line:
  template, source, special, messages, tools, add_generation_prompt
  text          the rendered text; null if transformers raises an error
  generation    byte ranges of {% generation %} blocks, if the template has them
  tokenizer     the folder of the tokenizer
  input_ids     the token ids of the text
and the quickstart's conversations, prepared for SFT by TRL:
  OUT/labels.jsonl            assistant_only_loss: messages, input_ids, labels
  OUT/pairs/NAME.jsonl        as prompt and completion, with input_ids and labels of completion_only_loss. NAME is
    messages                    with TRL's template that marks the assistant's turns, and both losses
    completion                  with the model's own template, and only completion_only_loss
  OUT/pairs/NAME.jinja        the template
"""

import json
import pathlib
import sys

import trl
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
TOOL = {
    "type": "function",
    "function": {
        "name": "stock",
        "description": "Tells how many pieces are in store – „überall“.",
        "parameters": {
            "type": "object",
            "properties": {"article": {"type": "string", "description": "Its number."}, "shop": {"type": "string", "enum": ["Basel", "Köln"]}},
            "required": ["article"],
        },
    },
}


def message(role, content, **more):
    return {"role": role, "content": content, **more}


def call(arguments, content=""):
    return message("assistant", content, tool_calls=[{"type": "function", "id": "call00001", "function": {"name": "stock", "arguments": arguments}}])


ASKED = message("user", "Is the lamp in stock?")
CASES = {
    "one turn": ([ASKED, message("assistant", "Yes, it is.")], None),
    "system": ([message("system", "Answer kindly."), ASKED, message("assistant", "Yes.")], None),
    "turns": ([ASKED, message("assistant", "Yes."), message("user", "And the chair?"), message("assistant", "No.")], None),
    "blanks and lines": ([message("user", "  one\n\ntwo  \n"), message("assistant", "\n three\t\n")], None),
    "unicode": ([message("user", "Grüezi, 日本語 🎈 e\u0301 \u200d"), message("assistant", "„Ja“ – naïve €")], None),
    "markup": ([message("user", "<b>{{ x }}</b> & 'quotes' \"two\" {% if %} \\n"), message("assistant", "</s> <|im_end|> a")], None),
    "dates": ([message("system", "Today is the 24th of November 2026."), message("user", "2026-11-24?"), message("assistant", "24.11.2026")], None),
    "empty system": ([message("system", ""), ASKED, message("assistant", "Yes.")], None),
    "empty answer": ([ASKED, message("assistant", "")], None),
    "thoughts in the text": ([ASKED, message("assistant", "<think>\nLet me see.\n</think>\n\nYes.")], None),
    "thoughts beside the text": ([ASKED, message("assistant", "Yes.", reasoning_content="Let me see.")], None),
    "earlier thoughts": ([ASKED, message("assistant", "<think>\na\n</think>\n\nYes."), message("user", "Sure?"), message("assistant", "<think>\nb\n</think>\n\nSure.")], None),
    "tools offered": ([ASKED, message("assistant", "Which lamp?")], [TOOL]),
    "tools offered, system": ([message("system", "Be brief."), ASKED, message("assistant", "Which lamp?")], [TOOL]),
    "a tool called": ([ASKED, call({"article": "L-7"}), message("tool", "{\"pieces\": 3}", name="stock", tool_call_id="call00001"), message("assistant", "Three.")], [TOOL]),
    "arguments as text": ([ASKED, call("{\"article\": \"L-7\"}"), message("tool", "3", name="stock", tool_call_id="call00001"), message("assistant", "Three.")], [TOOL]),
    "a question": ([ASKED], None),
    "no user": ([message("system", "Answer kindly.")], None),
    "twice the user": ([ASKED, ASKED, message("assistant", "Yes.")], None),
}


def bytes_of(text, ranges):
    return [[len(text[:start].encode()), len(text[:end].encode())] for start, end in ranges]


def render(template, messages, tools, prompt, special):
    marked = "{% generation" in template or "{%- generation" in template
    try:
        texts, ranges = render_jinja_template([messages], tools=tools, chat_template=template, add_generation_prompt=prompt,
                                              return_assistant_tokens_mask=marked, **special)
    except Exception as refused:
        return None, str(refused)
    return texts[0], bytes_of(texts[0], ranges[0]) if marked else []


def main(out, model, tokenizers):
    out.mkdir(parents=True, exist_ok=True)
    smollm = AutoTokenizer.from_pretrained(model)
    shipped = pathlib.Path(trl.__file__).parent / "chat_templates"
    sources = {path.stem: (path.read_text(), SPECIAL, str(model), smollm) for path in sorted(shipped.glob("*.jinja"))}
    for folder in [model, *sorted(path for path in tokenizers.iterdir() if path.is_dir())]:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        template = tokenizer.chat_template
        # If there are several templates, use the default.
        template = template["default"] if isinstance(template, dict) else template
        special = {name: getattr(tokenizer, name) for name in SPECIAL if getattr(tokenizer, name)}
        sources[f"{folder.name}, own"] = (template, special, str(folder), tokenizer)
    with open(out / "cases.jsonl", "w") as file:
        for name, (source, special, folder, tokenizer) in sources.items():
            for case, (messages, tools) in CASES.items():
                for prompt in (False, True):
                    text, generation = render(source, messages, tools, prompt, special)
                    row = {"template": name, "case": case, "source": source, "special": special, "messages": messages, "tools": tools,
                           "add_generation_prompt": prompt, "text": text, "tokenizer": folder}
                    if text is None:
                        row["refused"] = generation
                    else:
                        row["generation"] = generation
                        row["input_ids"] = tokenizer(text, add_special_tokens=False)["input_ids"]
                    file.write(json.dumps(row) + "\n")

    training = (shipped / "qwen2_5_training.jinja").read_text()
    smollm.chat_template = training
    rows = pathlib.Path(__file__).parents[2].joinpath("recipes/quickstart/train.jsonl").read_text().splitlines()
    conversations = [json.loads(row)["messages"] for row in rows] + [messages for messages, tools in CASES.values() if messages[-1]["role"] == "assistant" and not tools]
    with open(out / "labels.jsonl", "w") as file:
        print(json.dumps({"template": training}), file=file)
        rows = [{"messages": [plain(message) for message in messages]} for messages in conversations]
        for row in trl_examples(rows, smollm, assistant_only_loss=True):
            print(json.dumps(row), file=file)

    (out / "pairs").mkdir(exist_ok=True)
    own = AutoTokenizer.from_pretrained(model).chat_template
    pairs = [{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in rows if len(row["messages"]) > 1]
    for name, template, assistant_only in [("messages", training, True), ("completion", own, False)]:
        smollm.chat_template = template
        (out / "pairs" / f"{name}.jinja").write_text(template)
        with open(out / "pairs" / f"{name}.jsonl", "w") as file:
            for row in trl_examples(pairs, smollm, assistant_only_loss=assistant_only, completion_only_loss=True):
                print(json.dumps(row), file=file)


def plain(message):
    return {"role": message["role"], "content": message["content"]}


def trl_examples(rows, tokenizer, assistant_only_loss, completion_only_loss=None):
    """Examples as SFTTrainer prepares them for training."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    class Preparation(SFTTrainer):
        def __init__(self):
            pass

    dataset = Dataset.from_list(rows)
    args = SFTConfig(output_dir="unused", assistant_only_loss=assistant_only_loss, max_length=None, report_to="none", use_cpu=True, dataset_num_proc=1)
    preparation = Preparation()
    for name, value in {"_is_vlm": False, "_is_vision_dataset": False, "assistant_only_loss": assistant_only_loss,
                        "completion_only_loss": completion_only_loss,
                        "chat_template": None, "tools": None, "padding_free": False, "_tokenizer": tokenizer}.items():
        setattr(preparation, name, value)
    prepared = preparation._prepare_dataset(dataset, tokenizer, args, False, None, "train")
    for row, example in zip(rows, prepared, strict=True):
        yield {**row, "input_ids": example["input_ids"], "labels": example["labels"]}


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
