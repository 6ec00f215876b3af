"""Plots the loss curves of `run losses`: tonfall's and PEFT's, and their relative difference.

Usage: plot_losses.py RESULTS.json OUT.svg. Standard library only.
"""

import argparse
import json
import math
import pathlib

WIDTH, TOP, BELOW, LEFT, GAP = 720, 220, 130, 70, 40
COLOURS = {"nf4": "#0072b2", "dense": "#d55e00"}
FLOOR = 1e-9  # the value at which bit-identical losses are drawn


def path(values, top, height, low, high, style):
    step = (WIDTH - LEFT - 20) / max(len(values) - 1, 1)
    points = " ".join(f"{LEFT + i * step:.1f},{top + height * (high - value) / (high - low):.1f}" for i, value in enumerate(values))
    return f'<polyline points="{points}" fill="none" {style}/>'


def axis(top, height, ticks, low, high):
    for value, label in ticks:
        y = top + height * (high - value) / (high - low)
        yield f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    arguments = parser.parse_args()
    figures = json.loads(arguments.results.read_text())["losses"]["figures"]
    curves = {base: figure["steps"] for base, figure in figures.items()}
    highest = math.ceil(max(step["reference"] for steps in curves.values() for step in steps))
    count = max(map(len, curves.values()))
    below = 30 + TOP + GAP
    height = below + BELOW + 40

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
             f'<text x="{LEFT}" y="18">loss per step: PEFT (wide, pale) and tonfall (thin)</text>',
             *axis(30, TOP, [(value, value) for value in range(0, highest + 1, 5)], 0, highest),
             f'<text x="{LEFT}" y="{below - 10}">relative difference</text>',
             *axis(below, BELOW, [(power, f"1e{power}") for power in range(-8, -1, 2)], -9, -2)]
    for place, (base, steps) in enumerate(curves.items()):
        colour, thin = COLOURS[base], f'stroke="{COLOURS[base]}" stroke-width="1"'
        apart = [math.log10(max(abs(step["loss"] - step["reference"]) / step["reference"], FLOOR)) for step in steps]
        parts += [path([step["reference"] for step in steps], 30, TOP, 0, highest, f'stroke="{colour}" stroke-opacity="0.3" stroke-width="5"'),
                  path([step["loss"] for step in steps], 30, TOP, 0, highest, thin),
                  path(apart, below, BELOW, -9, -2, thin),
                  f'<text x="{WIDTH - 20}" y="{50 + 18 * place}" text-anchor="end" fill="{colour}">{base} base</text>']
    parts += [f'<text x="{WIDTH - 20}" y="{height - 12}" text-anchor="end">{count} steps</text>', "</svg>"]
    arguments.out.write_text("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
