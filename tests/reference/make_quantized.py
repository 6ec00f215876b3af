"""Values, and their blocks as the `gguf` package and llama.cpp quantize them.

Usage: make_quantized.py OUT LIBGGML_BASE MODEL.gguf, e.g. `tests/fixtures/quantized.safetensors`, `libggml-base.so` of a build
of llama.cpp, and SmolLM2-135M-Instruct (Q4_1). Needs numpy, gguf and safetensors. Writes:
  <case>.values              f32, [rows, columns]
  <case>.<type>              u8, [rows, bytes per row]: the package's bytes of Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1
  <case>.<type>.llama        u8: llama.cpp's bytes of Q4_K, Q5_K and Q6_K
  <case>.<type>.importance   u8: the same with the importance
  importance                 f32, [columns]
Cases: `normal`, `laplace`; `real`, rows of the model's token embeddings (Q8_0); and `edges`, for the types of 32 values only:
ties, zeros, equal values, equal magnitudes of both signs, and scales that are subnormal f16 numbers.
"""

import sys

import numpy as np
from compare_quantizers import llama_quantize, load
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

COLUMNS = 512
OF_32 = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
OF_256 = ["Q4_K", "Q5_K", "Q6_K"]

generator = np.random.default_rng(21)


def edges():
    ramp = np.arange(32, dtype=np.float32)
    blocks = [
        np.append(ramp[:31] - 15.5, 127),  # Q8_0: scale 1, all ties
        np.append(ramp[:31] / 2 - 7.5, -8),  # Q4_0: scale 1
        np.append(ramp[:31] / 2, 15),  # Q4_1: scale 1
        np.append(ramp[:31] / 2 - 7.5, -16),  # Q5_0: scale 1
        np.append(ramp[:31] / 2, 31),  # Q5_1: scale 1
        np.zeros(32),
        np.full(32, 0.3),
        np.full(32, -0.3),
        np.where(ramp % 2 == 0, 1, -1) * 0.7,
        np.where(ramp % 2 == 0, -1, 1) * 0.7,
        np.where(ramp == 9, 5.0, 0),
        generator.normal(0, 1e-5, 32),
        generator.normal(0, 1e-7, 32),
        generator.normal(0, 1e-12, 32),
        generator.normal(0, 1e4, 32),
        generator.normal(5, 1e-3, 32),
    ]
    return np.stack(blocks).astype(np.float32).reshape(1, -1)


def embeddings(path):
    tensor = next(tensor for tensor in GGUFReader(path).tensors if tensor.name == "token_embd.weight")
    return dequantize(tensor.data[20000:20008], tensor.tensor_type)[:, :COLUMNS]


def main():
    out, library, model = sys.argv[1:]
    library = load(library)
    importance = np.exp(generator.normal(0, 1.5, COLUMNS)).astype(np.float32)
    cases = {
        "normal": generator.normal(0, 0.02, (8, COLUMNS)),
        "laplace": generator.laplace(0, 0.02, (8, COLUMNS)),
        "real": embeddings(model),
        "edges": edges(),
    }
    tensors = {"importance": importance}
    for case, values in cases.items():
        values = np.ascontiguousarray(values, np.float32)
        tensors[f"{case}.values"] = values
        for name in OF_32:
            tensors[f"{case}.{name}"] = quantize(values, GGMLQuantizationType[name])
        for name in OF_256 if case != "edges" else []:
            tensors[f"{case}.{name}.llama"] = llama_quantize(library, name, values, None)
            tensors[f"{case}.{name}.importance"] = llama_quantize(library, name, values, importance)
    save_file(tensors, out)
    for name, tensor in tensors.items():
        print(name, tensor.dtype, tensor.shape)


if __name__ == "__main__":
    main()
