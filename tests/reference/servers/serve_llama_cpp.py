"""Serves a GGUF model with the newest llama.cpp (xllamacpp) until it is stopped. Its API is that of llama-server.

Usage: serve_llama_cpp.py PORT MODEL [ADAPTER ...] [--context 2048] [--slots 1] [--threads N]. Every adapter has scale 1 at first.
"""

import argparse
import os
import signal
import threading

import xllamacpp


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("model")
    parser.add_argument("adapters", nargs="*")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path, params.port = options.model, options.port
    params.n_ctx, params.n_parallel, params.n_gpu_layers = options.context, options.slots, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0) for adapter in options.adapters]
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    stopped.wait()
    del server


if __name__ == "__main__":
    main()
