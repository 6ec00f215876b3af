"""Compares the tokens of llama.cpp with those of the `tokenizers` library, for tokenizers that tonfall wrote to GGUF files.

Usage: gguf_tokenizers.py TOKENIZERS [NAME...]. TOKENIZERS contains a folder per tokenizer with tokenizer.json, tokenizer_config.json
and vocabulary.gguf, which this command writes:
  TONFALL_TOKENIZERS=TOKENIZERS cargo test --release -p tonfall-adapters --lib vocabularies_for_llama_cpp -- --ignored
Needs xllamacpp 2026.10.11549 and tokenizers. Prints, for each tokenizer and kind of text, the number of texts and of differing
ones, and the first differing texts. Exits 1 if a text differs that is not of a kind in KNOWN.
"""

import http.client
import json
import pathlib
import random
import sys
import unicodedata
import urllib.parse

import tokenizers
import xllamacpp

WORDS = """Grüße Straße überall Fußgängerübergang Äpfel Öl ÜBUNG naïve Café Zürich Donaudampfschifffahrtsgesellschaft the of and
weren't I'm WE'LL it's can't l'été façade 東京 日本語 한국어 русский العربية עברית ไทย Ελληνικά ǅ ʻokina ﬁ Ⅷ ½ ² ٣ १२
word Word WORD wordWord snake_case kebab-case CamelCaseName x86_64 a1b2c3 Ġ <0x41> <s <| |> [INST [/ </ \u00ad \ufeff""".split()
CODE = """def f(x): return [y**2 for y in x if y != 3]\n|for (int i = 0; i < n; ++i) {\n\ta[i] += b[i];\n}\n|SELECT * FROM t WHERE id >= 10;|
{"key": [1, 2.5e-3, null], "text": "a\\nb"}|<div class="x">&nbsp;</div>|https://example.org/a?b=c&d=%20#e|$\\frac{1}{2}$|x = y<<3 | ~z;|// --> /* ** */|
    indented\n        more\n\t\ttabs|a,b;c:d.e!f?g|`code` **bold** __it__ # head\n- item\n1. one""".split("|")
EMOJI = "😀 🎈 👩‍👩‍👧 🇨🇭 👍🏽 ✓ → … – „ “ ’ € ™".split(" ")
BLANKS = [" ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\t", "\t\t", "\r\n", " \n", "\n ", "\u00a0", "\u3000", "\u2028", " " * 7, " " * 40, "\n" * 35, "\t" * 33]

# Kinds of text that llama.cpp is known to tokenise differently, by tokenizer.
KNOWN = {
    # llama.cpp doesn't normalize to NFC.
    "qwen3": {"decomposed"},
    # In llama.cpp's rule, a combining mark (also the one in some emojis) is not a part of its word.
    "tekken": {"marks"},
    # Runs of spaces are tokens of their own in llama.cpp, which don't join with the character that stands for a space.
    "gemma3": {"literal ▁"},
    # llama.cpp has no rule that adds a space only at the start of a text. With a chat template, it adds none.
    "mistral_v3_metaspace": {"words", "numbers", "blanks", "leading blanks", "code", "emoji", "letters", "mixed", "special tokens", "decomposed", "marks", "literal ▁"},
}


def texts(special):
    """Texts by kind, the same in every run. `special` are the texts of added tokens."""
    pick = random.Random(7)
    digits = lambda: "".join(pick.choice("0123456789") for _ in range(pick.randint(1, 12)))
    number = lambda: pick.choice([digits(), f"{digits()}.{digits()}", f"{digits()},{digits()}", f"-{digits()}%", f"{digits()}€"])
    blank = lambda: pick.choice(BLANKS)
    some = lambda make, most: [make() for _ in range(pick.randint(1, most))]
    word = lambda: pick.choice(WORDS)
    letter = lambda: chr(pick.choice([pick.randint(0x20, 0x7E), pick.randint(0xA1, 0x24F), pick.randint(0x370, 0x52F), pick.randint(0x4E00, 0x4FFF), pick.randint(0x1F300, 0x1F5FF)]))
    mixed = lambda: "".join(pick.choice([word, blank, number, lambda: pick.choice(EMOJI), lambda: pick.choice(CODE)])() for _ in range(pick.randint(1, 25)))
    kinds = {
        "words": lambda: " ".join(some(word, 20)),
        "numbers": lambda: " ".join(some(number, 8)),
        "blanks": lambda: "".join(part for pair in zip(some(blank, 6), some(word, 6)) for part in pair) + blank(),
        "leading blanks": lambda: blank() + word(),
        "code": lambda: "\n".join(some(lambda: pick.choice(CODE), 5)),
        "emoji": lambda: "".join(some(lambda: pick.choice(EMOJI + [" ", "a"]), 12)),
        "letters": lambda: "".join(some(letter, 40)),
        "mixed": mixed,
        "special tokens": lambda: "".join(pick.choice([lambda: pick.choice(special), word, blank, mixed])() for _ in range(pick.randint(2, 9))),
        "conversations": lambda: "".join(f"{pick.choice(special)}{mixed()}" for _ in range(pick.randint(1, 4))) + pick.choice(special),
        "marks": lambda: " ".join(some(lambda: pick.choice(["हिन्दी", "বাংলা", "தமிழ்", "x\u0327\u0301", "❤\ufe0f<div"]), 5)),
        "literal ▁": lambda: "".join(some(lambda: pick.choice(["▁", " ", "a", "▁▁"]), 8)),
        "decomposed": lambda: " ".join(some(lambda: pick.choice(["u\u0308ber", "Cafe\u0301", "n\u0303", "A\u030a"]), 5)),
    }
    composed = lambda kind, text: text if kind == "decomposed" else unicodedata.normalize("NFC", text)
    return {kind: [composed(kind, make()) for _ in range(400)] for kind, make in kinds.items()}


class LlamaCpp:
    def __init__(self, path):
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.warmup = 256, 1, False
        params.cpuparams.n_threads = 1
        params.verbosity = -1
        self.server = xllamacpp.Server(params)
        self.connection = http.client.HTTPConnection(urllib.parse.urlparse(self.server.listening_address).netloc)

    def ids(self, text, add_special):
        body = json.dumps({"content": text, "add_special": add_special, "parse_special": True})
        self.connection.request("POST", "/tokenize", body, {"Content-Type": "application/json"})
        return json.loads(self.connection.getresponse().read())["tokens"]


def compare(folder):
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = [token["content"] for token in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]]
    config = json.loads((folder / "tokenizer_config.json").read_text())
    server = LlamaCpp(folder / "vocabulary.gguf")
    unexpected = 0
    # Mostly tokens that occur in conversations; the reserved ones are alike.
    pool = [text for text in special if "unused" not in text and "reserved" not in text and "SPECIAL" not in text and "▁" not in text]
    for kind, cases in texts(pool).items():
        wrong = []
        for at, text in enumerate(cases):
            add_special = at % 4 == 0
            expected = library.encode(text, add_special_tokens=add_special).ids
            found = server.ids(text, add_special)
            if expected != found:
                wrong.append((text, expected, found))
        known = kind in KNOWN.get(folder.name, ())
        unexpected += 0 if known else len(wrong)
        print(f"{folder.name:22} {kind:15} {len(cases):5} texts {len(wrong):5} differ{' (known)' if known and wrong else ''}", flush=True)
        for text, expected, found in wrong[:3]:
            at = next((at for at, pair in enumerate(zip(expected, found)) if pair[0] != pair[1]), min(len(expected), len(found)))
            show = lambda ids: [library.id_to_token(id) for id in ids[max(0, at - 2) : at + 6]]
            print(f"    {text[:80]!r}\n      token {at}: {show(expected)} here, {show(found)} in llama.cpp")
    del server
    return unexpected


root = pathlib.Path(sys.argv[1])
names = sys.argv[2:] or sorted(folder.name for folder in root.iterdir() if (folder / "vocabulary.gguf").exists())
sys.exit(any([compare(root / name) for name in names]))
