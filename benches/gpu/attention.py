"""tonfall's attention kernels: errors relative to PyTorch in f32, and times compared with PyTorch's fused attention.

Usage: attention.py [--generation hopper|ampere …] [--only-check | --only-time]
Needs a CUDA GPU, nvcc, torch and cupy. Errors are ‖ours − exact‖ / ‖exact‖, printed with those of PyTorch in bf16. Times are medians
of 20 launches, measured with CUDA events. FLOPs count the matrix products of each kernel over the visible keys.
"""

import argparse
import concurrent.futures
import pathlib
import statistics
import subprocess
import tempfile

import cupy
import numpy
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

HERE = pathlib.Path(__file__).resolve().parent
# The folder in the packed suite, or in the repository.
SOURCES = HERE / "attention" if (HERE / "attention").exists() else HERE.parents[1] / "trainer/kernels/src/cube/cuda/attention"
ROWS = 128
# Threads per block, rows in shared memory per kernel, alignment in bytes: as in cuda/attention.rs.
GENERATIONS = {"ampere": (256, [256, 128, 384], 0), "hopper": (384, [896, 768, 768], 1024)}
KERNELS = ["attention_forward", "attention_backward_queries", "attention_backward_keys"]
# Sequence lengths, query heads, key heads, head dimension, window (0: none), soft cap of the scores (0: none).
CHECKED = [([4096], 32, 8, 128, 0, 0), ([1000, 37, 1, 2500, 559], 8, 2, 128, 0, 0), ([129, 3, 700], 4, 4, 64, 0, 0),
           ([1500, 300], 6, 2, 64, 256, 0), ([1500, 300], 6, 2, 128, 100, 0), ([5], 2, 1, 128, 0, 0), ([1500, 300], 6, 2, 64, 0, 2),
           ([1500, 300], 6, 2, 128, 100, 2)]
TIMED = [([4096], 32, 8, 128, 0, 0), ([4096], 32, 8, 64, 0, 0), ([1024] * 4, 32, 8, 128, 0, 0), ([4096], 32, 8, 128, 0, 50)]


class Kernels:
    def __init__(self, generation):
        self.generation, self.built, self.loaded = generation, {}, {}
        self.threads, self.held, self.alignment = GENERATIONS[generation]

    def build(self, head_dim, capped):
        major, minor = torch.cuda.get_device_capability()
        name = f"{major}{minor}{'a' if self.generation == 'hopper' else ''}"
        folder = pathlib.Path(tempfile.mkdtemp())
        source = folder / "attention.cu"
        source.write_text("".join((SOURCES / f"{part}.cu").read_text() for part in ("prelude", self.generation)))
        built = self.built[head_dim, capped] = folder / "attention.cubin"
        subprocess.run(["nvcc", f"-gencode=arch=compute_{name},code=sm_{name}", "-cubin", "-o", built, source, f"-DHEAD_DIM={head_dim}",
                        f"-DSOFT_CAP={int(capped)}"], check=True)

    def load(self, head_dim, capped):
        key = head_dim, capped
        if key not in self.loaded:
            module = cupy.RawModule(path=str(self.built[key]))
            self.loaded[key] = (module, [module.get_function(kernel) for kernel in KERNELS])
        return self.loaded[key][1]

    def launch(self, which, case, tensors):
        head_dim, kernel = case.head_dim, self.load(case.head_dim, case.cap > 0)[which]
        shared = self.held[which] * head_dim * 2 + self.alignment
        kernel.max_dynamic_shared_size_bytes = shared
        heads = case.kv_heads if which == 2 else case.heads
        sizes = [numpy.uint32(size) for size in (case.tokens, case.tokens, case.heads, case.kv_heads)]
        arguments = [numpy.uint64(tensor.data_ptr()) for tensor in tensors] + sizes + [numpy.float32(number) for number in (case.scale, case.inverse_cap)]
        kernel((heads, -(-case.tokens // ROWS), 1), (self.threads, 1, 1), tuple(arguments), shared_mem=shared)


class Case:
    def __init__(self, documents, heads, kv_heads, head_dim, window, cap):
        self.documents, self.heads, self.kv_heads, self.head_dim, self.tokens = documents, heads, kv_heads, head_dim, sum(documents)
        self.scale, self.cap = head_dim**-0.5, cap
        self.inverse_cap = self.scale / cap if cap else 1.0
        normal = lambda width: torch.randn(self.tokens, width * head_dim, device="cuda").bfloat16()
        self.q, self.k, self.v, self.gradient = normal(heads), normal(kv_heads), normal(kv_heads), normal(heads)
        starts, ends, first = [], [], 0
        for length in documents:
            for i in range(length):
                starts.append(first + max(0, i + 1 - window) if window else first)
                ends.append(first + i + 1)
            first += length
        self.pairs = sum(end - start for start, end in zip(starts, ends)) * heads
        self.starts, self.ends = (torch.tensor(bounds, dtype=torch.int32, device="cuda") for bounds in (starts, ends))

    def outputs(self):
        poison = lambda like: torch.full_like(like, float("nan"))
        lse = torch.full((self.tokens, self.heads), float("nan"), device="cuda")
        return poison(self.q), lse, poison(self.q), poison(self.k), poison(self.v)

    def ours(self, kernels):
        out, lse, dq, dk, dv = self.outputs()
        forward = [self.q, self.k, self.v, self.starts, self.ends, out, lse]
        kernels.launch(0, self, forward)
        delta = (self.gradient.float() * out.float()).view(self.tokens, self.heads, -1).sum(-1).contiguous()
        read = [self.gradient, self.q, self.k, self.v, self.starts, self.ends, lse, delta]
        kernels.launch(1, self, [*read, dq])
        kernels.launch(2, self, [*read, dk, dv])
        return {"out": out, "dq": dq, "dk": dk, "dv": dv}, [forward, [*read, dq], [*read, dk, dv]]

    def by_head(self, x, heads):
        return x.view(1, self.tokens, heads, self.head_dim).transpose(1, 2)

    def pytorch(self, dtype):
        """Output and gradients with plain matrix products."""
        q, k, v = (x.to(dtype).requires_grad_() for x in (self.q, self.k, self.v))
        at = torch.arange(self.tokens, device="cuda")
        seen = (at >= self.starts[:, None]) & (at < self.ends[:, None])
        spread = lambda x: self.by_head(x, self.kv_heads).repeat_interleave(self.heads // self.kv_heads, 1)
        scores = (self.by_head(q, self.heads) @ spread(k).transpose(-1, -2)).float() * self.scale
        scores = self.cap * (scores / self.cap).tanh() if self.cap else scores
        probabilities = scores.masked_fill(~seen, float("-inf")).softmax(-1).to(dtype)
        out = (probabilities @ spread(v)).transpose(1, 2).reshape(self.tokens, -1)
        return dict(zip(("out", "dq", "dk", "dv"), (out.detach(), *torch.autograd.grad(out, (q, k, v), self.gradient.to(dtype)))))


def error(value, exact):
    return ((value.float() - exact.float()).norm() / exact.float().norm()).item()


def median_ms(work):
    times = []
    for _ in range(24):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times[4:])


def time_pytorch(case, backend):
    q, k, v = (case.by_head(x, heads).detach().requires_grad_() for x, heads in ((case.q, case.heads), (case.k, case.kv_heads), (case.v, case.kv_heads)))
    with sdpa_kernel(backend):
        run = lambda: scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        out = run()
        gradient = case.by_head(case.gradient, case.heads)
        return median_ms(run), median_ms(lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generation", nargs="+", choices=list(GENERATIONS), default=["ampere", "hopper"])
    parser.add_argument("--only-check", action="store_true")
    parser.add_argument("--only-time", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(7)
    torch.backends.cuda.matmul.allow_tf32 = False
    made = {name: Kernels(name) for name in arguments.generation}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        wanted = [(kernels, head_dim, capped) for kernels in made.values() for head_dim in (64, 128) for capped in (False, True)]
        list(pool.map(lambda build: build[0].build(*build[1:]), wanted))
    for shape in CHECKED if not arguments.only_time else []:
        case = Case(*shape)
        exact, plain = case.pytorch(torch.float32), case.pytorch(torch.bfloat16)
        print(f"{shape}")
        for name, side in [("PyTorch, bf16", plain), *((name, case.ours(kernels)[0]) for name, kernels in made.items())]:
            print(f"  {name:14}" + "".join(f" {what} {error(side[what], exact[what]):.2e}" for what in exact))
        again = [case.ours(kernels)[0] for kernels in made.values() for _ in range(2)]
        print("  bit-identical in two runs: " + ", ".join(str(all(torch.equal(one[what], two[what]) for what in one)) for one, two in zip(again[::2], again[1::2])))
        del exact, plain, again
    if arguments.only_check:
        return
    for shape in TIMED:
        case = Case(*shape)
        print(f"{shape}")
        for name, kernels in made.items():
            lists = case.ours(kernels)[1]
            times = [median_ms(lambda which=which: kernels.launch(which, case, lists[which])) for which in range(3)]
            rates = [2 * products * case.pairs * case.head_dim / ms / 1e9 for products, ms in zip((2, 3, 4), times)]
            print(f"  {name:14} forward {times[0]:.3f} ms, backward {times[1] + times[2]:.3f} ms (queries {times[1]:.3f}, keys {times[2]:.3f}); "
                  f"TFLOP/s {rates[0]:.0f}, {rates[1]:.0f}, {rates[2]:.0f}")
        if len(shape[0]) > 1 or case.cap:  # PyTorch's fused attention has no soft cap
            continue
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
            try:
                forward, backward = time_pytorch(case, backend)
                print(f"  {backend.name:14} forward {forward:.3f} ms, backward {backward:.3f} ms")
            except RuntimeError as why:
                print(f"  {backend.name}: {str(why)[:200]}")


if __name__ == "__main__":
    main()
