"""Small Gemma 2 and 3 models with the released models' head size, soft caps and layer pattern: no registry has the real weights.

Usage: random_gemma.py OUT. OUT/gemma2 and OUT/gemma3 are model directories in f32. Their weights are so large that scores and logits
are close to the soft caps; norms differ from 1. `.ci/run reference` runs ten training steps on each, in tonfall and PEFT.
"""

import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig

SHAPE = dict(vocab_size=4096, hidden_size=512, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4,
             num_key_value_heads=2, head_dim=256, max_position_embeddings=512, query_pre_attn_scalar=256, sliding_window=32,
             bos_token_id=2, eos_token_id=1, pad_token_id=0)
MODELS = {
    "gemma2": Gemma2Config(**SHAPE),
    "gemma3": Gemma3TextConfig(**SHAPE, layer_types=["sliding_attention"] * 3 + ["full_attention"]),
}

for number, (name, config) in enumerate(MODELS.items()):
    generator = torch.Generator().manual_seed(number)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            scale = 0.3 if "norm" in path else 2.5 / parameter.shape[-1] ** 0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(pathlib.Path(sys.argv[1]) / name)
