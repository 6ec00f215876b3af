"""Writes the tokenizers of Mistral's models as tokenizer.json, in the form in which transformers converts them.

Usage: mistral_tokenizers.py DATA OUT. DATA is the folder mistral_common/data of the wheel mistral-common 1.13.1. Writes
OUT/{mistral_v1,mistral_v3,tekken}/{tokenizer,tokenizer_config}.json, and OUT/mistral_v3_metaspace with a Metaspace step instead of
normalizers, as newer conversions have it.
"""

import base64
import json
import pathlib
import struct
import sys

CONTROL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]"]


def added(id, content):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def all_splits(score):
    """Every pair of pieces that forms another piece, best score first; among equal pieces the longest first part first."""
    merges = []
    for piece, value in score.items():
        for at in range(1, len(piece)):
            if piece[:at] in score and piece[at:] in score:
                merges.append((piece[:at], piece[at:], value))
    merges.sort(key=lambda merge: (-merge[2], -len(merge[0]), -len(merge[1])))
    return [[left, right] for left, right, _ in merges]


def write(folder, tokens, normalizer, pre_tokenizer, model, **config):
    folder.mkdir(parents=True, exist_ok=True)
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    post = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    file = {"version": "1.0", "added_tokens": tokens, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post, "decoder": None, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(file, ensure_ascii=False))
    config |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def fields(data):
    """The fields of a protobuf message: number and bytes or integer."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte, at = data[at], at + 1
            value, shift = value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        number, kind = key >> 3, key & 7
        if kind == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}.get(kind) or varint()
        yield number, data[at : at + size]
        at += size


def sentence_piece(path, folder, metaspace):
    vocab, score, tokens = {}, {}, []
    for number, value in fields(path.read_bytes()):
        if number != 1:
            continue
        piece = dict(fields(value))
        id, text, kind = len(vocab), piece[1].decode(), piece.get(3, 1)
        vocab[text] = id
        if kind in (2, 3):
            tokens.append(added(id, text))
        elif kind == 1:
            score[text] = struct.unpack("<f", piece.get(2, bytes(4)))[0]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
    step = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": vocab, "merges": all_splits(score)}
    if metaspace:
        write(folder, tokens, None, step, model, chat_template="{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}")
    else:
        write(folder, tokens, normalizer, None, model)


def byte_letters():
    """The letter of each byte in byte-level BPE."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + at) for at, byte in enumerate(others)}


def tekken(path, folder):
    file = json.loads(path.read_text())
    config = file["config"]
    special = config["default_num_special_tokens"]
    letters = byte_letters()
    rank = {}
    for entry in file["vocab"][: config["default_vocab_size"] - special]:
        rank["".join(letters[byte] for byte in base64.b64decode(entry["token_bytes"]))] = entry["rank"]
    control = CONTROL + [f"<SPECIAL_{id}>" for id in range(len(CONTROL), special)]
    vocab = {text: id for id, text in enumerate(control)} | {text: id + special for text, id in rank.items()}
    merges = all_splits({text: -id for text, id in rank.items()})
    split = {"type": "Split", "pattern": {"Regex": config["pattern"]}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = {"type": "BPE", "byte_fallback": False, "ignore_merges": True, "vocab": vocab, "merges": merges}
    tokens = [added(id, text) for id, text in enumerate(control)]
    write(folder, tokens, None, {"type": "Sequence", "pretokenizers": [split, byte_level]}, model)


data, out = map(pathlib.Path, sys.argv[1:])
sentence_piece(data / "tokenizer.model.v1", out / "mistral_v1", False)
sentence_piece(data / "mistral_instruct_tokenizer_240323.model.v3", out / "mistral_v3", False)
sentence_piece(data / "mistral_instruct_tokenizer_240323.model.v3", out / "mistral_v3_metaspace", True)
tekken(data / "tekken_240718.json", out / "tekken")
