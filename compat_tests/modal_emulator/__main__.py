"""Run the emulator by hand: `python -m compat_tests.modal_emulator`, then deploy into it."""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from pathlib import Path

from compat_tests.modal_emulator.control_plane import Ports
from compat_tests.modal_emulator.emulator import ModalEmulator


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m compat_tests.modal_emulator", description=__doc__)
    parser.add_argument("--port", type=int, default=9090, help="of the control plane (0: any)")
    parser.add_argument("--web-port", type=int, default=8100, help="of the first web function (0: any)")
    parser.add_argument("--root", type=Path, help="keep volumes and logs here (default: nowhere)")
    parser.add_argument(
        "--secret", action="append", default=[], metavar="NAME:KEY=VALUE", help="create a secret; repeatable"
    )
    parser.add_argument("--verbose", action="store_true", help="log every RPC")
    return parser.parse_args()


def create_secrets(emulator: ModalEmulator, specifications: list[str]) -> None:
    secrets: dict[str, dict[str, str]] = {}
    for specification in specifications:
        name, _, assignment = specification.partition(":")
        key, _, value = assignment.partition("=")
        secrets.setdefault(name, {})[key] = value
    for name, values in secrets.items():
        emulator.secret(name, values)


def print_instructions(emulator: ModalEmulator) -> None:
    print("Point modal at the emulator:\n")
    for name, value in emulator.env.items():
        print(f"  export {name}={value}")
    print("\nthen, for example:\n")
    print("  modal secret create NAME KEY=VALUE")
    print("  modal volume put VOLUME FILE")
    print("  modal deploy app.py        # prints the URL of each web function\n")
    print(f"Volumes are directories under {emulator.volume_path('').resolve()}")
    print(f"Containers print here and into {emulator.log_path}\nCtrl-C ends it.\n", flush=True)


def main() -> None:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("uvicorn", "h2", "hpack", "grpclib", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    logging.getLogger("modal_emulator").setLevel(logging.DEBUG if arguments.verbose else logging.INFO)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    ports = Ports(grpc=arguments.port, web=arguments.web_port)
    with ModalEmulator(arguments.root, ports, echo=lambda line: print(line, flush=True)) as emulator:
        create_secrets(emulator, arguments.secret)
        print_instructions(emulator)
        stopped.wait()
        print("Stopping containers", flush=True)


if __name__ == "__main__":
    main()
