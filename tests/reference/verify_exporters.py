"""Reads a run's exports: event files with TensorBoard's reader, metrics with Prometheus' parser, and pictures.

Usage: verify_exporters.py RUN DIR, where DIR contains tensorboard/<id>/, metrics.txt, loss.svg and loss.png.
Prints the first difference from RUN/events.jsonl and exits 1.
"""

import json
import pathlib
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def main(run: pathlib.Path, out: pathlib.Path) -> None:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["kind"] == "step"]
    evals = [event for event in events if event["kind"] == "eval"]

    accumulator = EventAccumulator(str(out / "tensorboard" / run.name), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    tables = {"train/loss": (steps, "loss"), "train/grad_norm": (steps, "grad_norm"), "train/learning_rate": (steps, "lr"),
              "train/tokens_per_second": (steps, "tokens_per_second"), "eval/loss": (evals, "loss")}
    for tag, (rows, key) in tables.items():
        read = [(value.step, value.value, value.wall_time) for value in accumulator.Scalars(tag)]
        logged = [(row["step"], float(np.float32(row[key])), row["t"]) for row in rows]
        assert read == logged, f"{tag}: {read[:2]} … {logged[:2]} …"
    texts = [tag for tag in accumulator.Tags()["tensors"] if tag.startswith("samples/")]
    samples = [event for event in events if event["kind"] == "sample"]
    tensors = sum(len(accumulator.Tensors(tag)) for tag in texts)
    assert tensors == len(samples), f"{tensors} texts, {len(samples)} samples"

    families = {family.name: family for family in text_string_to_metric_families((out / "metrics.txt").read_text())}
    value = lambda name: families[name].samples[0].value
    expected = {"tonfall_step": steps[-1]["step"], "tonfall_loss": steps[-1]["loss"], "tonfall_eval_loss": evals[-1]["loss"],
                "tonfall_best_eval_loss": min(row["loss"] for row in evals), "tonfall_tokens": sum(row["tokens"] for row in steps)}
    for name, logged in expected.items():
        assert value(name) == logged, f"{name}: {value(name)}, logged {logged}"
    assert families["tonfall_loss"].samples[0].labels["run"] == run.name

    assert ElementTree.parse(out / "loss.svg").getroot().tag.endswith("svg")
    with Image.open(out / "loss.png") as picture:
        colours = len(picture.convert("RGB").getcolors(1 << 24))
    assert colours > 10, f"a picture of {colours} colours"
    print(f"TensorBoard: {sum(len(rows) for rows, _ in tables.values())} scalars and {tensors} texts as logged; "
          f"Prometheus: {len(families)} metrics, {len(expected)} compared; pictures: svg, png {picture.size}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
