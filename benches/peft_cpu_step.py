"""LoRA training steps on CPU with PyTorch and PEFT, for cpu_step.py. The last line of output is JSON."""

import time

LAUNCHED = time.time()

import argparse
import json
import os
import resource
import statistics

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("--base", required=True)
parser.add_argument("--seq", type=int, default=256)
parser.add_argument("--batch", type=int, default=1)
parser.add_argument("--steps", type=int, default=8)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="dtype of the base; the adapter is float32")
arguments = parser.parse_args()

torch.set_num_threads(arguments.threads)
torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(arguments.base, dtype=getattr(torch, arguments.dtype), use_cache=False)
model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))
model.train()
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4)
ids = torch.randint(3, model.config.vocab_size, (arguments.batch, arguments.seq))
seconds, first = [], None
for _ in range(arguments.steps):
    started = time.time()
    model(input_ids=ids, labels=ids).loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    seconds.append(time.time() - started)
    first = first or time.time() - LAUNCHED
print(json.dumps({
    "tokens_per_second": arguments.batch * arguments.seq / statistics.median(seconds[2:]),
    "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "first_step_seconds": first,
}))
