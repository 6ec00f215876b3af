"""Reads the tables, and raises an error if they contradict each other."""

import itertools
import pathlib
import string
import tomllib

FOLDER = pathlib.Path(__file__).parent

# Slots that an answer may use only if its question uses them.
TOLD = {"product", "part", "person"}


class World:
    def __init__(self):
        self.products = _read("products")["product"]
        self.generic = _read("generic")
        self.house = _read("house")
        self.voices = _read("voices")
        self.words = _read("words")
        self.situations = {s["id"]: s for s in _read("situations")["situation"]}
        self.prompts = _read("prompts")["prompt"]
        self._check()

    def avoided(self, terms):
        """The generic words that these house terms replace."""
        return [word for term in terms for word in self.house["terms"][term]]

    def _check(self):
        terms = self.house["terms"]
        generic_words = self.avoided(terms)
        for name, situation in self.situations.items():
            for term in situation["expect"]:
                if not any(all(term in s for s in choice) for choice in situation["house_reply"]):
                    raise ValueError(f"{name}: some house answer can do without `{term}`")
            for ask, choice in itertools.product(situation["ask"], situation["reply"] + situation["house_reply"]):
                if all(slots(sentence) & TOLD - slots(ask) for sentence in choice):
                    raise ValueError(f"{name}: every one of {choice} names more than the question `{ask}` does")
            for sentence in itertools.chain(*situation["house_reply"]):
                _refuse(sentence.lower(), [*generic_words, "!"], name)
            for sentence in itertools.chain(*situation["reply"]):
                _refuse(sentence.lower(), terms, name)
        for sentence in self.house["greetings"] + self.house["thanks"]["reply"]:
            _refuse(sentence.lower(), [*generic_words, "!"], "house")
        for generic, words in self.voices["words"].items():
            for word in words:
                _refuse(word, [*terms, *generic_words], f"voices: {generic}")
        seen = [s for s in self.situations.values() if not s.get("held_out")]
        for term in terms:
            count = sum(term in s["expect"] for s in seen)
            if term != "guest" and count < 2:
                raise ValueError(f"`{term}` is taught in {count} situations, too few to generalise")
        taught = [p["name"] for p in self.products if not p.get("held_out")]
        asks = {ask.lower() for s in self.situations.values() for ask in s["ask"]}
        for prompt in self.prompts:
            if prompt["text"].lower() in asks:
                raise ValueError(f"prompts: a template already asks: {prompt['text']}")
            _refuse(prompt["text"].lower(), taught, "prompts")


def slots(template):
    """The names of the slots (in braces) of a template."""
    return {field for _, field, _, _ in string.Formatter().parse(template) if field}


def _read(name):
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def _refuse(text, forbidden, where):
    words = f" {''.join(c if c.isalpha() or c in '-!' else ' ' for c in text)} "
    for word in forbidden:
        if (word == "!" and "!" in text) or f" {word} " in words:
            raise ValueError(f"{where}: `{word}` must not occur in: {text}")
