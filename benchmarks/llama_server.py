"""Runs llama.cpp's own server as the PyPI wheel `xllamacpp` embeds it. Started in that peer's environment.

The wheel is a prebuilt AVX2 baseline: on a CPU with AVX-512 a native build of the same server is faster.
"""

from __future__ import annotations

import argparse
import signal

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True, help="tokens for each sequence")
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--kv-unified", action="store_true")
    args = parser.parse_args()

    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.port = args.port
    params.n_parallel = args.slots
    params.kv_unified = args.kv_unified
    params.n_ctx = args.context * args.slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    params.verbosity = 2  # warnings only: a log line for every request would cost it time
    server = xllamacpp.Server(params)
    print(f"listening on {server.listening_address}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
