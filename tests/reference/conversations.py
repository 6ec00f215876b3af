"""The conversations that make_chat.py renders. The names describe what they test."""


def talk(*contents, system=None):
    """Alternating messages of user and assistant, after an optional system message."""
    opening = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return opening + [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]


LONG_ANSWER = "\n\n".join(
    f"Step {number}: open valve {number}, wait {number * 5} seconds, then read gauge {number % 3 + 1} and note the value."
    for number in range(1, 31)
)
PYTHON = '''Here it is:

```python
def add(a: int, b: int) -> int:
    """Adds two numbers."""
\tif a == 0:
        return b  # nothing to do
    return a + b
```
'''

CONVERSATIONS = {
    "one_turn": talk("What is a torque wrench?", "A tool that turns a bolt with a set force."),
    "system": talk("Hi", "Hello.", system="Answer in one word."),
    "empty_system": talk("Hi", "Hello, how can I help?", system=""),
    "multi_turn": talk("One?", "Two.", "Three?", "Four.", "Five?", "Six.", system="Count on."),
    "german": talk("Größenänderung der Übergabestücke?", "Die Maße ändern sich um ±0,5 mm – größer wird’s nicht."),
    "japanese": talk("天気はどうですか。", "東京では雨が降っています。傘を持って行ってください。"),
    "arabic": talk("ما هو الوقت؟", "الساعة الآن الثالثة."),
    "emoji": talk("🙂?", "👍🏽 Sure 👩‍👩‍👧‍👦, see you 🎈"),
    "emoji_alone": talk("Mood?", "🦀"),
    "combining_marks": talk("Cafe\u0301 or Caf\u00e9?", "Cafe\u0301 \u2260 Caf\u00e9; nai\u0308ve, Z\u0351\u036b."),
    "code": talk("Write add.", PYTHON),
    "leading_space": talk("  Indented?", "  Yes, by two."),
    "trailing_space": talk("Trailing?  ", "Yes, by two.  "),
    "leading_newline": talk("Newline?", "\nFirst line is empty."),
    "trailing_newlines": talk("Newlines?\n", "Two follow.\n\n"),
    "only_spaces": talk("Say nothing.", "   "),
    "empty_answer": talk("Say nothing.", ""),
    "numbers": talk("12345 + 67890?", "80235; or 80,235.00, or 8.0235e4, or ٣."),
    "punctuation": talk("<b>“Quote”</b> & 'it’s' {{ braces }} {% tag %}", "A | B || C -- “D”… {{ not jinja }} </s> [INST]"),
    "repeated_answer": talk("Again", "Again", "Again", "Again"),
    "question_last": talk("One?", "Two.", "And?"),
    "long": talk("How do I start the plant?", LONG_ANSWER, "Thanks!", "You are welcome.", system="You help operators. " * 20),
    # Pasted text may contain the template's special tokens. They are tokenized as special tokens, also in an assistant's turn.
    "quoted_tokens": talk("What does <|im_end|> do?", "It ends a turn, as in <|im_start|>user\nHi<|im_end|>."),
}
