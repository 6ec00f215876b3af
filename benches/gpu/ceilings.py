"""Peak rates of the device: GEMM of random matrices with PyTorch (cuBLASLt), and a copy. Prints one JSON object per line.

Usage: ceilings.py [--device cuda] MxKxN...
"""

import argparse
import json
import statistics
import time

import torch


def seconds(work, wait, rounds=5, repeats=10):
    """Median seconds of one call over the rounds, after one warm-up round."""
    taken = []
    for _ in range(rounds + 1):
        wait()
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        wait()
        taken.append((time.perf_counter() - started) / repeats)
    return statistics.median(taken[1:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="+")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--copy-mib", type=int, default=2048)
    arguments = parser.parse_args()
    cuda = arguments.device == "cuda"
    wait = torch.cuda.synchronize if cuda else lambda: None
    options = {"device": arguments.device, "dtype": torch.bfloat16 if cuda else torch.float32}
    for size in arguments.sizes:
        m, k, n = map(int, size.split("x"))
        left, right = torch.randn(m, k, **options), torch.randn(n, k, **options)
        taken = seconds(lambda: left @ right.T, wait)
        print(json.dumps({"size": size, "seconds": taken, "flops": 2 * m * k * n / taken}), flush=True)
    source = torch.randn(arguments.copy_mib << 18, device=arguments.device)
    target = torch.empty_like(source)
    taken = seconds(lambda: target.copy_(source), wait)
    print(json.dumps({"copy_mib": arguments.copy_mib, "seconds": taken, "bytes_per_second": 2 * (arguments.copy_mib << 20) / taken}), flush=True)


if __name__ == "__main__":
    main()
