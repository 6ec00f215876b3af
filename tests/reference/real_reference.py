"""Results of transformers and PEFT: logits of three texts, and ten LoRA steps on a dense and on an NF4 base.

Usage: real_reference.py MODEL_DIR OUT [--random-ids]. Without --random-ids, the model's tokenizer encodes the texts.
OUT/logits.safetensors: text{i}.input_ids i64, text{i}.logits f32.
OUT/steps.json, OUT/init/, OUT/final/: the steps on the dense f32 base, the adapter before and after. OUT/nf4/: the same on
bitsandbytes' NF4 with double quantization. `examples/parity.rs` replays them in tonfall.
"""

import argparse
import json
import pathlib

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

# Long and without repetition, so that no training step sees a sequence that an earlier step has memorised.
PASSAGE = """\
A pump house stands where the canal meets the old mill race. Its three pumps were overhauled in March: number one got new \
bearings, number two a longer shaft, and number three, which had leaked since 1987, was replaced by a machine half its size. \
Before you switch on any of them, open the inlet valve by two turns, wait until the gauge shows 0.4 bar, and listen. A dry pump \
sounds like gravel in a bucket; a wet one hums.

"Who reads a manual?" asked the apprentice. "Whoever is standing in water," said the foreman, and lent her his lamp. She found \
the paragraph about the float switch on page twelve, between a drawing of a gasket and an advertisement for boots. The switch, \
it said, must never be painted, oiled or hung on a string. Somebody had done all three.

Prices for the coming season: a day ticket costs 8 euros, a family of four pays 21, and groups above fifteen should write to the \
office at least a week ahead. Dogs travel free if they are quieter than their owners. We close at dusk, which our keeper defines \
as the moment when he can no longer read the label on a jar of honey held at arm's length.

def drain(level, rate):
    # minutes until the basin is empty
    return level / rate if rate > 0 else float("inf")

Dear Ms Albrecht, thank you for the photograph of the heron. We have hung it beside the timetable. You are right that the sign \
at the lower lock still says 1954; the painter mixed up two commissions, and the bakery now opens at a quarter past the wrong \
century. Both will be put right before Easter. With kind regards, the canal society."""

TEXTS = [
    "The tone of voice is the character of a company, as it comes through in what it writes.",
    "Grüße aus Köln! 東京では雨が降っています。 🙂 naïve café — “quotes”, tabs\tand numbers 3.14159.",
    PASSAGE,
]
STEPS, LEARNING_RATE = 10, 1e-3


def random_texts(vocab_size):
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(3, vocab_size, (length,), generator=generator).tolist() for length in (17, 40, 90)]


def batches(texts, vocab_size):
    """Ten batches of two sequences of different lengths. The first third of each sequence has no loss."""
    generator = torch.Generator().manual_seed(3)
    pool = [token for text in texts for token in text]
    made = []
    for step in range(STEPS):
        sequences = []
        for length in (64 + step, 96 - 2 * step):
            start = int(torch.randint(0, max(1, len(pool) - length), (1,), generator=generator))
            ids = (pool * 4)[start:start + length]
            sequences.append({"input_ids": ids, "labels": [-100] * (length // 3) + ids[length // 3:]})
        made.append({"sequences": sequences})
    return made


def padded(sequences):
    longest = max(len(sequence["input_ids"]) for sequence in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        length = len(sequence["input_ids"])
        ids[row, :length] = torch.tensor(sequence["input_ids"])
        labels[row, :length] = torch.tensor(sequence["labels"])
        mask[row, :length] = 1
    return ids, labels, mask


def train(model, made, out):
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                bound = parameter.shape[1] ** -0.5
                parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)
    model.save_pretrained(out / "init")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
    losses, norms = [], []
    model.train()
    for batch in made:
        ids, labels, mask = padded(batch["sequences"])
        logits = model(input_ids=ids, attention_mask=mask).logits.float()
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, 1.0)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        print(f"{out.name} step {len(losses)} loss {losses[-1]:.6f}", flush=True)
    model.save_pretrained(out / "final")
    record = {"lr": LEARNING_RATE, "batches": made, "losses": losses, "grad_norms": norms}
    for card in out.glob("*/README.md"):  # PEFT's empty model card
        card.unlink()
    (out / "steps.json").write_text(json.dumps(record) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--random-ids", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    arguments.out.mkdir(parents=True, exist_ok=True)
    # The NF4 steps run first: bitsandbytes repacks its weights in the first forward pass in eval mode, and repacked weights have
    # no gradients.
    load = dict(dtype=torch.float32, attn_implementation="eager")
    model = AutoModelForCausalLM.from_pretrained(arguments.model, **load)
    vocab = model.config.vocab_size
    if arguments.random_ids:
        texts = random_texts(vocab)
    else:
        tokenizer = AutoTokenizer.from_pretrained(arguments.model)
        texts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    made = batches(texts, vocab)

    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)
    # With several threads, torch splits the sum of a large matrix's block scales, which rounds their mean differently.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    quantised = AutoModelForCausalLM.from_pretrained(arguments.model, quantization_config=settings, **load)
    torch.set_num_threads(threads)
    quantised.train()
    (arguments.out / "nf4").mkdir(exist_ok=True)
    train(quantised, made, arguments.out / "nf4")
    del quantised

    tensors = {}
    with torch.no_grad():
        for index, ids in enumerate(texts):
            logits = model(input_ids=torch.tensor([ids])).logits[0].float()
            tensors |= {f"text{index}.input_ids": torch.tensor(ids), f"text{index}.logits": logits.contiguous()}
    save_file(tensors, arguments.out / "logits.safetensors")
    train(model, made, arguments.out)


if __name__ == "__main__":
    main()
