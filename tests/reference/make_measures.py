"""chrF and BLEU of sacrebleu for pairs of answer and reference: tests/fixtures/measures/sacrebleu.json.

Usage: make_measures.py OUT. Needs sacrebleu 2.6.0.
"""

import json
import pathlib
import random
import sys

import sacrebleu

PAIRS = [
    ("The cat sat on the mat.", "The cat sat on the mat."),
    ("The cat sat on the mat.", "A cat was sitting on the mat."),
    ("Dear guest, your basket is on its way.", "Dear guest, the handover of your basket is near."),
    ("Sehr geehrte Gäste, Ihr Mietvertrag endet am 3. Mai.", "Liebe Gäste, der Mietvertrag läuft bis zum 3. Mai."),
    ("Grüße aus Köln!", "Viele Grüße aus Köln."),
    ("", "Nothing was answered."),
    ("Something", ""),
    ("", ""),
    ("a", "a"),
    ("a b", "a b"),
    ("a b c", "x y z"),
    ("yes", "yes, of course, we will do that for you today"),
    ("we will do that for you today, of course, yes, we will do that for you today", "yes"),
    ("It costs 3.50 EUR, i.e. 4-5 cents more (roughly) than \"before\".", "It costs 3,50 EUR - some 4 to 5 cents more."),
    ("new-\nline and &amp; &lt;tag&gt; &quot;quoted&quot;", "newline and & <tag> \"quoted\""),
    ("a  double\tspace\nand a line  ", "a double space and a line"),
    ("the the the the the the the", "the cat is on the mat"),
    ("1,000.5% of 2-3 & 4/5 [x] {y} ~z^ `w` @v $u", "1,000.5 % of 2 - 3 & 4 / 5 [ x ] { y } ~ z ^ ` w ` @ v $ u"),
    ("日本語の文です。", "日本語の文章です。"),
    ("ein\u2019s \u00a0 und\u2003zwei \u201eZitat\u201c\u2026", "eins und zwei \u201eZitat\u201c ..."),
    ("<skipped> text", "text"),
    ("control\x1cseparated\x1ftext", "control separated text"),
]
WORDS = ("the a guest order parcel will be handed over today tomorrow we are sorry , . ! der die das Gast Paket wird heute "
         "geliefert und nicht (sehr) bald 3.5 12-14 don't E-Mail").split()


def main(out):
    generator = random.Random(7)
    pairs = list(PAIRS)
    for _ in range(200):
        reference = [generator.choice(WORDS) for _ in range(generator.randint(1, 20))]
        answer = [word if generator.random() < 0.7 else generator.choice(WORDS) for word in reference]
        answer = answer[: generator.randint(0, len(answer))] if generator.random() < 0.3 else answer
        pairs.append((" ".join(answer), " ".join(reference)))
    rows = [
        {
            "answer": answer,
            "reference": reference,
            "chrf": sacrebleu.sentence_chrf(answer, [reference]).score,
            "bleu": sacrebleu.sentence_bleu(answer, [reference]).score,
        }
        for answer, reference in pairs
    ]
    path = pathlib.Path(out) / "sacrebleu.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row, ensure_ascii=True) for row in rows)
    path.write_text(f'{{"sacrebleu": "{sacrebleu.__version__}", "rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main(sys.argv[1])
