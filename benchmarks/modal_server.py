"""app.py in the local Modal control plane, as a peer: gateway container, Modal call, one worker container.

Everything is on loopback and on the same cores, so what it adds to `ours` is the price of the seam: Modal's
client and container runtime, the control plane's queues, and two more processes.
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from compat_tests.deployment import deployed
from compat_tests.modal_emulator.control_plane import Ports


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", required=True)
    parser.add_argument("--context", required=True, help="tokens for each sequence")
    args = parser.parse_args()
    settings = {"LLM_THREADS": args.threads, "LLM_CTX": args.context, "MAX_CONTAINERS": "1"}
    with deployed(args.model, Ports(web=args.port), **settings):
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
