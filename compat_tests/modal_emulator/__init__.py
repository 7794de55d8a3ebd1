"""A local Modal control plane for tests: what moto is to AWS.

The real `modal` client deploys into it and the real `modal._container_entrypoint` runs in it, as local
processes on loopback. `README.md` says what is emulated and what is not.
"""

from __future__ import annotations

from compat_tests.modal_emulator.emulator import ContainerInfo, ModalEmulator
from compat_tests.modal_emulator.rpc import CLIENT_VERSION, UnsupportedClientError

__all__ = ["CLIENT_VERSION", "ContainerInfo", "ModalEmulator", "UnsupportedClientError"]
