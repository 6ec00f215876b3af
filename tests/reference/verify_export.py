"""Checks tonfall's adapter and merged model with PEFT and transformers.

Usage: verify_export.py BASE ADAPTER LOGITS.safetensors [MERGED]. LOGITS contains tonfall's input_ids and logits with the adapter.
PEFT must load the adapter without missing or unexpected keys and compute the same logits. transformers must load MERGED and compute
the same logits within the rounding of its dtype. Exits 1 otherwise.
"""

import sys

import torch
from peft import PeftModel
from peft.utils import load_peft_weights, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

base, adapter, logits_file = sys.argv[1:4]
stored = load_file(logits_file)
ids, ours = stored["input_ids"][None], stored["logits"]
failures = []


def check(what, value, bound):
    print(f"{what}: {value:.3e} (bound {bound:.0e})")
    if not value <= bound:
        failures.append(what)


load = dict(dtype=torch.float32, attn_implementation="eager")
model = AutoModelForCausalLM.from_pretrained(base, **load).eval()
with torch.no_grad():
    plain = model(input_ids=ids).logits[0]
model = PeftModel.from_pretrained(model, adapter).eval()
result = set_peft_model_state_dict(model, load_peft_weights(adapter))
missing = [key for key in result.missing_keys if "lora_" in key]
check("missing adapter keys", len(missing), 0)
check("unexpected adapter keys", len(result.unexpected_keys), 0)
with torch.no_grad():
    theirs = model(input_ids=ids).logits[0]
effect = (theirs - plain).abs().max().item()
print(f"effect of the adapter on logits: {effect:.3e}")
if effect < 1e-2:
    failures.append("the adapter has no effect")
check("adapter logits, max |difference|", (theirs - ours).abs().max().item(), 1e-3)

if len(sys.argv) > 4:
    merged = AutoModelForCausalLM.from_pretrained(sys.argv[4], dtype="auto", attn_implementation="eager").eval()
    exact = merged.dtype == torch.float32
    with torch.no_grad():
        logits = merged.float()(input_ids=ids).logits[0]
    # A bfloat16 weight has 8 significant bits, so differences are proportional to the logits.
    bound = 1e-3 if exact else 0.02 * theirs.abs().max().item()
    check(f"merged logits ({'f32' if exact else 'rounded'}), max |difference|", (logits - theirs).abs().max().item(), bound)

if failures:
    sys.exit("failed: " + "; ".join(failures))
print("peft and transformers agree with tonfall")
