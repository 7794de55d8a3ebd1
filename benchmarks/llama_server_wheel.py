"""Runs llama.cpp's own server as the PyPI wheel `xllamacpp` embeds it. Started in that peer's environment.

The options are those of llama-server that benchmarks/llama_server.py uses.
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--ctx-size", type=int, required=True, help="tokens for all slots together")
    parser.add_argument("--parallel", type=int, required=True, help="slots")
    parser.add_argument("--kv-unified", action=argparse.BooleanOptionalAction)
    parser.add_argument("--chat-template-file", type=Path)
    args = parser.parse_args()

    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.port = args.port
    params.n_parallel = args.parallel
    params.kv_unified = args.kv_unified
    params.n_ctx = args.ctx_size
    if args.chat_template_file:
        params.chat_template = args.chat_template_file.read_text()
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    params.verbosity = 2  # warnings only: a log line for every request would cost it time
    server = xllamacpp.Server(params)
    print(f"listening on {server.listening_address}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
