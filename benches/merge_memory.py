"""Peak memory of `tonfall merge` and `export` on bases of the shape of Llama 3 8B and 70B.

Usage: merge_memory.py --tonfall target/release/tonfall --tokenizer DIR --folder BIG [--shape 70b] [--layers 4] [--max-ram 512MiB]
[-- export arguments]. The base is zero-filled and sparse, so it takes no space; the result is written in full. `--layers` takes the first
layers only, at their full size: embedding and head are the largest tensors and always there. DIR has the files of any tokenizer. After
`--`, `export` runs with these arguments instead of `merge`. Fails if the peak is above `--max-ram` + 10 %.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import time

SHAPES = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32},
    "70b": {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 8, "num_hidden_layers": 80},
}
VOCABULARY = 128_256
SHARD = 5_000_000_000
RANK = 16


def modules(shape):
    """Output and input features of the linear layers of a block."""
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    pairs = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    return {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (pairs, hidden), "self_attn.v_proj": (pairs, hidden),
        "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
    }


def write_sparse(path, tensors):
    """A safetensors file of BF16 zeros without blocks on the disk."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        size = 2
        for dim in shape:
            size *= dim
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def write_base(folder, shape, tokenizer):
    folder.mkdir()
    for path in pathlib.Path(tokenizer).iterdir():
        if path.suffix in (".json", ".jinja") and "config" not in path.name.replace("tokenizer_config", "") and "index" not in path.name:
            shutil.copy(path, folder)
    config = shape | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "max_position_embeddings": 8192, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    hidden = shape["hidden_size"]
    tensors = {"model.embed_tokens.weight": (VOCABULARY, hidden)}
    for layer in range(shape["num_hidden_layers"]):
        block = {f"{name}.weight": dims for name, dims in modules(shape).items()}
        block |= {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
        tensors |= {f"model.layers.{layer}.{name}": dims for name, dims in block.items()}
    tensors |= {"model.norm.weight": (hidden,), "lm_head.weight": (VOCABULARY, hidden)}
    shards, size = [{}], 0
    for name, dims in tensors.items():
        bytes = 2 * dims[0] * (dims[1] if len(dims) > 1 else 1)
        if size and size + bytes > SHARD:
            shards.append({})
            size = 0
        shards[-1][name] = dims
        size += bytes
    names = [f"model-{number + 1:05}-of-{len(shards):05}.safetensors" for number in range(len(shards))]
    for name, shard in zip(names, shards):
        write_sparse(folder / name, shard)
    places = {tensor: name for name, shard in zip(names, shards) for tensor in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return sum((folder / name).stat().st_size for name in names)


def write_adapter(folder, shape, base):
    folder.mkdir()
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK, "target_modules": [name.split(".")[1] for name in modules(shape)], "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    values, header, end = random.Random(7), {"__metadata__": {"format": "pt"}}, 0
    with open(folder / "data", "wb") as file:
        for layer in range(shape["num_hidden_layers"]):
            for name, (rows, cols) in modules(shape).items():
                for part, dims in (("lora_A", (RANK, cols)), ("lora_B", (rows, RANK))):
                    count = dims[0] * dims[1]
                    row = struct.pack("<16f", *(values.uniform(-0.01, 0.01) for _ in range(16)))
                    file.write(row * (count // 16))
                    header[f"base_model.model.model.layers.{layer}.{name}.{part}.weight"] = {"dtype": "F32", "shape": list(dims), "data_offsets": [end, end + 4 * count]}
                    end += 4 * count
    text = json.dumps(header).encode()
    with open(folder / "adapter_model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        with open(folder / "data", "rb") as data:
            shutil.copyfileobj(data, file)
    (folder / "data").unlink()


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--tonfall", required=True)
    options.add_argument("--tokenizer", required=True)
    options.add_argument("--folder", type=pathlib.Path, required=True)
    options.add_argument("--shape", choices=SHAPES, default="8b")
    options.add_argument("--layers", type=int)
    options.add_argument("--max-ram", default="512MiB")
    options.add_argument("export", nargs="*")
    options = options.parse_args()
    shape = dict(SHAPES[options.shape])
    shape["num_hidden_layers"] = options.layers or shape["num_hidden_layers"]
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    base, adapter, out = options.folder / "base", options.folder / "adapter", options.folder / "out"
    size = write_base(base, shape, options.tokenizer)
    write_adapter(adapter, shape, base.absolute())
    command = ["export", *options.export] if options.export else ["merge"]
    command = [options.tonfall, "--progress", "none", *command, adapter, "--out", out, "--max-ram", options.max_ram]
    start, peak = time.monotonic(), {"RssAnon": 0, "RssFile": 0}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in peak:
                peak[name] = max(peak[name], int(value.split()[0]) * 1024)
        time.sleep(0.05)
    _, status, usage = os.wait4(process.pid, 0)
    seconds, resident = time.monotonic() - start, usage.ru_maxrss * 1024
    number = float(options.max_ram.rstrip("GMiB")) * (2**30 if "G" in options.max_ram else 2**20)
    written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{options.shape}, {shape['num_hidden_layers']} layers, base {size / 1e9:.1f} GB, adapter {(adapter / 'adapter_model.safetensors').stat().st_size / 2**20:.0f} MiB, written {written / 1e9:.1f} GB in {seconds:.0f} s, "
          f"peak {resident / 2**20:.0f} MiB (allocated {peak['RssAnon'] / 2**20:.0f}, mapped {peak['RssFile'] / 2**20:.0f}), limit {options.max_ram}")
    shutil.rmtree(options.folder)
    sys.exit(status != 0 or resident > 1.1 * number)


if __name__ == "__main__":
    main()
