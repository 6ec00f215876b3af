"""Asks a server for the answers to held-out prompts, greedily, and prints the share of expected terms that they use, in percent.

Usage: adherence.py URL PROMPTS.jsonl. URL is an OpenAI-compatible server with one model. PROMPTS is a file of `evaluation.prompts`:
{"prompt", "expect", "avoid"} per line. Terms are matched as whole words, in any case. Prints one line: "expected P % of N, avoided Q % of M".
"""

import json
import pathlib
import re
import sys
import urllib.request


def answer(url, prompt):
    body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": 120}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as response:
        return json.load(response)["choices"][0]["message"]["content"]


def uses(text, term):
    edge = lambda char: r"\b" if char.isalnum() else ""
    return re.search(edge(term[0]) + re.escape(term) + edge(term[-1]), text, re.IGNORECASE) is not None


def main():
    url, prompts = sys.argv[1], pathlib.Path(sys.argv[2])
    rows = [json.loads(line) for line in prompts.read_text().splitlines() if line.strip()]
    texts = [answer(url, row["prompt"]) for row in rows]
    shares = []
    for key in ("expect", "avoid"):
        used = [uses(text, term) for row, text in zip(rows, texts) for term in row[key]]
        shares += [100 * sum(used) / len(used), len(used)]
    print("expected {:.1f} % of {}, avoided {:.1f} % of {}".format(*shares))


if __name__ == "__main__":
    main()
