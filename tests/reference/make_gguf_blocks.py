"""Blocks of every GGUF type that tonfall reads, and their values, dequantized by the `gguf` package.

Usage: make_gguf_blocks.py OUT [MODEL.gguf]. Writes OUT/<type>.safetensors with `<case>.bytes` (u8, [rows, bytes per row], as in a
file) and `<case>.values` (f32, [rows, columns]). Cases:
  random   random bytes with realistic scales (1e-4 to 1e-1, both signs)
  extreme  scales that are zero, subnormal or the largest f16, with codes that are all low, all high, or random
  rounded  a normally distributed matrix, quantized by the package; absent if the package can't quantize to the type
  real     rows of MODEL's tensors of this type; absent if there are none
A reader that computes in f32 without fused operations gives bit-identical values.
"""

import pathlib
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

# Byte offsets of a block's f16 scales. The other bytes of a block can have any value.
SCALES = {
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "Q5_0": [0], "Q5_1": [0, 2],
}
DENSE = ["F16", "BF16"]
# New types go last: the random numbers of those before stay the same.
ORDER = ["Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K", "F16", "BF16", "Q5_0", "Q5_1"]
EXTREME = [0.0, -0.0, 2.0**-24, -(2.0**-24), 2.0**-14 - 2.0**-24, 2.0**-14, 1.0, -1.0, 65504.0, -65504.0]

generator = np.random.default_rng(17)


def with_scales(blocks, offsets, scales):
    """Writes `scales` (f16, [blocks, offsets]) to `blocks` (u8, [blocks, bytes per block])."""
    for index, offset in enumerate(offsets):
        blocks[:, offset:offset + 2] = scales[:, index:index + 1].astype("<f2").view(np.uint8)
    return blocks


def random_blocks(offsets, size, rows=3, blocks_in_row=3):
    count = rows * blocks_in_row
    blocks = generator.integers(0, 256, (count, size), dtype=np.uint8)
    scales = 10 ** generator.uniform(-4, -1, (count, len(offsets))) * generator.choice([-1, 1], (count, len(offsets)))
    return with_scales(blocks, offsets, scales).reshape(rows, -1)


def extreme_blocks(offsets, size):
    """One row per scale of EXTREME, with three fillings per row. A second scale takes EXTREME in reverse order."""
    fillings = [np.zeros(size, np.uint8), np.full(size, 255, np.uint8), generator.integers(0, 256, size, dtype=np.uint8)]
    blocks = np.tile(np.stack(fillings), (len(EXTREME), 1))
    scales = np.repeat(np.stack([EXTREME, EXTREME[::-1]], axis=1)[:, :len(offsets)], len(fillings), axis=0)
    return with_scales(blocks, offsets, scales).reshape(len(EXTREME), -1)


def dense_patterns(name):
    """Every seventh 16-bit pattern that is a finite number, in two rows; and all infinities and zeros."""
    patterns = np.arange(0, 1 << 16, 7, dtype=np.uint16)
    exponent = 0x7C00 if name == "F16" else 0x7F80
    finite = patterns[(patterns & exponent) != exponent]
    special = np.array([0, 0x8000, exponent, 0x8000 | exponent], np.uint16)
    row = finite[:len(finite) // 2 * 2].reshape(2, -1)
    return {"random": row.view(np.uint8), "extreme": special[None].view(np.uint8)}


def real_rows(path):
    """For each type in the file, four rows from the middle of one tensor."""
    found = {}
    for tensor in GGUFReader(path).tensors:
        if tensor.tensor_type.name not in found and len(tensor.shape) == 2:
            middle = len(tensor.data) // 2
            found[tensor.tensor_type.name] = np.array(tensor.data[middle:middle + 4]).view(np.uint8)
    return found


def cases(name, real):
    kind = GGMLQuantizationType[name]
    elements, size = GGML_QUANT_SIZES[kind]
    if name in DENSE:
        made = dense_patterns(name)
    else:
        made = {"random": random_blocks(SCALES[name], size), "extreme": extreme_blocks(SCALES[name], size)}
    try:
        matrix = generator.normal(0, 0.05, (2, 3 * max(elements, 32))).astype(np.float32)
        made["rounded"] = quantize(matrix, kind).view(np.uint8)
    except NotImplementedError:
        pass
    if name in real:
        made["real"] = real[name]
    return {case: (rows, dequantize(rows, kind).astype(np.float32)) for case, rows in made.items()}


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    real = real_rows(sys.argv[2]) if len(sys.argv) > 2 else {}
    for name in ORDER:
        tensors = {}
        for case, (rows, values) in cases(name, real).items():
            assert not np.isnan(values).any(), (name, case)
            tensors |= {f"{case}.bytes": np.ascontiguousarray(rows), f"{case}.values": np.ascontiguousarray(values)}
            print(name, case, rows.shape, values.shape)
        save_file(tensors, out / f"{name}.safetensors")


if __name__ == "__main__":
    main()
