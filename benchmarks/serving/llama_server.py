#!/usr/bin/env python3
# Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Starts llama.cpp's own server, to be loaded beside ours.

    python llama_server.py MODEL.gguf [--port 8001] [--threads 2]

PyPI's xllamacpp holds llama.cpp's server as a library; models of random
weights come from `benchmarks/model/peers/make_gguf.py`. Each of the 8 slots
has the whole context, as our sequences have. Runs until it is ended; prints
the processor's features that the library was built for.
"""

from __future__ import annotations

import argparse
import signal

import xllamacpp


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--context", type=int, default=1024)
    arguments = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.n_parallel = arguments.slots
    params.n_ctx = arguments.slots * arguments.context
    params.cont_batching = True
    params.cpuparams.n_threads = arguments.threads
    params.cpuparams_batch.n_threads = arguments.threads
    params.n_gpu_layers = 0
    params.port = arguments.port
    params.warmup = True
    server = xllamacpp.Server(params)
    print("listening on", server.listening_address, flush=True)
    print(xllamacpp.get_system_info(), flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
