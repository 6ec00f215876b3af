"""Compares tonfall's quantizers with llama.cpp's: equal bytes, weighted errors, and MB/s of f32 values on one core.

Usage: compare_quantizers.py QUANTIZE LIBGGML_BASE MODEL.gguf…, with the example `quantize` of tonfall-blocks and the library of a
build of llama.cpp. Needs numpy and gguf. Fails if bytes of Q8_0, Q4_0, Q4_1, Q5_0 or Q5_1 without importance differ, or if the
(weighted) error of a K type is more than 1 % above llama.cpp's.

Values: normal, Laplace and t distributed matrices, and all matrices of the models, dequantized (at most ROWS rows each; 64). A matrix
is not quantized to the type that it has in the model: both programs then find the stored numbers, or nearly.
"""

import ctypes
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

EQUAL = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
SEARCHED = ["Q4_K", "Q5_K", "Q6_K"]
ROWS = int(os.environ.get("ROWS", 64))


def load(path):
    library = ctypes.CDLL(str(pathlib.Path(path).resolve()))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + 3 * [ctypes.c_int64] + [ctypes.c_void_p]
    return library


def llama_quantize(library, name, values, importance):
    """Blocks (u8, [rows, bytes per row]) of `values` (f32, [rows, columns]); `importance` is f32, [columns], or None."""
    kind = GGMLQuantizationType[name]
    elements, size = GGML_QUANT_SIZES[kind]
    rows, columns = values.shape
    out = np.zeros((rows, columns // elements * size), np.uint8)
    weights = None if importance is None else importance.ctypes.data
    library.ggml_quantize_chunk(kind.value, values.ctypes.data, out.ctypes.data, 0, rows, columns, weights)
    return out


def our_quantize(program, name, values, importance):
    """The same with our program, and its MB/s."""
    with tempfile.NamedTemporaryFile() as file:
        arguments = [program, name, str(values.shape[1])]
        if importance is not None:
            file.write(importance.tobytes())
            file.flush()
            arguments.append(file.name)
        done = subprocess.run(arguments, input=values.tobytes(), capture_output=True, check=True)
    speed = float(done.stderr.split()[0])
    return np.frombuffer(done.stdout, np.uint8).reshape(values.shape[0], -1), speed


def matrices(models):
    generator = np.random.default_rng(3)
    shape = (ROWS, 2048)
    yield "normal", None, generator.normal(0, 0.02, shape)
    yield "laplace", None, generator.laplace(0, 0.02, shape)
    yield "t(4)", None, generator.standard_t(4, shape) * 0.02
    for model in models:
        for tensor in GGUFReader(model).tensors:
            if len(tensor.shape) == 2:
                middle = max(0, (len(tensor.data) - ROWS) // 2)
                yield tensor.name, tensor.tensor_type.name, dequantize(tensor.data[middle:middle + ROWS], tensor.tensor_type)


def error(name, blocks, values, weights):
    back = dequantize(blocks, GGMLQuantizationType[name]).astype(np.float64)
    return float((weights * (back - values) ** 2).sum())


def main():
    program, library, *models = sys.argv[1:]
    library = load(library)
    generator = np.random.default_rng(5)
    equal = dict.fromkeys(EQUAL, 0)
    ratios, speeds, failures = {}, {}, []
    for case, stored, values in matrices(models):
        values = np.ascontiguousarray(values, np.float32)
        importance = np.exp(generator.normal(0, 1.5, values.shape[1])).astype(np.float32)
        for name in EQUAL + SEARCHED:
            searched = name in SEARCHED
            if values.shape[1] % GGML_QUANT_SIZES[GGMLQuantizationType[name]][0] or (searched and name == stored):
                continue
            for weights in [None, importance] if searched else [None]:
                start = time.thread_time()
                theirs = llama_quantize(library, name, values, weights)
                their_speed = values.nbytes / (time.thread_time() - start) / 1e6
                ours, speed = our_quantize(program, name, values, weights)
                key = (name, "importance" if weights is not None else "plain")
                speeds.setdefault(key, []).append((speed, their_speed))
                if not searched:
                    equal[name] += int((ours == theirs).all())
                    failures += [] if (ours == theirs).all() else [f"{case} {name}: bytes differ"]
                    continue
                scale = 1.0 if weights is None else weights.astype(np.float64)
                ratio = error(name, ours, values, scale) / max(error(name, theirs, values, scale), 1e-30)
                ratios.setdefault(key, []).append(ratio)
                failures += [f"{case} ({stored}) {name} {key[1]}: error ratio {ratio:.4f}"] if ratio > 1.01 else []
    for name, count in equal.items():
        print(f"{name}: {count} of {len(speeds[name, 'plain'])} matrices have equal bytes")
    for key, found in ratios.items():
        mean = np.exp(np.mean(np.log(found)))
        print(f"{key[0]} {key[1]}: error ours / llama.cpp {mean:.4f} (geometric mean), {max(found):.4f} (largest) of {len(found)}")
    for key, found in speeds.items():
        ours, theirs = np.median(found, axis=0)
        print(f"{key[0]} {key[1]}: {ours:.0f} MB/s, llama.cpp {theirs:.0f} MB/s (medians)")
    sys.exit("\n".join(failures) if failures else None)


if __name__ == "__main__":
    main()
