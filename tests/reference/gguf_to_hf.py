"""Converts a GGUF file to a Hugging Face directory, dequantized by transformers.

Usage: gguf_to_hf.py FILE.gguf OUT f32|bf16. OUT is created by a rename, so it is always complete.
"""

import os
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

path, out, dtype = sys.argv[1:4]
folder, name = os.path.split(path)
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
model.hf_quantizer = None  # otherwise save_pretrained fails with "quantized with gguf"
if hasattr(model.config, "quantization_config"):
    del model.config.quantization_config
scratch = out + ".part"
model.to({"f32": torch.float32, "bf16": torch.bfloat16}[dtype]).save_pretrained(scratch)
tokenizer.save_pretrained(scratch)
os.rename(scratch, out)
