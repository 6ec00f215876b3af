"""Every text template that the TRL wheel ships, and those of Llama 3.1, Qwen 3, Gemma 3 and SmolLM2, as transformers renders them.

Usage: template_parity.py OUT MODEL_DIR TOKENIZERS. MODEL_DIR is SmolLM2-135M-Instruct as setup.sh makes it; TOKENIZERS holds a
folder for each further tokenizer (tokenizer.json, tokenizer_config.json). Writes OUT/cases.jsonl, a case a line:
  template, source, special, messages, tools, add_generation_prompt
  text          what transformers renders; null where it refuses
  generation    byte ranges that {% generation %} blocks wrote, where the template has them
  tokenizer     the folder whose tokenizer.json was used, and
  input_ids     its token ids of the text
and, prepared for SFT by TRL itself, the quickstart's conversations:
  OUT/labels.jsonl            assistant_only_loss: messages, input_ids, labels
  OUT/pairs/NAME.jsonl        the same as prompt and completion, with input_ids and labels of completion_only_loss:
    messages                    lists of messages, the template of TRL that marks the assistant's turns, both losses
    completion                  the same with the model's own template, completion_only_loss alone
  OUT/pairs/NAME.jinja        that template
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


def say(role, content, **more):
    return {"role": role, "content": content, **more}


def call(arguments, content=""):
    return say("assistant", content, tool_calls=[{"type": "function", "id": "call00001", "function": {"name": "stock", "arguments": arguments}}])


ASKED = say("user", "Is the lamp in stock?")
CASES = {
    "one turn": ([ASKED, say("assistant", "Yes, it is.")], None),
    "system": ([say("system", "Answer kindly."), ASKED, say("assistant", "Yes.")], None),
    "turns": ([ASKED, say("assistant", "Yes."), say("user", "And the chair?"), say("assistant", "No.")], None),
    "blanks and lines": ([say("user", "  one\n\ntwo  \n"), say("assistant", "\n three\t\n")], None),
    "unicode": ([say("user", "Grüezi, 日本語 🎈 e\u0301 \u200d"), say("assistant", "„Ja“ – naïve €")], None),
    "markup": ([say("user", "<b>{{ x }}</b> & 'quotes' \"two\" {% if %} \\n"), say("assistant", "</s> <|im_end|> a")], None),
    "dates": ([say("system", "Today is the 24th of November 2026."), say("user", "2026-11-24?"), say("assistant", "24.11.2026")], None),
    "empty system": ([say("system", ""), ASKED, say("assistant", "Yes.")], None),
    "empty answer": ([ASKED, say("assistant", "")], None),
    "thoughts in the text": ([ASKED, say("assistant", "<think>\nLet me see.\n</think>\n\nYes.")], None),
    "thoughts beside the text": ([ASKED, say("assistant", "Yes.", reasoning_content="Let me see.")], None),
    "earlier thoughts": ([ASKED, say("assistant", "<think>\na\n</think>\n\nYes."), say("user", "Sure?"), say("assistant", "<think>\nb\n</think>\n\nSure.")], None),
    "tools offered": ([ASKED, say("assistant", "Which lamp?")], [TOOL]),
    "tools offered, system": ([say("system", "Be brief."), ASKED, say("assistant", "Which lamp?")], [TOOL]),
    "a tool called": ([ASKED, call({"article": "L-7"}), say("tool", "{\"pieces\": 3}", name="stock", tool_call_id="call00001"), say("assistant", "Three.")], [TOOL]),
    "arguments as text": ([ASKED, call("{\"article\": \"L-7\"}"), say("tool", "3", name="stock", tool_call_id="call00001"), say("assistant", "Three.")], [TOOL]),
    "a question": ([ASKED], None),
    "no user": ([say("system", "Answer kindly.")], None),
    "twice the user": ([ASKED, ASKED, say("assistant", "Yes.")], None),
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
        # Of several, the default one.
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
    """What SFTTrainer would train on, by its own preparation."""
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
