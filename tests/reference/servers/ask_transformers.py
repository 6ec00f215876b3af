"""transformers and PEFT, in f32. Takes and returns token ids.

An adapter must load without missing and unexpected keys. With --merged, the logits of base + adapter and of the merged model are compared,
over each prompt and its expected answer: within 1e-3 if the merged weights are f32, otherwise within 2 % of the largest logit.
"""

import torch
from peft import PeftModel
from peft.utils import load_peft_weights, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, GenerationConfig


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def greedy(model, prompts, limit):
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    settings = GenerationConfig(max_new_tokens=limit, do_sample=False, eos_token_id=ends, pad_token_id=ends[0])
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt["tokens"]])
        answer = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        answer = answer[0, ids.shape[1]:].tolist()
        answers.append((answer, answer[-1] in ends))
    return answers


def logits(model, prompts):
    with torch.no_grad():
        return [model(input_ids=torch.tensor([prompt["tokens"] + prompt["expected"]])).logits[0] for prompt in prompts]


def ask(options, prompts):
    model = load(options.artefact)
    if not options.adapter:
        yield "merged", greedy(model, prompts, options.limit), "expected"
        return
    model = PeftModel.from_pretrained(model, options.adapter).eval()
    result = set_peft_model_state_dict(model, load_peft_weights(options.adapter))
    missing = [key for key in result.missing_keys if "lora_" in key]
    yield "missing and unexpected keys", [(missing + result.unexpected_keys, False)], [[]]
    yield "adapter", greedy(model, prompts, options.limit), "expected"
    with model.disable_adapter():
        yield "without the adapter", greedy(model, prompts, options.limit), "base"
    if options.merged:
        dtype = AutoModelForCausalLM.from_pretrained(options.merged, dtype="auto").dtype
        pairs = zip(logits(model, prompts), logits(load(options.merged), prompts))
        worst = max((float((ours - theirs).abs().max()), float(ours.abs().max())) for ours, theirs in pairs)
        bound = 1e-3 if dtype == torch.float32 else 0.02 * worst[1]
        print(f"logits of {options.merged.name} ({dtype}): {worst[0]:.1e} from base + adapter (bound {bound:.1e})")
        yield "merged logits", [([int(worst[0] <= bound)], False)], [[1]]
