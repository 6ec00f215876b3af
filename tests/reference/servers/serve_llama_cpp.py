"""Serves a GGUF model with the newest llama.cpp (xllamacpp) until it is stopped.

Usage: serve_llama_cpp.py PORT MODEL [ADAPTER ...]. Its API is that of llama-server.
"""

import os
import signal
import sys
import threading

import xllamacpp


def main():
    port, model, *adapters = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx, params.n_parallel, params.port = 2048, 1, int(port)
    params.n_gpu_layers, params.cpuparams.n_threads = 0, os.cpu_count()
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0) for adapter in adapters]
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    stopped.wait()
    del server


if __name__ == "__main__":
    main()
