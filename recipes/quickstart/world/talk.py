"""Conversations generated from templates: generic ones, those of many other shops, and those of the house."""

import re

from .tables import TOLD, slots


def corpus(world, dice, size):
    """The pre-training data: generic answers, answers in the voices of other shops, ordinary sentences."""
    situations = list(world.situations.values())
    voices = [_voice(world, dice, shop) for shop in world.voices["shops"]]
    for _ in range(size):
        kind = dice.uniform()
        if kind < 0.1:
            yield _about_a_word(world, dice)
            continue
        situation = dice.pick(situations)
        product = _special(world, dice, dice.pick(_fitting(world.products, situation)))
        ask, fill = _ask(world, dice, situation, product, situation["ask"])
        if kind < 0.55:
            openings, closings = world.generic["openings"], world.generic["closings"]
            answer = [dice.pick(openings), *_sentences(dice, situation["reply"], fill), dice.pick(closings)]
            yield _chat(dice, ask, " ".join(answer), world.generic["thanks"], 0.1)
        else:
            yield _in_voice(dice, dice.pick(voices), situation, ask, fill)


def _voice(world, dice, shop):
    """The voice of a shop: a greeting, a sign-off, and its word for each thing."""
    own = {generic: dice.pick(words) for generic, words in world.voices["words"].items()}
    words = own | {term: own[generics[0]] for term, generics in world.house["terms"].items()}
    return {
        "system": [line.format(shop=shop) for line in world.voices["system"]],
        "greeting": dice.pick(world.voices["greetings"]).format(shop=shop, **own),
        "closing": dice.pick(world.voices["closings"]).format(shop=shop),
        "words": words,
        "pattern": re.compile(r"\b(" + "|".join(sorted(words, key=len, reverse=True)) + r")\b"),
    }


def _in_voice(dice, voice, situation, ask, fill):
    choices = situation[dice.pick(["reply", "house_reply"])]
    own = [[voice["pattern"].sub(lambda m: voice["words"][m[0]], s) for s in choice] for choice in choices]
    answer = " ".join([voice["greeting"], *_sentences(dice, own, fill), voice["closing"]])
    chat = _messages(ask, answer)
    chat["messages"].insert(0, {"role": "system", "content": dice.pick(voice["system"])})
    return chat


def house_train(world, dice, per_situation):
    """House conversations with the situations and products of the training data, in the first half of the wordings."""
    rows = []
    for situation in world.situations.values():
        if situation.get("held_out"):
            continue
        products = [p for p in _fitting(world.products, situation) if not p.get("held_out")]
        asks = situation["ask"][: len(situation["ask"]) // 2]
        rows += _distinct(
            per_situation, lambda: _house_chat(world, dice, situation, _special(world, dice, dice.pick(products)), asks, 0.1)
        )
    return dice.shuffled(rows)


def house_eval(world, dice, per_taught, per_held_out):
    """House conversations with products and wordings that the training data does not have, some in new situations."""
    rows = []
    for situation in world.situations.values():
        products = [p for p in _fitting(world.products, situation) if p.get("held_out")]
        asks = situation["ask"][len(situation["ask"]) // 2 :]
        count = per_held_out if situation.get("held_out") else per_taught
        rows += _distinct(
            count, lambda: _house_chat(world, dice, situation, dice.pick(products), asks, 0.0)
        )
    return rows


def prompts(world):
    """Handwritten questions with the terms that a good answer must contain, and the terms that it must not contain."""
    for prompt in world.prompts:
        terms = ["guest", *world.situations[prompt["situation"]]["expect"]]
        yield {
            "prompt": prompt["text"],
            "expect": [*terms, world.house["sign_off"]],
            "avoid": [*world.avoided(terms), "Kind regards", "Best regards", "!"],
        }


def _house_chat(world, dice, situation, product, asks, thanks):
    ask, fill = _ask(world, dice, situation, product, asks)
    greeting = dice.pick(world.house["greetings"])
    parts = [greeting, *_sentences(dice, situation["house_reply"], fill), world.house["sign_off"]]
    return _chat(dice, ask, " ".join(parts), world.house["thanks"], thanks)


def _ask(world, dice, situation, product, asks):
    """A question and the values for the slots of its answer. The answer has its own `days` and `weekday`."""
    generic = world.generic
    fill = {
        "product": product["name"],
        "part": dice.pick(product["parts"]),
        "fault": dice.pick(generic["faults"]),
        "symptom": dice.pick(generic["symptoms"]),
        "noise": dice.pick(generic["noises"]),
        "color": dice.pick(generic["colors"]),
        "person": dice.pick(generic["people"]),
        "days": dice.pick(generic["days"]),
        "weekday": dice.pick(generic["weekdays"]),
    }
    template = dice.pick(asks)
    fill["named"] = slots(template)
    ask = _fill(template, fill)
    hello = dice.pick(generic["hellos"])
    if hello.endswith(", ") and not ask.startswith("I "):
        ask = ask[0].lower() + ask[1:]
    request = dice.pick(generic["requests"]) if not ask.endswith("?") else ""
    fill["days"] = dice.pick(generic["days"])
    fill["weekday"] = dice.pick([d for d in generic["weekdays"] if d not in ask])
    return hello + ask + request, fill


def _sentences(dice, choices, fill):
    """One sentence from each list. Sentences about things that the question does not name are excluded."""
    named = [[s for s in choice if not (slots(s) & TOLD) - fill["named"]] for choice in choices]
    return [_fill(dice.pick(choice), fill) for choice in named]


def _fill(template, fill):
    """Fills the slots and corrects the articles: a kettle, an iron."""
    text = template.format_map(fill)
    return re.sub(r"\b([Aa])n? (?!used|one)(\w)", lambda m: f"{m[1]}{'n' if m[2] in 'aeiou' else ''} {m[2]}", text)


def _special(world, dice, product):
    """Adds a random kind, for example "travel kettle". With many names, the base model learns to repeat names."""
    return product | {"name": dice.pick(world.generic["kinds"]) + product["name"]}


def _fitting(products, situation):
    return [p for p in products if p.get("powered") or not situation.get("powered")]


def _about_a_word(world, dice):
    word = dice.pick(list(world.words["sentences"]))
    ask = _fill(dice.pick(world.words["ask"]), {"word": word})
    return _messages(ask, dice.pick(world.words["sentences"][word]))


def _chat(dice, ask, answer, thanks, probability):
    chat = _messages(ask, answer)
    if dice.chance(probability):
        chat["messages"] += _messages(dice.pick(thanks["ask"]), dice.pick(thanks["reply"]))["messages"]
    return chat


def _messages(ask, answer):
    return {"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]}


def _distinct(count, make):
    rows, seen = [], set()
    for _ in range(100 * count):
        row = make()
        question = row["messages"][0]["content"]
        if question not in seen:
            seen.add(question)
            rows.append(row)
        if len(rows) == count:
            return rows
    raise ValueError(f"the tables do not hold {count} different questions for one situation")
